/* mmds.c: the metadata service's document and session tokens; see mmds.h. */
#include "api/mmds.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api/mmds_impl.h"
#include "vmm/base/json.h"
#include "vmm/clock.h"

#define COMPACT (JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)

void mmds_init(struct mmds *m, u64 limit)
{
	*m = (struct mmds){.service.serve = mmds_serve, .limit = limit};
	pthread_mutex_init(&m->lock, NULL);
	m->tokens = xzalloc(MMDS_MAX_TOKENS * sizeof(*m->tokens));
}

void mmds_fini(struct mmds *m)
{
	if (!m->tokens)
		return;
	json_object_put(m->store);
	free(m->tokens);
	pthread_mutex_destroy(&m->lock);
	*m = (struct mmds){0};
}

/* ---- the document ---- */

static int copy_of(struct json_object *value, struct json_object **out, struct err *e)
{
	*out = NULL;
	if (json_object_deep_copy(value, out, NULL) < 0)
		return err_set(e, -ENOMEM, "the metadata cannot be copied: out of memory");
	return 0;
}

/* Takes value over: it becomes the document, or is freed. */
static int install(struct mmds *m, struct json_object *value, struct err *e)
{
	size_t len = 0;

	if (!json_object_to_json_string_length(value, COMPACT, &len) || len > m->limit) {
		json_object_put(value);
		return err_set(e, -EFBIG, "The MMDS patch request doesn't fit: %zu bytes with it, at most %llu (--mmds-size-limit)", len,
			       (unsigned long long)m->limit);
	}
	json_object_put(m->store);
	m->store = value;
	m->in_use = true;
	return 0;
}

static int check_object(struct json_object *value, struct err *e)
{
	if (!json_object_is_type(value, json_type_object))
		return err_set(e, -EINVAL, "The MMDS data store takes a JSON object.");
	return 0;
}

/* RFC 7396 §2. As deep as JSON_MAX_DEPTH lets a document be. target and patch are objects. */
static int merge(struct json_object *target, struct json_object *patch, struct err *e)
{
	json_object_object_foreach(patch, key, value)
	{
		struct json_object *old = json_object_object_get(target, key), *copy = NULL;
		int r;

		if (!value) {
			json_object_object_del(target, key);
			continue;
		}
		if (!json_object_is_type(value, json_type_object)) {
			r = copy_of(value, &copy, e);
			if (r < 0)
				return r;
			json_object_object_add(target, key, copy);
			continue;
		}
		if (!json_object_is_type(old, json_type_object)) {
			old = json_object_new_object();
			json_object_object_add(target, key, old);
		}
		r = merge(old, value, e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int not_initialized(struct err *e)
{
	return err_set(e, -ENOENT, "The MMDS data store is not initialized.");
}

int mmds_put(struct mmds *m, struct json_object *value, struct err *e)
{
	struct json_object *copy;
	int r = check_object(value, e);

	if (r == 0)
		r = copy_of(value, &copy, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	if (m->started && !m->in_use) {
		json_object_put(copy);
		r = not_initialized(e);
	} else {
		r = install(m, copy, e);
	}
	pthread_mutex_unlock(&m->lock);
	return r;
}

static int patch_locked(struct mmds *m, struct json_object *value, struct err *e)
{
	struct json_object *copy;
	int r;

	if (!m->store)
		return not_initialized(e);
	r = copy_of(m->store, &copy, e);
	if (r < 0)
		return r;
	r = merge(copy, value, e);
	if (r < 0) {
		json_object_put(copy);
		return r;
	}
	return install(m, copy, e);
}

int mmds_patch(struct mmds *m, struct json_object *value, struct err *e)
{
	int r = check_object(value, e);

	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	r = patch_locked(m, value, e);
	pthread_mutex_unlock(&m->lock);
	return r;
}

struct json_object *mmds_get(struct mmds *m)
{
	struct json_object *copy = NULL;

	pthread_mutex_lock(&m->lock);
	if (!m->store)
		copy = json_object_new_object();
	else if (copy_of(m->store, &copy, NULL) < 0)
		copy = NULL;
	pthread_mutex_unlock(&m->lock);
	return copy;
}

int mmds_load(struct mmds *m, const char *path, struct err *e)
{
	struct json_object *value = NULL;
	int r = json_load(path, &value, e);

	if (r < 0)
		return r;
	r = mmds_put(m, value, e);
	json_object_put(value);
	return r < 0 ? err_prefix(e, "metadata \"%s\"", path) : 0;
}

void mmds_configure(struct mmds *m, const struct cfg_mmds *cfg)
{
	pthread_mutex_lock(&m->lock);
	m->started = true;
	m->version = cfg ? cfg->version : CFG_MMDS_V1;
	m->imds_compat = cfg && cfg->imds_compat;
	m->in_use = m->in_use || cfg;
	m->nr_tokens = 0;
	pthread_mutex_unlock(&m->lock);
}

/* ---- tokens ---- */

/* Where a new token goes: a free place, that of an expired one, or of the one that expires next. */
static struct mmds_token *token_slot(struct mmds *m, u64 now)
{
	struct mmds_token *next = &m->tokens[0];

	for (u32 i = 0; i < m->nr_tokens; i++) {
		if (m->tokens[i].expires_ns <= now)
			return &m->tokens[i];
		if (m->tokens[i].expires_ns < next->expires_ns)
			next = &m->tokens[i];
	}
	return m->nr_tokens < MMDS_MAX_TOKENS ? &m->tokens[m->nr_tokens++] : next;
}

int mmds_token_new(struct mmds *m, u32 ttl, char text[MMDS_TOKEN_TEXT])
{
	u8 secret[MMDS_TOKEN_BYTES];
	u64 now = clock_host_ns();
	struct mmds_token *t;

	if (getrandom(secret, sizeof(secret), 0) != sizeof(secret))
		return -EIO;
	t = token_slot(m, now);
	memcpy(t->secret, secret, sizeof(secret));
	t->expires_ns = now + ttl * NSEC_PER_SEC;
	for (u32 i = 0; i < sizeof(secret); i++)
		snprintf(text + 2 * i, 3, "%02x", secret[i]);
	return 0;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_token(const char *text, size_t len, u8 secret[MMDS_TOKEN_BYTES])
{
	if (len != MMDS_TOKEN_TEXT - 1)
		return false;
	for (u32 i = 0; i < MMDS_TOKEN_BYTES; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		secret[i] = (u8)(high << 4 | low);
	}
	return true;
}

/* In a time that tells nothing about how much of a guess is right. */
static bool same_secret(const u8 *a, const u8 *b)
{
	u8 difference = 0;

	for (u32 i = 0; i < MMDS_TOKEN_BYTES; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

bool mmds_token_ok(struct mmds *m, const char *text, size_t len)
{
	u8 secret[MMDS_TOKEN_BYTES];
	u64 now = clock_host_ns();
	bool found = false;

	if (!parse_token(text, len, secret))
		return false;
	for (u32 i = 0; i < m->nr_tokens; i++)
		found |= same_secret(m->tokens[i].secret, secret) && m->tokens[i].expires_ns > now;
	return found;
}

/* ---- metrics ---- */

#define COUNTER(name) \
	{ \
#name, offsetof(struct mmds_counters, name) \
	}
const struct counter_desc mmds_counter_names[] = {
	COUNTER(rx_accepted),
	COUNTER(rx_accepted_err),
	COUNTER(rx_accepted_unusual),
	COUNTER(rx_bad_eth),
	COUNTER(rx_count),
	COUNTER(rx_invalid_token),
	COUNTER(rx_no_token),
	COUNTER(tx_bytes),
	COUNTER(tx_count),
	COUNTER(tx_errors),
	COUNTER(tx_frames),
	COUNTER(connections_created),
	COUNTER(connections_destroyed),
	{NULL, 0},
};

/* ctl_migrate.c: `husk ctl SOCKET migrate ...` and `husk migrate SOCKET ADDRESS ...`: a VM leaves for another husk; see ctl.h. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/ctl.h"
#include "vmm/clock.h"

#define POLL_NS (100 * NSEC_PER_MSEC)

static u64 number(struct json_object *o, const char *key)
{
	return json_object_get_uint64(json_object_object_get(o, key));
}

static const char *phase(struct json_object *status)
{
	return json_object_get_string(json_object_object_get(status, "phase"));
}

static const char *error_text(struct json_object *status)
{
	const char *text = json_object_get_string(json_object_object_get(status, "error"));

	return text ? text : "";
}

static bool is_one_of(const char *word, const char *const *list)
{
	while (*list && strcmp(*list, word) != 0)
		list++;
	return *list;
}

/* ---- Progress ---- */

static void draw(struct json_object *s)
{
	struct json_object *faults = json_object_object_get(s, "faults");

	fprintf(stderr,
		"\r%-10s round %llu, %llu MiB sent, %llu MiB left, %llu MiB/s, guest writes %llu MiB/s, downtime ~%llu ms, %llu "
		"faults\x1b[K",
		phase(s), (unsigned long long)number(s, "rounds"), (unsigned long long)(number(s, "sent_bytes") / MIB),
		(unsigned long long)(number(s, "remaining_bytes") / MIB), (unsigned long long)(number(s, "bytes_per_sec") / MIB),
		(unsigned long long)(number(s, "dirty_bytes_per_sec") / MIB),
		(unsigned long long)(number(s, "expected_downtime_us") / 1000), (unsigned long long)number(faults, "count"));
}

static void report(struct json_object *s)
{
	struct json_object *d = json_object_object_get(s, "downtime");
	u64 down = number(d, "total_us");

	printf("%s: %llu ms in all, the VM stood still for %llu.%03llu ms, %llu MiB sent, %llu rounds\n", phase(s),
	       (unsigned long long)(number(s, "total_us") / 1000), (unsigned long long)(down / 1000), (unsigned long long)(down % 1000),
	       (unsigned long long)(number(s, "sent_bytes") / MIB), (unsigned long long)number(s, "rounds"));
}

/* Until it is over, one way or another. The process may end as soon as it has said that all is done. */
static int watch(const struct ctl *c, struct err *e)
{
	static const char *const over[] = {"completed", "failed", "cancelled", "paused", "none", NULL};
	bool line = isatty(STDERR_FILENO);
	struct json_object *s;
	int r;

	while ((r = ctl_ask(c, "/migration", &s, e)) == 0 && !is_one_of(phase(s), over)) {
		if (line)
			draw(s);
		json_object_put(s);
		nanosleep(&(struct timespec){.tv_nsec = (long)POLL_NS}, NULL);
	}
	if (line)
		fputs("\r\x1b[K", stderr);
	if (r < 0)
		return err_prefix(e, "how the migration went is not known");
	if (strcmp(phase(s), "completed") != 0)
		r = err_set(e, -ECANCELED, "migration %s: %s", phase(s), error_text(s));
	else if (c->json)
		ctl_print_json(s);
	else
		report(s);
	json_object_put(s);
	return r;
}

/* ---- Requests ---- */

static int act(const struct ctl *c, const char *action, const char *address, struct err *e)
{
	struct json_object *body = ctl_words("action", action);
	int r;

	if (address)
		json_object_object_add(body, "address", json_object_new_string(address));
	r = ctl_tell(c, "PUT", "/migration", body, e);
	json_object_put(body);
	return r;
}

static int bad_word(const char *word, struct err *e)
{
	return err_set(
		e, -EINVAL,
		"\"%.60s\" is not understood: mode=precopy|postcopy|hybrid|local, on-stall=throttle|postcopy|cancel|wait, max-downtime=MS, "
		"bandwidth=SIZE, channels=1..8, push-channels=1..8, timeout=MS, compress, verify, copy-disks",
		word);
}

/* "hybrid" -> "Hybrid", as the API has it. */
static struct json_object *name(const char *value)
{
	auto_free char *copy = xstrdup(value);

	if (*copy >= 'a' && *copy <= 'z')
		*copy = (char)(*copy - 'a' + 'A');
	return json_object_new_string(copy);
}

static int take_size(struct json_object *body, const char *key, const char *text, struct err *e)
{
	u64 bytes;
	int r = ctl_parse_size(text, 1, &bytes, e);

	if (r == 0)
		json_object_object_add(body, key, json_object_new_uint64(bytes));
	return r;
}

static int take_number(struct json_object *body, const char *key, const char *text, struct err *e)
{
	char *end;
	unsigned long long n = strtoull(text, &end, 10);

	if (!*text || *end || *text == '-')
		return err_set(e, -EINVAL, "%s: \"%.40s\" is no number", key, text);
	json_object_object_add(body, key, json_object_new_uint64(n));
	return 0;
}

static int take_word(struct json_object *body, const char *word, struct err *e)
{
	const char *equals = strchr(word, '='), *value = equals ? equals + 1 : "";
	size_t n = equals ? (size_t)(equals - word) : strlen(word);

	if (!strcmp(word, "copy-disks")) {
		json_object_object_add(body, "copy_disks", json_object_new_boolean(true));
		return 0;
	}
	if (!equals && (!strcmp(word, "compress") || !strcmp(word, "verify"))) {
		json_object_object_add(body, word, json_object_new_boolean(true));
		return 0;
	}
	if (n == 4 && !strncmp(word, "mode", n))
		json_object_object_add(body, "mode", name(value));
	else if (n == 8 && !strncmp(word, "on-stall", n))
		json_object_object_add(body, "on_stall", name(value));
	else if (n == 12 && !strncmp(word, "max-downtime", n))
		return take_number(body, "max_downtime_ms", value, e);
	else if (n == 7 && !strncmp(word, "timeout", n))
		return take_number(body, "timeout_ms", value, e);
	else if (n == 8 && !strncmp(word, "channels", n))
		return take_number(body, "channels", value, e);
	else if (n == 13 && !strncmp(word, "push-channels", n))
		return take_number(body, "push_channels", value, e);
	else if (n == 9 && !strncmp(word, "bandwidth", n))
		return take_size(body, "max_bandwidth", value, e);
	else
		return bad_word(word, e);
	return 0;
}

static int start(const struct ctl *c, struct err *e)
{
	struct json_object *body = ctl_words("action", "Start");
	int r = 0;

	json_object_object_add(body, "address", json_object_new_string(c->words[0]));
	if (c->copy_disks)
		json_object_object_add(body, "copy_disks", json_object_new_boolean(true));
	for (int i = 1; r == 0 && i < c->nr; i++)
		r = take_word(body, c->words[i], e);
	if (r == 0)
		r = ctl_tell(c, "PUT", "/migration", body, e);
	json_object_put(body);
	return r == 0 ? watch(c, e) : r;
}

static int show(const struct ctl *c, struct err *e)
{
	struct json_object *s;
	int r = ctl_ask(c, "/migration", &s, e);

	if (r == 0)
		ctl_print_json(s);
	json_object_put(s);
	return r;
}

int ctl_migrate(const struct ctl *c, struct err *e)
{
	const char *word = c->words[0], *next = c->nr > 1 ? c->words[1] : NULL;
	int r;

	if (!strcmp(word, "status"))
		return show(c, e);
	if (!strcmp(word, "cancel"))
		return act(c, "Cancel", NULL, e);
	if (!strcmp(word, "break"))
		return act(c, "Break", NULL, e);
	if (!strcmp(word, "take-back"))
		return act(c, "TakeBack", NULL, e);
	if (!strcmp(word, "take-over"))
		return act(c, "TakeOver", NULL, e);
	if (strcmp(word, "recover") != 0)
		return start(c, e);
	r = act(c, "Recover", next, e);
	return r == 0 ? watch(c, e) : r;
}

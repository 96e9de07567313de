/* ctl_dev.c: commands of `husk ctl` about devices; see ctl.h. */
#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "cli/ctl.h"

/* "512", "64K", "2G": a number of `unit`s, or with a letter of bytes. *out is in units. */
int ctl_parse_size(const char *text, u64 unit, u64 *out, struct err *e)
{
	static const char letters[] = "KMGT";
	char *end;
	const char *letter;
	u64 n;

	errno = 0;
	n = strtoull(text, &end, 10);
	letter = *end ? strchr(letters, toupper((unsigned char)*end)) : NULL;
	if (!isdigit((unsigned char)*text) || errno || (*end && (!letter || end[1])))
		return err_set(e, -EINVAL, "\"%s\": expected a size like 512, 64K, 512M or 2G", text);
	if (letter) {
		u64 scale = 1ull << (10 * (letter - letters + 1));

		if (__builtin_mul_overflow(n, scale, &n) || n % unit)
			return err_set(e, -EINVAL, "\"%s\": not a multiple of %llu bytes", text, (unsigned long long)unit);
		n /= unit;
	}
	*out = n;
	return 0;
}

static int tell_number(const struct ctl *c, const char *path, const char *key, u64 n, struct err *e)
{
	struct json_object *body = json_object_new_object();
	int r;

	json_object_object_add(body, key, json_object_new_uint64(n));
	r = ctl_tell(c, "PATCH", path, body, e);
	json_object_put(body);
	return r;
}

/* Keys and values, one a line. */
static void print_fields(struct json_object *o)
{
	json_object_object_foreach(o, key, value) printf("%-28s%s\n", key, value ? json_object_get_string(value) : "-");
}

static int show_fields(const struct ctl *c, const char *path, struct err *e)
{
	struct json_object *o;
	int r = ctl_ask(c, path, &o, e);

	if (r == 0 && c->json)
		ctl_print_json(o);
	else if (r == 0)
		print_fields(o);
	json_object_put(o);
	return r;
}

/* ---- balloon, memory-hotplug ---- */

/* Statistics say most, but there are none unless they were wanted before the start. */
int ctl_balloon(const struct ctl *c, struct err *e)
{
	struct err none = {0};
	u64 mib;

	if (!c->nr)
		return show_fields(c, "/balloon/statistics", &none) == 0 ? 0 : show_fields(c, "/balloon", e);
	return ctl_parse_size(c->words[0], MIB, &mib, e) < 0 ? -EINVAL : tell_number(c, "/balloon", "amount_mib", mib, e);
}

int ctl_memory(const struct ctl *c, struct err *e)
{
	u64 mib;

	if (!c->nr)
		return show_fields(c, "/hotplug/memory", e);
	return ctl_parse_size(c->words[0], MIB, &mib, e) < 0 ? -EINVAL : tell_number(c, "/hotplug/memory", "requested_size_mib", mib, e);
}

/* ---- limits ---- */

/* {"size": n, "refill_time": 1000}: n in a second; 0 of both lifts the limit. */
static struct json_object *bucket(u64 n)
{
	struct json_object *b = json_object_new_object();

	json_object_object_add(b, "size", json_object_new_uint64(n));
	json_object_object_add(b, "refill_time", json_object_new_uint64(n ? 1000 : 0));
	return b;
}

struct limit {
	const char *word;    /* "rx-ops" */
	const char *limiter; /* "rx_rate_limiter" */
	const char *bucket;  /* "ops" */
};

static struct json_object *member(struct json_object *o, const char *key)
{
	struct json_object *m = json_object_object_get(o, key);

	if (!m) {
		m = json_object_new_object();
		json_object_object_add(o, key, m);
	}
	return m;
}

static int add_limit(struct json_object *body, const struct limit *limits, const char *word, struct err *e)
{
	size_t len = strcspn(word, "=");
	u64 n = 0;

	for (; limits->word; limits++) {
		if (strlen(limits->word) != len || strncmp(limits->word, word, len) != 0 || !word[len])
			continue;
		if (strcmp(word + len + 1, "off") != 0 && ctl_parse_size(word + len + 1, 1, &n, e) < 0)
			return -EINVAL;
		json_object_object_add(member(body, limits->limiter), limits->bucket, bucket(n));
		return 0;
	}
	return err_set(e, -EINVAL, "husk ctl: \"%s\" is no limit, like ops=1000 or ops=off", word);
}

/* PATCH of path/<id> with the limits that words[1..] say. */
static int set_limits(const struct ctl *c, const char *path, const char *id_key, const struct limit *limits, struct err *e)
{
	struct json_object *body = ctl_words(id_key, c->words[0]);
	auto_free char *whole = xasprintf("%s/%s", path, c->words[0]);
	int r = c->nr < 2 ? err_set(e, -EINVAL, "husk ctl: say what of \"%s\" is to change", c->words[0]) : 0;

	for (int i = 1; r == 0 && i < c->nr; i++)
		r = add_limit(body, limits, c->words[i], e);
	if (r == 0)
		r = ctl_tell(c, "PATCH", whole, body, e);
	json_object_put(body);
	return r;
}

/* "10485760/s" of a bucket, or NULL. */
static char *rate(struct json_object *item, const char *limiter, const char *name)
{
	struct json_object *b = json_object_object_get(json_object_object_get(item, limiter), name);
	u64 size = json_object_get_uint64(json_object_object_get(b, "size"));
	u64 ms = json_object_get_uint64(json_object_object_get(b, "refill_time"));

	return size && ms ? xasprintf("%.0f/s", (double)size * 1000 / (double)ms) : NULL;
}

/* ---- drives, net ---- */

static int ask_list(const struct ctl *c, const char *section, struct json_object **config, struct json_object **list, struct err *e)
{
	int r = ctl_ask(c, "/vm/config", config, e);

	*list = json_object_object_get(*config, section);
	if (r == 0 && !json_object_is_type(*list, json_type_array))
		r = err_set(e, -EPROTO, "GET /vm/config has no list \"%s\"", section);
	return r;
}

static const char *text_of(struct json_object *o, const char *key)
{
	struct json_object *v = json_object_object_get(o, key);

	return v ? json_object_get_string(v) : NULL;
}

static bool is_true(struct json_object *o, const char *key)
{
	return json_object_get_boolean(json_object_object_get(o, key));
}

static void add_drive(struct table *t, struct json_object *d)
{
	auto_free char *bandwidth = rate(d, "rate_limiter", "bandwidth"), *ops = rate(d, "rate_limiter", "ops");
	const char *path = text_of(d, "path_on_host");

	table_add(t, (const char *const[]){text_of(d, "drive_id"), is_true(d, "is_root_device") ? "yes" : "",
					   is_true(d, "is_read_only") ? "ro" : "rw", text_of(d, "io_engine"), bandwidth, ops,
					   path ? path : text_of(d, "socket")});
}

static void add_net(struct table *t, struct json_object *n)
{
	auto_free char *rx = rate(n, "rx_rate_limiter", "bandwidth"), *tx = rate(n, "tx_rate_limiter", "bandwidth");
	auto_free char *rx_ops = rate(n, "rx_rate_limiter", "ops"), *tx_ops = rate(n, "tx_rate_limiter", "ops");
	const char *tap = text_of(n, "host_dev_name");

	table_add(t, (const char *const[]){text_of(n, "iface_id"), tap ? tap : text_of(n, "passt_socket"), text_of(n, "guest_mac"), rx, tx,
					   rx_ops, tx_ops});
}

static int list_items(const struct ctl *c, const char *section, const char *const *head, u32 columns,
		      void (*add)(struct table *t, struct json_object *item), struct err *e)
{
	struct json_object *config, *list;
	struct table t;
	int r = ask_list(c, section, &config, &list, e);

	if (r == 0 && c->json) {
		ctl_print_json(list);
	} else if (r == 0) {
		table_init(&t, head, columns);
		for (size_t i = 0; i < json_object_array_length(list); i++)
			add(&t, json_object_array_get_idx(list, i));
		table_print(&t, stdout);
	}
	json_object_put(config);
	return r;
}

static int change_image(const struct ctl *c, struct err *e)
{
	struct json_object *body = ctl_words("drive_id", c->words[0]);
	auto_free char *path = xasprintf("/drives/%s", c->words[0]), *absolute = realpath(c->words[1], NULL);
	int r;

	/* The VM's working directory may be another one; a path that only it can see (in a jail) goes as it is. */
	json_object_object_add(body, "path_on_host", json_object_new_string(absolute ? absolute : c->words[1]));
	r = ctl_tell(c, "PATCH", path, body, e);
	json_object_put(body);
	return r;
}

int ctl_drives(const struct ctl *c, struct err *e)
{
	static const char *const head[] = {"DRIVE", "ROOT", "MODE", "ENGINE", "BYTES", "OPS", "IMAGE"};
	static const struct limit limits[] = {
		{"bandwidth", "rate_limiter", "bandwidth"}, {"ops", "rate_limiter", "ops"}, {NULL, NULL, NULL}};

	if (!c->nr)
		return list_items(c, "drives", head, ARRAY_SIZE(head), add_drive, e);
	if (c->nr == 2 && !strchr(c->words[1], '='))
		return change_image(c, e);
	return set_limits(c, "/drives", "drive_id", limits, e);
}

int ctl_net(const struct ctl *c, struct err *e)
{
	static const char *const head[] = {"INTERFACE", "HOST", "MAC", "RX", "TX", "RX-OPS", "TX-OPS"};
	static const struct limit limits[] = {{"rx", "rx_rate_limiter", "bandwidth"},
					      {"tx", "tx_rate_limiter", "bandwidth"},
					      {"rx-ops", "rx_rate_limiter", "ops"},
					      {"tx-ops", "tx_rate_limiter", "ops"},
					      {NULL, NULL, NULL}};

	if (!c->nr)
		return list_items(c, "network-interfaces", head, ARRAY_SIZE(head), add_net, e);
	return set_limits(c, "/network-interfaces", "iface_id", limits, e);
}

/* state.c: saved state from and to bytes, as tables describe it; see state.h. */
#include "vmm/state.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FIELD_HEADER 8u /* u16 tag, u8 type, u8 elem, u32 elements */

/* Bytes of an element in the struct. */
static size_t stride(const struct state_field *f)
{
	return f->type == STATE_STRUCT ? f->table->size : f->elem;
}

/* The third byte of a field's header: what an old reader or writer could disagree about. */
static u8 shape(const struct state_field *f)
{
	return (u8)(f->type == STATE_STRUCT ? f->table->version : f->elem);
}

static bool is_array(const struct state_field *f)
{
	return f->count != 1 || f->nr_offset != STATE_NO_NR;
}

/* Elements in use. A text's NUL is none. */
static u32 elements(const struct state_field *f, const u8 *data)
{
	u32 nr = f->count;

	if (f->type == STATE_TEXT)
		nr = (u32)strnlen((const char *)data + f->offset, f->count);
	else if (f->nr_offset != STATE_NO_NR)
		memcpy(&nr, data + f->nr_offset, sizeof(nr));
	ASSERT(f->type == STATE_TEXT ? nr < f->count : nr <= f->count);
	return nr;
}

static u64 scalar(const u8 *at, u8 elem)
{
	u64 v = 0;

	memcpy(&v, at, elem); /* little-endian hosts: base.h */
	return v;
}

/* ---- to bytes ---- */

void state_encode(const struct state_table *t, const void *data, struct buf *out)
{
	for (const struct state_field *f = t->fields; f->name; f++) {
		u32 nr = elements(f, data);

		buf_u16(out, f->tag);
		buf_u8(out, f->type);
		buf_u8(out, shape(f));
		buf_u32(out, nr);
		if (f->type != STATE_STRUCT) {
			buf_put(out, (const u8 *)data + f->offset, (size_t)nr * f->elem);
			continue;
		}
		for (u32 i = 0; i < nr; i++) {
			size_t at = out->len;

			buf_u32(out, 0);
			state_encode(f->table, (const u8 *)data + f->offset + i * stride(f), out);
			st_le32(out->data + at, (u32)(out->len - at - 4));
		}
	}
}

u64 state_size_max(const struct state_table *t)
{
	u64 sum = 0;

	for (const struct state_field *f = t->fields; f->name; f++)
		sum += FIELD_HEADER + f->count * (f->type == STATE_STRUCT ? 4 + state_size_max(f->table) : f->elem);
	return sum;
}

/* ---- from bytes ---- */

struct reader {
	const u8 *at;
	size_t left;
};

/* Where in the state we are, for messages: "msrs[3].index". */
struct place {
	struct err *e;
	size_t len;
	char path[256];
};

static size_t place_enter(struct place *p, const char *name)
{
	size_t was = p->len;
	int n = snprintf(p->path + p->len, sizeof(p->path) - p->len, "%s%s", p->len ? "." : "", name);

	p->len = MIN(p->len + (size_t)n, sizeof(p->path) - 1);
	return was;
}

static size_t place_index(struct place *p, const struct state_field *f, u32 i)
{
	size_t was = p->len;
	int n = is_array(f) ? snprintf(p->path + p->len, sizeof(p->path) - p->len, "[%u]", i) : 0;

	p->len = MIN(p->len + (size_t)n, sizeof(p->path) - 1);
	return was;
}

static void place_leave(struct place *p, size_t was)
{
	p->len = was;
	p->path[was] = '\0';
}

PRINTF_LIKE(2, 3) static int bad(const struct place *p, const char *fmt, ...)
{
	char why[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	return p->len ? err_set(p->e, -EINVAL, "field %s: %s", p->path, why) : err_set(p->e, -EINVAL, "%s", why);
}

static int bad_end(const struct place *p)
{
	return bad(p, "the data ends in the middle of it");
}

static const u8 *take(struct reader *r, u64 n)
{
	const u8 *at = r->at;

	if (n > r->left)
		return NULL;
	r->at += n;
	r->left -= n;
	return at;
}

static int read_table(const struct state_table *t, u16 version, struct reader *r, u8 *data, struct place *p);

static int check_scalars(const struct state_field *f, const u8 *at, u32 nr, struct place *p)
{
	u64 max = f->type == STATE_BOOL ? 1 : f->max;

	for (u32 i = 0; max && i < nr; i++) {
		u64 v = scalar(at + (size_t)i * f->elem, f->elem);

		if (v > max) {
			place_index(p, f, i);
			return bad(p, f->hex ? "0x%llx is over 0x%llx" : "%llu is over %llu", (unsigned long long)v,
				   (unsigned long long)max);
		}
	}
	return 0;
}

static int read_scalars(const struct state_field *f, u32 nr, struct reader *r, u8 *data, struct place *p)
{
	const u8 *at = take(r, (u64)nr * f->elem);
	int ret;

	if (!at)
		return bad_end(p);
	if (f->type == STATE_TEXT && memchr(at, 0, nr))
		return bad(p, "a text has a NUL in it");
	ret = f->type == STATE_UINT || f->type == STATE_BOOL ? check_scalars(f, at, nr, p) : 0;
	if (ret == 0 && nr)
		memcpy(data + f->offset, at, (size_t)nr * f->elem);
	return ret;
}

static int read_structs(const struct state_field *f, u16 version, u32 nr, struct reader *r, u8 *data, struct place *p)
{
	for (u32 i = 0; i < nr; i++) {
		size_t was = place_index(p, f, i);
		const u8 *head = take(r, 4);
		struct reader in;
		int ret;

		if (!head)
			return bad_end(p);
		in.left = ld_le32(head);
		in.at = take(r, in.left);
		if (!in.at)
			return bad_end(p);
		ret = read_table(f->table, version, &in, data + f->offset + i * stride(f), p);
		if (ret < 0)
			return ret;
		place_leave(p, was);
	}
	return 0;
}

/* The number of elements, against the table and against the field that says how many there are. */
static int check_nr(const struct state_field *f, u32 nr, const u8 *data, const struct place *p)
{
	u32 said;

	if (f->type == STATE_TEXT)
		return nr < f->count ? 0 : bad(p, "%u bytes of text, at most %u fit", nr, f->count - 1);
	if (nr > f->count)
		return bad(p, "%u elements, at most %u fit", nr, f->count);
	if (f->nr_offset == STATE_NO_NR)
		return nr == f->count ? 0 : bad(p, "%u elements in place of %u", nr, f->count);
	memcpy(&said, data + f->nr_offset, sizeof(said));
	return nr == said ? 0 : bad(p, "%u elements, but the state announces %u", nr, said);
}

static int check_version(const struct state_table *t, u16 version, const struct place *p)
{
	if (version > t->version)
		return bad(p, "version %u of \"%s\" comes from a newer husk: this one reads up to version %u", version, t->name,
			   t->version);
	if (version < t->min_version)
		return bad(p, "version %u of \"%s\" is too old: this husk reads it from version %u on", version, t->name, t->min_version);
	return 0;
}

static int read_field(const struct state_field *f, struct reader *r, u8 *data, struct place *p)
{
	const u8 *head = take(r, FIELD_HEADER);
	u32 nr;
	int ret;

	if (!head)
		return bad(p, "it is missing");
	if (ld_le16(head) != f->tag)
		return bad(p, "tag %u in place of %u", ld_le16(head), f->tag);
	if (head[2] != f->type)
		return bad(p, "type %u in place of %u", head[2], f->type);
	if (f->type != STATE_STRUCT && head[3] != f->elem)
		return bad(p, "elements of %u bytes in place of %u", head[3], f->elem);
	nr = ld_le32(head + 4);
	ret = check_nr(f, nr, data, p);
	if (ret == 0 && f->type == STATE_STRUCT) {
		ret = check_version(f->table, head[3], p);
		return ret == 0 ? read_structs(f, head[3], nr, r, data, p) : ret;
	}
	return ret == 0 ? read_scalars(f, nr, r, data, p) : ret;
}

static int read_table(const struct state_table *t, u16 version, struct reader *r, u8 *data, struct place *p)
{
	for (const struct state_field *f = t->fields; f->name; f++) {
		size_t was;
		int ret;

		if (f->since > version)
			continue;
		was = place_enter(p, f->name);
		ret = read_field(f, r, data, p);
		if (ret < 0)
			return ret;
		place_leave(p, was);
	}
	return r->left ? bad(p, "%zu bytes too many", r->left) : 0;
}

int state_decode(const struct state_table *t, u16 version, const u8 *bytes, size_t len, void *data, struct err *e)
{
	memset(data, 0, t->size);
	return state_decode_zeroed(t, version, bytes, len, data, e);
}

int state_decode_zeroed(const struct state_table *t, u16 version, const u8 *bytes, size_t len, void *data, struct err *e)
{
	struct place p = {.e = e};
	struct reader r = {bytes, len};
	int ret = check_version(t, version, &p);

	return ret == 0 ? read_table(t, version, &r, data, &p) : ret;
}

/* ---- for people ---- */

static struct json_object *json_hex(const u8 *at, u32 nr)
{
	static const char digits[] = "0123456789abcdef";
	auto_free char *text = xzalloc(2 * (size_t)nr + 1);

	for (u32 i = 0; i < nr; i++) {
		text[2 * i] = digits[at[i] >> 4];
		text[2 * i + 1] = digits[at[i] & 15];
	}
	return json_object_new_string(text);
}

/* Who reads it may be a terminal, and JSON is UTF-8: bytes that are not plain text are shown in hex. */
static struct json_object *json_text(const u8 *at, u32 nr)
{
	auto_free char *text = xzalloc(4 * (size_t)nr + 1);
	size_t len = 0;

	for (u32 i = 0; i < nr; i++)
		len += (size_t)snprintf(text + len, 5, at[i] >= ' ' && at[i] <= '~' ? "%c" : "\\x%02x", at[i]);
	return json_object_new_string(text);
}

static struct json_object *json_element(const struct state_field *f, const u8 *at)
{
	char text[24];

	if (f->type == STATE_STRUCT)
		return state_json(f->table, at);
	if (f->type == STATE_BOOL)
		return json_object_new_boolean(*at);
	if (!f->hex)
		return json_object_new_uint64(scalar(at, f->elem));
	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)scalar(at, f->elem));
	return json_object_new_string(text);
}

static struct json_object *json_field(const struct state_field *f, const u8 *data)
{
	const u8 *at = data + f->offset;
	u32 nr = elements(f, data);
	struct json_object *all;

	if (f->type == STATE_TEXT)
		return json_text(at, nr);
	if (f->type == STATE_BYTES)
		return json_hex(at, nr);
	if (!is_array(f))
		return json_element(f, at);
	all = json_object_new_array();
	for (u32 i = 0; i < nr; i++)
		json_object_array_add(all, json_element(f, at + i * stride(f)));
	return all;
}

struct json_object *state_json(const struct state_table *t, const void *data)
{
	struct json_object *o = json_object_new_object();

	for (const struct state_field *f = t->fields; f->name; f++)
		json_object_object_add(o, f->name, json_field(f, data));
	return o;
}

static const char *nr_name(const struct state_table *t, u32 offset)
{
	for (const struct state_field *f = t->fields; f->name; f++) {
		if (f->offset == offset)
			return f->name;
	}
	return "?";
}

static struct json_object *schema_field(const struct state_table *t, const struct state_field *f)
{
	static const char *const types[] = {"uint", "bool", "bytes", "text", "struct"};
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "name", json_object_new_string(f->name));
	json_object_object_add(o, "tag", json_object_new_int(f->tag));
	json_object_object_add(o, "type", json_object_new_string(types[f->type]));
	if (f->type == STATE_STRUCT)
		json_object_object_add(o, "table", json_object_new_string(f->table->name));
	else
		json_object_object_add(o, "bytes", json_object_new_int(f->elem));
	if (f->count != 1)
		json_object_object_add(o, "count", json_object_new_int64(f->count));
	if (f->nr_offset != STATE_NO_NR)
		json_object_object_add(o, "nr", json_object_new_string(nr_name(t, f->nr_offset)));
	if (f->max)
		json_object_object_add(o, "max", json_object_new_uint64(f->max));
	if (f->since)
		json_object_object_add(o, "since", json_object_new_int(f->since));
	return o;
}

struct json_object *state_schema(const struct state_table *t)
{
	struct json_object *o = json_object_new_object(), *fields = json_object_new_array();

	json_object_object_add(o, "name", json_object_new_string(t->name));
	json_object_object_add(o, "version", json_object_new_int(t->version));
	json_object_object_add(o, "min_version", json_object_new_int(t->min_version));
	for (const struct state_field *f = t->fields; f->name; f++)
		json_object_array_add(fields, schema_field(t, f));
	json_object_object_add(o, "fields", fields);
	return o;
}

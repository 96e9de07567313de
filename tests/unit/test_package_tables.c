/*
 * test_package_tables.c: every state table of this build: its fields are the whole struct, and it has not changed without a new version.
 * After a change: raise the table's version, then `test_package_tables --update` writes tests/golden/schema.json (schema-aarch64.json on
 * arm64), if old bytes can still be read as the table says.
 */
#include "cm.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "migration/package.h"

#define MAX_TABLES 128

struct tables {
	const struct state_table *t[MAX_TABLES];
	u32 nr;
};

static void collect(struct tables *all, const struct state_table *t)
{
	for (u32 i = 0; i < all->nr; i++) {
		if (all->t[i] == t)
			return;
	}
	assert_true(all->nr < MAX_TABLES);
	all->t[all->nr++] = t;
	for (const struct state_field *f = t->fields; f->name; f++) {
		if (f->type == STATE_STRUCT)
			collect(all, f->table);
	}
}

/* Those of sections, and those inside of them. */
static void collect_all(struct tables *all)
{
	const struct state_table *t;

	*all = (struct tables){0};
	for (u32 i = 0; (t = package_table(i)) != NULL; i++)
		collect(all, t);
	assert_true(all->nr > 10);
}

static u32 field_align(const struct state_field *f)
{
	u32 align = 1;

	if (f->type != STATE_STRUCT)
		return f->elem;
	for (const struct state_field *in = f->table->fields; in->name; in++)
		align = MAX(align, field_align(in));
	return align;
}

static u64 field_size(const struct state_field *f)
{
	return (u64)f->count * (f->type == STATE_STRUCT ? f->table->size : f->elem);
}

static int by_offset(const void *a, const void *b)
{
	const struct state_field *x = *(const struct state_field *const *)a, *y = *(const struct state_field *const *)b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static u32 sorted(const struct state_table *t, const struct state_field **out, u32 room)
{
	u32 nr = 0;

	for (const struct state_field *f = t->fields; f->name; f++) {
		assert_true(nr < room);
		out[nr++] = f;
	}
	qsort(out, nr, sizeof(*out), by_offset);
	return nr;
}

static void the_fields_of_every_table_are_the_whole_struct(void **state)
{
	struct tables all;

	(void)state;
	collect_all(&all);
	for (u32 i = 0; i < all.nr; i++) {
		const struct state_field *f[256];
		u32 nr = sorted(all.t[i], f, ARRAY_SIZE(f)), align = 1;
		u64 end = 0;

		for (u32 k = 0; k < nr; k++) {
			if (f[k]->offset != ALIGN_UP(end, (u64)field_align(f[k])))
				fail_msg("table %s: before field %s there are members that are no fields, or it overlaps another: it is at "
					 "%u, the one "
					 "before ends at %llu",
					 all.t[i]->name, f[k]->name, f[k]->offset, (unsigned long long)end);
			end = f[k]->offset + field_size(f[k]);
			align = MAX(align, field_align(f[k]));
		}
		if (ALIGN_UP(end, (u64)align) != all.t[i]->size)
			fail_msg("table %s: fields end at %llu, the struct at %u", all.t[i]->name, (unsigned long long)end, all.t[i]->size);
	}
}

static void tags_ascend_and_versions_make_sense(void **state)
{
	struct tables all;

	(void)state;
	collect_all(&all);
	for (u32 i = 0; i < all.nr; i++) {
		const struct state_table *t = all.t[i];
		u32 tag = 0;

		if (!t->min_version || t->min_version > t->version || t->version > 255)
			fail_msg("table %s: versions %u to %u", t->name, t->min_version, t->version);
		for (const struct state_field *f = t->fields; f->name; f++) {
			if (f->tag <= tag || f->tag > 0x7fff)
				fail_msg("table %s: field %s: tag %u after %u", t->name, f->name, f->tag, tag);
			if (f->since > t->version || f->since == 1)
				fail_msg("table %s: field %s: since version %u", t->name, f->name, f->since);
			tag = f->tag;
		}
	}
}

static void check_kind(const struct state_table *t, const struct state_field *f)
{
	static const u8 no_elem[] = {[STATE_BOOL] = 1, [STATE_BYTES] = 1, [STATE_TEXT] = 1, [STATE_STRUCT] = 0};
	bool ok = f->count >= (f->type == STATE_TEXT ? 2u : 1u);

	if (f->type == STATE_UINT)
		ok = ok && (f->elem == 1 || f->elem == 2 || f->elem == 4 || f->elem == 8);
	else
		ok = ok && f->type <= STATE_STRUCT && f->elem == no_elem[f->type] && !f->max;
	ok = ok && (f->type == STATE_STRUCT) == !!f->table;
	if (f->type == STATE_UINT && f->elem < 8 && f->max >> (8 * f->elem))
		ok = false;
	if (!ok)
		fail_msg("table %s: field %s is of no kind that there is", t->name, f->name);
}

/* A number of elements is a u32 field before the elements, which is there whenever they are. */
static void check_nr(const struct state_table *t, const struct state_field *f)
{
	for (const struct state_field *nr = t->fields; f->nr_offset != STATE_NO_NR && nr->offset != f->nr_offset; nr++) {
		if (nr == f || !nr->name)
			fail_msg("table %s: field %s: its number of elements is no field before it", t->name, f->name);
	}
	for (const struct state_field *nr = t->fields; nr < f; nr++) {
		if (nr->offset == f->nr_offset && (nr->type != STATE_UINT || nr->elem != 4 || nr->count != 1 || nr->since > f->since))
			fail_msg("table %s: field %s: %s cannot be its number of elements", t->name, f->name, nr->name);
	}
}

static void fields_are_of_a_kind_that_there_is(void **state)
{
	struct tables all;

	(void)state;
	collect_all(&all);
	for (u32 i = 0; i < all.nr; i++) {
		for (const struct state_field *f = all.t[i]->fields; f->name; f++) {
			check_kind(all.t[i], f);
			check_nr(all.t[i], f);
		}
	}
}

static void no_two_tables_have_one_name(void **state)
{
	struct tables all;

	(void)state;
	collect_all(&all);
	for (u32 i = 0; i < all.nr; i++) {
		assert_true(strlen(all.t[i]->name) < 64);
		for (u32 k = 0; k < i; k++) {
			if (!strcmp(all.t[i]->name, all.t[k]->name))
				fail_msg("two tables are called %s", all.t[i]->name);
		}
	}
}

/* An empty state goes out and in; so does one full of the largest values that the table allows. */
static void fill(const struct state_table *t, u8 *data)
{
	for (const struct state_field *f = t->fields; f->name; f++) {
		u64 v = f->type == STATE_BOOL ? 1 : f->max ? f->max : UINT64_MAX;

		for (u32 i = 0; i < f->count; i++) {
			if (f->type == STATE_STRUCT)
				fill(f->table, data + f->offset + (size_t)i * f->table->size);
			else
				memcpy(data + f->offset + (size_t)i * f->elem, &v, f->elem);
		}
		if (f->type == STATE_TEXT) {
			memset(data + f->offset, 'x', f->count - 1);
			data[f->offset + f->count - 1] = '\0';
		}
		if (f->nr_offset != STATE_NO_NR)
			memcpy(data + f->nr_offset, &f->count, 4);
	}
}

static void round_trip(const struct state_table *t, const u8 *data)
{
	u8 *back = xzalloc(t->size);
	struct buf a = {0}, b = {0};
	struct json_object *o;
	struct err e;

	state_encode(t, data, &a);
	assert_true(a.len <= state_size_max(t));
	if (state_decode(t, t->version, a.data, a.len, back, &e) < 0)
		fail_msg("table %s: %s", t->name, e.msg);
	state_encode(t, back, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	o = state_json(t, back);
	assert_non_null(json_object_to_json_string(o));
	json_object_put(o);
	for (size_t len = 0; len < a.len; len += 1 + a.len / 300)
		assert_true(state_decode(t, t->version, a.data, len, back, &e) < 0);
	buf_fini(&a);
	buf_fini(&b);
	free(back);
}

static void least_and_most_of_every_table_go_out_and_in(void **state)
{
	struct tables all;

	(void)state;
	collect_all(&all);
	for (u32 i = 0; i < all.nr; i++) {
		u8 *data = xzalloc(all.t[i]->size);

		round_trip(all.t[i], data);
		fill(all.t[i], data);
		round_trip(all.t[i], data);
		free(data);
	}
}

/* ---- schema.json ---- */

static char *golden_path(void)
{
	bool x86 = !strcmp(HUSK_ARCH, "x86_64");

	return xasprintf("%s/schema%s%s.json", getenv("HUSK_GOLDEN_DIR") ?: "tests/golden", x86 ? "" : "-", x86 ? "" : HUSK_ARCH);
}

static struct json_object *schema(void)
{
	struct json_object *o = json_object_new_object();
	struct tables all;

	collect_all(&all);
	for (u32 i = 0; i < all.nr; i++)
		json_object_object_add(o, all.t[i]->name, state_schema(all.t[i]));
	return o;
}

static u32 number(struct json_object *o, const char *key)
{
	return (u32)json_object_get_int64(json_object_object_get(o, key));
}

static bool same(struct json_object *a, struct json_object *b)
{
	return a && b && json_object_equal(a, b);
}

static void no_table_has_changed_without_a_new_version(void **state)
{
	auto_free char *path = golden_path();
	struct json_object *now = schema(), *golden = json_object_from_file(path);

	(void)state;
	if (!golden)
		fail_msg("%s: %s", path, json_util_get_last_err());
	json_object_object_foreach(now, name, table)
	{
		struct json_object *was = json_object_object_get(golden, name);

		if (was && !same(table, was) && number(table, "version") == number(was, "version"))
			fail_msg("table \"%s\" is not what version %u of it is: raise its version, say `since` of what is new, then run "
				 "test_package_tables --update",
				 name, number(was, "version"));
	}
	if (!json_object_equal(now, golden))
		fail_msg("%s is not up to date: run test_package_tables --update", path);
	json_object_put(now);
	json_object_put(golden);
}

static struct json_object *field_by_tag(struct json_object *table, u32 tag)
{
	struct json_object *fields = json_object_object_get(table, "fields");

	for (size_t i = 0; i < json_object_array_length(fields); i++) {
		if (number(json_object_array_get_idx(fields, i), "tag") == tag)
			return json_object_array_get_idx(fields, i);
	}
	return NULL;
}

/* Whether bytes of the one are bytes of the other, too. */
static bool same_shape(struct json_object *a, struct json_object *b)
{
	static const char *const keys[] = {"type", "bytes", "table", "count"};

	for (u32 i = 0; i < ARRAY_SIZE(keys); i++) {
		if (!json_object_equal(json_object_object_get(a, keys[i]), json_object_object_get(b, keys[i])))
			return false;
	}
	return true;
}

/* Why the new table is not one that follows the old; NULL: it is. */
static const char *wrong_change(struct json_object *was, struct json_object *now)
{
	struct json_object *fields = json_object_object_get(now, "fields");
	u32 old_version = number(was, "version");

	if (number(now, "version") <= old_version)
		return "it changed: raise its version";
	if (number(now, "min_version") > old_version)
		return NULL; /* bytes of the old are refused */
	for (size_t i = 0; i < json_object_array_length(fields); i++) {
		struct json_object *f = json_object_array_get_idx(fields, i), *old = field_by_tag(was, number(f, "tag"));

		if (!old && number(f, "since") <= old_version)
			return "a new field does not say since which version it is there";
		if (old && !same_shape(f, old))
			return "a field has another type or count: give it a new tag, or raise min_version";
	}
	fields = json_object_object_get(was, "fields");
	for (size_t i = 0; i < json_object_array_length(fields); i++) {
		if (!field_by_tag(now, number(json_object_array_get_idx(fields, i), "tag")))
			return "a field is gone that old bytes have: keep it, or raise min_version";
	}
	return NULL;
}

static int update(void)
{
	auto_free char *path = golden_path();
	struct json_object *now = schema(), *golden = json_object_from_file(path);
	int wrong = 0;

	if (golden) {
		json_object_object_foreach(golden, name, was)
		{
			struct json_object *table = json_object_object_get(now, name);
			const char *why = !table ? "it is gone: packages have it" : same(was, table) ? NULL : wrong_change(was, table);

			if (why)
				fprintf(stderr, "table \"%s\": %s\n", name, why);
			wrong |= !!why;
		}
	}
	if (!wrong && json_object_to_file_ext(path, now, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE) < 0) {
		fprintf(stderr, "%s: %s\n", path, json_util_get_last_err());
		wrong = 1;
	}
	json_object_put(golden);
	json_object_put(now);
	return wrong;
}

static struct json_object *parse(const char *text)
{
	struct json_object *o = json_tokener_parse(text);

	assert_non_null(o);
	return o;
}

static void an_update_takes_only_changes_that_old_bytes_survive(void **state)
{
	static const struct {
		const char *now, *why;
	} cases[] = {
		{"{'version':1,'min_version':1,'fields':[{'tag':1,'bytes':8}]}", "it changed: raise its version"},
		{"{'version':2,'min_version':1,'fields':[{'tag':1,'bytes':8}]}",
		 "a field has another type or count: give it a new tag, or raise min_version"},
		{"{'version':2,'min_version':2,'fields':[{'tag':1,'bytes':8}]}", NULL},
		{"{'version':2,'min_version':1,'fields':[{'tag':1,'bytes':4},{'tag':2,'bytes':4}]}",
		 "a new field does not say since which version it is there"},
		{"{'version':2,'min_version':1,'fields':[{'tag':1,'bytes':4,'max':9},{'tag':2,'bytes':4,'since':2}]}", NULL},
		{"{'version':2,'min_version':1,'fields':[{'tag':2,'bytes':4,'since':2}]}",
		 "a field is gone that old bytes have: keep it, or raise min_version"},
	};
	struct json_object *was = parse("{'version':1,'min_version':1,'fields':[{'tag':1,'bytes':4}]}");

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct json_object *now = parse(cases[i].now);
		const char *why = wrong_change(was, now);

		assert_true(!why == !cases[i].why);
		if (why)
			assert_string_equal(why, cases[i].why);
		json_object_put(now);
	}
	json_object_put(was);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_fields_of_every_table_are_the_whole_struct),
		cmocka_unit_test(tags_ascend_and_versions_make_sense),
		cmocka_unit_test(fields_are_of_a_kind_that_there_is),
		cmocka_unit_test(no_two_tables_have_one_name),
		cmocka_unit_test(least_and_most_of_every_table_go_out_and_in),
		cmocka_unit_test(no_table_has_changed_without_a_new_version),
		cmocka_unit_test(an_update_takes_only_changes_that_old_bytes_survive),
	};

	if (argc == 2 && !strcmp(argv[1], "--update"))
		return update();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

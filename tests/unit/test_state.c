/* test_state.c: state tables: bytes out and in, and what is refused. */
#include "cm.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/state.h"

enum colour { RED, GREEN, BLUE };

struct inner {
	u32 index;
	u64 data;
};

struct sample {
	u8 small;
	bool flag;
	u16 mid;
	enum colour colour;
	u64 big;
	s64 offset;
	u16 words[3];
	bool flags[2];
	u32 nr_list;
	struct inner list[4];
	struct inner one;
	u32 nr_blob;
	u8 blob[10];
	char text[6];
	u8 later;
};

static const struct state_field inner_fields[] = {
	STATE_NUM(struct inner, index, 1, .max = 99),
	STATE_NUM(struct inner, data, 2, .hex = true),
	STATE_END,
};
static const struct state_table inner_table = {
	.name = "inner", .version = 3, .min_version = 2, .size = sizeof(struct inner), .fields = inner_fields};

static const struct state_field sample_fields[] = {
	STATE_NUM(struct sample, small, 1),
	STATE_FLAG(struct sample, flag, 2),
	STATE_NUM(struct sample, mid, 3),
	STATE_NUM(struct sample, colour, 4, .max = BLUE),
	STATE_NUM(struct sample, big, 5, .hex = true),
	STATE_NUM(struct sample, offset, 6),
	STATE_ARRAY(struct sample, words, 7),
	STATE_ARRAY(struct sample, flags, 8),
	STATE_NUM(struct sample, nr_list, 9),
	STATE_MANY(struct sample, list, 10, &inner_table, STATE_NR(struct sample, nr_list)),
	STATE_ONE(struct sample, one, 11, &inner_table),
	STATE_NUM(struct sample, nr_blob, 12),
	STATE_BUF(struct sample, blob, 13, STATE_NR(struct sample, nr_blob)),
	STATE_STR(struct sample, text, 14),
	STATE_NUM(struct sample, later, 15, .since = 2),
	STATE_END,
};
static const struct state_table sample_table = {
	.name = "sample", .version = 2, .min_version = 1, .size = sizeof(struct sample), .fields = sample_fields};

/* What came before `later`. */
static const struct state_table old_table = {
	.name = "sample", .version = 1, .min_version = 1, .size = sizeof(struct sample), .fields = sample_fields};

static void fill(struct sample *s)
{
	*s = (struct sample){
		.small = 1,
		.flag = true,
		.mid = 0x1234,
		.colour = BLUE,
		.big = UINT64_MAX,
		.offset = -5,
		.words = {1, 2, 0xffff},
		.flags = {true, false},
		.nr_list = 2,
		.list = {{7, 0x70}, {8, 0x80}},
		.one = {99, 1},
		.nr_blob = 3,
		.blob = {0xaa, 0xbb, 0xcc},
		.text = "hello",
		.later = 9,
	};
}

static void encode(struct buf *out)
{
	struct sample s;

	fill(&s);
	state_encode(&sample_table, &s, out);
}

/* Offset of the header of a field of the sample, by tag: a walk that knows nothing of tables. */
static size_t find(const struct buf *b, u16 tag)
{
	size_t at = 0;

	while (ld_le16(b->data + at) != tag) {
		u32 nr = ld_le32(b->data + at + 4);
		u8 type = b->data[at + 2], elem = b->data[at + 3];

		at += 8;
		for (u32 i = 0; type == STATE_STRUCT && i < nr; i++)
			at += 4 + ld_le32(b->data + at);
		at += type == STATE_STRUCT ? 0 : (size_t)nr * elem;
	}
	return at;
}

static void refused(const struct buf *b, size_t len, const char *message)
{
	struct sample s;
	struct err e = {0};
	u8 *exact = malloc(len ? len : 1); /* the sanitizer sees a read behind it */

	memcpy(exact, b->data, len);
	assert_int_equal(state_decode(&sample_table, 2, exact, len, &s, &e), -EINVAL);
	if (message)
		assert_string_equal(e.msg, message);
	assert_true(e.msg[0]);
	free(exact);
}

static void what_is_encoded_decodes_to_the_same(void **state)
{
	struct buf b = {0}, again = {0};
	struct sample in, out;
	struct err e = {0};

	(void)state;
	fill(&in);
	encode(&b);
	memset(&out, 0xa5, sizeof(out));
	assert_int_equal(state_decode(&sample_table, 2, b.data, b.len, &out, &e), 0);
	assert_int_equal(out.small, 1);
	assert_true(out.flag);
	assert_int_equal(out.colour, BLUE);
	assert_true(out.big == UINT64_MAX && out.offset == -5);
	assert_memory_equal(out.words, in.words, sizeof(in.words));
	assert_int_equal(out.nr_list, 2);
	assert_true(out.list[1].index == 8 && out.list[1].data == 0x80 && out.list[2].index == 0);
	assert_int_equal(out.one.index, 99);
	assert_memory_equal(out.blob, "\xaa\xbb\xcc\0\0\0\0\0\0", 10);
	assert_string_equal(out.text, "hello");
	assert_int_equal(out.later, 9);
	state_encode(&sample_table, &out, &again);
	assert_int_equal(again.len, b.len);
	assert_memory_equal(again.data, b.data, b.len);
	assert_true(b.len <= state_size_max(&sample_table));
	buf_fini(&b);
	buf_fini(&again);
}

static void the_bytes_are_as_the_header_says(void **state)
{
	static const u8 begin[] = {1, 0, STATE_UINT, 1, 1, 0, 0,	  0, 1, 2, 0, STATE_BOOL, 1,	1,
				   0, 0, 0,	     1, 3, 0, STATE_UINT, 2, 1, 0, 0, 0,	  0x34, 0x12};
	static const u8 one[] = {11, 0, STATE_STRUCT, 3, 1, 0, 0, 0, 28, 0, 0, 0, 1, 0, STATE_UINT, 4, 1, 0, 0, 0, 99, 0, 0, 0,
				 2,  0, STATE_UINT,   8, 1, 0, 0, 0, 1,	 0, 0, 0, 0, 0, 0,	    0};
	struct buf b = {0};

	(void)state;
	encode(&b);
	assert_memory_equal(b.data, begin, sizeof(begin));
	assert_memory_equal(b.data + find(&b, 11), one, sizeof(one));
	assert_memory_equal(b.data + find(&b, 14), "\x0e\0\3\1\5\0\0\0hello", 13);
	buf_fini(&b);
}

static void every_truncation_is_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	encode(&b);
	for (size_t len = 0; len < b.len; len++)
		refused(&b, len, NULL);
	refused(&b, 0, "field small: it is missing");
	refused(&b, find(&b, 10) + 8 + 4 + 11, "field list[0]: the data ends in the middle of it");
	buf_u8(&b, 0);
	refused(&b, b.len, "1 bytes too many");
	buf_fini(&b);
}

static void poke(u16 tag, size_t at, u8 value, const char *message)
{
	struct buf b = {0};

	encode(&b);
	b.data[find(&b, tag) + at] = value;
	refused(&b, b.len, message);
	buf_fini(&b);
}

static void a_field_out_of_bounds_is_named(void **state)
{
	(void)state;
	poke(1, 0, 7, "field small: tag 7 in place of 1");
	poke(1, 2, 3, "field small: type 3 in place of 0");
	poke(1, 3, 2, "field small: elements of 2 bytes in place of 1");
	poke(2, 8, 2, "field flag: 2 is over 1");
	poke(8, 9, 0xff, "field flags[1]: 255 is over 1");
	poke(4, 8, 3, "field colour: 3 is over 2");
	poke(7, 4, 2, "field words: 2 elements in place of 3");
	poke(9, 8, 3, "field list: 2 elements, but the state announces 3");
	poke(9, 8, 5, "field list: 2 elements, but the state announces 5");
	poke(10, 7, 0xff, "field list: 4278190082 elements, at most 4 fit");
	poke(10, 8 + 4 + 8, 100, "field list[0].index: 100 is over 99");
	poke(10, 8 + 3, 0xff, "field list[0]: the data ends in the middle of it");
	poke(10, 8, 29, "field list[0]: 1 bytes too many");
	poke(10, 3, 1, "field list: version 1 of \"inner\" is too old: this husk reads it from version 2 on");
	poke(11, 3, 4, "field one: version 4 of \"inner\" comes from a newer husk: this one reads up to version 3");
	poke(13, 4, 2, "field blob: 2 elements, but the state announces 3");
	poke(14, 4, 6, "field text: 6 bytes of text, at most 5 fit");
	poke(14, 10, 0, "field text: a text has a NUL in it");
}

static void older_bytes_lack_what_came_later(void **state)
{
	struct buf b = {0};
	struct sample out;
	struct err e = {0};

	(void)state;
	encode(&b);
	assert_int_equal(state_decode(&sample_table, 1, b.data, b.len, &out, &e), -EINVAL);
	assert_string_equal(e.msg, "9 bytes too many");
	b.len -= 9;
	assert_int_equal(state_decode(&sample_table, 1, b.data, b.len, &out, &e), 0);
	assert_int_equal(out.later, 0);
	assert_int_equal(state_decode(&sample_table, 2, b.data, b.len, &out, &e), -EINVAL);
	assert_string_equal(e.msg, "field later: it is missing");
	assert_int_equal(state_decode(&sample_table, 3, b.data, b.len, &out, &e), -EINVAL);
	assert_string_equal(e.msg, "version 3 of \"sample\" comes from a newer husk: this one reads up to version 2");
	assert_int_equal(state_decode(&sample_table, 0, b.data, b.len, &out, &e), -EINVAL);
	assert_int_equal(state_decode(&old_table, 2, b.data, b.len, &out, &e), -EINVAL);
	buf_fini(&b);
}

static void random_changes_never_crash_and_stay_within_bounds(void **state)
{
	struct buf b = {0};

	(void)state;
	encode(&b);
	srand(1);
	for (u32 i = 0; i < 200000; i++) {
		struct sample out;
		struct err e = {0};
		u8 *bytes = malloc(b.len);

		memcpy(bytes, b.data, b.len);
		for (u32 k = 0; k < 1 + i % 3; k++)
			bytes[(u32)rand() % b.len] = (u8)rand();
		if (state_decode(&sample_table, 2, bytes, b.len, &out, &e) == 0) {
			assert_true(out.nr_list <= 4 && out.nr_blob <= 10 && out.one.index <= 99 && out.colour <= BLUE);
			assert_null(memchr(&out.flag, 2, 1));
			assert_non_null(memchr(out.text, 0, sizeof(out.text)));
		} else {
			assert_true(e.code == -EINVAL && e.msg[0]);
		}
		free(bytes);
	}
	buf_fini(&b);
}

static void the_json_of_a_struct_has_its_fields(void **state)
{
	struct sample s;
	struct json_object *o;

	(void)state;
	fill(&s);
	o = state_json(&sample_table, &s);
	assert_string_equal(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
			    "{\"small\":1,\"flag\":true,\"mid\":4660,\"colour\":2,\"big\":\"0xffffffffffffffff\","
			    "\"offset\":18446744073709551611,\"words\":[1,2,65535],\"flags\":[true,false],\"nr_list\":2,"
			    "\"list\":[{\"index\":7,\"data\":\"0x70\"},{\"index\":8,\"data\":\"0x80\"}],"
			    "\"one\":{\"index\":99,\"data\":\"0x1\"},\"nr_blob\":3,\"blob\":\"aabbcc\",\"text\":\"hello\",\"later\":9}");
	json_object_put(o);
}

static void the_schema_says_all_that_the_bytes_depend_on(void **state)
{
	struct json_object *o = state_schema(&inner_table);

	(void)state;
	assert_string_equal(
		json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
		"{\"name\":\"inner\",\"version\":3,\"min_version\":2,\"fields\":[{\"name\":\"index\",\"tag\":1,\"type\":\"uint\","
		"\"bytes\":4,\"max\":99},{\"name\":\"data\",\"tag\":2,\"type\":\"uint\",\"bytes\":8}]}");
	json_object_put(o);
	o = state_schema(&sample_table);
	assert_non_null(strstr(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
			       "{\"name\":\"list\",\"tag\":10,\"type\":\"struct\",\"table\":\"inner\",\"count\":4,\"nr\":\"nr_list\"}"));
	assert_non_null(strstr(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN), "\"since\":2"));
	json_object_put(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_encoded_decodes_to_the_same), cmocka_unit_test(the_bytes_are_as_the_header_says),
		cmocka_unit_test(every_truncation_is_refused),	       cmocka_unit_test(a_field_out_of_bounds_is_named),
		cmocka_unit_test(older_bytes_lack_what_came_later),    cmocka_unit_test(random_changes_never_crash_and_stay_within_bounds),
		cmocka_unit_test(the_json_of_a_struct_has_its_fields), cmocka_unit_test(the_schema_says_all_that_the_bytes_depend_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

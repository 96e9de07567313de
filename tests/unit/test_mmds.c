/* test_mmds.c: the metadata service: its document, session tokens, and the guest's requests, right and wrong. */
#include "cm.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/mmds.h"

#define STORE \
	"{\"latest\":{\"meta-data\":{\"reservation-id\":\"r-1\",\"ami-id\":\"ami-1\",\"obj\":{\"k\":\"v\"},\"list\":[\"a\",\"b\"]," \
	"\"empty\":\"\"," \
	"\"a/b\":\"slash\",\"m~n\":\"tilde\",\"none\":null}},\"Limits\":{\"CPU\":512},\"Usage\":{\"CPU\":12.12},\"yes\":true}"

#define GET(path, headers) "GET " path " HTTP/1.1\r\n" headers "\r\n"
#define PUT(path, headers) "PUT " path " HTTP/1.1\r\n" headers "\r\n"
#define TOKEN_PUT(headers) PUT("/latest/api/token", headers)
#define JSON		   "Accept: application/json\r\n"
#define TEXT_HEAD(status, headers) \
	"HTTP/1.1 " status "\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n" headers "Content-Type: text/plain\r\n"

struct fixture {
	struct mmds m;
	char reply[64 * 1024];
	bool close;
};

static struct json_object *json(const char *text)
{
	struct json_object *v = json_tokener_parse(text);

	assert_non_null(v);
	return v;
}

static int put(struct fixture *x, const char *text, struct err *e)
{
	struct json_object *v = json(text);
	int r = mmds_put(&x->m, v, e);

	json_object_put(v);
	return r;
}

static int patch(struct fixture *x, const char *text, struct err *e)
{
	struct json_object *v = json(text);
	int r = mmds_patch(&x->m, v, e);

	json_object_put(v);
	return r;
}

static void expect_store(struct fixture *x, const char *text)
{
	struct json_object *v = mmds_get(&x->m), *want = json(text);

	if (!json_object_equal(v, want))
		fail_msg("%s instead of %s", json_object_to_json_string(v), text);
	json_object_put(v);
	json_object_put(want);
}

static void start(struct fixture *x, u32 version, bool compat)
{
	struct cfg_mmds cfg = {.version = version, .imds_compat = compat};

	mmds_configure(&x->m, &cfg);
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	mmds_init(&x->m, MMDS_DEFAULT_LIMIT);
	assert_int_equal(put(x, STORE, NULL), 0);
	start(x, CFG_MMDS_V1, false);
	*state = x;
	return 0;
}

static int setup_empty(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	mmds_init(&x->m, MMDS_DEFAULT_LIMIT);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	mmds_fini(&x->m);
	free(x);
	return 0;
}

/* Serves len bytes from memory that ends behind them; the answer as a string, "" for none. */
static u32 serve_bytes(struct fixture *x, const void *data, u32 len)
{
	u8 *exact = malloc(len);
	struct buf reply = {0};
	u32 taken;

	memcpy(exact, data, len);
	x->close = false;
	taken = x->m.service.serve(&x->m.service, exact, len, &reply, &x->close);
	assert_true(reply.len < sizeof(x->reply) && taken <= len);
	memcpy(x->reply, reply.data ? reply.data : (u8 *)"", reply.len);
	x->reply[reply.len] = '\0';
	assert_int_equal(taken > 0, reply.len > 0);
	free(exact);
	buf_fini(&reply);
	return taken;
}

static const char *body(const struct fixture *x)
{
	const char *end = strstr(x->reply, "\r\n\r\n");

	assert_non_null(end);
	return end + 4;
}

static int status(const struct fixture *x)
{
	return atoi(x->reply + strlen("HTTP/1.1 "));
}

static void expect(struct fixture *x, const char *request, int want, const char *text)
{
	char length[40];

	assert_int_equal(serve_bytes(x, request, (u32)strlen(request)), strlen(request));
	if (status(x) != want || strcmp(body(x), text) != 0)
		fail_msg("%s\nanswers %s\ninstead of %d %s", request, x->reply, want, text);
	snprintf(length, sizeof(length), "Content-Length: %zu\r\n", strlen(text));
	assert_non_null(strstr(x->reply, length));
}

/* A token of ttl seconds, as header. */
static void token_header(struct fixture *x, const char *name, u32 ttl, char *header, size_t size)
{
	char request[200];

	snprintf(request, sizeof(request), TOKEN_PUT("X-metadata-token-ttl-seconds: %u\r\n"), ttl);
	serve_bytes(x, request, (u32)strlen(request));
	assert_int_equal(status(x), 200);
	snprintf(header, size, "%s: %s\r\n", name, body(x));
}

static void expect_with(struct fixture *x, const char *path, const char *header, int want, const char *text)
{
	char request[400];

	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\n%s\r\n", path, header);
	expect(x, request, want, text);
}

/* ---- the document ---- */

static void an_empty_store_reads_as_an_empty_object(void **state)
{
	expect_store(*state, "{}");
}

static void a_patch_needs_a_put_before_it(void **state)
{
	struct err e;

	assert_int_equal(patch(*state, "{\"a\":1}", &e), -ENOENT);
	assert_string_equal(e.msg, "The MMDS data store is not initialized.");
	expect_store(*state, "{}");
	assert_int_equal(put(*state, "{}", &e), 0);
	assert_int_equal(patch(*state, "{\"a\":1}", &e), 0);
	expect_store(*state, "{\"a\":1}");
}

static void a_put_replaces_everything(void **state)
{
	assert_int_equal(put(*state, "{\"a\":{\"b\":1}}", NULL), 0);
	assert_int_equal(put(*state, "{\"c\":null}", NULL), 0);
	expect_store(*state, "{\"c\":null}");
}

/* The cases of RFC 7396, appendix A, whose target and patch are objects. */
static void a_patch_merges_as_rfc_7396_says(void **state)
{
	static const char *const cases[][3] = {
		{"{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
		{"{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}"},
		{"{\"a\":\"b\"}", "{\"a\":null}", "{}"},
		{"{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}"},
		{"{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
		{"{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}"},
		{"{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}", "{\"a\":{\"b\":\"d\"}}"},
		{"{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}"},
		{"{\"e\":null}", "{\"a\":1}", "{\"e\":null,\"a\":1}"},
		{"{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}"},
		{"{\"a\":[1,{\"b\":2.5}]}", "{}", "{\"a\":[1,{\"b\":2.5}]}"},
	};

	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(put(*state, cases[i][0], NULL), 0);
		assert_int_equal(patch(*state, cases[i][1], NULL), 0);
		expect_store(*state, cases[i][2]);
	}
}

static void what_is_no_object_is_refused(void **state)
{
	static const char *const values[] = {"[1]", "\"a\"", "1", "true"};
	struct err e;

	assert_int_equal(put(*state, "{\"a\":1}", NULL), 0);
	for (u32 i = 0; i < ARRAY_SIZE(values); i++) {
		assert_int_equal(put(*state, values[i], &e), -EINVAL);
		assert_int_equal(patch(*state, values[i], &e), -EINVAL);
	}
	assert_int_equal(mmds_put(&((struct fixture *)*state)->m, NULL, &e), -EINVAL);
	expect_store(*state, "{\"a\":1}");
}

/* {"k":"aaa..."} of len bytes. */
static int put_sized(struct fixture *x, size_t len, int (*how)(struct fixture *, const char *, struct err *), struct err *e)
{
	char *text = malloc(len + 1);
	int r;

	memset(text, 'a', len);
	memcpy(text, "{\"k\":\"", 6);
	strcpy(text + len - 2, "\"}");
	r = how(x, text, e);
	free(text);
	return r;
}

static void the_size_limit_is_exact_and_a_refused_change_changes_nothing(void **state)
{
	struct fixture *x = *state;
	struct err e;

	assert_int_equal(put_sized(x, MMDS_DEFAULT_LIMIT, put, &e), 0);
	assert_int_equal(put_sized(x, MMDS_DEFAULT_LIMIT + 1, put, &e), -EFBIG);
	assert_int_equal(patch(x, "{\"b\":1}", &e), -EFBIG);
	assert_non_null(strstr(e.msg, "51200"));
	assert_int_equal(patch(x, "{\"k\":\"a\"}", &e), 0);
	expect_store(x, "{\"k\":\"a\"}");
	assert_int_equal(put_sized(x, MMDS_DEFAULT_LIMIT, patch, &e), 0);
}

static void what_get_returns_is_a_copy(void **state)
{
	struct fixture *x = *state;
	struct json_object *v;

	assert_int_equal(put(x, "{\"a\":{\"b\":1}}", NULL), 0);
	v = mmds_get(&x->m);
	json_object_object_del(json_object_object_get(v, "a"), "b");
	json_object_put(v);
	expect_store(x, "{\"a\":{\"b\":1}}");
}

static void a_running_vm_without_the_service_takes_no_data(void **state)
{
	struct fixture *x = *state;
	struct err e;

	mmds_configure(&x->m, NULL);
	assert_int_equal(put(x, "{\"a\":1}", &e), -ENOENT);
	start(x, CFG_MMDS_V2, false);
	assert_int_equal(put(x, "{\"a\":1}", &e), 0);
}

static void a_metadata_file_is_loaded_or_named_in_the_message(void **state)
{
	char path[] = "/tmp/husk-mmds-XXXXXX";
	struct err e;
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "{\"a\":[1]}", 9), 9);
	assert_int_equal(mmds_load(&((struct fixture *)*state)->m, path, &e), 0);
	expect_store(*state, "{\"a\":[1]}");
	assert_int_equal(pwrite(fd, "[", 1, 0), 1);
	assert_int_equal(mmds_load(&((struct fixture *)*state)->m, path, &e), -EINVAL);
	assert_non_null(strstr(e.msg, path));
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(write(fd, "[1]", 3), 3);
	assert_true(mmds_load(&((struct fixture *)*state)->m, path, &e) < 0);
	assert_non_null(strstr(e.msg, path));
	close(fd);
	unlink(path);
	assert_int_equal(mmds_load(&((struct fixture *)*state)->m, path, &e), -ENOENT);
	expect_store(*state, "{\"a\":[1]}");
}

/* ---- GET ---- */

static void imds_format_shows_strings_and_sorted_keys(void **state)
{
	expect(*state, GET("/", ""), 200, "Limits/\nUsage/\nlatest/\nyes");
	expect(*state, GET("/latest/meta-data", ""), 200, "a/b\nami-id\nempty\nlist\nm~n\nnone\nobj/\nreservation-id");
	expect(*state, GET("/latest/meta-data/", "Accept: */*\r\n"), 200, "a/b\nami-id\nempty\nlist\nm~n\nnone\nobj/\nreservation-id");
	expect(*state, GET("/latest/meta-data/ami-id", "accept: text/plain\r\n"), 200, "ami-1");
	expect(*state, GET("/latest/meta-data/empty", ""), 200, "");
	expect(*state, GET("/latest/meta-data/list/1", ""), 200, "b");
}

static void imds_format_has_no_numbers_lists_or_literals(void **state)
{
	static const char *const paths[] = {"/Limits/CPU", "/Usage/CPU", "/yes", "/latest/meta-data/list", "/latest/meta-data/none"};

	for (u32 i = 0; i < ARRAY_SIZE(paths); i++)
		expect_with(*state, paths[i], "", 501, "Cannot retrieve value. The value has an unsupported type.");
}

static void json_format_shows_every_value(void **state)
{
	expect(*state, GET("/latest/meta-data/ami-id", JSON), 200, "\"ami-1\"");
	assert_non_null(strstr(((struct fixture *)*state)->reply, "Content-Type: application/json\r\n"));
	expect(*state, GET("/Limits/CPU", JSON), 200, "512");
	expect(*state, GET("/Usage", JSON), 200, "{\"CPU\":12.12}");
	expect(*state, GET("/yes", JSON), 200, "true");
	expect(*state, GET("/latest/meta-data/none", JSON), 200, "null");
	expect(*state, GET("/latest/meta-data/list", JSON), 200, "[\"a\",\"b\"]");
	expect(*state, GET("/latest/meta-data/a~1b", JSON), 200, "\"slash\"");
	expect(*state, GET("/latest/meta-data/m~0n", "ACCEPT:APPLICATION/JSON\r\n"), 200, "\"tilde\"");
}

static void imds_compat_is_text_whatever_is_accepted(void **state)
{
	start(*state, CFG_MMDS_V1, true);
	expect(*state, GET("/latest/meta-data/ami-id", JSON), 200, "ami-1");
	assert_non_null(strstr(((struct fixture *)*state)->reply, "Content-Type: text/plain\r\n"));
	expect(*state, GET("/Limits/CPU", JSON), 501, "Cannot retrieve value. The value has an unsupported type.");
}

static void slashes_in_a_row_count_as_one(void **state)
{
	expect(*state, GET("//latest///meta-data/ami-id//", ""), 200, "ami-1");
	expect(*state, GET("http://169.254.169.254/latest/meta-data/ami-id", ""), 200, "ami-1");
	expect(*state, GET("HTTP://x//", JSON), 200, STORE);
	expect(*state, GET("http://169.254.169.254", ""), 400, "Invalid URI.");
	expect(*state, GET("latest", ""), 400, "Invalid URI.");
	expect(*state, GET("ftp://x/latest", ""), 400, "Invalid URI.");
}

static void what_is_not_there_is_not_found(void **state)
{
	static const char *const paths[] = {"/nosuch",
					    "/latest//nosuch",
					    "/latest/meta-data/ami-id/0",
					    "/latest/meta-data/list/2",
					    "/latest/meta-data/list/01",
					    "/latest/meta-data/list/+1",
					    "/latest/meta-data/list/-1",
					    "/latest/meta-data/list/99999999999999999999",
					    "/latest/meta-data/list/",
					    "/yes/x",
					    "/a~",
					    "/a~2",
					    "/latest/meta-data/none/x",
					    "/latest?x=1"};
	char text[200];

	for (u32 i = 0; i < ARRAY_SIZE(paths); i++) {
		snprintf(text, sizeof(text), "Resource not found: %s.", paths[i]);
		if (strcmp(paths[i], "/latest/meta-data/list/"))
			expect_with(*state, paths[i], JSON, 404, text);
		else
			expect_with(*state, paths[i], JSON, 200, "[\"a\",\"b\"]");
	}
}

static void a_store_that_was_never_put_is_null(void **state)
{
	start(*state, CFG_MMDS_V1, false);
	expect(*state, GET("/", JSON), 200, "null");
	expect(*state, GET("/", ""), 501, "Cannot retrieve value. The value has an unsupported type.");
	expect(*state, GET("/a", ""), 404, "Resource not found: /a.");
}

static void other_methods_are_not_allowed(void **state)
{
	static const char *const methods[] = {"POST", "PATCH", "DELETE", "OPTIONS", "get", "X"};
	struct fixture *x = *state;
	char request[100];

	for (u32 i = 0; i < ARRAY_SIZE(methods); i++) {
		snprintf(request, sizeof(request), "%s / HTTP/1.1\r\n\r\n", methods[i]);
		expect(x, request, 405, "Not allowed HTTP method.");
		assert_non_null(strstr(x->reply, "\r\nAllow: GET, PUT\r\n"));
	}
	serve_bytes(x, "HEAD / HTTP/1.1\r\n\r\n", 19);
	assert_int_equal(status(x), 405);
	assert_string_equal(body(x), "");
}

/* ---- tokens ---- */

static void version_2_wants_a_token(void **state)
{
	struct fixture *x = *state;
	char header[200];

	start(x, CFG_MMDS_V2, false);
	expect(x, GET("/yes", JSON), 401,
	       "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to specify the session token.");
	assert_int_equal(x->m.service.counters.rx_no_token, 1);
	expect(x, GET("/yes", JSON "X-metadata-token: foo\r\n"), 401, "MMDS token not valid.");
	expect(x, GET("/yes", JSON "X-metadata-token:\r\n"), 401, "MMDS token not valid.");
	expect(x, GET("/yes", JSON "X-metadata-token: 000000000000000000000000000000000000000000000000\r\n"), 401, "MMDS token not valid.");
	assert_int_equal(x->m.service.counters.rx_invalid_token, 3);
	token_header(x, "X-metadata-token", 60, header, sizeof(header));
	expect_with(x, "/latest/meta-data/ami-id", header, 200, "ami-1");
	token_header(x, "x-AWS-ec2-metadata-token", 60, header, sizeof(header));
	expect_with(x, "/latest/meta-data/ami-id", header, 200, "ami-1");
	header[strlen(header) - 3] ^= 1; /* the last digit */
	expect_with(x, "/latest/meta-data/ami-id", header, 401, "MMDS token not valid.");
	assert_int_equal(x->m.service.counters.rx_no_token, 1);
}

static void version_1_counts_what_is_wrong_with_tokens_and_answers(void **state)
{
	struct fixture *x = *state;
	char header[200];

	expect(x, GET("/latest/meta-data/ami-id", "X-metadata-token: foo\r\n"), 200, "ami-1");
	expect(x, GET("/latest/meta-data/ami-id", ""), 200, "ami-1");
	token_header(x, "X-metadata-token", 60, header, sizeof(header));
	expect_with(x, "/latest/meta-data/ami-id", header, 200, "ami-1");
	assert_int_equal(x->m.service.counters.rx_invalid_token, 1);
	assert_int_equal(x->m.service.counters.rx_no_token, 1);
	assert_int_equal(x->m.service.counters.rx_count, 4);
}

static void a_token_answer_repeats_the_time_to_live(void **state)
{
	struct fixture *x = *state;

	serve_bytes(x, TOKEN_PUT("x-aws-EC2-metadata-token-ttl-seconds: 21600\r\n"),
		    (u32)strlen(TOKEN_PUT("x-aws-EC2-metadata-token-ttl-seconds: 21600\r\n")));
	assert_int_equal(status(x), 200);
	assert_int_equal(strlen(body(x)), 2 * MMDS_TOKEN_BYTES);
	assert_non_null(strstr(x->reply, "\r\nx-aws-EC2-metadata-token-ttl-seconds: 21600\r\n"));
	serve_bytes(x, PUT("//latest/api//token", "X-metadata-token-ttl-seconds: 1\r\nContent-Length: 0\r\n"),
		    (u32)strlen(PUT("//latest/api//token", "X-metadata-token-ttl-seconds: 1\r\nContent-Length: 0\r\n")));
	assert_int_equal(status(x), 200);
}

static void wrong_token_requests_are_explained(void **state)
{
	static const char *const numbers[] = {"0", "21601", "4294967295"};
	static const char *const others[] = {"-1", "", "1x", "1.5", "4294967296", "99999999999999999999", "1 2"};
	struct fixture *x = *state;
	char request[200], text[200];

	expect(x, TOKEN_PUT(""), 400,
	       "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or `X-aws-ec2-metadata-token-ttl-seconds` header to "
	       "specify the token's lifetime.");
	expect(x, PUT("/", "x-forwarded-for: foo\r\n"), 400, "Invalid header. Reason: Unsupported header name. Key: x-forwarded-for");
	expect(x, TOKEN_PUT("X-metadata-token-ttl-seconds: 60\r\nX-Forwarded-For: a\r\n"), 400,
	       "Invalid header. Reason: Unsupported header name. Key: X-Forwarded-For");
	expect(x, PUT("/latest/api/toke", "X-metadata-token-ttl-seconds: 60\r\n"), 404, "Resource not found: /latest/api/toke.");
	expect(x, PUT("/latest/api/tokens", "X-metadata-token-ttl-seconds: 60\r\n"), 404, "Resource not found: /latest/api/tokens.");
	for (u32 i = 0; i < ARRAY_SIZE(numbers); i++) {
		snprintf(request, sizeof(request), TOKEN_PUT("X-metadata-token-ttl-seconds: %s\r\n"), numbers[i]);
		snprintf(text, sizeof(text),
			 "Invalid time to live value provided for token: %s. Please provide a value between 1 and 21600.", numbers[i]);
		expect(x, request, 400, text);
	}
	for (u32 i = 0; i < ARRAY_SIZE(others); i++) {
		snprintf(request, sizeof(request), TOKEN_PUT("X-metadata-token-ttl-seconds: %s\r\n"), others[i]);
		snprintf(text, sizeof(text), "Invalid header. Reason: Invalid value. Key:X-metadata-token-ttl-seconds; Value:%s",
			 others[i]);
		expect(x, request, 400, text);
	}
	assert_int_equal(x->m.nr_tokens, 0);
}

static void a_token_ends_with_its_time(void **state)
{
	struct fixture *x = *state;
	char one[200], other[200];

	start(x, CFG_MMDS_V2, false);
	token_header(x, "X-metadata-token", 1, one, sizeof(one));
	token_header(x, "X-metadata-token", 60, other, sizeof(other));
	expect_with(x, "/latest/meta-data/ami-id", one, 200, "ami-1");
	usleep(1050000);
	expect_with(x, "/latest/meta-data/ami-id", one, 401, "MMDS token not valid.");
	expect_with(x, "/latest/meta-data/ami-id", other, 200, "ami-1");
	token_header(x, "X-metadata-token", 60, one, sizeof(one));
	assert_int_equal(x->m.nr_tokens, 2); /* in the place of the one that has expired */
}

static void a_restored_vm_knows_no_old_token(void **state)
{
	struct fixture *x = *state;
	char header[200];

	token_header(x, "X-metadata-token", 60, header, sizeof(header));
	start(x, CFG_MMDS_V2, false);
	expect_with(x, "/latest/meta-data/ami-id", header, 401, "MMDS token not valid.");
}

static void more_tokens_than_fit_end_the_one_that_would_end_next(void **state)
{
	struct fixture *x = *state;
	char first[200], second[200], last[200];

	start(x, CFG_MMDS_V2, false);
	token_header(x, "X-metadata-token", 100, second, sizeof(second));
	token_header(x, "X-metadata-token", 50, first, sizeof(first));
	for (u32 i = 2; i < MMDS_MAX_TOKENS; i++)
		token_header(x, "X-metadata-token", 200, last, sizeof(last));
	expect_with(x, "/latest/meta-data/ami-id", first, 200, "ami-1");
	token_header(x, "X-metadata-token", 200, last, sizeof(last));
	assert_int_equal(x->m.nr_tokens, MMDS_MAX_TOKENS);
	expect_with(x, "/latest/meta-data/ami-id", first, 401, "MMDS token not valid.");
	expect_with(x, "/latest/meta-data/ami-id", second, 200, "ami-1");
	expect_with(x, "/latest/meta-data/ami-id", last, 200, "ami-1");
}

/* ---- HTTP ---- */

static void the_head_of_an_answer_is_firecrackers(void **state)
{
	struct fixture *x = *state;

	expect(x, GET("/latest/meta-data/ami-id", ""), 200, "ami-1");
	assert_string_equal(x->reply, TEXT_HEAD("200 OK", "") "Content-Length: 5\r\n\r\nami-1");
}

static void a_connection_is_kept_or_closed_as_asked(void **state)
{
	struct fixture *x = *state;

	expect(x, GET("/latest/meta-data/ami-id", ""), 200, "ami-1");
	assert_false(x->close);
	expect(x, GET("/latest/meta-data/ami-id", "Connection: Close\r\n"), 200, "ami-1");
	assert_true(x->close && strstr(x->reply, "\r\nConnection: close\r\n"));
	expect(x, "GET /latest/meta-data/ami-id HTTP/1.0\r\n\r\n", 200, "ami-1");
	assert_true(x->close && !strncmp(x->reply, "HTTP/1.0 200 OK\r\n", 17));
	expect(x, "GET /latest/meta-data/ami-id HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, "ami-1");
	assert_false(x->close);
}

static void a_request_in_pieces_waits_for_its_end(void **state)
{
	static const char request[] = GET("/latest/meta-data/ami-id", "Host: 169.254.169.254\r\n");
	struct fixture *x = *state;

	for (u32 len = 1; len < strlen(request); len++)
		assert_int_equal(serve_bytes(x, request, len), 0);
	assert_int_equal(serve_bytes(x, request, (u32)strlen(request)), strlen(request));
	assert_int_equal(status(x), 200);
}

static void requests_in_a_row_are_taken_one_by_one(void **state)
{
	static const char one[] = GET("/latest/meta-data/ami-id", ""), two[] = GET("/latest/meta-data/ami-id", "") GET("/yes", "");

	assert_int_equal(serve_bytes(*state, two, (u32)strlen(two)), strlen(one));
}

static void requests_that_make_no_sense_are_refused_and_end_the_connection(void **state)
{
	static const char *const requests[] = {
		"\r\n\r\n",
		"GET\r\n\r\n",
		"GET /\r\n\r\n",
		"GET  / HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1 \r\n\r\n",
		"GET / HTTP/2.0\r\n\r\n",
		"GET / http/1.1\r\n\r\n",
		" GET / HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nno colon\r\n\r\n",
		"GET / HTTP/1.1\r\n: no name\r\n\r\n",
		"GET / HTTP/1.1\r\nna me: x\r\n\r\n",
		"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
		"GET / HTTP/1.1\r\nA: b\nB: c\r\n\r\n",
		"GET / HTTP/1.1\r\nA: \x01\r\n\r\n",
		"GET /\x7f HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nContent-Length: 100\r\n\r\n",
		"GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
		"GET / HTTP/1.1\r\nContent-Length: 00x\r\n\r\n",
		"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\nContent-Length: 9\r\n\r\n",
	};
	struct fixture *x = *state;

	for (u32 i = 0; i < ARRAY_SIZE(requests); i++) {
		expect(x, requests[i], 400, "Invalid request.");
		assert_true(x->close);
	}
	serve_bytes(x, "GET /a\0b HTTP/1.1\r\n\r\n", 21);
	assert_int_equal(status(x), 400);
	serve_bytes(x, "GET / HTTP/1.1\r\nX-metadata-token: \0\r\n\r\n", 39);
	assert_int_equal(status(x), 400);
}

static void a_request_that_does_not_end_is_refused_when_there_is_no_more_room(void **state)
{
	struct fixture *x = *state;
	char text[MMDS_REQUEST_MAX];

	memset(text, 'a', sizeof(text));
	memcpy(text, "GET /", 5);
	assert_int_equal(serve_bytes(x, text, sizeof(text) - 1), 0);
	assert_int_equal(serve_bytes(x, text, sizeof(text)), sizeof(text));
	assert_int_equal(status(x), 400);
	assert_true(x->close);
	memcpy(text + sizeof(text) - 13, " HTTP/1.1\r\n\r\n", 13);
	assert_int_equal(serve_bytes(x, text, sizeof(text)), sizeof(text));
	assert_int_equal(status(x), 404);
}

#define TEST(f)	      cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST_EMPTY(f) cmocka_unit_test_setup_teardown(f, setup_empty, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_EMPTY(an_empty_store_reads_as_an_empty_object),
		TEST_EMPTY(a_patch_needs_a_put_before_it),
		TEST_EMPTY(a_put_replaces_everything),
		TEST_EMPTY(a_patch_merges_as_rfc_7396_says),
		TEST_EMPTY(what_is_no_object_is_refused),
		TEST_EMPTY(the_size_limit_is_exact_and_a_refused_change_changes_nothing),
		TEST_EMPTY(what_get_returns_is_a_copy),
		TEST_EMPTY(a_running_vm_without_the_service_takes_no_data),
		TEST_EMPTY(a_metadata_file_is_loaded_or_named_in_the_message),
		TEST(imds_format_shows_strings_and_sorted_keys),
		TEST(imds_format_has_no_numbers_lists_or_literals),
		TEST(json_format_shows_every_value),
		TEST(imds_compat_is_text_whatever_is_accepted),
		TEST(slashes_in_a_row_count_as_one),
		TEST(what_is_not_there_is_not_found),
		TEST_EMPTY(a_store_that_was_never_put_is_null),
		TEST(other_methods_are_not_allowed),
		TEST(version_2_wants_a_token),
		TEST(version_1_counts_what_is_wrong_with_tokens_and_answers),
		TEST(a_token_answer_repeats_the_time_to_live),
		TEST(wrong_token_requests_are_explained),
		TEST(a_token_ends_with_its_time),
		TEST(a_restored_vm_knows_no_old_token),
		TEST(more_tokens_than_fit_end_the_one_that_would_end_next),
		TEST(the_head_of_an_answer_is_firecrackers),
		TEST(a_connection_is_kept_or_closed_as_asked),
		TEST(a_request_in_pieces_waits_for_its_end),
		TEST(requests_in_a_row_are_taken_one_by_one),
		TEST(requests_that_make_no_sense_are_refused_and_end_the_connection),
		TEST(a_request_that_does_not_end_is_refused_when_there_is_no_more_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

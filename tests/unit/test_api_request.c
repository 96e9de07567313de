/* test_api_request.c: requests of the REST API without HTTP: routes, bodies, phases, what a configuration becomes, and what is shown of it.
 */
#include "cm.h"

#include <json-c/json.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/control.h"
#include "api/mmds.h"
#include "api/openapi.h"

#define BAD_JSON "An error occurred when deserializing the json body of a request: "

/* A husk that nobody starts: the test is the API thread, another one is the main thread. */
struct fixture {
	struct control control;
	struct mmds mmds;
	struct log log;
	pthread_t main;
	bool main_ended;
	char disk[32];
	char reply[64 * 1024];
	bool deprecated;
};

static void *main_thread(void *opaque)
{
	struct fixture *f = opaque;

	control_wait_start(&f->control);
	return NULL;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct json_object *doc = json_object_new_object();
	struct err e;
	int fd;

	strcpy(f->disk, "/tmp/husk-api-XXXXXX");
	fd = mkstemp(f->disk);
	assert_int_equal(ftruncate(fd, 4096), 0);
	close(fd);
	log_init(&f->log, STDERR_FILENO, LOG_OFF);
	mmds_init(&f->mmds, 1000);
	assert_int_equal(control_init(&f->control, doc, &f->mmds, &f->log, &e), 0);
	json_object_put(doc);
	assert_int_equal(pthread_create(&f->main, NULL, main_thread, f), 0);
	*state = f;
	return 0;
}

static void end_main(struct fixture *f)
{
	if (!f->main_ended) {
		loop_stop(&f->control.loop);
		pthread_join(f->main, NULL);
	}
	f->main_ended = true;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	end_main(f);
	control_fini(&f->control);
	mmds_fini(&f->mmds);
	log_fini(&f->log);
	unlink(f->disk);
	free(f);
	return 0;
}

/* The status; the answer's JSON, or its fault_message, is in f->reply. */
static u32 ask(struct fixture *f, enum api_method method, const char *path, const char *body)
{
	struct api_request q = {.method = method, .path = path, .body = body, .len = body ? strlen(body) : 0};
	struct json_object *fault = NULL;
	struct api_reply reply;
	u32 status;

	api_serve(&f->control, &q, &reply);
	json_object_object_get_ex(reply.body, "fault_message", &fault);
	snprintf(f->reply, sizeof(f->reply), "%s",
		 fault	      ? json_object_get_string(fault)
		 : reply.body ? json_object_to_json_string_ext(reply.body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
			      : "");
	f->deprecated = reply.deprecated;
	status = reply.status;
	api_reply_fini(&reply);
	return status;
}

static u32 put(struct fixture *f, const char *path, const char *body)
{
	return ask(f, API_PUT, path, body);
}

static void assert_refused(struct fixture *f, enum api_method method, const char *path, const char *body, const char *text)
{
	assert_int_equal(ask(f, method, path, body), 400);
	assert_string_equal(f->reply, text);
}

static void assert_shows(struct fixture *f, const char *path, const char *text)
{
	assert_int_equal(ask(f, API_GET, path, NULL), 200);
	assert_string_equal(f->reply, text);
}

static void a_wrong_path_or_method_is_named(void **state)
{
	struct fixture *f = *state;

	assert_refused(f, API_PUT, "/nowhere", "{}", "Invalid request method and/or path: PUT nowhere.");
	assert_refused(f, API_GET, "/actions", NULL, "Invalid request method and/or path: GET actions.");
	assert_refused(f, API_DELETE, "/vm", NULL, "Invalid request method and/or path: DELETE vm.");
	assert_refused(f, API_PUT, "", "{}", "Invalid request method and/or path: PUT .");
	assert_refused(f, API_PUT, "/vm/config/more", "{}", "Invalid request method and/or path: PUT vm/config/more.");
	assert_refused(f, API_GET, "machine-config", NULL, "Invalid request method and/or path: GET machine-config.");
}

static void scheme_host_and_a_last_slash_are_taken_off(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(ask(f, API_GET, "http://localhost/machine-config", NULL), 200);
	assert_int_equal(ask(f, API_GET, "/machine-config/", NULL), 200);
	assert_int_equal(ask(f, API_GET, "http://localhost", NULL), 200);
	assert_non_null(strstr(f->reply, "\"state\":\"Not started\""));
}

static void bodies_that_must_or_must_not_be_there(void **state)
{
	struct fixture *f = *state;

	assert_refused(f, API_PUT, "/machine-config", NULL, "Empty PUT request.");
	assert_refused(f, API_PATCH, "/vm", NULL, "Empty PATCH request.");
	assert_refused(f, API_PATCH, "/machine-config", "{}", "Empty PATCH request.");
	assert_refused(f, API_GET, "/machine-config", "{}", "GET request cannot have a body.");
}

static void a_body_that_is_no_json_says_where(void **state)
{
	struct fixture *f = *state;
	char deep[200];

	assert_refused(f, API_PUT, "/machine-config", "{\"vcpu_count\":", BAD_JSON "body:1:15: not JSON: the text ends too early.");
	assert_refused(f, API_PUT, "/machine-config", "{\"smt\":true,\"smt\":true}", BAD_JSON "body:1:13: the key \"smt\" is there twice.");
	memset(deep, '[', sizeof(deep) - 1);
	deep[sizeof(deep) - 1] = 0;
	assert_int_equal(put(f, "/mmds", deep), 400);
	assert_non_null(strstr(f->reply, "nested more than 32 deep"));
}

static void fields_are_checked_with_the_words_of_serde(void **state)
{
	struct fixture *f = *state;

	assert_refused(f, API_PUT, "/machine-config", "{\"vcpu_count\":1}", BAD_JSON "missing field `mem_size_mib`.");
	assert_refused(f, API_PUT, "/boot-source", "{\"kernel_image_path\":\"/\",\"x\":1}",
		       BAD_JSON "unknown field `x`, expected one of `kernel_image_path`, `initrd_path`, `boot_args`, `unpack`.");
	assert_refused(f, API_PUT, "/actions", "{\"action_type\":\"Halt\"}",
		       BAD_JSON "unknown variant `Halt`, expected one of `FlushMetrics`, `InstanceStart`, `SendCtrlAltDel`.");
	assert_refused(f, API_PATCH, "/vm", "{\"state\":\"Off\"}", BAD_JSON "unknown variant `Off`, expected `Paused` or `Resumed`.");
	assert_refused(f, API_PUT, "/machine-config", "[]", BAD_JSON "invalid type: sequence, expected struct machine-config.");
	assert_refused(f, API_PUT, "/machine-config", "{\"vcpu_count\":\"1\",\"mem_size_mib\":1}",
		       BAD_JSON "invalid type: string \"1\", expected u8.");
	assert_refused(f, API_PUT, "/machine-config", "{\"vcpu_count\":256,\"mem_size_mib\":1}",
		       BAD_JSON "invalid value: integer `256`, expected u8.");
	assert_refused(f, API_PUT, "/machine-config", "{\"vcpu_count\":-1,\"mem_size_mib\":1}",
		       BAD_JSON "invalid value: integer `-1`, expected u8.");
	assert_refused(f, API_PUT, "/machine-config", "{\"vcpu_count\":1.5,\"mem_size_mib\":1}",
		       BAD_JSON "invalid type: floating point `1.5`, expected u8.");
	assert_refused(f, API_PUT, "/machine-config", "{\"vcpu_count\":null,\"mem_size_mib\":1}",
		       BAD_JSON "invalid type: null, expected u8.");
	assert_refused(f, API_PATCH, "/machine-config", "{\"smt\":1}", BAD_JSON "invalid type: integer `1`, expected a boolean.");
}

static void ranges_are_checked_with_the_words_of_the_configuration(void **state)
{
	struct fixture *f = *state;

	assert_refused(f, API_PUT, "/machine-config", "{\"vcpu_count\":0,\"mem_size_mib\":1}",
		       "Machine config error: /machine-config/vcpu_count: expected a whole number from 1 to 64, found 0");
	assert_refused(f, API_PUT, "/machine-config", "{\"vcpu_count\":3,\"mem_size_mib\":1,\"smt\":true}",
		       "Machine config error: /machine-config: with smt, vcpu_count must be 1 or even, found 3");
}

static void names_in_paths_are_checked(void **state)
{
	struct fixture *f = *state;

	assert_refused(f, API_PUT, "/drives", "{}", "The ID cannot be empty.");
	assert_refused(f, API_PUT, "/drives/", "{}", "The ID cannot be empty.");
	assert_refused(f, API_PUT, "/drives/a-b", "{}", "API Resource IDs can only contain alphanumeric characters and underscores.");
	assert_refused(f, API_PUT, "/drives/a/b", "{}", "Invalid request method and/or path: PUT drives/a/b.");
	assert_refused(f, API_PUT, "/drives/a", "{\"drive_id\":\"b\",\"is_root_device\":false,\"path_on_host\":\"/x\"}",
		       "The id from the path does not match the id from the body!");
	assert_refused(f, API_PUT, "/network-interfaces/a", "{\"iface_id\":\"b\",\"host_dev_name\":\"x\"}",
		       "The id from the path [a] does not match the id from the body [b]!");
}

static void what_needs_a_running_vm_says_so(void **state)
{
	static const char before[] = "The requested operation is not supported before starting the microVM.";
	struct fixture *f = *state;

	assert_refused(f, API_PATCH, "/vm", "{\"state\":\"Paused\"}", before);
	assert_refused(f, API_PUT, "/actions", "{\"action_type\":\"FlushMetrics\"}", before);
	assert_refused(f, API_PUT, "/actions", "{\"action_type\":\"SendCtrlAltDel\"}", before);
	assert_refused(f, API_DELETE, "/drives/a", NULL, before);
	assert_refused(f, API_DELETE, "/drives/a", "{}", before);
	assert_refused(f, API_PUT, "/actions", "{\"action_type\":\"InstanceStart\"}",
		       "Start microvm error: Cannot start microvm without kernel configuration.");
}

static void a_machine_is_replaced_by_put_and_changed_by_patch(void **state)
{
	struct fixture *f = *state;

	assert_shows(f, "/machine-config",
		     "{\"vcpu_count\":1,\"mem_size_mib\":128,\"smt\":false,\"track_dirty_pages\":false,\"huge_pages\":\"None\"}");
	assert_int_equal(ask(f, API_PATCH, "/machine-config", "{\"vcpu_count\":4}"), 204);
	assert_int_equal(ask(f, API_PATCH, "/machine-config", "{\"huge_pages\":\"2M\"}"), 204);
	assert_shows(f, "/machine-config",
		     "{\"vcpu_count\":4,\"mem_size_mib\":128,\"smt\":false,\"track_dirty_pages\":false,\"huge_pages\":\"2M\"}");
	assert_int_equal(ask(f, API_PATCH, "/machine-config", "{\"mem_size_mib\":127}"), 400);
	assert_int_equal(put(f, "/machine-config", "{\"vcpu_count\":5,\"mem_size_mib\":64}"), 204);
	assert_shows(f, "/machine-config",
		     "{\"vcpu_count\":5,\"mem_size_mib\":64,\"smt\":false,\"track_dirty_pages\":false,\"huge_pages\":\"None\"}");
}

static void a_deprecated_field_is_taken_and_marked(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(put(f, "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":64}"), 204);
	assert_false(f->deprecated);
	assert_int_equal(put(f, "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":\"None\"}"), 204);
	assert_true(f->deprecated);
	assert_int_equal(ask(f, API_GET, "/machine-config", NULL), 200);
	assert_null(strstr(f->reply, "cpu_template"));
}

#ifdef __x86_64__ /* arm64 has no templates yet */
static bool config_has(struct fixture *f, const char *text)
{
	assert_int_equal(ask(f, API_GET, "/machine-config", NULL), 200);
	return strstr(f->reply, text);
}

/* Firecracker: the template that was set last is in force. */
static void of_two_cpu_templates_the_last_one_counts(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(put(f, "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":\"T2\"}"), 204);
	assert_true(f->deprecated);
	assert_true(config_has(f, "\"cpu_template\":\"T2\""));
	/* It stays where another request does not name one. */
	assert_int_equal(put(f, "/machine-config", "{\"vcpu_count\":2,\"mem_size_mib\":64}"), 204);
	assert_int_equal(ask(f, API_PATCH, "/machine-config", "{\"vcpu_count\":3}"), 204);
	assert_true(config_has(f, "\"cpu_template\":\"T2\""));
	assert_int_equal(put(f, "/cpu-config", "{\"msr_modifiers\":[{\"addr\":\"0x10a\",\"bitmap\":\"0b0\"}]}"), 204);
	assert_false(f->deprecated);
	assert_false(config_has(f, "cpu_template"));
	assert_true(config_has(f, "\"vcpu_count\":3"));
	assert_non_null(json_object_object_get(f->control.doc, "cpu-config"));
	assert_int_equal(ask(f, API_PATCH, "/machine-config", "{\"smt\":false}"), 204);
	assert_non_null(json_object_object_get(f->control.doc, "cpu-config"));
	assert_int_equal(ask(f, API_PATCH, "/machine-config", "{\"cpu_template\":\"C3\"}"), 204);
	assert_null(json_object_object_get(f->control.doc, "cpu-config"));
	assert_true(config_has(f, "\"cpu_template\":\"C3\""));
	/* What is refused changes nothing. */
	assert_int_equal(put(f, "/cpu-config", "{\"msr_modifiers\":[{\"addr\":\"0x10a\",\"bitmap\":\"0b3\"}]}"), 400);
	assert_int_equal(put(f, "/cpu-config", "{\"vcpu_features\":[{\"index\":0,\"bitmap\":\"0b1\"}]}"), 400);
	assert_int_equal(put(f, "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":\"V1N1\"}"), 400);
	assert_true(config_has(f, "\"cpu_template\":\"C3\""));
	assert_int_equal(put(f, "/cpu-config", "{}"), 204);
	assert_false(config_has(f, "cpu_template"));
	assert_int_equal(ask(f, API_GET, "/vm/config", NULL), 200);
	assert_non_null(strstr(f->reply, "\"cpu-config\":null"));
}
#endif

static void the_serial_port_takes_a_path_and_a_bucket(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(put(f, "/serial", "{\"serial_out_path\":\"/tmp/x\"}"), 204);
	assert_int_equal(put(f, "/serial", "{\"rate_limiter\":{\"size\":1,\"refill_time\":1}}"), 204);
	assert_int_equal(put(f, "/serial", "{}"), 204);
	assert_int_equal(put(f, "/serial", "{\"rate_limiter\":{\"bandwidth\":{\"size\":1,\"refill_time\":1}}}"), 400);
	assert_int_equal(put(f, "/serial", "{\"rate_limiter\":{\"size\":1}}"), 400);
	assert_int_equal(put(f, "/serial", "{\"serial_out_path\":1}"), 400);
}

static void a_kernel_that_is_not_there_is_refused_at_once(void **state)
{
	struct fixture *f = *state;

	assert_refused(f, API_PUT, "/boot-source", "{\"kernel_image_path\":\"/nowhere\"}",
		       "Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)");
	assert_refused(f, API_PUT, "/boot-source", "{\"kernel_image_path\":\"/dev/null\",\"initrd_path\":\"/nowhere\"}",
		       "Boot source error: The initrd file cannot be opened: No such file or directory (os error 2)");
	assert_int_equal(put(f, "/boot-source", "{\"kernel_image_path\":\"/dev/null\"}"), 204);
}

static u32 put_drive(struct fixture *f, const char *id, const char *path, bool root)
{
	char where[32], body[200];

	snprintf(where, sizeof(where), "/drives/%s", id);
	snprintf(body, sizeof(body), "{\"drive_id\":\"%s\",\"path_on_host\":\"%s\",\"is_root_device\":%s,\"is_read_only\":true}", id, path,
		 root ? "true" : "false");
	return put(f, where, body);
}

static void a_drive_is_added_once_and_then_replaced(void **state)
{
	struct fixture *f = *state;
	struct config c;
	struct err e;
	u32 nr = 0;

	assert_int_equal(put_drive(f, "a", f->disk, true), 204);
	assert_int_equal(put_drive(f, "b", f->disk, false), 204);
	assert_int_equal(put_drive(f, "a", f->disk, false), 204);
	assert_int_equal(put_drive(f, "b", f->disk, true), 204);
	assert_int_equal(put_drive(f, "a", f->disk, true), 400);
	assert_string_equal(f->reply, "Drive config error: A root block device already exists!");
	assert_int_equal(put(f, "/boot-source", "{\"kernel_image_path\":\"/dev/null\"}"), 204);
	end_main(f);
	assert_int_equal(control_config(&f->control, &c, &e), 0);
	for (u32 i = 0; device_classes[i]; i++) {
		if (device_classes[i]->section && !strcmp(device_classes[i]->section, "drives"))
			nr = config_devices(&c, device_classes[i])->nr;
	}
	assert_int_equal(nr, 2);
	config_fini(&c);
}

static void a_refused_request_changes_nothing(void **state)
{
	struct fixture *f = *state;
	char before[sizeof(f->reply)];

	assert_int_equal(put_drive(f, "a", f->disk, true), 204);
	assert_int_equal(ask(f, API_GET, "/vm/config", NULL), 200);
	memcpy(before, f->reply, sizeof(before));
	assert_int_equal(put_drive(f, "b", f->disk, true), 400);
	assert_int_equal(put_drive(f, "c", "/nowhere", false), 400);
	assert_int_equal(put(f, "/husk/config", "{\"accelerator\":\"tcg\",\"machine-config\":{}}"), 400);
	assert_shows(f, "/vm/config", before);
}

static void the_whole_configuration_has_firecrackers_keys(void **state)
{
	static const char *const keys[] = {
		"balloon", "boot-source", "cpu-config",		"drives", "entropy", "logger", "machine-config", "memory-hotplug",
		"metrics", "mmds-config", "network-interfaces", "pmem",	  "vsock"};
	struct fixture *f = *state;
	struct json_object *all;

	assert_int_equal(put_drive(f, "a", f->disk, true), 204);
	assert_int_equal(ask(f, API_GET, "/vm/config", NULL), 200);
	all = json_tokener_parse(f->reply);
	assert_int_equal(json_object_object_length(all), ARRAY_SIZE(keys));
	for (u32 i = 0; i < ARRAY_SIZE(keys); i++)
		assert_true(json_object_object_get_ex(all, keys[i], NULL));
	assert_true(json_object_is_type(json_object_object_get(all, "pmem"), json_type_array));
	assert_null(json_object_object_get(all, "vsock"));
	json_object_put(all);
	assert_non_null(strstr(f->reply, "\"cache_type\":\"Unsafe\""));
	assert_non_null(strstr(f->reply, "\"partuuid\":null"));
	assert_null(strstr(f->reply, "num_queues")); /* husk's own, and not set */
}

static void metrics_are_configured_once(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(put(f, "/metrics", "{\"metrics_path\":\"/nowhere/m\"}"), 400);
	assert_int_equal(put(f, "/metrics", "{\"metrics_path\":\"/dev/null\"}"), 204);
	assert_refused(f, API_PUT, "/metrics", "{\"metrics_path\":\"/dev/null\"}",
		       "Metrics error: Reinitialization of metrics not allowed.");
}

static void the_log_changes_at_once_and_as_often_as_asked(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(put(f, "/logger", "{\"level\":\"Nonsense\"}"), 400);
	assert_int_equal(put(f, "/logger", "{\"log_path\":\"/dev/null\",\"level\":\"debug\",\"show_level\":true}"), 204);
	assert_int_equal(f->log.level, LOG_DEBUG);
	assert_true(f->log.show_level);
	assert_int_equal(put(f, "/logger", "{\"level\":\"Off\"}"), 204);
	assert_int_equal(f->log.level, LOG_OFF);
	assert_true(f->log.own_fd); /* still the file */
}

static void metadata_over_their_limit_are_too_large(void **state)
{
	struct fixture *f = *state;
	char body[1200];

	assert_refused(f, API_PATCH, "/mmds", "{\"a\":1}", "The MMDS data store is not initialized.");
	assert_int_equal(put(f, "/mmds", "{\"a\":1}"), 204);
	assert_int_equal(ask(f, API_PATCH, "/mmds", "{\"a\":null,\"b\":2}"), 204);
	assert_shows(f, "/mmds", "{\"b\":2}");
	snprintf(body, sizeof(body), "{\"a\":\"%01100d\"}", 0);
	assert_int_equal(put(f, "/mmds", body), 413);
	assert_int_equal(put(f, "/mmds", "[]"), 400);
	assert_shows(f, "/mmds", "{\"b\":2}");
}

static void husks_own_keys_have_a_path(void **state)
{
	struct fixture *f = *state;
	struct config c;
	struct err e;

	assert_int_equal(put(f, "/husk/config", "[]"), 400);
	assert_int_equal(put(f, "/husk/config", "{\"accelerator\":\"abacus\"}"), 400);
	assert_int_equal(put(f, "/husk/config", "{\"accelerator\":\"tcg\",\"boot-source\":{\"kernel_image_path\":\"k\"}}"), 204);
	end_main(f);
	assert_int_equal(control_config(&f->control, &c, &e), 0);
	assert_int_equal(c.accelerator, CFG_ACCEL_TCG);
	config_fini(&c);
}

/* InstanceStart in a thread of its own, since the test plays the main thread. */
static void *ask_start(void *opaque)
{
	struct fixture *f = opaque;

	return (void *)(uintptr_t)put(f, "/actions", "{\"action_type\":\"InstanceStart\"}");
}

static void each_start_is_answered_by_its_outcome(void **state)
{
	struct fixture *f = *state;
	struct err e;

	assert_int_equal(put(f, "/boot-source", "{\"kernel_image_path\":\"/dev/null\"}"), 204);
	end_main(f);
	for (u32 i = 0; i < 3; i++) {
		pthread_t api;
		void *status;

		assert_int_equal(pthread_create(&api, NULL, ask_start, f), 0);
		control_wait_start(&f->control);
		assert_non_null(f->control.starting);
		err_set(&e, -1, "attempt %u", i);
		control_refuse(&f->control, &e);
		pthread_join(api, &status);
		assert_int_equal((uintptr_t)status, 400);
		assert_int_equal(strncmp(f->reply, "Start microvm error: attempt ", 29), 0);
		assert_int_equal(f->reply[29], '0' + i);
	}
}

static void requests_at_the_end_get_no_answer(void **state)
{
	struct fixture *f = *state;

	end_main(f);
	control_end(&f->control);
	assert_int_equal(ask(f, API_GET, "/", NULL), 0);
}

/* What the schema says of a route, or NULL. */
static struct json_object *operation(struct json_object *schema, const char *path, const char *method)
{
	return json_object_object_get(json_object_object_get(json_object_object_get(schema, "paths"), path), method);
}

static void the_schema_has_every_route(void **state)
{
	struct json_object *schema = openapi_schema(), *body;
	struct fixture *f = *state;

	for (u32 i = 0; i < f->control.routes.nr; i++) {
		const struct route *r = &f->control.routes.items[i];
		char method[8];

		snprintf(method, sizeof(method), "%s", api_method_name(r->method));
		for (char *p = method; *p; p++)
			*p = (char)(*p | 0x20);
		assert_non_null(operation(schema, r->path, method));
		assert_true(r->help && *r->help);
	}
	body = json_object_object_get(operation(schema, "/drives/{drive_id}", "patch"), "requestBody");
	assert_non_null(strstr(json_object_to_json_string(body), "drive_id"));
	body = json_object_object_get(operation(schema, "/machine-config", "put"), "requestBody");
	assert_non_null(strstr(json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN), "\"maximum\":64"));
	json_object_put(schema);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_wrong_path_or_method_is_named),
		TEST(scheme_host_and_a_last_slash_are_taken_off),
		TEST(bodies_that_must_or_must_not_be_there),
		TEST(a_body_that_is_no_json_says_where),
		TEST(fields_are_checked_with_the_words_of_serde),
		TEST(ranges_are_checked_with_the_words_of_the_configuration),
		TEST(names_in_paths_are_checked),
		TEST(what_needs_a_running_vm_says_so),
		TEST(a_machine_is_replaced_by_put_and_changed_by_patch),
		TEST(a_deprecated_field_is_taken_and_marked),
#ifdef __x86_64__
		TEST(of_two_cpu_templates_the_last_one_counts),
#endif
		TEST(the_serial_port_takes_a_path_and_a_bucket),
		TEST(a_kernel_that_is_not_there_is_refused_at_once),
		TEST(a_drive_is_added_once_and_then_replaced),
		TEST(a_refused_request_changes_nothing),
		TEST(the_whole_configuration_has_firecrackers_keys),
		TEST(metrics_are_configured_once),
		TEST(the_log_changes_at_once_and_as_often_as_asked),
		TEST(metadata_over_their_limit_are_too_large),
		TEST(husks_own_keys_have_a_path),
		TEST(each_start_is_answered_by_its_outcome),
		TEST(requests_at_the_end_get_no_answer),
		TEST(the_schema_has_every_route),
	};

	return cmocka_run_group_tests_name("api_request", tests, NULL, NULL);
}

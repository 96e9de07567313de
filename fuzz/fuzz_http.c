/*
 * fuzz_http.c: clients of the REST API. By the first byte:
 *   '#'    the rest is what a client sends on a connection to the real server
 *   '+'    requests to a husk whose VM runs; devices of many kinds are there
 *   else   requests to a husk that nobody has started
 * A request is "METHOD PATH", and behind a line feed its body; a byte 0x1e ends it. Every one gets an answer by the rules, and whatever
 * came before, the next one is served.
 */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "api/control.h"
#include "api/mmds.h"
#include "api/server.h"
#include "fuzz/no_files.h"
#include "tests/dev/fake_vm.h"
#include "vmm/base/json.h"
#include "vmm/config_table.h"

#define SEPARATOR    0x1e
#define MAX_REQUESTS 60u
#define MMDS_LIMIT   1000u
#define PAYLOAD	     2000u
#define HOTPLUG_GPA  (8 * GIB)
#define TIMEOUT_S    20

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* A device of the VM that runs. */
struct part {
	const char *class_name, *section, *config; /* the last: JSON text */
	bool list;
};

static const struct part parts[] = {
	{"virtio-balloon", "balloon",
	 "{\"amount_mib\":4,\"deflate_on_oom\":true,\"stats_polling_interval_s\":1,\"free_page_hinting\":true,\"free_page_reporting\":"
	 "true}",
	 false},
	{"virtio-blk", "drives", "{\"drive_id\":\"d\",\"is_root_device\":false,\"path_on_host\":\"/disk0\"}", true},
	{"virtio-pmem", "pmem", "{\"id\":\"p\",\"path_on_host\":\"/disk1\"}", true},
	{"virtio-rng", "entropy", "{}", false},
	{"virtio-mem", "memory-hotplug", "{\"total_size_mib\":512}", false},
};

/* A husk: this is its API thread, `main` the main one. */
struct rig {
	struct control control;
	struct mmds mmds;
	struct log log;
	pthread_t main;
	bool running; /* its VM runs */
	bool stop;    /* atomic: main ends */
	struct fake_vm f;
	void *cfg[ARRAY_SIZE(parts)];
};

/* ---- the main thread ---- */

/* What cli/session.c does, but that a VM cannot be built here. */
static void *main_thread(void *opaque)
{
	struct rig *r = opaque;
	struct err e = {0};
	struct config c;

	if (r->running) {
		/* Its state is not VM_RUNNING, so that it moves nowhere. */
		if (control_attach(&r->control, &r->f.vm, &e) < 0)
			abort();
		loop_run(&r->f.vm.loop);
		control_detach(&r->control);
		return NULL;
	}
	for (;;) {
		control_wait_start(&r->control);
		if (__atomic_load_n(&r->stop, __ATOMIC_SEQ_CST))
			return NULL;
		if (control_config(&r->control, &c, &e) == 0) {
			config_fini(&c);
			err_set(&e, -ENODEV, "there is no VM");
		}
		control_refuse(&r->control, &e);
	}
}

/* ---- a VM that runs ---- */

static void add_device(struct rig *r, u32 i, struct json_object *doc)
{
	const struct device_class *cls = device_class_find(parts[i].class_name);
	const struct cfg_place at = {.origin = "fuzz"};
	struct json_object *json = json_tokener_parse(parts[i].config), *list;
	struct err e = {0};

	ASSERT(cls && json);
	r->cfg[i] = xzalloc(cls->config->size);
	if (cfg_read_object(cls->config, json, r->cfg[i], &at, &e) < 0)
		fake_die(parts[i].class_name, &e);
	if (cls->hotplug_memory && mem_add_hotplug(&r->f.vm.mem, HOTPLUG_GPA, cls->hotplug_memory(r->cfg[i]), &e) < 0)
		fake_die("hotplug memory", &e);
	fake_vm_add(&r->f, cls, r->cfg[i]);
	if (parts[i].list) {
		list = json_object_new_array();
		json_object_array_add(list, json);
		json = list;
	}
	json_object_object_add(doc, parts[i].section, json);
}

static void make_vm(struct rig *r, struct json_object *doc)
{
	fake_vm_init(&r->f, FAKE_VM_QUIET);
	for (u32 i = 0; i < ARRAY_SIZE(parts); i++)
		add_device(r, i, doc);
	for (u32 i = 0; i < r->f.vm.nr_devices; i++) {
		struct device *dev = r->f.vm.devices[i];
		struct err e = {0};

		if (dev->cls->start && dev->cls->start(dev, &e) < 0)
			fake_die(dev->id, &e);
	}
	r->f.vm.state = VM_RUNNING;
}

static void unmake_vm(struct rig *r)
{
	fake_vm_fini(&r->f);
	for (u32 i = 0; i < ARRAY_SIZE(parts); i++) {
		cfg_free(device_class_find(parts[i].class_name)->config, r->cfg[i]);
		free(r->cfg[i]);
	}
}

/* ---- set-up ---- */

static void make(struct rig *r, bool running)
{
	struct json_object *doc = json_object_new_object();
	int null_fd = open("/null", O_WRONLY | O_CLOEXEC);
	struct err e = {0};

	*r = (struct rig){.running = running};
	if (running)
		make_vm(r, doc);
	log_init(&r->log, null_fd, LOG_INFO);
	r->log.own_fd = true;
	mmds_init(&r->mmds, MMDS_LIMIT);
	if (control_init(&r->control, doc, &r->mmds, &r->log, &e) < 0)
		fake_die("control", &e);
	json_object_put(doc);
	ASSERT(pthread_create(&r->main, NULL, main_thread, r) == 0);
}

static void unmake(struct rig *r)
{
	__atomic_store_n(&r->stop, true, __ATOMIC_SEQ_CST);
	loop_stop(r->running ? &r->f.vm.loop : &r->control.loop);
	pthread_join(r->main, NULL);
	control_fini(&r->control);
	mmds_fini(&r->mmds);
	if (r->running)
		unmake_vm(r);
	log_fini(&r->log);
}

/* ---- requests ---- */

/* Clients see it as JSON: what it says must be text, and all of it. */
static void check_reply(const struct api_reply *reply)
{
	const char *text = reply->body ? json_object_to_json_string_ext(reply->body, JSON_C_TO_STRING_PLAIN) : "";
	struct json_object *fault = NULL;

	ASSERT(reply->status == 200 || reply->status == 204 || reply->status == 400 || reply->status == 413);
	ASSERT((reply->status == 204) == !reply->body);
	if (reply->status < 400)
		return;
	ASSERT(json_object_object_get_ex(reply->body, "fault_message", &fault) && *text);
	ASSERT(json_object_get_string_len(fault) > 0 && strlen(text) < 10000);
}

static u32 serve(struct rig *r, enum api_method method, const char *path, const char *body, size_t len)
{
	struct api_request q = {.method = method, .path = path, .body = body, .len = len};
	struct api_reply reply = {0};
	u32 status;

	api_serve(&r->control, &q, &reply);
	check_reply(&reply);
	status = reply.status;
	api_reply_fini(&reply);
	return status;
}

static enum api_method method_of(const char *line, size_t len)
{
	for (enum api_method m = API_GET; m < API_OTHER; m++) {
		const char *name = api_method_name(m);

		if (strlen(name) == len && !memcmp(name, line, len))
			return m;
	}
	return API_OTHER;
}

static void one_request(struct rig *r, const char *text, size_t size)
{
	const char *line_end = memchr(text, '\n', size);
	size_t line = line_end ? (size_t)(line_end - text) : size, len = line_end ? size - line - 1 : 0;
	const char *space = memchr(text, ' ', line);
	auto_free char *path = space ? strndup(space + 1, line - (size_t)(space + 1 - text)) : NULL;
	auto_free char *body = len ? malloc(len) : NULL; /* of this length: it does not end with a NUL byte */
	enum api_method method = space ? method_of(text, (size_t)(space - text)) : API_OTHER;

	if (method == API_OTHER || !path)
		return; /* server.c refuses it */
	if (body)
		memcpy(body, line_end + 1, len);
	serve(r, method, path, body, len);
}

static void all_requests(struct rig *r, const char *text, size_t size)
{
	for (u32 i = 0; i < MAX_REQUESTS && size; i++) {
		const char *end = memchr(text, SEPARATOR, size);
		size_t len = end ? (size_t)(end - text) : size;

		one_request(r, text, len);
		text += MIN(len + 1, size);
		size -= MIN(len + 1, size);
	}
}

/* What a husk shows as its configuration is one that it takes. */
static void check_document(struct rig *r)
{
	struct api_request q = {.method = API_GET, .path = "/vm/config"};
	struct api_reply reply = {0};
	struct config c;
	struct err e = {0};

	api_serve(&r->control, &q, &reply);
	ASSERT(reply.status == 200 && reply.body);
	/* No other thread touches the document now. */
	if (control_config(&r->control, &c, &e) == 0) {
		config_fini(&c);
		if (config_parse(&c, reply.body, "GET /vm/config", &e) < 0)
			fake_die("what GET /vm/config shows cannot be used", &e);
		config_fini(&c);
	} else if (!strstr(e.msg, "boot-source")) {
		fake_die("the API has accepted what cannot be used", &e);
	}
	api_reply_fini(&reply);
}

static void check_serves(struct rig *r)
{
	ASSERT(serve(r, API_GET, "/", NULL, 0) == 200);
	ASSERT(serve(r, API_GET, "/nowhere", NULL, 0) == 400);
	ASSERT(serve(r, API_PUT, "/mmds", "{}", 2) == 204);
	check_document(r);
}

/* ---- connections ---- */

static int client(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = TIMEOUT_S};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ASSERT(fd >= 0 && strlen(path) < sizeof(addr.sun_path));
	memcpy(addr.sun_path, path, strlen(path));
	ASSERT(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0);
	ASSERT(connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	return fd;
}

/* The bytes, the end of what the client sends, and what comes back until the server hangs up. */
static size_t talk(const char *path, const void *data, size_t size, char *got, size_t got_size)
{
	int fd = client(path);
	size_t used = 0;
	ssize_t n;

	if (send(fd, data, size, MSG_NOSIGNAL) == (ssize_t)size)
		shutdown(fd, SHUT_WR);
	/* libFuzzer's own timer interrupts it now and then. */
	while ((n = recv(fd, got + used, got_size - 1 - used, 0)) > 0 || (n < 0 && errno == EINTR))
		used += n > 0 && used < got_size / 2 ? (size_t)n : 0; /* the rest is not looked at */
	ASSERT(n == 0 || errno == ECONNRESET);
	got[used] = '\0';
	close(fd);
	return used;
}

static void connection(struct rig *r, const u8 *data, size_t size)
{
	static const char good[] = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
	char dir[] = "/tmp/husk-fuzz-XXXXXX", path[64], got[8192];
	struct server s = {0};
	struct err e = {0};

	ASSERT(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	if (server_start(&s, path, PAYLOAD, &r->control, &e) < 0)
		fake_die("server", &e);
	if (talk(path, data, size, got, sizeof(got)))
		ASSERT(!strncmp(got, "HTTP/1.", 7));
	talk(path, good, sizeof(good) - 1, got, sizeof(got));
	ASSERT(!strncmp(got, "HTTP/1.1 200 OK\r\n", 17) && strstr(got, "\"state\":\"Not started\""));
	control_end(&r->control);
	server_stop(&s);
	unlink(path);
	rmdir(dir);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static struct rig r; /* large */
	u8 mode = size ? *data : 0;
	bool skip = mode == '#' || mode == '+';

	no_files_begin();
	make(&r, mode == '+');
	if (mode == '#') {
		connection(&r, data + 1, size - 1);
	} else {
		all_requests(&r, (const char *)data + skip, size - skip);
		check_serves(&r);
	}
	unmake(&r);
	no_files_end();
	return 0;
}

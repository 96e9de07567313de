/* ctl_snapshot.c: `husk ctl SOCKET snapshot DIR`: halts the VM, has its state and memory written, lets it go on; see ctl.h. */
#include <errno.h>
#include <json-c/json.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/ctl.h"
#include "cli/http.h"
#include "vmm/clock.h"

#define PROGRESS_NS (100 * NSEC_PER_MSEC)
#define BAR_WIDTH   40

/* The request that takes long, on a thread of its own while the other one draws. */
struct create {
	const char *sock;
	struct json_object *body;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done; /* under lock */
	int r;
	struct err e;
};

static void *create_thread(void *arg)
{
	struct create *c = arg;
	const char *text = json_object_to_json_string_ext(c->body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	struct json_object *answer;
	int r = http_ask_slowly(c->sock, "PUT", "/snapshot/create", text, strlen(text), &answer, &c->e);

	json_object_put(answer);
	pthread_mutex_lock(&c->lock);
	c->r = r;
	c->done = true;
	pthread_cond_signal(&c->cond);
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* ---- Progress ---- */

static u64 on_disk(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (u64)st.st_blocks * 512 : 0;
}

/* How much of the memory is written; much of it may turn out to be zero, so 100 % are not always seen. */
static void draw(u64 bytes, u64 all)
{
	int filled = all ? (int)(MIN(bytes, all) * BAR_WIDTH / all) : 0;

	fprintf(stderr, "\r[%-*.*s] %llu MiB", BAR_WIDTH, filled, "########################################",
		(unsigned long long)(bytes / MIB));
}

static void wait_for(struct create *c, const char *memory, u64 all)
{
	auto_free char *new = xasprintf("%s.new", memory);
	bool bar = isatty(STDERR_FILENO), drawn = false;

	pthread_mutex_lock(&c->lock);
	while (!c->done) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += (long)PROGRESS_NS;
		if (until.tv_nsec >= (long)NSEC_PER_SEC) {
			until.tv_nsec -= (long)NSEC_PER_SEC;
			until.tv_sec++;
		}
		if (!bar) {
			pthread_cond_wait(&c->cond, &c->lock);
		} else if (pthread_cond_timedwait(&c->cond, &c->lock, &until) == ETIMEDOUT) {
			draw(on_disk(new), all);
			drawn = true;
		}
	}
	pthread_mutex_unlock(&c->lock);
	if (drawn)
		fprintf(stderr, "\r%*s\r", BAR_WIDTH + 20, "");
}

static int create(const struct ctl *c, struct json_object *body, const char *memory, u64 all, struct err *e)
{
	struct create job = {.sock = c->sock, .body = body, .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
	pthread_t thread;
	int r = pthread_create(&thread, NULL, create_thread, &job);

	if (r)
		return err_set(e, -r, "cannot start a thread: %s", strerror(r));
	wait_for(&job, memory, all);
	pthread_join(thread, NULL);
	if (job.r < 0)
		*e = job.e;
	return job.r;
}

/* ---- Before and after ---- */

static int set_state(const struct ctl *c, const char *state, struct err *e)
{
	struct json_object *body = ctl_words("state", state);
	int r = ctl_tell(c, "PATCH", "/vm", body, e);

	json_object_put(body);
	return r;
}

static int ask_state(const struct ctl *c, bool *paused, u64 *memory_bytes, struct err *e)
{
	struct json_object *info, *machine = NULL, *v;
	int r = ctl_ask(c, "/", &info, e);

	if (r == 0)
		r = ctl_ask(c, "/machine-config", &machine, e);
	v = json_object_object_get(info, "state");
	*paused = v && !strcmp(json_object_get_string(v), "Paused");
	v = json_object_object_get(machine, "mem_size_mib");
	*memory_bytes = (v ? json_object_get_uint64(v) : 0) * MIB;
	json_object_put(info);
	json_object_put(machine);
	return r;
}

/* The VM may have another working directory than this command. */
static int make_folder(const char *dir, char **out, struct err *e)
{
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_errno(e, "cannot make \"%s\"", dir);
	*out = realpath(dir, NULL);
	return *out ? 0 : err_errno(e, "\"%s\"", dir);
}

static struct json_object *request(const struct ctl *c, const char *state, const char *memory)
{
	struct json_object *body = ctl_words("snapshot_path", state);

	json_object_object_add(body, "mem_file_path", json_object_new_string(memory));
	json_object_object_add(body, "snapshot_type", json_object_new_string(c->diff ? "Diff" : "Full"));
	if (c->compress)
		json_object_object_add(body, "compress", json_object_new_boolean(true));
	return body;
}

static void report(const struct ctl *c, const char *state, const char *memory, u64 halted_ns)
{
	struct json_object *o;

	if (!c->json) {
		printf("state %llu KiB, memory %llu MiB on disk, the VM stood still for %llu.%llu ms\n",
		       (unsigned long long)(on_disk(state) / KIB), (unsigned long long)(on_disk(memory) / MIB),
		       (unsigned long long)(halted_ns / NSEC_PER_MSEC), (unsigned long long)(halted_ns / (NSEC_PER_MSEC / 10) % 10));
		return;
	}
	o = ctl_words("state", state);
	json_object_object_add(o, "memory", json_object_new_string(memory));
	json_object_object_add(o, "state_bytes", json_object_new_uint64(on_disk(state)));
	json_object_object_add(o, "memory_bytes", json_object_new_uint64(on_disk(memory)));
	json_object_object_add(o, "paused_us", json_object_new_uint64(halted_ns / 1000));
	ctl_print_json(o);
	json_object_put(o);
}

/* Between pause and resume. */
static int take(const struct ctl *c, const char *dir, u64 memory_bytes, bool was_paused, struct err *e)
{
	auto_free char *state = xasprintf("%s/state", dir), *memory = xasprintf("%s/memory", dir);
	struct json_object *body = request(c, state, memory);
	u64 start_ns = clock_host_ns();
	struct err again = {0};
	int r = was_paused ? 0 : set_state(c, "Paused", e);

	if (r == 0) {
		r = create(c, body, memory, memory_bytes, e);
		if (!was_paused && !(r == 0 && c->keep_paused) && set_state(c, "Resumed", &again) < 0 && r == 0) {
			*e = again;
			r = again.code;
		}
	}
	if (r == 0)
		report(c, state, memory, clock_host_ns() - start_ns);
	json_object_put(body);
	return r;
}

int ctl_snapshot(const struct ctl *c, struct err *e)
{
	auto_free char *dir = NULL;
	u64 memory_bytes;
	bool paused;
	int r = ask_state(c, &paused, &memory_bytes, e);

	if (r == 0)
		r = make_folder(c->words[0], &dir, e);
	return r == 0 ? take(c, dir, memory_bytes, paused, e) : r == -EINVAL ? -EIO : r;
}

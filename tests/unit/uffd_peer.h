/*
 * uffd_peer.h: an external pager as Firecracker's users write them, in a process of its own: listens on a Unix socket, takes the message
 * with the layout and the userfaultfd, and serves missing pages from a memory file. Its process ends with the test's.
 */
#ifndef HUSK_TEST_UFFD_PEER_H
#define HUSK_TEST_UFFD_PEER_H

#include "memfile_rig.h"

#include <json-c/json.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

struct peer {
	pid_t pid;
	char path[64];
	int told; /* a pipe from it: the message, then "." per fault and "-" per range that was given up */
};

struct peer_range {
	u64 base, size, offset;
};

struct peer_work {
	int uffd, file, told;
	struct peer_range ranges[8], removed[64];
	u32 nr_ranges, nr_removed;
};

#define PEER_MUST(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "pager: %s: %s\n", #cond, strerror(errno)); \
			_exit(1); \
		} \
	} while (0)

static inline void peer_receive(struct peer_work *w, int conn)
{
	char text[4096] = "", control[CMSG_SPACE(8 * sizeof(int))];
	struct iovec iov = {text, sizeof(text) - 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct json_object *all;
	struct cmsghdr *c;

	PEER_MUST(recvmsg(conn, &msg, MSG_CMSG_CLOEXEC) > 0);
	c = CMSG_FIRSTHDR(&msg);
	PEER_MUST(c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)));
	memcpy(&w->uffd, CMSG_DATA(c), sizeof(int));
	PEER_MUST(fcntl(w->uffd, F_GETFL) & O_NONBLOCK);
	PEER_MUST(write(w->told, text, strlen(text) + 1) > 0);
	all = json_tokener_parse(text);
	PEER_MUST(json_object_is_type(all, json_type_array));
	for (u32 i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		w->ranges[w->nr_ranges++] = (struct peer_range){
			json_object_get_uint64(json_object_object_get(o, "base_host_virt_addr")),
			json_object_get_uint64(json_object_object_get(o, "size")),
			json_object_get_uint64(json_object_object_get(o, "offset")),
		};
	}
	json_object_put(all);
}

static inline bool peer_is_removed(const struct peer_work *w, u64 address)
{
	for (u32 i = 0; i < w->nr_removed; i++) {
		if (address - w->removed[i].base < w->removed[i].size)
			return true;
	}
	return false;
}

static inline void peer_serve_page(struct peer_work *w, u64 address)
{
	static u8 page[PAGE] __attribute__((aligned(4096)));
	struct uffdio_copy copy = {.dst = address, .src = (uintptr_t)page, .len = PAGE};

	memset(page, 0, PAGE);
	for (u32 i = 0; i < w->nr_ranges && !peer_is_removed(w, address); i++) {
		const struct peer_range *r = &w->ranges[i];

		if (address - r->base < r->size)
			PEER_MUST(pread(w->file, page, PAGE, (off_t)(r->offset + address - r->base)) == PAGE);
	}
	while (ioctl(w->uffd, UFFDIO_COPY, &copy) < 0) {
		if (errno == EEXIST) {
			struct uffdio_range range = {address, PAGE};

			PEER_MUST(ioctl(w->uffd, UFFDIO_WAKE, &range) == 0);
			return;
		}
		PEER_MUST(errno == EAGAIN);
		return; /* an event comes first: the fault comes again */
	}
}

static inline void peer_serve(struct peer_work *w)
{
	for (;;) {
		struct pollfd p = {.fd = w->uffd, .events = POLLIN};
		struct uffd_msg m;

		PEER_MUST(poll(&p, 1, -1) == 1);
		if (read(w->uffd, &m, sizeof(m)) != sizeof(m))
			continue;
		if (m.event == UFFD_EVENT_PAGEFAULT) {
			PEER_MUST(write(w->told, ".", 1) == 1);
			peer_serve_page(w, ALIGN_DOWN(m.arg.pagefault.address, PAGE));
		} else {
			PEER_MUST(m.event == UFFD_EVENT_REMOVE && w->nr_removed < ARRAY_SIZE(w->removed));
			w->removed[w->nr_removed++] = (struct peer_range){m.arg.remove.start, m.arg.remove.end - m.arg.remove.start, 0};
			PEER_MUST(write(w->told, "-", 1) == 1);
		}
	}
}

/* Starts a pager that serves this file; it listens when this returns. supervised: it was another process that did so first. */
static inline struct peer *peer_start(int file, bool supervised)
{
	struct peer *p = xzalloc(sizeof(*p));
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), out[2];

	snprintf(p->path, sizeof(p->path), "/tmp/husk-pager-%d-%p", getpid(), (void *)p);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", p->path);
	unlink(p->path);
	assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	if (supervised)
		assert_int_equal(listen(listener, 1), 0);
	p->pid = fork();
	if (p->pid == 0) {
		struct peer_work w = {.file = file, .told = out[1]};

		close(out[0]);
		PEER_MUST((supervised || listen(listener, 1) == 0) && write(out[1], "!", 1) == 1);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		peer_receive(&w, accept(listener, NULL, NULL));
		peer_serve(&w);
	}
	close(listener);
	close(out[1]);
	p->told = out[0];
	assert_int_equal(read(p->told, &(u8){0}, 1), 1);
	return p;
}

static inline void peer_kill(struct peer *p)
{
	int status;

	if (p->pid > 0) {
		kill(p->pid, SIGKILL);
		waitpid(p->pid, &status, 0);
		p->pid = 0;
	}
}

static inline void peer_end(struct peer *p)
{
	peer_kill(p);
	unlink(p->path);
	close(p->told);
	free(p);
}

/* False: this user may not have a userfaultfd. skip() would count as a failure under meson. */
static inline bool peer_possible(void)
{
	struct err e;
	int fd = uffd_open(&e);

	if (fd < 0)
		print_message("# not tested: %s\n", e.msg);
	else
		close(fd);
	return fd >= 0;
}

#endif

/*
 * move_vm.h: VMs that move between two places of one process: under a real accelerator, each on a thread of its own. The guest goes over a
 * piece of memory again and again: pass k finds k in the first word of each page and leaves k + 1. A page that is older or newer than
 * that is a mistake, which the guest notes. Include once.
 */
#ifndef HUSK_TEST_MOVE_VM_H
#define HUSK_TEST_MOVE_VM_H

#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migration/dest.h"
#include "migration/package.h"
#include "migration/source.h"
#include "vmm/clock.h"
#include "vmm/config.h"
#include "vmm/vm.h"
#include "x86_elf.h"

#define MOVE_RAM_MIB 48
#define MOVE_STATUS  0x1900000ull /* 25 MiB: passes, mistakes */
#define MOVE_AREA    0x1a00000ull
#define MOVE_PAGES   4096u /* 26..42 MiB */

/* Long mode, memory mapped as it is. */
__asm__(".pushsection .rodata\n"
	"move_guest:\n"
	"	xor %r8d, %r8d\n"
	"1:	mov $0x1a00000, %esi\n"
	"	mov $4096, %ecx\n"
	"2:	cmp %r8, (%rsi)\n"
	"	jne 3f\n"
	"	incq (%rsi)\n"
	"	add $4096, %rsi\n"
	"	dec %ecx\n"
	"	jnz 2b\n"
	"	inc %r8\n"
	"	mov %r8, 0x1900000\n"
	"	jmp 1b\n"
	"3:	incq 0x1900008\n"
	"	mov %rsi, 0x1900010\n"
	"	mov %r8, 0x1900018\n"
	"4:	pause\n"
	"	jmp 4b\n"
	"move_guest_end:\n"
	".popsection\n");
extern const u8 move_guest[], move_guest_end[];

struct mover {
	struct vm vm;
	struct log log;
	struct trace trace;
	struct config config;
	struct json_object *doc;
	struct dest *dest;     /* owned; NULL: it was booted */
	struct source *source; /* owned */
	pthread_t thread;
	bool made, threaded;
	bool ran; /* atomic: vm_run was called */
	int ret;  /* of what the thread did; e says why */
	enum vm_end end;
	struct err e;
};

struct move_dir {
	char path[32];
	u32 nr_sockets; /* a destination that had no BYE listens on */
};

static inline void move_die(const char *what, const struct err *e)
{
	fail_msg("%s: %s", what, e ? e->msg : strerror(errno));
}

static inline void move_dir_make(struct move_dir *d)
{
	size_t size;
	auto_free u8 *elf = make_elf(0x1000, false, &size);
	auto_free char *kernel = NULL;
	int fd;

	snprintf(d->path, sizeof(d->path), "/tmp/husk-move-XXXXXX");
	assert_non_null(mkdtemp(d->path));
	memcpy(elf + 0x1010, move_guest, (size_t)(move_guest_end - move_guest));
	kernel = xasprintf("%s/kernel", d->path);
	fd = open(kernel, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(fd_write_all(fd, elf, size), 0);
	close(fd);
}

static inline void move_dir_remove(struct move_dir *d)
{
	auto_free char *kernel = xasprintf("%s/kernel", d->path);

	unlink(kernel);
	rmdir(d->path);
}

static inline void mover_prepare(struct mover *m)
{
	memset(m, 0, sizeof(*m));
	m->vm.mem.fd = -1;
	log_init(&m->log, STDERR_FILENO, getenv("HUSK_TEST_LOG") ? LOG_DEBUG : LOG_OFF);
}

static const char *move_machine = ""; /* further keys of machine-config */

/* more: further sections, with a comma in front; or "" */
static inline void mover_boot(struct mover *m, const struct move_dir *d, const char *accel, u32 cpus, const char *more)
{
	auto_free char *text = xasprintf("{\"accelerator\":\"%s\",\"boot-source\":{\"kernel_image_path\":\"%s/kernel\"},"
					 "\"machine-config\":{\"vcpu_count\":%u,\"mem_size_mib\":%u%s},\"serial\":{\"mode\":\"null\"}%s}",
					 accel, d->path, cpus, MOVE_RAM_MIB, move_machine, more);
	struct vm_options options = {.document = &m->doc};

	mover_prepare(m);
	m->doc = json_tokener_parse(text);
	assert_non_null(m->doc);
	if (config_parse(&m->config, m->doc, "test", &m->e) < 0 ||
	    vm_init_options(&m->vm, &m->config, &m->log, &m->trace, &options, &m->e) < 0 ||
	    source_start_thread(&m->source, &m->vm, &m->e) < 0)
		move_die("boot", &m->e);
	m->made = true;
}

static inline void *mover_thread(void *opaque)
{
	struct mover *m = opaque;

	__atomic_store_n(&m->ran, true, __ATOMIC_RELEASE);
	m->ret = vm_run(&m->vm, &m->end, &m->e);
	return NULL;
}

static inline void mover_run(struct mover *m)
{
	assert_int_equal(pthread_create(&m->thread, NULL, mover_thread, m), 0);
	m->threaded = true;
}

static inline int mover_make_received(struct mover *m, const char *accel)
{
	auto_free char *text = xasprintf("{\"accelerator\":\"%s\",\"serial\":{\"mode\":\"null\"}}", accel);
	struct json_object *own = json_tokener_parse(text);
	struct vm_options options = {.document = &m->doc, .restore = dest_restore(m->dest)};
	int ret = dest_configure(m->dest, own, &m->doc, &m->e);

	json_object_put(own);
	if (ret == 0)
		ret = config_parse(&m->config, m->doc, "the source", &m->e);
	if (ret == 0)
		ret = vm_init_options(&m->vm, &m->config, &m->log, &m->trace, &options, &m->e);
	m->made = ret == 0;
	if (ret == 0)
		ret = source_start_thread(&m->source, &m->vm, &m->e);
	return ret;
}

static const char *move_accel = "tcg"; /* where VMs arrive */

static inline void *mover_dest_thread(void *opaque)
{
	struct mover *m = opaque;

	m->ret = dest_wait_offer(m->dest, &m->e);
	if (m->ret < 0)
		return NULL;
	m->ret = mover_make_received(m, move_accel);
	if (m->ret < 0) {
		dest_refuse(m->dest, &m->e);
		return NULL;
	}
	__atomic_store_n(&m->ran, true, __ATOMIC_RELEASE);
	m->ret = vm_run(&m->vm, &m->end, &m->e);
	return NULL;
}

/* Waits at DIR/in, or DIR/1 and so on when an earlier one listens there. */
static inline void mover_receive(struct mover *m, struct move_dir *d, const struct dest_params *p)
{
	auto_free char *address = xasprintf("unix:%s/in", d->path);
	auto_free char *other = xasprintf("unix:%s/%u", d->path, ++d->nr_sockets);
	struct dest_params params = *p;

	mover_prepare(m);
	params.address = address;
	if (dest_listen(&m->dest, &params, &m->log, &m->e) < 0) {
		params.address = other;
		if (dest_listen(&m->dest, &params, &m->log, &m->e) < 0)
			move_die("listen", &m->e);
	}
	assert_int_equal(pthread_create(&m->thread, NULL, mover_dest_thread, m), 0);
	m->threaded = true;
}

static inline void mover_join(struct mover *m)
{
	if (m->threaded)
		pthread_join(m->thread, NULL);
	m->threaded = false;
}

/* Ends the VM, as a signal would. */
static inline void mover_end(struct mover *m)
{
	struct err e;

	if (m->dest && dest_abandon(m->dest, &e) == 0) {
		mover_join(m);
		return;
	}
	if (m->threaded)
		vm_end(&m->vm, VM_END_HOST);
	mover_join(m);
}

static inline void mover_fini(struct mover *m)
{
	mover_end(m);
	source_stop_thread(m->source);
	if (m->made)
		vm_fini(&m->vm);
	dest_close(m->dest);
	config_fini(&m->config);
	json_object_put(m->doc);
	log_fini(&m->log);
	memset(m, 0, sizeof(*m));
}

/* What a guest that is not there any more, or is halted, has said. */
static inline u64 move_word(const struct mover *m, u64 gpa)
{
	return __atomic_load_n((const u64 *)(const void *)(m->vm.mem.regions[0].hva + gpa), __ATOMIC_RELAXED);
}

static inline struct migrate_status *move_dest_status(struct mover *m)
{
	static struct migrate_status s;

	dest_status(m->dest, &s);
	return &s;
}

static inline bool move_until_phase(struct mover *m, enum migrate_phase phase)
{
	for (u32 i = 0; i < 20000; i++) {
		if (move_dest_status(m)->phase == phase)
			return true;
		usleep(500);
	}
	print_message("# it is %s: %s\n", migrate_phase_name(move_dest_status(m)->phase), move_dest_status(m)->error);
	return false;
}

#endif

/*
 * stream_vm.h: for the fuzzers of a live migration's two ends: a small VM under the software CPU, whose guest counts, and the frames that
 * the harness says in place of the other husk. What must work is asserted. Include once.
 */
#ifndef HUSK_FUZZ_STREAM_VM_H
#define HUSK_FUZZ_STREAM_VM_H

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz/input.h"
#include "migration/package.h"
#include "migration/wire.h"
#include "tests/unit/x86_elf.h"
#include "vmm/base/crc32c.h"
#include "vmm/clock.h"
#include "vmm/config.h"
#include "vmm/vm.h"

#define STREAM_RAM_MIB 24
#define STREAM_COUNTER 0x1400000u /* 20 MiB; the kernel is at 16 */
#define STREAM_PAGES   ((u32)(STREAM_RAM_MIB * MIB / 4096))
#define STREAM_DISK    (9 * 4096 + 512) /* bytes of its disk */
#define STREAM_BODY    256u		/* bytes of a body that come from the input */

__asm__(".pushsection .rodata\n"
	"stream_guest:\n"
	"1:	incq 0x1400000\n"
	"	pause\n"
	"	jmp 1b\n"
	"stream_guest_end:\n"
	".popsection\n");
extern const u8 stream_guest[], stream_guest_end[];

struct stream_vm {
	struct vm vm;
	struct log log;
	struct trace trace;
	struct config config;
	struct json_object *doc;
	pthread_t thread;
	bool made;
	enum vm_end end;
};

/* The folder of the kernel and of sockets. */
static char stream_dir[32];

static inline _Noreturn void stream_die(const char *what, const struct err *e)
{
	fprintf(stderr, "%s: %s\n", what, e ? e->msg : strerror(errno));
	abort();
}

static inline void stream_dir_remove(void)
{
	auto_free char *kernel = xasprintf("%s/kernel", stream_dir), *sock = xasprintf("%s/in", stream_dir);
	auto_free char *disk = xasprintf("%s/disk", stream_dir), *copy = xasprintf("%s/copy", stream_dir);

	unlink(kernel);
	unlink(disk);
	unlink(copy);
	unlink(sock);
	rmdir(stream_dir);
}

/* Whatever it was: a disk of zeroes. name: "disk", where it leaves from, or "copy", where it comes to. */
static inline void stream_disk_make(const char *name)
{
	auto_free char *path = xasprintf("%s/%s", stream_dir, name);
	auto_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, STREAM_DISK) < 0)
		stream_die(path, NULL);
}

static inline void stream_dir_make(void)
{
	size_t size;
	auto_free u8 *elf = make_elf(0x1000, false, &size);
	auto_free char *kernel = NULL;
	auto_fd int fd = -1;

	snprintf(stream_dir, sizeof(stream_dir), "/tmp/husk-stream-XXXXXX");
	if (!mkdtemp(stream_dir))
		stream_die("mkdtemp", NULL);
	memcpy(elf + 0x1010, stream_guest, (size_t)(stream_guest_end - stream_guest));
	kernel = xasprintf("%s/kernel", stream_dir);
	fd = open(kernel, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || fd_write_all(fd, elf, size) < 0)
		stream_die(kernel, NULL);
	stream_disk_make("disk");
}

static inline void stream_vm_prepare(struct stream_vm *v)
{
	memset(v, 0, sizeof(*v));
	v->vm.mem.fd = -1;
	log_init(&v->log, STDERR_FILENO, getenv("HUSK_TEST_LOG") ? LOG_DEBUG : LOG_OFF);
}

static inline void stream_vm_boot(struct stream_vm *v)
{
	auto_free char *text = xasprintf("{\"accelerator\":\"tcg\",\"boot-source\":{\"kernel_image_path\":\"%s/kernel\"},"
					 "\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":%u},\"serial\":{\"mode\":\"null\"},"
					 "\"entropy\":{},\"drives\":[{\"drive_id\":\"d\",\"is_root_device\":false,"
					 "\"path_on_host\":\"%s/disk\"}]}",
					 stream_dir, STREAM_RAM_MIB, stream_dir);
	struct vm_options options = {.document = &v->doc};
	struct err e;

	stream_vm_prepare(v);
	v->doc = json_tokener_parse(text);
	if (config_parse(&v->config, v->doc, "test", &e) < 0 || vm_init_options(&v->vm, &v->config, &v->log, &v->trace, &options, &e) < 0)
		stream_die("boot", &e);
	v->made = true;
}

/* Its threads have ended. */
static inline void stream_vm_fini(struct stream_vm *v)
{
	if (v->made)
		vm_fini(&v->vm);
	config_fini(&v->config);
	json_object_put(v->doc);
	log_fini(&v->log);
	memset(v, 0, sizeof(*v));
}

/* A frame as it goes over the wire, whatever its body is. */
static inline void stream_put_frame(struct buf *out, const struct frame *f, const u8 *body)
{
	u8 header[FRAME_HEADER_SIZE], crc[4];

	frame_encode(f, header);
	st_le32(crc, crc32c(0, body, f->len));
	buf_put(out, header, sizeof(header));
	if (f->len)
		buf_put(out, body, f->len);
	buf_put(out, crc, sizeof(crc));
}

/* Bytes of the input, at most STREAM_BODY; returns how many. The first byte says how many it is to be. */
static inline u32 stream_take_body(struct input *in, u8 *body)
{
	u32 len = (u32)take(in, 1), i;

	for (i = 0; i < len && in->at < in->end; i++)
		body[i] = (u8)take(in, 1);
	return i;
}

#endif

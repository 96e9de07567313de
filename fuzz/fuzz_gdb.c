/*
 * fuzz_gdb.c: a debugger that sends anything, against two vCPUs that run nothing: one without paging, one whose page tables lie in memory
 * that the debugger may write. Whatever came before: the next debugger finds a guest without breakpoints, and is served.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "arch/x86_64/cpu.h"
#include "tests/dev/fake_vm.h"
#include "vmm/gdb_impl.h"

/* The input: packets' data, each ended by a byte SEPARATOR; they are put into frames. One that begins with a byte below NR_EVENTS is
 * something else. */
#define SEPARATOR 0x1e
enum event {
	EVENT_RAW, /* the rest is sent as it is */
	EVENT_RECONNECT,
	EVENT_STOPPED, /* a vCPU that runs comes back: operands: which, why, index */
	EVENT_REFUSE,  /* operand: bit 0: the accelerator refuses registers; bit 1: and breakpoints */
	NR_EVENTS,
};

#define NR_VCPUS 2u
#define TABLES	 0x1000u /* page tables of the second vCPU: the first 2 MiB, at their addresses and in the upper half */
#define CR0_PG	 (BIT(31) | 1)
#define CR4_PAE	 BIT(5)
#define EFER_LMA (BIT(8) | BIT(10))
#define MAX_OUT	 (1 * MIB)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct rig {
	struct fake_vm f;
	struct cfg_machine machine;
	struct accel_ops accel;
	struct vcpu vcpus[NR_VCPUS];
	struct cpu_state cpus[NR_VCPUS];
	char path[64];
	int fd;
	u8 refuse;
};

/* ---- a VM whose accelerator does nothing ---- */

static struct rig *rig_of(struct vcpu *v)
{
	return container_of(container_of(v->vm, struct fake_vm, vm), struct rig, f);
}

static int fake_pull(struct vcpu *v, struct err *e)
{
	(void)v, (void)e;
	return 0;
}

static int fake_push(struct vcpu *v, struct err *e)
{
	return rig_of(v)->refuse & 1 ? err_set(e, -EINVAL, "no such registers") : 0;
}

static int fake_debug(struct vcpu *v, const struct vcpu_debug *d, struct err *e)
{
	for (u32 i = 0; i < DEBUG_MAX_HW; i++)
		ASSERT(!d->hw[i].len || (d->hw[i].len <= 8 && !(d->hw[i].addr & (d->hw[i].len - 1u)) && d->hw[i].kind <= DEBUG_HW_ACCESS));
	return rig_of(v)->refuse & 2 ? err_set(e, -EOPNOTSUPP, "no breakpoints") : 0;
}

static void make_cpus(struct rig *r)
{
	u8 *tables = fake_vm_ptr(&r->f, TABLES, 3 * MEM_PAGE_SIZE);
	struct cpu_state *c = &r->cpus[1];

	for (u32 i = 0; i < NR_VCPUS; i++) {
		r->cpus[i] = (struct cpu_state){.xsave_size = i ? 1024 : 0, .rflags = 2};
		r->vcpus[i] = (struct vcpu){.vm = &r->f.vm, .index = i, .cpu = &r->cpus[i]};
	}
	c->cr0 = CR0_PG;
	c->cr3 = TABLES;
	c->cr4 = CR4_PAE;
	c->efer = EFER_LMA;
	st_le64(tables, TABLES + MEM_PAGE_SIZE + 3);
	st_le64(tables + 8 * 511, TABLES + MEM_PAGE_SIZE + 3);
	st_le64(tables + MEM_PAGE_SIZE, TABLES + 2 * MEM_PAGE_SIZE + 3);
	st_le64(tables + 2 * MEM_PAGE_SIZE, 0x83);
}

/* ---- the debugger ---- */

/* Reads all that is there, so that the stub can go on. */
static void drain(struct rig *r)
{
	char bytes[4096];

	while (recv(r->fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

static void settle(struct rig *r)
{
	for (u32 i = 0; i < 4; i++) {
		loop_turn(&r->f.vm.loop, 0);
		if (r->fd >= 0)
			drain(r);
	}
	ASSERT(r->f.vm.gdb->out.len <= MAX_OUT && r->f.vm.debug.nr_breaks <= DEBUG_MAX_BREAKS);
}

static void connect_debugger(struct rig *r)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	memcpy(addr.sun_path, r->path, strlen(r->path));
	r->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ASSERT(r->fd >= 0 && connect(r->fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	settle(r);
}

static void reconnect(struct rig *r)
{
	fd_close(&r->fd);
	settle(r);
	connect_debugger(r);
}

static void send_all(struct rig *r, const void *data, size_t len)
{
	const char *at = data;

	for (u32 stuck = 0; len && stuck < 2; stuck++) {
		ssize_t n = send(r->fd, at, len, MSG_NOSIGNAL);

		settle(r);
		if (n <= 0)
			continue;
		at += n;
		len -= (size_t)n;
		stuck = 0;
	}
}

static void send_packet(struct rig *r, const u8 *data, size_t len)
{
	struct buf packet = {0};
	char tail[4];
	u8 sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (u8)(sum + data[i]);
	snprintf(tail, sizeof(tail), "#%02x", sum);
	buf_put(&packet, "$", 1);
	buf_put(&packet, data, len);
	buf_put(&packet, tail, 3);
	send_all(r, packet.data, packet.len);
	buf_fini(&packet);
}

/* As the vCPU's thread would. */
static void stop_vcpu(struct rig *r, const u8 *operands, size_t len)
{
	struct vcpu *v = &r->vcpus[len ? operands[0] % NR_VCPUS : 0];

	if (v->held)
		return;
	v->stop = (struct debug_stop){.why = len > 1 ? operands[1] % 4 : DEBUG_NONE, .index = len > 2 ? operands[2] % DEBUG_MAX_HW : 0};
	gdb_vcpu_stopped(v);
}

static void one(struct rig *r, const u8 *data, size_t len)
{
	switch (len && *data < NR_EVENTS ? *data : NR_EVENTS) {
	case EVENT_RAW:
		send_all(r, data + 1, len - 1);
		break;
	case EVENT_RECONNECT:
		reconnect(r);
		break;
	case EVENT_STOPPED:
		stop_vcpu(r, data + 1, len - 1);
		break;
	case EVENT_REFUSE:
		r->refuse = len > 1 ? data[1] : 0;
		break;
	default:
		send_packet(r, data, len);
	}
	settle(r);
}

/* ---- runs ---- */

static void expect(struct rig *r, const char *packet, const char *reply)
{
	char got[64] = "";
	size_t used = 0;

	ASSERT(send(r->fd, packet, strlen(packet), MSG_NOSIGNAL) == (ssize_t)strlen(packet));
	for (u32 i = 0; i < 8; i++) {
		ssize_t n;

		loop_turn(&r->f.vm.loop, 0);
		n = recv(r->fd, got + used, sizeof(got) - 1 - used, 0);
		used += n > 0 ? (size_t)n : 0;
	}
	if (strcmp(got, reply) != 0)
		fake_die(got, NULL);
}

static void check_serves(struct rig *r)
{
	r->refuse = 0;
	reconnect(r);
	ASSERT(r->f.vm.gdb->held && r->f.vm.debug.nr_breaks == 0);
	for (u32 i = 0; i < NR_VCPUS; i++)
		ASSERT(r->vcpus[i].held);
	expect(r, "$qC#b4", "+$QC1#c5");
	expect(r, "$?#3f", "+$T05thread:1;#d7");
	fd_close(&r->fd);
	settle(r);
	ASSERT(!r->vcpus[0].held && !r->vcpus[1].held);
}

static void make(struct rig *r)
{
	char dir[] = "/tmp/husk-fuzz-XXXXXX";
	struct err e = {0};

	ASSERT(mkdtemp(dir));
	snprintf(r->path, sizeof(r->path), "%s/g", dir);
	fake_vm_init(&r->f, FAKE_VM_QUIET);
	r->accel = *r->f.vm.accel;
	r->accel.vcpu_pull = fake_pull;
	r->accel.vcpu_push = fake_push;
	r->accel.vcpu_debug = fake_debug;
	r->f.vm.accel = &r->accel;
	r->f.vm.vcpus = r->vcpus;
	r->f.vm.nr_vcpus = NR_VCPUS;
	r->f.vm.want_run = true;
	make_cpus(r);
	if (gdb_init(&r->f.vm, r->path, &e) < 0 || gdb_start(&r->f.vm, &e) < 0)
		fake_die("gdb", &e);
	r->fd = -1;
}

/* The process ends without telling: nothing of it is to stay in /tmp. */
static struct rig *the_rig(void)
{
	static struct rig r; /* kept over runs */

	if (!r.f.vm.gdb)
		make(&r);
	return &r;
}

static void at_end(void)
{
	struct rig *r = the_rig();

	gdb_fini(&r->f.vm);
	*strrchr(r->path, '/') = '\0';
	rmdir(r->path);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static bool registered;
	struct rig *r = the_rig();

	if (!registered)
		registered = atexit(at_end) == 0;
	ASSERT(fallocate(r->f.vm.mem.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)r->f.vm.mem.size) == 0);
	make_cpus(r);
	r->f.vm.end = VM_END_NONE;
	connect_debugger(r);
	while (size) {
		const u8 *end = memchr(data, SEPARATOR, size);
		size_t len = end ? (size_t)(end - data) : size;

		one(r, data, len);
		data += MIN(len + 1, size);
		size -= MIN(len + 1, size);
	}
	check_serves(r);
	return 0;
}

/* tcg.c: the software accelerator as the rest of husk sees it: whether it can run here, VMs, memory, dirty log. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "arch/x86_64/chips.h"
#include "arch/x86_64/msr.h"
#include "tcg/cpumodel.h"
#include "tcg/exec.h"
#include "tcg/unit.h"
#include "tcg/vcpu.h"
#include "vmm/device.h"
#include "vmm/config.h"

/* Translated code: an eighth of the guest's memory, which holds a kernel's boot from 256 MiB on. */
#define CODE_SIZE_MIN  (16 * MIB)
#define CODE_SIZE_MAX  (64 * MIB)
#define CODE_MIB_LEAST 4ull

#define LEAF1_ECX_XSAVE	  BIT(26)
#define LEAF1_ECX_OSXSAVE BIT(27)
#define LEAF7_EBX_BMI2	  BIT(8)
#define XCR0_AVX	  7u

/* ---- probe ---- */

static int check_processor(struct err *e)
{
	u32 basic[4], ext[4] = {0}, max[4], xcr0 = 0;
	const char *missing = NULL;

	cpumodel_host_cpuid(0, 0, max);
	cpumodel_host_cpuid(1, 0, basic);
	if (max[0] >= 7)
		cpumodel_host_cpuid(7, 0, ext);
	if (basic[2] & LEAF1_ECX_OSXSAVE)
		__asm__("xgetbv" : "=a"(xcr0) : "c"(0) : "edx");
	if (!(ext[1] & LEAF7_EBX_BMI2))
		missing = "the BMI2 instructions (Intel Haswell, AMD Zen or newer)";
	else if (!(basic[2] & LEAF1_ECX_XSAVE) || !(xcr0 & 3))
		missing = "XSAVE, or its kernel does not use it";
	if (missing)
		return err_set(e, -EOPNOTSUPP, "this host's processor lacks %s, which the software accelerator translates to", missing);
	cpumodel_host_cpuid(0x80000007, 0, ext);
	if (!(ext[3] & BIT(8)))
		return err_set(e, -EOPNOTSUPP,
			       "this host's time-stamp counter is not steady (CPUID 80000007h EDX bit 8), which guests of "
			       "the software accelerator take their time from");
	return 0;
}

/* mov $0x6b737568, %eax; ret */
static const u8 sample[] = {0xb8, 0x68, 0x75, 0x73, 0x6b, 0xc3};
#define SAMPLE_RESULT 0x6b737568u

/* Translated code is written through one mapping and executed through another: no page is ever both. */
static int check_dual_mapping(struct err *e)
{
	auto_fd int fd = memfd_create("husk-probe", MFD_CLOEXEC);
	u8 *rw = MAP_FAILED, *rx = MAP_FAILED;
	u32 (*call)(void);
	int ret = 0;

	if (fd < 0 || ftruncate(fd, MEM_PAGE_SIZE) < 0)
		return err_errno(e, "cannot make shared memory (memfd_create)");
	rw = mmap(NULL, MEM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	rx = mmap(NULL, MEM_PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (rw == MAP_FAILED || rx == MAP_FAILED) {
		ret = err_errno(e, "this host does not let husk execute code that it made (SELinux: allow execmem and execmod; PaX: "
				   "MPROTECT off for husk; seccomp and noexec mounts do it too)");
	} else {
		memcpy(rw, sample, sizeof(sample));
		memcpy(&call, &rx, sizeof(call));
		if (call() != SAMPLE_RESULT)
			ret = err_set(e, -EIO, "code written through one mapping is not executed through another");
	}
	if (rw != MAP_FAILED)
		munmap(rw, MEM_PAGE_SIZE);
	if (rx != MAP_FAILED)
		munmap(rx, MEM_PAGE_SIZE);
	return ret;
}

static int tcg_probe(struct err *e)
{
	int ret = check_processor(e);

	return ret < 0 ? ret : check_dual_mapping(e);
}

/* ---- VM ---- */

static void log_totals(const struct tcg_host *h)
{
	const u64 *n = h->totals;

#define N(what) (unsigned long long)n[TCG_C_##what]
	log_debug(
		h->t.vm->log,
		"tcg: %llu units, %llu copies, %llu instructions translated in %llu ns each, %llu interpreted; TLB: %llu fills, %llu slow "
		"accesses; left translated code %llu times: %llu direct, %llu lookup, %llu interpreter, %llu single, %llu cross, %llu poll",
		N(UNITS), N(COPIES), N(INSNS), N(INSNS) ? N(TRANS_NS) / N(INSNS) : 0, N(INTERP), N(FILLS), N(PUNTS), N(DISPATCH),
		N(EXIT_DIRECT), N(EXIT_LOOKUP), N(EXIT_INTERP), N(EXIT_SINGLE), N(EXIT_CROSS), N(EXIT_POLL));
#undef N
}

static void tcg_vm_fini(struct vm *vm)
{
	struct tcg_vm *t = tcg_vm_of(vm);
	struct tcg_host *h;

	if (!t)
		return;
	h = tcg_host_of(t);
	timer_stop(h);
	if (vm->log)
		log_totals(h);
	vm->mem.on_write = NULL;
	if (t->code)
		code_free(t);
	chips_free(t->chips);
	for (u32 i = 0; i < MEM_MAX_REGIONS; i++)
		free(t->dirty[i]);
	pthread_cond_destroy(&t->cond);
	pthread_mutex_destroy(&t->lock);
	free(h);
	vm->accel_data = NULL;
}

static int vm_setup(struct tcg_host *h, struct err *e)
{
	struct timespec now;
	int ret;

	cpumodel_build(&h->model, cpumodel_host_cpuid);
	h->t.tsc_khz = h->t.vm->restore ? h->t.vm->restore->host_tsc_khz : 0;
	if (!cpumodel_tsc_sane(h->t.tsc_khz)) {
		h->t.tsc_khz = 0;
		cpumodel_tsc_begin(&h->tsc);
	}
	clock_gettime(CLOCK_REALTIME, &now);
	h->t.boot_wall_ns = (u64)now.tv_sec * NSEC_PER_SEC + (u64)now.tv_nsec;
	ret = exec_signals_init(e);
	return ret < 0 ? ret : timer_start(h, e);
}

static int tcg_vm_init(struct vm *vm, struct err *e)
{
	struct tcg_host *h;
	int ret = tcg_probe(e);

	if (ret < 0)
		return ret;
	h = xzalloc(sizeof(*h));
	h->t.vm = vm;
	h->epoll_fd = h->stop_fd = -1;
	pthread_mutex_init(&h->t.lock, NULL);
	pthread_cond_init(&h->t.cond, NULL);
	vm->accel_data = &h->t;
	ret = vm_setup(h, e);
	if (ret < 0)
		tcg_vm_fini(vm);
	return ret;
}

static const struct chips_ops chips_ops = {
	.wake = vcpu_wake,
	.set_timer = vcpu_set_timer,
	.rdtsc = vcpu_rdtsc,
	.tsc_to_host_ns = vcpu_tsc_to_host_ns,
};

static u64 code_size(const struct vm *vm)
{
	const struct cfg_tcg *cfg = vm->config ? vm->config->tcg : NULL;

	if (cfg && cfg->code_cache_mib)
		return MAX(cfg->code_cache_mib, CODE_MIB_LEAST) * MIB;
	return MIN(MAX(mem_ram_size(&vm->mem) / 8, CODE_SIZE_MIN), CODE_SIZE_MAX);
}

int tcg_vm_complete(struct tcg_host *h, struct err *e)
{
	int ret;

	if (h->t.chips)
		return 0;
	ret = chips_new(&h->t.chips, h->t.vm, h->t.vm->nr_vcpus, &chips_ops, &h->t, e);
	return ret < 0 ? ret : code_new(&h->t, code_size(h->t.vm), e);
}

static void host_wrote(void *opaque, u64 gpa, u64 len)
{
	struct tcg_vm *t = opaque;

	if (t->code)
		unit_host_write(t, gpa, len);
}

static int tcg_mem_map(struct vm *vm, const struct mem_region *r, struct err *e)
{
	struct tcg_vm *t = tcg_vm_of(vm);

	(void)r;
	vm->mem.on_write_opaque = t;
	vm->mem.on_write = host_wrote;
	return t->code ? code_mem_changed(t->code, e) : 0;
}

static void tcg_irq_line(struct vm *vm, u32 gsi, bool level)
{
	chips_set_irq(tcg_vm_of(vm)->chips, gsi, level);
}

int tcg_know_tsc(struct tcg_host *h, struct err *e)
{
	if (!h->t.tsc_khz)
		h->t.tsc_khz = cpumodel_tsc_khz(&h->tsc);
	h->t.vm->host_tsc_khz = h->t.tsc_khz;
	if (!h->t.tsc_khz)
		return err_set(e, -EOPNOTSUPP, "cannot tell how fast this host's time-stamp counter runs");
	return 0;
}

static int tcg_cpu_caps(struct vm *vm, struct arch_cpu_caps *caps, struct err *e)
{
	struct tcg_host *h = tcg_host_of(tcg_vm_of(vm));
	int ret = tcg_know_tsc(h, e);

	if (ret < 0)
		return ret;
	caps->cpuid = h->model;
	caps->tsc_khz = h->t.tsc_khz;
	caps->tsc_deadline = caps->x2apic = true;
	caps->pv_tolerated = CPUMODEL_PV_TOLERATED;
	caps->nr_msrs = tcg_msr_list(caps->msrs);
	caps->nr_feature_msrs = 1;
	caps->feature_msrs[0] = (struct x86_msr){MSR_IA32_ARCH_CAPABILITIES, CPUMODEL_ARCH_CAPABILITIES};
	return 0;
}

/* ---- dirty log ---- */

/* No vCPU writes through an entry of before: all stand still, and flush before they go on. ctx: in an exclusive section */
static void flush_writable(struct tcg_vm *t)
{
	for (u32 i = 0; i < ARRAY_SIZE(t->cpus); i++) {
		if (t->cpus[i])
			tcg_request(t->cpus[i], TCG_REQ_FLUSH_W);
	}
}

static void dirty_set(struct tcg_vm *t, bool on)
{
	tcg_exclusive_begin(t, NULL);
	__atomic_store_n(&t->dirty_on, on, __ATOMIC_SEQ_CST);
	flush_writable(t);
	tcg_exclusive_end(t, NULL);
}

static void dirty_free(struct tcg_vm *t)
{
	for (u32 i = 0; i < MEM_MAX_REGIONS; i++) {
		free(t->dirty[i]);
		t->dirty[i] = NULL;
	}
}

static int dirty_alloc(struct tcg_vm *t, struct err *e)
{
	const struct mem *m = &t->vm->mem;

	for (u32 i = 0; i < m->nr_regions; i++) {
		u64 words = mem_bitmap_words(&m->regions[i]);

		t->dirty[m->regions[i].slot] = calloc(words, sizeof(u64));
		if (t->dirty[m->regions[i].slot])
			continue;
		dirty_free(t);
		return err_set(e, -ENOMEM, "no memory for a dirty bitmap of %llu KiB", (unsigned long long)(words * 8 / KIB));
	}
	return 0;
}

static int tcg_dirty_log(struct vm *vm, bool on, struct err *e)
{
	struct tcg_vm *t = tcg_vm_of(vm);
	int ret = 0;

	if (on == __atomic_load_n(&t->dirty_on, __ATOMIC_SEQ_CST))
		return 0;
	if (on)
		ret = dirty_alloc(t, e);
	if (ret < 0)
		return ret;
	dirty_set(t, on);
	if (!on)
		dirty_free(t);
	return 0;
}

static int tcg_dirty_get(struct vm *vm, const struct mem_region *r, u64 *bitmap, struct err *e)
{
	struct tcg_vm *t = tcg_vm_of(vm);
	u64 *words = t->dirty[r->slot];

	if (!__atomic_load_n(&t->dirty_on, __ATOMIC_SEQ_CST) || !words)
		return err_set(e, -EINVAL, "dirty pages of the guest are not logged");
	tcg_exclusive_begin(t, NULL);
	for (u64 i = 0; i < mem_bitmap_words(r); i++) {
		if (__atomic_load_n(&words[i], __ATOMIC_RELAXED))
			bitmap[i] |= __atomic_exchange_n(&words[i], 0, __ATOMIC_ACQUIRE);
	}
	flush_writable(t);
	tcg_exclusive_end(t, NULL);
	return 0;
}

/* ---- the table ---- */

#define COUNTER(name, id) \
	{ \
		name, offsetof(struct tcg_cpu, counters[id]) \
	}

static const struct counter_desc counters[] = {
	COUNTER("interpreted", TCG_C_INTERP),
	COUNTER("units", TCG_C_UNITS),
	COUNTER("insns_translated", TCG_C_INSNS),
	COUNTER("translate_ns", TCG_C_TRANS_NS),
	COUNTER("units_copied", TCG_C_COPIES),
	COUNTER("copy_ns", TCG_C_COPY_NS),
	COUNTER("tlb_fills", TCG_C_FILLS),
	COUNTER("slow_accesses", TCG_C_PUNTS),
	COUNTER("dispatches", TCG_C_DISPATCH),
	COUNTER("lookups", TCG_C_LOOKUPS),
	COUNTER("mmio", TCG_C_MMIO),
	COUNTER("pio", TCG_C_PIO),
	COUNTER("exceptions", TCG_C_EXCEPTIONS),
	COUNTER("interrupts", TCG_C_INTERRUPTS),
	COUNTER("halts", TCG_C_HALTS),
	COUNTER("cr3_writes", TCG_C_CR3),
	COUNTER("invlpg", TCG_C_INVLPG),
	COUNTER("flushes", TCG_C_FLUSHES),
	COUNTER("code_writes", TCG_C_CODE_WRITES),
	COUNTER("units_invalidated", TCG_C_INVALIDATED),
	COUNTER("units_evicted", TCG_C_EVICTED),
	COUNTER("pages_awaited", TCG_C_AWAITED),
	COUNTER("exits_direct", TCG_C_EXIT_DIRECT),
	COUNTER("exits_lookup", TCG_C_EXIT_LOOKUP),
	COUNTER("exits_interpreter", TCG_C_EXIT_INTERP),
	COUNTER("exits_single", TCG_C_EXIT_SINGLE),
	COUNTER("exits_cross", TCG_C_EXIT_CROSS),
	COUNTER("exits_poll", TCG_C_EXIT_POLL),
	{NULL, 0},
};

/* A vCPU sleeps on a futex and a timer, touches the memory that translated code goes to, and takes signals of native instructions. The
 * files of --tcg-dump. */
static const char *const vcpu_syscalls[] = {"timerfd_settime", "fstat", "newfstatat", "lseek", NULL};
static const char *const loop_syscalls[] = {"timerfd_settime", "lseek", NULL};

const struct accel_ops tcg_accel_ops = {
	.name = "tcg",
	.vcpu_needs = {vcpu_syscalls, NULL},
	.loop_needs = {loop_syscalls, NULL},
	.counters = counters,
	.native = false,
	.soft_fetch = true,
	.probe = tcg_probe,
	.vm_init = tcg_vm_init,
	.vm_fini = tcg_vm_fini,
	.mem_map = tcg_mem_map,
	.vcpu_init = tcg_vcpu_init,
	.vcpu_fini = tcg_vcpu_fini,
	.vcpu_run = tcg_vcpu_run,
	.vcpu_kick = tcg_vcpu_kick,
	.vcpu_pull = tcg_vcpu_pull,
	.vcpu_push = tcg_vcpu_push,
	.vm_pull = tcg_vm_pull,
	.vm_push = tcg_vm_push,
	.vcpu_debug = tcg_vcpu_debug,
	.cpu_caps = tcg_cpu_caps,
	.irq_line = tcg_irq_line,
	.dirty_log = tcg_dirty_log,
	.dirty_get = tcg_dirty_get,
};

/*
 * tcg_diff_rig.h: one piece of code, run by the processor itself, by the translator and by the interpreter, from the same state, in the
 * same memory: guest virtual addresses are addresses of this process too, in both the same pages of a struct vm's RAM.
 */
#ifndef HUSK_TEST_TCG_DIFF_RIG_H
#define HUSK_TEST_TCG_DIFF_RIG_H

#include "cm.h"

#include <asm/prctl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "tcg/cpumodel.h"
#include "tcg/exec.h"
#include "tcg/unit.h"
#include "tcg/vcpu.h"
#include "tcg/x86_64/fpu_impl.h"

/* Below 2 GiB, for 32-bit addresses and displacements; and the data a second time, high up. */
#define AREA	   0x20000000ull
#define HIGH	   0x123456000000ull
#define AREA_PAGES 12u
#define PAGE(n)	   (AREA + (n)*MEM_PAGE_SIZE)
#define DATA	   PAGE(1) /* two pages, nothing before and after */
#define DATA_END   PAGE(3)
#define CONST	   PAGE(4) /* read-only */
#define STACK	   PAGE(6)
#define CODE	   PAGE(8) /* two pages; the first KiB is data */
#define CODE_ZONE  1024u
#define RAM	   (8 * MIB)
#define TABLES	   (2 * MIB)
#define CODE_BYTES (2 * MEM_PAGE_SIZE)
#define CLEAN	   0xffu /* vector: reached the end */
#define TIMEOUT	   0xfeu

/* Pages whose contents are compared. */
static const u8 kept[] = {1, 2, 6, 8, 9};
#define KEPT_FIRST_CODE 3u
#define GS_BASE		0x5000ull

enum rig_mode { RIG_USER, RIG_KERNEL, RIG_KERNEL_AC, RIG_MODES };

struct image {
	u64 gpr[16], rflags, rip, cr2;
	u32 vector, error;
	u8 page[ARRAY_SIZE(kept)][MEM_PAGE_SIZE];
	u8 fp[X86_XSAVE_MAX] __attribute__((aligned(64)));
};

/* Offsets are known to native_run. */
struct native {
	u64 gpr[16], flags, target, host_rsp;
	void *fp_in, *fp_out;
	u64 mask;
	u32 mxcsr, trap;
	bool running, timeout;
	u64 rip, error, cr2;
};
_Static_assert(offsetof(struct native, fp_in) == 152 && offsetof(struct native, mxcsr) == 176, "as native_run has it");
struct native nat __attribute__((visibility("hidden")));
void native_run(void);
extern char native_back[];

#define EACH(X) \
	X(0, rax) \
	X(8, rcx) \
	X(16, rdx) \
	X(24, rbx) X(40, rbp) X(48, rsi) X(56, rdi) X(64, r8) X(72, r9) X(80, r10) X(88, r11) X(96, r12) X(104, r13) X(112, r14) X(120, r15)
#define LOAD(o, r)  "mov nat+" #o "(%rip), %" #r "\n"
#define STORE(o, r) "mov %" #r ", nat+" #o "(%rip)\n"
/* clang-format off */
asm(".text\n"
    "native_run:\n"
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, nat+144(%rip)\n"
    "mov nat+152(%rip), %rcx\ntest %rcx, %rcx\njz 1f\n"
    "mov nat+168(%rip), %eax\nxor %edx, %edx\nxrstor64 (%rcx)\n"
    "1: push nat+128(%rip)\npopf\n"
    EACH(LOAD)
    "mov nat+32(%rip), %rsp\n"
    "jmp *nat+136(%rip)\n"
    "native_back:\n"
    EACH(STORE)
    "mov %rsp, nat+32(%rip)\n"
    "mov nat+144(%rip), %rsp\n"
    "pushf\npop nat+128(%rip)\ncld\n"
    "mov nat+160(%rip), %rcx\ntest %rcx, %rcx\njz 1f\n"
    "mov nat+168(%rip), %eax\nxor %edx, %edx\nxsave64 (%rcx)\n"
    "fninit\nldmxcsr nat+176(%rip)\nvzeroupper\n"
    "1: pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");
/* clang-format on */

struct rig {
	struct vm vm;
	struct tcg_host h;
	struct tcg_cpu *c;
	u64 next_table;
	enum rig_mode mode;
	u64 requests;		   /* requests that were answered */
	u64 serial, seen;	   /* runs; the one that the last tick of the watchdog saw */
	struct sigaction next[65]; /* handlers of signals.c */
	volatile bool timeout;
	struct image start, native, guest;
};
static struct rig *rig;

/* Takes vcpu_irq.c's place (linked with --wrap): nothing is delivered, tcg_exec comes back with the exception. */
void __wrap_vcpu_deliver(struct tcg_cpu *c);
void __wrap_vcpu_deliver(struct tcg_cpu *c)
{
	if (__atomic_exchange_n(&c->requests, 0, __ATOMIC_RELAXED) && ++rig->requests % 4 == 0)
		mmu_flush_all(c);
	c->poll = TCG_POLL_NONE;
	if (rig->timeout)
		c->exc = (struct tcg_exception){.pending = true, .vector = TIMEOUT};
}

/* ---- memory ---- */

/* Neighbours in the address space are none in RAM. */
static u64 rig_gpa(u32 page)
{
	return MIB + page * 5 % 16 * MEM_PAGE_SIZE;
}

static u64 *rig_pte(u64 va)
{
	u64 table = TABLES;

	for (u32 l = 3;; l--) {
		u64 *e = mem_ptr(&rig->vm.mem, table + (va >> (12 + 9 * l) & 511) * 8, 8);

		if (!l)
			return e;
		if (!*e) {
			rig->next_table += MEM_PAGE_SIZE;
			*e = rig->next_table | 0x27;
		}
		table = *e & 0xffffffffff000;
	}
}

static void rig_map_at(u64 va, u32 page, int prot)
{
	void *at = mmap((void *)va, MEM_PAGE_SIZE, prot, MAP_SHARED | MAP_FIXED_NOREPLACE, rig->vm.mem.fd, (off_t)rig_gpa(page));

	assert_ptr_equal(at, (void *)va);
	*rig_pte(va) = rig_gpa(page) | 0x5 | (prot & PROT_WRITE ? 2 : 0) | (prot & PROT_EXEC ? 0 : BIT(63));
}

static void rig_map_all(void)
{
	static const u8 data[] = {1, 2, 6};

	for (u32 i = 0; i < ARRAY_SIZE(data); i++) {
		rig_map_at(PAGE(data[i]), data[i], PROT_READ | PROT_WRITE);
		rig_map_at(HIGH + data[i] * MEM_PAGE_SIZE, data[i], PROT_READ | PROT_WRITE);
	}
	rig_map_at(PAGE(8), 8, PROT_READ | PROT_WRITE | PROT_EXEC);
	rig_map_at(PAGE(9), 9, PROT_READ | PROT_WRITE | PROT_EXEC);
	rig_map_at(CONST, 4, PROT_READ);
	for (u32 i = 0; i < MEM_PAGE_SIZE / 8; i++)
		st_le64((u8 *)mem_ptr(&rig->vm.mem, rig_gpa(4), MEM_PAGE_SIZE) + 8 * i, i * 0x9e3779b97f4a7c15);
	st_le64(mem_ptr(&rig->vm.mem, rig_gpa(4), 8), (u64)native_back);
}

static void rig_put_page(u32 i, const u8 *bytes)
{
	u8 *at = (u8 *)PAGE(kept[i]);

	if (memcmp(at, bytes, MEM_PAGE_SIZE) == 0)
		return;
	memcpy(at, bytes, MEM_PAGE_SIZE);
	if (i >= KEPT_FIRST_CODE)
		unit_host_write(&rig->h.t, rig_gpa(kept[i]), MEM_PAGE_SIZE);
}

static void rig_put_memory(const struct image *m)
{
	for (u32 i = 0; i < ARRAY_SIZE(kept); i++)
		rig_put_page(i, m->page[i]);
}

static void rig_get_memory(struct image *m)
{
	for (u32 i = 0; i < ARRAY_SIZE(kept); i++)
		memcpy(m->page[i], (void *)PAGE(kept[i]), MEM_PAGE_SIZE);
}

/* ---- the processor ---- */

static void rig_signal(int signo, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	bool ours = (u64)r[REG_RIP] - AREA < AREA_PAGES * MEM_PAGE_SIZE;

	if (signo == SIGVTALRM) {
		bool again = rig->seen == rig->serial;

		rig->seen = rig->serial;
		if (again && nat.running && ours) {
			nat.timeout = true;
			r[REG_RIP] = (greg_t)native_back;
		} else if (again && !nat.running) {
			rig->timeout = true;
			tcg_request(rig->c, TCG_REQ_KICK);
		}
		return;
	}
	if (signo == SIGALRM) { /* makes units leave at their polls */
		tcg_request(rig->c, TCG_REQ_IRQ);
		return;
	}
	if (!nat.running) {
		if (rig->next[signo].sa_sigaction)
			rig->next[signo].sa_sigaction(signo, info, context);
		return;
	}
	nat.trap = (u32)r[REG_TRAPNO];
	nat.error = (u64)r[REG_ERR];
	nat.cr2 = (u64)r[REG_CR2];
	nat.rip = (u64)r[REG_RIP];
	r[REG_RIP] = (greg_t)native_back;
}

/* False: it did not come to an end. */
static bool rig_run_native(bool fp)
{
	struct image *out = &rig->native;

	rig_put_memory(&rig->start);
	memcpy(nat.gpr, rig->start.gpr, sizeof(nat.gpr));
	nat.flags = rig->start.rflags;
	nat.target = rig->start.rip;
	nat.fp_in = fp ? rig->start.fp : NULL;
	nat.fp_out = fp ? out->fp : NULL;
	nat.trap = CLEAN;
	nat.timeout = false;
	rig->serial++;
	nat.running = true;
	native_run();
	nat.running = false;
	memcpy(out->gpr, nat.gpr, sizeof(nat.gpr));
	out->rflags = nat.flags;
	out->vector = nat.trap;
	out->rip = nat.trap == CLEAN ? (u64)native_back : nat.rip;
	out->cr2 = nat.cr2;
	out->error = (u32)nat.error;
	rig_get_memory(out);
	return !nat.timeout;
}

/* ---- the guest ---- */

static void rig_set_mode(enum rig_mode mode)
{
	struct tcg_cpu *c = rig->c;

	rig->mode = mode;
	c->cpl = mode == RIG_USER ? 3 : 0;
	c->cr4 = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_FSGSBASE;
	if (mode == RIG_KERNEL_AC)
		c->cr4 |= X86_CR4_SMAP;
	mmu_flush_all(c);
}

static __attribute__((noinline)) void rig_interpret(struct tcg_cpu *c)
{
	(void)__builtin_setjmp(c->jmp);
	while (!c->exc.pending && !rig->timeout)
		interp_step(c);
}

static void rig_run_guest(bool translator)
{
	struct tcg_cpu *c = rig->c;
	struct image *out = &rig->guest;

	rig_put_memory(&rig->start);
	memcpy(c->gpr, rig->start.gpr, sizeof(c->gpr));
	memcpy(c->fpu, rig->start.fp, sizeof(c->fpu));
	c->rflags = rig->start.rflags | (rig->mode == RIG_KERNEL_AC ? X86_FLAG_AC : 0);
	c->rip = rig->start.rip;
	c->exc = (struct tcg_exception){0};
	c->shadow = 0;
	tcg_mode_update(c);
	rig->serial++;
	rig->timeout = false;
	if (translator)
		while (!c->exc.pending)
			tcg_exec(c);
	else
		rig_interpret(c);
	fpu_save(c);
	memcpy(out->gpr, c->gpr, sizeof(c->gpr));
	out->rflags = c->rflags;
	out->rip = c->rip;
	out->vector = c->exc.vector == X86_PF && c->rip == (u64)native_back ? CLEAN : c->exc.vector;
	out->cr2 = c->exc.address;
	out->error = c->exc.error;
	if (out->vector == X86_GP && out->error == (X86_BP << 3 | 2)) { /* code that a store has changed: INT3, and there is no IDT */
		out->vector = X86_BP;
		out->rip++;
	}
	memcpy(out->fp, c->fpu, sizeof(out->fp));
	rig_get_memory(out);
}

/* Units of other code with the same bytes are there no more. */
static void rig_forget_code(void)
{
	for (u32 i = KEPT_FIRST_CODE; i < ARRAY_SIZE(kept); i++)
		unit_host_write(&rig->h.t, rig_gpa(kept[i]), MEM_PAGE_SIZE);
}

/* ---- set up ---- */

static u8 *rig_windows(void)
{
	size_t total = TCG_NR_CTX * TCG_WINDOW_SIZE;
	u8 *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	auto_fd int fd = memfd_create("windows", MFD_CLOEXEC);

	assert_true(base != MAP_FAILED && fd >= 0 && ftruncate(fd, TCG_CPU_SIZE) == 0);
	for (u32 i = 0; i < TCG_NR_CTX; i++) {
		u8 *cpu = base + i * TCG_WINDOW_SIZE + TCG_STACK_SIZE;

		assert_ptr_equal(mmap(cpu, TCG_CPU_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), cpu);
	}
	return base;
}

static void rig_make_cpu(struct tcg_cpu *c)
{
	struct err e;

	c->window0 = (u8 *)c - TCG_STACK_SIZE;
	c->t = &rig->h.t;
	c->poll = TCG_POLL_NONE;
	c->index_mask = (TCG_TLB_SIZE - 1ull) << MEM_PAGE_SHIFT;
	c->index_mask_ac = (TCG_AC_SIZE - 1ull) << MEM_PAGE_SHIFT;
	c->page_mask = ~(MEM_PAGE_SIZE - 1);
	c->jump_mask = (TCG_JUMP_SIZE - 1ull) << 1;
	cpumodel_build(&c->cpuid, cpumodel_host_cpuid);
	cpumodel_features(&c->cpuid, c->features);
	c->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
	c->cr3 = TABLES;
	c->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
	c->xcr0 = cpumodel_xcr0(&c->cpuid);
	for (u32 i = 0; i < X86_NR_SEGS; i++)
		c->seg[i] = (struct x86_seg){.limit = UINT32_MAX, .attr = (u16)(i == X86_CS ? 0xafb : 0xcf3)};
	c->seg[X86_GS].base = GS_BASE;
	assert_int_equal(interp_init(c, &e), 0);
	assert_int_equal(fpu_init(c, &e), 0);
	mmu_reset(c);
}

static int rig_setup(void **state)
{
	static const struct mem_range ram = {0, RAM};
	struct tcg_vm *t;
	struct err e;

	(void)state;
	rig = aligned_alloc(64, ALIGN_UP(sizeof(*rig), 64));
	memset(rig, 0, sizeof(*rig));
	t = &rig->h.t;
	assert_int_equal(loop_init(&rig->vm.loop, &e), 0);
	assert_int_equal(mem_init(&rig->vm.mem, &ram, 1, MEM_HUGE_NONE, &e), 0);
	t->vm = &rig->vm;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->cond, NULL);
	rig->c = (struct tcg_cpu *)(void *)(rig_windows() + TCG_STACK_SIZE);
	rig->next_table = TABLES;
	rig_map_all();
	rig_make_cpu(rig->c);
	t->cpus[0] = rig->c;
	t->nr_cpus = 1;
	assert_int_equal(code_new(t, 4 * MIB, &e), 0);
	nat.mask = fpu_of(rig->c)->mask;
	nat.mxcsr = MXCSR_RESET;
	assert_int_equal(syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE), 0);
	rig_set_mode(RIG_USER);
	return 0;
}

/* In the test: cmocka has handlers of its own around each. */
static void rig_take_signals(void)
{
	static const int all[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGVTALRM, SIGALRM};
	static const struct itimerval tick = {{0, 50000}, {0, 50000}}, poke = {{0, 250}, {0, 250}};
	struct sigaction act = {.sa_sigaction = rig_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
	struct err e;

	assert_int_equal(exec_signals_init(&e), 0);
	assert_int_equal(exec_thread_init(rig->c, &e), 0);
	for (u32 i = 0; i < ARRAY_SIZE(all); i++)
		sigaction(all[i], &act, &rig->next[all[i]]);
	setitimer(ITIMER_VIRTUAL, &tick, NULL);
	setitimer(ITIMER_REAL, &poke, NULL);
	tcg_guest_enter(rig->c);
}

static void rig_stop_timers(void)
{
	static const struct itimerval never;

	setitimer(ITIMER_VIRTUAL, &never, NULL);
	setitimer(ITIMER_REAL, &never, NULL);
}

static void rig_drop_signals(void)
{
	tcg_guest_leave(rig->c);
	rig_stop_timers();
	exec_thread_fini();
}

static int rig_teardown(void **state)
{
	struct tcg_vm *t = &rig->h.t;

	(void)state;
	rig_stop_timers(); /* a test that fails drops nothing */
	code_free(t);
	interp_fini(rig->c);
	fpu_fini(rig->c);
	munmap(rig->c->window0, TCG_NR_CTX * TCG_WINDOW_SIZE);
	mem_fini(&rig->vm.mem);
	loop_fini(&rig->vm.loop);
	munmap((void *)AREA, AREA_PAGES * MEM_PAGE_SIZE);
	munmap((void *)HIGH, AREA_PAGES * MEM_PAGE_SIZE);
	free(rig);
	return 0;
}

#endif

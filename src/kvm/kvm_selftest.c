/*
 * kvm_selftest.c: is /dev/kvm good for running a system? A kernel can offer it on a processor without VMX or SVM (paravirtual KVMs inside
 * clouds): guests made for it run well, all others are emulated instruction by instruction, a stock kernel a thousand times too slow, until
 * it dies of an instruction that the emulator does not have. This is found out with a guest of one page of code.
 */
#include "kvm/kvm_x86.h"

#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Not every glibc has the name of timer_create(2) for this field. */
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define LOOP_ITERATIONS 200
#define LOOP_TRIES	3
/* A guest loop may take this many times as long as the same loop in this process. On hardware it is about 1; under an emulated SVM (KVM in
 * a fully emulated host) the first try can be 100 for translating the code, the best of three is 1 to 3; instruction emulation is > 1000.
 */
#define MAX_SLOWDOWN 100u
#define TIME_LIMIT   (1000 * NSEC_PER_MSEC)
#define TICK	     (20 * NSEC_PER_MSEC)

#define PORT_TICKS 0x10 /* out %eax: TSC ticks of one loop */
#define PORT_STEP  0x11 /* out %al: this step passed */

enum step { STEP_LOOP, STEP_SSE, STEP_CPUID, STEP_CMPXCHG16B, NR_STEPS };

static const char *const step_name[] = {"a loop", "an SSE instruction", "cpuid", "cmpxchg16b"};

#define STR_(x) #x
#define STR(x)	STR_(x)

/* The guest, in 64-bit mode at CODE_GPA, all privileges, no IDT: an exception is a triple fault, which ends the test. */
extern const u8 kvm_selftest_code[], kvm_selftest_end[];
/* clang-format off */
__asm__(".pushsection .rodata.kvm_selftest, \"a\", @progbits\n"
	".globl kvm_selftest_code, kvm_selftest_end\n"
	".hidden kvm_selftest_code, kvm_selftest_end\n"
	"kvm_selftest_code:\n"
	"	movl	$" STR(LOOP_TRIES) ", %ebx\n"		/* STEP_LOOP */
	"1:	movl	$" STR(LOOP_ITERATIONS) ", %ecx\n"
	"	rdtsc\n"
	"	movl	%eax, %esi\n"
	"2:	decl	%ecx\n"
	"	jnz	2b\n"
	"	rdtsc\n"
	"	subl	%esi, %eax\n"
	"	outl	%eax, $" STR(PORT_TICKS) "\n"
	"	decl	%ebx\n"
	"	jnz	1b\n"
	"	movb	$0, %al\n"
	"	outb	%al, $" STR(PORT_STEP) "\n"
	"	movdqu	4f(%rip), %xmm0\n"			/* STEP_SSE */
	"	paddd	%xmm0, %xmm0\n"
	"	movd	%xmm0, %eax\n"
	"	cmpl	$0x2468acf0, %eax\n"
	"	jne	3f\n"
	"	movb	$1, %al\n"
	"	outb	%al, $" STR(PORT_STEP) "\n"
	"	xorl	%eax, %eax\n"				/* STEP_CPUID */
	"	cpuid\n"
	"	testl	%eax, %eax\n"
	"	jz	3f\n"
	"	movb	$2, %al\n"
	"	outb	%al, $" STR(PORT_STEP) "\n"
	"	xorl	%edx, %edx\n"				/* STEP_CMPXCHG16B */
	"	movl	$0x12345678, %eax\n"
	"	movl	$1, %ebx\n"
	"	movl	$2, %ecx\n"
	"	lock cmpxchg16b 4f(%rip)\n"
	"	jne	3f\n"
	"	cmpl	$2, 4f+8(%rip)\n"
	"	jne	3f\n"
	"	movb	$3, %al\n"
	"	outb	%al, $" STR(PORT_STEP) "\n"
	"3:	ud2\n"						/* a wrong result */
	"	.balign 16\n"
	"4:	.quad	0x12345678, 0\n"
	"kvm_selftest_end:\n"
	".popsection\n");
/* clang-format on */

/* Guest memory: one page that is the page table of all four levels (its entry 0 points to itself), and the code. */
#define CODE_GPA MEM_PAGE_SIZE
#define MEM_SIZE (2 * MEM_PAGE_SIZE)

struct selftest {
	int vm_fd, vcpu_fd;  /* owned */
	u8 *mem;	     /* owned mapping */
	struct kvm_run *run; /* owned mapping */
	u32 run_size;
	u32 ticks, native_ticks; /* best of the loops */
	u32 passed;		 /* steps */
};

static int make_memory(struct selftest *t, struct err *e)
{
	struct kvm_userspace_memory_region slot = {.memory_size = MEM_SIZE};
	const u64 present_writable = 3;

	t->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (t->mem == MAP_FAILED)
		return err_errno(e, "no memory for KVM's self-test");
	st_le64(t->mem, 0 | present_writable);
	st_le64(t->mem + sizeof(u64), CODE_GPA | present_writable);
	memcpy(t->mem + CODE_GPA, kvm_selftest_code, (size_t)(kvm_selftest_end - kvm_selftest_code));
	slot.userspace_addr = (uintptr_t)t->mem;
	if (ioctl(t->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return err_errno(e, "KVM refuses guest memory");
	return 0;
}

static int set_cpuid(int dev_fd, const struct selftest *t, struct err *e)
{
	const u32 nr = 256;
	auto_free struct kvm_cpuid2 *cpuid = xzalloc(sizeof(*cpuid) + nr * sizeof(cpuid->entries[0]));

	cpuid->nent = nr;
	if (ioctl(dev_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0 || ioctl(t->vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
		return err_errno(e, "KVM refuses its own CPUID leaves");
	return 0;
}

/* 64-bit mode at once: SDM 3A §4.5 and §9.8.5. */
static int set_registers(const struct selftest *t, struct err *e)
{
	struct kvm_segment code = {.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {.limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_regs regs = {.rip = CODE_GPA, .rflags = 2};
	struct kvm_sregs s;

	if (ioctl(t->vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return err_errno(e, "KVM cannot read the system registers");
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.idt.limit = 0;
	s.cr0 = 0x80010033; /* PG WP NE ET MP PE */
	s.cr3 = 0;
	s.cr4 = 0x620;	/* OSXMMEXCPT OSFXSR PAE */
	s.efer = 0x500; /* LMA LME */
	if (ioctl(t->vcpu_fd, KVM_SET_SREGS, &s) < 0 || ioctl(t->vcpu_fd, KVM_SET_REGS, &regs) < 0)
		return err_errno(e, "KVM refuses 64-bit mode");
	return 0;
}

static int make_guest(int dev_fd, struct selftest *t, struct err *e)
{
	int ret;

	t->vm_fd = ioctl(dev_fd, KVM_CREATE_VM, 0);
	if (t->vm_fd < 0)
		return err_errno(e, "KVM cannot make a VM");
	ret = kvm_x86_reserve_pages(t->vm_fd, e);
	if (!ret)
		ret = make_memory(t, e);
	if (ret < 0)
		return ret;
	t->vcpu_fd = ioctl(t->vm_fd, KVM_CREATE_VCPU, 0);
	if (t->vcpu_fd < 0)
		return err_errno(e, "KVM cannot make a vCPU");
	t->run_size = (u32)ioctl(dev_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	t->run = mmap(NULL, t->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, t->vcpu_fd, 0);
	if (t->run == MAP_FAILED)
		return err_errno(e, "cannot map the vCPU's shared page");
	ret = set_cpuid(dev_fd, t, e);
	return ret < 0 ? ret : set_registers(t, e);
}

static void free_guest(struct selftest *t)
{
	if (t->run != MAP_FAILED)
		munmap(t->run, t->run_size);
	if (t->mem != MAP_FAILED)
		munmap(t->mem, MEM_SIZE);
	fd_close(&t->vcpu_fd);
	fd_close(&t->vm_fd);
}

/* The guest's loop, here. */
static u32 native_loop(void)
{
	u32 best = UINT32_MAX;

	for (u32 i = 0; i < LOOP_TRIES; i++) {
		u32 n = LOOP_ITERATIONS, start = (u32)__builtin_ia32_rdtsc(), took;

		__asm__ volatile("1: decl %0\n\tjnz 1b" : "+r"(n) : : "cc");
		took = (u32)__builtin_ia32_rdtsc() - start;
		best = MIN(best, took);
	}
	return MAX(best, 1u);
}

/* What one exit says. False: the guest has ended, well or not. */
static bool take_exit(struct selftest *t)
{
	const struct kvm_run *run = t->run;
	const u8 *data = (const u8 *)run + run->io.data_offset;

	if (run->exit_reason != KVM_EXIT_IO)
		return false;
	if (run->io.port == PORT_TICKS) {
		t->ticks = MIN(t->ticks, ld_le32(data));
		return true;
	}
	t->passed = *data + 1u;
	return t->passed < NR_STEPS;
}

/* KVM_RUN until the guest has ended, or the time is up. A timer interrupts it again and again: one signal could come between two runs, and
 * be lost. */
static void run_to_end(struct selftest *t)
{
	u64 deadline = clock_host_ns() + TIME_LIMIT;

	while (clock_host_ns() < deadline) {
		if (ioctl(t->vcpu_fd, KVM_RUN, 0) < 0) {
			if (errno != EINTR)
				return;
		} else if (!take_exit(t)) {
			return;
		}
	}
}

static int run_guest(struct selftest *t, struct err *e)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
	struct itimerspec tick = {{0, TICK}, {0, TICK}};
	struct sigaction old_act;
	sigset_t old_mask;
	timer_t timer;
	int ret;

	event.sigev_notify_thread_id = gettid();
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) < 0)
		return err_errno(e, "cannot make a timer for KVM's self-test");
	sigaction(SIGRTMIN, NULL, &old_act);
	ret = kvm_kick_init(e);
	if (ret < 0) {
		timer_delete(timer);
		return ret;
	}
	kvm_kick_unblock(&old_mask);
	timer_settime(timer, 0, &tick, NULL);
	run_to_end(t);
	/* A last signal of the timer arrives no later than on the return from this, so before its handler goes. */
	timer_delete(timer);
	pthread_sigmask(SIG_SETMASK, &old_mask, NULL);
	sigaction(SIGRTMIN, &old_act, NULL);
	return 0;
}

static int judge(const struct selftest *t, struct err *e)
{
	const char *advice = "use the software accelerator, or a host with hardware virtualization";
	bool slow = t->passed > STEP_LOOP && t->ticks / t->native_ticks > MAX_SLOWDOWN;
	int khz = ioctl(t->vcpu_fd, KVM_GET_TSC_KHZ, 0);
	char what[128] = "", failed[64] = "";

	if (!slow && t->passed == NR_STEPS)
		return 0;
	if (slow)
		snprintf(what, sizeof(what), "a loop runs %u times slower than outside (%llu ns per iteration)%s",
			 t->ticks / t->native_ticks, (unsigned long long)t->ticks * 1000000 / (u32)MAX(khz, 1) / LOOP_ITERATIONS,
			 t->passed < NR_STEPS ? "; " : "");
	if (t->passed < NR_STEPS)
		snprintf(failed, sizeof(failed), "%s failed", step_name[t->passed]);
	return err_set(e, -EOPNOTSUPP, "/dev/kvm opens but only emulates instructions (%s%s): %s", what, failed, advice);
}

/* A processor with VMX or SVM whose kernel module is loaded does not emulate: no need for a test that takes longer than all the rest of a
 * start. Both are asked: the flag alone could come with a /dev/kvm of another kind, the module alone cannot be there without the flag, but
 * may be hidden together with /sys (then the test runs). SDM 2A CPUID.01H:ECX[5], APM 3 CPUID Fn8000_0001:ECX[2] */
static bool has_hardware(void)
{
	u32 a, b, c = 0, d, ext_c = 0;

	__get_cpuid(1, &a, &b, &c, &d);
	__get_cpuid(0x80000001, &a, &b, &ext_c, &d);
	return (c & BIT(5) && access("/sys/module/kvm_intel", F_OK) == 0) || (ext_c & BIT(2) && access("/sys/module/kvm_amd", F_OK) == 0);
}

int kvm_selftest_run(int fd, struct err *e)
{
	struct selftest t = {.vm_fd = -1, .vcpu_fd = -1, .mem = MAP_FAILED, .run = MAP_FAILED, .ticks = UINT32_MAX};
	int ret = make_guest(fd, &t, e);

	t.native_ticks = native_loop();
	if (!ret)
		ret = run_guest(&t, e);
	if (!ret)
		ret = judge(&t, e);
	free_guest(&t);
	return ret;
}

int kvm_arch_selftest(int fd, struct err *e)
{
	return has_hardware() ? 0 : kvm_selftest_run(fd, e);
}

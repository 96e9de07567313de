/*
 * hw_probe.h: what the processor itself says of an instruction: its bytes lie at the end of a page that nothing follows. A fault on
 * fetching the next page means that it wants more bytes; #UD that it is none. What does execute is stopped by TF after one instruction,
 * and unless hw.in is changed every register holds a non-canonical address so that memory operands fault.
 */
#ifndef HUSK_TEST_HW_PROBE_H
#define HUSK_TEST_HW_PROBE_H

#include <asm/ldt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define HW_PAGE 4096u
#define HW_REG	0x1111111111111100ll
#define HW_TF	0x100ll

enum hw_result { HW_DONE, HW_MORE, HW_UD, HW_FAULT };

struct hw_probe {
	uint8_t *page;				   /* and one PROT_NONE behind it */
	greg_t home[NGREG], in[NGREG], out[NGREG]; /* of in: general registers and flags */
	uint64_t cr2;
	volatile int result; /* -1: at home */
	uint64_t start, cs, rip;
	void *stack;
	bool has16;
	uint8_t *area; /* vector state to begin with, NULL: any */
};
static struct hw_probe hw;

/* No TLS in here: the instruction may have changed FS. */
__attribute__((no_stack_protector)) static void hw_signal(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	uint64_t next = (uint64_t)hw.page + HW_PAGE;

	(void)info;
	if (hw.result < 0) { /* the int3 of hw_run */
		for (int i = 0; i < NGREG; i++)
			hw.home[i] = regs[i];
		for (int i = REG_R8; i <= REG_RSP; i++)
			regs[i] = hw.in[i];
		regs[REG_RIP] = (greg_t)hw.rip;
		if (hw.cs)
			regs[REG_CSGSFS] = (greg_t)(((uint64_t)regs[REG_CSGSFS] & ~0xffffull) | hw.cs);
		regs[REG_EFL] = hw.in[REG_EFL] | HW_TF | 0x202;
		hw.result = HW_DONE;
		return;
	}
	if (sig == SIGILL)
		hw.result = HW_UD;
	else if (sig == SIGSEGV && regs[REG_TRAPNO] == 14 && regs[REG_ERR] & 16 && (uint64_t)regs[REG_CR2] == next &&
		 (uint64_t)regs[REG_RIP] == hw.rip)
		hw.result = HW_MORE;
	else if (sig != SIGTRAP)
		hw.result = HW_FAULT;
	hw.cr2 = sig == SIGSEGV && regs[REG_TRAPNO] == 14 ? (uint64_t)regs[REG_CR2] : 0;
	for (int i = 0; i < NGREG; i++) {
		hw.out[i] = regs[i];
		regs[i] = hw.home[i];
	}
}

/* A 16-bit code segment that begins at the page. */
static void hw_init16(void)
{
	struct user_desc desc = {.entry_number = 1, .limit = 0xffff, .contents = MODIFY_LDT_CONTENTS_CODE};

	desc.base_addr = (unsigned)(uint64_t)hw.page;
	hw.has16 = syscall(SYS_modify_ldt, 1, &desc, sizeof(desc)) == 0;
}

static void hw_init(void)
{
	struct sigaction act = {.sa_sigaction = hw_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	static const int signals[] = {SIGILL, SIGSEGV, SIGTRAP, SIGBUS, SIGFPE, SIGSYS};
	stack_t stack = {.ss_size = 256 * 1024};

	stack.ss_sp = hw.stack = mmap(NULL, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigaltstack(&stack, NULL);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &act, NULL);
	hw.page = mmap(NULL, 2 * HW_PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	mprotect(hw.page + HW_PAGE, HW_PAGE, PROT_NONE);
	hw_init16();
	for (int i = REG_R8; i <= REG_RSP; i++)
		hw.in[i] = HW_REG;
}

/* Runs the first len bytes as code of mode bits. */
static enum hw_result hw_run(const uint8_t *bytes, uint32_t len, uint32_t mode)
{
	hw.start = (uint64_t)hw.page + HW_PAGE - len;
	hw.rip = mode == 16 ? HW_PAGE - len : hw.start;
	hw.cs = mode == 64 ? 0 : mode == 32 ? 0x23 : 0xf;
	memcpy((void *)hw.start, bytes, len);
	hw.result = -1;
	if (hw.area)
		__asm__ volatile("xrstor64 (%0)" : : "r"(hw.area), "a"(~0u), "d"(0) : "memory");
	__asm__ volatile("int3; fninit"
			 :
			 :
			 : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
			   "xmm12", "xmm13", "xmm14", "xmm15");
	return hw.result;
}

/* Bytes that the processor wants before it decides; *result is what came of it. */
static uint32_t hw_length(const uint8_t *bytes, uint32_t mode, enum hw_result *result)
{
	uint32_t len;

	for (len = 1; len < 16; len++) {
		*result = hw_run(bytes, len, mode);
		if (*result != HW_MORE)
			break;
	}
	return len;
}

#endif

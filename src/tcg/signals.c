/*
 * signals.c: native guest instructions that fault (#DE, #XM, #MF, misaligned operands) arrive as signals. The instruction has changed
 * nothing yet, and its guest registers are in place: the handler sends the thread out of translated code, and the interpreter executes the
 * instruction again and raises what the architecture wants.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "tcg/exec.h"
#include "tcg/unit.h"
#include "tcg/x86_64/interp.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

static const int caught[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL};

/* Whose guest code this thread runs, and who had the signals before: a signal handler has nothing but globals to know that by. */
static __thread struct tcg_cpu *current_cpu;
static struct sigaction previous[ARRAY_SIZE(caught)];

/* Sends translated code that stands at pc to the interpreter. False: pc is elsewhere. */
static bool leave_unit(struct tcg_cpu *c, ucontext_t *uc)
{
	const struct tcg_code *k = c->t->code;
	u64 pc = (u64)uc->uc_mcontext.gregs[REG_RIP];
	u32 u;

	if (!k || pc < (u64)k->rx + k->thunks_end || pc >= (u64)k->rx + k->size)
		return false;
	u = unit_by_host(k, pc);
	if (u == UNIT_NONE)
		return false;
	c->exit_unit = u;
	c->exit_rip = pc + 1; /* as a return address */
	c->exit_arg = LEAVE_INTERP | (u64)(unit_guest_offset(k, &k->units[u], pc) & 0xffff) << 8;
	uc->uc_mcontext.gregs[REG_RIP] = (s64)((u64)k->rx + k->leave_fault);
	return true;
}

static void handle(int sig, siginfo_t *info, void *context)
{
	struct tcg_cpu *c = current_cpu;

	(void)info;
	if (c && (leave_unit(c, context) || fpu_stub_fault(c, sig, context)))
		return;
	/* Not the guest's: a bug of husk, or somebody sent it. Returning makes it happen again, under the handler that was there before. */
	for (u32 i = 0; i < ARRAY_SIZE(caught); i++) {
		if (caught[i] == sig)
			sigaction(sig, &previous[i], NULL);
	}
}

int exec_signals_init(struct err *e)
{
	struct sigaction act = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	for (u32 i = 0; i < ARRAY_SIZE(caught); i++) {
		struct sigaction old;

		if (sigaction(caught[i], &act, &old) < 0)
			return err_errno(e, "cannot install the handler of signal %d", caught[i]);
		if (old.sa_sigaction != handle) /* the first VM of the process */
			previous[i] = old;
	}
	return 0;
}

/* The guest decides what most registers hold when the signal comes, but rsp is husk's. AUTODISARM: a handler never runs on a stack that an
 * outer one still uses. */
int exec_thread_init(struct tcg_cpu *c, struct err *e)
{
	size_t frame = (size_t)sysconf(_SC_MINSIGSTKSZ), size = ALIGN_UP(frame + 32 * KIB, MEM_PAGE_SIZE);
	stack_t stack = {.ss_size = size, .ss_flags = (int)SS_AUTODISARM};
	sigset_t set;

	current_cpu = c;
	stack.ss_sp = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack.ss_sp == MAP_FAILED)
		return err_set(e, -ENOMEM, "no memory for a signal stack");
	if (sigaltstack(&stack, NULL) < 0)
		return err_errno(e, "cannot set the signal stack");
	sigemptyset(&set);
	for (u32 i = 0; i < ARRAY_SIZE(caught); i++)
		sigaddset(&set, caught[i]);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	return 0;
}

void exec_thread_fini(void)
{
	stack_t off = {.ss_flags = SS_DISABLE}, old;

	current_cpu = NULL;
	if (sigaltstack(&off, &old) == 0 && old.ss_sp)
		munmap(old.ss_sp, old.ss_size);
}

/* lockstep_report.c: the part of lockstep.c that is not lean: set up, and what there is to print. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tcg/lockstep_impl.h"
#include "tcg/tools.h"

int lockstep_new(struct tcg_vm *t, struct err *e)
{
	void *p;

	if (t->vm->config->machine->vcpu_count > 1)
		return err_set(e, -EINVAL, "--tcg-lockstep runs one CPU, not %llu: others would change memory between the two runs",
			       (unsigned long long)t->vm->config->machine->vcpu_count);
	p = mmap(NULL, sizeof(struct lockstep), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return err_errno(e, "no memory for --tcg-lockstep");
	t->lockstep = p;
	return 0;
}

void lockstep_free(struct tcg_vm *t)
{
	struct lockstep *l = t->lockstep;

	if (!l)
		return;
	fprintf(stderr,
		"tcg lockstep: %llu units and %llu instructions agree, %llu units with vector instructions, %llu writes; %llu units left "
		"early, %llu at once, %llu went beyond what the interpreter may repeat, %llu agreed when repeated\n",
		(unsigned long long)l->nr_units, (unsigned long long)l->nr_insns, (unsigned long long)l->nr_vector,
		(unsigned long long)l->nr_written, (unsigned long long)l->nr_early, (unsigned long long)l->nr_stood,
		(unsigned long long)l->nr_cut, (unsigned long long)l->nr_repeated);
	munmap(l, sizeof(*l));
	t->lockstep = NULL;
}

static void print_regs(const struct tcg_cpu *c, const struct lockstep *l, u32 insn)
{
	static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
	const struct lockstep_regs *want = &l->regs[insn];

	fprintf(stderr, "         %-18s %-18s %-18s\n", "before", "interpreter", "translated");
	for (u32 i = 0; i < ARRAY_SIZE(names); i++)
		fprintf(stderr, "  %-6s %18llx %18llx %18llx%s\n", names[i], (unsigned long long)l->start.gpr[i],
			(unsigned long long)want->gpr[i], (unsigned long long)c->gpr[i], want->gpr[i] == c->gpr[i] ? "" : "  <--");
	fprintf(stderr, "  %-6s %18llx %18llx %18llx\n", "rflags", (unsigned long long)l->start.rflags, (unsigned long long)want->rflags,
		(unsigned long long)c->rflags);
	fprintf(stderr, "  %-6s %18llx %18llx %18llx\n", "rip", (unsigned long long)l->start.rip, (unsigned long long)want->rip,
		(unsigned long long)c->rip);
}

static void print_bytes(const char *what, const u8 *bytes, u32 n)
{
	fprintf(stderr, "    %-12s", what);
	for (u32 i = 0; i < n; i++)
		fprintf(stderr, " %02x", bytes[i]);
	fputc('\n', stderr);
}

static void print_writes(const struct lockstep *l)
{
	for (u32 i = 0; i < l->nr_writes; i++) {
		const struct lockstep_write *w = &l->writes[i];

		fprintf(stderr, "  instruction %u at %llx writes %u bytes at %llx\n", w->insn, (unsigned long long)l->regs[w->insn].rip,
			w->n, (unsigned long long)w->va);
		print_bytes("before", w->before, w->n);
		print_bytes("interpreter", w->after, w->n);
		print_bytes("translated", w->got, w->n);
	}
}

void lockstep_diverged(struct tcg_cpu *c, u32 reason, u32 insn, const char *what)
{
	const struct lockstep *l = c->t->lockstep;

	dump_unit_loudly(c->t->code, l->unit);
	fprintf(stderr, "tcg lockstep: %s differs after %u of %u instructions (translated code left with %u)\n", what, insn, l->nr, reason);
	print_regs(c, l, insn);
	print_writes(l);
	fprintf(stderr, "husk: bug: translated code and interpreter do not agree; %llu units did\n", (unsigned long long)l->nr_units);
	abort();
}

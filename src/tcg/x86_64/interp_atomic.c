/*
 * interp_atomic.c: read-modify-write on guest memory. On RAM that can be used directly LOCK is the host's own; where it cannot (two pages,
 * devices, pages with translated code) and where the host would take a bus lock, all other vCPUs stand still for the while. Lean.
 */
#include "tcg/x86_64/interp_int.h"

#define CACHE_LINE 64u

/* One access of the host, whatever the alignment. */
static u64 host_load(const void *p, u32 size)
{
	u64 v = 0;

	if (size == 1)
		asm volatile("movb %1, %b0" : "+q"(v) : "m"(*(const char(*)[1])p));
	else if (size == 2)
		asm volatile("movw %1, %w0" : "+r"(v) : "m"(*(const char(*)[2])p));
	else if (size == 4)
		asm volatile("movl %1, %k0" : "=r"(v) : "m"(*(const char(*)[4])p));
	else
		asm volatile("movq %1, %0" : "=r"(v) : "m"(*(const char(*)[8])p));
	return v;
}

static void host_store(void *p, u64 v, u32 size)
{
	if (size == 1)
		asm volatile("movb %b1, %0" : "=m"(*(char(*)[1])p) : "q"(v));
	else if (size == 2)
		asm volatile("movw %w1, %0" : "=m"(*(char(*)[2])p) : "r"(v));
	else if (size == 4)
		asm volatile("movl %k1, %0" : "=m"(*(char(*)[4])p) : "r"(v));
	else
		asm volatile("movq %1, %0" : "=m"(*(char(*)[8])p) : "r"(v));
}

/* LOCK CMPXCHG with its flags. True: it was old, and is value now. Otherwise *seen is what it was. */
static bool host_cas(void *p, u64 old, u64 value, u32 size, u64 *seen, u32 *f)
{
	u64 rax, was;
	u32 flags;

#define CMPXCHG(ins, n) \
	asm volatile("lock " ins ", %1\n\tmovq %%rax, %2\n\tlahf\n\tseto %%al" \
		     : "=&a"(rax), "+m"(*(char(*)[n])p), "=&r"(was) \
		     : "q"(value), "0"(old) \
		     : "cc", "memory")
	if (size == 1)
		CMPXCHG("cmpxchgb %b3", 1);
	else if (size == 2)
		CMPXCHG("cmpxchgw %w3", 2);
	else if (size == 4)
		CMPXCHG("cmpxchgl %k3", 4);
	else
		CMPXCHG("cmpxchgq %3", 8);
#undef CMPXCHG
	flags = (u32)rax & 0xffff;
	*f = flags;
	*seen = was & interp_mask(size);
	return flags >> 8 & X86_FLAG_ZF;
}

static bool splits_line(u64 va, u32 size)
{
	return (va & (CACHE_LINE - 1)) + size > CACHE_LINE;
}

/* ---- alone ---- */

static void copy_jmp(void **to, void *const *from)
{
	for (u32 i = 0; i < 5; i++)
		to[i] = from[i];
}

/* Apart from the function with setjmp, as the compiler wants it. */
static __attribute__((noinline, noreturn)) void leave_raised(struct tcg_cpu *c, void *const *outer)
{
	tcg_exclusive_end(c->t, c);
	copy_jmp(c->jmp, outer);
	__builtin_longjmp(c->jmp, 1);
}

/* Runs fn while all other vCPUs stand still; what it raises ends the section first. */
static __attribute__((noinline)) void run_alone(struct tcg_cpu *c, void (*fn)(struct tcg_cpu *, void *), void *arg)
{
	void *outer[5];

	copy_jmp(outer, c->jmp);
	tcg_exclusive_begin(c->t, c);
	if (__builtin_setjmp(c->jmp))
		leave_raised(c, outer);
	fn(c, arg);
	copy_jmp(c->jmp, outer);
	tcg_exclusive_end(c->t, c);
}

/* ---- [va] = kernel([va], src) ---- */

struct modify {
	u64 va, src, old;
	interp_kernel kernel;
	u32 size, f;
};

static void modify_slowly(struct tcg_cpu *c, void *arg)
{
	struct modify *m = arg;
	enum tcg_mmu_mode mode = tcg_data_mode(c);
	u32 f = m->f;
	u64 new;

	mmu_probe(c, m->va, m->size, MMU_WRITE, mode);
	m->old = mmu_load(c, m->va, m->size, mode);
	new = m->kernel(m->old, m->src, m->size, &f);
	mmu_store(c, m->va, m->size, new &interp_mask(m->size), mode);
	m->f = f;
}

static u64 modify_locked(void *p, const struct modify *m, u32 *f)
{
	u64 old = host_load(p, m->size), new;
	u32 flags, ignored;

	do {
		flags = *f;
		new = m->kernel(old, m->src, m->size, &flags);
	} while (!host_cas(p, old, new, m->size, &old, &ignored));
	*f = flags;
	return old;
}

u64 interp_modify(struct tcg_cpu *c, u64 va, u32 size, bool lock, interp_kernel kernel, u64 src, u32 *f)
{
	struct modify m = {.va = va, .src = src, .kernel = kernel, .size = size, .f = *f};
	void *p = mmu_host(c, va, size, MMU_WRITE, tcg_data_mode(c));

	if (p && !lock) {
		u64 old = host_load(p, size);

		host_store(p, kernel(old, src, size, f), size);
		return old;
	}
	if (p && !splits_line(va, size))
		return modify_locked(p, &m, f);
	if (lock)
		run_alone(c, modify_slowly, &m);
	else
		modify_slowly(c, &m);
	*f = m.f;
	return m.old;
}

/* ---- CMPXCHG ---- */

struct cmpxchg {
	u64 va, expected, value, seen;
	u32 size, f;
};

/* The store without a match is the architecture's (SDM 2A CMPXCHG: a write cycle in any case), left out: nobody can see it. */
static void cmpxchg_slowly(struct tcg_cpu *c, void *arg)
{
	struct cmpxchg *x = arg;
	enum tcg_mmu_mode mode = tcg_data_mode(c);
	u32 f = 0;

	mmu_probe(c, x->va, x->size, MMU_WRITE, mode);
	x->seen = mmu_load(c, x->va, x->size, mode);
	interp_kernel_of(OP_CMP)(x->expected, x->seen, x->size, &f);
	if (x->seen == x->expected)
		mmu_store(c, x->va, x->size, x->value, mode);
	x->f = f;
}

static void cmpxchg_mem(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opnd[0].size;
	struct cmpxchg x = {.va = interp_ea(c, insn, size, true), .expected = interp_reg(c, X86_RAX, size), .size = size};
	void *p = mmu_host(c, x.va, size, MMU_WRITE, tcg_data_mode(c));

	x.value = interp_read(c, insn, 1);
	if (p && !splits_line(x.va, size))
		host_cas(p, x.expected, x.value, size, &x.seen, &x.f);
	else if (insn->lock)
		run_alone(c, cmpxchg_slowly, &x);
	else
		cmpxchg_slowly(c, &x);
	c->rflags = interp_flags_merge(c->rflags, x.f);
	if (x.seen != x.expected)
		interp_set_reg(c, X86_RAX, size, x.seen);
}

void interp_cmpxchg(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opnd[0].size, f = 0;
	u64 dst, acc;

	if (insn->opnd[0].kind == OPND_MEM) {
		cmpxchg_mem(c, insn);
		return;
	}
	dst = interp_read(c, insn, 0);
	acc = interp_reg(c, X86_RAX, size);
	interp_kernel_of(OP_CMP)(acc, dst, size, &f);
	c->rflags = interp_flags_merge(c->rflags, f);
	/* Where they differ the destination is not written: not even its upper half. */
	if (acc == dst)
		interp_write(c, insn, 0, interp_read(c, insn, 1));
	else
		interp_set_reg(c, X86_RAX, size, dst);
}

/* ---- CMPXCHG8B, CMPXCHG16B: halves of size bytes each ---- */

struct cmpxchg_wide {
	u64 va, expected[2], value[2], seen[2];
	u32 size;
	bool equal;
};

static void wide_slowly(struct tcg_cpu *c, void *arg)
{
	struct cmpxchg_wide *x = arg;
	enum tcg_mmu_mode mode = tcg_data_mode(c);

	mmu_probe(c, x->va, 2 * x->size, MMU_WRITE, mode);
	x->seen[0] = mmu_load(c, x->va, x->size, mode);
	x->seen[1] = mmu_load(c, x->va + x->size, x->size, mode);
	x->equal = x->seen[0] == x->expected[0] && x->seen[1] == x->expected[1];
	if (!x->equal)
		return;
	mmu_store(c, x->va, x->size, x->value[0], mode);
	mmu_store(c, x->va + x->size, x->size, x->value[1], mode);
}

static void wide_host(void *p, struct cmpxchg_wide *x)
{
	u64 lo = x->expected[0], hi = x->expected[1];

	if (x->size == 8)
		asm volatile("lock cmpxchg16b %1"
			     : "=@ccz"(x->equal), "+m"(*(char(*)[16])p), "+a"(lo), "+d"(hi)
			     : "b"(x->value[0]), "c"(x->value[1])
			     : "memory");
	else
		asm volatile("lock cmpxchg8b %1"
			     : "=@ccz"(x->equal), "+m"(*(char(*)[8])p), "+a"(lo), "+d"(hi)
			     : "b"(x->value[0]), "c"(x->value[1])
			     : "memory");
	x->seen[0] = lo;
	x->seen[1] = hi;
}

void interp_cmpxchg_wide(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->op == OP_CMPXCHG16B ? 8 : 4;
	struct cmpxchg_wide x = {.va = interp_ea(c, insn, 2 * size, true), .size = size};
	void *p;

	if (size == 8 && x.va & 15)
		tcg_raise_err(c, X86_GP, 0);
	x.expected[0] = interp_reg(c, X86_RAX, size);
	x.expected[1] = interp_reg(c, X86_RDX, size);
	x.value[0] = interp_reg(c, X86_RBX, size);
	x.value[1] = interp_reg(c, X86_RCX, size);
	p = mmu_host(c, x.va, 2 * size, MMU_WRITE, tcg_data_mode(c));
	if (p && !splits_line(x.va, 2 * size))
		wide_host(p, &x);
	else if (insn->lock)
		run_alone(c, wide_slowly, &x);
	else
		wide_slowly(c, &x);
	c->rflags = (c->rflags & ~X86_FLAG_ZF) | (x.equal ? X86_FLAG_ZF : 0);
	if (x.equal)
		return;
	interp_set_reg(c, X86_RAX, size, x.seen[0]);
	interp_set_reg(c, X86_RDX, size, x.seen[1]);
}

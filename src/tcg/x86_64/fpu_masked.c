/*
 * fpu_masked.c: vector instructions whose memory operand is accessed under a mask, with faults suppressed where the mask is clear (SDM 1
 * §15.6.4; VMASKMOV, VPMASKMOV, EVEX with an opmask, (V)MASKMOVDQU, MASKMOVQ).
 *
 * The processor itself tells which bytes it touches, so no table of element sizes is needed. Usual case: the operand lies in one accessible
 * page, and the instruction runs on it. Else it runs on a copy that has its accessible part in an accessible page of ours and the
 * rest in one that is not: what the mask suppresses natively is suppressed for the guest, and a native page fault is the guest's.
 * Stores: of two runs on different backgrounds, the bytes that come out equal were written.
 */
#include "tcg/x86_64/fpu_impl.h"

#define MAX_OPERAND 64u

struct masked {
	const struct x86_insn *insn;
	u64 va;
	u32 size, first; /* first: bytes in the first page */
	bool write;
	bool ok[2]; /* per page: accessible */
	u8 *at;	    /* where the operand is staged */
};

static u64 maskmov_address(struct tcg_cpu *c, const struct x86_insn *insn, u32 size)
{
	static const struct {
		u8 prefix, seg;
	} map[] = {{0x26, X86_ES}, {0x2e, X86_CS}, {0x36, X86_SS}, {0x3e, X86_DS}, {0x64, X86_FS}, {0x65, X86_GS}};
	u32 seg = X86_DS;

	for (u32 i = 0; i < ARRAY_SIZE(map); i++)
		if (insn->seg_prefix == map[i].prefix && (insn->mode != 64 || map[i].seg >= X86_FS))
			seg = map[i].seg;
	return interp_linear(c, seg, interp_reg(c, X86_RDI, insn->adsize), size, true);
}

/* What the mask leaves out faults at addresses that are not canonical as little as at those that are not mapped. */
static u64 operand_address(struct tcg_cpu *c, const struct x86_insn *insn, u32 size, bool write)
{
	return tcg_is_64(c) ? fpu_address(c, insn) : interp_ea(c, insn, size, write);
}

static bool fill(struct tcg_cpu *c, u64 va, u32 n, bool write)
{
	return tcg_canonical(va) && mmu_fill(c, va, n, write, tcg_data_mode(c));
}

static void masked_init(struct masked *m, struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = MIN(insn->mem.size, MAX_OPERAND);

	m->insn = insn;
	m->write = insn->mem.access & OPND_W;
	if (insn->op == OP_MASKMOVDQU) {
		size = insn->nr_opnds && insn->opnd[0].kind == OPND_MMX ? 8 : 16;
		m->write = true;
		m->va = maskmov_address(c, insn, size);
	} else {
		m->va = operand_address(c, insn, size, m->write);
	}
	m->size = size;
	m->first = (u32)MIN(size, MEM_PAGE_SIZE - (m->va & (MEM_PAGE_SIZE - 1)));
	m->ok[0] = fill(c, m->va, m->first, m->write);
	m->ok[1] = m->first == size ? m->ok[0] : fill(c, m->va + m->first, size - m->first, m->write);
}

/* The page edge is where the guest's is, and each side as accessible as there. */
static u8 *staging_place(const struct fpu *f, const struct masked *m)
{
	u8 *ram = f->guard + GUARD_RAM * MEM_PAGE_SIZE, *high = f->guard + GUARD_HIGH * MEM_PAGE_SIZE;

	if (m->first == m->size)
		return (m->ok[0] ? ram : high) + 1024 + (m->va & 63);
	if (m->ok[0])
		return m->ok[1] ? ram + 1024 + (m->va & 63) : high - m->first;
	return (m->ok[1] ? ram : high + MEM_PAGE_SIZE) - m->first;
}

/* Length and start of the part in page i. */
static u32 part(const struct masked *m, u32 i, u32 *start)
{
	*start = i ? m->first : 0;
	return i ? m->size - m->first : m->first;
}

static void stage(struct tcg_cpu *c, const struct masked *m, bool write, u8 background)
{
	for (u32 i = 0; i < 2; i++) {
		u32 start, n = part(m, i, &start);

		if (!n || !m->ok[i])
			continue;
		if (write)
			fpu_fill(m->at + start, background, n);
		else
			fpu_load(c, m->va + start, m->at + start, n);
	}
}

/* A native page fault at an active element. Raises it for the guest, unless that page is only special (a device's, code): then it is
 * accessible after all. */
static void masked_fault(struct tcg_cpu *c, struct masked *m)
{
	u64 at = fpu_of(c)->fault_addr - (u64)m->at;

	if (at >= m->size)
		tcg_raise_err(c, X86_GP, 0);
	if (!tcg_canonical(m->va + at))
		tcg_raise_err(c, m->insn->mem.seg == X86_SS ? X86_SS_EXC : X86_GP, 0);
	mmu_probe(c, m->va + at, 1, m->write ? MMU_WRITE : MMU_READ, tcg_data_mode(c));
	m->ok[at >= m->first] = true;
	if (m->first == m->size)
		m->ok[1] = m->ok[0];
}

/* Calls for each run of bytes that both images agree on. */
static void store_written(struct tcg_cpu *c, const struct masked *m, const u8 *a, const u8 *b, bool probe)
{
	for (u32 i = 0, n; i < m->size; i += n) {
		bool written = a[i] == b[i];

		for (n = 1; i + n < m->size && (a[i + n] == b[i + n]) == written; n++)
			;
		if (written && probe)
			mmu_probe(c, m->va + i, n, MMU_WRITE, tcg_data_mode(c));
		else if (written)
			fpu_store(c, m->va + i, a + i, n);
	}
}

static void masked_store(struct tcg_cpu *c, const struct masked *m)
{
	u8 a[MAX_OPERAND], b[MAX_OPERAND];

	fpu_fill(a, 0, sizeof(a));
	fpu_fill(b, 0xff, sizeof(b));
	for (u32 i = 0; i < 2; i++) {
		u32 start, n = part(m, i, &start);

		if (n && m->ok[i])
			fpu_copy(a + start, m->at + start, n);
	}
	stage(c, m, true, 0xff);
	fpu_raise(c, fpu_run_insn(c, m->insn, (u64)m->at));
	for (u32 i = 0; i < 2; i++) {
		u32 start, n = part(m, i, &start);

		if (n && m->ok[i])
			fpu_copy(b + start, m->at + start, n);
	}
	store_written(c, m, a, b, true);
	store_written(c, m, a, b, false);
}

static void masked_staged(struct tcg_cpu *c, struct masked *m)
{
	u32 trap;

	do {
		m->at = staging_place(fpu_of(c), m);
		stage(c, m, m->write, 0);
		trap = fpu_run_insn(c, m->insn, (u64)m->at);
		if (trap == X86_PF)
			masked_fault(c, m);
	} while (trap == X86_PF);
	fpu_raise(c, trap);
	if (m->write)
		masked_store(c, m);
}

void fpu_masked(struct tcg_cpu *c, const struct x86_insn *insn)
{
	struct masked m;
	void *host = NULL;

	masked_init(&m, c, insn);
	if (m.first == m.size && m.ok[0])
		host = mmu_host(c, m.va, m.size, m.write ? MMU_WRITE : MMU_READ, tcg_data_mode(c));
	if (host)
		fpu_raise(c, fpu_run_insn(c, insn, (u64)host));
	else
		masked_staged(c, &m);
}

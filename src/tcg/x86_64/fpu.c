/*
 * fpu.c: the guest's vector, opmask, x87 and MXCSR state, and its instructions, executed natively.
 *
 * State. Either c->fpu_live: it is in the hardware of the vCPU thread; or it is in c->fpu (standard XSAVE format; components whose
 * XSTATE_BV bit is clear are in their initial state whatever their bytes say, as after XSAVEOPT) and the hardware is as C code wants it.
 * fpu_restore and fpu_save move it, a round trip takes 0.1 us; they cost a load when there is nothing to do. Components: those of host and
 * guest model out of x87, SSE, AVX, AVX-512.
 *
 * The translator may use the live state directly:
 *   - Code with vector or x87 instructions is entered after fpu_restore, and gone on with after another one when a helper may have called
 *     fpu_save (device accesses: look at fpu_live). Then instructions of OP_VEC and OP_X87 can be copied with their memory operand
 *     rewritten to a checked host address: registers, MXCSR, masks, rounding are the guest's. The unit key holds what decides about #NM
 *     (TCG_MODE_NM); CR4.OSFXSR, CR4.OSXSAVE and XCR0 have to allow them too: look at them when translating, and drop units when they
 *     change.
 *   - Native exceptions: SIGFPE (trap 16: #MF; 19: #XM, or #UD without CR4.OSXMMEXCPT), SIGSEGV with trap 13 (alignment: #GP).
 *   - Not to be copied, as they show or take host addresses or need checks: what follows OP_X87 in enum x86_op (but OP_EMMS, and OP_FWAIT
 *     unless CR0.MP and TS), and OP_VEC_GATHER. OP_VEC_MASKED and OP_MASKMOVDQU may be copied when the whole operand is accessible.
 *   - FOP, FIP and FDP are those of host code and data while live. Every way out (fpu_save, FNSTENV, FNSAVE, FXSAVE, XSAVE) zeroes them, so
 *     guests always read zero there.
 */
#include "tcg/x86_64/fpu_impl.h"

/* Stores are made only where they change something: XRSTOR waits long for what was stored just before it. */
static void forget_pointers(u8 *area)
{
	if (!(ld_le64(area + XS_STATE_BV) & XS_X87) || !(ld_le16(area + XS_FOP) | ld_le64(area + XS_FOP + 2) | ld_le64(area + XS_FOP + 10)))
		return;
	st_le16(area + XS_FOP, 0);
	st_le64(area + XS_FOP + 2, 0);
	st_le64(area + XS_FOP + 10, 0);
}

/* An empty x87 stack and default MXCSR, as the ABI wants them; vector registers may have any contents but dirty upper halves are slow. */
static void make_clean(u64 mask)
{
	static const u32 mxcsr = MXCSR_RESET;

	__asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
	if (mask & XS_AVX)
		__asm__ volatile("vzeroupper");
}

void fpu_save(struct tcg_cpu *c)
{
	const struct fpu *f = fpu_of(c);
	u32 lo;

	if (!c->fpu_live)
		return;
	lo = (u32)f->mask;
	/* XSAVEOPT's modified optimization is safe: between XRSTOR from c->fpu and here nobody writes c->fpu. */
	if (f->xsaveopt)
		__asm__ volatile("xsaveopt64 (%0)" : : "r"(c->fpu), "a"(lo), "d"(0) : "memory");
	else
		__asm__ volatile("xsave64 (%0)" : : "r"(c->fpu), "a"(lo), "d"(0) : "memory");
	forget_pointers(c->fpu);
	make_clean(f->mask);
	c->fpu_live = false;
}

/* Whatever was pushed into c->fpu (a snapshot is input), XRSTOR must not raise #GP in husk. */
static void make_valid(const struct fpu *f, u8 *area)
{
	u64 bad = (ld_le64(area + XS_STATE_BV) & ~f->mask) | (ld_le32(area + XS_MXCSR) & ~f->mxcsr_mask);

	for (u32 i = XS_COMP_BV; i < XS_EXTENDED; i += 8)
		bad |= ld_le64(area + i);
	if (likely(!bad))
		return;
	st_le64(area + XS_STATE_BV, ld_le64(area + XS_STATE_BV) & f->mask);
	fpu_fill(area + XS_COMP_BV, 0, XS_EXTENDED - XS_COMP_BV);
	st_le32(area + XS_MXCSR, ld_le32(area + XS_MXCSR) & f->mxcsr_mask);
}

void fpu_restore(struct tcg_cpu *c)
{
	const struct fpu *f = fpu_of(c);

	if (c->fpu_live)
		return;
	make_valid(f, c->fpu);
	__asm__ volatile("xrstor64 (%0)" : : "r"(c->fpu), "a"((u32)f->mask), "d"(0) : "memory");
	c->fpu_live = true;
}

void fpu_reset(struct tcg_cpu *c)
{
	fpu_save(c); /* what is live is dropped, but the hardware has to be clean */
	fpu_fill(c->fpu, 0, sizeof(c->fpu));
	st_le16(c->fpu, 0x40); /* FCW */
	c->fpu[4] = 0xff;      /* tags 5555H: all in use, zero */
	st_le32(c->fpu + XS_MXCSR, MXCSR_RESET);
	st_le64(c->fpu + XS_STATE_BV, XS_X87);
}

u64 fpu_address(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 seg = insn->mem.seg;

	return interp_offset(c, insn) + (seg == X86_FS || seg == X86_GS ? c->seg[seg].base : 0);
}

void fpu_load(struct tcg_cpu *c, u64 va, void *buf, u32 n)
{
	enum tcg_mmu_mode mode = tcg_data_mode(c);
	u64 value;

	if (n != 1 && n != 2 && n != 4 && n != 8) {
		mmu_load_bytes(c, va, buf, n, mode);
		return;
	}
	value = mmu_load(c, va, n, mode);
	fpu_copy(buf, &value, n);
}

void fpu_store(struct tcg_cpu *c, u64 va, const void *buf, u32 n)
{
	enum tcg_mmu_mode mode = tcg_data_mode(c);
	u64 value = 0;

	if (n != 1 && n != 2 && n != 4 && n != 8) {
		mmu_store_bytes(c, va, buf, n, mode);
		return;
	}
	fpu_copy(&value, buf, n);
	mmu_store(c, va, n, value, mode);
}

/* ---- may the instruction be executed: #UD, #NM (SDM 2A §2.4, 2.8; 3A §2.5, 13) ---- */

static bool uses(const struct x86_insn *insn, u32 kind)
{
	for (u32 i = 0; i < insn->nr_opnds; i++)
		if (insn->opnd[i].kind == kind)
			return true;
	return false;
}

static void check_not_switched(struct tcg_cpu *c)
{
	if (c->cr0 & X86_CR0_TS)
		tcg_raise(c, X86_NM);
}

static void check_vector(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 need = XS_SSE | XS_AVX;

	if (insn->enc != ENC_LEGACY) {
		if (insn->enc == ENC_EVEX || uses(insn, OPND_K))
			need |= XS_AVX512;
		if (!(c->cr4 & X86_CR4_OSXSAVE) || (c->xcr0 & need) != need)
			tcg_raise(c, X86_UD);
	} else {
		if (c->cr0 & X86_CR0_EM)
			tcg_raise(c, X86_UD);
		if (!(c->cr4 & X86_CR4_OSFXSR) && (uses(insn, OPND_XMM) || insn->op == OP_LDMXCSR || insn->op == OP_STMXCSR))
			tcg_raise(c, X86_UD);
	}
	check_not_switched(c);
}

static void check_allowed(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (!(insn->feat == FEAT_NONE || tcg_has(c, insn->feat)) || !(insn->feat2 == FEAT_NONE || tcg_has(c, insn->feat2)))
		tcg_raise(c, X86_UD);
	switch (insn->op) {
	case OP_X87:
	case OP_FNSTENV ... OP_FRSTOR:
	case OP_FXSAVE:
	case OP_FXRSTOR:
		if (c->cr0 & (X86_CR0_EM | X86_CR0_TS))
			tcg_raise(c, X86_NM);
		return;
	case OP_FWAIT:
		if (c->cr0 & X86_CR0_MP)
			check_not_switched(c);
		return;
	case OP_XSAVE ... OP_XRSTORS:
		if (!(c->cr4 & X86_CR4_OSXSAVE))
			tcg_raise(c, X86_UD);
		if ((insn->op == OP_XSAVES || insn->op == OP_XRSTORS) && c->cpl)
			tcg_raise_err(c, X86_GP, 0);
		check_not_switched(c);
		return;
	default:
		check_vector(c, insn);
	}
}

/* ---- ordinary instructions ---- */

/* Whether a vector operand in memory has to be aligned to its size (SDM 1 §14.9, table 14-22; SDM 2A §2.4, 2.8). The hardware says so too,
 * but after a page fault that it would not have raised. */
static bool must_be_aligned(const struct x86_insn *insn)
{
	u8 op = insn->opcode;

	if (insn->enc != ENC_LEGACY)
		return insn->map == MAP_0F
			       ? op == 0x28 || op == 0x29 || op == 0x2b || op == 0xe7 || ((op == 0x6f || op == 0x7f) && insn->vex_pp == 1)
			       : insn->map == MAP_0F38 && op == 0x2a;
	if (insn->map == MAP_0F3A)
		return op < 0x60 || op > 0x63; /* PCMPESTRM... */
	if (insn->map != MAP_0F || (op != 0x6f && op != 0x7f))
		return insn->map != MAP_0F || !(op == 0x10 || op == 0x11 || op == 0xf0); /* MOVUPS, MOVUPD, LDDQU */
	for (u32 i = 0; i < insn->nr_prefixes; i++)
		if (insn->bytes[i] == 0xf3)
			return false; /* MOVDQU */
	return true;
}

/* The operand of an x87 store is read first too: an unmasked exception leaves the old value there. */
static void run_bounced(struct tcg_cpu *c, const struct x86_insn *insn, u64 va)
{
	u8 *bounce = fpu_of(c)->guard + GUARD_RAM * MEM_PAGE_SIZE + 1024 + (va & 63);
	u32 size = insn->mem.size;

	if (insn->mem.access & OPND_W)
		mmu_probe(c, va, size, MMU_WRITE, tcg_data_mode(c));
	if (!(insn->mem.access & OPND_W) || insn->mem.access & OPND_R || insn->op == OP_X87)
		fpu_load(c, va, bounce, size);
	fpu_raise(c, fpu_run_insn(c, insn, (u64)bounce));
	if (insn->mem.access & OPND_W)
		fpu_store(c, va, bounce, size);
}

/* #MF of an instruction before comes first: FNSTCW and FNSTSW alone do not look for it (SDM 1 §8.6). */
static void check_pending(struct tcg_cpu *c, const struct x86_insn *insn)
{
	bool x87 = insn->op == OP_X87;
	u16 status;

	if ((x87 && (insn->reg & 7) == 7 && (insn->opcode == 0xd9 || insn->opcode == 0xdd)) || (!x87 && !uses(insn, OPND_MMX)))
		return;
	fpu_restore(c);
	__asm__ volatile("fnstsw %0" : "=a"(status));
	if (status & 0x80)
		fpu_raise(c, X86_MF);
}

static void run_memory(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->mem.size;
	bool write = insn->mem.access & OPND_W;
	bool aligned = size >= 16 && insn->op == OP_VEC && must_be_aligned(insn);
	void *host;
	u64 va;

	check_pending(c, insn);
	/* In 64-bit code #GP for this comes before #SS for a stack address that is not canonical. */
	if (aligned && tcg_is_64(c) && fpu_address(c, insn) & (size - 1))
		tcg_raise_err(c, X86_GP, 0);
	va = interp_ea(c, insn, size, write);
	if (aligned && va & (size - 1))
		tcg_raise_err(c, X86_GP, 0);
	host = mmu_host(c, va, size, write ? MMU_WRITE : MMU_READ, tcg_data_mode(c));
	if (host)
		fpu_raise(c, fpu_run_insn(c, insn, (u64)host));
	else
		run_bounced(c, insn, va);
}

static void run_plain(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (insn->has_modrm && insn->mod != 3 && insn->mem.access)
		run_memory(c, insn);
	else
		fpu_raise(c, fpu_run_insn(c, insn, (u64)(fpu_of(c)->guard + GUARD_RAM * MEM_PAGE_SIZE)));
}

/* ---- those that show or take more than operands ---- */

/* FNSTENV, FNSAVE, FLDENV, FRSTOR in the layouts of 16- and 32-bit operand size. Real mode's differ in the pointers only, which are zero.
 */
static void run_environment(struct tcg_cpu *c, const struct x86_insn *insn)
{
	bool narrow = insn->opsize == 2, all = insn->op == OP_FNSAVE || insn->op == OP_FRSTOR;
	bool write = insn->op == OP_FNSTENV || insn->op == OP_FNSAVE;
	u32 env = narrow ? 14 : 28, size = env + (all ? 80 : 0);
	u64 va = interp_ea(c, insn, size, write);
	u8 code[] = {0x66, all ? 0xdd : 0xd9, write ? 0x37 : 0x27};
	u8 *area = fpu_of(c)->area;
	struct fpu_regs r = {.mem = (u64)area};

	if (write)
		mmu_probe(c, va, size, MMU_WRITE, tcg_data_mode(c));
	else
		fpu_load(c, va, area, size);
	fpu_raise(c, fpu_stub_run(c, fpu_stub_raw(fpu_of(c), narrow ? code : code + 1, narrow ? 3 : 2), &r));
	if (!write)
		return;
	fpu_fill(area + (narrow ? 6 : 12), 0, narrow ? 8 : 16);
	fpu_store(c, va, area, size);
}

static void run_wait(struct tcg_cpu *c)
{
	static const u8 code[] = {0x9b};
	struct fpu_regs r = {.mem = 0};

	fpu_raise(c, fpu_stub_run(c, fpu_stub_raw(fpu_of(c), code, sizeof(code)), &r));
}

static void run_ldmxcsr(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 value = (u32)mmu_load(c, interp_ea(c, insn, 4, false), 4, tcg_data_mode(c));

	if (value & ~fpu_of(c)->mxcsr_mask)
		tcg_raise_err(c, X86_GP, 0);
	fpu_restore(c);
	__asm__ volatile("ldmxcsr %0" : : "m"(value));
}

static void run_stmxcsr(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 va = interp_ea(c, insn, 4, true);
	u32 value;

	fpu_restore(c);
	__asm__ volatile("stmxcsr %0" : "=m"(value));
	mmu_store(c, va, 4, value, tcg_data_mode(c));
}

static void run_state(struct tcg_cpu *c, const struct x86_insn *insn)
{
	switch (insn->op) {
	case OP_FNSTENV ... OP_FRSTOR:
		run_environment(c, insn);
		return;
	case OP_FXSAVE:
		fpu_fxsave(c, insn);
		return;
	case OP_FXRSTOR:
		fpu_fxrstor(c, insn);
		return;
	case OP_XSAVE ... OP_XSAVES:
		fpu_xsave(c, insn);
		return;
	case OP_XRSTOR:
	case OP_XRSTORS:
		fpu_xrstor(c, insn);
		return;
	default:
		tcg_raise(c, X86_UD);
	}
}

void fpu_insn(struct tcg_cpu *c, const struct x86_insn *insn)
{
	check_allowed(c, insn);
	switch (insn->op) {
	case OP_VEC:
	case OP_X87:
	case OP_EMMS:
		run_plain(c, insn);
		return;
	case OP_VEC_MASKED:
	case OP_MASKMOVDQU:
		fpu_masked(c, insn);
		return;
	case OP_VEC_GATHER:
		fpu_gather(c, insn);
		return;
	case OP_FWAIT:
		run_wait(c);
		return;
	case OP_LDMXCSR:
		run_ldmxcsr(c, insn);
		return;
	case OP_STMXCSR:
		run_stmxcsr(c, insn);
		return;
	default:
		run_state(c, insn);
	}
}

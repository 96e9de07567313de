/*
 * fpu_gather.c: gathers and scatters, element by element, as they are defined (SDM 2C VPGATHERDD, VPSCATTERDD; SDM 1 §14.7, 15.6): done
 * elements leave the mask, so that after a fault the instruction goes on with the others.
 */
#include "tcg/x86_64/fpu_impl.h"

struct gather {
	const struct x86_insn *insn;
	u32 vl; /* bytes of the vector length */
	u32 isize, dsize, n;
	u8 data_reg, mask_reg, index_reg;
	bool scatter, evex;
	u8 index[64], data[64], mask[64]; /* mask: as the vector register has it, or an element per bit of k */
	u16 k;
};

/* VMOVDQU between [rdi] and a vector register. Loads clear the register above their vector length. */
static void move_vector(struct tcg_cpu *c, u8 *buf, u32 reg, u32 l, bool evex, bool store)
{
	u32 r = (~reg & 8) << 4, r2 = (~reg & 16);
	u8 op = store ? 0x7f : 0x6f, modrm = (u8)((reg & 7) << 3 | 7);
	u8 vex[] = {0xc4, (u8)(r | 0x61), (u8)(0x7a | l << 2), op, modrm};
	u8 ev[] = {0x62, (u8)(r | 0x61 | r2), 0xfe, (u8)(l << 5 | 0x08), op, modrm};
	struct fpu_regs regs = {.mem = (u64)buf};

	if (evex)
		fpu_raise(c, fpu_stub_run(c, fpu_stub_raw(fpu_of(c), ev, sizeof(ev)), &regs));
	else
		fpu_raise(c, fpu_stub_run(c, fpu_stub_raw(fpu_of(c), vex, sizeof(vex)), &regs));
}

static u16 read_k(struct tcg_cpu *c, u32 k)
{
	u8 code[] = {0xc5, 0xf8, 0x93, (u8)(0xc0 | k)}; /* kmovw eax, k */
	struct fpu_regs regs = {.mem = 0};

	fpu_raise(c, fpu_stub_run(c, fpu_stub_raw(fpu_of(c), code, sizeof(code)), &regs));
	return (u16)regs.rax;
}

static void write_k(struct tcg_cpu *c, u32 k, u16 value)
{
	u8 code[] = {0xc5, 0xf8, 0x92, (u8)(0xc0 | k << 3)}; /* kmovw k, eax */
	struct fpu_regs regs = {.rax = value};

	fpu_raise(c, fpu_stub_run(c, fpu_stub_raw(fpu_of(c), code, sizeof(code)), &regs));
}

static u8 data_register(const struct x86_insn *insn)
{
	for (u32 i = 0; i < insn->nr_opnds; i++)
		if (insn->opnd[i].where == AT_REG)
			return insn->opnd[i].reg & 31;
	return insn->reg & 31;
}

static void gather_init(struct gather *g, struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 low = insn->opcode & 0xf;

	g->insn = insn;
	g->evex = insn->enc == ENC_EVEX;
	g->scatter = insn->opcode >= 0xa0;
	g->vl = 16u << MIN(insn->vex_l, 2);
	g->isize = low & 1 ? 8 : 4;
	g->dsize = insn->vex_w ? 8 : 4;
	g->n = g->vl / MAX(g->isize, g->dsize);
	g->data_reg = data_register(insn);
	g->index_reg = insn->mem.index & 31;
	g->mask_reg = g->evex ? insn->evex_aaa & 7 : insn->vvvv & 15;
	if (g->evex ? !g->mask_reg || (!g->scatter && g->data_reg == g->index_reg)
		    : g->data_reg == g->index_reg || g->mask_reg == g->index_reg || g->data_reg == g->mask_reg)
		tcg_raise(c, X86_UD);
}

static void fetch(struct gather *g, struct tcg_cpu *c)
{
	u32 l = g->evex ? 2 : 1;

	move_vector(c, g->index, g->index_reg, l, g->evex, true);
	move_vector(c, g->data, g->data_reg, l, g->evex, true);
	if (g->evex)
		g->k = read_k(c, g->mask_reg);
	else
		move_vector(c, g->mask, g->mask_reg, l, false, true);
}

static bool active(const struct gather *g, u32 i)
{
	return g->evex ? g->k >> i & 1 : g->mask[i * g->dsize + g->dsize - 1] >> 7;
}

/* Puts what is done so far into the registers: before anything that may leave, and at the end. */
static void commit(struct gather *g, struct tcg_cpu *c)
{
	u32 bytes = g->n * g->dsize, l = bytes <= 16 ? 0 : bytes == 32 ? 1 : 2;

	if (g->evex)
		write_k(c, g->mask_reg, g->k);
	else
		move_vector(c, g->mask, g->mask_reg, l, false, false);
	if (!g->scatter)
		move_vector(c, g->data, g->data_reg, g->evex ? 2 : l, g->evex, false);
}

static u64 element_offset(const struct gather *g, const struct tcg_cpu *c, u32 i)
{
	const struct x86_mem *m = &g->insn->mem;
	u64 index = g->isize == 8 ? ld_le64(g->index + i * 8) : (u64)(s64)(s32)ld_le32(g->index + i * 4);
	u64 offset = (m->base == X86_NO_REG ? 0 : c->gpr[m->base & 15]) + index * m->scale + (u64)(s64)m->disp;

	return g->insn->adsize == 8 ? offset : g->insn->adsize == 4 ? (u32)offset : (u16)offset;
}

/* Whether the element can be accessed at once: nothing raises. */
static bool easy(const struct gather *g, struct tcg_cpu *c, u64 offset)
{
	return g->insn->mode == 64 && g->insn->mem.seg < X86_FS && tcg_canonical(offset) &&
	       (offset & (MEM_PAGE_SIZE - 1)) <= MEM_PAGE_SIZE - g->dsize && mmu_fill(c, offset, g->dsize, g->scatter, tcg_data_mode(c));
}

static void element(struct gather *g, struct tcg_cpu *c, u32 i)
{
	u64 va = element_offset(g, c, i);

	if (!easy(g, c, va)) {
		commit(g, c);
		va = interp_linear(c, g->insn->mem.seg, va, g->dsize, g->scatter);
	}
	if (g->scatter)
		fpu_store(c, va, g->data + i * g->dsize, g->dsize);
	else
		fpu_load(c, va, g->data + i * g->dsize, g->dsize);
}

void fpu_gather(struct tcg_cpu *c, const struct x86_insn *insn)
{
	struct gather g;

	gather_init(&g, c, insn);
	fetch(&g, c);
	/* The state before, with what commit clears above the elements, is what a fault at the first element shows. */
	fpu_fill(g.data + g.n * g.dsize, 0, sizeof(g.data) - g.n * g.dsize);
	for (u32 i = 0; i < g.n; i++) {
		if (active(&g, i))
			element(&g, c, i);
		if (g.evex)
			g.k &= (u16)~BIT(i);
		else
			fpu_fill(g.mask + i * g.dsize, 0, g.dsize);
	}
	g.k = 0;
	fpu_fill(g.mask, 0, sizeof(g.mask));
	commit(&g, c);
}

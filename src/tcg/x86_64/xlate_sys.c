/* xlate_sys.c: system instructions and others that are no plain copies: the common ones as code, the rest by a call of the interpreter. */
#include "tcg/x86_64/xlate_impl.h"

static struct emem flags_byte1(void)
{
	return EENV(offsetof(struct tcg_cpu, rflags) + 1);
}

/* Where the decoded instruction lies for callouts of it, or CODE_CALLOUTS: nowhere. They are few, and stay. */
static u32 intern(struct tcg_code *k, const struct x86_insn *in)
{
	u64 bytes = in->len < 8 ? ld_le64(in->bytes) & (BIT(8 * in->len) - 1) : ld_le64(in->bytes);
	u32 at = (u32)((bytes ^ in->len) * 0x9e3779b97f4a7c15ull >> 54);

	for (u32 i = 0; i < 8; i++, at = (at + 1) & (CODE_CALLOUTS - 1)) {
		struct x86_insn *slot = &k->callouts[at];
		u32 same = 0;

		if (!slot->len) {
			*slot = *in;
			return at;
		}
		while (same < in->len && slot->bytes[same] == in->bytes[same])
			same++;
		if (slot->len == in->len && same == in->len)
			return at;
	}
	return CODE_CALLOUTS;
}

/*
 * The interpreter executes this instruction; then translated code goes on, unless the instruction changed more than registers and memory.
 *	mov	T0, va
 *	mov	ecx, length | interned << 8
 *	call	callout
 */
bool xlate_callout(struct xlate *x, const struct x86_insn *in)
{
	xlate_mov_va(x, T0, x->insn_va[x->cur]);
	e_mov_imm(&x->e, H_RCX, in->len | intern(x->k, in) << 8);
	xlate_call_thunk(x, x->k->callout);
	return true;
}

/* An instruction that changes the mode, at the end of a unit. */
bool xlate_transfer(struct xlate *x, const struct x86_insn *in)
{
	xlate_mov_va(x, T0, x->insn_va[x->cur]);
	e_mov_imm(&x->e, H_RCX, in->op | (u32)in->len << 16 | (u32)in->opsize << 24);
	xlate_jmp_thunk(x, x->k->transfer);
	return true;
}

/* jcc to the interpreter, at the start of this instruction. */
static void leave_if(struct xlate *x, u32 cc)
{
	u32 offset = (u32)(x->insn_va[x->cur] - x->va) & 0xffff;

	xlate_tail(x, TAIL_LEAVE, false, e_jcc(&x->e, cc, NULL), LEAVE_INTERP | offset << 8);
}

/* An interrupt that IF holds back: whoever sets IF must let it in, which the interpreter does. */
static void leave_if_irq_waits(struct xlate *x)
{
	e_op_mem(&x->e, 0, 0x80, 7, EENV(offsetof(struct tcg_cpu, irq_waiting))); /* cmp byte [irq_waiting], 0 */
	e8(&x->e, 0);
	leave_if(x, CC_NE);
}

/* and (n = 4), or (n = 1) byte [rflags + 1], imm8 */
static bool change_df(struct xlate *x, const struct x86_insn *in, u32 n, u32 imm)
{
	if (xlate_live(x))
		return xlate_callout(x, in);
	e_op_mem(&x->e, 0, 0x80, n, flags_byte1());
	e8(&x->e, imm);
	return true;
}

/* movzx ecx, byte [rflags + 1]; movzx ecx, byte [rsp + rcx + table]; mov [rflags + 1], cl: keeps the arithmetic flags. */
static void change_if(struct xlate *x, u32 table)
{
	e_op_mem(&x->e, 0, 0x0fb6, T2, flags_byte1());
	e_op_mem(&x->e, 0, 0x0fb6, T2, EMEMX(H_RSP, T2, 1, table));
	e_op_mem(&x->e, 0, 0x88, T2, flags_byte1());
}

static bool sti(struct xlate *x)
{
	u32 offset = (u32)(x->insn_va[x->cur] - x->va) & 0xffff;

	if (xlate_live(x)) {
		e_op_mem(&x->e, 0, 0x0fb6, T2, EENV(offsetof(struct tcg_cpu, irq_waiting))); /* movzx ecx, byte [irq_waiting] */
		e_jrcxz(&x->e, 5);
		xlate_tail(x, TAIL_LEAVE, true, e_jmp(&x->e, NULL), LEAVE_INTERP | offset << 8);
	} else {
		leave_if_irq_waits(x);
	}
	change_if(x, offsetof(struct tcg_cpu, with_if));
	return true;
}

/* pext, pdep dst, src, [mask]: dst = src & mask without a flag */
static void mask_bits(struct emit *e, u32 reg, u32 mask)
{
	e_pext(e, reg, reg, EENV(mask));
	e_pdep(e, reg, reg, EENV(mask));
}

/* push (native arithmetic flags | the others from rflags, without RF and VM), which keeps the flags */
static bool pushf(struct xlate *x, const struct x86_insn *in)
{
	struct emit *e = &x->e;
	struct emem slot;

	if (in->opsize != 8)
		return xlate_callout(x, in);
	slot = xlate_fold(x, xlate_push_slot(x));
	e8(e, 0x9c);		  /* pushf */
	e8(e, 0x41), e8(e, 0x5b); /* pop r11 */
	e_load(e, T2, EENV(offsetof(struct tcg_cpu, rflags)));
	if (x->need[x->cur + 1]) {
		mask_bits(e, T1, offsetof(struct tcg_cpu, arith_mask));
		mask_bits(e, T2, offsetof(struct tcg_cpu, other_mask));
		e_lea(e, T1, EMEMX(T1, T2, 1, 0));
	} else {
		e_alu_imm(e, 0, 4, T1, (s32)X86_FLAGS_ARITH);
		e_alu_imm(e, 1, 4, T2, (s32) ~(X86_FLAGS_ARITH | X86_FLAG_RF | X86_FLAG_VM));
		e_op_rr(e, 1, 0x09, T2, T1); /* or T1, T2 */
	}
	e_store(e, T1, slot);
	e_lea(e, H_GUEST_RSP, EMEM(H_GUEST_RSP, -8));
	return true;
}

#define PP_SHLX 1u
#define PP_SARX 2u
/* shlx, sarx dst, src, ecx: VEX.LZ.66|F3.0F38.W1 F7 */
static void e_shift_rcx(struct emit *e, u32 pp, u32 dst, u32 src)
{
	e8(e, 0xc4);
	e8(e, (dst >> 3 ? 0 : 0x80) | 0x40 | (src >> 3 ? 0 : 0x20) | 2);
	e8(e, 0x80 | (~(u32)H_RCX & 15) << 3 | pp);
	e8(e, 0xf7);
	e8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}

static struct emem seg_field(u32 seg, u32 field)
{
	return EENV(offsetof(struct tcg_cpu, seg) + seg * sizeof(struct x86_seg) + field);
}

/* mov r32 or m16, sreg */
static bool read_selector(struct xlate *x, const struct x86_insn *in)
{
	struct emem selector = seg_field(in->sreg, offsetof(struct x86_seg, selector));
	struct emem at = {0};
	bool memory = in->mod != 3;
	u32 reg = memory ? HOME : xlate_host_reg(in->rm), to = reg == HOME ? T2 : reg;

	if (memory)
		at = xlate_operand(x, in);
	else if (in->opsize == 2)
		to = T2;
	e_op_mem(&x->e, 0, 0x0fb7, to, selector); /* movzx r32, word */
	if (memory || (in->opsize == 2 && reg == HOME)) {
		e8(&x->e, 0x66);
		e_op_mem(&x->e, 0, 0x89, T2, memory ? at : xlate_home(in->rm)); /* mov [...], cx */
	} else if (in->opsize == 2) {
		e8(&x->e, 0x66);
		e_op_rr(&x->e, 0, 0x89, T2, reg); /* mov r16, cx */
	} else if (reg == HOME) {
		e_store(&x->e, T2, xlate_home(in->rm));
	}
	return true;
}

/* RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE of 64 bits; what is not canonical is left to the interpreter. */
static bool fsgsbase(struct xlate *x, const struct x86_insn *in)
{
	bool write = in->op == OP_WRFSBASE || in->op == OP_WRGSBASE;
	u32 seg = in->op == OP_RDFSBASE || in->op == OP_WRFSBASE ? X86_FS : X86_GS, reg = xlate_host_reg(in->rm);
	struct emem base = seg_field(seg, offsetof(struct x86_seg, base));
	struct emit *e = &x->e;

	if (!(x->mode & TCG_MODE_FSGS) || in->opsize != 8)
		return xlate_callout(x, in);
	if (!write) {
		e_load(e, reg == HOME ? T1 : reg, base);
		if (reg == HOME)
			e_store(e, T1, xlate_home(in->rm));
		return true;
	}
	reg = xlate_get(x, in->rm, T1);
	e_mov_imm(e, H_RCX, 16);
	e_shift_rcx(e, PP_SHLX, T0, reg);
	e_shift_rcx(e, PP_SARX, T0, T0);
	e8(e, 0x49), e8(e, 0xf7), e8(e, 0xd0 | (T0 & 7)); /* not T0 */
	e_op_mem(e, 1, 0x8d, T2, EMEMX(T0, reg, 1, 1));	  /* lea rcx, [T0 + reg + 1]: zero if they agree */
	e_jrcxz(e, 5);
	xlate_tail(x, TAIL_LEAVE, true, e_jmp(e, NULL), LEAVE_INTERP | ((u32)(x->insn_va[x->cur] - x->va) & 0xffff) << 8);
	e_store(e, reg, base);
	return true;
}

/* In kernel mode, when nothing but IF and arithmetic flags changes; these go to the hardware only if somebody reads them. */
static bool popf(struct xlate *x, const struct x86_insn *in)
{
	struct emem keep = EENV(offsetof(struct tcg_cpu, scratch) + 8 * 2);
	struct emit *e = &x->e;

	if (in->opsize != 8 || x->mode & TCG_MODE_USER || xlate_live(x))
		return xlate_callout(x, in);
	e_load(e, T1, xlate_pop_slot(x));
	e_load(e, T2, EENV(offsetof(struct tcg_cpu, rflags)));
	e_op_rr(e, 1, 0x31, T1, T2); /* xor T2, T1 */
	e_op_rr(e, 1, 0xf7, 0, T2);  /* test T2, imm32 */
	e32(e, (u32) ~(X86_FLAGS_ARITH | X86_FLAG_IF));
	leave_if(x, CC_NE);
	leave_if_irq_waits(x);
	e_store(e, T1, EENV(offsetof(struct tcg_cpu, rflags)));
	e_lea(e, H_GUEST_RSP, EMEM(H_GUEST_RSP, 8));
	if (!x->need[x->cur + 1])
		return true;
	e_store(e, H_RAX, keep);
	e_op_rr(e, 0, 0x89, T1, H_RAX); /* mov eax, T1d */
	xlate_load_flags(e);
	e_load(e, H_RAX, keep);
	return true;
}

/* TSC + offset in edx:eax without a flag: rdtsc; rdx = rax | rdx << 32; + offset; split */
static bool rdtsc(struct xlate *x, const struct x86_insn *in)
{
	struct emit *e = &x->e;

	if (x->mode & TCG_MODE_USER) { /* CR4.TSD */
		if (xlate_live(x))
			return xlate_callout(x, in);
		e_op_mem(e, 0, 0xf6, 0, EENV(offsetof(struct tcg_cpu, cr4))); /* test byte [cr4], TSD */
		e8(e, (u32)X86_CR4_TSD);
		leave_if(x, CC_NE);
	}
	e8(e, 0x0f), e8(e, 0x31);
	e_rorx(e, H_RDX, H_RDX, 32);
	e_lea(e, H_RDX, EMEMX(H_RDX, H_RAX, 1, 0));
	e_load(e, H_RAX, EENV(offsetof(struct tcg_cpu, tsc_offset)));
	e_lea(e, H_RDX, EMEMX(H_RDX, H_RAX, 1, 0));
	e_op_rr(e, 0, 0x89, H_RDX, H_RAX); /* mov eax, edx */
	e_rorx(e, H_RDX, H_RDX, 32);
	e_op_rr(e, 0, 0x89, H_RDX, H_RDX); /* mov edx, edx */
	if (in->op == OP_RDTSCP)
		e_op_mem(e, 0, 0x8b, H_GUEST_RCX, EENV(offsetof(struct tcg_cpu, tsc_aux)));
	return true;
}

static bool swapgs(struct xlate *x, const struct x86_insn *in)
{
	struct emem gs = EENV(offsetof(struct tcg_cpu, seg) + X86_GS * sizeof(struct x86_seg) + offsetof(struct x86_seg, base));
	struct emem kernel = EENV(offsetof(struct tcg_cpu, kernel_gs_base));

	if (x->mode & TCG_MODE_USER)
		return xlate_callout(x, in);
	e_load(&x->e, T0, gs);
	e_load(&x->e, T1, kernel);
	e_store(&x->e, T1, gs);
	e_store(&x->e, T0, kernel);
	return true;
}

/*
 * BT, BTS, BTR, BTC of a bit string in memory: the register counts bits from the operand's address. T0 = address of the word, then
 *	mov	T1, [T0]		or, locked:	pext	T1, reg, [bit mask]
 *	bt	T1, reg					lock bts [T0], T1
 *	mov	[T0], T1
 */
bool xlate_bit_string(struct xlate *x, const struct x86_insn *in)
{
	struct emit *e = &x->e;
	bool wide = in->opsize == 8;
	u32 opcode = in->opcode, reg;
	u8 *retry = e->p;

	if (in->opsize == 2 || in->adsize != 8)
		return xlate_callout(x, in);
	xlate_ea(x, in);
	reg = xlate_get(x, in->opnd[1].reg, T1);
	if (!wide) {
		e_op_rr(e, 1, 0x63, T1, reg); /* movsxd T1, reg */
		reg = T1;
	}
	e_mov_imm(e, H_RCX, wide ? 6 : 5);
	e_shift_rcx(e, PP_SARX, T1, reg);
	e_lea(e, T0, EMEMX(T0, T1, wide ? 8 : 4, 0));
	xlate_check(x, &(struct check){T0, in->opsize, 0, in->opsize, in->op != OP_BT, true, retry});
	reg = xlate_get(x, in->opnd[1].reg, T2);
	if (in->lock) {
		e_pext(e, T1, reg, EENV(wide ? offsetof(struct tcg_cpu, bits63) : offsetof(struct tcg_cpu, bits31)));
		e8(e, 0xf0);
		e_op_mem(e, wide, 0x0f00 | opcode, T1, EMEM(T0, 0));
		return true;
	}
	e_op_mem(e, wide, 0x8b, T1, EMEM(T0, 0));
	e_op_rr(e, wide, 0x0f00 | opcode, reg, T1);
	if (in->op != OP_BT)
		e_op_mem(e, wide, 0x89, T1, EMEM(T0, 0));
	return true;
}

/* Instructions that the interpreter may execute between others of a unit. What changes the mode, the address space or rip is not among
 * them. */
const u8 xlate_traits[OP_NR] = {
	[OP_ADD... OP_SHRD] = TRAIT_PLAIN,
	[OP_BSF... OP_MOVDIRI] = TRAIT_PLAIN,
	[OP_XCHG... OP_CMPXCHG] = TRAIT_PLAIN,
	[OP_CMPXCHG8B] = TRAIT_KEEPS,
	[OP_CMPXCHG16B] = TRAIT_KEEPS,
	[OP_CMOV... OP_CRC32] = TRAIT_PLAIN,
	[OP_BT... OP_BTC] = TRAIT_ALWAYS | TRAIT_KEEPS,
	[OP_LEA] = TRAIT_ALWAYS | TRAIT_KEEPS,
	[OP_NOP] = TRAIT_ALWAYS | TRAIT_EMPTY | TRAIT_KEEPS,
	[OP_ENDBR] = TRAIT_ALWAYS | TRAIT_EMPTY | TRAIT_KEEPS,
	[OP_PREFETCH] = TRAIT_ALWAYS | TRAIT_EMPTY,
	[OP_PUSH] = TRAIT_ALWAYS | TRAIT_FLOW | TRAIT_STACK,
	[OP_POP] = TRAIT_ALWAYS | TRAIT_FLOW | TRAIT_STACK,
	[OP_LEAVE] = TRAIT_ALWAYS | TRAIT_FLOW | TRAIT_KEEPS,
	[OP_JMP] = TRAIT_ALWAYS | TRAIT_FLOW | TRAIT_KEEPS,
	[OP_JCC] = TRAIT_ALWAYS | TRAIT_FLOW | TRAIT_KEEPS,
	[OP_CALL] = TRAIT_ALWAYS | TRAIT_FLOW | TRAIT_ENDS | TRAIT_STACK,
	[OP_CALL_IND] = TRAIT_ALWAYS | TRAIT_FLOW | TRAIT_ENDS | TRAIT_KEEPS,
	[OP_JMP_IND] = TRAIT_ALWAYS | TRAIT_FLOW | TRAIT_ENDS | TRAIT_KEEPS,
	[OP_JRCXZ] = TRAIT_ALWAYS | TRAIT_FLOW | TRAIT_ENDS | TRAIT_KEEPS,
	[OP_LOOP] = TRAIT_ALWAYS | TRAIT_FLOW | TRAIT_ENDS | TRAIT_KEEPS,
	[OP_RET] = TRAIT_ALWAYS | TRAIT_FLOW | TRAIT_ENDS | TRAIT_STACK,
	[OP_SYSCALL] = TRAIT_ENDS, /* these change the mode */
	[OP_SYSRET] = TRAIT_ENDS,
	[OP_IRET] = TRAIT_ENDS,
	[OP_STAC] = TRAIT_ENDS,
	[OP_CLAC] = TRAIT_ENDS,
};

bool xlate_is_callout(u32 op)
{
	switch (op) {
	case OP_MOVS:
	case OP_CMPS:
	case OP_SCAS:
	case OP_LODS:
	case OP_STOS:
	case OP_XLAT:
	case OP_CPUID:
	case OP_RDMSR:
	case OP_WRMSR:
	case OP_RDPID:
	case OP_RDRAND:
	case OP_RDSEED:
	case OP_INVLPG:
	case OP_RDFSBASE:
	case OP_RDGSBASE:
	case OP_WRFSBASE:
	case OP_WRGSBASE:
	case OP_XGETBV:
	case OP_MOV_FROM_CR:
	case OP_MOV_FROM_SREG:
	case OP_MOV_TO_SREG:
	case OP_SGDT:
	case OP_SIDT:
	case OP_SLDT:
	case OP_STR:
	case OP_VERW:
	case OP_CLFLUSH:
	case OP_IN:
	case OP_OUT:
	case OP_VEC_GATHER:
	case OP_FXSAVE:
	case OP_FXRSTOR:
	case OP_XSAVE:
	case OP_XSAVEOPT:
	case OP_XSAVEC:
	case OP_XSAVES:
	case OP_XRSTOR:
	case OP_XRSTORS:
	case OP_LDMXCSR:
	case OP_STMXCSR:
		return true;
	default:
		return false;
	}
}

bool xlate_system(struct xlate *x, const struct x86_insn *in)
{
	bool user = x->mode & TCG_MODE_USER;

	switch (in->op) {
	case OP_CLI:
		if (user)
			return xlate_callout(x, in);
		change_if(x, offsetof(struct tcg_cpu, without_if));
		return true;
	case OP_STI:
		return !user && sti(x);
	case OP_CLD:
		return change_df(x, in, 4, 0xfb);
	case OP_STD:
		return change_df(x, in, 1, 0x04);
	case OP_PUSHF:
		return pushf(x, in);
	case OP_POPF:
		return popf(x, in);
	case OP_RDTSC:
	case OP_RDTSCP:
		return rdtsc(x, in);
	case OP_SWAPGS:
		return swapgs(x, in);
	case OP_MOV_FROM_SREG:
		return read_selector(x, in);
	case OP_RDFSBASE:
	case OP_RDGSBASE:
	case OP_WRFSBASE:
	case OP_WRGSBASE:
		return fsgsbase(x, in);
	case OP_SERIALIZE: /* a store that changes code has already done its work when it is complete */
		return true;
	default:
		return xlate_is_callout(in->op) && xlate_callout(x, in);
	}
}

/* decode_effects.c: flags and implicit registers of an instruction, and what the tables do not say. */
#include "tcg/x86_64/decode_impl.h"

#include "tcg/tcg.h"

#define CF   X86_FLAG_CF
#define PF   X86_FLAG_PF
#define AF   X86_FLAG_AF
#define ZF   X86_FLAG_ZF
#define SF   X86_FLAG_SF
#define OF   X86_FLAG_OF
#define DF   X86_FLAG_DF
#define ALL6 X86_FLAGS_ARITH
#define MANY (ALL6 | X86_FLAG_TF | X86_FLAG_IF | DF | X86_FLAG_IOPL | X86_FLAG_NT)

const struct decode_flag_effect decode_flag_effects[FL_NR] = {
	[FL_ALU] = {0, ALL6, ALL6, 0},
	[FL_ADC] = {CF, ALL6, ALL6, 0},
	[FL_INC] = {0, ALL6 & ~CF, ALL6 & ~CF, 0},
	[FL_MUL] = {0, ALL6, CF | OF, 0},
	[FL_DIV] = {0, ALL6, 0, 0},
	[FL_SHIFT] = {0, ALL6, ALL6, 0},
	[FL_ROT] = {0, CF | OF, CF | OF, 0},
	[FL_RC] = {CF, CF | OF, CF | OF, 0},
	[FL_SHD] = {0, ALL6, ALL6, 0},
	[FL_BT] = {0, ALL6 & ~ZF, CF, 0},
	[FL_BSF] = {0, ALL6, ZF, 0},
	[FL_LZCNT] = {0, ALL6, CF | ZF, 0},
	[FL_ANDN] = {0, ALL6, CF | ZF | SF | OF, 0},
	[FL_BEXTR] = {0, ALL6, CF | ZF | OF, 0},
	[FL_CF] = {0, CF, CF, 0},
	[FL_CMC] = {CF, CF, CF, 0},
	[FL_DF] = {0, DF, DF, 0},
	[FL_IF] = {X86_FLAG_IOPL, X86_FLAG_IF, 0, 0},
	[FL_LAHF] = {ALL6 & ~OF, 0, 0, 0},
	[FL_SAHF] = {0, ALL6 & ~OF, ALL6 & ~OF, 0},
	[FL_AAA] = {AF, ALL6, AF | CF, 0},
	[FL_AAM] = {0, ALL6, SF | ZF | PF, 0},
	[FL_DAA] = {AF | CF, ALL6, ALL6 & ~OF, 0},
	[FL_ADCX] = {CF, CF, CF, 0},
	[FL_ADOX] = {OF, OF, OF, 0},
	[FL_RCF] = {CF, 0, 0, 0},
	[FL_RZF] = {ZF, 0, 0, 0},
	[FL_WZF] = {0, ZF, ZF, 0},
	[FL_STR] = {DF, 0, 0, 0},
	[FL_CMPS] = {DF, ALL6, ALL6, 0},
	[FL_PUSHF] = {MANY, 0, 0, 0},
	[FL_POPF] = {X86_FLAG_IOPL, MANY, ALL6 | DF | X86_FLAG_TF | X86_FLAG_NT, 0},
	[FL_ALL] = {MANY, MANY, 0, 0},
	[FL_FCMOVB] = {CF, 0, 0, 0},
	[FL_FCMOVBE] = {CF | ZF, 0, 0, 0},
	[FL_FCMOVE] = {ZF, 0, 0, 0},
	[FL_FCMOVU] = {PF, 0, 0, 0},
	[FL_FCOMI] = {0, ALL6, CF | PF | ZF, 0},
};
/* By condition code / 2. */
const u16 decode_cc_flags[8] = {OF, CF, ZF, CF | ZF, SF, PF, SF | OF, ZF | SF | OF};

#define R(x) BIT(X86_R##x)
const struct decode_masks decode_implicit[IM_NR] = {
	[IM_RAX] = {R(AX), 0},
	[IM_WAX] = {0, R(AX)},
	[IM_AX] = {R(AX), R(AX)},
	[IM_AX_WDX] = {R(AX), R(AX) | R(DX)},
	[IM_RAX_WDX] = {R(AX), R(DX)},
	[IM_AXDX] = {R(AX) | R(DX), R(AX) | R(DX)},
	[IM_RAXDX] = {R(AX) | R(DX), 0},
	[IM_WAXDX] = {0, R(AX) | R(DX)},
	[IM_RBX_AX] = {R(AX) | R(BX), R(AX)},
	[IM_RDX] = {R(DX), 0},
	[IM_CX8B] = {R(AX) | R(DX) | R(BX) | R(CX), R(AX) | R(DX)},
	[IM_SP] = {R(SP), R(SP)},
	[IM_SPBP] = {R(SP) | R(BP), R(SP) | R(BP)},
	[IM_PUSHA] = {0xff, R(SP)},
	[IM_POPA] = {R(SP), 0xff},
	[IM_CX] = {R(CX), R(CX)},
	[IM_RCX] = {R(CX), 0},
	[IM_SIDI] = {R(SI) | R(DI), R(SI) | R(DI)},
	[IM_AXDI] = {R(AX) | R(DI), R(DI)},
	[IM_AXSI] = {R(SI), R(SI) | R(AX)},
	[IM_DXDI] = {R(DX) | R(DI), R(DI)},
	[IM_DXSI] = {R(DX) | R(SI), R(SI)},
	[IM_RDI] = {R(DI), 0},
	[IM_SYSCALL] = {0, R(CX) | BIT(11)},
	[IM_SYSRET] = {R(CX) | BIT(11), 0},
	[IM_SYSEXIT] = {R(CX) | R(DX), R(SP)},
	[IM_RDMSR] = {R(CX), R(AX) | R(DX)},
	[IM_WRMSR] = {R(AX) | R(CX) | R(DX), 0},
	[IM_WAXDXCX] = {0, R(AX) | R(DX) | R(CX)},
	[IM_CPUID] = {R(AX) | R(CX), R(AX) | R(BX) | R(CX) | R(DX)},
	[IM_RAXCXDX] = {R(AX) | R(CX) | R(DX), 0},
	[IM_RAXCX] = {R(AX) | R(CX), 0},
	[IM_PCMPESTRI] = {R(AX) | R(DX), R(CX)},
	[IM_WCX] = {0, R(CX)},
	[IM_VMCALL] = {0xffff, R(AX)},
};

/*
 * A count of zero changes no flag; a count in CL may be zero (SDM 2B ROL, SAL, SHLD). Undefined flags, measured on Sapphire Rapids: rotates
 * by more than one leave OF alone; RCL and RCR by a multiple of size + 1 leave everything.
 */
void decode_set_shift_flags(struct x86_insn *in, u32 class)
{
	const struct x86_opnd *count = &in->opnd[in->nr_opnds - 1];
	u32 n = (u32)in->imm & (in->opsize == 8 ? 63 : 31);

	if (count->kind != OPND_IMM)
		in->flags_kill = 0;
	else if (!n)
		in->flags_read = in->flags_write = in->flags_kill = 0;
	else if (n > in->opsize * 8u || (class == FL_RC && n > 1 && in->opsize < 4))
		in->flags_kill = 0;
	else if (class == FL_ROT && n > 1)
		in->flags_kill = CF;
}

static void set_registers_and_flags(struct dec *d)
{
	struct x86_insn *in = d->in;
	u32 class = d->row->flags;
	u32 reads = decode_implicit[d->row->implicit].read, writes = decode_implicit[d->row->implicit].write;

	if (in->opsize < 4)
		reads |= writes;
	in->gpr_read = (u16)(d->gpr_read | reads);
	in->gpr_write = (u16)(d->gpr_write | writes);
	in->flags_read = decode_flag_effects[class].read;
	in->flags_write = decode_flag_effects[class].write;
	in->flags_kill = decode_flag_effects[class].kill;
	if (class == FL_CC) {
		in->cc = in->opcode & 15;
		in->flags_read = decode_cc_flags[in->cc >> 1];
	} else if (class >= FL_SHIFT && class <= FL_SHD) {
		decode_set_shift_flags(in, class);
	}
	if (d->attr & A_REPCX && in->rep) {
		in->gpr_read |= R(CX);
		in->gpr_write |= R(CX);
		in->flags_kill = 0;
	}
}

/* What the tables do not say. */
static void fix_up(struct dec *d)
{
	struct x86_insn *in = d->in;

	switch (in->op) {
	case OP_NOP:
		if (in->map == MAP_1 && d->rex_b && in->rep != 0xf3) { /* 90 with REX.B */
			in->op = OP_XCHG;
			in->nr_opnds = 2;
			in->opnd[0] = (struct x86_opnd){OPND_GPR, AT_OPCODE, 8, OPND_R | OPND_W, in->opsize, 0};
			in->opnd[1] = (struct x86_opnd){OPND_GPR, AT_IMPLICIT, 0, OPND_R | OPND_W, in->opsize, 0};
			in->gpr_read = in->gpr_write = (u16)(BIT(8) | R(AX));
		} else if (in->map == MAP_1 && in->rep == 0xf3) {
			in->op = OP_PAUSE;
		}
		break;
	case OP_CMPXCHG8B:
		if (in->opsize == 8) {
			in->op = OP_CMPXCHG16B;
			in->feat = FEAT_CX16;
		}
		break;
	case OP_PUSH_SREG:
	case OP_POP_SREG:
		in->sreg = in->opcode >> 3 & 7;
		break;
	case OP_MOV_FROM_SREG:
	case OP_MOV_TO_SREG:
		in->sreg = in->reg & 7;
		d->bad |= in->sreg > X86_GS || (in->op == OP_MOV_TO_SREG && in->sreg == X86_CS);
		break;
	case OP_LOAD_FAR:
		in->sreg = in->map == MAP_0F ? in->opcode & 7 : in->opcode == 0xc4 ? X86_ES : X86_DS;
		break;
	case OP_MOV_FROM_CR:
	case OP_MOV_TO_CR:
		d->bad |= !(0x11d >> in->reg & 1);
		break;
	case OP_MOV_FROM_DR:
	case OP_MOV_TO_DR:
		d->bad |= in->reg > 7;
		break;
	default:
		break;
	}
}

static void check_lock(struct dec *d)
{
	struct x86_insn *in = d->in;

	in->lockable = d->attr & A_LOCK;
	if (!d->lock)
		return;
	in->lock = true;
	d->bad |= !in->lockable || in->opnd[0].kind != OPND_MEM;
}

void decode_set_effects(struct dec *d)
{
	struct x86_insn *in = d->in;

	set_registers_and_flags(d);
	in->generic = d->attr & A_GEN && in->op != OP_UNSUPPORTED;
	if (d->attr & A_BIT && in->opnd[0].kind == OPND_MEM)
		in->generic = false;
	fix_up(d);
	check_lock(d);
}

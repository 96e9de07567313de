/*
 * decode_tables.h: how decode.c's opcode tables are written. Private to decode*.c.
 *
 * A table is a list X(map, prefix, opcode...) of rows in the notation of SDM 2A appendix A: a letter says which field of the encoding an
 * operand comes from, and what follows is its size. The list is expanded three times: into names, rows, and the index that finds them.
 */
#ifndef HUSK_TCG_DECODE_TABLES_H
#define HUSK_TCG_DECODE_TABLES_H

#include "tcg/x86_64/decode.h"

/* The enumerations keep lines that belong together. */
/* clang-format off */
/* Letters: where an operand is. Those from L_E on need a ModRM byte. */
enum decode_letter {
	L_NONE,
	L_AX, /* implicit registers */
	L_CX,
	L_DX,
	L_ONE, /* the constant 1 */
	L_Z,   /* general register in the opcode's low three bits */
	L_I,   /* immediate */
	L_J,   /* branch displacement */
	L_A,   /* far pointer in the instruction */
	L_O,   /* offset without ModRM */
	L_X0,  /* XMM0 */
	L_S0,  /* ST(0) */
	L_AH,
	L_E, /* general register or memory by rm */
	L_G, /* general register by reg */
	L_R, /* general register by rm; memory is #UD */
	L_M, /* memory; a register is #UD */
	L_B, /* general register by VEX.vvvv */
	L_S, /* segment register by reg */
	L_C,
	L_D,
	L_V, /* vector register by reg, ... */
	L_W, /* by rm, or memory */
	L_U, /* by rm */
	L_H, /* by vvvv */
	L_L, /* by the immediate's upper half */
	L_P, /* MMX: reg, rm or memory, rm */
	L_Q,
	L_N,
	L_KG, /* opmask: reg, rm or memory, rm, vvvv */
	L_KE,
	L_KR,
	L_KH,
	L_ST, /* ST(i) by rm */
	L_VM, /* memory with a vector as index */
	L_NR,
};

/* Sizes. Up to S_cx by operand size, from S_e on by vector length and W. Where register and memory differ: decode_sizes_mem. */
enum decode_size {
	S_0, S_b, S_ub, S_w, S_d, S_q, S_dq, S_qq, S_oq, S_t, S_f512,
	S_v,   /* operand size */
	S_z,   /* the same, at most 4 */
	S_y,   /* 4; 8 with an operand size of 8 */
	S_bv,  /* immediate of 1 byte, sign-extended to the operand size */
	S_wv,  /* register of operand size, memory of 2 bytes */
	S_bd,  /* register of 4 bytes, memory of 1 */
	S_wd,  /* register of 4 bytes, memory of 2 */
	S_p,   /* far pointer */
	S_a,   /* two words of operand size */
	S_s,   /* pseudo-descriptor */
	S_env, /* FNSTENV */
	S_sav, /* FNSAVE */
	S_cx,  /* CMPXCHG8B, 16B */
	S_VEC,
	S_e = S_VEC, /* 4; 8 with W */
	S_x,	     /* vector length, a half, a quarter, an eighth of it */
	S_hx, S_qx, S_ox,
	S_dup, /* MOVDDUP: 8 of 16, else all */
	S_NR,
};

#define DECODE_OPND(letter, size) (L_##letter << 8 | S_##size)
#define DECODE_LETTER(o)	  ((o) >> 8)
#define DECODE_SIZE(o)		  ((o)&0xff)

/* Access of up to five operands, two bits each, first operand lowest. */
#define ACC(a, b, c, d, e) ((a) | (b) << 2 | (c) << 4 | (d) << 6 | (e) << 8)
enum {
	AC_N = 0, AC_NN = 0,
	AC_R = 1, AC_W = 2, AC_XN = 3,
	AC_RR = ACC(1, 1, 0, 0, 0), AC_WR = ACC(2, 1, 0, 0, 0), AC_XR = ACC(3, 1, 0, 0, 0), AC_XX = ACC(3, 3, 0, 0, 0),
	AC_WN = ACC(2, 0, 0, 0, 0), AC_RRR = ACC(1, 1, 1, 0, 0), AC_WRR = ACC(2, 1, 1, 0, 0), AC_XRR = ACC(3, 1, 1, 0, 0),
	AC_XXR = ACC(3, 3, 1, 0, 0), AC_WWR = ACC(2, 2, 1, 0, 0), AC_WRRR = ACC(2, 1, 1, 1, 0), AC_XRRR = ACC(3, 1, 1, 1, 0),
	AC_XRX = ACC(3, 1, 3, 0, 0), AC_RRRW = ACC(1, 1, 1, 2, 0), AC_XXX = ACC(3, 3, 3, 0, 0),
};
/* clang-format on */

/* Attributes. */
#define A_M	 0x1u /* has ModRM; the macros find out from the operands */
#define A_LOCK	 0x2u
#define A_BYTE	 0x4u	   /* operand size 1 */
#define A_D64	 0x8u	   /* operand size 8, or 2, in 64-bit code */
#define A_F64	 0x10u	   /* always 8 in 64-bit code */
#define A_I64	 0x20u	   /* invalid in 64-bit code */
#define A_O64	 0x40u	   /* invalid elsewhere */
#define A_GEN	 0x80u	   /* insn.generic */
#define A_MAX4	 0x100u	   /* operand size at most 4 */
#define A_MOD3	 0x200u	   /* ModRM.mod is ignored: a register */
#define A_BIT	 0x400u	   /* with memory, the register operand moves the address */
#define A_PP	 0x800u	   /* 66, F3, F2 belong to the opcode */
#define A_REPCX	 0x1000u   /* REP counts in rCX */
#define A_FEAT64 0x2000u   /* feat only in 64-bit code */
#define A_L0	 0x4000u   /* VEX, EVEX: 128 bits only */
#define A_L1	 0x8000u   /* 256 bits, EVEX: or more */
#define A_L2	 0x10000u  /* 512 bits only */
#define A_LIG	 0x20000u  /* length ignored, scalar */
#define A_BC	 0x40000u  /* EVEX: memory can be broadcast, elements of 4 or 8 by W */
#define A_BC16	 0x80000u  /* elements of 2 */
#define A_WIDE	 0x100000u /* VEX with 256 bits needs AVX2, VAES, VPCLMULQDQ instead */
#define A_N_BW	 0x200000u /* as A_N_E, elements of 1 or 2 by W */
#define A_ER	 0x400000u /* EVEX.b with registers: rounding, SAE; both force 512 bits */
#define A_SAE	 0x800000u
#define A_K	 0x1000000u  /* EVEX: may be masked */
#define A_KZ	 0x2000000u  /* and zero-masked */
#define A_KREQ	 0x4000000u  /* must be masked */
#define A_N_E	 0x8000000u  /* disp8 counts elements, not the whole memory operand: compress and expand */
#define A_VL	 0x10000000u /* needs AVX512VL below 512 bits */
#define A_DIST	 0x40000000u /* destination, sources must be different registers */

/* Not instructions: the row is found by ModRM, or by mode. */
enum { OP_GROUP = OP_NR, OP_BY_RM, OP_BY_MODE, OP_BY_MOD };

/* What decode_fast.c knows: which operand is by rm, by reg or opcode, or immediate, for rows that have at most one of each. */
struct decode_form {
	u8 ok;	    /* has no other operands, and nothing that the tables do not say */
	u8 rm_at;   /* 0 or 1: the operand by rm, size code */
	u8 rm_size; /* of it; enum decode_size */
	u8 reg;	    /* 0xff: has an operand by reg or opcode, or rAX; operand size */
	u8 where;   /* enum x86_opnd_where of that */
	u8 imm;	    /* enum decode_size of the immediate, the last operand; 0: none */
	u8 access;  /* of rm, reg, imm: two bits each */
	u8 nr;	    /* of operands */
};

struct decode_row {
	u16 op;
	u16 access;
	u8 feat, feat2;		/* these four as in struct x86_insn */
	bool generic, lockable; /* A_GEN, A_LOCK */
	u8 flags, implicit;	/* enum decode_flags, enum decode_implicit */
	u8 sub;			/* OP_GROUP..: number of the group */
	u8 imm;			/* bytes of immediate that an invalid instruction with this opcode still has */
	u32 attr;
	u16 opnd[4];
	struct decode_form form;
};

/* clang-format off */
/* Flags that instructions read, write and kill. */
enum decode_flags {
	FL_NONE, FL_ALU, FL_ADC, FL_INC, FL_MUL, FL_DIV, FL_SHIFT, FL_ROT, FL_RC, FL_SHD, FL_BT, FL_BSF, FL_LZCNT, FL_ANDN, FL_BEXTR,
	FL_CF, FL_CMC, FL_DF, FL_IF, FL_LAHF, FL_SAHF, FL_CC, FL_AAA, FL_AAM, FL_DAA, FL_ADCX, FL_ADOX, FL_RCF, FL_RZF, FL_ROF, FL_WZF, FL_STR,
	FL_CMPS, FL_PUSHF, FL_POPF, FL_ALL, FL_AC, FL_FCMOVB, FL_FCMOVBE, FL_FCMOVE, FL_FCMOVU, FL_FCOMI, FL_NR,
};

/* General registers that are not operands. */
enum decode_implicit {
	IM_NONE, IM_RAX, IM_WAX, IM_AX, IM_AX_WDX, IM_RAX_WDX, IM_AXDX, IM_RAXDX, IM_WAXDX, IM_RBX_AX, IM_RDX, IM_CX8B, IM_SP, IM_SPBP, IM_PUSHA,
	IM_POPA, IM_CX, IM_RCX, IM_SIDI, IM_AXDI, IM_AXSI, IM_DXDI, IM_DXSI, IM_RDI, IM_SYSCALL, IM_SYSRET, IM_SYSEXIT, IM_RDMSR, IM_WRMSR,
	IM_WAXDXCX, IM_CPUID, IM_RAXCXDX, IM_RAXCX, IM_PCMPESTRI, IM_WCX, IM_VMCALL, IM_NR,
};
/* clang-format on */

struct decode_tables {
	const struct decode_row *rows; /* row 0: no instruction */
	const u16 *index;
	const u16 (*groups)[16]; /* by ModRM: 0-7 reg with memory, 8-15 reg with a register; or 0-7 rm */
};
extern const struct decode_row decode_legacy_rows[];
extern const u16 decode_legacy_index[4 * 4 * 256]; /* [map][prefix][opcode] */
extern const u16 decode_legacy_groups[][16];
extern const struct decode_tables decode_legacy; /* these */
extern const struct decode_tables decode_vex;	 /* index: [map - 1][prefix][W][opcode] */
extern const struct decode_tables decode_evex;	 /* the same; maps 5 and 6 at 3 and 4 */

/* ---- expansion ---- */
#define HAS_M(o)		     ((o) >= L_E << 8)
#define IMM_(o)			     ((o) == (L_I << 8 | S_ub) ? 1 : (o) == (L_J << 8 | S_z) ? 4 : 0)
#define ROW_IMM(o1, o2, o3, o4, ...) (IMM_(o1) | IMM_(o2) | IMM_(o3) | IMM_(o4))
/* struct decode_form */
#define IS_RM(o)		   ((o) >> 8 == L_E || (o) >> 8 == L_M)
#define IS_G(o)			   ((o) == (L_G << 8 | S_v) || (o) == (L_G << 8 | S_b))
#define IS_Z(o)			   ((o) == (L_Z << 8 | S_v) || (o) == (L_Z << 8 | S_b))
#define IS_ZAX(o)		   (IS_Z(o) || (o) == (L_AX << 8 | S_v) || (o) == (L_AX << 8 | S_b))
#define IS_I(o)			   (((o) >> 8 == L_I && ((o)&0xff) != S_w) || (o) >> 8 == L_J)
#define FIRST(o1, ...)		   (o1)
#define FORM_1(o1, o2)		   (!(o2) && (!(o1) || IS_RM(o1) || IS_Z(o1) || IS_I(o1)))
#define FORM_2(o1, o2, o3)	   (!(o3) && ((IS_RM(o1) && (IS_G(o2) || IS_I(o2))) || (IS_G(o1) && IS_RM(o2)) || (IS_ZAX(o1) && IS_I(o2))))
#define FORM_3(o1, o2, o3, o4)	   (!(o4) && IS_I(o3) && ((IS_RM(o1) && IS_G(o2)) || (IS_G(o1) && IS_RM(o2))))
#define FORM_OPNDS(o1, o2, o3, o4) (FORM_1(o1, o2) || FORM_2(o1, o2, o3) || FORM_3(o1, o2, o3, o4))
#define FORM_OP(op) \
	((op) != OP_UD && (op) != OP_UNSUPPORTED && (op) != OP_CMPXCHG8B && (op) != OP_PUSH_SREG && (op) != OP_POP_SREG && \
	 (op) != OP_LOAD_FAR && (op) < OP_VEC)
#define FORM_ATTR(attr)	     (!((attr) & (A_I64 | A_MOD3 | A_REPCX | A_MAX4)))
#define FORM_SIZE(o)	     ((o)&0xff)
#define FORM_IMM(o1, o2, o3) (IS_I(o1) ? FORM_SIZE(o1) : IS_I(o2) ? FORM_SIZE(o2) : IS_I(o3) ? FORM_SIZE(o3) : 0)
#define FORM_ACCESS(a, o1, o2) \
	(IS_G(o1) && IS_RM(o2)	 ? ((a) >> 2 & 3) | ((a)&3) << 2 | ((a)&0x30) \
	 : IS_RM(o1) && IS_G(o2) ? (a)&0x3f \
	 : IS_ZAX(o1)		 ? ((a)&3) << 2 | ((a) >> 2 & 3) << 4 \
	 : IS_I(o1)		 ? ((a)&3) << 4 \
				 : ((a)&3) | ((a) >> 2 & 3) << 4)
#define FORM(op, attr, a, o1, o2, o3, o4, ...) \
	{ \
		FORM_OP(op) && FORM_ATTR(attr) && FORM_OPNDS(o1, o2, o3, o4), IS_RM(o2), IS_RM(o1) ? FORM_SIZE(o1) : FORM_SIZE(o2), \
			IS_G(o1) || IS_G(o2) || IS_ZAX(o1) ? 0xff : 0, \
			IS_Z(o1)     ? AT_OPCODE \
			: IS_ZAX(o1) ? AT_IMPLICIT \
				     : AT_REG, \
			FORM_IMM(o1, o2, o3), FORM_ACCESS(a, o1, o2), !!(o1) + !!(o2) + !!(o3) + !!(o4) \
	}

#define ROW_OPNDS(o1, o2, o3, o4, ...) \
	(HAS_M(o1) || HAS_M(o2) || HAS_M(o3) || HAS_M(o4) ? A_M : 0), \
	{ \
		o1, o2, o3, o4 \
	}
#define ROW(op, feat, feat2, attr, flags, impl, acc, ...) \
	{OP_##op, \
	 AC_##acc, \
	 FEAT_##feat, \
	 FEAT_##feat2, \
	 !!((attr)&A_GEN), \
	 !!((attr)&A_LOCK), \
	 FL_##flags, \
	 IM_##impl, \
	 0, \
	 ROW_IMM(__VA_ARGS__, 0, 0, 0, 0), \
	 (attr) | ROW_OPNDS(__VA_ARGS__, 0, 0, 0, 0), \
	 FORM(OP_##op, attr, AC_##acc, __VA_ARGS__, 0, 0, 0, 0)},
#define SUBROW(kind, group, attr, ...) \
	{OP_##kind, \
	 0, \
	 0, \
	 0, \
	 !!((attr)&A_GEN), \
	 !!((attr)&A_LOCK), \
	 0, \
	 0, \
	 group, \
	 ROW_IMM(__VA_ARGS__, 0, 0, 0, 0), \
	 A_M | (attr) | ROW_OPNDS(__VA_ARGS__, 0, 0, 0, 0), \
	 FORM(IS_RM(FIRST(__VA_ARGS__, 0)) ? OP_NOP : OP_UD, attr, 0, __VA_ARGS__, 0, 0, 0, 0)},

#endif

/*
 * decode.h: x86 machine code -> struct x86_insn, for 16-, 32- and 64-bit code; legacy, VEX and EVEX encodings (SDM 2).
 * One decoder feeds interpreter, translator, verifier and dumps. It knows encodings and what each instruction reads and writes; whether the
 * guest may execute it (privilege, CPUID, CR0/CR4) is the consumer's business. Pure: no state, no memory but the bytes given.
 *
 * Bytes that no x86 processor takes for an instruction decode to OP_UD with the length up to where the processor gives up.
 */
#ifndef HUSK_TCG_DECODE_H
#define HUSK_TCG_DECODE_H

#include "arch/x86_64/cpu.h"

#define X86_INSN_MAX 15

enum x86_op {
	OP_UD, /* invalid, and UD0, UD1, UD2 */
	/* integer, two operands; in the order of the opcode rows and of group 1 */
	OP_ADD,
	OP_OR,
	OP_ADC,
	OP_SBB,
	OP_AND,
	OP_SUB,
	OP_XOR,
	OP_CMP,
	OP_TEST,
	OP_NOT,
	OP_NEG,
	OP_INC,
	OP_DEC,
	OP_MUL,
	OP_IMUL1,
	OP_DIV,
	OP_IDIV, /* one operand; rDX:rAX implicit (AX for bytes) */
	OP_IMUL, /* two operands, or three */
	/* in the order of group 2 (SAL /6 decodes to OP_SHL) */
	OP_ROL,
	OP_ROR,
	OP_RCL,
	OP_RCR,
	OP_SHL,
	OP_SHR,
	OP_SAR,
	OP_SHLD,
	OP_SHRD,
	OP_BT,
	OP_BTS,
	OP_BTR,
	OP_BTC,
	OP_BSF,
	OP_BSR,
	OP_POPCNT,
	OP_LZCNT,
	OP_TZCNT,
	OP_BSWAP,
	OP_MOV, /* registers, memory, immediates, moffs */
	OP_MOVZX,
	OP_MOVSX, /* also MOVSXD */
	OP_MOVBE,
	OP_MOVNTI,
	OP_MOVDIRI,
	OP_LEA,
	OP_XCHG,
	OP_XADD,
	OP_CMPXCHG,
	OP_CMPXCHG8B,
	OP_CMPXCHG16B,
	OP_CMOV,
	OP_SETCC, /* condition in insn.cc */
	OP_CBW,	  /* CBW, CWDE, CDQE by opsize */
	OP_CWD,	  /* CWD, CDQ, CQO */
	OP_LAHF,
	OP_SAHF,
	OP_CLC,
	OP_STC,
	OP_CMC,
	OP_CLD,
	OP_STD,
	OP_SALC,
	OP_XLAT,
	OP_AAA,
	OP_AAS,
	OP_AAM,
	OP_AAD,
	OP_DAA,
	OP_DAS,
	OP_ANDN,
	OP_BEXTR,
	OP_BLSI,
	OP_BLSR,
	OP_BLSMSK,
	OP_BZHI,
	OP_PDEP,
	OP_PEXT,
	OP_RORX,
	OP_SARX,
	OP_SHLX,
	OP_SHRX,
	OP_MULX,
	OP_ADCX,
	OP_ADOX,
	OP_CRC32,
	/* stack */
	OP_PUSH,
	OP_POP,
	OP_PUSHA,
	OP_POPA,
	OP_PUSHF,
	OP_POPF,
	OP_ENTER,
	OP_LEAVE,
	OP_PUSH_SREG,
	OP_POP_SREG,
	/* control transfer */
	OP_CALL,
	OP_CALL_IND,
	OP_CALL_FAR,
	OP_CALL_FAR_IND,
	OP_JMP,
	OP_JMP_IND,
	OP_JMP_FAR,
	OP_JMP_FAR_IND,
	OP_JCC,
	OP_JRCXZ,
	OP_LOOP,
	OP_LOOPE,
	OP_LOOPNE,
	OP_RET,
	OP_RETF,
	OP_IRET,
	OP_INT3,
	OP_INT,
	OP_INTO,
	OP_INT1,
	OP_SYSCALL,
	OP_SYSRET,
	OP_SYSENTER,
	OP_SYSEXIT,
	/* strings; rep in insn.rep */
	OP_MOVS,
	OP_CMPS,
	OP_SCAS,
	OP_LODS,
	OP_STOS,
	OP_INS,
	OP_OUTS,
	/* no effect on registers or memory that a guest sees (CLFLUSH etc.: the address is still checked) */
	OP_NOP,
	OP_PAUSE,
	OP_ENDBR,
	OP_PREFETCH,
	OP_CLFLUSH, /* also CLFLUSHOPT, CLWB, CLDEMOTE */
	OP_LFENCE,
	OP_SFENCE,
	OP_MFENCE,
	OP_SERIALIZE,
	/* segments and system */
	OP_MOV_FROM_SREG,
	OP_MOV_TO_SREG,
	OP_LOAD_FAR, /* LES LDS LSS LFS LGS: segment in insn.sreg */
	OP_MOV_FROM_CR,
	OP_MOV_TO_CR,
	OP_MOV_FROM_DR,
	OP_MOV_TO_DR,
	OP_CLTS,
	OP_LMSW,
	OP_SMSW,
	OP_SGDT,
	OP_SIDT,
	OP_LGDT,
	OP_LIDT,
	OP_SLDT,
	OP_STR,
	OP_LLDT,
	OP_LTR,
	OP_VERR,
	OP_VERW,
	OP_LAR,
	OP_LSL,
	OP_ARPL,
	OP_BOUND,
	OP_INVLPG,
	OP_INVPCID,
	OP_INVD,
	OP_WBINVD,
	OP_RDMSR,
	OP_WRMSR,
	OP_RDTSC,
	OP_RDTSCP,
	OP_RDPMC,
	OP_RDPID,
	OP_CPUID,
	OP_HLT,
	OP_CLI,
	OP_STI,
	OP_STAC,
	OP_CLAC,
	OP_SWAPGS,
	OP_RDFSBASE,
	OP_RDGSBASE,
	OP_WRFSBASE,
	OP_WRGSBASE,
	OP_XGETBV,
	OP_XSETBV,
	OP_MONITOR,
	OP_MWAIT,
	OP_RDRAND,
	OP_RDSEED,
	OP_IN,
	OP_OUT,
	OP_VMCALL, /* also VMMCALL */
	OP_RSM,
	/* Executable on some host, never shown to guests: TSX, PKU, SGX, VMX, SVM, CET, UINTR, WAITPKG, AMX, ENQCMD, PCONFIG... : #UD */
	OP_UNSUPPORTED,
	/* vector and x87 */
	OP_VEC,	       /* MMX, SSE, AVX, AVX-512 and opmask instructions: can be copied with registers and memory operand rewritten */
	OP_VEC_GATHER, /* VSIB memory: gathers, scatters */
	OP_VEC_MASKED, /* memory operand under a mask that suppresses faults: VMASKMOV, VPMASKMOV, EVEX with an opmask and memory */
	OP_MASKMOVDQU, /* (V)MASKMOVDQU, MASKMOVQ: memory at seg:rDI */
	OP_X87,	       /* can be copied; FNSTSW AX included */
	OP_FNSTENV,
	OP_FLDENV,
	OP_FNSAVE,
	OP_FRSTOR,
	OP_FWAIT,
	OP_FXSAVE,
	OP_FXRSTOR,
	OP_XSAVE,
	OP_XSAVEOPT,
	OP_XSAVEC,
	OP_XSAVES,
	OP_XRSTOR,
	OP_XRSTORS,
	OP_LDMXCSR,
	OP_STMXCSR,
	OP_EMMS,
	OP_NR,
};

/* CPUID features that instructions belong to; tcg_cpu.features has a bit for each that the guest is shown. */
enum x86_feat {
	FEAT_NONE, /* in every x86-64 processor, SSE2 included */
	FEAT_SSE3,
	FEAT_SSSE3,
	FEAT_SSE41,
	FEAT_SSE42,
	FEAT_AES,
	FEAT_PCLMUL,
	FEAT_SHA,
	FEAT_GFNI,
	FEAT_CX16,
	FEAT_MOVBE,
	FEAT_POPCNT,
	FEAT_LZCNT,
	FEAT_BMI1,
	FEAT_BMI2,
	FEAT_ADX,
	FEAT_XSAVE,
	FEAT_XSAVEOPT,
	FEAT_XSAVEC,
	FEAT_XSAVES,
	FEAT_AVX,
	FEAT_F16C,
	FEAT_FMA,
	FEAT_AVX2,
	FEAT_VAES,
	FEAT_VPCLMUL,
	FEAT_AVX_VNNI,
	FEAT_AVX_IFMA,
	FEAT_AVX_VNNI_INT8,
	FEAT_AVX_NE_CONVERT,
	FEAT_AVX512F,
	FEAT_AVX512DQ,
	FEAT_AVX512BW,
	FEAT_AVX512CD,
	FEAT_AVX512IFMA,
	FEAT_AVX512VBMI,
	FEAT_AVX512VBMI2,
	FEAT_AVX512VNNI,
	FEAT_AVX512BITALG,
	FEAT_AVX512VPOPCNTDQ,
	FEAT_AVX512BF16,
	FEAT_AVX512FP16,
	FEAT_AVX512VL,
	FEAT_AVX512VP2INTERSECT,
	FEAT_RDRAND,
	FEAT_RDSEED,
	FEAT_RDTSCP,
	FEAT_RDPID,
	FEAT_FSGSBASE,
	FEAT_INVPCID,
	FEAT_SMAP,
	FEAT_CLFLUSHOPT,
	FEAT_CLWB,
	FEAT_CLDEMOTE,
	FEAT_SERIALIZE,
	FEAT_MOVDIRI,
	FEAT_MOVDIR64B,
	FEAT_SYSCALL,
	FEAT_SEP,
	FEAT_LAHF64,
	FEAT_PREFETCHW,
	FEAT_SHA512,
	FEAT_SM3,
	FEAT_SM4,
	FEAT_NR,
};

enum x86_enc { ENC_LEGACY, ENC_VEX, ENC_EVEX };
enum x86_map { MAP_1, MAP_0F, MAP_0F38, MAP_0F3A, MAP_5 = 5, MAP_6 = 6 };

enum x86_opnd_kind {
	OPND_NONE,
	OPND_GPR,   /* reg 0-15, low `size` bytes */
	OPND_GPR8H, /* AH CH DH BH: reg 0-3 is the register it is the second byte of */
	OPND_MEM,   /* the insn's memory operand (mem) */
	OPND_IMM,   /* insn.imm, sign-extended to 64 bits by the decoder; the size is the operand's */
	OPND_SREG,
	OPND_CR,
	OPND_DR,
	OPND_XMM, /* XMM, YMM, ZMM 0-31 */
	OPND_MMX,
	OPND_K,	 /* opmask register */
	OPND_ST, /* x87 */
};
/* Which field of the encoding names it: what the re-encoder has to change. */
enum x86_opnd_where { AT_IMPLICIT, AT_REG, AT_RM, AT_VVVV, AT_OPCODE, AT_IMM, AT_IS4 };

#define OPND_R 1u
#define OPND_W 2u /* OPND_R | OPND_W: read and written. A conditional write (CMOV, CMPXCHG's destination) is both */

struct x86_opnd {
	u8 kind, where, reg;
	u8 access;
	u16 size; /* bytes */
	u16 zero; /* 8 bytes in all: stored at once */
};

/* The memory operand of ModRM, of moffs, or (strings, XLAT, MASKMOV: implicit) none. */
struct x86_mem {
	s32 disp;  /* also imm has the 64-bit moffs: then base = index = none and insn.imm is the offset */
	u8 base;   /* 0-15; X86_NO_REG; X86_RIP: base is the next instruction's address */
	u8 index;  /* 0-15, X86_NO_REG; under VSIB a vector register 0-31 */
	u8 scale;  /* 1 2 4 8 */
	u8 seg;	   /* enum X86_ES..X86_GS, defaults and overrides applied (in 64-bit code only FS and GS have a base) */
	u8 access; /* OPND_R | OPND_W; 0: the address is computed and not accessed (LEA, INVLPG, PREFETCH) */
	bool moffs;
	u16 size; /* bytes accessed */
};
#define X86_NO_REG 0xff
#define X86_RIP	   0xfe

struct x86_insn {
	u16 op;	 /* enum x86_op */
	u8 len;	 /* 1..15 */
	u8 mode; /* bits of code: 16, 32, 64 */
	u8 enc, map, opcode;
	u8 opsize; /* effective operand size: 1, 2, 4, 8 */
	u8 adsize; /* effective address size: 2, 4, 8 */
	u8 rep;	   /* 0, 0xf3, 0xf2: as prefix of a string instruction, or XACQUIRE/XRELEASE/BND hint */
	bool lock;
	u8 rex; /* 0x40-0x4f, or 0 */
	bool has_modrm;
	u8 modrm, sib;
	u8 mod, reg, rm; /* of ModRM, 3 bits and REX/VEX/EVEX extensions applied: reg and rm are 0-15 (0-31 for EVEX vectors) */
	u8 cc;		 /* condition of Jcc, SETcc, CMOVcc */
	u8 sreg;	 /* of LDS.. and of MOV/PUSH/POP with a segment register */
	u8 nr_opnds;
	u8 nr_prefixes; /* legacy prefix bytes before REX/VEX/EVEX/opcode */
	/* Offsets in the instruction's bytes, 0 = not there. */
	u8 at_rex, at_vex, at_opcode, at_modrm, at_disp, at_imm;
	u8 disp_size, imm_size; /* bytes */
	bool opsize_prefix, adsize_prefix;
	u8 seg_prefix; /* 0 or the prefix byte */
	u8 vex_l;      /* 0: 128, 1: 256, 2: 512 bits */
	bool vex_w;
	u8 vex_pp, vvvv;
	u8 evex_aaa;
	bool evex_z, evex_b;
	u8 feat;       /* enum x86_feat that it needs */
	u8 feat2;      /* and a second one (AVX512VL, VAES with AVX512...), or FEAT_NONE */
	bool generic;  /* integer or vector instruction that is re-encoded by renaming its operands: unprivileged, no control transfer, no
			  stack, no string, no state beyond operands, gpr_read/gpr_write and flags */
	bool lockable; /* LOCK is allowed; a LOCK elsewhere decodes to OP_UD */
	u16 gpr_read, gpr_write; /* bit n: GPR n, explicit and implicit operands, address registers */
	u16 flags_read;		 /* X86_FLAG_* in the low 16 bits, DF included */
	u16 flags_write;	 /* may change, undefined ones included */
	u16 flags_kill;		 /* certainly get a value that does not depend on the old one (SHL by CL: none) */
	u16 zero;
	s64 imm;  /* also displacement of relative branches, and moffs */
	u16 imm2; /* ENTER's level; selector of a far pointer */
	struct x86_mem mem;
	struct x86_opnd opnd[4];
	u8 bytes[X86_INSN_MAX];
};

/*
 * Decodes the instruction that starts at bytes, in code of `mode` bits (16, 32, 64). avail: bytes readable there.
 * Returns its length; 0 when more than avail bytes are needed to tell (avail < 15). More than 15 bytes: OP_UD with len 15 (the processor
 * raises #GP: insn->imm is 1 then).
 * VEX and EVEX in 16-bit code with CR0.PE = 0 or VM86 are LES/LDS/BOUND: real = true.
 */
u32 x86_decode(struct x86_insn *insn, const u8 *bytes, u32 avail, u32 mode, bool real);
/* 64-bit code, 15 bytes there. */
u32 x86_decode_64(struct x86_insn *insn, const u8 *bytes);

#endif

/* decode_impl.h: a decoding in progress, between the decode*.c files. */
#ifndef HUSK_TCG_DECODE_IMPL_H
#define HUSK_TCG_DECODE_IMPL_H

#include "tcg/x86_64/decode_tables.h"

/* Register numbers that operands choose from. */
enum {
	SRC_0,
	SRC_1,
	SRC_2, /* constants */
	SRC_OPCODE,
	SRC_REG,
	SRC_RM,
	SRC_VVVV,
	SRC_IS4, /* 0-15 */
	SRC_REGV,
	SRC_RMV,
	SRC_VVVVV, /* 0-31: EVEX vectors */
	SRC_REG8,
	SRC_RM8,
	SRC_VVVV8,
	SRC_NR = 16, /* 0-7 */
};

struct dec {
	struct x86_insn *in;
	const struct decode_tables *t;
	const struct decode_row *row;
	const u16 *opnd;
	u32 pos, attr;
	u32 used;		 /* LF_* of all operands */
	u32 gpr_read, gpr_write; /* by the operands; insn's are stored once, for they are loaded as one */
	u8 lock, rep, pp;
	u8 rex_r, rex_x, rex_b; /* 0 or 8, from REX, VEX or EVEX */
	u8 evex_r, evex_v;	/* 0 or 16 */
	bool w, bad;
	u8 regs[SRC_NR];
	const u8 *p; /* 15 bytes */
	u64 buf[2];  /* there, if the caller has fewer: zeros follow */
};

/* Beyond the longest instruction there are zeros, and the length says it. */
static inline u8 byte_at(const struct dec *d, u32 pos)
{
	return likely(pos < X86_INSN_MAX) ? d->p[pos] : 0;
}

/* Little-endian, sign-extended. */
static inline s64 read_signed(struct dec *d, u32 size)
{
	const u8 *p = d->p + d->pos;

	if (likely(d->pos <= X86_INSN_MAX - 8 && size)) { /* without a jump by size */
		u32 shift = 64 - 8 * size;

		d->pos += size;
		return (s64)(ld_le64(p) << shift) >> shift;
	}
	d->pos += size;
	if (unlikely(d->pos > X86_INSN_MAX))
		return 0;
	switch (size) {
	case 1:
		return (int8_t)*p;
	case 2:
		return (int16_t)ld_le16(p);
	case 4:
		return (s32)ld_le32(p);
	case 8:
		return (s64)ld_le64(p);
	default:
		return 0;
	}
}

/* What letters are. */
enum { LF_RM = 1, LF_MEM = 2, LF_REG = 4, LF_IMM = 8, LF_GPR = 16, LF_VVVV = 32 };

/* decode.c: x86_decode(), for all that there is. */
u32 decode_any(struct x86_insn *insn, const u8 *bytes, u32 avail, u32 mode, bool real);
/* decode_opnd.c: operands, memory operand and address registers; reads immediates. */
void decode_set_operands(struct dec *d);
/* By operand size (1 and 2, 4, 8) and size code: of registers and immediates, of memory, of an immediate's encoding. */
extern const u8 decode_sizes_reg[3][S_VEC];
extern const u16 decode_sizes_mem[3][S_VEC];
extern const u8 decode_sizes_imm[3][S_VEC];
/* decode_effects.c: flags, implicit registers, features, and what makes the encoding invalid. */
void decode_set_effects(struct dec *d);
void decode_set_shift_flags(struct x86_insn *in, u32 class);
struct decode_flag_effect {
	u16 read, write, kill;
	u16 zero; /* 8 bytes in all, as in struct x86_insn */
};
struct decode_masks {
	u16 read, write;
};
extern const struct decode_flag_effect decode_flag_effects[FL_NR];
extern const struct decode_masks decode_implicit[IM_NR]; /* general registers */
extern const u16 decode_cc_flags[8];			 /* by condition code / 2 */
/* decode_vector.c: VEX and EVEX, before operands are known, and after. */
void decode_begin_vector(struct dec *d);
void decode_end_vector(struct dec *d);

#endif

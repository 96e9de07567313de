/*
 * emit.h: host instructions. Each emitter shows the instruction that it emits. Registers are hardware numbers.
 *
 * An instruction is put together in a register and stored at once: byte by byte, each would wait for the pointer that the one before has
 * stored. So up to 8 bytes behind the end are overwritten.
 */
#ifndef HUSK_TCG_EMIT_H
#define HUSK_TCG_EMIT_H

#include "vmm/base/base.h"

enum { H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15 };

/* Where bytes go. */
struct emit {
	u8 *start, *p; /* a buffer, and how far it is filled; room for the longest template is the caller's business */
	u32 base;      /* where start will be in the code buffer: displacements in the code have no other addresses */
};

static inline void e8(struct emit *e, u32 v)
{
	*e->p++ = (u8)v;
}
static inline void e32(struct emit *e, u32 v)
{
	st_le32(e->p, v);
	e->p += 4;
}
static inline void e64(struct emit *e, u64 v)
{
	st_le64(e->p, v);
	e->p += 8;
}
/* The first bytes of an instruction, at most 8. */
struct ebytes {
	u64 v;
	u32 n;
};
static inline void b8(struct ebytes *b, u32 v)
{
	b->v |= (u64)(v & 0xff) << 8 * b->n++;
}
static inline void e_put(struct emit *e, const struct ebytes *b)
{
	st_le64(e->p, b->v);
	e->p += b->n;
}
/* The low n bytes (1-8) of v */
static inline void e_bytes(struct emit *e, u32 n, u64 v)
{
	st_le64(e->p, v);
	e->p += n;
}
/* Place in the code buffer */
static inline u32 e_off_of(const struct emit *e, const u8 *p)
{
	return e->base + (u32)(p - e->start);
}
static inline u32 e_off(const struct emit *e)
{
	return e_off_of(e, e->p);
}

/* A memory operand [base + index * scale + disp]; index H_RSP: none. */
struct emem {
	u8 base, index, scale;
	s32 disp;
};
#define EMEM(b, d)	   ((struct emem){(u8)(b), H_RSP, 1, (s32)(d)})
#define EMEMX(b, i, s, d)  ((struct emem){(u8)(b), (u8)(i), (s), (s32)(d)})
#define EENV(field_offset) EMEM(H_RSP, field_offset) /* a field of struct tcg_cpu while translated code runs */

/* The instruction that begins with b, then ModRM, SIB and displacement for reg, memory. */
static inline void e_put_mem(struct emit *e, struct ebytes *b, u32 reg, struct emem m)
{
	bool sib = m.index != H_RSP || (m.base & 7) == 4;
	u32 mod = m.disp == 0 && (m.base & 7) != 5 ? 0 : m.disp >= -128 && m.disp <= 127 ? 1 : 2;
	u32 log = m.scale == 8 ? 3 : m.scale == 4 ? 2 : m.scale == 2 ? 1 : 0;
	u8 *p = e->p;

	b8(b, mod << 6 | (reg & 7) << 3 | (sib ? 4 : m.base & 7u));
	if (sib)
		b8(b, log << 6 | (m.index & 7u) << 3 | (m.base & 7u));
	st_le64(p, b->v);
	st_le32(p + b->n, (u32)m.disp);
	e->p = p + b->n + (mod == 2 ? 4 : mod);
}
static inline u32 e_rex_mem(u32 w, u32 reg, struct emem m)
{
	return 0x40 | w << 3 | (reg >> 3 & 1) << 2 | (m.index == H_RSP ? 0 : m.index >> 3 & 1u) << 1 | (m.base >> 3 & 1u);
}
/* op reg, [mem]: w: 64 bits. A REX of 0x40 is left out. */
static inline void e_op_mem(struct emit *e, u32 w, u32 opcode, u32 reg, struct emem m)
{
	u32 rex = e_rex_mem(w, reg, m);
	struct ebytes b = {0};

	if (rex != 0x40)
		b8(&b, rex);
	if (opcode > 0xff)
		b8(&b, opcode >> 8);
	b8(&b, opcode);
	e_put_mem(e, &b, reg, m);
}
/* op rm, reg */
static inline void e_op_rr(struct emit *e, u32 w, u32 opcode, u32 reg, u32 rm)
{
	u32 rex = 0x40 | w << 3 | (reg >> 3) << 2 | rm >> 3;
	struct ebytes b = {0};

	if (rex != 0x40)
		b8(&b, rex);
	if (opcode > 0xff)
		b8(&b, opcode >> 8);
	b8(&b, opcode);
	b8(&b, 0xc0 | (reg & 7) << 3 | (rm & 7));
	e_put(e, &b);
}
/* mov reg64, [mem] */
static inline void e_load(struct emit *e, u32 reg, struct emem m)
{
	e_op_mem(e, 1, 0x8b, reg, m);
}
/* mov [mem], reg64 */
static inline void e_store(struct emit *e, u32 reg, struct emem m)
{
	e_op_mem(e, 1, 0x89, reg, m);
}
/* lea reg64, [mem] */
static inline void e_lea(struct emit *e, u32 reg, struct emem m)
{
	e_op_mem(e, 1, 0x8d, reg, m);
}
/* mov dst64, src64 */
static inline void e_mov(struct emit *e, u32 dst, u32 src)
{
	e_op_rr(e, 1, 0x89, src, dst);
}
/* mov reg64, value, in the shortest form. */
static inline void e_mov_imm(struct emit *e, u32 reg, u64 value)
{
	if (value <= UINT32_MAX) { /* mov reg32, imm32 */
		u64 bytes = (0xb8u | (reg & 7)) | value << 8;

		e_bytes(e, reg >= 8 ? 6 : 5, reg >= 8 ? 0x41 | bytes << 8 : bytes);
	} else if ((s64)value == (s32)value) { /* mov reg64, simm32 */
		e_bytes(e, 7, (0x48u | reg >> 3) | 0xc700u | (0xc0u | (reg & 7)) << 16 | (value & 0xffffffff) << 24);
	} else { /* movabs */
		e_bytes(e, 2, (0x48u | reg >> 3) | (0xb8u | (reg & 7)) << 8);
		e64(e, value);
	}
}
/* add or or adc sbb and sub xor cmp (n = 0..7) reg, imm32 */
static inline void e_alu_imm(struct emit *e, u32 w, u32 n, u32 reg, s32 imm)
{
	u32 rex = 0x40 | w << 3 | reg >> 3;
	u64 bytes = 0x81 | (0xc0 | n << 3 | (reg & 7)) << 8 | (u64)(u32)imm << 16;

	e_bytes(e, rex != 0x40 ? 7 : 6, rex != 0x40 ? rex | bytes << 8 : bytes);
}
/* jmp rel32 to a place in the same buffer; returns where the rel32 is. */
static inline u8 *e_jmp(struct emit *e, const u8 *to)
{
	u8 *p = e->p + 5;

	e_bytes(e, 5, 0xe9 | (u64)(to ? (u32)(to - p) : 0) << 8);
	return p - 4;
}
/* jmp, call to a place in the code buffer */
static inline void e_jmp_off(struct emit *e, u32 to)
{
	e_bytes(e, 5, 0xe9 | (u64)(to - (e_off(e) + 5)) << 8);
}
static inline void e_call_off(struct emit *e, u32 to)
{
	e_bytes(e, 5, 0xe8 | (u64)(to - (e_off(e) + 5)) << 8);
}
static inline u8 *e_jcc(struct emit *e, u32 cc, const u8 *to)
{
	u8 *p = e->p + 6;

	e_bytes(e, 6, 0x0f | (0x80u | cc) << 8 | (u64)(to ? (u32)(to - p) : 0) << 16);
	return p - 4;
}
/* jrcxz over the next n bytes */
static inline void e_jrcxz(struct emit *e, u32 n)
{
	e_bytes(e, 2, 0xe3 | n << 8);
}
static inline void e_patch(u8 *rel, const u8 *to)
{
	st_le32(rel, (u32)(to - (rel + 4)));
}
/* Pads with a NOP so that the 4 bytes that begin `ahead` bytes from here lie in one aligned 8-byte word: they are patched by one store. */
static inline void e_align_patch(struct emit *e, u32 ahead)
{
	static const u32 nops[4] = {0, 0x90, 0x9066, 0x1f0f};
	u32 at = (u32)((uintptr_t)e->p + ahead) & 7, n = at > 4 ? 8 - at : 0;

	e_bytes(e, n, nops[n]);
}
#define CC_B  2u
#define CC_E  4u
#define CC_NE 5u
#define CC_A  7u

/* pp: 2 pext (F3), 3 pdep (F2) dst, src, [mem]: VEX.LZ.pp.0F38.W1 F5 */
static inline void e_bits(struct emit *e, u32 pp, u32 dst, u32 src, struct emem m)
{
	struct ebytes b = {0xc4, 1};

	b8(&b, (dst >> 3 ? 0 : 0x80u) | (m.index == H_RSP || !(m.index >> 3) ? 0x40 : 0) | (m.base >> 3 ? 0 : 0x20) | 2);
	b8(&b, 0x80 | (~src & 15) << 3 | pp);
	b8(&b, 0xf5);
	e_put_mem(e, &b, dst, m);
}
static inline void e_pext(struct emit *e, u32 dst, u32 src, struct emem m)
{
	e_bits(e, 2, dst, src, m);
}
static inline void e_pdep(struct emit *e, u32 dst, u32 src, struct emem m)
{
	e_bits(e, 3, dst, src, m);
}
/* rorx dst, src, imm: VEX.LZ.F2.0F3A.W1 F0 */
static inline void e_rorx(struct emit *e, u32 dst, u32 src, u32 imm)
{
	struct ebytes b = {0xc4, 1};

	b8(&b, (dst >> 3 ? 0 : 0x80u) | 0x40 | (src >> 3 ? 0 : 0x20) | 3);
	b8(&b, 0xfb);
	b8(&b, 0xf0);
	b8(&b, 0xc0 | (dst & 7) << 3 | (src & 7));
	b8(&b, imm);
	e_put(e, &b);
}

#endif

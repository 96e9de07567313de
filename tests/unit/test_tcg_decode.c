/* test_tcg_decode.c: the x86 decoder, field by field; and its lengths against capstone, where every difference has its reason. */
#include "cm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#if HUSK_CAPSTONE
#define x86_insn capstone_x86_insn /* an enum of theirs */
#include <capstone/capstone.h>
#undef x86_insn
#endif

#include "tcg/tcg.h"
#include "tcg/x86_64/decode.h"

#define ALL6 X86_FLAGS_ARITH

static u32 parse(const char *hex, u8 *bytes)
{
	u32 n = 0;
	char *end;

	for (; n < 20; hex = end) {
		unsigned long value = strtoul(hex, &end, 16);

		if (end == hex)
			break;
		bytes[n++] = (u8)value;
	}
	return n;
}

/* Decodes the bytes, which are one instruction and nothing else. */
static struct x86_insn decode_in(u32 mode, const char *hex)
{
	struct x86_insn in;
	u8 bytes[32] = {0};
	u32 n = parse(hex, bytes);

	if (x86_decode(&in, bytes, 15, mode, false) != n)
		fail_msg("%s: length %u", hex, in.len);
	assert_memory_equal(in.bytes, bytes, MIN(n, 15u));
	return in;
}

static struct x86_insn decode(const char *hex)
{
	return decode_in(64, hex);
}

static void assert_opnd(const struct x86_insn *in, u32 n, u32 kind, u32 where, u32 reg, u32 access, u32 size)
{
	const struct x86_opnd *o = &in->opnd[n];

	assert_true(n < in->nr_opnds);
	assert_int_equal(o->kind, kind);
	assert_int_equal(o->where, where);
	assert_int_equal(o->reg, reg);
	assert_int_equal(o->access, access);
	assert_int_equal(o->size, size);
}

static void assert_mem(const struct x86_insn *in, u32 base, u32 index, u32 scale, s32 disp, u32 seg)
{
	assert_int_equal(in->mem.base, base);
	assert_int_equal(in->mem.index, index);
	assert_int_equal(in->mem.scale, scale);
	assert_int_equal(in->mem.disp, disp);
	assert_int_equal(in->mem.seg, seg);
}

#define RW (OPND_R | OPND_W)

static void operands_have_kind_place_register_access_and_size(void **state)
{
	struct x86_insn in = decode("48 89 5c 24 08"); /* mov [rsp+8], rbx */

	(void)state;
	assert_int_equal(in.op, OP_MOV);
	assert_int_equal(in.opsize, 8);
	assert_true(in.generic);
	assert_opnd(&in, 0, OPND_MEM, AT_RM, 0, OPND_W, 8);
	assert_opnd(&in, 1, OPND_GPR, AT_REG, X86_RBX, OPND_R, 8);
	assert_int_equal(in.gpr_read, BIT(X86_RSP) | BIT(X86_RBX));
	assert_int_equal(in.gpr_write, 0);

	in = decode("41 03 c1"); /* add eax, r9d */
	assert_opnd(&in, 0, OPND_GPR, AT_REG, X86_RAX, RW, 4);
	assert_opnd(&in, 1, OPND_GPR, AT_RM, 9, OPND_R, 4);

	in = decode("49 bf 88 77 66 55 44 33 22 11"); /* mov r15, imm64 */
	assert_opnd(&in, 0, OPND_GPR, AT_OPCODE, 15, OPND_W, 8);
	assert_opnd(&in, 1, OPND_IMM, AT_IMM, 0, OPND_R, 8);
	assert_true(in.imm == 0x1122334455667788);
	assert_int_equal(in.gpr_write, 0x8000);

	in = decode("66 0f af c8"); /* imul cx, ax: the upper half stays */
	assert_int_equal(in.gpr_read, 3);
	in = decode("66 b8 34 12"); /* mov ax, imm: merged */
	assert_int_equal(in.gpr_read, 1);
	in = decode("b8 78 56 34 12");
	assert_int_equal(in.gpr_read, 0);

	in = decode("0f b6 c5"); /* movzx eax, ch */
	assert_opnd(&in, 1, OPND_GPR8H, AT_RM, X86_RCX, OPND_R, 1);
	in = decode("40 0f b6 c5"); /* movzx eax, bpl */
	assert_opnd(&in, 1, OPND_GPR, AT_RM, X86_RBP, OPND_R, 1);
	in = decode("0f 44 c1"); /* cmove writes or not */
	assert_opnd(&in, 0, OPND_GPR, AT_REG, X86_RAX, RW, 4);
	assert_int_equal(in.cc, 4);
	in = decode("0f 20 d8"); /* mov rax, cr3 */
	assert_opnd(&in, 0, OPND_GPR, AT_RM, X86_RAX, OPND_W, 8);
	assert_opnd(&in, 1, OPND_CR, AT_REG, 3, OPND_R, 8);
	in = decode("8e d8"); /* mov ds, eax */
	assert_opnd(&in, 0, OPND_SREG, AT_REG, X86_DS, OPND_W, 2);
	assert_int_equal(in.sreg, X86_DS);
}

static void memory_operands_have_base_index_scale_and_displacement(void **state)
{
	struct x86_insn in = decode("48 8b 05 f8 ff ff ff"); /* [rip-8] */

	(void)state;
	assert_mem(&in, X86_RIP, X86_NO_REG, 1, -8, X86_DS);
	in = decode("8b 04 25 78 56 34 12");
	assert_mem(&in, X86_NO_REG, X86_NO_REG, 1, 0x12345678, X86_DS);
	in = decode("43 8b 84 bd 78 56 34 12"); /* [r13+r15*4+disp32] */
	assert_mem(&in, 13, 15, 4, 0x12345678, X86_DS);
	in = decode("8b 04 65 00 00 00 80"); /* index 4: none */
	assert_mem(&in, X86_NO_REG, X86_NO_REG, 2, INT32_MIN, X86_DS);
	in = decode("42 8b 04 65 00 00 00 80"); /* index r12 */
	assert_mem(&in, X86_NO_REG, 12, 2, INT32_MIN, X86_DS);
	in = decode("8b 45 fe"); /* [rbp-2] */
	assert_mem(&in, X86_RBP, X86_NO_REG, 1, -2, X86_SS);
	in = decode("41 8b 45 fe"); /* [r13-2] */
	assert_mem(&in, 13, X86_NO_REG, 1, -2, X86_DS);
	in = decode_in(32, "8b 05 78 56 34 12");
	assert_mem(&in, X86_NO_REG, X86_NO_REG, 1, 0x12345678, X86_DS);
	in = decode_in(16, "8b 42 fe"); /* [bp+si-2] */
	assert_mem(&in, X86_RBP, X86_RSI, 1, -2, X86_SS);
	assert_int_equal(in.adsize, 2);
	in = decode_in(16, "8b 06 34 82"); /* [disp16] */
	assert_mem(&in, X86_NO_REG, X86_NO_REG, 1, (int16_t)0x8234, X86_DS);
	in = decode_in(16, "67 66 8b 04 24"); /* mov eax, [esp] */
	assert_mem(&in, X86_RSP, X86_NO_REG, 1, 0, X86_SS);
	assert_int_equal(in.opsize, 4);
	in = decode("48 a1 88 77 66 55 44 33 22 11"); /* moffs */
	assert_true(in.mem.moffs && in.imm == 0x1122334455667788);
	assert_int_equal(in.mem.size, 8);
	assert_int_equal(in.mem.access, OPND_R);
	in = decode_in(16, "2e a3 34 82");
	assert_true(in.mem.moffs && in.imm == 0x8234 && in.mem.seg == X86_CS);
}

static void segment_prefixes_count_as_the_mode_has_it(void **state)
{
	(void)state;
	assert_int_equal(decode("65 48 8b 00").mem.seg, X86_GS);
	assert_int_equal(decode("2e 8b 04 24").mem.seg, X86_SS); /* CS is ignored */
	assert_int_equal(decode("64 2e 8b 00").mem.seg, X86_FS);
	assert_int_equal(decode_in(32, "64 2e 8b 00").mem.seg, X86_CS);
	assert_int_equal(decode_in(32, "36 8b 00").mem.seg, X86_SS);
	assert_int_equal(decode("65 f3 a4").mem.seg, X86_GS); /* strings: the source's */
	assert_int_equal(decode("f3 a4").mem.seg, X86_DS);
}

static void immediates_are_extended_and_the_second_is_kept(void **state)
{
	struct x86_insn in = decode("48 83 c0 ff");

	(void)state;
	assert_true(in.imm == -1);
	assert_opnd(&in, 1, OPND_IMM, AT_IMM, 0, OPND_R, 8);
	in = decode("48 81 c0 00 00 00 80");
	assert_true(in.imm == INT32_MIN);
	assert_int_equal(in.imm_size, 4);
	in = decode("c8 00 80 85"); /* enter 0x8000, 0x85 */
	assert_true(in.imm == 0x8000 && in.imm2 == 0x85);
	assert_true(decode("cd 80").imm == 0x80);
	in = decode_in(32, "9a 78 56 34 f2 cd ab");
	assert_true(in.imm == 0xf2345678 && in.imm2 == 0xabcd);
	in = decode_in(16, "ea 34 f2 cd ab");
	assert_true(in.imm == 0xf234 && in.imm2 == 0xabcd && in.op == OP_JMP_FAR);
	in = decode("66 e9 00 00 00 80"); /* 66 is ignored in 64-bit code */
	assert_true(in.imm == INT32_MIN && in.opsize == 8);
	in = decode_in(32, "66 e9 00 80");
	assert_true(in.imm == INT16_MIN && in.opsize == 2);
}

static void implicit_registers_are_in_the_masks(void **state)
{
	static const struct {
		const char *hex;
		u16 op, read, write;
	} cases[] = {
		{"48 f7 e1", OP_MUL, 0x3, 0x5},
		{"f7 f1", OP_DIV, 0x7, 0x5},
		{"f6 f1", OP_DIV, 0x3, 0x1},
		{"48 99", OP_CWD, 0x1, 0x4},
		{"0f a2", OP_CPUID, 0x3, 0xf},
		{"f3 48 ab", OP_STOS, 0x83, 0x82},
		{"ac", OP_LODS, 0x41, 0x41},
		{"48 ad", OP_LODS, 0x40, 0x41},
		{"41 57", OP_PUSH, 0x8010, 0x10},
		{"c9", OP_LEAVE, 0x30, 0x30},
		{"d3 e3", OP_SHL, 0xa, 0x8},
		{"0f b1 0e", OP_CMPXCHG, 0x43, 0x1},
		{"0f c7 0e", OP_CMPXCHG8B, 0x4f, 5},
		{"c4 e2 f3 f6 c3", OP_MULX, 0xc, 0x3},
		{"0f 05", OP_SYSCALL, 0, 0x802},
		{"66 0f 3a 61 c1 00", OP_VEC, 5, 2},
		{"66 0f f7 c1", OP_MASKMOVDQU, 0x80, 0},
		{"df e0", OP_X87, 1, 1},
	};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct x86_insn in = decode(cases[i].hex);

		if (in.op != cases[i].op || in.gpr_read != cases[i].read || in.gpr_write != cases[i].write)
			fail_msg("%s: op %u, reads %x, writes %x", cases[i].hex, in.op, in.gpr_read, in.gpr_write);
	}
}

static void flags_are_read_written_and_killed(void **state)
{
	static const struct {
		const char *hex;
		u16 read, write, kill;
	} cases[] = {
		{"01 c0", 0, ALL6, ALL6},
		{"11 c0", X86_FLAG_CF, ALL6, ALL6},
		{"ff c0", 0, ALL6 & ~X86_FLAG_CF, ALL6 & ~X86_FLAG_CF},
		{"f7 d0", 0, 0, 0},
		{"c1 e0 03", 0, ALL6, ALL6},
		{"c1 e0 20", 0, 0, 0},		/* by 32: nothing happens */
		{"48 c1 e0 20", 0, ALL6, ALL6}, /* 64 bits: by 32 */
		{"d3 e0", 0, ALL6, 0},
		{"d1 c0", 0, X86_FLAG_CF | X86_FLAG_OF, X86_FLAG_CF | X86_FLAG_OF},
		{"c1 c0 02", 0, X86_FLAG_CF | X86_FLAG_OF, X86_FLAG_CF}, /* OF stays as it was, on Intel */
		{"d1 d0", X86_FLAG_CF, X86_FLAG_CF | X86_FLAG_OF, X86_FLAG_CF | X86_FLAG_OF},
		{"c0 d0 09", X86_FLAG_CF, X86_FLAG_CF | X86_FLAG_OF, 0},
		{"0f ba e0 03", 0, ALL6 & ~X86_FLAG_ZF, X86_FLAG_CF},
		{"f3 a6", X86_FLAG_DF, ALL6, 0},
		{"a6", X86_FLAG_DF, ALL6, ALL6},
		{"7f 00", X86_FLAG_ZF | X86_FLAG_SF | X86_FLAG_OF, 0, 0},
		{"66 0f 38 17 c1", 0, ALL6, ALL6},
		{"0f 2e c1", 0, ALL6, ALL6},
		{"c5 f8 98 c1", 0, ALL6, ALL6},
		{"f3 0f b8 c1", 0, ALL6, ALL6},
		{"66 0f 38 f6 c1", X86_FLAG_CF, X86_FLAG_CF, X86_FLAG_CF},
		{"da c1", X86_FLAG_CF, 0, 0},
	};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct x86_insn in = decode(cases[i].hex);

		if (in.flags_read != cases[i].read || in.flags_write != cases[i].write || in.flags_kill != cases[i].kill)
			fail_msg("%s: reads %x, writes %x, kills %x", cases[i].hex, in.flags_read, in.flags_write, in.flags_kill);
	}
}

static void memory_sizes_and_accesses_are_exact(void **state)
{
	static const struct {
		const char *hex;
		u16 op, size;
		u8 access;
	} cases[] = {
		{"8d 00", OP_LEA, 0, 0},
		{"0f 18 08", OP_PREFETCH, 0, 0},
		{"0f ae 38", OP_CLFLUSH, 1, OPND_R},
		{"0f 01 38", OP_INVLPG, 0, 0},
		{"0f 01 10", OP_LGDT, 10, OPND_R},
		{"8c 18", OP_MOV_FROM_SREG, 2, OPND_W},
		{"0f c7 08", OP_CMPXCHG8B, 8, RW},
		{"48 0f c7 08", OP_CMPXCHG16B, 16, RW},
		{"48 ff 28", OP_JMP_FAR_IND, 10, OPND_R},
		{"db 28", OP_X87, 10, OPND_R},
		{"df 30", OP_X87, 10, OPND_W},
		{"d9 38", OP_X87, 2, OPND_W},
		{"d9 30", OP_FNSTENV, 28, OPND_W},
		{"dd 30", OP_FNSAVE, 108, OPND_W},
		{"0f ae 00", OP_FXSAVE, 512, OPND_W},
		{"f3 0f 10 00", OP_VEC, 4, OPND_R},
		{"f2 0f 11 00", OP_VEC, 8, OPND_W},
		{"0f 12 00", OP_VEC, 8, OPND_R},
		{"f2 0f 12 00", OP_VEC, 8, OPND_R},
		{"66 0f 38 30 00", OP_VEC, 8, OPND_R},
		{"66 0f 38 22 00", OP_VEC, 2, OPND_R},
		{"f3 0f 5a 00", OP_VEC, 4, OPND_R},
		{"66 0f 3a 20 00 01", OP_VEC, 1, OPND_R},
		{"66 0f 3a 15 00 01", OP_VEC, 2, OPND_W},
		{"0f 60 00", OP_VEC, 4, OPND_R}, /* punpcklbw mm, m32 */
		{"c4 e2 7d 18 00", OP_VEC, 4, OPND_R},
		{"c5 ff 12 00", OP_VEC, 32, OPND_R}, /* vmovddup ymm */
		{"c5 fd e2 00", OP_VEC, 16, OPND_R}, /* vpsrad ymm: the count is 16 bytes */
		{"c4 e2 7d 2c 00", OP_VEC_MASKED, 32, OPND_R},
		{"c4 e2 7d 2e 00", OP_VEC_MASKED, 32, OPND_W},
		{"62 f1 7c 48 58 00", OP_VEC, 64, OPND_R},
		{"62 f1 7c 58 58 00", OP_VEC, 4, OPND_R},
		{"62 f1 fd 58 58 00", OP_VEC, 8, OPND_R},
		{"62 f5 7c 58 58 00", OP_VEC, 2, OPND_R},
		{"62 f1 7c 49 58 00", OP_VEC_MASKED, 64, OPND_R},
		{"62 f2 7e 48 31 00", OP_VEC, 16, OPND_W}, /* vpmovdb */
		{"62 f2 7d 49 8a 00", OP_VEC_MASKED, 64, OPND_W},
		{"62 f2 7d 49 90 04 08", OP_VEC_GATHER, 4, OPND_R},
		{"62 f2 fd 49 a1 04 08", OP_VEC_GATHER, 8, OPND_W},
	};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct x86_insn in = decode(cases[i].hex);

		if (in.op != cases[i].op || in.mem.size != cases[i].size || in.mem.access != cases[i].access)
			fail_msg("%s: op %u, %u bytes, access %u", cases[i].hex, in.op, in.mem.size, in.mem.access);
		if (in.generic !=
		    (in.op == OP_LEA || in.op == OP_VEC || in.op == OP_X87 || in.op == OP_CMPXCHG8B || in.op == OP_CMPXCHG16B))
			fail_msg("%s: generic is %d", cases[i].hex, in.generic);
	}
}

static void vector_prefixes_are_taken_apart(void **state)
{
	struct x86_insn in = decode("62 01 15 27 58 64 90 80"); /* vaddpd would be W1; here 66.W0 is nothing */

	(void)state;
	assert_int_equal(in.op, OP_UD);
	in = decode("62 01 95 27 58 64 90 80"); /* vaddpd ymm28{k7}, ymm29, [r8+r10*4-128*32] */
	assert_int_equal(in.op, OP_VEC_MASKED);
	assert_opnd(&in, 0, OPND_XMM, AT_REG, 28, OPND_W, 32);
	assert_opnd(&in, 1, OPND_XMM, AT_VVVV, 29, OPND_R, 32);
	assert_opnd(&in, 2, OPND_MEM, AT_RM, 0, OPND_R, 32);
	assert_mem(&in, 8, 10, 4, -4096, X86_DS);
	assert_int_equal(in.feat, FEAT_AVX512F);
	assert_int_equal(in.feat2, FEAT_AVX512VL);
	assert_int_equal(in.evex_aaa, 7);
	in = decode("62 f1 7c 58 58 40 01"); /* broadcast: displacements count elements */
	assert_int_equal(in.mem.disp, 4);
	in = decode("62 f1 7c 48 58 80 01 00 00 00"); /* disp32 does not */
	assert_int_equal(in.mem.disp, 1);
	in = decode("62 f2 7d 48 8a 40 01"); /* compress: elements, whatever it stores */
	assert_int_equal(in.mem.disp, 4);
	in = decode("62 f1 7c 38 58 c1"); /* rounding: 512 bits */
	assert_int_equal(in.opnd[0].size, 64);
	assert_int_equal(in.feat2, FEAT_NONE);
	in = decode("c4 42 25 96 c4"); /* vfmaddsub132ps ymm8, ymm11, ymm12 */
	assert_opnd(&in, 0, OPND_XMM, AT_REG, 8, RW, 32);
	assert_opnd(&in, 1, OPND_XMM, AT_VVVV, 11, OPND_R, 32);
	assert_opnd(&in, 2, OPND_XMM, AT_RM, 12, OPND_R, 32);
	assert_int_equal(in.feat, FEAT_FMA);
	in = decode("c4 e3 71 4a c2 f0"); /* vblendvps xmm0, xmm1, xmm2, xmm15 */
	assert_opnd(&in, 3, OPND_XMM, AT_IS4, 15, OPND_R, 16);
	in = decode("c4 e2 41 92 04 c9"); /* vgatherdps xmm0, [rcx+xmm1*8], xmm7 */
	assert_int_equal(in.op, OP_VEC_GATHER);
	assert_mem(&in, X86_RCX, 1, 8, 0, X86_DS);
	assert_int_equal(in.gpr_read, BIT(X86_RCX));
	in = decode("c4 c1 fb 92 cf"); /* kmovq k1, r15 */
	assert_opnd(&in, 0, OPND_K, AT_REG, 1, OPND_W, 8);
	assert_opnd(&in, 1, OPND_GPR, AT_RM, 15, OPND_R, 8);
	assert_int_equal(decode("c5 fd 60 c1").feat, FEAT_AVX2);
	assert_int_equal(decode("c5 f9 60 c1").feat, FEAT_AVX);
	assert_int_equal(decode("c4 e2 7d dc c1").feat, FEAT_VAES);
	in = decode("c4 e2 79 dc c1");
	assert_true(in.feat == FEAT_AES && in.feat2 == FEAT_AVX);
}

static void prefixes_choose_the_instruction(void **state)
{
	struct x86_insn in = decode("f3 90");

	(void)state;
	assert_int_equal(in.op, OP_PAUSE);
	assert_int_equal(decode("90").op, OP_NOP);
	in = decode("41 90"); /* xchg r8d, eax */
	assert_int_equal(in.op, OP_XCHG);
	assert_int_equal(in.gpr_write, 0x101);
	assert_int_equal(decode("f3 0f 1e fa").op, OP_ENDBR);
	assert_int_equal(decode("f3 0f 1e c8").op, OP_NOP); /* rdsspd */
	assert_int_equal(decode("f3 0f bc c1").op, OP_TZCNT);
	assert_int_equal(decode("0f bc c1").op, OP_BSF);
	assert_int_equal(decode("f2 f3 0f b8 c1").op, OP_POPCNT);
	assert_int_equal(decode("f2 66 0f 38 f1 c1").opsize, 2); /* crc32 eax, cx */
	assert_int_equal(decode("66 0f c7 f1").opnd[0].size, 2); /* rdrand cx */
	in = decode("48 66 01 c8");				 /* a REX that is not last */
	assert_true(in.opsize == 2 && in.rex == 0 && in.nr_prefixes == 2);
	in = decode("66 f3 48 a5");
	assert_true(in.op == OP_MOVS && in.opsize == 8 && in.rep == 0xf3 && in.at_rex == 2 && in.at_opcode == 3);
	in = decode("48 81 84 88 78 56 34 12 01 02 03 04");
	assert_true(in.at_rex == 0 && in.at_opcode == 1 && in.at_modrm == 2 && in.at_disp == 4 && in.at_imm == 8);
	assert_true(in.disp_size == 4 && in.imm_size == 4 && in.rex == 0x48);
	assert_int_equal(decode_in(32, "63 c8").op, OP_ARPL);
	assert_int_equal(decode("48 63 c8").op, OP_MOVSX);
	assert_int_equal(decode_in(32, "48").op, OP_DEC);
	assert_int_equal(decode("9f").feat, FEAT_LAHF64);
	assert_int_equal(decode_in(32, "9f").feat, FEAT_NONE);
	in = decode("0f a3 08"); /* bt [rax], ecx: somewhere else in memory */
	assert_false(in.generic);
	assert_true(decode("0f a3 c8").generic && decode("0f ba 20 01").generic);
}

static void vex_in_legacy_code_gives_way_to_les_lds_and_bound(void **state)
{
	static const u8 vex[15] = {0xc5, 0xf8, 0x58, 0xc1}, bound[15] = {0x62, 0x01}, real[15] = {0xc5, 0xc1};
	struct x86_insn in;

	(void)state;
	assert_int_equal(x86_decode(&in, vex, 15, 32, false), 4);
	assert_int_equal(in.op, OP_VEC);
	assert_int_equal(x86_decode(&in, vex, 15, 16, true), 2);
	assert_int_equal(in.op, OP_UD); /* LDS with a register */
	assert_int_equal(x86_decode(&in, bound, 15, 32, false), 2);
	assert_int_equal(in.op, OP_BOUND);
	assert_int_equal(in.mem.size, 8);
	assert_int_equal(x86_decode(&in, real, 15, 16, true), 2);
	in = decode_in(32, "c5 06");
	assert_int_equal(in.op, OP_LOAD_FAR);
	assert_int_equal(in.sreg, X86_DS);
	assert_int_equal(decode("0f b2 06").sreg, X86_SS);
}

static void what_is_no_instruction_is_ud(void **state)
{
	static const char *const cases[] = {
		"0f 0b",
		"0f b9 c1",
		"0f ff 00",
		"06",
		"ce",
		"82 c0 00",
		"d6", /* SALC is for 32-bit code */
		"f0 01 c0",
		"f0 89 00",
		"f0 38 00",
		"f0 0f a3 00", /* LOCK */
		"8e c8",
		"8e f0",
		"8c f0",
		"0f 20 c8",
		"0f 22 f8",
		"44 0f 21 c0", /* registers that are not there */
		"66 c5 f8 58 c1",
		"48 c5 f8 58 c1",
		"f0 c5 f8 58 c1",
		"f2 c5 f8 58 c1",
		"c5 e8 28 c1",
		"c4 e2 fd 18 c0",
		"c4 e2 79 16 c0", /* vvvv, W, L */
		"c4 e2 41 92 04 38",
		"c4 e2 41 92 00", /* gathers: the same register twice; no SIB */
		"62 f2 7d 48 90 04 08",
		"62 f1 7c c8 58 c1",
		"62 f1 7c 68 58 c1",
		"62 f1 7c 58 54 c1", /* mask, z, L, rounding */
		"0f c7 c9",
		"0f 01 fe",
		"fe d0",
		"ff f8",
		"0f 0f c1",
		"8f c8",
	};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct x86_insn in;
		u8 bytes[32] = {0};

		parse(cases[i], bytes);
		x86_decode(&in, bytes, 15, 64, false);
		if (in.op != OP_UD || in.generic)
			fail_msg("%s: op %u", cases[i], in.op);
	}
	assert_int_equal(decode("f0 01 00").op, OP_ADD);
	assert_true(decode("f0 01 00").lock && decode("01 00").lockable);
	assert_int_equal(decode_in(32, "d6").op, OP_SALC);
}

static void guests_are_not_shown_what_they_are_not_told_of(void **state)
{
	static const char *const cases[] = {
		"c7 f8 00 00 00 00", "c6 f8 00",	  "0f 01 d5",	    "0f 01 d6",			     /* TSX */
		"0f 01 ee",	     "0f 01 ef",	  "0f 01 d7",	    "0f 01 cf",	      "0f 01 c5",    /* PKU, SGX, PCONFIG */
		"0f 01 c2",	     "0f c7 30",	  "0f 78 c1",	    "66 0f 38 80 00", "0f 01 d8",    /* VMX, SVM */
		"f3 0f ae e8",	     "f3 0f ae f1",	  "66 0f ae f1",    "f2 0f ae f1",    "f3 0f ae 20", /* CET, WAITPKG, PTWRITE */
		"f3 0f 01 ec",	     "f3 0f c7 f0",	  "f2 0f 38 f8 00", "66 0f 38 f8 00",		     /* UINTR, ENQCMD, MOVDIR64B */
		"c4 e2 78 49 c0",    "c4 e2 7b 4b 04 08", "c4 e2 7b 5e c2", "f3 0f 38 dc 00", "0f 37",	     /* AMX, key locker, SMX */
	};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct x86_insn in = decode(cases[i]);

		if (in.op != OP_UNSUPPORTED || in.generic)
			fail_msg("%s: op %u", cases[i], in.op);
	}
}

/* decode_fast.c is not asked when fewer than 15 bytes are there: then the rest of the decoder does all. */
static void assert_same(const u8 *bytes)
{
	struct x86_insn fast, any;

	memset(&fast, 0xaa, sizeof(fast));
	memset(&any, 0x55, sizeof(any));
	x86_decode(&fast, bytes, 15, 64, false);
	if (!x86_decode(&any, bytes, 14, 64, false))
		return;
	any.bytes[14] = bytes[14];
	assert_memory_equal(&fast, &any, sizeof(fast));
}

static void frequent_instructions_decode_as_all_others_do(void **state)
{
	static const u8 before[] = {0x48, 0x41, 0x44, 0x4f, 0x42, 0x40, 0x66, 0xf0, 0xf2, 0xf3, 0x64, 0x65, 0x2e, 0x67};
	u64 x = 88172645463325252;

	(void)state;
	for (u32 i = 0; i < 1000000; i++) {
		u64 words[2];
		u8 bytes[16];
		u32 n;

		for (u32 k = 0; k < 2; k++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			words[k] = x;
		}
		memcpy(bytes, words, sizeof(bytes));
		n = i % 4; /* prefixes */
		for (u32 k = 0; k < n; k++)
			bytes[k] = before[bytes[k] % sizeof(before)];
		if (i & 4)
			bytes[n] = 0x0f;
		assert_same(bytes);
	}
}

static void too_few_bytes_are_asked_for_and_too_many_refused(void **state)
{
	static const char *const cases[] = {
		"48 b8 01 02 03 04 05 06 07 08",
		"66 0f 3a 0f 84 88 01 02 03 04 05",
		"62 f1 7c 48 58 84 88 01 02 03 04",
		"c4 e3 71 4a c2 f0",
		"0f 0b",
	};
	u8 longest[15] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x01, 0xc0};
	struct x86_insn in;
	u8 bytes[32];

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		u32 n = parse(cases[i], bytes);

		for (u32 avail = 0; avail < n; avail++)
			assert_int_equal(x86_decode(&in, bytes, avail, 64, false), 0);
		assert_int_equal(x86_decode(&in, bytes, n, 64, false), n);
	}
	assert_int_equal(x86_decode(&in, longest, 15, 64, false), 15);
	assert_int_equal(in.op, OP_ADD);
	longest[13] = 0x66;
	longest[14] = 0x01;
	assert_int_equal(x86_decode(&in, longest, 15, 64, false), 15);
	assert_true(in.op == OP_UD && in.imm == 1);
	assert_int_equal(x86_decode(&in, longest, 14, 64, false), 0);
}

#if HUSK_CAPSTONE
/* ---- capstone ---- */

enum { THEY_REFUSE, WE_REFUSE, LENGTHS };
#define LEG BIT(ENC_LEGACY)
#define VEX BIT(ENC_VEX)
#define EVX BIT(ENC_EVEX)
#define M16 1u
#define M32 2u
#define M64 4u
#define ANY 7u

/* Why capstone 4.0.2 and husk differ: in code of these modes (16 32 64), encodings and maps, opcodes first to last. */
static const struct reason {
	u8 kind, modes, encs, maps, first, last;
	bool prefixed; /* only with 66, F2 or F3 */
	const char *why;
} reasons[] = {
	{LENGTHS, M64, LEG, 1, 0xe8, 0xe9, true, "66 with near branches: AMD takes 16 bits, Intel none of it"},
	{LENGTHS, M64, LEG, 2, 0x80, 0x8f, true, "the same"},
	{LENGTHS, M64, LEG, 1, 0xc7, 0xc7, true, "the same: XBEGIN"},
	{LENGTHS, M64, LEG, 1, 0xc2, 0xc2, true, "66 with RET and REX.W: capstone reads four bytes"},
	{WE_REFUSE, ANY, LEG, 0xe, 0, 0xff, true, "a prefix that makes another instruction of it, or none"},
	{WE_REFUSE, ANY, LEG, 2, 0x0e, 0x0e, false, "FEMMS: AMD's, and no more"},
	{WE_REFUSE, ANY, LEG, 1, 0x8e, 0x8e, false, "MOV CS"},
	{WE_REFUSE, ANY, LEG, 2, 0x20, 0x22, false, "control registers that are not there"},
	{WE_REFUSE, M16 | M32, LEG, 2, 0x01, 0x01, false, "SWAPGS is for 64-bit code"},
	{WE_REFUSE, ANY, VEX, 2, 0x4b, 0x93, false, "W of opmask instructions"},
	{WE_REFUSE, ANY, VEX, 4, 0x0c, 0x79, false, "W must be 0"},
	{WE_REFUSE, ANY, VEX | EVX, 4, 0x90, 0x93, false, "gathers: registers must differ, there must be a SIB and a mask"},
	{WE_REFUSE, ANY, VEX, 8, 0x02, 0x46, false, "W must be 0"},
	{WE_REFUSE, ANY, VEX, 8, 0x4a, 0x4c, false, "W must be 0"},
	{WE_REFUSE, ANY, VEX, 8, 0x48, 0x7f, false, "AMD's FMA4 and XOP"},
	{WE_REFUSE, ANY, EVX, 0xe, 0, 0xff, false, "W, vvvv, masks that are not checked; Xeon Phi's ER and PF"},
	{THEY_REFUSE, ANY, LEG, 2, 0x0d, 0x1f, false, "hint NOPs"},
	{THEY_REFUSE, ANY, LEG, 2, 0x01, 0x01, false, "RDPKRU and later"},
	{THEY_REFUSE, ANY, LEG, 2, 0xae, 0xae, false, "fences with another rm, CET"},
	{THEY_REFUSE, ANY, LEG, 2, 0xf0, 0xf0, true, "LDDQU with 66"},
	{THEY_REFUSE, ANY, LEG, 4, 0xcf, 0xcf, true, "GFNI"},
	{THEY_REFUSE, ANY, LEG, 4, 0xd8, 0xdf, true, "key locker"},
	{THEY_REFUSE, ANY, LEG, 4, 0xf0, 0xf1, true, "CRC32 with 66 before F2"},
	{THEY_REFUSE, ANY, LEG, 4, 0xf5, 0xfb, false, "CET, MOVDIRI, ENQCMD, key locker; ADOX with 66"},
	{THEY_REFUSE, ANY, LEG, 8, 0xce, 0xcf, true, "GFNI"},
	{THEY_REFUSE, ANY, LEG, 8, 0xf0, 0xf0, true, "HRESET"},
	{THEY_REFUSE, M16, LEG, 0xe, 0, 0xff, true, "66 as part of the opcode, in 16-bit code"},
	{THEY_REFUSE, ANY, VEX, 2, 0x41, 0x99, false, "opmasks of BW and DQ"},
	{THEY_REFUSE, ANY, VEX, 4, 0x49, 0x72, false, "AMX, VNNI; VBROADCASTI128"},
	{THEY_REFUSE, ANY, VEX, 4, 0xb0, 0xdf, false, "NE_CONVERT, IFMA, SHA512, SM3, SM4, GFNI, VAES"},
	{THEY_REFUSE, ANY, VEX, 8, 0x31, 0x33, false, "opmasks of BW"},
	{THEY_REFUSE, ANY, VEX, 8, 0x44, 0x44, false, "VPCLMULQDQ"},
	{THEY_REFUSE, ANY, VEX, 8, 0xce, 0xde, false, "GFNI, SM3"},
	{THEY_REFUSE, ANY, EVX, 0x6e, 0, 0xff, false, "BW, DQ, VL and all after them"},
};
static unsigned seen[ARRAY_SIZE(reasons)], tried, agreed, both_refuse, unexplained;

struct cs {
	csh handle;
	cs_insn *insn;
	u32 mode;
};

static void explain(const struct cs *c, const struct x86_insn *in, u32 kind, const u8 *bytes, u32 theirs)
{
	for (u32 i = 0; i < ARRAY_SIZE(reasons); i++) {
		const struct reason *r = &reasons[i];

		if (r->kind == kind && r->modes & c->mode / 16 && r->encs & BIT(in->enc) && r->maps & BIT(in->map) &&
		    in->opcode >= r->first && in->opcode <= r->last &&
		    (!r->prefixed || memchr(bytes, 0x66, 2) || (bytes[0] & 0xfe) == 0xf2)) {
			seen[i]++;
			return;
		}
	}
	if (unexplained++ < 20)
		print_error("%u-bit, kind %u, encoding %u map %u opcode %02x: %02x %02x %02x %02x %02x %02x: length %u, theirs %u\n",
			    c->mode, kind, in->enc, in->map, in->opcode, bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5],
			    in->len, theirs);
}

static void compare(struct cs *c, const u8 *bytes)
{
	struct x86_insn in;
	u32 len = x86_decode(&in, bytes, 15, c->mode, false);
	const u8 *p = bytes;
	size_t n = 15;
	u64 address = 0;
	bool theirs = cs_disasm_iter(c->handle, &p, &n, &address, c->insn), ours = in.op != OP_UD;

	tried++;
	if (theirs && !ours && !strncmp(c->insn->mnemonic, "ud", 2))
		theirs = false;
	if (!theirs && !ours)
		both_refuse++;
	else if (theirs && ours && c->insn->size == len)
		agreed++;
	else
		explain(c, &in, theirs && ours ? LENGTHS : ours ? THEY_REFUSE : WE_REFUSE, bytes, theirs ? c->insn->size : 0);
}

static const u8 modrms[] = {0xc1, 0xca, 0xd3, 0xdc, 0xe5, 0xee, 0xf7, 0xf8, 0x00, 0x0b, 0x16, 0x5c, 0xa5, 0x2d, 0x74, 0xbb};

static void compare_opcodes(struct cs *c, u8 *bytes, u32 n, bool map1, bool map_0f)
{
	for (u32 op = 0; op < 256; op++) {
		/* Not prefixes, escapes, VEX. */
		if (map1 &&
		    (strchr("\x0f\x62\xc4\xc5\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3", (int)op) || (c->mode == 64 && op >> 4 == 4)))
			continue;
		if (map_0f && (op == 0x38 || op == 0x3a))
			continue;
		bytes[n] = (u8)op;
		for (u32 i = 0; i < ARRAY_SIZE(modrms); i++) {
			bytes[n + 1] = modrms[i];
			compare(c, bytes);
		}
	}
}

static void compare_legacy(struct cs *c)
{
	static const char *const prefixes[] = {"", "66", "f3", "f2", "67", "f2 66", "48", "66 48"};
	static const char *const maps[] = {"", "0f", "0f 38", "0f 3a"};
	u8 bytes[64];

	for (u32 p = 0; p < (c->mode == 64 ? 8u : 6u); p++)
		for (u32 map = 0; map < 4; map++) {
			u32 n;

			memset(bytes, 0x12, sizeof(bytes));
			n = parse(prefixes[p], bytes);
			n += parse(maps[map], bytes + n);
			compare_opcodes(c, bytes, n, map == 0, map == 1);
		}
}

static void compare_vector(struct cs *c)
{
	u8 bytes[64];

	memset(bytes, 0x12, sizeof(bytes));
	for (u32 i = 0; i < 3 * 4 * 2 * 2 * 2; i++) { /* map, prefix, W, L, vvvv */
		bytes[0] = 0xc4;
		bytes[1] = (u8)(0xe1 + i % 3);
		bytes[2] = (u8)(i / 3 % 4 | i / 12 % 2 << 7 | i / 24 % 2 << 2 | (i / 48 ? 0x68 : 0x78));
		compare_opcodes(c, bytes, 3, false, false);
	}
	for (u32 i = 0; i < 5 * 4 * 2 * 3 * 2; i++) {
		bytes[0] = 0x62;
		bytes[1] = (u8)(0xf0 | "\1\2\3\5\6"[i % 5]);
		bytes[2] = (u8)(i / 5 % 4 | i / 20 % 2 << 7 | 4 | (i / 120 ? 0x68 : 0x78));
		bytes[3] = (u8)(8 | i / 40 % 3 << 5 | (i & 1));
		compare_opcodes(c, bytes, 4, false, false);
	}
}

static void lengths_are_those_of_capstone_but_for_reasons(void **state)
{
	static const struct {
		u32 mode;
		cs_mode theirs;
	} modes[] = {{64, CS_MODE_64}, {32, CS_MODE_32}, {16, CS_MODE_16}};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(modes); i++) {
		struct cs c = {.mode = modes[i].mode};

		assert_int_equal(cs_open(CS_ARCH_X86, modes[i].theirs, &c.handle), CS_ERR_OK);
		c.insn = cs_malloc(c.handle);
		compare_legacy(&c);
		compare_vector(&c);
		cs_free(c.insn, 1);
		cs_close(&c.handle);
	}
	print_message("# %u tried, %u agree, %u no instruction for both\n", tried, agreed, both_refuse);
	for (u32 i = 0; i < ARRAY_SIZE(reasons); i++) {
		print_message("# %6u %s: %s\n", seen[i],
			      reasons[i].kind == LENGTHS     ? "another length"
			      : reasons[i].kind == WE_REFUSE ? "we refuse"
							     : "they refuse",
			      reasons[i].why);
		assert_true(seen[i] > 0); /* a reason that explains nothing hides something */
	}
	assert_int_equal(unexplained, 0);
	assert_true(agreed > 200000);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(operands_have_kind_place_register_access_and_size),
		cmocka_unit_test(memory_operands_have_base_index_scale_and_displacement),
		cmocka_unit_test(segment_prefixes_count_as_the_mode_has_it),
		cmocka_unit_test(immediates_are_extended_and_the_second_is_kept),
		cmocka_unit_test(implicit_registers_are_in_the_masks),
		cmocka_unit_test(flags_are_read_written_and_killed),
		cmocka_unit_test(memory_sizes_and_accesses_are_exact),
		cmocka_unit_test(vector_prefixes_are_taken_apart),
		cmocka_unit_test(prefixes_choose_the_instruction),
		cmocka_unit_test(vex_in_legacy_code_gives_way_to_les_lds_and_bound),
		cmocka_unit_test(what_is_no_instruction_is_ud),
		cmocka_unit_test(guests_are_not_shown_what_they_are_not_told_of),
		cmocka_unit_test(frequent_instructions_decode_as_all_others_do),
		cmocka_unit_test(too_few_bytes_are_asked_for_and_too_many_refused),
#if HUSK_CAPSTONE
		cmocka_unit_test(lengths_are_those_of_capstone_but_for_reasons),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

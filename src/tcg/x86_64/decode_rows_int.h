/*
 * decode_rows_int.h: integer and system instructions, legacy encoding (SDM 2A appendix A). Private to decode_tables_legacy.c.
 *
 * X(map, prefix, first, last opcode, operation, feature, attributes, flags, implicit registers, access, operands)
 * L(map, prefix, first, last opcode, kind, group, attributes, operands): further by group
 * G(group, M memory R register A both, number, operation, ...)
 * Prefix: ALL whatever it is; NP none; N6 none or 66; N0 any but none; NNF3 any but F3; O6 66, still the operand size; else that one.
 */
#ifndef HUSK_TCG_DECODE_ROWS_INT_H
#define HUSK_TCG_DECODE_ROWS_INT_H

/* One row a line, in columns. */
/* clang-format off */
#define A_LKG (A_LOCK | A_GEN)
#define A_BG (A_BYTE | A_GEN)

#define ROWS_ALU(X, op, acc, fl, lock, a, b, c, d, e, f) \
	X(1, ALL, a, a, op, NONE, A_BG | (lock), fl, NONE, acc, Eb, Gb) \
	X(1, ALL, b, b, op, NONE, A_GEN | (lock), fl, NONE, acc, Ev, Gv) \
	X(1, ALL, c, c, op, NONE, A_BG, fl, NONE, acc, Gb, Eb) \
	X(1, ALL, d, d, op, NONE, A_GEN, fl, NONE, acc, Gv, Ev) \
	X(1, ALL, e, e, op, NONE, A_BG, fl, NONE, acc, AL, Ib) \
	X(1, ALL, f, f, op, NONE, A_GEN, fl, NONE, acc, rAX, Iz)

#define ROWS_MAP1(X, L) \
	ROWS_ALU(X, ADD, XR, ALU, A_LOCK, 00, 01, 02, 03, 04, 05) \
	ROWS_ALU(X, OR, XR, ALU, A_LOCK, 08, 09, 0a, 0b, 0c, 0d) \
	ROWS_ALU(X, ADC, XR, ADC, A_LOCK, 10, 11, 12, 13, 14, 15) \
	ROWS_ALU(X, SBB, XR, ADC, A_LOCK, 18, 19, 1a, 1b, 1c, 1d) \
	ROWS_ALU(X, AND, XR, ALU, A_LOCK, 20, 21, 22, 23, 24, 25) \
	ROWS_ALU(X, SUB, XR, ALU, A_LOCK, 28, 29, 2a, 2b, 2c, 2d) \
	ROWS_ALU(X, XOR, XR, ALU, A_LOCK, 30, 31, 32, 33, 34, 35) \
	ROWS_ALU(X, CMP, RR, ALU, 0, 38, 39, 3a, 3b, 3c, 3d) \
	X(1, ALL, 06, 06, PUSH_SREG, NONE, A_I64, NONE, SP, N, 0) \
	X(1, ALL, 07, 07, POP_SREG, NONE, A_I64, NONE, SP, N, 0) \
	X(1, ALL, 0e, 0e, PUSH_SREG, NONE, A_I64, NONE, SP, N, 0) \
	X(1, ALL, 16, 16, PUSH_SREG, NONE, A_I64, NONE, SP, N, 0) \
	X(1, ALL, 17, 17, POP_SREG, NONE, A_I64, NONE, SP, N, 0) \
	X(1, ALL, 1e, 1e, PUSH_SREG, NONE, A_I64, NONE, SP, N, 0) \
	X(1, ALL, 1f, 1f, POP_SREG, NONE, A_I64, NONE, SP, N, 0) \
	X(1, ALL, 27, 27, DAA, NONE, A_I64 | A_BG, DAA, AX, N, 0) \
	X(1, ALL, 2f, 2f, DAS, NONE, A_I64 | A_BG, DAA, AX, N, 0) \
	X(1, ALL, 37, 37, AAA, NONE, A_I64 | A_BG, AAA, AX, N, 0) \
	X(1, ALL, 3f, 3f, AAS, NONE, A_I64 | A_BG, AAA, AX, N, 0) \
	X(1, ALL, 40, 47, INC, NONE, A_I64 | A_GEN, INC, NONE, XN, Zv) \
	X(1, ALL, 48, 4f, DEC, NONE, A_I64 | A_GEN, INC, NONE, XN, Zv) \
	X(1, ALL, 50, 57, PUSH, NONE, A_D64, NONE, SP, R, Zv) \
	X(1, ALL, 58, 5f, POP, NONE, A_D64, NONE, SP, W, Zv) \
	X(1, ALL, 60, 60, PUSHA, NONE, A_I64, NONE, PUSHA, N, 0) \
	X(1, ALL, 61, 61, POPA, NONE, A_I64, NONE, POPA, N, 0) \
	X(1, ALL, 62, 62, BOUND, NONE, A_I64, NONE, NONE, RR, Gv, Ma) \
	L(1, ALL, 63, 63, BY_MODE, g63, A_M, 0) \
	X(1, ALL, 68, 68, PUSH, NONE, A_D64, NONE, SP, R, Iz) \
	X(1, ALL, 69, 69, IMUL, NONE, A_GEN, MUL, NONE, WRR, Gv, Ev, Iz) \
	X(1, ALL, 6a, 6a, PUSH, NONE, A_D64, NONE, SP, R, Ibv) \
	X(1, ALL, 6b, 6b, IMUL, NONE, A_GEN, MUL, NONE, WRR, Gv, Ev, Ibv) \
	X(1, ALL, 6c, 6c, INS, NONE, A_BYTE | A_REPCX, STR, DXDI, N, 0) \
	X(1, ALL, 6d, 6d, INS, NONE, A_MAX4 | A_REPCX, STR, DXDI, N, 0) \
	X(1, ALL, 6e, 6e, OUTS, NONE, A_BYTE | A_REPCX, STR, DXSI, N, 0) \
	X(1, ALL, 6f, 6f, OUTS, NONE, A_MAX4 | A_REPCX, STR, DXSI, N, 0) \
	X(1, ALL, 70, 7f, JCC, NONE, A_F64, CC, NONE, R, Jb) \
	L(1, ALL, 80, 80, GROUP, g1, A_BG, Eb, Ib) \
	L(1, ALL, 81, 81, GROUP, g1, A_GEN, Ev, Iz) \
	L(1, ALL, 82, 82, GROUP, g1, A_BG | A_I64, Eb, Ib) \
	L(1, ALL, 83, 83, GROUP, g1, A_GEN, Ev, Ibv) \
	X(1, ALL, 84, 84, TEST, NONE, A_BG, ALU, NONE, RR, Eb, Gb) \
	X(1, ALL, 85, 85, TEST, NONE, A_GEN, ALU, NONE, RR, Ev, Gv) \
	X(1, ALL, 86, 86, XCHG, NONE, A_BG | A_LOCK, NONE, NONE, XX, Eb, Gb) \
	X(1, ALL, 87, 87, XCHG, NONE, A_GEN | A_LOCK, NONE, NONE, XX, Ev, Gv) \
	X(1, ALL, 88, 88, MOV, NONE, A_BG, NONE, NONE, WR, Eb, Gb) \
	X(1, ALL, 89, 89, MOV, NONE, A_GEN, NONE, NONE, WR, Ev, Gv) \
	X(1, ALL, 8a, 8a, MOV, NONE, A_BG, NONE, NONE, WR, Gb, Eb) \
	X(1, ALL, 8b, 8b, MOV, NONE, A_GEN, NONE, NONE, WR, Gv, Ev) \
	X(1, ALL, 8c, 8c, MOV_FROM_SREG, NONE, 0, NONE, NONE, WR, Ewv, Sw) \
	X(1, ALL, 8d, 8d, LEA, NONE, A_GEN, NONE, NONE, WN, Gv, M0) \
	X(1, ALL, 8e, 8e, MOV_TO_SREG, NONE, 0, NONE, NONE, WR, Sw, Ew) \
	L(1, ALL, 8f, 8f, GROUP, g1a, A_M, 0) \
	X(1, ALL, 90, 90, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	X(1, ALL, 91, 97, XCHG, NONE, A_GEN, NONE, NONE, XX, Zv, rAX) \
	X(1, ALL, 98, 98, CBW, NONE, A_GEN, NONE, AX, N, 0) \
	X(1, ALL, 99, 99, CWD, NONE, A_GEN, NONE, RAX_WDX, N, 0) \
	X(1, ALL, 9a, 9a, CALL_FAR, NONE, A_I64, NONE, SP, R, Ap) \
	X(1, ALL, 9b, 9b, FWAIT, NONE, 0, NONE, NONE, N, 0) \
	X(1, ALL, 9c, 9c, PUSHF, NONE, A_D64, PUSHF, SP, N, 0) \
	X(1, ALL, 9d, 9d, POPF, NONE, A_D64, POPF, SP, N, 0) \
	X(1, ALL, 9e, 9e, SAHF, LAHF64, A_BG | A_FEAT64, SAHF, RAX, N, 0) \
	X(1, ALL, 9f, 9f, LAHF, LAHF64, A_BG | A_FEAT64, LAHF, AX, N, 0) \
	X(1, ALL, a0, a0, MOV, NONE, A_BG, NONE, NONE, WR, AL, Ob) \
	X(1, ALL, a1, a1, MOV, NONE, A_GEN, NONE, NONE, WR, rAX, Ov) \
	X(1, ALL, a2, a2, MOV, NONE, A_BG, NONE, NONE, WR, Ob, AL) \
	X(1, ALL, a3, a3, MOV, NONE, A_GEN, NONE, NONE, WR, Ov, rAX) \
	X(1, ALL, a4, a4, MOVS, NONE, A_BYTE | A_REPCX, STR, SIDI, N, 0) \
	X(1, ALL, a5, a5, MOVS, NONE, A_REPCX, STR, SIDI, N, 0) \
	X(1, ALL, a6, a6, CMPS, NONE, A_BYTE | A_REPCX, CMPS, SIDI, N, 0) \
	X(1, ALL, a7, a7, CMPS, NONE, A_REPCX, CMPS, SIDI, N, 0) \
	X(1, ALL, a8, a8, TEST, NONE, A_BG, ALU, NONE, RR, AL, Ib) \
	X(1, ALL, a9, a9, TEST, NONE, A_GEN, ALU, NONE, RR, rAX, Iz) \
	X(1, ALL, aa, aa, STOS, NONE, A_BYTE | A_REPCX, STR, AXDI, N, 0) \
	X(1, ALL, ab, ab, STOS, NONE, A_REPCX, STR, AXDI, N, 0) \
	X(1, ALL, ac, ac, LODS, NONE, A_BYTE | A_REPCX, STR, AXSI, N, 0) \
	X(1, ALL, ad, ad, LODS, NONE, A_REPCX, STR, AXSI, N, 0) \
	X(1, ALL, ae, ae, SCAS, NONE, A_BYTE | A_REPCX, CMPS, AXDI, N, 0) \
	X(1, ALL, af, af, SCAS, NONE, A_REPCX, CMPS, AXDI, N, 0) \
	X(1, ALL, b0, b7, MOV, NONE, A_BG, NONE, NONE, WR, Zb, Ib) \
	X(1, ALL, b8, bf, MOV, NONE, A_GEN, NONE, NONE, WR, Zv, Iv) \
	L(1, ALL, c0, c0, GROUP, g2, A_BG, Eb, Iub) \
	L(1, ALL, c1, c1, GROUP, g2, A_GEN, Ev, Iub) \
	X(1, ALL, c2, c2, RET, NONE, A_F64, NONE, SP, R, Iw) \
	X(1, ALL, c3, c3, RET, NONE, A_F64, NONE, SP, N, 0) \
	X(1, ALL, c4, c4, LOAD_FAR, NONE, A_I64, NONE, NONE, WR, Gv, Mp) \
	X(1, ALL, c5, c5, LOAD_FAR, NONE, A_I64, NONE, NONE, WR, Gv, Mp) \
	L(1, ALL, c6, c6, GROUP, g11b, A_BG, Eb, Ib) \
	L(1, ALL, c7, c7, GROUP, g11v, A_GEN, Ev, Iz) \
	X(1, ALL, c8, c8, ENTER, NONE, A_D64, NONE, SPBP, RR, Iw, Iub) \
	X(1, ALL, c9, c9, LEAVE, NONE, A_D64, NONE, SPBP, N, 0) \
	X(1, ALL, ca, ca, RETF, NONE, 0, NONE, SP, R, Iw) \
	X(1, ALL, cb, cb, RETF, NONE, 0, NONE, SP, N, 0) \
	X(1, ALL, cc, cc, INT3, NONE, 0, ALL, SP, N, 0) \
	X(1, ALL, cd, cd, INT, NONE, 0, ALL, SP, R, Iub) \
	X(1, ALL, ce, ce, INTO, NONE, A_I64, ALL, SP, N, 0) \
	X(1, ALL, cf, cf, IRET, NONE, 0, ALL, SP, N, 0) \
	L(1, ALL, d0, d0, GROUP, g2, A_BG, Eb, One) \
	L(1, ALL, d1, d1, GROUP, g2, A_GEN, Ev, One) \
	L(1, ALL, d2, d2, GROUP, g2, A_BG, Eb, CL) \
	L(1, ALL, d3, d3, GROUP, g2, A_GEN, Ev, CL) \
	X(1, ALL, d4, d4, AAM, NONE, A_I64 | A_BG, AAM, AX, R, Iub) \
	X(1, ALL, d5, d5, AAD, NONE, A_I64 | A_BG, AAM, AX, R, Iub) \
	X(1, ALL, d6, d6, SALC, NONE, A_I64 | A_BYTE, RCF, AX, N, 0) \
	X(1, ALL, d7, d7, XLAT, NONE, A_BYTE, NONE, RBX_AX, N, 0) \
	X(1, ALL, e0, e0, LOOPNE, NONE, A_F64, RZF, CX, R, Jb) \
	X(1, ALL, e1, e1, LOOPE, NONE, A_F64, RZF, CX, R, Jb) \
	X(1, ALL, e2, e2, LOOP, NONE, A_F64, NONE, CX, R, Jb) \
	X(1, ALL, e3, e3, JRCXZ, NONE, A_F64, NONE, RCX, R, Jb) \
	X(1, ALL, e4, e4, IN, NONE, A_BYTE, NONE, NONE, WR, AL, Iub) \
	X(1, ALL, e5, e5, IN, NONE, A_MAX4, NONE, NONE, WR, rAX, Iub) \
	X(1, ALL, e6, e6, OUT, NONE, A_BYTE, NONE, NONE, RR, Iub, AL) \
	X(1, ALL, e7, e7, OUT, NONE, A_MAX4, NONE, NONE, RR, Iub, rAX) \
	X(1, ALL, e8, e8, CALL, NONE, A_F64, NONE, SP, R, Jz) \
	X(1, ALL, e9, e9, JMP, NONE, A_F64, NONE, NONE, R, Jz) \
	X(1, ALL, ea, ea, JMP_FAR, NONE, A_I64, NONE, NONE, R, Ap) \
	X(1, ALL, eb, eb, JMP, NONE, A_F64, NONE, NONE, R, Jb) \
	X(1, ALL, ec, ec, IN, NONE, A_BYTE, NONE, NONE, WR, AL, DX) \
	X(1, ALL, ed, ed, IN, NONE, A_MAX4, NONE, NONE, WR, rAX, DX) \
	X(1, ALL, ee, ee, OUT, NONE, A_BYTE, NONE, NONE, RR, DX, AL) \
	X(1, ALL, ef, ef, OUT, NONE, A_MAX4, NONE, NONE, RR, DX, rAX) \
	X(1, ALL, f1, f1, INT1, NONE, 0, ALL, SP, N, 0) \
	X(1, ALL, f4, f4, HLT, NONE, 0, NONE, NONE, N, 0) \
	X(1, ALL, f5, f5, CMC, NONE, A_GEN, CMC, NONE, N, 0) \
	L(1, ALL, f6, f6, GROUP, g3b, A_BYTE, Eb) \
	L(1, ALL, f7, f7, GROUP, g3v, 0, Ev) \
	X(1, ALL, f8, f8, CLC, NONE, A_GEN, CF, NONE, N, 0) \
	X(1, ALL, f9, f9, STC, NONE, A_GEN, CF, NONE, N, 0) \
	X(1, ALL, fa, fa, CLI, NONE, 0, IF, NONE, N, 0) \
	X(1, ALL, fb, fb, STI, NONE, 0, IF, NONE, N, 0) \
	X(1, ALL, fc, fc, CLD, NONE, 0, DF, NONE, N, 0) \
	X(1, ALL, fd, fd, STD, NONE, 0, DF, NONE, N, 0) \
	L(1, ALL, fe, fe, GROUP, g4, A_BYTE, Eb) \
	L(1, ALL, ff, ff, GROUP, g5, 0, Ev)

#define ROWS_0F(X, L) \
	L(0F, ALL, 00, 00, GROUP, g6, A_M, 0) \
	L(0F, NP, 01, 01, GROUP, g7, A_M, 0) \
	L(0F, 66, 01, 01, GROUP, g7_66, A_M, 0) \
	L(0F, F3, 01, 01, GROUP, g7_f3, A_M, 0) \
	L(0F, F2, 01, 01, GROUP, g7_f2, A_M, 0) \
	X(0F, ALL, 02, 02, LAR, NONE, 0, WZF, NONE, XR, Gv, Ewv) \
	X(0F, ALL, 03, 03, LSL, NONE, 0, WZF, NONE, XR, Gv, Ewv) \
	X(0F, ALL, 05, 05, SYSCALL, SYSCALL, 0, ALL, SYSCALL, N, 0) \
	X(0F, ALL, 06, 06, CLTS, NONE, 0, NONE, NONE, N, 0) \
	X(0F, ALL, 07, 07, SYSRET, SYSCALL, 0, ALL, SYSRET, N, 0) \
	X(0F, ALL, 08, 08, INVD, NONE, 0, NONE, NONE, N, 0) \
	X(0F, ALL, 09, 09, WBINVD, NONE, 0, NONE, NONE, N, 0) \
	X(0F, ALL, 0b, 0b, UD, NONE, 0, NONE, NONE, N, 0) \
	L(0F, ALL, 0d, 0d, GROUP, g0d, 0, E0) \
	L(0F, ALL, 18, 18, GROUP, g16, 0, E0) \
	X(0F, ALL, 19, 1b, NOP, NONE, A_GEN, NONE, NONE, N, E0) \
	L(0F, NP, 1c, 1c, GROUP, g1c, 0, E0) \
	X(0F, N0, 1c, 1c, NOP, NONE, A_GEN, NONE, NONE, N, E0) \
	X(0F, ALL, 1d, 1d, NOP, NONE, A_GEN, NONE, NONE, N, E0) \
	X(0F, NNF3, 1e, 1e, NOP, NONE, A_GEN, NONE, NONE, N, E0) \
	L(0F, F3, 1e, 1e, GROUP, g1e, 0, E0) \
	X(0F, ALL, 1f, 1f, NOP, NONE, A_GEN, NONE, NONE, N, E0) \
	X(0F, ALL, 20, 20, MOV_FROM_CR, NONE, A_F64 | A_MOD3, NONE, NONE, WR, Ry, Cy) \
	X(0F, ALL, 21, 21, MOV_FROM_DR, NONE, A_F64 | A_MOD3, NONE, NONE, WR, Ry, Dy) \
	X(0F, ALL, 22, 22, MOV_TO_CR, NONE, A_F64 | A_MOD3, NONE, NONE, WR, Cy, Ry) \
	X(0F, ALL, 23, 23, MOV_TO_DR, NONE, A_F64 | A_MOD3, NONE, NONE, WR, Dy, Ry) \
	X(0F, ALL, 30, 30, WRMSR, NONE, 0, NONE, WRMSR, N, 0) \
	X(0F, ALL, 31, 31, RDTSC, NONE, 0, NONE, WAXDX, N, 0) \
	X(0F, ALL, 32, 32, RDMSR, NONE, 0, NONE, RDMSR, N, 0) \
	X(0F, ALL, 33, 33, RDPMC, NONE, 0, NONE, RDMSR, N, 0) \
	X(0F, ALL, 34, 34, SYSENTER, SEP, 0, ALL, SP, N, 0) \
	X(0F, ALL, 35, 35, SYSEXIT, SEP, 0, NONE, SYSEXIT, N, 0) \
	X(0F, NP, 37, 37, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	X(0F, ALL, 40, 4f, CMOV, NONE, A_GEN, CC, NONE, XR, Gv, Ev) \
	X(0F, NP, 78, 78, UNSUPPORTED, NONE, 0, NONE, NONE, WR, Ey, Gy) \
	X(0F, NP, 79, 79, UNSUPPORTED, NONE, 0, NONE, NONE, RR, Gy, Ey) \
	X(0F, ALL, 80, 8f, JCC, NONE, A_F64, CC, NONE, R, Jz) \
	X(0F, ALL, 90, 9f, SETCC, NONE, A_BG, CC, NONE, W, Eb) \
	X(0F, ALL, a0, a0, PUSH_SREG, NONE, A_D64, NONE, SP, N, 0) \
	X(0F, ALL, a1, a1, POP_SREG, NONE, A_D64, NONE, SP, N, 0) \
	X(0F, ALL, a2, a2, CPUID, NONE, 0, NONE, CPUID, N, 0) \
	X(0F, ALL, a3, a3, BT, NONE, A_GEN | A_BIT, BT, NONE, RR, Ev, Gv) \
	X(0F, ALL, a4, a4, SHLD, NONE, A_GEN, SHD, NONE, XRR, Ev, Gv, Iub) \
	X(0F, ALL, a5, a5, SHLD, NONE, A_GEN, SHD, NONE, XRR, Ev, Gv, CL) \
	X(0F, ALL, a8, a8, PUSH_SREG, NONE, A_D64, NONE, SP, N, 0) \
	X(0F, ALL, a9, a9, POP_SREG, NONE, A_D64, NONE, SP, N, 0) \
	X(0F, ALL, aa, aa, RSM, NONE, 0, ALL, NONE, N, 0) \
	X(0F, ALL, ab, ab, BTS, NONE, A_LKG | A_BIT, BT, NONE, XR, Ev, Gv) \
	X(0F, ALL, ac, ac, SHRD, NONE, A_GEN, SHD, NONE, XRR, Ev, Gv, Iub) \
	X(0F, ALL, ad, ad, SHRD, NONE, A_GEN, SHD, NONE, XRR, Ev, Gv, CL) \
	L(0F, NP, ae, ae, GROUP, g15, A_M, 0) \
	L(0F, 66, ae, ae, GROUP, g15_66, A_M, 0) \
	L(0F, F3, ae, ae, GROUP, g15_f3, A_M, 0) \
	L(0F, F2, ae, ae, GROUP, g15_f2, A_M, 0) \
	X(0F, ALL, af, af, IMUL, NONE, A_GEN, MUL, NONE, XR, Gv, Ev) \
	X(0F, ALL, b0, b0, CMPXCHG, NONE, A_LKG | A_BYTE, ALU, AX, XR, Eb, Gb) \
	X(0F, ALL, b1, b1, CMPXCHG, NONE, A_LKG, ALU, AX, XR, Ev, Gv) \
	X(0F, ALL, b2, b2, LOAD_FAR, NONE, 0, NONE, NONE, WR, Gv, Mp) \
	X(0F, ALL, b3, b3, BTR, NONE, A_LKG | A_BIT, BT, NONE, XR, Ev, Gv) \
	X(0F, ALL, b4, b4, LOAD_FAR, NONE, 0, NONE, NONE, WR, Gv, Mp) \
	X(0F, ALL, b5, b5, LOAD_FAR, NONE, 0, NONE, NONE, WR, Gv, Mp) \
	X(0F, ALL, b6, b6, MOVZX, NONE, A_GEN, NONE, NONE, WR, Gv, Eb) \
	X(0F, ALL, b7, b7, MOVZX, NONE, A_GEN, NONE, NONE, WR, Gv, Ew) \
	X(0F, F3, b8, b8, POPCNT, POPCNT, A_GEN, ALU, NONE, WR, Gv, Ev) \
	X(0F, ALL, b9, b9, UD, NONE, 0, NONE, NONE, NN, Gv, Ev) \
	L(0F, ALL, ba, ba, GROUP, g8, A_GEN, Ev, Iub) \
	X(0F, ALL, bb, bb, BTC, NONE, A_LKG | A_BIT, BT, NONE, XR, Ev, Gv) \
	X(0F, NNF3, bc, bc, BSF, NONE, A_GEN, BSF, NONE, XR, Gv, Ev) \
	X(0F, F3, bc, bc, TZCNT, BMI1, A_GEN, LZCNT, NONE, WR, Gv, Ev) \
	X(0F, NNF3, bd, bd, BSR, NONE, A_GEN, BSF, NONE, XR, Gv, Ev) \
	X(0F, F3, bd, bd, LZCNT, LZCNT, A_GEN, LZCNT, NONE, WR, Gv, Ev) \
	X(0F, ALL, be, be, MOVSX, NONE, A_GEN, NONE, NONE, WR, Gv, Eb) \
	X(0F, ALL, bf, bf, MOVSX, NONE, A_GEN, NONE, NONE, WR, Gv, Ew) \
	X(0F, ALL, c0, c0, XADD, NONE, A_LKG | A_BYTE, ALU, NONE, XX, Eb, Gb) \
	X(0F, ALL, c1, c1, XADD, NONE, A_LKG, ALU, NONE, XX, Ev, Gv) \
	X(0F, NP, c3, c3, MOVNTI, NONE, A_GEN, NONE, NONE, WR, My, Gy) \
	L(0F, NP, c7, c7, GROUP, g9, A_M, 0) \
	L(0F, O6, c7, c7, GROUP, g9_66, A_M, 0) \
	L(0F, F3, c7, c7, GROUP, g9_f3, A_M, 0) \
	L(0F, F2, c7, c7, GROUP, g9_f2, A_M, 0) \
	X(0F, ALL, c8, cf, BSWAP, NONE, A_GEN, NONE, NONE, XN, Zv) \
	X(0F, ALL, ff, ff, UD, NONE, 0, NONE, NONE, NN, Gv, Ev)

#define ROWS_0F38(X, L) \
	X(0F38, 66, 80, 80, UNSUPPORTED, NONE, 0, NONE, NONE, RR, Gy, Mdq) \
	X(0F38, 66, 81, 81, UNSUPPORTED, NONE, 0, NONE, NONE, RR, Gy, Mdq) \
	X(0F38, 66, 82, 82, INVPCID, INVPCID, A_F64, NONE, NONE, RR, Gy, Mdq) \
	X(0F38, N6, f0, f0, MOVBE, MOVBE, A_GEN, NONE, NONE, WR, Gv, Mv) \
	X(0F38, N6, f1, f1, MOVBE, MOVBE, A_GEN, NONE, NONE, WR, Mv, Gv) \
	X(0F38, F2, f0, f0, CRC32, SSE42, A_GEN, NONE, NONE, XR, Gy, Eb) \
	X(0F38, F2, f1, f1, CRC32, SSE42, A_GEN, NONE, NONE, XR, Gy, Ev) \
	X(0F38, 66, f5, f5, UNSUPPORTED, NONE, 0, NONE, NONE, WR, My, Gy) \
	X(0F38, NP, f6, f6, UNSUPPORTED, NONE, 0, NONE, NONE, WR, My, Gy) \
	X(0F38, 66, f6, f6, ADCX, ADX, A_GEN, ADCX, NONE, XR, Gy, Ey) \
	X(0F38, F3, f6, f6, ADOX, ADX, A_GEN, ADOX, NONE, XR, Gy, Ey) \
	X(0F38, 66, f8, f8, UNSUPPORTED, MOVDIR64B, 0, NONE, NONE, NN, Gy, M0) \
	X(0F38, F3, f8, f8, UNSUPPORTED, NONE, 0, NONE, NONE, NN, Gy, M0) \
	X(0F38, F2, f8, f8, UNSUPPORTED, NONE, 0, NONE, NONE, NN, Gy, M0) \
	X(0F38, NP, f9, f9, MOVDIRI, MOVDIRI, A_GEN, NONE, NONE, WR, My, Gy) \
	L(0F38, F3, d8, d8, GROUP, gkl, A_M, 0) \
	X(0F38, F3, dc, df, UNSUPPORTED, NONE, 0, NONE, NONE, N, E0) \
	X(0F38, F3, fa, fb, UNSUPPORTED, NONE, 0, NONE, NONE, N, R0) \
	X(0F3A, F3, f0, f0, UNSUPPORTED, NONE, 0, NONE, NONE, NN, R0, Iub)

#define ROWS_GROUPS(G, GL) \
	G(g63, M, 0, ARPL, NONE, 0, WZF, NONE, XR, Ew, Gw) \
	G(g63, M, 1, MOVSX, NONE, A_GEN, NONE, NONE, WR, Gv, Ed) \
	G(g1, A, 0, ADD, NONE, A_LOCK, ALU, NONE, XR, 0) \
	G(g1, A, 1, OR, NONE, A_LOCK, ALU, NONE, XR, 0) \
	G(g1, A, 2, ADC, NONE, A_LOCK, ADC, NONE, XR, 0) \
	G(g1, A, 3, SBB, NONE, A_LOCK, ADC, NONE, XR, 0) \
	G(g1, A, 4, AND, NONE, A_LOCK, ALU, NONE, XR, 0) \
	G(g1, A, 5, SUB, NONE, A_LOCK, ALU, NONE, XR, 0) \
	G(g1, A, 6, XOR, NONE, A_LOCK, ALU, NONE, XR, 0) \
	G(g1, A, 7, CMP, NONE, 0, ALU, NONE, RR, 0) \
	G(g1a, A, 0, POP, NONE, A_D64, NONE, SP, W, Ev) \
	G(g2, A, 0, ROL, NONE, 0, ROT, NONE, XR, 0) \
	G(g2, A, 1, ROR, NONE, 0, ROT, NONE, XR, 0) \
	G(g2, A, 2, RCL, NONE, 0, RC, NONE, XR, 0) \
	G(g2, A, 3, RCR, NONE, 0, RC, NONE, XR, 0) \
	G(g2, A, 4, SHL, NONE, 0, SHIFT, NONE, XR, 0) \
	G(g2, A, 5, SHR, NONE, 0, SHIFT, NONE, XR, 0) \
	G(g2, A, 6, SHL, NONE, 0, SHIFT, NONE, XR, 0) \
	G(g2, A, 7, SAR, NONE, 0, SHIFT, NONE, XR, 0) \
	G(g3b, A, 0, TEST, NONE, A_GEN, ALU, NONE, RR, Eb, Ib) \
	G(g3b, A, 1, TEST, NONE, A_GEN, ALU, NONE, RR, Eb, Ib) \
	G(g3b, A, 2, NOT, NONE, A_LKG, NONE, NONE, XN, 0) \
	G(g3b, A, 3, NEG, NONE, A_LKG, ALU, NONE, XN, 0) \
	G(g3b, A, 4, MUL, NONE, A_GEN, MUL, AX, R, 0) \
	G(g3b, A, 5, IMUL1, NONE, A_GEN, MUL, AX, R, 0) \
	G(g3b, A, 6, DIV, NONE, A_GEN, DIV, AX, R, 0) \
	G(g3b, A, 7, IDIV, NONE, A_GEN, DIV, AX, R, 0) \
	G(g3v, A, 0, TEST, NONE, A_GEN, ALU, NONE, RR, Ev, Iz) \
	G(g3v, A, 1, TEST, NONE, A_GEN, ALU, NONE, RR, Ev, Iz) \
	G(g3v, A, 2, NOT, NONE, A_LKG, NONE, NONE, XN, 0) \
	G(g3v, A, 3, NEG, NONE, A_LKG, ALU, NONE, XN, 0) \
	G(g3v, A, 4, MUL, NONE, A_GEN, MUL, AX_WDX, R, 0) \
	G(g3v, A, 5, IMUL1, NONE, A_GEN, MUL, AX_WDX, R, 0) \
	G(g3v, A, 6, DIV, NONE, A_GEN, DIV, AXDX, R, 0) \
	G(g3v, A, 7, IDIV, NONE, A_GEN, DIV, AXDX, R, 0) \
	G(g4, A, 0, INC, NONE, A_LKG, INC, NONE, XN, 0) \
	G(g4, A, 1, DEC, NONE, A_LKG, INC, NONE, XN, 0) \
	G(g5, A, 0, INC, NONE, A_LKG, INC, NONE, XN, 0) \
	G(g5, A, 1, DEC, NONE, A_LKG, INC, NONE, XN, 0) \
	G(g5, A, 2, CALL_IND, NONE, A_F64, NONE, SP, R, 0) \
	G(g5, M, 3, CALL_FAR_IND, NONE, 0, NONE, SP, R, Mp) \
	G(g5, A, 4, JMP_IND, NONE, A_F64, NONE, NONE, R, 0) \
	G(g5, M, 5, JMP_FAR_IND, NONE, 0, NONE, NONE, R, Mp) \
	G(g5, A, 6, PUSH, NONE, A_D64, NONE, SP, R, 0) \
	G(g6, A, 0, SLDT, NONE, 0, NONE, NONE, W, Ewv) \
	G(g6, A, 1, STR, NONE, 0, NONE, NONE, W, Ewv) \
	G(g6, A, 2, LLDT, NONE, 0, NONE, NONE, R, Ew) \
	G(g6, A, 3, LTR, NONE, 0, NONE, NONE, R, Ew) \
	G(g6, A, 4, VERR, NONE, 0, WZF, NONE, R, Ew) \
	G(g6, A, 5, VERW, NONE, 0, WZF, NONE, R, Ew) \
	ROWS_G7(G, g7) \
	ROWS_G7(G, g7_66) \
	ROWS_G7(G, g7_f3) \
	ROWS_G7(G, g7_f2) \
	GL(g7, R, 0, BY_RM, g7_vm) \
	GL(g7, R, 1, BY_RM, g7_mon) \
	GL(g7, R, 2, BY_RM, g7_xcr) \
	GL(g7, R, 3, BY_RM, g7_svm) \
	GL(g7, R, 5, BY_RM, g7_pkru) \
	GL(g7, R, 7, BY_RM, g7_swapgs) \
	GL(g7_66, R, 7, BY_RM, g7_swapgs_p) \
	GL(g7_f3, R, 7, BY_RM, g7_swapgs_p) \
	GL(g7_f2, R, 7, BY_RM, g7_swapgs_p) \
	G(g7_swapgs_p, M, 0, SWAPGS, NONE, A_O64, NONE, NONE, N, 0) \
	GL(g7_66, R, 1, BY_RM, g7_tdx) \
	G(g7_tdx, M, 4, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_tdx, M, 5, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_tdx, M, 6, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_tdx, M, 7, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	GL(g7_f3, R, 5, BY_RM, g7_uintr) \
	GL(g7_f2, R, 5, BY_RM, g7_tsxld) \
	G(g7_f3, M, 5, UNSUPPORTED, NONE, 0, NONE, NONE, XN, Mq) \
	G(g7_vm, M, 0, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_vm, M, 1, VMCALL, NONE, 0, NONE, VMCALL, N, 0) \
	G(g7_vm, M, 2, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_vm, M, 3, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_vm, M, 4, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_vm, M, 5, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_mon, M, 0, MONITOR, NONE, 0, NONE, RAXCXDX, N, 0) \
	G(g7_mon, M, 1, MWAIT, NONE, 0, NONE, RAXCX, N, 0) \
	G(g7_mon, M, 2, CLAC, SMAP, 0, AC, NONE, N, 0) \
	G(g7_mon, M, 3, STAC, SMAP, 0, AC, NONE, N, 0) \
	G(g7_mon, M, 7, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_xcr, M, 0, XGETBV, XSAVE, 0, NONE, RDMSR, N, 0) \
	G(g7_xcr, M, 1, XSETBV, XSAVE, 0, NONE, WRMSR, N, 0) \
	G(g7_xcr, M, 4, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_xcr, M, 5, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_xcr, M, 6, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_xcr, M, 7, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_svm, M, 0, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_svm, M, 1, VMCALL, NONE, 0, NONE, VMCALL, N, 0) \
	G(g7_svm, M, 2, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_svm, M, 3, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_svm, M, 4, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_svm, M, 5, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_svm, M, 6, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_svm, M, 7, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_pkru, M, 0, SERIALIZE, SERIALIZE, A_GEN, NONE, NONE, N, 0) \
	G(g7_pkru, M, 6, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_pkru, M, 7, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_swapgs, M, 0, SWAPGS, NONE, A_O64, NONE, NONE, N, 0) \
	G(g7_swapgs, M, 1, RDTSCP, RDTSCP, 0, NONE, WAXDXCX, N, 0) \
	G(g7_uintr, M, 0, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_uintr, M, 2, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_uintr, M, 4, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_uintr, M, 5, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_uintr, M, 6, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_uintr, M, 7, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_tsxld, M, 0, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g7_tsxld, M, 1, UNSUPPORTED, NONE, 0, NONE, NONE, N, 0) \
	G(g8, A, 4, BT, NONE, 0, BT, NONE, RR, 0) \
	G(g8, A, 5, BTS, NONE, A_LOCK, BT, NONE, XR, 0) \
	G(g8, A, 6, BTR, NONE, A_LOCK, BT, NONE, XR, 0) \
	G(g8, A, 7, BTC, NONE, A_LOCK, BT, NONE, XR, 0) \
	ROWS_G9(G, g9) \
	ROWS_G9(G, g9_66) \
	ROWS_G9(G, g9_f3) \
	ROWS_G9(G, g9_f2) \
	G(g9, M, 3, XRSTORS, XSAVES, 0, NONE, RAXDX, R, M0) \
	G(g9, M, 4, XSAVEC, XSAVEC, 0, NONE, RAXDX, W, M0) \
	G(g9, M, 5, XSAVES, XSAVES, 0, NONE, RAXDX, W, M0) \
	G(g9, M, 6, UNSUPPORTED, NONE, 0, NONE, NONE, R, Mq) \
	G(g9, M, 7, UNSUPPORTED, NONE, 0, NONE, NONE, W, Mq) \
	G(g9_66, M, 6, UNSUPPORTED, NONE, 0, NONE, NONE, R, Mq) \
	G(g9_f3, M, 6, UNSUPPORTED, NONE, 0, NONE, NONE, R, Mq) \
	G(g9, R, 6, RDRAND, RDRAND, A_GEN, ALU, NONE, W, Rv) \
	G(g9, R, 7, RDSEED, RDSEED, A_GEN, ALU, NONE, W, Rv) \
	G(g9_66, R, 6, RDRAND, RDRAND, A_GEN, ALU, NONE, W, Rv) \
	G(g9_66, R, 7, RDSEED, RDSEED, A_GEN, ALU, NONE, W, Rv) \
	G(g9_f3, R, 6, UNSUPPORTED, NONE, A_O64, NONE, NONE, R, Rq) \
	G(g9_f3, R, 7, RDPID, RDPID, A_F64, NONE, NONE, W, Ry) \
	G(g11b, A, 0, MOV, NONE, A_GEN, NONE, NONE, WR, 0) \
	G(g11v, A, 0, MOV, NONE, A_GEN, NONE, NONE, WR, 0) \
	GL(g11b, R, 7, BY_RM, g11b_f8) \
	GL(g11v, R, 7, BY_RM, g11v_f8) \
	G(g11b_f8, M, 0, UNSUPPORTED, NONE, 0, NONE, NONE, R, Iub) \
	G(g11v_f8, M, 0, UNSUPPORTED, NONE, A_F64, NONE, NONE, R, Jz) \
	ROWS_G15(G, GL) \
	G(g0d, M, 0, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	G(g0d, M, 1, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	G(g0d, M, 2, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	G(g0d, M, 3, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	G(g0d, M, 4, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	G(g0d, M, 5, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	G(g0d, M, 6, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	G(g0d, M, 7, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	ROWS_NOPR(G, g0d) \
	G(g16, M, 0, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	G(g16, M, 1, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	G(g16, M, 2, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	G(g16, M, 3, PREFETCH, NONE, 0, NONE, NONE, N, 0) \
	G(g16, R, 0, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g16, R, 1, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g16, R, 2, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g16, R, 3, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g16, A, 4, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g16, A, 5, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g16, A, 6, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g16, A, 7, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g1c, M, 0, CLFLUSH, NONE, 0, NONE, NONE, N, Mb) \
	G(g1c, R, 0, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	ROWS_NOP17(G, g1c) \
	G(g1e, A, 0, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g1e, M, 7, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	ROWS_NOP16(G, g1e) \
	GL(g1e, R, 7, BY_RM, g1e_f8) \
	G(g1e_f8, M, 0, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	ROWS_NOP1(G, g1e_f8) \
	G(g1e_f8, M, 2, ENDBR, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g1e_f8, M, 3, ENDBR, NONE, A_GEN, NONE, NONE, N, 0) \
	ROWS_NOP47(G, g1e_f8) \
	G(gkl, A, 0, UNSUPPORTED, NONE, 0, NONE, NONE, N, M0) \
	G(gkl, A, 1, UNSUPPORTED, NONE, 0, NONE, NONE, N, M0) \
	G(gkl, A, 2, UNSUPPORTED, NONE, 0, NONE, NONE, N, M0) \
	G(gkl, A, 3, UNSUPPORTED, NONE, 0, NONE, NONE, N, M0)

#define ROWS_NOPR(G, g) \
	G(g, R, 0, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, R, 1, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, R, 2, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, R, 3, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, R, 4, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, R, 5, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, R, 6, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, R, 7, NOP, NONE, A_GEN, NONE, NONE, N, 0)
#define ROWS_NOP1(G, g) \
	G(g, A, 1, NOP, NONE, A_GEN, NONE, NONE, N, 0)
#define ROWS_NOP47(G, g) \
	G(g, A, 4, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, A, 5, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, A, 6, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, A, 7, NOP, NONE, A_GEN, NONE, NONE, N, 0)
#define ROWS_NOP16(G, g) \
	ROWS_NOP1(G, g) \
	G(g, A, 2, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, A, 3, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, A, 4, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, A, 5, NOP, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g, A, 6, NOP, NONE, A_GEN, NONE, NONE, N, 0)
#define ROWS_NOP17(G, g) \
	ROWS_NOP16(G, g) \
	G(g, A, 7, NOP, NONE, A_GEN, NONE, NONE, N, 0)

/* CLDEMOTE and PREFETCHW belong to no feature here: processors without them take them for NOPs. */
/* 0F 01 whose memory forms, SMSW and LMSW take no notice of prefixes. */
#define ROWS_G7(G, g) \
	G(g, M, 0, SGDT, NONE, A_F64, NONE, NONE, W, Ms) \
	G(g, M, 1, SIDT, NONE, A_F64, NONE, NONE, W, Ms) \
	G(g, M, 2, LGDT, NONE, A_F64, NONE, NONE, R, Ms) \
	G(g, M, 3, LIDT, NONE, A_F64, NONE, NONE, R, Ms) \
	G(g, A, 4, SMSW, NONE, 0, NONE, NONE, W, Ewv) \
	G(g, A, 6, LMSW, NONE, 0, NONE, NONE, R, Ew) \
	G(g, M, 7, INVLPG, NONE, 0, NONE, NONE, N, M0)
#define ROWS_G9(G, g) \
	G(g, M, 1, CMPXCHG8B, NONE, A_LKG, WZF, CX8B, XN, Mcx)

#define ROWS_G15(G, GL) \
	G(g15, M, 0, FXSAVE, NONE, 0, NONE, NONE, W, Mf512) \
	G(g15, M, 1, FXRSTOR, NONE, 0, NONE, NONE, R, Mf512) \
	G(g15, M, 2, LDMXCSR, NONE, 0, NONE, NONE, R, Md) \
	G(g15, M, 3, STMXCSR, NONE, 0, NONE, NONE, W, Md) \
	G(g15, M, 4, XSAVE, XSAVE, 0, NONE, RAXDX, W, M0) \
	G(g15, M, 5, XRSTOR, XSAVE, 0, NONE, RAXDX, R, M0) \
	G(g15, M, 6, XSAVEOPT, XSAVEOPT, 0, NONE, RAXDX, W, M0) \
	G(g15, M, 7, CLFLUSH, NONE, 0, NONE, NONE, R, Mb) \
	G(g15, R, 5, LFENCE, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g15, R, 6, MFENCE, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g15, R, 7, SFENCE, NONE, A_GEN, NONE, NONE, N, 0) \
	G(g15_66, M, 6, CLFLUSH, CLWB, 0, NONE, NONE, R, Mb) \
	G(g15_66, M, 7, CLFLUSH, CLFLUSHOPT, 0, NONE, NONE, R, Mb) \
	G(g15_66, R, 6, UNSUPPORTED, NONE, 0, NONE, NONE, R, Rd) \
	G(g15_f3, R, 0, RDFSBASE, FSGSBASE, A_O64, NONE, NONE, W, Ry) \
	G(g15_f3, R, 1, RDGSBASE, FSGSBASE, A_O64, NONE, NONE, W, Ry) \
	G(g15_f3, R, 2, WRFSBASE, FSGSBASE, A_O64, NONE, NONE, R, Ry) \
	G(g15_f3, R, 3, WRGSBASE, FSGSBASE, A_O64, NONE, NONE, R, Ry) \
	G(g15_f3, A, 4, UNSUPPORTED, NONE, 0, NONE, NONE, R, Ey) \
	G(g15_f3, R, 5, UNSUPPORTED, NONE, 0, NONE, NONE, R, Ry) \
	G(g15_f3, R, 6, UNSUPPORTED, NONE, 0, NONE, NONE, R, Ry) \
	G(g15_f3, M, 6, UNSUPPORTED, NONE, 0, NONE, NONE, XN, Mq) \
	G(g15_f2, R, 6, UNSUPPORTED, NONE, 0, NONE, NONE, R, Rd)
/* clang-format on */

#endif

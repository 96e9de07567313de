/*
 * decode_rows_vex.h: instructions with a VEX prefix. Private to decode_tables_vex.c.
 *
 * X(map, prefix, W: 0 1 or I for ignored, opcode, operation, features, attributes, flags, implicit registers, access, operands)
 * L(map, prefix, W, opcode, kind, group, operands), G(group, number, operation, features, attributes, flags, access, operands)
 */
#ifndef HUSK_TCG_DECODE_ROWS_VEX_H
#define HUSK_TCG_DECODE_ROWS_VEX_H

/* One row a line, in columns. */
/* clang-format off */
#define V_I(X, o, op, feat, pp, fl, impl, acc, ...) X(0F38, pp, I, o, op, feat, NONE, A_L0 | A_GEN, fl, impl, acc, __VA_ARGS__)
#define ROWS_BMI(X, L, G) \
	V_I(X, f2, ANDN, BMI1, NP, ANDN, NONE, WRR, Gy, By, Ey) \
	L(0F38, NP, I, f3, GROUP, g17, By, Ey) \
	G(g17, 1, BLSR, BMI1, NONE, A_L0 | A_GEN, ANDN, WR, 0) \
	G(g17, 2, BLSMSK, BMI1, NONE, A_L0 | A_GEN, ANDN, WR, 0) \
	G(g17, 3, BLSI, BMI1, NONE, A_L0 | A_GEN, ANDN, WR, 0) \
	V_I(X, f5, BZHI, BMI2, NP, ANDN, NONE, WRR, Gy, Ey, By) \
	V_I(X, f5, PEXT, BMI2, F3, NONE, NONE, WRR, Gy, By, Ey) \
	V_I(X, f5, PDEP, BMI2, F2, NONE, NONE, WRR, Gy, By, Ey) \
	V_I(X, f6, MULX, BMI2, F2, NONE, RDX, WWR, Gy, By, Ey) \
	V_I(X, f7, BEXTR, BMI1, NP, BEXTR, NONE, WRR, Gy, Ey, By) \
	V_I(X, f7, SHLX, BMI2, 66, NONE, NONE, WRR, Gy, Ey, By) \
	V_I(X, f7, SARX, BMI2, F3, NONE, NONE, WRR, Gy, Ey, By) \
	V_I(X, f7, SHRX, BMI2, F2, NONE, NONE, WRR, Gy, Ey, By) \
	X(0F3A, F2, I, f0, RORX, BMI2, NONE, A_L0 | A_GEN, NONE, NONE, WRR, Gy, Ey, Iub)

#define V_V(X, map, pp, w, o, feat, attr, acc, ...) X(map, pp, w, o, VEC, feat, NONE, A_GEN | (attr), NONE, NONE, acc, __VA_ARGS__)
/* PS, PD; SS, SD with two sources. */
#define V_PP(X, o) V_V(X, 0F, NP, I, o, AVX, 0, WRR, Vx, Hx, Wx) V_V(X, 0F, 66, I, o, AVX, 0, WRR, Vx, Hx, Wx)
#define V_P1(X, o) V_V(X, 0F, NP, I, o, AVX, 0, WR, Vx, Wx) V_V(X, 0F, 66, I, o, AVX, 0, WR, Vx, Wx)
#define V_ST(X, o) V_V(X, 0F, NP, I, o, AVX, 0, WR, Wx, Vx) V_V(X, 0F, 66, I, o, AVX, 0, WR, Wx, Vx)
#define V_SS(X, o) V_V(X, 0F, F3, I, o, AVX, A_LIG, WRR, Vd, Hd, Wd) V_V(X, 0F, F2, I, o, AVX, A_LIG, WRR, Vq, Hq, Wq)
/* Integers: AVX2 from 256 bits on. */
#define V_N(X, map, o) V_V(X, map, 66, I, o, AVX, A_WIDE, WRR, Vx, Hx, Wx)
#define V_N8(X, map, a, b, c, d, e, f, g, h) \
	V_N(X, map, a) V_N(X, map, b) V_N(X, map, c) V_N(X, map, d) V_N(X, map, e) V_N(X, map, f) V_N(X, map, g) V_N(X, map, h)
#define V_SHX(X, o) V_V(X, 0F, 66, I, o, AVX, A_WIDE, WRR, Vx, Hx, Wdq)

#define ROWS_VEX_0F(X, L, G) \
	V_P1(X, 10) \
	L(0F, F3, I, 10, BY_MOD, movss_load, 0) \
	G(movss_load, 0, VEC, AVX, NONE, A_GEN | A_LIG, NONE, WR, Vd, Md) \
	G(movss_load, 1, VEC, AVX, NONE, A_GEN | A_LIG, NONE, WRR, Vd, Hd, Ud) \
	L(0F, F2, I, 10, BY_MOD, movsd_load, 0) \
	G(movsd_load, 0, VEC, AVX, NONE, A_GEN | A_LIG, NONE, WR, Vq, Mq) \
	G(movsd_load, 1, VEC, AVX, NONE, A_GEN | A_LIG, NONE, WRR, Vq, Hq, Uq) \
	V_ST(X, 11) \
	L(0F, F3, I, 11, BY_MOD, movss_store, 0) \
	G(movss_store, 0, VEC, AVX, NONE, A_GEN | A_LIG, NONE, WR, Md, Vd) \
	G(movss_store, 1, VEC, AVX, NONE, A_GEN | A_LIG, NONE, WRR, Ud, Hd, Vd) \
	L(0F, F2, I, 11, BY_MOD, movsd_store, 0) \
	G(movsd_store, 0, VEC, AVX, NONE, A_GEN | A_LIG, NONE, WR, Mq, Vq) \
	G(movsd_store, 1, VEC, AVX, NONE, A_GEN | A_LIG, NONE, WRR, Uq, Hq, Vq) \
	V_V(X, 0F, NP, I, 12, AVX, A_L0, WRR, Vdq, Hdq, Wq) \
	V_V(X, 0F, 66, I, 12, AVX, A_L0, WRR, Vdq, Hdq, Mq) \
	V_V(X, 0F, F3, I, 12, AVX, 0, WR, Vx, Wx) \
	V_V(X, 0F, F2, I, 12, AVX, 0, WR, Vx, Wdup) \
	V_V(X, 0F, NP, I, 13, AVX, A_L0, WR, Mq, Vq) \
	V_V(X, 0F, 66, I, 13, AVX, A_L0, WR, Mq, Vq) \
	V_PP(X, 14) \
	V_PP(X, 15) \
	V_V(X, 0F, NP, I, 16, AVX, A_L0, WRR, Vdq, Hdq, Wq) \
	V_V(X, 0F, 66, I, 16, AVX, A_L0, WRR, Vdq, Hdq, Mq) \
	V_V(X, 0F, F3, I, 16, AVX, 0, WR, Vx, Wx) \
	V_V(X, 0F, NP, I, 17, AVX, A_L0, WR, Mq, Vdq) \
	V_V(X, 0F, 66, I, 17, AVX, A_L0, WR, Mq, Vdq) \
	V_P1(X, 28) \
	V_ST(X, 29) \
	V_V(X, 0F, F3, I, 2a, AVX, A_LIG, WRR, Vd, Hd, Ey) \
	V_V(X, 0F, F2, I, 2a, AVX, A_LIG, WRR, Vq, Hq, Ey) \
	V_V(X, 0F, NP, I, 2b, AVX, 0, WR, Mx, Vx) \
	V_V(X, 0F, 66, I, 2b, AVX, 0, WR, Mx, Vx) \
	V_V(X, 0F, F3, I, 2c, AVX, A_LIG, WR, Gy, Wd) \
	V_V(X, 0F, F2, I, 2c, AVX, A_LIG, WR, Gy, Wq) \
	V_V(X, 0F, F3, I, 2d, AVX, A_LIG, WR, Gy, Wd) \
	V_V(X, 0F, F2, I, 2d, AVX, A_LIG, WR, Gy, Wq) \
	X(0F, NP, I, 2e, VEC, AVX, NONE, A_GEN | A_LIG, ALU, NONE, RR, Vd, Wd) \
	X(0F, 66, I, 2e, VEC, AVX, NONE, A_GEN | A_LIG, ALU, NONE, RR, Vq, Wq) \
	X(0F, NP, I, 2f, VEC, AVX, NONE, A_GEN | A_LIG, ALU, NONE, RR, Vd, Wd) \
	X(0F, 66, I, 2f, VEC, AVX, NONE, A_GEN | A_LIG, ALU, NONE, RR, Vq, Wq) \
	V_V(X, 0F, NP, I, 50, AVX, 0, WR, Gd, Ux) \
	V_V(X, 0F, 66, I, 50, AVX, 0, WR, Gd, Ux) \
	V_P1(X, 51) \
	V_SS(X, 51) \
	V_V(X, 0F, NP, I, 52, AVX, 0, WR, Vx, Wx) \
	V_V(X, 0F, F3, I, 52, AVX, A_LIG, WRR, Vd, Hd, Wd) \
	V_V(X, 0F, NP, I, 53, AVX, 0, WR, Vx, Wx) \
	V_V(X, 0F, F3, I, 53, AVX, A_LIG, WRR, Vd, Hd, Wd) \
	V_PP(X, 54) V_PP(X, 55) V_PP(X, 56) V_PP(X, 57) \
	V_PP(X, 58) V_SS(X, 58) \
	V_PP(X, 59) V_SS(X, 59) \
	V_V(X, 0F, NP, I, 5a, AVX, 0, WR, Vx, Whx) \
	V_V(X, 0F, 66, I, 5a, AVX, 0, WR, Vdq, Wx) \
	V_V(X, 0F, F3, I, 5a, AVX, A_LIG, WRR, Vq, Hq, Wd) \
	V_V(X, 0F, F2, I, 5a, AVX, A_LIG, WRR, Vd, Hd, Wq) \
	V_P1(X, 5b) \
	V_V(X, 0F, F3, I, 5b, AVX, 0, WR, Vx, Wx) \
	V_PP(X, 5c) V_SS(X, 5c) \
	V_PP(X, 5d) V_SS(X, 5d) \
	V_PP(X, 5e) V_SS(X, 5e) \
	V_PP(X, 5f) V_SS(X, 5f) \
	V_N8(X, 0F, 60, 61, 62, 63, 64, 65, 66, 67) \
	V_N(X, 0F, 68) V_N(X, 0F, 69) V_N(X, 0F, 6a) V_N(X, 0F, 6b) V_N(X, 0F, 6c) V_N(X, 0F, 6d) \
	V_V(X, 0F, 66, I, 6e, AVX, A_L0, WR, Vdq, Ey) \
	V_V(X, 0F, 66, I, 6f, AVX, 0, WR, Vx, Wx) \
	V_V(X, 0F, F3, I, 6f, AVX, 0, WR, Vx, Wx) \
	V_V(X, 0F, 66, I, 70, AVX, A_WIDE, WRR, Vx, Wx, Iub) \
	V_V(X, 0F, F3, I, 70, AVX, A_WIDE, WRR, Vx, Wx, Iub) \
	V_V(X, 0F, F2, I, 70, AVX, A_WIDE, WRR, Vx, Wx, Iub) \
	L(0F, 66, I, 71, GROUP, g12, Hx, Ux, Iub) \
	L(0F, 66, I, 72, GROUP, g12, Hx, Ux, Iub) \
	L(0F, 66, I, 73, GROUP, g14, Hx, Ux, Iub) \
	G(g12, 2, VEC, AVX, NONE, A_GEN | A_WIDE, NONE, WRR, 0) \
	G(g12, 4, VEC, AVX, NONE, A_GEN | A_WIDE, NONE, WRR, 0) \
	G(g12, 6, VEC, AVX, NONE, A_GEN | A_WIDE, NONE, WRR, 0) \
	G(g14, 2, VEC, AVX, NONE, A_GEN | A_WIDE, NONE, WRR, 0) \
	G(g14, 3, VEC, AVX, NONE, A_GEN | A_WIDE, NONE, WRR, 0) \
	G(g14, 6, VEC, AVX, NONE, A_GEN | A_WIDE, NONE, WRR, 0) \
	G(g14, 7, VEC, AVX, NONE, A_GEN | A_WIDE, NONE, WRR, 0) \
	V_N(X, 0F, 74) V_N(X, 0F, 75) V_N(X, 0F, 76) \
	V_V(X, 0F, NP, I, 77, AVX, 0, N, 0) \
	V_V(X, 0F, 66, I, 7c, AVX, 0, WRR, Vx, Hx, Wx) \
	V_V(X, 0F, F2, I, 7c, AVX, 0, WRR, Vx, Hx, Wx) \
	V_V(X, 0F, 66, I, 7d, AVX, 0, WRR, Vx, Hx, Wx) \
	V_V(X, 0F, F2, I, 7d, AVX, 0, WRR, Vx, Hx, Wx) \
	V_V(X, 0F, 66, I, 7e, AVX, A_L0, WR, Ey, Vdq) \
	V_V(X, 0F, F3, I, 7e, AVX, A_L0, WR, Vdq, Wq) \
	V_V(X, 0F, 66, I, 7f, AVX, 0, WR, Wx, Vx) \
	V_V(X, 0F, F3, I, 7f, AVX, 0, WR, Wx, Vx) \
	L(0F, NP, I, ae, GROUP, g15, 0) \
	G(g15, 2, LDMXCSR, AVX, NONE, A_L0, NONE, R, Md) \
	G(g15, 3, STMXCSR, AVX, NONE, A_L0, NONE, W, Md) \
	V_V(X, 0F, NP, I, c2, AVX, 0, WRRR, Vx, Hx, Wx, Iub) \
	V_V(X, 0F, 66, I, c2, AVX, 0, WRRR, Vx, Hx, Wx, Iub) \
	V_V(X, 0F, F3, I, c2, AVX, A_LIG, WRRR, Vd, Hd, Wd, Iub) \
	V_V(X, 0F, F2, I, c2, AVX, A_LIG, WRRR, Vq, Hq, Wq, Iub) \
	V_V(X, 0F, 66, I, c4, AVX, A_L0, WRRR, Vdq, Hdq, Ewd, Iub) \
	V_V(X, 0F, 66, I, c5, AVX, A_L0, WRR, Gd, Udq, Iub) \
	V_V(X, 0F, NP, I, c6, AVX, 0, WRRR, Vx, Hx, Wx, Iub) \
	V_V(X, 0F, 66, I, c6, AVX, 0, WRRR, Vx, Hx, Wx, Iub) \
	V_V(X, 0F, 66, I, d0, AVX, 0, WRR, Vx, Hx, Wx) \
	V_V(X, 0F, F2, I, d0, AVX, 0, WRR, Vx, Hx, Wx) \
	V_SHX(X, d1) V_SHX(X, d2) V_SHX(X, d3) V_N(X, 0F, d4) V_N(X, 0F, d5) \
	V_V(X, 0F, 66, I, d6, AVX, A_L0, WR, Wq, Vq) \
	V_V(X, 0F, 66, I, d7, AVX, A_WIDE, WR, Gd, Ux) \
	V_N8(X, 0F, d8, d9, da, db, dc, dd, de, df) \
	V_N(X, 0F, e0) V_SHX(X, e1) V_SHX(X, e2) V_N(X, 0F, e3) V_N(X, 0F, e4) V_N(X, 0F, e5) \
	V_V(X, 0F, 66, I, e6, AVX, 0, WR, Vdq, Wx) \
	V_V(X, 0F, F3, I, e6, AVX, 0, WR, Vx, Whx) \
	V_V(X, 0F, F2, I, e6, AVX, 0, WR, Vdq, Wx) \
	V_V(X, 0F, 66, I, e7, AVX, 0, WR, Mx, Vx) \
	V_N8(X, 0F, e8, e9, ea, eb, ec, ed, ee, ef) \
	V_V(X, 0F, F2, I, f0, AVX, 0, WR, Vx, Mx) \
	V_SHX(X, f1) V_SHX(X, f2) V_SHX(X, f3) V_N(X, 0F, f4) V_N(X, 0F, f5) V_N(X, 0F, f6) \
	X(0F, 66, I, f7, MASKMOVDQU, AVX, NONE, A_L0, NONE, RDI, RR, Vdq, Udq) \
	V_N(X, 0F, f8) V_N(X, 0F, f9) V_N(X, 0F, fa) V_N(X, 0F, fb) V_N(X, 0F, fc) V_N(X, 0F, fd) V_N(X, 0F, fe)

/* Opmasks: without prefix W (W1: Q), with 66 B (W1: D). */
#define V_K3(X, o, fb, fw) \
	V_V(X, 0F, NP, 0, o, fw, A_L1, WRR, KGw, KHw, KRw) \
	V_V(X, 0F, NP, 1, o, AVX512BW, A_L1, WRR, KGq, KHq, KRq) \
	V_V(X, 0F, 66, 0, o, fb, A_L1, WRR, KGb, KHb, KRb) \
	V_V(X, 0F, 66, 1, o, AVX512BW, A_L1, WRR, KGd, KHd, KRd)
#define V_KT(X, o, fb, fw) \
	X(0F, NP, 0, o, VEC, fw, NONE, A_GEN | A_L0, ALU, NONE, RR, KGw, KRw) \
	X(0F, NP, 1, o, VEC, AVX512BW, NONE, A_GEN | A_L0, ALU, NONE, RR, KGq, KRq) \
	X(0F, 66, 0, o, VEC, fb, NONE, A_GEN | A_L0, ALU, NONE, RR, KGb, KRb) \
	X(0F, 66, 1, o, VEC, AVX512BW, NONE, A_GEN | A_L0, ALU, NONE, RR, KGd, KRd)
#define ROWS_VEX_K(X) \
	V_K3(X, 41, AVX512DQ, AVX512F) \
	V_K3(X, 42, AVX512DQ, AVX512F) \
	V_V(X, 0F, NP, 0, 44, AVX512F, A_L0, WR, KGw, KRw) \
	V_V(X, 0F, NP, 1, 44, AVX512BW, A_L0, WR, KGq, KRq) \
	V_V(X, 0F, 66, 0, 44, AVX512DQ, A_L0, WR, KGb, KRb) \
	V_V(X, 0F, 66, 1, 44, AVX512BW, A_L0, WR, KGd, KRd) \
	V_K3(X, 45, AVX512DQ, AVX512F) \
	V_K3(X, 46, AVX512DQ, AVX512F) \
	V_K3(X, 47, AVX512DQ, AVX512F) \
	V_K3(X, 4a, AVX512DQ, AVX512DQ) \
	V_V(X, 0F, 66, 0, 4b, AVX512F, A_L1, WRR, KGw, KHw, KRw) \
	V_V(X, 0F, NP, 0, 4b, AVX512BW, A_L1, WRR, KGd, KHd, KRd) \
	V_V(X, 0F, NP, 1, 4b, AVX512BW, A_L1, WRR, KGq, KHq, KRq) \
	V_V(X, 0F, NP, 0, 90, AVX512F, A_L0, WR, KGw, KEw) \
	V_V(X, 0F, NP, 1, 90, AVX512BW, A_L0, WR, KGq, KEq) \
	V_V(X, 0F, 66, 0, 90, AVX512DQ, A_L0, WR, KGb, KEb) \
	V_V(X, 0F, 66, 1, 90, AVX512BW, A_L0, WR, KGd, KEd) \
	V_V(X, 0F, NP, 0, 91, AVX512F, A_L0, WR, Mw, KGw) \
	V_V(X, 0F, NP, 1, 91, AVX512BW, A_L0, WR, Mq, KGq) \
	V_V(X, 0F, 66, 0, 91, AVX512DQ, A_L0, WR, Mb, KGb) \
	V_V(X, 0F, 66, 1, 91, AVX512BW, A_L0, WR, Md, KGd) \
	V_V(X, 0F, NP, 0, 92, AVX512F, A_L0, WR, KGw, Rd) \
	V_V(X, 0F, 66, 0, 92, AVX512DQ, A_L0, WR, KGb, Rd) \
	V_V(X, 0F, F2, 0, 92, AVX512BW, A_L0, WR, KGd, Rd) \
	V_V(X, 0F, F2, 1, 92, AVX512BW, A_L0, WR, KGq, Ry) \
	V_V(X, 0F, NP, 0, 93, AVX512F, A_L0, WR, Gd, KRw) \
	V_V(X, 0F, 66, 0, 93, AVX512DQ, A_L0, WR, Gd, KRb) \
	V_V(X, 0F, F2, 0, 93, AVX512BW, A_L0, WR, Gd, KRd) \
	V_V(X, 0F, F2, 1, 93, AVX512BW, A_L0, WR, Gy, KRq) \
	V_KT(X, 98, AVX512DQ, AVX512F) \
	V_KT(X, 99, AVX512DQ, AVX512DQ) \
	V_V(X, 0F3A, 66, 0, 30, AVX512DQ, A_L0, WRR, KGb, KRb, Iub) \
	V_V(X, 0F3A, 66, 1, 30, AVX512F, A_L0, WRR, KGw, KRw, Iub) \
	V_V(X, 0F3A, 66, 0, 31, AVX512BW, A_L0, WRR, KGd, KRd, Iub) \
	V_V(X, 0F3A, 66, 1, 31, AVX512BW, A_L0, WRR, KGq, KRq, Iub) \
	V_V(X, 0F3A, 66, 0, 32, AVX512DQ, A_L0, WRR, KGb, KRb, Iub) \
	V_V(X, 0F3A, 66, 1, 32, AVX512F, A_L0, WRR, KGw, KRw, Iub) \
	V_V(X, 0F3A, 66, 0, 33, AVX512BW, A_L0, WRR, KGd, KRd, Iub) \
	V_V(X, 0F3A, 66, 1, 33, AVX512BW, A_L0, WRR, KGq, KRq, Iub)

#define V_38(X, w, o, feat, attr, acc, ...) V_V(X, 0F38, 66, w, o, feat, attr, acc, __VA_ARGS__)
#define V_MOVX(X, o, w) V_38(X, I, o, AVX, A_WIDE, WR, Vx, w)
#define V_FMA(X, o) V_38(X, I, o, FMA, 0, XRR, Vx, Hx, Wx)
#define V_FMAS(X, o) V_38(X, I, o, FMA, A_LIG, XRR, Ve, He, We)
#define V_FMA10(X, a, b, c, d, e, f, g, h, i, j) \
	V_FMA(X, a) V_FMA(X, b) V_FMA(X, c) V_FMAS(X, d) V_FMA(X, e) V_FMAS(X, f) V_FMA(X, g) V_FMAS(X, h) V_FMA(X, i) V_FMAS(X, j)
#define V_INT8(X, pp, o) V_V(X, 0F38, pp, 0, o, AVX_VNNI_INT8, 0, XRR, Vx, Hx, Wx)
#define V_AMX(X, pp, w, o) X(0F38, pp, w, o, UNSUPPORTED, NONE, NONE, 0, NONE, NONE, N, E0)

#define ROWS_VEX_0F38(X, L, G) \
	V_N8(X, 0F38, 00, 01, 02, 03, 04, 05, 06, 07) \
	V_N(X, 0F38, 08) V_N(X, 0F38, 09) V_N(X, 0F38, 0a) V_N(X, 0F38, 0b) \
	V_38(X, 0, 0c, AVX, 0, WRR, Vx, Hx, Wx) \
	V_38(X, 0, 0d, AVX, 0, WRR, Vx, Hx, Wx) \
	X(0F38, 66, 0, 0e, VEC, AVX, NONE, A_GEN, ALU, NONE, RR, Vx, Wx) \
	X(0F38, 66, 0, 0f, VEC, AVX, NONE, A_GEN, ALU, NONE, RR, Vx, Wx) \
	V_38(X, 0, 13, F16C, 0, WR, Vx, Whx) \
	V_38(X, 0, 16, AVX2, A_L1, WRR, Vqq, Hqq, Wqq) \
	X(0F38, 66, I, 17, VEC, AVX, NONE, A_GEN, ALU, NONE, RR, Vx, Wx) \
	L(0F38, 66, 0, 18, BY_MOD, bcast_ss, 0) \
	G(bcast_ss, 0, VEC, AVX, NONE, A_GEN, NONE, WR, Vx, Md) \
	G(bcast_ss, 1, VEC, AVX2, NONE, A_GEN, NONE, WR, Vx, Ud) \
	L(0F38, 66, 0, 19, BY_MOD, bcast_sd, 0) \
	G(bcast_sd, 0, VEC, AVX, NONE, A_GEN | A_L1, NONE, WR, Vx, Mq) \
	G(bcast_sd, 1, VEC, AVX2, NONE, A_GEN | A_L1, NONE, WR, Vx, Uq) \
	V_38(X, 0, 1a, AVX, A_L1, WR, Vx, Mdq) \
	V_38(X, I, 1c, AVX, A_WIDE, WR, Vx, Wx) \
	V_38(X, I, 1d, AVX, A_WIDE, WR, Vx, Wx) \
	V_38(X, I, 1e, AVX, A_WIDE, WR, Vx, Wx) \
	V_MOVX(X, 20, Whx) V_MOVX(X, 21, Wqx) V_MOVX(X, 22, Wox) V_MOVX(X, 23, Whx) V_MOVX(X, 24, Wqx) V_MOVX(X, 25, Whx) \
	V_N(X, 0F38, 28) V_N(X, 0F38, 29) \
	V_38(X, I, 2a, AVX, A_WIDE, WR, Vx, Mx) \
	V_N(X, 0F38, 2b) \
	X(0F38, 66, 0, 2c, VEC_MASKED, AVX, NONE, 0, NONE, NONE, WRR, Vx, Hx, Mx) \
	X(0F38, 66, 0, 2d, VEC_MASKED, AVX, NONE, 0, NONE, NONE, WRR, Vx, Hx, Mx) \
	X(0F38, 66, 0, 2e, VEC_MASKED, AVX, NONE, 0, NONE, NONE, WRR, Mx, Hx, Vx) \
	X(0F38, 66, 0, 2f, VEC_MASKED, AVX, NONE, 0, NONE, NONE, WRR, Mx, Hx, Vx) \
	V_MOVX(X, 30, Whx) V_MOVX(X, 31, Wqx) V_MOVX(X, 32, Wox) V_MOVX(X, 33, Whx) V_MOVX(X, 34, Wqx) V_MOVX(X, 35, Whx) \
	V_38(X, 0, 36, AVX2, A_L1, WRR, Vqq, Hqq, Wqq) \
	V_N(X, 0F38, 37) V_N8(X, 0F38, 38, 39, 3a, 3b, 3c, 3d, 3e, 3f) V_N(X, 0F38, 40) \
	V_38(X, I, 41, AVX, A_L0, WR, Vdq, Wdq) \
	V_38(X, I, 45, AVX2, 0, WRR, Vx, Hx, Wx) \
	V_38(X, 0, 46, AVX2, 0, WRR, Vx, Hx, Wx) \
	V_38(X, I, 47, AVX2, 0, WRR, Vx, Hx, Wx) \
	V_AMX(X, NP, 0, 49) V_AMX(X, 66, 0, 49) V_AMX(X, F2, 0, 49) V_AMX(X, 66, 0, 4b) V_AMX(X, F3, 0, 4b) V_AMX(X, F2, 0, 4b) \
	V_AMX(X, F3, 0, 5c) V_AMX(X, F2, 0, 5c) V_AMX(X, NP, 0, 5e) V_AMX(X, 66, 0, 5e) V_AMX(X, F3, 0, 5e) V_AMX(X, F2, 0, 5e) \
	V_AMX(X, NP, 0, 6c) V_AMX(X, 66, 0, 6c) \
	V_38(X, 0, 50, AVX_VNNI, 0, XRR, Vx, Hx, Wx) \
	V_38(X, 0, 51, AVX_VNNI, 0, XRR, Vx, Hx, Wx) \
	V_38(X, 0, 52, AVX_VNNI, 0, XRR, Vx, Hx, Wx) \
	V_38(X, 0, 53, AVX_VNNI, 0, XRR, Vx, Hx, Wx) \
	V_INT8(X, NP, 50) V_INT8(X, F3, 50) V_INT8(X, F2, 50) V_INT8(X, NP, 51) V_INT8(X, F3, 51) V_INT8(X, F2, 51) \
	V_38(X, 0, 58, AVX2, 0, WR, Vx, Wd) \
	V_38(X, 0, 59, AVX2, 0, WR, Vx, Wq) \
	V_38(X, 0, 5a, AVX2, A_L1, WR, Vx, Mdq) \
	V_V(X, 0F38, F3, 0, 72, AVX_NE_CONVERT, 0, WR, Vdq, Wx) \
	V_38(X, 0, 78, AVX2, 0, WR, Vx, Wb) \
	V_38(X, 0, 79, AVX2, 0, WR, Vx, Ww) \
	X(0F38, 66, I, 8c, VEC_MASKED, AVX2, NONE, 0, NONE, NONE, WRR, Vx, Hx, Mx) \
	X(0F38, 66, I, 8e, VEC_MASKED, AVX2, NONE, 0, NONE, NONE, WRR, Mx, Hx, Vx) \
	X(0F38, 66, I, 90, VEC_GATHER, AVX2, NONE, A_DIST, NONE, NONE, XRX, Vx, VMe, Hx) \
	X(0F38, 66, 0, 91, VEC_GATHER, AVX2, NONE, A_DIST, NONE, NONE, XRX, Vhx, VMe, Hhx) \
	X(0F38, 66, 1, 91, VEC_GATHER, AVX2, NONE, A_DIST, NONE, NONE, XRX, Vx, VMe, Hx) \
	X(0F38, 66, I, 92, VEC_GATHER, AVX2, NONE, A_DIST, NONE, NONE, XRX, Vx, VMe, Hx) \
	X(0F38, 66, 0, 93, VEC_GATHER, AVX2, NONE, A_DIST, NONE, NONE, XRX, Vhx, VMe, Hhx) \
	X(0F38, 66, 1, 93, VEC_GATHER, AVX2, NONE, A_DIST, NONE, NONE, XRX, Vx, VMe, Hx) \
	V_FMA10(X, 96, 97, 98, 99, 9a, 9b, 9c, 9d, 9e, 9f) \
	V_FMA10(X, a6, a7, a8, a9, aa, ab, ac, ad, ae, af) \
	V_FMA10(X, b6, b7, b8, b9, ba, bb, bc, bd, be, bf) \
	V_V(X, 0F38, NP, 0, b0, AVX_NE_CONVERT, 0, WR, Vx, Mx) \
	V_V(X, 0F38, 66, 0, b0, AVX_NE_CONVERT, 0, WR, Vx, Mx) \
	V_V(X, 0F38, F3, 0, b0, AVX_NE_CONVERT, 0, WR, Vx, Mx) \
	V_V(X, 0F38, F2, 0, b0, AVX_NE_CONVERT, 0, WR, Vx, Mx) \
	V_V(X, 0F38, 66, 0, b1, AVX_NE_CONVERT, 0, WR, Vx, Mw) \
	V_V(X, 0F38, F3, 0, b1, AVX_NE_CONVERT, 0, WR, Vx, Mw) \
	V_38(X, 1, b4, AVX_IFMA, 0, XRR, Vx, Hx, Wx) \
	V_38(X, 1, b5, AVX_IFMA, 0, XRR, Vx, Hx, Wx) \
	V_V(X, 0F38, F2, 0, cb, SHA512, A_L1, XRR, Vqq, Hqq, Udq) \
	V_V(X, 0F38, F2, 0, cc, SHA512, A_L1, XR, Vqq, Udq) \
	V_V(X, 0F38, F2, 0, cd, SHA512, A_L1, XR, Vqq, Uqq) \
	X(0F38, 66, 0, cf, VEC, GFNI, AVX, A_GEN, NONE, NONE, WRR, Vx, Hx, Wx) \
	V_V(X, 0F38, NP, 0, da, SM3, A_L0, XRR, Vdq, Hdq, Wdq) \
	V_V(X, 0F38, 66, 0, da, SM3, A_L0, XRR, Vdq, Hdq, Wdq) \
	V_V(X, 0F38, F3, 0, da, SM4, 0, WRR, Vx, Hx, Wx) \
	V_V(X, 0F38, F2, 0, da, SM4, 0, WRR, Vx, Hx, Wx) \
	X(0F38, 66, I, db, VEC, AES, AVX, A_GEN | A_L0, NONE, NONE, WR, Vdq, Wdq) \
	X(0F38, 66, I, dc, VEC, AES, AVX, A_GEN | A_WIDE, NONE, NONE, WRR, Vx, Hx, Wx) \
	X(0F38, 66, I, dd, VEC, AES, AVX, A_GEN | A_WIDE, NONE, NONE, WRR, Vx, Hx, Wx) \
	X(0F38, 66, I, de, VEC, AES, AVX, A_GEN | A_WIDE, NONE, NONE, WRR, Vx, Hx, Wx) \
	X(0F38, 66, I, df, VEC, AES, AVX, A_GEN | A_WIDE, NONE, NONE, WRR, Vx, Hx, Wx)

#define V_3A(X, w, o, feat, attr, acc, ...) V_V(X, 0F3A, 66, w, o, feat, attr, acc, __VA_ARGS__)
#define ROWS_VEX_0F3A(X) \
	V_3A(X, 1, 00, AVX2, A_L1, WRR, Vqq, Wqq, Iub) \
	V_3A(X, 1, 01, AVX2, A_L1, WRR, Vqq, Wqq, Iub) \
	V_3A(X, 0, 02, AVX2, 0, WRRR, Vx, Hx, Wx, Iub) \
	V_3A(X, 0, 04, AVX, 0, WRR, Vx, Wx, Iub) \
	V_3A(X, 0, 05, AVX, 0, WRR, Vx, Wx, Iub) \
	V_3A(X, 0, 06, AVX, A_L1, WRRR, Vqq, Hqq, Wqq, Iub) \
	V_3A(X, I, 08, AVX, 0, WRR, Vx, Wx, Iub) \
	V_3A(X, I, 09, AVX, 0, WRR, Vx, Wx, Iub) \
	V_3A(X, I, 0a, AVX, A_LIG, WRRR, Vd, Hd, Wd, Iub) \
	V_3A(X, I, 0b, AVX, A_LIG, WRRR, Vq, Hq, Wq, Iub) \
	V_3A(X, I, 0c, AVX, 0, WRRR, Vx, Hx, Wx, Iub) \
	V_3A(X, I, 0d, AVX, 0, WRRR, Vx, Hx, Wx, Iub) \
	V_3A(X, I, 0e, AVX, A_WIDE, WRRR, Vx, Hx, Wx, Iub) \
	V_3A(X, I, 0f, AVX, A_WIDE, WRRR, Vx, Hx, Wx, Iub) \
	V_3A(X, I, 14, AVX, A_L0, WRR, Ebd, Vdq, Iub) \
	V_3A(X, I, 15, AVX, A_L0, WRR, Ewd, Vdq, Iub) \
	V_3A(X, I, 16, AVX, A_L0, WRR, Ey, Vdq, Iub) \
	V_3A(X, I, 17, AVX, A_L0, WRR, Ed, Vdq, Iub) \
	V_3A(X, 0, 18, AVX, A_L1, WRRR, Vqq, Hqq, Wdq, Iub) \
	V_3A(X, 0, 19, AVX, A_L1, WRR, Wdq, Vqq, Iub) \
	V_3A(X, 0, 1d, F16C, 0, WRR, Whx, Vx, Iub) \
	V_3A(X, I, 20, AVX, A_L0, WRRR, Vdq, Hdq, Ebd, Iub) \
	V_3A(X, I, 21, AVX, A_L0, WRRR, Vdq, Hdq, Wd, Iub) \
	V_3A(X, I, 22, AVX, A_L0, WRRR, Vdq, Hdq, Ey, Iub) \
	V_3A(X, 0, 38, AVX2, A_L1, WRRR, Vqq, Hqq, Wdq, Iub) \
	V_3A(X, 0, 39, AVX2, A_L1, WRR, Wdq, Vqq, Iub) \
	V_3A(X, I, 40, AVX, 0, WRRR, Vx, Hx, Wx, Iub) \
	V_3A(X, I, 41, AVX, A_L0, WRRR, Vdq, Hdq, Wdq, Iub) \
	V_3A(X, I, 42, AVX, A_WIDE, WRRR, Vx, Hx, Wx, Iub) \
	X(0F3A, 66, I, 44, VEC, PCLMUL, AVX, A_GEN | A_WIDE, NONE, NONE, WRRR, Vx, Hx, Wx, Iub) \
	V_3A(X, 0, 46, AVX2, A_L1, WRRR, Vqq, Hqq, Wqq, Iub) \
	V_3A(X, 0, 4a, AVX, 0, WRRR, Vx, Hx, Wx, Lx) \
	V_3A(X, 0, 4b, AVX, 0, WRRR, Vx, Hx, Wx, Lx) \
	V_3A(X, 0, 4c, AVX, A_WIDE, WRRR, Vx, Hx, Wx, Lx) \
	X(0F3A, 66, I, 60, VEC, AVX, NONE, A_GEN | A_L0, ALU, RAXDX, RRRW, Vdq, Wdq, Iub, X0) \
	X(0F3A, 66, I, 61, VEC, AVX, NONE, A_GEN | A_L0, ALU, PCMPESTRI, RRR, Vdq, Wdq, Iub) \
	X(0F3A, 66, I, 62, VEC, AVX, NONE, A_GEN | A_L0, ALU, NONE, RRRW, Vdq, Wdq, Iub, X0) \
	X(0F3A, 66, I, 63, VEC, AVX, NONE, A_GEN | A_L0, ALU, WCX, RRR, Vdq, Wdq, Iub) \
	X(0F3A, 66, 1, ce, VEC, GFNI, AVX, A_GEN, NONE, NONE, WRRR, Vx, Hx, Wx, Iub) \
	X(0F3A, 66, 1, cf, VEC, GFNI, AVX, A_GEN, NONE, NONE, WRRR, Vx, Hx, Wx, Iub) \
	V_3A(X, 0, de, SM3, A_L0, XRRR, Vdq, Hdq, Wdq, Iub) \
	X(0F3A, 66, I, df, VEC, AES, AVX, A_GEN | A_L0, NONE, NONE, WRR, Vdq, Wdq, Iub)
/* clang-format on */

#define ROWS_VEX(X, L, G) ROWS_BMI(X, L, G) ROWS_VEX_0F(X, L, G) ROWS_VEX_K(X) ROWS_VEX_0F38(X, L, G) ROWS_VEX_0F3A(X)

#endif

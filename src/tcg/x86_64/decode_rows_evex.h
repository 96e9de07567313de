/*
 * decode_rows_evex.h: instructions with an EVEX prefix, maps 0F, 0F38, 0F3A. Private to decode_tables_evex.c.
 *
 * X(map, prefix, W: 0 1 or I for ignored, opcode, operation, feature, attributes, flags, access, operands)
 * L(map, prefix, W, opcode, kind, group, operands), G(group, number, operation, feature, attributes, access, operands)
 *
 * Rounding is taken, and ignored, where the conversion is exact: CVTSI2SD of 32 bits, CVTDQ2PD (measured).
 */
#ifndef HUSK_TCG_DECODE_ROWS_EVEX_H
#define HUSK_TCG_DECODE_ROWS_EVEX_H

/* One row a line, in columns. */
/* clang-format off */
/* Masked; packed, with broadcast, rounding, SAE; scalar; any with 128 bits only. */
#define EM  (A_VL | A_K | A_KZ)
#define EMK (A_VL | A_K)
#define EP  (EM | A_BC)
#define EPR (EP | A_ER)
#define EPS (EP | A_SAE)
#define ES  (A_LIG | A_K | A_KZ)
#define ESR (ES | A_ER)
#define ESS (ES | A_SAE)
#define E128 A_L0

#define E_V(X, map, pp, w, o, feat, attr, acc, ...) X(map, pp, w, o, VEC, feat, A_GEN | (attr), NONE, acc, __VA_ARGS__)
#define E_F(X, pp, w, o, attr, acc, ...) E_V(X, 0F, pp, w, o, AVX512F, attr, acc, __VA_ARGS__)
/* PS and PD, two sources; SS and SD. */
#define E_PP(X, o, feat, attr) E_V(X, 0F, NP, 0, o, feat, attr, WRR, Vx, Hx, Wx) E_V(X, 0F, 66, 1, o, feat, attr, WRR, Vx, Hx, Wx)
#define E_P1(X, o, attr) E_F(X, NP, 0, o, attr, WR, Vx, Wx) E_F(X, 66, 1, o, attr, WR, Vx, Wx)
#define E_SS(X, o, attr) E_F(X, F3, 0, o, attr, WRR, Vd, Hd, Wd) E_F(X, F2, 1, o, attr, WRR, Vq, Hq, Wq)
/* Integers: bytes and words (no broadcast, W ignored), dwords, qwords, both; masks as result. */
#define E_BW(X, map, o) E_V(X, map, 66, I, o, AVX512BW, EM, WRR, Vx, Hx, Wx)
#define E_BW4(X, map, a, b, c, d) E_BW(X, map, a) E_BW(X, map, b) E_BW(X, map, c) E_BW(X, map, d)
#define E_W(X, map, w, o, feat) E_V(X, map, 66, w, o, feat, EP, WRR, Vx, Hx, Wx)
#define E_DQ(X, map, o, feat) E_V(X, map, 66, I, o, feat, EP, WRR, Vx, Hx, Wx)
#define E_KBW(X, o) E_V(X, 0F, 66, I, o, AVX512BW, EMK, WRR, KGq, Hx, Wx)
#define E_KD(X, map, w, o) E_V(X, map, 66, w, o, AVX512F, EMK | A_BC, WRR, KGq, Hx, Wx)

#define ROWS_EVEX_0F(X, L, G) \
	E_P1(X, 10, EM) \
	L(0F, F3, 0, 10, BY_MOD, movss_load, 0) \
	G(movss_load, 0, VEC, AVX512F, A_GEN | ES, WR, Vd, Md) \
	G(movss_load, 1, VEC, AVX512F, A_GEN | ES, WRR, Vd, Hd, Ud) \
	L(0F, F2, 1, 10, BY_MOD, movsd_load, 0) \
	G(movsd_load, 0, VEC, AVX512F, A_GEN | ES, WR, Vq, Mq) \
	G(movsd_load, 1, VEC, AVX512F, A_GEN | ES, WRR, Vq, Hq, Uq) \
	E_F(X, NP, 0, 11, EM, WR, Wx, Vx) \
	E_F(X, 66, 1, 11, EM, WR, Wx, Vx) \
	L(0F, F3, 0, 11, BY_MOD, movss_store, 0) \
	G(movss_store, 0, VEC, AVX512F, A_GEN | ES, WR, Md, Vd) \
	G(movss_store, 1, VEC, AVX512F, A_GEN | ES, WRR, Ud, Hd, Vd) \
	L(0F, F2, 1, 11, BY_MOD, movsd_store, 0) \
	G(movsd_store, 0, VEC, AVX512F, A_GEN | ES, WR, Mq, Vq) \
	G(movsd_store, 1, VEC, AVX512F, A_GEN | ES, WRR, Uq, Hq, Vq) \
	E_F(X, NP, 0, 12, E128, WRR, Vdq, Hdq, Wq) \
	E_F(X, 66, 1, 12, E128, WRR, Vdq, Hdq, Mq) \
	E_F(X, F3, 0, 12, EM, WR, Vx, Wx) \
	E_F(X, F2, 1, 12, EM, WR, Vx, Wdup) \
	E_F(X, NP, 0, 13, E128, WR, Mq, Vq) \
	E_F(X, 66, 1, 13, E128, WR, Mq, Vq) \
	E_PP(X, 14, AVX512F, EP) \
	E_PP(X, 15, AVX512F, EP) \
	E_F(X, NP, 0, 16, E128, WRR, Vdq, Hdq, Wq) \
	E_F(X, 66, 1, 16, E128, WRR, Vdq, Hdq, Mq) \
	E_F(X, F3, 0, 16, EM, WR, Vx, Wx) \
	E_F(X, NP, 0, 17, E128, WR, Mq, Vdq) \
	E_F(X, 66, 1, 17, E128, WR, Mq, Vdq) \
	E_P1(X, 28, EM) \
	E_F(X, NP, 0, 29, EM, WR, Wx, Vx) \
	E_F(X, 66, 1, 29, EM, WR, Wx, Vx) \
	E_F(X, F3, I, 2a, A_LIG | A_ER, WRR, Vd, Hd, Ey) \
	E_F(X, F2, 0, 2a, A_LIG | A_ER, WRR, Vq, Hq, Ey) \
	E_F(X, F2, 1, 2a, A_LIG | A_ER, WRR, Vq, Hq, Ey) \
	E_F(X, NP, 0, 2b, A_VL, WR, Mx, Vx) \
	E_F(X, 66, 1, 2b, A_VL, WR, Mx, Vx) \
	E_F(X, F3, I, 2c, A_LIG | A_SAE, WR, Gy, Wd) \
	E_F(X, F2, I, 2c, A_LIG | A_SAE, WR, Gy, Wq) \
	E_F(X, F3, I, 2d, A_LIG | A_ER, WR, Gy, Wd) \
	E_F(X, F2, I, 2d, A_LIG | A_ER, WR, Gy, Wq) \
	X(0F, NP, 0, 2e, VEC, AVX512F, A_GEN | A_LIG | A_SAE, ALU, RR, Vd, Wd) \
	X(0F, 66, 1, 2e, VEC, AVX512F, A_GEN | A_LIG | A_SAE, ALU, RR, Vq, Wq) \
	X(0F, NP, 0, 2f, VEC, AVX512F, A_GEN | A_LIG | A_SAE, ALU, RR, Vd, Wd) \
	X(0F, 66, 1, 2f, VEC, AVX512F, A_GEN | A_LIG | A_SAE, ALU, RR, Vq, Wq) \
	E_P1(X, 51, EPR) E_SS(X, 51, ESR) \
	E_PP(X, 54, AVX512DQ, EP) E_PP(X, 55, AVX512DQ, EP) E_PP(X, 56, AVX512DQ, EP) E_PP(X, 57, AVX512DQ, EP) \
	E_PP(X, 58, AVX512F, EPR) E_SS(X, 58, ESR) \
	E_PP(X, 59, AVX512F, EPR) E_SS(X, 59, ESR) \
	E_F(X, NP, 0, 5a, EPS, WR, Vx, Whx) \
	E_F(X, 66, 1, 5a, EPR, WR, Vhx, Wx) \
	E_F(X, F3, 0, 5a, ESS, WRR, Vq, Hq, Wd) \
	E_F(X, F2, 1, 5a, ESR, WRR, Vd, Hd, Wq) \
	E_F(X, NP, 0, 5b, EPR, WR, Vx, Wx) \
	E_V(X, 0F, NP, 1, 5b, AVX512DQ, EPR, WR, Vhx, Wx) \
	E_F(X, 66, 0, 5b, EPR, WR, Vx, Wx) \
	E_F(X, F3, 0, 5b, EPS, WR, Vx, Wx) \
	E_PP(X, 5c, AVX512F, EPR) E_SS(X, 5c, ESR) \
	E_PP(X, 5d, AVX512F, EPS) E_SS(X, 5d, ESS) \
	E_PP(X, 5e, AVX512F, EPR) E_SS(X, 5e, ESR) \
	E_PP(X, 5f, AVX512F, EPS) E_SS(X, 5f, ESS) \
	E_BW(X, 0F, 60) E_BW(X, 0F, 61) E_W(X, 0F, 0, 62, AVX512F) E_BW(X, 0F, 63) \
	E_KBW(X, 64) E_KBW(X, 65) E_KD(X, 0F, 0, 66) \
	E_BW4(X, 0F, 67, 68, 69, d5) E_W(X, 0F, 0, 6a, AVX512F) E_W(X, 0F, 0, 6b, AVX512BW) \
	E_W(X, 0F, 1, 6c, AVX512F) E_W(X, 0F, 1, 6d, AVX512F) \
	E_F(X, 66, I, 6e, E128, WR, Vdq, Ey) \
	E_F(X, 66, I, 6f, EM, WR, Vx, Wx) \
	E_F(X, F3, I, 6f, EM, WR, Vx, Wx) \
	E_V(X, 0F, F2, I, 6f, AVX512BW, EM, WR, Vx, Wx) \
	E_F(X, 66, 0, 70, EP, WRR, Vx, Wx, Iub) \
	E_V(X, 0F, F3, I, 70, AVX512BW, EM, WRR, Vx, Wx, Iub) \
	E_V(X, 0F, F2, I, 70, AVX512BW, EM, WRR, Vx, Wx, Iub) \
	L(0F, 66, I, 71, GROUP, g12, Hx, Wx, Iub) \
	G(g12, 2, VEC, AVX512BW, A_GEN | EM, WRR, 0) \
	G(g12, 4, VEC, AVX512BW, A_GEN | EM, WRR, 0) \
	G(g12, 6, VEC, AVX512BW, A_GEN | EM, WRR, 0) \
	L(0F, 66, 0, 72, GROUP, g13w0, Hx, Wx, Iub) \
	L(0F, 66, 1, 72, GROUP, g13w1, Hx, Wx, Iub) \
	G(g13w0, 0, VEC, AVX512F, A_GEN | EP, WRR, 0) \
	G(g13w0, 1, VEC, AVX512F, A_GEN | EP, WRR, 0) \
	G(g13w0, 2, VEC, AVX512F, A_GEN | EP, WRR, 0) \
	G(g13w0, 4, VEC, AVX512F, A_GEN | EP, WRR, 0) \
	G(g13w0, 6, VEC, AVX512F, A_GEN | EP, WRR, 0) \
	G(g13w1, 0, VEC, AVX512F, A_GEN | EP, WRR, 0) \
	G(g13w1, 1, VEC, AVX512F, A_GEN | EP, WRR, 0) \
	G(g13w1, 4, VEC, AVX512F, A_GEN | EP, WRR, 0) \
	L(0F, 66, 0, 73, GROUP, g14w0, Hx, Wx, Iub) \
	L(0F, 66, 1, 73, GROUP, g14w1, Hx, Wx, Iub) \
	G(g14w0, 3, VEC, AVX512BW, A_GEN | A_VL, WRR, 0) \
	G(g14w0, 7, VEC, AVX512BW, A_GEN | A_VL, WRR, 0) \
	G(g14w1, 2, VEC, AVX512F, A_GEN | EP, WRR, 0) \
	G(g14w1, 3, VEC, AVX512BW, A_GEN | A_VL, WRR, 0) \
	G(g14w1, 6, VEC, AVX512F, A_GEN | EP, WRR, 0) \
	G(g14w1, 7, VEC, AVX512BW, A_GEN | A_VL, WRR, 0) \
	E_KBW(X, 74) E_KBW(X, 75) E_KD(X, 0F, 0, 76) \
	E_F(X, NP, 0, 78, EPS, WR, Vx, Wx) \
	E_F(X, NP, 1, 78, EPS, WR, Vhx, Wx) \
	E_V(X, 0F, 66, 0, 78, AVX512DQ, EPS, WR, Vx, Whx) \
	E_V(X, 0F, 66, 1, 78, AVX512DQ, EPS, WR, Vx, Wx) \
	E_F(X, F3, I, 78, A_LIG | A_SAE, WR, Gy, Wd) \
	E_F(X, F2, I, 78, A_LIG | A_SAE, WR, Gy, Wq) \
	E_F(X, NP, 0, 79, EPR, WR, Vx, Wx) \
	E_F(X, NP, 1, 79, EPR, WR, Vhx, Wx) \
	E_V(X, 0F, 66, 0, 79, AVX512DQ, EPR, WR, Vx, Whx) \
	E_V(X, 0F, 66, 1, 79, AVX512DQ, EPR, WR, Vx, Wx) \
	E_F(X, F3, I, 79, A_LIG | A_ER, WR, Gy, Wd) \
	E_F(X, F2, I, 79, A_LIG | A_ER, WR, Gy, Wq) \
	E_V(X, 0F, 66, 0, 7a, AVX512DQ, EPS, WR, Vx, Whx) \
	E_V(X, 0F, 66, 1, 7a, AVX512DQ, EPS, WR, Vx, Wx) \
	E_F(X, F3, 0, 7a, EPR, WR, Vx, Whx) \
	E_V(X, 0F, F3, 1, 7a, AVX512DQ, EPR, WR, Vx, Wx) \
	E_F(X, F2, 0, 7a, EPR, WR, Vx, Wx) \
	E_V(X, 0F, F2, 1, 7a, AVX512DQ, EPR, WR, Vhx, Wx) \
	E_V(X, 0F, 66, 0, 7b, AVX512DQ, EPR, WR, Vx, Whx) \
	E_V(X, 0F, 66, 1, 7b, AVX512DQ, EPR, WR, Vx, Wx) \
	E_F(X, F3, I, 7b, A_LIG | A_ER, WRR, Vd, Hd, Ey) \
	E_F(X, F2, 0, 7b, A_LIG | A_ER, WRR, Vq, Hq, Ey) \
	E_F(X, F2, 1, 7b, A_LIG | A_ER, WRR, Vq, Hq, Ey) \
	E_F(X, 66, I, 7e, E128, WR, Ey, Vdq) \
	E_F(X, F3, 1, 7e, E128, WR, Vdq, Wq) \
	E_F(X, 66, I, 7f, EM, WR, Wx, Vx) \
	E_F(X, F3, I, 7f, EM, WR, Wx, Vx) \
	E_V(X, 0F, F2, I, 7f, AVX512BW, EM, WR, Wx, Vx) \
	E_F(X, NP, 0, c2, EMK | A_BC | A_SAE, WRRR, KGq, Hx, Wx, Iub) \
	E_F(X, 66, 1, c2, EMK | A_BC | A_SAE, WRRR, KGq, Hx, Wx, Iub) \
	E_F(X, F3, 0, c2, A_LIG | A_K | A_SAE, WRRR, KGq, Hd, Wd, Iub) \
	E_F(X, F2, 1, c2, A_LIG | A_K | A_SAE, WRRR, KGq, Hq, Wq, Iub) \
	E_V(X, 0F, 66, I, c4, AVX512BW, E128, WRRR, Vdq, Hdq, Ewd, Iub) \
	E_V(X, 0F, 66, I, c5, AVX512BW, E128, WRR, Gd, Udq, Iub) \
	E_F(X, NP, 0, c6, EP, WRRR, Vx, Hx, Wx, Iub) \
	E_F(X, 66, 1, c6, EP, WRRR, Vx, Hx, Wx, Iub) \
	E_V(X, 0F, 66, I, d1, AVX512BW, EM, WRR, Vx, Hx, Wdq) \
	E_F(X, 66, 0, d2, EM, WRR, Vx, Hx, Wdq) \
	E_F(X, 66, 1, d3, EM, WRR, Vx, Hx, Wdq) \
	E_W(X, 0F, 1, d4, AVX512F) \
	E_F(X, 66, 1, d6, E128, WR, Wq, Vdq) \
	E_BW4(X, 0F, d8, d9, da, dc) E_DQ(X, 0F, db, AVX512F) E_BW(X, 0F, dd) E_BW(X, 0F, de) E_DQ(X, 0F, df, AVX512F) \
	E_BW(X, 0F, e0) \
	E_V(X, 0F, 66, I, e1, AVX512BW, EM, WRR, Vx, Hx, Wdq) \
	E_F(X, 66, I, e2, EM, WRR, Vx, Hx, Wdq) \
	E_BW(X, 0F, e3) E_BW(X, 0F, e4) E_BW(X, 0F, e5) \
	E_F(X, 66, 1, e6, EPS, WR, Vhx, Wx) \
	E_F(X, F3, 0, e6, EPR, WR, Vx, Whx) \
	E_V(X, 0F, F3, 1, e6, AVX512DQ, EPR, WR, Vx, Wx) \
	E_F(X, F2, 1, e6, EPR, WR, Vhx, Wx) \
	E_F(X, 66, 0, e7, A_VL, WR, Mx, Vx) \
	E_BW4(X, 0F, e8, e9, ea, ec) E_DQ(X, 0F, eb, AVX512F) E_BW(X, 0F, ed) E_BW(X, 0F, ee) E_DQ(X, 0F, ef, AVX512F) \
	E_V(X, 0F, 66, I, f1, AVX512BW, EM, WRR, Vx, Hx, Wdq) \
	E_F(X, 66, 0, f2, EM, WRR, Vx, Hx, Wdq) \
	E_F(X, 66, 1, f3, EM, WRR, Vx, Hx, Wdq) \
	E_W(X, 0F, 1, f4, AVX512F) E_BW(X, 0F, f5) \
	E_V(X, 0F, 66, I, f6, AVX512BW, A_VL, WRR, Vx, Hx, Wx) \
	E_BW(X, 0F, f8) E_BW(X, 0F, f9) E_W(X, 0F, 0, fa, AVX512F) E_W(X, 0F, 1, fb, AVX512F) \
	E_BW(X, 0F, fc) E_BW(X, 0F, fd) E_W(X, 0F, 0, fe, AVX512F)

#define E_38(X, w, o, feat, attr, acc, ...) E_V(X, 0F38, 66, w, o, feat, attr, acc, __VA_ARGS__)
#define E_DOWN(X, o, feat, w) E_V(X, 0F38, F3, 0, o, feat, EM, WR, w, Vx)
#define E_MOVX(X, w, o, feat, src) E_38(X, w, o, feat, EM, WR, Vx, src)
#define E_MIX(X, o, feat) E_V(X, 0F38, 66, I, o, feat, EP, XRR, Vx, Hx, Wx)
#define E_FMA(X, o) E_38(X, I, o, AVX512F, EPR, XRR, Vx, Hx, Wx)
#define E_FMAS(X, o) E_38(X, I, o, AVX512F, ESR, XRR, Ve, He, We)
#define E_FMA10(X, a, b, c, d, e, f, g, h, i, j) \
	E_FMA(X, a) E_FMA(X, b) E_FMA(X, c) E_FMAS(X, d) E_FMA(X, e) E_FMAS(X, f) E_FMA(X, g) E_FMAS(X, h) E_FMA(X, i) E_FMAS(X, j)
#define EG (A_VL | A_K | A_KREQ | A_N_E)

#define ROWS_EVEX_0F38(X, L, G) \
	E_BW4(X, 0F38, 00, 04, 0b, 38) \
	E_38(X, 0, 0c, AVX512F, EP, WRR, Vx, Hx, Wx) \
	E_38(X, 1, 0d, AVX512F, EP, WRR, Vx, Hx, Wx) \
	E_38(X, 1, 10, AVX512BW, EM, WRR, Vx, Hx, Wx) \
	E_38(X, 1, 11, AVX512BW, EM, WRR, Vx, Hx, Wx) \
	E_38(X, 1, 12, AVX512BW, EM, WRR, Vx, Hx, Wx) \
	E_DOWN(X, 10, AVX512BW, Whx) E_DOWN(X, 11, AVX512F, Wqx) E_DOWN(X, 12, AVX512F, Wox) \
	E_DOWN(X, 13, AVX512F, Whx) E_DOWN(X, 14, AVX512F, Wqx) E_DOWN(X, 15, AVX512F, Whx) \
	E_38(X, 0, 13, AVX512F, EM | A_SAE, WR, Vx, Whx) \
	E_DQ(X, 0F38, 14, AVX512F) E_DQ(X, 0F38, 15, AVX512F) \
	E_38(X, I, 16, AVX512F, EP | A_L1, WRR, Vx, Hx, Wx) \
	E_38(X, 0, 18, AVX512F, EM, WR, Vx, Wd) \
	E_38(X, 0, 19, AVX512DQ, EM | A_L1, WR, Vx, Wq) \
	E_38(X, 1, 19, AVX512F, EM | A_L1, WR, Vx, Wq) \
	E_38(X, 0, 1a, AVX512F, EM | A_L1, WR, Vx, Mdq) \
	E_38(X, 1, 1a, AVX512DQ, EM | A_L1, WR, Vx, Mdq) \
	E_38(X, 0, 1b, AVX512DQ, EM | A_L2, WR, Vx, Mqq) \
	E_38(X, 1, 1b, AVX512F, EM | A_L2, WR, Vx, Mqq) \
	E_38(X, I, 1c, AVX512BW, EM, WR, Vx, Wx) \
	E_38(X, I, 1d, AVX512BW, EM, WR, Vx, Wx) \
	E_38(X, 0, 1e, AVX512F, EP, WR, Vx, Wx) \
	E_38(X, 1, 1f, AVX512F, EP, WR, Vx, Wx) \
	E_MOVX(X, I, 20, AVX512BW, Whx) E_MOVX(X, I, 21, AVX512F, Wqx) E_MOVX(X, I, 22, AVX512F, Wox) \
	E_MOVX(X, I, 23, AVX512F, Whx) E_MOVX(X, I, 24, AVX512F, Wqx) E_MOVX(X, 0, 25, AVX512F, Whx) \
	E_DOWN(X, 20, AVX512BW, Whx) E_DOWN(X, 21, AVX512F, Wqx) E_DOWN(X, 22, AVX512F, Wox) \
	E_DOWN(X, 23, AVX512F, Whx) E_DOWN(X, 24, AVX512F, Wqx) E_DOWN(X, 25, AVX512F, Whx) \
	E_38(X, I, 26, AVX512BW, EMK, WRR, KGq, Hx, Wx) \
	E_V(X, 0F38, F3, I, 26, AVX512BW, EMK, WRR, KGq, Hx, Wx) \
	E_KD(X, 0F38, I, 27) \
	E_V(X, 0F38, F3, I, 27, AVX512F, EMK | A_BC, WRR, KGq, Hx, Wx) \
	E_38(X, 1, 28, AVX512F, EP, WRR, Vx, Hx, Wx) \
	E_V(X, 0F38, F3, I, 28, AVX512BW, A_VL, WR, Vx, KRq) \
	E_KD(X, 0F38, 1, 29) \
	E_V(X, 0F38, F3, I, 29, AVX512BW, A_VL, WR, KGq, Ux) \
	E_38(X, 0, 2a, AVX512F, A_VL, WR, Vx, Mx) \
	E_V(X, 0F38, F3, 1, 2a, AVX512CD, A_VL, WR, Vx, KRq) \
	E_W(X, 0F38, 0, 2b, AVX512BW) \
	E_38(X, I, 2c, AVX512F, EPR, WRR, Vx, Hx, Wx) \
	E_38(X, I, 2d, AVX512F, ESR, WRR, Ve, He, We) \
	E_MOVX(X, I, 30, AVX512BW, Whx) E_MOVX(X, I, 31, AVX512F, Wqx) E_MOVX(X, I, 32, AVX512F, Wox) \
	E_MOVX(X, I, 33, AVX512F, Whx) E_MOVX(X, I, 34, AVX512F, Wqx) E_MOVX(X, 0, 35, AVX512F, Whx) \
	E_DOWN(X, 30, AVX512BW, Whx) E_DOWN(X, 31, AVX512F, Wqx) E_DOWN(X, 32, AVX512F, Wox) \
	E_DOWN(X, 33, AVX512F, Whx) E_DOWN(X, 34, AVX512F, Wqx) E_DOWN(X, 35, AVX512F, Whx) \
	E_38(X, I, 36, AVX512F, EP | A_L1, WRR, Vx, Hx, Wx) \
	E_KD(X, 0F38, 1, 37) \
	E_V(X, 0F38, F3, I, 38, AVX512DQ, A_VL, WR, Vx, KRq) \
	E_V(X, 0F38, F3, I, 39, AVX512DQ, A_VL, WR, KGq, Ux) \
	E_DQ(X, 0F38, 39, AVX512F) \
	E_BW(X, 0F38, 3a) \
	E_V(X, 0F38, F3, 0, 3a, AVX512CD, A_VL, WR, Vx, KRq) \
	E_DQ(X, 0F38, 3b, AVX512F) E_BW(X, 0F38, 3c) E_DQ(X, 0F38, 3d, AVX512F) E_BW(X, 0F38, 3e) E_DQ(X, 0F38, 3f, AVX512F) \
	E_W(X, 0F38, 0, 40, AVX512F) E_W(X, 0F38, 1, 40, AVX512DQ) \
	E_38(X, I, 42, AVX512F, EPS, WR, Vx, Wx) \
	E_38(X, I, 43, AVX512F, ESS, WRR, Ve, He, We) \
	E_38(X, I, 44, AVX512CD, EP, WR, Vx, Wx) \
	E_DQ(X, 0F38, 45, AVX512F) E_DQ(X, 0F38, 46, AVX512F) E_DQ(X, 0F38, 47, AVX512F) \
	E_38(X, I, 4c, AVX512F, EP, WR, Vx, Wx) \
	E_38(X, I, 4d, AVX512F, ES, WRR, Ve, He, We) \
	E_38(X, I, 4e, AVX512F, EP, WR, Vx, Wx) \
	E_38(X, I, 4f, AVX512F, ES, WRR, Ve, He, We) \
	E_38(X, 0, 50, AVX512VNNI, EP, XRR, Vx, Hx, Wx) \
	E_38(X, 0, 51, AVX512VNNI, EP, XRR, Vx, Hx, Wx) \
	E_38(X, 0, 52, AVX512VNNI, EP, XRR, Vx, Hx, Wx) \
	E_38(X, 0, 53, AVX512VNNI, EP, XRR, Vx, Hx, Wx) \
	E_V(X, 0F38, F3, 0, 52, AVX512BF16, EP, XRR, Vx, Hx, Wx) \
	E_38(X, I, 54, AVX512BITALG, EM, WR, Vx, Wx) \
	E_38(X, I, 55, AVX512VPOPCNTDQ, EP, WR, Vx, Wx) \
	E_38(X, 0, 58, AVX512F, EM, WR, Vx, Wd) \
	E_38(X, 0, 59, AVX512DQ, EM, WR, Vx, Wq) \
	E_38(X, 1, 59, AVX512F, EM, WR, Vx, Wq) \
	E_38(X, 0, 5a, AVX512F, EM | A_L1, WR, Vx, Mdq) \
	E_38(X, 1, 5a, AVX512DQ, EM | A_L1, WR, Vx, Mdq) \
	E_38(X, 0, 5b, AVX512DQ, EM | A_L2, WR, Vx, Mqq) \
	E_38(X, 1, 5b, AVX512F, EM | A_L2, WR, Vx, Mqq) \
	E_38(X, I, 62, AVX512VBMI2, EM | A_N_BW, WR, Vx, Wx) \
	E_38(X, I, 63, AVX512VBMI2, EM | A_N_BW, WR, Wx, Vx) \
	E_DQ(X, 0F38, 64, AVX512F) E_DQ(X, 0F38, 65, AVX512F) \
	E_38(X, I, 66, AVX512BW, EM, WRR, Vx, Hx, Wx) \
	E_V(X, 0F38, F2, I, 68, AVX512VP2INTERSECT, A_VL | A_BC, WRR, KGq, Hx, Wx) \
	E_38(X, 1, 70, AVX512VBMI2, EM, XRR, Vx, Hx, Wx) \
	E_MIX(X, 71, AVX512VBMI2) \
	E_38(X, 1, 72, AVX512VBMI2, EM, XRR, Vx, Hx, Wx) \
	E_V(X, 0F38, F3, 0, 72, AVX512BF16, EP, WR, Vhx, Wx) \
	E_V(X, 0F38, F2, 0, 72, AVX512BF16, EP, WRR, Vx, Hx, Wx) \
	E_MIX(X, 73, AVX512VBMI2) \
	E_38(X, 0, 75, AVX512VBMI, EM, XRR, Vx, Hx, Wx) \
	E_38(X, 1, 75, AVX512BW, EM, XRR, Vx, Hx, Wx) \
	E_MIX(X, 76, AVX512F) E_MIX(X, 77, AVX512F) \
	E_38(X, 0, 78, AVX512BW, EM, WR, Vx, Wb) \
	E_38(X, 0, 79, AVX512BW, EM, WR, Vx, Ww) \
	E_38(X, 0, 7a, AVX512BW, EM, WR, Vx, Rd) \
	E_38(X, 0, 7b, AVX512BW, EM, WR, Vx, Rd) \
	E_38(X, I, 7c, AVX512F, EM, WR, Vx, Ry) \
	E_38(X, 0, 7d, AVX512VBMI, EM, XRR, Vx, Hx, Wx) \
	E_38(X, 1, 7d, AVX512BW, EM, XRR, Vx, Hx, Wx) \
	E_MIX(X, 7e, AVX512F) E_MIX(X, 7f, AVX512F) \
	E_38(X, 1, 83, AVX512VBMI, EP, WRR, Vx, Hx, Wx) \
	E_38(X, I, 88, AVX512F, EM | A_N_E, WR, Vx, Wx) \
	E_38(X, I, 89, AVX512F, EM | A_N_E, WR, Vx, Wx) \
	E_38(X, I, 8a, AVX512F, EM | A_N_E, WR, Wx, Vx) \
	E_38(X, I, 8b, AVX512F, EM | A_N_E, WR, Wx, Vx) \
	E_38(X, 0, 8d, AVX512VBMI, EM, WRR, Vx, Hx, Wx) \
	E_38(X, 1, 8d, AVX512BW, EM, WRR, Vx, Hx, Wx) \
	E_38(X, 0, 8f, AVX512BITALG, EMK, WRR, KGq, Hx, Wx) \
	X(0F38, 66, I, 90, VEC_GATHER, AVX512F, EG | A_DIST, NONE, XR, Vx, VMe) \
	X(0F38, 66, 0, 91, VEC_GATHER, AVX512F, EG | A_DIST, NONE, XR, Vhx, VMe) \
	X(0F38, 66, 1, 91, VEC_GATHER, AVX512F, EG | A_DIST, NONE, XR, Vx, VMe) \
	X(0F38, 66, I, 92, VEC_GATHER, AVX512F, EG | A_DIST, NONE, XR, Vx, VMe) \
	X(0F38, 66, 0, 93, VEC_GATHER, AVX512F, EG | A_DIST, NONE, XR, Vhx, VMe) \
	X(0F38, 66, 1, 93, VEC_GATHER, AVX512F, EG | A_DIST, NONE, XR, Vx, VMe) \
	E_FMA10(X, 96, 97, 98, 99, 9a, 9b, 9c, 9d, 9e, 9f) \
	X(0F38, 66, I, a0, VEC_GATHER, AVX512F, EG, NONE, WR, VMe, Vx) \
	X(0F38, 66, 0, a1, VEC_GATHER, AVX512F, EG, NONE, WR, VMe, Vhx) \
	X(0F38, 66, 1, a1, VEC_GATHER, AVX512F, EG, NONE, WR, VMe, Vx) \
	X(0F38, 66, I, a2, VEC_GATHER, AVX512F, EG, NONE, WR, VMe, Vx) \
	X(0F38, 66, 0, a3, VEC_GATHER, AVX512F, EG, NONE, WR, VMe, Vhx) \
	X(0F38, 66, 1, a3, VEC_GATHER, AVX512F, EG, NONE, WR, VMe, Vx) \
	E_FMA10(X, a6, a7, a8, a9, aa, ab, ac, ad, ae, af) \
	E_38(X, 1, b4, AVX512IFMA, EP, XRR, Vx, Hx, Wx) \
	E_38(X, 1, b5, AVX512IFMA, EP, XRR, Vx, Hx, Wx) \
	E_FMA10(X, b6, b7, b8, b9, ba, bb, bc, bd, be, bf) \
	E_38(X, I, c4, AVX512CD, EP, WR, Vx, Wx) \
	E_38(X, 0, cf, GFNI, EM, WRR, Vx, Hx, Wx) \
	E_38(X, I, dc, VAES, A_VL, WRR, Vx, Hx, Wx) \
	E_38(X, I, dd, VAES, A_VL, WRR, Vx, Hx, Wx) \
	E_38(X, I, de, VAES, A_VL, WRR, Vx, Hx, Wx) \
	E_38(X, I, df, VAES, A_VL, WRR, Vx, Hx, Wx)

#define E_3A(X, w, o, feat, attr, acc, ...) E_V(X, 0F3A, 66, w, o, feat, attr, acc, __VA_ARGS__)
#define E_H3A(X, o, attr, acc, ...) E_V(X, 0F3A, NP, 0, o, AVX512FP16, attr, acc, __VA_ARGS__)
#define EH  (EM | A_BC16)
#define EHR (EH | A_ER)
#define EHS (EH | A_SAE)

#define ROWS_EVEX_0F3A(X) \
	E_3A(X, 1, 00, AVX512F, EP | A_L1, WRR, Vx, Wx, Iub) \
	E_3A(X, 1, 01, AVX512F, EP | A_L1, WRR, Vx, Wx, Iub) \
	E_3A(X, I, 03, AVX512F, EP, WRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, 0, 04, AVX512F, EP, WRR, Vx, Wx, Iub) \
	E_3A(X, 1, 05, AVX512F, EP, WRR, Vx, Wx, Iub) \
	E_3A(X, 0, 08, AVX512F, EPS, WRR, Vx, Wx, Iub) \
	E_H3A(X, 08, EHS, WRR, Vx, Wx, Iub) \
	E_3A(X, 1, 09, AVX512F, EPS, WRR, Vx, Wx, Iub) \
	E_3A(X, 0, 0a, AVX512F, ESS, WRRR, Vd, Hd, Wd, Iub) \
	E_H3A(X, 0a, ESS, WRRR, Vw, Hw, Ww, Iub) \
	E_3A(X, 1, 0b, AVX512F, ESS, WRRR, Vq, Hq, Wq, Iub) \
	E_3A(X, I, 0f, AVX512BW, EM, WRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, I, 14, AVX512BW, E128, WRR, Ebd, Vdq, Iub) \
	E_3A(X, I, 15, AVX512BW, E128, WRR, Ewd, Vdq, Iub) \
	E_3A(X, I, 16, AVX512DQ, E128, WRR, Ey, Vdq, Iub) \
	E_3A(X, I, 17, AVX512F, E128, WRR, Ed, Vdq, Iub) \
	E_3A(X, 0, 18, AVX512F, EM | A_L1, WRRR, Vx, Hx, Wdq, Iub) \
	E_3A(X, 1, 18, AVX512DQ, EM | A_L1, WRRR, Vx, Hx, Wdq, Iub) \
	E_3A(X, 0, 19, AVX512F, EM | A_L1, WRR, Wdq, Vx, Iub) \
	E_3A(X, 1, 19, AVX512DQ, EM | A_L1, WRR, Wdq, Vx, Iub) \
	E_3A(X, 0, 1a, AVX512DQ, EM | A_L2, WRRR, Vx, Hx, Wqq, Iub) \
	E_3A(X, 1, 1a, AVX512F, EM | A_L2, WRRR, Vx, Hx, Wqq, Iub) \
	E_3A(X, 0, 1b, AVX512DQ, EM | A_L2, WRR, Wqq, Vx, Iub) \
	E_3A(X, 1, 1b, AVX512F, EM | A_L2, WRR, Wqq, Vx, Iub) \
	E_3A(X, 0, 1d, AVX512F, EM | A_SAE, WRR, Whx, Vx, Iub) \
	E_3A(X, I, 1e, AVX512F, EMK | A_BC, WRRR, KGq, Hx, Wx, Iub) \
	E_3A(X, I, 1f, AVX512F, EMK | A_BC, WRRR, KGq, Hx, Wx, Iub) \
	E_3A(X, I, 20, AVX512BW, E128, WRRR, Vdq, Hdq, Ebd, Iub) \
	E_3A(X, 0, 21, AVX512F, E128, WRRR, Vdq, Hdq, Wd, Iub) \
	E_3A(X, I, 22, AVX512DQ, E128, WRRR, Vdq, Hdq, Ey, Iub) \
	E_3A(X, I, 23, AVX512F, EP | A_L1, WRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, I, 25, AVX512F, EP, XRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, I, 26, AVX512F, EPS, WRR, Vx, Wx, Iub) \
	E_H3A(X, 26, EHS, WRR, Vx, Wx, Iub) \
	E_3A(X, I, 27, AVX512F, ESS, WRRR, Ve, He, We, Iub) \
	E_H3A(X, 27, ESS, WRRR, Vw, Hw, Ww, Iub) \
	E_3A(X, 0, 38, AVX512F, EM | A_L1, WRRR, Vx, Hx, Wdq, Iub) \
	E_3A(X, 1, 38, AVX512DQ, EM | A_L1, WRRR, Vx, Hx, Wdq, Iub) \
	E_3A(X, 0, 39, AVX512F, EM | A_L1, WRR, Wdq, Vx, Iub) \
	E_3A(X, 1, 39, AVX512DQ, EM | A_L1, WRR, Wdq, Vx, Iub) \
	E_3A(X, 0, 3a, AVX512DQ, EM | A_L2, WRRR, Vx, Hx, Wqq, Iub) \
	E_3A(X, 1, 3a, AVX512F, EM | A_L2, WRRR, Vx, Hx, Wqq, Iub) \
	E_3A(X, 0, 3b, AVX512DQ, EM | A_L2, WRR, Wqq, Vx, Iub) \
	E_3A(X, 1, 3b, AVX512F, EM | A_L2, WRR, Wqq, Vx, Iub) \
	E_3A(X, I, 3e, AVX512BW, EMK, WRRR, KGq, Hx, Wx, Iub) \
	E_3A(X, I, 3f, AVX512BW, EMK, WRRR, KGq, Hx, Wx, Iub) \
	E_3A(X, 0, 42, AVX512BW, EM, WRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, I, 43, AVX512F, EP | A_L1, WRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, I, 44, VPCLMUL, A_VL, WRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, I, 50, AVX512DQ, EPS, WRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, I, 51, AVX512DQ, ESS, WRRR, Ve, He, We, Iub) \
	E_3A(X, I, 54, AVX512F, EPS, XRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, I, 55, AVX512F, ESS, XRRR, Ve, He, We, Iub) \
	E_3A(X, I, 56, AVX512DQ, EPS, WRR, Vx, Wx, Iub) \
	E_H3A(X, 56, EHS, WRR, Vx, Wx, Iub) \
	E_3A(X, I, 57, AVX512DQ, ESS, WRRR, Ve, He, We, Iub) \
	E_H3A(X, 57, ESS, WRRR, Vw, Hw, Ww, Iub) \
	E_3A(X, I, 66, AVX512DQ, EMK | A_BC, WRR, KGq, Wx, Iub) \
	E_H3A(X, 66, EMK | A_BC16, WRR, KGq, Wx, Iub) \
	E_3A(X, I, 67, AVX512DQ, A_LIG | A_K, WRR, KGq, We, Iub) \
	E_H3A(X, 67, A_LIG | A_K, WRR, KGq, Ww, Iub) \
	E_3A(X, 1, 70, AVX512VBMI2, EM, WRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, I, 71, AVX512VBMI2, EP, WRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, 1, 72, AVX512VBMI2, EM, WRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, I, 73, AVX512VBMI2, EP, WRRR, Vx, Hx, Wx, Iub) \
	E_H3A(X, c2, EMK | A_BC16 | A_SAE, WRRR, KGq, Hx, Wx, Iub) \
	E_V(X, 0F3A, F3, 0, c2, AVX512FP16, A_LIG | A_K | A_SAE, WRRR, KGq, Hw, Ww, Iub) \
	E_3A(X, 1, ce, GFNI, EP, WRRR, Vx, Hx, Wx, Iub) \
	E_3A(X, 1, cf, GFNI, EP, WRRR, Vx, Hx, Wx, Iub)
/* clang-format on */

#endif

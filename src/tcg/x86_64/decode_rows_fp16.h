/* decode_rows_fp16.h: EVEX maps 5 and 6, AVX512-FP16. Private to decode_tables_evex.c; notation as in decode_rows_evex.h, which precedes
 * it. */
#ifndef HUSK_TCG_DECODE_ROWS_FP16_H
#define HUSK_TCG_DECODE_ROWS_FP16_H

/* One row a line, in columns. */
/* clang-format off */
#define E_H(X, map, pp, w, o, attr, acc, ...) E_V(X, map, pp, w, o, AVX512FP16, attr, acc, __VA_ARGS__)
#define E_H5(X, pp, w, o, attr, acc, ...) E_H(X, M5, pp, w, o, attr, acc, __VA_ARGS__)
#define E_H6(X, pp, w, o, attr, acc, ...) E_H(X, M6, pp, w, o, attr, acc, __VA_ARGS__)
#define E_PH(X, o, attr) E_H5(X, NP, 0, o, attr, WRR, Vx, Hx, Wx)
#define E_SH(X, o, attr) E_H5(X, F3, 0, o, attr, WRR, Vw, Hw, Ww)

#define ROWS_EVEX_M5(X, L, G) \
	L(M5, F3, 0, 10, BY_MOD, movsh_load, 0) \
	G(movsh_load, 0, VEC, AVX512FP16, A_GEN | ES, WR, Vw, Mw) \
	G(movsh_load, 1, VEC, AVX512FP16, A_GEN | ES, WRR, Vw, Hw, Uw) \
	L(M5, F3, 0, 11, BY_MOD, movsh_store, 0) \
	G(movsh_store, 0, VEC, AVX512FP16, A_GEN | ES, WR, Mw, Vw) \
	G(movsh_store, 1, VEC, AVX512FP16, A_GEN | ES, WRR, Uw, Hw, Vw) \
	E_H5(X, NP, 0, 1d, ESR, WRR, Vw, Hw, Wd) \
	E_H5(X, 66, 0, 1d, EPR, WR, Vhx, Wx) \
	E_H5(X, F3, I, 2a, A_LIG | A_ER, WRR, Vw, Hw, Ey) \
	E_H5(X, F3, I, 2c, A_LIG | A_SAE, WR, Gy, Ww) \
	E_H5(X, F3, I, 2d, A_LIG | A_ER, WR, Gy, Ww) \
	X(M5, NP, 0, 2e, VEC, AVX512FP16, A_GEN | A_LIG | A_SAE, ALU, RR, Vw, Ww) \
	X(M5, NP, 0, 2f, VEC, AVX512FP16, A_GEN | A_LIG | A_SAE, ALU, RR, Vw, Ww) \
	E_H5(X, NP, 0, 51, EHR, WR, Vx, Wx) E_SH(X, 51, ESR) \
	E_PH(X, 58, EHR) E_SH(X, 58, ESR) \
	E_PH(X, 59, EHR) E_SH(X, 59, ESR) \
	E_H5(X, NP, 0, 5a, EHS, WR, Vx, Wqx) \
	E_H5(X, 66, 1, 5a, EPR, WR, Vqx, Wx) \
	E_H5(X, F3, 0, 5a, ESS, WRR, Vq, Hq, Ww) \
	E_H5(X, F2, 1, 5a, ESR, WRR, Vw, Hw, Wq) \
	E_H5(X, NP, 0, 5b, EPR, WR, Vhx, Wx) \
	E_H5(X, NP, 1, 5b, EPR, WR, Vqx, Wx) \
	E_H5(X, 66, 0, 5b, EHR, WR, Vx, Whx) \
	E_H5(X, F3, 0, 5b, EHS, WR, Vx, Whx) \
	E_PH(X, 5c, EHR) E_SH(X, 5c, ESR) \
	E_PH(X, 5d, EHS) E_SH(X, 5d, ESS) \
	E_PH(X, 5e, EHR) E_SH(X, 5e, ESR) \
	E_PH(X, 5f, EHS) E_SH(X, 5f, ESS) \
	E_H5(X, 66, I, 6e, E128, WR, Vdq, Ewd) \
	E_H5(X, 66, I, 7e, E128, WR, Ewd, Vdq) \
	E_H5(X, NP, 0, 78, EHS, WR, Vx, Whx) \
	E_H5(X, 66, 0, 78, EHS, WR, Vx, Wqx) \
	E_H5(X, F3, I, 78, A_LIG | A_SAE, WR, Gy, Ww) \
	E_H5(X, NP, 0, 79, EHR, WR, Vx, Whx) \
	E_H5(X, 66, 0, 79, EHR, WR, Vx, Wqx) \
	E_H5(X, F3, I, 79, A_LIG | A_ER, WR, Gy, Ww) \
	E_H5(X, 66, 0, 7a, EHS, WR, Vx, Wqx) \
	E_H5(X, F2, 0, 7a, EPR, WR, Vhx, Wx) \
	E_H5(X, F2, 1, 7a, EPR, WR, Vqx, Wx) \
	E_H5(X, 66, 0, 7b, EHR, WR, Vx, Wqx) \
	E_H5(X, F3, I, 7b, A_LIG | A_ER, WRR, Vw, Hw, Ey) \
	E_H5(X, NP, 0, 7c, EHS, WR, Vx, Wx) \
	E_H5(X, 66, 0, 7c, EHS, WR, Vx, Wx) \
	E_H5(X, NP, 0, 7d, EHR, WR, Vx, Wx) \
	E_H5(X, 66, 0, 7d, EHR, WR, Vx, Wx) \
	E_H5(X, F3, 0, 7d, EHR, WR, Vx, Wx) \
	E_H5(X, F2, 0, 7d, EHR, WR, Vx, Wx)

#define E_HFMA(X, o) E_H6(X, 66, 0, o, EHR, XRR, Vx, Hx, Wx)
#define E_HFMAS(X, o) E_H6(X, 66, 0, o, ESR, XRR, Vw, Hw, Ww)
#define E_HFMA10(X, a, b, c, d, e, f, g, h, i, j) \
	E_HFMA(X, a) E_HFMA(X, b) E_HFMA(X, c) E_HFMAS(X, d) E_HFMA(X, e) E_HFMAS(X, f) E_HFMA(X, g) E_HFMAS(X, h) E_HFMA(X, i) E_HFMAS(X, j)

#define ROWS_EVEX_M6(X) \
	E_H6(X, 66, 0, 13, EHS, WR, Vx, Whx) \
	E_H6(X, NP, 0, 13, ESS, WRR, Vd, Hd, Ww) \
	E_H6(X, 66, 0, 2c, EHR, WRR, Vx, Hx, Wx) \
	E_H6(X, 66, 0, 2d, ESR, WRR, Vw, Hw, Ww) \
	E_H6(X, 66, 0, 42, EHS, WR, Vx, Wx) \
	E_H6(X, 66, 0, 43, ESS, WRR, Vw, Hw, Ww) \
	E_H6(X, 66, 0, 4c, EH, WR, Vx, Wx) \
	E_H6(X, 66, 0, 4d, ES, WRR, Vw, Hw, Ww) \
	E_H6(X, 66, 0, 4e, EH, WR, Vx, Wx) \
	E_H6(X, 66, 0, 4f, ES, WRR, Vw, Hw, Ww) \
	E_H6(X, F3, 0, 56, EPR | A_DIST, XRR, Vx, Hx, Wx) \
	E_H6(X, F2, 0, 56, EPR | A_DIST, XRR, Vx, Hx, Wx) \
	E_H6(X, F3, 0, 57, ESR | A_DIST, XRR, Vd, Hd, Wd) \
	E_H6(X, F2, 0, 57, ESR | A_DIST, XRR, Vd, Hd, Wd) \
	E_HFMA10(X, 96, 97, 98, 99, 9a, 9b, 9c, 9d, 9e, 9f) \
	E_HFMA10(X, a6, a7, a8, a9, aa, ab, ac, ad, ae, af) \
	E_HFMA10(X, b6, b7, b8, b9, ba, bb, bc, bd, be, bf) \
	E_H6(X, F3, 0, d6, EPR | A_DIST, WRR, Vx, Hx, Wx) \
	E_H6(X, F2, 0, d6, EPR | A_DIST, WRR, Vx, Hx, Wx) \
	E_H6(X, F3, 0, d7, ESR | A_DIST, WRR, Vd, Hd, Wd) \
	E_H6(X, F2, 0, d7, ESR | A_DIST, WRR, Vd, Hd, Wd)
/* clang-format on */

#endif

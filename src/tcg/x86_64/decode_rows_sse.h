/* decode_rows_sse.h: MMX and SSE, legacy encoding. Private to decode_tables_legacy.c; notation as in decode_rows_int.h. */
#ifndef HUSK_TCG_DECODE_ROWS_SSE_H
#define HUSK_TCG_DECODE_ROWS_SSE_H

/* One row a line, in columns. */
/* clang-format off */
#define S_V(X, map, pp, o, feat, acc, ...) X(map, pp, o, o, VEC, feat, A_GEN, NONE, NONE, acc, __VA_ARGS__)
#define S_F(X, map, pp, o, feat, fl, acc, ...) X(map, pp, o, o, VEC, feat, A_GEN, fl, NONE, acc, __VA_ARGS__)
/* MMX without prefix, XMM with 66. */
#define S_MM(X, map, o, feat, acc) \
	S_V(X, map, NP, o, feat, acc, Pq, Qq) \
	S_V(X, map, 66, o, feat, acc, Vdq, Wdq)
/* PS without prefix, PD with 66; SS with F3, SD with F2. */
#define S_PP(X, o, acc) \
	S_V(X, 0F, NP, o, NONE, acc, Vdq, Wdq) \
	S_V(X, 0F, 66, o, NONE, acc, Vdq, Wdq)
#define S_SS(X, o) \
	S_V(X, 0F, F3, o, NONE, XR, Vd, Wd) \
	S_V(X, 0F, F2, o, NONE, XR, Vq, Wq)

#define ROWS_SSE_0F(X, L, G) \
	S_PP(X, 10, WR) \
	S_SS(X, 10) \
	S_V(X, 0F, NP, 11, NONE, WR, Wdq, Vdq) \
	S_V(X, 0F, 66, 11, NONE, WR, Wdq, Vdq) \
	S_V(X, 0F, F3, 11, NONE, WR, Wd, Vd) \
	S_V(X, 0F, F2, 11, NONE, WR, Wq, Vq) \
	S_V(X, 0F, NP, 12, NONE, XR, Vq, Wq) \
	S_V(X, 0F, 66, 12, NONE, XR, Vq, Mq) \
	S_V(X, 0F, F3, 12, SSE3, WR, Vdq, Wdq) \
	S_V(X, 0F, F2, 12, SSE3, WR, Vdq, Wq) \
	S_V(X, 0F, NP, 13, NONE, WR, Mq, Vq) \
	S_V(X, 0F, 66, 13, NONE, WR, Mq, Vq) \
	S_PP(X, 14, XR) \
	S_PP(X, 15, XR) \
	S_V(X, 0F, NP, 16, NONE, XR, Vdq, Wq) \
	S_V(X, 0F, 66, 16, NONE, XR, Vdq, Mq) \
	S_V(X, 0F, F3, 16, SSE3, WR, Vdq, Wdq) \
	S_V(X, 0F, NP, 17, NONE, WR, Mq, Vdq) \
	S_V(X, 0F, 66, 17, NONE, WR, Mq, Vdq) \
	S_PP(X, 28, WR) \
	S_V(X, 0F, NP, 29, NONE, WR, Wdq, Vdq) \
	S_V(X, 0F, 66, 29, NONE, WR, Wdq, Vdq) \
	S_V(X, 0F, NP, 2a, NONE, XR, Vdq, Qq) \
	S_V(X, 0F, 66, 2a, NONE, WR, Vdq, Qq) \
	S_V(X, 0F, F3, 2a, NONE, XR, Vd, Ey) \
	S_V(X, 0F, F2, 2a, NONE, XR, Vq, Ey) \
	S_V(X, 0F, NP, 2b, NONE, WR, Mdq, Vdq) \
	S_V(X, 0F, 66, 2b, NONE, WR, Mdq, Vdq) \
	S_V(X, 0F, NP, 2c, NONE, WR, Pq, Wq) \
	S_V(X, 0F, 66, 2c, NONE, WR, Pq, Wdq) \
	S_V(X, 0F, F3, 2c, NONE, WR, Gy, Wd) \
	S_V(X, 0F, F2, 2c, NONE, WR, Gy, Wq) \
	S_V(X, 0F, NP, 2d, NONE, WR, Pq, Wq) \
	S_V(X, 0F, 66, 2d, NONE, WR, Pq, Wdq) \
	S_V(X, 0F, F3, 2d, NONE, WR, Gy, Wd) \
	S_V(X, 0F, F2, 2d, NONE, WR, Gy, Wq) \
	S_F(X, 0F, NP, 2e, NONE, ALU, RR, Vd, Wd) \
	S_F(X, 0F, 66, 2e, NONE, ALU, RR, Vq, Wq) \
	S_F(X, 0F, NP, 2f, NONE, ALU, RR, Vd, Wd) \
	S_F(X, 0F, 66, 2f, NONE, ALU, RR, Vq, Wq) \
	S_V(X, 0F, NP, 50, NONE, WR, Gd, Udq) \
	S_V(X, 0F, 66, 50, NONE, WR, Gd, Udq) \
	S_PP(X, 51, WR) \
	S_SS(X, 51) \
	S_V(X, 0F, NP, 52, NONE, WR, Vdq, Wdq) \
	S_V(X, 0F, F3, 52, NONE, XR, Vd, Wd) \
	S_V(X, 0F, NP, 53, NONE, WR, Vdq, Wdq) \
	S_V(X, 0F, F3, 53, NONE, XR, Vd, Wd) \
	S_PP(X, 54, XR) \
	S_PP(X, 55, XR) \
	S_PP(X, 56, XR) \
	S_PP(X, 57, XR) \
	S_PP(X, 58, XR) \
	S_SS(X, 58) \
	S_PP(X, 59, XR) \
	S_SS(X, 59) \
	S_V(X, 0F, NP, 5a, NONE, WR, Vdq, Wq) \
	S_V(X, 0F, 66, 5a, NONE, WR, Vdq, Wdq) \
	S_V(X, 0F, F3, 5a, NONE, XR, Vq, Wd) \
	S_V(X, 0F, F2, 5a, NONE, XR, Vd, Wq) \
	S_PP(X, 5b, WR) \
	S_V(X, 0F, F3, 5b, NONE, WR, Vdq, Wdq) \
	S_PP(X, 5c, XR) \
	S_SS(X, 5c) \
	S_PP(X, 5d, XR) \
	S_SS(X, 5d) \
	S_PP(X, 5e, XR) \
	S_SS(X, 5e) \
	S_PP(X, 5f, XR) \
	S_SS(X, 5f) \
	S_V(X, 0F, NP, 60, NONE, XR, Pq, Qd) \
	S_V(X, 0F, 66, 60, NONE, XR, Vdq, Wdq) \
	S_V(X, 0F, NP, 61, NONE, XR, Pq, Qd) \
	S_V(X, 0F, 66, 61, NONE, XR, Vdq, Wdq) \
	S_V(X, 0F, NP, 62, NONE, XR, Pq, Qd) \
	S_V(X, 0F, 66, 62, NONE, XR, Vdq, Wdq) \
	S_MM(X, 0F, 63, NONE, XR) \
	S_MM(X, 0F, 64, NONE, XR) \
	S_MM(X, 0F, 65, NONE, XR) \
	S_MM(X, 0F, 66, NONE, XR) \
	S_MM(X, 0F, 67, NONE, XR) \
	S_MM(X, 0F, 68, NONE, XR) \
	S_MM(X, 0F, 69, NONE, XR) \
	S_MM(X, 0F, 6a, NONE, XR) \
	S_MM(X, 0F, 6b, NONE, XR) \
	S_V(X, 0F, 66, 6c, NONE, XR, Vdq, Wdq) \
	S_V(X, 0F, 66, 6d, NONE, XR, Vdq, Wdq) \
	S_V(X, 0F, NP, 6e, NONE, WR, Pq, Ey) \
	S_V(X, 0F, 66, 6e, NONE, WR, Vdq, Ey) \
	S_MM(X, 0F, 6f, NONE, WR) \
	S_V(X, 0F, F3, 6f, NONE, WR, Vdq, Wdq) \
	S_V(X, 0F, NP, 70, NONE, WRR, Pq, Qq, Iub) \
	S_V(X, 0F, 66, 70, NONE, WRR, Vdq, Wdq, Iub) \
	S_V(X, 0F, F3, 70, NONE, WRR, Vdq, Wdq, Iub) \
	S_V(X, 0F, F2, 70, NONE, WRR, Vdq, Wdq, Iub) \
	L(0F, NP, 71, 71, GROUP, g12, 0, Nq, Iub) \
	L(0F, 66, 71, 71, GROUP, g12, 0, Udq, Iub) \
	L(0F, NP, 72, 72, GROUP, g12, 0, Nq, Iub) \
	L(0F, 66, 72, 72, GROUP, g12, 0, Udq, Iub) \
	L(0F, NP, 73, 73, GROUP, g14, 0, Nq, Iub) \
	L(0F, 66, 73, 73, GROUP, g14_66, 0, Udq, Iub) \
	G(g12, A, 2, VEC, NONE, A_GEN, NONE, NONE, XR, 0) \
	G(g12, A, 4, VEC, NONE, A_GEN, NONE, NONE, XR, 0) \
	G(g12, A, 6, VEC, NONE, A_GEN, NONE, NONE, XR, 0) \
	G(g14, A, 2, VEC, NONE, A_GEN, NONE, NONE, XR, 0) \
	G(g14, A, 6, VEC, NONE, A_GEN, NONE, NONE, XR, 0) \
	G(g14_66, A, 2, VEC, NONE, A_GEN, NONE, NONE, XR, 0) \
	G(g14_66, A, 3, VEC, NONE, A_GEN, NONE, NONE, XR, 0) \
	G(g14_66, A, 6, VEC, NONE, A_GEN, NONE, NONE, XR, 0) \
	G(g14_66, A, 7, VEC, NONE, A_GEN, NONE, NONE, XR, 0) \
	S_MM(X, 0F, 74, NONE, XR) \
	S_MM(X, 0F, 75, NONE, XR) \
	S_MM(X, 0F, 76, NONE, XR) \
	X(0F, NP, 77, 77, EMMS, NONE, A_GEN, NONE, NONE, N, 0) \
	S_V(X, 0F, 66, 7c, SSE3, XR, Vdq, Wdq) \
	S_V(X, 0F, F2, 7c, SSE3, XR, Vdq, Wdq) \
	S_V(X, 0F, 66, 7d, SSE3, XR, Vdq, Wdq) \
	S_V(X, 0F, F2, 7d, SSE3, XR, Vdq, Wdq) \
	S_V(X, 0F, NP, 7e, NONE, WR, Ey, Pq) \
	S_V(X, 0F, 66, 7e, NONE, WR, Ey, Vdq) \
	S_V(X, 0F, F3, 7e, NONE, WR, Vdq, Wq) \
	S_V(X, 0F, NP, 7f, NONE, WR, Qq, Pq) \
	S_V(X, 0F, 66, 7f, NONE, WR, Wdq, Vdq) \
	S_V(X, 0F, F3, 7f, NONE, WR, Wdq, Vdq) \
	S_V(X, 0F, NP, c2, NONE, XRR, Vdq, Wdq, Iub) \
	S_V(X, 0F, 66, c2, NONE, XRR, Vdq, Wdq, Iub) \
	S_V(X, 0F, F3, c2, NONE, XRR, Vd, Wd, Iub) \
	S_V(X, 0F, F2, c2, NONE, XRR, Vq, Wq, Iub) \
	S_V(X, 0F, NP, c4, NONE, XRR, Pq, Ewd, Iub) \
	S_V(X, 0F, 66, c4, NONE, XRR, Vdq, Ewd, Iub) \
	S_V(X, 0F, NP, c5, NONE, WRR, Gd, Nq, Iub) \
	S_V(X, 0F, 66, c5, NONE, WRR, Gd, Udq, Iub) \
	S_V(X, 0F, NP, c6, NONE, XRR, Vdq, Wdq, Iub) \
	S_V(X, 0F, 66, c6, NONE, XRR, Vdq, Wdq, Iub) \
	S_V(X, 0F, 66, d0, SSE3, XR, Vdq, Wdq) \
	S_V(X, 0F, F2, d0, SSE3, XR, Vdq, Wdq) \
	S_MM(X, 0F, d1, NONE, XR) \
	S_MM(X, 0F, d2, NONE, XR) \
	S_MM(X, 0F, d3, NONE, XR) \
	S_MM(X, 0F, d4, NONE, XR) \
	S_MM(X, 0F, d5, NONE, XR) \
	S_V(X, 0F, 66, d6, NONE, WR, Wq, Vq) \
	S_V(X, 0F, F3, d6, NONE, WR, Vdq, Nq) \
	S_V(X, 0F, F2, d6, NONE, WR, Pq, Uq) \
	S_V(X, 0F, NP, d7, NONE, WR, Gd, Nq) \
	S_V(X, 0F, 66, d7, NONE, WR, Gd, Udq) \
	S_MM(X, 0F, d8, NONE, XR) \
	S_MM(X, 0F, d9, NONE, XR) \
	S_MM(X, 0F, da, NONE, XR) \
	S_MM(X, 0F, db, NONE, XR) \
	S_MM(X, 0F, dc, NONE, XR) \
	S_MM(X, 0F, dd, NONE, XR) \
	S_MM(X, 0F, de, NONE, XR) \
	S_MM(X, 0F, df, NONE, XR) \
	S_MM(X, 0F, e0, NONE, XR) \
	S_MM(X, 0F, e1, NONE, XR) \
	S_MM(X, 0F, e2, NONE, XR) \
	S_MM(X, 0F, e3, NONE, XR) \
	S_MM(X, 0F, e4, NONE, XR) \
	S_MM(X, 0F, e5, NONE, XR) \
	S_V(X, 0F, 66, e6, NONE, WR, Vdq, Wdq) \
	S_V(X, 0F, F3, e6, NONE, WR, Vdq, Wq) \
	S_V(X, 0F, F2, e6, NONE, WR, Vdq, Wdq) \
	S_V(X, 0F, NP, e7, NONE, WR, Mq, Pq) \
	S_V(X, 0F, 66, e7, NONE, WR, Mdq, Vdq) \
	S_MM(X, 0F, e8, NONE, XR) \
	S_MM(X, 0F, e9, NONE, XR) \
	S_MM(X, 0F, ea, NONE, XR) \
	S_MM(X, 0F, eb, NONE, XR) \
	S_MM(X, 0F, ec, NONE, XR) \
	S_MM(X, 0F, ed, NONE, XR) \
	S_MM(X, 0F, ee, NONE, XR) \
	S_MM(X, 0F, ef, NONE, XR) \
	S_V(X, 0F, F2, f0, SSE3, WR, Vdq, Mdq) \
	S_MM(X, 0F, f1, NONE, XR) \
	S_MM(X, 0F, f2, NONE, XR) \
	S_MM(X, 0F, f3, NONE, XR) \
	S_MM(X, 0F, f4, NONE, XR) \
	S_MM(X, 0F, f5, NONE, XR) \
	S_MM(X, 0F, f6, NONE, XR) \
	X(0F, NP, f7, f7, MASKMOVDQU, NONE, 0, NONE, RDI, RR, Pq, Nq) \
	X(0F, 66, f7, f7, MASKMOVDQU, NONE, 0, NONE, RDI, RR, Vdq, Udq) \
	S_MM(X, 0F, f8, NONE, XR) \
	S_MM(X, 0F, f9, NONE, XR) \
	S_MM(X, 0F, fa, NONE, XR) \
	S_MM(X, 0F, fb, NONE, XR) \
	S_MM(X, 0F, fc, NONE, XR) \
	S_MM(X, 0F, fd, NONE, XR) \
	S_MM(X, 0F, fe, NONE, XR)

#define ROWS_SSE_0F38(X) \
	S_MM(X, 0F38, 00, SSSE3, XR) \
	S_MM(X, 0F38, 01, SSSE3, XR) \
	S_MM(X, 0F38, 02, SSSE3, XR) \
	S_MM(X, 0F38, 03, SSSE3, XR) \
	S_MM(X, 0F38, 04, SSSE3, XR) \
	S_MM(X, 0F38, 05, SSSE3, XR) \
	S_MM(X, 0F38, 06, SSSE3, XR) \
	S_MM(X, 0F38, 07, SSSE3, XR) \
	S_MM(X, 0F38, 08, SSSE3, XR) \
	S_MM(X, 0F38, 09, SSSE3, XR) \
	S_MM(X, 0F38, 0a, SSSE3, XR) \
	S_MM(X, 0F38, 0b, SSSE3, XR) \
	S_V(X, 0F38, 66, 10, SSE41, XRR, Vdq, Wdq, X0) \
	S_V(X, 0F38, 66, 14, SSE41, XRR, Vdq, Wdq, X0) \
	S_V(X, 0F38, 66, 15, SSE41, XRR, Vdq, Wdq, X0) \
	S_F(X, 0F38, 66, 17, SSE41, ALU, RR, Vdq, Wdq) \
	S_MM(X, 0F38, 1c, SSSE3, WR) \
	S_MM(X, 0F38, 1d, SSSE3, WR) \
	S_MM(X, 0F38, 1e, SSSE3, WR) \
	S_V(X, 0F38, 66, 20, SSE41, WR, Vdq, Wq) \
	S_V(X, 0F38, 66, 21, SSE41, WR, Vdq, Wd) \
	S_V(X, 0F38, 66, 22, SSE41, WR, Vdq, Ww) \
	S_V(X, 0F38, 66, 23, SSE41, WR, Vdq, Wq) \
	S_V(X, 0F38, 66, 24, SSE41, WR, Vdq, Wd) \
	S_V(X, 0F38, 66, 25, SSE41, WR, Vdq, Wq) \
	S_V(X, 0F38, 66, 28, SSE41, XR, Vdq, Wdq) \
	S_V(X, 0F38, 66, 29, SSE41, XR, Vdq, Wdq) \
	S_V(X, 0F38, 66, 2a, SSE41, WR, Vdq, Mdq) \
	S_V(X, 0F38, 66, 2b, SSE41, XR, Vdq, Wdq) \
	S_V(X, 0F38, 66, 30, SSE41, WR, Vdq, Wq) \
	S_V(X, 0F38, 66, 31, SSE41, WR, Vdq, Wd) \
	S_V(X, 0F38, 66, 32, SSE41, WR, Vdq, Ww) \
	S_V(X, 0F38, 66, 33, SSE41, WR, Vdq, Wq) \
	S_V(X, 0F38, 66, 34, SSE41, WR, Vdq, Wd) \
	S_V(X, 0F38, 66, 35, SSE41, WR, Vdq, Wq) \
	S_V(X, 0F38, 66, 37, SSE42, XR, Vdq, Wdq) \
	X(0F38, 66, 38, 40, VEC, SSE41, A_GEN, NONE, NONE, XR, Vdq, Wdq) \
	S_V(X, 0F38, 66, 41, SSE41, WR, Vdq, Wdq) \
	X(0F38, NP, c8, ca, VEC, SHA, A_GEN, NONE, NONE, XR, Vdq, Wdq) \
	S_V(X, 0F38, NP, cb, SHA, XRR, Vdq, Wdq, X0) \
	X(0F38, NP, cc, cd, VEC, SHA, A_GEN, NONE, NONE, XR, Vdq, Wdq) \
	S_V(X, 0F38, 66, cf, GFNI, XR, Vdq, Wdq) \
	S_V(X, 0F38, 66, db, AES, WR, Vdq, Wdq) \
	X(0F38, 66, dc, df, VEC, AES, A_GEN, NONE, NONE, XR, Vdq, Wdq)

#define ROWS_SSE_0F3A(X) \
	S_V(X, 0F3A, 66, 08, SSE41, WRR, Vdq, Wdq, Iub) \
	S_V(X, 0F3A, 66, 09, SSE41, WRR, Vdq, Wdq, Iub) \
	S_V(X, 0F3A, 66, 0a, SSE41, XRR, Vd, Wd, Iub) \
	S_V(X, 0F3A, 66, 0b, SSE41, XRR, Vq, Wq, Iub) \
	X(0F3A, 66, 0c, 0e, VEC, SSE41, A_GEN, NONE, NONE, XRR, Vdq, Wdq, Iub) \
	S_V(X, 0F3A, NP, 0f, SSSE3, XRR, Pq, Qq, Iub) \
	S_V(X, 0F3A, 66, 0f, SSSE3, XRR, Vdq, Wdq, Iub) \
	S_V(X, 0F3A, 66, 14, SSE41, WRR, Ebd, Vdq, Iub) \
	S_V(X, 0F3A, 66, 15, SSE41, WRR, Ewd, Vdq, Iub) \
	S_V(X, 0F3A, 66, 16, SSE41, WRR, Ey, Vdq, Iub) \
	S_V(X, 0F3A, 66, 17, SSE41, WRR, Ed, Vdq, Iub) \
	S_V(X, 0F3A, 66, 20, SSE41, XRR, Vdq, Ebd, Iub) \
	S_V(X, 0F3A, 66, 21, SSE41, XRR, Vdq, Wd, Iub) \
	S_V(X, 0F3A, 66, 22, SSE41, XRR, Vdq, Ey, Iub) \
	X(0F3A, 66, 40, 42, VEC, SSE41, A_GEN, NONE, NONE, XRR, Vdq, Wdq, Iub) \
	S_V(X, 0F3A, 66, 44, PCLMUL, XRR, Vdq, Wdq, Iub) \
	X(0F3A, 66, 60, 60, VEC, SSE42, A_GEN, ALU, RAXDX, RRRW, Vdq, Wdq, Iub, X0) \
	X(0F3A, 66, 61, 61, VEC, SSE42, A_GEN, ALU, PCMPESTRI, RRR, Vdq, Wdq, Iub) \
	X(0F3A, 66, 62, 62, VEC, SSE42, A_GEN, ALU, NONE, RRRW, Vdq, Wdq, Iub, X0) \
	X(0F3A, 66, 63, 63, VEC, SSE42, A_GEN, ALU, WCX, RRR, Vdq, Wdq, Iub) \
	S_V(X, 0F3A, NP, cc, SHA, XRR, Vdq, Wdq, Iub) \
	S_V(X, 0F3A, 66, ce, GFNI, XRR, Vdq, Wdq, Iub) \
	S_V(X, 0F3A, 66, cf, GFNI, XRR, Vdq, Wdq, Iub) \
	S_V(X, 0F3A, 66, df, AES, WRR, Vdq, Wdq, Iub)
/* clang-format on */

#define ROWS_SSE(X, L, G) ROWS_SSE_0F(X, L, G) ROWS_SSE_0F38(X) ROWS_SSE_0F3A(X)

#endif

/* decode_rows_x87.h: x87 instructions, opcodes D8..DF (SDM 2A §A.5). Private to decode_tables_legacy.c; notation as in decode_rows_int.h.
 */
#ifndef HUSK_TCG_DECODE_ROWS_X87_H
#define HUSK_TCG_DECODE_ROWS_X87_H

/* One row a line, in columns. */
/* clang-format off */
#define F_M(G, g, n, acc, m) G(g, M, n, X87, NONE, A_GEN, NONE, NONE, acc, m)
#define F_R(G, g, n) G(g, R, n, X87, NONE, A_GEN, NONE, NONE, XR, ST0, STi)
#define F_I(G, g, n) G(g, R, n, X87, NONE, A_GEN, NONE, NONE, XR, STi, ST0)
#define F_X(G, g, n) G(g, R, n, X87, NONE, A_GEN, NONE, NONE, XX, ST0, STi)
#define F_1(G, g, n) G(g, R, n, X87, NONE, A_GEN, NONE, NONE, XN, STi)
#define F_C(G, g, n, fl) G(g, R, n, X87, NONE, A_GEN, fl, NONE, XR, ST0, STi)
#define F_CI(G, g, n) G(g, R, n, X87, NONE, A_GEN, FCOMI, NONE, RR, ST0, STi)
#define F_0(G, g, n) G(g, M, n, X87, NONE, A_GEN, NONE, NONE, N, 0)
#define F_ROW8(G, F, g) F(G, g, 0) F(G, g, 1) F(G, g, 2) F(G, g, 3) F(G, g, 4) F(G, g, 5) F(G, g, 6) F(G, g, 7)
#define F_MEM8(G, g, m) \
	F_M(G, g, 0, R, m) F_M(G, g, 1, R, m) F_M(G, g, 2, R, m) F_M(G, g, 3, R, m) F_M(G, g, 4, R, m) F_M(G, g, 5, R, m) F_M(G, g, 6, R, m) \
	F_M(G, g, 7, R, m)

#define ROWS_X87(L, G, GL) \
	L(1, ALL, d8, d8, GROUP, d8, A_M, 0) \
	L(1, ALL, d9, d9, GROUP, d9, A_M, 0) \
	L(1, ALL, da, da, GROUP, da, A_M, 0) \
	L(1, ALL, db, db, GROUP, db, A_M, 0) \
	L(1, ALL, dc, dc, GROUP, dc, A_M, 0) \
	L(1, ALL, dd, dd, GROUP, dd, A_M, 0) \
	L(1, ALL, de, de, GROUP, de, A_M, 0) \
	L(1, ALL, df, df, GROUP, df, A_M, 0) \
	/* FADD FMUL FCOM FCOMP FSUB FSUBR FDIV FDIVR */ \
	F_MEM8(G, d8, Md) \
	F_ROW8(G, F_R, d8) \
	F_MEM8(G, dc, Mq) \
	F_ROW8(G, F_I, dc) \
	F_MEM8(G, da, Md) \
	F_MEM8(G, de, Mw) \
	/* D9 */ \
	F_M(G, d9, 0, R, Md) \
	F_M(G, d9, 2, W, Md) \
	F_M(G, d9, 3, W, Md) \
	G(d9, M, 4, FLDENV, NONE, 0, NONE, NONE, R, Menv) \
	F_M(G, d9, 5, R, Mw) \
	G(d9, M, 6, FNSTENV, NONE, 0, NONE, NONE, W, Menv) \
	F_M(G, d9, 7, W, Mw) \
	F_1(G, d9, 0) \
	F_X(G, d9, 1) \
	GL(d9, R, 2, BY_RM, d9_2) \
	F_1(G, d9, 3) \
	GL(d9, R, 4, BY_RM, d9_4) \
	GL(d9, R, 5, BY_RM, d9_5) \
	GL(d9, R, 6, BY_RM, d9_6) \
	GL(d9, R, 7, BY_RM, d9_7) \
	F_0(G, d9_2, 0) \
	F_0(G, d9_4, 0) F_0(G, d9_4, 1) F_0(G, d9_4, 4) F_0(G, d9_4, 5) \
	F_0(G, d9_5, 0) F_0(G, d9_5, 1) F_0(G, d9_5, 2) F_0(G, d9_5, 3) F_0(G, d9_5, 4) F_0(G, d9_5, 5) F_0(G, d9_5, 6) \
	F_ROW8(G, F_0, d9_6) \
	F_ROW8(G, F_0, d9_7) \
	/* DA: FCMOVB FCMOVE FCMOVBE FCMOVU, FUCOMPP */ \
	F_C(G, da, 0, FCMOVB) \
	F_C(G, da, 1, FCMOVE) \
	F_C(G, da, 2, FCMOVBE) \
	F_C(G, da, 3, FCMOVU) \
	GL(da, R, 5, BY_RM, da_5) \
	F_0(G, da_5, 1) \
	/* DB */ \
	F_M(G, db, 0, R, Md) \
	F_M(G, db, 1, W, Md) \
	F_M(G, db, 2, W, Md) \
	F_M(G, db, 3, W, Md) \
	F_M(G, db, 5, R, Mt) \
	F_M(G, db, 7, W, Mt) \
	F_C(G, db, 0, FCMOVB) \
	F_C(G, db, 1, FCMOVE) \
	F_C(G, db, 2, FCMOVBE) \
	F_C(G, db, 3, FCMOVU) \
	GL(db, R, 4, BY_RM, db_4) \
	F_CI(G, db, 5) \
	F_CI(G, db, 6) \
	F_0(G, db_4, 0) F_0(G, db_4, 1) F_0(G, db_4, 2) F_0(G, db_4, 3) F_0(G, db_4, 4) \
	/* DD */ \
	F_M(G, dd, 0, R, Mq) \
	F_M(G, dd, 1, W, Mq) \
	F_M(G, dd, 2, W, Mq) \
	F_M(G, dd, 3, W, Mq) \
	G(dd, M, 4, FRSTOR, NONE, 0, NONE, NONE, R, Msav) \
	G(dd, M, 6, FNSAVE, NONE, 0, NONE, NONE, W, Msav) \
	F_M(G, dd, 7, W, Mw) \
	F_1(G, dd, 0) \
	F_X(G, dd, 1) \
	F_I(G, dd, 2) \
	F_I(G, dd, 3) \
	F_I(G, dd, 4) \
	F_I(G, dd, 5) \
	/* DE */ \
	F_I(G, de, 0) \
	F_I(G, de, 1) \
	F_I(G, de, 2) \
	GL(de, R, 3, BY_RM, de_3) \
	F_I(G, de, 4) \
	F_I(G, de, 5) \
	F_I(G, de, 6) \
	F_I(G, de, 7) \
	F_0(G, de_3, 1) \
	/* DF */ \
	F_M(G, df, 0, R, Mw) \
	F_M(G, df, 1, W, Mw) \
	F_M(G, df, 2, W, Mw) \
	F_M(G, df, 3, W, Mw) \
	F_M(G, df, 4, R, Mt) \
	F_M(G, df, 5, R, Mq) \
	F_M(G, df, 6, W, Mt) \
	F_M(G, df, 7, W, Mq) \
	F_1(G, df, 0) \
	F_X(G, df, 1) \
	F_I(G, df, 2) \
	F_I(G, df, 3) \
	GL(df, R, 4, BY_RM, df_4) \
	F_CI(G, df, 5) \
	F_CI(G, df, 6) \
	G(df_4, M, 0, X87, NONE, A_GEN, NONE, NONE, W, AX)
/* clang-format on */

#endif

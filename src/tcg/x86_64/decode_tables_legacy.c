/* decode_tables_legacy.c: the opcode maps of instructions without VEX or EVEX prefix. */
#include "tcg/x86_64/decode_notation.h"
#include "tcg/x86_64/decode_rows_int.h"
#include "tcg/x86_64/decode_rows_sse.h"
#include "tcg/x86_64/decode_rows_x87.h"

#define ROWS_LEGACY(X, L, G, GL) \
	ROWS_MAP1(X, L) \
	ROWS_0F(X, L) \
	ROWS_0F38(X, L) \
	ROWS_GROUPS(G, GL) \
	ROWS_SSE(X, L, G) \
	ROWS_X87(L, G, GL)

/* Names of rows and groups. */
#define X_NAME(map, pp, lo, ...) E_##map##_##pp##_##lo,
#define G_NAME(g, sel, n, ...)	 E_##g##_##sel##_##n,
enum { E_NONE, ROWS_LEGACY(X_NAME, X_NAME, G_NAME, G_NAME) E_NR };
/* clang-format off */
enum { GR_g63, GR_g1, GR_g1a, GR_g2, GR_g3b, GR_g3v, GR_g4, GR_g5, GR_g6, GR_g7, GR_g7_66, GR_g7_f3, GR_g7_f2, GR_g7_vm, GR_g7_mon, GR_g7_xcr,
       GR_g7_svm, GR_g7_pkru, GR_g7_swapgs, GR_g7_uintr, GR_g7_tsxld, GR_g7_swapgs_p, GR_g7_tdx, GR_g8, GR_g9, GR_g9_66, GR_g9_f3, GR_g9_f2, GR_g11b, GR_g11v, GR_g11b_f8,
       GR_g11v_f8, GR_g0d, GR_g15, GR_g15_66, GR_g15_f3, GR_g15_f2, GR_g16, GR_g1c, GR_g1e, GR_g1e_f8, GR_gkl, GR_g12, GR_g12_66, GR_g13,
       GR_g13_66, GR_g14, GR_g14_66, GR_d8, GR_d9, GR_da, GR_db, GR_dc, GR_dd, GR_de, GR_df, GR_d9_2, GR_d9_4, GR_d9_5, GR_d9_6, GR_d9_7,
       GR_da_5, GR_db_4, GR_de_3, GR_df_4, GR_NR };
/* clang-format on */

/* Rows. */
#define X_ROW(map, pp, lo, hi, op, feat, attr, flags, impl, acc, ...) ROW(op, feat, NONE, PPA_##pp | (attr), flags, impl, acc, __VA_ARGS__)
#define L_ROW(map, pp, lo, hi, kind, group, attr, ...)		      SUBROW(kind, GR_##group, PPA_##pp | (attr), __VA_ARGS__)
#define G_ROW(g, sel, n, op, feat, attr, flags, impl, acc, ...)	      ROW(op, feat, NONE, attr, flags, impl, acc, __VA_ARGS__)
#define GL_ROW(g, sel, n, kind, group)				      SUBROW(kind, GR_##group, A_M, 0)
#define PPA_ALL							      0
#define PPA_N6							      0
#define PPA_NNF3						      0
#define PPA_N0							      0
#define PPA_O6							      0
#define PPA_NP							      A_PP
#define PPA_66							      A_PP
#define PPA_F3							      A_PP
#define PPA_F2							      A_PP
const struct decode_row decode_legacy_rows[E_NR] = {{0}, ROWS_LEGACY(X_ROW, L_ROW, G_ROW, GL_ROW)};

/* Index. */
#define MAPNO_1			      0
#define MAPNO_0F		      1
#define MAPNO_0F38		      2
#define MAPNO_0F3A		      3
#define AT(map, pp, lo, hi)	      [MAPNO_##map * 1024 + (pp)*256 + 0x##lo... MAPNO_##map * 1024 + (pp)*256 + 0x##hi]
#define IX_NP(map, lo, hi, e)	      AT(map, 0, lo, hi) = e,
#define IX_66(map, lo, hi, e)	      AT(map, 1, lo, hi) = e,
#define IX_O6(map, lo, hi, e)	      IX_66(map, lo, hi, e)
#define IX_F3(map, lo, hi, e)	      AT(map, 2, lo, hi) = e,
#define IX_F2(map, lo, hi, e)	      AT(map, 3, lo, hi) = e,
#define IX_N6(map, lo, hi, e)	      IX_NP(map, lo, hi, e) IX_66(map, lo, hi, e)
#define IX_N0(map, lo, hi, e)	      IX_66(map, lo, hi, e) IX_F3(map, lo, hi, e) IX_F2(map, lo, hi, e)
#define IX_NNF3(map, lo, hi, e)	      IX_NP(map, lo, hi, e) IX_66(map, lo, hi, e) IX_F2(map, lo, hi, e)
#define IX_ALL(map, lo, hi, e)	      IX_NP(map, lo, hi, e) IX_N0(map, lo, hi, e)
#define X_INDEX(map, pp, lo, hi, ...) IX_##pp(map, lo, hi, E_##map##_##pp##_##lo)
#define G_SKIP(...)
const u16 decode_legacy_index[4 * 4 * 256] = {ROWS_LEGACY(X_INDEX, X_INDEX, G_SKIP, G_SKIP)};

/* Groups. */
#define X_SKIP(...)
#define IG_M(g, n, e)		[GR_##g][n] = e,
#define IG_R(g, n, e)		[GR_##g][8 + (n)] = e,
#define IG_A(g, n, e)		IG_M(g, n, e) IG_R(g, n, e)
#define G_INDEX(g, sel, n, ...) IG_##sel(g, n, E_##g##_##sel##_##n)
const u16 decode_legacy_groups[GR_NR][16] = {ROWS_LEGACY(X_SKIP, X_SKIP, G_INDEX, G_INDEX)};

const struct decode_tables decode_legacy = {decode_legacy_rows, decode_legacy_index, decode_legacy_groups};

/* decode_tables_evex.c: the opcode maps of instructions with an EVEX prefix. */
#include "tcg/x86_64/decode_notation.h"
#include "tcg/x86_64/decode_rows_evex.h"
#include "tcg/x86_64/decode_rows_fp16.h"

#define ROWS_EVEX(X, L, G) ROWS_EVEX_0F(X, L, G) ROWS_EVEX_0F38(X, L, G) ROWS_EVEX_0F3A(X) ROWS_EVEX_M5(X, L, G) ROWS_EVEX_M6(X)

/* Names of rows and groups. */
#define X_NAME(map, pp, w, opcode, ...) E_##map##_##pp##_##w##_##opcode,
#define G_NAME(g, n, ...)		E_##g##_##n,
enum { E_NONE, ROWS_EVEX(X_NAME, X_NAME, G_NAME) E_NR };
enum {
	GR_movss_load,
	GR_movsd_load,
	GR_movss_store,
	GR_movsd_store,
	GR_movsh_load,
	GR_movsh_store,
	GR_g12,
	GR_g13w0,
	GR_g13w1,
	GR_g14w0,
	GR_g14w1,
	GR_NR
};

#define X_ROW(map, pp, w, opcode, op, feat, attr, flags, acc, ...) ROW(op, feat, NONE, A_PP | (attr), flags, NONE, acc, __VA_ARGS__)
#define L_ROW(map, pp, w, opcode, kind, group, ...)		   SUBROW(kind, GR_##group, A_PP, __VA_ARGS__)
#define G_ROW(g, n, op, feat, attr, acc, ...)			   ROW(op, feat, NONE, A_PP | (attr), NONE, NONE, acc, __VA_ARGS__)
static const struct decode_row rows[E_NR] = {{0}, ROWS_EVEX(X_ROW, L_ROW, G_ROW)};

#define PP_NP				 0
#define PP_66				 1
#define PP_F3				 2
#define PP_F2				 3
#define MAPNO_0F			 0
#define MAPNO_0F38			 1
#define MAPNO_0F3A			 2
#define MAPNO_M5			 3
#define MAPNO_M6			 4
#define AT(map, pp, w, opcode)		 [MAPNO_##map * 2048 + PP_##pp * 512 + (w)*256 + 0x##opcode]
#define IX_0(map, pp, opcode, e)	 AT(map, pp, 0, opcode) = e,
#define IX_1(map, pp, opcode, e)	 AT(map, pp, 1, opcode) = e,
#define IX_I(map, pp, opcode, e)	 IX_0(map, pp, opcode, e) IX_1(map, pp, opcode, e)
#define X_INDEX(map, pp, w, opcode, ...) IX_##w(map, pp, opcode, E_##map##_##pp##_##w##_##opcode)
#define G_SKIP(...)
static const u16 index_evex[5 * 4 * 2 * 256] = {ROWS_EVEX(X_INDEX, X_INDEX, G_SKIP)};

#define X_SKIP(...)
#define G_INDEX(g, n, ...) [GR_##g][n] = E_##g##_##n, [GR_##g][8 + (n)] = E_##g##_##n,
static const u16 groups_evex[GR_NR][16] = {ROWS_EVEX(X_SKIP, X_SKIP, G_INDEX)};

const struct decode_tables decode_evex = {rows, index_evex, groups_evex};

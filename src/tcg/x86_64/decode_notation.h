/* decode_notation.h: operands as SDM 2A appendix A names them. Private to decode_tables_*.c. */
#ifndef HUSK_TCG_DECODE_NOTATION_H
#define HUSK_TCG_DECODE_NOTATION_H

#include "tcg/x86_64/decode_tables.h"

/* In columns. */
/* clang-format off */
#define O_(letter, size) (L_##letter << 8 | S_##size)
enum {
	/* general registers and memory */
	E0 = O_(E, 0), Eb = O_(E, b), Ew = O_(E, w), Ed = O_(E, d), Ev = O_(E, v), Ez = O_(E, z), Ey = O_(E, y), Ewv = O_(E, wv), Ebd = O_(E, bd),
	Ewd = O_(E, wd), Eq = O_(E, q),
	Gb = O_(G, b), Gw = O_(G, w), Gd = O_(G, d), Gv = O_(G, v), Gz = O_(G, z), Gy = O_(G, y), Gq = O_(G, q),
	R0 = O_(R, 0), Rd = O_(R, d), Rv = O_(R, v), Ry = O_(R, y), Rq = O_(R, q), Rb = O_(R, b), Rw = O_(R, w),
	By = O_(B, y), Bd = O_(B, d), Bq = O_(B, q),
	Zb = O_(Z, b), Zv = O_(Z, v), AL = O_(AX, b), rAX = O_(AX, v), AX = O_(AX, w), CL = O_(CX, b), DX = O_(DX, w),
	/* memory only */
	M0 = O_(M, 0), Mb = O_(M, b), Mw = O_(M, w), Md = O_(M, d), Mq = O_(M, q), Mdq = O_(M, dq), Mqq = O_(M, qq), Moq = O_(M, oq), Mt = O_(M, t),
	Mv = O_(M, v), My = O_(M, y), Mz = O_(M, z), Mp = O_(M, p), Ma = O_(M, a), Ms = O_(M, s), Menv = O_(M, env), Msav = O_(M, sav),
	Mcx = O_(M, cx), Mf512 = O_(M, f512), Mx = O_(M, x), Mhx = O_(M, hx), Me = O_(M, e),
	Ob = O_(O, b), Ov = O_(O, v),
	/* immediates */
	Ib = O_(I, b), Iub = O_(I, ub), Ibv = O_(I, bv), Iw = O_(I, w), Iz = O_(I, z), Iv = O_(I, v), One = O_(ONE, b),
	Jb = O_(J, bv), Jz = O_(J, z), Ap = O_(A, p),
	/* segment, control, debug registers */
	Sw = O_(S, w), Cy = O_(C, y), Dy = O_(D, y),
	/* MMX */
	Pq = O_(P, q), Pd = O_(P, d), Qq = O_(Q, q), Qd = O_(Q, d), Nq = O_(N, q),
	/* vectors; x is the vector length, e an element of 4 or 8 bytes by W */
	Vb = O_(V, b), Vw = O_(V, w), Vd = O_(V, d), Vq = O_(V, q), Vdq = O_(V, dq), Vqq = O_(V, qq), Voq = O_(V, oq), Vx = O_(V, x), Vhx = O_(V, hx), Vqx = O_(V, qx),
	Vox = O_(V, ox), Ve = O_(V, e),
	Wb = O_(W, b), Ww = O_(W, w), Wd = O_(W, d), Wq = O_(W, q), Wdq = O_(W, dq), Wqq = O_(W, qq), Woq = O_(W, oq), Wx = O_(W, x), Whx = O_(W, hx),
	Wqx = O_(W, qx), Wox = O_(W, ox), We = O_(W, e), Wdup = O_(W, dup),
	Uw = O_(U, w), Ud = O_(U, d), Uq = O_(U, q), Udq = O_(U, dq), Ux = O_(U, x), Uqq = O_(U, qq), Uhx = O_(U, hx), Uqx = O_(U, qx), Ue = O_(U, e),
	Hw = O_(H, w), Hd = O_(H, d), Hq = O_(H, q), Hdq = O_(H, dq), Hqq = O_(H, qq), Hoq = O_(H, oq), Hx = O_(H, x), Hhx = O_(H, hx), He = O_(H, e),
	Lx = O_(L, x), X0 = O_(X0, dq),
	VMe = O_(VM, e), VMd = O_(VM, d), VMq = O_(VM, q),
	/* opmasks */
	KGb = O_(KG, b), KGw = O_(KG, w), KGd = O_(KG, d), KGq = O_(KG, q), KEb = O_(KE, b), KEw = O_(KE, w), KEd = O_(KE, d), KEq = O_(KE, q),
	KRb = O_(KR, b), KRw = O_(KR, w), KRd = O_(KR, d), KRq = O_(KR, q), KHb = O_(KH, b), KHw = O_(KH, w), KHd = O_(KH, d), KHq = O_(KH, q),
	/* x87 */
	ST0 = O_(S0, t), STi = O_(ST, t),
};
/* clang-format on */

#endif

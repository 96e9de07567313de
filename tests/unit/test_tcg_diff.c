/*
 * test_tcg_diff.c: the processor is the oracle for the translator and the interpreter: random instructions and random sequences, run three
 * times from the same state, must leave the same registers, flags (those that the manuals leave open too), vector and x87 state and memory,
 * or fault in the same place in the same way.
 *
 * TCG_DIFF_SECONDS, TCG_DIFF_COUNT: how long; TCG_DIFF_SEED: which; TCG_DIFF_ONLY=0..3: one kind (enum kind). A failure prints the
 * seed of its case, which TCG_DIFF_SEED with TCG_DIFF_COUNT=1 repeats.
 */
#include "tcg_diff_seq.h"

#include <dlfcn.h>
#include <time.h>
#if __has_include(<capstone/capstone.h>)
#define x86_insn cs_x86_insn /* decode.h has one too */
#include <capstone/capstone.h>
#undef x86_insn
#define HAVE_CAPSTONE
#endif

enum kind { ONE_INTEGER, ONE_VECTOR, SEQUENCE, MIXED_SEQUENCE, KINDS };

static struct {
	struct gen g;
	enum kind kind;
	bool fp;
	u64 seed;
	const char *what;
	bool interp; /* it was the interpreter that differed */
	u64 done, clean, faults, aborted, unsettled;
} d;

/* ---- start states ---- */

static void random_lane(u8 *at)
{
	static const u64 patterns[] = {0,
				       ~0ull,
				       0x3ff0000000000000,
				       0x3f8000003f800000,
				       0x7ff0000000000000,
				       0x7f800000ff800000,
				       0x7ff8000000000000,
				       0x7fc00000ffc00001,
				       0x0000000100800000,
				       0x8000000000000000,
				       0x0010000000000000,
				       0x4330000000000000};
	u64 v = one_in(3) ? patterns[below(ARRAY_SIZE(patterns))] : one_in(3) ? value() : rnd();

	memcpy(at, &v, 8);
}

static void random_x87(u8 *fp)
{
	u16 fcw = one_in(4) ? (u16)(0x40 | (rnd() & 0xf3f)) : 0x37f;

	if (!one_in(8))
		fcw |= 0x3f;
	memcpy(fp, &fcw, 2);
	fp[3] = (u8)((below(8) << 3) | (below(2) << 6) | below(8)); /* FSW: top, conditions; no exception is pending */
	fp[2] = 0;
	fp[4] = one_in(2) ? 0 : (u8)rnd(); /* tags */
	for (u32 i = 0; i < 8; i++) {
		u8 *st = fp + XS_ST + 16 * i;

		random_lane(st);
		st[7] |= one_in(8) ? 0 : 0x80;
		st[8] = (u8)rnd();
		st[9] = (u8)(one_in(4) ? rnd() : 0x3f + below(2) + (one_in(2) ? 0x80 : 0));
		if (one_in(2))
			st[8] = (u8)(0xf0 + below(16));
	}
}

static void random_fp(u8 *fp)
{
	const struct fpu *f = fpu_of(rig->c);
	u64 bv = f->mask;
	u32 mxcsr = one_in(4) ? 0x1f80u | (u32)(rnd() & 0xe07f) : MXCSR_RESET;

	memset(fp, 0, X86_XSAVE_MAX);
	for (u32 i = XS_XMM; i < XS_XMM + 256; i += 8)
		random_lane(fp + i);
	for (u32 n = 2; n < XS_NR; n++)
		for (u32 i = 0; f->mask >> n & 1 && i < (n == 2 ? 256u : n == 5 ? 64u : n == 6 ? 512u : 1024u); i += 8)
			random_lane(fp + f->offset[n] + i);
	random_x87(fp);
	if (one_in(12))
		mxcsr &= ~(u32)(rnd() & 0x1f80);
	mxcsr &= f->mxcsr_mask;
	memcpy(fp + XS_MXCSR, &mxcsr, 4);
	if (one_in(6))
		bv &= rnd() | XS_SSE;
	memcpy(fp + XS_STATE_BV, &bv, 8);
}

/* CMPXCHG finds what it compares with. */
static void match_memory(const struct gen *g, const u8 *insn)
{
	struct x86_insn in;
	u64 at;

	if (!x86_decode(&in, insn, 15, 64, false) || (in.op != OP_CMPXCHG && in.op != OP_CMPXCHG8B && in.op != OP_CMPXCHG16B) ||
	    in.mod == 3 || !(g->chosen & BIT(X86_RAX)) || in.mem.base > 15 || in.mem.index != X86_NO_REG)
		return;
	at = rig->start.gpr[in.mem.base] + (u64)(s64)in.mem.disp - DATA;
	if (at >= 8192 - 16)
		return;
	memcpy(&rig->start.gpr[X86_RAX], rig->start.page[0] + at, 8);
	memcpy(&rig->start.gpr[X86_RDX], rig->start.page[0] + at + (in.op == OP_CMPXCHG8B ? 4 : 8), 8);
}

static void random_start(const struct gen *g)
{
	struct image *s = &rig->start;

	for (u32 i = 0; i < 16; i++)
		s->gpr[i] = g->single && g->chosen >> i & 1 && (g->gpr[i] || i != X86_RAX) ? g->gpr[i] : value();
	if (!(g->single && g->chosen & BIT(X86_RSP)))
		s->gpr[X86_RSP] = STACK + 2048 + below(8) * 8;
	s->rflags = 0x202 | (rnd() & X86_FLAGS_ARITH);
	if (one_in(8))
		s->rflags |= X86_FLAG_DF;
	s->rip = g->start;
	if (d.fp && one_in(4))
		random_fp(s->fp);
	if (g->single)
		match_memory(g, g->part[g->nr - 2].bytes);
}

/* Out of few values, for the time it takes. */
static void random_memory(void)
{
	struct image *s = &rig->start;
	u8 lanes[256][8];

	for (u32 i = 0; i < ARRAY_SIZE(lanes); i++)
		random_lane(lanes[i]);
	for (u32 p = 0; p < KEPT_FIRST_CODE; p++)
		for (u32 i = 0; i < MEM_PAGE_SIZE; i += 64) {
			u64 which = rnd();

			for (u32 k = 0; k < 8; k++)
				memcpy(s->page[p] + i + 8 * k, lanes[which >> 8 * k & 255], 8);
		}
}

/* ---- comparison ---- */

/* Flags that code at rip reads before it writes them, on a straight way. */
static u64 flags_read_at(const struct image *m, u64 rip)
{
	u64 need = 0, open = X86_FLAGS_ARITH;
	struct x86_insn in;

	for (u32 i = 0; i < 16 && open && rip - CODE < CODE_BYTES - 15; i++) {
		if (!x86_decode(&in, m->page[KEPT_FIRST_CODE] + (rip - CODE), 15, 64, false) || in.op == OP_UD)
			break;
		need |= in.flags_read & open;
		open &= ~(u64)in.flags_kill;
		if (in.op >= OP_CALL && in.op <= OP_SYSEXIT)
			break;
		rip += in.len;
	}
	return need;
}

/* A component in its initial state may have any bytes. */
static bool fp_differs(const u8 *a, const u8 *b, u32 n, u32 from, u32 size)
{
	u64 bva = ld_le64(a + XS_STATE_BV) >> n & 1, bvb = ld_le64(b + XS_STATE_BV) >> n & 1;

	for (u32 i = 0; i < size; i++)
		if ((bva ? a[from + i] : 0) != (bvb ? b[from + i] : 0))
			return true;
	return false;
}

static bool x87_differs(const u8 *a, const u8 *b)
{
	static const u8 init[XS_XMM] = {0x7f, 0x03};
	const u8 *x = ld_le64(a + XS_STATE_BV) & XS_X87 ? a : init, *y = ld_le64(b + XS_STATE_BV) & XS_X87 ? b : init;

	if (memcmp(x, y, 5) != 0)
		return true;
	for (u32 i = 0; i < 8; i++)
		if (memcmp(x + XS_ST + 16 * i, y + XS_ST + 16 * i, 10) != 0)
			return true;
	return false;
}

static const char *fp_compare(const u8 *a, const u8 *b)
{
	static const u32 sizes[XS_NR] = {0, 0, 256, 0, 0, 64, 512, 1024};
	static const char *const names[XS_NR] = {"x87", "xmm", "ymm", "", "", "k", "zmm upper half", "zmm16-31"};
	const struct fpu *f = fpu_of(rig->c);

	if (x87_differs(a, b))
		return names[0];
	if (fp_differs(a, b, 1, XS_XMM, 256))
		return names[1];
	if (ld_le32(a + XS_MXCSR) != ld_le32(b + XS_MXCSR))
		return "mxcsr";
	for (u32 n = 2; n < XS_NR; n++)
		if (f->mask >> n & 1 && fp_differs(a, b, n, f->offset[n], sizes[n]))
			return names[n];
	return NULL;
}

/* The instruction at the fault. */
static bool decode_fault(const struct image *m, struct x86_insn *in)
{
	return m->vector != CLEAN && m->rip - CODE < CODE_BYTES - 15 &&
	       x86_decode(in, m->page[KEPT_FIRST_CODE] + (m->rip - CODE), 15, 64, false);
}

/* A store of an MMX register that faults has already marked the x87 registers as in use, on this processor. */
static bool is_faulted_mmx(const struct image *m)
{
	struct x86_insn in;

	if (!decode_fault(m, &in))
		return false;
	for (u32 i = 0; i < in.nr_opnds; i++)
		if (in.opnd[i].kind == OPND_MMX)
			return true;
	return false;
}

/* VCVTPS2PH may have set MXCSR's flags when its store faults (SDM 2C). */
static bool is_faulted_convert(const struct image *m)
{
	struct x86_insn in;

	return decode_fault(m, &in) && in.map == MAP_0F3A && in.opcode == 0x1d && in.enc != ENC_LEGACY;
}

/* A fault in the middle of REP CMPS or SCAS: flags are those from before, or, if an interrupt came in between, of the last elements. */
static bool is_faulted_compare(const struct image *m)
{
	struct x86_insn in;

	return decode_fault(m, &in) && (in.op == OP_CMPS || in.op == OP_SCAS) && in.rep;
}

/* FSTP m80 and FBSTP over the end of a page are two stores to this processor: the first is done when the second faults. */
static bool is_torn_store(const struct image *m)
{
	struct x86_insn in;

	return decode_fault(m, &in) && in.op == OP_X87 && in.mem.size == 10;
}

/* An x87 store with an unmasked exception leaves its operand alone, and does not fault there: the interpreter looks first. */
static bool is_masked_x87_fault(const struct image *g)
{
	struct x86_insn in;

	return decode_fault(g, &in) && in.op == OP_X87 && in.mem.access & OPND_W && (ld_le16(g->fp) & 0x3f) != 0x3f;
}

/* To a page that is not there, what VCVTPS2PH raises first is the processor's choice (SDM 3A §6.9): #XM, or the store's #PF. */
static bool is_early_convert(const struct image *n, const struct image *g)
{
	return n->vector == X86_XM && g->vector == X86_PF && is_faulted_convert(g);
}

static const char *compare(bool translator)
{
	const struct image *n = &rig->native, *g = &rig->guest;
	u64 flags = X86_FLAGS_ARITH | X86_FLAG_DF;

	if (n->vector != g->vector)
		return d.fp && (is_masked_x87_fault(g) || is_early_convert(n, g)) ? NULL : "fault";
	if (n->rip != g->rip)
		return "rip";
	if (n->vector == X86_PF && n->cr2 != g->cr2)
		return "cr2";
	if (n->vector == X86_PF && (n->error ^ g->error) & (PF_W | PF_I))
		return "error code";
	for (u32 i = 0; i < 16; i++)
		if (n->gpr[i] != g->gpr[i])
			return "register";
	/* The translator keeps flags at a fault only for who reads them later. */
	if (translator && n->vector != CLEAN)
		flags = X86_FLAG_DF | flags_read_at(n, n->rip);
	if (is_faulted_compare(n))
		flags = X86_FLAG_DF;
	if ((n->rflags ^ g->rflags) & flags)
		return "flag";
	if (memcmp(n->page, g->page, sizeof(n->page)) != 0 && !(d.fp && is_torn_store(n)))
		return "memory";
	if (!d.fp || is_faulted_mmx(n) || is_faulted_convert(n))
		return NULL;
	return fp_compare(n->fp, g->fp);
}

/* ---- one case ---- */

/* What the decoder says about flags: those that are killed, or not read, cannot make a difference to anything else. */
static const char *check_effects(void)
{
	u64 old = rig->start.rflags, change, kept_flags;
	struct x86_insn in;

	if (!x86_decode(&in, d.g.part[d.g.nr - 2].bytes, 15, 64, false))
		return NULL;
	change = rnd() & X86_FLAGS_ARITH & ~(u64)in.flags_read;
	kept_flags = change & ~(u64)in.flags_kill;
	rig->guest = rig->native;
	rig->start.rflags ^= change;
	d.interp = true;
	if (!rig_run_native(d.fp))
		return NULL;
	rig->start.rflags = old;
	if (rig->native.vector != CLEAN)
		return NULL;
	return memcmp(rig->native.gpr, rig->guest.gpr, sizeof(rig->native.gpr))		  ? "result for other flags"
	       : (rig->native.rflags ^ rig->guest.rflags) & X86_FLAGS_ARITH & ~kept_flags ? "dependence of flags"
											  : NULL;
}

/* NULL: all three agree. */
static const char *run_once(void)
{
	const char *what;

	if (!rig_run_native(d.fp)) {
		d.aborted++;
		return NULL;
	}
	d.interp = false;
	for (u32 i = 0; i < 2; i++) { /* new, then linked */
		rig_run_guest(true);
		what = compare(true);
		if (what)
			return what;
	}
	if (d.g.own)
		return NULL;
	d.interp = true;
	rig_run_guest(false);
	what = compare(false);
	if (!what && d.g.single && d.g.part[d.g.nr - 2].len && rig->native.vector == CLEAN && one_in(4))
		what = check_effects();
	return what;
}

static void write_code(struct gen *g)
{
	u8 *code = rig->start.page[KEPT_FIRST_CODE];

	memset(code + CODE_ZONE, 0xcc, CODE_BYTES - CODE_ZONE);
	if (!assemble(g, code))
		g->nr = 0;
	rig_forget_code();
}

static void print_part(const u8 *b, u32 n, u64 at)
{
	printf("#   %llx:", (unsigned long long)at);
	for (u32 i = 0; i < n; i++)
		printf(" %02x", b[i]);
#ifdef HAVE_CAPSTONE
	static void *lib;
	cs_err (*open)(cs_arch, cs_mode, csh *);
	size_t (*disasm)(csh, const uint8_t *, size_t, uint64_t, size_t, cs_insn **);
	csh h;
	cs_insn *insn;

	lib = lib ? lib : dlopen("libcapstone.so.4", RTLD_NOW);
	if (lib) {
		*(void **)&open = dlsym(lib, "cs_open");
		*(void **)&disasm = dlsym(lib, "cs_disasm");
		if (open && disasm && open(CS_ARCH_X86, CS_MODE_64, &h) == CS_ERR_OK && disasm(h, b, n, at, 1, &insn))
			printf("%*s %s %s", n < 11 ? 3 * (int)(11 - n) : 0, "", insn->mnemonic, insn->op_str);
	}
#endif
	printf("\n");
}

static void complain(const char *what)
{
	const struct image *s = &rig->start, *n = &rig->native, *g = &rig->guest;
	u64 at = d.g.start;

	printf("# %s: %s differs; TCG_DIFF_ONLY=%d TCG_DIFF_COUNT=1 TCG_DIFF_SEED=0x%llx, mode %u\n",
	       d.interp ? "interpreter" : "translator", what, d.kind, (unsigned long long)d.seed, rig->mode);
	for (u32 i = 0; i < d.g.nr; i++) {
		if (d.g.part[i].len)
			print_part(d.g.part[i].bytes, d.g.part[i].len, at);
		at += d.g.part[i].len;
	}
	printf("#   native: vector %u rip %llx cr2 %llx error %x; guest: vector %u rip %llx cr2 %llx error %x\n", n->vector,
	       (unsigned long long)n->rip, (unsigned long long)n->cr2, n->error, g->vector, (unsigned long long)g->rip,
	       (unsigned long long)g->cr2, g->error);
	for (u32 i = 0; i < 16; i++)
		printf("#   r%-2u start %016llx native %016llx guest %016llx%s\n", i, (unsigned long long)s->gpr[i],
		       (unsigned long long)n->gpr[i], (unsigned long long)g->gpr[i], n->gpr[i] == g->gpr[i] ? "" : " <--");
	printf("#   flags start %llx native %llx guest %llx\n", (unsigned long long)s->rflags & 0xcd5,
	       (unsigned long long)n->rflags & 0xcd5, (unsigned long long)g->rflags & 0xcd5);
	for (u32 p = 0, shown = 0; p < ARRAY_SIZE(kept); p++)
		for (u32 i = 0; i < MEM_PAGE_SIZE && shown < 8; i++)
			if (n->page[p][i] != g->page[p][i])
				printf("#   %llx: start %02x native %02x guest %02x\n", (unsigned long long)PAGE(kept[p]) + i,
				       s->page[p][i], n->page[p][i], g->page[p][i]),
					shown++;
	for (u32 i = 0, shown = 0; d.fp && i < X86_XSAVE_MAX && shown < 8; i++)
		if (n->fp[i] != g->fp[i] && (i < 6 || i >= 24))
			printf("#   xsave+%u: start %02x native %02x guest %02x\n", i, s->fp[i], n->fp[i], g->fp[i]), shown++;
}

/* Drops instructions as long as something still differs. */
static const char *shrink(const char *what)
{
	for (bool again = true; again;) {
		again = false;
		for (u32 i = 0; i + 1 < d.g.nr; i++) {
			struct gen saved = d.g;
			const char *still;

			if (!d.g.part[i].len)
				continue;
			d.g.part[i].len = 0;
			write_code(&d.g);
			still = d.g.nr ? run_once() : NULL;
			if (still && strcmp(still, what) == 0)
				again = true;
			else
				d.g = saved;
		}
	}
	write_code(&d.g);
	return run_once();
}

static void pick_mode(void)
{
	enum rig_mode mode = one_in(3) ? (one_in(2) ? RIG_KERNEL : RIG_KERNEL_AC) : RIG_USER;

	if (mode != rig->mode || one_in(16))
		rig_set_mode(mode);
}

/* Code, and some start states for it. False: they differ. */
static bool run_case(u32 rounds)
{
	const char *what;

	d.fp = d.kind == ONE_VECTOR || d.kind == MIXED_SEQUENCE;
	if (d.kind == ONE_INTEGER || d.kind == ONE_VECTOR)
		make_single(&d.g, d.fp);
	else
		make_sequence(&d.g, d.fp);
	if (d.fp)
		random_fp(rig->start.fp);
	pick_mode();
	write_code(&d.g);
	for (u32 i = 0; i < rounds && d.g.nr; i++) {
		random_start(&d.g);
		if (one_in(8))
			mmu_flush_all(rig->c);
		what = run_once();
		if (what) {
			const char *shrunk;

			if (getenv("TCG_DIFF_VERBOSE"))
				complain(what);
			shrunk = shrink(what);
			if (!shrunk)
				printf("# does not happen again; what is left of it:\n");
			complain(shrunk ? shrunk : what);
			return false;
		}
		d.done++;
		d.clean += rig->native.vector == CLEAN;
	}
	return true;
}

static u64 from_env(const char *name, u64 otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

static void translator_and_interpreter_do_what_the_processor_does(void **state)
{
	static const u8 kinds[] = {ONE_INTEGER, ONE_INTEGER, ONE_INTEGER, ONE_VECTOR, ONE_VECTOR, SEQUENCE, SEQUENCE, MIXED_SEQUENCE};
	u64 count = from_env("TCG_DIFF_COUNT", 300000), seconds = from_env("TCG_DIFF_SECONDS", 0), base = from_env("TCG_DIFF_SEED", 1);
	u64 only = from_env("TCG_DIFF_ONLY", KINDS), wrong = 0, wrong_max = from_env("TCG_DIFF_WRONG", 3), begin = (u64)time(NULL);
	bool fixed = count == 1;

	(void)state;
	rig_take_signals();
	seed = 88172645463325252ull;
	random_fp(rig->start.fp);
	for (u64 n = 0; wrong < wrong_max && (seconds ? (u64)time(NULL) - begin < seconds : d.done < count); n++) {
		d.seed = fixed ? base : (base * 0x9e3779b97f4a7c15 + n) * 0xff51afd7ed558ccd | 1;
		seed = d.seed;
		random_memory();
		d.kind = kinds[below(ARRAY_SIZE(kinds))]; /* drawn in any case: a seed is to give the same case with and without ONLY */
		if (only < KINDS)
			d.kind = (enum kind)only;
		wrong += !run_case(4);
	}
	rig_drop_signals();
	print_message("# %llu instances, %llu to the end, %llu did not end, %llu requests on the way\n", (unsigned long long)d.done,
		      (unsigned long long)d.clean, (unsigned long long)d.aborted, (unsigned long long)rig->requests);
	assert_int_equal(wrong, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(translator_and_interpreter_do_what_the_processor_does),
	};

	return cmocka_run_group_tests_name("tcg_diff", tests, rig_setup, rig_teardown);
}

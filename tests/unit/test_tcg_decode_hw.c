/*
 * test_tcg_decode_hw.c: the decoder against the processor that the test runs on: lengths and validity of random bytes in 64-, 32- and
 * 16-bit code; and that instructions read, write and leave alone what the decoder says. In a child, for these instructions may break
 * anything.
 */
#include "cm.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "hw_probe.h"
#include "makers.h"
#include "tcg/cpumodel.h"
#include "tcg/tcg.h"
#include "tcg/x86_64/decode.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static u64 features[4];
static u64 seed = 0x9e3779b97f4a7c15;
static unsigned tried, wrong;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1d;
}

static bool host_has(u32 feat)
{
	return features[feat / 64] >> feat % 64 & 1;
}

static void find_features(void)
{
	struct x86_cpuid_table *host = calloc(1, sizeof(*host));

	cpumodel_build(host, cpumodel_host_cpuid);
	cpumodel_features(host, features);
	free(host);
}

static void print_bytes(const char *what, const u8 *bytes, u32 len)
{
	if (wrong++ > 20)
		return;
	fprintf(stderr, "%s:", what);
	for (u32 i = 0; i < len; i++)
		fprintf(stderr, " %02x", bytes[i]);
	fprintf(stderr, "\n");
}

/* Runs f in a child. Returns whether all was right. */
static void in_child(void (*f)(void))
{
	int status;
	pid_t pid;

	if (SANITIZED) /* sanitizers take the signals */
		return;
	find_features();
	fflush(NULL);
	pid = fork();
	if (!pid) {
		alarm(50);
		hw_init();
		f();
		printf("# %u tried, %u wrong\n", tried, wrong);
		fflush(NULL);
		_exit(wrong || !tried);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* ---- lengths and validity ---- */

/* What the test's process may not do, or what another privilege or hypervisor answers in its own way. */
static bool is_off_limits(const struct x86_insn *in)
{
	switch (in->op) {
	case OP_SYSENTER:
	case OP_SYSCALL: /* #UD on Intel outside 64-bit code: the executor's business */
	case OP_SYSRET:
	case OP_WRFSBASE:
	case OP_WRGSBASE:
	case OP_WBINVD:
	case OP_CPUID:
	case OP_MONITOR: /* #UD and not #GP outside ring 0 */
	case OP_MWAIT:
	case OP_STAC:
	case OP_CLAC:
	case OP_RSM:
	case OP_UNSUPPORTED:
		return true;
	case OP_UD: /* VMCALL and VMMCALL with prefixes: KVM emulates them */
		return in->map == MAP_0F && in->opcode == 0x01;
	default:
		return !host_has(in->feat) || !host_has(in->feat2);
	}
}

static void probe_one(const u8 *bytes, u32 mode)
{
	struct x86_insn in;
	u32 len = x86_decode(&in, bytes, 15, mode, false), theirs;
	bool ud = in.op == OP_UD;
	enum hw_result result = HW_MORE;

	if (is_off_limits(&in) || makers_differ(&in))
		return;
	tried++;
	if (len > 1)
		result = hw_run(bytes, len - 1, mode);
	if (result == HW_MORE) {
		result = hw_run(bytes, len, mode);
		if (result != HW_MORE && (result == HW_UD) == ud)
			return;
	}
	/* How far it reads what is no instruction is nobody's business; more than 15 bytes are #GP. */
	theirs = hw_length(bytes, mode, &result);
	if (ud && (result == HW_UD || (in.imm == 1 && theirs == 15)))
		return;
	fprintf(stderr, "%u-bit: op %u, length %u, the processor's %u (result %d)", mode, in.op, len, theirs, result);
	print_bytes("", bytes, 15);
}

/* Prefixes, an opcode of some map, ModRM; 33 for the rest, which makes no address that is mapped. */
static void random_insn(u8 *bytes)
{
	static const u8 prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64,
				      0x65, 0x66, 0x40, 0x41, 0x42, 0x44, 0x48, 0x49, 0x4f};
	u32 n = 0, nr = (u32)rnd() % 8, map = (u32)rnd() % 3;

	memset(bytes, 0x33, 32);
	for (nr = nr < 3 ? nr : nr < 6 ? 0 : nr - 5; nr; nr--)
		bytes[n++] = prefixes[rnd() % ARRAY_SIZE(prefixes)];
	switch (rnd() % 4) {
	case 0:
		break;
	case 1:
		bytes[n++] = 0x0f;
		if (map)
			bytes[n++] = map == 1 ? 0x38 : 0x3a;
		break;
	case 2:
		bytes[n++] = 0xc4;
		bytes[n++] = (u8)((rnd() & 0xe0) | (1 + map));
		bytes[n++] = (u8)(rnd() | (rnd() & 1 ? 0x78 : 0));
		break;
	default:
		bytes[n++] = 0x62;
		bytes[n++] = (u8)((rnd() & 0xf0) | "\1\2\3\5\6"[rnd() % 5]);
		bytes[n++] = (u8)(rnd() | (rnd() & 1 ? 0x7c : 4));
		bytes[n++] = (u8)(rnd() & 1 ? rnd() : (rnd() & 0x7f) | 8);
	}
	for (nr = 3; nr; nr--)
		bytes[n++] = (u8)rnd();
}

static void probe_random(void)
{
	u8 bytes[32];

	for (u32 i = 0; i < 100000; i++) {
		random_insn(bytes);
		probe_one(bytes, 64);
		if (i % 4 == 0)
			probe_one(bytes, 32);
		if (i % 4 == 1 && hw.has16)
			probe_one(bytes, 16);
	}
}

static void lengths_and_validity_are_the_processors(void **state)
{
	(void)state;
	in_child(probe_random);
}

/* ---- effects ---- */

static const u8 order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
			     REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* An instruction under test: its memory operand, if any, is [rbx]. */
static struct subject {
	struct x86_insn in;
	u64 gpr[16], flags;
	u8 *data;     /* a page, one that nothing may touch, one to read only */
	u8 *scratch;  /* strings and the stack */
	u64 contents; /* seed of data and scratch */
	u64 at;	      /* the memory operand, at the end of data */
	enum hw_result result;
	greg_t out[NGREG]; /* of the first run */
} s;

static enum hw_result run(u64 rbx)
{
	u64 keep = seed;

	seed = s.contents;
	for (u32 i = 0; i < 40; i++)
		((u64 *)(void *)s.data)[i] = ((u64 *)(void *)s.data)[511 - i] = rnd();
	for (u32 i = 48; i < 300; i++)
		((u64 *)(void *)s.scratch)[i] = rnd();
	seed = keep;
	for (u32 i = 0; i < 16; i++)
		hw.in[order[i]] = (greg_t)s.gpr[i];
	hw.in[REG_RBX] = (greg_t)rbx;
	hw.in[REG_EFL] = (greg_t)s.flags;
	return hw_run(s.in.bytes, s.in.len, 64);
}

static void report(const char *what, u64 a, u64 b)
{
	if (wrong <= 20)
		fprintf(stderr, "op %u reads %x writes %x; flags read %x written %x killed %x; memory %u bytes access %u: %llx %llx ",
			s.in.op, s.in.gpr_read, s.in.gpr_write, s.in.flags_read, s.in.flags_write, s.in.flags_kill, s.in.mem.size,
			s.in.mem.access, (unsigned long long)a, (unsigned long long)b);
	print_bytes(what, s.in.bytes, s.in.len);
}

static u64 flags_out(void)
{
	return (u64)hw.out[REG_EFL] & X86_FLAGS_ARITH;
}

/* Registers that are not read make no difference, those that are not written stay. */
static void check_registers(void)
{
	for (u32 i = 0; i < 16; i++) {
		u64 was = s.gpr[i];

		if (!(s.in.gpr_write & BIT(i)) && (u64)s.out[order[i]] != (i == X86_RBX ? s.at : was))
			report("writes another register", i, 0);
		if (s.in.gpr_read & BIT(i) || i == X86_RSP)
			continue;
		s.gpr[i] ^= rnd();
		if (run(i == X86_RBX ? s.gpr[i] : s.at) != s.result)
			report("reads another register", i, 0);
		for (u32 j = 0; j < 16; j++)
			if ((j != i || s.in.gpr_write & BIT(i)) && hw.out[order[j]] != s.out[order[j]])
				report("reads another register", i, j);
		if (flags_out() != ((u64)s.out[REG_EFL] & X86_FLAGS_ARITH))
			report("a register that is not read changes flags", i, 0);
		s.gpr[i] = was;
	}
}

static void check_flags(void)
{
	u64 out = (u64)s.out[REG_EFL] & X86_FLAGS_ARITH;

	if ((out ^ s.flags) & ~s.in.flags_write)
		report("writes other flags", out, s.flags);
	for (u32 bit = 0; bit < 12; bit++) {
		u64 flag = BIT(bit), changed;

		if (!(X86_FLAGS_ARITH & flag) || s.in.flags_read & flag)
			continue;
		s.flags ^= flag;
		run(s.at);
		s.flags ^= flag;
		changed = flags_out() ^ out;
		if (changed & ~flag || (changed && s.in.flags_kill & flag))
			report("a flag is read, or not killed", flag, changed);
		for (u32 j = 0; j < 16; j++)
			if (hw.out[order[j]] != s.out[order[j]])
				report("a flag is read", flag, j);
	}
}

static void check_memory(void)
{
	bool faults;

	if (!s.in.mem.access) {
		if (run((u64)s.data + HW_PAGE) != HW_DONE)
			report("accesses memory", hw.cr2, 0);
		return;
	}
	/* One byte further on: a page fault, or #GP if it has to be aligned. */
	if (s.in.op != OP_VEC_MASKED && run(s.at + 1) != HW_FAULT)
		report("accesses less memory", hw.cr2, 0);
	faults = run((u64)s.data + 3 * HW_PAGE - s.in.mem.size) == HW_FAULT && hw.cr2;
	if (faults != !!(s.in.mem.access & OPND_W) && s.in.op != OP_VEC_MASKED)
		report("stores or does not", hw.cr2, 0);
}

static void prepare(void)
{
	for (u32 i = 0; i < 16; i++)
		s.gpr[i] = rnd() >> rnd() % 4 * 16;
	s.gpr[X86_RSP] = (u64)s.scratch + 2048;
	s.gpr[X86_RSI] = (u64)s.scratch + 1024;
	s.gpr[X86_RDI] = (u64)s.scratch + 512;
	s.gpr[X86_RCX] = s.in.rep ? 1 + rnd() % 3 : rnd() % 4 ? rnd() % 35 : rnd();
	if (s.in.op == OP_LEAVE)
		s.gpr[X86_RBP] = (u64)s.scratch + 2048;
	s.flags = rnd() & X86_FLAGS_ARITH;
	s.contents = rnd() | 1;
	s.at = s.in.op == OP_XLAT ? (u64)s.data : (u64)s.data + HW_PAGE - MAX(s.in.mem.size, 1u);
}

static bool is_subject(const struct x86_insn *in)
{
	if (is_off_limits(in) || makers_differ(in) || in->op == OP_UD || in->op == OP_RDRAND || in->op == OP_RDSEED ||
	    in->op == OP_SERIALIZE || in->mem.moffs || in->mem.seg >= X86_FS)
		return false;
	if (in->has_modrm && in->mod != 3 && (in->mem.base != X86_RBX || in->mem.index != X86_NO_REG || in->mem.disp))
		return false;
	switch (in->op) {
	case OP_MOVS ... OP_STOS:
	case OP_PUSH:
	case OP_POP:
	case OP_PUSHF:
	case OP_LEAVE:
	case OP_XLAT:
	case OP_CLD:
	case OP_STD:
	case OP_JCC:
	case OP_LOOP:
	case OP_CALL:
	case OP_CALL_IND:
	case OP_JMP:
	case OP_JMP_IND:
	case OP_CLFLUSH:
	case OP_VEC_MASKED:
	case OP_FNSTENV ... OP_FRSTOR:
		return true;
	default:
		return in->generic;
	}
}

static void check_effects(const u8 *bytes)
{
	x86_decode(&s.in, bytes, 15, 64, false);
	if (!is_subject(&s.in))
		return;
	tried++;
	prepare();
	s.result = run(s.at);
	memcpy(s.out, hw.out, sizeof(s.out));
	if (s.result == HW_UD || s.result == HW_MORE || (s.result == HW_FAULT && hw.cr2))
		report("faults", s.result, hw.cr2 - s.at);
	if (s.result != HW_DONE)
		return; /* #DE */
	if (s.in.mem.base == X86_RBX)
		check_memory();
	check_registers();
	check_flags();
}

/* Vector registers hold random numbers, opmasks all ones. */
static void fill_vectors(void)
{
	u32 lo, hi, size, offset, c, d;

	hw.area = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	for (u32 i = 32; i < 4096; i++)
		if (i < 416 || i >= 576)
			hw.area[i] = (u8)rnd();
	st_le16(hw.area, 0x37f);
	hw.area[4] = 0xff;
	st_le32(hw.area + 24, 0x1f80);
	st_le64(hw.area + 512, lo & CPUMODEL_XCR0);
	__cpuid_count(0xd, 5, size, offset, c, d);
	if (size)
		memset(hw.area + offset, 0xff, size);
}

static void random_subject(u8 *bytes)
{
	static const u8 modrms[] = {0xc8, 0xd1, 0xc2, 0xea, 0xf3, 0xdc, 0xe4, 0xc0, 0x03, 0x0b, 0x13, 0x1b, 0x23, 0x2b, 0x33, 0x3b};
	static const u8 prefixes[] = {0, 0, 0, 0x66, 0xf3, 0xf2}, rex[] = {0, 0, 0x48, 0x44, 0x40}, imm[] = {1, 3, 0x99, 0x40};
	u32 n = 0, map = (u32)rnd() % 4;
	u8 pp = prefixes[rnd() % ARRAY_SIZE(prefixes)], r = rex[rnd() % ARRAY_SIZE(rex)];

	memset(bytes, imm[rnd() % ARRAY_SIZE(imm)], 32);
	switch (rnd() % 4) {
	case 0:
		bytes[n++] = 0xc4;
		bytes[n++] = (u8)(0xe1 + map % 3);
		bytes[n++] = (u8)((rnd() & 0x87) | (rnd() & 1 ? 0x78 : 0x40));
		break;
	case 1:
		bytes[n++] = 0x62;
		bytes[n++] = (u8)(0xf0 | "\1\2\3\5\6"[rnd() % 5]);
		bytes[n++] = (u8)((rnd() & 0x83) | (rnd() & 1 ? 0x7c : 0x44));
		bytes[n++] = (u8)((rnd() & 0x70) | 8 | (rnd() & 1));
		break;
	default:
		if (pp)
			bytes[n++] = pp;
		if (r)
			bytes[n++] = r;
		if (map)
			bytes[n++] = 0x0f;
		if (map > 1)
			bytes[n++] = map == 2 ? 0x38 : 0x3a;
	}
	bytes[n++] = (u8)rnd();
	bytes[n] = modrms[rnd() % ARRAY_SIZE(modrms)];
}

static void probe_effects(void)
{
	u8 bytes[32];

	s.data = mmap(NULL, 3 * HW_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	mprotect(s.data + HW_PAGE, HW_PAGE, PROT_NONE);
	mprotect(s.data + 2 * HW_PAGE, HW_PAGE, PROT_READ);
	s.scratch = mmap(NULL, 2 * HW_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (host_has(FEAT_XSAVE))
		fill_vectors();
	while (tried < 4000) {
		random_subject(bytes);
		check_effects(bytes);
	}
}

static void registers_flags_and_memory_are_used_as_the_decoder_says(void **state)
{
	(void)state;
	in_child(probe_effects);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lengths_and_validity_are_the_processors),
		cmocka_unit_test(registers_flags_and_memory_are_used_as_the_decoder_says),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) | 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

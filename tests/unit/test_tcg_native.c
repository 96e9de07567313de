/*
 * test_tcg_native.c: the processor is the oracle: random integer instructions, run natively and by the interpreter on the same registers,
 * flags and memory, must leave the same registers, all arithmetic flags (undefined ones too), memory and faults. 64- and 32-bit code.
 */
#include "tcg_flat.h"

#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <ucontext.h>

#include "makers.h"

#define OTHER	  (CODE + 64)				/* where branches go */
#define DATA	  (FLAT_BASE + 5 * MEM_PAGE_SIZE - 512) /* around a page's end */
#define DATA_SIZE 1024u
#define MARK	  (FLAT_BASE + 8 * MEM_PAGE_SIZE)
#define FAR_PTR	  (MARK + 16)

struct native {
	u64 gpr[16], flags, target, host_rsp;
	s32 signal;
	bool running;
};
struct native nat __attribute__((visibility("hidden")));
void native_run(void);
extern char native_back[];

#define EACH(X) \
	X(0, rax) \
	X(8, rcx) \
	X(16, rdx) \
	X(24, rbx) X(40, rbp) X(48, rsi) X(56, rdi) X(64, r8) X(72, r9) X(80, r10) X(88, r11) X(96, r12) X(104, r13) X(112, r14) X(120, r15)
#define LOAD(o, r)  "mov nat+" #o "(%rip), %" #r "\n"
#define STORE(o, r) "mov %" #r ", nat+" #o "(%rip)\n"
asm(".text\n"
    "native_run:\n"
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, nat+144(%rip)\n"
    "push nat+128(%rip)\npopf\n" EACH(LOAD) "mov nat+32(%rip), %rsp\n"
					    "jmp *nat+136(%rip)\n"
					    "native_back:\n" EACH(
						    STORE) "mov %rsp, nat+32(%rip)\n"
							   "mov nat+144(%rip), %rsp\n"
							   "pushf\npop nat+128(%rip)\ncld\n"
							   "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");

static u64 seed = 88172645463325252ull;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1dull >> 8 | seed << 56;
}
static u32 below(u32 n)
{
	return (u32)(rnd() >> 16) % n;
}

static u64 value(void)
{
	static const u64 edges[] = {0,	    1,	    ~0ull,	0x7f,	    0x80,	0xff,	    0x7fff,
				    0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 1ull << 63, ~0ull >> 1};

	switch (below(4)) {
	case 0:
		return edges[below(ARRAY_SIZE(edges))];
	case 1:
		return below(80);
	case 2:
		return edges[below(ARRAY_SIZE(edges))] + below(5) - 2;
	default:
		return rnd();
	}
}

static void on_signal(int signo, siginfo_t *info, void *context)
{
	ucontext_t *u = context;

	(void)info;
	if (!nat.running) {
		signal(signo, SIG_DFL); /* a bug of the test or of the interpreter: happens again */
		return;
	}
	nat.signal = signo;
	u->uc_mcontext.gregs[REG_RIP] = (greg_t)native_back;
	u->uc_mcontext.gregs[REG_CSGSFS] = (u->uc_mcontext.gregs[REG_CSGSFS] & ~0xffffll) | 0x33;
}

/* ---- instructions ---- */

#define F_BYTE	 0x1u
#define F_LOCKED 0x2u /* may have LOCK with memory */
#define F_EXT	 0x4u /* ext says which /r */
#define F_MEM	 0x8u /* memory only */
#define F_VEX	 0x20u
#define F_BIT	 0x40u	/* register operand is a bit offset: kept small */
#define F_NO64	 0x80u	/* 32-bit code only */
#define F_PLAIN	 0x100u /* no ModRM */
#define F_STR	 0x200u
#define F_ONLY64 0x400u
#define F_STACK	 0x800u
#define F_NO66	 0x1000u
#define F_JUMP	 0x2000u /* displacement leads to OTHER */

enum { I_0, I_B, I_Z, I_W, I_V, I_ENTER };

struct form {
	const char *name;
	u8 map, op, count; /* opcodes op .. op + count - 1 */
	u8 pfx, exts;	   /* mandatory prefix; bit mask of ModRM.reg */
	u8 imm;
	u32 flags;
};

static const struct form forms[] = {
	{"alu r/m8,r8", 0, 0x00, 8, 1, 0, I_0, F_BYTE | F_LOCKED}, /* pfx 1: the eight rows of the opcode map */
	{"alu r/m,r", 0, 0x01, 8, 1, 0, I_0, F_LOCKED},
	{"alu r8,r/m8", 0, 0x02, 8, 1, 0, I_0, F_BYTE},
	{"alu r,r/m", 0, 0x03, 8, 1, 0, I_0, 0},
	{"alu al,imm", 0, 0x04, 8, 1, 0, I_B, F_PLAIN},
	{"alu eax,imm", 0, 0x05, 8, 1, 0, I_Z, F_PLAIN},
	{"alu r/m8,imm", 0, 0x80, 1, 0, 0xff, I_B, F_EXT | F_LOCKED},
	{"alu r/m,immz", 0, 0x81, 1, 0, 0xff, I_Z, F_EXT | F_LOCKED},
	{"alu r/m,imm8", 0, 0x83, 1, 0, 0xff, I_B, F_EXT | F_LOCKED},
	{"test/xchg8", 0, 0x84, 1, 0, 0, I_0, F_BYTE},
	{"test", 0, 0x85, 1, 0, 0, I_0, 0},
	{"xchg", 0, 0x86, 2, 0, 0, I_0, F_LOCKED},
	{"mov", 0, 0x88, 4, 0, 0, I_0, 0},
	{"test imm", 0, 0xa8, 1, 0, 0, I_B, F_PLAIN},
	{"test imm", 0, 0xa9, 1, 0, 0, I_Z, F_PLAIN},
	{"group3b test", 0, 0xf6, 1, 0, 0x03, I_B, F_EXT},
	{"group3b", 0, 0xf6, 1, 0, 0xfc, I_0, F_EXT},
	{"group3 test", 0, 0xf7, 1, 0, 0x03, I_Z, F_EXT},
	{"group3", 0, 0xf7, 1, 0, 0xfc, I_0, F_EXT},
	{"not neg lock", 0, 0xf6, 2, 0, 0x0c, I_0, F_EXT | F_LOCKED},
	{"inc dec", 0, 0xfe, 2, 0, 0x03, I_0, F_EXT | F_LOCKED},
	{"inc dec short", 0, 0x40, 16, 0, 0, I_0, F_PLAIN | F_NO64 | F_STACK},
	{"shift imm", 0, 0xc0, 2, 0, 0xff, I_B, F_EXT},
	{"shift 1", 0, 0xd0, 2, 0, 0xff, I_0, F_EXT},
	{"shift cl", 0, 0xd2, 2, 0, 0xff, I_0, F_EXT},
	{"shld imm", 1, 0xa4, 1, 0, 0, I_B, 0},
	{"shld cl", 1, 0xa5, 1, 0, 0, I_0, 0},
	{"shrd imm", 1, 0xac, 1, 0, 0, I_B, 0},
	{"shrd cl", 1, 0xad, 1, 0, 0, I_0, 0},
	{"bt r/m,r", 1, 0xa3, 1, 0, 0, I_0, F_BIT},
	{"bts", 1, 0xab, 1, 0, 0, I_0, F_BIT | F_LOCKED},
	{"btr", 1, 0xb3, 1, 0, 0, I_0, F_BIT | F_LOCKED},
	{"btc", 1, 0xbb, 1, 0, 0, I_0, F_BIT | F_LOCKED},
	{"bt imm", 1, 0xba, 1, 0, 0x10, I_B, F_EXT},
	{"bt* imm", 1, 0xba, 1, 0, 0xe0, I_B, F_EXT | F_LOCKED},
	{"bsf bsr", 1, 0xbc, 2, 0, 0, I_0, 0},
	{"tzcnt lzcnt", 1, 0xbc, 2, 0xf3, 0, I_0, 0},
	{"popcnt", 1, 0xb8, 1, 0xf3, 0, I_0, 0},
	{"bswap", 1, 0xc8, 8, 0, 0, I_0, F_PLAIN},
	{"xadd", 1, 0xc0, 2, 0, 0, I_0, F_LOCKED},
	{"cmpxchg", 1, 0xb0, 2, 0, 0, I_0, F_LOCKED},
	{"cmpxchg8b", 1, 0xc7, 1, 0, 0x02, I_0, F_EXT | F_LOCKED | F_MEM},
	{"cmov", 1, 0x40, 16, 0, 0, I_0, 0},
	{"setcc", 1, 0x90, 16, 0, 0, I_0, 0},
	{"cbw cwd", 0, 0x98, 2, 0, 0, I_0, F_PLAIN},
	{"sahf lahf", 0, 0x9e, 2, 0, 0, I_0, F_PLAIN},
	{"cmc", 0, 0xf5, 1, 0, 0, I_0, F_PLAIN},
	{"clc stc", 0, 0xf8, 2, 0, 0, I_0, F_PLAIN},
	{"cld std", 0, 0xfc, 2, 0, 0, I_0, F_PLAIN},
	{"xchg rax", 0, 0x90, 8, 0, 0, I_0, F_PLAIN},
	{"mov imm8", 0, 0xb0, 8, 0, 0, I_B, F_PLAIN},
	{"mov immv", 0, 0xb8, 8, 0, 0, I_V, F_PLAIN},
	{"mov m,imm8", 0, 0xc6, 1, 0, 0x01, I_B, F_EXT},
	{"mov m,immz", 0, 0xc7, 1, 0, 0x01, I_Z, F_EXT},
	{"movsxd", 0, 0x63, 1, 0, 0, I_0, F_ONLY64},
	{"movzx", 1, 0xb6, 2, 0, 0, I_0, 0},
	{"movsx", 1, 0xbe, 2, 0, 0, I_0, 0},
	{"movbe", 2, 0xf0, 2, 0, 0, I_0, F_MEM},
	{"crc32", 2, 0xf0, 2, 0xf2, 0, I_0, 0},
	{"movnti", 1, 0xc3, 1, 0, 0, I_0, F_MEM | F_NO66},
	{"lea", 0, 0x8d, 1, 0, 0, I_0, F_MEM},
	{"adcx", 2, 0xf6, 1, 0x66, 0, I_0, 0},
	{"adox", 2, 0xf6, 1, 0xf3, 0, I_0, 0},
	{"imul immz", 0, 0x69, 1, 0, 0, I_Z, 0},
	{"imul imm8", 0, 0x6b, 1, 0, 0, I_B, 0},
	{"imul", 1, 0xaf, 1, 0, 0, I_0, 0},
	{"andn", 2, 0xf2, 1, 0, 0, I_0, F_VEX},
	{"bls*", 2, 0xf3, 1, 0, 0x0e, I_0, F_VEX | F_EXT},
	{"bzhi", 2, 0xf5, 1, 0, 0, I_0, F_VEX},
	{"pext", 2, 0xf5, 1, 0xf3, 0, I_0, F_VEX},
	{"pdep", 2, 0xf5, 1, 0xf2, 0, I_0, F_VEX},
	{"mulx", 2, 0xf6, 1, 0xf2, 0, I_0, F_VEX},
	{"bextr", 2, 0xf7, 1, 0, 0, I_0, F_VEX},
	{"shlx", 2, 0xf7, 1, 0x66, 0, I_0, F_VEX},
	{"sarx", 2, 0xf7, 1, 0xf3, 0, I_0, F_VEX},
	{"shrx", 2, 0xf7, 1, 0xf2, 0, I_0, F_VEX},
	{"rorx", 3, 0xf0, 1, 0xf2, 1, I_B, F_VEX}, /* exts 1 without F_EXT: vvvv is 1111 */
	{"push pop r", 0, 0x50, 16, 0, 0, I_0, F_PLAIN | F_STACK},
	{"push imm", 0, 0x68, 1, 0, 0, I_Z, F_PLAIN | F_STACK},
	{"push imm8", 0, 0x6a, 1, 0, 0, I_B, F_PLAIN | F_STACK},
	{"push m", 0, 0xff, 1, 0, 0x40, I_0, F_EXT | F_STACK},
	{"pop m", 0, 0x8f, 1, 0, 0x01, I_0, F_EXT | F_STACK},
	{"leave", 0, 0xc9, 1, 0, 0, I_0, F_PLAIN | F_STACK},
	{"enter", 0, 0xc8, 1, 0, 0, I_ENTER, F_PLAIN | F_STACK},
	{"pusha popa", 0, 0x60, 2, 0, 0, I_0, F_PLAIN | F_STACK | F_NO64},
	{"movs cmps", 0, 0xa4, 4, 0, 0, I_0, F_PLAIN | F_STR},
	{"stos lods scas", 0, 0xaa, 6, 0, 0, I_0, F_PLAIN | F_STR},
	{"xlat", 0, 0xd7, 1, 0, 0, I_0, F_PLAIN | F_STR},
	{"jcc", 0, 0x70, 16, 0, 0, I_0, F_PLAIN | F_JUMP},
	{"loop jcxz", 0, 0xe0, 4, 0, 0, I_0, F_PLAIN | F_JUMP},
	{"jmp", 0, 0xeb, 1, 0, 0, I_0, F_PLAIN | F_JUMP},
	{"daa", 0, 0x27, 1, 0, 0, I_0, F_PLAIN | F_NO64},
	{"das", 0, 0x2f, 1, 0, 0, I_0, F_PLAIN | F_NO64},
	{"aaa", 0, 0x37, 1, 0, 0, I_0, F_PLAIN | F_NO64},
	{"aas", 0, 0x3f, 1, 0, 0, I_0, F_PLAIN | F_NO64},
	{"aam aad", 0, 0xd4, 2, 0, 0, I_B, F_PLAIN | F_NO64},
	{"salc", 0, 0xd6, 1, 0, 0, I_0, F_PLAIN | F_NO64},
};

/* One encoding, and what has to be in registers for it. */
struct made {
	const struct form *f;
	struct x86_insn insn;
	u8 bytes[32];
	u32 len;
	bool wide;  /* 64-bit code */
	u64 target; /* of the memory operand */
};

static void put(struct made *m, u64 v, u32 n)
{
	memcpy(m->bytes + m->len, &v, n);
	m->len += n;
}

static void put_vex(struct made *m, u32 vvvv)
{
	static const u8 pp[256] = {[0x66] = 1, [0xf3] = 2, [0xf2] = 3};
	u32 rxb = m->wide ? below(8) : 7;

	put(m, 0xc4, 1);
	put(m, rxb << 5 | m->f->map, 1);
	put(m, (m->wide ? below(2) : 0) << 7 | (~vvvv & 15) << 3 | pp[m->f->pfx], 1);
}

/* A near branch with 66 in 64-bit code goes to 16 bits on AMD's processors. */
static void put_prefixes(struct made *m)
{
	const struct form *f = m->f;
	u32 flags = f->flags;

	if (flags & F_LOCKED && !below(4))
		put(m, 0xf0, 1);
	if (f->pfx == 0x66 || (!below(3) && !(flags & (F_NO66 | F_VEX)) && !(flags & F_JUMP && (!m->wide || !is_intel()))))
		put(m, 0x66, 1);
	if (m->wide && !below(6) && !(flags & F_STACK))
		put(m, 0x67, 1);
	if (f->pfx > 1 && f->pfx != 0x66)
		put(m, f->pfx, 1);
	if (flags & F_STR && f->op != 0xd7 && below(3))
		put(m, 0xf2 + below(2), 1);
	if (m->wide && below(2))
		put(m, 0x40 | below(16), 1);
	if (f->map)
		put(m, 0x0f, 1);
	if (f->map > 1)
		put(m, f->map == 2 ? 0x38 : 0x3a, 1);
}

static void put_modrm(struct made *m)
{
	const struct form *f = m->f;
	u32 modrm = below(256);

	if (f->flags & F_MEM || below(2))
		modrm = (modrm & 63) | below(3) << 6;
	else
		modrm |= 0xc0;
	if (f->flags & F_EXT) {
		do
			modrm = (modrm & ~0x38u) | below(8) << 3;
		while (!(f->exts >> (modrm >> 3 & 7) & 1));
	}
	put(m, modrm, 1);
	if (modrm < 0xc0 && (modrm & 7) == 4)
		put(m, below(256), 1);
}

/* What other vendors' processors do otherwise where the manuals leave it open, and what old ones lack. */
static bool host_differs(const struct form *f)
{
	u32 eax, ebx, ecx, edx;
	bool newer;

	__cpuid_count(7, 0, eax, ebx, ecx, edx);
	newer = ebx & BIT(3) && ebx & BIT(8) && ebx & BIT(19);
	if (!newer && (f->flags & F_VEX || f->map == 2))
		return true;
	return !is_intel() && (f->exts == 0xff || f->flags & (F_STR | F_NO64) || f->op == 0xb0);
}

/* Bytes; the decoder says where displacement and immediate are. False: not one that can be run. */
static bool make(struct made *m, bool wide)
{
	const struct form *f = &forms[below(ARRAY_SIZE(forms))];
	u32 step = f->count == 8 && f->pfx == 1 ? 8 : 1, op = f->op + below(f->count) * step;

	memset(m, 0, sizeof(*m));
	m->f = f;
	m->wide = wide;
	if (wide ? f->flags & F_NO64 : f->flags & F_ONLY64)
		return false;
	if (f->flags & F_VEX)
		put_vex(m, f->flags & F_EXT || !f->exts ? below(wide ? 16 : 8) : 0);
	else
		put_prefixes(m);
	put(m, op, 1);
	if (!(f->flags & F_PLAIN))
		put_modrm(m);
	for (u32 i = m->len; i < sizeof(m->bytes); i++)
		m->bytes[i] = (u8)value();
	if (!x86_decode(&m->insn, m->bytes, 15, wide ? 64 : 32, false) || m->insn.op == OP_UD || makers_differ(&m->insn))
		return false;
	m->len = m->insn.len;
	if (f->flags & F_JUMP)
		m->bytes[m->insn.at_imm] = (u8)(OTHER - CODE - m->len);
	if (f->imm == I_ENTER) {
		m->bytes[m->insn.at_imm] &= 63;
		m->bytes[m->insn.at_imm + 1] = 0;
	}
	return true;
}

static bool in_memory(const struct x86_insn *i)
{
	return i->mem.base != X86_NO_REG || i->mem.index != X86_NO_REG || i->mem.disp || (i->has_modrm && i->mod != 3);
}

/* Gives base, index and displacement values that meet the target. False: this combination cannot. */
static bool aim(struct made *m)
{
	const struct x86_insn *i = &m->insn;
	const struct x86_mem *mem = &i->mem;
	u32 offset = 256 + below(256);
	u64 index = 0;

	if (!i->has_modrm || i->mod == 3 || !in_memory(i))
		return true;
	if (!below(8))
		offset = 512 - below(9); /* over or at the page's end */
	m->target = DATA + (i->op == OP_CMPXCHG16B ? offset & ~15u : offset);
	if (mem->index != X86_NO_REG) {
		nat.gpr[mem->index] = below(64);
		index = nat.gpr[mem->index] * mem->scale;
	}
	if (mem->base < 16) {
		if (mem->base == mem->index || (m->f->flags & F_STACK && mem->base == X86_RSP))
			return false;
		nat.gpr[mem->base] = m->target - index - (u64)(s64)mem->disp;
		if (m->wide && i->adsize == 4)
			nat.gpr[mem->base] = (u32)nat.gpr[mem->base] | rnd() << 32;
	} else {
		u64 disp = m->target - index - (mem->base == X86_RIP ? CODE + m->len : 0);

		memcpy(m->bytes + i->at_disp, &disp, 4);
	}
	if (!m->wide && i->adsize == 2)
		return false;
	/* Bit offsets from -512 to 511. */
	if (m->f->flags & F_BIT) {
		if (i->opnd[1].reg == mem->base || i->opnd[1].reg == mem->index)
			return false;
		nat.gpr[i->opnd[1].reg] = (u64)(s64)((s32)below(1024) - 512);
	}
	if (i->op == OP_CMPXCHG || i->op == OP_CMPXCHG8B || i->op == OP_CMPXCHG16B) {
		u32 half = i->op == OP_CMPXCHG ? 8 : i->op == OP_CMPXCHG8B ? 4 : 8;

		if (mem->base == X86_RAX || mem->index == X86_RAX || mem->base == X86_RDX || mem->index == X86_RDX || !below(2))
			return true;
		nat.gpr[X86_RAX] = nat.gpr[X86_RDX] = rnd();
		memcpy(&nat.gpr[X86_RAX], (void *)m->target, half);
		memcpy(&nat.gpr[X86_RDX], (void *)(m->target + half), half);
	}
	return true;
}

static bool set_registers(struct made *m)
{
	for (u32 i = 0; i < 16; i++)
		nat.gpr[i] = value();
	if (m->insn.op == OP_DIV || m->insn.op == OP_IDIV)
		nat.gpr[X86_RDX] = below(4) ? below(3) - 1ull : value();
	nat.flags = 0x202 | (rnd() & X86_FLAGS_ARITH);
	if (m->f->flags & F_STACK) {
		nat.gpr[X86_RSP] = DATA + 600 + below(64);
		nat.gpr[X86_RBP] = DATA + 600 + below(64);
		if (m->insn.gpr_write & BIT(X86_RSP) && m->insn.op != OP_POP && m->insn.op != OP_PUSH && m->insn.len > 9)
			return false;
	}
	if (m->f->flags & F_STR) {
		u64 high = m->wide && m->insn.adsize == 4 ? rnd() << 32 : 0;

		nat.gpr[X86_RCX] = (below(4) ? below(20) : 0) | high;
		nat.gpr[X86_RSI] = (DATA + 300 + below(300)) | high;
		nat.gpr[X86_RDI] = (below(2) ? nat.gpr[X86_RSI] + below(32) - 16 : DATA + 300 + below(300)) | high;
		if (m->f->op == 0xd7)
			nat.gpr[X86_RBX] = (DATA + 300) | high;
		nat.flags |= below(2) ? X86_FLAG_DF : 0;
	}
	if (m->insn.op == OP_LOOP || m->insn.op == OP_LOOPE || m->insn.op == OP_LOOPNE || m->insn.op == OP_JRCXZ)
		nat.gpr[X86_RCX] = (u64)below(3) | (below(2) ? rnd() << 32 : 0);
	if (!m->wide)
		for (u32 i = 0; i < 16; i++)
			nat.gpr[i] = (u32)nat.gpr[i];
	return aim(m);
}

static void write_code(const struct made *m)
{
	static const u8 mark[] = {0xc6, 0x04, 0x25};
	u8 *p = (u8 *)CODE + m->len, *other = (u8 *)OTHER;
	u64 back = (u64)native_back, far = CODE | 0x23ull << 32, at = MARK + 64;

	memcpy((void *)CODE, m->bytes, m->len);
	if (!m->wide) { /* through 64-bit code at MARK + 64 */
		memcpy(p, "\xea", 1);
		memcpy(p + 1, &at, 4);
		memcpy(p + 5, "\x33", 2);
		memcpy((void *)FAR_PTR, &far, 8);
		memcpy((void *)(MARK + 48), "\xff\x2c\x25", 3);
		memcpy((void *)(MARK + 51), &(u32){(u32)FAR_PTR}, 4);
		p = (u8 *)MARK + 64;
	}
	memcpy(p, "\xff\x25\0\0\0", 6);
	memcpy(p + 6, &back, 8);
	/* mov byte [MARK], 1: the same bytes but for the SIB in 32-bit code */
	memcpy(other, m->wide ? mark : (const u8 *)"\xc6\x05", m->wide ? 3 : 2);
	other += m->wide ? 3 : 2;
	memcpy(other, &(u32){(u32)MARK}, 4);
	other[4] = 1;
	other += 5;
	if (m->wide) {
		memcpy(other, "\xff\x25\0\0\0", 6);
		memcpy(other + 6, &back, 8);
	} else {
		memcpy(other, "\xea", 1);
		memcpy(other + 1, &at, 4);
		memcpy(other + 5, "\x33", 2);
	}
}

/* ---- comparison ---- */

static u8 before[DATA_SIZE], after[DATA_SIZE];

static void complain(const struct made *m, const u64 *start, u64 start_flags, const char *what)
{
	struct tcg_cpu *c = flat.c;

	printf("# %s: %s differs:", m->f->name, what);
	for (u32 i = 0; i < m->len; i++)
		printf(" %02x", m->bytes[i]);
	printf(" (%u bits)\n# signal %d exception %d/%u\n", m->wide ? 64 : 32, nat.signal, c->exc.pending, c->exc.vector);
	for (u32 i = 0; i < 16; i++)
		if (nat.gpr[i] != c->gpr[i] || start[i] != c->gpr[i])
			printf("# r%u: start %lx native %lx interp %lx\n", i, start[i], nat.gpr[i], c->gpr[i]);
	printf("# rcx %lx flags: start %lx native %lx interp %lx; target %lx\n", start[1], start_flags, nat.flags & 0xcd5,
	       c->rflags & 0xcd5, m->target);
	for (u32 i = 0; i < DATA_SIZE; i++)
		if (after[i] != ((u8 *)DATA)[i])
			printf("# data+%u: start %02x native %02x interp %02x\n", i, before[i], after[i], ((u8 *)DATA)[i]);
}

static void enter_native(const struct made *m)
{
	nat.target = m->wide ? CODE : MARK + 48;
	*(u8 *)MARK = 0;
	nat.signal = 0;
	nat.running = true;
	native_run();
	nat.running = false;
}

/* False: something differs, and it was printed. */
static bool compare_once(const struct made *m)
{
	struct tcg_cpu *c = flat.c;
	u64 start[16], flags = nat.flags, mask = m->wide ? ~0ull : UINT32_MAX;
	const char *what = NULL;
	bool raised;

	memcpy(start, nat.gpr, sizeof(start));
	memcpy(c->gpr, nat.gpr, sizeof(c->gpr));
	memcpy(before, (void *)DATA, DATA_SIZE);
	enter_native(m);
	memcpy(after, (void *)DATA, DATA_SIZE);
	memcpy((void *)DATA, before, DATA_SIZE);

	c->rip = CODE;
	c->rflags = flags;
	raised = flat_step();
	if (raised != (nat.signal != 0) || (raised && nat.signal == SIGFPE && c->exc.vector != X86_DE))
		what = "fault";
	else if (raised && c->rip != CODE)
		what = "rip of the fault";
	else if (!raised && c->rip != (*(u8 *)MARK ? OTHER : CODE + m->len))
		what = "rip";
	for (u32 i = 0; i < 16 && !what; i++)
		if ((nat.gpr[i] ^ c->gpr[i]) & mask && (m->wide || i < 8))
			what = "register";
	if (!what && !raised && (nat.flags ^ c->rflags) & (X86_FLAGS_ARITH | X86_FLAG_DF))
		what = "flag";
	if (!what && memcmp(after, (void *)DATA, DATA_SIZE))
		what = "memory";
	if (what)
		complain(m, start, flags, what);
	return !what;
}

static void fill_data(bool dull)
{
	u64 *p = (u64 *)DATA;

	for (u32 i = 0; i < DATA_SIZE / 8; i++)
		p[i] = dull ? rnd() & 0x0101010000000000 : rnd();
}

#define ROUNDS	  130000u
#define PER_ROUND 8u

static void run_random(bool wide, u32 rounds)
{
	u32 wrong = 0, done = 0, counts[ARRAY_SIZE(forms)] = {0};
	bool usable[ARRAY_SIZE(forms)];
	struct made m;

	flat_reset(wide ? 64 : 32);
	for (u32 i = 0; i < ARRAY_SIZE(forms); i++)
		usable[i] = !(forms[i].flags & (wide ? F_NO64 : F_ONLY64)) && !host_differs(&forms[i]);
	for (u32 i = 0; i < rounds && wrong < 10; i++) {
		if (!make(&m, wide) || !usable[m.f - forms])
			continue;
		fill_data(m.f->flags & F_STR);
		for (u32 k = 0; k < PER_ROUND && wrong < 10; k++) {
			if (!set_registers(&m))
				continue;
			write_code(&m);
			wrong += !compare_once(&m);
			counts[m.f - forms]++;
			done++;
		}
	}
	for (u32 i = 0; i < ARRAY_SIZE(forms); i++)
		if (!wrong && !counts[i] && usable[i])
			fail_msg("no instance of %s", forms[i].name);
	print_message("# %u instances\n", done);
	assert_int_equal(wrong, 0);
}

/* In the test: cmocka has handlers of its own around each. */
static void take_signals(void)
{
	static u8 alternate[65536];
	struct sigaction act = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	stack_t stack = {.ss_sp = alternate, .ss_size = sizeof(alternate)};
	const char *chosen = getenv("HUSK_TEST_SEED");

	if (chosen)
		seed ^= strtoull(chosen, NULL, 0) * 0x9e3779b97f4a7c15ull;
	sigaltstack(&stack, NULL);
	sigaction(SIGFPE, &act, NULL);
	sigaction(SIGSEGV, &act, NULL);
	sigaction(SIGILL, &act, NULL);
	sigaction(SIGBUS, &act, NULL);
}

static void the_interpreter_does_what_the_processor_does_in_64_bit_code(void **state)
{
	(void)state;
	take_signals();
	run_random(true, ROUNDS);
}

static void the_interpreter_does_what_the_processor_does_in_32_bit_code(void **state)
{
	(void)state;
	take_signals();
	/* Flat data segments for compatibility mode; 64-bit code does not look at them. */
	asm volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(0x2b));
	run_random(false, ROUNDS / 2);
	asm volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_interpreter_does_what_the_processor_does_in_64_bit_code),
		cmocka_unit_test(the_interpreter_does_what_the_processor_does_in_32_bit_code),
	};

	return cmocka_run_group_tests_name("tcg_native", tests, flat_setup, flat_teardown);
}

/* thunks.c: the ways into and out of translated code, at the head of the code buffer; made once for a VM. */
#include "tcg/exec.h"
#include "tcg/mmu.h"
#include "tcg/x86_64/xlate_impl.h"

#define ENV(field) EENV(offsetof(struct tcg_cpu, field))

/* Guest registers that live in host registers: spilled when C code may see them. */
static const u8 resident[][2] = {
	{H_RAX, X86_RAX},	{H_RDX, X86_RDX},	{H_RBX, X86_RBX}, {H_RBP, X86_RBP}, {H_RSI, X86_RSI}, {H_RDI, X86_RDI},
	{H_GUEST_RSP, X86_RSP}, {H_GUEST_RCX, X86_RCX}, {H_R12, 12},	  {H_R13, 13},	    {H_R14, 14},      {H_R15, 15}};
static const u8 callee_saved[] = {H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15};

/* Homes as seen when rsp is `below` bytes under struct tcg_cpu. */
static void spill(struct emit *e, s32 below)
{
	for (u32 i = 0; i < ARRAY_SIZE(resident); i++) {
		struct emem home = xlate_home(resident[i][1]);

		home.disp += below;
		e_store(e, resident[i][0], home);
	}
}

static void fill(struct emit *e, s32 below)
{
	for (u32 i = 0; i < ARRAY_SIZE(resident); i++) {
		struct emem home = xlate_home(resident[i][1]);

		home.disp += below;
		e_load(e, resident[i][0], home);
	}
}

static void push_reg(struct emit *e, u32 reg)
{
	if (reg >= 8)
		e8(e, 0x41);
	e8(e, 0x50 | (reg & 7));
}

static void pop_reg(struct emit *e, u32 reg)
{
	if (reg >= 8)
		e8(e, 0x41);
	e8(e, 0x58 | (reg & 7));
}

/* OF by an addition that overflows if bit 11 was set, the others by SAHF: POPF costs 20 cycles. */
void xlate_load_flags(struct emit *e)
{
	e_op_rr(e, 0, 0x89, H_RAX, H_RCX);     /* mov ecx, eax */
	e8(e, 0xc1), e8(e, 0xe9), e8(e, 11);   /* shr ecx, 11 */
	e8(e, 0x83), e8(e, 0xe1), e8(e, 1);    /* and ecx, 1 */
	e8(e, 0x80), e8(e, 0xc1), e8(e, 0x7f); /* add cl, 0x7f */
	e8(e, 0x88), e8(e, 0xc4);	       /* mov ah, al */
	e8(e, 0x9e);			       /* sahf */
}

/* Arithmetic flags -> rflags in struct tcg_cpu, which is `below` bytes above rsp; clobbers rax, rcx. */
static void save_flags(struct emit *e, s32 below)
{
	struct emem rflags = ENV(rflags);

	rflags.disp += below;
	e8(e, 0x9f);			       /* lahf */
	e8(e, 0x0f), e8(e, 0x90), e8(e, 0xc0); /* seto al */
	e_op_rr(e, 0, 0x0fb6, H_RCX, H_RAX);   /* movzx ecx, al */
	e8(e, 0xc1), e8(e, 0xe1), e8(e, 11);   /* shl ecx, 11 */
	e8(e, 0x0f), e8(e, 0xb6), e8(e, 0xc4); /* movzx eax, ah */
	e_op_rr(e, 0, 0x09, H_RCX, H_RAX);     /* or eax, ecx */
	e_alu_imm(e, 0, 4, H_RAX, (s32)X86_FLAGS_ARITH);
	e_load(e, H_RCX, rflags);
	e_alu_imm(e, 1, 4, H_RCX, (s32)~X86_FLAGS_ARITH);
	e_op_rr(e, 1, 0x09, H_RCX, H_RAX); /* or rax, rcx */
	e_store(e, H_RAX, rflags);
}

/* void enter(struct tcg_cpu *window, u64 code): loads the guest's registers and flags, and goes there. */
static void enter(struct emit *e)
{
	for (u32 i = 0; i < ARRAY_SIZE(callee_saved); i++)
		push_reg(e, callee_saved[i]);
	e_store(e, H_RSP, EMEM(H_RDI, offsetof(struct tcg_cpu, host_rsp)));
	e_mov(e, H_RSP, H_RDI);
	e_store(e, H_RSI, ENV(scratch));
	e_op_mem(e, 0, 0x8b, H_RAX, ENV(rflags)); /* mov eax, [rflags] */
	xlate_load_flags(e);
	fill(e, 0);
	e_op_mem(e, 0, 0xff, 4, ENV(scratch)); /* jmp [scratch] */
}

/* Back to enter's caller; registers and flags are in their homes. */
static void go_back(struct emit *e)
{
	e_load(e, H_RSP, ENV(host_rsp));
	for (u32 i = ARRAY_SIZE(callee_saved); i-- > 0;)
		pop_reg(e, callee_saved[i]);
	e8(e, 0xc3); /* ret */
}

/*
 * What the slow path of translated code calls. desc: size of the access, bit 7 write, bit 8 live; of a group the offset of the first access
 * from va (32-47) and its length (48-63). True: it hits now. False: leave, for what scratch[5] says.
 */
static bool slow_fill(struct tcg_cpu *c, u64 va, u64 desc)
{
	enum tcg_mmu_mode mode = tcg_data_mode(c);
	bool write = desc & 0x80;
	u64 span = desc >> 48;

	c->scratch[5] = LEAVE_INTERP;
	if (span && (va & (MEM_PAGE_SIZE - 1)) + span > MEM_PAGE_SIZE) {
		c->scratch[5] = LEAVE_SINGLE;
		return false;
	}
	if (mmu_fill(c, va + (desc >> 32 & 0xffff), desc & 0x7f, write, mode))
		return true;
	c->counters[TCG_C_PUNTS]++;
	return false;
}

/*
 * call slow: T0 = address, rcx = description. Fills the TLB entry and returns, flags as they were if live; or leaves for the interpreter at
 * the instruction's start. rsp = struct tcg_cpu - 8 on entry, - 16 at the C call, which is as aligned as the struct.
 */
static void slow(struct emit *e, bool live, const u8 *leave_popped)
{
	u8 *punt;

	spill(e, 8);
	if (live) {
		e8(e, 0x9c); /* pushf */
	} else {
		push_reg(e, H_RCX);
	}
	e_op_mem(e, 0, 0x89, H_RCX, EENV(16 + offsetof(struct tcg_cpu, scratch) + 8 * 6)); /* desc, for the punt */
	e_lea(e, H_RDI, EMEM(H_RSP, 16));
	e_mov(e, H_RSI, T0);
	e_mov(e, H_RDX, H_RCX);
	e_mov_imm(e, H_RAX, (u64)&slow_fill);
	e8(e, 0xff), e8(e, 0xd0); /* call rax */
	e8(e, 0x84), e8(e, 0xc0); /* test al, al */
	punt = e_jcc(e, CC_E, NULL);
	if (live)
		e8(e, 0x9d); /* popf */
	else
		pop_reg(e, H_RCX);
	fill(e, 8);
	e8(e, 0xc3); /* ret */
	e_patch(punt, e->p);
	if (live)
		e8(e, 0x9d);
	else
		pop_reg(e, H_RCX);
	fill(e, 8);
	e_op_mem(e, 0, 0x8b, H_RCX, EENV(8 + offsetof(struct tcg_cpu, scratch) + 8 * 6));
	/* reason | (desc >> 16) << 8, without touching flags: rorx ecx, ecx, 8; then the low byte and the top one */
	e8(e, 0xc4), e8(e, 0xe3), e8(e, 0x7b), e8(e, 0xf0), e8(e, 0xc9), e8(e, 8);	  /* rorx ecx, ecx, 8 */
	e_op_mem(e, 0, 0x8a, H_RCX, EENV(8 + offsetof(struct tcg_cpu, scratch) + 8 * 5)); /* mov cl, [scratch 5] */
	e_jmp(e, leave_popped);
}

/* Leaves for the dispatcher at c->rip; registers and flags are in their homes, rsp is struct tcg_cpu. */
static void leave_at_rip(struct emit *e)
{
	e_load(e, H_RAX, ENV(rip));
	e_store(e, H_RAX, ENV(exit_rip));
	e_op_mem(e, 1, 0xc7, 0, ENV(exit_host));
	e32(e, 0);
	e_op_mem(e, 1, 0xc7, 0, ENV(exit_arg));
	e32(e, LEAVE_LOOKUP);
	go_back(e);
}

/* call callout: T0 = address of the instruction, ecx = its length. Returns when translated code can go on after it, else leaves. */
static void callout(struct emit *e)
{
	u8 *out;

	e_op_rr(e, 1, 0x89, H_RCX, T1); /* mov T1, rcx */
	spill(e, 8);
	save_flags(e, 8);
	push_reg(e, T1);
	e_lea(e, H_RDI, EMEM(H_RSP, 16));
	e_mov(e, H_RSI, T0);
	e_mov(e, H_RDX, T1);
	e_mov_imm(e, H_RAX, (u64)&exec_callout);
	e8(e, 0xff), e8(e, 0xd0); /* call rax */
	pop_reg(e, T1);
	e8(e, 0x84), e8(e, 0xc0); /* test al, al */
	out = e_jcc(e, CC_E, NULL);
	e_op_mem(e, 0, 0x8b, H_RAX, EENV(8 + offsetof(struct tcg_cpu, rflags)));
	xlate_load_flags(e);
	fill(e, 8);
	e8(e, 0xc3); /* ret */
	e_patch(out, e->p);
	e_lea(e, H_RSP, EMEM(H_RSP, 8));
	leave_at_rip(e);
}

/* jmp transfer: T0 = address of the instruction, ecx = description for exec_transfer. */
static void transfer(struct emit *e)
{
	u8 *out;

	e_mov(e, T1, H_RCX);
	spill(e, 0);
	save_flags(e, 0);
	e_mov(e, H_RDI, H_RSP);
	e_mov(e, H_RSI, T0);
	e_mov(e, H_RDX, T1);
	e_mov_imm(e, H_RAX, (u64)&exec_transfer);
	e8(e, 0xff), e8(e, 0xd0);	       /* call rax */
	e8(e, 0x48), e8(e, 0x85), e8(e, 0xc0); /* test rax, rax */
	out = e_jcc(e, CC_E, NULL);
	e_mov(e, T0, H_RAX);
	e_op_mem(e, 0, 0x8b, H_RAX, ENV(rflags));
	xlate_load_flags(e);
	fill(e, 0);
	e8(e, 0x41), e8(e, 0xff), e8(e, 0xe0 | (T0 & 7)); /* jmp T0 */
	e_patch(out, e->p);
	leave_at_rip(e);
}

void xlate_thunks(struct tcg_code *k, struct emit *e)
{
	const u8 *back, *leave;

	k->enter = e_off(e);
	enter(e);
	back = e->p;
	spill(e, 0);
	save_flags(e, 0);
	go_back(e);
	k->callout = e_off(e);
	callout(e);
	k->transfer = e_off(e);
	transfer(e);
	k->leave = e_off(e); /* call leave: ecx = reason */
	leave = e->p;
	e_op_mem(e, 0, 0x8f, 0, ENV(exit_rip)); /* pop [exit_rip] */
	e_op_mem(e, 0, 0xc7, 0, ENV(exit_unit));
	e32(e, UNIT_NONE);
	e_store(e, H_RCX, ENV(exit_arg));
	e_jmp(e, back);
	k->leave_unit = e_off(e);		/* call leave_unit: ecx = reason, T0 = unit */
	e_op_mem(e, 0, 0x8f, 0, ENV(exit_rip)); /* pop [exit_rip] */
	e_op_mem(e, 0, 0x89, T0, ENV(exit_unit));
	e_store(e, H_RCX, ENV(exit_arg));
	e_jmp(e, back);
	k->leave_lookup = e_off(e);		 /* call: T0 = guest address */
	e_op_mem(e, 0, 0x8f, 0, ENV(exit_host)); /* pop [exit_host] */
	e_store(e, T0, ENV(exit_rip));
	e_op_mem(e, 1, 0xc7, 0, ENV(exit_arg));
	e32(e, LEAVE_LOOKUP);
	e_jmp(e, back);
	k->leave_fault = e_off(e); /* the signal handler has set exit_rip and exit_arg */
	e_jmp(e, back);
	k->slow_dead = e_off(e);
	slow(e, false, leave);
	k->slow_live = e_off(e);
	slow(e, true, leave);
}

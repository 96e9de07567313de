/*
 * xlate_impl.h: what the files of the translator share.
 *
 * Registers in translated code:
 *   guest rax rdx rbx rbp rsi rdi r12-r15    the same host register
 *   guest rsp, rcx                           host r8, r9
 *   guest r8-r11                             their home in struct tcg_cpu, [rsp + 8 * n]
 *   host rsp                                 struct tcg_cpu, below it the stack of helpers
 *   host rcx r10 r11                         scratch: T2 T0 T1
 * CF PF AF ZF SF OF live in the host's flags; `need` says which of them anybody may still read: emitters must keep those.
 *
 * All that can fail of an instruction (memory checks) comes before its first effect: the way out is the instruction's start.
 */
#ifndef HUSK_TCG_XLATE_IMPL_H
#define HUSK_TCG_XLATE_IMPL_H

#include "tcg/unit.h"
#include "tcg/x86_64/decode.h"
#include "tcg/x86_64/emit.h"
#include "tcg/x86_64/xlate.h"

#define T0	    H_R10
#define T1	    H_R11
#define T2	    H_RCX
#define H_GUEST_RSP H_R8
#define H_GUEST_RCX H_R9
#define HOME	    0xff /* not in a register */

enum tail_kind { TAIL_SLOW, TAIL_EXIT, TAIL_GUARD, TAIL_LEAVE };

/* Code out of line, emitted after the unit's body. What belongs to one kind is set where tails of that kind are made. */
struct tail {
	u8 kind;
	bool live;  /* flags must survive */
	u8 *fix[2]; /* rel32s that lead here, or NULL */
	u8 *retry;  /* SLOW: where to go on */
	u8 reg;	    /* SLOW: holds the address */
	u32 group;  /* SLOW: offset of the first access in its group, length of the group << 16; 0: no group */
	u32 arg;    /* SLOW: descriptor for the thunk; EXIT, GUARD: exit; LEAVE: reason and argument */
	u64 target; /* GUARD */
};

/* Accesses off one register under one check: xlate_group.c. */
struct group {
	bool on, write;
	u8 base;
	s32 lo, hi; /* T0 is the host address of base + lo; base as it was when the group began */
	s32 delta;  /* what was added to base since */
};

/* What is asked of an instruction many times: by groups, and by the emitter. */
struct note {
	s32 disp; /* its access [base + disp], which a group can take */
	u8 base;  /* X86_NO_REG: no such access */
	bool write;
	u16 size, writes; /* writes: general registers, a bit each */
	bool keeps;	  /* its code keeps a group */
	u8 adds;	  /* register, or X86_NO_REG, that it adds `by` to */
	int16_t by;
	u8 form; /* NOTE_* */
};
enum { NOTE_OTHER, NOTE_COPY /* the code is the guest's */, NOTE_MEMORY /* but for the memory operand */ };

struct xlate {
	struct group group;
	bool single; /* TCG_MODE_SINGLE: no groups */
	struct emit e;
	struct tcg_cpu *c;
	struct tcg_code *k;
	u64 va, page_va, gpa;
	bool cross;	/* the last instruction ends in the next page */
	const u8 *page; /* bytes of the guest page */
	u8 mode;
	u32 lo, hi; /* page offsets of all bytes looked at */
	u32 nr;
	struct x86_insn insns[UNIT_MAX_INSNS];
	u64 insn_va[UNIT_MAX_INSNS];
	struct note notes[UNIT_MAX_INSNS];
	u16 need[UNIT_MAX_INSNS + 1]; /* flags that are needed before each instruction, and after the last */
	u32 cur;		      /* instruction being emitted */
	u32 nr_tails, nr_exits, nr_marks, nr_relocs;
	u32 unit, first_exit, first_reloc; /* numbers of what is being made */
	u32 code;			   /* offset of the unit's code */
	struct unit_insn *marks;
	bool fixed;
	struct tail tails[4 * UNIT_MAX_INSNS];
	/* Offsets of this mode's tables from rsp. */
	s32 tlb_r, tlb_w, jump;
	u32 tlb_index_mask; /* of va >> 8 */
	s32 pext_mask;	    /* field with the mask for PEXT */
	u32 jump_index_mask;
	/* The code is made here and goes to its place at once: there, each new line would stop the stores that come after it. */
	u8 buf[UNIT_MAX_CODE] __attribute__((aligned(64)));
};

static inline u8 xlate_host_reg(u32 guest)
{
	static const u8 map[16] = {H_RAX, H_GUEST_RCX, H_RDX, H_RBX, H_GUEST_RSP, H_RBP, H_RSI, H_RDI,
				   HOME,  HOME,	       HOME,  HOME,  H_R12,	  H_R13, H_R14, H_R15};

	return map[guest];
}
static inline struct emem xlate_home(u32 guest)
{
	return EENV(offsetof(struct tcg_cpu, gpr) + 8 * guest);
}
/* Whether some flag is needed before the current instruction. */
static inline bool xlate_live(const struct xlate *x)
{
	return x->need[x->cur];
}
/* What a copy of the unit must change, `back` bytes before the end of what is emitted. */
void xlate_add_reloc(struct xlate *x, u32 kind, u32 back);
static inline void xlate_reloc(struct xlate *x, u32 kind, u32 back)
{
	if (!x->fixed)
		xlate_add_reloc(x, kind, back);
}
/* xlate_tail.c */
/* call, jmp to a thunk; mov reg, guest address that moves with the unit's. */
void xlate_call_thunk(struct xlate *x, u32 thunk);
void xlate_jmp_thunk(struct xlate *x, u32 thunk);
void xlate_mov_va(struct xlate *x, u32 reg, u64 va);
struct tail *xlate_tail(struct xlate *x, enum tail_kind kind, bool live, u8 *fix, u32 arg);
/* Emits them all, after the body; they may become more meanwhile. */
void xlate_emit_tails(struct xlate *x, struct unit *u);

/* xlate_mem.c */
/* Linear address of the current instruction's memory operand -> T0. Uses T1. */
void xlate_ea(struct xlate *x, const struct x86_insn *in);
/* What is checked: span bytes at the address in reg, for an access of size bytes at `first` of them that faults as it would alone. */
struct check {
	u32 reg, span, first, size;
	bool write;
	bool fold; /* reg is T0, and becomes the host address */
	u8 *retry; /* where the computation of the address began */
};
/* Returns what stands for the operand: [T0], or [reg + T1], which ends with a change of T1 or reg. Clobbers T1 and T2. */
struct emem xlate_check(struct xlate *x, const struct check *c);
/* The same operand as [T0], to have T1 free. */
struct emem xlate_fold(struct xlate *x, struct emem m);

/* xlate_group.c */
/* The checked memory operand of the current instruction, or size bytes at [guest register base + disp]: what the code uses in its place:
 * [T0 + disp], or [register + T1]. Clobbers T1 and T2. */
struct emem xlate_operand(struct xlate *x, const struct x86_insn *in);
struct emem xlate_access(struct xlate *x, u32 base, s32 disp, u32 size, bool write);
/* Scratch registers that the instruction needs beside its operand. */
u32 xlate_temps_needed(const struct x86_insn *in);
/* Makes the notes, before the first instruction. */
void xlate_take_notes(struct xlate *x);
/* Around the emission of each instruction. */
static inline void xlate_group_before(struct xlate *x)
{
	x->group.on &= x->notes[x->cur].keeps;
}
static inline void xlate_group_after(struct xlate *x)
{
	const struct note *n = &x->notes[x->cur];

	if (n->writes >> x->group.base & 1) {
		x->group.on &= n->adds == x->group.base;
		x->group.delta += n->by;
	}
}

/* Guest register -> a host register that may be read: its own, or tmp loaded from its home. */
u32 xlate_get(struct xlate *x, u32 guest, u32 tmp);

/* xlate_insn.c */
/* note.form of a generic instruction, of TRAIT_PLAIN or OP_VEC. */
u8 xlate_form(const struct x86_insn *in);
void xlate_copy(struct xlate *x, const struct x86_insn *in);
void xlate_memory(struct xlate *x, const struct x86_insn *in);
/* False: not done, nothing emitted: to be interpreted */
bool xlate_generic(struct xlate *x, const struct x86_insn *in);
bool xlate_lea(struct xlate *x, const struct x86_insn *in);

/* xlate_sys.c */
/* By operation. */
enum {
	TRAIT_ALWAYS = 1, /* can be translated */
	TRAIT_PLAIN = 2,  /* can be translated if insn.generic, by xlate_generic(), with nothing out of the ordinary */
	TRAIT_EMPTY = 4,  /* no code */
	TRAIT_FLOW = 8,	  /* xlate_flow() */
	TRAIT_ENDS = 16,  /* the unit ends after it */
	TRAIT_KEEPS = 32, /* whether it keeps a group is a question of its own */
	TRAIT_STACK = 64, /* PUSH, POP, CALL, RET */
};
extern const u8 xlate_traits[OP_NR];
bool xlate_system(struct xlate *x, const struct x86_insn *in);
bool xlate_bit_string(struct xlate *x, const struct x86_insn *in);
bool xlate_transfer(struct xlate *x, const struct x86_insn *in);
bool xlate_callout(struct xlate *x, const struct x86_insn *in);
bool xlate_is_callout(u32 op);

/* xlate_flow.c */
/* The 8 bytes that a push writes, a pop reads. */
struct emem xlate_push_slot(struct xlate *x);
struct emem xlate_pop_slot(struct xlate *x);
bool xlate_flow(struct xlate *x, const struct x86_insn *in);
/* Leaves for target, at the end of the unit (cc 16) or by a jump under condition cc. */
void xlate_exit(struct xlate *x, u32 cc, u64 target, bool back, bool live);
void xlate_guard(struct xlate *x, struct tail *stub, u64 target, u32 exit, bool live);
/* Leaves with a reason (LEAVE_*), argument in bits 8.. */
void xlate_leave(struct xlate *x, u32 arg);

/* thunks.c */
void xlate_thunks(struct tcg_code *k, struct emit *e);
/* Arithmetic flags of eax into the hardware; clobbers eax, ecx. */
void xlate_load_flags(struct emit *e);

#endif

/*
 * tcg.h: the software accelerator's state, shared by the files of this folder: one x86-64 vCPU as translated code and interpreter see it.
 *
 *   vcpu_run (vcpu.c) ── requests, timers, interrupts, HLT ──> tcg_exec (exec.c) ──> translated units | interp_step
 *                                 ^                                   │ tcg_raise: longjmp
 *                                 └── sys_deliver (exceptions) <──────┘
 *
 * A vCPU's memory is a row of windows, one for each TLB context (PCID), all mapping the same memfd but for the context's own part:
 *
 *   window i:  | stack for helpers, grows down | struct tcg_cpu (the same pages in each window) | struct tcg_ctx (its own pages) |
 *                                              ^ host rsp while translated code runs
 *
 * so that a switch of CR3 is a change of rsp, and everything hot is [rsp + constant].
 *
 * While the vCPU thread is between tcg_exec's entry and a call of tcg_heavy_begin, the guest's vector, x87 and MXCSR state may be live in
 * the hardware (fpu_live). Files listed as `lean` in meson.build are compiled -mgeneral-regs-only and call no libc; they need not care.
 * What else runs on the vCPU thread (devices, logging, anything of libc that may use vector registers) calls fpu_save first.
 */
#ifndef HUSK_TCG_H
#define HUSK_TCG_H

#include "arch/x86_64/cpu.h"
#include "vmm/vm.h"

struct chips; /* arch/x86_64/chips.h: LAPICs, IOAPIC, PICs, PIT */
struct lapic;
struct tcg_code; /* unit.h: translated code of the VM */
struct tcg_tools;
struct lockstep;

/* ---- TLB (mmu.c fills, translated code reads) ---- */

/* A hit: (u64)(va + neg) <= 4096 - size; the byte is then at va + addend, which does not wait for the check. neg = -(page's virtual
 * address), index = va bits 12... All zeros never hits, except in slot 0, which holds TCG_TLB_NEVER when it is invalid: so a table is wiped
 * with zeros and one store. */
struct tcg_tlb {
	u64 neg, addend;
};
/* The page of another slot, and not the one after slot 0's: no access that begins in a page of slot 0 reaches it. */
#define TCG_TLB_NEVER (-2 * MEM_PAGE_SIZE)
#define TCG_TLB_BITS  10
#define TCG_TLB_SIZE  (1u << TCG_TLB_BITS)
#define TCG_AC_BITS   8 /* tables for kernel code between STAC and CLAC are smaller */
#define TCG_AC_SIZE   (1u << TCG_AC_BITS)

/* Jump cache: guest rip -> translated code. Slot (rip ^ rip >> 10) would cost two instructions more: index = rip bits 1..10. */
struct tcg_jump {
	u64 neg; /* -rip; zero: only rip 0 hits, and slot 0 holds neg = 1 when it is invalid */
	u64 host;
};
#define TCG_JUMP_BITS	10
#define TCG_JUMP_SIZE	(1u << TCG_JUMP_BITS)
#define TCG_K_JUMP_SIZE 4096u /* of kernel code: rip bits 1..12 */

/* Where code pages are. id names the pair (va, gpa) for the guards of jumps between pages; 0: invalid. */
struct tcg_itlb {
	u64 va, gpa;
	u32 id, pad;
};
#define TCG_ITLB_SIZE 1024u

/* Which table an access uses. */
enum tcg_mmu_mode {
	TCG_KERNEL,    /* CPL 0-2, EFLAGS.AC clear or implicit: user pages are refused under SMAP */
	TCG_KERNEL_AC, /* CPL 0-2 under SMAP with EFLAGS.AC set: user and kernel pages */
	TCG_USER,
};

/* mmu.c's: page-walk cache, va >> 21 -> page table or large page. Valid while gen is its context's in tcg_mmu. */
struct tcg_pwc {
	u64 va, gen, where, acc;
};
#define TCG_PWC_SIZE 64u
/* mmu.c's: filters (never a false no) of what was cached: pages that code ran from, parts of large pages. Emptied with what they describe.
 */
struct tcg_seen {
	u64 code[256], code_large; /* by page; by 2 MiB: zero when no code ran at all */
	u64 large[32], huge;	   /* by 2 MiB; by 1 GiB */
};

/* The part of the TLB that belongs to one PCID. */
struct tcg_ctx {
	struct tcg_tlb user_r[TCG_TLB_SIZE], user_w[TCG_TLB_SIZE];
	struct tcg_tlb ac_r[TCG_AC_SIZE], ac_w[TCG_AC_SIZE];
	struct tcg_jump jump[TCG_JUMP_SIZE]; /* of user code */
	struct tcg_itlb itlb[TCG_ITLB_SIZE]; /* of user code */
	/* mmu.c's */
	bool has_global[2];		    /* holds global pages of the lower, upper half */
	u64 touched_user[2], touched_ac[2]; /* R, W: sixty-fourths of the tables that are not empty */
	struct tcg_seen seen;
	struct tcg_pwc pwc[TCG_PWC_SIZE];
};
#define TCG_NR_CTX 8u

/* mmu.c's: what belongs to no context. */
struct tcg_mmu {
	const struct mem *mem;
	u64 awaited;	     /* gpa in the last page that was found to be still missing (mem_fetch) */
	u64 gen[TCG_NR_CTX]; /* of the contexts' page-walk caches; never 0 once reset */
	struct tcg_ctx_use { /* not in the context itself: who looks for one would touch them all */
		u64 used;    /* LRU stamp */
		u16 pcid;    /* whose it is, while valid */
		bool valid;
	} use[TCG_NR_CTX];
	u64 rsvd;	     /* address bits above MAXPHYADDR */
	bool pages_1g;	     /* CPUID shows them */
	bool nonglobal_code; /* k_itlb holds pages that are not global */
	u64 touched_k[2];
	u32 nonglobal_words;		  /* which of nonglobal[] are not 0 */
	u64 nonglobal[TCG_TLB_SIZE / 64]; /* slots of the kernel tables with non-global pages */
	struct tcg_seen k;
};

/* ---- what translated code depends on: the unit key ---- */
#define TCG_MODE_USER 0x01 /* CPL 3 */
#define TCG_MODE_AC   0x02 /* CPL < 3, CR4.SMAP and EFLAGS.AC */
#define TCG_MODE_64   0x04 /* EFER.LMA and CS.L */
#define TCG_MODE_32   0x08 /* CS.D, not 64 */
#define TCG_MODE_TF   0x10 /* EFLAGS.TF, or a hardware breakpoint is armed: one instruction at a time */
#define TCG_MODE_NM   0x20 /* CR0.TS or CR0.EM: vector and x87 instructions raise #NM or #UD: interpreted */
#define TCG_MODE_PE   0x40 /* CR0.PE and not EFLAGS.VM */
#define TCG_MODE_FSGS 0x80 /* CR4.FSGSBASE */

/* Requests to a vCPU, from any thread (tcg_request). */
#define TCG_REQ_KICK	0x01u /* leave vcpu_run */
#define TCG_REQ_IRQ	0x02u /* the LAPIC or PIC may have something to deliver */
#define TCG_REQ_TIMER	0x04u
#define TCG_REQ_STOP	0x08u /* another vCPU wants to be alone (tcg_exclusive_begin) */
#define TCG_REQ_FLUSH_W 0x10u /* drop all writable TLB entries (dirty log, code pages) */
#define TCG_REQ_FLUSH	0x20u /* drop the whole TLB and jump caches */
#define TCG_REQ_FETCH	0x80u /* of its own: the page at mmu.awaited is to be waited for, outside the guest, then rip begun anew */
#define TCG_REQ_SHOOT	0x40u /* interrupts were enabled, or the mode changed, inside translated code: look again */

/* A pending exception (SDM 3A §6.13). */
struct tcg_exception {
	bool pending, has_error, soft; /* soft: INT n, INT3, INTO: rip moves on, gate DPL is checked */
	u8 vector;
	u32 error;
	u64 address; /* #PF: CR2; #DB: bits for DR6 */
	u8 soft_len; /* bytes of the software interrupt instruction */
	bool again;  /* sys_exc.c: delivery was begun, and comes once more after a tcg_restart on the way */
};

/* What a debugger wants of the vCPU (vmm/debug.h). Set while it is parked. */
struct tcg_debug {
	bool step, soft;
	u8 why;		/* enum debug_why: it has what it wanted, vcpu_run returns VCPU_DEBUG */
	u8 hits;	/* of its data breakpoints, by the instruction: bits as in DR6 */
	u64 dr[4], dr7; /* its own, beside the guest's. dr7 not 0: all is interpreted (TCG_MODE_TF) */
};

struct tcg_cpu {
	/* Reached by translated code with a one-byte displacement. */
	u64 gpr[X86_NR_GPRS]; /* hardware order; in translated code only r8-r11 live here */
	/* From here on with four. */
	u64 rip;    /* of the next instruction; in interpreter and helpers: of the one being executed, until it is complete */
	u64 rflags; /* all of it. In translated code CF PF AF ZF SF OF live in the hardware instead */
	u16 poll;   /* TCG_POLL_*: one store changes both bytes */
	u8 mode;    /* TCG_MODE_*: tcg_mode_update */
	u8 cpl;
	u8 shadow;     /* 1: no interrupts, 2: nor debug traps, before the next instruction is complete (STI, MOV SS) */
	bool fpu_live; /* vector, x87, MXCSR state is in the hardware, not in fpu */
	bool halted;
	bool nmi_masked;
	bool irq_waiting; /* an interrupt or NMI is held back by IF or nmi_masked: what lifts that asks for TCG_REQ_SHOOT */
	struct x86_seg seg[X86_NR_SEGS];
	u64 host_rsp;			  /* of the thread, while translated code runs */
	u64 scratch[8];			  /* of translated code */
	u64 bits31, bits63;		  /* constants 31 and 63 */
	u64 arith_mask, other_mask;	  /* constants for PEXT and PDEP: arithmetic flags; the others but RF and VM */
	u8 with_if[256], without_if[256]; /* what STI and CLI make of bits 8-15 of rflags, without a flag */
	u64 index_mask, index_mask_ac, page_mask, jump_mask, k_jump_mask; /* constants for PEXT: bits 12-21, bits 12-19, ~4095, bits 1-10 */
	u32 k_epoch;   /* what jumps between kernel pages are guarded by: counts changes of mappings that kernel code was executed from */
	u32 exit_unit; /* unit that was left, or UINT32_MAX: by exit_rip */
	u64 exit_rip;  /* why translated code came back: exec.c */
	u64 exit_arg;
	u64 exit_host;	/* LEAVE_LOOKUP: where the jump was */
	u64 tsc_offset; /* guest TSC = host TSC + this */

	/* Interpreter and helpers. */
	struct x86_dtable gdt, idt;
	u64 cr0, cr2, cr3, cr4, cr8, efer, xcr0, dr[4], dr6, dr7;
	u64 star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 pat, misc_enable, mtrr_def_type, spec_ctrl, tsc_adjust, xss, arch_capabilities;
	u64 features[4]; /* bit x86_feat: CPUID shows it (decode.h) */
	struct tcg_exception exc;
	bool delivering; /* an exception is being delivered: the next one makes #DF */
	u8 delivering_vector;
	bool triple_fault; /* sys_triple: the VM is to be reset: vcpu_run returns VCPU_SHUTDOWN */
	void *jmp[5];	   /* __builtin_setjmp of the run loop */
	u64 insn_count;	   /* instructions interpreted; a counter */
	u64 pauses_tsc;	   /* when nr_pauses last was a whole number of waits: interp.c */
	u32 nr_pauses;

	void (*before_trace)(struct tcg_cpu *); /* saves the vector state, which printing would destroy; NULL: no event is on */
	struct vcpu *v;
	struct tcg_vm *t;
	struct lapic *lapic;
	u8 *window0; /* base of the row of windows */
	u32 ctx;     /* the current one */
	u64 ctx_stamp;
	struct tcg_mmu mmu;
	u32 requests;  /* atomic, TCG_REQ_* */
	u32 sleeping;  /* futex: 1 while the thread waits in HLT */
	bool in_guest; /* under t->lock: not parked, so it has to answer TCG_REQ_STOP */
	struct x86_cpuid_table cpuid;
	u64 pv_time_msr, pv_wall_msr; /* kvmclock */
	u32 pv_version;
	void *fpu_stub;	    /* fpu.c's own */
	void *interp_cache; /* interp.c's own */
	void *trans;	    /* exec.c's own */
	u64 counters[32];   /* enum tcg_counter */
	struct tcg_debug debug;
	struct tcg_itlb k_itlb[TCG_ITLB_SIZE];
	struct tcg_jump k_jump[TCG_K_JUMP_SIZE], ac_jump[64];
	struct tcg_tlb k_r[TCG_TLB_SIZE], k_w[TCG_TLB_SIZE];
	u8 fpu[X86_XSAVE_MAX] __attribute__((aligned(64))); /* standard XSAVE format; valid while !fpu_live */
};

#define TCG_POLL_NONE  0x0100 /* low byte: leave; high byte: its negation, for JRCXZ */
#define TCG_POLL_LEAVE 0x0001

enum tcg_counter {
	TCG_C_INTERP,	/* instructions interpreted */
	TCG_C_UNITS,	/* units translated */
	TCG_C_COPIES,	/* units made by copying one for another address */
	TCG_C_INSNS,	/* guest instructions translated */
	TCG_C_TRANS_NS, /* spent translating */
	TCG_C_COPY_NS,	/* spent copying units */
	TCG_C_FILLS,	/* TLB misses that were filled */
	TCG_C_PUNTS,	/* slow accesses that were given to the interpreter */
	TCG_C_DISPATCH, /* entries into translated code */
	TCG_C_LOOKUPS,	/* jump cache misses */
	TCG_C_MMIO,
	TCG_C_PIO,
	TCG_C_EXCEPTIONS,
	TCG_C_INTERRUPTS,
	TCG_C_HALTS,
	TCG_C_CR3,
	TCG_C_INVLPG,
	TCG_C_FLUSHES,
	TCG_C_CODE_WRITES,
	TCG_C_INVALIDATED, /* stores into code pages; units they killed */
	TCG_C_EVICTED,
	TCG_C_AWAITED, /* waits for pages that were still to be fetched */
	/* Why translated code came back: LEAVE_*, in its order (unit.h). */
	TCG_C_EXIT_DIRECT,
	TCG_C_EXIT_LOOKUP,
	TCG_C_EXIT_INTERP,
	TCG_C_EXIT_SINGLE,
	TCG_C_EXIT_CROSS,
	TCG_C_EXIT_POLL,
	TCG_C_NR,
};

struct tcg_vm {
	struct vm *vm;
	struct chips *chips;
	struct tcg_code *code;	   /* NULL: interpreter only */
	struct tcg_tools *tools;   /* tools.h */
	struct lockstep *lockstep; /* lockstep.h; NULL: off */
	u32 code_epoch;		   /* atomic: the newest k_epoch of any vCPU */
	u32 nr_cpus;
	struct tcg_cpu *cpus[VM_MAX_VCPUS];
	pthread_mutex_t lock; /* exclusive sections: tcg.c */
	pthread_cond_t cond;
	u32 nr_in_guest;
	struct tcg_cpu *alone;	     /* who holds the exclusive section */
	bool dirty_on;		     /* atomic: W entries mark pages dirty when they are filled */
	u64 *dirty[MEM_MAX_REGIONS]; /* atomic words, by region slot */
	u64 tsc_khz;
	u64 boot_wall_ns;
};

/* An event of this vCPU, also from lean code with vector state in the hardware; not from what translated code calls and goes on after
 * (slow_fill of thunks.c). */
#define tcg_trace(c, event, fmt, ...) \
	do { \
		if (unlikely((c)->before_trace)) { \
			(c)->before_trace(c); \
			trace((c)->t->vm->trace, event, "vcpu=%u " fmt, (c)->v->index, ##__VA_ARGS__); \
		} \
	} while (0)

/* Lets other threads of the host run; for lean code. */
static inline void tcg_yield(void)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(24 /* sched_yield */) : "rcx", "r11", "memory");
}

static inline struct tcg_cpu *tcg_cpu_of(struct vcpu *v)
{
	return v->accel;
}
static inline struct tcg_vm *tcg_vm_of(struct vm *vm)
{
	return vm->accel_data;
}

/* ---- raising: each leaves the current instruction, with nothing of it done but what the caller stored. ctx: vcpu, in tcg_exec ---- */
_Noreturn void tcg_raise(struct tcg_cpu *c, u8 vector);
_Noreturn void tcg_raise_err(struct tcg_cpu *c, u8 vector, u32 error);
_Noreturn void tcg_raise_pf(struct tcg_cpu *c, u64 va, u32 error);
/* Leaves without an exception: the instruction at rip is begun anew after requests were looked at. */
_Noreturn void tcg_restart(struct tcg_cpu *c);
/* Leaves to the debugger, before the instruction at rip. */
_Noreturn static inline void tcg_debug_stop(struct tcg_cpu *c, enum debug_why why, u64 hits)
{
	c->debug.why = (u8)why;
	c->debug.hits = (u8)hits;
	tcg_restart(c);
}

enum {
	X86_DE,
	X86_DB,
	X86_NMI,
	X86_BP,
	X86_OF,
	X86_BR,
	X86_UD,
	X86_NM,
	X86_DF,
	X86_TS = 10,
	X86_NP,
	X86_SS_EXC,
	X86_GP,
	X86_PF,
	X86_MF = 16,
	X86_AC,
	X86_MC,
	X86_XM
};

#define X86_FLAG_CF	0x1ull
#define X86_FLAG_PF	0x4ull
#define X86_FLAG_AF	0x10ull
#define X86_FLAG_ZF	0x40ull
#define X86_FLAG_SF	0x80ull
#define X86_FLAG_TF	0x100ull
#define X86_FLAG_IF	0x200ull
#define X86_FLAG_DF	0x400ull
#define X86_FLAG_OF	0x800ull
#define X86_FLAG_IOPL	0x3000ull
#define X86_FLAG_NT	0x4000ull
#define X86_FLAG_RF	0x10000ull
#define X86_FLAG_VM	0x20000ull
#define X86_FLAG_AC	0x40000ull
#define X86_FLAG_VIF	0x80000ull
#define X86_FLAG_VIP	0x100000ull
#define X86_FLAG_ID	0x200000ull
#define X86_FLAGS_ARITH (X86_FLAG_CF | X86_FLAG_PF | X86_FLAG_AF | X86_FLAG_ZF | X86_FLAG_SF | X86_FLAG_OF)

#define X86_CR0_PE	   0x1ull
#define X86_CR0_MP	   0x2ull
#define X86_CR0_EM	   0x4ull
#define X86_CR0_TS	   0x8ull
#define X86_CR0_ET	   0x10ull
#define X86_CR0_NE	   0x20ull
#define X86_CR0_WP	   0x10000ull
#define X86_CR0_AM	   0x40000ull
#define X86_CR0_NW	   0x20000000ull
#define X86_CR0_CD	   0x40000000ull
#define X86_CR0_PG	   0x80000000ull
#define X86_CR4_TSD	   0x4ull
#define X86_CR4_DE	   0x8ull
#define X86_CR4_PSE	   0x10ull
#define X86_CR4_PAE	   0x20ull
#define X86_CR4_MCE	   0x40ull
#define X86_CR4_PGE	   0x80ull
#define X86_CR4_PCE	   0x100ull
#define X86_CR4_OSFXSR	   0x200ull
#define X86_CR4_OSXMMEXCPT 0x400ull
#define X86_CR4_UMIP	   0x800ull
#define X86_CR4_LA57	   0x1000ull
#define X86_CR4_FSGSBASE   0x10000ull
#define X86_CR4_PCIDE	   0x20000ull
#define X86_CR4_OSXSAVE	   0x40000ull
#define X86_CR4_SMEP	   0x100000ull
#define X86_CR4_SMAP	   0x200000ull
#define X86_CR4_PKE	   0x400000ull
#define X86_EFER_SCE	   0x1ull
#define X86_EFER_LME	   0x100ull
#define X86_EFER_LMA	   0x400ull
#define X86_EFER_NXE	   0x800ull

/* attr bits of struct x86_seg */
#define X86_ATTR_TYPE	0xfu
#define X86_ATTR_S	0x10u
#define X86_ATTR_DPL(a) ((a) >> 5 & 3)
#define X86_ATTR_P	0x80u
#define X86_ATTR_L	0x200u
#define X86_ATTR_DB	0x400u
#define X86_ATTR_G	0x800u

static inline bool tcg_is_64(const struct tcg_cpu *c)
{
	return c->mode & TCG_MODE_64;
}
static inline bool tcg_is_user(const struct tcg_cpu *c)
{
	return c->cpl == 3;
}
static inline bool tcg_has(const struct tcg_cpu *c, u32 feat)
{
	return c->features[feat / 64] >> feat % 64 & 1;
}
static inline bool tcg_canonical(u64 va)
{
	return (u64)((s64)(va << 16) >> 16) == va;
}
/* Host address of a context's tables. */
static inline struct tcg_ctx *tcg_ctx_at(const struct tcg_cpu *c, u32 i);

/* Recomputes mode (and cpl-dependent state) after a change of CS, SS, CPL, EFLAGS.AC/TF/VM, CR0, CR4, EFER, DR7. exec.c */
void tcg_mode_update(struct tcg_cpu *c);
/* Whether ordinary data accesses now use this table. */
static inline enum tcg_mmu_mode tcg_data_mode(const struct tcg_cpu *c)
{
	return c->mode & TCG_MODE_USER ? TCG_USER : c->mode & TCG_MODE_AC ? TCG_KERNEL_AC : TCG_KERNEL;
}

/* Sets request bits, and makes translated code leave at its next poll; wakes the vCPU if it sleeps. ctx: any, async-signal-safe */
void tcg_request(struct tcg_cpu *c, u32 req);
/* Runs guest code until a request is pending, the vCPU halts or an exception is pending. exec.c. ctx: vcpu */
void tcg_exec(struct tcg_cpu *c);

/* Device accesses: they save the FPU state, may take locks and run device code. size 1, 2, 4, 8. vcpu.c. ctx: vcpu */
u64 tcg_mmio_read(struct tcg_cpu *c, u64 gpa, u32 size);
void tcg_mmio_write(struct tcg_cpu *c, u64 gpa, u32 size, u64 value);
u32 tcg_pio_read(struct tcg_cpu *c, u16 port, u32 size);
void tcg_pio_write(struct tcg_cpu *c, u16 port, u32 size, u32 value);
/* Guest TSC now; the next thing the timer wants. */
u64 tcg_rdtsc(const struct tcg_cpu *c);

/* All other vCPUs of the VM stand still outside guest code between these. Not nested. The caller looks at its state again afterwards (it
 * may have waited for another's section first). ctx: vcpu, or any thread with c = NULL (dirty log) */
void tcg_exclusive_begin(struct tcg_vm *t, struct tcg_cpu *c);
void tcg_exclusive_end(struct tcg_vm *t, struct tcg_cpu *c);

#define TCG_STACK_SIZE	(64 * KIB)
#define TCG_CPU_SIZE	ALIGN_UP(sizeof(struct tcg_cpu), MEM_PAGE_SIZE)
#define TCG_CTX_SIZE	ALIGN_UP(sizeof(struct tcg_ctx), MEM_PAGE_SIZE)
#define TCG_WINDOW_SIZE (TCG_STACK_SIZE + TCG_CPU_SIZE + TCG_CTX_SIZE)
#define TCG_CTX_OFFSET	TCG_CPU_SIZE /* of struct tcg_ctx from struct tcg_cpu in the same window */

static inline struct tcg_ctx *tcg_ctx_at(const struct tcg_cpu *c, u32 i)
{
	return (struct tcg_ctx *)(void *)(c->window0 + i * TCG_WINDOW_SIZE + TCG_STACK_SIZE + TCG_CPU_SIZE);
}

#endif

/*
 * unit.h: translated code: where it lies, how it is found, linked and killed.
 *
 * A unit is the translation of a straight run of guest instructions inside one guest page, for one virtual address and one TCG_MODE_* key.
 * Its code has two entries: `poll`, which looks for requests first (entered by backward and indirect jumps), and `body`.
 *
 *   code buffer (memfd, mapped twice: rw for the translator, rx for the processor)
 *   | thunks | unit code | unit code | ...                          in chunks; the oldest is emptied when all are full
 *
 * A direct exit starts as a jump to its stub, which names itself to the dispatcher; the dispatcher finds or makes the target and patches
 * the jump. An exit to another page passes a guard: the itlb slot of the target must hold the id of the (va, gpa) pair it was linked for.
 * Locking: `lock` guards everything but the code that runs; patches are single aligned stores. A dead unit's entries jump to the
 * dispatcher: jump caches need not be searched. Lock order: exclusive section before `lock`.
 */
#ifndef HUSK_TCG_UNIT_H
#define HUSK_TCG_UNIT_H

#include "tcg/tcg.h"

#define UNIT_MAX_INSNS	 48u
#define UNIT_MAX_EXITS	 24u
#define UNIT_MAX_RELOCS	 512u
#define UNIT_MAX_CODE	 (32 * KIB)
#define CODE_CHUNKS	 16u /* the last CODE_COPY_CHUNKS for copies: they live short, and must not drive out what they are made of */
#define CODE_COPY_CHUNKS 4u
#define UNIT_MAX_COPIES	 16u /* of a unit, at different addresses */
#define CODE_CALLOUTS	 1024u
#define UNIT_ID_CACHE	 0x4000u
#define UNIT_HASH_BITS	 16
#define UNIT_NONE	 UINT32_MAX
#define UNIT_SINGLE	 0x100u /* beside the mode: each access is checked for itself */
#define UNIT_NO_PAGE	 UINT64_MAX

struct unit_exit {
	u32 unit;	/* whose */
	u32 site;	/* code offset of the rel32 that is patched */
	u32 slot;	/* code offset of the guard's displacement */
	u32 guard;	/* code offset of the guard's id, or 0: target in the same page */
	u32 stub;	/* code offset of the stub */
	s32 target;	/* guest address - unit's va */
	bool back;	/* enter at the poll */
	bool guard_neg; /* the guard adds the negated id, and 1 is the one that never fits */
	u32 linked;	/* unit, or UNIT_NONE */
	u32 in_next;	/* next exit that is linked to the same unit */
};

/* What a copy of the unit for another address has to change: 4 bytes, of RELOC_VA 8. */
enum { RELOC_THUNK, RELOC_VA, RELOC_UNIT, RELOC_CROSS, RELOC_CROSS_NEG, RELOC_CROSS_SLOT };
struct unit_reloc {
	u16 at; /* from the unit's code */
	u16 kind;
};

struct unit_insn { /* where each guest instruction is, for faults of native instructions */
	u16 code, guest;
};

struct unit {
	u64 va, gpa; /* of the first instruction */
	u32 code;    /* offset of the poll entry */
	u32 code_len;
	u32 poll_stub; /* offset */
	u16 body;      /* offset of the body entry from `code` */
	u16 lo, hi;    /* offsets in the guest page: the bytes that the translation depends on, [lo, hi); beyond 4096: in the second page */
	u16 nr_insns, nr_exits;
	u16 mode;	   /* TCG_MODE_*, UNIT_SINGLE */
	bool dead, interp; /* interp: its first instruction is not translated */
	u32 hash_next, in;
	struct unit_link {
		u32 prev, next;	  /* unit + 1, or 0 */
	} page, page2;		  /* lists of the units in a page: the first, and the one that the last instruction ends in */
	u64 gpa2;		  /* second page, that the last instruction ends in, or UNIT_NO_PAGE */
	u32 id2;		  /* what the guard of the second page compares */
	u32 exits, insns, relocs; /* first one in the arrays */
	u16 nr_relocs;
	bool copy;
	bool fixed; /* cannot be copied: holds what depends on its address in other forms */
};

struct unit_page {  /* a guest page that has code */
	u32 first;  /* unit + 1, or 0; page_next of units too */
	u32 writes; /* stores into it: gives up on pages that are mostly data */
};

struct page_id {
	u64 va, gpa;
	u32 id;
};

/* A sixteenth of the code buffer and of the arrays: from first up to nr, the next free one. */
struct code_chunk {
	u32 start, used;
	u32 ready, wanted; /* so many bytes of code, and as much of the arrays, have memory, or are to have: cache_prepare */
	u32 first_unit, nr_units, first_exit, nr_exits, first_insn, nr_insns, first_reloc, nr_relocs;
};

struct x86_insn;

struct tcg_code {
	struct tcg_vm *t;
	int fd;	     /* owned memfd */
	u8 *rw, *rx; /* the two mappings */
	u64 size;
	u32 thunks_end, chunk_size;
	bool populated;		  /* hash and ids have memory, too: loop */
	struct loop_work prepare; /* the loop gives memory to the chunks, while the vCPU goes on: cache_prepare */
	u32 cur[2];		  /* chunk that is being filled: with translations, with copies */
	struct code_chunk chunks[CODE_CHUNKS];
	u32 max_units, max_exits, max_insns, max_relocs; /* in a chunk */
	u32 lock;					 /* spin lock, atomic */
	u32 generation;					 /* of the whole cache: jump caches of another one are stale */
	struct unit *units;
	struct unit_exit *exits;
	struct unit_insn *insns;
	struct unit_reloc *relocs;
	u32 *hash;		 /* unit + 1, or 0 */
	u64 *code_map;		 /* bit per guest page (by mem_region.first_page): has code. atomic */
	u64 *write_map;		 /* bit per guest page: some vCPU may have a writable TLB entry. atomic */
	struct unit_page *pages; /* by guest page */
	u64 nr_pages;
	struct page_id *ids; /* a cache: a pair may get another id later */
	u32 last_id;
	struct code_page2 { /* what the translator may know of the page after the unit's */
		bool known, wanted;
		u64 gpa;
		u32 id;
	} page2;
	/* thunks: code offsets */
	u32 enter, leave, leave_unit, leave_lookup, leave_fault, slow_dead, slow_live, callout, transfer;
	struct x86_insn *callouts; /* CODE_CALLOUTS decoded instructions that translated code has the interpreter execute, by hash */
	void *xlate;		   /* the translator's scratch */
};

int code_new(struct tcg_vm *t, u64 size, struct err *e) MUST_CHECK;
void code_free(struct tcg_vm *t);
/* The guest got a further region: makes the tables by page anew. Before any code is translated. ctx: before start */
int code_mem_changed(struct tcg_code *k, struct err *e) MUST_CHECK;

void code_lock(struct tcg_code *k);
void code_unlock(struct tcg_code *k);

/* The unit for the code at va (page gpa) in mode, made if need be; UNIT_NONE: not possible now (interpret). Takes the lock. ctx: vcpu */
u32 unit_get(struct tcg_cpu *c, u64 va, u64 gpa, u16 mode);
/* Links exit x to the unit u; id: of the target's page for guarded exits. Takes the lock. */
void unit_link(struct tcg_code *k, u32 x, u32 u, u32 id);
/* The unit whose code holds a host address, or UNIT_NONE. ctx: any vCPU */
u32 unit_by_host(const struct tcg_code *k, u64 host);
/* Guest offset (from the unit's va) of the instruction that the host address in the unit belongs to. */
u32 unit_guest_offset(const struct tcg_code *k, const struct unit *u, u64 host);
/* The guard of the unit's second page has failed: id is what it would have to be now. Kills the unit if that is another page. */
void unit_recheck_cross(struct tcg_code *k, u32 u, u64 gpa2, u32 id);
/* A device or the host wrote guest RAM. ctx: any */
void unit_host_write(struct tcg_vm *t, u64 gpa, u64 len);

/* With the lock, or with all vCPUs standing still. A vCPU that is in the unit may run to its next exit. */
void unit_kill(struct tcg_code *k, u32 u);

/* ---- cache.c ---- */
/* Empties everything. ctx: before start */
void cache_reset(struct tcg_code *k);
/* Whether the largest unit still fits. */
bool cache_has_room(const struct tcg_code *k, bool copies);
/* Asks the loop for memory for what the next units fill, a piece ahead. With the lock. ctx: vcpu */
void cache_prepare(struct tcg_cpu *c, bool copies);
/* Evicts the oldest chunk. Stops all vCPUs: not with the lock held. */
void cache_make_room(struct tcg_cpu *c, bool copies);
/* A copy of unit `donor`, which is not fixed, for another address of the same code. With the lock, and room. */
bool cache_copy_unit(struct tcg_code *k, u32 donor, u64 va, u32 *unit);

/* Why translated code came back: exit_arg of struct tcg_cpu (low 8 bits) and its argument above. */
enum {
	LEAVE_EXIT,   /* argument: exit index */
	LEAVE_LOOKUP, /* c->exit_rip is the next instruction */
	LEAVE_INTERP, /* argument: offset (16 bits, signed) from the unit's start of the instruction to interpret; exit_rip: host address */
	LEAVE_SINGLE, /* as LEAVE_INTERP: go on there with a unit that checks each access for itself */
	LEAVE_CROSS,  /* as LEAVE_INTERP: an instruction in two pages, of which the second may not be mapped as before */
	LEAVE_POLL,   /* a request is pending, or the unit is dead; exit_rip: host address */
};

#endif

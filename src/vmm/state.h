/*
 * state.h: saved state as tables. A table lists the fields of a plain struct; from it come the bytes in a package, the checks when they are
 * read, `husk inspect`, the golden schema and the round-trip tests. Nothing about a field is written down twice.
 *
 *   live object ── save() ──> plain struct ── state_encode ──> bytes          (a section of a package: src/migration/package.h)
 *   live object <── load() ── plain struct <── state_decode ── bytes          load only after every section was decoded and checked
 *
 * A field is {u16 tag, u8 type, u8 bytes of an element, u32 elements} and the elements, little-endian; a struct element is {u32 length} and
 * its fields, and has in place of its bytes the version of its table (1..255). All fields of a table are there, in its order: the same
 * state gives the same bytes.
 *
 * Versions. A table has a version, which goes up with any change (tests/golden/schema.json fails the build otherwise), and the oldest
 * version that it still reads. A field that came later has `since`: older bytes lack it, and it stays zero. Tags are never used again.
 * A table inside another has a version of its own; the outer one's does not go up with it.
 *
 * Rules for the struct: fixed-size scalars (bool, u8..u64, s64, enum), arrays of them, structs and arrays of structs; no pointers; every
 * member is in the table (test_state proves that the fields tile it).
 */
#ifndef HUSK_STATE_H
#define HUSK_STATE_H

#include "vmm/base/base.h"
#include "vmm/base/buf.h"
#include "vmm/base/err.h"

struct device;
struct json_object;
struct vm;

enum state_type { STATE_UINT, STATE_BOOL, STATE_BYTES, STATE_TEXT, STATE_STRUCT }; /* in packages: append only */

struct state_table;

struct state_field {
	const char *name;  /* NULL ends a table */
	u16 tag;	   /* 1..0x7fff, ascending */
	u16 since;	   /* version of the table that brought it; 0: all have it */
	u8 type;	   /* enum state_type */
	u8 elem;	   /* bytes of one scalar: 1, 2, 4, 8; 1 for bytes and text; 0 for structs */
	u32 offset, count; /* in the struct; elements that it has room for */
	u32 nr_offset;	   /* STATE_NO_NR, or a u32 member with the number of elements in use, itself a field before this one */
	u64 max;	   /* of each scalar; 0: no bound but the type's */
	bool hex;	   /* how `husk inspect` shows it */
	const struct state_table *table; /* of a struct element */
};
#define STATE_NO_NR UINT32_MAX

struct state_table {
	const char *name; /* "cpu"; also the section's name */
	u16 version, min_version;
	u32 size; /* of the struct */
	const struct state_field *fields;
};

/* STATE_NR takes the place of the default in STATE_FIELD_; -Wextra minds. */
#pragma GCC diagnostic ignored "-Woverride-init"
#define STATE_MEMBER(s, m) (((s *)0)->m)
#define STATE_FIELD_(s, m, t, ty, el, n, ...) \
	{ \
		.name = #m, .tag = (t), .type = (ty), .elem = (el), .offset = offsetof(s, m), .count = (n), .nr_offset = STATE_NO_NR, \
		__VA_ARGS__ \
	}
/* An integer or enum; an array of them; of which nr (a u32 member) are used. Last: designated initialisers (.max = 3, .hex = true). */
#define STATE_NUM(s, m, t, ...) STATE_FIELD_(s, m, t, STATE_SCALAR_(STATE_MEMBER(s, m)), sizeof(STATE_MEMBER(s, m)), 1, __VA_ARGS__)
#define STATE_ARRAY(s, m, t, ...) \
	STATE_FIELD_(s, m, t, STATE_SCALAR_(STATE_MEMBER(s, m)[0]), sizeof(STATE_MEMBER(s, m)[0]), ARRAY_SIZE(STATE_MEMBER(s, m)), \
		     __VA_ARGS__)
#define STATE_FLAG(s, m, t, ...) STATE_FIELD_(s, m, t, STATE_BOOL, 1, 1, __VA_ARGS__)
/* A bool that is neither 0 nor 1 must never reach one. */
#define STATE_SCALAR_(v)	(_Generic((v), bool : STATE_BOOL, default : STATE_UINT))
#define STATE_BUF(s, m, t, ...) STATE_FIELD_(s, m, t, STATE_BYTES, 1, sizeof(STATE_MEMBER(s, m)), __VA_ARGS__)
/* A string in a char array: its bytes without the NUL; what is read is terminated and has no NUL in it. */
#define STATE_STR(s, m, t, ...)	      STATE_FIELD_(s, m, t, STATE_TEXT, 1, sizeof(STATE_MEMBER(s, m)), __VA_ARGS__)
#define STATE_ONE(s, m, t, tab, ...)  STATE_FIELD_(s, m, t, STATE_STRUCT, 0, 1, .table = (tab), __VA_ARGS__)
#define STATE_MANY(s, m, t, tab, ...) STATE_FIELD_(s, m, t, STATE_STRUCT, 0, ARRAY_SIZE(STATE_MEMBER(s, m)), .table = (tab), __VA_ARGS__)
#define STATE_NR(s, m)		      .nr_offset = offsetof(s, m)
#define STATE_END \
	{ \
		.name = NULL \
	}

/* Appends data (a table->size struct) to out. */
void state_encode(const struct state_table *t, const void *data, struct buf *out);
/* Bytes of the largest struct of this table, encoded. */
u64 state_size_max(const struct state_table *t);
/*
 * Reads what state_encode of this table, or of an older version down to min_version, has written; data (table->size bytes) is zeroed first
 * and garbage after a failure. -EINVAL: e names the field ("field msrs[3].index: ..."), and the caller the table. Bounds come from the
 * table: no length in the bytes is trusted, nothing is allocated. ctx: any
 */
int state_decode(const struct state_table *t, u16 version, const u8 *bytes, size_t len, void *data, struct err *e) MUST_CHECK;
/* The same, into data that is zeroes already: what the state leaves out of a large struct stays untouched memory. */
int state_decode_zeroed(const struct state_table *t, u16 version, const u8 *bytes, size_t len, void *data, struct err *e) MUST_CHECK;
/* The struct as JSON, for `husk inspect`: {"field": value, ...}; numbers, or "0x..." for hex ones; bytes as hex text. The caller's. */
struct json_object *state_json(const struct state_table *t, const void *data);
/* The table itself: name, versions, fields; for tests/golden/schema.json. The caller's. */
struct json_object *state_schema(const struct state_table *t);

/*
 * One kind of a device's state (device_class.states). save, check and load are on the loop thread, all vCPUs parked and devices quiesced;
 * they take the device's lock where they need it.
 */
struct device_state {
	const struct state_table *table;
	/* Live -> data (zeroed). -EBUSY and the like: this device cannot be saved now, e says why. Changes nothing that the guest sees. */
	int (*save)(struct device *dev, void *data, struct err *e);
	/* May be NULL. Can this device, made from its configuration, take the state? Everything that the table's bounds do not say: host
	 * and guest made it up. Changes nothing. */
	int (*check)(struct device *dev, const void *data, struct err *e);
	/* data -> live; everything was checked, all other sections too. Memory and interrupt chips are in place; a level line is set again
	 * here. Queues are kicked later, by device_class.resume. */
	void (*load)(struct device *dev, const void *data);
	/* A VM does without it: it may be missing from a package (load is not called then), and a husk that does not know it skips it. */
	bool optional;
};

/* One section: a table and who fills it. */
struct state_section {
	const struct state_table *table;
	char instance[96];  /* "drives/rootfs", "rng", vCPU number, or "" */
	u32 index;	    /* vCPU */
	bool optional;	    /* see struct device_state */
	struct device *dev; /* of device sections */
	const struct device_state *dev_state;
	int (*save)(struct vm *vm, const struct state_section *s, void *data, struct err *e);
	int (*check)(struct vm *vm, const struct state_section *s, const void *data, struct err *e); /* may be NULL */
	int (*load)(struct vm *vm, const struct state_section *s, const void *data, struct err *e);
};

#define STATE_MAX_SECTIONS 512

/* Every section of the VM in the order in which they are loaded: vCPUs, then chips and clocks (machine_sections), then devices as they were
 * made. Owned array of *nr; borrowed contents. -EOPNOTSUPP: a device cannot be saved, e names it. */
int vm_sections(struct vm *vm, struct state_section **out, u32 *nr, struct err *e) MUST_CHECK;

#endif

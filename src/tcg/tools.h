/*
 * tools.h: what looks over the translator's shoulder: dumps of units (--tcg-dump), the verifier of emitted code (--tcg-verify), the
 * comparison with the interpreter (--tcg-lockstep), trace events. All off: a VM has no struct tcg_tools.
 */
#ifndef HUSK_TCG_TOOLS_H
#define HUSK_TCG_TOOLS_H

#include "tcg/unit.h"

struct verify;
struct dump;

struct tcg_tools {
	struct verify *verify;
	struct dump *dump;
	u64 nr_verified, verify_ns;
};

/* For a VM that has its code memory. By the configuration; HUSK_TCG_VERIFY in the environment switches the verifier on too (tests without a
 * configuration). */
int tools_new(struct tcg_vm *t, struct err *e) MUST_CHECK;
void tools_free(struct tcg_vm *t); /* accepts what never was; prints what was counted */
/* A new unit. Ends husk if the verifier finds fault. ctx: vcpu, with the code's lock and the vector state saved */
void tools_unit(struct tcg_cpu *c, u32 unit);

/* ---- dump.c ---- */
/* what: "guest", "host" or both, comma-separated, then "=FILE" or nothing: standard error. */
int dump_new(struct dump **d, const char *what, struct err *e) MUST_CHECK;
void dump_free(struct dump *d); /* accepts NULL */
void dump_unit(struct dump *d, const struct tcg_code *k, u32 unit);
/* The same to standard error, whatever was asked for: before husk ends. */
void dump_unit_loudly(const struct tcg_code *k, u32 unit);

#endif

/* tools.c: see tools.h. */
#include "tcg/tools.h"

#include <stdio.h>
#include <stdlib.h>

#include "config.h"
#include "tcg/lockstep.h"
#include "tcg/x86_64/interp.h"
#include "tcg/x86_64/verify.h"
#include "vmm/clock.h"
#include "vmm/config.h"

static int set_up(struct tcg_vm *t, const struct cfg_tcg *cfg, bool check, struct err *e)
{
	int ret = 0;

	if (cfg->lockstep)
		ret = lockstep_new(t, e);
	if (ret < 0 || !(check || cfg->dump || (t->vm->trace && t->vm->trace->any)))
		return ret;
	t->tools = xzalloc(sizeof(*t->tools));
	if (check) {
		t->tools->verify = verify_new();
		ret = verify_mappings(t->code, e);
	}
	return ret || !cfg->dump ? ret : dump_new(&t->tools->dump, cfg->dump, e);
}

int tools_new(struct tcg_vm *t, struct err *e)
{
	static const struct cfg_tcg none;
	const struct cfg_tcg *cfg = t->vm->config && t->vm->config->tcg ? t->vm->config->tcg : &none;

	return set_up(t, cfg, HUSK_DEBUG_BUILD || cfg->verify || getenv("HUSK_TCG_VERIFY"), e);
}

void tools_free(struct tcg_vm *t)
{
	struct tcg_tools *o = t->tools;

	lockstep_free(t);
	if (!o)
		return;
	if (o->verify && t->vm->log)
		log_debug(t->vm->log, "tcg: %llu units verified in %llu ms", (unsigned long long)o->nr_verified,
			  (unsigned long long)(o->verify_ns / NSEC_PER_MSEC));
	verify_free(o->verify);
	dump_free(o->dump);
	t->tools = NULL;
	free(o);
}

static void verify(struct tcg_vm *t, u32 unit)
{
	const struct tcg_code *k = t->code;
	const struct unit *u = &k->units[unit];
	const struct verify_unit in = {.code = k,
				       .bytes = k->rw + u->code,
				       .at = u->code,
				       .len = u->code_len,
				       .body = u->body,
				       .mode = (u8)u->mode,
				       .unit = unit,
				       .exits = u->exits,
				       .nr_exits = u->nr_exits};
	u64 begin = clock_host_ns();
	const char *why;
	u32 where;

	why = verify_unit(t->tools->verify, &in, &where);
	t->tools->verify_ns += clock_host_ns() - begin;
	t->tools->nr_verified++;
	if (!why)
		return;
	dump_unit_loudly(k, unit);
	fprintf(stderr, "husk: bug: translated code breaks a rule: %s: unit %u, at %#llx (offset %#x); please report it\n", why, unit,
		(unsigned long long)(uintptr_t)(k->rx + u->code + where), where);
	abort();
}

void tools_unit(struct tcg_cpu *c, u32 unit)
{
	struct tcg_tools *o = c->t->tools;
	const struct unit *u = &c->t->code->units[unit];

	tcg_trace(c, tcg_unit, "unit=%u va=0x%llx gpa=0x%llx mode=0x%x insns=%u exits=%u bytes=%u", unit, (unsigned long long)u->va,
		  (unsigned long long)u->gpa, u->mode, u->nr_insns, u->nr_exits, u->code_len);
	if (o->verify)
		verify(c->t, unit);
	if (o->dump)
		dump_unit(o->dump, c->t->code, unit);
}

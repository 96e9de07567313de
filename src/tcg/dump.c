/* dump.c: --tcg-dump: guest and host code of each unit as it is translated, in Intel's notation (capstone). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "tcg/tools.h"

#if HUSK_CAPSTONE
#define x86_insn capstone_x86_insn /* its enumeration has the name of our struct */
#include <capstone/capstone.h>
#undef x86_insn
#endif

struct dump {
	FILE *out; /* owned when own */
	bool own, guest, host;
};

/* Reads "guest,host"; what is behind it ("", "=FILE") is at *end. */
static bool parse(const char *what, bool *guest, bool *host, const char **end)
{
	*guest = *host = false;
	for (;; what++) {
		if (!strncmp(what, "guest", 5) && !*guest)
			*guest = true, what += 5;
		else if (!strncmp(what, "host", 4) && !*host)
			*host = true, what += 4;
		else
			return false;
		if (*what != ',')
			break;
	}
	*end = what;
	return !*what || (*what == '=' && what[1]);
}

/* One instruction at bytes, which is at `at` for whoever executes it. Returns its length. */
static u32 print_insn(FILE *out, const u8 *bytes, u32 avail, u64 at)
{
	u32 len = 1;
#if HUSK_CAPSTONE
	cs_insn *insn = NULL;
	csh cs;

	if (cs_open(CS_ARCH_X86, CS_MODE_64, &cs) != CS_ERR_OK)
		return avail;
	if (cs_disasm(cs, bytes, avail, at, 1, &insn) == 1)
		len = insn->size;
#endif
	fprintf(out, "%16llx ", (unsigned long long)at);
	for (u32 i = 0; i < 11 || i < len; i++) {
		if (i < len)
			fprintf(out, " %02x", bytes[i]);
		else
			fputs("   ", out);
	}
#if HUSK_CAPSTONE
	if (insn)
		fprintf(out, "  %s %s", insn->mnemonic, insn->op_str);
	else
		fputs("  (bad)", out);
	cs_free(insn, insn ? 1 : 0);
	cs_close(&cs);
#else
	(void)avail;
#endif
	fputc('\n', out);
	return len;
}

static void print_guest(FILE *out, const struct tcg_code *k, const struct unit *u)
{
	const struct mem *mem = &k->t->vm->mem;

	for (u32 i = 0; i < u->nr_insns; i++) {
		int16_t offset = (int16_t)k->insns[u->insns + i].guest;
		u64 at = u->gpa + (u64)(s64)offset;
		u32 first = (u32)(MEM_PAGE_SIZE - (at & (MEM_PAGE_SIZE - 1)));
		const u8 *page = mem_ptr(mem, at, first), *page2 = NULL;
		u8 bytes[15] = {0};

		if (u->gpa2 != UNIT_NO_PAGE)
			page2 = mem_ptr(mem, u->gpa2, sizeof(bytes));
		for (u32 b = 0; b < sizeof(bytes); b++)
			bytes[b] = b < first ? (page ? page[b] : 0) : (page2 ? page2[b - first] : 0);
		print_insn(out, bytes, sizeof(bytes), u->va + (u64)(s64)offset);
	}
}

/* With a line before what each guest instruction has become. */
static void print_host(FILE *out, const struct tcg_code *k, const struct unit *u)
{
	u32 mark = 0;

	for (u32 at = 0; at < u->code_len;) {
		for (; mark < u->nr_insns && k->insns[u->insns + mark].code <= at; mark++)
			fprintf(out, "      for %llx:\n", (unsigned long long)(u->va + (u64)(s64)(int16_t)k->insns[u->insns + mark].guest));
		at += print_insn(out, k->rw + u->code + at, MIN(u->code_len - at, 15u), (u64)(uintptr_t)k->rx + u->code + at);
	}
}

static void print_unit(FILE *out, const struct tcg_code *k, u32 unit, bool guest, bool host)
{
	const struct unit *u = &k->units[unit];

	fprintf(out, "unit %u: va %llx gpa %llx mode %#x%s, %u instructions, %u exits, %u bytes\n", unit, (unsigned long long)u->va,
		(unsigned long long)u->gpa, u->mode, u->mode & TCG_MODE_USER ? " (user)" : "", u->nr_insns, u->nr_exits, u->code_len);
	if (guest) {
		fputs("  guest:\n", out);
		print_guest(out, k, u);
	}
	if (host) {
		fputs("  host:\n", out);
		print_host(out, k, u);
	}
}

void dump_unit(struct dump *d, const struct tcg_code *k, u32 unit)
{
	print_unit(d->out, k, unit, d->guest, d->host);
}

void dump_unit_loudly(const struct tcg_code *k, u32 unit)
{
	fflush(stdout);
	print_unit(stderr, k, unit, true, true);
}

int dump_new(struct dump **dump, const char *what, struct err *e)
{
	const char *file = NULL;
	struct dump d = {.out = stderr};

	if (!HUSK_CAPSTONE)
		return err_set(e, -EOPNOTSUPP,
			       "--tcg-dump: this husk was built without capstone, the disassembler (tools/setup installs it; meson: "
			       "-Dcapstone=enabled)");
	if (!parse(what, &d.guest, &d.host, &file))
		return err_set(e, -EINVAL, "--tcg-dump: guest, host or both, then =FILE; not \"%s\"", what);
	if (*file) {
		d.out = fopen(file + 1, "we");
		d.own = true;
	}
	if (!d.out)
		return err_errno(e, "--tcg-dump: file \"%s\"", file + 1);
	*dump = xzalloc(sizeof(d));
	**dump = d;
	return 0;
}

void dump_free(struct dump *d)
{
	if (!d)
		return;
	if (d->own)
		fclose(d->out);
	free(d);
}

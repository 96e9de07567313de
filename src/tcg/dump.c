/* dump.c: --tcg-dump: guest and host code of each unit as it is translated, in Intel's notation (capstone). */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "tcg/tools.h"

#if HUSK_CAPSTONE
#define x86_insn cs_x86_insn /* decode.h has one too */
#include <capstone/capstone.h>
#undef x86_insn
#endif

/* The disassembler: loaded when it is asked for (a static husk has it inside), as its tables would cost each VM 2 MiB. */
struct capstone {
#if HUSK_CAPSTONE
	bool open;
	csh handle;
	cs_err (*open_fn)(cs_arch, cs_mode, csh *);
	size_t (*disasm)(csh, const uint8_t *, size_t, uint64_t, size_t, cs_insn **);
	void (*free)(cs_insn *, size_t);
	cs_err (*close)(csh *);
#endif
	void *lib;
};

struct dump {
	FILE *out; /* owned when own */
	bool own, guest, host;
	struct capstone cs;
};

/* ---- capstone ---- */

#if HUSK_CAPSTONE && !HUSK_STATIC
#define TEXT_(x) #x
#define TEXT(x)	 TEXT_(x)
#define LIBRARY	 "libcapstone.so." TEXT(CS_API_MAJOR)

static bool load(struct capstone *cs)
{
	cs->lib = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (!cs->lib)
		return false;
	*(void **)&cs->open_fn = dlsym(cs->lib, "cs_open");
	*(void **)&cs->disasm = dlsym(cs->lib, "cs_disasm");
	*(void **)&cs->free = dlsym(cs->lib, "cs_free");
	*(void **)&cs->close = dlsym(cs->lib, "cs_close");
	return cs->open_fn && cs->disasm && cs->free && cs->close;
}
#elif HUSK_CAPSTONE
#define LIBRARY "capstone"

static bool load(struct capstone *cs)
{
	cs->open_fn = cs_open;
	cs->disasm = cs_disasm;
	cs->free = cs_free;
	cs->close = cs_close;
	return true;
}
#endif

static int capstone_open(struct capstone *cs, struct err *e)
{
#if HUSK_CAPSTONE
	if (!load(cs) || cs->open_fn(CS_ARCH_X86, CS_MODE_64, &cs->handle) != CS_ERR_OK)
		return err_set(e, -ENOENT, "--tcg-dump: the disassembler %s cannot be loaded (tools/setup installs it)", LIBRARY);
	cs->open = true;
	return 0;
#else
	(void)cs;
	return err_set(e, -EOPNOTSUPP,
		       "--tcg-dump: this husk was built without capstone, the disassembler (tools/setup installs it; meson: "
		       "-Dcapstone=enabled)");
#endif
}

static void capstone_close(struct capstone *cs)
{
#if HUSK_CAPSTONE
	if (cs->open)
		cs->close(&cs->handle);
#endif
	if (cs->lib)
		dlclose(cs->lib);
}

/* Prints the instruction in words; returns its length, 1 for what is none. */
static u32 print_words(FILE *out, const struct capstone *cs, const u8 *bytes, u32 avail, u64 at, bool print)
{
	u32 len = 1;
#if HUSK_CAPSTONE
	cs_insn *insn = NULL;

	if (!cs->open || cs->disasm(cs->handle, bytes, avail, at, 1, &insn) != 1)
		return len;
	len = insn->size;
	if (print)
		fprintf(out, "  %s %s", insn->mnemonic, insn->op_str);
	cs->free(insn, 1);
#else
	(void)out, (void)cs, (void)bytes, (void)avail, (void)at, (void)print;
#endif
	return len;
}

/* ---- what to dump ---- */

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
static u32 print_insn(const struct dump *d, const u8 *bytes, u32 avail, u64 at)
{
	u32 len = print_words(d->out, &d->cs, bytes, avail, at, false);

	fprintf(d->out, "%16llx ", (unsigned long long)at);
	for (u32 i = 0; i < 11 || i < len; i++) {
		if (i < len)
			fprintf(d->out, " %02x", bytes[i]);
		else
			fputs("   ", d->out);
	}
	print_words(d->out, &d->cs, bytes, avail, at, true);
	fputc('\n', d->out);
	return len;
}

static void print_guest(const struct dump *d, const struct tcg_code *k, const struct unit *u)
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
		print_insn(d, bytes, sizeof(bytes), u->va + (u64)(s64)offset);
	}
}

/* With a line before what each guest instruction has become. */
static void print_host(const struct dump *d, const struct tcg_code *k, const struct unit *u)
{
	u32 mark = 0;

	for (u32 at = 0; at < u->code_len;) {
		for (; mark < u->nr_insns && k->insns[u->insns + mark].code <= at; mark++)
			fprintf(d->out, "      for %llx:\n",
				(unsigned long long)(u->va + (u64)(s64)(int16_t)k->insns[u->insns + mark].guest));
		at += print_insn(d, k->rw + u->code + at, MIN(u->code_len - at, 15u), (u64)(uintptr_t)k->rx + u->code + at);
	}
}

void dump_unit(struct dump *d, const struct tcg_code *k, u32 unit)
{
	const struct unit *u = &k->units[unit];

	fprintf(d->out, "unit %u: va %llx gpa %llx mode %#x%s, %u instructions, %u exits, %u bytes\n", unit, (unsigned long long)u->va,
		(unsigned long long)u->gpa, u->mode, u->mode & TCG_MODE_USER ? " (user)" : "", u->nr_insns, u->nr_exits, u->code_len);
	if (d->guest) {
		fputs("  guest:\n", d->out);
		print_guest(d, k, u);
	}
	if (d->host) {
		fputs("  host:\n", d->out);
		print_host(d, k, u);
	}
}

void dump_unit_loudly(const struct tcg_code *k, u32 unit)
{
	struct dump d = {.out = stderr, .guest = true, .host = true};
	struct err e;

	if (capstone_open(&d.cs, &e) < 0)
		fprintf(stderr, "%s\n", e.msg);
	dump_unit(&d, k, unit);
	capstone_close(&d.cs);
}

int dump_new(struct dump **dump, const char *what, struct err *e)
{
	struct dump d = {.out = stderr};
	const char *file = NULL;
	int ret;

	if (!parse(what, &d.guest, &d.host, &file))
		return err_set(e, -EINVAL, "--tcg-dump: guest, host or both, then =FILE; not \"%s\"", what);
	ret = capstone_open(&d.cs, e);
	if (ret < 0)
		return ret;
	if (*file) {
		d.out = fopen(file + 1, "we");
		d.own = true;
	}
	if (!d.out) {
		capstone_close(&d.cs);
		return err_errno(e, "--tcg-dump: file \"%s\"", file + 1);
	}
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
	capstone_close(&d->cs);
	free(d);
}

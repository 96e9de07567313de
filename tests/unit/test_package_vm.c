/*
 * test_package_vm.c: packages of real VMs, every device in them, under tcg or the accelerator that the command line names.
 * `test_package_vm --golden` writes tests/golden/package-vN.husk, once for each version of the format; with --every-byte it
 * runs what takes longer. HUSK_FLIPS=100000: the long run;
 * HUSK_FLIPS_SEED=N: another one.
 */
#include "cm.h"

#include <stdlib.h>

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/vm_state.h"
#include "package_rig.h"
#include "package_vm.h"

static struct pvm_files files;

static const char *accel = "tcg"; /* or what the command line says */

#define MSR_TSC 0x10

/* Clocks that run on while the VM stands still (the host's wall clock; under KVM its own ones, too), and what is measured anew: two saves
 * of one VM differ in them. Zeroed. */
static void still(struct rig_section *s, const struct state_table *t)
{
	u32 head = rig_name_len(s->bytes);
	void *data = xzalloc(t->size);
	struct buf b = {0};
	struct err e;

	if (state_decode(t, t->version, s->bytes + head, s->len - head, data, &e) < 0)
		fail_msg("%s", e.msg);
	if (t == &x86_clock_table) {
		((struct x86_clock_state *)data)->realtime_ns = 0;
		((struct x86_clock_state *)data)->kvmclock_ns = 0;
	} else if (t == &package_vm_table) {
		((struct package_vm *)data)->host_tsc_khz = 0;
	} else if (t == &x86_chips_table) {
		for (u32 i = 0; i < ARRAY_SIZE(((struct x86_chips_state *)data)->pit); i++)
			((struct x86_chips_state *)data)->pit[i].elapsed_ns = 0;
	} else {
		struct cpu_state *c = data;

		for (u32 i = 0; i < c->nr_msrs; i++) {
			if (c->msrs[i].index == MSR_TSC)
				c->msrs[i].value = 0;
		}
	}
	state_encode(t, data, &b);
	assert_int_equal(b.len, s->len - head);
	memcpy(s->bytes + head, b.data, b.len);
	buf_fini(&b);
	free(data);
}

static void stand_still(struct buf *b)
{
	struct rig_package *p = xzalloc(sizeof(*p));

	rig_split(p, b->data, b->len);
	for (u32 i = 0; i < p->nr; i++) {
		if (rig_is(&p->s[i], "vm", NULL))
			still(&p->s[i], &package_vm_table);
		else if (rig_is(&p->s[i], "clock", NULL))
			still(&p->s[i], &x86_clock_table);
		else if (rig_is(&p->s[i], "cpu", NULL))
			still(&p->s[i], &x86_cpu_table);
		else if (rig_is(&p->s[i], "chips", NULL))
			still(&p->s[i], &x86_chips_table);
	}
	rig_fix(b->data, b->len);
	free(p);
}

static void load_or_fail(struct pvm *p, u32 vcpus, const struct buf *b)
{
	struct package *package;
	struct err e;

	if (package_open(&package, b->data, b->len, &e) < 0 || pvm_restore(p, &files, accel, vcpus, package, &e) < 0)
		fail_msg("%s", e.msg);
	p->package = NULL;
	package_close(package);
}

static void compare(const struct buf *a, const struct buf *b)
{
	struct rig_package *pa = xzalloc(sizeof(*pa)), *pb = xzalloc(sizeof(*pb));

	rig_split(pa, a->data, a->len);
	rig_split(pb, b->data, b->len);
	for (u32 i = 0; i < MIN(pa->nr, pb->nr); i++) {
		const u8 *s = pa->s[i].bytes;

		if (pa->s[i].len != pb->s[i].len || memcmp(s, pb->s[i].bytes, pa->s[i].len)) {
			u32 at = 0;

			while (at < pa->s[i].len && (at / 4 == 1 || s[at] == pb->s[i].bytes[at]))
				at++;
			fail_msg("section %.*s %.*s differs at byte %d of its payload", s[14], s + RIG_SECTION, s[15],
				 s + RIG_SECTION + s[14], (int)at - (int)rig_name_len(s));
		}
	}
	assert_int_equal(pa->nr, pb->nr);
	assert_int_equal(a->len, b->len);
	assert_memory_equal(a->data, b->data, a->len);
	free(pa);
	free(pb);
}

static void save_load_save_gives_the_same_bytes(void **state)
{
	(void)state;
	for (u32 vcpus = 1; vcpus <= 2; vcpus++) {
		struct buf first = {0}, second = {0};
		struct pvm p;

		pvm_boot(&p, &files, accel, vcpus);
		pvm_save(&p, &first);
		pvm_fini(&p);
		load_or_fail(&p, vcpus, &first);
		pvm_start_devices(&p);
		pvm_save(&p, &second);
		pvm_fini(&p);
		stand_still(&first);
		stand_still(&second);
		compare(&first, &second);
		buf_fini(&first);
		buf_fini(&second);
	}
}

/* ---- hostile ---- */

/* A VM that is made and has no state yet, and what it would save: nothing that is refused may change that. */
struct target {
	struct pvm p;
	struct buf before;
	u32 made, loaded, refused;
};

static void target_make(struct target *t)
{
	struct arch_cpu_caps *caps = xzalloc(sizeof(*caps));
	struct err e;

	/* caps: measures the TSC, which a VM is otherwise told with its first state */
	if (pvm_restore(&t->p, &files, accel, 1, NULL, &e) < 0 || t->p.vm.accel->cpu_caps(&t->p.vm, caps, &e) < 0)
		fail_msg("%s", e.msg);
	free(caps);
	pvm_save(&t->p, &t->before);
	stand_still(&t->before);
	t->made++;
}

static void target_unchanged(struct target *t)
{
	struct buf now = {0};

	pvm_save(&t->p, &now);
	stand_still(&now);
	compare(&t->before, &now);
	buf_fini(&now);
}

static void target_fini(struct target *t)
{
	target_unchanged(t);
	pvm_fini(&t->p);
	buf_fini(&t->before);
}

/* Bytes from a stranger, in memory of exactly their size. What loads has loaded whole: then the next one gets a new VM. */
static int try(struct target *t, const u8 *bytes, size_t len, struct err *e)
{
	u8 *exact = malloc(len ? len : 1);
	struct package *p = NULL;
	int ret;

	memcpy(exact, bytes, len);
	*e = (struct err){0};
	ret = package_open(&p, exact, len, e);
	if (ret == 0)
		ret = package_load(p, &t->p.vm, e);
	if (ret < 0 && (e->code != ret || (strncmp(e->msg, "header: ", 8) && strncmp(e->msg, "section ", 8))))
		fail_msg("%d, %d: \"%s\"", ret, e->code, e->msg);
	if (ret < 0 && p && ++t->refused % 64 == 0)
		target_unchanged(t);
	package_close(p);
	free(exact);
	if (ret == 0) {
		t->loaded++;
		pvm_fini(&t->p);
		target_make(t);
	}
	return ret;
}

static void saved(struct buf *b)
{
	struct pvm p;

	pvm_boot(&p, &files, accel, 1);
	pvm_save(&p, b);
	pvm_fini(&p);
}

static void a_package_cut_at_any_byte_is_refused(void **state)
{
	struct target t = {0};
	struct buf b = {0};
	struct err e;

	(void)state;
	saved(&b);
	target_make(&t);
	for (size_t len = 0; len < b.len; len++) {
		assert_true(try(&t, b.data, len, &e) < 0);
		assert_true(!strncmp(e.msg, "header: ", 8));
	}
	assert_int_equal(try(&t, b.data, b.len, &e), 0);
	target_fini(&t);
	buf_fini(&b);
}

/* Header and checksums agree with what is left of a section: its table finds out. */
static void a_section_cut_at_any_byte_is_refused_by_name(void **state)
{
	struct rig_package *p = xzalloc(sizeof(*p));
	struct target t = {0};
	struct buf b = {0};
	struct err e;

	(void)state;
	saved(&b);
	rig_split(p, b.data, b.len);
	target_make(&t);
	for (u32 i = 0; i < p->nr; i++) {
		struct rig_section whole = p->s[i];
		u32 payload = ld_le32(whole.bytes);

		for (u32 cut = 1; cut <= payload; cut++) {
			struct buf out = {0};

			st_le32(whole.bytes, payload - cut);
			p->s[i].len = whole.len - cut;
			rig_join(p, &out);
			assert_true(try(&t, out.data, out.len, &e) < 0);
			assert_memory_equal(e.msg, "section ", 8);
			assert_memory_equal(e.msg + 8, whole.bytes + RIG_SECTION, whole.bytes[14]);
			buf_fini(&out);
		}
		st_le32(whole.bytes, payload);
		p->s[i] = whole;
	}
	assert_int_equal(t.loaded, 0);
	target_fini(&t);
	buf_fini(&b);
	free(p);
}

/* All bytes of all headers, with right checksums. */
static void another_byte_in_a_header_is_refused(void **state)
{
	static const u8 values[] = {0, 1, 2, 0x7f, 0x80, 0xff};
	struct rig_package *p = xzalloc(sizeof(*p));
	struct target t = {0};
	struct buf b = {0};
	struct err e;

	(void)state;
	saved(&b);
	rig_split(p, b.data, b.len);
	target_make(&t);
	for (u32 i = 0; i <= p->nr; i++) {
		u8 *head = i ? p->s[i - 1].bytes : b.data;

		for (u32 at = 0; at < (i ? rig_name_len(p->s[i - 1].bytes) : RIG_HEADER); at++) {
			for (u32 v = 0; v < ARRAY_SIZE(values); v++) {
				u8 was = head[at];
				struct buf out = {0};

				if (values[v] == was || (i ? at / 4 == 1 : at / 8 == 2 || at >= RIG_HEADER_CRC))
					continue; /* checksums and the length are made right */
				head[at] = values[v];
				buf_put(&out, b.data, b.len);
				rig_fix(out.data, out.len);
				(void)!try(&t, out.data, out.len, &e);
				head[at] = was;
				buf_fini(&out);
			}
		}
	}
	assert_int_equal(t.loaded, p->nr); /* each with the flag that says that it is optional */
	target_fini(&t);
	buf_fini(&b);
	free(p);
}

static u32 nr_flips(u32 usual)
{
	const char *n = getenv("HUSK_FLIPS");

	return n ? (u32)strtoul(n, NULL, 10) : usual;
}

static u32 seed(void)
{
	const char *n = getenv("HUSK_FLIPS_SEED");

	return n ? (u32)strtoul(n, NULL, 10) : 7;
}

static void random_bit_flips_are_always_refused(void **state)
{
	struct target t = {0};
	struct buf b = {0};
	struct err e;

	(void)state;
	saved(&b);
	target_make(&t);
	srand(seed());
	for (u32 i = 0; i < nr_flips(5000); i++) {
		u32 at = (u32)rand() % (u32)b.len;
		u8 bit = (u8)(1u << (rand() & 7));

		b.data[at] ^= bit;
		assert_true(try(&t, b.data, b.len, &e) < 0);
		b.data[at] ^= bit;
	}
	target_fini(&t);
	buf_fini(&b);
}

/* With right checksums: tables and devices decide. One in ten changes the shape of a section, the others what is in it. */
static void random_bit_flips_with_right_checksums_load_whole_or_not_at_all(void **state)
{
	struct rig_package *p = xzalloc(sizeof(*p));
	struct target t = {0};
	struct buf b = {0};
	struct err e;

	(void)state;
	saved(&b);
	rig_split(p, b.data, b.len);
	target_make(&t);
	srand(seed());
	for (u32 i = 0; i < nr_flips(300); i++) {
		struct rig_section *s = &p->s[(u32)rand() % p->nr];
		struct buf bad = {0};

		buf_put(&bad, b.data, b.len);
		for (u32 k = 0; k < 1 + i % 3; k++) /* sections by turns: the vCPUs' would have most of the hits by size */
			bad.data[(size_t)(s->bytes - b.data) + (u32)rand() % s->len] ^= (u8)(1u << (rand() & 7));
		rig_fix(bad.data, bad.len);
		(void)!try(&t, bad.data, bad.len, &e);
		buf_fini(&bad);
	}
	assert_true(t.loaded > 0 && t.refused > 0);
	target_fini(&t);
	buf_fini(&b);
	free(p);
}

/* ---- what older husks wrote ---- */

static char *golden_path(u32 format)
{
	return xasprintf("%s/package-v%u.husk", getenv("HUSK_GOLDEN_DIR") ?: "tests/golden", format);
}

static u8 *read_golden(const char *path, u64 *length)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct err e = {0};
	u8 *bytes = NULL;

	if (fd < 0 || package_read(fd, PACKAGE_SOFT_CAP, &bytes, length, &e) < 0)
		fail_msg("%s: %s", path, e.msg);
	return bytes;
}

/* The processor that a package was made on may have what this one has not: takes CPUID, and the registers that follow from it, from one
 * that was made here. */
static void adopt_cpu(struct rig_section *to, const struct rig_section *from, struct buf *out)
{
	struct cpu_state *old = xzalloc(sizeof(*old)), *here = xzalloc(sizeof(*here));
	u32 head = rig_name_len(to->bytes);
	struct err e;

	if (state_decode(&x86_cpu_table, ld_le16(to->bytes + 8), to->bytes + head, to->len - head, old, &e) < 0 ||
	    state_decode(&x86_cpu_table, x86_cpu_table.version, from->bytes + head, from->len - head, here, &e) < 0)
		fail_msg("%s", e.msg);
	here->rip = old->rip;
	memcpy(here->gpr, old->gpr, sizeof(here->gpr));
	buf_put(out, from->bytes, head);
	state_encode(&x86_cpu_table, here, out);
	st_le32(out->data, (u32)out->len - head);
	*to = (struct rig_section){out->data, (u32)out->len};
	free(old);
	free(here);
}

/* Whether a section is what became of the old one: the same bytes, where its table is the same. */
static bool same_or_newer(const struct rig_section *old, const struct rig_section *new)
{
	u32 name = 2 + old->bytes[14] + old->bytes[15];

	if (memcmp(old->bytes + 14, new->bytes + 14, 2) || memcmp(old->bytes + 14, new->bytes + 14, name))
		return false;
	return ld_le16(old->bytes + 8) < ld_le16(new->bytes + 8) || (old->len == new->len && !memcmp(old->bytes, new->bytes, old->len));
}

/* Every section but "vm", which has paths in it, comes out as it went in, its CPU apart. */
static void load_golden(u32 format)
{
	auto_free char *path = golden_path(format);
	struct rig_package *old = xzalloc(sizeof(*old)), *new = xzalloc(sizeof(*new));
	struct buf here = {0}, cpu = {0}, mixed = {0}, again = {0};
	u64 length;
	u8 *bytes = read_golden(path, &length);
	struct pvm p;

	saved(&here);
	rig_split(new, here.data, here.len);
	rig_split(old, bytes, length);
	for (u32 i = 0; i < old->nr; i++) {
		for (u32 k = 0; k < new->nr &&rig_is(&old->s[i], "cpu", "0"); k++) {
			if (rig_is(&new->s[k], "cpu", "0"))
				adopt_cpu(&old->s[i], &new->s[k], &cpu);
		}
	}
	rig_join(old, &mixed);
	load_or_fail(&p, 1, &mixed);
	pvm_start_devices(&p);
	pvm_save(&p, &again);
	pvm_fini(&p);
	stand_still(&mixed);
	stand_still(&again);
	rig_split(old, mixed.data, mixed.len);
	rig_split(new, again.data, again.len);
	assert_true(old->nr > 15);
	for (u32 i = 1; i < old->nr; i++) {
		const u8 *b = old->s[i].bytes;
		/* They were tcg's: another accelerator has chips that nobody uses in another state. */
		bool same = strcmp(accel, "tcg") && rig_is(&old->s[i], "chips", NULL);

		for (u32 k = 1; k < new->nr; k++)
			same = same || same_or_newer(&old->s[i], &new->s[k]);
		if (!same)
			fail_msg("section %.*s comes out in another way than it went in", b[14] + b[15], b + RIG_SECTION);
	}
	buf_fini(&here);
	buf_fini(&cpu);
	buf_fini(&mixed);
	buf_fini(&again);
	free(bytes);
	free(old);
	free(new);
}

static void packages_of_all_formats_so_far_load(void **state)
{
	(void)state;
	for (u32 format = 1; format <= PACKAGE_VERSION; format++)
		load_golden(format);
}

/* Once per format version: a golden package is never written again. */
static int write_golden(void)
{
	auto_free char *path = golden_path(PACKAGE_VERSION);
	auto_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	struct buf b = {0};
	int ret;

	if (fd < 0) {
		perror(path);
		return 1;
	}
	pvm_files_make(&files);
	saved(&b);
	ret = fd_write_all(fd, b.data, b.len) < 0;
	buf_fini(&b);
	pvm_files_remove(&files);
	return ret;
}

static int setup(void **state)
{
	(void)state;
	pvm_files_make(&files);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	pvm_files_remove(&files);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(save_load_save_gives_the_same_bytes),
		cmocka_unit_test(random_bit_flips_are_always_refused),
		cmocka_unit_test(random_bit_flips_with_right_checksums_load_whole_or_not_at_all),
		cmocka_unit_test(packages_of_all_formats_so_far_load),
	};
	/* Every byte: no matter under which accelerator, and of nested ones some are slow. */
	const struct CMUnitTest every_byte[] = {
		cmocka_unit_test(a_package_cut_at_any_byte_is_refused),
		cmocka_unit_test(a_section_cut_at_any_byte_is_refused_by_name),
		cmocka_unit_test(another_byte_in_a_header_is_refused),
	};

	if (argc > 1 && !strcmp(argv[1], "--golden"))
		return write_golden();
	if (argc > 1 && !strcmp(argv[1], "--every-byte"))
		return cmocka_run_group_tests(every_byte, setup, teardown);
	if (argc > 1)
		accel = argv[1];
	return cmocka_run_group_tests(tests, setup, teardown);
}

/* test_package.c: packages of a toy VM: what is written, what is taken back, and all that is refused, with the section named. */
#include "toy_vm.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "config.h"
#include "package_rig.h"

/* Opens and loads the bytes, in memory of exactly their size, into an empty VM. 0: loaded, into *t; else *t is unchanged, and that was
 * checked. */
static int try(const u8 *bytes, size_t len, struct toy_vm *t, struct err *e)
{
	struct toy_vm *before = xzalloc(sizeof(*before));
	u8 *exact = malloc(len ? len : 1);
	struct package *p = NULL;
	int ret;

	memcpy(before, t, sizeof(*before));
	memcpy(exact, bytes, len);
	*e = (struct err){0};
	ret = package_open(&p, exact, len, e);
	if (ret == 0)
		ret = package_load(p, &t->vm, e);
	package_close(p);
	if (ret < 0) {
		assert_true(toy_same(before, t));
		assert_int_equal(e->code, ret);
		assert_true(!strncmp(e->msg, "header", 6) || !strncmp(e->msg, "section ", 8));
	}
	free(exact);
	free(before);
	return ret;
}

static void refused(const struct buf *b, const char *message)
{
	struct toy_vm t;
	struct err e;

	toy_vm_init(&t);
	assert_true(try(b->data, b->len, &t, &e) < 0);
	if (message)
		assert_string_equal(e.msg, message);
	toy_vm_fini(&t);
}

static void saved(struct buf *out)
{
	struct toy_vm t;

	toy_vm_init(&t);
	toy_vm_live(&t);
	toy_vm_save(&t, out);
	toy_vm_fini(&t);
}

static void what_is_saved_loads_and_saves_to_the_same_bytes(void **state)
{
	struct buf first = {0}, second = {0};
	struct toy_vm a, b;
	struct err e;

	(void)state;
	toy_vm_init(&a);
	toy_vm_live(&a);
	toy_vm_save(&a, &first);
	assert_int_equal(a.pulls, TOY_CPUS);
	assert_int_equal(a.vm_pulls, 1);
	toy_vm_init(&b);
	if (try(first.data, first.len, &b, &e) < 0)
		fail_msg("%s", e.msg);
	assert_memory_equal(a.live, b.live, sizeof(a.live));
	for (u32 i = 0; i < ARRAY_SIZE(a.toys); i++)
		assert_memory_equal(&a.toys[i].state, &b.toys[i].state, sizeof(a.toys[i].state));
	assert_int_equal(b.toys[2].hint.hint, 77);
	assert_int_equal(b.cpu_loads, TOY_CPUS);
	assert_int_equal(b.order, 0); /* vCPUs before devices */
	toy_vm_save(&b, &second);
	assert_int_equal(first.len, second.len);
	assert_memory_equal(first.data, second.data, first.len);
	buf_fini(&first);
	buf_fini(&second);
	toy_vm_fini(&a);
	toy_vm_fini(&b);
}

static void the_header_alone_tells_the_length(void **state)
{
	struct buf b = {0};
	u64 length;
	struct err e;

	(void)state;
	saved(&b);
	assert_memory_equal(b.data, "HUSKPKG\n\1\0\0\0\0\0\0\0", 16);
	assert_int_equal(package_length(b.data, b.len, &length, &e), 0);
	assert_int_equal(length, b.len);
	assert_int_equal(ld_le64(b.data + 16), b.len);
	assert_int_equal(ld_le32(b.data + 24), 7);
	assert_int_equal(ld_le32(b.data + 44), crc32(0, b.data, 44));
	buf_fini(&b);
}

static void the_vm_section_describes_the_vm(void **state)
{
	struct buf b = {0};
	struct package *p;
	const struct package_vm *info;
	struct err e;

	(void)state;
	saved(&b);
	assert_int_equal(package_open(&p, b.data, b.len, &e), 0);
	info = package_info(p);
	assert_string_equal(info->husk_version, HUSK_VERSION);
	assert_string_equal(info->accelerator, "toy");
	assert_int_equal(info->nr_vcpus, TOY_CPUS);
	assert_int_equal(info->nr_regions, 1);
	assert_int_equal(info->regions[0].size, TOY_RAM);
	assert_true(info->regions[0].ram);
	assert_int_equal(info->ram_bytes, TOY_RAM);
	assert_int_equal(info->nr_document, 35);
	assert_memory_equal(info->document, "{\"machine-config\":{\"vcpu_count\":2}}", 35);
	package_close(p);
	buf_fini(&b);
}

static void a_package_cut_at_any_byte_is_refused(void **state)
{
	struct buf b = {0};
	struct toy_vm t;
	struct err e;

	(void)state;
	saved(&b);
	toy_vm_init(&t);
	for (size_t len = 0; len < b.len; len++) {
		struct buf cut = {0};

		assert_true(try(b.data, len, &t, &e) < 0);
		assert_non_null(strstr(e.msg, "header: "));
		if (len < RIG_HEADER)
			continue;
		/* The same with a header that agrees: now a section is short or missing. */
		buf_put(&cut, b.data, len);
		rig_fix(cut.data, cut.len);
		assert_true(try(cut.data, cut.len, &t, &e) < 0);
		buf_fini(&cut);
	}
	toy_vm_fini(&t);
	buf_fini(&b);
}

/* Cut inside of each section, with the length and all checksums right. */
static void a_payload_cut_at_any_byte_is_refused(void **state)
{
	struct rig_package *p = xzalloc(sizeof(*p));
	struct buf b = {0};
	struct toy_vm t;
	struct err e;

	(void)state;
	saved(&b);
	rig_split(p, b.data, b.len);
	assert_int_equal(p->nr, 7);
	toy_vm_init(&t);
	for (u32 i = 0; i < p->nr; i++) {
		struct rig_section whole = p->s[i];
		u32 payload = ld_le32(whole.bytes);

		for (u32 cut = 1; cut <= payload; cut++) {
			struct buf out = {0};

			st_le32(whole.bytes, payload - cut);
			p->s[i].len = whole.len - cut;
			rig_join(p, &out);
			assert_true(try(out.data, out.len, &t, &e) < 0);
			assert_true(!strncmp(e.msg, "section ", 8));
			buf_fini(&out);
		}
		st_le32(whole.bytes, payload);
		p->s[i] = whole;
	}
	toy_vm_fini(&t);
	buf_fini(&b);
	free(p);
}

static u32 nr_flips(void)
{
	const char *n = getenv("HUSK_FLIPS");

	return n ? (u32)strtoul(n, NULL, 10) : 5000;
}

static void random_bit_flips_are_always_refused(void **state)
{
	struct buf b = {0};
	struct toy_vm t;
	struct err e;

	(void)state;
	saved(&b);
	toy_vm_init(&t);
	srand(5);
	for (u32 i = 0; i < nr_flips(); i++) {
		u32 at = (u32)rand() % (u32)b.len;
		u8 bit = (u8)(1u << (rand() & 7));

		b.data[at] ^= bit;
		assert_true(try(b.data, b.len, &t, &e) < 0);
		b.data[at] ^= bit;
	}
	toy_vm_fini(&t);
	buf_fini(&b);
}

/* With right checksums some flips are just another state: but then all of it was loaded, and saves to the same bytes. */
static void random_bit_flips_with_right_checksums_never_do_harm(void **state)
{
	struct buf b = {0};
	u32 loaded = 0;

	(void)state;
	saved(&b);
	srand(6);
	for (u32 i = 0; i < nr_flips(); i++) {
		struct buf bad = {0};
		struct toy_vm t;
		struct err e;

		buf_put(&bad, b.data, b.len);
		for (u32 k = 0; k < 1 + i % 3; k++)
			bad.data[(u32)rand() % b.len] ^= (u8)(1u << (rand() & 7));
		rig_fix(bad.data, bad.len);
		toy_vm_init(&t);
		loaded += try(bad.data, bad.len, &t, &e) == 0;
		toy_vm_fini(&t);
		buf_fini(&bad);
	}
	assert_true(loaded > 0);
	buf_fini(&b);
}

static void another_magic_or_version_is_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	saved(&b);
	b.data[0] ^= 1;
	refused(&b, "header: this is no package of a VM's state: it does not begin with \"HUSKPKG\"");
	b.data[0] ^= 1;
	b.data[8] = 2;
	refused(&b, "header: it is damaged: its checksum is another");
	rig_fix(b.data, b.len);
	refused(&b, "header: the package has format version 2, and this husk reads version 1");
	b.data[8] = 1;
	b.data[12] = 1;
	rig_fix(b.data, b.len);
	refused(&b, "header: field flags: this husk does not know what is set there");
	b.data[12] = 0;
	b.data[43] = 1;
	rig_fix(b.data, b.len);
	refused(&b, "header: field flags: this husk does not know what is set there");
	buf_fini(&b);
}

static void header_with(struct buf *b, u64 length, u32 nr, const char *message)
{
	st_le64(b->data + RIG_HEADER_LENGTH, length);
	st_le32(b->data + RIG_HEADER_NR, nr);
	st_le32(b->data + RIG_HEADER_CRC, (u32)crc32(0, b->data, RIG_HEADER_CRC));
	refused(b, message);
}

static void lengths_and_counts_that_lie_are_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	saved(&b);
	header_with(&b, b.len + 1, 7, NULL);
	header_with(&b, b.len - 1, 7, NULL);
	header_with(&b, 0, 7, "header: field length: 0 bytes are too few for a package");
	header_with(&b, UINT64_MAX, 7, "header: field length: 18446744073709551615 bytes are more than the format's limit of 4294967295");
	header_with(&b, b.len, 0, "header: field sections: 0 of them, at most 512 can be");
	header_with(&b, b.len, 513, "header: field sections: 513 of them, at most 512 can be");
	header_with(&b, b.len, 512, "section #7: the package ends before it");
	header_with(&b, b.len, 8, "section #7: the package ends before it");
	header_with(&b, b.len, 6, NULL);
	header_with(&b, b.len, 1, NULL);
	buf_fini(&b);
}

/* Changes one section of a good package, checksums right: by name, at a byte of the section's header or payload. */
static void section_with(const char *name, const char *instance, u32 at, u8 value, const char *message)
{
	struct rig_package *p = xzalloc(sizeof(*p));
	struct buf b = {0}, out = {0};

	saved(&b);
	rig_split(p, b.data, b.len);
	for (u32 i = 0; i < p->nr; i++) {
		if (rig_is(&p->s[i], name, instance))
			p->s[i].bytes[at] = value;
	}
	rig_join(p, &out);
	refused(&out, message);
	buf_fini(&out);
	buf_fini(&b);
	free(p);
}

static void a_section_header_that_makes_no_sense_is_refused(void **state)
{
	(void)state;
	section_with("toy", "toys/b", 3, 0xff, "section toy toys/b: it has 4278190186 bytes, and the package only 301 more");
	section_with("toy", "toys/b", 14, 0, "section #4: its name has 0 and 6 bytes");
	section_with("toy", "toys/b", 14, 64, "section #4: its name has 64 and 6 bytes");
	section_with("toy", "toys/b", 15, 96, "section #4: its name has 3 and 96 bytes");
	section_with("toy", "toys/b", 16, 0x1b, "section #4: its name is none");
	section_with("toy", "toys/b", 12, 2, "section toy toys/b: it has flags (0x2) that this husk does not know");
	section_with("toy", "toys/b", 8, 0, "section toy toys/b: version 0, and at least 3, make no sense");
	section_with("toy", "toys/b", 10, 4, "section toy toys/b: version 3, and at least 4, make no sense");
	section_with("toy", "toys/b", 10, 0, "section toy toys/b: version 3, and at least 0, make no sense");
}

static void a_section_of_a_version_that_cannot_be_read_is_refused(void **state)
{
	(void)state;
	section_with("toy", "toys/b", 8, 4,
		     "section toy toys/b: version 4 of \"toy\" comes from a newer husk: this one reads up to version 3");
	section_with("vm", "", 8, 2, "section vm: version 2 of \"vm\" comes from a newer husk: this one reads up to version 1");
	section_with("cpu", "1", 8, 9, "section cpu 1: version 9 of \"cpu\" comes from a newer husk: this one reads up to version 1");
}

static void a_field_that_a_device_cannot_take_is_named_and_nothing_is_loaded(void **state)
{
	/* "toy toys/b": nr_rings 12 bytes, rings 8, ring 0: 4 + head 10 + tail 10 */
	u32 rings = RIG_SECTION + 3 + 6 + 12, tail = rings + 8 + 4 + 10 + 8;

	(void)state;
	section_with("toy", "toys/b", rings - 4, 5, "section toy toys/b: field rings: 1 elements, but the state announces 5");
	section_with("toy", "toys/b", tail, 9, "section toy toys/b: field rings[0].tail: it is before the head");
	section_with("cpu", "1", RIG_SECTION + 4 + 16 + 8 + 1, 1, "section cpu 1: field flags: 258 is over 255");
}

static void join_without(const char *name, const char *instance, struct buf *out)
{
	struct rig_package *p = xzalloc(sizeof(*p));
	struct buf b = {0};
	u32 kept = 0;

	saved(&b);
	rig_split(p, b.data, b.len);
	for (u32 i = 0; i < p->nr; i++) {
		if (!rig_is(&p->s[i], name, instance))
			p->s[kept++] = p->s[i];
	}
	assert_int_equal(kept, p->nr - 1);
	p->nr = kept;
	rig_join(p, out);
	buf_fini(&b);
	free(p);
}

static void a_missing_section_is_named_unless_it_is_optional(void **state)
{
	static const struct {
		const char *name, *instance, *message;
	} cases[] = {
		{"vm", "", "section cpu: \"vm\" has to be the first"}, {"cpu", "0", "section cpu 0: it is missing"},
		{"cpu", "1", "section cpu 1: it is missing"},	       {"toy", "toys/a", "section toy toys/a: it is missing"},
		{"toy", "rng", "section toy rng: it is missing"},
	};
	struct buf b = {0};
	struct toy_vm t;
	struct err e;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		join_without(cases[i].name, cases[i].instance, &b);
		refused(&b, cases[i].message);
		buf_fini(&b);
	}
	join_without("toy-hint", "rng", &b);
	toy_vm_init(&t);
	assert_int_equal(try(b.data, b.len, &t, &e), 0);
	assert_int_equal(t.toys[2].loads, 1);
	toy_vm_fini(&t);
	buf_fini(&b);
}

static void a_section_that_is_there_twice_is_refused(void **state)
{
	struct rig_package *p = xzalloc(sizeof(*p));
	struct buf b = {0};

	(void)state;
	saved(&b);
	rig_split(p, b.data, b.len);
	for (u32 i = 0; i < 7; i++) {
		struct buf out = {0};
		struct toy_vm t;
		struct err e;

		p->nr = 8;
		p->s[7] = p->s[i];
		rig_join(p, &out);
		toy_vm_init(&t);
		assert_true(try(out.data, out.len, &t, &e) < 0);
		assert_non_null(strstr(e.msg, ": it is there twice"));
		toy_vm_fini(&t);
		buf_fini(&out);
	}
	buf_fini(&b);
	free(p);
}

/* A section more: a name, an instance, a flag. */
static void join_with(const char *name, const char *instance, u16 flags, struct buf *out)
{
	struct rig_package *p = xzalloc(sizeof(*p));
	struct buf b = {0}, extra = {0};

	saved(&b);
	rig_split(p, b.data, b.len);
	buf_u32(&extra, 3);
	buf_u32(&extra, 0);
	buf_u16(&extra, 1);
	buf_u16(&extra, 1);
	buf_u16(&extra, flags);
	buf_u8(&extra, (u8)strlen(name));
	buf_u8(&extra, (u8)strlen(instance));
	buf_put(&extra, name, strlen(name));
	buf_put(&extra, instance, strlen(instance));
	buf_put(&extra, "abc", 3);
	p->s[p->nr++] = (struct rig_section){extra.data, (u32)extra.len};
	rig_join(p, out);
	buf_fini(&b);
	buf_fini(&extra);
	free(p);
}

static void an_unknown_section_is_skipped_when_it_is_optional_and_refused_when_not(void **state)
{
	struct buf b = {0};
	struct toy_vm t;
	struct err e;

	(void)state;
	join_with("wormhole", "drives/x", 0, &b);
	refused(&b, "section wormhole drives/x: this husk does not know what it is, and cannot do without it");
	buf_fini(&b);
	join_with("toy", "toys/c", 0, &b);
	refused(&b, "section toy toys/c: the VM has no such device");
	buf_fini(&b);
	join_with("wormhole", "drives/x", 1, &b);
	toy_vm_init(&t);
	assert_int_equal(try(b.data, b.len, &t, &e), 0);
	toy_vm_fini(&t);
	buf_fini(&b);
}

static void sections_in_another_order_load_all_the_same(void **state)
{
	struct rig_package *p = xzalloc(sizeof(*p));
	struct buf b = {0}, out = {0};
	struct rig_section last;
	struct toy_vm t;
	struct err e;

	(void)state;
	saved(&b);
	rig_split(p, b.data, b.len);
	last = p->s[6];
	memmove(&p->s[2], &p->s[1], 5 * sizeof(last));
	p->s[1] = last;
	rig_join(p, &out);
	toy_vm_init(&t);
	assert_int_equal(try(out.data, out.len, &t, &e), 0);
	assert_int_equal(t.order, 0);
	toy_vm_fini(&t);
	buf_fini(&out);
	buf_fini(&b);
	free(p);
}

static void another_machine_is_refused_by_field(void **state)
{
	struct package_vm *info = xzalloc(sizeof(*info));
	struct toy_vm a, b;
	struct err e;

	(void)state;
	toy_vm_init(&a);
	assert_int_equal(package_describe(&a.vm, info, &e), 0);
	for (u32 i = 0; i < 6; i++) {
		static const char *const messages[] = {
			("section vm: field arch: the state is that of a VM for pdp11, and this husk runs " HUSK_ARCH),
			"section vm: field nr_vcpus: 3, and the VM of this configuration has 2",
			"section vm: field regions[0]: the VM of this configuration has 0x800000 bytes of memory at 0x0 there",
			"section vm: field regions: 2 of them, and the VM of this configuration has 1",
			"section vm: field ram_bytes: 1, and the VM of this configuration has 8388608",
			"section vm: field regions[0]: the VM of this configuration has 0x800000 bytes of memory at 0x0 there",
		};
		struct package_vm *other = xzalloc(sizeof(*other));
		struct buf out = {0};

		memcpy(other, info, sizeof(*other));
		if (i == 0)
			snprintf(other->arch, sizeof(other->arch), "pdp11");
		other->nr_vcpus += i == 1;
		other->regions[0].size *= i == 2 ? 2 : 1;
		other->nr_regions += i == 3;
		other->ram_bytes = i == 4 ? 1 : other->ram_bytes;
		other->nr_regions -= i == 5;
		assert_int_equal(package_save(&a.vm, other, PACKAGE_SOFT_CAP, &out, &e), 0);
		toy_vm_init(&b);
		assert_true(try(out.data, out.len, &b, &e) < 0);
		assert_string_equal(e.msg, messages[i]);
		toy_vm_fini(&b);
		buf_fini(&out);
		free(other);
	}
	toy_vm_fini(&a);
	free(info);
}

/* ---- caps ---- */

static void the_soft_cap_fires_one_byte_above_it_on_both_sides(void **state)
{
	struct package_vm *info = xzalloc(sizeof(*info));
	struct buf b = {0}, out = {0};
	u64 length;
	struct toy_vm t;
	struct err e;

	(void)state;
	toy_vm_init(&t);
	toy_vm_live(&t);
	toy_vm_save(&t, &b);
	assert_int_equal(package_describe(&t.vm, info, &e), 0);
	for (int d = -1; d <= 1; d++) {
		u64 cap = b.len + (u64)(s64)d;
		int want = d < 0 ? -EFBIG : 0;

		assert_int_equal(package_save(&t.vm, info, cap, &out, &e), want);
		buf_fini(&out);
		assert_int_equal(package_length(b.data, cap, &length, &e), want);
		assert_int_equal(package_check_cap(b.len, cap, NULL, 0, &e), want);
	}
	assert_int_equal(package_length(b.data, b.len - 1, &length, &e), -EFBIG);
	assert_non_null(strstr(e.msg, "bytes are more than the limit of "));
	assert_int_equal(package_save(&t.vm, info, b.len - 1, &out, &e), -EFBIG);
	assert_non_null(strstr(e.msg, "; the largest parts: vm ("));
	assert_non_null(strstr(e.msg, "), toy rng ("));
	buf_fini(&out);
	buf_fini(&b);
	toy_vm_fini(&t);
	free(info);
}

static void the_hard_cap_fires_at_4_gib_whatever_the_soft_one_is(void **state)
{
	struct buf b = {0};
	u64 length;
	struct err e;

	(void)state;
	saved(&b);
	for (int d = -1; d <= 1; d++) {
		u64 bytes = PACKAGE_HARD_CAP + (u64)(s64)d;
		int want = d > 0 ? -EFBIG : 0;

		assert_int_equal(package_check_cap(bytes, UINT64_MAX, NULL, 0, &e), want);
		assert_int_equal(package_check_cap(bytes, PACKAGE_HARD_CAP, NULL, 0, &e), want);
		st_le64(b.data + RIG_HEADER_LENGTH, bytes);
		st_le32(b.data + RIG_HEADER_CRC, (u32)crc32(0, b.data, RIG_HEADER_CRC));
		assert_int_equal(package_length(b.data, UINT64_MAX, &length, &e), want);
	}
	assert_int_equal(package_check_cap(UINT64_MAX, UINT64_MAX, NULL, 0, &e), -EFBIG);
	assert_string_equal(e.msg, "the state of this VM takes 18446744073709551615 bytes, more than the format's limit of 4294967295");
	buf_fini(&b);
}

static void the_dry_run_gives_an_upper_bound_and_the_largest_parts(void **state)
{
	struct package_part parts[3];
	struct buf b = {0};
	u64 bytes;
	struct toy_vm t;
	struct err e;

	(void)state;
	toy_vm_init(&t);
	toy_vm_live(&t);
	assert_int_equal(package_measure(&t.vm, &bytes, parts, 3, &e), 0);
	assert_int_equal(t.pulls + t.vm_pulls, 0); /* the guest runs */
	assert_true(parts[0].bytes >= parts[1].bytes && parts[1].bytes >= parts[2].bytes);
	assert_string_equal(parts[0].name, "vm");
	assert_string_equal(parts[1].name, "toy");
	for (u32 i = 0; i < 3; i++) {
		t.toys[i].state.nr_rings = 4;
		memset(t.toys[i].state.name, 'x', sizeof(t.toys[i].state.name) - 1);
	}
	toy_vm_save(&t, &b);
	assert_true(b.len <= bytes && bytes - b.len <= 3); /* the NULs */
	assert_int_equal(package_check_cap(bytes, bytes - 1, parts, 3, &e), -EFBIG);
	assert_non_null(strstr(e.msg, "; the largest parts: vm ("));
	assert_non_null(strstr(e.msg, "; raise the limit"));
	buf_fini(&b);
	toy_vm_fini(&t);
}

/* ---- save that fails ---- */

static void a_device_that_cannot_be_saved_now_says_why(void **state)
{
	struct package_vm *info = xzalloc(sizeof(*info));
	struct buf out = {0};
	struct toy_vm t;
	struct err e;

	(void)state;
	toy_vm_init(&t);
	toy_vm_live(&t);
	t.refuse_save = -EBUSY;
	assert_int_equal(package_describe(&t.vm, info, &e), 0);
	assert_int_equal(package_save(&t.vm, info, PACKAGE_SOFT_CAP, &out, &e), -EBUSY);
	assert_string_equal(e.msg, "toy toys/b: it is being played with");
	buf_fini(&out);
	toy_vm_fini(&t);
	free(info);
}

static void a_state_that_could_not_be_loaded_is_not_saved(void **state)
{
	struct package_vm *info = xzalloc(sizeof(*info));
	struct buf out = {0};
	struct toy_vm t;
	struct err e;

	(void)state;
	toy_vm_init(&t);
	toy_vm_live(&t);
	t.live[1].flags = 0x100;
	assert_int_equal(package_describe(&t.vm, info, &e), 0);
	assert_int_equal(package_save(&t.vm, info, PACKAGE_SOFT_CAP, &out, &e), -EINVAL);
	assert_string_equal(e.msg, "cpu 1: husk's own state cannot be read back, which is a mistake in husk: field flags: 256 is over 255");
	buf_fini(&out);
	toy_vm_fini(&t);
	free(info);
}

static void a_configuration_that_is_too_long_is_refused(void **state)
{
	struct package_vm *info = xzalloc(sizeof(*info));
	char *text = xzalloc(sizeof(info->document) + 1);
	struct toy_vm t;
	struct err e;

	(void)state;
	toy_vm_init(&t);
	memset(text, 'x', sizeof(info->document));
	json_object_put(t.document);
	t.document = json_object_new_string_len(text, (int)sizeof(info->document) - 2); /* and two quotes */
	assert_int_equal(package_describe(&t.vm, info, &e), 0);
	assert_int_equal(info->nr_document, sizeof(info->document));
	json_object_put(t.document);
	t.document = json_object_new_string_len(text, (int)sizeof(info->document) - 1);
	assert_int_equal(package_describe(&t.vm, info, &e), -EFBIG);
	toy_vm_fini(&t);
	free(text);
	free(info);
}

/* ---- streams ---- */

struct feed {
	int fd;
	const u8 *bytes;
	size_t len, step;
};

static void *feed(void *arg)
{
	struct feed *f = arg;

	for (size_t at = 0; at < f->len; at += f->step) {
		if (fd_write_all(f->fd, f->bytes + at, MIN(f->step, f->len - at)) < 0)
			break;
	}
	close(f->fd);
	return NULL;
}

/* What package_read makes of bytes that come through a pipe in pieces. */
static int read_fed(const struct buf *b, size_t len, u64 cap, u8 **out, u64 *length, struct err *e)
{
	struct feed f = {.bytes = b->data, .len = len, .step = 7};
	pthread_t thread;
	int fds[2], ret;

	assert_int_equal(pipe(fds), 0);
	f.fd = fds[1];
	pthread_create(&thread, NULL, feed, &f);
	ret = package_read(fds[0], cap, out, length, e);
	while (ret == 0 && read(fds[0], &(u8){0}, 1) == 1) {
	}
	close(fds[0]);
	pthread_join(thread, NULL);
	return ret;
}

static void a_package_is_read_from_a_stream_as_it_comes(void **state)
{
	struct buf b = {0};
	u64 length;
	struct err e;
	u8 *got;

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	saved(&b);
	assert_int_equal(read_fed(&b, b.len, PACKAGE_SOFT_CAP, &got, &length, &e), 0);
	assert_int_equal(length, b.len);
	assert_memory_equal(got, b.data, b.len);
	free(got);
	assert_int_equal(read_fed(&b, b.len - 1, PACKAGE_SOFT_CAP, &got, &length, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "it is cut off"));
	assert_int_equal(read_fed(&b, 47, PACKAGE_SOFT_CAP, &got, &length, &e), -EINVAL);
	assert_string_equal(e.msg, "header: it is cut off: it has 47 bytes of 48");
	assert_int_equal(read_fed(&b, b.len, b.len - 1, &got, &length, &e), -EFBIG);
	assert_int_equal(read_fed(&b, b.len, b.len, &got, &length, &e), 0);
	free(got);
	buf_fini(&b);
}

/* A header that announces 4 GiB costs what follows it, not 4 GiB. */
static void an_announced_length_is_not_believed_before_the_bytes_come(void **state)
{
	struct buf b = {0};
	u64 length;
	struct err e;
	u8 *got;

	(void)state;
	saved(&b);
	st_le64(b.data + RIG_HEADER_LENGTH, PACKAGE_HARD_CAP);
	st_le32(b.data + RIG_HEADER_CRC, (u32)crc32(0, b.data, RIG_HEADER_CRC));
	assert_int_equal(read_fed(&b, b.len, PACKAGE_HARD_CAP, &got, &length, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "it is cut off: it has "));
	buf_fini(&b);
}

static void a_package_becomes_json_without_a_vm(void **state)
{
	struct buf b = {0};
	struct package *p;
	struct json_object *o;
	struct err e;
	const char *text;

	(void)state;
	join_with("wormhole", "", 0, &b);
	assert_int_equal(package_open(&p, b.data, b.len, &e), 0);
	o = package_json(p);
	text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	assert_non_null(strstr(text, "\"document\":{\"machine-config\":{\"vcpu_count\":2}}"));
	assert_non_null(strstr(text, "{\"name\":\"cpu\",\"instance\":\"1\",\"version\":1,\"optional\":false,\"bytes\":28,"
				     "\"state\":{\"rip\":\"0xffffffff81000001\",\"flags\":2}}"));
	assert_non_null(strstr(text, "\"rings\":[{\"head\":1,\"tail\":0},{\"head\":11,\"tail\":1}]"));
	assert_non_null(strstr(text, "{\"name\":\"wormhole\",\"instance\":\"\",\"version\":1,\"optional\":false,\"bytes\":3,"
				     "\"error\":\"this husk does not know such a section\"}"));
	json_object_put(o);
	package_close(p);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_saved_loads_and_saves_to_the_same_bytes),
		cmocka_unit_test(the_header_alone_tells_the_length),
		cmocka_unit_test(the_vm_section_describes_the_vm),
		cmocka_unit_test(a_package_cut_at_any_byte_is_refused),
		cmocka_unit_test(a_payload_cut_at_any_byte_is_refused),
		cmocka_unit_test(random_bit_flips_are_always_refused),
		cmocka_unit_test(random_bit_flips_with_right_checksums_never_do_harm),
		cmocka_unit_test(another_magic_or_version_is_refused),
		cmocka_unit_test(lengths_and_counts_that_lie_are_refused),
		cmocka_unit_test(a_section_header_that_makes_no_sense_is_refused),
		cmocka_unit_test(a_section_of_a_version_that_cannot_be_read_is_refused),
		cmocka_unit_test(a_field_that_a_device_cannot_take_is_named_and_nothing_is_loaded),
		cmocka_unit_test(a_missing_section_is_named_unless_it_is_optional),
		cmocka_unit_test(a_section_that_is_there_twice_is_refused),
		cmocka_unit_test(an_unknown_section_is_skipped_when_it_is_optional_and_refused_when_not),
		cmocka_unit_test(sections_in_another_order_load_all_the_same),
		cmocka_unit_test(another_machine_is_refused_by_field),
		cmocka_unit_test(the_soft_cap_fires_one_byte_above_it_on_both_sides),
		cmocka_unit_test(the_hard_cap_fires_at_4_gib_whatever_the_soft_one_is),
		cmocka_unit_test(the_dry_run_gives_an_upper_bound_and_the_largest_parts),
		cmocka_unit_test(a_device_that_cannot_be_saved_now_says_why),
		cmocka_unit_test(a_state_that_could_not_be_loaded_is_not_saved),
		cmocka_unit_test(a_configuration_that_is_too_long_is_refused),
		cmocka_unit_test(a_package_is_read_from_a_stream_as_it_comes),
		cmocka_unit_test(an_announced_length_is_not_believed_before_the_bytes_come),
		cmocka_unit_test(a_package_becomes_json_without_a_vm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

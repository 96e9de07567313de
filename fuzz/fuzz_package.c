/*
 * fuzz_package.c: a stranger's package, loaded into a VM with every device that needs nothing but files. What is refused names the section,
 * and the same VM takes the next one (that nothing changed, test_package_vm.c checks); what is taken can be shown, its devices run (there
 * is no guest), and it is saved again, or says why not.
 *
 * The first byte says what the rest is: MODE_RAW: a package; MODE_FIXED: the same, lengths and checksums made right; else sections, which
 * take the place of those of a good package, or come to it.
 */
#include "tests/unit/package_rig.h"
#include "tests/unit/package_vm.h"

enum { MODE_RAW, MODE_FIXED };

#define FUZZ_CPUS 1

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* Lives as long as the process. */
static struct {
	struct pvm_files files;
	struct pvm p; /* has no state yet */
	struct buf good;
	u8 *good_bytes; /* a copy, into which parts points */
	struct rig_package *parts;
} rig;

static void rig_remove(void)
{
	pvm_fini(&rig.p);
	pvm_files_remove(&rig.files);
	buf_fini(&rig.good);
	free(rig.good_bytes);
	free(rig.parts);
}

/* LeakSanitizer's, where it is linked. */
void __lsan_disable(void) __attribute__((weak));
void __lsan_enable(void) __attribute__((weak));

/* libFuzzer looks for leaks while this VM lives, and what only a vCPU's own mapping points to, LeakSanitizer does not see. */
static void target_make(void)
{
	struct err e;

	if (__lsan_disable)
		__lsan_disable();
	if (pvm_restore(&rig.p, &rig.files, "tcg", FUZZ_CPUS, NULL, &e) < 0)
		pvm_die("a VM", &e);
	if (__lsan_enable)
		__lsan_enable();
}

static void rig_make(void)
{
	struct pvm p;

	if (rig.parts)
		return;
	pvm_files_make(&rig.files);
	pvm_boot(&p, &rig.files, "tcg", FUZZ_CPUS);
	pvm_save(&p, &rig.good);
	pvm_fini(&p);
	rig.good_bytes = xzalloc(rig.good.len);
	memcpy(rig.good_bytes, rig.good.data, rig.good.len);
	rig.parts = xzalloc(sizeof(*rig.parts));
	rig_split(rig.parts, rig.good_bytes, rig.good.len);
	target_make();
	atexit(rig_remove);
}

static bool same_section(const struct rig_section *a, const struct rig_section *b)
{
	u32 n = a->bytes[14] + a->bytes[15];

	return !memcmp(a->bytes + 14, b->bytes + 14, 2) && !memcmp(a->bytes + RIG_SECTION, b->bytes + RIG_SECTION, n);
}

/* Sections over the good ones; the first of several with one name counts, a later one is a double. */
static void overlay(u8 *data, size_t size, struct buf *out)
{
	struct rig_package *all = xzalloc(sizeof(*all)), *in = xzalloc(sizeof(*in));
	u8 *bytes = xzalloc(RIG_HEADER + size);
	bool taken[RIG_MAX_SECTIONS] = {0};

	memcpy(all, rig.parts, sizeof(*all));
	memcpy(bytes + RIG_HEADER, data, size);
	rig_split(in, bytes, RIG_HEADER + size);
	for (u32 i = 0; i < in->nr; i++) {
		u32 at = 0;

		while (at < all->nr && (taken[at] || !same_section(&all->s[at], &in->s[i])))
			at++;
		if (at == RIG_MAX_SECTIONS)
			break;
		all->nr = MAX(all->nr, at + 1);
		all->s[at] = in->s[i];
		taken[at] = true;
	}
	if (in->nr) /* else it would be the good package, again and again */
		rig_join(all, out);
	free(bytes);
	free(in);
	free(all);
}

#define RUN_NS (2 * NSEC_PER_MSEC)

struct stop {
	struct loop_timer timer;
	struct loop *loop;
};

static void stop_loop(struct loop_timer *t)
{
	loop_stop(container_of(t, struct stop, timer)->loop);
}

/* As vm_run does with a VM that was restored, as far as that goes without a guest. */
static void let_devices_run(struct pvm *p)
{
	struct stop stop = {.timer.expired = stop_loop, .loop = &p->vm.loop};
	static const struct package_vm nothing;
	struct buf again = {0};
	struct package *package;
	struct err e = {0};

	pvm_start_devices(p);
	if (package_save(&p->vm, &nothing, PACKAGE_SOFT_CAP, &again, &e) == 0) {
		ASSERT(package_open(&package, again.data, again.len, &e) == 0);
		package_close(package);
	} else {
		ASSERT(e.code < 0 && e.msg[0]);
	}
	buf_fini(&again);
	vm_resume(&p->vm);
	loop_timer_arm(&p->vm.loop, &stop.timer, clock_host_ns() + RUN_NS);
	loop_run(&p->vm.loop);
}

static void check_refusal(int ret, const struct err *e)
{
	ASSERT(e->code == ret);
	ASSERT(!strncmp(e->msg, "header: ", 8) || !strncmp(e->msg, "section ", 8));
}

static void run(const u8 *bytes, size_t len)
{
	struct package *package = NULL;
	struct json_object *shown;
	struct err e = {0};
	int ret = package_open(&package, bytes, len, &e);

	if (ret < 0) {
		check_refusal(ret, &e);
		return;
	}
	shown = package_json(package);
	ASSERT(json_object_to_json_string(shown));
	json_object_put(shown);
	ret = package_load(package, &rig.p.vm, &e);
	package_close(package);
	if (ret < 0) {
		check_refusal(ret, &e);
		return;
	}
	let_devices_run(&rig.p);
	pvm_fini(&rig.p);
	target_make();
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct buf out = {0};
	u8 *copy;

	rig_make();
	if (!size)
		return 0;
	copy = malloc(size);
	ASSERT(copy);
	memcpy(copy, data + 1, size - 1);
	if (data[0] > MODE_FIXED) {
		overlay(copy, size - 1, &out);
	} else {
		buf_put(&out, copy, size - 1);
		if (data[0] == MODE_FIXED)
			rig_fix(out.data, out.len);
	}
	free(copy);
	/* Of its own length, so that a byte read beyond it is found. */
	copy = malloc(out.len + !out.len);
	ASSERT(copy);
	if (out.len)
		memcpy(copy, out.data, out.len);
	run(copy, out.len);
	free(copy);
	buf_fini(&out);
	return 0;
}

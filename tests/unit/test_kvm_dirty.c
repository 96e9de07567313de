/* test_kvm_dirty.c: the log of guest writes, with the ring and with the bitmap. */
#include "kvm_rig.h"

#include <errno.h>

/* A guest that writes ecx pages from ebx on, then to the port. */
static const u8 writer[] = {
	0xba, 0x00, 0x05,			  /* mov dx, 0x500 */
	0x67, 0xc6, 0x03, 0x01,			  /* 1: mov byte [ebx], 1 */
	0x66, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, /* add ebx, 0x1000 */
	0x67, 0xe2, 0xf2,			  /* loop 1b (ecx) */
	0xef,					  /* out dx, ax */
	0xf4,
};

struct dirty_set {
	u64 low[RIG_LOW / MEM_PAGE_SIZE / 64], high[RIG_HIGH / MEM_PAGE_SIZE / 64];
};

static struct dirty_set fetch(struct rig *rig)
{
	struct dirty_set set = {0};

	rig_ok(rig, kvm_accel_ops.dirty_get(&rig->vm, &rig->vm.mem.regions[0], set.low, &rig->e));
	rig_ok(rig, kvm_accel_ops.dirty_get(&rig->vm, &rig->vm.mem.regions[1], set.high, &rig->e));
	return set;
}

static bool page(const u64 *bits, u64 n)
{
	return bits[n / 64] >> (n % 64) & 1;
}

static u32 count(const struct dirty_set *set)
{
	u32 n = 0;

	for (u32 i = 0; i < ARRAY_SIZE(set->low); i++)
		n += (u32)__builtin_popcountll(set->low[i]);
	for (u32 i = 0; i < ARRAY_SIZE(set->high); i++)
		n += (u32)__builtin_popcountll(set->high[i]);
	return n;
}

/* Lets the guest write pages [first, first + n). */
static enum vcpu_exit run_writer(struct rig *rig, u32 first, u32 n)
{
	struct cpu_state *c = rig->vm.vcpus[0].cpu;

	rig_reset_cpu(c, 0);
	c->gpr[X86_RBX] = first * MEM_PAGE_SIZE;
	c->gpr[X86_RCX] = n;
	rig_ok(rig, kvm_accel_ops.vcpu_push(&rig->vm.vcpus[0], &rig->e));
	rig->kick = true;
	return kvm_accel_ops.vcpu_run(&rig->vm.vcpus[0]);
}

static void write_pages(struct rig *rig, u32 first, u32 n)
{
	assert_int_equal(run_writer(rig, first, n), VCPU_AGAIN);
}

static void check_log(bool ring)
{
	struct rig *rig = rig_new(1, ring);
	struct kvm_vcpu *kc = rig->vm.vcpus[0].accel;
	struct dirty_set set;

	if (ring && !kc->ring) {
		rig_free(rig);
		skip();
	}
	assert_int_equal(kc->ring != NULL, ring);
	rig_load(rig, writer, sizeof(writer));
	write_pages(rig, 64, 4);
	rig_ok(rig, kvm_accel_ops.dirty_log(&rig->vm, true, &rig->e));
	set = fetch(rig);
	assert_int_equal(count(&set), 0); /* what was written before does not count */

	write_pages(rig, 100, 10);
	set = fetch(rig);
	assert_int_equal(count(&set), 10);
	for (u32 i = 100; i < 110; i++)
		assert_true(page(set.low, i));
	set = fetch(rig);
	assert_int_equal(count(&set), 0); /* fetched is forgotten */

	write_pages(rig, 105, 3); /* pages are watched again after a fetch */
	set = fetch(rig);
	assert_int_equal(count(&set), 3);
	assert_true(page(set.low, 105) && page(set.low, 107));

	rig_ok(rig, kvm_accel_ops.dirty_log(&rig->vm, false, &rig->e));
	write_pages(rig, 120, 5);
	assert_int_equal(kvm_accel_ops.dirty_get(&rig->vm, &rig->vm.mem.regions[0], set.low, &rig->e), -EINVAL);
	rig_ok(rig, kvm_accel_ops.dirty_log(&rig->vm, true, &rig->e));
	set = fetch(rig);
	assert_int_equal(count(&set), 0); /* a new log starts empty */
	write_pages(rig, 130, 1);
	set = fetch(rig);
	assert_int_equal(count(&set), 1);
	assert_true(page(set.low, 130));
	rig_free(rig);
}

static void the_ring_holds_exactly_what_the_guest_wrote(void **state)
{
	(void)state;
	check_log(true);
}

static void the_bitmap_holds_exactly_what_the_guest_wrote(void **state)
{
	(void)state;
	check_log(false);
}

static void dirty_pages_are_added_to_those_in_the_callers_bitmap(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct dirty_set set = {.low = {5}};

	(void)state;
	rig_load(rig, writer, sizeof(writer));
	rig_ok(rig, kvm_accel_ops.dirty_log(&rig->vm, true, &rig->e));
	write_pages(rig, 1, 1);
	rig_ok(rig, kvm_accel_ops.dirty_get(&rig->vm, &rig->vm.mem.regions[0], set.low, &rig->e));
	assert_int_equal(set.low[0], 7);
	rig_free(rig);
}

/* KVMs that only emulate may overrun the ring: then husk has to notice. */
static void a_full_ring_loses_nothing_unnoticed(void **state)
{
	struct rig *rig = rig_new(1, true);
	struct kvm_vcpu *kc = rig->vm.vcpus[0].accel;
	struct dirty_set set;

	(void)state;
	if (!kc->ring) {
		rig_free(rig);
		skip();
	}
	rig_load(rig, writer, sizeof(writer));
	rig_ok(rig, kvm_accel_ops.dirty_log(&rig->vm, true, &rig->e));
	if (run_writer(rig, 64, 5000) == VCPU_ERROR) {
		assert_true(rig_logged(rig, "overruns its dirty rings"));
		assert_int_equal(kvm_accel_ops.dirty_get(&rig->vm, &rig->vm.mem.regions[0], set.low, &rig->e), -EIO);
		rig_free(rig);
		return;
	}
	assert_true(kc->exits[KVM_EXIT_DIRTY_RING_FULL] > 0);
	set = fetch(rig);
	for (u64 i = 64; i < 5064; i++)
		assert_true(page(set.low, i));
	assert_in_range(count(&set), 5000, 5016); /* processors may mark a page that they did not write */
	rig_free(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_ring_holds_exactly_what_the_guest_wrote),
		cmocka_unit_test(the_bitmap_holds_exactly_what_the_guest_wrote),
		cmocka_unit_test(dirty_pages_are_added_to_those_in_the_callers_bitmap),
		cmocka_unit_test(a_full_ring_loses_nothing_unnoticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * lazy_guest.h: a guest whose memory comes from a file, page by page: mapped, or from an external pager. It sums up the first 32 bits of
 * each page from ebx on, ecx pages, and writes a mark into each. Included by test_pager_kvm.c and test_pager_tcg.c, which name the
 * accelerator.
 */
#define RIG_MEMORY bring_memory
#include "kvm_rig.h"

#undef PAGE
#include "uffd_peer.h"

#include "migration/pager.h"
#include "migration/working_set.h"

#define FIRST	  0x100000ull /* where the pages begin that the guest reads */
#define COUNT	  2048u	      /* to the end of 9 MiB */
#define MEMORY_ID 77

static const u8 reader[] = {
	0xba, 0x00, 0x05,			  /* mov dx, 0x500 */
	0x67, 0x66, 0x03, 0x03,			  /* 1: add eax, [ebx] */
	0x67, 0xc6, 0x43, 0x08, 0x5a,		  /* mov byte [ebx + 8], 0x5a */
	0x66, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, /* add ebx, 0x1000 */
	0x67, 0xe2, 0xed,			  /* loop 1b (ecx) */
	0x66, 0xef,				  /* out dx, eax */
	0xf4,
};

/* How the next VM gets its memory. */
static struct {
	int file;
	struct peer *peer; /* NULL: mapped */
	bool packed;	   /* compressed, by the built-in pager */
	const char *record, *prefetch;
} how;

static int bring_memory(struct rig *rig, struct err *e)
{
	struct uffd *u;
	int ret;

	if (how.packed)
		return pager_start(&rig->vm, how.file, e);
	if (how.peer)
		return uffd_connect(&rig->vm, how.peer->path, &u, e);
	ret = memfile_map(&rig->vm, how.file, false, e);
	if (ret == 0 && how.record)
		ret = working_set_record(&rig->vm, how.record, MEMORY_ID, 3600, e);
	if (ret == 0 && how.prefetch)
		ret = working_set_prefetch(&rig->vm, how.prefetch, MEMORY_ID, how.file, e);
	return ret;
}

/* The guest's code, and a number in each page; some pages are holes. */
static u32 make_file(void)
{
	u32 sum = 0;

	how.file = temp_fd();
	assert_int_equal(ftruncate(how.file, RIG_LOW + RIG_HIGH), 0);
	assert_int_equal(pwrite(how.file, reader, sizeof(reader), RIG_CODE), sizeof(reader));
	for (u32 i = 0; i < COUNT; i++) {
		u32 number = i * 2654435761u;

		if (i % 5 == 3)
			continue;
		assert_int_equal(pwrite(how.file, &number, 4, (off_t)(FIRST + i * PAGE)), 4);
		sum += number;
	}
	return sum;
}

static u32 run_reader(struct rig *rig, u32 first, u32 count)
{
	struct cpu_state *c = rig->vm.vcpus[0].cpu;
	enum vcpu_exit why;

	rig_reset_cpu(c, 0);
	c->gpr[X86_RBX] = FIRST + first * PAGE;
	c->gpr[X86_RCX] = count;
	rig_ok(rig, RIG_ACCEL.vcpu_push(&rig->vm.vcpus[0], &rig->e));
	rig->kick = true;
	do
		why = RIG_ACCEL.vcpu_run(&rig->vm.vcpus[0]);
	while (why == VCPU_AGAIN && !rig->nr_access);
	assert_int_equal(why, VCPU_AGAIN);
	assert_int_equal(rig->nr_access, 1);
	rig->nr_access = 0;
	return (u32)rig->access[0].data;
}

static void check_marks(struct rig *rig)
{
	for (u32 i = 0; i < COUNT; i++) {
		u8 mark = *(u8 *)mem_ptr(&rig->vm.mem, FIRST + i * PAGE + 8, 1);

		assert_int_equal(mark, 0x5a);
	}
}

static void a_guest_runs_on_a_mapped_file(void **state)
{
	u32 sum = make_file();
	struct rig *rig = rig_new(1, false);
	int again = temp_fd();

	(void)state;
	assert_int_equal(run_reader(rig, 0, COUNT), sum);
	check_marks(rig);
	save(&rig->vm, again); /* what it wrote is in the next snapshot */
	check_file(again, &rig->vm);
	rig_free(rig);
	close(again);
	close(how.file);
}

static void a_guest_gets_its_memory_from_another_process(void **state)
{
	u32 sum = make_file();
	struct rig *rig;

	(void)state;
	if (!peer_possible())
		return;
	how.peer = peer_start(how.file, false);
	rig = rig_new(1, false);
	assert_int_equal(run_reader(rig, 0, COUNT), sum);
	check_marks(rig);
	rig_free(rig);
	peer_end(how.peer);
	how.peer = NULL;
	close(how.file);
}

static void a_guest_runs_while_its_memory_is_unpacked(void **state)
{
	u32 sum = make_file();
	struct rig *rig;
	int packed = temp_fd();
	struct memfile_stats stats;
	struct err e;

	(void)state;
	if (!peer_possible())
		return;
	rig = rig_new(1, false);
	assert_int_equal(memfile_write_compressed(&rig->vm, packed, &stats, &e), 0);
	rig_free(rig);
	close(how.file);
	how.file = packed;
	how.packed = true;
	rig = rig_new(1, false);
	assert_int_equal(run_reader(rig, 0, COUNT), sum);
	check_marks(rig);
	rig_free(rig);
	how.packed = false;
	close(packed);
}

static void pages_that_a_guest_gave_up_come_back_as_zeroes_from_the_pager(void **state)
{
	struct rig *rig;

	(void)state;
	make_file();
	if (!peer_possible())
		return;
	how.peer = peer_start(how.file, false);
	rig = rig_new(1, false);
	run_reader(rig, 0, 8);
	rig_ok(rig, mem_discard(&rig->vm.mem, FIRST, 16 * PAGE, &rig->e));
	assert_int_equal(run_reader(rig, 0, 16), 0);
	rig_free(rig);
	peer_end(how.peer);
	how.peer = NULL;
	close(how.file);
}

static void what_a_guest_touches_is_recorded_and_read_ahead(void **state)
{
	static char path[] = "/tmp/husk-guest-wset-XXXXXX";
	u32 sum = make_file(), nr;
	struct mem_run *runs;
	struct rig *rig;
	int fd = mkstemp(path);
	u64 touched = 0;
	struct err e;

	(void)state;
	assert_int_equal(fsync(how.file), 0);
	how.record = path;
	rig = rig_new(1, false);
	run_reader(rig, 1000, 100);
	rig_free(rig);
	how.record = NULL;
	assert_int_equal(working_set_read(fd, MEMORY_ID, RIG_LOW + RIG_HIGH, &runs, &nr, &e), 0);
	for (u32 i = 0; i < nr; i++)
		touched += (runs[i].end - runs[i].start) / PAGE;
	assert_in_range(touched, 80, 128); /* code, and the pages but for holes at the ends */
	assert_int_equal(runs[nr - 1].end, FIRST + 1100 * PAGE);
	free(runs);

	posix_fadvise(how.file, 0, 0, POSIX_FADV_DONTNEED);
	how.prefetch = path;
	rig = rig_new(1, false);
	assert_int_equal(run_reader(rig, 0, COUNT), sum);
	rig_free(rig);
	how.prefetch = NULL;
	unlink(path);
	close(fd);
	close(how.file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_runs_on_a_mapped_file),
		cmocka_unit_test(a_guest_gets_its_memory_from_another_process),
		cmocka_unit_test(a_guest_runs_while_its_memory_is_unpacked),
		cmocka_unit_test(pages_that_a_guest_gave_up_come_back_as_zeroes_from_the_pager),
		cmocka_unit_test(what_a_guest_touches_is_recorded_and_read_ahead),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

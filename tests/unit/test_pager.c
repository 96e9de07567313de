/* test_pager.c: the built-in pager: compressed memory that comes page by page. */
#include "memfile_rig.h"

#include <pthread.h>

#include "migration/memfile_zip.h"
#include "migration/pager.h"

struct paged {
	struct vm *vm, *source;
	struct log log;
	int file;
};

static struct vm *filled_vm(void)
{
	struct vm *vm = new_vm();

	fill(vm, 21);
	for (u64 gpa = 4 * MIB; gpa < 8 * MIB; gpa += 3 * PAGE)
		memset(at(vm, gpa), (int)(1 + gpa / PAGE % 255), PAGE);
	return vm;
}

static struct paged *paged_new(void)
{
	struct paged *p = xzalloc(sizeof(*p));
	struct memfile_stats stats;
	struct err e;

	p->source = filled_vm();
	p->file = temp_fd();
	assert_int_equal(memfile_write_compressed(p->source, p->file, &stats, &e), 0);
	p->vm = new_vm();
	log_init(&p->log, memfd_create("log", MFD_CLOEXEC), LOG_INFO);
	p->vm->log = &p->log;
	assert_int_equal(loop_init(&p->vm->loop, &e), 0);
	return p;
}

static void start(struct paged *p)
{
	struct err e = {0};

	if (pager_start(p->vm, p->file, &e) < 0)
		fail_msg("%s", e.msg);
}

static void paged_free(struct paged *p)
{
	mem_fini(&p->vm->mem);
	loop_fini(&p->vm->loop);
	free(p->vm);
	free_vm(p->source);
	close(p->log.fd);
	log_fini(&p->log);
	close(p->file);
	free(p);
}

static void wait_until_complete(struct paged *p)
{
	for (u32 i = 0; i < 2000 && mem_is_lazy(&p->vm->mem); i++)
		usleep(5000);
	assert_false(mem_is_lazy(&p->vm->mem));
}

static void pages_are_there_at_once_and_all_of_them_in_the_end(void **state)
{
	struct paged *p = paged_new();
	struct stat st;

	(void)state;
	start(p);
	assert_int_equal(at(p->vm, MF_PLUG)[0], at(p->source, MF_PLUG)[0]);
	assert_int_equal(at(p->vm, MF_PLUG + PAGE)[0], 0);
	check_same(p->vm, p->source);
	wait_until_complete(p);
	check_same(p->vm, p->source);
	paged_free(p);

	p = paged_new();
	start(p);
	wait_until_complete(p);
	assert_int_equal(fstat(p->vm->mem.fd, &st), 0);
	assert_in_range(st.st_blocks * 512, 8 * PAGE, 350 * PAGE); /* zero pages take no memory */
	check_same(p->vm, p->source);
	paged_free(p);
}

static void the_kernel_and_snapshots_wait_for_pages_as_well(void **state)
{
	struct paged *p = paged_new();
	int out = temp_fd();

	(void)state;
	start(p);
	save(p->vm, out);
	check_file(out, p->source);
	close(out);
	paged_free(p);
}

static void pages_that_are_given_up_are_zero_whether_they_were_there_or_not(void **state)
{
	(void)state;
	for (u32 touched = 0; touched < 2; touched++) {
		struct paged *p = paged_new();
		struct err e;

		start(p);
		if (touched)
			assert_int_equal(at(p->vm, 7 * MIB)[0], at(p->source, 7 * MIB)[0]);
		assert_int_equal(mem_discard(&p->vm->mem, 4 * MIB, 4 * MIB, &e), 0);
		for (u64 gpa = 4 * MIB; gpa < 8 * MIB; gpa += PAGE)
			assert_true(!at(p->vm, gpa)[0] && !at(p->vm, gpa)[4095]);
		at(p->vm, 5 * MIB)[0] = 5;
		wait_until_complete(p);
		assert_int_equal(at(p->vm, 5 * MIB)[0], 5);
		assert_int_equal(mem_discard(&p->vm->mem, 5 * MIB, PAGE, &e), 0);
		memset(p->source->mem.regions[0].hva + 4 * MIB, 0, 4 * MIB);
		check_same(p->vm, p->source);
		paged_free(p);
	}
}

struct toucher {
	struct paged *p;
	u32 seed;
};

/* Reads pages in some order; gives those up whose number says so, which never come back as anything but zero. */
static void *touch_and_give_up(void *opaque)
{
	struct toucher *t = opaque;
	struct err e;

	for (u32 i = 0; i < 4000; i++) {
		u64 page = (t->seed = t->seed * 1664525 + 1013904223) >> 21, gpa = page * PAGE;
		u8 want = at(t->p->source, gpa)[100], got = *(volatile u8 *)&at(t->p->vm, gpa)[100];

		if (got != want && !(page % 7 == 3 && got == 0))
			return "a page came back as something else";
		if (page % 7 == 3 && mem_discard(&t->p->vm->mem, gpa, PAGE, &e) < 0)
			return "not given back";
	}
	return NULL;
}

static void many_threads_touch_and_give_up_pages_meanwhile(void **state)
{
	(void)state;
	for (u32 round = 0; round < 5; round++) {
		struct paged *p = paged_new();
		struct toucher t[3];
		pthread_t id[3];
		void *wrong;

		start(p);
		for (u32 i = 0; i < 3; i++) {
			t[i] = (struct toucher){p, round * 3 + i};
			assert_int_equal(pthread_create(&id[i], NULL, touch_and_give_up, &t[i]), 0);
		}
		for (u32 i = 0; i < 3; i++) {
			pthread_join(id[i], &wrong);
			if (wrong)
				fail_msg("%s", (const char *)wrong);
		}
		paged_free(p);
	}
}

static void a_vm_that_ends_while_it_is_unpacked_ends(void **state)
{
	(void)state;
	for (u32 i = 0; i < 30; i++) {
		struct paged *p = paged_new();

		start(p);
		usleep(i * 100);
		paged_free(p);
	}
}

static void a_damaged_chunk_ends_the_vm(void **state)
{
	struct paged *p = paged_new();
	int out = temp_fd();
	u8 byte;

	(void)state;
	assert_int_equal(pread(p->file, &byte, 1, MEMZIP_HEADER_SIZE + 5000), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(p->file, &byte, 1, MEMZIP_HEADER_SIZE + 5000), 1);
	start(p);
	assert_int_equal(pwrite(out, at(p->vm, PAGE), PAGE, 0), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(__atomic_load_n(&p->vm->end, __ATOMIC_ACQUIRE), VM_END_INTERNAL);
	close(out);
	paged_free(p);
}

static void what_is_no_such_file_is_refused_at_once(void **state)
{
	struct paged *p = paged_new();
	struct err e;

	(void)state;
	assert_int_equal(ftruncate(p->file, (off_t)length_of(p->file) - 1), 0);
	assert_int_equal(pager_start(p->vm, p->file, &e), -EINVAL);
	assert_false(p->vm->mem.lazy);
	assert_int_equal(at(p->vm, 0)[0], 0);
	paged_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_are_there_at_once_and_all_of_them_in_the_end),
		cmocka_unit_test(the_kernel_and_snapshots_wait_for_pages_as_well),
		cmocka_unit_test(pages_that_are_given_up_are_zero_whether_they_were_there_or_not),
		cmocka_unit_test(many_threads_touch_and_give_up_pages_meanwhile),
		cmocka_unit_test(a_vm_that_ends_while_it_is_unpacked_ends),
		cmocka_unit_test(a_damaged_chunk_ends_the_vm),
		cmocka_unit_test(what_is_no_such_file_is_refused_at_once),
	};
	struct err e;
	int fd = uffd_open(&e);

	if (fd < 0) {
		printf("1..0 # SKIP %s\n", e.msg);
		return 0;
	}
	close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

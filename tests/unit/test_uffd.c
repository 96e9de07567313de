/* test_uffd.c: guest memory from an external pager (Firecracker's handshake), which is a real process here. */
#include "uffd_peer.h"

struct lazy {
	struct vm *vm;
	struct log log;
	struct uffd *uffd;
	struct peer *peer;
	int file;
	char told[2048]; /* the message */
};

static struct lazy *lazy_new_under(bool supervised)
{
	struct lazy *l = xzalloc(sizeof(*l));
	struct vm *source = new_vm();
	struct err e = {0};

	l->file = temp_fd();
	fill(source, 11);
	save(source, l->file);
	free_vm(source);
	l->peer = peer_start(l->file, supervised);
	l->vm = new_vm();
	log_init(&l->log, memfd_create("log", MFD_CLOEXEC), LOG_INFO);
	l->vm->log = &l->log;
	assert_int_equal(loop_init(&l->vm->loop, &e), 0);
	if (uffd_connect(l->vm, l->peer->path, &l->uffd, &e) < 0)
		fail_msg("%s", e.msg);
	for (u32 i = 0; i < sizeof(l->told); i++) {
		assert_int_equal(read(l->peer->told, &l->told[i], 1), 1);
		if (!l->told[i])
			break;
	}
	return l;
}

static struct lazy *lazy_new(void)
{
	return lazy_new_under(false);
}

static void lazy_free(struct lazy *l)
{
	mem_fini(&l->vm->mem);
	loop_fini(&l->vm->loop);
	close(l->log.fd);
	log_fini(&l->log);
	free(l->vm);
	peer_end(l->peer);
	close(l->file);
	free(l);
}

/* How often the pager has said so, since the last look. */
static u32 times(struct lazy *l, char what)
{
	char buf[8192];
	ssize_t n;
	u32 found = 0;

	fcntl(l->peer->told, F_SETFL, O_NONBLOCK);
	n = read(l->peer->told, buf, sizeof(buf));
	for (ssize_t i = 0; i < n; i++)
		found += buf[i] == what;
	return found;
}

/* It says so after it has read the event, when whoever discards goes on already. */
static bool wait_for(struct lazy *l, char what, u32 nr)
{
	for (u32 i = 0; i < 500 && nr; i++) {
		nr -= times(l, what);
		usleep(nr ? 10000 : 0);
	}
	return nr == 0;
}

static bool wait_for_log(struct lazy *l, const char *text)
{
	char buf[4096];

	for (u32 i = 0; i < 500; i++) {
		memset(buf, 0, sizeof(buf));
		if (pread(l->log.fd, buf, sizeof(buf) - 1, 0) > 0 && strstr(buf, text))
			return true;
		usleep(10000);
	}
	return false;
}

static void the_handshake_is_firecrackers(void **state)
{
	struct lazy *l = lazy_new();
	char want[2048];
	int n = 0;

	(void)state;
	for (u32 i = 0; i < 3; i++) {
		const struct mem_region *r = &l->vm->mem.regions[i];

		n += snprintf(want + n, sizeof(want) - (size_t)n,
			      "%c{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":%llu,\"page_size\":4096,\"page_size_kib\":4096}",
			      i ? ',' : '[', (unsigned long long)(uintptr_t)r->hva, (unsigned long long)r->size,
			      (unsigned long long)r->fd_offset);
	}
	snprintf(want + n, sizeof(want) - (size_t)n, "]");
	assert_string_equal(l->told, want);
	assert_true(l->vm->mem.lazy);
	assert_int_equal(uffd_missing(l->vm), MF_SIZE);
	lazy_free(l);
}

static void pages_come_when_they_are_touched(void **state)
{
	struct lazy *l = lazy_new();

	(void)state;
	assert_int_equal(at(l->vm, 3 * MIB)[4095], 1);
	assert_int_equal(times(l, '.'), 1);
	at(l->vm, 5 * MIB)[0] = 1;
	assert_int_equal(uffd_missing(l->vm), MF_SIZE - 2 * PAGE);
	at(l->vm, 5 * MIB)[0] = 0;
	check_file(l->file, l->vm);
	assert_int_equal(times(l, '.'), MF_SIZE / PAGE - 1);
	assert_int_equal(uffd_missing(l->vm), 0);
	lazy_free(l);
}

static void the_kernel_gets_missing_pages_as_well(void **state)
{
	struct lazy *l = lazy_new();
	int out = temp_fd();
	u8 got[2 * PAGE], want[2 * PAGE];

	(void)state;
	assert_int_equal(pwrite(out, at(l->vm, 0), 2 * PAGE, 0), 2 * PAGE);
	assert_int_equal(pread(out, got, sizeof(got), 0), sizeof(got));
	assert_int_equal(pread(l->file, want, sizeof(want), 0), sizeof(want));
	assert_memory_equal(got, want, sizeof(got));
	assert_int_equal(pread(l->file, at(l->vm, MF_HIGH), PAGE, 0), PAGE); /* into one */
	assert_memory_equal(at(l->vm, MF_HIGH), want, PAGE);
	close(out);
	lazy_free(l);
}

static void discarded_pages_come_back_as_zeroes(void **state)
{
	struct lazy *l = lazy_new();
	struct err e;

	(void)state;
	assert_int_equal(at(l->vm, 3 * MIB)[4095], 1);
	assert_int_equal(mem_discard(&l->vm->mem, 3 * MIB, PAGE, &e), 0);
	assert_int_equal(mem_discard(&l->vm->mem, 0, 2 * PAGE, &e), 0); /* never was there */
	assert_true(wait_for(l, '-', 2));
	assert_int_equal(at(l->vm, 3 * MIB)[4095], 0);
	assert_true(memcmp(at(l->vm, 0), at(l->vm, 5 * MIB), PAGE) == 0);
	at(l->vm, PAGE)[9] = 9;
	assert_int_equal(at(l->vm, PAGE)[9], 9);
	lazy_free(l);
}

static void a_full_snapshot_fetches_what_is_missing(void **state)
{
	struct lazy *l = lazy_new();
	int out = temp_fd();

	(void)state;
	at(l->vm, 5 * MIB)[0] = 1;
	assert_int_equal(save(l->vm, out).bytes, 9 * PAGE);
	check_file(out, l->vm);
	close(out);
	lazy_free(l);
}

static void a_pager_that_dies_ends_the_vm_and_nobody_waits(void **state)
{
	struct lazy *l = lazy_new();
	int out = temp_fd();
	struct err e;

	(void)state;
	assert_int_equal(at(l->vm, 3 * MIB)[4095], 1);
	peer_kill(l->peer);
	assert_int_equal(pwrite(out, at(l->vm, 4 * MIB), PAGE, 0), -1); /* waits until it is an error */
	assert_int_equal(errno, EFAULT);
	assert_true(wait_for_log(l, "is gone, and 14 MiB of the guest's memory with it: the VM ends"));
	assert_int_equal(__atomic_load_n(&l->vm->end, __ATOMIC_ACQUIRE), VM_END_INTERNAL);
	assert_int_equal(at(l->vm, 3 * MIB)[4095], 1);
	assert_int_equal(mem_discard(&l->vm->mem, 3 * MIB, 8 * PAGE, &e), 0); /* does not wait either */
	close(out);
	lazy_free(l);
}

/* Its supervisor has called listen, so that the kernel names that one. */
static void a_pager_that_dies_under_its_supervisor_is_missed_when_a_fault_waits(void **state)
{
	struct lazy *l = lazy_new_under(true);
	int out = temp_fd();

	(void)state;
	peer_kill(l->peer);
	assert_int_equal(pwrite(out, at(l->vm, 4 * MIB), PAGE, 0), -1);
	assert_int_equal(errno, EFAULT);
	assert_true(wait_for_log(l, "is gone"));
	close(out);
	lazy_free(l);
}

static void a_pager_that_has_brought_everything_may_go(void **state)
{
	struct lazy *l = lazy_new();
	struct err e;

	(void)state;
	check_file(l->file, l->vm);
	peer_kill(l->peer);
	for (u32 i = 0; i < 500 && mem_is_lazy(&l->vm->mem); i++)
		usleep(10000);
	assert_false(l->vm->mem.lazy);
	assert_int_equal(__atomic_load_n(&l->vm->end, __ATOMIC_ACQUIRE), VM_END_NONE);
	assert_int_equal(mem_discard(&l->vm->mem, 0, 8 * MIB, &e), 0);
	assert_int_equal(at(l->vm, 3 * MIB)[4095], 0);
	lazy_free(l);
}

static void where_no_pager_listens_nothing_is_restored(void **state)
{
	struct vm *vm = new_vm();
	struct uffd *u;
	char path[200];
	struct err e;

	(void)state;
	assert_int_equal(uffd_connect(vm, "/tmp/husk-no-such-socket", &u, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "the pager's socket \"/tmp/husk-no-such-socket\": cannot connect"));
	memset(path, 'x', sizeof(path));
	path[199] = 0;
	assert_int_equal(uffd_connect(vm, path, &u, &e), -ENAMETOOLONG);
	assert_false(vm->mem.lazy);
	free_vm(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_handshake_is_firecrackers),
		cmocka_unit_test(pages_come_when_they_are_touched),
		cmocka_unit_test(the_kernel_gets_missing_pages_as_well),
		cmocka_unit_test(discarded_pages_come_back_as_zeroes),
		cmocka_unit_test(a_full_snapshot_fetches_what_is_missing),
		cmocka_unit_test(a_pager_that_dies_ends_the_vm_and_nobody_waits),
		cmocka_unit_test(a_pager_that_dies_under_its_supervisor_is_missed_when_a_fault_waits),
		cmocka_unit_test(a_pager_that_has_brought_everything_may_go),
		cmocka_unit_test(where_no_pager_listens_nothing_is_restored),
	};

	if (!peer_possible()) {
		printf("1..0 # SKIP no userfaultfd\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

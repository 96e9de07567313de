/* test_kvm_selftest.c: the verdict on this machine's /dev/kvm. */
#include "kvm_rig.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include "kvm/kvm_x86.h"

static bool has_vmx_or_svm(void)
{
	u32 a, b, c = 0, d, ext_c = 0;

	__get_cpuid(1, &a, &b, &c, &d);
	__get_cpuid(0x80000001, &a, &b, &ext_c, &d);
	return c & BIT(5) || ext_c & BIT(2);
}

static void the_verdict_fits_the_processor(void **state)
{
	struct err e = {.msg = ""};
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), ret;

	(void)state;
	if (fd < 0)
		skip();
	ret = kvm_selftest_run(fd, &e);
	close(fd);
	if (has_vmx_or_svm()) {
		if (ret)
			fail_msg("%s", e.msg);
		return;
	}
	assert_int_equal(ret, -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "only emulates instructions"));
	assert_non_null(strstr(e.msg, "software accelerator"));
}

static int lowest_free_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	close(fd);
	return fd;
}

static void the_probe_leaves_nothing_behind(void **state)
{
	int fd = lowest_free_fd();
	struct sigaction act;
	sigset_t mask;
	struct err e;

	(void)state;
	sigfillset(&mask);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	(void)kvm_accel_ops.probe(&e);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	assert_int_equal(sigismember(&mask, SIGRTMIN), 1);
	sigemptyset(&mask);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	sigaction(SIGRTMIN, NULL, &act);
	assert_ptr_equal(act.sa_handler, SIG_DFL);
	assert_int_equal(lowest_free_fd(), fd);
}

static void a_forbidden_device_is_told_from_a_missing_one(void **state)
{
	struct err e = {.msg = ""};
	struct stat st;
	int ret;

	(void)state;
	if (geteuid() != 0 || stat("/dev/kvm", &st) < 0 || st.st_mode & 06)
		skip();
	assert_int_equal(seteuid(65534), 0);
	ret = kvm_accel_ops.probe(&e);
	assert_int_equal(seteuid(0), 0);
	assert_int_equal(ret, -EACCES);
	assert_non_null(strstr(e.msg, "group kvm"));
}

static void the_probe_is_quick(void **state)
{
	struct err e;
	u64 start = clock_host_ns();

	(void)state;
	(void)kvm_accel_ops.probe(&e);
	assert_true(clock_host_ns() - start < 500 * NSEC_PER_MSEC); /* a few ms; the bound only catches a hang or a runaway loop */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_probe_leaves_nothing_behind),
		cmocka_unit_test(a_forbidden_device_is_told_from_a_missing_one),
		cmocka_unit_test(the_verdict_fits_the_processor),
		cmocka_unit_test(the_probe_is_quick),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

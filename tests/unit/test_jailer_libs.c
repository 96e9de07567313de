/* test_jailer_libs.c: which files a program needs in its jail; ELF files and loaders that are not what they should be. */
#include "cm.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "jailer/libs.h"

struct image {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[2];
	char interp[300];
};

static struct image good_image(void)
{
	struct image im = {
		.eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1},
		       .e_type = ET_DYN,
		       .e_machine = EM_X86_64,
		       .e_phoff = offsetof(struct image, ph),
		       .e_phentsize = sizeof(Elf64_Phdr),
		       .e_phnum = 2},
		.ph = {{.p_type = PT_LOAD}, {.p_type = PT_INTERP, .p_offset = offsetof(struct image, interp), .p_filesz = 8}},
		.interp = "/lib/ld",
	};

	return im;
}

static int read_interp(const struct image *im, size_t size, char *interp)
{
	int r, fd = memfd_create("image", MFD_CLOEXEC);
	struct err e;

	assert_int_equal(fd_write_all(fd, im, size), 0);
	r = libs_read_interp(fd, "x", interp, &e);
	close(fd);
	return r;
}

static void the_loader_of_a_program_is_found(void **state)
{
	struct image im = good_image();
	char interp[256];

	(void)state;
	assert_int_equal(read_interp(&im, sizeof(im), interp), 0);
	assert_string_equal(interp, "/lib/ld");
	im.ph[1].p_type = PT_NOTE;
	assert_int_equal(read_interp(&im, sizeof(im), interp), 0);
	assert_string_equal(interp, "");
}

static void broken_programs_are_refused(void **state)
{
	struct image im = good_image();
	char interp[256];

	(void)state;
	assert_int_equal(read_interp(&im, 63, interp), -ENOEXEC);
	assert_int_equal(read_interp(&im, sizeof(im.eh) + 10, interp), -ENOEXEC);
	assert_int_equal(read_interp(&im, offsetof(struct image, interp) + 3, interp), -ENOEXEC);
#define BROKEN(change) \
	do { \
		im = good_image(); \
		change; \
		assert_int_equal(read_interp(&im, sizeof(im), interp), -ENOEXEC); \
	} while (0)
	BROKEN(im.eh.e_ident[0] = '#');
	BROKEN(im.eh.e_ident[EI_CLASS] = ELFCLASS32);
	BROKEN(im.eh.e_ident[EI_DATA] = ELFDATA2MSB);
	BROKEN(im.eh.e_type = ET_REL);
	BROKEN(im.eh.e_phentsize = 1);
	BROKEN(im.eh.e_phnum = 0);
	BROKEN(im.eh.e_phnum = 0xffff);
	BROKEN(im.eh.e_phoff = ~0ull);
	BROKEN(im.ph[1].p_offset = ~0ull);
	BROKEN(im.ph[1].p_filesz = 0);
	BROKEN(im.ph[1].p_filesz = 257);
	BROKEN(im.ph[1].p_filesz = ~0ull);
	BROKEN(im.ph[1].p_filesz = 7); /* no NUL at the end */
	BROKEN(im.interp[0] = 'x');
	BROKEN(memcpy(im.interp, "/../ld", 7));
}

static void a_loaders_list_is_read(void **state)
{
	char text[] = "\tlinux-vdso.so.1 (0x00007ffd)\n"
		      "\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n"
		      "\tlibc.so.6 => /my libs/libc.so.6 (0x00007f)\n"
		      "\tlibz2.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n"
		      "\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
	struct libs l = {0};
	struct err e;

	(void)state;
	assert_int_equal(libs_parse_list(&l, text, "x", &e), 0);
	assert_int_equal(l.n, 3);
	assert_string_equal(l.paths[0], "/lib/x86_64-linux-gnu/libz.so.1");
	assert_string_equal(l.paths[1], "/my libs/libc.so.6");
	assert_string_equal(l.paths[2], "/lib64/ld-linux-x86-64.so.2");
	libs_fini(&l);
}

static void bad_lists_are_refused(void **state)
{
	char missing[] = "\tlibhusk.so.9 => not found\n", up[] = "\tlibz.so => /lib/../../etc/libz.so (0x1)\n",
	     odd[] = "\tlibz.so => /lib/libz.so\n";
	struct libs l = {0};
	struct err e;

	(void)state;
	assert_int_equal(libs_parse_list(&l, missing, "/bin/x", &e), -ENOENT);
	assert_string_equal(e.msg, "Failed to find the libraries of /bin/x: libhusk.so.9 is not on this host");
	assert_int_equal(libs_parse_list(&l, up, "x", &e), -EINVAL);
	assert_int_equal(libs_parse_list(&l, odd, "x", &e), -EINVAL);
	assert_int_equal(l.n, 0);
}

static void the_number_of_libraries_is_bounded(void **state)
{
	struct libs l = {0};
	struct err e;

	(void)state;
	for (u32 i = 0; i <= LIBS_MAX; i++) {
		auto_free char *line = xasprintf("/lib/%u (0x1)", i);

		assert_int_equal(libs_parse_list(&l, line, "x", &e), i < LIBS_MAX ? 0 : -E2BIG);
	}
	libs_fini(&l);
}

static void the_libraries_of_this_very_program_are_found(void **state)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	char interp[256];
	struct libs l;
	struct err e;
	bool libc = false;

	(void)state;
	assert_int_equal(libs_read_interp(fd, "x", interp, &e), 0);
	assert_int_equal(libs_find(&l, fd, "x", false, 0, 0, &e), 0);
	assert_string_equal(l.n ? l.paths[0] : "", interp);
	for (u32 i = 0; i < l.n; i++) {
		assert_int_equal(access(l.paths[i], R_OK), 0);
		libc |= strstr(l.paths[i], "/libc.so") != NULL;
	}
	assert_true(libc == (l.n > 0));
	libs_fini(&l);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_loader_of_a_program_is_found),
		cmocka_unit_test(broken_programs_are_refused),
		cmocka_unit_test(a_loaders_list_is_read),
		cmocka_unit_test(bad_lists_are_refused),
		cmocka_unit_test(the_number_of_libraries_is_bounded),
		cmocka_unit_test(the_libraries_of_this_very_program_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

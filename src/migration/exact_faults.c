/* exact_faults.c: see exact_faults.h. */
#include "migration/exact_faults.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* <linux/userfaultfd.h> of Linux 6.7; the build's headers may know less. */
#define USER_MODE_ONLY	 1
#define FEATURE_WP_ASYNC BIT(15)

static int open_async(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_WP_ASYNC};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY); /* takes no right of any kind */

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0)
		fd_close(&fd);
	return fd;
}

static u8 *image_at(const struct mem *m, u32 i)
{
	return mem_ptr(m, m->images[i].gpa, m->images[i].len);
}

void exact_faults_begin(struct exact_faults *x, const struct mem *m)
{
	x->fd = open_async();
	for (u32 i = 0; i < m->nr_images; i++) {
		struct uffdio_register reg = {
			.range = {.start = (uintptr_t)image_at(m, i), .len = m->images[i].len},
			.mode = UFFDIO_REGISTER_MODE_WP,
		};

		if (x->fd >= 0 && ioctl(x->fd, UFFDIO_REGISTER, &reg) < 0)
			fd_close(&x->fd);
		if (x->fd < 0)
			madvise(image_at(m, i), m->images[i].len, MADV_RANDOM);
	}
}

void exact_faults_end(struct exact_faults *x, const struct mem *m)
{
	if (x->fd >= 0) {
		fd_close(&x->fd); /* and with it, what it watched */
		return;
	}
	for (u32 i = 0; i < m->nr_images; i++)
		madvise(image_at(m, i), m->images[i].len, MADV_NORMAL);
}

/* no_files.c: see no_files.h. */
#include "fuzz/no_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap___open_2(const char *path, int flags);
int __wrap___open64_2(const char *path, int flags);

static bool on;
static int disks[NO_FILES_DISKS] = {-1, -1};

void no_files_begin(void)
{
	for (u32 i = 0; i < NO_FILES_DISKS; i++) {
		if (disks[i] < 0)
			disks[i] = memfd_create("fuzz-disk", MFD_CLOEXEC);
		ASSERT(disks[i] >= 0 && ftruncate(disks[i], 0) == 0 && ftruncate(disks[i], NO_FILES_DISK_SIZE) == 0);
	}
	__atomic_store_n(&on, true, __ATOMIC_SEQ_CST);
}

void no_files_end(void)
{
	__atomic_store_n(&on, false, __ATOMIC_SEQ_CST);
}

static int open_made_up(const char *path, int flags)
{
	char real[32];

	if (!strcmp(path, "/null"))
		return __real_open("/dev/null", flags & ~O_CREAT);
	for (u32 i = 0; i < NO_FILES_DISKS; i++) {
		if (strncmp(path, "/disk", 5) != 0 || path[5] != (char)('0' + i) || path[6])
			continue;
		snprintf(real, sizeof(real), "/proc/self/fd/%d", disks[i]);
		return __real_open(real, flags & ~O_CREAT);
	}
	errno = ENOENT;
	return -1;
}

int __wrap_open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list ap;

	if (__atomic_load_n(&on, __ATOMIC_SEQ_CST))
		return open_made_up(path, flags);
	if (flags & (O_CREAT | O_TMPFILE)) {
		va_start(ap, flags);
		mode = va_arg(ap, mode_t);
		va_end(ap);
	}
	return __real_open(path, flags, mode);
}

int __wrap_open64(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list ap;

	if (flags & (O_CREAT | O_TMPFILE)) {
		va_start(ap, flags);
		mode = va_arg(ap, mode_t);
		va_end(ap);
	}
	return __wrap_open(path, flags, mode);
}

/* What open becomes with _FORTIFY_SOURCE. */
int __wrap___open_2(const char *path, int flags)
{
	return __wrap_open(path, flags);
}

int __wrap___open64_2(const char *path, int flags)
{
	return __wrap_open(path, flags);
}

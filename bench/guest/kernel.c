/*
 * kernel.c: one process and its kernel: system calls, page faults, page protection, files.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "bench.h"

static u64 run_getppid(u32 ops)
{
	long parent = syscall(SYS_getppid);

	for (u32 i = 0; i < ops; i++)
		if (syscall(SYS_getppid) != parent)
			bench_die("getppid");
	return 0;
}

static u8 *map_pages(size_t pages)
{
	u8 *p = mmap(NULL, pages << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		bench_die("mmap");
	madvise(p, pages << 12, MADV_NOHUGEPAGE);
	return p;
}

static u64 run_fault(u32 ops)
{
	u64 digest = 0;

	for (u32 done = 0; done < ops; done += 256) {
		volatile u8 *p = map_pages(256);

		for (u32 i = 0; i < 256; i++) {
			digest += p[i << 12]; /* zero, or something of another's */
			p[i << 12] = (u8)(i | 1);
		}
		munmap((void *)p, 256 << 12);
	}
	return digest;
}

static u64 run_mprotect(u32 ops)
{
	volatile u8 *p = map_pages(1);
	u64 digest = 0;

	for (u32 i = 0; i < ops; i += 2) {
		p[0]++;
		if (mprotect((void *)p, 4096, PROT_READ) || mprotect((void *)p, 4096, PROT_READ | PROT_WRITE))
			bench_die("mprotect");
	}
	digest = p[0];
	munmap((void *)p, 4096);
	return digest;
}

static void path_of(char *path, const char *name)
{
	snprintf(path, 256, "%s/%s", bench_options.tmp, name);
}

static u64 run_file(u32 ops)
{
	char path[256];
	u8 data[4096];
	u64 digest = 0;
	int fd;

	path_of(path, "bench-file");
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		bench_die(path);
	for (u32 i = 0; i < ops; i++) {
		off_t at = (off_t)(i % 64) * 4096;

		memset(data, (int)i, sizeof(data));
		if (pwrite(fd, data, sizeof(data), at) != sizeof(data) || pread(fd, data, sizeof(data), at) != sizeof(data))
			bench_die("file I/O");
		digest = bench_mix(digest, data[i & 4095]);
	}
	close(fd);
	unlink(path);
	return digest;
}

/* Create, stat, open, read nothing, remove. */
static u64 run_stat(u32 ops)
{
	char path[256];
	struct stat st;
	u64 digest = 0;

	path_of(path, "bench-stat");
	for (u32 i = 0; i < ops; i++) {
		int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);

		if (fd < 0 || write(fd, "x", 1) != 1 || stat(path, &st) || close(fd) || unlink(path))
			bench_die(path);
		digest += (u64)st.st_size + (stat(path, &st) < 0);
	}
	return digest;
}

const struct bench_class kernel_classes[] = {
	{"getppid", "system call", 20000, NULL, run_getppid},
	{"fault", "anonymous page touched and unmapped", 2048, NULL, run_fault},
	{"mprotect", "call, the page written in between", 4000, NULL, run_mprotect},
	{"file", "4 KiB written and read, tmpfs", 2000, NULL, run_file},
	{"stat", "file made, looked up twice, removed, tmpfs", 500, NULL, run_stat},
	{0},
};

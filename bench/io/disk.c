/* disk.c: random and sequential I/O past the guest's page cache (O_DIRECT), with Linux's own asynchronous interface for depths above 1.
 * The system calls directly: libaio is no more than them. */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io.h"

#define MAGIC	  0x6b73756800000000ull
#define MAX_DEPTH 32u
#define SEQ_BYTES (256u * 1024)
#define SEQ_DEPTH 4u

struct disk {
	int fd;
	uint64_t blocks;
	uint64_t seed, next; /* random; sequential */
};

struct job {
	const char *name;
	uint32_t depth, bytes;
	int write, random;
};

static void stamp(uint8_t *data, uint64_t block)
{
	uint64_t mark = MAGIC + block;

	memcpy(data, &mark, sizeof(mark));
	memcpy(data + BLOCK - sizeof(mark), &mark, sizeof(mark));
}

/* Anything but the block that belongs there is worth no number. */
static void verify(const uint8_t *data, uint64_t block)
{
	uint64_t mark = MAGIC + block, first, last;

	memcpy(&first, data, sizeof(first));
	memcpy(&last, data + BLOCK - sizeof(last), sizeof(last));
	if (first == mark && last == mark)
		return;
	fprintf(stderr, "io: WRONG DATA in block %llu: %#llx and %#llx\n", (unsigned long long)block, (unsigned long long)first,
		(unsigned long long)last);
	exit(1);
}

static uint8_t *buffer(size_t bytes)
{
	uint8_t *p = aligned_alloc(BLOCK, bytes);

	if (!p)
		die("memory");
	memset(p, 0x5a, bytes);
	return p;
}

void disk_make(const char *path, uint64_t mib)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	uint8_t *data = buffer(1 << 20);

	if (fd < 0)
		die(path);
	for (uint64_t block = 0; block < mib * 256; block += 256) {
		for (uint32_t i = 0; i < 256; i++)
			stamp(data + i * BLOCK, block + i);
		if (write(fd, data, 1 << 20) != 1 << 20)
			die(path);
	}
	close(fd);
}

void disk_check(const char *path)
{
	int fd = open(path, O_RDONLY);
	uint8_t *data = buffer(1 << 20);
	ssize_t n;

	if (fd < 0)
		die(path);
	for (uint64_t block = 0; (n = read(fd, data, 1 << 20)) > 0;) {
		for (ssize_t at = 0; at < n; at += BLOCK)
			verify(data + at, block++);
	}
	if (n < 0)
		die(path);
}

static uint64_t pick(struct disk *d, const struct job *j)
{
	uint64_t nr = d->blocks / (j->bytes / BLOCK);

	if (!j->random)
		return d->next++ % nr * j->bytes;
	d->seed ^= d->seed << 13;
	d->seed ^= d->seed >> 7;
	d->seed ^= d->seed << 17;
	return d->seed % nr * j->bytes;
}

static void prepare(const struct job *j, uint8_t *data, uint64_t at)
{
	for (uint32_t i = 0; j->write && i < j->bytes; i += BLOCK)
		stamp(data + i, (at + i) / BLOCK);
}

static void examine(const struct job *j, const uint8_t *data, uint64_t at, int64_t res)
{
	if (res != j->bytes) {
		errno = res < 0 ? (int)-res : EIO;
		die(j->name);
	}
	for (uint32_t i = 0; !j->write && i < j->bytes; i += BLOCK)
		verify(data + i, (at + i) / BLOCK);
}

/* One at a time, as a program does that knows nothing else. */
static void run_sync(struct disk *d, const struct job *j, uint64_t ms)
{
	uint8_t *data = buffer(j->bytes);
	uint64_t start = now_ns(), end = start + ms * 1000000, ops = 0, now;

	do {
		uint64_t at = pick(d, j);

		prepare(j, data, at);
		examine(j, data, at, j->write ? pwrite(d->fd, data, j->bytes, (off_t)at) : pread(d->fd, data, j->bytes, (off_t)at));
		ops++;
		now = now_ns();
	} while (now < end);
	result(j->name, ops * j->bytes, now - start);
	free(data);
}

static void submit(aio_context_t ctx, struct iocb **list, long nr)
{
	while (nr > 0) {
		long done = syscall(SYS_io_submit, ctx, nr, list);

		if (done < 0 && errno != EAGAIN)
			die("io_submit");
		list += done > 0 ? done : 0;
		nr -= done > 0 ? done : 0;
	}
}

static void run_async(struct disk *d, const struct job *j, uint64_t ms)
{
	struct iocb cb[MAX_DEPTH], *list[MAX_DEPTH];
	struct io_event events[MAX_DEPTH];
	aio_context_t ctx = 0;
	uint8_t *data = buffer((size_t)j->depth * j->bytes);
	uint64_t start, end, ops = 0, now;
	uint32_t flying = 0, nr = j->depth;

	if (syscall(SYS_io_setup, MAX_DEPTH, &ctx) < 0)
		die("io_setup");
	memset(cb, 0, sizeof(cb));
	for (uint32_t i = 0; i < nr; i++) {
		cb[i].aio_lio_opcode = j->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
		cb[i].aio_fildes = (uint32_t)d->fd;
		cb[i].aio_buf = (uintptr_t)(data + (size_t)i * j->bytes);
		cb[i].aio_nbytes = j->bytes;
		list[i] = &cb[i];
	}
	start = now = now_ns();
	end = start + ms * 1000000;
	while (nr || flying) {
		long got;

		for (uint32_t i = 0; i < nr; i++) {
			list[i]->aio_offset = (int64_t)pick(d, j);
			prepare(j, (uint8_t *)(uintptr_t)list[i]->aio_buf, (uint64_t)list[i]->aio_offset);
		}
		submit(ctx, list, nr);
		flying += nr;
		got = syscall(SYS_io_getevents, ctx, 1, MAX_DEPTH, events, NULL);
		if (got < 0)
			die("io_getevents");
		for (long i = 0; i < got; i++) {
			list[i] = (struct iocb *)(uintptr_t)events[i].obj;
			examine(j, (uint8_t *)(uintptr_t)list[i]->aio_buf, (uint64_t)list[i]->aio_offset, events[i].res);
		}
		flying -= (uint32_t)got;
		ops += (uint64_t)got;
		now = now_ns();
		nr = now < end ? (uint32_t)got : 0;
	}
	result(j->name, ops * j->bytes, now - start);
	syscall(SYS_io_destroy, ctx);
	free(data);
}

static void bench(struct disk *d, const struct job *j, uint64_t ms)
{
	d->next = 0;
	if (j->depth == 1)
		run_sync(d, j, ms);
	else
		run_async(d, j, ms);
}

void disk_bench(const char *path, uint64_t ms, const char *only)
{
	static const struct job jobs[] = {
		{"randread-1", 1, BLOCK, 0, 1},	   {"randwrite-1", 1, BLOCK, 1, 1},	 {"randread-32", 32, BLOCK, 0, 1},
		{"randwrite-32", 32, BLOCK, 1, 1}, {"read", SEQ_DEPTH, SEQ_BYTES, 0, 0}, {"write", SEQ_DEPTH, SEQ_BYTES, 1, 0},
	};
	struct disk d = {.fd = open(path, O_RDWR | O_DIRECT), .seed = 88172645463325252ull};
	struct stat st;

	if (d.fd < 0 || fstat(d.fd, &st) < 0)
		die(path);
	d.blocks = (uint64_t)st.st_size / BLOCK;
	if (S_ISBLK(st.st_mode)) {
		if (ioctl(d.fd, BLKGETSIZE64, &d.blocks) < 0)
			die(path);
		d.blocks /= BLOCK;
	}
	for (uint32_t i = 0; i < sizeof(jobs) / sizeof(jobs[0]); i++) {
		if (begin(jobs[i].name, only))
			bench(&d, &jobs[i], ms);
	}
	close(d.fd);
}

/* memfile_merge.c: memory files among themselves: what kind one is, a diff over its base, copies; see memfile.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/memfile_impl.h"
#include "migration/memfile_zip.h"

int memfile_probe(int fd, u64 *bytes, struct err *e)
{
	struct memzip_header h;
	struct stat st;
	int ret;

	if (fstat(fd, &st) < 0)
		return err_errno(e, "cannot read the memory file");
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "the memory file is no regular file");
	/* A guest may have written anything to the beginning of its memory. Only the length tells. */
	if (st.st_size % (off_t)MEM_PAGE_SIZE == 0) {
		if (!st.st_size)
			return err_set(e, -EINVAL, "the memory file is empty");
		*bytes = (u64)st.st_size;
		return 0;
	}
	ret = memzip_read_header(fd, (u64)st.st_size, &h, e);
	if (ret < 0)
		return ret;
	*bytes = h.memory_bytes;
	return 1;
}

static int probe_plain(int fd, const char *what, u64 *bytes, struct err *e)
{
	int ret = memfile_probe(fd, bytes, e);

	if (ret == 1)
		ret = err_set(e, -EINVAL, "it is compressed; only plain memory files can be merged");
	return ret < 0 ? err_prefix(e, "%s", what) : 0;
}

/* Writes the pages of data to the base; zero ones become holes again. */
static int write_over(int fd, const u8 *data, u64 len, u64 offset, struct memfile_stats *out)
{
	int ret = 0;

	for (u64 at = 0, run; ret == 0 && at < len; at = run) {
		bool zero = memfile_is_zero(data + at);

		for (run = at + MEM_PAGE_SIZE; run < len && memfile_is_zero(data + run) == zero;)
			run += MEM_PAGE_SIZE;
		out->pages += (run - at) / MEM_PAGE_SIZE;
		if (zero && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(offset + at), (off_t)(run - at)) == 0) {
			out->zero_pages += (run - at) / MEM_PAGE_SIZE;
			continue;
		}
		ret = memfile_pwrite(fd, data + at, run - at, offset + at);
		out->bytes += run - at;
	}
	return ret;
}

int memfile_merge(int base_fd, int diff_fd, struct memfile_stats *out, struct err *e)
{
	auto_free u8 *buf = xzalloc(MEMFILE_PIECE);
	u64 base_size, size, end;
	int ret = probe_plain(base_fd, "the base", &base_size, e);

	*out = (struct memfile_stats){0};
	if (ret == 0)
		ret = probe_plain(diff_fd, "the diff", &size, e);
	if (ret < 0)
		return ret;
	if (base_size != size)
		return err_set(e, -EINVAL, "the base has %llu bytes, the diff %llu: they are not of the same VM",
			       (unsigned long long)base_size, (unsigned long long)size);
	for (u64 at = mem_file_data(diff_fd, 0, size); at < size; at = mem_file_data(diff_fd, end, size)) {
		u64 start = ALIGN_DOWN(at, MEM_PAGE_SIZE);

		end = MIN(ALIGN_UP(mem_file_hole(diff_fd, at, size), MEM_PAGE_SIZE), start + MEMFILE_PIECE);
		ret = memfile_pread(diff_fd, buf, end - start, start);
		if (ret < 0)
			return err_set(e, ret, "cannot read the diff: %s", strerror(-ret));
		ret = write_over(base_fd, buf, end - start, start, out);
		if (ret < 0)
			return err_set(e, ret, "cannot write the base: %s", strerror(-ret));
	}
	return 0;
}

/* By the kernel, or where the two file systems do not go together, by hand. */
static int copy_extent(int to, int from, u64 at, u64 end, u8 *buf)
{
	bool by_hand = false;

	while (at < end) {
		off_t in = (off_t)at, behind = (off_t)at;
		ssize_t n = by_hand ? -1 : copy_file_range(from, &in, to, &behind, end - at, 0);
		u64 len = MIN(end - at, MEMFILE_PIECE);
		int ret;

		if (n > 0) {
			at += (u64)n;
			continue;
		}
		by_hand = true;
		ret = memfile_pread(from, buf, len, at);
		if (ret == 0)
			ret = memfile_pwrite(to, buf, len, at);
		if (ret < 0)
			return ret;
		at += len;
	}
	return 0;
}

int memfile_copy(int to_fd, int from_fd, struct err *e)
{
	auto_free u8 *buf = NULL;
	struct stat st;
	int ret = 0;

	if (fstat(from_fd, &st) < 0)
		return err_errno(e, "cannot read the memory file");
	if (ioctl(to_fd, FICLONE, from_fd) == 0)
		return 0;
	if (ftruncate(to_fd, st.st_size) < 0)
		return err_errno(e, "cannot make a copy of %llu MiB", (unsigned long long)st.st_size / MIB);
	buf = xzalloc(MEMFILE_PIECE);
	for (u64 size = (u64)st.st_size, end, at = mem_file_data(from_fd, 0, size); ret == 0 && at < size;
	     at = mem_file_data(from_fd, end, size)) {
		end = mem_file_hole(from_fd, at, size);
		ret = copy_extent(to_fd, from_fd, at, end, buf);
	}
	return ret < 0 ? err_set(e, ret, "cannot copy the memory file: %s", strerror(-ret)) : 0;
}

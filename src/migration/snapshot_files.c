/* snapshot_files.c: see snapshot_files.h. */
#include "migration/snapshot_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/memfile.h"
#include "migration/package.h"

/* ---- The mark ---- */

#define MARK_MAGIC "HUSKMEM\n"
#define MARK_CHECK 0x6b73756850414e53ull

void snapshot_mark_encode(const struct snapshot_mark *m, u8 *out)
{
	memcpy(out, MARK_MAGIC, 8);
	st_le64(out + 8, m->memory_id);
	st_le64(out + 16, m->base_id);
	st_le64(out + 24, m->memory_id ^ m->base_id ^ MARK_CHECK);
}

bool snapshot_mark_decode(struct snapshot_mark *m, const u8 *bytes)
{
	*m = (struct snapshot_mark){ld_le64(bytes + 8), ld_le64(bytes + 16)};
	if (!memcmp(bytes, MARK_MAGIC, 8) && m->memory_id && ld_le64(bytes + 24) == (m->memory_id ^ m->base_id ^ MARK_CHECK))
		return true;
	*m = (struct snapshot_mark){0};
	return false;
}

int snapshot_mark_read(int fd, struct snapshot_mark *m, struct err *e)
{
	u8 head[SNAPSHOT_MARK_SIZE];
	int r = memfile_head(fd, head, sizeof(head), e);

	*m = (struct snapshot_mark){0};
	if (r == 0)
		snapshot_mark_decode(m, head);
	return r;
}

/* ---- One file on its way ---- */

/* A name in a folder is on the disk only once the folder is. */
static int sync_folder(const char *path, struct err *e)
{
	auto_free char *folder = xstrdup(path);
	char *slash = strrchr(folder, '/');
	auto_fd int fd = -1;

	if (slash)
		slash[slash == folder] = 0;
	fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return err_errno(e, "cannot sync the folder of \"%s\"", path);
	return 0;
}

/* Whether the name still stands for the open file: who had it before may have given it its final name since. */
static bool still_there(int fd, const char *path)
{
	struct stat open_file, named;

	return fstat(fd, &open_file) == 0 && stat(path, &named) == 0 && open_file.st_ino == named.st_ino &&
	       open_file.st_dev == named.st_dev;
}

int snapshot_file_begin(struct snapshot_file *f, const char *path, struct err *e)
{
	int ret;

	*f = (struct snapshot_file){.path = path, .tmp = xasprintf("%s.new", path), .fd = -1};
	f->fd = open(f->tmp, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (f->fd < 0) {
		ret = err_errno(e, "cannot make \"%s\"", f->tmp);
	} else if (flock(f->fd, LOCK_EX | LOCK_NB) < 0 || !still_there(f->fd, f->tmp)) {
		ret = err_set(e, -EBUSY, "\"%s\": another snapshot is being written there", path);
	} else if (ftruncate(f->fd, 0) == 0) {
		return 0;
	} else {
		ret = err_errno(e, "\"%s\"", f->tmp);
	}
	/* Not ours to remove. */
	fd_close(&f->fd);
	free(f->tmp);
	f->tmp = NULL;
	return ret;
}

int snapshot_file_sync(struct snapshot_file *f, struct err *e)
{
	return fsync(f->fd) < 0 ? err_errno(e, "cannot write \"%s\"", f->path) : 0;
}

int snapshot_file_commit(struct snapshot_file *f, const char *suffix, struct err *e)
{
	auto_free char *name = xasprintf("%s%s", f->path, suffix);

	if (rename(f->tmp, name) < 0)
		return err_errno(e, "cannot rename \"%s\" to \"%s\"", f->tmp, name);
	free(f->tmp);
	f->tmp = NULL;
	fd_close(&f->fd);
	return sync_folder(name, e);
}

int snapshot_state_commit(struct snapshot_file *state, struct snapshot_file *memory, struct err *e)
{
	int ret = snapshot_file_commit(state, "", e);

	memory->keep = !state->tmp;
	return ret;
}

void snapshot_file_end(struct snapshot_file *f)
{
	if (f->tmp && !f->keep)
		unlink(f->tmp);
	free(f->tmp);
	fd_close(&f->fd);
	*f = (struct snapshot_file)SNAPSHOT_FILE_NONE;
}

/* ---- After a crash ---- */

void snapshot_state_ids(const char *path, u64 *memory_id, u64 *base_id)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	auto_free u8 *bytes = NULL;
	struct package *p = NULL;
	u64 length;

	*memory_id = *base_id = 0;
	if (fd < 0 || package_read(fd, PACKAGE_SOFT_CAP, &bytes, &length, NULL) < 0 || package_open(&p, bytes, length, NULL) < 0)
		return;
	*memory_id = package_info(p)->memory_id;
	*base_id = package_info(p)->base_id;
	package_close(p);
}

/* The id of the memory file with this suffix; 0: there is none. */
static u64 id_of(const char *path, const char *suffix)
{
	auto_free char *name = xasprintf("%s%s", path, suffix);
	auto_fd int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct snapshot_mark mark;

	return fd >= 0 && snapshot_mark_read(fd, &mark, NULL) == 0 ? mark.memory_id : 0;
}

static int stamp(int fd, const u8 *mark, const char *path, struct err *e)
{
	ssize_t n = pwrite(fd, mark, SNAPSHOT_MARK_SIZE, 0);

	if (n >= 0 && n != SNAPSHOT_MARK_SIZE)
		errno = ENOSPC;
	if (n != SNAPSHOT_MARK_SIZE || fdatasync(fd) < 0)
		return err_errno(e, "cannot write \"%s\"", path);
	return 0;
}

int snapshot_merge_pending(const char *mem_path, struct err *e)
{
	auto_free char *name = xasprintf("%s.merge", mem_path);
	auto_fd int diff = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	auto_fd int base = open(mem_path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct memfile_stats stats;
	u8 mark[SNAPSHOT_MARK_SIZE];
	int ret;

	if (diff < 0 || base < 0)
		return err_errno(e, "cannot open \"%s\" and \"%s\" to merge them", mem_path, name);
	ret = memfile_head(diff, mark, sizeof(mark), e);
	/* The mark comes first: from here on no other state takes the file. */
	if (ret == 0)
		ret = stamp(base, mark, mem_path, e);
	if (ret == 0)
		ret = memfile_merge(base, diff, &stats, e);
	if (ret < 0)
		return ret;
	if (fsync(base) < 0)
		return err_errno(e, "cannot write \"%s\"", mem_path);
	unlink(name);
	return sync_folder(mem_path, e);
}

bool snapshot_is_merging(const char *mem_path, u64 memory_id)
{
	return id_of(mem_path, ".merge") == memory_id;
}

int snapshot_settle(const char *state_path, const char *mem_path, struct err *e)
{
	u64 state_id, counts_from, mem_id;

	snapshot_state_ids(state_path, &state_id, &counts_from);
	if (!state_id)
		return 0;
	mem_id = id_of(mem_path, "");
	if (snapshot_is_merging(mem_path, state_id) && (mem_id == state_id || (mem_id && mem_id == counts_from)))
		return snapshot_merge_pending(mem_path, e);
	if (mem_id != state_id && id_of(mem_path, ".new") == state_id) {
		auto_free char *name = xasprintf("%s.new", mem_path);

		if (rename(name, mem_path) < 0)
			return err_errno(e, "a snapshot was interrupted; cannot rename \"%s\" to \"%s\"", name, mem_path);
		return sync_folder(mem_path, e);
	}
	return 0;
}

void snapshot_forget_merge(const char *mem_path)
{
	auto_free char *name = xasprintf("%s.merge", mem_path);

	unlink(name);
}

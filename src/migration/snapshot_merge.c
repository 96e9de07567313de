/* snapshot_merge.c: a diff and what it builds on become one snapshot; see snapshot.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migration/snapshot.h"
#include "migration/snapshot_files.h"

struct merge {
	const struct snapshot_paths *base, *diff, *out;
	int base_fd, diff_fd; /* memory */
	struct snapshot_mark base_mark, diff_mark;
	u8 *package; /* the diff's state; owned */
	u64 length;
	struct snapshot_file state, memory;
};

static int open_marked(const char *path, int *fd, struct snapshot_mark *mark, struct err *e)
{
	int ret;

	*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (*fd < 0)
		return err_errno(e, "cannot open \"%s\"", path);
	ret = snapshot_mark_read(*fd, mark, e);
	if (ret < 0)
		return err_prefix(e, "\"%s\"", path);
	return mark->memory_id ? 0 : err_set(e, -EINVAL, "\"%s\" is no memory file of a snapshot", path);
}

static int read_state(struct merge *m, struct err *e)
{
	auto_fd int fd = open(m->diff->state, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct package *p = NULL;
	int ret;

	if (fd < 0)
		return err_errno(e, "cannot open \"%s\"", m->diff->state);
	ret = package_read(fd, PACKAGE_SOFT_CAP, &m->package, &m->length, e);
	if (ret == 0)
		ret = package_open(&p, m->package, m->length, e);
	if (ret < 0)
		return err_prefix(e, "\"%s\"", m->diff->state);
	if (package_info(p)->memory_id != m->diff_mark.memory_id)
		ret = err_set(e, -EINVAL, "\"%s\" is the memory of another snapshot than \"%s\"", m->diff->memory, m->diff->state);
	package_close(p);
	return ret;
}

static int check(struct merge *m, struct err *e)
{
	if (!m->diff_mark.base_id)
		return err_set(e, -EINVAL, "\"%s\" is no diff: it has all of the memory", m->diff->memory);
	if (m->diff_mark.base_id != m->base_mark.memory_id)
		return err_set(e, -EINVAL, "\"%s\" does not build on \"%s\": merge the diffs in the order in which they were made",
			       m->diff->memory, m->base->memory);
	return read_state(m, e);
}

static int write_memory(struct merge *m, struct memfile_stats *stats, struct err *e)
{
	const struct snapshot_mark mark = {m->diff_mark.memory_id, m->base_mark.base_id};
	u8 bytes[SNAPSHOT_MARK_SIZE];
	int ret = memfile_copy(m->memory.fd, m->base_fd, e);

	if (ret == 0)
		ret = memfile_merge(m->memory.fd, m->diff_fd, stats, e);
	if (ret < 0)
		return ret;
	snapshot_mark_encode(&mark, bytes);
	if (pwrite(m->memory.fd, bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		return err_errno(e, "cannot write \"%s\"", m->out->memory);
	return 0;
}

static int write_both(struct merge *m, struct memfile_stats *stats, struct err *e)
{
	int ret = snapshot_settle(m->out->state, m->out->memory, e);

	if (ret == 0)
		ret = snapshot_file_begin(&m->state, m->out->state, e);
	if (ret == 0)
		ret = snapshot_file_begin(&m->memory, m->out->memory, e);
	if (ret == 0) {
		snapshot_forget_merge(m->out->memory);
		ret = write_memory(m, stats, e);
	}
	if (ret == 0 && fd_write_all(m->state.fd, m->package, m->length) < 0)
		ret = err_errno(e, "cannot write \"%s\"", m->out->state);
	if (ret == 0)
		ret = snapshot_file_sync(&m->memory, e);
	if (ret == 0)
		ret = snapshot_file_sync(&m->state, e);
	if (ret == 0)
		ret = snapshot_state_commit(&m->state, &m->memory, e);
	return ret == 0 ? snapshot_file_commit(&m->memory, "", e) : ret;
}

int snapshot_merge(const struct snapshot_paths *base, const struct snapshot_paths *diff, const struct snapshot_paths *out,
		   struct memfile_stats *stats, struct err *e)
{
	struct merge m = {.base = base,
			  .diff = diff,
			  .out = out,
			  .base_fd = -1,
			  .diff_fd = -1,
			  .state = SNAPSHOT_FILE_NONE,
			  .memory = SNAPSHOT_FILE_NONE};
	int ret = snapshot_settle(base->state, base->memory, e);

	*stats = (struct memfile_stats){0};
	if (ret == 0)
		ret = snapshot_settle(diff->state, diff->memory, e);
	if (ret == 0)
		ret = open_marked(base->memory, &m.base_fd, &m.base_mark, e);
	if (ret == 0)
		ret = open_marked(diff->memory, &m.diff_fd, &m.diff_mark, e);
	if (ret == 0)
		ret = check(&m, e);
	if (ret == 0)
		ret = write_both(&m, stats, e);
	snapshot_file_end(&m.memory);
	snapshot_file_end(&m.state);
	fd_close(&m.base_fd);
	fd_close(&m.diff_fd);
	free(m.package);
	return ret;
}

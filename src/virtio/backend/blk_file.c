/* blk_file.c: opening, checking and locking a disk image, and the loop's side of its I/O; see blk_file.h. */
#include "virtio/backend/blk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

void blk_list_splice(struct blk_list *dst, struct blk_list *src)
{
	if (!src->first)
		return;
	if (dst->first)
		dst->last->next = src->first;
	else
		dst->first = src->first;
	dst->last = src->last;
	*src = (struct blk_list){0};
}

struct iovec blk_io_rest(const struct blk_io *io)
{
	u64 skip = io->moved;

	for (u32 i = 0; i < io->nr_iov; i++) {
		const struct iovec *v = &io->iov[i];

		if (skip < v->iov_len)
			return (struct iovec){(u8 *)v->iov_base + skip, v->iov_len - skip};
		skip -= v->iov_len;
	}
	return (struct iovec){0};
}

static int open_image(struct blk_file *f, struct err *e)
{
	const char *path = f->p.path;

	/* O_NONBLOCK: a FIFO given by mistake must not hang here. */
	f->fd = open(path, (f->p.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (f->fd < 0 && !f->p.read_only && (errno == EACCES || errno == EPERM || errno == EROFS))
		return err_set(e, -errno, "disk \"%s\": cannot be opened for writing: %s; make it writable, or the drive read-only", path,
			       strerror(errno));
	if (f->fd < 0)
		return err_errno(e, "disk \"%s\"", path);
	/* io_uring would turn O_NONBLOCK into EAGAIN instead of waiting for the disk. */
	if (fcntl(f->fd, F_SETFL, 0) < 0)
		return err_errno(e, "disk \"%s\"", path);
	return 0;
}

static int check_size(const struct blk_file *f, struct err *e)
{
	const char *path = f->p.path;

	if (f->size == 0)
		return err_set(e, -EINVAL, "disk \"%s\" is empty; give it a size (\"truncate -s 1G FILE\")", path);
	if (f->size % BLK_SECTOR)
		return err_set(e, -EINVAL,
			       "disk \"%s\": %" PRIu64 " bytes is not a multiple of 512; round it up (\"truncate -s %%512 FILE\")", path,
			       f->size);
	return 0;
}

/* Kind, size and identity of the image. */
static int inspect_image(struct blk_file *f, struct err *e)
{
	char id[64];
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return err_errno(e, "disk \"%s\"", f->p.path);
	f->is_bdev = S_ISBLK(st.st_mode);
	if (!f->is_bdev && !S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "disk \"%s\" is neither a regular file nor a block device", f->p.path);
	f->size = (u64)st.st_size;
	if (f->is_bdev && ioctl(f->fd, BLKGETSIZE64, &f->size) < 0)
		return err_errno(e, "disk \"%s\": its size", f->p.path);
	snprintf(id, sizeof(id), "%" PRIu64 "%" PRIu64 "%" PRIu64, (u64)st.st_dev, (u64)st.st_rdev, (u64)st.st_ino);
	memcpy(f->id, id, strnlen(id, sizeof(f->id)));
	return check_size(f, e);
}

/* A lock belongs to an open file, so a second one of the same image would be refused: the two share one instead. */
static int share_open_file(struct blk_file *f, struct err *e)
{
	const struct blk_file *old = f->p.replaces;
	struct stat a, b;
	int fd;

	f->p.replaces = NULL;
	if (!old || old->p.read_only != f->p.read_only || fstat(old->fd, &a) < 0 || fstat(f->fd, &b) < 0 || a.st_dev != b.st_dev ||
	    a.st_ino != b.st_ino)
		return 0;
	fd = fcntl(old->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(e, "disk \"%s\"", f->p.path);
	fd_close(&f->fd);
	f->fd = fd;
	return 0;
}

static int lock_image(const struct blk_file *f, struct err *e)
{
	struct flock lock = {.l_type = f->p.read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(f->fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno != EAGAIN && errno != EACCES)
		return 0; /* a file system without locks: they are advisory anyway */
	if (f->p.read_only)
		return err_set(e, -EBUSY, "disk \"%s\" is open for writing in another VM or drive; use a copy of it", f->p.path);
	return err_set(e, -EBUSY, "disk \"%s\" is in use by another VM or drive; use a copy of it, or make it read-only in all of them",
		       f->p.path);
}

/* Asks with a request that changes nothing: a hole behind the end of a file; a misaligned range, which a block device that discards
 * refuses with EINVAL (linux block/ioctl.c looks for support first). */
static bool probe_discard(const struct blk_file *f)
{
	u64 misaligned[2] = {1, BLK_SECTOR};

	if (f->p.read_only)
		return false;
	if (f->is_bdev)
		return ioctl(f->fd, BLKDISCARD, misaligned) < 0 && errno == EINVAL;
	return fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)f->size, 4096) == 0;
}

/* The engines' signal to the loop: finished requests are collected from both and handed on as one list. */
static void collect(struct blk_file *f)
{
	struct blk_list finished = {0};
	struct blk_io **at = &finished.first;

	blk_sync_reap(f, &finished);
	if (f->ring)
		blk_uring_reap(f, &finished);
	while (*at) {
		f->in_flight--;
		if (*at == f->sync)
			*at = (*at)->next;
		else
			at = &(*at)->next;
	}
	if (finished.first)
		f->p.done(f->p.opaque, finished.first);
}

static void on_event(struct loop_fd *w, u32 events)
{
	struct blk_file *f = container_of(w, struct blk_file, event);
	u64 count;

	(void)events;
	/* Emptied before the lists are taken: what ends later raises it again. */
	if (read(w->fd, &count, sizeof(count)) > 0)
		collect(f);
}

void blk_file_raise(struct blk_file *f)
{
	u64 one = 1;

	/* It fails only at 2^64 - 1 unread signals. */
	if (write(f->event.fd, &one, sizeof(one)) < 0)
		ASSERT(errno == EAGAIN);
}

static int start_engine(struct blk_file *f, struct err *e)
{
	int ret;

	f->event = (struct loop_fd){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_event};
	if (f->event.fd < 0)
		return err_errno(e, "disk \"%s\": eventfd", f->p.path);
	ret = loop_watch(f->p.loop, &f->event, EPOLLIN, e);
	if (ret == 0)
		ret = blk_sync_start(f, e);
	if (ret < 0 || !f->p.async)
		return ret;
	ret = blk_uring_start(f);
	if (ret < 0)
		log_warn(f->p.log, "disk \"%s\": io_uring is not available (%s): using the Sync engine", f->p.path, strerror(-ret));
	return 0;
}

static int open_and_lock(struct blk_file *f, const struct blk_file_params *p, struct err *e)
{
	int ret;

	*f = (struct blk_file){.p = *p, .fd = -1, .event.fd = -1};
	f->p.path = xstrdup(p->path);
	ret = open_image(f, e);
	if (ret == 0)
		ret = share_open_file(f, e);
	if (ret == 0)
		ret = inspect_image(f, e);
	if (ret == 0 && !p->unlocked)
		ret = lock_image(f, e);
	return ret;
}

int blk_file_probe(const struct blk_file_params *p, struct err *e)
{
	struct blk_file f;
	int ret = open_and_lock(&f, p, e);

	blk_file_close(&f);
	return ret;
}

int blk_file_open(struct blk_file *f, const struct blk_file_params *p, struct err *e)
{
	int ret = open_and_lock(f, p, e);

	if (ret == 0) {
		f->can_discard = probe_discard(f);
		ret = start_engine(f, e);
	}
	if (ret < 0)
		blk_file_close(f);
	return ret;
}

void blk_file_close(struct blk_file *f)
{
	if (!f->p.path)
		return;
	blk_file_drain(f);
	blk_sync_stop(f);
	blk_uring_stop(f);
	loop_unwatch(&f->event);
	fd_close(&f->event.fd);
	fd_close(&f->fd); /* ends the lock, too */
	free((char *)f->p.path);
	*f = (struct blk_file){.fd = -1, .event.fd = -1};
}

void blk_file_submit(struct blk_file *f, struct blk_io *io)
{
	io->moved = 0;
	f->in_flight++;
	if (!f->ring || !blk_uring_queue(f, io))
		blk_list_add(&f->batch, io);
}

void blk_file_kick(struct blk_file *f)
{
	if (f->ring)
		blk_uring_kick(f);
	if (f->batch.first)
		blk_sync_kick(f, &f->batch);
}

void blk_file_drain(struct blk_file *f)
{
	struct pollfd p = {.fd = f->event.fd, .events = POLLIN};

	blk_file_kick(f);
	while (f->in_flight) {
		if (poll(&p, 1, -1) > 0)
			on_event(&f->event, EPOLLIN);
	}
}

/* By way of the engine, which may do so under every confinement. */
int blk_file_sync(struct blk_file *f)
{
	struct blk_io io = {.op = BLK_OP_FLUSH};

	blk_file_drain(f); /* io_uring starts a flush beside the writes before it */
	f->sync = &io;
	blk_file_submit(f, &io);
	blk_file_drain(f);
	f->sync = NULL;
	return io.result;
}

int blk_file_claim(struct blk_file *f, bool mine, bool same_host, struct err *e)
{
	struct flock unlock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
	int ret = mine ? lock_image(f, e) : f->p.read_only || same_host ? 0 : blk_file_sync(f);

	if (ret < 0)
		return mine ? ret : err_set(e, ret, "disk \"%s\" cannot be written back: %s", f->p.path, strerror(-ret));
	if (mine && !same_host)
		posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED); /* what this host has read before the other one wrote */
	if (!mine)
		fcntl(f->fd, F_OFD_SETLK, &unlock);
	return 0;
}

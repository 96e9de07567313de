/* blk_sync.c: the Sync engine of a disk: one thread that does a request at a time, in order; see blk_file.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "virtio/backend/blk_file.h"

/* The worker's whole depth is a dozen frames; the default of 8 MiB would only cost address space. */
#define WORKER_STACK (256 * KIB)

static ssize_t transfer_some(const struct blk_file *f, const struct blk_io *io)
{
	off_t at = (off_t)(io->offset + io->moved);
	struct iovec rest;

	if (io->moved == 0) {
		return io->op == BLK_OP_READ ? preadv(f->fd, io->iov, (int)io->nr_iov, at) : pwritev(f->fd, io->iov, (int)io->nr_iov, at);
	}
	rest = blk_io_rest(io);
	return io->op == BLK_OP_READ ? pread(f->fd, rest.iov_base, rest.iov_len, at) : pwrite(f->fd, rest.iov_base, rest.iov_len, at);
}

static int transfer(const struct blk_file *f, struct blk_io *io)
{
	while (io->moved < io->len) {
		ssize_t n = transfer_some(f, io);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO; /* somebody cut the file while we have it open */
		io->moved += (u64)n;
	}
	return 0;
}

static int discard(const struct blk_file *f, const struct blk_io *io)
{
	u64 range[2] = {io->offset, io->len};
	int ret;

	if (f->is_bdev)
		ret = ioctl(f->fd, BLKDISCARD, range);
	else
		ret = fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)io->offset, (off_t)io->len);
	return ret < 0 ? -errno : 0;
}

static int write_zeroes(const struct blk_file *f, const struct blk_io *io)
{
	static const u8 zeroes[16 * KIB];

	for (u64 done = 0; done < io->len;) {
		ssize_t n = pwrite(f->fd, zeroes, MIN(io->len - done, sizeof(zeroes)), (off_t)(io->offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (u64)n;
	}
	return 0;
}

/* The cheapest way that this file system or device knows; tmpfs has no ZERO_RANGE, devices without unmap have no PUNCH_HOLE, and a device
 * with larger blocks than 512 bytes refuses a range that is not whole blocks. */
static int zero(const struct blk_file *f, const struct blk_io *io)
{
	off_t at = (off_t)io->offset, len = (off_t)io->len;

	if (io->unmap && fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len) == 0)
		return 0;
	if (fallocate(f->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, at, len) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EINVAL)
		return -errno;
	return write_zeroes(f, io);
}

static int run_one(const struct blk_file *f, struct blk_io *io)
{
	switch (io->op) {
	case BLK_OP_READ:
	case BLK_OP_WRITE:
		return transfer(f, io);
	case BLK_OP_FLUSH:
		return fdatasync(f->fd) < 0 ? -errno : 0;
	case BLK_OP_DISCARD:
		return discard(f, io);
	case BLK_OP_ZERO:
		return zero(f, io);
	}
	return -EINVAL;
}

static struct blk_io *take_next(struct blk_worker *w)
{
	struct blk_io *io = w->todo.first;

	if (io)
		w->todo.first = io->next;
	return io;
}

/* One request at a time, so that the loop and the guest go on with the first while the second runs; order is what makes a flush cover
 * the writes before it. */
static void *worker_main(void *opaque)
{
	struct blk_file *f = opaque;
	struct blk_worker *w = &f->worker;

	if (w->confine)
		sandbox_enter(f->p.sandbox, SANDBOX_DISK);
	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct blk_io *io = take_next(w);
		bool first;

		if (!io && w->stop)
			break;
		if (!io) {
			pthread_cond_wait(&w->cond, &w->lock);
			continue;
		}
		pthread_mutex_unlock(&w->lock);
		io->result = run_one(f, io);
		pthread_mutex_lock(&w->lock);
		first = !w->finished.first;
		blk_list_add(&w->finished, io);
		if (first)
			blk_file_raise(f);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int blk_sync_start(struct blk_file *f, struct err *e)
{
	struct blk_worker *w = &f->worker;
	sigset_t all, old;
	pthread_attr_t attr;
	int ret = 0;

	w->confine = sandbox_is_open(f->p.sandbox);
	if (w->confine)
		ret = sandbox_make_filter(f->p.sandbox, SANDBOX_DISK, e);
	if (ret < 0)
		return ret;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, WORKER_STACK);
	/* Signals are for the threads that wait for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&w->thread, &attr, worker_main, f);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (ret) {
		errno = ret;
		return err_errno(e, "disk \"%s\": its worker thread", f->p.path);
	}
	w->started = true;
	pthread_setname_np(w->thread, "husk-disk");
	return 0;
}

void blk_sync_stop(struct blk_file *f)
{
	struct blk_worker *w = &f->worker;

	if (!w->started)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	pthread_cond_destroy(&w->cond);
	pthread_mutex_destroy(&w->lock);
	w->started = false;
}

void blk_sync_kick(struct blk_file *f, struct blk_list *batch)
{
	struct blk_worker *w = &f->worker;

	pthread_mutex_lock(&w->lock);
	blk_list_splice(&w->todo, batch);
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

void blk_sync_reap(struct blk_file *f, struct blk_list *out)
{
	struct blk_worker *w = &f->worker;

	pthread_mutex_lock(&w->lock);
	blk_list_splice(out, &w->finished);
	pthread_mutex_unlock(&w->lock);
}

/* blk_uring.c: the Async engine of a disk: reads, writes and flushes through io_uring; see blk_file.h. */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "virtio/backend/blk_file.h"

/* Like Firecracker. Deeper batches take several system calls; more completions than fit wait in the kernel (IORING_FEAT_NODROP). */
#define RING_ENTRIES 128

/* What is asked of the kernel through a ring no seccomp filter sees: the ring takes nothing but the five operations of a disk. */
static int restrict_ring(struct io_uring *ring)
{
	static const u8 allowed[] = {IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITE, IORING_OP_WRITEV, IORING_OP_FSYNC};
	struct io_uring_restriction rules[ARRAY_SIZE(allowed)] = {0};

	for (u32 i = 0; i < ARRAY_SIZE(allowed); i++) {
		rules[i].opcode = IORING_RESTRICTION_SQE_OP;
		rules[i].sqe_op = allowed[i];
	}
	/* Debian 12's liburing declares functions for these, but has none. */
	if (syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS, rules, ARRAY_SIZE(rules)) < 0 ||
	    syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
		return -errno;
	return 0;
}

int blk_uring_start(struct blk_file *f)
{
	struct io_uring *ring = xzalloc(sizeof(*ring));
	int ret = io_uring_queue_init(RING_ENTRIES, ring, IORING_SETUP_R_DISABLED);

	if (ret < 0) {
		free(ring);
		return ret;
	}
	ret = ring->features & IORING_FEAT_NODROP ? io_uring_register_eventfd(ring, f->event.fd) : -ENOSYS;
	if (ret == 0)
		ret = restrict_ring(ring);
	f->ring = ring;
	if (ret < 0)
		blk_uring_stop(f);
	return ret;
}

void blk_uring_stop(struct blk_file *f)
{
	if (!f->ring)
		return;
	io_uring_queue_exit(f->ring);
	free(f->ring);
	f->ring = NULL;
}

/* A submission slot; a full ring is handed to the kernel first. NULL when the kernel takes nothing now. */
static struct io_uring_sqe *get_slot(struct blk_file *f)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(f->ring);

	if (!sqe && io_uring_submit(f->ring) > 0)
		sqe = io_uring_get_sqe(f->ring);
	return sqe;
}

static void fill_transfer(const struct blk_file *f, const struct blk_io *io, struct io_uring_sqe *sqe)
{
	u64 at = io->offset + io->moved;
	struct iovec rest;

	if (io->moved == 0) {
		if (io->op == BLK_OP_READ)
			io_uring_prep_readv(sqe, f->fd, io->iov, io->nr_iov, at);
		else
			io_uring_prep_writev(sqe, f->fd, io->iov, io->nr_iov, at);
		return;
	}
	rest = blk_io_rest(io);
	if (io->op == BLK_OP_READ)
		io_uring_prep_read(sqe, f->fd, rest.iov_base, (unsigned)MIN(rest.iov_len, GIB), at);
	else
		io_uring_prep_write(sqe, f->fd, rest.iov_base, (unsigned)MIN(rest.iov_len, GIB), at);
}

bool blk_uring_queue(struct blk_file *f, struct blk_io *io)
{
	struct io_uring_sqe *sqe;

	if (io->op == BLK_OP_DISCARD || io->op == BLK_OP_ZERO)
		return false;
	sqe = get_slot(f);
	if (!sqe)
		return false;
	if (io->op == BLK_OP_FLUSH)
		io_uring_prep_fsync(sqe, f->fd, IORING_FSYNC_DATASYNC);
	else
		fill_transfer(f, io, sqe);
	io_uring_sqe_set_data(sqe, io);
	return true;
}

void blk_uring_kick(struct blk_file *f)
{
	if (!io_uring_sq_ready(f->ring))
		return;
	/* The kernel may be short of memory for a moment: what it did not take stays in the ring, and the event brings us back. */
	io_uring_submit(f->ring);
	if (io_uring_sq_ready(f->ring))
		blk_file_raise(f);
}

/* Takes the result of one completion into io. False: it has to go on, and the rest is queued. */
static bool advance(struct blk_file *f, struct blk_io *io, int res)
{
	io->result = 0;
	if (res >= 0 && io->op == BLK_OP_FLUSH)
		return true;
	if (res > 0)
		io->moved += (u64)res;
	else if (res == 0 && io->moved < io->len)
		io->result = -EIO; /* somebody cut the file while we have it open */
	else if (res != -EINTR && res != -EAGAIN)
		io->result = res;
	if (io->result < 0 || (io->op != BLK_OP_FLUSH && io->moved == io->len))
		return true;
	if (!blk_uring_queue(f, io))
		blk_list_add(&f->batch, io);
	return false;
}

void blk_uring_reap(struct blk_file *f, struct blk_list *out)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(f->ring, &cqe) == 0) {
		struct blk_io *io = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(f->ring, cqe);
		if (advance(f, io, res))
			blk_list_add(out, io);
	}
	blk_file_kick(f);
}

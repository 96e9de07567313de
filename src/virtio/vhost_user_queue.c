/* vhost_user_queue.c: the shadow rings, split ones (virtio 1.2 §2.7) that husk drives as a driver would; see vhost_user.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "virtio/vhost_user.h"

#define DESC_F_NEXT	 1
#define DESC_F_WRITE	 2
#define DESC_F_INDIRECT	 4
#define USED_F_NO_NOTIFY 1
#define DESC_SIZE	 16u
#define RING_IDX	 2
#define RING_ENTRIES	 4

/* ---- making and freeing ---- */

static int init_queue(struct vhost_user *u, u16 i, struct err *e)
{
	struct vu_queue *q = &u->queues[i];

	q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->kick_fd < 0 || q->call_fd < 0)
		return err_errno(e, "cannot make an eventfd for queue %u", i);
	q->call.fd = q->call_fd;
	q->ring = u->shadow + (u64)i * VU_RING_BYTES;
	q->ring_addr = VU_SHADOW_GPA + (u64)i * VU_RING_BYTES;
	for (u16 d = 0; d < VU_RING_SIZE; d++)
		q->next[d] = (u16)(d + 1);
	q->nr_free = VU_RING_SIZE;
	return 0;
}

int vu_queues_init(struct vhost_user *u, u16 nr, struct err *e)
{
	int ret = 0;

	ASSERT(nr && nr <= VU_MAX_QUEUES);
	u->queues = xzalloc(nr * sizeof(*u->queues));
	for (u16 i = 0; i < nr; i++)
		u->queues[i] = (struct vu_queue){.u = u, .index = i, .kick_fd = -1, .call_fd = -1};
	u->shadow_len = (u64)nr * VU_RING_BYTES;
	u->shadow_fd = memfd_create("husk-vhost-user-rings", MFD_CLOEXEC);
	if (u->shadow_fd < 0 || ftruncate(u->shadow_fd, (off_t)u->shadow_len) < 0)
		return err_errno(e, "cannot make shared memory for vhost-user rings");
	u->shadow = mmap(NULL, u->shadow_len, PROT_READ | PROT_WRITE, MAP_SHARED, u->shadow_fd, 0);
	if (u->shadow == MAP_FAILED) {
		u->shadow = NULL;
		return err_errno(e, "cannot map shared memory for vhost-user rings");
	}
	for (u16 i = 0; ret == 0 && i < nr; i++)
		ret = init_queue(u, i, e);
	return ret;
}

void vu_queues_fini(struct vhost_user *u)
{
	for (u16 i = 0; u->queues && i < u->vdev.nr_queues; i++) {
		struct vu_queue *q = &u->queues[i];

		loop_unwatch(&q->call);
		fd_close(&q->kick_fd);
		fd_close(&q->call_fd);
		for (u32 h = 0; h < VU_RING_SIZE; h++)
			free(q->requests[h]);
	}
	free(u->queues);
	u->queues = NULL;
	if (u->shadow)
		munmap(u->shadow, u->shadow_len);
	u->shadow = NULL;
	if (u->shadow_len)
		fd_close(&u->shadow_fd);
}

u32 vu_in_flight(const struct vhost_user *u)
{
	u32 n = 0;

	for (u16 i = 0; u->queues && i < u->vdev.nr_queues; i++)
		n += u->queues[i].in_flight;
	return n;
}

/* ---- to the peer ---- */

static void store16(u8 *at, u16 v)
{
	__atomic_store_n((u16 *)(void *)at, v, __ATOMIC_RELEASE);
}

static u16 load16(const u8 *at)
{
	return __atomic_load_n((const u16 *)(const void *)at, __ATOMIC_ACQUIRE);
}

static u32 load32(const u8 *at)
{
	return __atomic_load_n((const u32 *)(const void *)at, __ATOMIC_RELAXED);
}

static void write_desc(u8 *at, u64 addr, u32 len, u16 flags, u16 next)
{
	st_le64(at, addr);
	st_le32(at + 8, len);
	st_le16(at + 12, flags);
	st_le16(at + 14, next);
}

/* Where the peer sees a piece of guest memory. False: it does not. */
static u64 shared_addr(const struct vhost_user *u, const struct iovec *iov, u64 *addr)
{
	const struct mem *m = &u->vdev.dev.vm->mem;

	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];
		u64 offset = (u64)((uintptr_t)iov->iov_base - (uintptr_t)r->hva);

		if (offset < r->size && !r->file) {
			*addr = r->gpa + offset;
			return true;
		}
	}
	return false;
}

static bool uses_table(const struct vu_queue *q, u32 nr)
{
	return nr > 1 && q->u->ring_features >> VIRTIO_F_INDIRECT_DESC & 1;
}

/* Writes the descriptors of the request at head: into its indirect table, or along next[] from head on. */
static void write_request(struct vu_queue *q, u16 head)
{
	const struct virtq_chain *c = q->requests[head];
	u32 nr = (u32)c->nr_out + c->nr_in;
	bool table = uses_table(q, nr);
	u64 table_at = VU_RING_TABLES + (u64)head * VIRTQ_MAX_SIZE * DESC_SIZE;
	u16 d = head;

	for (u32 i = 0; i < nr; i++) {
		u16 flags = (i >= c->nr_out ? DESC_F_WRITE : 0) | (i + 1 < nr ? DESC_F_NEXT : 0);
		u16 after = table ? (u16)(i + 1) : i + 1 < nr ? q->next[d] : 0;
		u8 *at = table ? q->ring + table_at + i * DESC_SIZE : q->ring + d * DESC_SIZE;
		u64 addr = 0;

		shared_addr(q->u, &c->iov[i], &addr);
		write_desc(at, addr, (u32)c->iov[i].iov_len, flags, after);
		d = after;
	}
	if (table)
		write_desc(q->ring + head * DESC_SIZE, q->ring_addr + table_at, nr * DESC_SIZE, DESC_F_INDIRECT, 0);
	st_le16(q->ring + VU_RING_AVAIL + RING_ENTRIES + 2 * (q->avail_idx % VU_RING_SIZE), head);
	q->avail_idx++;
}

static void publish(struct vu_queue *q)
{
	store16(q->ring + VU_RING_AVAIL + RING_IDX, q->avail_idx);
}

static void kick(const struct vu_queue *q)
{
	__sync_synchronize(); /* the index, then the peer's wish (virtio 1.2 §2.7.13.4.1) */
	if (load16(q->ring + VU_RING_USED) & USED_F_NO_NOTIFY)
		return;
	/* Fails only when the counter is full, and then the peer has a kick to look at. */
	if (eventfd_write(q->kick_fd, 1) < 0)
		ASSERT(errno == EAGAIN);
}

/* Takes nr descriptors that follow one another in next[]. */
static u16 take_descs(struct vu_queue *q, u16 nr)
{
	u16 head = q->free_head;

	for (u16 i = 0; i < nr; i++)
		q->free_head = q->next[q->free_head];
	q->nr_free = (u16)(q->nr_free - nr);
	q->nr_descs[head] = nr;
	q->in_flight++;
	return head;
}

static void give_descs(struct vu_queue *q, u16 head)
{
	u16 last = head;

	for (u16 i = 1; i < q->nr_descs[head]; i++)
		last = q->next[last];
	q->next[last] = q->free_head;
	q->free_head = head;
	q->nr_free = (u16)(q->nr_free + q->nr_descs[head]);
	q->nr_descs[head] = 0;
	q->in_flight--;
}

static bool shared(const struct vu_queue *q, const struct virtq_chain *c)
{
	u64 addr;

	for (u32 i = 0; i < (u32)c->nr_out + c->nr_in; i++) {
		if (!shared_addr(q->u, &c->iov[i], &addr))
			return false;
	}
	return true;
}

static void fail(struct vu_queue *q, struct virtq_chain *c)
{
	/* After a reset the memory is the driver's again. */
	u32 written = q->u->vdev.live ? q->u->ops->fail(q->u, c) : 0;

	q->u->counters.failed_requests++;
	virtq_push(&q->u->vdev.queues[q->index], c, written);
}

/* The request that is in requests[free_head]. False: it does not fit now. */
static bool forward_one(struct vu_queue *q)
{
	struct vhost_user *u = q->u;
	struct virtq_chain *c = q->requests[q->free_head];
	u32 nr = (u32)c->nr_out + c->nr_in;
	u16 need = uses_table(q, nr) ? 1 : (u16)nr;

	if (need > q->nr_free) {
		virtq_unpop(&u->vdev.queues[q->index], c);
		return false;
	}
	if (!nr || u->failing || !shared(q, c) || (u->ops->admit && !u->ops->admit(u, q->index, c))) {
		fail(q, c);
		return true;
	}
	u->counters.requests++;
	write_request(q, take_descs(q, need));
	return true;
}

/* At most a ring full per call: the loop has other work. */
void vu_queue_forward(struct vu_queue *q)
{
	struct virtio_dev *vdev = &q->u->vdev;
	struct virtq *vq = &vdev->queues[q->index];
	u32 budget = VU_RING_SIZE;
	u16 before = q->avail_idx;

	q->full = false;
	do {
		virtq_want_kicks(vq, false);
		while (budget && !q->full && q->nr_free) {
			if (!q->requests[q->free_head])
				q->requests[q->free_head] = xzalloc(sizeof(struct virtq_chain));
			if (virtq_pop(vq, q->requests[q->free_head]) <= 0)
				break;
			budget--;
			q->full = !forward_one(q);
		}
		q->full |= !q->nr_free;
	} while (!q->full && virtq_want_kicks(vq, true) && budget);
	if (q->avail_idx != before) {
		publish(q);
		kick(q);
	}
	virtq_notify(vq);
	if (!budget)
		virtio_kick_all(vdev);
}

void vu_queue_restart(struct vu_queue *q)
{
	memset(q->ring, 0, VU_RING_TABLES);
	q->avail_idx = q->last_used = 0;
	for (u16 h = 0; h < VU_RING_SIZE; h++) {
		if (q->nr_descs[h])
			write_request(q, h);
	}
	publish(q);
}

/* ---- from the peer ---- */

/* Peers differ in the length that they report; so all that they may have written counts as written. */
static void finish(struct vu_queue *q, u16 head, u32 len)
{
	struct virtq_chain *c = q->requests[head];
	struct mem *m = &q->u->vdev.dev.vm->mem;

	for (u32 i = 0; i < c->nr_in; i++)
		mem_dirty_hva(m, chain_in(c)[i].iov_base, chain_in(c)[i].iov_len);
	give_descs(q, head);
	virtq_push(&q->u->vdev.queues[q->index], c, MIN(len, c->in_len));
}

int vu_queue_collect(struct vu_queue *q, struct err *e)
{
	struct virtq *vq = &q->u->vdev.queues[q->index];
	int ret = 0;

	for (u32 n = 0; ret == 0 && n < VU_RING_SIZE; n++) {
		const u8 *entry = q->ring + VU_RING_USED + RING_ENTRIES + 8 * (q->last_used % VU_RING_SIZE);
		u16 pending = (u16)(load16(q->ring + VU_RING_USED + RING_IDX) - q->last_used);
		u32 id, len;

		if (!pending)
			break;
		id = load32(entry);
		len = load32(entry + 4);
		if (pending > q->in_flight)
			ret = err_set(e, -EPROTO, "it has used %u requests of queue %u; it got %u", pending, q->index, q->in_flight);
		else if (id >= VU_RING_SIZE || !q->nr_descs[id])
			ret = err_set(e, -EPROTO, "it has used request %u of queue %u, which it never got", id, q->index);
		else
			finish(q, (u16)id, len);
		q->last_used++;
	}
	virtq_notify(vq);
	return ret;
}

void vu_queue_fail(struct vu_queue *q)
{
	for (u16 h = 0; h < VU_RING_SIZE; h++) {
		if (!q->nr_descs[h])
			continue;
		give_descs(q, h);
		fail(q, q->requests[h]);
	}
	virtq_notify(&q->u->vdev.queues[q->index]);
}

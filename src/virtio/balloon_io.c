/*
 * balloon_io.c: the queues of the memory balloon (virtio 1.2 §5.5.6).
 *
 * The pages of a request are sorted and merged before they are discarded: a guest hands them over one by one and from the top. Long
 * requests are worked off in turns, so that the loop gets to other work.
 */
#include <stdlib.h>

#include "virtio/balloon_dev.h"
#include "vmm/clock.h"

#define HUGE_PAGE      (2 * MIB)
#define WORDS_PER_HUGE (HUGE_PAGE / MEM_PAGE_SIZE / 64)
#define STEP_BYTES     (64 * MIB)
#define TURN_NS	       (5 * NSEC_PER_MSEC)
#define MAX_PFN_BYTES  (1 * MIB) /* of one request: 1 GiB of pages; Linux sends 256 pages */
#define MAX_STATS      64u	 /* of one buffer */
#define STATS_BATCH    32u	 /* buffers before the loop gets its turn */

/* ---- pages ---- */

static bool discard(struct virtio_balloon *b, u64 gpa, u64 len)
{
	struct device *dev = &b->vdev.dev;
	struct err e;

	if (mem_discard(&dev->vm->mem, gpa, len, &e) == 0)
		return true;
	log_guest(dev->vm->log, &dev->guest_log, "%s: %llu KiB at 0x%llx stay with the guest: %s", dev->id, (unsigned long long)(len / KIB),
		  (unsigned long long)gpa, e.msg);
	return false;
}

/* Where the bits of [gpa, gpa + len) start in b->held. */
static bool held_index(const struct virtio_balloon *b, u64 gpa, u64 len, u64 *page)
{
	const struct mem_region *r = mem_find(&b->vdev.dev.vm->mem, gpa, len);

	if (!r || r->file)
		return false;
	*page = r->first_page + (gpa - r->gpa) / MEM_PAGE_SIZE;
	return true;
}

static bool is_whole(const u64 *words)
{
	for (u32 i = 0; i < WORDS_PER_HUGE; i++) {
		if (words[i] != UINT64_MAX)
			return false;
	}
	return true;
}

/* With 2 MiB pages: the guest hands over small ones, and one of ours goes back when the balloon has all of it. That relies on a driver that
 * says when it takes pages back before it uses them (MUST_TELL_HOST). */
static bool hold(struct virtio_balloon *b, u64 gpa, u64 len)
{
	u64 page, last;
	bool ok = true;

	if (!held_index(b, gpa, len, &page))
		return false;
	last = page + len / MEM_PAGE_SIZE - 1;
	for (u64 i = page; i <= last; i++)
		b->held[i / 64] |= BIT(i % 64);
	for (u64 huge = ALIGN_DOWN(page, 64 * WORDS_PER_HUGE); huge <= last; huge += 64 * WORDS_PER_HUGE) {
		if (is_whole(b->held + huge / 64))
			ok &= discard(b, gpa - page * MEM_PAGE_SIZE + huge * MEM_PAGE_SIZE, HUGE_PAGE);
	}
	return ok;
}

static void inflate(struct virtio_balloon *b, u64 gpa, u64 len)
{
	bool ok = true;

	if (!b->held)
		ok = discard(b, gpa, len);
	else if (virtio_has(&b->vdev, VIRTIO_BALLOON_F_MUST_TELL_HOST))
		ok = hold(b, gpa, len);
	if (!ok)
		balloon_count(&b->counters.event_fails, 1);
}

static void deflate(struct virtio_balloon *b, u64 gpa, u64 len)
{
	u64 page;

	if (!b->held || !held_index(b, gpa, len, &page))
		return;
	for (u64 i = page; i < page + len / MEM_PAGE_SIZE; i++)
		b->held[i / 64] &= ~BIT(i % 64);
}

/* ---- requests, in steps ---- */

static int compare_pfns(const void *a, const void *b)
{
	u32 x = *(const u32 *)a, y = *(const u32 *)b;

	return (x > y) - (x < y);
}

/* True when all of the request is done. */
static bool step_pfns(struct virtio_balloon *b, enum balloon_role role)
{
	struct balloon_job *job = &b->job;
	u32 len = (u32)MIN(job->chain.out_len, MAX_PFN_BYTES), n;

	n = iov_read(chain_out(&job->chain), job->chain.nr_out, job->pos, b->pfns, (u32)MIN(sizeof(b->pfns), len - job->pos));
	job->pos += n;
	n /= sizeof(u32);
	qsort(b->pfns, n, sizeof(u32), compare_pfns);
	for (u32 i = 0, next; i < n; i = next) {
		u64 end = (u64)b->pfns[i] + 1;

		for (next = i + 1; next < n && b->pfns[next] <= end; next++)
			end = (u64)b->pfns[next] + 1;
		(role == INFLATE ? inflate : deflate)(b, (u64)b->pfns[i] * MEM_PAGE_SIZE, (end - b->pfns[i]) * MEM_PAGE_SIZE);
	}
	return len - job->pos < sizeof(u32);
}

static void count_range(struct virtio_balloon *b, enum balloon_role role, u64 len, bool ok)
{
	struct balloon_counters *c = &b->counters;
	bool hint = role == HINTING;

	if (ok)
		balloon_count(hint ? &c->free_page_hint_freed : &c->free_page_report_freed, len);
	else
		balloon_count(hint ? &c->free_page_hint_fails : &c->free_page_report_fails, 1);
}

/* Whole pages of the device-writable elements are free. True when all of the request is done. */
static bool step_ranges(struct virtio_balloon *b, enum balloon_role role)
{
	struct balloon_job *job = &b->job;
	const struct iovec *iov = chain_in(&job->chain) + job->pos;
	u64 gpa, end, next;

	if (job->pos == job->chain.nr_in)
		return true;
	ASSERT(mem_gpa(&b->vdev.dev.vm->mem, iov->iov_base, iov->iov_len, &gpa)); /* virtq found it there */
	if (!job->at) {
		balloon_count(role == HINTING ? &b->counters.free_page_hint_count : &b->counters.free_page_report_count, 1);
		job->at = ALIGN_UP(gpa, MEM_PAGE_SIZE);
	}
	end = ALIGN_DOWN(gpa + iov->iov_len, MEM_PAGE_SIZE);
	next = MIN(end, ALIGN_DOWN(job->at + STEP_BYTES, HUGE_PAGE));
	if (job->at < next)
		count_range(b, role, next - job->at, discard(b, job->at, next - job->at));
	job->at = next;
	if (next == end) {
		job->pos++;
		job->at = 0;
	}
	return job->pos == job->chain.nr_in;
}

/* ---- free page hinting (§5.5.6.6) ---- */

void balloon_set_host_cmd(struct virtio_balloon *b, u32 cmd)
{
	st_le32(&b->space.free_page_hint_cmd_id, cmd);
	virtio_config_changed(&b->vdev);
}

/* The guest starts a run with the number that the host gave it, and ends it with STOP. */
static void take_guest_cmd(struct virtio_balloon *b)
{
	u8 cmd[4];

	if (iov_read(chain_out(&b->job.chain), b->job.chain.nr_out, 0, cmd, sizeof(cmd)) != sizeof(cmd))
		return;
	b->guest_cmd = ld_le32(cmd);
	b->guest_cmd_known = true;
	if (b->guest_cmd <= VIRTIO_BALLOON_CMD_ID_DONE && balloon_host_cmd(b) > VIRTIO_BALLOON_CMD_ID_DONE && b->acknowledge_on_stop)
		balloon_set_host_cmd(b, VIRTIO_BALLOON_CMD_ID_DONE);
}

/* Pages of an earlier run, or of one that was ended meanwhile, may be the guest's again. */
static bool hints_count(const struct virtio_balloon *b)
{
	return balloon_host_cmd(b) > VIRTIO_BALLOON_CMD_ID_DONE && b->guest_cmd_known && b->guest_cmd == balloon_host_cmd(b);
}

/* ---- statistics (§5.5.6.3) ---- */

void balloon_release_stats(struct virtio_balloon *b)
{
	struct virtq *q = &b->vdev.queues[STATS]; /* has no optional one before it */

	if (!b->stats_held)
		return;
	b->stats_held = false;
	virtq_push(q, &b->stats_chain, 0);
	virtq_notify(q);
}

static void read_stats(struct virtio_balloon *b)
{
	struct virtio_balloon_stat s;
	struct virtq_chain *c = &b->stats_chain;

	balloon_count(&b->counters.stats_updates_count, 1);
	for (u32 i = 0; i < MAX_STATS; i++) {
		u16 tag;

		if (iov_read(chain_out(c), c->nr_out, i * (u32)sizeof(s), &s, sizeof(s)) != sizeof(s))
			break;
		tag = ld_le16(&s.tag);
		if (tag >= BALLOON_STATS) {
			balloon_count(&b->counters.stats_update_fails, 1);
			continue;
		}
		b->stats[tag] = ld_le64(&s.val);
		b->stats_known |= 1u << tag;
	}
}

/* A driver has one buffer; of more than one the last is kept. */
static void take_stats(struct virtio_balloon *b, u16 q)
{
	for (u32 n = 0; n < STATS_BATCH; n++) {
		struct virtq_chain *c = &b->job.chain; /* borrowed: no job is on its way, see balloon_kick */

		if (virtq_pop(&b->vdev.queues[q], c) <= 0)
			return;
		balloon_release_stats(b);
		b->stats_chain = *c;
		b->stats_held = true;
		read_stats(b);
	}
	virtio_kick_all(&b->vdev);
}

/* ---- queues ---- */

static bool start_job(struct virtio_balloon *b, u16 q)
{
	struct balloon_job *job = &b->job;

	if (virtq_pop(&b->vdev.queues[q], &job->chain) <= 0)
		return false;
	job->busy = true;
	job->queue = q;
	job->pos = 0;
	job->at = 0;
	if (b->roles[q] == INFLATE || b->roles[q] == DEFLATE)
		balloon_count(b->roles[q] == INFLATE ? &b->counters.inflate_count : &b->counters.deflate_count, 1);
	else if (b->roles[q] == HINTING)
		take_guest_cmd(b);
	return true;
}

/* True when the request is done, and pushed. */
static bool step(struct virtio_balloon *b)
{
	struct balloon_job *job = &b->job;
	enum balloon_role role = b->roles[job->queue];
	bool done;

	if (role == INFLATE || role == DEFLATE)
		done = step_pfns(b, role);
	else
		done = (role == HINTING && !hints_count(b)) || step_ranges(b, role);
	if (done) {
		job->busy = false;
		virtq_push(&b->vdev.queues[job->queue], &job->chain, 0);
		virtq_notify(&b->vdev.queues[job->queue]);
	}
	return done;
}

/* A request that another queue's turn has left goes on first. */
void balloon_kick(struct virtio_dev *vdev, u16 index)
{
	struct virtio_balloon *b = container_of(vdev, struct virtio_balloon, vdev);
	u64 end = clock_host_ns() + TURN_NS;

	if (b->paused)
		return;
	for (;;) {
		if (!b->job.busy && b->roles[index] == STATS) {
			take_stats(b, index);
			return;
		}
		if (!b->job.busy && !start_job(b, index))
			return;
		step(b);
		if (clock_host_ns() >= end) {
			virtio_kick_all(vdev);
			return;
		}
	}
}

void balloon_finish_job(struct virtio_balloon *b)
{
	while (b->job.busy)
		step(b);
}

void balloon_drop_job(struct virtio_balloon *b)
{
	if (b->job.busy)
		virtq_push(&b->vdev.queues[b->job.queue], &b->job.chain, 0);
	b->job.busy = false;
}

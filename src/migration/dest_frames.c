/* dest_frames.c: what each frame on CONTROL does to a destination; see dest_impl.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "migration/dest_impl.h"
#include "vmm/clock.h"

static int out_of_place(const struct dest *d, const struct frame *f, struct err *e)
{
	static const char *const where[] = {"before a session", "before the offer",  "before ACCEPT", "before the package", "before LOADED",
					    "before COMMIT",	"while the VM runs", "at the end",    "after a failure"};

	return err_set(e, -EPROTO, "frame %s has no place %s", frame_name(f->type), where[d->state]);
}

static int check_offer(struct dest *d, const struct wire_offer *o, struct err *e)
{
	int ret;

	if (o->package_bytes > d->package_cap)
		return err_set(e, -EFBIG, "the state of the VM takes %llu bytes, and this destination takes at most %llu",
			       (unsigned long long)o->package_bytes, (unsigned long long)d->package_cap);
	if (d->passed && d->disks.nr)
		return err_set(e, -EPROTO, "frame DISKS: memory that came whole has its disks on this host");
	if (d->passed && o->flags)
		return err_set(e, -EPROTO, "frame OFFER: field flags: memory that came whole is neither sent later nor compared");
	d->offer_bytes = malloc(o->package_len + 1);
	d->devices = malloc(o->devices_len + 1);
	if (!d->offer_bytes || !d->devices)
		return err_set(e, -ENOMEM, "no memory for what the source offers");
	memcpy(d->offer_bytes, o->package, o->package_len);
	memcpy(d->devices, o->devices, o->devices_len);
	d->devices_len = o->devices_len;
	d->offer_flags = o->flags;
	d->page_shift = o->page_shift;
	ret = package_open(&d->offer, d->offer_bytes, o->package_len, e);
	if (ret == 0)
		ret = package_check_arch(d->offer, e);
	return ret < 0 ? err_prefix(e, "frame OFFER: field package") : 0;
}

/* Guest memory and what else goes by descriptor. */
static int on_passed(struct dest *d, const struct frame *f, struct err *e)
{
	int ret;

	d->passed = xzalloc(sizeof(*d->passed));
	ret = wire_get_passed(d->control, f, d->passed, e);
	if (ret == 0 && !passed_has(d->passed, PASSED_MEMORY))
		return err_set(e, -EPROTO, "frame PASSED: no guest memory came with it");
	return ret;
}

static int on_disks(struct dest *d, const struct frame *f, struct err *e)
{
	auto_free struct wire_disks *w = xzalloc(sizeof(*w));
	int ret = wire_get_disks(f, w, e);

	if (ret < 0)
		return ret;
	dest_disks_take(&d->disks, w);
	return 0;
}

static int on_offer(struct dest *d, const struct frame *f, struct err *e)
{
	struct wire_offer o;
	int ret = wire_get_offer(f, &o, e);

	if (ret == 0)
		ret = check_offer(d, &o, e);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&d->lock);
	d->status.mode = d->passed ? MIGRATE_MODE_LOCAL : o.flags & OFFER_POSTCOPY ? MIGRATE_MODE_POSTCOPY : MIGRATE_MODE_PRECOPY;
	d->status.ram_bytes = package_info(d->offer)->ram_bytes;
	d->status.disk_bytes = dest_disks_bytes(&d->disks);
	pthread_mutex_unlock(&d->lock);
	dest_set_state(d, DEST_OFFERED);
	return 0;
}

static int on_missing(struct dest *d, const struct frame *f, struct err *e)
{
	struct wire_bits b;
	int ret = wire_get_bits(f, &b, e);

	if (d->have_package)
		return err_set(e, -EPROTO, "frame MISSING comes after the package");
	return ret == 0 ? dest_ram_missing(&d->ram, &b, e) : ret;
}

static int on_package(struct dest *d, const struct frame *f, struct err *e)
{
	if (d->have_package)
		return err_set(e, -EPROTO, "frame PACKAGE comes twice");
	d->have_package = true;
	d->package_ns = clock_host_ns();
	/* The channel has another buffer next time. */
	d->held = d->control->body;
	d->held.len = f->len;
	d->control->body = (struct buf){0};
	pthread_mutex_lock(&d->lock);
	d->status.package_bytes = f->len;
	pthread_mutex_unlock(&d->lock);
	return 0;
}

void dest_commit(struct dest *d)
{
	pthread_mutex_lock(&d->lock);
	d->recovering = false;
	d->why = (struct err){0};
	pthread_mutex_unlock(&d->lock);
	dest_disks_keep(&d->disks);
	dest_fault_open(d);
	d->commit_ns = clock_host_ns();
	dest_set_state(d, DEST_RUNNING);
	loop_post(&d->vm->loop, &d->start);
}

static int on_commit(struct dest *d)
{
	dest_commit(d);
	return 0;
}

static int on_resume(struct dest *d)
{
	pthread_mutex_lock(&d->lock);
	d->recovering = false;
	d->why = (struct err){0};
	pthread_mutex_unlock(&d->lock);
	migrate_tell(d->log, MIGRATE_POSTCOPY, NULL);
	dest_fault_open(d);
	return 0;
}

static int on_done(struct dest *d, const struct frame *f, struct err *e)
{
	u64 sent;
	int ret = wire_get_u64(f, &sent, 1, e);

	if (ret < 0)
		return ret;
	d->done = true;
	d->done_ns = clock_host_ns();
	return 0;
}

static int on_digests(struct dest *d, const struct frame *f, struct err *e)
{
	u64 compared = 0, different = 0;
	struct wire_digests g;
	u32 first;
	int ret = wire_get_digests(f, &g, e);

	if (ret == 0 && (!d->ram.verify || !d->settled))
		ret = out_of_place(d, f, e);
	if (ret == 0 && g.nr)
		ret = dest_verify_compare(&d->ram, &g, &compared, &different, &first, e);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&d->lock);
	d->status.verified_pages += compared;
	d->status.different_pages += different;
	compared = d->status.verified_pages;
	if (different && d->status.different_pages == different)
		log_error(d->log, "page %u of memory region %u is another than at the source", first, g.region);
	different = d->status.different_pages;
	pthread_mutex_unlock(&d->lock);
	if (g.nr)
		return 0;
	d->verified = true;
	return wire_send_u64(d->control, FRAME_VERIFIED, (u64[]){compared, different}, 2, e);
}

/* The source says that the VM stays there. */
static int on_abort(struct dest *d, const struct frame *f, struct err *e)
{
	struct wire_fail fail;
	struct err why;
	int ret = wire_get_fail(f, &fail, e);

	if (ret < 0)
		return ret;
	if (d->state >= DEST_RUNNING)
		return out_of_place(d, f, e);
	d->stays = true;
	err_set(&why, -ECANCELED, "the source has cancelled the migration: %s", fail.text);
	pthread_mutex_lock(&d->lock);
	d->cancelled = true;
	pthread_mutex_unlock(&d->lock);
	dest_fail(d, &why, false);
	return 0;
}

static int on_fail(struct dest *d, const struct frame *f, struct err *e)
{
	struct wire_fail fail;
	int ret = wire_get_fail(f, &fail, e);

	if (ret < 0)
		return ret;
	err_set(e, fail.code, "the source says: %s", fail.text);
	dest_link_lost(d, e, false);
	return 0;
}

static int on_bye(struct dest *d)
{
	d->released = true;
	dest_link_drop(d);
	return 0;
}

int dest_on_frame(struct dest *d, const struct frame *f, struct err *e)
{
	enum dest_state s = d->state;
	u64 v[1];

	switch (f->type) {
	case FRAME_PING:
		return channel_send_bytes(d->control, FRAME_PONG, f->body, f->len, e);
	case FRAME_PONG:
		return 0;
	case FRAME_FAIL:
		return on_fail(d, f, e);
	case FRAME_ABORT:
		return on_abort(d, f, e);
	case FRAME_PASSED:
		return s == DEST_SETUP && !d->passed ? on_passed(d, f, e) : out_of_place(d, f, e);
	case FRAME_DISKS:
		return s == DEST_SETUP && !d->disks.nr ? on_disks(d, f, e) : out_of_place(d, f, e);
	case FRAME_OFFER:
		return s == DEST_SETUP ? on_offer(d, f, e) : out_of_place(d, f, e);
	case FRAME_MISSING:
		return s == DEST_RECEIVE ? on_missing(d, f, e) : out_of_place(d, f, e);
	case FRAME_PACKAGE:
		return s == DEST_RECEIVE ? on_package(d, f, e) : out_of_place(d, f, e);
	case FRAME_COMMIT:
		return s == DEST_LOADED ? wire_get_u64(f, v, 0, e) ?: on_commit(d) : out_of_place(d, f, e);
	case FRAME_RESUME:
		return s >= DEST_LOADED && d->recovering ? wire_get_u64(f, v, 0, e) ?: on_resume(d) : out_of_place(d, f, e);
	case FRAME_DONE:
		return s == DEST_RUNNING && !d->done ? on_done(d, f, e) : out_of_place(d, f, e);
	case FRAME_DIGESTS:
		return s == DEST_RUNNING ? on_digests(d, f, e) : out_of_place(d, f, e);
	case FRAME_BYE:
		return s == DEST_COMPLETE ? wire_get_u64(f, v, 0, e) ?: on_bye(d) : out_of_place(d, f, e);
	default:
		return out_of_place(d, f, e);
	}
}

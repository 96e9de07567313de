/*
 * source_disks.c: disks that come along; see source_impl.h. A disk is a region of pages behind those of memory: all of them are sent once,
 * then those that the guest has written meanwhile, the last while it stands still. What was written is marked when the write has ended
 * (disk.h), so that a page which is read while a write is under way comes again.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migration/source_impl.h"
#include "vmm/base/crc32c.h"

static u64 dirty_words(const struct source_disk *d)
{
	return (d->dirty.nr + 63) / 64;
}

/* ---- which; ctx: loop, lock held ---- */

/* One more device. Those without contents that the guest can change are none. */
static int add_disk(struct source *s, struct device *dev, struct err *e)
{
	struct device_disk disk;
	struct source_disk *d;
	int ret = dev->cls->disk ? dev->cls->disk(dev, &disk, e) : -ENOENT;

	if (ret < 0)
		return ret == -ENOENT ? 0 : ret;
	if (s->disks.nr == WIRE_MAX_DISKS)
		return err_set(e, -EOPNOTSUPP, "at most %u disks can be copied", WIRE_MAX_DISKS);
	d = &s->disks.list[s->disks.nr++];
	*d = (struct source_disk){.dev = dev, .path = disk.path, .fd = disk.fd, .bytes = disk.bytes};
	d->dirty.nr = (disk.bytes + BIT(DISK_BLOCK_SHIFT) - 1) >> DISK_BLOCK_SHIFT;
	return 0;
}

int source_disks_find(struct source *s, bool copy, struct err *e)
{
	int ret = 0;

	s->disks.nr = 0;
	for (u32 i = 0; copy && ret == 0 && i < s->vm->nr_devices; i++)
		ret = add_disk(s, s->vm->devices[i], e);
	return ret;
}

u64 source_disks_bytes(const struct source *s)
{
	u64 sum = 0;

	for (u32 i = 0; i < s->disks.nr; i++)
		sum += s->disks.list[i].bytes;
	return sum;
}

/* ---- begin and end ---- */

int source_disks_init(struct source *s, struct err *e)
{
	u64 bytes[WIRE_MAX_DISKS];
	int ret;

	for (u32 i = 0; i < s->disks.nr; i++)
		bytes[i] = s->disks.list[i].bytes;
	ret = page_set_init_bytes(&s->disks.pages, bytes, s->disks.nr, s->pages.page_shift, e);
	for (u32 i = 0; ret == 0 && i < s->disks.nr; i++) {
		struct source_disk *d = &s->disks.list[i];

		d->dirty.bits = calloc(dirty_words(d), sizeof(u64));
		if (!d->dirty.bits)
			ret = err_set(e, -ENOMEM, "no memory for a bitmap of what is written to disk \"%s\"", d->path);
	}
	pthread_mutex_lock(&s->lock);
	s->disks.has_pages = ret == 0;
	pthread_mutex_unlock(&s->lock);
	return ret;
}

void source_disks_fini(struct source *s)
{
	/* Their devices may still mark: the end of the VM comes first, and this once more. */
	if (s->disks.tracking)
		return;
	pthread_mutex_lock(&s->lock);
	s->disks.has_pages = false;
	pthread_mutex_unlock(&s->lock);
	page_set_fini(&s->disks.pages);
	for (u32 i = 0; i < s->disks.nr; i++)
		free(s->disks.list[i].dirty.bits);
	s->disks.nr = 0;
}

void source_disks_track(struct source *s, bool on)
{
	for (u32 i = 0; i < s->disks.nr && (on || s->disks.tracking); i++) {
		struct source_disk *d = &s->disks.list[i];

		d->dev->cls->disk_track(d->dev, on ? &d->dirty : NULL);
	}
	s->disks.tracking = on && s->disks.nr;
	if (s->disks.tracking)
		page_set_fill(&s->disks.pages);
}

void source_disks_collect(struct source *s)
{
	for (u32 i = 0; i < s->disks.nr; i++) {
		struct source_disk *d = &s->disks.list[i];

		page_set_add_bitmap(&s->disks.pages, i, d->dirty.bits, dirty_words(d));
		memset(d->dirty.bits, 0, dirty_words(d) * sizeof(u64));
	}
}

/* ---- on the wire ---- */

int source_send_disks(struct source *s, struct err *e)
{
	auto_free struct wire_disks *out = xzalloc(sizeof(*out));

	out->nr = s->disks.nr;
	for (u32 i = 0; i < out->nr; i++) {
		out->list[i].bytes = s->disks.list[i].bytes;
		snprintf(out->list[i].id, sizeof(out->list[i].id), "%s", s->disks.list[i].dev->id);
	}
	return out->nr ? wire_send_disks(&s->control, out, e) : 0;
}

int source_read_disk(const struct source *s, u32 disk, u32 page, u8 *to, struct err *e)
{
	const struct source_disk *d = &s->disks.list[disk];
	u64 size = source_page_size(s), at = page * size, want = MIN(size, d->bytes - at), got = 0;

	while (got < want) {
		ssize_t n = pread(d->fd, to + got, want - got, (off_t)(at + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(e, n < 0 ? -errno : -EIO, "disk \"%s\" cannot be read at %llu: %s", d->path,
				       (unsigned long long)(at + got), n < 0 ? strerror(errno) : "it has become shorter");
		got += (u64)n;
	}
	memset(to + want, 0, size - want);
	return 0;
}

/* Nobody else uses the descriptor's position. What cannot tell (a block device) has no holes. */
bool source_disk_hole(const struct source *s, u32 disk, u32 page, struct disk_extent *x)
{
	const struct source_disk *d = &s->disks.list[disk];
	u64 size = source_page_size(s), at = page * size, end = MIN(at + size, d->bytes);
	off_t data, hole;

	if (at >= x->start && end <= x->end)
		return x->hole;
	data = lseek(d->fd, (off_t)at, SEEK_DATA);
	if (data == (off_t)at) {
		hole = lseek(d->fd, (off_t)at, SEEK_HOLE);
		*x = (struct disk_extent){at, hole > data ? (u64)hole : end, false};
	} else if (data > (off_t)at || (data < 0 && errno == ENXIO)) {
		*x = (struct disk_extent){at, data < 0 ? d->bytes : (u64)data, true};
	} else {
		*x = (struct disk_extent){0, d->bytes, false};
	}
	return x->hole && end <= x->end;
}

static int send_disk_digests(struct source *s, u32 disk, struct err *e)
{
	auto_free u32 *crcs = xzalloc(WIRE_DIGEST_PAGES * sizeof(u32));
	auto_free u8 *page = xzalloc(source_page_size(s));
	u32 nr = s->disks.pages.regions[disk].nr;
	int ret = 0;

	for (u32 first = 0; ret == 0 && first < nr; first += WIRE_DIGEST_PAGES) {
		struct wire_digests out = {.region = (u16)(WIRE_FIRST_DISK + disk),
					   .first = first,
					   .nr = MIN(nr - first, WIRE_DIGEST_PAGES),
					   .digests = (const u8 *)crcs};

		for (u32 i = 0; ret == 0 && i < out.nr; i++) {
			ret = source_read_disk(s, disk, first + i, page, e);
			crcs[i] = crc32c(0, page, source_page_size(s));
		}
		if (ret == 0)
			ret = wire_send_digests(&s->control, &out, e);
	}
	return ret;
}

int source_send_disk_digests(struct source *s, struct err *e)
{
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < s->disks.nr; i++)
		ret = send_disk_digests(s, i, e);
	return ret;
}

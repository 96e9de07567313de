/*
 * dest_disks.c: disks that come along with a VM; see dest_impl.h. Their files are made, or found, before the VM is; blocks are written by
 * the channels' threads, each block by one thread only. Until COMMIT a file is nobody's disk, and afterwards it is the VM's.
 */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/dest_impl.h"
#include "vmm/base/crc32c.h"

#define ZEROES (64 * KIB)

static u64 page_bytes(const struct dest_disks *d)
{
	return BIT(d->missing.page_shift);
}

/* ---- files; ctx: main, or the speaker ---- */

static const char *text_of(struct json_object *drive, const char *key)
{
	return json_object_get_string(json_object_object_get(drive, key));
}

/* What the configuration, overrides included, says of this drive; NULL: nothing. */
static struct json_object *find_drive(struct json_object *document, const char *id)
{
	struct json_object *list = json_object_object_get(document, "drives");

	for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
		struct json_object *drive = json_object_array_get_idx(list, i);
		const char *name = json_object_is_type(drive, json_type_object) ? text_of(drive, "drive_id") : NULL;

		if (name && !strcmp(name, id))
			return drive;
	}
	return NULL;
}

static int make_file(struct dest_disk *k, struct err *e)
{
	k->fd = open(k->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (k->fd < 0)
		return err_errno(e, "disk \"%s\" cannot be made, to copy drive \"%s\" there", k->path, k->id);
	k->made = k->blank = true;
	if (ftruncate(k->fd, (off_t)k->bytes) < 0)
		return err_errno(e, "disk \"%s\" cannot be made with %llu bytes", k->path, (unsigned long long)k->bytes);
	return 0;
}

static int check_file(struct dest_disk *k, struct err *e)
{
	struct stat st;
	u64 bytes;

	if (fstat(k->fd, &st) < 0)
		return err_errno(e, "disk \"%s\"", k->path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, -EINVAL, "disk \"%s\" is neither a regular file nor a block device", k->path);
	bytes = (u64)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(k->fd, BLKGETSIZE64, &bytes) < 0)
		return err_errno(e, "disk \"%s\": its size", k->path);
	if (bytes != k->bytes)
		return err_set(
			e, -EINVAL,
			"disk \"%s\" has %llu bytes, and drive \"%s\", which is to be copied there, %llu: make it that size, or remove "
			"it",
			k->path, (unsigned long long)bytes, k->id, (unsigned long long)k->bytes);
	k->blank = S_ISREG(st.st_mode) && !st.st_blocks;
	return 0;
}

/* O_NONBLOCK: a FIFO given by mistake must not hang here. */
static int open_file(struct dest_disk *k, struct err *e)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int ret;

	k->fd = open(k->path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (k->fd < 0 && errno != ENOENT)
		return err_errno(e, "disk \"%s\", to which drive \"%s\" is to be copied", k->path, k->id);
	ret = k->fd < 0 ? make_file(k, e) : check_file(k, e);
	if (ret < 0)
		return ret;
	/* The source's own file, for one, where both see the same storage. */
	if (fcntl(k->fd, F_OFD_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES))
		return err_set(
			e, -EBUSY,
			"disk \"%s\", to which drive \"%s\" is to be copied, is in use: if it is the source's own, copy no disks; else "
			"give it another file",
			k->path, k->id);
	return 0;
}

static int open_disk(struct dest_disk *k, struct json_object *document, struct err *e)
{
	struct json_object *drive = find_drive(document, k->id);
	const char *path = drive ? text_of(drive, "path_on_host") : NULL, *cache = drive ? text_of(drive, "cache_type") : NULL;

	if (!path)
		return err_set(e, -EPROTO, "frame DISKS: the VM has no drive \"%s\" with a file", k->id);
	if (json_object_get_boolean(json_object_object_get(drive, "is_read_only")))
		return err_set(e, -EPROTO, "frame DISKS: drive \"%s\" is read-only", k->id);
	k->path = xstrdup(path);
	k->durable = cache && !strcmp(cache, "Writeback");
	return open_file(k, e);
}

static int make_sets(struct dest_disks *d, u32 page_shift, bool verify, struct err *e)
{
	u64 bytes[WIRE_MAX_DISKS];
	int ret;

	for (u32 i = 0; i < d->nr; i++)
		bytes[i] = d->list[i].bytes;
	ret = page_set_init_bytes(&d->missing, bytes, d->nr, page_shift, e);
	if (ret == 0)
		ret = page_set_init_bytes(&d->written, bytes, d->nr, page_shift, e);
	if (ret == 0 && verify && d->nr) {
		auto_free void *zeroes = xzalloc(page_bytes(d));

		d->zero_digest = crc32c(0, zeroes, page_bytes(d));
	}
	for (u32 i = 0; ret == 0 && verify && i < d->nr; i++) {
		d->list[i].digests = calloc(d->missing.regions[i].nr, sizeof(u32));
		if (!d->list[i].digests)
			ret = err_set(e, -ENOMEM, "no memory for digests of pages");
	}
	if (ret == 0)
		page_set_fill(&d->missing);
	return ret;
}

void dest_disks_take(struct dest_disks *d, const struct wire_disks *w)
{
	for (u32 i = 0; i < w->nr; i++) {
		d->list[i] = (struct dest_disk){.fd = -1, .bytes = w->list[i].bytes};
		memcpy(d->list[i].id, w->list[i].id, sizeof(d->list[i].id));
	}
	d->nr = w->nr;
}

u64 dest_disks_bytes(const struct dest_disks *d)
{
	u64 sum = 0;

	for (u32 i = 0; i < d->nr; i++)
		sum += d->list[i].bytes;
	return sum;
}

int dest_disks_open(struct dest_disks *d, struct json_object *document, u32 page_shift, bool verify, struct err *e)
{
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < d->nr; i++)
		ret = open_disk(&d->list[i], document, e);
	return ret == 0 ? make_sets(d, page_shift, verify, e) : ret;
}

void dest_disks_will_remove(const struct dest_disks *d, struct sandbox *sandbox)
{
	for (u32 i = 0; sandbox && i < d->nr; i++) {
		if (d->list[i].made)
			sandbox_will_remove(sandbox, d->list[i].path);
	}
}

/* ---- the end ---- */

static void close_files(struct dest_disks *d)
{
	pthread_rwlock_wrlock(&d->lock);
	d->sealed = true;
	for (u32 i = 0; i < d->nr; i++)
		fd_close(&d->list[i].fd);
	pthread_rwlock_unlock(&d->lock);
}

int dest_disks_seal(struct dest_disks *d, struct err *e)
{
	struct flock unlock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
	u64 missing = page_set_count(&d->missing);
	int ret = d->nr ? dest_disks_sync(d, e) : 0;

	if (ret == 0 && missing)
		ret = err_set(e, -EPROTO, "frame PACKAGE: %llu pages of disks did not come", (unsigned long long)missing);
	pthread_rwlock_wrlock(&d->lock);
	d->sealed = true;
	for (u32 i = 0; ret == 0 && i < d->nr; i++)
		fcntl(d->list[i].fd, F_OFD_SETLK, &unlock); /* the drive takes it */
	pthread_rwlock_unlock(&d->lock);
	return ret;
}

void dest_disks_keep(struct dest_disks *d)
{
	close_files(d);
	for (u32 i = 0; i < d->nr; i++)
		d->list[i].made = false;
}

void dest_disks_drop(struct dest_disks *d, struct log *log, bool remove)
{
	for (u32 i = 0; i < d->nr; i++) {
		const struct dest_disk *k = &d->list[i];

		if (k->fd < 0 || (!k->made && !__atomic_load_n(&k->touched, __ATOMIC_RELAXED)))
			continue;
		if (k->made && remove && unlink(k->path) == 0)
			log_warn(log, "disk \"%s\", a copy that did not come to its end, is removed", k->path);
		else if (remove)
			log_warn(log, "disk \"%s\" is worthless: it has a part of a copy of drive \"%s\", whose VM stays where it is",
				 k->path, k->id);
		else
			log_warn(log,
				 "disk \"%s\" is a copy of drive \"%s\" as it was at the hand-over; the source may have gone on with its "
				 "own",
				 k->path, k->id);
	}
	dest_disks_keep(d);
}

void dest_disks_fini(struct dest_disks *d)
{
	close_files(d);
	page_set_fini(&d->missing);
	page_set_fini(&d->written);
	for (u32 i = 0; i < d->nr; i++) {
		free(d->list[i].path);
		free(d->list[i].digests);
	}
	d->nr = 0;
	d->sealed = false;
}

/* ---- blocks ---- */

/* Of pages [first, first + nr), the last of which may reach behind the end. */
static u64 clip(const struct dest_disks *d, const struct dest_disk *k, u32 first, u32 nr, u64 *at)
{
	*at = first * page_bytes(d);
	return MIN(nr * page_bytes(d), k->bytes - *at);
}

static int write_all(const struct dest_disk *k, const u8 *data, u64 len, u64 at, struct err *e)
{
	while (len) {
		ssize_t n = pwrite(k->fd, data, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(e, n < 0 ? -errno : -EIO, "disk \"%s\" cannot be written at %llu: %s", k->path,
				       (unsigned long long)at, n < 0 ? strerror(errno) : "it takes nothing");
		data += n;
		len -= (u64)n;
		at += (u64)n;
	}
	return 0;
}

/* A hole where there can be one. */
static int write_zeroes(const struct dest_disk *k, u64 len, u64 at, struct err *e)
{
	static const u8 zeroes[ZEROES];
	int ret = 0;

	if (fallocate(k->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len) == 0)
		return 0;
	for (u64 done = 0; ret == 0 && done < len; done += ZEROES)
		ret = write_all(k, zeroes, MIN(len - done, ZEROES), at + done, e);
	return ret;
}

/* Pages side by side, all of zeroes (data NULL), or none. */
static int write_run(struct dest_disks *d, u32 disk, u32 first, u32 nr, const u8 *data, struct err *e)
{
	struct dest_disk *k = &d->list[disk];
	bool skip = !data && k->blank;
	u64 at, len = clip(d, k, first, nr, &at);
	int ret = 0;

	for (u32 page = first; page < first + nr; page++) {
		if (data)
			page_set_add(&d->written, disk, page);
		else
			skip &= !page_set_has(&d->written, disk, page);
	}
	if (!skip)
		__atomic_store_n(&k->touched, true, __ATOMIC_RELAXED);
	if (!skip)
		ret = data ? write_all(k, data, len, at, e) : write_zeroes(k, len, at, e);
	for (u32 page = first; ret == 0 && page < first + nr; page++) {
		if (k->digests)
			k->digests[page] = data ? crc32c(0, data + (page - first) * page_bytes(d), page_bytes(d)) : d->zero_digest;
		page_set_take(&d->missing, disk, page);
	}
	return ret;
}

/* How many of the pages from i on lie side by side and are of zeroes as it is, or are not. */
static u32 run_length(const struct wire_pages *p, u32 i)
{
	u32 n = 1;

	while (i + n < p->nr && p->numbers[i + n] == p->numbers[i] + n)
		n++;
	return n;
}

static int write_pages(struct dest_disks *d, const struct wire_pages *p, const u8 *data, struct err *e)
{
	int ret = 0;

	for (u32 i = 0, n; ret == 0 && i < p->nr; i += n) {
		bool zero = p->numbers[i] & WIRE_ZERO_PAGE;

		n = run_length(p, i);
		ret = write_run(d, p->region - WIRE_FIRST_DISK, p->numbers[i] & ~(u32)WIRE_ZERO_PAGE, n, zero ? NULL : data, e);
		data += zero ? 0 : n * page_bytes(d);
	}
	return ret;
}

int dest_disks_pages(struct dest_disks *d, const struct wire_pages *p, const u8 *data, struct err *e)
{
	int ret;

	pthread_rwlock_rdlock(&d->lock);
	ret = d->sealed ? err_set(e, -EPROTO, "frame PAGES: pages of disk \"%s\" come after the package",
				  d->list[p->region - WIRE_FIRST_DISK].id)
			: write_pages(d, p, data, e);
	pthread_rwlock_unlock(&d->lock);
	return ret;
}

int dest_disks_sync(struct dest_disks *d, struct err *e)
{
	int ret = 0;

	pthread_rwlock_rdlock(&d->lock);
	for (u32 i = 0; ret == 0 && !d->sealed && i < d->nr; i++) {
		if (d->list[i].durable && fdatasync(d->list[i].fd) < 0)
			ret = err_errno(e, "disk \"%s\" cannot be written back", d->list[i].path);
	}
	pthread_rwlock_unlock(&d->lock);
	return ret;
}

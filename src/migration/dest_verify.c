/* dest_verify.c: digests of pages, as they came, against the source's; see dest_impl.h. */
#include <errno.h>
#include <stdlib.h>

#include "migration/dest_impl.h"
#include "vmm/base/crc32c.h"

int dest_verify_init(struct dest_ram *r, struct err *e)
{
	for (u32 i = 0; i < r->missing.nr_regions; i++) {
		u32 nr = r->missing.regions[i].nr;

		r->digests[i] = nr ? calloc(nr, sizeof(u32)) : NULL;
		if (nr && !r->digests[i])
			return err_set(e, -ENOMEM, "no memory for digests of pages");
	}
	return 0;
}

void dest_verify_fini(struct dest_ram *r)
{
	for (u32 i = 0; i < ARRAY_SIZE(r->digests); i++) {
		free(r->digests[i]);
		r->digests[i] = NULL;
	}
}

void dest_verify_present(struct dest_ram *r)
{
	u64 bytes = BIT(r->page_shift);
	u32 zero = crc32c(0, r->zero, bytes);

	for (u32 i = 0; i < r->missing.nr_regions; i++) {
		for (u32 page = 0; page < r->missing.regions[i].nr; page++)
			r->digests[i][page] = page_set_has(&r->filled, i, page) ? crc32c(0, r->base[i] + page * bytes, bytes) : zero;
	}
}

void dest_verify_placed(struct dest_ram *r, u32 region, u32 page, const u8 *data)
{
	r->digests[region][page] = crc32c(0, data ?: r->zero, BIT(r->page_shift));
}

int dest_verify_compare(const struct dest_ram *r, const struct wire_digests *d, u64 *compared, u64 *different, u32 *differing,
			struct err *e)
{
	bool disk = d->region >= WIRE_FIRST_DISK;
	const struct page_set *set = disk ? &r->disks->missing : &r->missing;
	u32 region = disk ? d->region - WIRE_FIRST_DISK : d->region;
	u32 nr = page_set_valid(set, region, d->first) ? set->regions[region].nr : 0;
	const u32 *digests;

	*differing = UINT32_MAX;
	if (d->nr > nr - MIN(nr, d->first))
		return err_set(e, -EPROTO, "frame DIGESTS: region %u has no pages %u..%llu", d->region, d->first,
			       (unsigned long long)d->first + d->nr - 1);
	digests = nr ? (disk ? r->disks->list[region].digests : r->digests[region]) : NULL;
	for (u32 i = 0; i < d->nr; i++) {
		u32 page = d->first + i;

		if (!disk && page_set_has(&r->given_up, d->region, page))
			continue;
		++*compared;
		if (ld_le32(d->digests + 4 * i) == digests[page])
			continue;
		++*different;
		*differing = MIN(*differing, page);
	}
	return 0;
}

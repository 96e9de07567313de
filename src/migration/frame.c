/* frame.c: headers of frames; see frame.h. */
#include "migration/frame.h"

#include <errno.h>

#include "migration/package.h"
#include "vmm/base/crc32c.h"

/* Offsets in the header. */
#define AT_MAGIC 0
#define AT_TYPE	 4
#define AT_FLAGS 6
#define AT_EPOCH 8
#define AT_CRC	 12 /* of the header with zeroes in this place */
#define AT_SEQ	 16
#define AT_LEN	 24

#define CAP_PAGES (2 * MIB + 16 * KIB) /* one page of 2 MiB, or 256 of 4 KiB, and their numbers */

static const struct {
	const char *name;
	u64 cap;
} types[FRAME_TYPES] = {
	[FRAME_HELLO] = {"HELLO", 64},
	[FRAME_WELCOME] = {"WELCOME", 64},
	[FRAME_FAIL] = {"FAIL", 1024},
	[FRAME_OFFER] = {"OFFER", 2 * MIB},
	[FRAME_ACCEPT] = {"ACCEPT", 64},
	[FRAME_PAGES] = {"PAGES", CAP_PAGES},
	[FRAME_SYNC] = {"SYNC", 64},
	[FRAME_SYNCED] = {"SYNCED", 64},
	[FRAME_MISSING] = {"MISSING", 64 * KIB + 64},
	[FRAME_PACKAGE] = {"PACKAGE", PACKAGE_HARD_CAP},
	[FRAME_LOADED] = {"LOADED", 64},
	[FRAME_COMMIT] = {"COMMIT", 64},
	[FRAME_RUNNING] = {"RUNNING", 64},
	[FRAME_REQUEST] = {"REQUEST", 4 * KIB},
	[FRAME_DONE] = {"DONE", 64},
	[FRAME_RELEASE] = {"RELEASE", 64},
	[FRAME_PING] = {"PING", 64},
	[FRAME_PONG] = {"PONG", 64},
	[FRAME_RESUME] = {"RESUME", 64},
	[FRAME_ABORT] = {"ABORT", 1024},
	[FRAME_DIGESTS] = {"DIGESTS", 64 * KIB + 64},
	[FRAME_VERIFIED] = {"VERIFIED", 64},
	[FRAME_BYE] = {"BYE", 64},
	[FRAME_PASSED] = {"PASSED", 32 * KIB},
	[FRAME_DISKS] = {"DISKS", 8 * KIB},
};

#define UNKNOWN_CAP (64 * KIB) /* of an optional frame that is skipped */

u64 frame_cap(u16 type, u64 package_cap)
{
	if (type >= FRAME_TYPES)
		return 0;
	return type == FRAME_PACKAGE ? MIN(package_cap, types[type].cap) : types[type].cap;
}

const char *frame_name(u16 type)
{
	return type < FRAME_TYPES && types[type].name ? types[type].name : "?";
}

void frame_encode(const struct frame *f, u8 *header)
{
	st_le32(header + AT_MAGIC, WIRE_MAGIC);
	st_le16(header + AT_TYPE, f->type);
	st_le16(header + AT_FLAGS, f->flags);
	st_le32(header + AT_EPOCH, f->epoch);
	st_le32(header + AT_CRC, 0);
	st_le64(header + AT_SEQ, f->seq);
	st_le64(header + AT_LEN, f->len);
	st_le32(header + AT_CRC, crc32c(0, header, FRAME_HEADER_SIZE));
}

int frame_decode(const u8 *header, u64 package_cap, struct frame *f, struct err *e)
{
	u8 copy[FRAME_HEADER_SIZE];
	u64 cap;

	*f = (struct frame){
		.type = ld_le16(header + AT_TYPE),
		.flags = ld_le16(header + AT_FLAGS),
		.epoch = ld_le32(header + AT_EPOCH),
		.seq = ld_le64(header + AT_SEQ),
		.len = ld_le64(header + AT_LEN),
	};
	if (ld_le32(header + AT_MAGIC) != WIRE_MAGIC)
		return err_set(e, -EPROTO, "the peer does not speak husk's migration protocol");
	__builtin_memcpy(copy, header, sizeof(copy));
	st_le32(copy + AT_CRC, 0);
	if (ld_le32(header + AT_CRC) != crc32c(0, copy, sizeof(copy)))
		return err_set(e, -EPROTO, "a frame's header is damaged (CRC)");
	cap = frame_cap(f->type, package_cap);
	if (!cap && !(f->flags & FRAME_OPTIONAL))
		return err_set(e, -EPROTO, "frame of type %u: this husk does not know it", f->type);
	cap = cap ? cap : UNKNOWN_CAP;
	if (f->len > cap)
		return err_set(e, -EFBIG, "frame %s announces %llu bytes, and at most %llu are taken", frame_name(f->type),
			       (unsigned long long)f->len, (unsigned long long)cap);
	return 0;
}

/* package_rig.h: packages taken apart and put together again, for tests and the fuzzer: whatever they change, the checksums can be right.
 */
#ifndef HUSK_TEST_PACKAGE_RIG_H
#define HUSK_TEST_PACKAGE_RIG_H

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "vmm/base/buf.h"

/* FORMAT.md, in numbers: what husk writes is read here without its code. */
#define RIG_HEADER	  48u
#define RIG_SECTION	  16u
#define RIG_MAX_SECTIONS  600u
#define RIG_HEADER_LENGTH 16
#define RIG_HEADER_NR	  24
#define RIG_HEADER_CRC	  44

struct rig_section {
	u8 *bytes; /* into the package: section header, name, instance, payload */
	u32 len;
};

struct rig_package {
	u8 header[RIG_HEADER];
	u32 nr;
	struct rig_section s[RIG_MAX_SECTIONS];
};

static inline u32 rig_name_len(const u8 *s)
{
	return RIG_SECTION + s[14] + s[15];
}

static inline u32 rig_section_crc(const u8 *s, u32 len)
{
	uLong crc = crc32(0, s, 4);

	return (u32)crc32(crc, s + 8, len - 8);
}

/* As far as the bytes go: the sections whose lengths fit. */
static inline void rig_split(struct rig_package *p, u8 *bytes, size_t len)
{
	size_t at = RIG_HEADER;

	memset(p, 0, sizeof(*p));
	if (len < RIG_HEADER)
		return;
	memcpy(p->header, bytes, RIG_HEADER);
	while (p->nr < RIG_MAX_SECTIONS && len - at >= RIG_SECTION) {
		u64 want = rig_name_len(bytes + at) + (u64)ld_le32(bytes + at);

		if (want > len - at)
			break;
		p->s[p->nr++] = (struct rig_section){bytes + at, (u32)want};
		at += want;
	}
}

/* The bytes of the parts as they are, header and checksums made right. */
static inline void rig_join(const struct rig_package *p, struct buf *out)
{
	buf_put(out, p->header, RIG_HEADER);
	for (u32 i = 0; i < p->nr; i++) {
		size_t at = out->len;

		buf_put(out, p->s[i].bytes, p->s[i].len);
		st_le32(out->data + at + 4, rig_section_crc(out->data + at, p->s[i].len));
	}
	st_le64(out->data + RIG_HEADER_LENGTH, out->len);
	st_le32(out->data + RIG_HEADER_NR, p->nr);
	st_le32(out->data + RIG_HEADER_CRC, (u32)crc32(0, out->data, RIG_HEADER_CRC));
}

/* Makes all checksums of a package right, in place, and its length; sections that do not fit stay as they are. */
static inline void rig_fix(u8 *bytes, size_t len)
{
	struct rig_package *p;

	if (len < RIG_HEADER)
		return;
	p = xzalloc(sizeof(*p));
	rig_split(p, bytes, len);
	for (u32 i = 0; i < p->nr; i++)
		st_le32(p->s[i].bytes + 4, rig_section_crc(p->s[i].bytes, p->s[i].len));
	st_le64(bytes + RIG_HEADER_LENGTH, len);
	st_le32(bytes + RIG_HEADER_CRC, (u32)crc32(0, bytes, RIG_HEADER_CRC));
	free(p);
}

/* Whether a section has this name (without instance: NULL takes any). */
static inline bool rig_is(const struct rig_section *s, const char *name, const char *instance)
{
	size_t n = s->bytes[14], i = s->bytes[15];

	return n == strlen(name) && !memcmp(s->bytes + RIG_SECTION, name, n) &&
	       (!instance || (i == strlen(instance) && !memcmp(s->bytes + RIG_SECTION + n, instance, i)));
}

#endif

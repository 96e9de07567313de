/* package_impl.h: what the parts of package.c share. Offsets of the header and of a section's: FORMAT.md. */
#ifndef HUSK_PACKAGE_IMPL_H
#define HUSK_PACKAGE_IMPL_H

#include "migration/package.h"

#define HEADER_VERSION	8  /* u32 */
#define HEADER_FLAGS	12 /* u32, none yet */
#define HEADER_LENGTH	16 /* u64, all of the package */
#define HEADER_SECTIONS 24 /* u32 */
#define HEADER_RESERVED 28 /* zeroes up to the CRC */
#define HEADER_CRC	44 /* u32, of the bytes before it */

#define SECTION_HEADER	     16u
#define SECTION_LENGTH	     0	/* u32, of the payload */
#define SECTION_CRC	     4	/* u32, of all other bytes of the section */
#define SECTION_VERSION	     8	/* u16, of the table */
#define SECTION_MIN_VERSION  10 /* u16, what a reader's table needs at least */
#define SECTION_FLAGS	     12 /* u16 */
#define SECTION_NAME_LEN     14 /* u8 */
#define SECTION_INSTANCE_LEN 15 /* u8; name and instance follow, then the payload */

#define SECTION_OPTIONAL 1u /* SECTION_FLAGS */

#define PACKAGE_ARCH HUSK_ARCH /* config.h */

#define PACKAGE_NAME_SIZE     64 /* of a section's name, with the NUL */
#define PACKAGE_INSTANCE_SIZE 96

struct package_section {
	char name[PACKAGE_NAME_SIZE], instance[PACKAGE_INSTANCE_SIZE];
	u16 version, min_version;
	bool optional;
	const u8 *payload; /* borrowed */
	u32 len;
};

struct package {
	u64 length;
	struct package_section *sections; /* owned; the first is "vm" */
	u32 nr;
	struct package_vm *info; /* owned */
};

/* Of a section at `at`, whose names and payload follow. */
u32 package_section_crc(const u8 *at, u64 len);
/* "virtio-blk drives/rootfs", for messages. */
void package_label(char *out, size_t size, const char *name, const char *instance);
#define PACKAGE_LABEL_SIZE (PACKAGE_NAME_SIZE + PACKAGE_INSTANCE_SIZE + 1)
/* ---- A package that is being written ---- */

struct package_writer {
	struct buf *out;
	u64 cap;
	u32 nr;
	struct package_part parts[4]; /* for the refusal */
};

/* Appends a section; -EFBIG: over the cap. The header's room comes first (buf_grow), its contents last (package_put_header). */
int package_put_section(struct package_writer *w, const struct state_table *t, const char *instance, bool optional, const void *data,
			struct err *e) MUST_CHECK;
int package_save_section(struct vm *vm, struct package_writer *w, const struct state_section *s, struct err *e) MUST_CHECK;
void package_put_header(struct package_writer *w);

/* Borrowed, or NULL. */
const struct state_table *package_find_table(const char *name);

#endif

/*
 * wire.h: bodies of frames (frame.h), encoded and decoded. Decoding believes nothing: lengths, ranges and reserved bytes are checked here,
 * pages against the machine's memory by who places them. -EPROTO: e names frame and field. WIRE.md draws the bodies.
 */
#ifndef HUSK_WIRE_H
#define HUSK_WIRE_H

#include "migration/channel.h"

enum wire_role { WIRE_CONTROL, WIRE_BULK, WIRE_URGENT };

/* How far the destination is; in WELCOME. The numbers are ABI. */
enum wire_phase {
	WIRE_NEW,	/* it has nothing of this session */
	WIRE_RECEIVING, /* memory comes, or the package is applied */
	WIRE_LOADED,	/* all is applied, it waits for COMMIT */
	WIRE_RUNNING,	/* it runs; pages may be missing */
	WIRE_COMPLETE,	/* it runs and has all pages */
	WIRE_PHASES
};

struct wire_hello {
	u32 version; /* WIRE_VERSION */
	u8 role, index, nr_bulk;
	u8 session[16]; /* random, of the source's migration */
};

#define WIRE_KNOWS_DISKS 1u /* frame DISKS */

struct wire_welcome {
	u8 phase;	 /* enum wire_phase */
	u8 knows;	 /* WIRE_KNOWS_*; 0 of a husk that is older than these */
	u64 package_cap; /* bytes; what the destination takes */
	u64 missing;	 /* pages that it has not (phase RUNNING, LOADED) */
};

#define OFFER_POSTCOPY BIT(0) /* pages may come after the package: the destination must be able to fetch them */
#define OFFER_VERIFY   BIT(1) /* the destination keeps digests of pages as it places them */
#define OFFER_KNOWN    (OFFER_POSTCOPY | OFFER_VERIFY)

struct wire_offer {
	u64 flags;
	u64 package_bytes; /* estimate; at most the cap that WELCOME named */
	u32 page_shift;	   /* 12, or 21: pages are numbered and sent in this size */
	const u8 *package; /* borrowed: sections "vm" and "cpu" (package.h) */
	u64 package_len;
	const char *devices; /* borrowed: "name instance version\n" of every other section; not terminated */
	u64 devices_len;
};

#define WIRE_DISK_ID 72u /* bytes, with the zero at the end */

/* In the order of their regions, from WIRE_FIRST_DISK on. */
struct wire_disks {
	u32 nr; /* 1..WIRE_MAX_DISKS */
	struct wire_disk {
		u64 bytes; /* a multiple of 512, not 0 */
		char id[WIRE_DISK_ID];
	} list[WIRE_MAX_DISKS];
};

enum wire_encoding { WIRE_RAW, WIRE_ZLIB };

/* Pages of one region, ascending. numbers[i] has WIRE_ZERO_PAGE for a page of zeroes, of which there is no data. */
#define WIRE_ZERO_PAGE BIT(31)
struct wire_pages {
	u16 region; /* index in mem.regions, or WIRE_FIRST_DISK + index in wire_disks.list: its last page is filled up with zeroes */
	u8 encoding;
	u32 nr; /* 1..WIRE_PAGES_PER_FRAME */
	u32 numbers[WIRE_PAGES_PER_FRAME];
	const u8 *data; /* borrowed: the pages that are not zero, one behind the other, in this encoding */
	u64 data_len;
};

/* Bits of one region, from page `first` (a multiple of 64). */
struct wire_bits {
	u16 region;
	u32 first, nr;	/* nr: 1..WIRE_BITS_PER_FRAME, the last frame of a region may end anywhere */
	const u8 *bits; /* borrowed: (nr + 63) / 64 little-endian u64 */
};

struct wire_request {
	u16 region;
	u32 nr; /* 1..WIRE_REQUEST_PAGES */
	u32 pages[WIRE_REQUEST_PAGES];
};

struct wire_digests {
	u16 region;
	u32 first, nr;	   /* nr 0: that was all */
	const u8 *digests; /* borrowed: nr x u32 */
};

struct wire_fail {
	int code;	/* -errno */
	char text[900]; /* printable, terminated */
};

/* Each sends one frame. */
int wire_send_hello(struct channel *c, const struct wire_hello *h, struct err *e) MUST_CHECK;
int wire_send_welcome(struct channel *c, const struct wire_welcome *w, struct err *e) MUST_CHECK;
int wire_send_offer(struct channel *c, const struct wire_offer *o, struct err *e) MUST_CHECK;
/* page_bytes: of one page; data: nr x u8* to the raw pages that are not zero are gathered by the caller into one buffer. */
int wire_send_pages(struct channel *c, const struct wire_pages *p, struct err *e) MUST_CHECK;
int wire_send_bits(struct channel *c, const struct wire_bits *b, struct err *e) MUST_CHECK;
int wire_send_request(struct channel *c, const struct wire_request *r, struct err *e) MUST_CHECK;
int wire_send_digests(struct channel *c, const struct wire_digests *d, struct err *e) MUST_CHECK;
/* PASSED, with its descriptors. */
int wire_send_passed(struct channel *c, const struct passed *p, struct err *e) MUST_CHECK;
int wire_send_disks(struct channel *c, const struct wire_disks *d, struct err *e) MUST_CHECK;
/* FAIL or ABORT. Best effort: nobody waits for it to arrive. */
void wire_send_fail(struct channel *c, u16 type, int code, const char *text);
/* Frames whose body is nr u64: SYNC {round}, SYNCED {round}, ACCEPT {package_cap}, LOADED {ns that the load took}, COMMIT {}, RUNNING {ns
 * from the arrival of the package's last byte to the vCPUs' start}, DONE {pages sent after COMMIT}, RELEASE {pages received after
 * LOADED}, PING {any}, PONG {the same}, RESUME {}, VERIFIED {pages compared, pages that differ}, BYE {}. */
int wire_send_u64(struct channel *c, u16 type, const u64 *v, u32 nr, struct err *e) MUST_CHECK;

int wire_get_hello(const struct frame *f, struct wire_hello *h, struct err *e) MUST_CHECK;
int wire_get_welcome(const struct frame *f, struct wire_welcome *w, struct err *e) MUST_CHECK;
int wire_get_offer(const struct frame *f, struct wire_offer *o, struct err *e) MUST_CHECK;
int wire_get_pages(const struct frame *f, struct wire_pages *p, struct err *e) MUST_CHECK;
int wire_get_bits(const struct frame *f, struct wire_bits *b, struct err *e) MUST_CHECK;
int wire_get_request(const struct frame *f, struct wire_request *r, struct err *e) MUST_CHECK;
int wire_get_digests(const struct frame *f, struct wire_digests *d, struct err *e) MUST_CHECK;
/* Takes the descriptors that came with it out of the channel; p is empty, and owns them then. */
int wire_get_passed(struct channel *c, const struct frame *f, struct passed *p, struct err *e) MUST_CHECK;
int wire_get_disks(const struct frame *f, struct wire_disks *d, struct err *e) MUST_CHECK;
int wire_get_fail(const struct frame *f, struct wire_fail *out, struct err *e) MUST_CHECK;
int wire_get_u64(const struct frame *f, u64 *v, u32 nr, struct err *e) MUST_CHECK;

/* Receives one frame that must be of this type; FAIL and ABORT become their sender's error ("the destination says: ..."), peer: "source"
 * or "destination". Answers PING meanwhile. */
int wire_expect(struct channel *c, u16 type, const char *peer, int wait_ms, struct frame *f, struct err *e) MUST_CHECK;

#endif

/*
 * frame.h: what two husks say to each other while a VM moves: frames on connections ("channels"). WIRE.md draws every frame.
 *
 *   header, 32 bytes  ─ magic, type, flags, epoch, CRC of the header, number in this direction, length of the body
 *   body              ─ at most frame_cap(type) bytes: checked before a byte of it is read or room for it is made
 *   CRC of the body
 *
 * All numbers are little-endian; CRCs are CRC-32C. Type numbers and layouts are ABI: they are only ever added to.
 */
#ifndef HUSK_FRAME_H
#define HUSK_FRAME_H

#include "vmm/base/err.h"

#define WIRE_MAGIC	     0x4d4b5348u /* "HSKM" */
#define WIRE_VERSION	     1u		 /* of HELLO; both sides have the same */
#define FRAME_HEADER_SIZE    32u
#define FRAME_OPTIONAL	     1u /* flags: who does not know the type skips the frame */
#define WIRE_MAX_BULK	     8u
#define WIRE_PAGES_PER_FRAME 256u
#define WIRE_BITS_PER_FRAME  (512u * 1024) /* of MISSING */
#define WIRE_REQUEST_PAGES   64u
#define WIRE_DIGEST_PAGES    16384u
#define WIRE_MAX_DISKS	     64u
#define WIRE_FIRST_DISK	     0x8000u /* region: the first disk that comes along; the others follow */

enum frame_type {
	FRAME_HELLO = 1, /* first on each connection, from the source */
	FRAME_WELCOME,	 /* the answer */
	FRAME_FAIL,	 /* either side, any time: an error with its text; the sender gives up this attempt */
	FRAME_OFFER,	 /* CONTROL, source: what the VM is */
	FRAME_ACCEPT,	 /* CONTROL, destination: such a VM is made here; memory may come */
	FRAME_PAGES,	 /* BULK and URGENT, source */
	FRAME_SYNC,	 /* BULK, source: the end of a round on this channel */
	FRAME_SYNCED,	 /* CONTROL, destination: all BULK channels have had that SYNC, their pages are placed */
	FRAME_MISSING,	 /* CONTROL: source, before PACKAGE: pages that come later; destination, in a recovery: pages that it has not */
	FRAME_PACKAGE,	 /* CONTROL, source: the packaged device state (package.h) */
	FRAME_LOADED,	 /* CONTROL, destination: applied, all threads made, vCPUs halted */
	FRAME_COMMIT,	 /* CONTROL, source: it will never run the VM again by itself */
	FRAME_RUNNING,	 /* CONTROL, destination: vCPUs run */
	FRAME_REQUEST,	 /* URGENT, destination: pages that somebody waits for */
	FRAME_DONE,	 /* CONTROL, source: every page was sent */
	FRAME_RELEASE,	 /* CONTROL, destination: every page is there; the source may forget the VM */
	FRAME_PING,	 /* CONTROL: I am alive */
	FRAME_PONG,	 /* the answer, with PING's body */
	FRAME_RESUME,	 /* CONTROL, source: the recovery is complete, ask again for what you wait for */
	FRAME_ABORT,	 /* CONTROL, source, before COMMIT: the VM stays here */
	FRAME_DIGESTS,	 /* CONTROL, source, after DONE, in verify mode: CRC-32C of pages */
	FRAME_VERIFIED,	 /* CONTROL, destination: how they compare */
	FRAME_BYE,	 /* CONTROL, source: RELEASE was received */
	FRAME_PASSED,	 /* CONTROL, source, before OFFER, in mode local: names of descriptors, which come with it */
	FRAME_DISKS,	 /* CONTROL, source, before OFFER: disks that come along */
	FRAME_TYPES
};

struct frame {
	u16 type, flags;
	u32 epoch;
	u64 seq, len;
	const u8 *body; /* len bytes; borrowed from the channel, until its next receive */
};

/* Bytes that a body of this type has at most; 0: no such type. package_cap is what was negotiated. */
u64 frame_cap(u16 type, u64 package_cap);
const char *frame_name(u16 type); /* "PAGES"; "?" */
/* Fills the FRAME_HEADER_SIZE bytes. */
void frame_encode(const struct frame *f, u8 *header);
/* Takes a header apart and checks magic, CRC, type (unknown ones that are not optional) and length against cap. -EPROTO, -EFBIG: e says
 * what, with numbers. f->body stays NULL. */
int frame_decode(const u8 *header, u64 package_cap, struct frame *f, struct err *e) MUST_CHECK;

#endif

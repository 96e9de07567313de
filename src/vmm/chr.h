/*
 * chr.h: a character backend: where a serial port or a console sends its bytes and takes them from.
 *
 * Output never stalls the VM: bytes go into a ring and from there to the descriptor as it takes them; what does not fit into the ring is
 * dropped and counted. Input is read only while the frontend has room (chr_rx_room), so nothing typed or piped in is lost.
 * On a terminal the backend switches to raw mode and watches for the escape character (Ctrl-a: x quit, h help, a sends Ctrl-a); the
 * terminal's settings come back in chr_free, and in chr_restore_terminal for exits that do not get that far.
 * The process must ignore SIGPIPE: a reader may go at any time.
 */
#ifndef HUSK_CHR_H
#define HUSK_CHR_H

#include "vmm/base/err.h"

struct vm;
struct chr;

/* Called with received bytes; returns how many it took. ctx: loop */
typedef u32 chr_rx_fn(void *opaque, const u8 *data, u32 len);

/* spec: "stdio" (one per process), "pty", "unix:PATH" (listens; one client at a time), "file:PATH" (output only, truncated), "null".
 * rx may be NULL: input is thrown away, stdin not touched. NULL with e filled on failure. ctx: before start */
struct chr *chr_new(struct vm *vm, const char *spec, chr_rx_fn *rx, void *opaque, struct err *e);
/* Output only, to the file or FIFO at path: made when it is missing, not truncated, written from its start. ctx: before start */
struct chr *chr_new_output(struct vm *vm, const char *path, struct err *e);
void chr_free(struct chr *c);
/* Queues output; what the ring cannot hold is dropped and counted. ctx: any */
void chr_write(struct chr *c, const void *data, u32 len);
/* The frontend has room again: go on reading. ctx: any */
void chr_rx_resume(struct chr *c);
/* Writes what is still queued, for at most timeout_ms. ctx: loop, at the end */
void chr_drain(struct chr *c, u32 timeout_ms);
/* Bytes of output that were dropped so far. ctx: any */
u64 chr_dropped(struct chr *c);
/* Text after the pty is open ("/dev/pts/3"), for the user; NULL otherwise. */
const char *chr_path(const struct chr *c);
/* The size of the terminal that output goes to. False (and 0, 0): there is none, or it does not know. ctx: any */
bool chr_size(struct chr *c, u16 *cols, u16 *rows);
/* Syntax check of a spec for the configuration. */
bool chr_spec_ok(const char *spec);
/* Gives the terminal its settings back if any chr of this process changed them. ctx: any, async-signal-safe */
void chr_restore_terminal(void);

#endif

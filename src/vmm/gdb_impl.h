/*
 * gdb_impl.h: what gdb*.c share.
 *
 *   gdb_socket.c   listener, client, packets: checksums, acknowledgements, escapes; bounded both ways
 *   gdb_cmd.c      what a packet asks for
 *   gdb.c          run control: hold, step, continue, stop replies
 *   gdb_mem.c      guest memory by virtual address; breakpoints
 *
 * ctx: loop. "Held" means that all vCPUs are parked: registers and memory may be looked at only then.
 */
#ifndef HUSK_GDB_IMPL_H
#define HUSK_GDB_IMPL_H

#include "vmm/gdb.h"
#include "vmm/gdb_arch.h"
#include "vmm/vm.h"

#define GDB_PACKET_MAX 0x4000u /* bytes of a packet's data, both ways */
#define GDB_CHUNK      4096u   /* read at once */

enum gdb_framing { GDB_IDLE, GDB_DATA, GDB_SUM_HIGH, GDB_SUM_LOW };

struct gdb {
	struct vm *vm;
	char *address; /* owned */

	/* gdb_socket.c */
	struct loop_fd listener, client; /* owned descriptors, or -1 */
	u64 sock_dev, sock_ino;		 /* the socket file that is ours to remove; 0: none */
	u8 chunk[GDB_CHUNK];		 /* read and not looked at yet: [chunk_at, chunk_len) */
	u32 chunk_at, chunk_len;
	enum gdb_framing framing;
	u8 sum, their_sum;
	bool too_long, no_ack;
	char packet[GDB_PACKET_MAX + 1]; /* being received; NUL-terminated when complete */
	u32 packet_len;
	char reply[GDB_PACKET_MAX + 1]; /* being composed; then kept, in case that the client wants it again */
	u32 reply_len;
	struct buf out; /* framed, [out_at, len) is still to be sent */
	size_t out_at;

	/* gdb.c */
	bool held;					   /* all vCPUs are parked by us */
	bool paused_clock;				   /* and we have stopped the VM's clock */
	bool fetched[VM_MAX_VCPUS], changed[VM_MAX_VCPUS]; /* v->cpu is what the accelerator has; is newer */
	u32 thread_g, thread_c;				   /* vCPU that registers and memory are of; that 's' steps */
	struct loop_work stop_work;
	bool knows_swbreak, knows_hwbreak; /* the client understands these stop reasons */

	/* gdb_mem.c */
	struct debug_hw hw[DEBUG_MAX_HW];
	u8 hw_type[DEBUG_MAX_HW]; /* as in Z1..Z4 */
	struct buf description;	  /* made when it is first asked for */
};

/* ---- gdb_socket.c ---- */
/* Composes and sends the reply. */
void gdb_put(struct gdb *g, const char *fmt, ...) PRINTF_LIKE(2, 3);
void gdb_put_hex(struct gdb *g, const void *data, size_t len);
void gdb_put_binary(struct gdb *g, const void *data, size_t len);
void gdb_send(struct gdb *g);

/* ---- gdb_cmd.c ---- */
/* One whole packet, in g->packet; replies if a reply is due now. */
void gdb_command(struct gdb *g);

/* ---- gdb.c ---- */
/* All vCPUs parked. */
void gdb_hold(struct gdb *g);
/* Which vCPUs to let go, and which of these for one instruction. */
struct gdb_resume {
	bool run[VM_MAX_VCPUS], step[VM_MAX_VCPUS];
};
/* Lets go; a failure of the accelerator leaves all held, and is logged. */
int gdb_resume(struct gdb *g, const struct gdb_resume *r);
/* As if there had never been a debugger: no breakpoints, everything runs. */
void gdb_detach(struct gdb *g);
/* Composes the stop reply: signal 5 with the reason, or `signal` alone. */
void gdb_put_stop(struct gdb *g, u32 signal);
/* Ctrl-C. */
void gdb_interrupt(struct gdb *g);
/* Registers of a vCPU, or NULL. Changing: they are given back to the accelerator on resume. */
struct cpu_state *gdb_cpu(struct gdb *g, u32 index, bool change);

/* ---- gdb_mem.c ---- */
/* Bytes that could be read or written, from the first on. Breakpoints are hidden. */
u64 gdb_mem_read(struct gdb *g, u64 gva, u8 *data, u64 len);
u64 gdb_mem_write(struct gdb *g, u64 gva, const u8 *data, u64 len);
/* type as in Z packets: 0 software, 1 hardware, 2 write, 3 read, 4 access. -errno. */
int gdb_break_add(struct gdb *g, u32 type, u64 gva, u64 len) MUST_CHECK;
int gdb_break_remove(struct gdb *g, u32 type, u64 gva, u64 len) MUST_CHECK;
void gdb_break_clear(struct gdb *g);

#endif

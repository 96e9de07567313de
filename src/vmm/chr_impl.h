/* chr_impl.h: what the parts of the character backend share: chr.c (data), chr_open.c (the kinds), chr_tty.c (the terminal). */
#ifndef HUSK_CHR_IMPL_H
#define HUSK_CHR_IMPL_H

#include <sys/types.h>

#include "vmm/chr.h"
#include "vmm/clock.h"
#include "vmm/vm.h"

#define CHR_RING_SIZE 65536u
#define CHR_IN_SIZE   4096u

enum chr_kind { CHR_NULL, CHR_STDIO, CHR_PTY, CHR_UNIX, CHR_FILE };

struct chr {
	struct vm *vm; /* borrowed */
	enum chr_kind kind;
	chr_rx_fn *rx;
	void *opaque;
	char *path; /* owned; of a file, socket or pty */
	bool keep;  /* of a file: what is in it */

	pthread_mutex_t lock; /* guards the output side; taken after a device's lock, never held around rx */
	struct loop_fd out;   /* fd owned, -1 = nobody there; watched while the ring holds something */
	bool out_shared;      /* not our own description: poll before each small write */
	u8 *ring;	      /* owned; NULL until output backs up */
	u32 ring_start, ring_used;
	u64 dropped, dropped_logged; /* bytes */
	bool failed;		     /* said that output is lost */
	struct log_limit log_limit;

	struct loop_fd in; /* ctx: loop from here on; fd owned, -1 = no input (any more) */
	bool in_pollable;
	bool is_tty;
	bool escaped;		 /* the last byte was Ctrl-a */
	struct loop_work resume; /* the frontend has room */
	struct loop_timer tick;	 /* is_tty: is it ours (again)?  not in_pollable: read on */
	u8 in_buf[CHR_IN_SIZE];	 /* read, not taken by the frontend yet */
	u32 in_len;

	struct loop_fd listener; /* unix: fd owned */
	dev_t sock_dev;		 /* of the socket file that is ours to remove */
	ino_t sock_ino;
	int pty_slave; /* owned: keeps the pty from hanging up between two users */
};

/* chr.c. ctx: loop, or before start */
void chr_watch_out(struct chr *c); /* c->lock held */
void chr_watch_in(struct chr *c);
void chr_close_in(struct chr *c);
/* Closes the client of a unix chr, both ways. c->lock held */
void chr_close_client(struct chr *c);
/* Reads once; false at the end of the input. */
bool chr_read(struct chr *c);
bool chr_has_room(const struct chr *c);
/* Hands what was read to the frontend. */
void chr_deliver(struct chr *c);

/* chr_open.c */
bool chr_spec_parse(const char *spec, enum chr_kind *kind, const char **path);
/* Opens what c->kind and c->path say; on failure chr_free cleans up. */
int chr_open(struct chr *c, struct err *e) MUST_CHECK;
/* Undoes what chr_open did outside of c: the socket file, the claim on stdio. */
void chr_unclaim(struct chr *c);
/* "unix:/run/vm.sock", for messages. */
#define CHR_NAME_FMT	"%s%s"
#define CHR_NAME_ARG(c) chr_kind_names[(c)->kind], (c)->path ? (c)->path : ""
extern const char *const chr_kind_names[];

/* chr_tty.c */
/* stdin and stdout belong to one chr of the process. False: another has them. ctx: any */
bool chr_stdio_claim(void);
void chr_stdio_release(void);
/* Raw mode, after the settings were saved. fd stays the caller's and must outlive chr_restore_terminal. */
void chr_tty_raw(int fd);
/* The shell took the terminal back and set it up for itself: nothing to restore. */
void chr_tty_forget(void);
/* False in a background job, which must leave the terminal alone: reading would stop it (SIGTTIN), raw mode would disturb the shell. */
bool chr_tty_is_ours(int fd);

#endif

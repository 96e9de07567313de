/*
 * fake_peer.h: a small vhost-user back end on a thread of the test's process: a RAM disk, or a file system that answers everything with
 * success. It can be told to break the protocol in each of many ways. It sees guest memory through descriptors only, as a real one.
 *
 *   struct fake_peer p;
 *   fake_peer_start(&p, PEER_DISK);          listens on p.path
 *   ... a device with that socket ...
 *   fake_peer_stop(&p);                      closes the connection: the peer is dead; requests it holds are lost
 */
#ifndef HUSK_TESTS_FAKE_PEER_H
#define HUSK_TESTS_FAKE_PEER_H

#include <pthread.h>

#include "virtio/vhost_user_msg.h"

#define PEER_DISK_BYTES (1 * MIB)
#define PEER_MAX_QUEUES 4u

enum fake_peer_kind { PEER_DISK, PEER_FS };

/* What it does wrong. */
enum fake_peer_fault {
	PEER_FINE,
	PEER_OLD,	       /* no VERSION_1 */
	PEER_NO_CONFIG,	       /* lacks the CONFIG protocol feature */
	PEER_SHORT_ANSWER,     /* 4 bytes to GET_FEATURES */
	PEER_HUGE_ANSWER,      /* says that 4 GiB follow */
	PEER_OTHER_ANSWER,     /* answers another request than the one asked */
	PEER_NO_REPLY_FLAG,    /* its answer looks like a request */
	PEER_OTHER_VERSION,    /* of the protocol */
	PEER_EMPTY_CONFIG,     /* no payload in the answer to GET_CONFIG: its way to say that it failed */
	PEER_ODD_BLOCKS,       /* blocks of 1000 bytes */
	PEER_CLOSES,	       /* right after it was asked for its features */
	PEER_HALF_MESSAGE,     /* and closes */
	PEER_REFUSES_MEMORY,   /* acknowledges SET_MEM_TABLE with an error */
	PEER_UNASKED_ANSWER,   /* sends an answer that nobody waits for, once it runs */
	PEER_USES_UNKNOWN,     /* hands back a request that it never got */
	PEER_USES_TWICE,       /* the same one twice */
	PEER_USES_FAR,	       /* the used index jumps by half a ring */
	PEER_USES_OUT_OF_RING, /* request 70000 */
	PEER_ATTACHES_FDS,     /* to each answer; nothing else is wrong */
};

struct fake_peer {
	char path[64];
	enum fake_peer_kind kind;
	enum fake_peer_fault fault;
	bool no_indirect; /* does not offer INDIRECT_DESC */
	u64 extra;	  /* device features on top: BIT(VIRTIO_BLK_F_...) */
	u16 queues;	  /* default 1 (disk) or 2 */
	u64 capacity;	  /* sectors that it tells; atomic */
	bool hold;	  /* take no requests off the rings for now; atomic */
	u32 used_len;	  /* when not 0: the length that it reports for each request */

	u8 *disk;
	/* what happened; atomic */
	u32 connections, requests, held, starts, stops, indirect;
	u64 features; /* that the front end acknowledged */

	/* its own */
	int listen_fd, fd, backend_fd, wake_fd;
	pthread_t thread;
	bool stop;
	struct {
		u8 *map;
		u64 len, offset, gpa, size, user;
	} regions[VU_MAX_REGIONS];
	u32 nr_regions;
	struct {
		u64 desc, avail, used; /* user addresses */
		u32 num;
		u16 last_avail, used_idx;
		int kick_fd, call_fd;
		bool enabled;
	} rings[PEER_MAX_QUEUES];
};

void fake_peer_init(struct fake_peer *p, enum fake_peer_kind kind);
/* Listens and serves. Again after fake_peer_stop: its successor, with the same disk. */
void fake_peer_start(struct fake_peer *p);
/* Ends the thread and the connection; the socket file goes. */
void fake_peer_stop(struct fake_peer *p);
/* Lets it take up its requests again. */
void fake_peer_release(struct fake_peer *p);
/* Says on its own channel that the configuration has changed. */
void fake_peer_config_changed(struct fake_peer *p);
void fake_peer_fini(struct fake_peer *p);

#endif

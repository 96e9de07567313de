/*
 * vsock_unix.h: the host's side of the vsock device: Firecracker's protocol over unix stream sockets.
 *
 *   host -> guest  a client connects to PATH, writes "CONNECT <port>\n", reads "OK <port of the host's side>\n", then the stream
 *   guest -> host  a connection to port P of the host (CID 2) becomes one to the socket PATH_P
 *
 * All sockets are non-blocking. ctx: loop, or before and after it, unless said otherwise.
 */
#ifndef HUSK_BACKEND_VSOCK_UNIX_H
#define HUSK_BACKEND_VSOCK_UNIX_H

#include <sys/stat.h>

#include "vmm/base/err.h"

#define VSOCK_UNIX_PATH_MAX 107u /* bytes, as in struct sockaddr_un */
#define VSOCK_UNIX_LINE_MAX 32u	 /* bytes of a CONNECT line with its newline */

struct vsock_listener {
	int fd;	    /* owned, or -1 */
	char *path; /* owned */
	dev_t dev;  /* of the socket file, so that only our own is removed */
	ino_t ino;
	bool passed; /* another husk has it, too: the socket file is for whoever goes on with the VM */
};

/* Binds path, which must not exist, and listens. -EADDRINUSE and others, with a sentence that says what to do. ctx: any */
int vsock_unix_listen(struct vsock_listener *l, const char *path, struct err *e) MUST_CHECK;
/* Goes on with a socket (owned from now on, also on failure) that listens there already. -EINVAL: it does not. ctx: any */
int vsock_unix_adopt(struct vsock_listener *l, const char *path, int fd, struct err *e) MUST_CHECK;
/* Closes, and removes the socket file if it is still the one that was made, unless `keep`. Accepts one that vsock_unix_listen failed for.
 * ctx: any */
void vsock_unix_unlisten(struct vsock_listener *l, bool keep);

/* The next client: a descriptor, or -errno (-EAGAIN: none there; -EMFILE, -ENFILE, -ENOBUFS, -ENOMEM: the host has no more). */
int vsock_unix_accept(struct vsock_listener *l);
/* Connects to PATH_port. A descriptor, or -errno (-ENOENT, -ECONNREFUSED: nobody listens; -ENAMETOOLONG). */
int vsock_unix_connect(const struct vsock_listener *l, u32 port);

/* Takes the CONNECT line from the socket and leaves what follows it. 0; -EAGAIN: not all of it there yet; else the client is to be left. */
int vsock_unix_read_line(int fd, u32 *port);
/* Answers it: the host's side of the connection has this port. 0 or -errno */
int vsock_unix_say_ok(int fd, u32 port);

#endif

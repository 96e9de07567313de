/*
 * server.h: HTTP on a unix socket, served by libmicrohttpd on one thread of its own, "fc_api". Requests are bounded: SERVER_MAX_CONNECTIONS
 * connections, max_payload bytes of body, SERVER_REQUEST_S seconds from the request line to the last byte of the answer.
 */
#ifndef HUSK_API_SERVER_H
#define HUSK_API_SERVER_H

#include <pthread.h>

#include "api/control.h"

#define SERVER_MAX_CONNECTIONS	   10
#define SERVER_REQUEST_S	   30
#define SERVER_DEFAULT_MAX_PAYLOAD 51200u

struct MHD_Daemon;

/* One connection. The API thread's. */
struct server_peer {
	int fd;		 /* libmicrohttpd's; -1: this place is free */
	u64 deadline_ns; /* of the request that is being served; 0: it waits for one, which may take any time */
	bool ended;	 /* the client sends no more */
};

struct server {
	struct control *control; /* borrowed; NULL: not started */
	u64 max_payload;
	int listen_fd, stop_fd, epoll_fd; /* the last is libmicrohttpd's */
	struct MHD_Daemon *daemon;
	pthread_t thread;
	bool thread_started;
	struct server_peer peers[SERVER_MAX_CONNECTIONS];
};

/* Makes the socket (a path that exists is an error: husk does not know whose it is) and serves it. ctx: main */
int server_start(struct server *s, const char *path, u64 max_payload, struct control *c, struct err *e) MUST_CHECK;
/* control_end first: a request that waits would wait for ever. The socket's name stays, as Firecracker's does. Accepts zeroed. ctx: main */
void server_stop(struct server *s);

#endif

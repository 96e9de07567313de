/* net.c: TCP throughput each way, and the rate at which one byte goes there and back. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io.h"

enum { SINK, SOURCE, ECHO, NR_PORTS };

#define FIRST_PORT 7001
#define CHUNK	   (256u * 1024)
#define WARM_UP	   5 /* a part of the time that slow start gets, which does not count: 1/5 */

static struct sockaddr_in address_of(const char *text, int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(FIRST_PORT + port))};

	if (inet_pton(AF_INET, text, &a.sin_addr) != 1)
		die(text);
	return a;
}

static void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* ---- host ---- */

/* Takes all there is, and answers how much that was. */
static void serve_sink(int fd, uint8_t *data)
{
	uint64_t total = 0;
	ssize_t n;

	while ((n = recv(fd, data, CHUNK, 0)) > 0)
		total += (uint64_t)n;
	send(fd, &total, sizeof(total), 0);
}

static void serve_source(int fd, uint8_t *data)
{
	while (send(fd, data, CHUNK, 0) > 0)
		;
}

static void serve_echo(int fd, uint8_t *data)
{
	ssize_t n;

	no_delay(fd);
	while ((n = recv(fd, data, CHUNK, 0)) > 0)
		send(fd, data, (size_t)n, 0);
}

static int listen_at(const char *text, int port)
{
	struct sockaddr_in a = address_of(text, port);
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 8) < 0)
		die(text);
	return fd;
}

_Noreturn void net_serve(const char *text)
{
	static void (*const serve[NR_PORTS])(int fd, uint8_t *data) = {serve_sink, serve_source, serve_echo};
	struct pollfd p[NR_PORTS];
	uint8_t *data = calloc(1, CHUNK);

	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < NR_PORTS; i++)
		p[i] = (struct pollfd){.fd = listen_at(text, i), .events = POLLIN};
	for (;;) {
		if (poll(p, NR_PORTS, -1) < 0)
			die("poll");
		for (int i = 0; i < NR_PORTS; i++) {
			int fd = p[i].revents ? accept(p[i].fd, NULL, NULL) : -1;

			if (fd < 0)
				continue;
			serve[i](fd, data);
			close(fd);
		}
	}
}

/* ---- guest ---- */

static int connect_to(const char *text, int port)
{
	struct sockaddr_in a = address_of(text, port);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		die("connect");
	return fd;
}

static uint64_t deadline(uint64_t ms)
{
	return now_ns() + ms * 1000000;
}

static uint64_t send_until(int fd, uint8_t *data, uint64_t end)
{
	uint64_t total = 0;

	while (now_ns() < end) {
		ssize_t n = send(fd, data, CHUNK, 0);

		if (n < 0)
			die("send");
		total += (uint64_t)n;
	}
	return total;
}

/* What is on its way when the time is up counts, and so does its time. */
static void bench_send(const char *text, uint8_t *data, uint64_t ms)
{
	int fd = connect_to(text, SINK);
	uint64_t warm, total, there, start;

	warm = send_until(fd, data, deadline(ms / WARM_UP));
	start = now_ns();
	total = send_until(fd, data, start + ms * 1000000);
	shutdown(fd, SHUT_WR);
	if (recv(fd, &there, sizeof(there), MSG_WAITALL) != sizeof(there) || there != warm + total) {
		fprintf(stderr, "io: WRONG DATA: %llu bytes sent, but not received\n", (unsigned long long)(warm + total));
		exit(1);
	}
	result("tcp-send", total, now_ns() - start);
	close(fd);
}

static uint64_t receive_until(int fd, uint8_t *data, uint64_t end)
{
	uint64_t total = 0;

	while (now_ns() < end) {
		ssize_t n = recv(fd, data, CHUNK, 0);

		if (n <= 0)
			die("recv");
		total += (uint64_t)n;
	}
	return total;
}

static void bench_receive(const char *text, uint8_t *data, uint64_t ms)
{
	int fd = connect_to(text, SOURCE);
	uint64_t start, total;

	receive_until(fd, data, deadline(ms / WARM_UP));
	start = now_ns();
	total = receive_until(fd, data, start + ms * 1000000);
	result("tcp-receive", total, now_ns() - start);
	close(fd);
}

static void bench_ping_pong(const char *text, uint64_t ms)
{
	int fd = connect_to(text, ECHO);
	uint64_t start = now_ns(), end = start + ms * 1000000, rounds = 0, now;
	uint8_t byte = 1;

	no_delay(fd);
	do {
		if (send(fd, &byte, 1, 0) != 1 || recv(fd, &byte, 1, 0) != 1 || byte != (uint8_t)(1 + rounds))
			die("ping pong");
		rounds++;
		byte++;
		now = now_ns();
	} while (now < end);
	result("tcp-rr", rounds, now - start);
	close(fd);
}

void net_bench(const char *text, uint64_t ms, const char *only)
{
	uint8_t *data = calloc(1, CHUNK);

	if (!data)
		die("memory");
	if (begin("tcp-send", only))
		bench_send(text, data, ms);
	if (begin("tcp-receive", only))
		bench_receive(text, data, ms);
	if (begin("tcp-rr", only))
		bench_ping_pong(text, ms);
	free(data);
}

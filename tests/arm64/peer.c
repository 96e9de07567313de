/* peer.c: both ends of vsock connections in test_devices_arm64.py, guest and host. Static: it runs from an initrd. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define HOST_PORT 53 /* where the host's program listens */

static void die(const char *what)
{
	printf("peer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void send_all(int fd, const void *data, size_t len)
{
	for (ssize_t n; len; data = (const char *)data + n, len -= (size_t)n) {
		n = write(fd, data, len);
		if (n <= 0)
			die("write");
	}
}

/* Reads until len or the end; how much came. */
static size_t receive(int fd, char *data, size_t len)
{
	size_t got = 0;

	for (ssize_t n = 1; n > 0 && got < len; got += (size_t)n) {
		n = read(fd, data + got, len - got);
		if (n < 0)
			die("read");
	}
	return got;
}

static struct sockaddr_vm vm_address(unsigned cid, unsigned port)
{
	return (struct sockaddr_vm){.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
}

/* Echoes one connection to its end, then asks the host something. */
static void guest(unsigned port)
{
	struct sockaddr_vm mine = vm_address(VMADDR_CID_ANY, port), host = vm_address(VMADDR_CID_HOST, HOST_PORT);
	static char data[65536], answer[64];
	int on = socket(AF_VSOCK, SOCK_STREAM, 0), fd;
	ssize_t n;

	if (on < 0 || bind(on, (struct sockaddr *)&mine, sizeof(mine)) < 0 || listen(on, 1) < 0)
		die("listen");
	puts("peer: the guest listens");
	fflush(stdout);
	fd = accept(on, NULL, NULL);
	if (fd < 0)
		die("accept");
	while ((n = read(fd, data, sizeof(data))) > 0)
		send_all(fd, data, (size_t)n);
	close(fd);
	fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&host, sizeof(host)) < 0)
		die("connect to the host");
	send_all(fd, "which port?", 11);
	shutdown(fd, SHUT_WR);
	receive(fd, answer, sizeof(answer) - 1);
	printf("peer: the host answers: %s\n", answer);
}

static struct sockaddr_un unix_address(const char *path, const char *more)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	snprintf(a.sun_path, sizeof(a.sun_path), "%s%s", path, more);
	return a;
}

static void sends_and_compares(int fd, size_t len)
{
	char *data = malloc(len), *back = malloc(len);
	pid_t child;

	if (!data || !back)
		die("malloc");
	for (size_t i = 0; i < len; i++)
		data[i] = (char)(i * 2654435761u >> 13);
	child = fork();
	if (child == 0) {
		send_all(fd, data, len);
		shutdown(fd, SHUT_WR);
		_exit(0);
	}
	if (receive(fd, back, len) != len || memcmp(data, back, len))
		die("what comes back is not what was sent");
	if (read(fd, back, 1) != 0)
		die("more comes back than was sent");
	waitpid(child, NULL, 0);
	printf("peer: %zu bytes came back\n", len);
	free(data);
	free(back);
}

/* path: husk's socket. */
static void host(const char *path, const char *port, size_t len)
{
	struct sockaddr_un husk = unix_address(path, ""), mine = unix_address(path, "_53");
	int on = socket(AF_UNIX, SOCK_STREAM, 0), fd = socket(AF_UNIX, SOCK_STREAM, 0);
	char text[64] = "";

	if (bind(on, (struct sockaddr *)&mine, sizeof(mine)) < 0 || listen(on, 1) < 0)
		die("listen");
	if (connect(fd, (struct sockaddr *)&husk, sizeof(husk)) < 0)
		die("connect to husk");
	snprintf(text, sizeof(text), "CONNECT %s\n", port);
	send_all(fd, text, strlen(text));
	memset(text, 0, sizeof(text));
	for (size_t n = 0; n < sizeof(text) - 1 && !strchr(text, '\n'); n++)
		receive(fd, text + n, 1);
	printf("peer: husk says %s", text);
	sends_and_compares(fd, len);
	close(fd);
	fd = accept(on, NULL, NULL);
	memset(text, 0, sizeof(text));
	receive(fd, text, sizeof(text) - 1);
	printf("peer: the guest asks: %s\n", text);
	send_all(fd, "port 53", 7);
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "guest"))
		guest((unsigned)atoi(argv[2]));
	else if (argc == 5 && !strcmp(argv[1], "host"))
		host(argv[2], argv[3], strtoul(argv[4], NULL, 0));
	else
		die("usage: peer guest PORT | host SOCKET PORT BYTES");
	return 0;
}

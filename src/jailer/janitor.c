/* janitor.c: see janitor.h. */
#include "jailer/janitor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Nobody shall wait for the janitor because it holds the other end of his pipe or terminal. */
static void leave_stdio(void)
{
	auto_fd int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; null >= 0 && fd <= 2; fd++)
		dup2(null, fd);
	(void)!chdir("/");
}

static void wait_and_remove(struct jail *j, int fd)
{
	struct pollfd end = {.events = POLLIN};
	auto_fd int pidfd = -1;
	struct err e;
	pid_t pid;

	if (read(fd, &pid, sizeof(pid)) != sizeof(pid))
		return;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0 || write(fd, &pid, sizeof(pid)) != sizeof(pid))
		return;
	close(fd);
	end.fd = pidfd;
	while (poll(&end, 1, -1) < 0 && errno == EINTR)
		;
	/* Threads and memory of a big VM take their time to go. */
	for (int i = 0; i < 100 && jail_remove(j, &e) == -EBUSY; i++)
		usleep(20000);
}

static int run_janitor(struct jail *j, int fd)
{
	/* In a session of its own, and nobody's child: the program shall not find a process that it did not start. */
	if (setsid() < 0 || fork() != 0)
		return JANITOR_OVER;
	leave_stdio();
	wait_and_remove(j, fd);
	return JANITOR_OVER;
}

int janitor_start(struct jail *j, int *fd, struct err *e)
{
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return oserr_set(e, "Failed to make a socket pair");
	pid = fork();
	if (pid == 0) {
		close(pair[0]);
		return run_janitor(j, pair[1]);
	}
	close(pair[1]);
	*fd = pair[0];
	if (pid < 0)
		return oserr_set(e, "Failed cloning into a new child process");
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

int janitor_watch(int fd, pid_t pid, struct err *e)
{
	pid_t answer = 0;

	if (fd < 0)
		return 0;
	if (write(fd, &pid, sizeof(pid)) != sizeof(pid) || read(fd, &answer, sizeof(answer)) != sizeof(answer) || answer != pid)
		return err_set(e, -ESRCH, "Failed to watch process %d for --cleanup", pid);
	return 0;
}

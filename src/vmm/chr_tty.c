/* chr_tty.c: the terminal of the process: raw mode and back. */
#include "vmm/chr_impl.h"

#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

/* The process has one stdin and one terminal, however many VMs it holds, and a signal handler must find the settings without a struct vm:
 * the one place in husk where state hangs off the process. */
static struct {
	bool claimed; /* atomic */
	bool raw;     /* saved is valid and due back; atomic */
	int fd;
	struct termios saved;
} terminal;

bool chr_stdio_claim(void)
{
	return !__atomic_exchange_n(&terminal.claimed, true, __ATOMIC_ACQ_REL);
}

void chr_stdio_release(void)
{
	__atomic_store_n(&terminal.claimed, false, __ATOMIC_RELEASE);
}

/* tcsetattr from a background job raises SIGTTOU, which stops it; blocked, the call goes through. */
static void set_attributes(int fd, const struct termios *t)
{
	sigset_t block, old;

	sigemptyset(&block);
	sigaddset(&block, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	tcsetattr(fd, TCSANOW, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void chr_restore_terminal(void)
{
	int saved_errno = errno;

	if (__atomic_exchange_n(&terminal.raw, false, __ATOMIC_ACQ_REL))
		set_attributes(terminal.fd, &terminal.saved);
	errno = saved_errno;
}

void chr_tty_raw(int fd)
{
	struct termios raw;

	if (__atomic_load_n(&terminal.raw, __ATOMIC_ACQUIRE) || tcgetattr(fd, &terminal.saved) < 0)
		return;
	raw = terminal.saved;
	cfmakeraw(&raw);
	terminal.fd = fd;
	__atomic_store_n(&terminal.raw, true, __ATOMIC_RELEASE); /* first: a signal in between finds saved complete */
	set_attributes(fd, &raw);
}

void chr_tty_forget(void)
{
	__atomic_store_n(&terminal.raw, false, __ATOMIC_RELEASE);
}

bool chr_size(struct chr *c, u16 *cols, u16 *rows)
{
	struct winsize w = {0};

	/* Of a pty we hold the master, and its size is what the program at the other end says. A socket or a file has none. */
	pthread_mutex_lock(&c->lock);
	if (c->out.fd >= 0)
		(void)!ioctl(c->out.fd, TIOCGWINSZ, &w);
	pthread_mutex_unlock(&c->lock);
	*cols = w.ws_col;
	*rows = w.ws_row;
	return w.ws_col && w.ws_row;
}

bool chr_tty_is_ours(int fd)
{
	pid_t foreground = tcgetpgrp(fd);

	return foreground < 0 || foreground == getpgrp(); /* < 0: not our controlling terminal, no job control */
}

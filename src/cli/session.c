/* session.c: see session.h. */
#include "cli/session.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmm/chr.h"

static const int end_signals[] = {SIGTERM, SIGINT, SIGHUP};
static const int crash_signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE};

/* A signal handler has nothing but globals to find the VM by: the one exception to "no mutable globals". Set before the handlers are. */
static struct vm *volatile signal_vm;

static void on_end_signal(int sig)
{
	(void)sig;
	vm_end(signal_vm, VM_END_HOST);
}

/* A crash of husk must not leave the user's terminal raw. SA_RESETHAND: the signal then has its default effect. */
static void on_crash_signal(int sig)
{
	chr_restore_terminal();
	raise(sig);
}

static void set_handlers(const int *signals, size_t nr, void (*handler)(int), int flags)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};

	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < nr; i++)
		sigaction(signals[i], &sa, NULL);
}

static void watch_signals(struct vm *vm)
{
	signal_vm = vm;
	set_handlers(end_signals, ARRAY_SIZE(end_signals), on_end_signal, SA_RESTART);
	signal(SIGPIPE, SIG_IGN); /* a reader of our output that goes away is an error of write() */
}

/* From here on the VM is being taken apart; a second signal ends the process the plain way. */
static void unwatch_signals(void)
{
	set_handlers(end_signals, ARRAY_SIZE(end_signals), SIG_DFL, 0);
}

int session_log(struct log *log, const struct config *c, int fd, enum log_level level, struct err *e)
{
	const struct cfg_logger *l = c->logger;

	log_init(log, fd, level);
	if (c->id)
		snprintf(log->id, sizeof(log->id), "%s", c->id);
	if (!l)
		return 0;
	if (l->level && log_level_parse(l->level, &log->level) < 0)
		return err_set(e, -EINVAL, "log level \"%s\" is unknown", l->level);
	log->show_level = l->show_level;
	log->show_origin = l->show_log_origin;
	log->module = l->module ? xstrdup(l->module) : NULL;
	return l->log_path ? log_open(log, l->log_path, e) : 0;
}

int session_run(const struct config *c, struct log *log, struct trace *trace, const char *started, enum vm_end *end, struct err *e)
{
	struct vm *vm = xzalloc(sizeof(*vm));
	int r;

	/* Before the accelerator's, which takes those that translated code raises and hands on the others. */
	set_handlers(crash_signals, ARRAY_SIZE(crash_signals), on_crash_signal, (int)(SA_RESETHAND | SA_NODEFER));
	r = vm_init(vm, c, log, trace, e);
	if (r == 0) {
		log_info(log, "%s", started);
		watch_signals(vm);
		r = vm_run(vm, end, e);
		unwatch_signals();
	}
	vm_fini(vm);
	chr_restore_terminal();
	free(vm);
	return r;
}

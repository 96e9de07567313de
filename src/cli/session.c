/* session.c: see session.h. */
#include "cli/session.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/logger.h"
#include "api/mmds.h"
#include "api/server.h"
#include "cli/cli.h"
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

/* A crash of husk must not leave the user's terminal raw. A page of the guest's that was lost with its pager is no crash: the log has told
 * of it, and several threads may meet one. */
static void on_crash_signal(int sig)
{
	chr_restore_terminal();
	if (sig == SIGSEGV && signal_vm && __atomic_load_n(&signal_vm->mem.lost, __ATOMIC_ACQUIRE))
		_exit(EXIT_INTERNAL);
	signal(sig, SIG_DFL);
	raise(sig);
}

static void set_handlers(const int *signals, size_t nr, void (*handler)(int), int flags)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};

	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < nr; i++)
		sigaction(signals[i], &sa, NULL);
}

static void watch_signals(void)
{
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
	log_init(log, fd, level);
	if (c->id)
		snprintf(log->id, sizeof(log->id), "%s", c->id);
	return logger_apply(log, c->logger, e);
}

/* From a configuration to the end of its VM. A failure is one of the start: nothing has run. */
static int run_vm(const struct session *s, const struct config *c, struct control *control, enum vm_end *end, struct err *e)
{
	struct metrics_source mmds = {.group = "mmds", .counters = mmds_counter_names, .base = &s->mmds->service.counters};
	const struct vm_options options = {
		.sandbox = s->sandbox,
		.restore = control && control_restores(control) ? control_restores(control) : s->restore,
		.document = control ? &control->doc : &s->doc,
	};
	struct vm *vm = xzalloc(sizeof(*vm));
	int r;

	signal_vm = vm;
	/* Before the accelerator's, which takes those that translated code raises and hands on the others. */
	set_handlers(crash_signals, ARRAY_SIZE(crash_signals), on_crash_signal, SA_NODEFER);
	r = vm_init_options(vm, c, s->log, s->trace, &options, e);
	if (r == 0) {
		log_info(s->log, "%s", s->started);
		mmds_configure(s->mmds, c->mmds);
		vm->mmds = &s->mmds->service;
		vm->metrics.own = s->own_counters;
		metrics_add_source(&vm->metrics, &mmds);
		if (control)
			r = control_attach(control, vm, e);
	}
	if (r == 0) {
		watch_signals();
		r = vm_run(vm, end, e);
		unwatch_signals();
	}
	if (control)
		control_detach(control);
	vm_fini(vm);
	chr_restore_terminal();
	signal_vm = NULL;
	free(vm);
	return r;
}

/* Starts the VM whenever a client says so, until it does start. A VM that is received comes, or not, and that is all. */
static int run_when_asked(const struct session *s, struct control *control, enum vm_end *end, struct err *e)
{
	int r = s->dest ? control_take_dest(control, s->dest, e) : -EAGAIN;

	if (s->dest && r < 0)
		return r;
	do {
		struct config c;

		control_wait_start(control);
		if (s->dest && !control->dest) {
			*e = control->not_offered;
			return e->code;
		}
		r = control_config(control, &c, e);
		if (r == 0) {
			r = run_vm(s, &c, control, end, e);
			config_fini(&c);
		}
		if (r < 0)
			control_refuse(control, e);
	} while (r < 0 && !s->dest);
	return r;
}

/* Unless its name was given to another husk's, which goes on with the VM. */
static void remove_own(const char *path, const struct stat *made)
{
	struct stat now;

	if (lstat(path, &now) == 0 && now.st_dev == made->st_dev && now.st_ino == made->st_ino)
		unlink(path);
}

static int run_with_api(const struct session *s, const struct config *c, enum vm_end *end, struct err *e)
{
	struct control control;
	struct server server = {0};
	struct stat made = {0};
	int r = control_init(&control, s->doc, s->mmds, s->log, e);

	if (r < 0)
		return r;
	signal(SIGPIPE, SIG_IGN);
	control.sandbox = s->sandbox;
	control.tls = s->tls;
	r = server_start(&server, s->api_sock, s->max_payload, &control, e);
	if (r == 0) {
		if (lstat(s->api_sock, &made) < 0)
			log_debug(s->log, "API socket \"%s\": %s", s->api_sock, strerror(errno));
		api_counters_started(&control.counters, s->start_us, s->start_cpu_us, s->parent_cpu_us);
		if (c)
			r = run_vm(s, c, &control, end, e);
		else
			r = run_when_asked(s, &control, end, e);
		control_end(&control);
		server_stop(&server);
		if (s->remove_sock)
			remove_own(s->api_sock, &made);
	}
	control_fini(&control);
	return r;
}

int session_run(const struct session *s, const struct config *c, enum vm_end *end, struct err *e)
{
	struct sandbox sandbox;
	struct session confined = *s;
	int r = sandbox_init(&sandbox, s->log, !s->no_seccomp, s->api_sock, e);

	if (r < 0)
		return r;
	confined.sandbox = &sandbox;
	r = s->api_sock ? run_with_api(&confined, c, end, e) : run_vm(&confined, c, NULL, end, e);
	sandbox_fini(&sandbox);
	return r;
}

/* kvm_vcpu.c: running a vCPU: KVM_RUN, its exits, and the kick that gets it out. */
#include "kvm/kvm.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Page of a vCPU's file where its dirty ring begins, on each architecture that has rings: KVM_DIRTY_LOG_PAGE_OFFSET. The headers of Linux
 * before 6.3 have 0 for arm64, which would be kvm_run's. */
#define RING_PAGE 64

static int map_run(const struct kvm_vm *kv, struct kvm_vcpu *kc, struct err *e)
{
	size_t size = kv->dirty.ring_entries * sizeof(struct kvm_dirty_gfn);
	void *p = mmap(NULL, kv->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, kc->fd, 0);

	if (p == MAP_FAILED)
		return err_errno(e, "cannot map the vCPU's shared page");
	kc->run = p;
	if (!size)
		return 0;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, kc->fd, RING_PAGE * sysconf(_SC_PAGESIZE));
	if (p == MAP_FAILED)
		return err_errno(e, "cannot map the vCPU's dirty ring");
	kc->ring = p;
	return 0;
}

int kvm_vcpu_init(struct vcpu *v, struct err *e)
{
	struct kvm_vm *kv = kvm_vm_of(v->vm);
	struct kvm_vcpu *kc = xzalloc(sizeof(*kc));
	int ret;

	v->accel = kc;
	kc->fd = ioctl(kv->fd, KVM_CREATE_VCPU, v->index);
	if (kc->fd < 0)
		ret = err_errno(e, "KVM cannot make the vCPU");
	else
		ret = map_run(kv, kc, e);
	if (!ret)
		ret = kvm_arch_vcpu_init(v, e);
	if (ret < 0)
		kvm_vcpu_fini(v);
	return ret;
}

void kvm_vcpu_fini(struct vcpu *v)
{
	struct kvm_vm *kv = kvm_vm_of(v->vm);
	struct kvm_vcpu *kc = v->accel;

	if (!kc)
		return;
	kvm_arch_vcpu_fini(v);
	if (kc->ring)
		munmap(kc->ring, kv->dirty.ring_entries * sizeof(struct kvm_dirty_gfn));
	if (kc->run)
		munmap(kc->run, kv->run_size);
	fd_close(&kc->fd);
	free(kc);
	v->accel = NULL;
}

/* The signal only has to interrupt KVM_RUN. */
static void kick_arrived(int sig)
{
	(void)sig;
}

int kvm_kick_init(struct err *e)
{
	struct sigaction act = {.sa_handler = kick_arrived};

	/* Once per process would do; doing it for each VM needs no record of it. */
	if (sigaction(SIGRTMIN, &act, NULL) < 0)
		return err_errno(e, "cannot install the handler of the vCPU signal");
	return 0;
}

/*
 * Why no kick is lost: the flag is stored before the signal is sent, and only the vCPU thread clears it.
 *  - Before KVM_RUN is entered, signal or not: the kernel looks at immediate_exit on entry and returns EINTR.
 *  - In the guest or asleep in HLT: the pending signal ends KVM_RUN with EINTR. Between the kernel's look and guest entry the same: signals
 *    are checked after it, with interrupts off.
 *  - The thread never ran: tid and flag are both sequentially consistent, so either the kick sees tid or KVM_RUN sees the flag.
 * A signal mask for KVM_RUN (KVM_SET_SIGNAL_MASK) would close the same race at the price of two mask changes for each run.
 */
void kvm_vcpu_kick(struct vcpu *v)
{
	struct kvm_vcpu *kc = v->accel;
	int tid, saved_errno = errno;

	__atomic_store_n(&kc->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	tid = __atomic_load_n(&kc->tid, __ATOMIC_SEQ_CST);
	if (tid)
		tgkill(getpid(), tid, SIGRTMIN);
	errno = saved_errno;
}

void kvm_kick_unblock(sigset_t *old)
{
	sigset_t kick;

	sigemptyset(&kick);
	sigaddset(&kick, SIGRTMIN);
	pthread_sigmask(SIG_UNBLOCK, &kick, old);
}

/* Makes this thread the one that kicks go to. vCPU threads start with all signals blocked. */
static void adopt_thread(struct kvm_vcpu *kc)
{
	kvm_kick_unblock(NULL);
	__atomic_store_n(&kc->tid, gettid(), __ATOMIC_SEQ_CST);
}

static void count(u64 *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/* String instructions come as several items of 1, 2 or 4 bytes for the same port. */
static enum vcpu_exit handle_pio(struct vcpu *v)
{
	struct kvm_run *run = ((struct kvm_vcpu *)v->accel)->run;
	bool in = run->io.direction == KVM_EXIT_IO_IN;
	u8 *data = (u8 *)run + run->io.data_offset;
	u16 port = run->io.port;
	u8 size = run->io.size;

	for (u32 left = run->io.count; left; left--, data += size) {
		if (in)
			bus_read(v->vm, BUS_PIO, port, data, size);
		else
			bus_write(v->vm, BUS_PIO, port, data, size);
		trace(v->vm->trace, kvm_pio, "vcpu=%u %s port=0x%x size=%u data=0x%x", v->index, in ? "in" : "out", port, size,
		      size == 1	  ? *data
		      : size == 2 ? ld_le16(data)
				  : ld_le32(data));
	}
	return VCPU_AGAIN;
}

/* An access of 3, 5, 6 or 7 bytes (one that straddles a page) goes to the bus in pieces of the sizes that devices know. */
static void mmio_access(struct vm *vm, bool write, u64 addr, u8 *data, u32 len)
{
	for (u32 piece = 8; piece; piece /= 2) {
		if (!(len & piece))
			continue;
		if (write)
			bus_write(vm, BUS_MMIO, addr, data, piece);
		else
			bus_read(vm, BUS_MMIO, addr, data, piece);
		addr += piece;
		data += piece;
	}
}

static enum vcpu_exit handle_mmio(struct vcpu *v)
{
	struct kvm_run *run = ((struct kvm_vcpu *)v->accel)->run;
	u64 addr = run->mmio.phys_addr;
	u32 len = MIN(run->mmio.len, sizeof(run->mmio.data));

	/* KVM could not reach the host page behind it, and takes the address for a device's. No device is there: an answer would be a lie.
	 */
	if (unlikely(mem_find(&v->vm->mem, addr, 1))) {
		log_error(
			v->vm->log,
			"vCPU %u: guest memory at 0x%llx is not accessible to KVM (a userfaultfd that serves user mode only, or no memory "
			"left on the host)",
			v->index, (unsigned long long)addr);
		kvm_arch_log_state(v);
		return VCPU_ERROR;
	}
	mmio_access(v->vm, run->mmio.is_write, addr, run->mmio.data, len);
	trace(v->vm->trace, kvm_mmio, "vcpu=%u %s addr=0x%llx len=%u data=0x%llx", v->index, run->mmio.is_write ? "write" : "read",
	      (unsigned long long)addr, len, (unsigned long long)ld_le64(run->mmio.data));
	return VCPU_AGAIN;
}

static enum vcpu_exit handle_system_event(struct vcpu *v)
{
	u32 type = ((struct kvm_vcpu *)v->accel)->run->system_event.type;

	switch (type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		return VCPU_POWEROFF;
	case KVM_SYSTEM_EVENT_RESET:
		return VCPU_RESET;
	case KVM_SYSTEM_EVENT_CRASH:
		return VCPU_SHUTDOWN;
	default:
		log_error(v->vm->log, "vCPU %u: KVM reports system event %u, which husk does not know", v->index, type);
		return VCPU_ERROR;
	}
}

static enum vcpu_exit handle_ring_full(struct vcpu *v)
{
	struct err e = {0};

	if (kvm_dirty_drain(kvm_vm_of(v->vm), &e) == 0)
		return VCPU_AGAIN;
	log_error(v->vm->log, "vCPU %u: %s", v->index, e.msg);
	return VCPU_ERROR;
}

/* Exits after which this vCPU cannot go on. */
static enum vcpu_exit handle_fatal(struct vcpu *v)
{
	struct kvm_run *run = ((struct kvm_vcpu *)v->accel)->run;

	switch (run->exit_reason) {
	case KVM_EXIT_FAIL_ENTRY:
		log_error(v->vm->log, "vCPU %u: the processor refuses the guest's state (reason 0x%llx, CPU %u)", v->index,
			  (unsigned long long)run->fail_entry.hardware_entry_failure_reason, run->fail_entry.cpu);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		log_error(v->vm->log, "vCPU %u: KVM internal error, suberror %u%s", v->index, run->internal.suberror,
			  run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION ? " (an instruction that KVM cannot emulate)" : "");
		break;
	case KVM_EXIT_UNKNOWN:
		log_error(v->vm->log, "vCPU %u: KVM does not know hardware exit 0x%llx", v->index,
			  (unsigned long long)run->hw.hardware_exit_reason);
		break;
	default:
		log_error(v->vm->log, "vCPU %u: KVM exit %u, which husk does not know", v->index, run->exit_reason);
	}
	kvm_arch_log_state(v);
	return VCPU_ERROR;
}

/* VCPU_AGAIN: go on with the guest. */
static enum vcpu_exit handle_exit(struct vcpu *v)
{
	struct kvm_vcpu *kc = v->accel;
	u32 reason = kc->run->exit_reason;

	count(&kc->exits[MIN(reason, KVM_NR_EXITS - 1u)]);
	trace(v->vm->trace, kvm_exit, "vcpu=%u reason=%u", v->index, reason);
	switch (reason) {
	case KVM_EXIT_IO:
		return handle_pio(v);
	case KVM_EXIT_MMIO:
		return handle_mmio(v);
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		return VCPU_AGAIN;
	case KVM_EXIT_SHUTDOWN:
		return VCPU_SHUTDOWN;
	case KVM_EXIT_SYSTEM_EVENT:
		return handle_system_event(v);
	case KVM_EXIT_DIRTY_RING_FULL:
		return handle_ring_full(v);
	case KVM_EXIT_DEBUG:
		return kvm_arch_debug_exit(v);
	default:
		return handle_fatal(v);
	}
}

/* KVM_RUN itself failed: what the host did wrong, as far as errno tells. */
static enum vcpu_exit run_failed(struct vcpu *v, int error)
{
	struct log *log = v->vm->log;
	const struct kvm_vcpu *kc = v->accel;

	errno = error;
	if (error == EFAULT || error == ENOMEM)
		log_error(log, "vCPU %u: the host cannot provide guest memory%s (%m)", v->index,
			  v->vm->mem.huge == MEM_HUGE_2M ? ": too few free huge pages, raise vm.nr_hugepages" : "");
	else if (error == EHWPOISON)
		log_error(log, "vCPU %u: guest memory lies on a broken page of the host (%m)", v->index);
	else
		log_error(log, "vCPU %u: KVM_RUN failed: %m (exit reason %u)", v->index, kc->run->exit_reason);
	kvm_arch_log_state(v);
	return VCPU_ERROR;
}

/* After an EINTR: was it a kick? The caller looks at its requests after this, so that one made before the next kick is not missed. */
static bool take_kick(struct vcpu *v)
{
	struct kvm_vcpu *kc = v->accel;

	if (!__atomic_exchange_n(&kc->run->immediate_exit, 0, __ATOMIC_SEQ_CST))
		return false;
	count(&kc->kicks);
	trace(v->vm->trace, kvm_kick, "vcpu=%u", v->index);
	kc->stopped = true;
	return true;
}

/*
 * Leaves with VCPU_AGAIN only through EINTR, and with VCPU_DEBUG between two instructions. That is what makes a parked vCPU whole: KVM
 * finishes the I/O of the last exit (stores what a read returned, moves RIP on) when it is entered again, before it looks at
 * immediate_exit. So after a kick nothing is half done, and vcpu_pull sees the state between two instructions.
 */
enum vcpu_exit kvm_vcpu_run(struct vcpu *v)
{
	struct kvm_vcpu *kc = v->accel;

	if (kc->tid != gettid())
		adopt_thread(kc);
	if (kc->stopped)
		kvm_arch_clock_stopped(kc);
	kc->stopped = false;
	for (;;) {
		enum vcpu_exit exit;

		if (ioctl(kc->fd, KVM_RUN, 0) == 0) {
			exit = handle_exit(v);
			if (exit != VCPU_AGAIN)
				return exit;
		} else if (errno == EINTR) {
			if (take_kick(v))
				return VCPU_AGAIN;
		} else if (errno != EAGAIN) { /* EAGAIN: a secondary vCPU was woken by INIT or SIPI */
			return run_failed(v, errno);
		}
	}
}

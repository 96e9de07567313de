/* kvm_irq.c: interrupt lines, irqfds and ioeventfds of the in-kernel interrupt chips. */
#include "kvm/kvm.h"

#include <sys/ioctl.h>

void kvm_irq_line(struct vm *vm, u32 gsi, bool level)
{
	struct kvm_irq_level irq = {.irq = kvm_arch_irq(gsi), .level = level};

	if (ioctl(kvm_vm_of(vm)->fd, KVM_IRQ_LINE, &irq) < 0)
		log_error(vm->log, "KVM cannot set interrupt line %u: %m", gsi);
}

int kvm_irqfd(struct vm *vm, int fd, u32 gsi, bool add, struct err *e)
{
	struct kvm_irqfd irqfd = {.fd = (u32)fd, .gsi = gsi, .flags = add ? 0 : KVM_IRQFD_FLAG_DEASSIGN};

	if (ioctl(kvm_vm_of(vm)->fd, KVM_IRQFD, &irqfd) < 0)
		return err_errno(e, "KVM cannot %s interrupt %u and an eventfd", add ? "connect" : "disconnect", gsi);
	return 0;
}

int kvm_ioeventfd(struct vm *vm, int fd, u64 addr, u32 len, u64 value, bool add, struct err *e)
{
	struct kvm_ioeventfd ioeventfd = {
		.datamatch = value,
		.addr = addr,
		.len = len,
		.fd = fd,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH | (add ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	if (ioctl(kvm_vm_of(vm)->fd, KVM_IOEVENTFD, &ioeventfd) < 0)
		return err_errno(e, "KVM cannot %s writes to 0x%llx and an eventfd", add ? "connect" : "disconnect",
				 (unsigned long long)addr);
	return 0;
}

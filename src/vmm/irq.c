/* irq.c: interrupt lines; see irq.h. */
#include "vmm/irq.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/vm.h"

int irq_init_edge(struct irq *irq, struct vm *vm, u32 gsi, struct err *e)
{
	int ret;

	*irq = (struct irq){.vm = vm, .gsi = gsi, .fd = -1};
	if (!vm->accel->irqfd)
		return 0;
	irq->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (irq->fd < 0)
		return err_errno(e, "cannot make an interrupt eventfd");
	ret = vm->accel->irqfd(vm, irq->fd, gsi, true, e);
	if (ret < 0)
		fd_close(&irq->fd);
	return ret;
}

void irq_init_level(struct irq *irq, struct vm *vm, u32 gsi)
{
	*irq = (struct irq){.vm = vm, .gsi = gsi, .fd = -1};
}

void irq_fini(struct irq *irq)
{
	if (irq->vm && irq->fd >= 0) {
		irq->vm->accel->irqfd(irq->vm, irq->fd, irq->gsi, false, NULL);
		fd_close(&irq->fd);
	}
	irq->vm = NULL;
}

void irq_pulse(struct irq *irq)
{
	if (!irq->vm)
		return;
	trace(irq->vm->trace, irq_pulse, "gsi=%u", irq->gsi);
	counter_add(&irq->vm->counters.interrupts, 1);
	if (irq->fd >= 0) {
		/* Fails only when the counter is full, and then a pulse is pending anyway. */
		if (eventfd_write(irq->fd, 1) < 0)
			ASSERT(errno == EAGAIN);
		return;
	}
	irq->vm->accel->irq_line(irq->vm, irq->gsi, true);
	irq->vm->accel->irq_line(irq->vm, irq->gsi, false);
}

void irq_set(struct irq *irq, bool level)
{
	if (!irq->vm)
		return;
	trace(irq->vm->trace, irq_set, "gsi=%u level=%d", irq->gsi, (int)level);
	irq->vm->accel->irq_line(irq->vm, irq->gsi, level);
}

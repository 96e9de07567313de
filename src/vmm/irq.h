/*
 * irq.h: one interrupt line of the machine, as a device sees it (GSI = input of the IOAPIC on x86, SPI on arm).
 * An edge line (virtio) is pulsed; where the accelerator offers it the pulse is one write to an irqfd. A level line (16550) is set.
 * ctx: any
 */
#ifndef HUSK_IRQ_H
#define HUSK_IRQ_H

#include "vmm/base/err.h"

struct vm;

struct irq {
	struct vm *vm; /* borrowed; NULL = not connected: pulses and levels go nowhere */
	u32 gsi;
	int fd; /* owned irqfd of an edge line, or -1 */
};

/* Connects an edge line, through an irqfd if there is one. ctx: before start */
int irq_init_edge(struct irq *irq, struct vm *vm, u32 gsi, struct err *e) MUST_CHECK;
/* Connects a level line. */
void irq_init_level(struct irq *irq, struct vm *vm, u32 gsi);
void irq_fini(struct irq *irq);

void irq_pulse(struct irq *irq);
void irq_set(struct irq *irq, bool level);

#endif

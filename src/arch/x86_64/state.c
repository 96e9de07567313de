/* state.c: the saved state of what is x86: tables of clocks, vCPUs and interrupt chips, and how their sections are filled and loaded. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "arch/x86_64/msr.h"
#include "arch/x86_64/vm_state.h"
#include "arch/x86_64/x86.h"
#include "vmm/machine.h"

/* ---- tables ---- */

static const struct state_field seg_fields[] = {
	STATE_NUM(struct x86_seg, base, 1, .hex = true),
	STATE_NUM(struct x86_seg, limit, 2, .hex = true),
	STATE_NUM(struct x86_seg, selector, 3, .hex = true),
	STATE_NUM(struct x86_seg, attr, 4, .hex = true, .max = 0x1fff),
	STATE_END,
};
static const struct state_table seg_table = {
	.name = "cpu_segment", .version = 1, .min_version = 1, .size = sizeof(struct x86_seg), .fields = seg_fields};

static const struct state_field dtable_fields[] = {
	STATE_NUM(struct x86_dtable, base, 1, .hex = true),
	STATE_NUM(struct x86_dtable, limit, 2, .hex = true),
	STATE_END,
};
static const struct state_table dtable_table = {
	.name = "cpu_dtable", .version = 1, .min_version = 1, .size = sizeof(struct x86_dtable), .fields = dtable_fields};

static const struct state_field msr_fields[] = {
	STATE_NUM(struct x86_msr, index, 1, .hex = true),
	STATE_NUM(struct x86_msr, value, 2, .hex = true),
	STATE_END,
};
static const struct state_table msr_table = {
	.name = "cpu_msr", .version = 1, .min_version = 1, .size = sizeof(struct x86_msr), .fields = msr_fields};

static const struct state_field leaf_fields[] = {
	STATE_NUM(struct x86_cpuid, leaf, 1, .hex = true), STATE_NUM(struct x86_cpuid, subleaf, 2, .hex = true),
	STATE_FLAG(struct x86_cpuid, has_subleaf, 3),	   STATE_NUM(struct x86_cpuid, eax, 4, .hex = true),
	STATE_NUM(struct x86_cpuid, ebx, 5, .hex = true),  STATE_NUM(struct x86_cpuid, ecx, 6, .hex = true),
	STATE_NUM(struct x86_cpuid, edx, 7, .hex = true),  STATE_END,
};
static const struct state_table leaf_table = {
	.name = "cpu_cpuid_leaf", .version = 1, .min_version = 1, .size = sizeof(struct x86_cpuid), .fields = leaf_fields};

static const struct state_field cpuid_fields[] = {
	STATE_NUM(struct x86_cpuid_table, nr, 1, .max = X86_CPUID_MAX),
	STATE_MANY(struct x86_cpuid_table, e, 2, &leaf_table, STATE_NR(struct x86_cpuid_table, nr)),
	STATE_END,
};
static const struct state_table cpuid_table = {
	.name = "cpu_cpuid", .version = 1, .min_version = 1, .size = sizeof(struct x86_cpuid_table), .fields = cpuid_fields};

static const struct state_field lapic_fields[] = {
	STATE_BUF(struct x86_lapic, regs, 1),
	STATE_END,
};
static const struct state_table lapic_table = {
	.name = "cpu_lapic", .version = 1, .min_version = 1, .size = sizeof(struct x86_lapic), .fields = lapic_fields};

static const struct state_field events_fields[] = {
	STATE_FLAG(struct x86_events, exception_pending, 1),
	STATE_FLAG(struct x86_events, exception_injected, 2),
	STATE_FLAG(struct x86_events, exception_has_error, 3),
	STATE_FLAG(struct x86_events, exception_has_payload, 4),
	STATE_NUM(struct x86_events, exception_vector, 5, .max = 31),
	STATE_NUM(struct x86_events, exception_error, 6, .hex = true),
	STATE_NUM(struct x86_events, exception_payload, 7, .hex = true),
	STATE_FLAG(struct x86_events, interrupt_injected, 8),
	STATE_FLAG(struct x86_events, interrupt_soft, 9),
	STATE_NUM(struct x86_events, interrupt_vector, 10),
	STATE_NUM(struct x86_events, interrupt_shadow, 11, .max = 3),
	STATE_FLAG(struct x86_events, nmi_injected, 12),
	STATE_FLAG(struct x86_events, nmi_pending, 13),
	STATE_FLAG(struct x86_events, nmi_masked, 14),
	STATE_FLAG(struct x86_events, smm, 15),
	STATE_FLAG(struct x86_events, smm_pending, 16),
	STATE_FLAG(struct x86_events, smm_inside_nmi, 17),
	STATE_FLAG(struct x86_events, init_latched, 18),
	STATE_FLAG(struct x86_events, triple_fault_pending, 19),
	STATE_NUM(struct x86_events, sipi_vector, 20),
	STATE_END,
};
static const struct state_table events_table = {
	.name = "cpu_events", .version = 1, .min_version = 1, .size = sizeof(struct x86_events), .fields = events_fields};

static const struct state_field cpu_fields[] = {
	STATE_ARRAY(struct cpu_state, gpr, 1, .hex = true),
	STATE_NUM(struct cpu_state, rip, 2, .hex = true),
	STATE_NUM(struct cpu_state, rflags, 3, .hex = true),
	STATE_MANY(struct cpu_state, seg, 4, &seg_table),
	STATE_ONE(struct cpu_state, gdt, 5, &dtable_table),
	STATE_ONE(struct cpu_state, idt, 6, &dtable_table),
	STATE_NUM(struct cpu_state, cr0, 7, .hex = true),
	STATE_NUM(struct cpu_state, cr2, 8, .hex = true),
	STATE_NUM(struct cpu_state, cr3, 9, .hex = true),
	STATE_NUM(struct cpu_state, cr4, 10, .hex = true),
	STATE_NUM(struct cpu_state, cr8, 11, .max = 15),
	STATE_NUM(struct cpu_state, efer, 12, .hex = true),
	STATE_NUM(struct cpu_state, apic_base, 13, .hex = true),
	STATE_NUM(struct cpu_state, xcr0, 14, .hex = true),
	STATE_ARRAY(struct cpu_state, pdptr, 15, .hex = true),
	STATE_FLAG(struct cpu_state, has_pdptr, 16),
	STATE_ARRAY(struct cpu_state, dr, 17, .hex = true),
	STATE_NUM(struct cpu_state, dr6, 18, .hex = true),
	STATE_NUM(struct cpu_state, dr7, 19, .hex = true),
	STATE_NUM(struct cpu_state, tsc_khz, 20, .max = UINT32_MAX),
	STATE_NUM(struct cpu_state, xsave_size, 21, .max = X86_XSAVE_MAX),
	STATE_BUF(struct cpu_state, xsave, 22, STATE_NR(struct cpu_state, xsave_size)),
	STATE_ONE(struct cpu_state, lapic, 23, &lapic_table),
	STATE_ONE(struct cpu_state, events, 24, &events_table),
	STATE_NUM(struct cpu_state, mp_state, 25, .max = X86_MP_HALTED),
	STATE_NUM(struct cpu_state, nr_msrs, 26, .max = X86_MSR_MAX),
	STATE_MANY(struct cpu_state, msrs, 27, &msr_table, STATE_NR(struct cpu_state, nr_msrs)),
	STATE_ONE(struct cpu_state, cpuid, 28, &cpuid_table),
	STATE_END,
};
const struct state_table x86_cpu_table = {
	.name = "cpu", .version = 1, .min_version = 1, .size = sizeof(struct cpu_state), .fields = cpu_fields};

static const struct state_field clock_fields[] = {
	STATE_NUM(struct x86_clock_state, clock_ns, 1),
	STATE_NUM(struct x86_clock_state, kvmclock_ns, 2),
	STATE_NUM(struct x86_clock_state, realtime_ns, 3),
	STATE_END,
};
const struct state_table x86_clock_table = {
	.name = "clock", .version = 1, .min_version = 1, .size = sizeof(struct x86_clock_state), .fields = clock_fields};

static const struct state_field pic_fields[] = {
	STATE_NUM(struct x86_pic_state, irr, 1, .hex = true),
	STATE_NUM(struct x86_pic_state, isr, 2, .hex = true),
	STATE_NUM(struct x86_pic_state, imr, 3, .hex = true),
	STATE_NUM(struct x86_pic_state, lines, 4, .hex = true),
	STATE_NUM(struct x86_pic_state, elcr, 5, .hex = true),
	STATE_NUM(struct x86_pic_state, base, 6, .hex = true),
	STATE_NUM(struct x86_pic_state, first, 7, .max = 7),
	STATE_NUM(struct x86_pic_state, init_step, 8, .max = 4),
	STATE_FLAG(struct x86_pic_state, icw4, 9),
	STATE_FLAG(struct x86_pic_state, auto_eoi, 10),
	STATE_FLAG(struct x86_pic_state, rotate_auto_eoi, 11),
	STATE_FLAG(struct x86_pic_state, special_mask, 12),
	STATE_FLAG(struct x86_pic_state, nested, 13),
	STATE_FLAG(struct x86_pic_state, poll, 14),
	STATE_FLAG(struct x86_pic_state, read_isr, 15),
	STATE_END,
};
static const struct state_table pic_table = {
	.name = "pic", .version = 1, .min_version = 1, .size = sizeof(struct x86_pic_state), .fields = pic_fields};

#define PINS_MASK ((1u << X86_NR_IOAPIC_PINS) - 1)

static const struct state_field ioapic_fields[] = {
	STATE_NUM(struct x86_ioapic_state, id, 1, .max = 15),
	STATE_NUM(struct x86_ioapic_state, select, 2, .hex = true, .max = 0xff),
	STATE_NUM(struct x86_ioapic_state, irr, 3, .hex = true, .max = PINS_MASK),
	STATE_NUM(struct x86_ioapic_state, lines, 4, .hex = true, .max = PINS_MASK),
	STATE_ARRAY(struct x86_ioapic_state, redir, 5, .hex = true),
	STATE_END,
};
static const struct state_table ioapic_table = {
	.name = "ioapic", .version = 1, .min_version = 1, .size = sizeof(struct x86_ioapic_state), .fields = ioapic_fields};

static const struct state_field pit_fields[] = {
	STATE_NUM(struct x86_pit_channel_state, count, 1, .max = 0x10000),
	STATE_NUM(struct x86_pit_channel_state, elapsed_ns, 2),
	STATE_NUM(struct x86_pit_channel_state, mode, 3, .max = 5),
	STATE_NUM(struct x86_pit_channel_state, rw, 4, .max = 3),
	STATE_NUM(struct x86_pit_channel_state, write_low, 5, .hex = true),
	STATE_NUM(struct x86_pit_channel_state, status, 6, .hex = true),
	STATE_FLAG(struct x86_pit_channel_state, bcd, 7),
	STATE_FLAG(struct x86_pit_channel_state, gate, 8),
	STATE_FLAG(struct x86_pit_channel_state, null_count, 9),
	STATE_FLAG(struct x86_pit_channel_state, triggered, 10),
	STATE_FLAG(struct x86_pit_channel_state, write_high_next, 11),
	STATE_FLAG(struct x86_pit_channel_state, read_high_next, 12),
	STATE_FLAG(struct x86_pit_channel_state, latched, 13),
	STATE_FLAG(struct x86_pit_channel_state, status_latched, 14),
	STATE_NUM(struct x86_pit_channel_state, latch, 15, .hex = true),
	STATE_END,
};
static const struct state_table pit_table = {
	.name = "pit_channel", .version = 1, .min_version = 1, .size = sizeof(struct x86_pit_channel_state), .fields = pit_fields};

static const struct state_field chips_fields[] = {
	STATE_MANY(struct x86_chips_state, pic, 1, &pic_table), STATE_ONE(struct x86_chips_state, ioapic, 2, &ioapic_table),
	STATE_MANY(struct x86_chips_state, pit, 3, &pit_table), STATE_FLAG(struct x86_chips_state, pit_speaker, 4),
	STATE_FLAG(struct x86_chips_state, pit_due, 5),		STATE_END,
};
const struct state_table x86_chips_table = {
	.name = "chips", .version = 1, .min_version = 1, .size = sizeof(struct x86_chips_state), .fields = chips_fields};

const struct state_table *const machine_tables[] = {&x86_clock_table, &x86_cpu_table, &x86_chips_table, NULL};

struct chip_state *machine_chips_new(void)
{
	return xzalloc(sizeof(struct chip_state));
}

void machine_chips_free(struct chip_state *c)
{
	free(c);
}

/* ---- sections ---- */

static u64 realtime_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

static int save_clock(struct vm *vm, const struct state_section *s, void *data, struct err *e)
{
	(void)s;
	(void)e;
	memcpy(data, &vm->chips->clock, sizeof(vm->chips->clock));
	return 0;
}

static int check_clock(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	(void)vm;
	(void)s;
	return x86_clock_check(data, e);
}

/* The VM's clock goes on from where it was, whatever kvmclock and TSC do: it is what emulated timers count. */
static int load_clock(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	struct x86_clock_state *c = &vm->chips->clock;

	(void)s;
	(void)e;
	memcpy(c, data, sizeof(*c));
	vm->machine->clock_jump_ns = vm->restore && vm->restore->realtime ? x86_clock_jump(c, realtime_now()) : 0;
	c->kvmclock_ns += vm->machine->clock_jump_ns;
	clock_set(vm, c->clock_ns);
	return 0;
}

static int save_cpu(struct vm *vm, const struct state_section *s, void *data, struct err *e)
{
	(void)e;
	memcpy(data, vm->vcpus[s->index].cpu, sizeof(struct cpu_state));
	return 0;
}

/* What the accelerator can do is asked once for all vCPUs. */
static int check_cpu(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	struct machine *m = vm->machine;
	int ret;

	if (!m->caps) {
		m->caps = xzalloc(sizeof(*m->caps));
		ret = vm->accel->cpu_caps(vm, m->caps, e);
		if (ret < 0)
			return ret;
	}
	return x86_cpu_check(data, s->index, m->caps, vm->accel->name, e);
}

static void jump_tsc(struct cpu_state *c, u64 ns)
{
	for (u32 i = 0; i < c->nr_msrs; i++) {
		if (c->msrs[i].index == MSR_IA32_TSC)
			c->msrs[i].value += (u64)((unsigned __int128)ns * c->tsc_khz / (1000 * 1000));
	}
}

static int load_cpu(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	struct vcpu *v = &vm->vcpus[s->index];

	memcpy(v->cpu, data, sizeof(*v->cpu));
	jump_tsc(v->cpu, vm->machine->clock_jump_ns);
	return vm->accel->vcpu_push(v, e);
}

static int save_chips(struct vm *vm, const struct state_section *s, void *data, struct err *e)
{
	(void)s;
	(void)e;
	memcpy(data, &vm->chips->chips, sizeof(vm->chips->chips));
	return 0;
}

static int check_chips(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	(void)vm;
	(void)s;
	return x86_chips_check(data, e);
}

static int load_chips(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	(void)s;
	memcpy(&vm->chips->chips, data, sizeof(vm->chips->chips));
	return vm->accel->vm_push(vm, e);
}

/* Clocks first: vCPUs are loaded against them. Chips last: they look at the local APICs. */
u32 machine_sections(struct vm *vm, struct state_section *out)
{
	static const struct state_section clock = {.table = &x86_clock_table, .save = save_clock, .check = check_clock, .load = load_clock},
					  cpu = {.table = &x86_cpu_table, .save = save_cpu, .check = check_cpu, .load = load_cpu},
					  chips = {.table = &x86_chips_table, .save = save_chips, .check = check_chips, .load = load_chips};
	u32 n = 0;

	out[n++] = clock;
	for (u32 i = 0; i < vm->nr_vcpus; i++) {
		out[n] = cpu;
		out[n].index = i;
		snprintf(out[n++].instance, sizeof(out->instance), "%u", i);
	}
	out[n++] = chips;
	return n;
}

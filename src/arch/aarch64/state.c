/* state.c: the saved state of what is arm64: tables of clock, vCPUs and GIC, and how their sections are filled and loaded. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "arch/aarch64/arm.h"
#include "arch/aarch64/vm_state.h"
#include "vmm/machine.h"

/* ---- tables ---- */

static const struct state_field reg_fields[] = {
	STATE_NUM(struct arm_reg, id, 1, .hex = true),
	STATE_NUM(struct arm_reg, value, 2, .hex = true),
	STATE_END,
};
static const struct state_table reg_table = {
	.name = "cpu_register", .version = 1, .min_version = 1, .size = sizeof(struct arm_reg), .fields = reg_fields};

static const struct state_field cpu_fields[] = {
	STATE_ARRAY(struct cpu_state, x, 1, .hex = true),
	STATE_NUM(struct cpu_state, sp, 2, .hex = true),
	STATE_NUM(struct cpu_state, pc, 3, .hex = true),
	STATE_NUM(struct cpu_state, pstate, 4, .hex = true),
	STATE_FLAG(struct cpu_state, powered_off, 5),
	STATE_NUM(struct cpu_state, sp_el1, 6, .hex = true),
	STATE_NUM(struct cpu_state, elr_el1, 7, .hex = true),
	STATE_ARRAY(struct cpu_state, spsr, 8, .hex = true),
	STATE_NUM(struct cpu_state, fpsr, 9, .hex = true),
	STATE_NUM(struct cpu_state, fpcr, 10, .hex = true),
	STATE_ARRAY(struct cpu_state, sve_vls, 11, .hex = true),
	STATE_NUM(struct cpu_state, nr_v, 12, .max = ARM_NR_VREGS * ARM_ZREG_SIZE),
	STATE_BUF(struct cpu_state, v, 13, STATE_NR(struct cpu_state, nr_v)),
	STATE_NUM(struct cpu_state, nr_p, 14, .max = (ARM_NR_PREGS + 1) * ARM_PREG_SIZE),
	STATE_BUF(struct cpu_state, p, 15, STATE_NR(struct cpu_state, nr_p)),
	STATE_FLAG(struct cpu_state, pauth, 16),
	STATE_FLAG(struct cpu_state, serror_pending, 17),
	STATE_FLAG(struct cpu_state, serror_has_esr, 18),
	STATE_NUM(struct cpu_state, serror_esr, 19, .hex = true),
	STATE_NUM(struct cpu_state, nr_regs, 20, .max = ARM_REG_MAX),
	STATE_MANY(struct cpu_state, regs, 21, &reg_table, STATE_NR(struct cpu_state, nr_regs)),
	STATE_END,
};
const struct state_table arm_cpu_table = {
	.name = "cpu", .version = 1, .min_version = 1, .size = sizeof(struct cpu_state), .fields = cpu_fields};

static const struct state_field clock_fields[] = {
	STATE_NUM(struct arm_clock_state, clock_ns, 1),
	STATE_NUM(struct arm_clock_state, realtime_ns, 2),
	STATE_NUM(struct arm_clock_state, counter_hz, 3),
	STATE_END,
};
const struct state_table arm_clock_table = {
	.name = "clock", .version = 1, .min_version = 1, .size = sizeof(struct arm_clock_state), .fields = clock_fields};

static const struct state_field gic_cpu_fields[] = {
	STATE_NUM(struct arm_gic_cpu, mpidr, 1, .hex = true),
	STATE_NUM(struct arm_gic_cpu, igroupr, 2, .hex = true),
	STATE_NUM(struct arm_gic_cpu, isenabler, 3, .hex = true),
	STATE_NUM(struct arm_gic_cpu, ispendr, 4, .hex = true),
	STATE_NUM(struct arm_gic_cpu, isactiver, 5, .hex = true),
	STATE_NUM(struct arm_gic_cpu, level, 6, .hex = true),
	STATE_NUM(struct arm_gic_cpu, icfgr1, 7, .hex = true),
	STATE_ARRAY(struct arm_gic_cpu, ipriorityr, 8, .hex = true),
	STATE_NUM(struct arm_gic_cpu, propbaser, 9, .hex = true),
	STATE_NUM(struct arm_gic_cpu, pendbaser, 10, .hex = true),
	STATE_NUM(struct arm_gic_cpu, icc_sre, 11, .hex = true),
	STATE_NUM(struct arm_gic_cpu, icc_ctlr, 12, .hex = true),
	STATE_NUM(struct arm_gic_cpu, icc_igrpen0, 13, .hex = true),
	STATE_NUM(struct arm_gic_cpu, icc_igrpen1, 14, .hex = true),
	STATE_NUM(struct arm_gic_cpu, icc_pmr, 15, .hex = true),
	STATE_NUM(struct arm_gic_cpu, icc_bpr0, 16, .hex = true),
	STATE_NUM(struct arm_gic_cpu, icc_bpr1, 17, .hex = true),
	STATE_NUM(struct arm_gic_cpu, nr_ap, 18, .max = ARM_GIC_NR_AP),
	STATE_ARRAY(struct arm_gic_cpu, icc_ap0r, 19, STATE_NR(struct arm_gic_cpu, nr_ap), .hex = true),
	STATE_ARRAY(struct arm_gic_cpu, icc_ap1r, 20, STATE_NR(struct arm_gic_cpu, nr_ap), .hex = true),
	STATE_END,
};
static const struct state_table gic_cpu_table = {
	.name = "gic_cpu", .version = 1, .min_version = 1, .size = sizeof(struct arm_gic_cpu), .fields = gic_cpu_fields};

static const struct state_field gic_fields[] = {
	STATE_NUM(struct arm_gic_state, iidr, 1, .hex = true),
	STATE_NUM(struct arm_gic_state, ctlr, 2, .hex = true),
	STATE_ARRAY(struct arm_gic_state, igroupr, 3, .hex = true),
	STATE_ARRAY(struct arm_gic_state, isenabler, 4, .hex = true),
	STATE_ARRAY(struct arm_gic_state, ispendr, 5, .hex = true),
	STATE_ARRAY(struct arm_gic_state, isactiver, 6, .hex = true),
	STATE_ARRAY(struct arm_gic_state, level, 7, .hex = true),
	STATE_ARRAY(struct arm_gic_state, icfgr, 8, .hex = true),
	STATE_ARRAY(struct arm_gic_state, ipriorityr, 9, .hex = true),
	STATE_ARRAY(struct arm_gic_state, irouter, 10, .hex = true),
	STATE_NUM(struct arm_gic_state, nr_cpus, 11, .max = VM_MAX_VCPUS),
	STATE_MANY(struct arm_gic_state, cpus, 12, &gic_cpu_table, STATE_NR(struct arm_gic_state, nr_cpus)),
	STATE_END,
};
const struct state_table arm_gic_table = {
	.name = "gic", .version = 1, .min_version = 1, .size = sizeof(struct arm_gic_state), .fields = gic_fields};

const struct state_table *const machine_tables[] = {&arm_clock_table, &arm_cpu_table, &arm_gic_table, NULL};

struct chip_state *machine_chips_new(void)
{
	return xzalloc(sizeof(struct chip_state));
}

void machine_chips_free(struct chip_state *c)
{
	free(c);
}

struct cpu_state *machine_cpu_new(void)
{
	return xzalloc(sizeof(struct cpu_state));
}

void machine_cpu_free(struct cpu_state *c)
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

/* What the host has is asked once; vls: vector lengths that a state's vCPU has, or NULL. */
static int know_host(struct vm *vm, const u64 *vls, struct err *e)
{
	auto_free struct arm_host *host = NULL;
	struct arch_cpu_caps caps = {0};
	int ret;

	if (vm->machine->host)
		return 0;
	caps.host = host = xzalloc(sizeof(*host));
	if (vls)
		memcpy(host->sve_vls, vls, sizeof(host->sve_vls));
	ret = vm->accel->cpu_caps(vm, &caps, e);
	if (ret < 0)
		return ret;
	vm->machine->host = host;
	host = NULL;
	return 0;
}

static int save_clock(struct vm *vm, const struct state_section *s, void *data, struct err *e)
{
	struct arm_clock_state *c = &vm->chips->clock;

	(void)s;
	(void)e;
	c->clock_ns = clock_now(vm);
	c->realtime_ns = realtime_now();
	memcpy(data, c, sizeof(*c));
	return 0;
}

static int check_clock(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	int ret = know_host(vm, NULL, e);

	(void)s;
	return ret < 0 ? ret : arm_clock_check(data, vm->machine->host, e);
}

static int load_clock(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	struct chip_state *c = vm->chips;
	u64 ns;

	(void)s;
	(void)e;
	memcpy(&c->clock, data, sizeof(c->clock));
	ns = vm->restore && vm->restore->realtime ? arm_clock_jump(&c->clock, realtime_now()) : 0;
	c->counter_jump = (u64)((unsigned __int128)ns * c->clock.counter_hz / NSEC_PER_SEC);
	clock_set(vm, c->clock.clock_ns);
	return 0;
}

static int save_cpu(struct vm *vm, const struct state_section *s, void *data, struct err *e)
{
	(void)e;
	memcpy(data, vm->vcpus[s->index].cpu, sizeof(struct cpu_state));
	return 0;
}

static int check_cpu(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	int ret = know_host(vm, ((const struct cpu_state *)data)->sve_vls, e);

	return ret < 0 ? ret : arm_cpu_check(data, s->index, vm->machine->host, e);
}

static int load_cpu(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	struct vcpu *v = &vm->vcpus[s->index];

	memcpy(v->cpu, data, sizeof(*v->cpu));
	return vm->accel->vcpu_push(v, e);
}

static int save_gic(struct vm *vm, const struct state_section *s, void *data, struct err *e)
{
	(void)s;
	(void)e;
	memcpy(data, &vm->chips->gic, sizeof(vm->chips->gic));
	return 0;
}

static int check_gic(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	int ret = know_host(vm, NULL, e);

	(void)s;
	return ret < 0 ? ret : arm_gic_check(data, vm->nr_vcpus, vm->machine->host, e);
}

static int load_gic(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	(void)s;
	memcpy(&vm->chips->gic, data, sizeof(vm->chips->gic));
	return vm->accel->vm_push(vm, e);
}

/* vCPUs first: their vector lengths are settled by the first look at the host. The GIC and the counters after all vCPUs. */
u32 machine_sections(struct vm *vm, struct state_section *out)
{
	static const struct state_section cpu = {.table = &arm_cpu_table, .save = save_cpu, .check = check_cpu, .load = load_cpu},
					  clock = {.table = &arm_clock_table, .save = save_clock, .check = check_clock, .load = load_clock},
					  gic = {.table = &arm_gic_table, .save = save_gic, .check = check_gic, .load = load_gic};
	u32 n = 0;

	for (u32 i = 0; i < vm->nr_vcpus; i++) {
		out[n] = cpu;
		out[n].index = i;
		snprintf(out[n++].instance, sizeof(out->instance), "%u", i);
	}
	out[n++] = clock;
	out[n++] = gic;
	return n;
}

/* test_arm_state.c: saved states of arm64 vCPUs, GIC and clock that may not be loaded, and what is said of them. */
#include "cm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "arch/aarch64/vm_state.h"

#define ID_AA64PFR0 ARM_SYSTEM_REG(3, 0, 0, 4, 0)
#define CLIDR	    ARM_SYSTEM_REG(3, 1, 0, 0, 1)
#define CSSELR	    ARM_SYSTEM_REG(3, 2, 0, 0, 0)
#define SCTLR	    ARM_SYSTEM_REG(3, 0, 1, 0, 0)
#define CCSIDR_0    0x6020000000110000ull
#define SERVICES_2  0x6030000000160002ull

/* A host, and a state that it takes. */
struct rig {
	struct arm_host host;
	struct cpu_state cpu;
	struct arm_gic_state gic;
};

static const struct arm_reg host_regs[] = {
	{ARM_PSCI_VERSION, 0x10001},
	{ARM_WORKAROUND_2, 2},
	{SERVICES_2, 3},
	{ARM_MPIDR, 0x80000000},
	{ID_AA64PFR0, 0x0101001112},
	{ARM_ID_AA64MMFR0, 0x10100000},
	{SCTLR, 0x30d00980},
	{CLIDR, 7},
	{CSSELR, 0},
	{ARM_CNTVCT, 5},
	{CCSIDR_0, 0x700fe01a},
};

static struct rig *rig_new(void)
{
	struct rig *r = xzalloc(sizeof(*r));

	r->host = (struct arm_host){.sve_vls = {3}, .gicd_iidr = 0x4b00343b, .icc_ctlr = 0x8400, .icc_sre = 7, .counter_hz = 62500000};
	memcpy(r->host.regs, host_regs, sizeof(host_regs));
	r->host.nr_regs = r->cpu.nr_regs = ARRAY_SIZE(host_regs);
	memcpy(r->cpu.regs, host_regs, sizeof(host_regs));
	r->cpu.sve_vls[0] = 3;
	r->cpu.nr_v = sizeof(r->cpu.v);
	r->cpu.nr_p = sizeof(r->cpu.p);
	r->cpu.pstate = ARM_PSTATE_EL1H;
	r->gic = (struct arm_gic_state){.iidr = r->host.gicd_iidr, .nr_cpus = 2};
	for (u32 i = 0; i < 2; i++)
		r->gic.cpus[i] = (struct arm_gic_cpu){.mpidr = arm_mpidr(i), .icc_ctlr = 0x8402, .icc_sre = 7, .nr_ap = 1};
	return r;
}

static u64 *reg(struct rig *r, u64 id)
{
	return (u64 *)arm_reg_find(r->cpu.regs, r->cpu.nr_regs, id);
}

/* Ends r. */
static void cpu_is(struct rig *r, u32 index, int want, const char *why)
{
	struct err e = {0};
	int ret = arm_cpu_check(&r->cpu, index, &r->host, &e);

	if (ret != want || (why && !strstr(e.msg, why)))
		fail_msg("expected %d \"%s\", got %d: %s", want, why ? why : "", ret, e.msg);
	free(r);
}

static void gic_is(struct rig *r, int want, const char *why)
{
	struct err e = {0};
	int ret = arm_gic_check(&r->gic, 2, &r->host, &e);

	if (ret != want || (why && !strstr(e.msg, why)))
		fail_msg("expected %d \"%s\", got %d: %s", want, why ? why : "", ret, e.msg);
	free(r);
}

static void a_state_of_such_a_host_is_taken(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	*reg(r, SCTLR) = ~0ull; /* the guest's own */
	*reg(r, CSSELR) = 2;
	*reg(r, ARM_CNTVCT) = 1ull << 63;
	*reg(r, ARM_WORKAROUND_2) |= 0x10;
	cpu_is(r, 0, 0, NULL);
	r = rig_new();
	*reg(r, ARM_MPIDR) = 0x80000102;
	cpu_is(r, 18, 0, NULL);
	gic_is(rig_new(), 0, NULL);
}

static void another_processor_is_refused_by_the_name_of_its_register(void **state)
{
	static const struct {
		u64 id;
		const char *name;
	} fixed[] = {{ID_AA64PFR0, "ID_AA64PFR0_EL1 is 0x1 in the state, and 0x101001112 on this host"},
		     {ARM_ID_AA64MMFR0, "ID_AA64MMFR0_EL1"},
		     {CLIDR, "CLIDR_EL1"},
		     {ARM_MPIDR, "MPIDR_EL1"},
		     {CCSIDR_0, "CCSIDR_EL1 of cache 0x0"},
		     {ARM_PSCI_VERSION, "PSCI version"},
		     {ARM_WORKAROUND_2, "SMCCC_ARCH_WORKAROUND_2"},
		     {SERVICES_2, "hypercall services 2"}};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(fixed); i++) {
		struct rig *r = rig_new();

		*reg(r, fixed[i].id) = 1;
		cpu_is(r, 0, -EOPNOTSUPP, fixed[i].name);
	}
	cpu_is(rig_new(), 1, -EOPNOTSUPP, "MPIDR_EL1");
}

static void unknown_missing_and_double_registers_are_refused_by_name(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	r->cpu.regs[r->cpu.nr_regs++].id = ARM_SYSTEM_REG(3, 0, 15, 2, 1);
	cpu_is(r, 0, -EOPNOTSUPP, "does not have S3_0_C15_C2_1");
	r = rig_new();
	r->cpu.regs[r->cpu.nr_regs++].id = 0x123456789abcdef0;
	cpu_is(r, 0, -EOPNOTSUPP, "does not have register 0x123456789abcdef0");
	r = rig_new();
	r->cpu.regs[6] = r->cpu.regs[--r->cpu.nr_regs];
	cpu_is(r, 0, -EOPNOTSUPP, "the state lacks SCTLR_EL1");
	r = rig_new();
	r->cpu.regs[r->cpu.nr_regs++] = r->cpu.regs[6];
	cpu_is(r, 0, -EINVAL, "twice");
	r = rig_new();
	r->cpu.nr_regs = 0; /* would be taken for a boot */
	cpu_is(r, 0, -EOPNOTSUPP, "the state lacks PSCI version");
}

static void the_order_of_registers_does_not_matter(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	for (u32 i = 0; i < r->cpu.nr_regs; i++)
		r->cpu.regs[i] = r->host.regs[r->host.nr_regs - 1 - i];
	cpu_is(r, 0, 0, NULL);
}

static void features_that_differ_are_refused(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	memset(r->cpu.sve_vls, 0, sizeof(r->cpu.sve_vls));
	cpu_is(r, 0, -EOPNOTSUPP, "no SVE");
	r = rig_new();
	r->cpu.sve_vls[7] = 1;
	cpu_is(r, 0, -EOPNOTSUPP, "vector lengths");
	r = rig_new();
	r->cpu.pauth = true;
	cpu_is(r, 0, -EOPNOTSUPP, "has pointer authentication");
	r = rig_new();
	r->cpu.nr_v = ARM_NR_VREGS * ARM_VREG_SIZE;
	cpu_is(r, 0, -EINVAL, "nr_v");
	r = rig_new();
	r->cpu.nr_p = 0;
	cpu_is(r, 0, -EINVAL, "nr_p");
}

static void what_no_processor_has_is_refused(void **state)
{
	static const u32 modes[] = {1, 8, 9, 0x10, 0x13, 0x1f};
	struct rig *r;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(modes); i++) {
		r = rig_new();
		*reg(r, ID_AA64PFR0) = r->host.regs[4].value = 0x11; /* no AArch32 */
		r->cpu.pstate = modes[i];
		cpu_is(r, 0, -EINVAL, "PSTATE");
	}
	r = rig_new();
	r->cpu.pstate = 0x10; /* where there is one */
	cpu_is(r, 0, 0, NULL);
	r = rig_new();
	r->cpu.serror_pending = r->cpu.serror_has_esr = true;
	cpu_is(r, 0, -EOPNOTSUPP, "SError with a syndrome");
	r = rig_new();
	r->cpu.serror_pending = r->cpu.serror_has_esr = r->host.serror_esr = true;
	r->cpu.serror_esr = 1ull << 26;
	cpu_is(r, 0, -EINVAL, "serror_esr");
	r = rig_new();
	r->cpu.serror_has_esr = true;
	cpu_is(r, 0, -EINVAL, "no SError is pending");
}

static void another_gic_is_refused(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	r->gic.iidr += 0x1000;
	gic_is(r, -EOPNOTSUPP, "GICD_IIDR");
	r = rig_new();
	r->gic.iidr -= 0x1000; /* an older behaviour is to be had */
	gic_is(r, 0, NULL);
	r = rig_new();
	r->gic.nr_cpus = 1;
	gic_is(r, -EINVAL, "nr_cpus");
	r = rig_new();
	r->gic.cpus[1].mpidr = 0;
	gic_is(r, -EINVAL, "cpus[1]: MPIDR");
	r = rig_new();
	r->gic.cpus[0].icc_ctlr = 0x8600;
	gic_is(r, -EOPNOTSUPP, "ICC_CTLR_EL1");
	r = rig_new();
	r->gic.cpus[1].icc_sre = 1;
	gic_is(r, -EOPNOTSUPP, "ICC_SRE_EL1");
	r = rig_new();
	r->gic.cpus[1].nr_ap = 4;
	gic_is(r, -EINVAL, "nr_ap");
}

static void clocks_are_compared_and_jump(void **state)
{
	struct arm_clock_state c = {.clock_ns = 7, .realtime_ns = 100, .counter_hz = 1000000000};
	struct arm_host *host = xzalloc(sizeof(*host));
	struct err e = {0};

	(void)state;
	host->counter_hz = 1000000000;
	assert_int_equal(arm_clock_check(&c, host, &e), 0);
	assert_int_equal(arm_clock_jump(&c, 150), 50);
	assert_int_equal(arm_clock_jump(&c, 50), 0);
	host->counter_hz = 25000000;
	assert_int_equal(arm_clock_check(&c, host, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "CNTFRQ_EL0"));
	c = (struct arm_clock_state){.clock_ns = UINT64_MAX, .counter_hz = 25000000};
	assert_int_equal(arm_clock_check(&c, host, &e), -EINVAL);
	free(host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_state_of_such_a_host_is_taken),
		cmocka_unit_test(another_processor_is_refused_by_the_name_of_its_register),
		cmocka_unit_test(unknown_missing_and_double_registers_are_refused_by_name),
		cmocka_unit_test(the_order_of_registers_does_not_matter),
		cmocka_unit_test(features_that_differ_are_refused),
		cmocka_unit_test(what_no_processor_has_is_refused),
		cmocka_unit_test(another_gic_is_refused),
		cmocka_unit_test(clocks_are_compared_and_jump),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

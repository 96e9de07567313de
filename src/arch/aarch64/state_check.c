/* state_check.c: what a saved state must be like before any of it is loaded; vm_state.h. Whoever wrote it may have lied in every bit. */
#include <errno.h>
#include <string.h>

#include "arch/aarch64/vm_state.h"

#define PSTATE_MODE 0x1full
#define MODE_EL0_32 0x10u /* AArch32 User */
#define MODE_EL0T   0u
#define MODE_EL1T   4u

#define PFR0_EL0(v)    ((v)&15)
#define PFR0_EL0_32    2u
#define ID_AA64PFR0    ARM_SYSTEM_REG(3, 0, 0, 4, 0)
#define MPIDR_AFFINITY 0xff00ffffffull

#define IIDR_REVISION 0xf000u
/* CBPR and EOImode; the rest says what the interface is like (IHI 0069 §12.2.6). */
#define ICC_CTLR_WRITABLE 3ull

/* Two centuries, from 1970 too: sums of two still fit. */
#define CLOCK_MAX_NS (200ull * 366 * 86400 * NSEC_PER_SEC)

static int differs(const char *name, u64 saved, u64 here, struct err *e)
{
	return err_set(e, -EOPNOTSUPP, "%s is 0x%llx in the state, and 0x%llx on this host", name, (unsigned long long)saved,
		       (unsigned long long)here);
}

static int impossible(const char *name, u64 value, struct err *e)
{
	return err_set(e, -EINVAL, "%s = 0x%llx is not possible", name, (unsigned long long)value);
}

/* Of two lists that mostly have one order: at i, or somewhere. */
static const u64 *find_near(const struct arm_reg *regs, u32 nr, u32 i, u64 id)
{
	return i < nr && regs[i].id == id ? &regs[i].value : arm_reg_find(regs, nr, id);
}

static int check_value(const struct arm_reg *r, u64 here, u32 index, struct err *e)
{
	char name[ARM_REG_NAME_SIZE];
	u64 saved = r->value;

	if (r->id == ARM_MPIDR)
		here = (here & ~MPIDR_AFFINITY) | arm_mpidr(index);
	else if (r->id == ARM_WORKAROUND_2) /* above: whether the guest has switched it on */
		saved &= 15, here &= 15;
	else if (!arm_reg_is_fixed(r->id))
		return 0;
	return saved == here ? 0 : differs(arm_reg_name(r->id, name), saved, here, e);
}

static int check_regs(const struct cpu_state *s, u32 index, const struct arm_host *host, struct err *e)
{
	char name[ARM_REG_NAME_SIZE];
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < s->nr_regs; i++) {
		const u64 *here = find_near(host->regs, host->nr_regs, i, s->regs[i].id);

		if (!here)
			return err_set(e, -EOPNOTSUPP, "this host's KVM does not have %s", arm_reg_name(s->regs[i].id, name));
		ret = check_value(&s->regs[i], *here, index, e);
	}
	for (u32 i = 0; ret == 0 && i < host->nr_regs; i++) {
		if (!find_near(s->regs, s->nr_regs, i, host->regs[i].id))
			return err_set(e, -EOPNOTSUPP, "the state lacks %s, which this host's KVM has",
				       arm_reg_name(host->regs[i].id, name));
	}
	/* All of the host's are there and none is unknown, so one more is there twice. */
	if (ret == 0 && s->nr_regs != host->nr_regs)
		return err_set(e, -EINVAL, "a register is there twice");
	return ret;
}

static int check_pstate(const struct cpu_state *s, const struct arm_host *host, struct err *e)
{
	const u64 *pfr0 = arm_reg_find(host->regs, host->nr_regs, ID_AA64PFR0);
	u64 mode = s->pstate & PSTATE_MODE;

	if (mode == MODE_EL0_32 && pfr0 && PFR0_EL0(*pfr0) == PFR0_EL0_32)
		return 0;
	return mode == MODE_EL0T || mode == MODE_EL1T || mode == ARM_PSTATE_EL1H ? 0 : impossible("PSTATE", s->pstate, e);
}

static bool has_sve(const u64 *vls)
{
	u64 any = 0;

	for (u32 i = 0; i < ARM_VLS_WORDS; i++)
		any |= vls[i];
	return any;
}

static int check_features(const struct cpu_state *s, const struct arm_host *host, struct err *e)
{
	bool sve = has_sve(s->sve_vls);

	if (sve != has_sve(host->sve_vls))
		return err_set(e, -EOPNOTSUPP, "the state's vCPU has %sSVE, and this host's have %s", sve ? "" : "no ", sve ? "not" : "it");
	if (memcmp(s->sve_vls, host->sve_vls, sizeof(s->sve_vls)))
		return err_set(e, -EOPNOTSUPP, "the state's vector lengths of SVE (0x%llx) cannot be had on this host (0x%llx)",
			       (unsigned long long)s->sve_vls[0], (unsigned long long)host->sve_vls[0]);
	if (s->pauth != host->pauth)
		return err_set(e, -EOPNOTSUPP, "the state's vCPU has %spointer authentication, and this host's have %s",
			       s->pauth ? "" : "no ", s->pauth ? "not" : "it");
	if (s->nr_v != ARM_NR_VREGS * (sve ? ARM_ZREG_SIZE : ARM_VREG_SIZE))
		return err_set(e, -EINVAL, "nr_v: %u bytes of vector registers", s->nr_v);
	if (s->nr_p != (sve ? sizeof(s->p) : 0))
		return err_set(e, -EINVAL, "nr_p: %u bytes of predicate registers", s->nr_p);
	return 0;
}

/* ESR_EL2's ISS of an SError (Arm ARM D17.2.37); KVM takes no other bits. */
#define SERROR_ISS 0x1ffffffull

static int check_serror(const struct cpu_state *s, const struct arm_host *host, struct err *e)
{
	if (s->serror_has_esr && !s->serror_pending)
		return err_set(e, -EINVAL, "serror_has_esr: no SError is pending");
	if (s->serror_has_esr && !host->serror_esr)
		return err_set(e, -EOPNOTSUPP, "an SError with a syndrome is pending, and this host's KVM cannot give it to the guest");
	return s->serror_esr & ~(s->serror_has_esr ? SERROR_ISS : 0) ? impossible("serror_esr", s->serror_esr, e) : 0;
}

int arm_cpu_check(const struct cpu_state *s, u32 index, const struct arm_host *host, struct err *e)
{
	int ret = check_features(s, host, e);

	if (ret == 0)
		ret = check_regs(s, index, host, e);
	if (ret == 0)
		ret = check_pstate(s, host, e);
	return ret == 0 ? check_serror(s, host, e) : ret;
}

static int check_gic_cpu(const struct arm_gic_cpu *c, u32 index, const struct arm_host *host, struct err *e)
{
	if (c->mpidr != arm_mpidr(index))
		return err_set(e, -EINVAL, "field cpus[%u]: MPIDR 0x%llx, and vCPU %u has 0x%llx", index, (unsigned long long)c->mpidr,
			       index, (unsigned long long)arm_mpidr(index));
	if ((c->icc_ctlr ^ host->icc_ctlr) & ~ICC_CTLR_WRITABLE)
		return differs("ICC_CTLR_EL1", c->icc_ctlr, host->icc_ctlr, e);
	if (c->icc_sre != host->icc_sre)
		return differs("ICC_SRE_EL1", c->icc_sre, host->icc_sre, e);
	if (c->nr_ap != arm_gic_nr_ap(c->icc_ctlr))
		return err_set(e, -EINVAL, "field cpus[%u].nr_ap: %u, and ICC_CTLR_EL1 makes it %u", index, c->nr_ap,
			       arm_gic_nr_ap(c->icc_ctlr));
	return 0;
}

int arm_gic_check(const struct arm_gic_state *s, u32 nr_vcpus, const struct arm_host *host, struct err *e)
{
	int ret = 0;

	if ((s->iidr ^ host->gicd_iidr) & ~IIDR_REVISION || (s->iidr & IIDR_REVISION) > (host->gicd_iidr & IIDR_REVISION))
		return differs("GICD_IIDR", s->iidr, host->gicd_iidr, e);
	if (s->nr_cpus != nr_vcpus)
		return err_set(e, -EINVAL, "field nr_cpus: %u, and the VM has %u vCPUs", s->nr_cpus, nr_vcpus);
	for (u32 i = 0; ret == 0 && i < s->nr_cpus; i++)
		ret = check_gic_cpu(&s->cpus[i], i, host, e);
	return ret;
}

int arm_clock_check(const struct arm_clock_state *s, const struct arm_host *host, struct err *e)
{
	if (s->clock_ns > CLOCK_MAX_NS || s->realtime_ns > CLOCK_MAX_NS)
		return err_set(e, -EINVAL, "the clocks read more than 200 years");
	if (s->counter_hz != host->counter_hz)
		return err_set(e, -EOPNOTSUPP, "CNTFRQ_EL0: the guest counts time at %llu Hz, and this host at %llu Hz",
			       (unsigned long long)s->counter_hz, (unsigned long long)host->counter_hz);
	return 0;
}

u64 arm_clock_jump(const struct arm_clock_state *s, u64 realtime_now)
{
	return s->realtime_ns && realtime_now > s->realtime_ns ? MIN(realtime_now - s->realtime_ns, CLOCK_MAX_NS) : 0;
}

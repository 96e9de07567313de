/* kvm_arm_template.c: CPU templates under KVM; arch/aarch64/cpu_template.h. KVM lets registers say less than the host has, not more. */
#include <errno.h>

#include "kvm/kvm_arm.h"

#define MIDR		ARM_SYSTEM_REG(3, 0, 0, 0, 0)
#define MIDR_PART(midr) ((u32)((midr) >> 24 & 0xff) << 12 | (u32)((midr) >> 4 & 0xfff))

_Static_assert(ARM_FEATURE_SVE == BIT(KVM_ARM_VCPU_SVE) &&
		       ARM_FEATURE_PAUTH == (BIT(KVM_ARM_VCPU_PTRAUTH_ADDRESS) | BIT(KVM_ARM_VCPU_PTRAUTH_GENERIC)),
	       "KVM's numbers");

int kvm_arm_template_features(const struct kvm_vm *kv, u32 *features, struct err *e)
{
	const struct arm_template *t = kv->arch->template;
	u32 missing = t ? t->features_wanted & ~t->features_dropped & ~*features : 0;

	if (missing)
		return err_set(e, -EOPNOTSUPP, "%s: this host's KVM does not have %s: take it out of vcpu_features", t->name,
			       missing & ARM_FEATURE_SVE ? "SVE" : "pointer authentication");
	if (t)
		*features &= ~t->features_dropped;
	return 0;
}

static int check_part(const struct vcpu *v, const struct arm_template *t, struct err *e)
{
	u64 midr = 0;

	if (!t->part)
		return 0;
	if (kvm_arm_one_reg(v, KVM_GET_ONE_REG, MIDR, &midr) < 0)
		return err_errno(e, "KVM does not tell which processor it offers");
	if (MIDR_PART(midr) == t->part)
		return 0;
	return err_set(e, -EINVAL,
		       "%s: The current CPU model is not permitted to apply the CPU template: it is for part 0x%x of implementer 0x%x, and "
		       "MIDR_EL1 is 0x%llx here",
		       t->name, t->part & 0xfff, t->part >> 12, (unsigned long long)midr);
}

static int change(const struct vcpu *v, const struct arm_template *t, const struct arm_template_reg *r, struct err *e)
{
	char name[ARM_REG_NAME_SIZE];
	u64 was = 0, wanted, is = 0;

	if (kvm_arm_one_reg(v, KVM_GET_ONE_REG, r->id, &was) < 0 && r->value)
		return err_set(e, -EOPNOTSUPP, "%s: this host's KVM does not have %s", t->name, arm_reg_name(r->id, name));
	wanted = (was & ~r->mask) | r->value;
	if (wanted == was)
		return 0;
	if (kvm_arm_one_reg(v, KVM_SET_ONE_REG, r->id, &wanted) == 0 && kvm_arm_one_reg(v, KVM_GET_ONE_REG, r->id, &is) == 0 &&
	    is == wanted)
		return 0;
	return err_set(
		e, -EOPNOTSUPP,
		"%s: this host's KVM shows 0x%llx in %s and cannot show 0x%llx: a template takes away, and since Linux 6.7 KVM lets it, "
		"register by register",
		t->name, (unsigned long long)was, arm_reg_name(r->id, name), (unsigned long long)wanted);
}

int kvm_arm_template_apply(const struct vcpu *v, struct err *e)
{
	const struct arm_template *t = kvm_vm_of(v->vm)->arch->template;
	int ret = t ? check_part(v, t, e) : 0;

	for (u32 i = 0; ret == 0 && t && i < t->nr; i++)
		ret = change(v, t, &t->regs[i], e);
	return ret;
}

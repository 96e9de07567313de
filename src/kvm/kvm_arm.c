/* kvm_arm.c: what arm64 adds to a KVM VM: the GIC, vCPUs and their features, what a state is compared with. */
#include "kvm/kvm_arm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arch/aarch64/layout.h"
#include "vmm/config.h"

const struct kvm_need kvm_arch_needs[] = {
	{KVM_CAP_DEVICE_CTRL, "KVM_CAP_DEVICE_CTRL", "3.10"},	     {KVM_CAP_ONE_REG, "KVM_CAP_ONE_REG", "3.6"},
	{KVM_CAP_ARM_PSCI_0_2, "KVM_CAP_ARM_PSCI_0_2", "3.16"},	     {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS", "4.19"},
	{KVM_CAP_SET_GUEST_DEBUG, "KVM_CAP_SET_GUEST_DEBUG", "4.2"}, {0, NULL, NULL},
};

/* arm64 has no KVM that only emulates. */
int kvm_arch_selftest(int fd, struct err *e)
{
	(void)fd;
	(void)e;
	return 0;
}

/* An SPI, by its INTID. Linux Documentation/virt/kvm/api.rst, KVM_IRQ_LINE */
u32 kvm_arch_irq(u32 gsi)
{
	return (u32)KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | (ARM_FIRST_SPI + gsi);
}

int kvm_arch_vm_init(struct kvm_vm *kv, struct err *e)
{
	kv->arch = xzalloc(sizeof(*kv->arch));
	kv->arch->gic_fd = -1;
	kv->arch->template = xzalloc(sizeof(*kv->arch->template));
	if (!kv->vm->config || !arm_template_make(kv->vm->config, kv->arch->template)) {
		free(kv->arch->template);
		kv->arch->template = NULL;
	}
	return kvm_gic_create(kv, e);
}

void kvm_arch_vm_fini(struct kvm_vm *kv)
{
	if (!kv->arch)
		return;
	fd_close(&kv->arch->gic_fd);
	free(kv->arch->template);
	free(kv->arch);
	kv->arch = NULL;
}

/* PSCI 0.2 and above; SVE and pointer authentication where the host has them. */
static u32 choose_features(const struct kvm_vm *kv)
{
	u32 features = BIT(KVM_ARM_VCPU_PSCI_0_2);

	if (kvm_cap(kv, KVM_CAP_ARM_SVE))
		features |= BIT(KVM_ARM_VCPU_SVE);
	if (kvm_cap(kv, KVM_CAP_ARM_PTRAUTH_ADDRESS) && kvm_cap(kv, KVM_CAP_ARM_PTRAUTH_GENERIC))
		features |= BIT(KVM_ARM_VCPU_PTRAUTH_ADDRESS) | BIT(KVM_ARM_VCPU_PTRAUTH_GENERIC);
	return features;
}

/* Off until PSCI switches it on, unless it is the first. */
static int init_vcpu(struct vcpu *v, struct err *e)
{
	const struct kvm_vm *kv = kvm_vm_of(v->vm);
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_vcpu_init init;
	int ret;

	if (ioctl(kv->fd, KVM_ARM_PREFERRED_TARGET, &init) < 0)
		return err_errno(e, "KVM does not say which processor it offers");
	if (v->index == 0) {
		kv->arch->features = choose_features(kv);
		ret = kvm_arm_template_features(kv, &kv->arch->features, e);
		if (ret < 0)
			return ret;
	}
	init.features[0] |= kv->arch->features | (v->index > 0 ? BIT(KVM_ARM_VCPU_POWER_OFF) : 0);
	if (ioctl(kc->fd, KVM_ARM_VCPU_INIT, &init) < 0)
		return err_errno(e, "KVM cannot initialize vCPU %u", v->index);
	kc->arch->powered_off = v->index > 0;
	kc->arch->finalized = !kvm_arm_has(v, KVM_ARM_VCPU_SVE);
	return 0;
}

int kvm_arm_finalize(struct vcpu *v, const u64 *vls, struct err *e)
{
	static const u64 no_wish[ARM_VLS_WORDS];
	struct kvm_vcpu *kc = v->accel;
	int sve = KVM_ARM_VCPU_SVE;

	if (kc->arch->finalized)
		return 0;
	if (memcmp(vls, no_wish, sizeof(no_wish)) && kvm_arm_one_reg(v, KVM_SET_ONE_REG, KVM_REG_ARM64_SVE_VLS, vls) < 0)
		return err_errno(e, "KVM cannot give vCPU %u the state's vector lengths of SVE (0x%llx)", v->index,
				 (unsigned long long)vls[0]);
	if (ioctl(kc->fd, KVM_ARM_VCPU_FINALIZE, &sve) < 0)
		return err_errno(e, "KVM cannot give vCPU %u its vector registers", v->index);
	kc->arch->finalized = true;
	return 0;
}

/* With the last one: templates, and the GIC, which takes no interrupt, and no irqfd, before all vCPUs are there. Devices come after them.
 */
int kvm_arch_vcpu_init(struct vcpu *v, struct err *e)
{
	struct kvm_vcpu *kc = v->accel;
	u64 nr = v->vm->config->machine->vcpu_count;
	int ret;

	kc->arch = xzalloc(sizeof(*kc->arch));
	ret = init_vcpu(v, e);
	if (ret < 0 || v->index + 1 < nr)
		return ret;
	for (u32 i = 0; ret == 0 && i < nr; i++)
		ret = kvm_arm_template_apply(&v->vm->vcpus[i], e);
	return ret == 0 ? kvm_gic_start(kvm_vm_of(v->vm), (u32)nr, e) : ret;
}

void kvm_arch_vcpu_fini(struct vcpu *v)
{
	struct kvm_vcpu *kc = v->accel;

	free(kc->arch);
	kc->arch = NULL;
}

/* arm64 guests are not told that their clock stood still. */
void kvm_arch_clock_stopped(struct kvm_vcpu *kc)
{
	(void)kc;
}

int kvm_arm_one_reg(const struct vcpu *v, unsigned long request, u64 id, const void *value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (u64)(uintptr_t)value};

	return ioctl(((struct kvm_vcpu *)v->accel)->fd, request, &reg);
}

static bool read_reg(const struct vcpu *v, u64 id, u64 *value)
{
	return kvm_arm_one_reg(v, KVM_GET_ONE_REG, id, value) == 0;
}

void kvm_arch_log_state(struct vcpu *v)
{
	u64 pc = 0, sp = 0, pstate = 0, lr = 0;

	/* Pages that nobody brings any more are not to be touched (uffd_lose_missing). */
	if (__atomic_load_n(&v->vm->end, __ATOMIC_ACQUIRE) != VM_END_NONE)
		return;
	if (!read_reg(v, CORE_REG(regs.pc), &pc) || !read_reg(v, CORE_REG(regs.sp), &sp) || !read_reg(v, CORE_REG(regs.pstate), &pstate) ||
	    !read_reg(v, CORE_REG(regs.regs[0]) + 2 * 30, &lr))
		return;
	log_error(v->vm->log, "vCPU %u: PC %016llx LR %016llx SP_EL0 %016llx PSTATE %llx", v->index, (unsigned long long)pc,
		  (unsigned long long)lr, (unsigned long long)sp, (unsigned long long)pstate);
}

u64 kvm_arm_counter_hz(void)
{
	u64 hz;

	__asm__("mrs %0, cntfrq_el0" : "=r"(hz));
	return hz;
}

static int fill_host(struct vm *vm, struct arm_host *host, struct err *e)
{
	struct vcpu *first = &vm->vcpus[0];
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < vm->nr_vcpus; i++)
		ret = kvm_arm_finalize(&vm->vcpus[i], host->sve_vls, e);
	memset(host->sve_vls, 0, sizeof(host->sve_vls));
	if (ret == 0 && kvm_arm_has(first, KVM_ARM_VCPU_SVE) &&
	    kvm_arm_one_reg(first, KVM_GET_ONE_REG, KVM_REG_ARM64_SVE_VLS, host->sve_vls) < 0)
		ret = err_errno(e, "KVM does not tell its vector lengths of SVE");
	host->pauth = kvm_arm_has(first, KVM_ARM_VCPU_PTRAUTH_ADDRESS);
	host->serror_esr = kvm_cap(kvm_vm_of(vm), KVM_CAP_ARM_INJECT_SERROR_ESR);
	host->counter_hz = kvm_arm_counter_hz();
	if (ret == 0)
		ret = kvm_arm_get_list(first, host->regs, &host->nr_regs, e);
	return ret == 0 ? kvm_gic_host(vm, host, e) : ret;
}

int kvm_arch_cpu_caps(struct vm *vm, struct arch_cpu_caps *caps, struct err *e)
{
	if (!read_reg(&vm->vcpus[0], ARM_ID_AA64MMFR0, &caps->mmfr0))
		return err_errno(e, "KVM does not tell which page sizes the processor has");
	return caps->host ? fill_host(vm, caps->host, e) : 0;
}

/* kvm_arm.c: what arm64 adds to a KVM VM: the GIC, vCPUs and their features, general registers. */
#include "kvm/kvm_arm.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "arch/aarch64/layout.h"
#include "vmm/config.h"

#define CORE_REG(field) (KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(field))
#define ID_AA64MMFR0	ARM64_SYS_REG(3, 0, 0, 7, 0)

const struct kvm_need kvm_arch_needs[] = {
	{KVM_CAP_DEVICE_CTRL, "KVM_CAP_DEVICE_CTRL", "3.10"},
	{KVM_CAP_ONE_REG, "KVM_CAP_ONE_REG", "3.6"},
	{KVM_CAP_ARM_PSCI_0_2, "KVM_CAP_ARM_PSCI_0_2", "3.16"},
	{KVM_CAP_SET_GUEST_DEBUG, "KVM_CAP_SET_GUEST_DEBUG", "4.2"},
	{0, NULL, NULL},
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
	return kvm_gic_create(kv, e);
}

void kvm_arch_vm_fini(struct kvm_vm *kv)
{
	if (!kv->arch)
		return;
	fd_close(&kv->arch->gic_fd);
	free(kv->arch);
	kv->arch = NULL;
}

static void feature(struct kvm_vcpu_init *init, u32 bit)
{
	init->features[bit / 32] |= 1u << bit % 32;
}

/* PSCI 0.2 and above, off until PSCI switches it on unless it is the first; SVE and pointer authentication where the host has them. */
static int init_vcpu(struct vcpu *v, struct err *e)
{
	const struct kvm_vm *kv = kvm_vm_of(v->vm);
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_vcpu_init init;
	int sve = KVM_ARM_VCPU_SVE;

	if (ioctl(kv->fd, KVM_ARM_PREFERRED_TARGET, &init) < 0)
		return err_errno(e, "KVM does not say which processor it offers");
	feature(&init, KVM_ARM_VCPU_PSCI_0_2);
	if (v->index > 0)
		feature(&init, KVM_ARM_VCPU_POWER_OFF);
	if (kvm_cap(kv, KVM_CAP_ARM_SVE))
		feature(&init, KVM_ARM_VCPU_SVE);
	if (kvm_cap(kv, KVM_CAP_ARM_PTRAUTH_ADDRESS) && kvm_cap(kv, KVM_CAP_ARM_PTRAUTH_GENERIC)) {
		feature(&init, KVM_ARM_VCPU_PTRAUTH_ADDRESS);
		feature(&init, KVM_ARM_VCPU_PTRAUTH_GENERIC);
	}
	if (ioctl(kc->fd, KVM_ARM_VCPU_INIT, &init) < 0)
		return err_errno(e, "KVM cannot initialize vCPU %u", v->index);
	if (kvm_cap(kv, KVM_CAP_ARM_SVE) && ioctl(kc->fd, KVM_ARM_VCPU_FINALIZE, &sve) < 0)
		return err_errno(e, "KVM cannot give vCPU %u its vector registers", v->index);
	kc->arch->powered_off = v->index > 0;
	return 0;
}

/* The GIC takes no interrupt, and no irqfd, before all vCPUs are there; devices come after them. */
int kvm_arch_vcpu_init(struct vcpu *v, struct err *e)
{
	struct kvm_vcpu *kc = v->accel;
	u64 nr = v->vm->config->machine->vcpu_count;
	int ret;

	kc->arch = xzalloc(sizeof(*kc->arch));
	ret = init_vcpu(v, e);
	return ret == 0 && v->index + 1 == nr ? kvm_gic_start(kvm_vm_of(v->vm), (u32)nr, e) : ret;
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

static int one_reg(const struct vcpu *v, unsigned long request, u64 id, u64 *value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (u64)(uintptr_t)value};

	return ioctl(((struct kvm_vcpu *)v->accel)->fd, request, &reg);
}

static int move_regs(struct vcpu *v, unsigned long request)
{
	struct cpu_state *c = v->cpu;
	int ret = 0;

	/* x0 to x30 follow each other; ids count in units of 4 bytes. */
	for (u32 i = 0; ret == 0 && i < ARM_NR_GPRS; i++)
		ret = one_reg(v, request, CORE_REG(regs.regs[0]) + 2 * i, &c->x[i]);
	if (ret == 0)
		ret = one_reg(v, request, CORE_REG(regs.sp), &c->sp);
	if (ret == 0)
		ret = one_reg(v, request, CORE_REG(regs.pc), &c->pc);
	if (ret == 0)
		ret = one_reg(v, request, CORE_REG(regs.pstate), &c->pstate);
	return ret;
}

int kvm_arch_pull(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_mp_state mp;

	if (ioctl(kc->fd, KVM_GET_MP_STATE, &mp) < 0 || move_regs(v, KVM_GET_ONE_REG) < 0)
		return err_errno(e, "KVM does not tell the registers of vCPU %u", v->index);
	v->cpu->powered_off = mp.mp_state == KVM_MP_STATE_STOPPED;
	return 0;
}

int kvm_arch_push(struct vcpu *v, struct err *e)
{
	struct kvm_vcpu *kc = v->accel;
	struct kvm_mp_state mp = {.mp_state = v->cpu->powered_off ? KVM_MP_STATE_STOPPED : KVM_MP_STATE_RUNNABLE};

	if (move_regs(v, KVM_SET_ONE_REG) < 0)
		return err_errno(e, "KVM does not take the registers of vCPU %u", v->index);
	if (v->cpu->powered_off == kc->arch->powered_off)
		return 0;
	if (ioctl(kc->fd, KVM_SET_MP_STATE, &mp) < 0)
		return err_errno(e, "KVM does not switch vCPU %u %s", v->index, v->cpu->powered_off ? "off" : "on");
	kc->arch->powered_off = v->cpu->powered_off;
	return 0;
}

int kvm_arch_vm_pull(struct vm *vm, struct err *e)
{
	(void)vm;
	return err_set(e, -EOPNOTSUPP, "snapshots and migration of arm64 guests are not there yet");
}

int kvm_arch_vm_push(struct vm *vm, struct err *e)
{
	return kvm_arch_vm_pull(vm, e);
}

void kvm_arch_log_state(struct vcpu *v)
{
	u64 pc, sp, pstate, lr;

	/* Pages that nobody brings any more are not to be touched (uffd_lose_missing). */
	if (__atomic_load_n(&v->vm->end, __ATOMIC_ACQUIRE) != VM_END_NONE)
		return;
	if (one_reg(v, KVM_GET_ONE_REG, CORE_REG(regs.pc), &pc) < 0 || one_reg(v, KVM_GET_ONE_REG, CORE_REG(regs.sp), &sp) < 0 ||
	    one_reg(v, KVM_GET_ONE_REG, CORE_REG(regs.pstate), &pstate) < 0 ||
	    one_reg(v, KVM_GET_ONE_REG, CORE_REG(regs.regs[0]) + 2 * 30, &lr) < 0)
		return;
	log_error(v->vm->log, "vCPU %u: PC %016llx LR %016llx SP_EL0 %016llx PSTATE %llx", v->index, (unsigned long long)pc,
		  (unsigned long long)lr, (unsigned long long)sp, (unsigned long long)pstate);
}

int kvm_arch_cpu_caps(struct vm *vm, struct arch_cpu_caps *caps, struct err *e)
{
	if (one_reg(&vm->vcpus[0], KVM_GET_ONE_REG, ID_AA64MMFR0, &caps->mmfr0) < 0)
		return err_errno(e, "KVM does not tell which page sizes the processor has");
	return 0;
}

int kvm_arch_debug(struct vcpu *v, const struct vcpu_debug *d, struct err *e)
{
	(void)v;
	(void)d;
	return err_set(e, -EOPNOTSUPP, "husk's debugger does not know arm64 yet");
}

/* Only a debugger's wish makes KVM come back with one. */
enum vcpu_exit kvm_arch_debug_exit(struct vcpu *v)
{
	log_error(v->vm->log, "vCPU %u: KVM reports a debug event that nobody asked for", v->index);
	return VCPU_ERROR;
}

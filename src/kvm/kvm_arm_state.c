/*
 * kvm_arm_state.c: a vCPU's canonical state, from and to KVM. Linux Documentation/virt/kvm/api.rst 4.68 to 4.72, 4.31
 *
 * Order of a push: vector lengths (once), registers, pending events, on or off. The counters come last of all, with the VM (vm_push).
 */
#include "kvm/kvm_arm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arch/aarch64/vm_state.h"

#define CORE_OF(size, field)	(KVM_REG_ARM64 | KVM_REG_SIZE_##size | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(field))
#define WORDS(type)		(sizeof(type) / sizeof(u32))
#define SVE_FIRST_SLICE(id)	(((id) & (KVM_ARM64_SVE_MAX_SLICES - 1)) == 0)
#define HIGHEST_REG_SIZE_LISTED 8u

/* Those that struct cpu_state names: moved by move_core and move_sve. */
static bool is_named(u64 id)
{
	u32 kind = ARM_REG_KIND(id);

	return kind == ARM_REG_KIND(KVM_REG_ARM_CORE) ||
	       (kind == ARM_REG_KIND(KVM_REG_ARM64_SVE) && (id == KVM_REG_ARM64_SVE_VLS || SVE_FIRST_SLICE(id)));
}

static bool is_listed(u64 id)
{
	u32 kind = ARM_REG_KIND(id);

	return KVM_REG_SIZE(id) <= HIGHEST_REG_SIZE_LISTED &&
	       (kind == ARM_KIND_DEMUX || kind == ARM_KIND_SYSTEM || kind == ARM_KIND_FIRMWARE || kind == ARM_KIND_SERVICES);
}

static int take_ids(struct kvm_arch_vm *kx, const struct kvm_reg_list *list, struct err *e)
{
	char name[ARM_REG_NAME_SIZE];

	kx->nr_ids = 0;
	for (u64 i = 0; i < list->n; i++) {
		u64 id = list->reg[i];

		if (is_named(id))
			continue;
		if (!is_listed(id))
			return err_set(e, -EOPNOTSUPP, "this host's KVM has %s, which husk cannot save", arm_reg_name(id, name));
		if (kx->nr_ids == ARM_REG_MAX)
			return err_set(e, -E2BIG, "this host's KVM has more than %u registers to save", ARM_REG_MAX);
		kx->ids[kx->nr_ids++] = id;
	}
	return 0;
}

int kvm_arm_list(struct vcpu *v, struct err *e)
{
	static const u64 no_wish[ARM_VLS_WORDS];
	struct kvm_arch_vm *kx = kvm_vm_of(v->vm)->arch;
	const struct kvm_vcpu *kc = v->accel;
	auto_free struct kvm_reg_list *list = NULL;
	struct kvm_reg_list head = {0};
	int ret;

	if (kx->nr_ids)
		return 0;
	ret = kvm_arm_finalize(v, no_wish, e);
	if (ret < 0)
		return ret;
	/* The first call fails with E2BIG and says how many there are. */
	if (ioctl(kc->fd, KVM_GET_REG_LIST, &head) < 0 && errno != E2BIG)
		return err_errno(e, "KVM does not list its registers");
	list = xzalloc(sizeof(*list) + head.n * sizeof(list->reg[0]));
	list->n = head.n;
	if (ioctl(kc->fd, KVM_GET_REG_LIST, list) < 0)
		return err_errno(e, "KVM does not list its registers");
	return take_ids(kx, list, e);
}

static int reg_failed(const struct vcpu *v, unsigned long request, u64 id, struct err *e)
{
	char name[ARM_REG_NAME_SIZE];

	return err_errno(e, "KVM does not %s %s of vCPU %u", request == KVM_GET_ONE_REG ? "tell" : "take", arm_reg_name(id, name),
			 v->index);
}

/* Registers of 32 bits are little-endian in the lower half. */
int kvm_arm_get_list(struct vcpu *v, struct arm_reg *regs, u32 *nr, struct err *e)
{
	const struct kvm_arch_vm *kx = kvm_vm_of(v->vm)->arch;
	int ret = kvm_arm_list(v, e);

	*nr = 0;
	for (u32 i = 0; ret == 0 && i < kx->nr_ids; i++) {
		struct arm_reg *r = &regs[(*nr)++];

		*r = (struct arm_reg){.id = kx->ids[i]};
		if (kvm_arm_one_reg(v, KVM_GET_ONE_REG, r->id, &r->value) < 0)
			ret = reg_failed(v, KVM_GET_ONE_REG, r->id, e);
	}
	return ret;
}

/* Those that are fixed are the host's: arm_cpu_check has compared them. */
static int put_list(const struct vcpu *v, struct err *e)
{
	const struct cpu_state *c = v->cpu;

	for (u32 i = 0; i < c->nr_regs; i++) {
		const struct arm_reg *r = &c->regs[i];

		if (arm_reg_is_fixed(r->id) || arm_reg_is_counter(r->id))
			continue;
		if (kvm_arm_one_reg(v, KVM_SET_ONE_REG, r->id, &r->value) < 0)
			return reg_failed(v, KVM_SET_ONE_REG, r->id, e);
	}
	return 0;
}

struct reg_place {
	u64 id, step; /* id of the next one: id + step */
	void *value;
	u32 nr, size; /* registers, bytes of each */
};

static int move_places(const struct vcpu *v, unsigned long request, const struct reg_place *p, u32 nr, struct err *e)
{
	for (u32 i = 0; i < nr; i++) {
		for (u32 k = 0; k < p[i].nr; k++) {
			if (kvm_arm_one_reg(v, request, p[i].id + k * p[i].step, (u8 *)p[i].value + k * p[i].size) < 0)
				return reg_failed(v, request, p[i].id + k * p[i].step, e);
		}
	}
	return 0;
}

/* What a boot sets. */
static int move_general(struct vcpu *v, unsigned long request, struct err *e)
{
	struct cpu_state *c = v->cpu;
	const struct reg_place places[] = {
		{CORE_OF(U64, regs.regs[0]), WORDS(u64), c->x, ARM_NR_GPRS, sizeof(u64)},
		{CORE_OF(U64, regs.sp), 0, &c->sp, 1, 0},
		{CORE_OF(U64, regs.pc), 0, &c->pc, 1, 0},
		{CORE_OF(U64, regs.pstate), 0, &c->pstate, 1, 0},
	};

	return move_places(v, request, places, ARRAY_SIZE(places), e);
}

static int move_more(struct vcpu *v, unsigned long request, struct err *e)
{
	struct cpu_state *c = v->cpu;
	bool sve = kvm_arm_has(v, KVM_ARM_VCPU_SVE);
	const struct reg_place places[] = {
		{CORE_OF(U64, sp_el1), 0, &c->sp_el1, 1, 0},
		{CORE_OF(U64, elr_el1), 0, &c->elr_el1, 1, 0},
		{CORE_OF(U64, spsr[0]), WORDS(u64), c->spsr, ARRAY_SIZE(c->spsr), sizeof(u64)},
		{CORE_OF(U32, fp_regs.fpsr), 0, &c->fpsr, 1, 0},
		{CORE_OF(U32, fp_regs.fpcr), 0, &c->fpcr, 1, 0},
		{CORE_OF(U128, fp_regs.vregs[0]), WORDS(__uint128_t), c->v, sve ? 0 : ARM_NR_VREGS, ARM_VREG_SIZE},
		{KVM_REG_ARM64_SVE_ZREG(0, 0), KVM_ARM64_SVE_MAX_SLICES, c->v, sve ? ARM_NR_VREGS : 0, ARM_ZREG_SIZE},
		/* FFR has the id behind P15 */
		{KVM_REG_ARM64_SVE_PREG(0, 0), KVM_ARM64_SVE_MAX_SLICES, c->p, sve ? ARM_NR_PREGS + 1 : 0, ARM_PREG_SIZE},
	};

	_Static_assert(KVM_REG_ARM64_SVE_FFR(0) == KVM_REG_ARM64_SVE_PREG(0, 0) + ARM_NR_PREGS * KVM_ARM64_SVE_MAX_SLICES, "in a row");
	return move_places(v, request, places, ARRAY_SIZE(places), e);
}

static int pull_events(struct vcpu *v, struct err *e)
{
	struct kvm_vcpu *kc = v->accel;
	struct kvm_vcpu_events ev = {0};
	struct kvm_mp_state mp;

	if (ioctl(kc->fd, KVM_GET_MP_STATE, &mp) < 0 || ioctl(kc->fd, KVM_GET_VCPU_EVENTS, &ev) < 0)
		return err_errno(e, "KVM does not tell what vCPU %u waits for", v->index);
	v->cpu->powered_off = kc->arch->powered_off = mp.mp_state == KVM_MP_STATE_STOPPED;
	v->cpu->serror_pending = ev.exception.serror_pending;
	v->cpu->serror_has_esr = ev.exception.serror_pending && ev.exception.serror_has_esr;
	v->cpu->serror_esr = v->cpu->serror_has_esr ? ev.exception.serror_esr : 0;
	return 0;
}

static int push_events(struct vcpu *v, struct err *e)
{
	const struct cpu_state *c = v->cpu;
	struct kvm_vcpu *kc = v->accel;
	struct kvm_vcpu_events ev = {.exception = {c->serror_pending, c->serror_has_esr, .serror_esr = c->serror_esr}};
	struct kvm_mp_state mp = {.mp_state = c->powered_off ? KVM_MP_STATE_STOPPED : KVM_MP_STATE_RUNNABLE};

	if (c->nr_regs && ioctl(kc->fd, KVM_SET_VCPU_EVENTS, &ev) < 0)
		return err_errno(e, "KVM refuses the pending SError of vCPU %u", v->index);
	if (c->powered_off == kc->arch->powered_off)
		return 0;
	if (ioctl(kc->fd, KVM_SET_MP_STATE, &mp) < 0)
		return err_errno(e, "KVM does not switch vCPU %u %s", v->index, c->powered_off ? "off" : "on");
	kc->arch->powered_off = c->powered_off;
	return 0;
}

int kvm_arch_pull(struct vcpu *v, struct err *e)
{
	struct cpu_state *c = v->cpu;
	bool sve = kvm_arm_has(v, KVM_ARM_VCPU_SVE);
	int ret = kvm_arm_get_list(v, c->regs, &c->nr_regs, e);

	c->pauth = kvm_arm_has(v, KVM_ARM_VCPU_PTRAUTH_ADDRESS);
	c->nr_v = ARM_NR_VREGS * (sve ? ARM_ZREG_SIZE : ARM_VREG_SIZE);
	c->nr_p = sve ? sizeof(c->p) : 0;
	if (ret == 0)
		ret = move_general(v, KVM_GET_ONE_REG, e);
	if (ret == 0)
		ret = move_more(v, KVM_GET_ONE_REG, e);
	if (ret == 0 && sve && kvm_arm_one_reg(v, KVM_GET_ONE_REG, KVM_REG_ARM64_SVE_VLS, c->sve_vls) < 0)
		ret = reg_failed(v, KVM_GET_ONE_REG, KVM_REG_ARM64_SVE_VLS, e);
	return ret == 0 ? pull_events(v, e) : ret;
}

/* A state without a list is a boot's: reset has set the rest. */
int kvm_arch_push(struct vcpu *v, struct err *e)
{
	int ret = kvm_arm_finalize(v, v->cpu->sve_vls, e);

	if (ret == 0 && v->cpu->nr_regs)
		ret = move_more(v, KVM_SET_ONE_REG, e);
	if (ret == 0)
		ret = put_list(v, e);
	if (ret == 0)
		ret = move_general(v, KVM_SET_ONE_REG, e);
	return ret == 0 ? push_events(v, e) : ret;
}

/* ---- the VM ---- */

/* All vCPUs share the counters; those of the first count. No vCPU may read less than any has read. */
static int push_counters(struct vm *vm, struct err *e)
{
	const struct vcpu *v = &vm->vcpus[0];

	for (u32 i = 0; i < v->cpu->nr_regs; i++) {
		u64 id = v->cpu->regs[i].id, value = v->cpu->regs[i].value + vm->chips->counter_jump;

		if (arm_reg_is_counter(id) && kvm_arm_one_reg(v, KVM_SET_ONE_REG, id, &value) < 0)
			return reg_failed(v, KVM_SET_ONE_REG, id, e);
	}
	return 0;
}

int kvm_arch_vm_pull(struct vm *vm, struct err *e)
{
	vm->chips->clock.counter_hz = kvm_arm_counter_hz();
	return kvm_gic_pull(vm, e);
}

int kvm_arch_vm_push(struct vm *vm, struct err *e)
{
	int ret = kvm_gic_push(vm, e);

	return ret == 0 ? push_counters(vm, e) : ret;
}

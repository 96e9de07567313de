/* kvm_x86_msr.c: the model-specific registers of a vCPU, between KVM and the canonical state. */
#include "kvm/kvm_x86.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
	MSR_TSC = 0x10,
	MSR_KVM_OLD_WALL_CLOCK = 0x11,
	MSR_KVM_OLD_SYSTEM_TIME = 0x12,
	MSR_TSC_ADJUST = 0x3b,
	MSR_SPEC_CTRL = 0x48,
	MSR_UCODE_REV = 0x8b,
	MSR_PLATFORM_INFO = 0xce,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_PAT = 0x277,
	MSR_MTRR_DEF_TYPE = 0x2ff,
	MSR_PERF_GLOBAL_CTRL = 0x38f,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_XSS = 0xda0,
};

#define MSR_AMD_DE_CFG 0xc0011029u

struct msr_range {
	u32 first, last;
};

/* Saved whatever KVM_GET_MSR_INDEX_LIST says: kernels differ in what they list. */
static const struct msr_range always[] = {
	{MSR_TSC, MSR_TSC},
	{MSR_TSC_ADJUST, MSR_TSC_ADJUST},
	{MSR_SPEC_CTRL, MSR_SPEC_CTRL},
	{0x174, 0x176}, /* SYSENTER */
	{0x17a, 0x17a}, /* MCG_STATUS */
	{0x1a0, 0x1a0}, /* MISC_ENABLE */
	{0x200, 0x20f}, /* MTRRs: variable, */
	{0x250, 0x250}, /* fixed 64K, */
	{0x258, 0x259}, /* 16K, */
	{0x268, 0x26f}, /* 4K, */
	{MSR_PAT, MSR_PAT},
	{MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE},
	{MSR_TSC_DEADLINE, MSR_TSC_DEADLINE},
	{MSR_XSS, MSR_XSS},
	{0x4b564d00, 0x4b564d08}, /* KVM's own: clocks, steal time, PV EOI, poll control, migration control */
	{0xc0000081, 0xc0000084}, /* STAR, LSTAR, CSTAR, SFMASK */
	{0xc0000102, 0xc0000103}, /* KERNEL_GS_BASE, TSC_AUX */
};

/* Never saved, though KVM may list it. */
static const struct msr_range never[] = {
	{MSR_KVM_OLD_WALL_CLOCK, MSR_KVM_OLD_SYSTEM_TIME}, /* the same registers as 0x4b564d00 and 01 */
	{0x480, 0x4ff},					   /* VMX capabilities: VMX is not shown to guests */
	{0x40000000, 0x400001ff},			   /* Hyper-V: not shown; asking for them makes KVM allocate its state */
};

static bool in_ranges(const struct msr_range *r, size_t n, u32 msr)
{
	for (size_t i = 0; i < n; i++) {
		if (msr >= r[i].first && msr <= r[i].last)
			return true;
	}
	return false;
}

static int list_add(struct kvm_arch_vm *kx, u32 msr, struct err *e)
{
	for (u32 i = 0; i < kx->nr_msrs; i++) {
		if (kx->msrs[i] == msr)
			return 0;
	}
	if (kx->nr_msrs == X86_MSR_MAX)
		return err_set(e, -E2BIG, "this KVM has more than %u MSRs to save", X86_MSR_MAX);
	kx->msrs[kx->nr_msrs++] = msr;
	return 0;
}

int kvm_msr_list(struct kvm_vm *kv, struct err *e)
{
	struct kvm_msr_list head = {.nmsrs = 0};
	auto_free struct kvm_msr_list *list = NULL;
	int ret = 0;

	/* The first call fails with E2BIG and says how many there are. */
	if (ioctl(kv->dev_fd, KVM_GET_MSR_INDEX_LIST, &head) < 0 && errno != E2BIG)
		return err_errno(e, "KVM does not list its MSRs");
	list = xzalloc(sizeof(*list) + head.nmsrs * sizeof(list->indices[0]));
	list->nmsrs = head.nmsrs;
	if (ioctl(kv->dev_fd, KVM_GET_MSR_INDEX_LIST, list) < 0)
		return err_errno(e, "KVM does not list its MSRs");
	for (size_t i = 0; i < ARRAY_SIZE(always) && !ret; i++) {
		for (u32 msr = always[i].first; msr <= always[i].last && !ret; msr++)
			ret = list_add(kv->arch, msr, e);
	}
	for (u32 i = 0; i < list->nmsrs && !ret; i++) {
		if (!in_ranges(never, ARRAY_SIZE(never), list->indices[i]))
			ret = list_add(kv->arch, list->indices[i], e);
	}
	return ret;
}

/* KVM takes up to 256 at a time; this is what fits the stack well. */
#define BATCH 64u
union msr_batch {
	struct kvm_msrs msrs;
	u8 room[sizeof(struct kvm_msrs) + BATCH * sizeof(struct kvm_msr_entry)];
};

static bool is_late(u32 msr)
{
	return msr == MSR_TSC_DEADLINE || msr == MSR_PERF_GLOBAL_CTRL;
}

/* KVM stops at the first MSR that it does not have and returns how many came before it: leave that one out and go on. */
int kvm_msrs_pull(struct vcpu *v, struct err *e)
{
	const struct kvm_arch_vm *kx = kvm_x86_of(v);
	const struct kvm_vcpu *kc = v->accel;
	struct cpu_state *cpu = v->cpu;
	union msr_batch b = {0};
	u32 next = 0;

	cpu->nr_msrs = 0;
	while (next < kx->nr_msrs) {
		u32 n = MIN(BATCH, kx->nr_msrs - next);
		int got;

		for (u32 i = 0; i < n; i++)
			b.msrs.entries[i] = (struct kvm_msr_entry){.index = kx->msrs[next + i]};
		b.msrs.nmsrs = n;
		got = ioctl(kc->fd, KVM_GET_MSRS, &b);
		if (got < 0)
			return err_errno(e, "KVM cannot read MSRs");
		for (u32 i = 0; i < (u32)got; i++)
			cpu->msrs[cpu->nr_msrs++] = (struct x86_msr){.index = b.msrs.entries[i].index, .value = b.msrs.entries[i].data};
		next += (u32)got < n ? (u32)got + 1 : n;
	}
	kc->arch->pulled_tsc = cpu->nr_msrs && cpu->msrs[0].index == MSR_TSC ? cpu->msrs[0].value : 0;
	return 0;
}

static int write_batch(const struct kvm_vcpu *kc, union msr_batch *b, u32 n, struct err *e)
{
	while (n) {
		u32 done;
		int ret;

		b->msrs.nmsrs = n;
		ret = ioctl(kc->fd, KVM_SET_MSRS, b);
		if (ret < 0)
			return err_errno(e, "KVM cannot write MSRs");
		done = (u32)ret;
		if (done < n && b->msrs.entries[done].data)
			return err_set(e, -EINVAL, "KVM refuses MSR 0x%x = 0x%llx: this host's processor or kernel does not have it",
				       b->msrs.entries[done].index, (unsigned long long)b->msrs.entries[done].data);
		done = MIN(done + 1, n);
		n -= done;
		memmove(b->msrs.entries, b->msrs.entries + done, n * sizeof(b->msrs.entries[0]));
	}
	return 0;
}

int kvm_msrs_push(struct vcpu *v, bool late, struct err *e)
{
	const struct cpu_state *cpu = v->cpu;
	union msr_batch b = {0};
	u32 n = 0;
	int ret = 0;

	for (u32 i = 0; i < cpu->nr_msrs && !ret; i++) {
		if (cpu->msrs[i].index == MSR_TSC || is_late(cpu->msrs[i].index) != late)
			continue;
		b.msrs.entries[n++] = (struct kvm_msr_entry){.index = cpu->msrs[i].index, .data = cpu->msrs[i].value};
		if (n == BATCH) {
			ret = write_batch(v->accel, &b, n, e);
			n = 0;
		}
	}
	return ret < 0 ? ret : write_batch(v->accel, &b, n, e);
}

/* One register; false when KVM does not have it. fd: /dev/kvm for what KVM can do, a vCPU for what that one has. */
static bool read_one(int fd, u32 index, struct x86_msr *out)
{
	union msr_batch b = {.msrs.nmsrs = 1};

	b.msrs.entries[0].index = index;
	if (ioctl(fd, KVM_GET_MSRS, &b) != 1)
		return false;
	*out = (struct x86_msr){index, b.msrs.entries[0].data};
	return true;
}

/* ---- TSC ---- */

/* Since Linux 5.16. */
static bool tsc_offset_attr(int fd, bool set, u64 *offset)
{
	const struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)(uintptr_t)offset};

	return ioctl(fd, set ? KVM_SET_DEVICE_ATTR : KVM_GET_DEVICE_ATTR, &attr) == 0;
}

static int write_tsc(const struct kvm_vcpu *kc, u64 value, struct err *e)
{
	union msr_batch b = {.msrs.nmsrs = 1};

	b.msrs.entries[0] = (struct kvm_msr_entry){.index = MSR_TSC, .data = value};
	if (ioctl(kc->fd, KVM_SET_MSRS, &b) != 1)
		return err_set(e, -EINVAL, "KVM refuses the TSC");
	return 0;
}

/* Older kernels take a value less than a second from what the counter would have for an attempt to synchronize it, and ignore it. So the
 * first vCPU is set far away first; for the others that is what is wanted. */
static int push_tsc_value(const struct kvm_vcpu *kc, u64 value, bool first, struct err *e)
{
	int ret = first ? write_tsc(kc, value ^ BIT(62), e) : 0;

	return ret < 0 ? ret : write_tsc(kc, value, e);
}

/* Sets it, by offset where that is to be had. */
static int set_tsc(struct kvm_arch_vm *kx, const struct kvm_vcpu *kc, u64 value, bool first, struct err *e)
{
	struct x86_msr now;
	u64 offset;

	if (!tsc_offset_attr(kc->fd, false, &offset) || !read_one(kc->fd, MSR_TSC, &now))
		return push_tsc_value(kc, value, first, e);
	if (first)
		kx->tsc_offset = offset + value - now.value;
	return tsc_offset_attr(kc->fd, true, &kx->tsc_offset) ? 0 : push_tsc_value(kc, value, first, e);
}

int kvm_tsc_push(struct vcpu *v, struct err *e)
{
	struct kvm_arch_vm *kx = kvm_x86_of(v);
	const struct kvm_vcpu *kc = v->accel;
	u64 second = MAX(v->cpu->tsc_khz, 1000000u) * 1000, value = 0;
	struct x86_msr now;
	bool first;
	int ret;

	for (u32 i = 0; i < v->cpu->nr_msrs; i++)
		value = v->cpu->msrs[i].index == MSR_TSC ? v->cpu->msrs[i].value : value;
	if (!value || value == kc->arch->pulled_tsc)
		return 0;
	first = !kx->tsc_known || value - kx->tsc_value + second > 2 * second;
	if (first)
		kx->tsc_value = value;
	kx->tsc_known = true;
	ret = set_tsc(kx, kc, value, first, e);
	/* A KVM that is itself emulated may give its guests the host's counter, come what may. */
	if (ret == 0 && read_one(kc->fd, MSR_TSC, &now) && (s64)(now.value - value) < -(s64)second)
		return err_set(e, -EOPNOTSUPP, "KVM ignores the guest's TSC: it would go back by %llu seconds",
			       (unsigned long long)((value - now.value) / second));
	return ret;
}

void kvm_feature_msrs(const struct vm *vm, struct arch_cpu_caps *caps)
{
	static const struct {
		u32 index;
		bool of_vcpu; /* KVM tells it of no processor, but each vCPU has it */
	} msrs[] = {{MSR_UCODE_REV, false}, {MSR_PLATFORM_INFO, true}, {MSR_ARCH_CAPABILITIES, false}, {MSR_AMD_DE_CFG, false}};
	const struct kvm_vcpu *first = vm->nr_vcpus ? vm->vcpus[0].accel : NULL;
	const struct x86_cpuid *ext = x86_cpuid_find(&caps->cpuid, 7, 0);

	_Static_assert(ARRAY_SIZE(msrs) <= X86_FEATURE_MSR_MAX, "they fit");
	caps->nr_feature_msrs = 0;
	for (u32 i = 0; i < ARRAY_SIZE(msrs); i++) {
		int fd = !msrs[i].of_vcpu ? kvm_vm_of(vm)->dev_fd : first ? first->fd : -1;

		if (msrs[i].index == MSR_ARCH_CAPABILITIES && !(ext && ext->edx & BIT(29)))
			continue;
		if (fd >= 0 && read_one(fd, msrs[i].index, &caps->feature_msrs[caps->nr_feature_msrs]))
			caps->nr_feature_msrs++;
	}
}

/*
 * kvm_x86_state.c: one vCPU's registers, between KVM and the canonical state (arch/x86_64/cpu.h).
 *
 * The order matters both ways; each step says why it stands where it does. Nested virtualization state is not moved: VMX and SVM are not
 * shown to guests (kvm_x86.c).
 */
#include "kvm/kvm_x86.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* Local APIC registers, SDM 3A §11.4.1 */
#define APIC_VERSION   0x30
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_TMICT     0x380
#define APIC_TMCCT     0x390
#define LVT_TIMER_MODE 0x60000u
#define LVT_EXTINT     0x700u
#define LVT_NMI	       0x400u

#define XSAVE_FCW	0 /* x87 control word */
#define XSAVE_MXCSR	24
#define XSAVE_XSTATE_BV 512

/* struct kvm_regs has no array: where each canonical register lies in it. */
static const size_t gpr_offset[X86_NR_GPRS] = {
	offsetof(struct kvm_regs, rax), offsetof(struct kvm_regs, rcx), offsetof(struct kvm_regs, rdx), offsetof(struct kvm_regs, rbx),
	offsetof(struct kvm_regs, rsp), offsetof(struct kvm_regs, rbp), offsetof(struct kvm_regs, rsi), offsetof(struct kvm_regs, rdi),
	offsetof(struct kvm_regs, r8),	offsetof(struct kvm_regs, r9),	offsetof(struct kvm_regs, r10), offsetof(struct kvm_regs, r11),
	offsetof(struct kvm_regs, r12), offsetof(struct kvm_regs, r13), offsetof(struct kvm_regs, r14), offsetof(struct kvm_regs, r15),
};

static const size_t seg_offset[X86_NR_SEGS] = {
	[X86_ES] = offsetof(struct kvm_sregs2, es),    [X86_CS] = offsetof(struct kvm_sregs2, cs),
	[X86_SS] = offsetof(struct kvm_sregs2, ss),    [X86_DS] = offsetof(struct kvm_sregs2, ds),
	[X86_FS] = offsetof(struct kvm_sregs2, fs),    [X86_GS] = offsetof(struct kvm_sregs2, gs),
	[X86_LDTR] = offsetof(struct kvm_sregs2, ldt), [X86_TR] = offsetof(struct kvm_sregs2, tr),
};

/* Up to flags, kvm_sregs2 is kvm_sregs: one piece of code serves both. */
#define SREGS_COMMON offsetof(struct kvm_sregs2, flags)
_Static_assert(SREGS_COMMON == offsetof(struct kvm_sregs, interrupt_bitmap), "kvm_sregs2 begins like kvm_sregs");

static const u32 mp_to_kvm[] = {
	[X86_MP_RUNNABLE] = KVM_MP_STATE_RUNNABLE,
	[X86_MP_UNINIT] = KVM_MP_STATE_UNINITIALIZED,
	[X86_MP_INIT_RECEIVED] = KVM_MP_STATE_INIT_RECEIVED,
	[X86_MP_SIPI_RECEIVED] = KVM_MP_STATE_SIPI_RECEIVED,
	[X86_MP_HALTED] = KVM_MP_STATE_HALTED,
};

static int pull_mp_state(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_mp_state mp;

	if (ioctl(kc->fd, KVM_GET_MP_STATE, &mp) < 0)
		return err_errno(e, "KVM cannot read whether the vCPU runs");
	for (u32 i = 0; i < ARRAY_SIZE(mp_to_kvm); i++) {
		if (mp_to_kvm[i] == mp.mp_state) {
			v->cpu->mp_state = (enum x86_mp_state)i;
			return 0;
		}
	}
	return err_set(e, -EIO, "KVM has the vCPU in state %u, which husk does not know", mp.mp_state);
}

static int push_mp_state(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_mp_state mp;

	if (v->cpu->mp_state >= ARRAY_SIZE(mp_to_kvm))
		return err_set(e, -EINVAL, "vCPU run state %u is unknown", v->cpu->mp_state);
	mp.mp_state = mp_to_kvm[v->cpu->mp_state];
	if (ioctl(kc->fd, KVM_SET_MP_STATE, &mp) < 0)
		return err_errno(e, "KVM refuses run state %u", mp.mp_state);
	return 0;
}

static int pull_regs(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_regs regs;

	if (ioctl(kc->fd, KVM_GET_REGS, &regs) < 0)
		return err_errno(e, "KVM cannot read the registers");
	for (u32 i = 0; i < X86_NR_GPRS; i++)
		v->cpu->gpr[i] = ld_le64((u8 *)&regs + gpr_offset[i]);
	v->cpu->rip = regs.rip;
	v->cpu->rflags = regs.rflags;
	return 0;
}

static int push_regs(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_regs regs = {.rip = v->cpu->rip, .rflags = v->cpu->rflags};

	for (u32 i = 0; i < X86_NR_GPRS; i++)
		st_le64((u8 *)&regs + gpr_offset[i], v->cpu->gpr[i]);
	if (ioctl(kc->fd, KVM_SET_REGS, &regs) < 0)
		return err_errno(e, "KVM refuses the registers");
	return 0;
}

static struct x86_seg seg_from_kvm(const struct kvm_segment *k)
{
	return (struct x86_seg){
		.base = k->base,
		.limit = k->limit,
		.selector = k->selector,
		.attr = (u16)((k->type & 15) | !!k->s << 4 | (k->dpl & 3) << 5 | !!k->present << 7 | !!k->avl << 8 | !!k->l << 9 |
			      !!k->db << 10 | !!k->g << 11 | (k->unusable ? X86_SEG_UNUSABLE : 0)),
	};
}

static struct kvm_segment seg_to_kvm(const struct x86_seg *s)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->attr & 15,
		.s = s->attr >> 4 & 1,
		.dpl = s->attr >> 5 & 3,
		.present = s->attr >> 7 & 1,
		.avl = s->attr >> 8 & 1,
		.l = s->attr >> 9 & 1,
		.db = s->attr >> 10 & 1,
		.g = s->attr >> 11 & 1,
		.unusable = !!(s->attr & X86_SEG_UNUSABLE),
	};
}

static int get_sregs(struct vcpu *v, struct kvm_sregs2 *s, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_sregs old;

	*s = (struct kvm_sregs2){0};
	if (kvm_x86_of(v)->has_sregs2) {
		if (ioctl(kc->fd, KVM_GET_SREGS2, s) < 0)
			return err_errno(e, "KVM cannot read the system registers");
		return 0;
	}
	if (ioctl(kc->fd, KVM_GET_SREGS, &old) < 0)
		return err_errno(e, "KVM cannot read the system registers");
	memcpy(s, &old, SREGS_COMMON);
	return 0;
}

static int set_sregs(struct vcpu *v, const struct kvm_sregs2 *s, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_sregs old = {0};
	int ret;

	if (kvm_x86_of(v)->has_sregs2) {
		ret = ioctl(kc->fd, KVM_SET_SREGS2, s);
	} else {
		memcpy(&old, s, SREGS_COMMON);
		ret = ioctl(kc->fd, KVM_SET_SREGS, &old);
	}
	if (ret < 0)
		return err_errno(e, "KVM refuses the system registers (CR0 %llx CR4 %llx EFER %llx, APIC base %llx)", s->cr0, s->cr4,
				 s->efer, s->apic_base);
	return 0;
}

static int pull_sregs(struct vcpu *v, struct err *e)
{
	struct cpu_state *cpu = v->cpu;
	struct kvm_sregs2 s;
	int ret = get_sregs(v, &s, e);

	if (ret < 0)
		return ret;
	for (u32 i = 0; i < X86_NR_SEGS; i++)
		cpu->seg[i] = seg_from_kvm((void *)((u8 *)&s + seg_offset[i]));
	cpu->gdt = (struct x86_dtable){s.gdt.base, s.gdt.limit};
	cpu->idt = (struct x86_dtable){s.idt.base, s.idt.limit};
	cpu->cr0 = s.cr0;
	cpu->cr2 = s.cr2;
	cpu->cr3 = s.cr3;
	cpu->cr4 = s.cr4;
	cpu->cr8 = s.cr8;
	cpu->efer = s.efer;
	cpu->apic_base = s.apic_base;
	cpu->has_pdptr = s.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
	for (u32 i = 0; i < 4; i++)
		cpu->pdptr[i] = s.pdptrs[i];
	return 0;
}

static int push_sregs(struct vcpu *v, struct err *e)
{
	const struct cpu_state *cpu = v->cpu;
	struct kvm_sregs2 s = {
		.gdt = {.base = cpu->gdt.base, .limit = cpu->gdt.limit},
		.idt = {.base = cpu->idt.base, .limit = cpu->idt.limit},
		.cr0 = cpu->cr0,
		.cr2 = cpu->cr2,
		.cr3 = cpu->cr3,
		.cr4 = cpu->cr4,
		.cr8 = cpu->cr8,
		.efer = cpu->efer,
		.apic_base = cpu->apic_base,
		.flags = cpu->has_pdptr ? KVM_SREGS2_FLAGS_PDPTRS_VALID : 0,
	};

	for (u32 i = 0; i < X86_NR_SEGS; i++) {
		struct kvm_segment seg = seg_to_kvm(&cpu->seg[i]);

		memcpy((u8 *)&s + seg_offset[i], &seg, sizeof(seg));
	}
	for (u32 i = 0; i < 4 && cpu->has_pdptr; i++)
		s.pdptrs[i] = cpu->pdptr[i];
	return set_sregs(v, &s, e);
}

/* Some kernels tell of components that the guest was never shown, as PKRU: what it cannot reach is no state of it. */
static void hide_components(struct cpu_state *cpu)
{
	const struct x86_cpuid *c = x86_cpuid_find(&cpu->cpuid, 0xd, 0);
	u64 shown = 3 | (c ? c->eax | (u64)c->edx << 32 : 0);

	if (cpu->cpuid.nr)
		st_le64(cpu->xsave + XSAVE_XSTATE_BV, ld_le64(cpu->xsave + XSAVE_XSTATE_BV) & shown);
}

static int pull_xsave(struct vcpu *v, struct err *e)
{
	const struct kvm_arch_vm *kx = kvm_x86_of(v);
	const struct kvm_vcpu *kc = v->accel;

	if (ioctl(kc->fd, kx->has_xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, v->cpu->xsave) < 0)
		return err_errno(e, "KVM cannot read the floating-point state");
	v->cpu->xsave_size = kx->xsave_size;
	hide_components(v->cpu);
	return 0;
}

static int push_xsave(struct vcpu *v, struct err *e)
{
	const struct kvm_arch_vm *kx = kvm_x86_of(v);
	const struct kvm_vcpu *kc = v->accel;
	const struct cpu_state *cpu = v->cpu;
	auto_free u8 *area = xzalloc(X86_XSAVE_MAX); /* KVM reads xsave_size bytes of it, the state may have fewer */

	if (cpu->xsave_size > kx->xsave_size)
		return err_set(e, -EINVAL, "the state has %u bytes of XSAVE area, this host's KVM takes %u", cpu->xsave_size,
			       kx->xsave_size);
	if (cpu->xsave_size) {
		memcpy(area, cpu->xsave, cpu->xsave_size);
	} else { /* as after a reset: SDM 3A table 9-1; XSTATE_BV: x87 and SSE are there, the rest is in its initial state */
		st_le16(area + XSAVE_FCW, 0x37f);
		st_le32(area + XSAVE_MXCSR, 0x1f80);
		st_le64(area + XSAVE_XSTATE_BV, 3);
	}
	if (ioctl(kc->fd, KVM_SET_XSAVE, area) < 0)
		return err_errno(e, "KVM refuses the floating-point state (features 0x%llx)",
				 (unsigned long long)ld_le64(area + XSAVE_XSTATE_BV));
	return 0;
}

static int pull_xcr0(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_xcrs xcrs = {0};

	if (ioctl(kc->fd, KVM_GET_XCRS, &xcrs) < 0)
		return err_errno(e, "KVM cannot read XCR0");
	/* No entry: the host processor has no XSAVE. */
	v->cpu->xcr0 = xcrs.nr_xcrs ? xcrs.xcrs[0].value : 0;
	return 0;
}

static int push_xcr0(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = v->cpu->xcr0}}};

	/* Bit 0 is always set where XCR0 exists (SDM 3A §2.6); boot code may leave it to us. */
	if (!v->cpu->xcr0)
		return 0;
	if (ioctl(kc->fd, KVM_SET_XCRS, &xcrs) < 0)
		return err_errno(e, "KVM refuses XCR0 = 0x%llx", (unsigned long long)v->cpu->xcr0);
	return 0;
}

static int pull_debugregs(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_debugregs d;

	if (ioctl(kc->fd, KVM_GET_DEBUGREGS, &d) < 0)
		return err_errno(e, "KVM cannot read the debug registers");
	for (u32 i = 0; i < 4; i++)
		v->cpu->dr[i] = d.db[i];
	v->cpu->dr6 = d.dr6;
	v->cpu->dr7 = d.dr7;
	return 0;
}

static int push_debugregs(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	const struct cpu_state *cpu = v->cpu;
	struct kvm_debugregs d = {.db = {cpu->dr[0], cpu->dr[1], cpu->dr[2], cpu->dr[3]}, .dr6 = cpu->dr6, .dr7 = cpu->dr7};

	if (ioctl(kc->fd, KVM_SET_DEBUGREGS, &d) < 0)
		return err_errno(e, "KVM refuses the debug registers");
	return 0;
}

/* A one-shot timer that has run out may wait to interrupt inside KVM, where it is not seen: with a count to go it does so once more. */
static void keep_expired(u8 *regs)
{
	if (!(ld_le32(regs + APIC_LVT_TIMER) & LVT_TIMER_MODE) && ld_le32(regs + APIC_TMICT) && !ld_le32(regs + APIC_TMCCT))
		st_le32(regs + APIC_TMCCT, 1);
}

static int pull_lapic(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;

	_Static_assert(sizeof(v->cpu->lapic) == sizeof(struct kvm_lapic_state), "the register page is KVM's");
	if (ioctl(kc->fd, KVM_GET_LAPIC, &v->cpu->lapic) < 0)
		return err_errno(e, "KVM cannot read the local APIC");
	keep_expired(v->cpu->lapic.regs);
	return 0;
}

/* A version register of 0 exists in no APIC: the state has none, as at boot. Then KVM's own reset state stays, and the two local pins are
 * programmed as firmware leaves them (MultiProcessor Specification 1.4 §3.6.2: virtual wire mode). */
static int push_lapic(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct x86_lapic lapic = v->cpu->lapic;

	if (!ld_le32(lapic.regs + APIC_VERSION)) {
		if (ioctl(kc->fd, KVM_GET_LAPIC, &lapic) < 0)
			return err_errno(e, "KVM cannot read the local APIC");
		st_le32(lapic.regs + APIC_LVT_LINT0, LVT_EXTINT);
		st_le32(lapic.regs + APIC_LVT_LINT1, LVT_NMI);
	}
	if (ioctl(kc->fd, KVM_SET_LAPIC, &lapic) < 0)
		return err_errno(e, "KVM refuses the local APIC");
	return 0;
}

/* KVM has the bits of the canonical form the other way round (KVM_X86_SHADOW_INT_*). */
static u8 swap_shadow(u8 shadow)
{
	return (u8)((shadow & 1) << 1 | (shadow >> 1 & 1));
}

static int pull_events(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_vcpu_events k;

	if (ioctl(kc->fd, KVM_GET_VCPU_EVENTS, &k) < 0)
		return err_errno(e, "KVM cannot read the pending events");
	v->cpu->events = (struct x86_events){
		.exception_pending = k.exception.pending,
		.exception_injected = k.exception.injected,
		.exception_has_error = k.exception.has_error_code,
		.exception_has_payload = k.exception_has_payload,
		.exception_vector = k.exception.nr,
		.exception_error = k.exception.error_code,
		.exception_payload = k.exception_payload,
		.interrupt_injected = k.interrupt.injected,
		.interrupt_soft = k.interrupt.soft,
		.interrupt_vector = k.interrupt.nr,
		.interrupt_shadow = swap_shadow(k.interrupt.shadow),
		.nmi_injected = k.nmi.injected,
		.nmi_pending = k.nmi.pending,
		.nmi_masked = k.nmi.masked,
		.smm = k.smi.smm,
		.smm_pending = k.smi.pending,
		.smm_inside_nmi = k.smi.smm_inside_nmi,
		.init_latched = k.smi.latched_init,
		.triple_fault_pending = k.triple_fault.pending,
		.sipi_vector = (u8)k.sipi_vector,
	};
	return 0;
}

static int push_events(struct vcpu *v, struct err *e)
{
	const struct kvm_arch_vm *kx = kvm_x86_of(v);
	const struct x86_events *ev = &v->cpu->events;
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_vcpu_events k = {
		.exception = {.injected = ev->exception_injected,
			      .nr = ev->exception_vector,
			      .has_error_code = ev->exception_has_error,
			      .pending = ev->exception_pending,
			      .error_code = ev->exception_error},
		.exception_has_payload = ev->exception_has_payload,
		.exception_payload = ev->exception_payload,
		.interrupt = {.injected = ev->interrupt_injected,
			      .nr = ev->interrupt_vector,
			      .soft = ev->interrupt_soft,
			      .shadow = swap_shadow(ev->interrupt_shadow)},
		.nmi = {.injected = ev->nmi_injected, .pending = ev->nmi_pending, .masked = ev->nmi_masked},
		.smi = {.smm = ev->smm, .pending = ev->smm_pending, .smm_inside_nmi = ev->smm_inside_nmi, .latched_init = ev->init_latched},
		.triple_fault = {.pending = ev->triple_fault_pending},
		.sipi_vector = ev->sipi_vector,
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW |
			 KVM_VCPUEVENT_VALID_SMM | (kx->has_payload ? KVM_VCPUEVENT_VALID_PAYLOAD : 0) |
			 (kx->has_triple_fault ? KVM_VCPUEVENT_VALID_TRIPLE_FAULT : 0),
	};

	if (ioctl(kc->fd, KVM_SET_VCPU_EVENTS, &k) < 0)
		return err_errno(e, "KVM refuses the pending events");
	return 0;
}

static int pull_tsc_khz(struct vcpu *v, struct err *e)
{
	int khz = ioctl(((struct kvm_vcpu *)v->accel)->fd, KVM_GET_TSC_KHZ, 0);

	(void)e;
	v->cpu->tsc_khz = khz > 0 ? (u64)khz : 0;
	return 0;
}

static int push_tsc_khz(struct vcpu *v, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;
	u64 want = v->cpu->tsc_khz;
	int have = ioctl(kc->fd, KVM_GET_TSC_KHZ, 0);

	if (!want || (have > 0 && (u64)have == want))
		return 0;
	if (want > INT32_MAX || ioctl(kc->fd, KVM_SET_TSC_KHZ, want) < 0)
		return err_set(e, -EOPNOTSUPP, "the guest's TSC runs at %llu kHz, this host's at %d kHz and its processor cannot scale it",
			       (unsigned long long)want, have);
	return 0;
}

static bool same_cpuid(const struct x86_cpuid_table *a, const struct x86_cpuid_table *b)
{
	if (a->nr != b->nr)
		return false;
	for (u32 i = 0; i < a->nr; i++) {
		const struct x86_cpuid *x = &a->e[i], *y = &b->e[i];

		if (x->leaf != y->leaf || x->subleaf != y->subleaf || x->has_subleaf != y->has_subleaf || x->eax != y->eax ||
		    x->ebx != y->ebx || x->ecx != y->ecx || x->edx != y->edx)
			return false;
	}
	return true;
}

/* KVM takes CPUID before the first KVM_RUN only, so it is left alone when it is what KVM has. */
static int push_cpuid(struct vcpu *v, struct err *e)
{
	struct kvm_vcpu *kc = v->accel;
	const struct x86_cpuid_table *t = &v->cpu->cpuid;
	auto_free struct kvm_cpuid2 *k = NULL;

	if (t->nr > X86_CPUID_MAX)
		return err_set(e, -EINVAL, "%u CPUID leaves are more than %u", t->nr, X86_CPUID_MAX);
	if (same_cpuid(t, &kc->arch->cpuid))
		return 0;
	k = xzalloc(sizeof(*k) + t->nr * sizeof(k->entries[0]));
	k->nent = t->nr;
	for (u32 i = 0; i < t->nr; i++) {
		const struct x86_cpuid *c = &t->e[i];

		k->entries[i] = (struct kvm_cpuid_entry2){
			.function = c->leaf,
			.index = c->subleaf,
			.flags = c->has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = c->eax,
			.ebx = c->ebx,
			.ecx = c->ecx,
			.edx = c->edx,
		};
	}
	if (ioctl(kc->fd, KVM_SET_CPUID2, k) < 0)
		return err_errno(e, "KVM refuses the CPUID leaves");
	kc->arch->cpuid = *t;
	return 0;
}

/* The TSC before its deadline (FC #4666). */
static int push_early_msrs(struct vcpu *v, struct err *e)
{
	int ret;

	if (v->cpu->nr_msrs > X86_MSR_MAX)
		return err_set(e, -EINVAL, "%u MSRs are more than %u", v->cpu->nr_msrs, X86_MSR_MAX);
	ret = kvm_tsc_push(v, e);
	return ret < 0 ? ret : kvm_msrs_push(v, false, e);
}

static int push_late_msrs(struct vcpu *v, struct err *e)
{
	return kvm_msrs_push(v, true, e);
}

typedef int step_fn(struct vcpu *v, struct err *e);

static int run_steps(step_fn *const *steps, struct vcpu *v, struct err *e)
{
	int ret = 0;

	for (; *steps && !ret; steps++)
		ret = (*steps)(v, e);
	return ret < 0 ? err_prefix(e, "vCPU %u", v->index) : 0;
}

int kvm_arch_pull(struct vcpu *v, struct err *e)
{
	static step_fn *const steps[] = {
		pull_mp_state, /* first: it takes in a waiting INIT or SIPI, which moves CS, RIP and the LAPIC */
		pull_regs,
		pull_sregs,
		pull_xsave,
		pull_xcr0,
		pull_debugregs,
		pull_tsc_khz,
		/* The deadline before the LAPIC: a timer that fires between the two is then saved twice, never lost (FC #4618). */
		kvm_msrs_pull,
		pull_lapic,
		pull_events, /* last: what the steps before took in is pending now */
		NULL,
	};

	return run_steps(steps, v, e);
}

int kvm_arch_push(struct vcpu *v, struct err *e)
{
	static step_fn *const steps[] = {
		push_tsc_khz, /* before anything that reads the TSC */
		push_cpuid,   /* says which bits of CR4, EFER, XCR0 and which MSRs are legal */
		push_regs,    /* throws away pending exceptions: before the events */
		push_sregs,   /* sets APIC base and mode */
		push_xsave,	 push_xcr0,	push_debugregs, push_lapic, /* after the APIC base, before the deadline timer */
		push_early_msrs,		/* KVM writes the guest's clock pages here: memory must be mapped */
		push_events,	 push_mp_state, /* after the system registers: writing those may make a vCPU at the reset vector runnable */
		push_late_msrs,	 NULL,
	};

	return run_steps(steps, v, e);
}

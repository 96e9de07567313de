/*
 * state.c: one vCPU between struct tcg_cpu and the canonical state (arch/x86_64/cpu.h). What was saved under kvm loads here, and back: the
 * MSRs are those of kvm_x86_msr.c, and the ones that do nothing under tcg are kept. ctx: the vCPU is parked
 */
#include <errno.h>
#include <string.h>

#include "arch/x86_64/chips.h"
#include "tcg/cpumodel.h"
#include "tcg/mmu.h"
#include "tcg/pvclock.h"
#include "tcg/vcpu.h"
#include "tcg/x86_64/interp.h"
#include "tcg/x86_64/sys.h"

#define MSR_TSC		      0x10u
#define MSR_TSC_DEADLINE      0x6e0u
#define MSR_ARCH_CAPABILITIES 0x10au

#define XSAVE_FCW	 0
#define XSAVE_MXCSR	 24
#define XSAVE_XSTATE_BV	 512
#define XSAVE_XCOMP_BV	 520
#define XSAVE_HEADER_END 576u
#define FCW_RESET	 0x37f
#define MXCSR_RESET	 0x1f80u
#define MXCSR_MASK	 0xffffu /* DAZ is in every processor that has BMI2 */

#define RFLAGS_ONE  2ull
#define RFLAGS_MASK 0x3f7fd7ull
#define KHZ_PPM	    250u /* a TSC frequency this near is the same: KVM's tolerance too */

/* ---- MSRs ---- */

static const struct msr_field {
	u32 index;
	size_t offset;
} fields[] = {
	{0x3b, offsetof(struct tcg_cpu, tsc_adjust)},		{0x48, offsetof(struct tcg_cpu, spec_ctrl)},
	{0x10a, offsetof(struct tcg_cpu, arch_capabilities)},	{0x174, offsetof(struct tcg_cpu, sysenter_cs)},
	{0x175, offsetof(struct tcg_cpu, sysenter_esp)},	{0x176, offsetof(struct tcg_cpu, sysenter_eip)},
	{0x1a0, offsetof(struct tcg_cpu, misc_enable)},		{0x277, offsetof(struct tcg_cpu, pat)},
	{0x2ff, offsetof(struct tcg_cpu, mtrr_def_type)},	{0xda0, offsetof(struct tcg_cpu, xss)},
	{0x4b564d00, offsetof(struct tcg_cpu, pv_wall_msr)},	{0x4b564d01, offsetof(struct tcg_cpu, pv_time_msr)},
	{0xc0000081, offsetof(struct tcg_cpu, star)},		{0xc0000082, offsetof(struct tcg_cpu, lstar)},
	{0xc0000083, offsetof(struct tcg_cpu, cstar)},		{0xc0000084, offsetof(struct tcg_cpu, sfmask)},
	{0xc0000102, offsetof(struct tcg_cpu, kernel_gs_base)}, {0xc0000103, offsetof(struct tcg_cpu, tsc_aux)},
};

/*
 * Nothing comes of them under tcg: MTRRs (all memory is write-back), the machine check status, and what KVM's paravirtual features write
 * when it is convenient: steal time, PV EOI, poll control. Asynchronous page faults are never shown (kvm_x86.c), migration control is.
 */
static const struct msr_range {
	u32 first, last;
} kept[] = {
	{0x17a, 0x17a}, {0x200, 0x20f}, {0x250, 0x250}, {0x258, 0x259}, {0x268, 0x26f}, {0x4b564d02, 0x4b564d08},
};

/* Position in tcg_vcpu.kept, or -1. */
static int kept_slot(u32 msr)
{
	u32 slot = 0;

	for (u32 i = 0; i < ARRAY_SIZE(kept); slot += kept[i].last - kept[i].first + 1, i++) {
		if (msr >= kept[i].first && msr <= kept[i].last)
			return (int)(slot + msr - kept[i].first);
	}
	return -1;
}

u64 *vcpu_kept_msr(struct tcg_cpu *c, u32 msr)
{
	int slot = kept_slot(msr);

	ASSERT(slot < (int)TCG_KEPT_MSRS);
	return slot < 0 ? NULL : &tcg_vcpu_of(c)->kept[slot];
}

/*
 * Loaded by being ignored, whatever they hold: KVM has them for every guest, and no guest finds anything else here.
 */
static const struct msr_range ignored[] = {
	{0x34, 0x34},		  /* SMI_COUNT: there are no SMIs */
	{0x3a, 0x3a},		  /* FEATURE_CONTROL: locked, without VMX */
	{0x8b, 0x8b},		  /* UCODE_REV: read-only */
	{0x9e, 0x9e},		  /* SMBASE: there is no SMM */
	{0xce, 0xce},		  /* PLATFORM_INFO: CPUID faulting is not there, frequencies do nothing */
	{0x140, 0x140},		  /* MISC_FEATURES_ENABLES: the same */
	{0x17b, 0x17b},		  /* MCG_CTL: no machine checks are made */
	{0x345, 0x345},		  /* PERF_CAPABILITIES: CPUID shows no counters */
	{0x4d0, 0x4d0},		  /* MCG_EXT_CTL */
	{0xc0000104, 0xc0000104}, /* AMD TSC_RATIO, of nested guests */
	{0xc0010015, 0xc0010015}, /* AMD HWCR: reads as a constant */
	{0xc0011029, 0xc0011029}, /* AMD DE_CFG: the same */
};

static bool is_ignored(u32 msr)
{
	for (u32 i = 0; i < ARRAY_SIZE(ignored); i++) {
		if (msr >= ignored[i].first && msr <= ignored[i].last)
			return true;
	}
	return false;
}

static u64 *msr_field(struct tcg_cpu *c, u32 msr)
{
	for (u32 i = 0; i < ARRAY_SIZE(fields); i++) {
		if (fields[i].index == msr)
			return (u64 *)(void *)((u8 *)c + fields[i].offset);
	}
	return vcpu_kept_msr(c, msr);
}

static u32 list_ranges(const struct msr_range *r, size_t n, u32 *out)
{
	u32 nr = 0;

	for (size_t i = 0; i < n; i++) {
		for (u32 msr = r[i].first; msr <= r[i].last; msr++)
			out[nr++] = msr;
	}
	return nr;
}

u32 tcg_msr_list(u32 *out)
{
	u32 n = 0;

	out[n++] = MSR_TSC;
	out[n++] = MSR_TSC_DEADLINE;
	for (u32 i = 0; i < ARRAY_SIZE(fields); i++)
		out[n++] = fields[i].index;
	n += list_ranges(kept, ARRAY_SIZE(kept), out + n);
	n += list_ranges(ignored, ARRAY_SIZE(ignored), out + n);
	ASSERT(n <= X86_MSR_MAX);
	return n;
}

static void add_msr(struct cpu_state *s, u32 index, u64 value)
{
	ASSERT(s->nr_msrs < X86_MSR_MAX);
	s->msrs[s->nr_msrs++] = (struct x86_msr){index, value};
}

/* ---- pull ---- */

/* KVM refuses what CPUID does not show. */
static bool is_shown(const struct tcg_cpu *c, u32 msr)
{
	const struct x86_cpuid *ext = x86_cpuid_find((struct x86_cpuid_table *)&c->cpuid, 7, 0);

	return msr != MSR_ARCH_CAPABILITIES || (ext && ext->edx & BIT(29));
}

static void pull_msrs(struct tcg_cpu *c, struct cpu_state *s)
{
	s->nr_msrs = 0;
	add_msr(s, MSR_TSC, tcg_tsc_save(c));
	for (u32 i = 0; i < ARRAY_SIZE(fields); i++) {
		if (is_shown(c, fields[i].index))
			add_msr(s, fields[i].index, *msr_field(c, fields[i].index));
	}
	for (u32 i = 0; i < ARRAY_SIZE(kept); i++) {
		for (u32 msr = kept[i].first; msr <= kept[i].last; msr++)
			add_msr(s, msr, *msr_field(c, msr));
	}
	add_msr(s, MSR_TSC_DEADLINE, lapic_tsc_deadline(c->lapic));
}

static void pull_events(struct tcg_cpu *c, struct cpu_state *s)
{
	const struct tcg_vcpu *o = tcg_vcpu_of(c);

	s->events = (struct x86_events){
		.exception_pending = c->exc.pending && !c->exc.soft,
		.exception_vector = c->exc.vector,
		.exception_has_error = c->exc.has_error,
		.exception_error = c->exc.error,
		.exception_has_payload = c->exc.pending && (c->exc.vector == X86_DB || c->exc.vector == X86_PF),
		.exception_payload = c->exc.address,
		.interrupt_injected = o->injected >= 0,
		.interrupt_vector = o->injected >= 0 ? (u8)o->injected : 0,
		.interrupt_shadow = c->shadow,
		.nmi_pending = o->nmi_pending || lapic_has_events(c->lapic, LAPIC_EV_NMI),
		.nmi_masked = c->nmi_masked,
		.triple_fault_pending = c->triple_fault,
		.sipi_vector = o->sipi_vector,
	};
	/* An interrupt or NMI whose delivery waits for a page of memory: not one of the exceptions, as which it is begun anew here. */
	if (c->exc.again && c->delivering_vector == DELIVERING_EXTERNAL) {
		bool nmi = c->exc.vector == X86_NMI && c->nmi_masked;

		s->events.interrupt_injected = !nmi;
		s->events.interrupt_vector = nmi ? 0 : c->exc.vector;
		s->events.nmi_pending |= nmi;
		s->events.nmi_masked &= !nmi;
		s->events.exception_pending = false;
	}
	if (!s->events.exception_pending)
		s->events.exception_vector = 0, s->events.exception_error = 0, s->events.exception_has_error = false,
		s->events.exception_payload = 0, s->events.exception_has_payload = false;
}

static void pull_xsave(const struct tcg_cpu *c, struct cpu_state *s)
{
	const struct x86_cpuid *xsave = x86_cpuid_find((struct x86_cpuid_table *)&c->cpuid, 0xd, 0);

	s->xsave_size = xsave ? MIN(MAX(xsave->ecx, XSAVE_HEADER_END), X86_XSAVE_MAX) : XSAVE_HEADER_END;
	memcpy(s->xsave, c->fpu, s->xsave_size);
	s->xcr0 = c->xcr0;
}

int tcg_vcpu_pull(struct vcpu *v, struct err *e)
{
	struct tcg_cpu *c = v->accel;
	struct cpu_state *s = v->cpu;

	(void)e;
	/* As KVM does: an INIT that waits is taken first, since it moves everything else. */
	vcpu_take_startup(c);
	memcpy(s->gpr, c->gpr, sizeof(s->gpr));
	memcpy(s->seg, c->seg, sizeof(s->seg));
	memcpy(s->dr, c->dr, sizeof(s->dr));
	s->rip = c->rip;
	s->rflags = c->rflags;
	s->gdt = c->gdt;
	s->idt = c->idt;
	s->cr0 = c->cr0;
	s->cr2 = c->cr2;
	s->cr3 = c->cr3;
	s->cr4 = c->cr4;
	s->efer = c->efer;
	s->dr6 = c->dr6;
	s->dr7 = c->dr7;
	s->has_pdptr = false; /* the walker reads them from memory; so will who loads this */
	memset(s->pdptr, 0, sizeof(s->pdptr));
	s->tsc_khz = tcg_host_of(c->t)->guest_khz ?: c->t->tsc_khz;
	s->mp_state = c->halted && tcg_vcpu_of(c)->mp == X86_MP_RUNNABLE ? X86_MP_HALTED : tcg_vcpu_of(c)->mp;
	pull_xsave(c, s);
	pull_msrs(c, s);
	lapic_save(c->lapic, s);
	pull_events(c, s);
	return 0;
}

/* ---- push ---- */

static int push_tsc_khz(struct tcg_cpu *c, const struct cpu_state *s, struct err *e)
{
	struct tcg_host *h = tcg_host_of(c->t);
	u64 have, apart;
	int ret = tcg_know_tsc(h, e);

	if (ret < 0)
		return ret;
	have = h->t.tsc_khz;
	apart = s->tsc_khz > have ? s->tsc_khz - have : have - s->tsc_khz;
	if (s->tsc_khz && apart > have * KHZ_PPM / (1000 * 1000))
		return err_set(e, -EOPNOTSUPP,
			       "the guest's TSC runs at %llu kHz, this host's at %llu kHz, and the software accelerator does not scale",
			       (unsigned long long)s->tsc_khz, (unsigned long long)have);
	h->guest_khz = s->tsc_khz;
	return 0;
}

static int push_cpuid(struct tcg_cpu *c, const struct cpu_state *s, struct err *e)
{
	const struct x86_cpuid_table *mine = &tcg_host_of(c->t)->model;
	int ret;

	if (s->cpuid.nr > X86_CPUID_MAX)
		return err_set(e, -EINVAL, "%u CPUID leaves are more than %u", s->cpuid.nr, X86_CPUID_MAX);
	ret = cpumodel_check(&s->cpuid, mine, e);
	if (ret < 0)
		return ret;
	/* None: whoever runs bare code on a vCPU that nobody described may use all that there is. */
	c->cpuid = s->cpuid.nr ? s->cpuid : *mine;
	cpumodel_features(&c->cpuid, c->features);
	return 0;
}

static int push_xcr0(struct tcg_cpu *c, const struct cpu_state *s, struct err *e)
{
	u64 xcr0 = s->xcr0 ? s->xcr0 : 1, avx512 = xcr0 & 0xe0; /* boot code may leave bit 0 to us (SDM 3A §2.6) */

	if (!(xcr0 & 1) || xcr0 & ~(cpumodel_xcr0(&c->cpuid) & CPUMODEL_XCR0) || (xcr0 & 4 && !(xcr0 & 2)) ||
	    (avx512 && (avx512 != 0xe0 || !(xcr0 & 4))))
		return err_set(e, -EINVAL, "XCR0 = 0x%llx is not possible here", (unsigned long long)xcr0);
	c->xcr0 = xcr0;
	return 0;
}

/* The area is loaded by the processor: nothing in it may make XRSTOR fault (SDM 1 §13.8.1). */
static int push_xsave(struct tcg_cpu *c, const struct cpu_state *s, struct err *e)
{
	u64 components, mine = cpumodel_xcr0(&tcg_host_of(c->t)->model);

	if (s->xsave_size > X86_XSAVE_MAX || (s->xsave_size && s->xsave_size < XSAVE_HEADER_END))
		return err_set(e, -EINVAL, "an XSAVE area of %u bytes is not possible", s->xsave_size);
	memset(c->fpu, 0, sizeof(c->fpu));
	if (s->xsave_size) {
		memcpy(c->fpu, s->xsave, s->xsave_size);
	} else { /* as after reset */
		st_le16(c->fpu + XSAVE_FCW, FCW_RESET);
		st_le32(c->fpu + XSAVE_MXCSR, MXCSR_RESET);
		st_le64(c->fpu + XSAVE_XSTATE_BV, 3);
	}
	components = ld_le64(c->fpu + XSAVE_XSTATE_BV);
	if (ld_le64(c->fpu + XSAVE_XCOMP_BV))
		return err_set(e, -EINVAL, "the XSAVE area is in the compacted format");
	memset(c->fpu + XSAVE_XCOMP_BV, 0, XSAVE_HEADER_END - XSAVE_XCOMP_BV);
	st_le64(c->fpu + XSAVE_XSTATE_BV, components & mine & CPUMODEL_XCR0);
	st_le32(c->fpu + XSAVE_MXCSR, ld_le32(c->fpu + XSAVE_MXCSR) & MXCSR_MASK);
	c->fpu_live = false;
	return 0;
}

static int push_msrs(struct tcg_cpu *c, const struct cpu_state *s, struct err *e)
{
	if (s->nr_msrs > X86_MSR_MAX)
		return err_set(e, -EINVAL, "%u MSRs are more than %u", s->nr_msrs, X86_MSR_MAX);
	for (u32 i = 0; i < s->nr_msrs; i++) {
		const struct x86_msr *m = &s->msrs[i];
		u64 *field = msr_field(c, m->index);

		if (m->index == MSR_TSC)
			tcg_tsc_load(c, m->value);
		else if (field)
			*field = m->value;
		else if (m->value && m->index != MSR_TSC_DEADLINE && !is_ignored(m->index))
			return err_set(e, -EINVAL, "MSR 0x%x = 0x%llx: the software accelerator does not have it", m->index,
				       (unsigned long long)m->value);
	}
	return 0;
}

/* After the LAPIC, whose mode says whether there is a deadline, and after the TSC. While that stands still it is not looked at: that comes
 * when it runs again (tcg_clock_follow). */
static void push_deadline(struct tcg_cpu *c, const struct cpu_state *s)
{
	for (u32 i = 0; i < s->nr_msrs; i++) {
		if (s->msrs[i].index != MSR_TSC_DEADLINE || !s->msrs[i].value)
			continue;
		if (c->t->vm->clock.paused)
			lapic_load_tsc_deadline(c->lapic, s->msrs[i].value);
		else
			lapic_set_tsc_deadline(c->lapic, s->msrs[i].value);
	}
}

static void push_exception(struct tcg_cpu *c, const struct x86_events *ev)
{
	c->exc = (struct tcg_exception){
		.pending = ev->exception_pending || ev->exception_injected,
		.vector = ev->exception_vector,
		.has_error = ev->exception_has_error,
		.error = ev->exception_error,
		.address = ev->exception_payload,
	};
	if (!c->exc.pending)
		c->exc = (struct tcg_exception){0};
	/* KVM may have set CR2 already when it injected the fault. */
	if (c->exc.pending && c->exc.vector == X86_PF && !ev->exception_has_payload)
		c->exc.address = c->cr2;
	c->delivering = false;
}

static int push_events(struct tcg_cpu *c, const struct cpu_state *s, struct err *e)
{
	const struct x86_events *ev = &s->events;
	struct tcg_vcpu *o = tcg_vcpu_of(c);

	if (ev->smm || ev->smm_pending)
		return err_set(e, -EOPNOTSUPP, "the guest is in system management mode, which the software accelerator does not have");
	if (s->mp_state > X86_MP_HALTED)
		return err_set(e, -EINVAL, "vCPU run state %u is unknown", s->mp_state);
	push_exception(c, ev);
	o->injected = ev->interrupt_injected ? ev->interrupt_vector : -1;
	o->nmi_pending = ev->nmi_pending || ev->nmi_injected;
	o->sipi_vector = ev->sipi_vector;
	o->mp = s->mp_state == X86_MP_HALTED ? X86_MP_RUNNABLE : s->mp_state;
	c->nmi_masked = ev->nmi_masked && !ev->nmi_injected;
	c->shadow = MIN(ev->interrupt_shadow, 2);
	c->triple_fault = ev->triple_fault_pending;
	c->halted = s->mp_state != X86_MP_RUNNABLE;
	return 0;
}

static u8 cpl_of(const struct cpu_state *s)
{
	if (!(s->cr0 & X86_CR0_PE))
		return 0;
	return s->rflags & X86_FLAG_VM ? 3 : X86_ATTR_DPL(s->seg[X86_SS].attr);
}

static void push_regs(struct tcg_cpu *c, const struct cpu_state *s)
{
	memcpy(c->gpr, s->gpr, sizeof(c->gpr));
	memcpy(c->seg, s->seg, sizeof(c->seg));
	memcpy(c->dr, s->dr, sizeof(c->dr));
	c->rip = s->rip;
	c->rflags = (s->rflags & RFLAGS_MASK) | RFLAGS_ONE;
	c->gdt = s->gdt;
	c->idt = s->idt;
	c->cr0 = s->cr0 | X86_CR0_ET;
	c->cr2 = s->cr2;
	c->cr3 = s->cr3 & ~BIT(63);
	c->cr4 = s->cr4;
	c->cr8 = s->cr8;
	c->efer = s->efer;
	c->dr6 = s->dr6;
	c->dr7 = s->dr7;
	c->cpl = cpl_of(s);
}

int tcg_vcpu_push(struct vcpu *v, struct err *e)
{
	struct tcg_cpu *c = v->accel;
	const struct cpu_state *s = v->cpu;
	int ret = push_tsc_khz(c, s, e);

	if (!ret)
		ret = push_cpuid(c, s, e);
	if (!ret)
		ret = push_xcr0(c, s, e);
	if (!ret)
		ret = push_xsave(c, s, e);
	if (!ret)
		ret = push_events(c, s, e);
	if (!ret)
		ret = push_msrs(c, s, e);
	if (ret < 0)
		return err_prefix(e, "vCPU %u", v->index);
	push_regs(c, s);
	lapic_load(c->lapic, s);
	push_deadline(c, s);
	pvclock_adopt(c);
	mmu_reset(c);
	tcg_mode_update(c);
	vcpu_look_again(c);
	return 0;
}

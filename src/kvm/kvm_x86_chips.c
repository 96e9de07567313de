/*
 * kvm_x86_chips.c: KVM's interrupt chips, timer chip and clock, from and to the canonical state (arch/x86_64/vm_state.h).
 *
 * KVM's timer chip does not stop with the VM's clock, and begins each count anew when it is loaded. What that can cost a guest is a tick
 * that comes once too often, never one that does not come.
 */
#include "kvm/kvm_x86.h"

#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "arch/x86_64/vm_state.h"

#define PIT_HZ	       1193182u
#define PIT_MODE_RESET 0xff /* KVM's own: no control word has come yet */

/* Linux arch/x86/kvm/i8254.c */
enum { RW_LOW = 1, RW_HIGH, RW_WORD0, RW_WORD1 };

static u64 time_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

static int get_chip(const struct kvm_vm *kv, u32 id, struct kvm_irqchip *chip, struct err *e)
{
	*chip = (struct kvm_irqchip){.chip_id = id};
	if (ioctl(kv->fd, KVM_GET_IRQCHIP, chip) < 0)
		return err_errno(e, "KVM does not tell the state of interrupt chip %u", id);
	return 0;
}

static int set_chip(const struct kvm_vm *kv, struct kvm_irqchip *chip, struct err *e)
{
	if (ioctl(kv->fd, KVM_SET_IRQCHIP, chip) < 0)
		return err_errno(e, "KVM refuses the state of interrupt chip %u", chip->chip_id);
	return 0;
}

/* ---- 8259 ---- */

static void pic_from_kvm(const struct kvm_pic_state *k, struct x86_pic_state *s)
{
	*s = (struct x86_pic_state){
		.irr = k->irr,
		.isr = k->isr,
		.imr = k->imr,
		.lines = k->last_irr,
		.elcr = k->elcr,
		.base = k->irq_base & 0xf8,
		.first = k->priority_add & 7,
		.init_step = k->init_state ? (u8)(MIN(k->init_state, 3) + 1) : 0,
		.icw4 = k->init4,
		.auto_eoi = k->auto_eoi,
		.rotate_auto_eoi = k->rotate_on_auto_eoi,
		.special_mask = k->special_mask,
		.nested = k->special_fully_nested_mode,
		.poll = k->poll,
		.read_isr = k->read_reg_select,
	};
}

static void pic_to_kvm(const struct x86_pic_state *s, struct kvm_pic_state *k)
{
	*k = (struct kvm_pic_state){
		.last_irr = s->lines,
		.irr = s->irr,
		.imr = s->imr,
		.isr = s->isr,
		.priority_add = s->first,
		.irq_base = s->base,
		.read_reg_select = s->read_isr,
		.poll = s->poll,
		.special_mask = s->special_mask,
		.init_state = s->init_step ? (u8)(s->init_step - 1) : 0,
		.auto_eoi = s->auto_eoi,
		.rotate_on_auto_eoi = s->rotate_auto_eoi,
		.special_fully_nested_mode = s->nested,
		.init4 = s->icw4,
		.elcr = s->elcr & k->elcr_mask,
		.elcr_mask = k->elcr_mask,
	};
}

static int pull_pics(const struct kvm_vm *kv, struct x86_chips_state *s, struct err *e)
{
	struct kvm_irqchip chip;
	int ret = 0;

	for (u32 i = 0; i < 2 && !ret; i++) {
		ret = get_chip(kv, i, &chip, e);
		if (!ret)
			pic_from_kvm(&chip.chip.pic, &s->pic[i]);
	}
	return ret;
}

static int push_pics(const struct kvm_vm *kv, const struct x86_chips_state *s, struct err *e)
{
	struct kvm_irqchip chip;
	int ret = 0;

	for (u32 i = 0; i < 2 && !ret; i++) {
		ret = get_chip(kv, i, &chip, e);
		if (ret < 0)
			return ret;
		pic_to_kvm(&s->pic[i], &chip.chip.pic);
		ret = set_chip(kv, &chip, e);
	}
	return ret;
}

/* ---- IOAPIC ---- */

/* KVM keeps one set of bits for levels and for edges that wait: what of an edge was delivered it leaves out. So a line that is up on an
 * edge-triggered pin is not known to be, and makes an edge once more when its device is loaded. */
static int pull_ioapic(const struct kvm_vm *kv, struct x86_ioapic_state *s, struct err *e)
{
	struct kvm_irqchip chip;
	const struct kvm_ioapic_state *k = &chip.chip.ioapic;
	int ret = get_chip(kv, KVM_IRQCHIP_IOAPIC, &chip, e);

	if (ret < 0)
		return ret;
	_Static_assert(ARRAY_SIZE(k->redirtbl) == X86_NR_IOAPIC_PINS, "the same chip");
	*s = (struct x86_ioapic_state){
		.id = k->id & 15,
		.select = k->ioregsel & 0xff,
		.irr = k->irr & (BIT(X86_NR_IOAPIC_PINS) - 1),
		.lines = k->irr & (BIT(X86_NR_IOAPIC_PINS) - 1),
	};
	for (u32 i = 0; i < X86_NR_IOAPIC_PINS; i++)
		s->redir[i] = k->redirtbl[i].bits & X86_IOAPIC_REDIR;
	return 0;
}

static int push_ioapic(const struct kvm_vm *kv, const struct x86_ioapic_state *s, struct err *e)
{
	struct kvm_irqchip chip;
	struct kvm_ioapic_state *k = &chip.chip.ioapic;
	int ret = get_chip(kv, KVM_IRQCHIP_IOAPIC, &chip, e);

	if (ret < 0)
		return ret;
	k->id = s->id;
	k->ioregsel = s->select;
	k->irr = s->irr;
	for (u32 i = 0; i < X86_NR_IOAPIC_PINS; i++)
		k->redirtbl[i].bits = s->redir[i];
	return set_chip(kv, &chip, e);
}

/* ---- 8254 ---- */

/* Channel 0 runs on a timer whose start KVM does not tell: it begins now. */
static void channel_from_kvm(const struct kvm_pit_channel_state *k, u32 i, u64 now, struct x86_pit_channel_state *s)
{
	bool fresh = k->mode > 7, word = k->rw_mode == RW_WORD0 || !k->rw_mode;

	*s = (struct x86_pit_channel_state){
		.count = MIN(k->count ? k->count : 0x10000u, 0x10000u),
		.elapsed_ns = i && now > (u64)k->count_load_time ? now - (u64)k->count_load_time : 0,
		.mode = fresh	      ? 3
			: k->mode > 5 ? (u8)(k->mode - 4)
				      : k->mode,
		.rw = word ? RW_WORD0 : MIN(k->rw_mode, RW_WORD0),
		.write_low = k->write_latch,
		.status = k->status,
		.bcd = k->bcd,
		.gate = k->gate || i != 2,
		.null_count = fresh,
		.triggered = k->gate,
		.write_high_next = word && k->write_state == RW_WORD1,
		.read_high_next = word && (k->count_latched ? k->count_latched == RW_HIGH : k->read_state == RW_WORD1),
		.latched = k->count_latched,
		.status_latched = k->status_latched,
		.latch = k->latched_count,
	};
	if (s->bcd)
		s->count = MIN(s->count, 10000u);
}

/* Ticks to go of a count that ends; KVM begins with what it is given. */
static u32 ticks_left(const struct x86_pit_channel_state *s)
{
	u64 ticks = (u64)((unsigned __int128)s->elapsed_ns * PIT_HZ / NSEC_PER_SEC);

	return ticks < s->count ? s->count - (u32)ticks : 1;
}

/* A channel that never got a count must not begin to tick. */
static void channel_to_kvm(const struct x86_pit_channel_state *s, struct kvm_pit_channel_state *k)
{
	bool word = s->rw == RW_WORD0, once = s->mode == 0 || s->mode == 4;

	*k = (struct kvm_pit_channel_state){
		.count = once && !s->null_count ? ticks_left(s) : s->count,
		.latched_count = s->latch,
		.count_latched = !s->latched	     ? 0
				 : !word	     ? s->rw
				 : s->read_high_next ? RW_HIGH
						     : RW_WORD0,
		.status_latched = s->status_latched,
		.status = s->status,
		.read_state = word && s->read_high_next && !s->latched ? RW_WORD1 : s->rw,
		.write_state = word && s->write_high_next ? RW_WORD1 : s->rw,
		.write_latch = s->write_low,
		.rw_mode = s->rw,
		.mode = s->null_count && s->mode == 3 && !s->write_high_next ? PIT_MODE_RESET : s->mode,
		.bcd = s->bcd,
		.gate = s->gate,
	};
}

static int pull_pit(const struct kvm_vm *kv, struct x86_chips_state *s, struct err *e)
{
	struct kvm_pit_state2 k;
	u64 now = time_ns(CLOCK_MONOTONIC);

	if (ioctl(kv->fd, KVM_GET_PIT2, &k) < 0)
		return err_errno(e, "KVM does not tell the state of its timer chip");
	for (u32 i = 0; i < 3; i++)
		channel_from_kvm(&k.channels[i], i, now, &s->pit[i]);
	s->pit_speaker = k.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	s->pit_due = false;
	return 0;
}

static int push_pit(const struct kvm_vm *kv, const struct x86_chips_state *s, struct err *e)
{
	struct kvm_pit_state2 k;

	if (ioctl(kv->fd, KVM_GET_PIT2, &k) < 0)
		return err_errno(e, "KVM does not tell the state of its timer chip");
	for (u32 i = 0; i < 3; i++)
		channel_to_kvm(&s->pit[i], &k.channels[i]);
	k.flags = (k.flags & ~(u32)KVM_PIT_FLAGS_SPEAKER_DATA_ON) | (s->pit_speaker ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0);
	if (ioctl(kv->fd, KVM_SET_PIT2, &k) < 0)
		return err_errno(e, "KVM refuses the state of its timer chip");
	return 0;
}

/* ---- clock ---- */

/* After the vCPUs' TSCs, so that it is never behind what a guest read. KVM's flags are not kept: with KVM_CLOCK_REALTIME in them, loading
 * would jump over the time on disk (FC #5809). */
static int pull_clock(struct vm *vm, struct x86_clock_state *s, struct err *e)
{
	struct kvm_clock_data k = {0};

	s->clock_ns = clock_now(vm);
	if (ioctl(kvm_vm_of(vm)->fd, KVM_GET_CLOCK, &k) < 0)
		return err_errno(e, "KVM does not tell the guest's clock");
	s->kvmclock_ns = k.clock;
	s->realtime_ns = time_ns(CLOCK_REALTIME);
	return 0;
}

static int push_clock(const struct kvm_vm *kv, const struct x86_clock_state *s, struct err *e)
{
	struct kvm_clock_data k = {.clock = s->kvmclock_ns};

	if (ioctl(kv->fd, KVM_SET_CLOCK, &k) < 0)
		return err_errno(e, "KVM refuses the guest's clock (%llu ns)", (unsigned long long)s->kvmclock_ns);
	return 0;
}

int kvm_arch_vm_pull(struct vm *vm, struct err *e)
{
	const struct kvm_vm *kv = kvm_vm_of(vm);
	struct x86_chips_state *s = &vm->chips->chips;
	int ret = pull_pics(kv, s, e);

	if (!ret)
		ret = pull_ioapic(kv, &s->ioapic, e);
	if (!ret)
		ret = pull_pit(kv, s, e);
	return ret ?: pull_clock(vm, &vm->chips->clock, e);
}

/* The IOAPIC last: it sends what waits. */
int kvm_arch_vm_push(struct vm *vm, struct err *e)
{
	const struct kvm_vm *kv = kvm_vm_of(vm);
	const struct x86_chips_state *s = &vm->chips->chips;
	int ret = push_pit(kv, s, e);

	if (!ret)
		ret = push_clock(kv, &vm->chips->clock, e);
	if (!ret)
		ret = push_pics(kv, s, e);
	if (!ret)
		ret = push_ioapic(kv, &s->ioapic, e);
	if (ret < 0)
		return ret;
	if (s->pit_due) {
		kvm_irq_line(vm, 0, true);
		kvm_irq_line(vm, 0, false);
	}
	for (u32 i = 0; i < vm->nr_vcpus; i++)
		((struct kvm_vcpu *)vm->vcpus[i].accel)->stopped = true;
	return 0;
}

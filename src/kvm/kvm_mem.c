/* kvm_mem.c: guest memory in KVM's slots, and the log of the pages that the guest writes. */
#include "kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/config.h"

/* An exit per this many dirtied pages; KVM wants a power of two and keeps up to 576 of them in reserve. 64 KiB per vCPU. */
#define RING_ENTRIES 4096u
/* Pages that one KVM_CLEAR_DIRTY_LOG protects: it holds the lock that vCPUs need for faults. */
#define CLEAR_PAGES 65536ull

int kvm_dirty_init(struct kvm_vm *kv, struct err *e)
{
	const struct config *config = kv->vm->config;
	struct kvm_dirty *d = &kv->dirty;
	u64 manual = (u64)kvm_cap(kv, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
		     (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
	/* The ACQ_REL flavour says that entries may be read while their vCPU runs, on every architecture. */
	bool ring = config && config->machine->track_dirty_pages &&
		    kvm_cap(kv, KVM_CAP_DIRTY_LOG_RING_ACQ_REL) >= (int)(RING_ENTRIES * sizeof(struct kvm_dirty_gfn));

	if (ring) {
		d->ring_entries = RING_ENTRIES;
		return kvm_enable_cap(kv, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, RING_ENTRIES * sizeof(struct kvm_dirty_gfn),
				      "KVM_CAP_DIRTY_LOG_RING_ACQ_REL", e);
	}
	d->manual_clear = manual & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	d->initially_set = manual & KVM_DIRTY_LOG_INITIALLY_SET;
	if (d->manual_clear)
		return kvm_enable_cap(kv, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", e);
	return 0;
}

static void free_pages(struct kvm_dirty *d)
{
	for (u32 i = 0; i < MEM_MAX_REGIONS; i++) {
		free(d->pages[i]);
		d->pages[i] = NULL;
	}
}

void kvm_dirty_fini(struct kvm_vm *kv)
{
	free_pages(&kv->dirty);
	pthread_mutex_destroy(&kv->dirty.lock);
}

static int set_slot(const struct kvm_vm *kv, const struct mem_region *r, bool log, struct err *e)
{
	struct kvm_userspace_memory_region slot = {
		.slot = r->slot,
		.flags = log ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = r->gpa,
		.memory_size = r->size,
		.userspace_addr = (uintptr_t)r->hva,
	};

	if (ioctl(kv->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return err_errno(e, "KVM refuses %llu MiB of guest memory at 0x%llx", (unsigned long long)(r->size / MIB),
				 (unsigned long long)r->gpa);
	return 0;
}

int kvm_mem_map(struct vm *vm, const struct mem_region *r, struct err *e)
{
	struct kvm_vm *kv = kvm_vm_of(vm);

	ASSERT(r->slot < MEM_MAX_REGIONS && !kv->dirty.on);
	return set_slot(kv, r, false, e);
}

/* Protects the pages of r whose bits are set, in pieces. bits: mem_bitmap_words(r) words. */
static int clear_slot(const struct kvm_vm *kv, const struct mem_region *r, u64 *bits, struct err *e)
{
	u64 pages = r->size >> MEM_PAGE_SHIFT;

	for (u64 first = 0; first < pages; first += CLEAR_PAGES) {
		struct kvm_clear_dirty_log clear = {
			.slot = r->slot,
			.num_pages = (u32)MIN(CLEAR_PAGES, pages - first),
			.first_page = first,
			.dirty_bitmap = bits + first / 64,
		};

		if (ioctl(kv->fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0)
			return err_errno(e, "KVM cannot clear the dirty log of memory at 0x%llx", (unsigned long long)r->gpa);
	}
	return 0;
}

static int log_region_on(struct kvm_vm *kv, const struct mem_region *r, struct err *e)
{
	u64 words = mem_bitmap_words(r), *pages = calloc(words, sizeof(u64));
	int ret;

	if (!pages)
		return err_set(e, -ENOMEM, "no memory for a dirty bitmap of %llu KiB", (unsigned long long)(words * 8 / KIB));
	kv->dirty.pages[r->slot] = pages;
	ret = set_slot(kv, r, true, e);
	if (ret < 0 || !kv->dirty.initially_set)
		return ret;
	/* Everything counts as dirty now; take that away, so that the log holds what is written from here on. */
	memset(pages, 0xff, words * sizeof(u64));
	return clear_slot(kv, r, pages, e);
}

static int log_off(struct kvm_vm *kv, struct err *e)
{
	const struct mem *m = &kv->vm->mem;
	int ret = 0;

	for (u32 i = 0; i < m->nr_regions; i++) {
		if (kv->dirty.pages[m->regions[i].slot])
			ret = set_slot(kv, &m->regions[i], false, e) ?: ret;
	}
	free_pages(&kv->dirty);
	kv->dirty.on = false;
	return ret;
}

static int log_on(struct kvm_vm *kv, struct err *e)
{
	const struct mem *m = &kv->vm->mem;
	int ret = 0;

	kv->dirty.on = true;
	for (u32 i = 0; i < m->nr_regions && !ret; i++)
		ret = log_region_on(kv, &m->regions[i], e);
	if (ret < 0)
		log_off(kv, NULL);
	return ret;
}

/* Takes the entries that the kernel finished out of one ring; returns how many. ctx: dirty.lock held */
static u32 take_ring(struct kvm_vm *kv, struct kvm_vcpu *kc)
{
	const struct mem *m = &kv->vm->mem;
	u32 taken = 0;

	for (;; taken++) {
		struct kvm_dirty_gfn *gfn = &kc->ring[kc->ring_next % kv->dirty.ring_entries];
		u32 slot;

		/* Acquire: the kernel stores slot and offset before the flag. Release: the entry is read before it goes back. */
		if (!(__atomic_load_n(&gfn->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
			return taken;
		slot = gfn->slot & 0xffff; /* above: address space (SMM), which has the same slots */
		if (slot < m->nr_regions && kv->dirty.pages[slot] && gfn->offset < m->regions[slot].size >> MEM_PAGE_SHIFT)
			kv->dirty.pages[slot][gfn->offset / 64] |= BIT(gfn->offset % 64);
		__atomic_store_n(&gfn->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		kc->ring_next++;
	}
}

/* ctx: dirty.lock held */
static int drain_rings(struct kvm_vm *kv, struct err *e)
{
	struct kvm_dirty *d = &kv->dirty;
	struct vm *vm = kv->vm;

	for (u32 i = 0; i < vm->nr_vcpus; i++) {
		struct kvm_vcpu *kc = vm->vcpus[i].accel;

		/* KVM stops a vCPU well before its ring is full. One that is full was overrun: entries are gone, and where the next one
		 * comes is anyone's guess. Seen with KVMs that only emulate. */
		if (kc && kc->ring && take_ring(kv, kc) >= d->ring_entries)
			d->overrun = true;
	}
	if (d->overrun)
		return err_set(e, -EIO,
			       "this KVM overruns its dirty rings, so that changed pages get lost: set track_dirty_pages to false");
	/* Frees the entries and protects their pages again. */
	if (ioctl(kv->fd, KVM_RESET_DIRTY_RINGS, 0) < 0)
		return err_errno(e, "KVM cannot reset the dirty rings");
	return 0;
}

int kvm_dirty_drain(struct kvm_vm *kv, struct err *e)
{
	int ret;

	pthread_mutex_lock(&kv->dirty.lock);
	ret = drain_rings(kv, e);
	pthread_mutex_unlock(&kv->dirty.lock);
	return ret;
}

int kvm_dirty_log(struct vm *vm, bool on, struct err *e)
{
	struct kvm_vm *kv = kvm_vm_of(vm);
	int ret = 0;

	pthread_mutex_lock(&kv->dirty.lock);
	if (on != kv->dirty.on) {
		/* Entries of an earlier log must not show up in this one. */
		if (kv->dirty.ring_entries)
			ret = drain_rings(kv, e);
		if (!ret)
			ret = on ? log_on(kv, e) : log_off(kv, e);
	}
	pthread_mutex_unlock(&kv->dirty.lock);
	return ret;
}

/* The bitmap log: the kernel's words replace those in pages[]. ctx: dirty.lock held */
static int read_bitmap(struct kvm_vm *kv, const struct mem_region *r, struct err *e)
{
	u64 *pages = kv->dirty.pages[r->slot];
	struct kvm_dirty_log log = {.slot = r->slot, .dirty_bitmap = pages};

	if (ioctl(kv->fd, KVM_GET_DIRTY_LOG, &log) < 0)
		return err_errno(e, "KVM cannot read the dirty log of memory at 0x%llx", (unsigned long long)r->gpa);
	return kv->dirty.manual_clear ? clear_slot(kv, r, pages, e) : 0;
}

int kvm_dirty_get(struct vm *vm, const struct mem_region *r, u64 *bitmap, struct err *e)
{
	struct kvm_vm *kv = kvm_vm_of(vm);
	u64 *pages;
	int ret;

	pthread_mutex_lock(&kv->dirty.lock);
	pages = kv->dirty.pages[r->slot];
	if (!kv->dirty.on)
		ret = err_set(e, -EINVAL, "dirty pages of the guest are not logged");
	else
		ret = kv->dirty.ring_entries ? drain_rings(kv, e) : read_bitmap(kv, r, e);
	if (!ret) {
		for (u64 i = 0; i < mem_bitmap_words(r); i++)
			bitmap[i] |= pages[i];
		memset(pages, 0, mem_bitmap_words(r) * sizeof(u64));
	}
	pthread_mutex_unlock(&kv->dirty.lock);
	return ret;
}

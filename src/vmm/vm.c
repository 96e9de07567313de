/* vm.c: builds, runs and ends a virtual machine; see vm.h. */
#include "vmm/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vmm/config.h"
#include "vmm/gdb.h"
#include "vmm/machine.h"

static const struct accel_ops *find_accel(const char *name)
{
	for (u32 i = 0; accel_list[i]; i++) {
		if (!strcmp(accel_list[i]->name, name))
			return accel_list[i];
	}
	return NULL;
}

/* The first accelerator that passes its self-test; the reasons against the others go into one message. */
static int choose_auto(struct vm *vm, struct err *e)
{
	auto_free char *why = xstrdup("");

	for (u32 i = 0; accel_list[i]; i++) {
		struct err refused = {0};
		char *longer;

		if (accel_list[i]->probe(&refused) == 0) {
			vm->accel = accel_list[i];
			if (*why)
				log_warn(vm->log, "this VM runs under %s, since nothing better is usable here: %s", vm->accel->name, why);
			return 0;
		}
		longer = xasprintf("%s%s%s: %s", why, *why ? "; " : "", accel_list[i]->name, refused.msg);
		free(why);
		why = longer;
	}
	return err_set(e, -ENODEV, "no accelerator is usable here: %s", *why ? why : "this husk was built without any");
}

static int choose_accel(struct vm *vm, struct err *e)
{
	const char *name = vm->config->accelerator == CFG_ACCEL_KVM ? "kvm" : "tcg";

	if (vm->config->accelerator == CFG_ACCEL_AUTO)
		return choose_auto(vm, e);
	vm->accel = find_accel(name);
	if (!vm->accel)
		return err_set(e, -ENODEV, "accelerator \"%s\": this husk was built without it", name);
	return 0;
}

/* Linux adds memory in blocks of up to 2 GiB, which it wants aligned. */
#define HOTPLUG_ALIGN (2 * GIB)

static int add_hotplug_memory(struct vm *vm, struct err *e)
{
	int ret = 0;

	for (u32 i = 0; ret == 0 && device_classes[i]; i++) {
		const struct device_class *cls = device_classes[i];
		const struct cfg_list *list = cls->hotplug_memory ? config_devices(vm->config, cls) : NULL;
		u64 gpa = ALIGN_UP(machine_place_memory(&vm->mem), HOTPLUG_ALIGN);

		if (list && list->nr)
			ret = mem_add_hotplug(&vm->mem, gpa, cls->hotplug_memory(list->items), e);
		if (ret < 0)
			return err_prefix(e, "%s", cls->section);
	}
	return 0;
}

int vm_inherit(struct vm *vm, const char *name, u64 *value)
{
	return vm->restore ? passed_take(vm->restore->passed, name, value) : -1;
}

int vm_pass(struct vm *vm, struct passed *out, struct err *e)
{
	int ret = passed_add(out, PASSED_MEMORY, vm->mem.fd, 0, e);

	for (u32 i = 0; ret == 0 && i < vm->nr_devices; i++) {
		struct device *dev = vm->devices[i];

		ret = dev->cls->pass ? dev->cls->pass(dev, out, e) : 0;
	}
	return ret;
}

static int init_memory(struct vm *vm, struct err *e)
{
	struct mem_range ranges[MEM_MAX_REGIONS];
	const struct cfg_machine *cfg = vm->config->machine;
	u32 nr = machine_memory_map(cfg->mem_size_mib * MIB, ranges);
	int ret = mem_adopt(&vm->mem, ranges, nr, (enum mem_huge)cfg->huge_pages, vm_inherit(vm, PASSED_MEMORY, NULL), e);

	if (ret == 0)
		ret = add_hotplug_memory(vm, e);
	if (ret == 0)
		ret = mem_seal(&vm->mem, e);
	if (ret == 0 && vm->restore)
		ret = vm->restore->memory(vm, vm->restore->opaque, e);
	for (u32 i = 0; ret == 0 && i < vm->mem.nr_regions; i++)
		ret = vm->accel->mem_map(vm, &vm->mem.regions[i], e);
	return ret;
}

int vm_add_device(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct err *e)
{
	int ret;

	if (vm->nr_devices == VM_MAX_DEVICES)
		return err_set(e, -ENOSPC, "%s: a VM can have at most %d devices", cls->name, VM_MAX_DEVICES);
	ret = cls->create(vm, cls, cfg, slot, &vm->devices[vm->nr_devices], e);
	if (ret == 0)
		vm->nr_devices++;
	return ret;
}

struct device *vm_find_device(struct vm *vm, const char *class_name)
{
	for (u32 i = 0; i < vm->nr_devices; i++) {
		if (!strcmp(vm->devices[i]->cls->name, class_name))
			return vm->devices[i];
	}
	return NULL;
}

int vm_ask_device(struct vm *vm, const char *class_name, const char *path, struct err *e)
{
	struct device *dev = vm_find_device(vm, class_name);

	for (const struct device_op *op = dev ? dev->cls->ops : NULL; op && op->path; op++) {
		if (!strcmp(op->path, path))
			return op->update(dev, NULL, e);
	}
	return err_set(e, -ENODEV, "this machine has no %s", class_name);
}

/* Items of one section in the order that the class asks for: a stable insertion into order[]. */
static void sort_items(const struct device_class *cls, const struct cfg_list *list, const void **order)
{
	for (u32 i = 0; i < list->nr; i++) {
		const void *item = (const char *)list->items + i * cls->config->size;
		u32 at = i;

		while (at > 0 && cls->order && cls->order(item, order[at - 1]) < 0) {
			order[at] = order[at - 1];
			at--;
		}
		order[at] = item;
	}
}

static int add_class_devices(struct vm *vm, const struct device_class *cls, struct err *e)
{
	const struct cfg_list *list = config_devices(vm->config, cls);
	const void *order[VM_MAX_DEVICES];

	if (!list || !cls->mmio_slot)
		return 0; /* not configurable, or the machine places it */
	if (list->nr > ARRAY_SIZE(order))
		return err_set(e, -ENOSPC, "%s: at most %zu devices", cls->section, ARRAY_SIZE(order));
	sort_items(cls, list, order);
	for (u32 i = 0; i < list->nr; i++) {
		struct dev_slot slot;
		int ret = machine_slot(vm, &slot, e);

		if (ret == 0)
			ret = vm_add_device(vm, cls, order[i], &slot, e);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int init_devices(struct vm *vm, struct err *e)
{
	int ret = machine_init(vm, e);

	for (u32 i = 0; ret == 0 && device_classes[i]; i++)
		ret = add_class_devices(vm, device_classes[i], e);
	return ret;
}

static int push_vcpus(struct vm *vm, struct err *e)
{
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < vm->nr_vcpus; i++)
		ret = vm->accel->vcpu_push(&vm->vcpus[i], e);
	return ret;
}

static int boot(struct vm *vm, struct err *e)
{
	int ret = machine_boot(vm, e);

	return ret == 0 ? push_vcpus(vm, e) : ret;
}

/* Diff snapshots need a record from the first write on, also those that boot or restore make. */
static int track_dirty(struct vm *vm, struct err *e)
{
	int ret = 0;

	if (!vm->config->machine->track_dirty_pages)
		return 0;
	ret = mem_track(&vm->mem, true, e);
	return ret == 0 ? vm->accel->dirty_log(vm, true, e) : ret;
}

static int build(struct vm *vm, struct err *e)
{
	int ret = loop_init(&vm->loop, e);

	if (ret == 0)
		ret = choose_accel(vm, e);
	if (ret == 0)
		ret = vm->accel->vm_init(vm, e);
	if (ret == 0)
		ret = init_memory(vm, e);
	if (ret == 0)
		ret = vcpus_init(vm, (u32)vm->config->machine->vcpu_count, e);
	if (ret == 0)
		ret = init_devices(vm, e);
	if (ret == 0)
		ret = track_dirty(vm, e);
	if (ret == 0)
		ret = vm->restore ? vm->restore->state(vm, vm->restore->opaque, e) : boot(vm, e);
	if (ret == 0 && vm->config->machine->gdb_socket_path)
		ret = gdb_init(vm, vm->config->machine->gdb_socket_path, e);
	return ret;
}

int vm_init(struct vm *vm, const struct config *config, struct log *log, struct trace *trace, struct err *e)
{
	return vm_init_options(vm, config, log, trace, &(struct vm_options){0}, e);
}

int vm_init_options(struct vm *vm, const struct config *config, struct log *log, struct trace *trace, const struct vm_options *options,
		    struct err *e)
{
	struct timespec cpu;
	int ret;

	*vm = (struct vm){
		.config = config,
		.log = log,
		.trace = trace,
		.sandbox = options->sandbox,
		.restore = options->restore,
		.origin = options->restore ? options->restore->origin : VM_BOOTED,
		.document = options->document,
		.handed_over = options->restore && options->restore->passed,
		.mem.fd = -1,
	};
	vm->start_ns = clock_host_ns();
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	vm->start_cpu_ns = (u64)cpu.tv_sec * NSEC_PER_SEC + (u64)cpu.tv_nsec;
	pthread_mutex_init(&vm->run_lock, NULL);
	pthread_cond_init(&vm->run_cond, NULL);
	vm->clock = (struct clock){.base_ns = vm->start_ns, .paused = true};
	vm->chips = machine_chips_new();
	ret = build(vm, e);
	if (ret < 0)
		vm_fini(vm);
	return ret;
}

void vm_fini(struct vm *vm)
{
	if (!vm->config)
		return;
	gdb_fini(vm);
	while (vm->nr_devices) {
		struct device *dev = vm->devices[--vm->nr_devices];

		dev->cls->destroy(dev);
	}
	machine_fini(vm);
	vcpus_fini(vm);
	bus_fini(&vm->bus[BUS_MMIO]);
	bus_fini(&vm->bus[BUS_PIO]);
	if (vm->accel_data)
		vm->accel->vm_fini(vm);
	machine_chips_free(vm->chips);
	mem_fini(&vm->mem);
	loop_fini(&vm->loop);
	pthread_cond_destroy(&vm->run_cond);
	pthread_mutex_destroy(&vm->run_lock);
	*vm = (struct vm){.mem.fd = -1};
}

static int start_devices(struct vm *vm, struct err *e)
{
	for (u32 i = 0; i < vm->nr_devices; i++) {
		struct device *dev = vm->devices[i];
		int ret = dev->cls->start ? dev->cls->start(dev, e) : 0;

		if (ret < 0)
			return err_prefix(e, "%s", dev->id);
	}
	return 0;
}

static void quiesce_devices(struct vm *vm)
{
	for (u32 i = 0; i < vm->nr_devices; i++) {
		if (vm->devices[i]->cls->quiesce)
			vm->devices[i]->cls->quiesce(vm->devices[i]);
	}
}

void vm_pause(struct vm *vm)
{
	u64 start_ns = clock_host_ns();

	if (vm->state != VM_RUNNING)
		return;
	vcpus_pause(vm);
	clock_pause(vm);
	quiesce_devices(vm);
	vm->state = VM_PAUSED;
	vm->drain_ns = clock_host_ns() - start_ns;
}

int vm_claim(struct vm *vm, bool mine, struct err *e)
{
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < vm->nr_devices; i++) {
		struct device *dev = vm->devices[i];

		ret = dev->cls->claim ? dev->cls->claim(dev, mine, e) : 0;
	}
	return ret;
}

static void let_run(struct vm *vm)
{
	clock_resume(vm);
	vm->state = VM_RUNNING;
	vcpus_resume(vm);
}

void vm_resume(struct vm *vm)
{
	if (vm->state != VM_PAUSED || vm->elsewhere)
		return;
	for (u32 i = 0; i < vm->nr_devices; i++) {
		if (vm->devices[i]->cls->resume)
			vm->devices[i]->cls->resume(vm->devices[i]);
	}
	let_run(vm);
}

/* A VM with a past goes on as after a pause, now or when it is resumed. */
static void go(struct vm *vm)
{
	const struct vm_restore *restore = vm->restore;

	if (!restore) {
		let_run(vm);
		return;
	}
	vm->restore = NULL;
	quiesce_devices(vm);
	vm->state = VM_PAUSED;
	if (restore->started)
		restore->started(vm, restore->opaque);
	if (!restore->paused)
		vm_resume(vm);
}

int vm_run(struct vm *vm, enum vm_end *end, struct err *e)
{
	const struct cfg_metrics *metrics = vm->config->metrics;
	int ret = start_devices(vm, e);

	if (ret == 0 && metrics)
		ret = metrics_start(&vm->metrics, vm, metrics, e);
	if (ret == 0)
		ret = sandbox_prepare_vm(vm, e);
	if (ret == 0)
		ret = vcpus_start(vm, e);
	if (ret == 0)
		ret = gdb_start(vm, e);
	if (ret == 0) {
		sandbox_close_vm(vm);
		go(vm);
		loop_run(&vm->loop);
	}
	gdb_end(vm);
	vcpus_stop(vm);
	metrics_stop(&vm->metrics);
	vm->state = VM_ENDED;
	*end = __atomic_load_n(&vm->end, __ATOMIC_ACQUIRE);
	return ret;
}

void vm_end(struct vm *vm, enum vm_end why)
{
	enum vm_end none = VM_END_NONE;

	if (!__atomic_compare_exchange_n(&vm->end, &none, why, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return;
	/* Out of guest mode at once, the caller's vCPU too: a guest that has ended does not run on. */
	for (u32 i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpus[i].thread_started)
			vm->accel->vcpu_kick(&vm->vcpus[i]);
	}
	loop_stop(&vm->loop);
}

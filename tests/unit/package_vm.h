/*
 * package_vm.h: whole VMs, with every device that needs nothing but files of a temporary folder, made under a real accelerator for what a
 * package does to them. Their vCPUs never run. For tests and the fuzzer: what must work is asserted.
 */
#ifndef HUSK_TEST_PACKAGE_VM_H
#define HUSK_TEST_PACKAGE_VM_H

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "migration/package.h"
#include "vmm/config.h"
#include "vmm/vm.h"
#include "x86_elf.h"

#define PVM_RAM_MIB 64

/* The folder of the VM's files. */
struct pvm_files {
	char dir[32];
	int passt; /* a listening socket: what the network device connects to */
};

struct pvm {
	struct vm vm;
	struct log log;
	struct trace trace;
	struct config config;
	struct json_object *doc;
	struct package_vm *info; /* of pvm_save */
	const struct package *package;
	bool made;
	int peer; /* the network's other end */
};

static inline _Noreturn void pvm_die(const char *what, const struct err *e)
{
	fprintf(stderr, "%s: %s\n", what, e ? e->msg : strerror(errno));
	abort();
}

static inline char *pvm_path(const struct pvm_files *f, const char *name)
{
	return xasprintf("%s/%s", f->dir, name);
}

static inline void pvm_file(const struct pvm_files *f, const char *name, const void *data, size_t len, size_t size)
{
	auto_free char *path = pvm_path(f, name);
	auto_fd int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 || fd_write_all(fd, data, len) < 0 || ftruncate(fd, (off_t)size) < 0)
		pvm_die(path, NULL);
}

static inline void pvm_files_make(struct pvm_files *f)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	size_t size;
	auto_free u8 *elf = make_elf(0x1000, true, &size);

	snprintf(f->dir, sizeof(f->dir), "/tmp/husk-pkg-XXXXXX");
	if (!mkdtemp(f->dir))
		pvm_die("mkdtemp", NULL);
	pvm_file(f, "kernel", elf, size, size);
	pvm_file(f, "disk", "disk", 4, MIB);
	pvm_file(f, "scratch", "", 0, MIB);
	pvm_file(f, "pmem", "pmem", 4, 2 * MIB);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/passt", f->dir);
	f->passt = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (f->passt < 0 || bind(f->passt, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(f->passt, 16) < 0)
		pvm_die("passt's socket", NULL);
}

static inline void pvm_files_remove(struct pvm_files *f)
{
	static const char *const names[] = {"kernel", "disk", "scratch", "pmem", "passt", "vsock"};

	close(f->passt);
	for (u32 i = 0; i < ARRAY_SIZE(names); i++) {
		auto_free char *path = pvm_path(f, names[i]);

		unlink(path);
	}
	rmdir(f->dir);
}

/* All classes but vhost-user's, whose state is another process's. */
static inline struct json_object *pvm_document(const struct pvm_files *f, const char *accel, u32 vcpus)
{
	auto_free char *text = xasprintf(
		"{\"accelerator\":\"%s\",\"boot_timer\":true,\"boot-source\":{\"kernel_image_path\":\"%s/kernel\"},"
		"\"machine-config\":{\"vcpu_count\":%u,\"mem_size_mib\":%u},"
		"\"serial\":{\"mode\":\"null\"},\"console\":{\"mode\":\"null\"},\"entropy\":{\"rate_limiter\":{\"ops\":{\"size\":9,"
		"\"refill_time\":100}}},"
		"\"balloon\":{\"amount_mib\":8,\"deflate_on_oom\":true,\"stats_polling_interval_s\":1,\"free_page_reporting\":true},"
		"\"drives\":[{\"drive_id\":\"rootfs\",\"is_root_device\":true,\"path_on_host\":\"%s/disk\",\"cache_type\":\"Writeback\","
		"\"io_engine\":\"Async\"},{\"drive_id\":\"rng\",\"is_root_device\":false,\"path_on_host\":\"%s/"
		"scratch\",\"num_queues\":2}],"
		"\"network-interfaces\":[{\"iface_id\":\"eth0\",\"passt_socket\":\"%s/passt\",\"guest_mac\":\"06:00:ac:10:00:02\"}],"
		"\"vsock\":{\"guest_cid\":3,\"uds_path\":\"%s/vsock\"},"
		"\"pmem\":[{\"id\":\"pmem0\",\"path_on_host\":\"%s/pmem\"}],\"memory-hotplug\":{\"total_size_mib\":128}}",
		accel, f->dir, vcpus, PVM_RAM_MIB, f->dir, f->dir, f->dir, f->dir, f->dir);
	struct json_object *doc = json_tokener_parse(text);

	ASSERT(doc);
	return doc;
}

static inline void pvm_prepare(struct pvm *p, const struct pvm_files *f, const char *accel, u32 vcpus, enum log_level level)
{
	struct err e;

	*p = (struct pvm){.vm.mem.fd = -1, .peer = -1};
	log_init(&p->log, STDERR_FILENO, level);
	p->doc = pvm_document(f, accel, vcpus);
	if (config_parse(&p->config, p->doc, "test", &e) < 0)
		pvm_die("configuration", &e);
}

/* As vm_run has them before the guest runs: started, then as after a pause. */
static inline void pvm_start_devices(struct pvm *p)
{
	struct err e;

	for (u32 i = 0; i < p->vm.nr_devices; i++) {
		const struct device_class *cls = p->vm.devices[i]->cls;

		if (cls->start && cls->start(p->vm.devices[i], &e) < 0)
			pvm_die(p->vm.devices[i]->id, &e);
	}
	for (u32 i = 0; i < p->vm.nr_devices; i++) {
		if (p->vm.devices[i]->cls->quiesce)
			p->vm.devices[i]->cls->quiesce(p->vm.devices[i]);
	}
	p->vm.state = VM_PAUSED;
}

static inline u32 pvm_reg(struct pvm *p, u64 base, u32 reg, bool write, u32 value)
{
	if (write)
		bus_write(&p->vm, BUS_MMIO, base + reg, &value, 4);
	else
		bus_read(&p->vm, BUS_MMIO, base + reg, &value, 4);
	return value;
}

/* What a driver does before its first request: virtio 1.2 §3.1.1, §4.2.3. Rings lie in guest memory from *gpa on. */
static inline void pvm_drive(struct pvm *p, u64 base, u64 *gpa)
{
	static const u32 status[] = {0, 1, 3};

	for (u32 i = 0; i < ARRAY_SIZE(status); i++)
		pvm_reg(p, base, 0x70, true, status[i]);
	for (u32 sel = 0; sel < 2; sel++) {
		pvm_reg(p, base, 0x14, true, sel);
		pvm_reg(p, base, 0x24, true, sel);
		pvm_reg(p, base, 0x20, true, pvm_reg(p, base, 0x10, false, 0));
	}
	pvm_reg(p, base, 0x70, true, 11);
	for (u32 q = 0; q < 8; q++) {
		static const u32 low[] = {0x80, 0x90, 0xa0};

		pvm_reg(p, base, 0x30, true, q);
		if (!pvm_reg(p, base, 0x34, false, 0))
			break;
		pvm_reg(p, base, 0x38, true, 16);
		for (u32 i = 0; i < ARRAY_SIZE(low); i++) {
			pvm_reg(p, base, low[i], true, (u32)*gpa);
			pvm_reg(p, base, low[i] + 4, true, 0);
			*gpa += 0x1000;
		}
		pvm_reg(p, base, 0x44, true, 1);
	}
	pvm_reg(p, base, 0x70, true, 15);
}

/* A VM with a past: booted, all its devices driven. */
static inline void pvm_boot(struct pvm *p, const struct pvm_files *f, const char *accel, u32 vcpus)
{
	struct vm_options options = {.document = &p->doc};
	u64 gpa = 2 * MIB;
	struct err e;

	pvm_prepare(p, f, accel, vcpus, LOG_WARN);
	if (vm_init_options(&p->vm, &p->config, &p->log, &p->trace, &options, &e) < 0)
		pvm_die("vm_init", &e);
	p->made = true;
	p->peer = accept(f->passt, NULL, NULL);
	for (u32 i = 0; i < p->vm.nr_devices; i++) {
		struct device *dev = p->vm.devices[i];

		if (dev->cls->mmio_slot)
			pvm_drive(p, dev->slot.mmio_base, &gpa);
	}
	pvm_start_devices(p);
}

static inline int pvm_memory(struct vm *vm, void *opaque, struct err *e)
{
	struct pvm *p = opaque;

	return p->package ? package_check_memory(p->package, vm, e) : 0;
}

static inline int pvm_state(struct vm *vm, void *opaque, struct err *e)
{
	struct pvm *p = opaque;

	return p->package ? package_load(p->package, vm, e) : 0;
}

/* A VM that is made, and has the state of the package; NULL: none yet (pvm_state loads one later). */
static inline int pvm_restore(struct pvm *p, const struct pvm_files *f, const char *accel, u32 vcpus, const struct package *package,
			      struct err *e)
{
	struct vm_restore restore = {.origin = VM_RESTORED, .paused = true, .opaque = p, .memory = pvm_memory, .state = pvm_state};
	struct vm_options options = {.document = &p->doc, .restore = &restore};
	int ret;

	pvm_prepare(p, f, accel, vcpus, LOG_OFF);
	p->package = package;
	ret = vm_init_options(&p->vm, &p->config, &p->log, &p->trace, &options, e);
	p->vm.restore = NULL; /* it is gone when we return */
	p->made = ret == 0;
	p->peer = accept(f->passt, NULL, NULL);
	return ret;
}

static inline void pvm_save(struct pvm *p, struct buf *out)
{
	struct err e;

	if (!p->info)
		p->info = xzalloc(sizeof(*p->info));
	if (package_describe(&p->vm, p->info, &e) < 0)
		pvm_die("package_describe", &e);
	buf_fini(out);
	if (package_save(&p->vm, p->info, PACKAGE_SOFT_CAP, out, &e) < 0)
		pvm_die("package_save", &e);
}

static inline void pvm_fini(struct pvm *p)
{
	if (p->made)
		vm_fini(&p->vm);
	fd_close(&p->peer);
	config_fini(&p->config);
	json_object_put(p->doc);
	free(p->info);
	log_fini(&p->log);
	*p = (struct pvm){.vm.mem.fd = -1, .peer = -1};
}

#endif

/* cmdline.c: the kernel command line. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "arch/x86_64/boot.h"

/*
 * When the configuration has no boot_args. reboot=k: the keyboard controller ends the VM at once. panic=-1: so does a panic. nr_uarts=1:
 * the ports of the other three are not probed. cryptomgr.notests: 0.8 instead of 1.4 billion instructions until init of Debian's 6.12, all
 * of them spent on testing cipher code that the host's kernel has tested. quiet: each character on the serial port costs an exit.
 */
#define DEFAULT_ARGS "console=ttyS0 reboot=k panic=-1 8250.nr_uarts=1 cryptomgr.notests quiet"

/*
 * Added to the default where the accelerator translates. The guest's defences against speculation (return thunks, retpolines, flushes) are
 * the dearest code there is for a translator, and were made for code that runs as it is written. Whoever wants them gives boot_args.
 */
#define TRANSLATED_ARGS "mitigations=off"

#define KERNEL_CMDLINE_SIZE 2047u /* COMMAND_LINE_SIZE of x86 without the NUL, for images that do not say */
#define DEVICE_TEXT	    512

bool cmdline_has(const struct boot *b, const char *word)
{
	size_t len = strlen(word);
	const char *end = strstr(b->cmdline, " -- ");

	for (const char *p = b->cmdline; (p = strstr(p, word)) && (!end || p < end); p += len) {
		if ((p == b->cmdline || p[-1] == ' ') && (p[len] == ' ' || p[len] == 0))
			return true;
	}
	return false;
}

/* Adds a word or several; what does not fit is counted all the same, so that the message can say how long it would be. */
static void add(struct boot *b, const char *text)
{
	u32 at = b->cmdline_len, room = at < sizeof(b->cmdline) ? (u32)sizeof(b->cmdline) - at : 0;

	text += strspn(text, " ");
	if (!*text)
		return;
	b->cmdline_len += (u32)snprintf(b->cmdline + MIN(at, sizeof(b->cmdline) - 1), room, "%s%s", at ? " " : "", text);
}

/*
 * virtio_mmio.device=4K@base:gsi, for kernels that do not read ACPI. Firecracker adds it for each device always; so does husk for an ELF
 * kernel, as those are built for Firecracker: one that also reads ACPI refuses the second claim of a range (-EBUSY) and goes on. Kernels
 * of distributions (bzImage) read ACPI, and have neither the parameter nor 2 KiB of command line to spare for it.
 */
static void add_virtio_devices(struct boot *b)
{
	const struct vm *vm = b->vm;
	char text[64];

	if (b->image.kind != IMAGE_ELF && !cmdline_has(b, "acpi=off"))
		return;
	for (u32 i = 0; i < vm->nr_devices; i++) {
		const struct dev_slot *slot = &vm->devices[i]->slot;

		if (!vm->devices[i]->cls->mmio_slot)
			continue;
		snprintf(text, sizeof(text), "virtio_mmio.device=4K@%#llx:%u", (unsigned long long)slot->mmio_base, slot->gsi);
		add(b, text);
	}
}

static void add_device_texts(struct boot *b)
{
	for (u32 i = 0; i < b->vm->nr_devices; i++) {
		struct device *dev = b->vm->devices[i];
		char text[DEVICE_TEXT] = "";

		if (dev->cls->cmdline)
			dev->cls->cmdline(dev, text, sizeof(text));
		add(b, text);
	}
}

int cmdline_build(struct boot *b, struct err *e)
{
	const char *args = b->cfg->boot_args ? b->cfg->boot_args : DEFAULT_ARGS, *init = strstr(args, " -- ");
	u32 max = b->image.kind == IMAGE_BZIMAGE ? b->image.bz.cmdline_size : KERNEL_CMDLINE_SIZE;
	auto_free char *own = xasprintf("%.*s", init ? (int)(init - args) : (int)strlen(args), args);

	b->cmdline_len = 0;
	add(b, own);
	if (!b->cfg->boot_args && !b->vm->accel->native)
		add(b, TRANSLATED_ARGS);
	if (!strstr(own, "pci="))
		add(b, "pci=off");
	add_device_texts(b);
	add_virtio_devices(b);
	if (init)
		add(b, init + 1);
	max = MIN(max, X86_CMDLINE_MAX - 1);
	if (b->cmdline_len > max)
		return err_set(e, -E2BIG, "the kernel command line is %u bytes; this kernel takes at most %u", b->cmdline_len, max);
	return mem_write(&b->vm->mem, X86_CMDLINE_GPA, b->cmdline, b->cmdline_len + 1);
}

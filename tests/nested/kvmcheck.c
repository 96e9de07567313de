/*
 * Is this /dev/kvm a true one?  Runs a few real-mode instructions in a virtual machine and reads their result.
 * Why: the nested host's tests must tell "the emulated SVM is broken" from "husk is broken". Exit code 0: it works.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static int fail(const char *what)
{
	perror(what);
	return 1;
}

int main(void)
{
	/* mov $0, %bx; mov $1000, %cx; 1: add %cx, %bx; loop 1b; mov %bx, (0x2000); mov %bl, %al; out %al, $0x80; hlt */
	static const uint8_t code[] = {0xbb, 0, 0, 0xb9, 0xe8, 3, 1, 0xcb, 0xe2, 0xfc, 0x89, 0x1e, 0, 0x20, 0x88, 0xd8, 0xe6, 0x80, 0xf4};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, vcpu, size;
	struct kvm_userspace_memory_region r = {.memory_size = 0x4000};
	struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
	struct kvm_sregs s;
	struct kvm_run *run;
	uint16_t sum;
	char *mem;

	if (kvm < 0)
		return fail("/dev/kvm");
	if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return fail("KVM_GET_API_VERSION");
	if ((vm = ioctl(kvm, KVM_CREATE_VM, 0)) < 0)
		return fail("KVM_CREATE_VM");
	mem = mmap(NULL, r.memory_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memcpy(mem + 0x1000, code, sizeof code);
	r.userspace_addr = (uintptr_t)mem;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r))
		return fail("KVM_SET_USER_MEMORY_REGION");
	if ((vcpu = ioctl(vm, KVM_CREATE_VCPU, 0)) < 0)
		return fail("KVM_CREATE_VCPU");
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &s))
		return fail("KVM_GET_SREGS");
	s.cs.base = s.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &s) || ioctl(vcpu, KVM_SET_REGS, &regs))
		return fail("KVM_SET_REGS");
	for (int exits = 0; exits < 10; exits++) {
		if (ioctl(vcpu, KVM_RUN, 0))
			return fail("KVM_RUN");
		if (run->exit_reason == KVM_EXIT_HLT) {
			memcpy(&sum, mem + 0x2000, 2);
			printf("kvmcheck: %s after %d exits\n", sum == 500500 % 65536 ? "ok" : "wrong result", exits);
			return sum != 500500 % 65536;
		}
		if (run->exit_reason != KVM_EXIT_IO)
			break;
	}
	fprintf(stderr, "kvmcheck: unexpected exit %u\n", run->exit_reason);
	return 1;
}

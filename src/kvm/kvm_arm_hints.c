/* kvm_arm_hints.c: what to do about /dev/kvm on arm64; Linux has KVM there when its boot began at EL2. */
#include "kvm/kvm.h"

const char kvm_arch_missing[] = "the host needs a kernel with CONFIG_KVM that was started at EL2 (dmesg | grep -i kvm says why not; few "
				"virtual hosts have nested virtualization: take a bare-metal one)";
const char kvm_arch_forbidden[] = "add yourself to group kvm (sudo usermod -aG kvm $USER, then log in again)";

/* kvm_x86_hints.c: what to do about /dev/kvm on x86-64, where husk may have a software accelerator. */
#include "kvm/kvm.h"

const char kvm_arch_missing[] = "load kvm_intel or kvm_amd and switch on virtualization in the firmware (on a virtual host: nested "
				"virtualization), or use the software accelerator";
const char kvm_arch_forbidden[] =
	"add yourself to group kvm (sudo usermod -aG kvm $USER, then log in again), or use the software accelerator";

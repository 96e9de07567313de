/*
 * layout.h: where things are in the guest's physical address space. The map is Firecracker's, so that its guests find what they know.
 *
 *   0x3fff_0000  GICv3 distributor; below it the redistributors, 128 KiB for each vCPU
 *   0x4000_0000  boot timer, RTC, serial port, virtio-mmio slots, pvpanic, GPIO (power button)
 *   0x8000_0000  RAM: 2 MiB of system area (VM generation ID), which the guest's memory map leaves out; then the kernel
 *                the last 2 MiB of the first region: the device tree; the initrd ends below it
 *  0x40_0000_0000  a hole, as Firecracker has it, up to 0x80_0000_0000: the rest of RAM
 */
#ifndef HUSK_ARM_LAYOUT_H
#define HUSK_ARM_LAYOUT_H

#include "vmm/base/base.h"

#define ARM_GIC_DIST_GPA    0x3fff0000ull
#define ARM_GIC_DIST_SIZE   0x10000ull
#define ARM_GIC_REDIST_SIZE 0x20000ull /* of one vCPU */

#define ARM_BOOT_TIMER_GPA 0x40000000ull
#define ARM_RTC_GPA	   0x40001000ull
#define ARM_SERIAL_GPA	   0x40002000ull
#define ARM_VIRTIO_GPA	   0x40003000ull
#define ARM_MMIO_STEP	   0x1000ull
#define ARM_VIRTIO_SLOTS   64u
#define ARM_PVPANIC_GPA	   0x40043000ull /* behind the slots */
#define ARM_GPIO_GPA	   0x40044000ull

#define ARM_RAM_GPA	0x80000000ull
#define ARM_SYSTEM_SIZE (2 * MIB)
#define ARM_VMGENID_GPA ARM_RAM_GPA
#define ARM_KERNEL_GPA	(ARM_RAM_GPA + ARM_SYSTEM_SIZE) /* Documentation/arch/arm64/booting.rst: 2 MiB aligned */
#define ARM_HOLE_START	(256 * GIB)
#define ARM_HOLE_END	(512 * GIB)
#define ARM_FDT_SIZE	(2 * MIB)
#define ARM_CMDLINE_MAX 2048u /* COMMAND_LINE_SIZE of arm64, with the NUL */

/* Interrupts. A GSI of husk is an SPI, counted from 0 (INTID 32), as in device trees and in KVM's routing. */
#define ARM_NR_INTIDS	     128u
#define ARM_FIRST_SPI	     32u
#define ARM_GSI_SERIAL	     0u
#define ARM_GSI_RTC	     1u
#define ARM_GSI_VMGENID	     2u
#define ARM_GSI_GPIO	     3u
#define ARM_GSI_VIRTIO_FIRST 4u
_Static_assert(ARM_FIRST_SPI + ARM_GSI_VIRTIO_FIRST + ARM_VIRTIO_SLOTS <= ARM_NR_INTIDS, "each slot has an interrupt of its own");

/* Private interrupts of the architected timer, counted from INTID 16 as device trees do. */
#define ARM_PPI_TIMER_SECURE 13u
#define ARM_PPI_TIMER_PHYS   14u
#define ARM_PPI_TIMER_VIRT   11u
#define ARM_PPI_TIMER_HYP    10u

#endif

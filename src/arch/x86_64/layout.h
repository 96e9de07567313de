/*
 * layout.h: where things are in the guest's physical address space. The map is Firecracker's, so that its guests find what they know.
 *
 *   0x0000_0000  RAM: boot tables below 64 KiB, command line, then free up to 639 KiB
 *   0x0009_fc00  system area, reserved in e820: MP table, ACPI tables, VM generation ID, RSDP
 *   0x0010_0000  RAM up to 3 GiB: kernel from 16 MiB, initrd at the top
 *   0xc000_0000  MMIO hole: boot timer, virtio-mmio slots, IOAPIC, local APIC
 *  0x1_0000_0000 the rest of RAM
 */
#ifndef HUSK_X86_LAYOUT_H
#define HUSK_X86_LAYOUT_H

#include "vmm/base/base.h"

/* Boot structures in the first 64 KiB, which Linux treats as ordinary RAM once it has copied them. */
#define X86_GDT_GPA	    0x500ull
#define X86_GDT_BYTES	    48u
#define X86_PVH_INFO_GPA    0x6000ull /* start info; module list and memory map in the same page */
#define X86_PVH_MODLIST_GPA 0x6040ull
#define X86_PVH_MEMMAP_GPA  0x6100ull
#define X86_ZERO_PAGE_GPA   0x7000ull
#define X86_BOOT_STACK_GPA  0x8ff0ull
#define X86_SETUP_DATA_GPA  0x8000ull
#define X86_PML4_GPA	    0x9000ull
#define X86_PDPT_GPA	    0xa000ull
#define X86_PD_GPA	    0xb000ull /* four pages: 4 GiB in 2 MiB pages */
#define X86_CMDLINE_GPA	    0x20000ull
#define X86_CMDLINE_MAX	    0x10000u /* room, with the final NUL; the kernel's own limit is lower */

/* The system area. */
#define X86_LOW_RAM_END	 0x9fc00ull
#define X86_MPTABLE_GPA	 0x9fc00ull /* Linux looks for the MP floating pointer in the last KiB below 640 KiB */
#define X86_ACPI_GPA	 0xa1000ull
#define X86_ACPI_END	 0xdf000ull
#define X86_VMGENID_GPA	 0xdf000ull
#define X86_RSDP_GPA	 0xe0000ull
#define X86_HIGH_RAM_GPA 0x100000ull

#define X86_HOLE_START	   0xc0000000ull
#define X86_HOLE_END	   0x100000000ull
#define X86_BOOT_TIMER_GPA 0xc0000000ull
#define X86_VIRTIO_GPA	   0xc0001000ull
#define X86_VIRTIO_STEP	   0x1000ull
#define X86_VIRTIO_SLOTS   64u
#define X86_IOAPIC_GPA	   0xfec00000ull
#define X86_LAPIC_GPA	   0xfee00000ull

/* I/O ports. */
#define X86_PIO_I8042	      0x60u
#define X86_PIO_RTC	      0x70u
#define X86_PIO_COM1	      0x3f8u
#define X86_PIO_PVPANIC	      0x505u
#define X86_PIO_SLEEP_CONTROL 0x600u
#define X86_PIO_SLEEP_STATUS  0x601u
#define X86_RESET_VECTOR_GPA  0xffff0u /* real mode ffff:0000 */
#define X86_PIO_RESET	      0x602u

/* Values of the ACPI registers. */
#define X86_SLEEP_TYPE_S5 5u
#define X86_RESET_VALUE	  1u

/* Interrupts: pins of the one IOAPIC. The rest of 5..22 goes to virtio-mmio devices. */
#define X86_IOAPIC_PINS	     24u
#define X86_GSI_I8042	     1u
#define X86_GSI_COM1	     4u
#define X86_GSI_VIRTIO_FIRST 5u
#define X86_GSI_RTC	     8u
#define X86_GSI_POWER	     9u
#define X86_GSI_VIRTIO_LAST  22u
#define X86_GSI_VMGENID	     23u

#endif

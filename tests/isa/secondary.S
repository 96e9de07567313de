/* secondary.S: the first processor starts the second by INIT and SIPI; that one climbs from real mode to 64 bits and leaves a mark. */
#include "isa.h"

#define ICR_LOW	 0xfee00300	/* SDM 3A §11.6.1 */
#define ICR_HIGH 0xfee00310
#define TRAMPOLINE 0x10000	/* SIPI vector 0x10 */
#define MARK	 0x200000

start:	lea	trampoline(%rip), %rsi
	mov	$TRAMPOLINE, %edi
	mov	$trampoline_end - trampoline, %ecx
	cld
	rep movsb
	mov	%cr3, %rax
	mov	%eax, TRAMPOLINE + cr3_copy - trampoline
	movl	$0, MARK

	mov	$ICR_LOW, %ebx
	mov	$ICR_HIGH, %edx
	movl	$1 << 24, (%rdx)	/* to APIC 1 */
	movl	$0x4500, (%rbx)		/* INIT */
	movl	$1 << 24, (%rdx)
	movl	$0x4610, (%rbx)		/* SIPI */
1:	pause
	cmpl	$0, MARK
	je	1b
	mov	MARK, %eax
	expect	rax, 0x600d
	mov	MARK + 8, %r8		/* what the second says of itself */
	expect	r8, 1
	finish

	.code16
trampoline:
	cli
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	gdtr - trampoline
	mov	%cr4, %eax
	or	$0x20, %eax		/* PAE */
	mov	%eax, %cr4
	mov	cr3_copy - trampoline, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	/* EFER.LME */
	rdmsr
	or	$0x100, %eax
	wrmsr
	mov	%cr0, %eax
	or	$0x80000001, %eax	/* PG, PE: straight into long mode */
	mov	%eax, %cr0
	ljmpl	$8, $TRAMPOLINE + (long_mode - trampoline)
	.code64
long_mode:
	mov	0xfee00020, %eax	/* local APIC ID */
	shr	$24, %eax
	mov	%rax, MARK + 8
	movl	$0x600d, MARK
2:	hlt
	jmp	2b
	.balign	8
gdt:	.quad	0, 0x00af9b000000ffff	/* 64-bit code */
gdtr:	.word	. - gdt - 1
	.long	TRAMPOLINE + (gdt - trampoline)
cr3_copy:
	.long	0
trampoline_end:

/* softint.S: software interrupts return behind the instruction. */
#include "isa.h"

start:	gate	3, breakpoint
	gate	0x40, trap
	lidt	idtr
	xor	%ebx, %ebx
	xor	%ecx, %ecx
	mov	%rsp, %r15
	int3
	.byte	0xcd, 3			/* the long form */
	expect	rbx, 2
	int	$0x40
	expect	rcx, 1
	sub	%rsp, %r15
	expect	r15, 0
	finish

breakpoint:
	inc	%ebx
	iretq
trap:	inc	%ecx
	iretq

	idt_table 0x41

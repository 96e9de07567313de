/* system.S: faults through an interrupt table of the guest's own, and back. Handlers leave a mark and step over the instruction. */
#include "isa.h"

start:	gate	0, divide
	gate	6, undefined
	gate	13, protection
	gate	14, page
	lidt	idtr
	mov	%rsp, %r15

	ud2
	expect	r13, 6
	xor	%ecx, %ecx
	xor	%edx, %edx
	mov	$1, %eax
	div	%ecx			/* two bytes */
	expect	rbx, 0xd1

	movabs	$0x1234567890, %rdi	/* mapped by nothing: 4 GiB are */
	mov	(%rdi), %al		/* two bytes */
	mov	%cr2, %rsi
	expect	rsi, 0x1234567890
	expect	r14, 0x1234567890
	expect	r8, 0			/* error code: not present, read, supervisor */

	movabs	$0x8000000000000000, %rdi
	mov	(%rdi), %al		/* not canonical */
	expect	r9, 0x6b

	sub	%rsp, %r15
	expect	r15, 0
	finish

divide:	mov	$0xd1, %ebx
	addq	$2, (%rsp)
	iretq
undefined:
	mov	$6, %r13d
	addq	$2, (%rsp)
	iretq
protection:
	add	$8, %rsp		/* error code */
	mov	$0x6b, %r9d
	addq	$2, (%rsp)
	iretq
page:	pop	%r8
	mov	%cr2, %r14
	addq	$2, (%rsp)
	iretq

	idt_table 32

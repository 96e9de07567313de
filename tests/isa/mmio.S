/* mmio.S: accesses of each size to device memory. The machine answers a read at a with a's low byte in each byte, and records all. */
#include "isa.h"

#define BASE 0xd0000000

start:	mov	$BASE, %edi
	movb	$0x11, (%rdi)
	movw	$0x2221, 2(%rdi)
	movl	$0x44434241, 4(%rdi)
	movabs	$0x8887868584838281, %rax
	mov	%rax, 8(%rdi)
	expect	rax, 0x8887868584838281

	movzbl	1(%rdi), %ebx
	expect	rbx, 0x01
	movzwl	2(%rdi), %ecx
	expect	rcx, 0x0202
	mov	4(%rdi), %edx
	expect	rdx, 0x04040404
	mov	8(%rdi), %rsi
	expect	rsi, 0x0808080808080808
	mov	$0x40, %r8d
	add	0x10(%rdi), %r8d	/* the operand of an instruction */
	expect	r8, 0x10101050
	mov	0x2000(%rdi), %r9	/* nobody's */
	expect	r9, 0xffffffffffffffff
	finish

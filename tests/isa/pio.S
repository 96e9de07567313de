/* pio.S: port accesses of each size. The machine answers a read of port p with p's low byte in each byte, and records all. */
#include "isa.h"

#define PORT 0x100

start:	mov	$PORT, %edx
	mov	$0x11, %al
	outb	%al, %dx
	mov	$PORT + 2, %edx
	mov	$0x2221, %ax
	outw	%ax, %dx
	mov	$PORT + 4, %edx
	mov	$0x44434241, %eax
	outl	%eax, %dx
	lea	text(%rip), %rsi
	mov	$PORT + 8, %edx
	mov	$3, %ecx
	rep outsb
	expect	rcx, 0

	movabs	$0xffffffffffffffff, %rax
	mov	$PORT + 1, %edx
	inb	%dx, %al
	mov	%rax, %rbx
	expect	rbx, 0xffffffffffffff01
	movabs	$0xffffffffffffffff, %rax
	mov	$PORT + 2, %edx
	inw	%dx, %ax
	mov	%rax, %rsi
	expect	rsi, 0xffffffffffff0202
	mov	$PORT + 4, %edx
	inl	%dx, %eax
	mov	%rax, %rdi
	expect	rdi, 0x04040404
	mov	$0x999, %edx		/* nobody's */
	inw	%dx, %ax
	movzwl	%ax, %r8d
	expect	r8, 0xffff
	finish

text:	.ascii	"abc"

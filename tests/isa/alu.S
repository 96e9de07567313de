/* alu.S: results and flags of integer arithmetic at the edges of each width. */
#include "isa.h"

start:	/* 8 bits do not touch the rest, 32 bits clear the upper half */
	movabs	$0x1122334455667788, %rax
	addb	$0x78, %al		/* 0x88 + 0x78 carries out */
	expect	rax, 0x1122334455667700
	movabs	$0xffffffffffffffff, %rbx
	addl	$2, %ebx
	expect	rbx, 1

	/* carry through two words */
	movabs	$0xffffffffffffffff, %rcx
	mov	$7, %edx
	add	$1, %rcx
	adc	$0, %rdx
	expect	rcx, 0
	expect	rdx, 8

	/* 64 x 64 -> 128, and back */
	push	%rax
	push	%rdx
	movabs	$0xfedcba9876543210, %rax
	movabs	$0x0123456789abcdef, %rsi
	mul	%rsi
	mov	%rdx, %rdi		/* high half */
	div	%rsi
	mov	%rax, %r8		/* the first factor again */
	mov	%rdx, %r9		/* remainder */
	pop	%rdx
	pop	%rax
	expect	rsi, 0x0123456789abcdef
	expect	rdi, 0x0121fa00ad77d742
	expect	r8, 0xfedcba9876543210
	expect	r9, 0

	/* shifts count modulo 64; rotates go through carry */
	mov	$1, %r10d
	mov	$65, %cl
	shl	%cl, %r10
	expect	r10, 2
	xor	%ecx, %ecx
	movabs	$0x8000000000000000, %r11
	stc
	rcl	$1, %r11
	expect	r11, 1

	/* bits */
	movabs	$0x0000100000000000, %r12
	bsf	%r12, %r13
	bts	$63, %r12
	expect	r12, 0x8000100000000000
	expect	r13, 44
	movabs	$0x0102030405060708, %r14
	bswap	%r14
	expect	r14, 0x0807060504030201
	mov	$-128, %r15b
	movsbq	%r15b, %r15
	expect	r15, 0xffffffffffffff80

	/* the flags of the last: the smallest number minus one overflows */
	mov	$0x80, %bpl
	sub	$1, %bpl
	movzbl	%bpl, %ebp
	expect	rbp, 0x7f
	expect	flags, AF | OF
	finish

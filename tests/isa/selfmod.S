/* selfmod.S: code that writes code: ahead of itself, into itself, into the very next instruction; and entry into an instruction's middle. */
#include "isa.h"

start:	/* a loop that changes an immediate behind it and ahead of it: 1 + 2 + ... + 1000, twice */
	xor	%ebx, %ebx
	xor	%ebp, %ebp
	mov	$1000, %ecx
1:	mov	%ecx, ahead + 2
	mov	%ecx, behind + 1
ahead:	add	$0x11111111, %ebx
	jmp	2f
behind:	mov	$0x22222222, %eax
	add	%eax, %ebp
	loop	1b
	jmp	3f
2:	jmp	behind
3:	expect	rbx, 500500
	expect	rbp, 500500

	/* a store into the next instruction, from both kinds of code: first once, then in a loop */
	xor	%esi, %esi
	mov	$100, %edi
4:	mov	%edi, 5f + 1(%rip)
5:	mov	$0x33333333, %eax
	add	%eax, %esi
	dec	%edi
	jnz	4b
	expect	rsi, 5050
	expect	rdi, 0

	/* a string instruction that overwrites what follows it: with its last byte, and from behind */
	mov	$200, %r15d
	xor	%r12d, %r12d
6:	push	%rcx
	lea	patch(%rip), %rsi
	lea	7f(%rip), %rdi
	mov	$4, %ecx
	xorb	$1, 3(%rsi)			/* add $1 becomes add $0, and back */
	rep movsb
7:	add	$0x7f, %r12
	pop	%rcx
	dec	%r15d
	jnz	6b
	mov	$5050, %esi
	mov	$0, %edi
	expect	r12, 100

	/* the middle of an instruction: mov $0x9090c3c0ff, %r8 holds inc %eax; ret; nop; nop */
	xor	%eax, %eax
	mov	$50, %r14d
8:	call	middle + 2
	call	middle
	dec	%r14d
	jnz	8b
	expect	rax, 50
	expect	r8, 0x9090c3c0ff

	/* a function that removes itself, called again after it came back */
	xor	%r9d, %r9d
	mov	$30, %r13d
9:	movb	$0x90, gone			/* nop */
	call	gone
	movb	$0xc3, gone			/* ret */
	call	gone
	dec	%r13d
	jnz	9b
	expect	r9, 30
	jmp	10f
	.balign	64
gone:	nop
	inc	%r9
	movb	$0xc3, gone
	ret
10:	expect	r13, 0

	/* two names of one page: written through the other mapping (PML4 entry 1 is a copy of entry 0) */
	mov	%cr3, %rdx
	and	$~0xfff, %rdx
	mov	(%rdx), %rcx
	mov	%rcx, 8(%rdx)
	mov	$0x8000000000, %rdx
	xor	%r10d, %r10d
	mov	$77, %ecx
11:	mov	%ecx, 12f - 4(%rdx)
	add	$0x44444444, %r10d
12:	loop	11b
	expect	r10, 3003
	expect	rcx, 0
	finish

	.balign	16
middle:	.byte	0x49, 0xb8, 0xff, 0xc0, 0xc3, 0x90, 0x90, 0, 0, 0	/* movabs */
	ret
patch:	add	$1, %r12

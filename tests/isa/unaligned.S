/* unaligned.S: all sizes at all offsets around a page's end: loads, stores, stack, strings, vectors, locked operations that split. */
#include "isa.h"

#define DATA 0x200000
#define END  0x201000		/* the page's end that everything is put over */

start:	mov	%cr0, %rax
	and	$~4, %rax			/* EM off */
	mov	%rax, %cr0
	mov	%cr4, %rax
	or	$0x600, %rax			/* OSFXSR, OSXMMEXCPT */
	mov	%rax, %cr4

	mov	$DATA, %edi			/* bytes: their address, low byte */
	mov	$0x2000, %ecx
1:	mov	%dil, (%rdi)
	inc	%edi
	loop	1b

	/* each size from 8 bytes before the end to the end: read, add, write elsewhere unaligned, read again */
	xor	%ebx, %ebx
	xor	%r8d, %r8d
	mov	$-8, %rsi
2:	lea	END(%rsi), %rdi
	movzwl	(%rdi), %eax
	add	%rax, %rbx
	mov	(%rdi), %eax
	add	%rax, %rbx
	mov	(%rdi), %rax
	add	%rax, %rbx
	mov	%rax, 0x1003(%rdi)
	mov	%ax, 0x100d(%rdi)
	mov	%eax, 0x1011(%rdi)
	sub	0x1003(%rdi), %rax
	or	%rax, %r8
	movups	(%rdi), %xmm0
	movups	%xmm0, 0x3001(%rdi)
	mov	8(%rdi), %rax
	sub	0x3009(%rdi), %rax
	or	%rax, %r8
	inc	%rsi
	jnz	2b
	expect	rbx, 0x160f0805f3ecc394
	expect	r8, 0

	/* a stack that crosses at every offset */
	mov	%rsp, %rbp
	mov	$-16, %rsi
	xor	%r9d, %r9d
3:	lea	END(%rsi), %rsp
	add	$32, %rsp
	push	$0x1234
	push	%rsi
	pushf
	call	4f
	popf
	pop	%rax
	sub	%rsi, %rax
	or	%rax, %r9
	pop	%rax
	sub	$0x1234, %rax
	or	%rax, %r9
	inc	%rsi
	jnz	3b
	jmp	5f
4:	ret
5:	mov	%rbp, %rsp
	expect	r9, 0

	/* strings: forwards and backwards over the end, to another offset */
	mov	$END - 37, %esi
	mov	$END + 0x2000 - 11, %edi
	mov	$9, %ecx
	rep movsq
	mov	$END - 37, %esi
	mov	$END + 0x2000 - 11, %edi
	mov	$72, %ecx
	repe cmpsb
	setne	%r10b
	movzbl	%r10b, %r10d
	expect	r10, 0
	std
	mov	$END + 20, %esi
	mov	$END + 0x2000 + 33, %edi
	mov	$10, %ecx
	rep movsl
	cld
	mov	END - 16, %r11
	sub	END + 0x2000 - 3, %r11
	expect	r11, 0

	/* locked: over a cache line, and over the page */
	xor	%r12d, %r12d
	mov	$-9, %rsi
6:	lea	END(%rsi), %rdi
	movq	$0, (%rdi)
	mov	$100, %ecx
7:	mov	$3, %eax
	lock xaddq %rax, (%rdi)
	lock incl (%rdi)
	lock addw $1, 1(%rdi)
	loop	7b
	mov	(%rdi), %rax
	cmp	$100 * (4 + 0x100), %rax
	jne	8f
	inc	%r12d
8:	mov	$100 * (4 + 0x100), %eax
	mov	$7, %edx
	lock cmpxchgq %rdx, (%rdi)
	jne	9f
	inc	%r12d
9:	lock btsl $31, 1(%rdi)
	lock btsl $31, 1(%rdi)
	jnc	10f
	inc	%r12d
10:	xchg	%rdx, (%rdi)
	inc	%rsi
	cmp	$1, %rsi
	jne	6b
	expect	r12, 30
	mov	$0, %eax

	/* over a line's end, not a page's */
	mov	$DATA + 0x7d, %edi
	movq	$0, (%rdi)
	mov	$1000, %ecx
11:	lock incq (%rdi)
	loop	11b
	mov	(%rdi), %r13
	expect	r13, 1000
	expect	rcx, 0
	finish

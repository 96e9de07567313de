/* flow.S: calls, conditions, loops. */
#include "isa.h"

start:	mov	%rsp, %r15		/* must balance */
	xor	%eax, %eax
	mov	$10, %edi
	call	fib
	expect	rax, 55
	sub	%rsp, %r15
	expect	r15, 0

	/* an indirect call and a table */
	lea	table(%rip), %rbx
	mov	$1, %ecx
	call	*(%rbx,%rcx,8)
	expect	rdx, 0x1234
	xor	%ebx, %ebx

	/* loop counts rcx down without touching flags */
	mov	$5, %ecx
	xor	%esi, %esi
1:	inc	%esi
	loop	1b
	expect	rcx, 0
	expect	rsi, 5

	/* conditions after cmp, signed against unsigned */
	mov	$-1, %r8
	cmp	$1, %r8
	setl	%r9b
	seta	%r10b
	movzbl	%r9b, %r9d
	movzbl	%r10b, %r10d
	expect	r9, 1
	expect	r10, 1
	mov	$7, %r11d
	mov	$9, %r12d
	cmp	%r12d, %r11d
	cmovb	%r12, %r11
	expect	r11, 9
	cmp	%r11, %r11
	expect	flags, ZF | PF
	finish

fib:	/* rax = fib(edi), recursively */
	cmp	$2, %edi
	jae	1f
	mov	%edi, %eax
	ret
1:	push	%rdi
	dec	%edi
	call	fib
	pop	%rdi
	push	%rax
	sub	$2, %edi
	call	fib
	pop	%rdx
	add	%rdx, %rax
	ret

first:	mov	$0xdead, %edx
	ret
second:	mov	$0x1234, %edx
	ret
	.balign 8
table:	.quad	first, second

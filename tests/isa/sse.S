/* sse.S: vector and x87 registers, once the guest has switched them on. */
#include "isa.h"

start:	mov	%cr0, %rax
	and	$~4, %rax		/* EM off */
	or	$2, %rax		/* MP on */
	mov	%rax, %cr0
	mov	%cr4, %rax
	or	$0x600, %rax		/* OSFXSR, OSXMMEXCPT */
	mov	%rax, %cr4

	movabs	$0x0123456789abcdef, %rax
	movq	%rax, %xmm0
	punpcklqdq %xmm0, %xmm0
	pxor	%xmm1, %xmm1
	paddd	%xmm0, %xmm1
	paddd	%xmm0, %xmm1
	movq	%xmm1, %rbx
	psrldq	$8, %xmm1
	movq	%xmm1, %rcx
	expect	rax, 0x0123456789abcdef
	expect	rbx, 0x02468ace13579bde
	expect	rcx, 0x02468ace13579bde

	mov	$7, %edx
	cvtsi2sd %rdx, %xmm2
	sqrtsd	%xmm2, %xmm3
	mulsd	%xmm3, %xmm3
	cvttsd2si %xmm2, %rsi
	movq	%xmm3, %rdi
	expect	rsi, 7
	expect	rdi, 0x401c000000000001	/* sqrt(7) squared, rounded */

	fninit
	fldpi
	fldl2e
	fmulp
	fstpl	-8(%rsp)
	mov	-8(%rsp), %r8
	expect	r8, 0x40122123045b5dec	/* pi * log2(e) */
	fnstsw	%ax
	movzwl	%ax, %r9d
	and	$0x3800, %r9d		/* the stack is empty again */
	expect	r9, 0
	movabs	$0x0123456789abcdef, %rax
	finish

/*
 * fetch.S: walks memory in many ways on two processors; for test_mem_fetch.c, which brings each page, code and tables too, when it is
 * touched. The test puts page tables of 4 KiB pages at TABLES and random bytes into DATA.
 */
#include "isa.h"

#define ICR_LOW	   0xfee00300	/* SDM 3A §11.6.1 */
#define ICR_HIGH   0xfee00310
#define TRAMPOLINE 0x10000	/* SIPI vector 0x10 */
#define TABLES	   0x180000
#define DATA	   0x200000	/* 1 MiB that is read by both */
#define DATA_END   0x300000
#define SHARED	   0x300000	/* numbers over the ends of pages, changed by both */
#define NR_SHARED  32
#define COPY	   0x340000	/* what string instructions write: each processor 64 KiB of its own */
#define STACK	   0x3f0000	/* ends of the stacks, a page apart */
#define NR_FAR	   6
#define MARK	   0x3f8000	/* what the second has found, then that it is through */

start:	mov	$TABLES, %eax
	mov	%rax, %cr3
	mov	$STACK, %esp
	lea	trampoline(%rip), %rsi
	mov	$TRAMPOLINE, %edi
	mov	$trampoline_end - trampoline, %ecx
	cld
	rep movsb
	mov	%cr3, %rax
	mov	%eax, TRAMPOLINE + cr3_copy - trampoline
	mov	$ICR_LOW, %ebx
	mov	$ICR_HIGH, %edx
	movl	$1 << 24, (%rdx)	/* to APIC 1 */
	movl	$0x4500, (%rbx)		/* INIT */
	movl	$1 << 24, (%rdx)
	movl	$0x4610, (%rbx)		/* SIPI */
	xor	%ebp, %ebp
	call	walk
1:	pause
	cmpl	$0x600d, MARK + 64
	jne	1b
	mov	MARK, %r12
	mov	MARK + 8, %r13
	mov	MARK + 16, %r14
	mov	MARK + 24, %r15
	mov	$0x600d, %ebx
	expect	rbx, 0x600d
	finish

second:	mov	$1, %ebp
	mov	$STACK + 0x1000, %esp
	call	walk
	mov	%r8, MARK
	mov	%r9, MARK + 8
	mov	%r10, MARK + 16
	mov	%r11, MARK + 24
	movl	$0x600d, MARK + 64
2:	hlt
	jmp	2b

/* ebp: 0 or 1. r8-r11: sums, which do not depend on the order of the two. */
walk:	mov	%cr4, %rax
	or	$0x200, %eax		/* OSFXSR */
	mov	%rax, %cr4
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	/* one up, the other down, now and then over the end of a page */
	mov	$DATA, %esi
	mov	$0x4900, %ecx
	test	%ebp, %ebp
	jz	1f
	mov	$DATA + 28 * 0x48ff, %esi
1:	add	(%rsi), %r8
	rol	$1, %r9
	xor	4(%rsi), %r9
	lea	28(%rsi), %rsi
	test	%ebp, %ebp
	jz	2f
	lea	-56(%rsi), %rsi
2:	dec	%ecx
	jnz	1b
	/* locked, and not, over the ends of pages: other processors stand still for the first */
	mov	$SHARED + 0x1000 - 4, %edi
	mov	$NR_SHARED, %ecx
3:	lock addq $3, (%rdi)
	mov	$5, %eax
	lock xadd %rax, 0x800(%rdi)
	movdqu	-0x804(%rdi), %xmm0
	movdqu	-6(%rdi), %xmm1
	paddq	%xmm0, %xmm1
	movq	%xmm1, %rax
	add	$0x1000, %edi
	dec	%ecx
	jnz	3b
	/* strings from page to page */
	mov	%ebp, %edi
	shl	$16, %edi
	lea	COPY + 5(%rdi), %rdi
	mov	%rdi, %rdx
	mov	$DATA + 0x20123, %esi
	mov	$0x6000 / 8, %ecx
	rep movsq
	mov	%rdx, %rdi
	mov	$DATA + 0x20123, %esi
	mov	$0x5000, %ecx
	repe cmpsb
	add	%rcx, %r10
	mov	$DATA + 0x80000, %edi
	mov	$0x8000, %ecx
	xor	%eax, %eax
	repne scasl
	add	%rcx, %r10
	lea	0x8000(%rdx), %rdi
	mov	$0x1234567, %eax
	mov	$0x3000, %ecx
	rep stosb
	/* bytes all over the place */
	mov	$2048, %ecx
	mov	$12345, %eax
4:	imul	$1103515245, %eax, %eax
	add	$12345, %eax
	mov	%eax, %esi
	and	$0xfffff, %esi
	movzbl	DATA(%rsi), %esi
	add	%rsi, %r11
	dec	%ecx
	jnz	4b
	mov	$NR_FAR, %ecx
	lea	far_code(%rip), %rdx
5:	call	*%rdx
	add	$0x2000, %rdx
	dec	%ecx
	jnz	5b
	ret

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
	mov	$second, %eax
	jmp	*%rax
	.balign	8
gdtr:	.word	15
	.long	TRAMPOLINE + (gdt - trampoline)
	.balign	8
gdt:	.quad	0, 0x00af9b000000ffff
cr3_copy:
	.long	0
trampoline_end:

	/* functions that lie in a page and the next, their middle instruction over its end */
	.balign	4096
	.skip	4096 - 16
	.set	n, 0
far_code:
	.rept	NR_FAR
	.balign	16
	add	$1 + n, %r11
	rol	$3, %r11
	.skip	5, 0x90
	movabs	$0x123456789abcdef + n, %rax
	xor	%rax, %r11
	ret
	.balign	4096
	.skip	4096 - 16
	.set	n, n + 1
	.endr

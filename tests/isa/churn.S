/* churn.S: page tables that change all the time: data and code behind one address, with INVLPG, with CR3, with accesses in between. */
#include "isa.h"

#define PAGES 0x220000		/* 16 pages; each begins with its number and a function that returns it */
#define PT    0x210000
#define PD    0x211000
#define PDPT  0x212000
#define VA    0x8000000000

start:	mov	%cr3, %rdx
	and	$~0xfff, %rdx
	movq	$PDPT + 3, 8(%rdx)
	movq	$PD + 3, PDPT
	movq	$PT + 3, PD
	mov	$PAGES, %edi
	xor	%ecx, %ecx
1:	mov	%rcx, (%rdi)
	movb	$0xb8, 0x100(%rdi)		/* mov $n, %eax; ret */
	mov	%ecx, 0x101(%rdi)
	movb	$0xc3, 0x105(%rdi)
	add	$0x1000, %rdi
	inc	%ecx
	cmp	$16, %ecx
	jb	1b

	/* sums of what is read and of what the functions return, at addresses whose TLB entries are the same */
	mov	$VA, %rdi
	xor	%ebx, %ebx
	xor	%ebp, %ebp
	xor	%esi, %esi
2:	mov	%esi, %eax
	imul	$7, %eax, %eax
	and	$15, %eax
	mov	%eax, %r8d			/* the page that shall be there */
	shl	$12, %eax
	add	$PAGES + 3, %eax
	mov	%rax, PT
	test	$1, %sil
	jz	3f
	mov	%rdx, %cr3
	jmp	4f
3:	invlpg	(%rdi)
4:	mov	(%rdi), %rax
	cmp	%r8, %rax
	jne	5f
	inc	%ebx
5:	lea	0x100(%rdi), %r9
	call	*%r9
	cmp	%r8, %rax
	jne	6f
	inc	%ebp
6:	incq	8(%rdi)				/* through the address, looked at below */
	inc	%esi
	cmp	$4000, %esi
	jb	2b
	expect	rbx, 4000
	expect	rbp, 4000
	expect	rsi, 4000
	xor	%r10d, %r10d
	xor	%ecx, %ecx
7:	mov	%ecx, %eax
	shl	$12, %eax
	add	PAGES + 8(%rax), %r10
	inc	%ecx
	cmp	$16, %ecx
	jb	7b
	expect	r10, 4000
	expect	rcx, 16

	/* read-only and back: the store faults, the handler allows it, each time */
	gate	14, fault
	lidt	idtr(%rip)
	mov	%cr0, %rax
	or	$0x10000, %rax			/* WP */
	mov	%rax, %cr0
	xor	%r11d, %r11d
	mov	$500, %r12d
8:	movq	$PAGES + 1, PT
	invlpg	(%rdi)
	mov	%r12, 16(%rdi)
	dec	%r12d
	jnz	8b
	expect	r11, 500
	expect	r12, 0
	mov	PAGES + 16, %r13
	expect	r13, 1

	/* many addresses of one page: more than the TLB has */
	mov	$PT, %eax
	mov	$512, %ecx
9:	movq	$PAGES + 0x3003, (%rax)
	add	$8, %rax
	loop	9b
	mov	%rdx, %cr3
	movq	$0, PAGES + 0x3010
	mov	$40, %r14d
10:	mov	$VA, %rax
	mov	$512, %ecx
11:	incq	16(%rax)
	add	$0x1000, %rax
	loop	11b
	dec	%r14d
	jnz	10b
	mov	PAGES + 0x3010, %r15
	expect	r15, 40*512
	mov	$16, %ecx
	finish

fault:	inc	%r11
	movq	$PAGES + 3, PT
	invlpg	(%rdi)
	add	$8, %rsp
	iretq

	idt_table 15

/* pagecross.S: instructions, branches and data over the ends of pages; the second page changes and moves. */
#include "isa.h"

#define CODE 0x200000		/* two pages, written by hand */
#define A    0x202000		/* what the second page of code may be */
#define B    0x203000
#define PT   0x210000
#define PD   0x211000
#define PDPT 0x212000
#define VA   0x8000000000	/* PML4 entry 1: page 0 is CODE, page 1 is A or B */

start:	/* add $imm32, %ebx in all places over the end of a page, its bytes changed in one page or the other */
	xor	%ebx, %ebx
	mov	$6, %ecx			/* bytes in the first page */
1:	mov	$CODE + 0x1000, %edi
	sub	%rcx, %rdi
	movw	$0xc381, (%rdi)			/* add imm32, ebx */
	movl	$0x100, 2(%rdi)
	movb	$0xc3, 6(%rdi)			/* ret */
	call	*%rdi
	call	*%rdi
	movb	$1, 5(%rdi)			/* + 0x01000000 */
	call	*%rdi
	movb	$2, 2(%rdi)			/* + 2 */
	call	*%rdi
	loop	1b
	mov	%ebx, %ebp
	expect	rbp, 6*(0x100+0x100+0x1000100+0x1000102)

	/* the second page is another one: without a store, by its page table entry */
	mov	%cr3, %rdx
	and	$~0xfff, %rdx
	movq	$PDPT + 3, 8(%rdx)
	movq	$PD + 3, PDPT
	movq	$PT + 3, PD
	movq	$CODE + 3, PT
	mov	$CODE + 0xffd, %edi
	movl	$0x00c381, (%rdi)		/* the imm32 is in the second page, but for its first byte */
	movl	$0x000001, A
	movb	$0xc3, A + 3
	movl	$0x000002, B
	movb	$0xc3, B + 3
	xor	%ebx, %ebx
	mov	$VA + 0xffd, %rdi
	mov	$VA + 0x1000, %r8
	mov	$200, %ecx
2:	movq	$A + 3, PT + 8
	invlpg	(%r8)
	call	*%rdi
	call	*%rdi
	movq	$B + 3, PT + 8
	invlpg	(%r8)
	call	*%rdi
	loop	2b
	mov	%rbx, %r9
	expect	r9, 200*(0x100+0x100+0x200)

	/* not there: a fault at the instruction, with the address of the second page */
	movq	$A + 3, PT + 8
	invlpg	(%r8)
	call	*%rdi
	gate	14, fault
	lidt	idtr(%rip)
	xor	%r10d, %r10d
	movq	$0, PT + 8
	invlpg	(%r8)
	call	*%rdi
	expect	r10, 1
	expect	r11, VA + 0x1000
	expect	r12, VA + 0xffd
	expect	rcx, 0

	/* a jump that crosses, to the page's last byte, which is an instruction */
	mov	$CODE + 0xfff, %edi
	movb	$0x90, (%rdi)
	movb	$0xc3, 1(%rdi)
	mov	$CODE + 0x1ffe, %r13d
	movb	$0xeb, (%r13)			/* jmp in the last two bytes, to the third of the next page */
	movb	$2, 1(%r13)
	mov	$CODE + 0x2000, %r14d
	movl	$0xc3909090, (%r14)
	mov	$20, %r15d
3:	call	*%rdi
	call	*%r13
	dec	%r15d
	jnz	3b
	expect	r15, 0
	finish

fault:	inc	%r10
	mov	%cr2, %r11
	mov	8(%rsp), %r12
	movq	$A + 3, PT + 8
	invlpg	(%r8)
	add	$8, %rsp
	iretq

	idt_table 15

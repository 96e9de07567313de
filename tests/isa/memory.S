/* memory.S: addressing, string instructions, locked operations, accesses across a page. */
#include "isa.h"

#define COPY 0x180000
#define WORD 0x182000

start:	/* copy 64 bytes upwards, compare, find the first 'k' */
	cld
	lea	text(%rip), %rsi
	mov	$COPY, %edi
	mov	$8, %ecx
	rep movsq
	mov	%rdi, %r14
	expect	r14, COPY + 64
	lea	text(%rip), %rsi
	mov	$COPY, %edi
	mov	$64, %ecx
	repe cmpsb
	sete	%bl
	movzbl	%bl, %ebx
	expect	rbx, 1
	mov	%rcx, %r15
	expect	r15, 0
	mov	$COPY, %edi
	mov	$64, %ecx
	mov	$'k', %al
	repne scasb
	expect	rdi, COPY + 4
	expect	rcx, 60

	/* copy downwards onto itself, one byte on: all become the last */
	std
	lea	COPY + 15, %rsi
	push	%rdi
	push	%rcx
	lea	COPY + 14, %rdi
	mov	$15, %ecx
	rep movsb
	pop	%rcx
	pop	%rdi
	cld
	mov	COPY, %rbp
	expect	rbp, 0x2020202020202020

	/* fill, and read across the end of a page */
	push	%rdi
	push	%rcx
	mov	$COPY + 0x1ffc, %edi
	mov	$0xa5, %al
	mov	$8, %ecx
	rep stosb
	pop	%rcx
	pop	%rdi
	mov	COPY + 0x1ffc, %rdx
	expect	rdx, 0xa5a5a5a5a5a5a5a5

	/* locked: exchange and add, compare and exchange */
	movq	$40, WORD
	mov	$2, %r8d
	lock xaddq %r8, WORD
	expect	r8, 40
	mov	$42, %eax
	mov	$99, %r9d
	lock cmpxchgq %r9, WORD
	sete	%r10b
	movzbl	%r10b, %r10d
	mov	WORD, %r9
	expect	r9, 99
	expect	r10, 1
	mov	$41, %eax
	lock cmpxchgq %r8, WORD		/* not equal: rax takes what is there */
	expect	rax, 99

	/* base + index * scale + displacement */
	lea	text(%rip), %r11
	mov	$2, %r12d
	movzbl	-3(%r11,%r12,4), %r13d
	expect	r13, 'm'
	finish

	.balign 8
text:	.ascii	"husk makes bare guests and looks at what they leave behind. ===="

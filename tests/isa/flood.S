/* flood.S: more pieces of code than the translator keeps: 98304 functions of three bytes, each called twice, with what was made first still
 * known to jumps and returns when it is evicted. */
#include "isa.h"

#define CODE  0x200000
#define COUNT 98304

start:	mov	$CODE, %edi
	mov	$COUNT, %ecx
	mov	$0x90c3c3ff, %eax		/* inc %ebx; ret; nop */
	cld
	rep stosl
	xor	%ebx, %ebx
	mov	$2, %ebp
1:	mov	$CODE, %edi
	mov	$COUNT, %esi
2:	call	*%rdi
	add	$4, %rdi
	dec	%esi
	jnz	2b
	dec	%ebp
	jnz	1b
	expect	rbx, 2*COUNT
	expect	rdi, (CODE+4*COUNT)
	expect	rcx, 0

	/* from the last to the first, by jumps out of one function */
	xor	%r8d, %r8d
	lea	-4(%rdi), %rsi
3:	call	one
	sub	$4, %rsi
	cmp	$CODE, %rsi
	jae	3b
	expect	rsi, (CODE-4)
	expect	r8, COUNT
	sub	$COUNT, %ebx
	finish
one:	inc	%r8
	jmp	*%rsi

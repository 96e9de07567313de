/* spin.S: never ends: for kicks and pauses. rbx counts the rounds, rax stays. */
#include "isa.h"

start:	mov	$0x5a5a, %eax
	xor	%ebx, %ebx
1:	inc	%rbx
	jmp	1b
	expect	rax, 0x5a5a

/* dirty.S: writes one byte into each of the pages 0x201000, 0x203000 and 0x3ff000, and reads 0x205000. */
#include "isa.h"

start:	movb	$1, 0x201000
	movb	$2, 0x203fff
	movb	$3, 0x3ff800
	mov	0x205000, %al
	movzbl	%al, %eax
	expect	rax, 0
	finish

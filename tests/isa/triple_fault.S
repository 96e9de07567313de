/* triple_fault.S: an exception without an interrupt table. */
#include "isa.h"

start:	mov	$0x77, %ebx
	lidt	none
	ud2
	expect	rbx, 0x77

none:	.word	0
	.quad	0

/* interrupt.S: the 8259 pair at vectors 0x20 and 0x28, lines 5 and 10 open. Sleeps until line 5 came three times and line 10 twice. */
#include "isa.h"

#define PORT_READY 0x100	/* written before each sleep */

	.macro	outport port, value
	mov	$\value, %al
	outb	%al, $\port
	.endm

start:	gate	0x25, line5
	gate	0x2a, line10
	lidt	idtr
	outport	0x20, 0x11		/* ICW1..4 */
	outport	0xa0, 0x11
	outport	0x21, 0x20
	outport	0xa1, 0x28
	outport	0x21, 0x04
	outport	0xa1, 0x02
	outport	0x21, 0x01
	outport	0xa1, 0x01
	outport	0x21, 0xdb		/* open: 2 (the second chip), 5 */
	outport	0xa1, 0xfb		/* open: 10 */
	xor	%r12d, %r12d
	xor	%r13d, %r13d
	mov	$PORT_READY, %edx
1:	outb	%al, %dx
	sti
	hlt
	cli
	cmp	$3, %r12d
	jb	1b
	cmp	$2, %r13d
	jb	1b
	expect	r12, 3
	expect	r13, 2
	finish

line5:	inc	%r12d
	push	%rax
	outport	0x20, 0x20		/* end of interrupt */
	pop	%rax
	iretq
line10:	inc	%r13d
	push	%rax
	outport	0xa0, 0x20
	outport	0x20, 0x20
	pop	%rax
	iretq

	idt_table 48

/*
 * isa.h: for bare guests (tests/isa/README.md): a 64-bit start at `start`, and the registers that the guest must end with.
 *
 *	expect	rax, 0x1234		a register, in full
 *	expect	flags, ZF | PF		the arithmetic flags, and no others, as `pushf` of `finish` finds them
 *	finish				ends the guest
 */
#define PORT_FINISH 0xf4

#define CF 0x001
#define PF 0x004
#define AF 0x010
#define ZF 0x040
#define SF 0x080
#define OF 0x800

	.set	nr_rax, 0
	.set	nr_rcx, 1
	.set	nr_rdx, 2
	.set	nr_rbx, 3
	.set	nr_rsp, 4
	.set	nr_rbp, 5
	.set	nr_rsi, 6
	.set	nr_rdi, 7
	.set	nr_r8, 8
	.set	nr_r9, 9
	.set	nr_r10, 10
	.set	nr_r11, 11
	.set	nr_r12, 12
	.set	nr_r13, 13
	.set	nr_r14, 14
	.set	nr_r15, 15
	.set	nr_flags, 16

	.macro	expect reg, value
	.pushsection .expect, "a", @progbits
	.quad	nr_\reg, \value
	.popsection
	.endm

	.macro	finish
	outb	%al, $PORT_FINISH
9:	hlt
	jmp	9b
	.endm

	/* Points a vector of the table `idt` at a handler; clobbers rax. */
	.macro	gate vector, handler
	lea	\handler(%rip), %rax
	movw	%ax, idt + 16 * \vector
	movw	%cs, idt + 16 * \vector + 2
	movw	$0x8e00, idt + 16 * \vector + 4	/* present, interrupt gate */
	shr	$16, %rax
	movw	%ax, idt + 16 * \vector + 6
	.endm

	/* The table and what `lidt idtr` loads. */
	.macro	idt_table vectors
	.balign	16
idt:	.zero	16 * \vectors
idtr:	.word	. - idt - 1
	.quad	idt
	.endm

	.text
	.code64
	.globl	start

/*
 * clocks.S: counts on and on: the loop itself, the LAPIC timer in TSC deadline mode (vector 0x30, about a millisecond), and channel 0 of the
 * PIT through pin 0 of the IOAPIC (vector 0x31, 200 Hz). Each round looks whether the TSC or kvmclock has gone back. It stops when
 * STOP is set, with all of it in registers; test_moves.c looks at memory meanwhile.
 */
#include "isa.h"

#define LAPIC	0xfee00000
#define IOAPIC	0xfec00000
#define COUNTS	0x200000	/* u64: rounds, deadlines, PIT ticks, last TSC, times it went back, last kvmclock, times it went back */
#define ROUNDS	COUNTS
#define TIMER	(COUNTS + 8)
#define PIT	(COUNTS + 16)
#define TSC	(COUNTS + 24)
#define TSC_BACK (COUNTS + 32)
#define CLOCK	(COUNTS + 40)
#define CLOCK_BACK (COUNTS + 48)
#define STOP	(COUNTS + 56)
#define STEP	(COUNTS + 64)	/* ticks from one deadline to the next; the test sets it */
#define PVCLOCK	0x201000	/* struct pvclock_vcpu_time_info */
#define MSR_DEADLINE 0x6e0
#define MSR_SYSTEM_TIME 0x4b564d01

start:	mov	$0x300000, %esp
	gate	0x30, deadline
	gate	0x31, pit
	lidt	idtr
	mov	$0xff, %al		/* the PICs stay out of it */
	outb	%al, $0x21
	outb	%al, $0xa1
	mov	$LAPIC, %ebx
	movl	$0x1ff, 0xf0(%rbx)	/* on */
	movl	$0x40030, 0x320(%rbx)	/* TSC deadline */
	mov	$IOAPIC, %esi
	movl	$0x11, (%rsi)
	movl	$0, 0x10(%rsi)		/* to APIC 0 */
	movl	$0x10, (%rsi)
	movl	$0x31, 0x10(%rsi)	/* edge, open */
	mov	$0x34, %al		/* channel 0, two bytes, mode 2 */
	outb	%al, $0x43
	mov	$0x4d, %al		/* 5965: 200 Hz */
	outb	%al, $0x40
	mov	$0x17, %al
	outb	%al, $0x40
	mov	$MSR_SYSTEM_TIME, %ecx
	mov	$PVCLOCK | 1, %eax
	xor	%edx, %edx
	wrmsr
	call	arm
	sti
round:	incq	ROUNDS
	rdtsc
	shl	$32, %rdx
	or	%rdx, %rax
	cmp	TSC, %rax
	jae	1f
	incq	TSC_BACK
1:	mov	%rax, TSC
	call	kvmclock
	cmp	CLOCK, %rax
	jae	1f
	incq	CLOCK_BACK
1:	mov	%rax, CLOCK
	cmpq	$0, STOP
	je	round
	cli
	mov	TSC_BACK, %r8
	mov	CLOCK_BACK, %r9
	expect	r8, 0
	expect	r9, 0
	finish

/* rax: nanoseconds. Linux' pvclock_read */
kvmclock:
	mov	$PVCLOCK, %edi
1:	mov	(%rdi), %r10d
	test	$1, %r10d
	jnz	1b
	rdtsc
	shl	$32, %rdx
	or	%rdx, %rax
	sub	8(%rdi), %rax
	movsbl	28(%rdi), %ecx
	test	%ecx, %ecx
	js	2f
	shl	%cl, %rax
	jmp	3f
2:	neg	%ecx
	shr	%cl, %rax
3:	mov	24(%rdi), %edx
	mul	%rdx
	shrd	$32, %rdx, %rax
	add	16(%rdi), %rax
	cmp	(%rdi), %r10d
	jne	1b
	ret

arm:	rdtsc
	shl	$32, %rdx
	or	%rdx, %rax
	add	STEP, %rax
	mov	%rax, %rdx
	shr	$32, %rdx
	mov	$MSR_DEADLINE, %ecx
	wrmsr
	ret

deadline:
	push	%rax
	push	%rcx
	push	%rdx
	incq	TIMER
	call	arm
	mov	$LAPIC, %eax
	movl	$0, 0xb0(%rax)		/* EOI */
	pop	%rdx
	pop	%rcx
	pop	%rax
	iretq
pit:	push	%rax
	incq	PIT
	mov	$LAPIC, %eax
	movl	$0, 0xb0(%rax)
	pop	%rax
	iretq

	idt_table 64

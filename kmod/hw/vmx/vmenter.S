/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The world switch of Intel VMX.
 *
 * Entries and exits switch RSP, RIP, RFLAGS, the control registers (not CR2),
 * segment registers and the MSRs of the VMCS (SDM vol. 3, 27.3 and 28.5). What
 * they leave to software and changes with every exit is done here: the other
 * general registers, and what speculation asks for.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/frame.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/unwind_hints.h>

/* The order of `Reg` in pc/regs.rs. */
#define G_RAX	(0 * 8)
#define G_RCX	(1 * 8)
#define G_RDX	(2 * 8)
#define G_RBX	(3 * 8)
#define G_RBP	(5 * 8)
#define G_RSI	(6 * 8)
#define G_RDI	(7 * 8)
#define G_R8	(8 * 8)
#define G_R9	(9 * 8)
#define G_R10	(10 * 8)
#define G_R11	(11 * 8)
#define G_R12	(12 * 8)
#define G_R13	(13 * 8)
#define G_R14	(14 * 8)
#define G_R15	(15 * 8)

/* Fields (field.rs). */
#define HOST_RSP		0x6c14
#define INSTRUCTION_ERROR	0x4400

/* VM-instruction error: VMRESUME of a VMCS that was not launched (31.4). */
#define NOT_LAUNCHED	5

/* What iv_vmx_enter returns: `result` in enter.rs. */
#define EXITED	0
#define REFUSED	1
#define FAULTED	2

/* After the last load of the host's data before an entry. */
#define CLEAR_BUFFERS \
	ALTERNATIVE_2 "", __CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM_MMIO, \
		__CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM

/* No guest value may live on in a register that host code speculates on. */
.macro FORGET_GUEST
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	/* The pointer to the registers. */
	pop	%rdi
.endm

.section .noinstr.text, "ax"

/*
 * u32 iv_vmx_enter(u64 gprs[16], u64 *host_rsp)
 *
 * Interrupts are off on entry and on return; after an NMI that ended the run
 * of the guest NMIs are blocked, too, on return. `host_rsp` is what the VMCS
 * has for the host's RSP.
 */
SYM_FUNC_START(iv_vmx_enter)
	FRAME_BEGIN
	push	%rbp
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%rbx
	push	%rdi

	cmp	%rsp, (%rsi)
	je	.Lrsp_known
	mov	%rsp, (%rsi)
	mov	$HOST_RSP, %eax
.Lwrite_rsp:
	vmwrite	%rsp, %rax
.Lrsp_known:

	mov	G_RAX(%rdi), %rax
	mov	G_RCX(%rdi), %rcx
	mov	G_RDX(%rdi), %rdx
	mov	G_RBX(%rdi), %rbx
	mov	G_RBP(%rdi), %rbp
	mov	G_RSI(%rdi), %rsi
	mov	G_R8(%rdi), %r8
	mov	G_R9(%rdi), %r9
	mov	G_R10(%rdi), %r10
	mov	G_R11(%rdi), %r11
	mov	G_R12(%rdi), %r12
	mov	G_R13(%rdi), %r13
	mov	G_R14(%rdi), %r14
	mov	G_R15(%rdi), %r15
	mov	G_RDI(%rdi), %rdi

	CLEAR_BUFFERS

	/* An exit comes back as if it were a jump to the label. */
	UNWIND_HINT_SAVE
.Lresume:
	vmresume

	/* Refused; the registers are as they were loaded. */
	mov	(%rsp), %rdi
	mov	$INSTRUCTION_ERROR, %eax
.Lread_error:
	vmread	%rax, %rax
	cmp	$NOT_LAUNCHED, %rax
	jne	.Lrefused
	mov	G_RAX(%rdi), %rax
	mov	G_RDI(%rdi), %rdi
	CLEAR_BUFFERS
.Llaunch:
	vmlaunch
	jmp	.Lrefused

SYM_INNER_LABEL_ALIGN(iv_vmx_exit, SYM_L_GLOBAL)
	UNWIND_HINT_RESTORE
	ENDBR

	push	%rdi
	mov	8(%rsp), %rdi
	mov	%rax, G_RAX(%rdi)
	mov	%rcx, G_RCX(%rdi)
	mov	%rdx, G_RDX(%rdi)
	mov	%rbx, G_RBX(%rdi)
	mov	%rbp, G_RBP(%rdi)
	mov	%rsi, G_RSI(%rdi)
	mov	%r8, G_R8(%rdi)
	mov	%r9, G_R9(%rdi)
	mov	%r10, G_R10(%rdi)
	mov	%r11, G_R11(%rdi)
	mov	%r12, G_R12(%rdi)
	mov	%r13, G_R13(%rdi)
	mov	%r14, G_R14(%rdi)
	mov	%r15, G_R15(%rdi)
	pop	G_RDI(%rdi)
	FORGET_GUEST

	/* Before the first RET: the guest filled the return predictor. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, \
		X86_FEATURE_RSB_VMEXIT_LITE

	/*
	 * Guests run with the host's SPEC_CTRL. Where that is the old IBRS, which
	 * the kernel has on while it runs, what the guest has trained before is
	 * kept out only by writing it once more.
	 */
	ALTERNATIVE "jmp .Lno_ibrs", "", X86_FEATURE_KERNEL_IBRS
	mov	$MSR_IA32_SPEC_CTRL, %ecx
	mov	PER_CPU_VAR(x86_spec_ctrl_current), %rax
	mov	%rax, %rdx
	shr	$32, %rdx
	wrmsr
.Lno_ibrs:
	CLEAR_BRANCH_HISTORY_VMEXIT

	xor	%eax, %eax		/* EXITED */
.Lreturn:
	pop	%rbx
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	pop	%rbp
	FRAME_END
	RET

	/* No guest has run. */
.Lrefused:
	mov	$REFUSED, %eax
.Lnot_entered:
	FORGET_GUEST
	jmp	.Lreturn

	/* VMX is off: the kernel has taken it away to go down. */
.Lfaulted:
	mov	$FAULTED, %eax
	jmp	.Lnot_entered

	_ASM_EXTABLE(.Lwrite_rsp, .Lfaulted)
	_ASM_EXTABLE(.Lresume, .Lfaulted)
	_ASM_EXTABLE(.Lread_error, .Lfaulted)
	_ASM_EXTABLE(.Llaunch, .Lfaulted)
SYM_FUNC_END(iv_vmx_enter)

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

#include "../world_switch.h"

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
	PUSH_HOST
	push	%rdi

	cmp	%rsp, (%rsi)
	je	.Lrsp_known
	mov	%rsp, (%rsi)
	mov	$HOST_RSP, %eax
.Lwrite_rsp:
	vmwrite	%rsp, %rax
.Lrsp_known:

	mov	G_RAX(%rdi), %rax
	LOAD_GUEST

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
	STORE_GUEST %rdi
	pop	G_RDI(%rdi)
	FORGET_GUEST
	pop	%rdi			/* The pointer to the registers. */

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
	POP_HOST
	pop	%rbp
	FRAME_END
	RET

	/* No guest has run. */
.Lrefused:
	mov	$REFUSED, %eax
.Lnot_entered:
	FORGET_GUEST
	pop	%rdi
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

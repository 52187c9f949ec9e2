/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The world switch of AMD SVM.
 *
 * VMRUN swaps RAX, RSP, RIP, RFLAGS, CRs and the CS/SS/DS/ES state itself
 * (APM vol. 2, 15.5). What it leaves to software, and is done here: the other
 * general registers; FS, GS, TR, LDTR and the SYSCALL/SYSENTER MSRs by
 * VMLOAD/VMSAVE (15.5.2); the global interrupt flag (15.17).
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>

#include "../world_switch.h"

/* After an emergency disable every SVM instruction raises #UD: skip it then. */
.macro SVM_INSN insn:vararg
771:	\insn
772:
	.pushsection .text, "ax"
773:	cmpb	$0, virt_rebooting(%rip)
	jne	772b
	ud2
	.popsection
	_ASM_EXTABLE(771b, 773b)
.endm

.section .noinstr.text, "ax"

#if defined(CONFIG_MITIGATION_UNRET_ENTRY) || defined(CONFIG_MITIGATION_SRSO)
/*
 * On Intel's processors with call depth tracking (retbleed=stuff) the kernel
 * looks at what is before the target of each CALL of a module, of alternatives
 * that are not in use as well. Before srso_alias_untrain_ret there is nothing: it
 * is the first of the kernel's text. This module is loaded there, as the
 * kernel's own for SVM is not; so the kernel's macro for UNTRAIN_RET_VM is
 * replaced by one that gets there by a jump.
 */
SYM_FUNC_START_LOCAL(iv_srso_alias_untrain_ret)
	jmp	srso_alias_untrain_ret
SYM_FUNC_END(iv_srso_alias_untrain_ret)

.purgem CALL_UNTRAIN_RET
.macro CALL_UNTRAIN_RET
	ALTERNATIVE_2 "", "call entry_untrain_ret", X86_FEATURE_UNRET, \
		"call iv_srso_alias_untrain_ret", X86_FEATURE_SRSO_ALIAS
.endm
#endif

/*
 * void iv_svm_enter(u64 gprs[16], u64 guest_vmcb_pa, u64 host_vmcb_pa)
 *
 * Interrupts are off on entry and on return. A pending host interrupt ends the
 * guest run at once: GIF=0 holds it back while IF=1 marks it deliverable.
 */
SYM_FUNC_START(iv_svm_enter)
	push	%rbp
	mov	%rsp, %rbp
	PUSH_HOST
	push	%rdx
	push	%rsi
	push	%rdi

	SVM_INSN clgi
	sti

	mov	%rsi, %rax
	SVM_INSN vmload %rax

	LOAD_GUEST

	ALTERNATIVE "", __CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM

	SVM_INSN vmrun %rax

	pop	%rax
	mov	%rdi, G_RDI(%rax)
	STORE_GUEST %rax

	pop	%rax
	SVM_INSN vmsave %rax
	/* Gives the host its GS base back: no per-CPU access before this. */
	pop	%rax
	SVM_INSN vmload %rax

	/* Before the first RET: the guest filled the return predictor. */
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT
	UNTRAIN_RET_VM

	cli
	SVM_INSN stgi

	FORGET_GUEST
	xor	%edi, %edi

	POP_HOST
	pop	%rbp
	RET
SYM_FUNC_END(iv_svm_enter)

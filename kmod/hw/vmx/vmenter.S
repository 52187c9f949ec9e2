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

/* The field for the host's RSP (field.rs). */
#define HOST_RSP	0x6c14

/* What iv_vmx_enter returns: `EntryResult` in vmx.rs. */
#define EXITED	0
#define REFUSED	1
#define FAULTED	2

.section .noinstr.text, "ax"

/*
 * u32 iv_vmx_enter(u64 gprs[16], bool launched, u64 *host_rsp)
 *
 * Interrupts are off on entry and on return; after an NMI that ended the run
 * of the guest NMIs are blocked, too, on return. `host_rsp` is what the VMCS
 * has for the host's RSP.
 */
SYM_FUNC_START(iv_vmx_enter)
	push	%rbp
	mov	%rsp, %rbp
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%rbx
	push	%rdi
	push	%rsi

	cmp	%rsp, (%rdx)
	je	.Lrsp_known
	mov	%rsp, (%rdx)
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

	/* After the last load of the host's data; it changes ZF. */
	ALTERNATIVE_2 "", __CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM_MMIO, \
		__CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM

	testb	$1, (%rsp)

	/* An exit comes back as if it were a jump to the label. */
	UNWIND_HINT_SAVE
	jz	.Llaunch
.Lresume:
	vmresume
	jmp	.Lrefused
.Llaunch:
	vmlaunch
	jmp	.Lrefused

SYM_INNER_LABEL_ALIGN(iv_vmx_exit, SYM_L_GLOBAL)
	UNWIND_HINT_RESTORE
	ENDBR

	push	%rdi
	mov	16(%rsp), %rdi
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
	mov	$EXITED, %ebx

.Lleave:
	/* No guest value may live on in a register that host code speculates on. */
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d

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

	mov	%ebx, %eax
	add	$16, %rsp
	pop	%rbx
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	pop	%rbp
	RET

.Lrefused:
	mov	$REFUSED, %ebx
	jmp	.Lleave

	/* VMX is off: the kernel has taken it away to go down. */
.Lfaulted:
	mov	$FAULTED, %ebx
	jmp	.Lleave

	_ASM_EXTABLE(.Lwrite_rsp, .Lfaulted)
	_ASM_EXTABLE(.Lresume, .Lfaulted)
	_ASM_EXTABLE(.Llaunch, .Lfaulted)
SYM_FUNC_END(iv_vmx_enter)

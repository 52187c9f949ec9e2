// SPDX-License-Identifier: GPL-2.0-or-later

//! The boot loader of the machine in Bochs: the first sectors of its disk.
//!
//! It reads a table of pieces from the disk to where they belong in memory and
//! enters the kernel's own setup code (16-bit entry of the Linux/x86 boot
//! protocol), which asks the BIOS what it needs to. Where that would hand over
//! to the kernel's decompressor, [`loader`](bytes) takes over again, goes to
//! 64-bit mode and enters the kernel itself, decompressed beforehand:
//! decompressing it in the emulator would take longer than the whole boot.
//!
//! A general boot loader reads through the BIOS, a sector at a time. This one
//! reads by ATA's READ MULTIPLE with `rep insw`, which Bochs does in bulk:
//! 100 MB in well under a second.

use core::arch::global_asm;

/// How long the loader is, with its table.
pub const SIZE: usize = 2048;
/// Where in it the kernel's 64-bit entry point is to be stored.
pub const ENTRY_AT: usize = 0x3f8;
/// Where in it the table of pieces begins: 32-bit address, first sector,
/// number of sectors. A row without sectors ends it.
pub const TABLE_AT: usize = 0x400;
/// Where the loader is in memory.
const LOADED_AT: usize = 0x7c00;
/// What the setup code must enter in the decompressor's stead.
pub const ENTRY32: u32 = (LOADED_AT + 0x200) as u32;
/// Where the loader expects the setup code.
pub const SETUP_AT: u32 = 0x9_0000;

// Addresses are numbers: the code does not run where it is linked.
global_asm!(
    ".pushsection .rodata.lab_loader, \"a\"",
    ".globl lab_loader_start",
    ".globl lab_loader_end",
    ".code16",
    "lab_loader_start:",
    "    cli",
    "    cld",
    "    xor ax, ax",
    "    mov ds, ax",
    "    mov es, ax",
    "    mov ss, ax",
    "    mov sp, 0x7c00",
    // The BIOS reads the loader's other sectors.
    "    mov ax, 0x0203",
    "    mov bx, 0x7e00",
    "    mov cx, 0x0002",
    "    mov dh, 0",
    "    int 0x13",
    "    jc 9f",
    // ES gets a limit of 4 GiB, which it keeps in real mode.
    "    lgdt [0x7de0]",
    "    mov eax, cr0",
    "    or al, 1",
    "    mov cr0, eax",
    "    mov bx, 8",
    "    mov es, bx",
    "    and al, 0xfe",
    "    mov cr0, eax",
    // The first disk, sectors by number, without interrupts, 16 at a time.
    "    mov dx, 0x3f6",
    "    mov al, 2",
    "    out dx, al",
    "    mov dx, 0x1f6",
    "    mov al, 0x40",
    "    out dx, al",
    "    call 8f",
    "    mov dx, 0x1f2",
    "    mov al, 16",
    "    out dx, al",
    "    mov dx, 0x1f7",
    "    mov al, 0xc6", // SET MULTIPLE MODE
    "    out dx, al",
    "    call 8f",
    "    mov si, 0x8000",
    // For each row: EDI to where, EBX first sector, EBP number of sectors.
    "2:  mov edi, [si]",
    "    mov ebx, [si + 4]",
    "    mov ebp, [si + 8]",
    "    add si, 12",
    "    test ebp, ebp",
    "    jz 7f",
    // ECX: as many as one command may read.
    "4:  mov ecx, 0x8000",
    "    cmp ebp, ecx",
    "    jae 5f",
    "    mov ecx, ebp",
    "5:  sub ebp, ecx",
    // The high bytes of count and sector go first (48-bit addresses).
    "    mov dx, 0x1f2",
    "    mov al, ch",
    "    out dx, al",
    "    inc dx",
    "    mov eax, ebx",
    "    shr eax, 24",
    "    out dx, al",
    "    inc dx",
    "    xor al, al",
    "    out dx, al",
    "    inc dx",
    "    out dx, al",
    "    mov dx, 0x1f2",
    "    mov al, cl",
    "    out dx, al",
    "    inc dx",
    "    mov al, bl",
    "    out dx, al",
    "    inc dx",
    "    mov al, bh",
    "    out dx, al",
    "    inc dx",
    "    mov eax, ebx",
    "    shr eax, 16",
    "    out dx, al",
    "    mov dx, 0x1f7",
    "    mov al, 0x29", // READ MULTIPLE EXT
    "    out dx, al",
    "    add ebx, ecx",
    "6:  call 8f",
    "    push ecx",
    "    cmp ecx, 16",
    "    jbe 5f",
    "    mov ecx, 16",
    "5:  mov eax, ecx",
    "    shl ecx, 8",
    "    mov dx, 0x1f0",
    // REP INSW to ES:[EDI].
    "    .byte 0x67, 0xf3, 0x6d",
    "    pop ecx",
    "    sub ecx, eax",
    "    jnz 6b",
    "    test ebp, ebp",
    "    jnz 4b",
    "    jmp 2b",
    // All is there: enter the setup code, as the boot protocol says.
    "7:  mov ax, 0x9000",
    "    mov ds, ax",
    "    mov es, ax",
    "    mov fs, ax",
    "    mov gs, ax",
    "    mov ss, ax",
    "    mov sp, 0xdff0",
    // A far jump to 0x9020:0.
    "    .byte 0xea",
    "    .short 0, 0x9020",
    // Waits until the disk is ready.
    "8:  mov dx, 0x1f7",
    "5:  in al, dx",
    "    test al, 0x80",
    "    jnz 5b",
    "    test al, 0x21",
    "    jnz 9f",
    "    ret",
    // Nothing can be read: this word at this port ends Bochs with a message.
    "9:  mov si, 0x7dc0",
    "    mov dx, 0x8900",
    "5:  lodsb",
    "    out dx, al",
    "    test al, al",
    "    jnz 5b",
    "    hlt",
    // At 0x7dc0, 0x7dd0 and 0x7de0: the word, descriptors, their register.
    "    .org lab_loader_start + 0x1c0",
    "    .asciz \"Shutdown\"",
    "    .org lab_loader_start + 0x1d0",
    "    .quad 0",
    "    .quad 0x00cf92000000ffff",
    "    .short 15",
    "    .long 0x7dd0",
    "    .org lab_loader_start + 510",
    "    .short 0xaa55",
    // At 0x7e00: the setup code enters here in 32-bit mode without paging,
    // ESI pointing to the boot parameters.
    ".code32",
    "    lgdt [0x7fe0]",
    // Page tables at 0x1000 to 0x6fff: the first 4 GiB as they are.
    "    mov edi, 0x1000",
    "    xor eax, eax",
    "    mov ecx, 0x1800",
    "    rep stosd",
    "    mov dword ptr [0x1000], 0x2003",
    "    mov dword ptr [0x2000], 0x3003",
    "    mov dword ptr [0x2008], 0x4003",
    "    mov dword ptr [0x2010], 0x5003",
    "    mov dword ptr [0x2018], 0x6003",
    "    mov edi, 0x3000",
    "    mov eax, 0x83",
    "    mov ecx, 2048",
    "4:  mov [edi], eax",
    "    add eax, 0x200000",
    "    add edi, 8",
    "    loop 4b",
    "    mov eax, 0x1000",
    "    mov cr3, eax",
    "    mov eax, cr4",
    "    or eax, 0x20", // CR4.PAE
    "    mov cr4, eax",
    "    mov ecx, 0xc0000080", // EFER
    "    rdmsr",
    "    or eax, 0x100", // EFER.LME
    "    wrmsr",
    "    mov eax, cr0",
    "    or eax, 0x80000001", // CR0.PG, CR0.PE
    "    mov cr0, eax",
    "    push 0x10",
    "    push 0x7f80",
    "    retf",
    // At 0x7f80: 64-bit mode.
    "    .org lab_loader_start + 0x380",
    ".code64",
    "    mov eax, 0x18",
    "    mov ds, eax",
    "    mov es, eax",
    "    mov ss, eax",
    "    mov rax, [0x7ff8]",
    "    jmp rax",
    // At 0x7fb8 and 0x7fe0: descriptors, their register.
    "    .org lab_loader_start + 0x3b8",
    "    .quad 0",
    "    .quad 0",
    "    .quad 0x00af9a000000ffff",
    "    .quad 0x00cf92000000ffff",
    "    .org lab_loader_start + 0x3e0",
    "    .short 31",
    "    .long 0x7fb8",
    "lab_loader_end:",
    ".popsection",
);

extern "C" {
    static lab_loader_start: u8;
    static lab_loader_end: u8;
}

/// The loader's code; entry point and table are still to be filled in.
pub fn bytes() -> [u8; SIZE] {
    let (start, end) = (&raw const lab_loader_start, &raw const lab_loader_end);
    // SAFETY: the two symbols begin and end one piece of read-only data, which
    // nothing ever writes.
    let code = unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) };
    let mut image = [0; SIZE];
    image[..code.len()].copy_from_slice(code);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_leaves_room_for_the_tables() {
        let image = bytes();
        assert_eq!(image[510..512], [0x55, 0xaa]);
        assert_eq!(image[0], 0xfa);
        assert_ne!(image[512], 0);
        assert!(image[ENTRY_AT..].iter().all(|byte| *byte == 0));
    }
}

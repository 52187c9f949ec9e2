// SPDX-License-Identifier: GPL-2.0-or-later

//! Moves, exchanges, strings and the rest.

/// MOV in its forms.
macro_rules! moves {
    ($m:ident) => {
        vec![
            $m!(ALL "mov m8, r8": ["mov byte ptr [" SI "], bl"]),
            $m!(ALL "mov m16, r16": ["mov word ptr [" SI "], bx"]),
            $m!(ALL "mov m32, r32": ["mov dword ptr [" SI "], ebx"]),
            $m!(ALL "mov r8, m8": ["mov bl, byte ptr [" SI "]"]),
            $m!(ALL "mov r16, m16": ["mov bx, word ptr [" SI "]"]),
            $m!(ALL "mov r32, m32": ["mov ebx, dword ptr [" SI "]"]),
            $m!(ALL "mov m8, imm": ["mov byte ptr [" SI "], 0x5a"]),
            $m!(ALL "mov m16, imm": ["mov word ptr [" SI "], 0x5aa5"]),
            $m!(ALL "mov m32, imm": ["mov dword ptr [" SI "], 0x1234abcd"]),
            $m!(ALL "mov m8, high": ["mov byte ptr [" SI "], bh"]),
            $m!(ALL "mov high, m8": ["mov dh, byte ptr [" SI "]"]),
            $m!(ALL "movzx r16, m8": ["movzx bx, byte ptr [" SI "]"]),
            $m!(ALL "movzx r32, m8": ["movzx ebx, byte ptr [" SI "]"]),
            $m!(ALL "movzx r32, m16": ["movzx ebx, word ptr [" SI "]"]),
            $m!(ALL "movsx r16, m8": ["movsx bx, byte ptr [" SI "]"]),
            $m!(ALL "movsx r32, m8": ["movsx ebx, byte ptr [" SI "]"]),
            $m!(ALL "movsx r32, m16": ["movsx ebx, word ptr [" SI "]"]),
            $m!(ALL "cmovc": ["stc"], ["cmovc ebx, dword ptr [" SI "]"]),
            $m!(ALL "cmovc not taken": ["clc"], ["cmovc ebx, dword ptr [" SI "]"]),
            $m!(ALL "movnti": ["movnti dword ptr [" SI "], ebx"]),
        ]
    };
}

/// Exchanges.
macro_rules! exchanges {
    ($m:ident) => {
        vec![
            $m!(ALL "xchg m8": ["xchg byte ptr [" SI "], bl"]),
            $m!(ARITH "xadd m8": ["xadd byte ptr [" SI "], bl"]),
            $m!(ARITH "lock xadd m8": ["lock xadd byte ptr [" SI "], bl"]),
            $m!(ARITH "cmpxchg m8 other": ["cmpxchg byte ptr [" SI "], bl"]),
            $m!(ARITH "cmpxchg m8 equal":
                ["mov al, byte ptr [" SI "]"], ["cmpxchg byte ptr [" SI "], bl"]),
            $m!(ARITH "lock cmpxchg m8":
                ["mov al, byte ptr [" SI "]"], ["lock cmpxchg byte ptr [" SI "], bl"]),
            $m!(ALL "xchg m16": ["xchg word ptr [" SI "], bx"]),
            $m!(ARITH "xadd m16": ["xadd word ptr [" SI "], bx"]),
            $m!(ARITH "lock xadd m16": ["lock xadd word ptr [" SI "], bx"]),
            $m!(ARITH "cmpxchg m16 other": ["cmpxchg word ptr [" SI "], bx"]),
            $m!(ARITH "cmpxchg m16 equal":
                ["mov ax, word ptr [" SI "]"], ["cmpxchg word ptr [" SI "], bx"]),
            $m!(ARITH "lock cmpxchg m16":
                ["mov ax, word ptr [" SI "]"], ["lock cmpxchg word ptr [" SI "], bx"]),
            $m!(ALL "xchg m32": ["xchg dword ptr [" SI "], ebx"]),
            $m!(ARITH "xadd m32": ["xadd dword ptr [" SI "], ebx"]),
            $m!(ARITH "lock xadd m32": ["lock xadd dword ptr [" SI "], ebx"]),
            $m!(ARITH "cmpxchg m32 other": ["cmpxchg dword ptr [" SI "], ebx"]),
            $m!(ARITH "cmpxchg m32 equal":
                ["mov eax, dword ptr [" SI "]"], ["cmpxchg dword ptr [" SI "], ebx"]),
            $m!(ARITH "lock cmpxchg m32":
                ["mov eax, dword ptr [" SI "]"], ["lock cmpxchg dword ptr [" SI "], ebx"]),
            $m!(ZERO "cmpxchg8b other": ["cmpxchg8b qword ptr [" SI "]"]),
            $m!(ZERO "cmpxchg8b equal":
                ["mov eax, dword ptr [" SI "]"], ["mov edx, dword ptr [" SI " + 4]"], ["cmpxchg8b qword ptr [" SI "]"]),
        ]
    };
}

/// String instructions with and without REP.
macro_rules! strings {
    ($m:ident) => {
        vec![
            $m!(ALL "stosb": ["stosb"]),
            $m!(ALL "rep stosb": ["mov " CX ", 9"], ["rep stosb"]),
            $m!(ALL "lodsb": ["lodsb"]),
            $m!(ALL "movsb": ["movsb"]),
            $m!(ALL "rep movsb": ["mov " CX ", 11"], ["rep movsb"]),
            $m!(ALL "rep movsb backwards":
                ["std"], ["mov " CX ", 3"], ["add " SI ", 32"], ["add " DI ", 32"], ["rep movsb"], ["cld"]),
            $m!(ARITH "cmpsb": ["cmpsb"]),
            $m!(ARITH "scasb": ["scasb"]),
            $m!(ARITH "repne scasb": ["mov " CX ", 20"], ["xor eax, eax"], ["repne scasb"]),
            $m!(ARITH "repe cmpsb": ["mov " CX ", 20"], ["mov " DI ", " SI], ["repe cmpsb"]),
            $m!(ALL "stosw": ["stosw"]),
            $m!(ALL "rep stosw": ["mov " CX ", 9"], ["rep stosw"]),
            $m!(ALL "lodsw": ["lodsw"]),
            $m!(ALL "movsw": ["movsw"]),
            $m!(ALL "rep movsw": ["mov " CX ", 11"], ["rep movsw"]),
            $m!(ALL "rep movsw backwards":
                ["std"], ["mov " CX ", 3"], ["add " SI ", 32"], ["add " DI ", 32"], ["rep movsw"], ["cld"]),
            $m!(ARITH "cmpsw": ["cmpsw"]),
            $m!(ARITH "scasw": ["scasw"]),
            $m!(ARITH "repne scasw": ["mov " CX ", 20"], ["xor eax, eax"], ["repne scasw"]),
            $m!(ARITH "repe cmpsw": ["mov " CX ", 20"], ["mov " DI ", " SI], ["repe cmpsw"]),
            $m!(ALL "stosd": ["stosd"]),
            $m!(ALL "rep stosd": ["mov " CX ", 9"], ["rep stosd"]),
            $m!(ALL "lodsd": ["lodsd"]),
            $m!(ALL "movsd": ["movsd"]),
            $m!(ALL "rep movsd": ["mov " CX ", 11"], ["rep movsd"]),
            $m!(ALL "rep movsd backwards":
                ["std"], ["mov " CX ", 3"], ["add " SI ", 32"], ["add " DI ", 32"], ["rep movsd"], ["cld"]),
            $m!(ARITH "cmpsd": ["cmpsd"]),
            $m!(ARITH "scasd": ["scasd"]),
            $m!(ARITH "repne scasd": ["mov " CX ", 20"], ["xor eax, eax"], ["repne scasd"]),
            $m!(ARITH "repe cmpsd": ["mov " CX ", 20"], ["mov " DI ", " SI], ["repe cmpsd"]),
            $m!(ALL "rep stos nothing": ["xor " CX ", " CX], ["rep stosb"]),
        ]
    };
}

/// The stack, multiplication, division, conditions.
macro_rules! others {
    ($m:ident) => {
        vec![
            $m!(ALL "push m": ["push " PTR " [" SI "]"], ["pop " BX]),
            $m!(ALL "pop m": ["push " BX], ["pop " PTR " [" SI "]"]),
            $m!(ALL "setc": ["stc"], ["setc byte ptr [" SI "]"]),
            $m!(ALL "setz": ["setz byte ptr [" SI "]"]),
            $m!(CARRY_OVERFLOW "mul m8": ["mul byte ptr [" SI "]"]),
            $m!(CARRY_OVERFLOW "mul m16": ["mul word ptr [" SI "]"]),
            $m!(CARRY_OVERFLOW "mul m32": ["mul dword ptr [" SI "]"]),
            $m!(CARRY_OVERFLOW "imul m32": ["imul dword ptr [" SI "]"]),
            $m!(CARRY_OVERFLOW "imul r, m32": ["imul ebx, dword ptr [" SI "]"]),
            $m!(CARRY_OVERFLOW "imul r, m32, imm": ["imul ebx, dword ptr [" SI "], 77"]),
            $m!(CARRY_OVERFLOW "imul r, m16, imm8": ["imul bx, word ptr [" SI "], -5"]),
            $m!(NONE "div m32": ["xor edx, edx"], ["div dword ptr [" SI "]"]),
            $m!(NONE "div m8": ["mov ax, 0x0123"], ["div byte ptr [" SI "]"]),
            $m!(NONE "idiv m16": ["xor dx, dx"], ["mov ax, 0x7000"], ["idiv word ptr [" SI "]"]),
            $m!(ALL "jump over it":
                ["test byte ptr [" SI "], 0x80"], ["jz 2f"], ["inc ebx"], ["2:"]),
        ]
    };
}

//! A matrix unit for tests, on CPUs with AVX-512 and bf16 that have none. The CPU refuses each
//! instruction of the unit, the system says so with a signal, and what handles it does what the
//! instruction would have done. Kernels run as they are, a thousand times slower; their loads and
//! stores go where the unit's would.
//!
//! Source of forms and meaning: Intel 64 and IA-32 Architectures Software Developer's Manual,
//! volume 2, instructions `LDTILECFG`, `TILELOADD`, `TILESTORED`, `TILEZERO`, `TILERELEASE` and
//! `TDPBF16PS`.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

/// Bytes of an instruction that are looked at. The longest form here, with an offset of four bytes,
/// has ten.
const BYTES: usize = 10;
const ROWS: usize = 16;
const ROW: usize = 64;

/// A register: rows of bytes.
type Register = [[u8; ROW]; ROWS];

/// The unit of a thread.
struct Unit {
    /// Rows and bytes of a row of each register; none before it is configured.
    shapes: Option<[(usize, usize); 8]>,
    registers: [Register; 8],
}

thread_local! {
    // No destructor, so a handler of signals may use it.
    static UNIT: RefCell<Unit> = const { RefCell::new(Unit { shapes: None, registers: [[[0; ROW]; ROWS]; 8] }) };
}

/// Whether instructions of the unit do something here from now on.
pub(super) fn is_installed() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        if !is_x86_feature_detected!("avx512f") || !is_x86_feature_detected!("avx512bf16") {
            return false;
        }
        // SAFETY: the handler has the signature that the flags ask for, and touches nothing but the
        // registers and the memory that the instruction names, and its thread's unit.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = refused as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()) == 0
        }
    })
}

/// Does what the refused instruction would have done and goes on behind it; ends the process as
/// before if it is not the unit's.
extern "C" fn refused(signal: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system gives what it saved of the thread, and takes it back from there.
    let saved = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let instruction = saved[libc::REG_RIP as usize] as *const u8;
    // SAFETY: code, which the CPU was about to run; functions are followed by others.
    let bytes = unsafe { instruction.cast::<[u8; BYTES]>().read_unaligned() };
    let length = Instruction::read(&bytes, saved).and_then(|(instruction, length)| {
        UNIT.with(|unit| instruction.run(&mut *unit.try_borrow_mut().ok()?))?;
        Some(length)
    });
    match length {
        Some(length) => saved[libc::REG_RIP as usize] += length as i64,
        // SAFETY: it runs again, and is refused again, with nobody to handle it.
        None => unsafe { _ = libc::signal(signal, libc::SIG_DFL) },
    }
}

/// An instruction of the unit, with addresses in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instruction {
    Configure { from: usize },
    Release,
    Zero { to: usize },
    Load { to: usize, from: usize, stride: isize },
    Store { from: usize, to: usize, stride: isize },
    AddProducts { to: usize, a: usize, b: usize },
}

impl Instruction {
    /// The instruction and its bytes; `None` if it is another.
    fn read(bytes: &[u8; BYTES], registers: &[i64]) -> Option<(Self, usize)> {
        let &[0xc4, high, prefix, operation, form, ..] = bytes else { return None };
        // The second of three maps, 128 bits, not wide.
        if high & 0x1f != 2 || prefix & 0x84 != 0 {
            return None;
        }
        let (reg, rm) = (usize::from(form >> 3 & 7), usize::from(form & 7));
        let in_registers = form >> 6 == 3;
        let none = prefix >> 3 & 15 == 15;
        Some(match (operation, prefix & 3, in_registers) {
            (0x49, 0, true) if none && form == 0xc0 => (Self::Release, 5),
            (0x49, 3, true) if none && rm == 0 => (Self::Zero { to: reg }, 5),
            (0x49, 0, false) if none && reg == 0 => {
                let (from, _, length) = address(bytes, registers)?;
                (Self::Configure { from }, length)
            }
            (0x4b, 3, false) if none && rm == 4 => {
                let (from, stride, length) = address(bytes, registers)?;
                (Self::Load { to: reg, from, stride }, length)
            }
            (0x4b, 2, false) if none && rm == 4 => {
                let (to, stride, length) = address(bytes, registers)?;
                (Self::Store { from: reg, to, stride }, length)
            }
            (0x5c, 2, true) => {
                let b = usize::from(!prefix >> 3 & 15);
                (Self::AddProducts { to: reg, a: rm, b: (b < 8).then_some(b)? }, 5)
            }
            _ => return None,
        })
    }

    /// Does it; `None` if the unit would refuse.
    fn run(self, unit: &mut Unit) -> Option<()> {
        match self {
            Self::Configure { from } => {
                // SAFETY: the instruction reads as much from there.
                let bytes = unsafe { &*(from as *const [u8; 64]) };
                // A palette of eight, from the first row.
                if bytes[..2] != [1, 0] {
                    return None;
                }
                let shape = |register: usize| {
                    let of_row = [bytes[16 + 2 * register], bytes[17 + 2 * register]];
                    let shape = (
                        usize::from(bytes[48 + register]),
                        usize::from(u16::from_le_bytes(of_row)),
                    );
                    (shape.0 <= ROWS && shape.1 <= ROW).then_some(shape)
                };
                let mut shapes = [(0, 0); 8];
                for (register, to) in shapes.iter_mut().enumerate() {
                    *to = shape(register)?;
                }
                *unit = Unit { shapes: Some(shapes), registers: [[[0; ROW]; ROWS]; 8] };
            }
            Self::Release => unit.shapes = None,
            Self::Zero { to } => {
                unit.shapes?;
                unit.registers[to] = [[0; ROW]; ROWS];
            }
            Self::Load { to, from, stride } => {
                let (rows, bytes) = unit.shapes?[to];
                let register = &mut unit.registers[to];
                *register = [[0; ROW]; ROWS];
                for (row, to) in register.iter_mut().take(rows).enumerate() {
                    let from = from.wrapping_add_signed(row as isize * stride) as *const u8;
                    // SAFETY: the instruction reads as much from there, of a register's row.
                    unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr(), bytes) };
                }
            }
            Self::Store { from, to, stride } => {
                let (rows, bytes) = unit.shapes?[from];
                for (row, from) in unit.registers[from].iter().take(rows).enumerate() {
                    let to = to.wrapping_add_signed(row as isize * stride) as *mut u8;
                    // SAFETY: the instruction writes as much there, from a register's row.
                    unsafe { to.copy_from_nonoverlapping(from.as_ptr(), bytes) };
                }
            }
            Self::AddProducts { to, a, b } => {
                let shapes = unit.shapes?;
                let ((rows, across), (of_a, depth), (of_b, of_row)) =
                    (shapes[to], shapes[a], shapes[b]);
                let fits = rows == of_a && depth == 4 * of_b && across == of_row;
                if !fits || to == a || to == b || a == b {
                    return None;
                }
                let (a, b) = (unit.registers[a], unit.registers[b]);
                // SAFETY: asked for when this was installed.
                unsafe { add_products(&mut unit.registers[to], &a, &b, rows, of_b) };
            }
        }
        Some(())
    }
}

/// The address of an operand in memory, what an index adds to it for each row, and the bytes of the
/// whole instruction.
fn address(bytes: &[u8; BYTES], registers: &[i64]) -> Option<(usize, isize, usize)> {
    /// In the order of their numbers in instructions.
    const NAMES: [c_int; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];
    let register = |number: u8| registers[NAMES[usize::from(number)] as usize] as isize;
    let (high, form) = (bytes[1], bytes[4]);
    // The fourth bit of an index and of a base are kept upside down.
    let (index_bit, base_bit) = ((!high >> 6 & 1) << 3, (!high >> 5 & 1) << 3);
    let (mode, rm) = (form >> 6, form & 7);
    let (base, stride, at) = if rm == 4 {
        let more = bytes[5];
        let index = more >> 3 & 7 | index_bit;
        let stride = if index == 4 { 0 } else { register(index) << (more >> 6) };
        (more & 7 | base_bit, stride, 6)
    } else {
        (rm | base_bit, 0, 5)
    };
    if mode == 0 && base & 7 == 5 {
        return None; // Relative to the instruction, or to nothing: not what kernels use.
    }
    let (offset, length) = match mode {
        0 => (0, at),
        1 => (bytes[at].cast_signed() as isize, at + 1),
        _ => (i32::from_le_bytes(bytes[at..at + 4].try_into().ok()?) as isize, at + 4),
    };
    Some(((register(base) + offset) as usize, stride, length))
}

/// `to += a · b`: rows of pairs of bf16 with pairs of rows. Both numbers of pairs have a sum of
/// their own over the columns, as in the unit; numbers that are too small to be normal are zero,
/// which sums of ordinary numbers do not show.
#[target_feature(enable = "avx512f")]
fn add_products(to: &mut Register, a: &Register, b: &Register, rows: usize, depth: usize) {
    let wide =
        |bytes: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16);
    // Rows of `b` apart: the first of the pairs, and the second.
    let mut of_b = [[[0f32; ROWS]; 2]; ROWS];
    for (to, row) in of_b.iter_mut().zip(b) {
        for (column, pair) in row.chunks_exact(4).enumerate() {
            (to[0][column], to[1][column]) = (wide(pair), wide(&pair[2..]));
        }
    }
    for (to, a) in to.iter_mut().zip(a).take(rows) {
        let mut sums = [[0f32; ROWS]; 2];
        for (pair, b) in a.chunks_exact(4).zip(&of_b).take(depth) {
            for (half, a) in [wide(pair), wide(&pair[2..])].into_iter().enumerate() {
                for column in 0..ROWS {
                    sums[half][column] = a.mul_add(b[half][column], sums[half][column]);
                }
            }
        }
        for (column, to) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let sum = f32::from_le_bytes(*to) + (sums[0][column] + sums[1][column]);
            *to = sum.to_le_bytes();
        }
    }
}

#[test]
fn instructions_are_read_as_an_assembler_writes_them() {
    let mut registers = [0i64; 32];
    registers[libc::REG_RAX as usize] = 4096;
    registers[libc::REG_R9 as usize] = 8192;
    registers[libc::REG_RBX as usize] = 64;
    registers[libc::REG_R14 as usize] = 128;
    // What `objdump -d` shows beside the bytes.
    let cases: [(&[u8], _, usize); 9] = [
        (&[0xc4, 0xe2, 0x78, 0x49, 0x00], Instruction::Configure { from: 4096 }, 5),
        (&[0xc4, 0xe2, 0x78, 0x49, 0xc0], Instruction::Release, 5),
        (&[0xc4, 0xe2, 0x7b, 0x49, 0xd8], Instruction::Zero { to: 3 }, 5),
        // tileloadd tmm4, [rax + rbx]
        (
            &[0xc4, 0xe2, 0x7b, 0x4b, 0x24, 0x18],
            Instruction::Load { to: 4, from: 4096, stride: 64 },
            6,
        ),
        // tileloadd tmm6, [r9 + r14]
        (
            &[0xc4, 0x82, 0x7b, 0x4b, 0x34, 0x31],
            Instruction::Load { to: 6, from: 8192, stride: 128 },
            6,
        ),
        // tilestored [rax + rbx + 0x400], tmm2
        (
            &[0xc4, 0xe2, 0x7a, 0x4b, 0x94, 0x18, 0x00, 0x04, 0x00, 0x00],
            Instruction::Store { from: 2, to: 5120, stride: 64 },
            10,
        ),
        // tilestored [r9 + r14 - 0x40], tmm1
        (
            &[0xc4, 0x82, 0x7a, 0x4b, 0x4c, 0x31, 0xc0],
            Instruction::Store { from: 1, to: 8128, stride: 128 },
            7,
        ),
        // tdpbf16ps tmm0, tmm4, tmm6
        (&[0xc4, 0xe2, 0x4a, 0x5c, 0xc4], Instruction::AddProducts { to: 0, a: 4, b: 6 }, 5),
        // tdpbf16ps tmm3, tmm5, tmm7
        (&[0xc4, 0xe2, 0x42, 0x5c, 0xdd], Instruction::AddProducts { to: 3, a: 5, b: 7 }, 5),
    ];
    for (bytes, expected, length) in cases {
        let mut code = [0x90; BYTES];
        code[..bytes.len()].copy_from_slice(bytes);
        assert_eq!(Instruction::read(&code, &registers), Some((expected, length)), "{bytes:x?}");
    }
    // ud2, with which programs end themselves.
    assert_eq!(Instruction::read(&[0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0], &registers), None);
}

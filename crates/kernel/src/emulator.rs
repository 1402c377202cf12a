//! AMX emulator for tests, on CPUs with AVX-512 and AVX512-BF16 but without AMX. The CPU raises an
//! invalid-opcode exception (SIGILL) for each AMX instruction, and the signal handler decodes and
//! executes it. Kernels run unchanged, a thousand times slower; their loads and stores go to the
//! addresses of the real instructions.
//!
//! Source of encodings and semantics: Intel 64 and IA-32 Architectures Software Developer's Manual,
//! volume 2, instructions `LDTILECFG`, `TILELOADD`, `TILESTORED`, `TILEZERO`, `TILERELEASE` and
//! `TDPBF16PS`.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

/// Length of the longest instruction that is decoded: one with a displacement of four bytes.
const BYTES: usize = 10;
const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// A tile register: rows of bytes.
type Register = [[u8; ROW_BYTES]; ROWS];

/// The AMX state of a thread: its registers, once they are configured.
type AmxState = Option<[Register; 8]>;

thread_local! {
    // Has no destructor, so a signal handler may access it.
    static AMX_STATE: RefCell<AmxState> = const { RefCell::new(None) };
}

/// Installs the signal handler; returns whether AMX instructions work from now on.
pub(super) fn install() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        if !is_x86_feature_detected!("avx512f") || !is_x86_feature_detected!("avx512bf16") {
            return false;
        }
        // SAFETY: the handler has the signature that the flags ask for, and touches only the memory
        // and registers that the instruction names and the AMX state of its thread.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigill as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()) == 0
        }
    })
}

/// Executes the AMX instruction and continues behind it. For any other instruction it restores the
/// default action, which ends the process.
extern "C" fn on_sigill(signal: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes the saved registers of the thread and restores them from here.
    let saved = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let instruction = saved[libc::REG_RIP as usize] as *const u8;
    // SAFETY: readable code at the instruction pointer; more functions follow it.
    let bytes = unsafe { instruction.cast::<[u8; BYTES]>().read_unaligned() };
    let length = Instruction::decode(&bytes, saved).and_then(|(instruction, length)| {
        AMX_STATE.with(|state| instruction.execute(&mut *state.try_borrow_mut().ok()?))?;
        Some(length)
    });
    match length {
        Some(length) => saved[libc::REG_RIP as usize] += length as i64,
        // SAFETY: restores the default action; the instruction faults again and ends the process.
        None => unsafe { _ = libc::signal(signal, libc::SIG_DFL) },
    }
}

/// A decoded AMX instruction with its effective addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instruction {
    Configure { from: usize },
    Release,
    Zero { to: usize },
    Load { to: usize, from: usize, stride: isize },
    Store { from: usize, to: usize, stride: isize },
    DotProduct { to: usize, a: usize, b: usize },
}

impl Instruction {
    /// The instruction and its length; `None` if it is not one of AMX.
    fn decode(bytes: &[u8; BYTES], registers: &[i64]) -> Option<(Self, usize)> {
        let &[0xc4, high, prefix, opcode, modrm, ..] = bytes else { return None };
        // VEX: opcode map 2, L = 0, W = 0.
        if high & 0x1f != 2 || prefix & 0x84 != 0 {
            return None;
        }
        let (reg, rm) = (usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
        let in_registers = modrm >> 6 == 3;
        let no_vvvv = prefix >> 3 & 15 == 15;
        Some(match (opcode, prefix & 3, in_registers) {
            (0x49, 0, true) if no_vvvv && modrm == 0xc0 => (Self::Release, 5),
            (0x49, 3, true) if no_vvvv && rm == 0 => (Self::Zero { to: reg }, 5),
            (0x49, 0, false) if no_vvvv && reg == 0 => {
                let (from, _, length) = address(bytes, registers)?;
                (Self::Configure { from }, length)
            }
            (0x4b, 3, false) if no_vvvv && rm == 4 => {
                let (from, stride, length) = address(bytes, registers)?;
                (Self::Load { to: reg, from, stride }, length)
            }
            (0x4b, 2, false) if no_vvvv && rm == 4 => {
                let (to, stride, length) = address(bytes, registers)?;
                (Self::Store { from: reg, to, stride }, length)
            }
            (0x5c, 2, true) => {
                let b = usize::from(!prefix >> 3 & 15);
                (Self::DotProduct { to: reg, a: rm, b: (b < 8).then_some(b)? }, 5)
            }
            _ => return None,
        })
    }

    /// Executes it; `None` where the CPU would raise an exception.
    fn execute(self, state: &mut AmxState) -> Option<()> {
        match self {
            Self::Configure { from } => {
                // SAFETY: the instruction reads 64 bytes at this address.
                let bytes = unsafe { &*(from as *const [u8; 64]) };
                // Palette 1, start row 0, and whole registers: kernels configure no others.
                let rows = bytes[16..32].as_chunks::<2>().0;
                let whole = rows[..8].iter().all(|bytes| *bytes == [ROW_BYTES as u8, 0])
                    && bytes[48..56] == [ROWS as u8; 8];
                *state = (bytes[..2] == [1, 0] && whole).then_some([[[0; ROW_BYTES]; ROWS]; 8]);
                state.as_ref()?;
            }
            Self::Release => *state = None,
            Self::Zero { to } => state.as_mut()?[to] = [[0; ROW_BYTES]; ROWS],
            Self::Load { to, from, stride } => {
                for (row, to) in state.as_mut()?[to].iter_mut().enumerate() {
                    let from = from.wrapping_add_signed(row as isize * stride) as *const u8;
                    // SAFETY: the instruction reads a row of the register at this address.
                    unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr(), ROW_BYTES) };
                }
            }
            Self::Store { from, to, stride } => {
                for (row, from) in state.as_ref()?[from].iter().enumerate() {
                    let to = to.wrapping_add_signed(row as isize * stride) as *mut u8;
                    // SAFETY: the instruction writes a row of the register at this address.
                    unsafe { to.copy_from_nonoverlapping(from.as_ptr(), ROW_BYTES) };
                }
            }
            Self::DotProduct { to, a, b } => {
                if to == a || to == b || a == b {
                    return None;
                }
                let registers = state.as_mut()?;
                let (a, b) = (registers[a], registers[b]);
                // SAFETY: `install` detected AVX-512.
                unsafe { dot_product(&mut registers[to], &a, &b) };
            }
        }
        Some(())
    }
}

/// Address of a memory operand, row stride (from the SIB index), and length of the instruction.
fn address(bytes: &[u8; BYTES], registers: &[i64]) -> Option<(usize, isize, usize)> {
    /// In the order of register numbers in encodings.
    #[rustfmt::skip]
    const NAMES: [c_int; 16] = [
        libc::REG_RAX, libc::REG_RCX, libc::REG_RDX, libc::REG_RBX,
        libc::REG_RSP, libc::REG_RBP, libc::REG_RSI, libc::REG_RDI,
        libc::REG_R8, libc::REG_R9, libc::REG_R10, libc::REG_R11,
        libc::REG_R12, libc::REG_R13, libc::REG_R14, libc::REG_R15,
    ];
    let register = |number: u8| registers[NAMES[usize::from(number)] as usize] as isize;
    let (high, modrm) = (bytes[1], bytes[4]);
    // VEX stores the fourth bits of index and base (X, B) inverted.
    let (index_bit, base_bit) = ((!high >> 6 & 1) << 3, (!high >> 5 & 1) << 3);
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let (base, stride, at) = if rm == 4 {
        let sib = bytes[5];
        let index = sib >> 3 & 7 | index_bit;
        let stride = if index == 4 { 0 } else { register(index) << (sib >> 6) };
        (sib & 7 | base_bit, stride, 6)
    } else {
        (rm | base_bit, 0, 5)
    };
    if mode == 0 && base & 7 == 5 {
        return None; // RIP-relative or without a base: kernels do not use it.
    }
    let (offset, length) = match mode {
        0 => (0, at),
        1 => (bytes[at].cast_signed() as isize, at + 1),
        _ => (i32::from_le_bytes(bytes[at..at + 4].try_into().ok()?) as isize, at + 4),
    };
    Some(((register(base) + offset) as usize, stride, length))
}

/// `to += a · b`: rows of pairs of bf16 with pairs of rows. As in AMX, the even and the odd numbers
/// of pairs have separate sums over the columns. AMX also flushes denormals to zero, which sums of
/// ordinary numbers do not show.
#[target_feature(enable = "avx512f")]
fn dot_product(to: &mut Register, a: &Register, b: &Register) {
    let widen =
        |bytes: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16);
    // Rows of `b`, split into the first and the second numbers of pairs.
    let mut split_b = [[[0f32; ROWS]; 2]; ROWS];
    for (to, row) in split_b.iter_mut().zip(b) {
        for (column, pair) in row.chunks_exact(4).enumerate() {
            (to[0][column], to[1][column]) = (widen(pair), widen(&pair[2..]));
        }
    }
    for (to, a) in to.iter_mut().zip(a) {
        let mut sums = [[0f32; ROWS]; 2];
        for (pair, b) in a.chunks_exact(4).zip(&split_b) {
            for (half, a) in [widen(pair), widen(&pair[2..])].into_iter().enumerate() {
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
fn instructions_are_decoded_as_an_assembler_encodes_them() {
    let mut registers = [0i64; 32];
    registers[libc::REG_RAX as usize] = 4096;
    registers[libc::REG_R9 as usize] = 8192;
    registers[libc::REG_RBX as usize] = 64;
    registers[libc::REG_R14 as usize] = 128;
    // As `objdump -d` disassembles the bytes.
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
        (&[0xc4, 0xe2, 0x4a, 0x5c, 0xc4], Instruction::DotProduct { to: 0, a: 4, b: 6 }, 5),
        // tdpbf16ps tmm3, tmm5, tmm7
        (&[0xc4, 0xe2, 0x42, 0x5c, 0xdd], Instruction::DotProduct { to: 3, a: 5, b: 7 }, 5),
    ];
    for (bytes, expected, length) in cases {
        let mut code = [0x90; BYTES];
        code[..bytes.len()].copy_from_slice(bytes);
        assert_eq!(Instruction::decode(&code, &registers), Some((expected, length)), "{bytes:x?}");
    }
    // ud2, which traps on purpose.
    assert_eq!(Instruction::decode(&[0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0], &registers), None);
}

#[test]
fn rows_are_loaded_and_stored_once_registers_are_configured() {
    let mut config = [0u8; 64];
    config[0] = 1;
    (0..8).for_each(|register| config[16 + 2 * register] = ROW_BYTES as u8);
    config[48..56].fill(ROWS as u8);
    let (mut state, numbers) = (None, std::array::from_fn::<u8, 2048, _>(|i| (i % 251) as u8));
    let mut stored = [0u8; 1024];
    let load = Instruction::Load { to: 5, from: numbers.as_ptr() as usize, stride: 128 };
    let to = stored.as_mut_ptr() as usize;
    let store = Instruction::Store { from: 5, to, stride: 64 };
    assert_eq!(load.execute(&mut state), None, "not configured");
    Instruction::Configure { from: config.as_ptr() as usize }.execute(&mut state).unwrap();
    load.execute(&mut state).unwrap();
    store.execute(&mut state).unwrap();
    for (row, stored) in stored.chunks(64).enumerate() {
        assert_eq!(stored, &numbers[row * 128..][..64]);
    }
    Instruction::Zero { to: 5 }.execute(&mut state).unwrap();
    store.execute(&mut state).unwrap();
    assert_eq!(stored, [0; 1024]);
    config[48] = 15;
    let configure = Instruction::Configure { from: config.as_ptr() as usize };
    assert_eq!(configure.execute(&mut state), None, "a part of a register");
}

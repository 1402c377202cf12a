//! Which instructions kernels may use. A value of [`Isa`] proves that this CPU has them, so holding
//! one makes a call of a kernel that was compiled for them sound. Only this file can make such
//! values, and it does so only of tiers that it has asked the CPU for. Tests get theirs from
//! `Isa::tested`.

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// A tier of instructions that this CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Tier);

/// From the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// What every CPU of the target has.
    Portable,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with its dot products of integers, VNNI, and of bf16 where there are.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The above, and a matrix unit for bf16, AMX.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Isa {
    /// The name of the environment variable that forces a tier.
    pub const VARIABLE: &str = "CANDLEMARK_ISA";

    const ALL: &[Tier] = &[
        Tier::Portable,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512,
        #[cfg(target_arch = "x86_64")]
        Tier::Amx,
    ];

    /// Plain Rust, compiled for the target's baseline.
    pub const PORTABLE: Self = Self(Tier::Portable);

    /// Every tier that this CPU has, from the least to the most.
    pub fn available() -> Vec<Self> {
        Self::ALL.iter().copied().filter(|tier| tier.is_here()).map(Self).collect()
    }

    /// Every tier that a test runs, from the least to the most: those of this CPU, and AMX emulated
    /// where it has none. Says on stderr, also of tests that pass, which these are and which are
    /// lacking: to be asked once a test.
    ///
    /// # Panics
    /// When a tier is lacking that `CANDLEMARK_REQUIRE_TIERS` names, `avx2,avx512` for example, or
    /// there is none of that name.
    #[cfg(test)]
    #[track_caller]
    pub(crate) fn tested() -> Vec<Self> {
        use std::io::Write as _;
        let emulated = Self::emulated();
        let tiers: Vec<Self> = Self::available().into_iter().chain(emulated).collect();
        let names: Vec<&str> = tiers.iter().map(|isa| isa.name()).collect();
        let lacking: Vec<&str> =
            Self::ALL.iter().map(|tier| tier.name()).filter(|name| !names.contains(name)).collect();
        let thread = std::thread::current();
        // The harness names threads after tests, unless there is one thread alone.
        let test = match thread.name() {
            Some(name) if name != "main" => name.to_owned(),
            _ => std::panic::Location::caller().to_string(),
        };
        // Past the harness, which keeps what passing tests print to itself.
        let _ = writeln!(
            std::io::stderr(),
            "{test}: runs {}{}{}{}",
            names.join(", "),
            if emulated.is_some() { " (emulated)" } else { "" },
            if lacking.is_empty() { "" } else { "; LACKS " },
            lacking.join(", "),
        );
        let required = std::env::var("CANDLEMARK_REQUIRE_TIERS").unwrap_or_default();
        if let Err(why) = check_required(&required, &names) {
            panic!("CANDLEMARK_REQUIRE_TIERS: {why}");
        }
        tiers
    }

    /// AMX on a CPU that has all of it but the unit, whose instructions are emulated from now on.
    /// The only way to a value of a tier that the CPU lacks.
    #[cfg(test)]
    fn emulated() -> Option<Self> {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if Self::best() == Self(Tier::Avx512) && super::emulator::is_installed() {
            return Some(Self(Tier::Amx));
        }
        None
    }

    /// The best tier of this CPU.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self::PORTABLE))
    }

    /// The tier that `CANDLEMARK_ISA` forces, or the best.
    ///
    /// # Errors
    /// When it names one that is unknown, or that this CPU lacks.
    pub fn chosen() -> Result<Self> {
        match std::env::var(Self::VARIABLE) {
            Ok(name) if !name.is_empty() => Self::named(&name),
            _ => Ok(Self::best()),
        }
    }

    /// The tier of this name.
    ///
    /// # Errors
    /// When it is unknown, or this CPU lacks it.
    pub fn named(name: &str) -> Result<Self> {
        let Some(tier) = Self::ALL.iter().find(|tier| tier.name() == name) else {
            return Err(Error::unknown(
                "instruction set",
                name,
                Self::ALL.iter().map(|tier| tier.name()),
            ));
        };
        if !tier.is_here() {
            let best = Self::best().name();
            return Err(Error::Usage(format!(
                "this CPU has no `{name}` that {} could force; its best is `{best}`",
                Self::VARIABLE
            )));
        }
        Ok(Self(*tier))
    }

    /// The tier, for calls of what was compiled for it.
    #[inline]
    pub(super) fn tier(self) -> Tier {
        self.0
    }

    /// Whether bytes are multiplied and summed in 32 bits at once.
    pub(super) fn sums_bytes(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 >= Tier::Avx512;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether bf16 is multiplied and summed in f32 at once.
    pub(super) fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 >= Tier::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether there is a matrix unit for bf16.
    pub(super) fn multiplies_matrices(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 == Tier::Amx;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// As [`Isa::named`] takes it and records state it.
    pub fn name(self) -> &'static str {
        self.0.name()
    }
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Tier::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Tier::Amx => "amx",
        }
    }

    fn is_here(self) -> bool {
        match self {
            Tier::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => {
                Tier::Avx2.is_here()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Tier::Amx => {
                static HERE: OnceLock<bool> = OnceLock::new();
                Tier::Avx512.is_here() && *HERE.get_or_init(has_matrix_unit)
            }
        }
    }
}

/// Whether the CPU multiplies matrices of bf16, the system saves their registers, and lets this
/// process use them.
#[cfg(target_arch = "x86_64")]
fn has_matrix_unit() -> bool {
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
    const SAVED: u64 = 1 << 17 | 1 << 18;
    /// What the system saves. Asked only where there is AVX-512, which implies the instruction.
    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: the CPU has the instruction, and the system lets programs use it, or AVX would
        // not have been detected.
        unsafe { std::arch::x86_64::_xgetbv(0) }
    }
    is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("xsave")
        && std::arch::x86_64::__cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES
        // SAFETY: just detected.
        && unsafe { saved() } & SAVED == SAVED
        && is_granted()
}

/// Asks Linux for the registers of the matrix unit, which it gives to none that does not ask.
/// Threads of the process have them too.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn is_granted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: the call touches no memory, and changes nothing but what the process may use.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn is_granted() -> bool {
    false
}

/// Makes of one body a function for every tier: the compiler makes vectors of the width that each
/// has. The first argument of what it makes is the [`Isa`].
macro_rules! tiered {
    ($(#[$doc:meta])* $visible:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        $visible fn $name(isa: $crate::kernel::isa::Isa, $($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn portable($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $type),*) $(-> $out)? {
                portable($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) $(-> $out)? {
                portable($($arg),*)
            }
            match isa.tier() {
                $crate::kernel::isa::Tier::Portable => portable($($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a value of `Isa` of this tier is only made on a CPU that has it.
                $crate::kernel::isa::Tier::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::kernel::isa::Tier::Avx512 | $crate::kernel::isa::Tier::Amx => unsafe {
                    avx512($($arg),*)
                },
            }
        }
    };
}
pub(super) use tiered;

/// Whether all tiers of a list such as `avx2,avx512` are among those that a test runs.
#[cfg(test)]
fn check_required(required: &str, runs: &[&str]) -> std::result::Result<(), String> {
    for name in required.split(',').filter(|name| !name.is_empty()) {
        if !Isa::ALL.iter().any(|tier| tier.name() == name) {
            return Err(format!("there is no tier `{name}`"));
        }
        if !runs.contains(&name) {
            return Err(format!("`{name}` is required and not there, only {}", runs.join(", ")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_tier_that_is_required_is_there_or_tests_fail() {
        let (two, none) = (["portable", "avx2"], Ok(()));
        assert_eq!(check_required("", &two), none);
        assert_eq!(check_required("avx2", &two), none);
        assert_eq!(check_required("portable,avx2", &two), none);
        let lacking = "`avx512` is required and not there, only portable, avx2";
        assert_eq!(check_required("avx2,avx512", &two), Err(lacking.into()));
        assert_eq!(check_required("axv2", &two), Err("there is no tier `axv2`".into()));
    }

    #[test]
    fn tiers_are_found_by_name_and_refused_by_name() {
        let here = Isa::available();
        assert_eq!(here[0], Isa::PORTABLE);
        assert_eq!(here.last(), Some(&Isa::best()));
        for isa in here {
            assert_eq!(Isa::named(isa.name()).unwrap(), isa);
        }
        let error = Isa::named("avx1024").unwrap_err().to_string();
        assert!(
            error.contains("no instruction set `avx1024`") && error.contains("portable"),
            "{error}"
        );
    }
}

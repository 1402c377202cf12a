//! Kernel tiers: CPU detection of the instructions that kernels use. A value of [`Isa`] proves that
//! this CPU has them, which makes a call of a kernel compiled for them sound. Only this file makes
//! such values, and only after detection; tests get theirs from `Isa::for_tests`.

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// A kernel tier that this CPU supports, with the plan of its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa {
    tier: Tier,
    plan: Plan,
}

/// For each architecture from the slowest to the fastest. A CPU with a tier has those before, but
/// for AVX-VNNI, which some CPUs with AVX-512 lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// The target's baseline.
    Portable,
    /// NEON, which every 64-bit Arm CPU has.
    Neon,
    /// The above with `sdot`, dot products of bytes: Apple's CPUs, Graviton from the second on.
    DotProd,
    /// The above with `smmla`, products of matrices of bytes: Apple's CPUs from M2 on, Graviton
    /// from the third on; `bfmmla`, those of bf16, where the CPU has it.
    I8mm,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// The above with AVX-VNNI: VNNI without AVX-512, on Intel's client CPUs since 2021.
    AvxVnni,
    /// AVX-512 (F, BW, DQ, VL) with VNNI; AVX512-BF16 where the CPU has it.
    Avx512,
    /// The above with AVX512-BF16, AMX-TILE and AMX-BF16.
    Amx,
}

/// Where the plan departs from the first variant of an operation; see [`super::plan`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Plan {
    /// Attention multiplies f32 instead of bf16.
    pub f32_attention: bool,
    /// BF16 weights are multiplied as 16-bit integer panels, in decode and with Arm as f32, instead
    /// of bf16.
    pub widen_bf16: bool,
    /// Prefill with 8-bit activations takes one panel at a time instead of two.
    pub one_panel: bool,
    /// Decode of few rows prefetches weights, and reads two panels of 8 bits at a time where a task
    /// has them.
    pub software_prefetch: bool,
}

impl Isa {
    /// The environment variable that forces a tier.
    pub const ENV_VARIABLE: &str = "CANDLEMARK_ISA";

    const ALL: [Tier; 8] = [
        Tier::Portable,
        Tier::Neon,
        Tier::DotProd,
        Tier::I8mm,
        Tier::Avx2,
        Tier::AvxVnni,
        Tier::Avx512,
        Tier::Amx,
    ];

    /// Plain Rust, compiled for the target's baseline.
    pub const PORTABLE: Self = Self {
        tier: Tier::Portable,
        plan: Plan {
            f32_attention: false,
            widen_bf16: false,
            one_panel: false,
            software_prefetch: false,
        },
    };

    fn of(tier: Tier) -> Self {
        Self { tier, plan: Plan::of(tier) }
    }

    /// The tiers of this CPU, from the fewest instructions to the most.
    pub fn available() -> Vec<Self> {
        Self::ALL.iter().copied().filter(|tier| tier.is_supported()).map(Self::of).collect()
    }

    /// The tiers that a test runs: those of this CPU, each with every variant of an operation, and
    /// emulated ones. Prints these and the missing ones on stderr, even for tests that pass. Call
    /// it once per test.
    ///
    /// # Panics
    /// When `CANDLEMARK_REQUIRE_TIERS` (for example `avx2,avx512`) names a missing or unknown tier.
    /// Emulated AMX counts, since it needs a CPU with the rest of the tier; emulated AVX-VNNI does
    /// not, since every CPU with AVX2 runs it.
    #[cfg(any(test, feature = "emulator"))]
    #[track_caller]
    pub fn for_tests() -> Vec<Self> {
        use std::io::Write as _;
        let emulated = Self::emulated();
        let mut tiers = Self::available();
        tiers.extend(&emulated);
        tiers.sort_unstable();
        let names: Vec<String> = tiers
            .iter()
            .map(|isa| {
                let emulated = if emulated.contains(isa) { " (emulated)" } else { "" };
                format!("{}{emulated}", isa.name())
            })
            .collect();
        let missing: Vec<&str> = Self::ALL
            .iter()
            .filter(|tier| !tiers.iter().any(|isa| isa.tier == **tier))
            .map(|tier| tier.name())
            .collect();
        let thread = std::thread::current();
        // The harness names a thread after its test, unless tests run in one thread.
        let test = match thread.name() {
            Some(name) if name != "main" => name.to_owned(),
            _ => std::panic::Location::caller().to_string(),
        };
        // Bypasses the harness, which hides the output of tests that pass.
        let _ = writeln!(
            std::io::stderr(),
            "{test}: runs {}{}{}",
            names.join(", "),
            if missing.is_empty() { "" } else { "; MISSING " },
            missing.join(", "),
        );
        let required = std::env::var("CANDLEMARK_REQUIRE_TIERS").unwrap_or_default();
        let counted: Vec<&str> = tiers
            .iter()
            .filter(|isa| isa.tier != Tier::AvxVnni || !emulated.contains(isa))
            .map(|isa| isa.name())
            .collect();
        if let Err(why) = check_required(&required, &counted) {
            panic!("CANDLEMARK_REQUIRE_TIERS: {why}");
        }
        let variants = |isa: Isa| {
            isa.variants().flat_map(move |(operation, variants)| {
                variants.map(|variant| isa.with_variant(operation, variant).expect("just listed"))
            })
        };
        tiers.extend(Self::available().into_iter().flat_map(variants));
        tiers.sort_unstable();
        tiers.dedup();
        tiers
    }

    /// The tiers of which the CPU has all but the instructions that are emulated: AVX-VNNI, whose
    /// kernels take them from [`super::avxvnni::model`] instead, and AMX, whose emulator this
    /// installs. The only way to a value of a tier that the CPU does not support.
    #[cfg(any(test, feature = "emulator"))]
    fn emulated() -> Vec<Self> {
        let mut tiers = Vec::new();
        if Tier::Avx2.is_supported() && !Tier::AvxVnni.is_supported() {
            tiers.push(Self::of(Tier::AvxVnni));
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if Self::best().tier == Tier::Avx512 && super::emulator::install() {
            tiers.push(Self::of(Tier::Amx));
        }
        tiers
    }

    /// The best tier of this CPU.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self::PORTABLE))
    }

    /// The tier that `CANDLEMARK_ISA` forces, or the best.
    ///
    /// # Errors
    /// When the variable names a tier that is unknown or not supported by this CPU.
    pub fn from_env() -> Result<Self> {
        match std::env::var(Self::ENV_VARIABLE) {
            Ok(name) if !name.is_empty() => Self::from_name(&name),
            _ => Ok(Self::best()),
        }
    }

    /// The tier of this name.
    ///
    /// # Errors
    /// When it is unknown or not supported by this CPU.
    pub fn from_name(name: &str) -> Result<Self> {
        let Some(tier) = Self::ALL.iter().find(|tier| tier.name() == name) else {
            let known = Self::ALL.iter().map(|tier| tier.name()).collect();
            return Err(Error::UnknownIsa { name: name.into(), known });
        };
        if !tier.is_supported() {
            let best = Self::best().name();
            let variable = Self::ENV_VARIABLE;
            return Err(Error::UnsupportedIsa { variable, name: name.into(), best });
        }
        Ok(Self::of(*tier))
    }

    #[inline]
    pub(super) fn tier(self) -> Tier {
        self.tier
    }

    /// Where its plan departs from the first variants.
    #[inline]
    pub(super) fn choices(self) -> Plan {
        self.plan
    }

    pub(super) fn with_choices(self, plan: Plan) -> Self {
        Self { plan, ..self }
    }

    /// `vpdpbusd` (VNNI), dot products of bytes summed in 32 bits.
    pub(super) fn has_vnni(self) -> bool {
        self.tier >= Tier::AvxVnni
    }

    /// A tier of Arm. There, products of 16-bit integers (`smlal`) are no faster than `fmla`, and
    /// of bytes no slower.
    pub(super) fn is_arm(self) -> bool {
        matches!(self.tier, Tier::Neon | Tier::DotProd | Tier::I8mm)
    }

    /// Products of bf16 summed in f32.
    pub(super) fn has_bf16(self) -> bool {
        self.has_avx512bf16() || self.has_bfmmla()
    }

    /// `vdpbf16ps`, dot products of two bf16.
    pub(super) fn has_avx512bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.tier >= Tier::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// `bfmmla`, products of matrices of bf16.
    pub(super) fn has_bfmmla(self) -> bool {
        #[cfg(target_arch = "aarch64")]
        return self.tier == Tier::I8mm && std::arch::is_aarch64_feature_detected!("bf16");
        #[cfg(not(target_arch = "aarch64"))]
        false
    }

    /// AMX: `tdpbf16ps` on tile registers.
    pub(super) fn has_amx(self) -> bool {
        self.tier == Tier::Amx
    }

    /// The name, for [`Isa::from_name`] and in records.
    pub fn name(self) -> &'static str {
        self.tier.name()
    }
}

impl Plan {
    /// The plan of a tier on this CPU. Intel's CPUs up to Emerald Rapids issue `vdpbf16ps` at half
    /// the rate of f32 multiply-adds (measured: 175 and 358 GFLOP/s of two threads), AMD's since
    /// Zen 4 at twice that rate (471 and 236). AMX multiplies bf16 on its own. Arm's `bfmmla` was
    /// measured at 3.4 and 3.9 times f32 on Cortex-X2 and A710, and 1.1 times on A510
    /// (iree-org/iree, pull request 14495). Software prefetch of two panels read 28 to 32 GB/s of
    /// Q8_0 and Q4_K on a Granite Rapids, its hardware prefetcher 18 to 24; Zen 4 is faster
    /// without.
    pub(super) fn of(tier: Tier) -> Self {
        let slow_bf16 = tier == Tier::Avx512 && !is_amd();
        Self {
            f32_attention: slow_bf16,
            widen_bf16: slow_bf16,
            one_panel: false,
            software_prefetch: matches!(tier, Tier::Avx512 | Tier::Amx) && !is_amd(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_amd() -> bool {
    false
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Tier::Portable => "portable",
            Tier::Neon => "neon",
            Tier::DotProd => "dotprod",
            Tier::I8mm => "i8mm",
            Tier::Avx2 => "avx2",
            Tier::AvxVnni => "avxvnni",
            Tier::Avx512 => "avx512",
            Tier::Amx => "amx",
        }
    }

    fn is_supported(self) -> bool {
        match self {
            Tier::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Tier::DotProd => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Tier::I8mm => {
                Tier::DotProd.is_supported() && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            #[cfg(not(target_arch = "aarch64"))]
            Tier::Neon | Tier::DotProd | Tier::I8mm => false,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Tier::AvxVnni => Tier::Avx2.is_supported() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => {
                Tier::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Tier::Amx => {
                static AMX: OnceLock<bool> = OnceLock::new();
                Tier::Avx512.is_supported() && *AMX.get_or_init(detect_amx)
            }
            #[cfg(not(target_arch = "x86_64"))]
            Tier::Avx2 | Tier::AvxVnni | Tier::Avx512 | Tier::Amx => false,
        }
    }
}

/// Whether the CPU has AMX-TILE and AMX-BF16, and the operating system saves the tile registers
/// (XCR0) and permits this process to use them.
#[cfg(target_arch = "x86_64")]
fn detect_amx() -> bool {
    const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    const XTILE_CFG_AND_DATA: u64 = 1 << 17 | 1 << 18;
    /// The register states that the system saves.
    #[target_feature(enable = "xsave")]
    fn xcr0() -> u64 {
        // SAFETY: the CPU has XSAVE, and the system has enabled it, or AVX would not have been
        // detected.
        unsafe { std::arch::x86_64::_xgetbv(0) }
    }
    is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("xsave")
        && std::arch::x86_64::__cpuid_count(7, 0).edx & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE
        // SAFETY: just detected.
        && unsafe { xcr0() } & XTILE_CFG_AND_DATA == XTILE_CFG_AND_DATA
        && request_amx()
}

/// Requests permission for the tile registers, which Linux grants a process only on request; it
/// holds for all its threads.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_amx() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: the system call touches no memory and changes only a permission of this process.
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
fn request_amx() -> bool {
    false
}

/// Function multiversioning: compiles one body for every tier, so that the compiler vectorizes it
/// with the registers of each. The function takes an [`Isa`] as first argument and dispatches on
/// it.
macro_rules! multiversion {
    (
        $(#[$doc:meta])*
        $visible:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block
    ) => {
        $(#[$doc])*
        $visible fn $name(isa: $crate::isa::Isa, $($arg: $type),*) $(-> $out)? {
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
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a value of `Isa` of this tier is only made on a CPU that has it.
                $crate::isa::Tier::Avx2 | $crate::isa::Tier::AvxVnni => unsafe {
                    avx2($($arg),*)
                },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::isa::Tier::Avx512 | $crate::isa::Tier::Amx => unsafe {
                    avx512($($arg),*)
                },
                _ => portable($($arg),*),
            }
        }
    };
}
pub(super) use multiversion;

/// Checks that all tiers of a list such as `avx2,avx512` are among those that a test runs.
#[cfg(any(test, feature = "emulator"))]
fn check_required(required: &str, runs: &[&str]) -> std::result::Result<(), String> {
    for name in required.split(',').filter(|name| !name.is_empty()) {
        if !Isa::ALL.iter().any(|tier| tier.name() == name) {
            return Err(format!("there is no tier `{name}`"));
        }
        if !runs.contains(&name) {
            return Err(format!(
                "`{name}` is required but missing; this test runs {}",
                runs.join(", ")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_required_tier_fails_tests() {
        let (two, none) = (["portable", "avx2"], Ok(()));
        assert_eq!(check_required("", &two), none);
        assert_eq!(check_required("avx2", &two), none);
        assert_eq!(check_required("portable,avx2", &two), none);
        let missing = "`avx512` is required but missing; this test runs portable, avx2";
        assert_eq!(check_required("avx2,avx512", &two), Err(missing.into()));
        assert_eq!(check_required("axv2", &two), Err("there is no tier `axv2`".into()));
    }

    #[test]
    fn tiers_are_found_by_name() {
        let here = Isa::available();
        assert_eq!(here[0], Isa::PORTABLE);
        assert_eq!(here.last(), Some(&Isa::best()));
        for &isa in &here {
            assert_eq!(Isa::from_name(isa.name()).unwrap(), isa);
        }
        for tier in Isa::ALL.iter().filter(|tier| !here.iter().any(|isa| isa.tier == **tier)) {
            let error = Isa::from_name(tier.name()).unwrap_err().to_string();
            assert!(error.contains("which this CPU does not support"), "{error}");
        }
        let error = Isa::from_name("avx1024").unwrap_err().to_string();
        assert!(
            error.contains("no instruction set `avx1024`") && error.contains("portable"),
            "{error}"
        );
    }
}

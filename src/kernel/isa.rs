//! Which instructions kernels may use. A value of [`Isa`] proves that this CPU has them, so holding one makes a call of a kernel
//! that was compiled for them sound.

use std::sync::OnceLock;

use crate::error::Error;
use crate::error::Result;

/// A tier of instructions that this CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(pub(super) Tier);

/// From the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// What every CPU of the target has.
    Portable,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Isa {
    /// The name of the environment variable that forces a tier.
    pub const VARIABLE: &str = "CANDLEMARK_ISA";

    const ALL: &[Tier] = &[
        Tier::Portable,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2,
    ];

    /// Plain Rust, compiled for the target's baseline.
    pub const PORTABLE: Self = Self(Tier::Portable);

    /// Every tier that this CPU has, from the least to the most.
    pub fn available() -> Vec<Self> {
        Self::ALL.iter().copied().filter(|tier| tier.is_here()).map(Self).collect()
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
            return Err(Error::Failed(format!(
                "this CPU has no `{name}` that {} could force; its best is `{best}`",
                Self::VARIABLE
            )));
        }
        Ok(Self(*tier))
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
        }
    }
}

/// Makes of one body a function for every tier: the compiler makes vectors of the width that each has. The first argument
/// of what it makes is the [`Isa`].
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
            match isa.0 {
                $crate::kernel::isa::Tier::Portable => portable($($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a value of `Isa` of this tier is only made on a CPU that has it.
                $crate::kernel::isa::Tier::Avx2 => unsafe { avx2($($arg),*) },
            }
        }
    };
}
pub(super) use tiered;

#[cfg(test)]
mod tests {
    use super::*;

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

//! The kernel plan: which of several verified variants runs an operation. The CPU's tier and vendor
//! decide, or the user, never a clock: variants of an operation may differ in rounding, and two
//! runs of one build on one machine must have the same bits.

use crate::dispatch::kernels;
use crate::error::{Error, Result};
use crate::isa::{Isa, Plan};

/// An operation with two variants.
struct Operation {
    name: &'static str,
    variants: [&'static str; 2],
    /// Whether a tier has both.
    has_both: fn(Isa) -> bool,
    /// Whether the second runs.
    second: fn(&mut Plan) -> &mut bool,
}

static OPERATIONS: [Operation; 4] = [
    Operation {
        name: "attention",
        variants: ["bf16", "f32"],
        has_both: Isa::has_avx512bf16,
        second: |plan| &mut plan.f32_attention,
    },
    Operation {
        name: "bf16",
        variants: ["bf16", if cfg!(target_arch = "aarch64") { "f32" } else { "int16" }],
        has_both: Isa::has_bf16,
        second: |plan| &mut plan.widen_bf16,
    },
    Operation {
        name: "int8",
        variants: ["two-panels", "one-panel"],
        has_both: |isa| kernels(isa).gemm_q8_0.two.is_some(),
        second: |plan| &mut plan.one_panel,
    },
    Operation {
        name: "prefetch",
        variants: ["hardware", "software"],
        has_both: |isa| kernels(isa).gemm_q8_0.two.is_some(),
        second: |plan| &mut plan.software_prefetch,
    },
];

impl Isa {
    /// The variants of each operation of which this tier has several, as names of the operation
    /// and its variants.
    pub fn variants(self) -> impl Iterator<Item = (&'static str, [&'static str; 2])> {
        let operations = OPERATIONS.iter().filter(move |operation| (operation.has_both)(self));
        operations.map(|operation| (operation.name, operation.variants))
    }

    /// The kernel plan: operations with several variants, each with the one that runs.
    pub fn plan(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let mut plan = self.choices();
        let operations = OPERATIONS.iter().filter(move |operation| (operation.has_both)(self));
        operations.map(move |operation| {
            let second = *(operation.second)(&mut plan);
            (operation.name, operation.variants[usize::from(second)])
        })
    }

    /// The same tier with another variant of an operation.
    ///
    /// # Errors
    /// When the tier has no such operation or variant.
    pub fn with_variant(self, name: &str, variant: &str) -> Result<Self> {
        let known = |operation: &&Operation| operation.name == name && (operation.has_both)(self);
        let Some(operation) = OPERATIONS.iter().find(known) else {
            let known = self.variants().map(|(name, _)| name).collect();
            return Err(Error::UnknownOperation { name: name.into(), isa: self.name(), known });
        };
        let Some(index) = operation.variants.iter().position(|known| *known == variant) else {
            let (operation, known) = (operation.name, operation.variants);
            return Err(Error::UnknownVariant { operation, variant: variant.into(), known });
        };
        let mut plan = self.choices();
        *(operation.second)(&mut plan) = index == 1;
        Ok(self.with_choices(plan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_each_variant_and_refuses_others() {
        for isa in Isa::available() {
            assert_eq!(isa.plan().count(), isa.variants().count());
            for (operation, variants) in isa.variants() {
                for variant in variants {
                    let forced = isa.with_variant(operation, variant).unwrap();
                    assert!(forced.plan().any(|chosen| chosen == (operation, variant)));
                    let others = |isa: Isa| isa.plan().filter(|(name, _)| *name != operation);
                    assert!(others(forced).eq(others(isa)), "others stay");
                }
                let error = isa.with_variant(operation, "int4").unwrap_err().to_string();
                assert!(error.contains("int4") && error.contains(variants[1]), "{error}");
            }
            let error = isa.with_variant("conv", "bf16").unwrap_err().to_string();
            assert!(error.contains("`conv`") && error.contains(isa.name()), "{error}");
        }
        assert_eq!(Isa::PORTABLE.variants().count(), 0);
    }
}

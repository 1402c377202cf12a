//! The CPU kernels of the native engine, as the environment chooses them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;
use crate::kernel::Isa;

/// The environment variable of a TOML file that forces variants of kernels, `bf16 = "int16"` for
/// example; `candlemark machine --kernels` prints one.
const KERNELS: &str = "CANDLEMARK_KERNELS";

/// The tier that `CANDLEMARK_ISA` forces, or the best one, with the variants that the file of
/// `CANDLEMARK_KERNELS` forces.
///
/// # Errors
/// When the CPU lacks the tier, or the file cannot be read or names no variant of the tier.
pub(crate) fn isa_from_env() -> Result<Isa> {
    let isa = Isa::from_env()?;
    forced_variants(std::env::var_os(KERNELS).as_deref())?.iter().try_fold(
        isa,
        |isa, (operation, variant)| {
            isa.with_variant(operation, variant)
                .map_err(|error| Error::Usage(format!("the file of {KERNELS}: {error}")))
        },
    )
}

/// What `CANDLEMARK_KERNELS` forces, as it stands in records: `bf16=int16`.
pub(crate) fn forced_kernels() -> Option<String> {
    let forced = forced_variants(std::env::var_os(KERNELS).as_deref()).ok()?;
    let forced = forced.iter().map(|(operation, variant)| (operation.as_str(), variant.as_str()));
    describe(forced)
}

/// The plan of a tier, as it stands in records: `attention=bf16 bf16=bf16 int8=two-panels`.
pub(crate) fn describe_plan(isa: Isa) -> Option<String> {
    describe(isa.plan())
}

fn describe<'a>(chosen: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let chosen: Vec<String> =
        chosen.map(|(operation, variant)| format!("{operation}={variant}")).collect();
    (!chosen.is_empty()).then(|| chosen.join(" "))
}

/// The variants in the file of that name.
fn forced_variants(file: Option<&OsStr>) -> Result<BTreeMap<String, String>> {
    let Some(file) = file.filter(|file| !file.is_empty()) else { return Ok(BTreeMap::new()) };
    let path = Path::new(file);
    let text =
        files::read(path).map_err(|error| Error::Usage(format!("{KERNELS}: {}", error.chain())))?;
    toml::from_str(&text).map_err(|error| {
        Error::Usage(format!("{KERNELS}: {}: {}", path.display(), error.message()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_forces_variants_and_a_wrong_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernels.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            forced_variants(Some(path.as_os_str()))
        };
        let forced = read("bf16 = \"int16\" # faster here\n").unwrap();
        assert_eq!(
            describe(forced.iter().map(|(a, b)| (a.as_str(), b.as_str()))).unwrap(),
            "bf16=int16"
        );
        assert_eq!(forced_variants(Some(OsStr::new(""))).unwrap(), BTreeMap::new());
        let error = read("bf16 = 16").unwrap_err();
        assert!(error.chain().contains("kernels.toml"), "{}", error.chain());
        let missing = forced_variants(Some(folder.path().join("no.toml").as_os_str()));
        assert!(missing.unwrap_err().chain().contains("no.toml"));
    }
}

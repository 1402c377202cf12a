//! What a pair builds: which binary or bench of a package, and with which of its features.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::settings::BuildConfig;
use crate::{engine, machine};

/// What to build: a worker that speaks the turn protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its name in Cargo.
    pub(super) name: String,
    /// Cargo's arguments that select it and its package.
    selection: Vec<String>,
    /// Features that every tree must have.
    features: Vec<String>,
    /// Features that a tree is built without if it does not have them.
    optional_features: Vec<String>,
}

impl Target {
    /// This project's own binary, with the features of this build. An older tree may lack some that
    /// are on by default now, which nobody asked for.
    fn own() -> Self {
        let defaults = defaults(include_str!("../../Cargo.toml"));
        let is_default = |feature: &String| defaults.contains(feature);
        let features = machine::stamp().features.into_iter().filter(|feature| feature != DEFAULT);
        let (optional_features, features) = features.partition(is_default);
        let selection = ["--bin", OWN, "--no-default-features"].map(String::from).into();
        Self { name: OWN.into(), selection, features, optional_features }
    }

    /// What the configuration says; without it, the binary that runs.
    ///
    /// # Errors
    /// When the package of the current folder is another one and nothing says what to build.
    pub fn new(config: &BuildConfig) -> Result<Self> {
        let runs = running_program();
        let (kind, name) = match (&config.bench, &config.binary) {
            (Some(bench), None) => ("--bench", bench.as_str()),
            (None, Some(binary)) => ("--bin", binary.as_str()),
            (Some(_), Some(_)) => {
                return Err(Error::Usage("give `bench` or `binary` in `[build]`, not both".into()));
            }
            (None, None) => match runs.as_deref().filter(|_| engine::is_custom()) {
                Some(binary) => ("--bin", binary),
                None => return Self::of_folder(),
            },
        };
        let mut selection = vec![kind.to_owned(), name.to_owned()];
        if let Some(package) = &config.package {
            selection.extend(["--package".to_owned(), package.clone()]);
        }
        let (features, optional_features) = (config.features.clone(), Vec::new());
        Ok(Self { name: name.into(), selection, features, optional_features })
    }

    /// Whether it is the program that runs, which then knows the engine of what it builds.
    pub(crate) fn is_this_program(config: &BuildConfig) -> bool {
        config.bench.is_none() && (config.binary.is_none() || config.binary == running_program())
    }

    /// Cargo's arguments for a tree with this manifest, and the features that it lacks.
    pub(super) fn arguments(&self, manifest: &str) -> (Vec<String>, Vec<String>) {
        let table = features(manifest);
        let lacks = |feature: &String| table.as_ref().is_some_and(|has| !has.contains_key(feature));
        let (missing, known) =
            self.optional_features.iter().cloned().partition::<Vec<String>, _>(lacks);
        let features = [self.features.clone(), known].concat().join(",");
        let mut arguments = self.selection.clone();
        if !features.is_empty() {
            arguments.extend(["--features".to_owned(), features]);
        }
        (arguments, missing)
    }

    /// Without a configuration: only this project's own package can be built.
    fn of_folder() -> Result<Self> {
        match package_name(Path::new("Cargo.toml")) {
            Some(name) if name != OWN => Err(Error::Usage(format!(
                "the package here is `{name}`, and nothing says what to build of it; write into \
                 candlemark.toml\n\n    [build]\n    bench = \"generate\"\n\nif \
                 benches/generate.rs calls `candlemark::bench::main` (`candlemark init` writes \
                 both)"
            ))),
            _ => Ok(Self::own()),
        }
    }
}

/// The name of this project's package and of its binary.
const OWN: &str = "candlemark";

/// Cargo's name for the set of the features that are on by default.
const DEFAULT: &str = "default";

/// The file name of the program that runs, without its extension.
fn running_program() -> Option<String> {
    Some(std::env::current_exe().ok()?.file_stem()?.to_str()?.to_owned())
}

/// The features of a manifest; `None` if it cannot be parsed, which Cargo then explains.
fn features(manifest: &str) -> Option<toml::Table> {
    let manifest: toml::Table = manifest.parse().ok()?;
    Some(match manifest.get("features") {
        Some(toml::Value::Table(features)) => features.clone(),
        _ => toml::Table::new(),
    })
}

/// The features that a manifest turns on by default.
fn defaults(manifest: &str) -> Vec<String> {
    let features = features(manifest).unwrap_or_default();
    let defaults = features.get(DEFAULT).and_then(toml::Value::as_array);
    let names = defaults.into_iter().flatten().filter_map(toml::Value::as_str);
    names.map(String::from).collect()
}

/// The name of the package of a manifest; `None` for a workspace's.
fn package_name(manifest: &Path) -> Option<String> {
    let manifest: toml::Table = fs::read_to_string(manifest).ok()?.parse().ok()?;
    Some(manifest.get("package")?.get("name")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_built_without_the_default_features_that_it_does_not_have() {
        let target = Target {
            name: OWN.into(),
            selection: vec!["--no-default-features".into()],
            features: vec!["cuda".into()],
            optional_features: vec!["engine".into(), "server".into()],
        };
        let arguments = |manifest: &str| {
            let (arguments, missing) = target.arguments(manifest);
            (arguments.join(" "), missing.join(" "))
        };
        let all = ("--no-default-features --features cuda,engine,server".into(), String::new());
        let without = ("--no-default-features --features cuda,engine".into(), "server".to_owned());
        assert_eq!(arguments("[features]\nengine = []\nserver = []\ncuda = []\n"), all);
        // Nobody can ask for CUDA without meaning it: Cargo refuses a tree that lacks it.
        assert_eq!(arguments("[features]\nengine = []\n"), without);
        assert_eq!(arguments("[package]\n").0, "--no-default-features --features cuda");
        assert_eq!(arguments("not TOML"), all, "Cargo says what is wrong");
    }

    #[test]
    fn the_features_of_this_build_are_those_of_cargo() {
        let manifest = include_str!("../../Cargo.toml");
        assert_eq!(defaults(manifest), ["bench", "engine", "hub", "monitor", "server"]);
        let own = Target::own();
        assert!(own.optional_features.contains(&"engine".to_owned()), "{own:?}");
        assert!(!own.features.iter().any(|name| name == DEFAULT), "{own:?}");
        assert_eq!(own.arguments(manifest).1, Vec::<String>::new());
    }
}

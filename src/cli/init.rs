//! `candlemark init`: the files with which a repository measures an engine of its own.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::output::usage;
use crate::settings::Config;
use crate::{Error, files};

/// Write the files to measure your own engine: a bench, candlemark.toml and a GitHub workflow
///
/// Files that exist stay as they are
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder of the package's Cargo.toml
    #[arg(default_value = ".")]
    folder: PathBuf,
}

/// The files, relative to the package, with `CRATE` for the name of its library.
const FILES: &[(&str, &str)] = &[
    ("benches/generate.rs", include_str!("init/generate.rs.txt")),
    ("candlemark.toml", include_str!("init/candlemark.toml")),
    (".github/workflows/candlemark.yml", include_str!("init/candlemark.yml")),
];

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    let name = library_name(&arguments.folder)?;
    for (path, text) in FILES {
        let path = arguments.folder.join(path);
        if path.exists() {
            writeln!(out, "kept     {}", path.display())?;
            continue;
        }
        let folder = path.parent().expect("a file in a folder");
        std::fs::create_dir_all(folder)
            .map_err(|source| Error::Write { path: folder.into(), source })?;
        files::write(&path, text.replace("CRATE", &name).as_bytes())?;
        writeln!(out, "written  {}", path.display())?;
    }
    out.write_all(include_str!("init/next.txt").replace("CRATE", &name).as_bytes())?;
    Ok(Exit::Pass)
}

/// The name of the package's library in Rust code.
fn library_name(folder: &Path) -> anyhow::Result<String> {
    let path = folder.join("Cargo.toml");
    let text = files::read(&path).map_err(Error::of_named_file)?;
    let manifest: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        usage(format!("{}: {}", path.display(), error.message()))
    })?;
    let name = |table: &str| manifest.get(table)?.get("name")?.as_str().map(String::from);
    let name = name("lib").or_else(|| name("package")).ok_or_else(|| {
        usage(format!("{} has no package; give the folder of one", path.display()))
    })?;
    Ok(name.replace('-', "_"))
}

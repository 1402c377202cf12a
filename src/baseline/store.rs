//! Where baselines, releases and calibrations are stored, and how they are found for a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::compare::{Difference, ReferenceData, Severity, differences};
use crate::error::{Error, Result};
use crate::files;
use crate::record::calibration::Calibration;
use crate::record::{Machine, Model, Record, Settings};

/// Path of the baseline of such a record: `<folder>/<machine class>/<model>.json`.
pub fn path(folder: &Path, class: &str, record: &Record) -> PathBuf {
    baseline_file(folder, class, &record.model, &record.settings)
}

fn baseline_file(folder: &Path, class: &str, model: &Model, settings: &Settings) -> PathBuf {
    folder.join(slug(class)).join(format!("{}.json", model_slug(model, settings)))
}

/// Path of the release baseline, `<model>.release.json`, beside the baseline `<model>.json`.
pub(crate) fn release_path(baseline: &Path) -> PathBuf {
    baseline.with_extension("release.json")
}

/// Path of the calibration of a machine class and a model:
/// `<folder>/<machine class>/<model>.calibration.json`.
pub fn calibration_path(folder: &Path, class: &str, model: &Model, settings: &Settings) -> PathBuf {
    baseline_file(folder, class, model, settings).with_extension("calibration.json")
}

/// The calibration of a record's machine and model, if there is one.
///
/// # Errors
/// When there is one and it cannot be read: ignoring it would silently change verdicts.
pub fn find_calibration(folder: &Path, record: &Record) -> Result<Option<Calibration>> {
    calibration_of(folder, &record.machine, &record.model, &record.settings)
}

/// The calibration of a machine and a model, if there is one of the machine's class.
///
/// # Errors
/// As [`find_calibration`].
pub(crate) fn calibration_of(
    folder: &Path,
    machine: &Machine,
    model: &Model,
    settings: &Settings,
) -> Result<Option<Calibration>> {
    let path = calibration_path(folder, &machine.class, model, settings);
    if path.exists() {
        return Calibration::load(&path).map(Some);
    }
    let is_of_class =
        |found: &Calibration| machine.is_of_class(&found.machine.class, &found.machine.fields);
    let of_earlier_class = beside_other_classes(folder, &path);
    Ok(of_earlier_class.filter_map(|path| Calibration::load(&path).ok()).find(is_of_class))
}

/// The files of the same name in the folders of other classes: a version that made classes of other
/// fields stored them there.
fn beside_other_classes(folder: &Path, path: &Path) -> impl Iterator<Item = PathBuf> {
    let name = path.file_name().unwrap_or_default().to_owned();
    let files = files::entries(folder).into_iter().map(move |class| class.join(&name));
    files.filter(|path| path.exists())
}

/// The release baseline beside a baseline, if there is one.
///
/// # Errors
/// When there is one and it cannot be read.
pub(crate) fn find_release(baseline: &Path) -> Result<Option<Record>> {
    let path = release_path(baseline);
    path.exists().then(|| Record::load(&path)).transpose()
}

/// What a run is judged against.
#[derive(Debug)]
pub struct Stored {
    /// The baseline's file.
    pub path: PathBuf,
    baseline: Record,
    release: Option<Record>,
    calibration: Option<Calibration>,
}

impl Stored {
    /// The baseline.
    pub(crate) fn baseline(&self) -> &Record {
        &self.baseline
    }

    /// The baseline that [`find`] finds, with its release and the run's calibration.
    ///
    /// # Errors
    /// When there is no baseline, or a file cannot be read.
    pub fn find(
        folder: &Path,
        record: &Record,
        allow_class: &BTreeMap<String, String>,
    ) -> Result<Self> {
        Self::new(find(folder, record, allow_class)?, folder, record)
    }

    /// A baseline, with the release beside it and the calibration of the run's machine and model.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn new(
        (path, baseline): (PathBuf, Record),
        folder: &Path,
        record: &Record,
    ) -> Result<Self> {
        let (release, calibration) = (find_release(&path)?, find_calibration(folder, record)?);
        Ok(Self { path, baseline, release, calibration })
    }
}

impl<'a> From<&'a Stored> for ReferenceData<'a> {
    fn from(stored: &'a Stored) -> Self {
        let Stored { baseline, release, calibration, .. } = stored;
        Self { baseline, release: release.as_ref(), calibration: calibration.as_ref() }
    }
}

/// Model, weight format and, unless it is ours, engine: the subject of one baseline file.
fn model_slug(model: &Model, settings: &Settings) -> String {
    let spec = model.spec.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut name = slug(spec.trim_end_matches(".gguf"));
    let engine = slug(settings.engine.split(' ').next().unwrap_or_default());
    let quant = slug(&model.quant);
    for suffix in [quant, if engine == "native" { String::new() } else { engine }] {
        if !suffix.is_empty() && !name.contains(&suffix) {
            name = format!("{name}-{suffix}");
        }
    }
    name
}

/// A file name from any text: lower case, with `-` for every character that may be special to a
/// shell or a file system.
pub(super) fn slug(text: &str) -> String {
    let keep = |c: char| {
        if c.is_ascii_alphanumeric() || "._".contains(c) { c.to_ascii_lowercase() } else { '-' }
    };
    let slug: String = text.chars().take(80).map(keep).collect();
    let slug = slug.trim_matches(['-', '.']);
    if slug.is_empty() { "unnamed".into() } else { slug.into() }
}

/// The baseline for a run: that of its machine class, of the class that `allow_class` names for it,
/// or of its class as an earlier version named it.
///
/// # Errors
/// When there is none. The message lists the stored ones, and how the machine of the nearest one
/// differs.
pub fn find(
    folder: &Path,
    record: &Record,
    allow_class: &BTreeMap<String, String>,
) -> Result<(PathBuf, Record)> {
    let class = &record.machine.class;
    for class in std::iter::once(class).chain(allow_class.get(class)) {
        let path = path(folder, class, record);
        if path.exists() {
            let baseline = Record::load(&path)?;
            return Ok((path, baseline));
        }
    }
    let machine = &record.machine;
    for path in beside_other_classes(folder, &path(folder, class, record)) {
        let found = Record::load(&path)
            .ok()
            .filter(|found| machine.is_of_class(&found.machine.class, &found.machine.fields));
        if let Some(baseline) = found {
            return Ok((path, baseline));
        }
    }
    let stored = stored_baselines(folder);
    let wanted = path(folder, class, record);
    let mut message = format!("no baseline `{}`", wanted.display());
    if stored.is_empty() {
        message += &format!("; there is none in `{}`", folder.display());
    } else {
        let names: Vec<String> =
            stored.iter().map(|path| format!("`{}`", path.display())).collect();
        message += &format!("; there are {}", names.join(", "));
    }
    let distances = stored.iter().filter_map(|path| {
        let mut found = differences(&Record::load(path).ok()?, record, &BTreeMap::new());
        found.retain(|difference| difference.severity == Severity::Blocking);
        Some((found.len(), path, found))
    });
    if let Some((_, path, found)) = distances.min_by_key(|(distance, ..)| *distance) {
        let fields: Vec<String> = found.iter().map(Difference::to_string).collect();
        message += &format!("; nearest is `{}`: {}", path.display(), fields.join(", "));
        let is_of_machine = |one: &Difference| one.field.starts_with("machine");
        if let Some(other) = found.iter().find(|one| one.field == "machine class")
            && found.iter().all(is_of_machine)
        {
            message += &format!(
                "; if both machines are equally fast, allow it by `{class} = \"{}\"` under \
                 `[gate.allow_class]` in candlemark.toml",
                other.old
            );
        }
    }
    message += "; make one with `candlemark promote` from runs of three sessions";
    Err(Error::NotComparable(message))
}

/// The baselines in a folder, without releases and calibrations.
fn stored_baselines(folder: &Path) -> Vec<PathBuf> {
    let is_baseline = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let other = [".release.json", ".calibration.json"].iter().any(|end| name.ends_with(end));
        name.ends_with(".json") && !other
    };
    let files = files::entries(folder).into_iter().flat_map(|class| files::entries(&class));
    files.filter(is_baseline).collect()
}

//! What a machine and a model are known to differ by when nothing was changed: between sessions,
//! and between two builds of one source. Measured by `candlemark calibrate`, stored beside the
//! baseline, and read by whatever gives a verdict.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::record::Record;

/// Version of the format. Raised when an older reader would misread a newer file.
pub const SCHEMA: u32 = 1;

/// What a machine and a model differ by when nothing was changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Calibration {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// Tells this file from a record.
    pub kind: CalibrationKind,
    /// Where it was measured.
    pub machine: Place,
    /// With which model.
    pub model: Weights,
    /// Commit of candlemark; `null` outside git.
    pub commit: Option<String>,
    /// When it was measured.
    pub sessions: Vec<Sitting>,
    /// Between two builds of one source, by kind of metric: `decode`, `ttft`, `prefill`, `memory`.
    pub layout_sd: BTreeMap<String, Spread>,
    /// Between two sessions of one build, beyond what their processes explain, by kind of metric.
    pub session_sd: BTreeMap<String, Spread>,
    /// What each metric of each scenario can be told apart by.
    pub floors: Vec<Floor>,
}

/// The one kind of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationKind {
    /// What does not change, and differs.
    Calibration,
}

/// A machine class with the fields that make it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// As in a record.
    pub class: String,
    /// As in a record.
    pub fields: BTreeMap<String, String>,
}

/// What tells one model from another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Weights {
    /// As it was asked for.
    pub spec: String,
    /// As in a record.
    pub sha256: String,
    /// As in a record.
    pub quant: String,
}

/// One session of a calibration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sitting {
    /// As in a record.
    pub id: String,
    /// UTC, RFC 3339.
    pub started: String,
    /// UTC, RFC 3339; absent when it was cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

/// A standard deviation with what it was estimated from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// Standard deviation of ln cost.
    pub sd: f64,
    /// Its degrees of freedom.
    pub freedom: f64,
}

/// The noise floor of one metric of one scenario, from two arms that are the same program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Floor {
    /// The scenario's id.
    pub scenario: String,
    /// The metric's name.
    pub metric: String,
    /// Standard deviation of what the quads of one block say of the change of ln cost; `null`
    /// where blocks have one.
    pub within_sd: Option<f64>,
    /// Standard deviation of what the blocks say of it.
    pub block_sd: f64,
    /// The smallest slowdown that is told from none with a probability of about 80 %, as a share,
    /// by number of blocks.
    pub smallest_at: BTreeMap<usize, f64>,
}

impl Calibration {
    /// Reads a file of `candlemark calibrate`.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON of a calibration, or has a schema that this build
    /// does not know.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let invalid = |why: String| Error::Invalid {
            path: path.into(),
            why: format!("{why}; a calibration is what `candlemark calibrate` writes"),
        };
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        let schema = value.get("schema").cloned().unwrap_or_default();
        if schema != SCHEMA {
            let remedy = "calibrate again with `candlemark calibrate`";
            let found = schema.to_string();
            return Err(Error::Schema { path: path.into(), found, known: SCHEMA, remedy });
        }
        let calibration: Self =
            serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        let spreads = calibration.layout_sd.iter().chain(&calibration.session_sd);
        for (kind, Spread { sd, freedom }) in spreads {
            // JSON has no infinities, so that these are the only ones that could be misread as
            // certainty.
            if !(*sd >= 0.0 && *freedom > 0.0) {
                return Err(invalid(format!(
                    "`{kind}` has sd {sd} of {freedom} degrees of freedom"
                )));
            }
        }
        Ok(calibration)
    }

    /// Writes the file atomically.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        files::write(path, self.to_json().as_bytes())
    }

    /// The calibration as text: one line a field, one line a session and a floor.
    pub fn to_json(&self) -> String {
        crate::record::lines(self, &["sessions", "floors"])
    }

    /// Whether it is about the machine class and the model of a record.
    pub fn is_of(&self, record: &Record) -> bool {
        self.machine.class == record.machine.class
            && self.model.sha256 == record.model.sha256
            && self.model.quant == record.model.quant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration() -> Calibration {
        let spread = |sd, freedom| BTreeMap::from([("decode".to_owned(), Spread { sd, freedom })]);
        Calibration {
            schema: SCHEMA,
            kind: CalibrationKind::Calibration,
            machine: Place {
                class: "amd-epyc-2cpu-1f3a90c2".into(),
                fields: [("cpu".to_owned(), "EPYC".to_owned())].into(),
            },
            model: Weights::default(),
            commit: None,
            sessions: vec![Sitting { id: "a".into(), ..Sitting::default() }],
            layout_sd: spread(0.004, 3.0),
            session_sd: spread(0.02, 9.0),
            floors: vec![Floor {
                scenario: "code/b1".into(),
                metric: "decode_tok_s".into(),
                within_sd: Some(0.01),
                block_sd: 0.02,
                smallest_at: [(8, 0.03), (16, 0.02)].into(),
            }],
        }
    }

    #[test]
    fn a_calibration_is_read_as_it_was_written_one_line_a_floor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.calibration.json");
        calibration().save(&path).unwrap();
        assert_eq!(Calibration::load(&path).unwrap(), calibration());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(
            "  \"floors\": [\n    {\"block_sd\":0.02,\"metric\":\"decode_tok_s\",\"scenario\":\"code/b1\",\
             \"smallest_at\":{\"16\":0.02,\"8\":0.03},\"within_sd\":0.01}\n  ]"
        ), "{text}");
    }

    #[test]
    fn what_is_no_calibration_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            Calibration::load(&path).unwrap_err().to_string()
        };
        assert!(refused("{}").contains("schema null"), "{}", refused("{}"));
        assert!(refused("{\"schema\": 2}").contains("calibrate again"));
        assert!(
            refused("{\"schema\": 1, \"kind\": \"run\"}")
                .contains("is what `candlemark calibrate` writes")
        );
        for (good, bad, said) in [
            ("\"freedom\":9.0", "\"freedom\":0.0", "sd 0.02 of 0 degrees of freedom"),
            ("\"sd\":0.004", "\"sd\":-0.004", "sd -0.004 of 3 degrees of freedom"),
        ] {
            let error = refused(&calibration().to_json().replace(good, bad));
            assert!(error.contains(said), "{error}");
        }
        assert!(matches!(Calibration::load(folder.path()), Err(Error::Read { .. })));
    }
}

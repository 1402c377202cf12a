//! The stored form of a calibration: the standard deviations of a machine and a model without any
//! change, between sessions and between two builds (code layouts) of one source. `candlemark
//! calibrate` measures it and stores it beside the baseline; verdicts use it.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::files;
use crate::record::{Record, json};

/// Version of the format; incremented when an older reader would misread a newer file.
pub const SCHEMA: u32 = 1;

/// The variation of a machine and a model without any change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Calibration {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// Tells this file from a record.
    pub kind: CalibrationKind,
    /// Where it was measured.
    pub machine: MachineId,
    /// With which model.
    pub model: ModelId,
    /// Commit of candlemark; `null` outside git.
    pub commit: Option<String>,
    /// When it was measured.
    pub sessions: Vec<CalibrationSession>,
    /// Standard deviation between two builds of one source, by kind of metric: `decode`, `ttft`,
    /// `prefill`, `memory`.
    pub layout_sd: BTreeMap<String, SdEstimate>,
    /// Standard deviation between sessions of one build, beyond what their processes explain, by
    /// kind of metric.
    pub session_sd: BTreeMap<String, SdEstimate>,
    /// The noise floor of each metric of each scenario.
    pub floors: Vec<NoiseFloor>,
}

/// The one kind of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationKind {
    /// A calibration.
    Calibration,
}

/// A machine class with the fields that make it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MachineId {
    /// As in a record.
    pub class: String,
    /// As in a record.
    pub fields: BTreeMap<String, String>,
}

/// What identifies a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelId {
    /// As requested.
    pub spec: String,
    /// As in a record.
    pub sha256: String,
    /// As in a record.
    pub quant: String,
}

/// One session of a calibration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CalibrationSession {
    /// As in a record.
    pub id: String,
    /// UTC, RFC 3339.
    pub started: String,
    /// UTC, RFC 3339; absent when it was cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

/// An estimate of a standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SdEstimate {
    /// Standard deviation of ln cost.
    pub sd: f64,
    /// Degrees of freedom of the estimate.
    pub freedom: f64,
}

/// The noise floor of one metric of one scenario, from two arms of the same program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NoiseFloor {
    /// The scenario's id.
    pub scenario: String,
    /// The metric's name.
    pub metric: String,
    /// Standard deviation of the effects of rounds within a block; `null` where blocks have one
    /// round.
    pub within_sd: Option<f64>,
    /// Standard deviation of block effects.
    pub block_sd: f64,
    /// The smallest detectable slowdown (80 % power) as a share, by number of blocks.
    pub smallest_at: BTreeMap<usize, f64>,
}

impl Calibration {
    /// Reads a file of `candlemark calibrate`.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON of a calibration, or has an unknown schema.
    pub fn load(path: &Path) -> Result<Self> {
        let form = json::Form {
            schema: SCHEMA,
            kinds: &["calibration"],
            about: "a calibration is what `candlemark calibrate` writes",
            remedy: "calibrate again with `candlemark calibrate`",
            upgrade: |_| {},
        };
        form.parse(&files::read(path)?, path, Self::check)
    }

    fn check(&self) -> std::result::Result<(), String> {
        for (kind, SdEstimate { sd, freedom }) in self.layout_sd.iter().chain(&self.session_sd) {
            // JSON has no infinities: only these values would be taken as certain.
            if !(*sd >= 0.0 && *freedom > 0.0) {
                return Err(format!("`{kind}` has sd {sd} of {freedom} degrees of freedom"));
            }
        }
        Ok(())
    }

    /// Writes the file atomically.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        files::write(path, self.to_json().as_bytes())
    }

    /// The calibration as JSON, one line per field, session and floor.
    pub fn to_json(&self) -> String {
        json::to_lines(self, &["sessions", "floors"])
    }

    /// Whether it is of the machine class and the model of a record.
    pub(crate) fn is_of(&self, record: &Record) -> bool {
        record.machine.is_of_class(&self.machine.class, &self.machine.fields)
            && self.model.sha256 == record.model.sha256
            && self.model.quant == record.model.quant
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::Error;

    fn calibration() -> Calibration {
        let estimate =
            |sd, freedom| BTreeMap::from([("decode".to_owned(), SdEstimate { sd, freedom })]);
        Calibration {
            schema: SCHEMA,
            kind: CalibrationKind::Calibration,
            machine: MachineId {
                class: "amd-epyc-2cpu-1f3a90c2".into(),
                fields: [("cpu".to_owned(), "EPYC".to_owned())].into(),
            },
            model: ModelId::default(),
            commit: None,
            sessions: vec![CalibrationSession { id: "a".into(), ..CalibrationSession::default() }],
            layout_sd: estimate(0.004, 3.0),
            session_sd: estimate(0.02, 9.0),
            floors: vec![NoiseFloor {
                scenario: "code/b1".into(),
                metric: "decode_tok_s".into(),
                within_sd: Some(0.01),
                block_sd: 0.02,
                smallest_at: [(8, 0.03), (16, 0.02)].into(),
            }],
        }
    }

    #[test]
    fn a_calibration_round_trips_with_one_line_per_floor() {
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
    fn invalid_calibrations_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            Calibration::load(&path).unwrap_err().to_string()
        };
        assert!(refused("{}").contains("schema none"), "{}", refused("{}"));
        assert!(refused("{\"schema\": 0}").contains("calibrate again"));
        assert!(refused("{\"schema\": 2}").contains("update candlemark"));
        assert!(
            refused("{\"schema\": 1, \"kind\": \"run\"}")
                .contains("is what `candlemark calibrate` writes")
        );
        for (good, bad, message) in [
            ("\"freedom\":9.0", "\"freedom\":0.0", "sd 0.02 of 0 degrees of freedom"),
            ("\"sd\":0.004", "\"sd\":-0.004", "sd -0.004 of 3 degrees of freedom"),
        ] {
            let error = refused(&calibration().to_json().replace(good, bad));
            assert!(error.contains(message), "{error}");
        }
        assert!(matches!(Calibration::load(folder.path()), Err(Error::Read { .. })));
    }
}

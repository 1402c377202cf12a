//! Download progress on stderr: one bar per file, hidden if stderr is no terminal.

use std::io::Write as _;

use indicatif::{ProgressBar, ProgressStyle};

use crate::model::Progress;

#[derive(Default)]
pub(crate) struct ProgressBars {
    current: Option<(String, ProgressBar)>,
}

impl Progress for ProgressBars {
    fn note(&mut self, text: &str) {
        // A closed stderr does not stop the measurement.
        let _ = writeln!(std::io::stderr(), "note: {text}");
    }

    fn update(&mut self, file: &str, so_far: u64, size: u64) {
        if self.current.as_ref().is_none_or(|(name, _)| name != file) {
            let style = ProgressStyle::with_template(
                "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            );
            let bar = ProgressBar::new(size).with_style(style.expect("the template is a literal"));
            bar.set_message(file.to_owned());
            self.current = Some((file.into(), bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_position(so_far);
            if so_far == size {
                bar.finish_and_clear();
            }
        }
    }
}

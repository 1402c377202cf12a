//! Memory of the process that measures: what was held after loading, and the peaks of loading and
//! of the run.

use crate::engine::Injection;
use crate::machine::memory;
use crate::machine::memory::Memory;
use crate::record::{Block, Caveat};

/// Memory of a process that runs a model, in two phases.
#[derive(Debug, Clone)]
pub struct MemoryUse {
    after_load: Memory,
    after_run: Memory,
    /// Whether the process has run other scenarios, whose freed memory the allocator may have
    /// kept.
    pub shared: Sharing,
}

/// Whether a process measured one scenario or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// One scenario: peaks are its own.
    Fresh,
    /// Several: comparable only with runs of the same order.
    Shared,
}

impl MemoryUse {
    /// Starts the high-water mark anew. `after_load` was read once, after loading: the peaks of
    /// scenarios that ran between are theirs.
    pub fn begin(after_load: &Memory, shared: Sharing) -> Self {
        // Without a reset the peak of the run is at least that of loading, which the note says.
        let _ = memory::reset_peak();
        Self { after_run: after_load.clone(), after_load: after_load.clone(), shared }
    }

    /// Reads the memory after the samples, with more of it taken if that is injected.
    pub fn end(&mut self, injection: Option<Injection>) {
        let before = memory::read();
        let peak = self.after_load.peak.max(before.peak).unwrap_or(0);
        let now = before.current.unwrap_or(peak);
        let ballast = injection.map(|injection| injection.ballast(peak, now));
        self.after_run = memory::read();
        drop(std::hint::black_box(ballast));
    }

    pub(super) fn store(&self, block: &mut Block) {
        let peak = self.after_load.peak.max(self.after_run.peak);
        let Some(peak) = peak else {
            return null_memory(
                block,
                self.after_run.reason.as_deref().unwrap_or("no source on this platform"),
            );
        };
        let sharing = match self.shared {
            Sharing::Fresh => "fresh process",
            Sharing::Shared => {
                block.caveats.insert("peak_rss_bytes".into(), Caveat::SharedProcess);
                "shared_process"
            }
        };
        block.values.insert("peak_rss_bytes".into(), Some(peak as f64));
        block.notes.insert("peak_rss_bytes".into(), format!("{}, {sharing}", self.after_run.kind));
        let loaded = self.after_load.current;
        block.values.insert("rss_after_load_bytes".into(), loaded.map(|bytes| bytes as f64));
        let delta = loaded
            .zip(self.after_run.peak)
            .map(|(loaded, peak)| peak.saturating_sub(loaded) as f64);
        block.values.insert("peak_delta_bytes".into(), delta);
        for (name, bytes) in
            [("rss_anon_bytes", self.after_run.anon), ("rss_file_bytes", self.after_run.file)]
        {
            block.values.insert(name.into(), bytes.map(|bytes| bytes as f64));
        }
    }
}

const MEMORY: [&str; 3] = ["peak_rss_bytes", "rss_after_load_bytes", "peak_delta_bytes"];

/// Says why there is no memory.
pub(super) fn null_memory(block: &mut Block, why: &str) {
    for name in MEMORY {
        block.values.insert(name.into(), None);
        block.notes.insert(name.into(), why.into());
    }
}

/// Takes the memory of a block that was measured in a process of its own.
pub fn take_memory(block: &mut Block, from: &Block) {
    for name in MEMORY.into_iter().chain(["rss_anon_bytes", "rss_file_bytes", "cold_ttft_s"]) {
        if let Some(value) = from.values.get(name) {
            block.values.insert(name.into(), *value);
        }
        match from.notes.get(name) {
            Some(note) => block.notes.insert(name.into(), note.clone()),
            None => block.notes.remove(name),
        };
        match from.caveats.get(name) {
            Some(caveat) => block.caveats.insert(name.into(), *caveat),
            None => block.caveats.remove(name),
        };
    }
}

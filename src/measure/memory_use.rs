//! Memory of the measuring process: resident after loading, and the peaks of loading and of the
//! run.

use crate::engine::Injection;
use crate::machine::memory;
use crate::machine::memory::Memory;
use crate::record::{Block, Caveat};
use crate::workload::metric;

/// Memory of a process that runs a model, in two phases.
#[derive(Debug, Clone)]
pub struct MemoryUse {
    after_load: Memory,
    after_run: Memory,
    /// A shared process may hold freed memory of earlier scenarios in its allocator.
    pub(super) sharing: Sharing,
}

/// Whether a process measured one scenario or several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// One scenario: peaks are its own.
    #[default]
    Fresh,
    /// Several: peaks are comparable only between runs of the same order.
    Shared,
}

impl MemoryUse {
    /// Resets the high-water mark. `after_load` is the reading right after loading, before any
    /// scenario.
    pub fn begin(after_load: &Memory, sharing: Sharing) -> Self {
        // Without a reset the peak of the run includes loading; the note tells.
        let _ = memory::reset_peak();
        Self { after_run: after_load.clone(), after_load: after_load.clone(), sharing }
    }

    /// Reads the memory after the samples; an injected regression allocates more first.
    pub fn end(&mut self, injection: Option<Injection>) {
        let before = memory::read();
        let peak = self.after_load.peak.max(before.peak).unwrap_or(0);
        let now = before.current.unwrap_or(peak);
        let ballast = injection.map(|injection| injection.ballast(peak, now));
        self.after_run = memory::read();
        drop(std::hint::black_box(ballast));
    }

    pub(super) fn store(&self, block: &mut Block) {
        let Some(peak) = self.after_load.peak.max(self.after_run.peak) else {
            let reason = self.after_run.reason.as_deref().unwrap_or("no source on this platform");
            return store_no_memory(block, reason);
        };
        let sharing = match self.sharing {
            Sharing::Fresh => "fresh process",
            Sharing::Shared => {
                block.caveats.insert(metric::PEAK_RSS_BYTES.into(), Caveat::SharedProcess);
                "shared_process"
            }
        };
        let note = format!("{}, {sharing}", self.after_run.kind);
        block.notes.insert(metric::PEAK_RSS_BYTES.into(), note);
        let loaded = self.after_load.current;
        let growth =
            loaded.zip(self.after_run.peak).map(|(loaded, peak)| peak.saturating_sub(loaded));
        for (name, bytes) in [
            (metric::PEAK_RSS_BYTES, Some(peak)),
            (metric::RSS_AFTER_LOAD_BYTES, loaded),
            (metric::PEAK_DELTA_BYTES, growth),
            (metric::RSS_ANON_BYTES, self.after_run.anon),
            (metric::RSS_FILE_BYTES, self.after_run.file),
        ] {
            block.values.insert(name.into(), bytes.map(|bytes| bytes as f64));
        }
    }
}

const MEMORY: [&str; 3] =
    [metric::PEAK_RSS_BYTES, metric::RSS_AFTER_LOAD_BYTES, metric::PEAK_DELTA_BYTES];

/// Stores why there are no memory metrics.
pub(super) fn store_no_memory(block: &mut Block, reason: &str) {
    for name in MEMORY {
        block.set_missing(name, reason);
    }
}

/// Copies the memory metrics of a block that was measured in a fresh process.
#[cfg(feature = "bench")]
pub(crate) fn copy_memory(block: &mut Block, from: &Block) {
    type Named<T> = std::collections::BTreeMap<String, T>;
    fn copy<T: Clone>(to: &mut Named<T>, from: &Named<T>, name: &str) {
        match from.get(name) {
            Some(one) => to.insert(name.into(), one.clone()),
            None => to.remove(name),
        };
    }
    let more = [metric::RSS_ANON_BYTES, metric::RSS_FILE_BYTES, metric::COLD_TTFT_S];
    for name in MEMORY.into_iter().chain(more) {
        copy(&mut block.values, &from.values, name);
        copy(&mut block.notes, &from.notes, name);
        copy(&mut block.caveats, &from.caveats, name);
    }
}

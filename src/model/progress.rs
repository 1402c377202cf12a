//! How opening a model reports to its caller.

/// Receives the progress of a download, and notes about a model.
pub trait Progress {
    /// `so_far` of the `size` bytes of `file` are on disk, bytes of an earlier run included. Files
    /// that the cache has in full are not reported.
    fn update(&mut self, file: &str, so_far: u64, size: u64);

    /// What was assumed or ignored when the model was opened.
    fn note(&mut self, _: &str) {}
}

/// Discards everything.
impl Progress for () {
    fn update(&mut self, _: &str, _: u64, _: u64) {}
}

//! Mutated files: reading one returns a value or an error, never panics, and uses memory in
//! proportion to the file. A value is then judged and rendered in every format.
//!
//! Each reader gets `CANDLEMARK_TEST_INPUTS` inputs, a few thousand by default. A failing input is
//! kept in the folder that the message names.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, panic};

use candlemark::stats::Random;
use peak_alloc::PeakAlloc;

use crate::mutator::Mutator;

mod documents;
#[path = "../inputs/mod.rs"]
mod inputs;
#[cfg(feature = "engine")]
mod models;
mod mutator;
#[cfg(feature = "server")]
mod streams;
#[cfg(feature = "engine")]
mod tokenizers;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Default number of inputs per reader.
const INPUTS: u64 = 2_000;

/// Limit of memory per byte of the file: a number in a list takes two bytes in the file, 32 as a
/// parsed value, and twice that while the list grows.
const PER_BYTE: usize = 64;
/// Limit of memory independent of the file, for tables of the parser.
const ONCE: usize = 1 << 20;

/// A reader with its valid seed files.
struct Reader<'a> {
    name: &'a str,
    seeds: Vec<(PathBuf, Vec<u8>)>,
    /// The mutation of one file.
    change: fn(&mut Mutator, &[u8]) -> Vec<u8>,
}

thread_local! {
    static SAID: RefCell<String> = RefCell::default();
}

/// Serializes tests, because the peak of allocations is that of the whole process.
fn exclusive() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of all files in a folder.
fn size(folder: &Path) -> usize {
    let files = fs::read_dir(folder).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len() as usize).sum()
}

impl<'a> Reader<'a> {
    /// Uses files of the repository and of `inputs` as seeds.
    fn of(name: &'a str, files: &[&str], change: fn(&mut Mutator, &[u8]) -> Vec<u8>) -> Self {
        let _guard = exclusive();
        let made = inputs::folder(env!("CARGO_TARGET_TMPDIR"));
        let seeds = files.iter().map(|file| match file.strip_prefix("inputs/") {
            Some(name) => made.join(name),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join(file),
        });
        let seeds = seeds.map(|path| (path.clone(), fs::read(&path).unwrap()));
        Self { name, seeds: seeds.collect(), change }
    }

    /// Reads mutated files and uses each value that could be read. `one_in` divides the number of
    /// inputs for slow readers.
    fn run<T, E: std::fmt::Display>(
        &self,
        one_in: u64,
        read: impl Fn(&Path) -> Result<T, E>,
        go_on: impl Fn(&T),
    ) {
        let guard = exclusive();
        let inputs: u64 = std::env::var("CANDLEMARK_TEST_INPUTS")
            .map_or(INPUTS, |text| text.parse().expect("a number of inputs"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(self.seeds[0].0.file_name().unwrap());
        let before = panic::take_hook();
        panic::set_hook(Box::new(|info| SAID.set(info.to_string())));
        let (mut good, mut bad) = (0, None);
        for number in 0..(inputs / one_in).max(1) {
            let mut random = Random::new(number);
            let (_, seed) = &self.seeds[random.below(self.seeds.len())];
            let bytes = (self.change)(&mut Mutator::new(random), seed);
            fs::write(&path, &bytes).unwrap();
            let base = ALLOCATED.current_usage();
            ALLOCATED.reset_peak_usage();
            let result = panic::catch_unwind(AssertUnwindSafe(|| read(&path)));
            let taken = ALLOCATED.peak_usage().saturating_sub(base);
            let size = size(folder.path());
            let allowed = PER_BYTE * size + ONCE;
            let fault = match &result {
                Err(_) => Some(SAID.take()),
                Ok(_) if taken > allowed => Some(format!("reading {size} bytes took {taken}")),
                Ok(Ok(value)) => {
                    good += 1;
                    let used = panic::catch_unwind(AssertUnwindSafe(|| go_on(value)));
                    used.is_err().then(|| SAID.take())
                }
                Ok(Err(error)) => error.to_string().is_empty().then(|| "an empty error".into()),
            };
            if let Some(fault) = fault {
                bad = Some((number, fault, bytes));
                break;
            }
        }
        panic::set_hook(before);
        drop(guard);
        if let Some((number, fault, bytes)) = bad {
            let kept =
                Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{number}-{}", self.name));
            fs::write(&kept, bytes).unwrap();
            panic!("{}, input {number}, kept in {}: {fault}", self.name, kept.display());
        }
        assert!(good > 0, "{}: no input could be read, so that nothing was shown", self.name);
        let all = (inputs / one_in).max(1);
        #[expect(clippy::print_stderr, reason = "how much was shown is part of the result")]
        {
            eprintln!("{}: {good} of {all} could be read", self.name);
        }
    }
}

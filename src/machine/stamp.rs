//! The build of this tool (stamped by `build.rs`), the environment it runs in, and the time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, io};

use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, Result};
use crate::files;
use crate::record::Build;

/// The build, with the hash of the running binary.
pub fn build() -> Build {
    Build { binary_sha256: binary_sha256().ok(), ..stamp() }
}

/// The build without the hash, which takes a tenth of a second.
pub fn stamp() -> Build {
    Build {
        version: env!("CARGO_PKG_VERSION").into(),
        commit: non_empty(env!("STAMP_COMMIT")),
        dirty: env!("STAMP_DIRTY").parse().ok(),
        lock_sha256: non_empty(env!("STAMP_LOCK_SHA256")),
        binary_sha256: None,
        rustc: env!("STAMP_RUSTC").into(),
        profile: format!("{}, opt-level {}", env!("STAMP_PROFILE"), env!("STAMP_OPT_LEVEL")),
        target: env!("STAMP_TARGET").into(),
        target_features: env!("STAMP_TARGET_FEATURES").into(),
        features: split_list(env!("STAMP_FEATURES")).map(str::to_string).collect(),
        crates: split_list(env!("STAMP_CRATES"))
            .filter_map(|locked| locked.split_once(' '))
            .map(|(name, version)| (name.into(), version.into()))
            .collect(),
    }
}

/// Refuses to measure with a debug build.
///
/// # Errors
/// When the build has debug assertions or is not optimized.
pub(crate) fn refuse_debug() -> Result<()> {
    if cfg!(debug_assertions) || env!("STAMP_OPT_LEVEL") == "0" {
        let why = "a debug build makes no records; use cargo bench or cargo run --release";
        return Err(Error::Unsupported(why.into()));
    }
    Ok(())
}

/// The environment variables that affect speed, and the build's `RUSTFLAGS`.
pub fn environment() -> BTreeMap<String, String> {
    let mut found = speed_variables(env::vars_os());
    found.extend(non_empty(env!("STAMP_RUSTFLAGS")).map(|flags| ("RUSTFLAGS".into(), flags)));
    found
}

/// The time in UTC, RFC 3339, to the second.
pub fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The time between two UTC times of records; `None` if one cannot be parsed.
pub fn between(one: &str, other: &str) -> Option<Duration> {
    let time = |text: &str| text.parse::<Timestamp>().ok();
    Some(time(other)?.duration_since(time(one)?).unsigned_abs())
}

/// Checks a time of a record. Clocks of other machines may be wrong by up to a day.
///
/// # Errors
/// When it cannot be parsed, or lies in the future.
pub(crate) fn check_time(text: &str) -> std::result::Result<(), String> {
    let Ok(time) = text.parse::<Timestamp>() else {
        return Err(format!("`{text}` is not a time such as 2026-11-22T06:15:00Z"));
    };
    let ahead = time.duration_since(Timestamp::now());
    let day = SignedDuration::from_hours(24);
    if ahead > day { Err(format!("`{text}` lies in the future")) } else { Ok(()) }
}

/// A measurement that starts less than this after the previous one belongs to the same session: the
/// state of the machine has hardly changed.
pub const SESSION_GAP: Duration = Duration::from_secs(3600);

/// Whether a measurement started at `started` belongs to the session that ended at `ended`. Times
/// that cannot be parsed do.
pub(crate) fn is_one_session(ended: &str, started: &str, gap: Duration) -> bool {
    between(ended, started).is_none_or(|apart| apart < gap)
}

/// The id of a session that starts now: `20261122T061500Z-abc1234`, without a commit the time.
pub(crate) fn session_id(commit: Option<&str>) -> String {
    session_id_at(Timestamp::now(), commit)
}

fn session_id_at(time: Timestamp, commit: Option<&str>) -> String {
    let commit = commit.map(|commit| format!("-{}", commit.get(..7).unwrap_or(commit)));
    format!("{}{}", time.strftime("%Y%m%dT%H%M%SZ"), commit.unwrap_or_default())
}

fn non_empty(stamp: &str) -> Option<String> {
    (!stamp.is_empty()).then(|| stamp.into())
}

fn split_list(stamp: &str) -> impl Iterator<Item = &str> {
    stamp.split(',').filter(|item| !item.is_empty())
}

/// SHA-256 of the running binary.
fn binary_sha256() -> io::Result<String> {
    // On Linux this opens the running binary even if a newer build has replaced it.
    let running = PathBuf::from("/proc/self/exe");
    files::sha256(&if running.exists() { running } else { env::current_exe()? })
}

/// Settings of threads, candle, the allocator and this tool. Variables that may contain a secret
/// are left out.
fn speed_variables(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> BTreeMap<String, String> {
    const NAMES: &[&str] = &[
        "RAYON_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "GLIBC_TUNABLES",
        "LD_PRELOAD",
    ];
    const PREFIXES: &[&str] = &["CANDLE_", "CANDLEMARK_", "MISTRALRS_FORCE_", "MALLOC_"];
    const SECRETS: &[&str] = &["TOKEN", "KEY", "SECRET", "PASS", "AUTH", "CREDENTIAL"];
    variables
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .filter(|(name, _)| {
            NAMES.contains(&name.as_str()) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
        .filter(|(name, _)| !SECRETS.iter().any(|secret| name.to_uppercase().contains(secret)))
        // A URL with a password.
        .filter(|(_, value)| !(value.contains("://") && value.contains('@')))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_stamped() {
        let build = build();
        assert_eq!(build.version, env!("CARGO_PKG_VERSION"));
        assert!(build.rustc.starts_with("rustc 1."), "{}", build.rustc);
        assert_eq!(build.binary_sha256.map(|hash| hash.len()), Some(64));
        assert!(build.commit.is_none_or(|commit| commit.len() >= 40));
        assert_eq!(build.crates.get("candle-core").map(String::as_str), Some("0.11.1"));
        assert_eq!(build.crates.get("criterion").map(String::as_str), Some("0.8.2"));
    }

    #[test]
    fn a_debug_build_is_refused_with_the_way_out() {
        let answer = refuse_debug().map_err(|error| error.to_string());
        let message =
            "unsupported: a debug build makes no records; use cargo bench or cargo run --release";
        assert_eq!(answer, if cfg!(debug_assertions) { Err(message.into()) } else { Ok(()) });
    }

    #[test]
    fn variables_that_affect_speed_are_kept_and_secrets_are_not() {
        let found = speed_variables(
            [
                ("CANDLEMARK_MODEL", "synthetic:mini"),
                ("CANDLEMARK_API_KEY", "x"),
                ("CANDLEMARK_SERVER", "https://me:word@host"),
                ("CANDLE_DEQUANTIZE_ALL", "1"),
                ("HF_TOKEN", "hf_x"),
                ("HOME", "/root"),
                ("MISTRALRS_FORCE_MMQ", "1"),
                ("OMP_NUM_THREADS", "2"),
                ("RAYON_NUM_THREADS", "2"),
            ]
            .into_iter()
            .map(|(name, value)| (name.into(), value.into())),
        );
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "CANDLEMARK_MODEL",
                "CANDLE_DEQUANTIZE_ALL",
                "MISTRALRS_FORCE_MMQ",
                "OMP_NUM_THREADS",
                "RAYON_NUM_THREADS"
            ]
        );
        assert_eq!(found["CANDLEMARK_MODEL"], "synthetic:mini");
    }

    #[test]
    fn a_session_is_named_by_time_and_commit() {
        let time: Timestamp = "2026-11-22T06:15:00.75Z".parse().unwrap();
        assert_eq!(session_id_at(time, Some("abc1234def")), "20261122T061500Z-abc1234");
        assert_eq!(session_id_at(time, Some("abc")), "20261122T061500Z-abc");
        assert_eq!(session_id_at(time, None), "20261122T061500Z");
        assert_eq!(check_time("2026-11-22T06:15:00Z"), Ok(()));
        assert_eq!(
            check_time("2999-01-01T00:00:00Z").unwrap_err(),
            "`2999-01-01T00:00:00Z` lies in the future"
        );
        assert!(check_time("yyy").unwrap_err().starts_with("`yyy` is not a time"));
    }

    #[test]
    fn the_time_is_utc_to_the_second() {
        let now = now();
        assert_eq!(now.len(), "2026-11-22T06:15:00Z".len());
        assert!(now.parse::<Timestamp>().is_ok(), "{now}");
    }
}

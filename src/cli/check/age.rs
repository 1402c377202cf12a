//! The age of a baseline: what has changed since is judged together with the newest change.

use std::path::Path;
use std::time::Duration;

use crate::error::counted;
use crate::record::Record;
use crate::{files, machine};

/// Commits after which a baseline is called old.
const MANY_COMMITS: usize = 50;
/// Time after which a baseline is called old.
const LONG: Duration = Duration::from_secs(60 * 24 * 3600);

/// A note on a baseline that is old by its commits or by time: how many commits and days, and how
/// many of the commits change kernels (files with `kernel` in their path).
pub(super) fn note(folder: &Path, baseline: &Record, run: &Record) -> Option<String> {
    let commits = match (&baseline.build.commit, &run.build.commit) {
        (Some(from), Some(to)) if from != to => count(folder, &[&format!("{from}..{to}")]),
        _ => None,
    };
    let started = |record: &Record| record.sessions.last().map(|session| session.started.clone());
    let apart = machine::between(&started(baseline)?, &started(run)?)?;
    if commits.unwrap_or(0) < MANY_COMMITS && apart < LONG {
        return None;
    }
    let mut age = vec![counted((apart.as_secs() / (24 * 3600)) as usize, "day")];
    if let (Some(commits), Some(from), Some(to)) =
        (commits, &baseline.build.commit, &run.build.commit)
    {
        let kernels = count(folder, &[&format!("{from}..{to}"), "--", ":(icase)*kernel*"]);
        let kernels = kernels.map_or(String::new(), |kernels| format!(" ({kernels} to kernels)"));
        age.push(format!("{}{kernels}", counted(commits, "commit")));
    }
    Some(format!(
        "the baseline is {} older than the run: a change may be theirs; make it anew with \
         `candlemark promote`",
        age.join(" and ")
    ))
}

/// The number of commits in a range of the folder's repository; `None` without git or such commits.
fn count(folder: &Path, range: &[&str]) -> Option<usize> {
    let arguments = [&["rev-list", "--count"], range].concat();
    files::git(folder, &arguments, &[]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::inputs::records;

    fn at(started: &str, commit: Option<&str>) -> Record {
        let mut record = records::run(0);
        record.sessions.truncate(1);
        record.sessions[0].started = started.into();
        record.build.commit = commit.map(String::from);
        record
    }

    #[test]
    fn a_baseline_is_old_after_sixty_days() {
        let note = |day| {
            let (baseline, run) = (at("2026-01-01T00:00:00Z", None), at(day, None));
            note(Path::new("."), &baseline, &run)
        };
        assert_eq!(note("2026-02-28T00:00:00Z"), None);
        let note = note("2026-03-03T00:00:00Z").unwrap();
        assert!(note.starts_with("the baseline is 61 days older than the run: "), "{note}");
    }

    #[test]
    fn a_baseline_is_old_after_fifty_commits() {
        let folder = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@b"];
            let output = Command::new("git")
                .current_dir(folder.path())
                .args(identity)
                .args(arguments)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let commit = || git(&["commit", "--allow-empty", "--quiet", "--message", "a"]);
        git(&["init", "--quiet"]);
        commit();
        let first = git(&["rev-parse", "HEAD"]);
        std::fs::write(folder.path().join("Kernels.rs"), "a").unwrap();
        git(&["add", "."]);
        (1..MANY_COMMITS).for_each(|_| drop(commit()));
        let note = || {
            let (day, head) = ("2026-01-01T00:00:00Z", git(&["rev-parse", "HEAD"]));
            note(folder.path(), &at(day, Some(&first)), &at(day, Some(&head)))
        };
        assert_eq!(note(), None);
        commit();
        let note = note().unwrap();
        assert!(note.starts_with("the baseline is 0 days and 50 commits (1 to kernels)"), "{note}");
    }
}

//! A monitor with a stub probe and a fake clock that jumps on `wait`: hours pass instantly.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use super::*;
use crate::compare::Outcome;
use crate::record::AbsenceKind;

pub(super) const START: &str = "2026-11-23T10:00:00Z";
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A clock that advances only on `wait` or while measuring.
pub(super) struct FakeClock {
    elapsed: Cell<SignedDuration>,
    /// The error of the wall clock.
    skew: Cell<SignedDuration>,
    /// The waits, in seconds.
    waits: RefCell<Vec<i64>>,
    stop: Cell<bool>,
}

impl FakeClock {
    pub(super) fn new() -> Self {
        let (elapsed, skew) = (Cell::default(), Cell::default());
        Self { elapsed, skew, waits: RefCell::default(), stop: Cell::new(false) }
    }

    fn pass(&self, seconds: i64) {
        self.elapsed.set(self.elapsed.get() + SignedDuration::from_secs(seconds));
    }
}

impl Clock for FakeClock {
    fn elapsed(&self) -> SignedDuration {
        self.elapsed.get()
    }

    fn now(&self) -> Timestamp {
        START.parse::<Timestamp>().unwrap() + self.elapsed.get() + self.skew.get()
    }

    fn wait(&self, until: SignedDuration) {
        self.waits.borrow_mut().push((until - self.elapsed.get()).as_secs());
        self.elapsed.set(until);
    }

    fn stopped(&self) -> bool {
        self.stop.get()
    }
}

/// A scripted probe.
struct Stub<F>(F);

impl<F: FnMut() -> Result<Measured>> Probe for Stub<F> {
    fn measure(&mut self) -> Result<Measured> {
        self.0()
    }
}

/// Records all pages and lines.
#[derive(Default)]
struct RecordingObserver {
    pages: Vec<Pages>,
    lines: Vec<String>,
}

impl Observer for RecordingObserver {
    fn publish(&mut self, pages: Pages) {
        self.pages.push(pages);
    }

    fn log(&mut self, line: &str) {
        self.lines.push(line.into());
    }
}

pub(super) fn measured(decode: f64) -> Measured {
    let values = [
        ("decode_tok_s".to_string(), Some(decode)),
        ("e2e_s".into(), Some(20.0 / decode)),
        ("peak_rss_bytes".into(), Some(100.0 * 1024.0 * 1024.0)),
        ("ttft_s".into(), None),
    ];
    let figures = ScenarioValues {
        id: "short/b1".into(),
        values: values.into(),
        ..ScenarioValues::default()
    };
    Measured {
        model: "synthetic:stub".into(),
        machine: "stub-2cpu-01234567".into(),
        scenarios: vec![figures],
        conditions: vec![crate::record::Conditions {
            at: START.into(),
            load_1m: Some(0.5),
            available_bytes: Some(4 << 30),
            ..Default::default()
        }],
        verdict: VerdictSummary { outcome: None, text: "no baseline `b.json`".into() },
        ..Measured::default()
    }
}

pub(super) fn plan(cycles: u64) -> Plan {
    Plan {
        interval: Duration::from_secs(1800),
        retry: Duration::from_secs(60),
        cycles: Some(cycles),
        about: "quick on a stub".into(),
    }
}

fn open(path: &Path, clock: &FakeClock) -> (History, Vec<String>) {
    History::open(path, DAY, clock.elapsed(), clock.now()).unwrap()
}

fn cycles(
    count: u64,
    path: &Path,
    clock: &FakeClock,
    act: impl FnMut() -> Result<Measured>,
) -> (History, RecordingObserver, Ended) {
    let (mut history, _) = open(path, clock);
    let mut observer = RecordingObserver::default();
    let ended = run(&plan(count), &mut history, &mut Stub(act), clock, &mut observer);
    (history, observer, ended)
}

fn fail(why: &str) -> Result<Measured> {
    Err(Error::Failed(why.into()))
}

fn file(folder: &tempfile::TempDir) -> std::path::PathBuf {
    folder.path().join("deep/history.jsonl")
}

fn count(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn a_failed_cycle_is_an_entry_and_is_retried_after_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let mut script: VecDeque<Result<Measured>> =
        [fail("one"), fail("two"), fail("three"), Ok(measured(10.0)), Ok(measured(11.0))].into();
    let (history, observer, ended) = cycles(5, &file(&folder), &clock, || {
        clock.pass(10);
        script.pop_front().unwrap()
    });
    // Three cycles of 10 s and three waits of a minute end at 210 s; the fourth cycle at 220 s;
    // regular ones begin at 1800 s.
    assert_eq!(*clock.waits.borrow(), [60, 60, 60, 1580]);
    assert_eq!(ended, Ended { cycles: 5, failures: 3, last_failed: false });
    let errors: Vec<Option<&str>> =
        history.entries().map(|(_, entry)| entry.error.as_deref()).collect();
    assert_eq!(errors, [Some("one"), Some("two"), Some("three"), None, None]);
    assert_eq!(count(&file(&folder)), 5);
    let page = &observer.pages.last().unwrap().html;
    for shown in ["<b>2026-11-23T10:00:10Z</b> one", "<b>2026-11-23T10:01:20Z</b> two", "3 failed"]
    {
        assert!(page.contains(shown), "{shown}\n{page}");
    }
}

#[test]
fn a_retry_never_delays_a_regular_cycle_and_missed_ones_are_skipped() {
    let zero = SignedDuration::ZERO;
    for (elapsed, failed, next) in [
        (0, false, 1800),
        (10, false, 1800),
        (10, true, 70),
        (1795, true, 1800), // The regular one comes first.
        (1800, false, 3600),
        (5500, false, 7200), // A cycle of an hour and a half.
    ] {
        let next = SignedDuration::from_secs(next);
        assert_eq!(
            plan(1).next(zero, SignedDuration::from_secs(elapsed), failed),
            next,
            "{elapsed}"
        );
    }
    let endless = Plan { interval: Duration::MAX, retry: Duration::MAX, ..plan(1) };
    let far = endless.next(zero, SignedDuration::from_secs(5), true);
    assert!(far > SignedDuration::from_hours(1000), "{far:?}");
}

#[test]
fn a_panic_is_a_failed_cycle() {
    let folder = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let mut left = 2;
    let (history, _, ended) = cycles(2, &file(&folder), &clock, || {
        left -= 1;
        if left == 1 { panic!("a device went away") } else { Ok(measured(10.0)) }
    });
    assert_eq!((ended.failures, ended.last_failed), (1, false));
    let first = history.entries().next().unwrap().1;
    assert_eq!(first.error.as_deref(), Some("a panic while measuring: a device went away"));
}

#[test]
fn an_interrupted_cycle_is_no_failure_and_completed_ones_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let mut left = 3;
    let (history, _, ended) = cycles(9, &file(&folder), &clock, || {
        left -= 1;
        clock.stop.set(left == 0);
        if left == 0 { Err(Error::Interrupted) } else { Ok(measured(10.0)) }
    });
    assert_eq!(ended, Ended { cycles: 2, failures: 0, last_failed: false });
    assert_eq!((history.entries().count(), count(&file(&folder))), (2, 2));
    // A cycle that was complete when the stop came counts.
    let clock = FakeClock::new();
    let (_, _, ended) = cycles(9, &file(&folder), &clock, || {
        clock.stop.set(true);
        Ok(measured(10.0))
    });
    assert_eq!((ended.cycles, count(&file(&folder))), (1, 3));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing_and_is_reported_on_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let clock = FakeClock::new();
    let mut left = 4;
    let good = path.clone();
    let (history, observer, ended) = cycles(3, &path, &clock, || {
        left -= 1;
        if left == 1 {
            // Someone freed space.
            fs::remove_file(&good).unwrap();
        }
        Ok(measured(10.0 + f64::from(left)))
    });
    assert_eq!((ended.cycles, ended.failures), (3, 0));
    let count_of = |text: &str| observer.lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count_of("No space left on device"), 2, "{:?}", observer.lines);
    assert_eq!(count_of("2 entries pending in memory"), 1, "{:?}", observer.lines);
    let troubled = &observer.pages[3].html;
    assert!(troubled.contains("The history cannot be written: cannot write"), "{troubled}");
    assert!(!observer.pages[5].html.contains("cannot be written"));
    assert_eq!((history.pending(), history.write_error()), (0, None));
    assert_eq!(count(&path), 3, "all that waited is written");
    assert_eq!(open(&path, &clock).0.lines(), history.lines());
}

#[test]
fn a_monitor_continues_the_history_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (first, ..) = cycles(3, &file(&folder), &clock, || Ok(measured(10.0)));
    let (second, ..) = cycles(2, &file(&folder), &clock, || Ok(measured(20.0)));
    assert_eq!(second.entries().count(), 5);
    assert!(second.lines().starts_with(&first.lines()));
}

#[test]
fn a_clock_adjustment_neither_drops_entries_nor_keeps_them_forever() {
    for days in [10, -10] {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder);
        let clock = FakeClock::new();
        let mut step = 0;
        let (history, observer, _) = cycles(4, &path, &clock, || {
            step += 1;
            // The second cycle is measured while the clock is wrong.
            clock.skew.set(SignedDuration::from_hours(if step == 2 { 24 * days } else { 0 }));
            Ok(measured(f64::from(step)))
        });
        assert_eq!(*clock.waits.borrow(), [1800, 1800, 1800], "{days}");
        assert_eq!(history.entries().count(), 4, "{days}");
        assert!(observer.pages.last().unwrap().html.contains("<svg"), "{days}");
        // Read again: an entry of long ago is dropped, one from the future is as old as its
        // neighbour.
        let left = if days > 0 { 4 } else { 3 };
        assert_eq!(open(&path, &clock).0.entries().count(), left, "{days}");
        clock.pass(23 * 3600);
        assert_eq!(open(&path, &clock).0.entries().count(), if days > 0 { 3 } else { 2 }, "{days}");
        clock.pass(2 * 3600);
        assert_eq!(open(&path, &clock).0.entries().count(), 0, "{days}");
    }
}

#[test]
fn torn_damaged_unknown_and_repeated_lines_are_tolerated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let clock = FakeClock::new();
    let (history, ..) = cycles(2, &path, &clock, || Ok(measured(10.0)));
    let lines = history.lines();
    let foreign = format!("{{\"schema\":99,\"at\":\"{START}\",\"news\":[1]}}\n");
    let torn = &lines[..lines.len() / 3];
    fs::write(&path, format!("{lines}{foreign}\0\u{1b}\n{lines}{torn}")).unwrap();
    let (read, messages) = open(&path, &clock);
    assert_eq!(read.lines(), lines);
    assert!(
        messages[0].contains("skipped 2 lines") && messages[0].contains("torn or damaged"),
        "{messages:?}"
    );
    assert!(
        messages[1].contains("skipped 1 line") && messages[1].contains("version"),
        "{messages:?}"
    );
    // A line after the torn one is complete.
    let (history, ..) = cycles(1, &path, &clock, || Ok(measured(11.0)));
    assert_eq!(history.entries().count(), 3);
    assert_eq!(open(&path, &clock).0.lines(), history.lines());
}

#[test]
fn lines_of_version_1_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let clock = FakeClock::new();
    let (history, ..) = cycles(1, &path, &clock, || Ok(measured(10.0)));
    let line = history.lines();
    for (text, kind) in [
        ("\"failed: no memory\"", Some(AbsenceKind::Failed)),
        ("\"unsupported: ragged\"", Some(AbsenceKind::Unsupported)),
        ("null", None),
    ] {
        let older = line.replace("\"schema\":2", "\"schema\":1");
        let older = older.replace("\"absent\":null", &format!("\"absent\":{text}"));
        assert_ne!(older, line);
        fs::write(&path, older).unwrap();
        let (read, messages) = open(&path, &clock);
        assert_eq!(messages, [""; 0], "{text}");
        let (_, entry) = read.entries().next().unwrap();
        let figures = &entry.measured.as_ref().unwrap().scenarios[0];
        assert_eq!(figures.absent.as_ref().map(|absent| absent.kind), kind);
        assert_eq!(entry.schema, SCHEMA);
    }
}

#[test]
fn a_file_that_is_no_history_is_refused_and_left_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let open = || History::open(&path, DAY, SignedDuration::ZERO, FakeClock::new().now());
    for text in ["buy milk\n", "{\n  \"schema\": 1\n}\n"] {
        fs::write(&path, text).unwrap();
        let error = open().unwrap_err();
        assert!(error.to_string().contains("--history"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    // The very first line of a history, torn.
    fs::write(&path, "{\"sche").unwrap();
    assert_eq!(open().unwrap().0.entries().count(), 0);
}

#[test]
fn too_many_entries_push_out_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let (mut history, _) = open(&folder.path().join("full"), &FakeClock::new());
    fs::create_dir(folder.path().join("full")).unwrap(); // Cannot be written: all stay in memory.
    for second in 0..i64::try_from(super::history::MAX_ENTRIES).unwrap() + 10 {
        let entry = Entry::new(START.into(), second as f64, fail("x"));
        // Flushing this often in vain takes time; only the last flush matters.
        history.push(entry, SignedDuration::from_secs(second));
    }
    history.flush();
    assert_eq!(
        (history.entries().count(), history.pending()),
        (super::history::MAX_ENTRIES, super::history::MAX_ENTRIES)
    );
    assert_eq!(history.entries().next().unwrap().1.took_s, 10.0);
    assert!(history.write_error().is_some());
}

#[test]
fn hostile_text_stays_text() {
    let folder = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let evil = "<script>alert(1)</script>\"}\n# x \u{1b}[2J \u{202e}\\";
    let mut step = 0;
    let (_, observer, _) = cycles(5, &file(&folder), &clock, || {
        step += 1;
        if step == 4 {
            return fail(evil);
        }
        let mut one = measured(10.0 + f64::from(step));
        one.model = evil.into();
        one.machine = evil.into();
        one.scenarios[0].id = evil.into();
        one.verdict = VerdictSummary { outcome: Some(Outcome::Regression), text: evil.into() };
        Ok(one)
    });
    let Pages { html, metrics, history } = observer.pages.last().unwrap();
    assert!(html.contains("&lt;script&gt;") && !html.contains("<script"), "{html}");
    assert!(!html.contains(['\u{1b}', '\u{202e}']));
    let rate = metrics
        .lines()
        .find(|line| line.starts_with("candlemark_decode_tokens_per_second{"))
        .unwrap();
    let text = "<script>alert(1)</script>\\\"}\u{fffd}# x \u{fffd}[2J \u{fffd}\\\\";
    assert_eq!(
        rate,
        format!(
            "candlemark_decode_tokens_per_second{{scenario=\"{text}\",model=\"{text}\",quant=\"\",machine=\"{text}\"}} 15"
        )
    );
    for line in metrics.lines() {
        assert!(
            line.starts_with("# HELP candlemark_")
                || line.starts_with("# TYPE candlemark_")
                || line.starts_with("candlemark_"),
            "{line}"
        );
    }
    assert_eq!(history.lines().count(), 5);
    assert!(html.contains("class=\"card bad\""));
}

#[test]
fn the_newest_values_are_compared_with_the_median_of_earlier_ones() {
    let folder = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let mut rates = VecDeque::from([10.0, 12.0, 11.0, 22.0]);
    let (_, observer, _) =
        cycles(4, &file(&folder), &clock, || Ok(measured(rates.pop_front().unwrap())));
    let page = |at: usize| &observer.pages[at].html;
    let row = "<tr><td>short&#x2f;b1</td><td>decode tok&#x2f;s</td><td>22.00</td><td>+100\u{a0}%</td><td>11.00</td><td>10.00 to 22.00</td><td>4</td></tr>";
    assert!(page(7).contains(row), "{}", page(7));
    let row = "<tr><td>short&#x2f;b1</td><td>TTFT ms</td><td>-</td><td>-</td><td>-</td><td>-</td><td>0</td></tr>";
    assert!(page(7).contains(row), "an unmeasured value is not zero\n{}", page(7));
    assert!(page(7).contains("<b>NO VERDICT</b> – no baseline <code>b.json</code>"), "{}", page(7));
    assert!(page(7).contains("There is no verdict without a baseline"));
    let early = "<td>decode tok&#x2f;s</td><td>11.00</td><td>-</td><td>-</td>";
    assert!(page(5).contains(early), "two earlier ones have no middle\n{}", page(5));
}

#[test]
fn another_model_is_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let mut step = 0;
    let (_, observer, _) = cycles(5, &file(&folder), &clock, || {
        step += 1;
        let model = if step == 5 { "synthetic:other" } else { "synthetic:stub" };
        Ok(Measured { model: model.into(), ..measured(10.0) })
    });
    let row =
        "<td>decode tok&#x2f;s</td><td>10.00</td><td>-</td><td>-</td><td>-</td><td>1</td></tr>";
    assert!(observer.pages.last().unwrap().html.contains(row));
}

#[test]
fn prometheus_gets_only_the_newest_cycle() {
    let folder = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let mut script = VecDeque::from([Ok(measured(10.0)), fail("no device")]);
    let (_, observer, _) = cycles(2, &file(&folder), &clock, || script.pop_front().unwrap());
    let good = &observer.pages[1].metrics;
    for line in [
        "candlemark_monitor_cycles_total 1",
        "candlemark_monitor_last_cycle_failed 0",
        "candlemark_monitor_last_cycle_end_seconds 1795428000",
        "# TYPE candlemark_decode_tokens_per_second gauge",
        "candlemark_decode_tokens_per_second{scenario=\"short/b1\",model=\"synthetic:stub\",quant=\"\",machine=\"stub-2cpu-01234567\"} 10",
        "candlemark_peak_rss_bytes{scenario=\"short/b1\",model=\"synthetic:stub\",quant=\"\",machine=\"stub-2cpu-01234567\"} 104857600",
        "candlemark_machine_available_bytes 4294967296",
    ] {
        assert!(good.lines().any(|one| one == line), "{line}\n{good}");
    }
    assert!(!good.contains("ttft"), "{good}");
    let failed = &observer.pages[3].metrics;
    assert!(failed.contains("candlemark_monitor_last_cycle_failed 1\n"), "{failed}");
    assert!(!failed.contains("decode"), "{failed}");
}

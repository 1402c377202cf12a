//! A thousand cycles in a process of their own, because other tests use memory, too.

use std::cell::RefCell;
use std::fs;
use std::process::Command;
use std::rc::Rc;

use candlemark::machine::memory;

use crate::{Stub, cycles};

#[test]
fn memory_and_disk_stay_bounded_over_a_thousand_cycles() {
    let binary = std::env::current_exe().unwrap();
    let output = Command::new(binary)
        .args(["--exact", "growth::a_thousand_cycles_alone", "--ignored", "--test-threads", "1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "the test above runs it in a process of its own"]
fn a_thousand_cycles_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.jsonl");
    let resident = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&resident);
    let hook = move |cycle| {
        // The window is full after 48 cycles; memory must not grow after that.
        if cycle == 200 || cycle == 1000 {
            seen.borrow_mut().extend(memory::read().current);
        }
    };
    let mut probe = Stub { hook: Some(Box::new(hook)), ..Stub::default() };
    let (history, newest) = cycles(1000, &mut probe, &file);
    assert_eq!(probe.cycle, 1000);
    // One every half hour for a day, plus retries.
    let kept = history.entries().count();
    assert!((48..60).contains(&kept), "{kept}");
    assert_eq!(history.pending(), 0);
    let lines = fs::read_to_string(&file).unwrap().lines().count();
    assert!(lines < 2 * kept + 64, "{lines} lines of {kept} entries");
    assert!(newest.largest < 1 << 20, "{}", newest.largest);
    // An error is 40 KiB, a page about 100 KiB: a leak of one per cycle would be 80 MiB.
    if let [early, late] = resident.borrow()[..] {
        assert!(late < early + (8 << 20), "from {early} to {late} bytes");
    }
}

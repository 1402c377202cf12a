//! The page in headless Chromium, if it is installed.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use candlemark::monitor::{Remote, Server};

use crate::{Stub, cycles};

/// Runs Chromium on an address; without Chromium prints a notice and returns `None`.
fn chromium(folder: &Path, options: &[&str], address: &str) -> Option<Output> {
    let home = folder.join("home");
    fs::create_dir_all(&home).unwrap();
    let profile = format!("--user-data-dir={}", home.display());
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
    command.args(["--disable-background-networking", "--disable-dev-shm-usage", "--no-first-run"]);
    command.arg(profile).args(options).arg(address).current_dir(folder).env("HOME", &home);
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            // Past the test harness, so that the notice is visible in every run.
            let written = writeln!(
                std::io::stderr(),
                "SKIPPED: the page was not tested: cannot run `chromium` ({error})"
            );
            written.unwrap();
            None
        }
    }
}

/// Width and height in the header of a PNG.
fn size(png: &[u8]) -> (u32, u32) {
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn a_browser_shows_the_figures_the_charts_and_the_errors() {
    let folder = tempfile::tempdir().unwrap();
    let (_, newest) = cycles(12, &mut Stub::default(), &folder.path().join("history.jsonl"));
    let server = Server::start("127.0.0.1:0".parse().unwrap(), Remote::Refused).unwrap();
    server.publish(newest.pages);
    let address = format!("http://{}/", server.address());
    let Some(output) = chromium(folder.path(), &["--dump-dom"], &address) else { return };
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let page = String::from_utf8(output.stdout).unwrap();
    for shown in [
        // The rate of cycle 12, the median of earlier cycles without the failed tenth, the change.
        "<td>short/b1</td><td>decode tok/s</td><td>94.00</td><td>-4.6&nbsp;%</td><td>98.50</td>",
        "<h1>candlemark: monitor of quick on synthetic:stub</h1>",
        "There is no verdict without a baseline",
        "&lt;b&gt;no&lt;/b&gt; device &amp; why",
        "1 failed in the window;",
    ] {
        assert!(page.contains(shown), "{shown}\n{page}");
    }
    // Four metrics and the machine's memory over time; distributions of three timed metrics of two
    // scenarios.
    assert_eq!(page.matches("<svg").count(), 5 + 6);
    for width in [1200, 390] {
        let window = format!("--window-size={width},3000");
        let picture = folder.path().join(format!("{width}.png"));
        let file = format!("--screenshot={}", picture.display());
        let output = chromium(folder.path(), &[&window, &file], &address).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let png = fs::read(&picture).unwrap();
        assert_eq!(size(&png), (width, 3000));
        // An empty page of this size is about 10 KB.
        assert!(png.len() > 40_000, "{width}: {} bytes", png.len());
    }
}

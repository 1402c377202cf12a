//! Errors of `candlemark monitor` before it measures anything.

use std::net::TcpListener;

use crate::fails;

#[test]
fn an_invalid_monitor_fails_at_once() {
    let here = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let cannot = format!("cannot listen on `{address}`");
    for (words, says) in [
        (["--listen", &address], [cannot.as_str(), "`--listen`"]),
        (["--listen", "0.0.0.0:0"], ["reachable from other machines", "`--allow-remote`"]),
        (["--interval", "0s"], ["'--interval <TIME>': give a second or more", ""]),
        (["--window", "1ms"], ["'--window <TIME>': give a second or more", ""]),
        (["--cycles=1", "shrot"], ["no suite or scenario `shrot`", ""]),
    ] {
        fails(&["monitor", words[0], words[1]], here.path(), 2, &says);
    }
    if cfg!(debug_assertions) {
        fails(&["monitor", "--listen", "127.0.0.1:0"], here.path(), 2, &["debug build"]);
    }
    assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 0, "nothing was written");
}

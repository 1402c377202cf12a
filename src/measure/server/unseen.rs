//! What a client cannot observe of a server, and why.

use crate::record::Block;
use crate::workload::metric;

/// Sets the metrics that a client cannot observe as missing, each with its reason.
pub(super) fn set_unseen(block: &mut Block) {
    for (names, reason) in UNSEEN {
        names.iter().for_each(|name| block.set_missing(name, reason));
    }
}

/// Metrics, and why they are missing.
const UNSEEN: [(&[&str], &str); 5] = [
    (
        &[metric::PREFILL_S, metric::PREFILL_TOK_S],
        "a client cannot tell prefill from the queue before and the sampling after it",
    ),
    (&[metric::TOKENIZE_S], "the server tokenizes"),
    (&[metric::LOAD_S, metric::COLD_TTFT_S], "the server ran before"),
    (
        &[
            metric::PEAK_RSS_BYTES,
            metric::RSS_AFTER_LOAD_BYTES,
            metric::PEAK_DELTA_BYTES,
            metric::PEAK_DEVICE_BYTES,
            metric::KV_BYTES_EXPECTED,
            metric::KV_BYTES_HELD,
        ],
        "a client does not see a server's memory",
    ),
    (
        &[
            metric::ROOFLINE_FRACTION,
            metric::PREFILL_FLOP_FRACTION,
            metric::CPU_UTILIZATION,
            metric::GPU_UTILIZATION,
            metric::POWER_W,
            metric::ENERGY_J_PER_TOKEN,
        ],
        "a client does not see a server's hardware",
    ),
];

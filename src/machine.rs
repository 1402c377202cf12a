//! The machine: fingerprint, memory of this process, measured rates, load.

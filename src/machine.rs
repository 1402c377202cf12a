//! The machine: memory of this process.

pub mod memory;

//! What can go wrong before a kernel runs.

use std::io;

/// Threads and instruction sets that the machine does not give.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error("cannot start {threads} threads")]
    Threads { threads: usize, source: io::Error },
    #[error("cannot pin threads to CPUs")]
    Pin(#[source] io::Error),
    #[error("no instruction set `{name}`; known are {}", known.join(", "))]
    UnknownIsa { name: String, known: Vec<&'static str> },
    #[error("{variable} asks for `{name}`, which this CPU does not support; its best is `{best}`")]
    UnsupportedIsa { variable: &'static str, name: String, best: &'static str },
    #[error("the kernels of {isa} have no choice of `{name}`; they have: {}", known.join(", "))]
    UnknownOperation { name: String, isa: &'static str, known: Vec<&'static str> },
    #[error("no variant `{variant}` of {operation}; known are {}", known.join(", "))]
    UnknownVariant { operation: &'static str, variant: String, known: [&'static str; 2] },
}

/// A result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

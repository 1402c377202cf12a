//! The llama.cpp backend and its log.

use std::sync::{Arc, Mutex, OnceLock};

use llama_cpp_2::LogOptions;
use llama_cpp_2::llama_backend::LlamaBackend;

/// llama.cpp may be initialized once per process.
pub(super) fn backend() -> &'static LlamaBackend {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    BACKEND.get_or_init(|| {
        llama_cpp_2::send_logs_to_tracing(LogOptions::default());
        LlamaBackend::init().expect("nothing else initializes it")
    })
}

/// Runs `work` and returns the lines that llama.cpp logs meanwhile.
pub(super) fn with_logs<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    backend();
    let lines = Arc::default();
    let result = tracing::subscriber::with_default(LogCollector(Arc::clone(&lines)), work);
    let lines = std::mem::take(&mut *lines.lock().expect("no collector panics"));
    (result, lines)
}

/// Collects what llama.cpp logs. Without a collector it is silent.
struct LogCollector(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for LogCollector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "llama-cpp-2" && *metadata.level() <= tracing::Level::INFO
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut visit = |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            if field.name() == "message" {
                let text = format!("{value:?}").trim_matches('"').to_owned();
                self.0.lock().expect("no collector panics").push(text);
            }
        };
        event.record(&mut visit);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

//! Chat templates: turn a conversation into the prompt that the model was trained on.
//!
//! Templates are Jinja in the dialect of transformers, from Hugging Face models and GGUF files;
//! Qwen's are built in. A template is untrusted code: it is compiled only for a chat prompt, on a
//! thread of its own, with limits on time and memory.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};
use std::{fs, thread};

use jiff::civil::{DateTime, date};
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};

use super::panics::catch_panic;
use crate::error::{Error, Result};
use crate::workload::unix_lines;

mod python;
mod tags;

use tags::without_generation_tags;

pub(super) const QWEN3: &str = unix_lines!(include_str!("qwen3.jinja"));
const QWEN2: &str = unix_lines!(include_str!("qwen2.jinja"));

/// The longest template in bytes; published ones have up to about 30 kB.
const MAX_SOURCE: usize = 128 << 10;
/// The stack of the rendering thread in bytes: twice the need of the worst template of
/// [`MAX_SOURCE`], which recurses once per operator. The system commits it page by page.
const STACK: usize = 128 << 20;
/// The instruction limit of a rendering; Qwen3's template takes about a hundred per message.
const FUEL: u64 = 10_000_000;
/// The memory limit of a rendering in bytes.
const MAX_MEMORY: u64 = 256 << 20;
/// The time limit of a rendering, which takes milliseconds, on a busy machine longer.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The date for templates, fixed because a prompt must be the same in every run.
const TODAY: DateTime = date(2026, 1, 1).at(0, 0, 0, 0);

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who wrote it.
    pub role: Role,
    /// Its text.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// Questions.
    User,
    /// The model's answers.
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// Whether a reasoning model may think before it answers; others ignore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thinking {
    /// The model decides.
    On,
    /// The prompt has an empty thought, so Qwen3 answers at once.
    Off,
}

/// A chat template, not compiled yet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ChatTemplate {
    /// The file or GGUF key, for messages.
    pub(super) origin: String,
    /// The template, or why it cannot be used.
    pub(super) source: std::result::Result<String, String>,
    /// The special tokens by their names in templates, such as `bos_token`.
    pub(super) tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// The built-in template of the Qwen family whose tokens the tokenizer has.
    pub(super) fn built_in(tokenizer: &tokenizers::Tokenizer) -> Option<Self> {
        let has = |token: &str| tokenizer.token_to_id(token).is_some();
        let (origin, source) = match (has("<|im_start|>") && has("<|im_end|>"), has("<think>")) {
            (true, true) => ("built-in Qwen3", QWEN3),
            (true, false) => ("built-in Qwen2.5", QWEN2),
            (false, _) => return None,
        };
        Some(Self { origin: origin.into(), source: Ok(source.into()), tokens: Vec::new() })
    }

    /// The error for several templates without a default one.
    pub(super) fn no_default(names: &[impl std::fmt::Debug]) -> String {
        format!("none of its templates is called `default`: {names:?}")
    }

    pub(super) fn chat(&self, messages: &[Message], thinking: Thinking) -> Result<String> {
        let message = |message: &Message| {
            context! { role => message.role.name(), content => message.content.as_str() }
        };
        // Without tools, transformers passes None.
        self.render(messages.iter().map(message).collect(), Value::from(()), thinking)
    }

    /// `messages` and `tools` are those of transformers' `apply_chat_template`.
    pub(super) fn render(
        &self,
        messages: Value,
        tools: Value,
        thinking: Thinking,
    ) -> Result<String> {
        let failed = |why: &str| {
            Error::Usage(format!(
                "the chat template of `{}`{why}; raw prompts (`--prompt-format raw`) need none",
                self.origin
            ))
        };
        let source = match &self.source {
            Ok(source) if source.len() <= MAX_SOURCE => source.clone(),
            Ok(source) => {
                let size = source.len();
                return Err(failed(&format!(" has {size} bytes; at most {MAX_SOURCE} are read")));
            }
            Err(why) => return Err(failed(&format!(": {why}"))),
        };
        let tokens = self.tokens.iter().map(|(name, token)| (name.clone(), token.into()));
        let context: BTreeMap<String, Value> = tokens
            .chain([
                ("messages".into(), messages),
                ("tools".into(), tools),
                ("documents".into(), Value::from(())),
                ("add_generation_prompt".into(), true.into()),
                ("enable_thinking".into(), (thinking == Thinking::On).into()),
            ])
            .collect();
        let context = Value::from(context);
        within_limits(move || render(&source, &context)).map_err(|why| failed(&why))
    }
}

/// Runs a rendering on a thread with a known stack. If it exceeds the limits, the thread is
/// abandoned: it runs until the process ends, which the error soon causes.
fn within_limits(
    rendering: impl FnOnce() -> std::result::Result<String, String> + Send + 'static,
) -> std::result::Result<String, String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let run = move || drop(sender.send(catch_panic(rendering)));
    let thread = thread::Builder::new().name("chat template".into()).stack_size(STACK).spawn(run);
    thread.map_err(|err| format!(" cannot be rendered: no thread for it: {err}"))?;
    let (start, memory) = (Instant::now(), resident());
    loop {
        match receiver.recv_timeout(Duration::from_millis(5)) {
            Ok(Ok(text)) => return text,
            Ok(Err(panic)) => return Err(format!(" breaks the template engine: {panic}")),
            Err(RecvTimeoutError::Disconnected) => return Err(" breaks the template engine".into()),
            Err(RecvTimeoutError::Timeout) => (),
        }
        if start.elapsed() > TIME_LIMIT {
            return Err(format!(" exceeded the limit of {} s", TIME_LIMIT.as_secs()));
        }
        if resident().saturating_sub(memory) > MAX_MEMORY {
            return Err(format!(" exceeded the limit of {} MiB", MAX_MEMORY >> 20));
        }
    }
}

/// The resident memory of the process in bytes; 0 without `/proc`.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_u64) * 4096
}

/// Compiles and renders with the Jinja options and functions of transformers; undefined values
/// print as nothing.
fn render(source: &str, context: &Value) -> std::result::Result<String, String> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|err| describe(&err))?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_debug(true); // Errors name the variable, in release builds too.
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(python::method);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("replace", python::replace);
    environment.add_filter("join", python::join);
    environment.add_test("iterable", python::is_iterable);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    let source = without_generation_tags(source);
    let template = environment.template_from_str(&source).map_err(|err| describe(&err))?;
    template.render(context).map_err(|err| describe(&err))
}

/// The line and the cause, as the rest of a sentence.
fn describe(err: &minijinja::Error) -> String {
    let line = err.line().map_or(String::new(), |line| format!(", line {line}"));
    let detail = err.detail().map_or(String::new(), |detail| format!(": {detail}"));
    let cause = std::error::Error::source(err).map_or(String::new(), |err| format!(": {err}"));
    let kind = err.kind();
    if kind == ErrorKind::OutOfFuel {
        return format!("{line}: exceeded the limit of {FUEL} instructions");
    }
    format!("{line}: {kind}{detail}{cause}")
}

/// transformers' function by which a template rejects a conversation.
fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// transformers' function for the date.
fn strftime_now(format: String) -> std::result::Result<String, minijinja::Error> {
    strtime::format(&format, TODAY)
        .map_err(|err| minijinja::Error::new(ErrorKind::InvalidOperation, err.to_string()))
}

#[cfg(test)]
mod tests;

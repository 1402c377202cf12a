//! Chat templates: a conversation as the text that the model was trained to continue.
//!
//! Templates are Jinja in the dialect of transformers, as Hugging Face models and GGUF files carry
//! them; Qwen's are built in. A template is a program from a stranger: it is compiled only when a
//! chat prompt is asked for, on a thread of its own, within limits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};
use std::{fs, thread};

use jiff::civil::{DateTime, date};
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};

use super::quiet;
use crate::error::{Error, Result};
use crate::workload::unix_lines;

mod python;

const QWEN3: &str = unix_lines!(include_str!("qwen3.jinja"));
const QWEN2: &str = unix_lines!(include_str!("qwen2.jinja"));

/// The longest template, in bytes; published ones have up to about 30 kB.
const MAX_SOURCE: usize = 128 << 10;
/// For the thread that compiles and renders, in bytes. Twice what the worst template of
/// [`MAX_SOURCE`] takes: an expression recurses once an operator. Touched only as it is needed.
const STACK: usize = 128 << 20;
/// Instructions of a rendering; Qwen3's template takes about a hundred a message.
const FUEL: u64 = 10_000_000;
/// What one rendering may add to the memory of the process, in bytes.
const MAX_MEMORY: u64 = 256 << 20;
/// A rendering takes milliseconds; a machine that is busy may take longer.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// What a template is told when it asks for the date. Not today's: a prompt must be the same in
/// every run.
const TODAY: DateTime = date(2026, 1, 1).at(0, 0, 0, 0);

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Whose turn it is.
    pub role: Role,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The one who asks.
    User,
    /// The model.
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

/// Whether a model that can think aloud before it answers may do so. Others take no notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thinking {
    /// As the model likes.
    On,
    /// Qwen3 is shown an empty thought and answers at once.
    Off,
}

/// A chat template, not compiled yet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template {
    /// The file or GGUF key, for messages.
    pub(super) origin: String,
    /// The template, or why there is none that can be used.
    pub(super) source: std::result::Result<String, String>,
    /// The special tokens by the names that templates have for them, such as `bos_token`.
    pub(super) tokens: Vec<(String, String)>,
}

impl Template {
    /// The template of the family whose tokens the tokenizer has, if it is one of Qwen's.
    pub(super) fn built_in(tokenizer: &tokenizers::Tokenizer) -> Option<Self> {
        let has = |token: &str| tokenizer.token_to_id(token).is_some();
        let (origin, source) = match (has("<|im_start|>") && has("<|im_end|>"), has("<think>")) {
            (true, true) => ("built-in Qwen3", QWEN3),
            (true, false) => ("built-in Qwen2.5", QWEN2),
            (false, _) => return None,
        };
        Some(Self { origin: origin.into(), source: Ok(source.into()), tokens: Vec::new() })
    }

    /// Why several templates, of these names, are of no use for a conversation.
    pub(super) fn no_default(names: &[impl std::fmt::Debug]) -> String {
        format!("none of its templates is called `default`: {names:?}")
    }

    pub(super) fn chat(&self, messages: &[Message], thinking: Thinking) -> Result<String> {
        let message = |message: &Message| {
            context! { role => message.role.name(), content => message.content.as_str() }
        };
        // No tools are None, as transformers passes them.
        self.render(messages.iter().map(message).collect(), Value::from(()), thinking)
    }

    /// `messages` and `tools` are as transformers' `apply_chat_template` takes them.
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

/// Runs a rendering on a thread with a known stack. One that exceeds time or memory is given up:
/// its thread goes on until the process ends, which the error soon brings about.
fn within_limits(
    rendering: impl FnOnce() -> std::result::Result<String, String> + Send + 'static,
) -> std::result::Result<String, String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let run = move || drop(sender.send(quiet::catch(rendering)));
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
            return Err(format!(" was given up after {} s", TIME_LIMIT.as_secs()));
        }
        if resident().saturating_sub(memory) > MAX_MEMORY {
            return Err(format!(" was given up: it takes more than {} MiB", MAX_MEMORY >> 20));
        }
    }
}

/// The bytes of memory that the process holds; 0 where `/proc` does not say it.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_u64) * 4096
}

/// Compiles and renders as transformers does: its options of Jinja, its functions, undefined values
/// that print as nothing.
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
    let source = without_generation_marks(source);
    let template = environment.template_from_str(&source).map_err(|err| describe(&err))?;
    template.render(context).map_err(|err| describe(&err))
}

/// The place and the cause, as the rest of a sentence.
fn describe(err: &minijinja::Error) -> String {
    let line = err.line().map_or(String::new(), |line| format!(", line {line}"));
    let detail = err.detail().map_or(String::new(), |detail| format!(": {detail}"));
    let cause = std::error::Error::source(err).map_or(String::new(), |err| format!(": {err}"));
    let kind = err.kind();
    if kind == ErrorKind::OutOfFuel {
        return format!("{line}: was given up after {FUEL} instructions");
    }
    format!("{line}: {kind}{detail}{cause}")
}

/// The template with `{% generation %}` and `{% endgeneration %}`, which mark an answer for
/// training and print nothing, as a `with` block: the same scope, the same lines.
fn without_generation_marks(source: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(source);
    let mut at = 0;
    while let Some((start, end)) = next_tag(&text, at) {
        at = end;
        if !text[start..].starts_with("{%") {
            continue;
        }
        let inside = start + 2..end.saturating_sub(2).max(start + 2);
        let word =
            text[inside.clone()].trim_matches(|c: char| c.is_whitespace() || "-+".contains(c));
        let with = match word {
            "generation" => "with",
            "endgeneration" => "endwith",
            "raw" => {
                at = end_of_raw(&text, end);
                continue;
            }
            _ => continue,
        };
        let from = inside.start + text[inside].find(word).unwrap_or(0);
        let to = from + word.len();
        text.to_mut().replace_range(from..to, with);
        at = end - (to - from) + with.len();
    }
    text
}

/// Where the next comment, expression or statement begins and ends.
fn next_tag(text: &str, from: usize) -> Option<(usize, usize)> {
    let start = from
        + text
            .get(from..)?
            .match_indices('{')
            .find_map(|(at, _)| text[from + at + 1..].starts_with(['{', '%', '#']).then_some(at))?;
    let close = match text.as_bytes()[start + 1] {
        b'{' => "}}",
        b'%' => "%}",
        _ => return Some((start, start + 2 + text[start + 2..].find("#}")? + 2)),
    };
    let mut quote = None;
    let mut chars = text[start + 2..].char_indices();
    while let Some((at, c)) = chars.next() {
        let at = start + 2 + at;
        match (quote, c) {
            (Some(_), '\\') => drop(chars.next()),
            (Some(open), _) => quote = Some(open).filter(|open| *open != c),
            (None, '\'' | '"') => quote = Some(c),
            (None, _) if text[at..].starts_with(close) => return Some((start, at + 2)),
            (None, _) => (),
        }
    }
    None
}

/// Where the `{% endraw %}` after `from` ends.
fn end_of_raw(text: &str, from: usize) -> usize {
    let is_end = |at: usize| {
        let word =
            text[at + 2..].trim_start_matches(|c: char| c.is_whitespace() || "-+".contains(c));
        word.starts_with("endraw").then_some(text.len() - word.len())
    };
    text[from..].match_indices("{%").find_map(|(at, _)| is_end(from + at)).unwrap_or(text.len())
}

/// How a template refuses a conversation.
fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The date in a format of the template's choice.
fn strftime_now(format: String) -> std::result::Result<String, minijinja::Error> {
    strtime::format(&format, TODAY)
        .map_err(|err| minijinja::Error::new(ErrorKind::InvalidOperation, err.to_string()))
}

#[cfg(test)]
mod tests {
    use super::Role::*;
    use super::*;

    fn template(source: &str) -> Template {
        let tokens = [("eos_token", "<|im_end|>"), ("pad_token", "<|endoftext|>")];
        let tokens = tokens.map(|(name, token)| (name.into(), token.into()));
        Template { origin: "test.jinja".into(), source: Ok(source.into()), tokens: tokens.into() }
    }

    fn render(source: &str, turns: &[(Role, &str)], thinking: Thinking) -> Result<String> {
        let messages: Vec<Message> =
            turns.iter().map(|(role, content)| Message::new(*role, *content)).collect();
        template(source).chat(&messages, thinking)
    }

    const TURNS: &[(Role, &str)] =
        &[(User, "One?"), (Assistant, "<think>\nHm, one.\n</think>\n\nTwo."), (User, "Three?")];

    #[test]
    fn qwen3_forgets_thoughts_and_may_be_told_not_to_think() {
        let expected = "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n\
                        <|im_start|>user\nThree?<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(render(QWEN3, TURNS, Thinking::On).unwrap(), expected);
        assert_eq!(
            render(QWEN3, TURNS, Thinking::Off).unwrap(),
            format!("{expected}<think>\n\n</think>\n\n")
        );
    }

    #[test]
    fn qwen3_has_no_system_message_of_its_own() {
        for (turns, expected) in [
            (&[(User, "Hi")][..], "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
            (
                &[(System, "Be brief."), (User, "Hi")][..],
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            ),
            (
                // An answer after the last question has a thought.
                &[(User, "Hi"), (Assistant, "Hello")][..],
                "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nHello<|im_end|>\n\
                 <|im_start|>assistant\n",
            ),
        ] {
            assert_eq!(render(QWEN3, turns, Thinking::On).unwrap(), expected);
        }
    }

    #[test]
    fn qwen2_always_has_a_system_message_and_never_thinks() {
        let qwen = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
        let rest = "<|im_start|>user\n{{Hi}}\n<|im_end|>\n<|im_start|>assistant\n";
        for (system, turns) in [
            (qwen, &[(User, "{{Hi}}\n")][..]),
            ("Be brief.", &[(System, "Be brief."), (User, "{{Hi}}\n")][..]),
        ] {
            let expected = format!("<|im_start|>system\n{system}<|im_end|>\n{rest}");
            assert_eq!(render(QWEN2, turns, Thinking::On).unwrap(), expected);
            assert_eq!(render(QWEN2, turns, Thinking::Off).unwrap(), expected);
        }
    }

    /// One line for each construct of the templates that Qwen, QwQ and Qwen2.5 ship.
    #[test]
    fn templates_may_use_what_qwens_use() {
        for (source, expected) in [
            (
                "{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "3",
            ),
            (
                "{% for m in messages[::-1] %}{{ m.role }}{{ messages|length - 1 - loop.index0 }} {% endfor %}",
                "user2 assistant1 user0 ",
            ),
            ("{{ messages[1].content.split('</think>')[-1].lstrip('\\n') }}", "Two."),
            (
                "{{ messages[1].content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}",
                "Hm, one.",
            ),
            ("{{ (messages[1].content.split('</think>')|last).strip('\\n.') }}", "Two"),
            (
                "{{ messages[0].content.startswith('One') and not(messages[0].content.endswith('!')) }}",
                "True",
            ),
            ("{{ messages[0]['role'] == 'user' and messages[0].content is string }}", "True"),
            (
                "{%- if messages[0].tool_calls %}calls{% elif messages[0].x is not defined %}none{% endif %}",
                "none",
            ),
            (
                "{% if messages[0].reasoning_content is string %}thought{% else %}no{% endif %}",
                "no",
            ),
            (
                "{% if tools %}{{ tools | tojson }}{% else %}{{ {'name': 'f', 'of': [1, none]} | tojson }}{% endif %}",
                r#"{"name": "f", "of": [1, null]}"#,
            ),
            (
                "{% if enable_thinking is defined and enable_thinking is false %}off{% endif %}",
                "off",
            ),
            ("{% for m in messages if m.role == 'user' %}{{ loop.index0 }}{% endfor %}", "01"),
            ("{{ strftime_now('%d %b %Y') }}", "01 Jan 2026"),
        ] {
            assert_eq!(render(source, TURNS, Thinking::Off).unwrap(), expected, "{source}");
        }
    }

    /// Everything that transformers' environment has beside Jinja itself. The expected texts are
    /// those of Python; `fixtures/tokenizer.py` checks more of them against it.
    #[test]
    fn templates_may_use_what_transformers_gives_them() {
        for (source, expected) in [
            ("[{{ bos_token }}|{{ eos_token }}|{{ pad_token }}]", "[|<|im_end|>|<|endoftext|>]"),
            (
                "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}\
              {% break %}{% endfor %}",
                "assistant",
            ),
            ("a{% generation %}b{% endgeneration %}c", "abc"),
            ("a\n  {%- generation -%}\n b \n{%- endgeneration +%}\nc", "ab\nc"),
            (
                "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
                "21",
            ),
            ("{{ '{% generation %}' }}{# {% generation %} #}", "{% generation %}"),
            ("{% raw %}{% generation %}{% endraw %}", "{% generation %}"),
            (
                "{{ {'b': '<é>', 'a': [1, 2.5, none, true]} | tojson }}",
                r#"{"b": "<é>", "a": [1, 2.5, null, true]}"#,
            ),
            (
                "{{ {'b': '<é>', 'a': []} | tojson(indent=2, ensure_ascii=true, sort_keys=true) }}",
                "{\n  \"a\": [],\n  \"b\": \"<\\u00e9>\"\n}",
            ),
            ("{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }}", r#"[1,{"a":2}]"#),
            ("{{ 'a😀'|tojson(ensure_ascii=true) }}", r#""a\ud83d\ude00""#),
            (
                "{% for x in [none, 7, 'a', {}, nobody] %}{{ '+' if x is iterable else '-' }}\
              {% endfor %}{{ '!' if tools is iterable and tools|length > 0 }}",
                "--+++",
            ),
            ("{{ nobody }}{% for x in nobody %}{{ x }}{% endfor %}{{ messages[9] }}", ""),
            (
                "{{ 'a-b-c'.rsplit('-', 1)[0] }} {{ 'abc'.removeprefix('a').removesuffix('c') }}",
                "a-b b",
            ),
            ("{% for k, v in {'z': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "z1a2"),
            ("{{ 'aXbX'.replace('X', '-', 1) }}{{ 'aXbX'|replace('X', '') }}", "a-bXab"),
            ("{{ ['a', 'b']|join('-') }}{{ '+'.join(['c', 'd']) }}", "a-bc+d"),
        ] {
            assert_eq!(render(source, TURNS, Thinking::On).unwrap(), expected, "{source}");
        }
    }

    /// Of each kind the smallest that broke something: the stack, memory, or patience.
    #[test]
    fn a_hostile_template_is_given_up() {
        let terms = ["1"; 65_000].join("+");
        let replaces = ".replace('a', 'aaaaaaaaaa')".repeat(12);
        let nested = "[".repeat(60_000);
        let hostile = |source: &str| render(source, TURNS, Thinking::On).unwrap_err().to_string();
        assert_eq!(render(&format!("{{{{ {terms} }}}}"), TURNS, Thinking::On).unwrap(), "65000");
        for (source, expected) in [
            (format!("{{{{ {terms}+{terms} }}}}"), " has 260005 bytes; at most 131072 are read"),
            (
                format!("{{{{ {nested}"),
                ", line 1: syntax error: template exceeds maximum recursion",
            ),
            (format!("{{{{ {}1", "-".repeat(130_000)), ", line 1: syntax error: "),
            (format!("{{{{ 'a'{replaces} }}}}"), "the text of `replace` would have "),
            (
                format!("{{{{ 'a'{} }}}}", "|replace('a', 'aaaaaaaaaa')".repeat(12)),
                "the text of `replace` would have ",
            ),
            (
                "{{ (['a' * 1000000] * 1000)|join }}".into(),
                "the text of `join` would have more than",
            ),
            (
                "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
                    .into(),
                "was given up after 10000000 instructions",
            ),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(), "recursion limit exceeded"),
            ("{{ [1]|tojson(indent=1000000000) }}".into(), "an indent of 1000000000"),
        ] {
            let message = hostile(&source);
            assert!(message.contains(expected), "{message}");
            assert!(message.starts_with("the chat template of `test.jinja`"), "{message}");
        }
    }

    #[test]
    fn a_template_that_fails_names_its_origin_and_line() {
        for (source, expected) in [
            (
                "\n\n{{ nobody.name }}",
                "the chat template of `test.jinja`, line 3: undefined value: `nobody` is undefined",
            ),
            ("{{ nobody() }}", "line 1: unknown function: nobody is unknown"),
            ("{{ 'a' + nobody }}", "line 1: "),
            (
                "\n{{ raise_exception('Roles must alternate!') }}",
                "line 2: invalid operation: Roles must alternate!; raw prompts (`--prompt-format \
                 raw`) need none",
            ),
            ("\n{% if %}", "line 2: syntax error: "),
            ("{{ messages[9].content }}", "line 1: undefined value: "),
            ("{{ strftime_now('%!') }}", "line 1: invalid operation: "),
            ("{{ 'a'.nothing() }}", "line 1: unknown method: "),
            ("{{ 'a'|nothing }}", "line 1: unknown filter: "),
        ] {
            let message = render(source, TURNS, Thinking::On).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}

//! Chat templates: a conversation as the text that the model was trained to continue. Templates are Jinja, as Hugging
//! Face models and GGUF files carry them; Qwen's are built in.

use std::fmt;

use jiff::civil::DateTime;
use jiff::civil::date;
use jiff::fmt::strtime;
use minijinja::Environment;
use minijinja::ErrorKind;
use minijinja::UndefinedBehavior;
use minijinja::Value;
use minijinja::context;
use minijinja::syntax::SyntaxConfig;
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::error::Error;
use crate::error::Result;
use crate::workload::with_unix_lines;

const QWEN3: &str = with_unix_lines(include_str!("qwen3.jinja"));
const QWEN2: &str = with_unix_lines(include_str!("qwen2.jinja"));

/// What a template is told when it asks for the date. Not today's: a prompt must be the same in every run.
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

/// A compiled chat template.
pub(super) struct Template {
    origin: String,
    source: String,
    environment: Environment<'static>,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Template {
    /// `origin` is the file or GGUF key, for messages.
    pub(super) fn new(origin: String, source: String) -> Result<Self> {
        let mut environment = Environment::new();
        // As transformers sets Jinja up, but for undefined values: those may be tested, not printed.
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|err| failed(&origin, &err))?);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned("chat", source.clone())
            .map_err(|err| failed(&origin, &err))?;
        Ok(Self { origin, source, environment })
    }

    /// The template of the family whose tokens the tokenizer has, if it is one of Qwen's.
    pub(super) fn built_in(tokenizer: &tokenizers::Tokenizer) -> Result<Option<Self>> {
        let has = |token: &str| tokenizer.token_to_id(token).is_some();
        match (has("<|im_start|>") && has("<|im_end|>"), has("<think>")) {
            (true, true) => Self::new("built-in Qwen3".into(), QWEN3.into()).map(Some),
            (true, false) => Self::new("built-in Qwen2.5".into(), QWEN2.into()).map(Some),
            (false, _) => Ok(None),
        }
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn render(&self, messages: &[Message], thinking: Thinking) -> Result<String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.name(), content => message.content.as_str() })
            .collect();
        let context = context! {
            messages,
            tools => Value::from(()), // None, as transformers passes them.
            documents => Value::from(()),
            add_generation_prompt => true,
            enable_thinking => thinking == Thinking::On,
        };
        let template =
            self.environment.get_template("chat").map_err(|err| failed(&self.origin, &err))?;
        template.render(context).map_err(|err| failed(&self.origin, &err))
    }
}

fn failed(origin: &str, err: &minijinja::Error) -> Error {
    let line = err.line().map_or(String::new(), |line| format!(", line {line}"));
    let detail = err.detail().map_or(String::new(), |detail| format!(": {detail}"));
    Error::Failed(format!("the chat template of `{origin}`{line}: {}{detail}", err.kind()))
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

    fn render(source: &str, turns: &[(Role, &str)], thinking: Thinking) -> Result<String> {
        let messages: Vec<Message> =
            turns.iter().map(|(role, content)| Message::new(*role, *content)).collect();
        Template::new("test.jinja".into(), source.into())?.render(&messages, thinking)
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
                &[(User, "Hi"), (Assistant, "Hello")][..], // An answer after the last question has a thought.
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

    #[test]
    fn a_template_that_fails_names_its_origin_and_line() {
        for (source, expected) in [
            ("\n\n{{ nobody }}", "the chat template of `test.jinja`, line 3: undefined value"),
            (
                "\n{{ raise_exception('Roles must alternate!') }}",
                "line 2: invalid operation: Roles must alternate!",
            ),
            ("\n{% if %}", "line 2: syntax error: "),
            ("{{ messages[9].content }}", "line 1: undefined value"),
            ("{{ strftime_now('%!') }}", "line 1: invalid operation: "),
        ] {
            let message = render(source, TURNS, Thinking::On).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}

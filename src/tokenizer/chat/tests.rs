//! Qwen's templates, what templates may use, and limits.

use super::Role::*;
use super::*;

fn template(source: &str) -> ChatTemplate {
    let tokens = [("eos_token", "<|im_end|>"), ("pad_token", "<|endoftext|>")];
    let tokens = tokens.map(|(name, token)| (name.into(), token.into()));
    ChatTemplate { origin: "test.jinja".into(), source: Ok(source.into()), tokens: tokens.into() }
}

fn render(source: &str, turns: &[(Role, &str)], thinking: Thinking) -> Result<String> {
    let messages: Vec<Message> =
        turns.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    template(source).chat(&messages, thinking)
}

const TURNS: &[(Role, &str)] =
    &[(User, "One?"), (Assistant, "<think>\nHm, one.\n</think>\n\nTwo."), (User, "Three?")];

#[test]
fn qwen3_drops_thoughts_and_can_disable_thinking() {
    let expected = "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n\
                    <|im_start|>user\nThree?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(render(QWEN3, TURNS, Thinking::On).unwrap(), expected);
    assert_eq!(
        render(QWEN3, TURNS, Thinking::Off).unwrap(),
        format!("{expected}<think>\n\n</think>\n\n")
    );
}

#[test]
fn qwen3_has_no_default_system_message() {
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

/// Every construct of the templates of Qwen3, QwQ and Qwen2.5.
#[test]
fn templates_may_use_the_constructs_of_qwens() {
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
        ("{% if messages[0].reasoning_content is string %}thought{% else %}no{% endif %}", "no"),
        (
            "{% if tools %}{{ tools | tojson }}{% else %}{{ {'name': 'f', 'of': [1, none]} | tojson }}{% endif %}",
            r#"{"name": "f", "of": [1, null]}"#,
        ),
        ("{% if enable_thinking is defined and enable_thinking is false %}off{% endif %}", "off"),
        ("{% for m in messages if m.role == 'user' %}{{ loop.index0 }}{% endfor %}", "01"),
        ("{{ strftime_now('%d %b %Y') }}", "01 Jan 2026"),
    ] {
        assert_eq!(render(source, TURNS, Thinking::Off).unwrap(), expected, "{source}");
    }
}

/// Everything that transformers adds to Jinja. The expected texts are Python's;
/// `fixtures/tokenizer.py` checks more of them.
#[test]
fn templates_may_use_the_functions_of_transformers() {
    for (source, expected) in [
        ("[{{ bos_token }}|{{ eos_token }}|{{ pad_token }}]", "[|<|im_end|>|<|endoftext|>]"),
        (
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}\
          {% break %}{% endfor %}",
            "assistant",
        ),
        ("a{% generation %}b{% endgeneration %}c", "abc"),
        ("a\n  {%- generation -%}\n b \n{%- endgeneration +%}\nc", "ab\nc"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
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

/// The smallest templates that exhausted the stack, memory or time.
#[test]
fn a_hostile_template_exceeds_a_limit() {
    let terms = ["1"; 65_000].join("+");
    let replaces = ".replace('a', 'aaaaaaaaaa')".repeat(12);
    let nested = "[".repeat(60_000);
    let hostile = |source: &str| render(source, TURNS, Thinking::On).unwrap_err().to_string();
    assert_eq!(render(&format!("{{{{ {terms} }}}}"), TURNS, Thinking::On).unwrap(), "65000");
    for (source, expected) in [
        (format!("{{{{ {terms}+{terms} }}}}"), " has 260005 bytes; at most 131072 are read"),
        (format!("{{{{ {nested}"), ", line 1: syntax error: template exceeds maximum recursion"),
        (format!("{{{{ {}1", "-".repeat(130_000)), ", line 1: syntax error: "),
        (format!("{{{{ 'a'{replaces} }}}}"), "the result of `replace` would have "),
        (
            format!("{{{{ 'a'{} }}}}", "|replace('a', 'aaaaaaaaaa')".repeat(12)),
            "the result of `replace` would have ",
        ),
        ("{{ (['a' * 1000000] * 1000)|join }}".into(), "the result of `join` would have more than"),
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}".into(),
            "exceeded the limit of 10000000 instructions",
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

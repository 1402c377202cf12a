//! Settings as environment variables: each key of `candlemark.toml` has one, which comes before
//! the file. Does not know which flag comes before it.

use std::collections::BTreeMap;
use std::ffi::OsString;

use toml::{Table, Value};

use crate::error::{Error, Result, shortened};
use crate::settings::Config;

/// How a variable's text becomes a value of the file.
#[derive(Clone, Copy)]
enum Kind {
    /// As it stands.
    Text,
    /// Words with spaces between them.
    Words,
    /// As TOML writes it: a number, `true`, `{ name = "value" }`.
    Toml,
}

/// The variables of settings, with the section and the key that each stands for.
const SETTINGS: &[(&str, &str, &str, Kind)] = &[
    ("CANDLEMARK_MODEL", "model", "spec", Kind::Text),
    ("CANDLEMARK_QUANT", "model", "quant", Kind::Text),
    ("CANDLEMARK_DEVICE", "model", "device", Kind::Text),
    ("CANDLEMARK_ENGINE", "model", "engine", Kind::Text),
    ("CANDLEMARK_THREADS", "model", "threads", Kind::Toml),
    ("CANDLEMARK_ROPE_SCALING", "model", "rope_scaling", Kind::Toml),
    ("CANDLEMARK_SEED", "generation", "seed", Kind::Toml),
    ("CANDLEMARK_DETERMINISTIC", "generation", "deterministic", Kind::Toml),
    ("CANDLEMARK_TEMPERATURE", "generation", "temperature", Kind::Toml),
    ("CANDLEMARK_TOP_K", "generation", "top_k", Kind::Toml),
    ("CANDLEMARK_TOP_P", "generation", "top_p", Kind::Toml),
    ("CANDLEMARK_REPETITION_PENALTY", "generation", "repetition_penalty", Kind::Toml),
    ("CANDLEMARK_USE_KV_CACHE", "generation", "use_kv_cache", Kind::Toml),
    ("CANDLEMARK_WARMUP_TOKENS", "generation", "warmup_tokens", Kind::Toml),
    ("CANDLEMARK_GEN_TOKENS", "generation", "gen_tokens", Kind::Toml),
    ("CANDLEMARK_WARMUPS", "generation", "warmups", Kind::Toml),
    ("CANDLEMARK_ITERS", "generation", "iters", Kind::Toml),
    ("CANDLEMARK_PROMPT_FORMAT", "generation", "prompt_format", Kind::Text),
    ("CANDLEMARK_NATURAL_STOP", "generation", "natural_stop", Kind::Toml),
    ("CANDLEMARK_SCENARIOS", "suite", "scenarios", Kind::Words),
    ("CANDLEMARK_BLOCKS", "suite", "blocks", Kind::Toml),
    ("CANDLEMARK_LIMITS", "gate", "limits", Kind::Toml),
    ("CANDLEMARK_FAIL_ON", "gate", "fail_on", Kind::Text),
    ("CANDLEMARK_ALLOW_CLASS", "gate", "allow_class", Kind::Toml),
    ("CANDLEMARK_REMOVED", "gate", "removed", Kind::Toml),
    ("CANDLEMARK_LABELS", "", "labels", Kind::Toml),
];

/// Variables that are no key of the file: who reads each is said where it is declared.
const OTHERS: &[&str] = &[
    "CANDLEMARK_BUDGET",
    "CANDLEMARK_HELD",
    "CANDLEMARK_INJECT",
    "CANDLEMARK_ISA",
    "CANDLEMARK_LLAMA_FA",
    "CANDLEMARK_LLAMA_MMAP",
    "CANDLEMARK_LLAMA_UBATCH",
    "CANDLEMARK_PIN",
    "CANDLEMARK_PLAIN_STAMP",
    "CANDLEMARK_REQUIRE_TIERS",
    "CANDLEMARK_WORKER",
];

const PREFIX: &str = "CANDLEMARK_";

/// The names of all variables of settings, for help texts.
pub fn variables() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|(name, ..)| *name)
}

/// The variables that begin as ours do, all known and all text; an empty one counts as unset.
fn ours(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (name, value) in variables {
        let name = name.to_string_lossy();
        if !name.starts_with(PREFIX) {
            continue;
        }
        let known = || self::variables().chain(OTHERS.iter().copied());
        if !known().any(|known| known == name) {
            return Err(Error::unknown("variable", &name, known()));
        }
        let no_text = |_| Error::Usage(format!("{name} is no UTF-8: write it anew, or unset it"));
        let value = value.into_string().map_err(no_text)?;
        if !value.trim().is_empty() {
            found.insert(name.into_owned(), value);
        }
    }
    Ok(found)
}

/// What a variable says, as a value of the file that is of the right type and in its range.
fn value(section: &str, key: &str, kind: Kind, text: &str) -> std::result::Result<Value, String> {
    let value = match kind {
        Kind::Text => Value::from(text),
        Kind::Words => text.split_whitespace().map(String::from).collect::<Vec<_>>().into(),
        Kind::Toml => {
            // A line of its own could hold another key.
            let parsed = toml::from_str::<Table>(&format!("x = {}", text.trim())).ok();
            let one = parsed.filter(|table| table.len() == 1 && !text.contains('\n'));
            one.and_then(|mut table| table.remove("x")).unwrap_or_else(|| Value::from(text))
        }
    };
    let mut alone = Table::new();
    put(&mut alone, section, key, value.clone());
    Config::of(alone)?;
    Ok(value)
}

fn put(table: &mut Table, section: &str, key: &str, value: Value) {
    if section.is_empty() {
        table.insert(key.into(), value);
        return;
    }
    let inner = table.entry(section).or_insert_with(|| Table::new().into());
    if let Some(inner) = inner.as_table_mut() {
        inner.insert(key.into(), value);
    }
}

/// Puts what variables say over the values of a file.
///
/// # Errors
/// When one is not known, is no text, or says what its key cannot be.
pub(super) fn overlay(
    table: &mut Table,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<()> {
    let found = ours(variables)?;
    for (name, section, key, kind) in SETTINGS {
        let Some(text) = found.get(*name) else { continue };
        let value = value(section, key, *kind, text)
            .map_err(|why| Error::Usage(format!("{name} is `{}`: {why}", shortened(text))))?;
        // As the flag: who asks for a temperature wants it to count.
        if *key == "temperature" && !found.contains_key("CANDLEMARK_DETERMINISTIC") {
            let is_greedy = value.as_float() == Some(0.0) || value.as_integer() == Some(0);
            put(table, section, "deterministic", is_greedy.into());
        }
        put(table, section, key, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn read(file: &str, variables: &[(&str, &str)]) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("candlemark.toml");
        std::fs::write(&path, file).unwrap();
        Config::read(Some(&path), variables.iter().map(|(name, text)| (name.into(), text.into())))
    }

    fn error(name: &str, text: &str) -> String {
        read("", &[(name, text)]).unwrap_err().to_string()
    }

    #[test]
    fn every_key_of_the_file_has_a_variable_that_comes_before_it() {
        let file = "[model]\nthreads = 2\n[generation]\niters = 7\nseed = 1\n";
        let config = read(
            file,
            &[
                ("CANDLEMARK_ITERS", "2"),
                ("CANDLEMARK_MODEL", "m.gguf"),
                ("CANDLEMARK_SCENARIOS", "short code/b4"),
                ("CANDLEMARK_LIMITS", "{ ttft_s = 0.2 }"),
                ("CANDLEMARK_LABELS", "{ host = \"a b\" }"),
                ("CANDLEMARK_NATURAL_STOP", "true"),
                ("CANDLEMARK_PROMPT_FORMAT", "chat"),
                ("CANDLEMARK_SEED", ""),
                ("HOME", "/root"),
            ],
        )
        .unwrap();
        assert_eq!((config.model.threads, config.generation.iters), (Some(2), 2));
        assert_eq!(config.model.spec.as_deref(), Some("m.gguf"));
        assert_eq!(config.suite.scenarios, ["short", "code/b4"]);
        assert_eq!((config.gate.limits["ttft_s"], config.labels["host"].as_str()), (0.2, "a b"));
        assert!(config.generation.natural_stop);
        assert_eq!(config.generation.prompt_format.name(), "chat");
        assert_eq!(config.generation.seed, 1, "an empty variable is none");
    }

    /// The list of keys is what serde itself knows.
    #[test]
    fn no_key_of_the_file_is_without_a_variable() {
        for section in ["model", "generation", "suite", "gate"] {
            let error = Config::parse(&format!("[{section}]\nxyzzy = 1\n")).unwrap_err();
            let (_, known) = error.split_once(", expected ").unwrap();
            let known: BTreeSet<&str> =
                known.lines().next().unwrap().split('`').skip(1).step_by(2).collect();
            let ours = SETTINGS.iter().filter(|(_, of, ..)| *of == section);
            assert_eq!(ours.map(|(_, _, key, _)| *key).collect::<BTreeSet<_>>(), known);
        }
    }

    #[test]
    fn a_temperature_counts_unless_the_output_is_to_be_deterministic() {
        let of = |variables: &[_]| read("", variables).unwrap().generation.deterministic;
        assert!(!of(&[("CANDLEMARK_TEMPERATURE", "0.7")]));
        assert!(of(&[("CANDLEMARK_TEMPERATURE", "0")]));
        let both = [("CANDLEMARK_TEMPERATURE", "0.7"), ("CANDLEMARK_DETERMINISTIC", "true")];
        assert!(of(&both));
    }

    #[test]
    fn an_unknown_variable_is_an_error_that_suggests_the_right_one() {
        let says = "no variable `CANDLEMARK_MODLE` (did you mean `CANDLEMARK_MODEL`?)";
        assert!(error("CANDLEMARK_MODLE", "x").starts_with(says));
        for name in OTHERS {
            read("", &[(name, "1")]).unwrap();
        }
    }

    #[test]
    fn a_variable_is_held_to_the_range_of_its_key() {
        for (name, text, says) in [
            ("ITERS", "0", "`generation.iters` is out of its range: 1 to 10000"),
            ("ITERS", "x", "invalid type: string \"x\", expected a whole number"),
            ("ITERS", "1.5", "invalid type: floating point `1.5`, expected a whole number"),
            ("ITERS", "2\nseed = 3", "invalid type: string"),
            ("THREADS", "18446744073709551616", "invalid type: string"),
            ("TEMPERATURE", "nan", "out of its range: from 0 to 1000; 0 is greedy"),
            ("PROMPT_FORMAT", "chta", "unknown variant `chta`, expected one of"),
        ] {
            let name = format!("CANDLEMARK_{name}");
            let error = error(&name, text);
            assert!(error.starts_with(&format!("{name} is `{text}`: ")), "{error}");
            assert!(error.contains(says), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_text_is_an_error_only_where_it_is_ours() {
        use std::os::unix::ffi::OsStringExt as _;
        let no_text = || OsString::from_vec(vec![0xff]);
        let one = |name: &str| Config::read(None, std::iter::once((name.into(), no_text())));
        let error = one("CANDLEMARK_MODEL").unwrap_err().to_string();
        assert_eq!(error, "CANDLEMARK_MODEL is no UTF-8: write it anew, or unset it");
        assert_eq!(one("OTHER").unwrap(), Config::default());
        let name = std::iter::once((no_text(), no_text()));
        assert_eq!(Config::read(None, name).unwrap(), Config::default());
    }
}

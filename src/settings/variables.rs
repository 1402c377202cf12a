//! Environment variables: each key of `candlemark.toml` has one, which overrides the file. Flags,
//! which override variables, are handled elsewhere.

use std::collections::BTreeMap;
use std::ffi::OsString;

use toml::{Table, Value};

use crate::error::{Error, Result, shortened};
use crate::settings::Config;

/// The keys of each section. [`variable`] is the name of the variable of a key.
const SETTINGS: [(&str, &str); 6] = [
    ("model", "spec quant kv_dtype device engine threads rope_scaling"),
    (
        "generation",
        "seed deterministic temperature top_k top_p repetition_penalty use_kv_cache warmup_tokens \
         gen_tokens warmups iters prompt_format natural_stop",
    ),
    ("suite", "scenarios blocks"),
    ("gate", "limits fail_on allow_class removed"),
    ("build", "package bench binary features"),
    ("", "labels"),
];

/// The variable of a key: `CANDLEMARK_TOP_K` of `generation.top_k`, `CANDLEMARK_BUILD_BENCH` of
/// `build.bench`, and `CANDLEMARK_MODEL` of `model.spec`.
fn variable(section: &str, key: &str) -> String {
    let name = match (section, key) {
        ("model", "spec") => "model".to_owned(),
        ("build", key) => format!("build_{key}"),
        (_, key) => key.to_owned(),
    };
    PREFIX.to_owned() + &name.to_uppercase()
}

/// Section and key of each setting.
fn settings() -> impl Iterator<Item = (&'static str, &'static str)> {
    let keys = |(section, keys): (_, &'static str)| keys.split(' ').map(move |key| (section, key));
    SETTINGS.into_iter().flat_map(keys)
}

/// Variables without a key in the file; each is documented where it is read.
const OTHERS: [&str; 10] = [
    "CANDLEMARK_API_KEY",
    "CANDLEMARK_BUDGET",
    "CANDLEMARK_HELD",
    "CANDLEMARK_INJECT",
    "CANDLEMARK_ISA",
    "CANDLEMARK_KERNELS",
    "CANDLEMARK_PIN",
    "CANDLEMARK_PLAIN_STAMP",
    "CANDLEMARK_REQUIRE_TIERS",
    "CANDLEMARK_WORKER",
];

const PREFIX: &str = "CANDLEMARK_";

/// The variables of all settings, for help texts.
pub fn variables() -> Vec<String> {
    settings().map(|(section, key)| variable(section, key)).collect()
}

/// The variables with candlemark's prefix; an empty one counts as unset.
///
/// # Errors
/// When one is unknown or not UTF-8.
fn own_variables(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<BTreeMap<String, String>> {
    let known = [self::variables(), OTHERS.map(String::from).to_vec()].concat();
    let mut found = BTreeMap::new();
    for (name, value) in variables {
        let name = name.to_string_lossy();
        if !name.starts_with(PREFIX) {
            continue;
        }
        if !known.iter().any(|known| *known == name) {
            return Err(Error::unknown("variable", &name, known.iter().map(String::as_str)));
        }
        let not_utf8 =
            |_| Error::Usage(format!("{name} is not UTF-8; set it to text, or unset it"));
        let value = value.into_string().map_err(not_utf8)?;
        if !value.trim().is_empty() {
            found.insert(name.into_owned(), value);
        }
    }
    Ok(found)
}

/// Parses a variable's text, a TOML value (`2`, `true`, `{ name = "value" }`), plain text, or words
/// separated by spaces, whichever the key accepts; otherwise the error of the first of these.
fn parse_value(section: &str, key: &str, text: &str) -> std::result::Result<Value, String> {
    // Another line could contain another key.
    let toml = toml::from_str::<Table>(&format!("x = {}", text.trim())).ok();
    let toml = toml.filter(|table| table.len() == 1 && !text.contains('\n'));
    let words: Vec<String> = text.split_whitespace().map(String::from).collect();
    let candidates = [
        toml.and_then(|mut table| table.remove("x")),
        Some(Value::from(text)),
        Some(Value::from(words)),
    ];
    let accepted = candidates.into_iter().flatten().map(|value| {
        let mut alone = Table::new();
        insert(&mut alone, section, key, value.clone());
        Config::from_table(alone).map(|_| value)
    });
    accepted.reduce(|first, next| first.or_else(|why| next.map_err(|_| why))).expect("two at least")
}

fn insert(table: &mut Table, section: &str, key: &str, value: Value) {
    if section.is_empty() {
        table.insert(key.into(), value);
        return;
    }
    let inner = table.entry(section).or_insert_with(|| Table::new().into());
    if let Some(inner) = inner.as_table_mut() {
        inner.insert(key.into(), value);
    }
}

/// Overrides the values of a file by those of variables.
///
/// # Errors
/// When a variable is unknown, is not UTF-8, or has an invalid value.
pub(super) fn overlay(
    table: &mut Table,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<()> {
    let found = own_variables(variables)?;
    for (section, key) in settings() {
        let name = variable(section, key);
        let Some(text) = found.get(&name) else { continue };
        let value = parse_value(section, key, text)
            .map_err(|why| Error::Usage(format!("{name} is `{}`: {why}", shortened(text))))?;
        // As for the flag, a temperature turns greedy sampling off.
        if key == "temperature" && !found.contains_key("CANDLEMARK_DETERMINISTIC") {
            let is_greedy = value.as_float() == Some(0.0) || value.as_integer() == Some(0);
            insert(table, section, "deterministic", is_greedy.into());
        }
        insert(table, section, key, value);
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
    fn a_variable_overrides_its_key_in_the_file() {
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

    /// Compares with the keys that serde lists.
    #[test]
    fn no_key_of_the_file_is_without_a_variable() {
        for section in ["model", "generation", "suite", "gate"] {
            let error = Config::parse(&format!("[{section}]\nxyzzy = 1\n")).unwrap_err();
            let (_, known) = error.split_once(", expected ").unwrap();
            let known: BTreeSet<&str> =
                known.lines().next().unwrap().split('`').skip(1).step_by(2).collect();
            let ours = settings().filter(|(of, _)| *of == section);
            assert_eq!(ours.map(|(_, key)| key).collect::<BTreeSet<_>>(), known);
        }
    }

    #[test]
    fn a_temperature_turns_deterministic_output_off_unless_it_is_set() {
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
    fn a_variable_has_the_range_of_its_key() {
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
    fn invalid_utf8_is_an_error_only_in_our_variables() {
        use std::os::unix::ffi::OsStringExt as _;
        let no_text = || OsString::from_vec(vec![0xff]);
        let one = |name: &str| Config::read(None, std::iter::once((name.into(), no_text())));
        let error = one("CANDLEMARK_MODEL").unwrap_err().to_string();
        assert_eq!(error, "CANDLEMARK_MODEL is not UTF-8; set it to text, or unset it");
        assert_eq!(one("OTHER").unwrap(), Config::default());
        let name = std::iter::once((no_text(), no_text()));
        assert_eq!(Config::read(None, name).unwrap(), Config::default());
    }

    #[test]
    fn the_example_file_has_every_key_and_changes_nothing_until_edited() {
        let example = include_str!("../../docs/candlemark.toml");
        assert_eq!(read(example, &[]).unwrap(), Config::default());
        let uncommented = example.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        });
        let edited: Vec<&str> = uncommented.collect();
        read(&edited.join("\n"), &[]).unwrap();
        let table: Table = toml::from_str(&edited.join("\n")).unwrap();
        for (section, key) in settings() {
            let inner =
                if section.is_empty() { &table } else { table[section].as_table().unwrap() };
            assert!(inner.contains_key(key), "[{section}] {key}");
        }
    }
}

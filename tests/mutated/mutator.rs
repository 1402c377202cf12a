//! Mutates valid files like damage, other programs and attackers.

use serde_json::{Map, Value};

use super::Random;

/// JSON numbers at the limits of types and beyond.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "2",
    "0.5",
    "-0.0",
    "1e-320",
    "1e308",
    "-1e308",
    "255",
    "65536",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
];

/// Texts with a special meaning: names, times, Markdown, HTML, the empty text.
const TEXTS: &[&str] = &[
    "",
    " ",
    "\0",
    "\n",
    "\u{202e}",
    "é",
    "💥",
    "a/b/c/d",
    "../../x",
    "|",
    "`",
    "<b>",
    "]]>",
    "%s",
    "2999-01-01T00:00:00Z",
    "yyy",
    "1e999",
    "nan",
    "-1",
    "null",
    "short/b1",
];

/// Mutates a valid input.
pub struct Mutator {
    random: Random,
}

impl Mutator {
    pub fn new(random: Random) -> Self {
        Self { random }
    }

    /// Applies one to eight changes of bytes: bit flips, 32- and 64-bit limits, parts removed,
    /// duplicated or moved, truncation, and other digits of a number.
    pub fn bytes(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.random.below(8) {
            if bytes.is_empty() {
                break;
            }
            let at = self.place(bytes.len());
            match self.random.below(9) {
                0 => bytes[at] ^= 1 << self.random.below(8),
                1 => bytes[at] = self.random.bits() as u8,
                2 => self.overwrite(&mut bytes, at, 4),
                3 => self.overwrite(&mut bytes, at, 8),
                4 => bytes.truncate(at),
                5 => drop(bytes.drain(at..self.end(at, bytes.len()))),
                6 => {
                    let part = bytes[at..self.end(at, bytes.len())].to_vec();
                    let to = self.place(bytes.len());
                    bytes.splice(to..to, part);
                }
                7 => {
                    let Some(from) = bytes[at..].iter().position(u8::is_ascii_digit) else {
                        continue;
                    };
                    let from = at + from;
                    let digits = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit());
                    let count = digits.count();
                    let number = NUMBERS[self.random.below(NUMBERS.len())].bytes();
                    bytes.splice(from..from + count, number);
                }
                _ => {
                    let part = bytes[at..self.end(at, bytes.len())].to_vec();
                    let to = self.place(bytes.len());
                    let over = part.len().min(bytes.len() - to);
                    bytes[to..to + over].copy_from_slice(&part[..over]);
                }
            }
        }
        bytes
    }

    /// Applies one to four changes to a JSON document that keep it valid JSON. Invalid JSON and one
    /// in eight documents are mutated as bytes.
    pub fn json(&mut self, seed: &[u8]) -> Vec<u8> {
        let Ok(mut value) = serde_json::from_slice::<Value>(seed) else { return self.bytes(seed) };
        if self.random.below(8) == 0 {
            return self.bytes(seed);
        }
        for _ in 0..=self.random.below(4) {
            let count = nodes(&value);
            let mut donor = value.clone();
            let donor = node(&mut donor, &mut self.random.below(count)).unwrap().take();
            let target = node(&mut value, &mut self.random.below(count)).unwrap();
            self.change(target, donor);
        }
        let mut text = value.to_string();
        if self.random.below(16) == 0 {
            text = text.replace("1e308", "1e309"); // Beyond what a double holds.
        }
        text.into_bytes()
    }

    /// Mostly keeps the type, so that parsing continues.
    fn change(&mut self, target: &mut Value, donor: Value) {
        if self.random.below(6) == 0 {
            *target = match self.random.below(6) {
                0 => Value::Null,
                1 => (0..200).fold(Value::Null, |inner, _| Value::Array(vec![inner])),
                2 => Value::Object(Map::new()),
                3 => Value::Array(Vec::new()),
                4 => self.number(),
                _ => donor,
            };
            return;
        }
        match target {
            Value::Null => *target = donor,
            Value::Bool(is) => *is = !*is,
            Value::Number(_) => *target = self.number(),
            Value::String(text) => match self.random.below(4) {
                0 => text.extend(std::iter::repeat_n('x', 1 << self.random.below(12))),
                1 if donor.is_string() => *target = donor,
                _ => *text = TEXTS[self.random.below(TEXTS.len())].into(),
            },
            Value::Array(list) if !list.is_empty() => {
                let at = self.random.below(list.len());
                match self.random.below(5) {
                    0 => drop(list.remove(at)),
                    1 => list.insert(at, list[self.random.below(list.len())].clone()),
                    2 => list.truncate(at),
                    3 => list.reverse(),
                    _ => list[at] = donor,
                }
            }
            Value::Array(list) => list.push(donor),
            Value::Object(fields) => {
                let keys: Vec<String> = fields.keys().cloned().collect();
                let Some(key) = (!keys.is_empty()).then(|| &keys[self.random.below(keys.len())])
                else {
                    return;
                };
                let value = fields.remove(key).unwrap();
                match self.random.below(4) {
                    0 => {}
                    1 => drop(fields.insert(format!("{key}x"), value)),
                    2 => drop(fields.insert(keys[self.random.below(keys.len())].clone(), value)),
                    _ => drop(fields.insert(key.clone(), donor)),
                }
            }
        }
    }

    fn number(&mut self) -> Value {
        let text = NUMBERS[self.random.below(NUMBERS.len())];
        serde_json::from_str(text).expect("a number")
    }

    /// A random position, half of the time near the beginning, where headers are.
    fn place(&mut self, length: usize) -> usize {
        let within = if self.random.below(2) == 0 { length.min(4096) } else { length };
        self.random.below(within)
    }

    fn end(&mut self, at: usize, length: usize) -> usize {
        (at + 1 + self.random.below(64)).min(length)
    }

    fn overwrite(&mut self, bytes: &mut [u8], at: usize, width: usize) {
        let edges = [0, 1, 2, 0x7f, 0xff, 1 << 16, 1 << 31, u32::MAX.into(), 1 << 62, u64::MAX];
        let number = match self.random.below(3) {
            0 => edges[self.random.below(edges.len())],
            1 => self.random.bits() >> self.random.below(64),
            _ => self.random.below(64) as u64,
        };
        let bytes = bytes[at..].iter_mut().zip(number.to_le_bytes());
        bytes.take(width).for_each(|(to, byte)| *to = byte);
    }
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(fields) => fields.values().map(nodes).sum::<usize>(),
        _ => 0,
    }
}

/// The node of this number in preorder.
fn node<'a>(value: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return Some(value);
    }
    *number -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|one| node(one, number)),
        Value::Object(fields) => fields.values_mut().find_map(|one| node(one, number)),
        _ => None,
    }
}

//! How each language writes numbers, percentages and units. Rounds exactly as [`number`] does, so that the same value is the same
//! digits in every language.

use crate::report::text::number;
use crate::report::text::signed;
use crate::report::words::Lang;
use crate::workload::Metric;

/// Between the thousands of a French number, and before its percent sign.
pub(crate) const NARROW: char = '\u{202f}';

impl Lang {
    /// English digits as this language writes them.
    fn local(self, digits: &str) -> String {
        match self {
            Lang::En | Lang::Ko => digits.into(),
            Lang::Fr => digits
                .chars()
                .map(|c| match c {
                    ',' => NARROW,
                    '.' => ',',
                    '-' if digits.len() > 1 => '\u{2212}',
                    other => other,
                })
                .collect(),
        }
    }

    /// Four significant digits, thousands set apart.
    pub(crate) fn number(self, value: f64) -> String {
        self.local(&number(value))
    }

    /// A count: every digit.
    pub(crate) fn count(self, count: usize) -> String {
        let digits = count.to_string();
        let mut grouped = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at) % 3 == 0 {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        self.local(&grouped)
    }

    fn per_cent(self, digits: &str) -> String {
        let digits = self.local(digits);
        match self {
            Lang::En => format!("{digits} %"),
            Lang::Fr => format!("{digits}{NARROW}%"),
            Lang::Ko => format!("{digits}%"),
        }
    }

    /// A share as a percentage with one decimal.
    pub(crate) fn share(self, share: f64) -> String {
        if share.is_finite() { self.per_cent(&format!("{:.1}", 100.0 * share)) } else { "-".into() }
    }

    /// A change as a percentage with its sign.
    pub(crate) fn change(self, share: f64) -> String {
        if share.is_finite() { self.per_cent(&signed(share)) } else { "-".into() }
    }

    /// A number and its unit; `%` stands as the language has it.
    pub(crate) fn with_unit(self, value: f64, unit: &str) -> String {
        match unit {
            "" => self.number(value),
            "%" => self.per_cent(&number(value)),
            _ => format!("{}\u{a0}{}", self.number(value), self.unit(unit)),
        }
    }

    /// A stored value of a metric in the unit that people see, without the unit.
    pub(crate) fn shown(self, metric: &Metric, stored: f64) -> String {
        self.number(stored * metric.scale)
    }

    /// The same with its unit.
    pub(crate) fn measured(self, metric: &Metric, stored: f64) -> String {
        self.with_unit(stored * metric.scale, metric.unit)
    }

    /// A metric's name and unit, for the head of a row or column.
    pub(crate) fn label(self, metric: &Metric) -> String {
        let name = self.metric(metric);
        if metric.unit.is_empty() {
            name.into()
        } else {
            format!("{name} ({})", self.unit(metric.unit))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_each_language_does() {
        for (value, en, fr) in [
            (1234.5, "1,234", "1\u{202f}234"),
            (0.012345, "0.01235", "0,01235"),
            (-1234567.0, "-1,234,567", "\u{2212}1\u{202f}234\u{202f}567"),
            (f64::NAN, "-", "-"),
        ] {
            assert_eq!([Lang::En, Lang::Ko, Lang::Fr].map(|lang| lang.number(value)), [en, en, fr]);
        }
        assert_eq!(
            [Lang::En, Lang::Fr, Lang::Ko].map(|lang| lang.share(0.1234)),
            ["12.3 %", "12,3\u{202f}%", "12.3%"]
        );
        assert_eq!(
            [Lang::En, Lang::Fr, Lang::Ko].map(|lang| lang.change(-0.05)),
            ["-5.0 %", "\u{2212}5,0\u{202f}%", "-5.0%"]
        );
        assert_eq!(Lang::Fr.count(12345), "12\u{202f}345");
        assert_eq!(Lang::Fr.with_unit(1234.5, "MiB"), "1\u{202f}234\u{a0}Mio");
        assert_eq!(Lang::Ko.with_unit(99.5, "%"), "99.50%");
    }
}

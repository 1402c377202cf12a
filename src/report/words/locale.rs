//! How each language writes numbers, percentages and units. Rounds as [`number`] does, so that a
//! value has the same digits in every language.

use crate::report::text::{group_thousands, number};
use crate::report::words::Lang;
use crate::workload::Metric;

/// Thousands separator of French, also before its percent sign.
pub(crate) const NARROW: char = '\u{202f}';

impl Lang {
    fn localized(self, digits: &str) -> String {
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

    /// Four significant digits with thousands separators.
    pub(crate) fn number(self, value: f64) -> String {
        self.localized(&number(value))
    }

    /// An exact count.
    pub(crate) fn count(self, count: usize) -> String {
        self.localized(&group_thousands(&count.to_string()))
    }

    /// A configured number (a limit, a target) without trailing zeros.
    pub(crate) fn exact(self, value: f64) -> String {
        let digits = value.to_string();
        self.fixed(value, digits.find('.').map_or(0, |at| digits.len() - at - 1))
    }

    /// A configured share.
    pub(crate) fn exact_share(self, share: f64) -> String {
        self.percent(&((1e6 * share).round() / 1e4).to_string())
    }

    /// A configured number with its unit.
    pub(crate) fn exact_with_unit(self, value: f64, unit: &str) -> String {
        format!("{}\u{a0}{}", self.exact(value), self.unit(unit))
    }

    /// A value and its standard deviation, with equal decimals.
    pub(crate) fn with_sd(self, value: f64, sd: f64) -> String {
        let digits = number(value);
        let decimals = digits.find('.').map_or(0, |at| digits.len() - at - 1);
        format!("{}\u{a0}±\u{a0}{}", self.localized(&digits), self.fixed(sd, decimals))
    }

    /// Separator of list items that contain commas.
    pub(crate) fn semicolon(self) -> &'static str {
        if self == Lang::Fr { "\u{202f}; " } else { "; " }
    }

    /// A fixed number of decimals, for axis ticks.
    pub(crate) fn fixed(self, value: f64, decimals: usize) -> String {
        let digits = format!("{value:.decimals$}");
        let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
        let (sign, whole) = whole.split_at(usize::from(whole.starts_with('-')));
        self.localized(&format!("{sign}{}{rest}", group_thousands(whole)))
    }

    fn percent(self, digits: &str) -> String {
        let digits = self.localized(digits);
        match self {
            Lang::En => format!("{digits} %"),
            Lang::Fr => format!("{digits}{NARROW}%"),
            Lang::Ko => format!("{digits}%"),
        }
    }

    /// A share as a percentage with one decimal.
    pub(crate) fn share(self, share: f64) -> String {
        if share.is_finite() { self.percent(&format!("{:.1}", 100.0 * share)) } else { "-".into() }
    }

    /// A number and its unit; `%` follows the language's rule.
    pub(crate) fn with_unit(self, value: f64, unit: &str) -> String {
        match unit {
            "" => self.number(value),
            "%" => self.percent(&number(value)),
            _ => format!("{}\u{a0}{}", self.number(value), self.unit(unit)),
        }
    }

    /// A stored value of a metric in its display unit, without the unit.
    pub(crate) fn metric_value(self, metric: &Metric, stored: f64) -> String {
        self.number(stored * metric.scale)
    }

    /// A stored value of a metric with its display unit.
    pub(crate) fn metric_value_with_unit(self, metric: &Metric, stored: f64) -> String {
        self.with_unit(stored * metric.scale, metric.unit)
    }

    /// A metric's name and unit, for a heading.
    pub(crate) fn metric_label(self, metric: &Metric) -> String {
        let name = self.metric_name(metric);
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
        assert_eq!(Lang::Fr.fixed(-12345.25, 1), "\u{2212}12\u{202f}345,2");
        assert_eq!(Lang::En.with_sd(1851.2, 93.4), "1,851\u{a0}±\u{a0}93");
        assert_eq!(Lang::Fr.with_sd(0.09538, 0.0077), "0,09538\u{a0}±\u{a0}0,00770");
        assert_eq!([5.0, 1.2, 1000.0].map(|x| Lang::En.exact(x)), ["5", "1.2", "1,000"]);
        assert_eq!([0.1, 0.5, 0.125].map(|x| Lang::Ko.exact_share(x)), ["10%", "50%", "12.5%"]);
        assert_eq!(Lang::Ko.fixed(0.5, 2), "0.50");
        assert_eq!(Lang::Fr.count(12345), "12\u{202f}345");
        assert_eq!(Lang::Fr.with_unit(1234.5, "MiB"), "1\u{202f}234\u{a0}Mio");
        assert_eq!(Lang::Ko.with_unit(99.5, "%"), "99.50%");
    }
}

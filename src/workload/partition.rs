//! Shards of a selection: the same scenario is in the same shard, whatever else is selected.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::workload::{Scenario, select};

/// One of several shards, written `1/3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    index: u64,
    count: u64,
}

impl FromStr for Partition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/');
        let parts =
            parts.and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parts {
            Some((index, count)) if (1..=count).contains(&index) && count <= 1000 => {
                Ok(Self { index, count })
            }
            _ => Err(Error::Usage("give a shard and their number, such as 1/3".into())),
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl Partition {
    /// The scenarios of this shard among those that the words select.
    ///
    /// # Errors
    /// When a word selects nothing, or the shard is empty.
    pub fn select(self, words: &[String]) -> Result<Vec<Scenario>> {
        let mut scenarios = select(words)?;
        scenarios.retain(|scenario| self.has(&scenario.id));
        if scenarios.is_empty() {
            return Err(Error::Usage(format!("shard {self} has no scenario; use fewer shards")));
        }
        Ok(scenarios)
    }

    /// Whether a scenario is in this shard, by the first 8 bytes of its id's SHA-256.
    fn has(self, id: &str) -> bool {
        let hash = Sha256::digest(id);
        let hash = hash.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
        hash % self.count == self.index - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_in_one_shard() {
        let all = select(&[]).unwrap();
        for count in 1..=4 {
            let shards = (1..=count).map(|index| format!("{index}/{count}"));
            let shards = shards.map(|text| text.parse::<Partition>().unwrap().select(&[]).unwrap());
            let mut ids: Vec<String> = shards.flatten().map(|scenario| scenario.id).collect();
            ids.sort();
            let mut expected: Vec<String> = all.iter().map(|one| one.id.clone()).collect();
            expected.sort();
            assert_eq!(ids, expected);
        }
    }

    #[test]
    fn a_scenario_stays_in_its_shard_whatever_else_is_selected() {
        let alone = |index| {
            let partition: Partition = format!("{index}/2").parse().unwrap();
            partition.select(&["code/b4".into()]).is_ok()
        };
        let among = |index| {
            let partition: Partition = format!("{index}/2").parse().unwrap();
            partition.select(&[]).unwrap().iter().any(|one| one.id == "code/b4")
        };
        assert_eq!([alone(1), alone(2)], [among(1), among(2)]);
        for wrong in ["0/2", "3/2", "1", "1/0", "a/b", "1/2000"] {
            assert!(wrong.parse::<Partition>().is_err(), "{wrong}");
        }
    }
}

//! Checks a pool for contradictions, because replayed rules trust it. An error names what is wrong.

use crate::record::json::unique;
use crate::record::pair::Round;
use crate::record::pool::{Pool, PoolArm, PoolBlock, Role};
use crate::workload::metric;

type Checked = std::result::Result<(), String>;

impl Pool {
    /// The first contradiction, if there is one.
    pub(super) fn check(&self) -> Checked {
        let letters: Vec<String> = self.arms.iter().map(|arm| arm.letter.to_string()).collect();
        unique(letters.iter().map(String::as_str)).map_err(|_| "two arms have one letter")?;
        if !matches!(self.arms.first(), Some(PoolArm { letter: 'A', role: Role::Base, .. })) {
            return Err("the first arm has to be `A`, the base".into());
        }
        if self.scenarios.is_empty() {
            return Err("it has no scenario".into());
        }
        let ids = self.scenarios.iter().map(|case| case.id.as_str());
        unique(ids).map_err(|id| format!("it has the scenario `{id}` twice"))?;
        if self.environments.is_empty() {
            return Err("it has no environment".into());
        }
        let names = self.environments.iter().map(|environment| environment.name.as_str());
        unique(names).map_err(|_| "two environments have one name")?;
        for environment in &self.environments {
            for (at, block) in environment.blocks.iter().enumerate() {
                self.check_block(block)
                    .map_err(|why| format!("block {at} of `{}`: {why}", environment.name))?;
            }
        }
        Ok(())
    }

    fn check_block(&self, block: &PoolBlock) -> Checked {
        let (has, needs) = (block.scenarios.len(), self.scenarios.len());
        if has != needs {
            return Err(format!("it has {has} scenarios, the pool has {needs}"));
        }
        for (case, turns) in self.scenarios.iter().zip(&block.scenarios) {
            let named = |why: String| format!("`{}`: {why}", case.id);
            if turns.rounds.is_empty() {
                return Err(named("it has no turns".into()));
            }
            turns.rounds.iter().try_for_each(|round| self.check_round(round)).map_err(named)?;
            for (name, values) in &turns.once {
                values.keys().try_for_each(|letter| self.check_letter(*letter)).map_err(named)?;
                check_values(name, values.values()).map_err(named)?;
            }
        }
        Ok(())
    }

    fn check_round(&self, round: &Round) -> Checked {
        let order = &round.order;
        if !order.chars().eq(order.chars().rev()) {
            return Err(format!("the order `{order}` is not a palindrome"));
        }
        order.chars().try_for_each(|letter| self.check_letter(letter))?;
        for (name, values) in &round.values {
            check_values(name, values)?;
            if values.len() != order.chars().count() {
                return Err(format!("`{name}` has {} values for `{order}`", values.len()));
            }
        }
        Ok(())
    }

    fn check_letter(&self, letter: char) -> Checked {
        self.arm(letter).map(|_| ()).ok_or_else(|| format!("no arm has the letter `{letter}`"))
    }
}

fn check_values<'a>(name: &str, values: impl IntoIterator<Item = &'a f64>) -> Checked {
    metric(name).ok_or_else(|| format!("there is no metric `{name}`"))?;
    match values.into_iter().find(|value| !(value.is_finite() && **value > 0.0)) {
        Some(value) => Err(format!("`{name}` is {value}; it must be positive and finite")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::record::pool::PoolTurns;
    use crate::record::pool::tests::pool;

    #[test]
    fn contradictions_are_refused_with_the_reason() {
        fn turns(pool: &mut Pool) -> &mut PoolTurns {
            &mut pool.environments[0].blocks[1].scenarios[0]
        }
        type Edit = fn(&mut Pool);
        let edits: &[(Edit, &str)] = &[
            (|p| p.arms.clear(), "the first arm has to be `A`"),
            (|p| p.arms[2].letter = 'N', "two arms have one letter"),
            (|p| p.scenarios.clear(), "no scenario"),
            (|p| p.scenarios.push(p.scenarios[0].clone()), "the scenario `short/b1` twice"),
            (|p| p.environments.clear(), "no environment"),
            (|p| p.environments.push(p.environments[0].clone()), "two environments"),
            (|p| turns(p).rounds.clear(), "block 1 of `quiet`: `short/b1`: it has no turns"),
            (|p| turns(p).rounds[0].order = "ANAN".into(), "is not a palindrome"),
            (|p| turns(p).rounds[0].order = "AZZA".into(), "the letter `Z`"),
            (|p| turns(p).rounds[0].order = "AA".into(), "4 values for `AA`"),
            (
                |p| turns(p).rounds[0].values.get_mut("decode_tok_s").unwrap()[2] = 0.0,
                "`decode_tok_s` is 0",
            ),
            (
                |p| drop(turns(p).once.insert("speed".into(), BTreeMap::new())),
                "there is no metric `speed`",
            ),
            (|p| p.environments[0].blocks[2].scenarios.clear(), "it has 0 scenarios"),
        ];
        for (edit, why) in edits {
            let mut pool = pool();
            edit(&mut pool);
            let found = pool.check().unwrap_err();
            assert!(found.contains(why), "{found}");
        }
        assert_eq!(pool().check(), Ok(()));
    }
}

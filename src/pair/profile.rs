//! After a regression: which kernels take longer. Both builds trace one scenario each, after the
//! verdict and never within it, because tracing costs time.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::measure::Sharing;
use crate::measure::profile::TRACED_S;
use crate::pair::Plan;
use crate::record::Rates;
use crate::record::pair::KernelProfile;
use crate::suite;
use crate::suite::Job;

/// The scenario that is traced.
const SCENARIO: &str = "profile/answer";

/// Traces both builds in turns of fresh processes.
///
/// # Errors
/// When a build cannot trace: another engine, a device, or a build that is too old.
pub(super) fn trace(plan: &Plan, base: &Path, candidate: &Path) -> Result<KernelProfile> {
    let trace = |binary: &Path| {
        let mut setup = plan.setup.clone();
        (setup.generation.warmups, setup.generation.iters) = (1, 5);
        let job = Job {
            setup,
            scenarios: vec![SCENARIO.into()],
            session: String::new(),
            sharing: Sharing::Fresh,
            rates: Rates::default(),
            injection: None,
            references: false,
            text: None,
        };
        let mut case = None;
        suite::run_job(binary, &job, &mut |result| {
            case = Some(result.case);
            Ok(())
        })?;
        let case = case.ok_or_else(|| Error::Failed("the worker sent no result".into()))?;
        if let Some(absent) = case.absent {
            return Err(Error::Failed(absent.to_string()));
        }
        let values = case.blocks.into_iter().next().map(|block| block.values).unwrap_or_default();
        seconds(&values).ok_or_else(|| Error::Failed("this build does not time kernels".into()))
    };
    Ok(KernelProfile { base: trace(base)?, candidate: trace(candidate)? })
}

/// Seconds per generation in each kind of kernel, and between kernels.
fn seconds(values: &BTreeMap<String, Option<f64>>) -> Option<BTreeMap<String, f64>> {
    let value = |name: &str| values.get(name).copied().flatten();
    let total = value(TRACED_S)?;
    let shares = values.iter().filter_map(|(name, share)| {
        let kernel = name.strip_prefix("traced_")?.strip_suffix("_share")?;
        Some((kernel.to_owned(), total * (*share)?))
    });
    let mut seconds: BTreeMap<String, f64> = shares.collect();
    seconds.insert("rest".into(), total - seconds.values().sum::<f64>());
    Some(seconds)
}

//! The texts of a scenario's prompts, and what they share on purpose so that a server's prefix
//! cache can answer for it: the conversation so far, or a prefix. A salt then begins each
//! conversation and each prefix, not each request.

use super::prompts::text_of_length;
use super::{Connection, ServerSample};
use crate::client::Request;
use crate::error::Result;
use crate::record::{Block, Validity};
use crate::workload::{Input, Scenario, metric};
use crate::{stats, workload};

/// A hit rate up to this is that of requests which share nothing: the cache knows what precedes the
/// salt, a begin-of-text token and the chat template.
const COLD: f64 = 0.1;

/// The prompts of a scenario.
pub(super) struct Prompts {
    before: Before,
    /// One per sequence.
    own: Vec<String>,
}

/// What comes before the prompts.
enum Before {
    /// Nothing: every request has a salt of its own.
    Nothing,
    /// A prefix without its salt, and with it.
    Prefix { plain: String, salted: String },
    /// Earlier messages of a conversation, each followed by its answer.
    Messages(&'static [&'static str]),
}

/// Whether texts begin with a salt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Salt {
    Fresh,
    None,
}

impl Prompts {
    /// The prompts of a scenario. `count` says how many tokens a text has, by the server.
    ///
    /// # Errors
    /// Those of `count`.
    pub(super) fn new(
        scenario: &Scenario,
        connection: &mut Connection,
        count: impl Fn(&Connection, &str) -> Result<usize>,
    ) -> Result<Self> {
        let (mut before, mut own) = (Before::Nothing, scenario.prompts());
        let cut = |tokens| text_of_length(tokens, |text| count(connection, text));
        match scenario.input {
            Input::Length { prompt_tokens } => own = vec![cut(prompt_tokens)?],
            Input::SharedPrefix { prefix, read } => {
                let plain = cut(prefix)?;
                let whole = cut(prefix + read)?;
                // Both are the beginning of the same text.
                own = vec![whole.get(plain.len()..).unwrap_or_default().into()];
                let salted = connection.salts.salted(&plain);
                before = Before::Prefix { plain, salted };
            }
            Input::Turn { number } if number > 1 => {
                before = Before::Messages(workload::messages_before(number));
            }
            _ => {}
        }
        Ok(Self { before, own })
    }

    /// Whether requests share a prefix.
    pub(super) fn have_prefix(&self) -> bool {
        matches!(self.before, Before::Prefix { .. })
    }

    /// Whether requests share text.
    fn share(&self) -> bool {
        !matches!(self.before, Before::Nothing)
    }

    /// The texts of a batch. The earlier turns of a conversation are asked for first, by `request`.
    ///
    /// # Errors
    /// When an earlier turn has no complete answer.
    pub(super) fn texts(
        &self,
        connection: &mut Connection,
        salt: Salt,
        request: impl Fn(&str) -> Request,
    ) -> Result<Vec<String>> {
        let mut begin = |text: &str| match salt {
            Salt::Fresh => connection.salts.salted(text),
            Salt::None => text.to_owned(),
        };
        Ok(match &self.before {
            Before::Nothing => self.own.iter().map(|own| begin(own)).collect(),
            Before::Prefix { plain, salted } => {
                let prefix = if salt == Salt::Fresh { salted } else { plain };
                self.own.iter().map(|own| prefix.clone() + &begin(own)).collect()
            }
            Before::Messages(messages) => {
                let mut text = begin("");
                for message in *messages {
                    text += message;
                    for answer in connection.send(vec![request(&text)])? {
                        text += &answer.content;
                    }
                }
                self.own.iter().map(|own| text.clone() + own).collect()
            }
        })
    }

    /// Everything that is sent but salts and answers: it tells one work from another.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        let before = match &self.before {
            Before::Nothing => Vec::new(),
            Before::Prefix { plain, .. } => vec![plain.as_str()],
            Before::Messages(messages) => messages.to_vec(),
        };
        before.into_iter().chain(self.own.iter().map(String::as_str))
    }

    /// Stores how much of the prompts came from the server's prefix cache, if they share text.
    pub(super) fn store_hit_rate(&self, samples: &[ServerSample], block: &mut Block) {
        let Some(rate) = hit_rate(samples).filter(|_| self.share()) else { return };
        block.server.insert("hit_rate".into(), rate);
        let note = format!(
            "{:.0} % of the prompt tokens came from the server's prefix cache, by its usage",
            100.0 * rate
        );
        block.notes.insert(metric::TTFT_S.into(), note);
    }

    /// Warns where a prefix cache answered for prompts that share nothing, or did not for those
    /// that do.
    pub(super) fn check_hits(&self, samples: &[ServerSample], validity: &mut Validity) {
        let shares = samples.iter().filter_map(|sample| sample.cached_share);
        let most = shares.fold(0.0, f64::max);
        let warning = match hit_rate(samples) {
            _ if !self.share() => return validity.warnings.extend(unwanted_hits(most)),
            None => {
                "the server does not say how much of a prompt came from its prefix cache: TTFT \
                 may be cold"
                    .into()
            }
            Some(rate) if rate <= COLD => {
                "the server's prefix cache had nothing of what the prompts share: TTFT is cold"
                    .into()
            }
            _ => return,
        };
        validity.warnings.push(warning);
    }
}

/// The share of prompt tokens that came from the server's prefix cache, the mean over samples;
/// `None` if the server does not say it of every one.
fn hit_rate(samples: &[ServerSample]) -> Option<f64> {
    let shares = samples.iter().map(|sample| sample.cached_share);
    stats::mean(&shares.collect::<Option<Vec<f64>>>()?)
}

/// A warning of prompts that share nothing, if a prefix cache had up to this share of one.
pub(super) fn unwanted_hits(most: f64) -> Option<String> {
    let percent = 100.0 * most;
    (most > COLD)
        .then(|| format!("the server took up to {percent:.0} % of a prompt from its prefix cache"))
}

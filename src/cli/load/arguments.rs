//! The flags of `candlemark load`, and what they ask for.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::client::Api;
use crate::error::{Error, Result, counted};
use crate::files;
use crate::load::{
    Arrival, BYTES_PER_TOKEN, Dataset, Goal, Lengths, MAX_REQUESTS, Operation, Pace, Plan, Prompts,
    Source, Trace,
};
use crate::settings::duration;
use crate::workload::CATEGORIES;

/// Put load on an OpenAI-compatible server, and measure rates and latencies
///
/// A closed loop (`--concurrency`) sends the next request when one ends; an open loop (`--rate`)
/// sends at instants that are drawn before, and its latencies count from those; a trace (`--trace`)
/// has its own. Several values, with commas, are levels one after another; they end at the first
/// level that gains less than 5 % of throughput. Lengths are a number of tokens, uniform:A:B,
/// normal:MEAN:SD or file:PATH. Exit status 0: measured; 5: too many errors, or the client was late
/// (INVALID); 130: interrupted, with what there was until then.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the server: http://host:port, with or without /v1
    #[arg(long, value_name = "URL")]
    pub(super) url: String,
    /// The model's name on the server [default: its only one]
    #[arg(long, value_name = "NAME")]
    pub(super) served_model_name: Option<String>,
    /// File that holds the key; CANDLEMARK_API_KEY otherwise
    #[arg(long, value_name = "FILE")]
    pub(super) api_key_file: Option<PathBuf>,
    /// API to ask: completions, chat, embeddings or rerank
    #[arg(long, value_name = "API", default_value = "completions")]
    pub(super) api: Operation,
    /// Closed loop: requests in flight
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with = "rate",
          default_value = "1", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(super) concurrency: Vec<u16>,
    /// Open loop: requests per second
    #[arg(long, value_name = "R,…", value_delimiter = ',', value_parser = rate)]
    pub(super) rate: Vec<f64>,
    /// Distribution of the time between requests: constant, poisson or gamma:SHAPE
    #[arg(long, default_value = "poisson", requires = "rate")]
    arrival: Arrival,
    /// Replay the requests of a trace (Mooncake's JSON lines) at their instants
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "concurrency"])]
    pub(super) trace: Option<PathBuf>,
    /// Replay the trace so many times as fast
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, requires = "trace",
          value_parser = speed)]
    trace_speed: f64,
    /// Stop sending after this number of requests [default: 32 without --duration or --trace]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_REQUESTS))]
    requests: Option<u64>,
    /// Stop sending after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Requests before each level that do not count
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmups: u64,
    /// Start the requests of a closed loop over this time
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s")]
    ramp: Duration,
    /// Prompt categories [default: all]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',',
          conflicts_with_all = ["input_tokens", "dataset", "trace"],
          value_parser = clap::builder::PossibleValuesParser::new(Source::category_names()))]
    categories: Vec<String>,
    /// Running text of this length instead
    #[arg(long, value_name = "LENGTHS", conflicts_with_all = ["dataset", "trace"])]
    input_tokens: Option<Lengths>,
    /// Conversations of a file instead (ShareGPT's JSON)
    #[arg(long, value_name = "FILE", conflicts_with = "trace")]
    dataset: Option<PathBuf>,
    /// Begin every prompt with the same text of this number of tokens
    #[arg(long, value_name = "N", conflicts_with = "trace",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    shared_prefix: Option<u64>,
    /// Turns of a conversation: every prompt holds the conversation so far
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "trace",
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(super) turns: u64,
    /// Time between an answer and the next turn
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s")]
    think_time: Duration,
    /// Tokens to generate per answer [default: 64, or as in the dataset or trace]
    #[arg(long, value_name = "LENGTHS")]
    output_tokens: Option<Lengths>,
    /// Measure every level twice, the second time with answers that follow this JSON schema
    #[arg(long, value_name = "FILE")]
    pub(super) schema: Option<PathBuf>,
    /// Texts per request of embeddings and rerank
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=4096))]
    items: u64,
    /// Send the same prompts in every run, so that the server may have them in its prefix cache
    #[arg(long)]
    no_salt: bool,
    /// Count answers that keep these times: ttft=200ms,tpot=50ms,e2e=5s
    #[arg(long, value_name = "METRIC=TIME,…", value_delimiter = ',')]
    slo: Vec<Goal>,
    /// Seed of arrivals, prompts, lengths and sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Longest client lag (p99); above it the result is INVALID
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10ms")]
    max_lag: Duration,
    /// Largest share of requests without a complete answer, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(super) max_error_rate: f64,
    /// Longest time for one answer
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m")]
    pub(super) timeout: Duration,
    /// Price of the server per hour, for the price of a million tokens
    #[arg(long, value_name = "PRICE")]
    pub(super) price_hour: Option<f64>,
    /// Write a line of JSON for every request when it ends
    #[arg(long, value_name = "FILE")]
    pub(super) output_requests: Option<PathBuf>,
    /// Format of the result
    #[arg(long, value_enum, default_value = "human")]
    pub(super) format: Format,
    /// The same as `--format json`
    #[arg(long, conflicts_with = "format")]
    pub(super) json: bool,
    /// Output file of the result [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Text for a terminal
    Human,
    /// JSON with everything
    Json,
    /// JSON of `vllm bench serve --save-result`, one line per level
    Vllm,
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=100_000.0).contains(rate));
    rate.ok_or_else(|| "a rate is a number of requests per second from 0.001 to 100000".into())
}

fn speed(text: &str) -> std::result::Result<f64, String> {
    let speed = text.parse().ok().filter(|speed| (0.001..=1000.0).contains(speed));
    speed.ok_or_else(|| "a speed is a factor from 0.001 to 1000".into())
}

impl Arguments {
    /// The prompts, before the server is known.
    ///
    /// # Errors
    /// When a file cannot be read or is not of its kind, or flags contradict one another.
    pub(super) fn prompts(&self) -> Result<Prompts> {
        let generates = matches!(self.api, Operation::Generate { .. });
        for (is_given, flag) in [
            (self.turns > 1, "--turns"),
            (self.schema.is_some(), "--schema"),
            (self.output_tokens.is_some(), "--output-tokens"),
            (self.trace.is_some(), "--trace"),
        ] {
            if is_given && !generates {
                let why = format!("`{flag}` needs an API that generates; leave it out");
                return Err(Error::Usage(format!("{why}, or use `--api completions` or chat")));
            }
        }
        if self.items > 1 && generates {
            return Err(Error::Usage("`--items` needs `--api embeddings` or rerank".into()));
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let salt = now.map_or(0, |now| now.as_nanos() as u64);
        let source = self.source()?;
        let has_lengths = matches!(source, Source::Dataset(_) | Source::Trace(_));
        let default = || (!has_lengths).then_some(Lengths::Fixed { tokens: 64 });
        Ok(Prompts {
            source,
            output_tokens: self.output_tokens.clone().or_else(default),
            operation: self.api,
            model: String::new(),
            accepted: Vec::new(),
            shared_prefix: self.shared_prefix.unwrap_or(0),
            turns: self.turns,
            items: self.items,
            schema: None,
            seed: self.seed,
            salt: Some(salt).filter(|_| !self.no_salt),
            bytes_per_token: BYTES_PER_TOKEN,
        })
    }

    fn source(&self) -> Result<Source> {
        if let Some(path) = &self.trace {
            return Ok(Source::Trace(Trace::read(path).map_err(Error::of_named_file)?));
        }
        if let Some(path) = &self.dataset {
            return Ok(Source::Dataset(Dataset::read(path).map_err(Error::of_named_file)?));
        }
        if let Some(lengths) = &self.input_tokens {
            return Ok(Source::RunningText(lengths.clone()));
        }
        let is_wanted = |name: &str| {
            self.categories.is_empty() || self.categories.iter().any(|one| one == name)
        };
        let wanted = CATEGORIES.iter().filter(|category| is_wanted(category.name));
        Ok(Source::categories(&wanted.collect::<Vec<_>>()))
    }

    /// Whether lengths in tokens depend on the server's vocabulary.
    pub(super) fn has_lengths(&self) -> bool {
        self.input_tokens.is_some()
            || self.trace.is_some()
            || self.dataset.is_some()
            || self.shared_prefix.is_some()
    }

    /// The schema of answers.
    ///
    /// # Errors
    /// When the file is not JSON.
    pub(super) fn schema(&self) -> Result<Option<Value>> {
        let read = |path: &PathBuf| {
            let text = files::read(path)?;
            serde_json::from_str(&text)
                .map_err(|why| Error::invalid(path, format!("{why}; it must be a JSON schema")))
        };
        self.schema.as_ref().map(read).transpose().map_err(Error::of_named_file)
    }

    /// The levels in their order.
    pub(super) fn plans(&self) -> Vec<Plan> {
        let arrival = self.arrival;
        let closed = |&concurrency: &u16| Pace::Closed { concurrency: concurrency.into() };
        let open = |&rate: &f64| Pace::Open { rate, arrival };
        let paces: Vec<Pace> = if self.trace.is_some() {
            vec![Pace::Trace { speed: self.trace_speed }]
        } else if self.rate.is_empty() {
            self.concurrency.iter().map(closed).collect()
        } else {
            self.rate.iter().map(open).collect()
        };
        let default = 32;
        let requests = match (self.requests, self.duration) {
            (None, None) if self.trace.is_none() => Some(default),
            (requests, _) => requests,
        };
        let plan = |pace| Plan {
            pace,
            requests,
            duration_s: self.duration.map(|time| time.as_secs_f64()),
            warmups: self.warmups,
            ramp_s: self.ramp.as_secs_f64(),
            think_time_s: self.think_time.as_secs_f64(),
            has_schema: false,
            seed: self.seed,
            goals: self.slo.clone(),
            max_lag: self.max_lag,
            max_error_rate: self.max_error_rate,
        };
        let both = |plan: Plan| {
            let with_schema =
                self.schema.as_ref().map(|_| Plan { has_schema: true, ..plan.clone() });
            std::iter::once(plan).chain(with_schema)
        };
        paces.into_iter().map(plan).flat_map(both).collect()
    }

    /// What is asked, for a message.
    pub(super) fn what(&self) -> String {
        let input = if let Some(path) = &self.trace {
            format!("the trace {}", path.display())
        } else if let Some(path) = &self.dataset {
            format!("conversations of {}", path.display())
        } else if let Some(lengths) = &self.input_tokens {
            format!("running text of {} tokens", described(lengths))
        } else if self.categories.is_empty() {
            "every prompt category".into()
        } else {
            self.categories.join(", ")
        };
        let output = match (&self.output_tokens, self.api) {
            (_, Operation::Embed | Operation::Rerank) => {
                format!("{} per request", counted(self.items as usize, "text"))
            }
            (Some(lengths), _) => format!("{} tokens out", described(lengths)),
            (None, _) if self.trace.is_some() || self.dataset.is_some() => {
                "answers as long as there".into()
            }
            (None, _) => "64 tokens out".into(),
        };
        let turns = match self.turns {
            1 => String::new(),
            turns => format!(", {turns} turns"),
        };
        let prefix = self.shared_prefix;
        let prefix = prefix.map_or(String::new(), |tokens| format!(", {tokens} tokens shared"));
        format!("{input}, {output}{turns}{prefix}")
    }
}

/// Lengths for a message.
fn described(lengths: &Lengths) -> String {
    match lengths {
        Lengths::Fixed { tokens } => tokens.to_string(),
        Lengths::Uniform { least, most } => format!("{least} to {most}"),
        Lengths::Normal { mean, sd } => format!("{mean} ± {sd}"),
        Lengths::File { lengths } => format!("{} different", lengths.len()),
    }
}

/// The API of the client that a probe asks, if it generates.
pub(super) fn generating(operation: Operation) -> Option<Api> {
    match operation {
        Operation::Generate { api } => Some(api),
        Operation::Embed | Operation::Rerank => None,
    }
}

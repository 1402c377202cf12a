//! `candlemark load`: many requests on a server.

mod arguments;
mod text;

use std::fs::File;
use std::io::{LineWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::interrupt::{interruptible, say};
use crate::cli::load::arguments::{Format, generating};
use crate::cli::load::text::{ms, text};
use crate::cli::output::usage;
use crate::client::{self, ApiKey, Capabilities, Client, Endpoint, Limits, TextPolicy};
use crate::error::{Error, counted};
use crate::load::{
    self, Events, LevelResult, Operation, Pace, Plan, Progress, Prompts, Row, Source, vllm_result,
};
use crate::report::number;
use crate::settings::Config;
use crate::{files, machine};

pub(crate) use arguments::Arguments;

/// What was measured, and by what.
#[derive(Serialize)]
struct Report {
    schema: u32,
    /// UTC, RFC 3339.
    started: String,
    command: Vec<String>,
    /// The version of candlemark.
    client: String,
    /// The class of the client's machine.
    client_machine: String,
    url: String,
    operation: Operation,
    /// The model's name on the server.
    model: String,
    /// What a server that generates offers.
    server: Option<Capabilities>,
    /// Bytes of running text per token of the server, by which prompts got their lengths; null
    /// where none was asked for.
    bytes_per_token: Option<f64>,
    /// Requests of the trace that do not fit the server's context and were not sent.
    left_out: u64,
    /// The server's price of a million generated tokens at the best level; null without a price.
    price_per_million_output_tokens: Option<f64>,
    levels: Vec<LevelResult>,
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    if !(0.0..=1.0).contains(&arguments.max_error_rate) {
        return Err(usage("`--max-error-rate` is a share from 0 to 1"));
    }
    for path in arguments.output.iter().chain(&arguments.output_requests) {
        files::check(path)?;
    }
    let mut prompts = arguments.prompts()?;
    let schema = arguments.schema()?;
    let endpoint = Endpoint::parse(&arguments.url)?;
    let key = ApiKey::find(arguments.api_key_file.as_deref())?;
    let most = arguments.concurrency.iter().copied().max().unwrap_or(1).into();
    let is_closed = arguments.rate.is_empty() && arguments.trace.is_none();
    client::allow_connections(if is_closed { most } else { 1024 })?;
    let needs_text = arguments.turns > 1 || schema.is_some() || generating(arguments.api).is_none();
    let text_policy = if needs_text { TextPolicy::Keep } else { TextPolicy::Drop };
    let limits = Limits { text: text_policy, total: arguments.timeout, ..Limits::default() };
    let url = endpoint.to_string();
    let client = Client::new(endpoint, key, limits)?;
    let stop = interruptible("no further request is sent; those in flight have 10 s")?;
    let started = machine::now();
    let mut live = Live::new(arguments.output_requests.as_deref())?;
    let runtime = client::runtime()?;
    let measured = runtime.block_on(async {
        let begun = begin(arguments, &client, &mut prompts).await?;
        let plans = arguments.plans();
        let levels = levels((&client, &prompts), schema, &plans, stop, &mut live).await?;
        Ok::<_, Error>((begun, levels))
    });
    // A name lookup that hangs is not waited for.
    runtime.shutdown_background();
    let ((server, left_out), (levels, broken)) = measured?;
    live.end()?;
    let best = levels.iter().filter_map(|level| level.whole.output_tok_s).reduce(f64::max);
    let price = arguments.price_hour.zip(best).map(|(hour, rate)| hour / (3600.0 * rate) * 1e6);
    let report = Report {
        schema: 2,
        started,
        command: crate::error::command_words(),
        client: machine::stamp().version,
        client_machine: machine::fingerprint(1, "cpu").class,
        url,
        operation: arguments.api,
        model: prompts.model.clone(),
        server,
        bytes_per_token: arguments.has_lengths().then_some(prompts.bytes_per_token),
        left_out,
        price_per_million_output_tokens: price,
        levels,
    };
    let format = if arguments.json { Format::Json } else { arguments.format };
    crate::cli::output::write(&written(&report, format)?, arguments.output.as_deref(), out)?;
    if let Some(error) = broken {
        say(&format!("error: {error}"));
        return Ok(Exit::Failed);
    }
    Ok(conclude(&report, stop.load(Ordering::Relaxed)))
}

fn written(report: &Report, format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Human => text(report),
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
        Format::Vllm => {
            let line = |level| {
                let Report { model, operation, started, .. } = report;
                vllm_result(level, model, *operation, started).to_string() + "\n"
            };
            report.levels.iter().map(line).collect()
        }
    })
}

/// Asks the server what it offers, and gives prompts its model, its fields and its lengths; what it
/// offers, and how many requests of a trace are left out.
async fn begin(
    arguments: &Arguments,
    client: &Client,
    prompts: &mut Prompts,
) -> crate::Result<(Option<Capabilities>, u64)> {
    let name = arguments.served_model_name.as_deref();
    let server = match generating(arguments.api) {
        Some(api) => Some(client::probe(client, api, name).await?),
        None => None,
    };
    let context = match &server {
        Some(server) => {
            prompts.set_server(server);
            server.context
        }
        None => {
            prompts.model = client::served_model(client, name).await?;
            None
        }
    };
    let (model, endpoint) = (&prompts.model, client.endpoint());
    say(&format!("measuring {model} at {endpoint}: {}", arguments.what()));
    for (field, message) in server.iter().flat_map(|server| &server.refused) {
        say(&format!("warning: the server refuses `{}`: {message}", field.key()));
    }
    if arguments.has_lengths() {
        let (request, bytes) = prompts.calibration(context);
        let exchange = client.send(&request, Instant::now()).await;
        let tokens = exchange.usage.and_then(|usage| usage.prompt_tokens);
        match tokens.filter(|tokens| *tokens > 0) {
            Some(tokens) => prompts.calibrate(bytes, tokens),
            None => say("warning: the server does not count prompt tokens: lengths are estimated"),
        }
    }
    Ok((server, fit(prompts, context)?))
}

/// Takes the requests out of a trace that do not fit the server's context; their number.
fn fit(prompts: &mut Prompts, context: Option<u64>) -> crate::Result<u64> {
    let Source::Trace(trace) = &mut prompts.source else { return Ok(0) };
    let Some(context) = context else {
        say("warning: the server does not say its context: longer requests will fail");
        return Ok(0);
    };
    let all = trace.count();
    let left_out = trace.keep_within(context);
    if trace.count() == 0 {
        return Err(Error::Usage(format!(
            "no request of the trace fits the server's context of {context} tokens"
        )));
    }
    if left_out > 0 {
        say(&format!(
            "warning: {left_out} of {} of the trace are longer than the server's context of \
             {context} tokens and are left out",
            counted(all as usize, "request")
        ));
    }
    Ok(left_out)
}

/// The levels, until one gains little or cannot begin, and why one after the first could not.
async fn levels(
    (client, prompts): (&Client, &Prompts),
    schema: Option<serde_json::Value>,
    plans: &[Plan],
    stop: &AtomicBool,
    live: &mut Live,
) -> crate::Result<(Vec<LevelResult>, Option<Error>)> {
    let mut levels: Vec<LevelResult> = Vec::new();
    for (at, plan) in plans.iter().enumerate() {
        let mut prompts = prompts.of_level(at as u64);
        prompts.schema = schema.clone().filter(|_| plan.has_schema);
        live.level = at;
        let level = match load::run(client, &prompts, plan, stop, live).await {
            Ok(level) => level,
            Err(error) if levels.is_empty() => return Err(error),
            Err(error) => return Ok((levels, Some(error))),
        };
        say(&format!("{}: {}", pace(plan), summary(&level)));
        let before = levels.iter().rfind(|before| before.plan.has_schema == plan.has_schema);
        let gains = before.is_none_or(|before| is_faster(before, &level));
        levels.push(level);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if !gains {
            say("this level gains less than 5 % of throughput: the knee is the one before");
            break;
        }
    }
    Ok((levels, None))
}

/// Says what makes the result wrong; the exit status.
fn conclude(report: &Report, is_interrupted: bool) -> Exit {
    let mut exit = if is_interrupted { Exit::Interrupted } else { Exit::Pass };
    for level in &report.levels {
        let name = pace(&level.plan);
        if let Some(why) = level.invalid() {
            say(&format!("INVALID: {name}: {why}"));
            exit = Exit::Failed;
        }
        if level.has_failed() && !is_interrupted {
            let share = level.error_rate.map_or("all".into(), |rate| number(100.0 * rate) + " %");
            say(&format!("error: {name}: {share} of the requests got no complete answer"));
            exit = Exit::Failed;
        }
        let is_meant = level.cold.is_some()
            || !level.turns.is_empty()
            || matches!(level.plan.pace, Pace::Trace { .. });
        // One or two tokens are alike by chance.
        let is_much = level.hit_rate.is_some_and(|rate| rate > MAX_HIT_RATE);
        if let Some(cached) = level.cached_tokens.filter(|_| is_much && !is_meant) {
            let cached = counted(cached as usize, "prompt token");
            say(&format!("warning: {name}: the server took {cached} from its prefix cache"));
        }
    }
    exit
}

/// The share of prompt tokens from a prefix cache above which TTFT is no longer that of the
/// prompts.
const MAX_HIT_RATE: f64 = 0.1;

/// Whether a level has at least 5 % more throughput than the one before.
fn is_faster(before: &LevelResult, level: &LevelResult) -> bool {
    let rate = |level: &LevelResult| level.whole.output_tok_s.unwrap_or(level.whole.requests_per_s);
    rate(level) >= 1.05 * rate(before)
}

fn pace(plan: &Plan) -> String {
    let pace = match plan.pace {
        Pace::Closed { concurrency } => format!("{concurrency} in flight"),
        Pace::Open { rate, .. } => format!("{rate} per s"),
        Pace::Trace { speed: 1.0 } => "trace".into(),
        Pace::Trace { speed } => format!("trace, {speed} times as fast"),
    };
    if plan.has_schema { pace + ", schema" } else { pace }
}

fn summary(level: &LevelResult) -> String {
    let faults: Vec<String> = level
        .faults
        .iter()
        .map(|(name, (count, message))| format!("{count} {name} ({message})"))
        .collect();
    let faults = if faults.is_empty() { String::new() } else { format!("; {}", faults.join(", ")) };
    format!("{} of {} complete{faults}", level.complete, counted(level.sent as usize, "request"))
}

/// Says how a level goes, and writes its requests when they end.
struct Live {
    level: usize,
    requests: Option<LineWriter<File>>,
    /// Why the file of requests is not complete.
    broken: Option<std::io::Error>,
}

/// A line of the file of requests.
#[derive(Serialize)]
struct RequestLine<'a> {
    /// The level, from 0.
    level: usize,
    #[serde(flatten)]
    row: &'a Row,
}

impl Live {
    fn new(path: Option<&Path>) -> crate::Result<Self> {
        let create = |path: &Path| {
            let file = File::create(path).map(LineWriter::new);
            file.map_err(|source| Error::Write { path: path.into(), source })
        };
        Ok(Self { level: 0, requests: path.map(create).transpose()?, broken: None })
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let lost = "cannot write every request to the file of `--output-requests`";
        self.broken.take().map_or(Ok(()), |why| Err(anyhow::Error::new(why).context(lost)))
    }
}

impl Events for Live {
    fn progress(&mut self, now: Progress) {
        let ttft = now.ttft_s.map_or(String::new(), |ttft| format!(", TTFT {}", ms(Some(ttft))));
        say(&format!(
            "{} sent, {} in flight, {} complete, {} failed, {} per s{ttft}",
            now.sent,
            now.in_flight,
            now.complete,
            now.failed,
            number(now.rate)
        ));
    }

    fn ended(&mut self, row: &Row) {
        let Some(file) = &mut self.requests else { return };
        let line = RequestLine { level: self.level, row };
        let written = serde_json::to_string(&line)
            .map_err(std::io::Error::other)
            .and_then(|line| writeln!(file, "{line}"));
        if let Err(why) = written {
            (self.requests, self.broken) = (None, Some(why));
        }
    }
}

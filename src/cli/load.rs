//! `candlemark load`: many requests on a server.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::interrupt::{interruptible, say};
use crate::cli::output::usage;
use crate::client::{
    self, Api, ApiKey, Capabilities, Client, Endpoint, Limits, ServerMetric, TextPolicy,
};
use crate::error::{Error, counted};
use crate::load::{
    self, Arrival, Events, Goal, LevelResult, MAX_REQUESTS, Pace, Plan, Progress, Prompts, Window,
};
use crate::report::{Table, TextFormat, number};
use crate::settings::{Config, duration};
use crate::workload::CATEGORIES;
use crate::{files, machine};

/// Put load on an OpenAI-compatible server, and measure rates and latencies
///
/// A closed loop (`--concurrency`) sends the next request when one ends; an open loop (`--rate`)
/// sends at instants that are drawn before, and its latencies count from those. Several values,
/// with commas, are levels one after another; they end at the first level that gains less than 5 %
/// of throughput. Exit status 0: measured; 5: too many errors, or the client was late (INVALID); 130:
/// interrupted, with what there was until then.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the server: http://host:port, with or without /v1
    #[arg(long, value_name = "URL")]
    url: String,
    /// The model's name on the server [default: its only one]
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// File that holds the key; CANDLEMARK_API_KEY otherwise
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// API to ask
    #[arg(long, value_enum, default_value = "completions")]
    api: Api,
    /// Closed loop: requests in flight
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with = "rate",
          default_value = "1", value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: Vec<u16>,
    /// Open loop: requests per second
    #[arg(long, value_name = "R,…", value_delimiter = ',', value_parser = rate)]
    rate: Vec<f64>,
    /// Distribution of the time between requests: constant, poisson or gamma:SHAPE
    #[arg(long, default_value = "poisson", requires = "rate")]
    arrival: Arrival,
    /// Stop sending after this number of requests [default: 32 without --duration]
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
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', conflicts_with = "input_tokens",
          value_parser = clap::builder::PossibleValuesParser::new(Prompts::categories()))]
    categories: Vec<String>,
    /// Running text of about this number of tokens instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    input_tokens: Option<u32>,
    /// Tokens to generate per answer
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    output_tokens: u64,
    /// Send the same prompts in every run, so that the server may have them in its prefix cache
    #[arg(long)]
    no_salt: bool,
    /// Count answers that keep these times: ttft=200ms,tpot=50ms,e2e=5s
    #[arg(long, value_name = "METRIC=TIME,…", value_delimiter = ',')]
    slo: Vec<Goal>,
    /// Seed of arrivals, prompts and sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Longest client lag (p99); above it the result is INVALID
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10ms")]
    max_lag: Duration,
    /// Largest share of requests without a complete answer, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    max_error_rate: f64,
    /// Longest time for one answer
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m")]
    timeout: Duration,
    /// Price of the server per hour, for the price of a million tokens
    #[arg(long, value_name = "PRICE")]
    price_hour: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Output file of the result [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=100_000.0).contains(rate));
    rate.ok_or_else(|| "a rate is a number of requests per second from 0.001 to 100000".into())
}

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
    server: Capabilities,
    output_tokens: u64,
    /// The server's price of a million generated tokens at the best level; null without a price.
    price_per_million_output_tokens: Option<f64>,
    levels: Vec<LevelResult>,
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    if !(0.0..=1.0).contains(&arguments.max_error_rate) {
        return Err(usage("`--max-error-rate` is a share from 0 to 1"));
    }
    if let Some(path) = &arguments.output {
        files::check(path)?;
    }
    let endpoint = Endpoint::parse(&arguments.url)?;
    let key = ApiKey::find(arguments.api_key_file.as_deref())?;
    let most = arguments.concurrency.iter().copied().max().unwrap_or(1).into();
    client::allow_connections(if arguments.rate.is_empty() { most } else { 1024 })?;
    let limits = Limits { text: TextPolicy::Drop, total: arguments.timeout, ..Limits::default() };
    let url = endpoint.to_string();
    let client = Client::new(endpoint, key, limits)?;
    let stop = interruptible("no further request is sent; those in flight have 10 s")?;
    let started = machine::now();
    let runtime = client::runtime()?;
    let measured = runtime.block_on(measure(arguments, &client, stop));
    // A name lookup that hangs is not waited for.
    runtime.shutdown_background();
    let Measured { server, levels, broken } = measured?;
    let best = levels.iter().filter_map(|level| level.whole.output_tok_s).reduce(f64::max);
    let price = arguments.price_hour.zip(best).map(|(hour, rate)| hour / (3600.0 * rate) * 1e6);
    let machine = machine::fingerprint(1, "cpu");
    let report = Report {
        schema: 1,
        started,
        command: crate::error::command_words(),
        client: machine::stamp().version,
        client_machine: machine.class,
        url,
        server,
        output_tokens: arguments.output_tokens,
        price_per_million_output_tokens: price,
        levels,
    };
    let text =
        if arguments.json { serde_json::to_string_pretty(&report)? + "\n" } else { text(&report) };
    crate::cli::output::write(&text, arguments.output.as_deref(), out)?;
    if let Some(error) = broken {
        say(&format!("error: {error}"));
        return Ok(Exit::Failed);
    }
    Ok(conclude(&report, stop.load(Ordering::Relaxed)))
}

/// The levels, until one gains little or cannot begin.
struct Measured {
    server: Capabilities,
    levels: Vec<LevelResult>,
    /// Why a level after the first could not begin.
    broken: Option<Error>,
}

async fn measure(
    arguments: &Arguments,
    client: &Client,
    stop: &AtomicBool,
) -> crate::Result<Measured> {
    let server =
        client::probe(client, arguments.api, arguments.served_model_name.as_deref()).await?;
    say(&format!("measuring {} at {}: {}", server.model, client.endpoint(), what(arguments)));
    for (field, message) in &server.refused {
        say(&format!("warning: the server refuses `{}`: {message}", field.key()));
    }
    let prompts = (&prompts(arguments), arguments.output_tokens);
    let mut levels: Vec<LevelResult> = Vec::new();
    for plan in plans(arguments) {
        let level = match load::run((client, &server), prompts, &plan, stop, &mut Live).await {
            Ok(level) => level,
            Err(error) if levels.is_empty() => return Err(error),
            Err(error) => return Ok(Measured { server, levels, broken: Some(error) }),
        };
        say(&format!("{}: {}", pace(&plan), summary(&level)));
        let gains = levels.last().is_none_or(|before| is_faster(before, &level));
        levels.push(level);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if !gains {
            say("this level gains less than 5 % of throughput: the knee is the one before");
            break;
        }
    }
    Ok(Measured { server, levels, broken: None })
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
        if let Some(cached) = level.cached_tokens.filter(|cached| *cached > 0) {
            let cached = counted(cached as usize, "prompt token");
            say(&format!("warning: {name}: the server took {cached} from its prefix cache"));
        }
    }
    exit
}

fn prompts(arguments: &Arguments) -> Prompts {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let salt = now.map_or(0, |now| now.as_nanos() as u64);
    let salt = Some(salt).filter(|_| !arguments.no_salt);
    if let Some(tokens) = arguments.input_tokens {
        return Prompts::of_length(tokens as usize, arguments.seed, salt);
    }
    let is_wanted = |name: &str| {
        arguments.categories.is_empty() || arguments.categories.iter().any(|one| one == name)
    };
    let categories: Vec<_> =
        CATEGORIES.iter().filter(|category| is_wanted(category.name)).collect();
    Prompts::of_categories(&categories, arguments.seed, salt)
}

fn plans(arguments: &Arguments) -> Vec<Plan> {
    let closed = || {
        let closed = |&concurrency: &u16| Pace::Closed { concurrency: concurrency.into() };
        arguments.concurrency.iter().map(closed).collect()
    };
    let arrival = arguments.arrival;
    let open = arguments.rate.iter().map(|&rate| Pace::Open { rate, arrival });
    let paces: Vec<Pace> = if arguments.rate.is_empty() { closed() } else { open.collect() };
    let default = 32;
    let requests = match (arguments.requests, arguments.duration) {
        (None, None) => Some(default),
        (requests, _) => requests,
    };
    let plan = |pace| Plan {
        pace,
        requests,
        duration_s: arguments.duration.map(|time| time.as_secs_f64()),
        warmups: arguments.warmups,
        ramp_s: arguments.ramp.as_secs_f64(),
        seed: arguments.seed,
        goals: arguments.slo.clone(),
        max_lag: arguments.max_lag,
        max_error_rate: arguments.max_error_rate,
    };
    paces.into_iter().map(plan).collect()
}

/// Whether a level has at least 5 % more throughput than the one before.
fn is_faster(before: &LevelResult, level: &LevelResult) -> bool {
    let rate = |level: &LevelResult| level.whole.output_tok_s.unwrap_or(level.whole.requests_per_s);
    rate(level) >= 1.05 * rate(before)
}

fn what(arguments: &Arguments) -> String {
    let tokens = counted(arguments.output_tokens as usize, "token");
    match arguments.input_tokens {
        Some(input) => format!("about {input} tokens in, {tokens} out"),
        None if arguments.categories.is_empty() => format!("every prompt category, {tokens} out"),
        None => format!("{}, {tokens} out", arguments.categories.join(", ")),
    }
}

fn pace(plan: &Plan) -> String {
    match plan.pace {
        Pace::Closed { concurrency } => format!("{concurrency} in flight"),
        Pace::Open { rate, .. } => format!("{rate} per s"),
    }
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

struct Live;

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
}

fn ms(seconds: Option<f64>) -> String {
    seconds.map_or("-".into(), |seconds| format!("{} ms", number(1e3 * seconds)))
}

/// The result as text: a table of levels, then one of latencies per level.
fn text(report: &Report) -> String {
    let mut text = format!("{} at {}\n\n", report.server.model, report.url);
    let mut levels = Table::new(
        [
            "load",
            "sent",
            "complete",
            "failed",
            "requests/s",
            "tok/s in",
            "tok/s out",
            "goodput",
            "TTFT p50",
            "TPOT p50",
            "client lag p99",
        ],
        1..,
    );
    let or_dash = |value: Option<f64>| value.map_or("-".into(), number);
    for level in &report.levels {
        let Window { requests_per_s, input_tok_s, output_tok_s, ttft, tpot, .. } = &level.whole;
        let good = level.goodput_fraction.map(|share| 100.0 * share);
        levels.push([
            pace(&level.plan),
            level.sent.to_string(),
            level.complete.to_string(),
            (level.sent - level.complete).to_string(),
            number(*requests_per_s),
            or_dash(*input_tok_s),
            or_dash(*output_tok_s),
            good.map_or("-".into(), |good| format!("{} %", number(good))),
            ms(ttft.p50),
            ms(tpot.p50),
            ms(level.client_lag.p99.or(level.client_lag.max)),
        ]);
    }
    text += &levels.render(TextFormat::Terminal);
    for level in &report.levels {
        let mut latencies =
            Table::new([&pace(&level.plan), "n", "mean", "p50", "p90", "p95", "p99", "max"], 1..);
        let steady = level.steady.as_ref();
        let rows = [
            ("TTFT", Some(&level.whole.ttft)),
            ("TTFT from the actual send", Some(&level.whole.ttft_from_send)),
            ("TPOT", Some(&level.whole.tpot)),
            ("between chunks", Some(&level.chunk_gap)),
            ("end to end", Some(&level.whole.e2e)),
            ("steady: TTFT", steady.map(|steady| &steady.ttft)),
            ("steady: TPOT", steady.map(|steady| &steady.tpot)),
            ("client lag", Some(&level.client_lag)),
            ("connection", Some(&level.set_up)),
        ];
        for (name, latency) in rows {
            let Some(one) = latency.filter(|latency| latency.count > 0) else { continue };
            let values = [one.mean, one.p50, one.p90, one.p95, one.p99, one.max].map(ms);
            latencies.push([vec![name.into(), one.count.to_string()], values.to_vec()].concat());
        }
        text += &format!("\n{}", latencies.render(TextFormat::Terminal));
        if let Some(steady) = steady {
            text += &format!(
                "steady window: {} to {} s, {} requests/s, {} tok/s out\n",
                number(steady.from_s),
                number(steady.to_s),
                number(steady.requests_per_s),
                or_dash(steady.output_tok_s)
            );
        }
        if let Some(server) = level.server.as_ref().filter(|server| !server.is_empty()) {
            text += &format!("the server's own: {}\n", named(server));
        }
    }
    if let Some(price) = report.price_per_million_output_tokens {
        text += &format!("\nprice of a million generated tokens: {}\n", number(price));
    }
    text
}

/// The server's metrics by the names of the JSON.
fn named(server: &BTreeMap<ServerMetric, f64>) -> String {
    let json = serde_json::to_value(server).unwrap_or_default();
    let values = json.as_object().into_iter().flatten();
    let named = values.filter_map(|(name, value)| Some((name.replace('_', " "), value.as_f64()?)));
    named.map(|(name, value)| format!("{name} {}", number(value))).collect::<Vec<_>>().join(", ")
}

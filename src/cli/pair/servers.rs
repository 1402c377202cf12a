//! Two servers in place of two builds.

use std::time::Duration;

use crate::cli::setup::{ModelArguments, ServerArguments};
use crate::pair::{PORT, Restarts};
use crate::settings::{Config, Server, Setup, duration};
use crate::{Error, Result};

/// What a pair of servers leaves out: flags of builds and engines.
const OF_BUILDS: [&str; 11] = [
    "base",
    "candidate",
    "model",
    "quant",
    "kv_dtype",
    "engine",
    "device",
    "threads",
    "duet",
    "even_if_identical",
    "target_dir",
];

/// The servers to compare.
#[derive(clap::Args)]
pub(super) struct ServerPair {
    /// Base of a comparison of two running servers, which take turns: http://host:port
    #[arg(long, value_name = "URL", requires = "candidate_url", conflicts_with_all = OF_BUILDS)]
    base_url: Option<String>,
    /// Server to judge
    #[arg(long, value_name = "URL", requires = "base_url")]
    candidate_url: Option<String>,
    /// Base of a comparison of two servers that are started for every block: a shell command with
    /// `{port}`
    #[arg(long, value_name = "COMMAND", requires = "candidate_cmd",
        conflicts_with_all = OF_BUILDS, conflicts_with = "base_url")]
    base_cmd: Option<String>,
    /// Command that starts the server to judge
    #[arg(long, value_name = "COMMAND", requires = "base_cmd")]
    candidate_cmd: Option<String>,
    /// Longest time until a started server lists its models
    #[arg(long, value_name = "TIME", default_value = "300s", requires = "base_cmd",
        value_parser = duration)]
    ready_timeout: Duration,
    #[command(flatten)]
    server: ServerArguments,
}

/// The servers of both arms: the base's setup, and the candidate's server, or the commands that
/// start both.
pub(super) struct Arms {
    pub(super) setup: Setup,
    pub(super) candidate: Option<Server>,
    pub(super) restarts: Option<Restarts>,
    /// What names each of them.
    pub(super) names: [String; 2],
}

impl ServerPair {
    /// Both arms, if servers are compared. Servers that run are asked what they are.
    pub(super) fn arms(&self, model: &ModelArguments, config: &Config) -> Result<Option<Arms>> {
        let setup = || model.unchecked_for_turns(config);
        if let (Some(base), Some(candidate)) = (&self.base_cmd, &self.candidate_cmd) {
            for command in [base, candidate] {
                if !command.contains(PORT) {
                    return Err(Error::Usage(format!(
                        "`{command}` does not say where the port goes; write `--port {PORT}`"
                    )));
                }
            }
            let setup = self.server.unasked(setup());
            return Ok(Some(Arms {
                setup,
                candidate: None,
                restarts: Some(Restarts {
                    base: base.clone(),
                    candidate: candidate.clone(),
                    model: self.server.served_model_name.clone(),
                    ready: self.ready_timeout,
                }),
                names: [base.clone(), candidate.clone()],
            }));
        }
        let (Some(base), Some(candidate)) = (&self.base_url, &self.candidate_url) else {
            self.server.check_unused()?;
            return Ok(None);
        };
        let base = self.server.setup(setup(), base)?;
        let candidate = self.server.setup(setup(), candidate)?.server;
        let url =
            |server: &Option<Server>| server.as_ref().map_or(String::new(), |one| one.url.clone());
        let names = [url(&base.server), url(&candidate)];
        Ok(Some(Arms { setup: base, candidate, restarts: None, names }))
    }
}

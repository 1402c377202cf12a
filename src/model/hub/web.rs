//! The hub's HTTP side: what a revision is, what a file is, and the bytes of it.
//!
//! Nothing here waits without a limit, and nobody but the endpoint sees the token. Knows nothing of
//! the cache, save the path of the file that grows.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, thread};

use hf_hub::api::RepoInfo;
use hf_hub::{Repo, RepoType};
use ureq::config::ConfigBuilder;
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body};

use super::cache::{at, is_commit};
use super::{HubSpec, Progress};
use crate::error::{Error, Result};

/// Attempts after the first, for what may pass: a lost connection, a busy hub.
const RETRIES: u32 = 3;
/// Before the first retry; doubled for each further one.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest wait the hub may ask for; past it the user decides.
const LONGEST_WAIT_S: u64 = 60;
/// For a connection, and for each read: a dead server is found out, a slow one is not cut off.
const PATIENCE: Duration = Duration::from_secs(30);
/// The hub needs two: for a renamed repository, and to the server that keeps large files.
const REDIRECTS: usize = 10;

/// A secret that no `Debug` output shows.
#[derive(Clone)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// Where the hub is and how patiently it is asked.
#[derive(Clone)]
pub struct Web {
    pub(super) endpoint: String,
    pub(super) token: Option<Token>,
    pub(super) retries: u32,
    pub(super) pause: Duration,
    pub(super) agent: Agent,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, token) = (shown(&self.endpoint), &self.token);
        f.debug_struct("Web").field("endpoint", &endpoint).field("token", token).finish()
    }
}

/// What is asked for: a file, or the list of them.
pub struct Ask<'a> {
    spec: &'a HubSpec,
    file: Option<&'a str>,
    url: String,
}

impl Ask<'_> {
    /// What to call it in a message.
    fn name(&self) -> String {
        self.file.unwrap_or(&self.spec.repo).into()
    }
}

/// A file's content as the hub describes it.
pub struct Content {
    /// Its name in the cache; for large files its sha256.
    pub etag: String,
    /// In bytes.
    pub size: u64,
}

impl Web {
    /// Asks at the endpoint, `https://host[:port][/path]`.
    pub fn new(endpoint: &str, token: Option<Token>) -> Self {
        let endpoint = endpoint.trim_end_matches('/').into();
        Self {
            endpoint,
            token,
            retries: RETRIES,
            pause: PAUSE,
            agent: agent(PATIENCE).build().into(),
        }
    }

    /// The commit the revision is, and the names of its files.
    pub fn list(&self, spec: &HubSpec) -> Result<(String, Vec<String>)> {
        let revision = spec.revision();
        let repo = Repo::with_revision(spec.repo.clone(), RepoType::Model, revision.into());
        let url = format!("{}/api/{}", self.endpoint, repo.api_url());
        let ask = Ask { spec, file: None, url };
        let text = self.retry(|| {
            let text = self.send(Method::GET, &ask, 0)?.body_mut().read_to_string();
            text.map_err(|source| lost(&ask, &self.endpoint, source))
        })?;
        let info: RepoInfo = serde_json::from_str(&text)
            .map_err(|_| self.strange(&ask, "does not describe a model"))?;
        if !is_commit(&info.sha) || (is_commit(revision) && info.sha != revision) {
            return Err(self.strange(&ask, "does not name the commit"));
        }
        Ok((info.sha, info.siblings.into_iter().map(|sibling| sibling.rfilename).collect()))
    }

    /// How to ask for a file of a commit.
    pub fn file<'a>(&self, spec: &'a HubSpec, commit: &str, file: &'a str) -> Ask<'a> {
        let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, spec.repo, encode(file));
        Ask { spec, file: Some(file), url }
    }

    /// What the file's content is.
    pub fn content(&self, ask: &Ask) -> Result<Content> {
        let response = self.retry(|| self.send(Method::HEAD, ask, 0))?;
        // On a redirect `x-linked-...` is about the content, the plain header about the redirect.
        let either = |linked, plain| header(&response, linked).or_else(|| header(&response, plain));
        let etag = either("x-linked-etag", "etag").unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        if etag.is_empty() || !etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(self.strange(ask, "has no etag that could name a file"));
        }
        let size = either("x-linked-size", "content-length").and_then(|size| size.parse().ok());
        let size = size.ok_or_else(|| self.strange(ask, "does not tell the size"))?;
        Ok(Content { etag: etag.into(), size })
    }

    /// Adds what `part` lacks of the content, again and again if the connection breaks.
    pub fn download(
        &self,
        ask: &Ask,
        content: &Content,
        part: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        self.retry(|| self.append(ask, content.size, part, progress))
    }

    fn append(&self, ask: &Ask, size: u64, part: &Path, progress: &mut dyn Progress) -> Result<()> {
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true);
        let mut out = options.open(part).map_err(at(part))?;
        let mut so_far = out.metadata().map_err(at(part))?.len();
        if so_far > size {
            out.set_len(0).map_err(at(part))?; // Not ours: nothing we write grows past its size.
            so_far = 0;
        }
        if so_far == size {
            return Ok(());
        }
        let mut response = self.send(Method::GET, ask, so_far)?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            so_far = 0; // The whole file comes, asked for or not.
        } else if !header(&response, "content-range")
            .is_some_and(|range| range.starts_with(&format!("bytes {so_far}-")))
        {
            return Err(self.strange(ask, "is not the part that was asked for"));
        }
        // At its place rather than at the end: should another program write the same content where
        // there are no locks, the bytes are the same.
        out.seek(SeekFrom::Start(so_far)).map_err(at(part))?;
        let cut = |got, source| Error::HubCut { file: ask.name(), got, size, source };
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = body.read(&mut buffer).map_err(|source| cut(so_far, Some(source)))?;
            if n == 0 {
                break;
            }
            if so_far + n as u64 > size {
                out.set_len(0).map_err(at(part))?;
                return Err(self.strange(ask, "is longer than announced"));
            }
            out.write_all(&buffer[..n]).map_err(at(part))?;
            so_far += n as u64;
            progress.update(&ask.name(), so_far, size);
        }
        if so_far < size {
            return Err(cut(so_far, None));
        }
        out.sync_all().map_err(at(part))
    }

    /// Asks for the content from `start` on, through redirects. Followed by hand, because ureq
    /// hides the headers on the way and shows the token to every port of the same host.
    fn send(&self, method: Method, ask: &Ask, start: u64) -> Result<Response<Body>> {
        let mut url = ask.url.clone();
        for _ in 0..=REDIRECTS {
            let host = origin(&url).ok_or_else(|| self.strange(ask, "leads to no http address"))?;
            let mut request = Request::builder().method(&method).uri(&url);
            // Sizes and ranges are those of the plain bytes.
            request = request.header("accept-encoding", "identity");
            if start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            if self.is_home(host)
                && let Some(Token(token)) = &self.token
            {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let request = request.body(()).map_err(|source| lost(ask, host, source.into()))?;
            let response = self.agent.run(request).map_err(|source| lost(ask, host, source))?;
            let status = response.status();
            let is_told = method == Method::HEAD && header(&response, "x-linked-etag").is_some();
            if status.is_success() || (status.is_redirection() && is_told) {
                return Ok(response);
            } else if !status.is_redirection() {
                return Err(self.refusal(ask, host, &response));
            }
            url = absolute(host, header(&response, "location").unwrap_or_default());
        }
        Err(self.strange(ask, "is redirected without end"))
    }

    fn is_home(&self, host: &str) -> bool {
        origin(&self.endpoint) == Some(host)
    }

    fn refusal(&self, ask: &Ask, host: &str, response: &Response<Body>) -> Error {
        let repo = ask.spec.repo.clone();
        match (response.status().as_u16(), header(response, "x-error-code"), ask.file) {
            (status @ (401 | 403), _, _) if self.is_home(host) => {
                Error::HubDenied { page: format!("{}/{repo}", shown(&self.endpoint)), repo, status }
            }
            (404, Some("RevisionNotFound"), _) => {
                Error::HubMissingRevision { repo, revision: ask.spec.revision().into() }
            }
            (404, _, Some(file)) => ask.spec.missing(file, &[]),
            (404, _, None) => Error::HubMissingRepo { repo, endpoint: shown(&self.endpoint) },
            (status, _, _) => {
                let wait_s = header(response, "retry-after").and_then(|wait| wait.parse().ok());
                Error::HubStatus { what: ask.name(), host: shown(host), status, wait_s }
            }
        }
    }

    fn strange(&self, ask: &Ask, problem: &'static str) -> Error {
        Error::HubAnswer { what: ask.name(), problem, endpoint: shown(&self.endpoint) }
    }

    /// Tries again, a few times and ever later, where the failure may pass.
    fn retry<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        for failures in 0..self.retries {
            match attempt() {
                Err(err) if let Some(wait) = wait(&err, self.pause * 2_u32.pow(failures)) => {
                    thread::sleep(wait);
                }
                done => return done,
            }
        }
        attempt()
    }
}

/// Whom TLS trusts: the system's store, or the file and folder that `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` name in its place, as curl does; Mozilla's list where there is none.
fn roots() -> RootCerts {
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        return RootCerts::WebPki;
    }
    let certificates: Vec<_> =
        found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    RootCerts::Specific(Arc::new(certificates))
}

/// An HTTP client that leaves redirects and statuses to us and gives up on a silent server.
pub fn agent(patience: Duration) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots()).build())
        .timeout_resolve(Some(patience))
        .timeout_connect(Some(patience))
        .timeout_recv_response(Some(patience))
        .timeout_per_read(Some(patience))
        .max_redirects(0)
        .http_status_as_error(false)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
}

/// The wait before another attempt: what the hub asks for, else `pause`; none if it cannot help.
fn wait(err: &Error, pause: Duration) -> Option<Duration> {
    match err {
        Error::HubStatus { wait_s: Some(wait_s), status: 429 | 503, .. } => {
            (*wait_s <= LONGEST_WAIT_S).then(|| Duration::from_secs(*wait_s))
        }
        Error::HubStatus { status: 408 | 429 | 500.., .. } | Error::HubCut { .. } => Some(pause),
        Error::HubConnection { source, .. } => match **source {
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_) => Some(pause),
            _ => None,
        },
        _ => None,
    }
}

fn lost(ask: &Ask, host: &str, source: ureq::Error) -> Error {
    let (what, host, source) = (ask.name(), shown(host), Box::new(source));
    // rustls says so inside an input/output error.
    if source.to_string().contains("invalid peer certificate") {
        return Error::HubCertificate { what, host, source };
    }
    Error::HubConnection { what, host, source }
}

/// A URL as messages show it: without the name and the password that it may carry.
fn shown(url: &str) -> String {
    let host = origin(url).unwrap_or(url);
    match (host.split_once("//"), host.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => {
            format!("{scheme}//***@{rest}{}", &url[host.len()..])
        }
        _ => url.into(),
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn encode(path: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let piece = |b| if is_plain(b) { char::from(b).into() } else { format!("%{b:02X}") };
    path.bytes().map(piece).collect()
}

/// The `https://host:port` of a URL.
fn origin(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let path = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(&url[..url.len() - rest.len() + path])
}

/// Where a redirect from `host` leads.
fn absolute(host: &str, location: &str) -> String {
    if location.starts_with("//") {
        format!("{}:{location}", host.split(':').next().unwrap_or_default())
    } else if location.starts_with('/') {
        format!("{host}{location}")
    } else {
        location.into() // Complete, or nothing we could follow: the hub sends no relative paths.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, expected) in [
            ("https://hub.example", "https://hub.example"),
            ("https://hub.example/a@b", "https://hub.example/a@b"),
            ("https://user:pass@hub.example/x", "https://***@hub.example/x"),
            ("http://user:p@ss@hub:8080", "http://***@hub:8080"),
            ("https://token@hub.example/a@b?c", "https://***@hub.example/a@b?c"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(shown(url), expected);
        }
        let web = Web::new("https://user:pass@hub.example", Some(Token("hf_secret".into())));
        let debug = format!("{web:?}");
        assert_eq!(debug, "Web { endpoint: \"https://***@hub.example\", token: Some(Token(***)) }");
    }
}

//! The hub's HTTP API: the commit of a revision, the metadata of a file, and its content.
//!
//! Every request has a timeout, and the token goes to the endpoint only. Knows nothing of the
//! cache, except the path of an unfinished download.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hf_hub::api::RepoInfo;
use hf_hub::{Repo, RepoType};
use ureq::config::ConfigBuilder;
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body};

use super::cache::{at, is_commit};
use super::spec::HubSpec;
use crate::error::{Error, Result};
use crate::model::progress::Progress;

/// Attempts after the first, for transient errors: a lost connection, a busy hub.
const RETRIES: u32 = 3;
/// Wait before the first retry; doubled for each further one.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest `retry-after` that is waited for.
const MAX_RETRY_AFTER_S: u64 = 60;
/// For a connection and for each read, so that a slow download does not time out.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The hub needs two: for a renamed repository, and to the server of large files.
const MAX_REDIRECTS: usize = 10;

/// A client of the hub at one endpoint.
pub(crate) struct HubClient {
    pub(super) endpoint: String,
    /// The access token, a secret.
    pub(super) token: Option<String>,
    pub(super) retries: u32,
    pub(super) backoff: Duration,
    pub(super) agent: Agent,
}

/// A request for a file, or for the list of files.
pub(crate) struct HubRequest<'a> {
    spec: &'a HubSpec,
    file: Option<&'a str>,
    url: String,
}

impl HubRequest<'_> {
    /// Its subject in a message.
    fn name(&self) -> String {
        self.file.unwrap_or(&self.spec.repo).into()
    }
}

/// The metadata of a file on the hub.
pub(crate) struct FileMetadata {
    /// The content's name in the cache; for large files its SHA-256.
    pub etag: String,
    /// In bytes.
    pub size: u64,
}

impl HubClient {
    /// A client of the endpoint `https://host[:port][/path]`.
    pub fn new(endpoint: &str, token: Option<String>) -> Self {
        let endpoint = endpoint.trim_end_matches('/').into();
        Self {
            endpoint,
            token,
            retries: RETRIES,
            backoff: BACKOFF,
            agent: agent(TIMEOUT).build().into(),
        }
    }

    /// The commit of the revision, and the names of its files.
    pub fn list(&self, spec: &HubSpec) -> Result<(String, Vec<String>)> {
        let revision = spec.revision();
        let repo = Repo::with_revision(spec.repo.clone(), RepoType::Model, revision.into());
        let url = format!("{}/api/{}", self.endpoint, repo.api_url());
        let request = HubRequest { spec, file: None, url };
        let text = self.retry(|| {
            let text = self.send(Method::GET, &request, 0)?.body_mut().read_to_string();
            text.map_err(|source| connection_error(&request, &self.endpoint, source))
        })?;
        let info: RepoInfo = serde_json::from_str(&text)
            .map_err(|_| self.invalid_response(&request, "does not describe a model"))?;
        if !is_commit(&info.sha) || (is_commit(revision) && info.sha != revision) {
            return Err(self.invalid_response(&request, "does not name the commit"));
        }
        Ok((info.sha, info.siblings.into_iter().map(|sibling| sibling.rfilename).collect()))
    }

    /// The request for a file of a commit.
    pub fn file<'a>(&self, spec: &'a HubSpec, commit: &str, file: &'a str) -> HubRequest<'a> {
        let url =
            format!("{}/{}/resolve/{commit}/{}", self.endpoint, spec.repo, percent_encode(file));
        HubRequest { spec, file: Some(file), url }
    }

    /// The metadata of a file.
    pub fn metadata(&self, request: &HubRequest) -> Result<FileMetadata> {
        let response = self.retry(|| self.send(Method::HEAD, request, 0))?;
        // On a redirect, `x-linked-...` describes the content, the other header the redirect.
        let either =
            |linked, direct| header(&response, linked).or_else(|| header(&response, direct));
        let etag = either("x-linked-etag", "etag").unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        if etag.is_empty() || !etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(self.invalid_response(request, "has no usable etag"));
        }
        let size = either("x-linked-size", "content-length").and_then(|size| size.parse().ok());
        let size = size.ok_or_else(|| self.invalid_response(request, "has no size"))?;
        Ok(FileMetadata { etag: etag.into(), size })
    }

    /// Downloads what `incomplete` lacks of the content, with retries.
    pub fn download(
        &self,
        request: &HubRequest,
        metadata: &FileMetadata,
        incomplete: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        self.retry(|| self.append(request, metadata.size, incomplete, progress))
    }

    fn append(
        &self,
        request: &HubRequest,
        size: u64,
        incomplete: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true);
        let mut out = options.open(incomplete).map_err(at(incomplete))?;
        let mut so_far = out.metadata().map_err(at(incomplete))?.len();
        if so_far > size {
            out.set_len(0).map_err(at(incomplete))?; // Written by another program.
            so_far = 0;
        }
        if so_far == size {
            return Ok(());
        }
        let mut response = self.send(Method::GET, request, so_far)?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            so_far = 0; // The server ignored the range and sends the whole file.
        } else if !header(&response, "content-range")
            .is_some_and(|range| range.starts_with(&format!("bytes {so_far}-")))
        {
            return Err(self.invalid_response(request, "has another range than the request"));
        }
        // Not in append mode: if another program writes the same content without locks, the bytes
        // still end up in the right place.
        out.seek(SeekFrom::Start(so_far)).map_err(at(incomplete))?;
        let cut = |got, source| Error::HubCut { file: request.name(), got, size, source };
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = body.read(&mut buffer).map_err(|source| cut(so_far, Some(source)))?;
            if n == 0 {
                break;
            }
            if so_far + n as u64 > size {
                out.set_len(0).map_err(at(incomplete))?;
                return Err(self.invalid_response(request, "is longer than its size"));
            }
            out.write_all(&buffer[..n]).map_err(at(incomplete))?;
            so_far += n as u64;
            progress.update(&request.name(), so_far, size);
        }
        if so_far < size {
            return Err(cut(so_far, None));
        }
        out.sync_all().map_err(at(incomplete))
    }

    /// Requests the content from byte `start` on. Follows redirects itself: ureq hides their
    /// headers and sends the token to every port of the same host.
    fn send(&self, method: Method, request: &HubRequest, start: u64) -> Result<Response<Body>> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let host = origin(&url)
                .ok_or_else(|| self.invalid_response(request, "redirects to a non-HTTP address"))?;
            let mut http = Request::builder().method(&method).uri(&url);
            // Sizes and ranges are those of the uncompressed bytes.
            http = http.header("accept-encoding", "identity");
            if start > 0 {
                http = http.header("range", format!("bytes={start}-"));
            }
            if self.is_endpoint(host)
                && let Some(token) = &self.token
            {
                http = http.header("authorization", format!("Bearer {token}"));
            }
            let failed = |source| connection_error(request, host, source);
            let http = http.body(()).map_err(|source| failed(source.into()))?;
            let response = self.agent.run(http).map_err(failed)?;
            let status = response.status();
            let has_metadata =
                method == Method::HEAD && header(&response, "x-linked-etag").is_some();
            if status.is_success() || (status.is_redirection() && has_metadata) {
                return Ok(response);
            } else if !status.is_redirection() {
                return Err(self.status_error(request, host, &response));
            }
            url = redirect_target(host, header(&response, "location").unwrap_or_default());
        }
        Err(self.invalid_response(request, "has too many redirects"))
    }

    fn is_endpoint(&self, host: &str) -> bool {
        origin(&self.endpoint) == Some(host)
    }

    fn status_error(&self, request: &HubRequest, host: &str, response: &Response<Body>) -> Error {
        let repo = request.spec.repo.clone();
        match (response.status().as_u16(), header(response, "x-error-code"), request.file) {
            (status @ (401 | 403), _, _) if self.is_endpoint(host) => Error::HubDenied {
                page: format!("{}/{repo}", without_password(&self.endpoint)),
                repo,
                status,
            },
            (404, Some("RevisionNotFound"), _) => {
                Error::HubMissingRevision { repo, revision: request.spec.revision().into() }
            }
            (404, _, Some(file)) => request.spec.missing(file, &[]),
            (404, _, None) => {
                Error::HubMissingRepo { repo, endpoint: without_password(&self.endpoint) }
            }
            (status, _, _) => {
                let wait_s = header(response, "retry-after").and_then(|wait| wait.parse().ok());
                Error::HubStatus {
                    what: request.name(),
                    host: without_password(host),
                    status,
                    wait_s,
                }
            }
        }
    }

    fn invalid_response(&self, request: &HubRequest, problem: &'static str) -> Error {
        Error::HubAnswer {
            what: request.name(),
            problem,
            endpoint: without_password(&self.endpoint),
        }
    }

    /// Retries after transient errors, with exponential backoff.
    fn retry<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        for failures in 0..self.retries {
            match attempt() {
                Err(err)
                    if let Some(delay) = retry_delay(&err, self.backoff * 2_u32.pow(failures)) =>
                {
                    thread::sleep(delay);
                }
                result => return result,
            }
        }
        attempt()
    }
}

/// The TLS root certificates: the system's, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR` as in
/// curl; Mozilla's list without either.
fn root_certificates() -> RootCerts {
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        return RootCerts::WebPki;
    }
    let certificates: Vec<_> =
        found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    RootCerts::Specific(Arc::new(certificates))
}

/// An HTTP agent with timeouts that follows no redirects and does not turn statuses into errors.
pub(crate) fn agent(timeout: Duration) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(root_certificates()).build())
        .timeout_resolve(Some(timeout))
        .timeout_connect(Some(timeout))
        .timeout_recv_response(Some(timeout))
        .timeout_per_read(Some(timeout))
        .max_redirects(0)
        .http_status_as_error(false)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
}

/// The delay before a retry: `retry-after`, else `backoff`; none if a retry cannot help.
fn retry_delay(err: &Error, backoff: Duration) -> Option<Duration> {
    match err {
        Error::HubStatus { wait_s: Some(wait_s), status: 429 | 503, .. } => {
            (*wait_s <= MAX_RETRY_AFTER_S).then(|| Duration::from_secs(*wait_s))
        }
        Error::HubStatus { status: 408 | 429 | 500.., .. } | Error::HubCut { .. } => Some(backoff),
        Error::HubConnection { source, .. } => match **source {
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_) => Some(backoff),
            _ => None,
        },
        _ => None,
    }
}

fn connection_error(request: &HubRequest, host: &str, source: ureq::Error) -> Error {
    let (what, host, source) = (request.name(), without_password(host), Box::new(source));
    // rustls reports this inside an I/O error.
    if source.to_string().contains("invalid peer certificate") {
        return Error::HubCertificate { what, host, source };
    }
    Error::HubConnection { what, host, source }
}

/// A URL for messages, without user name and password.
fn without_password(url: &str) -> String {
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

fn percent_encode(path: &str) -> String {
    let is_unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let piece = |b| if is_unreserved(b) { char::from(b).into() } else { format!("%{b:02X}") };
    path.bytes().map(piece).collect()
}

/// The origin of a URL: `https://host:port`.
fn origin(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let path = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(&url[..url.len() - rest.len() + path])
}

/// The URL of a redirect from `host`.
fn redirect_target(host: &str, location: &str) -> String {
    if location.starts_with("//") {
        format!("{}:{location}", host.split(':').next().unwrap_or_default())
    } else if location.starts_with('/') {
        format!("{host}{location}")
    } else {
        location.into() // The hub sends no relative paths.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_hidden() {
        for (url, expected) in [
            ("https://hub.example", "https://hub.example"),
            ("https://hub.example/a@b", "https://hub.example/a@b"),
            ("https://user:pass@hub.example/x", "https://***@hub.example/x"),
            ("http://user:p@ss@hub:8080", "http://***@hub:8080"),
            ("https://token@hub.example/a@b?c", "https://***@hub.example/a@b?c"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(without_password(url), expected);
        }
    }
}

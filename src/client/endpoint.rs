//! The address of a server, and the key to it.

use std::fmt;
use std::path::Path;

use hyper::Uri;
use hyper::header::HeaderValue;

use crate::error::{Error, Result, shortened};

/// The base of a server's API: `http://host:port[/prefix]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub(crate) scheme: Scheme,
    /// A name or an address, that of IPv6 without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Before every path: empty, or `/prefix`.
    prefix: String,
}

/// How bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Endpoint {
    /// Parses `http://host:port[/prefix]` or `https://…`; a final `/v1` may be left out.
    ///
    /// # Errors
    /// When it is no such address, or has a user name, a query or a fragment, which could hold a
    /// secret. The error does not repeat these.
    pub fn parse(url: &str) -> Result<Self> {
        let url = url.trim();
        let refused =
            |why: &str| Error::Usage(format!("`{}` {why}", shortened(&without_secrets(url))));
        let form = "is not the address of a server; write `http://host:port[/prefix]`";
        let uri: Uri =
            url.split('#').next().unwrap_or_default().parse().map_err(|_| refused(form))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(refused(form)),
        };
        let authority = uri.authority().ok_or_else(|| refused(form))?;
        if authority.as_str().contains('@') {
            let key = "has a user name; put a key into CANDLEMARK_API_KEY or `--api-key-file`";
            return Err(refused(key));
        }
        if uri.query().is_some() || url.contains('#') {
            return Err(refused("has a query or a fragment; name the base of the API alone"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let rest = authority.as_str().rsplit(']').next().unwrap_or_default();
        let has_port = rest.contains(':');
        let default = if scheme == Scheme::Https { 443 } else { 80 };
        let port = authority.port_u16().or((!has_port).then_some(default));
        let port = port.filter(|port| *port > 0).ok_or_else(|| refused(form))?;
        if host.is_empty() {
            return Err(refused(form));
        }
        let path = uri.path().trim_end_matches('/');
        let prefix = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/').to_owned();
        Ok(Self { scheme, host, port, prefix })
    }

    /// `scheme://host:port`.
    pub(crate) fn origin(&self) -> String {
        let scheme = if self.scheme == Scheme::Https { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// The path of a request: `/prefix/v1/models`.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// `host:port`, the port only where it is not the scheme's.
    pub(crate) fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme, self.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.prefix)
    }
}

/// An address for messages, without user name, query and fragment.
pub(crate) fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let start = url.find("//").map_or(0, |at| at + 2);
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    match url[start..end].rsplit_once('@') {
        // A password may hold a slash, which cuts the authority short.
        Some((_, host)) => format!("{}***@{host}{}", &url[..start], &url[end..]),
        None if url.contains('@') => format!("{}***", &url[..start]),
        None => url.into(),
    }
}

/// A secret that opens a server's API; it is in no text but the `Authorization` header.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// The key of a file, or of `CANDLEMARK_API_KEY`, or none.
    ///
    /// # Errors
    /// When the file cannot be read, or the key has characters that a header cannot have.
    pub fn find(file: Option<&Path>) -> Result<Option<Self>> {
        let (text, place) = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| {
                    Error::Usage(format!(
                        "cannot read `--api-key-file {}`: {source}",
                        path.display()
                    ))
                })?;
                if text.trim().is_empty() {
                    let path = path.display();
                    return Err(Error::Usage(format!("`{path}` holds no API key")));
                }
                (text, "the file of `--api-key-file`")
            }
            None => (std::env::var(Self::VARIABLE).unwrap_or_default(), Self::VARIABLE),
        };
        let key = text.trim();
        if key.is_empty() {
            return Ok(None);
        }
        Self::new(key).map(Some).ok_or_else(|| {
            Error::Usage(format!("{place} is not one API key: it has spaces or is not ASCII"))
        })
    }

    /// The environment variable of the key.
    const VARIABLE: &str = "CANDLEMARK_API_KEY";

    /// A key of printable ASCII characters without spaces.
    pub fn new(key: &str) -> Option<Self> {
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        is_key.then(|| Self(key.into()))
    }

    /// The value of the `Authorization` header, marked as sensitive.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Text without the key: servers repeat it in their messages.
    pub(crate) fn remove_from(&self, text: &str) -> String {
        text.replace(&self.0, "***")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_the_same_with_and_without_v1() {
        for (url, shown, path) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "/v1/models"),
            ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000", "/v1/models"),
            (" http://127.0.0.1:8000/v1/ ", "http://127.0.0.1:8000", "/v1/models"),
            ("https://api.example/v1", "https://api.example", "/v1/models"),
            ("https://api.example:443/a/b/v1", "https://api.example/a/b", "/a/b/v1/models"),
            ("http://[::1]:8000/x", "http://[::1]:8000/x", "/x/v1/models"),
            ("http://[::1]", "http://[::1]", "/v1/models"),
            ("http://localhost", "http://localhost", "/v1/models"),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!(
                (endpoint.to_string().as_str(), endpoint.path("/v1/models").as_str()),
                (shown, path)
            );
        }
        assert_eq!(Endpoint::parse("http://[::1]:8000").unwrap().host, "::1");
        assert_eq!(Endpoint::parse("https://a").unwrap().port, 443);
    }

    #[test]
    fn a_wrong_address_is_an_error_without_its_secrets() {
        for url in [
            "",
            "127.0.0.1:8000",
            "ftp://a:1",
            "http://",
            "http://:8000",
            "http://a:0",
            "http://a:99999",
            "http://a b",
            "http://user:S3CRET@a:1/v1",
            "http://user:S3C/RET@a:1/v1",
            "http://S3CRET@a:1",
            "http://a:1?key=S3CRET",
            "http://a:1/#S3CRET",
        ] {
            let error = Endpoint::parse(url).unwrap_err().to_string();
            assert!(!error.contains("S3C") && !error.contains("RET@"), "{error}");
        }
        let error = Endpoint::parse("http://user:S3CRET@a:1").unwrap_err().to_string();
        assert!(error.starts_with("`http://***@a:1` has a user name"), "{error}");
    }

    #[test]
    fn a_key_is_read_from_a_file_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "sk-S3CRET\n").unwrap();
        let key = ApiKey::find(Some(&path)).unwrap().unwrap();
        assert_eq!(key.header().unwrap().to_str().unwrap(), "Bearer sk-S3CRET");
        assert!(!format!("{key:?} {:?}", key.header()).contains("S3CRET"));
        assert_eq!(key.remove_from("wrong key sk-S3CRET"), "wrong key ***");
        for text in ["", " \n", "two S3CRET words", "clé-S3CRET"] {
            std::fs::write(&path, text).unwrap();
            let error = ApiKey::find(Some(&path)).unwrap_err().to_string();
            assert!(error.contains("API key") && !error.contains("S3CRET"), "{error}");
        }
        assert!(ApiKey::find(Some(&folder.path().join("none"))).is_err());
    }
}

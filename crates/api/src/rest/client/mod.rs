//! The client of the REST API: one method a route, typed errors, bounded answers, streamed contents.
//!
//! The process installs its TLS provider once before the first client is made (`rustls::crypto`). A client is cheap
//! to clone and shares its connections. Nothing is tried again here: a caller knows better whether it may.

mod content;
mod error;
mod methods;

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

pub use content::Content;
pub use error::ClientError;

use super::{Page, Problem, ProblemCode, percent_encode};

/// Largest JSON answer that is taken: a page of 1,000 items with long paths stays far below.
const JSON_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest body of a refusal that is looked at.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// Where a service is, and how to be let in.
#[derive(Clone)]
pub struct ClientConfig {
    /// Address, such as `https://files.example.org:8443`. Plain `http` only to this machine.
    pub url: String,
    /// Token; absent only for what needs none.
    pub token: Option<String>,
    /// The only certificate authorities to trust, in PEM; absent: those of the system.
    pub ca_pem: Option<Vec<u8>>,
    /// Bound on connecting.
    pub connect_timeout: Duration,
    /// Bound on silence: the longest wait for an answer, and between two parts of one.
    pub silence_timeout: Duration,
}

impl ClientConfig {
    /// The service at `url`, with the default bounds.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: None,
            ca_pem: None,
            connect_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(60),
        }
    }
}

/// A client of one service.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at the end.
    base: String,
    token: Option<String>,
}

impl Client {
    /// A client; connects at its first request.
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let base = config.url.trim_end_matches('/').to_owned();
        let url = reqwest::Url::parse(&base)
            .map_err(|source| ClientError::Url { url: base.clone(), reason: source.to_string() })?;
        let local = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
        match url.scheme() {
            "https" => (),
            "http" if local => (),
            "http" => return Err(wrong_url(&base, "a token is sent over https only")),
            _ => return Err(wrong_url(&base, "it does not begin with https://")),
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("polder/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.silence_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .https_only(url.scheme() == "https");
        if local {
            // A proxy's loopback is not ours.
            http = http.no_proxy();
        }
        if let Some(pem) = &config.ca_pem {
            let roots = reqwest::Certificate::from_pem_bundle(pem).map_err(ClientError::Certificates)?;
            http = http.tls_certs_only(roots);
        }
        let http = http.build().map_err(ClientError::Build)?;
        Ok(Self { http, base, token: config.token.clone() })
    }

    /// The address of the service.
    pub fn url(&self) -> &str {
        &self.base
    }

    fn request(&self, method: http::Method, path: &str, query: &Query) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}{query}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
        let answer = request.send().await.map_err(|source| self.transport(source))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = bounded(answer, PROBLEM_BYTES_MAX).await.unwrap_or_else(|_| Vec::new());
        let problem = serde_json::from_slice::<Problem>(&body).unwrap_or_else(|_| Problem {
            code: ProblemCode::of_status(status),
            message: format!("the answer was {status}"),
            hint: None,
        });
        Err(ClientError::Refused { status, problem })
    }

    async fn json<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, ClientError> {
        let answer = self.send(request).await?;
        let body = bounded(answer, JSON_BYTES_MAX).await.map_err(|error| match error {
            Bounded::Transport(source) => self.transport(source),
            Bounded::Long => ClientError::TooLong { bytes_max: JSON_BYTES_MAX },
        })?;
        serde_json::from_slice(&body).map_err(ClientError::Malformed)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: Query) -> Result<T, ClientError> {
        self.json(self.request(http::Method::GET, path, &query)).await
    }

    async fn change<T: DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        query: Query,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let request = self.request(method, path, &query);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        self.json(request).await
    }

    /// All items of a paged list.
    async fn all<T: DeserializeOwned>(&self, path: &str, query: Query) -> Result<Vec<T>, ClientError> {
        let mut items = Vec::new();
        let mut after = None;
        loop {
            let page: Page<T> = self.get(path, query.clone().maybe("after", after.as_deref())).await?;
            items.extend(page.items);
            match page.next {
                // A service that names the same page for ever must not hold us for ever.
                Some(next) if after.as_ref() != Some(&next) => after = Some(next),
                _ => return Ok(items),
            }
        }
    }

    fn transport(&self, source: reqwest::Error) -> ClientError {
        let url = self.base.clone();
        let source = source.without_url();
        if source.is_timeout() {
            ClientError::Timeout { url, source }
        } else {
            ClientError::Unreachable { url, source }
        }
    }
}

fn wrong_url(url: &str, reason: &str) -> ClientError {
    ClientError::Url { url: url.to_owned(), reason: reason.to_owned() }
}

enum Bounded {
    Transport(reqwest::Error),
    Long,
}

async fn bounded(mut answer: reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, Bounded> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(Bounded::Transport)? {
        if body.len() + part.len() > bytes_max {
            return Err(Bounded::Long);
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// Query parameters, percent-encoded.
#[derive(Debug, Clone, Default)]
struct Query(String);

impl Query {
    fn with(mut self, key: &str, value: &str) -> Self {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&percent_encode(value.as_bytes()));
        self
    }

    fn maybe(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    fn flag(self, key: &str, on: bool) -> Self {
        if on { self.with(key, "true") } else { self }
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// No body.
const NONE: Option<&()> = None;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_travels_in_the_clear() {
        let refused =
            |url: &str| matches!(Client::new(&ClientConfig::new(url)), Err(ClientError::Url { .. }));
        assert!(refused("http://files.example.org"));
        assert!(refused("ftp://files.example.org"));
        assert!(refused("files.example.org:8443"));
        assert!(!refused("http://127.0.0.1:1"));
    }

    #[test]
    fn queries_are_encoded() {
        let query = Query::default().with("at", "a&b").flag("no", false).flag("dry_run", true);
        assert_eq!(query.to_string(), "?at=a%26b&dry_run=true");
    }
}

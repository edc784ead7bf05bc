//! Handlers against an in-process service: rows in memory, agents that are written down.

mod admin;
mod files;
mod health;
mod host;
mod left_behind;
mod roles;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use polder_metadata::control::{Acting, Role};
use serde_json::Value;
use tower::ServiceExt;

use super::{Rest, new_user_token, router};
use host::TestHost;

/// A service with one token of each role.
pub struct World {
    pub host: TestHost,
    router: Router,
    tokens: [String; 3],
}

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: axum::http::HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.bytes);
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Its status and, for a problem, the code.
    pub fn code(&self) -> (u16, String) {
        let code = if self.status.is_success() {
            String::new()
        } else {
            self.json()["code"].as_str().unwrap_or("?").into()
        };
        (self.status.as_u16(), code)
    }

    /// The JSON of a success.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, String::from_utf8_lossy(&self.bytes));
        self.json()
    }
}

impl World {
    pub fn new() -> Self {
        let host = TestHost::new();
        let acting = Acting { who: "service".into(), now: host.time() };
        let tokens =
            [(Role::Reader, "rita"), (Role::Operator, "otto"), (Role::Owner, "olga")].map(|(role, name)| {
                let token =
                    new_user_token(name.parse().expect("a name"), role, host.time(), None).expect("random");
                host.rows().create_token(&acting, &token.row).expect("a new token");
                token.text
            });
        let router = router(Rest::new(host.handle()));
        Self { host, router, tokens }
    }

    pub fn token(&self, role: Role) -> &str {
        &self.tokens[role as usize]
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let answer = self.router.clone().oneshot(request).await.expect("a router answers");
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }

    /// A call by the owner, with a JSON body if there is one.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.call_as(Role::Owner, method, path, body).await
    }

    pub async fn call_as(&self, role: Role, method: &str, path: &str, body: Option<Value>) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token(role)));
        let request = match body {
            Some(body) => {
                request.header(header::CONTENT_TYPE, "application/json").body(body.to_string().into())
            }
            None => request.body(Body::empty()),
        };
        self.send(request.expect("a request")).await
    }

    /// Puts a file by the operator.
    pub async fn put(&self, path: &str, bytes: &[u8]) -> Answer {
        self.put_with(path, bytes, &[]).await
    }

    pub async fn put_with(&self, path: &str, bytes: &[u8], headers: &[(&str, &str)]) -> Answer {
        self.bytes_with("PUT", path, bytes, headers).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.bytes_with("GET", path, &[], headers).await
    }

    async fn bytes_with(&self, method: &str, path: &str, bytes: &[u8], headers: &[(&str, &str)]) -> Answer {
        let authorization = format!("Bearer {}", self.token(Role::Operator));
        let mut request =
            Request::builder().method(method).uri(path).header(header::AUTHORIZATION, authorization);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // In pieces, as a connection brings them.
        let pieces: Vec<Result<_, std::io::Error>> =
            bytes.chunks(100_000).map(|piece| Ok(bytes::Bytes::copy_from_slice(piece))).collect();
        let body = Body::from_stream(futures::stream::iter(pieces));
        self.send(request.body(body).expect("a request")).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, None).await
    }

    pub fn last_audit(&self) -> (String, String, String) {
        let entry = self.host.rows().audit_page(None, 1).expect("read").remove(0);
        (entry.who, entry.action, entry.object)
    }
}

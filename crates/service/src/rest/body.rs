//! JSON bodies: bounded, of the right type, without fields that nobody knows.

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;

use super::RestError;

/// Largest JSON body: a thousand long paths fit.
const JSON_BYTES_MAX: usize = 1024 * 1024;

/// A JSON body.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = RestError;
    async fn from_request(request: Request, _: &S) -> Result<Self, RestError> {
        if !is_json(request.headers()) {
            return Err(RestError::MediaType { expected: "application/json" });
        }
        let body = Limited::new(request.into_body(), JSON_BYTES_MAX).collect().await;
        let bytes = match body {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(RestError::TooLarge { limit_bytes: JSON_BYTES_MAX as u64 });
            }
            Err(_) => return Err(RestError::BadRequest("the body ends early".into())),
        };
        // serde would take a list of a struct's fields in order for the struct.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(RestError::BadRequest("the body is to be a JSON object".into()));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            RestError::BadRequest(format!(
                "the body: {}",
                polder_types::Escaped(error.to_string().as_bytes())
            ))
        })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

//! The one body of every refused request.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of every answer with a status of 400 or above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What kind of problem; programs decide by this alone.
    pub code: ProblemCode,
    /// What failed, on what, and why: lower case, no full stop.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Kinds of problem. Each has one HTTP status ([`ProblemCode::status`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The request is not well-formed or breaks a rule that no state can change.
    BadRequest,
    /// No token, or one that the service does not know or that is expired.
    Unauthorized,
    /// The token's role does not allow this.
    Forbidden,
    /// The thing named does not exist (or is not visible to this token).
    NotFound,
    /// The route exists, but not with this method.
    MethodNotAllowed,
    /// The name is taken.
    Exists,
    /// Somebody changed it since: read again, then try again.
    Changed,
    /// The directory, share or group still holds something.
    NotEmpty,
    /// A guard holds this back; the hint says how to go on.
    Held,
    /// The share is deleted and can be brought back.
    Deleted,
    /// A stated precondition does not hold.
    PreconditionFailed,
    /// Larger than the service takes in one request.
    TooLarge,
    /// The media type of the body is not one that this route takes.
    UnsupportedMediaType,
    /// The range asked for lies outside of the content.
    RangeNotSatisfiable,
    /// The share's quota is reached.
    Quota,
    /// Too many requests at once: wait, then try again.
    TooManyRequests,
    /// The service failed; its log says why.
    Internal,
    /// Not implemented by this version of the service.
    NotImplemented,
    /// Not ready or not reachable: try again later.
    Unavailable,
    /// A code of a newer service.
    #[serde(other)]
    Unknown,
}

impl ProblemCode {
    /// The HTTP status that carries this code.
    pub fn status(self) -> http::StatusCode {
        use http::StatusCode as S;
        match self {
            Self::BadRequest => S::BAD_REQUEST,
            Self::Unauthorized => S::UNAUTHORIZED,
            Self::Forbidden => S::FORBIDDEN,
            Self::NotFound => S::NOT_FOUND,
            Self::MethodNotAllowed => S::METHOD_NOT_ALLOWED,
            // The quota is no failure of the service: a status above 500 would tell callers to try again.
            Self::Exists | Self::Changed | Self::NotEmpty | Self::Held | Self::Quota => S::CONFLICT,
            Self::Deleted => S::GONE,
            Self::PreconditionFailed => S::PRECONDITION_FAILED,
            Self::TooLarge => S::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => S::UNSUPPORTED_MEDIA_TYPE,
            Self::RangeNotSatisfiable => S::RANGE_NOT_SATISFIABLE,
            Self::TooManyRequests => S::TOO_MANY_REQUESTS,
            Self::Internal | Self::Unknown => S::INTERNAL_SERVER_ERROR,
            Self::NotImplemented => S::NOT_IMPLEMENTED,
            Self::Unavailable => S::SERVICE_UNAVAILABLE,
        }
    }

    /// The code to assume for an answer without a problem body, as a proxy in between may send it.
    pub fn of_status(status: http::StatusCode) -> Self {
        match status.as_u16() {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            409 => Self::Changed,
            410 => Self::Deleted,
            412 => Self::PreconditionFailed,
            413 => Self::TooLarge,
            415 => Self::UnsupportedMediaType,
            416 => Self::RangeNotSatisfiable,
            429 => Self::TooManyRequests,
            501 => Self::NotImplemented,
            502..=504 => Self::Unavailable,
            507 => Self::Quota,
            400..=499 => Self::BadRequest,
            _ => Self::Internal,
        }
    }
}

/// One page of a list. Pages are asked for with `limit` (1 to 1,000, default 1,000) and `after`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// In the order that the route names.
    pub items: Vec<T>,
    /// Give this as `after` to get the next page; absent on the last one. Opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A list that fits one page.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

/// Most items of one page.
pub const PAGE_ITEMS_MAX: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_code_is_still_a_problem() {
        let problem: Problem =
            serde_json::from_str(r#"{"code":"from_the_future","message":"m"}"#).expect("codes grow");
        assert_eq!(problem.code, ProblemCode::Unknown);
    }

    #[test]
    fn an_answer_without_body_gets_the_code_of_its_status() {
        for code in
            [ProblemCode::NotFound, ProblemCode::Changed, ProblemCode::Unavailable, ProblemCode::Internal]
        {
            assert_eq!(ProblemCode::of_status(code.status()), code);
        }
    }
}

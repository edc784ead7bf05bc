//! From whatever failed to the answer: one match, one body.

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use polder_api::rest::{Problem, ProblemCode, TextError};
use polder_ledger::LedgerError;
use polder_metadata::control::{ControlError, Fault, ParseError};
use polder_types::Refusal;

use super::HostError;
use super::open::{ledger_code, refusal_code};

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// Breaks a rule that no state can change.
    #[error("{0}")]
    BadRequest(
        /// The rule.
        String,
    ),
    /// No valid token.
    #[error("a valid token is needed")]
    Unauthorized,
    /// The token's role does not allow this.
    #[error("the token \"{name}\" has the role {has}; this needs {needs}")]
    Forbidden {
        /// The token.
        name: String,
        /// Its role.
        has: &'static str,
        /// The least role that would do.
        needs: &'static str,
    },
    /// No such thing.
    #[error("there is no {what} \"{which}\"")]
    NotFound {
        /// Kind.
        what: &'static str,
        /// As asked.
        which: String,
    },
    /// No such route.
    #[error("there is no such route")]
    NoRoute,
    /// The route has other methods.
    #[error("the route does not take this method")]
    MethodNotAllowed,
    /// The share is deleted and can be brought back.
    #[error("the share \"{0}\" is deleted")]
    Deleted(
        /// Its name.
        String,
    ),
    /// A guard or the state of things forbids it.
    #[error("{message}")]
    Refused {
        /// Which kind of refusal.
        code: ProblemCode,
        /// What forbids it.
        message: String,
        /// How to go on.
        hint: Option<&'static str>,
    },
    /// The body is larger than the route takes.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// The body is of another type.
    #[error("the body is to be {expected}")]
    MediaType {
        /// What is expected.
        expected: &'static str,
    },
    /// The control store.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The rest of the service.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The commit core.
    #[error(transparent)]
    Ledger(LedgerError),
    /// A direct change was refused as it is.
    #[error("{0}")]
    ChangeRefused(
        /// Why.
        Refusal,
    ),
    /// A condition in a header does not hold.
    #[error("the file has another version than the header \"{header}\" names")]
    Condition {
        /// Which header.
        header: &'static str,
    },
    /// A range that lies outside.
    #[error("the range lies outside of the {size_bytes} bytes of the file")]
    Range {
        /// Bytes of the file.
        size_bytes: u64,
    },
    /// Anything that is no answer to the caller.
    #[error("failed to {doing}")]
    Internal {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Fault,
    },
}

impl From<TextError> for RestError {
    fn from(error: TextError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl From<ParseError> for RestError {
    fn from(error: ParseError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl RestError {
    /// Something that is no answer to the caller.
    pub fn internal(doing: &'static str, source: impl Into<Fault>) -> Self {
        Self::Internal { doing, source: source.into() }
    }

    /// The code, and with it the status.
    pub fn code(&self) -> ProblemCode {
        match self {
            Self::BadRequest(_) => ProblemCode::BadRequest,
            Self::Unauthorized => ProblemCode::Unauthorized,
            Self::Forbidden { .. } => ProblemCode::Forbidden,
            Self::NotFound { .. } | Self::NoRoute => ProblemCode::NotFound,
            Self::MethodNotAllowed => ProblemCode::MethodNotAllowed,
            Self::Deleted(_) => ProblemCode::Deleted,
            Self::Refused { code, .. } => *code,
            Self::TooLarge { .. } => ProblemCode::TooLarge,
            Self::MediaType { .. } => ProblemCode::UnsupportedMediaType,
            Self::Control(error) | Self::Host(HostError::Control(error)) => control_code(error),
            Self::Ledger(error) => ledger_code(error),
            Self::ChangeRefused(why) => refusal_code(why),
            Self::Condition { .. } => ProblemCode::PreconditionFailed,
            Self::Range { .. } => ProblemCode::RangeNotSatisfiable,
            Self::Host(HostError::Refused(_)) => ProblemCode::Held,
            Self::Host(HostError::Offline | HostError::Unavailable(_)) => ProblemCode::Unavailable,
            Self::Host(HostError::Failed { .. }) | Self::Internal { .. } => ProblemCode::Internal,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unauthorized => {
                Some("send \"Authorization: Bearer TOKEN\" with a token that has not expired")
            }
            Self::Forbidden { .. } => Some("use a token of that role"),
            Self::Deleted(_) => Some("bring it back with `polder share undelete`"),
            Self::Refused { hint, .. } => *hint,
            Self::Control(ControlError::NameTaken { .. }) => Some("choose another name"),
            Self::ChangeRefused(Refusal::Quota { .. }) => {
                Some("remove something, or raise the share's quota")
            }
            Self::ChangeRefused(Refusal::ChunksMissing(_)) => Some("send it again"),
            Self::Host(HostError::Offline) => Some("start the agent on the server, or wait for it"),
            _ => None,
        }
    }

    /// The body. What concerns the inside of the service stays in its log.
    pub fn problem(&self) -> Problem {
        let code = self.code();
        let message = match code {
            ProblemCode::Internal => "the service failed; its log says why".to_owned(),
            _ => self.to_string(),
        };
        Problem { code, message, hint: self.hint().map(Into::into) }
    }
}

fn control_code(error: &ControlError) -> ProblemCode {
    match error {
        ControlError::NotFound { .. } => ProblemCode::NotFound,
        ControlError::NameTaken { .. } => ProblemCode::Exists,
        ControlError::InUse { .. } => ProblemCode::NotEmpty,
        ControlError::Refused(_) => ProblemCode::PreconditionFailed,
        ControlError::BadToken => ProblemCode::Unauthorized,
        ControlError::Fenced { .. } => ProblemCode::Unavailable,
        ControlError::Newer { .. } | ControlError::Damaged { .. } | ControlError::Store { .. } => {
            ProblemCode::Internal
        }
    }
}

/// The error and its causes, for the log.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl IntoResponse for RestError {
    fn into_response(self) -> Response {
        let problem = self.problem();
        let status = problem.code.status();
        if status.is_server_error() {
            tracing::error!(error = chain(&self), "a request failed");
        } else {
            tracing::debug!(error = chain(&self), "a request was refused");
        }
        let mut answer = (status, Json(problem)).into_response();
        match self {
            Self::Unauthorized => {
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Range { size_bytes } => {
                if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size_bytes}")) {
                    answer.headers_mut().insert(header::CONTENT_RANGE, value);
                }
            }
            _ => (),
        }
        answer
    }
}

/// Fallback of unknown routes.
pub async fn not_found() -> RestError {
    RestError::NoRoute
}

/// Fallback of other methods.
pub async fn method_not_allowed() -> RestError {
    RestError::MethodNotAllowed
}

//! Why a request came to nothing.

use crate::rest::{Problem, ProblemCode};

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is of no use.
    #[error("\"{url}\" is not the address of a service: {reason}")]
    Url {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate authorities cannot be read.
    #[error("the file of certificate authorities is not PEM")]
    Certificates(
        /// What is wrong with it.
        #[source]
        reqwest::Error,
    ),
    /// The client cannot be made.
    #[error("set up the connection to the service")]
    Build(
        /// Why.
        #[source]
        reqwest::Error,
    ),
    /// No connection, or it broke.
    #[error("the service at {url} cannot be reached")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No answer within the bound.
    #[error("the service at {url} did not answer in time")]
    Timeout {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The service refused.
    #[error("{}", .problem.message)]
    Refused {
        /// HTTP status.
        status: http::StatusCode,
        /// What it said.
        problem: Problem,
    },
    /// The answer is no JSON of the type that the route promises.
    #[error("the service sent an answer that this version does not understand")]
    Malformed(
        /// What is wrong with it.
        #[source]
        serde_json::Error,
    ),
    /// The answer is longer than the bound.
    #[error("the service sent an answer of more than {bytes_max} bytes")]
    TooLong {
        /// The bound.
        bytes_max: usize,
    },
    /// The content ended early.
    #[error("the content ended after {got} of {expected} bytes")]
    Short {
        /// Bytes that came.
        got: u64,
        /// Bytes that were promised.
        expected: u64,
    },
}

impl ClientError {
    /// The code of a refusal.
    pub fn code(&self) -> Option<ProblemCode> {
        match self {
            Self::Refused { problem, .. } => Some(problem.code),
            _ => None,
        }
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Short { .. } => true,
            Self::Refused { problem, .. } => {
                matches!(problem.code, ProblemCode::Unavailable | ProblemCode::TooManyRequests)
            }
            Self::Url { .. }
            | Self::Certificates(_)
            | Self::Build(_)
            | Self::Malformed(_)
            | Self::TooLong { .. } => false,
        }
    }

    /// What the service says to do next.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { problem, .. } => problem.hint.as_deref(),
            _ => None,
        }
    }
}

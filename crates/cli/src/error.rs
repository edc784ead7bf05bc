//! Errors as a person meets them: what failed, on what, why, what to do next; and the exit code.

use std::{error::Error, fmt};

use polder_api::{
    control::ControlError,
    rest::{ClientError, Problem, ProblemCode},
};

/// Exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Done in part; the failed items are listed.
    Partial = 3,
    /// What was named does not exist.
    NotFound = 4,
    /// Refused by a precondition or a guard; the hint says how to go on.
    Refused = 5,
    /// Service or agent not reachable.
    Unreachable = 6,
}

/// Why a command failed.
#[derive(Debug)]
pub struct CliError {
    /// What failed, on what and why: lower case, no full stop.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Exit code.
    pub exit: Exit,
    /// Cause.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl CliError {
    /// A plain failure.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: Exit::Failed, source: None }
    }

    /// Wrong usage that the parser could not see.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::new(message) }
    }

    /// Refused by a guard.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { exit: Exit::Refused, ..Self::new(message) }
    }

    /// What was named does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { exit: Exit::NotFound, ..Self::new(message) }
    }

    /// A failed input or output, with what was being done: `read "/etc/x"`.
    pub fn io(doing: impl fmt::Display, source: std::io::Error) -> Self {
        let exit = if source.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Self { message: doing.to_string(), hint: None, exit, source: Some(Box::new(source)) }
    }

    /// With what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether this is the reader of our output having gone away, which is no failure (`polder … | head`).
    pub fn is_broken_pipe(&self) -> bool {
        let source = self.source.as_ref().and_then(|source| source.downcast_ref::<std::io::Error>());
        source.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// The message and the chain of causes, each once.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause: Option<&dyn Error> = self.source.as_ref().map(|source| source.as_ref() as &dyn Error);
        while let Some(error) = cause {
            let own = error.to_string();
            // Some libraries repeat their source in their own text.
            if !text.ends_with(&own) {
                text.push_str(": ");
                text.push_str(&own);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for CliError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn Error + 'static))
    }
}

/// The exit code of a refusal.
fn exit_of(code: ProblemCode) -> Exit {
    match code {
        ProblemCode::BadRequest | ProblemCode::MethodNotAllowed | ProblemCode::UnsupportedMediaType => {
            Exit::Usage
        }
        ProblemCode::NotFound => Exit::NotFound,
        ProblemCode::Unauthorized
        | ProblemCode::Forbidden
        | ProblemCode::Exists
        | ProblemCode::Changed
        | ProblemCode::NotEmpty
        | ProblemCode::Held
        | ProblemCode::Deleted
        | ProblemCode::PreconditionFailed
        | ProblemCode::Quota => Exit::Refused,
        ProblemCode::Unavailable | ProblemCode::TooManyRequests => Exit::Unreachable,
        ProblemCode::TooLarge
        | ProblemCode::RangeNotSatisfiable
        | ProblemCode::Internal
        | ProblemCode::NotImplemented
        | ProblemCode::Unknown => Exit::Failed,
    }
}

fn hint_of(problem: &Problem) -> Option<String> {
    problem.hint.clone().or_else(|| match problem.code {
        ProblemCode::Unauthorized => {
            Some("run `polder login URL --token-file FILE`, or give --token-file".to_owned())
        }
        ProblemCode::Forbidden => Some("use a token whose role allows this".to_owned()),
        _ => None,
    })
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let (exit, hint) = match &error {
            ClientError::Refused { problem, .. } => (exit_of(problem.code), hint_of(problem)),
            ClientError::Url { .. } => (Exit::Usage, None),
            ClientError::Certificates(_) => {
                (Exit::Failed, Some("give the service's ca.pem as --ca-file".into()))
            }
            ClientError::Build(_) | ClientError::Malformed(_) | ClientError::TooLong { .. } => {
                (Exit::Failed, None)
            }
            ClientError::Unreachable { .. } => (
                Exit::Unreachable,
                Some(
                    "check that the service runs, its address (--url), and its certificate (--ca-file)"
                        .into(),
                ),
            ),
            ClientError::Timeout { .. } | ClientError::Short { .. } => {
                (Exit::Unreachable, Some("try again".into()))
            }
        };
        let message = error.to_string();
        // A transport error's causes say more than its own text; a refusal says all itself.
        let source: Option<Box<dyn Error + Send + Sync>> = match error {
            ClientError::Refused { .. } => None,
            other => Some(Box::new(Inner(other))),
        };
        Self { message, hint, exit, source }
    }
}

/// Shows the cause of an error whose own text was shown already.
#[derive(Debug)]
struct Inner(ClientError);

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(source) => write!(f, "{source}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Error for Inner {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source().and_then(Error::source)
    }
}

impl From<ControlError> for CliError {
    fn from(error: ControlError) -> Self {
        let message = error.to_string();
        let (exit, hint) = match &error {
            ControlError::Refused(problem) => (exit_of(problem.code), hint_of(problem)),
            ControlError::NotRunning { .. } => (
                Exit::Unreachable,
                Some("start it with `polder agent run`, or name its state folder with --state".to_owned()),
            ),
            ControlError::Timeout | ControlError::Ended | ControlError::Io(_) => (Exit::Unreachable, None),
            ControlError::Malformed(_) | ControlError::TooLong => (Exit::Failed, None),
        };
        let source: Option<Box<dyn Error + Send + Sync>> = match error {
            ControlError::NotRunning { source, .. } | ControlError::Io(source) => Some(Box::new(source)),
            ControlError::Malformed(source) => Some(Box::new(source)),
            _ => None,
        };
        Self { message, hint, exit, source }
    }
}

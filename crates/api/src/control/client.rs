//! One question to an agent on this machine; and the lines that both ends read and write.

use std::{io, path::Path, time::Duration};

use polder_types::Escaped;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use super::{Answer, LINE_BYTES_MAX, Request, SOCKET};
use crate::rest::Problem;

/// How long the next line of an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why an agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens there.
    #[error("no agent answers at \"{socket}\"")]
    NotRunning {
        /// The socket.
        socket: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The agent refused or failed.
    #[error("the agent refuses: {}", .0.message)]
    Refused(
        /// What it said.
        Problem,
    ),
    /// The answer took too long.
    #[error("the agent did not answer within {} seconds", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    /// The connection broke.
    #[error("read or write the control socket")]
    Io(
        /// What the system said.
        #[source]
        io::Error,
    ),
    /// A line is not what the protocol says.
    #[error("the control socket carried a line that is no message")]
    Malformed(
        /// What is wrong with it.
        #[source]
        serde_json::Error,
    ),
    /// A line has no end within the bound.
    #[error("the control socket carried a line of more than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// The connection ended before the answer did.
    #[error("the agent ended the connection before its answer was complete")]
    Ended,
}

/// Asks the agent whose state folder is `state`, and returns its one answer.
pub async fn ask(state: &Path, request: &Request) -> Result<Answer, ControlError> {
    let mut answer = None;
    converse(state, request, |line| {
        answer = Some(line);
        false
    })
    .await?;
    answer.ok_or(ControlError::Ended)
}

/// Asks for several answers and hands each to `each`, without the final [`Answer::Done`].
pub async fn ask_each(
    state: &Path,
    request: &Request,
    mut each: impl FnMut(Answer),
) -> Result<(), ControlError> {
    converse(state, request, |line| {
        let more = line != Answer::Done;
        if more {
            each(line);
        }
        more
    })
    .await
}

async fn converse(
    state: &Path,
    request: &Request,
    mut each: impl FnMut(Answer) -> bool,
) -> Result<(), ControlError> {
    let socket = state.join(SOCKET);
    let stream = UnixStream::connect(&socket).await.map_err(|source| ControlError::NotRunning {
        socket: Escaped(socket.as_os_str().as_encoded_bytes()).to_string(),
        source,
    })?;
    let (from, mut to) = stream.into_split();
    write_line(&mut to, request).await?;
    let mut from = BufReader::new(from);
    loop {
        let line = tokio::time::timeout(ANSWER_TIMEOUT, read_line(&mut from)).await;
        match line.map_err(|_| ControlError::Timeout)?? {
            None => return Err(ControlError::Ended),
            Some(Answer::Problem(problem)) => return Err(ControlError::Refused(problem)),
            Some(answer) => {
                if !each(answer) {
                    return Ok(());
                }
            }
        }
    }
}

/// Reads one message; `None` at the end of the connection.
pub async fn read_line<T: DeserializeOwned>(
    from: &mut (impl AsyncBufRead + Unpin),
) -> Result<Option<T>, ControlError> {
    let mut line = Vec::new();
    let mut bounded = from.take(LINE_BYTES_MAX as u64);
    bounded.read_until(b'\n', &mut line).await.map_err(ControlError::Io)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => serde_json::from_slice(&line).map(Some).map_err(ControlError::Malformed),
        Some(_) if line.len() == LINE_BYTES_MAX => Err(ControlError::TooLong),
        Some(_) => Err(ControlError::Ended),
    }
}

/// Writes one message.
pub async fn write_line(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> Result<(), ControlError> {
    let mut line = serde_json::to_vec(message).map_err(ControlError::Malformed)?;
    line.push(b'\n');
    if line.len() > LINE_BYTES_MAX {
        return Err(ControlError::TooLong);
    }
    to.write_all(&line).await.map_err(ControlError::Io)?;
    to.flush().await.map_err(ControlError::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Option<Request>, ControlError> {
        read_line(&mut BufReader::new(bytes)).await
    }

    #[tokio::test]
    async fn lines_are_bounded_and_checked() {
        assert_eq!(read(b"").await.expect("an end is no error"), None);
        let pause = read(b"{\"request\":\"pause\"}\n").await.expect("legal");
        assert_eq!(pause, Some(Request::Pause { endpoint: None }));
        assert!(matches!(read(b"{\"request\":\"pause\"}").await, Err(ControlError::Ended)));
        assert!(matches!(read(b"{\"request\":\"halt\"}\n").await, Err(ControlError::Malformed(_))));
        assert!(matches!(read(&vec![b' '; LINE_BYTES_MAX + 1]).await, Err(ControlError::TooLong)));
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let mut wire = Vec::new();
        let message = Request::Explain { path: "/srv/a".into() };
        write_line(&mut wire, &message).await.expect("memory takes it");
        assert_eq!(read(&wire).await.expect("own line"), Some(message));
    }
}

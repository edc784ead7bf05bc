//! Lets a refused request end in peace.
//!
//! Over HTTP/1.1 a caller that is still sending its body does not read; if the connection is closed on it, the kernel
//! resets it and the answer is lost. So the rest of the body of a refused request is read and thrown away first, up to a
//! bound: whoever sends more than that without `Expect: 100-continue` may lose the answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Version, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

/// Most bytes that are thrown away.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most time that is spent on it.
const TIME_MAX: Duration = Duration::from_secs(5);

/// A body that somebody else can read to its end when its reader has given up.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl Shared {
    fn with<T>(&self, look: impl FnOnce(&mut Body) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl http_body::Body for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}

/// The layer around everything.
pub async fn until_read(request: Request, next: Next) -> Response {
    // HTTP/2 ends one stream without touching the others; a caller that waits for 100 has not sent its body.
    let in_peace = request.version() >= Version::HTTP_2
        || request.headers().contains_key(header::EXPECT)
        || request.body().is_end_stream();
    if in_peace {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = Shared(Arc::new(Mutex::new(body)));
    let answer = next.run(Request::from_parts(parts, Body::new(body.clone()))).await;
    if answer.status().is_client_error() || answer.status().is_server_error() {
        // Whether it came to its end or not, the answer goes out.
        let _ = tokio::time::timeout(TIME_MAX, throw_away(body)).await;
    }
    answer
}

async fn throw_away(mut body: Shared) {
    let mut left = BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let len = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(len) else { return };
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use axum::middleware::from_fn;
    use axum::routing::post;
    use tower::ServiceExt;

    use super::*;

    /// A body of `pieces` of one MiB, and how many of them were read.
    fn body(pieces: usize) -> (Body, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let count = read.clone();
        let pieces = (0..pieces).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from_static(&[0; 1024 * 1024]))
        });
        (Body::from_stream(futures::stream::iter(pieces)), read)
    }

    async fn read_of(pieces: usize, status: StatusCode, expect: bool) -> usize {
        let router = Router::new().route("/", post(async move || status)).layer(from_fn(until_read));
        let (body, read) = body(pieces);
        let mut request = axum::http::Request::builder().method("POST").uri("/");
        if expect {
            request = request.header(header::EXPECT, "100-continue");
        }
        let answer = router.oneshot(request.body(body).expect("a request")).await.expect("an answer");
        assert_eq!(answer.status(), status);
        read.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn only_what_was_refused_is_read_and_not_for_ever() {
        assert_eq!(read_of(3, StatusCode::CONFLICT, false).await, 3, "to its end");
        assert_eq!(read_of(100, StatusCode::CONFLICT, false).await, 9, "up to the bound");
        assert_eq!(read_of(3, StatusCode::OK, false).await, 0, "a success has read what it wanted");
        assert_eq!(read_of(3, StatusCode::CONFLICT, true).await, 0, "its body was not sent");
    }
}

//! Ends a child with its parent.
//!
//! A parent gives its child a pipe as standard input and sets [`VARIABLE`]. However the parent ends, SIGKILL included,
//! the kernel closes the pipe, and the child sees the end of its input. No signal, no process id, no race with the
//! parent's death before the child has set anything up.

use std::io::Read as _;

use tokio::signal::unix::{SignalKind, signal};

/// Says that standard input is such a pipe.
pub const VARIABLE: &str = "POLDER_END_WITH_INPUT";

/// Ready when SIGINT or SIGTERM came, or the parent has ended.
pub async fn told_to_stop() {
    tokio::select! {
        () = interrupted() => (),
        () = gone() => (),
    }
}

/// Ready when SIGINT or SIGTERM came.
pub async fn interrupted() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        _ = terminated => (),
    }
}

/// Ready when the parent has ended; never, when there is no parent to watch.
async fn gone() {
    if std::env::var_os(VARIABLE).is_none() {
        return std::future::pending().await;
    }
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread of its own: a blocking read of the runtime would hold up its end.
    std::thread::spawn(move || {
        let mut rest = [0; 64];
        while matches!(std::io::stdin().read(&mut rest), Ok(count) if count > 0) {}
        // Nobody listens when the program has ended by itself.
        let _ = tell.send(());
    });
    // An error means that the thread is gone, and with it the reason to go on.
    let _ = told.await;
}

//! Progress of longer work: a bar on a terminal, a line every ten seconds elsewhere, nothing with `--quiet`.

use std::{
    fmt::Display,
    io::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    Ui,
    render::{bytes, seconds},
    ui::Talk,
};

/// Shorter work shows nothing.
const SHOW_AFTER: Duration = Duration::from_secs(1);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Bytes and items of one piece of work. May be told from several tasks.
pub struct Progress {
    doing: &'static str,
    started: Instant,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    items_done: AtomicU64,
    view: View,
}

enum View {
    None,
    Bar(ProgressBar),
    Lines { talk: Talk, last: Mutex<Instant> },
}

impl Progress {
    /// Begins; `doing` is a word such as "upload".
    pub fn new(ui: &Ui, doing: &'static str) -> Self {
        let started = Instant::now();
        let view = match (ui.is_quiet(), ui.terminal().stderr) {
            (true, _) => View::None,
            (false, true) => View::Bar(bar(doing)),
            (false, false) => View::Lines { talk: ui.talk_stream(), last: Mutex::new(started) },
        };
        let zero = || AtomicU64::new(0);
        Self { doing, started, bytes_total: zero(), bytes_done: zero(), items_done: zero(), view }
    }

    /// More work was found.
    pub fn expect_bytes(&self, bytes: u64) {
        let total = self.bytes_total.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let View::Bar(bar) = &self.view {
            bar.set_length(total);
        }
    }

    /// Bytes were moved.
    pub fn add_bytes(&self, count: u64) {
        self.bytes_done.fetch_add(count, Ordering::Relaxed);
        self.look();
    }

    /// An item is complete.
    pub fn add_item(&self) {
        self.items_done.fetch_add(1, Ordering::Relaxed);
        self.look();
    }

    fn look(&self) {
        match &self.view {
            View::None => (),
            View::Bar(bar) => {
                if bar.is_hidden() && self.started.elapsed() > SHOW_AFTER {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                }
                bar.set_position(self.bytes_done.load(Ordering::Relaxed));
                bar.set_message(format!("{} items", self.items_done.load(Ordering::Relaxed)));
            }
            View::Lines { talk, last } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    speak(talk, &self.line());
                }
            }
        }
    }

    fn line(&self) -> String {
        let done = self.bytes_done.load(Ordering::Relaxed);
        let total = self.bytes_total.load(Ordering::Relaxed).max(done);
        let items = self.items_done.load(Ordering::Relaxed);
        let spent = self.started.elapsed().as_secs_f64().max(0.001);
        let rate = (done as f64 / spent) as u64;
        let left = (total - done).checked_div(rate).map(seconds);
        let left = left.map_or_else(String::new, |left| format!(", {left} left"));
        let doing = self.doing;
        format!("{doing}: {items} items, {} of {}, {}/s{left}", bytes(done), bytes(total), bytes(rate))
    }

    /// A line of talk between two pictures of the bar.
    pub fn warn(&self, ui: &Ui, text: impl Display) {
        match &self.view {
            View::Bar(bar) => bar.suspend(|| ui.warn(text)),
            View::None | View::Lines { .. } => ui.warn(text),
        }
    }

    /// Ends, and takes the bar away.
    pub fn finish(&self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

fn bar(doing: &'static str) -> ProgressBar {
    const TEMPLATE: &str =
        "{prefix} {bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {msg}";
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
    // A template that does not parse costs the look, not the work.
    bar.set_style(ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(doing);
    bar
}

fn speak(talk: &Talk, line: &str) {
    let mut talk = talk.lock().unwrap_or_else(PoisonError::into_inner);
    // Nobody can be told when stderr is gone.
    let _ = writeln!(talk, "{line}");
}

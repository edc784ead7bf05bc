//! The two voices of a command: data on stdout, talk on stderr.

use std::{
    fmt::Display,
    io::{BufRead as _, Write},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use crate::{
    CliError, Environment, Exit, Terminal,
    args::{Global, LogFormat},
};

/// stderr, shared with progress that is shown meanwhile.
pub(crate) type Talk = Arc<Mutex<Box<dyn Write + Send>>>;

/// Standard streams of a command, and how to speak on them.
pub struct Ui {
    environment: Environment,
    talk: Talk,
    json: bool,
    quiet: bool,
    log: Option<String>,
    log_format: LogFormat,
}

impl Ui {
    /// Speaks on the streams of `environment`.
    pub fn new(mut environment: Environment) -> Self {
        let stderr = std::mem::replace(&mut environment.stderr, Box::new(std::io::sink()));
        Self {
            environment,
            talk: Arc::new(Mutex::new(stderr)),
            json: false,
            quiet: false,
            log: None,
            log_format: LogFormat::Text,
        }
    }

    pub(crate) fn configure(&mut self, global: &Global) {
        self.json = global.json;
        self.quiet = global.quiet;
        self.log = global.log.clone();
        self.log_format = global.log_format;
    }

    /// Columns of the terminal.
    pub fn width(&self) -> u16 {
        self.environment.terminal.width
    }

    /// Whether data is wanted as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether talk is not wanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// What to log, and how: the flag, else `RUST_LOG`.
    pub fn log(&self) -> (Option<String>, LogFormat) {
        let variable =
            || self.environment.var("RUST_LOG").map(|filter| filter.to_string_lossy().into_owned());
        (self.log.clone().or_else(variable), self.log_format)
    }

    /// What the streams are.
    pub fn terminal(&self) -> Terminal {
        self.environment.terminal
    }

    /// Variables and standard streams.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(crate) fn talk_stream(&self) -> Talk {
        Arc::clone(&self.talk)
    }

    /// Raw bytes of data, as `cat` gives them.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let written = self.environment.stdout.write_all(bytes);
        written.map_err(|error| CliError::io("write to standard output", error))
    }

    /// Data as text; ends with one line feed. Nothing for an empty text.
    pub fn text(&mut self, text: impl Display) -> Result<(), CliError> {
        let text = text.to_string();
        if text.is_empty() {
            return Ok(());
        }
        self.bytes(text.as_bytes())?;
        if text.ends_with('\n') { Ok(()) } else { self.bytes(b"\n") }
    }

    /// One value: a JSON document, or what `text` makes of it.
    pub fn show<T: Serialize>(&mut self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        if self.json { self.document(value) } else { self.text(text(value)) }
    }

    /// A JSON document.
    pub fn document(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        self.text(serde_json::to_string_pretty(value).map_err(unwritable)?)
    }

    /// One of several JSON values of a stream, on a line of its own; seen at once.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        self.text(serde_json::to_string(value).map_err(unwritable)?)?;
        self.flush()
    }

    /// Makes what was written visible.
    pub fn flush(&mut self) -> Result<(), CliError> {
        self.environment.stdout.flush().map_err(|error| CliError::io("write to standard output", error))
    }

    /// A line of talk, unless `--quiet`.
    pub fn say(&self, text: impl Display) {
        if !self.quiet {
            self.speak(&text);
        }
    }

    /// A warning: said even with `--quiet`.
    pub fn warn(&self, text: impl Display) {
        self.speak(&format_args!("{} {text}", self.paint("33", "warning:")));
    }

    /// Reads one line of an answer.
    pub(crate) fn answer(&mut self) -> Result<String, CliError> {
        let mut line = String::new();
        let read = self.environment.stdin.read_line(&mut line);
        read.map_err(|error| CliError::io("read standard input", error))?;
        Ok(line.trim().to_owned())
    }

    /// Standard input, for contents.
    pub(crate) fn take_stdin(&mut self) -> Box<dyn std::io::BufRead + Send> {
        std::mem::replace(&mut self.environment.stdin, Box::new(std::io::empty()))
    }

    /// Asks without a line feed.
    pub(crate) fn prompt(&self, text: &str) {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody can be told when stderr is gone.
        let _ = write!(talk, "{text}").and_then(|()| talk.flush());
    }

    fn speak(&self, text: &dyn Display) {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody can be told when stderr is gone.
        let _ = writeln!(talk, "{text}");
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        let plain = !self.environment.terminal.stderr || self.environment.var("NO_COLOR").is_some();
        if plain { text.to_owned() } else { format!("\x1b[{colour}m{text}\x1b[0m") }
    }

    pub(crate) fn usage(&mut self, error: &clap::Error) -> Exit {
        let rendered = error.render().to_string();
        if error.use_stderr() {
            self.speak(&rendered.trim_end());
            return Exit::Usage;
        }
        match self.text(rendered) {
            Ok(()) => self.finish(Exit::Done),
            Err(error) => self.fail(&error),
        }
    }

    pub(crate) fn finish(&mut self, exit: Exit) -> Exit {
        match self.flush() {
            Ok(()) => exit,
            Err(error) => self.fail(&error),
        }
    }

    pub(crate) fn fail(&mut self, error: &CliError) -> Exit {
        if error.is_broken_pipe() {
            return Exit::Done;
        }
        // Data that was ready before the failure is still data.
        let _ = self.environment.stdout.flush();
        self.speak(&format_args!("{} {}", self.paint("31", "error:"), crate::render::safe(&error.chain())));
        if let Some(hint) = &error.hint {
            self.speak(&format_args!("{} {hint}", self.paint("36", "hint:")));
        }
        error.exit
    }
}

fn unwritable(error: serde_json::Error) -> CliError {
    CliError { source: Some(Box::new(error)), ..CliError::new("write JSON") }
}

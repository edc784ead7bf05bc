//! What a command gets from outside: variables, standard streams, the terminal.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{BufRead, IsTerminal, Write},
    path::PathBuf,
};

/// Width of help and tables when nobody says.
const WIDTH_DEFAULT: u16 = 100;

/// Which streams are a terminal, and how wide it is.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// Somebody can answer a question.
    pub stdin: bool,
    /// Data is read by a person.
    pub stdout: bool,
    /// Talk is read by a person.
    pub stderr: bool,
    /// Columns.
    pub width: u16,
}

/// What a command gets from outside.
pub struct Environment {
    /// Environment variables.
    pub vars: BTreeMap<OsString, OsString>,
    /// Standard input.
    pub stdin: Box<dyn BufRead + Send>,
    /// Data.
    pub stdout: Box<dyn Write + Send>,
    /// Talk.
    pub stderr: Box<dyn Write + Send>,
    /// What the streams are.
    pub terminal: Terminal,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        Self {
            vars: std::env::vars_os().collect(),
            stdin: Box::new(std::io::BufReader::new(std::io::stdin())),
            stdout: Box::new(std::io::BufWriter::new(std::io::stdout())),
            stderr: Box::new(std::io::stderr()),
            terminal: Terminal {
                stdin: std::io::stdin().is_terminal(),
                stdout: std::io::stdout().is_terminal(),
                stderr: std::io::stderr().is_terminal(),
                width: columns.unwrap_or(WIDTH_DEFAULT).clamp(40, 400),
            },
        }
    }

    /// A variable that is set and not empty.
    pub fn var(&self, name: &str) -> Option<&OsString> {
        self.vars.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty())
    }

    /// `~/.config/polder/config.toml`, or below `XDG_CONFIG_HOME`.
    pub fn config_file(&self) -> Option<PathBuf> {
        let base = match self.var("XDG_CONFIG_HOME") {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(self.var("HOME")?).join(".config"),
        };
        Some(base.join("polder").join("config.toml"))
    }
}

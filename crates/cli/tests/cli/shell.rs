//! Runs command lines and catches what they say.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{Cursor, Write},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use polder_cli::{CliError, Environment, Exit, Host, HostRequest, Terminal, Ui};

use crate::fake::Fake;

/// A home folder, an environment, a terminal or none.
pub struct Shell {
    home: tempfile::TempDir,
    /// Environment variables.
    pub vars: BTreeMap<OsString, OsString>,
    /// Whether a person sits there, and what they type.
    pub types: Option<String>,
    /// Standard input where nobody sits there.
    pub input: Vec<u8>,
    /// What was handed over to the binary.
    pub handed: Arc<Mutex<Vec<HostRequest>>>,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Exit code.
    pub exit: Exit,
    /// Data.
    pub out: String,
    /// Talk.
    pub err: String,
}

impl Said {
    /// All of it, for a snapshot.
    pub fn all(&self) -> String {
        let Self { exit, out, err } = self;
        format!("exit {}\n--- data\n{out}--- talk\n{err}", *exit as u8)
    }
}

#[derive(Clone, Default)]
struct Caught(Arc<Mutex<Vec<u8>>>);

impl Write for Caught {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no test panics with it").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Caught {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no test panics with it")).into_owned()
    }
}

struct Handed(Arc<Mutex<Vec<HostRequest>>>);

impl Host for Handed {
    fn carry_out(&self, request: HostRequest, _ui: &mut Ui) -> Result<Exit, CliError> {
        self.0.lock().expect("no test panics with it").push(request);
        Ok(Exit::Done)
    }
}

impl Shell {
    /// A shell that knows nothing.
    pub fn bare() -> Self {
        // Fails only when another test of this process was first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let home = tempfile::tempdir().expect("a temporary folder");
        let vars = BTreeMap::from([(OsString::from("HOME"), home.path().into())]);
        Self { home, vars, types: None, input: Vec::new(), handed: Arc::default() }
    }

    /// A shell that knows a service and a token.
    pub fn with(fake: &Fake) -> Self {
        let mut shell = Self::bare();
        let token = shell.file("token", "secret-token\n");
        shell.vars.insert("POLDER_URL".into(), fake.url.clone().into());
        shell.vars.insert("POLDER_TOKEN_FILE".into(), token.into());
        shell
    }

    /// Where files of this shell are.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("below home")).expect("a folder");
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// Runs `polder` with arguments.
    pub fn run(&self, arguments: &[&str]) -> Said {
        let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
        self.run_os(arguments)
    }

    /// Runs `polder` with arguments that need not be UTF-8.
    pub fn run_os(&self, arguments: Vec<OsString>) -> Said {
        let (out, err) = (Caught::default(), Caught::default());
        let typed = self.types.clone().map(|text| format!("{text}\n").into_bytes());
        let environment = Environment {
            vars: self.vars.clone(),
            stdin: Box::new(Cursor::new(typed.unwrap_or_else(|| self.input.clone()))),
            stdout: Box::new(out.clone()),
            stderr: Box::new(err.clone()),
            terminal: Terminal { stdin: self.types.is_some(), stdout: false, stderr: false, width: 100 },
        };
        let all = std::iter::once(OsString::from("polder")).chain(arguments).collect();
        let exit = polder_cli::run(all, environment, &Handed(Arc::clone(&self.handed)));
        let home = self.home.path().to_str().expect("text");
        Said { exit, out: out.text().replace(home, "~"), err: err.text().replace(home, "~") }
    }
}

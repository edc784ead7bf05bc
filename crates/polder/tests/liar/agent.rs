//! The real agent, as a process, registered with the liar.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use polder_agent::{Identity, StateDir};
use polder_types::ServerId;

use crate::service::Liar;

const WAIT: Duration = Duration::from_secs(60);

/// An agent in a folder of its own: `outside/root` is the endpoint.
pub struct Agent<'a> {
    pub liar: &'a Liar,
    worker: Child,
}

impl<'a> Agent<'a> {
    pub fn start(liar: &'a Liar) -> Self {
        let state = StateDir::open(&liar.path("state")).expect("a folder");
        for (name, text) in
            [("ca.pem", &liar.ca_pem), ("cert.pem", &liar.cert_pem), ("key.pem", &liar.key_pem)]
        {
            fs::write(state.file(name), text).expect("written");
        }
        let identity = Identity {
            service_url: liar.url.clone(),
            server_id: ServerId([9; 16]),
            server_name: "site-a".into(),
            renew_at_unix_s: i64::MAX,
            expires_at_unix_s: i64::MAX,
        };
        state.put_identity(&identity).expect("written");
        fs::create_dir_all(liar.path("outside/root")).expect("made");
        Self { worker: spawn(liar), liar }
    }

    /// Ends the worker and starts another.
    pub fn restart(&mut self) {
        drop(self.worker.stdin.take());
        let _ = self.worker.wait();
        self.liar.forget_status();
        self.worker = spawn(self.liar);
    }

    pub fn root(&self) -> PathBuf {
        self.liar.path("outside/root")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.liar.path("log")).expect("written")
    }

    /// Waits for a state, with a bound.
    pub fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is(self) {
            let (status, log) = (self.liar.status(), self.log());
            assert!(began.elapsed() < WAIT, "{what}\n{:?}\n{status:?}\n{log}", self.names());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What stands in the root, beside the product's own folder.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root()).expect("readable");
        let names = entries.map(|entry| entry.expect("read").file_name().into_string().expect("text"));
        let mut names: Vec<String> = names.filter(|name| name != ".polder").collect();
        names.sort();
        names
    }

    /// One line of the log has all of these, and names share and endpoint.
    pub fn ensure_logged(&self, words: &[&str]) {
        let ids = [self.liar.share.to_string(), self.liar.endpoint.to_string()];
        let all: Vec<&str> = words.iter().copied().chain(ids.iter().map(String::as_str)).collect();
        self.until(&format!("logged: {words:?}"), |agent| {
            agent.log().lines().any(|line| all.iter().all(|word| line.contains(word)))
        });
    }

    pub fn ensure_no_panic(&self) {
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }

    /// Nothing was written beside the root.
    pub fn ensure_nothing_outside(&self) {
        let names = |path: PathBuf| {
            let entries = fs::read_dir(path).expect("readable");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("read").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.liar.path("outside")), ["root"]);
        assert_eq!(names(self.liar.path("")), ["log", "outside", "state"]);
        assert!(!std::path::Path::new("/x").exists());
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.worker.kill();
        let _ = self.worker.wait();
    }
}

fn spawn(liar: &Liar) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(liar.path("log")).expect("a log");
    Command::new(env!("CARGO_BIN_EXE_polder"))
        .args(["agent", "worker", "--state"])
        .arg(liar.path("state"))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the binary starts")
}

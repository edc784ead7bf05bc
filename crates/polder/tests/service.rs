//! The binary as a service, and the binary as its command line, over TLS on loopback.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Bound on the service's first start, on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);

struct Machine {
    folder: tempfile::TempDir,
    service: Child,
    url: String,
}

impl Machine {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("bound");
        drop(socket);
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let service = Command::new(env!("CARGO_BIN_EXE_polder"))
            .args(["service", "run", "--listen", &address.to_string(), "--data"])
            .arg(folder.path().join("service"))
            .env_clear()
            .env("POLDER_END_WITH_INPUT", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let machine = Self { folder, service, url: format!("https://{address}") };
        let (token, ca) = (machine.path("service/owner.token"), machine.path("service/ca.pem"));
        let began = Instant::now();
        loop {
            let login = machine
                .command()
                .args(["login", &machine.url, "--token-file"])
                .arg(&token)
                .arg("--ca-file")
                .arg(&ca)
                .output()
                .expect("the binary starts");
            if login.status.success() {
                return machine;
            }
            assert!(began.elapsed() < START_WITHIN, "{login:?}\n{}", machine.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).expect("written")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_polder"));
        command.env_clear().env("HOME", self.folder.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().expect("the binary starts")
    }

    /// Runs a command that must be done, and returns its data.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The end of its input ends the service; a service that hangs is killed.
        drop(self.service.stdin.take());
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            if matches!(self.service.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

#[test]
fn files_go_into_a_share_and_come_back_as_they_were() {
    let machine = Machine::start();
    machine.done(&["share", "create", "demo"]);
    let tree = machine.path("tree");
    fs::create_dir_all(tree.join("sub")).expect("made");
    let large: Vec<u8> =
        (0..3_000_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    fs::write(tree.join("sub/large"), &large).expect("written");
    fs::write(tree.join("Grüße %"), "names").expect("written");
    std::os::unix::fs::symlink("../nowhere", tree.join("sub/link")).expect("made");
    machine.done(&["share", "put", "-r", tree.to_str().expect("text"), "demo:"]);

    machine.done(&["snapshot", "create", "demo", "--name", "first"]);
    machine.done(&["share", "rm", "-r", "--yes", "demo:tree/sub"]);
    let now: serde_json::Value =
        serde_json::from_str(&machine.done(&["share", "ls", "-r", "demo:", "--json"])).expect("JSON");
    assert_eq!(now.as_array().map(Vec::len), Some(2));

    let back = machine.path("back");
    machine.done(&["share", "get", "-r", "demo:tree", back.to_str().expect("text"), "--at", "first"]);
    assert!(fs::read(back.join("sub/large")).expect("there") == large);
    assert_eq!(fs::read_to_string(back.join("Grüße %")).expect("there"), "names");
    assert_eq!(fs::read_link(back.join("sub/link")).expect("there").to_str(), Some("../nowhere"));
    let modified = |path: PathBuf| path.metadata().expect("there").modified().expect("known");
    assert_eq!(modified(back.join("sub/large")), modified(tree.join("sub/large")));
}

#[test]
fn refusals_have_their_exit_codes() {
    let machine = Machine::start();
    machine.done(&["share", "create", "demo", "--quota", "10K"]);
    let large = machine.path("large");
    fs::write(&large, vec![7; 20_000]).expect("written");
    let large = large.to_str().expect("text");
    for (arguments, code) in [
        (&["share", "show", "none"][..], 4),
        (&["share", "cat", "demo:none"], 4),
        (&["share", "create", "demo"], 5),
        (&["share", "put", large, "demo:large"], 5),
        (&["share", "delete", "demo"], 5),
        (&["status", "--token-file", large], 1),
        (&["status", "--url", "https://127.0.0.1:1"], 6),
    ] {
        let output = machine.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_service_ends_with_its_parent() {
    let mut machine = Machine::start();
    drop(machine.service.stdin.take());
    let began = Instant::now();
    while machine.service.try_wait().expect("a child").is_none() {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", machine.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(machine.run(&["status"]).status.code(), Some(6));
}

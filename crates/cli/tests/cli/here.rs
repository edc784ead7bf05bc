//! Commands on a registered server: the control socket and what is handed to the binary.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    path::PathBuf,
};

use polder_cli::{AgentRegister, AgentRun, Exit, HostRequest, RecallManifest, ServiceRun, Settings, Up};

use crate::shell::Shell;

const INFO: &str = r#"{"answer":"info","version":"0.1.0","pid":7,"started_at":"2026-11-23T18:00:00Z",
    "server":"000000000000000000000000000000a1","name":"site-a","service":"https://127.0.0.1:8443","connected":true,
    "certificate_expires_at":"2026-12-23T18:00:00Z","endpoints":[{"id":"000000000000000000000000000000e1",
    "share":"demo","path":{"bytes":"L3Nydi//"},"paused":true,"watcher":"fanotify"}]}"#;

/// An agent that answers one question with these lines; returns what it was asked.
fn agent(shell: &Shell, answers: &[&str]) -> std::thread::JoinHandle<String> {
    let socket = UnixListener::bind(shell.path("control.sock")).expect("a socket");
    let answers: Vec<String> = answers.iter().map(|answer| answer.replace('\n', " ")).collect();
    std::thread::spawn(move || {
        let (mut stream, _) = socket.accept().expect("a connection");
        let mut question = String::new();
        BufReader::new(stream.try_clone().expect("a clone")).read_line(&mut question).expect("a question");
        for answer in answers {
            writeln!(stream, "{answer}").expect("an answer");
        }
        question
    })
}

#[test]
fn pause_asks_the_agent() {
    let shell = Shell::bare();
    let agent = agent(&shell, &[INFO]);
    let state = shell.path("");
    let said = shell.run(&["pause", "--state", state.to_str().expect("text")]);
    insta::assert_snapshot!(said.all(), @r"
    exit 0
    --- data
    SHARE  PATH       PAUSED  WATCHER   ID
    demo   /srv/\xff  yes     fanotify  000000000000000000000000000000e1
    --- talk
    ");
    assert_eq!(agent.join().expect("no panic"), "{\"request\":\"pause\"}\n");
}

/// The service is the agent's, with what the agent trusts, unless another address is given.
#[test]
fn a_mount_is_handed_over_with_the_agents_service() {
    for (own, url, has_ca) in
        [(None, "https://127.0.0.1:8443", true), (Some("https://other:1"), "https://other:1", false)]
    {
        let shell = Shell::bare();
        let agent = agent(&shell, &[INFO]);
        shell.file("ca.pem", "authority");
        let (state, dir) = (shell.path(""), shell.path("dir"));
        let mut command =
            vec!["mount", "demo", dir.to_str().expect("text"), "--cache-quota", "2GiB", "--state"];
        command.push(state.to_str().expect("text"));
        command.extend(own.iter().flat_map(|url| ["--url", *url]));
        let said = shell.run(&command);
        assert_eq!(said.exit, Exit::Done, "{}", said.err);
        assert_eq!(agent.join().expect("no panic"), "{\"request\":\"info\"}\n");
        let handed = shell.handed.lock().expect("no test panics with it");
        let [HostRequest::Mount(mount)] = &handed[..] else { panic!("{handed:?}") };
        assert_eq!(
            (mount.share.as_str(), mount.cache_quota_bytes, mount.dry_run),
            ("demo", Some(2 << 30), false)
        );
        assert_eq!(mount.dir, state.canonicalize().expect("it is there").join("dir"));
        assert_eq!((mount.settings.url.as_str(), mount.settings.ca_file.is_some()), (url, has_ca));
    }
}

/// Who has no agent, or one that does not run, is told what to do.
#[test]
fn a_mount_without_an_agent_says_what_to_run() {
    let shell = Shell::bare();
    let state = shell.path("");
    let run = |command: &str| {
        shell.run(
            &[&command.split(' ').collect::<Vec<_>>()[..], &["--state", state.to_str().expect("text")]]
                .concat(),
        )
    };
    for command in ["mount demo dir", "unmount dir"] {
        let said = run(command);
        assert_eq!(said.exit, Exit::Unreachable);
        assert!(said.err.contains("polder agent register"), "{}", said.err);
    }
    shell.file("identity.toml", "");
    let said = run("mount demo dir");
    assert!(said.err.contains("hint: start it with `polder agent run`"), "{}", said.err);
}

#[test]
fn a_recall_tells_what_came_and_what_did_not() {
    let shell = Shell::bare();
    let agent = agent(
        &shell,
        &[
            r#"{"answer":"moved","files":3,"files_done":1,"files_failed":0,"bytes":3000,"bytes_done":1000}"#,
            r#"{"answer":"file","path":"/srv/a/b","size":1000,"on_disk_bytes":0,"residency":"tiered",
                "used_at":"2026-11-23T18:00:00Z","verdict":"no_space","reason":"the volume would be nearly full"}"#,
            r#"{"answer":"moved","files":3,"files_done":3,"files_failed":1,"bytes":3000,"bytes_done":2000}"#,
            r#"{"answer":"done"}"#,
        ],
    );
    let state = shell.path("");
    let state = state.to_str().expect("text");
    let said = shell.run(&[
        "recall",
        "/srv/a",
        "--pattern",
        "*.pdf",
        "--order",
        "heat",
        "--threads",
        "8",
        "--state",
        state,
    ]);
    insta::assert_snapshot!(said.all(), @r"
    exit 3
    --- data
    PATH        SIZE  ON DISK  IS      USED                 VERDICT   WHY
    /srv/a/b  1000 B      0 B  tiered  2026-11-23 18:00:00  no_space  the volume would be nearly full
    --- talk
    2 files, 2.0 KiB fetched; 1 stay as they were
    ");
    let asked = agent.join().expect("no panic");
    assert_eq!(
        asked,
        "{\"request\":\"recall\",\"choice\":{\"paths\":[\"/srv/a\"],\"pattern\":\"*.pdf\",\"by_heat\":true},\"threads\":8}\n"
    );
}

#[test]
fn explain_tells_where_the_bytes_are() {
    let shell = Shell::bare();
    let explain = r#"{"answer":"explain","endpoint":"000000000000000000000000000000e1","share":"demo","path":"b",
        "state":"synced","reason":"it is in sync at version 7 of the share","synced_version":7,"tiering":{
        "residency":"partial","size":2048,"on_disk_bytes":1024,"used_at":"2026-11-23T18:00:00Z",
        "warm_at":"2026-11-25T18:00:00Z","reason":"its bytes are in the share and come when they are read",
        "last_recall":{"program":"cat","user":1000,"at":"2026-11-23T18:00:00Z","bytes":1024}}}"#;
    let agent = agent(&shell, &[explain]);
    let state = shell.path("");
    let said = shell.run(&["explain", "/srv/a/b", "--state", state.to_str().expect("text")]);
    insta::assert_snapshot!(said.out, @r"
    here: synced: it is in sync at version 7 of the share
      partial: 1.0 KiB of 2.0 KiB on this disk; its bytes are in the share and come when they are read
      last used 2026-11-23 18:00:00, as warm as a file used once at 2026-11-25 18:00:00
      last recalled by cat of user 1000 at 2026-11-23 18:00:00, 1.0 KiB in all
    ");
    agent.join().expect("no panic");
}

#[test]
fn lists_and_pins_change_nothing_that_was_not_asked_for() {
    let shell = Shell::bare();
    let state = shell.path("");
    let state = state.to_str().expect("text");
    let row = r#"{"answer":"file","path":"/srv/a/b","size":9,"on_disk_bytes":4096,"residency":"resident",
        "used_at":"2026-11-23T18:00:00Z","verdict":"in_use","reason":"somebody has it open"}"#;
    let of = |answers: &[&str], command: &[&str]| {
        let _ = std::fs::remove_file(shell.path("control.sock"));
        let agent = agent(&shell, answers);
        let said = shell.run(command);
        (said, agent.join().expect("no panic"))
    };
    let (said, asked) = of(&[row, r#"{"answer":"done"}"#], &["tier", "--list", "--state", state]);
    assert!(said.exit == Exit::Done && said.out.contains("in_use"), "{}", said.all());
    assert_eq!(
        asked,
        "{\"request\":\"tier_list\",\"choice\":{\"paths\":[],\"by_heat\":false},\"count_max\":1000}\n"
    );
    let (said, asked) = of(&[r#"{"answer":"pinned","changed":true}"#], &["pin", "/srv/a", "--state", state]);
    assert_eq!(said.exit, Exit::Done);
    assert_eq!(asked, "{\"request\":\"pin\",\"path\":\"/srv/a\",\"pinned\":true}\n");
    let (said, _) = of(&[r#"{"answer":"pinned","changed":false}"#], &["unpin", "/srv/a", "--state", state]);
    assert!(said.err.contains("not pinned"), "{}", said.err);
    let pins = [r#"{"answer":"pin","path":"/srv/a"}"#, r#"{"answer":"done"}"#];
    let (said, _) = of(&pins, &["pin", "--list", "--state", state]);
    assert!(said.out.contains("/srv/a"), "{}", said.out);
    let refusal = r#"{"answer":"problem","code":"precondition_failed","message":"the endpoint does not tier","hint":"turn it on"}"#;
    let (said, _) = of(&[refusal], &["tier", "/srv/a", "--state", state]);
    assert_eq!(said.exit, Exit::Refused, "{}", said.all());
    for wrong in
        [&["tier"][..], &["recall"], &["recall", "/a", "--threads", "33"], &["tier", "/a", "--limit", "3"]]
    {
        assert_eq!(shell.run(wrong).exit, Exit::Usage, "{wrong:?}");
    }
}

#[test]
fn a_network_test_that_fails_is_one() {
    let shell = Shell::bare();
    let agent = agent(
        &shell,
        &[
            r#"{"answer":"network","step":"connect","ok":true,"detail":"127.0.0.1:8443","micros":1250}"#,
            r#"{"answer":"network","step":"clock","ok":false,"detail":"a year off","hint":"set the clock","micros":3}"#,
            r#"{"answer":"done"}"#,
        ],
    );
    let state = shell.path("");
    let said = shell.run(&["network", "test", "--state", state.to_str().expect("text")]);
    insta::assert_snapshot!(said.all(), @r"
    exit 1
    --- data
    STEP     OK     TIME  DETAIL
    connect  yes  1.2 ms  127.0.0.1:8443
    clock    no   0.0 ms  a year off
    --- talk
    hint: set the clock
    ");
    agent.join().expect("no panic");
}

#[test]
fn an_agent_that_goes_away_is_six() {
    let shell = Shell::bare();
    let agent = agent(&shell, &[]);
    let state = shell.path("");
    assert_eq!(shell.run(&["resume", "--state", state.to_str().expect("text")]).exit, Exit::Unreachable);
    agent.join().expect("no panic");
}

#[test]
fn what_needs_more_is_handed_over() {
    let mut shell = Shell::bare();
    // A server's join token is never taken from the administrator's environment.
    shell.vars.insert("POLDER_TOKEN_FILE".into(), "/admin.token".into());
    for command in [
        &["up", "--once", "--dir", "/d"][..],
        &["service", "run", "--data", "/s", "--listen", "127.0.0.1:0"],
        &[
            "agent",
            "register",
            "--service",
            "https://x",
            "--token-file",
            "-",
            "--state",
            "/a",
            "--ca-file",
            "/ca",
        ],
        &["agent", "run"],
        &["--url", "https://x", "recall", "--from-manifest", "/m", "--into", "/o", "--threads", "2"],
    ] {
        assert_eq!(shell.run(command).exit, Exit::Done, "{command:?}");
    }
    let handed = shell.handed.lock().expect("no test panics with it");
    assert_eq!(
        *handed,
        [
            HostRequest::Up(Up { dir: "/d".into(), listen: None, once: true }),
            HostRequest::ServiceRun(ServiceRun {
                data: "/s".into(),
                listen: Some(([127, 0, 0, 1], 0).into()),
                metadata: None,
                objects: None,
                public_url: None,
                config: None,
            }),
            HostRequest::AgentRegister(AgentRegister {
                service: "https://x".into(),
                token_file: "-".into(),
                state: "/a".into(),
                name: None,
                ca_file: Some("/ca".into()),
            }),
            HostRequest::AgentRun(AgentRun { state: PathBuf::from("/var/lib/polder") }),
            HostRequest::RecallManifest(RecallManifest {
                manifest: "/m".into(),
                into: Some("/o".into()),
                threads: 2,
                settings: Settings {
                    url: "https://x".into(),
                    token_file: Some("/admin.token".into()),
                    ca_file: None,
                },
            }),
        ]
    );
}

#[test]
fn completions_and_man_pages_are_written() {
    let shell = Shell::bare();
    for name in ["bash", "zsh", "fish"] {
        let said = shell.run(&["completions", name]);
        assert!(said.exit == Exit::Done && said.out.contains("polder"), "{name}");
    }
    let folder = shell.path("man");
    assert_eq!(shell.run(&["man", folder.to_str().expect("text")]).exit, Exit::Done);
    let page = std::fs::read_to_string(folder.join("polder-share-create.1")).expect("a page a command");
    assert!(page.contains("insensitive"));
}

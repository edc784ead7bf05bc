//! `polder up --once`: everything on one machine, twice in one folder.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

fn up(dir: &Path, home: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polder"))
        .args(["up", "--once", "--json", "--listen", "127.0.0.1:0", "--dir"])
        .arg(dir)
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn logs(dir: &Path) -> String {
    ["service", "site-a", "site-b"]
        .map(|name| {
            let text =
                std::fs::read_to_string(dir.join("logs").join(format!("{name}.log"))).unwrap_or_default();
            format!("--- {name}\n{text}")
        })
        .concat()
}

#[test]
fn a_sample_crosses_and_a_second_start_continues() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("data");
    for start in 1..=2 {
        let output = up(&dir, folder.path());
        assert!(output.status.success(), "start {start}: {output:?}\n{}", logs(&dir));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        assert!(report["items"].as_u64().is_some_and(|items| items > 300), "{report}");
        for time in ["sample_a_to_b_ms", "change_a_to_b_ms", "change_b_to_a_ms", "read_as_of_snapshot_ms"] {
            assert!(report[time].as_f64().is_some_and(|millis| millis > 0.0), "{report}");
        }
        // Not mounted now, the files of a tiered site lie in its own folder.
        let tree = dir.join("site-b/.polder/tree");
        let is_tiered = tree.is_dir();
        assert_eq!(report["not_tiered"].is_null(), is_tiered, "{report}");
        if is_tiered {
            assert!(report["tiered_files"].as_u64().is_some_and(|files| files > 100), "{report}");
            assert!(report["tiered_bytes"].as_u64().is_some_and(|bytes| bytes > 8 << 20), "{report}");
        }
        let samples = |site: &str| {
            let folder = if is_tiered && site == "site-b" { tree.clone() } else { dir.join(site) };
            std::fs::read_dir(folder)
                .expect("there")
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("sample-"))
                .count()
        };
        assert_eq!((samples("site-a"), samples("site-b")), (start, start));
    }
}

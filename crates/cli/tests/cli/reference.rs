//! The generated reference, and what every command must have.

use std::path::Path;

use clap::CommandFactory as _;

fn every(command: &clap::Command, path: &str, look: &mut impl FnMut(&str, &clap::Command)) {
    for sub in command.get_subcommands() {
        let path = format!("{path} {}", sub.get_name());
        look(&path, sub);
        every(sub, &path, look);
    }
}

#[test]
fn the_reference_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let fresh = polder_cli::reference();
    if std::env::var_os("POLDER_RENEW").is_some() {
        std::fs::write(&path, &fresh).expect("docs/cli.md can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == fresh, "docs/cli.md is stale: POLDER_RENEW=1 cargo nextest run -p polder-cli reference");
}

#[test]
fn the_parser_is_sound() {
    polder_cli::Cli::command().debug_assert();
}

#[test]
fn every_command_has_an_example() {
    let mut without = Vec::new();
    every(&polder_cli::Cli::command(), "polder", &mut |path, command| {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        if !command.is_hide_set() && !help.contains(&format!("Example:\n  {path}")) {
            without.push(path.to_owned());
        }
    });
    assert_eq!(without, Vec::<String>::new());
}

#[test]
fn no_secret_is_an_argument() {
    every(&polder_cli::Cli::command(), "polder", &mut |path, command| {
        for argument in command.get_arguments() {
            let long = argument.get_long().unwrap_or_default();
            assert!(!matches!(long, "token" | "password" | "key" | "secret"), "{path} --{long}");
        }
    });
}

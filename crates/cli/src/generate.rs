//! The reference of all commands, made from the parser.

use clap::{Command, CommandFactory};

use crate::Cli;

/// `docs/cli.md`: every command with its help. Always the same for the same program.
pub fn reference() -> String {
    let mut out = String::from(
        "# Commands\n\nGenerated from the program; `cargo nextest run -p polder-cli` says when it is stale and how to \
         renew it.\n",
    );
    let mut root = Cli::command().term_width(100);
    root.build();
    section(&mut out, &mut root, "polder", 2);
    out
}

/// Heading of the options that every command has.
const GLOBAL_HEADING: &str = "Options of every command:";

fn section(out: &mut String, command: &mut Command, path: &str, level: usize) {
    let help = command.render_long_help().to_string();
    let mut lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    if level > 2 {
        // Said once, for `polder` itself.
        let from = lines.iter().position(|line| *line == GLOBAL_HEADING).unwrap_or(lines.len());
        let to = lines.iter().position(|line| line.starts_with("Example")).unwrap_or(lines.len());
        lines.drain(from..to.max(from));
    }
    lines.dedup_by(|line, before| line.is_empty() && before.is_empty());
    out.push_str(&format!(
        "\n{} `{path}`\n\n```text\n{}\n```\n",
        "#".repeat(level),
        lines.join("\n").trim_end()
    ));
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names {
        if let Some(sub) = command.find_subcommand_mut(&name) {
            section(out, sub, &format!("{path} {name}"), (level + 1).min(4));
        }
    }
}

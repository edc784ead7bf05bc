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

fn section(out: &mut String, command: &mut Command, path: &str, level: usize) {
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    out.push_str(&format!(
        "\n{} `{path}`\n\n```text\n{}\n```\n",
        "#".repeat(level),
        lines.join("\n").trim_end()
    ));
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        if let Some(sub) = command.find_subcommand_mut(&name) {
            section(out, sub, &format!("{path} {name}"), (level + 1).min(4));
        }
    }
}

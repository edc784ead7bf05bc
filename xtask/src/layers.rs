//! The layers of the workspace, and a check that nobody reaches past them.
//!
//! The table is the one of `docs/architecture.md`: a crate may import the listed crates of the workspace and no
//! others. Some foreign crates belong to one owner each, and pure crates may not have those that bring a clock, a
//! thread, a socket or randomness.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// Who may import whom inside the workspace.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("sync", &["types"]),
    ("chunk", &["types"]),
    ("tiering", &["types"]),
    ("ledger", &["types"]),
    ("gate", &["types"]),
    ("api", &["types"]),
    ("backup", &["types", "chunk"]),
    ("packstore", &["types", "chunk"]),
    ("engine", &["types", "sync", "chunk", "tiering"]),
    ("metadata", &["types", "ledger"]),
    ("replica", &["types", "sync", "chunk", "tiering"]),
    ("service", &["types", "ledger", "chunk", "backup", "packstore", "metadata", "api"]),
    ("agent", &["types", "engine", "sync", "chunk", "tiering", "packstore", "replica", "gate", "api"]),
    ("cli", &["types", "api"]),
    ("polder", &["cli", "service", "agent", "api", "types"]),
    ("xtask", &[]),
];

/// Crates that only tests and developers run may import anything.
const DEV_ONLY: &[&str] = &["sim", "bench", "fuzz", "model"];

const PURE: &[&str] = &["types", "sync", "engine", "ledger", "chunk", "tiering", "backup"];
const BANNED_IN_PURE: &[&str] = &[
    "tokio",
    "tracing",
    "rand",
    "getrandom",
    "reqwest",
    "hyper",
    "rusqlite",
    "rustix",
    "libc",
    "jiff",
    "axum",
    "tonic",
];

/// Foreign worlds with one owner (or the few named): SQL, system calls, HTTP, object stores.
const OWNED: &[(&str, &[&str])] = &[
    ("rusqlite", &["metadata", "replica"]),
    ("object_store", &["packstore"]),
    ("libc", &["replica", "gate", "polder"]),
    ("axum", &["service"]),
    ("rcgen", &["service", "agent"]),
    ("clap", &["cli", "polder"]),
];

/// Fails with every breach, one a line.
pub(crate) fn check() -> Result<()> {
    let metadata = MetadataCommand::new().no_deps().exec().context("read cargo metadata")?;
    let table: BTreeMap<&str, BTreeSet<&str>> =
        MAY_IMPORT.iter().map(|(name, list)| (*name, list.iter().copied().collect())).collect();
    let mut breaches = Vec::new();
    for package in &metadata.packages {
        let name = short(&package.name);
        let dependencies = package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal);
        let names: BTreeSet<&str> = dependencies.map(|dependency| dependency.name.as_str()).collect();
        if !DEV_ONLY.contains(&name) {
            match table.get(name) {
                None => breaches.push(format!("{name} has no row in the table of layers")),
                Some(allowed) => breaches.extend(breaches_of(name, &names, allowed)),
            }
        }
    }
    if breaches.is_empty() { Ok(()) } else { bail!("layers are breached:\n  {}", breaches.join("\n  ")) }
}

fn breaches_of(name: &str, names: &BTreeSet<&str>, allowed: &BTreeSet<&str>) -> Vec<String> {
    let mut breaches = Vec::new();
    for dependency in names {
        if let Some(inner) = dependency.strip_prefix("polder-")
            && !allowed.contains(inner)
        {
            breaches.push(format!("{name} may not import {inner}"));
        }
        if PURE.contains(&name) && BANNED_IN_PURE.contains(dependency) {
            breaches.push(format!("{name} is pure and may not use {dependency}"));
        }
        let owners = OWNED.iter().find(|(owned, _)| owned == dependency).map(|(_, owners)| owners);
        if owners.is_some_and(|owners| !owners.contains(&name)) {
            breaches.push(format!("{dependency} belongs to {owners:?}, not to {name}"));
        }
    }
    breaches
}

fn short(package: &str) -> &str {
    package.strip_prefix("polder-").unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/architecture.md`, "Layers": the workspace as it stands obeys the table.
    #[test]
    fn layers_hold() {
        check().expect("no breach");
    }

    #[test]
    fn breaches_are_found() {
        let names = BTreeSet::from(["polder-service", "tokio", "rusqlite", "serde"]);
        let found = breaches_of("sync", &names, &BTreeSet::from(["types"]));
        assert_eq!(found.len(), 4, "{found:?}");
    }
}

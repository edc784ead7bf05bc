//! The executor's part of an apply: every expectation is compared at the moment of acting.

use polder_engine::{Apply, ApplyAct, ApplyResult, ApplyStep, Place, SeenEntry};
use polder_types::{
    Content, Kind, Name, Stamp, conflict_name,
    zoo::{Bug, planted},
};

use crate::disk::{Disk, Node, token_of};

/// Carries out an apply, at most `steps_max` steps of it (a crash comes then); the results, and the stamps of the
/// directories after their times were set.
pub fn apply(
    disk: &mut Disk,
    apply: &Apply,
    steps_max: usize,
    server: &str,
) -> (Vec<ApplyResult>, Vec<Stamp>) {
    let mut results: Vec<ApplyResult> = Vec::with_capacity(apply.steps.len());
    for step in apply.steps.iter().take(steps_max) {
        let needed = step.after.iter().all(|at| matches!(results[*at as usize], ApplyResult::Done { .. }));
        results.push(if needed { one(disk, step, server) } else { ApplyResult::Skipped });
    }
    let mut stamps = Vec::new();
    for (dir, mtime) in &apply.dir_times {
        if let Some(ino) = disk.open(dir) {
            disk.set_mtime(ino, *mtime);
            stamps.push(disk.stamp(ino));
        }
    }
    (results, stamps)
}

fn refused(found: Option<SeenEntry>) -> ApplyResult {
    ApplyResult::Refused { found }
}

fn done(disk: &Disk, at: (u64, &Name), other: Option<SeenEntry>, exact: bool) -> ApplyResult {
    ApplyResult::Done { now: disk.seen(at.0, at.1), other, exact }
}

#[expect(clippy::too_many_lines, reason = "one arm a kind of step, in the order of the steps' definition")]
fn one(disk: &mut Disk, step: &ApplyStep, server: &str) -> ApplyResult {
    match &step.act {
        ApplyAct::Place { at, content, attrs, mtime, over } => {
            let Some(dir) = disk.open(&at.dir) else { return refused(None) };
            let mut other = None;
            let mut exact = true;
            match (disk.lookup(dir, &at.name), over) {
                (None, None) => (),
                (Some(ino), Some(over)) => {
                    let moves = over.to.is_some();
                    if !matches(disk, ino, over.expect, over.kind, moves) {
                        return refused(disk.seen(dir, &at.name));
                    }
                    exact = disk.stamp(ino) == over.expect;
                    if !moves && disk.names(ino).is_some_and(|names| !names.is_empty()) {
                        return refused(disk.seen(dir, &at.name));
                    }
                    if let Some(to) = &over.to {
                        let Some(to_dir) = disk.open(&to.dir).filter(|dir| free(disk, *dir, &to.name)) else {
                            return refused(None);
                        };
                        disk.rename((dir, &at.name), (to_dir, &to.name));
                        other = disk.seen(to_dir, &to.name);
                    } else {
                        disk.detach(dir, &at.name);
                    }
                }
                (found, _) => return refused(found.map(|ino| disk.entry(ino, &at.name))),
            }
            make(disk, dir, &at.name, content, attrs, *mtime);
            done(disk, (dir, &at.name), other, exact)
        }
        ApplyAct::Replace { at, expect, content, attrs, mtime, keep, .. } => {
            let Some((dir, ino)) = find(disk, at) else { return refused(None) };
            let other = disk.stamp(ino) != *expect && !planted(Bug::NoLocalPrecondition);
            if other || disk.names(ino).is_some() {
                return refused(disk.seen(dir, &at.name));
            }
            let other = match keep {
                None => {
                    disk.detach(dir, &at.name);
                    None
                }
                Some(keep) => {
                    let Some(keep_dir) = disk.open(&keep.dir) else { return refused(None) };
                    let names = std::iter::once(keep.name.clone())
                        .chain((1..).map(|attempt| conflict_name(&at.name, server, attempt)));
                    let name = names.into_iter().find(|name| free(disk, keep_dir, name)).expect("endless");
                    disk.rename((dir, &at.name), (keep_dir, &name));
                    disk.seen(keep_dir, &name)
                }
            };
            make(disk, dir, &at.name, content, attrs, *mtime);
            done(disk, (dir, &at.name), other, true)
        }
        ApplyAct::Touch { at, kind, expect, attrs, mtime } => {
            let found = if at.dir.path.names().is_empty() && step.uid == polder_types::NodeUid::ROOT {
                Some((crate::disk::ROOT, crate::disk::ROOT))
            } else {
                find(disk, at)
            };
            let Some((dir, ino)) = found else { return refused(None) };
            if !matches(disk, ino, *expect, *kind, *kind == Kind::Directory) {
                return refused(disk.seen(dir, &at.name));
            }
            disk.touch(ino, Some((dir, &at.name)), attrs.clone(), *mtime);
            let now = Some(disk.entry(ino, &at.name));
            ApplyResult::Done { now, other: None, exact: true }
        }
        ApplyAct::Move { from, expect, to } => {
            let (Some((dir, ino)), Some(to_dir)) = (find(disk, from), disk.open(&to.dir)) else {
                return refused(None);
            };
            if disk.stamp(ino).ident != expect.ident
                || !free(disk, to_dir, &to.name)
                || disk.is_inside(to_dir, ino)
            {
                return refused(disk.seen(dir, &from.name));
            }
            let exact = disk.stamp(ino) == *expect;
            disk.rename((dir, &from.name), (to_dir, &to.name));
            done(disk, (to_dir, &to.name), None, exact)
        }
        ApplyAct::Exchange { from, expect, to, expect_with } => {
            let (Some((dir, ino)), Some((to_dir, with))) = (find(disk, from), find(disk, to)) else {
                return refused(None);
            };
            let same = disk.stamp(ino).ident == expect.ident && disk.stamp(with).ident == expect_with.ident;
            if !same || disk.is_inside(to_dir, ino) || disk.is_inside(dir, with) {
                return refused(disk.seen(dir, &from.name));
            }
            let exact = disk.stamp(ino) == *expect && disk.stamp(with) == *expect_with;
            disk.detach(dir, &from.name);
            disk.detach(to_dir, &to.name);
            disk.attach(dir, &from.name, with);
            disk.attach(to_dir, &to.name, ino);
            let other = disk.seen(dir, &from.name);
            done(disk, (to_dir, &to.name), other, exact)
        }
        ApplyAct::Remove { at, kind, expect } => {
            let Some((dir, ino)) = find(disk, at) else { return refused(None) };
            let full = disk.names(ino).is_some_and(|names| !names.is_empty())
                && !planted(Bug::RemovesFullDirectories);
            if full || !matches(disk, ino, *expect, *kind, *kind == Kind::Directory) {
                return refused(disk.seen(dir, &at.name));
            }
            disk.detach(dir, &at.name);
            ApplyResult::Done { now: None, other: None, exact: true }
        }
    }
}

fn find(disk: &Disk, at: &Place) -> Option<(u64, u64)> {
    let dir = disk.open(&at.dir)?;
    Some((dir, disk.lookup(dir, &at.name)?))
}

fn free(disk: &Disk, dir: u64, name: &Name) -> bool {
    disk.lookup(dir, name).is_none()
}

fn matches(disk: &Disk, ino: u64, expect: Stamp, kind: Kind, identity_only: bool) -> bool {
    let stamp = disk.stamp(ino);
    let found = match disk.inode(ino).node {
        Node::Dir(_) => Kind::Directory,
        Node::File(_) => Kind::File,
        Node::Link(_) => Kind::Symlink,
    };
    let same =
        if identity_only || kind == Kind::Directory { stamp.ident == expect.ident } else { stamp == expect };
    let same = same || planted(Bug::NoLocalPrecondition);
    found == kind && same
}

fn make(
    disk: &mut Disk,
    dir: u64,
    name: &Name,
    content: &Content,
    attrs: &std::sync::Arc<polder_types::Attrs>,
    mtime: polder_types::Timestamp,
) {
    let node = match content {
        Content::Directory => Node::Dir(Default::default()),
        Content::Symlink(target) => Node::Link(target.clone()),
        Content::File { .. } => Node::File(token_of(content).expect("every content here has a token")),
    };
    let ino = disk.create_detached(node, attrs.clone());
    disk.set_mtime(ino, mtime);
    disk.attach(dir, name, ino);
}

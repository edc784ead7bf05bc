//! Users: what people and programs do to files, from a small pool of names so that they collide.

use polder_types::{Name, RelPath};

use crate::disk::{Disk, Node, ROOT, Token, attrs};
use crate::ghost::Ghost;
use crate::rng::Rng;

const NAMES: &[&str] = &["a", "b", "c", "d", "e.txt"];

/// One action on one disk; what it was, for the trace.
pub fn act(disk: &mut Disk, rng: &mut Rng, ghost: &mut Ghost, links: bool) -> String {
    let mut dirs = vec![(RelPath::root(), ROOT)];
    let mut files = Vec::new();
    for (path, ino) in disk.everything() {
        match disk.inode(ino).node {
            Node::Dir(_) => dirs.push((path, ino)),
            _ => files.push((path, ino)),
        }
    }
    let (dir_path, dir) = rng.pick(&dirs).clone();
    let name: Name = rng.pick(NAMES).parse().expect("plain names");
    match rng.below(100) {
        0..20 => create(disk, rng, ghost, &dir_path, dir, &name),
        20..30 if dir_path.names().len() < 3 && disk.lookup(dir, &name).is_none() => {
            disk.create(dir, &name, Node::Dir(Default::default()), attrs(0o755));
            format!("mkdir {}", dir_path.join(name))
        }
        30..45 if !files.is_empty() => {
            let file = rng_pick(rng, &files);
            edit(disk, rng, ghost, &file)
        }
        45..65 => rename(disk, rng, ghost, &dirs, &files),
        65..70 => swap(disk, rng, &files),
        70..85 => delete(disk, rng, ghost, &dirs, &files),
        85..90 if !files.is_empty() => {
            let (path, ino) = rng_pick(rng, &files);
            let (parent, name) = split(disk, &path);
            disk.touch(ino, Some((parent, &name)), Some(attrs(0o600 + rng.below(8) as u16)), None);
            format!("chmod {path}")
        }
        90..93 if disk.lookup(dir, &name).is_none() => {
            let target = format!("to-{}", rng.below(5)).into_bytes();
            disk.create(dir, &name, Node::Link(target.into()), attrs(0));
            format!("symlink {}", dir_path.join(name))
        }
        93..96 if !files.is_empty() => replace_by_dir(disk, ghost, &rng_pick(rng, &files)),
        96..98 if links && !files.is_empty() => {
            hard_link(disk, &rng_pick(rng, &files), (&dir_path, dir), &name)
        }
        98..100 if dir != ROOT => {
            let (parent, name) = split(disk, &dir_path);
            disk.touch(dir, Some((parent, &name)), Some(attrs(0o700 + rng.below(8) as u16)), None);
            format!("chmod {dir_path}")
        }
        _ => "nothing".into(),
    }
}

fn rng_pick(rng: &mut Rng, from: &[(RelPath, u64)]) -> (RelPath, u64) {
    rng.pick(from).clone()
}

fn split(disk: &Disk, path: &RelPath) -> (u64, Name) {
    let (parent, name) = path.split_last().expect("not the root");
    (disk.walk(&parent).expect("it was listed"), name.clone())
}

fn token_at(disk: &Disk, ino: u64) -> Option<Token> {
    match disk.inode(ino).node {
        Node::File(token) => Some(token),
        _ => None,
    }
}

/// A user takes a name away: its bytes are gone by a user's will, if it was their last name.
fn destroyed(disk: &Disk, ghost: &mut Ghost, ino: u64) {
    if let Some(token) = token_at(disk, ino) {
        ghost.destroyed(token);
    }
}

fn create(
    disk: &mut Disk,
    rng: &mut Rng,
    ghost: &mut Ghost,
    path: &RelPath,
    dir: u64,
    name: &Name,
) -> String {
    let token = ghost.fresh(rng);
    match disk.lookup(dir, name) {
        None => {
            disk.create(dir, name, Node::File(token), attrs(0o644));
            format!("create {} = {token}", path.join(name.clone()))
        }
        Some(ino) if token_at(disk, ino).is_some() => {
            destroyed(disk, ghost, ino);
            disk.write(dir, name, token);
            format!("overwrite {} = {token}", path.join(name.clone()))
        }
        Some(_) => {
            ghost.destroyed(token);
            "nothing".into()
        }
    }
}

/// Saves a file: in place, by a temporary file, or as an office does.
fn edit(disk: &mut Disk, rng: &mut Rng, ghost: &mut Ghost, (path, ino): &(RelPath, u64)) -> String {
    if token_at(disk, *ino).is_none() {
        return "nothing".into();
    }
    let (dir, name) = split(disk, path);
    let token = ghost.fresh(rng);
    destroyed(disk, ghost, *ino);
    let temporary: Name = format!("t{}", rng.below(2)).parse().expect("a plain name");
    let backup: Name = "backup".parse().expect("a plain name");
    if disk.lookup(dir, &temporary).is_some() || disk.lookup(dir, &backup).is_some() || rng.chance(40) {
        disk.write(dir, &name, token);
        return format!("edit {path} = {token}");
    }
    disk.create(dir, &temporary, Node::File(token), attrs(0o644));
    if rng.chance(50) {
        disk.rename((dir, &temporary), (dir, &name));
        return format!("save {path} = {token}");
    }
    disk.rename((dir, &name), (dir, &backup));
    disk.rename((dir, &temporary), (dir, &name));
    disk.detach(dir, &backup);
    format!("office save {path} = {token}")
}

fn rename(
    disk: &mut Disk,
    rng: &mut Rng,
    ghost: &mut Ghost,
    dirs: &[(RelPath, u64)],
    files: &[(RelPath, u64)],
) -> String {
    let all: Vec<_> = dirs.iter().skip(1).chain(files).cloned().collect();
    if all.is_empty() {
        return "nothing".into();
    }
    let (path, ino) = rng_pick(rng, &all);
    let (to_path, to_dir) = rng_pick(rng, dirs);
    let to_name: Name = rng.pick(NAMES).parse().expect("plain names");
    let (dir, name) = split(disk, &path);
    if disk.is_inside(to_dir, ino) || to_path.names().len() > 3 {
        return "nothing".into();
    }
    if let Some(other) = disk.lookup(to_dir, &to_name) {
        if other == ino || disk.names(other).is_some() || disk.names(ino).is_some() {
            return "nothing".into();
        }
        destroyed(disk, ghost, other);
    }
    disk.rename((dir, &name), (to_dir, &to_name));
    format!("rename {path} to {}", to_path.join(to_name))
}

fn swap(disk: &mut Disk, rng: &mut Rng, files: &[(RelPath, u64)]) -> String {
    if files.len() < 2 {
        return "nothing".into();
    }
    let ((one, _), (two, _)) = (rng_pick(rng, files), rng_pick(rng, files));
    if one == two {
        return "nothing".into();
    }
    let ((one_dir, one_name), (two_dir, two_name)) = (split(disk, &one), split(disk, &two));
    let aside: Name = "aside".parse().expect("a plain name");
    if disk.lookup(one_dir, &aside).is_some() {
        return "nothing".into();
    }
    disk.rename((one_dir, &one_name), (one_dir, &aside));
    disk.rename((two_dir, &two_name), (one_dir, &one_name));
    disk.rename((one_dir, &aside), (two_dir, &two_name));
    format!("swap {one} and {two}")
}

fn delete(
    disk: &mut Disk,
    rng: &mut Rng,
    ghost: &mut Ghost,
    dirs: &[(RelPath, u64)],
    files: &[(RelPath, u64)],
) -> String {
    if rng.chance(25) && dirs.len() > 1 {
        let (path, ino) = rng.pick(&dirs[1..]).clone();
        remove_all(disk, ghost, ino);
        let (dir, name) = split(disk, &path);
        disk.detach(dir, &name);
        return format!("rm -r {path}");
    }
    if files.is_empty() {
        return "nothing".into();
    }
    let (path, ino) = rng_pick(rng, files);
    destroyed(disk, ghost, ino);
    let (dir, name) = split(disk, &path);
    disk.detach(dir, &name);
    format!("rm {path}")
}

fn remove_all(disk: &mut Disk, ghost: &mut Ghost, dir: u64) {
    let names: Vec<_> =
        disk.names(dir).into_iter().flatten().map(|(name, ino)| (name.clone(), *ino)).collect();
    for (name, ino) in names {
        if disk.names(ino).is_some() {
            remove_all(disk, ghost, ino);
        }
        destroyed(disk, ghost, ino);
        disk.detach(dir, &name);
    }
}

fn replace_by_dir(disk: &mut Disk, ghost: &mut Ghost, (path, ino): &(RelPath, u64)) -> String {
    destroyed(disk, ghost, *ino);
    let (dir, name) = split(disk, path);
    disk.detach(dir, &name);
    disk.create(dir, &name, Node::Dir(Default::default()), attrs(0o755));
    format!("replace {path} by a directory")
}

fn hard_link(disk: &mut Disk, (path, ino): &(RelPath, u64), to: (&RelPath, u64), name: &Name) -> String {
    if token_at(disk, *ino).is_none() || disk.lookup(to.1, name).is_some() {
        return "nothing".into();
    }
    disk.attach(to.1, name, *ino);
    format!("link {path} as {}", to.0.join(name.clone()))
}

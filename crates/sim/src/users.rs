//! Users: what people and programs do to files, from a small pool of names so that they collide.

use std::fmt;

use polder_types::{Name, RelPath, Timestamp};

use crate::disk::{EMPTY, Node, RECYCLE, ROOT, Token, attrs, is_zeros};
use crate::ghost::Ghost;
use crate::host::Host;
use crate::rng::Rng;

const NAMES: &[&str] = &["a", "b", "c", "d", "e.txt"];
/// No share has it.
const LEFT_OUT: &str = "x.tmp";

/// One action, in words that need no further choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Writes a new file, or over one that is there.
    Create(RelPath),
    /// Makes an empty file.
    Empty(RelPath),
    /// Makes a directory.
    MakeDir(RelPath),
    /// Writes a file in place.
    Edit(RelPath),
    /// Saves a file by a temporary one and a rename.
    Save(RelPath),
    /// Saves a file as an office does: the old one becomes a backup, which is then deleted.
    Office(RelPath),
    /// Renames, over a file if there is one.
    Rename(RelPath, RelPath),
    /// Exchanges two files by way of a third name.
    Swap(RelPath, RelPath),
    /// Copies a file.
    Copy(RelPath, RelPath),
    /// Deletes a file, or a directory with all that is in it.
    Remove(RelPath),
    /// Puts a directory in the place of a file.
    Replace(RelPath),
    /// Changes permissions.
    Mode(RelPath, u16),
    /// Sets the modification time to so many seconds.
    Time(RelPath, i64),
    /// Makes a symlink.
    Link(RelPath, u64),
    /// Gives a file another name.
    HardLink(RelPath, RelPath),
    /// Makes what it wrote durable.
    Fsync(RelPath),
    /// A program opens a file for writing.
    Open(RelPath, u64),
    /// It writes.
    Put(u64),
    /// It stores to a mapping of it.
    Store(u64),
    /// It closes the file.
    Close(u64),
    /// A directory cannot be read any more, or can again.
    Hide(RelPath),
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(path) => write!(f, "create {path}"),
            Self::Empty(path) => write!(f, "empty {path}"),
            Self::MakeDir(path) => write!(f, "mkdir {path}"),
            Self::Edit(path) => write!(f, "edit {path}"),
            Self::Save(path) => write!(f, "save {path}"),
            Self::Office(path) => write!(f, "office {path}"),
            Self::Rename(from, to) => write!(f, "rename {from} {to}"),
            Self::Swap(one, two) => write!(f, "swap {one} {two}"),
            Self::Copy(from, to) => write!(f, "copy {from} {to}"),
            Self::Remove(path) => write!(f, "rm {path}"),
            Self::Replace(path) => write!(f, "replace {path}"),
            Self::Mode(path, mode) => write!(f, "mode {path} {mode}"),
            Self::Time(path, secs) => write!(f, "time {path} {secs}"),
            Self::Link(path, to) => write!(f, "symlink {path} {to}"),
            Self::HardLink(from, to) => write!(f, "link {from} {to}"),
            Self::Fsync(path) => write!(f, "fsync {path}"),
            Self::Open(path, program) => write!(f, "open {path} {program}"),
            Self::Put(program) => write!(f, "put {program}"),
            Self::Store(program) => write!(f, "store {program}"),
            Self::Close(program) => write!(f, "close {program}"),
            Self::Hide(path) => write!(f, "hide {path}"),
        }
    }
}

impl Act {
    /// Reads the words of `Display`.
    pub(crate) fn read(words: &[&str]) -> Option<Self> {
        let path = |nth: usize| RelPath::parse(words.get(nth)?.as_bytes()).ok();
        let number = |nth: usize| words.get(nth)?.parse::<u64>().ok();
        Some(match *words.first()? {
            "create" => Self::Create(path(1)?),
            "empty" => Self::Empty(path(1)?),
            "mkdir" => Self::MakeDir(path(1)?),
            "edit" => Self::Edit(path(1)?),
            "save" => Self::Save(path(1)?),
            "office" => Self::Office(path(1)?),
            "rename" => Self::Rename(path(1)?, path(2)?),
            "swap" => Self::Swap(path(1)?, path(2)?),
            "copy" => Self::Copy(path(1)?, path(2)?),
            "rm" => Self::Remove(path(1)?),
            "replace" => Self::Replace(path(1)?),
            "mode" => Self::Mode(path(1)?, number(2)? as u16),
            "time" => Self::Time(path(1)?, words.get(2)?.parse().ok()?),
            "symlink" => Self::Link(path(1)?, number(2)?),
            "link" => Self::HardLink(path(1)?, path(2)?),
            "fsync" => Self::Fsync(path(1)?),
            "open" => Self::Open(path(1)?, number(2)?),
            "put" => Self::Put(number(1)?),
            "store" => Self::Store(number(1)?),
            "close" => Self::Close(number(1)?),
            "hide" => Self::Hide(path(1)?),
            _ => return None,
        })
    }
}

/// Chooses what a user of this server does next. `kinds`: a bit for each kind of action that is switched on.
pub fn choose(host: &Host, rng: &mut Rng, kinds: u32) -> Option<Act> {
    let mut dirs = vec![RelPath::root()];
    let mut files = Vec::new();
    for (path, ino) in host.disk.everything() {
        match host.disk.inode(ino).node {
            Node::Dir(_) => dirs.push(path),
            _ => files.push(path),
        }
    }
    let dir = rng.pick(&dirs).clone();
    let name = if rng.chance(2) { LEFT_OUT } else { rng.pick(NAMES) };
    let new = if dir.names().len() < 3 { dir.join(name.parse().expect("plain names")) } else { dir.clone() };
    let some = |rng: &mut Rng, from: &[RelPath]| (!from.is_empty()).then(|| rng.pick(from).clone());
    let file = some(rng, &files);
    let other = some(rng, &files);
    let programs: Vec<u64> = host.programs.keys().copied().collect();
    let kind = rng.below(110);
    // Without these no other has anything to work on.
    let always = kind < 30;
    if !always && kinds & (1 << (kind % 32)) == 0 {
        return None;
    }
    Some(match kind {
        0..20 => Act::Create(new),
        20..30 => Act::MakeDir(new),
        30..37 => Act::Edit(file?),
        37..42 => Act::Save(file?),
        42..46 => Act::Office(file?),
        46..61 => {
            let all: Vec<RelPath> = dirs[1..].iter().chain(&files).cloned().collect();
            Act::Rename(some(rng, &all)?, new)
        }
        61..65 => Act::Swap(file?, other?),
        65..67 => Act::Copy(file?, new),
        67..77 => Act::Remove(file?),
        77..81 => Act::Remove(some(rng, &dirs[1..])?),
        81..84 => Act::Replace(file?),
        84..88 => Act::Mode(file?, 0o600 + rng.below(8) as u16),
        88..91 => Act::Mode(dir, 0o700 + rng.below(8) as u16),
        91 => Act::Time(file?, rng.below(4_000_000_000) as i64 - 2_000_000_000),
        92 => Act::Empty(new),
        93..95 => Act::Link(new, rng.below(5)),
        95..97 => Act::HardLink(file?, new),
        97 => Act::Fsync(file?),
        98..102 => Act::Open(file?, rng.below(1000)),
        102..105 => Act::Put(*programs.get(rng.below(programs.len() as u64) as usize)?),
        105..107 => Act::Store(*programs.get(rng.below(programs.len() as u64) as usize)?),
        107..109 => Act::Close(*programs.get(rng.below(programs.len() as u64) as usize)?),
        _ => Act::Hide(dir),
    })
}

/// A user at work on one server.
struct User<'a> {
    host: &'a mut Host,
    ghost: &'a mut Ghost,
}

/// Does what was chosen; `None` when nothing came of it.
pub fn act(host: &mut Host, ghost: &mut Ghost, act: &Act) -> Option<()> {
    if !host.mounted {
        return None;
    }
    let mut user = User { host, ghost };
    match act {
        Act::Create(path) => user.create(path),
        Act::Empty(path) => user.make(path, Node::File(EMPTY), 0o644),
        Act::MakeDir(path) => user.make(path, Node::Dir(Default::default()), 0o755),
        Act::Edit(path) => {
            let (ino, dir, name) = user.file(path)?;
            user.write(ino, Some((dir, name)))
        }
        Act::Save(path) => user.save(path, false),
        Act::Office(path) => user.save(path, true),
        Act::Rename(from, to) => user.rename(from, to),
        Act::Swap(one, two) => user.swap(one, two),
        Act::Copy(from, to) => user.copy(from, to),
        Act::Remove(path) => user.remove(path),
        Act::Replace(path) => {
            user.file(path)?;
            user.remove(path)?;
            user.make(path, Node::Dir(Default::default()), 0o755)
        }
        Act::Mode(path, mode) => user.touch(path, Some(*mode), None),
        Act::Time(path, secs) => user.touch(path, None, Some(Timestamp::new(*secs, 0))),
        Act::Link(path, to) => user.make(path, Node::Link(format!("to-{to}").into_bytes().into()), 0o777),
        Act::HardLink(from, to) => {
            let (ino, ..) = user.file(from)?;
            let (dir, name) = user.free(to)?;
            let hidden = |path: &RelPath| path.names().last().is_some_and(User::is_left_out);
            if hidden(from) || hidden(to) {
                return None;
            }
            user.host.disk.attach(dir, &name, ino);
            Some(())
        }
        Act::Fsync(path) => {
            let (ino, dir, _) = user.file(path)?;
            user.host.disk.fsync(ino);
            user.host.disk.fsync(dir);
            Some(())
        }
        Act::Open(path, program) => {
            let (ino, ..) = user.file(path)?;
            if user.host.programs.contains_key(program) {
                return None;
            }
            user.host.programs.insert(*program, ino);
            user.host.disk.hold_open(ino);
            Some(())
        }
        Act::Put(program) => user.put(*program, false),
        Act::Store(program) => user.put(*program, true),
        Act::Close(program) => {
            let ino = user.host.programs.remove(program)?;
            user.close(ino);
            Some(())
        }
        Act::Hide(path) => {
            let dir = user.host.disk.walk(path).filter(|dir| user.host.disk.names(*dir).is_some())?;
            if !user.host.disk.unreadable.remove(&dir) {
                user.host.disk.unreadable.insert(dir);
            }
            Some(())
        }
    }
}

/// A program that has a file open writes to it.
pub(crate) fn write_to(host: &mut Host, ghost: &mut Ghost, ino: u64) -> Option<()> {
    let mut user = User { host, ghost };
    let at = user.a_name(ino);
    user.write(ino, at)
}

/// A program changes a file's size to 0.
pub(crate) fn cut(host: &mut Host, ghost: &mut Ghost, ino: u64) -> Option<()> {
    let mut user = User { host, ghost };
    let (before, at) = (user.host.disk.token(ino)?, user.a_name(ino));
    user.host.disk.write(ino, at.as_ref().map(|(dir, name)| (*dir, name)), EMPTY).ok()?;
    user.host.disk.untold |= user.host.disk.inode(ino).links > 1;
    user.gone(before);
    Some(())
}

/// A program opens a file for writing.
pub(crate) fn open(host: &mut Host, ino: u64, program: u64) -> Option<()> {
    if host.programs.contains_key(&program) {
        return None;
    }
    host.programs.insert(program, ino);
    host.disk.hold_open(ino);
    Some(())
}

/// Bytes that were read are written to a new file.
pub(crate) fn copy_bytes(host: &mut Host, token: Token, to: &RelPath) -> Option<()> {
    let (parent, name) = to.split_last()?;
    let dir = host.disk.walk(&parent).filter(|dir| host.disk.names(*dir).is_some())?;
    let hidden = User::is_left_out(name) || host.disk.unreadable.contains(&dir);
    if hidden || host.disk.lookup(dir, name).is_some() {
        return None;
    }
    host.disk.create(dir, name, Node::File(token), attrs(0o644)).ok().map(drop)
}

/// Programs end: what they had open is closed.
pub fn close_all(host: &mut Host, ghost: &mut Ghost) {
    let mut user = User { host, ghost };
    for (_, ino) in std::mem::take(&mut user.host.programs) {
        user.close(ino);
    }
}

impl User<'_> {
    fn split(&self, path: &RelPath) -> Option<(u64, Name)> {
        let (parent, name) = path.split_last()?;
        let dir = self.host.disk.walk(&parent).filter(|dir| self.host.disk.names(*dir).is_some())?;
        (!self.host.disk.unreadable.contains(&dir)).then(|| (dir, name.clone()))
    }

    fn free(&self, path: &RelPath) -> Option<(u64, Name)> {
        self.split(path).filter(|(dir, name)| self.host.disk.lookup(*dir, name).is_none())
    }

    fn file(&self, path: &RelPath) -> Option<(u64, u64, Name)> {
        let (dir, name) = self.split(path)?;
        let ino = self.host.disk.lookup(dir, &name)?;
        self.host.disk.token(ino).map(|_| (ino, dir, name))
    }

    /// Whether no share has what stands there.
    fn is_left_out(name: &Name) -> bool {
        name.as_bytes() == LEFT_OUT.as_bytes()
    }

    fn make(&mut self, path: &RelPath, node: Node, mode: u16) -> Option<()> {
        let (dir, name) = self.free(path)?;
        if Self::is_left_out(&name) && !matches!(node, Node::File(_)) {
            return None;
        }
        self.host.disk.create(dir, &name, node, attrs(mode)).ok().map(drop)
    }

    fn create(&mut self, path: &RelPath) -> Option<()> {
        if let Some((ino, dir, name)) = self.file(path) {
            return self.write(ino, Some((dir, name)));
        }
        let (dir, name) = self.free(path)?;
        let token = self.ghost.draw();
        self.host.disk.create(dir, &name, Node::File(token), attrs(0o644)).ok()?;
        if !Self::is_left_out(&name) {
            self.ghost.written(token);
        }
        Some(())
    }

    /// Writes in place: the old bytes are gone by a user's will.
    fn write(&mut self, ino: u64, at: Option<(u64, Name)>) -> Option<()> {
        let token = self.ghost.draw();
        let before = self.host.disk.token(ino)?;
        self.host.disk.write(ino, at.as_ref().map(|(dir, name)| (*dir, name)), token).ok()?;
        // The watcher tells of one name.
        self.host.disk.untold |= self.host.disk.inode(ino).links > 1;
        self.wrote(before, token, ino);
        Some(())
    }

    fn wrote(&mut self, before: u64, token: u64, ino: u64) {
        self.gone(before);
        self.ghost.written(token);
        // Written to a file without a name, or to one of which no share has the name; or to one that has none but in the
        // recycle area, of which a user took the last one that he saw.
        let nameless = self.host.disk.inode(ino).links == 0;
        let left_behind = self.host.unlinked.contains(&ino) && self.a_name(ino).is_none();
        if nameless || left_behind || self.is_hidden(ino) {
            self.ghost.destroyed(token);
        }
    }

    /// Whether no share has the file, here or where it went with its directory when that was deleted elsewhere.
    fn is_hidden(&self, ino: u64) -> bool {
        let mut dirs = vec![ROOT, RECYCLE];
        while let Some(dir) = dirs.pop() {
            for (name, child) in self.host.disk.names(dir).into_iter().flatten() {
                if *child == ino && Self::is_left_out(name) {
                    return true;
                }
                dirs.extend(self.host.disk.names(*child).map(|_| *child));
            }
        }
        false
    }

    fn gone(&mut self, token: u64) {
        if !is_zeros(token) {
            self.ghost.taken(token);
        }
    }

    fn save(&mut self, path: &RelPath, office: bool) -> Option<()> {
        let (ino, dir, name) = self.file(path)?;
        let before = self.host.disk.token(ino)?;
        let temporary: Name = "t0".parse().expect("a plain name");
        let backup: Name = "backup".parse().expect("a plain name");
        let disk = &mut self.host.disk;
        if disk.lookup(dir, &temporary).is_some() || disk.lookup(dir, &backup).is_some() {
            return None;
        }
        let token = self.ghost.draw();
        let new = disk.create(dir, &temporary, Node::File(token), attrs(0o644)).ok()?;
        disk.fsync(new);
        if office {
            disk.rename((dir, &name), (dir, &backup));
        }
        disk.rename((dir, &temporary), (dir, &name));
        if office {
            disk.detach(dir, &backup);
        }
        self.host.unlinked.insert(ino);
        self.wrote(before, token, new);
        Some(())
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath) -> Option<()> {
        let ((dir, name), (to_dir, to_name)) = (self.split(from)?, self.split(to)?);
        let disk = &mut self.host.disk;
        let ino = disk.lookup(dir, &name)?;
        let hidden = Self::is_left_out(&to_name) || Self::is_left_out(&name);
        if hidden || disk.is_inside(to_dir, ino) || to.names().len() > 4 {
            return None;
        }
        let over = disk.lookup(to_dir, &to_name);
        if let Some(over) = over
            && (over == ino || disk.names(over).is_some() || disk.names(ino).is_some())
        {
            return None;
        }
        let lost = over.and_then(|over| disk.token(over));
        disk.rename((dir, &name), (to_dir, &to_name));
        self.host.unlinked.extend(over);
        lost.into_iter().for_each(|token| self.gone(token));
        Some(())
    }

    fn swap(&mut self, one: &RelPath, two: &RelPath) -> Option<()> {
        let ((_, dir, name), (_, other_dir, other)) = (self.file(one)?, self.file(two)?);
        let aside: Name = "aside".parse().expect("a plain name");
        let hidden = Self::is_left_out(&other) || Self::is_left_out(&name);
        if hidden || one == two || self.host.disk.lookup(dir, &aside).is_some() {
            return None;
        }
        self.host.disk.rename((dir, &name), (dir, &aside));
        self.host.disk.rename((other_dir, &other), (dir, &name));
        self.host.disk.rename((dir, &aside), (other_dir, &other));
        Some(())
    }

    fn copy(&mut self, from: &RelPath, to: &RelPath) -> Option<()> {
        let (ino, ..) = self.file(from)?;
        let (dir, name) = self.free(to)?;
        let token = self.host.disk.token(ino)?;
        if Self::is_left_out(&name) || from.names().last().is_some_and(Self::is_left_out) {
            return None;
        }
        self.host.disk.create(dir, &name, Node::File(token), attrs(0o644)).ok().map(drop)
    }

    fn remove(&mut self, path: &RelPath) -> Option<()> {
        let (dir, name) = self.split(path)?;
        let ino = self.host.disk.lookup(dir, &name)?;
        let lost = self.host.disk.token(ino);
        if self.host.disk.names(ino).is_some() {
            self.remove_inside(ino);
        }
        self.host.disk.detach(dir, &name);
        self.host.unlinked.insert(ino);
        lost.into_iter().for_each(|token| self.gone(token));
        Some(())
    }

    fn remove_inside(&mut self, dir: u64) {
        let names: Vec<(Name, u64)> =
            self.host.disk.names(dir).into_iter().flatten().map(|(name, ino)| (name.clone(), *ino)).collect();
        for (name, ino) in names {
            let lost = self.host.disk.token(ino);
            if self.host.disk.names(ino).is_some() {
                self.remove_inside(ino);
            }
            self.host.disk.detach(dir, &name);
            self.host.unlinked.insert(ino);
            lost.into_iter().for_each(|token| self.gone(token));
        }
        self.host.disk.unreadable.remove(&dir);
    }

    fn touch(&mut self, path: &RelPath, mode: Option<u16>, mtime: Option<Timestamp>) -> Option<()> {
        if path.names().is_empty() {
            self.host.disk.touch(ROOT, None, mode.map(attrs), mtime);
            return Some(());
        }
        let (dir, name) = self.split(path)?;
        let ino = self.host.disk.lookup(dir, &name)?;
        if matches!(self.host.disk.inode(ino).node, Node::Link(_)) && mode.is_some() {
            return None;
        }
        self.host.disk.touch(ino, Some((dir, &name)), mode.map(attrs), mtime);
        Some(())
    }

    fn put(&mut self, program: u64, mapped: bool) -> Option<()> {
        let ino = *self.host.programs.get(&program)?;
        if !mapped {
            let at = self.a_name(ino);
            return self.write(ino, at);
        }
        let (before, token) = (self.host.disk.token(ino)?, self.ghost.draw());
        self.host.disk.store(ino, token).ok()?;
        self.wrote(before, token, ino);
        Some(())
    }

    fn close(&mut self, ino: u64) {
        let at = self.a_name(ino);
        self.host.disk.close(ino, at.as_ref().map(|(dir, name)| (*dir, name)));
    }

    /// A name that a file has among what users see.
    fn a_name(&self, ino: u64) -> Option<(u64, Name)> {
        let everything = self.host.disk.everything();
        let path = everything.iter().find(|(_, other)| *other == ino).map(|(path, _)| path)?;
        let (parent, name) = path.split_last()?;
        Some((self.host.disk.walk(&parent)?, name.clone()))
    }
}

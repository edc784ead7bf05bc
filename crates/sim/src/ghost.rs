//! The oracles' own log, which nothing of the system sees: every content that a user wrote, and every one that a user
//! took away; and what follows from it for disks and the share.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use polder_ledger::ROOT_NID;
use polder_types::{Content, Nid, RelPath, Timestamp};

use crate::disk::{Disk, Node, Token, content_of, is_zeros, many, token_of};
use crate::host::Host;
use crate::rng::Rng;
use crate::service::Service;
use crate::service::store::Fetched;

/// What users did to contents.
#[derive(Debug)]
pub struct Ghost {
    rng: Rng,
    drawn: u64,
    /// Whether the bytes of some files are several chunks.
    pub in_chunks: bool,
    written: BTreeSet<Token>,
    /// A user took their last name on some server away, having seen them.
    destroyed: BTreeSet<Token>,
    /// A user took a name away from them.
    unlinked: BTreeSet<Token>,
    /// The share has taken them.
    acknowledged: BTreeSet<Token>,
    /// Gone by what no system can help: never durable when the power went, or nowhere but in a state that was set back.
    excused: BTreeSet<Token>,
    /// What is no file of anybody's any more by such a fault, and is kept all the same: in a recycle area, or in the share's history.
    aside: BTreeSet<Token>,
}

/// What servers have besides one that has lost something.
#[derive(Debug, Default)]
pub struct Others {
    /// Files that users see.
    pub visible: BTreeSet<Token>,
    /// What was displaced: a version of the share once, which does not come back by itself.
    pub displaced: BTreeSet<Token>,
}

impl Others {
    /// What these servers have.
    pub fn of<'a>(hosts: impl Iterator<Item = &'a Host>) -> Self {
        Self::with_bytes(hosts, |_| true)
    }

    /// The same; of placeholders only those that stand for bytes which are held elsewhere.
    pub fn with_bytes<'a>(hosts: impl Iterator<Item = &'a Host>, is_held: impl Fn(Token) -> bool) -> Self {
        let mut others = Self::default();
        for host in hosts {
            let has = |ino: u64, token: Token| host.disk.mark(ino).is_none() || is_held(token);
            let tokens = |root| {
                let below = host.disk.tokens_below(root).into_iter();
                below.filter(|(ino, token)| has(*ino, *token)).map(|(_, token)| token).collect::<Vec<_>>()
            };
            others.visible.extend(tokens(crate::disk::ROOT));
            others.displaced.extend(tokens(crate::disk::RECYCLE));
        }
        others
    }
}

/// A tree as it is compared: what stands at each path, with its mode and, of a file, its modification time.
pub type Listing = BTreeMap<RelPath, (Content, u16, Timestamp)>;

/// The modification time that is compared: a directory's and a symlink's may differ for a while.
fn time_of(content: &Content, mtime: Timestamp) -> Timestamp {
    if matches!(content, Content::File { .. }) { mtime } else { Timestamp::default() }
}

impl Ghost {
    /// A log without entries.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed, 8),
            drawn: 0,
            in_chunks: false,
            written: BTreeSet::new(),
            destroyed: BTreeSet::new(),
            unlinked: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            excused: BTreeSet::new(),
            aside: BTreeSet::new(),
        }
    }

    /// New bytes.
    pub fn draw(&mut self) -> Token {
        self.drawn += 1;
        let token = self.drawn * 1000 + self.rng.below(1000);
        if self.in_chunks && token.is_multiple_of(3) { many(token) } else { token }
    }

    /// A user wrote them.
    pub fn written(&mut self, token: Token) {
        self.written.insert(token);
    }

    /// A user took these bytes away, having seen them.
    pub fn destroyed(&mut self, token: Token) {
        self.destroyed.insert(token);
        self.unlinked.insert(token);
    }

    /// A user took a name away from these bytes, having seen them. Whether another name was meant to keep them cannot be
    /// told: sync has contents twice for a while (a conflict copy, a move that travels as an update and a deletion), and
    /// copies that two users make become one.
    pub fn taken(&mut self, token: Token) {
        self.destroyed(token);
    }

    /// Whether a user took a name away from these bytes.
    pub fn is_unlinked(&self, token: Token) -> bool {
        self.unlinked.contains(&token)
    }

    /// The share has taken them.
    pub fn acknowledged(&mut self, token: Token) {
        self.acknowledged.insert(token);
    }

    /// What a server had and has not any more, by a power cut or by being set back: it is missed only if the share has it, or
    /// somebody else. What the share has in its history alone (a conflict copy that was not told yet had been a version once) is
    /// no file any more, as what it never had; but there it must be.
    pub fn lost_locally(
        &mut self,
        service: &Service,
        before: &BTreeSet<Token>,
        after: &BTreeSet<Token>,
        others: &Others,
    ) {
        let gone = before.difference(after).copied().collect();
        self.lose(gone, service, others);
    }

    /// A machine was set back. What it had half told the share (a swap of two files travels as two updates) may have
    /// taken a content's place there while its new place, where its users saw it, was still to come.
    pub fn half_told(&mut self, visible: &BTreeSet<Token>, service: &Service) {
        let live = live_tokens(service);
        let half = visible.iter().filter(|token| self.acknowledged.contains(token) && !live.contains(token));
        self.aside.extend(half);
    }

    /// What the share had and has not any more, by being set back, and no server has as a file.
    pub fn lost_centrally(&mut self, service: &Service, before: &BTreeSet<Token>, others: &Others) {
        let gone = before.union(&self.aside).copied().collect();
        self.lose(gone, service, others);
    }

    fn lose(&mut self, gone: BTreeSet<Token>, service: &Service, others: &Others) {
        let live = live_tokens(service);
        let gone = gone.into_iter().filter(|token| !live.contains(token) && !others.visible.contains(token));
        let gone: Vec<Token> = gone.collect();
        if gone.is_empty() {
            return;
        }
        let history = known_tokens(service);
        for token in gone {
            let kept = others.displaced.contains(&token) || history.contains(&token);
            if kept {
                self.aside.insert(token)
            } else {
                self.excused.insert(token)
            };
        }
    }

    /// Contents that no user took away and that are nowhere.
    pub fn lost(&self, service: &Service, hosts: &[Host], damaged: bool) -> Vec<Token> {
        let mut live = live_tokens(service);
        if damaged {
            // Where the share's version cannot be had, the server's own stays where it is, and is told as a problem.
            live.extend(
                hosts
                    .iter()
                    .flat_map(|host| host.disk.tokens_below(crate::disk::ROOT))
                    .map(|(_, token)| token),
            );
        }
        let missed = self.written.difference(&self.destroyed);
        let missed = missed.filter(|token| !live.contains(token) && !self.excused.contains(token));
        let missed: Vec<Token> = missed.copied().collect();
        if missed.iter().all(|token| !self.aside.contains(token)) {
            return missed;
        }
        let (others, history) = (Others::of(hosts.iter()), known_tokens(service));
        let kept = |token: &Token| {
            others.visible.contains(token) || others.displaced.contains(token) || history.contains(token)
        };
        missed.into_iter().filter(|token| !(self.aside.contains(token) && kept(token))).collect()
    }

    /// Contents that the share once took and does not have, not even in its history.
    pub fn forgotten(&self, service: &Service) -> Vec<Token> {
        let known = known_tokens(service);
        self.acknowledged.difference(&known).copied().collect()
    }
}

/// Bytes of all live files of the share.
pub fn live_tokens(service: &Service) -> BTreeSet<Token> {
    service.rows.live_versions().filter_map(|row| token_of(&row.content)).collect()
}

/// Bytes of all versions of the share, its history included.
fn known_tokens(service: &Service) -> BTreeSet<Token> {
    all_contents(service).filter_map(token_of).collect()
}

/// Everything on a disk: visible, displaced, on its way in.
pub fn tokens_of_disk(disk: &Disk) -> BTreeSet<Token> {
    let all = crate::disk::ROOTS.iter().flat_map(|root| disk.tokens_below(*root));
    all.map(|(_, token)| token).filter(|token| !is_zeros(*token)).collect()
}

/// All contents that live or closed versions have.
pub fn all_contents(service: &Service) -> impl Iterator<Item = &Content> {
    service.rows.live_versions().chain(service.rows.closed_versions()).map(|row| &row.content)
}

/// Bytes that some version names and that cannot be read.
pub fn unreadable(service: &Service) -> BTreeSet<Token> {
    let is_sound =
        |chunk| service.locate(chunk).is_some_and(|pack| service.store.fetch(pack, chunk) == Fetched::Sound);
    let bad = all_contents(service).filter(|content| !content.direct_chunks().all(is_sound));
    bad.filter_map(token_of).collect()
}

/// What stands at each path of a disk, in the order of paths, without what no share has.
fn shown(disk: &Disk) -> impl Iterator<Item = (RelPath, (Content, u16, Timestamp))> {
    let filter = crate::host::filter();
    disk.everything().into_iter().filter_map(|(path, ino)| {
        let inode = disk.inode(ino);
        let content = match &inode.node {
            Node::Dir(_) => Content::Directory,
            Node::File(_) => content_of(disk.token(ino).expect("a file")),
            Node::Link(target) => Content::Symlink(target.clone()),
        };
        let (name, parents) = path.names().split_last().expect("the root is not listed");
        let left_out = filter.excludes(parents, name, content == Content::Directory);
        let mtime = time_of(&content, disk.stamp(ino).mtime);
        (!left_out).then(|| (path, (content, inode.attrs.mode, mtime)))
    })
}

/// A disk, path by path, without what no share has.
pub fn listing_of_disk(disk: &Disk) -> Listing {
    shown(disk).collect()
}

/// The share, path by path; an error for a node that hangs in the air.
pub fn listing_of_share(service: &Service) -> Result<Listing, String> {
    let nodes: BTreeMap<Nid, _> = service.rows.live_versions().map(|row| (row.nid, row)).collect();
    let mut list = Listing::new();
    for node in nodes.values().filter(|node| node.nid != ROOT_NID) {
        let mut names = vec![node.name.clone()];
        let mut at = node.up;
        while at != ROOT_NID {
            let dir = nodes.get(&at).ok_or_else(|| format!("{} hangs in the air", node.name))?;
            names.push(dir.name.clone());
            at = dir.up;
            if names.len() > nodes.len() {
                return Err(format!("{} is in a cycle", node.name));
            }
        }
        names.reverse();
        let path: RelPath = names.into_iter().collect();
        match list.entry(path) {
            Entry::Vacant(free) => {
                let mtime = time_of(&node.content, node.mtime);
                free.insert((node.content.clone(), node.attrs.mode, mtime));
            }
            Entry::Occupied(taken) => return Err(format!("two nodes at {}", taken.key())),
        }
    }
    Ok(list)
}

/// Whether a disk shows what the share has: most do, and need no listing of their own to be compared.
pub fn shows(disk: &Disk, share: &Listing) -> bool {
    let mut rest = share.iter();
    shown(disk).all(|(path, shown)| rest.next() == Some((&path, &shown))) && rest.next().is_none()
}

/// What differs between a server and the share, in a few lines. What cannot be read from the store is left out.
pub fn differences(host: &Host, share: &Listing, unreadable: &BTreeSet<Token>) -> Vec<String> {
    if shows(&host.disk, share) {
        return Vec::new();
    }
    let disk = listing_of_disk(&host.disk);
    let paths: BTreeSet<&RelPath> = disk.keys().chain(share.keys()).collect();
    let differ = paths.into_iter().filter(|path| disk.get(path) != share.get(path));
    let readable = differ.filter(|path| {
        let contents = [share.get(path), disk.get(path)].into_iter().flatten().map(|(content, ..)| content);
        !contents.filter_map(token_of).any(|token| unreadable.contains(&token))
    });
    let told = |what: Option<&(Content, u16, Timestamp)>| match what {
        None => "nothing".to_owned(),
        Some((content, mode, mtime)) => match token_of(content) {
            Some(token) => format!("file {token} mode {mode:o} time {}.{}", mtime.secs, mtime.nanos),
            None => format!("{:?} mode {mode:o}", content.kind()),
        },
    };
    readable
        .take(8)
        .map(|path| {
            format!("{}: {path}: {} / share {}", host.name, told(disk.get(path)), told(share.get(path)))
        })
        .collect()
}

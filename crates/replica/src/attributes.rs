//! Permissions, owners and extended attributes: read as they are, applied as the endpoint's policy allows.
//!
//! What is read back after applying is what [`crate::Applied::attrs_here`] hashes, so a dropped setuid bit or a mapped
//! owner is "as applied here" and never looks like an edit.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use polder_sync::StandsFor;
use polder_types::{Attrs, AttrsHash, Kind, XATTR_COUNT_MAX, XATTR_TOTAL_BYTES_MAX};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Statx, Uid};
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::owners::Owners;
use crate::presence::{Mark, MarksOf};
use crate::{Root, xattrs};

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
const NTACL: &[u8] = b"security.NTACL";
/// setuid, setgid and sticky bits.
const PRIVILEGE_BITS: u16 = 0o7000;
/// setgid and sticky, which on a directory give nobody more rights than it has.
const DIRECTORY_BITS: u16 = 0o3000;
/// How many combinations of mode and owners are remembered without extended attributes.
const PLAIN_KEPT_MAX: usize = 4096;

/// Whose number a file gets here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OwnerPolicy {
    /// The user or group of that name here; the number where there is none.
    #[default]
    ByName,
    /// The number as it is.
    ByNumber,
    /// Neither is changed: files belong to the agent's user.
    Keep,
}

/// Which attributes of a share are taken and applied on this endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttrPolicy {
    /// Owners and groups.
    pub owners: OwnerPolicy,
    /// Whether setuid and setgid bits of files from the share are set here (promises.md, 71).
    pub privilege_bits: bool,
    /// Whether `user.*` attributes are taken.
    pub user_xattrs: bool,
    /// Whether POSIX access control lists are taken.
    pub acls: bool,
    /// Whether `security.NTACL` (Samba) is taken. All other `security.*` and every `trusted.*` never are.
    pub ntacl: bool,
}

impl Default for AttrPolicy {
    fn default() -> Self {
        Self {
            owners: OwnerPolicy::ByName,
            privilege_bits: false,
            user_xattrs: true,
            acls: true,
            ntacl: true,
        }
    }
}

impl AttrPolicy {
    fn takes(&self, xattr: &[u8], kind: Kind) -> bool {
        match xattr {
            ACL_ACCESS => self.acls,
            ACL_DEFAULT => self.acls && kind == Kind::Directory,
            NTACL => self.ntacl,
            // What the gate shows of a file, never what a file has (`gate.md`).
            _ if xattr.starts_with(b"user.polder.") => false,
            _ => self.user_xattrs && xattr.starts_with(b"user."),
        }
    }

    /// The mode that is set here for one from the share.
    fn mode(&self, mode: u16, kind: Kind) -> u16 {
        match kind {
            _ if self.privilege_bits => mode,
            Kind::Directory => mode & !(PRIVILEGE_BITS & !DIRECTORY_BITS),
            Kind::File | Kind::Symlink => mode & !PRIVILEGE_BITS,
        }
    }
}

/// Attributes in full, with their hash.
pub(crate) type Applied = (Arc<Attrs>, AttrsHash);

/// Reads and applies attributes. One a thread; the account lookups are shared.
#[derive(Debug)]
pub struct Attributes {
    policy: AttrPolicy,
    owners: Arc<Owners>,
    plain: HashMap<(u16, u32, u32), (Arc<Attrs>, AttrsHash)>,
    /// Whose placeholders stand for what their marks say.
    marks: Option<MarksOf>,
}

impl Attributes {
    /// With an endpoint's policy and its memory of owners.
    pub fn new(policy: AttrPolicy, owners: Arc<Owners>) -> Self {
        Self { policy, owners, plain: HashMap::new(), marks: None }
    }

    /// Takes placeholders of this root for what they stand for. Without it every one is somebody else's.
    pub fn with_marks_of(mut self, root: &Root) -> Self {
        self.marks = MarksOf::root(root);
        self
    }

    /// What `name` in `dir` stands for, which carries `mark`, if it is a placeholder of our root.
    pub(crate) fn stands_for(&self, mark: &Mark, dir: BorrowedFd<'_>, name: &CStr) -> Option<Box<StandsFor>> {
        let (pledge, content) = self.marks.as_ref()?.content(mark, dir, name)?;
        Some(Box::new(StandsFor { content, version: Some((pledge.node, pledge.since)) }))
    }

    /// Attributes of `name` in `dir` (of `dir` itself for an empty name), of which `stat` was just taken.
    pub(crate) fn read(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        stat: &Statx,
        kind: Kind,
    ) -> Result<(Arc<Attrs>, AttrsHash), Errno> {
        let mode = if kind == Kind::Symlink { 0 } else { stat.stx_mode & 0o7777 };
        // The kernel keeps no user attributes on symlinks.
        let names = if kind == Kind::Symlink { Vec::new() } else { xattrs::list(dir, name)? };
        let mut taken = std::collections::BTreeMap::new();
        let mut bytes = 0;
        for xattr in names.iter().filter(|xattr| self.policy.takes(xattr.to_bytes(), kind)) {
            let Some(value) = xattrs::get(dir, name, xattr)? else { continue };
            bytes += xattr.to_bytes().len() + value.len();
            if bytes > XATTR_TOTAL_BYTES_MAX || taken.len() == XATTR_COUNT_MAX {
                return Err(Errno::TOOBIG);
            }
            taken.insert(xattr.to_bytes().into(), value.into_boxed_slice());
        }
        if taken.is_empty() {
            return Ok(self.plain(mode, stat.stx_uid, stat.stx_gid));
        }
        let mut attrs = (*self.plain(mode, stat.stx_uid, stat.stx_gid).0).clone();
        attrs.xattrs = taken;
        let hash = attrs.hash();
        Ok((Arc::new(attrs), hash))
    }

    /// Attributes without extended ones, which most files of a share have in common.
    fn plain(&mut self, mode: u16, uid: u32, gid: u32) -> (Arc<Attrs>, AttrsHash) {
        if self.plain.len() >= PLAIN_KEPT_MAX {
            self.plain.clear();
        }
        let owners = &self.owners;
        self.plain
            .entry((mode, uid, gid))
            .or_insert_with(|| {
                let (owner, group) = (owners.user_name(uid), owners.group_name(gid));
                let attrs = Attrs { mode, uid, gid, owner, group, xattrs: Default::default() };
                let hash = attrs.hash();
                (Arc::new(attrs), hash)
            })
            .clone()
    }

    /// Gives what `fd` stands for the attributes, as far as the policy allows. Attributes that the policy governs and
    /// that `attrs` lacks are removed. `fd` may be an `O_PATH` descriptor.
    ///
    /// The order matters: a change of owner clears privilege bits and capabilities, and an ACL changes the mode's group
    /// bits; so owner, then ACLs and attributes, then the mode.
    pub(crate) fn apply(&mut self, fd: impl AsFd, attrs: &Attrs, kind: Kind) -> Result<(), FsError> {
        let fd = fd.as_fd();
        self.apply_owner(fd, attrs).doing("set the owner of", b"")?;
        if kind == Kind::Symlink {
            return Ok(());
        }
        self.apply_xattrs(fd, attrs, kind)?;
        let mode = Mode::from_raw_mode(self.policy.mode(attrs.mode, kind).into());
        set_mode(fd, mode).doing("set the mode of", b"")
    }

    /// What was `found` right after `attrs` were applied, as it is taken for applied. Mode and owner that are not those
    /// which were set are either all that the volume keeps of them, as a file in `dir` shows that nobody else can reach; or
    /// somebody has set others since.
    pub(crate) fn as_applied(
        &mut self,
        dir: BorrowedFd<'_>,
        attrs: &Attrs,
        found: Applied,
        kind: Kind,
    ) -> Applied {
        if kind == Kind::Symlink {
            return found;
        }
        let there = (found.0.mode, found.0.uid, found.0.gid);
        let (user, group) = self.owner(attrs).unwrap_or((found.0.uid, found.0.gid));
        let set = (self.policy.mode(attrs.mode, kind), user, group);
        // Where there are no files without a name, nobody knows, and what is found counts.
        if there == set || kept_of(dir, set).is_none_or(|kept| kept != set) {
            return found;
        }
        let mut applied = (*self.plain(set.0, user, group).0).clone();
        applied.xattrs = found.0.xattrs.clone();
        let hash = applied.hash();
        (Arc::new(applied), hash)
    }

    /// Whose numbers a file with these attributes gets here; `None`: it keeps its own.
    fn owner(&self, attrs: &Attrs) -> Option<(u32, u32)> {
        match self.policy.owners {
            OwnerPolicy::Keep => None,
            OwnerPolicy::ByNumber => Some((attrs.uid, attrs.gid)),
            OwnerPolicy::ByName => Some((
                self.owners.user_id(&attrs.owner).unwrap_or(attrs.uid),
                self.owners.group_id(&attrs.group).unwrap_or(attrs.gid),
            )),
        }
    }

    fn apply_owner(&self, fd: BorrowedFd<'_>, attrs: &Attrs) -> Result<(), Errno> {
        let Some((user, group)) = self.owner(attrs) else { return Ok(()) };
        let stat = crate::ident::statx_fd(fd)?;
        if (stat.stx_uid, stat.stx_gid) == (user, group) {
            return Ok(());
        }
        rustix::fs::chownat(
            fd,
            c"",
            Some(Uid::from_raw(user)),
            Some(Gid::from_raw(group)),
            AtFlags::EMPTY_PATH,
        )
    }

    fn apply_xattrs(&self, fd: BorrowedFd<'_>, attrs: &Attrs, kind: Kind) -> Result<(), FsError> {
        let present = xattrs::list(fd, c"").doing("list the attributes of", b"")?;
        for xattr in present {
            let name = xattr.to_bytes();
            if self.policy.takes(name, kind) && !attrs.xattrs.contains_key(name) {
                xattrs::remove(fd, &xattr).doing("remove the attribute", name)?;
            }
        }
        for (name, value) in attrs.xattrs.iter().filter(|(name, _)| self.policy.takes(name, kind)) {
            // A name with a NUL can only come from a broken peer; the kernel could not store it.
            let xattr =
                CString::new(&name[..]).map_err(|_| FsError::new("set the attribute", name, Errno::INVAL))?;
            if xattrs::get(fd, c"", &xattr).ok().flatten().as_deref() == Some(value) {
                continue;
            }
            match xattrs::set(fd, &xattr, value) {
                // A file system without attributes holds the file all the same; "as applied here" says what is missing.
                Err(Errno::OPNOTSUPP) => (),
                // ext4 says "no space" of a value that does not fit its block, on an empty disk too.
                Err(Errno::NOSPC) if has_room(fd) => {
                    return Err(FsError::new("set the attribute", name, Errno::TOOBIG));
                }
                result => result.doing("set the attribute", name)?,
            }
        }
        Ok(())
    }
}

/// Mode, owner and group that a file without a name has in the end which was given these; `None` where it cannot be had.
fn kept_of(dir: BorrowedFd<'_>, (mode, user, group): (u16, u32, u32)) -> Option<(u16, u32, u32)> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, c".", flags, Mode::RUSR | Mode::WUSR).ok()?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))).ok()?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode.into())).ok()?;
    let stat = crate::ident::statx_fd(&file).ok()?;
    Some((stat.stx_mode & 0o7777, stat.stx_uid, stat.stx_gid))
}

/// Whether the volume has space left that an attribute could be in.
fn has_room(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatvfs(fd).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) > 1 << 20)
}

/// `fchmod` refuses `O_PATH` descriptors; their `/proc` name does not, and cannot lead elsewhere.
fn set_mode(fd: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    match rustix::fs::fchmod(fd, mode) {
        Err(Errno::BADF) => {
            use std::os::fd::AsRawFd;
            rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode)
        }
        result => result,
    }
}

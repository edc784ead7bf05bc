//! Forms of kernel file handles: where in them inode number and generation stand.

use crate::ports::Node;
use crate::sys::Handle;

/// Which inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ident {
    pub(super) ino: u64,
    pub(super) generation: u32,
}

impl Ident {
    /// Generation above inode number; `None` when the number is too large for it.
    pub(super) fn node(self) -> Option<Node> {
        let ino = u32::try_from(self.ino).ok()?;
        Some(Node(u64::from(self.generation) << 32 | u64::from(ino)))
    }

    pub(super) fn of(node: Node) -> Self {
        Self { ino: node.0 & 0xffff_ffff, generation: (node.0 >> 32) as u32 }
    }
}

/// How a file system's handles are made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// ext4: inode number and generation, 32 bits each.
    Narrow,
    /// XFS: inode number in 64 bits, generation.
    Wide,
    /// tmpfs: generation, then the inode number in two halves.
    Reversed,
    /// btrfs: inode number, root of the subvolume, generation.
    Subvolume(u64),
}

const KIND_INO32_GEN: i32 = 1;
const KIND_XFS: i32 = 0x81;
const KIND_BTRFS: i32 = 0x4d;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl Form {
    /// The form of a file system, from the handle of an inode whose number is known.
    pub(super) fn learn(handle: &Handle, ino: u64) -> Option<Self> {
        let bytes = handle.bytes();
        let form = match (handle.kind(), bytes.len()) {
            (KIND_INO32_GEN, 8) => Self::Narrow,
            (KIND_INO32_GEN, 12) => Self::Reversed,
            (KIND_XFS, 12) => Self::Wide,
            (KIND_BTRFS, 20) => Self::Subvolume(u64_at(bytes, 8)?),
            _ => return None,
        };
        (form.ident(handle)?.ino == ino).then_some(form)
    }

    /// What a handle names; `None` when it is of another form, or of another subvolume.
    pub(super) fn ident(self, handle: &Handle) -> Option<Ident> {
        let bytes = handle.bytes();
        let ident = match self {
            Self::Narrow => Ident { ino: u32_at(bytes, 0)?.into(), generation: u32_at(bytes, 4)? },
            Self::Wide => Ident { ino: u64_at(bytes, 0)?, generation: u32_at(bytes, 8)? },
            Self::Reversed => {
                let (low, high) = (u32_at(bytes, 4)?, u32_at(bytes, 8)?);
                Ident { ino: u64::from(high) << 32 | u64::from(low), generation: u32_at(bytes, 0)? }
            }
            Self::Subvolume(root) if u64_at(bytes, 8)? == root => {
                Ident { ino: u64_at(bytes, 0)?, generation: u32_at(bytes, 16)? }
            }
            Self::Subvolume(_) => return None,
        };
        Some(ident)
    }

    /// The handle of an inode.
    pub(super) fn handle(self, ident: Ident) -> Handle {
        let Ident { ino, generation } = ident;
        let (low, high) = ((ino as u32).to_ne_bytes(), ((ino >> 32) as u32).to_ne_bytes());
        let generation = generation.to_ne_bytes();
        let (kind, bytes) = match self {
            Self::Narrow => (KIND_INO32_GEN, [low, generation].concat()),
            Self::Wide => (KIND_XFS, [&ino.to_ne_bytes()[..], &generation].concat()),
            Self::Reversed => (KIND_INO32_GEN, [generation, low, high].concat()),
            Self::Subvolume(root) => {
                (KIND_BTRFS, [&ino.to_ne_bytes()[..], &root.to_ne_bytes(), &generation].concat())
            }
        };
        Handle::new(kind, &bytes).expect("20 bytes fit into a handle")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_leads_back_to_its_inode() {
        let ident = Ident { ino: 0xfedc_ba98, generation: 0x8765_4321 };
        assert_eq!(Ident::of(ident.node().unwrap()), ident);
        assert_eq!(Ident { ino: 1 << 32, generation: 0 }.node(), None);
        for form in [Form::Narrow, Form::Wide, Form::Reversed, Form::Subvolume(5)] {
            let handle = form.handle(ident);
            assert_eq!(form.ident(&handle), Some(ident), "{form:?}");
            assert_eq!(Form::learn(&handle, ident.ino), Some(form));
            assert_eq!(Form::learn(&handle, 7), None);
        }
        let other = Form::Subvolume(6).handle(ident);
        assert_eq!(Form::Subvolume(5).ident(&other), None, "another subvolume is another tree");
    }
}

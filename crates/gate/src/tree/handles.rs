//! Forms of kernel file handles: where in them inode number and generation stand.

use crate::ports::Node;
use crate::sys::Handle;

/// Which inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ident {
    pub(super) ino: u64,
    pub(super) generation: u32,
}

/// What a node tells of its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// All.
    Exactly(Ident),
    /// All but the highest bit of the generation.
    Either(Ident),
    /// The lower bits of the generation: the file system has to be asked for the others.
    Partly(Ident),
}

/// Nodes of XFS with this bit have an inode number of 40 bits (volumes of up to 512 TiB) and the lower bits of the generation; those without have one
/// of 32 bits and the generation but its highest bit.
const WIDE: u64 = 1 << 63;
const WIDE_INO_BITS: u32 = 40;
const WIDE_GENERATION_BITS: u32 = 23;
pub(super) const HIGHEST: u32 = 1 << 31;

impl Form {
    /// The node of an inode; `None` when its number is too large.
    pub(super) fn node(self, ident: Ident) -> Option<Node> {
        let Ident { ino, generation } = ident;
        let is_narrow = u32::try_from(ino).is_ok();
        let node = match self {
            Self::Wide if is_narrow => u64::from(generation & !HIGHEST) << 32 | ino,
            Self::Wide if ino >> WIDE_INO_BITS == 0 => {
                WIDE | u64::from(Self::low(generation)) << WIDE_INO_BITS | ino
            }
            _ if is_narrow => u64::from(generation) << 32 | ino,
            _ => return None,
        };
        Some(Node(node))
    }

    /// What a node tells.
    pub(super) fn told(self, Node(node): Node) -> Told {
        let narrow = Ident { ino: node & 0xffff_ffff, generation: (node >> 32) as u32 };
        match self {
            Self::Wide if node & WIDE != 0 => Told::Partly(Ident {
                ino: node & ((1 << WIDE_INO_BITS) - 1),
                generation: Self::low((node >> WIDE_INO_BITS) as u32),
            }),
            Self::Wide => Told::Either(narrow),
            _ => Told::Exactly(narrow),
        }
    }

    /// The bits of a generation that a wide node tells.
    pub(super) fn low(generation: u32) -> u32 {
        generation & ((1 << WIDE_GENERATION_BITS) - 1)
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
        let narrow = Ident { ino: 0xfedc_ba98, generation: 0x8765_4321 };
        let forms = [Form::Narrow, Form::Wide, Form::Reversed, Form::Subvolume(5)];
        for form in forms {
            let handle = form.handle(narrow);
            assert_eq!(form.ident(&handle), Some(narrow), "{form:?}");
            assert_eq!(Form::learn(&handle, narrow.ino), Some(form));
            assert_eq!(Form::learn(&handle, 7), None);
            let told = form.told(form.node(narrow).unwrap());
            let lower = Ident { generation: 0x0765_4321, ..narrow };
            let expected = if form == Form::Wide { Told::Either(lower) } else { Told::Exactly(narrow) };
            assert_eq!(told, expected);
        }
        let wide = Ident { ino: 0xfe_dcba_9876, ..narrow };
        let lower = Ident { generation: 0x65_4321, ..wide };
        assert_eq!(Form::Wide.told(Form::Wide.node(wide).unwrap()), Told::Partly(lower));
        assert_eq!(Form::Narrow.node(wide), None);
        assert_eq!(Form::Wide.node(Ident { ino: 1 << 40, ..wide }), None);
        let other = Form::Subvolume(6).handle(narrow);
        assert_eq!(Form::Subvolume(5).ident(&other), None, "another subvolume is another tree");
    }
}

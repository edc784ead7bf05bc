//! Values of types, names and the state database.

use polder_replica::{Bound, Identity, Mark, Pledge, StateDb, StateError};
use polder_types::{
    Attrs, CaseRule, ChunkId, Content, EndpointId, Extent, ExtentSource, FileIdent, Name, NodeUid, RelPath,
    Seq, Timestamp, conflict_name, fold_v1,
};

/// What is stored of nodes.
pub(crate) fn values(bytes: &[u8]) {
    if let Ok(content) = Content::decode(bytes) {
        content.ensure_valid().expect("what was decoded is valid");
        assert_eq!(Content::decode(&content.encode()), Ok(content));
    }
    if let Ok(attrs) = Attrs::decode(bytes) {
        assert_eq!(Attrs::decode(&attrs.encode()), Ok(attrs));
    }
}

pub(crate) fn value_seeds() -> Vec<Vec<u8>> {
    let extents = vec![
        Extent { len: 131_072, source: ExtentSource::Chunk { id: ChunkId([7; 32]), skip: 3 } },
        Extent { len: 1 << 40, source: ExtentSource::Hole },
    ];
    let size = extents.iter().map(|extent| extent.len).sum();
    let contents = [
        Content::empty_file(),
        Content::Directory,
        Content::Symlink(b"../target".as_slice().into()),
        Content::File { size, body: polder_types::Body::Inline(extents) },
    ];
    let mut seeds: Vec<_> = contents.iter().map(Content::encode).collect();
    seeds.push(Attrs { mode: 0o4755, ..Attrs::default() }.encode());
    seeds
}

/// Names and paths: what is accepted is one component, and stays itself.
pub(crate) fn names(bytes: &[u8]) {
    if let Ok(name) = Name::parse(bytes) {
        assert_eq!(name.as_bytes(), bytes);
        assert!(!bytes.contains(&b'/') && !bytes.contains(&0) && bytes != b"." && bytes != b"..");
        let copy = conflict_name(&name, "site-a", 3);
        assert_eq!(Name::parse(copy.as_bytes()), Ok(copy));
        let folded = fold_v1(bytes);
        assert_eq!(fold_v1(&folded), folded, "folding twice is folding once");
    }
    if let Ok(path) = RelPath::parse(bytes) {
        assert_eq!(RelPath::parse(&path.to_bytes()), Ok(path));
    }
}

pub(crate) fn name_seeds() -> Vec<Vec<u8>> {
    let long = "ä".repeat(127);
    ["a", "Foo.TXT", "a/b/c", "..", "x/../y", "Straße.docx", "\u{1e9e}", &long]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// A state database of which bytes were changed: an error, or rows, and no panic. The first bytes say which.
pub(crate) fn state_database(bytes: &[u8]) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let path = dir.path().join("state.db");
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    let look = || {
        let db = StateDb::open(&path, CaseRule::Sensitive)?;
        db.verify()?;
        Ok(db.agreed().0)
    };
    let _: Result<u64, StateError> = look();
}

pub(crate) fn state_database_seeds() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("state.db");
    drop(StateDb::open(&path, CaseRule::Sensitive).expect("a new database"));
    vec![std::fs::read(&path).expect("the database")]
}

/// Who a root is, and what a placeholder stands for: files and attributes that others may write to.
pub(crate) fn identity(bytes: &[u8]) {
    if let Some(identity) = std::str::from_utf8(bytes).ok().and_then(Identity::parse) {
        assert_eq!(Identity::parse(&identity.to_text()), Some(identity));
    }
    if let Ok(mark) = Mark::decode(bytes) {
        assert_eq!(mark.encode(), bytes, "a mark has one form");
    }
}

pub(crate) fn identity_seeds() -> Vec<Vec<u8>> {
    let root = FileIdent { ino: 256, generation: 7 };
    let identity = Identity { endpoint: EndpointId([1; 16]), nonce: [2; 16], root, volume: Some([3; 16]) };
    let pledge = Pledge::new(NodeUid([4; 16]), Seq(9), &Content::empty_file(), Timestamp::new(5, 6));
    let mark = Mark { pledge, bound: Bound { nonce: [2; 16], ident: root, volume: [3; 16] } };
    let without = Identity { volume: None, ..identity.clone() };
    vec![identity.to_text().into_bytes(), without.to_text().into_bytes(), mark.encode()]
}

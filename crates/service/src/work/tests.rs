//! Background work on a service without a port: packs in memory, rows on disk, time that passes when it is told to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use polder_chunk::{PackBuilder, PackNonce, Scratch};
use polder_ledger::{CommitContext, LedgerError, PackState};
use polder_metadata::control::Acting;
use polder_packstore::{MemoryStore, PackName, PackStore};
use polder_types::{
    Attrs, Author, BatchNo, Body, CaseRule, ChunkId, Content, Cursor, Extent, ExtentSource, Group,
    GroupAnswer, InstanceId, Name, NodeUid, Op, PackId, Placed, Refusal, Tag, Timestamp,
};

use super::{History, Prune, Purge, Reconciler, Verify};
use crate::ServiceConfig;
use crate::packs;
use crate::shares::OpenShare;
use crate::state::ServiceState;

const HOUR: Duration = Duration::from_secs(3600);

struct Bench {
    state: ServiceState,
    share: Arc<OpenShare>,
    store: Arc<MemoryStore>,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = "127.0.0.1:1".parse().expect("an address");
        let store = Arc::new(MemoryStore::new());
        let config = ServiceConfig::embedded(folder.path(), address);
        let state = crate::start::open(config, address, store.clone()).expect("a state");
        let acting = Acting { who: "test".into(), now: state.now() };
        let name = "demo".parse().expect("a name");
        let row = state.shares().create(&acting, &name, CaseRule::Sensitive, None).expect("a share");
        let share = state.shares().open_row(&row).expect("open");
        Self { state, share, store, _folder: folder }
    }

    fn database(&self) -> std::path::PathBuf {
        self.state.config().metadata.join("shares").join(format!("{}.db", self.share.id))
    }

    fn pack(&self, chunks: &[&[u8]]) -> (PackId, Vec<ChunkId>, Vec<u8>) {
        let keys = self.share.keys();
        let (mut id, mut nonce, mut scratch) = ([0; 16], [0; 32], Scratch::new());
        getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut nonce)).expect("random bytes");
        let mut builder = PackBuilder::new(&keys, PackId(id), PackNonce(nonce));
        let ids: Vec<ChunkId> = chunks.iter().map(|bytes| keys.chunk_ids().id(bytes)).collect();
        for (id, bytes) in ids.iter().zip(chunks) {
            let _ = builder.seal(*id, bytes, &mut scratch).expect("sealed");
        }
        let pack = builder.finish().expect("sound").expect("not empty");
        (PackId(id), ids, pack.bytes)
    }

    async fn put(&self, chunks: &[&[u8]]) -> (PackId, Vec<ChunkId>) {
        let (pack, ids, bytes) = self.pack(chunks);
        packs::accept_pack(&self.state, &self.share, pack, vec![bytes.into()]).await.expect("accepted");
        (pack, ids)
    }

    /// Makes a file of one chunk; the answer to it.
    fn commit(&self, name: &str, id: ChunkId, len: u64) -> GroupAnswer {
        let extent = Extent { len, source: ExtentSource::Chunk { id, skip: 0 } };
        let mut uid = [0; 16];
        getrandom::fill(&mut uid).expect("random bytes");
        let op = Op::Create {
            uid: NodeUid(uid),
            at: Placed { parent: NodeUid::ROOT, name: Name::parse(name.as_bytes()).expect("a name") },
            mtime: Timestamp::default(),
            attrs: Attrs::default(),
            content: Content::File { size: len, body: Body::Inline(vec![extent]) },
        };
        let (time_ms, groups) = (self.state.clock().now_ms(), vec![Group { ops: vec![op] }]);
        let answer = self.share.db.write(move |rows| {
            let context = CommitContext {
                time_ms,
                tag: Tag(time_ms),
                known: Cursor::default(),
                announced: BatchNo(0),
                quota_bytes: None,
                brake: None,
                trees: &Default::default(),
            };
            let author = Author { by: InstanceId::ZERO, batch: BatchNo(0) };
            polder_ledger::commit(rows, &context, author, &groups)
        });
        let answer: Result<_, LedgerError> = answer;
        answer.expect("decided").groups.remove(0)
    }

    fn states(&self) -> Vec<(PackId, PackState, bool)> {
        let packs = self.share.db.read(|rows| Ok::<_, LedgerError>(rows.packs(None, 100)?)).expect("rows");
        packs.into_iter().map(|(_, pack)| (pack.id, pack.state, pack.verified_ms.is_some())).collect()
    }

    async fn stored(&self) -> BTreeSet<PackId> {
        let page = self.store.list(self.share.id, None, 100).await.expect("a list");
        page.into_iter().map(|listed| listed.pack).collect()
    }

    async fn read(&self, id: ChunkId) -> Vec<u8> {
        let chunk = packs::read_chunk(&*self.store, &self.share, id).await.expect("readable");
        chunk.bytes().to_vec()
    }
}

/// What is referenced stays readable all the way; small packs become one; what nothing references goes, after its time.
#[tokio::test(flavor = "multi_thread")]
async fn prune_merges_and_deletes_and_loses_nothing() {
    let bench = Bench::new();
    let mut files = Vec::new();
    for n in 0..5u8 {
        let (_, ids) = bench.put(&[&[n; 1000]]).await;
        let answer = bench.commit(&format!("file-{n}"), ids[0], 1000);
        assert!(matches!(answer, GroupAnswer::Accepted { .. }), "{answer:?}");
        files.push((ids[0], vec![n; 1000]));
    }
    let (waste, _) = bench.put(&[b"nobody names this"]).await;
    let old: BTreeSet<PackId> = bench.stored().await;
    let (verify, prune) = (Verify::default(), Prune::default());
    let done = verify.run(&bench.state, false).await;
    assert_eq!((done.items, done.failed), (6, None));
    assert!(bench.states().iter().all(|(_, _, verified)| *verified));

    let done = prune.run(&bench.state, true).await;
    assert_eq!((done.items, done.failed), (0, None), "everything is young");
    bench.state.clock().advance(Duration::from_secs(11 * 60));
    let done = prune.run(&bench.state, true).await;
    assert_eq!((done.items, done.failed), (5, None), "five small packs become one");
    let new: BTreeSet<PackId> = bench.stored().await.difference(&old).copied().collect();
    assert_eq!(new.len(), 1);
    for (id, bytes) in &files {
        assert_eq!(bench.read(*id).await, *bytes);
    }

    // Nothing references the old ones and the waste: condemned after a day, deleted after another.
    bench.state.clock().advance(25 * HOUR);
    let done = prune.run(&bench.state, true).await;
    assert_eq!((done.items, done.failed), (6, None));
    assert!(bench.states().contains(&(waste, PackState::Condemned, true)));
    assert_eq!(bench.stored().await.len(), 7, "condemned packs can be read");
    let done = prune.run(&bench.state, true).await;
    assert_eq!((done.items, done.failed), (0, None), "within the grace period");
    bench.state.clock().advance(25 * HOUR);
    let done = prune.run(&bench.state, true).await;
    assert_eq!((done.items, done.failed), (6, None));
    assert_eq!(bench.stored().await, new);
    assert_eq!(bench.states().len(), 7, "the rows outlive the objects");
    let done = prune.run(&bench.state, true).await;
    assert_eq!((done.items, done.failed), (0, None));
    assert_eq!(bench.states().len(), 1);
    for (id, bytes) in &files {
        assert_eq!(bench.read(*id).await, *bytes);
    }
    let done = History.run(&bench.state, true).await;
    assert_eq!(done.failed, None);
}

/// A deleted share can be taken back for 14 days; then its packs, its database and its row go, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_share_is_destroyed_when_its_time_is_over() {
    let bench = Bench::new();
    let (_, ids) = bench.put(&[b"of the share that goes"]).await;
    bench.commit("file", ids[0], 22);
    let acting = |bench: &Bench| Acting { who: "test".into(), now: bench.state.now() };
    let other = "other".parse().expect("a name");
    let other =
        bench.state.shares().create(&acting(&bench), &other, CaseRule::Sensitive, None).expect("a share");
    let kept = PackName { share: other.id, pack: PackId([9; 16]) };
    bench.store.put(kept, vec![bytes::Bytes::from_static(b"of the share that stays")]).await.expect("stored");
    bench.state.control().delete_share(&acting(&bench), bench.share.id).expect("deletable");
    let database = bench.database();
    assert!(database.exists());

    bench.state.clock().advance(13 * 24 * HOUR);
    assert_eq!(Purge.run(&bench.state, true).await.items, 0, "it can still be taken back");
    assert!(!bench.stored().await.is_empty() && database.exists());
    bench.state.clock().advance(25 * HOUR);
    let done = Purge.run(&bench.state, true).await;
    assert_eq!((done.items, done.failed), (1, None));
    assert!(bench.stored().await.is_empty() && !database.exists());
    assert!(bench.state.control().share(bench.share.id).expect("rows").is_none());
    assert_eq!(bench.store.size(kept).await.expect("there"), 23);
    assert_eq!(Purge.run(&bench.state, true).await.items, 0, "once");
}

/// Bytes that went bad between the writer and the store are noticed; their chunks are not offered, and can be sent again.
/// Scenarios 86, 88, 96 and 103: a pack that is not what its name says is damage, whoever did it; whoever has the bytes
/// sends them again.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_is_flagged_and_its_chunks_are_sent_again() {
    let bench = Bench::new();
    let bytes: Vec<u8> = (0..100_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (pack, ids) = bench.put(&[&bytes]).await;
    bench.store.damage(PackName { share: bench.share.id, pack }, |object| object[500] ^= 1);
    let done = Verify::default().run(&bench.state, false).await;
    assert!(done.failed.is_some() && done.items == 0, "{done:?}");
    assert_eq!(bench.states(), [(pack, PackState::Failed, false)]);
    let log = bench.state.control().audit_page(None, 10).expect("the log");
    assert!(log.iter().any(|entry| entry.action == "pack.failed"));

    let answer = bench.commit("file", ids[0], 100_000);
    let missing = Refusal::ChunksMissing(ids.clone());
    assert_eq!(answer, GroupAnswer::Refused { op: 0, why: missing });
    bench.put(&[&bytes]).await;
    assert!(matches!(bench.commit("file", ids[0], 100_000), GroupAnswer::Accepted { .. }));
    let done = Verify::default().run(&bench.state, false).await;
    assert_eq!((done.items, done.failed), (1, None));
    assert_eq!(bench.read(ids[0]).await, bytes);
}

/// An object that nobody registered goes after its time, and leaves no row; whoever registers it late sends it again.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_rows_is_deleted_after_the_grace_period() {
    let bench = Bench::new();
    let (pack, ids, bytes) = bench.pack(&[b"its service died"]);
    let name = PackName { share: bench.share.id, pack };
    bench.store.put(name, vec![bytes.clone().into()]).await.expect("stored");
    let prune = Prune::default();
    assert_eq!(prune.run(&bench.state, true).await.items, 0, "first seen");
    bench.state.clock().advance(25 * HOUR);
    let done = prune.run(&bench.state, true).await;
    assert_eq!((done.items, done.failed), (1, None));
    assert!(bench.stored().await.is_empty());
    // Whoever found the object there a moment ago and registers it now is told to send the chunks again.
    let keys = bench.share.keys();
    let footer = polder_chunk::PackFooter::parse(&keys, pack, bytes.len() as u64, &bytes).expect("a footer");
    packs::register(&bench.state, &bench.share, &footer).await.expect("registered");
    let missing = Refusal::ChunksMissing(ids.clone());
    assert_eq!(bench.commit("file", ids[0], 16), GroupAnswer::Refused { op: 0, why: missing });
    // The same pack later is a new one.
    assert_eq!(prune.run(&bench.state, true).await.failed, None);
    assert!(bench.states().is_empty());
    packs::accept_pack(&bench.state, &bench.share, pack, vec![bytes.into()]).await.expect("accepted");
    assert!(matches!(bench.commit("file", ids[0], 16), GroupAnswer::Accepted { .. }));
    assert_eq!(bench.read(ids[0]).await, b"its service died");
}

/// Two send one chunk; what came first is damaged. The other copy is the one that is read, and it is not pruned.
#[tokio::test(flavor = "multi_thread")]
async fn a_sound_copy_takes_over_from_a_damaged_one() {
    let bench = Bench::new();
    let bytes: Vec<u8> = (0..100_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (bad, ids) = bench.put(&[&bytes]).await;
    bench.store.damage(PackName { share: bench.share.id, pack: bad }, |object| object[500] ^= 1);
    let (good, _) = bench.put(&[&bytes]).await;
    assert!(matches!(bench.commit("file", ids[0], 100_000), GroupAnswer::Accepted { .. }));
    let done = Verify::default().run(&bench.state, false).await;
    assert!(done.failed.is_some() && done.items == 1, "{done:?}");
    assert_eq!(bench.read(ids[0]).await, bytes);
    for _ in 0..3 {
        bench.state.clock().advance(25 * HOUR);
        assert_eq!(Prune::default().run(&bench.state, true).await.failed, None);
    }
    assert!(bench.stored().await.contains(&good));
    assert_eq!(bench.read(ids[0]).await, bytes);
}

/// What a process left unverified when it was killed is found in the rows by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn verification_goes_on_after_a_restart() {
    let bench = Bench::new();
    for n in 0..3u8 {
        bench.put(&[&[n; 100]]).await;
    }
    // The queue in memory is gone.
    assert_eq!(bench.state.work().take_packs(100).len(), 3);
    let verify = Verify::default();
    assert_eq!(verify.run(&bench.state, false).await.items, 0);
    assert_eq!(verify.run(&bench.state, true).await.items, 3);
    assert_eq!(verify.run(&bench.state, true).await.items, 0, "each once");
}

/// Nothing expires while the service's time is in doubt.
/// Scenario 84, at the service.
#[tokio::test(flavor = "multi_thread")]
async fn a_jump_of_the_clock_suspends_expiry() {
    let bench = Bench::new();
    let (_, ids) = bench.put(&[b"nobody names this"]).await;
    assert_eq!(Verify::default().run(&bench.state, true).await.items, 1);
    let (now, acting) = (bench.state.now(), bench.state.acting_service());
    let earlier = Timestamp::new(now.secs - 40 * 86_400, 0);
    bench.state.control().confirm_clock(&acting, Some(earlier)).expect("confirmed");
    bench.state.clock().observe().expect("observed");
    assert!(!bench.state.clock().may_expire());
    let done = Prune::default().run(&bench.state, true).await;
    assert_eq!((done.items, done.failed), (0, None));
    assert!(History.run(&bench.state, true).await.outcome.starts_with("waits"));
    assert_eq!(bench.read(ids[0]).await, b"nobody names this");
    bench.state.control().confirm_clock(&acting, None).expect("confirmed");
    bench.state.clock().observe().expect("observed");
    bench.state.clock().advance(std::time::Duration::from_secs(40 * 86_400));
    assert_eq!(Prune::default().run(&bench.state, true).await.items, 1);
}

/// A revoked server never had the keys of what is sealed after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_seals_and_the_old_one_opens() {
    let bench = Bench::new();
    let (_, before) = bench.put(&[b"before"]).await;
    let old = bench.share.keys();
    let row = bench.state.control().share(bench.share.id).expect("rows").expect("a share");
    bench.state.shares().begin_generation(&bench.state.acting_service(), bench.share.id).expect("keys");
    assert!(bench.share.keys().current() > old.current());
    let (_, after) = bench.put(&[b"after"]).await;
    assert_eq!(bench.read(before[0]).await, b"before");
    // A thread that read the share's row before that comes late with it.
    bench.state.shares().open_row(&row).expect("open");
    assert!(bench.share.keys().current() > old.current());
    assert_eq!(bench.read(after[0]).await, b"after");
    let located = bench.share.db.read(|rows| polder_ledger::locate(rows, &after));
    let located: Result<_, LedgerError> = located;
    let place = packs::location(after[0], located.expect("rows")[0].as_ref().expect("there")).expect("sound");
    assert!(old.pack_key(place.pack).is_err());
}

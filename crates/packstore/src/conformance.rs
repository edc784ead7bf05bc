//! What every store must do. Run by the tests of each form, here and in other crates (feature `conformance`).
//!
//! [`run`] panics at the first promise that does not hold. Each check works in a share of its own, so a store may be checked
//! as often as one likes, and may hold other packs.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream;
use polder_types::{PackId, ShareId};

use crate::{PackName, PackStore, Put, StoreError};

type Store = Arc<dyn PackStore>;

/// Checks all promises of [`PackStore`] on one store.
pub async fn run(store: Arc<dyn PackStore>) {
    what_is_put_is_got(&store).await;
    a_name_keeps_its_first_bytes(&store).await;
    ranges_are_exact_or_errors(&store).await;
    tails_are_the_end(&store).await;
    absent_packs_are_not_found(&store).await;
    deletes_are_final_and_repeatable(&store).await;
    listings_are_ordered_and_paged(&store).await;
    shares_are_apart(&store).await;
    what_cannot_be_a_pack_is_refused(&store).await;
    bodies_are_taken_whole_or_not_at_all(&store).await;
    concurrent_puts_store_one(&store).await;
    many_at_once(&store).await;
}

/// A share that nobody else uses, in this process and hardly in another.
fn share() -> ShareId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    id[8..12].copy_from_slice(&std::process::id().to_be_bytes());
    ShareId(id)
}

fn name(share: ShareId, number: u8) -> PackName {
    // Ids that differ in their first byte and ids that differ in their last, so that both orders are met.
    let mut id = [0x55; 16];
    id[if number.is_multiple_of(2) { 0 } else { 15 }] = number;
    PackName { share, pack: PackId(id) }
}

fn bytes(len: usize, salt: u8) -> Bytes {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ salt)
        .collect::<Vec<_>>()
        .into()
}

async fn must<T>(what: &str, run: impl Future<Output = Result<T, StoreError>>) -> T {
    match run.await {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error:?}"),
    }
}

async fn what_is_put_is_got(store: &Store) {
    let share = share();
    let whole = bytes(300_000, 1);
    for (number, cuts) in [(1, vec![300_000]), (2, vec![1, 100_000, 199_999]), (3, vec![0, 300_000, 0])] {
        let name = name(share, number);
        let mut rest = whole.clone();
        let parts = cuts.into_iter().map(|len| rest.split_to(len)).collect();
        assert_eq!(must("put", store.put(name, parts)).await, Put::Stored);
        assert_eq!(must("size", store.size(name)).await, 300_000);
        assert_eq!(must("get", store.get(name, 0..300_000)).await, whole);
    }
}

async fn a_name_keeps_its_first_bytes(store: &Store) {
    let name = name(share(), 1);
    let (first, other) = (bytes(1000, 1), bytes(1001, 2));
    assert_eq!(must("put", store.put(name, vec![first.clone()])).await, Put::Stored);
    assert_eq!(must("put again", store.put(name, vec![first.clone()])).await, Put::Present);
    let conflict = store.put(name, vec![other]).await;
    assert!(
        matches!(conflict, Err(StoreError::Conflict { wanted: 1001, present: 1000, .. })),
        "other bytes: {conflict:?}"
    );
    assert_eq!(must("get", store.get(name, 0..1000)).await, first, "a refused put changed the pack");
    let same_length = must("put", store.put(name, vec![bytes(1000, 3)])).await;
    assert_eq!((same_length, must("get", store.get(name, 0..1000)).await), (Put::Present, first));
}

async fn ranges_are_exact_or_errors(store: &Store) {
    let name = name(share(), 1);
    let whole = bytes(10_000, 1);
    must("put", store.put(name, vec![whole.clone()])).await;
    let good: [Range<u64>; 7] = [0..1, 0..10_000, 9_999..10_000, 5_000..5_001, 4..4, 0..0, 10_000..10_000];
    for range in &good {
        let found = must("get", store.get(name, range.clone())).await;
        assert_eq!(found, whole.slice(range.start as usize..range.end as usize), "{range:?}");
    }
    let many = must("get ranges", store.get_ranges(name, &good)).await;
    let wanted: Vec<_> = good.iter().map(|r| whole.slice(r.start as usize..r.end as usize)).collect();
    assert_eq!(many, wanted);
    #[allow(clippy::reversed_empty_ranges, reason = "what a hostile peer may send")]
    let bad = [0..10_001, 9_999..10_001, 10_000..10_001, 10_001..10_001, 20_000..30_000, 5..4, 0..u64::MAX];
    for range in bad {
        let found = store.get(name, range.clone()).await;
        assert!(matches!(found, Err(StoreError::Range { .. })), "{range:?}: {found:?}");
    }
}

async fn tails_are_the_end(store: &Store) {
    let name = name(share(), 1);
    let whole = bytes(5_000, 1);
    must("put", store.put(name, vec![whole.clone()])).await;
    for (asked, start) in [(0, 5_000), (1, 4_999), (4_999, 1), (5_000, 0), (5_001, 0), (u64::MAX, 0)] {
        let tail = must("tail", store.tail(name, asked)).await;
        assert_eq!((tail.object_bytes, tail.bytes), (5_000, whole.slice(start..)), "{asked}");
    }
}

async fn absent_packs_are_not_found(store: &Store) {
    let name = name(share(), 1);
    assert!(matches!(store.get(name, 0..1).await, Err(StoreError::NotFound { .. })), "get");
    assert!(matches!(store.get(name, 0..0).await, Err(StoreError::NotFound { .. })), "get of nothing");
    assert!(matches!(store.tail(name, 1).await, Err(StoreError::NotFound { .. })), "tail");
    assert!(matches!(store.size(name).await, Err(StoreError::NotFound { .. })), "size");
    assert!(must("list", store.list(name.share, None, 10)).await.is_empty());
}

async fn deletes_are_final_and_repeatable(store: &Store) {
    let share = share();
    let (gone, stays) = (name(share, 1), name(share, 3));
    must("delete of a pack that never was", store.delete(gone)).await;
    for name in [gone, stays] {
        must("put", store.put(name, vec![bytes(10, 1)])).await;
    }
    must("delete", store.delete(gone)).await;
    assert!(matches!(store.get(gone, 0..1).await, Err(StoreError::NotFound { .. })));
    must("delete again", store.delete(gone)).await;
    assert_eq!(must("size", store.size(stays)).await, 10);
    let listed = must("list", store.list(share, None, 10)).await;
    assert_eq!(listed.iter().map(|entry| entry.pack).collect::<Vec<_>>(), [stays.pack]);
    assert_eq!(must("put after delete", store.put(gone, vec![bytes(20, 2)])).await, Put::Stored);
    assert_eq!(must("get", store.get(gone, 0..20)).await, bytes(20, 2));
}

async fn listings_are_ordered_and_paged(store: &Store) {
    let share = share();
    let mut wanted = Vec::new();
    for number in 0..23 {
        must("put", store.put(name(share, number), vec![bytes(100 + usize::from(number), 1)])).await;
        wanted.push((name(share, number).pack, 100 + u64::from(number)));
    }
    wanted.sort_unstable();
    for page_len in [1, 7, 23, 5_000] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = must("list", store.list(share, after, page_len)).await;
            assert!(page.len() <= page_len);
            let Some(last) = page.last() else { break };
            after = Some(last.pack);
            found.extend(page.iter().map(|entry| (entry.pack, entry.bytes)));
            assert!(found.len() <= wanted.len(), "a page came twice");
        }
        assert_eq!(found, wanted, "pages of {page_len}");
    }
    let between = PackId([0x10; 16]);
    let page = must("list", store.list(share, Some(between), 100)).await;
    let later: Vec<_> = wanted.iter().filter(|(pack, _)| *pack > between).map(|(pack, _)| *pack).collect();
    assert_eq!(
        page.iter().map(|entry| entry.pack).collect::<Vec<_>>(),
        later,
        "after a pack that is not there"
    );
}

async fn shares_are_apart(store: &Store) {
    let (one, two) = (name(share(), 1), name(share(), 1));
    must("put", store.put(one, vec![bytes(10, 1)])).await;
    assert!(matches!(store.size(two).await, Err(StoreError::NotFound { .. })));
    assert_eq!(must("put", store.put(two, vec![bytes(11, 2)])).await, Put::Stored);
    must("delete", store.delete(one)).await;
    assert_eq!(must("get", store.get(two, 0..11)).await, bytes(11, 2));
    assert!(must("list", store.list(one.share, None, 10)).await.is_empty());
}

async fn what_cannot_be_a_pack_is_refused(store: &Store) {
    let name = name(share(), 1);
    for parts in [vec![], vec![Bytes::new()]] {
        let put = store.put(name, parts).await;
        assert!(matches!(put, Err(StoreError::Size { found: 0, .. })), "{put:?}");
    }
    let put = store.put_stream(name, u64::MAX, Box::pin(stream::empty())).await;
    assert!(matches!(put, Err(StoreError::Size { .. })), "{put:?}");
    assert!(matches!(store.size(name).await, Err(StoreError::NotFound { .. })));
}

async fn bodies_are_taken_whole_or_not_at_all(store: &Store) {
    let share = share();
    let part = || Ok(bytes(700_000, 5));
    let cut = || Err("the connection was cut".into());
    for (number, announced, body) in [
        (1, 2_100_001, vec![part(), part(), part()]),
        (2, 2_099_999, vec![part(), part(), part()]),
        (3, 2_100_000, vec![part(), part(), cut()]),
        (4, 2_100_000, vec![part(), part(), part(), cut()]),
        (5, 10, vec![]),
    ] {
        let name = name(share, number);
        let put = store.put_stream(name, announced, Box::pin(stream::iter(body))).await;
        assert!(
            matches!(put, Err(StoreError::Body { .. } | StoreError::BodyLength { .. })),
            "body {number}: {put:?}"
        );
        assert!(
            matches!(store.size(name).await, Err(StoreError::NotFound { .. })),
            "body {number} left a pack"
        );
    }
    let name = name(share, 7);
    let body = vec![part(), Ok(Bytes::new()), part(), part()];
    let put = must("put stream", store.put_stream(name, 2_100_000, Box::pin(stream::iter(body)))).await;
    assert_eq!((put, must("size", store.size(name)).await), (Put::Stored, 2_100_000));
    assert_eq!(must("get", store.get(name, 700_000..1_400_000)).await, bytes(700_000, 5));
    let again = store.put_stream(name, 2_100_000, Box::pin(stream::iter(vec![part(), part(), part()])));
    assert_eq!(must("put stream again", again).await, Put::Present);
}

async fn concurrent_puts_store_one(store: &Store) {
    let name = name(share(), 1);
    let tasks = (0..16).map(|_| {
        let store = Arc::clone(store);
        tokio::spawn(async move { store.put(name, vec![bytes(50_000, 1)]).await })
    });
    let mut stored = 0;
    for task in tasks.collect::<Vec<_>>() {
        let put = task.await.expect("a put does not panic");
        stored += u32::from(must("put", std::future::ready(put)).await == Put::Stored);
    }
    assert_eq!(stored, 1, "one of the writers is the first");
    assert_eq!(must("get", store.get(name, 0..50_000)).await, bytes(50_000, 1));
}

async fn many_at_once(store: &Store) {
    let share = share();
    let tasks = (0..64u8).map(|number| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let name = name(share, number);
            must("put", store.put(name, vec![bytes(1000, number)])).await;
            assert_eq!(must("get", store.get(name, 10..20)).await, bytes(1000, number).slice(10..20));
            if number.is_multiple_of(4) {
                must("delete", store.delete(name)).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no check failed");
    }
    assert_eq!(must("list", store.list(share, None, 100)).await.len(), 48);
}

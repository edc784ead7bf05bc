//! Named cases of one pack, properties of any plan, and a small world in which plans are run against commits.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::Waiting;

const DAY: u64 = 24 * 3600;
const NOW: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

fn pack(number: u8) -> PackId {
    PackId([number; 16])
}

fn key(pack: u8, chunk: u8) -> [u8; 16] {
    let mut key = [0; 16];
    // The first half is what a mark set keeps.
    key[..2].copy_from_slice(&[pack, chunk]);
    key
}

fn live(number: u8, bytes: u64, age: u64) -> PackFacts {
    PackFacts {
        pack: pack(number),
        state: PackState::Live,
        bytes,
        stored_at: ServiceTime(NOW - age),
        verified: true,
    }
}

fn chunk(of: u8, number: u8, stored_bytes: u64) -> HomedChunk {
    HomedChunk { pack: pack(of), key: key(of, number), stored_bytes: stored_bytes as u32 }
}

fn look() -> Look {
    Look { now: ServiceTime(NOW), as_of: Seq(100), expiry_suspended: false }
}

fn plan(packs: &[PackFacts], chunks: &[HomedChunk], marks: &[[u8; 16]], look: Look) -> PrunePlan {
    let marks: BTreeSet<[u8; 16]> = marks.iter().copied().collect();
    let (packs, chunks) = (packs.iter().copied().map(Ok), chunks.iter().copied().map(Ok));
    plan_prune::<Infallible>(packs, chunks, &marks, look, &PruneSettings::default()).expect("sorted")
}

/// What happens to one pack of 10 MiB with two chunks of which `marked` many are referenced.
fn fate(facts: PackFacts, marked: u8, look: Look) -> String {
    let chunks = [chunk(1, 0, 1 << 20), chunk(1, 1, 1 << 20)];
    let marks: Vec<_> = (0..marked).map(|number| key(1, number)).collect();
    let plan = plan(&[facts], &chunks, &marks, look);
    assert!(plan.steps() <= 1);
    let text = plan.to_string();
    text.split(&[' ', ':'][..]).next().unwrap_or_default().to_owned()
        + text.strip_prefix("wait: 1 packs").unwrap_or_default().trim_end()
}

/// Each kind of pack; scenario 96 for those that are in the store and in no row.
#[test]
fn the_fate_of_a_pack() {
    let old = live(1, 10 * MIB, 2 * DAY);
    let with = |state| PackFacts { state, ..old };
    let condemned =
        |ago: u64, head| with(PackState::Condemned { at: ServiceTime(NOW - ago), head: Seq(head) });
    let stray = |ago| with(PackState::Stray { seen_at: ServiceTime(NOW - ago) });
    let ahead = with(PackState::Condemned { at: ServiceTime(NOW + 5 * DAY), head: Seq(1) });
    let jumped = Look { expiry_suspended: true, ..look() };
    let cases = [
        ("referenced in full enough", PackFacts { bytes: 4 * MIB, ..old }, 2, look(), ""),
        ("not referenced", old, 0, look(), "condemn"),
        ("not referenced and new", live(1, 10 * MIB, DAY - 1), 0, look(), "wait not referenced, but young"),
        ("not referenced and just old enough", live(1, 10 * MIB, DAY), 0, look(), "condemn"),
        (
            "not referenced and never read back",
            PackFacts { verified: false, ..old },
            0,
            look(),
            "wait not referenced, small or sparse, but not verified",
        ),
        ("not referenced, time jumped", old, 0, jumped, "wait kept because expiry is suspended"),
        ("condemned a moment ago", condemned(0, 100), 0, look(), "wait within the grace period"),
        ("condemned just too late", condemned(DAY - 1, 100), 0, look(), "wait within the grace period"),
        ("condemned long ago", condemned(DAY, 100), 0, look(), "delete"),
        (
            "condemned after the marks",
            condemned(DAY, 101),
            0,
            look(),
            "wait condemned after the marks were taken",
        ),
        ("condemned, time jumped", condemned(DAY, 100), 0, jumped, "wait kept because expiry is suspended"),
        ("condemned in the future", ahead, 0, look(), "wait within the grace period"),
        ("condemned and referenced", condemned(9 * DAY, 100), 1, look(), "spare"),
        ("condemned, referenced by older marks", condemned(9 * DAY, 101), 1, look(), "spare"),
        ("a new stray", stray(5), 0, look(), "wait within the grace period"),
        ("an old stray", stray(DAY), 0, look(), "delete"),
        ("a stray that the index names", stray(DAY), 1, look(), "wait named by the index, but without a row"),
        ("sparse", old, 1, look(), "repack"),
        (
            "sparse and unverified",
            PackFacts { verified: false, ..old },
            1,
            look(),
            "wait not referenced, small or sparse, but not verified",
        ),
        ("sparse and just stored", live(1, 10 * MIB, 599), 1, look(), ""),
        ("sparse and stored just long enough", live(1, 10 * MIB, 600), 1, look(), "repack"),
        ("small and alone", live(1, 3 * MIB, DAY), 2, look(), ""),
    ];
    for (name, facts, marked, look, wanted) in cases {
        assert_eq!(fate(facts, marked, look), wanted, "{name}");
    }
}

/// Packs of these lengths, all referenced; the groups that are merged.
fn merged(lengths: &[u64]) -> Vec<Vec<u8>> {
    let numbered = || lengths.iter().zip(1u8..);
    let packs: Vec<_> = numbered().map(|(len, at)| live(at, *len, DAY - u64::from(at))).collect();
    let chunks: Vec<_> = numbered().map(|(len, at)| chunk(at, 0, *len)).collect();
    let marks: Vec<_> = numbered().map(|(_, at)| key(at, 0)).collect();
    let plan = plan(&packs, &chunks, &marks, look());
    plan.merge.iter().map(|merge| merge.packs.iter().map(|pack| pack.0[0]).collect()).collect()
}

#[test]
fn small_packs_are_merged() {
    let none: Vec<Vec<u8>> = Vec::new();
    assert_eq!(merged(&[]), none);
    assert_eq!(merged(&[100]), none);
    assert_eq!(merged(&[100, 100]), [[1, 2]]);
    assert_eq!(merged(&[50, 100]), [[1, 2]], "half as large again as the larger one");
    assert_eq!(merged(&[4 * MIB, 4 * MIB]), none, "not small");
    assert_eq!(merged(&[3 * MIB, 100, 100]), [[2, 3]], "a large one would be moved for little");
    assert_eq!(merged(&[3 * MIB, 2 * MIB, 100, MIB]), [[1, 2, 3, 4]]);
    assert_eq!(merged(&[2 * MIB; 17]).iter().map(Vec::len).collect::<Vec<_>>(), [16], "a pack holds 32 MiB");
    let many = merged(&[3 * MIB; 25]);
    assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 5]);
}

#[test]
fn only_what_is_referenced_moves() {
    let packs = [live(1, MIB, DAY), live(2, MIB, DAY)];
    let chunks = [chunk(1, 0, 1000), chunk(1, 1, 500), chunk(2, 0, 1200)];
    let plan = plan(&packs, &chunks, &[key(1, 0), key(2, 0)], look());
    assert_eq!(plan.merge, [Merge { packs: vec![pack(1), pack(2)], live_bytes: 2200 }]);
}

#[test]
fn rows_that_do_not_fit_are_noticed() {
    let chunks = [chunk(1, 0, 10), chunk(1, 1, 10), chunk(3, 0, 10)];
    let found = plan(&[live(2, MIB, 0)], &chunks, &[key(1, 0)], look());
    assert_eq!(found.waiting, Waiting { missing: 2, young: 1, ..Waiting::default() });
    let run = |packs: &[u8], chunks: &[u8]| {
        let packs = packs.iter().map(|number| Ok(live(*number, MIB, 0)));
        let chunks = chunks.iter().map(|number| Ok(chunk(*number, 0, 1)));
        plan_prune::<Infallible>(packs, chunks, &BTreeSet::new(), look(), &PruneSettings::default()).map(drop)
    };
    assert_eq!(run(&[1, 2, 3], &[1, 1, 3]), Ok(()));
    assert_eq!(run(&[1, 3, 2], &[]), Err(PlanError::Unsorted(pack(2))));
    assert_eq!(run(&[1, 1], &[]), Err(PlanError::Unsorted(pack(1))));
    assert_eq!(run(&[1, 2, 3], &[3, 2]), Err(PlanError::Unsorted(pack(2))));
    let broken = plan_prune([Err("gone")], [], &BTreeSet::new(), look(), &PruneSettings::default());
    assert_eq!(broken, Err(PlanError::Rows("gone")));
    let half =
        plan_prune([Ok(live(1, 1, 0))], [Err("gone")], &BTreeSet::new(), look(), &PruneSettings::default());
    assert_eq!(half, Err(PlanError::Rows("gone")), "absent rows condemn nothing");
}

#[test]
fn a_plan_has_an_end() {
    let settings = PruneSettings { steps_max: 3, rewrite_bytes_max: 4 * MIB, ..PruneSettings::default() };
    let packs: Vec<_> = (1..=10).map(|number| live(number, 10 * MIB, 2 * DAY)).collect();
    let run = |marks: &BTreeSet<[u8; 16]>| {
        let chunks = (1..=10).map(|number| Ok::<_, Infallible>(chunk(number, 0, 2 * MIB)));
        plan_prune(packs.iter().copied().map(Ok), chunks, marks, look(), &settings).expect("sorted")
    };
    let unused = run(&BTreeSet::new());
    assert_eq!((unused.condemn.len(), unused.waiting.next_plan), (3, 7));
    let sparse = run(&(1..=10).map(|number| key(number, 0)).collect());
    assert_eq!((sparse.repack.len(), sparse.waiting.next_plan), (2, 8), "4 MiB hold two of 2 MiB");
}

fn facts() -> impl Strategy<Value = (PackFacts, Vec<bool>)> {
    let ago = prop_oneof![0..2000u64, DAY - 2..DAY + 2, 0..5 * DAY];
    let state = (0u8..4, ago.clone(), 90u64..110).prop_map(|(kind, ago, head)| match kind {
        0 => PackState::Condemned { at: ServiceTime(NOW - ago), head: Seq(head) },
        1 => PackState::Stray { seen_at: ServiceTime(NOW - ago) },
        _ => PackState::Live,
    });
    let bytes = prop_oneof![1..MIB, 1..40 * MIB];
    (state, bytes, ago, any::<bool>(), prop::collection::vec(any::<bool>(), 0..4)).prop_map(
        |(state, bytes, ago, verified, marked)| {
            (
                PackFacts { pack: PackId::ZERO, state, bytes, stored_at: ServiceTime(NOW - ago), verified },
                marked,
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_step_is_allowed(
        world in prop::collection::vec(facts(), 0..40), suspended: bool, steps_max in 1usize..60,
    ) {
        let (mut packs, mut chunks, mut marks) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for ((mut facts, marked), number) in world.into_iter().zip(0u8..) {
            facts.pack = pack(number);
            for (used, at) in marked.iter().zip(0u8..) {
                chunks.push(chunk(number, at, facts.bytes / 4));
                if *used {
                    marks.insert(key(number, at));
                }
            }
            packs.insert(facts.pack, (facts, marked.into_iter().any(|used| used)));
        }
        let settings = PruneSettings { steps_max, ..PruneSettings::default() };
        let look = Look { expiry_suspended: suspended, ..look() };
        let rows = || (packs.values().map(|(facts, _)| Ok(*facts)), chunks.iter().copied().map(Ok));
        let run = || plan_prune::<Infallible>(rows().0, rows().1, &marks, look, &settings).expect("sorted");
        let plan = run();
        prop_assert_eq!(&plan, &run());
        prop_assert!(plan.steps() <= steps_max + plan.spare.len());

        let mut seen = BTreeSet::new();
        for Condemn { pack, .. } in &plan.condemn {
            let (facts, used) = &packs[pack];
            prop_assert!(facts.state == PackState::Live && !used && !suspended && seen.insert(*pack));
            prop_assert!(look.now.since(facts.stored_at) >= settings.unnamed_secs);
        }
        for Delete { pack, stray, .. } in &plan.delete {
            let (facts, used) = &packs[pack];
            prop_assert!(!used && !suspended && seen.insert(*pack));
            let since = match facts.state {
                PackState::Live => return Err(TestCaseError::fail("a live pack was deleted")),
                PackState::Condemned { at, head } => {
                    prop_assert!(head <= look.as_of && !stray, "no second look");
                    at
                }
                PackState::Stray { seen_at } => seen_at,
            };
            prop_assert!(look.now.since(since) >= settings.grace_secs);
        }
        for Spare { pack, .. } in &plan.spare {
            let (facts, used) = &packs[pack];
            let condemned = matches!(facts.state, PackState::Condemned { .. });
            prop_assert!(condemned && *used && seen.insert(*pack));
        }
        let merged = plan.merge.iter().flat_map(|merge| merge.packs.iter().map(|pack| (*pack, true)));
        let repacked = plan.repack.iter().map(|repack| (repack.pack, false));
        for (pack, small) in merged.chain(repacked) {
            let (facts, used) = &packs[&pack];
            prop_assert!(facts.state == PackState::Live && *used && facts.verified && seen.insert(pack));
            prop_assert_eq!(facts.bytes < settings.small_bytes, small);
        }
        for Merge { packs, live_bytes } in &plan.merge {
            prop_assert!(packs.len() >= 2 && *live_bytes <= settings.pack_bytes);
        }
        // Whoever is condemned and referenced is spared, whatever else there is to do.
        let doomed = packs.values().filter(|(facts, used)| matches!(facts.state, PackState::Condemned { .. }) && *used);
        prop_assert_eq!(doomed.count(), plan.spare.len());
    }
}

/// A service in miniature: commits name chunks while marks are old and plans are run late.
#[derive(Debug, Default)]
struct World {
    now: u64,
    head: u64,
    packs: BTreeMap<PackId, PackFacts>,
    homes: BTreeMap<[u8; 16], (PackId, u64)>,
    named: BTreeSet<[u8; 16]>,
    taken: Option<(BTreeSet<[u8; 16]>, Seq)>,
    planned: Option<PrunePlan>,
    next_pack: u8,
}

#[derive(Debug, Clone)]
enum Step {
    Store { chunks: u8, len: u64 },
    Name(u8),
    Drop(u8),
    Wait(u64),
    Mark,
    Plan,
    Run,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u8..4, prop_oneof![100..1000u64, 5 * MIB..6 * MIB]).prop_map(|(chunks, len)| Step::Store { chunks, len }),
        4 => any::<u8>().prop_map(Step::Name),
        3 => any::<u8>().prop_map(Step::Drop),
        3 => (0..DAY).prop_map(Step::Wait),
        2 => Just(Step::Mark),
        2 => Just(Step::Plan),
        3 => Just(Step::Run),
    ]
}

impl World {
    fn put(&mut self, chunks: impl IntoIterator<Item = ([u8; 16], u64)>) {
        let id = pack(self.next_pack);
        self.next_pack = self.next_pack.wrapping_add(1);
        let mut bytes = 0;
        for (key, len) in chunks {
            self.homes.insert(key, (id, len));
            bytes += len;
        }
        let stored_at = ServiceTime(self.now);
        self.packs
            .insert(id, PackFacts { pack: id, state: PackState::Live, bytes, stored_at, verified: true });
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Store { chunks, len } => {
                let number = self.next_pack;
                self.put((0..*chunks).map(|at| (key(number, at), *len)));
            }
            Step::Name(which) => {
                let Some((key, (home, _))) = pick(&self.homes, *which) else { return };
                // The ledger's rule: chunks of packs that are not live are to be sent again.
                if self.packs[&home].state == PackState::Live {
                    self.head += 1;
                    self.named.insert(key);
                }
            }
            Step::Drop(which) => {
                self.head += 1;
                let at = usize::from(*which) % self.named.len().max(1);
                if let Some(key) = self.named.iter().nth(at).copied() {
                    self.named.remove(&key);
                }
            }
            Step::Wait(secs) => self.now += secs,
            Step::Mark => self.taken = Some((self.named.clone(), Seq(self.head))),
            Step::Plan => self.planned = self.plan(),
            Step::Run => {
                if let Some(plan) = self.planned.take() {
                    self.run(&plan);
                }
            }
        }
    }

    fn plan(&self) -> Option<PrunePlan> {
        let (marks, as_of) = self.taken.as_ref()?;
        let look = Look { now: ServiceTime(self.now), as_of: *as_of, expiry_suspended: false };
        let mut chunks: Vec<_> = self
            .homes
            .iter()
            .map(|(key, (pack, len))| HomedChunk { pack: *pack, key: *key, stored_bytes: *len as u32 })
            .collect();
        chunks.sort_by_key(|chunk| chunk.pack);
        let packs = self.packs.values().copied().map(Ok);
        let plan = plan_prune::<Infallible>(
            packs,
            chunks.into_iter().map(Ok),
            marks,
            look,
            &PruneSettings::default(),
        );
        Some(plan.expect("sorted"))
    }

    fn run(&mut self, plan: &PrunePlan) {
        for Spare { pack, .. } in &plan.spare {
            self.state_of(pack, |state| matches!(state, PackState::Condemned { .. }), PackState::Live);
        }
        let condemned = PackState::Condemned { at: ServiceTime(self.now), head: Seq(self.head) };
        for Condemn { pack, .. } in &plan.condemn {
            self.state_of(pack, |state| state == PackState::Live, condemned);
        }
        for Delete { pack, .. } in &plan.delete {
            let still =
                self.packs.get(pack).is_some_and(|facts| matches!(facts.state, PackState::Condemned { .. }));
            if still {
                self.packs.remove(pack);
                self.homes.retain(|_, (home, _)| home != pack);
            }
        }
        let marks = self.taken.as_ref().map(|(marks, _)| marks.clone()).unwrap_or_default();
        let moves = plan
            .merge
            .iter()
            .map(|merge| merge.packs.clone())
            .chain(plan.repack.iter().map(|repack| vec![repack.pack]));
        for from in moves.collect::<Vec<_>>() {
            let moved =
                self.homes.iter().filter(|(key, (home, _))| from.contains(home) && marks.contains(*key));
            let moved: Vec<_> = moved.map(|(key, (_, len))| (*key, *len)).collect();
            self.put(moved);
        }
    }

    fn state_of(&mut self, pack: &PackId, expected: impl Fn(PackState) -> bool, next: PackState) {
        if let Some(facts) = self.packs.get_mut(pack)
            && expected(facts.state)
        {
            facts.state = next;
        }
    }
}

fn pick<K: Copy + Ord, V: Copy>(map: &BTreeMap<K, V>, which: u8) -> Option<(K, V)> {
    map.iter().nth(usize::from(which) % map.len().max(1)).map(|(key, value)| (*key, *value))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Promise I14, with marks and plans as old as the steps between make them.
    #[test]
    fn nothing_that_is_named_is_ever_lost(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::default();
        for step in &steps {
            world.step(step);
            for key in &world.named {
                let home = world.homes.get(key).map(|(home, _)| *home);
                prop_assert!(home.is_some_and(|home| world.packs.contains_key(&home)), "{step:?} lost a chunk");
            }
        }
        // Left in peace, what nothing names goes, and what is named comes to lie together.
        for _ in 0..12 {
            for step in [Step::Wait(DAY), Step::Mark, Step::Plan, Step::Run] {
                world.step(&step);
            }
        }
        let used: BTreeSet<_> = world.named.iter().map(|key| world.homes[key].0).collect();
        prop_assert_eq!(world.packs.keys().copied().collect::<BTreeSet<_>>(), used);
        prop_assert!(world.packs.values().all(|facts| facts.state == PackState::Live));
        let small = world.packs.values().filter(|facts| facts.bytes < 4 * MIB).count();
        prop_assert!(small <= 3, "{small} small packs are left");
    }
}

/// The bug zoo at the level of the plan: `cargo test -p polder-backup --features zoo zoo`. Each planted bug makes a test fail.
#[cfg(feature = "zoo")]
#[test]
fn zoo_of_the_prune_plan() {
    use polder_types::zoo::{Level, assert_all_caught, plant};
    let cases: [(Bug, fn()); 4] = [
        (Bug::NoSecondLook, the_fate_of_a_pack),
        (Bug::NoSecondLook, nothing_that_is_named_is_ever_lost),
        (Bug::OldMarksCount, the_fate_of_a_pack),
        (Bug::OldMarksCount, nothing_that_is_named_is_ever_lost),
    ];
    assert_all_caught(Level::Prune, &cases, plant, |test| test());
}

//! Effects on a disk that loses or keeps, adversarially, everything that was not made durable.

use polder_tiering::{Effect, Event, Residency, Wish};
use proptest::prelude::*;

const BLOCKS: u64 = 3;

/// What a block of the file may hold. A block that was punched, or written and lost, reads as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Block {
    Right,
    Zeros,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Kept {
    marked: bool,
    blocks: Vec<Block>,
}

/// What programs see, and what has reached the disk for certain.
struct Disk {
    now: Kept,
    /// All states that a crash may leave of each part: since the last sync, each change may or may not be there.
    marks: Vec<bool>,
    blocks: Vec<Vec<Block>>,
    allowed: bool,
}

impl Disk {
    fn new() -> Self {
        let blocks = vec![Block::Right; BLOCKS as usize];
        let kept = blocks.iter().map(|block| vec![*block]).collect();
        Self { now: Kept { marked: false, blocks }, marks: vec![false], blocks: kept, allowed: true }
    }

    fn set(&mut self, block: usize, to: Block) {
        if let (Some(now), Some(kept)) = (self.now.blocks.get_mut(block), self.blocks.get_mut(block)) {
            *now = to;
            kept.push(to);
        }
    }

    fn mark(&mut self, marked: bool) {
        self.now.marked = marked;
        self.marks.push(marked);
    }

    fn sync_data(&mut self) {
        self.blocks = self.now.blocks.iter().map(|block| vec![*block]).collect();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Sync => {
                self.sync_data();
                self.marks = vec![self.now.marked];
            }
            Effect::SyncData => self.sync_data(),
            Effect::Mark => {
                self.allowed = false;
                self.mark(true);
            }
            Effect::Unmark => self.mark(false),
            Effect::Punch => (0..self.now.blocks.len()).for_each(|block| self.set(block, Block::Zeros)),
            // The size is in the journal with the mark, in this order: an empty file shows nothing wrong.
            Effect::Truncate => (self.now.blocks, self.blocks) = (Vec::new(), Vec::new()),
            Effect::Exchange => {
                let zeros = vec![Block::Zeros; self.now.blocks.len()];
                self.blocks = zeros.iter().map(|zero| vec![*zero]).collect();
                self.now = Kept { marked: true, blocks: zeros };
                self.marks = vec![true];
            }
            Effect::AllowWrites => {
                assert_eq!(self.marks, [false], "a write only after the mark is durably gone");
                self.allowed = true;
            }
            _ => (),
        }
        self.ensure_safe();
    }

    /// Without a mark, on any disk that a crash may leave, every byte is right.
    fn ensure_safe(&self) {
        if self.marks.contains(&false) {
            let right = self.blocks.iter().all(|kept| kept.iter().all(|block| *block == Block::Right));
            assert!(right, "unmarked after a crash with {:?}", self.blocks);
        }
    }

    /// A crash: of each part any state since its last sync.
    fn crash(&mut self, mut dice: u64) {
        let mut pick = |len: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) as usize % len
        };
        let marked = self.marks[pick(self.marks.len())];
        let blocks: Vec<Block> = self.blocks.iter().map(|kept| kept[pick(kept.len())]).collect();
        self.marks = vec![marked];
        self.blocks = blocks.iter().map(|block| vec![*block]).collect();
        self.now = Kept { marked, blocks };
    }
}

#[derive(Debug, Clone)]
enum Do {
    Wish(Wish),
    Write(u64),
    Crash(u64),
    /// The effect with this number of the next step fails.
    FailAt(usize),
}

fn action() -> impl Strategy<Value = Do> {
    let wish = prop::sample::select(vec![Wish::Tier, Wish::Recall, Wish::Write, Wish::Empty, Wish::Repoint]);
    prop_oneof![
        4 => wish.prop_map(Do::Wish),
        4 => (0..BLOCKS + 1).prop_map(Do::Write),
        1 => any::<u64>().prop_map(Do::Crash),
        1 => (0usize..5).prop_map(Do::FailAt),
    ]
}

/// Runs a step's effects and what follows from them; crashes instead of the effect `crash_at`.
fn run(file: &mut Residency, disk: &mut Disk, event: Event, fail_at: &mut Option<usize>) {
    let mut effects = file.step(event);
    while !effects.is_empty() {
        let mut failed = false;
        for (at, effect) in effects.iter().enumerate() {
            if *fail_at == Some(at) && *effect != Effect::EndLease && *effect != Effect::Refuse {
                *fail_at = None;
                failed = true;
                break;
            }
            disk.carry_out(*effect);
        }
        let answers_only = effects.iter().all(|effect| {
            matches!(effect, Effect::Fill | Effect::Refuse | Effect::AllowWrites | Effect::EndLease)
        });
        effects = match failed {
            true => file.step(Event::Failed),
            false if answers_only => Vec::new(),
            false => file.step(Event::Done),
        };
    }
    // After a failure that leaves open whether the mark stands, the executor looks.
    if !file.is_resident() && !file.is_busy() {
        let marked = disk.now.marked;
        if !marked {
            run(file, disk, Event::Found { marked }, fail_at);
        }
    }
    for block in 0..BLOCKS {
        let shown = disk.now.blocks.get(block as usize).copied().unwrap_or(Block::Right);
        assert!(!file.is_present(block) || shown == Block::Right, "block {block} is shown as zeros");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A reader gets right bytes or none, whatever is wished, fails or crashes.
    #[test]
    fn right_bytes_or_none(actions in prop::collection::vec(action(), 1..40)) {
        let (mut file, mut disk) = (Residency::new(BLOCKS), Disk::new());
        file.step(Event::Found { marked: false });
        let mut fail_at = None;
        for action in actions {
            match action {
                Do::Wish(wish) => run(&mut file, &mut disk, Event::Wish(wish), &mut fail_at),
                Do::Write(block) => {
                    if disk.now.marked && !file.is_busy() {
                        disk.set(block as usize, Block::Right);
                        run(&mut file, &mut disk, Event::Present(block), &mut fail_at);
                    }
                }
                Do::FailAt(at) => fail_at = Some(at),
                Do::Crash(dice) => {
                    disk.crash(dice);
                    file.step(Event::Found { marked: disk.now.marked });
                    disk.ensure_safe();
                }
            }
        }
    }
}

/// A crash before each single effect of tiering and of coming back.
#[test]
fn a_crash_at_each_point() {
    for stop in 0..20 {
        for dice in 0..64 {
            let (mut file, mut disk) = (Residency::new(BLOCKS), Disk::new());
            file.step(Event::Found { marked: false });
            let mut left = stop;
            let mut events =
                vec![Event::Wish(Wish::Tier), Event::Done, Event::Done, Event::Wish(Wish::Write)];
            events.extend((0..BLOCKS).map(Event::Present));
            events.extend([Event::Done, Event::Done]);
            'life: for event in events {
                if let Event::Present(block) = event {
                    disk.set(block as usize, Block::Right);
                }
                for effect in file.step(event) {
                    if left == 0 {
                        break 'life;
                    }
                    left -= 1;
                    disk.carry_out(effect);
                }
            }
            disk.crash(dice);
            disk.ensure_safe();
            file.step(Event::Found { marked: disk.now.marked });
            assert!(disk.now.marked || disk.now.blocks.iter().all(|block| *block == Block::Right));
            assert_eq!(file.is_resident(), !disk.now.marked);
            assert!(
                !disk.now.marked || (0..BLOCKS).all(|block| !file.is_present(block)),
                "nothing is believed"
            );
        }
    }
}

#[test]
fn the_whole_way_and_back() {
    let mut file = Residency::new(1);
    file.step(Event::Found { marked: false });
    assert_eq!(
        file.step(Event::Wish(Wish::Tier)),
        [Effect::TakeLease, Effect::Sync, Effect::Mark, Effect::Sync]
    );
    assert_eq!(file.step(Event::Done), [Effect::Punch, Effect::RestoreTimes, Effect::EndLease]);
    assert_eq!(file.step(Event::Done), []);
    assert_eq!(file.step(Event::Wish(Wish::Write)), [Effect::Fill]);
    assert_eq!(file.step(Event::Present(0)), [Effect::SyncData, Effect::RestoreTimes, Effect::Sync]);
    assert_eq!(file.step(Event::Done), [Effect::Unmark, Effect::Sync]);
    assert!(!file.is_resident());
    assert_eq!(file.step(Event::Done), [Effect::AllowWrites]);
    assert!(file.is_resident());
}

/// Found by the property above: a failed fsync after the mark's removal must not let writes through.
#[test]
fn regression_a_removal_that_is_not_durable() {
    let mut file = Residency::new(1);
    file.step(Event::Found { marked: true });
    for event in [Event::Wish(Wish::Write), Event::Present(0), Event::Done] {
        file.step(event);
    }
    assert_eq!(file.step(Event::Failed), [Effect::EndLease, Effect::Refuse]);
    assert_eq!(file.step(Event::Found { marked: false }), [Effect::Sync]);
    assert!(!file.is_resident());
    file.step(Event::Done);
    assert!(file.is_resident());
}

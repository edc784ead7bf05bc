//! Random numbers of one concern (users, network, disk): drawn apart, so that a change in one leaves the others alone.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    /// A stream of numbers for a concern of a run.
    pub fn new(seed: u64, concern: u64) -> Self {
        let mut rng = Self(seed ^ concern.wrapping_mul(GOLDEN));
        rng.next();
        rng
    }

    /// A stream for one thing that is known by its numbers (a host, its 17th message): what is drawn for it does not
    /// depend on what was drawn before.
    pub fn of(seed: u64, numbers: [u64; 3]) -> Self {
        let mut rng = Self(seed);
        for number in numbers {
            rng.0 = rng.next() ^ number.wrapping_mul(GOLDEN);
        }
        rng.next();
        rng
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "a generator never ends, so it is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

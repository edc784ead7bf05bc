//! The plan as a value: what is done to which pack, and why.

use std::fmt;

use polder_types::PackId;

/// What prune does to the packs of one share. A pack is in it at most once. Prints as one line a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunePlan {
    /// Condemned packs that are referenced after all: they live again. First of all, before anything is deleted.
    pub spare: Vec<Spare>,
    /// Live packs that nothing references: no commit may name their chunks any more.
    pub condemn: Vec<Condemn>,
    /// Packs to delete, from the store first and the rows last.
    pub delete: Vec<Delete>,
    /// Packs whose referenced chunks move to new ones; the rest is condemned by a later plan.
    pub repack: Vec<Repack>,
    /// Small packs that become one.
    pub merge: Vec<Merge>,
    /// What was left as it is although it is not in order, and why.
    pub waiting: Waiting,
}

/// A condemned pack becomes live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spare {
    /// Which pack.
    pub pack: PackId,
    /// How many of its chunks are referenced; at least one.
    pub chunks_referenced: u64,
}

/// A live pack becomes condemned, if it is still live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condemn {
    /// Which pack.
    pub pack: PackId,
    /// Its length.
    pub bytes: u64,
    /// How long it has been stored.
    pub age_secs: u64,
}

/// A pack goes, if it is still condemned by the same decision (or still has no row).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// Which pack.
    pub pack: PackId,
    /// Its length.
    pub bytes: u64,
    /// How long it has been condemned, or known as a stray.
    pub waited_secs: u64,
    /// Whether it is in the store without a row.
    pub stray: bool,
}

/// The referenced chunks of a sparse pack are sealed again in a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repack {
    /// Which pack.
    pub pack: PackId,
    /// Its length.
    pub bytes: u64,
    /// Stored bytes of the chunks that are referenced and move.
    pub live_bytes: u64,
}

/// The referenced chunks of several small packs are sealed again in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// Which packs, oldest first; at least two.
    pub packs: Vec<PackId>,
    /// Stored bytes of the chunks that move.
    pub live_bytes: u64,
}

/// Packs by the reason for which nothing was done to them (yet).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Not referenced, but stored so lately that a commit may still name them.
    pub young: u64,
    /// Condemned or stray, and within the grace period.
    pub in_grace: u64,
    /// Condemned after the marks were taken: a newer look is needed.
    pub second_look: u64,
    /// Would be deleted, but expiry is suspended because the service's time jumped.
    pub suspended: u64,
    /// Not referenced, sparse or small, but not verified.
    pub unverified: u64,
    /// Left to the next plan, because this one is as large as it may be.
    pub next_plan: u64,
    /// Packs that the index names and that have no row: their chunks cannot be read. Damage, not waste.
    pub missing: u64,
}

impl PrunePlan {
    /// Whether there is nothing to do now.
    pub fn is_empty(&self) -> bool {
        let Self { spare, condemn, delete, repack, merge, waiting: _ } = self;
        spare.is_empty() && condemn.is_empty() && delete.is_empty() && repack.is_empty() && merge.is_empty()
    }

    /// How many steps it has.
    pub fn steps(&self) -> usize {
        self.spare.len() + self.condemn.len() + self.delete.len() + self.repack.len() + self.merge.len()
    }
}

impl fmt::Display for PrunePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Spare { pack, chunks_referenced } in &self.spare {
            writeln!(f, "spare {pack}: {chunks_referenced} of its chunks are referenced")?;
        }
        for Condemn { pack, bytes, age_secs } in &self.condemn {
            writeln!(f, "condemn {pack}: nothing references its {bytes} bytes, stored {age_secs} s ago")?;
        }
        for Delete { pack, bytes, waited_secs, stray } in &self.delete {
            let why = if *stray { "in the store without a row" } else { "condemned" };
            writeln!(f, "delete {pack}: {bytes} bytes, {why} for {waited_secs} s and still not referenced")?;
        }
        for Repack { pack, bytes, live_bytes } in &self.repack {
            writeln!(f, "repack {pack}: {live_bytes} of its {bytes} bytes are referenced")?;
        }
        for Merge { packs, live_bytes } in &self.merge {
            write!(f, "merge {} small packs of {live_bytes} bytes:", packs.len())?;
            packs.iter().try_for_each(|pack| write!(f, " {pack}"))?;
            writeln!(f)?;
        }
        self.waiting.fmt(f)
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { young, in_grace, second_look, suspended, unverified, next_plan, missing } = self;
        for (count, why) in [
            (young, "not referenced, but young"),
            (in_grace, "within the grace period"),
            (second_look, "condemned after the marks were taken"),
            (suspended, "kept because expiry is suspended"),
            (unverified, "not referenced, small or sparse, but not verified"),
            (next_plan, "left to the next plan"),
            (missing, "named by the index, but without a row"),
        ] {
            if *count > 0 {
                writeln!(f, "wait: {count} packs {why}")?;
            }
        }
        Ok(())
    }
}

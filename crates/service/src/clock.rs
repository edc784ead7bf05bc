//! Service time: monotone, kept over restarts, wary of jumps. Nothing of a share is ordered by it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use polder_metadata::control::{Control, ControlError, ServiceTime};
use polder_types::Timestamp;

/// How often the clock is told to the store; bounds how far a restart can be behind.
pub const OBSERVE_EVERY: Duration = Duration::from_secs(60);

/// The clock of a process. Between two observations it runs by the monotone clock, so that a jump of the wall clock
/// is only ever taken over where it is looked at.
pub struct ServiceClock {
    control: Control,
    base: Mutex<Base>,
}

#[derive(Clone, Copy)]
struct Base {
    time: ServiceTime,
    at: Instant,
}

impl ServiceClock {
    /// Starts from what the store knows and the wall clock says. Waits for the disk.
    pub fn start(control: Control) -> Result<Self, ControlError> {
        let time = control.observe_clock(wall_clock())?;
        Ok(Self { control, base: Mutex::new(Base { time, at: Instant::now() }) })
    }

    /// Service time.
    pub fn now(&self) -> Timestamp {
        self.base().now()
    }

    /// Service time in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        let now = self.now();
        u64::try_from(now.secs).unwrap_or(0) * 1000 + u64::from(now.nanos / 1_000_000)
    }

    /// Whether anything may expire: not after a jump that nobody has confirmed.
    pub fn may_expire(&self) -> bool {
        self.base().time.may_expire()
    }

    /// The latest moment that nobody doubts: where an unconfirmed jump began. Certificates end by this one, since the
    /// jump of a clock must lock nobody out.
    pub fn certain(&self) -> Timestamp {
        let base = self.base();
        base.time.jump.map_or_else(|| base.now(), |(from, _)| from)
    }

    /// Tells the store what the clock says. Waits for the disk.
    pub fn observe(&self) -> Result<ServiceTime, ControlError> {
        self.observe_clock(wall_clock())
    }

    fn observe_clock(&self, wall: Timestamp) -> Result<ServiceTime, ControlError> {
        // A wall clock that was set back does not stop time, unless it is one that had jumped and is right again.
        let had_jumped = self.base().time.jump.is_some_and(|(from, _)| wall >= from);
        let told = if had_jumped { wall } else { wall.max(self.now()) };
        let time = self.control.observe_clock(told)?;
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        if time.jump.is_some() && base.time.jump.is_none() {
            tracing::warn!("the clock jumped by more than a day: expiry is suspended until it is confirmed");
        }
        if time.jump.is_none() && base.time.jump.is_some() {
            tracing::info!("the clock is right again, or was confirmed");
        }
        *base = Base { time, at: Instant::now() };
        Ok(time)
    }

    /// Lets service time pass.
    #[cfg(test)]
    pub fn advance(&self, by: Duration) {
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        base.time.now.secs += by.as_secs() as i64;
    }

    fn base(&self) -> Base {
        *self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Base {
    fn now(&self) -> Timestamp {
        let nanos = u128::from(self.time.now.nanos) + self.at.elapsed().as_nanos();
        let secs = (nanos / 1_000_000_000) as i64;
        Timestamp::new(self.time.now.secs.saturating_add(secs), (nanos % 1_000_000_000) as u32)
    }
}

/// What the wall clock says.
pub fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::new(since.as_secs() as i64, since.subsec_nanos())
}

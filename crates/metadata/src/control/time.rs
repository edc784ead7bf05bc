//! Service time: monotone, kept over restarts, and wary of jumps.

use polder_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::rows::{self, Object, Table};
use super::{Acting, AuditNote, Control, ControlError, audit};

/// A larger step of the clock suspends expiry until somebody confirms it.
pub const CLOCK_JUMP_SECS_MAX: i64 = 24 * 3600;

/// What the service goes by. It never runs backwards, but for a jump that turned out to be wrong; nothing of a share is
/// ordered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTime {
    /// The latest moment that was observed.
    pub now: Timestamp,
    /// Where a jump began and ended that nobody has confirmed: nothing may expire meanwhile.
    pub jump: Option<(Timestamp, Timestamp)>,
}

impl ServiceTime {
    /// Whether snapshots, history, tokens and deleted shares may expire by this time.
    pub fn may_expire(&self) -> bool {
        self.jump.is_none()
    }
}

#[derive(Serialize, Deserialize)]
struct Kept(ServiceTime);

impl Object for Kept {
    const TABLE: Table = Table::Setting;
    fn key(&self) -> Vec<u8> {
        b"service_time".to_vec()
    }
    fn shown(&self) -> String {
        "service time".into()
    }
}

/// Whether a clock that had jumped and that nobody has confirmed is back where time would be without the jump: what
/// was doubted was wrong, and time goes on where it is right.
fn is_set_right(clock: Timestamp, from: Timestamp, to: Timestamp) -> bool {
    clock >= from && clock.secs - from.secs < (to.secs - from.secs) / 2
}

impl Control {
    /// Tells the store what the clock says; returns service time. Called at start and every minute or so, which also
    /// bounds how far a service that starts again can be behind.
    pub fn observe_clock(&self, clock: Timestamp) -> Result<ServiceTime, ControlError> {
        self.write(|rows| {
            let Some(Kept(mut time)) = rows::get(rows, b"service_time")? else {
                let time = ServiceTime { now: clock, jump: None };
                rows::put(rows, &Kept(time))?;
                return Ok(time);
            };
            if time.jump.is_some_and(|(from, to)| is_set_right(clock, from, to)) {
                time = ServiceTime { now: clock, jump: None };
            } else if clock.secs - time.now.secs > CLOCK_JUMP_SECS_MAX {
                // A second jump extends the first: what is confirmed is the whole way.
                time.jump = Some((time.jump.map_or(time.now, |(from, _)| from), clock));
            }
            time.now = time.now.max(clock);
            rows::put(rows, &Kept(time))?;
            Ok(time)
        })
    }

    /// Service time as last observed, if ever.
    pub fn service_time(&self) -> Result<Option<ServiceTime>, ControlError> {
        Ok(self.read(|rows| rows::get::<Kept>(rows, b"service_time"))?.map(|Kept(time)| time))
    }

    /// Somebody says that the clock is right. With `back_to`, that it was wrong: time continues there.
    pub fn confirm_clock(
        &self,
        acting: &Acting,
        back_to: Option<Timestamp>,
    ) -> Result<ServiceTime, ControlError> {
        self.write(|rows| {
            let Kept(mut time) = rows::need(rows, b"service_time")?;
            let detail = format!("jump {:?} back to {back_to:?}", time.jump);
            time.jump = None;
            time.now = back_to.unwrap_or(time.now);
            rows::put(rows, &Kept(time))?;
            audit::append(rows, acting, &AuditNote::new("service.clock", "service time", detail))?;
            Ok(time)
        })
    }
}

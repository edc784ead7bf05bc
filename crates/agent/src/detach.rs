//! Letting an endpoint go: everything is recalled first, or listed in a manifest.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use polder_api::grpc::answers::LeftBehind;
use polder_api::left_behind::{Head, VERSION};
use polder_api::rest::{JsonBytes, ObjectName, TextError};
use polder_replica::MANIFEST;
use polder_types::{Cursor, EndpointId, Seq, Timestamp};

use crate::endpoint::{Clear, Endpoint, Input, ensure_agreed};
use crate::tiered::{Cancel, Tiered, TieredError};
use crate::worker::{Hub, is_tiered};

/// How long it is waited until what was just written is in the share; then whoever wants the endpoint to go asks again.
const HELD_WITHIN: Duration = Duration::from_secs(12);
const HELD_AGAIN: Duration = Duration::from_millis(200);
/// So many looks in a row must find nothing under way.
const CALM_LOOKS: u32 = 8;
const LOCK: &str = "no holder of this lock panics";

/// Brings everything back that is tiered: outside of the gate nobody could read it.
pub(crate) async fn recall_all(endpoint: &Endpoint) -> Result<(), String> {
    let Some(tiered) = endpoint.tiered() else {
        return match out_of_sight(endpoint) {
            Some(why) => Err(format!("what is tiered there cannot be recalled: the endpoint waits: {why}")),
            None => Ok(()),
        };
    };
    let recalled = tokio::task::spawn_blocking(move || {
        tiered.recall_all(&Cancel::default()).map_err(|error| {
            let why = format!("the endpoint cannot be let go yet: {error}");
            tiered.say(Some(why.clone()));
            why
        })
    });
    recalled.await.map_err(|error| error.to_string())?
}

/// Takes the mount away and removes what is here of the share, or says why that cannot be now. Nothing is recalled.
pub(crate) async fn unmount(endpoint: &Endpoint) -> Result<(), String> {
    let tiered = endpoint.tiered();
    let said = tiered.clone();
    let unmounted = async {
        let verified = match tiered {
            Some(tiered) => Some(all_held(endpoint, &tiered).await?),
            // Carried out before, or half of it; its thread knows.
            None => None,
        };
        let (answer, from) = std::sync::mpsc::channel();
        endpoint.tell(Input::Clear(Clear { verified, answer }));
        let answer = tokio::task::spawn_blocking(move || from.recv()).await;
        answer.map_err(|error| error.to_string())?.map_err(|_| "the endpoint ended".to_owned())?
    };
    unmounted.await.map_err(|why| {
        let why = format!("it cannot be unmounted yet: {why}");
        if let Some(tiered) = said {
            tiered.say(Some(why.clone()));
        }
        why
    })
}

/// Waits a while until the share verifiably has everything, and says up to which of its changes.
async fn all_held(endpoint: &Endpoint, tiered: &Tiered) -> Result<Seq, String> {
    let (until, mut calm) = (Instant::now() + HELD_WITHIN, 0);
    loop {
        let agreed = ensure_agreed(&endpoint.shown());
        calm = if agreed.is_ok() { calm + 1 } else { 0 };
        let held = match agreed {
            // The times of folders go last, a moment after all else.
            Ok(_) if calm < CALM_LOOKS => {
                tokio::time::sleep(HELD_AGAIN).await;
                continue;
            }
            Ok(seq) => {
                let tiered = tiered.clone();
                let held = tokio::task::spawn_blocking(move || {
                    tiered.ensure_held()?;
                    // While the share can still be asked: with the endpoint's life that ends.
                    tiered.let_go_of_displaced();
                    Ok::<_, TieredError>(())
                });
                let held = held.await.map_err(|error| error.to_string())?;
                held.map(|()| seq).map_err(|error| crate::status::chain(&error))
            }
            Err(why) => Err(why),
        };
        match held {
            Err(_) if Instant::now() < until => tokio::time::sleep(HELD_AGAIN).await,
            held => return held,
        }
    }
}

/// Why a folder that may hold placeholders cannot be looked at now.
fn out_of_sight(endpoint: &Endpoint) -> Option<Box<str>> {
    let waiting = endpoint.shown().waiting?;
    is_tiered(&endpoint.assignment.lock().expect(LOCK)).then_some(waiting)
}

/// Writes the manifest into the endpoint's folder. The answer for the service: what it says, or that the folder cannot be looked at.
pub(crate) async fn leave_behind(
    hub: &Hub,
    id: EndpointId,
    endpoint: &Arc<Endpoint>,
) -> Result<Vec<u8>, String> {
    let answer = match endpoint.tiered() {
        Some(tiered) => {
            let head = head(hub, id, endpoint)?;
            let path = head.path.clone();
            let behind = tokio::task::spawn_blocking(move || {
                tiered.leave_behind(head).inspect_err(|_| tiered.resume_arrivals())
            });
            let behind = behind.await.map_err(|error| error.to_string())?;
            let behind = behind.map_err(|error| format!("the manifest could not be written: {error}"))?;
            let (files, bytes) = (behind.total.files, behind.total.bytes);
            tracing::warn!(
                files,
                bytes,
                orphans = behind.orphans,
                manifest = format!("{path}/.polder/{MANIFEST}"),
                "the endpoint is let go without a recall"
            );
            LeftBehind { count: Some((files, bytes)), orphans: behind.orphans }
        }
        None => match out_of_sight(endpoint) {
            Some(why) => {
                tracing::warn!(%why, "the endpoint is let go, and its folder cannot be looked at");
                LeftBehind::default()
            }
            None => LeftBehind { count: Some((0, 0)), orphans: 0 },
        },
    };
    serde_json::to_vec(&answer).map_err(|error| error.to_string())
}

fn head(hub: &Hub, id: EndpointId, endpoint: &Endpoint) -> Result<Head, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
    let assignment = endpoint.assignment.lock().expect(LOCK).clone();
    let name = |text: &str| text.parse::<ObjectName>().map_err(|error: TextError| error.to_string());
    Ok(Head {
        polder_left_behind: VERSION,
        share: assignment.share,
        share_name: name(&assignment.share_name)?,
        endpoint: id,
        server: hub.identity.server_id,
        server_name: name(&hub.identity.server_name)?,
        path: JsonBytes(assignment.path.clone()),
        nonce: None,
        applied: endpoint.shown().status.map_or(Cursor::default(), |status| status.cursor),
        known: true,
        made_at: Timestamp::new(now, 0).into(),
    })
}

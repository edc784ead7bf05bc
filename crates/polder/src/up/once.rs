//! `polder up --once`: a small sample crosses from one site to the other, is compared, is tiered, recalled and compared again, and is read as it
//! was.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use polder_api::{
    control::{Answer, FILES_LISTED_MAX, FileChoice, FileResidency, Request, ask_each},
    rest::{At, JsonBytes, SnapshotCreate},
};
use polder_cli::{CliError, Exit, Ui, shown_fields};
use polder_types::{Name, RelPath};

use super::world::{DEMO, World, until};

/// Bound on each step.
const STEP_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const FOLDERS: usize = 10;
const FILES_A_FOLDER: usize = 30;
const LARGE_BYTES: usize = 8 * 1024 * 1024;

/// Runs the demonstration and shows its times.
pub async fn run(world: &World, ui: &mut Ui) -> Result<Exit, CliError> {
    let name = format!("sample-{}", unix_nanos());
    let (a, b) = (world.site("a").join(&name), world.site("b").join(&name));
    let bytes = make_sample(&a).map_err(|error| CliError::io("make the sample", error))?;
    let made = Instant::now();
    let read = |what| tree(&a, what).map_err(|error| CliError::io("read the sample", error));
    let (names, sample) = (read(What::Names)?, read(What::Bytes)?);
    ui.say(format_args!("copied {} items ({bytes} bytes) into site-a", sample.len()));
    until("the arrival of the sample at site-b", STEP_WITHIN, LOOK_EVERY, || async {
        // Bytes once all names are there: at a tiered site each read is a recall.
        let found = tree(&b, What::Names).map_err(|error| error.to_string())?;
        if found != names {
            return Err(difference(&names, &found));
        }
        match tree(&b, What::Bytes) {
            Ok(found) if found == sample => Ok(()),
            Ok(found) => Err(difference(&sample, &found)),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    let crossed = made.elapsed();

    let tiered = match &world.not_tiered {
        None => Some(tier_and_recall(world, &b, &sample).await?),
        Some(_) => None,
    };

    let file = a.join("one.txt");
    let one = one_change(&file, &b.join("one.txt"), b"first").await?;
    let back = one_change(&b.join("one.txt"), &file, b"second").await?;

    let began = Instant::now();
    let snapshot = world.client.snapshot_create(DEMO, &SnapshotCreate { name: None }).await?;
    let taken = began.elapsed();
    let away = one_change(&file, &b.join("one.txt"), b"third").await?;
    let path = [name.as_str(), "one.txt"].map(|part| Name::parse(part.as_bytes()));
    let path: RelPath =
        path.into_iter().collect::<Result<_, _>>().map_err(|error| CliError::new(error.to_string()))?;
    let began = Instant::now();
    let then = read_at(world, &path, &At::Snapshot(snapshot.name.clone())).await?;
    let read = began.elapsed();
    if then != b"second" {
        return Err(CliError::new("the snapshot does not show what was there when it was taken"));
    }
    let why = world.not_tiered.as_deref();
    let snapshot = snapshot.name.as_str();
    show(ui, (sample.len(), bytes), [crossed, one, back, taken, away, read], snapshot, (tiered, why))?;
    Ok(Exit::Done)
}

/// What tiering showed.
struct Tiered {
    files: usize,
    bytes: u64,
    left: Duration,
    recalled: Duration,
}

/// Has everything of the sample at site-b tiered that may be, and reads it back.
async fn tier_and_recall(
    world: &World,
    b: &Path,
    sample: &BTreeMap<PathBuf, Item>,
) -> Result<Tiered, CliError> {
    let state = world.agent("b");
    let choice =
        FileChoice { paths: vec![JsonBytes(b.as_os_str().as_bytes().to_vec())], ..FileChoice::default() };
    let rows = |request: Request| {
        let state = state.clone();
        async move {
            let mut rows = Vec::new();
            let asked = ask_each(&state, &request, |answer| {
                if let Answer::File(row) = answer {
                    rows.push(row);
                }
            });
            asked.await.map_err(|error| error.to_string())?;
            Ok::<_, String>(rows)
        }
    };
    let began = Instant::now();
    // A file may leave once the service has verified its pack, and nobody reads it any more.
    until("the tiering of the sample", STEP_WITHIN, Duration::from_millis(100), || async {
        let stayed = rows(Request::Tier { choice: choice.clone() }).await?;
        match stayed.iter().find(|row| row.verdict != "too_small") {
            Some(row) => Err(row.reason.clone()),
            None => Ok(()),
        }
    })
    .await?;
    let left = began.elapsed();
    let listed = rows(Request::TierList { choice: choice.clone(), count_max: FILES_LISTED_MAX }).await;
    let listed = listed.map_err(CliError::new)?;
    let away: Vec<_> = listed.iter().filter(|row| row.residency == FileResidency::Tiered).collect();
    if away.is_empty() {
        return Err(CliError::new("nothing of the sample is tiered"));
    }
    let began = Instant::now();
    let found = tree(b, What::Bytes).map_err(|error| CliError::io("read the sample at site-b", error))?;
    let recalled = began.elapsed();
    if found != *sample {
        return Err(CliError::new(format!(
            "what was recalled is not the sample: {}",
            difference(sample, &found)
        )));
    }
    let bytes = away.iter().map(|row| row.size).sum();
    Ok(Tiered { files: away.len(), bytes, left, recalled })
}

fn show(
    ui: &mut Ui,
    (items, bytes): (usize, u64),
    [crossed, one, back, taken, away, read]: [Duration; 6],
    snapshot: &str,
    (tiered, not_tiered): (Option<Tiered>, Option<&str>),
) -> Result<(), CliError> {
    let millis = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
    let tiered = tiered.as_ref();
    let report = serde_json::json!({
        "tiered_files": tiered.map(|tiered| tiered.files), "tiered_bytes": tiered.map(|tiered| tiered.bytes),
        "tier_ms": tiered.map(|tiered| millis(tiered.left)), "recall_ms": tiered.map(|tiered| millis(tiered.recalled)),
        "not_tiered": not_tiered,
        "items": items, "bytes": bytes, "snapshot": snapshot,
        "sample_a_to_b_ms": millis(crossed), "change_a_to_b_ms": millis(one), "change_b_to_a_ms": millis(back),
        "snapshot_ms": millis(taken), "change_after_snapshot_ms": millis(away), "read_as_of_snapshot_ms": millis(read),
    });
    let shown = |time: Duration| format!("{:>8.1} ms", millis(time));
    let (left, recalled) = match (tiered, not_tiered) {
        (Some(Tiered { files, bytes, left, recalled }), _) => (
            format!("{}  {files} files, {bytes} bytes are in the share alone", shown(*left)),
            format!("{}  read back, compared", shown(*recalled)),
        ),
        (None, why) => {
            (format!("not shown: {}", why.unwrap_or("site-b does not tier")), "not shown".to_owned())
        }
    };
    ui.show(&report, |_| {
        shown_fields(&[
            (
                "sample from site-a to site-b",
                format!("{}  {items} items, {bytes} bytes, compared", shown(crossed)),
            ),
            ("tiered at site-b", left.clone()),
            ("recalled at site-b", recalled.clone()),
            ("one change from site-a to site-b", shown(one)),
            ("one change from site-b to site-a", shown(back)),
            ("snapshot", format!("{}  {snapshot}", shown(taken))),
            ("one change after the snapshot", shown(away)),
            ("the file as of the snapshot", format!("{}  unchanged", shown(read))),
        ])
    })
}

/// Writes a file here and waits until it is there; returns the time in between.
async fn one_change(here: &Path, there: &Path, content: &[u8]) -> Result<Duration, CliError> {
    let beside = here.with_extension("new");
    fs::write(&beside, content)
        .and_then(|()| fs::rename(&beside, here))
        .map_err(|error| CliError::io(format!("write \"{}\"", here.display()), error))?;
    let written = Instant::now();
    until("the arrival of one change", STEP_WITHIN, Duration::from_millis(1), || async {
        match fs::read(there) {
            Ok(found) if found == content => Ok(()),
            Ok(_) => Err("the other site still holds the old content".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    Ok(written.elapsed())
}

async fn read_at(world: &World, path: &RelPath, at: &At) -> Result<Vec<u8>, CliError> {
    let mut content = world.client.content(DEMO, path, Some(at), None).await?;
    let mut bytes = Vec::new();
    while let Some(part) = content.next().await? {
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// What is compared of an item: kind and permission bits, modification time of files, content or target.
#[derive(PartialEq, Eq)]
struct Item {
    mode: u32,
    mtime: Option<(i64, i64)>,
    content: Vec<u8>,
}

/// How much of items is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// All but the bytes of files, of which only how many there are.
    Names,
    /// All.
    Bytes,
}

fn tree(root: &Path, what: What) -> std::io::Result<BTreeMap<PathBuf, Item>> {
    let mut items = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let metadata = path.symlink_metadata()?;
            let mut content = Vec::new();
            if metadata.is_dir() {
                folders.push(path.clone());
            } else if metadata.is_symlink() {
                content = fs::read_link(&path)?.as_os_str().as_bytes().to_vec();
            } else if what == What::Bytes {
                fs::File::open(&path)?.read_to_end(&mut content)?;
            } else {
                content = metadata.len().to_be_bytes().to_vec();
            }
            let mtime = metadata.is_file().then(|| (metadata.mtime(), metadata.mtime_nsec()));
            let relative = path.strip_prefix(root).unwrap_or(&path).to_owned();
            items.insert(relative, Item { mode: metadata.mode(), mtime, content });
        }
    }
    Ok(items)
}

fn difference(wanted: &BTreeMap<PathBuf, Item>, found: &BTreeMap<PathBuf, Item>) -> String {
    let missing = wanted.keys().filter(|path| !found.contains_key(*path)).count();
    let other = wanted.iter().find(|(path, item)| found.get(*path).is_some_and(|there| there != *item));
    match other {
        Some((path, _)) if missing == 0 => format!("\"{}\" is not equal", path.display()),
        _ => format!("{missing} of {} items are missing", wanted.len()),
    }
}

/// A few hundred files of several sizes, a larger one, an empty folder, a symlink, names that are not plain. Returns
/// its bytes.
fn make_sample(root: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    fs::create_dir(root)?;
    for folder in 0..FOLDERS {
        let folder_path = root.join(format!("folder-{folder}"));
        fs::create_dir(&folder_path)?;
        for file in 0..FILES_A_FOLDER {
            let content = noise((folder * FILES_A_FOLDER + file) as u64, 100 + file * file * 40);
            bytes += content.len() as u64;
            fs::write(folder_path.join(format!("file-{file}.dat")), content)?;
        }
    }
    fs::create_dir(root.join("empty folder"))?;
    fs::write(root.join("Grüße – 日本語.txt"), "names are bytes\n")?;
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not utf-8 \xff\xfe")), "names are bytes\n")?;
    fs::write(root.join("empty file"), "")?;
    std::os::unix::fs::symlink("folder-0/file-0.dat", root.join("symlink"))?;
    fs::write(root.join("large.dat"), noise(u64::MAX, LARGE_BYTES))?;
    Ok(bytes + 32 + LARGE_BYTES as u64)
}

/// Bytes that do not compress and are the same for the same seed (xorshift64).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

fn unix_nanos() -> u128 {
    // A clock before 1970 makes a poor name, and nothing else.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

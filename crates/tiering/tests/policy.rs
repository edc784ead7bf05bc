//! The worked examples of free space, date and quota, and properties of every plan.

use polder_tiering::{
    Endpoint, File, Heat, Policy, RuleAction, Rules, Stays, Volume, listed, plan, recall_order,
};
use polder_types::NodeUid;
use proptest::prelude::*;

const GIB: u64 = 1 << 30;
const DAY: i64 = 86_400;
const NOW: i64 = 1_700_000_000;

fn endpoint(free_percent: u8, days: Option<u64>) -> Endpoint {
    Endpoint {
        tiering: true,
        free_percent,
        idle_s: days.map(|days| days * 86_400),
        quota_bytes: None,
        other_bytes: 0,
        file_bytes_min: 0,
        rules: Rules::default(),
        is_uploaded: true,
    }
}

fn file(number: u8, size: u64, age_days: i64) -> File {
    let at = NOW - age_days * DAY;
    File {
        endpoint: 0,
        node: NodeUid([number; 16]),
        size,
        on_disk_bytes: size,
        heat: Heat::of_times(at, at, NOW),
        rule: None,
        stays: None,
    }
}

/// A volume of 500 GiB that holds nothing else.
struct World(Vec<File>);

impl World {
    fn volume(&self) -> Volume {
        let used: u64 = self.0.iter().map(|file| file.on_disk_bytes).sum();
        Volume { bytes: 500 * GIB, free_bytes: 500 * GIB - used, cluster_bytes: 4096 }
    }

    fn tier(&mut self, endpoint: &Endpoint) -> Vec<(usize, Policy)> {
        let plan = plan(&self.volume(), std::slice::from_ref(endpoint), &self.0, NOW);
        for victim in &plan.victims {
            let file = &mut self.0[victim.file];
            (file.on_disk_bytes, file.stays) = (0, Some(Stays::Tiered));
        }
        plan.victims.iter().map(|victim| (victim.file + 1, victim.policy)).collect()
    }

    fn recalled(&mut self, number: usize) {
        let file = &mut self.0[number - 1];
        (file.on_disk_bytes, file.stays) = (file.size, None);
    }
}

/// The reference's example: five files, free space 20 % → 70 % with 60 days → 20 % again.
#[test]
fn the_worked_example() {
    let ages = [(10, 2), (30, 10), (200, 365), (120, 367), (140, 731)];
    let files = ages.iter().enumerate().map(|(index, (gib, days))| file(index as u8 + 1, gib * GIB, *days));
    let mut world = World(files.collect());
    assert_eq!(world.tier(&endpoint(20, None)), [(5, Policy::FreeSpace)]);
    world.recalled(5);
    world.0[4].heat = world.0[4].heat.used(NOW);
    assert_eq!(world.tier(&endpoint(20, None)), [(4, Policy::FreeSpace)], "reading 5 pushes 4 out");
    let strict = endpoint(70, Some(60));
    assert_eq!(world.tier(&strict), [(3, Policy::Date), (2, Policy::FreeSpace)], "2 leaves although young");
    let on_disk: u64 = world.0.iter().map(|file| file.on_disk_bytes).sum();
    assert_eq!(on_disk, 150 * GIB);
    let relaxed = endpoint(20, Some(60));
    assert_eq!(world.tier(&relaxed), [], "relaxing recalls nothing by itself");
    let back = recall_order(&world.volume(), &[relaxed], &world.0, NOW);
    assert_eq!(back, [1], "3 and 4 stay tiered because of the date");
    world.recalled(2);
    let local: Vec<usize> = (1..=5).filter(|number| world.0[number - 1].on_disk_bytes > 0).collect();
    assert_eq!(local, [1, 2, 5]);
}

/// At 19 % with a policy of 20 %, small files are tiered up to 25 %.
#[test]
fn five_points_of_reserve() {
    let mut world = World((0..81).map(|number| file(number, 5 * GIB, 100 + i64::from(number))).collect());
    assert_eq!(world.volume().free_bytes, 95 * GIB);
    assert_eq!(world.tier(&endpoint(20, None)).len(), 6);
    assert_eq!(world.volume().free_bytes, 125 * GIB);
    assert_eq!(world.tier(&endpoint(20, None)).len(), 0, "and then there is peace");
}

#[test]
fn why_files_stay() {
    let rules = endpoint(99, Some(1));
    let large = Endpoint { file_bytes_min: GIB + 1, ..rules.clone() };
    let off = Endpoint { tiering: false, ..endpoint(20, None) };
    let case = |change: &dyn Fn(&mut File)| {
        let mut file = file(1, GIB, 100);
        change(&mut file);
        let volume = Volume { bytes: 500 * GIB, free_bytes: 1, cluster_bytes: 65_536 };
        listed(&volume, &[rules.clone(), off.clone(), large.clone()], &[file], NOW)[0].verdict
    };
    assert_eq!(case(&|_| ()), Ok(Policy::Date));
    assert_eq!(case(&|file| file.size = 131_071), Err(Stays::TooSmall));
    assert!(case(&|file| (file.size, file.on_disk_bytes) = (131_072, 131_072)).is_ok());
    assert_eq!(case(&|file| file.on_disk_bytes = 4096), Err(Stays::Sparse));
    assert_eq!(case(&|file| file.rule = Some(RuleAction::Keep)), Err(Stays::Rule));
    assert_eq!(case(&|file| file.endpoint = 2), Err(Stays::TooSmall), "the endpoint wants larger ones");
    let placeholder = |on_disk_bytes| {
        move |file: &mut File| (file.stays, file.on_disk_bytes) = (Some(Stays::Tiered), on_disk_bytes)
    };
    assert_eq!(case(&placeholder(65_536)), Err(Stays::Tiered));
    assert_eq!(case(&placeholder(1 << 20)), Ok(Policy::Date), "what was read of it is given back");
    assert_eq!(case(&|file| file.endpoint = 1), Err(Stays::TieringOff));
    assert_eq!(case(&|file| file.stays = Some(Stays::Pinned)), Err(Stays::Pinned));
}

#[test]
fn a_quota_is_per_endpoint_and_the_volume_is_shared() {
    let mut with_quota = endpoint(1, None);
    with_quota.quota_bytes = Some(3 * GIB);
    let endpoints = [with_quota, endpoint(50, None)];
    let mut files: Vec<File> = (0..6).map(|number| file(number, GIB, 10 + i64::from(number))).collect();
    files[4].endpoint = 1;
    files[5].endpoint = 1;
    let volume = Volume { bytes: 10 * GIB, free_bytes: 4 * GIB, cluster_bytes: 4096 };
    // The quota takes 4 − 3 = 1 GiB of endpoint 0; that makes 5 GiB free, which is the largest policy of both.
    let plan_now = plan(&volume, &endpoints, &files, NOW);
    assert_eq!(plan_now.victims.iter().map(|v| (v.file, v.policy)).collect::<Vec<_>>(), [(3, Policy::Quota)]);
    let mut unlisted = endpoints.clone();
    unlisted[0].other_bytes = GIB;
    let plan_now = plan(&volume, &unlisted, &files, NOW);
    assert_eq!(plan_now.victims.len(), 2, "what is not listed counts to the quota");
    let volume = Volume { free_bytes: 3 * GIB, ..volume };
    let plan_now = plan(&volume, &endpoints, &files, NOW);
    assert_eq!(
        plan_now.victims.iter().map(|v| (v.file, v.policy)).collect::<Vec<_>>(),
        [(3, Policy::Quota), (5, Policy::FreeSpace)]
    );
}

#[test]
fn free_space_waits_for_the_initial_upload_but_not_in_need() {
    let uploading = Endpoint { is_uploaded: false, ..endpoint(20, Some(50)) };
    let files = [file(1, GIB, 10), file(2, GIB, 100)];
    let run = |free| {
        let volume = Volume { bytes: 100 * GIB, free_bytes: free * GIB, cluster_bytes: 4096 };
        plan(&volume, std::slice::from_ref(&uploading), &files, NOW).victims.len()
    };
    assert_eq!(run(15), 1, "only by date");
    assert_eq!(run(9), 2, "low disk mode");
}

proptest! {
    #[test]
    fn plans_are_sound(
        sizes in prop::collection::vec((0u64..20, 0i64..400, 0u8..4), 0..40),
        percent in 1u8..=99, free in 0u64..100, days in prop::option::of(0u64..300),
    ) {
        let endpoints = [endpoint(percent, days)];
        let files: Vec<File> = sizes.iter().enumerate().map(|(index, (gib, age, kind))| {
            let mut file = file(index as u8, gib * GIB, *age);
            file.stays = (*kind == 0).then_some(Stays::NotSynced);
            file
        }).collect();
        let volume = Volume { bytes: 400 * GIB, free_bytes: free * GIB, cluster_bytes: 4096 };
        let plan = plan(&volume, &endpoints, &files, NOW);
        let counted: u64 = plan.stays.values().map(|(count, _)| count).sum();
        prop_assert_eq!(counted as usize + plan.victims.len(), files.len(), "each file is told of once");
        prop_assert!(plan.victims.iter().all(|victim| files[victim.file].stays.is_none()));
        // Free space takes no file while a colder one that may leave stays.
        for victim in plan.victims.iter().filter(|victim| victim.policy == Policy::FreeSpace) {
            let colder = files.iter().enumerate().filter(|(index, file)| {
                file.heat < files[victim.file].heat && file.stays.is_none() && file.size > 0
                    && !plan.victims.iter().any(|other| other.file == *index)
            });
            prop_assert_eq!(colder.count(), 0);
        }
        // What is missing is missing only because everything that may leave has left.
        if plan.missing_bytes > 0 {
            prop_assert!(!plan.stays.contains_key(&Stays::NotNeeded));
        }
        let all = listed(&volume, &endpoints, &files, NOW);
        prop_assert_eq!(all.len(), files.len());
    }
}

//! Everything survives the wire, and nothing that breaks a bound does.

use bytes::Bytes;
use polder_types::{
    Author, BatchAnswer, BatchNo, EndpointId, Group, GroupAnswer, InstanceId, NodeState, Op, Refusal,
};

use super::*;

fn name(text: &[u8]) -> Name {
    Name::parse(text).expect("valid in this test")
}

fn at(text: &[u8]) -> Placed {
    Placed { parent: NodeUid([9; 16]), name: name(text) }
}

fn attrs(mode: u16) -> Attrs {
    Attrs { mode, uid: 1000, ..Attrs::default() }
}

fn batch() -> OfferedBatch {
    let uid = NodeUid([1; 16]);
    let mtime = Timestamp::new(-5, 7);
    let content = Content::Symlink(b"../x".as_slice().into());
    let create =
        Op::Create { uid, at: at(b"a\xff\n"), mtime, attrs: attrs(0o644), content: Content::empty_file() };
    let revive = Op::Revive { uid, at: at(b"b"), mtime, attrs: attrs(0o644), content: content.clone() };
    let update = Op::Update {
        uid,
        base: Seq(8),
        mtime: Some(mtime),
        attrs: Some(attrs(0o600)),
        content: Some(content),
    };
    let little = Op::Update { uid, base: Seq(8), mtime: None, attrs: None, content: None };
    let moved = Op::Move { uid, base: Seq(1 << 62), to: at(b"c") };
    let delete = Op::Delete { uid: NodeUid::ROOT, base: Seq(3) };
    OfferedBatch {
        endpoint: EndpointId([2; 16]),
        opening: [3; 16],
        author: Author { by: InstanceId([4; 16]), batch: BatchNo(77) },
        known: Cursor { epoch: Epoch(1), seq: Seq(5), tag: Tag(u64::MAX) },
        groups: vec![
            Group { ops: vec![create, revive] },
            Group { ops: vec![update, little, moved] },
            Group { ops: vec![delete] },
        ],
    }
}

#[test]
fn a_batch_survives_the_wire_and_sends_equal_attributes_once() {
    let message = encode_commit(&batch());
    assert_eq!(message.attrs.len(), 2);
    assert_eq!(decode_commit(&message), Ok(batch()));
}

#[test]
fn bad_batches_are_refused() {
    type Spoil = fn(&mut pb::CommitRequest);
    fn create(message: &mut pb::CommitRequest) -> &mut pb::NewNode {
        match &mut message.groups[0].ops[0].op {
            Some(pb::op::Op::Create(node)) => node,
            other => panic!("{other:?}"),
        }
    }
    let cases: [(&str, Spoil); 12] = [
        ("path as a name", |message| create(message).name = Bytes::from_static(b"../x")),
        ("dots", |message| create(message).name = Bytes::from_static(b"..")),
        ("long name", |message| create(message).name = vec![b'x'; 300].into()),
        ("nanoseconds", |message| create(message).mtime_ns = 1_000_000_000),
        ("attributes that are not there", |message| create(message).attrs_index = 2),
        ("content", |message| create(message).content = Bytes::from_static(b"\x01\x09")),
        ("short id", |message| message.groups[0].ops[0].uid = Bytes::from_static(&[1; 15])),
        ("no parent", |message| create(message).parent = Bytes::new()),
        ("empty group", |message| message.groups.push(pb::OpGroup::default())),
        ("no instance", |message| message.instance = Bytes::from_static(&[0; 16])),
        ("no opening", |message| message.opening = None),
        ("too many operations", |message| {
            let op = message.groups[2].ops[0].clone();
            message.groups[2].ops = vec![op; limits::BATCH_OPS_MAX + 1];
        }),
    ];
    for (what, spoil) in cases {
        let mut message = encode_commit(&batch());
        spoil(&mut message);
        assert!(decode_commit(&message).is_err(), "{what}");
    }
}

#[test]
fn every_answer_survives_the_wire() {
    let whys = [
        Refusal::BaseChanged { current: None },
        Refusal::BaseChanged { current: Some(Seq(0)) },
        Refusal::NameTaken { by: NodeUid([5; 16]) },
        Refusal::ParentGone { parent: NodeUid::ROOT },
        Refusal::Cycle,
        Refusal::NotEmpty,
        Refusal::Exists,
        Refusal::Quota { quota_bytes: 0 },
        Refusal::ChunksMissing(vec![ChunkId([1; 32]), ChunkId([2; 32])]),
        Refusal::Held,
        Refusal::Invalid("a rule".into()),
        Refusal::BadName(name(b".polder")),
    ];
    let mut groups = vec![GroupAnswer::Accepted { first: Seq(9) }];
    groups.extend(whys.into_iter().map(|why| GroupAnswer::Refused { op: 1, why }));
    let answer = BatchAnswer { cursor: batch().known, groups };
    let count = answer.groups.len();
    assert_eq!(decode_reply(encode_answer(&answer), count), Ok(CommitOutcome::Answer(answer.clone())));
    assert!(decode_reply(encode_answer(&answer), count + 1).is_err());
    let mut accepted = vec![None; count];
    accepted[0] = Some(Seq(9));
    assert_eq!(decode_kept(&encode_kept(BatchNo(7), &answer)), Ok((BatchNo(7), accepted)));
}

#[test]
fn what_is_kept_of_a_batch_is_bounded() {
    let too_many = pb::KeptAnswer { batch: 1, accepted: vec![1; limits::BATCH_OPS_MAX + 1] };
    assert!(decode_kept(&too_many).is_err());
    assert!(decode_kept(&pb::KeptAnswer { batch: 1, accepted: vec![u64::MAX] }).is_err());
}

fn node(seq: u64, mode: u16, text: &[u8]) -> NodeState {
    NodeState {
        uid: NodeUid([seq as u8; 16]),
        at: at(text),
        mtime: Timestamp::new(1, 2),
        attrs: attrs(mode),
        content: Content::empty_file(),
        since: Seq(seq),
        by: if seq == 1 { InstanceId::ZERO } else { InstanceId([6; 16]) },
    }
}

#[test]
fn a_feed_survives_the_wire_across_pages_and_a_reset() {
    let mut from = FeedEncoder::new();
    from.live(&node(1, 0o644, b"a"), &[]);
    from.gone(NodeUid([2; 16]), Seq(2));
    let first = from.take(None, false, Bytes::new());
    from.live(&node(3, 0o644, b"c"), &[]);
    from.live(&node(4, 0o600, b"d"), &[]);
    let cut = Cursor { epoch: Epoch(0), seq: Seq(4), tag: Tag(1) };
    let last = from.take(Some(cut), true, Bytes::new());
    let Some(pb::feed_page::Body::Rows(rows)) = &last.body else { panic!("no rows") };
    assert_eq!(rows.attrs.len(), 1, "the first page brought the other attributes");

    let mut to = FeedDecoder::new();
    let FeedPage::Rows { rows, upto: None, .. } = to.page(first).expect("own page") else {
        panic!("no rows")
    };
    let live = rows[0].live.as_ref().expect("live");
    assert_eq!((rows[0].uid, rows[0].since, &live.at), (NodeUid([1; 16]), Seq(1), &at(b"a")));
    assert_eq!((live.by, live.attrs.mode), (InstanceId::ZERO, 0o644));
    assert_eq!((rows[1].uid, rows[1].since, &rows[1].live), (NodeUid([2; 16]), Seq(2), &None));
    let FeedPage::Rows { rows, upto, more: true, .. } = to.page(last).expect("own page") else {
        panic!("no rows")
    };
    let modes: Vec<u16> = rows.iter().filter_map(|row| Some(row.live.as_ref()?.attrs.mode)).collect();
    assert_eq!((modes, upto), (vec![0o644, 0o600], Some(cut)));
}

#[test]
fn the_table_of_attributes_is_emptied_before_it_overflows() {
    let (mut from, mut to) = (FeedEncoder::new(), FeedDecoder::new());
    let mut resets = 0;
    for page in 0..20u32 {
        for row in 0..4096 {
            let mut state = node(1, 0o644, b"a");
            state.attrs.uid = page * 4096 + row;
            from.live(&state, &[]);
        }
        let sent = from.take(None, false, Bytes::new());
        let Some(pb::feed_page::Body::Rows(rows)) = &sent.body else { panic!("no rows") };
        resets += u32::from(rows.attrs_reset);
        let FeedPage::Rows { rows, .. } = to.page(sent).expect("within the bounds") else {
            panic!("no rows")
        };
        let last = rows[4095].live.as_ref().expect("live").attrs.uid;
        assert_eq!(last, page * 4096 + 4095);
    }
    assert_eq!(resets, 2);
}

#[test]
fn have_is_a_bit_a_chunk() {
    let have: Vec<bool> = (0..19).map(|at| at % 3 == 0).collect();
    assert_eq!(decode_have(&encode_have(&have), 19), Ok(have.clone()));
    assert!(decode_have(&encode_have(&have), 25).is_err());
    let ids = [ChunkId([1; 32]), ChunkId([2; 32])];
    assert_eq!(decode_chunk_ids(&encode_chunk_ids(&ids)), Ok(ids.to_vec()));
    assert!(decode_chunk_ids(&[0; 33]).is_err());
    assert!(decode_chunk_ids(&vec![0; 32 * (limits::CHUNKS_ASKED_MAX + 1)]).is_err());
}

#[test]
fn an_assignment_survives_the_wire() {
    let assignment = Assignment {
        endpoint: EndpointId([1; 16]),
        revision: 3,
        share: polder_types::ShareId([2; 16]),
        group: polder_types::GroupId([3; 16]),
        share_name: "demo".into(),
        group_name: "all".into(),
        path: b"/srv/\xff".to_vec(),
        case: polder_types::CaseRule::Insensitive,
        chunker: 1,
        share_keys: crate::grpc::Secret(vec![7; 100]),
        quota_bytes: Some(5),
        filters: Filters { default_skip_list: true, exclude_globs: vec!["*.iso".into()] },
        initial_upload: InitialUpload::Authoritative,
        initial_download: InitialDownload::NamespaceFirst,
        tiering: Tiering {
            enabled: true,
            free_space_percent: 20,
            older_than_s: Some(1),
            cache_quota_bytes: None,
            file_bytes_min: 65_536,
            new_files: NewFiles::Full,
            rules: vec![
                TierRule {
                    action: TierAction::Tier { after_s: 3600 },
                    glob: "media/**".into(),
                    size_bytes_min: 1 << 30,
                    size_bytes_max: None,
                    unused_s_min: 0,
                },
                TierRule {
                    action: TierAction::Keep,
                    glob: String::new(),
                    size_bytes_min: 0,
                    size_bytes_max: Some(7),
                    unused_s_min: 8,
                },
            ],
            programs: vec![ProgramRule {
                name: "clamd".into(),
                action: ProgramAction::Serve,
                bytes_per_hour: Some(9),
                counts: false,
            }],
        },
        paused: true,
        brake: Brake::default(),
        apply_privileged_attrs: true,
        stopped_why: Some("clone".into()),
    };
    let wire = pb::Assignment::from(assignment.clone());
    assert_eq!(Assignment::try_from(wire.clone()), Ok(assignment));
    let relative = pb::Assignment { path: Bytes::from_static(b"srv"), ..wire };
    assert!(Assignment::try_from(relative).is_err());
    let rule = |action: pb::TierAction| pb::TierRule { action: action.into(), ..Default::default() };
    let with = |rules| pb::Tiering { rules, ..Default::default() };
    assert!(Tiering::try_from(with(vec![rule(pb::TierAction::Unspecified)])).is_err());
    assert!(Tiering::try_from(with(vec![rule(pb::TierAction::Keep); limits::RULES_MAX + 1])).is_err());
}

//! Kept answers: the bytes by which a repeated batch gets its first answer (`docs/formats/share.md`).

use polder_types::{
    BatchAnswer, ChunkId, Cursor, DecodeError, Epoch, GroupAnswer, NAME_BYTES_MAX, Name, NodeUid, Reader,
    Refusal, Seq, Tag, Writer,
};

use crate::commit::BATCH_OPS_MAX;
use crate::{LedgerError, RowsError};

const FORMAT: u8 = 1;
/// Most chunks that one refusal names: 128 KiB of ids. The author sends these again and then hears of the next.
pub(crate) const MISSING_CHUNKS_MAX: usize = 4096;
/// Longest text of a rule that was broken.
const RULE_BYTES_MAX: usize = 1024;

/// The bytes of an answer. A run of accepted groups of equal size takes one item, so that a batch of a thousand single
/// operations is kept in some thirty bytes.
pub(crate) fn encode(answer: &BatchAnswer) -> Vec<u8> {
    let mut out = Writer::new();
    out.byte(FORMAT).number(answer.cursor.epoch.0).number(answer.cursor.seq.0).number(answer.cursor.tag.0);
    out.number(answer.groups.len() as u64);
    let mut last = 0;
    let mut at = 0;
    while let Some(group) = answer.groups.get(at) {
        match group {
            GroupAnswer::Accepted { first } => {
                let step = first.0 - last;
                let run = answer.groups[at..].iter().zip(1u64..).take_while(|(group, nth)| {
                    matches!(group, GroupAnswer::Accepted { first } if first.0 == last + nth * step)
                });
                let count = run.count();
                out.byte(0).number(step).number(count as u64);
                last += step * count as u64;
                at += count;
            }
            GroupAnswer::Refused { op, why } => {
                out.byte(1).number((*op).into());
                encode_refusal(&mut out, why);
                at += 1;
            }
        }
    }
    out.finish()
}

/// Reads [`encode`].
pub(crate) fn decode(bytes: &[u8]) -> Result<BatchAnswer, LedgerError> {
    decode_checked(bytes).map_err(|error| RowsError::corrupt(format!("a kept answer {error}")).into())
}

fn decode_checked(bytes: &[u8]) -> Result<BatchAnswer, DecodeError> {
    let mut from = Reader::new(bytes);
    match from.byte()? {
        FORMAT => (),
        other => return Err(DecodeError::Version(other)),
    }
    let cursor = Cursor { epoch: Epoch(from.number()?), seq: Seq(from.number()?), tag: Tag(from.number()?) };
    let count_all = from.number()?;
    if count_all > BATCH_OPS_MAX as u64 {
        return Err(DecodeError::Bad("number of groups"));
    }
    let mut groups = Vec::new();
    let mut last = 0u64;
    while (groups.len() as u64) < count_all {
        match from.byte()? {
            0 => {
                let step = from.number()?;
                let count = from.number()?;
                if step == 0 || count == 0 || count > count_all - groups.len() as u64 {
                    return Err(DecodeError::Bad("run of groups"));
                }
                for _ in 0..count {
                    last = last.checked_add(step).ok_or(DecodeError::Bad("sequence"))?;
                    groups.push(GroupAnswer::Accepted { first: Seq(last) });
                }
            }
            1 => {
                let op = u32::try_from(from.number()?).map_err(|_| DecodeError::Bad("operation"))?;
                groups.push(GroupAnswer::Refused { op, why: decode_refusal(&mut from)? });
            }
            _ => return Err(DecodeError::Bad("answer")),
        }
    }
    from.end()?;
    Ok(BatchAnswer { cursor, groups })
}

fn encode_refusal(out: &mut Writer, why: &Refusal) {
    match why {
        Refusal::BaseChanged { current: None } => out.byte(0),
        Refusal::BaseChanged { current: Some(seq) } => out.byte(1).number(seq.0),
        Refusal::NameTaken { by } => out.byte(2).raw(&by.0),
        Refusal::ParentGone { parent } => out.byte(3).raw(&parent.0),
        Refusal::Cycle => out.byte(4),
        Refusal::NotEmpty => out.byte(5),
        Refusal::Exists => out.byte(6),
        Refusal::Quota { quota_bytes } => out.byte(7).number(*quota_bytes),
        Refusal::ChunksMissing(ids) => {
            out.byte(8).number(ids.len() as u64);
            ids.iter().for_each(|id| {
                out.raw(&id.0);
            });
            out
        }
        Refusal::Held => out.byte(9),
        Refusal::Invalid(rule) => {
            let end = rule.floor_char_boundary(RULE_BYTES_MAX);
            out.byte(10).bytes(&rule.as_bytes()[..end])
        }
        Refusal::BadName(name) => out.byte(11).bytes(name.as_bytes()),
    };
}

fn decode_refusal(from: &mut Reader<'_>) -> Result<Refusal, DecodeError> {
    Ok(match from.byte()? {
        0 => Refusal::BaseChanged { current: None },
        1 => Refusal::BaseChanged { current: Some(Seq(from.number()?)) },
        2 => Refusal::NameTaken { by: uid(from)? },
        3 => Refusal::ParentGone { parent: uid(from)? },
        4 => Refusal::Cycle,
        5 => Refusal::NotEmpty,
        6 => Refusal::Exists,
        7 => Refusal::Quota { quota_bytes: from.number()? },
        8 => {
            let count = from.number()?;
            if count > MISSING_CHUNKS_MAX as u64 {
                return Err(DecodeError::Bad("number of chunks"));
            }
            let id =
                |_| Ok(ChunkId::from_slice(from.raw(ChunkId::LEN)?).expect("as many bytes as asked for"));
            Refusal::ChunksMissing((0..count).map(id).collect::<Result<_, DecodeError>>()?)
        }
        9 => Refusal::Held,
        10 => {
            let rule =
                std::str::from_utf8(from.bytes(RULE_BYTES_MAX)?).map_err(|_| DecodeError::Bad("rule"))?;
            Refusal::Invalid(rule.into())
        }
        11 => {
            Refusal::BadName(Name::parse(from.bytes(NAME_BYTES_MAX)?).map_err(|_| DecodeError::Bad("name"))?)
        }
        _ => return Err(DecodeError::Bad("refusal")),
    })
}

fn uid(from: &mut Reader<'_>) -> Result<NodeUid, DecodeError> {
    Ok(NodeUid::from_slice(from.raw(NodeUid::LEN)?).expect("as many bytes as asked for"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal() -> impl Strategy<Value = Refusal> {
        prop_oneof![
            prop::option::of(any::<u64>()).prop_map(|seq| Refusal::BaseChanged { current: seq.map(Seq) }),
            any::<[u8; 16]>().prop_map(|by| Refusal::NameTaken { by: NodeUid(by) }),
            any::<[u8; 16]>().prop_map(|parent| Refusal::ParentGone { parent: NodeUid(parent) }),
            Just(Refusal::Cycle),
            Just(Refusal::NotEmpty),
            Just(Refusal::Exists),
            any::<u64>().prop_map(|quota_bytes| Refusal::Quota { quota_bytes }),
            prop::collection::vec(any::<[u8; 32]>().prop_map(ChunkId), 1..4).prop_map(Refusal::ChunksMissing),
            Just(Refusal::Held),
            ".{0,40}".prop_map(Refusal::Invalid),
            Just(Refusal::BadName(Name::parse(b".polder").expect("a name"))),
        ]
    }

    proptest! {
        #[test]
        fn answers_survive_their_bytes(
            groups in prop::collection::vec(prop::option::weighted(0.3, (any::<u32>(), refusal())), 0..30),
            sizes in prop::collection::vec(1u64..3, 30), start in 0u64..1 << 40,
        ) {
            let mut next = start + 1;
            let groups = groups.into_iter().zip(sizes).map(|(refused, size)| match refused {
                Some((op, why)) => GroupAnswer::Refused { op, why },
                None => {
                    next += size;
                    GroupAnswer::Accepted { first: Seq(next - size) }
                }
            });
            let groups = groups.collect();
            let answer = BatchAnswer { cursor: Cursor { epoch: Epoch(3), seq: Seq(next), tag: Tag(u64::MAX) }, groups };
            prop_assert_eq!(decode(&encode(&answer)).expect("own bytes"), answer);
        }

        #[test]
        fn damaged_answers_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&[&[FORMAT][..], &bytes].concat());
        }
    }

    #[test]
    fn a_thousand_single_operations_are_a_few_bytes() {
        let groups = (1..=1000).map(|nth| GroupAnswer::Accepted { first: Seq(70_000 + nth) }).collect();
        let answer = BatchAnswer { cursor: Cursor::default(), groups };
        assert!(encode(&answer).len() < 40);
    }
}

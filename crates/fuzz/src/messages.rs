//! Messages between agents and the service: decoded by prost, then by the conversions that check them.

use polder_api::grpc::convert::{self, Assignment, FeedDecoder, FeedEncoder, OfferedBatch};
use polder_api::grpc::pb;
use polder_types::{
    Attrs, Author, BatchNo, ChunkId, Content, Cursor, EndpointId, Group, InstanceId, NodeState, NodeUid, Op,
    Placed, Seq, Timestamp,
};
use prost::Message;

/// The first byte says which message it is taken for.
pub(crate) fn messages(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 8 {
        0 => drop(pb::CommitRequest::decode(bytes).map(|from| {
            if let Ok(batch) = convert::decode_commit(&from) {
                let again = convert::decode_commit(&convert::encode_commit(&batch));
                assert_eq!(again.as_ref(), Ok(&batch));
            }
        })),
        1 => drop(pb::CommitReply::decode(bytes).map(|from| convert::decode_reply(from, 3).is_ok())),
        2 => drop(pb::FeedPage::decode(bytes).map(|from| {
            let mut decoder = FeedDecoder::new();
            let _ = decoder.page(from.clone());
            // A second page of the same stream refers to the first one's packs.
            let _ = decoder.page(from);
        })),
        3 => drop(pb::LocateReply::decode(bytes).map(|from| {
            let ids = [ChunkId([1; 32]), ChunkId([2; 32])];
            convert::decode_located(from, &ids).is_ok()
        })),
        4 => drop(
            pb::HaveReply::decode(bytes)
                .map(|from| convert::decode_have(&from, 9).map(|have| assert_eq!(have.len(), 9)).is_ok()),
        ),
        5 => drop(pb::Assignment::decode(bytes).map(|from| Assignment::try_from(from).is_ok())),
        6 => drop(pb::EndpointStatus::decode(bytes).map(|from| convert::ensure_status(&from).is_ok())),
        _ => drop(convert::decode_chunk_ids(bytes)),
    }
}

fn seed(kind: u8, message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(message.encode_to_vec());
    bytes
}

/// A batch that is valid.
fn batch() -> OfferedBatch {
    let at = Placed { parent: NodeUid::ROOT, name: "name".parse().expect("a name") };
    let (uid, base) = (NodeUid([9; 16]), Seq(3));
    let create = Op::Create {
        uid: NodeUid([8; 16]),
        at: at.clone(),
        mtime: Timestamp { secs: 1_600_000_000, nanos: 5 },
        attrs: Attrs::default(),
        content: Content::empty_file(),
    };
    let ops = vec![create, Op::Move { uid, base, to: at }, Op::Delete { uid, base }];
    OfferedBatch {
        endpoint: EndpointId([1; 16]),
        opening: [2; 16],
        author: Author { by: InstanceId([3; 16]), batch: BatchNo(4) },
        known: Cursor::default(),
        groups: vec![Group { ops }],
    }
}

/// A page with a deleted node and a live one.
fn page() -> pb::FeedPage {
    let mut encoder = FeedEncoder::new();
    encoder.gone(NodeUid([3; 16]), Seq(4));
    let state = NodeState {
        uid: NodeUid([4; 16]),
        at: Placed { parent: NodeUid::ROOT, name: "name".parse().expect("a name") },
        mtime: Timestamp { secs: 1_600_000_000, nanos: 5 },
        attrs: Attrs::default(),
        content: Content::empty_file(),
        since: Seq(5),
        by: InstanceId([1; 16]),
    };
    encoder.live(&state, &[]);
    encoder.take(Some(Cursor::default()), false, vec![1, 2].into())
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let cursor = Some(pb::Cursor { epoch: 1, seq: 5, tag: 9 });
    vec![
        seed(0, &pb::CommitRequest { known: cursor, ..Default::default() }),
        seed(0, &convert::encode_commit(&batch())),
        seed(1, &pb::CommitReply::default()),
        seed(2, &page()),
        seed(3, &pb::LocateReply::default()),
        seed(4, &pb::HaveReply { bitmap: vec![255, 1].into() }),
        seed(5, &pb::Assignment::default()),
        seed(6, &pb::EndpointStatus { endpoint_id: vec![1; 16].into(), ..Default::default() }),
        [vec![7], vec![3; 64]].concat(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds that no decoder accepts would show nothing.
    #[test]
    fn seeds_are_read() {
        let bytes = convert::encode_commit(&batch()).encode_to_vec();
        let sent = pb::CommitRequest::decode(&bytes[..]).expect("a message");
        assert_eq!(convert::decode_commit(&sent), Ok(batch()));
        assert!(FeedDecoder::new().page(page()).is_ok());
    }
}

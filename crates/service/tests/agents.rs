//! The way of a file through the service, over TLS: register, open, put, commit, feed, get; and who is refused.

mod common;

use common::{Agent, WAIT, World, create, csr, file, pack, random, until};
use polder_api::grpc::convert::{self, CommitOutcome};
use polder_api::grpc::pb::{self, open_endpoint_reply::Result as OpenResult, to_agent::Message};
use polder_api::grpc::{PROTOCOL_VERSION, Reason};
use polder_chunk::{ChunkLocation, ChunkSlot, PackRef, Scratch, ShareKeys};
use polder_types::{BatchNo, Content, Cursor, GroupAnswer, InstanceId, PackId, Reader, Refusal, ShareId};
use tonic::Code;

fn accepted(outcome: &CommitOutcome) -> bool {
    matches!(outcome, CommitOutcome::Answer(answer) if matches!(answer.groups[0], GroupAnswer::Accepted { .. }))
}

/// Two agents on one share, open.
async fn two(world: &World) -> (Agent, Agent, std::sync::Arc<ShareKeys>) {
    let (share, group) = world.share("demo");
    let keys = world.keys(&share);
    let mut agents = Vec::new();
    for name in ["site-a", "site-b"] {
        let server = world.register(name).await;
        let endpoint = world.endpoint(group.id, server.id, "/srv/data");
        let mut agent = Agent::new(world.client(&server).await, endpoint);
        agent.opened().await;
        agents.push(agent);
    }
    let b = agents.pop().expect("two");
    (agents.pop().expect("two"), b, keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_from_a_to_b() {
    let world = World::start().await;
    let (mut a, mut b, keys) = two(&world).await;
    let mut session = b.session(PROTOCOL_VERSION).await.expect("a session");
    let share = session.next(|message| match message {
        Message::Assignments(mut list) => Some(list.endpoints.pop().expect("one endpoint")),
        _ => None,
    });
    let assignment = convert::Assignment::try_from(share.await).expect("sound");
    assert_eq!((assignment.endpoint, assignment.path.as_slice()), (b.endpoint, &b"/srv/data"[..]));
    let given = ShareKeys::from_secret_bytes(&assignment.share_keys.0).expect("keys");
    assert_eq!(given, *keys);

    let bytes = b"the polder lies below the sea".repeat(9);
    let ids = a.put(&world, &keys, &[&bytes, b"another"]).await;
    let (uid, op) = create("file.txt", file(ids[0], bytes.len()));
    let outcome = a.commit(vec![op]).await.expect("decided");
    assert!(accepted(&outcome), "{outcome:?}");

    let told = session.next(|message| match message {
        Message::Head(head) => convert::cursor(head.head.as_ref()).ok().filter(|head| *head == a.known),
        _ => None,
    });
    assert_eq!(told.await, a.known);
    let (rows, packs, upto) = b.changes(Cursor::default()).await.expect("the feed");
    assert_eq!(upto, a.known);
    let live = rows[0].live.as_ref().expect("live");
    assert_eq!((rows[0].uid, live.at.name.as_bytes(), live.by), (uid, &b"file.txt"[..], a.instance));

    // The hint of the row is all that is needed to read the bytes.
    let (id, place) = &live.places[0];
    let at = &packs[place.pack_index as usize];
    let reference = PackRef::decode(&mut Reader::new(&at.reference)).expect("a reference");
    let slot = ChunkSlot::decode(&mut Reader::new(&place.slot)).expect("a slot");
    let range = slot.range();
    let request = world.http().get(world.url(&at.url));
    let answer = request.header("range", format!("bytes={}-{}", range.start, range.end - 1)).send().await;
    let answer = answer.expect("answered");
    assert_eq!(answer.status(), 206);
    let sealed = answer.bytes().await.expect("bytes");
    let location = ChunkLocation { pack: reference, slot };
    let chunk = keys.open_chunk(*id, &location, &sealed, &mut Scratch::new()).expect("the chunk");
    assert_eq!(chunk.bytes(), bytes);

    let (rows, _, upto) = b.bootstrap().await.expect("the tree");
    assert_eq!((rows.len(), upto), (2, a.known), "the root and the file");
    assert_eq!(b.changes(upto).await.expect("the feed").0, []);
    world.service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_are_verified_and_only_then_offered() {
    let world = World::start().await;
    let (mut a, mut b, keys) = two(&world).await;
    let ids = a.put(&world, &keys, &[b"one", b"two"]).await;
    let mut asked = ids.clone();
    asked.push(keys.chunk_ids().id(b"never sent"));
    let have = until("verified", async || {
        let request = pb::HaveRequest { opening: b.opening(), chunk_ids: convert::encode_chunk_ids(&asked) };
        let reply = b.client.have(request).await.expect("answered").into_inner();
        let have = convert::decode_have(&reply, 3).expect("sound");
        have[0].then_some(have)
    });
    assert_eq!(have.await, [true, true, false]);
    let request = pb::LocateRequest { opening: b.opening(), chunk_ids: convert::encode_chunk_ids(&asked) };
    let located = b.client.locate(request).await.expect("answered").into_inner();
    let (packs, places) = convert::decode_located(located, &asked).expect("sound");
    assert!(packs.len() == 1 && packs[0].verified);
    assert!(places[0].is_some() && places[1].is_some() && places[2].is_none());

    // A pack that goes bad in the store before it was read back is flagged and not offered.
    world.service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_chunks_that_nobody_has_is_refused() {
    let world = World::start().await;
    let (mut a, _, keys) = two(&world).await;
    let id = keys.chunk_ids().id(b"never sent");
    let (_, op) = create("file.txt", file(id, 10));
    let outcome = a.commit(vec![op]).await.expect("decided");
    let CommitOutcome::Answer(answer) = outcome else { panic!("{outcome:?}") };
    let missing = Refusal::ChunksMissing(vec![id]);
    assert_eq!(answer.groups, [GroupAnswer::Refused { op: 0, why: missing }]);
    world.service.stop().await;
}

/// Scenarios 86 and 113: packs that are not what they say, addresses that were signed for something else or are over.
#[tokio::test(flavor = "multi_thread")]
async fn forged_packs_and_addresses_are_refused() {
    let world = World::start().await;
    let (mut a, _, keys) = two(&world).await;
    let foreign = ShareKeys::new(ShareId(random()), random(), random());
    let (_, forged_id, forged) = pack(&foreign, &[b"not of this share"]);
    let (_, good_id, good) = pack(&keys, &[b"of this share"]);
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for (what, id, bytes) in [
        ("forged", forged_id, forged),
        ("damaged", good_id, damaged),
        ("noise", PackId(random()), vec![7; 500]),
    ] {
        let url = a.pack_url(id, bytes.len()).await.expect("an address");
        let answer = world.http().put(world.url(&url)).body(bytes).send().await.expect("sent");
        assert_eq!(answer.status(), 400, "{what}");
        assert_eq!(answer.headers()["polder-reason"], "bad_pack", "{what}");
    }
    let log = world.service.state().control().audit_page(None, 100).expect("the log");
    let refused = log.iter().filter(|entry| entry.action == "pack.refused" && entry.who == "server:site-a");
    assert_eq!(refused.count(), 3, "{log:?}");
    let url = a.pack_url(good_id, good.len()).await.expect("an address");
    let put = |url: String, bytes: Vec<u8>| world.http().put(url).body(bytes).send();
    // Another pack, another length, another method than was signed.
    let other = url.replace(&good_id.to_string(), &PackId(random()).to_string());
    assert_eq!(put(world.url(&other), good.clone()).await.expect("sent").status(), 403);
    assert_eq!(put(world.url(&url), good[1..].to_vec()).await.expect("sent").status(), 400);
    assert_eq!(world.http().get(world.url(&url)).send().await.expect("sent").status(), 403);
    let before = url.replace("expires=1", "expires=0");
    assert_eq!(put(world.url(&before), good.clone()).await.expect("sent").status(), 403);
    assert_eq!(put(world.url(&url), good.clone()).await.expect("sent").status(), 200);
    assert_eq!(put(world.url(&url), good).await.expect("sent").status(), 200, "a repeat is no error");
    world.service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_revoked_servers_are_refused_at_the_next_request() {
    let world = World::start().await;
    let (mut a, _, _) = two(&world).await;
    let refused = world.stranger().await.renew(pb::RenewRequest::default()).await.expect_err("refused");
    assert_eq!(Reason::of(&refused), Some(Reason::NoCertificate));
    let token = world.join_token();
    let ask = |join_token: &str, name: &str| pb::RegisterRequest {
        protocol: PROTOCOL_VERSION,
        join_token: join_token.into(),
        csr_pem: csr().0,
        server_name: name.into(),
        agent_version: String::new(),
    };
    let mut enrolment = world.enrolment().await;
    let refused = enrolment.register(ask("guessed", "site-c")).await.expect_err("refused");
    assert_eq!(Reason::of(&refused), Some(Reason::JoinToken));
    let refused = enrolment.register(ask(&token, "site-a")).await.expect_err("refused");
    assert_eq!(Reason::of(&refused), Some(Reason::NameTaken));
    let reply = enrolment.register(ask(&token, "site-c")).await.expect("registered").into_inner();
    let refused = enrolment.register(ask(&token, "site-d")).await.expect_err("used up");
    assert_eq!(Reason::of(&refused), Some(Reason::JoinToken));
    let days = (reply.expires_at - world.service.state().now().secs) / 86_400;
    assert!((29..=30).contains(&days), "{days}");

    let renew =
        pb::RenewRequest { protocol: PROTOCOL_VERSION, csr_pem: csr().0, agent_version: String::new() };
    a.client.renew(renew.clone()).await.expect("renewed");
    let mut session = a.session(PROTOCOL_VERSION).await.expect("a session");
    session.next(|message| matches!(message, Message::Welcome(_)).then_some(())).await;
    let state = world.service.state();
    let server = state.control().endpoint(a.endpoint).expect("rows").expect("an endpoint").server;
    let acting = polder_metadata::control::Acting { who: "token:test".into(), now: state.now() };
    let (_, bytes) = (0, b"after the end".to_vec());
    let keys_pack = PackId(random());
    let url = a.pack_url(keys_pack, bytes.len()).await.expect("an address");
    state.control().revoke_server(&acting, server).expect("revoked");
    state.agents().revoked(server);
    let refused = a.client.renew(renew).await.expect_err("refused");
    assert_eq!(Reason::of(&refused), Some(Reason::Revoked));
    assert_eq!(
        a.changes(Cursor::default()).await.map(drop).expect_err("refused").code(),
        Code::Unauthenticated
    );
    session.next(|message| matches!(message, Message::Revoked(_)).then_some(())).await;
    // Audited, and not once a request.
    let log = state.control().audit_page(None, 100).expect("the log");
    assert_eq!(log.iter().filter(|entry| entry.action == "access.revoked").count(), 1, "{log:?}");
    // An address that it was given before is no longer good either.
    let answer = world.http().put(world.url(&url)).body(bytes).send().await.expect("sent");
    assert_eq!(answer.status(), 403);
    world.service.stop().await;
}

/// Scenario 114: whether another share has some bytes cannot be found out. Ids are keyed by the share, and what lies in
/// another one is neither offered nor located, nor good in a commit.
#[tokio::test(flavor = "multi_thread")]
async fn s114_what_another_share_has_is_as_if_it_were_not_there() {
    let world = World::start().await;
    let (mut a, _, keys) = two(&world).await;
    let bytes = b"what the others have";
    let theirs = a.put(&world, &keys, &[bytes]).await[0];
    let (share, group) = world.share("other");
    let server = world.register("site-c").await;
    let endpoint = world.endpoint(group.id, server.id, "/srv/other");
    let mut curious = Agent::new(world.client(&server).await, endpoint);
    curious.opened().await;
    let ours = world.keys(&share).chunk_ids().id(bytes);
    assert_ne!(ours, theirs);
    for id in [theirs, ours] {
        let chunk_ids = convert::encode_chunk_ids(&[id]);
        let request = pb::HaveRequest { opening: curious.opening(), chunk_ids: chunk_ids.clone() };
        let reply = curious.client.have(request).await.expect("answered").into_inner();
        assert_eq!(convert::decode_have(&reply, 1).expect("sound"), [false]);
        let request = pb::LocateRequest { opening: curious.opening(), chunk_ids };
        let located = curious.client.locate(request).await.expect("answered").into_inner();
        assert!(convert::decode_located(located, &[id]).expect("sound").1[0].is_none());
        let (_, op) = create("guess", file(id, bytes.len()));
        let outcome = curious.commit(vec![op]).await.expect("decided");
        let CommitOutcome::Answer(answer) = outcome else { panic!("{outcome:?}") };
        assert_eq!(answer.groups, [GroupAnswer::Refused { op: 0, why: Refusal::ChunksMissing(vec![id]) }]);
    }
    // In their own share it is there.
    until("verified", async || {
        let chunk_ids = convert::encode_chunk_ids(&[theirs]);
        let request = pb::HaveRequest { opening: a.opening(), chunk_ids };
        let reply = a.client.have(request).await.expect("answered").into_inner();
        convert::decode_have(&reply, 1).expect("sound")[0].then_some(())
    })
    .await;
    world.service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_reaches_only_its_own_endpoints() {
    let world = World::start().await;
    let (mut a, b, _) = two(&world).await;
    let mut thief = Agent::new(a.client.clone(), b.endpoint);
    let refused = thief.open().await.expect_err("refused");
    assert_eq!(Reason::of(&refused), Some(Reason::NotYours));
    a.endpoint = b.endpoint;
    a.openings = b.openings.clone();
    let refused = a.changes(Cursor::default()).await.map(drop).expect_err("refused");
    assert_eq!(Reason::of(&refused), Some(Reason::NotYours));
    let log = world.service.state().control().audit_page(None, 100).expect("the log");
    assert!(log.iter().any(|entry| entry.action == "access.forbidden"));
    world.service.stop().await;
}

/// Scenario 106.
#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_version_is_refused_in_the_first_message() {
    let world = World::start().await;
    let (mut a, _, _) = two(&world).await;
    let refused = a.session(PROTOCOL_VERSION + 1).await.map(drop).expect_err("refused");
    assert_eq!(Reason::of(&refused), Some(Reason::ProtocolVersion));
    let renew = pb::RenewRequest { protocol: 0, csr_pem: csr().0, agent_version: String::new() };
    let refused = a.client.renew(renew).await.expect_err("refused");
    assert_eq!(Reason::of(&refused), Some(Reason::ProtocolVersion));
    world.service.stop().await;
}

/// Scenarios 93 to 95 (promise I7).
#[tokio::test(flavor = "multi_thread")]
async fn clones_and_old_states_are_noticed_before_anything_changes() {
    let world = World::start().await;
    let (mut a, mut b, keys) = two(&world).await;
    // A restart continues the chain.
    b.process = random();
    b.opened().await;

    // A copy of the state while the original lives: both are stopped.
    let mut session = a.session(PROTOCOL_VERSION).await.expect("a session");
    let mut copy = Agent::new(a.client.clone(), a.endpoint);
    (copy.instance, copy.openings) = (a.instance, a.openings.clone());
    a.opened().await;
    // Without a session its opening is that of a process that has ended.
    let late = copy.open().await.expect_err("nobody's");
    assert_eq!(Reason::of(&late), Some(Reason::NotOpen));
    let _copied = copy.session(PROTOCOL_VERSION).await.expect("a session");
    let result = copy.open().await.expect("answered");
    assert!(matches!(result, OpenResult::Clone(_)), "{result:?}");
    session.next(|message| matches!(message, Message::Stopped(_)).then_some(())).await;
    let refused = a.commit(vec![create("x", Content::empty_file()).1]).await.expect_err("stopped");
    assert_eq!(Reason::of(&refused), Some(Reason::Stopped));

    // A state that was set back knows an older opening, or uses a number again.
    let ids = b.put(&world, &keys, &[b"bytes"]).await;
    let before = (b.openings.clone(), b.next_batch, b.known);
    assert!(accepted(&b.commit(vec![create("y", file(ids[0], 5)).1]).await.expect("decided")));
    b.next_batch = before.1;
    let result = b.open().await.expect("answered");
    let OpenResult::Rebaseline(why) = result else { panic!("{result:?}") };
    assert_eq!(why.why(), pb::RebaselineWhy::AgentSetBack);
    // It begins a new instance, which may go on.
    (b.instance, b.openings, b.next_batch, b.known) =
        (InstanceId(random()), Vec::new(), 0, Cursor::default());
    b.process = random();
    b.opened().await;

    // A cursor of a history that is not this one.
    b.known = Cursor { tag: polder_types::Tag(1), seq: polder_types::Seq(2), ..Cursor::default() };
    let result = b.open().await.expect("answered");
    let OpenResult::Rebaseline(why) = result else { panic!("{result:?}") };
    assert_eq!(why.why(), pb::RebaselineWhy::ServiceSetBack);
    world.service.stop().await;
}

/// An agent whose answers were lost hears at its opening what became of its batches; what is not told was never taken, and
/// is refused from then on.
#[tokio::test(flavor = "multi_thread")]
async fn an_opening_tells_what_became_of_open_batches() {
    let world = World::start().await;
    let (mut a, _, keys) = two(&world).await;
    let ids = a.put(&world, &keys, &[b"bytes"]).await;
    let taken = a.next_batch;
    let Ok(CommitOutcome::Answer(answer)) = a.commit(vec![create("y", file(ids[0], 5)).1]).await else {
        panic!("not decided")
    };
    let refused = a.next_batch;
    assert!(!accepted(&a.commit(vec![create("y", file(ids[0], 5)).1]).await.expect("decided")));
    let never_sent = a.next_batch;
    a.next_batch += 1;
    a.open_batches = vec![taken, refused, never_sent];
    let Ok(OpenResult::Opened(opened)) = a.open().await else { panic!("not opened") };
    let kept: Vec<_> =
        opened.kept.iter().map(|kept| convert::decode_kept(kept).expect("a sound answer")).collect();
    let GroupAnswer::Accepted { first } = answer.groups[0] else { panic!("refused") };
    assert_eq!(kept, [(BatchNo(taken), vec![Some(first)]), (BatchNo(refused), vec![None])]);
    a.next_batch = never_sent;
    let late = a.commit(vec![create("z", file(ids[0], 5)).1]).await;
    assert_eq!(late.expect("decided"), CommitOutcome::Stale);
    world.service.stop().await;
}

/// Scenario 80.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_a_restart() {
    let world = World::start().await;
    let (mut a, _, keys) = two(&world).await;
    let ids = a.put(&world, &keys, &[b"bytes"]).await;
    assert!(accepted(&a.commit(vec![create("y", file(ids[0], 5)).1]).await.expect("decided")));
    let head = a.known;
    let share = keys.share();
    let World { service, folder } = world;
    service.stop().await;
    let world = World::start_in(folder).await;
    let opened = world.service.state().shares().open(share).expect("an open share");
    assert_eq!(opened.head(), head);
    assert_eq!(opened.keys(), keys);
    world.service.stop().await;
}

/// Scenario 85: whoever connects and then says nothing, or stops in the middle of a word, keeps nobody waiting and is
/// closed after a while.
#[tokio::test(flavor = "multi_thread")]
async fn s085_silent_peers_keep_nobody_waiting_and_are_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::start().await;
    let mut silent = Vec::new();
    for nth in 0..60 {
        let mut stream = tokio::net::TcpStream::connect(world.service.address()).await.expect("connected");
        if nth % 2 == 0 {
            stream.write_all(&[0x16, 3, 1]).await.expect("the beginning of a handshake");
        }
        silent.push(stream);
    }
    let (mut a, _, keys) = two(&world).await;
    let ids = a.put(&world, &keys, &[b"bytes"]).await;
    assert!(accepted(&a.commit(vec![create("y", file(ids[0], 5)).1]).await.expect("decided")));
    for mut stream in silent {
        let end = tokio::time::timeout(WAIT, stream.read(&mut [0; 1])).await.expect("closed in time");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    world.service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_serves_people_too() {
    let world = World::start().await;
    let get = async |path: &str| {
        let answer = world.http().get(world.url(path)).send().await.expect("answered");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    assert_eq!(get("/healthz").await, (200, "ok\n".into()));
    assert_eq!(get("/readyz").await.0, 200);
    assert!(get("/metrics").await.1.contains("polder_commits_total"));
    assert_eq!(get("/v1/shares").await.0, 401);
    assert_eq!(get("/nothing").await.0, 404);
    let token = std::fs::read_to_string(world.service.owner_token_file()).expect("the owner's token");
    let answer = world.http().get(world.url("/v1/whoami")).bearer_auth(token.trim()).send().await;
    assert_eq!(answer.expect("answered").status(), 200);
    for secret in ["ca.key", "server.key", "master.key", "owner.token"] {
        use std::os::unix::fs::PermissionsExt;
        let meta = std::fs::metadata(world.folder.path().join(secret)).expect(secret);
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{secret}");
    }
    // Somebody who connects and says nothing is let go, and disturbs nobody.
    let quiet = tokio::net::TcpStream::connect(world.service.address()).await.expect("connected");
    assert_eq!(get("/healthz").await.0, 200);
    let mut end = [0u8; 1];
    quiet.readable().await.expect("closed by the service");
    assert!(matches!(quiet.try_read(&mut end), Ok(0)));
    tokio::time::timeout(WAIT, world.service.stop()).await.expect("stopped in time");
}

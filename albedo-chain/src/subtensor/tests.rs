//! The client against a node that is driven by real metadata.

use std::pin::Pin;

use albedo_core::chain::{Content, DatedBy, EpochIndex, Uid, WeightEffect};
use albedo_core::conformance::{ChainFixture, check_chain};
use albedo_core::weights::{Share, WeightJournal, WeightKey};
use albedo_core::{Fault, Scheme};

use super::*;
use crate::journal::{Account, Epoch};
use crate::ledger::{Ledger, Seen};
use crate::testnode::{Pace, TestNeuron, TestNode, TestSubnet, metadata};
use crate::timelock::testing::BeaconSecret;
use crate::wallet::Keypair;

const NETUID: NetUid = NetUid(97);

/// Ciphertexts of `bittensor-drand` for a round of quicknet, and its signature.
const TIMELOCK: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/chain/timelock/quicknet-round1000.json");

/// Metadata of the node's own and of public runtimes, newest first: what is
/// written differs between them.
const RUNTIMES: [(&str, u32); 6] = [
    ("newest", 2),
    ("finney-424.v16.scale", 424),
    ("finney-393.v16.scale", 393),
    ("finney-365.v16.scale", 365),
    ("dev-293.v15.scale", 293),
    ("oldest", 1),
];

fn metadata_of(name: &str) -> Option<Vec<u8>> {
    match name {
        "newest" => return Some(metadata::newest()),
        "oldest" => return Some(metadata::oldest()),
        _ => {}
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/chain/metadata/");
    let found = std::fs::read(format!("{folder}{name}")).ok();
    if found.is_none() {
        println!("skipped: {name} is not beside the checkout");
    }
    found
}

fn key(seed: u8) -> Keypair {
    Keypair::from_seed(&[seed; 32], Scheme::Sr25519).expect("a key")
}

fn neuron(seed: u8, validator_permit: bool) -> TestNeuron {
    TestNeuron {
        hotkey: key(seed).public_key(),
        coldkey: key(100 + seed).public_key(),
        registered_at: 0,
        validator_permit,
        stake: u64::from(seed) * 1_000,
        last_update: 0,
    }
}

/// Two miners and, as uid 2, a validator with key 9.
fn subnet(commit_reveal: bool) -> TestSubnet {
    TestSubnet {
        tempo: 100,
        weights_rate_limit: 5,
        commit_reveal,
        burn: 500_000,
        neurons: vec![neuron(1, false), neuron(2, false), neuron(9, true)],
        epoch: (40, 0),
        ..TestSubnet::new(NETUID.0)
    }
}

fn config(nodes: &[&TestNode]) -> SubtensorConfig {
    SubtensorConfig {
        endpoints: nodes.iter().map(|node| node.endpoint()).collect(),
        genesis: BlockHash(nodes[0].genesis()).to_string(),
        call_timeout_ms: 5000,
        poll_ms: 2,
        ..SubtensorConfig::default()
    }
}

fn reader(node: &TestNode) -> Subtensor {
    Subtensor::new(&config(&[node])).expect("good settings")
}

fn writer(node: &TestNode) -> (Subtensor, ChainJournal) {
    let journal = ChainJournal::in_memory().expect("opens");
    let client = reader(node).with_journal(journal.clone(), node.beacon(), Duration::from_millis(2));
    (client.with_signer(Arc::new(key(9))), journal)
}

fn account(node: &TestNode) -> Account {
    Account { genesis: BlockHash(node.genesis()), signer: key(9).public_key() }
}

async fn vector(client: &Subtensor, epoch: EpochIndex, weights: [u16; 2]) -> WeightVector {
    let cx = CallContext::new();
    let head = client.head(&cx).await.expect("a head");
    let metagraph = client.metagraph(NETUID, &head, &cx).await.expect("read");
    let share = |(neuron, weight): (&albedo_core::chain::Neuron, u16)| Share {
        uid: neuron.uid,
        hotkey: neuron.hotkey.clone(),
        weight,
    };
    WeightVector {
        key: WeightKey {
            genesis: client.genesis(&cx).await.expect("known"),
            netuid: NETUID,
            mechanism: MechanismId(0),
            epoch,
            hotkey: key(9).hotkey(),
        },
        version_key: 0,
        shares: metagraph.neurons.iter().zip(weights).map(share).collect(),
    }
}

async fn cleared(client: &Subtensor, epoch: EpochIndex, weights: [u16; 2]) -> Cleared<WeightVector> {
    let store = client.journal().expect("a journal");
    WeightJournal::new(store).clear(vector(client, epoch, weights).await).await.expect("cleared")
}

async fn epoch(client: &Subtensor) -> EpochIndex {
    let cx = CallContext::new();
    let head = client.head(&cx).await.expect("a head");
    client.subnet(NETUID, &head, &cx).await.expect("read").epoch
}

#[tokio::test]
async fn it_conforms_on_every_runtime_with_and_without_commit_reveal() {
    for (name, spec) in RUNTIMES {
        let Some(metadata) = metadata_of(name) else { continue };
        for commit_reveal in [false, true] {
            let node = TestNode::start(&metadata, spec, subnet(commit_reveal)).await;
            node.set_pace(Pace::Instant);
            // Past the epoch that runtimes without a count of epochs begin at block 3.
            node.produce(10);
            let (client, _) = writer(&node);
            let producing = node.clone();
            let advance = move |blocks| {
                producing.produce(blocks);
                Box::pin(std::future::ready(())) as Pin<Box<dyn Future<Output = ()> + Send>>
            };
            let mut fixture = ChainFixture::new(NETUID, key(9).hotkey(), &advance);
            fixture.reveal_margin = calls::REVEAL_MARGIN + 1;
            let done = check_chain(&client, &fixture).await;
            done.unwrap_or_else(|broken| panic!("{name}, commit-reveal {commit_reveal}: {broken}"));
            let weights = node.landed().iter().filter(|landed| landed.call != "set_commitment").count();
            assert_eq!((weights, node.landed().len()), (1, 2), "{name}");
        }
    }
}

#[tokio::test]
async fn state_is_read_as_the_metadata_says() {
    for (name, spec) in RUNTIMES {
        let Some(metadata) = metadata_of(name) else { continue };
        let node = TestNode::start(&metadata, spec, subnet(true)).await;
        let (client, cx) = (reader(&node), CallContext::new());
        let head = client.head(&cx).await.expect("a head");
        let metagraph = client.metagraph(NETUID, &head, &cx).await.expect("read");
        let validator = metagraph.of(&key(9).hotkey()).expect("registered");
        assert_eq!(
            (validator.uid, validator.stake, validator.validator_permit),
            (Uid(2), 9_000, true),
            "{name}"
        );
        assert_eq!(validator.coldkey.0, key(109).address());
        let subnet = client.subnet(NETUID, &head, &cx).await.expect("read");
        assert_eq!((subnet.tempo, subnet.registration_cost, subnet.commit_reveal), (100, 500_000, true));
        assert!(subnet.next_epoch > head.number && subnet.next_epoch <= head.number + 101, "{subnet:?}");
        let missing = client.metagraph(NetUid(5), &head, &cx).await.expect_err("another subnet");
        assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    }
}

#[tokio::test]
async fn a_node_is_asked_in_the_way_that_it_offers() {
    let node = TestNode::start(&metadata::newest(), 2, subnet(true)).await;
    node.commit_for_all("v7|a/b|x");
    let cx = CallContext::new();
    let mut read = Vec::new();
    for backend in [BackendKind::Legacy, BackendKind::Auto] {
        let settings = SubtensorConfig { backend, ..config(&[&node]) };
        let client = Subtensor::new(&settings).expect("good settings");
        let head = client.head(&cx).await.expect("a head");
        let neurons = client.metagraph(NETUID, &head, &cx).await.expect("read").neurons;
        let reveals = client.reveals(NETUID, &head, &cx).await.expect("read");
        read.push((head, neurons, reveals));
    }
    assert_eq!((read[0].2.len(), &read[0]), (3, &read[1]));
}

#[tokio::test]
async fn commitments_of_every_form_are_written_and_read() {
    for (name, spec) in RUNTIMES {
        let Some(metadata) = metadata_of(name) else { continue };
        let node = TestNode::start(&metadata, spec, subnet(true)).await;
        let ((client, _), cx) = (writer(&node), CallContext::new());
        node.set_pace(Pace::Instant);
        let text = "x".repeat(300);
        let texts = async || {
            let head = client.head(&cx).await.expect("a head");
            let reveals = client.reveals(NETUID, &head, &cx).await.expect("read");
            reveals.into_iter().map(|reveal| reveal.content).collect::<Vec<_>>()
        };
        for plain in ["", "v4|a/b|x", &text] {
            client.commit(NETUID, plain, None, &cx).await.expect("committed");
            assert_eq!(texts().await, [Content::Text(plain.into())], "{name}");
        }
        client.commit(NETUID, "sealed", Some(30), &cx).await.expect("committed");
        assert!(matches!(&*texts().await, [Content::Hidden { .. }]), "{name}");
        node.produce(30);
        assert_eq!(texts().await, [Content::Text("sealed".into())], "{name}");
        let error = client.commit(NETUID, &"x".repeat(513), None, &cx).await.expect_err("too long");
        assert_eq!(error.fault(), Fault::Operator);
    }
}

#[tokio::test]
async fn a_reveal_that_failed_is_reported() {
    let node = TestNode::start(&metadata::newest(), 2, subnet(true)).await;
    node.set_pace(Pace::Instant);
    // Encrypted for another beacon: the node cannot open it.
    let other = BeaconSecret::of(8).beacon(node.beacon().genesis, node.beacon().period);
    let (client, cx) = (reader(&node), CallContext::new());
    let client =
        client.with_journal(ChainJournal::in_memory().expect("opens"), other, Duration::from_millis(2));
    let client = client.with_signer(Arc::new(key(9)));
    let committed = client.commit(NETUID, "sealed", Some(10), &cx).await.expect("committed");
    let head = client.head(&cx).await.expect("a head");
    let ledger = Ledger::in_memory().expect("opens");
    let hidden = ledger.follow_to(&client, NETUID, &head, &cx).await.expect("followed");
    assert!(matches!(hidden[0].content, Content::Hidden { .. }), "{hidden:?}");
    node.produce(20);
    let head = client.head(&cx).await.expect("a head");
    let found = ledger.follow_to(&client, NETUID, &head, &cx).await.expect("followed");
    let [only] = &*found else { panic!("{found:?}") };
    assert!(matches!(only.content, Content::RevealFailed { .. }), "{only:?}");
    assert_eq!((only.place.block, only.readable_at, only.submission()), (committed, None, None));
}

#[tokio::test]
async fn the_ledger_dates_a_reveal_by_its_ciphertext() {
    let metadata = metadata::newest();
    let node = TestNode::start(&metadata, 2, subnet(true)).await;
    let ((client, _), cx) = (writer(&node), CallContext::new());
    node.set_pace(Pace::Instant);
    let committed = client.commit(NETUID, "sealed", Some(10), &cx).await.expect("committed");
    node.produce(20);
    let ledger = Ledger::in_memory().expect("opens");
    let head = client.head(&cx).await.expect("a head");
    let found = ledger.follow(&client, NETUID, &head, &cx).await.expect("followed");
    let [only] = &*found else { panic!("{found:?}") };
    assert_eq!(only.content, Content::Text("sealed".into()));
    let place = only.place;
    assert_eq!((place.block, place.extrinsic, place.dated_by), (committed, Some(0), DatedBy::Commitment));
    assert!(only.readable_at > Some(committed));
}

#[tokio::test]
async fn the_ledger_goes_on_after_states_that_are_gone() {
    let node = TestNode::start(&metadata::newest(), 2, subnet(true)).await;
    node.set_pruning(10);
    let ((client, _), cx) = (writer(&node), CallContext::new());
    node.set_pace(Pace::Instant);
    let ledger = Ledger::in_memory().expect("opens");
    let follow = async || {
        let head = client.head(&cx).await.expect("a head");
        ledger.follow_to(&client, NETUID, &head, &cx).await.expect("followed")
    };
    assert_eq!(follow().await, []);
    for (text, blocks, seen) in [("near", 5, Seen::Witnessed), ("far", 50, Seen::Unknown)] {
        client.commit(NETUID, text, None, &cx).await.expect("committed");
        node.produce(blocks);
        let found = follow().await;
        let found: Vec<_> = found.iter().map(|new| (&new.content, new.seen)).collect();
        assert_eq!(found, [(&Content::Text(text.into()), seen)]);
    }
    // From the oldest state that is kept on, nothing is left out.
    client.commit(NETUID, "on", None, &cx).await.expect("committed");
    assert_eq!(follow().await[0].seen, Seen::Witnessed);
}

#[tokio::test]
async fn a_hotkey_is_registered_at_the_price_that_was_shown() {
    for (name, spec) in RUNTIMES {
        let Some(metadata) = metadata_of(name) else { continue };
        let node = TestNode::start(&metadata, spec, subnet(true)).await;
        let ((client, _), cx) = (writer(&node), CallContext::new());
        node.set_pace(Pace::Instant);
        let (hotkey, coldkey) = (key(50).hotkey(), key(51));
        let cost = client.registration_cost(NETUID, &cx).await.expect("read");
        let limits = client.limits_registration(&cx).await.expect("read");
        if ["newest", "oldest"].contains(&name) {
            assert_eq!(limits, name == "newest");
        }
        let low = client.register(NETUID, &hotkey, cost - 1, &coldkey, &cx).await.expect_err("too dear");
        assert_eq!((low.kind(), low.fault()), (ErrorKind::Conflict, Fault::Operator), "{low}");
        client
            .register(NETUID, &hotkey, cost, &coldkey, &cx)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let head = client.head(&cx).await.expect("a head");
        let metagraph = client.metagraph(NETUID, &head, &cx).await.expect("read");
        assert_eq!(metagraph.of(&hotkey).map(|neuron| neuron.coldkey.0.clone()), Some(coldkey.address()));
        let twice = client.register(NETUID, &hotkey, cost, &coldkey, &cx).await.expect_err("twice");
        assert!(twice.to_string().contains("HotKeyAlreadyRegisteredInSubNet"), "{twice}");
    }
}

#[tokio::test]
async fn two_hundred_and_fifty_six_neurons_and_commitments_take_ten_requests_with_the_connect() {
    let metadata = metadata::newest();
    let neurons = (0..256_u16).map(|index| {
        let mut hotkey = [7; 32];
        hotkey[..2].copy_from_slice(&index.to_le_bytes());
        TestNeuron { hotkey, ..neuron(1, false) }
    });
    let full = TestSubnet { neurons: neurons.collect(), ..subnet(true) };
    let node = TestNode::start(&metadata, 2, full).await;
    node.commit_for_all("v7|a/b|x");
    let (client, cx) = (reader(&node), CallContext::new());
    for most in [10, 7] {
        let head = client.head(&cx).await.expect("a head");
        assert_eq!(client.metagraph(NETUID, &head, &cx).await.expect("read").neurons.len(), 256);
        assert_eq!(client.reveals(NETUID, &head, &cx).await.expect("read").len(), 256);
        let requests = node.take_requests();
        assert!(requests.values().sum::<u64>() <= most, "{requests:?}");
        node.produce(1);
    }
}

#[tokio::test]
async fn a_dead_or_silent_or_mad_node_is_left_for_the_next() {
    let metadata = metadata::newest();
    for (what, fault) in [
        ("dead", (|faults| faults.dead = true) as fn(&mut crate::testnode::Faults)),
        ("silent", |faults| faults.silent = true),
        ("garbage", |faults| faults.garbage = true),
        ("another chain", |faults| faults.other_genesis = true),
    ] {
        // From the start, and in the middle of a connection.
        for late in [false, true] {
            let bad = TestNode::start(&metadata, 2, subnet(true)).await;
            let good = TestNode::start(&metadata, 2, subnet(true)).await;
            let settings = SubtensorConfig { call_timeout_ms: 300, ..config(&[&bad, &good]) };
            let client = Subtensor::new(&settings).expect("good settings");
            let cx = CallContext::new();
            if late {
                if what == "another chain" {
                    continue;
                }
                client.head(&cx).await.expect("answers at first");
            }
            bad.fault(fault);
            let head = client.head(&cx).await.unwrap_or_else(|error| panic!("{what} {late}: {error}"));
            client
                .metagraph(NETUID, &head, &cx)
                .await
                .unwrap_or_else(|error| panic!("{what} {late}: {error}"));
            assert!(!good.take_requests().is_empty(), "{what}");
        }
    }
}

#[tokio::test]
async fn without_a_good_node_the_error_names_the_last() {
    let metadata = metadata::newest();
    let node = TestNode::start(&metadata, 2, subnet(true)).await;
    let client = reader(&node);
    node.fault(|faults| faults.other_genesis = true);
    let error = client.head(&CallContext::new()).await.expect_err("another chain");
    assert_eq!((error.fault(), error.is_retryable()), (Fault::Operator, false), "{error}");
    assert!(error.to_string().contains("the node is on another chain"), "{error}");
    let nowhere = SubtensorConfig { endpoints: vec!["ws://127.0.0.1:1".into()], ..config(&[&node]) };
    let error =
        Subtensor::new(&nowhere).expect("good settings").head(&CallContext::new()).await.expect_err("nobody");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
}

#[tokio::test]
async fn a_head_that_stands_still_ends_the_connection() {
    let metadata = metadata::newest();
    let stuck = TestNode::start(&metadata, 2, subnet(true)).await;
    let good = TestNode::start(&metadata, 2, subnet(true)).await;
    good.produce(5);
    let settings = SubtensorConfig { stall_ms: 50, ..config(&[&stuck, &good]) };
    let (client, cx) = (Subtensor::new(&settings).expect("good settings"), CallContext::new());
    assert_eq!(client.head(&cx).await.expect("a head").number, 1);
    loop {
        match client.head(&cx).await {
            Ok(head) if head.number == 6 => break,
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn pruned_state_needs_an_archive() {
    let metadata = metadata::newest();
    let node = TestNode::start(&metadata, 2, subnet(true)).await;
    let (client, cx) = (reader(&node), CallContext::new());
    let old = client.head(&cx).await.expect("a head");
    node.set_pruning(10);
    node.produce(50);
    let error = client.reveals(NETUID, &old, &cx).await.expect_err("pruned");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("`archive`"), "{error}");
    // The same blocks, with their state.
    let archive = TestNode::start(&metadata, 2, subnet(true)).await;
    archive.produce(50);
    let settings = SubtensorConfig { archive: vec![archive.endpoint()], ..config(&[&node]) };
    let client = Subtensor::new(&settings).expect("good settings");
    assert_eq!(client.metagraph(NETUID, &old, &cx).await.expect("kept").neurons.len(), 3);
    assert_eq!(client.reveals(NETUID, &old, &cx).await.expect("kept"), []);
}

#[tokio::test]
async fn an_outage_of_every_node_ends_with_the_first_that_answers() {
    let node = TestNode::start(&metadata::newest(), 2, subnet(true)).await;
    let busy = Unavailable::start().await;
    let settings = SubtensorConfig { endpoints: vec![busy.endpoint(), node.endpoint()], ..config(&[&node]) };
    let (client, cx) = (Subtensor::new(&settings).expect("good settings"), CallContext::new());
    client.head(&cx).await.expect("the second answers");
    node.fault(|faults| faults.dead = true);
    // Connecting again meets the same refusal, as often as it is tried.
    for _ in 0..3 {
        let error = client.head(&cx).await.expect_err("nobody answers");
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
        assert_eq!(error.fault(), Fault::Infrastructure);
    }
    node.fault(|faults| faults.dead = false);
    client.head(&cx).await.expect("back again");
}

#[tokio::test]
async fn an_upgrade_is_read_at_the_block_after_it() {
    let (old, new) = (metadata::oldest(), metadata::newest());
    let node = TestNode::start(&old, 1, subnet(true)).await;
    let ((client, _), cx) = (writer(&node), CallContext::new());
    node.produce(3);
    let before = client.head(&cx).await.expect("a head");
    client.metagraph(NETUID, &before, &cx).await.expect("read");
    node.upgrade(&new, 2);
    node.produce(1);
    let upgrading = client.head(&cx).await.expect("a head");
    let error = client.metagraph(NETUID, &upgrading, &cx).await.expect_err("not yet");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
    node.produce(1);
    assert_eq!(client.metagraph(NETUID, &upgrading, &cx).await.expect("read").neurons.len(), 3);
    let after = client.head(&cx).await.expect("a head");
    assert_eq!(client.metagraph(NETUID, &after, &cx).await.expect("read").neurons.len(), 3);
    assert_eq!(client.metagraph(NETUID, &before, &cx).await.expect("read").neurons.len(), 3);
}

#[tokio::test]
async fn settings_are_strict() {
    let good = SubtensorConfig::default();
    assert!(check(&good).is_ok());
    let wallet = WalletConfig {
        path: "wallets".into(),
        name: "a".into(),
        hotkey: "b".into(),
        password_file: None,
        password_env: None,
    };
    for (config, key) in [
        (SubtensorConfig { endpoints: vec![], ..good.clone() }, "endpoints"),
        (SubtensorConfig { endpoints: vec!["http://x".into()], ..good.clone() }, "endpoints"),
        (SubtensorConfig { archive: vec!["x".into()], ..good.clone() }, "archive"),
        (SubtensorConfig { genesis: "finney".into(), ..good.clone() }, "genesis"),
        (SubtensorConfig { stall_ms: 0, ..good.clone() }, "stall_ms"),
        (SubtensorConfig { wallet: Some(wallet), ..good.clone() }, "journal"),
    ] {
        let error = check(&config).expect_err(key);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn no_state_of_commitments_makes_the_reader_panic() {
    use proptest::prelude::*;
    let reader = fuzzing::Commitments::new(&metadata::newest()).expect("known shapes");
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    proptest!(|(bytes in bytes)| {
        let _ = reader.standing(&bytes);
        let _ = reader.revealed(&bytes);
    });
}

/// A server that answers every handshake with HTTP 503.
struct Unavailable {
    address: std::net::SocketAddr,
    _serving: tokio::task::JoinSet<()>,
}

impl Unavailable {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (_, _) = (stream.readable().await, stream.try_read(&mut [0; 4096]));
                let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
                let (_, _) = (stream.writable().await, stream.try_write(answer));
            }
        });
        Self { address, _serving: serving }
    }

    fn endpoint(&self) -> String {
        format!("ws://{}", self.address)
    }
}

mod faults;
mod real;
mod writing;

#[tokio::test]
async fn who_only_looks_leaves_the_journal_to_the_process_that_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chain.sqlite");
    let _writes = ChainJournal::open(&path).expect("opens");
    let (registry, call) = (albedo_core::Registry::linked().expect("links"), CallContext::new());
    let (cx, settings) = (
        BuildContext::new(&registry, &call),
        SubtensorConfig { journal: Some(path), ..SubtensorConfig::default() },
    );
    let error = Subtensor::build(settings.clone(), &cx).await.expect_err("another one has it");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let looking = Subtensor::build(settings, &cx.only_looking()).await.expect("builds");
    assert!(looking.journal().is_none());
}

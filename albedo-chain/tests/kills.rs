//! A client process that is killed around signing and sending, between
//! upgrades of the runtime, triggered epochs and forks. What counts is read
//! from the node's blocks: never two vectors in one epoch, never a nonce twice,
//! and every epoch that weights were cleared for is served, or missed for a
//! recorded reason.
//!
//! `ALBEDO_CHAIN_KILLS=1000` is the long form.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use albedo_chain::journal::{ChainJournal, Epoch};
use albedo_chain::subtensor::{Subtensor, SubtensorConfig};
use albedo_chain::testnode::{Pace, TestNeuron, TestNode, TestSubnet, metadata};
use albedo_chain::wallet::Keypair;
use albedo_core::chain::{BlockHash, Hotkey, MechanismId, NetUid, Uid};
use albedo_core::rng::{Stream, Use};
use albedo_core::weights::{Share, WeightJournal, WeightKey, WeightVector};
use albedo_core::{CallContext, ChainClient, ErrorKind, Scheme, Signer};

use client::{Client, settings, trace, variable};

#[path = "support/client.rs"]
mod client;

const NETUID: u16 = 97;

/// Blocks of an epoch, unless one is triggered.
const TEMPO: u16 = 60;

/// Names the journal to the one that is killed.
const JOURNAL: &str = "ALBEDO_CHAIN_TEST_JOURNAL";

fn key(seed: u8) -> Keypair {
    Keypair::from_seed(&[seed; 32], Scheme::Sr25519).expect("a key")
}

fn subnet() -> TestSubnet {
    let neuron = |seed, validator_permit| TestNeuron {
        hotkey: key(seed).public_key(),
        coldkey: key(100 + seed).public_key(),
        registered_at: 0,
        validator_permit,
        stake: 1,
        last_update: 0,
    };
    TestSubnet {
        tempo: TEMPO,
        weights_rate_limit: 1,
        commit_reveal: false,
        neurons: vec![neuron(1, false), neuron(2, false), neuron(9, true)],
        ..TestSubnet::new(NETUID)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_client_never_signs_twice() {
    let metadata = metadata::newest();
    let kills: u64 =
        std::env::var("ALBEDO_CHAIN_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(20);
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("chain.sqlite");
    let node = TestNode::start(&metadata, 1, subnet()).await;
    node.produce(3);
    node.set_lag(2);
    // Time passes as fast as the client looks at the chain.
    node.set_pace(Pace::Driven);
    let mut random = Stream::new(23, Use::Chaos);
    let mut spec = 1;
    for kill in 0..kills {
        let mut client = start(&node, &journal);
        // A start takes some 15 requests, a submission some 20, an epoch some
        // 200. Every other client is stopped about a submission: the node does
        // what it is asked and keeps the answer, and the client dies there.
        let about_a_submission = kill % 2 == 1;
        let (moment, sent, after) = (node.asked() + random.below(300), node.sent(), random.below(6));
        let there = |node: &TestNode| {
            if about_a_submission { node.sent() > sent } else { node.asked() >= moment }
        };
        let arrive = async {
            while !there(&node) {
                match random.below(60) {
                    0 => node.fork(1 + random.below(2), random.below(2) == 0),
                    1 => trigger(&node, 1 + random.below(8)),
                    _ => {}
                }
                let next = node.asked() + 1 + random.below(20);
                node.reaches(|node| there(node) || node.asked() >= next).await;
            }
            if about_a_submission {
                let last = node.asked() + after;
                node.fault(|faults| faults.silent_after = Some(last));
                node.reaches(|node| node.asked() > last).await;
            }
        };
        client.comes_to(&node, arrive).await;
        client.kill();
        node.fault(|faults| faults.silent_after = None);
        // Meanwhile the chain goes on.
        match random.below(5) {
            0 => node.fork(1 + random.below(2), random.below(2) == 0),
            1 => trigger(&node, 1 + random.below(8)),
            2 => {
                spec += 1;
                node.upgrade(&metadata, spec);
            }
            _ => {}
        }
        node.produce(random.below(12));
        if (kill + 1).is_multiple_of(100) {
            println!("{} kills, block {}", kill + 1, node.height());
        }
    }
    // The last one is left alone until its epochs come and go.
    let mut client = start(&node, &journal);
    let end_of_test = node.height() + 3 * u64::from(TEMPO);
    client.comes_to(&node, node.reaches(|node| node.height() >= end_of_test)).await;
    client.kill();

    let landed = node.landed();
    let mut nonces = BTreeSet::new();
    let mut served = BTreeMap::new();
    for landed in &landed {
        assert!(nonces.insert(landed.nonce), "nonce {} twice: {landed:?}", landed.nonce);
        if landed.failure.is_none()
            && let Some(before) = served.insert(landed.epoch, landed.clone())
        {
            panic!("epoch {} has two vectors: {before:?} and {landed:?}", landed.epoch);
        }
    }
    let journal = ChainJournal::open(&journal).expect("opens");
    let cleared = journal.cleared().await.expect("read");
    let known: BTreeMap<_, _> = journal.epochs().await.expect("read").into_iter().collect();
    let last = cleared.last().map(|(key, _)| key.epoch).expect("some were cleared");
    let (mut hits, mut misses) = (0, 0);
    for (key, _) in cleared.iter().filter(|(key, _)| key.epoch + 1 < last) {
        match known.get(key) {
            Some(Epoch::Served { .. }) => {
                assert!(served.contains_key(&key.epoch), "{} is not in the blocks", key.epoch);
                hits += 1;
            }
            Some(Epoch::Missed(reason)) => {
                assert!(!reason.is_empty());
                misses += 1;
            }
            None => panic!("nothing is known of epoch {}", key.epoch),
        }
    }
    println!("{kills} kills, {} extrinsics in blocks, {hits} epochs served, {misses} missed", landed.len());
    assert!(hits > 0, "no epoch was served");
}

/// The subnet's owner triggers an epoch.
fn trigger(node: &TestNode, blocks: u64) {
    let next = node.height() + blocks;
    node.change(|subnet| subnet.pending = Some(next));
}

fn start(node: &TestNode, journal: &Path) -> Client {
    let journal = journal.to_str().expect("a path of Unicode");
    Client::start("the_one_that_is_killed", node, &[(JOURNAL, journal)])
}

/// Sets weights in every epoch, for ever; every process wants others.
#[tokio::test]
#[ignore = "started by the other test, with what it needs in the environment"]
async fn the_one_that_is_killed() {
    let config = SubtensorConfig { poll_ms: 3, ..settings() };
    trace("opens the journal");
    let journal = ChainJournal::open(Path::new(&variable(JOURNAL))).expect("opens");
    // The node's beacon is not needed: this subnet sets its weights openly.
    let beacon = albedo_chain::timelock::Beacon::quicknet();
    let client = Subtensor::new(&config)
        .expect("good settings")
        .with_journal(journal.clone(), beacon, Duration::from_millis(3))
        .with_signer(Arc::new(key(9)));
    let (cx, mut done) = (CallContext::new(), None);
    let weights = WeightJournal::new(journal);
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        trace("reads the head");
        let Ok(head) = client.head(&cx).await else { continue };
        trace("reads the subnet");
        let Ok(subnet) = client.subnet(NetUid(NETUID), &head, &cx).await else { continue };
        if done == Some(subnet.epoch) {
            continue;
        }
        // Two wishes: the process's own, and that of another one before it.
        for wish in [std::process::id() % 2, (std::process::id() + 1) % 2] {
            let genesis = client.genesis(&cx).await.expect("known");
            trace("clears weights");
            match weights.clear(vector(genesis, subnet.epoch, wish as u16)).await {
                Ok(cleared) => {
                    trace("sets weights");
                    let set = client.set_weights(cleared, &cx).await;
                    if set.is_ok_and(|receipt| receipt.epoch >= subnet.epoch) {
                        done = Some(subnet.epoch);
                    }
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn vector(genesis: BlockHash, epoch: u64, wish: u16) -> WeightVector {
    let share =
        |uid: u16, weight| Share { uid: Uid(uid), hotkey: Hotkey(key(1 + uid as u8).address()), weight };
    WeightVector {
        key: WeightKey {
            genesis,
            netuid: NetUid(NETUID),
            mechanism: MechanismId(0),
            epoch,
            hotkey: key(9).hotkey(),
        },
        version_key: 0,
        shares: vec![share(0, 20_000 + wish), share(1, 45_535 - wish)],
    }
}

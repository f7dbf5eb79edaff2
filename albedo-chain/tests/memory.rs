//! A client that follows the chain block by block, in a process of its own:
//! its memory must not grow with the chain.
//!
//! `ALBEDO_CHAIN_BLOCKS=7200` is a day of blocks.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};
use std::time::Duration;

use albedo_chain::ledger::Ledger;
use albedo_chain::subtensor::{Subtensor, SubtensorConfig};
use albedo_chain::testnode::{Pace, TestNeuron, TestNode, TestSubnet, metadata};
use albedo_core::chain::{BlockHash, NetUid};
use albedo_core::{CallContext, ChainClient};

const NETUID: u16 = 97;

/// Tells this program that it is the one to be measured.
const ENDPOINT: &str = "ALBEDO_CHAIN_TEST_ENDPOINT";
const GENESIS: &str = "ALBEDO_CHAIN_TEST_GENESIS";

/// Blocks after which memory has to stay.
const SETTLED: u64 = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_chain() {
    let blocks = std::env::var("ALBEDO_CHAIN_BLOCKS").ok().and_then(|blocks| blocks.parse().ok());
    let blocks: u64 = blocks.unwrap_or(60);
    let neurons = (0..256_u16).map(|index| {
        let mut hotkey = [7; 32];
        hotkey[..2].copy_from_slice(&index.to_le_bytes());
        TestNeuron {
            hotkey,
            coldkey: [8; 32],
            registered_at: 0,
            validator_permit: index < 8,
            stake: 1,
            last_update: 0,
        }
    });
    let subnet = TestSubnet { neurons: neurons.collect(), ..TestSubnet::new(NETUID) };
    let node = TestNode::start(&metadata::newest(), 1, subnet).await;
    node.commit_for_all("v7|a/b|x");
    node.set_pace(Pace::Driven);
    let mut client = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_one_that_follows", "--ignored", "--nocapture"])
        .env(ENDPOINT, node.endpoint())
        .env(GENESIS, BlockHash(node.genesis()).to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let mut measured = Vec::new();
    for height in (1..=blocks).filter(|height| height.is_multiple_of(100) || *height == blocks) {
        let there = node.until(|node| node.height() >= height);
        tokio::time::timeout(Duration::from_secs(120), there).await.expect("the client goes on");
        measured.push((height, resident(client.id())));
    }
    client.kill().expect("killed");
    let _ = client.wait();
    let settled: Vec<_> = measured.iter().filter(|(height, _)| *height >= SETTLED).collect();
    for (height, memory) in &measured {
        println!("block {height}: {memory:?} KiB");
    }
    if let [(_, Some(first)), .., _] = &*settled {
        for (height, memory) in &settled {
            let memory = memory.expect("measured before");
            assert!(memory.abs_diff(*first) * 20 <= *first, "block {height}: {memory} KiB after {first}");
        }
    }
}

/// Memory that the process has, in KiB, where the system says so.
fn resident(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Follows the chain for ever, as a validator does.
#[tokio::test]
#[ignore = "started by the other test, with what it needs in the environment"]
async fn the_one_that_follows() {
    let variable = |name: &str| std::env::var(name).expect("started by the other test");
    let config = SubtensorConfig {
        endpoints: vec![variable(ENDPOINT)],
        genesis: variable(GENESIS),
        ..SubtensorConfig::default()
    };
    let client = Subtensor::new(&config).expect("good settings");
    let (cx, ledger) = (CallContext::new(), Ledger::in_memory().expect("opens"));
    loop {
        let head = client.head(&cx).await.expect("a head");
        client.subnet(NetUid(NETUID), &head, &cx).await.expect("read");
        client.weights(NetUid(NETUID), &head, &cx).await.expect("read");
        ledger.follow_to(&client, NetUid(NETUID), &head, &cx).await.expect("followed");
    }
}

//! A client that follows the chain block by block, in a process of its own:
//! its memory must not grow with the chain.
//!
//! `ALBEDO_CHAIN_BLOCKS=7200` is a day of blocks.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use albedo_chain::ledger::Ledger;
use albedo_chain::subtensor::Subtensor;
use albedo_chain::testnode::{Pace, TestNeuron, TestNode, TestSubnet, metadata};
use albedo_core::chain::NetUid;
use albedo_core::{CallContext, ChainClient};

use client::{Client, settings, trace};

#[path = "support/client.rs"]
mod client;

const NETUID: u16 = 97;

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
    let mut client = Client::start("the_one_that_follows", &node, &[]);
    let mut measured = Vec::new();
    for height in (1..=blocks).filter(|height| height.is_multiple_of(100) || *height == blocks) {
        client.comes_to(&node, node.reaches(|node| node.height() >= height)).await;
        measured.push((height, memory(client.process.id())));
    }
    client.kill();
    for (height, memory) in &measured {
        println!("block {height}: {memory:?}");
    }
    let mut settled = measured.iter().filter(|(height, _)| *height >= SETTLED);
    if let Some((_, Some(first))) = settled.next() {
        for (height, memory) in settled {
            let now = memory.expect("measured before");
            let change = now.anonymous.abs_diff(first.anonymous);
            assert!(change * 20 <= first.resident, "block {height}: {now:?} after {first:?}");
        }
    }
}

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy)]
struct Memory {
    /// All of it that is in memory. The system takes pages of files back as it
    /// likes, the program's own among them.
    resident: u64,
    /// What the process has allocated, in memory or swapped out: only this can
    /// leak.
    anonymous: u64,
}

/// The memory that the process has, where the system says so.
fn memory(process: u32) -> Option<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let read = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Memory { resident: read("VmRSS")?, anonymous: read("RssAnon")? + read("VmSwap")? })
}

/// Follows the chain for ever, as a validator does.
#[tokio::test]
#[ignore = "started by the other test, with what it needs in the environment"]
async fn the_one_that_follows() {
    let client = Subtensor::new(&settings()).expect("good settings");
    let (cx, ledger) = (CallContext::new(), Ledger::in_memory().expect("opens"));
    loop {
        trace("follows the chain");
        let head = client.head(&cx).await.expect("a head");
        client.subnet(NetUid(NETUID), &head, &cx).await.expect("read");
        client.weights(NetUid(NETUID), &head, &cx).await.expect("read");
        ledger.follow_to(&client, NetUid(NETUID), &head, &cx).await.expect("followed");
    }
}

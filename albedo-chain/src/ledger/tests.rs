use albedo_core::chain::Coldkey;

use super::*;
use crate::local::{LocalChain, LocalChainConfig, LocalNeuron};

const NETUID: NetUid = NetUid(97);

fn hotkey(name: &str) -> Hotkey {
    Hotkey(name.into())
}

fn text(repository: &str, byte: &str) -> String {
    format!("v7|miner/{repository}|sha256:{}", byte.repeat(32))
}

fn pin(byte: &str) -> Pin {
    Pin::Manifest(byte.repeat(32).parse().expect("a digest"))
}

/// A chain at block 1,000 with three miners.
fn chain() -> LocalChain {
    let neuron = |(uid, name): (u16, &str)| LocalNeuron {
        uid,
        hotkey: name.into(),
        coldkey: format!("owner of {name}"),
        registered_at: 10,
        validator_permit: false,
        stake: 0,
    };
    let neurons = [(0, "original"), (1, "copier"), (2, "late")].map(neuron).into();
    LocalChain::new(LocalChainConfig { start_block: 1000, neurons, ..LocalChainConfig::default() })
        .expect("a chain")
}

async fn follow(ledger: &Ledger, chain: &LocalChain) -> Vec<Sighting> {
    let cx = CallContext::new();
    let head = chain.head(&cx).await.expect("a head");
    ledger.follow_to(chain, NETUID, &head, &cx).await.expect("followed")
}

async fn genesis(chain: &LocalChain) -> BlockHash {
    chain.genesis(&CallContext::new()).await.expect("a genesis")
}

#[tokio::test]
async fn a_plain_copy_does_not_overtake_the_hidden_original() {
    // Seen while hidden, only afterwards, and by a ledger that begins late.
    for looks in [&[1003][..], &[1000], &[]] {
        let (ledger, chain) = (Ledger::in_memory().expect("opens"), chain());
        let mut head = 1000;
        let mut go = async |number: u64| {
            if looks.contains(&head) {
                follow(&ledger, &chain).await;
            }
            chain.advance(number - head).expect("made");
            head = number;
        };
        chain.commit(&hotkey("original"), &text("original", "ab"), Some(1010)).expect("committed");
        go(1003).await;
        chain.commit(&hotkey("copier"), &text("copy", "ab"), None).expect("committed");
        go(1020).await;
        follow(&ledger, &chain).await;
        let first = ledger.first_of_pin(genesis(&chain).await, NETUID, &pin("ab")).await.expect("read");
        let first = first.expect("somebody");
        assert_eq!(first.hotkey, hotkey("original"), "{looks:?}");
        assert_eq!((first.place.block, first.place.dated_by), (1001, DatedBy::Commitment), "{looks:?}");
        assert_eq!(first.readable_at, Some(1010));
        let seen = if looks == [1000] { Seen::Witnessed } else { Seen::Unknown };
        assert_eq!(first.seen, seen, "{looks:?}");
    }
}

#[tokio::test]
async fn a_first_sight_stays_whatever_is_committed_later() {
    let (ledger, chain) = (Ledger::in_memory().expect("opens"), chain());
    follow(&ledger, &chain).await;
    let commit = |content: &str| {
        chain.commit(&hotkey("original"), content, None).expect("committed");
        chain.advance(1).expect("made");
    };
    commit(&text("a", "ab"));
    assert_eq!(follow(&ledger, &chain).await.len(), 1);
    commit(&text("b", "cd"));
    assert_eq!(follow(&ledger, &chain).await.len(), 1);
    commit(&text("a", "ab"));
    assert_eq!(follow(&ledger, &chain).await, [], "an old one that returned");
    let sightings = ledger.sightings(genesis(&chain).await, NETUID).await.expect("read");
    let blocks: Vec<_> = sightings.iter().map(|sighting| (sighting.place.block, sighting.seen)).collect();
    assert_eq!(blocks, [(1001, Seen::Witnessed), (1002, Seen::Witnessed)]);
}

#[tokio::test]
async fn what_was_replaced_between_two_looks_is_seen() {
    let (ledger, chain, cx) = (Ledger::in_memory().expect("opens"), chain(), CallContext::new());
    follow(&ledger, &chain).await;
    let commit = |name: &str, content: &str| {
        chain.commit(&hotkey(name), content, None).expect("committed");
        chain.advance(1).expect("made");
    };
    commit("original", &text("a", "ab"));
    commit("original", &text("b", "cd"));
    commit("copier", &text("a", "ab"));
    let found: Vec<_> = follow(&ledger, &chain).await;
    let found: Vec<_> = found.iter().map(|new| (new.place.block, new.hotkey.0.as_str(), new.seen)).collect();
    let (original, copier) = ("original", "copier");
    let seen = Seen::Witnessed;
    assert_eq!(found, [(1001, original, seen), (1002, original, seen), (1003, copier, seen)]);

    // A look at a later block leaves a gap, in which anything may have happened.
    commit("late", &text("c", "ef"));
    let head = chain.advance(10).expect("made");
    let found = ledger.follow(&chain, NETUID, &head, &cx).await.expect("followed");
    assert_eq!(found.iter().map(|new| new.seen).collect::<Vec<_>>(), [Seen::Unknown]);
    commit("late", &text("d", "09"));
    let found = follow(&ledger, &chain).await;
    assert_eq!(found.iter().map(|new| new.seen).collect::<Vec<_>>(), [Seen::Witnessed]);
    assert_eq!(follow(&ledger, &chain).await, [], "the head was read");
}

#[tokio::test]
async fn one_block_is_ordered_by_extrinsic() {
    let (ledger, chain) = (Ledger::in_memory().expect("opens"), chain());
    chain.commit(&hotkey("original"), &text("a", "ab"), None).expect("committed");
    chain.commit(&hotkey("copier"), &text("b", "ab"), None).expect("committed");
    chain.advance(1).expect("made");
    let found = follow(&ledger, &chain).await;
    let order: Vec<_> = found.iter().map(|sighting| sighting.hotkey.0.as_str()).collect();
    assert_eq!(order, ["original", "copier"], "not by hotkey");
}

#[tokio::test]
async fn one_content_under_two_pins_belongs_to_the_first() {
    let (ledger, chain) = (Ledger::in_memory().expect("opens"), chain());
    chain.commit(&hotkey("original"), &text("a", "ab"), None).expect("committed");
    chain.advance(1).expect("made");
    chain.commit(&hotkey("copier"), &text("b", "cd"), None).expect("committed");
    chain.advance(1).expect("made");
    follow(&ledger, &chain).await;
    let (genesis, content) = (genesis(&chain).await, Digest::of("files"));
    let first = async || {
        let first = ledger.first_of_content(genesis, NETUID, content).await.expect("read");
        first.map(|first| first.hotkey.0)
    };
    assert_eq!(first().await, None);
    ledger.set_content(&pin("cd"), content).await.expect("recorded");
    assert_eq!(first().await.as_deref(), Some("copier"));
    ledger.set_content(&pin("ab"), content).await.expect("recorded");
    ledger.set_content(&pin("ab"), content).await.expect("the same again");
    assert_eq!(first().await.as_deref(), Some("original"));
    let error = ledger.set_content(&pin("ab"), Digest::of("others")).await.expect_err("another");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let own = ledger.first_of_pin(genesis, NETUID, &pin("cd")).await.expect("read");
    assert_eq!(own.map(|own| own.hotkey.0).as_deref(), Some("copier"));
}

#[test]
fn a_swap_is_a_slot_with_another_hotkey_and_no_registration() {
    let neuron = |uid, hotkey: &str, coldkey: &str, registered_at| Neuron {
        uid: Uid(uid),
        hotkey: Hotkey(hotkey.into()),
        coldkey: Coldkey(coldkey.into()),
        registered_at,
        validator_permit: false,
        stake: 0,
    };
    let before = [
        neuron(0, "a", "owner", 5),
        neuron(1, "b", "owner", 5),
        neuron(2, "c", "owner", 5),
        neuron(3, "d", "owner", 5),
    ];
    let after = Metagraph {
        neurons: vec![
            neuron(0, "a2", "owner", 5),
            neuron(1, "b2", "owner", 9),
            neuron(2, "c", "owner", 5),
            neuron(3, "d2", "another", 5),
            neuron(4, "e", "owner", 9),
        ],
    };
    let swap = Swap { block: 12, uid: Uid(0), before: hotkey("a"), after: hotkey("a2") };
    assert_eq!(swaps(12, &before, &after), [swap]);
}

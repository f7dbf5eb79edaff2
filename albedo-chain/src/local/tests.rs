use albedo_core::Registry;
use albedo_core::conformance::{ChainFixture, MemoryJournal, check_chain};
use albedo_core::weights::WeightJournal;
use serde_json::json;

use super::*;

const NETUID: NetUid = NetUid(97);

/// A miner, a validator, and a second miner that takes the first one's slot.
fn config() -> LocalChainConfig {
    let neuron = |uid, hotkey: &str, registered_at, validator_permit| LocalNeuron {
        uid,
        hotkey: hotkey.into(),
        registered_at,
        validator_permit,
    };
    let reveal = |hotkey: &str, block| LocalReveal {
        hotkey: hotkey.into(),
        block,
        payload: format!("{hotkey}'s model"),
    };
    LocalChainConfig {
        start_block: 1000,
        neurons: vec![
            neuron(7, "validator", 0, true),
            neuron(3, "miner", 0, false),
            neuron(3, "successor", 1200, false),
        ],
        reveals: vec![reveal("successor", 1300), reveal("miner", 990)],
        ..LocalChainConfig::default()
    }
}

fn chain(config: LocalChainConfig) -> Arc<LocalChain> {
    Arc::new(LocalChain::new(config).expect("good settings"))
}

async fn cleared(epoch: BlockNumber, hotkey: &str, shares: &[(u16, u16)]) -> Cleared<WeightVector> {
    let vector = WeightVector {
        netuid: NETUID,
        hotkey: Hotkey(hotkey.into()),
        epoch,
        shares: shares.iter().map(|&(uid, share)| (Uid(uid), share)).collect(),
    };
    WeightJournal::new(MemoryJournal::default()).clear(vector).await.expect("a first vector")
}

async fn weights(chain: &LocalChain, number: BlockNumber) -> Vec<(u16, Vec<(u16, u16)>)> {
    let at = chain.block_ref(number);
    let view = chain.weights(NETUID, &at, &CallContext::new()).await.expect("a known block");
    let row = |row: WeightsRow| {
        (row.validator.0, row.weights.into_iter().map(|(uid, weight)| (uid.0, weight)).collect())
    };
    view.rows.into_iter().map(row).collect()
}

#[tokio::test]
async fn it_conforms() {
    for commit_reveal in [false, true] {
        let chain = chain(LocalChainConfig { commit_reveal, ..config() });
        let advancing = Arc::clone(&chain);
        let advance = move |blocks| {
            advancing.advance(blocks);
            Box::pin(std::future::ready(())) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
        };
        let fixture = ChainFixture::new(NETUID, Hotkey("validator".into()), &advance);
        check_chain(&*chain, &fixture).await.expect("conforms");
    }
}

#[tokio::test]
async fn a_read_sees_the_state_of_its_block() {
    let (chain, cx) = (chain(config()), CallContext::new());
    chain.advance(500);
    for (number, slot, reveals) in [
        (989, "miner", vec![]),
        (1199, "miner", vec!["miner's model"]),
        (1200, "successor", vec!["miner's model"]),
        (1300, "successor", vec!["miner's model", "successor's model"]),
    ] {
        let at = chain.block(number, &cx).await.expect("final");
        let neurons = chain.metagraph(NETUID, &at, &cx).await.expect("read").neurons;
        assert_eq!(neurons[0].hotkey.0, slot, "{number}");
        assert_eq!(neurons.iter().map(|neuron| neuron.uid.0).collect::<Vec<_>>(), [3, 7]);
        let revealed = chain.reveals(NETUID, &at, &cx).await.expect("read");
        assert_eq!(revealed.iter().map(|reveal| &*reveal.payload).collect::<Vec<_>>(), reveals, "{number}");
    }
}

#[tokio::test]
async fn weights_are_in_force_from_the_next_block_on() {
    let (chain, cx) = (chain(config()), CallContext::new());
    let first = cleared(1000, "validator", &[(3, 13_107), (7, 52_428)]).await;
    assert_eq!(chain.set_weights(first.clone(), &cx).await.expect("set"), WeightReceipt::Set);
    let second = cleared(1360, "validator", &[(7, 65_535)]).await;
    let error = chain.set_weights(second.clone(), &cx).await.expect_err("too soon");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::RateLimited, true));
    chain.advance(100);
    assert_eq!(chain.set_weights(second, &cx).await.expect("set"), WeightReceipt::Set);
    assert_eq!(chain.set_weights(first, &cx).await.expect("the old one again"), WeightReceipt::Set);
    chain.advance(1);
    assert_eq!(weights(&chain, 1000).await, []);
    for number in [1001, 1100] {
        assert_eq!(weights(&chain, number).await, [(7, vec![(3, 16_384), (7, 65_535)])]);
    }
    assert_eq!(weights(&chain, 1101).await, [(7, vec![(7, 65_535)])]);
}

#[tokio::test]
async fn committed_weights_are_in_force_at_the_next_epoch() {
    let (chain, cx) = (chain(LocalChainConfig { commit_reveal: true, ..config() }), CallContext::new());
    let receipt = chain.set_weights(cleared(1000, "validator", &[(7, 65_535)]).await, &cx).await;
    assert_eq!(receipt.expect("committed"), WeightReceipt::Committed { reveal_round: 1080 });
    chain.advance(200);
    assert_eq!(weights(&chain, 1079).await, []);
    assert_eq!(weights(&chain, 1080).await, [(7, vec![(7, 65_535)])]);
}

#[tokio::test]
async fn weights_go_with_their_slot() {
    let mut config = config();
    config.neurons[1].validator_permit = true;
    let (chain, cx) = (chain(config), CallContext::new());
    chain.set_weights(cleared(1000, "miner", &[(7, 65_535)]).await, &cx).await.expect("set");
    chain.advance(300);
    assert_eq!(weights(&chain, 1199).await.len(), 1);
    assert_eq!(weights(&chain, 1200).await, []);
}

#[tokio::test]
async fn what_no_chain_would_take_is_refused() {
    let (chain, cx) = (chain(config()), CallContext::new());
    for (hotkey, shares, message) in [
        ("stranger", &[(7, 65_535)][..], "not registered"),
        ("successor", &[(7, 65_535)], "not registered"),
        ("miner", &[(7, 65_535)], "no validator permit"),
        ("validator", &[(7, 1), (3, 65_534)], "ascending, registered uids"),
        ("validator", &[(4, 65_535)], "ascending, registered uids"),
        ("validator", &[(7, 0)], "ascending, registered uids"),
        ("validator", &[], "ascending, registered uids"),
    ] {
        let error = chain.set_weights(cleared(1000, hotkey, shares).await, &cx).await.expect_err(message);
        assert!(error.message().contains(message), "{error}");
    }
    let head = chain.head(&cx).await.expect("the head");
    let error = chain.weights(NetUid(1), &head, &cx).await.expect_err("another subnet");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn it_is_built_by_name_with_strict_settings() {
    let (registry, cx) = (Registry::linked().expect("no two of a name"), CallContext::new());
    let settings = json!({"netuid": 97, "seed": 5, "neurons": [{"uid": 0, "hotkey": "miner"}]});
    let build = || registry.build::<dyn ChainClient>("local", settings.clone(), &cx);
    let (one, same) = (build().await.expect("built"), build().await.expect("built"));
    let hash = one.head(&cx).await.expect("the head").hash;
    assert_eq!(same.head(&cx).await.expect("the head").hash, hash);
    assert_ne!(LocalChain::new(LocalChainConfig::default()).expect("defaults").block_ref(1).hash, hash);
    for (settings, key) in [
        (json!({"tempo": 0}), "tempo"),
        (json!({"neurons": [{"uid": 0, "hotkey": "a"}, {"uid": 1, "hotkey": "a"}]}), "neurons[1].hotkey"),
        (json!({"neurons": [{"uid": 0, "hotkey": "a"}, {"uid": 0, "hotkey": "b"}]}), "neurons[1].uid"),
        (json!({"reveals": [{"hotkey": "a", "block": 1, "payload": ""}]}), "reveals[0].hotkey"),
        (json!({"neurons": [{"uid": 0, "hotkey": "a", "stake": 1}]}), "neurons[0]"),
    ] {
        let error = registry.check::<dyn ChainClient>("local", &settings).expect_err(key);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(key), "{error}");
    }
}

use albedo_core::Registry;
use albedo_core::chain::EpochIndex;
use albedo_core::conformance::{ChainFixture, MemoryJournal, check_chain};
use albedo_core::weights::{WeightJournal, WeightKey};
use serde_json::json;

use super::*;

const NETUID: NetUid = NetUid(97);

/// A miner, a validator, and a second miner that takes the first one's slot.
fn config() -> LocalChainConfig {
    let neuron = |uid, hotkey: &str, registered_at, validator_permit| LocalNeuron {
        uid,
        hotkey: hotkey.into(),
        coldkey: format!("owner of {hotkey}"),
        registered_at,
        validator_permit,
        stake: 0,
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

/// Shares of the hotkeys that hold the slots, or of whom `names` names.
async fn cleared(
    chain: &LocalChain,
    epoch: EpochIndex,
    hotkey: &str,
    shares: &[(u16, &str, u16)],
) -> Cleared<WeightVector> {
    let share = |&(uid, hotkey, weight): &(u16, &str, u16)| Share {
        uid: Uid(uid),
        hotkey: Hotkey(hotkey.into()),
        weight,
    };
    let key = WeightKey {
        genesis: chain.block_ref(0).hash,
        netuid: NETUID,
        mechanism: MechanismId(0),
        epoch,
        hotkey: Hotkey(hotkey.into()),
    };
    let vector = WeightVector { key, version_key: 0, shares: shares.iter().map(share).collect() };
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
    let folder = tempfile::tempdir().expect("a folder");
    for (path, commit_reveal) in [(None, false), (None, true), (Some("a"), false), (Some("b"), true)] {
        let path = path.map(|name| folder.path().join(name));
        let chain = chain(LocalChainConfig { path, commit_reveal, ..config() });
        let advancing = Arc::clone(&chain);
        let advance = move |blocks| {
            advancing.advance(blocks).expect("made");
            Box::pin(std::future::ready(())) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
        };
        let fixture = ChainFixture::new(NETUID, Hotkey("validator".into()), &advance);
        check_chain(&*chain, &fixture).await.expect("conforms");
    }
}

#[tokio::test]
async fn a_read_sees_the_state_of_its_block() {
    let (chain, cx) = (chain(config()), CallContext::new());
    chain.advance(500).expect("made");
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
        assert_eq!(texts(&revealed), reveals, "{number}");
    }
}

fn texts(reveals: &[Reveal]) -> Vec<&str> {
    reveals
        .iter()
        .filter_map(|reveal| match &reveal.content {
            Content::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

fn set(block: BlockNumber) -> WeightReceipt {
    WeightReceipt { block, epoch: block / 360, effect: WeightEffect::Set }
}

#[tokio::test]
async fn weights_are_in_force_from_the_next_block_on() {
    let (chain, cx) = (chain(config()), CallContext::new());
    let first = cleared(&chain, 2, "validator", &[(3, "miner", 13_107), (7, "validator", 52_428)]).await;
    assert_eq!(chain.set_weights(first.clone(), &cx).await.expect("set"), set(1001));
    let second = cleared(&chain, 3, "validator", &[(7, "validator", 65_535)]).await;
    let error = chain.set_weights(second.clone(), &cx).await.expect_err("too soon");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::RateLimited, true));
    chain.advance(100).expect("made");
    assert_eq!(chain.set_weights(second, &cx).await.expect("set"), set(1101));
    assert_eq!(chain.set_weights(first, &cx).await.expect("the old one again"), set(1001));
    chain.advance(1).expect("made");
    assert_eq!(weights(&chain, 1000).await, []);
    for number in [1001, 1100] {
        assert_eq!(weights(&chain, number).await, [(7, vec![(3, 16_384), (7, 65_535)])]);
    }
    assert_eq!(weights(&chain, 1101).await, [(7, vec![(7, 65_535)])]);
}

#[tokio::test]
async fn committed_weights_are_in_force_at_the_next_epoch() {
    let (chain, cx) = (chain(LocalChainConfig { commit_reveal: true, ..config() }), CallContext::new());
    let vector = cleared(&chain, 2, "validator", &[(7, "validator", 65_535)]).await;
    let receipt = chain.set_weights(vector, &cx).await.expect("committed");
    let effect = WeightEffect::Committed { reveal_round: 1080 };
    assert_eq!(receipt, WeightReceipt { block: 1001, epoch: 2, effect });
    chain.advance(200).expect("made");
    assert_eq!(weights(&chain, 1079).await, []);
    assert_eq!(weights(&chain, 1080).await, [(7, vec![(7, 65_535)])]);
}

#[tokio::test]
async fn weights_go_with_their_slot() {
    let mut config = config();
    config.neurons[1].validator_permit = true;
    let (chain, cx) = (chain(config), CallContext::new());
    let vector = cleared(&chain, 2, "miner", &[(7, "validator", 65_535)]).await;
    chain.set_weights(vector, &cx).await.expect("set");
    chain.advance(300).expect("made");
    assert_eq!(weights(&chain, 1199).await.len(), 1);
    assert_eq!(weights(&chain, 1200).await, []);
}

#[tokio::test]
async fn what_no_chain_would_take_is_refused() {
    let config = LocalChainConfig { min_weights: 1, ..config() };
    let (chain, cx) = (chain(config), CallContext::new());
    let all = &[(7, "validator", 65_535)][..];
    for (hotkey, shares, message) in [
        ("stranger", all, "not registered"),
        ("successor", all, "not registered"),
        ("miner", all, "no validator permit"),
        ("validator", &[(4, "nobody", 65_535)], "changed hands"),
        ("validator", &[(3, "successor", 65_535)], "changed hands"),
    ] {
        let vector = cleared(&chain, 2, hotkey, shares).await;
        let error = chain.set_weights(vector, &cx).await.expect_err(message);
        assert!(error.message().contains(message), "{error}");
    }
    let head = chain.head(&cx).await.expect("the head");
    let error = chain.weights(NetUid(1), &head, &cx).await.expect_err("another subnet");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn limits_are_the_chains_own() {
    let config = LocalChainConfig { min_weights: 2, ..config() };
    let (few, cx) = (chain(config.clone()), CallContext::new());
    let vector = cleared(&few, 2, "validator", &[(7, "validator", 65_535)]).await;
    let error = few.set_weights(vector, &cx).await.expect_err("one of two");
    assert!(error.message().contains("fewer targets"), "{error}");
    let mut config = LocalChainConfig { null_consensus: true, min_weights: 1, ..config };
    config.neurons[1].stake = 5;
    let null = chain(config);
    let vector = cleared(&null, 2, "validator", &[(7, "validator", 65_535)]).await;
    let error = null.set_weights(vector, &cx).await.expect_err("less stake");
    assert!(error.message().contains("largest stake"), "{error}");
    let vector = cleared(&null, 2, "miner", &[(7, "validator", 65_535)]).await;
    null.set_weights(vector, &cx).await.expect("the largest stake");
}

#[tokio::test]
async fn commitments_are_hidden_until_their_round_and_replace_each_other() {
    let (chain, cx) = (chain(config()), CallContext::new());
    let miner = Hotkey("miner".into());
    let at = async |number| {
        let block = chain.block(number, &cx).await.expect("final");
        chain.reveals(NETUID, &block, &cx).await.expect("read")
    };
    let place = chain.commit(&miner, "sealed", Some(1005)).expect("committed");
    assert_eq!(place, Place { block: 1001, extrinsic: Some(0), dated_by: DatedBy::Commitment });
    let second = chain.commit(&Hotkey("validator".into()), "plain", None).expect("committed");
    assert_eq!((second.block, second.extrinsic), (1001, Some(1)));
    chain.advance(20).expect("made");

    assert_eq!(texts(&at(1000).await), ["miner's model"]);
    let hidden = at(1004).await;
    assert_eq!(texts(&hidden), ["plain"]);
    assert!(hidden.iter().any(|reveal| reveal.readable_at.is_none()
        && reveal.place == place
        && matches!(reveal.content, Content::Hidden { reveal_round: 1005, .. })));
    let revealed = at(1005).await;
    assert_eq!(texts(&revealed), ["plain", "sealed"]);
    assert_eq!(revealed[1].place, Place { block: 1005, extrinsic: None, dated_by: DatedBy::Reveal });

    chain.commit(&miner, "never shown", Some(5000)).expect("committed");
    chain.advance(1).expect("made");
    chain.commit(&miner, "latest", None).expect("committed");
    chain.advance(1).expect("made");
    assert_eq!(texts(&at(1022).await), ["plain", "sealed", "latest"], "the revealed one stays");
    let error = chain.commit(&Hotkey("stranger".into()), "x", None).expect_err("not registered");
    assert_eq!(error.kind(), ErrorKind::NotFound);

    // Ten revealed texts stay per hotkey.
    for number in 1..=11 {
        let round = chain.head(&cx).await.expect("a head").number + 1;
        chain.commit(&miner, &format!("sealed {number}"), Some(round)).expect("committed");
        chain.advance(1).expect("made");
    }
    let newest: Vec<_> = (2..=11).map(|number| format!("sealed {number}")).collect();
    let head = chain.head(&cx).await.expect("a head").number;
    assert_eq!(texts(&at(head).await), [&["plain".to_owned()], &newest[..]].concat());
}

#[tokio::test]
async fn a_file_is_shared_and_outlives_its_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chain.sqlite");
    let config = LocalChainConfig { path: Some(path.clone()), ..config() };
    let (chain, cx) = (chain(config.clone()), CallContext::new());
    let other = LocalChain::open(&path).expect("opened beside it");
    let (hotkey, coldkey) = (Hotkey("newcomer".into()), Coldkey("owner".into()));
    assert_eq!(other.register(&hotkey, &coldkey).expect("registered"), Uid(0));
    let again = chain.register(&hotkey, &coldkey).expect_err("twice");
    assert_eq!(again.kind(), ErrorKind::Conflict);
    other.advance(1).expect("made");
    let head = chain.head(&cx).await.expect("the head");
    assert_eq!(head.number, 1001);
    let neurons = chain.metagraph(NETUID, &head, &cx).await.expect("read").neurons;
    assert_eq!((neurons[0].hotkey.clone(), neurons[0].registered_at), (hotkey, 1001));
    drop((chain, other));
    assert!(LocalChain::new(config.clone()).is_ok());
    let error = LocalChain::new(LocalChainConfig { seed: 9, ..config }).expect_err("another chain");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
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
        (json!({"neurons": [{"uid": 0, "hotkey": "a", "stakes": 1}]}), "neurons[0]"),
    ] {
        let error = registry.check::<dyn ChainClient>("local", &settings).expect_err(key);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(key), "{error}");
    }
}

//! The client before the real runtime 293, run by chopsticks. On demand, by
//! `.ci/chain-runtime`, which also lets Bittensor's own Python package read
//! everything again.

use serde_json::{Value as Json, json};
use subxt::rpcs::client::RpcParams;
use subxt::rpcs::{RpcClient, rpc_params};

use super::*;
use crate::ledger::Sighting;

/// The subnet of the runtime's own genesis.
const SUBNET: NetUid = NetUid(1);

/// Substrate's development account Alice, which has funds there.
const ALICE: &str = "e5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a";

/// Blocks of an epoch while this test runs.
const REAL_TEMPO: u64 = 20;

/// drand's quicknet round that the packages' fixture has the signature of.
const ROUND: u64 = 1000;

/// The node's own methods, beside those that the client knows.
struct Chopsticks(RpcClient);

impl Chopsticks {
    async fn call(&self, method: &str, params: RpcParams) -> Json {
        self.0.request(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Writes state, by the names that the metadata has.
    async fn set(&self, state: Json) {
        self.call("dev_setStorage", rpc_params![state]).await;
    }

    /// Makes blocks one by one; before each, both slots get their permits again,
    /// which the epoch takes away from validators without stake.
    async fn blocks(&self, count: u64) {
        for _ in 0..count {
            self.set(json!({"SubtensorModule": {"ValidatorPermit": [[[SUBNET.0], [true, true]]]}})).await;
            self.call("dev_newBlock", rpc_params![json!({"count": 1})]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real runtime, at ALBEDO_CHAIN_RUNTIME"]
async fn real_runtime() {
    let endpoint = std::env::var("ALBEDO_CHAIN_RUNTIME").expect("ALBEDO_CHAIN_RUNTIME names its address");
    let node = Chopsticks(RpcClient::from_url(&endpoint).await.expect("connects"));
    let genesis = node.call("chain_getBlockHash", rpc_params![0]).await;
    let settings = SubtensorConfig {
        endpoints: vec![endpoint],
        genesis: genesis.as_str().expect("a hash").into(),
        poll_ms: 200,
        ..SubtensorConfig::default()
    };
    let mut seed = [0; 32];
    for (byte, pair) in seed.iter_mut().zip(ALICE.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    }
    let (coldkey, hotkey) = (Keypair::from_seed(&seed, Scheme::Sr25519).expect("a key"), key(9));
    let cx = CallContext::new();
    let journal = ChainJournal::in_memory().expect("opens");
    let client = |beacon: Beacon| {
        let client = Subtensor::new(&settings).expect("good settings");
        client.with_journal(journal.clone(), beacon, Duration::from_millis(200)).with_signer(Arc::new(key(9)))
    };
    let plain = client(Beacon::quicknet());

    // Registrations at a low price, hardly a rate limit, short epochs. (Chopsticks
    // takes a 0 for a deletion.)
    node.set(json!({
        "System": {"Account": [[[hotkey.address()], {"providers": 1, "data": {"free": "1000000000000"}}]]},
        "SubtensorModule": {
            "NetworkRegistrationAllowed": [[[SUBNET.0], true]],
            "SubtokenEnabled": [[[SUBNET.0], true]],
            "Burn": [[[SUBNET.0], 1_000_000]],
            "Tempo": [[[SUBNET.0], REAL_TEMPO]],
            "WeightsSetRateLimit": [[[SUBNET.0], 1]],
            "CommitRevealWeightsEnabled": [[[SUBNET.0], false]],
            "RevealPeriodEpochs": [[[SUBNET.0], 1]],
        },
    }))
    .await;
    node.call("dev_newBlock", rpc_params![json!({"count": 1})]).await;
    let cost = plain.registration_cost(SUBNET, &cx).await.expect("read");
    let block =
        plain.register(SUBNET, &hotkey.hotkey(), cost, &coldkey, &cx).await.expect("registered").block;
    let head = plain.head(&cx).await.expect("a head");
    let metagraph = plain.metagraph(SUBNET, &head, &cx).await.expect("read");
    let neuron = metagraph.of(&hotkey.hotkey()).expect("registered");
    assert_eq!(neuron.coldkey.0, coldkey.address());
    println!("registered in block {block}, as uid {} for {cost} rao", neuron.uid.0);

    // A commitment in plain text, and one that the runtime reveals.
    let block = plain.commit(SUBNET, "v7|a/b|plain", None, &cx).await.expect("committed");
    let head = plain.head(&cx).await.expect("a head");
    let reveals = plain.reveals(SUBNET, &head, &cx).await.expect("read");
    assert_eq!(reveals[0].content, Content::Text("v7|a/b|plain".into()));
    let index = plain.commitment_index(SUBNET, &hotkey.hotkey(), block, &cx).await.expect("read");
    println!("committed in block {block}, extrinsic {index:?}: {:?}", reveals[0].content);

    // A beacon that counts the chain's present as the round of the fixture.
    let state = plain.reader.at(&head, &cx).await.expect("known");
    let now = plain.reader.time(&state, &cx).await.expect("read") / 1000;
    let sealing = client(Beacon { genesis: 0, period: now / ROUND, ..Beacon::quicknet() });
    let block = sealing.commit(SUBNET, "v7|a/b|sealed", Some(1), &cx).await.expect("committed");
    let head = sealing.head(&cx).await.expect("a head");
    let reveals = sealing.reveals(SUBNET, &head, &cx).await.expect("read");
    assert!(matches!(reveals[0].content, Content::Hidden { reveal_round: ROUND, .. }), "{reveals:?}");
    let pulse = std::fs::read_to_string(TIMELOCK).expect("the fixture");
    let pulse: Json = serde_json::from_str(&pulse).expect("JSON");
    let signature = pulse["signature"].as_str().expect("hexadecimal");
    let drand = json!({"Drand": {
        "Pulses": [[[ROUND], {"round": ROUND, "randomness": "0x00", "signature": format!("0x{signature}")}]],
        "LastStoredRound": ROUND,
    }});
    node.set(drand.clone()).await;
    node.blocks(2).await;
    let head = sealing.head(&cx).await.expect("a head");
    let ledger = Ledger::in_memory().expect("opens");
    let found = ledger.follow(&sealing, SUBNET, &head, &cx).await.expect("followed");
    let sealed = found.iter().find(|found| found.content == Content::Text("v7|a/b|sealed".into()));
    let sealed = sealed.unwrap_or_else(|| panic!("not revealed: {found:?}"));
    assert_eq!((sealed.place.block, sealed.place.dated_by), (block, DatedBy::Commitment));
    let Sighting { place, readable_at, content, .. } = sealed;
    println!("committed in block {block}, timelocked; revealed: {content:?}, {place:?}, {readable_at:?}");

    // Plain weights, early in an epoch.
    let early = async || {
        let head = plain.head(&cx).await.expect("a head");
        let subnet = plain.subnet(SUBNET, &head, &cx).await.expect("read");
        node.blocks(subnet.next_epoch - head.number + 1).await;
        let head = plain.head(&cx).await.expect("a head");
        plain.subnet(SUBNET, &head, &cx).await.expect("read").epoch
    };
    let weigh = async |client: &Subtensor, epoch, weights: [u16; 2]| {
        let head = client.head(&cx).await.expect("a head");
        let metagraph = client.metagraph(SUBNET, &head, &cx).await.expect("read");
        let shares = metagraph.neurons.iter().zip(weights).map(|(neuron, weight)| Share {
            uid: neuron.uid,
            hotkey: neuron.hotkey.clone(),
            weight,
        });
        let vector = WeightVector {
            key: WeightKey {
                genesis: client.genesis(&cx).await.expect("known"),
                netuid: SUBNET,
                mechanism: MechanismId(0),
                epoch,
                hotkey: hotkey.hotkey(),
            },
            version_key: 0,
            shares: shares.collect(),
        };
        let cleared = WeightJournal::new(journal.clone()).clear(vector.clone()).await.expect("cleared");
        let receipt = client.set_weights(cleared, &cx).await.expect("in a block");
        (vector, receipt)
    };
    let view = async || {
        let head = plain.head(&cx).await.expect("a head");
        plain.weights(SUBNET, &head, &cx).await.expect("read").rows
    };
    let epoch = early().await;
    let (vector, receipt) = weigh(&plain, epoch, [21_845, 43_690]).await;
    assert_eq!((receipt.epoch, receipt.effect), (epoch, WeightEffect::Set));
    let rows = view().await;
    let row = rows.iter().find(|row| row.validator == neuron.uid).expect("set");
    println!("weights set: {receipt:?}; in the state: {:?}", row.weights);
    // The runtime scales the largest to 65,535, and rounds the others.
    assert!(are_in_force(&vector.shares, &row.weights), "{row:?}");

    // Committed weights (CRv3), which the runtime opens in a later epoch.
    node.set(json!({"SubtensorModule": {"CommitRevealWeightsEnabled": [[[SUBNET.0], true]]}})).await;
    let epoch = early().await;
    let (vector, receipt) = weigh(&sealing, epoch, [43_690, 21_845]).await;
    assert_eq!(receipt.effect, WeightEffect::Committed { reveal_round: ROUND });
    let head = sealing.head(&cx).await.expect("a head");
    let waiting = sealing.revealed(&vector, &receipt, &head, &cx).await.expect("read");
    println!("weights committed (CRv3): {receipt:?}; {waiting:?}");
    assert!(matches!(waiting, Revealed::Waiting { .. }), "{waiting:?}");
    node.set(drand).await;
    node.blocks(2 * REAL_TEMPO + 4).await;
    let head = sealing.head(&cx).await.expect("a head");
    let revealed = sealing.revealed(&vector, &receipt, &head, &cx).await.expect("read");
    let rows = view().await;
    let row = rows.iter().find(|row| row.validator == neuron.uid).expect("revealed");
    println!("weights revealed: {revealed:?} at block {}; in the state: {:?}", head.number, row.weights);
    assert_eq!(revealed, Revealed::InForce);

    // The same by the newer methods, which the node for tests does not have.
    let newer = SubtensorConfig { backend: BackendKind::Chainhead, ..settings };
    let newer = Subtensor::new(&newer).expect("good settings");
    let head = newer.head(&cx).await.expect("a head");
    assert_eq!(
        newer.metagraph(SUBNET, &head, &cx).await.expect("read"),
        plain.metagraph(SUBNET, &head, &cx).await.expect("read")
    );
    assert_eq!(
        newer.reveals(SUBNET, &head, &cx).await.expect("read"),
        plain.reveals(SUBNET, &head, &cx).await.expect("read")
    );
    println!("read again by `chainHead`: metagraph and reveals of block {} are the same", head.number);

    // Beside the revealed commitment one stands: both are read again.
    plain.commit(SUBNET, "v7|a/b|standing", None, &cx).await.expect("committed");
    if let Ok(path) = std::env::var("ALBEDO_CHAIN_RUNTIME_STATE") {
        std::fs::write(path, everything(&plain, &cx).await.to_string()).expect("written");
    }
}

/// Everything that the client reads at the head, for another reader.
async fn everything(client: &Subtensor, cx: &CallContext) -> Json {
    let head = client.head(cx).await.expect("a head");
    let at = client.reader.at(&head, cx).await.expect("known");
    let neurons = client.metagraph(SUBNET, &head, cx).await.expect("read").neurons;
    let mut last_update = Vec::new();
    for neuron in &neurons {
        let key = address::account(&neuron.hotkey).expect("an address");
        last_update.push(client.reader.last_update(SUBNET, &key, &at, cx).await.expect("read"));
    }
    let (mut standing, mut revealed) = (Vec::new(), serde_json::Map::new());
    for reveal in client.reveals(SUBNET, &head, cx).await.expect("read") {
        let Content::Text(text) = reveal.content else { panic!("{reveal:?}") };
        match reveal.place.dated_by {
            DatedBy::Commitment => standing.push(reveal.hotkey),
            DatedBy::Reveal => {
                let all = revealed.entry(reveal.hotkey.0).or_insert_with(|| json!([]));
                all.as_array_mut().expect("a list").push(json!([text, reveal.place.block]));
            }
        }
    }
    json!({
        "netuid": SUBNET,
        "block": head,
        "time": client.reader.time(&at, cx).await.expect("read"),
        "subnet": client.subnet(SUBNET, &head, cx).await.expect("read"),
        "neurons": neurons,
        "last_update": last_update,
        "weights": client.weights(SUBNET, &head, cx).await.expect("read").rows,
        "standing": standing,
        "revealed": revealed,
    })
}

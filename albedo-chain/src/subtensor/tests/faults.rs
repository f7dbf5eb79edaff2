//! How long recovery takes, with the deadlines that the client has by default:
//! the table in `docs/chain.md`. On demand, some three minutes:
//!
//! ```console
//! cargo test --release -p albedo-chain --features test-node recovery_times -- --ignored --nocapture
//! ```

use tokio::time::Instant;

use super::*;
use crate::testnode::Faults;

/// A client of two nodes, with the usual deadlines; the first has the fault.
struct Case {
    bad: TestNode,
    good: TestNode,
    client: Subtensor,
    cx: CallContext,
    started: Instant,
}

impl Case {
    async fn start(fault: fn(&mut Faults)) -> Self {
        let metadata = metadata::newest();
        let long = || TestSubnet { tempo: 2000, ..subnet(false) };
        let (bad, good) =
            (TestNode::start(&metadata, 1, long()).await, TestNode::start(&metadata, 1, long()).await);
        let settings = SubtensorConfig { poll_ms: 100, ..SubtensorConfig::default() };
        let settings = SubtensorConfig {
            endpoints: vec![bad.endpoint(), good.endpoint()],
            genesis: BlockHash(bad.genesis()).to_string(),
            ..settings
        };
        let journal = ChainJournal::in_memory().expect("opens");
        let client = Subtensor::new(&settings).expect("good settings");
        let client = client.with_journal(journal, bad.beacon(), Duration::from_millis(100));
        let client = client.with_signer(Arc::new(key(9)));
        let cx = CallContext::new();
        client.head(&cx).await.expect("answers at first");
        bad.fault(fault);
        Self { bad, good, client, cx, started: Instant::now() }
    }

    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "on demand: it waits for deadlines of 30 s and 120 s"]
async fn recovery_times() {
    println!("| cause | fault, as the caller meets it | recovered after |");
    println!("| --- | --- | --- |");

    for (cause, fault) in [
        ("the node closes the connection", (|faults| faults.dead = true) as fn(&mut Faults)),
        ("the node answers what is no JSON-RPC", |faults| faults.garbage = true),
        ("socket open, node silent", |faults| faults.silent = true),
    ] {
        let case = Case::start(fault).await;
        case.client.head(&case.cx).await.expect("the next endpoint");
        println!("| {cause} | none | {:.1} s |", case.seconds());
    }

    let case = Case::start(|_| {}).await;
    case.good.produce(5);
    while case.client.head(&case.cx).await.expect("a head").number < 6 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("| no new block | none | {:.1} s |", case.seconds());

    let case = Case::start(|faults| faults.refuse = Some("Transaction has low priority".into())).await;
    case.bad.set_pace(Pace::Driven);
    let error = case.client.commit(NETUID, "x", None, &case.cx).await.expect_err("refused");
    println!(
        "| the pool refuses (low priority) | {:?}, {:?} | {} blocks |",
        error.kind(),
        error.fault(),
        case.bad.height()
    );

    let case = Case::start(|_| {}).await;
    case.bad.change(|subnet| subnet.neurons[2].validator_permit = false);
    case.bad.produce(1);
    let now = epoch(&case.client).await;
    let weights = cleared(&case.client, now, [21_845, 43_690]).await;
    let error = case.client.set_weights(weights.clone(), &case.cx).await.expect_err("no permit");
    case.bad.change(|subnet| subnet.neurons[2].validator_permit = true);
    case.bad.produce(1);
    case.bad.set_pace(Pace::Instant);
    case.client.set_weights(weights, &case.cx).await.expect("set");
    println!("| permit lost | {:?}, {:?} | the block that has it back |", error.kind(), error.fault());

    let case = Case::start(|_| {}).await;
    case.bad.set_pace(Pace::Driven);
    case.client.commit(NETUID, "first", None, &case.cx).await.expect("committed");
    case.bad.use_nonce(key(9).public_key());
    let error = case.client.commit(NETUID, "second", None, &case.cx).await.expect_err("stale");
    println!("| stale nonce | {:?}, {:?} | until it is acknowledged |", error.kind(), error.fault());

    for (cause, lose) in [("a fork drops the block", false), ("a fork loses the extrinsic", true)] {
        let case = Case::start(|_| {}).await;
        case.bad.produce(10);
        case.bad.set_lag(3);
        let committing = case.client.commit(NETUID, "x", None, &case.cx);
        let forking = async {
            case.bad.until(|node| !node.pool().is_empty()).await;
            case.bad.produce(2);
            let height = case.bad.height();
            case.bad.fork(2, lose);
            case.bad.set_pace(Pace::Driven);
            height
        };
        let (block, height) = tokio::join!(committing, forking);
        println!("| {cause} | none | {} blocks |", block.expect("committed").saturating_sub(height - 2));
    }

    let case = Case::start(|faults| faults.forget = true).await;
    let weights = cleared(&case.client, epoch(&case.client).await, [21_845, 43_690]).await;
    let setting = case.client.set_weights(weights, &case.cx);
    let upgrading = async {
        case.bad.until(|node| node.sent() > 0).await;
        let height = case.bad.height();
        case.bad.upgrade(&metadata::newest(), 2);
        case.bad.fault(|faults| faults.forget = false);
        case.bad.set_pace(Pace::Driven);
        height
    };
    let (receipt, height) = tokio::join!(setting, upgrading);
    println!(
        "| the runtime is upgraded under way | none | {} blocks |",
        receipt.expect("set").block - height
    );

    let neurons = (0..256_u16).map(|index| {
        let mut hotkey = [7; 32];
        hotkey[..2].copy_from_slice(&index.to_le_bytes());
        TestNeuron { hotkey, ..neuron(1, false) }
    });
    let full = TestSubnet { neurons: neurons.collect(), ..subnet(true) };
    let node = TestNode::start(&metadata::newest(), 1, full).await;
    node.commit_for_all("v7|a/b|x");
    let (client, cx) = (reader(&node), CallContext::new());
    let started = Instant::now();
    let head = client.head(&cx).await.expect("a head");
    let neurons = client.metagraph(NETUID, &head, &cx).await.expect("read").neurons.len();
    let reveals = client.reveals(NETUID, &head, &cx).await.expect("read").len();
    let (seconds, requests) = (started.elapsed().as_secs_f64(), node.asked());
    println!(
        "{neurons} neurons and {reveals} commitments, from the connect on: {requests} requests, {seconds:.3} s"
    );
}

//! What goes wrong, what the caller meets, and how it goes on: the table in
//! `docs/chain.md`, row by row. With the deadlines that the client has by
//! default it measures, on demand and in some four minutes:
//!
//! ```console
//! cargo test --release -p albedo-chain --features test-node recovery_times -- --ignored --nocapture
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::*;
use crate::testnode::Faults;

/// What the caller meets: kind, fault, and whether it may be tried again.
type Met = (ErrorKind, Fault, bool);

/// A row of the table.
struct Row {
    cause: &'static str,
    /// `None` if the caller notices nothing.
    met: Option<Met>,
    recovered: String,
}

/// How patient the client is.
#[derive(Clone, Copy)]
struct Deadlines {
    call: Duration,
    stall: Duration,
    poll: Duration,
}

/// The client's own.
fn usual() -> Deadlines {
    let config = SubtensorConfig::default();
    Deadlines {
        call: Duration::from_millis(config.call_timeout_ms),
        stall: Duration::from_millis(config.stall_ms),
        poll: Duration::from_millis(100),
    }
}

/// A client of two nodes; the first gets the fault once it has been asked.
struct Case {
    bad: TestNode,
    good: TestNode,
    client: Subtensor,
    journal: ChainJournal,
    cx: CallContext,
    started: Instant,
}

impl Case {
    async fn start(deadlines: Deadlines, commit_reveal: bool, fault: fn(&mut Faults)) -> Self {
        let metadata = metadata::newest();
        let long = || TestSubnet { tempo: 2000, ..subnet(commit_reveal) };
        let (bad, good) =
            (TestNode::start(&metadata, 1, long()).await, TestNode::start(&metadata, 1, long()).await);
        let settings = SubtensorConfig {
            call_timeout_ms: deadlines.call.as_millis() as u64,
            stall_ms: deadlines.stall.as_millis() as u64,
            ..config(&[&bad, &good])
        };
        let journal = ChainJournal::in_memory().expect("opens");
        let client = Subtensor::new(&settings).expect("good settings");
        let client = client.with_journal(journal.clone(), bad.beacon(), deadlines.poll);
        let client = client.with_signer(Arc::new(key(9)));
        let cx = CallContext::new();
        client.head(&cx).await.expect("answers at first");
        bad.fault(fault);
        Self { bad, good, client, journal, cx, started: Instant::now() }
    }

    async fn weights(&self) -> Cleared<WeightVector> {
        cleared(&self.client, epoch(&self.client).await, [21_845, 43_690]).await
    }

    fn seconds(&self) -> String {
        format!("{:.1} s", self.started.elapsed().as_secs_f64())
    }
}

fn met(error: &Error) -> Met {
    (error.kind(), error.fault(), error.is_retryable())
}

fn blocks(count: u64) -> String {
    if count == 1 { "1 block".to_owned() } else { format!("{count} blocks") }
}

async fn every_row(deadlines: Deadlines) -> Vec<Row> {
    let patient = Deadlines { call: usual().call, stall: usual().stall, ..deadlines };
    let prompt = Deadlines { stall: usual().stall, ..deadlines };
    vec![
        connection("the node closes the connection", prompt, |faults| faults.dead = true).await,
        connection("the node answers what is no JSON-RPC", prompt, |faults| faults.garbage = true).await,
        connection("socket open, node silent", prompt, |faults| faults.silent = true).await,
        hung_connect(prompt).await,
        no_new_block(Deadlines { call: usual().call, ..deadlines }).await,
        every_endpoint_down(patient).await,
        wrong_genesis(patient).await,
        low_priority(patient).await,
        refused_to_the_end(patient).await,
        permit_lost(patient).await,
        permit_lost_on_the_way(patient).await,
        too_fast(patient).await,
        stale_nonce(patient).await,
        outdated_on_the_way(patient).await,
        fork("a fork drops the block", patient, false).await,
        fork("a fork loses the extrinsic", patient, true).await,
        upgrade(patient).await,
        no_result(patient).await,
        clock(patient).await,
    ]
}

async fn connection(cause: &'static str, deadlines: Deadlines, fault: fn(&mut Faults)) -> Row {
    let case = Case::start(deadlines, false, fault).await;
    case.client.head(&case.cx).await.expect("the next endpoint");
    assert!(!case.good.take_requests().is_empty());
    Row { cause, met: None, recovered: case.seconds() }
}

/// The system takes the connection, and nobody answers the handshake.
async fn hung_connect(deadlines: Deadlines) -> Row {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let good = TestNode::start(&metadata::newest(), 1, subnet(false)).await;
    let hung = format!("ws://{}", listener.local_addr().expect("an address"));
    let settings = SubtensorConfig {
        endpoints: vec![hung, good.endpoint()],
        call_timeout_ms: deadlines.call.as_millis() as u64,
        ..config(&[&good])
    };
    let client = Subtensor::new(&settings).expect("good settings");
    let started = Instant::now();
    client.head(&CallContext::new()).await.expect("the next endpoint");
    let recovered = format!("{:.1} s", started.elapsed().as_secs_f64());
    Row { cause: "a connect that hangs", met: None, recovered }
}

async fn every_endpoint_down(deadlines: Deadlines) -> Row {
    let case = Case::start(deadlines, false, |faults| faults.dead = true).await;
    case.good.fault(|faults| faults.dead = true);
    let error = case.client.head(&case.cx).await.expect_err("nobody answers");
    case.good.fault(|faults| faults.dead = false);
    let started = Instant::now();
    case.client.head(&case.cx).await.expect("one answers");
    let recovered = format!("{:.1} s after one answers", started.elapsed().as_secs_f64());
    Row { cause: "every endpoint down", met: Some(met(&error)), recovered }
}

async fn no_new_block(deadlines: Deadlines) -> Row {
    let case = Case::start(deadlines, false, |_| {}).await;
    case.good.produce(5);
    while case.client.head(&case.cx).await.expect("a head").number < 6 {
        tokio::time::sleep(deadlines.poll).await;
    }
    Row { cause: "no new block", met: None, recovered: case.seconds() }
}

async fn wrong_genesis(deadlines: Deadlines) -> Row {
    let case = Case::start(deadlines, false, |faults| faults.other_genesis = true).await;
    let alone = reader(&case.bad);
    let error = alone.head(&case.cx).await.expect_err("another chain");
    let both = Subtensor::new(&config(&[&case.bad, &case.good])).expect("good settings");
    let started = Instant::now();
    both.head(&case.cx).await.expect("the other endpoint");
    let recovered = format!("{:.1} s, by another endpoint", started.elapsed().as_secs_f64());
    Row { cause: "wrong genesis", met: Some(met(&error)), recovered }
}

async fn low_priority(deadlines: Deadlines) -> Row {
    let refuse = |faults: &mut Faults| faults.refuse = Some((1014, "Priority is too low: (1 vs 2)"));
    let case = Case::start(deadlines, false, refuse).await;
    case.bad.set_pace(Pace::Driven);
    let committing = case.client.commit(NETUID, "x", None, &case.cx);
    let accepting = async {
        case.bad.until(|node| node.sent() >= 3).await;
        case.bad.fault(|faults| faults.refuse = None);
        case.bad.height()
    };
    let (block, height) = tokio::join!(committing, accepting);
    let block = block.expect("the pool takes it at last");
    assert_eq!(case.bad.landed().len(), 1);
    Row { cause: "the pool refuses for a while (low priority)", met: None, recovered: blocks(block - height) }
}

async fn refused_to_the_end(deadlines: Deadlines) -> Row {
    let refuse = |faults: &mut Faults| faults.refuse = Some((1014, "Priority is too low: (1 vs 2)"));
    let case = Case::start(deadlines, false, refuse).await;
    case.bad.set_pace(Pace::Driven);
    let height = case.bad.height();
    let error = case.client.commit(NETUID, "x", None, &case.cx).await.expect_err("refused");
    assert!(error.to_string().contains("Priority is too low"), "{error}");
    let recovered = blocks(case.bad.height() - height);
    case.bad.fault(|faults| faults.refuse = None);
    case.client.commit(NETUID, "x", None, &case.cx).await.expect("signed anew");
    assert_eq!(case.bad.landed().len(), 1);
    Row { cause: "the pool refuses to the end (low priority)", met: Some(met(&error)), recovered }
}

async fn permit_lost(deadlines: Deadlines) -> Row {
    let case = Case::start(deadlines, false, |_| {}).await;
    case.bad.change(|subnet| subnet.neurons[2].validator_permit = false);
    case.bad.produce(1);
    let weights = case.weights().await;
    let error = case.client.set_weights(weights.clone(), &case.cx).await.expect_err("no permit");
    assert_eq!(case.bad.sent(), 0, "nothing was signed");
    case.bad.change(|subnet| subnet.neurons[2].validator_permit = true);
    case.bad.produce(1);
    case.bad.set_pace(Pace::Instant);
    let height = case.bad.height();
    let block = case.client.set_weights(weights, &case.cx).await.expect("set").block;
    let recovered = format!("{} after it has it back", blocks(block - height));
    Row { cause: "permit lost", met: Some(met(&error)), recovered }
}

async fn permit_lost_on_the_way(deadlines: Deadlines) -> Row {
    let case = Case::start(deadlines, false, |_| {}).await;
    let weights = case.weights().await;
    let setting = case.client.set_weights(weights.clone(), &case.cx);
    let losing = async {
        case.bad.until(|node| !node.pool().is_empty()).await;
        case.bad.change(|subnet| subnet.neurons[2].validator_permit = false);
        case.bad.produce(1);
    };
    let (set, ()) = tokio::join!(setting, losing);
    let error = set.expect_err("refused in its block");
    assert!(error.to_string().contains("NeuronNoValidatorPermit"), "{error}");
    case.bad.change(|subnet| subnet.neurons[2].validator_permit = true);
    case.bad.produce(1);
    case.bad.set_pace(Pace::Instant);
    let height = case.bad.height();
    let block = case.client.set_weights(weights, &case.cx).await.expect("signed anew").block;
    let recovered = format!("{} after it has it back", blocks(block - height));
    Row { cause: "permit lost on the way", met: Some(met(&error)), recovered }
}

async fn too_fast(deadlines: Deadlines) -> Row {
    let case = Case::start(deadlines, true, |_| {}).await;
    case.bad.change(|subnet| subnet.weights_rate_limit = 50);
    case.bad.produce(60);
    let weights = case.weights().await;
    let setting = case.client.set_weights(weights.clone(), &case.cx);
    let meanwhile = async {
        case.bad.until(|node| !node.pool().is_empty()).await;
        let height = case.bad.height();
        case.bad.change(|subnet| subnet.neurons[2].last_update = height);
        case.bad.produce(1);
    };
    let (set, ()) = tokio::join!(setting, meanwhile);
    let error = set.expect_err("refused in its block");
    assert!(error.to_string().contains("CommittingWeightsTooFast"), "{error}");
    let height = case.bad.height();
    case.bad.set_pace(Pace::Driven);
    let block = loop {
        match case.client.set_weights(weights.clone(), &case.cx).await {
            Ok(receipt) => break receipt.block,
            Err(error) => assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}"),
        }
    };
    let recovered = format!("{}, of a rate limit of 50", blocks(block - height));
    Row { cause: "`CommittingWeightsTooFast` in the block", met: Some(met(&error)), recovered }
}

async fn stale_nonce(deadlines: Deadlines) -> Row {
    let case = Case::start(deadlines, false, |_| {}).await;
    case.bad.set_pace(Pace::Driven);
    case.client.commit(NETUID, "first", None, &case.cx).await.expect("committed");
    case.bad.use_nonce(key(9).public_key());
    let error = case.client.commit(NETUID, "second", None, &case.cx).await.expect_err("stale");
    goes_on_once_acknowledged(&case).await;
    let recovered = "once it is acknowledged".to_owned();
    Row { cause: "the nonce was used by somebody else", met: Some(met(&error)), recovered }
}

async fn outdated_on_the_way(deadlines: Deadlines) -> Row {
    let case = Case::start(deadlines, false, |faults| faults.forget = true).await;
    let committing = case.client.commit(NETUID, "first", None, &case.cx);
    let overtaking = async {
        case.bad.until(|node| node.sent() > 0).await;
        case.bad.use_nonce(key(9).public_key());
        case.bad.produce(1);
        case.bad.set_pace(Pace::Driven);
    };
    let (sent, ()) = tokio::join!(committing, overtaking);
    let error = sent.expect_err("it can never land");
    assert!(error.to_string().contains("used up by an extrinsic that is not ours"), "{error}");
    case.bad.fault(|faults| faults.forget = false);
    let stopped = case.client.commit(NETUID, "second", None, &case.cx).await.expect_err("an alert");
    assert_eq!((stopped.kind(), stopped.fault()), (ErrorKind::Conflict, Fault::Operator), "{stopped}");
    goes_on_once_acknowledged(&case).await;
    let recovered = "once it is acknowledged".to_owned();
    Row { cause: "the nonce was used by somebody else on the way", met: Some(met(&error)), recovered }
}

async fn goes_on_once_acknowledged(case: &Case) {
    let account = account(&case.bad);
    assert!(case.journal.alerted(account).await.expect("read").is_some());
    case.journal.acknowledge(account).await.expect("acknowledged");
    case.client.commit(NETUID, "on", None, &case.cx).await.expect("goes on");
}

async fn fork(cause: &'static str, deadlines: Deadlines, lose: bool) -> Row {
    let case = Case::start(deadlines, false, |_| {}).await;
    case.bad.produce(10);
    case.bad.set_lag(3);
    let committing = case.client.commit(NETUID, "x", None, &case.cx);
    let forking = async {
        case.bad.until(|node| !node.pool().is_empty()).await;
        case.bad.produce(2);
        let height = case.bad.height();
        case.bad.fork(2, lose);
        case.bad.set_pace(Pace::Driven);
        height - 2
    };
    let (block, height) = tokio::join!(committing, forking);
    assert_eq!(case.bad.landed().len(), 1);
    Row { cause, met: None, recovered: blocks(block.expect("committed") - height) }
}

async fn upgrade(deadlines: Deadlines) -> Row {
    let case = Case::start(deadlines, false, |faults| faults.forget = true).await;
    let weights = case.weights().await;
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
    assert_eq!(case.bad.landed().len(), 1);
    let block = receipt.expect("signed anew").block;
    Row { cause: "the runtime is upgraded under way", met: None, recovered: blocks(block - height) }
}

/// Without the event that says so, an extrinsic in a block has not succeeded.
async fn no_result(deadlines: Deadlines) -> Row {
    let case = Case::start(deadlines, false, |faults| faults.without_results = true).await;
    case.bad.set_pace(Pace::Instant);
    let error = case.client.commit(NETUID, "x", None, &case.cx).await.expect_err("no event");
    assert!(error.to_string().contains("no event says whether the extrinsic succeeded"), "{error}");
    assert!(case.journal.live(account(&case.bad)).await.expect("read").is_some());
    let again = case.client.commit(NETUID, "y", None, &case.cx).await.expect_err("the first is not over");
    assert_eq!((met(&again), case.bad.landed().len()), (met(&error), 1), "{again}");
    let recovered = "once a node has the event".to_owned();
    Row { cause: "no event says whether it succeeded", met: Some(met(&error)), recovered }
}

/// Weights are revealed in the same block, whatever the difference between this
/// machine's clock and the chain's is.
async fn clock(deadlines: Deadlines) -> Row {
    let mut revealed = Vec::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    for next in [now, now - 120_000, now + 120_000] {
        let case = Case::start(deadlines, true, |_| {}).await;
        case.bad.change(|subnet| subnet.tempo = 100);
        case.bad.set_time(next);
        case.bad.produce(1);
        case.bad.set_pace(Pace::Instant);
        let weights = case.weights().await;
        case.client.set_weights(weights.clone(), &case.cx).await.expect("committed");
        let in_force = async || {
            let head = case.client.head(&case.cx).await.expect("a head");
            let rows = case.client.weights(NETUID, &head, &case.cx).await.expect("read").rows;
            rows.iter().any(|row| row.validator == Uid(2)).then_some(head.number)
        };
        revealed.push(loop {
            match in_force().await {
                Some(block) => break block,
                None => case.bad.produce(1),
            }
            assert!(case.bad.height() < 300, "never revealed");
        });
    }
    assert!(revealed.iter().all(|block| *block == revealed[0]), "{revealed:?}");
    let recovered = "0 blocks: times are the chain's".to_owned();
    Row { cause: "this machine's clock is 2 minutes off", met: None, recovered }
}

/// What the caller meets, as `docs/chain.md` says.
const EXPECTED: [Option<Met>; 19] = {
    use ErrorKind as Kind;
    use Fault::{Infrastructure, Operator};
    [
        None,
        None,
        None,
        None,
        None,
        Some((Kind::Unavailable, Infrastructure, true)),
        Some((Kind::Protocol, Operator, false)),
        None,
        Some((Kind::Unavailable, Infrastructure, true)),
        Some((Kind::Unsupported, Operator, false)),
        Some((Kind::Unsupported, Operator, false)),
        Some((Kind::RateLimited, Infrastructure, true)),
        Some((Kind::Conflict, Operator, false)),
        Some((Kind::Unavailable, Infrastructure, true)),
        None,
        None,
        None,
        Some((Kind::Protocol, Infrastructure, true)),
        None,
    ]
};

#[tokio::test(flavor = "multi_thread")]
async fn every_cause_has_its_error_and_its_end() {
    let impatient = Deadlines {
        call: Duration::from_millis(300),
        stall: Duration::from_millis(50),
        poll: Duration::from_millis(2),
    };
    let rows = every_row(impatient).await;
    assert_eq!(rows.len(), EXPECTED.len());
    for (row, expected) in rows.iter().zip(EXPECTED) {
        assert_eq!(row.met, expected, "{}", row.cause);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "on demand: it waits for deadlines of 30 s and 120 s"]
async fn recovery_times() {
    println!("| cause | the caller meets | recovered after |");
    println!("| --- | --- | --- |");
    for Row { cause, met, recovered } in every_row(usual()).await {
        let met = met.map_or("nothing".to_owned(), |(kind, fault, again)| {
            let again = if again { "may be tried again" } else { "final" };
            format!("{kind:?}, {fault:?}, {again}")
        });
        println!("| {cause} | {met} | {recovered} |");
    }
    println!("{}", two_hundred_and_fifty_six().await);
}

/// Time and requests of the largest subnet: from the connect on, and in the
/// block after.
async fn two_hundred_and_fifty_six() -> String {
    let neurons = (0..256_u16).map(|index| {
        let mut hotkey = [7; 32];
        hotkey[..2].copy_from_slice(&index.to_le_bytes());
        TestNeuron { hotkey, ..neuron(1, false) }
    });
    let full = TestSubnet { neurons: neurons.collect(), ..subnet(true) };
    let node = TestNode::start(&metadata::newest(), 1, full).await;
    node.commit_for_all("v7|a/b|x");
    let (client, cx) = (reader(&node), CallContext::new());
    let read = async || {
        let (asked, started) = (node.asked(), Instant::now());
        let head = client.head(&cx).await.expect("a head");
        let neurons = client.metagraph(NETUID, &head, &cx).await.expect("read").neurons.len();
        let reveals = client.reveals(NETUID, &head, &cx).await.expect("read").len();
        assert_eq!((neurons, reveals), (256, 256));
        format!("{} requests, {:.3} s", node.asked() - asked, started.elapsed().as_secs_f64())
    };
    let first = read().await;
    node.produce(1);
    format!(
        "256 neurons and 256 commitments: {first} from the connect on; {} in the block after",
        read().await
    )
}

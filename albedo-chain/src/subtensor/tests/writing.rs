//! What is signed, and when nothing is.

use std::collections::BTreeMap;

use albedo_core::Digest;

use super::*;
use crate::journal::Outcome;
use crate::subtensor::write::USUAL_LIFE;

#[tokio::test]
async fn an_upgrade_under_way_ends_what_was_signed_for_the_old_runtime() {
    let (old, new) = (metadata::oldest(), metadata::newest());
    let node = TestNode::start(&old, 1, subnet(false)).await;
    let ((client, _), cx) = (writer(&node), CallContext::new());
    node.fault(|faults| faults.forget = true);
    let sending = client.commit(NETUID, "first", None, &cx);
    let upgrading = async {
        node.until(|node| node.sent() > 0).await;
        node.upgrade(&new, 2);
        node.produce(4);
    };
    let (sent, ()) = tokio::join!(sending, upgrading);
    let error = sent.expect_err("it cannot land any more");
    assert!(error.to_string().contains("the runtime changed from 1 to 2"), "{error}");
    node.fault(|faults| faults.forget = false);
    node.set_pace(Pace::Instant);
    client.commit(NETUID, "second", None, &cx).await.expect("signed for the new runtime");
    assert_eq!(node.landed().len(), 1);
}

#[tokio::test]
async fn one_extrinsic_per_key_is_on_its_way() {
    let metadata = metadata::newest();
    let node = TestNode::start(&metadata, 2, subnet(false)).await;
    let ((client, _), cx) = (writer(&node), CallContext::new());
    let first = cleared(&client, epoch(&client).await, [21_845, 43_690]).await;
    node.fault(|faults| faults.forget = true);
    // The first submission is stuck; the commitment behind it waits.
    for (sends, call) in [(1, "weights"), (2, "a commitment")] {
        let cx = cx.child();
        let stopping = async {
            node.until(|node| node.sent() == sends).await;
            cx.cancel();
        };
        let error = match call {
            "weights" => tokio::join!(client.set_weights(first.clone(), &cx), stopping).0.expect_err(call),
            _ => tokio::join!(client.commit(NETUID, "x", None, &cx), stopping).0.expect_err(call),
        };
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        assert!(error.to_string().contains("SubtensorModule.set_mechanism_weights"), "{error}");
    }
    node.fault(|faults| faults.forget = false);
    node.set_pace(Pace::Instant);
    client.commit(NETUID, "x", None, &cx).await.expect("now");
    client.set_weights(first, &cx).await.expect("set");
    let calls: Vec<_> = node.landed().into_iter().map(|landed| landed.call).collect();
    assert_eq!(calls, ["set_mechanism_weights", "set_commitment"]);
    let mut nonces = BTreeMap::new();
    for landed in node.landed() {
        *nonces.entry(landed.nonce).or_insert(0) += 1;
    }
    assert!(nonces.values().all(|count| *count == 1), "{nonces:?}");
}

#[tokio::test]
async fn an_expired_submission_is_signed_anew_in_its_epoch() {
    let metadata = metadata::newest();
    let node = TestNode::start(&metadata, 2, TestSubnet { tempo: 1000, ..subnet(true) }).await;
    let ((client, journal), cx) = (writer(&node), CallContext::new());
    let weights = cleared(&client, epoch(&client).await, [21_845, 43_690]).await;
    node.fault(|faults| faults.forget = true);
    let setting = client.set_weights(weights, &cx);
    let letting_it_expire = async {
        node.until(|node| node.sent() > 0).await;
        let first = journal.live(account(&node)).await.expect("read").expect("it was sent");
        node.produce(first.last_block - node.height());
        node.set_pace(Pace::Instant);
        node.fault(|faults| faults.forget = false);
        first
    };
    let (receipt, first) = tokio::join!(setting, letting_it_expire);
    assert!(receipt.expect("set").block > first.last_block);
    assert_eq!(node.landed().len(), 1);
}

#[tokio::test]
async fn a_nonce_of_somebody_else_stops_writing() {
    let metadata = metadata::newest();
    let node = TestNode::start(&metadata, 2, subnet(false)).await;
    let ((client, journal), cx) = (writer(&node), CallContext::new());
    node.set_pace(Pace::Instant);
    client.commit(NETUID, "ours", None, &cx).await.expect("committed");
    node.use_nonce(key(9).public_key());
    let error = client.commit(NETUID, "again", None, &cx).await.expect_err("somebody else signs");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator), "{error}");
    assert!(journal.alerted(account(&node)).await.expect("read").is_some());
    journal.acknowledge(account(&node)).await.expect("acknowledged");
    client.commit(NETUID, "on", None, &cx).await.expect("goes on");
}

#[tokio::test]
async fn what_the_chain_refuses_is_said_with_who_has_to_act() {
    let metadata = metadata::newest();
    let node = TestNode::start(&metadata, 2, TestSubnet { tempo: 1000, ..subnet(true) }).await;
    let ((client, journal), cx) = (writer(&node), CallContext::new());
    let now = epoch(&client).await;
    let weights = cleared(&client, now, [21_845, 43_690]).await;

    // Refused before anything is signed.
    node.change(|subnet| subnet.neurons[2].validator_permit = false);
    node.produce(1);
    let error = client.set_weights(weights.clone(), &cx).await.expect_err("no permit");
    assert_eq!(error.fault(), Fault::Operator, "{error}");
    node.change(|subnet| {
        subnet.neurons[2].validator_permit = true;
        subnet.neurons[2].last_update = 1;
        subnet.weights_rate_limit = 50;
    });
    node.produce(1);
    let error = client.set_weights(weights.clone(), &cx).await.expect_err("too soon");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::RateLimited, Fault::Infrastructure), "{error}");
    node.change(|subnet| subnet.neurons[0].hotkey = [3; 32]);
    node.produce(60);
    let error = client.set_weights(weights.clone(), &cx).await.expect_err("a slot changed hands");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!((node.landed().len(), journal.live(account(&node)).await.expect("read")), (0, None));

    // Refused in the block: too soon, by what happened on the way there.
    node.change(|subnet| subnet.neurons[0].hotkey = key(1).public_key());
    node.produce(1);
    let setting = client.set_weights(weights.clone(), &cx);
    let meanwhile = async {
        node.until(|node| !node.pool().is_empty()).await;
        let height = node.height();
        node.change(|subnet| subnet.neurons[2].last_update = height);
        node.produce(1);
    };
    let (set, ()) = tokio::join!(setting, meanwhile);
    let error = set.expect_err("refused");
    assert!(error.to_string().contains("CommittingWeightsTooFast"), "{error}");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::RateLimited, true));
    node.produce(60);
    node.set_pace(Pace::Instant);
    client.set_weights(weights, &cx).await.expect("the same vector, signed anew");
    assert_eq!(node.landed().iter().filter(|landed| landed.failure.is_none()).count(), 1);
}

#[tokio::test]
async fn an_epoch_that_is_over_or_nearly_so_is_missed_with_its_reason() {
    let metadata = metadata::newest();
    let node = TestNode::start(&metadata, 2, subnet(false)).await;
    let ((client, journal), cx) = (writer(&node), CallContext::new());
    let now = epoch(&client).await;
    let weights = cleared(&client, now, [21_845, 43_690]).await;
    let missed = async |weights: &Cleared<WeightVector>| match journal
        .epoch(&weights.get().key)
        .await
        .expect("read")
    {
        Some(Epoch::Missed(reason)) => reason,
        other => panic!("{other:?}"),
    };
    node.produce(95 - node.height());
    let error = client.set_weights(weights.clone(), &cx).await.expect_err("too late");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Infrastructure), "{error}");
    assert!(missed(&weights).await.contains("too little was left"));
    node.produce(10);
    client.set_weights(weights.clone(), &cx).await.expect_err("over");
    assert!(missed(&weights).await.contains("was over"));
    assert_eq!(node.landed(), []);
}

#[tokio::test]
async fn weights_that_land_in_another_epoch_serve_that_one() {
    let metadata = metadata::newest();
    let node = TestNode::start(&metadata, 2, subnet(false)).await;
    let ((client, journal), cx) = (writer(&node), CallContext::new());
    let now = epoch(&client).await;
    let weights = cleared(&client, now, [21_845, 43_690]).await;
    let setting = client.set_weights(weights.clone(), &cx);
    let triggering = async {
        node.until(|node| !node.pool().is_empty()).await;
        let next = node.height() + 1;
        node.change(|subnet| subnet.pending = Some(next));
        node.produce(1);
    };
    let (receipt, ()) = tokio::join!(setting, triggering);
    assert_eq!(receipt.expect("landed").epoch, now + 1);
    let next = cleared(&client, now + 1, [43_690, 21_845]).await;
    node.produce(10);
    let error = client.set_weights(next, &cx).await.expect_err("served");
    assert!(error.to_string().contains("the epoch has its weights already"), "{error}");
    assert_eq!(node.landed().len(), 1);
    assert_eq!(journal.epochs().await.expect("read").len(), 2);
}

#[tokio::test]
async fn a_fork_does_not_sign_twice() {
    let metadata = metadata::newest();
    for lose in [false, true] {
        let node = TestNode::start(&metadata, 2, subnet(false)).await;
        node.produce(10);
        node.set_lag(3);
        let ((client, _), cx) = (writer(&node), CallContext::new());
        let weights = cleared(&client, epoch(&client).await, [21_845, 43_690]).await;
        let setting = client.set_weights(weights, &cx);
        let forking = async {
            node.until(|node| !node.pool().is_empty()).await;
            node.produce(2);
            node.fork(2, lose);
            // A client that sees new blocks sends the same bytes again.
            node.set_pace(Pace::Driven);
        };
        let (receipt, ()) = tokio::join!(setting, forking);
        receipt.unwrap_or_else(|error| panic!("lose {lose}: {error}"));
        assert_eq!(node.landed().len(), 1, "lose {lose}");
    }
}

/// Sends with a context that ends as soon as the pool has the extrinsic.
async fn sent_and_left<T: std::fmt::Debug>(
    node: &TestNode,
    cx: &CallContext,
    sending: impl Future<Output = Result<T>>,
) {
    let leaving = async {
        node.until(|node| !node.pool().is_empty()).await;
        cx.cancel();
    };
    let error = tokio::join!(sending, leaving).0.expect_err("it is left");
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
}

#[tokio::test]
async fn a_commitment_that_was_left_is_finished_and_not_signed_again() {
    for hidden_for in [None, Some(50)] {
        let node = TestNode::start(&metadata::newest(), 2, subnet(false)).await;
        let ((client, _), cx) = (writer(&node), CallContext::new());
        let left = cx.child();
        Box::pin(sent_and_left(&node, &left, client.commit(NETUID, "x", hidden_for, &left))).await;
        node.produce(1);
        let block = client.commit(NETUID, "x", hidden_for, &cx).await.expect("the first one's outcome");
        let landed = node.landed();
        assert_eq!((landed.len(), landed[0].block), (1, block), "{hidden_for:?}");
        let committed =
            async |text: &str| client.committed(NETUID, text, hidden_for, &cx).await.expect("read");
        assert_eq!((committed("x").await, committed("y").await), (Some(block), None), "{hidden_for:?}");

        // Another text, and one that could not land, are signed.
        let left = cx.child();
        Box::pin(sent_and_left(&node, &left, client.commit(NETUID, "y", hidden_for, &left))).await;
        assert_eq!(committed("y").await, None, "`commit` waits for what is on its way");
        node.produce(1);
        assert_eq!(committed("x").await, None, "the other one has replaced it");
        node.set_pace(Pace::Instant);
        client.commit(NETUID, "z", hidden_for, &cx).await.expect("after the other one");
        assert_eq!((node.landed().len(), committed("y").await), (3, None));
        node.fault(|faults| faults.forget = true);
        let (left, sent) = (cx.child(), node.sent());
        let leaving = async {
            node.until(|node| node.sent() > sent).await;
            left.cancel();
        };
        let lost = tokio::join!(client.commit(NETUID, "lost", hidden_for, &left), leaving).0;
        assert_eq!(lost.expect_err("it is left").kind(), ErrorKind::Cancelled);
        node.fault(|faults| faults.forget = false);
        node.produce(USUAL_LIFE);
        client.commit(NETUID, "lost", hidden_for, &cx).await.expect("signed anew");
        assert_eq!(node.landed().len(), 4);
    }
}

#[tokio::test]
async fn a_registration_that_was_left_is_finished_and_not_signed_again() {
    let node = TestNode::start(&metadata::newest(), 2, subnet(false)).await;
    let ((client, _), cx) = (writer(&node), CallContext::new());
    let (hotkey, coldkey, left) = (key(50).hotkey(), key(51), cx.child());
    let limit = subnet(false).burn;
    Box::pin(sent_and_left(&node, &left, client.register(NETUID, &hotkey, limit, &coldkey, &left))).await;
    node.produce(1);
    // What it costs now is of no account: nothing is signed.
    node.change(|subnet| subnet.burn *= 2);
    node.produce(1);
    let registered =
        client.register(NETUID, &hotkey, limit, &coldkey, &cx).await.expect("the first one's outcome");
    let landed = node.landed();
    assert_eq!((landed.len(), &landed[0].failure), (1, &None));
    assert_eq!(registered, Submitted { block: landed[0].block, is_new: false });
}

#[tokio::test]
async fn a_registration_that_failed_in_its_block_is_signed_again_with_the_new_limit() {
    let node = TestNode::start(&metadata::newest(), 2, subnet(false)).await;
    let ((client, _), cx) = (writer(&node), CallContext::new());
    let (hotkey, coldkey, left) = (key(50).hotkey(), key(51), cx.child());
    let price = subnet(false).burn;
    Box::pin(sent_and_left(&node, &left, client.register(NETUID, &hotkey, price, &coldkey, &left))).await;
    // The price rises above the limit before the first one is in a block.
    node.change(|subnet| subnet.burn *= 2);
    node.produce(1);
    node.set_pace(Pace::Instant);
    let registered =
        client.register(NETUID, &hotkey, 2 * price, &coldkey, &cx).await.expect("signed with the new limit");
    let landed = node.landed();
    let failed: Vec<_> = landed.iter().map(|landed| landed.failure.is_some()).collect();
    assert_eq!(failed, [true, false], "{landed:?}");
    assert_eq!(registered, Submitted { block: landed[1].block, is_new: true });
}

#[tokio::test]
async fn what_stands_is_not_committed_to_again_after_another_one_came_to_nothing() {
    for hidden_for in [None, Some(50)] {
        let node = TestNode::start(&metadata::newest(), 2, subnet(false)).await;
        let ((client, _), cx) = (writer(&node), CallContext::new());
        node.set_pace(Pace::Instant);
        let block = client.commit(NETUID, "x", hidden_for, &cx).await.expect("committed");
        node.set_pace(Pace::Manual);
        node.fault(|faults| faults.forget = true);
        let (left, sent) = (cx.child(), node.sent());
        let leaving = async {
            node.until(|node| node.sent() > sent).await;
            left.cancel();
        };
        let lost = tokio::join!(client.commit(NETUID, "y", hidden_for, &left), leaving).0;
        assert_eq!(lost.expect_err("it is left").kind(), ErrorKind::Cancelled);
        node.produce(USUAL_LIFE);
        let committed = client.committed(NETUID, "x", hidden_for, &cx).await.expect("read");
        assert_eq!((committed, node.landed().len()), (Some(block), 1), "{hidden_for:?}");
    }
}

#[tokio::test]
async fn weights_whose_events_are_gone_are_dated_by_the_chains_last_update() {
    let metadata = metadata::newest();
    for refused in [false, true] {
        let node = TestNode::start(&metadata, 2, TestSubnet { tempo: 1000, ..subnet(false) }).await;
        node.set_pruning(5);
        let ((client, journal), cx) = (writer(&node), CallContext::new());
        let weights = cleared(&client, epoch(&client).await, [21_845, 43_690]).await;
        let left = cx.child();
        sent_and_left(&node, &left, client.set_weights(weights.clone(), &left)).await;
        node.change(|subnet| subnet.neurons[2].validator_permit = !refused);
        node.produce(1);
        node.change(|subnet| subnet.neurons[2].validator_permit = true);
        node.produce(20);
        node.set_pace(Pace::Instant);
        let receipt = client.set_weights(weights.clone(), &cx).await.expect("set");
        let landed = node.landed();
        let good: Vec<_> = landed.iter().filter(|landed| landed.failure.is_none()).collect();
        assert_eq!((landed.len(), good.len(), good[0].block), (1 + usize::from(refused), 1, receipt.block));
        let digest = Digest::of_json(weights.get()).expect("a digest");
        let (_, outcome) =
            journal.submission(&weights.get().key, digest).await.expect("read").expect("it was signed");
        assert!(matches!(outcome, Some(Outcome::Included { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_commitment_whose_events_are_gone_is_no_success() {
    let node = TestNode::start(&metadata::newest(), 2, subnet(false)).await;
    node.set_pruning(5);
    let ((client, journal), cx) = (writer(&node), CallContext::new());
    let left = cx.child();
    Box::pin(sent_and_left(&node, &left, client.commit(NETUID, "x", None, &left))).await;
    let signed = journal.live(account(&node)).await.expect("read").expect("it was sent");
    node.produce(20);
    let outcome = client.writer.as_ref().expect("a writer").wait(&signed, &cx).await.expect("over");
    assert!(matches!(outcome, Outcome::Unclear { .. }), "{outcome:?}");
    assert_eq!(journal.live(account(&node)).await.expect("read"), None);
    node.set_pace(Pace::Instant);
    client.commit(NETUID, "y", None, &cx).await.expect("the key goes on");
}

#[tokio::test]
async fn weights_that_the_state_does_not_have_are_no_success() {
    let node = TestNode::start(&metadata::newest(), 2, subnet(false)).await;
    node.set_pace(Pace::Instant);
    node.fault(|faults| faults.lose_weights = true);
    let ((client, _), cx) = (writer(&node), CallContext::new());
    let weights = cleared(&client, epoch(&client).await, [21_845, 43_690]).await;
    for _ in 0..2 {
        let error = client.set_weights(weights.clone(), &cx).await.expect_err("the state has none");
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Protocol, false), "{error}");
        assert!(error.to_string().contains("its state has others"), "{error}");
    }
    assert_eq!(node.landed().len(), 1, "nothing is signed anew");
}

#[tokio::test]
async fn on_a_subnet_with_null_consensus_only_the_largest_stake_writes() {
    let node =
        TestNode::start(&metadata::newest(), 2, TestSubnet { null_consensus: true, ..subnet(false) }).await;
    node.set_pace(Pace::Instant);
    node.change(|subnet| subnet.neurons[0].stake = 1_000_000);
    node.produce(1);
    let ((client, journal), cx) = (writer(&node), CallContext::new());
    let weights = cleared(&client, epoch(&client).await, [21_845, 43_690]).await;
    let error = client.set_weights(weights.clone(), &cx).await.expect_err("less stake");
    assert_eq!(error.fault(), Fault::Operator);
    assert!(error.to_string().contains("only the largest stake sets weights"), "{error}");
    assert_eq!((node.sent(), journal.live(account(&node)).await.expect("read")), (0, None));
    node.change(|subnet| subnet.neurons[0].stake = 0);
    node.produce(1);
    client.set_weights(weights, &cx).await.expect("the largest stake");
}

#[tokio::test]
async fn committed_weights_are_read_back_after_their_reveal() {
    for (name, spec) in [("newest", 2), ("oldest", 1)] {
        let Some(metadata) = metadata_of(name) else { continue };
        for kept in [true, false] {
            let node = TestNode::start(&metadata, spec, subnet(true)).await;
            node.set_pace(Pace::Instant);
            // Past the epoch that the oldest runtime begins at block 3.
            node.produce(10);
            let ((client, _), cx) = (writer(&node), CallContext::new());
            let weights = cleared(&client, epoch(&client).await, [21_845, 43_690]).await;
            let receipt = client.set_weights(weights.clone(), &cx).await.expect("committed");
            let revealed = async || {
                let head = client.head(&cx).await.expect("a head");
                client.revealed(weights.get(), &receipt, &head, &cx).await.expect("read")
            };
            assert_eq!(revealed().await, Revealed::Waiting { epoch: receipt.epoch + 1 }, "{name}");
            // A validator that has lost its permit by then reveals nothing.
            node.change(|subnet| subnet.neurons[2].validator_permit = kept);
            node.produce(110);
            let expected = if kept { Revealed::InForce } else { Revealed::Missing { found: vec![] } };
            assert_eq!(revealed().await, expected, "{name}");
        }
    }
}

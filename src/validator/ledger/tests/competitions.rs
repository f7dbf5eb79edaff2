//! Competitions, one after the other in one ledger.

use super::*;

/// The same commitment in the competition of that version.
fn commit_of(version: u8, hotkey: &str, block: u64) -> Commit {
    let commit = commit(hotkey, block);
    Commit { text: commit.text.replace("v7|", &format!("v{version}|")), ..commit }
}

fn reset(version: u8) -> Reset {
    Reset { version, genesis: ModelRef::from(Path::new("another")), reason: "a larger model".into() }
}

#[tokio::test]
async fn another_competition_ends_what_is_open_and_keeps_every_outcome() {
    let ledger = Ledger::in_memory().expect("a ledger");
    let ids = clear(&ledger, &["ann", "bob", "cat"]).await;
    let won = plan(&ledger, ids[0]).await.expect("planned");
    begin(&ledger, &won).await;
    ledger.decide(decision(&won, Outcome::Dethroned), 8).await.expect("decided");
    let open = plan(&ledger, ids[1]).await.expect("planned");
    begin(&ledger, &open).await;
    ledger.observe(vec![commit_of(8, "dan", 9)], 9).await.expect("observed");
    let (_, earning) = ledger.called_weights().await.expect("read").expect("a call");
    assert_eq!(earning.len(), 1, "the winner earns");

    let before = ledger.ends().await.expect("read");
    assert_eq!((before.competition.id, before.abandoned), (1, Some(open.attempt)));
    assert_eq!(before.set_aside.iter().map(|row| row.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(ledger.reset(reset(8), 10).await.expect("begun"), before);

    // What was open is over, and outcomes stay.
    let states: Vec<_> = ledger.submissions().await.expect("read").iter().map(|row| row.state).collect();
    assert_eq!(states, [State::Crowned, State::SetAside, State::SetAside]);
    assert_eq!(ledger.open_duel().await.expect("read"), None);
    let duels = ledger.duels().await.expect("read");
    assert_eq!(duels[1].outcome.as_deref(), Some("abandoned"));
    let entries = ledger.log_entries(0).await.expect("read");
    let end = entries.last().expect("an entry");
    assert!(
        matches!(end, crate::log::Entry::Ended(Ended { end: End::Abandoned { reason }, .. })
        if reason.contains("a larger model")),
        "{end:?}"
    );
    assert_eq!(ledger.spent(open.king).await.expect("read").attempts, 1, "its share stays spent");

    // A king who earns nothing reigns, and nobody else earns.
    let king = ledger.king().await.expect("read").expect("a king");
    assert_eq!((king.hotkey, king.competition, king.model), (None, 2, reset(8).genesis));
    assert_eq!(ledger.first_king().await.expect("read").map(|king| king.id), Some(king.id));
    let (_, earning) = ledger.called_weights().await.expect("read").expect("a call");
    assert!(earning.is_empty(), "{earning:?}");
    let attempt = ledger.next_attempt(king.id, budget()).await.expect("read");
    assert_eq!((attempt.number, attempt.previous), (1, None));

    // Older commitments are ignored; those of the new version count, each at its own place.
    assert_eq!(ledger.observe(vec![commit("eve", 11), commit("bob", 2)], 11).await.expect("observed"), 1);
    assert!(ledger.entered().await.expect("read").is_empty());
    let again = vec![commit_of(8, "dan", 9), commit_of(8, "ann", 12)];
    assert_eq!(ledger.observe(again.clone(), 12).await.expect("observed"), 2);
    assert_eq!(ledger.observe(again, 13).await.expect("observed"), 0);
    let entered = ledger.entered().await.expect("read");
    let seen: Vec<_> =
        entered.iter().map(|row| (row.hotkey.0.as_str(), row.place.block, row.state)).collect();
    assert_eq!(seen, [("dan", 9, State::Seen), ("ann", 12, State::Seen)]);
    assert_eq!(ledger.live().await.expect("read"), entered);

    // The next winner shares with nobody of the competition before.
    for step in [Move::Admit, Move::ClearFiles, Move::Hold, Move::Clear] {
        ledger.step(entered[0].id, step, Reason::new(step.name()), 14).await.expect("moved");
    }
    let won = plan(&ledger, entered[0].id).await.expect("planned");
    begin(&ledger, &won).await;
    ledger.decide(decision(&won, Outcome::Dethroned), 15).await.expect("decided");
    let (_, earning) = ledger.called_weights().await.expect("read").expect("a call");
    assert_eq!(earning.len(), 1);
    let versions: Vec<_> = ledger.competitions().await.expect("read").iter().map(|one| one.version).collect();
    assert_eq!(versions, [7, 8]);
}

#[tokio::test]
async fn a_version_is_used_once_and_nothing_ends_that_has_not_begun() {
    let ledger = Ledger::in_memory().expect("a ledger");
    let error = ledger.reset(reset(8), 1).await.expect_err("nobody reigns");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::NotFound, Fault::Operator));
    clear(&ledger, &["ann"]).await;
    for version in [4, 7] {
        let error = ledger.reset(reset(version), 2).await.expect_err("used");
        assert!(error.to_string().contains("name `v8`"), "{error}");
    }
    ledger.reset(reset(9), 3).await.expect("begun");
    for version in [8, 9] {
        ledger.reset(reset(version), 4).await.expect_err("not higher");
    }
    assert_eq!(ledger.competition().await.expect("read").id, 2);
}

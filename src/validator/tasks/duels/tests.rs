use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::json;

use super::*;
use crate::chains::local::LocalChain;
use crate::testing::{Rows, ScriptedJudge, ScriptedSession, identity};
use crate::validator::ledger::Ledger;
use crate::validator::parts::testing::{Quick, admission, at, pinned, shared, uploaded};
use crate::{Finding, Identity, ModelBackend, ModelSession, ModelSource};

/// A server that has the king, and the challenger until it loses its cache.
#[derive(Debug)]
struct Server {
    identity: Identity,
    has_lost_it: AtomicBool,
    /// How often the king was loaded.
    kings: AtomicU32,
}

fn lacks() -> Error {
    Error::new(ErrorKind::NotFound, "hold a model at the server", "the hub has no such repository")
}

#[async_trait]
impl ModelBackend for Server {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn takes_references(&self) -> bool {
        true
    }

    async fn load(&self, source: &ModelSource, _: &CallContext) -> Result<Arc<dyn ModelSession>> {
        Ok(Arc::new(match &source.model {
            ModelRef::Hub(_) if self.has_lost_it.load(Ordering::Relaxed) => return Err(lacks()),
            ModelRef::Hub(_) => ScriptedSession::new("challenger", |_| Err(lacks())),
            _ => {
                self.kings.fetch_add(1, Ordering::Relaxed);
                ScriptedSession::saying("king", "ls")
            }
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duel_whose_challenger_was_deleted_is_given_up_and_no_other_one() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let server = Arc::new(Server {
        identity: identity("server"),
        has_lost_it: AtomicBool::new(false),
        kings: AtomicU32::new(0),
    });
    let mut shared = shared(folder.path(), &clock).await;
    shared.backend = Arc::<Server>::clone(&server);
    shared.tasks = Arc::new(Rows::numbered(200));
    shared.judges = vec![Arc::new(ScriptedJudge::preferring("length", |_| 0.5))];
    let (shared, cx) = (Arc::new(shared), CallContext::new());
    let ledger = &shared.ledger;
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let pin = uploaded(folder.path(), "amy", "amy/model");
    let steps = [Move::Admit, Move::ClearFiles, Move::Hold];
    let row = pinned(ledger, "amy", "amy/model", pin, &steps).await;
    let passed = Reason::new("passed").screened(admission([Finding::Clear(json!({}))]), king.id);
    ledger.step(row.id, Move::Clear, passed, 3).await.expect("moved");

    let duels = Duels::new(Arc::clone(&shared));
    let late = at(&shared, 46).await;
    duels.plan_next(&late, &cx).await.expect("planned");
    let go_on = async || {
        // Longer than the pause after any failure that an operator has to mend.
        clock.pass(Duration::from_mins(10));
        let duel = ledger.open_duel().await.expect("read").expect("it is open");
        duels.go_on(&duel, &cx).await.expect("a step");
        let voids = ledger.duels().await.expect("read").pop().expect("the duel").voids;
        (voids, ledger.submission(row.id).await.expect("read"))
    };
    let (voids, announced) = go_on().await;
    assert_eq!((voids, announced.state), (0, State::Planned), "{}", announced.reason);
    LocalChain::open(&folder.path().join("chain.sqlite")).expect("opens").advance(5).expect("blocks");
    // First while it runs, then when it is loaded: its hub has the files, so that it waits.
    for voids in 1..=VOIDS + 1 {
        let (counted, waits) = go_on().await;
        assert_eq!((counted, waits.state), (voids, State::Planned), "{}", waits.reason);
        assert!(waits.reason.contains("no such repository"), "{}", waits.reason);
        server.has_lost_it.store(true, Ordering::Relaxed);
    }
    // It may be the king that the server has lost.
    assert_eq!(server.kings.load(Ordering::Relaxed), 1 + VOIDS, "each try after the first loads it again");
    fs::remove_dir_all(folder.path().join("mirror/amy")).expect("deletes");
    let (voids, given_up) = go_on().await;
    assert_eq!((voids, given_up.state), (VOIDS + 2, State::Clear), "{}", given_up.reason);
    assert!(given_up.reason.contains("no longer has the challenger's files"), "{}", given_up.reason);
    assert_eq!(ledger.open_duel().await.expect("read"), None, "it holds up no other one");

    // Nothing more is spent, and its miner may commit again, once the hub has said it for long enough.
    duels.plan_next(&late, &cx).await.expect("looked");
    let waits = ledger.submission(row.id).await.expect("read");
    assert!(waits.state == State::Clear && waits.reason.contains("until block 96"), "{}", waits.reason);
    clock.pass(Duration::from_mins(10));
    duels.plan_next(&at(&shared, 97).await, &cx).await.expect("looked");
    let ended = ledger.submission(row.id).await.expect("read");
    assert_eq!((ended.state, ended.record), (State::Expired, None), "{}", ended.reason);
    assert_eq!(ledger.spent(king.id).await.expect("read").attempts, 1);
}

#[tokio::test]
async fn what_the_operator_sets_aside_never_duels() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let (shared, cx) = (Arc::new(shared(folder.path(), &clock).await), CallContext::new());
    let ledger = &shared.ledger;
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let steps = [Move::Admit, Move::ClearFiles, Move::Hold];
    let row = pinned(ledger, "amy", "amy/model", Digest::of("a manifest"), &steps).await;
    let passed = Reason::new("passed").screened(admission([Finding::Clear(json!({}))]), king.id);
    ledger.step(row.id, Move::Clear, passed, 3).await.expect("moved");
    ledger.set_aside(row.id, "its files are damaged".into()).await.expect("asked");

    let duels = Duels::new(Arc::clone(&shared));
    // Another thing is wrong, too.
    duels.tell(&lacks().with_fault(Fault::Contestant(Side::King))).await;
    assert_eq!(duels.plan_next(&at(&shared, 46).await, &cx).await.expect("a step"), Next::Now);
    let ended = ledger.submission(row.id).await.expect("read");
    assert_eq!((ended.state, ended.record), (State::SetAside, None), "{}", ended.reason);
    assert!(ended.reason.contains("the operator has set it aside: its files are damaged"));
    assert_eq!(ledger.spent(king.id).await.expect("read").attempts, 0);
    assert_eq!(ledger.alerts().await.expect("read").len(), 1, "that stands");
}

/// A server that takes so long to load the challenger that admission screens it again meanwhile, and then
/// fails.
#[derive(Debug)]
struct Slow {
    identity: Identity,
    ledger: Ledger,
    challenger: i64,
    error: Error,
}

#[async_trait]
impl ModelBackend for Slow {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn takes_references(&self) -> bool {
        true
    }

    async fn load(&self, source: &ModelSource, _: &CallContext) -> Result<Arc<dyn ModelSession>> {
        if !matches!(source.model, ModelRef::Hub(_)) {
            return Ok(Arc::new(ScriptedSession::saying("king", "ls")));
        }
        self.ledger.step(self.challenger, Move::Rescreen, Reason::new("screened again"), 4).await?;
        Err(self.error.clone())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_moved_while_it_was_loaded_is_left_to_admission() {
    for error in [lacks(), lacks().with_fault(Fault::Contestant(Side::Challenger))] {
        let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
        let mut shared = shared(folder.path(), &clock).await;
        fs::create_dir_all(folder.path().join("mirror")).expect("makes");
        let ledger = shared.ledger.clone();
        let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
        let steps = [Move::Admit, Move::ClearFiles, Move::Hold];
        let row = pinned(&ledger, "amy", "amy/model", Digest::of("a manifest"), &steps).await;
        let passed = Reason::new("passed").screened(admission([Finding::Clear(json!({}))]), king.id);
        ledger.step(row.id, Move::Clear, passed, 3).await.expect("moved");
        let identity = identity("server");
        shared.backend = Arc::new(Slow { identity, ledger: ledger.clone(), challenger: row.id, error });
        let (shared, cx) = (Arc::new(shared), CallContext::new());
        // What admission records of a forfeit.
        let forfeit = shared.state.join("forfeits").join(row.id.to_string());
        fs::create_dir_all(&forfeit).expect("makes");
        fs::write(forfeit.join("record.digest"), "kept").expect("writes");

        let duels = Duels::new(Arc::clone(&shared));
        assert_eq!(duels.plan_next(&at(&shared, 46).await, &cx).await.expect("a step"), Next::Now);
        let moved = ledger.submission(row.id).await.expect("read");
        assert_eq!(
            (moved.state, moved.absent_block, moved.voids),
            (State::Held, None, 0),
            "{}",
            moved.reason
        );
        assert_eq!(moved.reason, "screened again");
        assert_eq!(fs::read_to_string(forfeit.join("record.digest")).expect("is there"), "kept");
        assert!(ledger.alerts().await.expect("read").is_empty());
    }
}

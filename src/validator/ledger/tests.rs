use std::path::Path;

use crate::chain::{DatedBy, Hotkey, Place};
use crate::log::{Announced, End, Ended, Entry};
use crate::reign::ErrorBudget;
use crate::validator::table::{Move, State};
use crate::verdict::Holds;
use crate::{Digest, DuelSettings, Error, ErrorKind, Fault, ModelRef, Outcome, Seed};

use super::*;

mod books;
mod competitions;
mod files;
mod followed;
mod waiting;

/// The commitment of `hotkey` to a model of its own, at `block`.
fn commit(hotkey: &str, block: u64) -> Commit {
    let pin = Digest::of(hotkey);
    Commit {
        hotkey: Hotkey(hotkey.into()),
        text: format!("v7|{hotkey}/model|sha256:{pin}"),
        place: Place { block, extrinsic: Some(0), dated_by: DatedBy::Commitment },
        readable_at: block,
        witnessed: true,
    }
}

fn budget() -> ErrorBudget {
    ErrorBudget::new(0.05).expect("a budget")
}

/// A ledger with a first king and `hotkeys`, whose submissions are clear.
async fn clear(ledger: &Ledger, hotkeys: &[&str]) -> Vec<i64> {
    ledger.begin_reign(ModelRef::from(Path::new("genesis")), 1).await.expect("a king");
    let commits = (1..).zip(hotkeys).map(|(block, hotkey)| commit(hotkey, block)).collect();
    ledger.observe(commits, 2).await.expect("observed");
    let ids: Vec<_> = ledger.live().await.expect("read").iter().map(|row| row.id).collect();
    for &id in &ids {
        for step in [Move::Admit, Move::ClearFiles, Move::Hold, Move::Clear] {
            ledger.step(id, step, Reason::new(step.name()), 3).await.expect("moved");
        }
    }
    ids
}

fn announced(name: &str) -> Announced {
    let digest = Digest::of(name);
    Announced { plan: digest, judges: vec![digest], king: digest, challenger: digest, submission: None }
}

/// Plans the duel of `submission` as the next attempt.
async fn plan(ledger: &Ledger, submission: i64) -> Result<OpenDuel> {
    let king = ledger.king().await?.expect("a king").id;
    let attempt = ledger.next_attempt(king, budget()).await?;
    let drafted = Drafted {
        submission,
        attempt,
        settings: DuelSettings::default(),
        announced: announced(&format!("plan of {submission}")),
    };
    ledger.plan(drafted, budget(), 4).await
}

/// Announces and begins the planned duel.
async fn begin(ledger: &Ledger, duel: &OpenDuel) {
    sign(ledger).await;
    ledger.announced_at(duel.id, 10).await.expect("announced");
    ledger.begin(duel.id, Seed::from(duel.id as u64), 5).await.expect("begins");
}

/// Keeps a head over everything that the log has.
async fn sign(ledger: &Ledger) {
    let size = ledger.log_entries(0).await.expect("entries").len() as u64;
    let key = crate::signer::KeyFile::from_seed(&[7; 32]);
    let head = crate::log::Head::sign("example.com/log", size, Digest::of("root"), &key).expect("signed");
    ledger.keep_head(&head, 5).await.expect("kept");
}

fn decision(duel: &OpenDuel, outcome: Outcome) -> Decision {
    let record = Digest::of(format!("record of {}", duel.id));
    let crowned = (outcome == Outcome::Dethroned).then(|| Crowned {
        hotkey: Hotkey(format!("winner of {}", duel.id)),
        model: ModelRef::from(Path::new("crowned")),
        parameters: Digest::of("parameters"),
        block: 20,
    });
    Decision {
        duel: duel.id,
        outcome,
        reason: outcome.to_string(),
        record,
        folder: "duels/1".into(),
        ended: Ended {
            announced: duel.announced,
            end: End::Recorded { plan: Digest::of("plan"), record, outcome },
        },
        samples: 64,
        margin: 1.5,
        effect: None,
        usd: 0.25,
        crowned,
    }
}

const LOST: Outcome = Outcome::KingHolds(Holds::NotShown);

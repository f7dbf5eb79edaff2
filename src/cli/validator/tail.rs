//! What happens, as lines: every move in the ledger, weights that landed, alerts, and how
//! the running duel gets on.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::show::{coloured, time};
use crate::cli::output::print;
use crate::events::{Event, EventKind, EventSink};
use crate::record::JournalEvent;
use crate::report::{Look, ProgressLines, say};
use crate::validator::ledger::{Ledger, MoveRow};
use crate::validator::table::by_name;
use crate::{CallContext, Result};

/// How often it is looked at least. A change of the ledger is seen at once.
const LOOK: Duration = Duration::from_secs(1);

/// Prints what is new.
pub(super) struct Tail {
    ledger: Ledger,
    demo: bool,
    progress: Mutex<ProgressLines>,
    printed: tokio::sync::Mutex<Printed>,
}

#[derive(Debug, Default)]
struct Printed {
    moves: i64,
    /// The newest epoch whose weights landed.
    epoch: Option<u64>,
    alerts: BTreeMap<String, u64>,
    /// Entries of a followed log.
    followed: u64,
}

impl Tail {
    /// What is in the ledger already is not printed again.
    pub(super) async fn new(ledger: Ledger, demo: bool) -> Result<Self> {
        let moves = ledger.moves(None, 0).await?.last().map_or(0, |row| row.id);
        let epoch = ledger.last_landed().await?.map(|row| row.epoch);
        let followed = ledger.followed().await?.map_or(0, |row| row.next);
        let printed = Printed { moves, epoch, alerts: BTreeMap::new(), followed };
        Ok(Self { ledger, demo, progress: Mutex::default(), printed: tokio::sync::Mutex::new(printed) })
    }

    /// Prints until `cx` is cancelled, and then what came last.
    pub(super) async fn follow(&self, cx: &CallContext) -> Result<()> {
        let mut changes = self.ledger.changes();
        loop {
            self.print_new().await?;
            tokio::select! {
                () = cx.cancelled() => return self.print_new().await,
                _ = changes.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn print_new(&self) -> Result<()> {
        let mut printed = self.printed.lock().await;
        let mut text = String::new();
        for row in self.ledger.moves(None, printed.moves).await? {
            text += &self.line(&row).await?;
            printed.moves = row.id;
        }
        if let Some(row) = self.ledger.last_landed().await?.filter(|row| printed.epoch < Some(row.epoch)) {
            let parts = row.parts()?;
            let shares: Vec<_> =
                parts.iter().map(|(hotkey, part)| format!("{hotkey} {:.1} %", 100.0 * part)).collect();
            let block = row.receipt.map_or(0, |receipt| receipt.block);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:>10}weights of epoch {} are in block {block}: {}",
                "",
                row.epoch,
                shares.join(", ")
            );
            printed.epoch = Some(row.epoch);
        }
        let followed = self.ledger.followed().await?.map_or(0, |row| row.next);
        for row in self.ledger.followed_records(printed.followed).await? {
            if row.place >= followed {
                break;
            }
            let audited = match row.audited {
                0 => "no reply audited".to_owned(),
                audited => format!("{audited} of {} replies audited", row.replies),
            };
            let _ = writeln!(
                text,
                "{:>10}entry {}: record {} is verified, {audited}",
                "",
                row.place,
                row.record.short()
            );
            printed.followed = row.place + 1;
        }
        let look = Look::of_stdout();
        let alerts = self.ledger.alerts().await?;
        printed.alerts.retain(|key, _| alerts.iter().any(|alert| alert.key == *key));
        for alert in alerts {
            if printed.alerts.insert(alert.key.clone(), alert.first_ms) != Some(alert.first_ms) {
                let line = format!("{}: {}", alert.key, alert.message);
                text += &look.hanging(&look.bad("   alert"), 10, &line);
            }
        }
        print(&text)
    }

    async fn line(&self, row: &MoveRow) -> Result<String> {
        let submission = self.ledger.submission(row.submission).await?;
        let who = if row.step == "admit" || row.from == "seen" {
            super::miner(&submission, self.demo)
        } else {
            submission.hotkey.0.clone()
        };
        let look = Look::of_stdout();
        let to = row.to.replace('_', " ");
        let to = by_name(&row.to).map_or(to.clone(), |state| coloured(look, state, &to));
        let what = if row.step == "void" { format!("void, {to} again") } else { to };
        Ok(format!("{}  {who}: {what}: {}\n", time(row.at_ms), row.reason))
    }
}

impl EventSink for Tail {
    fn on(&self, event: &Event) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(event.kind, EventKind::Journal(JournalEvent::Opened { .. })) {
            *progress = ProgressLines::default();
        }
        for line in progress.on(event) {
            say(&format!("{:>10}{line}", ""));
        }
    }
}

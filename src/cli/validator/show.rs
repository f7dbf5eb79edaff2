//! What is kept of a competition, as tables.

use std::fmt::Write;

use serde_json::{Value, json};

use super::super::exit::Exit;
use super::super::output::{print, print_json};
use crate::report::Look;
use crate::validator::ledger::{
    Alert, Competition, Counts, DuelRow, EpochRow, FollowedRow, FollowedTotals, KingRow, Ledger, OpenDuel,
    SubmissionRow, Totals,
};
use crate::validator::table::{State, action, name};
use crate::{Digest, Result};

/// Epochs that `status` shows.
const EPOCHS: u32 = 5;

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// A time of the day in UTC, to the second: of what happens now.
pub(super) fn time(at_ms: u64) -> String {
    let seconds = at_ms % DAY_MS / 1000;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// When something happened, with its date if that is not the one of `now_ms`.
pub(super) fn when(at_ms: u64, now_ms: u64) -> String {
    let (day, today) = (at_ms / DAY_MS, now_ms / DAY_MS);
    let date = if day == today { String::new() } else { format!("{} ", date(day)) };
    format!("{date}{} UTC", time(at_ms))
}

/// The date of a day that is so many after 1970-01-01. Source: `civil_from_days` of Howard
/// Hinnant's "chrono-Compatible Low-Level Date Algorithms".
fn date(day: u64) -> String {
    // From 1 March of year 0: a leap day is the last of its year, and of its era of 400 years.
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March is 0.
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    format!("{:04}-{month:02}-{of_month:02}", 400 * era + year_of_era + year)
}

/// What is known of the competition now.
struct Known {
    competition: Competition,
    king: Option<KingRow>,
    spent: Totals,
    counts: Counts,
    open: Option<OpenDuel>,
    epochs: Vec<EpochRow>,
    alerts: Vec<Alert>,
    frozen: Option<String>,
    signed: u64,
    waiting: u64,
    followed: Option<(FollowedRow, FollowedTotals)>,
}

impl Known {
    async fn of(ledger: &Ledger) -> Result<Self> {
        let king = ledger.king().await?;
        let spent = match &king {
            Some(king) => ledger.spent(king.id).await?,
            None => Totals::default(),
        };
        Ok(Self {
            competition: ledger.competition().await?,
            king,
            spent,
            counts: ledger.counts().await?,
            open: ledger.open_duel().await?,
            epochs: ledger.epochs(EPOCHS).await?,
            alerts: ledger.alerts().await?,
            frozen: ledger.frozen().await?,
            signed: ledger.signed().await?,
            waiting: ledger.lag().await?.waiting,
            followed: match ledger.followed().await? {
                Some(row) => Some((row, ledger.followed_totals().await?)),
                None => None,
            },
        })
    }
}

pub(super) async fn status_json(ledger: &Ledger) -> Result<Value> {
    let Known { competition, king, spent, counts, open, epochs, alerts, frozen, signed, waiting, followed } =
        Known::of(ledger).await?;
    Ok(json!({
        "competition": competition, "king": king, "kings": ledger.kings().await?, "spent": spent, "submissions": counts, "epochs": epochs,
        "duel": open.map(|open| json!({ "id": open.id, "submission": open.submission, "attempt": open.attempt,
            "runs": open.began, "voids": open.voids })),
        "log_entries": signed, "waits_to_be_published": waiting, "alerts": alerts, "frozen": frozen,
        "followed": followed.map(|(row, totals)| json!({ "hotkey": row.hotkey, "origin": row.origin, "key": row.key,
            "news_epoch": row.news_epoch, "entries": row.next, "caught_up": row.caught_up, "refusal": row.refusal,
            "records": totals.records, "on_chain": totals.on_chain, "replies": totals.replies, "audited": totals.audited,
            "unaudited": totals.unaudited, "attempts": totals.attempts, "coverage": totals.coverage() })),
    }))
}

/// The status at `now_ms`; `again` are the options that mean the validator again.
pub(super) async fn status(ledger: &Ledger, again: &str, now_ms: u64) -> Result<String> {
    let Known { competition, king, spent, counts, open, epochs, alerts, frozen, signed, waiting, followed } =
        Known::of(ledger).await?;
    let look = Look::of_stdout();
    let mut text = String::new();
    if competition.id > 1 {
        let Competition { id, version, reason, .. } = &competition;
        text += &look.entry("competition", &format!("{id}, commitments v{version}: {reason}"));
    }
    match &king {
        Some(king) => {
            let whose = king
                .hotkey
                .as_ref()
                .map_or("the first, who earns nothing".to_owned(), |hotkey| hotkey.0.clone());
            text += &look.entry("king", &format!("{}  {whose}  {}", king.id, king.model));
            let spent = format!(
                "{} {} against this king, {:.4} % of false crowns spent, ${:.4} for judges",
                spent.attempts,
                if spent.attempts == 1 { "attempt" } else { "attempts" },
                100.0 * spent.alpha,
                spent.usd
            );
            if followed.is_none() {
                text += &look.entry("reign", &spent);
            }
        }
        None => text += &look.entry("king", "none yet"),
    }
    if let Some((row, totals)) = &followed {
        text += &followed_lines(look, row, *totals);
    } else {
        let counted: Vec<_> =
            counts.iter().map(|(state, count)| format!("{count} {}", state.replace('_', " "))).collect();
        text += &look
            .entry("submissions", &if counted.is_empty() { "none yet".into() } else { counted.join(", ") });
        let duel = open.map_or("none".to_owned(), |open| {
            let state = if open.began { "runs" } else { "is planned" };
            format!("attempt {} {state}, submission {}, {} voids", open.attempt, open.submission, open.voids)
        });
        text += &look.entry("duel", &duel);
    }
    for (place, row) in epochs.iter().enumerate() {
        let parts = row.parts()?;
        let shares: Vec<_> =
            parts.iter().map(|(hotkey, part)| format!("{hotkey} {:.1} %", 100.0 * part)).collect();
        let what = match (&row.receipt, &row.missed) {
            (Some(receipt), _) => format!("set in block {}", receipt.block),
            (None, Some(missed)) => format!("missed: {missed}"),
            (None, None) => "on their way".into(),
        };
        let label = if place == 0 { "weights" } else { "" };
        text += &look.entry(label, &format!("epoch {}: {}, {what}", row.epoch, shares.join(", ")));
    }
    text += &look.entry("log", &format!("{signed} entries under a signed head"));
    if followed.is_none() {
        text += &look
            .entry("publishing", &if waiting == 0 { "all done".into() } else { format!("{waiting} wait") });
    }
    for (place, alert) in alerts.iter().enumerate() {
        let label = if place == 0 { look.bad("alerts") } else { String::new() };
        let line = format!(
            "since {}, {} times, {}: {}",
            when(alert.first_ms, now_ms),
            alert.count,
            alert.key,
            alert.message
        );
        text += &look.entry(&label, &line);
    }
    if let Some(frozen) = frozen {
        text += &look.entry(
            &look.bad("frozen"),
            &format!("no crown falls after a bug until `albedo validator unfreeze{again}`: {frozen}"),
        );
    }
    Ok(text)
}

/// Whom it follows, how far, and what is taken on trust.
fn followed_lines(look: Look, row: &FollowedRow, totals: FollowedTotals) -> String {
    let FollowedTotals { records, on_chain, attempts, .. } = totals;
    let mut text = look.entry("follows", &format!("{}, log {}, {}", row.hotkey, row.origin, row.key));
    let all = if row.caught_up { "" } else { ", not all of its log yet: no weights are set before" };
    text += &look.entry(
        "followed",
        &format!(
            "{} entries of its log, {records} records verified, {attempts} attempts against this king{all}",
            row.next
        ),
    );
    text += &look.entry("audits", &totals.coverage());
    if totals.unaudited > 0 {
        let why = "whose models were gone, or that an operator let pass";
        text += &look.entry("unaudited", &format!("{} duels {why}", totals.unaudited));
    }
    text += &look.entry(
        "on trust",
        &format!(
            "answers of remote judges; {} of {records} submissions, whose commitments the chain no longer shows",
            records.saturating_sub(on_chain)
        ),
    );
    if let Some(refusal) = &row.refusal {
        text += &look
            .entry(&look.bad("refused"), &format!("the last weights are set again: {}", refusal.message));
    }
    text
}

pub(super) async fn queue(ledger: &Ledger, as_json: bool) -> Result<Exit> {
    let rows = ledger.live().await?;
    if as_json {
        let shown: Vec<_> =
            rows.iter().map(|row| json!({ "submission": row, "action": action(row.state) })).collect();
        print_json(&shown)?;
        return Ok(Exit::Done);
    }
    let mut text = String::new();
    if rows.is_empty() {
        text += "nothing waits\n";
    }
    for row in &rows {
        text += &line(row);
    }
    print(&text)?;
    Ok(Exit::Done)
}

pub(super) async fn history(ledger: &Ledger, as_json: bool) -> Result<Exit> {
    let (rows, duels) = (ledger.submissions().await?, ledger.duels().await?);
    if as_json {
        print_json(&json!({ "submissions": rows, "duels": duels }))?;
        return Ok(Exit::Done);
    }
    let look = Look::of_stdout();
    let mut text = String::new();
    for row in &rows {
        text += &line(row);
    }
    if !duels.is_empty() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n{}", look.strong("duels"));
    }
    for duel in &duels {
        text += &duel_line(duel);
    }
    print(&text)?;
    Ok(Exit::Done)
}

fn line(row: &SubmissionRow) -> String {
    let state = name(row.state).replace('_', " ");
    let record = row.record.map(|record| format!("  record {}", record.short())).unwrap_or_default();
    format!(
        "{:>4}  block {:<6} {:<10} {:<12} {}{record}\n",
        row.id,
        row.place.block,
        short(&row.hotkey.0),
        state,
        row.reason
    )
}

fn duel_line(duel: &DuelRow) -> String {
    let ended = match (&duel.outcome, duel.margin, duel.samples) {
        (Some(outcome), Some(margin), Some(samples)) => {
            format!("{outcome:<8} {margin:+.2} points over {samples} samples")
        }
        (Some(outcome), ..) => outcome.clone(),
        _ => "is open".into(),
    };
    let record = duel.record.as_ref().map(Digest::short).unwrap_or_default();
    format!(
        "{:>4}  king {:<3} attempt {:<3} {:<10} {ended}  {} voids  record {record}\n",
        duel.id,
        duel.king,
        duel.attempt,
        short(&duel.hotkey),
        duel.voids
    )
}

/// A hotkey in a column: SS58 addresses have 48 characters.
fn short(hotkey: &str) -> String {
    if hotkey.chars().count() <= 10 {
        return hotkey.to_owned();
    }
    let start: String = hotkey.chars().take(8).collect();
    format!("{start}…")
}

/// Whether a line of the running validator is good news, bad news, or neither.
pub(super) fn coloured(look: Look, state: State, text: &str) -> String {
    match state {
        State::Crowned => look.good(text),
        State::Forfeit => look.bad(text),
        State::Lost | State::Expired | State::SetAside => look.warning(text),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, ErrorKind};

    #[test]
    fn what_is_not_of_today_has_its_date() {
        // 2024-02-29T23:59:59Z.
        let leap = 1_709_251_199_000;
        assert_eq!(when(leap, leap - 60_000), "23:59:59 UTC");
        assert_eq!(when(leap, leap + 1000), "2024-02-29 23:59:59 UTC");
        for (at, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59:59 UTC"),
            (1_767_225_600, "2026-01-01 00:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(when(1000 * at, leap), shown);
        }
    }

    #[tokio::test]
    async fn the_status_dates_alerts_and_names_the_validator_in_its_hints() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(&folder.path().join("ledger.sqlite")).expect("opens");
        let bug = Error::bug("decide", "a sum is wrong");
        ledger.alert("duels", &bug, 1_767_225_599_000).await.expect("raised");
        let down = Error::new(ErrorKind::Unavailable, "read", "nobody answers");
        ledger.alert("follower", &down, 1_767_225_600_000).await.expect("raised");
        let text = status(&ledger, " --config f.toml", 1_767_225_660_000).await.expect("read");
        // Whatever the width of a terminal.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("since 2025-12-31 23:59:59 UTC, 1 times, duels"), "{text}");
        assert!(text.contains("since 00:00:00 UTC, 1 times, follower"), "{text}");
        assert!(text.contains("`albedo validator unfreeze --config f.toml`"), "{text}");
    }
}

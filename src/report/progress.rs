//! Progress on standard error, from the stream of events: bars on a terminal,
//! plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Tokens;
use crate::overflow::Overflow;
use crate::record::JournalEvent;
use crate::{Event, EventKind, EventSink, Side};

/// Failed calls that are shown one by one; the rest are only counted.
const FAILURES_SHOWN: u32 = 5;

/// Plain lines for a duel of any size.
const LINES: u32 = 8;

/// Turns the events of one duel into lines of progress, and counts what the duel
/// took. Its times are the events', so a recorded stream gives the same lines again.
#[derive(Debug, Default)]
pub struct ProgressLines {
    started_ms: Option<u64>,
    latest_ms: u64,
    samples: u32,
    judges: u32,
    decided: u32,
    difference: f64,
    failures: u32,
    tokens: [Tokens; 2],
    spent_usd: Option<f64>,
}

impl ProgressLines {
    /// The lines that `event` calls for, each without its line break.
    pub fn on(&mut self, event: &Event) -> Vec<String> {
        self.started_ms.get_or_insert(event.time_ms);
        self.latest_ms = event.time_ms;
        match &event.kind {
            EventKind::Restored { replies, assessments } => {
                vec![format!("going on with {replies} replies and {assessments} judges' answers")]
            }
            EventKind::Spent { usd } => {
                self.spent_usd = Some(*usd);
                vec![]
            }
            EventKind::Decided { difference, .. } => {
                self.decided += 1;
                self.difference += difference;
                let step = self.samples.div_ceil(LINES).max(1);
                if self.decided.is_multiple_of(step) || self.decided == self.samples {
                    vec![self.decided_line()]
                } else {
                    vec![]
                }
            }
            EventKind::Journal(JournalEvent::Screened { admission, .. }) => {
                let screens = admission.findings.iter().map(|screened| screened.screen.name.as_str());
                vec![format!("screened by {}: {}", screens.collect::<Vec<_>>().join(", "), admission.outcome)]
            }
            EventKind::Journal(JournalEvent::AskedAgain { samples }) => {
                (self.decided, self.difference) = (0, 0.0);
                vec![format!(
                    "missing answers to the first {samples} samples would decide: they are asked for again"
                )]
            }
            EventKind::Journal(JournalEvent::Opened { plan, .. }) => {
                (self.samples, self.judges) = (plan.samples, plan.judges.len() as u32);
                vec![]
            }
            EventKind::Journal(JournalEvent::Replied { side, usage, .. }) => {
                let side = match side {
                    Side::King => 0,
                    Side::Challenger => 1,
                };
                self.tokens[side].add(usage.prompt_tokens, usage.completion_tokens);
                vec![]
            }
            EventKind::Journal(JournalEvent::Overflowed { sample, side, overflow, repeated }) => {
                vec![overflow_line(*sample, *side, *overflow, *repeated)]
            }
            EventKind::Journal(JournalEvent::Failed { sample, call_try, message, .. }) => {
                self.failures += 1;
                let place = sample.map_or("before the duel".into(), |sample| format!("sample {sample}"));
                let mut lines = Vec::new();
                if self.failures <= FAILURES_SHOWN {
                    lines.push(format!("{place}, try {call_try}: {message}"));
                }
                if self.failures == FAILURES_SHOWN {
                    lines.push("further failures are in the journal".into());
                }
                lines
            }
            _ => vec![],
        }
    }

    /// What the king and the challenger read and wrote so far.
    pub fn tokens(&self) -> [Tokens; 2] {
        self.tokens
    }

    /// What the judges' answers have cost in US dollars, if one of them was paid
    /// for.
    pub fn spent_usd(&self) -> Option<f64> {
        self.spent_usd
    }

    /// Seconds from the first event to the latest.
    pub fn elapsed_secs(&self) -> f64 {
        let started = self.started_ms.unwrap_or(self.latest_ms);
        self.latest_ms.saturating_sub(started) as f64 / 1e3
    }

    fn decided_line(&self) -> String {
        format!(
            "{:5.1} s  {}/{} samples decided by {} judges, {}",
            self.elapsed_secs(),
            self.decided,
            self.samples,
            self.judges,
            self.margin()
        )
    }

    fn margin(&self) -> String {
        let margin = 100.0 * self.difference / f64::from(self.decided.max(1));
        format!("margin so far {margin:+.1} points")
    }
}

/// An alert in one line.
fn overflow_line(sample: u32, side: Side, overflow: Overflow, repeated: bool) -> String {
    let found = format!("sample {sample}: the {side}'s arithmetic overflowed ({overflow})");
    if repeated {
        format!("{found}, and again when it was loaded afresh: it loses the sample")
    } else {
        format!("{found}, but not when it was loaded afresh: check this machine's memory")
    }
}

/// Shows a duel on standard error as it runs.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lines: ProgressLines,
    /// Once the plan is frozen, on a terminal.
    bars: Option<Bars>,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    replies: ProgressBar,
    answers: ProgressBar,
    decided: ProgressBar,
}

/// The bars on this process's terminal, so that a line of anybody's stands above them
/// instead of being drawn over.
static SHOWN: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Writes `line` to standard error, above the bars of a running duel if there are any.
/// A standard error that is closed is no reason to stop.
pub fn say(line: &str) {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match &*shown {
        Some(bars) => bars.suspend(|| drop(writeln!(io::stderr(), "{line}"))),
        None => drop(writeln!(io::stderr(), "{line}")),
    }
}

fn show(bars: Option<MultiProgress>) {
    *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = bars;
}

impl Default for Progress {
    fn default() -> Self {
        Self { terminal: io::stderr().is_terminal(), state: Mutex::default() }
    }
}

impl Progress {
    /// Takes the bars off the screen.
    pub fn finish(&self) {
        if let Some(bars) = &self.state().bars {
            for bar in [&bars.replies, &bars.answers, &bars.decided] {
                bar.finish_and_clear();
            }
            show(None);
        }
    }

    /// What the king and the challenger read and wrote so far.
    pub fn tokens(&self) -> [Tokens; 2] {
        self.state().lines.tokens()
    }

    /// What the judges' answers have cost in US dollars, if one of them was paid
    /// for.
    pub fn spent_usd(&self) -> Option<f64> {
        self.state().lines.spent_usd()
    }

    /// Seconds from the first event to the latest.
    pub fn elapsed_secs(&self) -> f64 {
        self.state().lines.elapsed_secs()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bars {
    fn new(samples: u32, judges: u32) -> Self {
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix:>9} {bar:30} {pos}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = |name: &'static str, length: u32| {
            all.add(ProgressBar::new(u64::from(length))).with_style(style.clone()).with_prefix(name)
        };
        let bars = Self {
            replies: bar("replies", 2 * samples),
            answers: bar("judged", 2 * samples * judges),
            decided: bar("decided", samples),
            all,
        };
        for bar in [&bars.replies, &bars.answers, &bars.decided] {
            bar.tick();
        }
        show(Some(bars.all.clone()));
        bars
    }

    /// Moves the bars on; whether a line of `event` is to be shown above them.
    fn on(&self, event: &Event, lines: &ProgressLines) -> bool {
        match &event.kind {
            EventKind::Restored { replies, assessments } => {
                self.replies.inc(*replies);
                self.answers.inc(*assessments);
            }
            EventKind::Decided { .. } => {
                self.decided.set_position(u64::from(lines.decided));
                self.decided.set_message(lines.margin());
                return false;
            }
            EventKind::Journal(JournalEvent::Replied { .. }) => {
                let written: u64 = lines.tokens.iter().map(|tokens| tokens.reply).sum();
                let speed = written as f64 / lines.elapsed_secs().max(1e-3);
                self.replies.inc(1);
                self.replies.set_message(format!("{written} tokens, {speed:.0} per second"));
            }
            EventKind::Journal(JournalEvent::Overflowed { repeated: true, .. }) => self.replies.inc(1),
            EventKind::Journal(JournalEvent::Assessed { .. }) => self.answers.inc(1),
            _ => {}
        }
        true
    }
}

impl EventSink for Progress {
    fn on(&self, event: &Event) {
        let mut state = self.state();
        let said = state.lines.on(event);
        if self.terminal
            && state.bars.is_none()
            && let EventKind::Journal(JournalEvent::Opened { plan, .. }) = &event.kind
        {
            state.bars = Some(Bars::new(plan.samples, plan.judges.len() as u32));
        }
        let State { lines, bars } = &*state;
        let shown = bars.as_ref().is_none_or(|bars| bars.on(event, lines));
        for line in said.into_iter().filter(|_| shown) {
            // A terminal that goes away must not end the duel.
            match bars {
                Some(bars) => drop(bars.all.println(line)),
                None => drop(writeln!(io::stderr(), "{line}")),
            }
        }
    }
}

//! Progress on standard error, from the stream of events: bars on a terminal,
//! plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::table::{counted, times};
use super::{Look, Tokens, line};
use crate::decision::{RuleContext, SequentialTest};
use crate::overflow::Overflow;
use crate::plan::DuelPlan;
use crate::record::JournalEvent;
use crate::{Event, EventKind, EventSink, Rule, Side};

/// Failed calls that are shown one by one; the rest are only counted.
const FAILURES_SHOWN: u32 = 5;

/// Plain lines for a duel of any size.
const LINES: u32 = 8;

/// Between two drawings of the bars while nothing happens, so that the elapsed time
/// moves on.
const TICK: Duration = Duration::from_millis(250);

/// Steps of the bar of the evidence.
const EVIDENCE_STEPS: u64 = 1000;

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
    /// What the duel's rule goes by, if that is evidence.
    evidence: Option<Running>,
    failures: u32,
    tokens: [Tokens; 2],
    spent_usd: Option<f64>,
}

/// The evidence of `sequential` so far, and what it has to reach; both natural
/// logarithms.
#[derive(Debug, Clone)]
struct Running {
    start: SequentialTest,
    test: SequentialTest,
    needed: f64,
}

impl Running {
    fn of(plan: &DuelPlan) -> Option<Self> {
        let Rule::Sequential { win_margin, null_margin } = plan.rule else { return None };
        let alpha = plan.terms.alpha();
        let context = RuleContext {
            version: plan.rule_version,
            looks: plan.looks.clone(),
            ..RuleContext::new(&plan.rule, plan.samples, alpha)
        };
        let start = SequentialTest::new(win_margin, null_margin, &context);
        Some(Self { test: start.clone(), start, needed: -alpha.ln() })
    }

    /// How far the evidence is on its way, from 0 to 1.
    fn share(&self) -> f64 {
        (self.test.log_e_value() / self.needed).clamp(0.0, 1.0)
    }

    fn describe(&self) -> String {
        format!("{} of {}", times(self.test.log_e_value()), times(self.needed))
    }
}

impl ProgressLines {
    /// The lines that `event` calls for, each without its line break and with nothing that a
    /// terminal obeys, whatever a server or a plugin has said.
    pub fn on(&mut self, event: &Event) -> Vec<String> {
        self.said(event).iter().map(|said| line(said)).collect()
    }

    fn said(&mut self, event: &Event) -> Vec<String> {
        self.started_ms.get_or_insert(event.time_ms);
        self.latest_ms = event.time_ms;
        match &event.kind {
            EventKind::Restored { replies, assessments } => {
                vec![format!(
                    "going on with {} and {} of the judges",
                    counted(*replies as u32, "reply", "replies"),
                    counted(*assessments as u32, "answer", "answers")
                )]
            }
            EventKind::Spent { usd } => {
                self.spent_usd = Some(*usd);
                vec![]
            }
            EventKind::Decided { difference, .. } => {
                self.decided += 1;
                self.difference += difference;
                if let Some(evidence) = &mut self.evidence {
                    evidence.test.consume(*difference);
                }
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
                if let Some(evidence) = &mut self.evidence {
                    evidence.test = evidence.start.clone();
                }
                vec![format!(
                    "missing answers to the first {samples} samples would decide: they are asked for again"
                )]
            }
            EventKind::Journal(JournalEvent::Opened { plan, .. }) => {
                (self.samples, self.judges) = (plan.samples, plan.judges.len() as u32);
                self.evidence = Running::of(plan);
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
        let evidence = self.evidence.as_ref().map(|evidence| format!(", evidence {}", evidence.describe()));
        format!(
            "{:5.1} s  {}/{} samples decided by {}, {}{}",
            self.elapsed_secs(),
            self.decided,
            self.samples,
            counted(self.judges, "judge", "judges"),
            self.margin(),
            evidence.unwrap_or_default()
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
    /// While models are loaded, on a terminal.
    loading: Option<Loading>,
    /// Once the plan is frozen, on a terminal.
    bars: Option<Bars>,
}

/// Which model is loaded, and for how long.
#[derive(Debug)]
struct Loading {
    spinner: ProgressBar,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    replies: ProgressBar,
    answers: ProgressBar,
    decided: ProgressBar,
    /// Of a rule that goes by evidence.
    evidence: Option<ProgressBar>,
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
    /// Takes off the screen what shows that models are loaded: what is printed next
    /// stands on a line of its own.
    pub fn loaded(&self) {
        if let Some(loading) = self.state().loading.take() {
            loading.finish();
        }
    }

    /// Takes everything off the screen.
    pub fn finish(&self) {
        self.loaded();
        if let Some(bars) = &self.state().bars {
            bars.each().for_each(ProgressBar::finish_and_clear);
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

impl Loading {
    fn begin() -> Self {
        let all = MultiProgress::new();
        let spinner = all.add(ProgressBar::new_spinner().with_style(style("{msg} {elapsed}")));
        spinner.enable_steady_tick(TICK);
        show(Some(all));
        Self { spinner }
    }

    fn finish(self) {
        self.spinner.finish_and_clear();
        show(None);
    }
}

impl Bars {
    /// Those of the duel whose plan `lines` has seen.
    fn new(lines: &ProgressLines) -> Self {
        let all = MultiProgress::new();
        let elapsed = Duration::from_secs_f64(lines.elapsed_secs());
        let bar = |name: &'static str, template: &str, length: u64| {
            let bar = ProgressBar::new(length).with_style(style(template)).with_prefix(name);
            all.add(bar.with_elapsed(elapsed))
        };
        let counting = "{prefix:>9} {bar:BAR} {pos}/{len} {wide_msg}";
        let bars = Self {
            replies: bar("replies", counting, 2 * u64::from(lines.samples)),
            answers: bar("judged", counting, 2 * u64::from(lines.samples) * u64::from(lines.judges)),
            decided: bar(
                "decided",
                "{prefix:>9} {bar:BAR} {pos}/{len} in {elapsed} {wide_msg}",
                u64::from(lines.samples),
            ),
            evidence: lines
                .evidence
                .as_ref()
                .map(|_| bar("evidence", "{prefix:>9} {bar:BAR} {wide_msg}", EVIDENCE_STEPS)),
            all,
        };
        for bar in bars.each() {
            bar.tick();
        }
        show(Some(bars.all.clone()));
        // One is enough: all are drawn together.
        bars.decided.enable_steady_tick(TICK);
        bars
    }

    fn each(&self) -> impl Iterator<Item = &ProgressBar> {
        [&self.replies, &self.answers, &self.decided].into_iter().chain(&self.evidence)
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
                if let (Some(bar), Some(evidence)) = (&self.evidence, &lines.evidence) {
                    bar.set_position((evidence.share() * EVIDENCE_STEPS as f64) as u64);
                    bar.set_message(evidence.describe());
                }
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

/// The style of a bar; `BAR` in its template is the width of the bar, which follows the
/// terminal's: what stands after the bar fits into 60 columns.
fn style(template: &str) -> ProgressStyle {
    let columns = if Look::of_stderr().width() < 80 { "8" } else { "30" };
    ProgressStyle::with_template(&template.replace("BAR", columns))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl EventSink for Progress {
    fn on(&self, event: &Event) {
        let mut state = self.state();
        let said = state.lines.on(event);
        if self.terminal {
            state.show(event);
        }
        let State { lines, bars, .. } = &*state;
        let shown = bars.as_ref().is_none_or(|bars| bars.on(event, lines));
        for said in said.into_iter().filter(|_| shown) {
            // A terminal that goes away must not end the duel.
            match bars {
                Some(bars) => drop(bars.all.println(said)),
                None => drop(writeln!(io::stderr(), "{said}")),
            }
        }
    }
}

impl State {
    /// Puts on the terminal what `event` begins, and takes off what it ends.
    fn show(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Loading { side } => {
                let message = match self.loading {
                    None => format!("loading the {side}"),
                    Some(_) => "loading king and challenger".to_owned(),
                };
                self.loading.get_or_insert_with(Loading::begin).spinner.set_message(message);
            }
            EventKind::Journal(JournalEvent::Opened { .. }) if self.bars.is_none() => {
                if let Some(loading) = self.loading.take() {
                    loading.finish();
                }
                self.bars = Some(Bars::new(&self.lines));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Call;
    use crate::{ErrorKind, Fault};

    #[test]
    fn what_a_server_says_is_one_line_that_no_terminal_obeys() {
        let failed = JournalEvent::Failed {
            sample: Some(3),
            call: Call::Reply(Side::King),
            call_try: 1,
            kind: ErrorKind::Unavailable,
            fault: Fault::Infrastructure,
            message: "it says `a\u{1b}[2J\nb`".into(),
            usage: None,
        };
        let lines = ProgressLines::default().on(&Event::new(None, EventKind::Journal(failed)));
        assert_eq!(lines, ["sample 3, try 1: it says `a\u{FFFD}[2J\u{FFFD}b`"]);
    }
}

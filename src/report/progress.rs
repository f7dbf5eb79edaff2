//! Progress on standard error: bars on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Tokens;
use crate::{DuelEvent, Error, Observer, Overflow, Side};

/// Failed calls that are shown one by one; the rest are only counted.
const FAILURES_SHOWN: u32 = 5;

/// Plain lines that a duel of any size comes to.
const LINES: u32 = 8;

/// Shows a duel as it runs, and counts what it took.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    samples: u32,
    judges: u32,
    bars: Option<Bars>,
    failures: Failures,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    replies: ProgressBar,
    answers: ProgressBar,
    decided: ProgressBar,
}

#[derive(Debug, Default)]
struct Counts {
    decided: u32,
    difference: f64,
    tokens: [Tokens; 2],
    spent_usd: Option<f64>,
}

/// Shows the first failed calls, one by one.
#[derive(Debug, Default)]
pub struct Failures(AtomicU32);

impl Failures {
    fn show(&self, sample: Option<u32>, call_try: u32, error: &Error, say: impl Fn(&str)) {
        let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        if number <= FAILURES_SHOWN {
            let place = sample.map_or("before the duel".into(), |sample| format!("sample {sample}"));
            say(&format!("{place}, try {call_try}: {error}"));
        }
        if number == FAILURES_SHOWN {
            say("further failures are in the journal");
        }
    }
}

/// Of a preflight, which has no progress to show.
impl Observer for Failures {
    fn on(&self, event: &DuelEvent<'_>) {
        if let DuelEvent::Failed { sample, call_try, error } = event {
            // With standard error gone there is nobody to tell.
            self.show(*sample, *call_try, error, |line| drop(writeln!(io::stderr(), "{line}")));
        }
    }
}

impl Progress {
    /// The progress of a duel of `samples` before `judges`.
    pub fn new(samples: u32, judges: u32) -> Self {
        let bars = io::stderr().is_terminal().then(|| Bars::new(samples, judges));
        let (started, failures) = (Instant::now(), Failures::default());
        Self { started, samples, judges, bars, failures, counts: Mutex::default() }
    }

    /// Takes the bars off the screen.
    pub fn finish(&self) {
        if let Some(bars) = &self.bars {
            for bar in [&bars.replies, &bars.answers, &bars.decided] {
                bar.finish_and_clear();
            }
        }
    }

    /// What the king and the challenger read and wrote so far.
    pub fn tokens(&self) -> [Tokens; 2] {
        self.counts().tokens
    }

    /// What the judges' answers have cost, if one of them was paid for.
    pub fn spent_usd(&self) -> Option<f64> {
        self.counts().spent_usd
    }

    /// Since the progress was made.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, line: &str) {
        match &self.bars {
            // A terminal that goes away must not end the duel.
            Some(bars) => drop(bars.all.println(line)),
            None => drop(writeln!(io::stderr(), "{line}")),
        }
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
        bars
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

impl Observer for Progress {
    fn on(&self, event: &DuelEvent<'_>) {
        let mut counts = self.counts();
        match event {
            DuelEvent::Replied { side, usage, .. } => {
                let side = match side {
                    Side::King => 0,
                    Side::Challenger => 1,
                };
                counts.tokens[side].add(usage.prompt_tokens, usage.completion_tokens);
                if let Some(bars) = &self.bars {
                    let written: u64 = counts.tokens.iter().map(|tokens| tokens.reply).sum();
                    let speed = written as f64 / self.elapsed().as_secs_f64().max(1e-3);
                    bars.replies.inc(1);
                    bars.replies.set_message(format!("{written} tokens, {speed:.0} a second"));
                }
            }
            DuelEvent::Overflowed { sample, side, overflow, repeated } => {
                self.say(&overflow_line(*sample, *side, *overflow, *repeated));
                if let (Some(bars), true) = (&self.bars, repeated) {
                    bars.replies.inc(1);
                }
            }
            DuelEvent::Resumed { replies, assessments } => {
                self.say(&format!("going on with {replies} replies and {assessments} judges' answers"));
                if let Some(bars) = &self.bars {
                    bars.replies.inc(*replies as u64);
                    bars.answers.inc(*assessments as u64);
                }
            }
            DuelEvent::Spent { usd } => counts.spent_usd = Some(*usd),
            DuelEvent::Assessed { .. } => {
                if let Some(bars) = &self.bars {
                    bars.answers.inc(1);
                }
            }
            DuelEvent::Failed { sample, call_try, error } => {
                self.failures.show(*sample, *call_try, error, |line| self.say(line));
            }
            DuelEvent::Decided { difference, .. } => {
                counts.decided += 1;
                counts.difference += difference;
                let margin = 100.0 * counts.difference / f64::from(counts.decided);
                let message = format!("margin so far {margin:+.1} points");
                let step = self.samples.div_ceil(LINES);
                match &self.bars {
                    Some(bars) => {
                        bars.decided.set_position(u64::from(counts.decided));
                        bars.decided.set_message(message);
                    }
                    None if counts.decided.is_multiple_of(step) || counts.decided == self.samples => {
                        let seconds = self.elapsed().as_secs_f64();
                        self.say(&format!(
                            "{:5.1} s  {}/{} samples decided by {} judges, {message}",
                            seconds, counts.decided, self.samples, self.judges
                        ));
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }
}

//! Progress of `albedo generate` on standard error: a counting line on a
//! terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::Tokens;
use crate::Usage;

/// Answers at which the first plain line is written; the next ones are at twice
/// as many each.
const FIRST_LINE: u64 = 16;

/// Counts answers and tokens, and shows how fast they come.
#[derive(Debug)]
pub struct Throughput {
    started: Instant,
    bar: Option<ProgressBar>,
    answered: u64,
    failed: u64,
    tokens: Tokens,
}

impl Throughput {
    /// Starts to count.
    pub fn start() -> Self {
        let style =
            ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = io::stderr().is_terminal().then(|| ProgressBar::new_spinner().with_style(style));
        Self { started: Instant::now(), bar, answered: 0, failed: 0, tokens: Tokens::default() }
    }

    /// Counts one answer: its usage, or none if it failed.
    pub fn answered(&mut self, usage: Option<Usage>) {
        match usage {
            Some(usage) => {
                self.answered += 1;
                self.tokens.add(usage.prompt_tokens, usage.completion_tokens);
            }
            None => self.failed += 1,
        }
        let all = self.answered + self.failed;
        match &self.bar {
            Some(bar) => {
                bar.set_message(self.line());
                bar.tick();
            }
            None if all >= FIRST_LINE && all.is_power_of_two() => self.say(),
            None => {}
        }
    }

    /// Says how it went; the numbers of replies and of failures.
    pub fn finish(&self) -> (u64, u64) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.say();
        (self.answered, self.failed)
    }

    fn say(&self) {
        // A closed standard error is no reason to stop.
        let _ = writeln!(io::stderr(), "{}", self.line());
    }

    fn line(&self) -> String {
        let Self { answered, failed, tokens: Tokens { prompt, reply }, .. } = self;
        let seconds = self.started.elapsed().as_secs_f64();
        let speed = *reply as f64 / seconds.max(1e-3);
        let failed = if *failed > 0 { format!(", {failed} failed") } else { String::new() };
        format!(
            "{answered} answered{failed}: {prompt} tokens read, {reply} written in {seconds:.1} s, {speed:.0} a second"
        )
    }
}

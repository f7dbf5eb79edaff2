//! Training on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::distil::{Happening, Metrics};
use crate::report::say;

/// Plain lines for the steps of a distillation of any length.
const LINES: u64 = 10;

/// Between two drawings of the bar while a step takes long.
const TICK: Duration = Duration::from_millis(250);

/// Shows a distillation as it runs.
#[derive(Debug)]
pub(super) struct TrainingProgress {
    bar: Option<ProgressBar>,
    steps: u64,
}

impl TrainingProgress {
    /// That of `steps` steps.
    pub(super) fn new(steps: u64) -> Self {
        let style = ProgressStyle::with_template("{prefix:>9} {bar:16} {pos}/{len} in {elapsed} {wide_msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = || ProgressBar::new(steps).with_style(style).with_prefix("steps");
        Self { bar: io::stderr().is_terminal().then(bar), steps }
    }

    /// Shows what happens.
    pub(super) fn on(&self, happening: &Happening<'_>) {
        match happening {
            Happening::Damaged(step) => {
                self.line(&format!(
                    "the checkpoint after step {step} is damaged: an older one is taken, if there is one"
                ));
            }
            Happening::Resumed(done) => self.line(&format!("going on after {done} of {} steps", self.steps)),
            Happening::Stage(number, steps) => self.line(&format!("stage {number}: {steps} steps")),
            Happening::Step(metrics, all) => match &self.bar {
                Some(bar) => {
                    bar.enable_steady_tick(TICK);
                    bar.set_position(metrics.step);
                    bar.set_message(told(metrics));
                }
                None if metrics.step.is_multiple_of(all.div_ceil(LINES)) || metrics.step == *all => {
                    say(&format!("{}/{all} steps, {}", metrics.step, told(metrics)));
                }
                None => {}
            },
            Happening::Measured(loss) => {
                self.line(&format!("held out: {} has {:.4} nats per token", loss.of, loss.nats));
            }
            Happening::Screening => {
                self.finish();
                say("screening the behaviour of the result");
            }
            Happening::Duelling => {
                self.finish();
                say("the result duels its start");
            }
            _ => {}
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Takes the bar off the screen.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Loss, speed and the time left.
fn told(metrics: &Metrics) -> String {
    let Metrics { loss, tokens_per_second, seconds_left, .. } = metrics;
    format!("loss {loss:.3}, {tokens_per_second:.0} tokens per second, {} left", time(*seconds_left))
}

fn time(seconds: f64) -> String {
    match seconds.round() as u64 {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_two_units() {
        assert_eq!(
            [0.4, 59.4, 60.0, 3599.0, 7325.0].map(time),
            ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "2 h 2 min"]
        );
    }
}

//! Exit codes of the program.

use std::error::Error as StdError;
use std::fmt::Write;
use std::process::ExitCode;

use super::output::Unwritable;
use crate::{AdmissionOutcome, Error, ErrorKind, Fault};

/// How a command ended, with its exit code as its value.
///
/// The codes from 64 up are those of BSD's `sysexits.h`, as far as it has a
/// fitting one; 130 is what shells report for an interrupt (128 + `SIGINT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Exit {
    /// The command did what it was asked, whatever the verdict.
    Done = 0,
    /// A screen rejected the model: it forfeits. `albedo distil`: the result did not pass
    /// its gate.
    Rejected = 1,
    /// The command line is wrong.
    Usage = 2,
    /// `albedo record verify --regenerate`, `albedo record audit` or `albedo log
    /// verify`: a reply was not reproduced, or (`albedo distil verify`) a step was not, or replies or a log are not as honest ones
    /// are. `albedo judge conform`: a judge breaks a promise. `albedo publish status
    /// --alert-after`: publishing is late.
    Found = 3,
    /// `albedo decide`: neither system was shown to be better.
    NotShown = 4,
    /// `albedo decide`: the second system is worse.
    Worse = 5,
    /// A model, shard or record is malformed or has another digest.
    BadData = 65,
    /// An input file or folder does not exist.
    NoInput = 66,
    /// A server or device that the command needs does not answer.
    Unavailable = 69,
    /// An invariant of albedo is broken.
    Bug = 70,
    /// Standard output cannot be written.
    Output = 74,
    /// Not decided for a passing reason: the same command may succeed later.
    TryAgain = 75,
    /// Permission is denied, a key is missing, or no more may be spent.
    Denied = 77,
    /// The configuration is wrong.
    Config = 78,
    /// An interrupt ended the command; what was journalled is kept.
    Interrupted = 130,
}

impl Exit {
    /// Every exit, by its code.
    pub const ALL: [Self; 15] = [
        Self::Done,
        Self::Rejected,
        Self::Usage,
        Self::Found,
        Self::NotShown,
        Self::Worse,
        Self::BadData,
        Self::NoInput,
        Self::Unavailable,
        Self::Bug,
        Self::Output,
        Self::TryAgain,
        Self::Denied,
        Self::Config,
        Self::Interrupted,
    ];

    /// The exit code.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What the code means, as `albedo --help` and the README say it.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, whatever the verdict",
            Self::Rejected => "a screen rejected the model, or a distilled one did not pass its gate",
            Self::Usage => "the command line is wrong",
            Self::Found => {
                "a reply was not reproduced, a log or replies are not as honest ones are, a judge breaks a promise, or publishing is late: what was found is printed"
            }
            Self::NotShown => "two systems were compared, and neither was shown to be better",
            Self::Worse => "two systems were compared, and the second is worse",
            Self::BadData => "bad data: a model, shard or record is malformed or has another digest",
            Self::NoInput => "an input file or folder does not exist",
            Self::Unavailable => "a dependency is down",
            Self::Bug => "a bug in albedo",
            Self::Output => "standard output cannot be written",
            Self::TryAgain => "not decided for a passing reason: try again",
            Self::Denied => "permission denied, a key is missing, or no more may be spent",
            Self::Config => "the configuration is wrong",
            Self::Interrupted => "interrupted; what was journalled is kept",
        }
    }

    /// How a command ends that screened a submission.
    pub const fn of_admission(outcome: AdmissionOutcome) -> Self {
        match outcome {
            AdmissionOutcome::Admitted => Self::Done,
            AdmissionOutcome::Forfeit => Self::Rejected,
            AdmissionOutcome::Void => Self::TryAgain,
        }
    }

    /// How a command ends that failed with `error`.
    pub fn of(error: &Error) -> Self {
        if matches!(StdError::source(error), Some(source) if source.is::<Unwritable>()) {
            return Self::Output;
        }
        match (error.fault(), error.kind()) {
            (_, ErrorKind::Cancelled) => Self::Interrupted,
            (Fault::Bug, _) => Self::Bug,
            (
                _,
                ErrorKind::DataInvalid
                | ErrorKind::DigestMismatch
                | ErrorKind::Unsupported
                | ErrorKind::Overflow,
            ) => Self::BadData,
            (_, ErrorKind::NotFound) => Self::NoInput,
            (Fault::Operator, ErrorKind::Unavailable | ErrorKind::ResourceExhausted) => Self::Denied,
            (Fault::Operator, _) => Self::Config,
            (_, ErrorKind::Unavailable | ErrorKind::Protocol | ErrorKind::Refused) => Self::Unavailable,
            _ => Self::TryAgain,
        }
    }

    /// The table of [`Exit::ALL`], as `albedo --help` ends with it.
    pub(super) fn table() -> String {
        let mut text = "Exit codes:".to_owned();
        for exit in Self::ALL {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n  {:>3}  {}", exit.code(), exit.meaning());
        }
        text
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_and_the_guide_have_the_exit_codes() {
        for page in [include_str!("../../README.md"), include_str!("../../docs/exit-codes.md")] {
            for exit in Exit::ALL {
                let line = format!("| {} | {} |", exit.code(), exit.meaning());
                assert!(page.contains(&line), "{line}");
            }
        }
    }

    #[test]
    fn errors_have_the_documented_codes() {
        let code = |kind| Exit::of(&Error::new(kind, "x", "y")).code();
        assert_eq!(code(ErrorKind::ConfigInvalid), 78);
        assert_eq!(code(ErrorKind::UnknownPlugin), 78);
        assert_eq!(code(ErrorKind::NotFound), 66);
        assert_eq!(code(ErrorKind::DigestMismatch), 65);
        assert_eq!(code(ErrorKind::Unavailable), 69);
        assert_eq!(code(ErrorKind::ResourceExhausted), 75);
        assert_eq!(code(ErrorKind::Cancelled), 130);
        assert_eq!(code(ErrorKind::Unexpected), 70);
        let denied = Error::new(ErrorKind::Unavailable, "x", "y").with_fault(Fault::Operator);
        assert_eq!(Exit::of(&denied).code(), 77);
        let claim = Error::new(ErrorKind::DataInvalid, "x", "y")
            .with_fault(Fault::Contestant(crate::Side::Challenger));
        assert_eq!(Exit::of(&claim).code(), 65);
    }
}

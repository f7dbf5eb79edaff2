//! What an error is: its kind, who has to act, how far it reaches, whether to try
//! again.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One of the two contestants of a duel: the reigning king, or the challenger that
/// tries to dethrone it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The reigning best submission.
    King,
    /// The submission that tries to dethrone the king.
    Challenger,
}

impl Side {
    /// Both sides, the king first.
    pub const BOTH: [Self; 2] = [Self::King, Self::Challenger];

    /// The other side.
    #[must_use]
    pub fn opponent(self) -> Self {
        match self {
            Self::King => Self::Challenger,
            Self::Challenger => Self::King,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::King => "king",
            Self::Challenger => "challenger",
        })
    }
}

/// Who has to act on an error. In doubt it is [`Fault::Infrastructure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// A contestant's own bytes are at fault, and the evidence depends on
    /// nothing else. A claim until the duel engine has confirmed it.
    Contestant(Side),
    /// Something of ours, or a provider's, failed: the duel is void, not lost.
    Infrastructure,
    /// The operator's configuration or environment must change first.
    Operator,
    /// An invariant of albedo is broken.
    Bug,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contestant(side) => write!(f, "contestant ({side})"),
            Self::Infrastructure => f.write_str("infrastructure"),
            Self::Operator => f.write_str("operator"),
            Self::Bug => f.write_str("bug"),
        }
    }
}

/// Which of a model's own files an error is about. The code that reads a file
/// knows this; whose file it is, only the code that asked for the model knows
/// ([`Error::charged_to`](super::Error::charged_to)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Artefact {
    /// Its configuration and weights.
    Model,
    /// Its tokenizer, chat template and stop ids. In a duel both sides use the
    /// king's.
    Text,
}

/// How far an error reaches, beginning with the least: what cannot go on after
/// it. Who is at fault is another question ([`Fault`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// One call: other calls may succeed, and so may the same call if
    /// [`Error::retry`](super::Error::retry) says so.
    Call,
    /// One sample: the same request fails in the same way whenever it is made.
    Sample,
    /// The duel: every further call of its kind fails until somebody acts. What
    /// was journalled is kept, and the duel can be resumed.
    Duel,
    /// The process: it has to be started again, for example because the driver
    /// lets it use the GPU no more.
    Process,
}

/// What went wrong, independent of who is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration value is missing, unknown, out of range or contradictory.
    ConfigInvalid,
    /// No plugin of that name is registered for the role.
    UnknownPlugin,
    /// A file, row, model or record does not exist.
    NotFound,
    /// Bytes do not have the digest they are pinned to.
    DigestMismatch,
    /// Bytes are not in the format they claim to be in.
    DataInvalid,
    /// Well-formed, but outside what this implementation supports.
    Unsupported,
    /// Memory, disk or another bounded resource ran out.
    ResourceExhausted,
    /// The compute device was lost or answered with an error.
    DeviceLost,
    /// A provider refuses this request for what it says: its size, its form, or a
    /// filter. Another request may be answered.
    Refused,
    /// A provider asked to slow down.
    RateLimited,
    /// A service or file system did not answer, or refused to.
    Unavailable,
    /// A deadline passed.
    Timeout,
    /// The caller cancelled the operation.
    Cancelled,
    /// A peer answered with something outside the protocol.
    Protocol,
    /// The operation contradicts an earlier one.
    Conflict,
    /// A model's own arithmetic gave a number that is not finite
    /// ([`Error::overflow`](super::Error::overflow)).
    Overflow,
    /// None of the above; a bug until shown otherwise.
    Unexpected,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::ConfigInvalid,
        Self::UnknownPlugin,
        Self::NotFound,
        Self::DigestMismatch,
        Self::DataInvalid,
        Self::Unsupported,
        Self::ResourceExhausted,
        Self::DeviceLost,
        Self::Refused,
        Self::RateLimited,
        Self::Unavailable,
        Self::Timeout,
        Self::Cancelled,
        Self::Protocol,
        Self::Conflict,
        Self::Overflow,
        Self::Unexpected,
    ];

    /// The fault of an error that says nothing else. Only what nobody but the
    /// operator can have caused is the operator's; in doubt it is
    /// infrastructure's.
    pub(super) fn fault(self) -> Fault {
        match self {
            Self::ConfigInvalid | Self::UnknownPlugin | Self::NotFound | Self::Cancelled => Fault::Operator,
            Self::Unexpected => Fault::Bug,
            _ => Fault::Infrastructure,
        }
    }

    /// The reach of an error that says nothing else.
    pub(super) fn reach(self) -> Reach {
        match self {
            Self::ConfigInvalid
            | Self::UnknownPlugin
            | Self::NotFound
            | Self::Cancelled
            | Self::Conflict
            | Self::Unexpected => Reach::Duel,
            Self::Overflow => Reach::Sample,
            _ => Reach::Call,
        }
    }

    /// Whether to try again after an error that says nothing else.
    pub(super) fn retry(self) -> Retry {
        match self {
            Self::RateLimited
            | Self::Unavailable
            | Self::Timeout
            | Self::DeviceLost
            | Self::ResourceExhausted
            | Self::Protocol => Retry::Backoff,
            _ => Retry::Never,
        }
    }
}

/// Whether the same call may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Retry {
    /// The same call fails again.
    Never,
    /// Worth another try after a pause of the caller's choice.
    Backoff,
    /// Worth another try, not earlier than this.
    After(Duration),
    /// Was worth retrying, and the tries are used up.
    Exhausted {
        /// Tries made in all.
        attempts: u32,
    },
}

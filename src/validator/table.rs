//! Where a submission stands and which moves there are: one pure table.
//!
//! | move | from | to |
//! |---|---|---|
//! | `admit` | `seen` | `admitted` |
//! | `clear_files` | `admitted` | `files_clear` |
//! | `hold` | `files_clear` | `held` |
//! | `clear` | `held` | `clear` |
//! | `rescreen` | `clear` | `held` |
//! | `plan` | `clear` | `planned` |
//! | `begin` | `planned` | `duelling` |
//! | `crown`, `lose` | `duelling` | `crowned`, `lost` |
//! | `forfeit` | `admitted`, `files_clear`, `held`, `clear`, `duelling` | `forfeit` |
//! | `expire` | `admitted`, `files_clear`, `held`, `clear` | `expired` |
//! | `set_aside` | every state before `planned` | `set_aside` |
//! | `abandon` | `planned` | `clear` |
//! | `void` | `admitted` to `planned` | the same state |
//! | `void` | `duelling` | `planned` |
//!
//! Only `plan` spends a share of the reign's error budget, and only `crown`, `lose` and
//! `forfeit` rest on a record. The last five states have no move out.

pub use crate::publish::public::SubmissionState as State;

/// Every state, in the order of the way through them.
pub const STATES: [State; 12] = [
    State::Seen,
    State::Admitted,
    State::FilesClear,
    State::Held,
    State::Clear,
    State::Planned,
    State::Duelling,
    State::Crowned,
    State::Lost,
    State::Forfeit,
    State::Expired,
    State::SetAside,
];

/// What can happen to a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Move {
    /// Its hotkey and repository may take part.
    Admit,
    /// The screens that read listings and headers found nothing.
    ClearFiles,
    /// Its bytes are on this machine and have their digests.
    Hold,
    /// Every screen passed it, beside the king of that time.
    Clear,
    /// Another king reigns: the screens compare it with that one.
    Rescreen,
    /// Its attempt is allotted and its plan is in the log.
    Plan,
    /// Its seed is known and the duel runs.
    Begin,
    /// It won.
    Crown,
    /// The king held.
    Lose,
    /// Evidence about its own bytes ends it.
    Forfeit,
    /// Something failed that is not the submission's doing: it is tried again.
    Void,
    /// Its duel was given up, by the operator or because its hub no longer has its files: the
    /// share is spent, and it duels again as another attempt.
    Abandon,
    /// Its files were not to be had in its time, or are gone from their hub.
    Expire,
    /// It takes no part: the hotkey is gone, the content entered before, no hub can have what it
    /// names, the operator has set it aside, or the king has the same model and committed later.
    SetAside,
}

impl Move {
    /// Every move.
    pub const ALL: [Self; 14] = [
        Self::Admit,
        Self::ClearFiles,
        Self::Hold,
        Self::Clear,
        Self::Rescreen,
        Self::Plan,
        Self::Begin,
        Self::Crown,
        Self::Lose,
        Self::Forfeit,
        Self::Void,
        Self::Abandon,
        Self::Expire,
        Self::SetAside,
    ];

    /// The move's name in the ledger.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::ClearFiles => "clear_files",
            Self::Hold => "hold",
            Self::Clear => "clear",
            Self::Rescreen => "rescreen",
            Self::Plan => "plan",
            Self::Begin => "begin",
            Self::Crown => "crown",
            Self::Lose => "lose",
            Self::Forfeit => "forfeit",
            Self::Void => "void",
            Self::Abandon => "abandon",
            Self::Expire => "expire",
            Self::SetAside => "set_aside",
        }
    }

    /// Whether it spends a share of the reign's error budget.
    pub const fn spends(self) -> bool {
        matches!(self, Self::Plan)
    }

    /// Whether a record has to show it.
    pub const fn needs_record(self) -> bool {
        matches!(self, Self::Crown | Self::Lose | Self::Forfeit)
    }
}

/// The state after `step` from `state`; `None` if there is no such move.
///
/// ```
/// use albedo::validator::table::{Move, State, after};
///
/// assert_eq!(after(State::Clear, Move::Plan), Some(State::Planned));
/// // An outage during a duel costs nobody anything: plan and journal are kept.
/// assert_eq!(after(State::Duelling, Move::Void), Some(State::Planned));
/// // Nobody loses without a duel.
/// assert_eq!(after(State::Clear, Move::Lose), None);
/// ```
pub const fn after(state: State, step: Move) -> Option<State> {
    use State::{Admitted, Clear, Duelling, FilesClear, Held, Planned, Seen};
    match (step, state) {
        (Move::Admit, Seen) => Some(Admitted),
        (Move::ClearFiles, Admitted) => Some(FilesClear),
        (Move::Hold, FilesClear) | (Move::Rescreen, Clear) => Some(Held),
        (Move::Clear, Held) | (Move::Abandon, Planned) => Some(Clear),
        (Move::Plan, Clear) | (Move::Void, Duelling) => Some(Planned),
        (Move::Begin, Planned) => Some(Duelling),
        (Move::Crown, Duelling) => Some(State::Crowned),
        (Move::Lose, Duelling) => Some(State::Lost),
        (Move::Forfeit, Admitted | FilesClear | Held | Clear | Duelling) => Some(State::Forfeit),
        (Move::Expire, Admitted | FilesClear | Held | Clear) => Some(State::Expired),
        (Move::SetAside, Seen | Admitted | FilesClear | Held | Clear) => Some(State::SetAside),
        (Move::Void, Admitted | FilesClear | Held | Clear | Planned) => Some(state),
        _ => None,
    }
}

/// Whether no move leaves `state`.
pub const fn is_final(state: State) -> bool {
    matches!(state, State::Crowned | State::Lost | State::Forfeit | State::Expired | State::SetAside)
}

/// The state's name in the ledger, which is the one of the public data.
pub const fn name(state: State) -> &'static str {
    match state {
        State::Seen => "seen",
        State::Admitted => "admitted",
        State::FilesClear => "files_clear",
        State::Held => "held",
        State::Clear => "clear",
        State::Planned => "planned",
        State::Duelling => "duelling",
        State::Crowned => "crowned",
        State::Lost => "lost",
        State::Forfeit => "forfeit",
        State::Expired => "expired",
        State::SetAside => "set_aside",
    }
}

/// The state of that name.
pub fn by_name(text: &str) -> Option<State> {
    STATES.into_iter().find(|state| name(*state) == text)
}

/// What the miner of a submission in `state` can do now, in a sentence.
pub const fn action(state: State) -> &'static str {
    match state {
        State::Seen => "Nothing: the validator checks the commitment.",
        State::Admitted => "Upload the files of the committed digest, if they are not uploaded yet.",
        State::FilesClear | State::Held => "Nothing: the validator fetches and screens the files.",
        State::Clear => "Nothing: the submission waits for its duel.",
        State::Planned | State::Duelling => "Nothing: the duel runs.",
        State::Crowned => "Keep the hotkey registered: it earns while it is among the last kings.",
        State::Lost => "Train a better model and enter it with another hotkey; the record has every sample.",
        State::Forfeit => "Read the finding in the record; enter a model of your own with another hotkey.",
        State::Expired => {
            "Commit again from a repository of another name, or to other files: the same text counts once. Upload \
             in time, and leave the files there."
        }
        State::SetAside => {
            "Read the reason: a hotkey enters once, and a content once. What never entered may be committed again \
             from a repository of another name, unless the reason says that another model is needed."
        }
    }
}

#[cfg(test)]
mod tests;

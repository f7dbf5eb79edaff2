//! The order in which a judge is shown two replies.

use serde::{Deserialize, Serialize};

/// Which reply a judge was shown first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The king's.
    KingFirst,
    /// The challenger's.
    ChallengerFirst,
}

impl Order {
    /// Both orders; every pair is judged in both.
    pub const BOTH: [Self; 2] = [Self::KingFirst, Self::ChallengerFirst];
}

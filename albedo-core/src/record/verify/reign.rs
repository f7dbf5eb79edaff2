//! Whether the records of one reign are a chain.

use std::collections::BTreeSet;

use super::Verification;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Terms;
use crate::reign::ErrorBudget;
use crate::verdict::Outcome;

/// Largest relative difference between a share and the one that the first record's
/// budget gives its attempt: logarithms differ in their last digits.
const SHARE_TOLERANCE: f64 = 1e-9;

/// What a chain of records has spent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChainedAlpha {
    /// The chance of a false crown that all the duels together had.
    pub spent: f64,
    /// That of the whole reign, from which the duels' shares follow; none unless they
    /// are attempts of a reign.
    pub budget: Option<f64>,
}

/// Verifies that records of one reign, in order, are a chain: each names the one before
/// it, the king that held is the next one's king, no seed is used twice, attempts rise,
/// and every share is the one that one and the same error budget gives its attempt.
/// Attempts may be left out: a void duel spends its share and has no record.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] with the digest of the first record that does not
/// follow.
pub fn verify_chain(records: &[Verification]) -> Result<ChainedAlpha> {
    let mut seeds = BTreeSet::new();
    let mut budget: Option<ErrorBudget> = None;
    for (index, later) in records.iter().enumerate() {
        let earlier = index.checked_sub(1).map(|index| &records[index]);
        let broken = |message: &str| {
            let error = Error::new(ErrorKind::DataInvalid, "verify the chain of records", message)
                .with("record", later.digest);
            Err(match earlier {
                Some(earlier) => error.with("after", earlier.digest),
                None => error,
            })
        };
        if let Some(earlier) = earlier {
            if later.plan.previous != Some(earlier.digest) {
                return broken("a record does not name the one before it");
            }
            if earlier.outcome == Outcome::Dethroned {
                return broken("the record before it ended the reign");
            }
            if later.plan.king.model.parameters != earlier.plan.king.model.parameters {
                return broken("it has another king");
            }
            match (earlier.plan.terms, later.plan.terms) {
                (Terms::Reign { attempt: before, .. }, Terms::Reign { attempt, .. }) if attempt <= before => {
                    return broken("its attempt is not after that of the record before it");
                }
                (Terms::Reign { .. }, Terms::Standalone { .. })
                | (Terms::Standalone { .. }, Terms::Reign { .. }) => {
                    return broken("one of both is an attempt of a reign, the other stands alone");
                }
                _ => {}
            }
        }
        if !seeds.insert(*later.plan.seed.as_bytes()) {
            return broken("an earlier record of the chain has its seed");
        }
        if let (Terms::Reign { attempt, share }, true) = (later.plan.terms, records.len() > 1) {
            let whole = match budget {
                Some(budget) => budget,
                None => match ErrorBudget::sharing(attempt, share) {
                    Ok(whole) => whole,
                    Err(_) => return broken("no error budget gives its attempt such a share"),
                },
            };
            budget = Some(whole);
            let expected = whole.share(attempt);
            if (share - expected).abs() > SHARE_TOLERANCE * expected {
                return broken("its share is not what the reign's error budget gives its attempt");
            }
        }
    }
    let spent = records.iter().map(|record| record.plan.terms.alpha()).sum();
    Ok(ChainedAlpha { spent, budget: budget.map(|budget| budget.alpha()) })
}

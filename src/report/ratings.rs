//! Ratings of the models that met in several records.

use serde::Serialize;

use crate::panel::Cluster;
use crate::record::RecordLine;
use crate::stats::{Fit, Interval, Pairings, bradley_terry};
use crate::{Digest, Record, Result};

/// Level of the intervals.
const LEVEL: f64 = 0.95;

/// Rating points per unit of a strength's logarithm, as in Elo's scale: 400 points are odds
/// of ten to one.
const SCALE: f64 = 400.0 / std::f64::consts::LN_10;

/// The models of several records on one scale, after Bradley and Terry. Each sample is a
/// meeting, whose score is the challenger's share: ½ plus half its difference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratings {
    /// The models, in the order in which the records name them first.
    pub models: Vec<Rated>,
    /// Places in `models` of those that can be compared with each other, over others if need
    /// be: one group if all can.
    pub groups: Vec<Vec<usize>>,
    /// Whether one number per model explains the meetings: a small `p_value` says that some
    /// models beat each other in a circle. None if there are no ratings.
    pub fit: Option<Fit>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rated {
    /// Digest of its parameters.
    pub parameters: Digest,
    /// Its architecture.
    pub architecture: String,
    /// Samples in which it replied.
    pub samples: u32,
    /// Its rating in points of Elo's scale; the mean of all is 0. None if the models cannot
    /// all be compared.
    pub rating: Option<f64>,
    /// The 95 % interval of the rating.
    pub interval: Option<Interval>,
}

impl Ratings {
    /// The ratings of the models in `records`.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self> {
        let (mut models, mut meetings) = (Vec::<Rated>::new(), Vec::new());
        for record in records {
            let plan = record.plan();
            let [king, challenger] = [&plan.king, &plan.challenger].map(|side| {
                let known = models.iter().position(|model| model.parameters == side.model.parameters);
                known.unwrap_or_else(|| {
                    models.push(Rated {
                        parameters: side.model.parameters,
                        architecture: side.model.architecture.clone(),
                        samples: 0,
                        rating: None,
                        interval: None,
                    });
                    models.len() - 1
                })
            });
            // A model against itself says nothing of its strength.
            if king == challenger {
                continue;
            }
            for line in &record.lines {
                if let RecordLine::Cluster(Cluster { difference, .. }) = line {
                    models[king].samples += 1;
                    models[challenger].samples += 1;
                    meetings.push((challenger, king, f64::midpoint(1.0, *difference).clamp(0.0, 1.0)));
                }
            }
        }
        let mut pairings = Pairings::new(models.len());
        for (first, second, score) in meetings {
            pairings.add(first, second, score)?;
        }
        let groups = pairings.groups();
        let mut fit = None;
        if models.len() > 1 && groups.len() == 1 {
            let found = bradley_terry(&pairings, LEVEL)?;
            for (place, model) in models.iter_mut().enumerate() {
                model.rating = Some(SCALE * found.strengths[place]);
                model.interval = Some(found.intervals[place].scaled(SCALE));
            }
            fit = Some(found.fit);
        }
        Ok(Self { models, groups, fit })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plan::DuelSettings;
    use crate::testing::{Rows, ScriptedJudge, ScriptedSession};
    use crate::{CallContext, Duel, MemoryStore, Rule};

    /// A duel in which the longer reply is better by a part of its length.
    async fn duel(king: &str, challenger: &str) -> Record {
        let side = |text: &str| ScriptedSession::saying(text, text).contestant();
        let judge = ScriptedJudge::preferring("length", |reply| (reply.len() as f64 / 20.0).min(1.0));
        let rule = Rule::Margin { win_margin: 2.0 };
        let (store, cx) = (MemoryStore::default(), CallContext::new());
        let duel = Duel::builder(side(king), side(challenger))
            .tasks(Arc::new(Rows::numbered(20)))
            .judge(Arc::new(judge))
            .settings(DuelSettings { samples: 8, rule, ..DuelSettings::default() });
        duel.plan(&store, &cx).await.expect("plans").run(&store, &cx).await.expect("runs");
        let bytes = store.record().expect("decided");
        Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("a record")
    }

    #[tokio::test]
    async fn models_that_met_over_others_have_ratings_and_the_rest_is_named() {
        let (short, middle, long) = ("a", "aaaa", "aaaaaaaa");
        let chain = [duel(short, middle).await, duel(middle, long).await];
        let ratings = Ratings::of(&chain).expect("ratings");
        let points: Vec<_> = ratings.models.iter().filter_map(|model| model.rating).collect();
        assert!(points.len() == 3 && points[0] < points[1] && points[1] < points[2], "{ratings:?}");
        assert!(points.iter().sum::<f64>().abs() < 1e-6, "the mean is 0");
        let samples: Vec<_> = ratings.models.iter().map(|model| model.samples).collect();
        assert_eq!((samples, ratings.groups.len()), (vec![8, 16, 8], 1));
        assert_eq!(ratings.fit.expect("a fit").p_value, None, "a chain cannot contradict itself");

        let apart = [duel(short, middle).await, duel(long, "aaaaaaaaaaaa").await];
        let ratings = Ratings::of(&apart).expect("groups");
        assert_eq!((ratings.groups, ratings.fit), (vec![vec![0, 1], vec![2, 3]], None));
    }
}

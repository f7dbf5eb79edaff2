//! Ratings of the models that met in several records.

use serde::Serialize;

use super::table::counted;
use crate::panel::{Cluster, Reducer};
use crate::plan::{GenerationSettings, Sampler};
use crate::record::RecordLine;
use crate::stats::{Fit, Interval, Pairings, bradley_terry};
use crate::{Digest, DuelPlan, Identity, Record, Result, Seed};

/// Level of the intervals.
const LEVEL: f64 = 0.95;

/// Rating points per unit of a strength's logarithm, as in Elo's scale: 400 points are odds
/// of ten to one.
const SCALE: f64 = 400.0 / std::f64::consts::LN_10;

/// The models of several records on one scale, after Bradley and Terry. Each sample is a
/// meeting, whose score is the challenger's share: ½ plus half its difference.
///
/// Only duels of one panel are rated: another panel has another scale, and its answers about the same replies are no other
/// meetings. Of duels of the same models on the same samples, generated alike, the one with the most samples counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratings {
    /// The models of the rated duels, in the order in which the records name them first.
    pub models: Vec<Rated>,
    /// Places in `models` of those that can be compared with each other, over others if need
    /// be: one group if all can.
    pub groups: Vec<Vec<usize>>,
    /// Whether one number per model explains the meetings: a small `p_value` says that some
    /// models beat each other in a circle. None if there are no ratings.
    pub fit: Option<Fit>,
    /// Names of the judges of the rated panel: the one with the most duels, of equal ones the first.
    pub judges: Vec<String>,
    /// Duels of other panels, which are not rated.
    pub other_panels: u32,
    /// Duels that are not counted: another has their models, tasks, sampler, seed, context and generation settings, and
    /// at least as many samples.
    pub repeated: u32,
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
        // A model against itself says nothing of its strength.
        let duels: Vec<_> = records.into_iter().filter(|record| is_of_two_models(record.plan())).collect();
        let rated = most_common(duels.iter().map(|duel| panel(duel.plan())));
        let judges = rated.iter().flat_map(|(judges, _)| judges).map(|judge| judge.name.clone()).collect();
        let (mut other_panels, mut repeated) = (0, 0);
        let mut kept: Vec<(Samples, &Record)> = Vec::new();
        for duel in duels {
            let plan = duel.plan();
            if rated.as_ref().is_some_and(|rated| *rated != panel(plan)) {
                other_panels += 1;
                continue;
            }
            // Exchanging the sides gives the same replies.
            let mut sides = [plan.king.model.parameters, plan.challenger.model.parameters];
            sides.sort_unstable();
            let drawn = (plan.tasks.manifest, plan.sampler, plan.seed);
            let samples = (sides, drawn, (plan.context_tokens, plan.generation));
            match kept.iter_mut().find(|(known, _)| *known == samples) {
                None => kept.push((samples, duel)),
                Some((_, known)) => {
                    repeated += 1;
                    if clusters(duel).count() > clusters(known).count() {
                        *known = duel;
                    }
                }
            }
        }
        let (mut models, mut meetings) = (Vec::<Rated>::new(), Vec::new());
        for (_, duel) in kept {
            let plan = duel.plan();
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
            for Cluster { difference, .. } in clusters(duel) {
                models[king].samples += 1;
                models[challenger].samples += 1;
                meetings.push((challenger, king, f64::midpoint(1.0, *difference).clamp(0.0, 1.0)));
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
        Ok(Self { models, groups, fit, judges, other_panels, repeated })
    }

    /// What was not counted, in a sentence or two; none if all duels of two models were.
    pub(super) fn left_out(&self) -> Option<String> {
        let mut said = Vec::new();
        if self.other_panels > 0 {
            said.push(format!(
                "{} not rated: another panel has another scale, and these ratings are of the judges {}.",
                counted(self.other_panels, "duel of another panel is", "duels of other panels are"),
                self.judges.join(", ")
            ));
        }
        if self.repeated > 0 {
            said.push(format!("{} {REPEATED}", counted(self.repeated, "duel has", "duels have")));
        }
        (!said.is_empty()).then(|| said.join(" "))
    }
}

fn is_of_two_models(plan: &DuelPlan) -> bool {
    plan.king.model.parameters != plan.challenger.model.parameters
}

/// What duels have that are counted once. The page says it with the same words.
const REPEATED: &str = "the models, tasks, sampler, seed, context and generation settings of another: the one with the most \
                        samples counts.";

/// Which replies a duel has: of which models, to which tasks, drawn and generated how.
type Samples = ([Digest; 2], (Digest, Sampler, Seed), (u32, GenerationSettings));

/// The panel's words on the samples of `duel`.
fn clusters(duel: &Record) -> impl Iterator<Item = &Cluster> {
    duel.lines.iter().filter_map(|line| match line {
        RecordLine::Cluster(cluster) => Some(cluster),
        _ => None,
    })
}

/// Whose scale a duel's differences are on.
type Panel<'a> = (Vec<&'a Identity>, Reducer);

fn panel(plan: &DuelPlan) -> Panel<'_> {
    (plan.judges.iter().map(|judge| &judge.identity).collect(), plan.panel.reducer)
}

/// The panel that most duels have; of equally common ones the first.
fn most_common<'a>(panels: impl Iterator<Item = Panel<'a>>) -> Option<Panel<'a>> {
    let mut counts: Vec<(Panel<'a>, u32)> = Vec::new();
    for panel in panels {
        match counts.iter_mut().find(|(known, _)| *known == panel) {
            Some((_, count)) => *count += 1,
            None => counts.push((panel, 1)),
        }
    }
    let most = counts.into_iter().reduce(|most, next| if next.1 > most.1 { next } else { most });
    most.map(|(panel, _)| panel)
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
        duel_before("length", 0, king, challenger).await
    }

    /// The same before the judge `name`.
    async fn duel_before(name: &str, seed: u64, king: &str, challenger: &str) -> Record {
        let seed = Seed::from(seed);
        duel_with(DuelSettings { samples: 8, seed, ..DuelSettings::default() }, name, king, challenger).await
    }

    /// The same with other settings, except the rule.
    async fn duel_with(settings: DuelSettings, name: &str, king: &str, challenger: &str) -> Record {
        let side = |text: &str| ScriptedSession::saying(text, text).contestant();
        let judge = ScriptedJudge::preferring(name, |reply| (reply.len() as f64 / 20.0).min(1.0));
        let rule = Rule::Margin { win_margin: 2.0 };
        let (store, cx) = (MemoryStore::default(), CallContext::new());
        let duel = Duel::builder(side(king), side(challenger))
            .tasks(Arc::new(Rows::numbered(20)))
            .judge(Arc::new(judge))
            .settings(DuelSettings { rule, ..settings });
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
    #[tokio::test]
    async fn the_same_replies_are_no_other_meetings() {
        let (short, long) = ("a", "aaaaaaaa");
        let once = [duel(short, long).await];
        let rated = |ratings: &Ratings| ratings.models.iter().map(|model| model.interval).collect::<Vec<_>>();
        let alone = Ratings::of(&once).expect("ratings");
        assert_eq!((alone.other_panels, alone.repeated, alone.left_out()), (0, 0, None));

        // Another panel over the same replies, the same duel again, and with exchanged sides.
        let [other, exchanged] = [duel_before("other", 0, short, long).await, duel(long, short).await];
        let [first, second, third] = [&once[0], &other, &exchanged];
        let ratings = Ratings::of([first, second, first, third]).expect("ratings");
        assert_eq!(rated(&ratings), rated(&alone), "intervals are not narrower for repeats");
        assert_eq!((ratings.other_panels, ratings.repeated), (1, 2));
        assert_eq!(ratings.judges, ["length"]);
        let said = ratings.left_out().expect("says so");
        assert!(said.contains("1 duel of another panel") && said.contains("2 duels have"), "{said}");
        assert!(said.contains(REPEATED) && include_str!("page/report.js").contains(REPEATED), "{said}");

        // Of equally many duels the first panel's are rated; another seed has other samples.
        let seeds = [duel_before("other", 1, short, long).await, duel_before("other", 2, short, long).await];
        let ratings = Ratings::of([first, &seeds[0], &seeds[1]]).expect("ratings");
        assert_eq!(
            (ratings.judges, ratings.other_panels, ratings.repeated),
            (vec!["other".to_owned()], 1, 0)
        );
        assert_eq!(ratings.models[0].samples, 16);
    }

    #[tokio::test]
    async fn of_repeated_duels_the_longest_is_rated() {
        let (short, long) = ("a", "aaaaaaaa");
        let of = |samples, generation| {
            let settings = DuelSettings { samples, generation, ..DuelSettings::default() };
            duel_with(settings, "length", short, long)
        };
        let generation = GenerationSettings::default();
        let other = GenerationSettings { max_new_tokens: 64, ..generation };
        let [few, many, otherwise] = [of(2, generation).await, of(8, generation).await, of(8, other).await];
        for records in [[&few, &many], [&many, &few]] {
            let ratings = Ratings::of(records).expect("ratings");
            assert_eq!((ratings.models[0].samples, ratings.repeated), (8, 1));
        }
        // Replies that were generated otherwise are other meetings, as are those to other draws or in another context.
        let same = DuelSettings { samples: 8, ..DuelSettings::default() };
        let drawn = DuelSettings { sampler: Sampler::AlbedoPy, ..same.clone() };
        let within = DuelSettings { context_tokens: Some(512), ..same };
        let [drawn, within] = [drawn, within].map(|settings| duel_with(settings, "length", short, long));
        for other in [otherwise, drawn.await, within.await] {
            let ratings = Ratings::of([&many, &other]).expect("ratings");
            assert_eq!((ratings.models[0].samples, ratings.repeated), (16, 0));
        }
    }

    #[tokio::test]
    async fn a_model_that_met_only_itself_takes_nobodys_rating() {
        let records = [duel("a", "aaaaaaaa").await, duel("aaaa", "aaaa").await];
        let ratings = Ratings::of(&records).expect("ratings");
        assert_eq!((ratings.models.len(), ratings.groups.len()), (2, 1));
        assert!(ratings.models.iter().all(|model| model.rating.is_some()), "{ratings:?}");
        let ratings = Ratings::of(&records[1..]).expect("nothing to rate");
        assert_eq!((ratings.models.len(), ratings.fit), (0, None));
    }
}

//! The report of one or several records.

use std::io;

use serde::Serialize;
use serde_json::{Value, json};

use super::table::{sentence, studied};
use super::{Analysis, Look, Ratings, markdown, page};
use crate::record::{AnyRecord, Claim, Costs, RecordLine, Verification};
use crate::shown::{EvidenceTrace, PublicJudge, SampleCard, SampleNumbers, ShownDuel, shown};
use crate::{Error, Record, Result};

/// A record of a report, and what is known beside it.
#[derive(Debug)]
pub struct Reported {
    /// What the reader calls it: the name of its folder.
    pub name: String,
    /// The record.
    pub record: AnyRecord,
    /// What verifying a duel's record found; none of a submission that was not admitted.
    pub verification: Option<Verification>,
    /// The keys that have signed its digest.
    pub signers: Vec<String>,
    /// What its calls took, if its journal is at hand.
    pub costs: Option<Costs>,
    /// Whether it is of a study (`rejudge::is_study`): its outcome is that of a rule which decides nothing.
    pub study: bool,
}

/// The report of records: who won and why, sample by sample. Its numbers are those of
/// `albedo record show --json`.
///
/// The page is one file: it asks for nothing, and text that a model or a judge wrote is
/// never more than text.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordsReport {
    pub(super) records: Vec<Part>,
    pub(super) ratings: Option<Ratings>,
}

/// What the report says of one record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) digest: String,
    /// The outcome and its reason, as in the verdict.
    #[serde(flatten)]
    pub(super) outcome: crate::Outcome,
    /// `albedo record rejudge` judged it for a study: the outcome is that of a rule which decides nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) study: bool,
    /// The verdict in words.
    pub(super) sentence: String,
    pub(super) signers: Vec<String>,
    #[serde(flatten)]
    pub(super) duel: Option<DuelPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admission: Option<Value>,
    /// Texts of the samples, which the page reads when a card is opened.
    #[serde(skip)]
    pub(super) cards: Vec<SampleCard>,
}

/// What it says of a duel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct DuelPart {
    pub(super) plan: Value,
    pub(super) verdict: Value,
    pub(super) analysis: Analysis,
    /// The margin's interval, and how it was made, in words.
    pub(super) interval: Option<crate::shown::Range>,
    pub(super) interval_kind: &'static str,
    pub(super) evidence: EvidenceTrace,
    pub(super) judges: Vec<PublicJudge>,
    pub(super) samples: Vec<SampleNumbers>,
    /// Characters of the challenger's reply minus the king's, by sample; none where a reply
    /// is missing.
    pub(super) lengths: Vec<Option<i64>>,
    pub(super) claims: Vec<Claim>,
    /// The builds that ran the duel, as its record says.
    pub(super) builds: Vec<String>,
    pub(super) costs: Option<Costs>,
}

impl RecordsReport {
    /// The report of `records`, which have been verified. Several duels are rated, too.
    ///
    /// # Errors
    /// A text that a record names is missing.
    pub fn new(records: Vec<Reported>) -> Result<Self> {
        let duels = records.iter().filter_map(|reported| match &reported.record {
            AnyRecord::Duel(record) => Some(&**record),
            AnyRecord::Forfeit(_) => None,
        });
        let duels: Vec<&Record> = duels.collect();
        let ratings = if duels.len() > 1 { Some(Ratings::of(duels)?) } else { None };
        let records = records.into_iter().map(part).collect::<Result<_>>()?;
        Ok(Self { records, ratings })
    }

    /// The ratings of the models, if there are several duels.
    pub fn ratings(&self) -> Option<&Ratings> {
        self.ratings.as_ref()
    }

    /// Writes the report as a page of HTML: one file without references to anything.
    ///
    /// # Errors
    /// What writing to `out` meets.
    pub fn write_html(&self, out: &mut dyn io::Write) -> io::Result<()> {
        page::write(self, out)
    }

    /// The report in Markdown, without the samples' texts: for a terminal, a pull request,
    /// the summary of a CI job.
    pub fn markdown(&self) -> String {
        markdown::report(self)
    }
}

fn part(reported: Reported) -> Result<Part> {
    let Reported { name, record, verification, signers, costs, study } = reported;
    let digest = record.digest().to_string();
    match record {
        AnyRecord::Forfeit(record) => Ok(Part {
            name,
            digest,
            outcome: record.outcome(),
            study: false,
            sentence: "The submission was not admitted: a screen rejected it, on the evidence below.".into(),
            signers,
            duel: None,
            admission: Some(value(&record.admission)?),
            cards: Vec::new(),
        }),
        AnyRecord::Duel(record) => {
            let ShownDuel { evidence, judges, samples, cards } = shown(&record)?;
            let (plan, verdict) = (record.plan(), record.verdict());
            let builds = verification.iter().flat_map(|verification| &verification.origin.builds);
            let build = |build: &crate::Build| match build.source {
                Some(source) => format!("albedo {}, sources {source}", build.version),
                None => format!("albedo {}", build.version),
            };
            let kind = match verdict.decision.evidence {
                crate::decision::Evidence::Sequential(_) | crate::decision::Evidence::Fixed(_) => {
                    "95 % confidence sequence"
                }
                _ => "approximate 95 % interval",
            };
            let duel = DuelPart {
                plan: value(plan)?,
                verdict: value(verdict)?,
                analysis: Analysis::of(&record)?,
                interval: verdict.interval().map(Into::into),
                interval_kind: kind,
                evidence,
                judges,
                samples,
                lengths: lengths(&record)?,
                builds: builds.map(build).collect(),
                claims: verification
                    .as_ref()
                    .map(|verification| verification.claims.clone())
                    .unwrap_or_default(),
                costs,
            };
            let words = if study { studied(verdict) } else { sentence(verdict, plan, Look::plain()) };
            Ok(Part {
                name,
                digest,
                outcome: verdict.outcome,
                study,
                sentence: words,
                signers,
                duel: Some(duel),
                admission: None,
                cards,
            })
        }
    }
}

/// Characters of the challenger's reply minus the king's, by sample.
fn lengths(record: &Record) -> Result<Vec<Option<i64>>> {
    let mut lengths = Vec::new();
    for sample in record.samples() {
        let mut of = Vec::new();
        for reply in &sample.replies {
            if let crate::record::RecordedReply::Completed { text, .. } = reply {
                of.push(record.text(text)?.chars().count() as i64);
            }
        }
        lengths.push(match of[..] {
            [king, challenger] => Some(challenger - king),
            _ => None,
        });
    }
    let clusters = record.lines.iter().filter(|line| matches!(line, RecordLine::Cluster(_))).count();
    lengths.truncate(clusters);
    Ok(lengths)
}

/// What the page's table of several records needs of each.
pub(super) fn summary(part: &Part) -> Value {
    let duel = part.duel.as_ref();
    let of =
        |path: &str| duel.map_or(Value::Null, |duel| duel.plan.pointer(path).cloned().unwrap_or_default());
    let number =
        |path: &str| duel.map_or(Value::Null, |duel| duel.verdict.pointer(path).cloned().unwrap_or_default());
    let mut summary = json!({
        "name": part.name,
        "digest": part.digest,
        "study": part.study,
        "sentence": part.sentence,
        "king": of("/king/model/parameters"),
        "challenger": of("/challenger/model/parameters"),
        "planned": of("/samples"),
        "samples": number("/samples"),
        "margin": number("/margin"),
        "interval": duel.and_then(|duel| duel.interval),
        "pages": part.cards.len().div_ceil(page::PAGE),
    });
    if let (Ok(Value::Object(outcome)), Value::Object(fields)) =
        (serde_json::to_value(part.outcome), &mut summary)
    {
        fields.extend(outcome);
    }
    summary
}

pub(super) fn value(of: &impl Serialize) -> Result<Value> {
    serde_json::to_value(of)
        .map_err(|error| Error::bug("write the report", error.to_string()).with_source(error))
}

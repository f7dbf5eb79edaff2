//! The files that a page shows of one record.

use serde::Serialize;

use super::{DuelData, FORMAT, IndexEntry, SamplePage};
use crate::record::AnyRecord;
use crate::shown::{ShownDuel, shown};
use crate::{Error, Result};

/// Samples per file: about 300 KB where replies have 1,024 tokens.
const PAGE: usize = 16;

/// The files that show one record.
#[derive(Debug, Clone, PartialEq)]
pub struct DuelFiles {
    /// `data/duels/DIGEST.json`.
    pub data: DuelData,
    /// `data/duels/DIGEST/samples/NNN.json`, in order.
    pub pages: Vec<SamplePage>,
}

/// The files that show `record`, whose line in the index is `entry`. The same record
/// and entry give the same files.
///
/// # Errors
/// A text that a line names is missing.
pub fn duel_files(record: &AnyRecord, entry: &IndexEntry) -> Result<DuelFiles> {
    let mut data = DuelData {
        format: FORMAT,
        digest: record.digest(),
        entry: entry.clone(),
        plan: None,
        verdict: None,
        admission: None,
        evidence: None,
        judges: Vec::new(),
        samples: Vec::new(),
        page_size: PAGE as u32,
        exports: Vec::new(),
    };
    let duel = match record {
        AnyRecord::Forfeit(forfeit) => {
            data.admission = Some(value(&forfeit.admission)?);
            return Ok(DuelFiles { data, pages: Vec::new() });
        }
        AnyRecord::Duel(duel) => duel,
    };
    let ShownDuel { evidence, judges, samples, cards } = shown(duel)?;
    data.plan = Some(value(duel.plan())?);
    data.verdict = Some(value(duel.verdict())?);
    data.evidence = Some(evidence);
    (data.judges, data.samples) = (judges, samples);
    let digest = data.digest;
    let pages =
        cards.chunks(PAGE).map(|samples| SamplePage { format: FORMAT, digest, samples: samples.to_vec() });
    let pages = pages.collect();
    Ok(DuelFiles { data, pages })
}

fn value(of: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(of)
        .map_err(|error| Error::bug("write the public data", error.to_string()).with_source(error))
}

//! Everything that the parameter screens know of a model, taken in one pass
//! over its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo_core::digest::Hasher;
use albedo_core::{CallContext, Digest, Error, Result};

use super::checkpoint::{Checkpoint, Segment, Visitor, to_f32};
use super::fingerprint::{Fingerprint, FingerprintVisitor};
use super::lineage::project::{Projector, squares};
use super::lineage::{Aligned, Anchor};

/// What to measure.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The digest of the parameters.
    pub digest: bool,
    /// A digest of each tensor.
    pub tensors: bool,
    /// The fingerprint, version 2.
    pub fingerprint: bool,
    /// The model in this anchor's arrangement.
    pub anchor: Option<Arc<Anchor>>,
}

/// What was measured of a model.
#[derive(Debug, Clone, Default)]
pub struct Measurement {
    /// Bytes of the weight files.
    pub bytes: u64,
    /// Digest of the parameters, as [`albedo_core::ModelInfo::parameters`].
    pub parameters: Option<Digest>,
    /// Digest of each tensor: its type, shape and bytes.
    pub tensors: BTreeMap<String, Digest>,
    /// The fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// The model in the anchor's arrangement, and its sketch.
    pub aligned: Option<Aligned>,
}

impl Measurement {
    /// Measures the model in `folder`; blocks. `progress` is told the bytes of
    /// each block as it is done.
    ///
    /// # Errors
    /// Files that cannot be read or are no model's; `cx`.
    pub fn take(
        folder: &Path,
        wanted: &Wanted,
        progress: &(dyn Fn(u64) + Sync),
        cx: &CallContext,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let mut visitor = MeasureVisitor {
            hashes: wanted.tensors.then(BTreeMap::new),
            fingerprint: wanted.fingerprint.then(FingerprintVisitor::default),
            projector: match &wanted.anchor {
                Some(anchor) => Some(anchor.projector(&checkpoint)?),
                None => None,
            },
        };
        let parameters = checkpoint.pass(&mut visitor, wanted.digest, progress, cx)?;
        let hashes = visitor.hashes.into_iter().flatten();
        let projected = visitor.projector.map(Projector::finish);
        Ok(Self {
            bytes: checkpoint.bytes(),
            parameters,
            tensors: hashes.map(|(name, hasher)| (name, hasher.finish())).collect(),
            fingerprint: visitor.fingerprint.map(FingerprintVisitor::finish),
            aligned: wanted.anchor.as_ref().zip(projected).map(|(anchor, own)| anchor.align(&own)),
        })
    }
}

/// [`Measurement::take`] on a thread that may block.
pub(crate) async fn measure(folder: &Path, wanted: &Wanted, cx: &CallContext) -> Result<Measurement> {
    let (wanted, inner) = (wanted.clone(), cx.clone());
    blocking(folder, cx, move |folder| Measurement::take(&folder, &wanted, &|_| (), &inner)).await
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    folder: &Path,
    cx: &CallContext,
    work: impl FnOnce(PathBuf) -> Result<T> + Send + 'static,
) -> Result<T> {
    const OPERATION: &str = "measure the parameters";
    let folder = folder.to_owned();
    cx.run(OPERATION, tokio::task::spawn_blocking(move || work(folder)))
        .await?
        .map_err(|error| Error::bug(OPERATION, error.to_string()))?
}

#[derive(Debug)]
struct MeasureVisitor {
    hashes: Option<BTreeMap<String, Hasher>>,
    fingerprint: Option<FingerprintVisitor>,
    projector: Option<Projector>,
}

impl Visitor for MeasureVisitor {
    fn visit(&mut self, segment: Segment<'_>) -> Result<()> {
        let Self { hashes, fingerprint, projector } = self;
        let hash = || {
            if let Some(hashes) = hashes {
                let hasher = hashes.entry(segment.name.to_owned()).or_insert_with(|| {
                    let mut hasher = Hasher::default();
                    hasher.update(format!("{:?} {:?}\n", segment.info.dtype, segment.info.shape));
                    hasher
                });
                hasher.update(segment.bytes);
            }
        };
        let numbers = || -> Result<()> {
            let sum = match projector {
                Some(projector) => projector.add(&segment)?,
                None if fingerprint.is_some() => squares(&segment)?,
                None => 0.0,
            };
            if let Some(fingerprint) = fingerprint {
                fingerprint.add(&segment, sum)?;
            }
            Ok(())
        };
        rayon::join(hash, numbers).1
    }
}

/// Element `at` of a segment, counted from its own start.
pub(crate) fn element(segment: &Segment<'_>, at: u64) -> Result<Option<f32>> {
    let size = segment.info.dtype.bytes();
    let Some(bytes) = segment.bytes.get((at * size) as usize..((at + 1) * size) as usize) else {
        return Ok(None);
    };
    let mut value = [0.0];
    to_f32(segment.info.dtype, bytes, &mut value)?;
    Ok(Some(value[0]))
}

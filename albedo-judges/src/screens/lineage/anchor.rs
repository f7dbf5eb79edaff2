//! Anchors, and models in an anchor's arrangement.

use std::sync::Arc;

use albedo_core::checkpoint::{Outline, Segment, TensorSlice};
use albedo_core::safetensors::Dtype;
use albedo_core::{Digest, Error, ErrorKind, Fault, Result};
use serde::Serialize;

use super::align::{self, Rows, Undone};
use super::compare::Shape;
use super::matrix::Matrix;
use super::network::Network;
use super::project::{self, Gains, Layer, Projected, Projector};
use super::sketch::{self, Sketch};
use crate::screens::arithmetic::{largest, to_f32};

/// The model that all others are aligned to: any member of the competition's
/// family, the same for all sketches of a store.
#[derive(Debug)]
pub struct Anchor {
    parameters: Digest,
    network: Network,
    signatures: Matrix,
    /// The first rows of its embedding.
    rows: Matrix,
    own: Arc<Aligned>,
}

/// A model in the anchor's arrangement.
#[derive(Debug, Clone)]
pub struct Aligned {
    /// The sketch, which is what a store keeps.
    pub sketch: Sketch,
    /// What had to be undone.
    pub undone: Undone,
    /// The largest of its weights.
    pub largest: Largest,
    layers: Vec<Layer>,
    head_dim: usize,
}

/// The largest magnitude among a model's weights, whichever tensor it is in.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Largest {
    /// The tensor; empty of a model without weights.
    pub tensor: String,
    /// The magnitude; infinite where a weight is infinite or no number.
    pub magnitude: f64,
}

impl Largest {
    /// What is wrong with it: no network computes with such weights.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.magnitude.is_infinite() {
            return Some(format!("a weight of {} is not finite", self.tensor));
        }
        (self.magnitude > LARGEST).then(|| {
            let Self { tensor, magnitude } = self;
            format!("a weight of {tensor} is {magnitude:.1e}: sums of such weights overflow")
        })
    }
}

/// The largest weight that is compared: sums of 2^20 of them, squared in `f64`, are finite,
/// and as `f32` they are, too.
const LARGEST: f64 = 1e32;

impl Aligned {
    /// What the difference to `king` looks like.
    pub fn shape(&self, king: &Self) -> Shape {
        Shape::between(&self.layers, &king.layers, king.head_dim)
    }
}

impl Anchor {
    /// Digest of its parameters.
    pub fn parameters(&self) -> Digest {
        self.parameters
    }

    /// The anchor in its own arrangement.
    pub fn own(&self) -> &Arc<Aligned> {
        &self.own
    }
}

/// Takes the projections of one model as its weights pass by, and brings them
/// into an anchor's arrangement, or makes an anchor of them. It takes about a
/// tenth of the weights' bytes of memory.
#[derive(Debug)]
pub(crate) struct Aligner {
    /// None if the model becomes an anchor itself.
    anchor: Option<Arc<Anchor>>,
    network: Network,
    /// Types of the slices that were asked for.
    dtypes: Vec<Dtype>,
    signatures: Matrix,
    rows: Matrix,
    /// What the rows of the embedding tell beside the anchor's.
    stream: Stream,
    largest: Largest,
    /// Once the slices came.
    projector: Option<Projector>,
}

/// The residual stream beside the anchor's.
#[derive(Debug, Clone, Copy)]
struct Stream {
    scale: f64,
    rows_apart: usize,
}

impl Aligner {
    /// For `model`, which is aligned to `anchor` or becomes an anchor itself;
    /// and what has to be known of it before the pass: the rows of the embedding
    /// that channels are matched by, and the gains of the norms.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an architecture that is not read; a tensor
    /// that is missing or has another shape than the network's.
    pub(crate) fn new(anchor: Option<Arc<Anchor>>, model: &Outline) -> Result<(Self, Vec<TensorSlice>)> {
        let network = match &anchor {
            Some(anchor) => anchor.network.clone(),
            None => Network::of(model)?,
        };
        network.check_tensors(model)?;
        let hidden = network.hidden as u64;
        let rows = project::early_rows(&network) as u64;
        let mut slices = vec![model.slice(EMBEDDING, 0, rows * hidden)?];
        for layer in 0..network.layers {
            for norm in LAYER_NORMS {
                slices.push(model.slice(&format!("model.layers.{layer}.{norm}.weight"), 0, hidden)?);
            }
        }
        slices.push(model.slice(LAST_NORM, 0, hidden)?);
        let types: std::collections::BTreeMap<_, _> =
            model.tensors().map(|(name, info)| (name, info.dtype)).collect();
        let dtypes = slices.iter().map(|slice| types.get(slice.tensor.as_str()).copied());
        let dtypes = dtypes.collect::<Option<Vec<_>>>();
        let dtypes = dtypes.ok_or_else(|| Error::bug(OPERATION, "a slice is of no tensor"))?;
        let aligner = Self {
            anchor,
            network,
            dtypes,
            signatures: Matrix::default(),
            rows: Matrix::default(),
            stream: Stream { scale: 1.0, rows_apart: 0 },
            largest: Largest::default(),
            projector: None,
        };
        Ok((aligner, slices))
    }

    /// Takes what was asked for.
    ///
    /// # Errors
    /// Weights of a type that is not compared.
    pub(crate) fn prepare(&mut self, early: &[Vec<u8>]) -> Result<()> {
        let values = early.iter().zip(&self.dtypes).map(|(bytes, dtype)| {
            let mut values = vec![0.0; bytes.len() / dtype.bytes() as usize];
            to_f32(*dtype, bytes, &mut values).map(|()| values)
        });
        let mut values = values.collect::<Result<Vec<_>>>()?.into_iter();
        let mut next = || values.next().unwrap_or_default();
        self.rows = Matrix { columns: self.network.hidden, values: next() };
        self.signatures = project::signatures(&self.rows.values, &self.network);
        let layers = (0..self.network.layers).map(|_| [next(), next()]).collect();
        let gains = Gains { layers, last: next() };
        let (channels, side) = match &self.anchor {
            Some(anchor) => {
                let mut channels = align::channels(&self.signatures, &anchor.signatures);
                let rows = Rows { own: &self.rows, anchor: &anchor.rows };
                let scale = rows.scale();
                self.stream = Stream { scale, rows_apart: rows.apart(scale) };
                channels.rotation = rows.rotation(&channels, scale);
                (channels, anchor.own.sketch.side)
            }
            None => (align::straight(self.network.hidden), sketch::side(&self.network)),
        };
        self.projector = Some(Projector::new(self.network.clone(), channels, gains, side));
        Ok(())
    }

    /// Takes the next segment.
    ///
    /// # Errors
    /// A row that is longer than a block; weights of a type that is not compared.
    pub(crate) fn add(&mut self, segment: &Segment<'_>) -> Result<()> {
        let magnitude = largest(segment)?;
        if magnitude > self.largest.magnitude || self.largest.tensor.is_empty() {
            self.largest = Largest { tensor: segment.name.to_owned(), magnitude };
        }
        match &mut self.projector {
            Some(projector) => projector.add(segment),
            None => Err(Error::bug(OPERATION, "the slices did not come")),
        }
    }

    /// The anchor that the model, whose parameters have this digest, becomes.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if a weight is not finite.
    pub(crate) fn into_anchor(self, parameters: Digest) -> Result<Arc<Anchor>> {
        let signatures = self.signatures;
        let Some(projector) = self.projector else {
            return Err(Error::bug(OPERATION, "the slices did not come"));
        };
        let projected = projector.finish();
        let layers = align::normal(&projected);
        let sketch = Sketch::of(&projected, &layers, 1.0, parameters);
        let largest = self.largest;
        if let Some(fault) = largest.fault() {
            let error = Error::new(ErrorKind::DataInvalid, "read the anchor", fault);
            return Err(error.with_fault(Fault::Operator));
        }
        let Projected { network, .. } = projected;
        let head_dim = network.head_dim;
        let own = Arc::new(Aligned { sketch, undone: Undone::default(), largest, layers, head_dim });
        Ok(Arc::new(Anchor { parameters, network, signatures, rows: self.rows, own }))
    }

    /// The model in the anchor's arrangement.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub(crate) fn into_aligned(self) -> Result<Aligned> {
        let (Some(anchor), Some(projector)) = (self.anchor, self.projector) else {
            return Err(Error::bug(OPERATION, "there is no anchor, or the slices did not come"));
        };
        let projected = projector.finish();
        let Stream { scale, rows_apart } = self.stream;
        let (layers, mut undone) = align::layers(&projected, &anchor.own.layers, scale);
        undone.rows_apart = rows_apart;
        let sketch = Sketch::of(&projected, &layers, scale, anchor.parameters);
        Ok(Aligned { sketch, undone, largest: self.largest, layers, head_dim: anchor.network.head_dim })
    }
}

const OPERATION: &str = "align a model";

const EMBEDDING: &str = "model.embed_tokens.weight";

/// The norms before attention and before the feed-forward part.
const LAYER_NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

const LAST_NORM: &str = "model.norm.weight";

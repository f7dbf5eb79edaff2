//! A model's sketch: for every weight matrix a small signed random projection
//! of the aligned parameters. Sketches are linear in the aligned parameters, so
//! the sketch of a difference is the difference of the sketches.

use albedo_core::{Digest, Error, ErrorKind, Fault, Result};
use serde::{Deserialize, Serialize};

use super::hash::{Purpose, bucket};
use super::matrix::Matrix;
use super::network::Network;
use super::project::{Layer, Projected};

/// Numbers in a sketch at most: 256 KiB of `f32`.
const MOST: usize = 1 << 16;

/// A model's sketch, aligned to an anchor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sketch {
    /// Digest of the parameters of the anchor.
    pub anchor: Digest,
    /// Rows and columns of each tensor's projection.
    pub side: usize,
    /// Names of the projected matrices.
    pub tensors: Vec<String>,
    /// `tensors × side × side` numbers.
    pub values: Vec<f32>,
}

/// The side of the sketches of `network`: all of them within [`MOST`], at most
/// 32, at least 8.
pub(crate) fn side(network: &Network) -> usize {
    let tensors = 7 * network.layers + 2;
    if tensors * 32 * 32 <= MOST {
        32
    } else if tensors * 16 * 16 <= MOST {
        16
    } else {
        8
    }
}

impl Sketch {
    /// The projection of tensor `index`, rows first.
    pub fn tensor(&self, index: usize) -> &[f32] {
        let size = self.side * self.side;
        &self.values[index * size..][..size]
    }

    /// Checks that two sketches can be subtracted.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if they are aligned to different anchors or
    /// made of different networks.
    pub fn check_comparable(&self, other: &Self) -> Result<()> {
        let same = self.side == other.side
            && self.tensors == other.tensors
            && self.values.len() == other.values.len()
            && self.values.len() == self.tensors.len() * self.side * self.side;
        if same && self.anchor == other.anchor {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "compare two sketches", "they are aligned to different anchors")
            .with_fault(Fault::Operator)
            .with("first", self.anchor.short())
            .with("second", other.anchor.short())
            .with_hint("sketch both models with one anchor"))
    }

    /// The first tensor with a number that is not finite.
    pub fn not_finite(&self) -> Option<&str> {
        let size = self.side * self.side;
        let at = self.values.iter().position(|value| !value.is_finite())?;
        self.tensors.get(at / size).map(String::as_str)
    }

    pub(super) fn of(projected: &Projected, layers: &[Layer], stream: f64, anchor: Digest) -> Self {
        let side = projected.embedding.columns;
        let mut sketch = Self { anchor, side, tensors: Vec::new(), values: Vec::new() };
        let mut push = |name: String, values: Vec<f32>| {
            sketch.tensors.push(name);
            sketch.values.extend(values);
        };
        let embedding = projected.embedding.values.iter().map(|value| value * stream as f32);
        push("embedding".into(), embedding.collect());
        push("head".into(), projected.head.values.clone());
        for (index, layer) in layers.iter().enumerate() {
            let reads = [
                ("query", &layer.query),
                ("key", &layer.key),
                ("value", &layer.value),
                ("gate", &layer.gate),
                ("up", &layer.up),
            ];
            for (part, matrix) in reads {
                push(format!("{index}.{part}"), fold(matrix, side));
            }
            for (part, matrix) in [("output", &layer.output), ("down", &layer.down)] {
                push(format!("{index}.{part}"), fold(&matrix.transposed(), side));
            }
        }
        sketch
    }
}

/// Rows, with a sign, into `side` buckets; columns, which are buckets already,
/// into fewer.
fn fold(matrix: &Matrix, side: usize) -> Vec<f32> {
    let mut folded = vec![0.0; side * side];
    for row in 0..matrix.rows() {
        let (bucket, sign) = bucket(Purpose::Row, row as u64, side);
        for (column, value) in matrix.row(row).iter().enumerate() {
            folded[bucket * side + column % side] += sign * value;
        }
    }
    folded
}

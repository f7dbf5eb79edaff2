//! What a device has to be able to do for the model description.

use std::fmt::Debug;

use albedo_core::Result;

/// Rows of one sequence in a step: `rows` tokens at positions `start`,
/// `start + 1`, … of the sequence whose keys and values `cache` holds.
#[derive(Debug)]
pub(super) struct Segment<'a, C> {
    pub(super) cache: &'a mut C,
    pub(super) start: usize,
    pub(super) rows: usize,
}

/// The operations of a decoder on one device. Activations are rows, one a
/// token; the rows of a step are those of its segments, one after the other.
///
/// Every operation gives a row the same bits whatever other rows are in the
/// step, except [`Ops::attend_prefill`], whose bits may depend on how the
/// prompt was cut (which is fixed by the prompt alone).
pub(super) trait Ops: Debug + Send + Sync + 'static {
    /// A weight matrix `[in, out]`, or the embedding table `[vocabulary, hidden]`.
    type Matrix: Debug + Send + Sync;
    /// The gain of a norm.
    type Vector: Debug + Send + Sync;
    /// Activations `[rows, width]`.
    type Rows: Debug;
    /// Keys and values of one sequence, all layers.
    type Cache: Debug + Send + Sync;
    /// What the layers of a step share about its rows' positions.
    type Positions: Debug;

    /// Puts a matrix of `shape`, row by row, on the device.
    fn matrix(&self, values: Vec<f32>, shape: [usize; 2]) -> Self::Matrix;
    /// Puts a gain on the device.
    fn vector(&self, values: Vec<f32>) -> Self::Vector;
    /// An empty cache.
    fn cache(&self) -> Self::Cache;
    /// Prepares the positions of a step.
    fn positions(&self, segments: &[Segment<'_, Self::Cache>]) -> Self::Positions;

    /// The rows of `table` at `ids`, each below the vocabulary's size.
    fn embed(&self, table: &Self::Matrix, ids: &[u32]) -> Result<Self::Rows>;
    /// `x · weight`.
    fn linear(&self, x: Self::Rows, weight: &Self::Matrix) -> Result<Self::Rows>;
    /// `x / sqrt(mean(x²) + eps) · gain`, row by row.
    fn rms_norm(&self, x: &Self::Rows, gain: &Self::Vector) -> Self::Rows;
    /// Adds `delta` to `residual`, and returns the norm of the sum.
    fn add_norm(&self, residual: &mut Self::Rows, delta: &Self::Rows, gain: &Self::Vector) -> Self::Rows;
    /// Splits joined `[q | k | v]` rows, normalises the heads of q and k,
    /// rotates both to their positions, and writes k and v of `layer` into the
    /// caches. What a cache held at a segment's `start` or later is dropped.
    /// Returns the queries.
    fn qk_norm_rope_write_kv(
        &self,
        qkv: &Self::Rows,
        q_k_norms: [&Self::Vector; 2],
        layer: usize,
        positions: &Self::Positions,
        segments: &mut [Segment<'_, Self::Cache>],
    ) -> Result<Self::Rows>;
    /// Causal attention of consecutive queries of one prompt, the first at
    /// position `first`.
    fn attend_prefill(
        &self,
        queries: &Self::Rows,
        layer: usize,
        cache: &Self::Cache,
        first: usize,
    ) -> Result<Self::Rows>;
    /// Causal attention of the queries of a step.
    fn attend_decode(
        &self,
        queries: &Self::Rows,
        layer: usize,
        segments: &[Segment<'_, Self::Cache>],
    ) -> Self::Rows;
    /// `silu(gate) · up` of joined `[gate | up]` rows.
    fn silu_mul(&self, gate_up: &Self::Rows) -> Self::Rows;
    /// The last row alone.
    fn last_row(&self, x: &Self::Rows) -> Self::Rows;
    /// The logits `x · weight`, row by row, on the host.
    fn lm_head(&self, x: Self::Rows, weight: &Self::Matrix) -> Result<Vec<f32>>;
}

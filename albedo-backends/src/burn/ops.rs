//! What a device has to be able to do for the model description.

use std::fmt::Debug;

use albedo_core::Result;

use super::weights::{Tensor, Values};

/// The operations of a decoder on one device. Activations are rows, one a
/// token; a step says which tokens of which sequences its rows are.
///
/// Every operation gives a row the same bits whatever other rows are in the
/// step, except attention on the CPU, whose bits may depend on how the prompt
/// was cut (which is fixed by the prompt alone).
pub(super) trait Ops: Debug + Send + Sync + 'static {
    /// A weight matrix.
    type Matrix: Debug + Send + Sync;
    /// The embedding table.
    type Table: Debug + Send + Sync;
    /// The gain of a norm.
    type Vector: Debug + Send + Sync;
    /// Activations `[rows, width]`.
    type Rows: Debug;
    /// Which rows a step has, where their keys and values go, and which of
    /// them are wanted in the end.
    type Step<'a>;
    /// Logits, `[rows, vocabulary]`, where the device has them.
    type Logits;

    /// Puts a matrix on the device: tensors `[out, in]` of the same `in`, joined.
    fn matrix(&self, weights: &Values<'_>, tensors: &[Tensor<'_>]) -> Result<Self::Matrix>;
    /// Puts the embedding table on the device, and the head: a tensor of its
    /// own, or the table.
    fn table_and_head(
        &self,
        weights: &Values<'_>,
        table: &Tensor<'_>,
        head: Option<&Tensor<'_>>,
    ) -> Result<(Self::Table, Self::Matrix)>;
    /// Puts a gain on the device.
    fn vector(&self, weights: &Values<'_>, tensor: &Tensor<'_>) -> Result<Self::Vector>;
    /// Puts the gains of query and key heads on the device. A device may move factors from
    /// one to the other, as long as their products stay.
    fn head_gains(&self, weights: &Values<'_>, gains: [&Tensor<'_>; 2]) -> Result<[Self::Vector; 2]> {
        Ok([self.vector(weights, gains[0])?, self.vector(weights, gains[1])?])
    }

    /// The embeddings of the step's tokens.
    fn embed(&self, table: &Self::Table, step: &Self::Step<'_>) -> Result<Self::Rows>;
    /// `x · weight`.
    fn linear(&self, x: Self::Rows, weight: &Self::Matrix, step: &Self::Step<'_>) -> Result<Self::Rows>;
    /// `x / sqrt(mean(x²) + eps) · gain`, row by row.
    fn rms_norm(&self, x: &Self::Rows, gain: &Self::Vector, step: &Self::Step<'_>) -> Result<Self::Rows>;
    /// Adds `delta`, a result of layer `layer`, to `residual`, and returns the
    /// norm of the sum.
    fn add_norm(
        &self,
        residual: &mut Self::Rows,
        delta: &Self::Rows,
        gain: &Self::Vector,
        layer: usize,
        step: &Self::Step<'_>,
    ) -> Result<Self::Rows>;
    /// Splits joined `[q | k | v]` rows, normalises the heads of q and k,
    /// rotates both to their positions, and writes k and v of `layer` to their
    /// sequences. Returns the queries.
    fn qk_norm_rope_write_kv(
        &self,
        qkv: &Self::Rows,
        q_k_norms: [&Self::Vector; 2],
        layer: usize,
        step: &mut Self::Step<'_>,
    ) -> Result<Self::Rows>;
    /// Causal attention of the step's queries.
    fn attend(&self, queries: &Self::Rows, layer: usize, step: &Self::Step<'_>) -> Result<Self::Rows>;
    /// `silu(x · gate) · (x · up)` of a weight that is both joined, `[gate | up]`.
    fn gated(&self, x: Self::Rows, gate_up: &Self::Matrix, step: &Self::Step<'_>) -> Result<Self::Rows>;
    /// Narrows the step, and queries and residual with it, to the rows whose
    /// logits are wanted; `None` if there are none.
    fn wanted(
        &self,
        queries: Self::Rows,
        residual: Self::Rows,
        step: &mut Self::Step<'_>,
    ) -> Result<Option<(Self::Rows, Self::Rows)>>;
    /// The logits `x · weight`, row by row.
    fn lm_head(&self, x: Self::Rows, weight: &Self::Matrix, step: &Self::Step<'_>) -> Result<Self::Logits>;
}

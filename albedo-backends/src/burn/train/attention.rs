//! Causal attention of one row's queries of one key-value head, block by block, and its
//! derivative. The scores of a block exist for a moment only: the backward pass computes
//! them again.

use albedo_core::Result;
use burn::tensor::{Device, Tensor};

use super::kernels::{add, exp_minus, exp_scaled, max, softmax_backward};
use super::matrix::{Values, product, product_at, product_bt, rows_of};

/// Positions whose queries go through a product together: enough for it to be fast, few
/// enough that little is computed above the diagonal and thrown away.
const BLOCK: usize = 64;

/// One key-value head of one row, and the queries that share it.
#[derive(Debug)]
pub(super) struct Heads {
    /// `[positions · group, head_dim]`, the heads of a position together; scaled.
    queries: Tensor<2>,
    /// `[positions, head_dim]`.
    keys: Tensor<2>,
    /// `[positions, head_dim]`.
    values: Tensor<2>,
    /// Of every row of `queries`: its largest score, and 1 over the sum of its
    /// exponentials.
    normalizers: Vec<(f32, f32)>,
}

/// What a loss means for queries, keys and values, in the shapes of [`Heads`].
#[derive(Debug)]
pub(super) struct Mixed {
    pub(super) queries: Vec<f32>,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

impl Heads {
    pub(super) fn new(queries: Tensor<2>, keys: Tensor<2>, values: Tensor<2>) -> Self {
        Self { queries, keys, values, normalizers: Vec::new() }
    }

    /// The blocks of positions, first and number of each.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let [positions, _] = self.keys.dims();
        (0..positions).step_by(BLOCK).map(move |first| (first, BLOCK.min(positions - first)))
    }
}

/// The results of the queries, in their shape.
///
/// # Errors
/// The device failed.
pub(super) fn forward(heads: &mut Heads, group: usize, device: &Device) -> Result<Vec<f32>> {
    let [_, dim] = heads.keys.dims();
    let mut mixed = Vec::new();
    let mut normalizers = Vec::new();
    for (first, rows) in heads.blocks() {
        let seen = first + rows;
        let queries = rows_of(&heads.queries, first * group, seen * group);
        let mut scores = Values::of(product_bt(&queries, &rows_of(&heads.keys, 0, seen)))?;
        for (index, scores) in scores.chunks_exact_mut(seen).enumerate() {
            let (visible, hidden) = scores.split_at_mut(first + index / group + 1);
            let max = max(visible);
            normalizers.push((max, 1.0 / exp_minus(visible, max)));
            hidden.fill(0.0);
        }
        let weights = scores.into_tensor(device);
        let block = Values::of(product(&weights, &rows_of(&heads.values, 0, seen)))?;
        let own = &normalizers[first * group..];
        for (row, (_, scale)) in block.chunks_exact(dim).zip(own) {
            mixed.extend(row.iter().map(|value| value * scale));
        }
    }
    heads.normalizers = normalizers;
    Ok(mixed)
}

/// What `dmixed`, the gradient of the results, means for queries, keys and values.
///
/// # Errors
/// The device failed.
pub(super) fn backward(heads: &Heads, group: usize, dmixed: &Tensor<2>, device: &Device) -> Result<Mixed> {
    let [positions, dim] = heads.keys.dims();
    let mut out = Mixed {
        queries: Vec::with_capacity(positions * group * dim),
        keys: vec![0.0; positions * dim],
        values: vec![0.0; positions * dim],
    };
    for (first, rows) in heads.blocks() {
        let seen = first + rows;
        let (from, to) = (first * group, seen * group);
        let queries = rows_of(&heads.queries, from, to);
        let keys = rows_of(&heads.keys, 0, seen);
        let dmixed = rows_of(dmixed, from, to);
        let mut weights = Values::of(product_bt(&queries, &keys))?;
        let mut dscores = Values::of(product_bt(&dmixed, &rows_of(&heads.values, 0, seen)))?;
        let pairs = weights.chunks_exact_mut(seen).zip(dscores.chunks_exact_mut(seen));
        for ((index, (weights, dscores)), (max, scale)) in pairs.enumerate().zip(&heads.normalizers[from..to])
        {
            let sees = first + index / group + 1;
            let (visible, hidden) = weights.split_at_mut(sees);
            exp_scaled(visible, *max, *scale);
            hidden.fill(0.0);
            let (dvisible, dhidden) = dscores.split_at_mut(sees);
            softmax_backward(visible, dvisible);
            dhidden.fill(0.0);
        }
        let (weights, dscores) = (weights.into_tensor(device), dscores.into_tensor(device));
        out.queries.extend_from_slice(&Values::of(product(&dscores, &keys))?);
        add(&mut out.keys, &Values::of(product_at(&dscores, &queries))?);
        add(&mut out.values, &Values::of(product_at(&weights, &dmixed))?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::burn::train::matrix::tensor;

    /// Causal attention and its derivative in Burn's automatic differentiation.
    #[test]
    fn results_and_gradients_are_those_of_burn() {
        let device = Device::flex();
        let (positions, group, dim) = (150, 2, 6);
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|index| ((index * 31 + seed * 17) % 89) as f32 / 44.5 - 1.0).collect()
        };
        let inputs = [
            numbers(positions * group * dim, 1),
            numbers(positions * dim, 2),
            numbers(positions * dim, 3),
            numbers(positions * group * dim, 4),
        ];
        let [q, k, v, dy] = inputs.each_ref().map(|values| tensor(values.clone(), dim, &device));
        let mut heads = Heads::new(q, k, v);
        let mixed = forward(&mut heads, group, &device).expect("computes");
        let backward = backward(&heads, group, &dy, &device).expect("computes");

        let graph = device.autodiff();
        let [q, k, v, dy] = inputs.each_ref().map(|values| tensor(values.clone(), dim, &graph));
        let (q, k, v) = (q.require_grad(), k.require_grad(), v.require_grad());
        let hidden: Vec<f32> = (0..positions * group)
            .flat_map(|row| (0..positions).map(move |key| if key > row / group { -1e9 } else { 0.0 }))
            .collect();
        let scores = q.clone().matmul(k.clone().transpose()) + tensor(hidden, positions, &graph);
        let expected = burn::tensor::activation::softmax(scores, 1).matmul(v.clone());
        let gradients = (expected.clone() * dy).sum().backward();
        let near = |ours: &[f32], theirs: Tensor<2>, what: &str| {
            let theirs = Values::of(theirs).expect("read");
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().zip(theirs.iter()) {
                assert!((ours - theirs).abs() < 1e-4, "{what}: {ours} {theirs}");
            }
        };
        near(&mixed, expected.inner(), "results");
        near(&backward.queries, q.grad(&gradients).expect("a gradient"), "queries");
        near(&backward.keys, k.grad(&gradients).expect("a gradient"), "keys");
        near(&backward.values, v.grad(&gradients).expect("a gradient"), "values");
    }
}

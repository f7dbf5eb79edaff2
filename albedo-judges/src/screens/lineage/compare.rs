//! What the difference of two models looks like, and how much of it is
//! somebody else's work.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::matrix::{Matrix, dot, scale};
use super::project::Layer;
use super::sketch::Sketch;

/// A tensor that moved by less than this share of its norm is unchanged:
/// alignment in `f32` leaves less than 1e-5 (measured in `docs/screens.md`),
/// rounding to bf16 moves 1e-3.
const UNCHANGED: f64 = 5e-5;

/// Tensors that a median of cosines is taken over, at least.
const TYPICAL: usize = 8;

/// Rounds of balancing rows and columns.
const ROUNDS: usize = 3;

/// What the difference between a model and the king looks like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Matrices in all.
    #[serde(default)]
    pub matrices: usize,
    /// Root mean square over the matrices of their relative change.
    pub distance: f64,
    /// Matrices that changed at all.
    pub changed: usize,
    /// Mean relative change of those.
    pub change: f64,
    /// Median over the changed matrices of how far the change is from noise: 1
    /// for entries that are independent of one another, whatever their
    /// distribution and whatever the sizes of rows and columns; more the fewer
    /// directions the change has.
    pub structure: f64,
    /// The same median for each kind of matrix, in the order of [`KINDS`]; 0
    /// where none changed.
    pub by_kind: [f64; 7],
    /// Spread of the relative change over the changed matrices: standard
    /// deviation / mean. Noise of one recipe is even.
    pub unevenness: f64,
}

/// The kinds of matrices that are compared.
pub const KINDS: [&str; 7] = ["query", "key", "value", "gate", "up", "output", "down"];

impl Shape {
    /// The difference between the aligned layers of two models whose heads have
    /// `head_dim` dimensions.
    pub(super) fn between(one: &[Layer], other: &[Layer], head_dim: usize) -> Self {
        let pairs: Vec<_> = one
            .iter()
            .zip(other)
            .flat_map(|(one, other)| one.parts().into_iter().zip(other.parts()).enumerate())
            .collect();
        let changes: Vec<(usize, f64, Option<f64>)> = pairs
            .into_par_iter()
            .map(|(kind, ((one, writes), (other, _)))| {
                let difference = subtract(one, other);
                let size = ratio(&difference.values, &other.values);
                // A matrix that writes has its buckets in the rows.
                let turned = if writes { difference.transposed() } else { difference };
                let structure = || match KINDS[kind] {
                    "value" => value_structure(&turned, head_dim),
                    _ => structure(turned, 0),
                };
                (kind, size, (size > UNCHANGED).then(structure))
            })
            .collect();
        let sizes: Vec<f64> = changes.iter().map(|(_, size, _)| *size).collect();
        let changed: Vec<f64> = sizes.iter().copied().filter(|&size| size > UNCHANGED).collect();
        let of = |wanted: Option<usize>| {
            let those = changes.iter().filter(|(kind, ..)| wanted.is_none_or(|wanted| wanted == *kind));
            median(those.filter_map(|(.., structure)| *structure).collect())
        };
        let count = changed.len().max(1) as f64;
        let mean = changed.iter().sum::<f64>() / count;
        let variance = changed.iter().map(|size| (size - mean).powi(2)).sum::<f64>() / count;
        let squares: f64 = sizes.iter().map(|size| size * size).sum();
        Self {
            matrices: sizes.len(),
            distance: (squares / sizes.len().max(1) as f64).sqrt(),
            changed: changed.len(),
            change: mean,
            structure: of(None),
            by_kind: std::array::from_fn(|kind| of(Some(kind))),
            unevenness: if mean > 0.0 { variance.sqrt() / mean } else { 0.0 },
        }
    }
}

/// The difference of two models' sketches, tensor by tensor, each relative to
/// the norm of the king's.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    values: Vec<f64>,
    /// Of each tensor, whether its difference is more than [`UNCHANGED`].
    changed: Vec<bool>,
}

/// A model's difference to the king beside another's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// Cosine of the two differences, 1 if one is a multiple of the other: the larger of the
    /// next two.
    pub cosine: f64,
    /// Over all tensors together.
    pub overall: f64,
    /// The median over the tensors that both changed, 0 where they are fewer than 8: one
    /// tensor that was spoiled on purpose does not move it.
    pub typical: f64,
    /// The factor of the other that fits best.
    pub factor: f64,
    /// What is left then: relative change, as [`Shape::distance`].
    pub rest: f64,
}

impl Delta {
    /// `one − other`, relative to `king`; the sketches are comparable.
    pub fn between(one: &Sketch, other: &Sketch, king: &Sketch) -> Self {
        let mut delta = Self { values: Vec::with_capacity(king.values.len()), changed: Vec::new() };
        for tensor in 0..king.tensors.len() {
            let norm = king.tensor(tensor).iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            let by = if norm > 0.0 { 1.0 / norm } else { 0.0 };
            let pairs = one.tensor(tensor).iter().zip(other.tensor(tensor));
            let start = delta.values.len();
            delta.values.extend(pairs.map(|(&one, &other)| (f64::from(one) - f64::from(other)) * by));
            delta.changed.push(size(&delta.values[start..]) > UNCHANGED);
        }
        delta
    }

    /// Whether nothing changed beyond rounding in `f32`.
    pub fn is_nothing(&self) -> bool {
        !self.changed.contains(&true)
    }

    /// Of each tensor, whether this difference and `other` are the same there, and not
    /// nothing; `between` is the difference of the two models. Two models that were trained
    /// apart have none.
    pub fn shared(&self, other: &Self, between: &Self) -> Vec<bool> {
        let tensors = self.changed.iter().zip(&other.changed).zip(&between.changed);
        tensors.map(|((own, others), between)| *own && *others && !*between).collect()
    }

    /// Root mean square over the tensors of their relative change.
    pub fn distance(&self) -> f64 {
        size(&self.values) / (self.changed.len().max(1) as f64).sqrt()
    }

    /// How much of it is `other`.
    pub fn explained_by(&self, other: &Self) -> Explained {
        let product: f64 = self.values.iter().zip(&other.values).map(|(own, other)| own * other).sum();
        let (own, others) = (size(&self.values), size(&other.values));
        let factor = if others > 0.0 { product / (others * others) } else { 0.0 };
        let rest: Vec<f64> =
            self.values.iter().zip(&other.values).map(|(own, other)| own - factor * other).collect();
        let overall = if own * others > 0.0 { product / (own * others) } else { 0.0 };
        let typical = self.typical(other);
        Explained {
            cosine: overall.max(typical),
            overall,
            typical,
            factor,
            rest: size(&rest) / (self.changed.len().max(1) as f64).sqrt(),
        }
    }
}

impl Delta {
    /// The median of the cosines of the tensors that both changed; 0 of few.
    fn typical(&self, other: &Self) -> f64 {
        let each = self.values.len() / self.changed.len().max(1);
        let tensors = self.values.chunks_exact(each.max(1)).zip(other.values.chunks_exact(each.max(1)));
        let changed = self.changed.iter().zip(&other.changed);
        let cosines: Vec<f64> = tensors
            .zip(changed)
            .filter(|(_, (own, others))| **own && **others)
            .map(|((own, others), _)| {
                let product: f64 = own.iter().zip(others).map(|(own, other)| own * other).sum();
                product / (size(own) * size(others))
            })
            .collect();
        if cosines.len() < TYPICAL { 0.0 } else { median(cosines) }
    }
}

/// What [`Delta::distance`] is of the difference of `model` to `king`, without keeping the
/// difference: each earlier submission is compared with every king.
pub(super) fn distance(model: &Sketch, king: &Sketch) -> f64 {
    let tensors = king.tensors.len();
    let each = (0..tensors).map(|tensor| {
        let (model, king) = (model.tensor(tensor), king.tensor(tensor));
        let size = dot(king, king);
        if size > 0.0 { squared_difference(model, king) / size } else { 0.0 }
    });
    (each.sum::<f64>() / tensors.max(1) as f64).sqrt()
}

fn squared_difference(one: &[f32], other: &[f32]) -> f64 {
    let (a, a_rest) = one.as_chunks::<8>();
    let (b, b_rest) = other.as_chunks::<8>();
    let square = |a: f32, b: f32| (f64::from(a) - f64::from(b)).powi(2);
    let mut sums = [0.0_f64; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += square(a, b);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| square(a, b)).sum();
    sums.iter().sum::<f64>() + rest
}

/// The structure of a group's values on average. Values were mixed to fit the
/// anchor's best, so that their differences are orthogonal to them: `head_dim`
/// directions are missing, of noise as well.
fn value_structure(values: &Matrix, head_dim: usize) -> f64 {
    let groups = values.values.chunks_exact(head_dim * values.columns);
    let each =
        groups.map(|group| structure(Matrix { columns: values.columns, values: group.to_vec() }, head_dim));
    let each: Vec<f64> = each.collect();
    each.iter().sum::<f64>() / each.len().max(1) as f64
}

/// How far a matrix, whose rows lack `missing` directions, is from independent
/// entries:
/// tr((DᵀD)²) over what independent entries have on average, after rows and
/// columns were brought to equal norms (Sinkhorn and Knopp, *Concerning
/// nonnegative matrices and doubly stochastic matrices*, 1967).
fn structure(mut matrix: Matrix, missing: usize) -> f64 {
    let columns = matrix.columns;
    for _ in 0..ROUNDS {
        for row in matrix.values.chunks_exact_mut(columns) {
            let norm = dot(row, row).sqrt();
            if norm > 0.0 {
                scale(row, (columns as f64).sqrt() / norm);
            }
        }
        let rows = matrix.rows() as f64;
        let mut squares = vec![0.0_f64; columns];
        for row in matrix.values.chunks_exact(columns) {
            squares.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value).powi(2));
        }
        let factors: Vec<f32> =
            squares.iter().map(|&sum| if sum > 0.0 { (rows / sum).sqrt() as f32 } else { 0.0 }).collect();
        for row in matrix.values.chunks_exact_mut(columns) {
            row.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
        }
    }
    let mut gram = vec![0.0_f32; columns * columns];
    for row in matrix.values.chunks_exact(columns) {
        for (line, &left) in gram.chunks_exact_mut(columns).zip(row) {
            line.iter_mut().zip(row).for_each(|(sum, &right)| *sum += left * right);
        }
    }
    let used = (0..columns).filter(|&column| gram[column * columns + column] > 0.0).count();
    let used = used.saturating_sub(missing).max(1) as f64;
    let rows =
        matrix.values.chunks_exact(columns).filter(|row| row.iter().any(|&value| value != 0.0)).count();
    let total = dot(&matrix.values, &matrix.values);
    // ‖D‖² is rows × columns now, so that independent entries of unit variance
    // have rows · columns · (rows + columns − 1).
    dot(&gram, &gram) / (total * total) * (rows as f64 * used) / (rows as f64 + used - 1.0)
}

/// The lower of the two middle values of an even number; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

fn subtract(one: &Matrix, other: &Matrix) -> Matrix {
    let values = one.values.iter().zip(&other.values).map(|(one, other)| one - other).collect();
    Matrix { columns: one.columns, values }
}

fn ratio(part: &[f32], whole: &[f32]) -> f64 {
    let [part, whole] = [part, whole].map(|values| dot(values, values));
    if whole > 0.0 { (part / whole).sqrt() } else { f64::from(u8::from(part > 0.0)) }
}

fn size(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screens::lineage::hash::{Purpose, hash};

    /// Sums of twelve uniform numbers: nearly normal.
    fn noise(rows: usize, columns: usize, seed: u64) -> Matrix {
        let unit = |index: u64| hash(Purpose::Row, seed << 40 | index) as f64 / u64::MAX as f64;
        let value = |at: usize| (0..12).map(|part| unit(at as u64 * 12 + part)).sum::<f64>() - 6.0;
        Matrix { columns, values: (0..rows * columns).map(|at| value(at) as f32).collect() }
    }

    #[test]
    fn noise_has_no_structure_whatever_the_sizes_of_rows_and_columns() {
        let plain = noise(300, 64, 1);
        assert!((structure(plain.clone(), 0) - 1.0).abs() < 0.03, "{}", structure(plain, 0));
        let mut uneven = noise(300, 64, 2);
        for (at, value) in uneven.values.iter_mut().enumerate() {
            *value *= (1 + at / 64 % 7) as f32 * (1 + at % 5) as f32;
        }
        assert!((structure(uneven.clone(), 0) - 1.0).abs() < 0.03, "{}", structure(uneven, 0));
    }

    #[test]
    fn a_distance_is_that_of_the_difference() {
        let sketch = |seed: u64| {
            let mut values = noise(10, 5, seed).values;
            values.resize(75, 0.0);
            let tensors = ["a", "b", "all zeros"].map(str::to_owned).to_vec();
            Sketch { anchor: albedo_core::Digest::of("anchor"), side: 5, tensors, values }
        };
        let (king, model) = (sketch(6), sketch(7));
        let (found, expected) = (distance(&model, &king), Delta::between(&model, &king, &king).distance());
        assert!(expected > 0.1 && (found / expected - 1.0).abs() < 1e-12, "{found} is not {expected}");
        assert_eq!(distance(&king, &king), 0.0);
    }

    #[test]
    fn few_directions_show_under_much_noise() {
        let (left, right) = (noise(300, 4, 3), noise(64, 4, 4));
        let mut matrix = noise(300, 64, 5);
        for row in 0..300 {
            for column in 0..64 {
                matrix.values[row * 64 + column] += 0.5 * dot(left.row(row), right.row(column)) as f32;
            }
        }
        assert!(structure(matrix.clone(), 0) > 2.0, "{}", structure(matrix, 0));
    }
}

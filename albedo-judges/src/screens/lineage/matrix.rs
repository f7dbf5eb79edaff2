//! The little linear algebra that alignment takes: row-major `f32` matrices of
//! a few hundred rows, and solving with them in `f64`.

use rayon::prelude::*;

/// From this side on a matrix is inverted on several threads.
const PARALLEL: usize = 256;

/// A row-major matrix.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Matrix {
    pub(crate) columns: usize,
    pub(crate) values: Vec<f32>,
}

impl Matrix {
    pub(crate) fn zeros(rows: usize, columns: usize) -> Self {
        Self { columns, values: vec![0.0; rows * columns] }
    }

    pub(crate) fn rows(&self) -> usize {
        self.values.len().checked_div(self.columns).unwrap_or(0)
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.columns..][..self.columns]
    }

    pub(crate) fn transposed(&self) -> Self {
        let rows = self.rows();
        let mut turned = Self::zeros(self.columns, rows);
        for row in 0..rows {
            for (column, &value) in self.row(row).iter().enumerate() {
                turned.values[column * rows + row] = value;
            }
        }
        turned
    }

    /// Every row with norm 1, but those that are zero.
    pub(crate) fn units(&self) -> Self {
        let mut units = self.clone();
        for row in units.values.chunks_exact_mut(self.columns.max(1)) {
            let norm = norm(row);
            if norm > 0.0 && norm.is_finite() {
                scale(row, 1.0 / norm);
            }
        }
        units
    }

    /// The norm of column `column`.
    pub(crate) fn column_norm(&self, column: usize) -> f64 {
        let squares = (0..self.rows()).map(|row| f64::from(self.row(row)[column]).powi(2));
        squares.sum::<f64>().sqrt()
    }
}

/// The inner product, in `f64`: squares of 1e25 and of 1e-25 are outside of `f32`, and a
/// disguise may scale a row by as much.
pub(crate) fn dot(one: &[f32], two: &[f32]) -> f64 {
    let (a, a_rest) = one.as_chunks::<8>();
    let (b, b_rest) = two.as_chunks::<8>();
    let mut sums = [0.0_f64; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    sums.iter().sum::<f64>() + rest
}

/// The inner product of two unit rows, in `f32`.
pub(crate) fn cosine_of_units(one: &[f32], two: &[f32]) -> f64 {
    let (a, a_rest) = one.as_chunks::<8>();
    let (b, b_rest) = two.as_chunks::<8>();
    let mut sums = [0.0_f32; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    f64::from(sums.iter().sum::<f32>() + rest)
}

pub(crate) fn norm(values: &[f32]) -> f64 {
    dot(values, values).sqrt()
}

pub(crate) fn scale(values: &mut [f32], by: f64) {
    for value in values {
        *value = (f64::from(*value) * by) as f32;
    }
}

/// The square matrix `X` that brings `X · from` nearest to `to`, both `n` rows
/// of equal length; `None` if the rows of `from` are dependent.
///
/// `X = to · fromᵀ (from · fromᵀ)⁻¹`, by a Cholesky factor. For any invertible
/// `G`, the `X` of `G · from` is `X · G⁻¹`: what is aligned by it does not
/// depend on `G`.
pub(crate) fn least_squares(from: &[&[f32]], to: &[&[f32]]) -> Option<Vec<f64>> {
    let n = from.len();
    let mut gram = vec![0.0; n * n];
    let mut cross = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            gram[i * n + j] = dot(from[i], from[j]);
        }
        // Row `i` of `cross` is that of `to · fromᵀ`.
        for j in 0..n {
            cross[i * n + j] = dot(to[i], from[j]);
        }
    }
    // gram = L Lᵀ, in place.
    for j in 0..n {
        for k in 0..j {
            let factor = gram[j * n + k];
            for i in j..n {
                gram[i * n + j] -= gram[i * n + k] * factor;
            }
        }
        let pivot = gram[j * n + j];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        let root = pivot.sqrt();
        for i in j..n {
            gram[i * n + j] /= root;
        }
    }
    // Row by row: x · gram = cross, so L (Lᵀ xᵀ) = crossᵀ.
    for x in cross.chunks_exact_mut(n) {
        for i in 0..n {
            let sum: f64 = (0..i).map(|k| gram[i * n + k] * x[k]).sum();
            x[i] = (x[i] - sum) / gram[i * n + i];
        }
        for i in (0..n).rev() {
            x[i] /= gram[i * n + i];
            let value = x[i];
            for k in 0..i {
                x[k] -= gram[i * n + k] * value;
            }
        }
    }
    Some(cross)
}

/// The orthogonal matrix that is nearest to an `n × n` matrix, its polar factor, by
/// Newton's iteration with a scale (Higham, *Computing the polar decomposition*, 1986);
/// `None` for a matrix without an inverse.
pub(crate) fn nearest_rotation(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    const STEPS: usize = 40;
    let size = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let mut x = matrix.to_vec();
    for _ in 0..STEPS {
        let inverse = inverse(&x, n)?;
        let by = (size(&inverse) / size(&x)).sqrt();
        let mut change = 0.0;
        for i in 0..n {
            for j in 0..n {
                let next = 0.5 * (by * x[i * n + j] + inverse[j * n + i] / by);
                change += (next - x[i * n + j]).powi(2);
                x[i * n + j] = next;
            }
        }
        if !change.is_finite() {
            return None;
        }
        if change.sqrt() <= 1e-12 * (n as f64).sqrt() {
            break;
        }
    }
    Some(x)
}

/// `oneᵀ · two` of two matrices with as many rows.
pub(crate) fn transposed_product(one: &Matrix, two: &Matrix) -> Vec<f64> {
    let (rows, columns) = (one.columns, two.columns);
    let mut product = vec![0.0; rows * columns];
    product.par_chunks_exact_mut(columns.max(1)).enumerate().for_each(|(row, line)| {
        for at in 0..one.rows() {
            let left = f64::from(one.row(at)[row]);
            for (sum, &right) in line.iter_mut().zip(two.row(at)) {
                *sum += left * f64::from(right);
            }
        }
    });
    product
}

/// The inverse of an `n × n` matrix by Gauss–Jordan with row pivots; `None` if
/// it has none.
pub(crate) fn inverse(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    let largest = matrix.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    let mut a = matrix.to_vec();
    let mut b = vec![0.0; n * n];
    for i in 0..n {
        b[i * n + i] = 1.0;
    }
    for column in 0..n {
        let pivot =
            (column..n).max_by(|&i, &j| a[i * n + column].abs().total_cmp(&a[j * n + column].abs()))?;
        if a[pivot * n + column].is_nan() || a[pivot * n + column].abs() <= 1e-12 * largest {
            return None;
        }
        for k in 0..n {
            a.swap(column * n + k, pivot * n + k);
            b.swap(column * n + k, pivot * n + k);
        }
        let by = 1.0 / a[column * n + column];
        for k in 0..n {
            a[column * n + k] *= by;
            b[column * n + k] *= by;
        }
        let (own_a, own_b) = (a[column * n..][..n].to_vec(), b[column * n..][..n].to_vec());
        let clear = |(row, (a, b)): (usize, (&mut [f64], &mut [f64]))| {
            let factor = a[column];
            if row != column && factor != 0.0 {
                a.iter_mut().zip(&own_a).for_each(|(value, own)| *value -= factor * own);
                b.iter_mut().zip(&own_b).for_each(|(value, own)| *value -= factor * own);
            }
        };
        if n < PARALLEL {
            a.chunks_exact_mut(n).zip(b.chunks_exact_mut(n)).enumerate().for_each(clear);
        } else {
            a.par_chunks_exact_mut(n).zip(b.par_chunks_exact_mut(n)).enumerate().for_each(clear);
        }
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(one: &[f64], two: &[f64], n: usize) -> Vec<f64> {
        let entry = |at: usize| (0..n).map(|k| one[at / n * n + k] * two[k * n + at % n]).sum();
        (0..n * n).map(entry).collect()
    }

    proptest! {
        #[test]
        fn an_inverse_undoes(values in proptest::collection::vec(-1.0_f64..1.0, 16)) {
            let mut matrix = values;
            for i in 0..4 {
                matrix[i * 5] += 4.0;
            }
            let identity = times(&matrix, &inverse(&matrix, 4).expect("dominant diagonal"), 4);
            for (at, value) in identity.iter().enumerate() {
                prop_assert!((value - f64::from(u8::from(at % 5 == 0))).abs() < 1e-9);
            }
        }

        #[test]
        fn least_squares_finds_what_was_done(
            values in proptest::collection::vec(-1.0_f32..1.0, 3 * 8),
            mix in proptest::collection::vec(-1.0_f32..1.0, 9),
        ) {
            let from: Vec<Vec<f32>> = values.chunks(8).enumerate().map(|(i, row)| {
                let mut row = row.to_vec();
                row[i] += 4.0;
                row
            }).collect();
            let to: Vec<Vec<f32>> = mix.chunks(3).map(|mix| {
                (0..8).map(|c| (0..3).map(|k| mix[k] * from[k][c]).sum()).collect()
            }).collect();
            let found = least_squares(
                &from.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                &to.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            ).expect("independent rows");
            for (found, mix) in found.iter().zip(&mix) {
                prop_assert!((found - f64::from(*mix)).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn the_nearest_rotation_of_a_stretched_one_is_that_one() {
        let (cos, sin) = (0.8, 0.6);
        let turned = [cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0];
        // A rotation times a symmetric stretch, whatever its scale.
        let stretch = [3.0, 0.5, 0.0, 0.5, 0.2, 0.0, 0.0, 0.0, 1e-3];
        for scale in [1e-20, 1.0, 1e20] {
            let matrix: Vec<f64> = times(&turned, &stretch, 3).iter().map(|value| value * scale).collect();
            let found = nearest_rotation(&matrix, 3).expect("it has an inverse");
            for (found, expected) in found.iter().zip(turned) {
                assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
            }
        }
        assert!(nearest_rotation(&[0.0; 4], 2).is_none());
    }

    #[test]
    fn products_are_taken_where_f32_has_no_squares() {
        assert!((dot(&[1e25, 1.0], &[1e25, 1.0]) / 1e50 - 1.0).abs() < 1e-6);
        assert!((norm(&[3e-30, 4e-30]) / 5e-30 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn dependent_rows_have_no_inverse() {
        assert!(inverse(&[1.0, 2.0, 2.0, 4.0], 2).is_none());
        assert!(least_squares(&[&[0.0, 0.0]], &[&[1.0, 1.0]]).is_none());
    }
}

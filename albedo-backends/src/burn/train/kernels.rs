//! Row-wise arithmetic of training on plain slices, and its derivatives. Sums over rows
//! are taken in blocks of fixed size, so their bits depend on the rows alone.

use std::ops::Range;

use rayon::prelude::*;

use crate::burn::kernels::{dot, exp, rms_norm};

/// Rows whose share of a gain's gradient is summed by one thread.
pub(super) const ROW_BLOCK: usize = 64;

/// Values below which a row-wise loop is not worth handing to other threads.
const PARALLEL_VALUES: usize = 1 << 13;

/// Calls `write` with each row of `out` (`[rows, width]`) and its index.
pub(super) fn for_rows(out: &mut [f32], width: usize, write: impl Fn(usize, &mut [f32]) + Sync) {
    out.par_chunks_exact_mut(width)
        .enumerate()
        .with_min_len(PARALLEL_VALUES.div_ceil(width))
        .for_each(|(row, out)| write(row, out));
}

/// New rows of `width`, each written by `write`.
pub(super) fn rows(count: usize, width: usize, write: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut out = vec![0.0; count * width];
    for_rows(&mut out, width, write);
    out
}

/// Row `index` of `values`, `[rows, width]`.
pub(super) fn row(values: &[f32], index: usize, width: usize) -> &[f32] {
    &values[at(index, width)]
}

/// Where row `index` of `[rows, width]` is.
pub(super) fn at(index: usize, width: usize) -> Range<usize> {
    index * width..(index + 1) * width
}

/// Adds `values` to `out`.
pub(super) fn add(out: &mut [f32], values: &[f32]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out += value;
    }
}

/// Calls `write` with each row of `out` and its index, and with a sum of `sums` values to
/// add to; returns the sums of all rows, in the order of the rows.
pub(super) fn sum_rows(
    out: &mut [f32],
    width: usize,
    sums: usize,
    write: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let partial: Vec<Vec<f32>> = out
        .par_chunks_mut(ROW_BLOCK * width)
        .enumerate()
        .map(|(block, out)| {
            let mut sum = vec![0.0; sums];
            for (index, out) in out.chunks_exact_mut(width).enumerate() {
                write(block * ROW_BLOCK + index, out, &mut sum);
            }
            sum
        })
        .collect();
    let mut total = vec![0.0; sums];
    for partial in partial {
        add(&mut total, &partial);
    }
    total
}

/// RMS norm of every row of `x`.
pub(super) fn norm_rows(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let width = gain.len();
    rows(x.len() / width, width, |index, out| rms_norm(row(x, index, width), gain, eps, out))
}

/// The derivative of [`norm_rows`]: adds to `dx` what `dy` means for `x`, and returns what
/// it means for the gain.
pub(super) fn norm_rows_backward(x: &[f32], gain: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) -> Vec<f32> {
    let width = gain.len();
    sum_rows(dx, width, width, |index, dx, dgain| {
        rms_norm_backward(row(x, index, width), gain, eps, row(dy, index, width), dx, dgain);
    })
}

/// With `y = x · s · gain` and `s = 1 / sqrt(mean(x²) + eps)`: adds
/// `s · gain · dy − x · s³ · mean(gain · dy · x)` to `dx`, and `dy · x · s` to `dgain`.
pub(super) fn rms_norm_backward(
    x: &[f32],
    gain: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dgain: &mut [f32],
) {
    let size = x.len() as f32;
    let scale = 1.0 / (dot(x, x) / size + eps).sqrt();
    let along = dot3(x, gain, dy) / size * scale * scale * scale;
    let inputs = x.iter().zip(gain).zip(dy);
    for (((x, gain), dy), (dx, dgain)) in inputs.zip(dx.iter_mut().zip(dgain)) {
        *dx += scale * gain * dy - along * x;
        *dgain += dy * x * scale;
    }
}

/// The sum of `a[i] · b[i] · c[i]`, in eight interleaved partial sums.
fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<8>();
    let (b_lanes, b_rest) = b.as_chunks::<8>();
    let (c_lanes, c_rest) = c.as_chunks::<8>();
    let mut sums = [0.0_f32; 8];
    for ((a, b), c) in a_lanes.iter().zip(b_lanes).zip(c_lanes) {
        for (((sum, a), b), c) in sums.iter_mut().zip(a).zip(b).zip(c) {
            *sum += a * b * c;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).zip(c_rest).map(|((a, b), c)| a * b * c).sum();
    sum_lanes(sums) + rest
}

/// The sum of eight partial sums.
fn sum_lanes(sums: [f32; 8]) -> f32 {
    ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
}

/// Rotates the pairs of a head back: the derivative of a rotation.
pub(super) fn rotate_back(x: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let (first, second) = x.split_at_mut(cosines.len());
    for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*a, *b) = (*a * cosine + *b * sine, *b * cosine - *a * sine);
    }
}

/// The derivative of `silu(gate) · up`, joined as `[gate | up]`, written to `out`.
pub(super) fn silu_mul_backward(gate_up: &[f32], dy: &[f32], out: &mut [f32]) {
    let (gate, up) = gate_up.split_at(dy.len());
    let (dgate, dup) = out.split_at_mut(dy.len());
    let inputs = gate.iter().zip(up).zip(dy);
    for (((&gate, up), dy), (dgate, dup)) in inputs.zip(dgate.iter_mut().zip(dup)) {
        let sigmoid = 1.0 / (1.0 + exp(-gate));
        *dgate = dy * up * (sigmoid * (1.0 + gate * (1.0 - sigmoid)));
        *dup = dy * (gate * sigmoid);
    }
}

/// The largest of `values`.
pub(super) fn max(values: &[f32]) -> f32 {
    let (lanes, rest) = values.as_chunks::<8>();
    let mut maxima = [f32::NEG_INFINITY; 8];
    for lane in lanes {
        for (max, &value) in maxima.iter_mut().zip(lane) {
            *max = if value > *max { value } else { *max };
        }
    }
    maxima.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Replaces values by `exp(value - max)` and returns their sum.
pub(super) fn exp_minus(values: &mut [f32], max: f32) -> f32 {
    let (lanes, rest) = values.as_chunks_mut::<8>();
    let mut sums = [0.0_f32; 8];
    for lane in lanes {
        for (sum, value) in sums.iter_mut().zip(lane) {
            *value = exp(*value - max);
            *sum += *value;
        }
    }
    let mut sum = sum_lanes(sums);
    for value in rest {
        *value = exp(*value - max);
        sum += *value;
    }
    sum
}

/// With probabilities `p` of scores, and `dp` what the loss means for them: replaces `dp`
/// by what it means for the scores, `p · (dp − Σ p · dp)`.
pub(super) fn softmax_backward(p: &[f32], dp: &mut [f32]) {
    let along = dot(p, dp);
    for (dp, p) in dp.iter_mut().zip(p) {
        *dp = p * (*dp - along);
    }
}

/// Replaces scores by `exp(score - max) · scale`.
pub(super) fn exp_scaled(scores: &mut [f32], max: f32, scale: f32) {
    for score in scores {
        *score = exp(*score - max) * scale;
    }
}

/// What [`exp_both`] sums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Both {
    pub(super) p: f32,
    pub(super) q: f32,
    /// Of `p[i] · (teacher[i] − student[i])`.
    pub(super) cross: f32,
}

/// Replaces the logits of teacher and student by `exp(logit - max)` of each, and returns
/// the sums.
pub(super) fn exp_both(teacher: &mut [f32], student: &mut [f32], maxima: [f32; 2]) -> Both {
    let [teacher_max, student_max] = maxima;
    let one = |teacher: &mut f32, student: &mut f32| {
        let apart = *teacher - *student;
        (*teacher, *student) = (exp(*teacher - teacher_max), exp(*student - student_max));
        *teacher * apart
    };
    let (teacher_lanes, teacher_rest) = teacher.as_chunks_mut::<8>();
    let (student_lanes, student_rest) = student.as_chunks_mut::<8>();
    let (mut p, mut q, mut cross) = ([0.0_f32; 8], [0.0_f32; 8], [0.0_f32; 8]);
    for (teacher, student) in teacher_lanes.iter_mut().zip(student_lanes) {
        let sums = p.iter_mut().zip(&mut q).zip(&mut cross);
        for ((teacher, student), ((p, q), cross)) in teacher.iter_mut().zip(student).zip(sums) {
            *cross += one(teacher, student);
            *p += *teacher;
            *q += *student;
        }
    }
    let mut both = Both { p: sum_lanes(p), q: sum_lanes(q), cross: sum_lanes(cross) };
    for (teacher, student) in teacher_rest.iter_mut().zip(student_rest) {
        both.cross += one(teacher, student);
        both.p += *teacher;
        both.q += *student;
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::burn::kernels::{rotate, silu_mul};

    /// Numbers between -1 and 1.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32).map(|index| ((index * 37 + seed * 101) % 97) as f32 / 48.5 - 1.0).collect()
    }

    /// Compares `gradient` with central differences of the sum of `f(x) · dy`.
    fn check(x: &[f32], dy: &[f32], gradient: &[f32], f: impl Fn(&[f32]) -> Vec<f32>) {
        let loss =
            |x: &[f32]| -> f64 { f(x).iter().zip(dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum() };
        for (index, &gradient) in gradient.iter().enumerate() {
            let moved = |by: f32| {
                let mut x = x.to_vec();
                x[index] += by;
                loss(&x)
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((difference - f64::from(gradient)).abs() < 2e-3, "{index}: {difference} {gradient}");
        }
    }

    #[test]
    fn derivatives_are_those_of_small_differences() {
        let (x, gain, dy) = (numbers(20, 1), numbers(20, 2), numbers(20, 3));
        let (mut dx, mut dgain) = (vec![0.0; 20], vec![0.0; 20]);
        rms_norm_backward(&x, &gain, 0.1, &dy, &mut dx, &mut dgain);
        let norm = |x: &[f32], gain: &[f32]| {
            let mut out = vec![0.0; 20];
            rms_norm(x, gain, 0.1, &mut out);
            out
        };
        check(&x, &dy, &dx, |x| norm(x, &gain));
        check(&gain, &dy, &dgain, |gain| norm(&x, gain));

        let mut out = vec![0.0; 20];
        silu_mul_backward(&x, &dy[..10], &mut out);
        check(&x, &dy[..10], &out, |x| {
            let mut out = vec![0.0; 10];
            silu_mul(x, &mut out);
            out
        });

        let softmax = |x: &[f32]| {
            let mut out = x.to_vec();
            let sum = exp_minus(&mut out, max(x));
            out.iter().map(|value| value / sum).collect::<Vec<_>>()
        };
        let mut dx = dy.clone();
        softmax_backward(&softmax(&x), &mut dx);
        check(&x, &dy, &dx, softmax);
    }

    #[test]
    fn a_rotation_back_undoes_one() {
        let (cosines, sines) = ([0.6, 1.0, 0.0], [0.8, 0.0, 1.0]);
        let mut x = numbers(6, 4);
        let before = x.clone();
        rotate(&mut x, &cosines, &sines);
        rotate_back(&mut x, &cosines, &sines);
        assert!(x.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn sums_over_rows_do_not_depend_on_the_number_of_threads() {
        let (x, gain, dy) = (numbers(300 * 24, 5), numbers(24, 6), numbers(300 * 24, 7));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                let mut dx = vec![0.0; x.len()];
                let dgain = norm_rows_backward(&x, &gain, 1e-6, &dy, &mut dx);
                (dx, dgain)
            })
        };
        assert_eq!(run(1), run(3));
    }
}

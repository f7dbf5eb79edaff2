//! The head and the losses: logits exist for a chunk of positions at a time, and are
//! replaced in place by the gradient of the loss, which has a closed form.

use albedo_core::Result;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::decoder::{Decoder, Pass, Target};
use super::kernels::{self, at, exp_both, exp_minus, max, row};
use super::matrix::{Values, product, product_at, product_bt, rows_of, tensor};
use super::params::{self, Gradients};
use super::settings::{Distil, Divergence};

/// Logits that exist at a time: 16 MiB of each model.
const CHUNK_VALUES: usize = 1 << 22;

/// The fewest positions of a chunk, which a product needs to be fast.
const CHUNK_ROWS: usize = 16;

/// A teacher, and what its layers make of a pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Teacher<'a> {
    pub(super) decoder: &'a Decoder,
    /// The residual after the last layer.
    pub(super) residual: &'a [f32],
    pub(super) distil: Distil,
}

/// The sum of the losses of a pass, by weight: cross-entropy, or the divergence from
/// `teacher`.
///
/// # Errors
/// The device failed.
pub(super) fn loss(
    student: &Decoder,
    residual: &[f32],
    pass: &Pass,
    teacher: Option<Teacher<'_>>,
) -> Result<f64> {
    run(student, residual, pass, teacher, None, &mut Vec::new())
}

/// The cross-entropy of each target of a pass, in nats, whatever its weight.
///
/// # Errors
/// The device failed.
pub(super) fn losses(decoder: &Decoder, residual: &[f32], pass: &Pass) -> Result<Vec<f64>> {
    let mut losses = Vec::with_capacity(pass.targets.len());
    run(decoder, residual, pass, None, None, &mut losses)?;
    Ok(losses)
}

/// As [`loss`]; adds what the loss over `total` means for the head and the last norm to
/// `gradients`, and returns what it means for the residual.
///
/// # Errors
/// The device failed.
pub(super) fn loss_and_gradient(
    student: &Decoder,
    residual: &[f32],
    pass: &Pass,
    teacher: Option<Teacher<'_>>,
    total: f64,
    gradients: &mut Gradients,
) -> Result<(f64, Vec<f32>)> {
    let hidden = student.config.hidden_size;
    let mut dnormed = Vec::with_capacity(pass.targets.len() * hidden);
    let wanted = Wanted { total, dnormed: &mut dnormed, head: &mut gradients[params::head(&student.config)] };
    let loss = run(student, residual, pass, teacher, Some(wanted), &mut Vec::new())?;

    let x = gather(residual, pass, hidden, |target| target.position);
    let mut dx = vec![0.0; x.len()];
    let gain = kernels::norm_rows_backward(&x, &student.norm, student.eps, &dnormed, &mut dx);
    kernels::add(&mut gradients[params::last_norm(&student.config)], &gain);
    let mut out = vec![0.0; residual.len()];
    for (target, dx) in pass.targets.iter().zip(dx.chunks_exact(hidden)) {
        out[at(target.position, hidden)].copy_from_slice(dx);
    }
    Ok((loss, out))
}

/// Where gradients go.
struct Wanted<'a> {
    /// The loss is the sum over this.
    total: f64,
    /// Of the last norm's results at the targets, appended.
    dnormed: &'a mut Vec<f32>,
    /// Of the head.
    head: &'a mut [f32],
}

fn run(
    student: &Decoder,
    residual: &[f32],
    pass: &Pass,
    teacher: Option<Teacher<'_>>,
    mut wanted: Option<Wanted<'_>>,
    each: &mut Vec<f64>,
) -> Result<f64> {
    let vocabulary = student.config.vocab_size;
    let own = normed(student, residual, pass, |target| target.position);
    let others =
        teacher.map(|teacher| normed(teacher.decoder, teacher.residual, pass, |target| target.source));
    let chunk_rows = (CHUNK_VALUES / vocabulary).max(CHUNK_ROWS);
    let mut sum = 0.0;
    for (index, targets) in pass.targets.chunks(chunk_rows).enumerate() {
        let (from, to) = (index * chunk_rows, index * chunk_rows + targets.len());
        let normed = rows_of(&own, from, to);
        let mut logits = Values::of(product_bt(&normed, &student.head))?;
        let rows = logits.par_chunks_exact_mut(vocabulary).zip(targets);
        let total = wanted.as_ref().map(|wanted| wanted.total);
        // What the loss of a row counts in the gradient.
        let share = |weight: f32| total.map(|total| (f64::from(weight) / total) as f32);
        let losses: Vec<f64> = match (teacher, &others) {
            (Some(teacher), Some(others)) => {
                let head = &teacher.decoder.head;
                let mut logits = Values::of(product_bt(&rows_of(others, from, to), head))?;
                rows.zip(logits.par_chunks_exact_mut(vocabulary))
                    .map(|((own, target), others)| {
                        divergence(own, others, &teacher.distil, share(target.weight))
                    })
                    .collect()
            }
            _ => rows.map(|(own, target)| cross_entropy(own, target.id, share(target.weight))).collect(),
        };
        sum += losses.iter().zip(targets).map(|(loss, target)| loss * f64::from(target.weight)).sum::<f64>();
        each.extend(losses);
        if let Some(wanted) = &mut wanted {
            let dlogits = logits.into_tensor(&student.device);
            wanted.dnormed.extend_from_slice(&Values::of(product(&dlogits, &student.head))?);
            kernels::add(wanted.head, &Values::of(product_at(&dlogits, &normed))?);
        }
    }
    Ok(sum)
}

/// The rows of the residual at `place` of the targets.
fn gather(residual: &[f32], pass: &Pass, hidden: usize, place: fn(&Target) -> usize) -> Vec<f32> {
    kernels::rows(pass.targets.len(), hidden, |index, out| {
        out.copy_from_slice(row(residual, place(&pass.targets[index]), hidden));
    })
}

/// The last norm's results at `place` of the targets.
fn normed(decoder: &Decoder, residual: &[f32], pass: &Pass, place: fn(&Target) -> usize) -> Tensor<2> {
    let hidden = decoder.config.hidden_size;
    let x = gather(residual, pass, hidden, place);
    tensor(kernels::norm_rows(&x, &decoder.norm, decoder.eps), hidden, &decoder.device)
}

/// The cross-entropy of `id`, in nats. With a share the logits become its gradient times
/// the share; without, they are spent.
fn cross_entropy(logits: &mut [f32], id: u32, share: Option<f32>) -> f64 {
    let id = id as usize;
    let own = logits[id];
    let max = max(logits);
    let sum = exp_minus(logits, max);
    let loss = f64::from(sum).ln() + f64::from(max) - f64::from(own);
    if let Some(share) = share {
        let scale = share / sum;
        for value in logits.iter_mut() {
            *value *= scale;
        }
        logits[id] -= share;
    }
    loss
}

/// The divergence of the student's logits `own` from the teacher's `others`, in nats. With
/// a share `own` becomes its gradient times the share; without, both are spent.
fn divergence(own: &mut [f32], others: &mut [f32], distil: &Distil, share: Option<f32>) -> f64 {
    let cold = (1.0 / distil.temperature) as f32;
    if distil.temperature != 1.0 {
        own.iter_mut().chain(others.iter_mut()).for_each(|logit| *logit *= cold);
    }
    let share = share.map(|share| share * cold);
    match distil.top {
        Some(top) if top < own.len() => by_likeliest(own, others, top, distil.divergence, share),
        _ if distil.divergence == Divergence::Forward => forward(own, others, share),
        _ => {
            log_softmax(own);
            log_softmax(others);
            let loss = compare(others, own, distil.divergence);
            if let Some(share) = share {
                for value in own.iter_mut() {
                    *value *= share;
                }
            }
            loss
        }
    }
}

/// KL(P ‖ Q) over the whole vocabulary: its gradient is Q − P.
fn forward(own: &mut [f32], others: &mut [f32], share: Option<f32>) -> f64 {
    let maxima = [max(others), max(own)];
    let both = exp_both(others, own, maxima);
    let log_sum = |sum: f32, max: f32| f64::from(sum).ln() + f64::from(max);
    let loss =
        f64::from(both.cross) / f64::from(both.p) - log_sum(both.p, maxima[0]) + log_sum(both.q, maxima[1]);
    if let Some(share) = share {
        let (p, q) = (share / both.p, share / both.q);
        for (own, other) in own.iter_mut().zip(others) {
            *own = *own * q - *other * p;
        }
    }
    loss
}

/// The divergence of two distributions that tell apart only the teacher's `top` likeliest
/// tokens (of equals the first), and count all others as one outcome.
fn by_likeliest(
    own: &mut [f32],
    others: &mut [f32],
    top: usize,
    divergence: Divergence,
    share: Option<f32>,
) -> f64 {
    log_softmax(own);
    log_softmax(others);
    let mut order: Vec<usize> = (0..others.len()).collect();
    order.select_nth_unstable_by(top, |&a, &b| others[b].total_cmp(&others[a]).then(a.cmp(&b)));
    let (likeliest, rest) = order.split_at_mut(top);
    // The sum of what is left has one order, too.
    likeliest.sort_unstable();
    rest.sort_unstable();
    // What underflows counts as e^-700.
    let log_rest = |logs: &[f32]| {
        let sum: f64 = rest.iter().map(|&id| f64::from(logs[id]).exp()).sum();
        sum.ln().max(-700.0) as f32
    };
    let outcomes =
        |logs: &[f32]| -> Vec<f32> { likeliest.iter().map(|&id| logs[id]).chain([log_rest(logs)]).collect() };
    let (p, mut q) = (outcomes(others), outcomes(own));
    let own_rest = q[top];
    let loss = compare(&p, &mut q, divergence);
    if let Some(share) = share {
        for (&id, gradient) in likeliest.iter().zip(&q) {
            own[id] = gradient * share;
        }
        // Each of the others by its part of their probability.
        for &id in rest.iter() {
            own[id] = (own[id] - own_rest).exp() * q[top] * share;
        }
    }
    loss
}

/// The divergence of Q from P, both as logarithms, in nats; `q` becomes its gradient with
/// respect to the logits of Q.
fn compare(p: &[f32], q: &mut [f32], divergence: Divergence) -> f64 {
    match divergence {
        Divergence::Forward => {
            let mut loss = 0.0;
            for (&p, q) in p.iter().zip(q) {
                let (likely, apart) = (p.exp(), p - *q);
                loss += f64::from(likely) * f64::from(apart);
                *q = q.exp() - likely;
            }
            loss
        }
        Divergence::Reverse => {
            let terms = p.iter().zip(q.iter()).map(|(p, q)| f64::from(q.exp()) * f64::from(q - p));
            let loss: f64 = terms.sum();
            for (p, q) in p.iter().zip(q) {
                *q = q.exp() * ((*q - p) - loss as f32);
            }
            loss
        }
        Divergence::Jsd(beta) => {
            let (teacher, student) = (beta as f32, (1.0 - beta) as f32);
            // The logarithm of the mixture, which is never below what either brings.
            let mixture = |p: f32, q: f32| {
                let (p, q) = (p + teacher.ln(), q + student.ln());
                let (low, high) = if p < q { (p, q) } else { (q, p) };
                high + (low - high).exp().ln_1p()
            };
            let (mut of_teacher, mut of_student) = (0.0, 0.0);
            for (&p, &q) in p.iter().zip(q.iter()) {
                let mixture = mixture(p, q);
                of_teacher += f64::from(p.exp()) * f64::from(p - mixture);
                of_student += f64::from(q.exp()) * f64::from(q - mixture);
            }
            for (&p, q) in p.iter().zip(q) {
                let apart = *q - mixture(p, *q);
                *q = student * q.exp() * (apart - of_student as f32);
            }
            beta * of_teacher + (1.0 - beta) * of_student
        }
    }
}

/// Replaces logits by logarithms of probabilities.
fn log_softmax(logits: &mut [f32]) {
    let max = max(logits);
    // A copy of some kB, so that the logits stay.
    let sum = exp_minus(&mut logits.to_vec(), max);
    let log_sum = (f64::from(sum).ln() + f64::from(max)) as f32;
    for logit in logits.iter_mut() {
        *logit -= log_sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Divergence; 4] =
        [Divergence::Forward, Divergence::Reverse, Divergence::Jsd(0.5), Divergence::Jsd(0.1)];

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 31 + seed * 17) % 89) as f32 / 22.0 - 2.0).collect()
    }

    /// In 64 bits, by the definition.
    fn exact(own: &[f32], others: &[f32], distil: &Distil) -> f64 {
        let softmax = |logits: &[f32]| -> Vec<f64> {
            let exp: Vec<f64> =
                logits.iter().map(|logit| (f64::from(*logit) / distil.temperature).exp()).collect();
            let sum: f64 = exp.iter().sum();
            exp.iter().map(|value| value / sum).collect()
        };
        let (mut p, mut q) = (softmax(others), softmax(own));
        if let Some(top) = distil.top {
            let mut order: Vec<usize> = (0..p.len()).collect();
            order.sort_by(|&a, &b| p[b].total_cmp(&p[a]).then(a.cmp(&b)));
            let outcomes = |all: &[f64]| {
                let (likeliest, rest) = order.split_at(top.min(all.len()));
                let rest: f64 = rest.iter().map(|&id| all[id]).sum();
                likeliest.iter().map(|&id| all[id]).chain([rest]).filter(|p| *p > 0.0).collect()
            };
            (p, q) = (outcomes(&p), outcomes(&q));
        }
        let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        match distil.divergence {
            Divergence::Forward => kl(&p, &q),
            Divergence::Reverse => kl(&q, &p),
            Divergence::Jsd(beta) => {
                let mixture: Vec<f64> = p.iter().zip(&q).map(|(p, q)| beta * p + (1.0 - beta) * q).collect();
                beta * kl(&p, &mixture) + (1.0 - beta) * kl(&q, &mixture)
            }
        }
    }

    #[test]
    fn divergences_and_their_gradients_are_those_of_the_definition() {
        let (own, others) = (numbers(29, 1), numbers(29, 2));
        for kind in KINDS {
            for (top, temperature) in
                [(None, 1.0), (Some(5), 1.0), (Some(64), 1.0), (None, 2.5), (Some(3), 0.7)]
            {
                let distil = Distil { divergence: kind, top, temperature };
                let mut gradient = own.clone();
                let loss = divergence(&mut gradient, &mut others.clone(), &distil, Some(0.5));
                let expected = exact(&own, &others, &distil);
                assert!((loss - expected).abs() < 1e-5, "{distil:?}: {loss} {expected}");
                let spent = divergence(&mut own.clone(), &mut others.clone(), &distil, None);
                assert_eq!(spent, loss);
                for (index, &gradient) in gradient.iter().enumerate() {
                    let moved = |by: f32| {
                        let mut own = own.clone();
                        own[index] += by;
                        exact(&own, &others, &distil)
                    };
                    let difference = 0.5 * (moved(1e-2) - moved(-1e-2)) / 2e-2;
                    let gradient = f64::from(gradient);
                    assert!((difference - gradient).abs() < 5e-5, "{distil:?}: {difference} {gradient}");
                }
            }
        }
    }

    #[test]
    fn a_student_that_is_its_teacher_has_nothing_to_learn() {
        let others = numbers(29, 2);
        for divergence in KINDS {
            for top in [None, Some(4)] {
                let distil = Distil { divergence, top, temperature: 1.0 };
                let mut gradient = others.clone();
                let loss = super::divergence(&mut gradient, &mut others.clone(), &distil, Some(1.0));
                assert!(loss.abs() < 1e-6, "{distil:?}: {loss}");
                assert!(gradient.iter().all(|value| value.abs() < 1e-6), "{distil:?}");
            }
        }
    }

    #[test]
    fn unlikely_tokens_do_not_overflow() {
        let mut others = vec![0.0; 29];
        others[3] = 500.0;
        let mut own = vec![0.0; 29];
        own[7] = 500.0;
        for divergence in KINDS {
            for top in [None, Some(4)] {
                let distil = Distil { divergence, top, temperature: 1.0 };
                let mut gradient = own.clone();
                let loss = super::divergence(&mut gradient, &mut others.clone(), &distil, Some(1.0));
                assert!(loss.is_finite(), "{distil:?}: {loss}");
                assert!(gradient.iter().all(|value| value.is_finite()), "{distil:?}: {gradient:?}");
            }
        }
    }
}

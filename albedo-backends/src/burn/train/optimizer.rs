//! AdamW and Muon over plain values, and the schedule of their learning rates.
//!
//! Burn's optimizers change the parameters of a Burn module from the gradients of its
//! automatic differentiation; the values, gradients and states here are vectors whose bits
//! go into one file.

use albedo_core::Result;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::matrix::{Values, product, product_bt, tensor};
use super::params::{Gradients, Kind, Param};
use super::settings::{Decay, Optimizer, Settings};

/// The coefficients of Muon's iteration, its length, and what keeps a zero matrix finite.
/// Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
const QUINTIC: [f32; 3] = [3.4445, -4.775, 2.0315];
const ITERATIONS: usize = 5;
const SMALLEST_NORM: f32 = 1e-7;

/// The running means of a parameter's gradients.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct State {
    /// Of the gradients.
    pub(super) first: Vec<f32>,
    /// Of their squares; Muon has none.
    pub(super) second: Vec<f32>,
}

/// Whether Muon changes `param`.
fn by_muon(param: &Param, settings: &Settings) -> bool {
    settings.optimizer == Optimizer::Muon && param.kind == Kind::Matrix
}

/// The states before the first step.
pub(super) fn states(params: &[Param], settings: &Settings) -> Vec<State> {
    let state = |param: &Param| {
        let second = if by_muon(param, settings) { 0 } else { param.values.len() };
        State { first: vec![0.0; param.values.len()], second: vec![0.0; second] }
    };
    params.iter().map(state).collect()
}

/// The share of the highest learning rate at `step`, the first being 1.
pub(super) fn schedule(settings: &Settings, step: u64) -> f64 {
    let Settings { steps, warmup, final_share, decay, .. } = *settings;
    if step <= warmup {
        return step as f64 / warmup as f64;
    }
    // Full at the first step after the warm-up; the last share would be that of the step
    // after the last.
    let left = steps.saturating_sub(warmup).max(1);
    let gone = ((step - 1 - warmup) as f64 / left as f64).min(1.0);
    let falling = match decay {
        Decay::Constant => return 1.0,
        Decay::Linear => 1.0 - gone,
        Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * gone).cos()),
    };
    final_share + (1.0 - final_share) * falling
}

/// The Euclidean norm of the whole gradient.
pub(super) fn norm(gradients: &Gradients) -> f64 {
    let squares: Vec<f64> = gradients
        .par_iter()
        .map(|gradient| gradient.iter().map(|value| f64::from(*value) * f64::from(*value)).sum())
        .collect();
    squares.iter().sum::<f64>().sqrt()
}

/// Changes `params` and `states` by the step `step`, with every gradient times `scale`.
///
/// # Errors
/// The device failed; nothing has changed then.
pub(super) fn update(
    params: &mut [Param],
    states: &mut [State],
    gradients: &Gradients,
    scale: f64,
    step: u64,
    settings: &Settings,
    device: &Device,
) -> Result<()> {
    let share = schedule(settings, step);
    // First what can fail, then what changes.
    let muon: Vec<Option<(Vec<f32>, Vec<f32>)>> = params
        .par_iter()
        .zip(states.par_iter())
        .zip(gradients)
        .map(|((param, state), gradient)| {
            if !by_muon(param, settings) {
                return Ok(None);
            }
            let (momentum, direction) = with_momentum(&state.first, gradient, scale, settings.momentum);
            Ok(Some((momentum, orthogonal(direction, param.shape, device)?)))
        })
        .collect::<Result<_>>()?;
    let adam = Adam::new(settings, step, scale, share);
    params.par_iter_mut().zip(states).zip(gradients).zip(muon).for_each(
        |(((param, state), gradient), muon)| {
            let decays = if param.kind == Kind::Gain { 0.0 } else { settings.weight_decay };
            let Some((momentum, direction)) = muon else {
                return adam.update(&mut param.values, state, gradient, decays);
            };
            state.first = momentum;
            let rate = settings.muon_rate * share;
            let [rows, columns] = param.shape;
            // Source: as above; taller matrices take longer steps.
            let length = (rate * (rows as f64 / columns as f64).max(1.0).sqrt()) as f32;
            let keep = (1.0 - rate * decays) as f32;
            for (value, direction) in param.values.iter_mut().zip(direction) {
                *value = *value * keep - length * direction;
            }
        },
    );
    Ok(())
}

/// AdamW at one step. Source: Loshchilov and Hutter, Decoupled weight decay
/// regularization, 2019.
struct Adam {
    scale: f32,
    rate: f64,
    betas: [f32; 2],
    /// What the means of the first steps lack.
    corrections: [f32; 2],
    epsilon: f32,
}

impl Adam {
    fn new(settings: &Settings, step: u64, scale: f64, share: f64) -> Self {
        let powers = settings.betas.map(|beta| 1.0 - beta.powf(step as f64));
        Self {
            scale: scale as f32,
            rate: settings.rate * share,
            betas: settings.betas.map(|beta| beta as f32),
            corrections: powers.map(|power| (1.0 / power) as f32),
            epsilon: settings.epsilon as f32,
        }
    }

    fn update(&self, values: &mut [f32], state: &mut State, gradient: &[f32], decay: f64) {
        let ([b1, b2], [c1, c2]) = (self.betas, self.corrections);
        let (rate, keep) = (self.rate as f32, (1.0 - self.rate * decay) as f32);
        let means = state.first.iter_mut().zip(&mut state.second);
        for ((value, gradient), (first, second)) in values.iter_mut().zip(gradient).zip(means) {
            let gradient = gradient * self.scale;
            *first = b1 * *first + (1.0 - b1) * gradient;
            *second = b2 * *second + (1.0 - b2) * gradient * gradient;
            let step = (*first * c1) / ((*second * c2).sqrt() + self.epsilon);
            *value = *value * keep - rate * step;
        }
    }
}

/// The running mean with `gradient` in it, and Nesterov's look ahead.
fn with_momentum(mean: &[f32], gradient: &[f32], scale: f64, momentum: f64) -> (Vec<f32>, Vec<f32>) {
    let (scale, momentum) = (scale as f32, momentum as f32);
    let pairs = mean.iter().zip(gradient).map(|(mean, gradient)| {
        let gradient = gradient * scale;
        let mean = momentum * mean + (1.0 - momentum) * gradient;
        (mean, momentum * mean + (1.0 - momentum) * gradient)
    });
    pairs.unzip()
}

/// Muon's direction: `values` with all singular values brought near 1.
///
/// # Errors
/// The device failed.
fn orthogonal(mut values: Vec<f32>, [rows, columns]: [usize; 2], device: &Device) -> Result<Vec<f32>> {
    let squares: f64 = values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    let scale = 1.0 / (squares.sqrt() as f32 + SMALLEST_NORM);
    for value in &mut values {
        *value *= scale;
    }
    let [a, b, c] = QUINTIC;
    let tall = rows > columns;
    let mut x: Tensor<2> = tensor(values, columns, device);
    if tall {
        x = x.transpose();
    }
    for _ in 0..ITERATIONS {
        let square = product_bt(&x, &x);
        let fourth = product(&square, &square);
        let mix = square.mul_scalar(b) + fourth.mul_scalar(c);
        let next = product(&mix, &x);
        x = x.mul_scalar(a) + next;
    }
    if tall {
        x = x.transpose();
    }
    Ok(Values::of(x)?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(kind: Kind, shape: [usize; 2], values: Vec<f32>) -> Param {
        Param { name: "w".into(), kind, shape, values }
    }

    #[test]
    fn the_learning_rate_rises_and_falls_as_written() {
        let settings =
            |decay, final_share| Settings { steps: 6, warmup: 2, decay, final_share, ..Settings::default() };
        let shares = |settings: &Settings| (1..=8).map(|step| schedule(settings, step)).collect::<Vec<_>>();
        assert_eq!(shares(&settings(Decay::Linear, 0.0)), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]);
        assert_eq!(shares(&settings(Decay::Linear, 0.5)), [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.5]);
        assert_eq!(shares(&settings(Decay::Constant, 0.0)), [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let cosine = shares(&settings(Decay::Cosine, 0.1));
        let expected = [0.5, 1.0, 1.0, 0.868_198, 0.55, 0.231_802, 0.1, 0.1];
        assert!(cosine.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{cosine:?}");
        let at_once = Settings { steps: 2, warmup: 0, ..Settings::default() };
        assert_eq!([1, 2, 3].map(|step| schedule(&at_once, step)), [1.0, 0.5, 0.0]);
        let never = Settings { steps: 2, warmup: 5, ..Settings::default() };
        assert_eq!([5, 6].map(|step| schedule(&never, step)), [1.0, 1.0]);
    }

    /// By hand: the first step of Adam is the rate in the gradient's direction.
    #[test]
    fn adamw_decays_and_moves() {
        let settings = Settings {
            rate: 0.1,
            weight_decay: 0.5,
            warmup: 0,
            epsilon: 1e-12,
            decay: Decay::Constant,
            ..Settings::default()
        };
        let mut params = [param(Kind::Matrix, [1, 2], vec![1.0, -2.0]), param(Kind::Gain, [1, 1], vec![1.0])];
        let mut states = states(&params, &settings);
        let gradients = vec![vec![4.0, -0.25], vec![1.0]];
        update(&mut params, &mut states, &gradients, 0.5, 1, &settings, &Device::flex()).expect("updates");
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(&params[0].values, &[1.0 * 0.95 - 0.1, -2.0 * 0.95 + 0.1]), "{params:?}");
        assert!(near(&params[1].values, &[0.9]), "{params:?}");
        assert!(near(&states[0].first, &[0.2, -0.0125]) && near(&states[0].second, &[0.2, 0.000_781_25]));
    }

    #[test]
    fn muon_brings_singular_values_near_one() {
        for shape in [[4, 9], [9, 4]] {
            let values: Vec<f32> = (0..36).map(|index| ((index * 7) % 11) as f32 - 5.0).collect();
            let device = Device::flex();
            let direction = orthogonal(values, shape, &device).expect("computes");
            let x = tensor(direction, shape[1], &device);
            let gram = if shape[0] < shape[1] {
                product_bt(&x, &x)
            } else {
                product_bt(&x.clone().transpose(), &x.transpose())
            };
            let gram = Values::of(gram).expect("read");
            for row in 0..4 {
                for column in 0..4 {
                    let value = gram[row * 4 + column];
                    let (low, high) = if row == column { (0.4, 1.6) } else { (-0.45, 0.45) };
                    assert!((low..=high).contains(&value), "{shape:?} {row} {column}: {value}");
                }
            }
        }
    }
}

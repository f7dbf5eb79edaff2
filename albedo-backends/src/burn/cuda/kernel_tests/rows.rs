//! Rows on their way through the model: embedded, normed, and sampled from.

use half::bf16;

use super::{distance, gpu, halves, numbers};
use crate::burn::cuda::device::Buffer;
use crate::burn::cuda::launch::{AddNorm, SlotSettings};
use crate::burn::cuda::products::Product;

#[test]
fn rows_are_embedded_and_normed() {
    let Some(gpu) = gpu() else { return };
    for width in [192, 2560, 5120] {
        let rows = 5;
        let table = halves(40 * width, 1, 1.0);
        let ids = [3_u32, 39, 0, 7, 7];
        let (residual, faults): (Buffer<f32>, Buffer<u32>) = (gpu.empty(rows * width), gpu.empty(rows));
        gpu.embed(&gpu.upload(&ids), &gpu.upload(&table), &residual, &faults, width).unwrap();
        let delta = halves(rows * width, 2, 1.0);
        let gain = numbers(width, 3);
        let out: Buffer<bf16> = gpu.empty(rows * width);
        let gain_on = gpu.upload(&gain);
        let add_norm = |delta: &[bf16], layer| {
            gpu.add_norm(&AddNorm {
                residual: &residual,
                delta: Some(&Product::Rounded(gpu.upload(delta))),
                gain: &gain_on,
                out: &out,
                faults: &faults,
                rows,
                eps: 1e-6,
                layer,
            })
            .unwrap();
        };
        add_norm(&delta, 4);
        let (sums, normed) = (gpu.read(&residual).unwrap(), gpu.read(&out).unwrap());
        for row in 0..rows {
            let expected: Vec<f64> = (0..width)
                .map(|at| table[ids[row] as usize * width + at].to_f64() + delta[row * width + at].to_f64())
                .collect();
            let at = row * width..(row + 1) * width;
            assert!(distance(sums[at.clone()].iter().copied(), expected.iter().copied()) < 1e-6);
            let scale = 1.0 / (expected.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-6).sqrt();
            let expected = expected.iter().zip(&gain).map(|(x, gain)| x * scale * f64::from(*gain));
            assert!(distance(normed[at].iter().map(|x| x.to_f32()), expected) < 3e-3);
        }
        assert_eq!(gpu.read(&faults).unwrap(), [u32::MAX; 5]);
        // A row that is not finite is found, and its first layer kept.
        let mut broken = delta.clone();
        broken[width + 3] = bf16::INFINITY;
        for layer in [6, 7] {
            add_norm(&broken, layer);
        }
        assert_eq!(gpu.read(&faults).unwrap(), [u32::MAX, 6, u32::MAX, u32::MAX, u32::MAX]);
    }
}

#[test]
fn tokens_are_chosen_as_on_the_cpu() {
    use albedo_core::Sampling;
    use albedo_core::rng::{Stream, Use};
    let Some(gpu) = gpu() else { return };
    let vocabulary = 5000;
    let settings =
        [(0.0, 1.0, 0), (1.0, 1.0, 0), (0.7, 0.95, 0), (0.7, 0.9, 40), (1.5, 1.0, 3), (0.3, 0.5, 0)];
    let rows = 60 * settings.len();
    // Few distinct values: ties are the hard part.
    let logits: Vec<f32> = numbers(rows * vocabulary, 1).iter().map(|x| (x * 40.0).round() / 8.0).collect();
    let sampling: Vec<Sampling> = (0..rows)
        .map(|row| {
            let (temperature, top_p, top_k) = settings[row % settings.len()];
            Sampling { temperature, top_p, top_k }
        })
        .collect();
    let seeds: Vec<u64> = (0..rows as u64).map(|row| row.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
    let lengths: Vec<u32> = (0..rows as u32).collect();
    let slots = SlotSettings {
        temperatures: gpu.upload(&sampling.iter().map(|s| s.temperature as f32).collect::<Vec<_>>()),
        top_ps: gpu.upload(&sampling.iter().map(|s| s.top_p as f32).collect::<Vec<_>>()),
        top_ks: gpu.upload(&sampling.iter().map(|s| s.top_k).collect::<Vec<_>>()),
        seeds: gpu.upload(&seeds.iter().flat_map(|&s| [s as u32, (s >> 32) as u32]).collect::<Vec<_>>()),
        lengths: gpu.upload(&lengths),
        tokens: gpu.empty(rows),
        positions: gpu.empty(rows),
    };
    let order: Vec<u32> = (0..rows as u32).rev().collect();
    let on = gpu.upload(
        &order
            .iter()
            .flat_map(|&slot| logits[slot as usize * vocabulary..][..vocabulary].to_vec())
            .collect::<Vec<_>>(),
    );
    let chosen: Buffer<u32> = gpu.empty(2 * rows);
    gpu.sample(&on, &gpu.upload(&order), &gpu.upload(&vec![u32::MAX; rows]), &slots, &chosen, vocabulary)
        .unwrap();
    let (chosen, tokens) = (gpu.read(&chosen).unwrap(), gpu.read(&slots.tokens).unwrap());
    let mut same = 0;
    for (row, &slot) in order.iter().enumerate() {
        let slot = slot as usize;
        let logits = &logits[slot * vocabulary..(slot + 1) * vocabulary];
        let unit = Stream::new(seeds[slot], Use::Token).unit_at(u64::from(lengths[slot]));
        let expected = crate::burn::sample::choose(logits, &sampling[slot], unit);
        assert_eq!(chosen[2 * row], tokens[slot]);
        same += usize::from(expected == tokens[slot]);
        if sampling[slot].temperature == 0.0 {
            assert_eq!(expected, tokens[slot], "greedy");
        }
    }
    println!("{same} of {rows} the same");
    // The CPU's weights have 53 bits, these 40.
    assert!(same >= rows - 3, "{same} of {rows}");
    assert_eq!(gpu.read(&slots.lengths).unwrap(), (1..=rows as u32).collect::<Vec<_>>());

    let mut broken = logits[..3 * vocabulary].to_vec();
    broken[vocabulary + 17] = f32::NAN;
    let targets = [7, u32::MAX, 4999];
    let out = gpu.upload(&[1.0_f32; 6]);
    gpu.log_prob(&gpu.upload(&broken), &gpu.upload(&targets), &out, vocabulary).unwrap();
    let out = gpu.read(&out).unwrap();
    assert_eq!(out[2..4], [1.0, 1.0]);
    for row in [0, 2] {
        let expected = crate::burn::sample::log_prob(&logits[row * vocabulary..][..vocabulary], targets[row]);
        let found = out[2 * row] - out[2 * row + 1].ln();
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
    let chosen: Buffer<u32> = gpu.empty(6);
    let faults = gpu.upload(&[u32::MAX, 12, u32::MAX]);
    gpu.sample(&gpu.upload(&broken), &gpu.upload(&[0_u32, 1, 2]), &faults, &slots, &chosen, vocabulary)
        .unwrap();
    let chosen = gpu.read(&chosen).unwrap();
    assert!(chosen[0] != u32::MAX && chosen[4] != u32::MAX);
    assert_eq!(chosen[2..4], [u32::MAX, 12]);
}

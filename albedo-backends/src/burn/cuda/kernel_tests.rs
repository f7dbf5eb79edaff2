//! The kernels against plain loops, on the first GPU; without one, every test
//! says so and passes.

use half::bf16;

use self::attention::cache;
use super::device::{Buffer, Gpu};
use super::launch::{AddNorm, Heads, WriteKv};
use super::products::{FewRows, Product, ProductSize};

mod attention;
mod rows;

/// The GPU, or nothing where there is none.
pub(super) fn gpu() -> Option<Gpu> {
    super::is_present().then(|| Gpu::open(0).unwrap())
}

/// Numbers in [-1, 1), the same for the same seed.
pub(super) fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let stream = albedo_core::rng::Stream::new(seed, albedo_core::rng::Use::Bootstrap);
    (0..len).map(|at| (stream.unit_at(at as u64) * 2.0 - 1.0) as f32).collect()
}

pub(super) fn halves(len: usize, seed: u64, scale: f32) -> Vec<bf16> {
    numbers(len, seed).into_iter().map(|x| bf16::from_f32(x * scale)).collect()
}

/// ‖a − b‖ / ‖b‖.
fn distance(a: impl IntoIterator<Item = f32>, b: impl IntoIterator<Item = f64>) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    for (a, b) in a.into_iter().zip(b) {
        off += (f64::from(a) - b).powi(2);
        all += b.powi(2);
    }
    (off / all).sqrt()
}

fn product_reference(x: &[bf16], weight: &[bf16], k: usize, width: usize) -> Vec<f64> {
    x.chunks_exact(k)
        .flat_map(|x| {
            (0..width).map(move |column| {
                let weight = &weight[column * k..(column + 1) * k];
                x.iter().zip(weight).map(|(x, w)| x.to_f64() * w.to_f64()).sum()
            })
        })
        .collect()
}

#[test]
fn a_product_of_few_rows_is_right_and_its_bits_do_not_depend_on_the_cut() {
    let Some(gpu) = gpu() else { return };
    for (k, width) in [(192, 320), (584, 200), (2560, 128), (9728, 72)] {
        let x = halves(130 * k, 2, 1.0);
        let x_on = gpu.upload(&x);
        for (split_k, gated) in [(1, false), (4, false), (8, false), (1, true)] {
            let outputs = if gated { 2 * width } else { width };
            let weight = halves(outputs * k, 1, 0.1);
            let weight_on = gpu.upload(&weight);
            let product = product_reference(&x, &weight, k, outputs);
            let expected: Vec<f64> = if gated { gated_reference(&product, width) } else { product };
            let mut first: Option<Vec<bf16>> = None;
            for (rows, tokens, columns, ahead) in CUTS {
                let size = ProductSize { rows, k, width, gated };
                let cut = FewRows { split_k, tokens, columns, ahead };
                let sums = gpu.upload(&vec![f32::NAN; split_k * rows * width + 2]);
                gpu.product_of_few(&weight_on, &x_on.first(rows * k), &sums, size, cut).unwrap();
                let sums = gpu.read(&sums).unwrap();
                let (sums, rest) = sums.split_at(split_k * rows * width);
                let case = format!("{k} × {width}, gated: {gated}, {rows} rows, {cut:?}");
                assert!(rest.iter().all(|x| x.is_nan()), "{case}: written outside");
                let values = rounded(sums, split_k);
                let off =
                    distance(values.iter().map(|x| x.to_f32()), expected[..rows * width].iter().copied());
                assert!(off < 4e-3, "{case}: {off}");
                let all = first.get_or_insert_with(|| values.clone());
                assert!(bits(&all[..rows * width]) == bits(&values), "{case}");
            }
            if split_k == 1 {
                // One chain of sums, as that of a product of many rows.
                let out: Buffer<bf16> = gpu.empty(130 * width);
                let size = ProductSize { rows: 130, k, width, gated };
                gpu.product_of_many(&weight_on, &x_on, &out, size, 256).unwrap();
                let values = gpu.read(&out).unwrap();
                assert!(bits(&values) == bits(&first.unwrap()), "{k} × {width}, gated: {gated}, many rows");
            }
        }
    }
}

/// Rows, and the cut of a product: tokens, columns, stages ahead; first the most rows.
const CUTS: [(usize, usize, usize, usize); 9] = [
    (130, 128, 80, 4),
    (1, 8, 80, 6),
    (8, 8, 48, 8),
    (11, 16, 192, 4),
    (32, 32, 16, 3),
    (50, 64, 256, 2),
    (64, 64, 80, 12),
    (100, 32, 128, 5),
    (128, 128, 48, 8),
];

/// `[count, values]` sums, added two and two.
fn rounded(sums: &[f32], count: usize) -> Vec<bf16> {
    if count == 1 {
        return sums.iter().copied().map(bf16::from_f32).collect();
    }
    let pairs: Vec<f32> = sums
        .chunks_exact(2 * sums.len() / count)
        .flat_map(|pair| {
            let (first, second) = pair.split_at(pair.len() / 2);
            first.iter().zip(second).map(|(first, second)| first + second)
        })
        .collect();
    rounded(&pairs, count / 2)
}

#[test]
fn a_product_with_split_k_is_read_as_the_rounded_one_is() {
    let Some(gpu) = gpu() else { return };
    let heads = Heads { queries: 4, kv: 2, dim: 64 };
    let rows = 3;
    // As wide as joined heads.
    let width = (heads.queries + 2 * heads.kv) * heads.dim;
    let gain = gpu.upload(&numbers(width, 1));
    let angles = gpu.upload(&numbers(200 * heads.dim / 2, 2));
    for count in [4, 8] {
        let sums = numbers(count * rows * width, 3 + count as u64);
        let products = [
            Product::Rounded(gpu.upload(&rounded(&sums, count))),
            Product::SplitK { sums: gpu.upload(&sums), count },
        ];
        let [rounded, split] = products.map(|product| {
            let residual = gpu.upload(&numbers(rows * width, 20));
            let normed: Buffer<bf16> = gpu.empty(rows * width);
            let faults = gpu.upload(&[u32::MAX; 3]);
            gpu.add_norm(&AddNorm {
                residual: &residual,
                delta: Some(&product),
                gain: &gain,
                out: &normed,
                faults: &faults,
                rows,
                eps: 1e-6,
                layer: 0,
            })
            .unwrap();
            let cache = cache(&gpu, heads, 192, &[5, 64, 130]);
            let queries: Buffer<bf16> = gpu.empty(rows * heads.queries * heads.dim);
            let gains = gain.first(heads.dim);
            gpu.qk_norm_rope_write_kv(&WriteKv {
                qkv: &product,
                gains: [&gains, &gains],
                angles: [&angles, &angles],
                places: &cache.places,
                queries: &queries,
                pool: &cache.pool,
                faults: &faults,
                rows,
                apart: true,
                eps: 1e-6,
                layer: 0,
                heads,
            })
            .unwrap();
            // In pages there are places that no row has, and these are not numbers.
            let bits = |rows: &Buffer<bf16>| bits(&gpu.read(rows).unwrap());
            let results = [normed, queries, cache.pool.keys, cache.pool.values];
            (gpu.read(&residual).unwrap(), results.each_ref().map(bits))
        });
        assert!(rounded == split, "{count} sums");
        assert!(rounded.0.iter().all(|x| x.is_finite()));
    }
}

/// Bits, of which those of what is not a number are equal to themselves, too.
fn bits(values: &[bf16]) -> Vec<u16> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_product_of_many_rows_is_right_and_its_bits_depend_on_the_row_alone() {
    let Some(gpu) = gpu() else { return };
    // Neither rows nor widths nor k are those of whole tiles, but for the last.
    for (rows, k, width) in
        [(1, 192, 200), (77, 584, 576), (300, 320, 72), (129, 1000, 2568), (257, 2560, 512)]
    {
        let x = halves(rows * k, 2, 1.0);
        let x_on = gpu.upload(&x);
        for gated in [false, true] {
            let outputs = if gated { 2 * width } else { width };
            let weight = halves(outputs * k, 1, 0.1);
            let weight_on = gpu.upload(&weight);
            let product = product_reference(&x, &weight, k, outputs);
            let expected: Vec<f64> = if gated { gated_reference(&product, width) } else { product };
            let mut first: Option<Vec<u16>> = None;
            let widths: &[usize] = if gated { &[256, 192] } else { &[256, 192, 160, 128] };
            for &columns in widths {
                // Rows of the middle alone, then all.
                for (from, count) in [(rows / 3, rows.div_ceil(5)), (0, rows)] {
                    let out = gpu.upload(&vec![bf16::NAN; rows * width + 8]);
                    let x_on = x_on.range(from * k, count * k);
                    let size = ProductSize { rows: count, k, width, gated };
                    gpu.product_of_many(&weight_on, &x_on, &out, size, columns).unwrap();
                    let values = gpu.read(&out).unwrap();
                    let (values, rest) = values.split_at(count * width);
                    let case = format!("{rows} × {k} × {width}, gated: {gated}, {columns}, from {from}");
                    assert!(rest.iter().all(|x| x.is_nan()), "{case}: written outside");
                    let expected = expected[from * width..(from + count) * width].iter().copied();
                    let off = distance(values.iter().map(|x| x.to_f32()), expected);
                    assert!(off < 4e-3, "{case}: {off}");
                    match &first {
                        None if count < rows => {}
                        None => first = Some(bits(values)),
                        Some(first) => {
                            assert!(bits(values) == first[from * width..(from + count) * width], "{case}");
                        }
                    }
                }
            }
            // The first rows alone, before all were known.
            let first = first.unwrap();
            let (from, count) = (rows / 3, rows.div_ceil(5));
            let out: Buffer<bf16> = gpu.empty(count * width);
            let size = ProductSize { rows: count, k, width, gated };
            let x_on = x_on.range(from * k, count * k);
            gpu.product_of_many(&weight_on, &x_on, &out, size, widths[0]).unwrap();
            assert!(bits(&gpu.read(&out).unwrap()) == first[from * width..(from + count) * width]);
        }
    }
}

/// `silu(gate) · up` of rows `[gate | up]` rounded to bf16.
fn gated_reference(product: &[f64], width: usize) -> Vec<f64> {
    let rounded = |x: f64| bf16::from_f64(x).to_f64();
    let row = |row: &[f64]| -> Vec<f64> {
        let (gate, up) = row.split_at(width);
        let both = gate.iter().zip(up).map(|(&gate, &up)| (rounded(gate), rounded(up)));
        both.map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
    };
    product.chunks_exact(2 * width).flat_map(row).collect()
}

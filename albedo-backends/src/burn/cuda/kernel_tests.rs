//! The kernels against plain loops, on the first GPU; without one, every test
//! says so and passes.

use half::bf16;

use super::device::{Buffer, Gpu};
use super::kernels::attention::prefill::TILE;
use super::kernels::attention::{key_at, value_at};
use super::launch::{Heads, Places, Pool, SlotSettings, splits};
use super::products::{FewRows, Product, ProductSize};

/// The GPU, or nothing where there is none.
pub(super) fn gpu() -> Option<Gpu> {
    super::is_present().then(|| Gpu::open(0).unwrap())
}

/// Numbers in [-1, 1), the same for the same seed.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
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
        for (shares, gated) in [(1, false), (4, false), (8, false), (1, true)] {
            let outputs = if gated { 2 * width } else { width };
            let weight = halves(outputs * k, 1, 0.1);
            let weight_on = gpu.upload(&weight);
            let product = product_reference(&x, &weight, k, outputs);
            let expected: Vec<f64> = if gated { gated_reference(&product, width) } else { product };
            let mut first: Option<Vec<bf16>> = None;
            for (rows, tokens, columns, ahead) in CUTS {
                let size = ProductSize { rows, k, width, gated };
                let cut = FewRows { shares, tokens, columns, ahead };
                let sums = gpu.upload(&vec![f32::NAN; shares * rows * width + 2]);
                gpu.product_of_few(&weight_on, &x_on.first(rows * k), &sums, size, cut).unwrap();
                let sums = gpu.read(&sums).unwrap();
                let (sums, rest) = sums.split_at(shares * rows * width);
                let case = format!("{k} × {width}, gated: {gated}, {rows} rows, {cut:?}");
                assert!(rest.iter().all(|x| x.is_nan()), "{case}: written outside");
                let values = rounded(sums, shares);
                let off =
                    distance(values.iter().map(|x| x.to_f32()), expected[..rows * width].iter().copied());
                assert!(off < 4e-3, "{case}: {off}");
                let all = first.get_or_insert_with(|| values.clone());
                assert!(bits(&all[..rows * width]) == bits(&values), "{case}");
            }
            if shares == 1 {
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

/// `[count, values]` sums of shares, added two and two.
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
fn a_product_in_shares_is_read_as_the_rounded_one_is() {
    let Some(gpu) = gpu() else { return };
    let heads = Heads { queries: 4, kv: 2, dim: 64 };
    let rows = 3;
    // As wide as joined heads.
    let width = (heads.queries + 2 * heads.kv) * heads.dim;
    let gain = gpu.upload(&numbers(width, 1));
    let angles = gpu.upload(&numbers(200 * heads.dim / 2, 2));
    for count in [4, 8] {
        let shares = numbers(count * rows * width, 3 + count as u64);
        let products = [
            Product::Rounded(gpu.upload(&rounded(&shares, count))),
            Product::InShares { sums: gpu.upload(&shares), count },
        ];
        let [rounded, shared] = products.map(|product| {
            let residual = gpu.upload(&numbers(rows * width, 20));
            let normed: Buffer<bf16> = gpu.empty(rows * width);
            let faults = gpu.upload(&[u32::MAX; 3]);
            gpu.add_norm(&residual, Some(&product), &gain, &normed, &faults, rows, 1e-6, 0).unwrap();
            let cache = cache(&gpu, heads, 192, &[5, 64, 130]);
            let queries: Buffer<bf16> = gpu.empty(rows * heads.queries * heads.dim);
            let gains = gain.first(heads.dim);
            gpu.qk_norm_rope_write_kv(
                &product,
                [&gains, &gains],
                [&angles, &angles],
                &cache.places,
                &queries,
                &cache.pool,
                &faults,
                rows,
                1e-6,
                0,
                heads,
            )
            .unwrap();
            // In pages there are places that no row has, and these are not numbers.
            let bits = |rows: &Buffer<bf16>| bits(&gpu.read(rows).unwrap());
            let results = [normed, queries, cache.pool.keys, cache.pool.values];
            (gpu.read(&residual).unwrap(), results.each_ref().map(bits))
        });
        assert!(rounded == shared, "{count} shares");
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

/// A sequence in shuffled pages, and its keys and values in plain order.
struct Cache {
    pool: Pool,
    places: Places,
    keys: Vec<bf16>,
    values: Vec<bf16>,
}

/// `len` positions of slot 1 of 2.
fn cache(gpu: &Gpu, heads: Heads, len: usize, rows: &[u32]) -> Cache {
    let pages = len.div_ceil(64);
    let order: Vec<u32> = (0..pages as u32).map(|page| (page * 7 + 3) % (pages as u32 + 5).max(11)).collect();
    let count = *order.iter().max().unwrap() as usize + 1;
    let (keys, values) =
        (halves(len * heads.kv * heads.dim, 5, 1.0), halves(len * heads.kv * heads.dim, 6, 1.0));
    // What no row sees must not matter: even if it is not a number; of values, if it is large.
    let mut key_pool = vec![bf16::NAN; count * heads.kv * 64 * heads.dim];
    let mut value_pool = vec![bf16::MAX; key_pool.len()];
    for position in 0..len {
        let page = order[position / 64] as usize;
        for head in 0..heads.kv {
            for at in 0..heads.dim {
                let from = (position * heads.kv + head) * heads.dim + at;
                let place = page * heads.kv + head;
                let first = place * 64 * heads.dim;
                key_pool[first + key_at(position % 64, at, heads.dim)] = keys[from];
                value_pool[first + value_at(position % 64, at, heads.dim)] = values[from];
            }
        }
    }
    let mut table = vec![0; 2 * pages];
    table[pages..].copy_from_slice(&order);
    Cache {
        pool: Pool { keys: gpu.upload(&key_pool), values: gpu.upload(&value_pool) },
        places: Places {
            positions: gpu.upload(rows),
            slots: gpu.upload(&vec![1_u32; rows.len()]),
            pages: gpu.upload(&table),
            stride: pages,
        },
        keys,
        values,
    }
}

fn attention_reference(query: &[bf16], cache: &Cache, heads: Heads, position: usize) -> Vec<f64> {
    let group = heads.queries / heads.kv;
    (0..heads.queries)
        .flat_map(|head| {
            let query = &query[head * heads.dim..(head + 1) * heads.dim];
            let row = |values: &[bf16], key: usize| {
                let from = (key * heads.kv + head / group) * heads.dim;
                values[from..from + heads.dim].iter().map(|x| x.to_f64()).collect::<Vec<_>>()
            };
            let weights: Vec<f64> = (0..=position)
                .map(|key| {
                    let dot: f64 = row(&cache.keys, key).iter().zip(query).map(|(k, q)| k * q.to_f64()).sum();
                    (dot / (heads.dim as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; heads.dim];
            for (key, weight) in weights.iter().enumerate() {
                for (mixed, value) in mixed.iter_mut().zip(row(&cache.values, key)) {
                    *mixed += weight / total * value;
                }
            }
            mixed
        })
        .collect()
}

const SHAPES: [Heads; 4] = [
    Heads { queries: 6, kv: 2, dim: 32 },
    Heads { queries: 4, kv: 1, dim: 64 },
    Heads { queries: 8, kv: 2, dim: 128 },
    Heads { queries: 5, kv: 1, dim: 128 },
];

#[test]
fn attention_of_single_rows_is_right_and_its_bits_do_not_depend_on_how_many_there_are() {
    let Some(gpu) = gpu() else { return };
    for heads in SHAPES {
        let positions = [0, 1, 31, 32, 63, 64, 255, 256, 511, 512, 700];
        let len = 701;
        let width = heads.queries * heads.dim;
        let one = halves(positions.len() * width, 9, 1.0);
        let mut first: Option<Vec<u16>> = None;
        // So many that a cube takes two splits of each.
        for times in [1, 30] {
            let rows = positions.repeat(times);
            let queries = one.repeat(times);
            let cache = cache(&gpu, heads, len, &rows);
            let split = splits(len - 1);
            let out = gpu.upload(&vec![bf16::NAN; rows.len() * width]);
            let partial = gpu.upload(&vec![f32::NAN; rows.len() * width * split]);
            let stats = gpu.upload(&vec![f32::NAN; rows.len() * heads.queries * split * 2]);
            gpu.attend_rows(
                &gpu.upload(&queries),
                &cache.pool,
                &cache.places,
                &partial,
                &stats,
                &out,
                rows.len(),
                split,
                heads,
            )
            .unwrap();
            let values = gpu.read(&out).unwrap();
            for (row, &position) in positions.iter().enumerate() {
                let at = row * width..(row + 1) * width;
                let expected = attention_reference(&one[at.clone()], &cache, heads, position as usize);
                let off = distance(values[at].iter().map(|x| x.to_f32()), expected);
                assert!(off < 6e-3, "{heads:?}, row at {position}: {off}");
            }
            let first = first.get_or_insert_with(|| bits(&values[..one.len()]));
            assert!(
                values.chunks_exact(one.len()).all(|some| bits(some) == *first),
                "{heads:?}, {times} times"
            );
        }
    }
}

#[test]
fn attention_of_tiles_is_right_and_its_bits_do_not_depend_on_the_cut() {
    let Some(gpu) = gpu() else { return };
    for heads in SHAPES {
        let len = 300;
        let width = heads.queries * heads.dim;
        let positions: Vec<u32> = (0..len as u32).collect();
        let queries = halves(len * width, 9, 1.0);
        let cache = cache(&gpu, heads, len, &positions);
        let mut first: Option<Vec<bf16>> = None;
        for cut in [TILE, 100, 64, 17, 1] {
            let firsts = (0..len).step_by(cut).rev();
            let tiles: Vec<u32> =
                firsts.flat_map(|at| [at as u32, cut.min(len - at) as u32, at as u32, 1]).collect();
            let out: Buffer<bf16> = gpu.upload(&vec![bf16::NAN; len * width]);
            gpu.attend_tiles(
                &gpu.upload(&queries),
                &cache.pool,
                &cache.places,
                &gpu.upload(&tiles),
                &out,
                len,
                heads,
            )
            .unwrap();
            let values = gpu.read(&out).unwrap();
            for position in [0, 1, 15, 16, 63, 64, 127, 128, 200, 299] {
                let at = position * width..(position + 1) * width;
                let expected = attention_reference(&queries[at.clone()], &cache, heads, position);
                let off = distance(values[at].iter().map(|x| x.to_f32()), expected);
                assert!(off < 6e-3, "{heads:?}, cut by {cut}, row at {position}: {off}");
            }
            assert!(
                bits(first.get_or_insert_with(|| values.clone())) == bits(&values),
                "{heads:?}, cut by {cut}"
            );
        }
    }
}

#[test]
fn rows_are_embedded_and_normed() {
    let Some(gpu) = gpu() else { return };
    for width in [192, 2560, 5120] {
        let (rows, eps) = (5, 1e-6);
        let table = halves(40 * width, 1, 1.0);
        let ids = [3_u32, 39, 0, 7, 7];
        let (residual, faults): (Buffer<f32>, Buffer<u32>) = (gpu.empty(rows * width), gpu.empty(rows));
        gpu.embed(&gpu.upload(&ids), &gpu.upload(&table), &residual, &faults, width).unwrap();
        let delta = halves(rows * width, 2, 1.0);
        let gain = numbers(width, 3);
        let out: Buffer<bf16> = gpu.empty(rows * width);
        gpu.add_norm(
            &residual,
            Some(&Product::Rounded(gpu.upload(&delta))),
            &gpu.upload(&gain),
            &out,
            &faults,
            rows,
            eps,
            4,
        )
        .unwrap();
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
            gpu.add_norm(
                &residual,
                Some(&Product::Rounded(gpu.upload(&broken))),
                &gpu.upload(&gain),
                &out,
                &faults,
                rows,
                eps,
                layer,
            )
            .unwrap();
        }
        assert_eq!(gpu.read(&faults).unwrap(), [u32::MAX, 6, u32::MAX, u32::MAX, u32::MAX]);
    }
}

#[test]
fn every_value_of_a_page_has_its_own_place() {
    for dim in [32, 64, 128] {
        let all = || (0..64).flat_map(|offset| (0..dim).map(move |at| (offset, at)));
        let places = |place: fn(usize, usize, usize) -> usize| {
            let mut places: Vec<usize> = all().map(|(offset, at)| place(offset, at, dim)).collect();
            places.sort_unstable();
            places
        };
        let expected: Vec<usize> = (0..64 * dim).collect();
        assert_eq!(places(key_at), expected);
        assert_eq!(places(value_at), expected);
    }
}

#[test]
fn heads_are_normed_rotated_and_stored() {
    let Some(gpu) = gpu() else { return };
    for heads in SHAPES {
        let (dim, all) = (heads.dim, heads.queries + 2 * heads.kv);
        let rows = [5_u32, 64, 130];
        let mut qkv = halves(rows.len() * all * dim, 1, 1.0);
        let gains = [numbers(dim, 2), numbers(dim, 3)];
        let (cosines, sines) = (numbers(200 * dim / 2, 4), numbers(200 * dim / 2, 5));
        let cache = cache(&gpu, heads, 192, &rows);
        let queries: Buffer<bf16> = gpu.empty(rows.len() * heads.queries * dim);
        // One value of the second row is not a number.
        let last = 2 * all * dim - 1;
        qkv[last] = bf16::NEG_INFINITY;
        let faults = gpu.upload(&[u32::MAX; 3]);
        gpu.qk_norm_rope_write_kv(
            &Product::Rounded(gpu.upload(&qkv)),
            [&gpu.upload(&gains[0]), &gpu.upload(&gains[1])],
            [&gpu.upload(&cosines), &gpu.upload(&sines)],
            &cache.places,
            &queries,
            &cache.pool,
            &faults,
            rows.len(),
            1e-6,
            9,
            heads,
        )
        .unwrap();
        assert_eq!(gpu.read(&faults).unwrap(), [u32::MAX, 9, u32::MAX]);
        qkv[last] = bf16::ZERO;
        let (queries, keys, values) = (
            gpu.read(&queries).unwrap(),
            gpu.read(&cache.pool.keys).unwrap(),
            gpu.read(&cache.pool.values).unwrap(),
        );
        let table = gpu.read(&cache.places.pages).unwrap();
        for (row, &position) in rows.iter().enumerate() {
            let position = position as usize;
            let place = table[3 + position / 64] as usize * heads.kv;
            for head in 0..all {
                let x = &qkv[(row * all + head) * dim..(row * all + head + 1) * dim];
                if head >= heads.queries + heads.kv {
                    let place = place + head - heads.queries - heads.kv;
                    for at in 0..dim {
                        assert_eq!(values[place * 64 * dim + value_at(position % 64, at, dim)], x[at]);
                    }
                    continue;
                }
                let gain = &gains[usize::from(head >= heads.queries)];
                let scale =
                    1.0 / (x.iter().map(|x| x.to_f64().powi(2)).sum::<f64>() / dim as f64 + 1e-6).sqrt();
                let normed: Vec<f64> =
                    x.iter().zip(gain).map(|(x, gain)| x.to_f64() * scale * f64::from(*gain)).collect();
                let expected = (0..dim).map(|at| {
                    let pair = at % (dim / 2);
                    let (cosine, sine) =
                        (cosines[position * dim / 2 + pair], sines[position * dim / 2 + pair]);
                    let other = if at < dim / 2 { -normed[at + dim / 2] } else { normed[at - dim / 2] };
                    normed[at] * f64::from(cosine) + other * f64::from(sine)
                });
                let found = (0..dim).map(|at| match head.checked_sub(heads.queries) {
                    None => queries[(row * heads.queries + head) * dim + at],
                    Some(head) => keys[(place + head) * 64 * dim + key_at(position % 64, at, dim)],
                });
                let off = distance(found.map(bf16::to_f32), expected);
                assert!(off < 4e-3, "{heads:?} row {row} head {head}: {off}");
            }
        }
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

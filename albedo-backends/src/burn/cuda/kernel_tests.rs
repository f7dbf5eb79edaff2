//! The kernels against plain loops, on the first GPU; without one, every test
//! says so and passes.

use cubek::matmul::kernels::CubeStagedMatmulRoutine;
use cubek::std::Hardware;
use cubek::std::routine::Routine;
use half::bf16;

use super::device::{Buffer, Gpu};
use super::kernels::attention::{TILE, key_at, value_at};
use super::launch::{Heads, Places, Pool, SlotSettings, splits};
use super::products::{FewRows, Product};
use super::settings::cut;

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
fn a_product_of_few_rows_is_right_and_its_bits_do_not_depend_on_the_settings() {
    let Some(gpu) = gpu() else { return };
    for (k, width) in [(192, 320), (584, 200), (2560, 128), (9728, 72)] {
        let weight = halves(k * width, 1, 0.1);
        let x = halves(128 * k, 2, 1.0);
        let (weight_on, x_on) = (gpu.upload(&weight), gpu.upload(&x));
        let expected = product_reference(&x, &weight, k, width);
        let sums: Buffer<f32> = gpu.empty(8 * 128 * width);
        let launch = |(few, rows): (FewRows, usize), out: &Buffer<f32>| {
            gpu.product_of_few(&weight_on, &x_on, out, rows, k, width, few)
        };
        gpu.compile(|| CUTS.into_iter().try_for_each(|cut| launch(cut, &sums))).unwrap();
        let mut first: Option<Vec<bf16>> = None;
        for (few, rows) in CUTS {
            let count = few.count();
            let sums = gpu.upload(&vec![f32::NAN; count * rows * width]);
            launch((few, rows), &sums).unwrap();
            let sums = gpu.read(&sums).unwrap();
            assert!(sums.iter().all(|sum| sum.is_finite()), "{k} × {width}, {few:?}");
            if count == 1 {
                let off = distance(sums.iter().copied(), expected[..rows * width].iter().copied());
                assert!(off < 1e-5, "{k} × {width}, {few:?}: {off}");
            }
            let values = rounded(&sums, count);
            let all = first.get_or_insert_with(|| values.clone());
            assert!(all[..rows * width] == values, "{k} × {width}, {few:?}");
        }
    }
}

/// Cuts of a product, and a number of rows; first the most.
const CUTS: [(FewRows, usize); 10] = [
    (cut(2, 2, 2, 4, 8, 3), 128),
    (cut(4, 1, 1, 1, 8, 3), 8),
    (cut(2, 1, 2, 1, 1, 4), 11),
    (cut(4, 1, 1, 2, 4, 2), 16),
    (cut(4, 1, 1, 4, 8, 2), 32),
    (cut(8, 1, 1, 4, 2, 1), 50),
    (cut(4, 2, 1, 8, 4, 4), 77),
    (cut(2, 2, 2, 4, 1, 3), 127),
    (cut(2, 4, 2, 4, 2, 5), 100),
    (cut(1, 2, 2, 4, 8, 8), 65),
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
    // As wide as joined heads, and as gate and up.
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
            let (normed, activated): (Buffer<bf16>, Buffer<bf16>) =
                (gpu.empty(rows * width), gpu.empty(rows * width / 2));
            let faults = gpu.upload(&[u32::MAX; 3]);
            gpu.add_norm(&residual, Some(&product), &gain, &normed, &faults, rows, 1e-6, 0).unwrap();
            gpu.silu_mul(&product, &activated, rows, width / 2).unwrap();
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
                rows,
                1e-6,
                heads,
            )
            .unwrap();
            // In pages there are places that no row has, and these are not numbers.
            let bits =
                |rows: &Buffer<bf16>| gpu.read(rows).unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let results = [normed, activated, queries, cache.pool.keys, cache.pool.values];
            (gpu.read(&residual).unwrap(), results.each_ref().map(bits))
        });
        assert!(rounded == shared, "{count} shares");
        assert!(rounded.0.iter().all(|x| x.is_finite()));
    }
}

#[test]
fn a_product_of_many_rows_is_right() {
    let Some(gpu) = gpu() else { return };
    let hardware = Hardware::from_client(gpu.client());
    let (k, width) = (2560, 512);
    let weight = halves(k * width, 1, 0.1);
    let x = halves(300 * k, 2, 1.0);
    let (weight_on, x_on) = (gpu.upload(&weight), gpu.upload(&x));
    let expected = product_reference(&x[..4 * k], &weight, k, width);
    let mut ran = 0;
    for settings in CubeStagedMatmulRoutine.settings(&hardware).iter().take(6) {
        for rows in [7, 64, 300] {
            let out: Buffer<bf16> = gpu.empty(rows * width);
            if let Err(error) = gpu.product_many(&hardware, &weight_on, &x_on, &out, rows, k, width, settings)
            {
                println!("{settings:?}: {error}");
                continue;
            }
            let values = gpu.read(&out).unwrap();
            let off = distance(values[..4 * width].iter().map(|x| x.to_f32()), expected.iter().copied());
            assert!(off < 3e-3, "{rows} rows, {settings:?}: {off}");
            ran += 1;
        }
    }
    assert!(ran > 0);
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
    // What no row sees must not matter, even if it is not a number.
    let mut key_pool = vec![bf16::NAN; count * heads.kv * 64 * heads.dim];
    let mut value_pool = key_pool.clone();
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
fn attention_of_single_rows_is_right() {
    let Some(gpu) = gpu() else { return };
    for heads in SHAPES {
        let rows = [0, 1, 31, 32, 63, 64, 255, 256, 700];
        let len = 701;
        let width = heads.queries * heads.dim;
        let queries = halves(rows.len() * width, 9, 1.0);
        let cache = cache(&gpu, heads, len, &rows);
        let split = splits(len - 1);
        let out: Buffer<bf16> = gpu.empty(rows.len() * width);
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
        for (row, &position) in rows.iter().enumerate() {
            let expected = attention_reference(
                &queries[row * width..(row + 1) * width],
                &cache,
                heads,
                position as usize,
            );
            let off = distance(values[row * width..(row + 1) * width].iter().map(|x| x.to_f32()), expected);
            assert!(off < 6e-3, "{heads:?}, row at {position}: {off}");
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
            let tiles: Vec<u32> =
                (0..len).step_by(cut).flat_map(|at| [at as u32, cut.min(len - at) as u32]).collect();
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
            let bits = |values: &[bf16]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(
                bits(first.get_or_insert_with(|| values.clone())) == bits(&values),
                "{heads:?}, cut by {cut}"
            );
        }
    }
}

#[test]
fn rows_are_embedded_normed_and_activated() {
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

        let gate_up = halves(rows * 2 * width, 8, 4.0);
        gpu.silu_mul(&Product::Rounded(gpu.upload(&gate_up)), &out, rows, width).unwrap();
        let expected = gate_up.chunks_exact(2 * width).flat_map(|row| {
            let (gate, up) = row.split_at(width);
            gate.iter().zip(up).map(|(g, u)| g.to_f64() / (1.0 + (-g.to_f64()).exp()) * u.to_f64())
        });
        assert!(distance(gpu.read(&out).unwrap().iter().map(|x| x.to_f32()), expected) < 3e-3);
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
        let qkv = halves(rows.len() * all * dim, 1, 1.0);
        let gains = [numbers(dim, 2), numbers(dim, 3)];
        let (cosines, sines) = (numbers(200 * dim / 2, 4), numbers(200 * dim / 2, 5));
        let cache = cache(&gpu, heads, 192, &rows);
        let queries: Buffer<bf16> = gpu.empty(rows.len() * heads.queries * dim);
        gpu.qk_norm_rope_write_kv(
            &Product::Rounded(gpu.upload(&qkv)),
            [&gpu.upload(&gains[0]), &gpu.upload(&gains[1])],
            [&gpu.upload(&cosines), &gpu.upload(&sines)],
            &cache.places,
            &queries,
            &cache.pool,
            rows.len(),
            1e-6,
            heads,
        )
        .unwrap();
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
    let seeds: Vec<u64> = (0..rows as u64).map(|row| row * 0x9E37_79B9_7F4A_7C15).collect();
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

//! The kernels against plain loops, on the first GPU; without one, every test
//! says so and passes.

use half::bf16;

use super::device::{Buffer, Gpu};
use super::kernels::attention::prefill::TILE;
use super::kernels::attention::{key_at, value_at};
use super::kernels::codes::{key_code_at, page_words, value_code_at};
use super::launch::{Heads, Places, Pool, SlotSettings, Stored, splits};
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
struct Cache<T> {
    pool: Pool<T>,
    places: Places,
    keys: Vec<f64>,
    values: Vec<f64>,
}

/// Pages of `len` positions in no order, and how many pages a pool needs for them.
fn shuffled(len: usize) -> (Vec<u32>, usize) {
    let pages = len.div_ceil(64) as u32;
    let order: Vec<u32> = (0..pages).map(|page| (page * 7 + 3) % (pages + 5).max(11)).collect();
    let count = *order.iter().max().unwrap() as usize + 1;
    (order, count)
}

/// Rows at positions `rows` of slot 1 of 2, whose pages are `order`.
fn places(gpu: &Gpu, order: &[u32], rows: &[u32]) -> Places {
    let mut table = vec![0; 2 * order.len()];
    table[order.len()..].copy_from_slice(order);
    Places {
        positions: gpu.upload(rows),
        slots: gpu.upload(&vec![1_u32; rows.len()]),
        pages: gpu.upload(&table),
        stride: order.len(),
    }
}

/// `len` positions of slot 1 of 2.
fn cache(gpu: &Gpu, heads: Heads, len: usize, rows: &[u32]) -> Cache<bf16> {
    let (order, count) = shuffled(len);
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
    let wide = |values: Vec<bf16>| values.into_iter().map(bf16::to_f64).collect();
    Cache {
        pool: Pool { keys: gpu.upload(&key_pool), values: gpu.upload(&value_pool) },
        places: places(gpu, &order, rows),
        keys: wide(keys),
        values: wide(values),
    }
}

/// Pages of codes on the host, and what they stand for.
struct Codes {
    words: Vec<u32>,
    dim: usize,
}

impl Codes {
    /// Codes and factors of what no row sees: large ones.
    fn new(places: usize, dim: usize) -> Self {
        Self { words: [f32::MAX.to_bits()].repeat(places * page_words(dim)), dim }
    }

    /// The byte `at` of place `place`.
    fn byte(&mut self, place: usize, at: usize) -> (&mut u32, u32) {
        (&mut self.words[place * page_words(self.dim) + at / 4], 8 * (at % 4) as u32)
    }

    fn set(&mut self, place: usize, at: usize, code: i8) {
        let (word, shift) = self.byte(place, at);
        let byte = code.unsigned_abs() | (u8::from(code < 0) << 7);
        *word = (*word & !(255 << shift)) | (u32::from(byte) << shift);
    }

    fn get(&mut self, place: usize, at: usize) -> i8 {
        let (word, shift) = self.byte(place, at);
        let byte = (*word >> shift) as u8;
        let size = (byte & 127) as i8;
        if byte > 127 { -size } else { size }
    }

    fn factor(&mut self, place: usize, offset: usize) -> &mut u32 {
        &mut self.words[place * page_words(self.dim) + 16 * self.dim + offset]
    }
}

/// `len` positions of slot 1 of 2, in codes; among them are all codes there are.
fn coded(gpu: &Gpu, heads: Heads, len: usize, rows: &[u32]) -> Cache<u32> {
    let (order, count) = shuffled(len);
    let (kv, dim) = (heads.kv, heads.dim);
    let mut pools = [Codes::new(count * kv, dim), Codes::new(count * kv, dim)];
    let mut plain = [Vec::new(), Vec::new()];
    for (side, (pool, plain)) in pools.iter_mut().zip(&mut plain).enumerate() {
        for position in 0..len {
            for head in 0..kv {
                let place = order[position / 64] as usize * kv + head;
                let factor = (1 + (position * 5 + head + side) % 7) as f32 / 500.0;
                *pool.factor(place, position % 64) = factor.to_bits();
                for at in 0..dim {
                    let code = ((position * 31 + at * 89 + head * 13 + at * position) % 255) as i16 - 127;
                    let to = match side {
                        0 => key_code_at(position % 64, at),
                        _ => value_code_at(position % 64, at, dim),
                    };
                    pool.set(place, to, code as i8);
                    plain.push(f64::from(code) * f64::from(factor));
                }
            }
        }
    }
    let [keys, values] = pools.map(|pool| gpu.upload(&pool.words));
    let [plain_keys, plain_values] = plain;
    Cache {
        pool: Pool { keys, values },
        places: places(gpu, &order, rows),
        keys: plain_keys,
        values: plain_values,
    }
}

fn attention_reference<T>(query: &[bf16], cache: &Cache<T>, heads: Heads, position: usize) -> Vec<f64> {
    let group = heads.queries / heads.kv;
    (0..heads.queries)
        .flat_map(|head| {
            let query = &query[head * heads.dim..(head + 1) * heads.dim];
            let row = |values: &[f64], key: usize| {
                let from = (key * heads.kv + head / group) * heads.dim;
                values[from..from + heads.dim].to_vec()
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
        single_rows(&gpu, heads, cache);
        single_rows(&gpu, heads, coded);
    }
}

fn single_rows<T: Stored>(gpu: &Gpu, heads: Heads, cache: fn(&Gpu, Heads, usize, &[u32]) -> Cache<T>) {
    let positions = [0, 1, 31, 32, 63, 64, 255, 256, 511, 512, 700];
    let len = 701;
    let width = heads.queries * heads.dim;
    let one = halves(positions.len() * width, 9, 1.0);
    let mut first: Option<Vec<u16>> = None;
    // So many that a cube takes two splits of each.
    for times in [1, 30] {
        let rows = positions.repeat(times);
        let queries = one.repeat(times);
        let cache = cache(gpu, heads, len, &rows);
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
            assert!(off < 6e-3, "{heads:?}, codes: {}, row at {position}: {off}", T::CODES);
        }
        let first = first.get_or_insert_with(|| bits(&values[..one.len()]));
        assert!(
            values.chunks_exact(one.len()).all(|some| bits(some) == *first),
            "{heads:?}, codes: {}, {times} times",
            T::CODES
        );
    }
}

/// Every code times its factor, rounded once, at its place in a page of bf16.
#[test]
fn codes_are_widened_exactly() {
    let Some(gpu) = gpu() else { return };
    for heads in SHAPES {
        let (kv, dim, len) = (heads.kv, heads.dim, 190);
        let cache = coded(&gpu, heads, len, &[0]);
        let (order, _) = shuffled(len);
        // A page more than there is room for must not be written.
        let from = gpu.upload(&order);
        let room = vec![bf16::NAN; (order.len() + 1) * kv * 64 * dim];
        let wide = Pool { keys: gpu.upload(&room), values: gpu.upload(&room) };
        gpu.widen_pages(&cache.pool, &from, &wide, heads).unwrap();
        let (keys, values) = (gpu.read(&wide.keys).unwrap(), gpu.read(&wide.values).unwrap());
        for (at, (&key, &value)) in cache.keys.iter().zip(&cache.values).enumerate() {
            let (position, head, at) = (at / dim / kv, at / dim % kv, at % dim);
            let page = (position / 64 * kv + head) * 64 * dim;
            let found = (
                keys[page + key_at(position % 64, at, dim)],
                values[page + value_at(position % 64, at, dim)],
            );
            // The product of a code and a factor is rounded to f32 first.
            let rounded = |x: f64| bf16::from_f32(x as f32);
            assert_eq!(found, (rounded(key), rounded(value)), "{heads:?}, {position}, {head}, {at}");
        }
        let written = order.len() * kv * 64 * dim;
        assert!(keys[written..].iter().chain(&values[written..]).all(|x| x.is_nan()), "{heads:?}");
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
fn every_code_has_its_own_place() {
    for dim in [32, 64, 128] {
        let all = || (0..64).flat_map(|offset| (0..dim).map(move |at| (offset, at)));
        let mut keys: Vec<usize> = all().map(|(offset, at)| key_code_at(offset, at)).collect();
        let mut values: Vec<usize> = all().map(|(offset, at)| value_code_at(offset, at, dim)).collect();
        keys.sort_unstable();
        values.sort_unstable();
        let expected: Vec<usize> = (0..64 * dim).collect();
        assert_eq!((&keys, &values), (&expected, &expected));
    }
}

/// Codes are those of the row's values in f64, by a factor of the row alone: also where
/// eight rows are written together, and where values are not numbers, or all 0.
#[test]
fn heads_are_stored_as_codes() {
    let Some(gpu) = gpu() else { return };
    for heads in SHAPES {
        let (dim, all) = (heads.dim, heads.queries + 2 * heads.kv);
        // Eight that follow each other from a multiple of eight on, and some that do not.
        let rows: Vec<u32> = (40..48).chain([64, 130, 131]).collect();
        let mut qkv = halves(rows.len() * all * dim, 1, 1.0);
        let row = all * dim;
        qkv[9 * row..10 * row].fill(bf16::ZERO);
        // The last value, and a value of the first key, of the last row.
        let broken = [11 * row - 1, 10 * row + heads.queries * dim + 3];
        for at in broken {
            qkv[at] = bf16::INFINITY;
        }
        let gains = [numbers(dim, 2), numbers(dim, 3)];
        let (cosines, sines) = (numbers(200 * dim / 2, 4), numbers(200 * dim / 2, 5));
        let on = [&gains[0], &gains[1], &cosines, &sines].map(|values| gpu.upload(values));
        let run = |from: usize, count: usize| {
            let cache = coded(&gpu, heads, 192, &rows[from..from + count]);
            let queries: Buffer<bf16> = gpu.empty(count * heads.queries * dim);
            let faults = gpu.upload(&vec![u32::MAX; count]);
            gpu.qk_norm_rope_write_kv(
                &Product::Rounded(gpu.upload(&qkv[from * row..(from + count) * row])),
                [&on[0], &on[1]],
                [&on[2], &on[3]],
                &cache.places,
                &queries,
                &cache.pool,
                &faults,
                count,
                1e-6,
                9,
                heads,
            )
            .unwrap();
            let [keys, values] = [&cache.pool.keys, &cache.pool.values]
                .map(|pool| Codes { words: gpu.read(pool).unwrap(), dim });
            (keys, values, gpu.read(&faults).unwrap(), gpu.read(&cache.places.pages).unwrap())
        };
        let (mut keys, mut values, faults, table) = run(0, rows.len());
        assert_eq!(faults, [[u32::MAX; 10].as_slice(), &[9]].concat(), "{heads:?}");
        for (index, &position) in rows.iter().enumerate() {
            let (mut alone_keys, mut alone_values, ..) = run(index, 1);
            let position = position as usize;
            let offset = position % 64;
            for head in 0..heads.kv {
                let place = table[3 + position / 64] as usize * heads.kv + head;
                let x = |head: usize| &qkv[index * row + head * dim..][..dim];
                let key = x(heads.queries + head);
                let scale =
                    1.0 / (key.iter().map(|x| x.to_f64().powi(2)).sum::<f64>() / dim as f64 + 1e-6).sqrt();
                let normed: Vec<f64> = key
                    .iter()
                    .zip(&gains[1])
                    .map(|(x, gain)| x.to_f64() * scale * f64::from(*gain))
                    .collect();
                let rotated: Vec<f64> = (0..dim)
                    .map(|at| {
                        let angle = position * dim / 2 + at % (dim / 2);
                        let other = if at < dim / 2 { -normed[at + dim / 2] } else { normed[at - dim / 2] };
                        normed[at] * f64::from(cosines[angle]) + other * f64::from(sines[angle])
                    })
                    .collect();
                let value: Vec<f64> = x(heads.queries + heads.kv + head).iter().map(|x| x.to_f64()).collect();
                type Place = fn(usize, usize, usize) -> usize;
                let sides: [(&mut Codes, &mut Codes, Vec<f64>, Place); 2] = [
                    (&mut keys, &mut alone_keys, rotated, |offset, at, _| key_code_at(offset, at)),
                    (&mut values, &mut alone_values, value, |offset, at, dim| value_code_at(offset, at, dim)),
                ];
                for (pool, alone, row, to) in sides {
                    let case = format!("{heads:?} row {index} head {head}");
                    let factor = f64::from(f32::from_bits(*pool.factor(place, offset)));
                    assert_eq!(*alone.factor(place, offset), *pool.factor(place, offset), "{case}");
                    let finite = row.iter().all(|x| x.is_finite());
                    if finite {
                        let largest = row.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
                        assert!((factor * 127.0 - largest).abs() <= 1e-5 * largest, "{case}: {factor}");
                    }
                    for (at, x) in row.iter().enumerate() {
                        let code = pool.get(place, to(offset, at, dim));
                        assert_eq!(alone.get(place, to(offset, at, dim)), code, "{case}");
                        if finite {
                            let off = (f64::from(code) * factor - x).abs();
                            assert!(off <= 0.501 * factor, "{case}: {code} for {x} by {factor}");
                        }
                    }
                    assert!(factor.is_finite(), "{case}");
                }
            }
        }
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

//! Keys and values in pages, as bf16 and as codes, and attention over them.

use half::bf16;

use super::{bits, distance, gpu, halves, numbers};
use crate::burn::cuda::device::{Buffer, Gpu};
use crate::burn::cuda::kernels::attention::prefill::TILE;
use crate::burn::cuda::kernels::attention::{key_at, value_at};
use crate::burn::cuda::kernels::codes::{key_code_at, page_words, value_code_at};
use crate::burn::cuda::launch::{AttendRows, AttendTiles, Heads, Places, Pool, Stored, WriteKv, splits};
use crate::burn::cuda::products::Product;

/// A sequence in shuffled pages, and its keys and values in plain order.
pub(super) struct Cache<T> {
    pub(super) pool: Pool<T>,
    pub(super) places: Places,
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
pub(super) fn cache(gpu: &Gpu, heads: Heads, len: usize, rows: &[u32]) -> Cache<bf16> {
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
        let splits = splits(len - 1);
        let out = gpu.upload(&vec![bf16::NAN; rows.len() * width]);
        let partial = gpu.upload(&vec![f32::NAN; rows.len() * width * splits]);
        let stats = gpu.upload(&vec![f32::NAN; rows.len() * heads.queries * splits * 2]);
        gpu.attend_rows(&AttendRows {
            queries: &gpu.upload(&queries),
            pool: &cache.pool,
            places: &cache.places,
            partial: &partial,
            stats: &stats,
            out: &out,
            rows: rows.len(),
            splits,
            heads,
        })
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
            gpu.attend_tiles(&AttendTiles {
                queries: &gpu.upload(&queries),
                pool: &cache.pool,
                places: &cache.places,
                tiles: &gpu.upload(&tiles),
                out: &out,
                rows: len,
                heads,
            })
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
        let run = |from: usize, count: usize, apart: bool| {
            let cache = coded(&gpu, heads, 192, &rows[from..from + count]);
            let queries: Buffer<bf16> = gpu.empty(count * heads.queries * dim);
            let faults = gpu.upload(&vec![u32::MAX; count]);
            gpu.qk_norm_rope_write_kv(&WriteKv {
                qkv: &Product::Rounded(gpu.upload(&qkv[from * row..(from + count) * row])),
                gains: [&on[0], &on[1]],
                angles: [&on[2], &on[3]],
                places: &cache.places,
                queries: &queries,
                pool: &cache.pool,
                faults: &faults,
                rows: count,
                apart,
                eps: 1e-6,
                layer: 9,
                heads,
            })
            .unwrap();
            let [keys, values] = [&cache.pool.keys, &cache.pool.values]
                .map(|pool| Codes { words: gpu.read(pool).unwrap(), dim });
            (keys, values, gpu.read(&faults).unwrap(), gpu.read(&cache.places.pages).unwrap())
        };
        let (mut keys, mut values, faults, table) = run(0, rows.len(), false);
        assert_eq!(faults, [[u32::MAX; 10].as_slice(), &[9]].concat(), "{heads:?}");
        let (apart_keys, apart_values, ..) = run(0, rows.len(), true);
        assert!(apart_keys.words == keys.words && apart_values.words == values.words, "{heads:?}");
        for (index, &position) in rows.iter().enumerate() {
            let (mut alone_keys, mut alone_values, ..) = run(index, 1, true);
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
    for (heads, apart) in SHAPES.into_iter().flat_map(|heads| [(heads, false), (heads, true)]) {
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
        gpu.qk_norm_rope_write_kv(&WriteKv {
            qkv: &Product::Rounded(gpu.upload(&qkv)),
            gains: [&gpu.upload(&gains[0]), &gpu.upload(&gains[1])],
            angles: [&gpu.upload(&cosines), &gpu.upload(&sines)],
            places: &cache.places,
            queries: &queries,
            pool: &cache.pool,
            faults: &faults,
            rows: rows.len(),
            apart,
            eps: 1e-6,
            layer: 9,
            heads,
        })
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

//! Measurements that the pinned settings and the tables of speeds come from. Run
//! alone, on the GPU that they are for.

use albedo_core::Result;
use half::bf16;

use super::device::{Buffer, Gpu};
use super::kernel_tests::{gpu, halves, numbers};
use super::kernels::attention::prefill::TILE;
use super::launch::{AttendRows, AttendTiles, Heads, Places, Pool, Stored, WriteKv, splits};
use super::products::{FewRows, Product, ProductSize};
use super::settings::{TOKENS, columns, few_rows, head};

/// Prints the speed of products of many rows by every width of tiles, for the shapes of
/// Qwen3-4B, and the width that is taken.
#[test]
#[ignore = "a measurement: run it alone, on the GPU that the table is for"]
fn measure_products_of_many_rows() {
    let Some(gpu) = gpu() else { return };
    for rows in [8192, 4096, 2048, 1000, 512, 100] {
        for (k, width, gated) in
            [(2560, 6144, false), (4096, 2560, false), (2560, 9728, true), (9728, 2560, false)]
        {
            let size = ProductSize { rows, k, width, gated };
            let outputs = if gated { 2 * width } else { width };
            let weight = gpu.upload(&halves(k * outputs, 1, 0.1));
            let x = gpu.upload(&halves(rows * k, 2, 1.0));
            let out: Buffer<bf16> = gpu.empty(rows * width);
            let widths: &[usize] = if gated { &[256, 192] } else { &[256, 192, 160, 128] };
            let rates: Vec<String> = widths
                .iter()
                .map(|&columns| {
                    let launch = || gpu.product_of_many(&weight, &x, &out, size, columns).unwrap();
                    let rounds = 200_000 / rows;
                    (0..rounds / 4).for_each(|_| launch());
                    gpu.sync().unwrap();
                    let start = std::time::Instant::now();
                    (0..rounds).for_each(|_| launch());
                    gpu.sync().unwrap();
                    let seconds = start.elapsed().as_secs_f64() / rounds as f64;
                    format!("{columns}: {:.0}", 2.0 * (rows * k * outputs) as f64 / seconds / 1e12)
                })
                .collect();
            let taken = columns(size, gpu.multiprocessors());
            println!("{rows} × {k} × {outputs}, TFLOP/s: {}; taken: {taken}", rates.join(", "));
        }
    }
}

/// Prints the time of products of few rows by several cuts, for the shapes of Qwen3-4B,
/// fastest first, and that of the cut that is taken; beside it the time of reading the
/// weight at 3 TB/s.
#[test]
#[ignore = "a measurement: run it alone, on the GPU that the table is for"]
fn measure_products_of_few_rows() {
    let Some(gpu) = gpu() else { return };
    for (k, width, gated) in [
        (2560, 6144, false),
        (4096, 2560, false),
        (2560, 9728, true),
        (9728, 2560, false),
        (2560, 151_936, false),
    ] {
        for rows in TOKENS {
            let size = ProductSize { rows, k, width, gated };
            let is_head = width > 100_000;
            let taken = if is_head { head(rows) } else { few_rows(size) };
            let widths = [taken.columns, 40, 48, 64, 80, 96, 128, 160, 192].into_iter();
            let mut cuts: Vec<FewRows> = vec![taken];
            cuts.extend(
                widths.flat_map(|columns| [3, 4, 6, 8].map(|ahead| FewRows { columns, ahead, ..taken })),
            );
            cuts.retain(|cut| {
                let room = cut.ahead * (rows.max(64) + cut.columns) * 128;
                (60_000..225_000).contains(&room) && (!gated || cut.columns.is_multiple_of(16))
            });
            let times = times(&gpu, &cuts, size, is_head);
            let mut ranked: Vec<usize> = (0..cuts.len()).collect();
            ranked.sort_by(|&a, &b| times[a].total_cmp(&times[b]));
            let fastest: Vec<String> = ranked
                .iter()
                .take(4)
                .map(|&at| format!("{} wide, {} ahead {:.1}", cuts[at].columns, cuts[at].ahead, times[at]))
                .collect();
            let outputs = if gated { 2 * width } else { width };
            println!(
                "{rows} × {k} × {outputs}, µs: taken {:.1}; fastest: {}; reading {:.1}",
                times[0],
                fastest.join(", "),
                (2 * k * outputs) as f64 / 3e6,
            );
        }
    }
}

/// Microseconds of a product by each of `cuts`.
fn times(gpu: &Gpu, cuts: &[FewRows], size: ProductSize, is_head: bool) -> Vec<f64> {
    let ProductSize { rows, k, width, gated } = size;
    let outputs = if gated { 2 * width } else { width };
    // More weights than the cache holds.
    let copies = (400_000_000 / (2 * k * outputs)).clamp(1, 20);
    let weight = halves(k * outputs, 1, 0.1);
    let weights: Vec<_> = (0..copies).map(|_| gpu.upload(&weight)).collect();
    let x = gpu.upload(&halves(rows * k, 2, 1.0));
    let rounded: Buffer<bf16> = gpu.empty(rows * width);
    let sums: Buffer<f32> = gpu.empty(8 * rows * width);
    let launch = |at: usize, cut: FewRows| {
        let weight = &weights[at % copies];
        // A layer's whole product is rounded, the head's is not.
        if cut.split_k == 1 && !is_head {
            gpu.product_of_few(weight, &x, &rounded, size, cut)
        } else {
            gpu.product_of_few(weight, &x, &sums, size, cut)
        }
    };
    gpu.compile(|| cuts.iter().try_for_each(|&cut| launch(0, cut))).unwrap();
    let time = |cut: &FewRows| {
        let times = 2 * copies.max(10);
        let graph = gpu.capture(|| (0..times).try_for_each(|at| launch(at, *cut))).unwrap();
        graph.replay().unwrap();
        gpu.sync().unwrap();
        let start = std::time::Instant::now();
        for _ in 0..5 {
            graph.replay().unwrap();
        }
        gpu.sync().unwrap();
        start.elapsed().as_secs_f64() / (5 * times) as f64 * 1e6
    };
    cuts.iter().map(time).collect()
}

/// Prints the time of attention of decoded rows over pages of bf16 and of codes.
#[test]
#[ignore = "a measurement: run it alone, on the GPU that the table is for"]
fn measure_attention_of_rows() {
    let Some(gpu) = gpu() else { return };
    let halves = halves(16 << 20, 9, 1.0);
    // Codes of any kind, and factors that are numbers.
    let words: Vec<u32> = (0_u32..16 << 20).map(|at| at.wrapping_mul(0x9E37_79B9) & 0x3fff_ffff).collect();
    for (rows, context) in [(1, 2048), (32, 2048), (32, 8192), (64, 4096), (128, 2560)] {
        attention_of_rows(&gpu, &halves, rows, context);
        attention_of_rows(&gpu, &words, rows, context);
    }
}

const HEADS: Heads = Heads { queries: 32, kv: 8, dim: 128 };

/// `len` values, which are those of `block` again and again.
fn filled<T: Stored>(gpu: &Gpu, block: &[T], len: usize) -> Buffer<T> {
    let buffer = gpu.empty(len);
    for from in (0..len).step_by(block.len()) {
        let count = block.len().min(len - from);
        gpu.write(&buffer.range(from, count), &block[..count]);
    }
    buffer
}

/// Least, median and most microseconds of what `launch` launches, of five replays of a graph
/// that has it `times` times.
fn microseconds(gpu: &Gpu, times: u32, launch: impl Fn() -> Result<()>) -> [f64; 3] {
    let graph = gpu.capture(|| (0..times).try_for_each(|_| launch())).unwrap();
    graph.replay().unwrap();
    gpu.sync().unwrap();
    let mut all: Vec<f64> = (0..5)
        .map(|_| {
            let start = std::time::Instant::now();
            graph.replay().unwrap();
            gpu.sync().unwrap();
            start.elapsed().as_secs_f64() / f64::from(times) * 1e6
        })
        .collect();
    all.sort_by(f64::total_cmp);
    [all[0], all[2], all[4]]
}

fn attention_of_rows<T: Stored>(gpu: &Gpu, block: &[T], rows: usize, context: usize) {
    let heads = HEADS;
    let pages = rows * context / 64;
    let len = pages * heads.kv * T::page(heads.dim);
    let pool = Pool { keys: filled(gpu, block, len), values: filled(gpu, block, len) };
    let width = heads.queries * heads.dim;
    let splits = splits(context - 1);
    let queries = gpu.upload(&halves(rows * width, 1, 1.0));
    let out: Buffer<bf16> = gpu.empty(rows * width);
    let (partial, stats) = (gpu.empty(rows * width * splits), gpu.empty(rows * heads.queries * splits * 2));
    for (name, step) in [("in order", 1), ("scattered", 7919)] {
        let table: Vec<u32> = (0..pages).map(|at| (at * step % pages) as u32).collect();
        let places = Places {
            positions: gpu.upload(&vec![context as u32 - 1; rows]),
            slots: gpu.upload(&(0..rows as u32).collect::<Vec<_>>()),
            pages: gpu.upload(&table),
            stride: context / 64,
        };
        let args = AttendRows {
            queries: &queries,
            pool: &pool,
            places: &places,
            partial: &partial,
            stats: &stats,
            out: &out,
            rows,
            splits,
            heads,
        };
        let [low, us, high] = microseconds(gpu, 20, || gpu.attend_rows(&args));
        let bytes = (2 * len * size_of::<T>()) as f64;
        println!(
            "{rows} rows of {context}, codes: {}, pages {name}: {us:.1} µs ({low:.1} – {high:.1}), {:.0} GB/s",
            T::CODES,
            bytes / us / 1e3
        );
    }
}

/// Prints the time of what a decoded step does to heads: norms, rotation, keys and values.
#[test]
#[ignore = "a measurement: run it alone, on the GPU that the table is for"]
fn measure_heads_of_rows() {
    let Some(gpu) = gpu() else { return };
    for rows in [1, 32, 64, 128] {
        heads_of_rows::<bf16>(&gpu, rows);
        heads_of_rows::<u32>(&gpu, rows);
    }
}

fn heads_of_rows<T: Stored>(gpu: &Gpu, rows: usize) {
    let (heads, context) = (HEADS, 2560);
    let pages = rows * context / 64;
    let len = pages * heads.kv * T::page(heads.dim);
    let pool: Pool<T> = Pool { keys: gpu.empty(len), values: gpu.empty(len) };
    let width = (heads.queries + 2 * heads.kv) * heads.dim;
    // As the product of a layer leaves them.
    let qkv = Product::SplitK { sums: gpu.upload(&numbers(4 * rows * width, 1)), count: 4 };
    let gains = [gpu.upload(&numbers(heads.dim, 2)), gpu.upload(&numbers(heads.dim, 3))];
    let angles = gpu.upload(&numbers(context * heads.dim / 2, 4));
    let queries: Buffer<bf16> = gpu.empty(rows * heads.queries * heads.dim);
    let faults = gpu.upload(&vec![u32::MAX; rows]);
    let places = Places {
        positions: gpu.upload(&(0..rows as u32).map(|row| 2000 + row).collect::<Vec<_>>()),
        slots: gpu.upload(&(0..rows as u32).collect::<Vec<_>>()),
        pages: gpu.upload(&(0..pages as u32).collect::<Vec<_>>()),
        stride: context / 64,
    };
    for apart in [false, true] {
        let args = WriteKv {
            qkv: &qkv,
            gains: [&gains[0], &gains[1]],
            angles: [&angles, &angles],
            places: &places,
            queries: &queries,
            pool: &pool,
            faults: &faults,
            rows,
            apart,
            eps: 1e-6,
            layer: 0,
            heads,
        };
        gpu.compile(|| gpu.qk_norm_rope_write_kv(&args)).unwrap();
        let [low, us, high] = microseconds(gpu, 100, || gpu.qk_norm_rope_write_kv(&args));
        println!(
            "heads of {rows} rows, codes: {}, apart: {apart}: {us:.2} µs ({low:.2} – {high:.2})",
            T::CODES
        );
    }
}

/// Prints the time of attention of prompts.
#[test]
#[ignore = "a measurement: run it alone, on the GPU that the table is for"]
fn measure_attention_of_prompts() {
    let Some(gpu) = gpu() else { return };
    let heads = HEADS;
    let block = halves(16 << 20, 9, 1.0);
    for (sequences, length) in [(1, 8192), (2, 4096), (8, 2048)] {
        let rows = sequences * length;
        let len = (rows + 64) * heads.kv * heads.dim;
        let pool = Pool { keys: filled(&gpu, &block, len), values: filled(&gpu, &block, len) };
        let places = Places {
            positions: gpu.upload(&(0..rows).map(|row| (row % length) as u32).collect::<Vec<_>>()),
            slots: gpu.upload(&(0..rows).map(|row| (row / length) as u32).collect::<Vec<_>>()),
            pages: gpu.upload(&(0..(rows / 64) as u32).collect::<Vec<_>>()),
            stride: length / 64,
        };
        let mut tiles: Vec<usize> = (0..rows).step_by(TILE).collect();
        tiles.sort_by_key(|at| std::cmp::Reverse(at % length));
        let tile = |at: usize| [at, TILE, at % length, at / length].map(|number| number as u32);
        let tiles: Vec<u32> = tiles.into_iter().flat_map(tile).collect();
        let tiles = gpu.upload(&tiles);
        let queries = gpu.upload(&halves(rows * 4096, 1, 1.0));
        let out: Buffer<bf16> = gpu.empty(rows * 4096);
        let args = AttendTiles {
            queries: &queries,
            pool: &pool,
            places: &places,
            tiles: &tiles,
            out: &out,
            rows,
            heads,
        };
        let run = |times: usize| {
            for _ in 0..times {
                gpu.attend_tiles(&args).unwrap();
            }
            gpu.sync().unwrap();
        };
        run(2);
        let start = std::time::Instant::now();
        run(10);
        let seconds = start.elapsed().as_secs_f64() / 10.0;
        let flops = 2.0 * 4096.0 * (rows * (length + 1)) as f64;
        println!(
            "prompts, {sequences} of {length}: {:.0} µs, {:.0} TFLOP/s",
            seconds * 1e6,
            flops / seconds / 1e12
        );
    }
}

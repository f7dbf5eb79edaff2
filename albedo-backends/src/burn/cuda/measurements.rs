//! Measurements that the pinned settings and the tables of speeds come from. Run
//! alone, on the GPU that they are for.

use cubek::matmul::kernels::CubeStagedMatmulRoutine;
use cubek::std::Hardware;
use cubek::std::routine::Routine;
use half::bf16;

use super::device::{Buffer, Gpu};
use super::kernel_tests::{gpu, halves};
use super::kernels::attention::TILE;
use super::launch::{Heads, Places, Pool, splits};
use super::products::FewRows;
use super::settings::{HEAD, MIDDLE, NARROW, ROWS, WIDE};

/// Prints the fastest settings of `CubeK`'s product for the shapes of Qwen3-4B.
#[test]
#[ignore = "a measurement: run it alone, on the GPU that the table is for"]
fn measure_products_of_many_rows() {
    let Some(gpu) = gpu() else { return };
    let hardware = Hardware::from_client(gpu.client());
    let candidates = CubeStagedMatmulRoutine.settings(&hardware);
    println!("{} settings", candidates.len());
    let started = std::time::Instant::now();
    for (k, width) in [(2560, 19_456), (9728, 2560), (2560, 6144), (4096, 2560)] {
        let weight = gpu.upload(&halves(k * width, 1, 0.1));
        let x = gpu.upload(&halves(8192 * k, 2, 1.0));
        let out: Buffer<bf16> = gpu.empty(8192 * width);
        let time = |rows: usize, settings: &_, rounds: usize| {
            let launch = || gpu.product_many(&hardware, &weight, &x, &out, rows, k, width, settings);
            launch().ok()?;
            gpu.sync().ok()?;
            let start = std::time::Instant::now();
            for _ in 0..rounds {
                launch().ok()?;
            }
            gpu.sync().ok()?;
            Some(start.elapsed().as_secs_f64() / rounds as f64)
        };
        let mut ranked: Vec<(f64, usize)> = candidates
            .iter()
            .enumerate()
            .filter_map(|(index, settings)| {
                let run = std::panic::AssertUnwindSafe(|| time(4096, settings, 3));
                Some((std::panic::catch_unwind(run).ok()??, index))
            })
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        for &(seconds, index) in ranked.iter().take(5) {
            let settings = &candidates[index];
            let rate = |rows: usize, seconds: f64| 2.0 * (rows * k * width) as f64 / seconds / 1e12;
            let others: Vec<String> = [256, 1000, 8192]
                .into_iter()
                .map(|rows| format!("{rows}: {:.0}", rate(rows, time(rows, settings, 5).unwrap_or(f64::NAN))))
                .collect();
            println!(
                "{k} × {width}: {:.0} TFLOP/s, {} | {settings:?}",
                rate(4096, seconds),
                others.join(", ")
            );
        }
        println!("{:.0} s", started.elapsed().as_secs_f64());
    }
}

/// Prints the cuts of products of few rows for this GPU, as `settings.rs` has them:
/// the one that is there, unless another is more than 3 % faster. Beside each the
/// time of a product, of the fastest, and of reading the weight at 3 TB/s.
#[test]
#[ignore = "a measurement: run it alone, on the GPU that the table is for"]
fn measure_products_of_few_rows() {
    let Some(gpu) = gpu() else { return };
    let narrow: &[(usize, usize)] = &[(4096, 2560), (9728, 2560)];
    for (name, pinned, shapes) in [
        ("NARROW", NARROW, narrow),
        ("MIDDLE", MIDDLE, &[(2560, 6144)]),
        ("WIDE", WIDE, &[(2560, 19_456)]),
        ("HEAD", HEAD, &[(2560, 151_936)]),
    ] {
        println!("{name}");
        for (rows, pinned) in ROWS.into_iter().zip(pinned) {
            let cuts: Vec<FewRows> = cuts(shapes, rows, name == "HEAD").collect();
            let each: Vec<Vec<f64>> =
                shapes.iter().map(|&(k, width)| times(&gpu, &cuts, rows, k, width)).collect();
            let sum = |at: usize| each.iter().map(|times| times[at]).sum::<f64>();
            let fastest = (0..cuts.len()).min_by(|&a, &b| sum(a).total_cmp(&sum(b))).unwrap();
            let pinned = cuts.iter().position(|&cut| cut == pinned);
            let best = pinned.filter(|&at| sum(at) <= 1.03 * sum(fastest)).unwrap_or(fastest);
            let FewRows { weight_planes, token_planes, weight_tiles, token_tiles, shares, ahead } =
                cuts[best];
            let us: Vec<String> = each.iter().map(|times| format!("{:.1}", times[best])).collect();
            let bytes: usize = shapes.iter().map(|(k, width)| 2 * k * width).sum();
            println!(
                "cut({weight_planes}, {token_planes}, {weight_tiles}, {token_tiles}, {shares}, {ahead}), \
                 // {rows} rows: {} µs; fastest {:.1} ({:?}); reading {:.1}; {}",
                us.join(" + "),
                sum(fastest),
                cuts[fastest],
                bytes as f64 / 3e6,
                if pinned == Some(best) { "as it is" } else { "new" },
            );
        }
    }
}

/// Microseconds of a product by each of `cuts`.
fn times(gpu: &Gpu, cuts: &[FewRows], rows: usize, k: usize, width: usize) -> Vec<f64> {
    // More weights than the cache holds.
    let copies = (400_000_000 / (2 * k * width)).clamp(1, 20);
    let weight = halves(k * width, 1, 0.1);
    let weights: Vec<_> = (0..copies).map(|_| gpu.upload(&weight)).collect();
    let x = gpu.upload(&halves(rows * k, 2, 1.0));
    let rounded: Buffer<bf16> = gpu.empty(rows * width);
    let sums: Buffer<f32> = gpu.empty(cuts.iter().map(|cut| cut.count()).max().unwrap() * rows * width);
    let launch = |at: usize, cut: FewRows| {
        let weight = &weights[at % copies];
        // A layer's whole product is rounded, the head's is not.
        if cut.count() == 1 && width < 100_000 {
            gpu.product_of_few(weight, &x, &rounded, rows, k, width, cut)
        } else {
            gpu.product_of_few(weight, &x, &sums, rows, k, width, cut)
        }
    };
    gpu.compile(|| cuts.iter().try_for_each(|&cut| launch(0, cut))).unwrap();
    let time = |cut: &FewRows| {
        let times = 2 * copies.max(10);
        let recording = gpu.record(|| (0..times).try_for_each(|at| launch(at, *cut))).unwrap();
        recording.replay().unwrap();
        gpu.sync().unwrap();
        let start = std::time::Instant::now();
        for _ in 0..5 {
            recording.replay().unwrap();
        }
        gpu.sync().unwrap();
        start.elapsed().as_secs_f64() / (5 * times) as f64 * 1e6
    };
    cuts.iter().map(time).collect()
}

/// The cuts that are worth a measurement: cubes of 64 rows of the weight, and of
/// all rows of `x` or half of them; `whole` asks for one sum.
fn cuts(shapes: &[(usize, usize)], rows: usize, whole: bool) -> impl Iterator<Item = FewRows> {
    let planes = [(4, 1, 1), (2, 2, 2)].into_iter();
    let tiles = planes.flat_map(|planes| [1, 2, 4, 8].map(|tiles| (planes, tiles)));
    let stages = tiles.flat_map(|tiles| [1, 2, 4, 8].map(|shares| (tiles, shares)));
    let cuts = stages.flat_map(|stages| [2, 3, 4, 6].map(|ahead| (stages, ahead)));
    let cuts = cuts.map(|((((weight_planes, token_planes, weight_tiles), token_tiles), shares), ahead)| {
        FewRows { weight_planes, token_planes, weight_tiles, token_tiles, shares, ahead }
    });
    cuts.filter(move |cut| {
        let (weights, tokens) = (cut.weights(), cut.tokens());
        // Sums have to fit in registers, and cubes have to be enough for the GPU.
        let levels = 1 + cut.shares.ilog2() as usize;
        let room = cut.weight_tiles * cut.token_tiles * levels <= 32;
        let cubes = |&(_, width): &(usize, usize)| width.div_ceil(weights) * cut.count() * rows / tokens;
        let enough = shapes.iter().all(|shape| cubes(shape) >= 100);
        (tokens == rows || 2 * tokens == rows) && room && enough && (!whole || cut.count() == 1)
    })
}

/// Prints the time of attention over pages in turns.
#[test]
#[ignore = "a measurement: run it alone, on the GPU that the table is for"]
fn measure_attention() {
    let Some(gpu) = gpu() else { return };
    let heads = Heads { queries: 32, kv: 8, dim: 128 };
    let block = halves(16 << 20, 9, 1.0);
    let filled = |len: usize| {
        let buffer: Buffer<bf16> = gpu.empty(len);
        for from in (0..len).step_by(block.len()) {
            let count = block.len().min(len - from);
            gpu.write(&buffer.range(from, count), &block[..count]);
        }
        buffer
    };
    for (rows, context) in [(1, 2048), (32, 2048), (32, 8192), (64, 4096), (128, 2560)] {
        let pages = rows * context / 64;
        let len = pages * 64 * heads.kv * heads.dim;
        let pool = Pool { keys: filled(len), values: filled(len) };
        let width = heads.queries * heads.dim;
        let split = splits(context - 1);
        let queries = gpu.upload(&halves(rows * width, 1, 1.0));
        let out: Buffer<bf16> = gpu.empty(rows * width);
        let (partial, stats) = (gpu.empty(rows * width * split), gpu.empty(rows * heads.queries * split * 2));
        for (name, step) in [("in order", 1), ("scattered", 7919)] {
            let table: Vec<u32> = (0..pages).map(|at| (at * step % pages) as u32).collect();
            let places = Places {
                positions: gpu.upload(&vec![context as u32 - 1; rows]),
                slots: gpu.upload(&(0..rows as u32).collect::<Vec<_>>()),
                pages: gpu.upload(&table),
                stride: context / 64,
            };
            let times = 20;
            let recording = gpu
                .record(|| {
                    (0..times).try_for_each(|_| {
                        gpu.attend_rows(&queries, &pool, &places, &partial, &stats, &out, rows, split, heads)
                    })
                })
                .unwrap();
            recording.replay().unwrap();
            gpu.sync().unwrap();
            let mut us: Vec<f64> = (0..5)
                .map(|_| {
                    let start = std::time::Instant::now();
                    recording.replay().unwrap();
                    gpu.sync().unwrap();
                    start.elapsed().as_secs_f64() / f64::from(times) * 1e6
                })
                .collect();
            us.sort_by(f64::total_cmp);
            let bytes = (4 * rows * context * heads.kv * heads.dim) as f64;
            println!(
                "{rows} rows of {context}, pages {name}: {:.1} µs ({:.1} – {:.1}), {:.0} GB/s",
                us[2],
                us[0],
                us[4],
                bytes / us[2] / 1e3
            );
        }
    }
    let rows = 8192;
    let pool = Pool { keys: gpu.zeroed(129 * 64 * 1024), values: gpu.zeroed(129 * 64 * 1024) };
    let places = Places {
        positions: gpu.upload(&(0..rows as u32).collect::<Vec<_>>()),
        slots: gpu.zeroed(rows),
        pages: gpu.upload(&(0..128_u32).collect::<Vec<_>>()),
        stride: 128,
    };
    let tiles: Vec<u32> = (0..rows as u32).step_by(TILE).flat_map(|at| [at, TILE as u32]).collect();
    let tiles = gpu.upload(&tiles);
    let queries = gpu.upload(&halves(rows * 4096, 1, 1.0));
    let out: Buffer<bf16> = gpu.empty(rows * 4096);
    let run = |times: usize| {
        for _ in 0..times {
            gpu.attend_tiles(&queries, &pool, &places, &tiles, &out, rows, heads).unwrap();
        }
        gpu.sync().unwrap();
    };
    run(2);
    let start = std::time::Instant::now();
    run(10);
    let seconds = start.elapsed().as_secs_f64() / 10.0;
    let flops = 4.0 * 4096.0 * (rows * rows) as f64 / 2.0;
    println!("8192 rows at once: {:.0} µs, {:.0} TFLOP/s", seconds * 1e6, flops / seconds / 1e12);
}

//! Measurements that the pinned settings and the tables of speeds come from. Run
//! alone, on the GPU that they are for.

use cubek::matmul::kernels::CubeStagedMatmulRoutine;
use cubek::std::Hardware;
use cubek::std::routine::Routine;
use half::bf16;

use super::device::Buffer;
use super::kernel_tests::{gpu, halves};
use super::kernels::attention::TILE;
use super::launch::{Heads, Places, Pool, splits};
use super::products::{ByShares, FewRows, Whole};

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

/// Prints the time of the products of few rows for the shapes of Qwen3-4B at
/// every number of rows and setting, beside the time that reading the weight takes.
#[test]
#[ignore = "a measurement: run it alone, on the GPU that the table is for"]
fn measure_products_of_few_rows() {
    let Some(gpu) = gpu() else { return };
    for (k, width) in [(2560, 6144), (4096, 2560), (2560, 19_456), (9728, 2560), (2560, 151_936)] {
        // More weights than the cache holds.
        let copies = (400_000_000 / (2 * k * width)).clamp(1, 20);
        let weight = halves(k * width, 1, 0.1);
        let weights: Vec<_> = (0..copies).map(|_| gpu.upload(&weight)).collect();
        let x = gpu.upload(&halves(128 * k, 2, 1.0));
        let out: Buffer<bf16> = gpu.empty(128 * width);
        let sums: Buffer<f32> = gpu.empty(if width > 100_000 { 128 * width } else { 8 * 128 * width });
        for rows in [8, 16, 32, 64, 128] {
            let mut candidates = Vec::new();
            for weight_tiles in [1, 2, 4] {
                for ahead in [1, 2, 4] {
                    let token_tiles = rows / 8;
                    // Sums and what is read ahead have to fit in the registers.
                    if weight_tiles * token_tiles <= 32 && weight_tiles * ahead <= 8 && rows <= 64 {
                        candidates.push(FewRows::Whole(Whole { weight_tiles, token_tiles, rounds: ahead }));
                    }
                }
                for ahead in [1, 2] {
                    for (planes, shares, z) in [4, 8]
                        .into_iter()
                        .flat_map(|planes| [1_usize, 2, 4, 8].map(|shares| (planes, shares)))
                        .flat_map(|(planes, shares)| [1, 2].map(|z| (planes, shares, z)))
                    {
                        let token_tiles = rows / 8 / z;
                        let levels = 1 + shares.ilog2() as usize;
                        let room = weight_tiles * token_tiles * levels <= 32
                            && ahead * weight_tiles <= 2
                            && ahead * token_tiles <= 16;
                        let fits = width.is_multiple_of(16 * weight_tiles * planes);
                        let cubes = width / (16 * weight_tiles * planes) * 8 / shares * z;
                        let of_head = width > 100_000;
                        if rows >= 32
                            && (z == 1 || rows == 128)
                            && room
                            && fits
                            && cubes >= 100
                            && (shares == 8 || !of_head)
                        {
                            candidates.push(FewRows::ByShares(ByShares {
                                planes,
                                weight_tiles,
                                token_tiles,
                                shares,
                                rounds: ahead,
                            }));
                        }
                    }
                }
            }
            let mut ranked = Vec::new();
            let launch = |at: usize, few: &FewRows| {
                let weight = &weights[at % copies];
                // A layer's whole product is rounded, the head's is not.
                if few.count() == 1 && width < 100_000 {
                    gpu.product_of_few(weight, &x, &out, rows, k, width, *few)
                } else {
                    gpu.product_of_few(weight, &x, &sums, rows, k, width, *few)
                }
            };
            gpu.compile(|| candidates.iter().try_for_each(|few| launch(0, few))).unwrap();
            for few in &candidates {
                let times = 2 * copies.max(10);
                let recording = gpu.record(|| (0..times).try_for_each(|at| launch(at, few))).unwrap();
                recording.replay().unwrap();
                gpu.sync().unwrap();
                let start = std::time::Instant::now();
                for _ in 0..5 {
                    recording.replay().unwrap();
                }
                gpu.sync().unwrap();
                let name = match few {
                    FewRows::Whole(s) => format!("whole {} ahead {}", s.weight_tiles, s.rounds),
                    FewRows::ByShares(s) => {
                        format!(
                            "{} x {} x {}, shares {}, ahead {}",
                            s.planes, s.weight_tiles, s.token_tiles, s.shares, s.rounds
                        )
                    }
                };
                ranked.push((start.elapsed().as_secs_f64() / (5 * times) as f64 * 1e6, name));
            }
            ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
            let whole = ranked.iter().find(|(_, name)| name.starts_with("whole"));
            let shown: Vec<String> =
                ranked.iter().take(5).chain(whole).map(|(us, name)| format!("{us:.1} ({name})")).collect();
            let floor = 2.0 * (k * width) as f64 / 3.0e12 * 1e6;
            println!("{k} × {width}, {rows} rows: {} | {floor:.1} µs at 3 TB/s", shown.join(" "));
        }
    }
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

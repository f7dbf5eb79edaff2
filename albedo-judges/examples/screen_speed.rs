//! How fast a large checkpoint is measured: digest, fingerprint-v2 and sketch
//! in one pass, beside `sha256sum` on the same file in the same run.
//!
//! ```console
//! cargo run --release -p albedo-judges --example screen_speed -- FOLDER [LAYERS] [--disguised]
//! ```
//!
//! Writes a synthetic bf16 checkpoint of Qwen3-4B's shape into FOLDER, unless
//! there is one: 36 layers, 8 GB; fewer with LAYERS. `--disguised` also
//! permutes its channels, so that every row has to be gathered. Measured
//! figures are in `benches/README.md`.
#![expect(clippy::print_stdout, clippy::expect_used, reason = "a tool that prints and may stop")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use albedo_core::rng::philox4x32;
use albedo_core::{CallContext, Digest};
use albedo_judges::screens::{AlignTo, Measurement};
use serde_json::json;

#[path = "screen_attacks/folder.rs"]
mod folder;

use folder::folder as files;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let disguised = arguments.iter().position(|argument| argument == "--disguised");
    if let Some(at) = disguised {
        arguments.remove(at);
    }
    let folder = Path::new(arguments.first().expect("give a folder"));
    let layers = arguments.get(1).map_or(36, |layers| layers.parse().expect("a number of layers"));
    if !folder.join("model.safetensors").is_file() {
        write(folder, layers, false);
    }
    let file = folder.join("model.safetensors");
    let bytes = fs::metadata(&file).expect("there").len() as f64;
    // The first read also brings the file into the page cache.
    for _ in 0..2 {
        timed("sha256sum", bytes, || {
            assert!(Command::new("sha256sum").arg(&file).output().expect("sha256sum runs").status.success());
        });
    }
    timed("SHA-256 alone, one core", bytes, || {
        Digest::of_reader(File::open(&file).expect("opens")).expect("read");
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let measure = |folder: &Path, align: AlignTo| {
        let cx = CallContext::new();
        runtime.block_on(Measurement::take(files(folder), align, &cx)).expect("measured")
    };
    let anchor = timed("the anchor: digests, fingerprint-v2 and projections", bytes, || {
        measure(folder, AlignTo::Itself).anchor.expect("an anchor")
    });
    let to_anchor = || AlignTo::Anchor(anchor.clone());
    timed("digests, fingerprint-v2 and sketch", bytes, || measure(folder, to_anchor()));
    timed("digests and fingerprint-v2", bytes, || measure(folder, AlignTo::Nothing));
    println!("peak resident memory {:.0} MB", peak_mb());
    if disguised.is_some() {
        let other = folder.join("disguised");
        write(&other, layers, true);
        timed("the same, channels permuted", bytes, || measure(&other, to_anchor()));
        fs::remove_dir_all(other).expect("removed");
    }
}

fn timed<T>(what: &str, bytes: f64, work: impl FnOnce() -> T) -> T {
    let (start, before) = (Instant::now(), cpu_seconds());
    let done = work();
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - before);
    let speed = |seconds: f64| bytes / seconds / 1e9;
    println!("{what}: {wall:.2} s, {:.2} GB/s; {cpu:.2} CPU seconds, {:.2} GB each", speed(wall), speed(cpu));
    done
}

/// CPU seconds of this process and its ended children, user and system: what
/// other programs on the machine change little.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which is in brackets: the state, and ten fields on the times in ticks.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(4);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// Ticks of `/proc` in a second, on every Linux of today.
const TICKS: f64 = 100.0;

/// A checkpoint of Qwen3-4B's shape with weights that look random; the same
/// ones with the channels in reverse order if `reversed`.
fn write(folder: &Path, layers: u64, reversed: bool) {
    fs::create_dir_all(folder).expect("a folder");
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 2560, "num_hidden_layers": layers,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728,
        "vocab_size": 151_936, "tie_word_embeddings": true,
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("written");
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![151_936_u64, 2560])];
    for layer in 0..layers {
        for (name, shape) in [
            ("input_layernorm", vec![2560]),
            ("post_attention_layernorm", vec![2560]),
            ("self_attn.q_norm", vec![128]),
            ("self_attn.k_norm", vec![128]),
            ("self_attn.q_proj", vec![4096, 2560]),
            ("self_attn.k_proj", vec![1024, 2560]),
            ("self_attn.v_proj", vec![1024, 2560]),
            ("self_attn.o_proj", vec![2560, 4096]),
            ("mlp.gate_proj", vec![9728, 2560]),
            ("mlp.up_proj", vec![9728, 2560]),
            ("mlp.down_proj", vec![2560, 9728]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    shapes.push(("model.norm.weight".into(), vec![2560]));
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in &shapes {
        let size = shape.iter().product::<u64>() * 2;
        header.insert(
            name.clone(),
            json!({ "dtype": "BF16", "shape": shape, "data_offsets": [end, end + size] }),
        );
        end += size;
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut out =
        BufWriter::with_capacity(1 << 20, File::create(folder.join("model.safetensors")).expect("created"));
    out.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
    out.write_all(header.as_bytes()).expect("written");
    for (tensor, (name, shape)) in shapes.iter().enumerate() {
        let columns = *shape.last().expect("a dimension");
        let rows = shape.iter().product::<u64>() / columns;
        // Vectors and rows of writing matrices are channels too, but reversing
        // the columns of what reads is enough to have every row gathered.
        let turn = reversed && columns == 2560;
        let mut row_bytes = Vec::new();
        for row in 0..rows {
            row_bytes.clear();
            for column in 0..columns {
                let column = if turn { columns - 1 - column } else { column };
                let index = row * columns + column;
                let bits = philox4x32([tensor as u32, 7], [(index / 8) as u32, (index >> 35) as u32, 0, 0]);
                let half = (bits[(index % 8 / 2) as usize] >> (16 * (index % 2))) as u16;
                // Exponents from 2⁻⁷ to 2⁻⁴; norms near 1.
                let value = if shape.len() == 1 { 0x3F80 } else { half & 0x807F | 0x3C00 | (half & 0x0180) };
                row_bytes.extend_from_slice(&value.to_le_bytes());
            }
            out.write_all(&row_bytes).expect("written");
        }
        if name.contains("mlp.down") {
            println!("wrote {name}");
        }
    }
    out.flush().expect("written");
}

/// The process's peak resident memory.
fn peak_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

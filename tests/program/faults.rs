//! Who is charged with what, and what goes on: models whose own arithmetic
//! overflows, providers that refuse, files that are malformed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use albedo::backends::openai::scripted::{Answer, ScriptedServer};
use albedo::prelude::*;
use albedo::safetensors::{Header, read_header};
use albedo::{Artefact, Fault};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{albedo, command, demo, error, stdout};

const WEIGHTS: &str = "model.safetensors";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A copy of the demo's model `side`.
fn copy(side: &str, target: &Path) -> PathBuf {
    let (source, target) = (demo().join("models").join(side), target.join(side));
    fs::create_dir_all(&target).expect("creates");
    for entry in fs::read_dir(source).expect("lists") {
        let path = entry.expect("lists").path();
        fs::copy(&path, target.join(path.file_name().expect("a name"))).expect("copies");
    }
    target
}

/// The word that about a third of the demo's tasks have in them, and its token.
async fn word_of_every_third() -> (String, usize) {
    let tokenizer = fs::read(demo().join("models/king/tokenizer.json")).expect("reads");
    let tokenizer: Value = serde_json::from_slice(&tokenizer).expect("JSON");
    // A byte-level vocabulary writes a space as Ġ.
    let words = tokenizer["model"]["vocab"].as_object().expect("a vocabulary").iter();
    let words = words.filter_map(|(token, id)| Some((token.strip_prefix('Ġ')?, id.as_u64()? as usize)));
    let words: Vec<_> = words
        .filter(|(word, _)| word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_lowercase()))
        .collect();
    let (registry, cx) = (Registry::linked().expect("plugins"), CallContext::new());
    let plugins = BuildContext::new(&registry, &cx).relative_to(demo());
    let tasks = plugins.build::<dyn TaskSource>("parquet", json!({ "path": "tasks" })).await;
    let tasks = tasks.expect("opens");
    let mut having: BTreeMap<usize, u64> = BTreeMap::new();
    for row in 0..tasks.info().rows {
        let row = tasks.row(row, &cx).await.expect("reads");
        let texts: Vec<_> = row.messages.iter().map(|message| message.content.as_str()).collect();
        let text = format!(" {} ", texts.join("  "));
        let has = |word: &str| {
            text.match_indices(&format!(" {word}")).any(|(at, found)| {
                text[at + found.len()..].chars().next().is_some_and(|next| !next.is_alphabetic())
            })
        };
        for (place, _) in words.iter().enumerate().filter(|(_, (word, _))| has(word)) {
            *having.entry(place).or_default() += 1;
        }
    }
    let third = tasks.info().rows / 3;
    let (place, _) = having.into_iter().min_by_key(|(_, rows)| rows.abs_diff(third)).expect("a word");
    (words[place].0.to_owned(), words[place].1)
}

/// The weights of a model, to be written to.
struct Weights {
    path: PathBuf,
    bytes: Vec<u8>,
    header: Header,
}

impl Weights {
    fn open(model: &Path) -> Self {
        let path = model.join(WEIGHTS);
        let bytes = fs::read(&path).expect("reads");
        let header = read_header(&mut bytes.as_slice(), bytes.len() as u64).expect("a header");
        Self { path, bytes, header }
    }

    /// Where the row of a matrix, or a vector, begins, in bytes; and its length.
    fn row(&self, tensor: &str, row: usize) -> (usize, usize) {
        let info = &self.header.tensors[tensor];
        let columns = *info.shape.last().expect("a shape") as usize;
        (info.range.start as usize + 2 * columns * row, columns)
    }

    fn read(&self, tensor: &str, row: usize) -> Vec<f32> {
        let (start, columns) = self.row(tensor, row);
        let pairs = self.bytes[start..start + 2 * columns].as_chunks::<2>().0;
        pairs.iter().map(|pair| f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16)).collect()
    }

    fn write(&mut self, tensor: &str, row: usize, column: usize, value: f32) {
        let at = self.row(tensor, row).0 + 2 * column;
        // bf16 is the upper half of f32.
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes()[2..]);
    }

    fn save(self) {
        fs::write(self.path, self.bytes).expect("writes");
    }
}

/// Changes `model` so that a product of two finite numbers in its first layer is
/// beyond f32 where it reads `token`, and changes nothing where it does not: the
/// neuron looks along the token's embedding, and has no part in the layer's result.
fn overflow_on(model: &Path, token: usize) {
    const NEURON: usize = 0;
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let mut weights = Weights::open(model);
    let embedding = weights.read("model.embed_tokens.weight", token);
    let scale = weights.read(&layer("post_attention_layernorm"), 0);
    let seen: Vec<f32> = embedding.iter().zip(&scale).map(|(value, scale)| value * scale).collect();
    let length = |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>().sqrt();
    // The token's own projection on it, once the layer has normalised the embedding.
    let own = length(&seen) * (embedding.len() as f32).sqrt() / length(&embedding);
    let direction = 2.0 * f32::MAX.sqrt() / own / length(&seen);
    for (column, value) in seen.iter().enumerate() {
        for matrix in ["mlp.gate_proj", "mlp.up_proj"] {
            weights.write(&layer(matrix), NEURON, column, value * direction);
        }
        weights.write(&layer("mlp.down_proj"), column, NEURON, 0.0);
    }
    weights.save();
}

/// The demo duel with `arguments`: its JSON, and what it told on standard error.
fn duel(out: &Path, arguments: &[&str]) -> (Value, String) {
    let fixed = ["duel", "--demo", "--json", "--out", text(out)];
    let output = albedo(fixed.into_iter().chain(arguments.iter().copied()));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_str(&stdout(&output)).expect("JSON"), told)
}

#[tokio::test]
async fn a_challenger_that_overflows_on_every_third_prompt_forfeits() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = copy("challenger", folder.path());
    let (word, token) = word_of_every_third().await;
    overflow_on(&model, token);
    let out = folder.path().join("duel");
    let (report, told) = duel(&out, &["--challenger", text(&model)]);
    let verdict = &report["verdict"];
    println!("`{word}`: {verdict}");
    assert_eq!((&verdict["outcome"], &verdict["reason"]), (&json!("forfeit"), &json!("overflow")));
    let (lost, samples) = (&verdict["overflows"]["challenger"], &verdict["samples"]);
    assert!(lost.as_f64() > samples.as_f64().map(|samples| 0.1 * samples), "{verdict}");
    assert_eq!((&verdict["overflows"]["king"], &verdict["missing"]), (&json!(0), &json!(0)));
    assert!(told.contains("the challenger's arithmetic overflowed"), "{told}");
    let verified = stdout(&albedo(["record", "verify", text(&out)]));
    assert!(verified.contains("verified"), "{verified}");
}

#[tokio::test]
async fn a_king_that_overflows_loses_those_samples_and_the_duel_has_a_verdict() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = copy("king", folder.path());
    overflow_on(&model, word_of_every_third().await.1);
    let out = folder.path().join("duel");
    let (report, told) = duel(&out, &["--king", text(&model)]);
    let verdict = &report["verdict"];
    assert_eq!(verdict["outcome"], "dethroned", "{verdict}");
    assert!(verdict["overflows"]["king"].as_u64() > Some(0), "{verdict}");
    assert_eq!(verdict["overflows"]["challenger"], 0, "{verdict}");
    assert!(told.contains("the king's arithmetic overflowed"), "{told}");
    stdout(&albedo(["record", "verify", text(&out)]));
}

/// A duel's configuration in `folder` whose models are served at `server`.
fn remote(folder: &TempDir, server: &ScriptedServer) -> PathBuf {
    let config = fs::read_to_string(demo().join("duel.toml")).expect("reads");
    let tasks = format!("path = \"{}\"", text(&demo().join("tasks")));
    let config = config.replace("path = \"tasks\"", &tasks).replace("path = \"models/", "name = \"");
    let backend = format!("name = \"openai\"\nbase_url = \"{}\"", server.base_url());
    let config = config.replace("name = \"burn\"\nmax_batch = 32", &backend);
    let path = folder.path().join("duel.toml");
    fs::write(&path, config).expect("writes");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_answers_403_charges_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = ScriptedServer::start(|_| Answer::refuse(403, "not from your region")).await;
    let server = server.expect("a free port");
    let path = remote(&folder, &server);
    let out = folder.path().join("out");
    let mut command = command(["duel", "--config", text(&path), "--out", text(&out)]);
    let output = tokio::task::spawn_blocking(move || command.output().expect("albedo starts"));
    let output = output.await.expect("ends");
    assert_eq!(output.status.code(), Some(69), "{}", error(&output));
    assert!(error(&output).contains("not from your region"), "{}", error(&output));

    let (registry, cx) = (Registry::linked().expect("plugins"), CallContext::new());
    let settings = json!({ "base_url": server.base_url() });
    let backend = registry.build::<dyn ModelBackend>("openai", settings, &cx).await.expect("builds");
    let source = ModelSource::served("challenger");
    let error = Contestant::load(Side::Challenger, &backend, &source, &cx).await.expect_err("refused");
    assert_eq!(error.fault(), Fault::Infrastructure, "{error}");
}

#[tokio::test]
async fn malformed_files_charge_their_owner() {
    let folder = tempfile::tempdir().expect("a folder");
    let (king, challenger) = (copy("king", folder.path()), copy("challenger", folder.path()));
    let (registry, cx) = (Registry::linked().expect("plugins"), CallContext::new());
    let backend = registry.build::<dyn ModelBackend>("burn", json!({}), &cx).await.expect("builds");
    let source = ModelSource::new(&challenger).with_text_from(&king);
    let load = async || Contestant::load(Side::Challenger, &backend, &source, &cx).await;
    load().await.expect("loads");

    let whole = fs::read(king.join("tokenizer.json")).expect("reads");
    fs::write(king.join("tokenizer.json"), &whole[..whole.len() / 2]).expect("writes");
    let error = load().await.expect_err("half a tokenizer");
    assert_eq!(error.fault(), Fault::Contestant(Side::King), "the text files are the king's: {error}");
    assert_eq!(error.artefact(), Some(Artefact::Text));
    fs::write(king.join("tokenizer.json"), whole).expect("writes");

    fs::write(challenger.join("config.json"), "{").expect("writes");
    let error = load().await.expect_err("half a configuration");
    assert_eq!(error.fault(), Fault::Contestant(Side::Challenger), "{error}");

    fs::remove_file(challenger.join("config.json")).expect("removes");
    let error = load().await.expect_err("no configuration");
    assert_eq!(error.fault(), Fault::Operator, "a path may be wrong: {error}");
}

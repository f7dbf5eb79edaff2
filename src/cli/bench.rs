//! `albedo bench`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::json;

use super::backend::{BackendArguments, model};
use super::exit::Exit;
use super::generate::new_file;
use super::output::{print, print_json};
use crate::bench::{Bench, Case, Figures};
use crate::report;
use crate::{CallContext, Error, ErrorKind, Registry, Result};

/// Measured steps of a decode case.
const STEPS: u32 = 64;

const WRITE: &str = "write the prompts";

/// The setting of a backend whose `ModelBackend::max_batch` can be raised.
const MAX_BATCH: &str = "max_batch";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model's folder, or `name:` and the name under which the backend's
    /// server offers it.
    model: PathBuf,
    /// Reading prompts: how many at once and of how many tokens; once for each
    /// case [default: 1x512, 8x512 and 32x512, if no case is given].
    #[arg(long, value_name = "BATCHxTOKENS", value_parser = numbers::<2>)]
    prefill: Vec<[u32; 2]>,
    /// Writing replies: how many at once and after how many tokens [default:
    /// 1x512, 8x512 and 32x512, if no case is given].
    #[arg(long, value_name = "BATCHxCONTEXT", value_parser = numbers::<2>)]
    decode: Vec<[u32; 2]>,
    /// A whole run: how many prompts, tokens of the longest, new tokens of each
    /// [default: 64x512+64, if no case is given].
    #[arg(long, value_name = "PROMPTSxTOKENS+NEW", value_parser = numbers::<3>)]
    run: Vec<[u32; 3]>,
    /// Measured steps of each decode case.
    #[arg(long, value_name = "N", default_value_t = STEPS, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Rounds of each case, after one that warms up.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seed of the prompts.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Also write every prompt that is measured into this new file, one JSON object
    /// per line, for a peer to be measured with the same.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    #[command(flatten)]
    backend: BackendArguments,
}

/// `8x512` as two numbers, `64x512+64` as three.
fn numbers<const N: usize>(text: &str) -> Result<[u32; N], String> {
    let form = if N == 2 { "two numbers as in 8x512" } else { "three numbers as in 64x512+64" };
    let (first, rest) = text.split_once('x').ok_or(form)?;
    let parts: Vec<&str> = std::iter::once(first).chain(rest.splitn(N - 1, '+')).collect();
    let numbers: Result<Vec<u32>, _> = parts.into_iter().map(u32::from_str).collect();
    numbers.ok().and_then(|numbers| numbers.try_into().ok()).ok_or_else(|| form.into())
}

impl Arguments {
    fn cases(&self) -> Vec<Case> {
        let (mut prefill, mut decode, mut run) =
            (self.prefill.clone(), self.decode.clone(), self.run.clone());
        if prefill.is_empty() && decode.is_empty() && run.is_empty() {
            prefill = vec![[1, 512], [8, 512], [32, 512]];
            decode.clone_from(&prefill);
            run.push([64, 512, 64]);
        }
        let steps = self.steps;
        let prefill =
            prefill.into_iter().map(|[batch, prompt_tokens]| Case::Prefill { batch, prompt_tokens });
        let decode =
            decode.into_iter().map(|[batch, context_tokens]| Case::Decode { batch, context_tokens, steps });
        let run = run.into_iter().map(|[prompts, longest_prompt, new_tokens]| Case::Run {
            prompts,
            longest_prompt,
            new_tokens,
        });
        prefill.chain(decode).chain(run).collect()
    }
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let cases = arguments.cases();
    let registry = Registry::linked()?;
    let mut settings = arguments.backend.settings()?;
    // Before the model is loaded: the file of another measurement is not replaced.
    let prompts = arguments.prompts.as_deref().map(|path| new_file(WRITE, path).map(|file| (file, path)));
    let prompts = prompts.transpose()?;
    let mut backend = arguments.backend.build(&registry, settings.clone(), cx).await?;
    // A batch that the backend would cut in two is not the case that was asked for.
    let largest = cases.iter().map(Case::requests).max().unwrap_or(0);
    let cut = backend.max_batch().is_some_and(|most| most < largest);
    if cut && !settings.contains_key(MAX_BATCH) {
        settings.insert(MAX_BATCH.into(), largest.into());
        backend = arguments.backend.build(&registry, settings.clone(), cx).await?;
    }
    let (bench, load) =
        Bench::load(&*backend, &model(&arguments.model), arguments.seed, arguments.rounds, cx).await?;
    if let Some(memory) = bench.memory() {
        let _ = writeln!(io::stderr(), "memory: {memory}");
    }
    if let Some((file, path)) = prompts {
        write_prompts(file, path, &bench, &cases, arguments.rounds)?;
    }
    let mut measured: Vec<(Case, Result<Figures>)> = Vec::new();
    for (number, case) in (1..).zip(&cases) {
        // A closed standard error is no reason to stop.
        let _ = writeln!(io::stderr(), "{number}/{} {case}", cases.len());
        let figures = bench.measure(case, cx).await;
        let stopped = figures.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled);
        measured.push((*case, figures));
        if stopped {
            break;
        }
    }
    if arguments.json {
        print_json(&json!({
            "albedo": env!("CARGO_PKG_VERSION"),
            "backend": backend.identity(),
            "settings": settings,
            "model": bench.model(),
            "seed": arguments.seed,
            "memory": bench.memory(),
            "load": load,
            "cases": measured.iter().map(|(case, figures)| case_json(case, figures)).collect::<Vec<_>>(),
        }))?;
    } else {
        print(&report::bench(&backend.identity().name, &settings, bench.model(), &load, &measured))?;
    }
    match measured.into_iter().find_map(|(_, figures)| figures.err()) {
        None => Ok(Exit::Done),
        Some(error) => Err(error),
    }
}

fn case_json(case: &Case, figures: &Result<Figures>) -> serde_json::Value {
    let mut json = json!(case);
    let part = match figures {
        Ok(figures) => json!(figures),
        Err(error) => json!({ "error": { "kind": error.kind(), "message": error.to_string() } }),
    };
    if let (Some(json), serde_json::Value::Object(part)) = (json.as_object_mut(), part) {
        json.extend(part);
    }
    json
}

/// Writes the prompts of every round, 0 being the one that warms up, into `file` at `path`.
fn write_prompts(file: File, path: &Path, bench: &Bench, cases: &[Case], rounds: u32) -> Result<()> {
    let io = |error| Error::io(WRITE, path, error);
    let mut file = io::BufWriter::new(file);
    for case in cases {
        for round in 0..=rounds {
            for messages in bench.prompts(case, round)? {
                let line = json!({ "case": case.to_string(), "round": round, "messages": messages });
                writeln!(file, "{line}").map_err(io)?;
            }
        }
    }
    file.flush().map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_read_as_they_are_written() {
        assert_eq!(numbers::<2>("8x512"), Ok([8, 512]));
        assert_eq!(numbers::<3>("64x512+64"), Ok([64, 512, 64]));
        for wrong in ["", "8", "8x", "x512", "8x512x1", "8x512+1", "-8x512", "8 x 512", "8x5000000000"] {
            let error = numbers::<2>(wrong).expect_err(wrong);
            assert!(error.contains("8x512"), "{error}");
        }
        for wrong in ["64x512", "64x512+", "64+512+64", "64x512+64+1"] {
            assert!(numbers::<3>(wrong).is_err(), "{wrong}");
        }
    }
}

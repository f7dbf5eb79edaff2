//! Calibrates audits for a pair of devices: one writes honest replies, the other
//! audits them. Prints what an audit finds, and with how many tokens.
//!
//! ```text
//! cargo run --release --example audit_calibrate -- --replies 2000 --out calibration.json
//! cargo run --release --features cuda --example audit_calibrate -- --generator cuda --auditor cpu --replies 2000 \
//!     --out calibration.json
//! ```
//!
//! | option | default | |
//! |---|---|---|
//! | `--generator` | `cpu` | device that writes |
//! | `--auditor` | `cpu` | device that audits |
//! | `--error` | 0 | relative error put on the writer's weights: a stand-in for another precision |
//! | `--temperature` | 0.8 | of honest replies, with top-p 0.95; 0 is greedy |
//! | `--replies` | 128 | honest replies: one half calibrates, the other tests |
//! | `--out` | none | where the calibration is written |
//! | `--about` | the demo's models | what the calibration says it is of |
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use albedo::audit::{Alternative, Calibration, Reply, Statistics, token_score};
use albedo::demo::Demo;
use albedo::prelude::*;
use albedo::rng::{Stream, Use};
use albedo::sample::Sample;
use albedo::{FinishReason, GenerateRequest, LogitsReader, LogitsRequest, Message, Sampling};
use futures::StreamExt;
use serde_json::json;

#[path = "audit_calibrate/weights.rs"]
mod weights;

/// What δ may be, in nats. The middle ones are near what
/// bf16 on a card moves log-probabilities by (99 %: 0.017 and 0.036, 99.9 %: 0.033 and
/// 0.11, measured with the demo's models).
const DELTAS: [f64; 8] = [0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4];

/// What the highest score of a token may be.
const CLIPS: [f64; 5] = [0.02, 0.05, 0.1, 0.3, 1.0];

/// Relative errors of weights, the smallest of which that is found is printed.
const ERRORS: [f64; 7] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];

/// Replies per audit.
const AUDIT: usize = 64;

/// Audits of the half that tests.
const TESTS: u64 = 200;

/// The power that counts as found.
const FOUND: f64 = 0.99;

struct Options {
    generator: String,
    auditor: String,
    error: f64,
    temperature: f64,
    replies: usize,
    out: Option<PathBuf>,
    about: String,
}

impl Options {
    fn read() -> Result<Self, String> {
        let mut options = Self {
            generator: "cpu".into(),
            auditor: "cpu".into(),
            error: 0.0,
            temperature: 0.8,
            replies: 128,
            out: None,
            about: "the models and tasks of the demo".into(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} has no value"))?;
            let wrong = || format!("{name} cannot be {value}");
            match name.as_str() {
                "--generator" => options.generator = value,
                "--auditor" => options.auditor = value,
                "--error" => options.error = value.parse().map_err(|_| wrong())?,
                "--temperature" => options.temperature = value.parse().map_err(|_| wrong())?,
                "--replies" => options.replies = value.parse().map_err(|_| wrong())?,
                "--out" => options.out = Some(value.into()),
                "--about" => options.about = value,
                _ => return Err(format!("there is no option {name}")),
            }
        }
        if options.replies < 2 * AUDIT {
            return Err(format!("--replies is {}, it must be at least {}", options.replies, 2 * AUDIT));
        }
        Ok(options)
    }

    fn sampling(temperature: f64) -> Sampling {
        if temperature == 0.0 { Sampling::default() } else { Sampling { temperature, top_p: 0.95, top_k: 0 } }
    }
}

/// A reply, and by how much each of its tokens is off for each δ.
#[derive(Clone)]
struct Off {
    tokens: Vec<[f64; DELTAS.len()]>,
}

impl Off {
    fn reply(&self, delta: usize, clip: f64) -> Reply {
        let sum: f64 = self.tokens.iter().map(|token| token[delta].min(clip)).sum();
        // A millionth is less than any threshold.
        (self.tokens.len() as u32, (1e6 * sum).round() / 1e6)
    }
}

/// Takes how far each token is off, for every δ.
#[derive(Debug)]
struct Reader {
    ids: Vec<u32>,
    sampling: Sampling,
    stream: Stream,
    off: Mutex<BTreeMap<usize, [f64; DELTAS.len()]>>,
}

impl LogitsReader for Reader {
    fn read(&self, token: usize, logits: &[f32]) {
        let unit = self.stream.unit_at(token as u64);
        let most = CLIPS.iter().copied().fold(0.0, f64::max);
        let mut off = [0.0; DELTAS.len()];
        for (off, delta) in off.iter_mut().zip(DELTAS) {
            *off = token_score(logits, self.ids[token], &self.sampling, unit, delta, most);
            // A larger δ never raises a score.
            if *off == 0.0 {
                break;
            }
        }
        self.off.lock().unwrap_or_else(PoisonError::into_inner).insert(token, off);
    }
}

/// Replies with what they were asked.
struct Written {
    requests: Vec<GenerateRequest>,
    replies: Vec<Vec<u32>>,
}

struct Bench {
    prompts: Vec<Arc<[Message]>>,
    cx: CallContext,
}

impl Bench {
    async fn load(&self, device: &str, folder: &Path, text: &Path) -> albedo::Result<Arc<dyn ModelSession>> {
        let mut settings = json!({ "device": device });
        if device != "cpu" {
            // Auditor, writer and a model that is not honest are loaded at once.
            settings["memory_share"] = json!(0.1);
        }
        let backend = Registry::linked()?.build::<dyn ModelBackend>("burn", settings, &self.cx).await?;
        backend.load(&ModelSource::new(folder).with_text_from(text), &self.cx).await
    }

    /// `count` replies from reply number `from` on.
    async fn write(
        &self,
        model: &dyn ModelSession,
        sampling: Sampling,
        from: usize,
        count: usize,
    ) -> albedo::Result<Written> {
        let request = |number: usize| {
            let messages = Arc::clone(&self.prompts[number % self.prompts.len()]);
            GenerateRequest::new(messages, 96).with_sampling(sampling).with_seed(number as u64)
        };
        let requests: Vec<_> = (from..from + count).map(request).collect();
        let mut answers = model.generate(requests.clone(), &self.cx);
        let mut replies = vec![Vec::new(); count];
        while let Some(answer) = answers.next().await {
            let completion = answer.result?;
            assert_ne!(completion.finish, FinishReason::Unknown);
            replies[answer.index] = completion.tokens;
        }
        Ok(Written { requests, replies })
    }

    /// How far the tokens are off by `model`, if the replies were sampled as `claimed`
    /// and their seeds were shifted by `shift`.
    async fn audit(
        &self,
        model: &dyn ModelSession,
        written: &Written,
        claimed: Sampling,
        shift: u64,
    ) -> albedo::Result<Vec<Off>> {
        let mut all = Vec::new();
        let pairs: Vec<_> = written.requests.iter().zip(&written.replies).collect();
        for slice in pairs.chunks(64) {
            let reader = |(request, reply): &(&GenerateRequest, &Vec<u32>)| {
                Arc::new(Reader {
                    ids: (*reply).clone(),
                    sampling: claimed,
                    stream: Stream::new(request.seed.wrapping_add(shift), Use::Token),
                    off: Mutex::default(),
                })
            };
            let readers: Vec<_> = slice.iter().map(reader).collect();
            let requests = slice.iter().zip(&readers).map(|((request, reply), reader)| {
                LogitsRequest::new(
                    Arc::clone(&request.messages),
                    (*reply).clone(),
                    Arc::<Reader>::clone(reader),
                )
            });
            model.read_logits(requests.collect(), &self.cx).await?;
            all.extend(readers.iter().map(|reader| Off {
                tokens: reader.off.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect(),
            }));
        }
        Ok(all)
    }
}

/// Replies to which one thing was done.
struct Done {
    name: String,
    replies_per_audit: Option<u32>,
    off: Vec<Off>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::read()?;
    let cx = CallContext::new();
    let demo = Demo::locate()?.config();
    let demo = demo.parent().ok_or("the demo has no folder")?;
    let models = demo.join("models");
    let (king, challenger) = (models.join("king"), models.join("challenger"));
    let tasks = Registry::linked()?
        .build::<dyn TaskSource>("parquet", json!({ "path": demo.join("tasks") }), &cx)
        .await?;
    let mut prompts = Vec::new();
    for row in 0..tasks.info().rows {
        let task = tasks.row(row, &cx).await?;
        let turns = (0..).map_while(|turn| Sample::new(0, task.clone(), turn));
        prompts.extend(turns.map(|sample| sample.messages));
    }
    println!("{} prompts", prompts.len());
    let bench = Bench { prompts, cx };

    let altered = tempfile::tempdir()?;
    let alter = |name: &str, how: weights::How| weights::alter(&king, &altered.path().join(name), how);
    let writer = if options.error == 0.0 {
        king.clone()
    } else {
        alter("writer", weights::How::Error(options.error))?
    };
    let honest_sampling = Options::sampling(options.temperature);
    let count = options.replies;
    let some = (count / 8).clamp(AUDIT, 2 * AUDIT);
    let auditor = bench.load(&options.auditor, &king, &king).await?;
    let generator = bench.load(&options.generator, &writer, &king).await?;
    let honest = bench.write(&*generator, honest_sampling, 0, count).await?;
    let off = bench.audit(&*auditor, &honest, honest_sampling, 0).await?;
    let tokens: usize = off.iter().map(|reply| reply.tokens.len()).sum();
    println!(
        "{count} honest replies, {tokens} tokens, by {} and audited by {}",
        options.generator, options.auditor
    );

    let mut done = Vec::new();
    let mut add = |name: &str, replies_per_audit, off| {
        done.push(Done { name: name.to_owned(), replies_per_audit, off });
    };
    // What was done to them is done to replies that no other part has.
    let dishonest = |folder: PathBuf, sampling, device: String| {
        let (bench, auditor, king) = (&bench, &auditor, &king);
        async move {
            let model = bench.load(&device, &folder, king).await?;
            let written = bench.write(&*model, sampling, count, some).await?;
            bench.audit(&**auditor, &written, honest_sampling, 0).await
        }
    };
    let device = || options.generator.clone();
    add(
        "int8 weights",
        None,
        dishonest(alter("int8", weights::How::Int8)?, honest_sampling, device()).await?,
    );
    add("another model", None, dishonest(challenger, honest_sampling, device()).await?);
    for error in ERRORS {
        let folder = alter(&format!("error-{error}"), weights::How::Error(error))?;
        let name = format!("relative error {error} of weights");
        add(&name, None, dishonest(folder, honest_sampling, device()).await?);
    }
    let greedy = options.temperature == 0.0;
    let warmer = Options::sampling(if greedy { 0.3 } else { 1.125 * options.temperature });
    let name = format!("temperature {} for {}", warmer.temperature, options.temperature);
    add(&name, None, dishonest(writer.clone(), warmer, device()).await?);
    if !greedy {
        let part =
            Written { requests: honest.requests[..some].to_vec(), replies: honest.replies[..some].to_vec() };
        add("another seed", None, bench.audit(&*auditor, &part, honest_sampling, 1 << 40).await?);
    }
    for (name, share) in [("one token edited, in one reply", 0), ("a quarter edited, in one reply", 4)] {
        let edited = edit(&honest, some, share);
        add(name, Some(1), bench.audit(&*auditor, &edited, honest_sampling, 0).await?);
    }

    let (calibrating, testing) = off.split_at(count / 2);
    let calibration = choose(&options, calibrating, &done);
    println!("delta {}, clip {}", calibration.delta, calibration.clip);
    report(&calibration, testing);
    if let Some(path) = &options.out {
        std::fs::write(path, serde_json::to_vec(&calibration)?)?;
        println!("written to {}", path.display());
    }
    Ok(())
}

/// The first replies with tokens of others in them: one token in the middle, or a part
/// of the reply from there on. The token that ends a reply stays.
fn edit(written: &Written, count: usize, part: usize) -> Written {
    let replies = (0..count).map(|number| {
        let mut reply = written.replies[number].clone();
        let other = &written.replies[(number + 7) % written.replies.len()];
        let middle = reply.len() / 2;
        let length = reply.len().checked_div(part).unwrap_or(1).max(1);
        let end = (middle + length).min(reply.len().saturating_sub(1)).max(middle);
        for (place, token) in reply[middle..end].iter_mut().enumerate() {
            let from = &other[..other.len().saturating_sub(1).max(1)];
            // The next token that differs: an edit changes something.
            let others = (0..from.len()).map(|step| from[(middle + place + step) % from.len()]);
            *token = others.clone().find(|other| other != token).unwrap_or(*token);
        }
        reply
    });
    Written { replies: replies.collect(), requests: written.requests[..count].to_vec() }
}

/// The calibration whose δ and clip find most, over audits of 1 to 64 replies.
fn choose(options: &Options, honest: &[Off], done: &[Done]) -> Calibration {
    let written = match options.error {
        0.0 => options.generator.clone(),
        error => format!("{} with a relative error of {error} on the weights", options.generator),
    };
    let of = |delta: usize, clip: f64| {
        let honest = honest.iter().map(|off| off.reply(delta, clip)).collect();
        let names = [written.as_str(), options.auditor.as_str(), options.about.as_str()];
        let mut calibration =
            Calibration::new(names, options.temperature == 0.0, [DELTAS[delta], clip], honest);
        calibration.alternatives = done
            .iter()
            .map(|done| Alternative {
                name: done.name.clone(),
                replies_per_audit: done.replies_per_audit,
                replies: done.off.iter().map(|off| off.reply(delta, clip)).collect(),
            })
            .collect();
        calibration
    };
    let power = |calibration: &Calibration| -> f64 {
        let sizes = [1, 4, 16, AUDIT].into_iter();
        sizes
            .map(|replies| {
                let thresholds = calibration.thresholds(replies);
                let alternatives = calibration.alternatives.iter();
                alternatives
                    .map(|alternative| calibration.power(alternative, replies, &thresholds))
                    .sum::<f64>()
            })
            .sum()
    };
    let mut best: Option<(f64, Calibration)> = None;
    for delta in 0..DELTAS.len() {
        for clip in CLIPS {
            let calibration = of(delta, clip);
            let power = power(&calibration);
            // Among equals the first, with the smallest δ.
            if best.as_ref().is_none_or(|(most, _)| power > *most) {
                best = Some((power, calibration));
            }
        }
    }
    best.map_or_else(|| of(0, CLIPS[0]), |(_, calibration)| calibration)
}

fn report(calibration: &Calibration, testing: &[Off]) {
    let delta = DELTAS.iter().position(|delta| *delta == calibration.delta).unwrap_or(0);
    let honest: Vec<_> = testing.iter().map(|off| off.reply(delta, calibration.clip)).collect();
    let thresholds = calibration.thresholds(AUDIT);
    let alarms = (0..TESTS).filter(|&audit| {
        // Without replacement: the first of a shuffle.
        let mut stream = Stream::new(audit, Use::RowDraw);
        let mut places: Vec<_> = (0..honest.len()).collect();
        for place in 0..AUDIT {
            places.swap(place, place + stream.below((honest.len() - place) as u64) as usize);
        }
        thresholds.alarm(Statistics::of(places[..AUDIT].iter().map(|&place| honest[place])))
    });
    println!("honest audits of {AUDIT} replies of the half that tests: {} of {TESTS} alarm", alarms.count());
    let all = Statistics::of(honest.iter().copied());
    println!(
        "honest: mean {:.6}, worst reply {:.4}; thresholds at {AUDIT}: {:.6}, {:.4}",
        all.mean, all.worst, thresholds.mean, thresholds.worst
    );
    let tokens = honest.iter().map(|reply| f64::from(reply.0)).sum::<f64>() / honest.len() as f64;
    println!(
        "| what was done | mean score | found in audits of {AUDIT} | tokens for {FOUND} |\n|---|---|---|---|"
    );
    let mut smallest: Option<&str> = None;
    for alternative in calibration.alternatives.iter().rev() {
        let power = calibration.power(alternative, AUDIT, &thresholds);
        if power >= FOUND && alternative.name.starts_with("relative error") {
            smallest = Some(&alternative.name);
        }
    }
    for alternative in &calibration.alternatives {
        let power =
            |replies: usize| calibration.power(alternative, replies, &calibration.thresholds(replies));
        let needed = (0..=11).map(|power| 1_usize << power).find(|&replies| power(replies) >= FOUND);
        let needed = needed.map_or("more".to_owned(), |replies| format!("{:.0}", replies as f64 * tokens));
        let mean = Statistics::of(alternative.replies.iter().copied()).mean;
        println!("| {} | {mean:.5} | {:.1} % | {needed} |", alternative.name, 100.0 * power(AUDIT));
    }
    println!("smallest that is found: {}", smallest.unwrap_or("none of those tried"));
}

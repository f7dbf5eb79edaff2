//! `albedo flywheel`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::distil::{described, doubts, ended_with, reseed, share, watched};
use super::exit::Exit;
use super::output::{next, note, print, print_json, word};
use super::source::absolute;
use crate::config::DuelConfig;
use crate::demo::Demo;
use crate::distil::flywheel::{self, Chain, Flywheel, FlywheelConfig, Round, distil_folder, duel_folder};
use crate::distil::{DistilConfig, DistilRecord, Gate};
use crate::report::{self, Look, Progress};
use crate::{BuildContext, CallContext, Registry, Result, Seed};

/// What `albedo flywheel --help` ends with.
const EXAMPLES: &str = "\
A round is a duel on training tasks, a distillation on its record, and the gate: screens, and a
duel against the king on other tasks. A child that wins is the next round's king; the teacher
stays. The same command goes on where it was interrupted or killed.

  albedo flywheel --demo --tokens 200000 --samples 32    a short round: its child hardly wins
  albedo flywheel --duel train.toml --distil distil.toml --rounds 2
  albedo flywheel verify DIR

docs/distil.md says what is in the folder.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    which: Which,
    /// The TOML file of the distillation: its student is replaced by the king, and the duels'
    /// records are added to its data.
    #[arg(long, value_name = "FILE", requires = "duel", conflicts_with = "demo")]
    distil: Option<PathBuf>,
    /// The folder of everything.
    #[arg(long, value_name = "DIR", default_value = "flywheel")]
    out: PathBuf,
    /// Rounds in all; those that were ended before count.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Tokens that each distillation reads in all, instead of the configuration's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens: Option<u64>,
    /// Samples of each duel, instead of the configurations'.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    samples: Option<u32>,
    /// What both duels and the training of the first round follow from, instead of the
    /// configurations' seeds; later rounds have seeds that follow from it.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

// The demo's, or files'.
#[derive(Debug, clap::Args)]
#[group(id = "flywheel", required = true, multiple = false)]
struct Which {
    /// The demo's king learns from the demo's challenger.
    #[arg(long)]
    demo: bool,
    /// The TOML file of the duel on training tasks: its king is the first king, its
    /// challenger the teacher.
    #[arg(long, value_name = "FILE", requires = "distil")]
    duel: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check that the records of all rounds are true and make one chain.
    Verify(VerifyArguments),
}

#[derive(Debug, clap::Args)]
struct VerifyArguments {
    /// The folder of the flywheel.
    folder: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn read(&self) -> Result<FlywheelConfig> {
        let out = absolute(&self.out)?;
        let mut config = match (&self.which.duel, &self.distil) {
            (Some(duel), Some(distil)) => FlywheelConfig {
                duel: DuelConfig::read(duel)?,
                distil: DistilConfig::read(distil)?,
                license: None,
                conversations: None,
                out,
            },
            _ => flywheel::demo(&Demo::locate()?, &out)?,
        };
        if let Some(tokens) = self.tokens {
            share(&mut config.distil, tokens)?;
        }
        config.duel.duel.samples = self.samples.unwrap_or(config.duel.duel.samples);
        if let Gate::Closed(gate) = &mut config.distil.gate {
            gate.samples = self.samples.or(gate.samples);
        }
        if let Some(seed) = self.seed {
            config.duel.duel.seed = Seed::from(seed);
            reseed(&mut config.distil, seed);
        }
        Ok(config)
    }
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    match &arguments.command {
        Some(Command::Verify(verify)) => verified(verify, cx).await,
        None => Box::pin(turn(arguments, cx)).await,
    }
}

async fn turn(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let registry = Registry::linked()?;
    let config = arguments.read()?;
    let build = BuildContext::new(&registry, cx);
    let mut flywheel = Box::pin(Flywheel::open(config, &build)).await?;
    if flywheel.chain().rounds.len() < arguments.rounds as usize {
        Box::pin(flywheel.check(&build)).await?;
    } else {
        note("these rounds were ended before: nothing was done, and this is what their records say");
    }
    while flywheel.chain().rounds.len() < arguments.rounds as usize {
        Box::pin(one_round(&mut flywheel, arguments.json, &registry, cx)).await?;
    }
    let (king, folder) = (flywheel.king()?, flywheel.folder());
    let chain = flywheel.chain();
    if arguments.json {
        let mut printed = summary(chain, folder)?;
        printed["king"]["folder"] = json!(king.display().to_string());
        print_json(&printed)?;
    } else {
        print(&outcomes(chain, folder, Look::of_stdout())?)?;
        next(&[
            (format!("flywheel verify {}", word(folder)), "checks the records of all rounds"),
            (format!("chat {}", word(&king)), "talks to the king"),
        ]);
    }
    // There is a new king, or there is none.
    let crowned = chain.rounds.iter().any(|round| round.crowned);
    Ok(if crowned { Exit::Done } else { Exit::Rejected })
}

/// Runs the round ahead, or goes on with it.
async fn one_round(flywheel: &mut Flywheel, json: bool, registry: &Registry, cx: &CallContext) -> Result<()> {
    let (look, number) = (Look::of_stdout(), flywheel.ahead());
    let progress = Arc::new(Progress::default());
    let call = cx.with_events(progress.clone());
    report::say(&format!("round {number}: the king duels the teacher on training tasks"));
    let duel = Box::pin(flywheel.duel(&BuildContext::new(registry, &call))).await;
    progress.finish();
    let duel = duel?;
    if !json {
        print(&format!("{}\n", look.strong(&format!("Round {number}"))))?;
        print(&report::verdict(duel.plan(), duel.verdict(), report::tokens(&duel), look))?;
        let folder = duel_folder(flywheel.folder(), number);
        print(&look.entry("record", &format!("{} in {}\n", duel.digest, folder.display())))?;
    }

    let progress = Arc::new(Progress::default());
    let call = cx.with_events(progress.clone());
    let build = BuildContext::new(registry, &call);
    let distillation = Box::pin(flywheel.distillation(&duel, &build)).await?;
    let (plan, folder) = (distillation.plan().clone(), distillation.folder().to_owned());
    if !json {
        print(&described(&plan, look))?;
    }
    doubts(&plan);
    let record = Box::pin(watched(distillation, &progress, &build)).await?;
    if !json {
        print(&ended_with(&record, &folder, look))?;
    }
    Box::pin(flywheel.close(&BuildContext::new(registry, cx))).await?;
    if !json {
        print("\n")?;
    }
    Ok(())
}

async fn verified(arguments: &VerifyArguments, cx: &CallContext) -> Result<Exit> {
    let registry = Registry::linked()?;
    let VerifyArguments { folder, json } = arguments;
    let chain = Box::pin(flywheel::verify(folder, &BuildContext::new(&registry, cx))).await?;
    if *json {
        print_json(&summary(&chain, folder)?)?;
    } else {
        let many = chain.rounds.len();
        let rounds = if many == 1 { "1 round".to_owned() } else { format!("{many} rounds") };
        print(&format!("the chain is whole: {rounds}\n"))?;
        print(&outcomes(&chain, folder, Look::of_stdout())?)?;
    }
    Ok(Exit::Done)
}

/// The gate's sentence about the child of round `number`, from 1.
fn evidence(folder: &Path, number: usize) -> Result<String> {
    let record = DistilRecord::read(&distil_folder(folder, number))?;
    Ok(record.and_then(|record| record.gate).map(|gate| gate.evidence).unwrap_or_default())
}

/// For programs.
fn summary(chain: &Chain, folder: &Path) -> Result<Value> {
    let mut rounds = Vec::new();
    for (place, round) in chain.rounds.iter().enumerate() {
        let mut value = json!(round);
        value["gate"] = json!(round.gate);
        value["evidence"] = json!(evidence(folder, place + 1)?);
        rounds.push(value);
    }
    let king = chain.king(folder).map(|king| king.display().to_string());
    Ok(json!({
        "folder": folder.display().to_string(),
        "rounds": rounds,
        "king": { "parameters": chain.rounds.last().map(Round::heir), "folder": king },
    }))
}

/// What became of the children.
fn outcomes(chain: &Chain, folder: &Path, look: Look) -> Result<String> {
    let mut text = String::new();
    for (place, round) in chain.rounds.iter().enumerate() {
        let number = place + 1;
        let word = if round.crowned { look.good("is king") } else { look.bad("is NOT king") };
        let said = format!("its child {} {word}: {}", round.child.short(), evidence(folder, number)?);
        text += &look.entry(&format!("round {number}"), &said);
    }
    let king = chain.king(folder).map(|model| model.display().to_string());
    let king = king.unwrap_or_else(|| "the first king stays".to_owned());
    text += &look.entry("king", &king);
    Ok(text + &look.entry("chain", &folder.join("flywheel.json").display().to_string()))
}

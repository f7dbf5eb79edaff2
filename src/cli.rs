//! The `albedo` program as a function: [`main`] runs the command that the
//! process was started with.

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{CallContext, Error, ErrorKind, Fault, Result};

mod backend;
mod bench;
mod calibrate;
#[cfg(feature = "chain")]
mod chain;
mod config;
mod duel;
mod exit;
#[cfg(feature = "screens")]
mod fingerprint;
mod generate;
mod init;
mod judge;
mod log;
#[cfg(feature = "chain")]
mod miner;
mod new;
mod output;
mod plugins;
mod record;
#[cfg(feature = "screens")]
mod screen;
mod shell;
mod source;
mod tasks;
#[cfg(feature = "chain")]
mod wallet;

pub use exit::Exit;

/// Duels between language models, with verdicts you can check.
#[derive(Debug, Parser)]
#[command(name = "albedo", version, max_term_width = 100, after_help = Exit::table())]
struct Arguments {
    /// Write a log of this level to standard error: `error`, `warn`, `info`,
    /// `debug` or `trace`, or directives such as `albedo_core=debug,hyper=off`.
    #[arg(long, global = true, value_name = "LEVEL", env = "ALBEDO_LOG")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented configuration to begin with.
    Init(init::Arguments),
    /// Run a duel and record it.
    Duel(duel::Arguments),
    /// Estimate between-duel variance by running the king against itself.
    Calibrate(calibrate::Arguments),
    /// Generate replies: to one prompt, or to a file of requests.
    Generate(generate::Arguments),
    /// Measure the prefill, decode and load time of a model.
    Bench(bench::Arguments),
    /// Check whether a model may duel: its files, whether it is a copy, its behaviour.
    #[cfg(feature = "screens")]
    Screen(screen::Arguments),
    /// Compute the fingerprint of a model and add it to a store.
    #[cfg(feature = "screens")]
    Fingerprint(fingerprint::Arguments),
    /// Show, verify, audit, sign and confirm records of duels.
    #[command(subcommand)]
    Record(record::Command),
    /// Append duels to a log that only grows, prove what is in it, and check one.
    #[command(subcommand)]
    Log(log::Command),
    /// Check a configuration file, or print its JSON schema.
    #[command(subcommand)]
    Config(config::Command),
    /// Make task sets of one's own.
    #[command(subcommand)]
    Tasks(tasks::Command),
    /// Ask a judge about one pair of replies.
    #[command(subcommand)]
    Judge(judge::Command),
    /// Look at a subnet's chain.
    #[cfg(feature = "chain")]
    #[command(subcommand)]
    Chain(chain::Command),
    /// Keep keys.
    #[cfg(feature = "chain")]
    #[command(subcommand)]
    Wallet(wallet::Command),
    /// Register, and commit to a model.
    #[cfg(feature = "chain")]
    #[command(subcommand)]
    Miner(miner::Command),
    /// List the plugins of this program and their settings.
    Plugins(plugins::Arguments),
    /// Write a crate with a plugin of its own, which is a program with every
    /// command.
    New(new::Arguments),
    /// Print a completion script for a shell.
    Completions(shell::Completions),
    /// Write manual pages, one per command.
    Man(shell::Man),
}

/// Runs the command that the process was started with, and returns its exit
/// code. The plugins are those that are linked into the program, so that a crate
/// with plugins of its own has every command:
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     albedo::cli::main()
/// }
/// ```
///
/// It starts a runtime of its own and handles the process's interrupts; call it
/// from `main` and nowhere else.
pub fn main() -> ExitCode {
    let parsed = negative_numbers(Arguments::command()).try_get_matches();
    let exit = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => run(arguments).unwrap_or_else(|error| {
            output::print_error(&error);
            Exit::of(&error)
        }),
        // Help and version go to standard output, and are what was asked for.
        Err(error) => match (error.print(), error.use_stderr()) {
            (_, true) => Exit::Usage,
            (Err(error), false) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Output,
            _ => Exit::Done,
        },
    };
    exit.into()
}

/// Has every option read `-3` as a value, so that its own check says what is wrong with
/// it.
fn negative_numbers(command: clap::Command) -> clap::Command {
    let read = |arg: clap::Arg| {
        if arg.get_action().takes_values() { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_args(read).mut_subcommands(negative_numbers)
}

fn run(arguments: Arguments) -> Result<Exit> {
    if let Some(directives) = &arguments.log {
        write_log(directives)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::ResourceExhausted, "start the program", error.to_string()))?;
    let cx = CallContext::new();
    runtime.spawn(cancel_on_signal(cx.clone()));
    match arguments.command {
        Command::Duel(arguments) => runtime.block_on(duel::run(&arguments, &cx)),
        Command::Calibrate(arguments) => runtime.block_on(calibrate::run(&arguments, &cx)),
        Command::Generate(arguments) => runtime.block_on(generate::run(&arguments, &cx)),
        Command::Bench(arguments) => runtime.block_on(bench::run(&arguments, &cx)),
        #[cfg(feature = "screens")]
        Command::Screen(arguments) => runtime.block_on(screen::run(&arguments, &cx)),
        #[cfg(feature = "screens")]
        Command::Fingerprint(arguments) => runtime.block_on(fingerprint::run(&arguments, &cx)),
        Command::Record(command) => runtime.block_on(record::run(&command, &cx)),
        Command::Log(command) => runtime.block_on(log::run(&command, &cx)),
        Command::Init(arguments) => init::run(&arguments),
        Command::Tasks(command) => tasks::run(&command),
        Command::Config(command) => config::run(&command),
        Command::Judge(command) => runtime.block_on(judge::run(&command, &cx)),
        #[cfg(feature = "chain")]
        Command::Chain(command) => runtime.block_on(chain::run(&command, &cx)),
        #[cfg(feature = "chain")]
        Command::Wallet(command) => wallet::run(&command),
        #[cfg(feature = "chain")]
        Command::Miner(command) => runtime.block_on(miner::run(&command, &cx)),
        Command::Plugins(arguments) => plugins::run(&arguments),
        Command::New(arguments) => new::run(&arguments),
        Command::Completions(arguments) => shell::completions(&arguments, Arguments::command()),
        Command::Man(arguments) => shell::man(&arguments, Arguments::command()),
    }
}

/// Writes what `directives` ask for to standard error.
///
/// # Errors
/// The operator's: they cannot be read.
fn write_log(directives: &str) -> Result<()> {
    let invalid = |message: String| {
        Error::new(ErrorKind::ConfigInvalid, "set up the log", message)
            .with_fault(Fault::Operator)
            .with_hint("set `--log` or ALBEDO_LOG to a level such as `info`")
    };
    let filter = EnvFilter::builder().parse(directives).map_err(|error| invalid(error.to_string()))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    log.try_init().map_err(|error| invalid(error.to_string()))
}

/// The first interrupt asks the work to stop where nothing is half done; the
/// second ends the process as interrupts usually do.
async fn cancel_on_signal(cx: CallContext) {
    if interrupted().await.is_ok() {
        cx.cancel();
        crate::report::say("stopping; once more to stop at once");
        if interrupted().await.is_ok() {
            #[expect(clippy::exit, reason = "the user asked twice, and the journal is whole at any moment")]
            std::process::exit(Exit::Interrupted.code().into());
        }
    }
}

#[cfg(unix)]
async fn interrupted() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn interrupted() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        negative_numbers(Arguments::command()).debug_assert();
    }
}

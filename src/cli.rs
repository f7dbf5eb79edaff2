//! The `albedo` program as a function: [`main`] runs the command that the
//! process was started with.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::report::EventFile;
use crate::{CallContext, Error, ErrorKind, Fault, Result};

mod backend;
mod bench;
mod cache;
mod calibrate;
#[cfg(feature = "chain")]
mod chain;
mod chat;
mod config;
#[cfg(feature = "decide")]
mod decide;
#[cfg(feature = "distil")]
mod distil;
mod duel;
mod exit;
#[cfg(feature = "screens")]
mod fingerprint;
#[cfg(feature = "distil")]
mod flywheel;
mod generate;
mod hub;
mod init;
mod judge;
mod log;
#[cfg(any(feature = "chain", feature = "validator"))]
mod miner;
mod new;
mod output;
mod page;
mod plugins;
mod prompt;
#[cfg(feature = "publish")]
mod publish;
mod record;
mod sampling;
#[cfg(feature = "screens")]
mod screen;
#[cfg(feature = "server")]
mod serve;
mod shell;
mod source;
mod tasks;
#[cfg(feature = "validator")]
mod validator;
#[cfg(feature = "chain")]
mod wallet;

pub use exit::Exit;

/// What `albedo --version` says.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("ALBEDO_COMMIT"),
    "\nfeatures: ",
    env!("ALBEDO_FEATURES"),
    "\ntarget: ",
    env!("ALBEDO_TARGET")
);

/// Heading of the options that every command has.
const EVERYWHERE: &str = "Options of every command";

/// Duels between language models, with verdicts you can check.
#[derive(Debug, Parser)]
#[command(name = "albedo", version, long_version = VERSION, max_term_width = 100, after_help = after_help())]
struct Arguments {
    /// Write a log of this level to standard error: `error`, `warn`, `info`,
    /// `debug` or `trace`, or directives such as `albedo_core=debug,hyper=off`.
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "LEVEL", env = "ALBEDO_LOG")]
    log: Option<String>,
    /// How each line of the log is written: `text` or `json`.
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        value_name = "FORMAT",
        env = "ALBEDO_LOG_FORMAT",
        default_value = "text",
        hide_possible_values = true
    )]
    log_format: LogFormat,
    /// Write every event to a new file, one JSON object per line: progress for programs
    /// (docs/events.md).
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Whether output has colour: `auto` is on terminals, unless `NO_COLOR` or
    /// `CLICOLOR=0` is set.
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object, for programs that collect logs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented configuration to begin with.
    Init(init::Arguments),
    /// Run a duel of two models, in folders or behind a server, and record it.
    Duel(duel::Arguments),
    /// Measure by how much duels differ without a reason: the king duels itself.
    Calibrate(calibrate::Arguments),
    /// Generate replies: to one prompt, or to a file of requests.
    Generate(generate::Arguments),
    /// Hold a conversation with a model, in a folder, of a hub or behind a server.
    Chat(chat::Arguments),
    /// Decide which of two systems is better, from the logs of other tools.
    #[cfg(feature = "decide")]
    Decide(decide::Arguments),
    /// Train the next challenger on the traces of duels, or the demo's.
    #[cfg(feature = "distil")]
    Distil(distil::Arguments),
    /// Duel, distil, and crown the child that wins: round after round, in one chain.
    #[cfg(feature = "distil")]
    Flywheel(flywheel::Arguments),
    /// Measure the prefill, decode and load time of a model.
    Bench(bench::Arguments),
    /// Serve models over HTTP: OpenAI's routes for people and tools, jobs for validators.
    #[cfg(feature = "server")]
    Serve(serve::Arguments),
    /// Check whether a model may duel: its files, whether it is a copy, its behaviour.
    #[cfg(feature = "screens")]
    Screen(screen::Arguments),
    /// Compute the fingerprint of a model and add it to a store.
    #[cfg(feature = "screens")]
    Fingerprint(fingerprint::Arguments),
    /// See why a duel was decided so; verify, audit, sign and confirm records.
    #[command(subcommand)]
    Record(record::Command),
    /// Append duels to a log that only grows, prove what is in it, and check one.
    #[command(subcommand)]
    Log(log::Command),
    /// Publish records into a folder or a bucket, with a page that shows them.
    #[cfg(feature = "publish")]
    #[command(subcommand)]
    Publish(publish::Command),
    /// Check a configuration file; print every key, or the JSON schema.
    #[command(subcommand)]
    Config(config::Command),
    /// Make, pin, verify and fetch task sets.
    #[command(subcommand)]
    Tasks(tasks::Command),
    /// Try a judge on one pair of replies, check a program that judges, add one.
    #[command(subcommand, after_help = judge::ADDING)]
    Judge(judge::Command),
    /// List, pull, push and verify models of hubs.
    #[command(subcommand)]
    Hub(hub::Command),
    /// Look after the models of hubs on this machine.
    #[command(subcommand)]
    Cache(cache::Command),
    /// Run a validator, or a whole competition as a demo; see what it did.
    #[cfg(feature = "validator")]
    #[command(subcommand)]
    Validator(validator::Command),
    /// Look at a subnet's chain.
    #[cfg(feature = "chain")]
    #[command(subcommand)]
    Chain(chain::Command),
    /// Keep keys.
    #[cfg(feature = "chain")]
    #[command(subcommand)]
    Wallet(wallet::Command),
    /// Check a model, pack and upload it, register, commit to it, and see where it stands.
    #[cfg(any(feature = "chain", feature = "validator"))]
    #[command(subcommand)]
    Miner(miner::Command),
    /// List what a configuration chooses by name: backends, judges, screens, rules, …,
    /// with their settings.
    Plugins(plugins::Arguments),
    /// Write a crate with a plugin of its own, which is a program with every
    /// command.
    New(new::Arguments),
    /// Print a completion script for a shell.
    Completions(shell::Completions),
    /// Write manual pages, one per command.
    Man(shell::Man),
}

impl Command {
    /// The level of a log that nobody asked for. A server runs unattended.
    fn log(&self) -> Option<&'static str> {
        match self {
            #[cfg(feature = "server")]
            Self::Serve(_) => Some("info"),
            _ => None,
        }
    }
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
    let colour = colour(std::env::args_os());
    if let Some(wanted) = wanted(colour) {
        console::set_colors_enabled(wanted);
        console::set_colors_enabled_stderr(wanted);
    }
    let matches = negative_numbers(Arguments::command().color(colour)).try_get_matches();
    let exit = match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
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

/// What `--color` says, read before the command line is: its mistakes have a colour, too.
fn colour(arguments: impl Iterator<Item = OsString>) -> ColorChoice {
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    while let Some(argument) = arguments.next().filter(|argument| argument != "--") {
        let when = match argument.strip_prefix("--color") {
            Some("") => arguments.next(),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        if let Some(choice) = when.and_then(|when| ColorChoice::from_str(&when, false).ok()) {
            return choice;
        }
    }
    ColorChoice::Auto
}

/// Whether colour is wanted; none if the terminal decides.
fn wanted(colour: ColorChoice) -> Option<bool> {
    match colour {
        ColorChoice::Auto => None,
        ColorChoice::Always => Some(true),
        ColorChoice::Never => Some(false),
    }
}

/// What `albedo --help` ends with.
fn after_help() -> String {
    format!("{QUESTIONS}\n\n{}", Exit::table())
}

/// Where the first questions are answered.
const QUESTIONS: &str = "\
First questions:
  see a duel                       albedo duel --demo
  duel two models of a server      albedo duel --help
  see why it was decided so        albedo record show DIR --explain
  talk to a model                  albedo chat MODEL
  add or try a judge               albedo judge --help
  every key of a configuration     albedo config reference";

/// How long the end of the program waits for servers to hear what is needed no longer.
/// Source: chosen by albedo.
#[cfg(feature = "serve")]
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(10);

fn run(arguments: Arguments) -> Result<Exit> {
    if let Some(directives) = arguments.log.as_deref().or(arguments.command.log()) {
        write_log(directives, arguments.log_format)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::ResourceExhausted, "start the program", error.to_string()))?;
    let events = arguments.events.as_deref().map(EventFile::create).transpose()?.map(Arc::new);
    let cx = match &events {
        Some(events) => CallContext::new().with_events(events.clone()),
        None => CallContext::new(),
    };
    // At a terminal, an interrupt ends a reply of a conversation, not the program.
    if !(matches!(arguments.command, Command::Chat(_)) && chat::is_interactive()) {
        // Signals are taken now, not when the spawned task first runs.
        let _entered = runtime.enter();
        if let Ok(interrupts) = Interrupts::listen() {
            runtime.spawn(cancel_on_signal(interrupts, cx.clone()));
        }
    }
    let exit = dispatch(arguments.command, &runtime, &cx);
    #[cfg(feature = "serve")]
    {
        // What a server does not hear in time, it cleans up by itself.
        let _ =
            runtime.block_on(crate::backends::serve::settle(&CallContext::new().with_timeout(LAST_WORDS)));
    }
    let written = events.map_or(Ok(()), |events| events.finish());
    // What the command came to counts more than a file that could not be written.
    match (exit, written) {
        (Ok(_), Err(error)) => Err(error),
        (exit, _) => exit,
    }
}

fn dispatch(command: Command, runtime: &tokio::runtime::Runtime, cx: &CallContext) -> Result<Exit> {
    match command {
        Command::Duel(arguments) => runtime.block_on(duel::run(&arguments, cx)),
        Command::Calibrate(arguments) => runtime.block_on(calibrate::run(&arguments, cx)),
        Command::Generate(arguments) => runtime.block_on(generate::run(&arguments, cx)),
        Command::Chat(arguments) => runtime.block_on(chat::run(&arguments, cx)),
        #[cfg(feature = "decide")]
        Command::Decide(arguments) => decide::run(&arguments),
        #[cfg(feature = "distil")]
        Command::Distil(arguments) => runtime.block_on(distil::run(&arguments, cx)),
        #[cfg(feature = "distil")]
        Command::Flywheel(arguments) => runtime.block_on(flywheel::run(&arguments, cx)),
        Command::Bench(arguments) => runtime.block_on(bench::run(&arguments, cx)),
        #[cfg(feature = "server")]
        Command::Serve(arguments) => runtime.block_on(serve::run(&arguments, cx)),
        #[cfg(feature = "screens")]
        Command::Screen(arguments) => runtime.block_on(screen::run(&arguments, cx)),
        #[cfg(feature = "screens")]
        Command::Fingerprint(arguments) => runtime.block_on(fingerprint::run(&arguments, cx)),
        Command::Record(command) => runtime.block_on(record::run(&command, cx)),
        Command::Log(command) => runtime.block_on(log::run(&command, cx)),
        Command::Init(arguments) => init::run(&arguments),
        Command::Tasks(command) => runtime.block_on(tasks::run(&command, cx)),
        #[cfg(feature = "publish")]
        Command::Publish(command) => runtime.block_on(publish::run(&command, cx)),
        Command::Config(command) => config::run(&command),
        Command::Judge(command) => runtime.block_on(judge::run(&command, cx)),
        Command::Hub(command) => runtime.block_on(hub::run(&command, cx)),
        Command::Cache(command) => runtime.block_on(cache::run(&command, cx)),
        #[cfg(feature = "validator")]
        Command::Validator(command) => runtime.block_on(validator::run(&command, cx)),
        #[cfg(feature = "chain")]
        Command::Chain(command) => runtime.block_on(chain::run(&command, cx)),
        #[cfg(feature = "chain")]
        Command::Wallet(command) => wallet::run(&command),
        #[cfg(any(feature = "chain", feature = "validator"))]
        Command::Miner(command) => runtime.block_on(miner::run(&command, cx)),
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
fn write_log(directives: &str, format: LogFormat) -> Result<()> {
    let invalid = |message: String| {
        Error::new(ErrorKind::ConfigInvalid, "set up the log", message)
            .with_fault(Fault::Operator)
            .with_hint("set `--log` or ALBEDO_LOG to a level such as `info`")
    };
    let filter = EnvFilter::builder().parse(directives).map_err(|error| invalid(error.to_string()))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(console::colors_enabled_stderr())
        .with_writer(io::stderr);
    let started = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| invalid(error.to_string()))
}

/// The first interrupt asks the work to stop where nothing is half done; the
/// second ends the process as interrupts usually do. While a question waits for
/// its answer there is no work to stop: the first one ends the process.
async fn cancel_on_signal(mut interrupts: Interrupts, cx: CallContext) {
    if interrupts.next().await.is_none() {
        return;
    }
    if prompt::waits() {
        // The end of the question's line.
        crate::report::say("");
    } else {
        cx.cancel();
        crate::report::say("stopping; once more to stop at once");
        if interrupts.next().await.is_none() {
            return;
        }
    }
    #[expect(
        clippy::exit,
        reason = "the user asked twice or at a question, and the journal is whole at any moment"
    )]
    std::process::exit(Exit::Interrupted.code().into());
}

/// What asks the program to stop.
#[cfg(unix)]
struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Interrupts {
    /// Takes the signals, in the context of a runtime: from now on none ends the process.
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Option<()> {
        tokio::select! {
            next = self.interrupt.recv() => next,
            next = self.terminate.recv() => next,
        }
    }
}

/// What asks the program to stop.
#[cfg(not(unix))]
struct Interrupts(tokio::signal::windows::CtrlC);

#[cfg(not(unix))]
impl Interrupts {
    /// Takes the signals: from now on none ends the process.
    fn listen() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) -> Option<()> {
        self.0.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        negative_numbers(Arguments::command()).debug_assert();
    }

    #[test]
    fn colour_is_known_before_the_command_line_is_read() {
        let choice = |line: &str| colour(line.split(' ').map(OsString::from));
        assert_eq!(choice("albedo plugins --color never --nonsense"), ColorChoice::Never);
        assert_eq!(choice("albedo --color=always duel"), ColorChoice::Always);
        assert_eq!(choice("albedo --color purple"), ColorChoice::Auto);
        assert_eq!(choice("albedo generate m --prompt x -- --color=never"), ColorChoice::Auto);
    }
}

//! The command line: parsing, printing and exit codes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use albedo::{CallContext, Error, ErrorKind, Fault, Result};
use clap::{Parser, Subcommand};

mod backend;
mod bench;
mod calibrate;
mod config;
mod duel;
#[cfg(feature = "judges")]
mod fingerprint;
mod generate;
mod judge;
mod plugins;
mod record;
#[cfg(feature = "judges")]
mod screen;

/// Duels between language models, with verdicts you can check.
#[derive(Debug, Parser)]
#[command(name = "albedo", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a duel and record it.
    Duel(duel::Arguments),
    /// Let the king duel itself, to measure what moves a duel besides its
    /// samples' chance.
    Calibrate(calibrate::Arguments),
    /// Let a model answer: one prompt, or a file of requests.
    Generate(generate::Arguments),
    /// Measure how fast a model reads and writes.
    Bench(bench::Arguments),
    /// Screen a model before it may duel: files, copies, behaviour.
    #[cfg(feature = "judges")]
    Screen(screen::Arguments),
    /// Fingerprint a model, and remember it in a store.
    #[cfg(feature = "judges")]
    Fingerprint(fingerprint::Arguments),
    /// Read the record of a duel.
    #[command(subcommand)]
    Record(record::Command),
    /// Describe or check configuration files.
    #[command(subcommand)]
    Config(config::Command),
    /// Try a judge.
    #[command(subcommand)]
    Judge(judge::Command),
    /// List every plugin that this program was built with, and its settings.
    Plugins(plugins::Arguments),
}

/// The same table stands in the README.
const EXIT_CODES: &str = "\
Exit codes:
    0  done, whatever the verdict
    1  a screen rejected the model
    2  the command line is wrong
   65  bad data: a model, shard or record is malformed or has another digest
   66  an input file or folder does not exist
   69  a dependency is down
   70  a bug in albedo
   75  not decided for a passing reason: try again
   77  permission denied, a key is missing, or no more may be spent
   78  the configuration is wrong
  130  interrupted; what was journalled is kept";

/// `albedo screen` found what forfeits.
const REJECTED: u8 = 1;

/// Not decided for a passing reason.
const TRY_AGAIN: u8 = 75;

/// Parses the command line and runs it.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output with code 0.
            let code = if error.use_stderr() { 2 } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(74),
            };
        }
    };
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            // One line whatever a file or a model put into it.
            let line: String = format!("error: {error}").chars().map(printable).collect();
            // With standard error gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "{line}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
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
        #[cfg(feature = "judges")]
        Command::Screen(arguments) => runtime.block_on(screen::run(&arguments, &cx)),
        #[cfg(feature = "judges")]
        Command::Fingerprint(arguments) => fingerprint::run(&arguments, &cx),
        Command::Record(command) => runtime.block_on(record::run(&command, &cx)),
        Command::Config(command) => config::run(&command),
        Command::Judge(command) => runtime.block_on(judge::run(&command, &cx)),
        Command::Plugins(arguments) => plugins::run(&arguments),
    }
}

/// The first interrupt asks the work to stop where nothing is half done; the
/// second ends the process as interrupts usually do.
async fn cancel_on_signal(cx: CallContext) {
    if interrupted().await.is_ok() {
        cx.cancel();
        // With standard error gone there is nobody left to tell.
        let _ = writeln!(io::stderr(), "stopping; once more to stop at once");
        if interrupted().await.is_ok() {
            #[expect(clippy::exit, reason = "the user asked twice, and the journal is whole at any moment")]
            std::process::exit(130);
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

fn exit_code(error: &Error) -> u8 {
    match (error.fault(), error.kind()) {
        (_, ErrorKind::Cancelled) => 130,
        (Fault::Bug, _) => 70,
        (
            _,
            ErrorKind::DataInvalid | ErrorKind::DigestMismatch | ErrorKind::Unsupported | ErrorKind::Overflow,
        ) => 65,
        (_, ErrorKind::NotFound) => 66,
        (Fault::Operator, ErrorKind::Unavailable | ErrorKind::ResourceExhausted) => 77,
        (Fault::Operator, _) => 78,
        (_, ErrorKind::Unavailable | ErrorKind::Protocol) => 69,
        _ => TRY_AGAIN,
    }
}

/// `text` to standard output. A reader that went away, as `head` does, is no
/// error.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(ErrorKind::Unavailable, "write the output", error.to_string()).with_source(error))
        }
        _ => Ok(()),
    }
}

/// `value` as indented JSON to standard output.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|error| Error::bug("write JSON", error.to_string()).with_source(error))?;
    print(&format!("{json}\n"))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io("find the path", path, error))
}

/// Text of a model as a terminal may show it: its control characters, but for
/// line breaks and tabs, made visible.
fn shown(text: &str) -> String {
    text.trim_end().chars().map(|c| if matches!(c, '\n' | '\t') { c } else { printable(c) }).collect()
}

/// Control characters, which a terminal would obey, as a visible character.
fn printable(c: char) -> char {
    if c.is_control() { '\u{FFFD}' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_readme_has_the_exit_codes() {
        let readme = include_str!("../README.md");
        for line in EXIT_CODES.lines().skip(1) {
            let (code, meaning) = line.trim().split_once("  ").expect("a code and its meaning");
            assert!(readme.contains(&format!("| {code} | {meaning} |")), "{line}");
        }
    }

    #[test]
    fn errors_have_the_documented_codes() {
        let code = |kind| exit_code(&Error::new(kind, "x", "y"));
        assert_eq!(code(ErrorKind::ConfigInvalid), 78);
        assert_eq!(code(ErrorKind::UnknownPlugin), 78);
        assert_eq!(code(ErrorKind::NotFound), 66);
        assert_eq!(code(ErrorKind::DigestMismatch), 65);
        assert_eq!(code(ErrorKind::Unavailable), 69);
        assert_eq!(code(ErrorKind::ResourceExhausted), 75);
        assert_eq!(code(ErrorKind::Cancelled), 130);
        assert_eq!(code(ErrorKind::Unexpected), 70);
        let denied = Error::new(ErrorKind::Unavailable, "x", "y").with_fault(Fault::Operator);
        assert_eq!(exit_code(&denied), 77);
        let claim = Error::new(ErrorKind::DataInvalid, "x", "y")
            .with_fault(Fault::Contestant(albedo::Side::Challenger));
        assert_eq!(exit_code(&claim), 65);
    }
}

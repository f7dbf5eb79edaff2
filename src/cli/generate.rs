//! `albedo generate`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use futures::StreamExt;

use self::input::{Input, Source};
use self::request::{Answer, Defaults};
use super::backend::{BackendArguments, model};
use super::exit::Exit;
use super::output::print_on;
use super::sampling::{self, SamplingArguments};
use crate::report::Throughput;
use crate::{
    CallContext, Completion, Error, ErrorKind, Fault, ModelSession, ModelSessionExt, ModelSource, Registry,
    Result,
};

mod input;
mod request;

pub(super) use input::next_line;

const GENERATE: &str = "generate replies";

/// Requests that a session is given at a time: more than any backend runs
/// together, few enough that a long file is not held in memory. Source: chosen by albedo.
const IN_FLIGHT: usize = 1024;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true))]
pub(crate) struct Arguments {
    /// The model's folder, or `name:` and the name under which the backend's
    /// server offers it.
    model: PathBuf,
    /// Answer this one text, a user's message. The reply is printed as it is,
    /// without control characters on a terminal, unless `--output` is given.
    #[arg(long, value_name = "TEXT", group = "source")]
    prompt: Option<String>,
    /// Answer the requests in this file, one JSON object per line, `-` for
    /// standard input: `prompt` or `messages`, and perhaps `id`,
    /// `max_new_tokens`, `sampling`, `seed`, `score_reply`. What a request says
    /// goes before the options below.
    #[arg(long, value_name = "FILE", group = "source")]
    input: Option<PathBuf>,
    /// Write the answers into this new file, one JSON object per line, `-` for
    /// standard output [default: `-`].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write answers as they finish instead of in the order of their requests.
    #[arg(long)]
    unordered: bool,
    #[command(flatten)]
    sampling: SamplingArguments<Greedy>,
    #[command(flatten)]
    backend: BackendArguments,
}

/// Replies that are the same whatever the seed. Source: chosen by albedo.
#[derive(Debug)]
struct Greedy;

impl sampling::Defaults for Greedy {
    const MAX_NEW_TOKENS: &'static str = "256";
    const TEMPERATURE: &'static str = "0";
    const TOP_P: &'static str = "1";
}

impl Arguments {
    fn defaults(&self) -> Result<Defaults> {
        let SamplingArguments { max_new_tokens, seed, .. } = self.sampling;
        Ok(Defaults { max_new_tokens, sampling: self.sampling.sampling()?, seed })
    }

    fn source(&self) -> Result<Source> {
        let Some(path) = &self.input else {
            return Ok(Source::Prompt(self.prompt.clone().unwrap_or_default()));
        };
        let reader: Box<dyn io::BufRead + Send> = if is_dash(path) {
            Box::new(BufReader::new(io::stdin()))
        } else {
            let open = File::open(path).and_then(|file| {
                if file.metadata()?.is_dir() {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                Ok(file)
            });
            Box::new(BufReader::new(open.map_err(|error| Error::io("read the requests", path, error))?))
        };
        Ok(Source::Lines { reader, path: path.clone() })
    }

    fn output(&self) -> Result<Output> {
        match &self.output {
            None if self.prompt.is_some() => Ok(Output::Text),
            Some(path) if !is_dash(path) => {
                Ok(Output::File { to: new_file("create the output", path)?, path: path.clone() })
            }
            _ => Ok(Output::Lines),
        }
    }
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens `path` for writing, unless it is a file that holds something.
///
/// # Errors
/// [`ErrorKind::Conflict`], the operator's, if it does; the operating system's.
pub(super) fn new_file(operation: &'static str, path: &Path) -> Result<File> {
    let failed = |error| Error::io(operation, path, error);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if about.is_file() && about.len() > 0 {
        return Err(Error::new(ErrorKind::Conflict, operation, "the file is not empty")
            .with_fault(Fault::Operator)
            .with("path", path.display())
            .with_hint("choose another, or remove it"));
    }
    Ok(file)
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let defaults = arguments.defaults()?;
    let settings = arguments.backend.settings()?;
    let source = arguments.source()?;
    let mut output = arguments.output()?;
    let backend = arguments.backend.build(&Registry::linked()?, settings, cx).await?;
    let session = backend.load(&ModelSource::new(model(&arguments.model)), cx).await?;
    if let Some(memory) = session.memory() {
        let _ = writeln!(io::stderr(), "memory: {memory}");
    }

    let input = Input::read(source)?;
    let mut progress = Throughput::start();
    let answers = input
        .requests(defaults)
        .take_until(cx.cancelled())
        .map(|(line, id, request)| answer(&*session, line, id, request, cx));
    let mut answers = if arguments.unordered {
        answers.buffer_unordered(IN_FLIGHT).boxed()
    } else {
        answers.buffered(IN_FLIGHT).boxed()
    };
    let mut first_failure: Option<(u64, Error)> = None;
    while let Some(Answer { line, id, result }) = answers.next().await {
        let result = match result {
            // The answers that were finished before are still to come.
            Err(error) if error.kind() == ErrorKind::Cancelled => continue,
            result => result,
        };
        progress.answered(result.as_ref().ok().map(|completion| completion.usage));
        let written = output.write(line, &id, &result);
        if let Err(error) = result
            && first_failure.as_ref().is_none_or(|(first, _)| line < *first)
        {
            first_failure = Some((line, error));
        }
        if !written? {
            progress.finish();
            return Ok(Exit::Done);
        }
    }
    let (answered, failed) = progress.finish();
    cx.check(GENERATE).map_err(|error| {
        error.with_hint(format!("the {} answers that were finished are written", answered + failed))
    })?;
    match first_failure {
        None => Ok(Exit::Done),
        Some((_, error)) if arguments.prompt.is_some() => Err(error),
        Some((line, error)) => Err(Error::new(
            error.kind(),
            GENERATE,
            format!("{failed} of {} requests have an error instead of a reply", answered + failed),
        )
        .with_fault(error.fault())
        .with_reach(error.reach())
        .with("the first, on line", line)
        .with("its error", error)),
    }
}

async fn answer(
    session: &dyn ModelSession,
    line: u64,
    id: serde_json::Value,
    request: Result<crate::GenerateRequest>,
    cx: &CallContext,
) -> Answer {
    let result = match request {
        Err(error) => Err(error),
        Ok(request) => session.generate_one(request, cx).await,
    };
    Answer { line, id, result }
}

/// Where answers go.
enum Output {
    /// The reply itself, to standard output.
    Text,
    /// One JSON object per line, to standard output.
    Lines,
    /// The same into a file.
    File { to: File, path: PathBuf },
}

impl Output {
    /// Writes one answer; `false` if the reader went away, as `head` does.
    fn write(&mut self, line: u64, id: &serde_json::Value, result: &Result<Completion>) -> Result<bool> {
        match self {
            Self::Text => match result {
                Ok(completion) => print_on(&format!("{}\n", completion.text)),
                Err(_) => Ok(true),
            },
            Self::Lines => print_on(&request::answer_line(line, id, result)?),
            Self::File { to, path } => {
                let json = request::answer_line(line, id, result)?;
                match to.write_all(json.as_bytes()).and_then(|()| to.flush()) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
                    Err(error) => Err(Error::io("write the answers", path, error)),
                }
            }
        }
    }
}

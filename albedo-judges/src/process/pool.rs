//! The processes of one program: how many run, when they are started again, and
//! what is said of one that failed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use albedo_core::{CallContext, Error, ErrorKind, Fault, Reach, Result, Retry};
use tokio::sync::Semaphore;

use super::child::{LONGEST_LINE, NoLine, Running};
use super::program::Program;
use super::protocol::{Greeting, NoHello, VERSION};

/// Questions in a row that a program may fail to answer, and starts in a row that may
/// fail. Source: chosen by albedo; both orders of a pair with three tries each are six
/// questions, so that two pairs that break a program do not end a duel.
pub(super) const FAILURES: u32 = 16;
const STARTS: u32 = 3;

const START: &str = "start the program of `process`";
const ASK: &str = "ask the program of `process`";

/// Longest part of a program's line that a message quotes, in characters.
const QUOTED: usize = 200;

/// At most `parallel` processes of one program.
#[derive(Debug)]
pub(super) struct Pool<H> {
    program: Program,
    hello: H,
    limit: Duration,
    permits: Semaphore,
    idle: Mutex<Vec<Running>>,
    /// Questions without an answer since the last answer.
    failures: AtomicU32,
    /// Starts without a hello since the last hello.
    starts: AtomicU32,
}

/// What became of a question.
#[derive(Debug)]
pub(super) enum Asked<T> {
    /// The answer, as the caller has read it.
    Answered(T),
    /// A line that is no answer, as far as it is kept, and why.
    Unreadable { line: String, reason: String },
}

/// Why the caller does not take a line as an answer.
pub(super) enum NoAnswer {
    /// It is no message.
    Unreadable(String),
    /// It answers another question.
    OtherQuestion(u64),
}

impl<H: Greeting> Pool<H> {
    /// The pool of `program` after its first process has said hello.
    ///
    /// # Errors
    /// The operator's: the program does not start, or says no hello.
    pub(super) async fn start(
        program: Program,
        limit: Duration,
        parallel: u32,
        cx: &CallContext,
    ) -> Result<Self> {
        let (running, hello) = begin(&program, limit, cx).await?;
        Ok(Self {
            program,
            hello,
            limit,
            permits: Semaphore::new(parallel as usize),
            idle: Mutex::new(vec![running]),
            failures: AtomicU32::new(0),
            starts: AtomicU32::new(0),
        })
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    pub(super) fn hello(&self) -> &H {
        &self.hello
    }

    /// The answer to the question that `question` writes with its number. `read` gets
    /// the number and the line.
    ///
    /// # Errors
    /// The program gave none: it ended, was silent for too long, or wrote what nobody
    /// asked for. That process is killed. The error reaches the duel after
    /// [`FAILURES`] questions in a row.
    pub(super) async fn ask<T>(
        &self,
        question: impl Fn(u64) -> Result<Vec<u8>>,
        read: impl Fn(u64, &[u8]) -> Result<T, NoAnswer>,
        cx: &CallContext,
    ) -> Result<Asked<T>> {
        // The semaphore is never closed.
        let _permit = cx
            .run(ASK, self.permits.acquire())
            .await?
            .map_err(|error| Error::bug(ASK, "no process may run any more").with_source(error))?;
        let mut running = self.running(cx).await?;
        let number = running.number();
        let question = question(number)?;
        let asked = cx.run(ASK, tokio::time::timeout(self.limit, running.ask(&question))).await?;
        let line = match asked {
            Ok(Ok(line)) => line,
            Ok(Err(why)) => return Err(self.failed(running, Some(why)).await),
            Err(_) => return Err(self.failed(running, None).await),
        };
        match read(number, &line) {
            Ok(answer) => {
                self.failures.store(0, Ordering::Relaxed);
                self.put_back(running);
                Ok(Asked::Answered(answer))
            }
            Err(NoAnswer::OtherQuestion(other)) => {
                let why = format!("it answered question {other} when it was asked question {number}");
                let error = self.error(ErrorKind::Protocol, why, running).await;
                Err(self.counted(error.with_hint("answer every question once, with its `id`")))
            }
            Err(NoAnswer::Unreadable(reason)) => {
                // What it writes next may belong to any question.
                let why = format!("its line is no answer: {reason}");
                let error = self.error(ErrorKind::Protocol, why, running).await;
                let error = self.counted(error.with("line", quoted(&line)));
                if error.reach() >= Reach::Duel {
                    return Err(error);
                }
                Ok(Asked::Unreadable { line: quoted(&line), reason })
            }
        }
    }

    /// Closes the standard input of a process and waits for its end.
    ///
    /// # Errors
    /// It does not end, or not with success.
    pub(super) async fn close_one(&self, cx: &CallContext) -> Result<()> {
        const CLOSE: &str = "end the program of `process`";
        let mut running = self.running(cx).await?;
        let closed = cx.run(CLOSE, tokio::time::timeout(self.limit, running.close())).await?;
        let error = |message: String| {
            let hint = "read lines until standard input ends, then exit with 0";
            Error::new(ErrorKind::Protocol, CLOSE, message).with_hint(hint)
        };
        match closed {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                let words = running.end().await.words;
                Err(with_words(
                    error(format!("after its standard input was closed it ended with {status}")),
                    &words,
                ))
            }
            Ok(Err(failed)) => Err(error(failed.to_string())),
            Err(_) => {
                let limit = self.limit.as_secs_f64();
                Err(error(format!("it still runs {limit} s after its standard input was closed")))
            }
        }
    }

    /// A process that is ready to be asked: one that waits, or a new one.
    async fn running(&self, cx: &CallContext) -> Result<Running> {
        while let Some(mut waiting) = self.waiting() {
            match waiting.quiet() {
                Ok(()) => return Ok(waiting),
                // It ended while nothing was asked: no question is lost by it.
                Err(NoLine::Ended) => drop(waiting.end().await),
                Err(why) => return Err(self.failed(waiting, Some(why)).await),
            }
        }
        self.program.check_unchanged(cx).await?;
        let (running, hello) = match begin::<H>(&self.program, self.limit, cx).await {
            Ok(begun) => begun,
            Err(error) if error.kind() == ErrorKind::Cancelled || cx.check(START).is_err() => {
                return Err(error);
            }
            Err(error) => {
                let starts = 1 + self.starts.fetch_add(1, Ordering::Relaxed);
                return Err(if starts < STARTS {
                    let error = error.with_fault(Fault::Infrastructure).with_reach(Reach::Call);
                    error.with_retry(Retry::Backoff)
                } else {
                    error.with("starts that failed in a row", starts)
                });
            }
        };
        if hello != self.hello {
            let message = "it says another hello than when it was built";
            return Err(Error::new(ErrorKind::Conflict, START, message)
                .with_fault(Fault::Operator)
                .with("program", &self.program.name)
                .with_hint("a judge or a screen is one program: begin anew with this one"));
        }
        self.starts.store(0, Ordering::Relaxed);
        Ok(running)
    }

    fn waiting(&self) -> Option<Running> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put_back(&self, running: Running) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(running);
    }

    /// The error of a question that `running` gave no line to, in time if there is no
    /// `why`.
    async fn failed(&self, running: Running, why: Option<NoLine>) -> Error {
        let (kind, message, hint) = match why {
            None => (
                ErrorKind::Timeout,
                format!("no answer within {} s", self.limit.as_secs_f64()),
                Some("raise `timeout_secs` if it needs longer"),
            ),
            Some(NoLine::Ended) => (ErrorKind::Unavailable, "it ended without an answer".to_owned(), None),
            Some(NoLine::TooLong) => (
                ErrorKind::Protocol,
                format!("it wrote a line of more than {LONGEST_LINE} bytes"),
                Some("write one short line per question to standard output"),
            ),
            Some(NoLine::Unasked) => (
                ErrorKind::Protocol,
                "it wrote to standard output before it had read a question".to_owned(),
                Some("write answers only, one line each; logs belong on standard error"),
            ),
            Some(NoLine::Broken(error)) => {
                (ErrorKind::Unavailable, format!("its pipes failed: {error}"), None)
            }
        };
        let error = self.error(kind, message, running).await;
        self.counted(match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        })
    }

    /// An error of one question, with the last words of `running`, which is killed.
    async fn error(&self, kind: ErrorKind, message: impl Into<String>, running: Running) -> Error {
        ended(Error::new(kind, ASK, message), &self.program, running).await
    }

    /// `error` reaches the duel once too many questions in a row had no answer.
    fn counted(&self, error: Error) -> Error {
        let failures = 1 + self.failures.fetch_add(1, Ordering::Relaxed);
        if failures < FAILURES {
            return error;
        }
        error
            .with_reach(Reach::Duel)
            .with_retry(Retry::Never)
            .with("questions without an answer in a row", failures)
            .with_hint("see what the program needs with `albedo judge conform`")
    }
}

/// Starts a process of `program`, and its hello. Every error is the operator's.
async fn begin<H: Greeting>(program: &Program, limit: Duration, cx: &CallContext) -> Result<(Running, H)> {
    let operators =
        |error: Error| error.with_fault(Fault::Operator).with_reach(Reach::Duel).with_retry(Retry::Never);
    cx.check(START)?;
    let mut running = Running::start(&mut program.command()).map_err(|error| {
        let message = format!("the system does not run it: {error}");
        let error = Error::new(ErrorKind::Unavailable, START, message).with_source(error);
        let hint = "it must be executable, and a script must begin with `#!` and its interpreter's path";
        operators(error.with("program", &program.name).with_hint(hint))
    })?;
    let line = cx.run(START, tokio::time::timeout(limit, running.first_line())).await?;
    let message = match line {
        Ok(Ok(line)) => match H::read(&line) {
            Ok(hello) => return Ok((running, hello)),
            Err(NoHello::Version(version)) => {
                format!("it speaks version {version} of the protocol, and this albedo version {VERSION}")
            }
            Err(NoHello::Unreadable(why)) => format!("its first line is no hello: {why}: {}", quoted(&line)),
        },
        Ok(Err(NoLine::TooLong)) => format!("its first line has more than {LONGEST_LINE} bytes"),
        Ok(Err(NoLine::Broken(error))) => format!("its pipes failed: {error}"),
        Ok(Err(_)) => "it ended without a hello".to_owned(),
        Err(_) => format!("no hello within {} s", limit.as_secs_f64()),
    };
    let hint =
        "its first line is a hello; docs/process-judges.md and docs/process-screens.md have the protocol";
    let error = Error::new(ErrorKind::Protocol, START, message).with_hint(hint);
    Err(operators(ended(error, program, running).await))
}

/// `error` with what is known of `running`, which is killed.
async fn ended(error: Error, program: &Program, running: Running) -> Error {
    let remains = running.end().await;
    let error = error.with("program", &program.name);
    let error = match remains.status {
        Some(status) => error.with("end", status),
        None => error,
    };
    with_words(error, &remains.words)
}

fn with_words(error: Error, words: &str) -> Error {
    if words.is_empty() { error } else { error.with("its last lines on standard error", words) }
}

/// The beginning of a line, as a message quotes it.
fn quoted(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.into_owned(),
    }
}

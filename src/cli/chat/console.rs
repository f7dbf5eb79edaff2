//! The terminal or pipe that a conversation is held over.

use std::io::{self, BufReader, IsTerminal, Write};

use tokio::sync::mpsc;

use super::super::generate::next_line;
use super::super::output::{note, print_on, shown_part};
use crate::report::Look;
use crate::{CallContext, Error, ErrorKind, Fault, ModelInfo, Result};

const READ: &str = "read a message";

/// What begins and ends a message of several lines.
const BLOCK: &str = "\"\"\"";

/// Whether somebody types the messages: then an interrupt stops a reply, not the program.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// What comes in.
pub(super) enum Event {
    /// A line, or a message of several lines.
    Line(String),
    /// Ctrl-C while there is nothing to stop.
    Interrupt,
    /// There are no more lines.
    End,
}

/// Why a reply is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Ctrl-C: the program goes on.
    Interrupt,
    /// The program is to end.
    Terminate,
}

/// Where messages come from and replies go.
pub(super) struct Console {
    lines: mpsc::Receiver<Result<String>>,
    /// At a terminal only.
    signals: Option<Signals>,
    /// Whether replies go to a terminal, which obeys control characters.
    to_terminal: bool,
}

impl Console {
    /// Begins to read. The thread that waits for the terminal when the program ends, ends
    /// with it.
    pub(super) fn new() -> Result<Self> {
        let (sender, lines) = mpsc::channel(1);
        let read = move || {
            let mut reader = BufReader::new(io::stdin());
            loop {
                let (line, last) = match next_line(&mut reader) {
                    Ok(None) => return,
                    Ok(Some(Ok(line))) => (Ok(line), false),
                    Ok(Some(Err(wrong))) => (
                        Err(Error::new(ErrorKind::DataInvalid, READ, wrong).with_fault(Fault::Operator)),
                        false,
                    ),
                    Err(error) => (Err(Error::io(READ, "-".as_ref(), error)), true),
                };
                if sender.blocking_send(line).is_err() || last {
                    return;
                }
            }
        };
        let failed = |error: io::Error| Error::new(ErrorKind::ResourceExhausted, READ, error.to_string());
        std::thread::Builder::new().name("albedo-input".into()).spawn(read).map_err(failed)?;
        let signals = is_interactive().then(Signals::new).transpose().map_err(failed)?;
        Ok(Self { lines, signals, to_terminal: io::stdout().is_terminal() })
    }

    pub(super) fn is_interactive(&self) -> bool {
        self.signals.is_some()
    }

    /// Says whom the conversation is with.
    pub(super) fn greet(&self, name: &str, model: &ModelInfo) {
        if self.is_interactive() {
            let what = if model.is_opaque() {
                String::new()
            } else {
                format!(": {}, {} tokens of context", model.architecture, model.context_length)
            };
            note(&format!("{name}{what}; `/help` lists commands, Ctrl-D ends"));
        }
    }

    /// Tells somebody at a terminal what was done.
    pub(super) fn note(&self, text: &str) {
        if self.is_interactive() {
            note(text);
        }
    }

    /// The next line, once it is there.
    ///
    /// # Errors
    /// A line that cannot be read; the end of the program.
    pub(super) async fn next(&mut self, cx: &CallContext) -> Result<Event> {
        self.prompt("> ");
        match self.line(cx).await? {
            Event::Line(line) if line.trim() == BLOCK => {}
            event => return Ok(event),
        }
        let mut text = String::new();
        loop {
            self.prompt("… ");
            match self.line(cx).await? {
                Event::Line(line) if line.trim() == BLOCK => return Ok(Event::Line(escaped(text))),
                Event::Line(line) => text.push_str(&line),
                Event::Interrupt => return Ok(Event::Interrupt),
                Event::End if text.is_empty() => return Ok(Event::End),
                // What is left at the end of a file is a message, too.
                Event::End => return Ok(Event::Line(escaped(text))),
            }
        }
    }

    async fn line(&mut self, cx: &CallContext) -> Result<Event> {
        tokio::select! {
            line = self.lines.recv() => {
                if let Some(line) = line {
                    return line.map(Event::Line);
                }
                self.prompt("\n");
                Ok(Event::End)
            }
            stop = next_signal(&mut self.signals) => match stop {
                Stop::Interrupt => {
                    self.prompt("\n");
                    note("Ctrl-D or `/quit` ends the conversation");
                    Ok(Event::Interrupt)
                }
                Stop::Terminate => Err(Error::cancelled(READ)),
            },
            () = cx.cancelled() => Err(Error::cancelled(READ)),
        }
    }

    /// Waits until a reply is to stop. Where nobody types, the program's own context is
    /// cancelled instead.
    pub(super) async fn stopped(&mut self) -> Stop {
        next_signal(&mut self.signals).await
    }

    /// Waits for `work` unless somebody stops it.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`], if so.
    pub(super) async fn unless_stopped<T>(
        &mut self,
        work: impl Future<Output = T>,
        operation: &str,
    ) -> Result<T> {
        tokio::select! {
            done = work => Ok(done),
            _ = self.stopped() => Err(Error::cancelled(operation)),
        }
    }

    /// Shows the next part of a reply; `false` if its reader went away.
    pub(super) fn show(&self, text: &str) -> Result<bool> {
        if self.to_terminal { print_on(&shown_part(text)) } else { print_on(text) }
    }

    /// Ends the line of a reply, and says `what` became of it to who sits at the terminal.
    pub(super) fn end_reply(&self, what: &str) -> Result<()> {
        print_on("\n")?;
        if self.is_interactive() {
            let look = Look::of_stderr();
            crate::report::say(&look.faint(&format!("({what})")));
        }
        Ok(())
    }

    fn prompt(&self, text: &str) {
        if self.is_interactive() {
            let mut stderr = io::stderr().lock();
            // Without a terminal to write to there is nobody to be asked.
            let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
        }
    }
}

/// A message of several lines is no command, whatever it begins with.
fn escaped(text: String) -> String {
    if text.trim_start().starts_with('/') { format!("/{}", text.trim_start()) } else { text }
}

/// The next signal; never, where none is waited for.
async fn next_signal(signals: &mut Option<Signals>) -> Stop {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

/// The signals that end other commands.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Stop {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Stop::Interrupt,
            Err(_) => std::future::pending().await,
        }
    }
}

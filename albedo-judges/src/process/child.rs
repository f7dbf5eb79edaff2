//! One running program: its lines, its last words, its end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use futures::FutureExt;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};

/// Longest line that a program may write, in bytes. Source: chosen by albedo; a thousand
/// times an answer with a rationale.
pub(super) const LONGEST_LINE: usize = 1 << 20;

/// Lines of standard error that are kept, and characters of each. Source: chosen by
/// albedo; an error message with them still fits a screen.
const KEPT_LINES: usize = 8;
const KEPT_CHARS: usize = 200;

/// How long a killed program's status and last words are waited for. What it wrote is in
/// the pipe already, so that only a process that holds the pipe open is waited for.
/// Source: chosen by albedo.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How often a program that is to end is looked at. Source: chosen by albedo.
const LOOK: Duration = Duration::from_millis(5);

/// Why a program gave no line. It is of no use any more.
#[derive(Debug)]
pub(super) enum NoLine {
    /// It closed its standard output, most often because it ended.
    Ended,
    /// A line is longer than [`LONGEST_LINE`].
    TooLong,
    /// It wrote before it was asked, or before it had read the whole question.
    Unasked,
    /// Its pipes failed.
    Broken(io::Error),
}

/// A started program. Dropping it kills it and every process of its group.
#[derive(Debug)]
pub(super) struct Running {
    group: Group,
    stdin: Option<Sender>,
    stdout: Lines<Receiver>,
    stderr: Tail,
    asked: u64,
}

/// What is left of a program that was ended.
#[derive(Debug)]
pub(super) struct Remains {
    /// None if it could not be waited for.
    pub(super) status: Option<ExitStatus>,
    /// The end of its standard error.
    pub(super) words: String,
}

impl Running {
    /// Starts `command`, whose pipes are all piped.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // From here on every way out ends the child.
        let group = Group { child: Some(child) };
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(io::Error::other("the program has no pipes"));
        };
        let stdin = Some(Sender::from_owned_fd(OwnedFd::from(stdin))?);
        let stdout = Lines::new(Receiver::from_owned_fd(OwnedFd::from(stdout))?);
        let stderr = Tail::new(Receiver::from_owned_fd(OwnedFd::from(stderr))?);
        Ok(Self { group, stdin, stdout, stderr, asked: 0 })
    }

    /// The first line of the program, its hello.
    pub(super) async fn first_line(&mut self) -> Result<Vec<u8>, NoLine> {
        let Self { stdout, stderr, .. } = self;
        tokio::select! {
            line = stdout.next() => line,
            never = stderr.listen() => match never {},
        }
    }

    /// A number for the next question, from 1.
    pub(super) fn number(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// Whether the program is silent and, as far as can be told without asking it,
    /// alive.
    pub(super) fn quiet(&mut self) -> Result<(), NoLine> {
        if !self.stdout.is_empty() {
            return Err(NoLine::Unasked);
        }
        match self.stdout.fill().now_or_never() {
            None => Ok(()),
            Some(Ok(0)) => Err(NoLine::Ended),
            Some(Ok(_)) => Err(NoLine::Unasked),
            Some(Err(error)) => Err(NoLine::Broken(error)),
        }
    }

    /// Writes `question`, which ends with a line feed, and returns the next line. Both
    /// are done at once, together with reading standard error, so that no full pipe can
    /// stop the program and albedo at the same time.
    pub(super) async fn ask(&mut self, question: &[u8]) -> Result<Vec<u8>, NoLine> {
        let Self { stdin, stdout, stderr, .. } = self;
        let Some(stdin) = stdin else { return Err(NoLine::Ended) };
        let mut written = false;
        let mut write = pin!(async {
            stdin.write_all(question).await?;
            stdin.flush().await
        });
        let mut read = pin!(stdout.next());
        let mut listen = pin!(stderr.listen());
        loop {
            tokio::select! {
                biased;
                never = &mut listen => match never {},
                result = &mut write, if !written => match result {
                    Ok(()) => written = true,
                    // It has closed its standard input: it ended, or will answer nothing.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(NoLine::Ended),
                    Err(error) => return Err(NoLine::Broken(error)),
                },
                line = &mut read => match line {
                    Ok(_) if !written => return Err(NoLine::Unasked),
                    line => return line,
                },
            }
        }
    }

    /// Closes the program's standard input and waits for its end.
    pub(super) async fn close(&mut self) -> io::Result<ExitStatus> {
        self.stdin = None;
        let Self { group, stdout, stderr, .. } = self;
        let ended = async {
            // What it still writes must not keep it from ending.
            while stdout.fill().await? > 0 {
                stdout.clear();
            }
            group.wait().await
        };
        tokio::select! {
            status = ended => status,
            never = stderr.listen() => match never {},
        }
    }

    /// Kills the program and its children, and returns what is left of it.
    pub(super) async fn end(mut self) -> Remains {
        self.group.kill();
        let Self { group, stderr, .. } = &mut self;
        let mut status = None;
        let last = async {
            status = group.wait().await.ok();
            while stderr.fill().await {}
        };
        // A process that has left the group can hold the pipe open.
        let _ = tokio::time::timeout(LAST_WORDS, last).await;
        Remains { status, words: self.stderr.words() }
    }
}

/// A child that leads a process group. Dropping it kills the group.
#[derive(Debug)]
struct Group {
    /// None once it was waited for: its number may then belong to other processes.
    child: Option<Child>,
}

impl Group {
    /// Kills every process of the group, the child's children among them.
    fn kill(&mut self) {
        let group = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        if let Some(group) = group.and_then(Pid::from_raw) {
            // All of them may have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Waits until the child has ended.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            let Some(child) = &mut self.child else {
                return Err(io::Error::other("the program was waited for before"));
            };
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let Some(mut child) = self.child.take() else { return };
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        // It is being killed. Somebody has to wait for it, or its entry stays in the
        // system's table; where no thread can be had, it stays until albedo ends.
        let wait = move || drop(child.wait());
        drop(std::thread::Builder::new().name("judge-reaper".into()).spawn(wait));
    }
}

/// Lines of bounded length. Dropping a future of it loses nothing.
#[derive(Debug)]
struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
    /// The buffer's first bytes, which hold no line feed.
    searched: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(from: R) -> Self {
        Self { from, buffer: Vec::new(), searched: 0 }
    }

    fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    fn clear(&mut self) {
        self.buffer.clear();
        self.searched = 0;
    }

    /// Reads some bytes; 0 at the end.
    async fn fill(&mut self) -> io::Result<usize> {
        self.from.read_buf(&mut self.buffer).await
    }

    /// The next line, without its line feed.
    async fn next(&mut self) -> Result<Vec<u8>, NoLine> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_off(self.searched + end + 1);
                std::mem::swap(&mut line, &mut self.buffer);
                line.pop();
                self.searched = 0;
                return if line.len() > LONGEST_LINE { Err(NoLine::TooLong) } else { Ok(line) };
            }
            self.searched = self.buffer.len();
            if self.searched > LONGEST_LINE {
                return Err(NoLine::TooLong);
            }
            match self.fill().await {
                // A last line without its line feed may be cut.
                Ok(0) => return Err(NoLine::Ended),
                Ok(_) => {}
                Err(error) => return Err(NoLine::Broken(error)),
            }
        }
    }
}

/// The last lines of a program's standard error; the rest is read and forgotten.
#[derive(Debug)]
struct Tail {
    from: Receiver,
    ended: bool,
    lines: VecDeque<Vec<u8>>,
    /// The end of the bytes read so far is in the last line.
    open: bool,
}

impl Tail {
    fn new(from: Receiver) -> Self {
        Self { from, ended: false, lines: VecDeque::new(), open: false }
    }

    /// Reads standard error for as long as this is polled.
    async fn listen(&mut self) -> Infallible {
        while self.fill().await {
            // A program that never stops writing must not keep the task from anything else.
            tokio::task::yield_now().await;
        }
        std::future::pending().await
    }

    /// Reads some of it; whether there may be more.
    async fn fill(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let mut bytes = [0; 1024];
        match self.from.read(&mut bytes).await {
            Ok(read) if read > 0 => {
                for byte in &bytes[..read] {
                    self.push(*byte);
                }
            }
            _ => self.ended = true,
        }
        !self.ended
    }

    fn push(&mut self, byte: u8) {
        keep(&mut self.lines, &mut self.open, byte);
    }

    fn words(&self) -> String {
        said(&self.lines)
    }
}

/// Adds `byte` to the last line, or to a new one unless it is `open`.
fn keep(lines: &mut VecDeque<Vec<u8>>, open: &mut bool, byte: u8) {
    if byte == b'\n' {
        *open = false;
        return;
    }
    if !*open {
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(Vec::new());
        *open = true;
    }
    // A character has at most four bytes.
    if let Some(line) = lines.back_mut().filter(|line| line.len() < 4 * KEPT_CHARS) {
        line.push(byte);
    }
}

/// The lines that have words, in one.
fn said(lines: &VecDeque<Vec<u8>>) -> String {
    let lines =
        lines.iter().map(|line| String::from_utf8_lossy(line).trim().chars().take(KEPT_CHARS).collect());
    lines.filter(|line: &String| !line.is_empty()).collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_where_they_end_however_they_come() {
        let text = b"one\n\ntwo\nthree";
        let mut lines = Lines::new(&text[..]);
        for expected in ["one", "", "two"] {
            assert_eq!(lines.next().await.expect(expected), expected.as_bytes());
        }
        assert!(matches!(lines.next().await, Err(NoLine::Ended)), "a line without an end may be cut");
    }

    #[tokio::test]
    async fn a_line_has_a_longest_length() {
        let line = |length: usize| [vec![b'a'; length], vec![b'\n']].concat();
        let (long, longer) = (line(LONGEST_LINE), line(LONGEST_LINE + 1));
        assert_eq!(Lines::new(&long[..]).next().await.expect("it fits").len(), LONGEST_LINE);
        assert!(matches!(Lines::new(&longer[..]).next().await, Err(NoLine::TooLong)));
        // Nor is a line without an end read for ever.
        let endless = tokio::io::repeat(b'a');
        assert!(matches!(Lines::new(endless).next().await, Err(NoLine::TooLong)));
    }

    #[test]
    fn the_last_lines_are_kept_and_no_more() {
        let (mut lines, mut open) = (VecDeque::new(), false);
        let text = (0..100).map(|line| format!("line {line}\n")).collect::<Vec<_>>().concat();
        let long = format!("{text}\n\n{}\nthe end", "é".repeat(10_000));
        for byte in long.bytes() {
            keep(&mut lines, &mut open, byte);
        }
        let words = said(&lines);
        assert!(words.starts_with("line 94 / line 95") && words.ends_with("é / the end"), "{words}");
        assert_eq!(words.matches('é').count(), KEPT_CHARS);
        assert!(lines.iter().all(|line| line.len() <= 4 * KEPT_CHARS));
    }
}

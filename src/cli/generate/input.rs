//! Requests as they are read: one line at a time, by a thread of its own.

use std::io::{self, BufRead, Read};
use std::path::PathBuf;

use futures::stream::{self, Stream, StreamExt};
use serde_json::Value;
use tokio::sync::mpsc;

use super::request::{Defaults, parse};
use crate::{Error, ErrorKind, Fault, GenerateRequest, Message, MessageRole, Result};

/// The longest line that is read, in bytes: some ten million tokens. Source: chosen by albedo.
const MAX_LINE: u64 = 64 << 20;

/// Lines that are read ahead of their use.
const AHEAD: usize = 64;

const READ: &str = "read the requests";

/// Where requests come from.
pub(super) enum Source {
    /// One user's message.
    Prompt(String),
    /// A JSON object a line.
    Lines { reader: Box<dyn BufRead + Send>, path: PathBuf },
}

/// Numbered lines, from 1.
pub(super) enum Input {
    Prompt(String),
    Lines(mpsc::Receiver<(u64, Result<String>)>),
}

impl Input {
    /// Begins to read. A thread that waits for its terminal or pipe when the
    /// program ends, ends with it.
    pub(super) fn read(source: Source) -> Result<Self> {
        let (mut reader, path) = match source {
            Source::Prompt(text) => return Ok(Self::Prompt(text)),
            Source::Lines { reader, path } => (reader, path),
        };
        let (lines, receiver) = mpsc::channel(AHEAD);
        let read = move || {
            for number in 1.. {
                let (line, last) = match next_line(&mut reader) {
                    Ok(None) => return,
                    Ok(Some(line)) => (line.map(|line| without_mark(number, line)).map_err(invalid), false),
                    Err(error) => (Err(Error::io(READ, &path, error)), true),
                };
                let blank = line.as_ref().is_ok_and(|line| line.trim().is_empty());
                if !blank && lines.blocking_send((number, line)).is_err() || last {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("albedo-input".into())
            .spawn(read)
            .map_err(|error| Error::new(ErrorKind::ResourceExhausted, READ, error.to_string()))?;
        Ok(Self::Lines(receiver))
    }

    /// The requests: line, id, and the request or what is wrong with it.
    pub(super) fn requests(
        self,
        defaults: Defaults,
    ) -> impl Stream<Item = (u64, Value, Result<GenerateRequest>)> + Send {
        match self {
            Self::Prompt(text) => {
                let request = defaults.request(1, vec![Message::new(MessageRole::User, text)]);
                stream::iter([(1, Value::Null, Ok(request))]).boxed()
            }
            Self::Lines(mut lines) => stream::poll_fn(move |cx| lines.poll_recv(cx))
                .map(move |(number, line)| match line {
                    Ok(line) => {
                        let (id, request) = parse(number, &line, &defaults);
                        (number, id, request.map_err(|error| error.with("line", number)))
                    }
                    Err(error) => (number, Value::Null, Err(error.with("line", number))),
                })
                .boxed(),
        }
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::DataInvalid, READ, message).with_fault(Fault::Operator)
}

/// The next line, or why it is none; `None` at the end.
pub(in crate::cli) fn next_line(reader: &mut impl BufRead) -> io::Result<Option<Result<String, String>>> {
    let mut bytes = Vec::new();
    if Read::by_ref(reader).take(MAX_LINE + 1).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.len() as u64 > MAX_LINE && !bytes.ends_with(b"\n") {
        skip_line(reader)?;
        return Ok(Some(Err(format!("the line has more than {MAX_LINE} bytes"))));
    }
    Ok(Some(String::from_utf8(bytes).map_err(|_| "the line is not UTF-8".into())))
}

/// The line without the byte order mark that some editors begin a file with.
fn without_mark(number: u64, line: String) -> String {
    match line.strip_prefix('\u{feff}') {
        Some(rest) if number == 1 => rest.to_owned(),
        _ => line,
    }
}

/// Reads to the end of the line and keeps nothing.
fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let (used, ended) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(position) => (position + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        if ended {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Result<String, String>> {
        let mut reader = bytes;
        std::iter::from_fn(|| next_line(&mut reader).expect("reads")).collect()
    }

    #[test]
    fn lines_end_at_line_feeds_and_at_the_end() {
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"a\n\nb"), ["a\n", "\n", "b"].map(|line| Ok(line.to_owned())));
        assert_eq!(lines(b"\xff\nb\n")[1], Ok("b\n".into()));
        assert_eq!(lines(b"\xff\nb\n")[0], Err("the line is not UTF-8".into()));
    }

    #[test]
    fn a_byte_order_mark_is_none_of_the_first_line() {
        assert_eq!(without_mark(1, "\u{feff}{}\r\n".into()), "{}\r\n");
        assert_eq!(without_mark(2, "\u{feff}{}".into()), "\u{feff}{}");
        assert_eq!(without_mark(1, "{}".into()), "{}");
    }

    #[test]
    fn a_line_without_an_end_is_refused_and_the_next_one_read() {
        let endless = io::repeat(b'x').take(2 * MAX_LINE).chain(&b"\nnext\n"[..]);
        let mut reader = io::BufReader::new(endless);
        let refused = next_line(&mut reader).expect("reads").expect("a line");
        assert!(refused.is_err_and(|message| message.contains("more than 67108864 bytes")));
        assert_eq!(next_line(&mut reader).expect("reads"), Some(Ok("next\n".into())));
    }
}

//! Events as JSON lines in a file.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::{Error, ErrorKind, Event, EventSink, Fault, Result};

const WRITE: &str = "write the events";
const READ: &str = "read the events";

/// Writes every event to a file, one JSON object per line. A thread of its own
/// writes, so that a slow disk holds up nothing else; each line is flushed as soon
/// as no other waits.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    events: Mutex<Option<Sender<Event>>>,
    writer: Mutex<Option<JoinHandle<std::io::Result<()>>>>,
}

impl EventFile {
    /// Writes to a new file at `path`, or to one that is empty: a command that did nothing leaves such a file.
    ///
    /// # Errors
    /// The operator's: the file holds something, or cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        let io_error = |error| Error::io(WRITE, path, error);
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(io_error)?;
        let about = file.metadata().map_err(io_error)?;
        if about.is_file() && about.len() > 0 {
            let message = "the file is not empty, and events are never written over others";
            return Err(Error::new(ErrorKind::ConfigInvalid, WRITE, message)
                .with("path", path.display())
                .with_fault(Fault::Operator)
                .with_hint("name another file, or remove it"));
        }
        let (events, waiting) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("albedo-events".into())
            .spawn(move || write(BufWriter::new(file), &waiting))
            .map_err(io_error)?;
        Ok(Self { path: path.to_owned(), events: Mutex::new(Some(events)), writer: Mutex::new(Some(writer)) })
    }

    /// Waits until every event is written.
    ///
    /// # Errors
    /// What writing met; the rest of the work is not affected by it.
    pub fn finish(&self) -> Result<()> {
        drop(self.events.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return Ok(()) };
        let written = writer.join().map_err(|_| Error::bug(WRITE, "the writer panicked"))?;
        written.map_err(|error| Error::io(WRITE, &self.path, error))
    }

    /// Reads a file of events.
    ///
    /// # Errors
    /// There is no such file; a line is not an event, or one of a newer version. A
    /// torn last line, which a killed process leaves, is left out.
    pub fn read(path: &Path) -> Result<Vec<Event>> {
        let io = |error| Error::io(READ, path, error);
        let mut file = BufReader::new(std::fs::File::open(path).map_err(io)?);
        let (mut events, mut line, mut number) = (Vec::new(), Vec::new(), 0_u64);
        loop {
            line.clear();
            // As bytes: a torn line can end within a character.
            file.read_until(b'\n', &mut line).map_err(io)?;
            number += 1;
            let Some(whole) = line.strip_suffix(b"\n") else { return Ok(events) };
            let text = std::str::from_utf8(whole)
                .map_err(|_| Error::new(ErrorKind::DataInvalid, READ, "the line is not UTF-8"));
            let event = text.and_then(Event::parse);
            events.push(event.map_err(|error| error.with("path", path.display()).with("line", number))?);
        }
    }
}

impl EventSink for EventFile {
    fn on(&self, event: &Event) {
        if let Some(events) = &*self.events.lock().unwrap_or_else(PoisonError::into_inner) {
            // A writer that met an error is gone; `finish` reports it.
            let _ = events.send(event.clone());
        }
    }
}

fn write(mut file: impl Write, events: &Receiver<Event>) -> std::io::Result<()> {
    while let Ok(event) = events.recv() {
        line(&mut file, &event)?;
        while let Ok(event) = events.try_recv() {
            line(&mut file, &event)?;
        }
        file.flush()?;
    }
    Ok(())
}

fn line(file: &mut impl Write, event: &Event) -> std::io::Result<()> {
    serde_json::to_writer(&mut *file, event)?;
    file.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{CallContext, EventKind};

    #[test]
    fn events_are_read_back_and_a_torn_line_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let file = Arc::new(EventFile::create(&path).expect("creates"));
        let cx = CallContext::new().with_events(file.clone());
        for sample in 0..100 {
            cx.emit(EventKind::Decided { sample, difference: 0.5 });
        }
        file.finish().expect("writes");
        let events = EventFile::read(&path).expect("reads");
        let samples = events.iter().map(|event| match event.kind {
            EventKind::Decided { sample, .. } => sample,
            _ => panic!("another event"),
        });
        assert!(samples.eq(0..100));
        let bytes = std::fs::read(&path).expect("reads");
        std::fs::write(&path, &bytes[..bytes.len() - 7]).expect("writes");
        assert_eq!(EventFile::read(&path).expect("reads").len(), 99);
        // The first byte of two that are one character.
        std::fs::write(&path, [&bytes[..], b"{\"\xc3"].concat()).expect("writes");
        assert_eq!(EventFile::read(&path).expect("reads").len(), 100);
        std::fs::write(&path, [&bytes[..], b"{\"\xc3\n"].concat()).expect("writes");
        let said = EventFile::read(&path).expect_err("a whole line").to_string();
        assert!(said.contains("not UTF-8") && said.contains("line: 101"), "{said}");
        assert!(EventFile::create(&path).is_err(), "never written over");
        std::fs::write(&path, "").expect("writes");
        EventFile::create(&path).expect("takes an empty file").finish().expect("writes");
        std::fs::write(&path, "{}\n").expect("writes");
        assert!(EventFile::read(&path).expect_err("no event").to_string().contains("line: 1"));
    }
}

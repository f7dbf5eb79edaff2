//! Server-sent events: as the WHATWG HTML standard reads them, and as servers
//! write them.
//!
//! Beyond the standard: the last event needs no blank line after it; a line that
//! begins with `{` is data without its field's name; the field `error` is an event
//! of that name; a line of data that is JSON by itself ends the event before the
//! next line of data, since some servers leave out the blank line between events.
//! An `id` is for reconnecting and drops nothing.

use serde::de::IgnoredAny;

/// Longest event that is kept, in bytes. Source: albedo; far above any chunk of a reply.
const MAX_EVENT: usize = 1 << 20;

/// Splits a byte stream, however it arrives, into events.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    /// The last byte was a carriage return: a line feed now belongs to it.
    after_return: bool,
    started: bool,
}

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// The server calls it an error.
    pub(super) is_error: bool,
    /// It only keeps the connection alive, as its name says.
    pub(super) is_ping: bool,
    /// Its data, without white space around it.
    pub(super) data: Vec<u8>,
}

/// An event that is longer than [`MAX_EVENT`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Events {
    /// The events that `bytes` complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let joined = std::mem::take(&mut self.after_return) && byte == b'\n';
            if joined {
                continue;
            }
            match byte {
                b'\n' | b'\r' => {
                    self.after_return = byte == b'\r';
                    self.end_line(&mut events)?;
                }
                byte if self.line.len() < MAX_EVENT => self.line.push(byte),
                _ => return Err(TooLong),
            }
        }
        Ok(events)
    }

    /// The events that the end of the stream completes.
    pub(super) fn end(&mut self) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        self.end_line(&mut events)?;
        self.end_event(&mut events);
        Ok(events)
    }

    fn end_line(&mut self, events: &mut Vec<Event>) -> Result<(), TooLong> {
        let line = std::mem::take(&mut self.line);
        // A byte order mark may come first.
        let mark = if self.started { None } else { line.strip_prefix(b"\xEF\xBB\xBF") };
        self.started = true;
        let line = mark.unwrap_or(&line);
        if line.is_empty() {
            self.end_event(events);
            return Ok(());
        }
        let (field, value) = match line.iter().position(|&byte| byte == b':') {
            _ if line.starts_with(b"{") => (&b"data"[..], line),
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        match field {
            b"data" => self.data(value, events),
            b"error" => {
                self.event.is_error = true;
                self.data(value, events)
            }
            b"event" => {
                match value.trim_ascii() {
                    b"error" => self.event.is_error = true,
                    b"ping" | b"keepalive" | b"keep-alive" | b"heartbeat" => self.event.is_ping = true,
                    _ => {}
                }
                Ok(())
            }
            // Comments, which keep the connection alive; ids and reconnection times.
            _ => Ok(()),
        }
    }

    fn data(&mut self, value: &[u8], events: &mut Vec<Event>) -> Result<(), TooLong> {
        let value = value.trim_ascii();
        if self.has_data && is_whole(&self.event.data) {
            self.end_event(events);
        }
        if self.event.data.len() + value.len() >= MAX_EVENT {
            return Err(TooLong);
        }
        if std::mem::replace(&mut self.has_data, true) {
            self.event.data.push(b'\n');
        }
        self.event.data.extend_from_slice(value);
        Ok(())
    }

    fn end_event(&mut self, events: &mut Vec<Event>) {
        let event = std::mem::take(&mut self.event);
        if std::mem::take(&mut self.has_data) && !event.data.is_empty() {
            events.push(event);
        }
    }
}

/// Whether `data` is a JSON object by itself, or the end of a stream.
fn is_whole(data: &[u8]) -> bool {
    data == b"[DONE]" || (data.ends_with(b"}") && serde_json::from_slice::<IgnoredAny>(data).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let mut events = Events::default();
        let mut read: Vec<_> = pieces.iter().flat_map(|piece| events.push(piece).expect("short")).collect();
        read.extend(events.end().expect("short"));
        let text = |event: Event| {
            let sign = if event.is_error { "!" } else { "" };
            format!("{sign}{}", String::from_utf8(event.data).expect("text"))
        };
        read.into_iter().map(text).collect()
    }

    #[test]
    fn data_comments_and_line_ends_are_told_apart() {
        assert_eq!(read(&[b"data: a\n\ndata:b\r\n\r\ndata: c\r\r"]), ["a", "b", "c"]);
        assert_eq!(read(&[b"\xEF\xBB\xBFdata: a\n\n"]), ["a"]);
        assert_eq!(read(&[b": keep-alive\n\nevent: x\nretry: 3\n\n"]), [""; 0]);
        assert_eq!(read(&[b"data: one\ndata: two\n\ndata\n\ndata: \n\n"]), ["one\ntwo"]);
    }

    #[test]
    fn servers_leave_out_blank_lines_and_names() {
        assert_eq!(read(&[b"data: the last"]), ["the last"]);
        assert_eq!(read(&[b"data: {}\ndata: {\"a\": 1}\ndata: [DONE]\n"]), ["{}", "{\"a\": 1}", "[DONE]"]);
        assert_eq!(read(&[b"data: {\"a\":\ndata:  1}\n\n"]), ["{\"a\":\n1}"], "one object on two lines");
        assert_eq!(read(&[b"{\"error\": 1}\n"]), ["{\"error\": 1}"]);
        assert_eq!(read(&[b"error: {\"code\": 400}\n\n"]), ["!{\"code\": 400}"]);
        assert_eq!(read(&[b"event: error\ndata: x\n\ndata: y\n\n"]), ["!x", "y"]);
    }

    #[test]
    fn an_id_drops_nothing() {
        assert_eq!(read(&[b"id: 1\ndata: a\n\nid: 1\ndata: a\n\nid: 1\ndata: b\n\n"]), ["a", "a", "b"]);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut events = Events::default();
        let line = vec![b'x'; MAX_EVENT];
        assert_eq!(events.push(&line), Ok(vec![]));
        assert_eq!(events.push(b"x"), Err(TooLong));
        let mut events = Events::default();
        let half = [b"data: ".to_vec(), vec![b'x'; MAX_EVENT / 2], b"\n".to_vec()].concat();
        assert_eq!(events.push(&half), Ok(vec![]));
        assert_eq!(events.push(&half), Err(TooLong));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            text in "(data: ?[a-c{}]{0,3}|id: [12]|error: c|)?(\n|\r\n|\r)(data:[a-c]?(\n\n|\r\r|\r\n\r\n)){0,6}",
            cuts in proptest::collection::vec(0_usize..60, 0..6),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| cut < bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[bytes]));
        }
    }
}

//! Server-sent events, as the WHATWG HTML standard reads them.

/// Longest event that is kept, in bytes: ours, far above any chunk of a reply.
const MAX_EVENT: usize = 1 << 20;

/// Splits a byte stream, however it arrives, into the data of its events.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    id: Vec<u8>,
    last_id: Vec<u8>,
    /// The last byte was a carriage return: a line feed now belongs to it.
    after_return: bool,
    started: bool,
}

/// An event that is longer than [`MAX_EVENT`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Events {
    /// The data of the events that `bytes` complete. An event that repeats the
    /// `id` of the one before it is a duplicate and left out.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let joined = std::mem::take(&mut self.after_return) && byte == b'\n';
            if joined {
                continue;
            }
            match byte {
                b'\n' | b'\r' => {
                    self.after_return = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    // A byte order mark may come first.
                    let mark = if self.started { None } else { line.strip_prefix(b"\xEF\xBB\xBF") };
                    self.started = true;
                    events.extend(self.end_line(mark.unwrap_or(&line))?);
                }
                byte if self.line.len() < MAX_EVENT => self.line.push(byte),
                _ => return Err(TooLong),
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, line: &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let id = std::mem::take(&mut self.id);
            let duplicate = !id.is_empty() && id == self.last_id;
            if !id.is_empty() {
                self.last_id = id;
            }
            return Ok((std::mem::take(&mut self.has_data) && !duplicate).then_some(data));
        }
        let (field, value) = match line.iter().position(|&byte| byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.data.len() + value.len() >= MAX_EVENT {
                    return Err(TooLong);
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"id" => self.id = value.to_vec(),
            // Comments (keep-alives), event names and reconnection times.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let mut events = Events::default();
        let data = pieces.iter().flat_map(|piece| events.push(piece).expect("short"));
        data.map(|data| String::from_utf8(data).expect("text")).collect()
    }

    #[test]
    fn data_comments_and_line_ends_are_told_apart() {
        assert_eq!(read(&[b"data: a\n\ndata:b\r\n\r\ndata: c\r\r"]), ["a", "b", "c"]);
        assert_eq!(read(&[b"\xEF\xBB\xBFdata: a\n\n"]), ["a"]);
        assert_eq!(read(&[b": keep-alive\n\nevent: x\nretry: 3\n\n"]), [""; 0]);
        assert_eq!(read(&[b"data: one\ndata: two\n\ndata\n\n"]), ["one\ntwo", ""]);
        assert_eq!(read(&[b"data: never finished"]), [""; 0]);
    }

    #[test]
    fn a_repeated_id_is_a_duplicate() {
        assert_eq!(
            read(&[b"id: 1\ndata: a\n\nid: 1\ndata: a\n\nid: 2\ndata: a\n\ndata: a\n\n"]),
            ["a", "a", "a"]
        );
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
            text in "(data: ?[a-c]{0,3}|id: [12]|: c|)?(\n|\r\n|\r)(data:[a-c]?(\n\n|\r\r|\r\n\r\n)){0,6}",
            cuts in proptest::collection::vec(0_usize..60, 0..6),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| cut < bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[bytes]));
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            Events::default().push(&bytes).expect("short");
        }
    }
}

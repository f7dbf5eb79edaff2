//! The suite of [`ModelFiles`].

use std::ops::Range;
use std::time::Duration;

use super::{Checked, brief, broken, ends, ensure, refuses, stops, succeeds};
use crate::context::CallContext;
use crate::error::ErrorKind;
use crate::files::{FileEntry, ModelFiles};

/// Bytes that the suite reads of each file.
const READ: u64 = 1 << 16;

/// Checks a listing that has files, waiting at most `patience` for each call:
/// names inside the model's root, in byte order and stable; ranges read
/// exactly, up to the end and not past it; unknown names are not found; calls
/// can be stopped.
///
/// # Errors
/// The first promise found broken.
pub async fn check_files(files: &dyn ModelFiles, patience: Duration) -> Checked {
    const UNKNOWN: &str = "an unknown name is not found";
    let cx = CallContext::new();
    let list = async || succeeds(patience, "files are listed", files.list(&cx)).await;
    let listed = list().await?;
    ensure(!listed.is_empty(), "files are listed", || "none".into())?;
    ensure(listed.is_sorted_by(|a, b| a.name < b.name), "files are in byte order of their names", || {
        brief(&listed)
    })?;
    for FileEntry { name, .. } in &listed {
        let inside = !name.contains('\\') && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        ensure(inside, "names lie inside the model's root", || brief(name))?;
    }

    let read = async |name, range: Range<u64>| {
        let bytes = succeeds(patience, "a range is read", files.read(name, range.clone(), &cx)).await?;
        ensure(bytes.len() as u64 == range.end - range.start, "a range is read to the byte", || {
            format!("{} bytes of {range:?}", bytes.len())
        })?;
        Ok(bytes)
    };
    for FileEntry { name, size, .. } in &listed {
        let (end, half) = ((*size).min(READ), (*size).min(READ) / 2);
        let whole = read(name, 0..end).await?;
        let halves = [read(name, 0..half).await?, read(name, half..end).await?].concat();
        ensure(whole == halves, "a range is read to the byte", || format!("other halves of {name}"))?;
        read(name, *size..*size).await?;
        for past in [size.saturating_sub(1)..size.saturating_add(1), u64::MAX - 1..u64::MAX] {
            if let Ok(bytes) = ends(patience, files.read(name, past.clone(), &cx)).await? {
                return broken("no range reaches past the end", format!("{} bytes of {past:?}", bytes.len()));
            }
        }
    }

    for name in ["no such file", "", "..", "../config.json", "/etc/hostname"] {
        let error = refuses(patience, UNKNOWN, files.read(name, 0..0, &cx)).await?;
        ensure(error.kind() == ErrorKind::NotFound, UNKNOWN, || format!("`{name}`: {error}"))?;
    }
    stops(patience, |cx| async move { files.list(&cx).await }).await?;
    let again = list().await?;
    ensure(again == listed, "the listing is stable", || brief(&again))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;

    use super::*;
    use crate::conformance::{PATIENCE, Violation};
    use crate::error::{Error, Result};

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Flaw {
        None,
        Unsorted,
        Escapes,
        Short,
        Shifted,
        Pads,
        Invents,
    }

    #[derive(Debug)]
    struct Files(BTreeMap<String, Vec<u8>>, Flaw);

    #[async_trait]
    impl ModelFiles for Files {
        async fn list(&self, _: &CallContext) -> Result<Vec<FileEntry>> {
            let entry = |(name, bytes): (&String, &Vec<u8>)| {
                let name = if self.1 == Flaw::Escapes { format!("../{name}") } else { name.clone() };
                FileEntry::new(name, bytes.len() as u64)
            };
            let mut listed: Vec<_> = self.0.iter().map(entry).collect();
            if self.1 == Flaw::Unsorted {
                listed.reverse();
            }
            Ok(listed)
        }

        async fn read(&self, name: &str, range: Range<u64>, _: &CallContext) -> Result<Vec<u8>> {
            let missing = |what: &str| Error::new(ErrorKind::NotFound, "read a file", what);
            let Some(bytes) = self.0.get(name) else {
                return if self.1 == Flaw::Invents { Ok(vec![]) } else { Err(missing("no such file")) };
            };
            let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).expect("64 bits"));
            match self.1 {
                Flaw::Short => {
                    Ok(bytes[start.min(bytes.len())..end.min(bytes.len()).saturating_sub(1)].to_vec())
                }
                Flaw::Shifted => Ok(bytes[..end - start].to_vec()),
                Flaw::Pads if end < 1000 => {
                    Ok((start..end).map(|at| bytes.get(at).copied().unwrap_or(0)).collect())
                }
                _ => bytes.get(start..end).map(<[u8]>::to_vec).ok_or_else(|| missing("past the end")),
            }
        }
    }

    #[tokio::test]
    async fn every_flaw_is_found() {
        for (flaw, promise) in [
            (Flaw::None, None),
            (Flaw::Unsorted, Some("files are in byte order of their names")),
            (Flaw::Escapes, Some("names lie inside the model's root")),
            (Flaw::Short, Some("a range is read to the byte")),
            (Flaw::Shifted, Some("a range is read to the byte")),
            (Flaw::Pads, Some("no range reaches past the end")),
            (Flaw::Invents, Some("an unknown name is not found")),
        ] {
            let files = [("config.json", "{}"), ("weights/1", "0123456789")];
            let files = files.map(|(name, text)| (name.into(), text.into())).into();
            let found = check_files(&Files(files, flaw), PATIENCE).await.err();
            assert_eq!(found.as_ref().map(Violation::promise), promise, "{flaw:?}: {found:?}");
        }
    }
}

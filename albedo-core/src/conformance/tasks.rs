//! The suite of [`TaskSource`].

use std::time::Duration;

use futures::future::join_all;

use super::{Checked, brief, broken, ends, ensure, is_contestants, stops, succeeds};
use crate::context::CallContext;
use crate::tasks::TaskSource;

/// Checks a task source that has rows, waiting at most `patience` for each
/// call: stable facts; rows that read alike alone and at once; no row beyond
/// the last, and not by a contestant's fault; calls can be stopped.
///
/// # Errors
/// The first promise found broken.
pub async fn check_tasks(source: &dyn TaskSource, patience: Duration) -> Checked {
    let info = source.info().clone();
    ensure(info.rows > 0, "there are rows", || format!("{info:?}"))?;
    let cx = CallContext::new();
    let read = async |row| succeeds(patience, "every row is read", source.row(row, &cx)).await;

    let rows = [0, info.rows / 2, info.rows - 1];
    let mut alone = Vec::new();
    for row in rows {
        let task = read(row).await?;
        ensure(!task.instance_id.is_empty(), "a row names its task", || brief(&task))?;
        alone.push(task);
    }
    let at_once = join_all(rows.map(read)).await.into_iter().collect::<Checked<Vec<_>>>()?;
    ensure(at_once == alone, "a row is always the same", || brief(&at_once))?;

    for row in [info.rows, u64::MAX] {
        match ends(patience, source.row(row, &cx)).await? {
            Err(error) if !is_contestants(&error) => {}
            answer => return broken("there is no row beyond the last", brief(&answer)),
        }
    }
    stops(patience, |cx| async move { source.row(0, &cx).await }).await?;
    ensure(&info == source.info(), "the facts are stable", || format!("{:?}", source.info()))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::conformance::PATIENCE;
    use crate::digest::Digest;
    use crate::error::{Error, ErrorKind, Fault, Result, Side};
    use crate::tasks::{TaskRow, TaskSetInfo};

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Flaw {
        None,
        Nameless,
        Forgetful,
        Endless,
        Blames,
        Mumbles,
    }

    #[derive(Debug)]
    struct Rows {
        info: TaskSetInfo,
        flaw: Flaw,
        reads: std::sync::atomic::AtomicU32,
    }

    #[async_trait]
    impl TaskSource for Rows {
        fn info(&self) -> &TaskSetInfo {
            &self.info
        }

        async fn row(&self, row: u64, cx: &CallContext) -> Result<TaskRow> {
            cx.check("read a row").map_err(|error| match self.flaw {
                Flaw::Mumbles => Error::bug("read a row", "stopped"),
                _ => error,
            })?;
            if row >= self.info.rows && self.flaw != Flaw::Endless {
                let error = Error::new(ErrorKind::NotFound, "read a row", "no such row");
                return Err(match self.flaw {
                    Flaw::Blames => error.with_fault(Fault::Contestant(Side::King)),
                    _ => error,
                });
            }
            let reads = self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let repo = if self.flaw == Flaw::Forgetful { format!("{reads}") } else { "repo".into() };
            let instance_id = if self.flaw == Flaw::Nameless { String::new() } else { format!("{row}") };
            Ok(TaskRow { instance_id, repo, messages: vec![] })
        }
    }

    #[tokio::test]
    async fn every_flaw_is_found() {
        for (flaw, promise) in [
            (Flaw::None, None),
            (Flaw::Nameless, Some("a row names its task")),
            (Flaw::Forgetful, Some("a row is always the same")),
            (Flaw::Endless, Some("there is no row beyond the last")),
            (Flaw::Blames, Some("there is no row beyond the last")),
            (Flaw::Mumbles, Some("a stopped call says why")),
        ] {
            let info = TaskSetInfo { manifest: Digest::of("rows"), rows: 3, unhashed: false };
            let rows = Rows { info, flaw, reads: 0.into() };
            let found = check_tasks(&rows, PATIENCE).await.err();
            assert_eq!(found.as_ref().map(super::super::Violation::promise), promise, "{flaw:?}: {found:?}");
        }
    }
}

//! Jobs, their events and their results in one SQLite file.
//!
//! One thread owns the file. It takes everything that waits into one transaction, and
//! answers once that transaction is on the disk (`synchronous=FULL`), so that every answer
//! is true after a crash.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use albedo_backends::serve::protocol::{JobStatus, NumberedEvent, WireError};
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::oneshot;

use crate::events::{Event, JobEvent, JobState};
use crate::sqlite::Format;
use crate::{Digest, Error, ErrorKind, EventKind, Fault, Reach, Result};

const OPEN: &str = "open the store of jobs";
const USE: &str = "use the store of jobs";

/// albedo's store of jobs: `aljo`.
const FORMAT: Format = Format { application: 0x616c_6a6f, version: 1, tables: TABLES };

const TABLES: &str = "
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    place INTEGER NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    request BLOB NOT NULL,
    result BLOB,
    error TEXT,
    runs INTEGER NOT NULL DEFAULT 0,
    broken INTEGER NOT NULL DEFAULT 0,
    stored INTEGER NOT NULL DEFAULT 0,
    changed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX jobs_by_state ON jobs (state, place);
CREATE TABLE events (
    job TEXT NOT NULL,
    number INTEGER NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
";

/// A job that a server died of this often is set aside.
const MOST_BROKEN: u32 = 10;

/// Commands that are taken into one transaction at most.
const BATCH: usize = 256;

/// The file, as the rest of the server uses it. Cloning shares it.
pub(super) struct Store {
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Work within a transaction; what it gives is called once that is committed, or failed.
type Command = Box<dyn FnOnce(&Connection) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), &str>) + Send>;

impl Drop for Store {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread reached the calls that waited for it.
            let _ = thread.join();
        }
    }
}

/// What asking for a job met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Asked {
    /// It was not known.
    New,
    /// It is known, and waits, is under way or has its result.
    Known,
    /// It had ended without a result, or with one that is gone or says how things were,
    /// and waits again.
    Again,
}

/// What a job came to.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::server) enum Ended {
    /// The canonical JSON of its result.
    Result(Vec<u8>),
    Error(Box<WireError>),
}

impl Store {
    /// Opens the file at `path`, which is made if it does not exist. Jobs that were under
    /// way when its last process died wait again; one that it died of too often is set
    /// aside.
    ///
    /// # Errors
    /// The operator's: it is another program's file, or another process has it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let connection = prepare(path)?;
        let (commands, waiting) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("albedo-jobs".into())
            .spawn(move || write(&connection, &waiting))
            .map_err(|error| Error::io("start the thread of the store", path, error))?;
        Ok(Self { commands: Some(commands), thread: Some(thread), path: path.to_owned() })
    }

    /// Does `work` in a transaction; when this returns, what it wrote is on the disk.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let command: Command = Box::new(move |connection| {
            let done = within(connection, work);
            Box::new(move |committed: Result<(), &str>| {
                let result = match (done, committed) {
                    (Ok(value), Ok(())) => Ok(value),
                    (Err(error), _) => Err(error.to_string()),
                    (_, Err(error)) => Err(error.to_owned()),
                };
                // Nobody waits any more: it is done all the same.
                let _ = answer.send(result);
            })
        });
        let gone = || Error::bug(USE, "its thread is gone").with("path", self.path.display());
        self.commands.as_ref().ok_or_else(gone)?.send(command).map_err(|_| gone())?;
        let answered = answered.await.map_err(|_| gone())?;
        answered.map_err(|message| {
            Error::new(ErrorKind::Unavailable, USE, message)
                .with_fault(Fault::Infrastructure)
                .with("path", self.path.display())
                .with_hint("check the disk and its free space")
        })
    }

    /// Asks for the job `id` of `kind`; a result of a `lasting` one stands.
    pub(super) async fn ask(
        &self,
        id: Digest,
        kind: &'static str,
        lasting: bool,
        request: Vec<u8>,
    ) -> Result<Asked> {
        self.run(move |connection| {
            let key = id.to_string();
            let state = state(connection, &key)?;
            let asked = match state {
                None => Asked::New,
                Some(JobState::Queued | JobState::Running) => return Ok(Asked::Known),
                Some(JobState::Done) if lasting => return Ok(Asked::Known),
                Some(JobState::Done | JobState::Failed | JobState::Acknowledged) => Asked::Again,
            };
            connection.execute(
                "INSERT INTO jobs (id, place, kind, state, request, changed)
                 VALUES (?1, (SELECT coalesce(max(place), 0) + 1 FROM jobs), ?2, 'queued', ?3, ?4)
                 ON CONFLICT (id) DO UPDATE
                 SET state = 'queued', error = NULL, result = NULL, request = ?3, broken = 0, changed = ?4",
                params![key, kind, request, now()],
            )?;
            note(connection, id, kind, JobState::Queued, None)?;
            Ok(asked)
        })
        .await
    }

    /// The job that has waited longest, and its request; it is under way from now on.
    pub(super) async fn next(&self) -> Result<Option<(Digest, Vec<u8>)>> {
        self.run(move |connection| {
            let next = connection
                .query_row(
                    "SELECT id, kind, request FROM jobs WHERE state = 'queued' ORDER BY place LIMIT 1",
                    [],
                    |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, Vec<u8>>(2)?)),
                )
                .optional()?;
            let Some((key, kind, request)) = next else { return Ok(None) };
            connection.execute(
                "UPDATE jobs SET state = 'running', runs = runs + 1, changed = ?2 WHERE id = ?1",
                params![key, now()],
            )?;
            let id = digest(&key)?;
            note(connection, id, &kind, JobState::Running, None)?;
            Ok(Some((id, request)))
        })
        .await
    }

    /// Stores what the job came to, unless its result is there already: the first one
    /// stands. Returns whether this one was stored.
    pub(super) async fn end(&self, id: Digest, ended: Ended) -> Result<bool> {
        self.run(move |connection| {
            let key = id.to_string();
            let Some((kind, state)) = kind_and_state(connection, &key)? else { return Ok(false) };
            if state != JobState::Running {
                return Ok(false);
            }
            let (state, error) = match &ended {
                Ended::Result(result) => {
                    connection.execute(
                        "UPDATE jobs SET state = 'done', result = ?2, error = NULL, stored = stored + 1,
                         broken = 0, changed = ?3 WHERE id = ?1",
                        params![key, result, now()],
                    )?;
                    (JobState::Done, None)
                }
                Ended::Error(error) => {
                    connection.execute(
                        "UPDATE jobs SET state = 'failed', result = NULL, error = ?2, broken = 0, changed = ?3
                         WHERE id = ?1",
                        params![key, json(error), now()],
                    )?;
                    (JobState::Failed, Some(error.message.clone()))
                }
            };
            note(connection, id, &kind, state, error)?;
            Ok(true)
        })
        .await
    }

    /// The job waits again, as if it had not been begun: the server stops.
    pub(super) async fn hand_back(&self, id: Digest) -> Result<()> {
        self.run(move |connection| {
            let key = id.to_string();
            let changed = connection.execute(
                "UPDATE jobs SET state = 'queued', runs = runs - 1, changed = ?2
                 WHERE id = ?1 AND state = 'running'",
                params![key, now()],
            )?;
            if let (1, Some((kind, _))) = (changed, kind_and_state(connection, &key)?) {
                note(connection, id, &kind, JobState::Queued, None)?;
            }
            Ok(())
        })
        .await
    }

    /// Lets the result of a job that is done go. An unfinished one fails as cancelled.
    /// `unfinished_only` leaves results alone. Gives the state before; none if the job is
    /// not known.
    pub(super) async fn let_go(
        &self,
        id: Digest,
        unfinished_only: bool,
        cancelled: WireError,
    ) -> Result<Option<JobState>> {
        self.run(move |connection| {
            let key = id.to_string();
            let Some((kind, state)) = kind_and_state(connection, &key)? else { return Ok(None) };
            let (next, error) = match state {
                JobState::Queued | JobState::Running => (JobState::Failed, Some(&cancelled)),
                JobState::Done | JobState::Failed if !unfinished_only => (JobState::Acknowledged, None),
                _ => return Ok(Some(state)),
            };
            connection.execute(
                "UPDATE jobs SET state = ?2, result = NULL, error = ?3, changed = ?4 WHERE id = ?1",
                params![key, name(next), error.map(json), now()],
            )?;
            note(connection, id, &kind, next, error.map(|error| error.message.clone()))?;
            Ok(Some(state))
        })
        .await
    }

    /// How far the job is; none if it is not known.
    pub(super) async fn status(&self, id: Digest) -> Result<Option<JobStatus>> {
        self.run(move |connection| {
            let key = id.to_string();
            let status = connection
                .query_row(
                    "SELECT kind, state, runs, stored, error,
                     (SELECT coalesce(max(number), 0) FROM events WHERE job = id) FROM jobs WHERE id = ?1",
                    [&key],
                    |row| {
                        Ok(JobStatus {
                            job: id,
                            kind: row.get(0)?,
                            state: parse_state(&row.get::<_, String>(1)?)?,
                            runs: row.get(2)?,
                            stored: row.get(3)?,
                            error: row.get::<_, Option<String>>(4)?.as_deref().map(parse).transpose()?,
                            events: row.get(5)?,
                        })
                    },
                )
                .optional()?;
            Ok(status)
        })
        .await
    }

    /// What the job came to; none if it is not known or not over.
    pub(super) async fn ended(&self, id: Digest) -> Result<Option<Ended>> {
        self.run(move |connection| {
            let ended = connection
                .query_row(
                    "SELECT result, error FROM jobs WHERE id = ?1 AND state IN ('done', 'failed')",
                    [id.to_string()],
                    |row| Ok((row.get::<_, Option<Vec<u8>>>(0)?, row.get::<_, Option<String>>(1)?)),
                )
                .optional()?;
            Ok(match ended {
                Some((Some(result), _)) => Some(Ended::Result(result)),
                Some((None, Some(error))) => Some(Ended::Error(Box::new(parse(&error)?))),
                _ => None,
            })
        })
        .await
    }

    /// Adds an event to the job's.
    pub(super) async fn add_event(&self, id: Digest, event: Event) -> Result<()> {
        self.run(move |connection| add(connection, id, &event)).await
    }

    /// The job's events after number `after`, in order; none if the job is not known.
    pub(super) async fn events(&self, id: Digest, after: u64) -> Result<Option<Vec<NumberedEvent>>> {
        self.run(move |connection| {
            let key = id.to_string();
            if state(connection, &key)?.is_none() {
                return Ok(None);
            }
            let mut events = connection
                .prepare("SELECT number, event FROM events WHERE job = ?1 AND number > ?2 ORDER BY number")?;
            let events = events.query_map(params![key, after], |row| {
                Ok(NumberedEvent { number: row.get(0)?, event: parse(&row.get::<_, String>(1)?)? })
            })?;
            events.collect::<rusqlite::Result<_>>().map(Some)
        })
        .await
    }

    /// Jobs that wait or are under way.
    pub(super) async fn unfinished(&self) -> Result<u64> {
        self.run(|connection| {
            connection.query_row(
                "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')",
                [],
                |row| row.get(0),
            )
        })
        .await
    }

    /// The requests of the jobs of `kind` that were done before `before_ms` and not asked
    /// for since.
    pub(super) async fn done_before(
        &self,
        kind: &'static str,
        before_ms: u64,
    ) -> Result<Vec<(Digest, Vec<u8>)>> {
        self.run(move |connection| {
            let mut query = connection.prepare(
                "SELECT id, request FROM jobs WHERE kind = ?1 AND state = 'done' AND changed < ?2",
            )?;
            let rows = query.query_map(params![kind, before_ms], |row| {
                Ok((digest(&row.get::<_, String>(0)?)?, row.get(1)?))
            })?;
            rows.collect()
        })
        .await
    }

    /// Removes jobs that were over before `before_ms`: results that nobody acknowledged,
    /// and what is remembered of the others.
    pub(super) async fn forget(&self, before_ms: u64) -> Result<u64> {
        self.run(move |connection| {
            connection.execute(
                "DELETE FROM events WHERE job IN (SELECT id FROM jobs
                 WHERE changed < ?1 AND state NOT IN ('queued', 'running'))",
                [before_ms],
            )?;
            let gone = connection.execute(
                "DELETE FROM jobs WHERE changed < ?1 AND state NOT IN ('queued', 'running')",
                [before_ms],
            )?;
            Ok(gone as u64)
        })
        .await
    }
}

/// The open file, its tables made, its unfinished jobs waiting.
fn prepare(path: &Path) -> Result<Connection> {
    let failed = |error: rusqlite::Error| {
        let busy = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy);
        let error = Error::new(ErrorKind::Unavailable, OPEN, error.to_string())
            .with_fault(Fault::Operator)
            .with_reach(Reach::Process)
            .with("path", path.display());
        error.with_hint(if busy {
            "another server uses it: stop that one, or set another folder as `data`"
        } else {
            "check the file; without it, jobs that were asked for are done again"
        })
    };
    private(path).map_err(|error| Error::io(OPEN, path, error))?;
    let connection = Connection::open(path).map_err(failed)?;
    // A second process is refused at once, for as long as this one lives.
    connection
        .execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             BEGIN IMMEDIATE;",
        )
        .map_err(failed)?;
    if let Err(message) = FORMAT.make_or_check(&connection).map_err(failed)? {
        return Err(Error::new(ErrorKind::DataInvalid, OPEN, message)
            .with_fault(Fault::Operator)
            .with("path", path.display())
            .with_hint("use the program that wrote it, or set another folder as `data`"));
    }
    recover(&connection).map_err(failed)?;
    connection.execute_batch("COMMIT").map_err(failed)?;
    Ok(connection)
}

/// What was under way when the last process died waits again.
fn recover(connection: &Connection) -> rusqlite::Result<()> {
    let mut query =
        connection.prepare("SELECT id, kind, broken FROM jobs WHERE state = 'running' ORDER BY place")?;
    let running = query
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, u32>(2)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for (key, kind, broken) in running {
        let id = digest(&key)?;
        if broken + 1 < MOST_BROKEN {
            connection.execute(
                "UPDATE jobs SET state = 'queued', broken = broken + 1, changed = ?2 WHERE id = ?1",
                params![key, now()],
            )?;
            note(connection, id, &kind, JobState::Queued, None)?;
            continue;
        }
        let message = format!("the server died {MOST_BROKEN} times while it did the job, which is set aside");
        let error = Error::new(ErrorKind::Unavailable, "do the job", &message)
            .with_retry(crate::Retry::Never)
            .with_hint("look at the server's log; asked for again, the job is tried again");
        connection.execute(
            "UPDATE jobs SET state = 'failed', error = ?2, broken = 0, changed = ?3 WHERE id = ?1",
            params![key, json(&WireError::from(&error)), now()],
        )?;
        add(connection, id, &Event::new(None, EventKind::Alert { message: message.clone() }))?;
        note(connection, id, &kind, JobState::Failed, Some(message))?;
        tracing::warn!(job = %id.short(), "a job is set aside: the server died of it {MOST_BROKEN} times");
    }
    Ok(())
}

/// Makes the file, readable for its owner alone, if it is not there.
fn private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Takes commands until the store is dropped.
fn write(connection: &Connection, waiting: &mpsc::Receiver<Command>) {
    while let Ok(first) = waiting.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = waiting.try_recv()
        {
            batch.push(next);
        }
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        let answers: Vec<Answer> = batch.into_iter().map(|command| command(connection)).collect();
        let committed =
            begun.and_then(|()| connection.execute_batch("COMMIT")).map_err(|error| error.to_string());
        if let Err(error) = &committed {
            tracing::error!("the store of jobs fails: {error}");
            if !connection.is_autocommit() {
                // No caller has had an answer to any of it.
                let _ = connection.execute_batch("ROLLBACK");
            }
        }
        for answer in answers {
            answer(committed.as_ref().copied().map_err(String::as_str));
        }
    }
}

/// `work` alone: what it wrote is taken back if it fails.
fn within<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("SAVEPOINT job")?;
    let done = work(connection);
    let end = if done.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    connection.execute_batch(end)?;
    done
}

fn state(connection: &Connection, key: &str) -> rusqlite::Result<Option<JobState>> {
    Ok(kind_and_state(connection, key)?.map(|(_, state)| state))
}

fn kind_and_state(connection: &Connection, key: &str) -> rusqlite::Result<Option<(String, JobState)>> {
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, parse_state(&row.get::<_, String>(1)?)?));
    connection.prepare("SELECT kind, state FROM jobs WHERE id = ?1")?.query_row([key], row).optional()
}

/// Adds the event that the job is in `state` now.
fn note(
    connection: &Connection,
    job: Digest,
    kind: &str,
    state: JobState,
    error: Option<String>,
) -> rusqlite::Result<()> {
    let event = EventKind::Job(JobEvent { job, kind: kind.to_owned(), state, error });
    add(connection, job, &Event::new(None, event))
}

fn add(connection: &Connection, job: Digest, event: &Event) -> rusqlite::Result<()> {
    connection
        .prepare(
            "INSERT INTO events (job, number, event)
             VALUES (?1, (SELECT coalesce(max(number), 0) + 1 FROM events WHERE job = ?1), ?2)",
        )?
        .execute(params![job.to_string(), json(event)])
        .map(drop)
}

/// Milliseconds since the Unix epoch: how old something is, which decides no result.
pub(super) fn now() -> u64 {
    Event::new(None, EventKind::Alert { message: String::new() }).time_ms
}

fn name(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Acknowledged => "acknowledged",
    }
}

fn parse_state(text: &str) -> rusqlite::Result<JobState> {
    parse(&format!("\"{text}\""))
}

fn digest(text: &str) -> rusqlite::Result<Digest> {
    text.parse().map_err(|error: Error| invalid(error))
}

fn json(value: &impl serde::Serialize) -> String {
    // What is stored here has string keys and no path.
    serde_json::to_string(value).unwrap_or_default()
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(invalid)
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
}

//! Writing a pinned task set: parquet shards, then the manifest that pins them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use albedo_core::{Digest, Error, ErrorKind, Fault, Result, TaskRow, TaskSetInfo};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde::Serialize;

use super::manifest::Manifest;

const WRITE: &str = "write the tasks";

/// Rows of a shard. Source: chosen by albedo, a few megabytes of trajectories.
const SHARD: usize = 1000;

/// Rows per row group. Reading one row reads its whole group.
const ROW_GROUP: usize = 64;

/// The columns that [`ParquetTasks`](super::ParquetTasks) reads.
const SCHEMA: &str = "message tasks {
    REQUIRED BYTE_ARRAY instance_id (UTF8);
    REQUIRED BYTE_ARRAY repo (UTF8);
    REQUIRED group messages (LIST) {
        REPEATED group list {
            REQUIRED group element {
                REQUIRED BYTE_ARRAY role (UTF8);
                REQUIRED BYTE_ARRAY content (UTF8);
            }
        }
    }
}";

/// A manifest as it is written.
#[derive(Serialize)]
struct ManifestFile {
    shards: Vec<ShardFile>,
    total_rows: u64,
}

#[derive(Serialize)]
struct ShardFile {
    name: String,
    rows: usize,
    bytes: usize,
    sha256: Digest,
}

/// Writes `rows` as a task set into `folder`, which is created: shards of at most 1000
/// rows under `data/`, and `manifest.json` when all of them are there. The same rows give
/// the same bytes, and so the same manifest.
///
/// # Errors
/// The first error of `rows`; the operator's: a row without a message, no row at all, a
/// manifest that is there already; the operating system's.
pub fn write_tasks(folder: &Path, rows: impl IntoIterator<Item = Result<TaskRow>>) -> Result<TaskSetInfo> {
    let path = folder.join("manifest.json");
    if path.exists() {
        return Err(Error::new(ErrorKind::Conflict, WRITE, "the folder holds a task set")
            .with_fault(Fault::Operator)
            .with("path", path.display())
            .with_hint("choose another folder"));
    }
    let data = folder.join("data");
    fs::create_dir_all(&data).map_err(|error| Error::io(WRITE, &data, error))?;
    let (mut manifest, mut part) = (ManifestFile { shards: Vec::new(), total_rows: 0 }, Vec::new());
    let mut rows = rows.into_iter();
    loop {
        let row = rows.next().transpose()?;
        let last = row.is_none();
        part.extend(row);
        if part.len() == SHARD || (last && !part.is_empty()) {
            let shard = write_shard(folder, manifest.shards.len(), &part)?;
            manifest.total_rows += part.len() as u64;
            manifest.shards.push(shard);
            part.clear();
        }
        if last {
            break;
        }
    }
    let json = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| Error::bug(WRITE, error.to_string()).with_source(error))?;
    // What is written is read, too.
    let info = Manifest::parse(&json)?.info().clone();
    fs::write(&path, json).map_err(|error| Error::io(WRITE, &path, error))?;
    Ok(info)
}

fn write_shard(folder: &Path, number: usize, rows: &[TaskRow]) -> Result<ShardFile> {
    let name = format!("data/{number:05}.parquet");
    let bytes = shard(rows)?;
    let path = folder.join(&name);
    fs::write(&path, &bytes).map_err(|error| Error::io(WRITE, &path, error))?;
    Ok(ShardFile { name, rows: rows.len(), bytes: bytes.len(), sha256: Digest::of(&bytes) })
}

/// `rows` as a parquet file.
fn shard(rows: &[TaskRow]) -> Result<Vec<u8>> {
    if let Some(row) = rows.iter().find(|row| row.messages.is_empty()) {
        return Err(Error::new(ErrorKind::DataInvalid, WRITE, "a row has no message")
            .with_fault(Fault::Operator)
            .with("instance", &row.instance_id));
    }
    let failed = |error: ParquetError| Error::bug(WRITE, error.to_string()).with_source(error);
    let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
    // No version of the library: the bytes follow from the rows.
    let properties =
        WriterProperties::builder().set_compression(Compression::SNAPPY).set_created_by("albedo".into());
    let mut bytes = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties.build())).map_err(failed)?;
    for rows in rows.chunks(ROW_GROUP) {
        let mut group = writer.next_row_group().map_err(failed)?;
        let messages = || rows.iter().flat_map(|row| &row.messages);
        // Every list has an element; the first of each begins a row.
        let definitions: Vec<i16> = messages().map(|_| 1).collect();
        let repetitions: Vec<i16> =
            rows.iter().flat_map(|row| (0..row.messages.len()).map(|place| i16::from(place > 0))).collect();
        let columns: [(Vec<ByteArray>, bool); 4] = [
            (rows.iter().map(|row| ByteArray::from(row.instance_id.as_str())).collect(), false),
            (rows.iter().map(|row| ByteArray::from(row.repo.as_str())).collect(), false),
            (messages().map(|message| ByteArray::from(message.role.as_str())).collect(), true),
            (messages().map(|message| ByteArray::from(message.content.as_str())).collect(), true),
        ];
        for (values, listed) in columns {
            let column = group.next_column().map_err(failed)?;
            let mut column = column.ok_or_else(|| Error::bug(WRITE, "the schema has too few columns"))?;
            let levels = |levels| Some(levels).filter(|_| listed);
            column
                .typed::<ByteArrayType>()
                .write_batch(&values, levels(&definitions[..]), levels(&repetitions[..]))
                .map_err(failed)?;
            column.close().map_err(failed)?;
        }
        group.close().map_err(failed)?;
    }
    writer.close().map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use albedo_core::{CallContext, Message, MessageRole, TaskSource};

    use super::super::{ParquetTasks, ParquetTasksConfig};
    use super::*;

    fn row(index: usize) -> TaskRow {
        let turn = |place: usize| {
            let role = if place.is_multiple_of(2) { MessageRole::User } else { MessageRole::Assistant };
            Message::new(role, format!("text {index}.{place} – é\n"))
        };
        TaskRow {
            instance_id: format!("instance-{index}"),
            repo: format!("repo-{}", index % 3),
            messages: (0..=index % 5).map(turn).collect(),
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_pinned() {
        // More than a shard, and a row group that is not full.
        let rows = SHARD + ROW_GROUP + 1;
        let folder = tempfile::tempdir().expect("a folder");
        let info = write_tasks(folder.path(), (0..rows).map(|index| Ok(row(index)))).expect("writes");
        assert_eq!((info.rows, info.unhashed), (rows as u64, false));
        let folder_alone = ParquetTasksConfig::folder(folder.path());
        let config = ParquetTasksConfig { manifest: Some(info.manifest), ..folder_alone };
        let cx = CallContext::new();
        let tasks = ParquetTasks::open(config, &cx).await.expect("opens");
        for index in [0, 1, ROW_GROUP - 1, ROW_GROUP, SHARD - 1, SHARD, rows - 1] {
            assert_eq!(tasks.row(index as u64, &cx).await.expect("reads"), row(index));
        }
        let again = tempfile::tempdir().expect("a folder");
        let same = write_tasks(again.path(), (0..rows).map(|index| Ok(row(index)))).expect("writes");
        assert_eq!(same, info, "the same rows, the same manifest");
        let error = write_tasks(again.path(), [Ok(row(1))]).expect_err("is there");
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }

    #[test]
    fn no_rows_a_row_without_messages_and_a_wrong_row_are_refused_without_a_manifest() {
        let folder = tempfile::tempdir().expect("a folder");
        let empty = TaskRow { messages: vec![], ..row(0) };
        let wrong = Error::new(ErrorKind::DataInvalid, "read a line", "it is broken");
        for (rows, words) in [
            (vec![], "there are no rows"),
            (vec![Ok(row(0)), Ok(empty)], "a row has no message"),
            (vec![Ok(row(0)), Err(wrong)], "it is broken"),
        ] {
            let error = write_tasks(folder.path(), rows).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
            assert!(!folder.path().join("manifest.json").exists());
        }
    }
}

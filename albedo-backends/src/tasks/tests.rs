use std::fs;

use albedo_core::conformance::{PATIENCE, check_tasks};
use albedo_core::{Fault, Message, MessageRole, Registry};
use futures::future::join_all;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::{Field, RowAccessor};
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const SCHEMA: &str = "message rows {
    OPTIONAL BYTE_ARRAY instance_id (UTF8);
    REQUIRED BYTE_ARRAY repo (UTF8);
    OPTIONAL INT32 unrelated;
    OPTIONAL group messages (LIST) {
        REPEATED group list {
            OPTIONAL group element {
                OPTIONAL BYTE_ARRAY content (UTF8);
                OPTIONAL BYTE_ARRAY role (UTF8);
            }
        }
    }
}";

/// A column's definition levels, repetition levels and values.
type Cells = (Vec<i16>, Vec<i16>, Vec<ByteArray>);

/// How a shard is written.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    group: usize,
    pages_indexed: bool,
    /// Column and definition level of the first value of the first row.
    null: Option<(usize, i16)>,
}

fn message(role: MessageRole, content: impl Into<String>) -> Message {
    Message::new(role, content)
}

/// Row `index` has `index % 4` messages.
fn task(index: usize) -> TaskRow {
    use MessageRole::{Assistant, System, User};
    let roles = [System, User, Assistant].into_iter().take(index % 4);
    TaskRow {
        instance_id: format!("instance-{index}"),
        repo: "répo".into(),
        messages: roles.map(|role| message(role, format!("{index} ").repeat(index))).collect(),
    }
}

fn tasks(rows: usize) -> Vec<TaskRow> {
    (0..rows).map(task).collect()
}

/// The cells of one string per row, or of one per message.
fn cells(rows: &[TaskRow], column: usize) -> Cells {
    let bytes = |text: &str| ByteArray::from(text.as_bytes().to_vec());
    let (mut levels, mut repetitions, mut values) = (vec![], vec![], vec![]);
    for row in rows {
        match column {
            0 => values.push(bytes(&row.instance_id)),
            1 => values.push(bytes(&row.repo)),
            _ if row.messages.is_empty() => {
                levels.push(1);
                repetitions.push(0);
            }
            _ => {
                for (place, message) in row.messages.iter().enumerate() {
                    levels.push(4);
                    repetitions.push(i16::from(place > 0));
                    values.push(bytes(if column == 3 { &message.content } else { message.role.as_str() }));
                }
            }
        }
    }
    if column == 0 {
        levels = vec![1; rows.len()];
    }
    (levels, repetitions, values)
}

/// Levels as the writer wants them: none for a column that has none.
fn written(levels: &[i16]) -> Option<&[i16]> {
    (!levels.is_empty()).then_some(levels)
}

fn parquet(rows: &[TaskRow], shape: Shape) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
    let properties = WriterProperties::builder()
        .set_write_batch_size(1)
        .set_data_page_row_count_limit(2)
        .set_offset_index_disabled(!shape.pages_indexed)
        .set_statistics_enabled(if shape.pages_indexed {
            EnabledStatistics::Page
        } else {
            EnabledStatistics::None
        })
        .build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).expect("a writer");
    let group = if shape.group == 0 { rows.len().max(1) } else { shape.group };
    for (number, rows) in rows.chunks(group).enumerate() {
        let mut group = writer.next_row_group().expect("a row group");
        for column in 0..5 {
            let Some(mut writer) = group.next_column().expect("a column") else { break };
            let (mut levels, repetitions, mut values) = cells(rows, column);
            if let Some((_, level)) = shape.null.filter(|&(null, _)| null == column && number == 0) {
                levels[0] = level;
                values.remove(0);
            }
            let (levels, repetitions) = (written(&levels), written(&repetitions));
            if column == 2 {
                let levels = vec![0; rows.len()];
                let writer = writer.typed::<Int32Type>();
                writer.write_batch(&[], Some(&levels), None).expect("written");
            } else {
                let writer = writer.typed::<ByteArrayType>();
                writer.write_batch(&values, levels, repetitions).expect("written");
            }
            writer.close().expect("closed");
        }
        group.close().expect("closed");
    }
    writer.close().expect("closed");
    bytes
}

/// A folder with the shards `shards`, `0.parquet` and so on, and its manifest.
fn folder(shards: &[(Vec<u8>, usize)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut entries = vec![];
    for (index, (bytes, rows)) in shards.iter().enumerate() {
        let name = format!("{index}.parquet");
        fs::write(folder.path().join(&name), bytes).expect("written");
        entries
            .push(json!({ "name": name, "rows": rows, "bytes": bytes.len(), "sha256": Digest::of(bytes) }));
    }
    let total: usize = shards.iter().map(|(_, rows)| rows).sum();
    write_manifest(folder.path(), &json!({ "shards": entries, "total_rows": total }));
    folder
}

fn write_manifest(folder: &Path, manifest: &Value) {
    fs::write(folder.join("manifest.json"), manifest.to_string()).expect("written");
}

/// The manifest with `change` made to its first shard.
fn change_manifest(folder: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let bytes = fs::read(folder.join("manifest.json")).expect("a manifest");
    let mut manifest: Value = serde_json::from_slice(&bytes).expect("JSON");
    change(manifest["shards"][0].as_object_mut().expect("a shard"));
    write_manifest(folder, &manifest);
}

fn config(folder: &Path) -> ParquetTasksConfig {
    ParquetTasksConfig::folder(folder)
}

async fn open(folder: &Path) -> ParquetTasks {
    ParquetTasks::open(config(folder), &CallContext::new()).await.expect("opens")
}

async fn refused_open(config: ParquetTasksConfig) -> Error {
    let error = ParquetTasks::open(config, &CallContext::new()).await.expect_err("refused");
    assert_eq!(error.fault(), Fault::Operator, "{error}");
    error
}

async fn rows(tasks: &ParquetTasks) -> Result<Vec<TaskRow>> {
    let cx = CallContext::new();
    let rows = (0..tasks.info().rows).map(|row| tasks.row(row, &cx));
    join_all(rows).await.into_iter().collect()
}

/// Why the first row of `folder` cannot be read.
async fn refused_row(folder: &Path) -> Error {
    let error = open(folder).await.row(0, &CallContext::new()).await.expect_err("refused");
    assert_eq!(error.fault(), Fault::Operator, "{error}");
    assert!(error.to_string().lines().count() == 1, "{error}");
    error
}

/// A copy of the demo's tasks, to leave no markers beside the original.
fn demo() -> TempDir {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/demo/tasks");
    let copy = tempfile::tempdir().expect("a folder");
    fs::create_dir(copy.path().join("data")).expect("a folder");
    for name in ["manifest.json", "data/train-00000.parquet", "data/train-00001.parquet"] {
        fs::copy(demo.join(name), copy.path().join(name)).expect("copied");
    }
    copy
}

#[tokio::test]
async fn the_demos_tasks_conform() {
    let folder = demo();
    let config = ParquetTasksConfig::folder(folder.path());
    let tasks = ParquetTasks::open(config, &CallContext::new()).await.expect("opens");
    check_tasks(&tasks, PATIENCE).await.expect("conforms");
}

/// All rows of a parquet file through the record interface.
fn record_rows(path: &Path) -> Vec<TaskRow> {
    let reader = SerializedFileReader::new(File::open(path).expect("opens")).expect("parquet");
    let rows = reader.get_row_iter(None).expect("rows");
    rows.map(|row| {
        let row = row.expect("a row");
        let message = |field: &Field| {
            let Field::Group(group) = field else { panic!("{field:?}") };
            let value = |column: &str| {
                let (_, value) = group.get_column_iter().find(|(name, _)| *name == column).expect("a column");
                let Field::Str(value) = value else { panic!("{value:?}") };
                value.clone()
            };
            let role = serde_json::from_value(json!(value("role"))).expect("a role");
            message(role, value("content"))
        };
        TaskRow {
            instance_id: row.get_string(0).expect("a string").clone(),
            repo: row.get_string(1).expect("a string").clone(),
            messages: row.get_list(2).expect("a list").elements().iter().map(message).collect(),
        }
    })
    .collect()
}

#[tokio::test]
async fn the_demo_reads_row_by_row_as_it_does_in_one_go() {
    let demo = demo();
    let tasks = open(demo.path()).await;
    assert_eq!((tasks.info().rows, tasks.info().unhashed), (200, false));
    let manifest = fs::read(demo.path().join("manifest.json")).expect("a manifest");
    assert_eq!(tasks.info().manifest, Digest::of(manifest));

    let read = rows(&tasks).await.expect("reads");
    let whole = ["data/train-00000.parquet", "data/train-00001.parquet"]
        .iter()
        .flat_map(|name| record_rows(&demo.path().join(name)))
        .collect::<Vec<_>>();
    assert!(read == whole);
    assert_eq!(read.iter().map(|row| row.assistant_turns().len()).sum::<usize>(), 1450);
    for row in (0..200).rev() {
        assert!(tasks.row(row, &CallContext::new()).await.expect("reads") == whole[row as usize]);
    }
}

#[tokio::test]
async fn rows_are_found_in_any_row_group_and_page() {
    for pages_indexed in [false, true] {
        for group in [1, 7, 30] {
            let shape = Shape { group, pages_indexed, ..Shape::default() };
            let folder = folder(&[(parquet(&tasks(23), shape), 23), (parquet(&tasks(5), shape), 5)]);
            let read = rows(&open(folder.path()).await).await.expect("reads");
            assert_eq!(read, [tasks(23), tasks(5)].concat(), "{shape:?}");
        }
    }
}

#[tokio::test]
async fn few_shards_are_open_at_a_time() {
    let shards: Vec<_> = (0..40).map(|row| (parquet(&[task(row)], Shape::default()), 1)).collect();
    let folder = folder(&shards);
    let tasks = open(folder.path()).await;
    for _ in 0..2 {
        assert_eq!(rows(&tasks).await.expect("reads"), super::tests::tasks(40));
        assert_eq!(tasks.0.open.lock().expect("unpoisoned").len(), OPEN_SHARDS);
    }
}

#[tokio::test]
async fn a_list_may_be_named_and_nested_as_other_writers_do() {
    let two_levels = "message rows {
        REQUIRED BYTE_ARRAY repo (UTF8);
        REQUIRED BYTE_ARRAY instance_id;
        REPEATED group messages { REQUIRED BYTE_ARRAY content; REQUIRED BYTE_ARRAY role; }
    }";
    let schema = Arc::new(parse_message_type(two_levels).expect("a schema"));
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    let columns: [(&[&str], &[i16], &[i16]); 4] = [
        (&["a", "b"], &[], &[]),
        (&["1", "2"], &[], &[]),
        (&["hi", "ho"], &[0, 1, 1], &[0, 0, 1]),
        (&["user", "tool"], &[0, 1, 1], &[0, 0, 1]),
    ];
    for (values, levels, repetitions) in columns {
        let values: Vec<_> = values.iter().map(|&value| ByteArray::from(value)).collect();
        let mut column = group.next_column().expect("a column").expect("one more");
        let writer = column.typed::<ByteArrayType>();
        writer.write_batch(&values, written(levels), written(repetitions)).expect("written");
        column.close().expect("closed");
    }
    group.close().expect("closed");
    writer.close().expect("closed");
    let folder = folder(&[(bytes, 2)]);
    let read = rows(&open(folder.path()).await).await.expect("reads");
    assert_eq!((read[0].instance_id.as_str(), read[0].messages.len()), ("1", 0));
    let messages = [message(MessageRole::User, "hi"), message(MessageRole::Tool, "ho")];
    assert_eq!((read[1].repo.as_str(), &read[1].messages[..]), ("b", &messages[..]));
}

#[tokio::test]
async fn a_shard_is_also_found_at_the_last_part_of_its_name() {
    let folder = folder(&[(parquet(&tasks(3), Shape::default()), 3)]);
    change_manifest(folder.path(), |shard| drop(shard.insert("name".into(), json!("data/x/0.parquet"))));
    assert_eq!(rows(&open(folder.path()).await).await.expect("reads"), tasks(3));
    fs::remove_file(folder.path().join("0.parquet")).expect("removed");
    let error = refused_row(folder.path()).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("data/x/0.parquet"), "{error}");
}

#[tokio::test]
async fn a_shard_with_another_digest_or_size_is_refused() {
    let bytes = parquet(&tasks(3), Shape::default());
    let folder = folder(&[(bytes.clone(), 3)]);
    let mut altered = bytes.clone();
    altered[20] ^= 1;
    fs::write(folder.path().join("0.parquet"), &altered).expect("written");
    let error = refused_row(folder.path()).await;
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    for part in [
        "shard: 0.parquet",
        &Digest::of(&bytes).to_string(),
        &Digest::of(&altered).to_string(),
        "row: 0",
        "fetch",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    fs::write(folder.path().join("0.parquet"), &bytes[..50]).expect("written");
    let error = refused_row(folder.path()).await;
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    assert!(error.to_string().contains(&format!("expected bytes: {}, found: 50", bytes.len())), "{error}");
}

#[tokio::test]
async fn a_marker_saves_hashing_until_the_file_changes() {
    let folder = folder(&[(parquet(&tasks(3), Shape::default()), 3)]);
    let shard = folder.path().join("0.parquet");
    let marker = folder.path().join(".verified/0.parquet.json");
    open(folder.path()).await.row(0, &CallContext::new()).await.expect("reads");

    // A marker that vouches for another digest is believed: nothing is hashed.
    let other = Digest::of("other").to_string();
    change_manifest(folder.path(), |shard| drop(shard.insert("sha256".into(), json!(other))));
    assert_eq!(refused_row(folder.path()).await.kind(), ErrorKind::DigestMismatch);
    let mut vouching: Value = serde_json::from_slice(&fs::read(&marker).expect("a marker")).expect("JSON");
    vouching["sha256"] = json!(other);
    fs::write(&marker, vouching.to_string()).expect("written");
    let tasks = open(folder.path()).await;
    tasks.row(0, &CallContext::new()).await.expect("reads");

    // The same bytes, size and time of modification, written once more.
    let modified = fs::metadata(&shard).and_then(|metadata| metadata.modified()).expect("a time");
    let bytes = fs::read(&shard).expect("read");
    let rewritten = File::options().write(true).open(&shard).expect("opens");
    std::io::Write::write_all(&mut &rewritten, &bytes).expect("written");
    rewritten.set_modified(modified).expect("set");
    assert_eq!(refused_row(folder.path()).await.kind(), ErrorKind::DigestMismatch);
    let error = tasks.row(0, &CallContext::new()).await.expect_err("an open shard is looked at again");
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[tokio::test]
async fn a_folder_that_takes_no_markers_is_read_all_the_same() {
    let folder = folder(&[(parquet(&tasks(3), Shape::default()), 3)]);
    fs::write(folder.path().join(".verified"), "no folder").expect("written");
    assert_eq!(rows(&open(folder.path()).await).await.expect("reads"), tasks(3));
    let folder = self::folder(&[(parquet(&tasks(3), Shape::default()), 3)]);
    fs::create_dir(folder.path().join(".verified")).expect("a folder");
    fs::write(folder.path().join(".verified/0.parquet.json"), "torn{").expect("written");
    assert_eq!(rows(&open(folder.path()).await).await.expect("reads"), tasks(3));
}

#[tokio::test]
async fn a_manifest_that_is_missing_pinned_otherwise_or_unhashed_is_refused() {
    let folder = folder(&[(parquet(&tasks(3), Shape::default()), 3)]);
    let config = config(folder.path());
    let manifest = fs::read(folder.path().join("manifest.json")).expect("a manifest");
    let pinned = ParquetTasksConfig { manifest: Some(Digest::of(&manifest)), ..config.clone() };
    ParquetTasks::open(pinned, &CallContext::new()).await.expect("opens");
    let other = ParquetTasksConfig { manifest: Some(Digest::of("other")), ..config.clone() };
    let error = refused_open(other).await;
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    for part in ["manifest.json", &Digest::of("other").to_string(), &Digest::of(&manifest).to_string()] {
        assert!(error.to_string().contains(part), "{error}");
    }

    change_manifest(folder.path(), |shard| drop(shard.remove("sha256")));
    let error = refused_open(config.clone()).await;
    assert!(error.to_string().contains("shard: 0.parquet") && error.to_string().contains("allow_unhashed"));
    let allowed = ParquetTasksConfig { allow_unhashed: true, ..config.clone() };
    let tasks = ParquetTasks::open(allowed, &CallContext::new()).await.expect("opens");
    assert!(tasks.info().unhashed);
    assert_eq!(rows(&tasks).await.expect("reads"), super::tests::tasks(3));

    fs::write(folder.path().join("manifest.json"), "{").expect("written");
    let error = refused_open(config.clone()).await;
    assert!(error.to_string().contains("EOF while parsing") && error.to_string().contains("manifest.json"));
    fs::remove_file(folder.path().join("manifest.json")).expect("removed");
    assert_eq!(refused_open(config).await.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn shards_that_are_not_what_they_should_be_are_refused_with_the_reason() {
    let null = |column, level| {
        let shape = Shape { null: Some((column, level)), ..Shape::default() };
        (parquet(&tasks(4)[1..], shape), 3)
    };
    let mut not_text = parquet(&tasks(1), Shape::default());
    let at = not_text.windows(10).position(|bytes| bytes == b"instance-0").expect("plain");
    not_text[at] = 0xff;
    let mut unknown = parquet(&tasks(4), Shape::default());
    while let Some(at) = unknown.windows(6).position(|bytes| bytes == b"system") {
        unknown[at..at + 6].copy_from_slice(b"s\nstem");
    }
    let whole = parquet(&tasks(3), Shape::default());
    for ((bytes, rows), row, reason) in [
        ((whole[..whole.len() - 1].to_vec(), 3), 0, "Corrupt footer"),
        ((b"PAR1".to_vec(), 3), 0, "Size is 4 but need 8"),
        ((vec![], 3), 0, "Size is 0 but need 8"),
        ((whole.clone(), 4), 0, "not the manifest's rows (shard: 0.parquet, expected rows: 4, found: 3"),
        ((parquet(&[], Shape::default()), 1), 0, "expected rows: 1, found: 0"),
        (null(0, 0), 0, "null value (column: instance_id"),
        (null(3, 3), 0, "null value (column: messages.content"),
        (null(4, 2), 0, "null value (column: messages.role"),
        (null(4, 0), 0, "null value (column: messages.role"),
        ((not_text, 1), 0, "not UTF-8 (column: instance_id"),
        (
            (unknown, 4),
            1,
            "the role is unknown (column: messages.role, shard: 0.parquet, role: s\\nstem, row: 1)",
        ),
    ] {
        let folder = folder(&[(bytes, rows)]);
        let error = open(folder.path()).await.row(row, &CallContext::new()).await.expect_err(reason);
        assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Operator), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

/// A shard of one task that pyarrow wrote (`corpus/parquet.py`).
fn pyarrow(name: &str) -> TempDir {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/parquet").join(format!("{name}.parquet"));
    folder(&[(fs::read(path).expect("a corpus"), 1)])
}

#[tokio::test]
async fn what_pyarrow_compresses_is_read_or_called_unsupported_before_the_duel() {
    let messages = [message(MessageRole::User, "Repair it."), message(MessageRole::Assistant, "Done.")];
    for name in ["snappy", "gzip", "zstd", "nested-role"] {
        let folder = pyarrow(name);
        let read = rows(&open(folder.path()).await).await.expect(name);
        assert_eq!((read[0].repo.as_str(), &read[0].messages[..]), ("repository", &messages[..]), "{name}");
    }
    for (name, words) in [("lz4", "compressed with LZ4"), ("brotli", "compressed with BROTLI")] {
        let folder = pyarrow(name);
        // When the tasks are opened, or with the first row: both come before a duel is planned.
        let opened = ParquetTasks::open(config(folder.path()), &CallContext::new()).await;
        let error = match opened {
            Ok(tasks) => tasks.row(0, &CallContext::new()).await.expect_err(name),
            Err(error) => error,
        };
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Unsupported, Fault::Operator), "{error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("write the shard with Zstandard"), "{text}");
    }
    let error = refused_row(pyarrow("null-content").path()).await;
    assert!(error.to_string().contains("null value (column: messages.content"), "{error}");
}

#[tokio::test]
async fn columns_that_are_missing_or_of_another_type_are_refused() {
    for (schema, reason) in [
        ("REQUIRED BYTE_ARRAY repo;", "no such column, or several (column: instance_id"),
        ("REQUIRED INT32 instance_id; REQUIRED BYTE_ARRAY repo;", "no strings (column: instance_id"),
        ("REQUIRED BYTE_ARRAY instance_id; REPEATED BYTE_ARRAY repo;", "or several (column: repo"),
        (
            "REQUIRED BYTE_ARRAY instance_id; REQUIRED BYTE_ARRAY repo; REQUIRED BYTE_ARRAY messages;",
            "or several (column: messages.role",
        ),
        (
            "REQUIRED BYTE_ARRAY instance_id; REQUIRED BYTE_ARRAY repo;
             REPEATED group messages { REQUIRED BYTE_ARRAY role; REQUIRED DOUBLE content; }",
            "no strings (column: messages.content",
        ),
    ] {
        let schema = parse_message_type(&format!("message rows {{ {schema} }}")).expect("a schema");
        let mut bytes = Vec::new();
        let writer =
            SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::default()).expect("a writer");
        writer.close().expect("closed");
        // A shard without rows is opened by nobody but this test.
        let folder = folder(&[(bytes, 0), (parquet(&tasks(1), Shape::default()), 1)]);
        let tasks = open(folder.path()).await;
        assert_eq!(rows(&tasks).await.expect("reads"), super::tests::tasks(1));
        let error = tasks.0.shard(0, None, &CallContext::new()).expect_err(reason);
        assert_eq!(error.kind(), ErrorKind::DataInvalid);
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_row_past_the_end_and_a_cancelled_call_say_so() {
    let folder = folder(&[(parquet(&tasks(3), Shape::default()), 3)]);
    let (tasks, cx) = (open(folder.path()).await, CallContext::new());
    let error = tasks.row(3, &cx).await.expect_err("past the end");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("there is no such row (rows: 3, row: 3)"), "{error}");
    cx.cancel();
    assert_eq!(tasks.row(0, &cx).await.expect_err("cancelled").kind(), ErrorKind::Cancelled);
    let shard = tasks.0.shard(0, None, &cx).expect_err("hashing is cancelled too");
    assert_eq!(shard.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn it_is_built_by_name_from_strict_settings() {
    let folder = folder(&[(parquet(&tasks(3), Shape::default()), 3)]);
    let (registry, cx) = (Registry::linked().expect("links"), CallContext::new());
    let build = |settings| registry.build::<dyn TaskSource>("parquet", settings, &cx);
    let tasks = build(json!({ "path": folder.path() })).await.expect("builds");
    assert_eq!(tasks.info().rows, 3);
    for (settings, reason) in [
        (json!({}), "`path` is missing"),
        (json!({ "path": "" }), "`path` is empty"),
        (json!({ "path": "a", "unhashed": true }), "unknown key `unhashed`"),
        (json!({ "path": "a", "manifest": "ab" }), "`ab` is not 64 hexadecimal digits"),
    ] {
        let error = build(settings).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(reason), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn altered_bytes_that_nothing_pins_are_an_error_or_read_as_rows(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        kept in prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)],
        pages_indexed in any::<bool>(),
    ) {
        let mut bytes = parquet(&tasks(9), Shape { group: 4, pages_indexed, ..Shape::default() });
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(kept) = kept {
            bytes.truncate(kept.index(bytes.len()));
        }
        let folder = folder(&[(bytes, 9)]);
        change_manifest(folder.path(), |shard| drop(shard.remove("sha256")));
        let config = ParquetTasksConfig { allow_unhashed: true, ..config(folder.path()) };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let read = runtime.block_on(async {
            let tasks = ParquetTasks::open(config, &CallContext::new()).await.expect("the manifest is whole");
            rows(&tasks).await
        });
        if let Err(error) = read {
            prop_assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Operator), "{}", error);
        }
    }
}

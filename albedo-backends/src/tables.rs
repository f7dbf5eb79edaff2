//! Rows of text, numbers, messages and token ids as parquet files or JSON Lines, for the
//! training tools of others.
//!
//! ```
//! use albedo_backends::tables::{Column, Form, Kind, TableWriter, Value};
//!
//! const COLUMNS: &[Column] = &[Column::new("id", Kind::Text), Column::new("score", Kind::MaybeNumber)];
//! # fn main() -> albedo_core::Result<()> {
//! # let folder = tempfile::tempdir().expect("a folder");
//! # let path = folder.path().join("rows.jsonl");
//! let mut writer = TableWriter::create(&path, Form::JsonLines, COLUMNS)?;
//! writer.write(vec![Value::Text("a".into()), Value::MaybeNumber(Some(0.5))])?;
//! assert_eq!(writer.finish()?, 1);
//! assert_eq!(std::fs::read_to_string(&path).expect("is there"), "{\"id\":\"a\",\"score\":0.5}\n");
//! # Ok(())
//! # }
//! ```

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo_core::{Error, Message, Result};
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use serde_json::{Map, json};

const WRITE: &str = "write the rows";

/// Rows per row group. Source: chosen by albedo; a few megabytes of conversations.
const ROW_GROUP: usize = 64;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Text or nothing.
    MaybeText,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A number or nothing.
    MaybeNumber,
    /// Yes or no.
    Flag,
    /// Texts.
    Texts,
    /// Numbers.
    Numbers,
    /// A conversation: structures of `role` and `content`.
    Messages,
    /// Token ids.
    Ids,
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

impl Column {
    /// The column `name`.
    pub const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind }
    }
}

/// A value of a column of the [`Kind`] with the same name.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the kinds say what they hold")]
pub enum Value {
    Text(String),
    MaybeText(Option<String>),
    Integer(i64),
    Number(f64),
    MaybeNumber(Option<f64>),
    Flag(bool),
    Texts(Vec<String>),
    Numbers(Vec<f64>),
    Messages(Vec<Message>),
    Ids(Vec<u32>),
}

/// The form of a file of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Apache Parquet.
    Parquet,
    /// One JSON object per line.
    JsonLines,
}

impl Form {
    /// What file names end in.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::JsonLines => "jsonl",
        }
    }
}

/// Writes rows into a file that takes its name when it is complete. The same rows give the
/// same bytes.
#[derive(Debug)]
pub struct TableWriter {
    columns: &'static [Column],
    path: PathBuf,
    part: PathBuf,
    output: Output,
    rows: u64,
}

#[derive(Debug)]
enum Output {
    Parquet { writer: Box<SerializedFileWriter<BufWriter<File>>>, waiting: Vec<Vec<Value>> },
    JsonLines(BufWriter<File>),
}

impl TableWriter {
    /// Begins a file; its folder is made if there is none.
    ///
    /// # Errors
    /// The operating system's.
    pub fn create(path: &Path, form: Form, columns: &'static [Column]) -> Result<Self> {
        let part = path.with_extension(format!("{}.part", form.extension()));
        let io = |error| Error::io(WRITE, &part, error);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let file = BufWriter::new(File::create(&part).map_err(io)?);
        let output = match form {
            Form::JsonLines => Output::JsonLines(file),
            Form::Parquet => {
                let fields: Result<Vec<_>, _> =
                    columns.iter().map(|column| parquet_type(column).map(Arc::new)).collect();
                let fields = fields.map_err(bug)?;
                let schema = Type::group_type_builder("rows").with_fields(fields).build().map_err(bug)?;
                // No version of the library: the bytes follow from the rows.
                let properties = WriterProperties::builder()
                    .set_compression(Compression::SNAPPY)
                    .set_created_by("albedo".into())
                    .build();
                let writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties));
                Output::Parquet { writer: Box::new(writer.map_err(bug)?), waiting: Vec::new() }
            }
        };
        Ok(Self { columns, path: path.to_owned(), part, output, rows: 0 })
    }

    /// Writes a row: a value per column, in order.
    ///
    /// # Errors
    /// A bug: they are not those of the columns. The operating system's.
    pub fn write(&mut self, row: Vec<Value>) -> Result<()> {
        let fits = row.len() == self.columns.len()
            && row.iter().zip(self.columns).all(|(value, column)| value.kind() == column.kind);
        if !fits {
            return Err(Error::bug(WRITE, "a row does not have the values of its columns"));
        }
        self.rows += 1;
        match &mut self.output {
            Output::JsonLines(file) => {
                let object: Map<_, _> = self
                    .columns
                    .iter()
                    .zip(row)
                    .map(|(column, value)| (column.name.to_owned(), value.into_json()))
                    .collect();
                serde_json::to_writer(&mut *file, &object)
                    .map_err(std::io::Error::from)
                    .and_then(|()| file.write_all(b"\n"))
                    .map_err(|error| Error::io(WRITE, &self.part, error))
            }
            Output::Parquet { writer, waiting } => {
                waiting.push(row);
                if waiting.len() == ROW_GROUP { write_group(writer, self.columns, waiting) } else { Ok(()) }
            }
        }
        .map_err(|error| error.with("path", self.path.display()))
    }

    /// Completes the file, which is on the disk when it has its name; gives the number of rows.
    ///
    /// # Errors
    /// The operating system's.
    pub fn finish(self) -> Result<u64> {
        let Self { columns, path, part, output, rows } = self;
        let io = |error| Error::io(WRITE, &part, error);
        let file = match output {
            Output::JsonLines(file) => file,
            Output::Parquet { mut writer, mut waiting } => {
                if !waiting.is_empty() {
                    write_group(&mut writer, columns, &mut waiting)?;
                }
                writer.into_inner().map_err(bug)?
            }
        };
        let file = file.into_inner().map_err(|error| io(error.into_error()))?;
        file.sync_all().map_err(io)?;
        fs::rename(&part, &path).map_err(io)?;
        Ok(rows)
    }
}

impl Value {
    fn kind(&self) -> Kind {
        match self {
            Self::Text(_) => Kind::Text,
            Self::MaybeText(_) => Kind::MaybeText,
            Self::Integer(_) => Kind::Integer,
            Self::Number(_) => Kind::Number,
            Self::MaybeNumber(_) => Kind::MaybeNumber,
            Self::Flag(_) => Kind::Flag,
            Self::Texts(_) => Kind::Texts,
            Self::Numbers(_) => Kind::Numbers,
            Self::Messages(_) => Kind::Messages,
            Self::Ids(_) => Kind::Ids,
        }
    }

    fn into_json(self) -> serde_json::Value {
        match self {
            Self::Text(text) => text.into(),
            Self::MaybeText(text) => text.into(),
            Self::Integer(number) => number.into(),
            Self::Number(number) => number.into(),
            Self::MaybeNumber(number) => number.into(),
            Self::Flag(flag) => flag.into(),
            Self::Texts(texts) => texts.into(),
            Self::Numbers(numbers) => numbers.into(),
            Self::Messages(messages) => messages
                .into_iter()
                .map(|message| json!({"role": message.role.as_str(), "content": message.content}))
                .collect(),
            Self::Ids(ids) => ids.into(),
        }
    }
}

fn bug(error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) if source.is::<std::io::Error>() => {
            Error::new(albedo_core::ErrorKind::Unavailable, WRITE, source.to_string())
                .with_fault(albedo_core::Fault::Operator)
        }
        error => Error::bug(WRITE, error.to_string()).with_source(error),
    }
}

/// The column as parquet declares it. Lists are those of the format's three levels.
fn parquet_type(column: &Column) -> Result<Type, ParquetError> {
    let leaf = |name: &str, physical, repetition, logical| {
        Type::primitive_type_builder(name, physical)
            .with_repetition(repetition)
            .with_logical_type(logical)
            .build()
    };
    let text =
        |name: &str, repetition| leaf(name, Physical::BYTE_ARRAY, repetition, Some(LogicalType::String));
    let list = |element: Type| {
        let repeated = Type::group_type_builder("list")
            .with_repetition(Repetition::REPEATED)
            .with_fields(vec![Arc::new(element)])
            .build()?;
        Type::group_type_builder(column.name)
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type(Some(LogicalType::List))
            .with_fields(vec![Arc::new(repeated)])
            .build()
    };
    let (name, required) = (column.name, Repetition::REQUIRED);
    match column.kind {
        Kind::Text => text(name, required),
        Kind::MaybeText => text(name, Repetition::OPTIONAL),
        Kind::Integer => leaf(name, Physical::INT64, required, None),
        Kind::Number => leaf(name, Physical::DOUBLE, required, None),
        Kind::MaybeNumber => leaf(name, Physical::DOUBLE, Repetition::OPTIONAL, None),
        Kind::Flag => leaf(name, Physical::BOOLEAN, required, None),
        Kind::Texts => list(text("element", required)?),
        Kind::Numbers => list(leaf("element", Physical::DOUBLE, required, None)?),
        Kind::Ids => list(leaf("element", Physical::INT32, required, None)?),
        Kind::Messages => list(
            Type::group_type_builder("element")
                .with_repetition(required)
                .with_fields(vec![Arc::new(text("role", required)?), Arc::new(text("content", required)?)])
                .build()?,
        ),
    }
}

/// What the values of one column hold, which are all of its kind.
macro_rules! held {
    ($values:expr, $kind:path) => {
        $values
            .filter_map(|value| if let $kind(held) = value { Some(held) } else { None })
            .collect::<Vec<_>>()
    };
}

/// Writes `rows` as a row group, and empties them.
fn write_group(
    writer: &mut SerializedFileWriter<BufWriter<File>>,
    columns: &[Column],
    rows: &mut Vec<Vec<Value>>,
) -> Result<()> {
    fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<ByteArray> {
        texts.map(ByteArray::from).collect()
    }
    let mut group = writer.next_row_group().map_err(bug)?;
    for (place, column) in columns.iter().enumerate() {
        let values = rows.iter().map(|row| &row[place]);
        match column.kind {
            Kind::Text => {
                let all = held!(values, Value::Text);
                let all = texts(all.into_iter().map(String::as_str));
                write_column::<ByteArrayType>(&mut group, &all, None)?;
            }
            Kind::MaybeText => {
                let all = held!(values, Value::MaybeText);
                let present = Levels::of_options(all.iter().map(|text| text.is_some()));
                let all = texts(all.into_iter().flatten().map(String::as_str));
                write_column::<ByteArrayType>(&mut group, &all, Some(&present))?;
            }
            Kind::Integer => {
                let all: Vec<_> = held!(values, Value::Integer).into_iter().copied().collect();
                write_column::<Int64Type>(&mut group, &all, None)?;
            }
            Kind::Number => {
                let all: Vec<_> = held!(values, Value::Number).into_iter().copied().collect();
                write_column::<DoubleType>(&mut group, &all, None)?;
            }
            Kind::MaybeNumber => {
                let all = held!(values, Value::MaybeNumber);
                let present = Levels::of_options(all.iter().map(|number| number.is_some()));
                let all: Vec<_> = all.into_iter().copied().flatten().collect();
                write_column::<DoubleType>(&mut group, &all, Some(&present))?;
            }
            Kind::Flag => {
                let all: Vec<_> = held!(values, Value::Flag).into_iter().copied().collect();
                write_column::<BoolType>(&mut group, &all, None)?;
            }
            Kind::Texts => {
                let lists = held!(values, Value::Texts);
                let all = texts(lists.iter().copied().flatten().map(String::as_str));
                write_column::<ByteArrayType>(&mut group, &all, Some(&Levels::of_lists(&lists)))?;
            }
            Kind::Numbers => {
                let lists = held!(values, Value::Numbers);
                let all: Vec<_> = lists.iter().copied().flatten().copied().collect();
                write_column::<DoubleType>(&mut group, &all, Some(&Levels::of_lists(&lists)))?;
            }
            Kind::Ids => {
                let lists = held!(values, Value::Ids);
                let all: Vec<_> = lists.iter().copied().flatten().map(|id| id.cast_signed()).collect();
                write_column::<Int32Type>(&mut group, &all, Some(&Levels::of_lists(&lists)))?;
            }
            Kind::Messages => {
                let lists = held!(values, Value::Messages);
                let all = || lists.iter().copied().flatten();
                let roles = texts(all().map(|message| message.role.as_str()));
                write_column::<ByteArrayType>(&mut group, &roles, Some(&Levels::of_lists(&lists)))?;
                let contents = texts(all().map(|message| message.content.as_str()));
                write_column::<ByteArrayType>(&mut group, &contents, Some(&Levels::of_lists(&lists)))?;
            }
        }
    }
    group.close().map_err(bug)?;
    rows.clear();
    Ok(())
}

/// Which places of a column hold a value, and which begin a row.
struct Levels {
    definitions: Vec<i16>,
    repetitions: Option<Vec<i16>>,
}

impl Levels {
    fn of_options(present: impl Iterator<Item = bool>) -> Self {
        Self { definitions: present.map(i16::from).collect(), repetitions: None }
    }

    /// An empty list has one place, which holds nothing.
    fn of_lists<T>(lists: &[&Vec<T>]) -> Self {
        let places =
            || lists.iter().flat_map(|list| (0..list.len().max(1)).map(|place| (list.is_empty(), place)));
        Self {
            definitions: places().map(|(is_empty, _)| i16::from(!is_empty)).collect(),
            repetitions: Some(places().map(|(_, place)| i16::from(place > 0)).collect()),
        }
    }
}

fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, BufWriter<File>>,
    values: &[T::T],
    levels: Option<&Levels>,
) -> Result<()> {
    let column = group.next_column().map_err(bug)?;
    let mut column = column.ok_or_else(|| Error::bug(WRITE, "the schema has too few columns"))?;
    let definitions = levels.map(|levels| &levels.definitions[..]);
    let repetitions = levels.and_then(|levels| levels.repetitions.as_deref());
    column.typed::<T>().write_batch(values, definitions, repetitions).map_err(bug)?;
    column.close().map_err(bug)
}

#[cfg(test)]
mod tests {
    use albedo_core::MessageRole;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, Row};

    use super::*;

    const COLUMNS: &[Column] = &[
        Column::new("text", Kind::Text),
        Column::new("maybe", Kind::MaybeText),
        Column::new("integer", Kind::Integer),
        Column::new("number", Kind::Number),
        Column::new("perhaps", Kind::MaybeNumber),
        Column::new("flag", Kind::Flag),
        Column::new("texts", Kind::Texts),
        Column::new("numbers", Kind::Numbers),
        Column::new("messages", Kind::Messages),
        Column::new("ids", Kind::Ids),
    ];

    fn row(index: usize) -> Vec<Value> {
        let texts: Vec<_> = (0..index % 3).map(|place| format!("{index}.{place}")).collect();
        let message = |text: &String| Message::new(MessageRole::User, text.clone());
        vec![
            Value::Text(format!("é\n{index}")),
            Value::MaybeText((index.is_multiple_of(2)).then(|| "there".to_owned())),
            Value::Integer(index as i64 - 5),
            Value::Number(index as f64 / 16.0),
            Value::MaybeNumber((!index.is_multiple_of(3)).then_some(index as f64 / 4.0)),
            Value::Flag(index % 2 == 1),
            Value::Texts(texts.clone()),
            Value::Numbers((0..index % 4).map(|number| number as f64 / 8.0).collect()),
            Value::Messages(texts.iter().map(message).collect()),
            Value::Ids((0..index as u32 % 4).collect()),
        ]
    }

    fn write(folder: &Path, form: Form) -> Vec<u8> {
        let path = folder.join("sub").join(format!("rows.{}", form.extension()));
        let mut writer = TableWriter::create(&path, form, COLUMNS).expect("begins");
        for index in 0..ROW_GROUP + 7 {
            writer.write(row(index)).expect("writes");
        }
        assert!(!path.exists(), "it has its name when it is complete");
        assert_eq!(writer.finish().expect("ends"), ROW_GROUP as u64 + 7);
        fs::read(&path).expect("is there")
    }

    /// A row of a parquet file as JSON.
    fn object(row: &Row) -> serde_json::Value {
        row.get_column_iter().map(|(name, field)| (name.clone(), field_as_json(field))).collect()
    }

    fn field_as_json(field: &Field) -> serde_json::Value {
        match field {
            Field::Null => serde_json::Value::Null,
            Field::Bool(flag) => (*flag).into(),
            Field::Int(number) => (*number).into(),
            Field::Long(number) => (*number).into(),
            Field::Double(number) => (*number).into(),
            Field::Str(text) => text.as_str().into(),
            Field::ListInternal(list) => list.elements().iter().map(field_as_json).collect(),
            Field::Group(row) => object(row),
            other => panic!("a field of another kind: {other}"),
        }
    }

    #[test]
    fn both_forms_hold_the_same_rows() {
        let folder = tempfile::tempdir().expect("a folder");
        let (lines, parquet) = (write(folder.path(), Form::JsonLines), write(folder.path(), Form::Parquet));
        let again = tempfile::tempdir().expect("a folder");
        assert_eq!(write(again.path(), Form::Parquet), parquet, "the same rows, the same bytes");
        let lines = String::from_utf8(lines).expect("UTF-8");
        let reader = SerializedFileReader::new(bytes::Bytes::from(parquet)).expect("a parquet file");
        let mut rows = 0;
        for (line, row) in lines.lines().zip(reader.get_row_iter(None).expect("rows")) {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(object(&row.expect("a row")), line);
            rows += 1;
        }
        assert_eq!(rows, ROW_GROUP + 7);
    }

    #[test]
    fn a_row_of_other_columns_is_a_bug_and_a_full_disk_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.parquet");
        let mut writer = TableWriter::create(&path, Form::Parquet, COLUMNS).expect("begins");
        let error = writer.write(vec![Value::Flag(true)]).expect_err("too few");
        assert_eq!(error.fault(), albedo_core::Fault::Bug);
        let full = Path::new("/dev/full");
        if full.exists() {
            let link = folder.path().join("full.jsonl.part");
            std::os::unix::fs::symlink(full, &link).expect("links");
            let mut writer = TableWriter::create(&folder.path().join("full.jsonl"), Form::JsonLines, COLUMNS)
                .expect("begins");
            let failed = writer.write(row(1)).and_then(|()| writer.finish().map(drop)).expect_err("is full");
            assert_ne!(failed.fault(), albedo_core::Fault::Bug, "{failed}");
        }
    }
}

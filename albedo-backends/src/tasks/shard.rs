//! One open shard: its footer, and rows read through its columns.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::sync::Arc;

use albedo_core::files::{Tail, read_exact_at};
use albedo_core::{Error, ErrorKind, Fault, Message, MessageRole, Reach, Result, TaskRow};
use bytes::Bytes;
use parquet::basic::{Compression, Type as PhysicalType};
use parquet::column::page::PageReader;
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::ReaderProperties;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor};

use super::READ;
use super::manifest::ShardEntry;
use super::verify::Stamp;

/// Rows read at once on the way to the one wanted.
const ROWS_SKIPPED: usize = 64;

/// A verified shard with its footer. Holds no rows.
#[derive(Debug)]
pub(super) struct Shard {
    name: String,
    path: PathBuf,
    stamp: Stamp,
    source: Arc<Source>,
    footer: ParquetMetaData,
    instance_id: Column,
    repo: Column,
    role: Column,
    content: Column,
}

/// A column of strings: one per row, or a list of them.
#[derive(Debug)]
struct Column {
    name: &'static str,
    index: usize,
    descriptor: ColumnDescPtr,
    /// Definition level from which on a list has an element; 0 for a column
    /// without lists.
    element_level: i16,
}

impl Shard {
    /// Reads the footer of `file` and checks it against `entry`.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`]: it is no parquet file, a column is missing
    /// or of another type, its rows are not as many as the manifest's.
    pub(super) fn open(entry: &ShardEntry, file: File, path: PathBuf, stamp: Stamp) -> Result<Self> {
        let source = Arc::new(Source { file: Arc::new(file), length: stamp.size });
        let footer = ParquetMetaDataReader::new()
            .with_offset_index_policy(PageIndexPolicy::Optional)
            .parse_and_finish(&*source)
            .map_err(|error| unreadable(error, &path).with("shard", &entry.name))?;
        let groups = footer.row_groups().iter();
        let rows = groups
            .map(|group| u64::try_from(group.num_rows()).ok())
            .try_fold(0_u64, |sum, rows| sum.checked_add(rows?));
        if rows != Some(entry.rows) || footer.file_metadata().num_rows() as u64 != entry.rows {
            return Err(Error::new(ErrorKind::DataInvalid, READ, "the shard has not the manifest's rows")
                .with_fault(Fault::Operator)
                .with("shard", &entry.name)
                .with("expected rows", entry.rows)
                .with("found", footer.file_metadata().num_rows())
                .with_hint("fetch the shard again, or make the manifest again"));
        }
        let column = |name, path: &[&str]| {
            Column::find(footer.file_metadata().schema_descr(), name, path)
                .map_err(|error| error.with("shard", &entry.name))
        };
        let columns = [
            column("instance_id", &["instance_id"])?,
            column("repo", &["repo"])?,
            column("messages.role", &["messages", "role"])?,
            column("messages.content", &["messages", "content"])?,
        ];
        for column in &columns {
            require_readable(&footer, column).map_err(|error| error.with("shard", &entry.name))?;
        }
        let [instance_id, repo, role, content] = columns;
        Ok(Self { instance_id, repo, role, content, name: entry.name.clone(), path, stamp, source, footer })
    }

    /// Whether the file is still the one that was verified.
    pub(super) fn is_unchanged(&self) -> Result<bool> {
        Stamp::of(&self.source.file, &self.path).map(|stamp| stamp == self.stamp)
    }

    /// Reads the row at `place`, and of other rows of its row group no more
    /// than it takes to find it.
    pub(super) fn row(&self, place: u64) -> Result<TaskRow> {
        let (mut group, mut skip) = (0, place);
        while let Some(rows) = self.footer.row_groups().get(group).map(|group| group.num_rows() as u64) {
            if skip < rows {
                break;
            }
            (group, skip) = (group + 1, skip - rows);
        }
        let read = |column: &Column| column.read(self, group, skip as usize);
        let one =
            |column: &Column| read(column)?.pop().ok_or_else(|| self.invalid(column, "a value is missing"));
        let (instance_id, repo) = (one(&self.instance_id)?, one(&self.repo)?);
        let (roles, contents) = (read(&self.role)?, read(&self.content)?);
        if roles.len() != contents.len() {
            return Err(self.invalid(&self.content, "there are not as many as roles"));
        }
        let messages = roles.iter().zip(contents).map(|(role, content)| {
            let role = message_role(role).ok_or_else(|| {
                self.invalid(&self.role, "the role is unknown").with("role", shortened(role))
            })?;
            Ok(Message { role, content })
        });
        Ok(TaskRow { instance_id, repo, messages: messages.collect::<Result<_>>()? })
    }

    fn invalid(&self, column: &Column, message: &str) -> Error {
        Error::new(ErrorKind::DataInvalid, READ, message)
            .with_fault(Fault::Operator)
            .with("column", column.name)
            .with("shard", &self.name)
    }
}

impl Column {
    /// The one column of strings that begins and ends with the parts of `path`;
    /// writers name the list between them differently.
    fn find(schema: &SchemaDescriptor, name: &'static str, path: &[&str]) -> Result<Self> {
        let lists = path.len() as i16 - 1;
        let fits = |descriptor: &ColumnDescPtr| {
            let parts = descriptor.path().parts();
            let (first, last) = (parts.first(), parts.last());
            let named = first.is_some_and(|part| part == path[0])
                && last.is_some_and(|part| part == path[path.len() - 1]);
            named && descriptor.max_rep_level() == lists && (lists == 1 || parts.len() == 1)
        };
        let invalid = |message: &str| {
            let error = Error::new(ErrorKind::DataInvalid, READ, message).with_fault(Fault::Operator);
            error.with("column", name).with_hint(
                "the columns must be `instance_id`, `repo` and `messages`, a list of `role` and `content`",
            )
        };
        // A member of a message may have members of these names itself: they lie deeper.
        let depth = |descriptor: &ColumnDescPtr| descriptor.path().parts().len();
        let least = schema.columns().iter().filter(|descriptor| fits(descriptor)).map(depth).min();
        let mut found = schema.columns().iter().enumerate();
        let mut found = found.by_ref().filter(|(_, column)| fits(column) && Some(depth(column)) == least);
        let (Some((index, descriptor)), None) = (found.next(), found.next()) else {
            return Err(invalid("the shard has no such column, or several"));
        };
        if descriptor.physical_type() != PhysicalType::BYTE_ARRAY {
            return Err(invalid("the column holds no strings"));
        }
        let element_level = if lists == 0 { 0 } else { element_level(schema, descriptor) };
        Ok(Self { name, index, descriptor: Arc::clone(descriptor), element_level })
    }

    /// The strings of the row after the first `skip` of row group `group`.
    fn read(&self, shard: &Shard, group: usize, skip: usize) -> Result<Vec<String>> {
        let invalid = |message: &str| shard.invalid(self, message);
        let unreadable =
            |error| unreadable(error, &shard.path).with("column", self.name).with("shard", &shard.name);
        let metadata = shard.footer.row_groups().get(group).ok_or_else(|| invalid("there is no such row"))?;
        let mut pages = SerializedPageReader::new_with_properties(
            Arc::clone(&shard.source),
            metadata.column(self.index),
            metadata.num_rows() as usize,
            shard.footer.page_index_for_row_group(group).page_locations(self.index).cloned(),
            Arc::new(ReaderProperties::builder().build()),
        )
        .map_err(unreadable)?;
        let mut skip = self.skip_pages(&mut pages, skip).map_err(unreadable)?;
        let ColumnReader::ByteArrayColumnReader(mut reader) =
            get_column_reader(Arc::clone(&self.descriptor), Box::new(pages))
        else {
            return Err(invalid("the column holds no strings"));
        };
        let (mut levels, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::<ByteArray>::new());
        let mut read = |rows| {
            levels.clear();
            repetitions.clear();
            values.clear();
            let (read, ..) =
                reader.read_records(rows, Some(&mut levels), Some(&mut repetitions), &mut values)?;
            if read == rows {
                Ok(())
            } else {
                Err(ParquetError::EOF("the column ends before the row".into()))
            }
        };
        // Rows are read rather than skipped: `skip_records` does not return on a
        // page whose repetition levels are fewer than it claims.
        while skip > 0 {
            let rows = skip.min(ROWS_SKIPPED);
            read(rows).map_err(unreadable)?;
            skip -= rows;
        }
        read(1).map_err(unreadable)?;
        // In a list, one level below an element's is the list that is empty.
        let (present, empty) = (self.descriptor.max_def_level(), self.element_level - 1);
        if levels.iter().any(|&level| level != present && level != empty) {
            return Err(invalid("there is a null value"));
        }
        let text = |value: ByteArray| {
            String::from_utf8(value.data().to_vec()).map_err(|_| invalid("a value is not UTF-8"))
        };
        values.into_iter().map(text).collect()
    }

    /// Skips the pages that end before the row after the first `skip`, without
    /// decompressing them, where their headers or an index tell; the rows that
    /// are left to skip.
    fn skip_pages(
        &self,
        pages: &mut SerializedPageReader<Source>,
        mut skip: usize,
    ) -> parquet::errors::Result<usize> {
        while let Some(page) = pages.peek_next_page()? {
            let one_a_row = self.descriptor.max_rep_level() == 0;
            let rows = if page.is_dict {
                // Skipping it is putting it off.
                pages.supports_deferred_dictionary().then_some(0)
            } else {
                page.num_rows.or(page.num_levels.filter(|_| one_a_row))
            };
            let Some(left) = rows.and_then(|rows| skip.checked_sub(rows)) else { break };
            pages.skip_next_page()?;
            skip = left;
        }
        Ok(skip)
    }
}

/// Checks that the pages of `column` are compressed in a way that is read: before
/// the duel, not at the first row.
fn require_readable(footer: &ParquetMetaData, column: &Column) -> Result<()> {
    let groups = footer.row_groups().iter().filter(|group| group.num_rows() > 0);
    let compressions = groups.map(|group| group.column(column.index).compression());
    for compression in compressions {
        match compression {
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_) => {
            }
            other => {
                let message = format!("the column is compressed with {other:?}, which is not supported");
                return Err(unsupported(message).with("column", column.name));
            }
        }
    }
    Ok(())
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, READ, message)
        .with_fault(Fault::Operator)
        .with_reach(Reach::Duel)
        .with_hint("write the shard with Zstandard, Snappy, gzip or no compression, and its manifest anew")
}

/// Definition level from which on the list around `column` has an element: the
/// optional and repeated parts of its path up to the repeated one.
fn element_level(schema: &SchemaDescriptor, column: &ColumnDescPtr) -> i16 {
    let (mut level, mut node) = (0, schema.root_schema());
    for part in column.path().parts() {
        let Some(field) = node.get_fields().iter().find(|field| field.name() == part) else { break };
        node = field;
        match node.get_basic_info().repetition() {
            parquet::basic::Repetition::REQUIRED => {}
            parquet::basic::Repetition::OPTIONAL => level += 1,
            parquet::basic::Repetition::REPEATED => return level + 1,
        }
    }
    level
}

fn message_role(name: &str) -> Option<MessageRole> {
    use MessageRole::{Assistant, System, Tool, User};
    [System, User, Assistant, Tool].into_iter().find(|role| role.as_str() == name)
}

/// Enough of a hostile value to recognise it.
fn shortened(text: &str) -> String {
    text.chars().take(32).flat_map(char::escape_debug).collect()
}

/// What the parquet reader met: the operating system's answer, or bytes that
/// are not parquet.
fn unreadable(error: ParquetError, path: &std::path::Path) -> Error {
    let error = match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) if source.raw_os_error().is_some() => return Error::io(READ, path, *source),
            Ok(source) => ParquetError::External(source),
            Err(source) => ParquetError::External(source),
        },
        error => error,
    };
    if matches!(error, ParquetError::NYI(_)) || error.to_string().contains("Disabled feature") {
        return unsupported(error.to_string()).with("path", path.display()).with_source(error);
    }
    Error::new(ErrorKind::DataInvalid, READ, error.to_string())
        .with_fault(Fault::Operator)
        .with("path", path.display())
        .with_hint("fetch the shard again")
        .with_source(error)
}

/// A file read by position: readers of one shard do not move each other.
#[derive(Debug)]
struct Source {
    file: Arc<File>,
    length: u64,
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Source {
    type T = BufReader<Tail<Arc<File>>>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::new(Tail::new(Arc::clone(&self.file), start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        // Before memory is reserved: the footer may say anything.
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF(format!("bytes {start}+{length} of {}", self.length)));
        }
        let mut bytes = vec![0; length];
        read_exact_at(&self.file, &mut bytes, start)?;
        Ok(bytes.into())
    }
}

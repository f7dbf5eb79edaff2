//! Files in memory, for tests: they count what is read of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::{FileEntry, ModelFiles};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};

/// Files in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryFiles {
    files: BTreeMap<String, Vec<u8>>,
    /// Of each byte of each file, how often it was read.
    reads: Mutex<BTreeMap<String, Vec<u32>>>,
}

impl MemoryFiles {
    pub(crate) fn new(files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Arc<Self> {
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        Arc::new(Self { files, reads: Mutex::default() })
    }

    /// A model of one `F32` tensor `a` in one file.
    pub(crate) fn of(values: &[f32]) -> Arc<Self> {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let header = format!(
            r#"{{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{}]}}}}"#,
            values.len(),
            data.len()
        );
        Self::new([("config.json", b"{}".to_vec()), ("model.safetensors", safetensors(&header, &data))])
    }

    /// How often each byte of file `name` was read.
    pub(crate) fn reads(&self, name: &str) -> Vec<u32> {
        let size = self.files[name].len();
        self.reads.lock().expect("unpoisoned").get(name).cloned().unwrap_or_else(|| vec![0; size])
    }

    pub(crate) fn bytes(&self, name: &str) -> &[u8] {
        &self.files[name]
    }
}

/// A weight file of this header and data.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

#[async_trait]
impl ModelFiles for MemoryFiles {
    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        cx.check("list files")?;
        let entry = |(name, bytes): (&String, &Vec<u8>)| FileEntry::new(name, bytes.len() as u64);
        Ok(self.files.iter().map(entry).collect())
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        cx.check("read files")?;
        let range = range.start as usize..range.end as usize;
        let missing = || Error::new(ErrorKind::NotFound, "read files", "no such range");
        let file = self.files.get(name).ok_or_else(missing)?;
        let bytes = file.get(range.clone()).ok_or_else(missing)?.to_vec();
        let mut reads = self.reads.lock().expect("unpoisoned");
        let counts = reads.entry(name.to_owned()).or_insert_with(|| vec![0; file.len()]);
        counts[range].iter_mut().for_each(|count| *count += 1);
        Ok(bytes)
    }
}

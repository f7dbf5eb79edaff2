//! A model's folder, read by position.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo_core::{CallContext, Error, FileEntry, ModelFiles, Result};
use async_trait::async_trait;

/// The files of a folder, which lie in it directly.
#[derive(Debug)]
struct Folder(PathBuf);

/// The files of the model in `folder`.
pub(crate) fn folder(folder: &Path) -> Arc<dyn ModelFiles> {
    Arc::new(Folder(folder.to_owned()))
}

#[async_trait]
impl ModelFiles for Folder {
    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        const OPERATION: &str = "list the folder";
        cx.check(OPERATION)?;
        let io = |error| Error::io(OPERATION, &self.0, error);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(io)? {
            let entry = entry.map_err(io)?;
            let (name, size) = (entry.file_name(), entry.metadata().map_err(io)?.len());
            files.push(FileEntry::new(name.to_string_lossy(), size));
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        const OPERATION: &str = "read a file";
        let path = self.0.join(name);
        let work = move || {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, range.start));
            read.map(|()| bytes).map_err(|error| Error::io(OPERATION, &path, error))
        };
        let read = cx.run(OPERATION, tokio::task::spawn_blocking(work)).await?;
        read.map_err(|error| Error::bug(OPERATION, error.to_string()))?
    }
}

//! The record stores that core brings, by name.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BuildContext, CheckContext, Plugin};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{FileStore, MemoryStore, RecordStore};

/// Settings of the record store `file`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileStoreConfig {
    /// The folder; relative ones are taken from the configuration's.
    pub path: PathBuf,
    /// Go on with the duel that the folder holds, in place of beginning one.
    #[serde(default)]
    pub resume: bool,
}

impl Plugin<dyn RecordStore> for FileStore {
    const NAME: &'static str = "file";
    const SUMMARY: &'static str = "a folder that holds one duel";
    type Config = FileStoreConfig;
    type Checked = FileStoreConfig;

    fn check(config: FileStoreConfig, _: &CheckContext<'_>) -> Result<FileStoreConfig> {
        if config.path.as_os_str().is_empty() {
            let operation = "check the settings of store `file`";
            return Err(
                Error::new(ErrorKind::ConfigInvalid, operation, "`path` is empty").with("key", "path")
            );
        }
        Ok(config)
    }

    async fn build(config: FileStoreConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn RecordStore>> {
        let path = cx.path(&config.path);
        Ok(Arc::new(if config.resume { Self::resume(path)? } else { Self::create(path)? }))
    }
}

crate::register!(dyn RecordStore => FileStore);

/// Settings of the record store `memory`: none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryStoreConfig {}

impl Plugin<dyn RecordStore> for MemoryStore {
    const NAME: &'static str = "memory";
    const SUMMARY: &'static str = "memory, for callers that only want the verdict";
    type Config = MemoryStoreConfig;
    type Checked = ();

    fn check(MemoryStoreConfig {}: MemoryStoreConfig, _: &CheckContext<'_>) -> Result<()> {
        Ok(())
    }

    async fn build((): (), _: &BuildContext<'_>) -> Result<Arc<dyn RecordStore>> {
        Ok(Arc::new(Self::default()))
    }
}

crate::register!(dyn RecordStore => MemoryStore);

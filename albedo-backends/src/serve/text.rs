//! The text files of models that run elsewhere, kept in the cache folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo_core::{CallContext, Digest, Error, ErrorKind, Fault, Reach, Result};

use super::link::{Link, another};
use super::protocol::{LoadedModel, MAX_TEXT_FILE, TEXT_FILES, TextFile};
use crate::files::read_small;
use crate::text::{ChatText, Date};

const FETCH: &str = "fetch the model's text files";

/// The folder of text files: `serve/{digest of the names and digests}/`.
#[derive(Debug)]
pub(super) struct Texts(PathBuf);

impl Texts {
    pub(super) fn new(cache: &Path) -> Self {
        Self(cache.join("serve"))
    }

    /// What `loaded` says about text, with files that are here or come through `link`.
    ///
    /// # Errors
    /// The infrastructure's: the files are not those that the session works with; the
    /// disk's.
    pub(super) async fn load(
        &self,
        loaded: &LoadedModel,
        link: &dyn Link,
        cx: &CallContext,
    ) -> Result<Arc<ChatText>> {
        let listing = &loaded.text;
        for (name, file) in listing {
            if !TEXT_FILES.contains(&name.as_str()) || file.size > MAX_TEXT_FILE {
                return Err(another("a text file that no model has").with("file", name));
            }
        }
        let folder = self.0.join(Digest::of_json(listing)?.to_string());
        if !complete(&folder, listing)? {
            let mut files = Vec::new();
            for (name, file) in listing {
                let bytes = cx.run(FETCH, link.file(*file, cx)).await??;
                if bytes.len() as u64 != file.size || Digest::of(&bytes) != file.sha256 {
                    return Err(another("a text file with another digest").with("file", name));
                }
                files.push((name.clone(), bytes));
            }
            let folder = folder.clone();
            let store = move || store(&folder, &files);
            let stored = cx.run(FETCH, tokio::task::spawn_blocking(store)).await?;
            stored.map_err(|error| Error::bug(FETCH, error.to_string()))??;
        }
        let date = loaded.date.as_deref().map(str::parse::<Date>).transpose().map_err(|why: &str| {
            Error::new(ErrorKind::Protocol, FETCH, format!("the server's date cannot be read: {why}"))
        })?;
        let text = move || ChatText::load(&folder, date);
        let text = cx.run(FETCH, tokio::task::spawn_blocking(text)).await?;
        let text = text.map_err(|error| Error::bug(FETCH, error.to_string()))??;
        let model = &loaded.model;
        if (text.tokenizer_digest(), text.template_digest()) != (model.tokenizer, model.chat_template)
            || text.stop_ids() != model.stop_ids
        {
            return Err(another("a model with other text files than the server hands out"));
        }
        Ok(Arc::new(text))
    }
}

/// Whether `folder` has the files of `listing`, each with its digest.
fn complete(folder: &Path, listing: &BTreeMap<String, TextFile>) -> Result<bool> {
    if !folder.exists() {
        return Ok(false);
    }
    for (name, file) in listing {
        let bytes = match read_small(&folder.join(name), MAX_TEXT_FILE, FETCH, None) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return damaged(folder),
            Err(error) => return Err(infrastructure(error)),
        };
        if Digest::of(&bytes) != file.sha256 {
            return damaged(folder);
        }
    }
    Ok(true)
}

/// Makes room for the files again.
fn damaged(folder: &Path) -> Result<bool> {
    fs::remove_dir_all(folder).map_err(|error| infrastructure(Error::io(FETCH, folder, error)))?;
    Ok(false)
}

/// Puts `files` into `folder`, all or none; another process may do the same.
fn store(folder: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    let io = |error| infrastructure(Error::io(FETCH, folder, error));
    let parent = folder.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(io)?;
    let partial = tempfile::tempdir_in(parent).map_err(io)?;
    for (name, bytes) in files {
        fs::write(partial.path().join(name), bytes).map_err(io)?;
    }
    let partial = partial.keep();
    match fs::rename(&partial, folder) {
        Ok(()) => Ok(()),
        // Another process was faster with the same files.
        Err(_) if folder.exists() => fs::remove_dir_all(&partial).map_err(io),
        Err(error) => Err(io(error)),
    }
}

/// An error of this machine's disk: never about a contestant's file.
fn infrastructure(error: Error) -> Error {
    match error.fault() {
        Fault::Operator => error,
        _ => error.with_fault(Fault::Infrastructure).with_reach(Reach::Duel),
    }
}

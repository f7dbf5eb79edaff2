//! Whether a king could be made of a submission's text files.

use std::path::{Path, PathBuf};

use crate::backends::prompts::PromptText;
use crate::validator::models::{Local, blocking};
use crate::{Error, ErrorKind, Fault, Result, Side};

/// Checks that a king could be made of the model in `folder`: that it can be loaded with its own
/// text files, if the king in `kings` can.
///
/// # Errors
/// What is wrong with its files, which is the challenger's; what keeps files from being read.
pub(super) async fn check_text(folder: PathBuf, kings: PathBuf) -> Result<()> {
    blocking("check a submission's text", move || {
        match PromptText::check(&kings) {
            Ok(()) => {}
            // His backend reads other text files, or none.
            Err(error) if error.kind() == ErrorKind::NotFound || error.artefact().is_some() => return Ok(()),
            Err(error) => return Err(error),
        }
        PromptText::check(&folder).map_err(|error| error.charged_to(|_| Side::Challenger))
    })
    .await
}

/// The text file that the submission in `local` was handed in without, if there is one that the
/// king in the folder `kings` has. What this disk has lost was listed, and is no mistake of the
/// submission's. Its hub is not asked: what is held stays what was handed in.
pub(super) fn lacking_text(local: &Local, kings: &Path) -> Option<&'static str> {
    let listed = local.listed()?;
    let has = |name: &str| listed.iter().any(|file| file.name == name);
    ["tokenizer.json", "tokenizer_config.json"]
        .into_iter()
        .find(|name| kings.join(name).is_file() && !has(name))
}

/// The challenger's error of a submission that was handed in without the text file `file`.
pub(super) fn without_text(file: &str) -> Error {
    let message = "the submission has no such file, and a king is loaded with it";
    Error::new(ErrorKind::DataInvalid, "check a submission's text", message)
        .with_fault(Fault::Contestant(Side::Challenger))
        .with("file", file)
}

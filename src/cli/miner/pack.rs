//! `albedo miner pack`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::draft::{DraftArguments, Packed, content, layout};
use crate::backends::files::FolderFiles;
use crate::backends::hubs::oci::Layout;
use crate::chain::Hotkey;
use crate::chains::reveal::{FIRST_VERSION, parse_of};
use crate::cli::cache::bytes;
use crate::cli::exit::Exit;
use crate::cli::hub::Options;
use crate::cli::output::{next, print, print_json, word};
use crate::cli::source::{absolute, version};
use crate::report::Look;
use crate::{CallContext, Error, ErrorKind, Fault, Result, Revision};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder of a model that `albedo miner check` has passed.
    folder: PathBuf,
    /// The repository in the registry: `owner/model`.
    #[arg(value_name = "OWNER/MODEL")]
    repository: String,
    /// What the competition's commitments begin with.
    #[arg(long, value_name = "VERSION", default_value = "v7", value_parser = version)]
    competition: u8,
    /// Store files of at least SIZE (268 MB, as hippius-hub does) in chunks. The digest depends
    /// on it.
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, value_parser = bytes)]
    #[expect(clippy::option_option, reason = "it may come with or without a value")]
    chunked: Option<Option<u64>>,
    #[command(flatten)]
    draft: DraftArguments,
    #[command(flatten)]
    options: Options,
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    const PACK: &str = "pack a model";
    let Arguments { folder, repository, competition, chunked, draft, options } = arguments;
    let folder = absolute(folder)?;
    let (path, mut known) = (draft.path(&folder)?, draft.read(&folder)?);
    known.require(content(&folder, cx).await?, &arguments.folder)?;
    known.require_admitted(PACK, &arguments.folder)?;
    let chunked = chunked.map(|from| from.unwrap_or(Layout::CHUNKED_FROM));
    let files = FolderFiles::new(&folder);
    let pushed = options.oci(cx)?.prepare(repository, &files, &layout(chunked), cx).await?;
    let Revision::Sha256(digest) = pushed.reference.revision() else {
        return Err(Error::bug(PACK, "a registry's revision is no digest"));
    };
    let text = format!("v{competition}|{}|sha256:{digest}", pushed.reference.repository());
    // Nobody signs this text here.
    parse_of(&text, &Hotkey(String::new()), *competition).map_err(|refusal| {
        Error::new(ErrorKind::ConfigInvalid, PACK, refusal.to_string())
            .with_fault(Fault::Operator)
            .with("text", &text)
            .with_hint("name the repository as the registry does: `owner/model`")
    })?;
    let packed = Packed { reference: pushed.reference, text, bytes: pushed.bytes, chunked };
    // The same model under another name, or in chunks, is not uploaded yet.
    known.is_uploaded &= known.pack.as_ref() == Some(&packed);
    known.pack = Some(packed.clone());
    known.write(&path)?;
    let Packed { reference, text, bytes, .. } = packed;
    if options.json {
        print_json(
            &json!({ "reference": reference, "text": text, "bytes": bytes, "draft": path.display().to_string() }),
        )?;
        return Ok(Exit::Done);
    }
    let look = Look::of_stdout();
    let mut said = look.entry("reference", &reference.to_string());
    said += &look.entry("bytes", &format!("{bytes} in all"));
    said += &look.entry("commit to", &text);
    print(&said)?;
    let signs = if cfg!(feature = "chain") {
        "signs the commitment; the files may come up to 300 blocks later"
    } else {
        "signs the commitment, in a build with the feature `chain`; the files may come up to 300 blocks later"
    };
    next(&[
        (
            format!("miner upload {}{}", word(&arguments.folder), draft.again()),
            "says what it would upload; `--yes` uploads it",
        ),
        (commitment(&text, *competition), signs),
    ]);
    Ok(Exit::Done)
}

/// The command that commits to `text`.
fn commitment(text: &str, competition: u8) -> String {
    let text = word(Path::new(text));
    let version =
        if competition == FIRST_VERSION { String::new() } else { format!(" --competition v{competition}") };
    format!("miner commit {text}{version} --journal chain.sqlite")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commitments_command_is_one_that_a_shell_and_commit_take() {
        assert_eq!(
            commitment("v7|owner/model|sha256:0f", 7),
            "miner commit 'v7|owner/model|sha256:0f' --journal chain.sqlite"
        );
        assert_eq!(
            commitment("v8|owner/model|sha256:0f", 8),
            "miner commit 'v8|owner/model|sha256:0f' --competition v8 --journal chain.sqlite"
        );
    }
}

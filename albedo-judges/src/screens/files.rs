//! `files`: is the submission a model of the king's shape, and nothing else?
//!
//! Works on a listing and ranged reads, before any download:
//!
//! - **name**: names lie inside the folder; **special**: regular files alone, no pipes and
//!   no links out of the folder; **allowlist**: only files that a
//!   model has, no code; **required**: those it needs, weights in safetensors;
//! - **size**: the files together and each for itself are bounded;
//! - **header**, **index**, **tensors**: every shard's header is well formed and
//!   covers its file exactly, the index agrees with the shards, and names and
//!   shapes are the king's, none more and none less. Where the configuration ties the
//!   head to the embedding, either may repeat it as `lm_head.weight`; the screen
//!   `digest` and whatever loads the model find out whether it is the embedding;
//! - **dtype**: from the headers; **pinned**: files of a fixed digest;
//!   **as-king**: tokenizer, chat template and generation settings mean what the
//!   king's mean (the module `meaning`); any other file in `as_king` is the king's byte for byte.
//!
//! A broken rule is `Rejected`: it lies in the submission's own bytes. Where
//! they are a copy of ours ([`Provenance::Copy`]) and all that is wrong is that
//! files are missing or end too early, a download may have done that: the
//! finding is `Unverified`, the fault infrastructure. A listing that cannot be
//! read is an error, and so is whatever is wrong with the king.

use std::collections::BTreeMap;
use std::sync::Arc;

use albedo_core::checkpoint::is_weight_file;
use albedo_core::files::leftover;
use albedo_core::safetensors::Dtype;
use albedo_core::{
    BuildContext, CallContext, CheckContext, Digest, Error, ErrorKind, Fault, Finding, Identity, ModelFiles,
    Plugin, Provenance, Result, Retry, Screen, ScreenPart, Side,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::evidence::{Problem, Problems};
use super::listing::{
    CONFIG, EMBEDDING, HEAD, Listing, MAX_CONFIG_BYTES, MAX_TEXT_BYTES, Tensors, breaks_off, ties_head,
};
use super::meaning;

/// Settings of [`FilesScreen`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilesConfig {
    /// The files that may be there; one `*` stands for any characters but `/`.
    pub allowed: Vec<String>,
    /// The files that must be there, besides at least one weight file.
    pub required: Vec<String>,
    /// The files that must mean what the king's mean, whichever version of
    /// transformers wrote them; those of no known meaning must equal the king's byte
    /// for byte, and be absent where the king has none.
    pub as_king: Vec<String>,
    /// Files and the digests that they must have.
    pub pinned: BTreeMap<String, Digest>,
    /// Types that weights may have, as the headers name them.
    pub dtypes: Vec<String>,
    /// The files together may have this many times the bytes of the king's.
    pub max_size_ratio: f64,
}

impl Default for FilesConfig {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            allowed: names(&[
                "config.json",
                "generation_config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "added_tokens.json",
                "vocab.json",
                "merges.txt",
                "chat_template.jinja",
                "model.safetensors",
                "model-*-of-*.safetensors",
                "model.safetensors.index.json",
                "README.md",
                "LICENSE",
                ".gitattributes",
            ]),
            required: names(&["config.json", "tokenizer.json", "tokenizer_config.json"]),
            as_king: names(&[
                "tokenizer.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "added_tokens.json",
                "vocab.json",
                "merges.txt",
                "chat_template.jinja",
                "generation_config.json",
            ]),
            pinned: BTreeMap::new(),
            dtypes: names(&["BF16", "F16"]),
            max_size_ratio: 2.0,
        }
    }
}

impl FilesConfig {
    fn check(&self) -> Result<()> {
        let invalid = |key: &'static str, message: String| {
            let operation = format!("check the settings of screen `{}`", FilesScreen::NAME);
            Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", key))
        };
        if !(self.max_size_ratio >= 1.0 && self.max_size_ratio.is_finite()) {
            return invalid("max_size_ratio", format!("it is {}, not 1 or more", self.max_size_ratio));
        }
        if let Some(form) = self.allowed.iter().find(|form| form.matches('*').count() > 2) {
            return invalid("allowed", format!("`{form}` has more than two `*`"));
        }
        if self.dtypes.is_empty() {
            return invalid("dtypes", "no type is allowed".into());
        }
        Ok(())
    }
}

/// How many more tensors than the king's are read of a submission, so that the finding names them.
const MORE_TENSORS: usize = 1000;

/// Checks a listing; see the [module](self).
#[derive(Debug)]
pub struct FilesScreen {
    identity: Identity,
    config: FilesConfig,
}

impl FilesScreen {
    /// A screen with `config`.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn new(config: FilesConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { identity: Identity::new(Self::NAME, "4", &config)?, config })
    }

    fn check_names(&self, listing: &Listing<'_>, king_bytes: u64, problems: &mut Problems) {
        let entries = listing.entries();
        for name in entries.keys().filter(|name| !self.config.allowed.iter().any(|form| fits(form, name))) {
            let message = match leftover(name) {
                Some(who) => format!("{who} left this file, and a model needs none of it"),
                None => "a model needs no such file".to_owned(),
            };
            problems.push(Problem::new("allowlist", name, message));
        }
        for name in self.config.required.iter().filter(|name| !entries.contains_key(*name)) {
            problems.push(Problem::cut("required", name, "the file is missing"));
        }
        if !entries.keys().any(|name| is_weight_file(name)) {
            problems.push(Problem::cut("required", "*.safetensors", "there are no weights in safetensors"));
        }
        let bytes = entries.values().fold(0_u64, |sum, &size| sum.saturating_add(size));
        let most = self.config.max_size_ratio * king_bytes as f64;
        if bytes as f64 > most {
            let message = format!("the files have {bytes} bytes, at most {most:.0} are allowed");
            problems.push(Problem::new("size", "all files", message));
        }
    }

    fn check_tensors(
        &self,
        submission: &Tensors,
        king: &Tensors,
        parts_missing: bool,
        problems: &mut Problems,
    ) {
        for (name, facts) in submission {
            match king.get(name) {
                None => problems.push(Problem::new("tensors", name, "the king has no such tensor")),
                Some(other) if other.shape != facts.shape => {
                    let message = format!("the shape is {:?}, the king's {:?}", facts.shape, other.shape);
                    problems.push(Problem::new("tensors", name, message));
                }
                Some(_) => {}
            }
            let dtype = dtype_name(facts.dtype);
            if !self.config.dtypes.contains(&dtype) {
                let message = format!("the type is {dtype}, allowed: {}", self.config.dtypes.join(", "));
                problems.push(Problem::new("dtype", name, message));
            }
        }
        let missing: Vec<_> = king.keys().filter(|name| !submission.contains_key(*name)).collect();
        let Some(first) = missing.first() else { return };
        if parts_missing || problems.any_cut() {
            // They may be in a file that did not come, or not whole.
            let message = format!("{} tensors are missing, the first is {first}", missing.len());
            problems.push(Problem::cut("tensors", "*.safetensors", message));
        } else {
            for name in missing {
                problems.push(Problem::new("tensors", name, "the tensor is missing"));
            }
        }
    }

    async fn check_contents(
        &self,
        submission: &Listing<'_>,
        king: &Listing<'_>,
        problems: &mut Problems,
        cx: &CallContext,
    ) -> Result<()> {
        let mut differ = Vec::new();
        for name in &self.config.as_king {
            let expected = match king.text(name, MAX_TEXT_BYTES, cx).await? {
                Some(Err(problem)) => return Err(kings(&problem, king.provenance())),
                Some(Ok(bytes)) => Some(bytes),
                None => None,
            };
            let found = match submission.text(name, MAX_TEXT_BYTES, cx).await? {
                Some(Err(problem)) => {
                    problems.push(problem);
                    continue;
                }
                Some(Ok(bytes)) => Some(bytes),
                None => None,
            };
            if found == expected {
                continue;
            }
            if meaning::FILES.contains(&&**name) {
                differ.push(name.as_str());
                continue;
            }
            match (found, expected) {
                (Some(bytes), Some(expected)) => {
                    let cut = expected.starts_with(&bytes);
                    let message = "the file differs from the king's";
                    problems.push(Problem { cut, ..Problem::new("as-king", name, message) });
                }
                (Some(_), None) => problems.push(Problem::new("as-king", name, "the king has no such file")),
                _ => problems.push(Problem::cut("as-king", name, "the king has the file")),
            }
        }
        meaning::compare(&differ, submission, king, problems, cx).await?;
        for (name, digest) in &self.config.pinned {
            problems.push(match submission.text(name, MAX_TEXT_BYTES, cx).await? {
                Some(Ok(bytes)) => {
                    let found = Digest::of(&bytes);
                    if found == *digest {
                        continue;
                    }
                    let message = format!("the digest is {found}, pinned is {digest}");
                    Problem { cut: breaks_off(&bytes), ..Problem::new("pinned", name, message) }
                }
                Some(Err(problem)) => Problem { check: "pinned", ..problem },
                None => Problem::cut("pinned", name, "the file is missing"),
            });
        }
        Ok(())
    }

    async fn screen(
        &self,
        submission: &dyn ModelFiles,
        king: &dyn ModelFiles,
        cx: &CallContext,
    ) -> Result<Finding> {
        let mut faults = Problems::default();
        let king = Listing::read(king, &mut faults, cx).await?;
        let mut king_tensors = king.tensors(usize::MAX, &mut faults, cx).await?;
        take_tied_head(&king, &mut king_tensors, &mut faults, cx).await?;
        if let Some(fault) = faults.first() {
            return Err(kings(fault, king.provenance()));
        }
        let king_bytes = king.entries().values().sum();

        let mut problems = Problems::default();
        let submission = Listing::read(submission, &mut problems, cx).await?;
        self.check_names(&submission, king_bytes, &mut problems);
        let mut tensors = submission.tensors(king_tensors.len() + MORE_TENSORS, &mut problems, cx).await?;
        let count = tensors.len();
        take_tied_head(&submission, &mut tensors, &mut problems, cx).await?;
        self.check_tensors(&tensors, &king_tensors, submission.parts_missing(), &mut problems);
        self.check_contents(&submission, &king, &mut problems, cx).await?;
        let bytes = submission.entries().values().fold(0_u64, |sum, &size| sum.saturating_add(size));
        Ok(problems.finding(
            submission.provenance(),
            json!({ "files": submission.entries().len(), "bytes": bytes, "tensors": count }),
        ))
    }
}

impl Screen for FilesScreen {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        ScreenPart::Files(self)
    }
}

#[async_trait]
impl albedo_core::FilesScreen for FilesScreen {
    async fn inspect(
        &self,
        submission: &dyn ModelFiles,
        king: &dyn ModelFiles,
        cx: &CallContext,
    ) -> Result<Finding> {
        self.screen(submission, king, cx).await
    }
}

impl Plugin<dyn Screen> for FilesScreen {
    const NAME: &'static str = "files";
    const SUMMARY: &'static str = "whether a listing is a model of the king's shape, and nothing else";
    type Config = FilesConfig;
    type Checked = Self;

    fn check(config: FilesConfig, _: &CheckContext<'_>) -> Result<Self> {
        Self::new(config)
    }

    async fn build(screen: Self, _: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        Ok(Arc::new(screen))
    }
}

albedo_core::register!(dyn Screen => FilesScreen);

/// The king's own files are wrong, or our copy of them: nobody who challenges
/// him is to blame.
pub(super) fn kings(problem: &Problem, provenance: Provenance) -> Error {
    let error = Error::new(ErrorKind::DataInvalid, "read the king's files", problem.message.clone())
        .with("of", &problem.of);
    if problem.cut && provenance == Provenance::Copy {
        return error
            .with_fault(Fault::Infrastructure)
            .with_retry(Retry::Backoff)
            .with_hint("this looks like a download that is incomplete: fetch the king again");
    }
    error
        .with_fault(Fault::Contestant(Side::King))
        .with_hint("the king's artefact has to be restored before anyone can be screened against it")
}

/// Takes the head out of `tensors` where the configuration in `listing` ties it to the embedding,
/// which it only repeats: some libraries write it, others do not.
async fn take_tied_head(
    listing: &Listing<'_>,
    tensors: &mut Tensors,
    problems: &mut Problems,
    cx: &CallContext,
) -> Result<()> {
    let Some(head) = tensors.get(HEAD) else { return Ok(()) };
    let Some(Ok(config)) = listing.text(CONFIG, MAX_CONFIG_BYTES, cx).await? else { return Ok(()) };
    if !ties_head(&config) {
        return Ok(());
    }
    if let Some(embedding) = tensors.get(EMBEDDING)
        && (head.dtype, &head.shape) != (embedding.dtype, &embedding.shape)
    {
        let message = format!("its type or shape is not that of {EMBEDDING}, to which config.json ties it");
        problems.push(Problem::new("tensors", HEAD, message));
    }
    tensors.remove(HEAD);
    Ok(())
}

fn dtype_name(dtype: Dtype) -> String {
    serde_json::to_value(dtype).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Whether `name` has the form `form`, in which `*` stands for any characters
/// but `/`.
fn fits(form: &str, name: &str) -> bool {
    let mut parts = form.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        if rest[..at].contains('/') {
            return false;
        }
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last) && !rest[..rest.len() - last.len()].contains('/')
}

#[cfg(test)]
mod tests;

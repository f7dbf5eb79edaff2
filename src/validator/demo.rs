//! `albedo validator run --demo`: a whole competition in a folder. A chain in a file makes
//! a block every half second, and six miners, each with a story, register, commit and
//! upload by a script.
//!
//! | miner | hands in | and gets |
//! |---|---|---|
//! | `amy` | the king after a training run that went wrong | a lost duel |
//! | `ben` | a better model, uploaded after the commitment | the crown |
//! | `cat` | `ben`'s commitment, word for word | set aside |
//! | `dan` | the king with its neurons rescaled | a forfeit, by its weights |
//! | `eve` | a commitment, and never any files | expired |
//! | `fay` | `ben`'s files under a name of her own | a forfeit, by her files |
//!
//! The folder holds all of it, and the script goes on where it was: it looks at the chain
//! and at the mirror, and does what is not there yet.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ledger::Ledger;
use super::table::is_final;
use crate::chain::{BlockNumber, Hotkey, NetUid};
use crate::chains::local::{LocalChain, LocalChainConfig};
use crate::demo::Demo;
use crate::durable::replace;
use crate::signer::KeyFile;
use crate::{CallContext, ChainClient, Clock, Digest, Error, ErrorKind, Fault, Result};

use super::config::ValidatorConfig;

mod weights;

const PREPARE: &str = "prepare the demo";

/// The configuration's file, which is written last.
const CONFIG: &str = "validator.toml";

/// Marks a folder as the demo's, which may make what is in it again. Written first.
const MARKER: &str = "made-by-albedo-demo";

/// What an interrupted preparation may have left, beside [`MARKER`].
const PREPARED: [&str; 4] = ["models", "miners", "log.pem", "validator.toml.part"];

/// Time from block to block.
const BLOCK: Duration = Duration::from_millis(500);

/// What a miner does: at which block it commits, to what, and from which block on the
/// files are there.
#[derive(Debug, Clone, Copy)]
struct Miner {
    name: &'static str,
    commits: BlockNumber,
    /// Whose files, in which order its list has them.
    files: (&'static str, Order),
    uploads: Option<BlockNumber>,
    /// The repository that the commitment names.
    repository: &'static str,
}

/// The order of a list of files: another order is another list with the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    ByName,
    Reversed,
}

const MINERS: [Miner; 6] = [
    Miner {
        name: "amy",
        commits: 4,
        files: ("amy", Order::ByName),
        uploads: Some(4),
        repository: "amy/model",
    },
    Miner {
        name: "ben",
        commits: 5,
        files: ("ben", Order::ByName),
        uploads: Some(14),
        repository: "ben/model",
    },
    Miner { name: "cat", commits: 6, files: ("ben", Order::ByName), uploads: None, repository: "ben/model" },
    Miner {
        name: "dan",
        commits: 7,
        files: ("dan", Order::ByName),
        uploads: Some(7),
        repository: "dan/model",
    },
    Miner {
        name: "eve",
        commits: 8,
        files: ("amy", Order::Reversed),
        uploads: None,
        repository: "eve/model",
    },
    Miner {
        name: "fay",
        commits: 16,
        files: ("ben", Order::Reversed),
        uploads: Some(16),
        repository: "fay/model",
    },
];

/// A competition in a folder.
#[derive(Debug)]
pub struct DemoCompetition {
    folder: PathBuf,
    chain: LocalChain,
    netuid: NetUid,
    /// For each miner the list of its files, and the list's digest: what a mirror pins.
    lists: Vec<(String, Digest)>,
}

impl DemoCompetition {
    /// The competition in `folder`, which is made if there is none.
    ///
    /// # Errors
    /// The folder holds something else; what the disk meets.
    pub fn open(folder: &Path) -> Result<Self> {
        let folder = std::path::absolute(folder).map_err(|error| Error::io(PREPARE, folder, error))?;
        let path = folder.join(CONFIG);
        if !path.exists() {
            prepare(&folder)?;
        }
        let config = ValidatorConfig::read(&path)?;
        let settings = serde_json::Value::Object(config.chain.settings().clone());
        let mut settings: LocalChainConfig = serde_json::from_value(settings).map_err(|error| {
            Error::new(ErrorKind::ConfigInvalid, PREPARE, error.to_string()).with("key", "chain")
        })?;
        settings.path = settings.path.map(|path| folder.join(path));
        let chain = LocalChain::new(settings)?;
        let lists = MINERS.iter().map(|miner| list(&folder, miner)).collect::<Result<_>>()?;
        Ok(Self { folder, chain, netuid: NetUid(config.netuid), lists })
    }

    /// The configuration of its validator.
    ///
    /// # Errors
    /// It is malformed.
    pub fn config(&self) -> Result<ValidatorConfig> {
        ValidatorConfig::read(&self.config_file())
    }

    /// The file of that configuration.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join(CONFIG)
    }

    /// The folder that is published to.
    pub fn site(&self) -> PathBuf {
        self.folder.join("site")
    }

    /// Makes blocks, and has the miners do what is theirs at each, until every submission
    /// has its outcome, everything is published and the last king earns.
    ///
    /// # Errors
    /// The chain's or the disk's; [`ErrorKind::Cancelled`].
    pub async fn play(&self, ledger: &Ledger, clock: &dyn Clock, cx: &CallContext) -> Result<()> {
        let mut at = clock.now();
        loop {
            let head = self.chain.advance(1)?;
            let reveals = self.chain.reveals(self.netuid, &head, cx).await?;
            for (miner, (sums, digest)) in MINERS.iter().zip(&self.lists) {
                let hotkey = Hotkey(miner.name.into());
                let committed = reveals.iter().any(|reveal| reveal.hotkey == hotkey);
                if miner.commits <= head.number && !committed {
                    let text = format!("v7|{}|sha256:{digest}", miner.repository);
                    self.chain.commit(&hotkey, &text, None)?;
                }
                if miner.uploads.is_some_and(|block| block <= head.number) {
                    self.upload(miner, sums, *digest)?;
                }
            }
            if self.is_over(ledger, head.number, cx).await? {
                return Ok(());
            }
            at += BLOCK;
            // Blocks that were missed while the machine was busy are not made up for.
            at = at.max(clock.now());
            cx.run("wait for the next block", clock.sleep_until(at)).await?;
        }
    }

    async fn is_over(&self, ledger: &Ledger, head: BlockNumber, cx: &CallContext) -> Result<bool> {
        cx.check("play the demo")?;
        let rows = ledger.submissions().await?;
        let all_in = MINERS.iter().all(|miner| miner.commits < head) && rows.len() == MINERS.len();
        if !all_in || rows.iter().any(|row| !is_final(row.state)) || ledger.lag().await?.waiting > 0 {
            return Ok(false);
        }
        let Some(king) = ledger.king().await?.and_then(|king| king.hotkey) else { return Ok(true) };
        let earns = |shares: &[crate::weights::Share]| shares.iter().any(|share| share.hotkey == king);
        Ok(ledger.last_landed().await?.is_some_and(|epoch| earns(&epoch.vector.shares)))
    }

    /// Puts the miner's files into the mirror, whole or not at all.
    fn upload(&self, miner: &Miner, sums: &str, digest: Digest) -> Result<()> {
        let place = self.folder.join("mirror").join(miner.repository).join(digest.to_string());
        if place.exists() {
            return Ok(());
        }
        let beside = place.with_extension("part");
        let io = |error| Error::io("upload a model", &place, error);
        copy(&self.folder.join("miners").join(miner.files.0), &beside)?;
        fs::write(beside.join("SHA256SUMS"), sums).map_err(io)?;
        fs::rename(&beside, &place).map_err(io)
    }
}

/// The list of the miner's files, and its digest.
fn list(folder: &Path, miner: &Miner) -> Result<(String, Digest)> {
    let (name, order) = miner.files;
    let folder = folder.join("miners").join(name);
    let io = |error| Error::io(PREPARE, &folder, error);
    let mut lines = Vec::new();
    for entry in fs::read_dir(&folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let digest = Digest::of(fs::read(entry.path()).map_err(io)?);
        lines.push((entry.file_name().to_string_lossy().into_owned(), digest));
    }
    lines.sort();
    if order == Order::Reversed {
        lines.reverse();
    }
    let mut sums = String::new();
    for (name, digest) in lines {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(sums, "{digest}  {name}");
    }
    let digest = Digest::of(&sums);
    Ok((sums, digest))
}

/// Writes models, key and configuration into `folder`: a new or empty one, or one whose
/// preparation was interrupted.
fn prepare(folder: &Path) -> Result<()> {
    let io = |error| Error::io(PREPARE, folder, error);
    fs::create_dir_all(folder).map_err(io)?;
    let marker = folder.join(MARKER);
    let is_marked = marker.exists();
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let may_be_replaced = is_marked && PREPARED.iter().any(|prepared| name == *prepared);
        if name != MARKER && !may_be_replaced {
            return Err(Error::new(ErrorKind::Conflict, PREPARE, "the folder holds something else")
                .with_fault(Fault::Operator)
                .with("path", entry.path().display())
                .with_hint("name an empty folder, or one that does not exist: `--dir DIR`"));
        }
    }
    let text = "`albedo validator run --demo` has made this folder, and may make what is in it again.\n";
    fs::write(&marker, text).map_err(io)?;
    let pack = Demo::locate()?;
    let king = folder.join("models/king");
    copy(&pack.king(), &king)?;
    for (name, source) in [("amy", pack.king()), ("ben", pack.challenger()), ("dan", pack.king())] {
        copy(&source, &folder.join("miners").join(name))?;
    }
    weights::spoil(&folder.join("miners/amy/model.safetensors"))?;
    weights::disguise(&folder.join("miners/dan/model.safetensors"))?;
    let key = folder.join("log.pem");
    if !key.exists() {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| {
            Error::new(ErrorKind::Unavailable, PREPARE, error.to_string()).with_fault(Fault::Infrastructure)
        })?;
        KeyFile::from_seed(&seed).save_new(&key)?;
    }
    let tasks = std::path::absolute(pack.tasks()).map_err(io)?;
    let config = folder.join(CONFIG);
    let text = configuration(&tasks);
    replace(&config, &folder.join("validator.toml.part"), text.as_bytes()).map_err(io)
}

/// Copies the files in `from`, which has no folders, into the new folder `to`.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let io = |error| Error::io(PREPARE, from, error);
    // What an interrupted copy has left is made again.
    if to.exists() {
        fs::remove_dir_all(to).map_err(io)?;
    }
    fs::create_dir_all(to).map_err(io)?;
    for entry in fs::read_dir(from).map_err(io)? {
        let entry = entry.map_err(io)?;
        fs::copy(entry.path(), to.join(entry.file_name())).map_err(io)?;
    }
    Ok(())
}

fn configuration(tasks: &Path) -> String {
    let mut miners = String::new();
    for (uid, Miner { name, .. }) in (2..).zip(&MINERS) {
        let table = "[[chain.neurons]]";
        let _ = writeln!(miners, "\n{table}\nuid = {uid}\nhotkey = \"{name}\"\ncoldkey = \"{name}'s owner\"");
    }
    // A JSON string is a TOML string too.
    let tasks = serde_json::Value::from(tasks.display().to_string());
    format!(
        r#"# Written by `albedo validator run --demo`. Relative paths are taken from this file's folder.

state = "state"
cache = "cache"
hotkey = "validator"
poll_ms = 200

# A chain in a file: epochs of 20 blocks.
[chain]
name = "local"
path = "chain.sqlite"
tempo = 20
weights_rate_limit = 4

[[chain.neurons]]
uid = 0
hotkey = "subnet owner"

[[chain.neurons]]
uid = 1
hotkey = "validator"
validator_permit = true
stake = 1000
{miners}
# Who reigns first, and earns nothing.
[genesis]
path = "models/king"

# Submissions are in a mirror: a folder.
[[hubs]]
name = "folder"
path = "mirror"

[entry]
manifests = "folder"
upload_blocks = 40

[backend]
name = "burn"
max_batch = 32

[tasks]
name = "parquet"
path = {tasks}

[[judges]]
name = "protocol"

[[judges]]
name = "reference-action"

[[judges]]
name = "reference-likelihood"

[[screens]]
name = "files"

[[screens]]
name = "architecture"

[[screens]]
name = "digest"

[[screens]]
name = "fingerprint-v2"

[[screens]]
name = "lineage"

[[screens]]
name = "functional"

[[screens]]
name = "sanity"

# A fixed number of samples, since the demo has 200 tasks: `sequential`, the default, asks
# for 948 in a reign and ends when the evidence is clear.
[duel]
samples = 80
rule = {{ name = "fixed" }}
generation.max_new_tokens = 256
limits.samples_in_flight = 32

[log]
origin = "demo.invalid/log"
key = "log.pem"

[publish]
to = "site"
"#
    )
}

/// What the miner has, and why the demo has it.
pub fn story(hotkey: &str) -> Option<&'static str> {
    Some(match hotkey {
        "amy" => "the king after a training run that went wrong",
        "ben" => "a better model; its files come later",
        "cat" => "ben's commitment, word for word",
        "dan" => "the king with its neurons rescaled",
        "eve" => "a commitment without any files",
        "fay" => "ben's files under another name",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    #[test]
    fn the_demos_configuration_is_well_formed() {
        let config: ValidatorConfig =
            crate::config::parse(&configuration(Path::new("/a \"b\"/tasks"))).expect("reads");
        config.check(&Registry::linked().expect("links")).expect("is well-formed");
        assert_eq!(config.tasks().expect("named").settings()["path"], "/a \"b\"/tasks");
        assert!(MINERS.iter().all(|miner| story(miner.name).is_some()));
    }

    #[test]
    fn a_folder_with_something_else_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("thesis.txt"), "x").expect("writes");
        let error = DemoCompetition::open(folder.path()).expect_err("refused");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator));
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
    }

    #[test]
    fn models_of_somebody_else_are_left_alone_and_an_interrupted_preparation_goes_on() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path();
        let (king, miner) = (folder.join("models/king"), folder.join("miners/amy"));
        for place in [&king, &miner] {
            fs::create_dir_all(place).expect("makes");
            fs::write(place.join("weights"), "months of work").expect("writes");
        }
        let error = DemoCompetition::open(folder).expect_err("refused");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator));
        assert!(error.to_string().contains("--dir DIR"), "{error}");
        for place in [&king, &miner] {
            assert_eq!(fs::read(place.join("weights")).expect("is there"), b"months of work");
        }
        assert_eq!(fs::read_dir(folder).expect("lists").count(), 2, "nothing is written");

        // The demo's own, before its configuration was written.
        fs::write(folder.join(MARKER), "").expect("writes");
        let demo = DemoCompetition::open(folder).expect("is made");
        assert!(
            demo.config_file().is_file() && !king.join("weights").exists() && !miner.join("weights").exists()
        );
        drop(demo);
        // A folder of an earlier build has no mark.
        fs::remove_file(folder.join(MARKER)).expect("removes");
        DemoCompetition::open(folder).expect("goes on");
    }
}

//! The validator's configuration file.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operate::OperateSettings;
use crate::backends::hubs::folder::FolderHub;
use crate::backends::tables::Form;
use crate::config::{DEFAULT_BACKEND, ModelConfig, SCREEN_PROFILE, read, screen_profile};
use crate::publish::Exports;
use crate::registry::CheckContext;
use crate::reign::ErrorBudget;
use crate::{
    ChainClient, Digest, DuelSettings, Error, ErrorKind, Fault, HubRef, Judge, ModelBackend, ModelHub,
    Plugin, PluginConfig, PublicKey, Registry, Result, Revision, Screen, TaskSource,
};

/// What a validator works with. Unknown keys are refused; relative paths are taken from
/// the file's folder.
///
/// ```
/// let config: albedo::validator::ValidatorConfig = albedo::config::parse(
///     r#"
///     state = "state"
///     hotkey = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV"
///     chain = { name = "local", path = "chain.sqlite" }
///     genesis = { path = "models/king" }
///     tasks = { name = "parquet", path = "tasks" }
///     judges = [{ name = "protocol" }]
///     log = { origin = "example.com/log", key = "log.pem" }
///     publish = { to = "site" }
///     "#,
/// )?;
/// assert_eq!((config.netuid, config.entry.per_hotkey, config.reign.kings), (97, 1, 5));
/// # Ok::<(), albedo::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidatorConfig {
    /// The folder of ledger, journals, records and log. Back it up.
    pub state: PathBuf,
    /// The folder for models of hubs, which can be had again; the user's cache if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// The subnet.
    #[serde(default = "subnet_97")]
    pub netuid: u16,
    /// The validator's hotkey, as its SS58 text.
    pub hotkey: String,
    /// The chain.
    pub chain: PluginConfig<dyn ChainClient>,
    /// How often the chain is asked for a new block, in milliseconds.
    #[serde(default = "three_seconds")]
    pub poll_ms: u64,
    /// The first king, who earns nothing; screens align every model to it. It may be absent
    /// once `albedo validator genesis` has entered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genesis: Option<ModelConfig>,
    /// Who may take part.
    #[serde(default)]
    pub entry: EntrySettings,
    /// The error budget of a reign, and who earns.
    #[serde(default)]
    pub reign: ReignSettings,
    /// The backend that loads models; `burn` by default. With `follow`, the one that audits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<PluginConfig<dyn ModelBackend>>,
    /// A validator that this one follows: it then needs no tasks, judges, log or place to
    /// publish to, and runs no duel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<FollowSettings>,
    /// The tasks. Needed unless `follow` is there, which compares the drawn rows with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<PluginConfig<dyn TaskSource>>,
    /// The panel, in order. Needed unless `follow` is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judges: Vec<PluginConfig<dyn Judge>>,
    /// The profile of screens, whose name and digest every admission records; the newest one
    /// if neither this nor `screens` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen_profile: Option<String>,
    /// Instead of a profile, the screens one by one, in order. The store of those that
    /// remember submissions is the validator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screens: Option<Vec<PluginConfig<dyn Screen>>>,
    /// The hubs that submissions are in, with their settings; a hub without settings need
    /// not be here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hubs: Vec<PluginConfig<dyn ModelHub>>,
    /// Everything else that can change a verdict, and the limits. Seed, terms and the
    /// previous record are the validator's.
    #[serde(default)]
    pub duel: DuelSettings,
    /// The log of duels. Needed unless `follow` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogSettings>,
    /// Where records and public data are published. Needed unless `follow` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<PublishSettings>,
    /// How the validator is watched.
    #[serde(default)]
    pub operate: OperateSettings,
    /// Relative paths are taken from here: the file's folder.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Who may take part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EntrySettings {
    /// Submissions that a hotkey may enter.
    pub per_hotkey: u32,
    /// Blocks after the reveal within which the files may be uploaded.
    pub upload_blocks: u64,
    /// Submissions that are fetched and screened before their turn, beside those that fail for long.
    pub ahead: usize,
    /// The hub that a commitment's `sha256:` names a manifest of.
    pub manifests: String,
    /// The hub that a commitment's Git revision is one of.
    pub revisions: String,
}

impl Default for EntrySettings {
    fn default() -> Self {
        Self { per_hotkey: 1, upload_blocks: 300, ahead: 2, manifests: "oci".into(), revisions: "hf".into() }
    }
}

impl EntrySettings {
    /// Checks that each kind of commitment can be one of its hub: else each would be set aside for
    /// the operator's mistake.
    fn check_hubs(&self) -> Result<()> {
        for (key, hub, revision) in [
            ("entry.manifests", &self.manifests, Revision::Sha256(Digest::of(""))),
            ("entry.revisions", &self.revisions, Revision::Commit([0; 20])),
        ] {
            let reference = HubRef::new(hub.as_str(), "owner/model", revision);
            // A mirror has no commits, whatever is in it. Of other hubs their settings may say more.
            let accepted = reference.and_then(|reference| {
                let is_mirror = reference.hub() == <FolderHub as Plugin<dyn ModelHub>>::NAME;
                if is_mirror { FolderHub::new("").accepts(&reference) } else { Ok(()) }
            });
            if let Err(error) = accepted {
                let message = format!("no such commitment is one of this hub: {}", error.message());
                let error = Error::new(ErrorKind::ConfigInvalid, "check the validator's settings", message);
                return Err(error.with("key", key).with("hub", hub).with_hint("name the hub that it is of"));
            }
        }
        Ok(())
    }
}

/// The error budget of a reign, and who earns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReignSettings {
    /// The chance that a king is ever dethroned by a challenger that is not better.
    #[schemars(extend("x-unit" = "probability"))]
    pub alpha: f64,
    /// Kings that share the weights, the newest first.
    pub kings: usize,
    /// The slot that gets everything while no king is registered.
    pub burn: u16,
}

impl Default for ReignSettings {
    fn default() -> Self {
        Self { alpha: 0.05, kings: 5, burn: 0 }
    }
}

/// The log of duels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// Its name: the address that it is served at, without the scheme.
    pub origin: String,
    /// The file of its ed25519 key in PKCS #8, PEM, of mode 0600.
    pub key: PathBuf,
    /// When its head goes on chain.
    #[serde(default)]
    pub anchor: Anchoring,
}

/// When the head of the log goes on chain, as a commitment of the hotkey.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Anchoring {
    /// Once per epoch, after that epoch's weights. No duel waits for it.
    #[default]
    PerEpoch,
    /// Also before the seed of each duel, which follows from the block after that of the
    /// head: the chain attests that the duel was announced before its seed was known.
    BeforeSeed,
    /// Never.
    Never,
}

/// Where records and public data are published. The key of a bucket comes from the
/// environment, as `docs/publish.md` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishSettings {
    /// A folder, or `s3://BUCKET/PREFIX`.
    pub to: String,
    /// Address of the bucket's server, if it is not Amazon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[serde(default = "region")]
    pub region: String,
    /// The data sets that are published beside each record.
    #[serde(default)]
    pub exports: PublishedExports,
    /// The license of the tasks, as its SPDX name: every row of the data sets states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

impl PublishSettings {
    /// The data sets that are put beside each record.
    pub fn exports(&self) -> Option<Exports> {
        let form = match self.exports {
            PublishedExports::Parquet => Form::Parquet,
            PublishedExports::Jsonl => Form::JsonLines,
            PublishedExports::None => return None,
        };
        Some(Exports { form, license: self.license.clone() })
    }
}

/// The data sets that are published beside each record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PublishedExports {
    /// Conversations and pairs, as parquet files.
    #[default]
    Parquet,
    /// The same as JSON Lines.
    Jsonl,
    /// None.
    None,
}

/// A validator that is followed: what it publishes is verified, and the weights that follow
/// from it are set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FollowSettings {
    /// Its hotkey, whose heads of the log on chain are compared with its log; by default the
    /// one that its public data name when they are read first.
    pub hotkey: Option<String>,
    /// The web address or the folder of its public data.
    pub at: Option<String>,
    /// The key of its log, `ed25519:…`; by default the one that its public data name when they
    /// are read first.
    pub key: Option<String>,
    /// Replies that are audited per duel; 0 takes them on trust.
    pub audit_replies: u32,
    /// The calibration of the audits: for the device that writes the replies and the one of
    /// `backend`.
    pub calibration: Option<PathBuf>,
}

impl Default for FollowSettings {
    fn default() -> Self {
        Self { hotkey: None, at: None, key: None, audit_replies: 8, calibration: None }
    }
}

impl FollowSettings {
    /// Adds `named`, which is a web address, a folder or a hotkey.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], the operator's: the settings name another one.
    pub fn name(&mut self, named: &str) -> Result<()> {
        let is_place = named.contains(['/', '\\', '.']);
        let (key, setting) =
            if is_place { ("follow.at", &mut self.at) } else { ("follow.hotkey", &mut self.hotkey) };
        if let Some(other) = setting.as_deref().filter(|other| *other != named) {
            let message = "the configuration follows another validator";
            return Err(Error::new(ErrorKind::ConfigInvalid, "choose whom to follow", message)
                .with_fault(Fault::Operator)
                .with("key", key)
                .with("configuration", other)
                .with("named", named)
                .with_hint("change the configuration, or leave `--follow` out"));
        }
        *setting = Some(named.to_owned());
        Ok(())
    }

    /// The web address or the folder of the public data.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], the operator's: nothing names it.
    pub(super) fn place(&self) -> Result<&str> {
        self.at.as_deref().filter(|at| !at.is_empty()).ok_or_else(|| {
            let message = "nothing says where its public data are: a hotkey has one commitment on chain, the head of its log";
            Error::new(ErrorKind::ConfigInvalid, "follow a validator", message)
                .with_fault(Fault::Operator)
                .with("key", "follow.at")
                .with_hint("name the web address or the folder that it publishes to")
        })
    }

    fn check(&self, has_backend: bool) -> Result<()> {
        self.place()?;
        let invalid = |key: &'static str, message: String, hint: &str| {
            let error = Error::new(ErrorKind::ConfigInvalid, "check the validator's settings", message);
            Err(error.with_fault(Fault::Operator).with("key", key).with_hint(hint))
        };
        if let Some(key) = &self.key
            && let Err(error) = key.parse::<PublicKey>()
        {
            return invalid(
                "follow.key",
                error.message().to_owned(),
                "write it as the public data do: `ed25519:…`",
            );
        }
        let lacks = match (self.audit_replies, has_backend, &self.calibration) {
            (0, ..) | (_, true, Some(_)) => return Ok(()),
            (_, false, _) => "backend",
            (_, true, None) => "follow.calibration",
        };
        invalid(
            lacks,
            format!("nothing can audit {} replies per duel: `{lacks}` is missing", self.audit_replies),
            "name a device under `backend` (`name = \"burn\"` is this machine's CPU) and `follow.calibration`, or set \
             `follow.audit_replies = 0`, which takes the replies on trust",
        )
    }
}

fn subnet_97() -> u16 {
    97
}

fn three_seconds() -> u64 {
    3000
}

fn region() -> String {
    "us-east-1".into()
}

/// Screens, and the name of the profile that they are of.
type Chosen<'a> = (Vec<PluginConfig<dyn Screen>>, Option<&'a str>);

impl ValidatorConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// As [`read`](crate::config::read()).
    pub fn read(path: &Path) -> Result<Self> {
        let config: Self = read(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = std::path::absolute(folder.unwrap_or(Path::new(".")));
        let folder = folder.map_err(|error| Error::io("read the configuration", path, error))?;
        Ok(Self { folder, ..config })
    }

    /// The JSON schema of a validator's configuration file, with the settings of every
    /// plugin of `registry`.
    pub fn schema(registry: &Registry) -> serde_json::Value {
        registry.schema::<Self>()
    }

    /// Checks every setting, also of the plugins that it names, without touching anything
    /// outside.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] or [`ErrorKind::UnknownPlugin`], naming the first
    /// mistake and its path.
    pub fn check(&self, registry: &Registry) -> Result<()> {
        let invalid = |key: &'static str, message: &str| {
            let error = Error::new(ErrorKind::ConfigInvalid, "check the validator's settings", message);
            Err(error.with("key", key))
        };
        ErrorBudget::new(self.reign.alpha).map_err(|error| error.with("key", "reign.alpha"))?;
        if self.reign.kings == 0 {
            return invalid("reign.kings", "at least one king has to share the weights");
        }
        if self.entry.per_hotkey == 0 {
            return invalid("entry.per_hotkey", "nobody could take part");
        }
        self.entry.check_hubs()?;
        if self.poll_ms == 0 {
            return invalid("poll_ms", "the chain cannot be asked without a pause");
        }
        if let Some(follow) = &self.follow {
            follow.check(self.backend.is_some())?;
        } else {
            if self.judges.is_empty() {
                return invalid("judges", "there is no judge");
            }
            self.tasks()?;
            self.log()?;
            self.publish()?;
        }
        if self.hotkey.is_empty() {
            return invalid("hotkey", "it is empty");
        }
        self.operate.check()?;
        self.duel.check().map_err(|error| error.under("duel"))?;
        if let Some(genesis) = &self.genesis {
            genesis.model().map_err(|error| error.under("genesis"))?;
        }
        self.chosen_screens()?;
        let cx = CheckContext::new(registry);
        cx.plugin("chain", &self.chain)?;
        if let Some(tasks) = &self.tasks {
            cx.plugin("tasks", tasks)?;
        }
        cx.plugins("judges", &self.judges)?;
        cx.plugins("screens", self.screens.as_deref().unwrap_or_default())?;
        cx.plugins("hubs", &self.hubs)?;
        if let Some(backend) = &self.backend {
            cx.plugin("backend", backend)?;
        }
        Ok(())
    }

    /// The tasks.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`]: they are missing.
    pub fn tasks(&self) -> Result<&PluginConfig<dyn TaskSource>> {
        needed("tasks", self.tasks.as_ref())
    }

    /// The log of duels.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`]: it is missing.
    pub fn log(&self) -> Result<&LogSettings> {
        needed("log", self.log.as_ref())
    }

    /// Where records and public data are published.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`]: it is missing.
    pub fn publish(&self) -> Result<&PublishSettings> {
        needed("publish", self.publish.as_ref())
    }

    /// The backend, which is [`DEFAULT_BACKEND`] unless another one is named.
    pub(super) fn backend(&self) -> PluginConfig<dyn ModelBackend> {
        self.backend.clone().unwrap_or_else(|| PluginConfig::named(DEFAULT_BACKEND))
    }

    /// The screens, in order, and the name of the profile that they are of, if they are of one.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] for an unknown profile, and for a profile beside screens.
    pub(super) fn chosen_screens(&self) -> Result<Chosen<'_>> {
        match (&self.screen_profile, &self.screens) {
            (Some(_), Some(_)) => {
                let message = "name a screen profile or the screens one by one, not both";
                let error = Error::new(ErrorKind::ConfigInvalid, "choose the screens", message);
                Err(error.with("key", "screen_profile").with_hint("remove one of the two"))
            }
            (None, Some(screens)) => Ok((screens.clone(), None)),
            (profile, None) => {
                let name = profile.as_deref().unwrap_or(SCREEN_PROFILE);
                Ok((screen_profile(name)?, Some(name)))
            }
        }
    }

    /// The ledger's file.
    pub fn ledger(&self) -> PathBuf {
        self.state().join("ledger.sqlite")
    }

    /// The folder of ledger, journals, records and log.
    pub fn state(&self) -> PathBuf {
        self.folder.join(&self.state)
    }
}

/// What only a validator that follows another one may leave out.
fn needed<'a, T>(key: &'static str, setting: Option<&'a T>) -> Result<&'a T> {
    setting.ok_or_else(|| {
        let message = format!("missing key `{key}`");
        Error::new(ErrorKind::ConfigInvalid, "check the validator's settings", message)
            .with("key", key)
            .with_hint("only a validator with `follow` goes without it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        state = "s"
        hotkey = "h"
        chain.name = "local"
        genesis.path = "k"
        tasks.name = "parquet"
        tasks.path = "t"
        judges = [{ name = "protocol" }]
        log = { origin = "o", key = "k" }
        publish.to = "p"
    "#;

    #[test]
    fn the_guides_example_reads() {
        let guide = include_str!("../../docs/validator.md");
        let block = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
        let config: ValidatorConfig = crate::config::parse(block.expect("a block")).expect("reads");
        assert_eq!((config.chain.name(), config.judges.len()), ("subtensor", 2));
        config.operate.check().expect("is well-formed");
    }

    #[test]
    fn the_guides_follower_reads() {
        let guide = include_str!("../../docs/validator.md");
        let blocks = guide.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let block = blocks.filter(|block| block.contains("[follow]")).collect::<String>();
        let config: ValidatorConfig = crate::config::parse(&block).expect("reads");
        config.follow.expect("follows").check(config.backend.is_some()).expect("is well-formed");
    }

    #[test]
    fn mistakes_are_named_with_their_path() {
        let registry = Registry::linked().expect("links");
        let check = |text: &str| crate::config::parse::<ValidatorConfig>(text)?.check(&registry);
        check(SMALL).expect("is well-formed");
        for (line, words) in [
            ("hotkeys = 1", "unknown key `hotkeys`"),
            ("entry.per_hotkey = 0", "key: entry.per_hotkey"),
            ("entry.per_hotkeys = 1", "per_hotkeys"),
            ("entry.manifests = \"hf\"", "key: entry.manifests"),
            ("entry.revisions = \"oci\"", "key: entry.revisions"),
            ("entry.revisions = \"folder\"", "key: entry.revisions"),
            ("entry.revisions = \"Hugging Face\"", "is no hub's name"),
            ("reign.alpha = 0.7", "key: reign.alpha"),
            ("duel.samples = 0", "key: duel.samples"),
            ("backend.name = \"brun\"", "did you mean `burn`?"),
            ("screens = [{ name = \"fils\" }]", "key: screens[0]"),
            ("screen_profile = \"sn97\"", "there is no screen profile `sn97`"),
            ("screen_profile = \"sn97-2026-12\"\nscreens = []", "not both"),
            ("hubs = [{ name = \"folder\" }]", "hubs[0]"),
            ("operate.listen = \"0.0.0.0:9744\"", "key: operate.listen"),
            ("operate.webhook = {}", "url_env"),
        ] {
            let error = check(&format!("{SMALL}\n{line}")).expect_err(line);
            assert!(error.to_string().contains(words), "{line}: {error}");
        }
        for lacking in [
            "tasks.name = \"parquet\"\n        tasks.path = \"t\"",
            "publish.to = \"p\"",
            "log = { origin = \"o\", key = \"k\" }",
        ] {
            let text = SMALL.replace(lacking, "");
            assert_ne!(text, SMALL);
            let error = check(&text).expect_err(lacking);
            assert!(error.to_string().contains("missing key"), "{error}");
        }
        let often = SMALL.replace("key = \"k\" }", "key = \"k\", anchor = \"often\" }");
        let error = check(&often).expect_err("no such time");
        assert!(error.to_string().contains("before-seed"), "{error}");
    }

    const FOLLOWER: &str = r#"
        state = "s"
        hotkey = "h"
        chain.name = "local"
        follow.at = "https://duels.example.com/subnet-97"
    "#;

    #[test]
    fn a_follower_says_what_it_audits_with_or_that_it_does_not() {
        let registry = Registry::linked().expect("links");
        let check = |more: &str| {
            crate::config::parse::<ValidatorConfig>(&format!("{FOLLOWER}\n{more}"))?.check(&registry)
        };
        check("follow.audit_replies = 0").expect("on trust");
        check("backend.name = \"burn\"\nfollow.calibration = \"c.json\"").expect("audits");
        for (more, words) in [
            ("", "`backend` is missing"),
            ("backend.name = \"burn\"", "`follow.calibration` is missing"),
            ("follow.audit_replies = 0\nfollow.key = \"x\"", "key: follow.key"),
            ("follow.audit = 1", "unknown key"),
        ] {
            let error = check(more).expect_err(more);
            assert!(error.to_string().contains(words), "{more}: {error}");
        }
    }

    #[test]
    fn whom_to_follow_is_named_once() {
        let mut follow = FollowSettings::default();
        let error = follow.place().expect_err("nothing names it");
        assert!(error.to_string().contains("follow.at"), "{error}");
        follow.name("5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV").expect("a hotkey");
        follow.name("https://duels.example.com").expect("an address");
        follow.name("https://duels.example.com").expect("the same");
        assert_eq!(follow.place().expect("named"), "https://duels.example.com");
        let error = follow.name("./site").expect_err("another one");
        assert!(error.to_string().contains("follow.at"), "{error}");
        let error = follow.name("5F").expect_err("another one");
        assert!(error.to_string().contains("follow.hotkey"), "{error}");
    }
}

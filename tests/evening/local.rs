//! The chain in a file, whose blocks the test makes.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use albedo::chain::{Content, Hotkey, NetUid, Uid};
use albedo::chains::local::{LocalChain, LocalChainConfig};
use albedo::log::AnchoredHead;
use albedo::{CallContext, ChainClient};

use crate::{MINERS, TEMPO};

/// Subnet 97 of a chain in a file.
pub(crate) struct Chain {
    local: LocalChain,
    file: PathBuf,
    settings: String,
}

impl Chain {
    #[expect(clippy::unused_async, reason = "as of the node")]
    pub(crate) async fn start(folder: &Path) -> Self {
        let file = folder.join("chain.sqlite");
        let mut neurons = String::from(
            "{ uid = 0, hotkey = \"owner\" }, { uid = 1, hotkey = \"validator\", validator_permit = true, stake = 1000 }",
        );
        for (uid, miner) in (2..).zip(MINERS) {
            write!(neurons, ", {{ uid = {uid}, hotkey = \"{miner}\", coldkey = \"{miner}'s owner\" }}")
                .expect("writes");
        }
        let settings = format!(
            "path = '{}'\ntempo = {TEMPO}\nweights_rate_limit = 5\nneurons = [{neurons}]\n",
            file.display()
        );
        let config: LocalChainConfig = albedo::config::parse(&settings).expect("settings");
        Self { local: LocalChain::new(config).expect("a chain"), file, settings }
    }

    /// The table `[chain]` of a configuration.
    pub(crate) fn settings(&self) -> String {
        format!("name = \"local\"\n{}", self.settings)
    }

    #[expect(clippy::unused_self, reason = "as of the node")]
    pub(crate) fn hotkey(&self, name: &str) -> Hotkey {
        Hotkey(name.to_owned())
    }

    pub(crate) fn produce(&self, blocks: u64) {
        self.local.advance(blocks).expect("blocks");
    }

    /// Commits as `miner`; gives the block.
    #[expect(clippy::unused_async, reason = "as of the node")]
    pub(crate) async fn commit(&self, miner: &str, text: &str) -> u64 {
        self.local.commit(&self.hotkey(miner), text, None).expect("commits").block
    }

    fn sql(&self, sql: &str, names: &[&str]) {
        let chain = rusqlite::Connection::open(&self.file).expect("opens");
        chain.busy_timeout(std::time::Duration::from_secs(30)).expect("sets");
        assert_eq!(chain.execute(sql, rusqlite::params_from_iter(names)).expect("changes"), 1);
    }

    /// Somebody registers in the slot of `miner`.
    pub(crate) fn deregister(&self, miner: &str) {
        let sql = "INSERT INTO neurons (uid, registered_at, hotkey, coldkey, validator_permit, stake) \
                   SELECT uid, (SELECT head + 1 FROM chain), 'newcomer', 'newcomer', 0, 0 FROM neurons WHERE hotkey = ?1";
        self.sql(sql, &[miner]);
    }

    /// The owner of `miner`'s slot gives it the hotkey `other`.
    pub(crate) fn swap(&self, miner: &str, other: &str) {
        self.sql("UPDATE neurons SET hotkey = ?2 WHERE hotkey = ?1", &[miner, other]);
    }

    /// The validator's weights that are in force.
    pub(crate) async fn weights(&self) -> Vec<(Uid, u16)> {
        let cx = CallContext::new();
        let head = self.local.head(&cx).await.expect("a head");
        let view = self.local.weights(NetUid(97), &head, &cx).await.expect("read");
        let row = view.rows.into_iter().find(|row| row.validator == Uid(1));
        row.map(|row| row.weights).unwrap_or_default()
    }

    /// The epochs in which the validator's weights landed, one by one.
    pub(crate) fn epochs_with_weights(&self) -> Vec<u64> {
        let chain = rusqlite::Connection::open(&self.file).expect("opens");
        let sql = "SELECT included / ?1 FROM weights WHERE hotkey = 'validator' ORDER BY id";
        let mut rows = chain.prepare(sql).expect("prepares");
        let rows = rows.query_map([TEMPO], |row| row.get(0)).expect("reads");
        rows.map(|row| row.expect("a row")).collect()
    }

    /// The head of a log that the validator has put on chain.
    pub(crate) async fn head_of_log(&self) -> Option<AnchoredHead> {
        let cx = CallContext::new();
        let head = self.local.head(&cx).await.expect("a head");
        let reveals = self.local.reveals(NetUid(97), &head, &cx).await.expect("read");
        let ours = reveals.into_iter().find(|reveal| reveal.hotkey.0 == "validator")?;
        match ours.content {
            Content::Text(text) => AnchoredHead::parse(&text),
            _ => None,
        }
    }
}

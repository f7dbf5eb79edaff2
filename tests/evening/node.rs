//! The node for tests, whose blocks the test makes: what the validator signs is read from them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use albedo::chain::{BlockHash, Content, Hotkey, NetUid, Uid};
use albedo::chains::journal::ChainJournal;
use albedo::chains::subtensor::{Subtensor, SubtensorConfig};
use albedo::chains::testnode::{Pace, TestNeuron, TestNode, TestSubnet, metadata};
use albedo::chains::wallet::{Keypair, Phrase};
use albedo::log::AnchoredHead;
use albedo::{CallContext, ChainClient, Digest, Scheme, Signer};

use crate::run::command;
use crate::{MINERS, TEMPO};

/// Substrate's development phrase, known to everybody: the validator's.
const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

const NETUID: NetUid = NetUid(97);

/// Subnet 97 of a node.
pub(crate) struct Chain {
    node: TestNode,
    folder: PathBuf,
}

fn key(name: &str) -> Keypair {
    let key = match name {
        "validator" => Keypair::from_phrase(&Phrase::new(PHRASE), Scheme::Sr25519),
        name => Keypair::from_seed(Digest::of(name).as_bytes(), Scheme::Sr25519),
    };
    key.expect("a key")
}

fn neuron(name: &str) -> TestNeuron {
    let is_validator = name == "validator";
    TestNeuron {
        hotkey: key(name).public_key(),
        coldkey: key(&format!("{name}'s owner")).public_key(),
        registered_at: 0,
        validator_permit: is_validator,
        stake: if is_validator { 1000 } else { 0 },
        last_update: 0,
    }
}

impl Chain {
    pub(crate) async fn start(folder: &Path) -> Self {
        let wallet = folder.join("wallets");
        let regenerate = ["wallet", "regenerate", "--wallet", "evening", "--plain", "--hotkey", "default"];
        let mut wallets = command(regenerate);
        let wallets = wallets.arg("--wallet-path").arg(&wallet).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut wallets = wallets.spawn().expect("albedo starts");
        writeln!(wallets.stdin.take().expect("piped"), "{PHRASE}").expect("writes");
        assert!(wallets.wait().expect("ends").success());
        let neurons = ["owner", "validator"].into_iter().chain(MINERS).map(neuron).collect();
        let subnet = TestSubnet {
            tempo: TEMPO,
            weights_rate_limit: 5,
            commit_reveal: false,
            neurons,
            ..TestSubnet::new(NETUID.0)
        };
        let node = TestNode::start(&metadata::newest(), 2, subnet).await;
        node.set_pace(Pace::Instant);
        node.produce(60);
        Self { node, folder: folder.to_owned() }
    }

    /// A client of the node that signs as `name`.
    fn client(&self, name: &str) -> Subtensor {
        let config = SubtensorConfig {
            endpoints: vec![self.node.endpoint()],
            genesis: BlockHash(self.node.genesis()).to_string(),
            ..SubtensorConfig::default()
        };
        let journal = ChainJournal::open(&self.folder.join(format!("{name}.sqlite"))).expect("opens");
        Subtensor::new(&config)
            .expect("good settings")
            .with_journal(journal, self.node.beacon(), Duration::from_millis(5))
            .with_signer(Arc::new(key(name)))
    }

    /// The table `[chain]` of a configuration.
    pub(crate) fn settings(&self) -> String {
        format!(
            "name = \"subtensor\"\nendpoints = [\"{}\"]\ngenesis = \"{}\"\njournal = \"chain.sqlite\"\npoll_ms = 100\n\
             wallet = {{ path = \"wallets\", name = \"evening\", hotkey = \"default\" }}\n",
            self.node.endpoint(),
            BlockHash(self.node.genesis()),
        )
    }

    #[expect(clippy::unused_self, reason = "as of the chain in a file")]
    pub(crate) fn hotkey(&self, name: &str) -> Hotkey {
        key(name).hotkey()
    }

    pub(crate) fn produce(&self, blocks: u64) {
        self.node.produce(blocks);
    }

    /// Commits as `miner`; gives the block.
    pub(crate) async fn commit(&self, miner: &str, text: &str) -> u64 {
        let (client, cx) = (self.client(miner), CallContext::new());
        client.set_commitment(NETUID, &self.hotkey(miner), text, &cx).await.expect("commits")
    }

    fn change(&self, miner: &str, change: impl FnOnce(&mut TestNeuron)) {
        let hotkey = key(miner).public_key();
        self.node.change(|subnet| {
            let neuron = subnet.neurons.iter_mut().find(|neuron| neuron.hotkey == hotkey);
            change(neuron.expect("a neuron"));
        });
    }

    /// Somebody registers in the slot of `miner`.
    pub(crate) fn deregister(&self, miner: &str) {
        let registered_at = self.node.height() + 1;
        self.change(miner, |slot| *slot = TestNeuron { registered_at, ..neuron("newcomer") });
    }

    /// The owner of `miner`'s slot gives it the hotkey `other`.
    pub(crate) fn swap(&self, miner: &str, other: &str) {
        self.change(miner, |slot| slot.hotkey = key(other).public_key());
    }

    /// The validator's weights that are in force.
    pub(crate) async fn weights(&self) -> Vec<(Uid, u16)> {
        let (client, cx) = (self.client("reader"), CallContext::new());
        let head = client.head(&cx).await.expect("a head");
        let view = client.weights(NETUID, &head, &cx).await.expect("read");
        let row = view.rows.into_iter().find(|row| row.validator == Uid(1));
        row.map(|row| row.weights).unwrap_or_default()
    }

    /// The epochs in which the validator's weights landed, one by one. Nothing that it signed
    /// was refused.
    pub(crate) fn epochs_with_weights(&self) -> Vec<u64> {
        let validator = key("validator").public_key();
        let landed = self.node.landed().into_iter().filter(|landed| landed.signer == validator);
        let landed: Vec<_> = landed.collect();
        assert!(landed.iter().all(|landed| landed.failure.is_none()), "{landed:?}");
        let weights = landed.iter().filter(|landed| landed.call.contains("weights"));
        weights.map(|landed| landed.epoch).collect()
    }

    /// The head of a log that the validator has put on chain.
    pub(crate) async fn head_of_log(&self) -> Option<AnchoredHead> {
        let (client, cx) = (self.client("reader"), CallContext::new());
        let head = client.head(&cx).await.expect("a head");
        let reveals = client.reveals(NETUID, &head, &cx).await.expect("read");
        let validator = self.hotkey("validator");
        let ours = reveals.into_iter().find(|reveal| reveal.hotkey == validator)?;
        match ours.content {
            Content::Text(text) => AnchoredHead::parse(&text),
            _ => None,
        }
    }
}

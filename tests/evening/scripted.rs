//! Scripted parts of a competition: a chain, a hub, judges and models that can be away, and
//! models whose strength is known. Nothing here remembers what it was asked: a validator that
//! lives for months asks millions of times.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use albedo::backends::files::FolderFiles;
use albedo::chain::{
    BlockHash, BlockNumber, BlockRef, Hotkey, Metagraph, NetUid, Reveal, Subnet, WeightReceipt, WeightsView,
};
use albedo::chains::local::{LocalChain, LocalChainConfig};
use albedo::judges::screens::{AlignTo, Measurement};
use albedo::prelude::*;
use albedo::rng::{Stream, Use, derive_seed};
use albedo::testing::{completion, identity, model_info};
use albedo::validator::{Validator, ValidatorConfig};
use albedo::weights::{Cleared, WeightVector};
use albedo::{
    Clock, Digest, GenerateRequest, Generated, Message, ModelInfo, Resources, ScoreRequest, TokenScores,
};
use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What can be away.
pub(crate) const PARTS: [&str; 6] = ["chain", "hub", "bucket", "one judge", "all judges", "server"];

/// By how much a reply is better or worse than its model, at most.
const NOISE: f64 = 0.3;

/// The difference of skill at which a judge sees nothing but one reply's merit.
const SPAN: f64 = 4.0;

/// What the scripted parts go by.
#[derive(Debug, Default)]
struct State {
    clock: Option<Arc<dyn Clock>>,
    reply: Duration,
    away: BTreeMap<&'static str, Away>,
}

/// A part that is away, or will be.
#[derive(Debug, Clone, Copy)]
struct Away {
    /// Calls that it still answers.
    calls: u64,
    /// For how long it is away after them.
    time: Duration,
    /// Until when it is away, once it is.
    until: Option<Duration>,
}

static STATE: Mutex<State> = Mutex::new(State { clock: None, reply: Duration::ZERO, away: BTreeMap::new() });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The scripted parts go by `clock`, and a model takes `reply` per reply.
pub(crate) fn begin(clock: Arc<dyn Clock>, reply: Duration) {
    *state() = State { clock: Some(clock), reply, away: BTreeMap::new() };
}

/// `part` answers `calls` more calls, and is away for `time` then.
pub(crate) fn go_away(part: &'static str, calls: u64, time: Duration) {
    state().away.insert(part, Away { calls, time, until: None });
}

pub(crate) fn come_back(part: &str) {
    state().away.remove(part);
}

/// # Errors
/// `part` is away.
fn reach(part: &'static str) -> albedo::Result<()> {
    let mut state = state();
    let now = state.clock.as_ref().expect("a clock").now();
    let Some(away) = state.away.get_mut(part) else { return Ok(()) };
    if away.calls > 0 {
        away.calls -= 1;
        return Ok(());
    }
    let until = *away.until.get_or_insert(now.saturating_add(away.time));
    if now >= until {
        state.away.remove(part);
        return Ok(());
    }
    let error = Error::new(ErrorKind::Unavailable, format!("reach the {part}"), "it does not answer");
    Err(error.with_fault(Fault::Infrastructure))
}

/// The chain `local`, which can be away.
#[derive(Debug)]
struct OutageChain(LocalChain);

impl Plugin<dyn ChainClient> for OutageChain {
    const NAME: &'static str = "outage-chain";
    const SUMMARY: &'static str = "the chain `local`, which can be away";
    type Config = LocalChainConfig;
    type Checked = LocalChainConfig;

    fn check(config: LocalChainConfig, _: &CheckContext<'_>) -> albedo::Result<LocalChainConfig> {
        Ok(config)
    }

    async fn build(config: LocalChainConfig, _: &BuildContext<'_>) -> albedo::Result<Arc<dyn ChainClient>> {
        Ok(Arc::new(Self(LocalChain::new(config)?)))
    }
}

register!(dyn ChainClient => OutageChain);

#[async_trait]
impl ChainClient for OutageChain {
    async fn genesis(&self, cx: &CallContext) -> albedo::Result<BlockHash> {
        reach("chain")?;
        self.0.genesis(cx).await
    }

    async fn head(&self, cx: &CallContext) -> albedo::Result<BlockRef> {
        reach("chain")?;
        self.0.head(cx).await
    }

    async fn block(&self, number: BlockNumber, cx: &CallContext) -> albedo::Result<BlockRef> {
        reach("chain")?;
        self.0.block(number, cx).await
    }

    async fn subnet(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> albedo::Result<Subnet> {
        reach("chain")?;
        self.0.subnet(netuid, at, cx).await
    }

    async fn metagraph(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> albedo::Result<Metagraph> {
        reach("chain")?;
        self.0.metagraph(netuid, at, cx).await
    }

    async fn reveals(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> albedo::Result<Vec<Reveal>> {
        reach("chain")?;
        self.0.reveals(netuid, at, cx).await
    }

    async fn weights(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> albedo::Result<WeightsView> {
        reach("chain")?;
        self.0.weights(netuid, at, cx).await
    }

    async fn set_weights(
        &self,
        weights: Cleared<WeightVector>,
        cx: &CallContext,
    ) -> albedo::Result<WeightReceipt> {
        reach("chain")?;
        self.0.set_weights(weights, cx).await
    }

    async fn set_commitment(
        &self,
        netuid: NetUid,
        hotkey: &Hotkey,
        text: &str,
        cx: &CallContext,
    ) -> albedo::Result<BlockNumber> {
        reach("chain")?;
        self.0.set_commitment(netuid, hotkey, text, cx).await
    }
}

/// A judge that prefers the reply of the greater skill.
#[derive(Debug)]
struct OutageJudge {
    identity: Identity,
    parts: &'static [&'static str],
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OutageJudgeConfig {
    /// Its number; judge 1 can be away alone.
    number: u32,
}

impl Plugin<dyn Judge> for OutageJudge {
    const NAME: &'static str = "outage-judge";
    const SUMMARY: &'static str = "prefers the greater skill, and can be away";
    type Config = OutageJudgeConfig;
    type Checked = OutageJudgeConfig;

    fn check(config: OutageJudgeConfig, _: &CheckContext<'_>) -> albedo::Result<OutageJudgeConfig> {
        Ok(config)
    }

    async fn build(config: OutageJudgeConfig, _: &BuildContext<'_>) -> albedo::Result<Arc<dyn Judge>> {
        let parts: &[_] = if config.number == 1 { &["one judge", "all judges"] } else { &["all judges"] };
        Ok(Arc::new(Self { identity: identity(&format!("judge {}", config.number)), parts }))
    }
}

register!(dyn Judge => OutageJudge);

#[async_trait]
impl Judge for OutageJudge {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new([Metric::Correctness])
    }

    async fn compare(&self, request: &Comparison, _: &CallContext) -> albedo::Result<Assessment> {
        for part in self.parts {
            reach(part)?;
        }
        let skill = |reply: &str| reply.split(' ').next().and_then(|skill| skill.parse().ok()).unwrap_or(0.0);
        let [first, second] = [&request.first, &request.second].map(|reply| skill(&reply.text));
        let better: f64 = ((first - second) / SPAN).clamp(-1.0, 1.0);
        let score = Score::from_difference(better.max(0.0), (-better).max(0.0))?;
        Ok(Assessment::scored([(Metric::Correctness, score)]))
    }
}

/// A server that can be away. A model says its skill, which its file `skill` has.
#[derive(Debug)]
struct OutageBackend(Identity);

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct OutageBackendConfig {}

impl Plugin<dyn ModelBackend> for OutageBackend {
    const NAME: &'static str = "outage-backend";
    const SUMMARY: &'static str = "models that say their skill, and can be away";
    type Config = OutageBackendConfig;
    type Checked = OutageBackendConfig;

    fn check(config: OutageBackendConfig, _: &CheckContext<'_>) -> albedo::Result<OutageBackendConfig> {
        Ok(config)
    }

    async fn build(_: OutageBackendConfig, _: &BuildContext<'_>) -> albedo::Result<Arc<dyn ModelBackend>> {
        Ok(Arc::new(Self(identity(Self::NAME))))
    }
}

register!(dyn ModelBackend => OutageBackend);

#[async_trait]
impl ModelBackend for OutageBackend {
    fn identity(&self) -> &Identity {
        &self.0
    }

    async fn load(&self, model: &ModelSource, cx: &CallContext) -> albedo::Result<Arc<dyn ModelSession>> {
        const LOAD: &str = "load a scripted model";
        reach("server")?;
        let folder = model.model.require_folder(LOAD)?;
        // The screens have read the weights: they are those of the duel.
        let files = Arc::new(FolderFiles::new(folder));
        let parameters = Measurement::take(files, AlignTo::Nothing, cx).await?.digests.parameters;
        let file = folder.join("skill");
        let text = fs::read_to_string(&file).map_err(|error| Error::io(LOAD, &file, error))?;
        let skill = text.split(' ').next().and_then(|skill| skill.parse().ok()).expect("a skill");
        let mut info = model_info(&text);
        info.parameters = parameters;
        Ok(Arc::new(OutageSession { info, skill, text }))
    }
}

/// A model that says its skill, and how its reply to this prompt turned out.
#[derive(Debug)]
struct OutageSession {
    info: ModelInfo,
    skill: f64,
    text: String,
}

#[async_trait]
impl ModelSession for OutageSession {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> albedo::Result<Option<u32>> {
        Ok(Some(messages.iter().map(|message| message.content.len() as u32).sum()))
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let all = requests.len().max(1);
        let answers: Vec<_> = (requests.into_iter().enumerate())
            .map(|(index, request)| {
                let prompt: String = request.messages.iter().map(|message| &*message.content).collect();
                let seed = derive_seed("reply", &[self.text.as_bytes(), prompt.as_bytes()]);
                let noise = (2.0 * Stream::new(seed, Use::Chaos).unit_at(0) - 1.0) * NOISE;
                let said = format!("{:.3} is how well {} replies here", self.skill + noise, self.text);
                let cx = cx.clone();
                async move {
                    let (clock, reply) = {
                        let state = state();
                        (state.clock.clone().expect("a clock"), state.reply)
                    };
                    let answered = async {
                        if reply > Duration::ZERO {
                            clock.sleep_until(clock.now() + reply).await;
                        }
                        reach("server").map(|()| completion(&said))
                    };
                    let result = cx.run("answer a request", answered).await.and_then(|answer| answer);
                    Generated { index, result }
                }
            })
            .collect();
        futures::stream::iter(answers).buffer_unordered(all).boxed()
    }

    async fn score(&self, _: Vec<ScoreRequest>, _: &CallContext) -> albedo::Result<Vec<TokenScores>> {
        Err(Error::new(ErrorKind::Unsupported, "score a reply", "the script has no scores"))
    }
}

/// The files of a model of `skill`, by name: those of a small Qwen3, whose weights follow from
/// `number`, and its skill.
pub(crate) fn model_files(skill: f64, number: u64) -> BTreeMap<&'static str, Vec<u8>> {
    const HIDDEN: usize = 16;
    const INNER: usize = 32;
    const HEAD: usize = 8;
    const WORDS: usize = 64;
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": WORDS,
        "hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": HEAD, "intermediate_size": INNER, "max_position_embeddings": 4096, "rope_theta": 1e6,
        "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": false, "tie_word_embeddings": true,
        "use_sliding_window": false, "max_window_layers": 1, "torch_dtype": "bfloat16",
    });
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let tensors = [
        ("model.embed_tokens.weight".to_owned(), vec![WORDS, HIDDEN]),
        (layer("input_layernorm"), vec![HIDDEN]),
        (layer("mlp.down_proj"), vec![HIDDEN, INNER]),
        (layer("mlp.gate_proj"), vec![INNER, HIDDEN]),
        (layer("mlp.up_proj"), vec![INNER, HIDDEN]),
        (layer("post_attention_layernorm"), vec![HIDDEN]),
        (layer("self_attn.k_norm"), vec![HEAD]),
        (layer("self_attn.k_proj"), vec![HEAD, HIDDEN]),
        (layer("self_attn.o_proj"), vec![HIDDEN, 2 * HEAD]),
        (layer("self_attn.q_norm"), vec![HEAD]),
        (layer("self_attn.q_proj"), vec![2 * HEAD, HIDDEN]),
        (layer("self_attn.v_proj"), vec![HEAD, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    let (mut header, mut weights) = (serde_json::Map::new(), Vec::new());
    let mut numbers = Stream::new(derive_seed("weights", &[&number.to_le_bytes()]), Use::Chaos);
    for (name, shape) in tensors {
        let begin = weights.len();
        for _ in 0..shape.iter().product::<usize>() {
            // The upper half of an f32 of about 0.01 to 0.03: a BF16.
            let value = 0.01 + 0.02 * (numbers.below(1 << 16) as f32 / 65_536.0);
            weights.extend_from_slice(&value.to_le_bytes()[2..]);
        }
        let tensor = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [begin, weights.len()] });
        header.insert(name, tensor);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], &header, &weights].concat();
    BTreeMap::from([
        ("config.json", config.to_string().into_bytes()),
        ("model.safetensors", safetensors),
        ("skill", format!("{skill:.2} of submission {number}").into_bytes()),
    ])
}

/// The file `SHA256SUMS` of `files`, the last name first if `reversed`: other digests of the
/// same model. Its digest is the model's pin.
pub(crate) fn sums(files: &BTreeMap<&'static str, Vec<u8>>, reversed: bool) -> (String, Digest) {
    let mut lines: Vec<_> =
        files.iter().map(|(name, bytes)| format!("{}  {name}\n", Digest::of(bytes))).collect();
    if reversed {
        lines.reverse();
    }
    let sums = lines.concat();
    let pin = Digest::of(&sums);
    (sums, pin)
}

/// Writes `files` into the folder `place`.
pub(crate) fn write_model(place: &Path, files: &BTreeMap<&'static str, Vec<u8>>) {
    fs::create_dir_all(place).expect("makes");
    for (name, bytes) in files {
        fs::write(place.join(name), bytes).expect("writes");
    }
}

/// Puts `files` into the mirror in `dir`, which may be away, as `repository` at the digest of
/// `sums`.
pub(crate) fn upload(
    dir: &Path,
    repository: &str,
    files: &BTreeMap<&'static str, Vec<u8>>,
    (sums, pin): &(String, Digest),
) {
    let (there, away) = (dir.join("mirror"), dir.join("mirror.away"));
    let place = if away.exists() { away } else { there }.join(repository);
    let beside = dir.join("beside");
    write_model(&beside, files);
    fs::write(beside.join("SHA256SUMS"), sums).expect("writes");
    fs::create_dir_all(&place).expect("makes");
    fs::rename(&beside, place.join(pin.to_string())).expect("moves");
}

/// What differs from one competition to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// Blocks of an epoch.
    pub(crate) tempo: u64,
    pub(crate) poll: Duration,
    /// The miners' hotkeys and their owners, from slot 2 on.
    pub(crate) miners: &'a [(String, String)],
    /// Samples of a duel.
    pub(crate) samples: u32,
    pub(crate) in_flight: u32,
    pub(crate) screens: &'a str,
}

/// Writes what a competition needs into `dir`: the first king, of skill 0, an empty mirror, the
/// log's key, and `validator.toml`.
pub(crate) fn settings(dir: &Path, terms: Terms<'_>) -> LocalChainConfig {
    let Terms { tempo, poll, miners, samples, in_flight, screens } = terms;
    write_model(&dir.join("first"), &model_files(0.0, 0));
    fs::create_dir(dir.join("mirror")).expect("makes");
    albedo::signer::KeyFile::from_seed(&[7; 32]).save_new(&dir.join("log.pem")).expect("a key");
    let mut neurons = vec![
        "{ uid = 0, hotkey = \"owner\" }".to_owned(),
        "{ uid = 1, hotkey = \"validator\", validator_permit = true, stake = 1000 }".to_owned(),
    ];
    neurons.extend((2..).zip(miners).map(|(uid, (hotkey, coldkey))| {
        format!("{{ uid = {uid}, hotkey = \"{hotkey}\", coldkey = \"{coldkey}\" }}")
    }));
    let chain = format!(
        "path = '{}'\ntempo = {tempo}\nweights_rate_limit = 5\nneurons = [{}]\n",
        dir.join("chain.sqlite").display(),
        neurons.join(", "),
    );
    let text = format!(
        r#"
state = "state"
cache = "cache"
hotkey = "validator"
poll_ms = {poll}
genesis = {{ path = "first" }}
hubs = [{{ name = "folder", path = "mirror" }}]
entry = {{ manifests = "folder", per_hotkey = 1000 }}
backend = {{ name = "outage-backend" }}
tasks = {{ name = "parquet", path = '{tasks}' }}
judges = [
    {{ name = "outage-judge", number = 1 }},
    {{ name = "outage-judge", number = 2 }},
    {{ name = "outage-judge", number = 3 }},
]
screens = {screens}
log = {{ origin = "outages.invalid/log", key = "log.pem" }}
publish = {{ to = "site" }}

[duel]
samples = {samples}
rule = {{ name = "margin" }}
generation.max_new_tokens = 64
limits = {{ samples_in_flight = {in_flight}, call_tries = 1 }}

[chain]
name = "outage-chain"
{chain}
"#,
        poll = poll.as_millis(),
        tasks = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/tasks").display(),
    );
    fs::write(dir.join("validator.toml"), text).expect("writes");
    albedo::config::parse(&chain).expect("settings")
}

/// Opens the validator of `dir`, by `clock`, and has it begin.
pub(crate) async fn open(dir: &Path, clock: impl Clock, cx: &CallContext) -> Validator {
    let registry = Registry::linked().expect("links");
    let config = ValidatorConfig::read(&dir.join("validator.toml")).expect("reads");
    let build = BuildContext::new(&registry, cx).with_resources(Resources::default().with_clock(clock));
    let validator = Validator::open(&config, &build).await.expect("opens");
    validator.begin(&|error| eprintln!("{error}"), cx).await.expect("begins");
    validator
}

/// Where the files of a part are in `dir`, if it has any.
fn place(dir: &Path, part: &str) -> Option<PathBuf> {
    match part {
        "hub" => Some(dir.join("mirror")),
        "bucket" => Some(dir.join("site")),
        _ => None,
    }
}

/// Takes the files of a part in `dir` away; `false` if it has none.
pub(crate) fn hide(dir: &Path, part: &str) -> bool {
    let Some(place) = place(dir, part) else { return false };
    fs::rename(&place, place.with_extension("away")).expect("moves");
    if part == "bucket" {
        // Where there is no folder, one would be made.
        fs::write(&place, "").expect("writes");
    }
    true
}

/// Puts the files of a part in `dir` back; `false` if it has none.
pub(crate) fn show(dir: &Path, part: &str) -> bool {
    let Some(place) = place(dir, part) else { return false };
    let _ = fs::remove_file(&place);
    fs::rename(place.with_extension("away"), &place).expect("moves");
    true
}

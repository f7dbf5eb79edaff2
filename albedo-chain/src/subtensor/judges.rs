//! Bittensor's own Python packages judge what this crate encodes, signs,
//! encrypts and keeps (`.ci/chain-judges`). Without Python or the registry the
//! tests skip themselves.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use albedo_core::chain::{BlockHash, MechanismId, NetUid, Uid, WeightEffect};
use albedo_core::weights::{Share, WeightKey, WeightVector};
use albedo_core::{Scheme, Signer};
use serde_json::{Value as Json, json};
use subxt::ext::scale_value::Value;
use subxt::utils::MultiSignature;

use super::calls::{self, Call};
use super::read::value;
use super::runtime::{Life, Runtime, Version, account};
use crate::journal::Account;
use crate::testnode::decode_for_judges;
use crate::timelock::{self, Beacon};
use crate::wallet::{self, Keypair, Password, Phrase};

const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

const METADATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/chain/metadata/dev-293.v15.scale");

/// The packages, answering questions.
struct Judges {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Judges {
    /// `None`, with a line that says why, where they cannot be had.
    fn start() -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/chain-judges");
        let started =
            Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                println!("skipped: no judges: {error}");
                return None;
            }
        };
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        answers.read_line(&mut line).expect("a line");
        if line.trim() == "ready" {
            return Some(Self { child, answers });
        }
        println!("skipped: no judges: {}", line.trim());
        None
    }

    fn ask(&mut self, question: &Json) -> Json {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{question}").expect("asked");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        let answer: Json = serde_json::from_str(&line).expect("JSON");
        assert!(answer["error"].is_null(), "{question}: {}", answer["error"]);
        answer["answer"].clone()
    }
}

impl Drop for Judges {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Nobody is left to tell.
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn unhex(value: &Json) -> Vec<u8> {
    let digits = value.as_str().expect("hexadecimal").as_bytes();
    let pair =
        |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    digits.chunks_exact(2).map(pair).collect()
}

fn development() -> Keypair {
    Keypair::from_phrase(&Phrase::new(PHRASE), Scheme::Sr25519).expect("a key")
}

/// The calls of runtime 293, with what the judge is asked for each.
fn cases(runtime: &Runtime) -> Vec<(Call, Json)> {
    let key = development();
    let share = |uid, weight| Share { uid: Uid(uid), hotkey: key.hotkey(), weight };
    let vector = WeightVector {
        key: WeightKey {
            genesis: BlockHash([3; 32]),
            netuid: NetUid(97),
            mechanism: MechanismId(0),
            epoch: 1,
            hotkey: key.hotkey(),
        },
        version_key: 12,
        shares: vec![share(0, 20_000), share(255, 45_535)],
    };
    let (weights, effect) = calls::weights(runtime, &vector, &key.public_key(), None).expect("a call");
    assert_eq!(effect, WeightEffect::Set);
    let text = "v7|a/b|".to_owned() + &"0f".repeat(20);
    let plain = calls::commitment(NetUid(97), &text, None).expect("a call");
    let long = calls::commitment(NetUid(97), &"x".repeat(400), None).expect("a call");
    let hidden = calls::commitment(NetUid(97), &text, Some((&Beacon::quicknet(), 1000))).expect("a call");
    let (_, info) = &hidden.arguments[1];
    let field = crate::testnode::timelocked_bytes(info);
    let register = calls::registration(runtime, NetUid(97), &key.hotkey(), 5).expect("a call");
    vec![
        (weights, json!({"netuid": 97, "dests": [0, 255], "weights": [20_000, 45_535], "version_key": 12})),
        (
            plain,
            json!({"netuid": 97, "info": {"fields": [[{format!("Raw{}", text.len()): format!("0x{}", hex(text.as_bytes()))}]]}}),
        ),
        (long, json!({"netuid": 97, "info": {"fields": [[{"BigRaw": format!("0x{}", "78".repeat(400))}]]}})),
        (
            hidden,
            json!({"netuid": 97, "info": {"fields": [[
                {"TimelockEncrypted": {"encrypted": format!("0x{}", hex(&field)), "reveal_round": 1000}}
            ]]}}),
        ),
        (register, json!({"netuid": 97, "hotkey": key.address()})),
    ]
}

#[test]
fn keys_calls_payloads_and_extrinsics_are_those_of_bittensor_core() {
    let (Ok(metadata), Some(mut judges)) = (std::fs::read(METADATA), Judges::start()) else {
        println!("skipped: no metadata of runtime 293, or no judges");
        return;
    };
    let genesis = BlockHash([3; 32]);
    let runtime =
        Runtime::new(Version { spec: 293, transaction: 1 }, genesis, &metadata).expect("known shapes");
    let key = development();
    let own = key.public_key();
    let with = |mut question: Json| {
        question["metadata"] = json!(METADATA);
        question["spec"] = json!(293);
        question
    };
    let number = |number: u16| (value(number), json!(number));
    let who = || (account(&own), json!(key.address()));
    for (pallet, entry, keys) in [
        ("SubtensorModule", "Weights", vec![number(97), number(3)]),
        ("SubtensorModule", "Weights", vec![number(4095)]),
        ("SubtensorModule", "NetworksAdded", vec![number(97)]),
        ("Commitments", "CommitmentOf", vec![number(97), who()]),
        ("Commitments", "CommitmentOf", vec![number(97)]),
        ("Commitments", "RevealedCommitments", vec![number(97), who()]),
        ("Timestamp", "Now", vec![]),
        ("System", "Events", vec![]),
    ] {
        let (ours, theirs): (Vec<Value>, Vec<Json>) = keys.into_iter().unzip();
        let judged =
            judges.ask(&with(json!({"ask": "key", "pallet": pallet, "entry": entry, "keys": theirs})));
        assert_eq!(hex(&runtime.key((pallet, entry), ours).expect("a key")), judged, "{pallet}.{entry}");
    }

    let life = Life { nonce: 71, birth: 1234, birth_hash: BlockHash([5; 32]), period: 32 };
    for (call, arguments) in cases(&runtime) {
        let name = call.name();
        let bytes = runtime.call_bytes(call.item, &call.arguments).expect("encoded");
        let question =
            json!({"ask": "call", "pallet": call.item.0, "call": call.item.1, "arguments": arguments});
        assert_eq!(hex(&bytes), judges.ask(&with(question)), "{name}");
        let about = |ask: &str| {
            with(json!({
                "ask": ask, "bytes": hex(&bytes), "period": 32, "birth": 1234, "nonce": 71,
                "genesis": hex(&genesis.0), "birth_hash": hex(&[5; 32]),
            }))
        };
        let payload = runtime.payload(call.item, &call.arguments, life).expect("encoded");
        assert_eq!(hex(&payload), judges.ask(&about("payload")), "{name}");
        let signature = key.sign(&payload).expect("signed").0;
        let verified = judges.ask(&json!({
            "ask": "verify", "address": key.address(), "bytes": hex(&payload), "signature": hex(&signature),
        }));
        assert_eq!(verified, json!(true), "{name}");
        let signer = Account { genesis, signer: own };
        let signature_value = MultiSignature::Sr25519(signature);
        let extrinsic =
            runtime.extrinsic(call.item, &call.arguments, life, signer, &signature_value).expect("encoded");
        let mut question = about("extrinsic");
        question["signer"] = json!(hex(&own));
        question["signature"] = json!(hex(&signature));
        let theirs = judges.ask(&question);
        assert_eq!(hex(&extrinsic), theirs, "{name}");

        // What they encode, the node for tests decodes, and the other way round.
        let node = decode_for_judges(&metadata, 293, &unhex(&theirs)).expect("decoded");
        assert_eq!(node, (call.item.0.to_owned(), call.item.1.to_owned(), bytes.clone()), "{name}");
        let read = judges.ask(&with(json!({"ask": "decode", "bytes": hex(&extrinsic)})));
        assert_eq!((&read["address"], &read["nonce"]), (&json!(key.address()), &json!(71)), "{name}");
        assert_eq!(read["call"], json!(call.item.1), "{name}");
        assert_eq!(read["arguments"]["netuid"], json!(97), "{name}");
    }
}

#[test]
fn timelocks_open_in_bittensor_drand_and_its_own_here() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/chain/timelock/quicknet-round1000.json");
    let (Ok(text), Some(mut judges)) = (std::fs::read_to_string(path), Judges::start()) else {
        println!("skipped: no signature of quicknet, or no judges");
        return;
    };
    let json: Json = serde_json::from_str(&text).expect("JSON");
    let signature = &json["signature"];
    for message in [&b""[..], b"v7|a/b|x", &[9; 2000]] {
        let sealed = Beacon::quicknet().encrypt(message, 1000).expect("encrypted");
        let question =
            json!({"ask": "decrypt", "bytes": hex(&sealed), "round": 1000, "signature": signature});
        assert_eq!(judges.ask(&question), hex(message));
        let theirs = judges.ask(&json!({"ask": "encrypt", "bytes": hex(message), "round": 1000}));
        assert_eq!(timelock::decrypt(&unhex(&theirs), &unhex(signature)).expect("opens"), message);
    }
}

#[test]
fn wallets_open_in_bittensor_wallet_and_its_own_here() {
    let Some(mut judges) = Judges::start() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let pair = development();
    // Encrypted files take 512 MiB each.
    for (name, password) in [("plain", None), ("sealed", Some("s3cret pass"))] {
        let ours = folder.path().join(format!("ours-{name}"));
        wallet::write(&ours, &pair, password.map(Password::new).as_ref()).expect("written");
        assert_eq!(judges.ask(&json!({"ask": "open", "path": ours, "password": password})), pair.address());
        let theirs = folder.path().join(format!("theirs-{name}"));
        let question = json!({"ask": "make", "path": theirs, "password": password, "phrase": PHRASE});
        assert_eq!(judges.ask(&question), pair.address());
        let read = wallet::read(&theirs, password.map(Password::new).as_ref()).expect("opens");
        assert_eq!(read.address(), pair.address());
    }
}

//! Peers as they are: what other systems' users reported, and which test holds each
//! report's kind here. Rows of the first column are numbers of the reports.
//!
//! | | what it was | outcome | held by |
//! | --- | --- | --- | --- |
//! | 1 | `finish_reason: ""`, `STOP`, `eos_token` | whole | `openai::peers` (`finish-…`), [`dialects`](crate::dialects) |
//! | 4, 5 | `message` beside `delta`, or once more in the last chunk | text once | `openai::peers` (`message-…`, `full-last…`), `openai::text` |
//! | 6 | `usage.cost` is an object or text | price or none, never a lost reply | `openai::peers` (`cost-…`, `usage-…`) |
//! | 8, 9 | empty `data:`, comments, pings | skipped | `openai::peers` (`empty-data`, `comment`, `ping-data`) |
//! | 10, 12 | errors as a field, an event, an object, a code in words | the server's words and code | `openai::peers` (`error-…`, `object-error…`), `http::refusal` |
//! | 14 | characters split over network pieces | whole | `openai::peers`: every case in pieces of one byte and of seven |
//! | 15, 16 | content types missing or wrong; no last blank line | read | `openai::peers` (`ctype-…`, `no-final-blank`) |
//! | 17 | one `id:` on all events | all events | `openai::peers` (`same-id…`) |
//! | 18, 19 | lists of models in other shapes, names that are not listed | read; `check_model` is named | `openai::models` |
//! | 20 | a key's limit, an empty account, quota as 429 | the operator's, stops the duel, which resumes | `dialects::an_empty_account_stops_the_duel_which_goes_on_later` |
//! | 21 | no certificates, plain HTTP | works | `http::tests::plain_http_needs_no_certificates_and_tls_says_what_is_missing` |
//! | 22 | a SOCKS proxy | refused by name where it would be used | `http::proxies`, `http::conformance` |
//! | 23 to 26 | `{% generation %}`, `tojson`, CRLF, `%`, string tests | as transformers renders it | `text::jinja::tests` (300 templates), `.ci/peers transformers` |
//! | 27 | stop ids in `config.json` only | stops there | `text::tests::every_configured_stop_id_counts_once` |
//! | 28, 29 | old and new spellings of a configuration | the same network | `pretrained::config`, `screens::meaning`, [`a_folder_is_read_as_transformers_5_saved_it`], `.ci/peers transformers` |
//! | 30 | `AppleDouble`, desktops' and notebooks' files | ignored in a copy | [`what_a_system_leaves_beside_a_model_changes_nothing`] |
//! | 31 | a stray file beside an index, an adapter beside a model | refused, both files named | [`weights_that_are_told_twice_are_refused_by_name`] |
//! | 32 | a tied head stored as well | loads if equal, else refused | `burn::tests::the_layout_of_the_files_does_not_matter`, [`weights_that_are_told_twice_are_refused_by_name`] |
//! | 33 | a snapshot in a hub's cache: links into `blobs/` | loads, is digested and screened | [`a_snapshot_in_a_hubs_cache_is_a_model`] |
//! | 34 | disks that do not sync, lock or append | go on where safe, else refused without a dead end | [`disks`](crate::disks) |
//! | 37 | parquet of many writers | the same texts | `tasks::tests` |
//! | 38 | LZ4 and Brotli; a message's member with a `role` | unsupported by name; read | `tasks::tests::what_pyarrow_compresses_is_read_or_called_unsupported_before_the_duel` |
//! | 39 | a terminal of 0 columns | no panic | [`a_terminal_of_no_size_is_no_reason_to_panic`] |
//! | 40 | broken pipes | quiet | `generate::a_reader_that_goes_away_ends_it_quietly` |
//! | 41 | a byte order mark before JSON Lines | read | [`requests_may_begin_with_a_byte_order_mark`] |
//! | 42 | a judge's JSON with a raw line feed, other quotes, comments | unreadable on purpose: asked again with another nonce | `albedo-judges/corpus/answers.jsonl`, `chat::parse::tests` |
//! | 43 | braces in prose, several objects | the last with the nonce | `chat::parse::tests` |
//! | 44 | the verdict in the reasoning only | unreadable by design | `openai::peers` (`reasoning-…`): reasoning is kept apart |
//! | 46 | empty usage, JSON then `[DONE]`, gzip unasked for, one line feed between events | read, or refused by name | `openai::peers` (`usage-each`, `json-then-done`, `gzip`, `single-newline`) |
//! | 46 | a king's folder whose name is not UTF-8 | the operator's, with what to do | [`a_folder_whose_name_is_no_text_is_the_operators_to_rename`] |
//!
//! 45 is a list of own checks that passed; their tests are those of the features.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{albedo, command, demo, error, stdout};

fn model(side: &str) -> PathBuf {
    demo().join("models").join(side)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The model of `side` in `folder`, which is made.
fn copied(side: &str, folder: &Path) {
    fs::create_dir_all(folder).expect("makes");
    for entry in fs::read_dir(model(side)).expect("lists") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), folder.join(entry.file_name())).expect("copies");
    }
}

/// A copy of the model of `side` that can be changed.
fn copy(side: &str) -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().join("model");
    copied(side, &folder);
    (place, folder)
}

fn generated(model: &Path) -> Output {
    albedo(["generate", text(model), "--prompt", "Fix it.", "--max-new-tokens", "16", "--output", "-"])
}

/// The reply to one prompt.
fn reply(model: &Path) -> Value {
    let mut reply: Value = serde_json::from_str(&stdout(&generated(model))).expect("JSON");
    let reply = reply.as_object_mut().expect("an object");
    json!([reply.remove("text"), reply.remove("finish")])
}

/// Checks that `challenger` is admitted beside `king`.
fn admitted(challenger: &Path, king: &Path) {
    stdout(&albedo(["screen", text(challenger), "--king", text(king)]));
}

fn change(folder: &Path, name: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let path = folder.join(name);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
    change(value.as_object_mut().expect("an object"));
    fs::write(path, value.to_string()).expect("writes");
}

/// The configuration as transformers 5.24.0 spells it.
fn as_saved_by_5(folder: &Path) {
    change(folder, "config.json", |config| {
        for key in ["rope_theta", "rope_scaling", "torch_dtype"] {
            config.remove(key).expect("was there");
        }
        config.insert("dtype".into(), json!("bfloat16"));
        config.insert("layer_types".into(), json!(vec!["full_attention"; 6]));
        config.insert("rope_parameters".into(), json!({ "rope_theta": 1e6, "rope_type": "default" }));
        config.insert("transformers_version".into(), json!("5.24.0"));
    });
}

#[test]
fn a_folder_is_read_as_transformers_5_saved_it() {
    let expected = reply(&model("king"));
    let [(_king, king), (_challenger, challenger)] = ["king", "challenger"].map(copy);
    as_saved_by_5(&king);
    assert_eq!(reply(&king), expected);
    // Either by either.
    admitted(&model("challenger"), &king);
    as_saved_by_5(&challenger);
    admitted(&challenger, &model("king"));
    admitted(&challenger, &king);
    // Another network in the new spelling is another network.
    change(&challenger, "config.json", |config| {
        config["rope_parameters"]["rope_theta"] = json!(1e4);
    });
    let rejected = albedo(["screen", text(&challenger), "--king", text(&king)]);
    assert_eq!(rejected.status.code(), Some(1), "{}", error(&rejected));
    // A kind of positions that is not supported, by its old key, is refused and not ignored.
    change(&king, "config.json", |config| {
        config["rope_parameters"] = json!({ "rope_theta": 1e6, "type": "yarn", "factor": 4.0 });
    });
    let refused = generated(&king);
    assert!(error(&refused).contains("yarn"), "{}", error(&refused));
}

#[test]
fn what_a_system_leaves_beside_a_model_changes_nothing() {
    let (_place, challenger) = copy("challenger");
    let (_king, king) = copy("king");
    // AppleDouble: a header of macOS, and no weights.
    let double = [&[0, 5, 0x16, 7, 0, 2, 0, 0], &b"Mac OS X        "[..], &[0; 4072]].concat();
    for folder in [&challenger, &king] {
        for (name, bytes) in [
            ("._model.safetensors", &double[..]),
            ("._config.json", &double),
            (".DS_Store", b"\0\0\0\x01Bud1"),
            (".ipynb_checkpoints/config-checkpoint.json", b"{}"),
            ("__pycache__/modeling.cpython-311.pyc", b"\0"),
            (".git/config", b"[core]"),
            ("Thumbs.db", b"\0"),
        ] {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
            fs::write(path, bytes).expect("writes");
        }
    }
    assert_eq!(reply(&king), reply(&model("king")));
    admitted(&challenger, &king);
    admitted(&challenger, &model("king"));
}

#[cfg(unix)]
#[test]
fn a_snapshot_in_a_hubs_cache_is_a_model() {
    let cache = tempfile::tempdir().expect("a folder");
    let repository = cache.path().join("models--owner--challenger");
    let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots/0123abcd"));
    copied("challenger", &blobs);
    fs::create_dir_all(&snapshot).expect("makes");
    for (number, entry) in fs::read_dir(model("challenger")).expect("lists").enumerate() {
        let name = entry.expect("an entry").file_name();
        // Blobs are named by digests.
        let blob = format!("{number:064x}");
        fs::rename(blobs.join(&name), blobs.join(&blob)).expect("renames");
        std::os::unix::fs::symlink(format!("../../blobs/{blob}"), snapshot.join(name)).expect("links");
    }
    assert_eq!(reply(&snapshot), reply(&model("challenger")));
    admitted(&snapshot, &model("king"));
    let [linked, plain] = [&snapshot, &model("challenger")]
        .map(|folder| stdout(&albedo(["fingerprint", text(folder), "--json"])));
    assert_eq!(linked, plain);
}

#[test]
fn weights_that_are_told_twice_are_refused_by_name() {
    let (_place, folder) = copy("king");
    let weights = folder.join("model.safetensors");
    fs::copy(&weights, folder.join("consolidated.safetensors")).expect("copies");
    let refused = generated(&folder);
    assert!(!refused.status.success());
    let line = error(&refused);
    assert!(line.contains("consolidated.safetensors") && line.contains("model.safetensors"), "{line}");
    fs::remove_file(folder.join("consolidated.safetensors")).expect("was there");

    // An adapter is no part of a model, even one without a tensor.
    let header = b"{}      ";
    fs::write(folder.join("adapter_model.safetensors"), [&8_u64.to_le_bytes()[..], header].concat())
        .expect("writes");
    let refused = generated(&folder);
    let line = error(&refused);
    assert!(line.contains("adapter_model.safetensors") && line.contains("remove the file"), "{line}");
    fs::remove_file(folder.join("adapter_model.safetensors")).expect("was there");

    // The head that the configuration ties to the embedding, with other values.
    let bytes = fs::read(&weights).expect("reads");
    let length = u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
    let (header, data) = bytes[8..].split_at(length);
    let mut header: Value = serde_json::from_slice(header).expect("JSON");
    let mut head = header["model.embed_tokens.weight"].clone();
    let at = |index: usize| head["data_offsets"][index].as_u64().expect("an offset") as usize;
    let mut values = data[at(0)..at(1)].to_vec();
    for equal in [true, false] {
        if !equal {
            *values.last_mut().expect("values") ^= 1;
        }
        head["data_offsets"] = json!([data.len(), data.len() + values.len()]);
        header["lm_head.weight"] = head.clone();
        let mut header = header.to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let length = (header.len() as u64).to_le_bytes();
        fs::write(&weights, [&length[..], &header, data, &values].concat()).expect("writes");
        let output = generated(&folder);
        assert_eq!(output.status.success(), equal, "{}", error(&output));
        assert!(equal || error(&output).contains("`lm_head.weight` differs"), "{}", error(&output));
    }
}

#[test]
fn requests_may_begin_with_a_byte_order_mark() {
    let place = tempfile::tempdir().expect("a folder");
    let input = place.path().join("requests.jsonl");
    let request = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], \"max_new_tokens\": 2}";
    for (bytes, answered) in [
        (format!("\u{feff}{request}\r\n{request}\r\n"), 2),
        (format!("\u{feff}\u{feff}{request}\n{request}\n"), 1),
        (format!("{request}\n\u{feff}{request}\n"), 1),
    ] {
        fs::write(&input, bytes).expect("writes");
        let king = model("king");
        let output = albedo(["generate", text(&king), "--input", text(&input), "--output", "-"]);
        let lines = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(lines.matches("\"finish\"").count(), answered, "{lines}");
    }
}

/// A program of Python's that runs `albedo plugins` and `albedo generate` in terminals.
const TERMINAL: &str = r#"
import fcntl, os, pty, struct, sys, termios

for columns, rows in ((0, 0), (1, 1), (3, 24), (20, 5)):
    child, terminal = pty.fork()
    if child == 0:
        os.read(0, 1)
        os.execvp(sys.argv[1], sys.argv[1:])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.write(terminal, b"\n")
    written = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        written += piece
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0 or b"panicked" in written:
        sys.exit(f"{columns} columns, {rows} rows: status {status}: {written[-500:]!r}")
"#;

#[cfg(unix)]
#[test]
fn a_terminal_of_no_size_is_no_reason_to_panic() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let king = model("king");
    let generate = ["generate", text(&king), "--prompt", "Fix it.", "--max-new-tokens", "8"];
    for arguments in [&["plugins"][..], &generate, &["judge", "--help"]] {
        let program = command(arguments.iter().copied());
        let mut python = Command::new("python3");
        python.args(["-c", TERMINAL]).arg(program.get_program()).args(arguments);
        let ended = python.current_dir(crate::run::root()).output().expect("python starts");
        assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_whose_name_is_no_text_is_the_operators_to_rename() {
    use std::os::unix::ffi::OsStrExt;
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().join(std::ffi::OsStr::from_bytes(b"king\xff"));
    copied("king", &folder);
    let out = place.path().join("duel");
    let mut duel = command(["duel", "--demo", "--out", text(&out), "--king"]);
    let refused = duel.arg(&folder).output().expect("albedo starts");
    let line = error(&refused);
    assert!(matches!(refused.status.code(), Some(2 | 78)), "{:?}: {line}", refused.status);
    assert!(line.contains("UTF-8"), "{line}");
    assert!(!out.join("journal.jsonl").exists(), "nothing was begun");
}

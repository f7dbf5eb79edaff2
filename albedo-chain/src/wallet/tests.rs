use std::fs;

use albedo_core::Scheme;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Substrate's development phrase, known to everybody.
const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

const ADDRESS: &str = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV";

fn development(scheme: Scheme) -> Keypair {
    Keypair::from_phrase(&Phrase::new(PHRASE), scheme).expect("a key")
}

/// A file that only its owner may read.
fn file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("written");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    }
    path
}

#[test]
fn the_development_phrase_has_its_well_known_keys() {
    assert_eq!(development(Scheme::Sr25519).address(), ADDRESS);
    // sp-core's ed25519 key of the same phrase.
    assert_eq!(development(Scheme::Ed25519).address(), "5DFJF7tY4bpbpcKPJcBTQaKuCDEPCpiz8TRjpmLeTtweqmXL");
}

#[test]
fn signatures_are_those_of_the_key() {
    let message = b"one message";
    for scheme in [Scheme::Sr25519, Scheme::Ed25519] {
        let pair = development(scheme);
        let signature = pair.sign(message).expect("signed").0;
        let valid = |message: &[u8]| match scheme {
            Scheme::Sr25519 => {
                let key = schnorrkel::PublicKey::from_bytes(&pair.public_key()).expect("a key");
                let signature = schnorrkel::Signature::from_bytes(&signature).expect("a signature");
                key.verify_simple(b"substrate", message, &signature).is_ok()
            }
            Scheme::Ed25519 => {
                let key = ed25519_dalek::VerifyingKey::from_bytes(&pair.public_key()).expect("a key");
                key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature)).is_ok()
            }
        };
        assert!(valid(message) && !valid(b"another"), "{scheme:?}");
    }
}

#[test]
fn new_keys_differ_and_come_back_from_their_phrases() {
    let (one, other) = (Keypair::generate(Scheme::Sr25519), Keypair::generate(Scheme::Sr25519));
    let (one, other) = (one.expect("made"), other.expect("made"));
    assert_ne!(one.address(), other.address());
    let phrase = one.phrase().expect("it has one");
    assert_eq!(phrase.reveal().split(' ').count(), 12);
    let again = Keypair::from_phrase(phrase, Scheme::Sr25519).expect("the same");
    assert_eq!(again.address(), one.address());
    let upper = Phrase::new(format!("  {} ", PHRASE.to_uppercase().replace(' ', "\n")));
    assert_eq!(Keypair::from_phrase(&upper, Scheme::Sr25519).expect("read").address(), ADDRESS);
}

#[test]
fn a_wrong_phrase_is_refused_and_not_repeated() {
    for (words, message) in [
        ("bottom drive", "2 words"),
        (&PHRASE.replace("lake", "lakes"), "word 4 is not"),
        (&PHRASE.replace("lake curtain", "curtain lake"), "checksum"),
    ] {
        let error = Keypair::from_phrase(&Phrase::new(words), Scheme::Sr25519).expect_err(message);
        assert!(error.to_string().contains(message), "{error}");
        assert!(!format!("{error:?}").contains("bottom"), "{error:?}");
    }
}

#[test]
fn secrets_are_not_printed() {
    let pair = development(Scheme::Sr25519);
    let shown = format!("{pair:?} {:?} {:?}", pair.phrase(), Password::new("s3cret"));
    for secret in ["bottom", "s3cret", "fac7959d"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains(ADDRESS), "{shown}");
}

#[test]
fn a_wallet_is_written_once_and_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let wallet = Wallet::new(folder.path(), "validator").expect("a name");
    assert_eq!(wallet.hotkeys().expect("listed"), Vec::<String>::new());
    let pair = development(Scheme::Sr25519);
    wallet.create_coldkey(&pair, None).expect("written");
    for scheme in [Scheme::Sr25519, Scheme::Ed25519] {
        let name = format!("{scheme:?}");
        let hot = development(scheme);
        wallet.create_hotkey(&name, &hot, None).expect("written");
        let path = wallet.hotkey(&name).expect("a name");
        let read_again = read(&path, None).expect("read");
        assert_eq!((read_again.address(), read_again.scheme()), (hot.address(), scheme));
        let public = read_public(&wallet.hotkey_public(&name).expect("a name")).expect("read");
        assert_eq!((public.address(), public.scheme), (hot.address(), scheme));
    }
    assert_eq!(wallet.hotkeys().expect("listed"), ["Ed25519", "Sr25519"]);
    assert_eq!(read_public(&wallet.coldkey_public()).expect("read").address(), ADDRESS);
    let error = wallet.create_coldkey(&pair, None).expect_err("there is one");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let public = read(&wallet.coldkey_public(), None).expect_err("no secret");
    assert!(public.to_string().contains("public keyfile"), "{public}");
}

#[test]
fn a_public_file_of_another_key_is_seen_before_a_secret_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let wallet = Wallet::new(folder.path(), "miner").expect("a name");
    let (pair, other) = (development(Scheme::Sr25519), Keypair::generate(Scheme::Sr25519).expect("made"));
    wallet.create_hotkey("other", &other, None).expect("written");
    let (secret, public) =
        (wallet.hotkey("hot").expect("a name"), wallet.hotkey_public("hot").expect("a name"));
    for (bytes, found) in [
        (fs::read(wallet.hotkey_public("other").expect("a name")).expect("read"), other.address()),
        (b"not JSON".to_vec(), "it is no keyfile".into()),
    ] {
        fs::write(&public, &bytes).expect("written");
        let error = wallet.create_hotkey("hot", &pair, None).expect_err("of another key");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator), "{error}");
        assert!(error.to_string().contains(&found), "{error}");
        assert!(!secret.exists(), "no secret whose phrase was never shown");
        assert_eq!(fs::read(&public).expect("read"), bytes);
    }
    // That of the same key may stay: a lost or damaged secret is made again.
    fs::remove_file(&public).expect("removed");
    for _ in 0..2 {
        wallet.create_hotkey("hot", &pair, None).expect("written");
        fs::remove_file(&secret).expect("removed");
    }
    assert_eq!(read_public(&public).expect("read").address(), ADDRESS);
}

#[cfg(unix)]
#[test]
fn a_secret_does_not_stay_without_its_public_half() {
    let folder = tempfile::tempdir().expect("a folder");
    let wallet = Wallet::new(folder.path(), "miner").expect("a name");
    fs::create_dir(wallet.folder()).expect("made");
    // Nothing is behind the link, and a new file does not go through it.
    std::os::unix::fs::symlink("nowhere", wallet.coldkey_public()).expect("linked");
    let pair = development(Scheme::Sr25519);
    wallet.create_coldkey(&pair, None).expect_err("no public half");
    assert!(!wallet.coldkey().exists());
    fs::remove_file(wallet.coldkey_public()).expect("removed");
    wallet.create_coldkey(&pair, None).expect("written");
}

#[test]
fn a_hotkey_without_a_public_file_is_known_by_its_plain_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let wallet = Wallet::new(folder.path(), "miner").expect("a name");
    wallet.create_hotkey("hot", &development(Scheme::Sr25519), None).expect("written");
    assert_eq!(wallet.read_hotkey_public("hot").expect("read").address(), ADDRESS);
    fs::remove_file(wallet.hotkey_public("hot").expect("a name")).expect("removed");
    assert_eq!(wallet.read_hotkey_public("hot").expect("read").address(), ADDRESS);
    assert_eq!(wallet.read_hotkey_public("none").expect_err("no key").kind(), ErrorKind::NotFound);
}

#[test]
fn an_encrypted_hotkey_without_a_public_file_is_not_called_damaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let wallet = Wallet::new(folder.path(), "miner").expect("a name");
    wallet.create_hotkey("hot", &development(Scheme::Sr25519), None).expect("written");
    let (secret, public) =
        (wallet.hotkey("hot").expect("a name"), wallet.hotkey_public("hot").expect("a name"));
    let public_bytes = fs::read(&public).expect("read");
    fs::remove_file(&public).expect("removed");
    for start in ["$NACL", "$ANSIBLE_VAULT;1.1", "gAAAAABk"] {
        fs::write(&secret, format!("{start}{}", "x".repeat(100))).expect("written");
        let error = wallet.read_hotkey_public("hot").expect_err("its address is not known");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::NotFound, Fault::Operator), "{error}");
        for part in ["the secret one is encrypted", "restore `hotpub.txt`", "regenerate --hotkey hot`"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
    // What is neither plain nor encrypted is damaged.
    fs::write(&secret, "").expect("written");
    let error = wallet.read_hotkey_public("hot").expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::DataInvalid, "{error}");
    fs::write(&public, public_bytes).expect("written");
    assert_eq!(wallet.read_hotkey_public("hot").expect("read").address(), ADDRESS);
}

#[test]
fn names_stay_in_their_folder() {
    let root = Path::new("wallets");
    for name in ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a\0"] {
        assert!(Wallet::new(root, name).is_err(), "{name:?}");
        assert!(Wallet::new(root, "a").expect("a name").hotkey(name).is_err(), "{name:?}");
    }
}

/// One test opens encrypted files, since each takes 512 MiB.
#[test]
fn an_encrypted_keyfile_opens_with_its_password_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("coldkey");
    write(&path, &development(Scheme::Sr25519), Some(&Password::new("s3cret pass\n"))).expect("written");
    assert!(is_encrypted(&path).expect("read"));
    let bytes = fs::read(&path).expect("read");
    assert!(!bytes.windows(6).any(|window| window == b"bottom"));
    let pair = read(&path, Some(&Password::new("s3cret pass"))).expect("opens");
    assert_eq!(pair.address(), ADDRESS);
    for (password, message) in [(None, "it is encrypted"), (Some("wrong"), "the password is wrong")] {
        let error = read(&path, password.map(Password::new).as_ref()).expect_err(message);
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Operator));
        assert!(error.to_string().contains(message), "{error}");
    }
    let short = file(folder.path(), "short", &bytes[..40]);
    let error = read(&short, Some(&Password::new("x"))).expect_err("cut");
    assert!(error.to_string().contains("cut short"), "{error}");
}

/// Files of the public Python packages.
#[test]
fn files_of_bittensors_own_programs_are_read() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/chain/wallets");
    if !shared.exists() {
        println!("skipped: the wallets of the Python packages are not beside the checkout");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |name: &str| {
        let bytes = fs::read(shared.join(name)).expect("a fixture");
        file(folder.path(), &name.replace('/', "-"), &bytes)
    };
    let hotkey = read(&copy("alb/hotkeys/hk1"), None).expect("opens");
    assert_eq!((hotkey.address(), hotkey.phrase().map(Phrase::reveal)), (ADDRESS.into(), Some(PHRASE)));
    assert_eq!(read_public(&shared.join("alb/coldkeypub.txt")).expect("read").address(), ADDRESS);
    for (name, password) in [("alb/coldkey", "s3cret pass"), ("coldkey-made-by-bittensor-11.3.0", "pw")] {
        let pair = read(&copy(name), Some(&Password::new(password))).expect("opens");
        assert_eq!(pair.address(), ADDRESS, "{name}");
    }
}

#[test]
fn what_is_no_keyfile_is_refused_without_repeating_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = development(Scheme::Sr25519);
    let path = folder.path().join("whole");
    write(&path, &pair, None).expect("written");
    let whole = fs::read_to_string(&path).expect("read");
    let json: Value = serde_json::from_str(&whole).expect("JSON");
    let changed = |key: &str, value: Value| {
        let mut json = json.clone();
        json[key] = value;
        json.to_string()
    };
    let mut only_private = json.clone();
    for key in ["secretSeed", "secretPhrase", "publicKey"] {
        only_private.as_object_mut().expect("an object").remove(key);
    }
    let path = file(folder.path(), "private", only_private.to_string().as_bytes());
    assert_eq!(read(&path, None).expect("the private key alone").address(), ADDRESS);
    for (text, message) in [
        (String::new(), "no keyfile"),
        (whole[..60].to_owned(), "no keyfile"),
        ("{}".into(), "no secret"),
        (changed("secretSeed", json!("0x12")), "`secretSeed` is not 32 bytes"),
        (changed("secretSeed", json!("0x".to_owned() + &"g".repeat(64))), "`secretSeed` is not 32 bytes"),
        (changed("publicKey", json!("0x".to_owned() + &"00".repeat(32))), "does not belong"),
        (changed("cryptoType", json!(7)), "`cryptoType` 7"),
        (changed("secretSeed", json!(7)), "no keyfile"),
        ("$ANSIBLE_VAULT;1.1".into(), "ansible-vault"),
        ("gAAAAABk".into(), "Fernet"),
        ("x".repeat(100_000), "too large"),
    ] {
        let error = read(&file(folder.path(), "wrong", text.as_bytes()), None).expect_err(message);
        assert!(error.to_string().contains(message), "{error}");
        assert!(!format!("{error:?}").contains("fac7959d"), "{error:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_secret_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    write(&path, &development(Scheme::Sr25519), None).expect("written");
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    for mode in [0o640, 0o604, 0o644] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        let error = read(&path, None).expect_err("open to others");
        assert_eq!(error.fault(), Fault::Operator);
        assert!(error.to_string().contains("chmod 600"), "{error}");
        let error = Password::read(&path).expect_err("open to others");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let folder = tempfile::tempdir().expect("a folder");
        let _ = read(&file(folder.path(), "any", &bytes), None);
    }

    #[test]
    fn no_changed_keyfile_makes_the_reader_panic(at in 0_usize..400, byte: u8, cut in 0_usize..600) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("whole");
        write(&path, &development(Scheme::Sr25519), None).expect("written");
        let mut bytes = fs::read(&path).expect("read");
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        bytes.truncate(cut);
        let _ = read(&file(folder.path(), "changed", &bytes), None);
    }
}

//! `albedo record sign`, and signatures that other commands read.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json};
use crate::record::{self, AnyRecord, SIGNATURES};
use crate::signer::KeyFile;
use crate::{Digest, Error, ErrorKind, PublicKey, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The record's folder.
    folder: PathBuf,
    /// File of an ed25519 key in PKCS #8, PEM, of mode 0600, as
    /// `openssl genpkey -algorithm ed25519` makes one.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit> {
    let Arguments { folder, key, json } = arguments;
    let signer = KeyFile::open(key)?;
    let signature = record::sign(folder, &signer)?;
    let digest = AnyRecord::open(folder)?.digest();
    if *json {
        print_json(&json!({ "digest": digest, "key": signature.key, "signature": signature.signature }))?;
    } else {
        let path = folder.join(SIGNATURES);
        print(&format!("signed {digest}\n    by {}, in {}\n", signature.key, path.display()))?;
    }
    Ok(Exit::Done)
}

/// The keys that have signed `record`, among which those `required` have to be.
pub(super) fn signers(folder: &Path, record: &AnyRecord, required: &[PublicKey]) -> Result<Vec<PublicKey>> {
    let keys = record::signers(folder, record)?;
    match required.iter().find(|key| !keys.contains(key)) {
        None => Ok(keys),
        Some(key) => {
            let message = "a key that has to have signed the record has not";
            Err(Error::new(ErrorKind::DataInvalid, "verify the record", message)
                .with("key", key)
                .with("record", folder.display())
                .with_hint("fetch `record.signatures` from the publisher of the record"))
        }
    }
}

/// Who has signed a record; `None` if nobody has.
pub(super) fn describe(digest: &Digest, keys: &[PublicKey]) -> Option<String> {
    let keys: Vec<_> = keys.iter().map(PublicKey::to_string).collect();
    (!keys.is_empty()).then(|| format!("signed {digest}\n    by {}\n", keys.join(", ")))
}

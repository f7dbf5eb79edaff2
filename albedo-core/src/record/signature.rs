//! Signatures of a record, in a file beside it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::AnyRecord;
use crate::digest::{Digest, canonical_json};
use crate::durable::replace;
use crate::error::{Error, ErrorKind, Result};
use crate::files::read_bounded;
use crate::signer::{PublicKey, Signature, Signer};

/// The file of a record's signatures.
pub const SIGNATURES: &str = "record.signatures";

/// Most bytes of it.
const MAX_BYTES: u64 = 1 << 20;

/// A signature over a record's digest and the digest of its plan: one line of
/// [`SIGNATURES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordSignature {
    /// Who signed.
    pub key: PublicKey,
    /// The signature.
    pub signature: Signature,
}

impl RecordSignature {
    /// Signs `record`.
    ///
    /// # Errors
    /// The signer's.
    pub fn new(record: &AnyRecord, signer: &dyn Signer) -> Result<Self> {
        Ok(Self { key: signer.key(), signature: signer.sign(&message(record)?)? })
    }

    /// Verifies that it is the key's signature over `record`.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if it is not.
    pub fn verify(&self, record: &AnyRecord) -> Result<()> {
        self.key.verify(&message(record)?, &self.signature)
    }
}

/// Signs the record in `folder` and adds the signature to those beside it, unless
/// the key has signed it before.
///
/// # Errors
/// As [`AnyRecord::open`] and [`signers`]; what the signer or the disk meets.
pub fn sign(folder: &Path, signer: &dyn Signer) -> Result<RecordSignature> {
    let record = AnyRecord::open(folder)?;
    let mut signatures = read(folder)?;
    check(folder, &signatures, &record)?;
    if let Some(signed) = signatures.iter().find(|signature| signature.key == signer.key()) {
        return Ok(signed.clone());
    }
    let signature = RecordSignature::new(&record, signer)?;
    signatures.push(signature.clone());
    let mut lines = Vec::new();
    for signature in &signatures {
        lines.extend(canonical_json(signature)?);
        lines.push(b'\n');
    }
    let (path, beside) = (folder.join(SIGNATURES), folder.join(format!("{SIGNATURES}.partial")));
    replace(&path, &beside, &lines).map_err(|error| Error::io("sign the record", &path, error))?;
    Ok(signature)
}

/// The keys that have signed `record`, which is in `folder`; every signature
/// beside it is verified.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] for a signature that is not its key's over this
/// record, or a file of them that is malformed.
pub fn signers(folder: &Path, record: &AnyRecord) -> Result<Vec<PublicKey>> {
    let signatures = read(folder)?;
    check(folder, &signatures, record)?;
    Ok(signatures.into_iter().map(|signature| signature.key).collect())
}

/// What is signed: what kind of thing it is, the record's digest, and its plan's; a
/// record without a plan has a hyphen instead.
fn message(record: &AnyRecord) -> Result<Vec<u8>> {
    let plan: Option<Digest> = match record {
        AnyRecord::Duel(record) => Some(record.plan().digest()?),
        AnyRecord::Forfeit(_) => None,
    };
    let plan = plan.map_or("-".to_owned(), |plan| plan.to_string());
    Ok(format!("albedo record signature 1\n{}\n{plan}\n", record.digest()).into_bytes())
}

fn check(folder: &Path, signatures: &[RecordSignature], record: &AnyRecord) -> Result<()> {
    signatures.iter().try_for_each(|signature| {
        signature.verify(record).map_err(|error| error.with("path", folder.join(SIGNATURES).display()))
    })
}

fn read(folder: &Path) -> Result<Vec<RecordSignature>> {
    const OPERATION: &str = "read the record's signatures";
    let path = folder.join(SIGNATURES);
    let invalid =
        |message: String| Error::new(ErrorKind::DataInvalid, OPERATION, message).with("path", path.display());
    let bytes = match read_bounded(OPERATION, &path, MAX_BYTES) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes?,
    };
    let lines = bytes.strip_suffix(b"\n").ok_or_else(|| invalid("its last line has no end".into()))?;
    let read = |(number, line): (usize, &[u8])| {
        let line_invalid = |message: String| invalid(message).with("line", number + 1);
        let signature: RecordSignature =
            serde_json::from_slice(line).map_err(|error| line_invalid(error.to_string()))?;
        if canonical_json(&signature)? != line {
            return Err(line_invalid("it is not in canonical form".into()));
        }
        Ok(signature)
    };
    lines.split(|&byte| byte == b'\n').enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::context::CallContext;
    use crate::record::{FileStore, Record};
    use crate::signer::KeyFile;

    #[test]
    fn signatures_are_those_of_this_record_by_each_key_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        runtime.block_on(async {
            let (cx, store) = (CallContext::new(), FileStore::create(folder).expect("a store"));
            let duel = crate::testing::small_duel().plan(&store, &cx).await.expect("plans");
            duel.run(&store, &cx).await.expect("runs");
        });
        let record = AnyRecord::open(folder).expect("a record");
        assert_eq!(signers(folder, &record).expect("none yet"), []);
        let (one, two) = (KeyFile::from_seed(&[1; 32]), KeyFile::from_seed(&[2; 32]));
        let first = sign(folder, &one).expect("signs");
        sign(folder, &two).expect("signs");
        assert_eq!(sign(folder, &one).expect("has signed"), first);
        assert_eq!(signers(folder, &record).expect("verifies"), [one.key(), two.key()]);

        let path = folder.join(SIGNATURES);
        let text = fs::read_to_string(&path).expect("reads");
        assert_eq!(text.lines().count(), 2);
        // What is signed is what the documentation says.
        let plan = Record::open(folder).expect("a record").plan().digest().expect("a digest");
        let message = format!("albedo record signature 1\n{}\n{plan}\n", record.digest());
        one.key().verify(message.as_bytes(), &first.signature).expect("verifies");
        for other in [
            text.replace(&one.key().to_string(), &KeyFile::from_seed(&[3; 32]).key().to_string()),
            text.replace("\":\"", "\": \""),
            text.trim_end().to_owned(),
            "{}\n".to_owned(),
        ] {
            fs::write(&path, other).expect("writes");
            assert_eq!(signers(folder, &record).map_err(|error| error.kind()), Err(ErrorKind::DataInvalid));
            assert!(sign(folder, &one).is_err(), "nothing is added to what is wrong");
        }
    }
}

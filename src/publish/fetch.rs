//! Fetching a published record, every byte compared with its digest.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::manifest::{EXPORTS, MAX_MANIFEST, ManifestFile, RecordManifest};
use crate::backends::http::Stall;
use crate::digest::Hasher;
use crate::http::{HttpRequest, HttpResponse, Redirects, StatusCode};
use crate::record::{self, AnyRecord};
use crate::{
    CallContext, Clock, Digest, Error, ErrorKind, Fault, HttpTransport, PublicKey, Result, SystemClock,
};

const OPERATION: &str = "fetch the record";

/// Most bytes of each file, as a reader of records has them.
const MOST: [(&str, u64); 4] = [
    ("record.jsonl", 512 << 20),
    ("record.blobs", 1 << 30),
    ("record.digest", 1 << 10),
    ("record.signatures", 1 << 20),
];

/// Most bytes of a file of the data sets: what a reader of records takes, four times.
const MOST_EXPORT: u64 = 4 << 30;

/// A server that brings fewer than [`LEAST`] bytes in this time is given up.
const STALL: Duration = Duration::from_mins(1);

/// 4 KiB/s, as of a hub. Source: chosen by albedo.
const LEAST: u64 = 256 << 10;

/// What is fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchSettings {
    /// The digest that the record must have; that in the address is enough.
    pub expect: Option<Digest>,
    /// Whether the data sets beside it come along, into `exports` in its folder.
    pub exports: bool,
}

/// A record that was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fetched {
    /// Its digest.
    pub record: Digest,
    /// Where it is now.
    pub folder: PathBuf,
    /// Bytes of its files, data sets among them.
    pub bytes: u64,
    /// Files of data sets that came along.
    pub exports: u64,
    /// Who has signed it; every signature was verified.
    pub signers: Vec<PublicKey>,
}

/// Fetches the record at `url` into `folder`, which must not exist. `url` is the address
/// of the record's folder (`…/records/DIGEST`) or of its manifest. What is fetched has the
/// digest in the address, and `expect` if that is given: bytes prove themselves, no matter who
/// serves them. Whether what the record says is true is [`record::verify`]'s question.
///
/// The manifest has the digests of the data sets, and its publisher wrote it: no digest of the
/// record covers them. To trust a data set, make it of the record again
/// ([`Export`](crate::export::Export)).
///
/// Nothing stands under `folder` before all of it is there and has its digest.
///
/// # Errors
/// [`ErrorKind::DigestMismatch`] for other bytes, after no more than the manifest's size of
/// them; [`ErrorKind::DataInvalid`] for a manifest that is malformed or names files larger
/// than a record may have; [`ErrorKind::NotFound`] if nothing is there, or no data set that is
/// asked for; [`ErrorKind::Timeout`] for a server that makes no progress; the transport's.
pub async fn fetch(
    url: &str,
    folder: &Path,
    settings: FetchSettings,
    transport: &dyn HttpTransport,
    cx: &CallContext,
) -> Result<Fetched> {
    fetch_from(&Site::new(transport, SystemClock::default()), url, folder, settings, cx).await
}

/// [`fetch`] from `site`.
pub(super) async fn fetch_from(
    site: &Site<'_>,
    url: &str,
    folder: &Path,
    settings: FetchSettings,
    cx: &CallContext,
) -> Result<Fetched> {
    let base = url.trim_end_matches('/').trim_end_matches("/manifest.json");
    let named: Option<Digest> = base.rsplit('/').next().and_then(|part| part.parse().ok());
    let operator = |kind, message: &str| Error::new(kind, OPERATION, message).with_fault(Fault::Operator);
    let Some(wanted) = settings.expect.or(named) else {
        return Err(operator(ErrorKind::ConfigInvalid, "the address does not name the record's digest")
            .with_hint("give the address of its folder, `…/records/DIGEST`, or `--expect DIGEST`"));
    };
    if folder.exists() {
        return Err(operator(ErrorKind::Conflict, "the folder exists already")
            .with("path", folder.display())
            .with_hint("name another folder with `--out`"));
    }
    let Some(name) = folder.file_name() else {
        return Err(operator(ErrorKind::ConfigInvalid, "the folder has no name of its own")
            .with("path", folder.display())
            .with_hint("name another folder with `--out`"));
    };
    // As its parts are, without a slash at the end.
    let folder = &folder.with_file_name(name);
    let mut beside = name.to_owned();
    beside.push(".partial");
    let beside = folder.with_file_name(beside);
    let mut answer = site.get(OPERATION, format!("{base}/manifest.json"), cx).await?;
    let manifest = RecordManifest::parse(&site.read(OPERATION, &mut answer, MAX_MANIFEST, cx).await?)?;
    if manifest.record != wanted {
        return Err(Error::new(ErrorKind::DigestMismatch, OPERATION, "the manifest is another record's")
            .with("wanted", wanted)
            .with("is", manifest.record));
    }
    if settings.exports && manifest.exports.is_empty() {
        return Err(operator(ErrorKind::NotFound, "no data sets are published beside the record")
            .with("record", wanted)
            .with_hint("fetch it without them: `albedo record export` makes them of it"));
    }
    let exports: &[ManifestFile] = if settings.exports { &manifest.exports } else { &[] };
    let files = || manifest.files.iter().chain(exports);
    let io = |error| Error::io(OPERATION, &beside, error);
    // What an earlier try has left is not known to be whole.
    match fs::remove_dir_all(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => fs::create_dir_all(&beside).map_err(io)?,
    }
    let done = async {
        for file in files() {
            download(site, base, file, &beside, cx).await?;
        }
        let path = beside.clone();
        let read = tokio::task::spawn_blocking(move || -> Result<(Digest, Vec<PublicKey>)> {
            let record = AnyRecord::open(&path)?;
            Ok((record.digest(), record::signers(&path, &record)?))
        });
        read.await.map_err(|error| Error::bug(OPERATION, error.to_string()))?
    }
    .await;
    let moved = done.and_then(|(digest, signers)| {
        if digest != wanted {
            return Err(Error::new(ErrorKind::DigestMismatch, OPERATION, "the files are another record's")
                .with("wanted", wanted)
                .with("is", digest));
        }
        fs::rename(&beside, folder).map_err(|error| Error::io(OPERATION, folder, error))?;
        Ok(signers)
    });
    match moved {
        Ok(signers) => Ok(Fetched {
            record: wanted,
            folder: folder.to_owned(),
            bytes: files().map(|file| file.size).sum(),
            exports: exports.len() as u64,
            signers,
        }),
        Err(error) => {
            // What is left over is of no use to anybody.
            let _ = fs::remove_dir_all(&beside);
            Err(error)
        }
    }
}

/// Most bytes of a document of the public data. Source: albedo; the largest lists 2,000
/// submissions in about 1 MB.
const MOST_DOCUMENT: u64 = 64 << 20;

/// The document `name` of the public data at `place`, a web address or a folder.
///
/// # Errors
/// [`ErrorKind::NotFound`] if nothing is published there; [`ErrorKind::DataInvalid`] for
/// what is no such document; [`ErrorKind::Timeout`] for a server that makes no progress; the
/// transport's.
pub async fn document<T: DeserializeOwned>(
    place: &str,
    name: &str,
    transport: &dyn HttpTransport,
    cx: &CallContext,
) -> Result<T> {
    document_from(&Site::new(transport, SystemClock::default()), place, name, cx).await
}

/// [`document`], from `site` if `place` is a web address.
pub(super) async fn document_from<T: DeserializeOwned>(
    site: &Site<'_>,
    place: &str,
    name: &str,
    cx: &CallContext,
) -> Result<T> {
    const READ: &str = "read the public data";
    let missing = |error: Error| match error.kind() {
        ErrorKind::NotFound => Error::new(ErrorKind::NotFound, READ, "no validator publishes there")
            .with_fault(Fault::Operator)
            .with("place", place)
            .with("document", name)
            .with_hint("name the address or the folder that a validator publishes to")
            .with_source(error),
        _ => error,
    };
    let bytes = if place.starts_with("http://") || place.starts_with("https://") {
        let url = format!("{}/{name}", place.trim_end_matches('/'));
        let mut answer = site.get(READ, url, cx).await.map_err(missing)?;
        site.read(READ, &mut answer, MOST_DOCUMENT, cx).await?
    } else {
        let path = Path::new(place).join(name);
        let io = |error| Error::io(READ, &path, error);
        let mut bytes = Vec::new();
        let opened = File::open(&path).map_err(io).map_err(missing)?;
        opened.take(MOST_DOCUMENT).read_to_end(&mut bytes).map_err(io)?;
        bytes
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        Error::new(ErrorKind::DataInvalid, READ, error.to_string())
            .with_fault(Fault::Infrastructure)
            .with("place", place)
            .with("document", name)
            .with_hint("use the albedo that the validator uses, or a newer one")
    })
}

/// Where public data are, and how long it may make no progress.
#[derive(Debug)]
pub(super) struct Site<'a> {
    transport: &'a dyn HttpTransport,
    stall: Stall,
}

impl<'a> Site<'a> {
    pub(super) fn new(transport: &'a dyn HttpTransport, clock: impl Clock) -> Self {
        Self { transport, stall: Stall::new(Arc::new(clock), STALL, LEAST) }
    }

    /// The answer to a request for `url`, if it is a success.
    async fn get(&self, operation: &'static str, url: String, cx: &CallContext) -> Result<HttpResponse> {
        let request = HttpRequest::get(operation, url).with_redirects(Redirects::SameOrigin);
        let address = request.address().to_owned();
        let sent = self.stall.within(operation, self.transport.send(request, cx), cx).await;
        let answer = sent.map_err(stalled)??;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => {
                Err(Error::new(ErrorKind::NotFound, operation, "there is no such record at the address")
                    .with_fault(Fault::Operator)
                    .with("address", address)
                    .with("status", answer.status().as_u16())
                    .with_hint("check the address: it ends with `/records/DIGEST`"))
            }
            status => {
                Err(Error::new(ErrorKind::Unavailable, operation, format!("the server answers {status}"))
                    .with_fault(Fault::Infrastructure)
                    .with("address", address)
                    .with_hint("try again when the server answers, or name another place"))
            }
        }
    }

    /// The body of `answer`, at most `most` bytes of it.
    async fn read(
        &self,
        operation: &'static str,
        answer: &mut HttpResponse,
        most: u64,
        cx: &CallContext,
    ) -> Result<Vec<u8>> {
        self.stall.body(operation, answer, most as usize, cx).await.map_err(stalled)
    }
}

/// `error`, with what to do about a server that makes no progress.
fn stalled(error: Error) -> Error {
    if error.kind() != ErrorKind::Timeout || error.hint().is_some() {
        return error;
    }
    error.with_hint("try again when the server answers, or name another place")
}

/// Fetches one file, and no byte more than it should have.
async fn download(
    site: &Site<'_>,
    base: &str,
    file: &ManifestFile,
    folder: &Path,
    cx: &CallContext,
) -> Result<()> {
    let ManifestFile { name, at, size, sha256 } = file;
    let known = MOST.iter().find(|(known, _)| known == name).map(|(_, most)| *most);
    let most = known.unwrap_or(if name.starts_with(EXPORTS) { MOST_EXPORT } else { 0 });
    if *size > most {
        return Err(Error::new(
            ErrorKind::DataInvalid,
            OPERATION,
            "the manifest names a file that is too large",
        )
        .with("file", name)
        .with("bytes", size)
        .with("most", most));
    }
    let mut answer = site.get(OPERATION, format!("{base}/{at}"), cx).await?;
    let path = folder.join(name);
    let io = |error| Error::io(OPERATION, &path, error);
    if let Some(inner) = path.parent() {
        fs::create_dir_all(inner).map_err(io)?;
    }
    let mut to = File::create(&path).map_err(io)?;
    let (mut hasher, mut bytes) = (Hasher::default(), 0);
    let mismatch = |message: &str| {
        Error::new(ErrorKind::DigestMismatch, OPERATION, message)
            .with_fault(Fault::Infrastructure)
            .with("file", name)
            .with_hint("fetch it again, or from another place")
    };
    let keep = |piece: &[u8]| {
        bytes += piece.len() as u64;
        if bytes > *size {
            return Err(mismatch("the server sends more bytes than the file has"));
        }
        hasher.update(piece);
        to.write_all(piece).map_err(io)
    };
    site.stall.pieces(OPERATION, &mut answer, cx, keep).await.map_err(stalled)?;
    to.sync_all().map_err(io)?;
    if bytes < *size {
        return Err(mismatch("the server sends fewer bytes than the file has"));
    }
    if hasher.finish() != *sha256 {
        return Err(mismatch("the bytes do not have their digest"));
    }
    Ok(())
}

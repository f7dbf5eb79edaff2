//! The cache's folder. Every change of what is there happens under one lock, which
//! no download holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use albedo_core::files::open_file;
use albedo_core::{CallContext, Digest, Error, ErrorKind, Fault, FileEntry, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{CacheCheck, CacheLimits, CachedModel, Collected, HOLD, Held};

const TIDY: &str = "tidy the cache";

/// The folder and its parts.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
}

/// What has to be downloaded.
pub(super) enum Begun {
    /// Nothing.
    Complete(Held),
    Missing {
        lease: File,
        /// Files that this call downloads, each with its locked partial file.
        claimed: Vec<(FileEntry, File)>,
        /// Files that another process downloads now.
        busy: Vec<FileEntry>,
    },
}

pub(super) enum Claim {
    Present,
    Mine(File),
    Busy,
}

/// The completion marker.
#[derive(Serialize, Deserialize)]
struct Marker {
    name: String,
    files: Vec<FileEntry>,
}

#[derive(Serialize, Deserialize)]
struct Keep {
    name: String,
}

/// A model that may be there: its paths.
struct Place {
    id: Digest,
    models: PathBuf,
}

impl Place {
    fn beside(&self, ending: &str) -> PathBuf {
        self.models.join(format!("{}{ending}", self.id))
    }

    fn folder(&self) -> PathBuf {
        self.beside("")
    }

    fn marker(&self) -> PathBuf {
        self.beside(".json")
    }

    fn lease(&self) -> PathBuf {
        self.beside(".lease")
    }

    fn part(&self) -> PathBuf {
        self.beside(".part")
    }

    /// The marker, if the model is complete: every file is there with its size.
    fn complete(&self) -> Option<Marker> {
        let marker: Marker = read_json(&self.marker()).ok().flatten()?;
        let folder = self.folder();
        let whole = |file: &FileEntry| {
            fs::metadata(folder.join(&file.name))
                .is_ok_and(|about| about.is_file() && about.len() == file.size)
        };
        marker.files.iter().all(whole).then_some(marker)
    }
}

impl Store {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn place(&self, name: &str) -> Place {
        self.place_of(Digest::of(name))
    }

    fn place_of(&self, id: Digest) -> Place {
        Place { id, models: self.root.join("models") }
    }

    fn blob(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs").join(digest.to_string())
    }

    fn partial(&self, digest: Digest) -> PathBuf {
        self.root.join("partial").join(digest.to_string())
    }

    /// The one lock. Held for as long as the file lives.
    fn lock(&self) -> Result<File> {
        for part in ["blobs", "partial", "models", "keep"] {
            let path = self.root.join(part);
            fs::create_dir_all(&path).map_err(io(HOLD, &path))?;
        }
        let path = self.root.join("lock");
        let file = open_lock(&path)?;
        file.lock().map_err(io(HOLD, &path))?;
        Ok(file)
    }

    pub(super) fn limits(&self) -> Result<CacheLimits> {
        Ok(read_json(&self.root.join("limits.json"))?.unwrap_or_default())
    }

    pub(super) fn set_limits(&self, limits: CacheLimits) -> Result<()> {
        let _lock = self.lock()?;
        self.write_json(&self.root.join("limits.json"), &limits)
    }

    pub(super) fn keep(&self, label: &str, name: Option<&str>) -> Result<()> {
        if label.is_empty()
            || !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        {
            return Err(Error::new(ErrorKind::ConfigInvalid, "keep a model", "the label is no plain word")
                .with("label", label.escape_default())
                .with_hint("use letters, digits, `-` and `_`"));
        }
        let _lock = self.lock()?;
        let path = self.root.join("keep").join(format!("{label}.json"));
        match name {
            Some(name) => self.write_json(&path, &Keep { name: name.to_owned() }),
            None => removed(fs::remove_file(&path), &path),
        }
    }

    /// Labels by the model that they keep.
    fn kept(&self) -> Result<BTreeMap<Digest, Vec<String>>> {
        let mut kept: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for path in entries(&self.root.join("keep"))? {
            if let (Some(Keep { name }), Some(label)) = (read_json(&path)?, path.file_stem()) {
                kept.entry(Digest::of(name)).or_default().push(label.to_string_lossy().into_owned());
            }
        }
        Ok(kept)
    }

    pub(super) fn held(&self, name: &str) -> Result<Option<Held>> {
        if !self.root.exists() {
            return Ok(None);
        }
        let _lock = self.lock()?;
        let place = self.place(name);
        let Some(marker) = place.complete() else { return Ok(None) };
        let lease = leased(&place.lease())?;
        Ok(Some(Held { folder: place.folder(), files: marker.files, lease }))
    }

    /// Leases the model, makes room for what is missing of it and reserves that room.
    pub(super) fn begin(&self, name: &str, entries: &[FileEntry]) -> Result<Begun> {
        let _lock = self.lock()?;
        let place = self.place(name);
        let lease = leased(&place.lease())?;
        if let Some(marker) = place.complete() {
            return Ok(Begun::Complete(Held { folder: place.folder(), files: marker.files, lease }));
        }
        fs::create_dir_all(place.part()).map_err(io(HOLD, &place.part()))?;
        let (mut claimed, mut busy, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for entry in entries {
            let Some(digest) = entry.sha256.filter(|&digest| seen.insert(digest)) else { continue };
            match self.claim_locked(&place, entry, digest)? {
                Claim::Present => {}
                Claim::Mine(file) => claimed.push((entry.clone(), file)),
                Claim::Busy => busy.push(entry.clone()),
            }
        }
        if let Err(error) = self.reserve(&claimed) {
            // An empty file of no use to the next call.
            for (entry, file) in &claimed {
                if let (Some(digest), Ok(0)) = (entry.sha256, file.metadata().map(|about| about.len())) {
                    let _ = fs::remove_file(self.partial(digest));
                }
            }
            let _ = fs::remove_dir_all(place.part());
            return Err(error);
        }
        Ok(Begun::Missing { lease, claimed, busy })
    }

    /// Takes what another process had begun with or has finished.
    pub(super) fn claim(&self, name: &str, entry: &FileEntry) -> Result<Claim> {
        let _lock = self.lock()?;
        let digest = entry.sha256.ok_or_else(|| Error::bug(HOLD, "a file has no digest"))?;
        let claim = self.claim_locked(&self.place(name), entry, digest)?;
        if let Claim::Mine(file) = &claim {
            self.reserve(&[(entry.clone(), file.try_clone().map_err(io(HOLD, &self.partial(digest)))?)])?;
        }
        Ok(claim)
    }

    fn claim_locked(&self, place: &Place, entry: &FileEntry, digest: Digest) -> Result<Claim> {
        let (blob, link) = (self.blob(digest), place.part().join(digest.to_string()));
        match fs::metadata(&blob) {
            Ok(about) if about.len() == entry.size => {
                // The process that finished the same model first has removed it.
                fs::create_dir_all(place.part()).map_err(io(HOLD, &blob))?;
                linked(&blob, &link)?;
                return Ok(Claim::Present);
            }
            // Of another length than this listing says: verification will tell which is wrong.
            Ok(_) => removed(fs::remove_file(&blob), &blob)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(HOLD, &blob, error)),
        }
        let path = self.partial(digest);
        let file = open_lock(&path)?;
        Ok(if try_lock(&file, &path)? { Claim::Mine(file) } else { Claim::Busy })
    }

    /// Makes room for `claimed` within the limits and takes it from the file system,
    /// where that can be done.
    fn reserve(&self, claimed: &[(FileEntry, File)]) -> Result<()> {
        let limits = self.limits()?;
        let mut needed = 0_u64;
        for (entry, file) in claimed {
            let taken = file.metadata().map_or(0, |about| taken(&about));
            needed = needed.saturating_add(entry.size.saturating_sub(taken));
        }
        let mine: BTreeSet<_> = claimed.iter().filter_map(|(entry, _)| entry.sha256).collect();
        let mut collected = Collected::default();
        self.make_room(limits, needed, &mine, &mut collected)?;
        for (entry, file) in claimed {
            allocate(file, entry.size)
                .map_err(|error| Error::io(HOLD, &self.root, error).with("bytes", entry.size))?;
        }
        Ok(())
    }

    /// Removes abandoned downloads except `mine`, then models, until `needed` more
    /// bytes fit.
    fn make_room(
        &self,
        limits: CacheLimits,
        needed: u64,
        mine: &BTreeSet<Digest>,
        collected: &mut Collected,
    ) -> Result<()> {
        let short = |store: &Self| -> Result<Option<Error>> {
            let (used, free) = (store.used()?, free(&store.root)?);
            let over = limits.quota.filter(|&quota| used.saturating_add(needed) > quota);
            let low = free.is_some_and(|free| free < needed.saturating_add(limits.keep_free));
            let error = |message: &str| {
                Error::new(ErrorKind::ResourceExhausted, HOLD, message)
                    .with_fault(Fault::Infrastructure)
                    .with("path", store.root.display())
                    .with("bytes needed", needed)
                    .with("bytes of the cache", used)
            };
            Ok(match (over, low) {
                (Some(quota), _) => {
                    let error = error("the cache's quota does not suffice").with("quota", quota);
                    let hint = "raise it (`albedo cache limit --quota`), or end what uses cached models";
                    Some(
                        if needed > quota { error.with_fault(Fault::Operator) } else { error }
                            .with_hint(hint),
                    )
                }
                (None, true) => Some(
                    error("the disk has not enough free space")
                        .with("bytes to keep free", limits.keep_free)
                        .with_hint("free some, or lower what stays free (`albedo cache limit --keep-free`)"),
                ),
                (None, false) => None,
            })
        };
        if short(self)?.is_none() {
            return Ok(());
        }
        self.sweep(mine, collected)?;
        let kept = self.kept()?;
        let mut oldest = self.models()?;
        oldest.sort_by_key(|(_, used)| *used);
        for (place, _) in oldest {
            if short(self)?.is_none() {
                return Ok(());
            }
            if !kept.contains_key(&place.id) {
                self.evict(&place, collected)?;
            }
        }
        match short(self)? {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Bytes of blobs and of downloads with what is reserved for them.
    fn used(&self) -> Result<u64> {
        let mut used = 0_u64;
        for part in ["blobs", "partial"] {
            for path in entries(&self.root.join(part))? {
                if let Ok(about) = fs::metadata(&path) {
                    used = used.saturating_add(if part == "blobs" { about.len() } else { taken(&about) });
                }
            }
        }
        Ok(used)
    }

    /// Every model of which there is anything, with the time of its last use.
    fn models(&self) -> Result<Vec<(Place, SystemTime)>> {
        let mut found = BTreeMap::new();
        for path in entries(&self.root.join("models"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let id = name.split('.').next().and_then(|id| id.parse::<Digest>().ok());
            let Some(id) = id else {
                // A marker that was being written.
                removed(remove_all(&path), &path)?;
                continue;
            };
            let used = found.entry(id).or_insert(SystemTime::UNIX_EPOCH);
            if path.extension().is_some_and(|end| end == "lease") {
                *used = fs::metadata(&path).and_then(|about| about.modified()).unwrap_or(*used);
            }
        }
        Ok(found.into_iter().map(|(id, used)| (self.place_of(id), used)).collect())
    }

    /// Removes the model unless a process uses it.
    fn evict(&self, place: &Place, collected: &mut Collected) -> Result<bool> {
        let path = place.lease();
        let lease = open_lock(&path)?;
        if !try_lock(&lease, &path)? {
            return Ok(false);
        }
        if let Some(marker) = place.complete() {
            collected.models.push(marker.name);
        }
        // The marker first: what is half removed is no model.
        for gone in [place.marker(), place.folder(), place.part(), place.beside(".new"), path] {
            removed(remove_all(&gone), &gone)?;
        }
        self.sweep_blobs(collected)?;
        Ok(true)
    }

    /// Removes what interrupted processes left: downloads except `mine`, models
    /// without a marker, blobs without a model.
    fn sweep(&self, mine: &BTreeSet<Digest>, collected: &mut Collected) -> Result<()> {
        for path in entries(&self.root.join("partial"))? {
            let digest = path.file_name().and_then(|name| name.to_str()?.parse::<Digest>().ok());
            if digest.is_some_and(|digest| mine.contains(&digest)) {
                continue;
            }
            let file = open_lock(&path)?;
            if try_lock(&file, &path)? {
                collected.freed += file.metadata().map_or(0, |about| taken(&about));
                removed(fs::remove_file(&path), &path)?;
            }
        }
        for (place, _) in self.models()? {
            if place.complete().is_none() {
                self.evict(&place, collected)?;
            } else {
                let part = place.part();
                let lease = open_lock(&place.lease())?;
                if part.exists() && try_lock(&lease, &part)? {
                    removed(remove_all(&part), &part)?;
                }
            }
        }
        self.sweep_blobs(collected)
    }

    fn sweep_blobs(&self, collected: &mut Collected) -> Result<()> {
        for path in entries(&self.root.join("blobs"))? {
            let about = fs::metadata(&path).map_err(io(TIDY, &path))?;
            if links(&about) == 1 {
                collected.freed += about.len();
                removed(fs::remove_file(&path), &path)?;
            }
        }
        Ok(())
    }

    /// The verified partial file becomes a blob.
    pub(super) fn finish(&self, name: &str, digest: Option<Digest>, file: &File) -> Result<()> {
        let digest = digest.ok_or_else(|| Error::bug(HOLD, "a file has no digest"))?;
        let (partial, blob) = (self.partial(digest), self.blob(digest));
        let finished = || {
            let mut permissions = file.metadata()?.permissions();
            permissions.set_readonly(true);
            file.set_permissions(permissions)?;
            file.sync_all()
        };
        finished().map_err(io(HOLD, &partial))?;
        let _lock = self.lock()?;
        let part = self.place(name).part();
        fs::create_dir_all(&part).map_err(io(HOLD, &part))?;
        linked(&partial, &part.join(digest.to_string()))?;
        fs::rename(&partial, &blob).map_err(io(HOLD, &blob))
    }

    /// All blobs are there: the model becomes visible.
    pub(super) fn commit(&self, name: &str, files: Vec<FileEntry>, lease: File) -> Result<Held> {
        let _lock = self.lock()?;
        let place = self.place(name);
        let folder = place.folder();
        if place.complete().is_none() {
            let new = place.beside(".new");
            for stale in [&new, &place.marker(), &folder] {
                removed(remove_all(stale), stale)?;
            }
            for file in &files {
                let digest = file.sha256.ok_or_else(|| Error::bug(HOLD, "a file has no digest"))?;
                let link = new.join(&file.name);
                let parent = link.parent().unwrap_or(&new);
                fs::create_dir_all(parent).map_err(io(HOLD, parent))?;
                linked(&self.blob(digest), &link)?;
                sync_folder(parent);
            }
            fs::rename(&new, &folder).map_err(io(HOLD, &folder))?;
            sync_folder(&place.models);
            sync_folder(&self.root.join("blobs"));
            self.write_json(&place.marker(), &Marker { name: name.to_owned(), files: files.clone() })?;
        }
        removed(remove_all(&place.part()), &place.part())?;
        Ok(Held { folder, files, lease })
    }

    /// Writes a file whole or not at all. What a killed process leaves of it is where
    /// [`Store::models`] removes it.
    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<()> {
        let written = || {
            let mut file = tempfile::Builder::new().prefix("new-").tempfile_in(self.root.join("models"))?;
            serde_json::to_writer(&mut file, value)?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        written().map_err(io(HOLD, path))?;
        sync_folder(path.parent().unwrap_or(Path::new(".")));
        Ok(())
    }

    pub(super) fn list(&self, now: SystemTime) -> Result<Vec<CachedModel>> {
        if !self.root.exists() {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        let (mut kept, mut listed) = (self.kept()?, Vec::new());
        let mut models = self.models()?;
        models.sort_by_key(|(_, used)| *used);
        for (place, used) in models {
            let Some(marker) = place.complete() else { continue };
            let in_use = !try_lock(&open_lock(&place.lease())?, &place.lease())?;
            listed.push(CachedModel {
                name: marker.name,
                folder: place.folder(),
                files: marker.files.len(),
                bytes: marker.files.iter().map(|file| file.size).sum(),
                idle_s: now.duration_since(used).unwrap_or_default().as_secs(),
                in_use,
                kept: kept.remove(&place.id).unwrap_or_default(),
            });
        }
        Ok(listed)
    }

    pub(super) fn collect(&self) -> Result<Collected> {
        let mut collected = Collected::default();
        if !self.root.exists() {
            return Ok(collected);
        }
        let _lock = self.lock()?;
        self.sweep(&BTreeSet::new(), &mut collected)?;
        match self.make_room(self.limits()?, 0, &BTreeSet::new(), &mut collected) {
            // What is in use stays, whatever the limits say.
            Err(error) if error.kind() == ErrorKind::ResourceExhausted => {}
            other => other?,
        }
        collected.bytes = self.used()?;
        Ok(collected)
    }

    pub(super) fn verify(&self, cx: &CallContext) -> Result<CacheCheck> {
        let mut check = CacheCheck::default();
        if !self.root.exists() {
            return Ok(check);
        }
        let places = {
            let _lock = self.lock()?;
            self.models()?
        };
        for (place, _) in places {
            let Some(marker) = place.complete() else { continue };
            let mut damaged = None;
            for file in &marker.files {
                cx.check("verify the cache")?;
                let path = place.folder().join(&file.name);
                let found = File::open(&path).and_then(Digest::of_reader);
                if found.ok() != file.sha256 {
                    damaged = file.sha256;
                    break;
                }
            }
            let Some(digest) = damaged else {
                check.sound.push(marker.name);
                continue;
            };
            check.damaged.push(marker.name);
            let _lock = self.lock()?;
            if self.evict(&place, &mut Collected::default())? {
                // Other models with these bytes are found damaged as well.
                let blob = self.blob(digest);
                removed(fs::remove_file(&blob), &blob)?;
            }
        }
        Ok(check)
    }
}

/// The model's lease, shared with other users, with its time set to now.
fn leased(path: &Path) -> Result<File> {
    let lease = open_lock(path)?;
    lease.lock_shared().map_err(io(HOLD, path))?;
    lease.set_modified(SystemTime::now()).map_err(io(HOLD, path))?;
    Ok(lease)
}

fn open_lock(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .or_else(|error| match error.kind() {
            // A file that was finished but not moved yet is read-only.
            io::ErrorKind::PermissionDenied => File::open(path),
            _ => Err(error),
        })
        .map_err(io(HOLD, path))
}

/// Whether the exclusive lock was free, and is now taken.
fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(Error::io(HOLD, path, error)),
    }
}

fn linked(from: &Path, to: &Path) -> Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|error| {
            Error::io(HOLD, to, error).with_hint("put the cache on one file system that has hard links")
        }),
    }
}

/// The paths in `folder`; none if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io(TIDY, folder))?,
    };
    listed.map(|entry| entry.map(|entry| entry.path()).map_err(io(TIDY, folder))).collect()
}

fn remove_all(path: &Path) -> io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// What is not there is removed.
fn removed(done: io::Result<()>, path: &Path) -> Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(io(TIDY, path)),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let file = match open_file(HOLD, path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    serde_json::from_reader(io::BufReader::new(file)).map(Some).map_err(|error| {
        Error::new(ErrorKind::DataInvalid, HOLD, error.to_string())
            .with_fault(Fault::Operator)
            .with("path", path.display())
            .with_hint("remove the file")
    })
}

/// Makes what happened in `folder` last, where the file system can.
fn sync_folder(folder: &Path) {
    // Network file systems refuse it; the files themselves are on disk.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

fn io<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |error| Error::io(operation, path, error)
}

/// Bytes that a download takes of the disk: what is written, or reserved.
#[cfg(unix)]
fn taken(about: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    /// POSIX counts blocks of this size.
    const BLOCK: u64 = 512;
    about.len().max(about.blocks() * BLOCK)
}

#[cfg(not(unix))]
fn taken(about: &fs::Metadata) -> u64 {
    about.len()
}

/// Names of a file: a blob without a model has one.
#[cfg(unix)]
fn links(about: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(about)
}

/// Where they cannot be counted, blobs stay until the cache is removed.
#[cfg(not(unix))]
fn links(_: &fs::Metadata) -> u64 {
    u64::MAX
}

/// Free bytes of the file system, where it tells.
#[cfg(unix)]
fn free(path: &Path) -> Result<Option<u64>> {
    let about = rustix::fs::statvfs(path).map_err(|error| Error::io(HOLD, path, error.into()))?;
    Ok(Some(about.f_bavail.saturating_mul(about.f_frsize)))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Result<Option<u64>> {
    Ok(None)
}

/// Takes `size` bytes from the file system for `file` without changing its length.
#[cfg(target_os = "linux")]
fn allocate(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    if size == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
        // Not every file system can; its free space was looked at.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::BADF) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}

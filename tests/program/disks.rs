//! Disks that refuse what local ones do: file systems over a network or in user space.
//! A library that is loaded before the C library's answers in their place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::run::{command, demo, error, stdout};

/// `DISK` names what is refused.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int is(const char *mode) {
    const char *disk = getenv("DISK");
    return disk && !strcmp(disk, mode);
}

static int refuse(int code) {
    errno = code;
    return -1;
}

static int folder(int file) {
    struct stat about;
    return !fstat(file, &about) && S_ISDIR(about.st_mode);
}

int fsync(int file) {
    if (is("syncs nothing")) return refuse(EINVAL);
    if (is("syncs no folders") && folder(file)) return refuse(EINVAL);
    if (is("knows no folders") && folder(file)) return refuse(EBADF);
    if (is("breaks") && folder(file)) return refuse(EIO);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}

int fdatasync(int file) {
    if (is("syncs nothing")) return refuse(EINVAL);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}

int flock(int file, int operation) {
    if (is("locks nothing")) return refuse(ENOLCK);
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(file, operation);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    if (is("appends nothing") && flags & O_APPEND) return refuse(EOPNOTSUPP);
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64"))(path, flags, mode);
}
"#;

struct Disk {
    place: TempDir,
    library: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let [source, library] = ["disk.c", "disk.so"].map(|name| place.path().join(name));
        fs::write(&source, LIBRARY).expect("writes");
        let mut compiler = Command::new("cc");
        let built = compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").output();
        let built = built.expect("a C compiler, which the build needs too");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let config = fs::read_to_string(demo().join("duel.toml")).expect("the demo's configuration");
        let config = ["models/king", "models/challenger", "tasks"].iter().fold(config, |config, name| {
            config.replace(&format!("\"{name}\""), &format!("\"{}\"", demo().join(name).display()))
        });
        let config = config.replace("samples = 64", "samples = 4\nrule = { name = \"margin\" }");
        fs::write(place.path().join("duel.toml"), config).expect("writes");
        Self { place, library }
    }

    fn path(&self, name: &str) -> String {
        self.place.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Runs the program on a disk that refuses what `mode` says; the empty mode refuses
    /// nothing.
    fn run(&self, mode: &str, arguments: &[&str]) -> Output {
        let mut command = command(arguments.iter().copied());
        command.env("DISK", mode).env("LD_PRELOAD", &self.library);
        command.env("XDG_STATE_HOME", self.place.path().join("state"));
        command.output().expect("albedo starts")
    }

    fn duel(&self, mode: &str, folder: &str) -> Output {
        self.run(mode, &["duel", "--config", &self.path("duel.toml"), "--out", folder])
    }
}

fn record(folder: &str) -> Vec<u8> {
    fs::read(Path::new(folder).join("record.digest")).expect("there is a record")
}

#[test]
fn a_disk_that_syncs_less_holds_duels_signatures_and_logs() {
    let disk = Disk::new();
    let whole = disk.path("whole");
    stdout(&disk.duel("", &whole));
    let key = crate::log::key(disk.place.path(), 0);
    for mode in ["syncs no folders", "knows no folders", "syncs nothing"] {
        let folder = disk.path(mode);
        // The configuration that a new duel keeps is written elsewhere (`albedo::config`).
        stdout(&disk.duel(if mode == "syncs nothing" { "" } else { mode }, &folder));
        assert_eq!(record(&folder), record(&whole), "a disk that {mode}");
        // What is gone is made again there too.
        for name in ["record.jsonl", "record.blobs", "record.digest"] {
            fs::remove_file(Path::new(&folder).join(name)).expect("was there");
        }
        stdout(&disk.run(mode, &["duel", "--resume", &folder]));
        assert_eq!(record(&folder), record(&whole), "a disk that {mode}");
        stdout(&disk.run(mode, &["record", "sign", &folder, "--key", &key]));
        stdout(&disk.run(mode, &["record", "verify", &folder]));
        let log = disk.path(&format!("log of {mode}"));
        stdout(
            &disk.run(mode, &["log", "append", &log, &folder, "--key", &key, "--origin", "example.com/log"]),
        );
        stdout(&disk.run("", &["log", "verify", &log]));
    }
}

#[test]
fn a_disk_that_cannot_hold_a_duel_is_refused_and_leaves_no_dead_end() {
    let disk = Disk::new();
    let whole = disk.path("whole");
    stdout(&disk.duel("", &whole));
    let (locks, appends) =
        ("the file system does not lock files", "the file system does not append to files");
    for (mode, begun, resumed) in [
        ("locks nothing", locks, locks),
        ("appends nothing", appends, appends),
        ("breaks", "save the configuration", "sync the record's folder"),
    ] {
        let folder = disk.path(mode);
        let refused = disk.duel(mode, &folder);
        assert!(!refused.status.success());
        assert!(error(&refused).contains(begun), "{}", error(&refused));
        // On a disk that can, the folder serves both for a new duel and for resuming.
        stdout(&disk.duel("", &folder));
        assert_eq!(record(&folder), record(&whole), "a disk that {mode}");
        let refused = disk.run(mode, &["duel", "--resume", &folder]);
        assert!(error(&refused).contains(resumed), "{}", error(&refused));
        stdout(&disk.run("", &["duel", "--resume", &folder]));
    }
}

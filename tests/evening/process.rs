//! Programs that run beside the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::LOOK;
use crate::hub::Hub;

/// A program at work; killed at the end.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts it; what it says goes into the file `log`.
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = File::create(&log).expect("creates");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("clones"))
            .stderr(file)
            .spawn()
            .expect("it starts");
        Self { child, log }
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) {
        let ended = self.child.try_wait().expect("asks");
        assert!(ended.is_none(), "{} has ended: {ended:?}\n{}", self.log.display(), self.log());
    }

    /// What it has said last.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// `name` on the PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A port that was free a moment ago.
pub(crate) fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Waits until `process` takes connections at `port`.
pub(crate) async fn listening(process: &mut Process, port: u16) {
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        process.check();
        tokio::time::sleep(LOOK).await;
    }
}

/// The program that runs the models: the one that is named, or this build's.
pub(crate) fn server_program() -> Option<PathBuf> {
    match std::env::var_os("ALBEDO_SERVER_PROGRAM") {
        Some(named) => Some(named.into()),
        None => cfg!(feature = "cpu").then(|| env!("CARGO_BIN_EXE_albedo").into()),
    }
}

/// `albedo serve` with the models of `hub`; gives its address.
pub(crate) async fn serve(program: &Path, folder: &Path, hub: &Hub) -> (Process, String) {
    let (config, ready) = (folder.join("serve.toml"), folder.join("ready"));
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndata = '{}'\n{}\n\n[backend]\nname = \"burn\"\nmax_batch = 32\n",
        folder.join("serve-data").display(),
        hub.settings(),
    );
    std::fs::write(&config, text).expect("writes");
    let mut command = Command::new(program);
    command.current_dir(folder).arg("serve").arg("--config").arg(&config).arg("--ready-file").arg(&ready);
    command
        .env("XDG_CACHE_HOME", folder.join("serve-cache"))
        .env("XDG_STATE_HOME", folder.join("serve-state"));
    let mut process = Process::start(&mut command, folder.join("serve.log"));
    while !ready.exists() {
        process.check();
        tokio::time::sleep(LOOK).await;
    }
    (process, std::fs::read_to_string(&ready).expect("reads").trim().to_owned())
}

//! A container registry: Debian's `docker-registry`, or a scripted one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use albedo::backends::hubs::scripted::{Registry, Server};

use crate::process::{Process, listening, on_path, port};
use crate::run::{albedo, stdout};
use serde_json::Value;

pub(crate) struct Hub {
    folder: PathBuf,
    port: u16,
    /// What the scripted one holds; none where Debian's is.
    scripted: Option<Arc<Registry>>,
    running: Option<Running>,
}

/// Dropping it ends it.
enum Running {
    Debian { _process: Process },
    Scripted { _server: Server },
}

impl Hub {
    pub(crate) async fn start(folder: &Path) -> Self {
        let scripted = on_path("docker-registry").is_none().then(Arc::default);
        if scripted.is_some() {
            eprintln!("there is no docker-registry: a scripted registry stands for it");
        }
        let mut hub = Self { folder: folder.to_owned(), port: port(), scripted, running: None };
        let text = format!("{}\n", hub.settings());
        std::fs::write(folder.join("hubs.toml"), text).expect("writes");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: '{}'}}\nhttp: {{addr: \"127.0.0.1:{}\", relativeurls: true}}\n",
            folder.join("registry").display(),
            hub.port,
        );
        std::fs::write(folder.join("registry.yml"), text).expect("writes");
        hub.resume().await;
        hub
    }

    /// Starts it again, with what it has.
    pub(crate) async fn resume(&mut self) {
        let running = if let Some(registry) = &self.scripted {
            let registry = Arc::clone(registry);
            let server = Server::start(self.port, move |request| registry.answer(request)).await;
            Running::Scripted { _server: server.expect("listens") }
        } else {
            let mut command = Command::new("docker-registry");
            command.arg("serve").arg(self.folder.join("registry.yml"));
            let mut process = Process::start(&mut command, self.folder.join("registry.log"));
            listening(&mut process, self.port).await;
            Running::Debian { _process: process }
        };
        self.running = Some(running);
    }

    /// Nobody answers there any more.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }

    /// The hub as a configuration names it.
    pub(crate) fn settings(&self) -> String {
        format!("hubs = [{{ name = \"oci\", registry = \"http://127.0.0.1:{}\" }}]", self.port)
    }

    /// Pushes `model` into `repository`; gives what pins it.
    pub(crate) fn push(&self, model: &Path, repository: &str, more: &[&str]) -> String {
        let (model, config) = (model.to_str().expect("UTF-8"), self.folder.join("hubs.toml"));
        let fixed = ["hub", "push", model, repository, "--json", "--config", config.to_str().expect("UTF-8")];
        let pushed: Value =
            serde_json::from_str(&stdout(&albedo([&fixed[..], more].concat()))).expect("JSON");
        let reference = pushed["reference"].as_str().expect("a reference");
        reference.split_once('@').expect("a pin").1.to_owned()
    }
}

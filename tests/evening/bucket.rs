//! An S3 server, `moto_server`, that everybody may read from; or a folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use albedo::CallContext;
use albedo::backends::http::Client;
use albedo::http::{HttpRequest, HttpTransport, Method};
use serde_json::Value;

use crate::process::{Process, listening, on_path, port};
use crate::run::{albedo, stdout};

/// The bucket's policy: everybody may read.
const POLICY: &str = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*",
    "Action": "s3:GetObject", "Resource": "arn:aws:s3:::duels/*"}]}"#;

pub(crate) enum Bucket {
    S3 { address: String, _process: Process },
    Folder(PathBuf),
}

/// The server, on the PATH or where `.ci/bucket-judge` keeps it.
fn moto() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")))?;
    let kept = std::env::var_os("ALBEDO_BUCKETS_DIR").map_or(cache.join("albedo/buckets"), PathBuf::from);
    Some(kept.join("venv/bin/moto_server")).filter(|file| file.is_file()).or_else(|| on_path("moto_server"))
}

impl Bucket {
    pub(crate) async fn start(folder: &Path) -> Self {
        let Some(program) = moto() else {
            eprintln!("there is no moto_server: a folder stands for the bucket");
            return Self::Folder(folder.join("site"));
        };
        let port = port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let mut process = Process::start(&mut command, folder.join("bucket.log"));
        listening(&mut process, port).await;
        let address = format!("http://127.0.0.1:{port}");
        for (place, body) in [("duels", ""), ("duels?policy", POLICY)] {
            let request = HttpRequest::new(Method::PUT, "make the bucket", format!("{address}/{place}"));
            let answer = Client::from_env().send(request.with_body(body), &CallContext::new()).await;
            let status = answer.expect("an answer").status();
            assert!(status.is_success(), "{place}: {status}");
        }
        Self::S3 { address, _process: process }
    }

    /// Where the validator publishes.
    pub(crate) fn settings(&self) -> String {
        match self {
            Self::S3 { address, .. } => {
                format!("{{ to = \"s3://duels/site\", endpoint = \"{address}\", region = \"us-east-1\" }}")
            }
            Self::Folder(folder) => format!("{{ to = '{}' }}", folder.display()),
        }
    }

    /// The bucket's key, as the environment has it.
    pub(crate) fn secrets(&self) -> Vec<(&str, &str)> {
        match self {
            Self::S3 { .. } => vec![("AWS_ACCESS_KEY_ID", "tests"), ("AWS_SECRET_ACCESS_KEY", "tests")],
            Self::Folder(_) => Vec::new(),
        }
    }

    /// A document, as everybody reads it.
    pub(crate) async fn document(&self, name: &str) -> Value {
        let bytes = match self {
            Self::S3 { address, .. } => {
                let request = HttpRequest::get("read a document", format!("{address}/duels/site/{name}"));
                let answer = Client::from_env().send(request, &CallContext::new()).await;
                let mut answer = answer.expect("an answer");
                assert!(answer.status().is_success(), "{name}: {}", answer.status());
                answer.read(64 << 20).await.expect("a body")
            }
            Self::Folder(site) => std::fs::read(site.join(name)).expect("reads"),
        };
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// Folders of the records that the index names, fetched below `folder`.
    pub(crate) async fn records(&self, folder: &Path) -> Vec<PathBuf> {
        let index = self.document("index.json").await;
        let entries = index["entries"].as_array().expect("entries");
        assert_eq!(index["records"], entries.len(), "the index has one page");
        let digests = entries.iter().map(|entry| entry["record"].as_str().expect("a digest"));
        let fetch = |digest: &str| match self {
            Self::S3 { address, .. } => {
                let (url, out) = (format!("{address}/duels/site/records/{digest}"), folder.join(digest));
                stdout(&albedo(["record", "fetch", &url, "--out", out.to_str().expect("UTF-8")]));
                out
            }
            Self::Folder(site) => site.join("records").join(digest),
        };
        digests.map(fetch).collect()
    }
}

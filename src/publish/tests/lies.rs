//! Servers that lie to whoever fetches a record.

use super::*;
use crate::backends::http::scripted::{Dripping, Silent};
use crate::publish::fetch::{Site, document_from, fetch_from};

/// Serves a folder, and says what `lie` makes of it.
pub(super) struct Served<F> {
    pub(super) folder: PathBuf,
    pub(super) lie: F,
}

impl<F> std::fmt::Debug for Served<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Served")
    }
}

#[async_trait]
impl<F: Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync + 'static> HttpTransport for Served<F> {
    async fn send(&self, request: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
        let name = request.url().strip_prefix("https://example.com/").expect("this server");
        let answer = match fs::read(self.folder.join(name)) {
            Ok(bytes) => HttpResponse::whole(StatusCode::OK, HeaderMap::new(), (self.lie)(name, bytes)),
            Err(_) => HttpResponse::whole(StatusCode::NOT_FOUND, HeaderMap::new(), ""),
        };
        Ok(answer)
    }
}

#[tokio::test]
async fn a_record_is_fetched_whole_or_not_at_all() {
    let cx = CallContext::new();
    let (folder, site) = (folder_of(&records(2)), tempfile::tempdir().expect("a folder"));
    let key = KeyFile::from_seed(&[1; 32]);
    crate::record::sign(&folder.path().join("0"), &key).expect("signs");
    let bucket = Arc::new(FolderBucket::open(site.path()).expect("opens"));
    let outbox = FolderOutbox::open(folder.path()).expect("opens");
    outbox.scan().expect("scans");
    let publisher = Publisher::open(bucket, hasty(), &cx).await.expect("opens");
    publisher.drain_folder(&outbox, &cx).await.expect("drains");

    let out = tempfile::tempdir().expect("a folder");
    let record = digest(&folder.path().join("0"));
    let url = format!("https://example.com/records/{record}");
    let honest = Served { folder: site.path().into(), lie: |_: &str, bytes: Vec<u8>| bytes };
    for (number, url) in [&url, &format!("{url}/"), &format!("{url}/manifest.json")].into_iter().enumerate() {
        let to = out.path().join(number.to_string());
        // The last one with a slash at its end.
        let given = if number == 2 { to.join("") } else { to.clone() };
        let fetched = fetch(url, &given, FetchSettings::default(), &honest, &cx).await.expect("fetches");
        assert_eq!((fetched.record, fetched.signers), (record, vec![key.key()]));
        for name in ["record.jsonl", "record.blobs", "record.digest", "record.signatures"] {
            let [here, there] = [to.join(name), folder.path().join("0").join(name)]
                .map(|path| fs::read(path).expect("reads"));
            assert_eq!(here, there, "{name}");
        }
        assert_eq!(fetched.exports, 0);
        assert!(!to.join("exports").exists(), "nobody asked for them");
    }
    let to = out.path().join("0");
    let plain = FetchSettings::default();
    let error = fetch(&url, &to, plain, &honest, &cx).await.expect_err("is there already");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let nowhere = format!("https://example.com/records/{}", Digest::of("nothing"));
    let error = fetch(&nowhere, &out.path().join("x"), plain, &honest, &cx).await.expect_err("no record");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = fetch("https://example.com/latest", &out.path().join("x"), plain, &honest, &cx).await;
    assert_eq!(error.expect_err("no digest").kind(), ErrorKind::ConfigInvalid);

    let other = digest(&folder.path().join("1"));
    let other = fs::read(site.path().join(format!("records/{other}/manifest.json"))).expect("reads");
    type Lie = Box<dyn Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync>;
    let at = |file: &'static str, lie: fn(Vec<u8>) -> Vec<u8>| -> Lie {
        Box::new(move |name, bytes| if name.ends_with(file) { lie(bytes) } else { bytes })
    };
    let manifest = |lie: fn(String) -> String| -> Lie {
        Box::new(move |name, bytes| {
            if name.ends_with("manifest.json") {
                lie(String::from_utf8(bytes).expect("JSON")).into_bytes()
            } else {
                bytes
            }
        })
    };
    let lies: [(&str, ErrorKind, Lie); 13] = [
        (
            "a wrong byte",
            ErrorKind::DigestMismatch,
            at("record.jsonl", |mut bytes| {
                bytes[40] ^= 1;
                bytes
            }),
        ),
        ("a short body", ErrorKind::DigestMismatch, at("record.blobs", |bytes| bytes[1..].to_vec())),
        (
            "a long body",
            ErrorKind::DigestMismatch,
            at("record.blobs", |bytes| [bytes, vec![0; 1 << 20]].concat()),
        ),
        ("an empty digest", ErrorKind::DigestMismatch, at("record.digest", |_| Vec::new())),
        ("no JSON", ErrorKind::DataInvalid, manifest(|_| "<html>".into())),
        ("a huge manifest", ErrorKind::Protocol, manifest(|text| text + &" ".repeat(2 << 20))),
        (
            "a huge file",
            ErrorKind::DataInvalid,
            manifest(|text| text.replacen("\"size\":", "\"size\":9999999999", 1)),
        ),
        (
            "a path that leaves the folder",
            ErrorKind::DataInvalid,
            manifest(|text| text.replace("\"record.blobs\"", "\"../record.blobs\"")),
        ),
        (
            "a wrong byte of a data set",
            ErrorKind::DigestMismatch,
            at(".parquet", |bytes| bytes[1..].to_vec()),
        ),
        (
            "a data set that leaves the folder",
            ErrorKind::DataInvalid,
            manifest(|text| text.replace("\"exports/README.md\"", "\"exports/../README.md\"")),
        ),
        (
            "a data set in the record's place",
            ErrorKind::DataInvalid,
            manifest(|text| text.replace("\"exports/README.md\"", "\"record.jsonl\"")),
        ),
        (
            "no data sets",
            ErrorKind::NotFound,
            manifest(|text| {
                let mut manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                manifest.as_object_mut().expect("an object").remove("exports").expect("data sets");
                manifest.to_string()
            }),
        ),
        (
            "another record's manifest",
            ErrorKind::DigestMismatch,
            Box::new(move |name, bytes| if name.ends_with("manifest.json") { other.clone() } else { bytes }),
        ),
    ];
    for (name, kind, lie) in lies {
        let to = out.path().join("lied-to");
        let served = Served { folder: site.path().into(), lie };
        let settings = FetchSettings { exports: name.contains("data set"), ..plain };
        let error = fetch(&url, &to, settings, &served, &cx).await.expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        let left: Vec<_> =
            fs::read_dir(out.path()).expect("reads").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left.len(), 3, "{name}: nothing is left but what was fetched: {left:?}");
    }
}

/// What comes of fetching a record and reading a document from `server`.
async fn asked(server: &dyn HttpTransport, clock: &VirtualClock, cx: &CallContext) -> [Error; 2] {
    let out = tempfile::tempdir().expect("a folder");
    let (to, url) = (out.path().join("x"), format!("https://example.com/records/{}", Digest::of("x")));
    let site = Site::new(server, clock.clone());
    let fetched = fetch_from(&site, &url, &to, FetchSettings::default(), cx);
    let read = document_from::<serde_json::Value>(&site, "https://example.com", "data/status.json", cx);
    let (fetched, read) = futures::join!(fetched, read);
    [fetched.expect_err("there is no record"), read.expect_err("there is no document")]
}

#[test]
fn a_stop_ends_the_wait_for_a_server_that_says_nothing() {
    for server in [Silent { has_head: false }, Silent { has_head: true }] {
        let (clock, cx) = (VirtualClock::new(), CallContext::new());
        let stopped = async { futures::join!(asked(&server, &clock, &cx), async { cx.cancel() }) };
        let (errors, ()) = clock.run(stopped).expect("the stop ends both");
        assert!(errors.iter().all(|error| error.kind() == ErrorKind::Cancelled), "{errors:?}");
        assert_eq!(clock.now(), Duration::ZERO);
    }
}

#[test]
fn a_server_that_makes_no_progress_is_given_up_after_a_minute() {
    let clock = VirtualClock::new();
    let dripping = Dripping { clock: Arc::new(clock.clone()), pause: Duration::from_secs(1) };
    for server in [&Silent { has_head: false } as &dyn HttpTransport, &Silent { has_head: true }, &dripping] {
        let (before, cx) = (clock.now(), CallContext::new());
        let errors = clock.run(asked(server, &clock, &cx)).expect("nothing waits for ever");
        assert!(errors.iter().all(|error| error.kind() == ErrorKind::Timeout), "{errors:?}");
        assert_eq!(clock.now(), before + Duration::from_mins(1), "{server:?}");
    }
}

//! Models that a server fetches from a hub: held, verified, under a lease; duelled on,
//! screened and measured.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use albedo::backends::files::FolderFiles;
use albedo::backends::serve::{ServeBackend, ServeConfig};
use albedo::judges::screens::fingerprint::Fingerprint;
use albedo::judges::screens::lineage::Sketch;
use albedo::judges::screens::store::{Store, Submission};
use albedo::judges::screens::{AlignTo, Measurement};
use albedo::registry::{Resources, SystemSecrets};
use albedo::{
    BuildContext, CallContext, Digest, HubRef, ModelBackend, ModelRef, ModelSource, PluginConfig, Registry,
    Screen, ScreenPart,
};
use serde_json::json;

use crate::run::{demo, stdout};
use crate::serve_jobs::{Serving, duel, local, path, record, run};

/// Puts the demo's `side` into the mirror in `folder` and gives its reference.
fn publish(folder: &Path, side: &str) -> HubRef {
    let files = fs::read_dir(demo().join("models").join(side)).expect("reads");
    let mut files: Vec<_> = files
        .map(|entry| entry.expect("an entry").path())
        .map(|file| (file.file_name().expect("a name").to_string_lossy().into_owned(), file))
        .collect();
    files.sort();
    let line =
        |(name, file): &(String, _)| format!("{}  {name}\n", Digest::of(fs::read(file).expect("reads")));
    let sums: String = files.iter().map(line).collect();
    let pinned = Digest::of(&sums);
    let published = folder.join("mirror/demo").join(side).join(pinned.to_string());
    fs::create_dir_all(&published).expect("a folder");
    fs::write(published.join("SHA256SUMS"), sums).expect("writes");
    for (name, file) in files {
        fs::copy(file, published.join(name)).expect("copies");
    }
    format!("folder:demo/{side}@sha256:{pinned}").parse().expect("a reference")
}

fn hubs(folder: &Path) -> String {
    format!("[[hubs]]\nname = \"folder\"\npath = {:?}\n", path(&folder.join("mirror")))
}

/// A server that offers no model by name, and has the mirror in `folder`.
fn serve(folder: &Path) -> Serving {
    let data = folder.join("data");
    let text = format!("listen = \"127.0.0.1:0\"\ndata = {:?}\n{}", path(&data), hubs(folder));
    fs::write(folder.join("serve.toml"), text).expect("writes");
    Serving::start(folder)
}

/// The lines of `/metrics` of a server.
async fn held(server: &Serving) -> String {
    use albedo::http::{HttpRequest, HttpTransport};

    let request = HttpRequest::get("read the metrics", format!("{}/metrics", server.url));
    let client = albedo::backends::http::Client::from_env();
    let mut response = client.send(request, &CallContext::new()).await.expect("an answer");
    let text = String::from_utf8(response.read(1 << 20).await.expect("a body")).expect("UTF-8");
    text.lines().find(|line| line.starts_with("albedo_models_held ")).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_duel_on_models_of_a_hub_is_the_local_one_and_lets_them_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (king, challenger) = (publish(folder, "king"), publish(folder, "challenger"));
    let mut server = serve(folder);
    let contestants = format!(
        "king.ref = \"{king}\"\nchallenger.ref = \"{challenger}\"\n\
         [backend]\nname = \"serve\"\nurl = {:?}\n{}",
        server.url,
        hubs(folder)
    );
    let (here, there) = (folder.join("here"), folder.join("there"));
    let config = local(folder);
    stdout(&run(folder, &["--config", path(&config), "--out", path(&here)]).output().expect("runs"));
    let config = duel(folder, "remote", &contestants);
    stdout(&run(folder, &["--config", path(&config), "--out", path(&there)]).output().expect("runs"));
    let (there, here) = (record(&there), record(&here));
    assert_eq!(there, here);
    // The client that ends tells the server to keep the models no longer.
    while held(&server).await != "albedo_models_held 0" {
        tokio::task::yield_now().await;
    }
    // A job that let go of a model is done a moment after that.
    server.end();
    let jobs = server.jobs();
    let done =
        |wanted: &str| jobs.iter().filter(|(kind, state, ..)| kind == wanted && state == "done").count();
    assert_eq!((done("hold"), done("release")), (2, 2), "{jobs:?}");
    let generated = jobs.iter().filter(|(kind, .., stored)| kind == "generate" && *stored == 1).count();
    assert_eq!(generated, 24, "{jobs:?}");
}

#[test]
fn a_model_that_is_not_what_its_reference_says_is_held_by_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (king, challenger) = (publish(folder, "king"), publish(folder, "challenger"));
    let weights = folder.join("mirror").join(challenger.repository());
    let weights = weights.join(challenger.to_string().rsplit(':').next().expect("a digest"));
    let weights = weights.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("reads");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).expect("writes");
    let server = serve(folder);
    let contestants = format!(
        "king.ref = \"{king}\"\nchallenger.ref = \"{challenger}\"\n\
         [backend]\nname = \"serve\"\nurl = {:?}\npatience_secs = 1\n{}",
        server.url,
        hubs(folder)
    );
    let (config, out) = (duel(folder, "remote", &contestants), folder.join("duel"));
    let refused = run(folder, &["--config", path(&config), "--out", path(&out)]).output().expect("runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && !out.join("record.jsonl").exists(), "{said}");
    let words = "the bytes are not those that the listing vouches for";
    assert!(said.contains(words) && said.contains("file: model.safetensors"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn screens_and_measures_at_a_server_are_those_of_this_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (king, challenger) = (publish(folder, "king"), publish(folder, "challenger"));
    let mut server = serve(folder);
    let (registry, cx) = (Registry::linked().expect("a registry"), CallContext::new());
    let resources = Resources::default().with_cache_dir(folder.join("client"));
    let build = BuildContext::new(&registry, &cx).with_resources(resources);
    let backend =
        ServeBackend::connect(&ServeConfig::at(&server.url), &SystemSecrets::from_env(), &build).await;
    let backend = backend.expect("connects");
    let (king, challenger) = (ModelRef::from(king), ModelRef::from(challenger));

    // What a store remembers, with the king as the anchor of its sketches.
    let take = async |side: &str, align| {
        let files = Arc::new(FolderFiles::new(demo().join("models").join(side)));
        Measurement::take(files, align, &cx).await.expect("measured")
    };
    let anchor = take("king", AlignTo::Itself).await;
    let here = take("challenger", AlignTo::Anchor(anchor.anchor.clone().expect("an anchor"))).await;
    let (sketch_of_king, sketch) = (anchor.aligned.expect("aligned"), here.aligned.expect("aligned"));
    for _ in 0..2 {
        let there = backend.measure(&challenger, Some(&king), &cx).await.expect("measures");
        assert_eq!(there.parameters, here.digests.parameters);
        let fingerprint: Fingerprint = serde_json::from_value(there.fingerprint).expect("a fingerprint");
        assert_eq!(fingerprint, here.fingerprint);
        let read: Sketch = serde_json::from_value(there.sketch.expect("a sketch")).expect("a sketch");
        assert_eq!(read, sketch.sketch);
        read.check_comparable(&sketch_of_king.sketch).expect("of one anchor");
        let store = Store::open_or_create(&folder.join("store.sqlite")).expect("a store");
        let entry = store.add(&Submission {
            label: "challenger".into(),
            hotkey: String::new(),
            block: None,
            parameters: Some(there.parameters),
            fingerprint: Some(fingerprint),
            sketch: Some(read),
            tensors: Vec::new(),
        });
        assert_eq!(entry.expect("is added").id, 1, "the same model once");
    }
    let own = backend.measure(&king, Some(&king), &cx).await.expect("measures");
    let own: Sketch = serde_json::from_value(own.sketch.expect("a sketch")).expect("a sketch");
    assert_eq!(own, sketch_of_king.sketch);
    assert_eq!(backend.measure(&king, None, &cx).await.expect("measures").sketch, None);

    // A screen of behaviour finds there what it finds here.
    let screen = PluginConfig::<dyn Screen>::named("sanity");
    let found = backend.screen(&challenger, vec![screen.clone()], 7, &cx).await.expect("screens");
    let built: Arc<dyn Screen> = build.build(screen.name(), screen.settings()).await.expect("builds");
    let burn = registry.build::<dyn ModelBackend>("burn", json!({}), &cx).await.expect("builds");
    let session = burn.load(&ModelSource::new(demo().join("models/challenger")), &cx).await.expect("loads");
    let ScreenPart::Behaviour(part) = built.part() else { panic!("`sanity` is of the behaviour stage") };
    let here = part.inspect(&*session, 7, &cx).await.expect("inspects");
    assert_eq!((found.len(), &found[0].screen, &found[0].finding), (1, built.identity(), &here));
    // None that names something outside, and none of another stage.
    for refused in [PluginConfig::named("sanity").with("path", "/etc"), PluginConfig::named("lineage")] {
        let error = backend.screen(&challenger, vec![refused], 7, &cx).await.expect_err("refused");
        assert_eq!(error.kind(), albedo::ErrorKind::Unsupported, "{error}");
    }
    server.kill();
    let jobs = server.jobs();
    let measured =
        jobs.iter().filter(|(kind, _, runs, stored)| kind == "screen" && (*runs, *stored) == (1, 1));
    assert_eq!(measured.count(), 4, "three measures and one screen, each done once: {jobs:?}");
}

//! Pushing to a registry that behaves, and to one that does not.

use super::*;
use crate::files::FolderFiles;

#[tokio::test]
async fn a_folder_is_pushed_and_pulled_again() {
    let registry = Arc::new(scripted::Registry::with_tokens(0));
    let server = serve(Arc::clone(&registry), |_, reply| reply).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("sub")).expect("a folder");
    // More than one piece of an upload.
    for (name, bytes) in [("config.json", Bytes::from_static(b"{}")), ("sub/w", noise((17 << 20) + 1, 8))] {
        std::fs::write(folder.path().join(name), bytes).expect("written");
    }
    let (hub, files, cx) = (hub(&server), FolderFiles::new(folder.path()), CallContext::new());
    let prepared = hub.prepare(REPOSITORY, &files, &Layout::Plain, &cx).await.expect("prepared");
    assert!(server.seen().is_empty(), "the digest is known before any byte leaves");
    assert_eq!(
        hub.prepare(REPOSITORY, &files, &Layout::Plain, &cx).await.expect("prepared"),
        prepared,
        "and has no time in it"
    );
    let pushed = hub.push(prepared.clone(), &files, &cx).await.expect("pushed");
    // The files, and the empty configuration.
    assert_eq!((&pushed.reference, pushed.uploaded), (&prepared.reference, (17 << 20) + 1 + 2));
    assert_eq!(pull(&server, &pushed.reference).await.expect("pulled").len(), 2);
    let again = hub.push(prepared, &files, &cx).await.expect("pushed");
    assert_eq!(again.uploaded, 0, "what is there is not uploaded again");
}

/// A registry that counts what it is sent, and fails where `fails` says so.
async fn counting(
    registry: Arc<scripted::Registry>,
    fails: impl Fn(&Request) -> bool + Send + Sync + 'static,
) -> (Server, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let server = Server::start(0, move |request| {
        if fails(request) {
            return Reply::new(503, "");
        }
        counted.fetch_add(request.body.len(), Ordering::Relaxed);
        registry.answer(request)
    });
    (server.await.expect("listens"), count)
}

#[tokio::test]
async fn a_folder_is_pushed_in_chunks_and_what_is_there_is_not_sent_again() {
    let registry = Arc::new(scripted::Registry::with_tokens(0));
    let (server, sent) = counting(Arc::clone(&registry), |_| false).await;
    let (folder, cx) = (tempfile::tempdir().expect("a folder"), CallContext::new());
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("written");
    let mut weights = noise(90 << 20, 8).to_vec();
    write("config.json", b"{}");
    write("model-1.safetensors", &weights);
    // The second has a part of the first twice.
    let part = &weights[20 << 20..50 << 20];
    write("model-2.safetensors", &[part, part, b"and more"].concat());
    let (hub, files) = (hub(&server), FolderFiles::new(folder.path()));
    let layout = |base| Layout::Chunked { from: 1 << 20, base };
    let prepared = hub.prepare(REPOSITORY, &files, &layout(None), &cx).await.expect("prepared");
    assert!(server.seen().is_empty(), "the digest is known before any byte leaves");
    let pushed = hub.push(prepared.clone(), &files, &cx).await.expect("pushed");
    assert_eq!(pushed.reference, prepared.reference);
    // Little of the second file is new: its first cuts, and where its halves meet.
    let most = (90 + 2 * 2 * 16) << 20;
    assert!(pushed.uploaded > 90 << 20 && pushed.uploaded < most, "{}", pushed.uploaded);
    assert!((sent.load(Ordering::Relaxed) as u64) < most, "{sent:?}");
    let pulled = pull(&server, &pushed.reference).await.expect("pulled");
    for (name, digest) in &pulled {
        let bytes = std::fs::read(folder.path().join(name)).expect("is there");
        assert_eq!(Digest::of(bytes), *digest, "{name}");
    }
    assert_eq!(pulled.len(), 3);
    let again = hub.push(prepared, &files, &cx).await.expect("pushed");
    assert_eq!(again.uploaded, 0, "what is there is not uploaded again");

    // An edit costs the packs that it lies in; with a base, its chunk.
    weights[45 << 20] ^= 1;
    write("model-1.safetensors", &weights);
    let edited = hub.prepare(REPOSITORY, &files, &layout(None), &cx).await.expect("prepared");
    let edited = hub.push(edited, &files, &cx).await.expect("pushed");
    assert!(edited.uploaded < 145 << 20 && edited.reference != pushed.reference, "{}", edited.uploaded);
    weights[60 << 20] ^= 1;
    write("model-1.safetensors", &weights);
    let base = Some(edited.reference.clone());
    let small = hub.prepare(REPOSITORY, &files, &layout(base.clone()), &cx).await.expect("prepared");
    let small = hub.push(small, &files, &cx).await.expect("pushed");
    assert!(small.uploaded < 17 << 20, "{}", small.uploaded);
    let pulled = pull(&server, &small.reference).await.expect("pulled");
    assert_eq!(pulled[1].1, Digest::of(&weights));

    // Mistakes with a base are the operator's.
    let error = hub.prepare("owner/other", &files, &layout(base), &cx).await.expect_err("another repository");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator), "{error}");
    let broken = registry.manifest(REPOSITORY, "{}").expect("stored");
    let error = hub.prepare(REPOSITORY, &files, &layout(Some(broken)), &cx).await.expect_err("no manifest");
    assert_eq!(error.fault(), Fault::Operator, "{error}");
}

#[tokio::test]
async fn a_push_that_was_interrupted_goes_on() {
    let registry = Arc::new(scripted::Registry::default());
    let (folder, cx) = (tempfile::tempdir().expect("a folder"), CallContext::new());
    std::fs::write(folder.path().join("weights"), noise(130 << 20, 9)).expect("written");
    let files = FolderFiles::new(folder.path());
    let layout = Layout::Chunked { from: 1, base: None };
    // The server is gone once it has a pack.
    let packs = AtomicUsize::new(0);
    let (server, _) = counting(Arc::clone(&registry), move |request| {
        let carries = request.body.len() > 1 << 20;
        let ends = carries && request.method == "PUT";
        let before = if ends { packs.fetch_add(1, Ordering::Relaxed) } else { packs.load(Ordering::Relaxed) };
        carries && before > 0
    })
    .await;
    let prepared = hub(&server).prepare(REPOSITORY, &files, &layout, &cx).await.expect("prepared");
    let error = hub(&server).push(prepared.clone(), &files, &cx).await.expect_err("interrupted");
    assert!(error.is_retryable(), "{error}");
    let (server, sent) = counting(registry, |_| false).await;
    let pushed = hub(&server).push(prepared, &files, &cx).await.expect("pushed");
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 130 << 20, "a pack that was there was not sent again: {sent}");
    let pulled = pull(&server, &pushed.reference).await.expect("pulled");
    assert_eq!(pulled, [("weights".to_owned(), Digest::of(noise(130 << 20, 9)))]);
}

#[tokio::test]
async fn only_a_registry_that_says_so_has_lost_a_pack() {
    let registry = Arc::new(scripted::Registry::default());
    let (folder, cx) = (tempfile::tempdir().expect("a folder"), CallContext::new());
    std::fs::write(folder.path().join("weights"), noise(20 << 20, 9)).expect("written");
    let files = FolderFiles::new(folder.path());
    let (server, _) = counting(Arc::clone(&registry), |_| false).await;
    let layout = |base| Layout::Chunked { from: 1, base };
    let base = hub(&server).prepare(REPOSITORY, &files, &layout(None), &cx).await.expect("prepared");
    let base = hub(&server).push(base, &files, &cx).await.expect("pushed").reference;
    let again = hub(&server).prepare(REPOSITORY, &files, &layout(Some(base)), &cx).await.expect("prepared");

    // An outage is no loss, and ends.
    let asked = AtomicUsize::new(0);
    let (busy, sent) = counting(Arc::clone(&registry), move |request| {
        request.method == "HEAD" && asked.fetch_add(1, Ordering::Relaxed) < 2
    })
    .await;
    let pushed = hub(&busy).push(again.clone(), &files, &cx).await.expect("after the outage");
    assert_eq!(pushed.uploaded, 0, "what is there is not uploaded again: {sent:?}");
    let (down, _) = counting(Arc::clone(&registry), |request| request.method == "HEAD").await;
    let error = hub(&down).push(again.clone(), &files, &cx).await.expect_err("down");
    assert_eq!((error.fault(), error.is_retryable()), (Fault::Infrastructure, true), "{error}");

    // A proxy's 404 is no loss either: an answer to HEAD has no words, and its page has no code.
    let proxied = Server::start(0, move |request| {
        let asks = ["HEAD", "GET"].contains(&request.method.as_str());
        if asks && request.path.contains("/blobs/") {
            Reply::new(404, "<html>404 Not Found</html>")
        } else {
            registry.answer(request)
        }
    });
    let proxied = proxied.await.expect("listens");
    let error = hub(&proxied).push(again.clone(), &files, &cx).await.expect_err("a proxy's page");
    assert_eq!((error.fault(), error.is_retryable()), (Fault::Infrastructure, true), "{error}");

    let (empty, _) = counting(Arc::new(scripted::Registry::default()), |_| false).await;
    let error = hub(&empty).push(again, &files, &cx).await.expect_err("lost");
    assert_eq!(error.fault(), Fault::Operator, "{error}");
    assert!(error.to_string().contains("lost a pack") && error.hint().is_some(), "{error}");
}

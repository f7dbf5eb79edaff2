use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::chain::Metagraph;
use crate::http::{HeaderMap, HttpRequest, HttpResponse, HttpTransport, StatusCode};
use crate::validator::DemoCompetition;
use crate::validator::ledger::Ledger;
use crate::validator::parts::testing::{
    Quick, admission, at, pinned, shared, shared_with_registry, uploaded,
};

mod held_up;
mod owners;

/// The submission of `hotkey` with a manifest of its own, after `steps`.
async fn submitted(ledger: &Ledger, hotkey: &str, repository: &str, steps: &[Move]) -> SubmissionRow {
    pinned(ledger, hotkey, repository, Digest::of(hotkey), steps).await
}

#[tokio::test]
async fn files_that_are_deleted_end_a_submission_in_time_and_an_outage_ends_none() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let admissions = Admissions::new(Arc::clone(&shared));
    let mirror = folder.path().join("mirror");
    let (early, late, last) = (at(&shared, 45).await, at(&shared, 46).await, at(&shared, 96).await);
    let miners: [(&str, &[Move]); 2] =
        [("amy", &[Move::Admit, Move::ClearFiles]), ("ben", &[Move::Admit, Move::ClearFiles, Move::Hold])];
    for (hotkey, steps) in miners {
        let row = submitted(ledger, hotkey, &format!("{hotkey}/model"), steps).await;
        // Without the mirror nobody can say what is in it.
        let error = admissions.look_at(&row, &king, &late, &cx).await.expect_err("an outage");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Infrastructure));
        fs::create_dir(&mirror).expect("makes");
        // One look tells nothing: the hub has to say the same 50 blocks later.
        for seen in [&early, &late] {
            let looked = admissions.look_at(&row, &king, seen, &cx).await.expect("looked");
            assert!(matches!(looked, Looked::Waits(_)), "{hotkey}: {looked:?}");
            let waits = ledger.submission(row.id).await.expect("read");
            assert_eq!((waits.state, waits.voids), (row.state, 0));
            assert!(waits.reason.contains("may come back until block 95"), "{}", waits.reason);
        }
        let looked = admissions.look_at(&row, &king, &last, &cx).await.expect("looked");
        assert_eq!(looked, Looked::Moved);
        let ended = ledger.submission(row.id).await.expect("read");
        assert_eq!(ended.state, State::Expired, "{}", ended.reason);
        assert!(ended.reason.contains("no longer had its files"), "{}", ended.reason);
        fs::remove_dir(&mirror).expect("goes away");
    }
}

/// The validator may have been off until their time was over, and its registry's storage may not be there.
#[tokio::test]
async fn files_that_were_never_there_end_a_submission_no_sooner_than_50_blocks_after_the_first_look() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let admissions = Admissions::new(Arc::clone(&shared));
    fs::create_dir_all(folder.path().join("mirror")).expect("makes");
    // They may come until block 45.
    for (hotkey, first, until) in [("amy", 10, 60), ("ben", 46, 96), ("cat", 900, 950)] {
        let row = submitted(ledger, hotkey, &format!("{hotkey}/model"), &[Move::Admit]).await;
        for number in [first, until] {
            let looked = admissions.look_at(&row, &king, &at(&shared, number).await, &cx).await;
            assert!(matches!(looked, Ok(Looked::Waits(_))), "{hotkey}: {looked:?}");
            let waits = ledger.submission(row.id).await.expect("read");
            assert_eq!((waits.state, waits.voids), (State::Admitted, 0), "{}", waits.reason);
            assert!(waits.reason.contains(&format!("may come until block {until}")), "{}", waits.reason);
        }
        let looked = admissions.look_at(&row, &king, &at(&shared, until + 1).await, &cx).await;
        assert_eq!(looked.expect("it has an end"), Looked::Moved);
        let ended = ledger.submission(row.id).await.expect("read");
        assert_eq!((ended.state, ended.record), (State::Expired, None), "{}", ended.reason);
        assert!(ended.reason.contains(&format!("not there by block {until}")), "{}", ended.reason);
    }
}

/// A registry that serves a manifest, and one answer for every blob that it names.
#[derive(Debug)]
struct Blobs {
    manifest: String,
    answer: Mutex<(StatusCode, &'static str)>,
}

impl Blobs {
    fn answer_with(&self, status: StatusCode, body: &'static str) {
        *self.answer.lock().expect("no panic") = (status, body);
    }
}

#[async_trait]
impl HttpTransport for Blobs {
    async fn send(&self, request: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
        let (status, body) = *self.answer.lock().expect("no panic");
        Ok(if request.url().contains("/manifests/") {
            HttpResponse::whole(StatusCode::OK, HeaderMap::new(), self.manifest.clone())
        } else {
            HttpResponse::whole(status, HeaderMap::new(), body)
        })
    }
}

/// The manifest of the files in `folder`.
fn manifest(folder: &Path) -> String {
    let layer = |path: &Path| {
        let (name, bytes) = (path.file_name().expect("a name"), fs::read(path).expect("reads"));
        json!({
            "digest": format!("sha256:{}", Digest::of(&bytes)), "size": bytes.len(),
            "annotations": { "org.opencontainers.image.title": name.to_str() },
        })
    };
    let files = fs::read_dir(folder).expect("lists").map(|entry| entry.expect("an entry").path());
    let layers: Vec<_> = files.map(|path| layer(&path)).collect();
    json!({ "schemaVersion": 2, "layers": layers }).to_string()
}

#[tokio::test]
async fn a_deleted_blob_ends_a_submission_in_time_and_an_outage_ends_none() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    DemoCompetition::open(folder.path()).expect("prepares");
    let manifest = manifest(&folder.path().join("miners/amy"));
    let pin = Digest::of(&manifest);
    let blobs = Arc::new(Blobs { manifest, answer: Mutex::new((StatusCode::OK, "")) });
    let shared = Arc::new(shared_with_registry(folder.path(), &clock, Arc::<Blobs>::clone(&blobs)).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let admissions = Admissions::new(Arc::clone(&shared));
    let (early, late, last) = (at(&shared, 45).await, at(&shared, 46).await, at(&shared, 96).await);
    let miners: [(&str, &[Move]); 3] = [
        ("amy", &[Move::Admit]),
        ("ben", &[Move::Admit, Move::ClearFiles]),
        ("dan", &[Move::Admit, Move::ClearFiles, Move::Hold]),
    ];
    for (hotkey, steps) in miners {
        let row = pinned(ledger, hotkey, &format!("{hotkey}/model"), pin, steps).await;
        // No outage and no page of a proxy says what the registry has.
        for (status, body) in [
            (StatusCode::SERVICE_UNAVAILABLE, ""),
            (StatusCode::NOT_FOUND, ""),
            (StatusCode::NOT_FOUND, "<html>404 Not Found</html>"),
        ] {
            blobs.answer_with(status, body);
            let error = admissions.look_at(&row, &king, &late, &cx).await.expect_err("an outage");
            assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Infrastructure));
            assert_eq!(ledger.submission(row.id).await.expect("read").state, row.state);
        }
        blobs.answer_with(StatusCode::NOT_FOUND, r#"{ "errors": [{ "code": "BLOB_UNKNOWN" }] }"#);
        // One look tells nothing: the hub has to say the same 50 blocks later.
        for seen in [&early, &late] {
            let looked = admissions.look_at(&row, &king, seen, &cx).await.expect("looked");
            assert!(matches!(looked, Looked::Waits(_)), "{hotkey}: {looked:?}");
            let waits = ledger.submission(row.id).await.expect("read");
            assert_eq!((waits.state, waits.voids), (row.state, 0));
            assert!(waits.reason.contains("may come back until block 95"), "{}", waits.reason);
        }
        let looked = admissions.look_at(&row, &king, &last, &cx).await.expect("looked");
        assert_eq!(looked, Looked::Moved);
        let ended = ledger.submission(row.id).await.expect("read");
        assert_eq!((ended.state, ended.record), (State::Expired, None), "{}", ended.reason);
        assert!(ended.reason.contains("no longer had its files"), "{}", ended.reason);
    }
}

/// A registry whose name cannot be resolved, and how often it was asked for.
#[derive(Debug, Default)]
struct Nowhere(AtomicU32);

#[async_trait]
impl HttpTransport for Nowhere {
    async fn send(&self, request: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(Error::new(ErrorKind::Unavailable, request.operation(), "the name cannot be resolved"))
    }
}

#[tokio::test]
async fn a_reference_that_no_hub_can_have_is_set_aside_and_one_whose_hub_is_away_waits() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let nowhere = Arc::new(Nowhere::default());
    let built = shared_with_registry(folder.path(), &clock, Arc::<Nowhere>::clone(&nowhere)).await;
    let shared = Arc::new(built);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    // Files may come until block 45.
    shared.seen.send_replace(Some(Arc::new(at(&shared, 46).await)));
    let admissions = Admissions::new(Arc::clone(&shared));
    let step = async |row: &SubmissionRow| {
        assert_eq!(admissions.step(&cx).await.expect("a step"), Next::Now);
        ledger.submission(row.id).await.expect("read")
    };
    let alerts = async || {
        let alerts = ledger.alerts().await.expect("read");
        alerts.into_iter().map(|alert| alert.key).collect::<Vec<_>>()
    };
    let before: [&[Move]; 2] = [&[], &[Move::Admit]];
    for repository in
        ["evil.com/x", "no-such-host.invalid/owner/model", "localhost/model", "Owner/model", "owner/a___b"]
    {
        for steps in before {
            let pin = Digest::of(format!("{repository} after {}", steps.len()));
            let row = pinned(ledger, "amy", repository, pin, steps).await;
            if !steps.is_empty() {
                // An earlier build has admitted it, and tries it again and again.
                let error = Error::new(ErrorKind::ConfigInvalid, "resolve a model", "another registry");
                admissions.failed(&row, error).await.expect("noted");
                assert_eq!(alerts().await, [HELD_UP]);
                clock.pass(Duration::from_mins(10));
            }
            let ended = step(&row).await;
            assert_eq!((ended.state, ended.record), (State::SetAside, None), "{}", ended.reason);
            assert!(ended.reason.contains(repository), "{}", ended.reason);
            assert!(alerts().await.is_empty(), "{repository}");
            let moves = ledger.moves(Some(row.id), 0).await.expect("read");
            assert_eq!(moves.iter().filter(|step| step.to == "set_aside").count(), 1, "{moves:?}");
        }
    }
    assert_eq!(ledger.spent(king.id).await.expect("read").attempts, 0);
    assert_eq!(nowhere.0.load(Ordering::Relaxed), 0, "nobody is asked");

    // The miner may commit again. The configured registry may be named, and its outage ends nothing.
    for (hotkey, repository) in [("amy", "amy/model"), ("ben", "registry.hippius.com/ben/model")] {
        let row = submitted(ledger, hotkey, repository, &[]).await;
        let admitted = step(&row).await;
        assert_eq!(admitted.state, State::Admitted, "{}", admitted.reason);
        let waits = step(&row).await;
        assert_eq!((waits.state, waits.voids), (State::Admitted, 1), "{}", waits.reason);
        assert!(waits.reason.contains("cannot be resolved"), "{}", waits.reason);
    }
    assert!(nowhere.0.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn nobody_is_judged_by_the_chain_before_the_commitment() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let admissions = Admissions::new(Arc::clone(&shared));
    let nobody = async |number: BlockNumber| {
        let seen = at(&shared, number).await;
        Seen { metagraph: Metagraph { neurons: Vec::new() }, ..seen }
    };
    let miners: [(&str, &[Move]); 4] = [
        ("amy", &[]),
        ("cat", &[Move::Admit]),
        ("ben", &[Move::Admit, Move::ClearFiles]),
        ("dan", &[Move::Admit, Move::ClearFiles, Move::Hold]),
    ];
    for (hotkey, steps) in miners {
        let row = submitted(ledger, hotkey, &format!("{hotkey}/model"), steps).await;
        let looked = admissions.look_at(&row, &king, &nobody(4).await, &cx).await.expect("looked");
        assert!(matches!(looked, Looked::Waits(_)), "{hotkey}: {looked:?}");
        assert_eq!(ledger.submission(row.id).await.expect("read").state, row.state);
        admissions.look_at(&row, &king, &nobody(5).await, &cx).await.expect("looked");
        let row = ledger.submission(row.id).await.expect("read");
        assert_eq!(row.state, State::SetAside, "{hotkey}: {}", row.reason);
        assert!(row.reason.contains("not registered"), "{}", row.reason);
    }
    let row = submitted(ledger, "eve", "eve/model", &[]).await;
    admissions.look_at(&row, &king, &at(&shared, 5).await, &cx).await.expect("looked");
    assert_eq!(ledger.submission(row.id).await.expect("read").state, State::Admitted);
}

#[tokio::test]
async fn nothing_is_a_copy_of_its_own_earlier_try_or_of_what_came_later() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let ledger = &shared.ledger;
    let steps = [Move::Admit, Move::ClearFiles];
    let first = submitted(ledger, "amy", "amy/first", &steps).await;
    ledger.step(first.id, Move::Expire, Reason::new("gone"), 3).await.expect("moved");
    let again = submitted(ledger, "amy", "amy/second", &steps).await;
    // The store may have it before the ledger says so: the process may be killed in between.
    let later = submitted(ledger, "ben", "ben/model", &[Move::Admit, Move::ClearFiles, Move::Hold]).await;
    // The same weights beside another README: another pin and another content.
    let other = pinned(ledger, "amy", "amy/third", Digest::of("other files"), &[Move::Admit]).await;
    let admissions = Admissions::new(Arc::clone(&shared));
    let labels = async |row: &SubmissionRow| admissions.labels(row, &CallContext::new()).await.expect("read");
    assert_eq!(labels(&again).await, [&first, &other, &later, &again].map(label));
    assert_eq!(labels(&other).await, [&first, &later, &other].map(label));
    assert_eq!(labels(&later).await, [label(&later)]);
}

#[tokio::test]
async fn nothing_forfeits_for_its_likeness_to_a_king_who_committed_later() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let genesis = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let admissions = Admissions::new(Arc::clone(&shared));
    let (late, steps) = (at(&shared, 46).await, [Move::Admit, Move::ClearFiles, Move::Hold]);
    let submitted = async |hotkey: &str| {
        let repository = format!("{hotkey}/model");
        let pin = uploaded(folder.path(), "ben", &repository);
        pinned(ledger, hotkey, &repository, pin, &steps).await
    };
    let crowned = submitted("ben").await;
    let model = ModelRef::from(folder.path().join("miners/ben"));
    let king = KingRow { model, submission: Some(crowned.id), ..genesis };
    // The earlier one was overtaken while it could not be screened; the later one is a copy.
    for (hotkey, state) in [("amy", State::SetAside), ("cat", State::Forfeit)] {
        let row = submitted(hotkey).await;
        let looked = admissions.look_at(&row, &king, &late, &cx).await.expect("screened");
        assert_eq!(looked, Looked::Moved);
        let ended = ledger.submission(row.id).await.expect("read");
        assert_eq!((ended.state, ended.record.is_some()), (state, state == State::Forfeit), "{ended:?}");
        assert!(ended.reason.contains("the king"), "{}", ended.reason);
        assert_eq!(
            ended.reason.contains("ben, who committed later"),
            state == State::SetAside,
            "{}",
            ended.reason
        );
    }
}

#[tokio::test]
async fn a_broken_model_that_is_held_is_convicted_although_its_repository_is_gone() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let admissions = Admissions::new(Arc::clone(&shared));
    let (early, late, last) = (at(&shared, 45).await, at(&shared, 46).await, at(&shared, 96).await);
    let broken = Error::new(ErrorKind::DataInvalid, "load the model", "two tensors overlap")
        .with_fault(Fault::Contestant(Side::Challenger));
    let mut rows = Vec::new();
    for hotkey in ["amy", "ben"] {
        let repository = format!("{hotkey}/model");
        let pin = uploaded(folder.path(), hotkey, &repository);
        let steps = [Move::Admit, Move::ClearFiles, Move::Hold];
        rows.push(pinned(ledger, hotkey, &repository, pin, &steps).await);
    }
    let held = ModelRef::from(admissions.reference(&rows[0]).expect("a reference"));
    shared.models.local(&held, &cx).await.expect("brought here");
    for repository in fs::read_dir(folder.path().join("mirror")).expect("lists") {
        fs::remove_dir_all(repository.expect("an entry").path()).expect("deletes");
    }
    let convict = async |row: &SubmissionRow, seen: &Seen| {
        let convicted = admissions.convict(row, &king, "load", broken.clone(), seen, &cx);
        let looked = convicted.await.expect("it has an end");
        (looked, ledger.submission(row.id).await.expect("read"))
    };
    let (looked, ended) = convict(&rows[0], &early).await;
    assert_eq!((looked, ended.state), (Looked::Moved, State::Forfeit), "{}", ended.reason);
    assert!(ended.record.is_some() && ended.reason.contains("two tensors overlap"), "{ended:?}");
    // Nothing shows any more what the other one was.
    for seen in [&early, &late] {
        let (looked, waits) = convict(&rows[1], seen).await;
        assert!(matches!(looked, Looked::Waits(_)) && waits.state == State::Held, "{looked:?} {waits:?}");
    }
    let (looked, ended) = convict(&rows[1], &last).await;
    assert_eq!(
        (looked, ended.state, ended.record),
        (Looked::Moved, State::Expired, None),
        "{}",
        ended.reason
    );
}

#[tokio::test]
async fn the_alert_of_what_is_held_up_stands_while_others_move() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    shared.seen.send_replace(Some(Arc::new(at(&shared, 46).await)));
    let admissions = Admissions::new(Arc::clone(&shared));
    let another_moves = async |hotkey: &str| {
        let row = submitted(ledger, hotkey, &format!("{hotkey}/model"), &[]).await;
        assert_eq!(admissions.step(&cx).await.expect("a step"), Next::Now);
        assert_eq!(ledger.submission(row.id).await.expect("read").state, State::Admitted);
        ledger.step(row.id, Move::SetAside, Reason::new("over"), 9).await.expect("moved");
        let alerts = ledger.alerts().await.expect("read");
        alerts.into_iter().map(|alert| alert.key).collect::<Vec<_>>()
    };
    let outage = Error::new(ErrorKind::Unavailable, "fetch a file", "down");
    let operators = outage.clone().with_fault(Fault::Operator);
    for (hotkey, error, times, [first, second]) in
        [("amy", outage, REPORTED + 1, ["ben", "cat"]), ("dan", operators, 1, ["eve", "fay"])]
    {
        let row = submitted(ledger, hotkey, &format!("{hotkey}/model"), &[Move::Admit]).await;
        for _ in 0..times {
            let row = ledger.submission(row.id).await.expect("read");
            admissions.failed(&row, error.clone()).await.expect("noted");
        }
        assert_eq!(another_moves(first).await, [HELD_UP], "{hotkey}");
        ledger.step(row.id, Move::SetAside, Reason::new("over"), 9).await.expect("moved");
        assert!(another_moves(second).await.is_empty(), "{hotkey}");
    }
}

#[test]
fn a_model_that_a_server_could_not_fetch_is_told_from_an_outage() {
    let reference =
        |name: &str| HubRef::new("oci", name, Revision::Sha256(Digest::of(name))).expect("a reference");
    let (own, kings) = (reference("ann/model"), reference("a/king"));
    let lacks = |model: &HubRef| {
        Error::new(ErrorKind::NotFound, "load the model", "the hub does not have it").with("model", model)
    };
    let is_it = |error: &Error| is_unfetched(&admission([Finding::unverified(error)]), &own);
    assert!(is_it(&lacks(&own)));
    assert!(!is_it(&lacks(&own).with_fault(Fault::Infrastructure)), "an outage");
    assert!(!is_it(&lacks(&kings)), "the king");
    assert!(!is_unfetched(&admission([Finding::Clear(json!({}))]), &own));
}

/// A challenger is loaded with the king's text until it reigns.
#[tokio::test]
async fn what_could_not_be_loaded_as_the_king_is_the_challengers_mistake() {
    let folder = tempfile::tempdir().expect("a folder");
    DemoCompetition::open(folder.path()).expect("prepares");
    let (king, miner) = (folder.path().join("models/king"), folder.path().join("miners/ben"));
    let check = async || check_text(miner.clone(), king.clone()).await;
    check().await.expect("the king's own text");
    let file = miner.join("tokenizer.json");
    let text = fs::read_to_string(&file).expect("reads");
    let with = |member: &str| text.replacen('{', &format!("{{{member},"), 1);
    let tokenizer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let changed = |key: &str, value: serde_json::Value| {
        let mut tokenizer = tokenizer.clone();
        tokenizer[key] = value;
        tokenizer.to_string()
    };
    for broken in [
        changed("version", json!("2.0")),
        changed("truncation", json!(5)),
        changed("padding", json!([])),
        with(&format!("\"pre_tokenizer\":{}", tokenizer["pre_tokenizer"])),
    ] {
        fs::write(&file, broken).expect("writes");
        let error = check().await.expect_err("no backend loads it");
        assert_eq!(error.fault(), Fault::Contestant(Side::Challenger), "{error}");
    }
    // What this machine fails to read convicts nobody.
    fs::remove_file(&file).expect("deletes");
    assert_ne!(check().await.expect_err("no file").fault(), Fault::Contestant(Side::Challenger));
    // Nor does a model without text where the king has none either.
    fs::remove_file(king.join("tokenizer.json")).expect("deletes");
    check().await.expect("the backend reads other files");
}

/// `ben`'s model with files that `change` has changed: a submission in `repository` of the mirror,
/// which is held.
async fn held(
    shared: &Shared,
    folder: &Path,
    repository: &str,
    change: &dyn Fn(&Path),
) -> (SubmissionRow, ModelRef) {
    let changed = folder.join("miners/changed");
    if changed.exists() {
        fs::remove_dir_all(&changed).expect("deletes");
    }
    fs::create_dir(&changed).expect("makes");
    for entry in fs::read_dir(folder.join("miners/ben")).expect("lists") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), changed.join(entry.file_name())).expect("copies");
    }
    change(&changed);
    let pin = uploaded(folder, "changed", repository);
    let steps = [Move::Admit, Move::ClearFiles, Move::Hold];
    let row = pinned(&shared.ledger, "amy", repository, pin, &steps).await;
    let model = ModelRef::from(shared.models.reference(&row.repository, &row.pin).expect("a reference"));
    shared.models.local(&model, &CallContext::new()).await.expect("brought here");
    (row, model)
}

#[tokio::test]
async fn a_submission_without_a_text_file_of_the_kings_forfeits_whatever_becomes_of_its_hub() {
    type Change = Box<dyn Fn(&Path)>;
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let mut shared = shared(folder.path(), &clock).await;
    // The screen `files` asks for these files before they are fetched: here is none.
    shared.screens = Vec::new();
    let shared = Arc::new(shared);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let admissions = Admissions::new(Arc::clone(&shared));
    let late = at(&shared, 46).await;
    let (mirror, away) = (folder.path().join("mirror"), folder.path().join("unmounted"));
    let without = |name: &'static str| -> Change {
        Box::new(move |model: &Path| fs::remove_file(model.join(name)).expect("deletes"))
    };
    let without_template: Change = Box::new(|model: &Path| {
        let file = model.join("tokenizer_config.json");
        let text = fs::read_to_string(&file).expect("reads");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        config.as_object_mut().and_then(|config| config.remove("chat_template")).expect("it has one");
        fs::write(&file, config.to_string()).expect("writes");
    });
    let cases: [(&str, Change, Option<&str>); 5] = [
        ("whole", Box::new(|_: &Path| ()), None),
        // The ids that end a reply are in `config.json`, too.
        ("no-generation", without("generation_config.json"), None),
        ("no-tokenizer", without("tokenizer.json"), Some("(file: tokenizer.json)")),
        ("no-settings", without("tokenizer_config.json"), Some("(file: tokenizer_config.json)")),
        ("no-template", without_template, Some("there is no chat template")),
    ];
    for (name, change, lacks) in &cases {
        for hub in ["there", "away", "deleted"] {
            let repository = format!("{hub}/{name}");
            let (row, _) = held(&shared, folder.path(), &repository, change).await;
            match hub {
                "away" => fs::rename(&mirror, &away).expect("goes away"),
                "deleted" => fs::remove_dir_all(mirror.join(&repository)).expect("deletes"),
                _ => {}
            }
            let looked = admissions.look_at(&row, &king, &late, &cx).await;
            assert_eq!(looked.expect("it has an end"), Looked::Moved, "{repository}");
            let ended = ledger.submission(row.id).await.expect("read");
            let state = if lacks.is_some() { State::Forfeit } else { State::Clear };
            assert_eq!((ended.state, ended.voids), (state, 0), "{repository}: {}", ended.reason);
            assert_eq!(ended.record.is_some(), lacks.is_some(), "{repository}");
            assert!(ended.reason.contains(lacks.unwrap_or("every screen passed it")), "{}", ended.reason);
            if hub == "away" {
                fs::rename(&away, &mirror).expect("is back");
            }
        }
    }
}

#[tokio::test]
async fn a_text_file_that_this_disk_has_lost_is_no_mistake_of_the_submissions() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let mut shared = shared(folder.path(), &clock).await;
    shared.screens = Vec::new();
    let shared = Arc::new(shared);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let admissions = Admissions::new(Arc::clone(&shared));
    let late = at(&shared, 46).await;
    let (row, model) = held(&shared, folder.path(), "amy/model", &|_: &Path| ()).await;
    let local = shared.models.local(&model, &cx).await.expect("held");
    let kings = shared.models.local(&king.model, &cx).await.expect("a folder");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::remove_file(local.folder.join(name)).expect("is lost");
        assert_eq!(lacking_text(&local, &kings.folder), None, "{name} was handed in");
    }
    assert_eq!(lacking_text(&kings, &kings.folder), None, "nothing tells what was handed in");
    // It is fetched again, once its hub is there.
    let (mirror, away) = (folder.path().join("mirror"), folder.path().join("unmounted"));
    fs::rename(&mirror, &away).expect("goes away");
    let error = admissions.look_at(&row, &king, &late, &cx).await.expect_err("an outage");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Infrastructure), "{error}");
    assert_eq!(ledger.submission(row.id).await.expect("read").state, State::Held);
    fs::rename(&away, &mirror).expect("is back");
    admissions.look_at(&row, &king, &late, &cx).await.expect("screened");
    let ended = ledger.submission(row.id).await.expect("read");
    assert_eq!(ended.state, State::Clear, "{}", ended.reason);
}

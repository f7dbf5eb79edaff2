//! Submissions that fail again and again: what ends them, and which alerts the operator gets.

use super::*;

/// The numbers of all submissions that wait, by hotkey.
async fn id(ledger: &Ledger, hotkey: &str) -> i64 {
    let live = ledger.live().await.expect("read");
    live.iter().find(|row| row.hotkey.0 == hotkey).expect("it waits").id
}

#[tokio::test]
async fn an_operator_who_was_told_of_one_that_is_held_up_hears_of_the_next_one() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let ledger = &shared.ledger;
    let admissions = Admissions::new(Arc::clone(&shared));
    let refused = Error::new(ErrorKind::Unavailable, "list the files", "the hub refuses the key (403)");
    let refused = refused.with_fault(Fault::Operator);
    let fails = async |hotkey: &str| {
        let row = ledger.submission(id(ledger, hotkey).await).await.expect("read");
        admissions.failed(&row, refused.clone()).await.expect("noted");
    };
    // What is sent at once, and an hour later.
    let told = async || {
        clock.pass(Duration::from_hours(1));
        let (now_ms, quiet) = (shared.time.now_ms(), Duration::from_hours(1));
        let notice = ledger.untold(Duration::ZERO, quiet, now_ms).await.expect("read")?;
        ledger.told(&notice, now_ms).await.expect("noted");
        assert_eq!((notice.alert.key.as_str(), notice.is_over), (HELD_UP, false));
        Some(notice.alert.message)
    };
    let mut ids = Vec::new();
    for hotkey in ["amy", "ben", "cat"] {
        submitted(ledger, hotkey, &format!("{hotkey}/model"), &[Move::Admit]).await;
        ids.push(id(ledger, hotkey).await);
    }
    fails("amy").await;
    let said = told().await.expect("it begins");
    assert!(said.contains(&format!("(submission: {})", ids[0])), "{said}");
    fails("amy").await;
    assert_eq!(told().await, None, "it is no news");
    fails("ben").await;
    fails("amy").await;
    fails("cat").await;
    let said = told().await.expect("two more");
    let named = format!("(submission: {}, held up, too: {} {})", ids[2], ids[0], ids[1]);
    assert!(said.contains(&named), "{said}");
    for hotkey in ["cat", "amy", "ben"] {
        fails(hotkey).await;
        assert_eq!(told().await, None, "{hotkey}");
    }
    assert_eq!(ledger.alerts().await.expect("read").len(), 1, "it is one alert");
}

#[test]
fn a_long_outage_makes_no_long_alert() {
    let error = || Error::new(ErrorKind::Unavailable, "list the files", "down");
    assert!(held_up(7, &[], error()).to_string().ends_with("(submission: 7)"));
    let others: Vec<i64> = (10..30).collect();
    let said = held_up(7, &others, error()).to_string();
    assert!(said.ends_with("held up, too: 10 11 12 13 14 15 16 17 and 12 more)"), "{said}");
    let said = held_up(7, &others[..8], error()).to_string();
    assert!(said.ends_with("held up, too: 10 11 12 13 14 15 16 17)"), "{said}");
}

#[tokio::test]
async fn an_operator_sets_aside_what_no_hub_gives() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    shared.seen.send_replace(Some(Arc::new(at(&shared, 46).await)));
    let admissions = Admissions::new(Arc::clone(&shared));
    let refused = Error::new(ErrorKind::Unavailable, "list the files", "the hub refuses the key (403)");
    let before: [&[Move]; 4] =
        [&[], &[Move::Admit], &[Move::Admit, Move::ClearFiles], &[Move::Admit, Move::ClearFiles, Move::Hold]];
    for (steps, hotkey) in before.into_iter().zip(["amy", "ben", "cat", "dan"]) {
        let row = submitted(ledger, hotkey, &format!("{hotkey}/model"), steps).await;
        admissions.failed(&row, refused.clone().with_fault(Fault::Operator)).await.expect("noted");
        ledger.set_aside(row.id, "its project is private".into()).await.expect("asked");
        assert_eq!(admissions.step(&cx).await.expect("a step"), Next::Now, "{hotkey}");
        let ended = ledger.submission(row.id).await.expect("read");
        assert_eq!((ended.state, ended.record), (State::SetAside, None), "{}", ended.reason);
        assert_eq!(ended.reason, "the operator has set it aside: its project is private");
        assert!(ledger.alerts().await.expect("read").is_empty(), "{hotkey}");
    }
    assert_eq!(ledger.spent(king.id).await.expect("read").attempts, 0);
}

const COMMIT: &str = "1cfa9a7208912126459214e8b04321603b3df60c";

/// Hugging Face with the listings of one repository, one after the other; the last one stays.
#[derive(Debug)]
struct HuggingFace(Mutex<Vec<serde_json::Value>>);

#[async_trait]
impl HttpTransport for HuggingFace {
    async fn send(&self, request: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
        let body = if request.url().contains("/revision/") {
            json!({ "sha": COMMIT })
        } else {
            assert!(request.url().contains("/tree/"), "{}", request.url());
            let mut listings = self.0.lock().expect("no panic");
            if listings.len() > 1 { listings.remove(0) } else { listings[0].clone() }
        };
        Ok(HttpResponse::whole(StatusCode::OK, HeaderMap::new(), body.to_string()))
    }
}

/// Files of Hugging Face with so many bytes, which LFS keeps or not.
fn listing(files: &[(u64, bool)]) -> serde_json::Value {
    let file = |(number, (bytes, large)): (usize, &(u64, bool))| {
        let path = format!("{number}.safetensors");
        let mut file = json!({ "type": "file", "oid": "0", "size": bytes, "path": path });
        if *large {
            file["lfs"] = json!({ "oid": Digest::of(&path).to_string(), "size": bytes });
        }
        file
    };
    files.iter().enumerate().map(file).collect()
}

#[tokio::test]
async fn a_model_that_its_listing_says_is_too_large_is_its_miners_mistake() {
    const GIB: u64 = 1 << 30;
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let hub = Arc::new(HuggingFace(Mutex::default()));
    let built = shared_with_registry(folder.path(), &clock, Arc::<HuggingFace>::clone(&hub)).await;
    let shared = Arc::new(built);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let admissions = Admissions::new(Arc::clone(&shared));
    let seen = at(&shared, 46).await;
    let (large, usual) = (listing(&[(200 * GIB, true)]), listing(&[(GIB, true)]));
    let many = listing(&[(15 << 20, false); 5]);
    // A hub that no longer tells which files are large lists all weights as small ones.
    let without = listing(&[(GIB, false); 4]);
    for (hotkey, listings, said) in [
        ("amy", vec![large.clone()], Ok("the model is larger than allowed")),
        ("ben", vec![many], Ok("too many bytes in files that Git keeps itself")),
        ("cat", vec![large, usual], Err("the model is larger than allowed")),
        ("dan", vec![without], Err("a large file has no SHA-256 at the hub")),
    ] {
        // Its files are listed, and once more before they are fetched.
        let before: [&[Move]; 2] = [&[Move::Admit], &[Move::Admit, Move::ClearFiles]];
        for steps in before {
            *hub.0.lock().expect("no panic") = listings.clone();
            let text = format!("v7|{hotkey}/model-{}|{COMMIT}", steps.len());
            let row = super::owners::committed(ledger, hotkey, text, 4, steps).await;
            let looked = admissions.look_at(&row, &king, &seen, &cx).await;
            let ended = ledger.submission(row.id).await.expect("read");
            match (looked, said) {
                (Ok(Looked::Moved), Ok(said)) => {
                    let found = (ended.state, ended.record.is_some());
                    assert_eq!(found, (State::Forfeit, true), "{}", ended.reason);
                    assert!(ended.reason.contains(said), "{}", ended.reason);
                }
                (Err(error), Err(said)) => {
                    assert_eq!((error.fault(), ended.state), (Fault::Infrastructure, row.state), "{error}");
                    assert!(error.to_string().contains(said), "{error}");
                }
                other => panic!("{hotkey}: {other:?}, {}", ended.reason),
            }
        }
    }
}

//! Duels that cannot be audited.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::wrong::{Stop, Wrong};
use super::{EPOCHS, Followed, UNFREEZE, announcement};
use crate::chain::EpochIndex;
use crate::log::{End, Ended, Entry, History};
use crate::validator::ledger::{Cause, FollowedRow, Ledger};
use crate::validator::models::Presence;
use crate::validator::parts::{Base, Seen};
use crate::{CallContext, Digest, Error, Fault, Outcome, Result};

/// Later duels whose models are looked for while an earlier one waits. Source: albedo; two days of
/// duels.
const LOOKED_FOR: usize = 64;

/// After so long a look for later models asks no further hub. Source: albedo; a small part of what a step
/// may take.
const LONGEST_LOOK: Duration = Duration::from_mins(10);

impl Followed {
    /// Goes on from the next entry's duel although the files of a model are gone, refused or damaged, as
    /// `error` says.
    pub(super) async fn unaudited(
        &self,
        row: &FollowedRow,
        history: &History,
        error: Error,
        seen: &Seen,
        cx: &CallContext,
    ) -> Result<(), Stop> {
        let (ledger, epoch) = (&self.base().ledger, seen.subnet.epoch);
        match WithoutAudit::of(ledger, row, crowns(history, row.next), epoch).await? {
            WithoutAudit::Taken => {
                tracing::warn!(%error, "the duel is followed without an audit");
                ledger.take_unaudited(row.next).await?;
                Ok(())
            }
            WithoutAudit::Refused => {
                let error = error.with_fault(Fault::Operator).with_hint(UNFREEZE);
                Err(Wrong { cause: Cause::Audit, error }.into())
            }
            WithoutAudit::Waits => {
                self.look_for_later(row, history, epoch, cx).await?;
                let hint = "nothing: it is tried again; after two epochs a duel without a crown is followed, and a \
                            crown is refused";
                Err(Stop::Failed(error.with_fault(Fault::Infrastructure).with_hint(hint)))
            }
        }
    }

    /// Notes which later duels, whose records are published, the hub does not have a model of in
    /// `epoch`: they wait at the same time as the next one, and not one after the other.
    ///
    /// A look ends at the first model of which its hub tells nothing, and after [`LONGEST_LOOK`]. The
    /// next look goes on from there.
    async fn look_for_later(
        &self,
        row: &FollowedRow,
        history: &History,
        epoch: EpochIndex,
        cx: &CallContext,
    ) -> Result<()> {
        let (Base { ledger, time, .. }, models) = (self.base(), &self.following.models);
        let (began_ms, begin) = (time.now_ms(), self.later.load(Ordering::Relaxed));
        let king = self.king().await?;
        // The first king is named by this validator's own configuration.
        let mut kings = king.hotkey.is_none().then_some(Presence::There);
        let mut king = king.model;
        let next = usize::try_from(row.next).unwrap_or(usize::MAX);
        let mut left = LOOKED_FOR;
        for (place, entry) in (0_u64..).zip(history.entries()).skip(next) {
            let Some((announced, record, crowns)) = recorded(entry) else { continue };
            // What does not fit the log is refused in its turn.
            let Ok(announced) = announcement(history, announced) else { continue };
            let Some(submission) = &announced.submission else { continue };
            let challenger = self.model(submission);
            let mut challengers = None;
            // What crowns nobody is not waited for before all of the log was followed once.
            if place > row.next && (crowns || row.caught_up) {
                if left == 0 {
                    break;
                }
                left -= 1;
                if place >= begin && self.following.source.has(record, cx).await? {
                    if time.now_ms().saturating_sub(began_ms) > LONGEST_LOOK.as_millis() as u64 {
                        self.later.store(place, Ordering::Relaxed);
                        return Ok(());
                    }
                    let of_king = match kings {
                        Some(presence) => presence,
                        None => models.presence(&king, cx).await?,
                    };
                    let of_challenger = models.presence(&challenger, cx).await?;
                    (kings, challengers) = (Some(of_king), Some(of_challenger));
                    let found = [of_king, of_challenger];
                    if found.contains(&Presence::Absent) || found.contains(&Presence::Refused) {
                        ledger.note_missing(place, epoch).await?;
                    } else if found == [Presence::There; 2] {
                        ledger.note_found(place).await?;
                    }
                    if found.contains(&Presence::Unknown) {
                        self.later.store(place + 1, Ordering::Relaxed);
                        return Ok(());
                    }
                }
            }
            if crowns {
                (king, kings) = (challenger, challengers);
            }
        }
        self.later.store(0, Ordering::Relaxed);
        Ok(())
    }
}

/// The place of the announcement of the duel that `entry` ends with a record, the record, and whether
/// it crowns.
fn recorded(entry: &Entry) -> Option<(u64, Digest, bool)> {
    let Entry::Ended(Ended { announced, end: End::Recorded { record, outcome, .. } }) = entry else {
        return None;
    };
    Some((*announced, *record, *outcome == Outcome::Dethroned))
}

/// Whether the entry at `place` ends a duel with a crown.
fn crowns(history: &History, place: u64) -> bool {
    let entry = usize::try_from(place).ok().and_then(|place| history.entries().get(place));
    entry.and_then(recorded).is_some_and(|(.., crowns)| crowns)
}

/// What becomes of a duel that cannot be audited.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WithoutAudit {
    Waits,
    Taken,
    Refused,
}

impl WithoutAudit {
    /// What becomes of the duel that the next entry of `row` ends, perhaps with a crown, and whose
    /// models' files are not to be had in `epoch`. The epochs count from when they were missing first: a
    /// duel takes some, and so may an outage before its audit. They begin anew if nobody has looked for
    /// more than an epoch.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) async fn of(
        ledger: &Ledger,
        row: &FollowedRow,
        crowns: bool,
        epoch: EpochIndex,
    ) -> Result<Self> {
        let since = ledger.note_missing(row.next, epoch).await?;
        Ok(without_audit(crowns, epoch.saturating_sub(since), row.caught_up))
    }
}

/// What becomes of a duel whose models' files are not to be had, for so many epochs. A miner may delete
/// or hide them at any time: only a crown is refused for that. What was over before all of the log was
/// followed once is not waited for.
fn without_audit(crowns: bool, waited: EpochIndex, caught_up: bool) -> WithoutAudit {
    match (crowns, waited >= EPOCHS) {
        (true, true) => WithoutAudit::Refused,
        (false, has_waited) if has_waited || !caught_up => WithoutAudit::Taken,
        _ => WithoutAudit::Waits,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use async_trait::async_trait;
    use serde_json::json;

    use super::*;
    use crate::chain::Hotkey;
    use crate::http::{HeaderMap, HttpRequest, HttpResponse, HttpTransport, StatusCode};
    use crate::log::{Announced, Head, Submission};
    use crate::publish::RecordManifest;
    use crate::signer::KeyFile;
    use crate::validator::ValidatorConfig;
    use crate::validator::following::Following;
    use crate::validator::ledger::{Effect, Verified};
    use crate::validator::parts::testing::Quick;
    use crate::verdict::Holds;
    use crate::{BuildContext, ErrorKind, ModelRef, Record, Registry, Resources};

    #[test]
    fn a_duel_whose_models_are_gone_stops_nobody_unless_it_crowned() {
        use WithoutAudit::{Refused, Taken, Waits};
        assert_eq!(
            [0, 1, 2, 9].map(|waited| without_audit(false, waited, true)),
            [Waits, Waits, Taken, Taken]
        );
        assert_eq!([0, 1, 2].map(|waited| without_audit(false, waited, false)), [Taken, Taken, Taken]);
        for caught_up in [false, true] {
            let crowned = [0, 1, 2].map(|waited| without_audit(true, waited, caught_up));
            assert_eq!(crowned, [Waits, Waits, Refused], "{caught_up}");
        }
    }

    /// The announcement of a duel of `submission`.
    fn announced(submission: Option<Submission>) -> Announced {
        let digest = Digest::of("a");
        Announced { plan: digest, judges: vec![digest], king: digest, challenger: digest, submission }
    }

    /// The end of the duel that entry `announced` has announced.
    fn ended(announced: u64, record: Digest, outcome: Outcome) -> Entry {
        let end = End::Recorded { plan: Digest::of("a"), record, outcome };
        Entry::Ended(Ended { announced, end })
    }

    /// The head of a log of `entries`.
    fn head(entries: &[Entry]) -> Head {
        let key = KeyFile::from_seed(&[7; 32]);
        Head::sign("example.com/log", entries.len() as u64, Digest::of("a"), &key).expect("signed")
    }

    /// Has `ledger` follow a log whose duel against `king` was announced in epoch 5, and whose
    /// entry 1 ends it.
    async fn follow(ledger: &Ledger, king: ModelRef) {
        let entries = vec![Entry::Announced(announced(None)), ended(0, Digest::of("a"), Outcome::Dethroned)];
        follow_log(ledger, king, entries).await;
    }

    /// The same with more entries behind.
    async fn follow_log(ledger: &Ledger, king: ModelRef, entries: Vec<Entry>) {
        ledger.begin_reign(king, 1).await.expect("a king");
        let (digest, head) = (Digest::of("a"), head(&entries));
        ledger.follow(&Hotkey("them".into()), &head, "key", 5).await.expect("followed");
        ledger.keep_followed(entries, &head, "news".into(), 5, 2).await.expect("kept");
        ledger.follow_entry(0, Effect::Announced { king: digest }, 5, 3).await.expect("followed");
        ledger.caught_up().await.expect("noted");
        let verified = Verified {
            place: 1,
            record: digest,
            announced: Some(0),
            seen_block: 9,
            on_chain: true,
            replies: 24,
        };
        ledger.note_verified(verified, 4).await.expect("noted");
    }

    /// The record is here in epoch 8.
    #[tokio::test]
    async fn an_audit_is_waited_for_from_when_a_model_was_missing_first() {
        use WithoutAudit::{Refused, Taken, Waits};
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.sqlite");
        let ledger = Ledger::open(&path).expect("made");
        follow(&ledger, ModelRef::served("the first king")).await;

        let row = ledger.followed().await.expect("read").expect("followed");
        let of = async |ledger: &Ledger, epoch| {
            let lost = WithoutAudit::of(ledger, &row, false, epoch).await.expect("noted");
            [lost, WithoutAudit::of(ledger, &row, true, epoch).await.expect("noted")]
        };
        assert_eq!(of(&ledger, 8).await, [Waits, Waits]);
        // A restart begins no wait anew, and ends none.
        drop(ledger);
        let ledger = Ledger::open(&path).expect("opens");
        assert_eq!(of(&ledger, 9).await, [Waits, Waits]);
        assert_eq!(of(&ledger, 10).await, [Taken, Refused]);
        // They were back, and are gone again.
        ledger.note_found(1).await.expect("noted");
        assert_eq!(of(&ledger, 11).await, [Waits, Waits]);
        assert_eq!(of(&ledger, 12).await, [Waits, Waits]);
        assert_eq!(of(&ledger, 13).await, [Taken, Refused]);
        // Nobody has looked for some epochs: they may have been there meanwhile.
        assert_eq!(of(&ledger, 20).await, [Waits, Waits]);
    }

    /// A registry that says at first that it does not have a model, and what it answers from then on:
    /// for its manifest, and for its one file.
    #[derive(Debug)]
    struct Flickers {
        asked: AtomicU32,
        manifest: (StatusCode, String),
        file: (StatusCode, &'static str),
    }

    #[async_trait]
    impl HttpTransport for Flickers {
        async fn send(&self, request: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
            let (status, body) = if self.asked.fetch_add(1, Ordering::Relaxed) == 0 {
                (StatusCode::NOT_FOUND, r#"{ "errors": [{ "code": "MANIFEST_UNKNOWN" }] }"#)
            } else if request.url().contains("/manifests/") {
                (self.manifest.0, &*self.manifest.1)
            } else {
                self.file
            };
            Ok(HttpResponse::whole(status, HeaderMap::new(), body.to_owned()))
        }
    }

    /// What a validator in `folder` follows with that audits replies; `hub` answers for the registry.
    async fn following(folder: &Path, hub: Arc<dyn HttpTransport>) -> Following {
        let text = format!(
            r#"
            state = "{folder}/state"
            hotkey = "validator"
            operate.reserve_gb = 0
            chain = {{ name = "local", path = "{folder}/chain.sqlite" }}
            genesis.path = "{demo}/models/king"
            backend.name = "burn"
            follow = {{ at = "{folder}/site", calibration = "{demo}/audit/cpu-cpu-greedy.json" }}
            "#,
            folder = folder.display(),
            demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo").display(),
        );
        let config: ValidatorConfig = crate::config::parse(&text).expect("reads");
        let (registry, call) = (Registry::linked().expect("links"), CallContext::new());
        let resources = Resources::default().with_clock(Quick::default()).with_http(hub);
        let resources = resources.with_cache_dir(folder.join("cache"));
        let cx = BuildContext::new(&registry, &call).with_resources(resources);
        let follow = config.follow.as_ref().expect("it follows");
        Box::pin(Following::build(&config, follow, &cx)).await.expect("builds")
    }

    /// A challenger that was missing is looked for once more: only the hub's word, said twice, means
    /// that it is gone.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hub_that_is_away_or_has_the_model_again_neither_ends_the_wait_nor_begins_it_anew() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("albedo-core/tests/fixtures/record-3");
        let there = (StatusCode::OK, manifest());
        let away = (StatusCode::SERVICE_UNAVAILABLE, String::new());
        let refused = (StatusCode::FORBIDDEN, String::new());
        let file = (StatusCode::OK, "x");
        let unknown = r#"{ "errors": [{ "code": "BLOB_UNKNOWN" }] }"#;
        for (manifest, file, is_gone) in [
            (away, file, false),
            (refused, file, true),
            ((StatusCode::NOT_FOUND, "<html>404</html>".to_owned()), file, false),
            (there.clone(), (StatusCode::BAD_GATEWAY, ""), false),
            (there.clone(), file, false),
            (there, (StatusCode::NOT_FOUND, unknown), true),
            ((StatusCode::NOT_FOUND, unknown.replace("BLOB", "NAME")), file, true),
        ] {
            let said = format!("{manifest:?} {file:?}");
            let (folder, cx) = (tempfile::tempdir().expect("a folder"), CallContext::new());
            let hub = Arc::new(Flickers { asked: AtomicU32::new(0), manifest, file });
            let following = following(folder.path(), Arc::<Flickers>::clone(&hub)).await;
            let ledger = following.base.ledger.clone();
            follow(&ledger, following.genesis.clone()).await;
            let block = following.base.chain.head(&cx).await.expect("a head");
            let followed = Followed::new(Arc::new(following));
            // It was missing in the epoch before, too.
            assert_eq!(ledger.note_missing(1, 8).await.expect("noted"), 8);

            let announced = announced(Some(submission("ann/model")));
            let record = Record::open(&fixture).expect("a record");
            match followed.audit(1, record, &announced, &block, &cx).await {
                Ok(Some(lacking)) => {
                    assert!(is_gone, "{said}: {lacking}");
                    assert_eq!(lacking.kind(), ErrorKind::NotFound, "{said}: {lacking}");
                }
                Err(Stop::Failed(error)) => {
                    assert!(!is_gone, "{said}: {error}");
                    // The first answer is what is to be said.
                    assert_eq!(error.kind(), ErrorKind::NotFound, "{said}: {error}");
                }
                other => panic!("{said}: {other:?}"),
            }
            assert!(hub.asked.load(Ordering::Relaxed) > 1, "{said}: it is asked once more");
            assert_eq!(ledger.note_missing(1, 9).await.expect("noted"), 8, "{said}");
        }
    }

    /// A model of one file, `x`: its manifest.
    fn manifest() -> String {
        let layer = json!({
            "digest": format!("sha256:{}", Digest::of("x")), "size": 1,
            "annotations": { "org.opencontainers.image.title": "config.json" },
        });
        json!({ "schemaVersion": 2, "layers": [layer] }).to_string()
    }

    /// A submission of the model of `manifest`.
    fn submission(repository: &str) -> Submission {
        let pin = format!("sha256:{}", Digest::of(manifest()));
        Submission { hotkey: "ann".into(), repository: repository.into(), pin }
    }

    /// A loser makes its project private, and a hub may keep damaged bytes for ever.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_model_that_is_refused_or_damaged_holds_up_nobody_for_ever_and_is_no_evidence() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("albedo-core/tests/fixtures/record-3");
        let held = Outcome::KingHolds(Holds::NotShown);
        let there = |text: &str| (StatusCode::OK, text.to_owned());
        for (manifest, file, counts) in [
            ((StatusCode::FORBIDDEN, String::new()), "x", true),
            (there("another manifest"), "x", true),
            (there(&manifest()), "y", true),
            ((StatusCode::SERVICE_UNAVAILABLE, String::new()), "x", false),
            ((StatusCode::TOO_MANY_REQUESTS, String::new()), "x", false),
        ] {
            let said = format!("{manifest:?} {file}");
            let (folder, cx) = (tempfile::tempdir().expect("a folder"), CallContext::new());
            let file = (StatusCode::OK, file);
            let hub = Arc::new(Flickers { asked: AtomicU32::new(1), manifest, file });
            let following = following(folder.path(), hub).await;
            let ledger = following.base.ledger.clone();
            follow(&ledger, following.genesis.clone()).await;
            let block = following.base.chain.head(&cx).await.expect("a head");
            let followed = Followed::new(Arc::new(following));
            let announced = announced(Some(submission("ann/model")));
            let record = Record::open(&fixture).expect("a record");
            let lacking = match followed.audit(1, record, &announced, &block, &cx).await {
                Ok(Some(lacking)) => lacking,
                Err(Stop::Failed(error)) => {
                    assert!(!counts, "{said}: {error}");
                    continue;
                }
                other => panic!("{said}: {other:?}"),
            };
            assert!(counts, "{said}: {lacking}");
            let row = ledger.followed().await.expect("read").expect("followed");
            let seen = async |epoch| {
                let chain = &followed.base().chain;
                let head = chain.head(&cx).await.expect("a head");
                let netuid = followed.base().netuid;
                let mut subnet = chain.subnet(netuid, &head, &cx).await.expect("read");
                subnet.epoch = epoch;
                let metagraph = chain.metagraph(netuid, &head, &cx).await.expect("read");
                Seen { head, subnet, metagraph }
            };
            for (outcome, first) in [(Outcome::Dethroned, 8), (held, 20)] {
                let entries = [Entry::Announced(announced.clone()), ended(0, Digest::of("a"), outcome)];
                let bytes: Vec<_> = entries.iter().map(|entry| entry.to_bytes().expect("an entry")).collect();
                let history = History::new(&head(&entries), &bytes).expect("a history");
                for epoch in first..=first + EPOCHS {
                    let seen = seen(epoch).await;
                    let went_on = followed.unaudited(&row, &history, lacking.clone(), &seen, &cx).await;
                    match (went_on, epoch < first + EPOCHS, outcome == held) {
                        (Err(Stop::Failed(_)), true, _) | (Ok(()), false, true) => {}
                        (Err(Stop::Wrong(wrong)), false, false) => {
                            assert_eq!(wrong.cause, Cause::Audit, "{said}");
                        }
                        (other, ..) => panic!("{said} in epoch {epoch}: {other:?}"),
                    }
                }
            }
            let records = ledger.followed_records(1).await.expect("read");
            assert_eq!(records[0].passed, Some(true), "{said}");
        }
    }

    /// A registry that does not have the repositories of `gone`, and does not answer for those of `away`.
    #[derive(Debug)]
    struct Owners;

    #[async_trait]
    impl HttpTransport for Owners {
        async fn send(&self, request: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
            let (status, body) = if request.url().contains("/gone/") {
                (StatusCode::NOT_FOUND, r#"{ "errors": [{ "code": "NAME_UNKNOWN" }] }"#.to_owned())
            } else if request.url().contains("/away/") {
                (StatusCode::SERVICE_UNAVAILABLE, String::new())
            } else if request.url().contains("/manifests/") {
                (StatusCode::OK, manifest())
            } else {
                (StatusCode::OK, "x".to_owned())
            };
            Ok(HttpResponse::whole(status, HeaderMap::new(), body))
        }
    }

    /// Miners who lose delete their files: each of their duels would hold up the next one for two epochs.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn later_duels_whose_models_are_gone_wait_at_the_same_time() {
        let (folder, cx) = (tempfile::tempdir().expect("a folder"), CallContext::new());
        let held = Outcome::KingHolds(Holds::NotShown);
        let mut entries = vec![Entry::Announced(announced(None)), ended(0, Digest::of("a"), held)];
        for (repository, outcome, is_published) in [
            ("gone/first", held, true),
            ("there/second", held, true),
            ("away/third", held, true),
            ("gone/fourth", held, false),
            ("gone/fifth", Outcome::Dethroned, true),
            // Its king is gone.
            ("there/sixth", held, true),
        ] {
            let (place, record) = (entries.len() as u64, Digest::of(repository));
            entries.push(Entry::Announced(announced(Some(submission(repository)))));
            entries.push(ended(place, record, outcome));
            if is_published {
                let manifest = folder.path().join("site").join(RecordManifest::at(record));
                fs::create_dir_all(manifest.parent().expect("a folder")).expect("makes");
                fs::write(manifest, "{}").expect("writes");
            }
        }
        let bytes: Vec<_> = entries.iter().map(|entry| entry.to_bytes().expect("an entry")).collect();
        let history = History::new(&head(&entries), &bytes).expect("a history");
        let following = following(folder.path(), Arc::new(Owners)).await;
        let ledger = following.base.ledger.clone();
        follow_log(&ledger, following.genesis.clone(), entries).await;
        let row = ledger.followed().await.expect("read").expect("followed");
        let followed = Followed::new(Arc::new(following));
        let look_once = async |row: &FollowedRow, epoch| {
            followed.look_for_later(row, &history, epoch, &cx).await.expect("looked");
        };
        // The first look ends at the third one, whose hub is away, and the second one goes on behind it.
        let look = async |row: &FollowedRow, epoch| {
            look_once(row, epoch).await;
            assert_eq!(followed.later.load(Ordering::Relaxed), if row.caught_up { 8 } else { 0 });
            look_once(row, epoch).await;
            assert_eq!(followed.later.load(Ordering::Relaxed), 0);
        };
        // Since when each is missing; from now on, those that nobody has noted.
        let missing = async |now| {
            let mut epochs = Vec::new();
            for place in [3, 5, 7, 9, 11, 13] {
                epochs.push(ledger.note_missing(place, now).await.expect("noted"));
            }
            epochs
        };
        look(&row, 8).await;
        look(&row, 9).await;
        assert_eq!(missing(10).await, [8, 10, 10, 10, 8, 8]);
        // The second one is back. Nothing is known of the third, and the fourth is not published.
        look(&row, 11).await;
        assert_eq!(missing(11).await, [8, 11, 10, 10, 8, 8]);
        let due = FollowedRow { next: 3, ..row.clone() };
        let of = WithoutAudit::of(&ledger, &due, false, 10).await.expect("noted");
        assert_eq!(of, WithoutAudit::Taken, "it has waited beside the one before it");

        // While the log is followed for the first time, a crown alone is waited for.
        for place in [3, 5, 7, 9, 11, 13] {
            ledger.note_found(place).await.expect("noted");
        }
        look(&FollowedRow { caught_up: false, ..row }, 40).await;
        assert_eq!(missing(41).await, [41, 41, 41, 41, 40, 41]);
    }
}

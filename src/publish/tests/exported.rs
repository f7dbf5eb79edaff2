//! Data sets beside the records.

use super::*;
use crate::backends::tables::Form;
use crate::export::Export;

/// What is in `folder`, by its path below it.
fn contents(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner).expect("reads").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                let name = path.strip_prefix(folder).expect("below it").display().to_string();
                found.insert(name, fs::read(&path).expect("reads"));
            }
        }
    }
    found
}

async fn publish(records: &Path, site: &Path, exports: Option<Exports>) -> Vec<RecordManifest> {
    let (cx, outbox) = (CallContext::new(), FolderOutbox::open(records).expect("opens"));
    outbox.scan().expect("scans");
    let bucket: Arc<dyn Bucket> = Arc::new(FolderBucket::open(site).expect("opens"));
    let settings = Settings { exports, ..hasty() };
    let publisher = Publisher::open(Arc::clone(&bucket), settings, &cx).await.expect("opens");
    let drained = publisher.drain_folder(&outbox, &cx).await.expect("drains");
    assert_eq!(drained.waiting, 0, "{drained:?}");
    let (reader, mut manifests) = (Reader::new(bucket), Vec::new());
    for entry in reader.entries(&cx).await.expect("reads") {
        manifests.push(reader.verify(&entry, &cx).await.expect("is whole"));
    }
    manifests
}

#[tokio::test]
async fn data_sets_come_with_the_record_and_are_those_of_record_export() {
    let (cx, folder) = (CallContext::new(), folder_of(&records(1)));
    let (site, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let exports = Exports { form: Form::JsonLines, license: Some("MIT".into()) };
    let manifest = publish(folder.path(), site.path(), Some(exports)).await.remove(0);
    let record = manifest.record;

    let mine = out.path().join("mine");
    let mut export = Export::create(&mine, Form::JsonLines, Some("MIT".into())).expect("begins");
    export.add(&crate::Record::open(&folder.path().join("0")).expect("reads")).expect("adds");
    export.finish().expect("ends");
    let served = lies::Served { folder: site.path().into(), lie: |_: &str, bytes: Vec<u8>| bytes };
    let (url, to) = (format!("https://example.com/records/{record}"), out.path().join("fetched"));
    let settings = FetchSettings { exports: true, ..FetchSettings::default() };
    let fetched = fetch(&url, &to, settings, &served, &cx).await.expect("fetches");
    assert_eq!(contents(&to.join("exports")), contents(&mine));
    assert_eq!(fetched.exports as usize, manifest.exports.len());
    assert!(manifest.exports.iter().any(|file| file.name == "exports/README.md"), "{manifest:?}");
    crate::record::AnyRecord::open(&to).expect("the data sets are not in the record's way");

    // What the page shows names the same files, and each is there.
    let shown = fs::read(site.path().join(format!("data/duels/{record}.json"))).expect("reads");
    let shown: public::DuelData = serde_json::from_slice(&shown).expect("JSON");
    assert_eq!(shown.exports, manifest.exports);
    for file in &manifest.exports {
        let object = site.path().join(format!("records/{record}/{}", file.at));
        assert_eq!(Digest::of(fs::read(object).expect("is there")), file.sha256, "{}", file.name);
    }

    // Verifying the place finds an altered data set.
    let object = site.path().join(format!("records/{record}/{}", manifest.exports[0].at));
    fs::write(object, "other rows").expect("writes");
    let reader = Reader::new(Arc::new(FolderBucket::open(site.path()).expect("opens")));
    let entry = reader.entries(&cx).await.expect("reads").remove(0);
    let error = reader.verify(&entry, &cx).await.expect_err("is another one");
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[tokio::test]
async fn a_place_without_data_sets_stays_as_it_is_and_publishers_who_differ_do_not_meet() {
    let (folder, site) = (folder_of(&records(2)), tempfile::tempdir().expect("a folder"));
    let first = folder_of(&records(1));
    let plain = publish(first.path(), site.path(), None).await.remove(0);
    assert_eq!(plain.exports, []);
    let at = RecordManifest::at(plain.record);
    let before = fs::read(site.path().join(&at)).expect("reads");
    assert!(!String::from_utf8_lossy(&before).contains("exports"), "as an earlier albedo wrote it");
    let manifests = publish(folder.path(), site.path(), Some(Exports::default())).await;
    assert_eq!(fs::read(site.path().join(&at)).expect("reads"), before, "a manifest never changes");
    assert_eq!(manifests.iter().filter(|manifest| manifest.exports.is_empty()).count(), 1);

    // Another license makes other files, which lie beside the first ones.
    let exports = Exports { license: Some("CC-BY-4.0".into()), ..Exports::default() };
    let (same, other) = (folder_of(&records(2)), tempfile::tempdir().expect("a folder"));
    let there = publish(same.path(), other.path(), Some(exports.clone())).await;
    let record = manifests.iter().find(|manifest| !manifest.exports.is_empty()).expect("one").record;
    let at = |manifests: &[RecordManifest]| -> BTreeSet<String> {
        let of = manifests.iter().find(|manifest| manifest.record == record).expect("is there");
        of.exports.iter().map(|file| file.at.clone()).collect()
    };
    assert!(at(&manifests).is_disjoint(&at(&there)));
    let fresh = folder_of(&records(2));
    let again = publish(fresh.path(), site.path(), Some(exports)).await;
    assert_eq!(again, manifests, "the first publisher's count");
}

#[tokio::test]
async fn a_submission_that_was_not_admitted_has_none() {
    let (folder, site) = (folder_of(&[fixture("forfeit-3")]), tempfile::tempdir().expect("a folder"));
    let manifest = publish(folder.path(), site.path(), Some(Exports::default())).await.remove(0);
    assert_eq!(manifest.exports, []);
}

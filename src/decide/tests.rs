//! Putting the scores of two systems together.

use super::*;

fn scores(items: &[(&str, Option<f64>)]) -> Scores {
    let mut scores = Scores::default();
    for (item, score) in items {
        scores.add((*item).into(), None, None, *score).expect("one item");
    }
    scores
}

#[test]
fn what_one_system_did_not_finish_is_never_dropped_by_itself() {
    let first = scores(&[("a", Some(1.0)), ("b", Some(0.0)), ("c", Some(1.0))]);
    let second = scores(&[("a", Some(0.0)), ("b", None), ("d", Some(1.0))]);
    let error = pair(&first, &second, Missing::Refuse, 0.0).unwrap_err();
    assert!(
        error.fault() == Fault::Operator && error.to_string().contains("3 items lack a score"),
        "{error}"
    );
    let dropped = pair(&first, &second, Missing::Drop, 0.0).expect("pairs");
    assert_eq!(dropped.items.iter().map(|item| item.item.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(
        (dropped.missing_first, dropped.missing_second),
        (vec!["d".into()], vec!["b".into(), "c".into()])
    );
    let lowest = pair(&first, &second, Missing::Lowest, -1.0).expect("pairs");
    let found: Vec<_> = lowest.items.iter().map(|item| (item.first, item.second)).collect();
    assert_eq!(found, [(1.0, 0.0), (0.0, -1.0), (1.0, -1.0), (-1.0, 1.0)]);
}

#[test]
fn logs_of_other_data_are_not_paired() {
    let log = |content: &str| {
        let mut scores = Scores::default();
        scores.add("a".into(), None, Some(content.into()), Some(1.0)).expect("one item");
        scores
    };
    assert!(pair(&log("x"), &log("x"), Missing::Refuse, 0.0).is_ok());
    let error = pair(&log("x"), &log("y"), Missing::Drop, 0.0).unwrap_err();
    assert!(error.to_string().contains("another content"), "{error}");
    for missing in [Missing::Refuse, Missing::Lowest, Missing::Drop] {
        let apart = pair(&scores(&[("a", Some(1.0))]), &scores(&[("b", Some(1.0))]), missing, 0.0);
        let error = apart.unwrap_err().to_string();
        assert!(error.contains("no item is in both") && error.contains("an item of the first: a"), "{error}");
    }
    let cluster = |name: &str| {
        let mut scores = Scores::default();
        scores.add("a".into(), Some(name.into()), None, Some(1.0)).expect("one item");
        scores
    };
    let error = pair(&cluster("x"), &cluster("y"), Missing::Drop, 0.0).unwrap_err();
    assert!(error.to_string().contains("another cluster"), "{error}");
}

#[test]
fn tries_that_only_one_system_has_are_not_dropped_by_themselves() {
    // One try of the second system lacks: its process was killed, or it was run less often.
    let first = scores(&[("a", Some(1.0)), ("a", Some(0.0)), ("b", Some(1.0)), ("b", Some(1.0))]);
    let second = scores(&[("a", Some(1.0)), ("b", Some(1.0)), ("b", Some(0.0))]);
    let error = pair(&first, &second, Missing::Refuse, 0.0).unwrap_err().to_string();
    assert!(
        error.contains("1 items have more tries in one log") && error.contains("epochs or attempts"),
        "{error}"
    );
    let lowest = pair(&first, &second, Missing::Lowest, -1.0).expect("pairs");
    let found: Vec<_> = lowest.items.iter().map(|item| (item.first, item.second)).collect();
    assert_eq!((found, lowest.missing_second), (vec![(0.5, 0.0), (1.0, 0.5)], vec!["a".into()]));
    let dropped = pair(&first, &second, Missing::Drop, 0.0).expect("pairs");
    assert_eq!(dropped.items.iter().map(|item| item.item.as_str()).collect::<Vec<_>>(), ["b"]);
    let mut planned = scores(&[("a", Some(1.0))]);
    planned.planned("a".into(), 1);
    planned.planned("b".into(), 2);
    assert_eq!((planned.items["a"].failed, planned.items["b"].failed), (0, 2));
}

#[test]
fn two_items_of_one_name_in_one_log_are_refused_unless_they_are_tries_of_one() {
    let mut scores = Scores::default();
    let mut add = |cluster: Option<&str>, content: Option<&str>| {
        scores.add("a".into(), cluster.map(Into::into), content.map(Into::into), Some(1.0))
    };
    add(None, None).expect("the first");
    add(Some("x"), Some("y")).expect("says more of the same item");
    add(Some("x"), None).expect("a try");
    for (cluster, content, what) in [(Some("z"), Some("y"), "cluster"), (Some("x"), Some("z"), "content")] {
        let error = add(cluster, content).unwrap_err();
        assert_eq!(error.fault(), Fault::Operator);
        assert!(error.to_string().contains(&format!("another {what} (item: a)")), "{error}");
    }
    assert_eq!(scores.items["a"].count, 3);
}

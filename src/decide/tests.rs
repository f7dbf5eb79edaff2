//! Putting the scores of two systems together.

use super::*;

fn scores(items: &[(&str, Option<f64>)]) -> Scores {
    let mut scores = Scores::default();
    for (item, score) in items {
        scores.add((*item).into(), None, None, *score);
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
        scores.add("a".into(), None, Some(content.into()), Some(1.0));
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
        scores.add("a".into(), Some(name.into()), None, Some(1.0));
        scores
    };
    let error = pair(&cluster("x"), &cluster("y"), Missing::Drop, 0.0).unwrap_err();
    assert!(error.to_string().contains("another cluster"), "{error}");
}

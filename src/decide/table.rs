//! Tables of scores, as comma-separated values (RFC 4180).

use std::collections::BTreeSet;
use std::path::Path;

use super::{PairedItem, READ, malformed};
use crate::Result;
use crate::files::open_file;

/// Reads a table with a heading: the columns `item`, `first` and `second`, and `cluster`
/// if items come in clusters. Other columns are passed over.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound), or [`DataInvalid`](crate::ErrorKind::DataInvalid)
/// with the line: no table, a column that is missing, a score that is no number.
pub fn read_csv(path: &Path) -> Result<Vec<PairedItem>> {
    let file = open_file(READ, path)?;
    read(file).map_err(|error| error.with("path", path.display()))
}

fn read(table: impl std::io::Read) -> Result<Vec<PairedItem>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(table);
    let heading = reader.headers().map_err(|error| malformed(error.to_string()))?.clone();
    let column = |name: &str| heading.iter().position(|column| column == name);
    let wanted = |name: &str| {
        column(name).ok_or_else(|| {
            malformed(format!("the table has no column `{name}`"))
                .with_hint("begin with the line `item,cluster,first,second`, `cluster` being optional")
        })
    };
    let (item, first, second) = (wanted("item")?, wanted("first")?, wanted("second")?);
    let cluster = column("cluster");
    let (mut items, mut names) = (Vec::new(), BTreeSet::new());
    for row in reader.records() {
        let row = row.map_err(|error| malformed(error.to_string()))?;
        let line = row.position().map_or(0, csv::Position::line);
        let text = |column: usize| row.get(column).unwrap_or_default().to_owned();
        let score = |column: usize| {
            let text = text(column);
            text.parse::<f64>().map_err(|_| {
                malformed(format!("`{text}` is no number")).with("line", line).with_hint(
                    "give both scores as numbers, or leave the row out where the failure has nothing to do with \
                     the system",
                )
            })
        };
        let name = text(item);
        if !names.insert(name.clone()) {
            return Err(malformed("an item is there twice").with("item", name).with("line", line).with_hint(
                "give each item one row, with the mean of its tries, and what belongs together one `cluster`",
            ));
        }
        // An item without a cluster is one by itself.
        let cluster = cluster.map(text).filter(|cluster| !cluster.is_empty());
        items.push(PairedItem {
            cluster: cluster.unwrap_or_else(|| name.clone()),
            item: name,
            first: score(first)?,
            second: score(second)?,
        });
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name_and_quotes_are_read() {
        let items = read(&b"second,note,item,first\n1, x ,\"a, b\",0.5\n0,,c,1e-1\n"[..]).expect("a table");
        let item =
            |item: &str, first, second| PairedItem { item: item.into(), cluster: item.into(), first, second };
        assert_eq!(items, [item("a, b", 0.5, 1.0), item("c", 0.1, 0.0)]);
        let clustered = read(&b"item,cluster,first,second\na,x,0,1\n"[..]).expect("a table");
        assert_eq!(clustered[0].cluster, "x");
        let some = read(&b"item,cluster,first,second\na,,0,1\nb, ,0,1\nc,x,0,1\n"[..]).expect("a table");
        let clusters: Vec<_> = some.iter().map(|item| item.cluster.as_str()).collect();
        assert_eq!(clusters, ["a", "b", "x"], "an item without a cluster is one by itself");
    }

    #[test]
    fn what_is_no_table_is_said_with_its_line() {
        for (table, words) in [
            ("", "no column `item`"),
            ("item,first\n", "no column `second`"),
            ("item,first,second\na,1,2\nb,yes,0\n", "`yes` is no number (line: 3)"),
            ("item,first,second\na,1\n", "fields"),
            ("item,first,second\n\u{0}\u{1},1,\n", "`` is no number (line: 2); give both scores"),
            (
                "item,first,second\na,1,1\nb,1,1\na,0,1\n",
                "an item is there twice (item: a, line: 4); give each item one row",
            ),
        ] {
            let error = read(table.as_bytes()).expect_err(table).to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(read(&b"item,first,second\n\xff,1,1\n"[..]).is_err());
    }
}

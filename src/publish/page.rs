//! The page that shows what is published: static files without a build step, which are
//! in this program, and which any web server of static files shows.

use std::sync::Arc;

use bytes::Bytes;

use super::bucket::{Bucket, Content, Mode};
use crate::{CallContext, Result};

/// One file of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFile {
    /// Its name, beside `index.json`.
    pub name: &'static str,
    /// Its content.
    pub text: &'static str,
}

macro_rules! page_files {
    ($($name:literal),* $(,)?) => {
        [$(PageFile { name: $name, text: include_str!(concat!("../report/page/", $name)) }),*]
    };
}

/// The files of the page. Modules that the report of records uses too: `styles.css`,
/// `dom.js` (text is never markup), `format.js` (numbers), `chart.js` (drawings),
/// `diff.js` (what two texts do not share), `cards.js` (samples), `duel.js` (the parts of
/// a duel).
pub const PAGE_FILES: [PageFile; 10] = page_files![
    "index.html",
    "styles.css",
    "page.js",
    "data.js",
    "dom.js",
    "format.js",
    "chart.js",
    "diff.js",
    "cards.js",
    "duel.js",
];

/// Writes the page into `bucket`, the files that others name first.
///
/// # Errors
/// The bucket's.
pub async fn write_page(bucket: &Arc<dyn Bucket>, cx: &CallContext) -> Result<()> {
    for PageFile { name, text } in PAGE_FILES.iter().rev() {
        let content = Content::Bytes(Bytes::from_static(text.as_bytes()));
        bucket.write(name, content, Mode::Always, cx).await?;
    }
    Ok(())
}

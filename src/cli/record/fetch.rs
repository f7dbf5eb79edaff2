//! `albedo record fetch`.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json, program, word};
use crate::publish::{FetchSettings, fetch};
use crate::{BuildContext, CallContext, Digest, Registry, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address of the record's folder or of its manifest: `…/records/DIGEST`.
    url: String,
    /// The folder to put it into, which must not exist [default: the first digits of its
    /// digest].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The digest that the record must have, if the address does not name it.
    #[arg(long, value_name = "DIGEST")]
    expect: Option<Digest>,
    /// Also fetch the data sets that are published beside it, into `exports` in its folder.
    #[arg(long)]
    exports: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let Arguments { url, out, expect, exports, json } = arguments;
    let registry = Registry::linked()?;
    let transport = crate::backends::http::transport(&BuildContext::new(&registry, cx));
    let folder = out.clone().unwrap_or_else(|| {
        let base = url.trim_end_matches('/').trim_end_matches("/manifest.json");
        let named = base.rsplit('/').next().and_then(|part| part.parse::<Digest>().ok());
        PathBuf::from((*expect).or(named).map_or("record".into(), |digest| digest.short()))
    });
    let fetched =
        fetch(url, &folder, FetchSettings { expect: *expect, exports: *exports }, &*transport, cx).await?;
    if *json {
        print_json(&json!({
            "record": fetched.record,
            "folder": fetched.folder.display().to_string(),
            "bytes": fetched.bytes,
            "exports": fetched.exports,
            "signers": fetched.signers,
        }))?;
        return Ok(Exit::Done);
    }
    let signed = match &fetched.signers[..] {
        [] => "nobody has signed it".to_owned(),
        keys => format!("signed by {}", keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    let (folder, program, quoted) = (fetched.folder.display(), program(), word(&fetched.folder));
    let exports = match fetched.exports {
        0 => String::new(),
        _ => format!("    data sets: {}\n", fetched.folder.join("exports").display()),
    };
    print(&format!(
        "fetched {}\n    {} bytes into {folder}; {signed}\n{exports}    `{program} record verify {quoted}` works its \
         verdict out again\n",
        fetched.record, fetched.bytes
    ))?;
    Ok(Exit::Done)
}

//! The page of a report: the modules of the published page and the data of the records in
//! one file, which asks for nothing.

use std::fmt::Write as _;
use std::io;

use serde::Serialize;
use serde_json::json;

use super::records::{RecordsReport, summary};
use crate::Digest;

/// Samples per element of texts, which is read when one of its cards is opened.
pub(super) const PAGE: usize = 32;

const FRAME: &str = include_str!("page/report.html");
const STYLES: &str = include_str!("page/styles.css");

/// The modules that pages share, each after those that it imports.
const MODULES: [Module; 6] = [
    ("dom", include_str!("page/dom.js")),
    ("format", include_str!("page/format.js")),
    ("chart", include_str!("page/chart.js")),
    ("diff", include_str!("page/diff.js")),
    ("cards", include_str!("page/cards.js")),
    ("duel", include_str!("page/duel.js")),
];

/// A module by its name and source.
type Module = (&'static str, &'static str);

/// One kind of page.
pub(super) struct Page {
    /// What makes it: the page's `generator`.
    generator: &'static str,
    /// What prints the same numbers without a browser.
    otherwise: &'static str,
    /// The module that draws it, after those of [`MODULES`].
    main: Module,
}

/// The report of records.
const REPORT: Page = Page {
    generator: "albedo record report",
    otherwise: "albedo record report --format markdown",
    main: ("report", include_str!("page/report.js")),
};

/// The report of a distillation.
#[cfg(feature = "distil")]
pub(super) const DISTILLATION: Page = Page {
    generator: "albedo distil report",
    otherwise: "albedo distil verify --json",
    main: ("distillation", include_str!("page/distillation.js")),
};

impl Page {
    /// Writes the page as one file; `elements` writes what it shows, with [`data`].
    pub(super) fn write(
        &self,
        out: &mut dyn io::Write,
        elements: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let script = self.script();
        // Digests of the two elements: nothing else on the page runs or styles.
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; form-action \
             'none'; require-trusted-types-for 'script'; trusted-types 'none'",
            base64(Digest::of(&script).as_bytes()),
            base64(Digest::of(STYLES).as_bytes()),
        );
        let mut rest = FRAME;
        let marks = [
            ("{policy}", &*policy),
            ("{generator}", self.generator),
            ("{styles}", STYLES),
            ("{otherwise}", self.otherwise),
        ];
        for (mark, text) in marks {
            let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
            out.write_all(before.as_bytes())?;
            out.write_all(text.as_bytes())?;
            rest = after;
        }
        let (before, after) = rest.split_once("{data}").unwrap_or((rest, ""));
        out.write_all(before.as_bytes())?;
        elements(out)?;
        let (before, after) = after.split_once("{script}").unwrap_or((after, ""));
        out.write_all(before.as_bytes())?;
        out.write_all(script.as_bytes())?;
        out.write_all(after.as_bytes())
    }

    fn modules(&self) -> impl Iterator<Item = Module> {
        MODULES.into_iter().chain([self.main])
    }
}

/// Writes `report` as one file.
pub(super) fn write(report: &RecordsReport, out: &mut dyn io::Write) -> io::Result<()> {
    REPORT.write(out, |out| {
        let study = json!({
            "records": report.records.iter().map(summary).collect::<Vec<_>>(),
            "ratings": report.ratings,
            "page_size": PAGE,
            "made_by": made_by(),
        });
        data(out, "study", &study)?;
        for (place, record) in report.records.iter().enumerate() {
            data(out, &format!("record-{place}"), record)?;
            for (page, cards) in record.cards.chunks(PAGE).enumerate() {
                data(out, &format!("record-{place}-texts-{page}"), &cards)?;
            }
        }
        Ok(())
    })
}

/// This program, as a page names it.
pub(super) fn made_by() -> String {
    format!("albedo {}", env!("CARGO_PKG_VERSION"))
}

/// An element that holds `value` and runs nothing: no text in it can end it, or begin
/// markup.
pub(super) fn data(out: &mut dyn io::Write, id: &str, value: &impl Serialize) -> io::Result<()> {
    write!(out, "<script type=\"application/json\" id=\"{id}\">")?;
    serde_json::to_writer(Inert(&mut *out), value)?;
    out.write_all(b"</script>\n")
}

/// Writes JSON with `<`, `>` and `&` as escapes. All three stand in texts alone.
struct Inert<'a>(&'a mut dyn io::Write);

impl io::Write for Inert<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut from = 0;
        for (place, byte) in bytes.iter().enumerate() {
            let escape: &[u8] = match byte {
                b'<' => b"\\u003c",
                b'>' => b"\\u003e",
                b'&' => b"\\u0026",
                _ => continue,
            };
            self.0.write_all(&bytes[from..place])?;
            self.0.write_all(escape)?;
            from = place + 1;
        }
        self.0.write_all(&bytes[from..])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Page {
    /// The modules as one script: each becomes a function that returns what it exports.
    fn script(&self) -> String {
        let mut script = String::new();
        for (name, source) in self.modules() {
            let (mut exported, mut body) = (Vec::new(), String::new());
            for line in source.lines() {
                // Writing to a string cannot fail.
                let _ = match (import(line), line.strip_prefix("export ")) {
                    (Some((names, module)), _) => writeln!(body, "const {{ {names} }} = {module}Module;"),
                    (None, Some(declared)) => {
                        exported.extend(declared_name(declared));
                        writeln!(body, "{declared}")
                    }
                    (None, None) => writeln!(body, "{line}"),
                };
            }
            let _ = write!(
                script,
                "const {name}Module = (() => {{\n{body}return {{ {} }};\n}})();\n",
                exported.join(", ")
            );
        }
        script
    }
}

/// The names and the module of a line such as `import { el, svg } from './dom.js';`.
fn import(line: &str) -> Option<(&str, &str)> {
    let (names, module) = line.strip_prefix("import { ")?.split_once(" } from './")?;
    Some((names, module.strip_suffix(".js';")?))
}

/// The name that a line such as `async function load(place) {` declares.
fn declared_name(line: &str) -> Option<&str> {
    let line = line.strip_prefix("async ").unwrap_or(line);
    let rest = ["function ", "const ", "class ", "let "].iter().find_map(|word| line.strip_prefix(word))?;
    rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next()
}

/// Base64 with padding (RFC 4648), as a content security policy has digests.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits =
            part.iter().fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - part.len()));
        for place in 0..4 {
            let digit = DIGITS[((bits >> (18 - 6 * place)) & 63) as usize];
            text.push(if place <= part.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_is_bundled_whole() {
        let pages = [
            &REPORT,
            #[cfg(feature = "distil")]
            &DISTILLATION,
        ];
        for page in pages {
            let (script, modules) = (page.script(), page.modules().collect::<Vec<_>>());
            for (name, source) in &modules {
                assert!(source.starts_with("// "), "{name} says what it is for");
                for line in source.lines().filter(|line| line.starts_with("import ")) {
                    let (names, module) = import(line).unwrap_or_else(|| panic!("{name}: {line}"));
                    let place = |wanted: &str| modules.iter().position(|(name, _)| *name == wanted);
                    assert!(place(module) < place(name), "{name} comes after {module}");
                    let (_, imported) = modules[place(module).expect("a module")];
                    for wanted in names.split(", ") {
                        let exported =
                            imported.lines().filter_map(|line| declared_name(line.strip_prefix("export ")?));
                        assert!(exported.into_iter().any(|name| name == wanted), "{name} imports {wanted}");
                    }
                }
            }
            for left in ["\nimport ", "\nexport ", "</script", "http:", "https:", "innerHTML", "eval("] {
                // The one address names the kind of a drawing, and is asked for by nobody.
                let found = script.replace("http://www.w3.org/2000/svg", "");
                assert!(!found.contains(left), "{left:?} is in the script");
            }
        }
        assert!(!STYLES.contains("url(") && !STYLES.contains("@import") && !STYLES.contains("</style"));
    }

    #[test]
    fn no_text_ends_the_element_that_holds_it() {
        let hostile = "</script><script>alert(1)</script><!-- & ]]>\u{2028}\u{202e}";
        let mut written = Vec::new();
        data(&mut written, "x", &json!({ hostile: [hostile] })).expect("writes");
        let written = String::from_utf8(written).expect("UTF-8");
        let inner = written
            .strip_prefix("<script type=\"application/json\" id=\"x\">")
            .and_then(|text| text.strip_suffix("</script>\n"))
            .expect("one element");
        assert!(!inner.contains(['<', '>', '&']), "{inner}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(inner).expect("JSON"),
            json!({ hostile: [hostile] })
        );
    }

    #[test]
    fn digests_are_in_base64() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}

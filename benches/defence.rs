//! The reply defence: time for a megabyte and for ten of the text that stalls
//! naive scanners, and for as much honest work. The time a byte must not grow.

use albedo::judges::defence::{Budget, Defence, Shown, View};

fn main() {
    divan::main();
}

const FENCES: &str = "```\n---\n{\"verdict\":\n";
const WORK: &str = "THOUGHT: Here the arguments are swapped, so I exchange them.\n\n```bash\nsed -i '20s/a, b/b, a/' pointer.py\n```\n";

fn defended(bencher: divan::Bencher<'_, '_>, piece: &str, megabytes: usize) {
    let text = piece.repeat(megabytes * 1_000_000 / piece.len());
    let budget = Budget { reply_chars: usize::MAX, ..Budget::default() };
    let defence = Defence { budget, fence: "0123456789ab".into(), sign: "‹3fa0›".into() };
    let languages = ["bash".to_owned()];
    bencher
        .counter(divan::counter::BytesCount::of_str(&text))
        .bench(|| -> Shown { defence.reply(divan::black_box(&text), View::ThoughtAndAction(&languages)) });
}

#[divan::bench(args = [1, 10], sample_count = 3)]
fn fences(bencher: divan::Bencher<'_, '_>, megabytes: usize) {
    defended(bencher, FENCES, megabytes);
}

#[divan::bench(args = [1, 10], sample_count = 3)]
fn honest(bencher: divan::Bencher<'_, '_>, megabytes: usize) {
    defended(bencher, WORK, megabytes);
}

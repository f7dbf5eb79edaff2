//! Whether a text repeats itself without end; linear in its length, up to the
//! logarithm of a sorted set.

use std::collections::BTreeSet;

/// Bytes at the end of a text in which a period is looked for.
const TAIL: usize = 4096;
/// Least number of equal periods, and least number of bytes they cover.
const PERIODS: usize = 5;
const PERIODIC: usize = 128;
/// Equal lines in a row.
const RUN: usize = 8;
/// Fewest lines among which repetition in general is counted.
const LINES: usize = 24;

/// Whether `text` loops, by the rule in the documentation of `protocol`.
pub(crate) fn loops(text: &str) -> bool {
    has_periodic_tail(text.trim_end().as_bytes()) || repeats_lines(text)
}

fn has_periodic_tail(text: &[u8]) -> bool {
    // Backwards, the tail is a prefix. `border[i]` is the length of the longest
    // proper prefix of the first `i + 1` bytes that is also their suffix
    // (Knuth, Morris and Pratt), so that their least period is `i + 1 − border[i]`.
    let tail: Vec<u8> = text.iter().rev().take(TAIL).copied().collect();
    let mut border = vec![0; tail.len()];
    for i in 1..tail.len() {
        let mut length: usize = border[i - 1];
        while length > 0 && tail[i] != tail[length] {
            length = border[length - 1];
        }
        border[i] = if tail[i] == tail[length] { length + 1 } else { 0 };
        let covered = i + 1;
        if covered >= PERIODIC && covered >= PERIODS * (covered - border[i]) {
            return true;
        }
    }
    false
}

fn repeats_lines(text: &str) -> bool {
    let mut seen = BTreeSet::new();
    let (mut lines, mut run, mut previous) = (0, 0, "");
    for line in text.lines().map(str::trim).filter(|line| line.contains(char::is_alphanumeric)) {
        lines += 1;
        run = if line == previous { run + 1 } else { 1 };
        if run == RUN {
            return true;
        }
        previous = line;
        seen.insert(line);
    }
    lines >= LINES && 4 * (lines - seen.len()) >= 3 * lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loops_are_told_from_texts() {
        let numbered = |count: u32, of: u32| {
            (0..count).fold(String::new(), |text, i| text + &format!("line {}\n", i % of))
        };
        for (text, expected) in [
            (String::new(), false),
            ("the ".repeat(40), true),
            ("the ".repeat(31), false),
            (format!("THOUGHT: I see.\n{}", "I run it again. ".repeat(9)), true),
            (format!("{} and done, as far as I can see", "I run it again. ".repeat(9)), false),
            (format!("{}end", "ls -la\n".repeat(8)), true),
            (format!("{}end", "ls -la\n\n".repeat(7)), false),
            (format!("{}end", "}\n".repeat(8)), false),
            (format!("{}end", numbered(28, 6)), true),
            (format!("{}end", numbered(28, 14)), false),
            (numbered(200, 200), false),
        ] {
            assert_eq!(loops(&text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_period_is_found_whatever_stands_before(start in ".{0,200}", period in "[a-z]{1,60} ") {
            let text = start + &period.repeat(PERIODIC / period.len() + PERIODS + 1);
            prop_assert!(loops(&text));
        }
    }
}

//! The date that a chat template gets for today, and how `strftime` writes it.

use std::fmt;
use std::fmt::Write;
use std::str::FromStr;

use super::{Failed, Res};

/// A day of the Gregorian calendar. Templates that ask for the time are told this
/// day, at midnight: never the clock's, with which a prompt would change by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Date {
    year: u32,
    month: u32,
    day: u32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// From the first of January of the year 1 on, which was one.
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

impl FromStr for Date {
    type Err = &'static str;

    /// Reads `2026-11-28`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a date is written like 2026-11-28";
        let parts: Vec<_> = text.split('-').collect();
        let [year, month, day] = parts[..] else { return Err(FORM) };
        let number = |text: &str, length: usize| {
            let digits = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
            if digits { text.parse().map_err(|_| FORM) } else { Err(FORM) }
        };
        let date = Self { year: number(year, 4)?, month: number(month, 2)?, day: number(day, 2)? };
        if date.year == 0
            || !(1..=12).contains(&date.month)
            || !(1..=date.days_of_month()).contains(&date.day)
        {
            return Err("there is no such day");
        }
        Ok(date)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Date {
    /// What `strftime(format)` gives.
    ///
    /// # Errors
    /// A directive that is not supported.
    pub(super) fn strftime(self, format: &str) -> Res<String> {
        let Self { year, month, day } = self;
        let mut text = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let (mut directive, mut bare) = (rest.next(), false);
            if directive == Some('-') {
                (directive, bare) = (rest.next(), true);
            }
            let mut number = |value: u32, width: usize| {
                let width = if bare { 0 } else { width };
                // Writing to a string cannot fail.
                let _ = write!(text, "{value:0width$}");
            };
            match directive {
                Some('Y') => number(year, 4),
                Some('y') => number(year % 100, 2),
                Some('m') => number(month, 2),
                Some('d') => number(day, 2),
                Some('j') => number(self.day_of_year(), 3),
                Some('H' | 'M' | 'S') => number(0, 2),
                Some('I') => number(12, 2),
                Some('B') if !bare => text.push_str(self.month_name()),
                Some('b' | 'h') if !bare => text.push_str(&self.month_name()[..3]),
                Some('A') if !bare => text.push_str(self.day_name()),
                Some('a') if !bare => text.push_str(&self.day_name()[..3]),
                Some('e') if !bare => _ = write!(text, "{day:>2}"),
                Some('p') if !bare => text.push_str("AM"),
                Some('F') if !bare => text.push_str(&self.to_string()),
                Some('T') if !bare => text.push_str("00:00:00"),
                Some('D') if !bare => _ = write!(text, "{month:02}/{day:02}/{:02}", year % 100),
                Some('n') if !bare => text.push('\n'),
                Some('%') if !bare => text.push('%'),
                Some(other) => {
                    return Err(Failed::new(format!("`strftime_now` does not support `%{other}`")));
                }
                None => return Err(Failed::new("a format of `strftime_now` ends with `%`")),
            }
        }
        Ok(text)
    }

    fn is_leap(self) -> bool {
        self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400))
    }

    fn days_of_month(self) -> u32 {
        match self.month {
            2 if self.is_leap() => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    fn day_of_year(self) -> u32 {
        let before = (1..self.month).map(|month| Self { month, ..self }.days_of_month());
        before.sum::<u32>() + self.day
    }

    fn month_name(self) -> &'static str {
        MONTHS[self.month as usize - 1]
    }

    fn day_name(self) -> &'static str {
        let years = self.year - 1;
        let days = years * 365 + years / 4 - years / 100 + years / 400 + self.day_of_year() - 1;
        DAYS[days as usize % 7]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_python_writes_it() {
        let date: Date = "2026-11-08".parse().expect("a date");
        for (format, expected) in [
            ("%d %B %Y", "08 November 2026"),
            ("%Y-%m-%d", "2026-11-08"),
            ("%-d %b %y, %A %a", "8 Nov 26, Sunday Sun"),
            ("%e|%j|%H:%M:%S %p %%", " 8|312|00:00:00 AM %"),
        ] {
            assert_eq!(date.strftime(format).expect(format), expected);
        }
        assert_eq!("2024-02-29".parse::<Date>().expect("a date").strftime("%A").expect("a day"), "Thursday");
        assert!(date.strftime("%Z").is_err() && date.strftime("%").is_err());
        for wrong in
            ["2026-2-1", "2025-02-29", "2026-13-01", "0000-01-01", "26-01-01", "today", "2026-01-01-01"]
        {
            assert!(wrong.parse::<Date>().is_err(), "{wrong}");
        }
    }
}

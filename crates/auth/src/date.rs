//! Dates as text. Times are seconds since 1970, in UTC.

const DAY_S: u64 = 86_400;
/// The year 9999 ends.
const TIME_MAX: u64 = 253_402_300_799;

/// Reads `2027-01-31T12:00:00Z`, or a date alone, which is its first second.
#[must_use]
pub fn parse_utc(text: &str) -> Option<u64> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let is_date = year >= 1970 && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let months: u64 = (1..month).map(|month| days_in(year, month)).sum();
    Some((days_before(year) + months + day - 1) * DAY_S + hour * 3_600 + minute * 60 + second)
}

/// The form that [`parse_utc`] reads; times beyond the year 9999 become its end.
#[must_use]
pub fn format_utc(time: u64) -> String {
    let time = time.min(TIME_MAX);
    let (mut days, seconds) = (time / DAY_S, time % DAY_S);
    // Never later than the year it falls in, and at most a few years earlier.
    let mut year = 1970 + days / 366;
    while days_before(year + 1) <= days {
        year += 1;
    }
    days -= days_before(year);
    let mut month = 1;
    while days >= days_in(year, month) {
        days -= days_in(year, month);
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

fn numbers(text: &str, separator: char, lengths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut found = [0; 3];
    for (number, length) in found.iter_mut().zip(lengths) {
        let part = parts.next()?;
        if part.len() != length || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970 to the first of `year`.
fn days_before(year: u64) -> u64 {
    let leaps_to = |year: u64| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leaps_to(year - 1) - leaps_to(1969)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_dates() {
        for (text, time) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-11-30T21:12:46Z", 1_796_073_166),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("9999-12-31T23:59:59Z", TIME_MAX),
        ] {
            assert_eq!((parse_utc(text), format_utc(time).as_str()), (Some(time), text));
        }
        assert_eq!(parse_utc("2000-03-01"), parse_utc("2000-03-01T00:00:00Z"));
    }

    #[test]
    fn what_is_no_date_in_utc_is_refused() {
        for text in ["", "2027", "2027-02-29", "2027-13-01", "2027-00-01", "1969-12-31", "2027-1-1", "2027-01-01T24:00:00Z"] {
            assert_eq!(parse_utc(text), None, "{text}");
        }
        for text in ["2027-01-01T00:00:00", "2027-01-01T00:00:00+01:00", "2027-01-01T00:00Z", "2027-01-01-01", "+027-01-01"] {
            assert_eq!(parse_utc(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_time_survives_its_text(time in 0..=TIME_MAX) {
            prop_assert_eq!(parse_utc(&format_utc(time)), Some(time));
        }

        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,40}") {
            let _ = parse_utc(&text);
        }
    }
}

//! Values of options. An error is the end of a sentence that has named option and value: what to give instead.

use std::time::Duration;

/// Longer waits are more likely a slip than meant.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The name of a column.
pub(super) fn column(text: &str) -> Result<Option<String>, String> {
    let name = unquoted(text);
    if name.is_empty() {
        return Err("it is empty; give the name of a column, or leave the option out".to_owned());
    }
    Ok(Some(name.to_owned()))
}

/// Names of columns with commas between them.
pub(super) fn columns(text: &str) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(unquoted) {
        if name.is_empty() {
            return Err("it has an empty name; give columns with commas between them".to_owned());
        }
        if names.iter().any(|before| before.eq_ignore_ascii_case(name)) {
            return Err(format!("it has the column {name:?} twice; name it once"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Codes with commas between them, in lower case and each once.
pub(super) fn codes(text: &str) -> Result<Option<Vec<String>>, String> {
    let mut codes: Vec<String> = Vec::new();
    for code in text.split(',') {
        let code = code.trim().to_lowercase();
        if !code.is_empty() && !codes.contains(&code) {
            codes.push(code);
        }
    }
    if codes.is_empty() {
        return Err(
            "it has no code; give markers with commas between them, such as 'i,u'".to_owned(),
        );
    }
    Ok(Some(codes))
}

/// A folder or a URL.
pub(super) fn place(text: &str) -> Result<Option<String>, String> {
    match text.trim() {
        "" => Err("it is empty; give a folder or a URL that can be written".to_owned()),
        place => Ok(Some(place.to_owned())),
    }
}

/// A number above zero.
pub(super) fn count(text: &str) -> Result<Option<usize>, String> {
    match text.trim().parse() {
        Ok(count) if count > 0 => Ok(Some(count)),
        _ => Err("give a number above zero".to_owned()),
    }
}

/// A switch.
pub(super) fn switch(text: &str) -> Result<Option<bool>, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(Some(true)),
        "false" | "no" | "off" | "0" => Ok(Some(false)),
        _ => Err("give 'true' or 'false'".to_owned()),
    }
}

/// A duration such as `10 seconds`, `500ms` or `1.5h`; a bare number is of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_seconds = match unit.trim().to_ascii_lowercase().as_str() {
        "ms" | "millisecond" | "milliseconds" => Some(0.001),
        "" | "s" | "sec" | "second" | "seconds" => Some(1.0),
        "m" | "min" | "minute" | "minutes" => Some(60.0),
        "h" | "hour" | "hours" => Some(3_600.0),
        "d" | "day" | "days" => Some(86_400.0),
        _ => None,
    };
    let number = number.parse::<f64>().ok();
    number
        .zip(unit_seconds)
        .and_then(|(number, seconds)| Duration::try_from_secs_f64(number * seconds).ok())
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| {
            "give a duration such as '10 seconds', '5 minutes' or '500ms', of at most 366 days"
                .to_owned()
        })
}

/// One byte: a character of ASCII, or `tab`.
pub(super) fn byte(text: &str) -> Result<Option<u8>, String> {
    match text.as_bytes() {
        _ if text == "\\t" || text.eq_ignore_ascii_case("tab") => Ok(Some(b'\t')),
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0) => Ok(Some(*byte)),
        _ => Err("give one character of ASCII, or 'tab'".to_owned()),
    }
}

/// One byte, or none at all.
pub(super) fn byte_or_none(text: &str) -> Result<Option<Option<u8>>, String> {
    if text.is_empty() || text.eq_ignore_ascii_case("none") {
        return Ok(Some(None));
    }
    match byte(text) {
        Ok(byte) => Ok(Some(byte)),
        Err(expected) => Err(format!("{expected}, or 'none'")),
    }
}

/// A name without space around it and without the quotes that SQL may have.
fn unquoted(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let check = |text: &str, millis| {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        };
        check("0", 0);
        check("10", 10_000);
        check("500ms", 500);
        check("10 seconds", 10_000);
        check("1 second", 1_000);
        check("1.5 H", 5_400_000);
        check("2m", 120_000);
        check("5 minutes", 300_000);
        check("1d", 86_400_000);
        for text in ["", "soon", "-1s", "1 fortnight", "1.2.3s", "9999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_single_characters() {
        let check =
            |text: &str, expected: Option<u8>| assert_eq!(byte(text).ok().flatten(), expected);
        check(";", Some(b';'));
        check("\t", Some(b'\t'));
        check("\\t", Some(b'\t'));
        check("TAB", Some(b'\t'));
        check("", None);
        check("||", None);
        check("ü", None);
        check("\n", None);
        assert_eq!(byte_or_none("none"), Ok(Some(None)));
        assert_eq!(byte_or_none(""), Ok(Some(None)));
        assert_eq!(byte_or_none("'"), Ok(Some(Some(b'\''))));
        assert!(byte_or_none("''").unwrap_err().contains("'none'"));
    }

    #[test]
    fn switches_and_counts() {
        assert_eq!(switch("Yes"), Ok(Some(true)));
        assert_eq!(switch(" 0 "), Ok(Some(false)));
        assert!(switch("maybe").is_err());
        assert_eq!(count("7"), Ok(Some(7)));
        assert!(count("-7").is_err());
    }
}

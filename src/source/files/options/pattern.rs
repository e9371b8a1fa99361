//! Which files are taken.

use glob::{MatchOptions, Pattern};

use crate::error::{Error, Result};

/// What half-written files are called at their end.
const UNFINISHED: [&str; 3] = [".tmp", ".part", ".filepart"];

/// The pattern that an option has.
pub(super) fn parse(text: &str) -> Result<Pattern> {
    let text = text.trim().trim_start_matches('/');
    if text.is_empty() {
        return Err(Error::invalid(
            "the option pattern is empty; give one such as '*.csv', or leave it out to take every file",
        ));
    }
    Pattern::new(text).map_err(|error| {
        Error::invalid(format!(
            "the pattern {text:?} is not valid at character {}: {}; * stands for any text, ? for a character, [ab] for one of \
             several, ** for any folders",
            error.pos, error.msg
        ))
    })
}

/// Whether a pattern takes a file: its name or, with a slash in the pattern, its path below the location.
pub(super) fn matches(pattern: &Pattern, relative: &str) -> bool {
    let options = MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: false,
    };
    let name = if pattern.as_str().contains('/') {
        relative
    } else {
        relative.rsplit('/').next().unwrap_or(relative)
    };
    pattern.matches_with(name, options)
}

/// Whether a name, or that of a folder on the way, says that the file is not for reading (yet).
pub(super) fn is_hidden_or_unfinished(relative: &str) -> bool {
    let lower = relative.to_ascii_lowercase();
    relative.split('/').any(|name| name.starts_with(['_', '.']))
        || UNFINISHED.iter().any(|ending| lower.ends_with(ending))
}

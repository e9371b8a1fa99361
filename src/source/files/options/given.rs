//! Options under their one name each, whatever the spelling; who they belong to is known, and none is left over.

use std::collections::{BTreeMap, HashMap};

use super::FileOptions;
use super::format::CSV_OPTIONS;
use crate::error::{Error, Result};
use crate::source::files::location::Location;

/// What DataFusion puts before keys without a period.
const PREFIX: &str = "format.";

/// Other names of options.
const ALIASES: &[(&str, &str)] = &[
    ("has_header", "header"),
    ("null_string", "null_value"),
    ("null", "null_value"),
];

/// So many letters may be wrong for an option to be suggested.
const NEAR: usize = 2;

/// The options given, by name.
pub(super) struct Given {
    /// Those of the source and of its format.
    values: BTreeMap<String, String>,
    /// Those of the object store.
    store: HashMap<String, String>,
}

impl Given {
    /// Sorts options by whom they belong to. A ledger elsewhere may need options that the source's store does not have.
    pub(super) fn try_new(location: &str, options: &HashMap<String, String>) -> Result<Self> {
        let ledger = ledger(options);
        let of_store = |key: &str| {
            Location::canonical_key(location, key).or_else(|| Location::canonical_key(ledger?, key))
        };
        let mut spelled = BTreeMap::new();
        let mut given = Self {
            values: BTreeMap::new(),
            store: HashMap::new(),
        };
        // sorted, so that of several errors it is always the same that is told
        for (key, value) in options.iter().collect::<BTreeMap<_, _>>() {
            let bare = &bare(key);
            let (name, is_own) = match own_name(bare) {
                Some(name) => (name.to_owned(), true),
                None => match of_store(bare) {
                    Some(name) => (name, false),
                    None => return Err(unknown(location, bare)),
                },
            };
            if let Some(before) = spelled.insert(name.clone(), key) {
                return Err(Error::invalid(format!(
                    "the option {name} is given twice, as {before:?} and {key:?}; leave one of them out"
                )));
            }
            if is_own {
                given.values.insert(name, value.clone());
            } else {
                given.store.insert(name, value.clone());
            }
        }
        Ok(given)
    }

    /// The value of an option, if it is given.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    /// The parsed value of an option, or what stands for an option that is not given.
    pub(super) fn read<T: Default>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T> {
        let Some(value) = self.take(name) else {
            return Ok(T::default());
        };
        parse(&value).map_err(|expected| {
            Error::invalid(format!(
                "the option {name} has the value {value:?}; {expected}"
            ))
        })
    }

    /// The choice that an option names.
    pub(super) fn choose<T: Copy + Default>(
        &mut self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<T> {
        self.read(name, |value| {
            choices
                .iter()
                .find(|(choice, _)| choice.eq_ignore_ascii_case(value.trim()))
                .map(|(_, meaning)| *meaning)
                .ok_or_else(|| {
                    format!("give {}", either(choices.iter().map(|(choice, _)| *choice)))
                })
        })
    }

    /// One of some options that is given, if any is.
    pub(super) fn any_of(&self, names: &[&'static str]) -> Option<&'static str> {
        names
            .iter()
            .find(|name| self.values.contains_key(**name))
            .copied()
    }

    /// The options of the object store.
    pub(super) fn into_store(self) -> HashMap<String, String> {
        self.store
    }
}

/// The key without what DataFusion has put before it.
fn bare(key: &str) -> String {
    let lower = key.trim().to_ascii_lowercase();
    lower
        .strip_prefix(PREFIX)
        .map_or(lower.clone(), str::to_owned)
}

/// Where the ledger is to be, if that is said.
fn ledger(options: &HashMap<String, String>) -> Option<&str> {
    let (_, value) = options.iter().find(|(key, _)| bare(key) == "ledger")?;
    Some(value.as_str())
}

/// `'a', 'b' or 'c'`.
fn either<'a>(choices: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = choices.map(|choice| format!("'{choice}'")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The name of an option that is not of the store.
fn own_name(key: &str) -> Option<&'static str> {
    let name = ALIASES
        .iter()
        .find(|(alias, _)| *alias == key)
        .map_or(key, |(_, name)| *name);
    let mut own = FileOptions::KNOWN.iter().chain(CSV_OPTIONS);
    own.find(|known| **known == name).copied()
}

fn unknown(location: &str, key: &str) -> Error {
    let store = Location::example_keys(location);
    let all = FileOptions::KNOWN.iter().chain(CSV_OPTIONS).chain(store);
    let nearest = all
        .map(|name| (distance(key, name), *name))
        .filter(|(distance, _)| *distance <= NEAR && distance * 2 <= key.len())
        .min();
    let hint = nearest.map_or_else(String::new, |(_, name)| format!("did you mean {name}? "));
    let of_store = if store.is_empty() {
        String::new()
    } else {
        format!(
            "; and the options of the object store, such as {}",
            store.join(", ")
        )
    };
    Error::invalid(format!(
        "unknown option {key:?}; {hint}known options: {}; for CSV also {}{of_store}",
        FileOptions::KNOWN.join(", "),
        CSV_OPTIONS.join(", ")
    ))
}

/// How many letters have to be put in, left out or changed (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_letters() {
        let check = |left, right, expected| assert_eq!(distance(left, right), expected);
        check("pattern", "pattern", 0);
        check("patern", "pattern", 1);
        check("settel", "settle", 2);
        check("", "key", 3);
        check("kitten", "sitting", 3);
    }

    #[test]
    fn choices_read_as_a_sentence() {
        assert_eq!(either(["a"].into_iter()), "'a'");
        assert_eq!(either(["a", "b", "c"].into_iter()), "'a', 'b' or 'c'");
    }
}

//! What is wrong with a peer's JSON, in words that hold no value of it: values may be secrets, and serde's own text quotes them. Whoever
//! reads JSON of a client, a bridge or an API server says this. No I/O.

use podbridge_proto::words;
use serde_json::Error;
use serde_json::error::Category;

/// Beginnings of serde's texts that are followed by the name of a field.
const ABOUT_FIELDS: [&str; 3] = ["missing field `", "unknown field `", "duplicate field `"];

/// Longest list of expected words, bytes.
const LONGEST_EXPECTED: usize = 256;

/// Returns a phrase for an error of serde_json, with the place where it was found.
pub(crate) fn json_fault(error: &Error) -> String {
    let what = match error.classify() {
        Category::Syntax => "it is not valid JSON".to_owned(),
        Category::Eof => "the text ends too early".to_owned(),
        Category::Io => "the text cannot be read".to_owned(),
        Category::Data => {
            let text = error.to_string();
            let what = about_field(&text).or_else(|| expected(&text));
            what.unwrap_or_else(|| "a value has the wrong type".to_owned())
        }
    };
    match (error.line(), error.column()) {
        // A value in memory has no lines.
        (0, _) => what,
        (line, column) => format!("{what} (line {line}, column {column})"),
    }
}

/// Returns what serde says about the name of a field; `None` if it says something else.
fn about_field(text: &str) -> Option<String> {
    ABOUT_FIELDS.iter().find_map(|about| {
        let (name, _) = text.strip_prefix(about)?.split_once('`')?;
        Some(format!("{about}{}`", words::name(name)))
    })
}

/// Returns what serde says it expected: the end of its text, which is this program's own. `None` if it says no such thing.
fn expected(text: &str) -> Option<String> {
    let (_, expected) = text.rsplit_once(", expected ")?;
    // serde_json adds the place.
    let expected = expected
        .rsplit_once(" at line ")
        .map_or(expected, |(expected, _)| expected);
    Some(format!(
        "a value is not {}",
        words::clean_within(expected, LONGEST_EXPECTED)
    ))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "snake_case")]
    #[expect(dead_code, reason = "only parsed")]
    struct Sample {
        number: u8,
        words: Option<Vec<String>>,
        choice: Option<Choice>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Choice {
        Only,
    }

    fn fault<T: DeserializeOwned + std::fmt::Debug>(json: &str) -> String {
        json_fault(&serde_json::from_str::<T>(json).unwrap_err())
    }

    #[test]
    fn no_value_is_repeated() {
        for json in [
            r#"{"number": "secret"}"#,
            r#"{"number": ["secret"]}"#,
            r#"{"number": 1, "words": "secret"}"#,
            r#"{"number": 1, "choice": "secret"}"#,
            r#"{"number": 1, "choice": {"secret": "secret"}}"#,
            r#"{"number": 424242}"#,
            r#"{"number": -424242}"#,
            r#"{"number": 4.24242}"#,
            r#"{"number": 1, "choice": "secret`, expected secret"}"#,
            r#"{"number": "secret, expected secret at line 1"}"#,
            r#"{"number": 1} secret"#,
            r#""secret"#,
            "secret",
        ] {
            let fault = fault::<Sample>(json);
            assert!(!fault.contains("secret") && !fault.contains("42"), "{json}: {fault}");
            assert!(fault.contains("line 1, column "), "{json}: {fault}");
        }
    }

    #[test]
    fn what_is_expected_is_told() {
        assert!(fault::<Sample>(r#"{"number": "x"}"#).starts_with("a value is not u8 (line 1"));
        assert!(fault::<Sample>(r#"{"number": 1, "choice": "x"}"#).starts_with("a value is not `only` (line 1"));
    }

    #[test]
    fn the_name_of_a_field_is_told_and_cut() {
        assert_eq!(fault::<Sample>("{}"), "missing field `number` (line 1, column 2)");
        assert!(fault::<Sample>(r#"{"new": 1}"#).starts_with("unknown field `new` (line 1"));
        assert!(fault::<Sample>(r#"{"number": 1, "number": 2}"#).starts_with("duplicate field `number`"));
        let long = fault::<Sample>(&format!(r#"{{"{}": 1}}"#, "\\u001b[31m".repeat(1000)));
        assert!(long.len() < 200 && !long.contains(char::is_control), "{long}");
    }
}

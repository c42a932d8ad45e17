//! A pair as JSON: what `get`, `scan` and `export` write and `import` reads, one object a line. A change that `watch` writes is one too.
//!
//! ```text
//! {"key":"color","value":"green","create_revision":1,"mod_revision":4,"version":2,"lease":null}
//! {"key":"photo","value_base64":"/9j/4AAQ","create_revision":7,"mod_revision":7,"version":1,"lease":null}
//! ```
//!
//! A key or value that is no UTF-8 is written as `key_base64` or `value_base64` instead (RFC 4648 §4, with padding). Reading takes either,
//! and ignores all other fields: revisions are given anew by the store that imports.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::{KeyValue, WatchEvent};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// What of a pair is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    KeyAndValue,
    KeyOnly,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
    lease: Option<u64>,
}

/// Text if the bytes are text, else base64.
fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

fn written(kv: &KeyValue, parts: Parts) -> Written<'_> {
    let (key, key_base64) = text_or_base64(&kv.key);
    let (value, value_base64) = match parts {
        Parts::KeyAndValue => text_or_base64(&kv.value),
        Parts::KeyOnly => (None, None),
    };
    let KeyValue { create_revision, mod_revision, version, lease, .. } = *kv;
    Written { key, key_base64, value, value_base64, create_revision, mod_revision, version, lease }
}

/// A change, as `watch` writes it.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum WrittenEvent<'a> {
    Put {
        #[serde(flatten)]
        kv: Written<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<Written<'a>>,
    },
    Delete {
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        key_base64: Option<String>,
        mod_revision: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<Written<'a>>,
    },
}

/// Writes one line about a change: the pair, with a `type` before it and, where it is there, what the key held before.
pub(crate) fn write_event(out: &mut dyn Write, event: &WatchEvent) -> io::Result<()> {
    let previous = event.previous().map(|kv| written(kv, Parts::KeyAndValue));
    let line = match event {
        WatchEvent::Put { kv, .. } => WrittenEvent::Put { kv: written(kv, Parts::KeyAndValue), previous },
        WatchEvent::Delete { key, revision, .. } => {
            let (key, key_base64) = text_or_base64(key);
            WrittenEvent::Delete { key, key_base64, mod_revision: *revision, previous }
        }
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// Writes one line.
pub(crate) fn write_line(out: &mut dyn Write, kv: &KeyValue, parts: Parts) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &written(kv, parts))?;
    out.write_all(b"\n")
}

/// A pair as part of a larger object.
pub(crate) fn to_json(kv: &KeyValue) -> serde_json::Value {
    serde_json::to_value(written(kv, Parts::KeyAndValue)).expect("strings and numbers are always JSON")
}

/// A key as JSON fields: `key`, or `key_base64`.
pub(crate) fn key_field(key: &[u8]) -> (&'static str, String) {
    match text_or_base64(key) {
        (Some(text), _) => ("key", text.to_owned()),
        (None, encoded) => ("key_base64", encoded.expect("what is no text is base64")),
    }
}

/// A value as a JSON field: `value`, or `value_base64`.
pub(crate) fn value_field(value: &[u8]) -> (&'static str, String) {
    match text_or_base64(value) {
        (Some(text), _) => ("value", text.to_owned()),
        (None, encoded) => ("value_base64", encoded.expect("what is no text is base64")),
    }
}

#[derive(Deserialize)]
struct Read {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    lease: Option<u64>,
}

/// A pair to import.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// It had a lease where it came from.
    pub(crate) had_lease: bool,
}

/// Reads one line.
pub(crate) fn parse_line(line: &[u8]) -> Result<Pair, String> {
    let read: Read = serde_json::from_slice(line).map_err(|cause| format!("no JSON object of a pair: {cause}"))?;
    let key = either("key", read.key, read.key_base64)?;
    let value = either("value", read.value, read.value_base64)?;
    Ok(Pair { key, value, had_lease: read.lease.is_some_and(|lease| lease != 0) })
}

fn either(name: &str, text: Option<String>, encoded: Option<String>) -> Result<Bytes, String> {
    match (text, encoded) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(encoded)) => match STANDARD.decode(encoded) {
            Ok(bytes) => Ok(bytes.into()),
            Err(cause) => Err(format!("{name}_base64 is no base64: {cause}")),
        },
        (None, None) => Err(format!("neither {name} nor {name}_base64 is there")),
        (Some(_), Some(_)) => Err(format!("{name} and {name}_base64 are both there; give one")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn pair(key: &'static [u8], value: &'static [u8]) -> KeyValue {
        let (key, value) = (Bytes::from_static(key), Bytes::from_static(value));
        KeyValue { key, value, create_revision: 1, mod_revision: 4, version: 2, lease: None }
    }

    fn line(kv: &KeyValue, parts: Parts) -> String {
        let mut out = Vec::new();
        write_line(&mut out, kv, parts).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_text() {
        assert_eq!(
            line(&pair(b"color", "gr\u{fc}n\n".as_bytes()), Parts::KeyAndValue),
            "{\"key\":\"color\",\"value\":\"gr\u{fc}n\\n\",\"create_revision\":1,\"mod_revision\":4,\"version\":2,\"lease\":null}\n"
        );
    }

    #[test]
    fn what_is_no_text_is_base64() {
        assert_eq!(
            line(&KeyValue { lease: Some(9), ..pair(b"\xff", b"\xfe\x00") }, Parts::KeyAndValue),
            "{\"key_base64\":\"/w==\",\"value_base64\":\"/gA=\",\"create_revision\":1,\"mod_revision\":4,\"version\":2,\"lease\":9}\n"
        );
    }

    #[test]
    fn keys_alone_have_no_value_field() {
        let line = line(&pair(b"k", b""), Parts::KeyOnly);
        assert!(!line.contains("value"), "{line}");
    }

    #[test]
    fn every_pair_survives_the_way_out_and_in() {
        let pairs: [(&[u8], &[u8]); 5] =
            [(b"k", b""), (b"k", b"\0"), (b"\xff\xfe", b"text"), (b"\"\\", b"\r\n\t"), (b"", b"\xc3\x28")];
        for (key, value) in pairs {
            let read = parse_line(line(&pair(key, value), Parts::KeyAndValue).as_bytes()).unwrap();
            assert_eq!((read.key.as_ref(), read.value.as_ref(), read.had_lease), (key, value, false));
        }
    }

    #[test]
    fn a_line_that_is_no_pair_is_told_why() {
        for (line, wanted) in [
            ("", "no JSON object"),
            ("[]", "no JSON object"),
            ("{\"key\":\"k\"}", "neither value nor value_base64"),
            ("{\"value\":\"v\"}", "neither key nor key_base64"),
            ("{\"key\":\"k\",\"key_base64\":\"aw==\",\"value\":\"v\"}", "both there"),
            ("{\"key\":\"k\",\"value_base64\":\"?\"}", "no base64"),
        ] {
            let message = parse_line(line.as_bytes()).unwrap_err();
            assert!(message.contains(wanted), "{line}: {message}");
        }
    }
}

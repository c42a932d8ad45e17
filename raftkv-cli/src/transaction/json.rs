//! A transaction as JSON.
//!
//! ```text
//! {
//!   "if":   [{"value": {"key": "color", "op": "=", "value": "dark green"}},
//!            {"version": {"prefix": "jobs/", "op": "<", "number": 3}},
//!            {"mod": {"key": "color", "op": ">", "number": 12}},
//!            {"absent": {"key": "lock"}}],
//!   "then": [{"put": {"key": "color", "value": "blue", "previous": true}},
//!            {"put": {"key": "session/7", "value": "ann", "ttl": "60s"}},
//!            {"del": {"prefix": "old/"}},
//!            {"get": {"prefix": "jobs/", "limit": 10, "sort": "mod", "min_mod_revision": 7, "revision": 12}},
//!            {"txn": {"if": [], "then": [], "else": []}}],
//!   "else": [{"get": {"key": "color"}}]
//! }
//! ```
//!
//! Keys are `key`, `prefix`, or `from` and `to`, of which one may be left out; an empty prefix means every key. Any of them and `value` may
//! have `_base64` at the end of the name instead, for bytes that are no text. Unknown fields, and fields that mean nothing where they
//! stand, are errors.

use super::lexer::Relation;
use super::text::{compare_number, compare_value};
use super::{DEPTH_MAX, KEY_IS_EMPTY, Problem, QUOTED_MAX, SORTS, not_empty, quoted, sort_by, ttl};
use crate::arguments::LEASE_ID_MAX;
use crate::commands::scan::WithRevision;
use crate::output::printable;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::{Compare, Delete, Operation, Put, Range, Scan, Transaction};
use serde::Deserialize;

/// Columns of a message of the parser that quotes nothing, or nothing that could be told from the rest of it.
const MESSAGE_MAX: usize = 160;

/// Reads a transaction.
pub(super) fn parse(input: &str) -> Result<Transaction, Problem> {
    let body: Body = serde_json::from_str(input).map_err(|error| {
        let message = error.to_string();
        // The place is told in front, as everywhere.
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        let column = characters(input, error.line(), error.column());
        Problem { line: error.line(), column, message: shortened(message) }
    })?;
    body.into_transaction(1).map_err(|message| Problem { line: 1, column: 1, message })
}

/// The characters that begin in so many bytes of a line: the parser counts bytes.
fn characters(input: &str, line: usize, bytes: usize) -> usize {
    let text = input.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    text.char_indices().take_while(|(position, _)| *position < bytes).count().max(1)
}

/// A message of the parser, with what it quotes of the input cut, and nothing in it that steers a terminal. What is quoted may hold quotes
/// of its own, so its end is looked for from behind: there the parser says what it expected instead.
fn shortened(message: &str) -> String {
    let cut = || {
        let start = message.find(['`', '"'])?;
        let sign = &message[start..=start];
        let end = message.rfind(&format!("{sign}, expected")).filter(|end| *end > start)?;
        let (before, inside, after) = (&message[..start], &message[start + 1..end], &message[end + 1..]);
        if sign == "\"" {
            // The parser has escaped it already.
            let kept: String = inside.chars().take(QUOTED_MAX).collect();
            let cut = if kept.len() < inside.len() { "…" } else { "" };
            return Some(format!("{before}\"{kept}{cut}\"{after}"));
        }
        Some(format!("{before}{}{after}", quoted(inside.as_bytes())))
    };
    cut().unwrap_or_else(|| printable(message.as_bytes(), MESSAGE_MAX))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default, rename = "if")]
    compares: Vec<CompareRow>,
    #[serde(default)]
    then: Vec<OperationRow>,
    #[serde(default, rename = "else")]
    otherwise: Vec<OperationRow>,
}

impl Body {
    fn into_transaction(self, depth: usize) -> Result<Transaction, String> {
        let mut transaction = Transaction::new();
        for compare in self.compares {
            transaction = transaction.when(compare.0);
        }
        for operation in self.then {
            transaction = transaction.then(operation.into_operation(depth)?);
        }
        for operation in self.otherwise {
            transaction = transaction.otherwise(operation.into_operation(depth)?);
        }
        Ok(transaction)
    }
}

/// What a compare looks at, as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum CompareForm {
    Value(Fields),
    Version(Fields),
    Create(Fields),
    Mod(Fields),
    Lease(Fields),
    Exists(Fields),
    Absent(Fields),
}

#[derive(Deserialize)]
#[serde(try_from = "CompareForm")]
struct CompareRow(Compare);

impl TryFrom<CompareForm> for CompareRow {
    type Error = String;

    fn try_from(form: CompareForm) -> Result<CompareRow, String> {
        let number = |mut fields: Fields, of: fn(Range) -> client::NumberCompare| {
            let (range, relation) = (fields.range()?, fields.relation()?);
            let number = fields.number.take().ok_or("a compare of a number needs \"number\"")?;
            fields.nothing_else("a compare of a number")?;
            Ok::<_, String>(CompareRow(compare_number(of(range), relation, number)))
        };
        let key = |mut fields: Fields, of: fn(Bytes) -> Compare| {
            let key = fields.key()?.ok_or("exists and absent need a \"key\"")?;
            fields.nothing_else("exists or absent")?;
            Ok::<_, String>(CompareRow(of(key)))
        };
        match form {
            CompareForm::Value(mut fields) => {
                let (range, relation) = (fields.range()?, fields.relation()?);
                let value = fields.value()?.ok_or("a compare of a value needs \"value\"")?;
                fields.nothing_else("a compare of a value")?;
                Ok(CompareRow(compare_value(Compare::value_in(range), relation, value)))
            }
            CompareForm::Version(fields) => number(fields, Compare::version_in),
            CompareForm::Create(fields) => number(fields, Compare::create_revision_in),
            CompareForm::Mod(fields) => number(fields, Compare::mod_revision_in),
            CompareForm::Lease(fields) => number(fields, Compare::lease_in),
            CompareForm::Exists(fields) => key(fields, Compare::exists),
            CompareForm::Absent(fields) => key(fields, Compare::absent),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum OperationRow {
    Put(PutRow),
    Get(GetRow),
    Del(DelRow),
    Txn(Body),
}

impl OperationRow {
    fn into_operation(self, depth: usize) -> Result<Operation, String> {
        Ok(match self {
            OperationRow::Put(PutRow(operation))
            | OperationRow::Get(GetRow(operation))
            | OperationRow::Del(DelRow(operation)) => operation,
            OperationRow::Txn(_) if depth >= DEPTH_MAX => {
                return Err(format!("transactions lie {DEPTH_MAX} deep in one another at most"));
            }
            OperationRow::Txn(body) => Operation::transaction(body.into_transaction(depth + 1)?),
        })
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Fields")]
struct PutRow(Operation);

impl TryFrom<Fields> for PutRow {
    type Error = String;

    fn try_from(mut fields: Fields) -> Result<PutRow, String> {
        let key = fields.key()?.ok_or("put needs a \"key\"")?;
        let mut put = match (fields.value()?, std::mem::take(&mut fields.keep_value)) {
            (Some(value), false) => Put::new(key, value),
            (None, true) => Put::new(key, Bytes::new()).keep_value(),
            (Some(_), true) | (None, false) => return Err("put takes a \"value\", or \"keep_value\": true".to_owned()),
        };
        let lease = (fields.lease.take(), fields.ttl.take(), std::mem::take(&mut fields.keep_lease));
        put = match lease {
            (None, None, false) => put,
            (Some(id), None, false) if (1..=LEASE_ID_MAX).contains(&id) => put.lease(id),
            (Some(_), None, false) => return Err(format!("\"lease\" is a number from 1 to {LEASE_ID_MAX}")),
            (None, Some(time), false) => put
                .ttl(ttl(&time).map_err(|wanted| format!("\"ttl\" is {wanted}, and not {}", quoted(time.as_bytes())))?),
            (None, None, true) => put.keep_lease(),
            _ => return Err("put takes one of \"lease\", \"ttl\" and \"keep_lease\" at most".to_owned()),
        };
        if std::mem::take(&mut fields.previous) {
            put = put.with_previous();
        }
        fields.nothing_else("put")?;
        Ok(PutRow(Operation::put(put)))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Fields")]
struct GetRow(Operation);

impl TryFrom<Fields> for GetRow {
    type Error = String;

    fn try_from(mut fields: Fields) -> Result<GetRow, String> {
        let mut scan = Scan::new(fields.range()?);
        scan = match fields.limit.take() {
            None => scan,
            Some(0) => return Err("\"limit\" is 1 or more".to_owned()),
            Some(limit) => scan.limit(limit),
        };
        if let Some(by) = fields.sort.take() {
            let known = sort_by(&by);
            scan =
                scan.sort_by(known.ok_or_else(|| format!("\"sort\" is {SORTS}, and not {}", quoted(by.as_bytes())))?);
        }
        let bounds: [(&mut Option<u64>, WithRevision); 4] = [
            (&mut fields.min_mod_revision, Scan::min_mod_revision),
            (&mut fields.max_mod_revision, Scan::max_mod_revision),
            (&mut fields.min_create_revision, Scan::min_create_revision),
            (&mut fields.max_create_revision, Scan::max_create_revision),
        ];
        for (bound, of) in bounds {
            if let Some(revision) = bound.take() {
                scan = of(scan, revision);
            }
        }
        if std::mem::take(&mut fields.keys_only) {
            scan = scan.keys_only();
        }
        if std::mem::take(&mut fields.count_only) {
            scan = scan.count_only();
        }
        if std::mem::take(&mut fields.count_total) {
            scan = scan.count_total();
        }
        if std::mem::take(&mut fields.reverse) {
            scan = scan.reverse();
        }
        if let Some(revision) = fields.revision.take() {
            scan = scan.at_revision(revision);
        }
        fields.nothing_else("get")?;
        Ok(GetRow(Operation::range(scan)))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Fields")]
struct DelRow(Operation);

impl TryFrom<Fields> for DelRow {
    type Error = String;

    fn try_from(mut fields: Fields) -> Result<DelRow, String> {
        let mut delete = Delete::range(fields.range()?);
        if std::mem::take(&mut fields.previous) {
            delete = delete.with_previous();
        }
        fields.nothing_else("del")?;
        Ok(DelRow(Operation::delete(delete)))
    }
}

/// Every field that means something somewhere. Whoever understands one takes it out; what is left does not belong there.
#[derive(Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    #[serde(deserialize_with = "present")]
    key: Option<String>,
    #[serde(deserialize_with = "present")]
    key_base64: Option<String>,
    #[serde(deserialize_with = "present")]
    prefix: Option<String>,
    #[serde(deserialize_with = "present")]
    prefix_base64: Option<String>,
    #[serde(deserialize_with = "present")]
    from: Option<String>,
    #[serde(deserialize_with = "present")]
    from_base64: Option<String>,
    #[serde(deserialize_with = "present")]
    to: Option<String>,
    #[serde(deserialize_with = "present")]
    to_base64: Option<String>,
    #[serde(deserialize_with = "present")]
    value: Option<String>,
    #[serde(deserialize_with = "present")]
    value_base64: Option<String>,
    #[serde(deserialize_with = "present")]
    op: Option<String>,
    #[serde(deserialize_with = "present")]
    number: Option<u64>,
    #[serde(deserialize_with = "present")]
    lease: Option<u64>,
    #[serde(deserialize_with = "present")]
    ttl: Option<String>,
    keep_lease: bool,
    keep_value: bool,
    previous: bool,
    #[serde(deserialize_with = "present")]
    limit: Option<u64>,
    keys_only: bool,
    count_only: bool,
    count_total: bool,
    reverse: bool,
    #[serde(deserialize_with = "present")]
    revision: Option<u64>,
    #[serde(deserialize_with = "present")]
    sort: Option<String>,
    #[serde(deserialize_with = "present")]
    min_mod_revision: Option<u64>,
    #[serde(deserialize_with = "present")]
    max_mod_revision: Option<u64>,
    #[serde(deserialize_with = "present")]
    min_create_revision: Option<u64>,
    #[serde(deserialize_with = "present")]
    max_create_revision: Option<u64>,
}

/// A field that is there has a value: `null` is what a program writes that has mistyped a name, and must not pass for one that was left out.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

impl Fields {
    fn key(&mut self) -> Result<Option<Bytes>, String> {
        let key = either("key", self.key.take(), self.key_base64.take())?;
        if key.as_ref().is_some_and(Bytes::is_empty) { Err(KEY_IS_EMPTY.to_owned()) } else { Ok(key) }
    }

    fn value(&mut self) -> Result<Option<Bytes>, String> {
        either("value", self.value.take(), self.value_base64.take())
    }

    fn range(&mut self) -> Result<Range, String> {
        let key = self.key()?;
        let prefix = either("prefix", self.prefix.take(), self.prefix_base64.take())?;
        let from = either("from", self.from.take(), self.from_base64.take())?;
        let to = either("to", self.to.take(), self.to_base64.take())?;
        match (key, prefix, from, to) {
            (Some(key), None, None, None) => Ok(Range::key(key)),
            (None, Some(prefix), None, None) => Ok(Range::prefix(prefix)),
            (None, None, None, None) => {
                Err("which keys? \"key\", \"prefix\", or \"from\" and \"to\"; \"prefix\": \"\" means every key"
                    .to_owned())
            }
            (None, None, from, to) => not_empty(Range { start: from.unwrap_or_default(), end: to }),
            _ => Err("keys are named by \"key\", by \"prefix\", or by \"from\" and \"to\"".to_owned()),
        }
    }

    fn relation(&mut self) -> Result<Relation, String> {
        match self.op.take().as_deref() {
            Some("=") => Ok(Relation::Equal),
            Some("!=") => Ok(Relation::NotEqual),
            Some("<") => Ok(Relation::Less),
            Some(">") => Ok(Relation::Greater),
            Some(_) | None => Err("a compare needs \"op\": one of \"=\" \"!=\" \"<\" \">\"".to_owned()),
        }
    }

    fn nothing_else(&self, what: &str) -> Result<(), String> {
        if *self == Fields::default() { Ok(()) } else { Err(format!("a field means nothing to {what}")) }
    }
}

fn either(name: &str, text: Option<String>, encoded: Option<String>) -> Result<Option<Bytes>, String> {
    match (text, encoded) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(encoded)) => {
            let bytes = STANDARD.decode(encoded).map_err(|cause| format!("{name}_base64 is no base64: {cause}"))?;
            Ok(Some(bytes.into()))
        }
        (Some(_), Some(_)) => Err(format!("{name} and {name}_base64 are both there; give one")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_whole_transaction() {
        let input = r#"{
            "if": [{"value": {"key": "color", "op": "=", "value": "dark green"}},
                   {"version": {"prefix": "jobs/", "op": "<", "number": 3}},
                   {"lease": {"from": "a", "to": "b", "op": "!=", "number": 0}},
                   {"absent": {"key_base64": "/w=="}}],
            "then": [{"put": {"key": "color", "value": "blue", "previous": true}},
                     {"put": {"key": "session/7", "value": "ann", "ttl": "60s"}},
                     {"put": {"key": "k", "keep_value": true, "lease": 7}},
                     {"del": {"prefix": "old/", "previous": true}},
                     {"get": {"from": "jobs/", "limit": 10, "keys_only": true, "reverse": true, "revision": 4}},
                     {"get": {"prefix": "", "count_only": true}},
                     {"get": {"prefix": "a", "sort": "version", "min_mod_revision": 2, "max_mod_revision": 9,
                              "min_create_revision": 1, "max_create_revision": 8}},
                     {"txn": {"if": [{"exists": {"key": "next"}}], "then": [{"get": {"key": "next"}}]}}],
            "else": [{"get": {"key": "color"}}]
        }"#;
        let inner = Transaction::new().when(Compare::exists("next")).then(Operation::get("next"));
        let wanted = Transaction::new()
            .when(Compare::value("color").equals("dark green"))
            .when(Compare::version_in(Range::prefix("jobs/")).less_than(3))
            .when(Compare::lease_in(Range::between("a", "b")).differs_from(0))
            .when(Compare::absent(b"\xff".as_slice()))
            .then(Operation::put(Put::new("color", "blue").with_previous()))
            .then(Operation::put(Put::new("session/7", "ann").ttl(Duration::from_secs(60))))
            .then(Operation::put(Put::new("k", "").keep_value().lease(7)))
            .then(Operation::delete(Delete::range(Range::prefix("old/")).with_previous()))
            .then(Operation::range(Scan::new(Range::from("jobs/")).limit(10).keys_only().reverse().at_revision(4)))
            .then(Operation::range(Scan::new(Range::prefix("")).count_only()))
            .then(Operation::range(
                Scan::new(Range::prefix("a"))
                    .sort_by(client::SortBy::Version)
                    .min_mod_revision(2)
                    .max_mod_revision(9)
                    .min_create_revision(1)
                    .max_create_revision(8),
            ))
            .then(Operation::transaction(inner))
            .otherwise(Operation::get("color"));
        assert_eq!(parse(input).unwrap(), wanted);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (input, line, wanted) in [
            ("{\n\"when\": []}", 2, "unknown field \"when\""),
            ("{\"then\": [\n{\"put\": {\"key\": \"k\"}}\n]}", 2, "put takes a \"value\""),
            ("{\"then\": [{\"put\": {\"key\": \"k\", \"value\": \"v\",\n\"limit\": 3}}]}", 2, "means nothing to put"),
            ("{\"then\": [{\"get\": {\"key\": \"k\", \"prefix\": \"p\"}}]}", 1, "keys are named by"),
            ("{\"if\": [{\"value\": {\"key\": \"k\", \"op\": \">=\", \"value\": \"v\"}}]}", 1, "one of \"=\""),
            ("{\"if\": [{\"mod\": {\"key\": \"k\", \"op\": \"=\"}}]}", 1, "needs \"number\""),
            ("{\"then\": [{\"put\": {\"key\": \"k\", \"value_base64\": \"?\"}}]}", 1, "no base64"),
            ("{\"then\": [\n\n{\"move\": {}}]}", 3, "unknown variant \"move\""),
            ("{\"then\": [", 1, "EOF"),
            (
                "{\"then\": [{\"put\": {\"key\": \"k\", \"value\": \"v\", \"lease\": 9223372036854775808}}]}",
                1,
                "from 1 to 9223372036854775807",
            ),
            ("{\"then\": [{\"put\": {\"key\": \"k\", \"value\": \"v\", \"lease\": 0}}]}", 1, "from 1 to"),
            (
                "{\"then\": [{\"put\": {\"key\": \"k\", \"value\": \"v\", \"ttl\": \"500ms\"}}]}",
                1,
                "\"ttl\" is a time to live of 1s or more, and not \"500ms\"",
            ),
            // What a program writes that has mistyped a name.
            ("{\"then\": [{\"del\": {\"key\": null}}]}", 1, "null, expected a string"),
            ("{\"then\": [{\"del\": {\"key\": null, \"to\": \"b\"}}]}", 1, "null, expected a string"),
            ("{\"then\": [{\"del\": {}}]}", 1, "which keys?"),
            ("{\"then\": [{\"get\": {}}]}", 1, "which keys?"),
            ("{\"then\": [{\"del\": {\"from\": \"b\", \"to\": \"a\"}}]}", 1, "no key lies from \"b\""),
            ("{\"if\": [{\"mod\": {\"op\": \"=\", \"number\": 1}}]}", 1, "which keys?"),
            ("{\"if\": [{\"exists\": {\"key\": \"\"}}]}", 1, "the key is empty; a key has at least one byte"),
            ("{\"then\": [{\"del\": {\"key_base64\": \"\"}}]}", 1, "the key is empty; a key has at least one byte"),
            ("{\"then\": [{\"get\": {\"prefix\": \"a\", \"limit\": 0}}]}", 1, "\"limit\" is 1 or more"),
            ("{\"then\": [{\"get\": {\"prefix\": \"a\", \"sort\": \"size\"}}]}", 1, "\"sort\" is key, version,"),
            ("{\"then\": [{\"del\": {\"prefix\": \"a\", \"sort\": \"mod\"}}]}", 1, "means nothing to del"),
        ] {
            let problem = parse(input).unwrap_err();
            assert_eq!(problem.line, line, "{input}: {problem}");
            assert!(problem.message.contains(wanted), "{input}: {problem}");
            assert!(!problem.message.contains("at line"), "the place is told twice: {problem}");
        }
    }

    #[test]
    fn places_count_characters() {
        let ends = |name: &str| parse(&format!("{{\n  \"{name}\": []}}")).unwrap_err();
        assert_eq!(ends("grün"), Problem { message: ends("grün").message, ..ends("grun") });
        assert_eq!((ends("grün").line, ends("grün").column), (2, 8));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "{\"then\":[{\"txn\":".repeat(depth) + "{}", "}]}".repeat(depth));
        assert!(parse(&nested(DEPTH_MAX - 1)).is_ok());
        assert!(parse(&nested(DEPTH_MAX)).is_err_and(|problem| problem.message.contains("deep")));
    }
}

//! A transaction as text.
//!
//! ```text
//! if {
//!     value(color) = "dark green"
//!     version(--prefix jobs/) < 3
//!     absent(lock)
//! }
//! then {
//!     put color blue --prev
//!     put "session/7" ann --ttl 60s
//!     del --prefix old/
//!     get --prefix jobs/ --limit 10
//!     txn { if { exists(next) } then { get next } }
//! }
//! else {
//!     get color
//! }
//! ```
//!
//! Each block may be left out, and comes once at most. In a block, one compare or operation a line, or several with semicolons between
//! them. Flags are those of the commands of the same names.

use super::lexer::{Position, Relation, Token, tokens};
use super::{DEPTH_MAX, KEY_IS_EMPTY, Problem, SORTS, not_empty, quoted, sort_by, ttl};
use crate::arguments::LEASE_ID_MAX;
use bytes::Bytes;
use client::{Compare, Delete, NumberCompare, Operation, Put, Range, Scan, SortBy, Transaction, ValueCompare};

/// Reads a transaction.
pub(super) fn parse(input: &str) -> Result<Transaction, Problem> {
    let mut parser = Parser { tokens: tokens(input)?, at: 0 };
    let transaction = parser.transaction(1)?;
    match parser.peek() {
        (Token::End, _) => Ok(transaction),
        (other, position) => {
            Err(position.problem(format!("expected if, then, else or the end, found {}", other.shown())))
        }
    }
}

struct Parser {
    tokens: Vec<(Token, Position)>,
    at: usize,
}

/// Which keys: as `get`, `del` and compares name them.
enum Keys {
    /// Not empty.
    One(Bytes),
    Range(Range),
}

impl Keys {
    fn into_range(self) -> Range {
        match self {
            Keys::One(key) => Range::key(key),
            Keys::Range(range) => range,
        }
    }
}

impl Parser {
    fn peek(&self) -> (&Token, Position) {
        let (token, position) = &self.tokens[self.at];
        (token, *position)
    }

    /// The next token. The end is never passed.
    fn next(&mut self) -> (Token, Position) {
        let next = self.tokens[self.at].clone();
        if next.0 != Token::End {
            self.at += 1;
        }
        next
    }

    fn skip_separators(&mut self) {
        while *self.peek().0 == Token::Separator {
            self.at += 1;
        }
    }

    fn expect(&mut self, wanted: &Token) -> Result<(), Problem> {
        let (found, position) = self.next();
        if found == *wanted {
            return Ok(());
        }
        Err(position.problem(format!("expected {}, found {}", wanted.shown(), found.shown())))
    }

    /// Blocks, up to what is none.
    fn transaction(&mut self, depth: usize) -> Result<Transaction, Problem> {
        let mut transaction = Transaction::new();
        let mut seen: Vec<String> = Vec::new();
        loop {
            self.skip_separators();
            let (Token::Word(name), position) = self.peek() else { return Ok(transaction) };
            let name = name.clone();
            if !["if", "then", "else"].contains(&name.as_str()) {
                return Err(position.problem(format!("expected if, then or else, found {}", quoted(name.as_bytes()))));
            }
            if seen.contains(&name) {
                return Err(position.problem(format!("a transaction has one \"{name}\" at most")));
            }
            self.next();
            self.skip_separators();
            self.expect(&Token::Open)?;
            while self.goes_on()? {
                transaction = match name.as_str() {
                    "if" => transaction.when(self.compare()?),
                    "then" => transaction.then(self.operation(depth)?),
                    _ => transaction.otherwise(self.operation(depth)?),
                };
                self.end_of_line()?;
            }
            seen.push(name);
        }
    }

    /// Whether the block has something more; its closing brace is taken.
    fn goes_on(&mut self) -> Result<bool, Problem> {
        self.skip_separators();
        match self.peek() {
            (Token::Close, _) => {
                self.next();
                Ok(false)
            }
            (Token::End, position) => Err(position.problem("a \"}\" is missing")),
            _ => Ok(true),
        }
    }

    fn end_of_line(&mut self) -> Result<(), Problem> {
        match self.peek() {
            (Token::Separator | Token::Close | Token::End, _) => Ok(()),
            (other, position) => {
                Err(position.problem(format!("expected the end of the line, found {}", other.shown())))
            }
        }
    }

    fn compare(&mut self) -> Result<Compare, Problem> {
        let (found, position) = self.next();
        let Token::Word(target) = &found else {
            return Err(position.problem(format!("expected a compare, found {}", found.shown())));
        };
        let number = match target.as_str() {
            "value" => {
                let compare = Compare::value_in(self.round_keys()?.into_range());
                let relation = self.relation()?;
                return Ok(compare_value(compare, relation, self.text("a value")?));
            }
            "exists" | "absent" => {
                let Keys::One(key) = self.round_keys()? else {
                    return Err(position.problem(format!("{target} takes one key")));
                };
                return Ok(if target == "exists" { Compare::exists(key) } else { Compare::absent(key) });
            }
            "version" => Compare::version_in(self.round_keys()?.into_range()),
            "create" => Compare::create_revision_in(self.round_keys()?.into_range()),
            "mod" => Compare::mod_revision_in(self.round_keys()?.into_range()),
            "lease" => Compare::lease_in(self.round_keys()?.into_range()),
            _ => {
                let known = "value, version, create, mod, lease, exists or absent";
                return Err(position.problem(format!("expected {known}, found {}", found.shown())));
            }
        };
        let relation = self.relation()?;
        Ok(compare_number(number, relation, self.number("a number")?))
    }

    fn round_keys(&mut self) -> Result<Keys, Problem> {
        self.expect(&Token::OpenRound)?;
        let keys = self.keys()?;
        self.expect(&Token::CloseRound)?;
        Ok(keys)
    }

    fn relation(&mut self) -> Result<Relation, Problem> {
        match self.next() {
            (Token::Relation(relation), _) => Ok(relation),
            (other, position) => Err(position.problem(format!("expected = != < or >, found {}", other.shown()))),
        }
    }

    fn operation(&mut self, depth: usize) -> Result<Operation, Problem> {
        let (found, position) = self.next();
        let Token::Word(name) = &found else {
            return Err(position.problem(format!("expected an operation, found {}", found.shown())));
        };
        match name.as_str() {
            "put" => self.put(),
            "get" => self.get(),
            "del" => self.del(),
            "txn" if depth >= DEPTH_MAX => {
                Err(position.problem(format!("transactions lie {DEPTH_MAX} deep in one another at most")))
            }
            "txn" => {
                self.expect(&Token::Open)?;
                let transaction = self.transaction(depth + 1)?;
                self.expect(&Token::Close)?;
                Ok(Operation::transaction(transaction))
            }
            _ => Err(position.problem(format!("expected put, get, del or txn, found {}", found.shown()))),
        }
    }

    fn put(&mut self) -> Result<Operation, Problem> {
        let key = self.key()?;
        let value = if self.is_text() { Some(self.text("a value")?) } else { None };
        let mut put = Put::new(key, value.clone().unwrap_or_default());
        let (mut keeps_value, mut flags) = (false, Flags::default());
        while let Some((flag, position)) = flags.next(self)? {
            if LEASE_FLAGS.contains(&flag.as_str()) && LEASE_FLAGS.iter().filter(|other| flags.has(other)).count() > 1 {
                return Err(position.problem("put takes one of --lease, --ttl and --keep-lease at most"));
            }
            put = match flag.as_str() {
                "prev" => put.with_previous(),
                "keep-lease" => put.keep_lease(),
                "lease" => put.lease(self.lease()?),
                "ttl" => put.ttl(self.ttl()?),
                "keep-value" => {
                    keeps_value = true;
                    put.keep_value()
                }
                _ => return Err(unknown(position, &flag, "--lease ID, --ttl D, --keep-lease, --keep-value or --prev")),
            };
        }
        if keeps_value == value.is_some() {
            let (_, position) = self.peek();
            return Err(position.problem("put takes a value, or --keep-value"));
        }
        Ok(Operation::put(put))
    }

    fn get(&mut self) -> Result<Operation, Problem> {
        let mut scan = Scan::new(self.keys()?.into_range());
        let mut flags = Flags::default();
        while let Some((flag, position)) = flags.next(self)? {
            scan = match flag.as_str() {
                "limit" => scan.limit(self.limit()?),
                "sort" => scan.sort_by(self.sort()?),
                "min-mod-rev" => scan.min_mod_revision(self.number("a revision")?),
                "max-mod-rev" => scan.max_mod_revision(self.number("a revision")?),
                "min-create-rev" => scan.min_create_revision(self.number("a revision")?),
                "max-create-rev" => scan.max_create_revision(self.number("a revision")?),
                "keys-only" => scan.keys_only(),
                "count" => scan.count_only(),
                "total" => scan.count_total(),
                "reverse" => scan.reverse(),
                "rev" => scan.at_revision(self.number("a revision")?),
                _ => {
                    return Err(unknown(
                        position,
                        &flag,
                        "--limit N, --sort BY, --reverse, --keys-only, --count, --total, --rev N, --min-mod-rev N, --max-mod-rev N, \
                         --min-create-rev N or --max-create-rev N",
                    ));
                }
            };
        }
        Ok(Operation::range(scan))
    }

    fn del(&mut self) -> Result<Operation, Problem> {
        let mut delete = Delete::range(self.keys()?.into_range());
        let mut flags = Flags::default();
        while let Some((flag, position)) = flags.next(self)? {
            delete = match flag.as_str() {
                "prev" => delete.with_previous(),
                _ => return Err(unknown(position, &flag, "--prev")),
            };
        }
        Ok(Operation::delete(delete))
    }

    /// A key, or `--prefix P`, `--range A B`, `--from A`, `--from A --to B`, `--all`.
    fn keys(&mut self) -> Result<Keys, Problem> {
        let (Token::Flag(flag), position) = self.peek() else { return Ok(Keys::One(self.key()?)) };
        let flag = flag.clone();
        self.next();
        let range = match flag.as_str() {
            "prefix" => Range::prefix(self.text("a prefix")?),
            "range" => Range::between(self.text("the first key")?, self.text("the end of the range")?),
            "from" => {
                let first = self.text("the first key")?;
                if matches!(self.peek().0, Token::Flag(flag) if flag == "to") {
                    self.next();
                    Range::between(first, self.text("the end of the range")?)
                } else {
                    Range::from(first)
                }
            }
            "all" => Range::all(),
            _ => {
                return Err(unknown(
                    position,
                    &flag,
                    "a key, --prefix P, --range A B, --from A, --from A --to B or --all",
                ));
            }
        };
        not_empty(range).map(Keys::Range).map_err(|message| position.problem(message))
    }

    fn is_text(&self) -> bool {
        matches!(self.peek().0, Token::Word(_) | Token::Quoted(_))
    }

    fn key(&mut self) -> Result<Bytes, Problem> {
        let (_, position) = self.peek();
        let key = self.text("a key")?;
        if key.is_empty() {
            return Err(position.problem(KEY_IS_EMPTY));
        }
        Ok(key)
    }

    fn limit(&mut self) -> Result<u64, Problem> {
        let (_, position) = self.peek();
        let limit = self.number("a limit")?;
        if limit == 0 { Err(position.problem("a limit is 1 or more")) } else { Ok(limit) }
    }

    fn sort(&mut self) -> Result<SortBy, Problem> {
        let (found, position) = self.next();
        let by = if let Token::Word(word) = &found { sort_by(word) } else { None };
        by.ok_or_else(|| position.problem(format!("expected {SORTS}, found {}", found.shown())))
    }

    fn text(&mut self, what: &str) -> Result<Bytes, Problem> {
        match self.next() {
            (Token::Word(word), _) => Ok(word.into()),
            (Token::Quoted(bytes), _) => Ok(bytes),
            (other, position) => Err(position.problem(format!("expected {what}, found {}", other.shown()))),
        }
    }

    fn number(&mut self, what: &str) -> Result<u64, Problem> {
        let (found, position) = self.next();
        let number = if let Token::Word(word) = &found { word.parse().ok() } else { None };
        number.ok_or_else(|| position.problem(format!("expected {what}, found {}", found.shown())))
    }

    fn lease(&mut self) -> Result<u64, Problem> {
        let (found, position) = self.next();
        let id = if let Token::Word(word) = &found { crate::arguments::lease_id(word).ok() } else { None };
        let wanted = || format!("expected the number of a lease, from 1 to {LEASE_ID_MAX}, found {}", found.shown());
        id.ok_or_else(|| position.problem(wanted()))
    }

    fn ttl(&mut self) -> Result<std::time::Duration, Problem> {
        let (found, position) = self.next();
        let Token::Word(word) = &found else {
            return Err(position.problem(format!("expected a duration, found {}", found.shown())));
        };
        ttl(word).map_err(|wanted| position.problem(format!("expected {wanted}, found {}", found.shown())))
    }
}

/// Keys as an operation names them, each of them as `word` has it.
pub(super) fn written(range: &Range, word: impl Fn(&Bytes) -> String) -> String {
    let Range { start, end } = range;
    if *range == Range::key(start.clone()) {
        return word(start);
    }
    match end {
        None if start.is_empty() => "--all".to_owned(),
        None => format!("--from {}", word(start)),
        Some(_) if *range == Range::prefix(start.clone()) => format!("--prefix {}", word(start)),
        Some(end) => format!("--range {} {}", word(start), word(end)),
    }
}

/// The flags of one operation, each of which may be there once.
#[derive(Default)]
struct Flags {
    seen: Vec<String>,
}

/// Of these a put takes one.
const LEASE_FLAGS: [&str; 3] = ["lease", "ttl", "keep-lease"];

impl Flags {
    /// The next one, if one comes next.
    fn next(&mut self, parser: &mut Parser) -> Result<Option<(String, Position)>, Problem> {
        let (Token::Flag(flag), position) = parser.peek() else { return Ok(None) };
        let flag = flag.clone();
        parser.next();
        if self.has(&flag) {
            return Err(position.problem(format!("--{flag} is there twice")));
        }
        self.seen.push(flag.clone());
        Ok(Some((flag, position)))
    }

    fn has(&self, flag: &str) -> bool {
        self.seen.iter().any(|seen| seen == flag)
    }
}

fn unknown(position: Position, flag: &str, wanted: &str) -> Problem {
    position.problem(format!("expected {wanted}, found {}", Token::Flag(flag.to_owned()).shown()))
}

/// A compare of a value with its other side.
pub(super) fn compare_value(compare: ValueCompare, relation: Relation, value: Bytes) -> Compare {
    match relation {
        Relation::Equal => compare.equals(value),
        Relation::NotEqual => compare.differs_from(value),
        Relation::Less => compare.less_than(value),
        Relation::Greater => compare.greater_than(value),
    }
}

/// A compare of a number with its other side.
pub(super) fn compare_number(compare: NumberCompare, relation: Relation, number: u64) -> Compare {
    match relation {
        Relation::Equal => compare.equals(number),
        Relation::NotEqual => compare.differs_from(number),
        Relation::Less => compare.less_than(number),
        Relation::Greater => compare.greater_than(number),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_whole_transaction() {
        let input = r#"
            # paint it
            if {
                value(color) = "dark green"; mod(color) > 12
                version(--prefix jobs/) < 3
                lease(--range a b) != 0
                exists(x)
                absent("y")
            }
            then {
                put color blue --prev
                put "session/7" ann --ttl 60s
                put k --keep-value --lease 7
                put k2 v --keep-lease
                del --prefix old/ --prev
                get --from jobs/ --limit 10 --keys-only --reverse --rev 4
                get --all --count
                txn {
                    if { exists(next) }
                    then { get next }
                }
            }
            else
            { get color }
        "#;
        let inner = Transaction::new().when(Compare::exists("next")).then(Operation::get("next"));
        let wanted = Transaction::new()
            .when(Compare::value("color").equals("dark green"))
            .when(Compare::mod_revision("color").greater_than(12))
            .when(Compare::version_in(Range::prefix("jobs/")).less_than(3))
            .when(Compare::lease_in(Range::between("a", "b")).differs_from(0))
            .when(Compare::exists("x"))
            .when(Compare::absent("y"))
            .then(Operation::put(Put::new("color", "blue").with_previous()))
            .then(Operation::put(Put::new("session/7", "ann").ttl(Duration::from_secs(60))))
            .then(Operation::put(Put::new("k", "").keep_value().lease(7)))
            .then(Operation::put(Put::new("k2", "v").keep_lease()))
            .then(Operation::delete(Delete::range(Range::prefix("old/")).with_previous()))
            .then(Operation::range(Scan::new(Range::from("jobs/")).limit(10).keys_only().reverse().at_revision(4)))
            .then(Operation::range(Scan::new(Range::all()).count_only()))
            .then(Operation::transaction(inner))
            .otherwise(Operation::get("color"));
        assert_eq!(parse(input).unwrap(), wanted);
    }

    #[test]
    fn ranges_are_sorted_and_filtered_as_scans_are() {
        let input = "then { get --from a --to m --sort mod --reverse --min-mod-rev 2 --max-mod-rev 9 --min-create-rev 1 --max-create-rev 8 }";
        let scan = Scan::new(Range::between("a", "m")).sort_by(SortBy::ModRevision).reverse();
        let scan = scan.min_mod_revision(2).max_mod_revision(9).min_create_revision(1).max_create_revision(8);
        assert_eq!(parse(input).unwrap(), Transaction::new().then(Operation::range(scan)));
    }

    #[test]
    fn what_would_be_taken_for_something_else_is_refused() {
        for (input, wanted) in [
            (
                "then {\n put url http://x#y\n}",
                "line 2, column 18: \"#\" in a word has to stand in double quotes; a comment needs a blank before it",
            ),
            (
                "if { value(url) = http://x#y }",
                "line 1, column 27: \"#\" in a word has to stand in double quotes; a comment needs a blank before it",
            ),
            (
                "then { put a b --ttl 5s --keep-lease }",
                "line 1, column 25: put takes one of --lease, --ttl and --keep-lease at most",
            ),
            (
                "then { put a b --lease 4 --ttl 5s }",
                "line 1, column 26: put takes one of --lease, --ttl and --keep-lease at most",
            ),
            ("then { put a b --ttl 5s --ttl 6s }", "line 1, column 25: --ttl is there twice"),
            ("then { get a --limit 1 --limit 2 }", "line 1, column 24: --limit is there twice"),
            ("then { get a --limit 0 }", "line 1, column 22: a limit is 1 or more"),
            (
                "then { get a --sort size }",
                "line 1, column 21: expected key, version, create, mod or value, found \"size\"",
            ),
            ("then { get \"\" }", "line 1, column 12: the key is empty; a key has at least one byte"),
            ("then { put \"\" v }", "line 1, column 12: the key is empty; a key has at least one byte"),
            ("if { exists(\"\") }", "line 1, column 13: the key is empty; a key has at least one byte"),
        ] {
            assert_eq!(parse(input).unwrap_err().to_string(), wanted, "{input}");
        }
    }

    #[test]
    fn keys_are_written_as_they_are_read() {
        for (range, wanted) in [
            (Range::key("a b"), "\"a b\""),
            (Range::prefix("jobs/"), "--prefix jobs/"),
            (Range::between("a", "c"), "--range a c"),
            (Range::from("a"), "--from a"),
            (Range::all(), "--all"),
            (Range::between("", "b"), "--range \"\" b"),
        ] {
            let shown = written(&range, |key| super::super::lexer::written(key));
            assert_eq!(shown, wanted);
            let get = Transaction::new().then(Operation::range(Scan::new(range)));
            assert_eq!(parse(&format!("then {{ get {shown} }}")), Ok(get));
        }
    }

    #[test]
    fn blocks_may_be_left_out() {
        assert_eq!(parse(""), Ok(Transaction::new()));
        assert_eq!(parse("then { get k }"), Ok(Transaction::new().then(Operation::get("k"))));
        assert_eq!(parse("if { } else { }"), Ok(Transaction::new()));
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_column() {
        for (input, line, column, wanted) in [
            ("when { }", 1, 1, "expected if, then or else"),
            ("then { get a }\nthen { get b }", 2, 1, "one \"then\" at most"),
            ("if {\n  value(k) = \n}", 2, 14, "expected a value, found the end of the line"),
            ("if {\n  value k = v\n}", 2, 9, "expected \"(\""),
            ("if { size(k) = 3 }", 1, 6, "expected value, version"),
            ("if { version(k) = many }", 1, 19, "expected a number, found \"many\""),
            ("if { exists(--prefix a) }", 1, 6, "takes one key"),
            ("then {\n put k v w\n}", 2, 10, "expected the end of the line, found \"w\""),
            ("then {\n put k\n}", 2, 7, "put takes a value, or --keep-value"),
            ("then { put k v --keep-value }", 1, 29, "put takes a value, or --keep-value"),
            ("then { put k v --ttl soon }", 1, 22, "expected a duration like 5s, 1m or 1h, found \"soon\""),
            ("then { put k v --ttl 500ms }", 1, 22, "expected a time to live of 1s or more, found \"500ms\""),
            ("then { put k v --lease 0 }", 1, 24, "the number of a lease, from 1 to 9223372036854775807, found \"0\""),
            ("then { put k v --lease 9223372036854775808 }", 1, 24, "from 1 to 9223372036854775807"),
            ("then { put k v --limit 3 }", 1, 16, "found \"--limit\""),
            ("then { get k --prev }", 1, 14, "found \"--prev\""),
            ("then { del --range b a }", 1, 12, "no key lies from \"b\" (inclusive) to \"a\" (exclusive)"),
            ("if { version(--range a a) = 0 }", 1, 14, "no key lies from"),
            ("then { move a b }", 1, 8, "expected put, get, del or txn"),
            ("then { get k", 1, 13, "a \"}\" is missing"),
            ("then { get k } }", 1, 16, "expected if, then, else or the end"),
            ("then { txn { then { txn { then { txn { then { txn { } } } } } } } }", 1, 47, "4 deep"),
        ] {
            let problem = parse(input).unwrap_err();
            assert_eq!((problem.line, problem.column), (line, column), "{input}: {problem}");
            assert!(problem.message.contains(wanted), "{input}: {problem}");
        }
    }
}

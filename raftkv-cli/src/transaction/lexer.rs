//! The words of the text form, each with where it stands.
//!
//! A word is written as it is if it has none of the characters that mean something here, and in double quotes otherwise: there `\n`, `\t`,
//! `\r`, `\0`, `\\`, `\"` and `\xNN` stand for what cannot be written. `#` begins a comment, but not right after a word, of which it may have been meant as a part.
//! Lines and semicolons separate.

use super::{Problem, quoted};
use bytes::Bytes;

/// Where something stands, from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Position {
    pub(super) fn problem(self, message: impl Into<String>) -> Problem {
        Problem { line: self.line, column: self.column, message: message.into() }
    }
}

/// One word or sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word as it is.
    Word(String),
    /// In quotes.
    Quoted(Bytes),
    /// `--name`, without the dashes.
    Flag(String),
    /// `{`.
    Open,
    /// `}`.
    Close,
    /// `(`.
    OpenRound,
    /// `)`.
    CloseRound,
    Relation(Relation),
    /// The end of a line, or a semicolon.
    Separator,
    End,
}

/// How the sides of a compare relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    NotEqual,
    Less,
    Greater,
}

impl Token {
    /// As a message names it.
    pub(super) fn shown(&self) -> String {
        match self {
            Token::Word(word) => quoted(word.as_bytes()),
            Token::Quoted(bytes) => quoted(bytes),
            Token::Flag(name) => quoted(format!("--{name}").as_bytes()),
            Token::Open => "\"{\"".to_owned(),
            Token::Close => "\"}\"".to_owned(),
            Token::OpenRound => "\"(\"".to_owned(),
            Token::CloseRound => "\")\"".to_owned(),
            Token::Relation(relation) => format!("\"{}\"", relation.sign()),
            Token::Separator => "the end of the line".to_owned(),
            Token::End => "the end".to_owned(),
        }
    }
}

impl Relation {
    pub(super) fn sign(self) -> &'static str {
        match self {
            Relation::Equal => "=",
            Relation::NotEqual => "!=",
            Relation::Less => "<",
            Relation::Greater => ">",
        }
    }
}

/// Everything in the input, and the end last.
pub(super) fn tokens(input: &str) -> Result<Vec<(Token, Position)>, Problem> {
    let mut lexer = Lexer { rest: input.chars().peekable(), position: Position { line: 1, column: 1 } };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks();
        let position = lexer.position;
        let token = lexer.token()?;
        let is_end = token == Token::End;
        tokens.push((token, position));
        if is_end {
            return Ok(tokens);
        }
    }
}

/// Bytes as a word that [`tokens`] reads as the same bytes, on one line.
pub(super) fn written(bytes: &[u8]) -> String {
    if let Ok(word) = std::str::from_utf8(bytes)
        && !word.is_empty()
        && !word.starts_with("--")
        && !word.contains(is_special)
    {
        return word.to_owned();
    }
    let mut written = "\"".to_owned();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => written.extend(['\\', character]),
                '\n' => written.push_str("\\n"),
                '\t' => written.push_str("\\t"),
                '\r' => written.push_str("\\r"),
                _ if character.is_control() => {
                    let mut utf8 = [0; 4];
                    written.extend(character.encode_utf8(&mut utf8).bytes().map(|byte| format!("\\x{byte:02x}")));
                }
                _ => written.push(character),
            }
        }
        written.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    written.push('"');
    written
}

struct Lexer<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    position: Position,
}

/// What a word cannot have without quotes.
pub(super) fn is_special(character: char) -> bool {
    character.is_whitespace() || "{}()\"'#;=!<>\\".contains(character) || character.is_control()
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let character = self.rest.next()?;
        if character == '\n' {
            self.position = Position { line: self.position.line + 1, column: 1 };
        } else {
            self.position.column += 1;
        }
        Some(character)
    }

    fn skip_blanks(&mut self) {
        while let Some(&character) = self.rest.peek() {
            if character == '#' {
                while self.rest.peek().is_some_and(|character| *character != '\n') {
                    self.next();
                }
            } else if character.is_whitespace() && character != '\n' {
                self.next();
            } else {
                return;
            }
        }
    }

    fn token(&mut self) -> Result<Token, Problem> {
        let position = self.position;
        let Some(&first) = self.rest.peek() else { return Ok(Token::End) };
        if !is_special(first) {
            return self.word();
        }
        self.next();
        Ok(match first {
            '\n' | ';' => Token::Separator,
            '{' => Token::Open,
            '}' => Token::Close,
            '(' => Token::OpenRound,
            ')' => Token::CloseRound,
            '=' => {
                // `==` is what many write.
                self.rest.next_if_eq(&'=').inspect(|_| self.position.column += 1);
                Token::Relation(Relation::Equal)
            }
            '<' | '>' if self.rest.peek() == Some(&'=') => {
                let other = if first == '<' { "\"<\" and a number one greater" } else { "\">\" and a number one less" };
                return Err(position.problem(format!("there is no \"{first}=\"; use {other}")));
            }
            '<' => Token::Relation(Relation::Less),
            '>' => Token::Relation(Relation::Greater),
            '!' if self.rest.peek() == Some(&'=') => {
                self.next();
                Token::Relation(Relation::NotEqual)
            }
            '"' => Token::Quoted(self.quoted(position)?),
            other => return Err(position.problem(format!("{other:?} has to stand in double quotes"))),
        })
    }

    fn word(&mut self) -> Result<Token, Problem> {
        let mut word = String::new();
        while let Some(&character) = self.rest.peek().filter(|character| !is_special(**character)) {
            word.push(character);
            self.next();
        }
        if self.rest.peek() == Some(&'#') {
            return Err(self
                .position
                .problem("\"#\" in a word has to stand in double quotes; a comment needs a blank before it"));
        }
        Ok(match word.strip_prefix("--") {
            Some(name) if !name.is_empty() => Token::Flag(name.to_owned()),
            Some(_) | None => Token::Word(word),
        })
    }

    /// The rest of a text in quotes.
    fn quoted(&mut self, began: Position) -> Result<Bytes, Problem> {
        let mut bytes = Vec::new();
        loop {
            let position = self.position;
            match self.next() {
                None => return Err(began.problem("the quotes are not closed")),
                Some('"') => return Ok(bytes.into()),
                Some('\\') => bytes.extend_from_slice(&self.escaped(position)?),
                Some(other) => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    fn escaped(&mut self, position: Position) -> Result<Vec<u8>, Problem> {
        Ok(vec![match self.next() {
            Some('n') => b'\n',
            Some('t') => b'\t',
            Some('r') => b'\r',
            Some('0') => 0,
            Some('\\') => b'\\',
            Some('"') => b'"',
            Some('x') => {
                let digits: String = [self.next(), self.next()].into_iter().flatten().collect();
                let is_hex = digits.len() == 2 && digits.chars().all(|digit| digit.is_ascii_hexdigit());
                let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| is_hex);
                byte.ok_or_else(|| position.problem("after \\x come two hexadecimal digits"))?
            }
            Some(_) | None => {
                return Err(position.problem("after a backslash comes one of n t r 0 x \\ \""));
            }
        }])
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn kinds(input: &str) -> Vec<Token> {
        tokens(input).unwrap().into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn words_flags_signs_and_comments() {
        assert_eq!(
            kinds("value(a/b) != \"x y\" # why\nput k -5 --ttl 10s"),
            [
                Token::Word("value".into()),
                Token::OpenRound,
                Token::Word("a/b".into()),
                Token::CloseRound,
                Token::Relation(Relation::NotEqual),
                Token::Quoted("x y".into()),
                Token::Separator,
                Token::Word("put".into()),
                Token::Word("k".into()),
                Token::Word("-5".into()),
                Token::Flag("ttl".into()),
                Token::Word("10s".into()),
                Token::End,
            ]
        );
    }

    #[test]
    fn any_byte_can_be_written() {
        assert_eq!(
            kinds(r#""\xff\x00\n\t\r\0\\\"ü""#)[0],
            Token::Quoted(b"\xff\0\n\t\r\0\\\"\xc3\xbc".as_slice().into())
        );
    }

    #[test]
    fn bytes_are_written_as_they_are_read() {
        assert_eq!(
            (written(b"a/b@07"), written(b"two words"), written(b"")),
            ("a/b@07".into(), "\"two words\"".into(), "\"\"".into())
        );
        for bytes in [
            &b"a"[..],
            b"",
            b"--prefix",
            b"-5",
            b"a#b",
            b"\xff\x00\n\t\r\\\"'",
            "gr\u{fc}n \u{9b}2J\u{2028}".as_bytes(),
            b"{}()=!<>;",
        ] {
            let read = match &kinds(&written(bytes))[..] {
                [Token::Word(word), Token::End] => Bytes::from(word.clone()),
                [Token::Quoted(quoted), Token::End] => quoted.clone(),
                others => panic!("{bytes:?} became {others:?}"),
            };
            assert_eq!(read, bytes);
        }
    }

    #[test]
    fn places_count_characters() {
        let found = tokens("ü { \"é\" }\n  x").unwrap();
        let places: Vec<_> = found.iter().map(|(_, position)| (position.line, position.column)).collect();
        assert_eq!(places, [(1, 1), (1, 3), (1, 5), (1, 9), (1, 10), (2, 3), (2, 4)]);
    }

    #[test]
    fn what_cannot_be_read_is_told_where_it_stands() {
        for (input, line, column, wanted) in [
            ("put \"k", 1, 5, "not closed"),
            ("\n \"\\q\"", 2, 3, "backslash"),
            ("\"\\xg0\"", 1, 2, "hexadecimal"),
            ("\"\\x+1\"", 1, 2, "hexadecimal"),
            ("version(k) >= 3", 1, 12, "no \">=\""),
            ("put 'k' v", 1, 5, "double quotes"),
            ("a ! b", 1, 3, "double quotes"),
        ] {
            let problem = tokens(input).unwrap_err();
            assert_eq!((problem.line, problem.column), (line, column), "{input}: {problem}");
            assert!(problem.message.contains(wanted), "{input}: {problem}");
        }
    }
}

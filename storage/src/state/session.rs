//! Sessions: answers that are kept so that a retry is harmless (thesis §6.3).
//!
//! A command in a session carries a number of its own. Its answer is kept under that number until the client says, with a later command, that
//! it will not ask for it again, or the session ends. A command whose answer is there is not carried out again.
//!
//! Sessions are kept in memory, in the order of their ends too. Rows in `meta`, each written once in a run, when it ends:
//!
//! | key | value |
//! |---|---|
//! | `session/`, number (8) | format (1), time to live in ms (8), end (8), oldest number kept (8), answers at most (4), answers (4), and each: its number (8), place (1), and at place 0 length (4) and bytes |
//! | `session-answer/`, session (8), number (8) | an answer of place 1: longer than [`INLINE_BYTES_MAX`] |
//! | `session-next` | the next number to give out (8); missing before the first |
//!
//! Answers are bytes here; `answer.rs` knows what they mean.
//!
//! Bound on memory: for each session 200 bytes, and for each answer kept 100 bytes and [`INLINE_BYTES_MAX`]; the command that opens a session carries
//! how many sessions there may be and how many answers are kept in it. Long answers are in memory only while a run is under way.
//!
//! Caveat: a session's row is written anew in each run that uses it, with all answers in it that are not long. So whoever keeps many answers
//! pays for them with every batch.

use super::engine::{Batch, Cursor, Engine, Snapshot, Table};
use super::error::{CorruptRow, StateError};
use super::layout::LayoutError;
use super::meta::{self, take_u32, take_u64};
use super::outcome::CommandOutcome;
use crate::command::SessionCall;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The longest answer that is kept in memory and in the session's row.
pub(crate) const INLINE_BYTES_MAX: usize = 4 << 10;

const SESSION_PREFIX: &[u8] = b"session/";
const ANSWER_PREFIX: &[u8] = b"session-answer/";
const NEXT: &[u8] = b"session-next";

const ROW_FORMAT: u8 = 1;
const PLACE_INLINE: u8 = 0;
const PLACE_ROW: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Session {
    ttl_ms: u64,
    ends_at_ms: u64,
    /// The lowest number whose answer is kept.
    oldest: u64,
    answers_max: u32,
    answers: BTreeMap<u64, Answer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Inline(Bytes),
    /// In a row of its own.
    Row,
}

impl Session {
    /// What the hash takes in at each use: the row without the answers.
    fn encode_header(&self) -> Vec<u8> {
        let mut row = vec![ROW_FORMAT];
        for number in [self.ttl_ms, self.ends_at_ms, self.oldest] {
            row.extend_from_slice(&number.to_be_bytes());
        }
        row.extend_from_slice(&self.answers_max.to_be_bytes());
        row
    }

    fn encode(&self) -> Vec<u8> {
        let mut row = self.encode_header();
        row.extend_from_slice(&length_u32(self.answers.len()).to_be_bytes());
        for (sequence, answer) in &self.answers {
            row.extend_from_slice(&sequence.to_be_bytes());
            match answer {
                Answer::Inline(bytes) => {
                    row.push(PLACE_INLINE);
                    row.extend_from_slice(&length_u32(bytes.len()).to_be_bytes());
                    row.extend_from_slice(bytes);
                }
                Answer::Row => row.push(PLACE_ROW),
            }
        }
        row
    }

    fn decode(row: &[u8]) -> Result<Session, LayoutError> {
        let short = LayoutError::Short { bytes: row.len() };
        let (format, mut rest) = row.split_first().ok_or(short)?;
        if *format != ROW_FORMAT {
            return Err(LayoutError::Format { found: *format });
        }
        let rest = &mut rest;
        let (ttl_ms, ends_at_ms, oldest) = (take_u64(rest)?, take_u64(rest)?, take_u64(rest)?);
        let (answers_max, count) = (take_u32(rest)?, take_u32(rest)?);
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            let sequence = take_u64(rest)?;
            let (place, after) = rest.split_first().ok_or(short)?;
            *rest = after;
            let answer = match *place {
                PLACE_ROW => Answer::Row,
                PLACE_INLINE => {
                    let length = take_u32(rest)?;
                    let length = usize::try_from(length).expect("usize has at least 32 bits on every platform");
                    let (bytes, after) = rest.split_at_checked(length).ok_or(short)?;
                    *rest = after;
                    Answer::Inline(Bytes::copy_from_slice(bytes))
                }
                found => return Err(LayoutError::Format { found }),
            };
            answers.insert(sequence, answer);
        }
        if rest.is_empty() {
            Ok(Session { ttl_ms, ends_at_ms, oldest, answers_max, answers })
        } else {
            Err(LayoutError::Answer)
        }
    }
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("answers kept in a row are limited to kilobytes, their number to 32 bits")
}

fn session_row(id: u64) -> Vec<u8> {
    meta::numbered(SESSION_PREFIX, id)
}

/// The key of a long answer's row; the hash takes in every answer by it.
pub(crate) fn answer_row(session: u64, sequence: u64) -> Vec<u8> {
    meta::numbered(&meta::numbered(ANSWER_PREFIX, session), sequence)
}

/// What becomes of a command that comes in a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Called {
    /// It is new.
    CarryOut,
    /// It was carried out: this is its answer.
    Answered(Bytes),
    /// The same, and the answer is in the row [`answer_row`] since before this run.
    AnsweredInRow,
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    sessions: BTreeMap<u64, Session>,
    /// End and number of each.
    ends: BTreeSet<(u64, u64)>,
    next: u64,
    next_written: u64,
    /// Sessions whose rows the run has to write.
    changed: BTreeSet<u64>,
    /// Long answers that the run has to write, or to remove.
    long: BTreeMap<(u64, u64), Option<Bytes>>,
}

impl Sessions {
    /// None, as in a new state.
    pub(crate) fn new() -> Sessions {
        Sessions { next: 1, next_written: 1, ..Sessions::default() }
    }

    /// As the rows say.
    pub(crate) fn load<E: Engine>(engine: &E) -> Result<Sessions, StateError> {
        let mut sessions = Sessions::new();
        if let Some(row) = engine.load(Table::Meta, NEXT)? {
            sessions.next = meta::decode_u64(NEXT, &row)?;
            sessions.next_written = sessions.next;
        }
        let snapshot = engine.snapshot();
        let mut cursor = snapshot.cursor(Table::Meta, SESSION_PREFIX, Some(&meta::after(SESSION_PREFIX)));
        cursor.seek_first();
        while let Some((row_key, row)) = cursor.item() {
            let decode = || Ok((meta::number_after(SESSION_PREFIX, row_key)?, Session::decode(row)?));
            let (id, session) = decode().map_err(|cause| CorruptRow::new(Table::Meta, row_key, cause))?;
            sessions.ends.insert((session.ends_at_ms, id));
            sessions.sessions.insert(id, session);
            cursor.next();
        }
        cursor.check()?;
        Ok(sessions)
    }

    /// When the next one ends.
    pub(crate) fn next_end_ms(&self) -> Option<u64> {
        self.ends.first().map(|(ends_at_ms, _)| *ends_at_ms)
    }

    /// The one that is due the longest.
    pub(crate) fn first_due(&self, now_ms: u64) -> Option<u64> {
        self.ends.first().filter(|(ends_at_ms, _)| *ends_at_ms <= now_ms).map(|(_, id)| *id)
    }

    /// Opens a session.
    pub(crate) fn open(
        &mut self,
        ttl_ms: u64,
        sessions_max: u32,
        answers_max: u32,
        now_ms: u64,
    ) -> Result<u64, CommandOutcome> {
        if self.sessions.len() as u64 >= u64::from(sessions_max) {
            return Err(CommandOutcome::SessionsFull { sessions_max });
        }
        let id = self.next;
        self.next += 1;
        let ends_at_ms = now_ms.saturating_add(ttl_ms);
        let session = Session { ttl_ms, ends_at_ms, oldest: 0, answers_max, answers: BTreeMap::new() };
        self.sessions.insert(id, session);
        self.ends.insert((ends_at_ms, id));
        self.changed.insert(id);
        Ok(id)
    }

    /// Ends a session, if there is one.
    pub(crate) fn end(&mut self, id: u64) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.ends.remove(&(session.ends_at_ms, id));
        self.changed.insert(id);
        for (sequence, answer) in session.answers {
            if answer == Answer::Row {
                self.long.insert((id, sequence), None);
            }
        }
    }

    /// A command comes in a session: moves the session's end, forgets what the client has, and says what becomes of the command.
    pub(crate) fn call(&mut self, call: SessionCall, now_ms: u64) -> Result<Called, CommandOutcome> {
        let SessionCall { session: id, sequence, oldest } = call;
        let Some(session) = self.sessions.get_mut(&id) else {
            return Err(CommandOutcome::SessionUnknown { id });
        };
        let ends_at_ms = now_ms.saturating_add(session.ttl_ms);
        if ends_at_ms != session.ends_at_ms {
            self.ends.remove(&(session.ends_at_ms, id));
            self.ends.insert((ends_at_ms, id));
            session.ends_at_ms = ends_at_ms;
        }
        self.changed.insert(id);
        session.oldest = session.oldest.max(oldest);
        while let Some(first) = session.answers.first_entry()
            && *first.key() < session.oldest
        {
            let (forgotten, answer) = first.remove_entry();
            if answer == Answer::Row {
                self.long.insert((id, forgotten), None);
            }
        }
        if sequence < session.oldest {
            return Err(CommandOutcome::AnswerForgotten { sequence, oldest: session.oldest });
        }
        match session.answers.get(&sequence) {
            Some(Answer::Inline(answer)) => Ok(Called::Answered(answer.clone())),
            Some(Answer::Row) => match self.long.get(&(id, sequence)) {
                Some(answer) => {
                    let answer = answer.clone();
                    Ok(Called::Answered(answer.expect("what is to be removed is among a session's answers no more")))
                }
                None => Ok(Called::AnsweredInRow),
            },
            None if session.answers.len() as u64 >= u64::from(session.answers_max) => {
                Err(CommandOutcome::AnswersFull { answers_max: session.answers_max })
            }
            None => Ok(Called::CarryOut),
        }
    }

    /// Keeps an answer, unless the command has ended its own session.
    pub(crate) fn keep(&mut self, call: SessionCall, answer: Bytes) {
        let Some(session) = self.sessions.get_mut(&call.session) else { return };
        let kept = if answer.len() > INLINE_BYTES_MAX {
            self.long.insert((call.session, call.sequence), Some(answer));
            Answer::Row
        } else {
            Answer::Inline(answer)
        };
        let before = session.answers.insert(call.sequence, kept);
        assert!(before.is_none(), "a command whose answer was there has been carried out again: {call:?}");
    }

    /// What the hash takes in of a session: the key of its row, and the row without answers; `None` if the session has ended.
    pub(crate) fn hashed(&self, id: u64) -> (Vec<u8>, Option<Vec<u8>>) {
        (session_row(id), self.sessions.get(&id).map(Session::encode_header))
    }

    /// Writes the rows that the run has changed.
    pub(crate) fn write(&mut self, batch: &mut impl Batch) {
        for id in std::mem::take(&mut self.changed) {
            match self.sessions.get(&id) {
                Some(session) => batch.put(Table::Meta, &session_row(id), &session.encode()),
                None => batch.delete(Table::Meta, &session_row(id)),
            }
        }
        for ((id, sequence), answer) in std::mem::take(&mut self.long) {
            match answer {
                Some(answer) => batch.put(Table::Meta, &answer_row(id, sequence), &answer),
                None => batch.delete(Table::Meta, &answer_row(id, sequence)),
            }
        }
        if self.next != self.next_written {
            batch.put(Table::Meta, NEXT, &self.next.to_be_bytes());
            self.next_written = self.next;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    fn session() -> Session {
        let answers = BTreeMap::from([(3, Answer::Inline(Bytes::from_static(b"ab"))), (4, Answer::Row)]);
        Session { ttl_ms: 1, ends_at_ms: 2, oldest: 3, answers_max: 9, answers }
    }

    #[test]
    fn the_row_is_this_to_the_byte_and_a_cut_one_is_refused() {
        let number = |number: u8| [0, 0, 0, 0, 0, 0, 0, number];
        let row = session().encode();
        let answers = [&number(3)[..], &[0, 0, 0, 0, 2, b'a', b'b'], &number(4), &[1]].concat();
        let header = [&[1][..], &number(1), &number(2), &number(3), &[0, 0, 0, 9]].concat();
        assert_eq!(row, [&header[..], &[0, 0, 0, 2], &answers].concat());
        assert_eq!(Session::decode(&row), Ok(session()));
        for length in 0..row.len() {
            assert!(Session::decode(&row[..length]).is_err(), "{length}");
        }
        assert_eq!(Session::decode(&[&row[..], &[0]].concat()), Err(LayoutError::Answer));
    }

    #[test]
    fn a_long_answer_is_given_again_in_the_run_that_keeps_it_and_removed_with_its_session() {
        let mut sessions = Sessions::new();
        let id = sessions.open(10, 1, 2, 0).unwrap();
        let call = |sequence, oldest| SessionCall { session: id, sequence, oldest };
        let long = Bytes::from(vec![7; INLINE_BYTES_MAX + 1]);
        assert_eq!(sessions.call(call(1, 0), 0), Ok(Called::CarryOut));
        sessions.keep(call(1, 0), long.clone());
        assert_eq!(sessions.call(call(1, 0), 0), Ok(Called::Answered(long)));
        sessions.write(&mut super::super::memory::MemoryBatch::default());
        assert_eq!(sessions.call(call(1, 0), 0), Ok(Called::AnsweredInRow));
        sessions.end(id);
        assert_eq!(sessions.long, BTreeMap::from([((id, 1), None)]));
    }
}

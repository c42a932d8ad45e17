//! Commands that come in a session: carried out once, answered as often as they come.
//!
//! Every answer is kept, refusals too: a retry of what was refused must not be carried out because the state is another one by now. Not kept is
//! what says that the command was not tried: an unknown session, a forgotten answer, too many of them.
//!
//! A session ends by the command that ends what is due, not by the clock itself: until that is applied, a late command finds it and keeps it.

use super::super::answer;
use super::super::engine::{Engine, Table};
use super::super::error::{CorruptRow, StateError};
use super::super::layout::LayoutError;
use super::super::outcome::CommandOutcome;
use super::super::session::{Called, answer_row};
use super::Run;
use super::change::Stop;
use crate::command::{Command, SessionCall};

impl<'a, E: Engine> Run<'a, E> {
    /// Carries a command out, unless it was before.
    pub(super) fn call(&mut self, call: SessionCall, command: &Command<'a>) -> Result<CommandOutcome, StateError> {
        let called = self.sessions.call(call, self.clockwork.time_ms);
        self.hash_session(call.session);
        let row_key = answer_row(call.session, call.sequence);
        let answer = match called {
            Err(refused) => return Ok(refused),
            Ok(Called::CarryOut) => {
                let outcome = self.carry_out(command)?;
                let answer = answer::encode(&outcome);
                self.writer.hash_meta(&row_key, &answer);
                self.sessions.keep(call, answer);
                return Ok(outcome);
            }
            Ok(Called::Answered(answer)) => answer,
            Ok(Called::AnsweredInRow) => {
                let row = self.engine.load(Table::Meta, &row_key)?;
                row.ok_or_else(|| CorruptRow::new(Table::Meta, &row_key, LayoutError::Missing))?
            }
        };
        Ok(answer::decode(&answer).map_err(|cause| CorruptRow::new(Table::Meta, &row_key, cause))?)
    }

    pub(super) fn open_session(
        &mut self,
        ttl_ms: u64,
        sessions_max: u32,
        answers_max: u32,
    ) -> Result<CommandOutcome, Stop> {
        let id = self.sessions.open(ttl_ms, sessions_max, answers_max, self.clockwork.time_ms)?;
        self.hash_session(id);
        Ok(CommandOutcome::SessionOpened { id })
    }

    pub(super) fn close_session(&mut self, id: u64) -> CommandOutcome {
        self.end_session(id);
        CommandOutcome::SessionClosed
    }

    pub(super) fn end_session(&mut self, id: u64) {
        self.sessions.end(id);
        self.hash_session(id);
    }

    fn hash_session(&mut self, id: u64) {
        match self.sessions.hashed(id) {
            (row_key, Some(header)) => self.writer.hash_meta(&row_key, &header),
            (row_key, None) => self.writer.hash_meta_removed(&row_key),
        }
    }
}

//! Sessions, as plainly as they can be written.

use super::Refusal;
use std::collections::BTreeMap;
use storage::command::SessionCall;
use storage::state::CommandOutcome;

#[derive(Debug)]
struct Session {
    ttl_ms: u64,
    used_ms: u64,
    oldest: u64,
    answers_max: u32,
    answers: BTreeMap<u64, CommandOutcome>,
}

/// All sessions there are.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    sessions: BTreeMap<u64, Session>,
    given: u64,
}

/// A command of a session that is not carried out.
pub(super) struct Known {
    pub(super) outcome: CommandOutcome,
    /// It was carried out before, and this is the first answer.
    pub(super) is_answer: bool,
}

impl Sessions {
    pub(super) fn open(
        &mut self,
        ttl_ms: u64,
        sessions_max: u32,
        answers_max: u32,
        now_ms: u64,
    ) -> Result<CommandOutcome, Refusal> {
        if self.sessions.len() as u64 >= u64::from(sessions_max) {
            return Err(CommandOutcome::SessionsFull { sessions_max });
        }
        self.given += 1;
        let session = Session { ttl_ms, used_ms: now_ms, oldest: 0, answers_max, answers: BTreeMap::new() };
        self.sessions.insert(self.given, session);
        Ok(CommandOutcome::SessionOpened { id: self.given })
    }

    pub(super) fn close(&mut self, id: u64) -> CommandOutcome {
        self.sessions.remove(&id);
        CommandOutcome::SessionClosed
    }

    /// Whether a command is to be carried out.
    pub(super) fn begin(&mut self, call: SessionCall, now_ms: u64) -> Result<(), Known> {
        let refuse = |outcome| Err(Known { outcome, is_answer: false });
        let Some(session) = self.sessions.get_mut(&call.session) else {
            return refuse(CommandOutcome::SessionUnknown { id: call.session });
        };
        session.used_ms = session.used_ms.max(now_ms);
        session.oldest = session.oldest.max(call.oldest);
        let oldest = session.oldest;
        session.answers.retain(|sequence, _| *sequence >= oldest);
        if let Some(answer) = session.answers.get(&call.sequence) {
            return Err(Known { outcome: answer.clone(), is_answer: true });
        }
        if call.sequence < oldest {
            return refuse(CommandOutcome::AnswerForgotten { sequence: call.sequence, oldest });
        }
        if session.answers.len() as u64 >= u64::from(session.answers_max) {
            return refuse(CommandOutcome::AnswersFull { answers_max: session.answers_max });
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, call: SessionCall, outcome: &CommandOutcome) {
        // A command may close its own session.
        if let Some(session) = self.sessions.get_mut(&call.session) {
            session.answers.insert(call.sequence, outcome.clone());
        }
    }

    /// Ends what is due, the longest due first. Returns how many.
    pub(super) fn expire(&mut self, sessions_max: u32, now_ms: u64) -> u64 {
        let ends = |session: &Session| session.used_ms.saturating_add(session.ttl_ms);
        let mut due: Vec<(u64, u64)> = self
            .sessions
            .iter()
            .map(|(id, session)| (ends(session), *id))
            .filter(|(ends_at_ms, _)| *ends_at_ms <= now_ms)
            .collect();
        due.sort_unstable();
        due.truncate(usize::try_from(sessions_max).expect("u32 fits usize"));
        for (_, id) in &due {
            self.sessions.remove(id);
        }
        due.len() as u64
    }
}

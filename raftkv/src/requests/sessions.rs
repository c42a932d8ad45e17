//! Requests about sessions, in which a retry is harmless (`docs/decisions/0009-commands-of-format-4.md`, "A session").
//!
//! How long a session lives without a write is the client's choice within bounds. It has to be far longer than the client goes on retrying: within a session that
//! has ended nobody can tell whether a write was carried out.

use super::writes::{Asked, Write};
use super::{Refused, RequestLimits, error};
use storage::command::{Command, EncodedCommand};
use transport::proto::client as wire;
use wire::ErrorCode;

/// What a session lives without a write, unless the client says otherwise: ten minutes.
pub const SESSION_TTL_MS_DEFAULT: u64 = 600_000;
/// The shortest that a client may ask for: ten seconds.
pub const SESSION_TTL_MS_MIN: u64 = 10_000;
/// The longest: a day.
pub const SESSION_TTL_MS_MAX: u64 = 86_400_000;

const _: () = assert!(SESSION_TTL_MS_MIN <= SESSION_TTL_MS_DEFAULT && SESSION_TTL_MS_DEFAULT <= SESSION_TTL_MS_MAX);

impl RequestLimits {
    /// The write that opening a session stands for.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn session_open(&self, request: wire::SessionOpenRequest) -> Result<Write, Refused> {
        let ttl_ms = if request.ttl_ms == 0 { SESSION_TTL_MS_DEFAULT } else { request.ttl_ms };
        if !(SESSION_TTL_MS_MIN..=SESSION_TTL_MS_MAX).contains(&ttl_ms) {
            let message = format!(
                "a session cannot live for {ttl_ms} ms; {SESSION_TTL_MS_MIN} ms to {SESSION_TTL_MS_MAX} ms are allowed, or zero for \
                 {SESSION_TTL_MS_DEFAULT} ms"
            );
            return Err(error(ErrorCode::Invalid, message));
        }
        let (sessions_max, answers_max) = (self.sessions_max, self.session_answers_max);
        let command = EncodedCommand::new(&Command::OpenSession { ttl_ms, sessions_max, answers_max }, None);
        Ok(Write { command, asked: Asked::Session { ttl_ms } })
    }

    /// The write that closing a session stands for.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn session_close(&self, request: wire::SessionCloseRequest) -> Result<Write, Refused> {
        let id = request.session;
        if id == 0 {
            return Err(error(ErrorCode::Invalid, "sessions have numbers from 1 on"));
        }
        let command = EncodedCommand::new(&Command::CloseSession { id }, None);
        Ok(Write { command, asked: Asked::Session { ttl_ms: 0 } })
    }
}

//! Requests about leases.
//!
//! Granting, keeping alive and revoking go through the log. What is left of a lease, which keys live by it and which leases there are is read from the state, at a
//! read index like any other linearizable read. What is left is as of the last batch applied, which a leader lets fall no more than about a second behind while there
//! is a lease: the client is told a little too much, never too little.

use super::writes::{Asked, Write, lease_unknown, session_call};
use super::{QuestionError, Refused, RequestLimits, error};
use storage::command::{Command, EncodedCommand, LeaseLimits};
use storage::state::{Engine, LeaseStatus, StateReader};
use transport::Response;
use transport::proto::client as wire;
use wire::ErrorCode;

/// The shortest time to live: a second, several times what an election takes in a cluster with default timeouts.
pub const LEASE_TTL_MS_MIN: u64 = 1_000;
/// The longest: 285 years, as with etcd.
pub const LEASE_TTL_MS_MAX: u64 = 9_000_000_000_000;
/// The greatest number that a client may choose for a lease: etcd's are signed.
const LEASE_ID_MAX: u64 = i64::MAX as u64;
/// Leases in one reply; whoever wants more asks again after the last one.
const LEASES_PER_REPLY: usize = 10_000;
/// Bytes of keys in one reply: a lease of more is shown without them.
const LEASE_KEYS_BYTES_MAX: usize = 32 << 20;

impl RequestLimits {
    /// The write that granting a lease stands for.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn lease_grant(&self, request: &wire::LeaseGrantRequest) -> Result<Write, Refused> {
        self.check_lease_ttl(request.ttl_ms)?;
        if request.id > LEASE_ID_MAX {
            let message = format!("{} cannot be the number of a lease; 1 to {LEASE_ID_MAX} can", request.id);
            return Err(error(ErrorCode::Invalid, message));
        }
        let limits = LeaseLimits { leases_max: self.leases_max, keys_max: self.lease_keys_max };
        let command = Command::GrantLease { id: request.id, ttl_ms: request.ttl_ms, limits };
        let session = session_call(request.session.as_ref())?;
        Ok(Write { command: EncodedCommand::new(&command, session), asked: Asked::Lease })
    }

    /// The write that keeping a lease alive stands for.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn lease_keep_alive(&self, request: wire::LeaseKeepAliveRequest) -> Result<Write, Refused> {
        let command = Command::KeepLeaseAlive { id: checked_id(request.id)? };
        Ok(Write { command: EncodedCommand::new(&command, None), asked: Asked::Lease })
    }

    /// The write that revoking a lease stands for.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn lease_revoke(&self, request: &wire::LeaseRevokeRequest) -> Result<Write, Refused> {
        let command = Command::RevokeLease { id: checked_id(request.id)? };
        let session = session_call(request.session.as_ref())?;
        Ok(Write { command: EncodedCommand::new(&command, session), asked: Asked::Lease })
    }

    /// Checks how long a lease, or a key by itself, is to live.
    pub(super) fn check_lease_ttl(&self, ttl_ms: u64) -> Result<(), Refused> {
        if (LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX).contains(&ttl_ms) {
            return Ok(());
        }
        let message = format!(
            "a time to live of {ttl_ms} ms is not possible; {LEASE_TTL_MS_MIN} ms (a second) to {LEASE_TTL_MS_MAX} ms (285 years) are allowed"
        );
        Err(error(ErrorCode::Invalid, message))
    }
}

fn checked_id(id: u64) -> Result<u64, Refused> {
    if id == 0 { Err(error(ErrorCode::Invalid, "leases have numbers from 1 on")) } else { Ok(id) }
}

/// The answer to a question about one lease, once the state may be read.
pub(super) fn show<E: Engine>(
    reader: &StateReader<E>,
    request: &wire::LeaseShowRequest,
) -> Result<Response, QuestionError> {
    let id = checked_id(request.id)?;
    let time_ms = reader.time_ms();
    let (revision, status, keys) = if request.keys {
        let found = reader.lease_with_keys(id, LEASE_KEYS_BYTES_MAX)?.ok_or_else(|| lease_unknown(id))?;
        let keys = found.keys.ok_or_else(|| keys_too_large(id))?;
        (found.revision, found.status, keys)
    } else {
        let revision = reader.revision();
        (revision, reader.lease(id)?.ok_or_else(|| lease_unknown(id))?, Vec::new())
    };
    let header = Some(wire::Header { revision, index: 0 });
    Ok(Response::LeaseShow(wire::LeaseShowReply { header, lease: Some(lease(&status, time_ms)), keys }))
}

fn keys_too_large(id: u64) -> Refused {
    let message = format!(
        "the keys that live by lease {id} have more than {LEASE_KEYS_BYTES_MAX} bytes, too much for one answer; ask without the keys"
    );
    let mut refused = error(ErrorCode::TooLarge, message);
    refused.limit = LEASE_KEYS_BYTES_MAX as u64;
    refused
}

/// The answer to a question about all leases, once the state may be read.
pub(super) fn list<E: Engine>(
    reader: &StateReader<E>,
    request: &wire::LeaseListRequest,
) -> Result<Response, QuestionError> {
    let asked = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let limit = if asked == 0 { LEASES_PER_REPLY } else { asked.min(LEASES_PER_REPLY) };
    let header = Some(wire::Header { revision: reader.revision(), index: 0 });
    let time_ms = reader.time_ms();
    // One more than there is room for tells whether there is more.
    let mut found = reader.leases(request.after, limit + 1)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let leases = found.iter().map(|status| lease(status, time_ms)).collect();
    Ok(Response::LeaseList(wire::LeaseListReply { header, leases, more }))
}

fn lease(status: &LeaseStatus, time_ms: u64) -> wire::Lease {
    wire::Lease {
        id: status.id,
        ttl_ms: status.ttl_ms,
        // The state may have gone on since the time was read.
        remaining_ms: status.ends_at_ms.saturating_sub(time_ms).min(status.ttl_ms),
        key_count: status.keys.into(),
        of_one_key: status.of_one_key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use transport::{ClientLimits, REPLY_BYTES_MAX};

    #[test]
    fn the_longest_list_of_leases_fits_a_reply() {
        let most = u64::MAX;
        let status = LeaseStatus { id: most, ttl_ms: most, ends_at_ms: most, keys: u32::MAX, of_one_key: true };
        let leases = vec![lease(&status, 0); LEASES_PER_REPLY];
        let header = Some(wire::Header { revision: most, index: most });
        let length = wire::LeaseListReply { header, leases, more: true }.encoded_len();
        assert!(length <= REPLY_BYTES_MAX && length <= ClientLimits::default().reply_bytes_max, "{length} bytes");
    }

    /// As many keys as the highest setting lets live by one lease, with all the bytes that are shown.
    #[test]
    fn the_keys_of_the_largest_lease_fit_a_reply() {
        let keys = vec![bytes::Bytes::from(vec![b'k'; LEASE_KEYS_BYTES_MAX / 100_000]); 100_000];
        let length = wire::LeaseShowReply { header: None, lease: None, keys }.encoded_len();
        assert!(length <= REPLY_BYTES_MAX && length <= ClientLimits::default().reply_bytes_max, "{length} bytes");
    }

    #[test]
    fn what_is_left_of_a_lease_is_counted_by_the_clusters_time_and_never_more_than_all_of_it() {
        let status = LeaseStatus { id: 1, ttl_ms: 5_000, ends_at_ms: 12_000, keys: 2, of_one_key: false };
        let remaining: Vec<u64> =
            [6_000, 7_000, 11_999, 12_000, 99_000].map(|now| lease(&status, now).remaining_ms).into();
        assert_eq!(remaining, [5_000, 5_000, 1, 0, 0]);
    }
}

//! A line of those who want the same: the recipe under locks and elections.
//!
//! Who stands in line has a key `NAME/@LEASE`, with its lease in hexadecimal, which it puts if it does not exist. Other keys under `NAME/`,
//! and so lines whose names lie under one another, do not get in its way: no name has `/@` in it. Keys come to exist at different revisions, so their
//! `create_revision` orders the line; the lowest is served. Everybody else waits until the key just before its own is deleted, and looks
//! again: so a deletion wakes one, and not all. A key goes with its lease, so one that stands still for ever is passed over after its time
//! to live.
//!
//! The `create_revision` is the *fencing token*. Who is served later has a greater one, so whoever receives commands along with tokens can
//! turn down those of a predecessor that does not know yet that its lease is lost. Nobody else can tell the two apart.

use crate::client::Client;
use crate::error::Error;
use crate::lease::{Lease, LeaseLoss};
use crate::request::{Put, Range};
use crate::transaction::{Compare, Operation, OperationOutcome, Transaction};
use crate::value::KeyValue;
use crate::waiting::{Pauses, wait_for_change};
use bytes::{Bytes, BytesMut};
use std::time::Duration;
use transport::proto::client as wire;

/// How long a place that is lost may take to learn why: whoever holds it has to stop, and nothing is certain meanwhile.
const LEASE_ANSWER_MAX: Duration = Duration::from_millis(500);
/// What stands between the name of a line and that of a place.
const PLACES: &[u8] = b"/@";

/// A place in a line. It is held for as long as the lease lives.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) client: Client,
    pub(crate) lease: Lease,
    pub(crate) prefix: Bytes,
    pub(crate) key: Bytes,
    /// The fencing token.
    pub(crate) create_revision: u64,
}

/// Why a place was not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LineError {
    Lost(LeaseLoss),
    Request(Error),
}

impl From<Error> for LineError {
    fn from(error: Error) -> LineError {
        LineError::Request(error)
    }
}

/// Who stands before a place.
pub(crate) enum Ahead {
    Nobody,
    Somebody(KeyValue),
    /// The place itself is not there any more.
    PlaceGone,
}

/// The keys of a line.
pub(crate) fn prefix_of(name: &Bytes) -> Result<Bytes, Error> {
    if name.is_empty() {
        let cause = "the name of a lock or election is empty".to_owned();
        return Err(Error::Invalid { endpoint: String::new(), cause });
    }
    if name.windows(PLACES.len()).any(|part| part == PLACES) {
        let cause =
            "the name of a lock or election has \"/@\" in it, which stands before the places in its line".to_owned();
        return Err(Error::Invalid { endpoint: String::new(), cause });
    }
    let mut prefix = BytesMut::from(name.as_ref());
    prefix.extend_from_slice(PLACES);
    Ok(prefix.freeze())
}

/// Enters the line with a lease of its own.
pub(crate) async fn enter(client: &Client, name: &Bytes, value: &Bytes, ttl: Duration) -> Result<Place, LineError> {
    let prefix = prefix_of(name)?;
    let lease = client.grant_lease(ttl).await?;
    let mut key = BytesMut::from(prefix.as_ref());
    key.extend_from_slice(format!("{:016x}", lease.id()).as_bytes());
    let key = key.freeze();
    let create_revision = tokio::select! {
        biased;
        loss = lease.lost() => return Err(LineError::Lost(loss)),
        put = put_key(client, &key, value, lease.id()) => put,
    };
    let create_revision = match create_revision {
        Ok(revision) => revision,
        Err(error) => {
            if let Err(error) = lease.revoke().await {
                tracing::debug!(%error, "the lease of no place ends by itself");
            }
            return Err(error.into());
        }
    };
    Ok(Place { client: client.clone(), lease, prefix, key, create_revision })
}

/// Puts the key if it does not exist; either way, returns when it was created. Nobody else puts it, so it may be tried again after any
/// doubt.
async fn put_key(client: &Client, key: &Bytes, value: &Bytes, lease: u64) -> Result<u64, Error> {
    let put = Put::new(key.clone(), value.clone()).lease(lease);
    let transaction = Transaction::new()
        .when(Compare::absent(key.clone()))
        .then(Operation::put(put))
        .otherwise(Operation::get(key.clone()));
    let mut pauses = Pauses::default();
    loop {
        match client.transaction(transaction.clone()).await {
            Ok(outcome) if outcome.succeeded => return Ok(outcome.revision),
            Ok(outcome) => {
                // It went between compare and get only if its lease did, which the next attempt is told.
                if let Some(kv) = outcome.operations.first().and_then(|found| found.pairs().first()) {
                    return Ok(kv.create_revision);
                }
            }
            Err(error) if is_passing(&error) => {
                tracing::debug!(%error, "no place in line yet");
            }
            Err(error) => return Err(error),
        }
        pauses.pause().await;
    }
}

/// Whether it may be over in a moment: nothing that a caller who waits would want to know.
pub(crate) fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Unavailable { .. } | Error::TimedOut { .. } | Error::OutcomeUnknown { .. })
}

/// Who is served: the pair created first.
pub(crate) async fn first(client: &Client, prefix: &Bytes) -> Result<Option<KeyValue>, Error> {
    let outcome = client.transaction(Transaction::new().then(oldest_of(prefix))).await?;
    Ok(outcome.operations.into_iter().next().and_then(first_pair))
}

/// Enters the line and waits to be served. If `given_up` returns before, the place is left, and there is none.
pub(crate) async fn be_served(
    client: &Client,
    line: (&Bytes, &Bytes, Duration),
    given_up: impl Future,
) -> Result<Option<Place>, LineError> {
    let (name, value, ttl) = line;
    let mut given_up = std::pin::pin!(given_up);
    let place = tokio::select! {
        place = enter(client, name, value, ttl) => place?,
        // Whatever has come about of the place ends by itself.
        _ = &mut given_up => return Ok(None),
    };
    let waited = tokio::select! {
        waited = place.wait() => waited.map(|()| true),
        _ = given_up => Ok(false),
    };
    match waited {
        Ok(true) => Ok(Some(place)),
        Ok(false) => {
            place.leave().await;
            Ok(None)
        }
        Err(error) => {
            place.leave().await;
            Err(error)
        }
    }
}

impl Place {
    /// Lets the next one pass at once, if the cluster can be reached.
    pub(crate) async fn leave(self) {
        if self.lease.is_lost() {
            return;
        }
        if let Err(error) = self.lease.revoke().await {
            tracing::debug!(%error, "the place in line ends by itself");
        }
    }

    /// Waits until nobody stands before it any more. Goes on over failures for as long as the lease lives.
    async fn wait(&self) -> Result<(), LineError> {
        tokio::select! {
            biased;
            loss = self.lease.lost() => Err(LineError::Lost(loss)),
            outcome = self.wait_for_those_ahead() => outcome,
        }
    }

    async fn wait_for_those_ahead(&self) -> Result<(), LineError> {
        let mut pauses = Pauses::default();
        loop {
            let outcome = match self.ahead().await {
                Ok(Ahead::Nobody) => return Ok(()),
                Ok(Ahead::PlaceGone) => return Err(LineError::Lost(self.why_gone().await)),
                Ok(Ahead::Somebody(ahead)) => {
                    let is_there = |kv: &KeyValue| kv.create_revision == ahead.create_revision;
                    wait_for_change(&self.client, &ahead.key, is_there).await
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => pauses = Pauses::default(),
                Err(error) if is_passing(&error) => {
                    tracing::debug!(%error, "waiting in line goes on");
                    pauses.pause().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Who stands just before it: of the keys created earlier, the one created last.
    pub(crate) async fn ahead(&self) -> Result<Ahead, Error> {
        let before = self.create_revision - 1;
        let transaction =
            Transaction::new().then(Operation::get(self.key.clone())).then(newest_of(&self.prefix, before));
        let outcome = self.client.transaction(transaction).await?;
        let [own, ahead] = <[OperationOutcome; 2]>::try_from(outcome.operations).map_err(|operations| {
            let cause = format!("{} outcomes of 2 operations", operations.len());
            Error::Internal { endpoint: String::new(), cause }
        })?;
        if own.pairs().first().is_none_or(|kv| kv.create_revision != self.create_revision) {
            return Ok(Ahead::PlaceGone);
        }
        Ok(first_pair(ahead).map_or(Ahead::Nobody, Ahead::Somebody))
    }

    /// Why the key is not there any more, or not the same. A key goes with its lease, and a delete looks the same as that from here: the
    /// cluster knows whether there is the lease still. Where it does not say so in a moment, what is certain is told: the key is gone.
    pub(crate) async fn why_gone(&self) -> LeaseLoss {
        if self.lease.is_lost() {
            // What became of the key comes of that.
            return self.lease.lost().await;
        }
        let id = self.lease.id();
        match tokio::time::timeout(LEASE_ANSWER_MAX, self.client.show_lease(id, false)).await {
            Ok(Err(Error::LeaseUnknown { .. })) => {
                let cause = format!(
                    "lease {id} was revoked or has expired, and the key {} went with it",
                    self.key.escape_ascii()
                );
                LeaseLoss::Ended { cause }
            }
            Ok(_) | Err(_) => LeaseLoss::KeyGone { key: self.key.clone() },
        }
    }

    /// Returns when the place can no longer be counted on: its lease is lost, or its key is gone.
    pub(crate) async fn lost(&self) -> LeaseLoss {
        tokio::select! {
            biased;
            loss = self.lease.lost() => loss,
            loss = async {
                self.key_gone().await;
                self.why_gone().await
            } => loss,
        }
    }

    /// Returns when the key is deleted, or lives by the lease no more.
    async fn key_gone(&self) {
        let mut pauses = Pauses::default();
        let is_own = |kv: &KeyValue| kv.create_revision == self.create_revision && kv.lease == Some(self.lease.id());
        loop {
            match wait_for_change(&self.client, &self.key, &is_own).await {
                Ok(()) => return,
                Err(error) => {
                    // As long as the lease lives there is time to try again.
                    tracing::debug!(%error, "the key of a place is not watched at this moment");
                    pauses.pause().await;
                }
            }
        }
    }
}

fn oldest_of(prefix: &Bytes) -> Operation {
    by_creation(prefix, false, None)
}

fn newest_of(prefix: &Bytes, create_revision_max: u64) -> Operation {
    by_creation(prefix, true, Some(create_revision_max))
}

/// One pair under a prefix: the first in the order of creation, or the last up to a revision.
fn by_creation(prefix: &Bytes, descending: bool, create_revision_max: Option<u64>) -> Operation {
    Operation::scan(wire::ScanRequest {
        range: Some(Range::prefix(prefix.clone()).into_wire()),
        limit: 1,
        sort_by: wire::SortBy::CreateRevision.into(),
        descending,
        create_revision_max,
        ..wire::ScanRequest::default()
    })
}

fn first_pair(outcome: OperationOutcome) -> Option<KeyValue> {
    match outcome {
        OperationOutcome::Range { pairs, .. } => pairs.into_iter().next(),
        OperationOutcome::Put { .. } | OperationOutcome::Delete { .. } | OperationOutcome::Transaction { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn no_line_lies_among_the_places_of_another() {
        for name in ["a", "a/b", "a@b", "@", "a/", "/"] {
            assert_eq!(prefix_of(&name.into()).unwrap(), format!("{name}/@"));
        }
        for name in ["", "a/@b", "/@", "a/@"] {
            assert!(matches!(prefix_of(&name.into()), Err(Error::Invalid { .. })), "{name}");
        }
    }
}

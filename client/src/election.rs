//! Elections: one leader among those who want to be, known to everybody.
//!
//! An election is a [line](mod@crate::line) in which the first leads, and the value of its key is what it has to say: usually where to reach
//! it. All that is said in [`lock`](crate::Lock) about losing it, and about the fencing token, holds here too.
//!
//! Absent: an observer is not told of leaders that came and went between two of its reads.

use crate::client::Client;
use crate::error::Error;
use crate::lease::{LeaseLoss, RevokedLease};
use crate::line::{self, LineError, Place};
use crate::lock::LOCK_TTL_DEFAULT;
use crate::request::{Put, Range};
use crate::transaction::{Compare, Operation, Transaction};
use crate::value::KeyValue;
use crate::waiting::Pauses;
use crate::watch::{Watch, WatchStream};
use bytes::Bytes;
use std::time::Duration;

/// An election to stand for.
///
/// ```no_run
/// # async fn example(client: raftkv_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use raftkv_client::Election;
/// let leadership = client.campaign(Election::new("scheduler"), "10.0.0.7:9000").await?;
/// println!("leading, with token {}", leadership.token());
/// tokio::select! {
///     loss = leadership.lost() => eprintln!("somebody else may lead now: {loss}"),
///     _ = tokio::signal::ctrl_c() => { leadership.resign().await?; }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    name: Bytes,
    ttl: Duration,
}

impl Election {
    /// The election of this name: its keys begin with `NAME/@`. Not empty.
    pub fn new(name: impl Into<Bytes>) -> Election {
        Election { name: name.into(), ttl: LOCK_TTL_DEFAULT }
    }

    /// How long leadership outlives a leader that has gone without resigning. Default [`LOCK_TTL_DEFAULT`].
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Election {
        self.ttl = ttl;
        self
    }
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elected {
    /// What the leader has to say.
    pub value: Bytes,
    /// Its key.
    pub key: Bytes,
    /// Its fencing token: greater than that of every leader before.
    pub token: u64,
}

impl From<KeyValue> for Elected {
    fn from(kv: KeyValue) -> Elected {
        Elected { value: kv.value, key: kv.key, token: kv.create_revision }
    }
}

/// Why leadership was not won, or nothing could be proclaimed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElectionError {
    /// The lease was lost. Campaign again.
    #[error("the candidacy was lost: {0}")]
    Lost(LeaseLoss),
    /// A request failed, in a way that waiting does not mend.
    #[error(transparent)]
    Request(#[from] Error),
}

impl From<LineError> for ElectionError {
    fn from(error: LineError) -> ElectionError {
        match error {
            LineError::Lost(loss) => ElectionError::Lost(loss),
            LineError::Request(error) => ElectionError::Request(error),
        }
    }
}

/// An election that was won. Dropped, it lasts for its time to live.
#[derive(Debug)]
pub struct Leadership {
    place: Place,
}

/// Follows who leads.
#[derive(Debug)]
pub struct Observer {
    client: Client,
    prefix: Bytes,
    /// Tells when to look again; none before the first look, and after one that ended.
    watch: Option<WatchStream>,
    /// What was told last; nothing yet at the beginning.
    told: Option<Option<Elected>>,
}

impl Client {
    /// Stands for election with something to say, and waits until it is won. If the future is dropped before, the candidacy lasts for the
    /// election's time to live; [`Client::campaign_unless`] ends it at once.
    ///
    /// # Errors
    /// [`ElectionError::Lost`] when the cluster could not be reached for the election's time to live; [`ElectionError::Request`] for what
    /// waiting does not mend.
    pub async fn campaign(&self, election: Election, value: impl Into<Bytes>) -> Result<Leadership, ElectionError> {
        let won = self.campaign_unless(election, value, std::future::pending::<()>()).await?;
        Ok(won.expect("what never returns does not give up"))
    }

    /// Stands for election, unless `given_up` returns before it is won: then the candidacy ends, and there is no leadership.
    ///
    /// # Errors
    /// As [`Client::campaign`].
    pub async fn campaign_unless(
        &self,
        election: Election,
        value: impl Into<Bytes>,
        given_up: impl Future,
    ) -> Result<Option<Leadership>, ElectionError> {
        let place = line::be_served(self, (&election.name, &value.into(), election.ttl), given_up).await?;
        Ok(place.map(|place| Leadership { place }))
    }

    /// Who leads; `None` when nobody does.
    ///
    /// # Errors
    /// When no node answers in time.
    pub async fn elected(&self, name: impl Into<Bytes>) -> Result<Option<Elected>, Error> {
        Ok(line::first(self, &line::prefix_of(&name.into())?).await?.map(Elected::from))
    }

    /// Follows who leads, and what they have to say.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// let mut observer = client.observe("scheduler")?;
    /// loop {
    ///     match observer.next().await? {
    ///         Some(leader) => println!("{:?} leads", leader.value),
    ///         None => println!("nobody leads"),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] when the name is empty.
    pub fn observe(&self, name: impl Into<Bytes>) -> Result<Observer, Error> {
        Ok(Observer { client: self.clone(), prefix: line::prefix_of(&name.into())?, watch: None, told: None })
    }
}

impl Leadership {
    /// The fencing token: greater than that of every leader before.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.place.create_revision
    }

    /// The key that stands for leading; see [`LockGuard::key`](crate::LockGuard::key).
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.place.key
    }

    /// Whether it can no longer be counted on, going by its lease: whether its key is still there only [`lost`](Self::lost) finds out.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.place.lease.is_lost()
    }

    /// Returns when it can no longer be counted on: its lease was not kept alive or has ended, or somebody deleted or overwrote its key.
    pub async fn lost(&self) -> LeaseLoss {
        self.place.lost().await
    }

    /// Has something else to say. Returns the revision at which observers see it.
    ///
    /// # Errors
    /// [`ElectionError::Lost`] when it leads no longer: then nothing was said; otherwise as [`Client::put`].
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<u64, ElectionError> {
        let Place { client, key, create_revision, .. } = &self.place;
        let put = Put::new(key.clone(), value).keep_lease();
        let still_leads = Compare::create_revision(key.clone()).equals(*create_revision);
        let outcome = client.transaction(Transaction::new().when(still_leads).then(Operation::put(put))).await?;
        if outcome.succeeded { Ok(outcome.revision) } else { Err(ElectionError::Lost(self.place.why_gone().await)) }
    }

    /// Lets the next one lead.
    ///
    /// # Errors
    /// As [`Client::revoke_lease`]; it ends by itself after its time to live.
    pub async fn resign(self) -> Result<RevokedLease, Error> {
        self.place.lease.revoke().await
    }
}

impl Observer {
    /// Who leads, as soon as that, or what they have to say, differs from what was returned before; the first time at once. `None` when
    /// nobody does.
    ///
    /// # Errors
    /// For what waiting does not mend. It may be called again after that.
    pub async fn next(&mut self) -> Result<Option<Elected>, Error> {
        let mut pauses = Pauses::default();
        loop {
            match self.look().await {
                Ok(elected) => {
                    if self.told.as_ref() != Some(&elected) {
                        self.told = Some(elected.clone());
                        return Ok(elected);
                    }
                    pauses = Pauses::default();
                    match self.watch.as_mut().expect("whoever looks watches").next().await {
                        Ok(_) => continue,
                        Err(error) => {
                            self.watch = None;
                            if !matches!(error, Error::CompactedRevision { .. }) && !line::is_passing(&error) {
                                return Err(error);
                            }
                            tracing::debug!(%error, "observing begins again");
                        }
                    }
                }
                Err(error) if line::is_passing(&error) => tracing::debug!(%error, "observing goes on"),
                Err(error) => return Err(error),
            }
            pauses.pause().await;
        }
    }

    /// Who leads, with a watch under way that tells of what comes after.
    async fn look(&mut self) -> Result<Option<Elected>, Error> {
        if self.watch.is_none() {
            self.watch = Some(self.client.watch(Watch::range(Range::prefix(self.prefix.clone()))).await?);
        }
        Ok(line::first(&self.client, &self.prefix).await?.map(Elected::from))
    }
}

//! The way of one request: which node next, when to pause, when to give up.
//!
//! A route goes in rounds. In one round each address is tried at most once, hints of the leader before the rest; so two nodes that take
//! each other for the leader cannot send a request back and forth. After a round comes a pause.
//!
//! A write that may be repeated can leave a doubt behind: an attempt that may have done its work. From then on only two things end the
//! route with something better than "outcome unknown": an answer, or a refusal that the replicated state itself has decided, which is the
//! write's first answer whenever it was carried out. That a node refuses a later attempt before the log, for want of space or of a session,
//! says nothing of the earlier one.

use crate::directory::{Address, Directory};
use crate::error::Error;
use crate::policy::{self, Purpose, Verdict, Weight};
use std::time::{Duration, Instant};

/// The way of one request. See the module.
#[derive(Debug)]
pub struct Route {
    purpose: Purpose,
    round: u32,
    tried: Vec<Address>,
    hint: Option<Address>,
    /// A node answered in this round, if only to say no.
    reached: bool,
    /// In this round a node could not be used because of certificates.
    refused: Option<Error>,
    /// What to say when the deadline comes.
    telling: Option<(Weight, Error)>,
    /// The attempt that may have done its work.
    doubt: Option<Doubt>,
}

#[derive(Debug)]
struct Doubt {
    endpoint: String,
    cause: String,
}

impl Route {
    /// A way that has not begun.
    #[must_use]
    pub fn new(purpose: Purpose) -> Route {
        Route {
            purpose,
            round: 0,
            tried: Vec::new(),
            hint: None,
            reached: false,
            refused: None,
            telling: None,
            doubt: None,
        }
    }

    /// Rounds behind us.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Where to go next; nowhere when the round is over.
    pub fn next(&mut self, directory: &Directory, now: Instant) -> Option<Address> {
        let next = match self.hint.take().filter(|hint| !self.tried.contains(hint)) {
            Some(hint) => hint,
            None if self.tried.is_empty() => directory.first(self.purpose, now),
            None => {
                let candidates = directory.candidates(self.purpose, now);
                candidates.into_iter().find(|candidate| !self.tried.contains(candidate))?
            }
        };
        self.tried.push(next.clone());
        Some(next)
    }

    /// Takes note of a failure, in the directory too.
    ///
    /// # Errors
    /// When it is over.
    pub fn failed(
        &mut self,
        directory: &mut Directory,
        address: &Address,
        verdict: Verdict,
        now: Instant,
    ) -> Result<(), Error> {
        let (leader, error, weight) = match verdict {
            Verdict::Fail(error) => return Err(self.conclude(error)),
            Verdict::Retry { leader, error, weight } => (leader, error, weight),
        };
        match weight {
            Weight::Silence => directory.silent(address, now),
            Weight::Redirect | Weight::Word => {
                self.reached = true;
                directory.not_leader(address);
            }
        }
        // Where a stale read goes is the caller's choice.
        if let Some(leader) = leader.filter(|_| self.purpose != Purpose::StaleRead) {
            self.hint = Some(directory.follow(&leader));
        }
        if let Error::OutcomeUnknown { endpoint, cause } = &error {
            self.doubt = Some(Doubt { endpoint: endpoint.clone(), cause: cause.clone() });
        }
        if error.is_permission() {
            self.refused = Some(error.clone());
        }
        if self.telling.as_ref().is_none_or(|(known, _)| weight >= *known) {
            self.telling = Some((weight, error));
        }
        Ok(())
    }

    /// Ends a round. Says how long to pause before the next one; `jitter` is from 0 to 1.
    ///
    /// # Errors
    /// When no node answered and one was out because of certificates: waiting does not mend that.
    pub fn end_round(&mut self, jitter: f64) -> Result<Duration, Error> {
        if let Some(refused) = self.refused.take().filter(|_| !self.reached) {
            return Err(self.conclude(refused));
        }
        let pause = policy::pause(self.round, jitter);
        self.round += 1;
        self.tried.clear();
        self.hint = None;
        self.reached = false;
        // What was heard in an earlier round gives way to anything newer.
        if let Some((weight, _)) = &mut self.telling {
            *weight = Weight::Redirect;
        }
        Ok(pause)
    }

    /// What an error that ends the route means for the request, with what may have become of earlier attempts.
    fn conclude(&mut self, error: Error) -> Error {
        match self.doubt.take() {
            Some(Doubt { endpoint, cause }) if error.is_certainly_not_applied() && !error.is_outcome() => {
                Error::OutcomeUnknown { endpoint, cause: format!("{cause}; a later attempt failed: {error}") }
            }
            Some(_) | None => error,
        }
    }

    /// The deadline has come: "outcome unknown" if an attempt may have done its work, otherwise the error that tells most.
    pub fn give_up(self, directory: &Directory, timeout: Duration) -> Error {
        if let Some(Doubt { endpoint, cause }) = self.doubt {
            let cause = format!("{cause}, and within {} no node said what became of it", crate::error::Human(timeout));
            return Error::OutcomeUnknown { endpoint, cause };
        }
        match self.telling {
            Some((_, Error::TimedOut { endpoint, cause, .. })) => Error::TimedOut { endpoint, after: timeout, cause },
            Some((_, error)) => error,
            None => Error::Unavailable {
                endpoint: directory.configured()[0].to_string(),
                cause: format!("nothing could be sent within {}", crate::error::Human(timeout)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn unavailable(endpoint: &str, cause: &str) -> Error {
        Error::Unavailable { endpoint: endpoint.into(), cause: cause.into() }
    }

    fn redirect(from: &str, to: &str) -> Verdict {
        Verdict::Retry { leader: Some(to.into()), error: unavailable(from, "not the leader"), weight: Weight::Redirect }
    }

    fn silence(at: &str) -> Verdict {
        Verdict::Retry { leader: None, error: unavailable(at, "unreachable"), weight: Weight::Silence }
    }

    fn tls(at: &str) -> Verdict {
        let error = Error::Tls { endpoint: at.into(), cause: "unknown authority".into() };
        Verdict::Retry { leader: None, error, weight: Weight::Silence }
    }

    struct Walk {
        directory: Directory,
        route: Route,
        now: Instant,
    }

    impl Walk {
        fn new(purpose: Purpose, endpoints: &[&str]) -> Walk {
            let directory = Directory::new(endpoints.iter().map(|endpoint| (*endpoint).into()).collect());
            Walk { directory, route: Route::new(purpose), now: Instant::now() }
        }

        fn next(&mut self) -> Option<String> {
            self.route.next(&self.directory, self.now).map(|address| address.to_string())
        }

        fn failed(&mut self, at: &str, verdict: Verdict) -> Result<(), Error> {
            self.route.failed(&mut self.directory, &at.into(), verdict, self.now)
        }
    }

    #[test]
    fn a_hint_is_followed_before_the_other_endpoints() {
        let mut walk = Walk::new(Purpose::Write, &["a:1", "b:1"]);
        assert_eq!(walk.next().as_deref(), Some("a:1"));
        walk.failed("a:1", redirect("a:1", "c:1")).unwrap();
        assert_eq!(walk.next().as_deref(), Some("c:1"));
        walk.failed("c:1", silence("c:1")).unwrap();
        assert_eq!(walk.next().as_deref(), Some("b:1"));
        walk.failed("b:1", silence("b:1")).unwrap();
        assert_eq!(walk.next(), None, "the round is over");
    }

    #[test]
    fn two_nodes_that_point_at_each_other_are_left_after_one_visit_each() {
        let mut walk = Walk::new(Purpose::Write, &["a:1"]);
        assert_eq!(walk.next().as_deref(), Some("a:1"));
        walk.failed("a:1", redirect("a:1", "b:1")).unwrap();
        assert_eq!(walk.next().as_deref(), Some("b:1"));
        walk.failed("b:1", redirect("b:1", "a:1")).unwrap();
        assert_eq!(walk.next(), None);
        let pause = walk.route.end_round(0.5).unwrap();
        assert!(pause > Duration::ZERO, "a pause of {pause:?} is a busy loop");
        assert_eq!((walk.route.round(), walk.next().as_deref()), (1, Some("a:1")));
    }

    #[test]
    fn a_bad_certificate_is_an_error_at_once_but_only_after_every_endpoint_had_its_turn() {
        let mut walk = Walk::new(Purpose::Read, &["a:1", "b:1"]);
        walk.next();
        walk.failed("a:1", tls("a:1")).unwrap();
        assert_eq!(walk.next().as_deref(), Some("b:1"));
        walk.failed("b:1", silence("b:1")).unwrap();
        assert!(matches!(walk.route.end_round(0.5), Err(Error::Tls { .. })));
    }

    #[test]
    fn one_node_with_a_bad_certificate_does_not_stop_a_cluster_that_answers() {
        let mut walk = Walk::new(Purpose::Write, &["a:1", "b:1"]);
        walk.next();
        walk.failed("a:1", tls("a:1")).unwrap();
        walk.next();
        let no_leader = Verdict::Retry { leader: None, error: unavailable("b:1", "no leader"), weight: Weight::Word };
        walk.failed("b:1", no_leader).unwrap();
        assert!(walk.route.end_round(0.5).is_ok());
    }

    #[test]
    fn what_a_node_said_tells_more_than_silence() {
        let mut walk = Walk::new(Purpose::Write, &["a:1", "b:1"]);
        walk.next();
        let no_leader = Verdict::Retry { leader: None, error: unavailable("a:1", "no leader"), weight: Weight::Word };
        walk.failed("a:1", no_leader).unwrap();
        walk.next();
        walk.failed("b:1", silence("b:1")).unwrap();
        let error = walk.route.give_up(&walk.directory, Duration::from_secs(5));
        assert_eq!(error, unavailable("a:1", "no leader"));
    }

    #[test]
    fn a_dead_leader_tells_more_than_the_node_that_pointed_to_it() {
        let mut walk = Walk::new(Purpose::Write, &["a:1"]);
        walk.next();
        walk.failed("a:1", redirect("a:1", "b:1")).unwrap();
        walk.next();
        walk.failed("b:1", silence("b:1")).unwrap();
        let error = walk.route.give_up(&walk.directory, Duration::from_secs(5));
        assert_eq!(error, unavailable("b:1", "unreachable"));
    }

    fn doubt(at: &str) -> Verdict {
        let error = Error::OutcomeUnknown { endpoint: at.into(), cause: "the connection broke".into() };
        Verdict::Retry { leader: None, error, weight: Weight::Silence }
    }

    #[test]
    fn a_doubt_outlives_every_refusal_that_comes_from_before_the_log() {
        let endpoint = || "b:1".to_owned();
        let cause = || "because".to_owned();
        for refusal in [
            Error::NoSpace { endpoint: endpoint(), cause: cause() },
            Error::SessionUnknown { endpoint: endpoint(), cause: cause() },
            Error::TooMany { endpoint: endpoint(), cause: cause() },
            Error::Invalid { endpoint: endpoint(), cause: cause() },
            Error::Permission { endpoint: endpoint(), cause: cause() },
        ] {
            let mut walk = Walk::new(Purpose::RepeatableWrite, &["a:1", "b:1"]);
            walk.next();
            walk.failed("a:1", doubt("a:1")).unwrap();
            walk.next();
            let error = walk.failed("b:1", Verdict::Fail(refusal)).unwrap_err();
            assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
            assert_eq!(error.endpoint(), "a:1", "the doubt is about the node that may have done it");
        }
    }

    #[test]
    fn what_the_replicated_state_decided_settles_a_doubt() {
        let mut walk = Walk::new(Purpose::RepeatableWrite, &["a:1", "b:1"]);
        walk.next();
        walk.failed("a:1", doubt("a:1")).unwrap();
        walk.next();
        let unknown = Error::LeaseUnknown { endpoint: "b:1".into(), cause: "lease 7".into() };
        assert_eq!(walk.failed("b:1", Verdict::Fail(unknown.clone())), Err(unknown));
    }

    #[test]
    fn a_doubt_is_what_remains_at_the_deadline() {
        let mut walk = Walk::new(Purpose::RepeatableWrite, &["a:1", "b:1"]);
        walk.next();
        walk.failed("a:1", doubt("a:1")).unwrap();
        walk.next();
        let no_leader = Verdict::Retry { leader: None, error: unavailable("b:1", "no leader"), weight: Weight::Word };
        walk.failed("b:1", no_leader).unwrap();
        walk.route.end_round(0.5).unwrap();
        let error = walk.route.give_up(&walk.directory, Duration::from_secs(5));
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    }

    #[test]
    fn a_stale_read_does_not_follow_the_leader() {
        let mut walk = Walk::new(Purpose::StaleRead, &["a:1"]);
        walk.next();
        walk.failed("a:1", redirect("a:1", "b:1")).unwrap();
        assert_eq!(walk.next(), None);
    }
}

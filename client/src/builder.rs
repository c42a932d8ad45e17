//! Building a client: its settings and their bounds.

use crate::client::Client;
use std::time::Duration;
use transport::Credentials;

/// Connections to one node at most.
pub const CONNECTIONS_MAX: usize = 1024;

/// How long a request may take when nothing else is said.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// Settings of a [`Client`].
///
/// ```no_run
/// use raftkv_client::{Client, Credentials};
/// use std::time::Duration;
///
/// # fn example(credentials: Credentials) -> Result<(), raftkv_client::BuildError> {
/// let client = Client::builder()
///     .endpoints(["n1.example:7420", "n2.example:7420"])
///     .credentials(credentials)
///     .timeout(Duration::from_secs(2))
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    endpoints: Vec<String>,
    credentials: Option<Credentials>,
    timeout: Duration,
    connections: usize,
    session: bool,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { endpoints: Vec::new(), credentials: None, timeout: TIMEOUT_DEFAULT, connections: 1, session: true }
    }
}

impl Builder {
    /// The client addresses of one or more nodes, `host:port`. One is enough: the others are learned. Those given are kept.
    #[must_use]
    pub fn endpoints<I>(mut self, endpoints: I) -> Builder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// What the client proves who it is with, and which nodes it trusts.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Builder {
        self.credentials = Some(credentials);
        self
    }

    /// How long a request may take, dialling and trying again included; of a scan, how long it may bring neither pairs nor a sign that its node is at it. Default
    /// [`TIMEOUT_DEFAULT`]; more than zero.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout;
        self
    }

    /// Connections to each node that is used, taken in turn. Default 1, which carries thousands of requests at the same time; more
    /// spread the work of encryption over more processors. From 1 to [`CONNECTIONS_MAX`].
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Builder {
        self.connections = connections;
        self
    }

    /// Sends writes without a session. A write whose answer is lost is then never sent again, and ends with
    /// [`OutcomeUnknown`](crate::Error::OutcomeUnknown). In return the first write costs no round trip to open a session, and writes wait
    /// for each other nowhere. For programs that repeat their writes by themselves, with conditions for instance.
    ///
    /// ```no_run
    /// use raftkv_client::{Builder, Client, Error, Put};
    ///
    /// # async fn example(builder: Builder) -> Result<(), Box<dyn std::error::Error>> {
    /// let client: Client = builder.without_session().build()?;
    /// let put = Put::new("counter", "8").if_value("7");
    /// match client.put(put.clone()).await {
    ///     // The condition makes sure that it happens once, however often it is sent.
    ///     Err(Error::OutcomeUnknown { .. }) => drop(client.put(put).await?),
    ///     outcome => drop(outcome?),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn without_session(mut self) -> Builder {
        self.session = false;
        self
    }

    /// Makes the client. Nothing is dialled yet: that happens with the first request, inside a tokio runtime.
    ///
    /// # Errors
    /// When a setting is missing or out of bounds; see [`BuildError`].
    pub fn build(self) -> Result<Client, BuildError> {
        if self.endpoints.is_empty() {
            return Err(BuildError::NoEndpoint);
        }
        if self.endpoints.len() > crate::ENDPOINTS_MAX {
            return Err(BuildError::TooManyEndpoints { endpoints: self.endpoints.len() });
        }
        for endpoint in &self.endpoints {
            check_endpoint(endpoint)?;
        }
        let credentials = self.credentials.ok_or(BuildError::NoCredentials)?;
        if self.timeout.is_zero() {
            return Err(BuildError::NoTime);
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.connections) {
            return Err(BuildError::Connections { connections: self.connections });
        }
        let mut endpoints: Vec<_> = Vec::with_capacity(self.endpoints.len());
        for endpoint in self.endpoints {
            if !endpoints.iter().any(|known: &crate::directory::Address| **known == *endpoint) {
                endpoints.push(endpoint.into());
            }
        }
        Ok(Client::new(endpoints, credentials, self.timeout, self.connections, self.session))
    }
}

/// `host:port`, with an IPv6 host in brackets. Names are resolved when dialling.
fn check_endpoint(endpoint: &str) -> Result<(), BuildError> {
    let malformed = || BuildError::Endpoint { endpoint: endpoint.to_owned() };
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(malformed)?;
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    let plain = !host.is_empty() && !host.contains([':', '/', ' ', '[', ']', '@']);
    match port.parse::<u16>() {
        Ok(port) if port > 0 && (bracketed || plain) => Ok(()),
        Ok(_) | Err(_) => Err(malformed()),
    }
}

/// Why there is no client. Each message says what to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Nobody to ask.
    #[error("no endpoint: give the client address of at least one node, host:port")]
    NoEndpoint,
    /// More than the limit.
    #[error("{endpoints} endpoints, at most {}; one is enough, the client learns the others", crate::ENDPOINTS_MAX)]
    TooManyEndpoints {
        /// How many were given.
        endpoints: usize,
    },
    /// Not an address.
    #[error("\"{endpoint}\" is not an endpoint: give host:port, such as 10.0.0.1:7420 or [::1]:7420")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// Every connection needs a certificate.
    #[error("no credentials: give the CA file, a client certificate and its key")]
    NoCredentials,
    /// No time for anything.
    #[error("a timeout of zero: give more")]
    NoTime,
    /// Out of bounds.
    #[error("{connections} connections for each node: give 1 to {CONNECTIONS_MAX}")]
    Connections {
        /// What was given.
        connections: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for good in ["127.0.0.1:7420", "n1:1", "n1.example.com:65535", "[::1]:7420", "[fe80::1%eth0]:7420"] {
            assert_eq!(check_endpoint(good), Ok(()), "{good} was refused");
        }
        for bad in
            ["", "n1", ":7420", "n1:", "n1:0", "n1:65536", "n1:http", "::1:7420", "https://n1:7420", "[]:1", "a b:1"]
        {
            assert!(check_endpoint(bad).is_err(), "{bad:?} was taken for an endpoint");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(Builder::default().build().err(), Some(BuildError::NoEndpoint));
        assert_eq!(Builder::default().endpoints(["n1:1"]).build().err(), Some(BuildError::NoCredentials));
    }
}

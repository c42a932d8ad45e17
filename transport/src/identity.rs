//! Who somebody is: which cluster, which role, which node or client.
//!
//! An identity is one URI in a certificate's subject alternative names: `raftkv://<cluster>/<role>/<id>`. Addresses and DNS names
//! play no part, so a node may move. A certificate carries exactly one such URI: none, two, or one that does not parse are
//! all refused, because a certificate that could be read in two ways would be a hole in promise 6.
//!
//! One text, one identity: there is a single way to write each, so comparing identities is comparing values. A node's number
//! has no sign and no leading zero, letters are lower case.

use raft::NodeId;
use std::fmt;
use std::str::FromStr;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const SCHEME: &str = "raftkv://";

/// The longest name of a cluster or a client, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// The name of a cluster: 1 to 63 characters of `a`–`z`, `0`–`9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(String);

impl ClusterId {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has a character outside the set.
    pub fn new(name: impl Into<String>) -> Result<ClusterId, IdentityError> {
        let name = name.into();
        if is_name(&name) { Ok(ClusterId(name)) } else { Err(IdentityError::ClusterName { name }) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterId {
    type Err = IdentityError;

    fn from_str(name: &str) -> Result<ClusterId, IdentityError> {
        ClusterId::new(name)
    }
}

/// What a certificate lets its holder be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A member of the cluster: serves clients, speaks to peers.
    Node,
    /// A user of the cluster: may connect to the client port only.
    Client,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Node => "node",
            Role::Client => "client",
        })
    }
}

/// Who within the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The node of this number.
    Node(NodeId),
    /// The client of this name: same characters as a [`ClusterId`].
    Client(String),
}

/// A whole identity, as a certificate states it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Who it is there.
    pub subject: Subject,
}

impl Identity {
    /// The identity of a node.
    #[must_use]
    pub fn node(cluster: ClusterId, id: NodeId) -> Identity {
        Identity { cluster, subject: Subject::Node(id) }
    }

    /// The identity of a client.
    ///
    /// # Errors
    /// When `name` is not 1 to 63 characters of `a`–`z`, `0`–`9` and `-`.
    pub fn client(cluster: ClusterId, name: impl Into<String>) -> Result<Identity, IdentityError> {
        let name = name.into();
        if is_name(&name) {
            Ok(Identity { cluster, subject: Subject::Client(name) })
        } else {
            Err(IdentityError::ClientName { name })
        }
    }

    /// The role of the subject.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.subject {
            Subject::Node(_) => Role::Node,
            Subject::Client(_) => Role::Client,
        }
    }

    /// The node's number, if it is a node.
    #[must_use]
    pub fn node_id(&self) -> Option<NodeId> {
        match self.subject {
            Subject::Node(id) => Some(id),
            Subject::Client(_) => None,
        }
    }

    /// Reads the identity out of a certificate.
    ///
    /// # Errors
    /// When the certificate does not parse, or does not carry exactly one `raftkv://` URI, or the URI is malformed.
    pub fn from_certificate(der: &[u8]) -> Result<Identity, IdentityError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::Certificate)?;
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Certificate)?;
        let mut uris = names.iter().flat_map(|extension| &extension.value.general_names).filter_map(uri_of);
        let uri = uris.next().ok_or(IdentityError::Missing)?;
        if uris.next().is_some() {
            return Err(IdentityError::Several);
        }
        uri.parse()
    }
}

fn uri_of<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    if let GeneralName::URI(uri) = name { uri.starts_with(SCHEME).then_some(*uri) } else { None }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Node(id) => write!(f, "{SCHEME}{}/node/{id}", self.cluster),
            Subject::Client(name) => write!(f, "{SCHEME}{}/client/{name}", self.cluster),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Identity, IdentityError> {
        let malformed = || IdentityError::Uri { uri: uri.to_owned() };
        let mut parts = uri.strip_prefix(SCHEME).ok_or_else(malformed)?.split('/');
        let (Some(cluster), Some(role), Some(id), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        let cluster = ClusterId::new(cluster)?;
        match role {
            "node" => {
                let number: u64 = id.parse().map_err(|_| malformed())?;
                // `parse` also takes "+7" and "007": only the canonical text is an identity.
                if number == 0 || number.to_string() != id {
                    return Err(malformed());
                }
                Ok(Identity::node(cluster, NodeId(number)))
            }
            "client" => Identity::client(cluster, id),
            _ => Err(malformed()),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Why something is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a cluster name.
    #[error("\"{name}\" is not a cluster name: use 1 to 63 characters of a-z, 0-9 and -")]
    ClusterName {
        /// What was given.
        name: String,
    },
    /// Not a client name.
    #[error("\"{name}\" is not a client name: use 1 to 63 characters of a-z, 0-9 and -")]
    ClientName {
        /// What was given.
        name: String,
    },
    /// A URI of our scheme that does not parse.
    #[error(
        "\"{uri}\" is not an identity: expected raftkv://<cluster>/node/<number> or raftkv://<cluster>/client/<name>"
    )]
    Uri {
        /// The URI.
        uri: String,
    },
    /// The certificate itself does not parse.
    #[error("the certificate is malformed")]
    Certificate,
    /// No identity.
    #[error("the certificate carries no raftkv:// identity")]
    Missing,
    /// More than one identity.
    #[error("the certificate carries more than one raftkv:// identity")]
    Several,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn identities_survive_the_way_through_text() {
        for uri in ["raftkv://main/node/1", "raftkv://main/node/18446744073709551615", "raftkv://a-9/client/admin"] {
            assert_eq!(uri.parse::<Identity>().unwrap().to_string(), uri);
        }
    }

    #[test]
    fn anything_but_the_one_spelling_is_refused() {
        for uri in [
            "",
            "raftkv://",
            "raftkv://main",
            "raftkv://main/node",
            "raftkv://main/node/",
            "raftkv://main/node/0",
            "raftkv://main/node/01",
            "raftkv://main/node/+1",
            "raftkv://main/node/-1",
            "raftkv://main/node/18446744073709551616",
            "raftkv://main/node/1/",
            "raftkv://main/node/1?x",
            "raftkv://Main/node/1",
            "raftkv://main/Node/1",
            "raftkv://main/root/1",
            "raftkv://main/client/",
            "raftkv://main/client/a b",
            "raftkv:///node/1",
            "https://main/node/1",
            " raftkv://main/node/1",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri:?} was taken for an identity");
        }
    }

    #[test]
    fn names_have_a_longest_length() {
        assert!(ClusterId::new("a".repeat(63)).is_ok());
        assert!(ClusterId::new("a".repeat(64)).is_err());
        assert!(ClusterId::new("").is_err());
    }
}

//! From settings to a client: a new one, or in a shell the one that the session has.

use crate::arguments::Globals;
use crate::failure::{Code, Failure};
use crate::session::Settings;
use client::{BuildError, Builder, Client, CredentialPaths, Credentials};
use std::path::{Path, PathBuf};

const SET_UP: &str =
    "raftkv-cli context add NAME --from DIR, or . DIR/env: DIR is what `raftkv demo` or `raftkv init` wrote";

/// A client with one connection to each node.
pub(crate) fn client(globals: &Globals) -> Result<Client, Failure> {
    client_with_connections(globals, 1)
}

/// A client with so many connections to each node.
pub(crate) fn client_with_connections(globals: &Globals, connections: usize) -> Result<Client, Failure> {
    let build = || builder(globals, connections)?.build().map_err(|error| build_failure(&error));
    match &globals.session {
        Some(session) => session.client(Settings::of(globals, connections), build),
        None => build(),
    }
}

/// The same, with writes that go without a session: as many at once as anybody likes.
pub(crate) fn client_without_session(globals: &Globals, connections: usize) -> Result<Client, Failure> {
    builder(globals, connections)?.without_session().build().map_err(|error| build_failure(&error))
}

fn builder(globals: &Globals, connections: usize) -> Result<Builder, Failure> {
    let endpoints = endpoints(globals);
    if endpoints.is_empty() {
        let cause = "no endpoint: use a context, give --endpoints HOST:PORT, or set RAFTKV_ENDPOINTS";
        return Err(Failure::usage(cause).with_next(SET_UP));
    }
    let credentials = credentials(globals).map_err(|failure| failure.at(endpoints.join(",")))?;
    let builder = Client::builder().endpoints(endpoints).credentials(credentials).timeout(globals.timeout);
    Ok(builder.connections(connections))
}

/// The endpoints given; an empty variable is as good as none.
pub(crate) fn endpoints(globals: &Globals) -> Vec<String> {
    let given = globals.endpoints.iter().map(|endpoint| endpoint.trim());
    given.filter(|endpoint| !endpoint.is_empty()).map(str::to_owned).collect()
}

/// Who was asked, for a failure that several answers together come to.
pub(crate) fn asked(globals: &Globals) -> String {
    endpoints(globals).join(",")
}

fn credentials(globals: &Globals) -> Result<Credentials, Failure> {
    let paths = CredentialPaths {
        authority: path("the CA certificate", "--ca", "RAFTKV_CA", globals.ca.as_deref())?,
        certificate: path("the client's certificate", "--cert", "RAFTKV_CERT", globals.cert.as_deref())?,
        key: path("the client's key", "--key", "RAFTKV_KEY", globals.key.as_deref())?,
    };
    Credentials::load(&paths).map_err(|error| Failure::new(Code::Permission, error.to_string()).with_next(SET_UP))
}

/// There is no way in without a certificate, so a missing one is a matter of permission.
fn path(what: &str, flag: &str, variable: &str, given: Option<&Path>) -> Result<PathBuf, Failure> {
    match given {
        Some(path) if !path.as_os_str().is_empty() => Ok(path.to_owned()),
        Some(_) | None => {
            let cause = format!("{what} is not given: every connection needs one; give {flag} FILE or set {variable}");
            Err(Failure::new(Code::Permission, cause).with_next(SET_UP))
        }
    }
}

fn build_failure(error: &BuildError) -> Failure {
    match error {
        BuildError::NoCredentials => Failure::new(Code::Permission, error.to_string()).with_next(SET_UP),
        BuildError::NoEndpoint
        | BuildError::TooManyEndpoints { .. }
        | BuildError::Endpoint { .. }
        | BuildError::NoTime
        | BuildError::Connections { .. } => Failure::usage(error.to_string()).with_next("raftkv-cli --help"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn no_endpoint_is_a_usage_error_that_names_the_variable() {
        for none in [Globals::of(&[]), Globals::of(&[""]), Globals::of(&[" "])] {
            let failure = client(&none).unwrap_err();
            assert_eq!(failure.code, Code::Usage);
            let text = failure.to_string();
            assert!(text.contains("RAFTKV_ENDPOINTS") && text.contains(". DIR/env"), "{text}");
        }
    }

    #[test]
    fn no_certificate_is_a_matter_of_permission() {
        let mut globals = Globals::of(&["n1:1"]);
        let failure = client(&globals).unwrap_err();
        assert_eq!((failure.code, failure.endpoint.as_deref()), (Code::Permission, Some("n1:1")));
        assert!(failure.cause.contains("RAFTKV_CA"), "{failure}");
        globals.ca = Some("ca.pem".into());
        globals.cert = Some(PathBuf::new());
        assert!(client(&globals).unwrap_err().cause.contains("RAFTKV_CERT"));
    }

    #[test]
    fn an_unreadable_certificate_is_named() {
        let missing = || Some(PathBuf::from("/nonexistent/raftkv.pem"));
        let globals = Globals { ca: missing(), cert: missing(), key: missing(), ..Globals::of(&["n1:1"]) };
        let failure = client(&globals).unwrap_err();
        assert_eq!(failure.code, Code::Permission);
        assert!(failure.cause.contains("/nonexistent/raftkv.pem"), "{failure}");
    }
}

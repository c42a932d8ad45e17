//! What every example begins with.

use raftkv_client::{Builder, Client, CredentialPaths, Credentials};
use std::env;
use std::error::Error;

/// A client of the cluster that the environment names.
pub(crate) fn connect() -> Result<Client, Box<dyn Error>> {
    Ok(builder()?.build()?)
}

/// The same, for settings of one's own: endpoints and credentials from `RAFTKV_ENDPOINTS`, `RAFTKV_CA`, `RAFTKV_CERT` and `RAFTKV_KEY`, as
/// `raftkv init` and `raftkv demo` write them into a file `env`.
pub(crate) fn builder() -> Result<Builder, Box<dyn Error>> {
    let variable = |name: &str| env::var(name).map_err(|_| format!("{name} is not set; run `. demo/env` first"));
    let credentials = Credentials::load(&CredentialPaths {
        authority: variable("RAFTKV_CA")?.into(),
        certificate: variable("RAFTKV_CERT")?.into(),
        key: variable("RAFTKV_KEY")?.into(),
    })?;
    let endpoints = variable("RAFTKV_ENDPOINTS")?;
    Ok(Client::builder().endpoints(endpoints.split(',')).credentials(credentials))
}

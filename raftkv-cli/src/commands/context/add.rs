//! `context add`: keep what leads to a cluster under a name.
//!
//! Everything is checked before it is kept: the certificates are read and must belong together, the endpoints must be addresses. The cluster
//! itself is not asked: it may be down, or out of reach from here.

use super::{tell, tell_of_environment};
use crate::arguments::Globals;
use crate::connect;
use crate::contexts::{Context, Contexts, check_name};
use crate::environment_file::{self, EnvironmentFile, addresses};
use crate::failure::{Code, Failure, quoted};
use crate::settings::{is_path, without_environment};
use clap::Args;
use std::path::{Path, PathBuf};

/// Keep a cluster under a name
///
/// --from takes the settings from the file `env` in a directory that `raftkv demo` or `raftkv init` wrote; without it they come from the
/// environment. --endpoints, --ca, --cert and --key win over both. Paths are made absolute and the certificates are checked; the cluster is
/// not asked. The first context is in use at once.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli context add demo --from /tmp/demo
  raftkv-cli context add prod --use --endpoints 10.0.0.1:7420,10.0.0.2:7420 \\
      --ca out/admin/ca.crt --cert out/admin/client.crt --key out/admin/client.key")]
pub(crate) struct AddArguments {
    /// What to call it: letters, digits, `-`, `_` and `.`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The directory with a file `env`, or `admin/env`, or such a file
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<PathBuf>,
    /// Where the nodes' status pages are, for other programs; `context show` tells it
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub(crate) http: Vec<String>,
    /// Use it from here on
    #[arg(long = "use")]
    pub(crate) use_it: bool,
    /// Replace a context of that name
    #[arg(long)]
    pub(crate) replace: bool,
}

pub(super) fn run(arguments: AddArguments, globals: &Globals) -> Result<(), Failure> {
    check_name(&arguments.name)
        .map_err(|problem| Failure::usage(problem).with_next("raftkv-cli context add NAME, such as prod or eu-1"))?;
    let (settings, http) = settings(&arguments, globals)?;
    if connect::endpoints(&settings).is_empty() {
        return Err(Failure::usage("no endpoint is given, and the environment has none")
            .with_next("--from DIR, or --endpoints with --ca, --cert and --key"));
    }
    // Making a client reads the certificates and looks at the addresses; nothing is dialled.
    connect::client(&settings)?;
    let context = Context {
        endpoints: connect::endpoints(&settings),
        ca: absolute(settings.ca.as_deref())?,
        cert: absolute(settings.cert.as_deref())?,
        key: absolute(settings.key.as_deref())?,
        http,
    };
    let AddArguments { name, use_it, replace, .. } = arguments;
    let in_use = Contexts::change(&Contexts::path()?, |contexts| {
        if contexts.contexts.contains_key(&name) && !replace {
            return Err(
                Failure::usage(format!("there is a context {name} already")).with_next("another name, or --replace")
            );
        }
        if use_it || contexts.contexts.is_empty() {
            contexts.current = Some(name.clone());
        }
        let in_use = contexts.current.as_ref() == Some(&name);
        contexts.contexts.insert(name.clone(), context);
        Ok(in_use)
    })?;
    if in_use {
        tell(&format!("context {name} is added and in use"));
        tell_of_environment();
    } else {
        tell(&format!("context {name} is added; raftkv-cli context use {name}, to use it from here on"));
    }
    Ok(())
}

/// The four settings, and where the status pages are.
fn settings(arguments: &AddArguments, globals: &Globals) -> Result<(Globals, Vec<String>), Failure> {
    // A client that is made to check settings is none of a shell's.
    let globals = Globals { session: None, ..globals.clone() };
    let given_http = (!arguments.http.is_empty()).then(|| arguments.http.clone());
    let Some(from) = &arguments.from else {
        let variable = std::env::var("RAFTKV_HTTP").unwrap_or_default();
        return Ok((globals, given_http.unwrap_or_else(|| addresses(&variable))));
    };
    let EnvironmentFile { endpoints, ca, cert, key, http } = environment_file::read(from)?;
    let mut globals = without_environment(globals);
    if globals.endpoints.is_empty() {
        globals.endpoints = endpoints;
    }
    for (setting, found) in [(&mut globals.ca, ca), (&mut globals.cert, cert), (&mut globals.key, key)] {
        if !is_path(setting.as_deref()) {
            *setting = found;
        }
    }
    Ok((globals, given_http.unwrap_or(http)))
}

fn absolute(path: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = path.expect("a client was made with it");
    let absolute = std::path::absolute(path).map_err(|cause| Failure::io(&path.display().to_string(), &cause))?;
    if absolute.to_str().is_none() {
        let shown = quoted(absolute.as_os_str());
        return Err(Failure::new(Code::Usage, format!("{shown} is no UTF-8, and a file of contexts is"))
            .with_next("a directory with another name"));
    }
    Ok(absolute)
}

//! Which cluster a command speaks to, and as whom: a flag wins over the environment, the environment over the context.
//!
//! Four settings make a connection: the endpoints, the CA's certificate, the client's certificate and its key. Each is looked for by itself,
//! so a flag can replace one and leave the others. A context that is named on the command line counts as flags: whoever writes
//! `--context prod` means that cluster, whatever a file that was sourced an hour ago has left in the environment. A context that
//! `RAFTKV_CONTEXT` names, or that is the current one, fills in what flags and environment leave open.
//!
//! The file of contexts is not even opened where nothing is left open: a damaged one hinders nobody who does not need it.

use crate::arguments::Globals;
use crate::contexts::{Contexts, unknown};
use crate::failure::Failure;
use clap::ArgMatches;
use clap::parser::ValueSource;
use std::path::{Path, PathBuf};

/// The variables of the environment that hold the four settings.
pub(crate) const VARIABLES: [&str; 4] = ["RAFTKV_ENDPOINTS", "RAFTKV_CA", "RAFTKV_CERT", "RAFTKV_KEY"];

/// Which global options stood on the command line. What did not is the environment's, a default, or not there.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Given {
    endpoints: bool,
    ca: bool,
    cert: bool,
    key: bool,
    timeout: bool,
    output: bool,
    context: bool,
}

impl Given {
    /// Reads it off what was parsed.
    pub(crate) fn of(matches: &ArgMatches) -> Given {
        let given = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        Given {
            endpoints: given("endpoints"),
            ca: given("ca"),
            cert: given("cert"),
            key: given("key_file"),
            timeout: given("timeout"),
            output: given("output"),
            context: given("context"),
        }
    }
}

/// Refuses an option that says which cluster is meant and is empty: a variable of a script that was not set. Passing it over would send the
/// command to whatever cluster the environment or the context in use names. An empty variable of our own is something else: that is how
/// one is unset for a single command.
///
/// # Errors
/// Usage.
pub(crate) fn check_given(globals: &Globals) -> Result<(), Failure> {
    let given = globals.given;
    let empty = [
        ("--context", "NAME", given.context && globals.context.as_deref().is_some_and(str::is_empty)),
        ("--endpoints", "HOST:PORT", given.endpoints && is_blank(&globals.endpoints)),
        ("--ca", "FILE", given.ca && !is_path(globals.ca.as_deref())),
        ("--cert", "FILE", given.cert && !is_path(globals.cert.as_deref())),
        ("--key", "FILE", given.key && !is_path(globals.key.as_deref())),
    ];
    match empty.into_iter().find(|(_, _, is_empty)| *is_empty) {
        Some((flag, value, _)) => Err(Failure::usage(format!("{flag} is empty"))
            .with_next(format!("{flag} {value}; without {flag}, the environment and the context in use decide"))),
        None => Ok(()),
    }
}

/// Fills in from the context what flags and environment leave open. `context` is then the one that the endpoints are from.
///
/// # Errors
/// Usage, when a context is named that there is not, or when the file of contexts cannot be read. No context at all is no error here.
pub(crate) fn complete(globals: Globals) -> Result<Globals, Failure> {
    let globals = if globals.given.context { without_environment(globals) } else { globals };
    let is_named = globals.context.as_deref().is_some_and(|name| !name.is_empty());
    if !is_named && is_complete(&globals) {
        return Ok(Globals { context: None, ..globals });
    }
    let contexts = match Contexts::path() {
        Ok(path) => Contexts::read(&path)?,
        Err(failure) if is_named => return Err(failure),
        Err(_) => Contexts::default(),
    };
    fill_in(globals, &contexts)
}

fn fill_in(mut globals: Globals, contexts: &Contexts) -> Result<Globals, Failure> {
    let named = globals.context.take().filter(|name| !name.is_empty());
    let Some(name) = named.or_else(|| contexts.current.clone()) else { return Ok(globals) };
    let context = contexts.contexts.get(&name).ok_or_else(|| unknown(contexts, &name))?;
    if is_blank(&globals.endpoints) {
        globals.endpoints.clone_from(&context.endpoints);
        globals.context = Some(name);
    }
    for (setting, stored) in
        [(&mut globals.ca, &context.ca), (&mut globals.cert, &context.cert), (&mut globals.key, &context.key)]
    {
        if !is_path(setting.as_deref()) {
            *setting = Some(stored.clone());
        }
    }
    Ok(globals)
}

/// What stood on the command line alone, of the four settings.
pub(crate) fn without_environment(mut globals: Globals) -> Globals {
    let given = globals.given;
    if !given.endpoints {
        globals.endpoints.clear();
    }
    let keep = |setting: Option<PathBuf>, is_given: bool| setting.filter(|_| is_given);
    globals.ca = keep(globals.ca, given.ca);
    globals.cert = keep(globals.cert, given.cert);
    globals.key = keep(globals.key, given.key);
    globals
}

/// The settings of one line of a shell: its own flags, and the session's for what it leaves out. A context that the line names takes the
/// place of all that the session knows of its cluster.
pub(crate) fn of_line(session: &Globals, line: Globals) -> Globals {
    let given = line.given;
    let mut merged = Globals { session: session.session.clone(), verbose: line.verbose || session.verbose, ..line };
    if !given.timeout {
        merged.timeout = session.timeout;
    }
    if !given.output {
        merged.output = session.output;
    }
    if given.context {
        return merged;
    }
    merged.context = None;
    if !given.endpoints {
        merged.endpoints.clone_from(&session.endpoints);
    }
    if !given.ca {
        merged.ca.clone_from(&session.ca);
    }
    if !given.cert {
        merged.cert.clone_from(&session.cert);
    }
    if !given.key {
        merged.key.clone_from(&session.key);
    }
    merged
}

fn is_complete(globals: &Globals) -> bool {
    let paths = [&globals.ca, &globals.cert, &globals.key];
    !is_blank(&globals.endpoints) && paths.iter().all(|path| is_path(path.as_deref()))
}

/// Whether no endpoint is given; an empty variable is as good as none.
fn is_blank(endpoints: &[String]) -> bool {
    endpoints.iter().all(|endpoint| endpoint.trim().is_empty())
}

/// Whether a path is given; an empty variable is as good as none.
pub(crate) fn is_path(given: Option<&Path>) -> bool {
    given.is_some_and(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::contexts::Context;
    use crate::failure::Code;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn contexts() -> Contexts {
        let context = |name: &str| Context {
            endpoints: vec![format!("{name}:7420")],
            ca: format!("/{name}/ca.crt").into(),
            cert: format!("/{name}/client.crt").into(),
            key: format!("/{name}/client.key").into(),
            http: Vec::new(),
        };
        let contexts = ["prod", "test"].map(|name| (name.to_owned(), context(name)));
        Contexts { current: Some("prod".to_owned()), contexts: BTreeMap::from(contexts) }
    }

    #[test]
    fn the_current_context_fills_in_what_is_left_open() {
        let filled = fill_in(Globals { ca: Some("/own/ca.crt".into()), ..Globals::of(&[" "]) }, &contexts()).unwrap();
        assert_eq!((filled.endpoints[0].as_str(), filled.context.as_deref()), ("prod:7420", Some("prod")));
        assert_eq!((filled.ca.unwrap(), filled.key.unwrap()), ("/own/ca.crt".into(), "/prod/client.key".into()));
        let own = fill_in(Globals::of(&["n1:1"]), &contexts()).unwrap();
        assert_eq!((own.endpoints[0].as_str(), own.context), ("n1:1", None));
    }

    #[test]
    fn a_context_named_by_flag_wins_over_the_environment_and_not_over_other_flags() {
        let mut named =
            Globals { context: Some("test".into()), ca: Some("/env/ca.crt".into()), ..Globals::of(&["env:1"]) };
        named.given = Given { context: true, ..Given::default() };
        let filled = fill_in(without_environment(named.clone()), &contexts()).unwrap();
        assert_eq!((filled.endpoints[0].as_str(), filled.ca.unwrap()), ("test:7420", "/test/ca.crt".into()));
        named.given.endpoints = true;
        let filled = fill_in(without_environment(named), &contexts()).unwrap();
        assert_eq!((filled.endpoints[0].as_str(), filled.key.unwrap()), ("env:1", "/test/client.key".into()));
    }

    #[test]
    fn an_empty_option_is_refused_and_an_empty_variable_is_none() {
        let empty = || Globals {
            context: Some(String::new()),
            ca: Some(PathBuf::new()),
            cert: Some(PathBuf::new()),
            key: Some(PathBuf::new()),
            ..Globals::of(&[""])
        };
        assert_eq!(check_given(&empty()), Ok(()), "the environment gave all of it");
        assert_eq!(fill_in(empty(), &contexts()).unwrap().context.as_deref(), Some("prod"));
        let none = Given::default();
        for (flag, given) in [
            ("--context", Given { context: true, ..none }),
            ("--endpoints", Given { endpoints: true, ..none }),
            ("--ca", Given { ca: true, ..none }),
            ("--cert", Given { cert: true, ..none }),
            ("--key", Given { key: true, ..none }),
        ] {
            let failure = check_given(&Globals { given, ..empty() }).unwrap_err();
            assert_eq!((failure.code, failure.cause), (Code::Usage, format!("{flag} is empty")));
        }
    }

    #[test]
    fn an_unknown_context_is_a_usage_error_that_names_the_known_ones() {
        let failure = fill_in(Globals { context: Some("pord".into()), ..Globals::of(&[]) }, &contexts()).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.to_string().contains("did you mean `prod`?"), "{failure}");
    }

    #[test]
    fn a_line_of_the_shell_keeps_the_settings_of_the_session_but_for_its_own_flags() {
        let session = Globals { key: Some("/session/key".into()), ..Globals::of(&["session:1"]) };
        let mut line = Globals { timeout: Duration::from_secs(9), ..Globals::of(&["env:1"]) };
        let merged = of_line(&session, line.clone());
        assert_eq!((merged.endpoints[0].as_str(), merged.timeout), ("session:1", Duration::from_secs(1)));
        line.given = Given { timeout: true, endpoints: true, ..Given::default() };
        let merged = of_line(&session, line.clone());
        assert_eq!((merged.endpoints[0].as_str(), merged.timeout), ("env:1", Duration::from_secs(9)));
        assert_eq!(merged.key, Some("/session/key".into()));
        line = Globals { context: Some("test".into()), ..line };
        line.given = Given { context: true, ..Given::default() };
        let merged = fill_in(without_environment(of_line(&session, line)), &contexts()).unwrap();
        assert_eq!((merged.endpoints[0].as_str(), merged.key.unwrap()), ("test:7420", "/test/client.key".into()));
    }
}

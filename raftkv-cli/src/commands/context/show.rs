//! `context show`: one context, for people, for programs, or as lines for a shell.

use super::tell_of_environment;
use crate::arguments::Globals;
use crate::contexts::{Context, Contexts, unknown};
use crate::failure::Failure;
use crate::output::{Format, Output, table, write_table};
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, Write};

/// Show a context: the one named, or the one in use
///
/// -o plain writes lines that set the environment of a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli context show
  eval \"$(raftkv-cli context show prod -o plain)\"")]
pub(crate) struct ShowArguments {
    /// The context's name
    #[arg(id = "context_name", value_name = "NAME")]
    pub(crate) name: Option<String>,
}

pub(super) fn run(arguments: &ShowArguments, globals: &Globals) -> Result<(), Failure> {
    let contexts = Contexts::read(&Contexts::path()?)?;
    let named = arguments.name.as_ref().or(globals.context.as_ref().filter(|name| !name.is_empty()));
    let name = named.or(contexts.current.as_ref()).ok_or_else(none_in_use)?;
    let context = contexts.contexts.get(name).ok_or_else(|| unknown(&contexts, name))?;
    let mut output = Output::standard();
    output.write(|out| print(out, name, context, globals.output.unwrap_or(Format::Table)))?;
    output.finish()?;
    if named.is_none() {
        tell_of_environment();
    }
    Ok(())
}

fn none_in_use() -> Failure {
    Failure::usage("no context is in use").with_next("raftkv-cli context list, then: raftkv-cli context use NAME")
}

fn print(out: &mut dyn Write, name: &str, context: &Context, format: Format) -> io::Result<()> {
    let Context { endpoints, ca, cert, key, http } = context;
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let settings = [
        ("RAFTKV_ENDPOINTS", "endpoints", endpoints.join(",")),
        ("RAFTKV_CA", "ca", path(ca)),
        ("RAFTKV_CERT", "cert", path(cert)),
        ("RAFTKV_KEY", "key", path(key)),
        ("RAFTKV_HTTP", "http", http.join(",")),
    ];
    let settings = settings.iter().filter(|(_, _, value)| !value.is_empty());
    match format {
        Format::Table => {
            let mut rows = table(&[]);
            rows.add_row(["name", name]);
            rows.add_rows(settings.map(|(_, field, value)| [*field, value]));
            write_table(out, &rows)
        }
        Format::Json => writeln!(out, "{}", object(name, context)),
        Format::Plain => settings
            .into_iter()
            .try_for_each(|(variable, _, value)| writeln!(out, "export {variable}={}", shell_words::quote(value))),
    }
}

pub(super) fn object(name: &str, context: &Context) -> Value {
    let Context { endpoints, ca, cert, key, http } = context;
    json!({ "name": name, "endpoints": endpoints, "ca": ca, "cert": cert, "key": key, "http": http })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn plain_lines_are_what_a_shell_takes() {
        let context = Context {
            endpoints: vec!["n1:1".into(), "[::1]:2".into()],
            ca: "/it's/ca.crt".into(),
            cert: "/c/client.crt".into(),
            key: "/c/client.key".into(),
            http: Vec::new(),
        };
        let mut out = Vec::new();
        print(&mut out, "prod", &context, Format::Plain).unwrap();
        let text = String::from_utf8(out).unwrap();
        let words = shell_words::split(&text).unwrap();
        assert!(words.contains(&"RAFTKV_CA=/it's/ca.crt".to_owned()), "{text}");
        assert!(words.contains(&"RAFTKV_ENDPOINTS=n1:1,[::1]:2".to_owned()), "{text}");
        assert!(!text.contains("RAFTKV_HTTP"), "{text}");
    }
}

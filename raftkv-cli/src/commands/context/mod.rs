//! `context`: clusters by name.
//!
//! What a context is and where it is kept: [`crate::contexts`]. Which settings win: [`crate::settings`].

mod add;
mod show;

use crate::arguments::Globals;
use crate::contexts::{Contexts, unknown};
use crate::failure::Failure;
use crate::output::{Format, Output, table, write_table};
use crate::settings::VARIABLES;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::{self, Write};

/// What to do with contexts.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    Add(add::AddArguments),
    /// Use a context from here on
    Use(NameArguments),
    /// List the contexts; `*` marks the one in use
    List,
    Show(show::ShowArguments),
    /// Remove a context; its certificates stay where they are
    Remove(NameArguments),
}

/// Which context.
#[derive(Debug, Args)]
pub(crate) struct NameArguments {
    /// The context's name
    #[arg(id = "context_name", value_name = "NAME")]
    pub(crate) name: String,
}

pub(crate) fn run(command: ContextCommand, globals: &Globals) -> Result<(), Failure> {
    match command {
        ContextCommand::Add(arguments) => add::run(arguments, globals),
        ContextCommand::Use(NameArguments { name }) => use_context(&name),
        ContextCommand::List => list(globals),
        ContextCommand::Show(arguments) => show::run(&arguments, globals),
        ContextCommand::Remove(NameArguments { name }) => remove(&name),
    }
}

fn use_context(name: &str) -> Result<(), Failure> {
    Contexts::change(&Contexts::path()?, |contexts| {
        if !contexts.contexts.contains_key(name) {
            return Err(unknown(contexts, name));
        }
        contexts.current = Some(name.to_owned());
        Ok(())
    })?;
    tell(&format!("context {name} is in use"));
    tell_of_environment();
    Ok(())
}

fn remove(name: &str) -> Result<(), Failure> {
    let was_current = Contexts::change(&Contexts::path()?, |contexts| {
        if contexts.contexts.remove(name).is_none() {
            return Err(unknown(contexts, name));
        }
        let was_current = contexts.current.as_deref() == Some(name);
        if was_current {
            contexts.current = None;
        }
        Ok(was_current)
    })?;
    tell(&format!("context {name} is removed{}", if was_current { "; no context is in use any more" } else { "" }));
    Ok(())
}

fn list(globals: &Globals) -> Result<(), Failure> {
    let contexts = Contexts::read(&Contexts::path()?)?;
    let mut output = Output::standard();
    output.write(|out| print(out, &contexts, globals.output.unwrap_or(Format::Table)))?;
    output.finish()?;
    if contexts.contexts.is_empty() {
        tell("there are no contexts; raftkv-cli context add NAME --from DIR makes one");
    }
    Ok(())
}

fn print(out: &mut dyn Write, contexts: &Contexts, format: Format) -> io::Result<()> {
    let is_current = |name: &String| contexts.current.as_ref() == Some(name);
    let mut rows = table(&["", "NAME", "ENDPOINTS"]);
    for (name, context) in &contexts.contexts {
        let row = [if is_current(name) { "*" } else { "" }, name, &context.endpoints.join(",")];
        match format {
            Format::Table => {
                rows.add_row(row);
            }
            Format::Plain => writeln!(out, "{}", row.join("\t"))?,
            Format::Json => {
                let mut object = show::object(name, context);
                object["current"] = json!(is_current(name));
                writeln!(out, "{object}")?;
            }
        }
    }
    if format == Format::Table && !contexts.contexts.is_empty() { write_table(out, &rows) } else { Ok(()) }
}

/// A remark beside the data.
fn tell(text: &str) {
    // Where standard error is closed there is nobody to tell.
    let _told = writeln!(io::stderr(), "{text}");
}

/// Says so where the context in use is without effect: a file that was sourced is easily forgotten.
fn tell_of_environment() {
    let set: Vec<&str> = VARIABLES
        .into_iter()
        .filter(|variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty()))
        .collect();
    if !set.is_empty() {
        tell(&format!(
            "the environment sets {} and wins over the context in use; --context NAME wins over both",
            set.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::contexts::Context;
    use std::collections::BTreeMap;

    #[test]
    fn the_list_marks_the_context_in_use() {
        let context = Context {
            endpoints: vec!["n1:1".into(), "n2:1".into()],
            ca: "/ca.crt".into(),
            cert: "/client.crt".into(),
            key: "/client.key".into(),
            http: Vec::new(),
        };
        let contexts = Contexts {
            current: Some("b".into()),
            contexts: BTreeMap::from([("a".to_owned(), context.clone()), ("b".to_owned(), context)]),
        };
        let printed = |contexts, format| {
            let mut out = Vec::new();
            print(&mut out, contexts, format).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(printed(&contexts, Format::Plain), "\ta\tn1:1,n2:1\n*\tb\tn1:1,n2:1\n");
        let json = printed(&contexts, Format::Json);
        let second: serde_json::Value = serde_json::from_str(json.lines().nth(1).unwrap()).unwrap();
        assert_eq!((&second["name"], &second["current"]), (&json!("b"), &json!(true)));
        assert_eq!(printed(&Contexts::default(), Format::Table), "");
    }
}

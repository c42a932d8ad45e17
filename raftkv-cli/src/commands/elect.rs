//! `elect`: stand for election, or watch who leads.

use crate::arguments::{self, Globals};
use crate::connect;
use crate::failure::{Code, Failure, quoted};
use crate::interrupt::{self, tell};
use crate::output::{Format, Output, printable};
use crate::record;
use crate::source::bytes_of;
use clap::Args;
use client::{Client, Elected, Election, ElectionError, Error};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

/// Columns of what a leader has to say, on a terminal.
const SHOWN_MAX: usize = 200;

/// Stand for election and lead until Ctrl-C, or watch who leads
///
/// Waits until the election is won, prints the fencing token, and leads until Ctrl-C. Ends with 5 if the cluster could not be reached or this
/// program stood still for the time of --ttl, and with 3 if the cluster has ended it: then somebody else may lead.
///
/// With --observe, stands for nothing and takes no VALUE: prints who leads and what they have to say, `TOKEN<tab>VALUE`, now and whenever that
/// changes; an empty line when nobody leads. A candidate's output is its own token alone, so that a script knows what it has read; to watch as
/// well, run both.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli elect scheduler 10.0.0.7:9000
  raftkv-cli elect scheduler --observe -o json")]
pub(crate) struct ElectArguments {
    /// The name of the election; its keys begin with NAME/@
    #[arg(value_name = "NAME", value_parser = arguments::name())]
    pub(crate) name: OsString,
    /// What to say as the leader: where to reach it, usually
    #[arg(value_name = "VALUE", required_unless_present = "observe")]
    pub(crate) value: Option<OsString>,
    /// Watch who leads, without standing for election
    #[arg(long)]
    pub(crate) observe: bool,
    /// How long leadership outlives this program if that is killed, like 10s
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = arguments::ttl)]
    pub(crate) ttl: Duration,
}

pub(crate) async fn run(arguments: ElectArguments, globals: &Globals) -> Result<(), Failure> {
    if arguments.observe && arguments.value.is_some() {
        let name = quoted(&arguments.name);
        return Err(Failure::usage("--observe watches an election and does not stand for it, so it takes no VALUE")
            .with_next(format!(
                "raftkv-cli elect {name} --observe, to watch; raftkv-cli elect {name} VALUE, to stand for it; for both, one beside the other"
            )));
    }
    let client = connect::client(globals)?;
    let outcome = match arguments.value.clone() {
        Some(value) => lead(&client, &arguments, value, globals).await,
        None => observe(&client, &arguments, globals).await,
    };
    client.close_session().await;
    outcome
}

async fn lead(client: &Client, arguments: &ElectArguments, value: OsString, globals: &Globals) -> Result<(), Failure> {
    let election = Election::new(bytes_of(arguments.name.clone())).ttl(arguments.ttl);
    let won = client.campaign_unless(election, bytes_of(value.clone()), interrupt::interrupted()).await;
    let won = won.map_err(|error| match error {
        ElectionError::Request(error) => error.into(),
        ElectionError::Lost(loss) => Failure::of_lost_place("the candidacy", &loss, connect::asked(globals)),
    })?;
    let interrupted = || Failure::new(Code::Interrupted, "interrupted before the election was won");
    let leadership = won.ok_or_else(interrupted)?;
    let elected = Elected { value: bytes_of(value), key: leadership.key().clone(), token: leadership.token() };
    let mut output = Output::standard();
    output.write(|out| match globals.output {
        Some(Format::Json) => print(out, Some(&elected), Format::Json),
        Some(Format::Table | Format::Plain) | None => writeln!(out, "{}", elected.token),
    })?;
    output.finish()?;
    tell("elected; Ctrl-C resigns");
    let outcome = tokio::select! {
        loss = leadership.lost() => {
            let what = format!("election {}", quoted(&arguments.name));
            Err(Failure::of_lost_place(&what, &loss, connect::asked(globals)))
        }
        ended = interrupt::interrupted() => ended,
    };
    if !leadership.is_lost() {
        match leadership.resign().await {
            // That it has ended already is what is wanted.
            Ok(_) | Err(Error::LeaseUnknown { .. }) => {}
            Err(error) => {
                tell(&format!(
                    "leadership could not be given up, and ends by itself within {:?}: {error}",
                    arguments.ttl
                ));
            }
        }
    }
    outcome
}

async fn observe(client: &Client, arguments: &ElectArguments, globals: &Globals) -> Result<(), Failure> {
    let mut observer = client.observe(bytes_of(arguments.name.clone()))?;
    let mut output = Output::standard();
    let default = if output.is_terminal() { Format::Table } else { Format::Plain };
    let format = globals.output.unwrap_or(default);
    loop {
        let elected = tokio::select! {
            elected = observer.next() => elected?,
            ended = interrupt::interrupted() => return ended,
        };
        output.write(|out| print(out, elected.as_ref(), format))?;
        output.flush()?;
    }
}

fn print(out: &mut dyn Write, elected: Option<&Elected>, format: Format) -> io::Result<()> {
    match (format, elected) {
        (Format::Json, elected) => writeln!(out, "{}", elected.map_or(Value::Null, to_json)),
        (Format::Plain, None) => writeln!(out),
        (Format::Plain, Some(elected)) => {
            write!(out, "{}\t", elected.token)?;
            out.write_all(&elected.value)?;
            writeln!(out)
        }
        (Format::Table, None) => writeln!(out, "nobody leads"),
        (Format::Table, Some(elected)) => {
            writeln!(out, "{}  {}", elected.token, printable(&elected.value, SHOWN_MAX))
        }
    }
}

fn to_json(elected: &Elected) -> Value {
    let (key_name, key) = record::key_field(&elected.key);
    let (value_name, value) = record::value_field(&elected.value);
    json!({ key_name: key, value_name: value, "token": elected.token })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_leader_is_shown_in_every_form_and_so_is_none() {
        let elected = Elected { value: Bytes::from_static(b"\xff"), key: Bytes::from_static(b"s/@07"), token: 12 };
        let shown = |elected: Option<&Elected>, format| {
            let mut out = Vec::new();
            print(&mut out, elected, format).unwrap();
            out
        };
        assert_eq!(shown(Some(&elected), Format::Plain), b"12\t\xff\n");
        assert_eq!(shown(Some(&elected), Format::Table), b"12  \\xff\n");
        assert_eq!(
            shown(Some(&elected), Format::Json),
            b"{\"key\":\"s/@07\",\"value_base64\":\"/w==\",\"token\":12}\n"
        );
        assert_eq!(shown(None, Format::Plain), b"\n");
        assert_eq!(shown(None, Format::Json), b"null\n");
    }
}

//! `version`: of this program, and of the nodes.

use crate::arguments::Globals;
use crate::connect;
use crate::failure::Failure;
use crate::output::{Format, Output};
use client::MemberStatus;
use serde_json::json;
use std::io::{self, Write};

const OURS: &str = env!("CARGO_PKG_VERSION");

pub(crate) async fn run(globals: &Globals) -> Result<(), Failure> {
    let mut output = Output::standard();
    let is_json = globals.output == Some(Format::Json);
    output.write(|out| {
        if is_json { writeln!(out, "{}", json!({ "client": OURS })) } else { writeln!(out, "raftkv-cli {OURS}") }
    })?;
    // Our own version is known whatever comes next.
    output.flush()?;
    if connect::endpoints(globals).is_empty() {
        return output.finish();
    }
    let lines = connect::client(globals)?.cluster_status().await?;
    output.write(|out| lines.iter().try_for_each(|line| print(out, line, is_json)))?;
    output.finish()?;
    answered(&lines)
}

/// Whoever gives endpoints wants to hear from a node.
fn answered(lines: &[MemberStatus]) -> Result<(), Failure> {
    if lines.iter().any(|line| line.status.is_ok()) {
        return Ok(());
    }
    match lines.iter().find_map(|line| line.status.as_ref().err()) {
        Some(error) => Err(Failure::from(error.clone())),
        None => Ok(()),
    }
}

fn print(out: &mut dyn Write, line: &MemberStatus, is_json: bool) -> io::Result<()> {
    let name = line.member.as_ref().map(|member| member.name.as_str());
    let version = line.status.as_ref().map(|status| status.version.as_str());
    if is_json {
        let error = version.err().map(ToString::to_string);
        let object = json!({ "name": name, "address": line.address, "version": version.ok(), "error": error });
        return writeln!(out, "{object}");
    }
    let name = name.unwrap_or("-");
    match version {
        Ok(version) => writeln!(out, "raftkv {version} {name} {}", line.address),
        Err(error) => writeln!(out, "raftkv ? {name} {} {error}", line.address),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use client::Error;

    #[test]
    fn without_any_answer_it_ends_with_5() {
        let error = Error::Unavailable { endpoint: "n1:1".into(), cause: "unreachable".into() };
        let line = MemberStatus { member: None, address: "n1:1".into(), status: Err(error) };
        let failure = answered(&[line.clone(), line]).unwrap_err();
        assert_eq!((failure.code.number(), failure.endpoint.as_deref()), (5, Some("n1:1")));
        assert!(answered(&[]).is_ok());
    }

    #[test]
    fn a_node_that_does_not_answer_has_a_line_too() {
        let error = Error::Unavailable { endpoint: "n1:1".into(), cause: "unreachable".into() };
        let line = MemberStatus { member: None, address: "n1:1".into(), status: Err(error) };
        let mut out = Vec::new();
        print(&mut out, &line, false).unwrap();
        assert_eq!(out, b"raftkv ? - n1:1 unavailable: unreachable\n");
        let mut out = Vec::new();
        print(&mut out, &line, true).unwrap();
        let object: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert!(object["version"].is_null() && object["error"].is_string(), "{object}");
    }
}

//! `status`: every member, each asked for itself.

use crate::arguments::Globals;
use crate::connect;
use crate::failure::{Code, Failure};
use crate::output::{Format, Output, PADDING, columns_of, human_bytes, printable, table, write_table};
use clap::Args;
use client::{MemberStatus, Status};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

// The hash is last: what reads `-o plain` counts fields.
const HEADERS: [&str; 13] = [
    "NODE", "NAME", "ADDRESS", "ROLE", "TERM", "LEADER", "APPLIED", "COMMIT", "REVISION", "LOG", "STATE", "VERSION",
    "HASH",
];
const ADDRESS: usize = 2;
/// What goes first where a terminal has no room for all; the rest says whether the cluster works.
const LEFT_OUT_FIRST: [&str; 8] = ["VERSION", "STATE", "LOG", "HASH", "COMMIT", "REVISION", "NAME", "LEADER"];
/// From so many columns on there is a hash in the table.
const WIDTH_WITH_HASH: usize = 120;
/// Digits of the state's hash in a table: enough to compare.
const HASH_DIGITS: usize = 12;
/// How often `--watch` asks.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Puts a terminal's cursor into the corner and empties the screen.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";
/// An address is not made shorter than this.
const ADDRESS_MIN: usize = 12;

/// What `status` takes.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// Ask again every two seconds until Ctrl-C; a cluster that does not answer does not end it
    #[arg(long)]
    pub(crate) watch: bool,
}

pub(crate) async fn run(arguments: &StatusArguments, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let mut output = Output::standard();
    if !arguments.watch {
        let lines = client.cluster_status().await?;
        show(&mut output, &lines, globals)?;
        output.finish()?;
        return health(&lines);
    }
    loop {
        let answer = client.cluster_status().await;
        if output.is_terminal() {
            output.write(|out| out.write_all(CLEAR))?;
        }
        let healthy = match answer {
            Ok(lines) => show(&mut output, &lines, globals).map(|()| health(&lines))?,
            Err(error) => Err(error.into()),
        };
        output.flush()?;
        if let Err(failure) = healthy {
            // As above: for people, beside the data.
            let _told = writeln!(io::stderr(), "{failure}");
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn show(output: &mut Output, lines: &[MemberStatus], globals: &Globals) -> Result<(), Failure> {
    let width = output.width();
    output.write(|out| print(out, lines, globals.output.unwrap_or(Format::Table), width))?;
    output.flush()?;
    if globals.output != Some(Format::Json) {
        let mut stderr = io::stderr();
        for (name, error) in lines.iter().filter_map(|line| Some((title(line), line.status.as_ref().err()?))) {
            // The table says that it is unreachable; why is for people, and goes beside the data.
            let _told = writeln!(stderr, "{name}: {error} (endpoint {})", error.endpoint());
        }
    }
    Ok(())
}

fn title(line: &MemberStatus) -> String {
    match &line.member {
        Some(member) => format!("node {} {}", member.id, member.name),
        None => "unknown node".to_owned(),
    }
}

/// Whether the nodes agree, and the cluster can take a write: a leader is known in the newest term, and a majority of the voters answers and holds what it
/// has promised.
fn health(lines: &[MemberStatus]) -> Result<(), Failure> {
    let endpoints = lines.iter().map(|line| line.address.as_str()).collect::<Vec<_>>().join(",");
    if let Some((cause, next)) = disagreement(lines) {
        return Err(Failure::new(Code::Corruption, cause).at(endpoints).with_next(next));
    }
    let answers = || lines.iter().filter_map(|line| line.status.as_ref().ok());
    let (mut all, mut reachable, mut whole) = (0_usize, 0_usize, 0_usize);
    for voter in lines.iter().filter(|line| is_voter(line)) {
        all += 1;
        reachable += usize::from(voter.status.is_ok());
        whole += usize::from(voter.status.is_ok() && !is_under_repair(voter));
    }
    let newest = answers().map(|status| status.term).max();
    let leader = answers().filter(|status| Some(status.term) == newest).find_map(|status| status.leader);
    let mut next = "raftkv-cli status again in a second; if it stays, see the log of the nodes that do not answer";
    let cause = if newest.is_none() {
        "no node answers".to_owned()
    } else if reachable * 2 <= all {
        format!("{reachable} of {all} voters answer: no majority, so nothing can be written")
    } else if whole * 2 <= all {
        next = "start the voters that are down: those under repair get their votes back from a majority of the others. Where there can be none, see docs/operations.md, \
                \"A damaged node\"";
        format!(
            "{reachable} of {all} voters answer, and only {whole} of them can vote: the rest is under repair, having lost what it had promised"
        )
    } else if leader.is_none() {
        "no leader is known: an election is under way".to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::new(Code::Unavailable, cause).at(endpoints).with_next(next))
}

/// Nodes that have applied the same entries and hold different states, if there are such, and what to do then.
fn disagreement(lines: &[MemberStatus]) -> Option<(String, &'static str)> {
    let mut states: BTreeMap<u64, BTreeMap<String, Vec<&MemberStatus>>> = BTreeMap::new();
    for line in lines {
        if let Ok(status) = &line.status
            && !status.state_hash.is_empty()
        {
            states.entry(status.applied).or_default().entry(hex(&status.state_hash)).or_default().push(line);
        }
    }
    let (applied, hashes) = states.into_iter().find(|(_, hashes)| hashes.len() > 1)?;
    let holders = |(hash, nodes): (&String, &Vec<&MemberStatus>)| {
        format!("{} ({hash})", nodes.iter().map(|line| title(line)).collect::<Vec<_>>().join(", "))
    };
    let text: Vec<String> = hashes.iter().map(holders).collect();
    let cause = format!("the same log up to {applied} has led to different states: {}", text.join("; "));
    // A majority of all voters, not of those that happen to be as far as each other.
    let voters = lines.iter().filter(|line| is_voter(line)).count();
    let most = hashes.values().map(Vec::len).max().unwrap_or(0);
    let compared: usize = hashes.values().map(Vec::len).sum();
    let is_alone = most * 2 > voters && compared == most + 1;
    let next = if is_alone {
        "see \"Nodes that hold different states\" in docs/operations.md: the node that is alone is the one to repair, if none of the others was \
         repaired or added since the last time they all agreed"
    } else {
        "change nothing yet, and take an export: it cannot be told which of them is right (docs/operations.md, \"Nodes that hold different states\")"
    };
    Some((cause, next))
}

fn is_voter(line: &MemberStatus) -> bool {
    line.member.as_ref().is_some_and(|member| member.kind == "voter")
}

/// Whether a node has lost what it had promised and has not got its vote back: by its own word, or by the membership.
fn is_under_repair(line: &MemberStatus) -> bool {
    line.status.as_ref().is_ok_and(|status| status.under_repair)
        || line.member.as_ref().is_some_and(|member| member.under_repair)
}

fn print(out: &mut dyn Write, lines: &[MemberStatus], format: Format, width: Option<usize>) -> io::Result<()> {
    match format {
        Format::Table => {
            let mut rows: Vec<_> = lines.iter().map(|line| row(line, human_bytes)).collect();
            let shown = fit(&mut rows, width);
            let pick = |row: &[String]| shown.iter().map(|column| row[*column].clone()).collect::<Vec<_>>();
            let mut fitting = table(&shown.iter().map(|column| HEADERS[*column]).collect::<Vec<_>>());
            fitting.add_rows(rows.iter().map(|row| pick(row)));
            write_table(out, &fitting)
        }
        Format::Plain => {
            lines.iter().try_for_each(|line| writeln!(out, "{}", row(line, |bytes| bytes.to_string()).join("\t")))
        }
        Format::Json => lines.iter().try_for_each(|line| writeln!(out, "{}", object(line))),
    }
}

/// The columns to show so that each node is one line of the terminal. Shortens addresses when nothing else helps.
fn fit(rows: &mut [Vec<String>], width: Option<usize>) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..HEADERS.len()).collect();
    let Some(width) = width else { return shown };
    let widths: Vec<usize> = HEADERS
        .iter()
        .enumerate()
        .map(|(column, header)| rows.iter().map(|row| columns_of(&row[column])).fold(header.len(), usize::max))
        .collect();
    let taken = |shown: &[usize]| shown.iter().map(|column| widths[*column] + PADDING).sum::<usize>();
    if width < WIDTH_WITH_HASH {
        shown.retain(|column| HEADERS[*column] != "HASH");
    }
    for left_out in LEFT_OUT_FIRST {
        // The last column needs no blank after it.
        if taken(&shown) - 1 <= width {
            return shown;
        }
        shown.retain(|column| HEADERS[*column] != left_out);
    }
    let excess = (taken(&shown) - 1).saturating_sub(width);
    let address_max = widths[ADDRESS].saturating_sub(excess).max(ADDRESS_MIN);
    for row in rows {
        row[ADDRESS] = printable(row[ADDRESS].as_bytes(), address_max);
    }
    shown
}

fn row(line: &MemberStatus, size: impl Fn(u64) -> String) -> Vec<String> {
    let dash = || "-".to_owned();
    let id = line.member.as_ref().map(|member| member.id.to_string());
    let name = line.member.as_ref().map(|member| member.name.clone());
    let mut row = vec![id.unwrap_or_else(dash), name.unwrap_or_else(dash), line.address.clone()];
    match &line.status {
        Ok(status) => row.extend([
            if is_under_repair(line) { "under-repair".to_owned() } else { status.role.clone() },
            status.term.to_string(),
            status.leader.map_or_else(dash, |leader| leader.to_string()),
            status.applied.to_string(),
            status.commit.to_string(),
            status.revision.to_string(),
            size(status.log_bytes),
            size(status.state_bytes),
            status.version.clone(),
            hex(&status.state_hash).chars().take(HASH_DIGITS).collect(),
        ]),
        Err(_) => {
            row.push("unreachable".to_owned());
            row.extend((row.len()..HEADERS.len()).map(|_| dash()));
        }
    }
    row
}

fn object(line: &MemberStatus) -> serde_json::Value {
    let member = line.member.as_ref();
    let mut object = json!({
        "name": member.map(|member| member.name.as_str()),
        "id": member.map(|member| member.id),
        "address": line.address,
        "reachable": line.status.is_ok(),
        "error": line.status.as_ref().err().map(ToString::to_string),
    });
    if let Ok(status) = &line.status {
        let Status { role, term, leader, applied, commit, flushed, revision, .. } = status;
        let more = json!({
            "cluster": status.cluster,
            "role": role,
            "term": term,
            "leader": leader,
            "applied": applied,
            "commit": commit,
            "flushed": flushed,
            "revision": revision,
            "state_hash": hex(&status.state_hash),
            "log_first": status.log_first,
            "log_last": status.log_last,
            "log_bytes": status.log_bytes,
            "state_bytes": status.state_bytes,
            "version": status.version,
            "under_repair": is_under_repair(line),
            "uptime_ms": u64::try_from(status.uptime.as_millis()).unwrap_or(u64::MAX),
        });
        let (Some(all), serde_json::Value::Object(more)) = (object.as_object_mut(), more) else {
            unreachable!("both are objects")
        };
        all.extend(more);
    }
    object
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use client::{Error, Member};
    use std::time::Duration;

    fn line(id: u64, status: Result<Status, Error>) -> MemberStatus {
        let address = format!("n{id}:7420");
        let member = Member {
            id,
            name: format!("n{id}"),
            peer_address: format!("n{id}:7421"),
            client_address: address.clone(),
            kind: "voter".into(),
            under_repair: false,
        };
        MemberStatus { member: Some(member), address, status }
    }

    fn up(term: u64, leader: Option<u64>) -> Result<Status, Error> {
        Ok(Status {
            cluster: "main".into(),
            node: 1,
            name: "n1".into(),
            version: "0.1.0".into(),
            role: "follower".into(),
            term,
            leader,
            log_first: 1,
            log_last: 9,
            commit: 8,
            applied: 7,
            flushed: 6,
            revision: 5,
            state_hash: vec![0x0a, 0xff, 1, 2, 3, 4, 5, 6],
            members: Vec::new(),
            uptime: Duration::from_millis(1234),
            state_bytes: 2048,
            log_bytes: 4096,
            under_repair: false,
        })
    }

    fn down() -> Result<Status, Error> {
        Err(Error::Unavailable { endpoint: "n3:7420".into(), cause: "unreachable".into() })
    }

    #[test]
    fn a_leader_and_a_majority_are_health() {
        assert!(health(&[line(1, up(2, Some(1))), line(2, up(2, Some(1))), line(3, down())]).is_ok());
        assert!(health(&[line(1, up(2, Some(1)))]).is_ok());
    }

    #[test]
    fn less_is_unavailable_and_says_why() {
        for (lines, wanted) in [
            (vec![line(1, up(2, Some(1))), line(2, down()), line(3, down())], "1 of 3 voters"),
            (vec![line(1, up(2, None)), line(2, up(2, None)), line(3, down())], "no leader"),
            (vec![line(1, up(3, None)), line(2, up(2, Some(3))), line(3, down())], "no leader"),
            (vec![MemberStatus { member: None, ..line(1, down()) }], "no node answers"),
        ] {
            let failure = health(&lines).unwrap_err();
            assert_eq!(failure.code, Code::Unavailable);
            assert!(failure.cause.contains(wanted), "{failure} lacks {wanted}");
        }
    }

    #[test]
    fn nodes_that_hold_different_states_after_the_same_entries_are_damage() {
        let with = |id, applied, hash: u8| {
            line(id, Ok(Status { applied, state_hash: vec![hash; 2], ..up(2, Some(1)).unwrap() }))
        };
        assert!(health(&[with(1, 7, 1), with(2, 8, 2), with(3, 7, 1)]).is_ok());
        let unclear = "it cannot be told which of them is right";
        for (lines, wanted) in [
            (
                vec![with(1, 8, 2), with(2, 8, 2), with(3, 8, 3)],
                ["node 1 n1, node 2 n2 (0202); node 3 n3 (0303)", "is the one to repair"],
            ),
            (vec![with(1, 7, 1), with(2, 8, 2), with(3, 8, 3)], ["up to 8", unclear]),
            (vec![with(1, 8, 2), with(2, 8, 3)], ["node 1 n1 (0202); node 2 n2 (0303)", unclear]),
            (vec![with(1, 8, 2), with(2, 8, 2), with(3, 8, 2), with(4, 8, 3), with(5, 8, 4)], ["up to 8", unclear]),
        ] {
            let failure = health(&lines).unwrap_err();
            assert_eq!(failure.code, Code::Corruption);
            for wanted in wanted {
                assert!(failure.to_string().contains(wanted), "{failure} lacks {wanted}");
            }
        }
    }

    #[test]
    fn voters_under_repair_do_not_count_and_are_shown_as_such() {
        let repaired = |id| line(id, Ok(Status { under_repair: true, ..up(2, None).unwrap() }));
        let failure = health(&[line(1, up(2, None)), repaired(2)]).unwrap_err();
        assert_eq!(failure.code, Code::Unavailable);
        assert!(failure.cause.contains("2 of 2 voters answer, and only 1 of them can vote"), "{failure}");
        assert!(health(&[line(1, up(2, Some(1))), line(2, up(2, Some(1))), repaired(3)]).is_ok());
        assert_eq!(row(&repaired(2), human_bytes)[3], "under-repair");
        assert_eq!(object(&repaired(2))["role"], "follower");
        let mut learner = line(3, up(2, Some(1)));
        learner.member.as_mut().unwrap().under_repair = true;
        assert_eq!(row(&learner, human_bytes)[3], "under-repair", "by the membership, until it has its vote back");
    }

    fn shown(lines: &[MemberStatus], width: Option<usize>) -> String {
        let mut out = Vec::new();
        print(&mut out, lines, Format::Table, width).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_node_is_one_line_of_the_terminal() {
        let busy = || {
            let status = Status {
                term: 12,
                applied: 1_234_567,
                commit: 1_234_567,
                revision: 1_234_560,
                ..up(2, Some(1)).unwrap()
            };
            Ok(Status { log_bytes: 123 << 20, state_bytes: 1000 << 30, ..status })
        };
        let long = MemberStatus { address: format!("{}.example.com:7420", "node".repeat(12)), ..line(2, busy()) };
        for lines in [vec![line(1, busy()), line(2, busy()), line(3, down())], vec![line(1, busy()), long]] {
            for width in [60, 80, 100, 120, 200] {
                let text = shown(&lines, Some(width));
                assert!(text.lines().all(|line| columns_of(line) <= width), "{width}: {text}");
                assert_eq!(text.lines().count(), lines.len() + 1, "{text}");
                for column in ["NODE", "ADDRESS", "ROLE", "TERM", "APPLIED"] {
                    assert!(text.contains(column), "{width} columns lack {column}: {text}");
                }
            }
        }
    }

    #[test]
    fn columns_go_when_there_is_no_room_and_the_hash_stays_where_there_is() {
        let local = |id| MemberStatus { address: "127.0.0.1:7420".into(), ..line(id, up(2, Some(1))) };
        let lines = [1, 2, 3].map(local);
        let headers =
            |width| shown(&lines, width).lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(headers(Some(80)), "NODE NAME ADDRESS ROLE TERM LEADER APPLIED COMMIT REVISION");
        let with_hash = headers(Some(WIDTH_WITH_HASH));
        assert!(with_hash.contains("HASH"), "{with_hash}");
        assert!(!headers(Some(WIDTH_WITH_HASH - 1)).contains("HASH"));
        for all in [Some(200), None] {
            assert_eq!(headers(all), HEADERS.join(" "));
            assert!(shown(&lines, all).contains(" 0aff01020304\n"), "twelve digits of the hash");
        }
    }

    #[test]
    fn json_has_the_promised_fields() {
        let object = object(&line(1, up(2, Some(1))));
        for field in [
            "name",
            "id",
            "address",
            "reachable",
            "error",
            "role",
            "term",
            "leader",
            "applied",
            "commit",
            "flushed",
            "revision",
            "state_hash",
            "log_first",
            "log_last",
            "log_bytes",
            "state_bytes",
            "version",
            "uptime_ms",
            "under_repair",
        ] {
            assert!(object.get(field).is_some(), "{field} is missing: {object}");
        }
        assert_eq!(object["state_hash"], "0aff010203040506");
        assert_eq!(object["uptime_ms"], 1234);
        assert!(object["error"].is_null());
    }

    #[test]
    fn a_node_that_is_down_is_shown_as_such() {
        let down = line(3, down());
        let object = object(&down);
        assert_eq!((object["reachable"].as_bool(), object["id"].as_u64()), (Some(false), Some(3)));
        assert!(object["error"].as_str().is_some_and(|error| error.contains("unreachable")));
        let row = row(&down, human_bytes);
        assert_eq!((row.len(), row[3].as_str()), (HEADERS.len(), "unreachable"));
    }
}

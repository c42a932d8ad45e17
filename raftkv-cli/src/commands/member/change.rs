//! `member promote` and `member remove`: one change, and what it does to the majority.

use super::TargetArguments;
use crate::arguments::Globals;
use crate::connect;
use crate::failure::{Code, Failure};
use crate::output::{Format, Output, table, write_table};
use client::{Client, Error, MemberChange, MemberEdit, Quorum};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

/// What it may take beyond the deadline to find out why a change was waited for. A leader answers at once.
const GRACE: Duration = Duration::from_millis(500);

pub(super) async fn run(
    arguments: TargetArguments,
    edit: impl Fn(u64) -> MemberEdit,
    globals: &Globals,
) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let member = super::find(&client, &arguments.member, globals).await?;
    let names = names(&client).await;
    let change = apply(&client, vec![edit(member.id)], &names, arguments.dry_run, globals).await?;
    show(&change, &names, globals)
}

/// What members are called, for people; without it the numbers do.
pub(super) type Names = BTreeMap<u64, String>;

/// The names before the change: afterwards a removed member has none.
pub(super) async fn names(client: &Client) -> Names {
    let members = client.member_list().await.unwrap_or_default();
    members.into_iter().map(|member| (member.id, member.name)).collect()
}

/// Makes the change. One that is refused as unsafe is shown all the same.
pub(super) async fn apply(
    client: &Client,
    edits: Vec<MemberEdit>,
    names: &Names,
    dry_run: bool,
    globals: &Globals,
) -> Result<MemberChange, Failure> {
    let mut outcome = client.change_members(edits.clone(), dry_run).await;
    // Something was waited for, a learner that has to catch up for instance. If nothing that comes of waiting would make it safe, say that.
    if matches!(outcome, Err(Error::Unavailable { .. }))
        && !dry_run
        && let Ok(Err(refused @ Error::Unsafe { .. })) =
            tokio::time::timeout(GRACE, client.change_members(edits, true)).await
    {
        outcome = Err(refused);
    }
    match outcome {
        Ok(change) => Ok(change),
        Err(Error::Unsafe { endpoint, cause, change }) => {
            show(&change, names, globals)?;
            let failure = Failure::new(Code::Unsafe, format!("refused as unsafe: {cause}")).at(endpoint);
            Err(failure.with_next("raftkv-cli status, to see which nodes do not answer"))
        }
        Err(error @ Error::OutcomeUnknown { .. }) => {
            Err(Failure::from(error).with_next("raftkv-cli member list, to see whether the change was made"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Shows who decides before and afterwards.
pub(super) fn show(change: &MemberChange, names: &Names, globals: &Globals) -> Result<(), Failure> {
    let mut output = Output::standard();
    output.write(|out| print(out, change, names, globals.output.unwrap_or(Format::Table)))?;
    output.finish()
}

fn print(out: &mut dyn Write, change: &MemberChange, names: &Names, format: Format) -> io::Result<()> {
    let MemberChange { before, after, index, added } = change;
    match format {
        Format::Json => {
            let object = |quorum: &Quorum| {
                json!({
                    "voters": quorum.voters, "learners": quorum.learners, "needed": quorum.needed, "reachable": quorum.reachable
                })
            };
            let done = json!({ "changed": index.is_some(), "index": index, "added": added });
            let mut line = done;
            line["before"] = object(before);
            line["after"] = object(after);
            writeln!(out, "{line}")
        }
        Format::Table => {
            let mut rows = table(&["", "VOTERS", "LEARNERS", "NEEDED", "REACHABLE"]);
            rows.add_row(row("before", before, names));
            rows.add_row(row("after", after, names));
            write_table(out, &rows)
        }
        Format::Plain => [("before", before), ("after", after)]
            .iter()
            .try_for_each(|(when, quorum)| writeln!(out, "{}", row(when, quorum, names).join("\t"))),
    }
}

fn row(when: &str, quorum: &Quorum, names: &Names) -> [String; 5] {
    let name = |id: &u64| names.get(id).cloned().unwrap_or_else(|| id.to_string());
    let names = |ids: &[u64]| {
        if ids.is_empty() { "-".to_owned() } else { ids.iter().map(name).collect::<Vec<_>>().join(" ") }
    };
    let needed = format!("{} of {}", quorum.needed, quorum.voters.len());
    [when.to_owned(), names(&quorum.voters), names(&quorum.learners), needed, names(&quorum.reachable)]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn both_quorums_are_shown_in_all_forms() {
        let before = Quorum { voters: vec![1, 2, 3], learners: vec![], needed: 2, reachable: vec![1, 3] };
        let after = Quorum { voters: vec![1, 2], learners: vec![9], needed: 2, reachable: vec![1] };
        let change = MemberChange { before, after, index: None, added: vec![] };
        let names = (1..=3).map(|id| (id, format!("n{id}"))).collect();
        let printed = |format| {
            let mut out = Vec::new();
            print(&mut out, &change, &names, format).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(printed(Format::Plain), "before\tn1 n2 n3\t-\t2 of 3\tn1 n3\nafter\tn1 n2\t9\t2 of 2\tn1\n");
        let object: serde_json::Value = serde_json::from_str(&printed(Format::Json)).unwrap();
        assert_eq!((&object["changed"], &object["after"]["reachable"]), (&json!(false), &json!([1])));
        assert!(printed(Format::Table).contains("n1 n2 n3"));
    }
}

//! The commands of the language. [`COMMANDS`] is the list of all.
//!
//! A command is a name, words and options (`name=value`). `NODES` are numbers with spaces between them, or `all`. `MESSAGES` choose among
//! the messages under way, and without a word all of them: `1->2`, `1->`, `->2` say from whom and to whom, a kind says what (see
//! [`KINDS`]), and `count=N` how many, the oldest first. `quietly` before a command leaves out everything but changes of role, term and leader.

use super::world::{Detail, Envelope, World};
use raftkv_raft::{Body, Event, LogIndex, MemberRole, MembershipChange, NodeId};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

type Outcome = Result<(), String>;

struct Command {
    name: &'static str,
    usage: &'static str,
    run: fn(&mut World, &mut Words) -> Outcome,
}

const fn command(name: &'static str, usage: &'static str, run: fn(&mut World, &mut Words) -> Outcome) -> Command {
    Command { name, usage, run }
}

/// Every command, ascending by name.
const COMMANDS: &[Command] = &[
    // What a slow state machine has been told to apply is applied.
    command("apply", "NODE", |world, words| words.node(world).and_then(|id| world.apply(id))),
    // The clock of the node goes on to its election timeout. Nobody else's does.
    command("campaign", "NODE", |world, words| words.node(world).and_then(|id| world.campaign(id))),
    // Asks for a change of the membership, all of it at once.
    command("change", "NODE MEMBER=voter|learner|removed...", change),
    // Drops the log up to an index; without one, everything applied. The state machine is flushed before.
    command("compact", "NODE [INDEX]", |world, words| {
        let id = words.node(world)?;
        let up_to = words.optional("an index")?;
        world.compact(id, up_to.map(LogIndex))
    }),
    // Stops the node at once. Of writes under way on a slow disk, the oldest `surviving` are on the disk afterwards.
    command("crash", "NODE [surviving=WRITES]", |world, words| {
        let id = words.node(world)?;
        let surviving = words.option("surviving")?.unwrap_or(0);
        world.crash(id, surviving)
    }),
    // Messages on this way are lost from here on, those under way included.
    command("cut", "FROM->TO...", |world, words| {
        while let Some(word) = words.next() {
            match way(&word) {
                Some((Some(from), Some(to))) => world.cut(from, to),
                _ => return Err(format!("{word:?} is no way from one node to another, such as 1->2")),
            }
        }
        Ok(())
    }),
    // The messages move behind all others that are under way.
    command("delay", "[MESSAGES]", |world, words| {
        let chosen = words.messages(world)?;
        world.say_messages("later:", &chosen);
        world.put(chosen);
        Ok(())
    }),
    // The messages arrive, oldest first. What is said in answer waits.
    command("deliver", "[MESSAGES]", |world, words| {
        let chosen = words.messages(world)?;
        chosen.into_iter().try_for_each(|envelope| world.deliver(envelope))
    }),
    // The messages are lost.
    command("drop", "[MESSAGES]", |world, words| {
        let chosen = words.messages(world)?;
        world.say_messages("lost:", &chosen);
        Ok(())
    }),
    // The messages arrive twice: a copy of each goes behind all others.
    command("duplicate", "[MESSAGES]", |world, words| {
        let chosen = words.messages(world)?;
        world.say_messages("twice:", &chosen);
        world.put(chosen.iter().cloned());
        world.put(chosen);
        Ok(())
    }),
    // `campaign` and `settle`; the node must lead then.
    command("elect", "NODE", |world, words| words.node(world).and_then(|id| world.elect(id))),
    // The snapshot that the node was told to fetch arrives. `untold`: its source never hears of it.
    command("fetch", "NODE [untold]", |world, words| {
        let id = words.node(world)?;
        let told = !words.flag("untold");
        world.fetch(id, true, told)
    }),
    // The snapshot that the node was told to fetch does not arrive.
    command("fetch-fails", "NODE", |world, words| words.node(world).and_then(|id| world.fetch(id, false, true))),
    // What the state machine has applied survives a crash.
    command("flush", "NODE", |world, words| words.node(world).map(|id| world.flush(id))),
    // Nobody is cut off any more.
    command("heal", "", |world, _| {
        world.heal();
        Ok(())
    }),
    // A past: the terms of the log, one for each entry, and how it ended. Before anything else happens to the node.
    command("history", "NODE TERM... term=TERM [applied=INDEX]", |world, words| {
        let id = words.node(world)?;
        let term = words.option("term")?.ok_or("the term is missing: term=TERM")?;
        let applied = words.option("applied")?.unwrap_or(0);
        let terms = words.rest("a term")?;
        world.set_history(id, &terms, term, applied)
    }),
    // The messages are kept back until `release`.
    command("hold", "[MESSAGES]", |world, words| {
        let chosen = words.messages(world)?;
        world.say_messages("held:", &chosen);
        world.hold(chosen);
        Ok(())
    }),
    // Nothing reaches the nodes and nothing leaves them any more.
    command("isolate", "NODES", |world, words| {
        let all = world.ids();
        for id in words.nodes(world)? {
            for other in all.iter().filter(|other| **other != id) {
                world.cut(id, *other);
                world.cut(*other, id);
            }
        }
        Ok(())
    }),
    // A read for which the lease will do.
    command("lease-read", "NODE", |world, words| words.node(world).and_then(|id| world.read(id, true))),
    command("log", "NODES", |world, words| each(world, words, World::show_log)),
    // A node that is down loses its disk, or only the log on it; it notices when it restarts.
    command("lose-disk", "NODE [log]", |world, words| {
        let id = words.node(world)?;
        let only_log = words.flag("log");
        world.lose_disk(id, !only_log)
    }),
    command("members", "NODES", |world, words| each(world, words, World::show_members)),
    // The messages under way.
    command("network", "", |world, _| {
        let lines = world.network();
        lines.iter().for_each(|line| world.say(line));
        Ok(())
    }),
    // Founds a group: `nodes 3`, or who is what. Spares run and are not members.
    command(
        "nodes",
        "COUNT | voters=1,2,3 [learners=4] [spares=5] [lease-reads] [append-bytes=N] [cache-bytes=N] \
         [inflight-bytes=N] [inflight-messages=N] [uncommitted-bytes=N]",
        nodes,
    ),
    // The clock of the node goes on, and the node does not run meanwhile.
    command("pause", "NODE MILLISECONDS", |world, words| {
        let id = words.node(world)?;
        let duration = words.duration()?;
        world.pause(id, duration)
    }),
    // The oldest writes on a slow disk are done and reported; without a number, all of them.
    command("persist", "NODE [WRITES]", |world, words| {
        let id = words.node(world)?;
        let count = words.optional("a number of writes")?.unwrap_or(u64::MAX);
        world.persist(id, count)
    }),
    // What a leader knows of its peers.
    command("progress", "NODES", |world, words| each(world, words, World::show_progress)),
    // Proposes a command for each word; with `bytes`, one of that length.
    command("propose", "NODE WORD... | bytes=N", propose),
    command("quick-disk", "NODES", |world, words| each(world, words, |world, id| world.set_slow_disk(id, false))),
    // A linearizable read. Reads are numbered in the order of the script.
    command("read", "NODE", |world, words| words.node(world).and_then(|id| world.read(id, false))),
    // Messages held back come behind all others that are under way.
    command("release", "[MESSAGES]", |world, words| {
        let (matches, count) = words.selection()?;
        let chosen = world.take_held(count, matches);
        if chosen.is_empty() {
            return Err("no such message is held back".to_owned());
        }
        world.put(chosen);
        Ok(())
    }),
    command("restart", "NODE", |world, words| words.node(world).and_then(|id| world.restart(id))),
    // All clocks go on together, and messages arrive at once.
    command("run", "MILLISECONDS", |world, words| words.duration().and_then(|duration| world.run(duration))),
    // Messages arrive, and what is said in answer, until nothing is under way.
    command("settle", "", |world, _| world.settle()),
    // Applying waits for `apply`.
    command("slow-apply", "NODES", |world, words| {
        each(world, words, |world, id| {
            world.set_slow_apply(id);
            Ok(())
        })
    }),
    // Writes wait for `persist`.
    command("slow-disk", "NODES", |world, words| each(world, words, |world, id| world.set_slow_disk(id, true))),
    command("status", "NODES", |world, words| each(world, words, World::show_status)),
    // Hands leadership over; without a target, to whom the leader chooses.
    command("transfer", "NODE [TARGET]", |world, words| {
        let id = words.node(world)?;
        let target = words.optional("a node")?.map(NodeId);
        world.step(id, Event::TransferLeadership { target })
    }),
    // The transport of a node reports a peer as not reachable.
    command("unreachable", "NODE PEER", |world, words| {
        let id = words.node(world)?;
        let peer = words.node(world)?;
        world.step(id, Event::Unreachable { peer })
    }),
    // The clocks of the nodes go on, one node after the other, and each does on the way what is due. Messages wait.
    command("wait", "NODES MILLISECONDS", |world, words| {
        let duration = words.last_duration()?;
        each(world, words, |world, id| world.wait(id, duration))
    }),
];

/// A name, and whether a message goes by it.
type Kind = (&'static str, fn(&Body) -> bool);

/// The kinds of messages, as `MESSAGES` names them.
const KINDS: &[Kind] = &[
    ("append", |body| matches!(body, Body::Append { .. })),
    ("campaign-now", |body| matches!(body, Body::TimeoutNow)),
    ("empty", |body| matches!(body, Body::Append { entries, .. } if entries.is_empty())),
    ("entries", |body| matches!(body, Body::Append { entries, .. } if !entries.is_empty())),
    ("offer", |body| matches!(body, Body::SnapshotOffer { .. })),
    ("pre-vote", |body| matches!(body, Body::PreVote { .. })),
    ("pre-vote-reply", |body| matches!(body, Body::PreVoteReply { .. })),
    ("read-index", |body| matches!(body, Body::ReadIndex { .. })),
    ("read-index-reply", |body| matches!(body, Body::ReadIndexReply { .. })),
    ("reply", |body| matches!(body, Body::AppendReply { .. })),
    ("vote", |body| matches!(body, Body::Vote { .. })),
    ("vote-reply", |body| matches!(body, Body::VoteReply { .. })),
];

/// Carries out one line.
pub fn carry_out(world: &mut World, line: &str) -> Outcome {
    let (detail, line) = match line.strip_prefix("quietly ") {
        Some(rest) => (Detail::Roles, rest),
        None => (Detail::All, line),
    };
    let mut words = Words::new(line);
    let name = words.next().unwrap_or_default();
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        let known: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
        return Err(format!("unknown command {name:?}; the commands are: {}", known.join(", ")));
    };
    world.detail = detail;
    let result = (command.run)(world, &mut words).and_then(|()| words.done());
    world.detail = Detail::All;
    result.map_err(|problem| format!("{problem}\n  usage: {} {}", command.name, command.usage).trim_end().to_owned())
}

/// The names of all commands.
pub fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|command| command.name)
}

/// The words and options of one line that are not used up yet.
struct Words {
    words: std::collections::VecDeque<String>,
    options: BTreeMap<String, String>,
}

impl Words {
    fn new(line: &str) -> Words {
        let mut words = Words { words: [].into(), options: BTreeMap::new() };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => {
                    words.options.insert(name.to_owned(), value.to_owned());
                }
                None => words.words.push_back(word.to_owned()),
            }
        }
        words
    }

    fn next(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// Whether the word is there.
    fn flag(&mut self, word: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|other| other != word);
        self.words.len() < before
    }

    fn optional(&mut self, what: &str) -> Result<Option<u64>, String> {
        self.next().map(|word| parse(&word, what)).transpose()
    }

    fn rest(&mut self, what: &str) -> Result<Vec<u64>, String> {
        std::mem::take(&mut self.words).iter().map(|word| parse(word, what)).collect()
    }

    fn option(&mut self, name: &str) -> Result<Option<u64>, String> {
        self.options.remove(name).map(|value| parse(&value, "a number")).transpose()
    }

    /// Nodes that need not be there yet.
    fn new_nodes(&mut self, name: &str) -> Result<Vec<NodeId>, String> {
        let list = self.options.remove(name).unwrap_or_default();
        list.split(',').filter(|word| !word.is_empty()).map(|word| parse(word, "a node").map(NodeId)).collect()
    }

    fn node(&mut self, world: &World) -> Result<NodeId, String> {
        let word = self.next().ok_or("a node is missing")?;
        let id = NodeId(parse(&word, "a node")?);
        world.machine(id).map(|_| id)
    }

    /// All words that are left.
    fn nodes(&mut self, world: &World) -> Result<Vec<NodeId>, String> {
        if self.flag("all") {
            return Ok(world.ids());
        }
        let ids: Vec<NodeId> = self.rest("a node")?.into_iter().map(NodeId).collect();
        ids.iter().try_for_each(|id| world.machine(*id).map(|_| ()))?;
        if ids.is_empty() { Err("a node is missing".to_owned()) } else { Ok(ids) }
    }

    fn duration(&mut self) -> Result<Duration, String> {
        let word = self.next().ok_or("a time in milliseconds is missing")?;
        parse(&word, "a time in milliseconds").map(Duration::from_millis)
    }

    /// The last word is a time.
    fn last_duration(&mut self) -> Result<Duration, String> {
        let word = self.words.pop_back().ok_or("a time in milliseconds is missing")?;
        parse(&word, "a time in milliseconds").map(Duration::from_millis)
    }

    /// Which messages are meant, and how many at most.
    fn selection(&mut self) -> Result<(impl Fn(&Envelope) -> bool + use<>, usize), String> {
        let (mut from, mut to, mut kinds) = (None, None, Vec::new());
        for word in std::mem::take(&mut self.words) {
            if let Some(ends) = way(&word) {
                (from, to) = ends;
            } else if let Some((_, kind)) = KINDS.iter().find(|(name, _)| *name == word) {
                kinds.push(*kind);
            } else {
                let known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
                return Err(format!("unknown kind of message {word:?}; the kinds are: {}", known.join(", ")));
            }
        }
        let count = self.option("count")?.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
        let matches = move |envelope: &Envelope| {
            from.is_none_or(|from| from == envelope.from)
                && to.is_none_or(|to| to == envelope.to)
                && (kinds.is_empty() || kinds.iter().any(|kind| kind(&envelope.message.body)))
        };
        Ok((matches, count))
    }

    /// Takes the chosen messages out of the network. There must be one, or the script does not do what its author thinks.
    fn messages(&mut self, world: &mut World) -> Result<Vec<Envelope>, String> {
        let (matches, count) = self.selection()?;
        let chosen = world.take(count, matches);
        if chosen.is_empty() {
            return Err(format!("no such message is under way:\n    {}", world.network().join("\n    "))
                .trim_end()
                .to_owned());
        }
        Ok(chosen)
    }

    fn done(&mut self) -> Outcome {
        if let Some(word) = self.next() {
            return Err(format!("{word:?} is one word too many"));
        }
        self.options.keys().next().map_or(Ok(()), |name| Err(format!("unknown option {name:?}")))
    }
}

fn parse<T: FromStr>(word: &str, what: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word:?} is not {what}"))
}

/// `1->2`, `1->` or `->2`.
fn way(word: &str) -> Option<(Option<NodeId>, Option<NodeId>)> {
    let (from, to) = word.split_once("->")?;
    let end = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(NodeId).map(Some) };
    Some((end(from)?, end(to)?))
}

fn each(world: &mut World, words: &mut Words, run: impl Fn(&mut World, NodeId) -> Outcome) -> Outcome {
    words.nodes(world)?.into_iter().try_for_each(|id| run(world, id))
}

fn nodes(world: &mut World, words: &mut Words) -> Outcome {
    let mut config = crate::common::small_config(NodeId(0));
    config.lease_reads = words.flag("lease-reads");
    let limits: [(&str, &mut usize); 5] = [
        ("append-bytes", &mut config.append_bytes_max),
        ("cache-bytes", &mut config.cache_bytes_max),
        ("inflight-bytes", &mut config.inflight_bytes_max),
        ("inflight-messages", &mut config.inflight_messages_max),
        ("uncommitted-bytes", &mut config.uncommitted_bytes_max),
    ];
    for (name, limit) in limits {
        if let Some(value) = words.option(name)? {
            *limit = usize::try_from(value).map_err(|_| format!("{name}={value} is too large"))?;
        }
    }
    let count = words.optional("a number of nodes")?.unwrap_or(0);
    let (mut voters, learners) = (words.new_nodes("voters")?, words.new_nodes("learners")?);
    voters.extend((1..=count).map(NodeId));
    let spares = words.new_nodes("spares")?;
    if voters.is_empty() {
        return Err("a group without voters decides nothing".to_owned());
    }
    world.found(config, &voters, &learners, &spares)
}

fn propose(world: &mut World, words: &mut Words) -> Outcome {
    let id = words.node(world)?;
    let length = words.option("bytes")?.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let mut payloads: Vec<String> = std::iter::from_fn(|| words.next()).collect();
    payloads.extend(length.map(|length| "x".repeat(length)));
    if payloads.is_empty() {
        return Err("there is nothing to propose".to_owned());
    }
    payloads.into_iter().try_for_each(|payload| world.step(id, Event::Propose { payload: payload.into() }))
}

fn change(world: &mut World, words: &mut Words) -> Outcome {
    let id = words.node(world)?;
    let mut roles = Vec::new();
    for (node, role) in std::mem::take(&mut words.options) {
        let role = match role.as_str() {
            "voter" => MemberRole::Voter,
            "learner" => MemberRole::Learner,
            "removed" => MemberRole::Removed,
            _ => return Err(format!("{role:?} is not what a member can be")),
        };
        roles.push((NodeId(parse(&node, "a node")?), role));
    }
    world.step(id, Event::ChangeMembership { change: MembershipChange { roles, context: None } })
}

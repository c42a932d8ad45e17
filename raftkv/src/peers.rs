//! The note of whether others could repair this node.
//!
//! Whoever finds that it has lost something has to know, before it moves anything, whether a quorum can do without it: then it sets aside what is
//! damaged and is repaired; otherwise what it holds, damaged or not, is the only copy, and it must not start at all. What is left of the disk
//! may not know: the flushed state is from before the last changes of the members, and the log that had them is what was lost. So the answer is kept in
//! the file `PEERS`, beside both, and is written again whenever an applied membership changes it, before the log may be dropped up to there.
//!
//! What is noted is as of an applied entry. A membership that stands later, in the log or in the state, is newer and counts for more.
//!
//! The note also says whether the configuration said `joining` when it was made. If it did not, and does now, an operator has said since that there
//! are others, and that is newer than anything on this disk.
//!
//! Caveat: the note is a hint that is read after a loss, and no promise hangs on it. One that cannot be read is none.

use crate::marker::Marker;
use raft::{LogIndex, Membership, NodeId};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use storage::wal::disk::Disk;

/// What the note says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peers {
    /// It was true when this entry had been applied.
    pub index: LogIndex,
    /// Whether others could repair this node.
    pub can_repair: bool,
    /// Whether the configuration said at that time that this node joins, or has joined, a group that was there.
    pub joining: bool,
}

/// The note, and what it says. Clones write the same file.
#[derive(Clone)]
pub struct PeersNote {
    marker: Marker,
    own: NodeId,
    joining: bool,
    noted: Option<Peers>,
}

impl PeersNote {
    /// Reads the note in a data directory, for node `own`, whose configuration says `joining` or not.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(data_dir: Arc<dyn Disk>, own: NodeId, joining: bool) -> io::Result<PeersNote> {
        let marker = Marker::new(data_dir, "PEERS");
        let noted = marker.read()?.and_then(|text| unseal(&text));
        Ok(PeersNote { marker, own, joining, noted })
    }

    /// The file, for messages.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.marker.path()
    }

    /// What it says; `None` if there is no note that can be read.
    #[must_use]
    pub fn noted(&self) -> Option<Peers> {
        self.noted
    }

    /// The configuration says now that this node joins, and did not when the note was made: an operator's word that there are others. Without a note
    /// it is the word of whoever provisioned the node.
    #[must_use]
    pub fn is_overruled(&self) -> bool {
        self.joining && self.noted.is_none_or(|noted| !noted.joining)
    }

    /// The state has applied `index`, and `membership` is what it has. Writes the note if that changes it; durable when it returns.
    ///
    /// # Errors
    /// What the system says.
    pub fn follow(&mut self, index: LogIndex, membership: &Membership) -> io::Result<()> {
        if membership.is_empty() {
            return Ok(());
        }
        let peers = Peers { index, can_repair: others_can_repair(self.own, membership), joining: self.joining };
        // A state that went back at a crash knows less than the note.
        let is_news =
            self.noted.is_none_or(|noted| index >= noted.index && Peers { index: noted.index, ..peers } != noted);
        if is_news {
            self.marker.write(&seal(peers))?;
            self.noted = Some(peers);
        }
        Ok(())
    }
}

/// Whether `membership` has voters beside `own`, in each of its sets of voters. Of two voters neither can do without the other, and yet the group
/// may have grown since this was heard: so one other is enough.
#[must_use]
pub fn others_can_repair(own: NodeId, membership: &Membership) -> bool {
    let has_others = |voters: &[NodeId]| voters.iter().any(|voter| *voter != own);
    has_others(membership.voters()) && (!membership.is_joint() || has_others(membership.voters_outgoing()))
}

fn seal(peers: Peers) -> String {
    let word = |yes: bool| if yes { "yes" } else { "no" };
    let text = format!("index {} peers {} joining {}", peers.index, word(peers.can_repair), word(peers.joining));
    format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
}

fn unseal(text: &str) -> Option<Peers> {
    let flag = |word: &str| match word {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let ["index", index, "peers", can_repair, "joining", joining, _] = words[..] else { return None };
    let peers = Peers { index: LogIndex(index.parse().ok()?), can_repair: flag(can_repair)?, joining: flag(joining)? };
    (seal(peers) == text).then_some(peers)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;
    use raft::{MemberRole, MembershipChange};
    use std::fs;
    use std::path::Path;
    use storage::wal::disk::RealDisk;

    fn open(folder: &Path, joining: bool) -> PeersNote {
        PeersNote::open(Arc::new(RealDisk::create(folder).unwrap()), NodeId(1), joining).unwrap()
    }

    fn of(voters: &[u64]) -> Membership {
        Membership::new(voters.iter().copied().map(NodeId))
    }

    #[test]
    fn the_note_follows_what_is_applied_and_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut note = open(folder.path(), false);
        assert_eq!(note.noted(), None);
        for (index, voters, can_repair) in [(0, &[1][..], false), (7, &[1, 2, 3], true), (9, &[1], false)] {
            note.follow(LogIndex(index), &of(voters)).unwrap();
            let expected = Peers { index: LogIndex(index), can_repair, joining: false };
            assert_eq!(note.noted(), Some(expected));
            assert_eq!(open(folder.path(), false).noted(), Some(expected));
        }
    }

    #[test]
    fn a_state_that_went_back_does_not_take_the_note_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut note = open(folder.path(), false);
        note.follow(LogIndex(7), &of(&[1, 2, 3])).unwrap();
        note.follow(LogIndex(3), &of(&[1])).unwrap();
        note.follow(LogIndex(8), &Membership::default()).unwrap();
        assert!(open(folder.path(), false).noted().unwrap().can_repair);
    }

    #[test]
    fn an_operators_later_word_counts_for_more() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), false).follow(LogIndex(4), &of(&[1])).unwrap();
        assert!(!open(folder.path(), false).is_overruled());
        let mut note = open(folder.path(), true);
        assert!(note.is_overruled());
        note.follow(LogIndex(5), &of(&[1])).unwrap();
        assert!(!open(folder.path(), true).is_overruled(), "the note was made when that was known");
    }

    #[test]
    fn a_note_that_cannot_be_read_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut note = open(folder.path(), false);
        note.follow(LogIndex(7), &of(&[1, 2, 3])).unwrap();
        let text = fs::read_to_string(note.path()).unwrap();
        for damaged in [String::new(), text.replace("yes", "no"), text.replace('7', "8"), format!("{text} ")] {
            fs::write(note.path(), damaged).unwrap();
            assert_eq!(open(folder.path(), false).noted(), None);
        }
    }

    #[test]
    fn nobody_repairs_the_only_voter_of_either_half_of_a_change() {
        let change = |roles: &[(u64, MemberRole)]| MembershipChange {
            roles: roles.iter().map(|(id, role)| (NodeId(*id), *role)).collect(),
            context: None,
        };
        let growing = of(&[1]).changed(&change(&[(2, MemberRole::Voter), (3, MemberRole::Voter)])).unwrap();
        let shrinking = of(&[1, 2]).changed(&change(&[(2, MemberRole::Removed)])).unwrap();
        for membership in [of(&[1]), growing, shrinking] {
            assert!(!others_can_repair(NodeId(1), &membership), "{membership:?}");
        }
        assert!(others_can_repair(NodeId(1), &of(&[2])), "a learner beside the only voter");
        assert!(others_can_repair(NodeId(1), &of(&[1, 2])));
    }
}

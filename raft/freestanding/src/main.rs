//! Three nodes in memory elect a leader and replicate an entry, in a program that has neither std nor libc.
//!
//! What an operating system's library would give is here: the entry point, memory, the way out. So that this links shows that
//! the core needs nothing but `core`, `alloc`, an allocator and a panic handler, and that it runs shows that it works so. The status says how it
//! went: 0; 1 and a line if something is not as it should be; 101 and the message after a panic.
//!
//! The argument `forget` makes one node forget what it is sent: then it must end with 1.

#![no_std]
#![no_main]
// What stands in for memcpy must not be compiled into a call of memcpy.
#![no_builtins]

extern crate alloc;

mod machine;
mod system;

use machine::Cluster;
use raft::NodeId;

/// What is replicated.
const PAYLOAD: &[u8] = b"from nothing";

/// Returns the status.
fn run(forgets: bool) -> i32 {
    let mut cluster = Cluster::new(if forgets { Some(NodeId(3)) } else { None });
    let Some((leader, term)) = cluster.elect() else { return fail("nobody was elected") };
    if !cluster.propose(leader, PAYLOAD) {
        return fail("the leader refused the proposal");
    }
    cluster.pass_half_a_second();
    for id in [1, 2, 3].map(NodeId) {
        if cluster.applied(id) != [PAYLOAD] {
            return fail("a node has not applied exactly the entry that was proposed");
        }
    }
    system::print("leader ");
    system::print_number(leader.0);
    system::print(" in term ");
    system::print_number(term);
    system::print(", 3 nodes applied 1 entry\n");
    0
}

fn fail(what: &str) -> i32 {
    system::complain(what);
    1
}

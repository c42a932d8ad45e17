//! What an operator asks of the cluster, between the wire and the driver: changes of the members, leadership handed over, and what a new member
//! starts with.

use crate::driver::{
    ChangeRefusal, ChangeReport, ChangeRequest, ChangeWaiter, Input, MemberEdit, NewMember, Quorum, TransferRefusal,
    TransferWaiter,
};
use crate::members::Members;
use crate::requests::{Refused, error, not_leader};
use raft::NodeId;
use std::sync::Arc;
use transport::proto::client as wire;
use transport::{Responder, Response};
use wire::ErrorCode;
use wire::member_edit::Kind;

/// The driver's input for a change of the members.
///
/// # Errors
/// The request makes no sense.
pub(crate) fn change_input(
    request: wire::MemberChangeRequest,
    members: Arc<Members>,
    responder: Responder,
) -> Result<Input, Box<(Refused, Responder)>> {
    let edits: Result<Vec<MemberEdit>, Refused> = request.edits.into_iter().map(edit).collect();
    let changes = match edits {
        Ok(changes) => changes,
        Err(refused) => return Err(Box::new((refused, responder))),
    };
    let waiter: ChangeWaiter = Box::new(move |result| {
        responder.answer(match result {
            Ok(report) => Response::MemberChange(reply(report, None)),
            Err(ChangeRefusal::Unsafe { report, reason }) => Response::MemberChange(reply(*report, Some(reason))),
            Err(refusal) => Response::Error(*change_refused(&refusal, &members)),
        });
    });
    Ok(Input::ChangeMembership(ChangeRequest { changes, dry_run: request.dry_run, waiter }))
}

/// The driver's input for handing leadership over.
pub(crate) fn transfer_input(
    request: &wire::LeaderTransferRequest,
    members: Arc<Members>,
    responder: Responder,
) -> Input {
    let target = (request.target != 0).then_some(NodeId(request.target));
    let waiter: TransferWaiter = Box::new(move |result| {
        responder.answer(match result {
            Ok(leader) => Response::LeaderTransfer(wire::LeaderTransferReply { leader: leader.0 }),
            Err(TransferRefusal::LeadsAlready) => {
                Response::LeaderTransfer(wire::LeaderTransferReply { leader: members.own().0 })
            }
            Err(refusal) => Response::Error(*transfer_refused(&refusal, &members)),
        });
    });
    Input::TransferLeadership { target, waiter }
}

fn edit(edit: wire::MemberEdit) -> Result<MemberEdit, Refused> {
    match edit.kind {
        Some(Kind::Add(add)) => Ok(MemberEdit::Add(NewMember {
            id: None,
            name: add.name,
            peer_address: add.peer_address,
            client_address: add.client_address,
            http_address: add.http_address,
        })),
        Some(Kind::Promote(id)) => Ok(MemberEdit::Promote(NodeId(id))),
        Some(Kind::Demote(id)) => Ok(MemberEdit::Demote(NodeId(id))),
        Some(Kind::Remove(id)) => Ok(MemberEdit::Remove(NodeId(id))),
        None => Err(error(ErrorCode::Invalid, "a part of the change is of a kind that this node does not know")),
    }
}

fn reply(report: ChangeReport, unsafe_reason: Option<String>) -> wire::MemberChangeReply {
    wire::MemberChangeReply {
        before: Some(quorum(report.before)),
        after: Some(quorum(report.after)),
        index: report.index.map_or(0, |index| index.0),
        added: numbers(&report.added),
        unsafe_reason,
    }
}

fn quorum(quorum: Quorum) -> wire::Quorum {
    wire::Quorum {
        voters: numbers(&quorum.voters),
        learners: numbers(&quorum.learners),
        needed: u32::try_from(quorum.needed).expect("a group has a handful of members"),
        reachable: numbers(&quorum.reachable),
    }
}

fn numbers(ids: &[NodeId]) -> Vec<u64> {
    ids.iter().map(|id| id.0).collect()
}

fn change_refused(refusal: &ChangeRefusal, members: &Members) -> Refused {
    match refusal {
        ChangeRefusal::NotLeader { leader } => not_leader(*leader, &members.view().members),
        // What a moment later may mend, the client tries again until its deadline.
        ChangeRefusal::Busy(_) | ChangeRefusal::Lagging { .. } | ChangeRefusal::Stopping => {
            error(ErrorCode::Unavailable, refusal.to_string())
        }
        ChangeRefusal::Invalid(_) | ChangeRefusal::Unsafe { .. } => error(ErrorCode::Invalid, refusal.to_string()),
        ChangeRefusal::OutcomeUnknown => error(ErrorCode::OutcomeUnknown, refusal.to_string()),
    }
}

fn transfer_refused(refusal: &TransferRefusal, members: &Members) -> Refused {
    match refusal {
        TransferRefusal::NotLeader { leader } => not_leader(*leader, &members.view().members),
        TransferRefusal::LeadsAlready
        | TransferRefusal::NotAVoter { .. }
        | TransferRefusal::UnderRepair { .. }
        | TransferRefusal::NobodyElse => error(ErrorCode::Invalid, refusal.to_string()),
        TransferRefusal::Silent { .. } | TransferRefusal::TimedOut { .. } | TransferRefusal::WentElsewhere { .. } => {
            error(ErrorCode::NotHandedOver, refusal.to_string())
        }
        TransferRefusal::NoLeader | TransferRefusal::Stopping => error(ErrorCode::Unavailable, refusal.to_string()),
    }
}

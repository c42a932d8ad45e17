//! The bodies of frames, generated from `proto/*.proto`. What a field means is said there, once.

/// The client protocol: `proto/client.proto`.
pub mod client {
    #![allow(missing_docs, reason = "generated: the .proto file documents what a field means")]
    include!(concat!(env!("OUT_DIR"), "/raftkv.client.v1.rs"));
}

/// The peer protocol: `proto/peer.proto`.
pub mod peer {
    #![allow(missing_docs, reason = "generated: the .proto file documents what a field means")]
    include!(concat!(env!("OUT_DIR"), "/raftkv.peer.v1.rs"));
}

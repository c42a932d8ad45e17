//! The explorer of `model.rs`.

pub(crate) mod explorer;
pub(crate) mod machine;
pub(crate) mod world;

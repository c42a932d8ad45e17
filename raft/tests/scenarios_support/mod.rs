//! The language of the scenarios: see `../scenarios.rs`.

#![allow(unreachable_pub, reason = "a module of tests has no public face")]

pub mod commands;
pub mod script;
pub mod words;
pub mod world;

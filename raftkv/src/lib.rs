//! raftkv

//! The data directory: one process, one cluster, one node.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use raft::NodeId;
use raftkv_storage::identity::{DataDirectory, DirectoryError, Identity};
use std::fs;

fn identity() -> Identity {
    Identity { cluster: "orchard".to_owned(), node: NodeId(2) }
}

#[test]
fn a_directory_remembers_whose_it_is() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    assert!(matches!(DataDirectory::open(&path, &identity()), Err(DirectoryError::NotCreated { .. })));
    assert!(!path.exists(), "a refused open leaves nothing behind");
    let created = DataDirectory::create(&path, &identity()).unwrap();
    assert_eq!((created.path(), created.identity()), (&*path, &identity()));
    drop(created);
    assert!(matches!(DataDirectory::create(&path, &identity()), Err(DirectoryError::AlreadyCreated { .. })));
    assert_eq!(DataDirectory::open(&path, &identity()).unwrap().identity(), &identity());
    assert_eq!(DataDirectory::open_or_create(&path, &identity()).unwrap().identity(), &identity());
    assert_eq!(DataDirectory::identity_of(&path).unwrap(), identity());
}

#[test]
fn a_second_user_is_refused_and_told_who_is_first() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    let first = DataDirectory::open_or_create(&path, &identity()).unwrap();
    let error = DataDirectory::open(&path, &identity()).unwrap_err();
    let holder = std::process::id();
    assert!(matches!(error, DirectoryError::InUse { holder: Some(found), .. } if found == holder), "{error}");
    assert!(error.to_string().contains(&format!("in use by process {holder}")), "{error}");
    drop(first);
    DataDirectory::open(&path, &identity()).unwrap();
}

#[test]
fn another_cluster_or_node_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    drop(DataDirectory::create(parent.path(), &identity()).unwrap());
    let cluster = Identity { cluster: "meadow".to_owned(), ..identity() };
    let error = DataDirectory::open(parent.path(), &cluster).unwrap_err();
    assert!(error.to_string().contains("belongs to cluster \"orchard\", not to \"meadow\""), "{error}");
    let node = Identity { node: NodeId(3), ..identity() };
    let error = DataDirectory::open_or_create(parent.path(), &node).unwrap_err();
    assert!(error.to_string().contains("belongs to node 2, not to node 3"), "{error}");
    DataDirectory::open(parent.path(), &identity()).unwrap();
}

#[test]
fn a_damaged_or_newer_identity_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    drop(DataDirectory::create(parent.path(), &identity()).unwrap());
    let file = parent.path().join("IDENTITY");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("node = 2", "node = 3")).unwrap();
    assert!(matches!(DataDirectory::open(parent.path(), &identity()), Err(DirectoryError::Damaged { .. })));
    fs::write(&file, "").unwrap();
    assert!(matches!(DataDirectory::open(parent.path(), &identity()), Err(DirectoryError::Damaged { .. })));

    let newer = "raftkv data directory\nformat = 2\nsomething = else\n";
    let sealed = format!("{newer}crc32c {:08x}\n", crc32c::crc32c(newer.as_bytes()));
    fs::write(&file, sealed).unwrap();
    let error = DataDirectory::open(parent.path(), &identity()).unwrap_err();
    assert!(matches!(error, DirectoryError::UnknownFormat { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn data_without_an_identity_is_never_given_a_new_one() {
    let parent = tempfile::tempdir().unwrap();
    drop(DataDirectory::create(parent.path(), &identity()).unwrap());
    fs::create_dir(parent.path().join("state")).unwrap();
    fs::remove_file(parent.path().join("IDENTITY")).unwrap();
    for error in [
        DataDirectory::open_or_create(parent.path(), &identity()).unwrap_err(),
        DataDirectory::create(parent.path(), &identity()).unwrap_err(),
        DataDirectory::open(parent.path(), &identity()).unwrap_err(),
    ] {
        assert!(matches!(error, DirectoryError::IdentityMissing { .. }), "{error}");
    }
}

#[test]
fn a_crash_while_it_is_set_up_leaves_a_directory_that_can_be() {
    let parent = tempfile::tempdir().unwrap();
    // All that can be there before the identity is in place.
    fs::write(parent.path().join("LOCK"), "12345\n").unwrap();
    fs::write(parent.path().join("IDENTITY.tmp"), "raftkv da").unwrap();
    DataDirectory::open_or_create(parent.path(), &identity()).unwrap();
}

#[test]
fn a_cluster_name_has_one_line() {
    let parent = tempfile::tempdir().unwrap();
    for cluster in ["", "a\nnode = 9"] {
        let identity = Identity { cluster: cluster.to_owned(), ..identity() };
        let error = DataDirectory::create(&parent.path().join("data"), &identity).unwrap_err();
        assert!(matches!(error, DirectoryError::ClusterName { .. }), "{error}");
    }
}

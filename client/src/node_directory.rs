//! The directory that a new node is started from: its configuration, as the cluster gives it out, and its certificate, issued here
//! with the cluster's authority.
//!
//! It is written under another name and renamed at the end, so a crash leaves nothing that looks finished. Nothing is overwritten.

use crate::member::NodeConfig;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use transport::{Authority, LEAF_VALIDITY, NodeId, Validity};

/// Why a node's directory was not written. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum NodeDirectoryError {
    /// A file could not be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory is there already.
    #[error("{} exists already; nothing is overwritten: choose another directory", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// The authority cannot be used.
    #[error("the authority in {} cannot be used: {cause}", path.display())]
    Authority {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// The authority is another cluster's.
    #[error("the authority in {} is of cluster {found}, and the nodes are of cluster {expected}", path.display())]
    OtherCluster {
        /// Its directory.
        path: PathBuf,
        /// Its cluster.
        found: String,
        /// The cluster asked.
        expected: String,
    },
    /// A path that would lead out of the directory.
    #[error("the node names a file {path:?}, which is not within a directory")]
    Path {
        /// The path.
        path: String,
    },
}

/// The authority of a cluster, as `raftkv init` wrote it: `ca.crt` and `ca.key` in one directory.
pub struct CertificateAuthority {
    directory: PathBuf,
    authority: Authority,
}

impl CertificateAuthority {
    /// Reads it.
    ///
    /// # Errors
    /// A file cannot be read, or is no authority.
    pub fn load(directory: &Path) -> Result<CertificateAuthority, NodeDirectoryError> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(|source| NodeDirectoryError::Io { operation: "read", path, source })
        };
        let authority = Authority::load(&read("ca.crt")?, &read("ca.key")?)
            .map_err(|error| NodeDirectoryError::Authority { path: directory.to_owned(), cause: error.to_string() })?;
        Ok(CertificateAuthority { directory: directory.to_owned(), authority })
    }

    /// Writes the directory of node `node`, ready to copy to its machine and to start from.
    ///
    /// # Errors
    /// See [`NodeDirectoryError`].
    pub fn write_node_directory(&self, out: &Path, node: u64, config: &NodeConfig) -> Result<(), NodeDirectoryError> {
        let found = self.authority.cluster().to_string();
        if found != config.cluster {
            let (path, expected) = (self.directory.clone(), config.cluster.clone());
            return Err(NodeDirectoryError::OtherCluster { path, found, expected });
        }
        check_absent(out)?;
        let staging = out.with_file_name(format!(
            ".{}.{}.tmp",
            out.file_name().unwrap_or_default().to_string_lossy(),
            std::process::id()
        ));
        let written = self.write_all(&staging, node, config).and_then(|()| {
            fs::rename(&staging, out).map_err(|source| NodeDirectoryError::Io {
                operation: "create",
                path: out.to_owned(),
                source,
            })
        });
        if written.is_err() {
            // Best effort: what went wrong is reported, and the leftovers have a telling name.
            let _ = fs::remove_dir_all(&staging);
        }
        written
    }

    fn write_all(&self, folder: &Path, node: u64, config: &NodeConfig) -> Result<(), NodeDirectoryError> {
        let issued = self.authority.issue_node(NodeId(node), Validity::lasting(LEAF_VALIDITY)).map_err(|error| {
            NodeDirectoryError::Authority { path: self.directory.clone(), cause: error.to_string() }
        })?;
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let source = fs::create_dir_all(parent);
            source.map_err(|source| NodeDirectoryError::Io { operation: "create", path: parent.to_owned(), source })?;
        }
        make_directory(folder)?;
        write_file(&folder.join("ca.crt"), self.authority.certificate_pem(), 0o644)?;
        write_file(&folder.join("node.crt"), &issued.certificate_pem, 0o644)?;
        write_file(&folder.join("node.key"), &issued.key_pem, 0o600)?;
        for (path, text) in &config.files {
            let relative = Path::new(path);
            if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(NodeDirectoryError::Path { path: path.clone() });
            }
            let parent = relative.parent().filter(|parent| !parent.as_os_str().is_empty());
            if let Some(parent) = parent.map(|parent| folder.join(parent)).filter(|parent| !parent.exists()) {
                make_directory(&parent)?;
            }
            write_file(&folder.join(relative), text, 0o644)?;
        }
        Ok(())
    }
}

/// Whether a node's directory could be written there.
///
/// # Errors
/// [`NodeDirectoryError::Exists`].
pub fn check_absent(out: &Path) -> Result<(), NodeDirectoryError> {
    if out.exists() { Err(NodeDirectoryError::Exists { path: out.to_owned() }) } else { Ok(()) }
}

fn make_directory(path: &Path) -> Result<(), NodeDirectoryError> {
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    made.map_err(|source| NodeDirectoryError::Io { operation: "create", path: path.to_owned(), source })
}

fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), NodeDirectoryError> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| NodeDirectoryError::Io { operation: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn authority(folder: &Path) -> CertificateAuthority {
        let created = Authority::create("test".parse().unwrap()).unwrap();
        fs::write(folder.join("ca.crt"), created.certificate_pem()).unwrap();
        fs::write(folder.join("ca.key"), created.key_pem()).unwrap();
        CertificateAuthority::load(folder).unwrap()
    }

    fn config(files: &[(&str, &str)]) -> NodeConfig {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        NodeConfig { cluster: "test".to_owned(), files }
    }

    #[test]
    fn directory_has_certificates_and_the_files_of_the_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(folder.path());
        let out = folder.path().join("new/n4");
        authority.write_node_directory(&out, 4, &config(&[("raftkv.toml", "x"), ("data/FIRST_START", "y")])).unwrap();
        for name in ["ca.crt", "node.crt", "node.key", "raftkv.toml", "data/FIRST_START"] {
            assert!(out.join(name).is_file(), "{name}");
        }
        let error = authority.write_node_directory(&out, 4, &config(&[])).unwrap_err();
        assert!(matches!(error, NodeDirectoryError::Exists { .. }), "{error}");
    }

    #[test]
    fn nothing_is_written_outside_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(folder.path());
        for path in ["../escaped", "/tmp/escaped", "a/../../escaped"] {
            let error = authority.write_node_directory(&folder.path().join("out"), 4, &config(&[(path, "x")]));
            assert!(matches!(error.unwrap_err(), NodeDirectoryError::Path { .. }), "{path}");
        }
        let other = NodeConfig { cluster: "other".to_owned(), files: Vec::new() };
        let error = authority.write_node_directory(&folder.path().join("out"), 4, &other).unwrap_err();
        assert!(error.to_string().contains("cluster test"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the authority's two files");
    }

    #[test]
    fn missing_authority_names_the_file() {
        let error = CertificateAuthority::load(Path::new("/nonexistent")).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/ca.crt"), "{error}");
    }
}

//! What the numbers were measured on.

use anyhow::{Context, bail};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// CPUs this process may run on.
    pub(crate) cpus: usize,
    /// The first CPU's model.
    pub(crate) cpu_model: String,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The type of the file system that holds the data directories.
    pub(crate) file_system: String,
}

impl Machine {
    /// Looks around; `data` is where the data directories will be.
    pub(crate) fn look(data: &Path) -> anyhow::Result<Machine> {
        let cpus = std::thread::available_parallelism().context("cannot count CPUs")?.get();
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
        let data = data.canonicalize().with_context(|| format!("cannot resolve {}", data.display()))?;
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        let file_system = file_system_of(&data, &mounts)
            .with_context(|| format!("no mounted file system holds {}", data.display()))?;
        Ok(Machine {
            cpus,
            cpu_model: model.map_or("unknown CPU", |(_, model)| model.trim()).to_owned(),
            kernel: kernel.trim().to_owned(),
            file_system,
        })
    }

    /// Fails if an fdatasync there reaches no disk.
    pub(crate) fn check_disk(&self, data: &Path) -> anyhow::Result<()> {
        if matches!(self.file_system.as_str(), "tmpfs" | "ramfs") {
            bail!(
                "{} is on {}, which is memory: writes would not be durable there, for either store. Choose a directory on a disk with --dir",
                data.display(),
                self.file_system
            );
        }
        Ok(())
    }
}

/// The type of the file system mounted the deepest above `path`; of two mounted at one place, the later.
fn file_system_of(path: &Path, mounts: &str) -> Option<String> {
    let mut found: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(place), Some(kind)) = (fields.next(), fields.next()) else { continue };
        // The kernel writes a space in a name as \040.
        let place = PathBuf::from(place.replace("\\040", " "));
        let depth = place.components().count();
        if path.starts_with(&place) && found.is_none_or(|(deepest, _)| depth >= deepest) {
            found = Some((depth, kind));
        }
    }
    found.map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n/dev/b /run/with\\040space xfs rw 0 0\n/dev/c /srv btrfs rw 0 0\n";
        let of = |path: &str| file_system_of(Path::new(path), mounts);
        assert_eq!(of("/home/x").as_deref(), Some("ext4"));
        assert_eq!(of("/run/x").as_deref(), Some("tmpfs"));
        assert_eq!(of("/run/with space/x").as_deref(), Some("xfs"));
        assert_eq!(of("/srvx").as_deref(), Some("ext4"));
        assert_eq!(file_system_of(Path::new("/x"), ""), None);
    }

    #[test]
    fn memory_is_no_disk() {
        let machine = |kind: &str| Machine {
            cpus: 1,
            cpu_model: String::new(),
            kernel: String::new(),
            file_system: kind.to_owned(),
        };
        assert!(machine("ext4").check_disk(Path::new("/x")).is_ok());
        assert!(machine("tmpfs").check_disk(Path::new("/x")).is_err());
    }
}

//! The file `env` that `raftkv init` and `raftkv demo` write, read without a shell.
//!
//! It is made to be sourced, and running somebody's file in order to learn four paths would be too much trust. So only lines that set one of
//! the variables of raftkv are looked at, with or without `export`, quoted as in a shell. `$RAFTKV_ADMIN` is the folder of the file, as it is when bash
//! sources it; any other variable in a value is refused. Relative paths are relative to that folder.

use crate::failure::{Failure, quoted};
use std::fs;
use std::path::{Path, PathBuf};

/// Set by the file that `raftkv init` writes to its own folder.
const OWN_FOLDER: &str = "$RAFTKV_ADMIN";

/// What such a file sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EnvironmentFile {
    /// `RAFTKV_ENDPOINTS`
    pub(crate) endpoints: Vec<String>,
    /// `RAFTKV_CA`
    pub(crate) ca: Option<PathBuf>,
    /// `RAFTKV_CERT`
    pub(crate) cert: Option<PathBuf>,
    /// `RAFTKV_KEY`
    pub(crate) key: Option<PathBuf>,
    /// `RAFTKV_HTTP`
    pub(crate) http: Vec<String>,
}

/// Reads `DIR/env`, `DIR/admin/env`, or the file itself.
pub(crate) fn read(given: &Path) -> Result<EnvironmentFile, Failure> {
    let candidates = [given.to_owned(), given.join("env"), given.join("admin/env")];
    let path = candidates.iter().find(|path| path.is_file()).ok_or_else(|| {
        Failure::usage(format!("{} holds no file env, and no admin/env either", quoted(given.as_os_str())))
            .with_next("--from DIR, with the directory that `raftkv demo --dir DIR` or `raftkv init --dir DIR` wrote")
    })?;
    let text = fs::read_to_string(path).map_err(|cause| Failure::io(&path.display().to_string(), &cause))?;
    // Absolute, as bash has it when it sources the file: paths below are joined to it once more.
    let path = &std::path::absolute(path).map_err(|cause| Failure::io(&path.display().to_string(), &cause))?;
    let folder = path.parent().expect("the path of a file has a parent");
    parse(&text, folder).map_err(|problem| {
        Failure::usage(format!("{}: {problem}", path.display()))
            .with_next("source the file in a shell, then: raftkv-cli context add NAME")
    })
}

fn parse(text: &str, folder: &Path) -> Result<EnvironmentFile, String> {
    let mut found = EnvironmentFile::default();
    for line in text.lines().map(str::trim) {
        let assignment = line.strip_prefix("export ").map_or(line, str::trim_start);
        let Some((name, raw)) = assignment.split_once('=') else { continue };
        let list = || value(name, raw, folder).map(|value| addresses(&value));
        let path = || value(name, raw, folder).map(|value| Some(folder.join(value)));
        match name {
            "RAFTKV_ENDPOINTS" => found.endpoints = list()?,
            "RAFTKV_CA" => found.ca = path()?,
            "RAFTKV_CERT" => found.cert = path()?,
            "RAFTKV_KEY" => found.key = path()?,
            "RAFTKV_HTTP" => found.http = list()?,
            _ => {}
        }
    }
    Ok(found)
}

/// The addresses of a list with commas.
pub(crate) fn addresses(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect()
}

/// The value of an assignment, without its quotes.
fn value(name: &str, raw: &str, folder: &Path) -> Result<String, String> {
    let words = shell_words::split(raw).map_err(|cause| format!("{name}: {cause}"))?;
    let [word] = words.as_slice() else { return Err(format!("{name}: {} words, not one", words.len())) };
    if raw.starts_with('\'') {
        return Ok(word.clone());
    }
    let expanded = match word.strip_prefix(OWN_FOLDER) {
        Some(rest) => format!("{}{rest}", folder.to_str().ok_or_else(|| format!("{name}: the path is no UTF-8"))?),
        None => word.clone(),
    };
    if word.trim_start_matches(OWN_FOLDER).contains(['$', '`']) {
        return Err(format!("{name}: {word} has to be expanded by a shell"));
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn both_kinds_of_files_are_understood() {
        let demo = "export RAFTKV_ENDPOINTS='127.0.0.1:1,127.0.0.1:2'\nexport RAFTKV_CA='/it'\\''s $here/ca.crt'\n\
                    export RAFTKV_HTTP='127.0.0.1:3'\n";
        let found = parse(demo, Path::new("/d")).unwrap();
        assert_eq!(found.endpoints, ["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!((found.ca.unwrap(), found.http), ("/it's $here/ca.crt".into(), vec!["127.0.0.1:3".to_owned()]));
        let init = "RAFTKV_ADMIN=\"$(cd \"$(dirname x)\" && pwd)\"\nif true; then\n    export RAFTKV_ENDPOINTS=\"n1:1\"\n    \
                    export RAFTKV_KEY=\"$RAFTKV_ADMIN/client.key\"\nfi\n";
        let found = parse(init, Path::new("/d")).unwrap();
        assert_eq!((found.endpoints, found.key), (vec!["n1:1".to_owned()], Some("/d/client.key".into())));
    }

    #[test]
    fn a_folder_may_be_named_from_where_one_stands() {
        let here = std::env::current_dir().unwrap();
        let folder = tempfile::tempdir_in(&here).unwrap();
        fs::write(folder.path().join("env"), "RAFTKV_CA=\"$RAFTKV_ADMIN/ca.crt\"\nRAFTKV_KEY=client.key\n").unwrap();
        let found = read(Path::new(folder.path().file_name().unwrap())).unwrap();
        assert_eq!(
            (found.ca.unwrap(), found.key.unwrap()),
            (folder.path().join("ca.crt"), folder.path().join("client.key"))
        );
    }

    #[test]
    fn what_only_a_shell_could_tell_is_refused() {
        for bad in ["RAFTKV_CA=$HOME/ca.crt", "RAFTKV_CA=\"`pwd`/ca\"", "RAFTKV_KEY='open", "RAFTKV_CERT=a b"] {
            let problem = parse(bad, Path::new("/d")).unwrap_err();
            assert!(problem.starts_with("RAFTKV_"), "{bad}: {problem}");
        }
    }

    #[test]
    fn a_folder_without_the_file_is_a_usage_error() {
        let folder = tempfile::tempdir().unwrap();
        let failure = read(folder.path()).unwrap_err();
        assert!(failure.to_string().contains("raftkv demo"), "{failure}");
    }
}

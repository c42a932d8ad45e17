//! The file of contexts: clusters by name, each with its endpoints and the client's certificate.
//!
//! ```toml
//! current = "prod"
//!
//! [contexts.prod]
//! endpoints = ["10.0.0.1:7420", "10.0.0.2:7420"]
//! ca = "/home/ada/prod/ca.crt"
//! cert = "/home/ada/prod/client.crt"
//! key = "/home/ada/prod/client.key"
//! http = ["127.0.0.1:7422"]
//! ```
//!
//! It is at `$RAFTKV_CONTEXTS`, or else `$XDG_CONFIG_HOME/raftkv/contexts.toml` (`~/.config` where that is not set). It holds paths and no
//! keys; its owner alone may read it all the same, for it says where they are.
//!
//! What must hold: paths are absolute, so that a context means the same from every directory; `current` names a context that is there; a key
//! that is not known is an error, because a setting with a slip in its name would otherwise be left out in silence. A file appears whole: it
//! is written beside the old one, synced and renamed. Who changes it holds a lock on its directory meanwhile, so that of two changes at the
//! same time none is lost.
//!
//! Absent: a version. A key that is added later is refused by an older program, by name, which is what it should do.

use crate::failure::{Failure, quoted};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The variable that says where the file is.
pub(crate) const FILE_VARIABLE: &str = "RAFTKV_CONTEXTS";
/// More than thousands of contexts take; a file beyond it is something else.
const BYTES_MAX: u64 = 1 << 20;
/// The longest name of a context, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// All contexts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that is used where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One cluster, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Client addresses of one or more nodes.
    pub(crate) endpoints: Vec<String>,
    /// The cluster's CA certificate.
    pub(crate) ca: PathBuf,
    /// The client's certificate.
    pub(crate) cert: PathBuf,
    /// The client's private key.
    pub(crate) key: PathBuf,
    /// Where the nodes' status pages are, if that is known; for other programs, since they are on loopback only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) http: Vec<String>,
}

impl Contexts {
    /// Where the file is, whether it exists or not.
    pub(crate) fn path() -> Result<PathBuf, Failure> {
        path_from(|variable| std::env::var_os(variable).filter(|value| !value.is_empty()))
    }

    /// Reads and checks the file; where there is none, there are no contexts.
    pub(crate) fn read(path: &Path) -> Result<Contexts, Failure> {
        let mut text = String::new();
        match File::open(path) {
            Ok(file) => file.take(BYTES_MAX + 1).read_to_string(&mut text),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(cause) => Err(cause),
        }
        .map_err(|cause| Failure::io(&path.display().to_string(), &cause))?;
        if text.len() as u64 > BYTES_MAX {
            return Err(damaged(path, &format!("it has more than {BYTES_MAX} bytes")));
        }
        Contexts::parse(&text).map_err(|problem| damaged(path, &problem))
    }

    /// Changes the file with `change`, which may refuse; then nothing is written.
    pub(crate) fn change<T>(
        path: &Path,
        change: impl FnOnce(&mut Contexts) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let failed = |cause: io::Error| Failure::io(&path.display().to_string(), &cause);
        // A link stays a link: what it points to is replaced.
        let target = match path.canonicalize() {
            Ok(target) => target,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(cause) => return Err(failed(cause)),
        };
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        create_private_directory(parent).map_err(failed)?;
        let directory = File::open(parent).map_err(failed)?;
        // Released when the directory is closed, at the end of this function.
        directory.lock().map_err(failed)?;
        let mut contexts = Contexts::read(&target)?;
        let outcome = change(&mut contexts)?;
        let text = toml::to_string(&contexts)
            .map_err(|cause| Failure::other(format!("{}: the contexts cannot be written: {cause}", path.display())))?;
        // Its owner alone may read a temporary file, and the mode goes with it.
        let mut file = tempfile::Builder::new().prefix(".contexts-").tempfile_in(parent).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&target).map_err(|error| failed(error.error))?;
        directory.sync_all().map_err(failed)?;
        Ok(outcome)
    }

    fn parse(text: &str) -> Result<Contexts, String> {
        let contexts: Contexts = toml::from_str(text).map_err(|error| {
            let suggested = suggestion(error.message()).map(|known| format!("; did you mean `{known}`?"));
            format!("{}{}", error.to_string().trim_end(), suggested.unwrap_or_default())
        })?;
        if let Some(current) = &contexts.current
            && !contexts.contexts.contains_key(current)
        {
            return Err(format!("current is \"{current}\", and there is no such context"));
        }
        for (name, context) in &contexts.contexts {
            check_name(name)?;
            for (field, path) in [("ca", &context.ca), ("cert", &context.cert), ("key", &context.key)] {
                if !path.is_absolute() {
                    return Err(format!("contexts.{name}.{field} is {path:?}, and no absolute path"));
                }
            }
        }
        Ok(contexts)
    }
}

/// Whether a context can be called so.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) && !name.starts_with('-') {
        return Ok(());
    }
    Err(format!(
        "\"{}\" is no name for a context: 1 to {NAME_BYTES_MAX} characters of a-z, A-Z, 0-9, `-`, `_` and `.`",
        name.escape_debug()
    ))
}

/// The failure of naming a context that there is not.
pub(crate) fn unknown(contexts: &Contexts, name: &str) -> Failure {
    let names = contexts.contexts.keys().map(String::as_str);
    let mut cause = format!("there is no context `{}`", name.escape_debug());
    if let Some(known) = nearest(name, names.clone()) {
        cause.push_str(&format!("; did you mean `{known}`?"));
    } else if contexts.contexts.is_empty() {
        cause.push_str(", and no other either");
    } else {
        cause.push_str(&format!("; known: {}", names.collect::<Vec<_>>().join(", ")));
    }
    let next = match contexts.contexts.is_empty() {
        true => "raftkv-cli context add NAME --from DIR, with the directory that `raftkv demo` or `raftkv init` wrote",
        false => "raftkv-cli context list",
    };
    Failure::usage(cause).with_next(next)
}

fn damaged(path: &Path, problem: &str) -> Failure {
    let shown = quoted(path.as_os_str());
    Failure::usage(format!("{shown}: {problem}"))
        .with_next(format!("correct {shown}, or remove it and add the contexts anew; flags work without it"))
}

/// Where the file is, by the variables of an environment.
fn path_from(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Failure> {
    if let Some(path) = variable(FILE_VARIABLE) {
        return Ok(path.into());
    }
    let configuration = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    configuration
        // As the XDG base directory specification has it: a relative path is not taken.
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")))
        .map(|folder| folder.join("raftkv/contexts.toml"))
        .ok_or_else(|| {
            Failure::usage("neither XDG_CONFIG_HOME nor HOME says where the contexts are")
                .with_next(format!("{FILE_VARIABLE}=FILE"))
        })
}

/// The known key nearest to the unknown one that a parser names, if it is near enough to be a slip.
fn suggestion(message: &str) -> Option<&str> {
    let mut quoted = message.strip_prefix("unknown field")?.split('`').skip(1).step_by(2);
    nearest(quoted.next()?, quoted)
}

fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(given, known), known))
        .filter(|(distance, known)| *distance <= known.len() / 3 + 1)
        .min()
        .map(|(_, known)| known)
}

/// Makes a directory, and those above it, for the owner alone. One that is there stays as it is.
pub(crate) fn create_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::failure::Code;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn context() -> Context {
        Context {
            endpoints: vec!["n1:7420".into(), "n2:7420".into()],
            ca: "/c/ca.crt".into(),
            cert: "/c/client.crt".into(),
            key: "/c/client.key".into(),
            http: Vec::new(),
        }
    }

    fn add(path: &Path, name: &str) -> Result<(), Failure> {
        Contexts::change(path, |contexts| {
            contexts.contexts.insert(name.to_owned(), context());
            Ok(())
        })
    }

    #[test]
    fn what_is_written_is_read_back_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/contexts.toml");
        assert_eq!(Contexts::read(&path).unwrap(), Contexts::default());
        add(&path, "prod").unwrap();
        add(&path, "a.b-c_1").unwrap();
        let read = Contexts::read(&path).unwrap();
        assert_eq!(read.contexts.keys().collect::<Vec<_>>(), ["a.b-c_1", "prod"]);
        assert_eq!(read.contexts["prod"], context());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file stayed");
    }

    #[test]
    fn a_change_that_is_refused_writes_nothing_and_a_link_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real.toml"), folder.path().join("link.toml"));
        add(&file, "one").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        add(&link, "two").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(Contexts::read(&file).unwrap().contexts.len(), 2);
        let before = fs::read(&file).unwrap();
        let refused = Contexts::change(&file, |contexts| {
            contexts.contexts.clear();
            Err::<(), _>(Failure::usage("no"))
        });
        assert!(refused.is_err());
        assert_eq!(fs::read(&file).unwrap(), before);
    }

    #[test]
    fn an_unknown_key_is_refused_with_a_suggestion() {
        let text = "[contexts.prod]\nendpoint = [\"n1:1\"]\nca = \"/a\"\ncert = \"/b\"\nkey = \"/c\"\n";
        let problem = Contexts::parse(text).unwrap_err();
        assert!(problem.contains("line 2") && problem.ends_with("did you mean `endpoints`?"), "{problem}");
        assert!(Contexts::parse("curent = \"x\"").unwrap_err().contains("did you mean `current`?"));
    }

    #[test]
    fn a_file_that_contradicts_itself_is_refused() {
        let problem = |text: &str| Contexts::parse(text).unwrap_err();
        assert!(problem("current = \"prod\"").contains("no such context"));
        let relative = "[contexts.prod]\nendpoints = [\"n1:1\"]\nca = \"ca.crt\"\ncert = \"/b\"\nkey = \"/c\"\n";
        assert!(problem(relative).contains("contexts.prod.ca"), "{}", problem(relative));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("contexts.toml");
        fs::write(&path, relative).unwrap();
        let failure = Contexts::read(&path).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.to_string().contains("\n  try: correct"), "{failure}");
    }

    #[test]
    fn the_file_is_where_the_environment_says() {
        let at = |variables: &[(&str, &str)]| {
            path_from(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        let home = ("HOME", "/home/ada");
        assert_eq!(at(&[home, (FILE_VARIABLE, "c.toml")]).unwrap(), Path::new("c.toml"));
        assert_eq!(at(&[home, ("XDG_CONFIG_HOME", "/x")]).unwrap(), Path::new("/x/raftkv/contexts.toml"));
        let default = Path::new("/home/ada/.config/raftkv/contexts.toml");
        assert_eq!(at(&[home, ("XDG_CONFIG_HOME", "relative")]).unwrap(), default);
        assert_eq!(at(&[home]).unwrap(), default);
        assert!(at(&[]).is_err());
    }

    #[test]
    fn names_are_plain() {
        for good in ["prod", "a", "eu-1.prod_2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "ä", "-x", "a/b", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_context_is_told_apart_from_none_at_all() {
        assert!(unknown(&Contexts::default(), "prod").to_string().contains("context add"));
        let known = Contexts { current: None, contexts: BTreeMap::from([("prod".to_owned(), context())]) };
        assert!(unknown(&known, "zebra").to_string().contains("known: prod"));
    }
}

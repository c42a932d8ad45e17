//! The shell's history: a file of lines in the user's state directory.
//!
//! Each line is added to the file as it is run, so a terminal that is closed loses nothing, and shells side by side do not overwrite one
//! another. Values may be secrets, so its owner alone may read the file, and a line that begins with a blank is not kept.
//!
//! A history that cannot be read or written hinders nobody: that is said once.

use super::completion::Assistant;
use crate::contexts::create_private_directory;
use rustyline::Editor;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file, as long as it can be written.
pub(super) struct History {
    path: Option<PathBuf>,
}

impl History {
    /// Reads the history into the editor; `None` where the environment does not say where it is.
    pub(super) fn open(editor: &mut Editor<Assistant, FileHistory>) -> Option<History> {
        let path = path()?;
        let mut history = History { path: Some(path.clone()) };
        if let Err(cause) = create(&path).map_err(ReadlineError::Io).and_then(|()| editor.load_history(&path)) {
            history.give_up(&cause);
        }
        Some(history)
    }

    /// Writes the lines that have been added since the last time.
    pub(super) fn keep(&mut self, editor: &mut Editor<Assistant, FileHistory>) {
        if let Some(path) = &self.path
            && let Err(cause) = editor.append_history(path)
        {
            self.give_up(&cause);
        }
    }

    fn give_up(&mut self, cause: &ReadlineError) {
        if let Some(path) = self.path.take() {
            // A remark; the shell works without a history.
            let _told = writeln!(io::stderr(), "{}: {cause}; lines are not kept", path.display());
        }
    }
}

/// Makes the file for its owner alone before anybody else could make it otherwise.
fn create(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        create_private_directory(parent)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop)
}

fn path() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = variable("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = state.or_else(|| variable("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("raftkv/history"))
}

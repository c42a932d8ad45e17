//! A terminal for a program to sit at, and somebody who types.
//!
//! A pseudoterminal with its other end here. `setsid` makes it the program's controlling terminal, so that Ctrl-C is a signal, as it is for a person.

use crate::common::DEADLINE;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Ctrl-C.
pub(crate) const CTRL_C: &str = "\x03";
/// Ctrl-D.
pub(crate) const CTRL_D: &str = "\x04";
/// The arrow that brings the line before.
pub(crate) const UP: &str = "\x1b[A";

/// What has been shown so far, and a bell for more.
type Screen = Arc<(Mutex<String>, Condvar)>;

/// A program at a terminal.
pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    screen: Screen,
    /// Up to here the screen has been looked at.
    seen: usize,
}

impl Terminal {
    /// Starts a program; its environment is the command's.
    pub(crate) fn start(command: &Command) -> Terminal {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are pseudoterminals");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("it is ours");
        let name = ptsname(&ours, Vec::new()).expect("it has a name").into_string().expect("it is plain");
        let theirs = || OpenOptions::new().read(true).write(true).open(&name).expect("it was unlocked");
        let mut setsid = Command::new("setsid");
        setsid.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => setsid.env(variable, value),
                None => setsid.env_remove(variable),
            };
        }
        setsid.env("TERM", "xterm").stdin(theirs()).stdout(theirs()).stderr(theirs());
        let child = setsid.spawn().expect("setsid is part of util-linux");
        let mut reader = File::from(ours);
        let keyboard = reader.try_clone().expect("there are file descriptors");
        let screen = Screen::default();
        let shown = screen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // An error is how a pseudoterminal ends whose other side is gone.
            while let Ok(read @ 1..) = reader.read(&mut bytes) {
                shown
                    .0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&String::from_utf8_lossy(&bytes[..read]));
                shown.1.notify_all();
            }
        });
        Terminal { child, keyboard, screen, seen: 0 }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the program sits at its terminal");
    }

    /// Presses keys, again and again where nothing comes of it, until this is shown: a Tab gives up where the cluster is slow.
    #[track_caller]
    pub(crate) fn press_until_it_shows(&mut self, keys: &str, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            self.press(keys);
            if self.is_shown(text, Duration::from_secs(2)) {
                return;
            }
        }
        self.shows(text);
    }

    /// Waits until this is shown, after what was waited for before.
    #[track_caller]
    pub(crate) fn shows(&mut self, text: &str) {
        let is_shown = self.is_shown(text, DEADLINE);
        let screen = self.screen.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(is_shown, "{text:?} is not shown; there is\n{}", &screen[self.seen..]);
    }

    fn is_shown(&mut self, text: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut shown = self.screen.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(position) = shown[self.seen..].find(text) {
                self.seen += position + text.len();
                return true;
            }
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return false;
            }
            shown = self.screen.1.wait_timeout(shown, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the program has ended.
    pub(crate) fn ended(mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "the program does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

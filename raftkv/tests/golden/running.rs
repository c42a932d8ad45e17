//! Commands that run until something happens, or until Ctrl-C.

use crate::common::DEADLINE;
use crate::transcript::{Transcript, quoted};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A command under way.
pub(crate) struct Running {
    line: String,
    child: Child,
    /// What it prints, line by line as it comes.
    lines: Receiver<String>,
    stdout: String,
}

impl Running {
    pub(crate) fn start(mut command: Command, arguments: &[&str]) -> Running {
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command line starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (told, lines) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            while stdout.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                // Nobody listens any more when a test has failed.
                let _told = told.send(std::mem::take(&mut line));
            }
        });
        let words: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        Running { line: format!("raftkv-cli {}", words.join(" ")), child, lines, stdout: String::new() }
    }

    /// The next line that it prints.
    #[track_caller]
    pub(crate) fn next_line(&mut self) -> String {
        let line = self.lines.recv_timeout(DEADLINE).unwrap_or_else(|cause| panic!("{}: no line: {cause}", self.line));
        self.stdout.push_str(&line);
        line.trim_end_matches('\n').to_owned()
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it is our child");
    }

    /// Whether Ctrl-C is something that it sees to itself.
    pub(crate) fn listens_to_interrupts(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or_default();
        caught & (1 << (Signal::INT.as_raw() - 1)) != 0
    }

    /// Waits until it has ended, and writes it down.
    #[track_caller]
    pub(crate) fn write_down(mut self, transcript: &mut Transcript) {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.line);
            std::thread::sleep(Duration::from_millis(20));
        };
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => self.stdout.push_str(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("{} has ended, and something holds its output", self.line),
            }
        }
        let mut stderr = Vec::new();
        self.child.stderr.take().expect("it is piped").read_to_end(&mut stderr).expect("it can be read");
        transcript.write(&self.line, "", &Output { status, stdout: self.stdout.clone().into_bytes(), stderr });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where a test has failed, it may be running still.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

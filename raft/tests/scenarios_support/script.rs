//! A script: comments, and blocks of commands with the output that they should give.
//!
//! ```text
//! # Comments stand before a block or between its commands.
//! command
//! command
//! ----
//! output of the commands, up to an empty line
//! ```

use super::commands;
use super::world::World;
use std::cell::Cell;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Commands, and what they should put out.
#[derive(Debug)]
struct Block {
    /// The line of the first command, from 1.
    line: usize,
    /// The commands, with their lines.
    commands: Vec<(usize, String)>,
    /// Everything before the output as it is in the file: comments, empty lines, commands.
    before: Vec<String>,
    output: Vec<String>,
}

/// A file, taken apart.
#[derive(Debug)]
pub struct Script {
    name: String,
    blocks: Vec<Block>,
    /// Comments after the last block.
    after: Vec<String>,
}

/// A script with what its commands put out.
#[derive(Debug)]
pub struct Played<'a> {
    script: &'a Script,
    outputs: Vec<Vec<String>>,
}

impl Script {
    /// Takes a file apart. The error names file and line.
    pub fn parse(name: &str, text: &str) -> Result<Script, String> {
        let mut script = Script { name: name.to_owned(), blocks: Vec::new(), after: Vec::new() };
        let mut before = Vec::new();
        let mut commands: Vec<(usize, String)> = Vec::new();
        let mut lines = text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            if line == "----" {
                let Some((first, _)) = commands.first() else {
                    return Err(format!("{name}:{number}: \"----\" without commands before it"));
                };
                let first = *first;
                let output = lines.by_ref().map(|(line, _)| line.to_owned()).take_while(|line| !line.is_empty());
                let output = output.collect();
                let (commands, before) = (std::mem::take(&mut commands), std::mem::take(&mut before));
                script.blocks.push(Block { line: first, commands, before, output });
                continue;
            }
            let is_blank = line.trim().is_empty();
            if let (true, Some((first, _))) = (is_blank, commands.first()) {
                return Err(format!("{name}:{first}: commands without \"----\" and output after them"));
            }
            if !is_blank && !line.starts_with('#') {
                commands.push((number, line.to_owned()));
            }
            before.push(line.to_owned());
        }
        if let Some((first, _)) = commands.first() {
            return Err(format!("{name}:{first}: commands without \"----\" and output after them"));
        }
        script.after = before;
        Ok(script)
    }

    /// Whether anything is put out at all.
    pub fn has_output(&self) -> bool {
        self.blocks.iter().any(|block| !block.output.is_empty())
    }

    /// Carries the commands out. The error names file and line.
    pub fn play(&self) -> Result<Played<'_>, String> {
        let at = Cell::new(0);
        let outputs = catch_unwind(AssertUnwindSafe(|| self.play_blocks(&at))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("a check failed: {}", text.unwrap_or_default()))
        });
        match outputs {
            Ok(outputs) => Ok(Played { script: self, outputs }),
            Err(problem) => Err(format!("{}:{}: {problem}", self.name, at.get())),
        }
    }

    fn play_blocks(&self, at: &Cell<usize>) -> Result<Vec<Vec<String>>, String> {
        let mut world = World::default();
        let mut outputs = Vec::new();
        for block in &self.blocks {
            for (line, command) in &block.commands {
                at.set(*line);
                commands::carry_out(&mut world, command)?;
            }
            outputs.push(world.take_output());
        }
        Ok(outputs)
    }
}

impl Played<'_> {
    /// The file with the outputs as they came.
    pub fn text(&self) -> String {
        let mut lines: Vec<&str> = Vec::new();
        for (block, output) in self.script.blocks.iter().zip(&self.outputs) {
            lines.extend(block.before.iter().map(String::as_str));
            lines.push("----");
            lines.extend(output.iter().map(String::as_str));
            lines.push("");
        }
        lines.extend(self.script.after.iter().map(String::as_str));
        while lines.last().is_some_and(|line| line.is_empty()) {
            lines.pop();
        }
        lines.join("\n") + "\n"
    }

    /// The difference between what is written and what came, if there is one.
    pub fn compare(&self) -> Result<(), String> {
        let mut report = String::new();
        for (block, output) in self.script.blocks.iter().zip(&self.outputs) {
            if block.output != *output {
                let (name, line) = (&self.script.name, block.line);
                writeln!(report, "{name}:{line}: the output differs (- written, + played)").unwrap();
                for (_, command) in &block.commands {
                    writeln!(report, "    {command}").unwrap();
                }
                report.push_str(&difference(&block.output, output));
                // What follows a first difference usually differs because of it.
                break;
            }
        }
        if report.is_empty() { Ok(()) } else { Err(report.trim_end().to_owned()) }
    }
}

/// Two lists of lines beside each other: equal at both ends, different in the middle.
fn difference(written: &[String], played: &[String]) -> String {
    let same_start = written.iter().zip(played).take_while(|(one, other)| one == other).count();
    let (rest_written, rest_played) = (&written[same_start..], &played[same_start..]);
    let same_end =
        rest_written.iter().rev().zip(rest_played.iter().rev()).take_while(|(one, other)| one == other).count();
    let mut report = String::new();
    let mut put = |sign: char, lines: &[String]| {
        for line in lines {
            writeln!(report, "  {sign} {line}").unwrap();
        }
    };
    put(' ', &written[..same_start]);
    put('-', &rest_written[..rest_written.len() - same_end]);
    put('+', &rest_played[..rest_played.len() - same_end]);
    put(' ', &rest_played[rest_played.len() - same_end..]);
    report
}

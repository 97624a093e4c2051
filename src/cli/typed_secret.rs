//! Secrets that a person gives: typed at the terminal without being shown, or in a file. Never an argument.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    path::Path,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::Failure;
use crate::config::Secret;

/// Longest secret, in bytes, that is read at all.
const MAX_BYTES: u64 = 64 * 1024;

/// The end of text (Ctrl-C), which reaches us as a character while the terminal is quiet.
const END_OF_TEXT: char = '\u{3}';

/// Reads a secret from the file, `-` being standard input, without the line end.
pub fn from_file(path: &Path) -> Result<Secret, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::refused("password.file", format!("cannot read {}: {error}", path.display())))?;
    Ok(Secret::new(text.trim_end_matches(['\n', '\r'])))
}

/// Asks twice at the terminal.
pub fn ask_twice(what: &str) -> Result<Secret, Failure> {
    let first = ask(&format!("{what}: "))?;
    let second = ask(&format!("{what}, again: "))?;
    if first.expose() != second.expose() {
        return Err(Failure::refused("password.differs", "the two passwords differ"));
    }
    Ok(first)
}

fn ask(prompt: &str) -> Result<Secret, Failure> {
    let no_terminal = |error: std::io::Error| {
        Failure::refused("password.no_terminal", format!("there is no terminal to ask at ({error})"))
            .hint("Give --password-file FILE, or `-` for standard input.")
    };
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(no_terminal)?;
    let quiet = Quiet::new(&terminal).map_err(|error| no_terminal(error.into()))?;
    let mut line = String::new();
    terminal.write_all(prompt.as_bytes()).map_err(no_terminal)?;
    BufReader::new((&terminal).take(MAX_BYTES)).read_line(&mut line).map_err(no_terminal)?;
    drop(quiet);
    // The line's own end was not shown either. When this fails there is nothing to tidy.
    let _ = writeln!(terminal);
    if line.contains(END_OF_TEXT) {
        return Err(Failure::new(super::Exit::Interrupted, "interrupted", "interrupted"));
    }
    Ok(Secret::new(line.trim_end_matches(['\n', '\r'])))
}

/// A terminal that does not show what is typed, until dropped. Ctrl-C is a character meanwhile: it must not end the program here.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn new(terminal: &File) -> rustix::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes &= !(LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        let terminal = terminal.try_clone().map_err(|_| rustix::io::Errno::BADF)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // When this fails the terminal is gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

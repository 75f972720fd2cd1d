//! How a program ends: a message for people and an exit code for scripts (the numbers of sysexits.h).

use crate::lines;
use std::fmt;

/// Why a program stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// The run finished, and something was lost that should not have been.
    Incomplete = 1,
    /// The command line is wrong.
    Usage = 64,
    /// An input is missing or unreadable.
    NoInput = 66,
    /// No relay could be reached, or an address could not be bound.
    Unavailable = 69,
    /// A defect of ours.
    Software = 70,
    /// An output could not be created.
    CannotCreate = 73,
    /// Reading or writing failed on the way: a full disk.
    Io = 74,
    /// Certificate, token, stream name or right refused.
    Refused = 77,
    /// The configuration is wrong.
    Config = 78,
}

/// An error at the edge of a program.
#[derive(Debug)]
pub struct Failure {
    /// For scripts.
    pub exit: Exit,
    /// For people: what, where, and what was expected.
    pub message: String,
}

impl Failure {
    /// A failure with its message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Ends the program at once, because it was told to for the second time; the terminal is given back first.
pub fn at_once() -> ! {
    crate::terminal::restore();
    lines::finish();
    std::process::exit(130)
}

/// Prints the failure of a program, if any, and gives the code for `main` to return.
pub fn finish(program: &str, result: Result<(), Failure>) -> std::process::ExitCode {
    let code = match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            lines::stderr().put(format!("{program}: {failure}\n"));
            std::process::ExitCode::from(failure.exit as u8)
        }
    };
    lines::finish();
    code
}

//! Other people's programs as processes: found or not, bounded in time, ended by their process id.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A program that a peer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// SRT to and from UDP.
    SrtLiveTransmit,
    /// UDP to RIST.
    RistSender,
    /// RIST to UDP.
    RistReceiver,
}

/// A program that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is not installed: it is in Debian's package {} (apt install {})", .0.program(), .0.package(), .0.package())]
pub struct NotInstalled(Tool);

/// A process that runs. It is killed, by its id, where it is dropped.
#[derive(Debug)]
pub(crate) struct External {
    tool: Tool,
    child: Child,
    /// What it says, both outputs.
    said: tempfile::NamedTempFile,
}

impl Tool {
    /// Its file name.
    pub(super) fn program(self) -> &'static str {
        match self {
            Tool::SrtLiveTransmit => "srt-live-transmit",
            Tool::RistSender => "ristsender",
            Tool::RistReceiver => "ristreceiver",
        }
    }

    /// The Debian package that has it.
    pub(super) fn package(self) -> &'static str {
        match self {
            Tool::SrtLiveTransmit => "srt-tools",
            Tool::RistSender | Tool::RistReceiver => "rist-tools",
        }
    }

    /// Where it is.
    pub(super) fn find(self) -> Result<PathBuf, NotInstalled> {
        find(self.program(), std::env::var_os("PATH").as_deref()).ok_or(NotInstalled(self))
    }

    /// Starts it. Where setpriv (util-linux) is there the kernel ends it with the thread that calls this, whatever becomes of us.
    pub(crate) fn start(self, arguments: &[String]) -> std::io::Result<External> {
        let program = self.find().map_err(std::io::Error::other)?;
        let mut command = match find("setpriv", std::env::var_os("PATH").as_deref()) {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let said = tempfile::NamedTempFile::new()?;
        let child =
            command.args(arguments).stdin(Stdio::null()).stdout(said.reopen()?).stderr(said.reopen()?).spawn()?;
        Ok(External { tool: self, child, said })
    }
}

fn find(program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path?).map(|folder| folder.join(program)).find(|file| file.is_file())
}

impl External {
    /// Its name.
    pub(super) fn name(&self) -> &'static str {
        self.tool.program()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, where it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// The last lines of what it said.
    pub(super) fn said(&mut self) -> String {
        let mut text = Vec::new();
        let read = self.said.reopen().and_then(|mut file| file.read_to_end(&mut text));
        match read {
            Ok(_) => tail(&String::from_utf8_lossy(&text)),
            Err(error) => format!("({error})"),
        }
    }
}

impl Drop for External {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// The last three lines that are not empty.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match &lines[lines.len().saturating_sub(3)..] {
        [] => "nothing".into(),
        last => last.join(" | "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_names_its_package() {
        assert_eq!(find("srt-live-transmit", Some(OsStr::new("/nowhere:/nor/here"))), None);
        assert_eq!(find("srt-live-transmit", None), None);
        let text = NotInstalled(Tool::RistSender).to_string();
        assert!(text.contains("ristsender is not installed") && text.contains("apt install rist-tools"), "{text}");
    }

    #[test]
    fn only_the_last_words_are_told() {
        assert_eq!(tail("a\n\nb\nc\n d\n"), "b | c |  d");
        assert_eq!(tail("\n \n"), "nothing");
    }
}

//! Chores around a release: `cargo xtask packaging DIR`.

use clap::{Command, Parser};
use clap_complete::{Shell, generate_to};
use std::io;
use std::path::{Path, PathBuf};

/// Chores around a release of Anabranch
#[derive(Debug, Parser)]
enum Chore {
    /// Write shell completions and manual pages of all programs: DIR/bash, DIR/zsh, DIR/fish, DIR/man
    Packaging {
        /// Where to; it is made where it is missing
        #[arg(value_name = "DIR", default_value = "target/packaging")]
        directory: PathBuf,
    },
}

fn main() -> io::Result<()> {
    let Chore::Packaging { directory } = Chore::parse();
    packaging(&directory)
}

/// Each program's name and command line.
fn programs() -> [(&'static str, Command); 3] {
    [
        ("anabranch-relay", relay::cli::command()),
        ("anabranch-source", source::cli::command()),
        ("anabranch-sink", sink::cli::command()),
    ]
}

fn packaging(directory: &Path) -> io::Result<()> {
    let room = |name: &str| {
        let room = directory.join(name);
        std::fs::create_dir_all(&room).map(|()| room)
    };
    let shells = [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];
    for (name, command) in programs() {
        for (shell, generator) in shells {
            generate_to(generator, &mut command.clone(), name, room(shell)?)?;
        }
        // bash-completion loads a command's file by the command's name alone.
        let bash = room("bash")?;
        std::fs::rename(bash.join(format!("{name}.bash")), bash.join(name))?;
        clap_mangen::generate_to(command.name(name), room("man")?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_its_completions_and_manual_pages() {
        let directory = tempfile::tempdir().expect("a directory");
        packaging(directory.path()).expect("it can be written");
        for (name, _) in programs() {
            let (zsh, fish) = (format!("zsh/_{name}"), format!("fish/{name}.fish"));
            for file in [format!("bash/{name}"), zsh, fish, format!("man/{name}.1")] {
                let text = std::fs::read_to_string(directory.path().join(&file)).expect(&file);
                assert!(text.contains(name.trim_start_matches("anabranch-")), "{file}");
            }
        }
        let page = std::fs::read_to_string(directory.path().join("man/anabranch-relay-ctl-link-set.1"));
        assert!(page.expect("subcommands have theirs").contains("overhead"));
    }
}

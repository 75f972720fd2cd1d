//! The README's deployment, followed to the letter on three machines: network namespaces with addresses and names of their own.

use anabranch_tests::hosts::Hosts;
use anabranch_tests::programs::{Process, Program};
use anabranch_tests::stream;
use std::path::Path;
use std::time::Duration;

const README: &str = include_str!("../../README.md");

/// The lines of the section's console blocks, without prompts, each with the machine that the prompt names.
fn lines() -> Vec<(String, String)> {
    let (_, section) = README.split_once("## A real deployment in ten lines").expect("the README has the section");
    let section = section.split("\n## ").next().expect("a split has a first part");
    let blocks = section.split("```console\n").skip(1).filter_map(|block| block.split("```").next());
    let lines = blocks.flat_map(str::lines).filter_map(|line| line.split_once("$ "));
    lines.map(|(host, line)| (host.trim().to_owned(), line.trim().to_owned())).collect()
}

/// The programs under the names they are shipped with.
fn install(folder: &Path) {
    for (name, program) in
        [("anabranch-relay", Program::Relay), ("anabranch-source", Program::Source), ("anabranch-sink", Program::Sink)]
    {
        std::os::unix::fs::symlink(program.command().get_program(), folder.join(name)).unwrap();
    }
}

/// Copies a file of the machine where keys are made to another, where that has a place for it.
fn copy(hosts: &Hosts, file: &str, to: &str) {
    let (from, to) = (hosts.folder_of("office").join(file), hosts.folder_of(to).join(file));
    std::fs::create_dir_all(to.parent().expect("a file in a folder")).unwrap();
    std::fs::copy(&from, &to).unwrap();
}

#[test]
#[ignore = "long: three machines; needs root, ip and ffmpeg"]
fn the_readme_leads_to_a_picture() {
    if !Hosts::are_possible() || !stream::have_ffmpeg() {
        return;
    }
    let (once, lasting): (Vec<_>, Vec<_>) = lines().into_iter().partition(|(host, _)| host.is_empty());
    assert_eq!((once.len(), lasting.len()), (6, 4), "the deployment has ten lines");

    let programs = tempfile::tempdir().unwrap();
    install(programs.path());
    let hosts = Hosts::new(&["office", "lon", "fra", "studio"]);

    assert_eq!(once[0].1.split('#').next().map(str::trim), Some("cargo build --release"));
    for (_, line) in &once[1..] {
        hosts.run("office", line, programs.path());
    }
    for (file, machines) in [
        ("keys/authority.crt", &["lon", "fra", "studio"][..]),
        ("keys/lon.crt", &["lon"]),
        ("keys/lon.key", &["lon"]),
        ("keys/fra.crt", &["fra"]),
        ("keys/fra.key", &["fra"]),
        ("publish.token", &["studio"]),
        ("watch.token", &["fra"]),
    ] {
        for machine in machines {
            copy(&hosts, file, machine);
        }
    }
    let make = "ffmpeg -nostdin -loglevel error -f lavfi -i testsrc2=size=640x360:rate=25 -f lavfi -i sine=frequency=440 \
                -t 60 -c:v libx264 -preset ultrafast -g 25 -c:a aac in.mp4";
    hosts.run("studio", make, programs.path());

    let mut running: Vec<Process> = Vec::new();
    for (host, line) in &lasting {
        running.push(hosts.start(host, line, programs.path()));
        std::thread::sleep(Duration::from_millis(500));
    }
    std::thread::sleep(Duration::from_secs(3));
    for (process, (host, line)) in running.iter_mut().zip(&lasting) {
        assert!(process.runs(), "{host}$ {line}\nhas ended:\n{}\n{}", process.stdout(), process.stderr());
    }

    let probe = "timeout 20 ffprobe -loglevel error -show_entries stream=codec_name -of csv=p=0 http://fra.example.net:8080/main.ts";
    let streams = hosts.run("studio", probe, programs.path());
    assert!(streams.contains("h264") && streams.contains("aac"), "the player finds {streams:?}");
    let page = "curl --silent --show-error --fail --max-time 10 http://fra.example.net:8080/";
    let page = hosts.run("studio", page, programs.path());
    assert!(page.contains("<video"), "the player page: {page}");

    for process in running.iter_mut().skip(1) {
        assert!(process.runs(), "{}", process.stderr());
    }
    let relay = running.remove(0);
    assert!(relay.stderr().contains("connected"), "{}", relay.stderr());
    drop(running);
}

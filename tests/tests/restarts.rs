//! Programs that die and come back, and addresses that change: everything resumes by itself, and nothing else is disturbed.

use anabranch_tests::clean;
use anabranch_tests::flow::{Flow, Media, Watching, assert_intact, wait_until_live, wait_until_up};
use bench::channel::ChannelConfig;
use bench::emulator::Action;
use bench::rig::{Rig, RigPlan};
use node::clock::Clock;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

fn chain(channel: &ChannelConfig) -> Rig {
    let links = [("a", "b", channel.clone()), ("b", "c", channel.clone())];
    Rig::start(&RigPlan::new(1, &["a", "b", "c"], &links)).unwrap()
}

/// Two flows over the same relays: one that is disturbed, one that must not notice.
fn two_flows(rig: &Rig, channel: &ChannelConfig) -> (Flow, Flow) {
    let mut flow = Flow::start(rig, "disturbed", ("a", "c"), channel, Media::video(1));
    let mut other = Flow::start(rig, "bystander", ("a", "c"), channel, Media::video(2));
    flow.feed();
    other.feed();
    flow.check.wait_for(500, PATIENCE);
    other.check.wait_for(100, PATIENCE);
    (flow, other)
}

#[test]
fn a_source_killed_and_started_again_resumes() {
    let channel = clean(10);
    let rig = chain(&channel);
    let (mut flow, mut other) = two_flows(&rig, &channel);
    let door = rig.emulator().address("source-disturbed-a").unwrap().to_string();
    let config = |stream: &str| source::Config {
        relays: vec![door.clone()],
        streams: vec![source::Stream::new(stream.parse().unwrap(), format!("udp://{}", flow.input).parse().unwrap())],
        ..source::Config::default()
    };
    let config = config("test/disturbed");
    flow.source.take().unwrap().kill();
    std::thread::sleep(Duration::from_secs(1));
    let clock = Clock::start();
    let start = clock.now();
    flow.source = Some(rig.source("source-disturbed", config).unwrap());
    flow.check.wait_for(1, PATIENCE);
    println!("a restarted source: first packet played out after {:?}", clock.now() - start);
    flow.check.wait_for(500, PATIENCE);
    let (_, seen) = flow.finish();
    assert_eq!(seen.compared.foreign, 0);
    let result = other.finish();
    assert_intact(&rig, &other, result);
}

#[test]
fn a_sink_killed_and_started_again_resumes() {
    let channel = clean(10);
    let rig = chain(&channel);
    let (mut flow, mut other) = two_flows(&rig, &channel);
    let door = rig.emulator().address("sink-disturbed-c").unwrap().to_string();
    let output = format!("udp://{}", flow.check.address).parse().unwrap();
    let config = sink::Config {
        relays: vec![door],
        streams: vec![sink::StreamConfig::new("test/disturbed".parse().unwrap(), vec![output])],
        ..sink::Config::default()
    };
    flow.sink.take().unwrap().kill();
    std::thread::sleep(Duration::from_secs(1));
    let clock = Clock::start();
    let start = clock.now();
    flow.sink = Some(rig.sink("sink-disturbed", config).unwrap());
    flow.check.wait_for(1, PATIENCE);
    println!("a restarted sink: first packet played out after {:?}", clock.now() - start);
    flow.check.wait_for(500, PATIENCE);
    let (_, seen) = flow.finish();
    assert_eq!(seen.compared.foreign, 0);
    let result = other.finish();
    assert_intact(&rig, &other, result);
}

#[test]
fn a_middle_relay_killed_and_started_again_resumes() {
    let channel = clean(10);
    let mut rig = chain(&channel);
    let (mut flow, mut other) = two_flows(&rig, &channel);
    rig.kill_relay("b").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let clock = Clock::start();
    let start = clock.now();
    rig.restart_relay("b").unwrap();
    flow.check.wait_for(1, PATIENCE);
    println!("a restarted middle relay: first packet played out after {:?}", clock.now() - start);
    flow.check.wait_for(500, PATIENCE);
    other.check.wait_for(500, PATIENCE);
    for flow in [&mut flow, &mut other] {
        let (_, seen) = flow.finish();
        assert_eq!(seen.compared.foreign, 0);
        assert_eq!(flow.source_report().connection.connections, 1, "the source was disturbed");
        assert_eq!(flow.sink_report().connection.connections, 1, "the sink was disturbed");
    }
}

/// A square: the stream goes around a relay that died, long before it is back.
#[test]
fn a_relay_that_stays_dead_is_routed_around() {
    let channel = clean(10);
    let links = [("a", "b"), ("b", "d"), ("a", "c"), ("c", "d")].map(|(from, to)| {
        // The way by b is the shorter one, so that it is in use.
        (from, to, clean(if from == "c" || to == "c" { 20 } else { 10 }))
    });
    let mut rig = Rig::start(&RigPlan::new(1, &["a", "b", "c", "d"], &links)).unwrap();
    let mut flow = Flow::start(&rig, "around", ("a", "d"), &channel, Media::video(1));
    flow.feed();
    flow.check.wait_for(500, PATIENCE);
    flow.check.reset_gap();
    rig.kill_relay("b").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    flow.check.wait_for(1000, PATIENCE);
    let seen = flow.check.seen();
    println!("a dead relay: played on after {:?}", seen.longest_gap);
    assert!(seen.longest_gap < Duration::from_secs(3), "{seen:?}");
    assert_eq!(seen.compared.foreign, 0);
}

/// As behind a NAT that lost its state: the relay sees the source under another address.
#[test]
fn the_address_of_a_source_changes() {
    let channel = clean(10);
    let rig = chain(&channel);
    let (mut flow, mut other) = two_flows(&rig, &channel);
    flow.check.reset_gap();
    rig.emulator().act("source-disturbed-a", None, Action::Rebind).unwrap();
    flow.check.wait_for(1500, PATIENCE);
    let (sent, seen) = flow.finish();
    println!(
        "a source under a new address: longest gap {:?}, {} of {sent} packets lost, {} connections",
        seen.longest_gap,
        sent - seen.compared.intact,
        flow.source_report().connection.connections
    );
    assert_eq!(seen.compared.foreign, 0);
    let result = other.finish();
    assert_intact(&rig, &other, result);
}

#[test]
fn the_address_of_a_sink_changes() {
    let channel = clean(10);
    let rig = chain(&channel);
    let (mut flow, mut other) = two_flows(&rig, &channel);
    flow.check.reset_gap();
    rig.emulator().act("sink-disturbed-c", None, Action::Rebind).unwrap();
    flow.check.wait_for(1500, PATIENCE);
    let (sent, seen) = flow.finish();
    println!(
        "a sink under a new address: longest gap {:?}, {} of {sent} packets lost, {} connections",
        seen.longest_gap,
        sent - seen.compared.intact,
        flow.sink_report().connection.connections
    );
    assert_eq!(seen.compared.foreign, 0);
    let result = other.finish();
    assert_intact(&rig, &other, result);
}

/// A sink that is there before its stream, and a source that comes back after its relay did.
#[test]
fn everything_may_start_in_any_order() {
    let channel = clean(10);
    let mut rig = chain(&channel);
    let mut flow = Flow::start(&rig, "order", ("a", "c"), &channel, Media::video(1));
    flow.feed();
    flow.check.wait_for(100, PATIENCE);
    rig.kill_relay("a").unwrap();
    rig.kill_relay("c").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    rig.restart_relay("a").unwrap();
    rig.restart_relay("c").unwrap();
    flow.check.wait_for(500, PATIENCE);
    wait_until_live(flow.source.as_ref().unwrap());
    wait_until_up(flow.sink.as_ref().unwrap());
    let (_, seen) = flow.finish();
    assert_eq!(seen.compared.foreign, 0);
}

/// A sink that joins where the stream has been running, at the relay where it is and at one it does not pass yet.
#[test]
fn a_late_sink_gets_the_stream_within_a_second() {
    let channel = clean(10);
    let rig = chain(&channel);
    let mut flow = Flow::start(&rig, "early", ("a", "b"), &channel, Media::video(1));
    flow.feed();
    flow.check.wait_for(500, PATIENCE);
    for at in ["b", "c"] {
        let media = Media::video(1);
        let check = anabranch_tests::flow::Check::start(&media);
        let name = format!("late-{at}");
        let output = format!("udp://{}", check.address);
        let watching =
            Watching { name: &name, stream: "test/early", at, channel: channel.clone(), outputs: vec![output] };
        let config = watching.config(&rig);
        let clock = Clock::start();
        let start = clock.now();
        let sink = rig.sink(&name, config).unwrap();
        check.wait_for(1, PATIENCE);
        let took = clock.now() - start;
        println!("a late sink at {at}: first packet played out after {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        check.wait_for(300, PATIENCE);
        drop(sink);
    }
    let result = flow.finish();
    assert_intact(&rig, &flow, result);
}

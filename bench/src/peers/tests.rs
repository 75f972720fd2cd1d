use super::*;
use std::path::Path;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/peers.toml")
}

#[test]
fn the_plan_that_is_shipped_loads() {
    let plan = PeersPlan::load(&shipped()).unwrap();
    assert_eq!((plan.carriers.len(), plan.cells.len()), (5, 8));
    let losses: Vec<_> = plan.cells.iter().map(|cell| cell.forward.loss.mean()).collect();
    assert_eq!(losses, [0.0, 0.02, 0.05, 0.10, 0.0, 0.02, 0.05, 0.10]);
}

#[test]
fn a_wrong_plan_says_what_is_wrong() {
    let text = std::fs::read_to_string(shipped()).unwrap();
    for (from, to, says) in [
        ("rate = ", "rat = ", "unknown field `rat`"),
        ("kind = \"rist\"", "kind = \"rits\"", "unknown variant `rits`"),
        ("name = \"RIST\"", "name = \"SRT\"", "two named \"SRT\""),
        ("mean = 0.05", "mean = 5", "loss.mean is 5: expected a share from 0 to 1"),
        ("deadline = \"200ms\"", "deadline = \"20ms\"", "forward.delay: expected less than the deadline"),
        ("rate = 10_000_000", "rate = 0", "rate: expected more than 0"),
    ] {
        assert!(text.contains(from), "{from}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.toml");
        std::fs::write(&file, text.replace(from, to)).unwrap();
        let error = PeersPlan::load(&file).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("plan.toml"), "{error}");
    }
}

/// The forwarder, our own programs, and what is installed of the peers carry everything over a link without loss. `.ci/run install`
/// fetches the peers.
#[test]
#[ignore = "long: real programs over real sockets"]
fn every_carrier_that_is_installed_carries() {
    let mut plan = PeersPlan::load(&shipped()).unwrap();
    plan.packets = 1000;
    plan.warmup = std::time::Duration::from_secs(1);
    let report = cell::run(&plan, &plan.cells[0], true).unwrap();
    println!("{report}");
    for carrier in &report.carriers {
        let Some(measured) = carrier.measured else {
            let reason = carrier.failed.clone().unwrap_or_default();
            assert!(reason.contains("is not installed"), "{}: {reason}", carrier.name);
            assert!(std::env::var_os("CI").is_none(), "where CI is set it must be installed: {reason}");
            eprintln!("NOT TESTED: {reason}");
            continue;
        };
        assert_eq!(measured.outcome.foreign, 0, "{}: what comes out is what went in", carrier.name);
        assert!(measured.outcome.lost < 100, "{}: {:?}", carrier.name, measured.outcome);
    }
}

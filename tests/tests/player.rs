//! The sink's player page in a real browser.

use anabranch_tests::browser::Driver;
use anabranch_tests::flow::{Publishing, Watching};
use anabranch_tests::lossy;
use bench::rig::{Rig, RigPlan};
use fantoccini::ClientBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use node::control::Dissemination;
use serde_json::Value;
use std::time::Duration;

/// What the page shows and its video does.
const LOOK: &str = "const video = document.querySelector('video');
    const text = id => document.getElementById(id).textContent;
    return { time: video.currentTime, width: video.videoWidth, error: video.error && video.error.message,
             state: text('state'), behind: text('behind'), stalls: Number(text('stalls')) };";

/// The page plays the stream through two lossy hops: pictures, moving on, no error, its latency shown.
#[test]
#[ignore = "long: a browser plays for half a minute; needs chromium and chromedriver"]
fn the_player_page_plays() {
    let Some(driver) = Driver::start() else { return };
    let rig = Rig::start(&RigPlan::new(1, &["a", "b"], &[("a", "b", lossy(15, 5.0))])).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("clip.ts");
    std::fs::write(&file, bench::demo::CLIP).unwrap();
    let sink = Watching {
        name: "sink",
        stream: "test/film",
        at: "b",
        channel: lossy(15, 5.0),
        outputs: vec!["http://127.0.0.1:0/live.ts".into()],
    }
    .start(&rig);
    let publishing = Publishing {
        name: "source",
        stream: "test/film",
        at: "a",
        channel: lossy(15, 5.0),
        input: format!("file:{}", file.display()),
        deadline: Duration::from_millis(200),
        mode: Dissemination::Tree,
    };
    let mut config = publishing.config(&rig);
    config.streams[0].endless = true;
    let _source = rig.source("source", config).unwrap();
    let patience = Duration::from_secs(20);
    let report =
        sink.wait_for("some of the stream", patience, |report| report.streams[0].packets.on_time > 50).unwrap();
    let page = report.streams[0].outputs[0].output.replace("live.ts", "");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let looks = runtime.block_on(async {
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let browser = builder.capabilities(Driver::capabilities()).connect(&driver.url()).await.unwrap();
        browser.goto(&page).await.unwrap();
        let mut looks = Vec::new();
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            looks.push(browser.execute(LOOK, Vec::new()).await.unwrap());
        }
        browser.close().await.unwrap();
        looks
    });
    let number = |look: &Value, key: &str| look[key].as_f64().unwrap_or_default();
    for look in &looks {
        println!("{look}");
        assert!(look["error"].is_null(), "{look}");
    }
    let (first, last) = (&looks[0], &looks[looks.len() - 1]);
    assert_eq!(number(last, "width"), 640.0, "{last}");
    assert!(last["behind"].as_str().is_some_and(|shown| shown.ends_with(" ms")), "{last}");
    // 28 s went by. How smoothly it played is printed: that depends on the machine.
    assert!(number(last, "time") - number(first, "time") > 14.0, "{first} … {last}");
}

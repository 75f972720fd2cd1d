//! The relay's dashboard in a real browser, over an overlay of six relays under loss, one link of which fails.
//!
//! With `ANABRANCH_SCREENSHOTS=DIR` it runs for some minutes, so that the charts have something to show, and writes what the browser shows to `DIR`: the
//! pictures of `docs/dashboard.md` are made by it.

use anabranch_tests::browser::Driver;
use anabranch_tests::flow::{Flow, Media, Watching, assert_intact, free_port};
use anabranch_tests::http::ask;
use anabranch_tests::{clean, lossy};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bench::emulator::Action;
use bench::rig::{Rig, RigPlan};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use link::Bitrate;
use link::policy::RepairMode;
use node::clock::Clock;
use node::control::Dissemination;
use relay::{Location, Neighbour};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const PLACES: [(&str, f64, f64); 6] = [
    ("lon", 51.51, -0.13),
    ("par", 48.86, 2.35),
    ("fra", 50.11, 8.68),
    ("mil", 45.46, 9.19),
    ("mad", 40.42, -3.70),
    ("waw", 52.23, 21.01),
];

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

/// How long anything may take to show: reports, statements of relays and the page's own second come together.
const PATIENCE: Duration = Duration::from_secs(30);

struct Page {
    browser: Client,
    driver: SocketAddr,
    shots: Option<PathBuf>,
}

impl Page {
    async fn open(driver: &Driver, ops: SocketAddr) -> Page {
        let mut capabilities = Driver::capabilities();
        capabilities.insert("goog:loggingPrefs".into(), json!({"browser": "ALL"}));
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let browser = builder.capabilities(capabilities).connect(&driver.url()).await.unwrap();
        let address = driver.url().trim_start_matches("http://").parse().unwrap();
        let shots = std::env::var_os("ANABRANCH_SCREENSHOTS").map(PathBuf::from);
        let page = Page { browser, driver: address, shots };
        page.view(1360, 960, false, "light").await;
        page.browser.goto(&format!("http://{ops}/")).await.unwrap();
        page
    }

    /// Looks at it as on such a screen.
    async fn view(&self, width: u32, height: u32, mobile: bool, scheme: &str) {
        let scale = if mobile { 2 } else { 1 };
        let screen = json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile});
        self.devtools("Emulation.setDeviceMetricsOverride", screen).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }

    /// A command of the Chrome DevTools protocol, which WebDriver does not have.
    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let session = self.browser.session_id().await.unwrap().unwrap();
        let body = json!({"cmd": command, "params": parameters});
        let (status, answer) =
            ask(self.driver, "POST", &format!("/session/{session}/goog/cdp/execute"), &body).unwrap();
        assert_eq!(status, 200, "{command}: {answer}");
        serde_json::from_str::<Value>(&answer).unwrap()["value"].take()
    }

    /// What the page itself said in its console.
    async fn complaints(&self) -> Vec<String> {
        let session = self.browser.session_id().await.unwrap().unwrap();
        let (status, answer) =
            ask(self.driver, "POST", &format!("/session/{session}/se/log"), &json!({"type": "browser"})).unwrap();
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let entries = answer["value"].as_array().unwrap();
        entries.iter().filter(|entry| entry["level"] != "DEBUG").map(ToString::to_string).collect()
    }

    async fn eval(&self, script: &str) -> Value {
        self.browser.execute(script, Vec::new()).await.unwrap()
    }

    async fn until(&self, what: &str, condition: &str) {
        let clock = Clock::start();
        let end = clock.now() + PATIENCE;
        while self.eval(&format!("return Boolean({condition})")).await != json!(true) {
            if clock.now() > end {
                let seen = self.eval("return document.body.innerText").await;
                panic!("{what}: {condition} did not come about in {PATIENCE:?}\n{}", seen.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn keys(&self, keys: &str) {
        self.browser.active_element().await.unwrap().send_keys(keys).await.unwrap();
    }

    /// Presses Tab until `condition` holds of what has the focus.
    async fn tab_to(&self, condition: &str) {
        for _ in 0..60 {
            let there = self.eval(&format!("const at = document.activeElement; return Boolean({condition})")).await;
            if there == json!(true) {
                return;
            }
            self.keys(TAB).await;
        }
        panic!("no way by Tab to {condition}");
    }

    /// Clicks in the middle of a link, where a finger would: on the wide part that nobody sees.
    async fn click_link(&self, ends: &str) {
        let at = self
            .eval(&format!(
                "const box = document.querySelector('[data-link=\"{ends}\"] .hit').getBoundingClientRect();
                 return [box.x + box.width / 2, box.y + box.height / 2]"
            ))
            .await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.devtools("Input.dispatchMouseEvent", event).await;
        }
    }

    async fn shoot(&self, name: &str) {
        let Some(folder) = &self.shots else { return };
        let shot = self.devtools("Page.captureScreenshot", json!({"format": "png"})).await;
        let png = BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(folder).unwrap();
        let file = folder.join(format!("{name}.png"));
        std::fs::write(&file, png).unwrap();
        let fewer = file.with_extension("fewer.png");
        // Flat colours: a palette of 256 makes it a third as large.
        let few = "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none";
        let made =
            Command::new("ffmpeg").args(["-v", "error", "-y", "-i"]).arg(&file).args(["-vf", few]).arg(&fewer).status();
        if made.is_ok_and(|status| status.success()) {
            std::fs::rename(&fewer, &file).unwrap();
        }
    }

    /// Time for the charts to fill, where pictures are made.
    async fn let_time_pass(&self, span: Duration) {
        if self.shots.is_some() {
            tokio::time::sleep(span).await;
        }
    }
}

fn plan() -> RigPlan {
    let names = PLACES.map(|(name, _, _)| name);
    RigPlan::new(
        11,
        &names,
        &[
            ("lon", "par", lossy(5, 3.0)),
            ("lon", "fra", lossy(8, 4.0)),
            ("lon", "fra~sat", clean(40)),
            ("par", "fra", clean(5)),
            ("par", "mil", lossy(8, 2.0)),
            ("fra", "mil", lossy(6, 2.0)),
            ("fra", "waw", lossy(9, 3.0)),
            ("mil", "waw", lossy(11, 3.0)),
            ("par", "mad", lossy(9, 5.0)),
        ],
    )
}

/// Each relay in its town; what `par` sends to `mad` is not repaired.
fn start() -> Rig {
    Rig::start_tuned(&plan(), |name, config| {
        let (_, latitude, longitude) = PLACES.into_iter().find(|(town, _, _)| *town == name).unwrap();
        config.location = Some(Location { latitude, longitude });
        if name == "lon" {
            config.ops = Some(([127, 0, 0, 1], 0).into());
        }
        if name == "par" {
            let mad = config.neighbours.pop().unwrap();
            config.neighbours.push(Neighbour { name: Some("mad".parse().unwrap()), repair: RepairMode::Off, ..mad });
        }
    })
    .unwrap()
}

fn policy(ops: SocketAddr) -> Value {
    let (status, answer) = ask(ops, "GET", "/api/v1/links/lon/fra", &Value::Null).unwrap();
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(&answer).unwrap()
}

#[test]
#[ignore = "long: six relays and a browser; needs chromium and chromedriver"]
fn the_dashboard_shows_the_overlay_and_changes_it() {
    let Some(driver) = Driver::start() else { return };
    let rig = start();
    let ops = rig.relay("lon").unwrap().report().ops.unwrap();
    let deadline = Duration::from_millis(200);
    let video = |seed, mbps| Media { rate: Bitrate::mbps(mbps), ..Media::video(seed) };
    let (ends, near) = (("lon", "waw"), clean(2));
    let mut news = Flow::start_with(&rig, "news", ends, &near, video(3, 5), deadline, Dissemination::Auto);
    let mut rough = Flow::start_with(&rig, "rough", ("par", "mad"), &near, video(4, 2), deadline, Dissemination::Auto);
    let monitor = Watching {
        name: "monitor",
        stream: "test/news",
        at: "lon",
        channel: clean(1),
        outputs: vec![format!("udp://{}", free_port())],
    };
    let _monitor = monitor.start(&rig);
    news.feed();
    rough.feed();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let page = Page::open(&driver, ops).await;
        the_overlay_is_drawn(&page).await;
        page.let_time_pass(Duration::from_secs(100)).await;
        two_links_between_two_relays_are_told_apart(&page).await;
        a_failing_link_shows(&page, &rig).await;
        page.let_time_pass(Duration::from_secs(45)).await;
        a_click_changes_the_policy(&page, ops).await;
        page.let_time_pass(Duration::from_secs(45)).await;
        page.shoot("link").await;
        a_stream_is_lit_up(&page).await;
        the_keyboard_reaches_everything(&page, ops).await;
        a_line_is_tested(&page).await;
        it_fits_a_phone(&page).await;
        assert_eq!(page.complaints().await, [""; 0]);
        page.browser.clone().close().await.unwrap();
    });
    let result = news.finish();
    assert_intact(&rig, &news, result);
}

async fn the_overlay_is_drawn(page: &Page) {
    page.until("six relays", "document.querySelectorAll('[data-relay]').length === 6").await;
    page.until("nine links", "document.querySelectorAll('[data-link]').length === 9").await;
    // Of a link elsewhere, too; what a stalled machine leaves lost on a link that is repaired may be some, never as much.
    page.until(
        "what is not repaired is bad",
        "document.querySelector('[data-link=\"mad par\"]').dataset.grade === 'bad'",
    )
    .await;
    let well = "document.querySelector('[data-link=\"fra lon\"] .lane:is(.ok, .slight, .some)')";
    page.until("what is repaired is not", well).await;
    let bad = "document.querySelector('[data-link=\"mad par\"] .lane.bad')";
    page.until("colours tell", &format!("getComputedStyle({bad}).stroke !== getComputedStyle({well}).stroke")).await;
    page.until("overhead is shown", "/\\+\\d/.test(document.querySelector('#map').textContent)").await;
    // As on a map: Warsaw in the east, Madrid in the south.
    let at = "name => document.querySelector(`[data-relay=${name}] .body`).getBoundingClientRect()";
    page.until("the map", &format!("(at => at('waw').x > at('lon').x && at('mad').y > at('par').y)({at})")).await;
}

async fn a_failing_link_shows(page: &Page, rig: &Rig) {
    rig.emulator().act("mil-waw", None, Action::Cut).unwrap();
    page.until("it is gone", "document.querySelector('[data-link=\"mil waw\"]').dataset.grade === 'gone'").await;
    page.until("in words", "document.querySelector('#summary').textContent.includes('1 gone')").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    page.shoot("overlay").await;
}

/// The second link between two relays lies beside the first, and is a link of its own.
async fn two_links_between_two_relays_are_told_apart(page: &Page) {
    let middle = "link => { const box = document.querySelector(`[data-link='${link}'] .hit`).getBoundingClientRect();
                   return [box.x + box.width / 2, box.y + box.height / 2]; }";
    let apart = format!(
        "(at => {{ const [a, b] = [at('fra lon'), at('fra lon sat')]; return Math.hypot(a[0] - b[0], a[1] - b[1]); }})({middle})"
    );
    page.until("side by side", &format!("{apart} > 20 && {apart} < 40")).await;
    page.click_link("fra lon sat").await;
    page.until("its panel", "document.querySelector('#panel h2')?.textContent === 'fra ⇄ lon, sat'").await;
    page.until("its controls", "document.querySelector('.policy h3').textContent.endsWith('lon sends to fra~sat')")
        .await;
    page.until("its delay", "/4\\d(\\.\\d)? ms/.test(document.querySelector('#panel table').textContent)").await;
    page.until("in the address", "location.hash === '#link=fra,lon,sat'").await;
}

async fn a_click_changes_the_policy(page: &Page, ops: SocketAddr) {
    page.click_link("fra lon").await;
    page.until("its panel", "document.querySelector('#panel h2')?.textContent === 'fra ⇄ lon'").await;
    page.until("its history", "document.querySelectorAll('.chart .line').length === 6").await;
    page.until("a point", "document.querySelector('.chart .line').getAttribute('d').startsWith('M')").await;
    page.until("what it costs", "/Costs \\d/.test(document.querySelector('.policy').textContent)").await;
    page.until("what it brings", "/Saves \\d/.test(document.querySelector('.policy').textContent)").await;
    let find = async |css| page.browser.find(Locator::Css(css)).await.unwrap();
    assert_eq!(policy(ops)["policy"]["mode"], "auto");
    find("#policy-mode").await.select_by_value("hybrid").await.unwrap();
    let overhead = find("#policy-max_overhead").await;
    overhead.clear().await.unwrap();
    overhead.send_keys("60").await.unwrap();
    let clock = Clock::start();
    let asked = clock.now();
    find(".policy .primary").await.click().await.unwrap();
    let answer = loop {
        let answer = policy(ops);
        let took = clock.now() - asked;
        if answer["policy"]["mode"] == "hybrid" {
            println!("in force {took:?} after the click");
            break answer;
        }
        assert!(took < Duration::from_secs(1), "not in force: {answer}");
    };
    assert_eq!((&answer["policy"]["max_overhead"], &answer["set_by"]), (&json!(0.6), &json!("live")));
    page.until("said", "document.querySelector('.said').textContent.startsWith('In force since')").await;
    page.until("told", "document.querySelector('[data-kind=\"policy-changed\"]')").await;

    // What is wrong is said in the relay's own words, and changes nothing.
    let capacity = find("#policy-capacity").await;
    capacity.clear().await.unwrap();
    capacity.send_keys("fast").await.unwrap();
    find(".policy .primary").await.click().await.unwrap();
    page.until("refused", "document.querySelector('.said.wrong')?.textContent.includes('20 Mbit/s')").await;
    // Chromium logs every answer that is none of success; this one is asked for.
    let complaints = page.complaints().await;
    assert!(complaints.iter().all(|entry| entry.contains("422")), "{complaints:?}");
    capacity.clear().await.unwrap();
    capacity.send_keys("auto").await.unwrap();
}

async fn a_stream_is_lit_up(page: &Page) {
    let row = page.browser.find(Locator::Css("[data-stream='test/news']")).await.unwrap();
    row.click().await.unwrap();
    page.until("its way", "document.querySelectorAll('.lane.lit').length >= 2").await;
    page.until("from its ingress", "document.querySelector('[data-relay=lon].ingress')").await;
    page.until("to its egress", "document.querySelector('[data-relay=waw].egress')").await;
    page.until("its panel", "document.querySelector('#panel').textContent.includes('In force: ')").await;
    page.until("its receiver", "document.querySelector('.sla')?.textContent.includes('monitor')").await;
    page.until("what it had", "document.querySelector('.sla td')?.textContent.includes('%')").await;
    page.until("how old packets were", "document.querySelector('[data-ages^=monitor] .bar')").await;
    let words = "document.querySelector('[data-ages^=monitor] svg').getAttribute('aria-label')";
    page.until("in words", &format!("/99 % up to \\d+ ms.*deadline 200 ms/.test({words})")).await;
    page.until(
        "where the deadline is",
        "document.querySelector('[data-ages^=monitor] .deadline, [data-ages^=monitor] .bar.past')",
    )
    .await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    page.eval("document.querySelector('#panel').scrollIntoView()").await;
    page.shoot("stream").await;
    page.eval("scrollTo(0, 0)").await;
}

/// By keyboard alone: opened, filled in, started; its result read.
async fn a_line_is_tested(page: &Page) {
    page.tab_to("at.tagName === 'SUMMARY' && at.parentElement.id === 'test'").await;
    page.keys(ENTER).await;
    page.tab_to("at.id === 'test-to'").await;
    page.keys("mil").await;
    page.until("who is tested", "document.querySelector('#test-to').value === 'mil'").await;
    page.tab_to("at.id === 'test-rate'").await;
    page.eval("document.activeElement.select()").await;
    page.keys("fast").await;
    page.keys(ENTER).await;
    page.until("refused", "document.querySelector('#test-said.wrong')?.textContent.includes('rate')").await;
    let complaints = page.complaints().await;
    assert!(complaints.iter().all(|entry| entry.contains("422")), "{complaints:?}");
    page.eval("document.activeElement.select()").await;
    page.keys("1 Mbit/s").await;
    page.tab_to("at.id === 'test-duration'").await;
    page.eval("document.activeElement.select()").await;
    page.keys("3").await;
    page.keys(ENTER).await;
    page.until("it runs", "document.querySelector('#test-said').textContent.includes('lon → mil')").await;
    page.until("it is done", "document.querySelector('#test-said').textContent.endsWith('done')").await;
    let rows = "[...document.querySelectorAll('.delivered tbody tr')].map(row => row.innerText)";
    page.until("what came by when", &format!("{rows}.some(row => row.startsWith('200 ms') && row.includes('%'))"))
        .await;
    page.until("the links on the way", "/lon → (par|fra)/.test(document.querySelector('#test-result').textContent)")
        .await;
    page.eval("document.querySelector('#test').scrollIntoView()").await;
    page.shoot("test").await;
    page.eval("scrollTo(0, 0)").await;
}

async fn the_keyboard_reaches_everything(page: &Page, ops: SocketAddr) {
    page.keys(ESCAPE).await;
    page.until("it is closed", "!document.querySelector('#panel h2')").await;
    page.until("the focus is back", "document.activeElement.dataset.stream === 'test/news'").await;
    page.eval("document.activeElement.blur(); scrollTo(0, 0)").await;
    page.tab_to("at.dataset.link === 'fra lon'").await;
    page.keys(ENTER).await;
    page.until("its panel", "document.activeElement.textContent === 'fra ⇄ lon'").await;
    page.until("what is in force", "document.querySelector('#policy-mode').value === 'hybrid'").await;
    page.tab_to("at.id === 'policy-mode'").await;
    page.tab_to("at.textContent === 'Reset'").await;
    page.keys(ENTER).await;
    page.until("as configured", "document.querySelector('#policy-mode').value === 'auto'").await;
    assert_eq!((&policy(ops)["policy"]["mode"], &policy(ops)["set_by"]), (&json!("auto"), &json!("config")));
    page.keys(ESCAPE).await;
    page.until("the focus is back", "document.activeElement.dataset.link === 'fra lon'").await;
}

async fn it_fits_a_phone(page: &Page) {
    let fits = "document.documentElement.scrollWidth <= innerWidth && innerWidth === 390";
    page.view(390, 844, true, "dark").await;
    page.browser.refresh().await.unwrap();
    page.until("the overlay", "document.querySelectorAll('[data-link]').length === 9").await;
    page.until("nothing beyond the edge", fits).await;
    page.shoot("phone").await;
    page.click_link("fra lon").await;
    page.until("its panel", "document.querySelector('#panel h2')?.textContent === 'fra ⇄ lon'").await;
    page.until("its history", "document.querySelectorAll('.chart .line').length === 6").await;
    page.until("nothing beyond the edge", fits).await;
    page.shoot("phone-link").await;
    page.view(1360, 960, false, "dark").await;
    page.shoot("dark").await;
    let (back, front) = ("getComputedStyle(document.body).backgroundColor", "getComputedStyle(document.body).color");
    assert_eq!(page.eval(&format!("return [{back}, {front}]")).await, json!(["rgb(17, 22, 28)", "rgb(232, 237, 242)"]));
}

//! The stream of events, over what happens to a small overlay.

use crate::api::{ask, get};
use crate::clients::{STREAM, Source};
use crate::net::{Net, until};
use crate::on_local;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// What has been heard so far.
type Heard = Rc<RefCell<Vec<Value>>>;

async fn listen(ops: SocketAddr) -> Heard {
    let mut stream = TcpStream::connect(ops).await.expect("it listens");
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it reads");
    let heard = Heard::default();
    let hearing = heard.clone();
    let (begun, beginning) = tokio::sync::oneshot::channel();
    tokio::task::spawn_local(async move {
        let mut begun = Some(begun);
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.starts_with(": listening") {
                let _ = begun.take().expect("once").send(());
            }
            if let Some(data) = line.strip_prefix("data: ") {
                hearing.borrow_mut().push(serde_json::from_str(data).expect("JSON"));
            }
        }
        hearing.borrow_mut().push(Value::Null);
    });
    beginning.await.expect("it begins");
    heard
}

async fn hears(heard: &Heard, kind: &str) -> Value {
    let find = || heard.borrow().iter().find(|event| event["kind"] == kind).cloned();
    until(kind, || find().is_some()).await;
    find().expect("just found")
}

#[test]
fn what_changes_is_told_in_words_and_data() {
    on_local(async {
        let mut net = Net::new();
        net.start_with("a", |config| config.ops = Some(([127, 0, 0, 1], 0).into())).await;
        let ops = net.report("a").ops.expect("bound");
        let heard = listen(ops).await;
        let second = listen(ops).await;
        net.start("b", &["a"]).await;
        assert_eq!(hears(&heard, "peer-connected").await["peer"], "b");
        assert_eq!(hears(&heard, "link-up").await["words"], "link to b up");
        let sink = net.sink("a", "viewer").await;
        let subscribed = hears(&heard, "subscribed").await;
        assert!(subscribed["sink"].as_str().is_some_and(|sink| sink.contains("viewer")), "{subscribed}");
        assert_eq!(subscribed["stream"], STREAM);
        let source = net.source("a", "camera", Source::new(5)).await;
        assert_eq!(hears(&heard, "stream-started").await["ingress"], "a");
        sink.ready().await;
        let json = "Content-Type: application/json\r\n";
        ask(ops, "PUT", "/api/v1/links/a/b", json, r#"{"mode": "duplicate"}"#).await;
        let changed = hears(&heard, "policy-changed").await;
        assert_eq!((&changed["peer"], &changed["policy"]["mode"]), (&"b".into(), &"duplicate".into()));
        ask(ops, "POST", "/api/v1/drain?link=b", "", "").await;
        hears(&heard, "draining").await;
        assert_eq!(hears(&heard, "link-down").await["reason"], "streams are taken off it");
        ask(ops, "POST", "/api/v1/resume?link=b", "", "").await;
        hears(&heard, "resumed").await;
        ask(ops, "POST", "/api/v1/reload", "", "").await;
        hears(&heard, "reload-refused").await;
        net.reload("a", net.config("a")).await;
        hears(&heard, "reloaded").await;
        source.unpublish();
        assert_eq!(hears(&heard, "stream-ended").await["ended"], true);
        net.kill("b");
        assert_eq!(hears(&heard, "peer-gone").await["peer"], "b");
        until("both hear the same", || *heard.borrow() == *second.borrow()).await;

        let document = get(ops, "/api/v1/openapi.json").await.json();
        for (index, event) in heard.borrow().iter().enumerate() {
            assert!(index == 0 || event["number"].as_u64() > heard.borrow()[index - 1]["number"].as_u64(), "{event}");
            assert!(event["unix_ms"].as_u64().is_some_and(|at| at > 1_600_000_000_000), "{event}");
            is_documented(&document["components"]["schemas"], event);
        }
        net.stop_all().await;
        until("the stream ends with the relay", || heard.borrow().last() == Some(&Value::Null)).await;
    });
}

/// An event is what all have in common, and what its kind has.
fn is_documented(schemas: &Value, event: &Value) {
    let keys = |schema: &Value| -> BTreeSet<String> {
        schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let kinds = schemas["What"]["oneOf"].as_array().expect("kinds");
    let of_kind = kinds.iter().find(|of| {
        let kind = &of["properties"]["kind"];
        kind["const"] == event["kind"] || kind["enum"][0] == event["kind"]
    });
    let mut documented = keys(of_kind.unwrap_or_else(|| panic!("{event}: no such kind in {kinds:?}")));
    for part in schemas["Event"]["allOf"].as_array().expect("parts") {
        documented.extend(keys(part));
    }
    let there: BTreeSet<String> = event.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(there, documented, "{event}");
}

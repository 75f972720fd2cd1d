//! The operations port against its own document.

use crate::clients::Source;
use crate::net::{Net, until};
use crate::on_local;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the operations port answers.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// One request; `head` are more lines of its head.
pub(crate) async fn ask(ops: SocketAddr, method: &str, path: &str, head: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(ops).await.expect("it listens");
    let request = format!("{method} {path} HTTP/1.0\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    // A body that is too long is not read to its end: the answer may come with a reset behind it.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub(crate) async fn get(ops: SocketAddr, path: &str) -> Answer {
    ask(ops, "GET", path, "", "").await
}

/// A relay `a` with an operations port, a neighbour `b`, and a stream from the one to the other.
async fn overlay() -> (Net, SocketAddr) {
    let mut net = Net::new();
    net.start_with("a", |config| config.ops = Some(([127, 0, 0, 1], 0).into())).await;
    net.start("b", &["a"]).await;
    net.linked(2).await;
    let ops = net.report("a").ops.expect("bound");
    (net, ops)
}

/// The paths of the document, with its placeholders filled in, and their methods.
fn operations(document: &Value) -> Vec<(String, BTreeSet<String>)> {
    let paths = document["paths"].as_object().expect("paths");
    let fill = |path: &str| {
        path.replace("{from}", "a").replace("{to}", "b").replace("{tenant}", "tenant").replace("{channel}", "channel")
    };
    let fill = |path: &str| fill(path).replace("{rendition}", "hd").replace("{part}", "main.js");
    let methods =
        |item: &Value| item.as_object().expect("methods").keys().map(|method| method.to_uppercase()).collect();
    paths.iter().map(|(path, item)| (fill(path), methods(item))).collect()
}

#[test]
fn the_document_and_the_routes_are_the_same() {
    on_local(async {
        let (mut net, ops) = overlay().await;
        let document = get(ops, "/api/v1/openapi.json").await.json();
        let operations = operations(&document);
        assert!(operations.len() >= 9, "{operations:?}");
        for (path, documented) in &operations {
            for method in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
                // It has no end, and a test of its own.
                if (method, path.as_str()) == ("GET", "/api/v1/events") {
                    continue;
                }
                let answer = ask(ops, method, path, "Content-Type: application/json\r\n", "{}").await;
                let routed = answer.status != 405;
                assert_eq!(routed, documented.contains(method), "{method} {path}: {}", answer.body);
                assert!(answer.status < 500 || path == "/readyz", "{method} {path}: {} {}", answer.status, answer.body);
                if !routed {
                    assert!(answer.header("allow").is_some_and(|allow| !allow.is_empty()), "{method} {path}");
                }
            }
        }
        net.stop_all().await;
    });
}

/// The other way round: there is one list of routes, and each entry of it brings its documentation.
#[test]
fn nothing_is_routed_without_documentation() {
    let source = include_str!("../../src/ops/mod.rs");
    for way in [".route(", ".nest(", ".merge(", ".route_service(", ".nest_service("] {
        assert!(!source.contains(way), "{way}");
    }
    let lists = source.split("routes!(").skip(1).filter_map(|after| after.split(')').next());
    let listed: usize = lists.map(|list| list.split(',').count()).sum();
    let documented: usize = {
        let document = serde_json::to_value(anabranch_relay::ops::document()).expect("a document is JSON");
        operations(&document).iter().map(|(_, methods)| methods.len()).sum()
    };
    assert_eq!(listed, documented);
}

#[test]
fn whatever_the_document_refers_to_is_in_it() {
    let document = serde_json::to_value(anabranch_relay::ops::document()).expect("a document is JSON");
    let text = document.to_string();
    let references: BTreeSet<&str> = text
        .split("\"#")
        .skip(1)
        .filter_map(|after| after.split('"').next())
        .filter(|at| at.starts_with('/'))
        .collect();
    assert!(references.len() > 10, "{references:?}");
    for reference in references {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}

#[test]
fn every_answer_is_as_documented() {
    on_local(async {
        let (mut net, ops) = overlay().await;
        let sink = net.sink("b", "viewer").await;
        let source = net.source("a", "camera", Source::new(5)).await;
        sink.ready().await;
        source.send(100).await;
        sink.have(5, 100).await;
        let own = net.sink("a", "own").await;
        own.ready().await;
        own.report_back(90, 10);
        until("it is reported", || net.report("a").streams.first().is_some_and(|s| s.counters.unique == 100)).await;
        let document = get(ops, "/api/v1/openapi.json").await.json();
        for (method, path, body, status) in [
            ("GET", "/api/v1/status", "", 200),
            ("GET", "/api/v1/links", "", 200),
            ("GET", "/api/v1/overlay", "", 200),
            ("GET", "/api/v1/streams/tenant/channel", "", 200),
            ("GET", "/api/v1/streams/tenant/channel/hd", "", 404),
            ("GET", "/api/v1/links/a/b/history", "", 200),
            ("GET", "/api/v1/links/a/c/history", "", 404),
            ("GET", "/api/v1/links/a/b", "", 200),
            ("GET", "/api/v1/links/a/c", "", 404),
            ("GET", "/api/v1/links/b/a", "", 421),
            ("GET", "/api/v1/links/A/b", "", 400),
            ("PUT", "/api/v1/links/a/b", r#"{"mode": "hybrid", "capacity": "20 Mbit/s"}"#, 200),
            ("PUT", "/api/v1/links/a/b", r#"{"persist": true}"#, 409),
            ("PUT", "/api/v1/links/a/b", r#"{"mode": "magic"}"#, 422),
            ("PUT", "/api/v1/links/a/b", "{", 400),
            ("DELETE", "/api/v1/links/a/b", "", 200),
            ("DELETE", "/api/v1/links/a/b?persist=perhaps", "", 400),
            ("GET", "/api/v1/sla/tenant/channel", "", 200),
            ("GET", "/api/v1/sla/tenant/channel/hd", "", 404),
            ("GET", "/api/v1/sla/tenant/ch%20annel", "", 400),
            ("PUT", "/api/v1/links/a/b", r#"{"capacity": "20 Mbit/s"}"#, 200),
            ("GET", "/api/v1/capacity", "", 200),
            ("GET", "/api/v1/usage", "", 200),
            ("GET", "/api/v1/trace/tenant/channel", "", 200),
            ("GET", "/api/v1/trace/tenant/channel/hd", "", 404),
            ("POST", "/api/v1/drain?link=b", "", 200),
            ("POST", "/api/v1/drain?link=z", "", 404),
            ("POST", "/api/v1/drain?lnik=b", "", 400),
            ("POST", "/api/v1/resume?link=b", "", 200),
            ("POST", "/api/v1/reload", "", 422),
        ] {
            let answer = ask(ops, method, path, "Content-Type: application/json\r\n", body).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
            let template = match path.split('?').next().expect("a path") {
                past if past.ends_with("/history") => "/api/v1/links/{from}/{to}/history",
                "/api/v1/streams/tenant/channel/hd" => "/api/v1/streams/{tenant}/{channel}/{rendition}",
                stream if stream.starts_with("/api/v1/streams/") => "/api/v1/streams/{tenant}/{channel}",
                link if link.starts_with("/api/v1/links/") => "/api/v1/links/{from}/{to}",
                "/api/v1/sla/tenant/channel/hd" => "/api/v1/sla/{tenant}/{channel}/{rendition}",
                sla if sla.starts_with("/api/v1/sla/") => "/api/v1/sla/{tenant}/{channel}",
                "/api/v1/trace/tenant/channel/hd" => "/api/v1/trace/{tenant}/{channel}/{rendition}",
                trace if trace.starts_with("/api/v1/trace/") => "/api/v1/trace/{tenant}/{channel}",
                path => path,
            };
            let documented =
                &document["paths"][template][method.to_lowercase()]["responses"][status.to_string()]["content"];
            let kind = answer.header("content-type").expect("a content type");
            assert_eq!(kind.contains("problem"), status >= 400, "{method} {path}: {kind}");
            let schema = &documented[kind]["schema"];
            assert!(schema.is_object(), "{method} {path} {status} {kind}: not documented");
            let value = answer.json();
            conforms(&document, schema, &value, &format!("{method} {path}"));
            if status >= 400 {
                assert_eq!(value["status"], status);
            }
        }
        net.stop_all().await;
    });
}

/// Whether a value is as its schema says: every field documented, every documented one there, each of its type.
fn conforms(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{at}: {name}"));
        return conforms(document, schema, value, at);
    }
    if let Some(either) = schema["oneOf"].as_array() {
        let null = |schema: &&Value| (schema["type"] == "null") == value.is_null();
        let schema = either.iter().find(null).unwrap_or_else(|| panic!("{at}: {value} is none of {either:?}"));
        return conforms(document, schema, value, at);
    }
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        one => vec![one.clone()],
    };
    let fits = types.iter().any(|of| of == is || (of == "number" && is == "integer"));
    assert!(fits, "{at}: {value} is not of {types:?}");
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{at}: {value} is none of {values:?}");
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        conforms(document, &schema["items"], item, &format!("{at}[{index}]"));
    }
    if let Some(object) = value.as_object() {
        let properties = schema["properties"].as_object().unwrap_or_else(|| panic!("{at}: no properties"));
        for (key, value) in object {
            let property = properties.get(key).unwrap_or_else(|| panic!("{at}.{key}: not documented"));
            conforms(document, property, value, &format!("{at}.{key}"));
        }
        for key in properties.keys() {
            assert!(object.contains_key(key), "{at}.{key}: documented, and not there");
        }
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert_eq!(required.len(), properties.len(), "{at}: what is always there is required");
    }
}

#[test]
fn whatever_is_wrong_is_a_problem_of_one_shape() {
    on_local(async {
        let (mut net, ops) = overlay().await;
        let json = "Content-Type: application/json\r\n";
        let long = format!("{{\"mode\": \"{}\"}}", "x".repeat(20_000));
        for (method, path, head, body, status, part) in [
            ("GET", "/nothing", "", "", 404, "/nothing"),
            ("PATCH", "/api/v1/status", "", "", 405, "PATCH"),
            ("PUT", "/api/v1/links/a/b", json, long.as_str(), 413, "length limit"),
            ("PUT", "/api/v1/links/a/b", "", "{}", 415, "application/json"),
            ("PUT", "/api/v1/links/a/b", json, r#"{"mode": 3}"#, 422, "mode"),
            ("PUT", "/api/v1/links/a/b", json, r#"{"moed": "arq"}"#, 422, "moed"),
            ("PUT", "/api/v1/links/a/b", json, r#"{"max_overhead": 11}"#, 422, "0 to 10"),
            ("PUT", "/api/v1/links/a/b", json, r#"{"capacity": "fast"}"#, 422, "20 Mbit/s"),
            ("PUT", "/api/v1/links/a/%FF", json, "{}", 400, "UTF-8"),
            ("POST", "/api/v1/drain?link=B", "", "", 400, "node name"),
            ("POST", "/api/v1/drain", "Origin: http://evil.example\r\n", "", 403, "another site"),
            ("GET", "/dashboard/none.js", "", "", 404, "no such part"),
        ] {
            let answer = ask(ops, method, path, head, body).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{method} {path}");
            let problem = answer.json();
            assert_eq!((&problem["type"], &problem["status"]), (&"about:blank".into(), &status.into()), "{problem}");
            assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(part)), "{problem}: {part}");
        }
        net.stop_all().await;
    });
}

#[test]
fn what_could_not_be_written_does_not_count_as_kept() {
    on_local(async {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("missing/state.toml");
        let mut net = Net::new();
        net.start_with("a", |config| {
            config.ops = Some(([127, 0, 0, 1], 0).into());
            config.state = Some(state.clone());
        })
        .await;
        net.start("b", &["a"]).await;
        net.linked(2).await;
        let ops = net.report("a").ops.expect("bound");
        let set = |body| ask(ops, "PUT", "/api/v1/links/a/b", "Content-Type: application/json\r\n", body);
        let answer = set(r#"{"mode": "hybrid", "persist": true}"#).await;
        assert_eq!(answer.status, 507, "{}", answer.body);
        assert_eq!(get(ops, "/api/v1/links/a/b").await.json()["set_by"], "live");
        std::fs::create_dir(state.parent().expect("a directory")).expect("it can be made");
        assert_eq!(set(r#"{"persist": true}"#).await.json()["set_by"], "kept");
        assert!(std::fs::read_to_string(&state).expect("written").contains("hybrid"));
        net.stop_all().await;
    });
}

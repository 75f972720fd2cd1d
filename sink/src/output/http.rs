//! HTTP servers for players: live streams, the page that plays them, and their list.
//!
//! Anybody may come who reaches the address, so what they can make a sink hold is bounded: 1,024 connections at an address, 256 of them from one
//! (a reverse proxy has many players behind it; more than these need several sinks, or a server made for it). A head may take 20 s to come, and who reads nothing
//! for 20 s is let go. What waits for one player is bounded by the [`hub`](super::hub), which gives it back when it drops the player.

use super::hub::Hub;
use super::spec::Start;
use super::worker::{Clients, Writer};
use crate::playout::Release;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use node::connections::{Bounds, EXHAUSTED, Place, Places, speak};
use node::exit::{Exit, Failure};
use serde::Serialize;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

const PAGE: &str = include_str!("../../assets/player.html");
const STYLE: &str = include_str!("../../assets/player.css");
const SCRIPT: &str = include_str!("../../assets/player.js");
const MPEGTS: &str = include_str!("../../assets/mpegts.js");
const RESERVED: [&str; 4] = ["/player.css", "/player.js", "/mpegts.js", "/streams.json"];

/// What all clients of one address together, and those that come from one, may take.
const BOUNDS: Bounds = Bounds::new(1024, 256);

/// While nothing is sent, a player's machine is asked so often whether it is still there: one that has vanished is not to keep its place.
const STILL_THERE: Duration = Duration::from_secs(30);

/// How long players may take at the end for what is left for them.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// The HTTP servers of a sink: one per address, each serving any number of streams. They run until this is dropped.
#[derive(Debug)]
pub struct HttpServers {
    servers: Vec<Server>,
    bounds: Bounds,
}

#[derive(Debug)]
struct Server {
    listen: SocketAddr,
    bound: SocketAddr,
    streams: Streams,
    /// Dropped to stop it.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The streams of a server; shared with its thread.
#[derive(Clone, Debug, Default)]
struct Streams(Arc<Mutex<Vec<Served>>>);

#[derive(Clone, Debug)]
struct Served {
    path: String,
    name: String,
    hub: Arc<Hub>,
}

/// An entry of `/streams.json`.
#[derive(Debug, Serialize)]
struct Listed {
    path: String,
    name: String,
}

/// The output that feeds the players of one stream.
#[derive(Debug)]
pub(super) struct HttpWriter(Arc<Hub>);

impl Default for HttpServers {
    /// None yet.
    fn default() -> HttpServers {
        HttpServers { servers: Vec::new(), bounds: BOUNDS }
    }
}

impl HttpServers {
    /// Serves another stream at `path`; gives its output, and the address bound.
    pub(super) fn add(
        &mut self,
        listen: SocketAddr,
        path: &str,
        start: Start,
        stream: &str,
    ) -> Result<(HttpWriter, SocketAddr), Failure> {
        if RESERVED.contains(&path) {
            return Err(Failure::new(
                Exit::Usage,
                format!("http://{listen}{path}: this path is the player page's own"),
            ));
        }
        let known = self.servers.iter().position(|server| server.listen == listen && listen.port() != 0);
        let index = match known {
            Some(index) => index,
            None => {
                self.servers.push(Server::start(listen, self.bounds)?);
                self.servers.len() - 1
            }
        };
        let server = &self.servers[index];
        let hub = Arc::new(Hub::new(start));
        let mut streams = server.streams.lock();
        // Of an output that was taken away.
        streams.retain(|served| !served.hub.is_closed());
        // One of the same stream is about to give way to this.
        if streams.iter().any(|served| served.path == path && served.name != stream) {
            return Err(Failure::new(Exit::Usage, format!("http://{listen}{path}: another stream is served there")));
        }
        streams.push(Served { path: path.into(), name: stream.into(), hub: hub.clone() });
        Ok((HttpWriter(hub), server.bound))
    }

    /// Stops the servers that have no stream left. Waits for what players still have to get.
    pub(super) fn tidy(&mut self) {
        self.servers.retain(|server| server.streams.lock().iter().any(|served| !served.hub.is_closed()));
    }
}

impl Writer for HttpWriter {
    fn write(&mut self, release: &Release) -> io::Result<()> {
        self.0.publish(release);
        Ok(())
    }

    fn is_paced(&self) -> bool {
        true
    }

    fn is_fatal(&self, _: &io::Error) -> bool {
        false
    }

    fn clients(&self) -> Option<Clients> {
        Some(self.0.clients())
    }
}

impl Drop for HttpWriter {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Server {
    /// Binds, and serves on a thread of its own: many players shall not disturb the link.
    fn start(listen: SocketAddr, bounds: Bounds) -> Result<Server, Failure> {
        let failure = |error: io::Error| {
            Failure::new(Exit::Unavailable, format!("cannot listen at http://{listen} for players: {error}"))
        };
        let listener = TcpListener::bind(listen).map_err(failure)?;
        listener.set_nonblocking(true).map_err(failure)?;
        let bound = listener.local_addr().map_err(failure)?;
        let streams = Streams::default();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failure)?;
        let serve = serve(listener, bounds, streams.clone(), stopped);
        let thread = std::thread::Builder::new().name("http".into());
        let thread = thread.spawn(move || runtime.block_on(serve)).map_err(failure)?;
        tracing::info!("players: http://{bound}/");
        Ok(Server { listen, bound, streams, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    /// When this returns the address is free again.
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// Serves until `stopped`, then a little longer for what players still have to get.
async fn serve(listener: TcpListener, bounds: Bounds, streams: Streams, mut stopped: oneshot::Receiver<()>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "no server for players"),
    };
    let router = Router::new().fallback(answer).with_state(streams);
    let places = Places::new(bounds);
    let (last_call, called) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut refused = 0_u64;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match places.admit(from.ip()) {
                    Some(place) => {
                        connections.spawn(connection(stream, bounds, router.clone(), called.clone(), place));
                    }
                    None => {
                        refused += 1;
                        // Whoever comes on and on is not to fill the log.
                        if refused.is_power_of_two() {
                            tracing::warn!(%from, refused, "players have all connections that they may; this one is closed");
                        }
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "the server for players takes no connection");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = &mut stopped => break,
        }
    }
    drop((listener, last_call));
    let rest = async { while connections.join_next().await.is_some() {} };
    // Who has not taken it by then does without.
    let _ = tokio::time::timeout(LAST_BYTES, rest).await;
}

/// Serves one connection; after the last call it ends with what it is being sent.
async fn connection(stream: TcpStream, bounds: Bounds, router: Router, mut called: watch::Receiver<()>, _place: Place) {
    // Where that cannot be set it is played to all the same.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(STILL_THERE));
    let over = async move {
        let _ = called.changed().await;
    };
    speak(stream, &bounds, router, |_| (), over).await;
}

impl Streams {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Served>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream at a path; where one output gives way to another, the newer.
    fn find(&self, path: &str) -> Option<Served> {
        let list = self.lock();
        let mut at_path = list.iter().rev().filter(|served| served.path == path);
        at_path.clone().find(|served| !served.hub.is_closed()).or_else(|| at_path.next()).cloned()
    }
}

async fn answer(State(streams): State<Streams>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let mut response = match method {
        Method::GET | Method::HEAD => look_up(&streams, &method, uri.path(), &headers),
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    };
    let fields = response.headers_mut();
    let set = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in set {
        fields.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

fn look_up(streams: &Streams, method: &Method, path: &str, headers: &HeaderMap) -> Response {
    let typed = |kind: &'static str, text: &'static str| ([(header::CONTENT_TYPE, kind)], text).into_response();
    match path {
        "/" => page(streams, headers),
        "/player.css" => typed("text/css; charset=utf-8", STYLE),
        "/player.js" => typed("text/javascript; charset=utf-8", SCRIPT),
        "/mpegts.js" => typed("text/javascript; charset=utf-8", MPEGTS),
        "/streams.json" => {
            let list = streams.lock();
            let open = list.iter().filter(|served| !served.hub.is_closed());
            let listed = open.map(|served| Listed { path: served.path.clone(), name: served.name.clone() });
            Json(listed.collect::<Vec<_>>()).into_response()
        }
        path => match streams.find(path) {
            Some(served) => media(&served, method),
            None => {
                (StatusCode::NOT_FOUND, "No stream is served here; the list is at /streams.json.\n").into_response()
            }
        },
    }
}

/// The page; it names the first stream's URL for other players, even where no script runs.
fn page(streams: &Streams, headers: &HeaderMap) -> Response {
    let path = streams.lock().first().map_or_else(|| "/".into(), |served| served.path.clone());
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| is_plain(host));
    let url = host.map_or_else(|| path.clone(), |host| format!("http://{host}{path}"));
    let html = PAGE.replace("@PATH@", &path).replace("@URL@", &url);
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

/// Whether a host name may stand in a page as it is.
fn is_plain(host: &str) -> bool {
    host.len() <= 255 && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
}

fn media(served: &Served, method: &Method) -> Response {
    let kind = if served.path.ends_with(".ts") { "video/mp2t" } else { "application/octet-stream" };
    if method == Method::HEAD {
        return [(header::CONTENT_TYPE, kind)].into_response();
    }
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(served.hub.join())).into_response()
}

#[cfg(test)]
mod tests {
    use super::super::worker::release;
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::Ordering::Relaxed;

    fn server() -> (HttpServers, HttpWriter, SocketAddr) {
        server_within(BOUNDS)
    }

    fn server_within(bounds: Bounds) -> (HttpServers, HttpWriter, SocketAddr) {
        let mut servers = HttpServers { bounds, ..HttpServers::default() };
        let listen = "127.0.0.1:0".parse().unwrap();
        let (writer, bound) = servers.add(listen, "/live.ts", Start::Decodable, "demo/clip").unwrap();
        (servers, writer, bound)
    }

    /// Sends a request; gives the status line and the headers, and what follows.
    fn ask(at: SocketAddr, request: &str) -> (String, BufReader<TcpStream>) {
        let mut connection = TcpStream::connect(at).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(connection, "{request} HTTP/1.1\r\nHost: sink.example:8080\r\nConnection: close\r\n\r\n").unwrap();
        let mut reader = BufReader::new(connection);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "the head is cut: {head}");
        }
        (head.to_lowercase(), reader)
    }

    fn text(at: SocketAddr, request: &str) -> (String, String) {
        let (head, mut reader) = ask(at, request);
        let mut body = String::new();
        reader.read_to_string(&mut body).unwrap();
        (head, body)
    }

    #[test]
    fn the_page_names_the_url_and_finds_its_parts() {
        let (_servers, _writer, at) = server();
        let (head, body) = text(at, "GET /");
        assert!(head.starts_with("http/1.1 200") && head.contains("text/html"));
        assert!(body.contains("<a id=\"plain\" href=\"/live.ts\">http://sink.example:8080/live.ts</a>"), "{body}");
        for (path, kind) in
            [("player.css", "text/css"), ("player.js", "text/javascript"), ("mpegts.js", "text/javascript")]
        {
            assert!(body.contains(path));
            assert!(ask(at, &format!("GET /{path}")).0.contains(kind));
        }
        assert_eq!(text(at, "GET /streams.json").1, r#"[{"path":"/live.ts","name":"demo/clip"}]"#);
    }

    #[test]
    fn an_output_gives_way_to_another_of_its_stream_and_a_server_ends_with_its_last() {
        let (mut servers, old, at) = server();
        servers.servers[0].listen = at;
        let other = servers.add(at, "/live.ts", Start::Now, "demo/other").unwrap_err();
        assert!(other.message.contains("another stream is served there"), "{}", other.message);
        let (mut new, _) = servers.add(at, "/live.ts", Start::Now, "demo/clip").unwrap();
        let (_, mut player) = ask(at, "GET /live.ts");
        new.write(&release(&b"new"[..])).unwrap();
        drop(old);
        servers.tidy();
        assert_eq!(text(at, "GET /streams.json").1, r#"[{"path":"/live.ts","name":"demo/clip"}]"#);
        drop(new);
        let mut body = String::new();
        player.read_to_string(&mut body).unwrap();
        assert!(body.contains("new"), "{body:?}");
        servers.tidy();
        assert!(servers.servers.is_empty() && TcpStream::connect(at).is_err());
    }

    #[test]
    fn the_stream_flows_to_a_player_until_its_end() {
        let (_servers, mut writer, at) = server();
        let (head, mut player) = ask(at, "GET /live.ts");
        assert!(head.contains("content-type: video/mp2t") && head.contains("access-control-allow-origin: *"));
        assert_eq!(writer.clients().unwrap().connected.load(Relaxed), 1);
        writer.write(&release(&b"hello "[..])).unwrap();
        writer.write(&release(&b"player"[..])).unwrap();
        drop(writer);
        let mut body = String::new();
        player.read_to_string(&mut body).unwrap();
        let spoken: String = body.split("\r\n").filter(|line| line.contains(['h', 'p'])).collect();
        assert_eq!(spoken, "hello player");
        assert!(body.ends_with("0\r\n\r\n"), "the end is told: {body:?}");
    }

    #[test]
    fn other_methods_and_paths_are_answered() {
        let (_servers, _writer, at) = server();
        assert!(text(at, "GET /other.ts").0.starts_with("http/1.1 404"));
        assert!(text(at, "POST /live.ts").0.starts_with("http/1.1 405"));
        let (head, _) = text(at, "OPTIONS /live.ts");
        assert!(head.starts_with("http/1.1 204") && head.contains("access-control-allow-methods"));
        let (head, body) = text(at, "HEAD /live.ts");
        assert!(head.contains("video/mp2t") && body.is_empty());
    }

    #[test]
    fn streams_share_an_address_but_not_a_path() {
        let (mut servers, _writer, at) = server();
        // Port 0 is a new server each time; the address it got is one to share.
        servers.servers[0].listen = at;
        let (_second, bound) = servers.add(at, "/b.ts", Start::Now, "demo/b").unwrap();
        assert_eq!(bound, at);
        assert!(text(at, "GET /streams.json").1.contains("demo/b"));
        assert_eq!(servers.add(at, "/b.ts", Start::Now, "demo/c").unwrap_err().exit, Exit::Usage);
        assert_eq!(servers.add(at, "/player.js", Start::Now, "demo/c").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_server_that_stops_gives_its_players_the_rest_and_its_port_free() {
        let (servers, mut writer, at) = server();
        let (_, mut player) = ask(at, "GET /live.ts");
        writer.write(&release(vec![b'x'; 100_000])).unwrap();
        drop(writer);
        drop(servers);
        let mut body = Vec::new();
        player.read_to_end(&mut body).unwrap();
        assert_eq!(body.iter().filter(|byte| **byte == b'x').count(), 100_000);
        HttpServers::default().add(at, "/live.ts", Start::Now, "demo/clip").unwrap();
    }

    /// Waits, for ten seconds at most.
    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..1000 {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("in vain: {what}");
    }

    fn is_closed(connection: &mut TcpStream) -> bool {
        match connection.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    #[test]
    fn who_plays_but_does_not_read_is_let_go() {
        let bounds = Bounds { unread: Duration::from_secs(2), ..BOUNDS };
        let (_servers, mut writer, at) = server_within(bounds);
        let clients = writer.clients().unwrap();
        let (_, mut paused) = ask(at, "GET /live.ts");
        // As much as the two sockets hold, so that writing has to wait; then as much as the queue holds.
        let packet = release(vec![0; 1316]);
        (0..20_000).for_each(|_| writer.write(&packet).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        for _ in 0..800_000 {
            writer.write(&packet).unwrap();
            if clients.dropped.load(Relaxed) == 1 {
                break;
            }
        }
        assert_eq!(clients.dropped.load(Relaxed), 1);
        until("its connection is closed", || clients.connected.load(Relaxed) == 0);
        // What was on its way, and no end of the stream behind it.
        let mut last = Vec::new();
        let _ = paused.read_to_end(&mut last);
        assert!(!last.ends_with(b"0\r\n\r\n"));
    }

    #[test]
    fn who_does_not_take_what_there_is_holds_no_place() {
        let bounds = Bounds { unread: Duration::from_millis(300), ..BOUNDS };
        let (_servers, mut writer, at) = server_within(bounds);
        let clients = writer.clients().unwrap();
        let (_, _paused) = ask(at, "GET /live.ts");
        // More than the two sockets hold, and less than the hub drops anybody for.
        for _ in 0..20_000 {
            writer.write(&release(vec![0; 1316])).unwrap();
        }
        until("its connection is closed", || clients.connected.load(Relaxed) == 0);
        assert_eq!(clients.dropped.load(Relaxed), 0);
    }

    #[test]
    fn who_does_not_say_what_it_wants_is_let_go() {
        let bounds = Bounds { head: Duration::from_millis(300), ..BOUNDS };
        let (_servers, _writer, at) = server_within(bounds);
        for said in ["", "GET /live.ts HTTP/1.1\r\nHost: "] {
            let mut connection = TcpStream::connect(at).unwrap();
            connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            write!(connection, "{said}").unwrap();
            let mut answer = Vec::new();
            let _ = connection.read_to_end(&mut answer).map_err(|error| {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "it is not closed");
            });
        }
    }

    #[test]
    fn so_many_connections_and_no_more() {
        let (_servers, _writer, at) = server_within(Bounds { most: 3, ..BOUNDS });
        let mut players: Vec<_> = (0..3).map(|_| ask(at, "GET /live.ts").1).collect();
        let mut refused = TcpStream::connect(at).unwrap();
        refused.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(is_closed(&mut refused), "at once, without a word");
        players.pop();
        until("a place is free again", || {
            let mut connection = TcpStream::connect(at).unwrap();
            let asked = write!(connection, "HEAD /live.ts HTTP/1.0\r\n\r\n");
            let mut answer = String::new();
            asked.and_then(|()| connection.read_to_string(&mut answer)).is_ok() && answer.contains("200 OK")
        });
        for player in &players {
            player.get_ref().set_nonblocking(true).unwrap();
            assert_eq!(player.get_ref().peek(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "it plays on");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let (_servers, _writer, at) = server();
        let failure = HttpServers::default().add(at, "/x.ts", Start::Now, "demo/x").unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.message.contains(&at.to_string()), "{failure}");
    }
}

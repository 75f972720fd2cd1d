//! The stream of events: server-sent events, as the HTML standard has them.

use super::Relay;
use super::problem::{Problem, Stopping, stopping};
use crate::events::{Event, What};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Events that are kept for listeners, all of them together: who is further behind has missed the rest.
pub const KEPT: usize = 256;

/// How many may listen at once.
pub(super) const LISTENERS: usize = 16;

/// A listener that hears nothing for so long is told that the relay is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What changes, as it changes
///
/// One event of the stream for each change: `id` is its number, `event` its kind, `data` an Event as JSON. Who reads too
/// slowly is told how many events were missed (kind `missed`). A comment comes every ten seconds in which nothing changes.
#[utoipa::path(get, path = "/api/v1/events", tag = "health", responses(
    (status = 200, description = "The stream; it ends with the relay.", body = String, content_type = "text/event-stream"),
    Stopping
))]
pub(super) async fn events(State(relay): State<Relay>) -> Result<Response, Problem> {
    let permit = relay.listeners.try_acquire_owned().map_err(|_| {
        let what = format!("{LISTENERS} listen to events already, and no more may");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, what)
    })?;
    let receiver = relay.events.upgrade().ok_or_else(stopping)?.subscribe();
    let listener = Listener { receiver, next: None, _permit: permit };
    let hello = stream::iter([Ok::<_, Infallible>(sse::Event::default().comment("listening"))]);
    let events = stream::unfold(listener, async |mut listener| {
        let event = listener.next().await?;
        Some((Ok(written(&event)), listener))
    });
    // Who came by a token that is no longer good is let go.
    let mut guard = relay.guard;
    guard.mark_unchanged();
    let changed = Box::pin(async move {
        if guard.changed().await.is_err() {
            std::future::pending().await
        }
    });
    let stream = hello.chain(events).take_until(changed);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

struct Listener {
    receiver: Receiver<Arc<Event>>,
    /// To be told after how many before it were missed.
    next: Option<Arc<Event>>,
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// The next event; `None` where the relay is stopping.
    async fn next(&mut self) -> Option<Arc<Event>> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        let mut count = 0;
        loop {
            match self.receiver.recv().await {
                Ok(event) if count == 0 => return Some(event),
                Ok(event) => {
                    let what = What::Missed { count };
                    let missed = Event {
                        number: event.number.saturating_sub(1),
                        unix_ms: event.unix_ms,
                        words: what.to_string(),
                        what,
                    };
                    self.next = Some(event);
                    return Some(Arc::new(missed));
                }
                Err(RecvError::Lagged(missed)) => count += missed,
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn written(event: &Event) -> sse::Event {
    let value = serde_json::to_value(event).unwrap_or_default();
    let kind = value["kind"].as_str().unwrap_or_default();
    sse::Event::default().id(event.number.to_string()).event(kind).data(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::{Guard, Port, serve};
    use super::*;
    use crate::report::Report;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::sync::{broadcast, mpsc, watch};

    fn event(number: u64) -> Arc<Event> {
        let what = What::ReloadRefused { reason: "x".repeat(2000) };
        Arc::new(Event { number, unix_ms: 0, words: String::new(), what })
    }

    /// A client that does not let much wait in its socket.
    async fn listen(ops: std::net::SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let mut stream = socket.connect(ops).await.expect("it listens");
        stream.write_all(b"GET /api/v1/events HTTP/1.0\r\n\r\n").await.expect("it reads");
        stream
    }

    async fn read_until(stream: &mut TcpStream, seen: &mut String, end: &str) {
        let mut buffer = vec![0; 65_536];
        while !seen.contains(end) {
            let read = stream.read(&mut buffer).await.expect("it answers");
            assert!(read > 0, "it ended: {seen}");
            seen.push_str(std::str::from_utf8(&buffer[..read]).expect("ASCII"));
        }
    }

    #[tokio::test]
    async fn who_reads_nothing_costs_nothing_and_is_told_how_much_was_missed() {
        let (sender, _) = broadcast::channel(KEPT);
        let (orders, _orders) = mpsc::channel(1);
        let (_report, report) = watch::channel(Report::default());
        let (_guard, guard) = watch::channel(Guard::default());
        let port = Port { report, orders, events: sender.downgrade(), guard, tally: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let ops = listener.local_addr().expect("it is bound");
        let serving = tokio::spawn(async move { serve(listener, port).await });
        let mut all = Vec::new();
        for _ in 0..LISTENERS {
            let mut stream = listen(ops).await;
            let mut seen = String::new();
            read_until(&mut stream, &mut seen, ": listening").await;
            all.push((stream, seen));
        }
        let mut refused = listen(ops).await;
        let mut answer = String::new();
        refused.read_to_string(&mut answer).await.expect("it answers");
        assert!(answer.contains(" 503 ") && answer.contains("no more may"), "{answer}");

        // Far more than any socket's buffers hold.
        const SENT: u64 = 10_000;
        for number in 1..=SENT {
            sender.send(event(number)).expect("they listen");
            if number % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(sender.len() <= KEPT);
        let (mut stream, mut seen) = all.swap_remove(0);
        read_until(&mut stream, &mut seen, &format!("id: {SENT}\n")).await;
        let data = seen.lines().filter_map(|line| line.strip_prefix("data: "));
        let (mut missed, mut came) = (0, 0);
        for line in data {
            let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            match event["kind"].as_str() {
                Some("missed") => missed += event["count"].as_u64().expect("a count"),
                _ => came += 1,
            }
        }
        // The last one may still be on its way.
        assert!(missed > 0 && (SENT - 1..=SENT).contains(&(missed + came)), "{missed} missed, {came} came");
        drop(sender);
        let (mut stream, mut seen) = all.swap_remove(0);
        stream.read_to_string(&mut seen).await.expect("it ends with the relay");
        serving.abort();
    }
}

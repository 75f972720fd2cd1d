//! The tasks of a host: one for time, one that goes on where quinn had no room, one for housekeeping; and four for each
//! connection: the datagrams that arrive, the control messages that arrive, those that leave, and one that waits for its peer to be revoked. They are
//! apart because a task asks all that it waits for whenever one of them is there, and datagrams are there often.
//!
//! quinn sends datagrams before streams. So that media in abundance cannot starve control messages, none is handed over after a control
//! message was written until quinn has sent all the datagrams it held: at most 25 ms of the link's rate.

use super::Inner;
use super::carriage::{Arrivals, Copies, Waiting};
use super::control_pace::{self, ControlPace, Seldom};
use super::lag;
use crate::clock::unix_seconds;
use crate::control::{self, CloseCode, CodecError, Control, LENGTH, Refusal};
use crate::endpoint::{Carrier, closed_by};
use crate::greeting::{self, Renewal, printable};
use crate::ports::{Closed, Closing, EndSystem, PortId};
use crate::trust::{Grant, Standing};
use bytes::Bytes;
use futures_util::FutureExt;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};

/// Most datagrams of one turn. What waits beyond is read in the next, so that others get theirs.
const BATCH: usize = 64;

/// Most datagrams of one turn that come from other threads: those of several connections.
const FAR_BATCH: usize = 4 * BATCH;

/// Bytes of control messages that are written at once.
const CONTROL_BATCH: usize = 32 * 1024;

/// How often MTU, rates and addresses are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(200);

/// How soon quinn is asked again for room; the runtime's timers have no finer grain.
const RETRY: Duration = Duration::from_millis(1);

/// How long the last control messages may take to be read.
const LAST_WORD: Duration = Duration::from_millis(400);

/// Starts the tasks of a host. They end when it is gone.
pub(super) fn start<S: EndSystem + 'static>(inner: &Rc<Inner<S>>) {
    spawn_local(timer(Rc::downgrade(inner), inner.timer.clone()));
    spawn_local(pump(Rc::downgrade(inner), inner.pump.clone()));
    spawn_local(housekeeping(Rc::downgrade(inner)));
    spawn_local(arrivals(Rc::downgrade(inner), inner.arrivals.clone()));
}

/// Starts the tasks of a connection. They hold the host until it ends.
pub(super) fn connection<S: EndSystem + 'static>(
    inner: &Rc<Inner<S>>,
    port: PortId,
    (connection, carrier): (Connection, Option<Arc<Carrier>>),
    (send, receive): (SendStream, RecvStream),
    (notify, standing, renewal): (Rc<Notify>, Standing, Option<Renewal>),
) {
    spawn_local(write_control(inner.clone(), port, connection.clone(), send, notify));
    let standing = Rc::new(standing);
    let mut control = spawn_local(read_control(inner.clone(), port, receive, standing.clone(), renewal));
    let watched = spawn_local(cut_off(inner.clone(), port, standing));
    let inner = inner.clone();
    spawn_local(async move {
        let error = match carrier {
            None => read_media(&inner, port, &connection).await,
            Some(carrier) => {
                let reading = read_media_there(inner.arrivals.clone(), port, connection);
                // It ends otherwise only where its thread does.
                carrier.runtime().spawn(reading).await.unwrap_or(ConnectionError::LocallyClosed)
            }
        };
        // The last control messages are heard before the end, but for those of a peer that is being held back: its port would outlast it.
        if tokio::time::timeout(LAST_WORD, &mut control).await.is_err() {
            control.abort();
            // Until it is gone: what it waited with is given back.
            let _ = control.await;
        }
        watched.abort();
        let closed = inner.turn(|core, now| core.closed(now, port, closed_by(&error)));
        inner.finished(port, closed);
    });
}

async fn timer<S: EndSystem>(inner: Weak<Inner<S>>, earlier: Rc<Notify>) {
    let sleep = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(sleep);
    loop {
        let Some(host) = inner.upgrade() else { return };
        let due = host.core.borrow().engine.poll_timeout();
        host.armed.set(due);
        if let Some(due) = due {
            sleep.as_mut().reset(host.clock.to_tokio(due));
        }
        drop(host);
        tokio::select! {
            () = &mut sleep, if due.is_some() => {
                let Some(host) = inner.upgrade() else { return };
                host.turn(|core, now| core.engine.handle_timeout(now));
            }
            () = earlier.notified() => {}
        }
    }
}

async fn pump<S: EndSystem>(inner: Weak<Inner<S>>, wanted: Rc<Notify>) {
    loop {
        wanted.notified().await;
        // The connections' own tasks get their turn to send.
        yield_now().await;
        let Some(host) = inner.upgrade() else { return };
        host.turn(|core, _| core.retry());
        let again = host.core.borrow().has_stuck();
        drop(host);
        if again {
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn housekeeping<S: EndSystem>(inner: Weak<Inner<S>>) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        let Some(host) = inner.upgrade() else { return };
        host.turn(|core, now| core.housekeeping(now));
        host.control_paces.borrow_mut().expire(host.clock.now());
    }
}

/// What other threads have received. All that has come meanwhile is one turn, or few.
async fn arrivals<S: EndSystem>(inner: Weak<Inner<S>>, arrivals: Arc<Arrivals>) {
    let mut batch = Waiting::default();
    loop {
        arrivals.take(&mut batch).await;
        let Some(host) = inner.upgrade() else { return };
        if let Some(caught_up) = batch.caught_up.take() {
            lag::waits_since(caught_up);
        }
        let mut left = batch.datagrams.drain(..).peekable();
        while left.peek().is_some() {
            host.turn(|core, now| core.receive_from_afar(now, left.by_ref().take(FAR_BATCH)));
            lag::put_off().await;
        }
    }
}

/// Until the connection ends; returns why.
async fn read_media<S: EndSystem>(inner: &Inner<S>, port: PortId, connection: &Connection) -> ConnectionError {
    let mut batch = Vec::new();
    loop {
        if let Err(error) = read_batch(connection, &mut batch).await {
            return error;
        }
        let full = batch.len() == BATCH;
        inner.turn(|core, now| core.receive(now, port, &mut batch));
        if full {
            lag::put_off().await;
        }
    }
}

/// As [`read_media`], on the thread of the connection.
async fn read_media_there(arrivals: Arc<Arrivals>, port: PortId, connection: Connection) -> ConnectionError {
    let (mut batch, mut copies) = (Vec::new(), Copies::default());
    loop {
        if let Err(error) = read_batch(&connection, &mut batch).await {
            return error;
        }
        let full = batch.len() == BATCH;
        for datagram in &mut batch {
            *datagram = copies.copy(datagram);
        }
        arrivals.put(port, &mut batch).await;
        if full {
            lag::put_off().await;
        }
    }
}

/// Waits for a datagram, and takes those that have come with it.
async fn read_batch(connection: &Connection, batch: &mut Vec<Bytes>) -> Result<(), ConnectionError> {
    batch.push(connection.read_datagram().await?);
    while batch.len() < BATCH {
        match connection.read_datagram().now_or_never() {
            Some(Ok(datagram)) => batch.push(datagram),
            // An error comes again.
            Some(Err(_)) | None => break,
        }
    }
    Ok(())
}

/// Ends a connection when that by which its peer came is revoked.
async fn cut_off<S: EndSystem>(inner: Rc<Inner<S>>, port: PortId, standing: Rc<Standing>) {
    let Refusal { code, reason } = standing.revoked().await;
    tracing::warn!(?port, %reason, "cut off");
    inner.turn(|core, _| core.engine.ports.close(port, code, &reason));
}

/// Until the stream or the connection ends. A peer that breaks the protocol is closed.
async fn read_control<S: EndSystem>(
    inner: Rc<Inner<S>>,
    port: PortId,
    mut receive: RecvStream,
    standing: Rc<Standing>,
    renewal: Option<Renewal>,
) {
    let mut body = Vec::new();
    let mut pace = ControlPace::default();
    let accounts = inner.core.borrow().engine.ports.peer(port).map(control_pace::accounts).unwrap_or_default();
    let mut told = Told::default();
    loop {
        let mut cost = 0;
        let message = match next_message(&mut receive, &mut body).await {
            Ok(Some((message, size))) => match greeting::out_of_place(&message, renewal.is_some()) {
                Some(what) => Err(what.to_owned()),
                None => {
                    cost = control_pace::cost(&message, size);
                    Ok(message)
                }
            },
            Ok(None) => return,
            Err(error) => Err(error.to_string()),
        };
        let now = inner.clock.now();
        let together = inner.control_paces.borrow_mut().before(now, &accounts, cost);
        let held_back = pace.before(now, cost).max(together);
        if !held_back.is_zero() {
            let spent = Spent { inner: &inner, accounts: &accounts, cost };
            hold_back(&inner, port, held_back, !std::mem::replace(&mut told.held_back, true)).await;
            std::mem::forget(spent);
        }
        match message {
            Ok(Control::Tokens { tokens }) => {
                if let Some(renewal) = &renewal {
                    renew(&inner, port, &standing, renewal.check(&tokens, unix_seconds()), &mut told);
                }
            }
            Ok(Control::Renewed { refusal: None }) => {
                if told.taken.lets(now) {
                    tracing::info!("the relay has taken the new tokens");
                }
            }
            Ok(Control::Renewed { refusal: Some(Refusal { reason, .. }) }) => {
                if told.refused.lets(now) {
                    tracing::error!(
                        reason = printable(&reason),
                        "the relay refuses the new tokens: those before stand"
                    );
                }
            }
            Ok(message) => inner.turn(|core, now| core.engine.handle_control(now, port, message)),
            Err(reason) => {
                inner.turn(|core, _| core.engine.ports.close(port, CloseCode::Protocol, &reason));
                return;
            }
        }
        if pace.turn_is_over(cost) {
            yield_now().await;
        }
    }
}

/// What was told of a connection, which its peer must not have repeated as often as it likes.
#[derive(Default)]
struct Told {
    held_back: bool,
    /// Of tokens shown anew, whichever end showed them.
    taken: Seldom,
    refused: Seldom,
}

/// What a message costs that waits; given back where its connection ends before it is handled.
struct Spent<'a, S> {
    inner: &'a Inner<S>,
    accounts: &'a [control_pace::Account],
    cost: u64,
}

impl<S> Drop for Spent<'_, S> {
    fn drop(&mut self) {
        self.inner.control_paces.borrow_mut().give_back(self.accounts, self.cost);
    }
}

/// Lets a peer wait that asks for more work than one may.
async fn hold_back<S: EndSystem>(inner: &Inner<S>, port: PortId, wait: Duration, first: bool) {
    inner.control_held_back.set(inner.control_held_back.get() + 1);
    if first {
        let core = inner.core.borrow();
        let peer = core.engine.ports.peer(port).map(|peer| peer.name.as_str());
        tracing::warn!(peer, "sends more control messages than one may: they are read more slowly");
    }
    tokio::time::sleep(wait).await;
}

/// A peer has shown other tokens: they take the place of those it came with, or those stay.
fn renew<S: EndSystem>(
    inner: &Inner<S>,
    port: PortId,
    standing: &Standing,
    checked: Result<Vec<Grant>, Refusal>,
    told: &mut Told,
) {
    let now = inner.clock.now();
    let refusal = match checked {
        Ok(grants) => {
            if told.taken.lets(now) {
                tracing::info!(?port, tokens = grants.len(), "peer has shown other tokens");
            }
            standing.renew(grants.iter().map(|grant| grant.id.clone()).collect());
            inner.turn(|core, now| core.engine.handle_rights(now, port, grants));
            None
        }
        Err(refusal) => {
            if told.refused.lets(now) {
                let reason = &refusal.reason;
                tracing::warn!(?port, %reason, "other tokens of a peer refused: those it came with stand");
            }
            Some(refusal)
        }
    };
    inner.turn(|core, _| core.engine.ports.control(port, Control::Renewed { refusal }));
}

/// A message, and how many bytes it was; `None` where the stream has ended.
async fn next_message(receive: &mut RecvStream, body: &mut Vec<u8>) -> Result<Option<(Control, usize)>, CodecError> {
    let mut length = [0; LENGTH];
    if receive.read_exact(&mut length).await.is_err() {
        return Ok(None);
    }
    let size = control::body_size(length)?;
    // It grows with what arrives, not with what is announced.
    body.clear();
    while body.len() < size {
        let start = body.len();
        body.resize(size.min(start + 16 * 1024), 0);
        if receive.read_exact(&mut body[start..]).await.is_err() {
            return Ok(None);
        }
    }
    let message = control::decode(body)?;
    if body.capacity() > CONTROL_BATCH {
        *body = Vec::new();
    }
    Ok(Some((message, size)))
}

/// Writes what is queued on the port, until the connection ends or the port is closed.
async fn write_control<S: EndSystem>(
    inner: Rc<Inner<S>>,
    port: PortId,
    connection: Connection,
    mut send: SendStream,
    wanted: Rc<Notify>,
) {
    let mut bytes = Vec::new();
    loop {
        let closing = take_control(&inner, port, &mut bytes);
        if !bytes.is_empty() {
            if send.write_all(&bytes).await.is_err() {
                return;
            }
            bytes.clear();
            inner.core.borrow_mut().control_written(port);
        } else if let Some(Closing { closed, .. }) = closing {
            if send.finish().is_ok() {
                let _ = tokio::time::timeout(LAST_WORD, send.stopped()).await;
            }
            hang_up(&connection, &closed);
            return;
        } else {
            bytes = Vec::new();
            tokio::select! {
                () = wanted.notified() => {}
                _ = connection.closed() => return,
            }
        }
    }
}

/// Moves queued messages to `bytes`, and says whether the port shall close after them.
fn take_control<S: EndSystem>(inner: &Inner<S>, port: PortId, bytes: &mut Vec<u8>) -> Option<Closing> {
    let mut core = inner.core.borrow_mut();
    let ports = &mut core.engine.ports;
    while bytes.len() < CONTROL_BATCH
        && let Some(message) = ports.poll_control(port)
    {
        if let Err(error) = control::encode(&message, bytes) {
            tracing::error!(%error, "a control message is not sent");
        }
    }
    ports.closing(port).cloned()
}

fn hang_up(connection: &Connection, closed: &Closed) {
    connection.close(VarInt::from_u32(closed.code.to_wire()), closed.reason.as_bytes());
}

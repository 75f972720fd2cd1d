//! `ctl events`: what changes at a relay, as it changes.

use super::super::ask::{Answer, At, Ops, PATIENCE, Stream};
use super::text;
use clap::Args;
use node::exit::Failure;
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

/// A longer line is none of ours.
const MOST: u64 = 1 << 20;

/// A relay that is silent for so long, its keep-alives included, is gone.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(in crate::cli) struct Events {
    #[command(flatten)]
    at: At,
    /// Print each event as a line of JSON
    #[arg(long)]
    json: bool,
}

impl Events {
    pub(super) fn execute(self) -> Result<(), Failure> {
        node::host::block_on_local(self.follow())
    }

    async fn follow(self) -> Result<(), Failure> {
        let ops = self.at.open()?;
        let failed = |error: std::io::Error| ops.unavailable(&error.to_string());
        let mut reader = tokio::time::timeout(PATIENCE, listen(&ops))
            .await
            .map_err(|_| ops.unavailable(&format!("no answer in {PATIENCE:?}")))??;
        loop {
            let mut line = Vec::new();
            let mut bounded = (&mut reader).take(MOST);
            let read = tokio::time::timeout(SILENCE, bounded.read_until(b'\n', &mut line))
                .await
                .map_err(|_| ops.unavailable(&format!("nothing heard for {SILENCE:?}")))?;
            if read.map_err(failed)? == 0 {
                return Err(ops.unavailable("the relay has ended the stream: it is stopping"));
            }
            // Kind and number stand in the data as well (HTML, server-sent events).
            let line = String::from_utf8_lossy(&line);
            let Some(data) = line.strip_prefix("data: ").map(str::trim_end) else { continue };
            let event: Value = ops.parse(data)?;
            let shown = if self.json { format!("{data}\n") } else { shown(&event) };
            super::super::print(&shown)?;
        }
    }
}

/// Asks for the stream, and reads the head of the answer.
async fn listen(ops: &Ops) -> Result<BufReader<Box<dyn Stream>>, Failure> {
    let failed = |error: std::io::Error| ops.unavailable(&error.to_string());
    let mut reader = BufReader::new(ops.send("GET", "/api/v1/events", None).await.map_err(failed)?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if (&mut reader).take(MOST).read_line(&mut head).await.map_err(failed)? == 0 || head.len() as u64 > MOST {
            return Err(ops.unavailable("its answer is not a relay's"));
        }
    }
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    if status != 200 {
        let mut body = String::new();
        (&mut reader).take(MOST).read_to_string(&mut body).await.map_err(failed)?;
        Answer { status, body }.good(ops)?;
    }
    Ok(reader)
}

/// When, and what.
fn shown(event: &Value) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(event["unix_ms"].as_u64().unwrap_or(0));
    format!("{} {}\n", humantime::format_rfc3339_millis(at), text(&event["words"]))
}

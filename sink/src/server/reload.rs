//! What happens when the configuration is read anew.

use super::{FLUSH_PATIENCE, Sink};
use crate::config::Config;
use crate::fanout::{make, wait_until};
use crate::report::Report;
use node::exit::Failure;
use std::convert::Infallible;
use std::sync::PoisonError;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;

impl Sink {
    /// Follows every configuration that is read anew, and reports what came of it.
    pub(super) async fn reread(
        &self,
        reloads: &mut mpsc::Receiver<Result<Config, Failure>>,
        report: &watch::Sender<Report>,
    ) -> Infallible {
        while let Some(read) = reloads.recv().await {
            self.reload(read).await;
            report.send_replace(self.report());
        }
        std::future::pending().await
    }

    /// Follows a configuration that was read anew, or tells why there is none. What is not of the outputs waits for a restart, and is named. A configuration with a
    /// mistake, or with an output that cannot be made, changes nothing.
    async fn reload(&self, read: Result<Config, Failure>) {
        let taken = match read {
            Ok(new) => self.take(new).await,
            Err(failure) => Err(failure.message),
        };
        let mut reloads = self.reloads.borrow_mut();
        match taken {
            Ok(()) => {
                reloads.done += 1;
                reloads.last_error = None;
            }
            Err(why) => {
                tracing::error!("the new configuration is refused, the one in force is kept: {why}");
                reloads.refused += 1;
                reloads.last_error = Some(why);
            }
        }
    }

    async fn take(&self, new: Config) -> Result<(), String> {
        new.check()?;
        let names = |config: &Config| config.streams.iter().map(|stream| stream.name.clone()).collect::<Vec<_>>();
        if names(&new) != names(&self.config) {
            return Err("streams: others than at the start, or in another order; that needs a restart".into());
        }
        // A name that is long in resolving, or a disk that is away, is not to hold up what plays.
        let wanted = self.host.with(|_, system, _| system.outlets().lacking(&new.streams));
        let outputs = self.outputs.clone();
        let making = spawn_blocking(move || make(wanted, &mut outputs.lock().unwrap_or_else(PoisonError::into_inner)));
        let made = making.await.map_err(|error| error.to_string())?.map_err(|failure| failure.message)?;
        let changes = self.host.with(|_, system, _| system.outlets_mut().follow(&new.streams, made));
        wait_until(FLUSH_PATIENCE, || self.host.with(|_, system, _| system.outlets().has_left())).await;
        let outputs = self.outputs.clone();
        spawn_blocking(move || outputs.lock().unwrap_or_else(PoisonError::into_inner).tidy());
        if changes.is_empty() {
            tracing::info!("read anew; no output has changed");
        }
        changes.iter().for_each(|change| tracing::info!("read anew: {change}"));
        let waiting = self.config.bound_to_the_start(&new);
        if !waiting.is_empty() {
            tracing::warn!("changed, in force after a restart only: {}", waiting.join(", "));
        }
        Ok(())
    }
}

impl Config {
    /// What differs and waits for a restart.
    fn bound_to_the_start(&self, new: &Config) -> Vec<&'static str> {
        let of_streams = |differ: fn(&crate::StreamConfig, &crate::StreamConfig) -> bool| {
            self.streams.iter().zip(&new.streams).any(|(old, new)| differ(old, new))
        };
        let fields = [
            ("relays", self.relays != new.relays),
            ("keys", self.keys != new.keys),
            ("name", self.name != new.name),
            ("token_file", self.token_file != new.token_file),
            ("payload_key", self.payload_key != new.payload_key),
            ("allow_clear", self.allow_clear != new.allow_clear),
            ("wait", self.wait != new.wait),
            ("until_end", self.until_end != new.until_end),
            ("path_mtu", self.path_mtu != new.path_mtu),
            ("report_interval", self.report_interval != new.report_interval),
            ("metrics", self.metrics != new.metrics),
            ("streams.latency", of_streams(|old, new| old.latency != new.latency)),
            ("streams.payload_key", of_streams(|old, new| old.payload_key != new.payload_key)),
        ];
        fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

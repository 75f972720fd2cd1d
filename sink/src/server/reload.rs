//! What happens when the configuration is read anew.

use super::Sink;
use crate::config::Config;
use node::exit::Failure;

impl Sink {
    /// Follows a configuration that was read anew, or tells why there is none. What is not of the outputs waits for a restart, and is named. A configuration with a
    /// mistake, or with an output that cannot be made, changes nothing.
    pub(super) fn reload(&self, read: Result<Config, Failure>) {
        let taken = read.map_err(|failure| failure.message).and_then(|new| self.take(new));
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

    fn take(&self, new: Config) -> Result<(), String> {
        new.check()?;
        let names = |config: &Config| config.streams.iter().map(|stream| stream.name.clone()).collect::<Vec<_>>();
        if names(&new) != names(&self.config) {
            return Err("streams: others than at the start, or in another order; that needs a restart".into());
        }
        let mut outputs = self.outputs.borrow_mut();
        let changes = self.host.with(|_, system, _| system.outlets_mut().follow(&new.streams, &mut outputs));
        let changes = changes.map_err(|failure| failure.message)?;
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

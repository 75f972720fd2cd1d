//! `run` and `check`.

use super::{Configured, service};
use crate::config::{Config, LEAST_INTERVAL, Neighbour};
use crate::report::Report;
use crate::server::{self, Reloads};
use clap::Args;
use node::config::Layers;
use node::exit::{Exit, Failure};
use node::lines;
use node::telemetry::{self, LogFormat};
use std::rc::Rc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    configured: super::Configured,
    /// Write a report to standard output at each interval, as one line of JSON
    #[arg(long)]
    json: bool,
    /// Time between two of these reports, at least 10ms; as configured (report_interval) at the start where it is not given
    #[arg(long, value_name = "TIME", requires = "json", value_parser = interval)]
    interval: Option<Duration>,
    /// What to log, to standard error: error, warn, info, debug, trace, or a list of target=level
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,
    /// How to log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

impl Run {
    pub(super) fn execute(self) -> Result<(), Failure> {
        telemetry::init_logs(self.log_format, &self.log)?;
        let config = load(&self.configured)?;
        node::host::block_on_local(self.run(config))
    }

    async fn run(self, mut config: Config) -> Result<(), Failure> {
        let asked = self.interval;
        let interval = asked.unwrap_or(config.report_interval);
        config = renewed_for(config, asked);
        let (stop, stopping) = watch::channel(false);
        let (report, reports) = watch::channel(Report::default());
        let (reload, reloads) = mpsc::channel(1);
        let configured = self.configured.clone();
        let load = move || {
            let config = load(&configured)?;
            Ok(renewed_for(config, asked))
        };
        let load = Rc::new(load);
        let reloads = Reloads {
            pushed: reloads,
            load: Some(Box::new({
                let load = load.clone();
                move || load()
            })),
        };
        let relay = server::run_reloading(config, stopping, report, reloads);
        tokio::select! {
            result = relay => return result.map(drop),
            result = signals(stop, reload, &*load) => result?,
            result = write_reports(reports.clone(), interval), if self.json => result?,
            () = service::tell(reports) => {}
        }
        Ok(())
    }
}

/// Follows SIGTERM, SIGINT and SIGHUP. Returns at the second request to stop.
async fn signals(
    stop: watch::Sender<bool>,
    reload: mpsc::Sender<Result<Config, Failure>>,
    load: &dyn Fn() -> Result<Config, Failure>,
) -> Result<(), Failure> {
    let listen =
        |kind| signal(kind).map_err(|e| Failure::new(Exit::Software, format!("cannot listen to signals: {e}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let mut asked = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {
                // The relay has ended where nobody receives; then there is nothing to reload.
                drop(reload.send(load()).await);
                continue;
            }
        }
        if asked {
            tracing::warn!("asked a second time: stopping at once");
            return Ok(());
        }
        asked = true;
        stop.send_replace(true);
    }
}

/// Has the report renewed as often as it is to be written.
fn renewed_for(config: Config, asked: Option<Duration>) -> Config {
    Config {
        report_interval: asked.map_or(config.report_interval, |asked| asked.min(config.report_interval)),
        ..config
    }
}

/// The time between two reports.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = super::duration(text)?;
    if interval < LEAST_INTERVAL {
        return Err(format!("expected at least {}", humantime::format_duration(LEAST_INTERVAL)));
    }
    Ok(interval)
}

/// One line of JSON per interval; returns only on failure.
async fn write_reports(reports: watch::Receiver<Report>, interval: Duration) -> Result<(), Failure> {
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        if !reports.borrow().ready {
            continue;
        }
        let line = serde_json::to_string(&*reports.borrow());
        let line = line.map_err(|error| Failure::new(Exit::Software, format!("cannot write the report: {error}")))?;
        lines::stdout().put(line + "\n");
    }
}

/// Checks a configuration and its keys.
pub(super) fn check(configured: &Configured) -> Result<(), Failure> {
    let config = load(configured)?;
    let identity = server::identity(&config)?;
    config.ops_guard()?;
    if let Some(state) = &config.state {
        crate::overrides::load(state)?;
    }
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    let neighbours = config.neighbours.len();
    super::print(&format!(
        "{}: relay {}, listening on {}, {neighbours} neighbours: right\n",
        place(configured),
        identity.name,
        listen.join(", ")
    ))
}

/// Reads a configuration in its layers: defaults, file, environment, flags.
fn load(configured: &Configured) -> Result<Config, Failure> {
    let layers = Layers { file: configured.config.as_deref(), prefix: "ANABRANCH_RELAY", ..Layers::default() };
    let mut config: Config = layers.load()?;
    config.keys = configured.keys.clone().or(config.keys);
    config.name = configured.name.clone().or(config.name);
    config.ops = configured.ops.or(config.ops);
    config.ops_token_file = configured.ops_token_file.clone().or(config.ops_token_file);
    config.ops_hosts.extend(configured.ops_host.iter().cloned());
    if !configured.listen.is_empty() {
        config.listen.clone_from(&configured.listen);
    }
    config.neighbours.extend(configured.neighbour.iter().cloned().map(Neighbour::at));
    config.check().map_err(|what| Failure::new(Exit::Config, format!("{}: {what}", place(configured))))?;
    Ok(config)
}

/// How messages name where the settings came from.
fn place(configured: &Configured) -> String {
    match &configured.config {
        Some(file) => format!("configuration {}", file.display()),
        None => "command line".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_renewed_as_configured_unless_it_is_to_be_written_sooner() {
        let seconds = Duration::from_secs;
        let renewed = |asked| {
            let config = Config { report_interval: seconds(10), ..Config::default() };
            renewed_for(config, asked).report_interval
        };
        assert_eq!(renewed(None), seconds(10));
        assert_eq!(renewed(Some(seconds(1))), seconds(1));
        assert_eq!(renewed(Some(seconds(60))), seconds(10));
    }
}

//! `ctl link`: the repair of a link, while it carries.

use super::super::ask::{Answer, At};
use super::views;
use crate::overrides::{Capacity, LinkOverride};
use clap::{Args, Subcommand};
use link::policy::RepairMode;
use node::exit::{Exit, Failure};
use serde_json::{Value, json};
use topology::{LinkEnd, NodeName};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Link {
    /// Set how losses are repaired on what FROM sends to TO; in force with the next packet, nothing is lost
    ///
    /// What is not named stays as it is. What is set stands above FROM's configuration file, over reloads too, until `ctl link reset`
    /// or, without --persist, until FROM is restarted. The other direction is TO's: set it there.
    Set(Set),
    /// Put what FROM sends to TO back as FROM's configuration file says
    Reset(Reset),
}

#[derive(Debug, Args)]
struct Ends {
    /// The relay that sends: the one whose operations port is asked
    from: NodeName,
    /// The neighbour that receives; with several links to it NEIGHBOUR~LINK, as `ctl links` shows them
    to: LinkEnd,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Set {
    #[command(flatten)]
    ends: Ends,
    #[command(flatten)]
    wanted: Wanted,
    /// Keep it for the next start, in the file that `state` in FROM's configuration names
    #[arg(long)]
    persist: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Wanted {
    /// auto: chosen from delay and loss; off: none; arq: on request only; fec: ahead of loss only; hybrid: both; duplicate: every
    /// packet twice
    #[arg(long, value_parser = mode)]
    mode: Option<RepairMode>,
    /// Share of packets that may remain lost or late after repair: 1e-7, or 0.01%
    #[arg(long, value_name = "SHARE", value_parser = share)]
    target: Option<f64>,
    /// Ceiling on repair bytes, as a share of media bytes: 0.5, or 50%
    #[arg(long, value_name = "SHARE", value_parser = share)]
    max_overhead: Option<f64>,
    /// What the link may carry, media and repair together, such as "20 Mbit/s"; auto: estimated from delay and loss
    #[arg(long, value_name = "RATE")]
    capacity: Option<Capacity>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Reset {
    #[command(flatten)]
    ends: Ends,
    /// Also forget what was kept for the next start
    #[arg(long)]
    persist: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

impl Link {
    pub(super) fn execute(self) -> Result<(), Failure> {
        match self {
            Link::Set(Set { ends, wanted, persist, json, at }) => {
                let set = LinkOverride::from(&wanted);
                set.check().map_err(|what| Failure::new(Exit::Usage, what))?;
                let mut body = serde_json::to_value(set)
                    .map_err(|error| Failure::new(Exit::Software, format!("cannot write the request: {error}")))?;
                body["persist"] = json!(persist);
                change("PUT", &ends, "", Some(&body), at, json)
            }
            Link::Reset(Reset { ends, persist, json, at }) => {
                let query = if persist { "?persist=true" } else { "" };
                change("DELETE", &ends, query, None, at, json)
            }
        }
    }
}

fn change(method: &str, ends: &Ends, query: &str, body: Option<&Value>, at: At, json: bool) -> Result<(), Failure> {
    let Ends { from, to } = ends;
    let path = format!("/api/v1/links/{from}/{to}{query}");
    let ops = at.open()?;
    let Answer { body, .. } = node::host::block_on_local(ops.request(method, &path, body))?.good(&ops)?;
    if json {
        return super::super::print(&(body + "\n"));
    }
    super::super::print(&views::changed(&ops.parse(&body)?))
}

impl From<&Wanted> for LinkOverride {
    fn from(wanted: &Wanted) -> LinkOverride {
        LinkOverride {
            mode: wanted.mode,
            target_residual: wanted.target,
            max_overhead: wanted.max_overhead,
            capacity: wanted.capacity,
        }
    }
}

fn mode(text: &str) -> Result<RepairMode, String> {
    serde_json::from_value(Value::from(text))
        .map_err(|_| "expected auto, off, arq, fec, hybrid or duplicate".to_owned())
}

/// A share: `0.5`, `1e-7` or `50%`.
fn share(text: &str) -> Result<f64, String> {
    let (number, scale) =
        text.trim().strip_suffix('%').map_or((text.trim(), 1.0), |percent| (percent.trim_end(), 0.01));
    let number: f64 = number.parse().map_err(|_| "expected a share such as 0.5 or 50%".to_owned())?;
    Ok(number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_modes_as_people_write_them() {
        assert_eq!((share("0.5"), share("50%"), share("1e-7")), (Ok(0.5), Ok(0.5), Ok(1e-7)));
        assert!(share("much").is_err());
        assert_eq!(mode("hybrid"), Ok(RepairMode::Hybrid));
        assert!(mode("HYBRID").is_err_and(|why| why.contains("duplicate")));
    }
}

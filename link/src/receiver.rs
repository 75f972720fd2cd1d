//! The receiving side: takes transmissions in, and decides when to report.

use crate::arrivals::{Arrival, Arrivals};
use crate::frame::{Echo, Feedback, Frame, Horizon};
use crate::ids::LinkSeq;
use crate::symbols::Symbols;
use crate::time::Instant;
use crate::timing::{Timing, stamp};
use bytes::{Bytes, BytesMut};
use std::time::Duration;

/// Shortest time between two reports.
const AT_ONCE: Duration = Duration::from_micros(500);
/// Time between reports while something is missing, at best.
const MISSING: Duration = Duration::from_millis(2);
/// Time between reports while media comes whole, at best.
const WHOLE: Duration = Duration::from_millis(3);
/// Time between reports on a slow link, where nothing is lost, and while a report is awaited to measure the round trip.
pub(crate) const SLOW: Duration = Duration::from_millis(20);
/// The same while reports are lost.
const SLOW_AND_LOST: Duration = Duration::from_millis(10);
/// Most pauses that may be owed.
const MOST_EARLY: f64 = 1.0;
/// Share of reports whose loss counts.
const LOSSY: f64 = 0.005;
/// Share of what comes whose loss counts.
const CALM: f64 = 0.002;
/// Time between reports while nothing but reports and probes comes.
pub(crate) const QUIET: Duration = Duration::from_millis(100);
/// Share of the rate received that reports may take.
const SHARE: f64 = 0.012;
/// The same while something is missing and reports are lost, on a path without length, and what each second of round trip takes
/// off it: the shorter the round trip, the more of its rounds does a burst of lost reports cost.
const SHARE_IN_NEED: f64 = 0.0188;
const SHARE_PER_SECOND: f64 = 0.1;
const LEAST_SHARE_IN_NEED: f64 = 0.0125;
/// Runs of transmissions told in a report.
const RUNS: usize = 24;
/// Bytes a second, received, of a link that is quick (50 Mbit/s): there more runs are under repair at a time than a report has room for, though it
/// loses no more than a few in a hundred.
const QUICK: f64 = 6.25e6;
/// The time over which the rate received is measured.
const RATE_OVER: Duration = Duration::from_millis(200);
/// Bytes of a usual report, until some have been sent.
const USUAL: f64 = 56.0;

/// The receiving side of a link.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) arrivals: Arrivals,
    pub(crate) symbols: Symbols,
    last_arrival: Option<Instant>,
    echo: Echo,
    last_report: Instant,
    /// When the first of what came since the last report came.
    first_arrival: Instant,
    /// Media or repair came since the last report.
    media_came: bool,
    /// Anything came since the last report.
    anything_came: bool,
    /// A loss was found since the last report.
    loss_found: bool,
    /// A probe asked what has come since the last report.
    asked: bool,
    /// Pauses that reports of losses have taken from those that follow: in all they keep to their share.
    early: f64,
    /// The peer loses what this end sends.
    reports_lost: bool,
    /// Bytes received, of late, per second.
    rate: f64,
    rate_since: Instant,
    rate_bytes: u64,
    /// Mean bytes of a report.
    report_size: f64,
    runs: Vec<u32>,
    gaps: Vec<(u32, u32)>,
    /// Whether the peer may send media.
    takes_media: bool,
}

impl Receiver {
    pub(crate) fn new(now: Instant, max_kept: usize, takes_media: bool) -> Receiver {
        Receiver {
            arrivals: Arrivals::new(),
            symbols: Symbols::new(max_kept),
            last_arrival: None,
            echo: Echo::default(),
            last_report: now,
            first_arrival: now,
            media_came: false,
            anything_came: false,
            loss_found: false,
            asked: false,
            early: 0.0,
            reports_lost: true,
            rate: 0.0,
            rate_since: now,
            rate_bytes: 0,
            report_size: USUAL,
            runs: Vec::new(),
            gaps: Vec::new(),
            takes_media,
        }
    }

    /// Takes a frame other than a duplicate into account; returns whether it is to be looked at any further.
    pub(crate) fn on_frame(&mut self, now: Instant, timing: &mut Timing, frame: &Frame<'_>, datagram: &Bytes) -> bool {
        let (link_seq, sent) = match frame {
            Frame::Media(media) => (media.link_seq, media.sent),
            Frame::Repair(repair) => (repair.link_seq, repair.sent),
            Frame::Feedback(feedback) => (feedback.link_seq, feedback.sent),
            Frame::Probe(probe) => (probe.link_seq, probe.sent),
            Frame::Path(_) => return false,
        };
        let settled = self.arrivals.settled();
        match self.arrivals.on_arrival(now, link_seq) {
            Arrival::New => {}
            Arrival::Duplicate => return false,
            Arrival::Old => {
                // It measures nothing any more, but a symbol that it brings may be missing still.
                match frame {
                    Frame::Media(media) => self.symbols.on_media(now, timing, media, datagram),
                    Frame::Repair(repair) => self.symbols.on_repair(now, timing, repair, datagram),
                    Frame::Feedback(_) | Frame::Probe(_) | Frame::Path(_) => {}
                }
                return false;
            }
        }
        self.measure_rate(now, datagram.len());
        timing.on_arrival(now, sent);
        self.last_arrival = Some(now);
        if !self.anything_came {
            self.first_arrival = now;
        }
        self.anything_came = true;
        self.echo = Echo { stamp: sent, arrived: stamp(now) };
        match frame {
            Frame::Media(media) => {
                self.media_came = true;
                self.symbols.on_media(now, timing, media, datagram);
            }
            Frame::Repair(repair) => {
                self.media_came = true;
                self.symbols.on_repair(now, timing, repair, datagram);
            }
            Frame::Feedback(feedback) => self.expect(now, feedback.horizon),
            Frame::Probe(probe) => {
                self.expect(now, probe.horizon);
                // The peer keeps what it does not know to have come: the report that said so may be lost, or waits.
                self.asked |= probe.horizon.kept > 0;
                self.media_came |= self.asked;
            }
            Frame::Path(_) => {}
        }
        self.loss_found |= self.skipped(settled) && !self.symbols.is_complete();
        true
    }

    /// Whether the peer may send media.
    pub(crate) fn takes_media(&self) -> bool {
        self.takes_media
    }

    /// Takes the share lost of what this end sends: where reports are lost, more of them are needed.
    pub(crate) fn set_loss_sent(&mut self, loss: f64) {
        self.reports_lost = loss > LOSSY;
    }

    /// Does what is due by `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.loss_found |= self.arrivals.settle(now) && !self.symbols.is_complete();
        self.symbols.expire(now);
    }

    /// When the next report is due, if anything has come; `quiet` lies between those of a link without media.
    pub(crate) fn report_due(&self, timing: &Timing, quiet: Duration) -> Option<Instant> {
        self.last_arrival?;
        if self.loss_found {
            return Some(self.last_report + AT_ONCE);
        }
        let Some(pause) = self.pause(timing, quiet) else { return self.settling() };
        let mut due = self.last_report + pause.mul_f64(1.0 + self.early);
        if self.is_in_no_hurry() {
            // One report for all of a burst.
            due = due.max(self.first_arrival + SLOW / 2);
        }
        Some(self.settling().map_or(due, |settling| settling.min(due)))
    }

    /// Time between reports that are not of a loss just found; `None` where nothing has come that is worth one.
    fn pause(&self, timing: &Timing, quiet: Duration) -> Option<Duration> {
        Some(if !self.symbols.is_complete() {
            let in_need = SHARE_IN_NEED - SHARE_PER_SECOND * timing.rtt().0.as_secs_f64();
            let share = if self.reports_lost { in_need.max(LEAST_SHARE_IN_NEED) } else { SHARE };
            self.affordable(share, MISSING, SLOW_AND_LOST)
        } else if self.is_in_no_hurry() {
            SLOW
        } else if self.media_came {
            self.affordable(SHARE, WHOLE, if self.reports_lost { SLOW_AND_LOST } else { SLOW })
        } else if !self.anything_came {
            return None;
        } else if !timing.is_measured() {
            SLOW
        } else {
            quiet
        })
    }

    /// Whether media has come, and nobody waits for a report.
    fn is_in_no_hurry(&self) -> bool {
        self.media_came && self.is_calm() && !self.asked && self.symbols.is_complete()
    }

    /// Whether nothing is lost either way, as far as is known.
    fn is_calm(&self) -> bool {
        !self.reports_lost && self.arrivals.loss().1 < CALM
    }

    /// When a gap may turn out to be a loss.
    fn settling(&self) -> Option<Instant> {
        if self.symbols.is_complete() { None } else { self.arrivals.next_settling() }
    }

    /// Writes a report.
    pub(crate) fn report(
        &mut self,
        now: Instant,
        timing: &Timing,
        quiet: Duration,
        number: LinkSeq,
        horizon: Horizon,
        out: &mut BytesMut,
    ) -> Option<usize> {
        let settled = self.arrivals.settled()?;
        let start = out.len();
        self.arrivals.tell(&mut self.runs, RUNS);
        let known = self.symbols.tell(now, self.arrivals.guard(), self.is_quick(), &mut self.gaps);
        let lateness = (timing.lateness(0.001).as_micros() / 10).min(u128::from(u16::MAX)) as u16;
        Feedback::put(out, number, stamp(now), horizon, self.echo, lateness, settled, &self.runs, known, &self.gaps);
        if let Some(pause) = self.pause(timing, quiet) {
            let waited = (now - self.last_report).as_secs_f64() / pause.as_secs_f64();
            self.early = (self.early + 1.0 - waited).clamp(0.0, MOST_EARLY);
        }
        self.last_report = now;
        self.media_came = false;
        self.anything_came = false;
        self.loss_found = false;
        self.asked = false;
        let written = out.len() - start;
        self.report_size += (written as f64 - self.report_size) / 64.0;
        Some(written)
    }

    /// Time since anything arrived.
    pub(crate) fn last_arrival(&self) -> Option<Instant> {
        self.last_arrival
    }

    /// Whether settling moved over something other than the next transmission: a gap without guard, or its end.
    fn skipped(&self, before: Option<LinkSeq>) -> bool {
        match (before, self.arrivals.settled()) {
            (Some(before), Some(after)) => after.distance(before) > 1,
            _ => false,
        }
    }

    /// A pause between reports that keeps them within their share of what is received, as far as it is not too long.
    fn affordable(&self, share: f64, least: Duration, most: Duration) -> Duration {
        if self.rate <= 0.0 {
            return most;
        }
        Duration::from_secs_f64((self.report_size / (share * self.rate)).min(1.0)).clamp(least, most)
    }

    /// Whether more comes than [`QUICK`], or will have when the rate is measured next.
    fn is_quick(&self) -> bool {
        self.rate.max(self.rate_bytes as f64 / RATE_OVER.as_secs_f64()) >= QUICK
    }

    fn expect(&mut self, now: Instant, horizon: Horizon) {
        if self.takes_media {
            self.symbols.on_horizon(now, horizon);
        }
    }

    fn measure_rate(&mut self, now: Instant, bytes: usize) {
        let span = now - self.rate_since;
        if span >= RATE_OVER {
            self.rate = self.rate_bytes as f64 / span.as_secs_f64();
            (self.rate_since, self.rate_bytes) = (now, 0);
        }
        self.rate_bytes += bytes as u64;
    }
}

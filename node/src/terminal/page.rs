//! A view made of a few lines, tables below each other, the log, and the keys. Pure.

use super::log_pane;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Row, Table};

/// Rows that the log has at least, its title included.
const LOG_ROWS: u16 = 4;

/// What is drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The lines on top.
    pub head: Vec<(String, Tone)>,
    /// The tables, from top to bottom.
    pub tables: Vec<Panel>,
    /// What keys do.
    pub keys: String,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Panel {
    /// What it is about.
    pub title: String,
    /// The heads of its columns.
    pub heads: Vec<&'static str>,
    /// Its rows, each with as many cells as there are heads.
    pub rows: Vec<(Vec<String>, Tone)>,
}

/// How something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Neither good nor bad.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Doubtful,
    /// A viewer sees it, or soon will.
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Tone::Plain => Style::new(),
            Tone::Good => Style::new().fg(Color::Green),
            Tone::Doubtful => Style::new().fg(Color::Yellow),
            Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        }
    }
}

impl Page {
    /// Draws it, with the newest lines of the log in what room is left.
    pub fn draw(&self, frame: &mut Frame<'_>, log: &[String]) {
        let tables = self.tables.iter().map(|panel| Constraint::Max(panel.rows.len() as u16 + 2));
        let head = Constraint::Length(self.head.len() as u16);
        let rows = [head].into_iter().chain(tables).chain([Constraint::Min(LOG_ROWS), Constraint::Length(1)]);
        let areas = Layout::vertical(rows).split(frame.area());
        for ((text, tone), area) in self.head.iter().zip(areas[0].rows()) {
            frame.render_widget(Line::styled(format!(" {text}"), tone.style()), area);
        }
        for (panel, area) in self.tables.iter().zip(&areas[1..]) {
            frame.render_widget(panel.table(), *area);
        }
        let [log_area, foot] = [areas[areas.len() - 2], areas[areas.len() - 1]];
        log_pane(frame, log_area, log);
        frame.render_widget(Line::from(format!(" {}", self.keys)).dim(), foot);
    }
}

impl Panel {
    fn table(&self) -> Table<'_> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|(cells, _)| cells.get(column).map_or(0, |cell| cell.chars().count()));
            let widest = cells.chain(self.heads.get(column).map(|head| head.chars().count())).max();
            Constraint::Length(widest.unwrap_or(0) as u16)
        };
        let rows = self.rows.iter().map(|(cells, tone)| Row::new(cells.iter().map(String::as_str)).style(tone.style()));
        Table::new(rows, (0..self.heads.len()).map(width))
            .column_spacing(2)
            .header(Row::new(self.heads.iter().copied()).style(Style::new().add_modifier(Modifier::BOLD)))
            .block(Block::new().borders(Borders::TOP).title(format!(" {} ", self.title)))
    }
}

/// What a page looks like on a screen of this size: for tests.
pub fn rendered(page: &Page, log: &[String], (width, height): (u16, u16)) -> Vec<String> {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| page.draw(frame, log));
    let buffer = terminal.backend().buffer();
    let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(row).collect()
}

/// A bit rate in Mbit/s.
pub fn mbps(bits_per_second: f64) -> String {
    format!("{:.2}", bits_per_second / 1e6)
}

/// A share in per cent; 100 % only where it is all, 0 % only where it is nothing.
pub fn percent(share: f64) -> String {
    match share {
        share if share >= 1.0 => "100 %".into(),
        share if share <= 0.0 => "0 %".into(),
        share if share > 0.5 => format!("{:.4} %", (share * 1e6).floor() / 1e4),
        share => format!("{:.2} %", (share * 1e4).ceil() / 1e2),
    }
}

/// A time in whole seconds, in words.
pub fn span(seconds: f64) -> String {
    let whole = if seconds.is_finite() { seconds.max(0.0) as u64 } else { 0 };
    humantime::format_duration(std::time::Duration::from_secs(whole)).to_string()
}

/// How a transport stream is, in a few words.
pub fn ts_words(health: Option<&crate::ts::TsHealth>) -> String {
    let Some(health) = health else { return "-".into() };
    let faults = [
        (health.sync_errors, "sync"),
        (health.continuity_errors, "continuity"),
        (health.pat_errors, "PAT"),
        (health.pmt_errors, "PMT"),
        (health.transport_errors, "marked broken"),
        (health.pcr_repetition_errors, "PCR gaps"),
        (health.pcr_discontinuities, "PCR jumps"),
    ];
    let faults = faults.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let faults = faults.collect::<Vec<_>>().join(", ");
    let clock = match (health.pcr_interval_ms, health.pcr_jitter_ms) {
        (Some(interval), Some(jitter)) => format!(", PCR ≤ {interval:.0} ms ± {jitter:.1}"),
        _ => String::new(),
    };
    format!("{}{clock}", if faults.is_empty() { "ok".to_owned() } else { faults })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ts::TsHealth;

    fn page(rows: usize) -> Page {
        let rows = (0..rows).map(|n| (vec![format!("stream {n}"), "live".into()], Tone::Good)).collect();
        let streams = Panel { title: "Streams".into(), heads: vec!["STREAM", "STATE"], rows };
        Page { head: vec![("connected".into(), Tone::Plain)], tables: vec![streams], keys: "q stop".into() }
    }

    #[test]
    fn everything_has_its_place() {
        let log = ["one\n".to_owned(), "two\n".into()];
        let shown = rendered(&page(2), &log, (40, 12));
        assert_eq!((shown[0].as_str(), shown[11].as_str()), (" connected", " q stop"));
        assert!(shown[1].starts_with(" Streams ─"), "{shown:#?}");
        assert!(shown[2].starts_with("STREAM") && shown[4].starts_with("stream 1  live"), "{shown:#?}");
        assert!(shown[5].starts_with(" Log ─") && shown[7] == "two", "{shown:#?}");
    }

    #[test]
    fn a_small_terminal_shows_what_fits() {
        for size in [(1, 1), (5, 3), (20, 6), (200, 8)] {
            rendered(&page(30), &["a line\n".to_owned()], size);
        }
        let shown = rendered(&page(30), &[], (40, 20));
        assert!(shown[19].contains("q stop") && shown[1].contains("Streams"), "{shown:#?}");
    }

    #[test]
    fn figures_do_not_flatter() {
        assert_eq!(["0 %", "0.01 %", "2.50 %"], [0.0, 1e-9, 0.025].map(percent).each_ref().map(String::as_str));
        assert_eq!(["99.9999 %", "100 %"], [0.99999999, 1.0].map(percent).each_ref().map(String::as_str));
        assert_eq!((span(61.9), span(f64::NAN), mbps(5_204_000.0)), ("1m 1s".into(), "0s".into(), "5.20".into()));
        let health = TsHealth {
            continuity_errors: 2,
            pcr_interval_ms: Some(39.6),
            pcr_jitter_ms: Some(1.25),
            ..TsHealth::default()
        };
        assert_eq!(ts_words(Some(&health)), "2 continuity, PCR ≤ 40 ms ± 1.2");
        assert_eq!((ts_words(None), ts_words(Some(&TsHealth::default()))), ("-".into(), "ok".into()));
    }
}

//! What `top` shows, drawn from an answer of `/api/v1/overlay`. Pure.

use super::super::ctl::{list, number, text, ts_words};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Row, Table, TableState};
use serde_json::Value;
use std::cmp::Ordering;
use std::time::Duration;

/// By what links are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Those first that leave most lost.
    Worst,
    /// Those first that carry most.
    Media,
    /// By the names of their ends.
    Name,
}

/// What is known, and how it is looked at.
#[derive(Debug)]
pub(super) struct Screen {
    ops: String,
    overview: Value,
    /// Why there is no newer one.
    trouble: Option<String>,
    order: Order,
    links: TableState,
}

impl Screen {
    pub(super) fn new(ops: String) -> Screen {
        let links = TableState::default().with_selected(0);
        Screen { ops, overview: Value::Null, trouble: None, order: Order::Worst, links }
    }

    /// An answer, or why there is none; the last one stays on the screen.
    pub(super) fn take(&mut self, answer: Result<Value, String>) {
        match answer {
            Ok(overview) => (self.overview, self.trouble) = (overview, None),
            Err(why) => self.trouble = Some(why),
        }
    }

    pub(super) fn order(&mut self, order: Order) {
        self.order = order;
        self.links.select(Some(0));
    }

    pub(super) fn scroll(&mut self, by: isize) {
        let last = list(&self.overview["links"]).count().saturating_sub(1);
        let at = self.links.selected().unwrap_or(0).saturating_add_signed(by);
        self.links.select(Some(at.min(last)));
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let streams = (list(&self.overview["streams"]).count() as u16 + 2).clamp(3, 10);
        let rows = [Constraint::Length(2), Constraint::Min(4), Constraint::Length(streams), Constraint::Length(1)];
        let [head, links, streams, foot] = Layout::vertical(rows).areas(frame.area());
        frame.render_widget(self.head(), head);
        self.draw_links(frame, links);
        frame.render_widget(self.streams(), streams);
        let keys = " q quit   ↑↓ scroll   w worst first   m most media first   n by name";
        frame.render_widget(Line::from(keys).dim(), foot);
    }

    fn head(&self) -> Line<'static> {
        let overview = &self.overview;
        if let Some(why) = &self.trouble {
            return Line::from(format!(" {why}")).red().bold();
        }
        let of = |key: &str| list(&overview[key]).count();
        let gone = list(&overview["links"]).filter(|link| !link["gone_s"].is_null()).count();
        let state = if overview["draining"] == true { "draining" } else { "serving" };
        let up = humantime::format_duration(Duration::from_secs(number(&overview["uptime_s"]) as u64));
        Line::from(format!(
            " relay {} at {}: {state}, up {up}; {} relays, {} directed links ({gone} gone), {} streams, {} clients here",
            text(&overview["name"]),
            self.ops,
            of("relays"),
            of("links") - gone,
            of("streams"),
            overview["clients"],
        ))
        .bold()
    }

    fn draw_links(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let mut links: Vec<&Value> = list(&self.overview["links"]).collect();
        links.sort_by(|a, b| compare(self.order, a, b));
        let heads = ["FROM", "TO", "MEDIA Mbit/s", "LOST %", "LEFT %", "REPAIR %", "DELAY ms", "STATE"];
        let widths = [16, 16, 12, 9, 9, 9, 9, 16].map(Constraint::Length);
        let table = Table::new(links.into_iter().map(link_row), widths)
            .header(Row::new(heads).style(Style::new().add_modifier(Modifier::BOLD)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .block(Block::new().borders(Borders::TOP).title(" Links "));
        frame.render_stateful_widget(table, area, &mut self.links);
    }

    fn streams(&self) -> Table<'_> {
        let row = |stream: &Value| {
            let ends: Vec<&str> = list(&stream["egresses"]).map(text).collect();
            let here = match stream["carried"] == true {
                true => format!("TS: {}", ts_words(&stream["ts"])),
                false => "not through this relay".to_owned(),
            };
            Row::new([
                text(&stream["name"]).to_owned(),
                format!("{} → {}", text(&stream["ingress"]), ends.join(", ")),
                format!("{} ms", number(&stream["deadline_ms"])),
                here,
            ])
        };
        let widths = [Constraint::Length(28), Constraint::Min(24), Constraint::Length(9), Constraint::Length(36)];
        let rows = list(&self.overview["streams"]).map(row);
        Table::new(rows, widths).block(Block::new().borders(Borders::TOP).title(" Streams "))
    }
}

/// What stays lost, with links that are gone before all others.
fn left(link: &Value) -> f64 {
    if link["gone_s"].is_null() { number(&link["residual"]) } else { 2.0 }
}

/// What is lost on the wire: what the receiving end counts, or the level that routes are chosen by.
fn lost(link: &Value) -> f64 {
    if link["saved"].is_null() { number(&link["loss"]) } else { number(&link["saved"]) + number(&link["residual"]) }
}

fn compare(order: Order, a: &Value, b: &Value) -> Ordering {
    let by_name = (text(&a["from"]), text(&a["to"])).cmp(&(text(&b["from"]), text(&b["to"])));
    let most = |of: fn(&Value) -> f64| of(b).total_cmp(&of(a));
    match order {
        Order::Worst => most(left).then(most(lost)).then(by_name),
        Order::Media => most(|link| number(&link["rate"])).then(by_name),
        Order::Name => by_name,
    }
}

fn link_row(link: &Value) -> Row<'static> {
    let figure = |value: &Value, scale: f64, digits: usize| match value.as_f64() {
        Some(value) => format!("{:.digits$}", value * scale),
        None => "-".to_owned(),
    };
    let gone = link["gone_s"].as_f64();
    let state = match gone {
        Some(seconds) => format!("gone for {}", humantime::format_duration(Duration::from_secs(seconds as u64))),
        None if link["late"] == true => "late".to_owned(),
        None => "up".to_owned(),
    };
    let color = match left(link) {
        left if left >= 1e-2 => Color::Red,
        left if left >= 1e-6 => Color::Yellow,
        _ if number(&link["rate"]) > 0.0 => Color::Green,
        _ => Color::Reset,
    };
    let cells = [
        text(&link["from"]).to_owned(),
        text(&link["to"]).to_owned(),
        figure(&link["rate"], 1e-6, 2),
        if gone.is_some() { "-".into() } else { format!("{:.2}", lost(link) * 100.0) },
        figure(&link["residual"], 100.0, 4),
        figure(&link["overhead"], 100.0, 1),
        figure(&link["delay_ms"], 1.0, 1),
        state,
    ];
    Row::new(cells.map(Cell::from)).style(Style::new().fg(color))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    fn link(from: &str, to: &str, residual: Value, gone: Value) -> Value {
        json!({
            "from": from, "to": to, "gone_s": gone, "delay_ms": 8.25, "loss": 0.02, "late": false, "saved": 0.05,
            "residual": residual, "rate": 5_200_000, "overhead": 0.061,
        })
    }

    fn overview() -> Value {
        json!({
            "name": "fra", "uptime_s": 3720.4, "draining": false, "clients": 2,
            "relays": [{}, {}, {}],
            "links": [
                link("fra", "lon", json!(0.0), Value::Null),
                link("lon", "fra", json!(0.03), Value::Null),
                link("fra", "mil", Value::Null, json!(75.2)),
            ],
            "streams": [{"name": "news/main", "ingress": "lon", "egresses": ["fra", "mil"], "deadline_ms": 200.0, "carried": false}],
        })
    }

    fn lines(screen: &mut Screen, width: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, 14)).expect("it needs no terminal");
        terminal.draw(|frame| screen.draw(frame)).expect("it is drawn");
        let buffer = terminal.backend().buffer();
        (0..14).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned()).collect()
    }

    #[test]
    fn the_worst_link_stands_first() {
        let mut screen = Screen::new("127.0.0.1:4480".into());
        screen.take(Ok(overview()));
        let shown = lines(&mut screen, 120);
        assert_eq!(
            shown[0],
            " relay fra at 127.0.0.1:4480: serving, up 1h 2m; 3 relays, 2 directed links (1 gone), 1 streams, 2 clients here"
        );
        assert!(shown[4].contains("mil") && shown[4].contains("gone for 1m 15s"), "{shown:#?}");
        assert!(shown[5].starts_with("lon") && shown[5].contains("8.00") && shown[5].contains("3.0000"), "{shown:#?}");
        assert!(shown[6].contains("5.20") && shown[6].contains("6.1") && shown[6].ends_with("up"), "{shown:#?}");
        assert!(shown.iter().any(|line| line.contains("lon → fra, mil") && line.contains("not through")), "{shown:#?}");
        screen.order(Order::Name);
        assert!(lines(&mut screen, 120)[4].contains("lon"));
    }

    #[test]
    fn a_relay_that_is_gone_is_said_and_what_was_known_stays() {
        let mut screen = Screen::new("127.0.0.1:4480".into());
        screen.take(Ok(overview()));
        screen.take(Err("operations port 127.0.0.1:4480: no answer".into()));
        let shown = lines(&mut screen, 80);
        assert!(shown[0].contains("no answer") && shown[4].contains("mil"), "{shown:#?}");
    }

    #[test]
    fn scrolling_ends_at_either_end_and_nothing_known_is_drawn_too() {
        let mut screen = Screen::new("127.0.0.1:4480".into());
        lines(&mut screen, 20);
        screen.take(Ok(overview()));
        screen.scroll(-3);
        assert_eq!(screen.links.selected(), Some(0));
        screen.scroll(100);
        assert_eq!(screen.links.selected(), Some(2));
        lines(&mut screen, 10);
    }
}

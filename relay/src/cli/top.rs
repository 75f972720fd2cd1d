//! `top`: the overlay as a running relay knows it, live in a terminal.

#[path = "top/screen.rs"]
mod screen;

use super::ask::{At, Ops};
use clap::Args;
use node::exit::{Exit, Failure};
use node::terminal::{self, View};
use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use screen::{Order, Screen};
use std::io::IsTerminal;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct Top {
    #[command(flatten)]
    at: At,
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = super::duration)]
    interval: Duration,
}

impl Top {
    pub(super) fn execute(self) -> Result<(), Failure> {
        if !std::io::stderr().is_terminal() || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            let what = "top needs a terminal; `anabranch-relay ctl status` and `ctl links` print the same";
            return Err(Failure::new(Exit::Usage, what));
        }
        // Where nobody answers at first, that is told as by `ctl`; a relay that is gone later is waited for.
        let ops = self.at.open()?;
        let mut screen = Screen::new(ops.shown.clone());
        screen.take(Ok(ops.get("/api/v1/overlay")?));
        terminal::run(&mut Live { ops, screen }, self.interval)
    }
}

/// The screen, and where what it shows comes from.
struct Live {
    ops: Ops,
    screen: Screen,
}

impl View for Live {
    fn draw(&mut self, frame: &mut Frame<'_>, _: &[String]) {
        self.screen.draw(frame);
    }

    fn refresh(&mut self) {
        self.screen.take(self.ops.get("/api/v1/overlay").map_err(|failure| failure.message));
    }

    fn key(&mut self, key: KeyCode) {
        match key {
            KeyCode::Up | KeyCode::Char('k') => self.screen.scroll(-1),
            KeyCode::Down | KeyCode::Char('j') => self.screen.scroll(1),
            KeyCode::PageUp => self.screen.scroll(-10),
            KeyCode::PageDown => self.screen.scroll(10),
            KeyCode::Char('w') => self.screen.order(Order::Worst),
            KeyCode::Char('m') => self.screen.order(Order::Media),
            KeyCode::Char('n') => self.screen.order(Order::Name),
            _ => {}
        }
    }
}

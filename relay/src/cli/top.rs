//! `top`: the overlay as a running relay knows it, live in a terminal.

#[path = "top/screen.rs"]
mod screen;

use super::ask::{At, Ops};
use clap::Args;
use node::exit::{Exit, Failure};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
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
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            let what = "top needs a terminal; `anabranch-relay ctl status` and `ctl links` print the same";
            return Err(Failure::new(Exit::Usage, what));
        }
        // Where nobody answers at first, that is told as by `ctl`; a relay that is gone later is waited for.
        let ops = self.at.open()?;
        let mut screen = Screen::new(ops.address);
        screen.take(Ok(ops.get("/api/v1/overlay")?));
        let mut terminal = ratatui::try_init().map_err(|error| failed(&error))?;
        let result = self.follow(&ops, &mut terminal, screen);
        ratatui::restore();
        result
    }

    fn follow(&self, ops: &Ops, terminal: &mut ratatui::DefaultTerminal, mut screen: Screen) -> Result<(), Failure> {
        loop {
            terminal.draw(|frame| screen.draw(frame)).map_err(|error| failed(&error))?;
            if event::poll(self.interval).map_err(|error| failed(&error))? {
                match event::read().map_err(|error| failed(&error))? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                        KeyCode::Up | KeyCode::Char('k') => screen.scroll(-1),
                        KeyCode::Down | KeyCode::Char('j') => screen.scroll(1),
                        KeyCode::PageUp => screen.scroll(-10),
                        KeyCode::PageDown => screen.scroll(10),
                        KeyCode::Char('w') => screen.order(Order::Worst),
                        KeyCode::Char('m') => screen.order(Order::Media),
                        KeyCode::Char('n') => screen.order(Order::Name),
                        _ => {}
                    },
                    _ => {}
                }
                continue;
            }
            screen.take(ops.get("/api/v1/overlay").map_err(|failure| failure.message));
        }
    }
}

fn failed(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Io, format!("the terminal: {error}"))
}

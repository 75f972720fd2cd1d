//! A live view that takes the whole terminal: drawn on the standard error by a thread of its own, because a terminal may stop reading and live media must not
//! wait for it. What is logged meanwhile is held, shown in the view, and written out after it; whatever ends the program, the terminal is as it was.

pub mod page;

pub use page::{Page, Panel, Tone};

use crate::exit::{Exit, Failure};
use crate::lines;
use ratatui::Frame;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::layout::Rect;
use ratatui::prelude::CrosstermBackend;
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Paragraph};
use std::cell::Cell;
use std::io::{self, IsTerminal, Stderr};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, TryLockError};
use std::time::Duration;

/// Keys are answered within this time, and a view that is told to end does.
const LOOK: Duration = Duration::from_millis(100);

/// Lines of the log that a view may show.
const LOG_LINES: usize = 50;

/// How a program shows how it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ViewChoice {
    /// The whole screen, live.
    Screen,
    /// One line on the terminal, ever anew.
    Line,
    /// Nothing.
    None,
}

impl ViewChoice {
    /// What is shown: as asked, or what suits where the program runs. The screen only where nothing else is on it: neither input nor output is piped, and the
    /// program is not in the background.
    pub fn decide(asked: Option<ViewChoice>) -> Result<ViewChoice, Failure> {
        let terminal = io::stderr().is_terminal();
        let able = terminal && std::env::var_os("TERM").is_some_and(|term| term != "dumb") && is_in_front();
        match asked {
            Some(ViewChoice::Screen) if !able => {
                let what = "--view screen needs a terminal, and to be in the foreground there; --view line, or --json";
                Err(Failure::new(Exit::Usage, what))
            }
            Some(choice) => Ok(choice),
            None if able && io::stdin().is_terminal() && io::stdout().is_terminal() => Ok(ViewChoice::Screen),
            None if terminal => Ok(ViewChoice::Line),
            None => Ok(ViewChoice::None),
        }
    }
}

/// Whether this program may use the terminal: one in the background that changes its mode is stopped.
fn is_in_front() -> bool {
    rustix::termios::tcgetpgrp(io::stderr()).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// What is shown, and what keys do.
pub trait View {
    /// Draws all of it. `log` are the newest lines of the log, oldest first.
    fn draw(&mut self, frame: &mut Frame<'_>, log: &[String]);
    /// Time has passed: looks for something new.
    fn refresh(&mut self) {}
    /// A key, other than those that end the view.
    fn key(&mut self, _key: KeyCode) {}
    /// `q`, Escape or Ctrl-C: whether the view ends by itself, or goes on until it is told to end.
    fn quit(&mut self) -> ControlFlow<()> {
        ControlFlow::Break(())
    }
}

/// Shows a view on this thread until it ends.
pub fn run(view: &mut impl View, interval: Duration) -> Result<(), Failure> {
    let shown = enter().and_then(|mut screen| follow(&mut screen, view, interval, &AtomicBool::new(false)));
    restore();
    shown.map_err(|error| Failure::new(Exit::Io, format!("the terminal: {error}")))
}

/// A view on a thread of its own. Ends with the value.
#[derive(Debug)]
pub struct Live {
    stop: Arc<AtomicBool>,
    ended: Receiver<()>,
}

impl Live {
    /// Takes the terminal.
    pub fn start(mut view: impl View + Send + 'static, interval: Duration) -> io::Result<Live> {
        let mut screen = enter()?;
        let (stop, (end, ended)) = (Arc::new(AtomicBool::new(false)), channel());
        let told = stop.clone();
        let show = move || {
            // Without a terminal there is nobody to tell.
            let _ = follow(&mut screen, &mut view, interval, &told);
            restore();
            drop(end);
        };
        std::thread::Builder::new().name("view".into()).spawn(show).inspect_err(|_| restore())?;
        Ok(Live { stop, ended })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A terminal that reads no more is not waited for.
        let _ = self.ended.recv_timeout(LOOK + lines::LAST_WORDS);
    }
}

/// A view of a program's reports: keys that end a view ask the program to stop, and it goes on until the program has.
pub struct Follow<R, P> {
    reports: tokio::sync::watch::Receiver<R>,
    stop: Arc<tokio::sync::Notify>,
    page: P,
    shown: Page,
}

impl<R: Clone, P: FnMut(R) -> Page> Follow<R, P> {
    /// Shows reports as `page` draws them, and tells `stop` when the operator wants to stop.
    pub fn new(reports: tokio::sync::watch::Receiver<R>, stop: Arc<tokio::sync::Notify>, page: P) -> Follow<R, P> {
        Follow { reports, stop, page, shown: Page::default() }
    }
}

impl<R: Clone, P: FnMut(R) -> Page> View for Follow<R, P> {
    fn draw(&mut self, frame: &mut Frame<'_>, log: &[String]) {
        self.shown.draw(frame, log);
    }

    fn refresh(&mut self) {
        let report = self.reports.borrow().clone();
        self.shown = (self.page)(report);
    }

    fn quit(&mut self) -> ControlFlow<()> {
        self.stop.notify_one();
        ControlFlow::Continue(())
    }
}

type Screen = ratatui::Terminal<CrosstermBackend<Stderr>>;

/// Whether the terminal is ours. Held while something is drawn, so that nothing is after it was given back.
static TAKEN: Mutex<bool> = Mutex::new(false);

thread_local! {
    /// Whether this thread holds it.
    static DRAWING: Cell<bool> = const { Cell::new(false) };
}

fn taken() -> MutexGuard<'static, bool> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn enter() -> io::Result<Screen> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
    });
    let mut taken = taken();
    enable_raw_mode()?;
    *taken = true;
    // What was said before stands above the view, not in it.
    lines::stderr().flush(LOOK);
    lines::stderr().hold();
    let entered = execute!(io::stderr(), EnterAlternateScreen);
    let screen = entered.and_then(|()| ratatui::Terminal::new(CrosstermBackend::new(io::stderr())));
    drop(taken);
    screen.inspect_err(|_| restore())
}

/// Gives the terminal back as it was, if it is taken, and writes what was logged meanwhile. To be called before a program ends in any other way than by
/// returning.
pub fn restore() {
    // A panic while drawing: this thread has the lock, and will not draw on.
    if !DRAWING.get() {
        let Some(mut taken) = taken_soon() else {
            // It is drawn on, and reads no more. It can be told nothing, and whoever ends the program shall not wait.
            let _ = disable_raw_mode();
            return;
        };
        if !std::mem::take(&mut *taken) {
            return;
        }
    }
    let _ = disable_raw_mode();
    let _ = execute!(io::stderr(), LeaveAlternateScreen, Show);
    lines::stderr().release();
}

/// The lock, unless whoever has it does not let go of it soon.
fn taken_soon() -> Option<MutexGuard<'static, bool>> {
    let step = Duration::from_millis(10);
    for _ in 0..lines::LAST_WORDS.as_millis() / step.as_millis() {
        match TAKEN.try_lock() {
            Ok(taken) => return Some(taken),
            Err(TryLockError::Poisoned(taken)) => return Some(taken.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(step),
        }
    }
    None
}

fn follow(screen: &mut Screen, view: &mut impl View, interval: Duration, stop: &AtomicBool) -> io::Result<()> {
    let mut rest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        if rest.is_zero() {
            view.refresh();
            rest = interval;
        }
        {
            let taken = taken();
            if !*taken {
                return Ok(());
            }
            DRAWING.set(true);
            let drawn = screen.draw(|frame| view.draw(frame, &lines::stderr().held(LOG_LINES)));
            DRAWING.set(false);
            drawn?;
        }
        let wait = rest.min(LOOK);
        rest -= wait;
        if !event::poll(wait)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
        match key.code {
            _ if key.kind != KeyEventKind::Press => {}
            _ if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) => {
                if view.quit().is_break() {
                    return Ok(());
                }
            }
            code => view.key(code),
        }
    }
    Ok(())
}

/// The newest lines of the log, as many as there is room for.
pub fn log_pane(frame: &mut Frame<'_>, area: Rect, log: &[String]) {
    let rows = usize::from(area.height.saturating_sub(1));
    let newest = log[log.len().saturating_sub(rows)..].iter().map(|line| Line::from(plain(line)));
    let pane = Paragraph::new(newest.collect::<Vec<_>>()).block(Block::new().borders(Borders::TOP).title(" Log "));
    frame.render_widget(pane.dim(), area);
}

/// A line without its colours and other escape sequences: what it holds may come from a peer.
fn plain(line: &str) -> String {
    let mut rest = line.chars();
    let mut text = String::with_capacity(line.len());
    while let Some(c) = rest.next() {
        match c {
            '\x1b' if rest.as_str().starts_with('[') => drop(rest.find(|c| ('@'..='~').contains(c) && *c != '[')),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_line_draws_nothing_but_its_text() {
        assert_eq!(plain("\x1b[2m12:00\x1b[0m \x1b[32m INFO\x1b[0m up\x07\n"), "12:00  INFO up");
        assert_eq!(plain("\x1b]0;title\x07"), "]0;title");
        assert_eq!((plain("\x1b["), plain("\x1b"), plain("")), (String::new(), String::new(), String::new()));
    }
}

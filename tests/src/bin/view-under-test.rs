//! A live view that something goes wrong with: `view` panics while it is drawn, `main` beside it.

use node::terminal::{Live, View};
use std::time::Duration;

struct Broken(bool);

impl View for Broken {
    fn draw(&mut self, frame: &mut ratatui::Frame<'_>, _: &[String]) {
        frame.render_widget("a view", frame.area());
        assert!(!self.0, "on purpose");
    }
}

fn main() {
    let in_view = std::env::args().nth(1).is_some_and(|what| what == "view");
    let live = Live::start(Broken(in_view), Duration::from_millis(20)).expect("a terminal");
    std::thread::sleep(Duration::from_millis(500));
    assert!(in_view, "on purpose");
    drop(live);
}

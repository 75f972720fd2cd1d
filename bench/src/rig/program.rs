//! A relay, source or sink on a thread of its own in this process.

use node::clock::Clock;
use node::exit::{Exit, Failure};
use std::future::Future;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// A program that runs. Dropping it stops it as its operator would, and waits for its end.
#[derive(Debug)]
pub struct Running<R> {
    name: String,
    report: watch::Receiver<R>,
    shutdown: watch::Sender<bool>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<R, Failure>>>,
}

/// Something did not come about.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WaitError {
    /// Not in time.
    #[error("{program}: {what} did not come about within {patience:?}")]
    Timeout {
        /// Which program.
        program: String,
        /// What was waited for.
        what: String,
        /// How long.
        patience: Duration,
    },
    /// The program ended before.
    #[error("{program} ended while {what} was waited for")]
    Ended {
        /// Which program.
        program: String,
        /// What was waited for.
        what: String,
    },
}

impl<R: Default + Clone + Send + Sync + 'static> Running<R> {
    /// Starts a program: `run` is its `run` function with its configuration.
    pub fn start<F, Run>(name: impl Into<String>, run: Run) -> Running<R>
    where
        Run: FnOnce(watch::Receiver<bool>, watch::Sender<R>) -> F + Send + 'static,
        F: Future<Output = Result<R, Failure>>,
    {
        let name = name.into();
        let (shutdown, shutdown_receiver) = watch::channel(false);
        let (report_sender, report) = watch::channel(R::default());
        let (kill, killed) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || block_on(run(shutdown_receiver, report_sender), killed))
            .expect("the machine has room for a thread");
        Running { name, report, shutdown, kill: Some(kill), thread: Some(thread) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its newest report.
    pub fn report(&self) -> R {
        self.report.borrow().clone()
    }

    /// Whether it has ended by itself.
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until its report is as wanted, and returns that report.
    pub fn wait_for(&self, what: &str, patience: Duration, wanted: impl Fn(&R) -> bool) -> Result<R, WaitError> {
        let clock = Clock::start();
        let end = clock.now() + patience;
        loop {
            let report = self.report();
            if wanted(&report) {
                return Ok(report);
            }
            let (program, what) = (self.name.clone(), what.to_owned());
            if self.ended() {
                return Err(WaitError::Ended { program, what });
            }
            if clock.now() >= end {
                return Err(WaitError::Timeout { program, what, patience });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it as its operator would, and returns its last report.
    pub fn stop(mut self) -> Result<R, Failure> {
        let _ = self.shutdown.send(true);
        self.join()
    }

    /// Asks it to stop, without waiting.
    pub fn ask_to_stop(&self) {
        let _ = self.shutdown.send(true);
    }

    /// Waits until it ends by itself, and returns its last report.
    pub fn join(&mut self) -> Result<R, Failure> {
        let Some(thread) = self.thread.take() else {
            return Err(Failure::new(Exit::Software, format!("{} has been joined before", self.name)));
        };
        thread.join().unwrap_or_else(|_| Err(Failure::new(Exit::Software, format!("{} panicked", self.name))))
    }

    /// Ends it in the middle of whatever it does, without a word to anyone: as near to `kill -9` as a thread comes.
    pub fn kill(mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
        let _ = self.join();
    }
}

impl<R> Drop for Running<R> {
    fn drop(&mut self) {
        let _ = self.shutdown.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn block_on<R>(run: impl Future<Output = Result<R, Failure>>, killed: oneshot::Receiver<()>) -> Result<R, Failure> {
    let runtime = node::host::local_runtime()
        .map_err(|error| Failure::new(Exit::Software, format!("cannot start a runtime: {error}")))?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = run => result,
            Ok(()) = killed => Err(Failure::new(Exit::Software, "killed")),
        }
    });
    // Tasks that are left go with the runtime, and their sockets with them: nothing says goodbye for them.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn count(mut shutdown: watch::Receiver<bool>, report: watch::Sender<u32>) -> Result<u32, Failure> {
        for n in 1.. {
            let _ = report.send(n);
            tokio::select! {
                _ = shutdown.changed() => return Ok(n),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        unreachable!("it counts until stopped")
    }

    #[test]
    fn a_program_reports_and_stops() {
        let running = Running::start("counter", count);
        let n = running.wait_for("ten", Duration::from_secs(5), |n| *n >= 10).unwrap();
        assert!(running.stop().unwrap() >= n);
    }

    #[test]
    fn waiting_has_an_end() {
        let running = Running::start("counter", count);
        let error = running.wait_for("the impossible", Duration::from_millis(20), |_| false).unwrap_err();
        assert!(matches!(error, WaitError::Timeout { .. }));
        running.kill();
        let running = Running::<u32>::start("quitter", |_, _| async { Ok(7) });
        let error = running.wait_for("more", Duration::from_secs(5), |_| false).unwrap_err();
        assert!(matches!(error, WaitError::Ended { .. }));
    }
}

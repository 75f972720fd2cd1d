//! How far a thread is behind with what comes to it.
//!
//! When a thread of the runtime goes to sleep, it has done all that there was to do, and read all that had come. What has come since it last woke
//! may still lie unread, so that moment is how far it has got; and what was due at a time and has not been done yet tells that it woke late, as it does
//! where others take its processor away.

use std::cell::Cell;
use std::time::Instant;
use tokio::runtime::Builder;
use tokio::task::yield_now;

thread_local! {
    static CAUGHT_UP: Cell<Option<Instant>> = const { Cell::new(None) };
    static UNREAD: Cell<usize> = const { Cell::new(0) };
}

/// Has the threads of a runtime note how far they have got.
pub(crate) fn noted(builder: &mut Builder) -> &mut Builder {
    builder.on_thread_unpark(|| {
        // It does not sleep for what is put off either, but asks the kernel and goes on.
        if UNREAD.get() == 0 {
            CAUGHT_UP.set(Some(crate::clock::monotonic()));
        }
    })
}

/// Everything that had come to this thread by then has been dealt with; `None` where that is not noted.
pub(crate) fn caught_up() -> Option<Instant> {
    CAUGHT_UP.get()
}

/// Something has been due on this thread, or has waited to be read, since then.
pub(crate) fn waits_since(at: Instant) {
    CAUGHT_UP.set(CAUGHT_UP.get().map(|caught_up| caught_up.min(at)));
}

/// Lets others have a turn, while there is more to be read.
pub(crate) async fn put_off() {
    struct Unread;
    impl Drop for Unread {
        fn drop(&mut self) {
            UNREAD.set(UNREAD.get() - 1);
        }
    }
    UNREAD.set(UNREAD.get() + 1);
    let _unread = Unread;
    yield_now().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::task::spawn_local;

    fn runtime() -> tokio::runtime::LocalRuntime {
        super::super::local_runtime().unwrap()
    }

    /// What a thread does that does not sleep.
    async fn work(time: Duration) {
        let until = crate::clock::monotonic() + time;
        while crate::clock::monotonic() < until {
            put_off().await;
        }
    }

    #[test]
    fn a_thread_has_got_as_far_as_when_it_last_woke() {
        runtime().block_on(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let woke = caught_up().unwrap();
            work(Duration::from_millis(20)).await;
            assert_eq!(caught_up(), Some(woke), "it has not slept since");
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(caught_up().unwrap() >= woke + Duration::from_millis(20));
        });
    }

    #[test]
    fn what_is_overdue_sets_it_back_until_it_sleeps_again() {
        runtime().block_on(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let due = caught_up().unwrap() - Duration::from_millis(3);
            waits_since(due);
            waits_since(due + Duration::from_millis(1));
            assert_eq!(caught_up(), Some(due));
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(caught_up().unwrap() > due + Duration::from_millis(3));
        });
    }

    #[test]
    fn a_task_that_is_ended_leaves_nothing_unread() {
        runtime().block_on(async {
            let reader = spawn_local(work(Duration::from_secs(60)));
            tokio::task::yield_now().await;
            reader.abort();
            let _ = reader.await;
            assert_eq!(UNREAD.get(), 0);
        });
    }
}

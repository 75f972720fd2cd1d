use super::*;
use crate::ops::Order;
use node::clock::unix_seconds;
use node::trust::Authority;
use tokio::sync::oneshot;

/// A relay for itself.
fn alone() -> Config {
    let authority = Authority::trial(unix_seconds()).unwrap();
    let name: NodeName = "a".parse().unwrap();
    let identity = authority.issue(&name, Role::Relay, unix_seconds(), Duration::from_secs(3600)).unwrap();
    let credentials = authority.credentials(Some(&identity)).unwrap();
    let verifier = credentials.verifier();
    Config {
        listen: vec![([127, 0, 0, 1], 0).into()],
        identity: Some(Identity { name, credentials, verifier }),
        ..Config::default()
    }
}

#[test]
fn tasks_that_are_done_are_not_kept() {
    let done = node::host::block_on_local(async {
        let mut relay = Relay::start(alone(), None).await?;
        let before = relay.tasks.len();
        let (order, orders) = mpsc::channel(1);
        let (_push, pushed) = mpsc::channel(1);
        let (stop, mut stopping) = watch::channel(false);
        let report = watch::Sender::new(Report::default());
        let asking = async move {
            for _ in 0..200 {
                let (done, traced) = oneshot::channel();
                order.send(Order::Trace { stream: "demo/clip".parse().unwrap(), done }).await.unwrap();
                assert!(traced.await.unwrap().is_none());
            }
            // A few turns more for the last of them.
            tokio::time::sleep(2 * TELL_EVERY).await;
            stop.send_replace(true);
        };
        let mut asked = Asked { pushed, orders };
        let stopped = async { drop(stopping.wait_for(|stop| *stop).await) };
        tokio::join!(relay.work(&mut asked, stopped, &report), asking);
        assert!(relay.tasks.len() <= before, "{} of {before}", relay.tasks.len());
        relay.close().await;
        Ok(())
    });
    done.unwrap();
}

#[test]
fn a_relay_that_stops_answers_until_it_has_drained() {
    let done = node::host::block_on_local(async {
        let span = Duration::from_secs(1);
        let config = Config { drain: span, report_interval: Duration::from_millis(20), ..alone() };
        let mut relay = Relay::start(config, None).await?;
        let (order, orders) = mpsc::channel(1);
        let (_push, pushed) = mpsc::channel(1);
        let report = watch::Sender::new(Report::default());
        let mut reports = report.subscribe();
        let asking = async move {
            let (done, traced) = oneshot::channel();
            order.send(Order::Trace { stream: "demo/clip".parse().unwrap(), done }).await.unwrap();
            assert!(traced.await.unwrap().is_none());
            let (done, undone) = oneshot::channel();
            order.send(Order::Drain { link: None, drain: false, done }).await.unwrap();
            assert!(matches!(undone.await.unwrap(), Err(crate::ops::Refused::Stopping(_))));
            for _ in 0..5 {
                reports.changed().await.unwrap();
                assert!(reports.borrow_and_update().draining);
            }
        };
        let (clock, begun) = (relay.shared.clock, relay.shared.clock.now());
        let mut asked = Asked { pushed, orders };
        tokio::join!(relay.drain(&mut asked, &report), tokio::time::timeout(span, asking)).1.expect("in time");
        assert!(clock.now() - begun >= span);
        relay.close().await;
        Ok(())
    });
    done.unwrap();
}

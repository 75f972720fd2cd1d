//! Operations ports: HTTP for the operator alone, on the thread that carries the media. What one client can make a node hold or do there is bounded.
//!
//! | file | what it holds |
//! |---|---|
//! | `access` | who may come, as it is configured |
//! | `guard` | who may ask: the token, the host that is meant, pages of other sites |
//! | `port` | how many connections, and for how long |
//! | [`problem`] | what is answered where it is not done |
//! | `tally` | what was refused, by reason |
//! | `tls` | TLS, where it is configured |
//! | `watched` | the port of a source or a sink: health, metrics, status |

mod access;
mod guard;
mod port;
pub mod problem;
mod tally;
mod tls;
mod watched;

pub use access::{Access, address, one_or_several_names};
pub use guard::{Guard, is_open, is_probe};
pub use port::serve;
pub use tally::{OpsRefusals, Tally};
pub use tls::Tls;
pub use watched::{Metrics, Report, Watched};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use guard::Gate;
use problem::Problem;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// The longest body there is anything to say in, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// How long a body may take to come. What is asked is answered within a second or two.
const BODY: Duration = Duration::from_secs(20);

/// Puts the guard and the bounds before every route. `hint` says where it stands what there is.
pub fn guarded<S>(router: Router<S>, hint: &'static str, guard: watch::Receiver<Guard>, tally: Arc<Tally>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    router
        .fallback(async move |uri: Uri| {
            Problem::new(StatusCode::NOT_FOUND, format!("nothing is at {}; {hint}", uri.path()))
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let what = format!("{method} is not for {}; the header Allow says what is", uri.path());
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, what)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(tally.clone(), in_time))
        .layer(from_fn_with_state(Arc::default(), in_turn))
        // The last one is asked first.
        .layer(from_fn_with_state(Gate { guard, tally }, guard::admit))
}

/// Lets one request through at a time, and what forwards have its turn before the next: a connection that brings thousands at once, and others
/// like it, would otherwise stop the thread for as long as all of their answers take to be written.
async fn in_turn(State(turn): State<Arc<Mutex<()>>>, request: Request, next: Next) -> Response {
    {
        let _turn = turn.lock().await;
        tokio::task::yield_now().await;
    }
    next.run(request).await
}

/// Does not wait for ever for a body.
async fn in_time(State(tally): State<Arc<Tally>>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(BODY, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Tally::add(&tally.slow);
            Problem::new(StatusCode::REQUEST_TIMEOUT, format!("the request did not come within {BODY:?}"))
                .into_response()
        }
    }
}

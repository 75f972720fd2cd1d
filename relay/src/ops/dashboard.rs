//! The dashboard: a page with its parts, embedded in the program. It asks the other paths of this port, and no other host.

use super::problem::{Misread, Problem};
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Name, media type and text of each part.
macro_rules! parts {
    ($($name:literal: $kind:ident,)+) => {
        [$(($name, $kind, include_str!(concat!("../../assets/dashboard/", $name)))),+]
    };
}

const PARTS: [(&str, &str, &str); 17] = parts! {
    "icon.svg": SVG,
    "style.css": CSS,
    "main.js": JS,
    "api.js": JS,
    "token.js": JS,
    "words.js": JS,
    "state.js": JS,
    "layout.js": JS,
    "map.js": JS,
    "labels.js": JS,
    "chart.js": JS,
    "link.js": JS,
    "policy.js": JS,
    "streams.js": JS,
    "ages.js": JS,
    "test.js": JS,
    "events.js": JS,
};

const PAGE: &str = include_str!("../../assets/dashboard/index.html");

/// Nothing but what this port serves, in nobody's frame. Names of nodes and streams are data of others: no script may hide in them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // After an upgrade the page and its parts shall be of one version.
    (header::CACHE_CONTROL, "no-cache"),
];

/// The dashboard
#[utoipa::path(get, path = "/", tag = "dashboard", responses(
    (status = 200, description = "A page for browsers.", body = String, content_type = "text/html; charset=utf-8")
))]
pub(super) async fn page() -> Response {
    served(HTML, PAGE)
}

/// A part of the dashboard: style, scripts
#[utoipa::path(get, path = "/dashboard/{part}", tag = "dashboard",
    params(("part" = String, Path, description = "As the page names it.", example = "main.js")),
    responses(
        (status = 200, description = "The part.", content(
            (String = "text/css; charset=utf-8"), (String = "text/javascript; charset=utf-8"), (String = "image/svg+xml")
        )),
        (status = 404, description = "The page has no such part.", body = Problem, content_type = "application/problem+json"),
        Misread
    )
)]
pub(super) async fn part(part: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let Path(wanted) = part?;
    let found = PARTS.iter().find(|(name, _, _)| *name == wanted);
    let none = || Problem::new(StatusCode::NOT_FOUND, "the dashboard has no such part");
    found.map(|(_, kind, text)| served(kind, text)).ok_or_else(none)
}

fn served(kind: &'static str, text: &'static str) -> Response {
    (HEADERS, [(header::CONTENT_TYPE, kind)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_for_parts_that_are_there_and_for_no_other_host() {
        let texts = PARTS.iter().map(|(name, _, text)| (*name, *text)).chain([("index.html", PAGE)]);
        for (name, text) in texts {
            for from in ["\"dashboard/", "\"./"] {
                for part in text.split(from).skip(1).filter_map(|after| after.split('"').next()) {
                    assert!(PARTS.iter().any(|(known, _, _)| *known == part), "{name} asks for {part}");
                }
            }
            let others: Vec<&str> =
                text.split("://").skip(1).filter(|after| !after.starts_with("www.w3.org/")).collect();
            assert!(others.is_empty(), "{name} names another host: {others:?}");
            for danger in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=\"", "onclick="]
            {
                assert!(!text.contains(danger), "{name}: {danger}");
            }
        }
    }
}

//! What the operations port says when it does not do as asked: RFC 9457, one shape for all of it.

use super::Refused;
use axum::http::StatusCode;
use node::ops::problem::MEDIA_TYPE;
pub(super) use node::ops::problem::Problem;
use std::collections::BTreeMap;
use utoipa::IntoResponses;
use utoipa::openapi::{Content, Ref, RefOr, Response as Documented, ResponseBuilder};

pub(super) fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "this relay is stopping")
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        let (status, why) = match refused {
            Refused::Unknown(why) => (StatusCode::NOT_FOUND, why),
            Refused::NoState(why) | Refused::Busy(why) => (StatusCode::CONFLICT, why),
            Refused::Stopping(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
            Refused::Wrong(why) => (StatusCode::UNPROCESSABLE_ENTITY, why),
            Refused::NotKept(why) => (StatusCode::INSUFFICIENT_STORAGE, why),
        };
        Problem::new(status, why)
    }
}

pub(super) fn documented(what: &str) -> RefOr<Documented> {
    let content = Content::new(Some(RefOr::Ref(Ref::from_schema_name("Problem"))));
    ResponseBuilder::new().description(what).content(MEDIA_TYPE, content).build().into()
}

/// Sets of problems, as the document names them.
macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident { $($status:literal: $what:literal,)+ })+) => {
        $(
            $(#[$doc])*
            pub(super) struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<Documented>> {
                    BTreeMap::from([$(($status.to_owned(), documented($what))),+])
                }
            }
        )+
    };
}

problems! {
    /// Of what is asked of the running relay.
    Stopping {
        "503": "The relay is stopping.",
    }
    /// Of what changes something.
    Foreign {
        "403": "A browser says that a page of another site asks for it, or a certificate is asked for, and none was shown.",
    }
    /// Of what has parameters.
    Misread {
        "400": "A parameter that cannot be read: which, and what was expected.",
    }
    /// Of what has a body.
    MisreadBody {
        "413": "A longer body than any that is expected here.",
        "415": "A body that does not say it is JSON.",
        "422": "A wrong value: its field, and what was expected.",
    }
    /// Of what is about one link.
    NoLink {
        "404": "There is no such link.",
        "421": "Another relay sends on that link: ask it, at its own operations port.",
    }
    /// Of what can outlast a restart.
    NotKept {
        "409": "To be kept, and the configuration names no `state` to keep it in. Nothing was changed.",
        "507": "In force, but the file it is to be kept in could not be written.",
    }
}

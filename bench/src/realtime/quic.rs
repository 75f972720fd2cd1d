//! Bare QUIC, without anything of ours but the certificates: what our programs are measured against.

use crate::rig::{RigError, Trial};
use node::exit::{Exit, Failure};
use node::trust::Credentials;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, ServerConfig, TransportConfig};
use std::sync::Arc;

/// Asked for in TLS, and checked by nobody.
pub(crate) const SERVER_NAME: &str = "anabranch.invalid";

/// Both ends' configurations under an authority of their own.
pub(crate) fn configs(transport: impl Fn() -> TransportConfig) -> Result<(ServerConfig, ClientConfig), RigError> {
    let trial = Trial::new()?;
    let identity = trial.relay(&"bare".parse()?)?;
    Ok((server(&identity.credentials, transport())?, client(&trial.bare()?, transport())?))
}

/// The configuration of the end that is dialled.
pub(crate) fn server(credentials: &Credentials, transport: TransportConfig) -> Result<ServerConfig, RigError> {
    let tls = QuicServerConfig::try_from(credentials.server_tls()?).map_err(|error| failed(&error))?;
    let mut server = ServerConfig::with_crypto(Arc::new(tls));
    server.transport_config(Arc::new(transport));
    Ok(server)
}

/// The configuration of the end that dials.
pub(crate) fn client(credentials: &Credentials, transport: TransportConfig) -> Result<ClientConfig, RigError> {
    let tls = QuicClientConfig::try_from(credentials.client_tls()?).map_err(|error| failed(&error))?;
    let mut client = ClientConfig::new(Arc::new(tls));
    client.transport_config(Arc::new(transport));
    Ok(client)
}

/// A failure of the bare connection, in words.
pub(crate) fn failed(error: &impl ToString) -> RigError {
    RigError::Program { program: "bare quinn".into(), failure: Failure::new(Exit::Unavailable, error.to_string()) }
}

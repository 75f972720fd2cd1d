//! `keys`: all that an overlay's trust needs, in one command each.

use super::stream_key::StreamKey;
use clap::{Args, Subcommand, ValueEnum};
use node::clock::unix_seconds;
use node::exit::{Exit, Failure};
use node::trust::{self, Claims, Direction, Revoked, Role, TrustError};
use std::path::PathBuf;
use std::time::Duration;
use topology::{NodeName, StreamPattern};

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Make the authority of a new overlay, and the key that signs its tokens. Keep `authority.key` off the network
    Init(Init),
    /// Make certificate and key of a relay, source or sink
    Node(Node),
    /// Make a token: the right to publish or to watch streams, until it expires. Prints its text
    Token(Token),
    /// Make a new authority, certificate or token key in the place of the one there is, while everything runs
    #[command(subcommand)]
    Rotate(Rotate),
    /// Take back certificates or tokens: they are refused, and whoever came by them is cut off. Writes `revoked.list`, for every node
    Revoke(Revoke),
    /// Make or rotate the payload keys of streams that are sealed from source to sink
    #[command(subcommand)]
    StreamKey(StreamKey),
    /// Make a file with a token for the operations ports of relays (`ops_token_file`, `ctl --ops-token-file`)
    OpsToken(OpsToken),
    /// Say what a certificate, key, token or list of revocations is, until when it is good, and its fingerprint
    Inspect(Inspect),
}

#[derive(Debug, Args)]
pub(super) struct Directory {
    /// Where the keys are kept
    #[arg(long, value_name = "DIR", default_value = "keys", env = "ANABRANCH_KEYS")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    directory: Directory,
    /// The overlay's name, for people
    #[arg(long, value_name = "NAME", default_value = "anabranch")]
    overlay: String,
    /// How long the authority is good
    #[arg(long, value_name = "TIME", default_value = "10years", value_parser = super::duration)]
    expires: Duration,
}

#[derive(Debug, Args)]
pub(super) struct Node {
    #[command(flatten)]
    directory: Directory,
    /// What the node may be
    #[arg(long, value_name = "ROLE", default_value = "relay")]
    role: RoleName,
    /// How long its certificate is good
    #[arg(long, value_name = "TIME", default_value = "2years", value_parser = super::duration)]
    expires: Duration,
    /// Its name: 1 to 63 characters of a-z 0-9 - .
    #[arg(value_name = "NAME")]
    name: NodeName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    Relay,
    Source,
    Sink,
}

#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(flatten)]
    directory: Directory,
    #[command(flatten)]
    right: Right,
    /// The highest rate of a published stream, such as "20 Mbit/s"
    #[arg(long, value_name = "RATE", value_parser = crate::config::parse_rate)]
    max_rate: Option<link::Bitrate>,
    /// Names the token in logs; unique within the overlay
    #[arg(long, value_name = "NAME")]
    id: String,
    /// How long the token is good
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = super::duration)]
    expires: Duration,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Right {
    /// Streams its bearer may publish: a name such as news/main, or a pattern: news/* any channel, news/** any rendition too
    #[arg(long, value_name = "STREAMS")]
    publish: Option<StreamPattern>,
    /// Streams its bearer may watch
    #[arg(long, value_name = "STREAMS", alias = "watch")]
    subscribe: Option<StreamPattern>,
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    directory: Directory,
    /// The id of a token to revoke, where its text is not at hand
    #[arg(long, value_name = "ID")]
    token_id: Vec<String>,
    /// Certificates of nodes, or files that hold a token
    #[arg(value_name = "FILE", required_unless_present = "token_id")]
    files: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Rotate {
    /// Put a new authority above the old one: both are believed by who has the new authority.crt, until --finish
    Authority(RotateAuthority),
    /// Make a new certificate and key for a node, of the same name and role
    Node(RotateNode),
    /// Make a new key for signing tokens. Tokens that the old one signed stay good until they expire or are revoked
    TokenKey(RotateTokenKey),
}

#[derive(Debug, Args)]
pub(super) struct RotateAuthority {
    #[command(flatten)]
    directory: Directory,
    /// How long the new authority is good
    #[arg(long, value_name = "TIME", default_value = "10years", value_parser = super::duration)]
    expires: Duration,
    /// The last step: believe the new authority alone
    #[arg(long, conflicts_with = "expires")]
    finish: bool,
}

#[derive(Debug, Args)]
pub(super) struct RotateNode {
    #[command(flatten)]
    directory: Directory,
    /// How long the new certificate is good
    #[arg(long, value_name = "TIME", default_value = "2years", value_parser = super::duration)]
    expires: Duration,
    /// The node's name
    #[arg(value_name = "NAME")]
    name: NodeName,
}

#[derive(Debug, Args)]
pub(super) struct RotateTokenKey {
    #[command(flatten)]
    directory: Directory,
    /// How long the key may sign
    #[arg(long, value_name = "TIME", default_value = "10years", value_parser = super::duration)]
    expires: Duration,
}

#[derive(Debug, Args)]
pub(super) struct OpsToken {
    /// The new file; its owner alone may read it
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A file of a key directory, a token's text, or a file that holds one
    #[arg(value_name = "FILE|TOKEN")]
    what: String,
}

impl Keys {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let now = unix_seconds();
        let done = match self {
            Keys::Init(Init { directory: Directory { dir }, overlay, expires }) => {
                trust::init(&dir, &overlay, now, expires).map(|()| {
                    format!(
                        "overlay {overlay}: authority.crt, authority.key and token.key are in {0}\n\
                         next: anabranch-relay keys node --dir {0} NAME\n",
                        dir.display()
                    )
                })
            }
            Keys::Node(Node { directory: Directory { dir }, role, expires, name }) => {
                let role = Role::from(role);
                trust::issue_node(&dir, &name, role, now, expires).map(|()| {
                    format!("{role} {name}: give it authority.crt, {name}.crt and {name}.key from {}\n", dir.display())
                })
            }
            Keys::Token(token) => token.issue(now),
            Keys::Rotate(rotate) => rotate.execute(now),
            Keys::Revoke(revoke) => revoke.execute(),
            Keys::StreamKey(stream_key) => stream_key.execute(),
            Keys::OpsToken(OpsToken { file }) => trust::create_ops_token(&file).map(|()| {
                let file = file.display();
                format!("{file}: ops_token_file = \"{file}\" in the relay's configuration; mode 0600 also where it is copied to\n")
            }),
            Keys::Inspect(Inspect { what }) => trust::inspect(&what).map(|text| text + "\n"),
        };
        super::print(&done.map_err(failure)?)
    }
}

impl Rotate {
    fn execute(self, now: u64) -> Result<String, TrustError> {
        match self {
            Rotate::Authority(RotateAuthority { directory: Directory { dir }, finish: true, .. }) => {
                trust::finish_authority(&dir)?;
                Ok(format!(
                    "{0}/authority.crt holds the new authority alone\n\
                     next: copy it and {1} into the key directory of every node; destroy authority.old.key and token.old.key\n",
                    dir.display(),
                    trust::REVOCATIONS
                ))
            }
            Rotate::Authority(RotateAuthority { directory: Directory { dir }, expires, .. }) => {
                trust::rotate_authority(&dir, now, expires)?;
                Ok(format!(
                    "{0}/authority.crt holds the new authority and the old one; authority.key and token.key are the new one's\n\
                     next: copy authority.crt, and {1} if there is one, into the key directory of every node; when all have \
                     it, keys rotate node NAME for each, and new tokens; at last keys rotate authority --finish\n",
                    dir.display(),
                    trust::REVOCATIONS
                ))
            }
            Rotate::Node(RotateNode { directory: Directory { dir }, expires, name }) => {
                let role = trust::rotate_node(&dir, &name, now, expires)?;
                Ok(format!(
                    "{role} {name}: copy {name}.crt and {name}.key from {} into its key directory; they are in force there \
                     within seconds\n",
                    dir.display()
                ))
            }
            Rotate::TokenKey(RotateTokenKey { directory: Directory { dir }, expires }) => {
                trust::rotate_token_key(&dir, now, expires)?;
                Ok(format!("tokens are signed with a new key: {}/token.key\n", dir.display()))
            }
        }
    }
}

impl Revoke {
    fn execute(self) -> Result<String, TrustError> {
        let Revoke { directory: Directory { dir }, token_id, files } = self;
        let what: Vec<Revoked> =
            files.into_iter().map(Revoked::File).chain(token_id.into_iter().map(Revoked::Token)).collect();
        let list = trust::revoke(&dir, &what)?;
        Ok(format!(
            "issue {}: {} certificates and {} tokens are revoked\n\
             next: copy {} into the key directory of every node; it is in force there within seconds\n",
            list.number,
            list.certificates.len(),
            list.tokens.len(),
            dir.join(trust::REVOCATIONS).display()
        ))
    }
}

impl Token {
    fn issue(self, now: u64) -> Result<String, TrustError> {
        let (streams, direction) = match (self.right.publish, self.right.subscribe) {
            (Some(streams), _) => (streams, Direction::Publish),
            (None, streams) => (streams.expect("clap requires one of the two"), Direction::Subscribe),
        };
        let expires = now.saturating_add(self.expires.as_secs());
        let claims = Claims { id: self.id, streams, direction, max_rate: self.max_rate, expires };
        trust::issue_token(&self.directory.dir, &claims).map(|text| text + "\n")
    }
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Relay => Role::Relay,
            RoleName::Source => Role::Source,
            RoleName::Sink => Role::Sink,
        }
    }
}

fn failure(error: TrustError) -> Failure {
    let exit = match &error {
        TrustError::Exists(_) => Exit::CannotCreate,
        TrustError::File { .. } => Exit::NoInput,
        _ => Exit::Config,
    };
    Failure::new(exit, error.to_string())
}

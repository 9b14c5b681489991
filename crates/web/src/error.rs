use std::{io, net::SocketAddr};

use kindling_classification::ClassificationError;
use kindling_data::DataError;
use kindling_record::RecordError;
use thiserror::Error;

/// Errors of the pages.
#[derive(Debug, Error)]
pub enum WebError {
    /// Another program listens there.
    #[error("port {} of {} is in use by another program; stop that one, or choose another port (0 takes any free one)",
        .0.port(), .0.ip())]
    InUse(SocketAddr),
    /// The system keeps the port for the administrator.
    #[error("port {} is kept for the system's administrator; choose one above 1023", .0.port())]
    Privileged(SocketAddr),
    /// The address belongs to another machine, or to none.
    #[error("{} is not an address of this machine; 127.0.0.1 is one that only this machine reaches", .0.ip())]
    NotHere(SocketAddr),
    /// The server cannot be started for another reason.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Other machines would reach the page, and no token keeps them out.
    #[error("{} can be reached from other machines, which takes a token that only you know (none given)", .0.ip())]
    NoToken(SocketAddr),
    /// The token is guessed easily, or cannot be part of an address.
    #[error("a token needs at least 8 characters, each a letter, a digit, `-`, `_` or `.` (got {0})")]
    Token(String),
    /// The run directory cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A picture cannot be used, and why.
    #[error("{0}")]
    Picture(String),
    /// A value in a query is not one that there is.
    #[error("`{0}` has no such value (got `{1}`)")]
    Value(&'static str, String),
    /// A picture cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The network cannot be used.
    #[error(transparent)]
    Classification(#[from] ClassificationError),
}

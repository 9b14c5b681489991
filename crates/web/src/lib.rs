//! Pages of Kindling on this machine: [`play`] to try a run's network on pictures, [`watch`] to follow runs as they train.
//!
//! A page is a function from a [`Request`] to a [`Response`]; a [`Server`] listens and asks it. Their styles and scripts
//! are in the program: nothing is loaded from elsewhere, nothing leaves the machine, and no path of a request is ever one
//! of the file system.
//!
//! ```
//! use kindling_web::{Request, Response, Server};
//!
//! let server = Server::bind("127.0.0.1:0".parse()?, None)?;
//! println!("{}", server.url());
//! let site = |request: &Request| match request.path.as_str() {
//!     "/" => Response::html("<!doctype html><title>Hello</title>"),
//!     _ => Response::not_found(),
//! };
//! server.run(&site, &|| true);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate parses no arguments, prints nothing and picks no device.

mod error;
mod http;
pub mod play;
mod server;
pub mod watch;

pub use error::WebError;
pub use http::{Method, Request, Response};
pub use server::{Handler, Server};

//! Pages in the browser: where they are served, and until when.

use std::{
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Error, Result};
use clap::Args;
use kindling_web::{Handler, Server, WebError};

use crate::{
    outcome::Misuse,
    output::{notice, print},
    signals,
};

/// Who can open a page. The port is the command's.
#[derive(Args)]
pub(crate) struct PageArguments {
    /// Address to listen on; one that other machines reach needs --token
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// Answer only those who have this: at least 8 letters, digits, `-`, `_` and `.`
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
}

impl PageArguments {
    /// Listens, so that what is wrong with the arguments is said before anything is read.
    pub(crate) fn bind(&self, port: u16) -> Result<Server> {
        let address = SocketAddr::new(self.listen, port);
        Server::bind(address, self.token.clone()).map_err(|error| match error {
            WebError::NoToken(_) => Misuse(format!("--listen: {error}; choose one with --token")).into(),
            WebError::NotHere(_) => Misuse(format!("--listen: {error}")).into(),
            WebError::Token(_) => Misuse(format!("--token: {error}")).into(),
            WebError::InUse(_) | WebError::Privileged(_) => Error::from(error).context("--port"),
            error => error.into(),
        })
    }

    /// Prints the page's address, and shows it until Ctrl-C. `what` is the notice for that.
    pub(crate) fn serve(&self, server: &Server, site: Handler<'_>, what: &str) {
        let stopped = signals::until_signal();
        notice(format_args!("{what} until Ctrl-C"));
        if !server.address().ip().is_loopback() {
            notice("warning: other machines can reach the page; the token and what it shows travel without encryption");
        }
        print(server.url());
        if self.open {
            open(&server.url());
        }
        server.run(site, &stopped);
    }
}

/// Opens the page in the browser that the system prefers.
fn open(url: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Ok(mut browser) => drop(thread::spawn(move || browser.wait())),
        Err(error) => notice(format_args!("--open: {program} cannot be started ({error}); open the address by hand")),
    }
}

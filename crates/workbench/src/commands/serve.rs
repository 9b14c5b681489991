use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};
use clap::Args;
use kindling_config::Precision;

use crate::{
    Workbench,
    backend::{self, Request},
    outcome::{Misuse, Outcome},
    output::notice,
    relaunch, signals,
};

/// Arguments of `serve`.
#[derive(Args)]
pub(crate) struct ServeArguments {
    /// Backend to offer: flex (or cpu), wgpu, vulkan [default: flex]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Offer N devices of the backend
    #[arg(long, value_name = "N")]
    devices: Option<usize>,
    /// Address to listen on; others than loopback need --allow-anyone
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Let anyone who reaches the address use this machine: there is neither authentication nor encryption
    #[arg(long)]
    allow_anyone: bool,
}

/// The command `serve`.
pub(crate) fn serve(workbench: &Workbench, arguments: &ServeArguments) -> Result<Outcome> {
    let name = arguments.backend.as_deref().unwrap_or(backend::default_name());
    if name.starts_with("libtorch") {
        bail!(Misuse(format!(
            "{name} cannot be served: Burn keeps libtorch's tensors to their own process; serve flex, wgpu or vulkan"
        )));
    }
    if name == "remote" {
        bail!(Misuse("a served device cannot be served again; name the backend of this machine".to_owned()));
    }
    if cfg!(not(feature = "remote")) {
        let way = match workbench.program() {
            "kindling" => "just serve",
            _ => "the feature `remote` of kindling-workbench",
        };
        bail!(Misuse(format!("this build cannot serve; one that can comes with: {way}")));
    }
    let address = arguments.listen;
    if !address.ip().is_loopback() && !arguments.allow_anyone {
        let port = address.port();
        bail!(Misuse(format!(
            "--listen {address}: other machines would reach it, and there is neither authentication nor encryption; \
             listen on 127.0.0.1:{port} and reach it through `ssh -N -L {port}:127.0.0.1:{port} THIS-MACHINE`, or, in a \
             network that you trust, add --allow-anyone"
        )));
    }
    let request = Request::new(name, arguments.devices, &[])?;
    relaunch::with(&request.environment())?;
    let backend = request.open(Precision::F32)?;
    let listener = TcpListener::bind(address)
        .with_context(|| format!("--listen: cannot listen on {address} (another port: --listen HOST:PORT)"))?;
    let address = listener.local_addr()?;
    notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
    if let Some(advice) = &backend.advice {
        notice(advice);
    }
    if !address.ip().is_loopback() {
        notice(format_args!(
            "warning: {address} can be reached from other machines: there is neither authentication nor encryption, \
             and anyone who reaches it can use this machine"
        ));
    }
    notice(format_args!("serving at ws://{address}; train on it with:"));
    notice(format_args!("  {} train MODEL --backend remote --remote ws://{address}", workbench.program()));
    signals::install()?;
    #[cfg(feature = "remote")]
    run(backend.devices, listener)?;
    Ok(Outcome::Done)
}

/// Serves until the program ends.
#[cfg(feature = "remote")]
fn run(devices: Vec<burn::tensor::Device>, listener: TcpListener) -> Result<()> {
    use burn::server::{AuthorizationRequest, RemoteServer, WebSocketTransport};

    let server = RemoteServer::new(devices).with_authorizer(|request: AuthorizationRequest<'_>| {
        notice(format_args!("{} uses device {}", request.client, request.device_index));
        Ok(())
    });
    // Burn's own `serve` logs to standard output and takes the signals.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(server.serve_async(WebSocketTransport::from_listener(listener))).context("the server failed")
}

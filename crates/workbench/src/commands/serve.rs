use std::net::TcpListener;

use anyhow::{Context, Result, bail};
use kindling_training::Precision;

use crate::{
    arguments::ServeArguments,
    backend::{self, Request},
    commands::{Misuse, Outcome},
    output::notice,
    relaunch, signals,
};

/// `kindling serve`
pub(crate) fn serve(arguments: &ServeArguments) -> Result<Outcome> {
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
        bail!(Misuse("this build cannot serve; one that can comes with: just serve".to_owned()));
    }
    let request = Request::new(name, arguments.devices, None)?;
    relaunch::with(&request.environment())?;
    let backend = request.open(Precision::F32)?;
    let address = arguments.listen;
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
    notice(format_args!("  kindling train MODEL --backend remote --remote ws://{address}"));
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

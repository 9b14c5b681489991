//! A device that the command `serve` offers, on this machine or another.

use anyhow::{Result, bail};
use burn::{remote::RemoteHost, tensor::Device};

use super::ready::Backend;
use crate::{outcome::Misuse, output::program};

/// Opens the devices with these indices that `server` offers.
pub(super) fn open(server: Option<&str>, indices: Vec<usize>) -> Result<Backend> {
    let Some(server) = server else { bail!(Misuse("--remote is missing".to_owned())) };
    if !server.starts_with("ws://") {
        bail!(Misuse(format!("--remote: expected ws://HOST:PORT, found {server}")));
    }
    let host = RemoteHost::websocket(server);
    let mut devices = Vec::new();
    for index in indices {
        match Device::remote_options(&host).device_index(index).init() {
            Ok(device) => devices.push(device),
            Err(error) => bail!(
                "no device at {server}: {error}; is it running there?  {} serve --listen {}",
                program(),
                server.trim_start_matches("ws://")
            ),
        }
    }
    // What it is, the server knows. It may be a GPU, which compiles kernels, and need not take more in one piece than
    // every GPU does.
    let largest_tensor = Some(128 << 20);
    Ok(Backend { largest_tensor, compiles_kernels: true, ..Backend::new("remote", devices, server.to_owned()) })
}

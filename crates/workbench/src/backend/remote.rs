//! Devices that the command `serve` offers, on this machine or others.

use std::fmt::{self, Display};

use anyhow::Result;

use crate::outcome::Misuse;

/// A device of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// Where the server listens: `ws://HOST:PORT`.
    pub(crate) url: String,
    /// Which of its devices, from 0.
    index: usize,
}

impl Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => f.write_str(&self.url),
            index => write!(f, "{}#{index}", self.url),
        }
    }
}

impl Served {
    /// Understands `ws://HOST:PORT` and `ws://HOST:PORT#INDEX`; the second part is whether it has an index.
    fn parse(text: &str) -> Result<(Self, bool), Misuse> {
        let fails = |why: &str| Misuse(format!("--remote: expected ws://HOST:PORT or ws://HOST:PORT#INDEX, {why}"));
        let (url, index) = text.split_once('#').map_or((text, None), |(url, index)| (url, Some(index)));
        let url = url.trim_end_matches('/');
        let Some(address) = url.strip_prefix("ws://") else {
            let way = if url.starts_with("wss://") || url.starts_with("https://") {
                "; a server does not encrypt, an SSH tunnel to it does"
            } else {
                ""
            };
            return Err(fails(&format!("found {text}{way}")));
        };
        let is_host = |host: &str| {
            let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            !host.is_empty() && !host.contains(['/', '@', '?', ' ']) && (inner.is_some() || !host.contains(':'))
        };
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        if !address.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port)) {
            return Err(fails(&format!("found {text}")));
        }
        let parsed = index.map(str::parse).transpose().map_err(|_| fails(&format!("found {text}")))?;
        Ok((Self { url: url.to_owned(), index: parsed.unwrap_or(0) }, index.is_some()))
    }

    /// The devices that `--remote` names: one for each URL. Of a single URL without an index, `indices` or the first
    /// `count` devices.
    ///
    /// # Errors
    /// When a URL is none, or the numbers of devices do not agree.
    pub(super) fn all(urls: &[String], indices: &[usize], count: Option<usize>) -> Result<Vec<Self>, Misuse> {
        let named = urls.iter().map(|url| Self::parse(url)).collect::<Result<Vec<_>, _>>()?;
        match &named[..] {
            [(device, false)] if !indices.is_empty() => {
                return Ok(indices.iter().map(|&index| Self { index, ..device.clone() }).collect());
            }
            [(device, false)] => {
                return Ok((0..count.unwrap_or(1)).map(|index| Self { index, ..device.clone() }).collect());
            }
            _ => {}
        }
        if !indices.is_empty() {
            let wanted = "name the devices there, as in --remote ws://HOST:PORT#0,ws://HOST:PORT#2";
            return Err(Misuse(format!("--backend remote:INDEX is for a --remote without #INDEX alone; {wanted}")));
        }
        if let Some(count) = count.filter(|&count| count != named.len()) {
            let found = named.len();
            return Err(Misuse(format!(
                "--devices {count} and --remote with {found} URLs do not name as many devices"
            )));
        }
        Ok(named.into_iter().map(|(device, _)| device).collect())
    }
}

#[cfg(feature = "remote")]
pub(super) use self::opened::open;

#[cfg(feature = "remote")]
mod opened {
    use std::{
        sync::mpsc::{RecvTimeoutError, channel},
        thread,
        time::Duration,
    };

    use anyhow::{Result, anyhow, bail};
    use burn::{
        remote::{ConnectError, RemoteHost},
        tensor::Device,
    };
    use kindling_training::BURN_VERSION;

    use super::Served;
    use crate::{
        backend::ready::Backend,
        outcome::Misuse,
        output::{notice, program},
    };

    /// Burn tries for 16 seconds to reach a server that is not there yet.
    const PATIENCE: Duration = Duration::from_mins(1);

    /// Opens these devices.
    pub(in crate::backend) fn open(served: &[Served]) -> Result<Backend> {
        let devices = served.iter().map(connect).collect::<Result<Vec<_>>>()?;
        // What it is, the server knows. It may be a GPU, which compiles kernels, and need not take more in one piece
        // than every GPU does.
        let largest_tensor = Some(128 << 20);
        let name = served.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let backend = Backend::new("remote", devices, name);
        Ok(Backend { largest_tensor, compiles_kernels: true, served: served.to_vec(), ..backend })
    }

    fn connect(served: &Served) -> Result<Device> {
        let (host, index) = (RemoteHost::websocket(&served.url), served.index);
        let (sender, connected) = channel();
        // What accepts a connection and never answers would be waited for without end.
        thread::spawn(move || {
            let _ = sender.send(Device::remote_options(&host).device_index(index).init());
        });
        let soon = Duration::from_secs(2);
        let result = match connected.recv_timeout(soon) {
            Err(RecvTimeoutError::Timeout) => {
                notice(format_args!("waiting for {served}"));
                connected.recv_timeout(PATIENCE)
            }
            result => result,
        };
        let Ok(result) = result else {
            let seconds = PATIENCE.as_secs();
            bail!("no device at {served}: what listens there has not answered for {seconds} seconds; is it `serve`?")
        };
        result.map_err(|error| refused(served, &error))
    }

    fn refused(served: &Served, error: &ConnectError) -> anyhow::Error {
        let program = program();
        match error {
            ConnectError::NoSuchDevice { device_count } => anyhow!(Misuse(format!(
                "no device {} at {}: the server offers {device_count}; offer more with: {program} serve --devices N",
                served.index, served.url
            ))),
            ConnectError::IncompatibleProtocol { .. } | ConnectError::Handshake { .. } => anyhow!(
                "no device at {served}: {error}; run the same version of {program} there as here, which has Burn \
                 {BURN_VERSION}"
            ),
            _ => anyhow!("no device at {served}: {error}; is `{program} serve` running there, and the tunnel to it?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(urls: &[&str], indices: &[usize], count: Option<usize>) -> Result<Vec<String>, String> {
        let urls: Vec<_> = urls.iter().map(ToString::to_string).collect();
        let all = Served::all(&urls, indices, count).map_err(|error| error.to_string())?;
        Ok(all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn urls_name_a_device_each_and_a_single_one_as_many_as_are_wanted() {
        assert_eq!(named(&["ws://a:3000/"], &[], None).unwrap(), ["ws://a:3000"]);
        assert_eq!(named(&["ws://a:3000"], &[], Some(2)).unwrap(), ["ws://a:3000", "ws://a:3000#1"]);
        assert_eq!(named(&["ws://a:3000"], &[2, 0], None).unwrap(), ["ws://a:3000#2", "ws://a:3000"]);
        let several = ["ws://a:3000", "ws://[::1]:3001#2", "ws://a:3000"];
        assert_eq!(named(&several, &[], None).unwrap(), several);
        assert_eq!(named(&several, &[], Some(3)).unwrap(), several);
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused_and_named() {
        for wrong in ["http://a:3000", "a:3000", "ws://a", "ws://:3000", "ws://a:0", "ws://a:70000", "ws://::1:30", ""]
        {
            let error = named(&["ws://b:3000", wrong], &[], None).unwrap_err();
            let expected = format!("--remote: expected ws://HOST:PORT or ws://HOST:PORT#INDEX, found {wrong}");
            assert_eq!(error, expected);
        }
        assert!(named(&["ws://a:1#x"], &[], None).unwrap_err().ends_with("found ws://a:1#x"));
        assert!(named(&["wss://a:1"], &[], None).unwrap_err().ends_with("an SSH tunnel to it does"));
    }

    #[test]
    fn numbers_of_devices_that_do_not_agree_are_refused() {
        let two = ["ws://a:1", "ws://b:1"];
        let refused = |indices, count| named(&two, indices, count).unwrap_err();
        assert_eq!(refused(&[], Some(3)), "--devices 3 and --remote with 2 URLs do not name as many devices");
        assert!(refused(&[0, 1], None).starts_with("--backend remote:INDEX is for a --remote without #INDEX alone"));
    }
}

//! Digests in hexadecimal.

use sha2::{Digest, Sha256};

/// SHA-256 over the given digests or bytes, hexadecimal.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    hexadecimal(&parts.into_iter().fold(Sha256::new(), Digest::chain_update).finalize())
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

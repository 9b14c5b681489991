//! What a file that is not in IDX format is instead, by its first bytes.

/// As many of a file's first bytes as [`describe`] looks at: tar's mark ends here.
pub(crate) const LENGTH: usize = 262;

const SIGNATURES: [(&[u8], &str); 22] = [
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"PK\x03\x04", "a ZIP archive or an .npz file"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"MATLAB ", "a MATLAB file"),
    (b"\x80\x02", "a pickled file"),
    (b"\x80\x03", "a pickled file"),
    (b"\x80\x04", "a pickled file"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"version https://git-lfs", "a Git LFS pointer (`git lfs pull` gets the file)"),
];

/// Returns what begins with the bytes `start`, if that is known.
pub(crate) fn describe(start: &[u8]) -> Option<&'static str> {
    if start.get(257..262) == Some(b"ustar") {
        return Some("a tar archive");
    }
    let known = SIGNATURES.iter().find(|(signature, _)| start.starts_with(signature));
    known.map(|&(_, what)| what).or_else(|| describe_text(start))
}

fn describe_text(start: &[u8]) -> Option<&'static str> {
    if matches!(start, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
        return Some("text in UTF-16");
    }
    let text = match str::from_utf8(start) {
        Ok(text) => text,
        // The last character may be cut.
        Err(error) if error.error_len().is_none() => str::from_utf8(&start[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.is_empty() || text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let is_table = text.lines().next().is_some_and(|line| line.contains([',', ';', '\t']));
    Some(match text.as_bytes()[0] {
        b'<' => "an HTML or XML page (a failed download?)",
        _ if is_table => "text such as CSV",
        _ => "text",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_other_formats_are_known_by_their_first_bytes() {
        let mut tar = [b'a'; LENGTH];
        tar[257..].copy_from_slice(b"ustar");
        let checks: [(&[u8], Option<&str>); 12] = [
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", Some("a PNG picture")),
            (b"PK\x03\x04\x14\0", Some("a ZIP archive or an .npz file")),
            (b"\x93NUMPY\x01\0v\0{'descr': '|u1'", Some("a NumPy array")),
            (&tar, Some("a tar archive")),
            (b"\r\n <!doctype html>\n<title>Not found</title>", Some("an HTML or XML page (a failed download?)")),
            (b"label,1x1,1x2\n5,0,0\n", Some("text such as CSV")),
            (b"\xef\xbb\xbf5;0;0\r\n", Some("text such as CSV")),
            (b"404: Not Found", Some("text")),
            ("0 1 2 é".as_bytes().split_last().unwrap().1, Some("text")),
            (b"\xff\xfea\0", Some("text in UTF-16")),
            (b"\0\0\x08\x03\0\0\0\x01", None),
            (b"abc\x01", None),
        ];
        for (start, expected) in checks {
            assert_eq!(describe(start), expected, "{start:?}");
        }
    }
}

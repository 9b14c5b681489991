//! Getting files: over HTTPS, or else out of the Debian package.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use tempfile::NamedTempFile;

use crate::{
    DataError, LoadEvent,
    error::{Failure, local},
    package::unpack,
};

/// Larger than any file of the set: a source that continues past it is broken.
const MOST_BYTES: usize = 1 << 27;

/// How the names of unfinished downloads begin.
const TEMPORARY: &str = ".download-";

/// How long a download may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To reach a server.
    pub connect: Duration,
    /// Without a byte arriving.
    pub stall: Duration,
    /// For one file.
    pub file: Duration,
    /// For one call of the package manager.
    pub package_manager: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(20),
            file: Duration::from_mins(15),
            package_manager: Duration::from_mins(5),
        }
    }
}

/// The files to get and where from.
pub(crate) struct Sources<'a> {
    /// Tried in this order; each ends before the file's name.
    pub(crate) urls: &'a [&'a str],
    /// The Debian package and the directory of its files, for where no URL can be reached.
    pub(crate) package: Option<(&'a str, &'a str)>,
    /// Names of the files.
    pub(crate) files: &'a [&'a str],
    /// Whether a file of that name, at that path, is what it should be.
    pub(crate) verify: &'a dyn Fn(&str, &Path) -> Result<(), DataError>,
}

/// Gets every file that `directory` lacks: each lands under a temporary name and takes its own when it is verified.
pub(crate) fn fetch(
    directory: &Path,
    sources: &Sources,
    limits: Limits,
    report: &mut dyn FnMut(LoadEvent),
) -> Result<(), DataError> {
    fs::create_dir_all(directory).map_err(DataError::io(directory))?;
    remove_left_overs(directory)?;
    let mut failures = Vec::new();
    for url in sources.urls {
        match from_url(directory, url, sources, limits, report) {
            Ok(()) => return Ok(()),
            Err(Failure::Local(error)) => return Err(error),
            Err(Failure::Source(reason)) => {
                report(LoadEvent::Notice(format!("{url}: {reason}")));
                failures.push(format!("{url}: {reason}"));
            }
        }
    }
    if let Some((package, place)) = sources.package {
        match from_package(directory, package, place, sources, limits, report) {
            Ok(()) => return Ok(()),
            Err(Failure::Local(error)) => return Err(error),
            Err(Failure::Source(reason)) => failures.push(format!("Debian package {package}: {reason}")),
        }
    }
    Err(DataError::Unreachable {
        failures,
        way_on: format!(
            "Check the network and run again, or put the files {} into a directory and name it with --data-dir.",
            sources.files.join(", ")
        ),
    })
}

fn from_url(
    directory: &Path,
    url: &str,
    sources: &Sources,
    limits: Limits,
    report: &mut dyn FnMut(LoadEvent),
) -> Result<(), Failure> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(limits.connect))
        .timeout_recv_response(Some(limits.stall))
        .timeout_per_read(Some(limits.stall))
        .timeout_global(Some(limits.file))
        .build()
        .into();
    for name in sources.files {
        if directory.join(name).is_file() {
            continue;
        }
        let from = format!("{url}{name}");
        let mut response = agent.get(&from).call().map_err(|error| Failure::Source(format!("{name}: {error}")))?;
        let bytes = response.body().content_length();
        report(LoadEvent::Started { from, bytes });
        land(directory, name, &mut response.body_mut().as_reader(), sources, report)?;
    }
    Ok(())
}

/// Takes the files out of the directory `place` of the Debian package.
fn from_package(
    directory: &Path,
    package: &str,
    place: &str,
    sources: &Sources,
    limits: Limits,
    report: &mut dyn FnMut(LoadEvent),
) -> Result<(), Failure> {
    let scratch =
        tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(directory).map_err(|error| local(directory, error))?;
    let notice = &mut |text| report(LoadEvent::Notice(text));
    let unpacked = unpack(package, scratch.path(), limits.package_manager, notice)?;
    for name in sources.files {
        let path = unpacked.join(place).join(name);
        let mut file = File::open(&path).map_err(|error| Failure::Source(format!("{name}: {error}")))?;
        let bytes = file.metadata().ok().map(|metadata| metadata.len());
        report(LoadEvent::Started { from: format!("{package}: {name}"), bytes });
        land(directory, name, &mut file, sources, report)?;
    }
    Ok(())
}

/// Removes what downloads left that were killed. An hour is longer than any that is still running.
fn remove_left_overs(directory: &Path) -> Result<(), DataError> {
    for entry in fs::read_dir(directory).map_err(DataError::io(directory))? {
        let entry = entry.map_err(DataError::io(directory))?;
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        let is_ours = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
        if is_ours && age.is_some_and(|age| age > Duration::from_hours(1)) {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(DataError::io(path))?;
        }
    }
    Ok(())
}

/// Writes what `reader` gives to `directory/name`, by way of a temporary file that is verified first.
fn land(
    directory: &Path,
    name: &str,
    reader: &mut dyn Read,
    sources: &Sources,
    report: &mut dyn FnMut(LoadEvent),
) -> Result<(), Failure> {
    let mut file: NamedTempFile =
        tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory).map_err(|error| local(directory, error))?;
    report(LoadEvent::Temporary(file.path().to_path_buf()));
    copy(reader, &mut file, report).map_err(|failure| match failure {
        Copying::Read(error) => Failure::Source(format!("{name}: {error}")),
        Copying::Written(error) => local(&directory.join(name), error),
    })?;
    file.as_file().sync_all().map_err(|error| local(&directory.join(name), error))?;
    (sources.verify)(name, file.path()).map_err(|error| Failure::Source(error.to_string()))?;
    let path = directory.join(name);
    file.persist(&path).map_err(|error| local(&path, error.error))?;
    report(LoadEvent::Finished(path));
    Ok(())
}

/// Which end of a copy failed.
#[derive(Debug)]
enum Copying {
    Read(io::Error),
    Written(io::Error),
}

fn copy(reader: &mut dyn Read, writer: &mut dyn Write, report: &mut dyn FnMut(LoadEvent)) -> Result<(), Copying> {
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Copying::Read(error)),
        };
        total += count;
        if total > MOST_BYTES {
            return Err(Copying::Read(io::Error::other(format!("more than {MOST_BYTES} bytes and no end"))));
        }
        writer.write_all(&buffer[..count]).map_err(Copying::Written)?;
        report(LoadEvent::Received(count as u64));
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// For sources that never deliver: no machine is so slow that they would otherwise.
    fn impatient() -> Limits {
        Limits { stall: Duration::from_millis(50), ..Limits::default() }
    }

    /// Answers one request for each response, then goes away. `None` in place of a response never answers.
    fn server(responses: Vec<Option<Vec<u8>>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        thread::spawn(move || {
            let mut open = Vec::new();
            for response in responses {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]);
                if let Some(response) = response {
                    stream.write_all(&response).unwrap();
                }
                // Kept open: closing would end a stall.
                open.push(stream);
            }
            loop {
                thread::park();
            }
        });
        url
    }

    // The servers' scripts are lists of `Option`s.
    #[allow(clippy::unnecessary_wraps)]
    fn response(announced: usize, body: &[u8]) -> Option<Vec<u8>> {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n");
        Some([head.as_bytes(), body].concat())
    }

    fn fetch_from(directory: &Path, urls: &[&str], files: &[&str]) -> (Result<(), DataError>, Vec<LoadEvent>) {
        fetch_within(Limits::default(), directory, urls, files)
    }

    fn fetch_within(
        limits: Limits,
        directory: &Path,
        urls: &[&str],
        files: &[&str],
    ) -> (Result<(), DataError>, Vec<LoadEvent>) {
        let verify = |_: &str, path: &Path| match fs::read(path).unwrap().as_slice() {
            b"good" => Ok(()),
            _ => Err(DataError::malformed(path, "expected good, found bad")),
        };
        let sources = Sources { urls, package: None, files, verify: &verify };
        let mut events = Vec::new();
        let result = fetch(directory, &sources, limits, &mut |event| events.push(event));
        (result, events)
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_land_verified_under_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let url = server(vec![response(4, b"good"), response(4, b"good")]);
        let (result, events) = fetch_from(directory.path(), &[&url], &["a", "b"]);
        result.unwrap();
        assert_eq!(names(directory.path()), ["a", "b"]);
        assert_eq!(events[0], LoadEvent::Started { from: format!("{url}a"), bytes: Some(4) });
        assert!(events.contains(&LoadEvent::Received(4)));
        assert!(events.contains(&LoadEvent::Finished(directory.path().join("b"))));
    }

    #[test]
    fn a_source_that_lies_or_is_not_there_gives_way_to_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let lying = server(vec![response(3, b"bad")]);
        let missing = server(vec![Some(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec())]);
        let good = server(vec![response(4, b"good")]);
        let urls = ["http://127.0.0.1:9/", &lying, &missing, &good];
        let (result, events) = fetch_from(directory.path(), &urls, &["a"]);
        result.unwrap();
        let notices = events.iter().filter(|event| matches!(event, LoadEvent::Notice(_))).count();
        assert_eq!((notices, names(directory.path())), (3, vec!["a".to_owned()]));
    }

    #[test]
    fn when_no_source_delivers_nothing_is_left_behind_and_every_reason_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let silent = server(vec![None]);
        let stalling = server(vec![response(4, b"go")]);
        let (result, events) = fetch_within(impatient(), directory.path(), &[&silent, &stalling], &["a"]);
        let message = result.unwrap_err().to_string();
        assert_eq!(message.lines().filter(|line| line.contains("timeout")).count(), 2, "{message}");
        assert_eq!(events.iter().filter(|event| matches!(event, LoadEvent::Notice(_))).count(), 2);
        let lying = server(vec![response(3, b"bad")]);
        let message = fetch_from(directory.path(), &[&lying], &["a"]).0.unwrap_err().to_string();
        assert!(message.contains("expected good, found bad") && message.contains("--data-dir"), "{message}");
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn a_file_that_is_there_is_not_fetched_again() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), "good").unwrap();
        let url = server(vec![response(4, b"good")]);
        fetch_from(directory.path(), &[&url], &["a", "b"]).0.unwrap();
        assert_eq!(names(directory.path()), ["a", "b"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_apart_from_a_source_that_fails() {
        // /dev/full fails every write with "no space left on device".
        let mut full = fs::File::options().write(true).open("/dev/full").unwrap();
        let failed = copy(&mut &b"good"[..], &mut full, &mut |_| ()).unwrap_err();
        assert!(matches!(failed, Copying::Written(error) if error.kind() == io::ErrorKind::StorageFull));
    }

    #[test]
    fn a_source_without_an_end_is_left() {
        let failed = copy(&mut io::repeat(0), &mut io::sink(), &mut |_| ()).unwrap_err();
        assert!(matches!(failed, Copying::Read(error) if error.to_string().contains("and no end")));
    }
}

//! A small server for pages on this machine. It is written for clients that are slow, curious or hostile: whatever they
//! send, they hold a bounded part of memory for a bounded time, and the pages stay there for others.
//!
//! A connection has one request, a thread, and a deadline for reading and another for writing. When too many are open, a
//! new one takes the place of the oldest whose request is not being answered.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use maud::html;

use crate::{
    WebError,
    http::{Head, Method, Request, Response},
};

/// The most bytes of a request's body.
const MOST_BYTES: u64 = 16 << 20;
/// The most bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;
/// The most connections at a time.
const CONNECTIONS: usize = 32;
/// How long a request may take to arrive, and as long again its response to be taken.
const TIME: Duration = Duration::from_secs(20);
/// How long the rest of a refused request is read and dropped: a client that still sends would not see the answer.
const DRAIN: Duration = Duration::from_secs(2);
/// How often the server asks whether it is to stop.
const PAUSE: Duration = Duration::from_millis(50);

/// What answers requests, several at a time.
pub type Handler<'a> = &'a (dyn Fn(&Request) -> Response + Sync);

/// A server, which listens from its making on and answers while it runs.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    token: Option<String>,
}

impl Server {
    /// Listens on `address`; port 0 takes a free one. With a `token`, only requests that have it are answered.
    ///
    /// # Errors
    /// When the port is in use or kept for the system, the address is not this machine's, others could reach it and there
    /// is no token, or the token is too simple.
    pub fn bind(address: SocketAddr, token: Option<String>) -> Result<Self, WebError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match &token {
            Some(token) if token.len() < 8 => return Err(WebError::Token(format!("{} characters", token.len()))),
            Some(token) if !token.chars().all(is_plain) => return Err(WebError::Token("other characters".to_owned())),
            None if !address.ip().is_loopback() => return Err(WebError::NoToken(address)),
            _ => {}
        }
        let bound = TcpListener::bind(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|source| match source.kind() {
            ErrorKind::AddrInUse => WebError::InUse(address),
            ErrorKind::PermissionDenied => WebError::Privileged(address),
            ErrorKind::AddrNotAvailable => WebError::NotHere(address),
            _ => WebError::Listen { address, source },
        })?;
        Ok(Self { listener, address, token })
    }

    /// Where it listens, with the port that it got.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to open in a browser on this machine, with the token.
    #[must_use]
    pub fn url(&self) -> String {
        let token = self.token.as_ref().map_or_else(String::new, |token| format!("?token={token}"));
        format!("http://{}/{token}", self.near())
    }

    /// Answers requests with what `handler` says, until `stop` says so, which is asked every 50 ms.
    ///
    /// A panic of `handler` is answered with the status 500.
    pub fn run(&self, handler: Handler<'_>, stop: &(dyn Fn() -> bool + Sync)) {
        let (open, stopping) = (Open::default(), AtomicBool::new(false));
        let (open, stopping) = (&open, &stopping);
        thread::scope(|scope| {
            scope.spawn(move || {
                loop {
                    let accepted = self.listener.accept();
                    if stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok((stream, _)) = accepted else {
                        // There are too many open files, perhaps.
                        thread::sleep(PAUSE);
                        continue;
                    };
                    let Some(place) = open.admit(&stream) else { continue };
                    let serve = move || self.serve(&stream, &place, handler);
                    // Without a thread for it, the connection ends.
                    drop(thread::Builder::new().name("page".to_owned()).spawn_scoped(scope, serve));
                }
            });
            while !stop() {
                thread::sleep(PAUSE);
            }
            stopping.store(true, Ordering::SeqCst);
            open.end();
            // Ends the wait for the next connection.
            let _ = TcpStream::connect(self.near());
        });
    }

    /// The address by which this machine reaches the server.
    fn near(&self) -> SocketAddr {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.address.port())
    }

    /// Reads a request, answers it, and ends the connection.
    fn serve(&self, stream: &TcpStream, place: &Place<'_>, handler: Handler<'_>) {
        let request = self.read(&mut Timed { stream, end: Instant::now() + TIME });
        let (response, is_read) = match request {
            Ok((head, body)) => {
                place.is_answered(true);
                let response = self.answer(head, body, handler);
                place.is_answered(false);
                (response, true)
            }
            Err(Refusal::Answer(response)) => (*response, false),
            Err(Refusal::Gone) => return,
        };
        let mut to = Timed { stream, end: Instant::now() + TIME };
        let written = to.write_all(response.head().as_bytes()).and_then(|()| to.write_all(&response.body));
        // Closing a connection with bytes that nobody has read takes the answer back.
        if written.is_ok() && !is_read && stream.shutdown(Shutdown::Write).is_ok() {
            let _ = io::copy(&mut Timed { stream, end: Instant::now() + DRAIN }, &mut io::sink());
        }
    }

    /// Reads a request that may be answered, and its body.
    fn read(&self, from: &mut Timed<'_>) -> Result<(Head, Vec<u8>), Refusal> {
        let (head, mut body) = read_head(from)?;
        self.check(&head)?;
        if head.length > MOST_BYTES {
            let [most, found] = [MOST_BYTES, head.length].map(|bytes| bytes >> 20);
            let message = format!("what was sent is too large: at most {most} MiB are taken (got {found} MiB)");
            return Err(Response::error(413, message).into());
        }
        let missing = head.length.saturating_sub(body.len() as u64);
        if missing > 0 && head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            from.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        from.take(missing).read_to_end(&mut body)?;
        if (body.len() as u64) < head.length {
            return Err(Refusal::Gone);
        }
        body.truncate(head.length as usize);
        Ok((head, body))
    }

    /// Checks who asks, before the body is read.
    fn check(&self, head: &Head) -> Result<(), Response> {
        let host = head.header("host").unwrap_or_default();
        // A foreign name may have been pointed at this machine, so that the page of that name may read ours (DNS
        // rebinding). Where there is a token, that page has none, and its name gets no cookie of ours.
        if self.token.is_none() && !self.is_own(host) {
            let own = format!("http://{}/", self.near());
            return Err(Response::error(403, format!("`{host}` is not where this page is; open {own}")));
        }
        let is_elsewhere = |origin: &str| origin.split_once("://").map(|(_, authority)| authority) != Some(host);
        // A browser says from which page it sends something; other programs say nothing.
        if head.method == Method::Post && head.header("origin").is_some_and(is_elsewhere) {
            return Err(Response::error(403, "another page may not send anything to this one"));
        }
        let Some(token) = &self.token else { return Ok(()) };
        let bearer = head.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let shown = [head.cookie(&self.cookie()), bearer, head.value("token")];
        if shown.into_iter().flatten().any(|shown| is_same(shown, token)) {
            return Ok(());
        }
        Err(Response::error(401, "this page needs its token: open it with ?token=TOKEN behind the address, once"))
    }

    /// Whether a page at this host, of a header `Host`, is ours.
    fn is_own(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next(),
            None => host.split(':').next(),
        };
        let name = name.unwrap_or_default();
        let is_own_ip = |ip: IpAddr| ip.is_loopback() || ip == self.address.ip();
        name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_own_ip)
    }

    /// Name of the cookie with the token. Cookies are the same for all ports, so the port is part of it.
    fn cookie(&self) -> String {
        format!("kindling-{}", self.address.port())
    }

    fn answer(&self, head: Head, body: Vec<u8>, handler: Handler<'_>) -> Response {
        let is_new = self.token.is_some() && head.value("token").is_some();
        let is_shown = head.header("sec-fetch-mode") == Some("navigate");
        let mut response = if is_new && is_shown {
            again(&head.target)
        } else {
            let without_body = head.without_body;
            let request = head.into_request(body);
            let response = catch_unwind(AssertUnwindSafe(|| handler(&request)));
            let failed =
                |_| Response::error(500, "the server failed at this request, which is a bug; others can be made");
            response.unwrap_or_else(failed).without_body(without_body)
        };
        if let Some(token) = self.token.as_ref().filter(|_| is_new) {
            response.cookie = Some(format!("{}={token}; Path=/; HttpOnly; SameSite=Strict", self.cookie()));
        }
        response
    }
}

/// A page that opens `target` without the token, which would stay in the browser's history and be seen. A redirection
/// would be without the cookie, where the address was opened from another page.
fn again(target: &str) -> Response {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: Vec<_> = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("token=")).collect();
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
    let page = html! {
        (maud::DOCTYPE)
        meta http-equiv="refresh" content={ "0; url=" (target) };
        title { "Kindling" }
        a href=(target) { "Continue" }
    };
    Response::html(page.into_string())
}

/// Compares in a time that does not tell where they differ.
fn is_same(shown: &str, token: &str) -> bool {
    let differences = shown.bytes().zip(token.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    shown.len() == token.len() && differences == 0
}

/// Reads to the end of the head, and returns it with what came behind it.
fn read_head(from: &mut Timed<'_>) -> Result<(Head, Vec<u8>), Refusal> {
    const END: &[u8] = b"\r\n\r\n";
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            return Err(Refusal::Gone);
        }
        let seen = bytes.len().saturating_sub(END.len());
        bytes.extend_from_slice(&piece[..read]);
        if let Some(end) = bytes[seen..].windows(END.len()).position(|window| window == END) {
            let body = bytes.split_off(seen + end + END.len());
            return Ok((Head::parse(&bytes)?, body));
        }
        if bytes.len() > HEAD_BYTES {
            let message = format!("the head of the request is too large: at most {} KiB are taken", HEAD_BYTES >> 10);
            return Err(Response::error(431, message).into());
        }
    }
}

/// Why a request does not reach the handler.
enum Refusal {
    Answer(Box<Response>),
    /// Nobody is there for an answer.
    Gone,
}

impl From<Response> for Refusal {
    fn from(response: Response) -> Self {
        Self::Answer(Box::new(response))
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Response::error(408, "the request took too long").into(),
            _ => Self::Gone,
        }
    }
}

/// A connection that is read or written until a point in time.
struct Timed<'a> {
    stream: &'a TcpStream,
    end: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The open connections.
#[derive(Default)]
struct Open {
    places: Mutex<Places>,
    left: Condvar,
}

#[derive(Default)]
struct Places {
    next: u64,
    /// Each with whether its request is being answered, in the order of their coming.
    streams: BTreeMap<u64, (TcpStream, bool)>,
    has_ended: bool,
}

/// A connection's place, which it leaves when this is dropped.
struct Place<'a> {
    open: &'a Open,
    number: u64,
}

impl Open {
    /// A place for the connection, when there is one; none where there will be no more.
    fn admit(&self, stream: &TcpStream) -> Option<Place<'_>> {
        let stream = stream.try_clone().ok()?;
        let mut places = self.lock();
        while places.streams.len() >= CONNECTIONS {
            let idle = places.streams.iter().find(|(_, (_, is_answered))| !is_answered).map(|(&number, _)| number);
            if let Some((oldest, _)) = idle.and_then(|number| places.streams.remove(&number)) {
                let _ = oldest.shutdown(Shutdown::Both);
            } else {
                places = self.left.wait(places).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let number = places.next;
        places.next += 1;
        (!places.has_ended).then(|| {
            places.streams.insert(number, (stream, false));
            Place { open: self, number }
        })
    }

    fn end(&self) {
        let mut places = self.lock();
        places.has_ended = true;
        places.streams.values().for_each(|(stream, _)| drop(stream.shutdown(Shutdown::Both)));
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    fn is_answered(&self, now: bool) {
        if let Some((_, is_answered)) = self.open.lock().streams.get_mut(&self.number) {
            *is_answered = now;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.open.lock().streams.remove(&self.number);
        self.open.left.notify_one();
    }
}

#[cfg(test)]
#[path = "tests/server.rs"]
pub(crate) mod tests;

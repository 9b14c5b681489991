//! Requests and responses: the part of HTTP/1.1 that browsers use to show a page (RFC 9112), and nothing else of it.

use std::fmt::Display;

use serde::Serialize;
use serde_json::json;

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// To read something; HEAD counts as this, and its response is sent without a body.
    Get,
    /// To send something.
    Post,
}

/// A request that has passed the checks of the server.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it wants.
    pub method: Method,
    /// The path, decoded, such as `/api/test`. No segment of it is `.` or `..`, and none has a slash in it.
    pub path: String,
    /// The names and values behind the question mark, decoded, in their order; without the token.
    pub query: Vec<(String, String)>,
    /// What was sent; at most 16 MiB.
    pub body: Vec<u8>,
}

impl Request {
    /// The first value of this name in the query.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        value_of(&self.query, name)
    }
}

/// What a request is answered with.
#[derive(Clone, Debug)]
pub struct Response {
    /// Such as 200 or 404 (RFC 9110, section 15).
    pub status: u16,
    /// Kind of the body, such as `image/png`.
    pub content_type: &'static str,
    /// The content.
    pub body: Vec<u8>,
    /// A cookie to set.
    pub(crate) cookie: Option<String>,
    /// Bytes that the head announces, where the body is not sent.
    unsent: Option<usize>,
}

impl Response {
    /// A body of this kind, with status 200.
    #[must_use]
    pub fn new(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, content_type, body: body.into(), cookie: None, unsent: None }
    }

    /// A page.
    #[must_use]
    pub fn html(page: impl Into<Vec<u8>>) -> Self {
        Self::new("text/html; charset=utf-8", page)
    }

    /// A style sheet.
    #[must_use]
    pub fn css(style: impl Into<Vec<u8>>) -> Self {
        Self::new("text/css; charset=utf-8", style)
    }

    /// A script.
    #[must_use]
    pub fn script(script: impl Into<Vec<u8>>) -> Self {
        Self::new("text/javascript; charset=utf-8", script)
    }

    /// The value as JSON. Numbers that are not finite become `null`.
    #[must_use]
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::new("application/json", body),
            Err(error) => Self::error(500, error),
        }
    }

    /// A picture in PNG.
    #[must_use]
    pub fn png(file: impl Into<Vec<u8>>) -> Self {
        Self::new("image/png", file)
    }

    /// A picture in SVG.
    #[must_use]
    pub fn svg(picture: impl Into<Vec<u8>>) -> Self {
        Self::new("image/svg+xml", picture)
    }

    /// An error with this status, as `{"error": MESSAGE}`.
    #[must_use]
    pub fn error(status: u16, message: impl Display) -> Self {
        let body = json!({ "error": message.to_string() }).to_string();
        Self { status, ..Self::new("application/json", body) }
    }

    /// 404: there is nothing at the path.
    #[must_use]
    pub fn not_found() -> Self {
        Self::error(404, "there is nothing at this address")
    }

    /// 400: what was sent cannot be used, and why.
    #[must_use]
    pub fn bad(message: impl Display) -> Self {
        Self::error(400, message)
    }

    /// The answer to HEAD, if this is one: without the body.
    pub(crate) fn without_body(mut self, is_head: bool) -> Self {
        if is_head {
            self.unsent = Some(std::mem::take(&mut self.body).len());
        }
        self
    }

    /// Status line and headers, to the empty line, for a connection that ends with the body.
    pub(crate) fn head(&self) -> String {
        let cookie = self.cookie.as_ref().map_or_else(String::new, |cookie| format!("Set-Cookie: {cookie}\r\n"));
        format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{cookie}{HEADERS}\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            self.unsent.unwrap_or(self.body.len())
        )
    }
}

/// Scripts, pictures and data come from the server alone; no other page may show or read one of ours; nothing is kept in
/// a cache. Style attributes are allowed, since figures have them.
const HEADERS: &str = "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
    Content-Security-Policy: default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; \
    object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\nCross-Origin-Opener-Policy: same-origin\r\n\
    Referrer-Policy: same-origin\r\nPermissions-Policy: camera=(self), microphone=(), geolocation=()\r\n";

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

/// The most headers of a request.
const HEADERS_AT_MOST: usize = 64;

/// The head of a request: all that stands before its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// The response is sent without its body.
    pub(crate) without_body: bool,
    /// Path and query as they were sent.
    pub(crate) target: String,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    /// Bytes of the body.
    pub(crate) length: u64,
}

impl Head {
    /// Parses the bytes up to the empty line and with it.
    ///
    /// # Errors
    /// What to answer when it is not a request of HTTP/1.1, or one that the server does not take.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Response> {
        let malformed = || Response::bad("this is not a request of HTTP/1.1");
        let mut room = [httparse::EMPTY_HEADER; HEADERS_AT_MOST];
        let mut parsed = httparse::Request::new(&mut room);
        let is_whole = parsed.parse(bytes).is_ok_and(|status| status.is_complete());
        let (Some(method), Some(target), true) = (parsed.method, parsed.path, is_whole) else {
            return Err(malformed());
        };
        let mut headers: Vec<(String, String)> = Vec::new();
        for header in &*parsed.headers {
            let name = header.name.to_ascii_lowercase();
            let value = str::from_utf8(header.value).map_err(|_| malformed())?;
            // Two that differ are the way to be understood differently by two programs.
            let is_alone = ["content-length", "host", "origin"].contains(&name.as_str());
            if is_alone && value_of(&headers, &name).is_some() {
                return Err(malformed());
            }
            headers.push((name, value.to_owned()));
        }
        let (method, without_body) = match method {
            "GET" => (Method::Get, false),
            "HEAD" => (Method::Get, true),
            "POST" => (Method::Post, false),
            _ => return Err(Response::error(405, format!("expected GET, HEAD or POST, found {method}"))),
        };
        if value_of(&headers, "transfer-encoding").is_some() {
            return Err(Response::error(411, "expected a body of a known length (Content-Length), found none"));
        }
        let length = value_of(&headers, "content-length").unwrap_or("0");
        let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        // A number that is too large for 64 bits is too large for the server as well.
        let length = if is_number { length.parse().unwrap_or(u64::MAX) } else { return Err(malformed()) };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = checked_path(path).ok_or_else(Response::not_found)?;
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let [name, value] = [name, value].map(|text| decoded(&text.replace('+', " ")));
            name.zip(value).ok_or_else(malformed)
        });
        let query = query.collect::<Result<_, _>>()?;
        Ok(Self { method, without_body, target: target.to_owned(), path, query, headers, length })
    }

    /// The first value of this name in the query.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        value_of(&self.query, name)
    }

    /// The request with this body, without the token.
    pub(crate) fn into_request(mut self, body: Vec<u8>) -> Request {
        self.query.retain(|(name, _)| name != "token");
        Request { method: self.method, path: self.path, query: self.query, body }
    }

    /// The value of the header with this name in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        value_of(&self.headers, name)
    }

    /// The value of the cookie with this name.
    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        let cookies = self.headers.iter().filter(|(header, _)| header == "cookie").flat_map(|(_, all)| all.split(';'));
        cookies.filter_map(|cookie| cookie.trim().split_once('=')).find(|&(other, _)| other == name).map(|(_, it)| it)
    }
}

fn value_of<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

/// The path, decoded, if it can only mean one thing: what is looked up by a part of it is what was meant.
fn checked_path(path: &str) -> Option<String> {
    let segments = path.strip_prefix('/')?.split('/').map(decoded).collect::<Option<Vec<_>>>()?;
    let leads_elsewhere = |segment: &String| {
        [".", ".."].contains(&segment.as_str()) || segment.contains(|c: char| c.is_control() || "/\\".contains(c))
    };
    let is_hollow = segments.iter().rev().skip(1).any(String::is_empty);
    (!is_hollow && !segments.iter().any(leads_elsewhere)).then(|| format!("/{}", segments.join("/")))
}

/// The text with `%41` as `A` (RFC 3986, section 2.1); none where it is not such a text in UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
            (digit(rest.next())? * 16 + digit(rest.next())?) as u8
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(target: &str) -> Result<Head, u16> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nCookie: a=1; b=2\r\n\r\n");
        Head::parse(head.as_bytes()).map_err(|response| response.status)
    }

    #[test]
    fn paths_that_lead_elsewhere_are_not_there_however_they_are_written() {
        for target in [
            "/../etc/passwd",
            "/%2e%2e/etc/passwd",
            "/a/%2E./b",
            "/a%2fb",
            "/a%5cb",
            "/a\\..\\b",
            "//host/a",
            "/a//b",
            "/%00",
            "/%ff",
            "/%4",
            "/%zz",
            "a",
            "http://host/a",
            "*",
        ] {
            assert_eq!(parsed(target).unwrap_err(), 404, "{target}");
        }
        for (target, path) in [("/", "/"), ("/a/", "/a/"), ("/a%20b/..c/%C3%A9?x", "/a b/..c/é"), ("/...", "/...")] {
            assert_eq!(parsed(target).unwrap().path, path);
        }
    }

    #[test]
    fn the_query_is_decoded_and_keeps_its_order() {
        let head = parsed("/a?class=T-shirt%2Ftop+a&page=2&&page=3&flag").unwrap();
        let request = head.into_request(Vec::new());
        assert_eq!(request.value("class"), Some("T-shirt/top a"));
        assert_eq!((request.value("page"), request.value("flag"), request.value("none")), (Some("2"), Some(""), None));
        assert_eq!(parsed("/a?x=%").unwrap_err(), 400);
    }

    #[test]
    fn cookies_are_found_by_their_names() {
        let head = parsed("/").unwrap();
        assert_eq!((head.cookie("b"), head.cookie("c")), (Some("2"), None));
    }

    #[test]
    fn what_is_no_request_that_the_server_takes_is_answered_with_the_reason() {
        let status = |head: &[u8]| {
            Head::parse(&[head, b"\r\n\r\n"].concat()).map(|head| head.length).map_err(|response| response.status)
        };
        for (head, expected) in [
            (&b"GET / HTTP/1.1"[..], Ok(0)),
            (b"POST / HTTP/1.1\r\nContent-Length: 12", Ok(12)),
            (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999999", Ok(u64::MAX)),
            (b"POST / HTTP/1.1\r\nContent-Length: -1", Err(400)),
            (b"POST / HTTP/1.1\r\nContent-Length: +1", Err(400)),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", Err(400)),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked", Err(411)),
            (b"PUT / HTTP/1.1", Err(405)),
            (b"GET / HTTP/2.0", Err(400)),
            (b"GET /", Err(400)),
            (b"GET  / HTTP/1.1", Err(400)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b", Err(400)),
            (b"GET / HTTP/1.1\r\nA : b", Err(400)),
            (b"GET / HTTP/1.1\r\n a: b", Err(400)),
            (b"\x16\x03\x01\x02\x00", Err(400)),
            (b"", Err(400)),
        ] {
            assert_eq!(status(head), expected, "{}", String::from_utf8_lossy(head));
        }
    }
}

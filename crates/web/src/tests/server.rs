//! The server over real connections.

use std::sync::Barrier;

use ureq::{Agent, http::Response as Answer};

use super::*;

/// The site of the tests.
fn site(request: &Request) -> Response {
    match request.path.as_str() {
        "/" => Response::html("<!doctype html><title>Here</title>"),
        "/echo" => Response::new("application/octet-stream", request.body.clone()),
        "/query" => Response::json(&request.query),
        "/panic" => panic!("on purpose"),
        _ => Response::not_found(),
    }
}

/// Runs a server with this site for as long as `work` takes.
pub(crate) fn with<T>(token: Option<&str>, site: Handler<'_>, work: impl FnOnce(&Server) -> T) -> T {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), token.map(str::to_owned)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| server.run(site, &|| done.load(Ordering::SeqCst)));
        let result = catch_unwind(AssertUnwindSafe(|| work(&server)));
        done.store(true, Ordering::SeqCst);
        result.unwrap()
    })
}

fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).build().into()
}

fn at(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.address())
}

fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Answer<ureq::Body> {
    headers
        .iter()
        .fold(agent().get(at(server, path)), |request, (name, value)| request.header(*name, *value))
        .call()
        .unwrap()
}

fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer<ureq::Body> {
    let request =
        headers.iter().fold(agent().post(at(server, path)), |request, (name, value)| request.header(*name, *value));
    request.send(body).unwrap()
}

fn text(answer: Answer<ureq::Body>) -> String {
    answer.into_body().read_to_string().unwrap()
}

/// Sends these bytes, and reads to the end.
pub(crate) fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_page_is_served_with_a_policy_that_lets_nothing_else_in() {
    with(None, &site, |server| {
        let answer = get(server, "/", &[]);
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(answer.status(), 200);
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'self';") && policy.contains("frame-ancestors 'none'"), "{policy}");
        // Scripts have no directive of their own, so that none may stand in the page.
        assert!(!policy.contains("script-src") && !policy.contains("http"), "{policy}");
        assert_eq!(
            (header("x-content-type-options").as_str(), header("cache-control").as_str()),
            ("nosniff", "no-store")
        );
        assert!(text(answer).contains("Here"));
        assert_eq!(get(server, "/none", &[]).status(), 404);
        let answer = raw(server, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("Content-Length: 34\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    });
}

#[test]
fn what_leads_elsewhere_does_not_reach_the_site() {
    let seen = |request: &Request| panic!("{request:?}");
    with(None, &seen, |server| {
        for path in ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/a/..%2f..%2fetc/passwd", "//etc/passwd"] {
            let answer = raw(server, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        }
    });
}

#[test]
fn a_body_arrives_whole_and_a_larger_one_is_refused_before_it_is_sent() {
    with(None, &site, |server| {
        let body: Vec<u8> = (0..MOST_BYTES).map(|byte| (byte % 251) as u8).collect();
        let answer = post(server, "/echo", &[], &body);
        assert_eq!(answer.status(), 200);
        let found = answer.into_body().with_config().limit(MOST_BYTES).read_to_vec().unwrap();
        assert!(found == body);
        for length in [(MOST_BYTES + 1).to_string(), (100 << 20).to_string(), "9".repeat(40)] {
            // No byte of the body is sent, nor waited for.
            let head = format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n");
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(b"\r\n").unwrap();
            let mut status = [0; 13];
            stream.read_exact(&mut status).unwrap();
            assert_eq!(&status, b"HTTP/1.1 413 ", "{length}");
        }
        // A client that sends all the same sees the answer.
        let answer = post(server, "/echo", &[], &vec![0; 100 << 20]);
        assert_eq!(answer.status(), 413);
        assert!(text(answer).contains("at most 16 MiB are taken (got 100 MiB)"));
        assert_eq!(get(server, "/", &[]).status(), 200);
    });
}

#[test]
fn a_client_that_asks_whether_to_send_is_told_to() {
    with(None, &site, |server| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
        stream.write_all(head).unwrap();
        let mut status = [0; 25];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"abc").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("\r\n\r\nabc"), "{answer}");
    });
}

#[test]
fn a_panic_of_the_site_is_an_error_of_that_request_alone() {
    with(None, &site, |server| {
        for _ in 0..3 {
            let answer = get(server, "/panic", &[]);
            assert_eq!(answer.status(), 500);
            assert!(text(answer).contains("which is a bug"));
        }
        assert_eq!(get(server, "/", &[]).status(), 200);
    });
}

#[test]
fn twenty_clients_are_answered_at_once() {
    let together = Barrier::new(20);
    let waits = |_: &Request| {
        together.wait();
        Response::html("there")
    };
    with(None, &waits, |server| {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..20).map(|_| scope.spawn(|| text(get(server, "/", &[])))).collect();
            assert!(clients.into_iter().all(|client| client.join().unwrap() == "there"));
        });
    });
}

#[test]
fn clients_that_never_finish_their_request_give_way_to_others() {
    with(None, &site, |server| {
        let starts = [
            "G",
            "GET / HTTP/1.1\r\nHost: local",
            "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc",
        ];
        let slow: Vec<_> = (0..3 * CONNECTIONS)
            .map(|index| {
                let mut stream = TcpStream::connect(server.address()).unwrap();
                // One that has given way already cannot be written to.
                let _ = stream.write_all(starts[index % starts.len()].as_bytes());
                stream
            })
            .collect();
        assert_eq!(get(server, "/", &[]).status(), 200);
        // The first has been sent away; it would otherwise wait here for its time to be over.
        let started = Instant::now();
        let _ = (&slow[0]).read(&mut [0; 1]);
        assert!(started.elapsed() < TIME);
    });
}

#[test]
fn a_request_that_does_not_arrive_in_time_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    for end in [Instant::now(), Instant::now() + Duration::from_millis(20)] {
        let Err(Refusal::Answer(response)) = read_head(&mut Timed { stream: &stream, end }) else { panic!() };
        assert_eq!(response.status, 408);
    }
}

#[test]
fn a_head_without_an_end_is_refused() {
    with(None, &site, |server| {
        let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nA: {}", "a".repeat(HEAD_BYTES + 5000));
        assert!(raw(server, head.as_bytes()).starts_with("HTTP/1.1 431 "));
        assert!(raw(server, b"\x16\x03\x01 hello\r\n\r\n").starts_with("HTTP/1.1 400 "));
        assert_eq!(get(server, "/", &[]).status(), 200);
    });
}

#[test]
fn a_foreign_name_that_points_here_is_refused() {
    with(None, &site, |server| {
        let port = server.address().port();
        for host in ["evil.example", &format!("evil.example:{port}"), "localhost.evil.example", "192.0.2.1", ""] {
            let answer = get(server, "/", &[("Host", host)]);
            assert_eq!(answer.status(), 403, "{host}");
            assert!(text(answer).contains(&format!("open http://127.0.0.1:{port}/")));
        }
        assert!(raw(server, b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 403 "));
        // A tunnel may have another port.
        for host in ["localhost", "LOCALHOST:9000", "127.0.0.1:9000", "[::1]:9000"] {
            assert_eq!(get(server, "/", &[("Host", host)]).status(), 200, "{host}");
        }
    });
}

#[test]
fn another_page_cannot_send_anything() {
    with(None, &site, |server| {
        let own = format!("http://{}", server.address());
        let other = format!("http://127.0.0.1:{}", server.address().port() ^ 1);
        for (origin, status) in [(own.as_str(), 200), (&other, 403), ("https://evil.example", 403), ("null", 403)] {
            assert_eq!(post(server, "/echo", &[("Origin", origin)], b"x").status(), status, "{origin}");
        }
        assert_eq!(post(server, "/echo", &[], b"x").status(), 200);
    });
}

#[test]
fn a_token_is_asked_for_and_kept_in_a_cookie() {
    with(Some("correct-horse"), &site, |server| {
        assert!(server.url().ends_with("/?token=correct-horse"), "{}", server.url());
        for (path, headers) in [
            ("/", vec![]),
            ("/?token=", vec![]),
            ("/?token=correct-horsf", vec![]),
            ("/?token=correct-hors", vec![]),
            ("/", vec![("Authorization", "Bearer correct-horse2")]),
            ("/", vec![("Cookie", "kindling=correct-horse")]),
        ] {
            let answer = get(server, path, &headers);
            assert_eq!(answer.status(), 401, "{path} {headers:?}");
            assert!(!answer.headers().contains_key("set-cookie"));
            assert!(text(answer).contains("?token=TOKEN"));
        }
        assert_eq!(get(server, "/", &[("Authorization", "Bearer correct-horse")]).status(), 200);
        // The name of a host does not matter, since a page of another name has no token.
        let answer = get(server, "/query?a=1&token=correct-horse", &[("Host", "gpu.example:80")]);
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
        assert_eq!(text(answer), r#"[["a","1"]]"#);
        let cookie = cookie.split(';').next().unwrap();
        let answer = get(server, "/", &[("Cookie", &format!("other=1; {cookie}"))]);
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key("set-cookie"));
        // A browser opens the page again without the token.
        let answer = get(server, "/query?a=1&token=correct-horse", &[("Sec-Fetch-Mode", "navigate")]);
        assert!(answer.headers().contains_key("set-cookie"));
        let page = text(answer);
        assert!(page.contains("0; url=/query?a=1\"") && !page.contains("horse"), "{page}");
        // Before the body is read.
        let head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n";
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut status = [0; 13];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 401 ");
    });
}

#[test]
fn what_cannot_be_listened_on_is_said_with_the_way_on() {
    let message = |address: &str, token: Option<&str>| {
        Server::bind(address.parse().unwrap(), token.map(str::to_owned)).unwrap_err().to_string()
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let expected = format!("port {} of 127.0.0.1 is in use by another program; ", address.port());
    assert!(message(&address.to_string(), None).starts_with(&expected));
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let said = message(address, None);
        assert!(said.contains("can be reached from other machines, which takes a token"), "{said}");
    }
    // A block of addresses that no machine has (RFC 5737).
    assert!(message("192.0.2.1:0", Some("12345678")).starts_with("192.0.2.1 is not an address of this machine"));
    let expected = "a token needs at least 8 characters, each a letter, a digit, `-`, `_` or `.` (got 7 characters)";
    assert_eq!(message("127.0.0.1:0", Some("1234567")), expected);
    assert!(message("127.0.0.1:0", Some("12345678;")).ends_with("(got other characters)"));
    let privileged = WebError::Privileged("127.0.0.1:80".parse().unwrap()).to_string();
    assert_eq!(privileged, "port 80 is kept for the system's administrator; choose one above 1023");
}

#[test]
fn a_stopped_server_does_not_wait_for_slow_clients() {
    let (slow, began) = with(None, &site, |server| {
        let stream = TcpStream::connect(server.address()).unwrap();
        (&stream).write_all(b"GET /").unwrap();
        assert_eq!(get(server, "/", &[]).status(), 200);
        (stream, Instant::now())
    });
    assert!(began.elapsed() < TIME);
    drop(slow);
}

//! An upstream that records every byte and answers as a script says.
//!
//! It reads strictly: what RFC 9112 does not allow is recorded as a violation, so a test that smuggles
//! need only ask whether there are any.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::json;

use super::PATIENCE;
use super::wire::{self, BodyReader, Fields, Wire};

/// What an upstream does with a request.
pub type Script = dyn Fn(&mut Exchange<'_>) + Send + Sync;

/// A recording upstream on a port of its own.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    script: Box<Script>,
}

#[derive(Default)]
struct State {
    requests: Vec<Recorded>,
    violations: Vec<String>,
    opened: usize,
    open: usize,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The head's exact bytes.
    pub head: Vec<u8>,
    pub method: String,
    pub target: String,
    pub headers: Fields,
    /// The body's content so far.
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Whether the body was read to its proper end.
    pub complete: bool,
    /// Which connection, counted from 0.
    pub connection: usize,
}

impl Recorded {
    /// The one value of a header; two are a failure.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} reached the upstream {} times: {all:?}", all.len());
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        wire::all(&self.headers, name)
    }

    /// The head as text.
    pub fn text(&self) -> String {
        wire::latin1(&self.head)
    }
}

impl Upstream {
    /// Answers 200 with what it saw.
    pub fn echo() -> Self {
        Self::scripted(echo)
    }

    /// Reads the request whole and answers with these bytes.
    pub fn answering(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        Self::scripted(move |exchange| {
            exchange.read_body();
            exchange.send(&bytes);
        })
    }

    /// Reads the request whole, answers with these bytes and closes.
    pub fn answering_and_closing(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        Self::scripted(move |exchange| {
            exchange.read_body();
            exchange.send(&bytes);
            exchange.close();
        })
    }

    pub fn scripted(script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), script: Box::new(script) });
        let here = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&here);
                let connection = shared.update(|s| {
                    (s.opened, s.open) = (s.opened + 1, s.open + 1);
                    s.opened - 1
                });
                thread::spawn(move || {
                    serve(&shared, Wire::new(stream), connection);
                    shared.update(|s| s.open -= 1);
                });
            }
        });
        Self { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Everything that was asked so far.
    pub fn seen(&self) -> Vec<Recorded> {
        self.shared.lock().requests.clone()
    }

    pub fn count(&self) -> usize {
        self.shared.lock().requests.len()
    }

    /// Connections that were ever opened.
    pub fn opened(&self) -> usize {
        self.shared.lock().opened
    }

    /// Waits until so many heads have arrived, and gives the last of them.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Recorded {
        assert!(self.wait(|s| s.requests.len() >= count), "the upstream saw {} requests", self.count());
        self.shared.lock().requests[count - 1].clone()
    }

    /// Waits until every connection is closed.
    #[track_caller]
    pub fn wait_until_all_closed(&self) {
        self.wait_until_open(0);
    }

    /// Waits until no more than so many connections are open.
    #[track_caller]
    pub fn wait_until_open(&self, most: usize) {
        let waited = self.wait(|s| s.open <= most);
        assert!(waited, "{} connections stay open", self.shared.lock().open);
    }

    /// Waits until the first `n` requests are there with their bodies.
    #[track_caller]
    pub fn wait_until_complete(&self, index: usize) -> Recorded {
        assert!(self.wait(|s| s.requests.get(index).is_some_and(|r| r.complete)), "{:?}", self.seen());
        self.shared.lock().requests[index].clone()
    }

    /// Waits until the requests are so.
    #[track_caller]
    pub fn wait_until(&self, is_so: impl Fn(&[Recorded]) -> bool) {
        assert!(self.wait(|s| is_so(&s.requests)), "{:?}", self.seen());
    }

    fn wait(&self, is_so: impl Fn(&State) -> bool) -> bool {
        let state = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(state, PATIENCE, |s| !is_so(s)).unwrap();
        !waited.1.timed_out()
    }

    /// The same, but a head that was cut by the end of its connection is allowed: its client had gone.
    #[track_caller]
    pub fn saw_no_bad_head(&self) {
        let mut violations = self.shared.lock().violations.clone();
        violations.retain(|v| !v.starts_with("an unfinished head"));
        assert!(violations.is_empty(), "{violations:#?}");
    }

    /// Fails when anything that arrived was not strict HTTP/1.1.
    #[track_caller]
    pub fn saw_only_proper_requests(&self) {
        let violations = self.shared.lock().violations.clone();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }
}

fn serve(shared: &Shared, wire: Wire, connection: usize) {
    let mut wire = Some(wire);
    while let Some(open) = wire.as_mut() {
        let Some(head) = open.until(b"\r\n\r\n") else {
            if !open.unused().is_empty() {
                let left = wire::show(open.unused());
                shared.update(|s| s.violations.push(format!("an unfinished head: {left}")));
            }
            return;
        };
        let Ok((request, body)) = read_head(&head, connection) else {
            let why = read_head(&head, connection).err().unwrap_or_default();
            let shown = wire::show(&head);
            shared.update(|s| s.violations.push(format!("{why} in {shown}")));
            return;
        };
        let index = shared.update(|s| {
            s.requests.push(request.clone());
            s.requests.len() - 1
        });
        let mut exchange = Exchange { shared, wire: &mut wire, index, request, body };
        (shared.script)(&mut exchange);
        exchange.read_body();
        if wire.as_ref().is_some_and(|w| w.ended) {
            return;
        }
    }
}

fn read_head(head: &[u8], connection: usize) -> Result<(Recorded, BodyReader), String> {
    let (line, headers) = wire::parse_head(head)?;
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else {
        return Err(format!("bad request line {line:?}"));
    };
    if wire::all(&headers, "host").len() != 1 {
        return Err("not exactly one Host".to_owned());
    }
    let framing = wire::framing(&headers)?;
    let request = Recorded {
        head: head.to_vec(),
        method: method.to_owned(),
        target: target.to_owned(),
        body: Vec::new(),
        trailers: Fields::new(),
        complete: framing == wire::Framing::None,
        headers,
        connection,
    };
    Ok((request, BodyReader::new(framing)))
}

/// One request in the hands of a script.
pub struct Exchange<'c> {
    shared: &'c Shared,
    wire: &'c mut Option<Wire>,
    index: usize,
    request: Recorded,
    body: BodyReader,
}

impl Exchange<'_> {
    pub fn request(&self) -> &Recorded {
        &self.request
    }

    /// The next piece of the body as it arrives; None at its end.
    pub fn read_piece(&mut self) -> Option<Vec<u8>> {
        let piece = self.body.piece(self.wire.as_mut()?);
        let index = self.index;
        let (fault, trailers) = (self.body.fault.clone(), self.body.trailers.clone());
        self.shared.update(|s| {
            if let Some(piece) = &piece {
                s.requests[index].body.extend_from_slice(piece);
            } else {
                s.requests[index].complete = fault.is_none();
                s.requests[index].trailers = trailers;
            }
        });
        piece
    }

    /// The body to its end.
    pub fn read_body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(piece) = self.read_piece() {
            body.extend(piece);
        }
        body
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.as_mut().is_some_and(|w| w.send(bytes.as_ref()))
    }

    /// The connection itself, for what is no longer HTTP.
    pub fn wire(&mut self) -> Option<&mut Wire> {
        self.wire.as_mut()
    }

    pub fn close(&mut self) {
        if let Some(wire) = self.wire.as_mut() {
            wire.close();
        }
    }

    pub fn reset(&mut self) {
        if let Some(wire) = self.wire.take() {
            wire.reset();
        }
    }

    /// Waits until the gateway closes this connection.
    pub fn wait_until_closed(&mut self) {
        if let Some(wire) = self.wire.as_mut() {
            wire.rest();
        }
    }
}

/// Answers 200 with what was asked.
pub fn echo(exchange: &mut Exchange<'_>) {
    let length = exchange.read_body().len();
    let request = exchange.request();
    let seen = json!({
        "method": request.method, "target": request.target, "headers": request.headers, "length": length,
    });
    let body = seen.to_string();
    let body_sent = if request.method == "HEAD" { "" } else { &body };
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body_sent}",
        body.len()
    );
    exchange.send(answer);
}

/// Takes the request and never answers.
pub fn hang(exchange: &mut Exchange<'_>) {
    exchange.wait_until_closed();
}

/// Takes the head and resets the connection.
pub fn reset(exchange: &mut Exchange<'_>) {
    exchange.reset();
}

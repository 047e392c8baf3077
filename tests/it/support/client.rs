//! A client that writes bytes as they are given and reads responses with their framing.

use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::wire::{self, BodyReader, Fields, Framing, Wire};

/// One client connection.
pub struct Client {
    pub wire: Wire,
}

impl Client {
    pub fn connect(to: SocketAddr) -> Self {
        Self { wire: Wire::new(TcpStream::connect(to).unwrap()) }
    }

    /// Writes; whether anybody takes it is for the answer to tell.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.wire.send(bytes.as_ref());
        self
    }

    /// The next final response to a request that was not HEAD.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// The next final response to this method.
    #[track_caller]
    pub fn response_to(&mut self, method: &str) -> Response {
        let Some(response) = self.try_response(method) else {
            panic!("the connection ended without a response")
        };
        response
    }

    /// The next final response; None when the connection ends before it.
    pub fn try_response(&mut self, method: &str) -> Option<Response> {
        let mut interim = Vec::new();
        loop {
            let mut response = self.head()?;
            if (100..200).contains(&response.status) && response.status != 101 {
                interim.push(response.status);
                continue;
            }
            response.interim = interim;
            let mut body = response.body_reader(method);
            response.body = body.whole(&mut self.wire);
            response.trailers = body.trailers;
            response.fault = body.fault;
            return Some(response);
        }
    }

    /// The next head, of an interim response too, and nothing of the body.
    pub fn head(&mut self) -> Option<Response> {
        let head = self.wire.until(b"\r\n\r\n").or_else(|| {
            assert!(self.wire.unused().is_empty(), "half a head: {}", wire::show(self.wire.unused()));
            None
        })?;
        Some(Self::parse(&head))
    }

    /// A head's bytes as a response without its body.
    pub fn parse(head: &[u8]) -> Response {
        let (line, fields) = wire::parse_head(head).unwrap_or_else(|e| panic!("{e} in {}", wire::show(head)));
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {line:?}"));
        Response {
            status,
            headers: fields,
            body: Vec::new(),
            trailers: Fields::new(),
            interim: Vec::new(),
            fault: None,
        }
    }

    /// Holds when the gateway closes and sends nothing more.
    pub fn ends(&mut self) {
        let rest = self.wire.rest();
        assert!(rest.is_empty(), "more came: {}", wire::show(&rest));
    }
}

/// A response as it was read.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Statuses of the interim responses before it.
    pub interim: Vec<u16>,
    /// Why the body is not whole.
    pub fault: Option<String>,
}

impl Response {
    /// A reader for the body that follows this head.
    pub fn body_reader(&self, method: &str) -> BodyReader {
        let bodiless = method == "HEAD" || matches!(self.status, 101 | 204 | 304);
        let framing = match wire::framing(&self.headers) {
            _ if bodiless => Framing::None,
            Ok(Framing::None) => Framing::ToTheEnd,
            Ok(framing) => framing,
            Err(e) => panic!("{e} in the answer {:?}", self.headers),
        };
        BodyReader::new(framing)
    }

    /// The one value of a header. Two are a failure: ask [`Response::all`] where two may be.
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} came {} times: {all:?}", all.len());
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        wire::all(&self.headers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {} {}", self.status, self.text()))
    }

    /// A text member of the JSON answer; fails when it isn't there.
    pub fn member(&self, name: &str) -> String {
        let json = self.json();
        json[name].as_str().unwrap_or_else(|| panic!("no text {name:?} in {} {json}", self.status)).to_owned()
    }

    /// The problem's code; empty for what is no problem.
    pub fn code(&self) -> String {
        let json: Option<Value> = serde_json::from_slice(&self.body).ok();
        json.and_then(|j| j["code"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Fails unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {:?}", self.text(), self.headers);
        assert_eq!(self.fault, None, "the body is not whole");
        self
    }

    /// Fails unless this is a problem of this status and code, complete after the contract.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{} {:?}", self.text(), self.headers);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let json = self.json();
        assert_eq!(json["status"], status);
        assert_eq!(json["message"], json["detail"]);
        for text in ["type", "title", "detail", "request_id"] {
            assert!(json[text].as_str().is_some_and(|t| !t.is_empty()), "no {text} in {json}");
        }
        self.has_the_headers_of_its_status(code);
    }

    #[track_caller]
    fn has_the_headers_of_its_status(&self, code: &str) {
        let challenge = self.header("www-authenticate").unwrap_or_default();
        match (self.status, code) {
            (401, "missing_token") => assert_eq!(challenge, r#"Bearer realm="gatepost""#),
            (401, "invalid_token" | "expired_token" | "revoked_token") => {
                assert!(challenge.starts_with("Bearer ") && challenge.contains(r#"error="invalid_token""#));
                assert!(challenge.contains("error_description="), "{challenge}");
            }
            (401, _) => assert!(!challenge.is_empty(), "every 401 carries a challenge"),
            (403, "forbidden") => assert!(challenge.contains(r#"error="insufficient_scope""#), "{challenge}"),
            (405, _) => assert!(self.header("allow").is_some(), "405 names the methods that are allowed"),
            (429 | 503, _) => {
                let wait = self.header("retry-after").and_then(|v| v.parse::<u64>().ok());
                assert!(wait.is_some_and(|secs| secs > 0), "Retry-After in seconds: {:?}", self.headers);
            }
            _ => {}
        }
    }
}

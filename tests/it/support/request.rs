//! A well-formed request, for tests that are not about its bytes.

use std::fmt::Write;

use serde_json::Value;

/// What a client asks.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    host: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            host: "app.test".to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    pub fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn bearer(self, token: impl AsRef<str>) -> Self {
        self.header("Authorization", format!("Bearer {}", token.as_ref()))
    }

    pub fn body(mut self, media_type: &str, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self.header("Content-Type", media_type)
    }

    #[expect(clippy::needless_pass_by_value, reason = "`json!` in an argument reads best")]
    pub fn json(self, body: Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub fn form(self, members: &[(&str, &str)]) -> Self {
        let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(members).finish();
        self.body("application/x-www-form-urlencoded", text)
    }

    pub fn multipart(self, members: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (name, value) in members {
            let _ = write!(
                text,
                "--frontier\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
        }
        self.body("multipart/form-data; boundary=frontier", text + "--frontier--\r\n")
    }

    /// The request's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.target, self.host);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if let Some(body) = &self.body {
            let _ = write!(head, "Content-Length: {}\r\n", body.len());
        }
        let mut bytes = (head + "\r\n").into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

pub fn get(target: &str) -> Request {
    Request::new("GET", target)
}

pub fn post(target: &str) -> Request {
    Request::new("POST", target)
}

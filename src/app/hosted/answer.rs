//! Whether an app answers yet: asked over a new connection, before there is a fleet to ask it.
//!
//! That it can be connected to says nothing: servers listen before they have loaded the app.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::place::Place;
use crate::settings::{Endpoint, HealthSettings, UpstreamScheme};

/// What HTTP/2 begins with (RFC 9113 section 3.4), and empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// "HTTP/1.1 200"; a frame's head is shorter.
const BEGINNING: usize = 12;

/// What an app is asked.
pub(super) struct Question {
    endpoint: Endpoint,
    text: Vec<u8>,
    /// The answer has to be a good one, within this.
    strict: Option<Duration>,
}

impl Question {
    /// Where its health is checked: as the check does. Else any answer is one.
    pub(super) fn new(place: &Place, scheme: UpstreamScheme, health: Option<&HealthSettings>) -> Self {
        let endpoint = place.endpoint();
        if scheme == UpstreamScheme::H2c {
            // Its health is then the fleet's business.
            return Self { endpoint, text: PREFACE.to_vec(), strict: None };
        }
        let host = match &endpoint {
            Endpoint::Tcp(authority) => authority.as_str(),
            Endpoint::Unix(_) => "localhost",
        };
        let path = health.map_or("/", |health| &health.path);
        let text = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: gatepost-health\r\nConnection: close\r\n\r\n"
        );
        Self { endpoint, text: text.into_bytes(), strict: health.map(|health| health.timeout) }
    }

    /// Asks once.
    ///
    /// # Errors
    /// Why that was no answer.
    pub(super) async fn ask(&self, until: Instant) -> Result<(), String> {
        let until = self.strict.map_or(until, |within| until.min(Instant::now() + within));
        let answer = async {
            match &self.endpoint {
                Endpoint::Tcp(address) => exchange(TcpStream::connect(address).await?, &self.text).await,
                Endpoint::Unix(path) => exchange(UnixStream::connect(path).await?, &self.text).await,
            }
        };
        match timeout_at(until, answer).await {
            Err(_) => Err("it takes its time".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(answer)) => self.judge(&answer),
        }
    }

    fn judge(&self, answer: &[u8]) -> Result<(), String> {
        if self.text == PREFACE {
            let is_settings = answer.get(3) == Some(&4);
            return if is_settings { Ok(()) } else { Err("it does not speak HTTP/2".to_owned()) };
        }
        let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
        let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u16>().ok());
        match status {
            None => Err("it does not speak HTTP".to_owned()),
            Some(status) if self.strict.is_some() && !(200..400).contains(&status) => {
                Err(format!("it answers {status}"))
            }
            Some(_) => Ok(()),
        }
    }
}

/// The beginning of the answer.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    question: &[u8],
) -> std::io::Result<Vec<u8>> {
    stream.write_all(question).await?;
    let mut answer = Vec::with_capacity(BEGINNING);
    let mut left = stream.take(BEGINNING as u64);
    while answer.len() < BEGINNING && left.read_buf(&mut answer).await? > 0 {}
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(scheme: UpstreamScheme, health: Option<&HealthSettings>) -> Question {
        Question::new(&Place::Port(4711), scheme, health)
    }

    #[test]
    fn any_answer_will_do_unless_health_is_checked() {
        let health = HealthSettings {
            path: "/healthz?deep=1".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy: 1,
            unhealthy: 1,
        };
        let (any, strict) =
            (question(UpstreamScheme::Http, None), question(UpstreamScheme::Http, Some(&health)));
        assert!(any.text.starts_with(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:4711\r\n"));
        assert!(strict.text.starts_with(b"GET /healthz?deep=1 HTTP/1.1\r\n"));
        for (answer, is_any, is_good) in [
            (&b"HTTP/1.1 200"[..], true, true),
            (b"HTTP/1.0 302", true, true),
            (b"HTTP/1.1 404", true, false),
            (b"HTTP/1.1 503", true, false),
            (b"HTTP/1.1 20", false, false),
            (b"SSH-2.0-Open", false, false),
            (b"", false, false),
        ] {
            let shown = String::from_utf8_lossy(answer);
            assert_eq!(any.judge(answer).is_ok(), is_any, "{shown}");
            assert_eq!(strict.judge(answer).is_ok(), is_good, "{shown}");
        }
    }

    #[test]
    fn http2_answers_with_settings() {
        let question = question(UpstreamScheme::H2c, None);
        assert!(question.judge(b"\0\0\x12\x04\0\0\0\0\0\0\0\0").is_ok());
        assert!(question.judge(b"HTTP/1.1 400").is_err());
        assert!(question.judge(b"").is_err());
    }
}

//! The decision line: one for each request, with what was decided and why.
//!
//! It is on the path of every request, so a worker renders by hand into a buffer of its own and hands
//! whole batches to the log thread. A path is logged without its query: queries carry tokens. What a
//! line says is decided in the gateway; this file only writes it.

use std::net::IpAddr;
use std::time::Duration;

use super::escape;
use super::log::{LogHandle, Sink, Style};
use crate::clock::Timestamp;

/// A batch of this size is handed over, in bytes.
const BATCH: usize = 16 * 1024;
/// As `tracing` events have it, to filter by.
const TARGET: &str = "gatepost::decision";

/// What was decided about one request.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// When the line is written: with the response's head.
    pub time: Timestamp,
    /// Also in the answer and at the upstream, as `X-Request-Id`.
    pub request_id: &'a str,
    /// The client, as the trusted proxies tell it.
    pub client: IpAddr,
    /// The request's method.
    pub method: &'a str,
    /// The canonical host, or what was sent instead.
    pub host: &'a str,
    /// The canonical path, or what was sent instead; without the query.
    pub path: &'a str,
    /// The pattern that decided.
    pub route: Option<&'a str>,
    /// The response's status.
    pub status: u16,
    /// What became of the request.
    pub decision: Outcome,
    /// The stable code of a refusal, or why it passed.
    pub reason: &'a str,
    /// Who asked: the username.
    pub user: Option<&'a str>,
    /// Where it went: the upstream's name.
    pub upstream: Option<&'a str>,
    /// From the request's head to the response's.
    pub duration: Duration,
    /// Of that, what the upstream took.
    pub upstream_duration: Option<Duration>,
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It went to the upstream.
    Allow,
    /// It was refused.
    Deny,
    /// It would have been refused, but its route only reports that: it went to the upstream.
    WouldDeny,
    /// An endpoint of our own answered.
    Answer,
    /// It was to pass, and we or the upstream failed.
    Error,
}

impl Outcome {
    /// The word in the line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::WouldDeny => "would_deny",
            Self::Answer => "answer",
            Self::Error => "error",
        }
    }
    const fn level(self) -> &'static str {
        match self {
            Self::Allow | Self::Deny | Self::WouldDeny | Self::Answer => "info",
            Self::Error => "warn",
        }
    }
}

/// A worker's decision lines. Not shared: each worker has its own, and calls [`flush`](Self::flush) at
/// least every 100 ms so that quiet hours are not silent. What is left is handed over on drop.
pub struct DecisionLog {
    sink: Sink,
    batch: Vec<u8>,
    lines: u64,
    /// The text of the last line's time: many lines share a millisecond.
    time: (Timestamp, String),
}

impl DecisionLog {
    /// A log for one worker.
    #[must_use]
    pub fn new(log: &LogHandle) -> Self {
        let epoch = Timestamp::default();
        Self { sink: log.sink(), batch: Vec::new(), lines: 0, time: (epoch, epoch.rfc3339_millis()) }
    }

    /// Adds a line; hands the batch over when it is full.
    pub fn record(&mut self, decision: &Decision<'_>) {
        if self.time.0 != decision.time {
            self.time = (decision.time, decision.time.rfc3339_millis());
        }
        match self.sink.style {
            Style::Json => json_line(&mut self.batch, &self.time.1, decision),
            Style::Text => text_line(&mut self.batch, &self.time.1, decision),
        }
        self.lines += 1;
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Hands over what there is.
    pub fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        // The next batch will be about as long as this one.
        let next = Vec::with_capacity(self.batch.len().next_power_of_two().min(2 * BATCH));
        self.sink.send(std::mem::replace(&mut self.batch, next), self.lines);
        self.lines = 0;
    }
}

impl Drop for DecisionLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl std::fmt::Debug for DecisionLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DecisionLog").field("lines", &self.lines).finish_non_exhaustive()
    }
}

fn json_line(out: &mut Vec<u8>, time: &str, line: &Decision<'_>) {
    let string = |out: &mut Vec<u8>, name: &str, value: &str| {
        out.extend_from_slice(name.as_bytes());
        escape::json(out, value);
    };
    let optional = |out: &mut Vec<u8>, name: &str, value: Option<&str>| {
        out.extend_from_slice(name.as_bytes());
        match value {
            Some(text) => escape::json(out, text),
            None => out.extend_from_slice(b"null"),
        }
    };
    string(out, "{\"time\":", time);
    string(out, ",\"level\":", line.decision.level());
    string(out, ",\"target\":", TARGET);
    string(out, ",\"request_id\":", line.request_id);
    out.extend_from_slice(b",\"client\":\"");
    escape::address(out, line.client);
    string(out, "\",\"method\":", line.method);
    string(out, ",\"host\":", line.host);
    string(out, ",\"path\":", line.path);
    optional(out, ",\"route\":", line.route);
    out.extend_from_slice(b",\"status\":");
    escape::number(out, line.status.into());
    string(out, ",\"decision\":", line.decision.as_str());
    string(out, ",\"reason\":", line.reason);
    optional(out, ",\"user\":", line.user);
    optional(out, ",\"upstream\":", line.upstream);
    out.extend_from_slice(b",\"duration_ms\":");
    escape::millis(out, line.duration);
    out.extend_from_slice(b",\"upstream_ms\":");
    match line.upstream_duration {
        Some(span) => escape::millis(out, span),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b"}\n");
}

/// As JSON has it, but a value that is absent is left out.
fn text_line(out: &mut Vec<u8>, time: &str, line: &Decision<'_>) {
    let word = |out: &mut Vec<u8>, name: &str, value: Option<&str>| {
        let Some(value) = value else { return };
        out.extend_from_slice(name.as_bytes());
        escape::word(out, value);
    };
    for part in [time, " ", line.decision.level(), " ", TARGET] {
        out.extend_from_slice(part.as_bytes());
    }
    word(out, " request_id=", Some(line.request_id));
    out.extend_from_slice(b" client=");
    escape::address(out, line.client);
    word(out, " method=", Some(line.method));
    word(out, " host=", Some(line.host));
    word(out, " path=", Some(line.path));
    word(out, " route=", line.route);
    out.extend_from_slice(b" status=");
    escape::number(out, line.status.into());
    word(out, " decision=", Some(line.decision.as_str()));
    word(out, " reason=", Some(line.reason));
    word(out, " user=", line.user);
    word(out, " upstream=", line.upstream);
    out.extend_from_slice(b" duration_ms=");
    escape::millis(out, line.duration);
    if let Some(span) = line.upstream_duration {
        out.extend_from_slice(b" upstream_ms=");
        escape::millis(out, span);
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::super::log::tests::captured;
    use super::*;

    fn decision<'a>() -> Decision<'a> {
        Decision {
            time: Timestamp::from_millis(1_767_323_045_678),
            request_id: "0198-1",
            client: IpAddr::from([192, 0, 2, 7]),
            method: "GET",
            host: "app.example.com",
            path: "/admin/x",
            route: Some("/admin/**"),
            status: 403,
            decision: Outcome::Deny,
            reason: "forbidden",
            user: Some("alice"),
            upstream: None,
            duration: Duration::from_micros(1500),
            upstream_duration: None,
        }
    }

    #[test]
    fn a_json_line_has_every_field_of_the_contract() {
        let (handle, output) = captured(Style::Json);
        let mut log = DecisionLog::new(&handle);
        log.record(&decision());
        log.record(&Decision {
            path: "/a\"\r\n\u{1b}[0m\u{2028}",
            decision: Outcome::Error,
            upstream: Some("app"),
            upstream_duration: Some(Duration::from_millis(2)),
            ..decision()
        });
        drop(log);
        handle.close();
        let text = output.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[0],
            concat!(
                r#"{"time":"2026-01-02T03:04:05.678Z","level":"info","target":"gatepost::decision","#,
                r#""request_id":"0198-1","client":"192.0.2.7","method":"GET","host":"app.example.com","#,
                r#""path":"/admin/x","route":"/admin/**","status":403,"decision":"deny","#,
                r#""reason":"forbidden","user":"alice","upstream":null,"duration_ms":1.500,"upstream_ms":null}"#
            )
        );
        let second: serde_json::Value = serde_json::from_str(lines[1]).expect("JSON");
        assert_eq!(second["path"], "/a\"\r\n\u{1b}[0m\u{2028}");
        assert_eq!(second["upstream_ms"], 2.0);
        assert_eq!(second["level"], "warn");
    }

    #[test]
    fn a_text_line_leaves_out_what_is_absent() {
        let (handle, output) = captured(Style::Text);
        let mut log = DecisionLog::new(&handle);
        log.record(&Decision { host: "a b\n", ..decision() });
        log.flush();
        handle.close();
        assert_eq!(
            output.text(),
            "2026-01-02T03:04:05.678Z info gatepost::decision request_id=0198-1 client=192.0.2.7 method=GET \
             host=\"a b\\n\" path=/admin/x route=/admin/** status=403 decision=deny reason=forbidden \
             user=alice duration_ms=1.500\n"
        );
    }

    #[test]
    fn a_full_batch_is_handed_over_without_a_flush() {
        let (handle, output) = captured(Style::Json);
        let mut log = DecisionLog::new(&handle);
        for _ in 0..BATCH / 100 {
            log.record(&decision());
        }
        handle.flush();
        assert!(output.text().len() >= BATCH);
        drop(log);
        handle.close();
        assert_eq!(output.text().lines().count(), BATCH / 100);
    }
}

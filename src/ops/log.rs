//! The log: `tracing` events and decision lines, through one bounded channel to one writing thread.
//!
//! Nobody who logs ever waits for standard output. When the channel is full (a pipe that nobody reads)
//! lines are dropped, and `gatepost_log_lines_dropped_total` says how many. The writing thread takes all
//! that waits and writes it with one system call. Both formats are rendered here and in
//! [`decision`](super::decision), so that what comes from outside is escaped in one way.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::escape;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::metrics::Metrics;
use crate::settings::{LogFormat, LogSettings};

/// How many chunks (a line, or a worker's batch of decision lines) may wait for the writer.
const CHUNKS: usize = 1024;
/// The writer gathers about this much for one write, in bytes.
const GATHER: usize = 64 * 1024;
/// How long `flush` and `close` wait for a standard output that does not take anything.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `[log] level` is no level and no list of directives.
    #[error("[log] level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// The log is gone.
    #[error("the log's level cannot be changed: {0}")]
    Reload(#[from] reload::Error),
    /// The process has a subscriber already.
    #[error("logging is set up already")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
    /// The writing thread did not start.
    #[error("the log thread does not start: {0}")]
    Thread(#[from] io::Error),
}

/// Starts logging to standard output for the whole process.
pub fn init(settings: &LogSettings, metrics: Arc<Metrics>) -> Result<LogHandle, LogError> {
    let filter = EnvFilter::try_new(&settings.level)?;
    let style = match settings.format {
        LogFormat::Text => Style::Text,
        LogFormat::Auto if io::stdout().is_terminal() => Style::Text,
        LogFormat::Json | LogFormat::Auto => Style::Json,
    };
    let handle = LogHandle::start(style, metrics, Stdout)?;
    let (filter, level) = reload::Layer::new(filter);
    tracing::subscriber::set_global_default(handle.subscriber(filter))?;
    Ok(LogHandle { level: Some(level), ..handle })
}

/// [`LogFormat`], decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Style {
    Text,
    Json,
}

/// Standard output, locked for one write at a time so that the rest of the process can print.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().lock().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().flush()
    }
}

/// Whole lines, each with its line end.
struct Chunk {
    bytes: Vec<u8>,
    lines: u64,
}

enum Message {
    Lines(Chunk),
    /// Everything before this is to be written, then answered.
    Flush(SyncSender<()>),
    /// As `Flush`, and the thread ends.
    Close(SyncSender<()>),
}

/// The way to the log. Cheap to clone; every clone reaches the same thread.
#[derive(Clone)]
pub struct LogHandle {
    sink: Sink,
    /// The global subscriber's filter.
    level: Option<reload::Handle<EnvFilter, Registry>>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl LogHandle {
    pub(super) fn start(
        style: Style,
        metrics: Arc<Metrics>,
        output: impl Write + Send + 'static,
    ) -> Result<Self, LogError> {
        let (sender, receiver) = mpsc::sync_channel(CHUNKS);
        let counts = Arc::clone(&metrics);
        let writer = thread::Builder::new()
            .name("gatepost-log".to_owned())
            .spawn(move || write_all(&receiver, output, &counts, style))?;
        let sink = Sink { style, sender, metrics };
        Ok(Self { sink, level: None, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    pub(super) fn subscriber(
        &self,
        filter: impl Layer<Registry> + Send + Sync,
    ) -> impl Subscriber + Send + Sync + 'static {
        Registry::default().with(filter).with(Events { sink: self.sink.clone() })
    }

    /// Logs by another `[log] level` from here on.
    ///
    /// # Errors
    /// When it is no level; nothing changes then.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = EnvFilter::try_new(level)?;
        // Only the process's own log has a filter; and that one lives as long as the process.
        self.level.as_ref().map_or(Ok(()), |handle| Ok(handle.reload(filter)?))
    }

    pub(super) fn sink(&self) -> Sink {
        self.sink.clone()
    }

    /// Waits until everything logged so far is written, two seconds at most.
    pub fn flush(&self) {
        self.ask(Message::Flush);
    }

    /// Writes what waits and ends the thread; what is logged later is dropped. Waits two seconds at most.
    pub fn close(&self) {
        if !self.ask(Message::Close) {
            return;
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // It has answered and returns; a panic in it has been printed already.
            drop(writer.join());
        }
    }

    fn ask(&self, message: impl FnOnce(SyncSender<()>) -> Message) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let (done, answer) = mpsc::sync_channel(1);
        let mut message = message(done);
        loop {
            match self.sink.sender.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => message = back,
                Err(_) => return false,
            }
            thread::park_timeout(Duration::from_millis(2));
        }
        answer.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").field("style", &self.sink.style).finish_non_exhaustive()
    }
}

/// Where lines go.
#[derive(Clone)]
pub(super) struct Sink {
    pub(super) style: Style,
    sender: SyncSender<Message>,
    metrics: Arc<Metrics>,
}

impl Sink {
    /// Hands lines over, or counts them as dropped.
    pub(super) fn send(&self, bytes: Vec<u8>, lines: u64) {
        if self.sender.try_send(Message::Lines(Chunk { bytes, lines })).is_err() {
            self.metrics.log_lines_dropped.add(lines);
        }
    }
}

fn write_all(messages: &Receiver<Message>, mut output: impl Write, metrics: &Metrics, style: Style) {
    let mut gathered = Vec::with_capacity(GATHER);
    let mut dropped = 0;
    let mut lines = 0;
    while let Ok(first) = messages.recv() {
        let mut next = Some(first);
        let mut answer = None;
        let mut close = false;
        while let Some(message) = next {
            match message {
                Message::Lines(chunk) => {
                    gathered.extend_from_slice(&chunk.bytes);
                    lines += chunk.lines;
                }
                Message::Flush(done) => answer = Some(done),
                Message::Close(done) => {
                    answer = Some(done);
                    close = true;
                }
            }
            next = if answer.is_none() && gathered.len() < GATHER { messages.try_recv().ok() } else { None };
        }
        // A gap in the log has to be seen in the log.
        if metrics.log_lines_dropped.value() > dropped {
            dropped = metrics.log_lines_dropped.value();
            gap_line(&mut gathered, style, dropped);
        }
        // A reader that went away is no reason to stop serving; the lines are counted.
        if output.write_all(&gathered).and_then(|()| output.flush()).is_err() {
            metrics.log_lines_dropped.add(lines);
        }
        gathered.clear();
        lines = 0;
        if let Some(done) = answer {
            // Nobody waits any more when this fails.
            let _ = done.try_send(());
        }
        if close {
            return;
        }
    }
}

fn gap_line(out: &mut Vec<u8>, style: Style, dropped: u64) {
    let (time, target) = (SystemClock.now().rfc3339_millis(), module_path!());
    let line = match style {
        Style::Json => format!(
            "{{\"time\":\"{time}\",\"level\":\"warn\",\"target\":\"{target}\",\
             \"message\":\"log lines were dropped\",\"dropped\":{dropped}}}\n"
        ),
        Style::Text => format!("{time} warn {target} log lines were dropped dropped={dropped}\n"),
    };
    out.extend_from_slice(line.as_bytes());
}

/// Renders `tracing` events.
struct Events {
    sink: Sink,
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let now = SystemClock.now();
        let line = match self.sink.style {
            Style::Json => json_line(event, now),
            Style::Text => text_line(event, now),
        };
        self.sink.send(line, 1);
    }
}

fn level(event: &Event<'_>) -> &'static str {
    match *event.metadata().level() {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    }
}

fn json_line(event: &Event<'_>, now: Timestamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(now.rfc3339_millis().as_bytes());
    out.extend_from_slice(b"\",\"level\":\"");
    out.extend_from_slice(level(event).as_bytes());
    out.extend_from_slice(b"\",\"target\":");
    escape::json(&mut out, event.metadata().target());
    event.record(&mut JsonFields(&mut out));
    out.extend_from_slice(b"}\n");
    out
}

fn text_line(event: &Event<'_>, now: Timestamp) -> Vec<u8> {
    let mut fields = TextFields::default();
    event.record(&mut fields);
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(now.rfc3339_millis().as_bytes());
    out.push(b' ');
    out.extend_from_slice(level(event).as_bytes());
    out.push(b' ');
    escape::word(&mut out, event.metadata().target());
    if !fields.message.is_empty() {
        out.push(b' ');
        out.extend_from_slice(&fields.message);
    }
    out.extend_from_slice(&fields.others);
    out.push(b'\n');
    out
}

struct JsonFields<'a>(&'a mut Vec<u8>);

impl JsonFields<'_> {
    fn name(&mut self, field: &Field) {
        self.0.push(b',');
        escape::json(self.0, field.name());
        self.0.push(b':');
    }
    fn raw(&mut self, field: &Field, value: &dyn fmt::Display) {
        self.name(field);
        self.0.extend_from_slice(value.to_string().as_bytes());
    }
}

impl Visit for JsonFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        escape::json(self.0, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &with_sources(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.raw(field, &value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.raw(field, &value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.raw(field, &value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity.
        if value.is_finite() { self.raw(field, &value) } else { self.raw(field, &"null") }
    }
}

#[derive(Default)]
struct TextFields {
    message: Vec<u8>,
    others: Vec<u8>,
}

impl Visit for TextFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            escape::sentence(&mut self.message, value);
            return;
        }
        self.others.push(b' ');
        self.others.extend_from_slice(field.name().as_bytes());
        self.others.push(b'=');
        escape::word(&mut self.others, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &with_sources(value));
    }
}

/// An error and what caused it, outermost first.
fn with_sources(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An output that tests can read.
    #[derive(Clone, Default)]
    pub(in crate::ops) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(in crate::ops) fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8")
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output that takes nothing until it is let go.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let gone = self.0.recv().is_err();
            if gone { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(in crate::ops) fn captured(style: Style) -> (LogHandle, Captured) {
        let output = Captured::default();
        let handle = LogHandle::start(style, Arc::default(), output.clone()).expect("a thread");
        (handle, output)
    }

    fn logged(style: Style, filter: &str, log: impl FnOnce()) -> String {
        let (handle, output) = captured(style);
        let filter = EnvFilter::try_new(filter).expect("a filter");
        tracing::subscriber::with_default(handle.subscriber(filter), log);
        handle.close();
        output.text()
    }

    #[test]
    fn an_event_is_one_json_object_a_line() {
        let text = logged(Style::Json, "info", || {
            tracing::info!(target: "gatepost::test", port = 80_u64, ok = true, "listening on {}", "a\nb");
            tracing::warn!(ratio = f64::NAN, who = %"x\u{1b}[31m", "second");
            tracing::debug!("not shown");
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["message"], "listening on a\nb");
        assert_eq!(lines[0]["level"], "info");
        assert_eq!(lines[0]["target"], "gatepost::test");
        assert_eq!(lines[0]["port"], 80);
        assert_eq!(lines[0]["ok"], true);
        assert!(lines[0]["time"].as_str().is_some_and(|t| t.ends_with('Z') && t.len() == 24));
        assert_eq!(lines[1]["who"], "x\u{1b}[31m");
        assert!(lines[1]["ratio"].is_null());
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn text_cannot_forge_a_line_or_reach_the_terminal() {
        let text = logged(Style::Text, "info", || {
            tracing::error!(target: "t", user = "x y\n2026 error forged", "bad \u{1b}[2J\nthing");
        });
        let (time, rest) = text.split_once(' ').expect("a time");
        assert_eq!(time.len(), 24);
        assert_eq!(rest, "error t bad \\u001b[2J\\nthing user=\"x y\\n2026 error forged\"\n");
    }

    #[test]
    fn errors_are_shown_with_their_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("inner"));
        let text = logged(Style::Text, "info", || {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::info!(target: "t", error, "failed");
        });
        assert!(text.ends_with("failed error=\"outer: inner\"\n"), "{text}");
    }

    #[test]
    fn lines_that_find_the_channel_full_are_dropped_and_counted() {
        let metrics = Arc::new(Metrics::default());
        let (release, stuck) = mpsc::channel();
        let handle = LogHandle::start(Style::Text, Arc::clone(&metrics), Stuck(stuck)).expect("a thread");
        let sink = handle.sink();
        // The writer gathers some before it is stuck, so more than the channel holds is needed to fill it, in
        // pieces of which it cannot gather many.
        let sent = 3 * CHUNKS as u64;
        for _ in 0..sent {
            sink.send(vec![b'x'; GATHER / 16], 1);
        }
        let dropped = metrics.log_lines_dropped.value();
        assert!(dropped > 0 && dropped <= sent - CHUNKS as u64, "{dropped}");
        drop(release);
        handle.close();
        assert_eq!(metrics.log_lines_dropped.value(), sent, "what could not be written is counted too");
    }

    #[test]
    fn a_gap_in_the_log_is_told_in_the_log() {
        for style in [Style::Json, Style::Text] {
            let metrics = Arc::new(Metrics::default());
            let output = Captured::default();
            let handle = LogHandle::start(style, Arc::clone(&metrics), output.clone()).expect("one");
            metrics.log_lines_dropped.add(3);
            handle.sink().send(b"{}\n".to_vec(), 1);
            handle.flush();
            handle.sink().send(b"{}\n".to_vec(), 1);
            handle.close();
            let text = output.text();
            assert_eq!(text.lines().count(), 3, "{text}");
            match style {
                Style::Text => assert!(text.contains("log lines were dropped dropped=3\n"), "{text}"),
                Style::Json => {
                    let line = text.lines().nth(1).expect("the second");
                    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                    assert_eq!(line["dropped"], 3);
                }
            }
        }
    }

    #[test]
    fn what_is_logged_after_the_close_is_counted_as_dropped() {
        let metrics = Arc::new(Metrics::default());
        let output = Captured::default();
        let handle = LogHandle::start(Style::Text, Arc::clone(&metrics), output.clone()).expect("one");
        handle.sink().send(b"before\n".to_vec(), 1);
        handle.close();
        handle.close();
        handle.sink().send(b"after\n".to_vec(), 1);
        assert_eq!(output.text(), "before\n");
        assert_eq!(metrics.log_lines_dropped.value(), 1);
    }
}

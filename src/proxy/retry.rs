//! What may be tried again, and where.
//!
//! While a server has seen nothing of a request, the request may go to another one: a connection that
//! cannot be made, or that closes before anything was written, costs the client nothing but time. When
//! a server closes the connection after that, it may have acted: only what is idempotent and without a
//! body is sent again, once (RFC 9110 section 9.2.2). All of it together gets the request's `timeout`.

use std::rc::Rc;
use std::time::Duration;

use http::Response;

use super::balance::{Busy, Upstream};
use super::body::ResponseBody;
use super::exchange::{Exchange, Failure};
use super::headers::HeaderRules;
use super::{ConnectError, ProxyError, UpstreamRequest};
use crate::deadline::{Deadline, Deadlines};

/// The attempts to have one request answered.
pub(super) struct Attempts<'a> {
    upstream: &'a Rc<Upstream>,
    rules: &'a Rc<HeaderRules>,
    clock: &'a Deadlines,
    deadline: &'a Deadline,
    timeout: Duration,
    /// On the worker's clock.
    started: u64,
    /// Boxed: few requests have any, and each has room for them.
    missed: Option<Box<Misses>>,
    sent_again: bool,
}

/// The servers that did not answer.
struct Misses {
    tried: Vec<usize>,
    /// One of them whose kept connection had closed: it may be well, and is tried when no other is left.
    perhaps: Option<usize>,
    /// Why there is no answer from the last of them.
    last: ProxyError,
}

/// Why there is no answer from one server.
enum Missed {
    /// Another one may be asked, and perhaps this one once more.
    Elsewhere { error: ProxyError, perhaps: bool },
    /// That is it.
    Over(ProxyError),
}

impl<'a> Attempts<'a> {
    /// None made yet; the time runs from here.
    pub(super) fn new(
        upstream: &'a Rc<Upstream>,
        rules: &'a Rc<HeaderRules>,
        clock: &'a Deadlines,
        deadline: &'a Deadline,
        timeout: Duration,
    ) -> Self {
        Self {
            upstream,
            rules,
            clock,
            deadline,
            timeout,
            started: clock.millis(),
            missed: None,
            sent_again: false,
        }
    }

    /// Asks one server after the other, each at most once, until one answers or none is left.
    pub(super) async fn run(
        &mut self,
        request: &mut UpstreamRequest<'_>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        while let Some(server) = self.next() {
            let busy = Busy::at(self.upstream, server);
            match self.ask(server, request).await {
                Ok(mut response) => {
                    response.body_mut().keep_busy(busy);
                    return Ok(response);
                }
                Err(Missed::Elsewhere { error, perhaps }) => self.note(server, error, perhaps),
                Err(Missed::Over(error)) => return Err(error),
            }
        }
        Err(self.missed.take().map_or(ProxyError::Timeout, |missed| missed.last))
    }

    fn next(&mut self) -> Option<usize> {
        let tried = self.missed.as_ref().map_or(&[][..], |missed| &missed.tried);
        self.upstream.choose(tried).or_else(|| self.missed.as_mut()?.perhaps.take())
    }

    fn note(&mut self, server: usize, error: ProxyError, perhaps: bool) {
        let perhaps = perhaps.then_some(server);
        match &mut self.missed {
            None => self.missed = Some(Box::new(Misses { tried: vec![server], perhaps, last: error })),
            Some(missed) => {
                missed.tried.push(server);
                missed.perhaps = perhaps.or(missed.perhaps);
                missed.last = error;
            }
        }
    }

    async fn ask(
        &mut self,
        server: usize,
        request: &mut UpstreamRequest<'_>,
    ) -> Result<Response<ResponseBody>, Missed> {
        let connections = self.upstream.server(server);
        if !self.upstream.preserve_host {
            request.set_host(&connections.host);
        }
        loop {
            // What is sent again takes no chances with another connection that was kept.
            let kept =
                if self.sent_again { None } else { connections.take(request.wanted(), self.clock.millis()) };
            let is_new = kept.is_none();
            let link = match kept {
                Some(link) => link,
                // Boxed: most requests find a connection, and all of them carry the room for this.
                None => Box::pin(
                    connections.connect(request.wanted(), self.left()?.min(self.upstream.connect_timeout)),
                )
                .await
                .map_err(|error| self.unreachable(server, error))?,
            };
            let failure = match self.exchange()?.run(link, connections, request).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            match failure {
                Failure::NotSent if !is_new => {}
                Failure::NotSent => return Err(self.elsewhere(server, failure, request)),
                Failure::Closed(_) if !self.sent_again && request.is_repeatable() => {
                    self.sent_again = true;
                    if is_new {
                        return Err(self.elsewhere(server, failure, request));
                    }
                    // Most likely it had closed for having been idle: nothing that speaks against it.
                    if !self.upstream.is_lone() {
                        return Err(Missed::Elsewhere { error: failure.into_error(request), perhaps: true });
                    }
                }
                failure => return Err(self.over(server, failure, request)),
            }
        }
    }

    /// An attempt with the time that is left.
    fn exchange(&self) -> Result<Exchange<'a>, Missed> {
        Ok(Exchange { rules: self.rules, deadline: self.deadline, timeout: self.left()? })
    }

    fn left(&self) -> Result<Duration, Missed> {
        let spent = Duration::from_millis(self.clock.millis().saturating_sub(self.started));
        match self.timeout.saturating_sub(spent) {
            Duration::ZERO => Err(Missed::Over(ProxyError::Timeout)),
            left => Ok(left),
        }
    }

    fn unreachable(&self, server: usize, error: ConnectError) -> Missed {
        let (upstream, name) = (&*self.upstream.name, self.upstream.text(server));
        tracing::debug!(upstream, server = name, %error, "the server cannot be reached");
        let error = ProxyError::from(error);
        if error.is_the_servers() {
            self.upstream.failed(server, &error);
        }
        Missed::Elsewhere { error, perhaps: false }
    }

    fn elsewhere(&self, server: usize, failure: Failure, request: &UpstreamRequest<'_>) -> Missed {
        match self.over(server, failure, request) {
            Missed::Over(error) if error.is_the_servers() => Missed::Elsewhere { error, perhaps: false },
            missed => missed,
        }
    }

    fn over(&self, server: usize, failure: Failure, request: &UpstreamRequest<'_>) -> Missed {
        let error = failure.into_error(request);
        if error.is_the_servers() {
            self.upstream.failed(server, &error);
        }
        Missed::Over(error)
    }
}

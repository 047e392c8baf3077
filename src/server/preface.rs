//! HTTP/2 on clear text by prior knowledge (RFC 9113 section 3.3): who opens with its preface speaks it.
//!
//! No HTTP/1 request begins like that, and that shows with the first byte that differs, so nobody waits
//! for bytes that need not come. What was read is kept for whichever driver it is for.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::AsyncReadExt as _;

use super::accept::Opened;
use super::frames::PREFACE;
use super::worker::Worker;
use super::{http1, http2};
use crate::metrics::ConnectionEnd;

/// Serves a connection that may speak either.
pub(super) async fn serve(worker: Rc<Worker>, mut opened: Opened) {
    match look(&worker, &mut opened).await {
        Some(true) => Box::pin(http2::serve(worker, opened)).await,
        Some(false) => Box::pin(http1::serve(worker, opened)).await,
        None => {}
    }
}

/// Whether it is HTTP/2; `None`: it ended, or took too long.
async fn look(worker: &Worker, opened: &mut Opened) -> Option<bool> {
    let deadline = worker.deadlines().slot();
    deadline.set(worker.limits().header_timeout);
    loop {
        let begun = opened.read.len().min(PREFACE.len());
        if opened.read[..begun] != PREFACE[..begun] {
            return Some(false);
        }
        if begun == PREFACE.len() {
            return Some(true);
        }
        let read = {
            let mut reading = std::pin::pin!(opened.stream.read_buf(&mut opened.read));
            poll_fn(|cx| {
                if let Poll::Ready(read) = reading.as_mut().poll(cx) {
                    return Poll::Ready(Some(read));
                }
                let over = worker.is_draining() || deadline.poll_passed(cx).is_ready();
                if over { Poll::Ready(None) } else { Poll::Pending }
            })
            .await
        };
        match read {
            Some(Ok(0)) if begun > 0 => return Some(false),
            Some(Ok(1..)) => {}
            Some(Ok(0) | Err(_)) => return None,
            None => {
                if !worker.is_draining() {
                    worker.count_end(ConnectionEnd::HeaderTimeout);
                }
                return None;
            }
        }
    }
}

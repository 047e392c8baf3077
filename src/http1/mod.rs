//! HTTP/1.1 as bytes (RFC 9112): heads and bodies, read strictly and written plainly. No sockets.
//!
//! Some readers repair what they get: they take a bare LF for a line end, drop a `Content-Length`
//! beside a `Transfer-Encoding`, accept one length given twice, cut a fragment off the target. Each of
//! these is a difference of opinion between two servers, the raw material of request smuggling
//! (RFC 9112 sections 2.2, 3.2, 6.1 and 6.3). Here they are faults, in both directions. Names, values
//! and the lines around them are httparse's business, framing is ours.

mod body;
mod date;
mod head;
mod outgoing;
#[cfg(test)]
mod tests;

pub use self::body::{BodyFault, BodyLength, Decoded, Decoder, EncodeFault, Encoder, Frame};
pub use self::date::HttpDate;
pub use self::head::{
    Answering, HeadFault, HeadLimits, HeadSearch, Persistence, RequestHead, ResponseHead, parse_request,
    parse_response, write_line, write_request, write_response, write_trailers,
};
pub use self::outgoing::Outgoing;

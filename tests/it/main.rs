//! One integration binary: every behaviour has a file beside this one.
//!
//! Each test starts the real `gatepost` over a configuration of its own, in a directory of its own, on
//! ports that the system picks, in front of an upstream that records every byte it is sent. What it may
//! expect is the external contract; how the product does it is the unit tests' business.
#![expect(unreachable_pub, reason = "`pub` in support says which parts are for the tests")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops on the spot")]

mod accounts;
mod app_clients;
mod bodies;
mod cli;
mod drafts;
mod durability;
mod faults;
mod forwarding_headers;
mod framing;
mod grpc;
mod hop_by_hop;
mod hosted;
mod hosts;
mod http1;
mod http2;
mod http2_attacks;
mod identity_headers;
mod imports;
mod layering;
mod legacy_tokens;
mod limits;
mod model;
mod operations;
mod origins;
mod outward;
mod path_tricks;
mod paths_http;
mod proxy_header;
mod races;
mod readme;
mod regression;
mod reload;
mod routes;
mod service_manager;
mod sessions;
mod sockets;
mod streams;
mod support;
mod take_over;
mod throttle;
mod tls;
mod tokens;
mod upstream_links;
mod upstreams;
mod websocket;

//! Who listens on a port, as the system's tables say.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `TCP_LISTEN`
const LISTENING: &str = "0A";
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// A socket that takes connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
}

impl Listener {
    /// Whether other machines could reach it.
    pub(super) fn is_exposed(&self) -> bool {
        !self.address.ip().to_canonical().is_loopback()
    }
}

/// Everybody who listens on this port. Nobody where the system has no such tables (it is no Linux).
pub(super) fn on(port: u16) -> Vec<Listener> {
    let tables = TABLES.into_iter().filter_map(|path| fs::read_to_string(path).ok());
    let listeners: Vec<Listener> = tables.flat_map(|table| listeners(&table)).collect();
    listeners.into_iter().filter(|listener| listener.address.port() == port).collect()
}

/// Every listener of a table (`proc_net_tcp`).
fn listeners(table: &str) -> Vec<Listener> {
    table.lines().filter_map(listener).collect()
}

fn listener(line: &str) -> Option<Listener> {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let (local, _, state) = (columns.next()?, columns.next()?, columns.next()?);
    let (ip, port) = local.split_once(':')?;
    let address = || Some(SocketAddr::new(ip_of(ip)?, u16::from_str_radix(port, 16).ok()?));
    (state == LISTENING).then(address).flatten().map(|address| Listener { address })
}

/// Written as 32-bit numbers in the machine's byte order.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let words = hex.as_bytes().chunks(8).map(|word| {
        if word.len() != 8 {
            return None;
        }
        let word = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let words = words.collect::<Option<Vec<_>>>()?.concat();
    if let Ok(v4) = <[u8; 4]>::try_from(words.as_slice()) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(words.as_slice()).ok().map(|v6| Ipv6Addr::from(v6).into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listen(address: &str) -> TcpListener {
        TcpListener::bind(address).expect("a port")
    }

    #[test]
    fn a_listener_for_everybody_is_seen_and_one_on_loopback_is_not() {
        let exposed = |listener: &TcpListener| {
            let port = listener.local_addr().expect("bound").port();
            let found = on(port);
            assert!(!found.is_empty(), "it listens");
            let exposed = found.into_iter().find(Listener::is_exposed);
            (exposed.map(|listener| listener.address.to_string()), port)
        };
        let (found, port) = exposed(&listen("0.0.0.0:0"));
        assert_eq!(found, Some(format!("0.0.0.0:{port}")));
        assert_eq!(exposed(&listen("127.0.0.1:0")).0, None);
        if let Ok(everybody) = TcpListener::bind("[::]:0") {
            let (found, port) = exposed(&everybody);
            assert_eq!(found, Some(format!("[::]:{port}")));
        }
        if let Ok(here) = TcpListener::bind("[::1]:0") {
            assert_eq!(exposed(&here).0, None);
        }
    }

    #[test]
    fn only_listeners_count_and_rubbish_is_skipped() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                       0: 00000000:1F90 00000000:0000 0A 00000000:00000000\n\
                       1: 00000000:1F91 00000000:0000 01 00000000:00000000\n\
                       2: 0000:1F92 00000000:0000 0A\n\
                       3: zz\n";
        assert_eq!(listeners(table), [Listener { address: "0.0.0.0:8080".parse().expect("an address") }]);
    }
}

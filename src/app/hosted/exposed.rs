//! Whether somebody listens on a port for more than this machine, as the system's tables say.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `TCP_LISTEN`
const LISTENING: &str = "0A";

/// An address on which there is a listener for this port that other machines could reach. Where the system
/// has no such tables (it is no Linux) there is none.
pub(super) fn address(port: u16) -> Option<String> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let tables = tables.into_iter().filter_map(|path| fs::read_to_string(path).ok());
    let listeners: Vec<SocketAddr> = tables.flat_map(|table| listeners(&table)).collect();
    let open = listeners.into_iter().find(|at| at.port() == port && !at.ip().to_canonical().is_loopback());
    open.map(|address| address.to_string())
}

/// Every listening address of a table (`proc_net_tcp`).
fn listeners(table: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (local, _, state) = (columns.next()?, columns.next()?, columns.next()?);
        let (ip, port) = local.split_once(':')?;
        let listens = state == LISTENING;
        listens.then_some(SocketAddr::new(ip_of(ip)?, u16::from_str_radix(port, 16).ok()?))
    };
    table.lines().filter_map(address).collect()
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
        let (everybody, here) = (listen("0.0.0.0:0"), listen("127.0.0.1:0"));
        let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
        assert_eq!(address(port(&everybody)), Some(format!("0.0.0.0:{}", port(&everybody))));
        assert_eq!(address(port(&here)), None);
        if let Ok(everybody) = TcpListener::bind("[::]:0") {
            assert_eq!(address(port(&everybody)), Some(format!("[::]:{}", port(&everybody))));
        }
        if let Ok(here) = TcpListener::bind("[::1]:0") {
            assert_eq!(address(port(&here)), None);
        }
    }

    #[test]
    fn only_listeners_count_and_rubbish_is_skipped() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                       0: 00000000:1F90 00000000:0000 0A 00000000:00000000\n\
                       1: 00000000:1F91 00000000:0000 01 00000000:00000000\n\
                       2: 0000:1F92 00000000:0000 0A\n\
                       3: zz\n";
        assert_eq!(listeners(table), ["0.0.0.0:8080".parse().expect("an address")]);
    }
}

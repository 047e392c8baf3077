//! Who listens on a port, as the system's tables say.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `TCP_LISTEN`
const LISTENING: &str = "0A";
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// A socket that takes connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    /// Who has made it.
    pub(super) uid: u32,
    /// What its descriptors are called, too.
    pub(super) inode: u64,
}

impl Listener {
    fn is_on(&self, port: u16) -> bool {
        self.address.port() == port
    }

    /// Whether it may get what is sent to 127.0.0.1.
    pub(super) fn takes_ours(&self) -> bool {
        let ip = self.address.ip().to_canonical();
        ip == Ipv4Addr::LOCALHOST || ip.is_unspecified()
    }

    /// Whether other machines could reach it.
    pub(super) fn is_exposed(&self) -> bool {
        !self.address.ip().to_canonical().is_loopback()
    }
}

/// Everybody who listens on this port; `None` where the system has no such tables (it is no Linux).
pub(super) fn on(port: u16) -> Option<Vec<Listener>> {
    let first = first_on(port);
    if !first.is_empty() {
        return Some(first);
    }
    let tables = tables();
    if tables.is_empty() {
        return None;
    }
    let lines = tables.into_iter().flat_map(|table| table.lines().map_while(Result::ok));
    Some(lines.filter_map(|line| listener(&line)).filter(|listener| listener.is_on(port)).collect())
}

/// Those of them that stand in front of all connections, as they do on Linux: a busy machine's tables are
/// not read to their ends.
pub(super) fn first_on(port: u16) -> Vec<Listener> {
    let first = |table: BufReader<File>| {
        let lines = table.lines().skip(1).map_while(Result::ok);
        lines.map_while(|line| listener(&line))
    };
    tables().into_iter().flat_map(first).filter(|listener| listener.is_on(port)).collect()
}

fn tables() -> Vec<BufReader<File>> {
    TABLES.iter().filter_map(|path| File::open(path).ok()).map(BufReader::new).collect()
}

/// A listener's line of a table (`proc_net_tcp`).
fn listener(line: &str) -> Option<Listener> {
    let columns: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
    let [_, local, _, LISTENING, _, _, _, uid, _, inode] = columns[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    let address = SocketAddr::new(ip_of(ip)?, u16::from_str_radix(port, 16).ok()?);
    Some(Listener { address, uid: uid.parse().ok()?, inode: inode.parse().ok()? })
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
            let found = on(port).expect("tables");
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
        let rest = "00000000:00000000 00:00000000 00000000  1001        0 4711 1 00000000 100 0 0 10 0";
        let line = |start: &str| listener(&format!("   0: {start} {rest}"));
        let address = "0.0.0.0:8080".parse().expect("an address");
        let listener = Listener { address, uid: 1001, inode: 4711 };
        assert_eq!(line("00000000:1F90 00000000:0000 0A"), Some(listener));
        for other in ["00000000:1F91 00000000:0000 01", "0000:1F92 00000000:0000 0A", "zz", "x y 0A"] {
            assert_eq!(line(other), None, "{other}");
        }
        assert_eq!(
            super::listener("  sl  local_address rem_address   st tx_queue rx_queue tr uid inode"),
            None
        );
    }
}

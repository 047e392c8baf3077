//! `health`: the container's probe. Asks `/readyz` on the admin listener.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::{CliError, Format, Shell, Verdict};

/// A probe is asked often; an answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(3);
/// The answer is a line of JSON.
const LONGEST: u64 = 16 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Health {
    #[command(flatten)]
    format: Format,
}

impl Health {
    pub(super) fn run(self, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
        let address = reachable(shell.load()?.settings.admin.listen);
        let failed = |error: io::Error| CliError::Failed(format!("http://{address}/readyz: {error}"));
        let answer = ask(address).map_err(failed)?;
        let (status, body) = parse(&answer).ok_or_else(|| failed(io::Error::other("not an HTTP answer")))?;
        let ready = status == 200;
        if self.format.json {
            writeln!(shell.out, "{body}")?;
        } else if ready {
            writeln!(shell.out, "ready")?;
        } else {
            let report: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
            let failing = report["failing"].as_array().into_iter().flatten().filter_map(|name| name.as_str());
            writeln!(shell.out, "not ready: {}", failing.collect::<Vec<_>>().join(", "))?;
        }
        Ok(if ready { Verdict::Good } else { Verdict::Bad })
    }
}

/// A listener on every address is asked on the loopback one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    Ok(answer)
}

fn parse(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_addresses_are_asked_on_the_loopback() {
        for (listen, asked) in
            [("0.0.0.0:8081", "127.0.0.1:8081"), ("[::]:1", "[::1]:1"), ("192.0.2.1:5", "192.0.2.1:5")]
        {
            assert_eq!(reachable(listen.parse().expect("one")), asked.parse().expect("one"));
        }
    }

    #[test]
    fn answers_are_read() {
        assert_eq!(parse("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n{}"), Some((503, "{}")));
        assert_eq!(parse("SSH-2.0-x\r\n\r\n"), None);
        assert_eq!(parse(""), None);
    }
}

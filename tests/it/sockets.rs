//! Sockets that a service manager opens (`LISTEN_FDS`), and what becomes of Unix sockets of our own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::client::Client;
use crate::support::config::Config;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::request::get;
use crate::support::upstream::Upstream;
use crate::support::world::World;

/// A gateway that a service manager started. Killed when dropped.
struct Managed {
    child: Child,
    said: Vec<String>,
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Managed {
    /// Starts `serve` as `script` says: with file descriptors 0 and 1 as they are given. Reads what it says
    /// until it is ready or has ended.
    fn start(home: &Gateway, script: &str, sockets: [Stdio; 2]) -> Self {
        let [first, second] = sockets;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{script} exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_gatepost")]);
        command.arg("--config").arg(home.config()).arg("serve").current_dir(home.home());
        command.stdin(first).stdout(second).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = Vec::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
            let ready = line == "gatepost: ready";
            said.push(line);
            if ready {
                break;
            }
        }
        Self { child, said }
    }

    fn listening(&self) -> Vec<&str> {
        self.said.iter().filter_map(|line| line.strip_prefix("gatepost: listening on ")).collect()
    }

    fn stop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = eventually("it ends", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

/// An address of nobody's (RFC 5737): binding it fails.
const NOWHERE: &str = "[\"192.0.2.1:1\"]";

fn prepared(upstream: &Upstream, listen: &str) -> Gateway {
    Gateway::prepare(&Config::new().upstream("app", upstream.port()).set("server", "listen", listen))
}

fn tcp() -> (TcpListener, SocketAddr, Stdio) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let passed = OwnedFd::from(listener.try_clone().unwrap());
    (listener, address, passed.into())
}

fn over_unix(path: &std::path::Path) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(&get("/public/x").header("Connection", "close").bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn passed_sockets_take_the_place_of_listen() {
    let upstream = Upstream::echo();
    let home = prepared(&upstream, NOWHERE);
    let (listener, address, tcp) = tcp();
    let path = home.home().join("passed.sock");
    let unix = UnixListener::bind(&path).unwrap();
    // Who comes before it runs, waits.
    let mut early = Client::connect(address);
    early.send(get("/public/early").bytes());
    let script = "exec 3<&0 4<&1 </dev/null >/dev/null; export LISTEN_FDS=2 LISTEN_PID=$$;";
    let unix_passed = OwnedFd::from(unix.try_clone().unwrap());
    let mut managed = Managed::start(&home, script, [tcp, unix_passed.into()]);
    let unix_name = format!("unix:{}", path.display());
    assert_eq!(managed.listening(), [format!("http://{address}"), unix_name], "{:?}", managed.said);
    early.response().expect(200);
    // Two workers share one socket.
    for _ in 0..20 {
        Client::connect(address).send(get("/public/x").bytes()).response().expect(200);
    }
    assert!(over_unix(&path).starts_with("HTTP/1.1 200 "));
    assert_eq!(upstream.count(), 22);
    drop(early);
    managed.stop();
    // They are the manager's: still there, and whoever connects waits for the next process.
    assert!(path.exists());
    let mut late = Client::connect(address);
    late.send(get("/public/late").bytes());
    let again = OwnedFd::from(listener);
    let script = "exec 3<&0 </dev/null >/dev/null; export LISTEN_FDS=1 LISTEN_PID=$$;";
    let managed = Managed::start(&home, script, [again.into(), Stdio::null()]);
    late.response().expect(200);
    drop(managed);
}

#[test]
fn sockets_for_another_process_are_not_taken() {
    let upstream = Upstream::echo();
    let home = prepared(&upstream, "[\"127.0.0.1:0\"]");
    let (_listener, address, tcp) = tcp();
    let script = "exec 3<&0 </dev/null >/dev/null; export LISTEN_FDS=1 LISTEN_PID=1;";
    let managed = Managed::start(&home, script, [tcp, Stdio::null()]);
    assert_eq!(managed.listening().len(), 1, "{:?}", managed.said);
    assert_ne!(managed.listening(), [format!("http://{address}")]);
}

#[test]
fn what_cannot_be_listened_on_is_named() {
    let upstream = Upstream::echo();
    let home = prepared(&upstream, "[\"127.0.0.1:0\"]");
    let script = "exec 3</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$;";
    let mut refused = Managed::start(&home, script, [Stdio::null(), Stdio::null()]);
    let expected = "gatepost: LISTEN_FDS: file descriptor 3 is no TCP or Unix stream socket";
    assert_eq!(refused.said, [expected]);
    assert_eq!(refused.child.wait().unwrap().code(), Some(1));

    // `Accept=yes` passes a connection.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = OwnedFd::from(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$;";
    let mut refused = Managed::start(&home, script, [connection.into(), Stdio::null()]);
    let expected = "gatepost: cannot listen on a socket that was passed to it: it does not listen";
    assert!(refused.said.iter().any(|line| line == expected), "{:?}", refused.said);
    assert_eq!(refused.child.wait().unwrap().code(), Some(1));

    // Sent to https, which nobody speaks here.
    let (_listener, _, tcp) = tcp();
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=redirect_http;";
    let mut refused = Managed::start(&home, script, [tcp, Stdio::null()]);
    let expected = "gatepost: LISTEN_FDS: a socket is named redirect_http, which needs [server.tls]";
    assert!(refused.said.iter().any(|line| line == expected), "{:?}", refused.said);
    assert_eq!(refused.child.wait().unwrap().code(), Some(1));
}

#[test]
fn who_may_connect_to_a_unix_socket_is_the_umasks_business() {
    let upstream = Upstream::echo();
    let home = prepared(&upstream, "[\"unix:front.sock\"]");
    let path = home.home().join("front.sock");
    for (umask, mode) in [("077", 0o700), ("007", 0o770), ("000", 0o777)] {
        let script = format!("umask {umask};");
        let mut managed = Managed::start(&home, &script, [Stdio::null(), Stdio::null()]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{:?}", managed.said);
        assert!(over_unix(&path).starts_with("HTTP/1.1 200 "));
        managed.stop();
        assert!(!path.exists(), "a socket of our own goes with us");
    }
}

#[test]
fn accepting_goes_on_when_file_descriptors_have_run_out() {
    let world = World::with_few_files(64);
    let held: Vec<_> = (0..80).map(|_| Client::connect(world.address())).collect();
    let lines = world.log_lines();
    assert!(lines.wait(|line| line.contains("a connection could not be accepted")), "{}", lines.text());
    // It does not spin: it waits 50 ms each time.
    drop(held);
    eventually("it serves again", || {
        let mut client = world.connect();
        client.send(get("/public/x").bytes());
        client.try_response("GET").filter(|answer| answer.status == 200)
    });
}

//! Whose a port is: between its choice and the app's bind, and whenever the app listens anew, any user of the
//! machine could take it, and would be sent the requests of people who are logged in.
//!
//! Whoever takes connections there has to hold a socket of one of our children or theirs (orphans are ours,
//! too: see `process`). A process may keep its descriptors to itself (another user, a program with
//! capabilities); then the socket has to have been made by us or by a user that the app runs as.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use rustix::process::{geteuid, getpid};
use tokio::time::Instant;

use super::listeners::{self, Listener};

/// How often an app that serves is looked at. While its socket listens nobody can take the port: it is only
/// where the socket was closed that something has changed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A process that changes its parent while all of them are read can be overlooked.
const LOOKS: usize = 3;

/// Somebody who is none of the app's processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stranger {
    /// Who has made the socket.
    pub(super) uid: u32,
}

/// What is known of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Port {
    /// Only the app takes connections, on these sockets.
    TheApps(Vec<u64>),
    /// Nobody does.
    Free,
    /// Somebody else does.
    Taken(Stranger),
    /// The system does not say (it is no Linux).
    Unknown,
}

impl Port {
    /// Asks the system; `app` is the app's first process.
    pub(super) fn ask(port: u16, app: i32) -> Self {
        let Some(listeners) = listeners::on(port) else { return Self::Unknown };
        if !listeners.iter().any(Listener::takes_ours) {
            return Self::Free;
        }
        let judged = (0..LOOKS).map(|_| judge(&listeners, &Family::read(app), geteuid().as_raw()));
        let mut judged = judged.skip_while(|port| matches!(port, Self::Taken(_)));
        judged.next().unwrap_or_else(|| judge(&listeners, &Family::read(app), geteuid().as_raw()))
    }
}

/// Looks at a port now and then.
#[derive(Debug)]
pub(super) struct Watch {
    port: u16,
    app: i32,
    sockets: Vec<u64>,
    next: Instant,
}

impl Watch {
    /// Of a port that the app has with these sockets.
    pub(super) fn new(port: u16, app: i32, sockets: Vec<u64>) -> Self {
        Self { port, app, sockets, next: Instant::now() + LOOK_EVERY }
    }

    /// Waits until somebody else takes connections there.
    pub(super) async fn taken(&mut self) -> Stranger {
        loop {
            tokio::time::sleep_until(self.next).await;
            self.next = Instant::now() + LOOK_EVERY;
            let listeners = listeners::first_on(self.port);
            if listeners.iter().all(|listener| self.sockets.contains(&listener.inode)) {
                continue;
            }
            match Port::ask(self.port, self.app) {
                Port::Taken(stranger) => return stranger,
                Port::TheApps(sockets) => self.sockets = sockets,
                Port::Free | Port::Unknown => {}
            }
        }
    }
}

/// The processes below us.
#[derive(Default, Debug)]
struct Family {
    sockets: Vec<u64>,
    uids: Vec<u32>,
    /// Whether one of them keeps its sockets to itself.
    is_reserved: bool,
}

impl Family {
    fn read(app: i32) -> Self {
        let mut family = Self::default();
        let members = below(getpid().as_raw_nonzero().get(), &parents());
        // Its user may not be ours, and /proc show each user his own (`hidepid`).
        family.is_reserved = !members.contains(&app);
        for pid in members {
            family.add(pid);
        }
        family
    }

    fn add(&mut self, pid: i32) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        self.uids.extend(uids(&status));
        match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(descriptors) => {
                let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
                self.sockets.extend(links.filter_map(|link| socket(link.to_str()?)));
            }
            // It has ended, and its sockets with it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => self.is_reserved = true,
        }
    }
}

/// Whose the port is with these listeners.
fn judge(listeners: &[Listener], family: &Family, us: u32) -> Port {
    let taking: Vec<&Listener> = listeners.iter().filter(|listener| listener.takes_ours()).collect();
    let is_the_apps = |listener: &Listener| {
        family.sockets.contains(&listener.inode)
            || (family.is_reserved && (listener.uid == us || family.uids.contains(&listener.uid)))
    };
    match taking.iter().find(|listener| !is_the_apps(listener)) {
        Some(stranger) => Port::Taken(Stranger { uid: stranger.uid }),
        None if taking.is_empty() => Port::Free,
        None => Port::TheApps(taking.iter().map(|listener| listener.inode).collect()),
    }
}

/// Every process that can be seen, with its parent.
fn parents() -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let parent = |pid: i32| Some((pid, parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?));
    pids.filter_map(parent).collect()
}

/// Of a `/proc/PID/stat`. The program's name may hold anything, brackets among it.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Those that descend from `root`.
fn below(root: i32, parents: &[(i32, i32)]) -> Vec<i32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        let children = parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid);
        let children: Vec<i32> = children.filter(|pid| !found.contains(pid)).collect();
        found.extend(children);
        at += 1;
    }
    found.split_off(1)
}

/// The real one, the effective one, the saved one and that of the file system.
fn uids(status: &str) -> impl Iterator<Item = u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|uid| uid.parse().ok())
}

/// `socket:[4711]`
fn socket(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, uid: u32, inode: u64) -> Listener {
        Listener { address: address.parse().expect("an address"), uid, inode }
    }

    fn family(sockets: &[u64], uids: &[u32], is_reserved: bool) -> Family {
        Family { sockets: sockets.to_vec(), uids: uids.to_vec(), is_reserved }
    }

    const HERE: &str = "127.0.0.1:5000";

    #[test]
    fn a_port_is_the_apps_when_its_processes_hold_every_socket_that_takes_connections() {
        let us = 1000;
        let open = family(&[7, 8], &[1000], false);
        let taken = |uid| Port::Taken(Stranger { uid });
        for (listeners, expected) in [
            (vec![], Port::Free),
            (vec![listener(HERE, 1000, 7)], Port::TheApps(vec![7])),
            (vec![listener(HERE, 1000, 7), listener(HERE, 1000, 8)], Port::TheApps(vec![7, 8])),
            (vec![listener("0.0.0.0:5000", 1000, 7)], Port::TheApps(vec![7])),
            // As root, before it became somebody else.
            (vec![listener(HERE, 0, 7)], Port::TheApps(vec![7])),
            (vec![listener(HERE, 1001, 9)], taken(1001)),
            (vec![listener(HERE, 1000, 7), listener(HERE, 1001, 9)], taken(1001)),
            (vec![listener("0.0.0.0:5000", 1001, 9)], taken(1001)),
            (vec![listener("[::]:5000", 1001, 9)], taken(1001)),
            (vec![listener("[::ffff:127.0.0.1]:5000", 1001, 9)], taken(1001)),
            // Of our own user, and no process of the app all the same.
            (vec![listener(HERE, 1000, 9)], taken(1000)),
            // What is sent to 127.0.0.1 does not get there.
            (vec![listener(HERE, 1000, 7), listener("[::1]:5000", 1001, 9)], Port::TheApps(vec![7])),
            (vec![listener("127.0.0.2:5000", 1001, 9)], Port::Free),
        ] {
            assert_eq!(judge(&listeners, &open, us), expected, "{listeners:?}");
        }
    }

    #[test]
    fn of_an_app_that_keeps_its_sockets_to_itself_the_user_is_asked() {
        let reserved = family(&[], &[2000, 2000], true);
        for (uid, is_the_apps) in [(1000, true), (2000, true), (0, false), (1001, false)] {
            let port = judge(&[listener(HERE, uid, 9)], &reserved, 1000);
            assert_eq!(matches!(port, Port::TheApps(_)), is_the_apps, "{uid}: {port:?}");
        }
    }

    #[test]
    fn what_the_system_tells_of_processes_is_read() {
        assert_eq!(parent("12 (a) b) 7 (x) S 34 12 12 0 -1"), Some(34));
        assert_eq!(parent("12 (a"), None);
        let parents = [(1, 0), (10, 1), (11, 10), (12, 11), (13, 1), (14, 13), (15, 12)];
        assert_eq!(below(10, &parents), [11, 12, 15]);
        assert_eq!(below(99, &parents), [0; 0]);
        assert_eq!(uids("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\n").collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!((socket("socket:[4711]"), socket("pipe:[4711]")), (Some(4711), None));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_listener_of_this_very_process_is_no_childs() {
        let ours = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = ours.local_addr().expect("bound").port();
        // Not reserved: the app, which is none of our children, cannot be found.
        let listeners = listeners::on(port).expect("tables");
        let us = geteuid().as_raw();
        assert_eq!(listeners[0].uid, us);
        assert_eq!(judge(&listeners, &Family::default(), us), Port::Taken(Stranger { uid: us }));
        let mut with_us = Family::default();
        with_us.add(getpid().as_raw_nonzero().get());
        assert_eq!(judge(&listeners, &with_us, us), Port::TheApps(vec![listeners[0].inode]));
        assert!(with_us.uids.contains(&us) && !with_us.is_reserved);
    }
}

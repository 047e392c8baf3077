//! Where a server's name leads: looked up aside, kept, and used without waiting.
//!
//! A lookup may block for seconds, so none happens on a worker: the watch thread asks the system
//! (getaddrinfo) again and again, and connections are made to what it said last. A lookup that fails
//! changes nothing once there was an answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::settings::Endpoint;

/// After a failed lookup of a name that has no address yet, the next one.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// What is known of a server's addresses, shared by all workers.
#[derive(Debug)]
pub(super) struct Addresses {
    /// `HOST:PORT`, when the host is a name.
    name: Option<String>,
    known: watch::Sender<Known>,
    /// Which address the next connection begins with.
    turn: AtomicUsize,
}

#[derive(Clone, Debug)]
enum Known {
    /// Not looked up yet.
    Nothing,
    /// The last lookup failed, and there was none before that did not.
    Failed(Arc<str>),
    /// At least one address.
    Some(Arc<[SocketAddr]>),
}

impl Addresses {
    /// Of an endpoint. An address is its own answer; a path has none.
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        let (name, known) = match endpoint {
            Endpoint::Unix(_) => (None, Known::Nothing),
            Endpoint::Tcp(text) => match text.parse::<SocketAddr>() {
                Ok(address) => (None, Known::Some(Arc::new([address]))),
                Err(_) => (Some(text.clone()), Known::Nothing),
            },
        };
        Self { name, known: watch::Sender::new(known), turn: AtomicUsize::new(0) }
    }

    /// What has to be looked up, if anything.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Takes an answer of the system. A failure replaces nothing but ignorance.
    ///
    /// Whether this is news: other addresses than before, or the first failure.
    pub(super) fn learn(&self, answer: io::Result<Vec<SocketAddr>>) -> bool {
        let new = match answer {
            Ok(addresses) if addresses.is_empty() => Known::Failed("the name has no address".into()),
            Ok(mut addresses) => {
                // The system shuffles them; the turn is ours.
                addresses.sort_unstable();
                addresses.dedup();
                Known::Some(addresses.into())
            }
            Err(error) => Known::Failed(error.to_string().into()),
        };
        self.known.send_if_modified(|known| match (&*known, &new) {
            (Known::Some(_), Known::Failed(_)) => false,
            (Known::Some(old), Known::Some(new)) if old == new => false,
            (Known::Failed(old), Known::Failed(new)) if old == new => false,
            _ => {
                *known = new;
                true
            }
        })
    }

    /// Whether there is an address to connect to.
    pub(super) fn is_known(&self) -> bool {
        matches!(&*self.known.borrow(), Known::Some(_))
    }

    /// The addresses; waits for the first lookup.
    async fn current(&self) -> io::Result<Arc<[SocketAddr]>> {
        let mut known = self.known.borrow().clone();
        if matches!(known, Known::Nothing) {
            let mut news = self.known.subscribe();
            if let Ok(new) = news.wait_for(|known| !matches!(known, Known::Nothing)).await {
                known = new.clone();
            }
        }
        match known {
            Known::Some(addresses) => Ok(addresses),
            Known::Failed(why) => Err(io::Error::new(io::ErrorKind::NotFound, why.to_string())),
            Known::Nothing => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// A connection to one of the addresses, each tried once and the turn going round. They share the
    /// time: one that swallows packets leaves some for the next.
    ///
    /// # Errors
    /// What the last address met; [`io::ErrorKind::TimedOut`] when the time is over.
    pub(super) async fn connect(&self, within: Duration) -> io::Result<TcpStream> {
        let end = Instant::now() + within;
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let addresses = timeout_at(end, self.current()).await.map_err(late)??;
        let first = if addresses.len() > 1 { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for place in 0..addresses.len() {
            let address = addresses[first.wrapping_add(place) % addresses.len()];
            let left = u32::try_from(addresses.len() - place).unwrap_or(u32::MAX);
            let now = Instant::now();
            let until = now + end.saturating_duration_since(now) / left;
            match timeout_at(until, TcpStream::connect(address)).await.map_err(late).flatten() {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn named() -> Addresses {
        Addresses::of(&Endpoint::Tcp("app.internal:80".to_owned()))
    }

    fn known(names: &Addresses) -> Option<Vec<SocketAddr>> {
        match &*names.known.borrow() {
            Known::Some(addresses) => Some(addresses.to_vec()),
            Known::Nothing | Known::Failed(_) => None,
        }
    }

    fn failure() -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other("no name server answers"))
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    #[test]
    fn addresses_are_their_own_answer_and_paths_have_none() {
        let literal = Addresses::of(&Endpoint::Tcp("[::1]:80".to_owned()));
        assert_eq!((literal.name(), known(&literal)), (None, Some(addresses(&["[::1]:80"]))));
        let path = Addresses::of(&Endpoint::Unix("/run/app.sock".into()));
        assert_eq!((path.name(), known(&path)), (None, None));
        assert_eq!(named().name(), Some("app.internal:80"));
    }

    #[test]
    fn a_failed_lookup_keeps_the_last_good_answer() {
        let names = named();
        assert!(names.learn(failure()));
        assert!(!names.is_known());
        assert!(!names.learn(failure()), "said once");
        let two = ["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"];
        assert!(names.learn(Ok(addresses(&two))));
        let sorted = Some(addresses(&["10.0.0.1:80", "10.0.0.2:80"]));
        assert_eq!(known(&names), sorted);
        assert!(!names.learn(Ok(addresses(&two[..2]))), "the order is no news");
        assert!(!names.learn(failure()));
        assert!(!names.learn(Ok(Vec::new())));
        assert_eq!(known(&names), sorted);
        assert!(names.learn(Ok(addresses(&["10.0.0.3:80"]))));
        assert_eq!(known(&names), Some(addresses(&["10.0.0.3:80"])));
    }

    #[test]
    fn every_address_is_tried_in_turn() {
        run(async {
            let (one, two) = (TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await);
            let (one, two) = (one.expect("a port"), two.expect("a port"));
            let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
            let (first, second) = (one.local_addr().expect("bound"), two.local_addr().expect("bound"));
            let names = named();
            assert!(names.learn(Ok(vec![first, second, gone])));
            let mut seen = Vec::new();
            for _ in 0..6 {
                let stream = names.connect(Duration::from_secs(30)).await.expect("a connection");
                seen.push(stream.peer_addr().expect("connected"));
            }
            assert!(seen.contains(&first) && seen.contains(&second), "{seen:?}");
            assert!(!seen.contains(&gone));

            drop((one, two));
            let error = names.connect(Duration::from_secs(30)).await.expect_err("nobody listens");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn a_connection_waits_for_the_first_lookup_and_not_for_ever() {
        run(async {
            let names = named();
            let error = names.connect(Duration::from_millis(10)).await.expect_err("no answer");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);

            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound");
            let (connected, ()) = tokio::join!(names.connect(Duration::from_secs(30)), async {
                tokio::task::yield_now().await;
                assert!(names.learn(Ok(vec![address])));
            });
            assert_eq!(connected.expect("a connection").peer_addr().expect("connected"), address);

            let names = named();
            assert!(names.learn(failure()));
            let error = names.connect(Duration::from_secs(30)).await.expect_err("no address");
            assert_eq!(error.to_string(), "no name server answers");
        });
    }
}

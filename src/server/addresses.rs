//! How many connections each address has: `[server.limits] connections_per_address`.
//!
//! One table for all workers, since the kernel spreads an address's connections over them. It is looked at
//! when a connection opens and when it ends, never for a request, and holds no more entries than there are
//! connections: an address without any is forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Parts with a lock each, so that workers seldom wait for one another.
const SHARDS: usize = 64;

/// Who counts as one: an IPv4 address, or an IPv6 /64, which is what one subscriber has at least.
///
/// IPv4 addresses are told from /64 networks by their value: `::/32` is nobody's network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Holder(u64);

impl Holder {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u32::from(address).into()),
            IpAddr::V6(address) => Self((u128::from(address) >> 64) as u64),
        }
    }
}

/// Open connections by who has them.
#[derive(Debug)]
pub(super) struct Addresses {
    shards: [Mutex<HashMap<Holder, usize>>; SHARDS],
    hashes: RandomState,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hashes: RandomState::new() }
    }
}

impl Addresses {
    fn shard(&self, holder: Holder) -> MutexGuard<'_, HashMap<Holder, usize>> {
        let at = usize::try_from(self.hashes.hash_one(holder) % SHARDS as u64).unwrap_or_default();
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection if its holder has fewer than `most`. Then it has to be [left](Self::leave).
    pub(super) fn enter(&self, holder: Holder, most: usize) -> bool {
        let mut shard = self.shard(holder);
        let count = shard.entry(holder).or_default();
        let room = *count < most;
        if room {
            *count += 1;
        } else if *count == 0 {
            shard.remove(&holder);
        }
        room
    }

    /// A counted connection has ended.
    pub(super) fn leave(&self, holder: Holder) {
        let mut shard = self.shard(holder);
        let Some(count) = shard.get_mut(&holder) else { return };
        *count -= 1;
        if *count == 0 {
            shard.remove(&holder);
            // What many addresses at once have left behind.
            if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
                shard.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(address: &str) -> Holder {
        Holder::of(address.parse().expect("an address"))
    }

    fn entries(addresses: &Addresses) -> usize {
        addresses.shards.iter().map(|shard| shard.lock().expect("no panic").len()).sum()
    }

    #[test]
    fn an_address_has_so_many_and_no_more() {
        let addresses = Addresses::default();
        let (one, other) = (holder("192.0.2.1"), holder("192.0.2.2"));
        assert!(addresses.enter(one, 2) && addresses.enter(one, 2));
        assert!(!addresses.enter(one, 2));
        assert!(addresses.enter(other, 2));
        addresses.leave(one);
        assert!(addresses.enter(one, 2));
        // A limit that was lowered since.
        assert!(!addresses.enter(one, 1));
        for holder in [one, one, other] {
            addresses.leave(holder);
        }
        assert_eq!(entries(&addresses), 0);
        assert!(!addresses.enter(one, 0));
        assert_eq!(entries(&addresses), 0);
    }

    #[test]
    fn an_ipv6_network_is_one_holder() {
        assert_eq!(holder("2001:db8::1"), holder("2001:db8::ffff:1"));
        assert_ne!(holder("2001:db8::1"), holder("2001:db8:0:1::1"));
        assert_eq!(holder("::ffff:192.0.2.1"), holder("192.0.2.1"));
        assert_ne!(holder("192.0.2.1"), holder("192.0.2.2"));
    }

    #[test]
    fn nothing_is_kept_of_who_has_gone() {
        let addresses = Addresses::default();
        let all: Vec<Holder> = (0..200_000_u32).map(|n| Holder::of(IpAddr::V4(n.into()))).collect();
        assert!(all.iter().all(|holder| addresses.enter(*holder, 1)));
        assert_eq!(entries(&addresses), all.len());
        for holder in &all {
            addresses.leave(*holder);
        }
        let room: usize =
            addresses.shards.iter().map(|shard| shard.lock().expect("no panic").capacity()).sum();
        assert!(entries(&addresses) == 0 && room <= SHARDS * 1024, "{room}");
    }

    #[test]
    fn workers_count_together() {
        let addresses = Addresses::default();
        let one = holder("192.0.2.1");
        let entered: usize = std::thread::scope(|scope| {
            let enter = || (0..1000).filter(|_| addresses.enter(one, 500)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(enter)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(entered, 500);
    }
}

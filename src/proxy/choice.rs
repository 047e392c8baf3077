//! Which server takes a request: the less busy of two that chance picks.
//!
//! Two random choices and the better of them spread requests nearly as well as looking at all servers,
//! without everybody running to the same one (Mitzenmacher, "The Power of Two Choices", 2001). How busy
//! a server is a worker knows from its own requests. Servers that are out are skipped; when all are,
//! they are all tried: a request then fails for a reason of its own, not for what others met.

use std::cell::Cell;

use super::fleet::{FULL, Group};

/// What one worker needs to choose.
#[derive(Debug)]
pub(super) struct Chance(Cell<u64>);

impl Chance {
    /// Seeded by the system.
    pub(super) fn new() -> Self {
        Self::seeded(getrandom::u64().unwrap_or(1))
    }

    const fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// `splitmix64`: spreads load, guards nothing.
    fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * (bound as u128);
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

/// The server for a request, among those that were not tried yet; `None` when all were.
///
/// `load` says how many of this worker's requests a server has; `now` is asked only when some server
/// is out or has just come back.
pub(super) fn choose(
    group: &Group,
    tried: &[usize],
    chance: &Chance,
    load: impl Fn(usize) -> usize,
    now: impl FnOnce() -> u64,
) -> Option<usize> {
    let servers = group.members().len();
    if tried.is_empty() && !group.needs_attention() {
        return less_busy(servers, chance, load, |index| index);
    }
    let shares: Vec<u32> = group.shares(now()).collect();
    if shares.iter().all(|share| *share == FULL) {
        group.all_full();
    } else if shares.iter().all(|share| *share == 0) {
        group.none_in();
    } else {
        group.some_in();
    }
    let left = |wanted: &dyn Fn(u32) -> bool| -> Vec<usize> {
        (0..servers).filter(|index| !tried.contains(index) && wanted(shares[*index])).collect()
    };
    // A server with half a share is there for every second request.
    let present = |share: u32| share >= FULL || (chance.next() & u64::from(FULL - 1)) < u64::from(share);
    [left(&present), left(&|share| share > 0), left(&|_| true)]
        .into_iter()
        .find(|candidates| !candidates.is_empty())
        .and_then(|candidates| less_busy(candidates.len(), chance, load, |place| candidates[place]))
}

/// The less busy of two out of `count`.
fn less_busy(
    count: usize,
    chance: &Chance,
    load: impl Fn(usize) -> usize,
    server: impl Fn(usize) -> usize,
) -> Option<usize> {
    match count {
        0 => None,
        1 => Some(server(0)),
        _ => {
            let first = chance.below(count);
            let second = (first + 1 + chance.below(count - 1)) % count;
            let (first, second) = (server(first), server(second));
            Some(if load(second) < load(first) { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::Fleet;
    use super::super::fleet::tests::upstream;
    use super::*;
    use std::time::Duration;

    const SERVERS: [&str; 4] = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"];
    const ROUNDS: usize = 40_000;

    /// How often each server is chosen.
    fn counts(group: &Group, load: impl Fn(usize) -> usize + Copy, now: u64) -> [usize; 4] {
        let chance = Chance::seeded(7);
        let mut counts = [0; 4];
        for _ in 0..ROUNDS {
            counts[choose(group, &[], &chance, load, || now).expect("a server")] += 1;
        }
        counts
    }

    /// Within 3 % of all rounds: some ten standard deviations.
    #[track_caller]
    fn assert_near(counts: [usize; 4], expected: [usize; 4]) {
        for (count, expected) in counts.iter().zip(expected) {
            assert!(count.abs_diff(expected) < ROUNDS * 3 / 100, "{counts:?}");
        }
    }

    fn eject(group: &Group, server: usize) {
        for _ in 0..3 {
            group.failed(server, &"refused", 1000);
        }
    }

    #[test]
    fn idle_servers_get_equal_shares() {
        let fleet = Fleet::new(&[upstream(&SERVERS)]);
        let group = &fleet.groups()[0];
        assert_near(counts(group, |_| 0, 0), [ROUNDS / 4; 4]);
        assert!(!group.needs_attention());
        assert_near(counts(group, |_| 0, 0), [ROUNDS / 4; 4]);
    }

    #[test]
    fn the_busiest_is_never_chosen_and_the_idlest_twice_as_often() {
        let fleet = Fleet::new(&[upstream(&SERVERS)]);
        let group = &fleet.groups()[0];
        // Of the six pairs the idlest is in three, the next wins two, the third one.
        let counts = counts(group, |server| server, 0);
        assert_near(counts, [ROUNDS / 2, ROUNDS / 3, ROUNDS / 6, 0]);
        assert_eq!(counts[3], 0);
    }

    #[test]
    fn load_evens_out_where_one_server_is_slow() {
        let fleet = Fleet::new(&[upstream(&SERVERS)]);
        let group = &fleet.groups()[0];
        let chance = Chance::seeded(3);
        let mut loads = [40, 0, 0, 0];
        for _ in 0..100 {
            let server = choose(group, &[], &chance, |server| loads[server], || 0).expect("a server");
            loads[server] += 1;
        }
        assert!(loads.iter().all(|load| (30..=42).contains(load)), "{loads:?}");
    }

    #[test]
    fn who_is_out_is_skipped_and_all_out_is_none_out() {
        let fleet = Fleet::new(&[upstream(&SERVERS)]);
        let group = &fleet.groups()[0];
        eject(group, 1);
        let third = ROUNDS / 3;
        let skipped = counts(group, |_| 0, 2000);
        assert_near(skipped, [third, 0, third, third]);
        assert_eq!(skipped[1], 0);
        for server in [0, 2, 3] {
            eject(group, server);
        }
        assert_near(counts(group, |_| 0, 2000), [ROUNDS / 4; 4]);
        assert_near(counts(group, |_| 0, 60_000), [ROUNDS / 4; 4]);
        assert!(!group.needs_attention(), "all are back");
    }

    #[test]
    fn who_came_back_gets_its_part_of_a_share() {
        let mut settings = upstream(&SERVERS);
        settings.slow_start = Duration::from_secs(10);
        let fleet = Fleet::new(&[settings]);
        let group = &fleet.groups()[0];
        eject(group, 0);
        // Half of the way: it stands among the four for half of the requests.
        let others = (ROUNDS - ROUNDS / 8) / 3;
        assert_near(counts(group, |_| 0, 16_000), [ROUNDS / 8, others, others, others]);
    }

    #[test]
    fn each_server_is_tried_once_those_that_are_out_last() {
        let fleet = Fleet::new(&[upstream(&SERVERS)]);
        let group = &fleet.groups()[0];
        eject(group, 2);
        let chance = Chance::seeded(5);
        for _ in 0..100 {
            let mut tried = Vec::new();
            while let Some(server) = choose(group, &tried, &chance, |_| 0, || 2000) {
                tried.push(server);
            }
            assert_eq!(tried.last(), Some(&2), "{tried:?}");
            tried.sort_unstable();
            assert_eq!(tried, [0, 1, 2, 3]);
        }
    }

    #[test]
    fn chance_is_below_its_bound() {
        let chance = Chance::new();
        for bound in 1..50 {
            assert!((0..100).all(|_| chance.below(bound) < bound), "{bound}");
        }
    }
}

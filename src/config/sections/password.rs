//! `[auth.password]`: what a password is, and what hashing one costs.

use super::super::reader::Section;
use super::super::value::Size;
use super::server::cores;
use super::{between, sized};
use crate::settings::PasswordSettings;

/// The weakest argon2id settings that OWASP's password storage cheat sheet finds equal, as memory in
/// KiB and passes.
const OWASP: [(u32, u32); 5] = [(46 << 10, 1), (19 << 10, 2), (12 << 10, 3), (9 << 10, 4), (7 << 10, 5)];

pub(super) fn read(auth: &Section<'_>) -> PasswordSettings {
    let password = auth.table("password", "auth.password");
    let reader = password.reader();
    let usual = PasswordSettings::default();
    let min_length = password.get_if("min_length", usual.min_length, between(1, 256));
    let max_bytes = password.get_if("max_bytes", usual.max_bytes, between(16, 4096));
    if min_length.value < 8 {
        reader.warn("auth.password.min_length: shorter than 8 characters is guessed", &min_length.origin);
    }
    if min_length.value > max_bytes.value && !min_length.broken && !max_bytes.broken {
        let at = if min_length.given() { &min_length.origin } else { &max_bytes.origin };
        reader.error("auth.password.min_length: is larger than max_bytes", at);
    }
    let memory = password.get_if("memory", Size(u64::from(usual.memory_kib) << 10), |memory| {
        if !memory.0.is_multiple_of(1024) {
            return Err("must be a whole number of KiB".to_owned());
        }
        sized(8 << 10, 4 << 30)(memory)
    });
    let memory_kib = u32::try_from(memory.value.0 >> 10).unwrap_or(u32::MAX);
    let iterations = password.get_if("iterations", usual.iterations, between(1, 100));
    let parallelism = password.get_if("parallelism", usual.parallelism, between(1, 64));
    // RFC 9106 section 3.1: at least 8 blocks of 1 KiB for each lane.
    if memory_kib < 8 * parallelism.value {
        let at = if memory.given() { &memory.origin } else { &parallelism.origin };
        reader.error("auth.password.memory: argon2 needs 8KiB for each of parallelism", at);
    }
    let enough = OWASP.iter().any(|(kib, passes)| memory_kib >= *kib && iterations.value >= *passes);
    if !enough {
        let at = if memory.given() { &memory.origin } else { &iterations.origin };
        reader.warn("auth.password: weaker than OWASP's minimum of memory 19MiB with 2 iterations", at);
    }
    let concurrent = password.get_if("concurrent", (cores() - 1).max(1), between(1, 1024)).value;
    let queue = password.get_if("queue", usual.queue, between(0, 100_000)).value;
    password.finish();
    PasswordSettings {
        min_length: min_length.value,
        max_bytes: max_bytes.value,
        memory_kib,
        iterations: iterations.value,
        parallelism: parallelism.value,
        concurrent,
        queue,
    }
}

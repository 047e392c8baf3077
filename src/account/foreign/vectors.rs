//! Hashes that the software itself has made: each is checked, stored, and costs what it says.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::{Foreign, stored_hash};
use crate::account::engine::{Engine, Verdict};
use crate::account::passphrase::Passphrase;
use crate::account::phc;
use crate::account::price::{Kind, Price, Tally, Work};
use crate::account::testing::HASHING;
use crate::settings::PasswordSettings;
use crate::store::PasswordHash;

const SETTINGS: PasswordSettings = PasswordSettings { memory_kib: 64, ..HASHING };

struct Vector {
    software: &'static str,
    password: &'static str,
    hash: &'static str,
}

fn vectors() -> Vec<Vector> {
    let lines = include_str!("vectors.tsv").lines().filter(|line| !line.starts_with('#'));
    let vectors: Vec<Vector> = lines
        .map(|line| {
            let mut parts = line.split('\t');
            let mut next = || parts.next().expect("three columns");
            Vector { software: next(), password: next(), hash: next() }
        })
        .collect();
    assert!(vectors.len() > 80, "{}", vectors.len());
    vectors
}

struct Bench {
    engine: Engine,
    price: Arc<Price>,
    done: Arc<Tally>,
}

impl Bench {
    fn new() -> Self {
        let (price, done) = (Arc::<Price>::default(), Arc::<Tally>::default());
        let params = phc::configured(&SETTINGS).expect("parameters");
        price.raise(&phc::work(&params), 0);
        Self { engine: Engine::new(params, Arc::clone(&price), Arc::clone(&done)), price, done }
    }

    fn verify(&mut self, stored: &PasswordHash, typed: &str) -> Verdict {
        self.engine.verify(Some(stored), &phrase(typed)).expect("checked")
    }

    /// What a wrong password costs.
    fn wrong(&mut self, stored: Option<&PasswordHash>) -> Work {
        let before = self.done.sum();
        let verdict = self.engine.verify(stored, &phrase("wrong")).expect("checked");
        assert_eq!(verdict, Verdict::Wrong);
        self.done.sum().less(&before)
    }

    fn learn(&self, stored: &PasswordHash) {
        let hash = Foreign::parse(stored.phc(), &SETTINGS).expect("readable");
        self.price.raise(&hash.work(), hash.scrypt_block());
    }
}

fn phrase(text: &str) -> Passphrase {
    Passphrase::typed(&text.to_owned().into(), &SETTINGS).expect("short enough")
}

fn stored(hash: &str) -> PasswordHash {
    stored_hash(hash, &SETTINGS).unwrap_or_else(|error| panic!("{hash}: {error}"))
}

#[test]
fn what_other_software_has_hashed_is_recognised_and_nothing_else() {
    for Vector { software, password, hash } in vectors() {
        // Of its own each, or every wrong password would cost what the dearest hash of them all does.
        let (mut bench, stored) = (Bench::new(), stored(hash));
        let right = bench.verify(&stored, password);
        assert_eq!(right, Verdict::Right { stale: true }, "{software}: {hash}");
        let other: String = ['y'].into_iter().chain(password.chars().skip(1)).collect();
        for wrong in ["", "wrong", &other, &format!("{password}\0"), &format!("a{password}")] {
            assert_eq!(bench.verify(&stored, wrong), Verdict::Wrong, "{software}: {hash} and {wrong:?}");
        }
    }
}

#[test]
fn fast_hashes_are_wrapped_and_slow_ones_kept() {
    let mut fast = 0;
    for Vector { software, hash, .. } in vectors() {
        let read = Foreign::parse(hash, &SETTINGS).expect("readable");
        let (is_fast, stored) = (read.is_fast(), stored(hash));
        fast += usize::from(is_fast);
        assert_eq!(stored.phc().starts_with("$wrapped-"), is_fast, "{software}: {hash}");
        assert_eq!(stored.phc() == hash, !is_fast, "{software}: {hash}");
        assert!(read.is_stored_as(&stored, &SETTINGS), "{software}: {hash}");
    }
    assert!(fast > 30, "{fast}");
}

#[test]
fn a_fast_hash_in_the_store_lets_nobody_in() {
    let mut bench = Bench::new();
    let fast =
        vectors().into_iter().filter(|v| Foreign::parse(v.hash, &SETTINGS).expect("readable").is_fast());
    for Vector { password, hash, .. } in fast {
        let verdict = bench.verify(&PasswordHash::from(hash.to_owned()), password);
        assert!(matches!(verdict, Verdict::Unusable(_)), "{hash}");
    }
}

#[test]
fn a_failed_check_costs_the_same_for_every_kind_of_hash_and_for_nobody() {
    let mut bench = Bench::new();
    let cheap = vectors().into_iter().filter(|vector| !vector.hash.starts_with("scrypt:32768"));
    let all: Vec<PasswordHash> = cheap.map(|vector| stored(vector.hash)).collect();
    for one in &all {
        bench.learn(one);
    }
    let price = bench.wrong(None);
    for kind in [
        Kind::Argon2,
        Kind::Scrypt,
        Kind::Bcrypt,
        Kind::Pbkdf2Sha1,
        Kind::Pbkdf2Sha256,
        Kind::Pbkdf2Sha512,
        Kind::Apr1,
    ] {
        assert!(price.get(kind) > 0, "{kind:?}");
    }
    for one in &all {
        assert_eq!(bench.wrong(Some(one)), price, "{}", one.phc());
    }
    // Ours too, and one that cannot be used.
    let own = bench.engine.hash(b"correct horse").expect("hashed");
    assert_eq!(bench.wrong(Some(&own)), price);
}

#[test]
fn a_hash_teaches_its_price_with_the_first_check() {
    let mut bench = Bench::new();
    let own = bench.wrong(None);
    let scrypt = stored(vectors()[0].hash);
    assert_eq!(bench.verify(&scrypt, vectors()[0].password), Verdict::Right { stale: true });
    let with_scrypt = own.and(&Work::of(Kind::Scrypt, 32768 * 8));
    assert_eq!(bench.wrong(None), with_scrypt);
    assert_eq!(bench.wrong(Some(&scrypt)), with_scrypt);
}

#[test]
fn bcrypt_reads_72_bytes_and_ignores_the_noise_after_the_salt() {
    let mut bench = Bench::new();
    let long = vectors().into_iter().find(|v| v.password.len() == 100 && v.hash.starts_with("$2b$"));
    let long = stored(long.expect("a long one").hash);
    assert_eq!(bench.verify(&long, &"x".repeat(72)), Verdict::Right { stale: true });
    assert_eq!(bench.verify(&long, &"x".repeat(71)), Verdict::Wrong);

    // The 22nd character of the salt has four bits too many; libraries have filled them with anything.
    let vector = vectors().into_iter().find(|v| v.software == "bcrypt 4.3.0").expect("bcrypt");
    let noise = match &vector.hash[28..29] {
        "." => "/",
        "O" => "P",
        "e" => "f",
        "u" => "v",
        other => panic!("{other} ends no salt"),
    };
    let padded = format!("{}{noise}{}", &vector.hash[..28], &vector.hash[29..]);
    assert_eq!(bench.verify(&stored(&padded), vector.password), Verdict::Right { stale: true });
}

/// Parts that texts are made of, and what does not belong there.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "$",
            "$2b$",
            "$argon2id$v=19$",
            "m=8,t=1,p=1",
            "$apr1$",
            "{SHA}",
            "$wrapped-",
            "sha1",
            "md5",
            "scrypt",
            ":",
            "pbkdf2:sha256:",
            "$pbkdf2-sha256$",
            "pbkdf2_sha256$",
            "bcrypt$",
            "bcrypt_sha256$",
            "argon2$",
            "plain$",
            "18446744073709551616",
            "99",
            "0",
            "-1",
            "1024",
            "é",
            "\0",
            "=",
            "c2FsdA",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z0-9./+=$:]{0,60}",
        any::<String>(),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// A real hash with one character replaced, or cut.
fn damaged() -> impl Strategy<Value = String> {
    (any::<Index>(), any::<Index>(), any::<Option<char>>()).prop_map(|(which, place, other)| {
        let all = vectors();
        let mut text: Vec<char> = which.get(&all).hash.chars().collect();
        let place = place.index(text.len());
        match other {
            Some(other) => text[place] = other,
            None => text.truncate(place),
        }
        text.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic_or_costs_more_than_the_limits(text in prop_oneof![pieces(), damaged()]) {
        if let Ok(read) = Foreign::parse(&text, &SETTINGS) {
            let work = read.work();
            prop_assert!(work.get(Kind::Argon2) <= 2 * 256 * 1024 * 16);
            prop_assert!(work.get(Kind::Scrypt) <= 1 << 22);
            prop_assert!(work.get(Kind::Bcrypt) <= 1 << 15);
            prop_assert!(read.scrypt_block() * 128 <= 128 << 20);
            for kind in [Kind::Pbkdf2Sha1, Kind::Pbkdf2Sha256, Kind::Pbkdf2Sha512] {
                prop_assert!(work.get(kind) <= 4_000_000);
            }
        }
    }
}

//! What a request pays for its token: found in the cache, verified anew, and the look for revocations.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use gatepost::authn::{Authenticator, AuthenticatorParts, check};
use gatepost::clock::Timestamp;
use gatepost::identity::{Principal, RoleSet, SessionId, TokenId};
use gatepost::secret::Secret;
use gatepost::settings::{CredentialForm, SigningAlgorithm, TokenSettings};
use gatepost::token::access::{Issuer, Verifier};
use gatepost::token::keyring::{KeyPurpose, KeyRing, StoredKey};
use gatepost::token::revocation::{Revocation, RevocationId, RevocationKind, RevocationList};
use http::{HeaderMap, HeaderValue};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn settings(algorithm: SigningAlgorithm) -> TokenSettings {
    TokenSettings {
        issuer: "gatepost".to_owned(),
        audience: vec!["app".to_owned()],
        algorithm,
        access_ttl: Duration::from_mins(15),
        refresh_ttl: Duration::from_hours(720),
        session_ttl: Duration::from_hours(2160),
        refresh_grace: Duration::from_secs(10),
        leeway: Duration::from_secs(5),
        accept: vec![CredentialForm::Bearer],
        claims: Vec::new(),
        cache_bytes: 64 << 20,
        fixed_claims: Vec::new(),
        previous_secrets: Vec::new(),
        legacy: Vec::new(),
    }
}

fn principal() -> Principal {
    Principal {
        id: "4ab2bb3f-19bb-4f2a-8ee1-0c2f1f0a6c11".parse().expect("a user id"),
        username: "alice".into(),
        name: Some("Alice Example".into()),
        email: None,
        roles: ["user", "editor"].map(|role| role.parse().expect("a role")).into_iter().collect::<RoleSet>(),
        session: SessionId::random(),
        generation: 1,
    }
}

fn revocation(n: u64) -> Revocation {
    let user = "4ab2bb3f-19bb-4f2a-8ee1-0c2f1f0a6c11".parse().expect("a user id");
    let until = NOW.plus(Duration::from_hours(1));
    Revocation { kind: RevocationKind::Generation, id: RevocationId::generation(&user, n), until }
}

fn tokens(c: &mut Criterion) {
    let secret = SigningAlgorithm::Hs256(Secret::new(vec![7; 32]));
    for (name, algorithm) in [("EdDSA", SigningAlgorithm::EdDsa), ("HS256", secret)] {
        let settings = settings(algorithm);
        let stored = [KeyPurpose::SignAccess, KeyPurpose::Refresh]
            .map(|purpose| StoredKey::generate(purpose, NOW).expect("randomness"));
        let keys = KeyRing::load(&settings.algorithm, &stored).expect("good keys");
        let issuer = Issuer::new(&keys, &settings).expect("good settings");
        let verifier = Arc::new(Verifier::new(&keys, &settings).expect("good keys"));
        let revocations = Arc::new(RevocationList::new());
        let who = principal();
        let fresh = issuer.issue(&who, &[], NOW, TokenId::random()).expect("issued");
        let token = fresh.token.expose();
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("visible ASCII");
        headers.insert("authorization", value);
        let authenticator = Authenticator::new(AuthenticatorParts {
            verifier: Arc::clone(&verifier),
            revocations: Arc::clone(&revocations),
            accept: settings.accept.clone(),
            cache_bytes: settings.cache_bytes,
            attach: Box::new(|_| ()),
        });
        c.bench_function(&format!("{name}/issue"), |b| {
            b.iter(|| issuer.issue(black_box(&who), &[], NOW, TokenId::from_bytes([1; 16])));
        });
        c.bench_function(&format!("{name}/miss"), |b| {
            b.iter(|| check(&verifier, &revocations, black_box(token), NOW));
        });
        c.bench_function(&format!("{name}/hit"), |b| {
            b.iter(|| authenticator.authenticate(black_box(&headers), NOW));
        });
        let (name_of, line) = headers.iter().next().expect("one line");
        c.bench_function(&format!("{name}/may the line travel on"), |b| {
            b.iter(|| authenticator.carries_ours(name_of, black_box(line)));
        });
        // Generations of the same account, but not the token's.
        let mut epoch = who.generation;
        c.bench_function(&format!("{name}/a revocation and a hit"), |b| {
            b.iter(|| {
                epoch += 1;
                revocations.insert(revocation(epoch));
                authenticator.authenticate(black_box(&headers), NOW).expect("not revoked")
            });
        });
    }
}

fn revocations(c: &mut Criterion) {
    let list = RevocationList::with_capacity(1_000_000);
    let ids: Vec<_> = (0..1_000_000).map(|n| revocation(n).id).collect();
    for id in &ids {
        list.insert(Revocation { id: *id, ..revocation(0) });
    }
    let absent: Vec<_> = (1_000_000..1_100_000).map(|n| revocation(n).id).collect();
    let mut next = ids.iter().cycle();
    c.bench_function("revocations/1,000,000/found", |b| {
        b.iter(|| list.contains(*next.next().expect("endless")));
    });
    let mut next = absent.iter().cycle();
    c.bench_function("revocations/1,000,000/not found", |b| {
        b.iter(|| list.contains(*next.next().expect("endless")));
    });
}

criterion_group!(benches, tokens, revocations);
criterion_main!(benches);

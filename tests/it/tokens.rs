//! Access tokens against everything that people forge: each is refused through the whole gateway, and
//! the upstream sees nothing.

use serde_json::{Value, json};

use crate::support::jwt;
use crate::support::request::get;
use crate::support::world::World;

const SECRET: &str = "a secret of more than thirty-two bytes, for the tests";

fn hs256_world() -> World {
    World::with(|c| c.hs256(SECRET))
}

/// The token with one claim replaced; `None` takes it away.
fn with_claim(token: &str, name: &str, value: Option<Value>) -> String {
    let mut claims = jwt::claims(token);
    let members = claims.as_object_mut().unwrap();
    match value {
        Some(value) => members.insert(name.to_owned(), value),
        None => members.remove(name),
    };
    jwt::hs256(SECRET.as_bytes(), &jwt::header(token), &claims)
}

fn with_header(token: &str, name: &str, value: Option<Value>) -> String {
    let mut header = jwt::header(token);
    let members = header.as_object_mut().unwrap();
    match value {
        Some(value) => members.insert(name.to_owned(), value),
        None => members.remove(name),
    };
    jwt::hs256(SECRET.as_bytes(), &header, &jwt::claims(token))
}

#[track_caller]
fn refuses(world: &World, token: &str, what: &str) {
    assert!(!token.contains(['\r', '\n']), "{what}: not a header value");
    let before = (world.upstream.count(), world.upstream.opened());
    for path in ["/x", "/optional/x", "/auth/me"] {
        let answer = world.ask(get(path).bearer(token));
        assert_eq!(answer.status, 401, "{what} passed on {path}: {}", answer.text());
        answer.is_problem(401, &answer.code());
        assert!(
            matches!(answer.code().as_str(), "invalid_token" | "expired_token"),
            "{what}: {}",
            answer.code()
        );
    }
    world.saw_nothing_since(before, what);
}

#[test]
fn a_token_has_the_claims_that_the_contract_names() {
    let world = World::new();
    let tokens = world.user("alice");
    let header = jwt::header(&tokens.access);
    assert_eq!((header["typ"].as_str(), header["alg"].as_str()), (Some("at+jwt"), Some("EdDSA")));
    let claims = jwt::claims(&tokens.access);
    assert_eq!(claims["iss"], "gatepost");
    assert_eq!(claims["aud"], "app", "one audience is written as a string");
    assert_eq!(claims["username"], "alice");
    assert_eq!(claims["roles"], json!(["user"]));
    assert!(claims["amr"].is_array());
    assert!(claims["gen"].is_u64());
    let (iat, nbf, exp) =
        (claims["iat"].as_i64().unwrap(), claims["nbf"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    assert!((iat - jwt::now()).abs() < 60 && nbf <= iat && exp == iat + 900);
    for id in ["sub", "jti", "sid"] {
        assert_eq!(claims[id].as_str().unwrap().len(), 36, "{id}: {claims}");
    }
    for absent in ["name", "email", "email_verified"] {
        assert!(claims.get(absent).is_none(), "{absent}: {claims}");
    }
}

#[test]
fn extra_claims_and_audiences_are_as_configured() {
    let world = World::with(|c| {
        c.set("tokens", "claims", "{ identity = \"sub\", user = \"username\" }")
            .set("tokens", "audience", "[\"one\", \"two\"]")
            .set("tokens", "issuer", "\"https://id.example\"")
    });
    let tokens = world.user("alice");
    assert_eq!(tokens.claim("identity"), tokens.claim("sub"));
    assert_eq!(tokens.claim("user"), "alice");
    assert_eq!(tokens.claim("aud"), json!(["one", "two"]));
    assert_eq!(tokens.claim("iss"), "https://id.example");
    world.passes(get("/x").bearer(&tokens.access)).0.expect(200);
}

#[test]
fn without_an_audience_the_claim_is_left_out() {
    let world = World::with(|c| c.set("tokens", "audience", "[]"));
    let tokens = world.user("alice");
    assert!(jwt::claims(&tokens.access).get("aud").is_none());
    world.passes(get("/x").bearer(&tokens.access)).0.expect(200);
}

#[test]
fn the_public_keys_are_published_and_nothing_else_of_them() {
    let world = World::new();
    let tokens = world.user("alice");
    let answer = world.ask(get("/auth/jwks.json")).expect(200);
    assert_eq!(world.ask(get("/.well-known/jwks.json")).expect(200).text(), answer.text());
    assert!(!answer.header("cache-control").unwrap_or_default().contains("no-store"), "cacheable");
    let json = answer.json();
    let keys = json["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    assert_eq!((keys[0]["kty"].as_str(), keys[0]["crv"].as_str()), (Some("OKP"), Some("Ed25519")));
    assert_eq!(keys[0]["kid"], jwt::header(&tokens.access)["kid"]);
    assert!(keys[0].get("d").is_none());
}

#[test]
fn the_published_key_verifies_a_token() {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    let world = World::new();
    let token = world.user("alice").access;
    let jwks = world.ask(get("/auth/jwks.json")).json();
    let key = UnparsedPublicKey::new(&ED25519, jwt::decode(jwks["keys"][0]["x"].as_str().unwrap()));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    key.verify(signed.as_bytes(), &jwt::decode(signature)).unwrap();
}

#[test]
fn a_symmetric_key_is_never_published() {
    let world = hs256_world();
    assert_eq!(world.ask(get("/auth/jwks.json")).expect(200).json(), json!({"keys": []}));
    let token = world.user("alice").access;
    assert_eq!(jwt::header(&token)["alg"], "HS256");
    // The app that shares the secret can check it: ours is the same signature.
    assert_eq!(
        jwt::hs256_raw(
            SECRET.as_bytes(),
            &String::from_utf8(jwt::decode(jwt::part(&token, 0))).unwrap(),
            &String::from_utf8(jwt::decode(jwt::part(&token, 1))).unwrap(),
        ),
        token
    );
}

#[test]
fn our_own_forgery_with_nothing_changed_passes() {
    // The negative control: the forger's tools make good tokens, so the refusals below mean something.
    let world = hs256_world();
    let token = world.user("alice").access;
    let (_, seen) = world.passes(get("/x").bearer(with_claim(&token, "name", Some(json!("Alice")))));
    assert_eq!(seen.header("x-auth-name"), Some("Alice"));
}

#[test]
fn no_spelling_of_none_is_an_algorithm() {
    for world in [World::new(), hs256_world()] {
        let token = world.user("alice").access;
        let signature = jwt::part(&token, 2);
        let rewritten =
            |header: &Value| format!("{}.{}", jwt::encode(header.to_string()), jwt::part(&token, 1));
        for alg in [
            json!("none"),
            json!("None"),
            json!("NONE"),
            json!("nOnE"),
            json!(" none"),
            json!("none "),
            json!(""),
            json!(null),
            json!(false),
            json!(0),
            json!([]),
            json!(["none"]),
            json!({"alg": "none"}),
            json!("n\u{6f}ne\u{0}"),
            json!("HS256 "),
            json!("hs256"),
        ] {
            let mut header = jwt::header(&token);
            header["alg"] = alg.clone();
            let signed = rewritten(&header);
            refuses(&world, &format!("{signed}."), &format!("alg {alg} without signature"));
            refuses(&world, &format!("{signed}.{signature}"), &format!("alg {alg} with the signature"));
            refuses(&world, &signed, &format!("alg {alg} in two parts"));
        }
    }
}

#[test]
fn the_algorithm_is_the_keys_and_not_the_tokens() {
    let world = World::new();
    let token = world.user("alice").access;
    let jwks = world.ask(get("/auth/jwks.json")).json();
    let public = jwt::decode(jwks["keys"][0]["x"].as_str().unwrap());
    let mut pem = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00".to_vec();
    pem.extend_from_slice(&public);
    let mut header = jwt::header(&token);
    for alg in ["HS256", "HS384", "HS512", "RS256", "PS256", "ES256", "EdDSA", "Ed25519"] {
        header["alg"] = json!(alg);
        for secret in [
            public.as_slice(),
            &pem,
            b"",
            jwks.to_string().as_bytes(),
            jwks["keys"][0]["x"].as_str().unwrap().as_bytes(),
        ] {
            refuses(
                &world,
                &jwt::hs256(secret, &header, &jwt::claims(&token)),
                &format!("{alg} over the public key"),
            );
        }
    }
}

#[test]
fn the_key_is_found_by_its_exact_id_only() {
    let world = hs256_world();
    let token = world.user("alice").access;
    let kid = jwt::header(&token)["kid"].as_str().unwrap().to_owned();
    for other in [
        json!(""),
        json!("x"),
        json!(format!("{kid} ")),
        json!(kid.to_uppercase() + "A"),
        json!("../../dev/null"),
        json!("' OR 1=1 --"),
        json!(7),
        json!(null),
        json!([kid]),
        json!("/proc/sys/kernel/randomize_va_space"),
        json!("a".repeat(3000)),
    ] {
        refuses(&world, &with_header(&token, "kid", Some(other.clone())), &format!("kid {other}"));
    }
    refuses(&world, &with_header(&token, "kid", None), "no kid");
}

#[test]
fn a_token_brings_no_key_and_no_extension_of_its_own() {
    let world = hs256_world();
    let token = world.user("alice").access;
    for (name, value) in [
        ("jwk", json!({"kty": "oct", "k": jwt::encode(SECRET)})),
        ("jku", json!("http://127.0.0.1:1/jwks.json")),
        ("x5u", json!("http://127.0.0.1:1/c")),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
        ("x5t#S256", json!("AAAA")),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!(["b64"])),
    ] {
        refuses(&world, &with_header(&token, name, Some(value.clone())), &format!("{name} {value}"));
    }
    let mut header = jwt::header(&token);
    header["b64"] = json!(false);
    header["crit"] = json!(["b64"]);
    refuses(&world, &jwt::hs256(SECRET.as_bytes(), &header, &jwt::claims(&token)), "b64 false");
}

#[test]
fn no_token_makes_the_gateway_ask_anybody() {
    let world = hs256_world();
    let stranger = crate::support::upstream::Upstream::echo();
    let token = world.user("alice").access;
    let url = json!(format!("http://127.0.0.1:{}/keys", stranger.port()));
    for name in ["jku", "x5u", "kid"] {
        refuses(&world, &with_header(&token, name, Some(url.clone())), name);
    }
    refuses(&world, &with_claim(&token, "iss", Some(url)), "iss");
    assert_eq!(stranger.opened(), 0);
}

#[test]
fn the_type_is_checked() {
    let world = hs256_world();
    let token = world.user("alice").access;
    for typ in
        [json!("JWT"), json!("rt+jwt"), json!(""), json!("id+jwt"), json!(null), json!(7), json!("at+jwtx")]
    {
        refuses(&world, &with_header(&token, "typ", Some(typ.clone())), &format!("typ {typ}"));
    }
    refuses(&world, &with_header(&token, "typ", None), "no typ");
}

#[test]
fn each_required_claim_is_there_and_of_its_type() {
    let world = hs256_world();
    let token = world.user("alice").access;
    for name in ["iss", "aud", "sub", "iat", "nbf", "exp", "jti"] {
        refuses(&world, &with_claim(&token, name, None), &format!("no {name}"));
        for value in [json!(null), json!(true), json!({}), json!({"a": 1})] {
            refuses(&world, &with_claim(&token, name, Some(value.clone())), &format!("{name} {value}"));
        }
    }
    for name in ["iss", "sub", "jti"] {
        for value in [json!(7), json!(["x"]), json!("")] {
            refuses(&world, &with_claim(&token, name, Some(value.clone())), &format!("{name} {value}"));
        }
    }
    for name in ["iat", "nbf", "exp"] {
        let now = jwt::now() + 100;
        for value in
            [json!(now.to_string()), json!([now]), json!(""), json!(-1), json!(u64::MAX), json!(1e300)]
        {
            refuses(&world, &with_claim(&token, name, Some(value.clone())), &format!("{name} {value}"));
        }
    }
}

#[test]
fn issuer_and_audience_are_ours() {
    let world = hs256_world();
    let token = world.user("alice").access;
    for (name, value) in [
        ("iss", json!("Gatepost")),
        ("iss", json!("gatepost ")),
        ("iss", json!("https://evil.test")),
        ("iss", json!(["gatepost"])),
        ("aud", json!("other")),
        ("aud", json!(["other"])),
        ("aud", json!([])),
        ("aud", json!("")),
        ("aud", json!("APP")),
        ("aud", json!(["app", 7])),
    ] {
        refuses(&world, &with_claim(&token, name, Some(value.clone())), &format!("{name} {value}"));
    }
}

#[test]
fn times_are_held_to_the_second() {
    let world = hs256_world();
    let token = world.user("alice").access;
    let at = |iat: i64, nbf: i64, exp: i64| {
        let mut claims = jwt::claims(&token);
        (claims["iat"], claims["nbf"], claims["exp"]) = (json!(iat), json!(nbf), json!(exp));
        jwt::hs256(SECRET.as_bytes(), &jwt::header(&token), &claims)
    };
    let now = jwt::now();
    world.passes(get("/x").bearer(at(now, now, now + 300))).0.expect(200);
    world.refuses(get("/x").bearer(at(now - 900, now - 900, now - 1)), 401, "expired_token");
    world.refuses(get("/x").bearer(at(now - 100, now - 100, now - 90)), 401, "expired_token");
    refuses(&world, &at(now, now + 60, now + 300), "not yet valid");
    refuses(&world, &at(now + 60, now + 60, now + 300), "issued in the future");
    refuses(&world, &at(now, now, now + 901 + 60), "a longer life than we issue");
    refuses(&world, &at(0, 0, now + 60), "a longer life than we issue, from 1970");
    refuses(&world, &at(now, now, now + 100 * 365 * 86400), "a hundred years");
    refuses(&world, &at(now, now, 0), "exp 0");
}

#[test]
fn claims_that_would_split_a_header_are_refused_or_encoded() {
    let world = hs256_world();
    let token = world.user("alice").access;
    for sub in ["a\r\nX-Auth-Roles: admin", "a\u{0}b", "a b", "é", &"a".repeat(65), &"a".repeat(6000)] {
        refuses(&world, &with_claim(&token, "sub", Some(json!(sub))), &format!("sub {sub:?}"));
    }
    for roles in [
        json!("admin"),
        json!(["admin\r\nX-Evil: 1"]),
        json!([["admin"]]),
        json!({"0": "admin"}),
        json!([7]),
        json!(["user,admin"]),
    ] {
        refuses(&world, &with_claim(&token, "roles", Some(roles.clone())), &format!("roles {roles}"));
    }
    let name = "x\r\nX-Auth-Roles: admin";
    let (_, seen) = world.passes(get("/x").bearer(with_claim(&token, "name", Some(json!(name)))));
    assert_eq!(seen.header("x-auth-name"), Some("x%0D%0AX-Auth-Roles:%20admin"));
    assert_eq!(seen.header("x-auth-roles"), Some("user"));
    world.upstream.saw_only_proper_requests();
}

#[test]
fn a_duplicate_member_is_refused() {
    let world = hs256_world();
    let token = world.user("alice").access;
    let header = String::from_utf8(jwt::decode(jwt::part(&token, 0))).unwrap();
    let claims = String::from_utf8(jwt::decode(jwt::part(&token, 1))).unwrap();
    let again = |member: &str| format!("{},{member}}}", claims.strip_suffix('}').unwrap());
    for member in [
        r#""roles":["admin"]"#,
        r#""sub":"someone-else""#,
        r#""exp":9999999999"#,
        r#""iss":"gatepost""#,
        r#""aud":"app""#,
    ] {
        refuses(&world, &jwt::hs256_raw(SECRET.as_bytes(), &header, &again(member)), member);
    }
    let twice = format!("{},\"alg\":\"HS256\"}}", header.strip_suffix('}').unwrap());
    refuses(&world, &jwt::hs256_raw(SECRET.as_bytes(), &twice, &claims), "alg twice");
}

#[test]
fn what_is_no_token_is_refused() {
    for world in [World::new(), hs256_world()] {
        let token = world.user("alice").access;
        let (head, body, signature) = (jwt::part(&token, 0), jwt::part(&token, 1), jwt::part(&token, 2));
        let flipped: String = {
            let mut bytes = jwt::decode(signature);
            bytes[0] ^= 1;
            jwt::encode(bytes)
        };
        let zero = jwt::encode(vec![0; jwt::decode(signature).len()]);
        let large = "a".repeat(9000);
        let mut tokens = vec![
            "x".to_owned(),
            "a.b".to_owned(),
            "a.b.c".to_owned(),
            "..".to_owned(),
            ".".to_owned(),
            "...".to_owned(),
            "....".to_owned(),
            head.to_owned(),
            format!("{head}.{body}"),
            format!("{head}.{body}."),
            format!("{head}..{signature}"),
            format!(".{body}.{signature}"),
            format!("{token}.x"),
            format!("{token}."),
            format!(".{token}"),
            format!("{token}{token}"),
            format!("{head}.{body}.{flipped}"),
            format!("{head}.{body}.{zero}"),
            format!("{head}.{body}.{}", &signature[..signature.len() - 1]),
            format!("{head}.{body}.{signature}A"),
            format!("{head}.{body}.{signature}="),
            format!("{head}=.{body}.{signature}"),
            format!("{head}.{body}=.{signature}"),
            format!("{token}%20"),
            format!("{head}.{body}.{signature}.{signature}.{signature}"),
            large.clone(),
            format!("{head}.{large}.{signature}"),
            ".".repeat(5000),
        ];
        // The last character of a signature may carry bits that mean nothing: they must be zero.
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let last = alphabet.iter().position(|&c| c == signature.as_bytes()[signature.len() - 1]).unwrap();
        let noncanonical = format!("{}{}", &signature[..signature.len() - 1], char::from(alphabet[last ^ 1]));
        tokens.push(format!("{head}.{body}.{noncanonical}"));
        for token in &tokens {
            refuses(&world, token, &token[..token.len().min(60)]);
        }
    }
}

#[test]
fn a_token_of_another_gateway_is_refused() {
    let (ours, theirs) = (World::new(), World::new());
    let token = theirs.user("alice").access;
    refuses(&ours, &token, "another gateway's token");
    let (ours, theirs) =
        (hs256_world(), World::with(|c| c.hs256("another secret of more than thirty-two bytes")));
    refuses(&ours, &theirs.user("alice").access, "another secret's token");
}

#[test]
fn a_token_in_the_query_or_a_cookie_is_no_credential() {
    let world = World::new();
    let token = world.user("alice").access;
    world.refuses(get(&format!("/x?access_token={token}&token={token}&jwt={token}")), 401, "missing_token");
    world.refuses(
        get("/x").header("Cookie", format!("access_token={token}; token={token}")),
        401,
        "missing_token",
    );
    for scheme in ["Basic", "Token", "JWT", "Digest", "DPoP", "BearerX", "Negotiate"] {
        world.refuses(get("/x").header("Authorization", format!("{scheme} {token}")), 401, "missing_token");
    }
    world.refuses(get("/x").header("X-Access-Token", &token), 401, "missing_token");
}

#[test]
fn the_scheme_is_read_in_any_case() {
    let world = World::new();
    let token = world.user("alice").access;
    for scheme in ["bearer", "BEARER", "bEaReR"] {
        world.passes(get("/x").header("Authorization", format!("{scheme} {token}"))).0.expect(200);
    }
}

#[test]
fn an_empty_or_broken_credential_is_never_anonymous() {
    let world = World::new();
    let token = world.user("alice").access;
    for value in [
        "Bearer",
        "Bearer ",
        &format!("Bearer {token} x"),
        &format!("Bearer {token},{token}"),
        "Bearer é",
        &format!("Bearer \"{token}\""),
    ] {
        for path in ["/x", "/optional/x", "/auth/me"] {
            let before = (world.upstream.count(), world.upstream.opened());
            let answer = world.ask(get(path).header("Authorization", value));
            assert!(matches!(answer.status, 400 | 401), "{value:?} on {path}: {}", answer.status);
            assert_ne!(answer.code(), "missing_token", "{value:?} was taken for no credential");
            world.saw_nothing_since(before, value);
        }
    }
}

#[test]
fn two_credentials_are_ambiguous_even_when_they_are_equal() {
    let world = World::with(|c| c.set("tokens", "accept", "[\"bearer\", \"jwt\", \"x-access-token\"]"));
    let token = world.user("alice").access;
    let bearer = format!("Bearer {token}");
    for path in ["/x", "/optional/x", "/auth/me"] {
        let twice = get(path).header("Authorization", &bearer).header("Authorization", &bearer);
        world.refuses(twice, 400, "ambiguous_credentials");
        world.refuses(
            get(path).bearer(&token).header("x-access-token", &token),
            400,
            "ambiguous_credentials",
        );
        let basic = get(path).header("Authorization", "Basic YTpi").header("x-access-token", &token);
        assert_ne!(world.ask(basic).status, 500);
    }
    // On public routes nobody looks.
    let (_, _) =
        world.passes(get("/public/x").header("Authorization", &bearer).header("Authorization", &bearer));
}

#[test]
fn other_forms_are_accepted_when_they_are_configured() {
    let world = World::with(|c| c.set("tokens", "accept", "[\"bearer\", \"jwt\", \"x-access-token\"]"));
    let token = world.user("alice").access;
    for request in [
        get("/x").bearer(&token),
        get("/x").header("Authorization", format!("JWT {token}")),
        get("/x").header("x-access-token", &token),
        get("/x").header("X-Access-Token", &token),
    ] {
        let (_, seen) = world.passes(request);
        assert_eq!(seen.header("x-auth-user"), Some("alice"));
        assert!(!seen.text().contains(&token), "a token of ours is not passed on, in any accepted form");
    }
}

#[test]
fn a_token_is_revoked_by_its_id_on_the_command_line() {
    let world = World::new();
    let (one, other) = (world.user("alice"), world.login("alice"));
    world.passes(get("/x").bearer(&one.access)).0.expect(200);
    world.cli_with(&["token", "revoke", &one.access], "", &[]).succeeds();
    world.refuses(get("/x").bearer(&one.access), 401, "revoked_token");
    world.passes(get("/x").bearer(&other.access)).0.expect(200);
}

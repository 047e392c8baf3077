//! Sessions: rotation, grace, reuse, and every way in which one ends at once.

use std::thread;

use serde_json::json;

use crate::support::gateway::Tokens;
use crate::support::request::{Request, get, post};
use crate::support::world::World;
use crate::support::{PASSWORD, eventually};

/// Neither token of the pair is worth anything any more.
#[track_caller]
fn is_over(world: &World, tokens: &Tokens) {
    world.refuses(get("/x").bearer(&tokens.access), 401, "revoked_token");
    world.refuses(get("/auth/me").bearer(&tokens.access), 401, "revoked_token");
    world.refresh(&tokens.refresh).is_problem(401, "invalid_grant");
}

#[track_caller]
fn is_alive(world: &World, tokens: &Tokens) {
    world.passes(get("/x").bearer(&tokens.access)).0.expect(200);
}

#[test]
fn refreshing_gives_a_new_pair_of_the_same_session() {
    let world = World::new();
    let first = world.user("alice");
    let answer = world.refresh(&first.refresh).expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.json()["token_type"], "Bearer");
    assert_eq!(answer.json()["expires_in"], 900);
    let second = Tokens::of(answer);
    assert_ne!(first.refresh, second.refresh);
    assert_ne!(first.text("jti"), second.text("jti"));
    assert_eq!(first.text("sid"), second.text("sid"));
    is_alive(&world, &first);
    is_alive(&world, &second);
}

#[test]
fn the_refresh_token_may_come_as_bearer_or_in_a_form() {
    let world = World::new();
    let tokens = world.user("alice");
    let next = Tokens::of(world.ask(post("/auth/refresh").bearer(&tokens.refresh)));
    let next = Tokens::of(world.ask(post("/auth/refresh").form(&[("refresh_token", &next.refresh)])));
    Tokens::of(world.ask(post("/auth/refresh").multipart(&[("refresh_token", &next.refresh)])));
}

#[test]
fn what_is_no_refresh_token_is_401_invalid_grant() {
    let world = World::new();
    let tokens = world.user("alice");
    let mut changed = tokens.refresh.clone().into_bytes();
    let last = changed.len() - 3;
    changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    for token in [
        "",
        "x",
        "gpr_",
        "gpr_AAAA",
        &tokens.access,
        &changed,
        &format!("{} ", tokens.refresh),
        &tokens.refresh[4..],
        &tokens.refresh[..tokens.refresh.len() - 1],
        &format!("{}A", tokens.refresh),
    ] {
        world.refuses(post("/auth/refresh").json(json!({"refresh_token": token})), 401, "invalid_grant");
    }
    // None of that has ended the session: only a genuine spent token does.
    Tokens::of(world.refresh(&tokens.refresh));
    world.refuses(post("/auth/refresh").json(json!({"refresh_token": 7})), 422, "invalid_input");
}

#[test]
fn a_refresh_token_is_no_access_token() {
    let world = World::new();
    let tokens = world.user("alice");
    world.refuses(get("/x").bearer(&tokens.refresh), 401, "invalid_token");
}

#[test]
fn within_the_grace_the_parent_gets_the_same_next_token_again() {
    let world = World::new();
    let first = world.user("alice");
    let second = Tokens::of(world.refresh(&first.refresh));
    let again = Tokens::of(world.refresh(&first.refresh));
    assert_eq!(again.refresh, second.refresh);
    assert_ne!(again.text("jti"), second.text("jti"), "with a new access token");
    is_alive(&world, &again);
}

#[test]
fn once_its_child_was_used_the_parent_ends_the_session() {
    let world = World::new();
    let first = world.user("alice");
    let second = Tokens::of(world.refresh(&first.refresh));
    let third = Tokens::of(world.refresh(&second.refresh));
    world.refuses(post("/auth/refresh").json(json!({"refresh_token": first.refresh})), 401, "invalid_grant");
    for tokens in [&first, &second, &third] {
        is_over(&world, tokens);
    }
}

#[test]
fn after_the_grace_a_spent_token_ends_the_session() {
    let world = World::with(|c| c.set("tokens", "refresh_grace", "\"1s\""));
    let first = world.user("alice");
    let other = world.login("alice");
    let second = Tokens::of(world.refresh(&first.refresh));
    let refused = eventually("the grace is over", || {
        let answer = world.refresh(&first.refresh);
        (answer.status != 200).then_some(answer)
    });
    refused.is_problem(401, "invalid_grant");
    is_over(&world, &second);
    is_alive(&world, &other);
}

#[test]
fn with_no_grace_a_second_use_ends_the_session_at_once() {
    let world = World::with(|c| c.set("tokens", "refresh_grace", "\"0s\""));
    let first = world.user("alice");
    let second = Tokens::of(world.refresh(&first.refresh));
    world.refresh(&first.refresh).is_problem(401, "invalid_grant");
    is_over(&world, &second);
}

#[test]
fn eight_refreshes_at_once_agree_on_one_successor() {
    let world = World::new();
    let first = world.user("alice");
    let answers: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| world.refresh(&first.refresh))).collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect()
    });
    let mut successors: Vec<_> = answers.into_iter().map(|a| Tokens::of(a).refresh).collect();
    successors.dedup();
    assert_eq!(successors.len(), 1);
    Tokens::of(world.refresh(&successors[0]));
}

#[test]
fn logout_ends_this_session_and_no_other() {
    let world = World::new();
    let here = world.user("alice");
    let there = world.login("alice");
    let renewed = Tokens::of(world.refresh(&here.refresh));

    let answer = world.ask(post("/auth/logout").bearer(&here.access)).expect(200);

    assert_eq!(answer.member("message"), "Successfully logged out!");
    is_over(&world, &here);
    is_over(&world, &renewed);
    is_alive(&world, &there);
    Tokens::of(world.refresh(&there.refresh));
}

#[test]
fn logout_works_with_the_refresh_token_alone_or_beside_its_access_token() {
    let world = World::new();
    world.register("alice").expect(201);
    let bodies: [fn(&Tokens) -> Request; 3] = [
        |t| post("/auth/logout").json(json!({"refresh_token": t.refresh})),
        |t| post("/auth/logout").form(&[("refresh_token", &t.refresh)]),
        |t| post("/auth/logout").bearer(&t.access).json(json!({"refresh_token": t.refresh})),
    ];
    for request in bodies {
        let tokens = world.login("alice");
        world.ask(request(&tokens)).expect(200);
        is_over(&world, &tokens);
    }
}

#[test]
fn logout_without_a_valid_token_is_401_and_ends_nothing() {
    let world = World::new();
    let alice = world.user("alice");
    let bob = world.user("bob");
    world.refuses(post("/auth/logout"), 401, "missing_token");
    world.refuses(post("/auth/logout").bearer("rubbish"), 401, "invalid_token");
    let answer = world.ask(post("/auth/logout").json(json!({"refresh_token": "gpr_rubbish"})));
    assert_eq!(answer.status, 401, "{}", answer.text());
    // Tokens of two sessions: neither may end.
    let answer =
        world.ask(post("/auth/logout").bearer(&alice.access).json(json!({"refresh_token": bob.refresh})));
    assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.text());
    is_alive(&world, &alice);
    is_alive(&world, &bob);
    Tokens::of(world.refresh(&bob.refresh));
}

#[test]
fn logging_out_twice_is_401_the_second_time() {
    let world = World::new();
    let tokens = world.user("alice");
    world.ask(post("/auth/logout").bearer(&tokens.access)).expect(200);
    world.refuses(post("/auth/logout").bearer(&tokens.access), 401, "revoked_token");
}

#[test]
fn logout_all_ends_every_session_of_the_caller() {
    let world = World::new();
    let all = [world.user("alice"), world.login("alice"), world.login("alice")];
    let bob = world.user("bob");
    let answer = world.ask(post("/auth/logout-all").bearer(&all[0].access)).expect(200);
    assert_eq!(answer.json()["sessions"], 3);
    assert!(answer.json()["message"].is_string());
    for tokens in &all {
        is_over(&world, tokens);
    }
    is_alive(&world, &bob);
    is_alive(&world, &world.login("alice"));
}

#[test]
fn changing_the_password_ends_all_other_sessions() {
    let world = World::new();
    let here = world.user("alice");
    let there = world.login("alice");
    let change = |old: &str, new: &str| {
        let body = json!({"current_password": old, "new_password": new});
        post("/auth/password").bearer(&here.access).json(body)
    };
    world.refuses(change("wrong password", "another password 1"), 401, "invalid_credentials");
    world.refuses(change(PASSWORD, "short"), 422, "invalid_input");
    is_alive(&world, &there);

    let answer = world.ask(change(PASSWORD, "another password 1")).expect(200);

    is_over(&world, &there);
    // A new password also refuses the old tokens of this session, but the session goes on.
    world.refuses(get("/x").bearer(&here.access), 401, "revoked_token");
    let next = Tokens::of(world.refresh(&here.refresh));
    is_alive(&world, &next);
    world.try_login("alice", PASSWORD).is_problem(401, "invalid_credentials");
    Tokens::of(world.try_login("alice", "another password 1"));
    assert!(!answer.text().contains("another password"));
}

#[test]
fn sessions_are_listed_and_ended_one_by_one() {
    let world = World::new();
    world.register("alice").expect(201);
    let login = |agent: &str| {
        let body = json!({"username": "alice", "password": PASSWORD});
        Tokens::of(world.ask(post("/auth/login").header("User-Agent", agent).json(body)))
    };
    let (phone, laptop) = (login("phone/1"), login("laptop/2"));
    let list = world.ask(get("/auth/sessions").bearer(&laptop.access)).expect(200).json();
    let sessions =
        list.as_array().or_else(|| list["sessions"].as_array()).unwrap_or_else(|| panic!("{list}")).clone();
    assert_eq!(sessions.len(), 2, "{list}");
    for (tokens, client, current) in [(&phone, "phone/1", false), (&laptop, "laptop/2", true)] {
        let session =
            sessions.iter().find(|s| s["id"] == tokens.claim("sid")).unwrap_or_else(|| panic!("{list}"));
        assert_eq!((session["client"].as_str(), session["current"].as_bool()), (Some(client), Some(current)));
        assert_eq!(session["address"], "127.0.0.1");
        assert!(!session["created_at"].is_null() && !session["last_used_at"].is_null());
    }
    assert!(!list.to_string().contains("gpr_"));

    let end = |tokens: &Tokens, sid: &str| {
        Request::new("DELETE", &format!("/auth/sessions/{sid}")).bearer(&tokens.access)
    };
    world.ask(end(&laptop, &phone.text("sid"))).expect(204);
    is_over(&world, &phone);
    is_alive(&world, &laptop);

    // Other people's sessions are not there.
    let bob = world.user("bob");
    let answer = world.ask(end(&bob, &laptop.text("sid")));
    assert_eq!(answer.status, 404, "{}", answer.text());
    assert_eq!(world.ask(end(&bob, "rubbish")).status, 404);
    is_alive(&world, &laptop);
    world.ask(end(&laptop, &laptop.text("sid"))).expect(204);
    is_over(&world, &laptop);
}

#[test]
fn the_oldest_session_goes_when_there_are_too_many() {
    let world = World::with(|c| c.set("auth", "sessions_per_user", "2"));
    let first = world.user("alice");
    let second = world.login("alice");
    let third = world.login("alice");
    is_over(&world, &first);
    is_alive(&world, &second);
    is_alive(&world, &third);
}

#[test]
fn a_disabled_account_is_refused_at_once_and_only_told_to_who_knows_the_password() {
    let world = World::new();
    let tokens = world.user("alice");
    world.cli(&["user", "disable", "alice"]).succeeds();
    is_over(&world, &tokens);
    world.refuses(
        post("/auth/login").json(json!({"username": "alice", "password": PASSWORD})),
        403,
        "account_disabled",
    );
    world.try_login("alice", "wrong password").is_problem(401, "invalid_credentials");
    world.cli(&["user", "enable", "alice"]).succeeds();
    is_alive(&world, &world.login("alice"));
    // Enabling gives nothing back.
    world.refuses(get("/x").bearer(&tokens.access), 401, "revoked_token");
}

#[test]
fn a_change_of_roles_refuses_the_old_tokens_and_keeps_the_session() {
    let world = World::new();
    let tokens = world.user("alice");
    world.refuses(get("/admin/x").bearer(&tokens.access), 403, "forbidden");
    world.cli(&["user", "set", "alice", "--role", "admin"]).succeeds();
    world.refuses(get("/x").bearer(&tokens.access), 401, "revoked_token");
    let next = Tokens::of(world.refresh(&tokens.refresh));
    world.passes(get("/admin/x").bearer(&next.access)).0.expect(200);
    world.cli(&["user", "set", "alice", "--role", "user"]).succeeds();
    world.refuses(get("/admin/x").bearer(&next.access), 401, "revoked_token");
    let last = Tokens::of(world.refresh(&next.refresh));
    world.refuses(get("/admin/x").bearer(&last.access), 403, "forbidden");
}

#[test]
fn an_access_token_expires_and_logout_still_takes_the_refresh_token_beside_it() {
    let world = World::with(|c| c.set("tokens", "access_ttl", "\"1s\""));
    let tokens = world.user("alice");
    let answer = eventually("the token has expired", || {
        let answer = world.ask(get("/x").bearer(&tokens.access));
        (answer.status != 200).then_some(answer)
    });
    answer.is_problem(401, "expired_token");
    let both = post("/auth/logout").bearer(&tokens.access).json(json!({"refresh_token": tokens.refresh}));
    world.ask(both).expect(200);
    world.refresh(&tokens.refresh).is_problem(401, "invalid_grant");
}

#[test]
fn a_session_ends_with_its_absolute_life_however_often_it_is_refreshed() {
    let world = World::with(|c| {
        c.set("tokens", "session_ttl", "\"2s\"").set("tokens", "refresh_ttl", "\"2s\"").set(
            "tokens",
            "access_ttl",
            "\"1s\"",
        )
    });
    let mut tokens = world.user("alice");
    let refused = eventually("the session is over", || {
        let answer = world.refresh(&tokens.refresh);
        if answer.status == 200 {
            tokens = Tokens::of(answer);
            return None;
        }
        Some(answer)
    });
    refused.is_problem(401, "invalid_grant");
}

#[test]
fn after_the_logout_answer_no_concurrent_request_passes() {
    let world = World::new();
    let tokens = world.user("alice");
    let mut open: Vec<_> = (0..4).map(|_| world.connect()).collect();
    let request = get("/x").bearer(&tokens.access).bytes();
    // Warm connections and caches on every worker.
    for client in &mut open {
        client.send(&request).response().expect(200);
    }
    world.ask(post("/auth/logout").bearer(&tokens.access)).expect(200);
    let before = world.upstream.count();
    for client in &mut open {
        client.send(&request).response().is_problem(401, "revoked_token");
    }
    assert_eq!(world.upstream.count(), before);
}

//! Moving in: accounts that another software had, while the gateway serves and whatever interrupts it.

use std::fmt::Write as _;
use std::thread;

use serde_json::json;

use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::request::{get, post};
use crate::support::world::World;

/// Made by werkzeug 3: `generate_password_hash("password", "pbkdf2:sha256:1")` with the salt `salt`.
const HASH: &str = "pbkdf2:sha256:1$salt$120fb6cffcf8b32c43e7225256c4f837a86548c92ccc35480805987cb70be17b";

fn lines(count: usize) -> String {
    let mut text = String::new();
    for n in 1..=count {
        let line = json!({"id": n, "username": format!("user{n}"), "password_hash": HASH});
        writeln!(text, "{line}").unwrap();
    }
    text
}

fn import(gateway: &Gateway, input: &str) -> String {
    gateway.cli_with(&["user", "import", "-", "--format", "jsonl"], input, &[]).succeeds().stdout
}

#[test]
fn imported_users_log_in_while_it_goes_on_and_reach_the_app_under_their_ids() {
    let world = World::new();
    let input = lines(1500);
    thread::scope(|scope| {
        let importing = scope.spawn(|| import(&world.gateway, &input));
        eventually("the first is there", || {
            (world.gateway.try_login("user1", "password").status == 200).then_some(())
        });
        let said = importing.join().unwrap();
        assert_eq!(said, "1500 created, 0 unchanged, 0 refused\n");
    });
    let tokens = crate::support::gateway::Tokens::of(world.gateway.try_login("User1500", "password"));
    assert_eq!(tokens.text("sub"), "1500");
    let (_, seen) = world.passes(get("/hello").bearer(&tokens.access));
    assert_eq!(seen.header("x-auth-id"), Some("1500"));
    assert_eq!(world.gateway.try_login("user1", "passwore").status, 401);
    // The hash of before is gone with the first login.
    let exported = world.gateway.cli(&["user", "export"]).succeeds().stdout;
    let line =
        |name: &str| exported.lines().find(|line| line.contains(&format!("{name:?}"))).unwrap().to_owned();
    assert!(
        line("user1500").contains("$argon2id$") && line("user2").contains("pbkdf2:"),
        "{}",
        line("user2")
    );
}

#[test]
fn nobody_can_register_a_name_that_an_import_holds() {
    let world = World::new();
    let line = json!({"username": "alice", "email": "a@example.com", "password_hash": HASH}).to_string();
    assert_eq!(import(&world.gateway, &line), "1 created, 0 unchanged, 0 refused\n");
    for (name, email, code) in
        [("Alice", "x@example.com", "user_exists"), ("eve", "A@example.com", "email_taken")]
    {
        let body = json!({"username": name, "email": email, "password": "correct horse"});
        world.refuses(post("/auth/register").json(body), 409, code);
    }
    // And who was faster than the import does not become its user.
    world.gateway.register("mallory").expect(201);
    let line = json!({"username": "mallory", "password_hash": HASH}).to_string();
    let ended = world.gateway.cli_with(&["user", "import", "-", "--format", "jsonl"], &line, &[]).exits(1);
    let why = "line 1: mallory: the username belongs to an account that was not imported\n";
    assert!(ended.stdout.starts_with(why), "{}", ended.stdout);
    assert_eq!(world.gateway.try_login("mallory", "password").status, 401);
}

#[test]
fn who_has_no_password_gets_one_from_the_operator_and_in_by_nothing_else() {
    let world = World::new();
    let line = json!({"username": "alice", "password_hash": null}).to_string();
    let said = import(&world.gateway, &line);
    assert!(
        said.starts_with("without a password: 1;") && said.ends_with("1 created, 0 unchanged, 0 refused\n")
    );
    for typed in ["", "!", "null", "password"] {
        let body = json!({"username": "alice", "password": typed});
        world.refuses(post("/auth/login").json(body), 401, "invalid_credentials");
    }
    let passwd = ["user", "passwd", "alice", "--password-stdin"];
    world.gateway.cli_with(&passwd, "correct horse at last\n", &[]).succeeds();
    let tokens =
        crate::support::gateway::Tokens::of(world.gateway.try_login("alice", "correct horse at last"));
    world.passes(get("/hello").bearer(&tokens.access)).0.expect(200);
}

#[test]
fn an_import_that_the_death_of_the_gateway_interrupts_is_finished_by_the_next() {
    let mut world = World::new();
    let input = lines(1500);
    let gateway = &world.gateway;
    thread::scope(|scope| {
        let importing =
            scope.spawn(|| gateway.cli_with(&["user", "import", "-", "--format", "jsonl"], &input, &[]));
        eventually("the first is there", || {
            (gateway.try_login("user1", "password").status == 200).then_some(())
        });
        let pid = rustix::process::Pid::from_raw(i32::try_from(gateway.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        // It may have been done before, or have gone on with the store itself.
        importing.join().unwrap();
    });
    world.gateway.kill();
    let said = import(&world.gateway, &input);
    assert!(said.contains(" unchanged, 0 refused\n"), "{said}");
    assert!(import(&world.gateway, &input).starts_with("0 created, 1500 unchanged,"));
    world.gateway.start_again();
    assert_eq!(world.gateway.try_login("user1500", "password").status, 200);
}

//! What was acknowledged holds, whenever the process is killed, and nothing is there by half.

use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::support::client::{Client, Response};
use crate::support::gateway::Tokens;
use crate::support::request::{Request, get, post};
use crate::support::wire::Wire;
use crate::support::world::World;
use crate::support::{PASSWORD, eventually};

const ROUNDS: usize = 20;
const WRITERS: usize = 32;
/// Acknowledged calls in a round before the process is killed.
const ACKNOWLEDGED: usize = 150;

/// One user's history: what was acknowledged, and the one call that may or may not have happened.
struct Account {
    name: String,
    registered: bool,
    password: String,
    /// The session that lives, if any.
    session: Option<Tokens>,
    /// Sessions whose end was acknowledged.
    ended: Vec<Tokens>,
    /// What was asked last and never answered.
    open: Option<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Register,
    Login,
    Refresh,
    ChangePassword,
    Logout,
}

/// Asks on a connection of its own; None when the process died before the answer was whole.
fn ask(world: &World, request: &Request) -> Option<Response> {
    let stream = TcpStream::connect(world.address()).ok()?;
    let mut wire = Wire::new(stream);
    if !wire.send(&request.bytes()) {
        return None;
    }
    let mut response = Client::parse(&wire.until(b"\r\n\r\n")?);
    let mut body = response.body_reader("POST");
    response.body = body.whole(&mut wire);
    body.fault.is_none().then_some(response)
}

impl Account {
    fn new(name: String) -> Self {
        Self {
            name,
            registered: false,
            password: PASSWORD.to_owned(),
            session: None,
            ended: Vec::new(),
            open: None,
        }
    }

    fn next(&self, turn: usize) -> Step {
        match (&self.session, turn % 4) {
            _ if !self.registered => Step::Register,
            (None, _) => Step::Login,
            (Some(_), 0 | 2) => Step::Refresh,
            (Some(_), 1) => Step::ChangePassword,
            (Some(_), _) => Step::Logout,
        }
    }

    /// One call. False: the process is gone, and `open` says what may have happened.
    fn step(&mut self, world: &World, turn: usize) -> bool {
        let step = self.next(turn);
        self.open = Some(step);
        let new_password = format!("{PASSWORD} {turn}");
        let session = self.session.clone();
        let access = || session.as_ref().unwrap().access.clone();
        let request = match step {
            Step::Register => {
                post("/auth/register").json(json!({"username": self.name, "password": self.password}))
            }
            Step::Login => {
                post("/auth/login").json(json!({"username": self.name, "password": self.password}))
            }
            Step::Refresh => {
                post("/auth/refresh").json(json!({"refresh_token": session.as_ref().unwrap().refresh}))
            }
            Step::ChangePassword => post("/auth/password")
                .bearer(access())
                .json(json!({"current_password": self.password, "new_password": new_password})),
            Step::Logout => post("/auth/logout").bearer(access()),
        };
        let Some(answer) = ask(world, &request) else { return false };
        assert!(answer.status < 300, "{step:?} of {}: {} {}", self.name, answer.status, answer.text());
        self.open = None;
        match step {
            Step::Register => self.registered = true,
            Step::Login | Step::Refresh => self.session = Some(Tokens::of(answer)),
            Step::ChangePassword => {
                self.password = new_password;
                // The old access token is refused from now on: the next needs a fresh one.
                self.open = Some(Step::Refresh);
                let refresh = &self.session.as_ref().unwrap().refresh;
                let Some(answer) = ask(world, &post("/auth/refresh").json(json!({"refresh_token": refresh})))
                else {
                    return false;
                };
                self.session = Some(Tokens::of(answer));
                self.open = None;
            }
            Step::Logout => self.ended.push(self.session.take().unwrap()),
        }
        true
    }

    /// Holds the account against the restarted process.
    fn holds(&mut self, world: &World, turn: usize) {
        let name = self.name.clone();
        if !self.registered {
            let status = world.register(&name).status;
            assert!(status == 201 || status == 409 && self.open == Some(Step::Register), "{name}: {status}");
            self.registered = true;
        }
        for ended in self.ended.drain(..) {
            let answer = world.ask(get("/x").bearer(&ended.access));
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "revoked_token"),
                "{name}: a logout is lost"
            );
            assert_eq!(
                world.refresh(&ended.refresh).status,
                401,
                "{name}: a logout is lost for its refresh token"
            );
        }
        let changed = format!("{PASSWORD} {turn}");
        let login = world.try_login(&name, &self.password);
        if login.status != 200 {
            assert_eq!(self.open, Some(Step::ChangePassword), "{name}: {} {}", login.status, login.text());
            Tokens::of(world.try_login(&name, &changed));
            self.password = changed;
        } else if self.open == Some(Step::ChangePassword) {
            assert_eq!(world.try_login(&name, &changed).status, 401, "{name}: two passwords");
        }
        if let Some(session) = self.session.take() {
            let answer = world.refresh(&session.refresh);
            let may_have_ended = self.open == Some(Step::Logout);
            assert!(
                answer.status == 200 || may_have_ended && answer.status == 401,
                "{name}, {:?}: {}",
                self.open,
                answer.text()
            );
            if answer.status == 401 {
                assert_eq!(
                    world.ask(get("/x").bearer(&session.access)).code(),
                    "revoked_token",
                    "{name}: half a logout"
                );
            } else {
                self.session = Some(Tokens::of(answer));
            }
        }
        self.open = None;
    }
}

#[test]
fn what_was_acknowledged_holds_after_every_kill() {
    let mut world = World::with(|c| {
        c.set("tokens", "refresh_grace", "\"5m\"").set("auth.password", "queue", "1000").set(
            "auth.password",
            "concurrent",
            "2",
        )
    });
    let mut accounts: Vec<Account> = Vec::new();
    for round in 0..ROUNDS {
        // Some users are new in each round, the others go on where they were.
        for (i, slot) in (0..WRITERS).enumerate() {
            if round == 0 {
                accounts.push(Account::new(format!("user-0-{slot}")));
            } else if i % 3 == round % 3 {
                accounts[i] = Account::new(format!("user-{round}-{slot}"));
            }
        }
        let acknowledged = AtomicUsize::new(0);
        let turns: Vec<usize> = thread::scope(|scope| {
            let writers: Vec<_> = accounts
                .iter_mut()
                .map(|account| {
                    let (world, acknowledged) = (&world, &acknowledged);
                    scope.spawn(move || {
                        let mut turn = round * 100_000;
                        while account.step(world, turn) {
                            acknowledged.fetch_add(1, Ordering::SeqCst);
                            turn += 1;
                        }
                        turn
                    })
                })
                .collect();
            let enough = ACKNOWLEDGED + round * 7;
            eventually("enough is acknowledged", || {
                (acknowledged.load(Ordering::SeqCst) >= enough).then_some(())
            });
            world.signal(rustix::process::Signal::KILL);
            writers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        world.kill();
        world.start_again();
        for (account, turn) in accounts.iter_mut().zip(turns) {
            account.holds(&world, turn);
        }
    }
}

#[test]
fn a_restart_keeps_accounts_sessions_keys_and_revocations() {
    let mut world = World::new();
    let (kept, ended) = (world.user("alice"), world.login("alice"));
    world.ask(post("/auth/logout").bearer(&ended.access)).expect(200);
    let disabled = world.user("bob");
    world.cli(&["user", "disable", "bob"]).succeeds();
    let keys = world.ask(get("/auth/jwks.json")).text();
    for kill in [false, true] {
        if kill {
            world.kill();
        } else {
            assert!(world.stop().success());
        }
        world.start_again();
        world.passes(get("/x").bearer(&kept.access)).0.expect(200);
        world.refuses(get("/x").bearer(&ended.access), 401, "revoked_token");
        world.refuses(get("/x").bearer(&disabled.access), 401, "revoked_token");
        world.try_login("bob", PASSWORD).is_problem(403, "account_disabled");
        world.refresh(&ended.refresh).is_problem(401, "invalid_grant");
        assert_eq!(world.ask(get("/auth/jwks.json")).text(), keys);
        world.login("alice");
    }
    Tokens::of(world.refresh(&kept.refresh));
}

#[test]
fn a_spent_token_is_still_spent_after_a_kill() {
    let mut world = World::with(|c| c.set("tokens", "refresh_grace", "\"0s\""));
    let first = world.user("alice");
    let second = Tokens::of(world.refresh(&first.refresh));
    world.kill();
    world.start_again();
    world.refresh(&first.refresh).is_problem(401, "invalid_grant");
    world.refuses(get("/x").bearer(&second.access), 401, "revoked_token");
    world.refresh(&second.refresh).is_problem(401, "invalid_grant");
}

#[test]
fn below_the_free_space_that_is_asked_for_writes_are_503_and_reading_goes_on() {
    let mut world = World::new();
    let tokens = world.user("alice");
    world.stop();
    let config = std::fs::read_to_string(world.config()).unwrap();
    world.configure(&config.replace("min_free = \"1MiB\"", "min_free = \"1000000GiB\""));
    world.start_again();
    world.refuses(
        post("/auth/register").json(json!({"username": "bob", "password": PASSWORD})),
        503,
        "store_unavailable",
    );
    world.try_login("alice", PASSWORD).is_problem(503, "store_unavailable");
    world.refresh(&tokens.refresh).is_problem(503, "store_unavailable");
    world.passes(get("/x").bearer(&tokens.access)).0.expect(200);
    world.passes(get("/public/x")).0.expect(200);
    world.me(&tokens.access).expect(200);
    // A logout that could not be written is not acknowledged.
    world.ask(post("/auth/logout").bearer(&tokens.access)).is_problem(503, "store_unavailable");
    world.stop();
    world.configure(&config);
    world.start_again();
    world.register("bob").expect(201);
    Tokens::of(world.refresh(&tokens.refresh));
}

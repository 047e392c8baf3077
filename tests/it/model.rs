//! Sessions against a model: whatever is done in whatever order, each answer is the one that a few lines
//! of plain code predict.

use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use serde_json::json;

use crate::support::PASSWORD;
use crate::support::gateway::Tokens;
use crate::support::request::{Request, get, post};
use crate::support::world::World;

#[derive(Clone, Debug)]
enum Step {
    Login {
        user: usize,
        right: bool,
    },
    /// Presents a refresh token of a session: an old one or the current.
    Refresh {
        session: usize,
        token: usize,
    },
    /// Shows an access token of a session at a route.
    Use {
        session: usize,
        token: usize,
    },
    Logout {
        session: usize,
    },
    LogoutAll {
        session: usize,
    },
    EndSession {
        by: usize,
        session: usize,
    },
    ChangePassword {
        session: usize,
    },
}

#[derive(Default)]
struct Session {
    user: usize,
    alive: bool,
    /// In the order of issue; only the last is not spent.
    refresh: Vec<String>,
    /// With the generation that each was issued under.
    access: Vec<(String, u64)>,
    sid: String,
}

#[derive(Default)]
struct User {
    name: String,
    password: String,
    generation: u64,
}

struct Model<'w> {
    world: &'w World,
    users: Vec<User>,
    sessions: Vec<Session>,
}

impl Model<'_> {
    fn good(&self, session: &Session, token: usize) -> bool {
        session.alive && session.access[token].1 == self.users[session.user].generation
    }

    /// The latest access token of a session, and whether it should pass.
    fn latest(&self, session: usize) -> (String, bool) {
        let session = &self.sessions[session];
        let token = session.access.len() - 1;
        (session.access[token].0.clone(), self.good(session, token))
    }

    fn end(&mut self, which: impl Fn(&Session) -> bool) {
        for session in self.sessions.iter_mut().filter(|s| which(s)) {
            session.alive = false;
        }
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let count = self.sessions.len();
        if count == 0 && !matches!(step, Step::Login { .. }) {
            return Ok(());
        }
        match *step {
            Step::Login { user, right } => {
                let known = &self.users[user];
                let password = if right { known.password.clone() } else { format!("{}x", known.password) };
                let answer = self.world.try_login(&known.name, &password);
                prop_assert_eq!(answer.status, if right { 200 } else { 401 });
                if right {
                    let tokens = Tokens::of(answer);
                    self.sessions.push(Session {
                        user,
                        alive: true,
                        sid: tokens.text("sid"),
                        refresh: vec![tokens.refresh],
                        access: vec![(tokens.access, self.users[user].generation)],
                    });
                }
            }
            Step::Refresh { session, token } => {
                let session = session % count;
                let known = &self.sessions[session];
                let token = token % known.refresh.len();
                let current = token + 1 == known.refresh.len();
                let answer = self.world.refresh(&known.refresh[token]);
                let passes = known.alive && current;
                prop_assert_eq!(answer.status, if passes { 200 } else { 401 }, "{}", answer.text());
                let generation = self.users[known.user].generation;
                let known = &mut self.sessions[session];
                if passes {
                    let tokens = Tokens::of(answer);
                    known.refresh.push(tokens.refresh);
                    known.access.push((tokens.access, generation));
                } else if !current {
                    // A spent token ends the session.
                    known.alive = false;
                }
            }
            Step::Use { session, token } => {
                let known = &self.sessions[session % count];
                let token = token % known.access.len();
                let passes = self.good(known, token);
                let answer = self.world.ask(get("/x").bearer(&known.access[token].0));
                prop_assert_eq!(answer.status, if passes { 200 } else { 401 }, "{}", answer.text());
                prop_assert!(passes || answer.code() == "revoked_token");
            }
            Step::Logout { session } => {
                let session = session % count;
                let (access, passes) = self.latest(session);
                let answer = self.world.ask(post("/auth/logout").bearer(access));
                prop_assert_eq!(answer.status, if passes { 200 } else { 401 }, "{}", answer.text());
                if passes {
                    self.sessions[session].alive = false;
                }
            }
            Step::LogoutAll { session } => {
                let session = session % count;
                let (access, passes) = self.latest(session);
                let answer = self.world.ask(post("/auth/logout-all").bearer(access));
                prop_assert_eq!(answer.status, if passes { 200 } else { 401 }, "{}", answer.text());
                if passes {
                    let user = self.sessions[session].user;
                    let alive = self.sessions.iter().filter(|s| s.user == user && s.alive).count();
                    prop_assert_eq!(&answer.json()["sessions"], alive);
                    self.end(|s| s.user == user);
                }
            }
            Step::EndSession { by, session } => {
                let (by, session) = (by % count, session % count);
                let (access, passes) = self.latest(by);
                let known = &self.sessions[session];
                let path = format!("/auth/sessions/{}", known.sid);
                let answer = self.world.ask(Request::new("DELETE", &path).bearer(access));
                let theirs = known.user == self.sessions[by].user && known.alive;
                let expected = match (passes, theirs) {
                    (false, _) => 401,
                    (true, true) => 204,
                    (true, false) => 404,
                };
                prop_assert_eq!(answer.status, expected, "{}", answer.text());
                if expected == 204 {
                    self.sessions[session].alive = false;
                }
            }
            Step::ChangePassword { session } => {
                let session = session % count;
                let (access, passes) = self.latest(session);
                let user = self.sessions[session].user;
                let new = format!("{PASSWORD} {}", self.users[user].generation + 1);
                let body = json!({"current_password": self.users[user].password, "new_password": new});
                let answer = self.world.ask(post("/auth/password").bearer(access).json(body));
                prop_assert_eq!(answer.status, if passes { 200 } else { 401 }, "{}", answer.text());
                if passes {
                    let kept = self.sessions[session].sid.clone();
                    self.users[user].password = new;
                    self.users[user].generation += 1;
                    self.end(|s| s.user == user && s.sid != kept);
                }
            }
        }
        Ok(())
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = 0..8_usize;
    let step = prop_oneof![
        4 => (0..2_usize, prop::bool::weighted(0.9)).prop_map(|(user, right)| Step::Login { user, right }),
        5 => (index.clone(), prop_oneof![4 => Just(usize::MAX), 1 => index.clone()]).prop_map(|(session, token)| Step::Refresh { session, token }),
        6 => (index.clone(), index.clone()).prop_map(|(session, token)| Step::Use { session, token }),
        1 => index.clone().prop_map(|session| Step::Logout { session }),
        1 => index.clone().prop_map(|session| Step::LogoutAll { session }),
        1 => (index.clone(), index.clone()).prop_map(|(by, session)| Step::EndSession { by, session }),
        1 => index.prop_map(|session| Step::ChangePassword { session }),
    ];
    prop::collection::vec(step, 1..40)
}

#[test]
fn sessions_behave_as_the_model_says() {
    let world = World::with(|c| c.set("tokens", "refresh_grace", "\"0s\""));
    let run = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Runs {
        cases: 40,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..Runs::default()
    });
    let result = runner.run(&steps(), |steps| {
        run.set(run.get() + 1);
        let users = (0..2)
            .map(|i| User {
                name: format!("user-{}-{i}", run.get()),
                password: PASSWORD.to_owned(),
                generation: 0,
            })
            .collect();
        let mut model = Model { world: &world, users, sessions: Vec::new() };
        for user in &model.users {
            world.register(&user.name).expect(201);
        }
        for step in &steps {
            // `usize::MAX` means the current token.
            let step = match (step, model.sessions.len()) {
                (Step::Refresh { session, token: usize::MAX }, 1..) => {
                    let session = session % model.sessions.len();
                    Step::Refresh { session, token: model.sessions[session].refresh.len() - 1 }
                }
                _ => step.clone(),
            };
            model.take(&step)?;
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

//! The configuration of one test: small, fast defaults, and single keys on top.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Routes that most tests want: one of each kind.
const ROUTES: &[&str] = &[
    "path = \"/**\"\naccess = \"authenticated\"",
    "path = \"/public/**\"\naccess = \"public\"",
    "path = \"/optional/**\"\naccess = \"optional\"",
    "path = \"/admin/**\"\nroles = [\"admin\"]",
    "path = \"/edit/**\"\nroles = [\"editor\"]",
    "path = \"/read/**\"\nmethods = [\"GET\"]\naccess = \"public\"",
    "path = \"/u/{uid}/**\"\nowner = { uid = \"sub\" }",
];

/// A `config.toml` in the making.
#[derive(Clone)]
pub struct Config {
    sections: BTreeMap<String, BTreeMap<String, String>>,
    upstreams: Vec<String>,
    routes: Vec<String>,
    tests: Vec<String>,
    legacy: Vec<String>,
    roles: String,
}

impl Config {
    pub fn new() -> Self {
        let config = Self {
            sections: BTreeMap::new(),
            upstreams: Vec::new(),
            routes: ROUTES.iter().map(|r| (*r).to_owned()).collect(),
            tests: Vec::new(),
            legacy: Vec::new(),
            roles: "user = []\neditor = [\"user\"]\nadmin = [\"editor\"]\nauditor = []".to_owned(),
        };
        config
            .set("server", "listen", "[\"127.0.0.1:0\"]")
            .set("server", "workers", "2")
            .set("admin", "listen", "\"127.0.0.1:0\"")
            .set("store", "path", "\"data\"")
            .set("store", "min_free", "\"1MiB\"")
            .set("auth", "registration", "\"open\"")
            .set("auth", "registrations_per_address", "\"100000/h\"")
            .set("auth.password", "memory", "\"64KiB\"")
            .set("auth.password", "iterations", "1")
            .set("auth.throttle", "failures", "1000")
            .set("auth.throttle", "per_address", "100000")
    }

    /// Sets one key; `value` is TOML.
    pub fn set(mut self, section: &str, key: &str, value: &str) -> Self {
        let keys = self.sections.entry(section.to_owned()).or_default();
        keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Back to the product's default.
    pub fn unset(mut self, section: &str, key: &str) -> Self {
        self.sections.entry(section.to_owned()).or_default().remove(key);
        self
    }

    /// Tokens signed with a secret that the test knows.
    pub fn hs256(self, secret: &str) -> Self {
        self.set("tokens", "algorithm", "\"HS256\"").set("tokens", "secret", &format!("{secret:?}"))
    }

    pub fn upstream(self, name: &str, port: u16) -> Self {
        self.upstream_with(name, port, "")
    }

    /// An upstream with more keys.
    pub fn upstream_with(self, name: &str, port: u16, more: &str) -> Self {
        self.upstream_table(&format!("name = \"{name}\"\nservers = [\"http://127.0.0.1:{port}\"]\n{more}"))
    }

    /// An upstream as written.
    pub fn upstream_table(mut self, body: &str) -> Self {
        self.upstreams.push(body.to_owned());
        self
    }

    pub fn has_upstream(&self) -> bool {
        !self.upstreams.is_empty()
    }

    /// Without the routes that most tests want.
    pub fn no_routes(mut self) -> Self {
        self.routes.clear();
        self
    }

    pub fn route(mut self, body: &str) -> Self {
        self.routes.push(body.to_owned());
        self
    }

    pub fn test(mut self, body: &str) -> Self {
        self.tests.push(body.to_owned());
        self
    }

    /// A `[[legacy_token]]` table.
    pub fn legacy(mut self, body: &str) -> Self {
        self.legacy.push(body.to_owned());
        self
    }

    pub fn roles(mut self, body: &str) -> Self {
        body.clone_into(&mut self.roles);
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            let _ = writeln!(text, "[{section}]");
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        if !self.roles.is_empty() {
            let _ = writeln!(text, "[roles]\n{}", self.roles);
        }
        for (table, bodies) in [
            ("legacy_token", &self.legacy),
            ("upstream", &self.upstreams),
            ("route", &self.routes),
            ("test", &self.tests),
        ] {
            for body in bodies {
                let _ = writeln!(text, "[[{table}]]\n{body}");
            }
        }
        text
    }
}

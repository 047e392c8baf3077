//! `[[test]]`: what the file itself expects of its routes.

use http::Method;

use super::super::reader::Section;
use super::super::tree::{Kind, Node};
use super::super::value::{Fault, Spot, Value, parse, quote};
use super::roles::Roles;
use super::routes::place_of;
use crate::identity::{Role, UserId, Username};
use crate::route::Host;
use crate::settings::{Expectation, TestCaller, TestSettings};

/// `GET /admin/users`, or with an absolute URL.
#[derive(Debug)]
struct Request {
    method: Method,
    url: String,
}

impl Value for Request {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("a request like \"GET /path\"", node, request)
    }
    fn show(&self) -> String {
        quote(&format!("{} {}", self.method, self.url))
    }
}

fn request(text: &str) -> Result<Request, String> {
    let form =
        || format!("{} is no request; write a method and a path or URL, as in \"GET /path\"", quote(text));
    let (method, url) = text.split_once(' ').ok_or_else(form)?;
    let upper = method.to_ascii_uppercase();
    if upper != method {
        return Err(format!("methods are upper case: did you mean {}?", quote(&format!("{upper} {url}"))));
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| form())?;
    if url.contains(char::is_whitespace) {
        return Err(form());
    }
    if url.starts_with('/') {
        return Ok(Request { method, url: url.to_owned() });
    }
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).ok_or_else(form)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    Host::parse(authority).map_err(|error| format!("{}: {error}", quote(authority)))?;
    Ok(Request { method, url: url.to_owned() })
}

impl Value for Expectation {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        let fault = || vec![Fault::new("expected \"pass\" or a status like 403", node)];
        match &node.kind {
            Kind::Integer(Some(status)) => match u16::try_from(*status) {
                Ok(status @ 200..=599) => Ok(Self::Status(status)),
                _ => Err(fault()),
            },
            Kind::String(text) if text == "pass" => Ok(Self::Pass),
            _ => Err(fault()),
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Pass => quote("pass"),
            Self::Status(status) => status.to_string(),
        }
    }
}

pub(in super::super) fn read(root: &Section<'_>, roles: &Roles) -> Vec<TestSettings> {
    let mut tests = Vec::new();
    for table in root.tables("test") {
        tests.extend(read_one(&table, roles));
        table.finish();
    }
    tests
}

fn read_one(table: &Section<'_>, roles: &Roles) -> Option<TestSettings> {
    let request = table.required("request", |_: &Request| Ok(()));
    let caller = read_caller(table, roles);
    let expect = table.required("expect", |_: &Expectation| Ok(()));
    let Request { method, url } = request?.value;
    Some(TestSettings { method, url, caller: caller?, expect: expect?.value, place: place_of(table) })
}

/// Somebody, or nobody; said, never guessed.
fn read_caller(table: &Section<'_>, roles: &Roles) -> Option<TestCaller> {
    let reader = table.reader();
    let anonymous = table.optional("anonymous", |_: &bool| Ok(()));
    let granted = table.optional("roles", |_: &Vec<Spot<Role>>| Ok(()));
    let user_id = table
        .optional("user_id", |id: &String| id.parse::<UserId>().map(drop).map_err(|error| error.to_string()));
    let username = table.optional("username", |name: &String| {
        name.parse::<Username>().map(drop).map_err(|error| error.to_string())
    });
    let named = ["roles", "user_id", "username"].into_iter().find_map(|key| Some((key, table.entry(key)?)));
    if let Some(granted) = &granted {
        roles.check(reader, &table.label("roles"), &granted.value);
    }
    let is_anonymous = anonymous.is_some_and(|anonymous| anonymous.value);
    match (is_anonymous, named) {
        (true, Some((key, entry))) => {
            let message = format!("{}: an anonymous caller has none", table.label(key));
            reader.error(message, &entry.key_origin);
            None
        }
        (true, None) => Some(TestCaller::Anonymous),
        (false, None) => {
            let path = table.label("roles");
            let message = format!("{path} is missing: say who asks, with roles = […] or anonymous = true");
            reader.error(message, table.origin());
            None
        }
        (false, Some(_)) => Some(TestCaller::User {
            roles: granted
                .map(|granted| granted.value)
                .unwrap_or_default()
                .into_iter()
                .map(|s| s.value)
                .collect(),
            user_id: user_id.map(|id| id.value),
            username: username.map(|name| name.value),
        }),
    }
}

//! `check`: everything that is wrong with a configuration, and the tests in it. Takes no port and no lock.

use serde::Serialize;

use super::judge::{Judge, Judgement, Outcome, Question, Who, principal};
use super::output::{self, printable, size};
use super::{CliError, Format, Shell, Verdict, files, memory};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Loaded, Problem, Severity};
use crate::settings::{Expectation, PasswordSettings, Settings, TestCaller, TestSettings};

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    problems: Vec<&'a Problem>,
    tests: Vec<TestRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    passwords: Option<Budget>,
}

#[derive(Serialize)]
pub(super) struct TestRow {
    pub(super) request: String,
    caller: String,
    pub(super) place: String,
    expected: String,
    pub(super) got: String,
    pub(super) passed: bool,
}

/// What hashing passwords may take, beside what there is.
#[derive(Serialize)]
struct Budget {
    concurrent: usize,
    each_bytes: u64,
    total_bytes: u64,
    limit_bytes: Option<u64>,
    limit_of: Option<&'static str>,
}

impl Check {
    pub(super) fn run(self, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
        let loaded = match shell.load() {
            Ok(loaded) => loaded,
            Err(CliError::Config(problems)) => {
                if self.format.json {
                    let problems = problems.iter().collect();
                    let report = Report { ok: false, problems, tests: Vec::new(), passwords: None };
                    output::json(shell.out, &report)?;
                } else {
                    let count = problems.errors();
                    writeln!(shell.out, "{problems}\n\n{}", counted(count, "error"))?;
                }
                return Ok(Verdict::Bad);
            }
            Err(error) => return Err(error),
        };
        let tests = run_tests(&loaded.settings)?;
        let now = SystemClock.now();
        let mut found = files::judge(&loaded, now);
        found.extend(loaded.ended(now.secs()));
        let usable = found.iter().all(|problem| problem.severity != Severity::Error);
        let ok = usable && tests.iter().all(|test| test.passed);
        let passwords = Some(Budget::new(&loaded.settings.auth.password));
        let problems = loaded.warnings.iter().chain(&found).collect();
        let report = Report { ok, problems, tests, passwords };
        if self.format.json {
            output::json(shell.out, &report)?;
        } else {
            print(shell, &loaded, &report)?;
        }
        Ok(if ok { Verdict::Good } else { Verdict::Bad })
    }
}

pub(super) fn run_tests(settings: &Settings) -> Result<Vec<TestRow>, CliError> {
    let judge = Judge::new(settings)?;
    Ok(settings.tests.iter().map(|test| run_test(test, settings, &judge)).collect())
}

fn run_test(test: &TestSettings, settings: &Settings, judge: &Judge<'_>) -> TestRow {
    let (who, caller) = caller(&test.caller, settings);
    let request = format!("{} {}", test.method, test.url);
    let expected = match test.expect {
        Expectation::Pass => "pass".to_owned(),
        Expectation::Status(status) => status.to_string(),
    };
    let (got, passed) = match (Question::parse(test.method.as_str(), &test.url), &who) {
        (Err(why), _) => (why, false),
        (_, Err(why)) => (why.clone(), false),
        (Ok(question), Ok(who)) => compare(&judge.judge(&question, who), test.expect),
    };
    TestRow { request, caller, place: test.place.clone(), expected, got, passed }
}

fn caller(caller: &TestCaller, settings: &Settings) -> (Result<Who, String>, String) {
    match caller {
        TestCaller::Anonymous => (Ok(Who::Anonymous { note: None }), "anonymous".to_owned()),
        TestCaller::User { roles, user_id, username } => {
            let names = roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let text = match username.as_ref().or(user_id.as_ref()) {
                Some(name) => format!("{name} [{names}]"),
                None => format!("[{names}]"),
            };
            let id = match user_id.as_ref().map(|id| id.parse()).transpose() {
                Ok(id) => id,
                Err(error) => return (Err(format!("user_id: {error}")), text),
            };
            let principal = principal(settings.roles.expand(roles), id, username.as_deref());
            (Ok(Who::Caller { principal, how: "test".to_owned() }), text)
        }
    }
}

/// What happens counts: a request that a route only reports passes.
fn compare(judgement: &Judgement, expect: Expectation) -> (String, bool) {
    match (&judgement.outcome, expect) {
        (Outcome::Pass(_), expect) => {
            let got = match &judgement.would_deny {
                None => "pass".to_owned(),
                Some(refused) => {
                    format!("pass (would deny: {} {}, {})", refused.status, refused.code, refused.reason)
                }
            };
            (got, expect == Expectation::Pass)
        }
        (Outcome::Refuse(refused), expect) => {
            let passed = matches!(expect, Expectation::Status(status) if status == refused.status);
            (format!("{} {}: {}", refused.status, refused.code, refused.reason), passed)
        }
        // What it answers depends on more than a test says.
        (Outcome::Answer, _) => {
            ("an endpoint of gatepost itself, which no test can expect".to_owned(), false)
        }
    }
}

fn print(shell: &mut Shell<'_>, loaded: &Loaded, report: &Report<'_>) -> Result<(), CliError> {
    for problem in &report.problems {
        writeln!(shell.out, "{problem}\n")?;
    }
    let failed = report.tests.iter().filter(|test| !test.passed);
    for TestRow { request, caller, place, expected, got, .. } in failed.clone() {
        let text =
            format!("test failed: {request} as {caller} ({place})\n  expected {expected}\n  got      {got}");
        let lines: Vec<_> = text.lines().map(printable).collect();
        writeln!(shell.out, "{}\n", lines.join("\n"))?;
    }
    if let Some(budget) = &report.passwords {
        writeln!(shell.out, "{}", budget.text())?;
    }
    let mut parts = Vec::new();
    let errors = report.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = report.problems.len() - errors;
    for (count, what) in [(errors, "error"), (warnings, "warning")] {
        if count > 0 {
            parts.push(counted(count, what));
        }
    }
    if report.tests.is_empty() {
        parts.push("no tests".to_owned());
    } else {
        let failed = failed.count();
        parts.push(format!("{} passed", counted(report.tests.len() - failed, "test")));
        if failed > 0 {
            parts.push(format!("{failed} failed"));
        }
    }
    let verdict = if report.ok { "ok" } else { "not ok" };
    writeln!(shell.out, "{}: {verdict} ({})", loaded.path.display(), parts.join(", "))?;
    Ok(())
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

impl Budget {
    fn new(settings: &PasswordSettings) -> Self {
        let each_bytes = u64::from(settings.memory_kib) * 1024;
        let limit = memory::limit();
        Self {
            concurrent: settings.concurrent,
            each_bytes,
            total_bytes: each_bytes.saturating_mul(settings.concurrent as u64),
            limit_bytes: limit.map(|limit| limit.bytes),
            limit_of: limit.map(|limit| limit.of),
        }
    }

    fn text(&self) -> String {
        let (each, total) = (size(self.each_bytes), size(self.total_bytes));
        let needed = format!("password hashing: {} at once × {each} = {total}", self.concurrent);
        match (self.limit_bytes, self.limit_of) {
            (Some(limit), Some(of)) => {
                let share = self.total_bytes.saturating_mul(100) / limit.max(1);
                let share_text = if share == 0 { "under 1".to_owned() } else { share.to_string() };
                let remark = if share >= 50 { "; lower [auth.password] concurrent or memory" } else { "" };
                format!("{needed} of the {of}'s {} ({share_text} %){remark}", size(limit))
            }
            _ => needed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_stands_beside_the_limit() {
        let budget = Budget {
            concurrent: 3,
            each_bytes: 19 << 20,
            total_bytes: 57 << 20,
            limit_bytes: Some(1 << 30),
            limit_of: Some("cgroup"),
        };
        assert_eq!(
            budget.text(),
            "password hashing: 3 at once × 19 MiB = 57 MiB of the cgroup's 1 GiB (5 %)"
        );
        let tight = Budget { limit_bytes: Some(64 << 20), ..budget };
        assert!(tight.text().ends_with("(89 %); lower [auth.password] concurrent or memory"));
    }
}

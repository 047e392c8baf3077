//! The gateway as a process: started over a directory of its own, asked, stopped, killed, started again.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Client, Response};
use super::config::Config;
use super::request::{Request, get, post};
use super::wire::show;
use super::{PASSWORD, PATIENCE, eventually, jwt};

/// A running gateway. Dropping it kills the process and removes its directory.
pub struct Gateway {
    home: TempDir,
    process: Option<Process>,
    arguments: Vec<String>,
    /// The limit of open files, where a test sets one.
    files: Option<u32>,
    /// What is in the environment from the next start on.
    pub environment: Vec<(String, String)>,
    /// What follows `run`, where an app is run; else it is `serve`.
    pub run: Vec<String>,
}

struct Process {
    child: Child,
    out: Arc<Lines>,
    err: Arc<Lines>,
    addresses: Vec<SocketAddr>,
    admin: SocketAddr,
}

/// A process that another one has taken over from.
pub struct Old(Process);

impl Old {
    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.0.child.try_wait().unwrap().is_some()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0.child), signal).unwrap();
    }

    /// Waits until it has ended.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        eventually("the old gatepost exits", || self.0.child.try_wait().unwrap())
    }

    pub fn log(&self) -> String {
        self.0.out.text() + &self.0.err.text()
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let _ = self.0.child.kill();
        let _ = self.0.child.wait();
    }
}

/// How a process that did not start went.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Tokens from a login or a refresh.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

impl Tokens {
    /// The tokens in a 200.
    #[track_caller]
    pub fn of(response: Response) -> Self {
        let response = response.expect(200);
        Self { access: response.member("access_token"), refresh: response.member("refresh_token") }
    }

    /// A claim of the access token.
    pub fn claim(&self, name: &str) -> Value {
        jwt::claims(&self.access)[name].clone()
    }

    /// A text claim of the access token.
    pub fn text(&self, name: &str) -> String {
        self.claim(name).as_str().unwrap().to_owned()
    }
}

impl Gateway {
    /// Starts `serve` and waits until it says that it is ready.
    #[track_caller]
    pub fn start(config: &Config) -> Self {
        Self::start_with(config, &[])
    }

    /// The same with arguments before `serve`.
    #[track_caller]
    pub fn start_with(config: &Config, arguments: &[&str]) -> Self {
        let mut gateway = Self::prepare(config);
        gateway.arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        gateway.start_again();
        gateway
    }

    /// Starts with so many file descriptors at most.
    #[track_caller]
    pub fn start_limited(config: &Config, files: u32) -> Self {
        let mut gateway = Self::prepare(config);
        gateway.files = Some(files);
        gateway.start_again();
        gateway
    }

    /// Writes the configuration and starts nothing.
    pub fn prepare(config: &Config) -> Self {
        let home = tempfile::Builder::new().prefix("gatepost-it-").tempdir().unwrap();
        let gateway = Self {
            home,
            process: None,
            arguments: Vec::new(),
            files: None,
            environment: Vec::new(),
            run: Vec::new(),
        };
        gateway.configure(&config.text());
        gateway
    }

    /// Replaces the configuration file, in one step: a gateway that watches it sees no half of it.
    pub fn configure(&self, text: &str) {
        let beside = self.home().join("config.next");
        fs::write(&beside, text).unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(beside, self.config()).unwrap();
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn config(&self) -> PathBuf {
        self.home().join("config.toml")
    }

    /// Starts over the directory as it is; fails the test when it does not become ready.
    #[track_caller]
    pub fn start_again(&mut self) {
        match self.try_start() {
            Ok(process) => self.process = Some(process),
            Err(ended) => panic!("gatepost did not start: {ended:?}\n{}", self.shown_config()),
        }
    }

    /// Starts and expects that it refuses.
    #[track_caller]
    pub fn does_not_start(&mut self) -> Ended {
        match self.try_start() {
            Err(ended) => ended,
            Ok(process) => {
                self.process = Some(process);
                panic!("gatepost started over\n{}", self.shown_config())
            }
        }
    }

    /// Starts a process that takes over, and gives back the one before, each of whose answers ends its
    /// connection from here on.
    #[track_caller]
    pub fn take_over(&mut self) -> Old {
        match self.try_serve(&["--take-over"]) {
            Ok(process) => {
                let old = Old(self.process.replace(process).expect("the gateway runs"));
                eventually("the old one leaves", || {
                    old.log().contains("another process has taken over").then_some(())
                });
                old
            }
            Err(ended) => panic!("nothing took over: {ended:?}\n{}", self.process().out.text()),
        }
    }

    /// Starts a process that wants to take over and must not.
    #[track_caller]
    pub fn does_not_take_over(&self) -> Ended {
        match self.try_serve(&["--take-over"]) {
            Err(ended) => ended,
            Ok(_) => panic!("it took over"),
        }
    }

    fn shown_config(&self) -> String {
        fs::read_to_string(self.config()).unwrap_or_default()
    }

    /// The program over this directory, and nothing said yet.
    pub fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_gatepost");
        let mut command = Command::new(program);
        if let Some(files) = self.files {
            command = Command::new("/bin/sh");
            command.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), program]);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GATEPOST") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg("--config").arg(self.config()).current_dir(self.home());
        command
    }

    fn try_start(&self) -> Result<Process, Ended> {
        self.try_serve(&[])
    }

    fn try_serve(&self, options: &[&str]) -> Result<Process, Ended> {
        let mut command = self.command();
        command.args(&self.arguments).arg(if self.run.is_empty() { "serve" } else { "run" });
        command.args(options).args(&self.run);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = Lines::read(child.stdout.take().unwrap());
        let err = Lines::read(child.stderr.take().unwrap());
        if !err.wait(|line| line == "gatepost: ready") {
            let _ = child.kill();
            let status = child.wait().unwrap();
            return Err(Ended { code: status.code(), stdout: out.text(), stderr: err.text() });
        }
        let said = err.all();
        let after = |prefix: &str| -> Vec<SocketAddr> {
            said.iter().filter_map(|l| l.strip_prefix(prefix)).map(|a| a.parse().unwrap()).collect()
        };
        // A name may be followed by what the listener is for.
        let addresses = said
            .iter()
            .filter_map(|line| line.strip_prefix("gatepost: listening on "))
            .filter_map(|name| name.strip_prefix("http://").or_else(|| name.strip_prefix("https://")))
            .map(|address| address.split(' ').next().unwrap().parse().unwrap())
            .collect();
        let admin = *after("gatepost: admin on http://").first().expect("where the admin listener is");
        Ok(Process { child, out, err, addresses, admin })
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the gateway runs")
    }

    /// The first listener.
    pub fn address(&self) -> SocketAddr {
        self.process().addresses[0]
    }

    /// Any listener, in the order of `listen` and `redirect_http`.
    pub fn listener(&self, number: usize) -> SocketAddr {
        self.process().addresses[number]
    }

    pub fn admin(&self) -> SocketAddr {
        self.process().admin
    }

    pub fn pid(&self) -> u32 {
        self.process().child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process().child), signal).unwrap();
    }

    /// SIGTERM, and the exit status.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_exit()
    }

    /// Waits until the process has gone by itself.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the gateway runs");
        let status = eventually("gatepost exits", || process.child.try_wait().unwrap());
        process.out.wait_for_end();
        process.err.wait_for_end();
        status
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }

    /// What came on standard output so far.
    pub fn log(&self) -> Vec<String> {
        self.process().out.all()
    }

    /// Both outputs, to look at after the end.
    pub fn process_output(&self) -> Output {
        Output(self.log_lines(), Arc::clone(&self.process().err))
    }

    /// The standard output, to look at after the end.
    pub fn log_lines(&self) -> Arc<Lines> {
        Arc::clone(&self.process().out)
    }

    /// The decision line of this request id.
    pub fn decision(&self, request_id: &str) -> Value {
        let lines = self.log_lines();
        assert!(
            lines.wait(|l| l.contains(request_id) && l.contains("\"decision\"")),
            "no decision line for {request_id} in {}",
            lines.text()
        );
        let line = lines.all().into_iter().find(|l| l.contains(request_id) && l.contains("\"decision\""));
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        // tracing's JSON may keep fields one level down.
        if line["fields"].is_object() { line["fields"].clone() } else { line }
    }

    /// A fresh connection.
    pub fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// Sends on a fresh connection and reads the answer.
    #[expect(clippy::needless_pass_by_value, reason = "requests are made in place")]
    #[track_caller]
    pub fn ask(&self, request: Request) -> Response {
        let answer = self.connect().send(request.bytes()).try_response(&request.method);
        let Some(answer) = answer else { panic!("no answer to {}", show(&request.bytes())) };
        answer
    }

    /// Sends bytes on a fresh connection and reads the answer.
    #[track_caller]
    pub fn ask_raw(&self, bytes: impl AsRef<[u8]>) -> Response {
        let answer = self.connect().send(&bytes).try_response("GET");
        let Some(answer) = answer else { panic!("no answer to {}", show(bytes.as_ref())) };
        answer
    }

    /// A GET on the admin listener.
    pub fn ask_admin(&self, path: &str) -> Response {
        Client::connect(self.admin()).send(get(path).bytes()).response()
    }

    /// The value of one line of `/metrics`, by its name with labels.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.ask_admin("/metrics").expect(200).text();
        text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    pub fn register(&self, name: &str) -> Response {
        self.ask(post("/auth/register").json(json!({"username": name, "password": PASSWORD})))
    }

    pub fn try_login(&self, name: &str, password: &str) -> Response {
        self.ask(post("/auth/login").json(json!({"username": name, "password": password})))
    }

    #[track_caller]
    pub fn login(&self, name: &str) -> Tokens {
        Tokens::of(self.try_login(name, PASSWORD))
    }

    /// Registers and logs in.
    #[track_caller]
    pub fn user(&self, name: &str) -> Tokens {
        self.register(name).expect(201);
        self.login(name)
    }

    /// Registers, grants roles on the command line and logs in.
    #[track_caller]
    pub fn user_with(&self, name: &str, roles: &[&str]) -> Tokens {
        self.register(name).expect(201);
        let mut arguments = vec!["user", "set", name];
        arguments.extend(roles.iter().flat_map(|r| ["--role", r]));
        self.cli(&arguments).succeeds();
        self.login(name)
    }

    pub fn refresh(&self, token: &str) -> Response {
        self.ask(post("/auth/refresh").json(json!({"refresh_token": token})))
    }

    pub fn me(&self, access: &str) -> Response {
        self.ask(get("/auth/me").bearer(access))
    }

    /// Runs another command over the same configuration.
    pub fn cli(&self, arguments: &[&str]) -> Ended {
        self.cli_with(arguments, "", &[])
    }

    /// The same with something on standard input and in the environment.
    pub fn cli_with(&self, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Ended {
        let mut command = self.command();
        command.args(arguments).envs(environment.iter().copied());
        run(command, input)
    }
}

/// Runs a command to its end.
pub fn run(mut command: Command, input: &str) -> Ended {
    let read = |file: &mut File| {
        let mut text = String::new();
        std::io::Seek::rewind(file).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdin(Stdio::piped()).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    let mut child = Running(command.spawn().unwrap());
    let _ = child.0.stdin.take().unwrap().write_all(input.as_bytes());
    let status = eventually("the command ends", || child.0.try_wait().unwrap());
    Ended { code: status.code(), stdout: read(&mut out), stderr: read(&mut err) }
}

/// A command that must not outlive the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Ended {
    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Both outputs.
    pub fn said(&self) -> String {
        self.stdout.clone() + &self.stderr
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Standard output and standard error.
pub struct Output(Arc<Lines>, Arc<Lines>);

impl Output {
    pub fn text(&self) -> String {
        self.0.text() + &self.1.text()
    }
}

/// The lines of a stream as they come.
pub struct Lines {
    read: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Lines {
    fn read(from: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self { read: Mutex::default(), more: Condvar::new() });
        let writer = Arc::clone(&lines);
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                writer.read.lock().unwrap().0.push(text);
                writer.more.notify_all();
                line.clear();
            }
            writer.read.lock().unwrap().1 = true;
            writer.more.notify_all();
        });
        lines
    }

    /// Waits for such a line. False: the stream ended, or it took too long.
    pub fn wait(&self, is_it: impl Fn(&str) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.read.lock().unwrap();
        let mut looked = 0;
        loop {
            if state.0[looked..].iter().any(|l| is_it(l)) {
                return true;
            }
            looked = state.0.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.1 || left.is_zero() {
                return false;
            }
            state = self.more.wait_timeout(state, left).unwrap().0;
        }
    }

    fn wait_for_end(&self) {
        let state = self.read.lock().unwrap();
        drop(self.more.wait_timeout_while(state, PATIENCE, |s| !s.1).unwrap());
    }

    pub fn all(&self) -> Vec<String> {
        self.read.lock().unwrap().0.clone()
    }

    pub fn text(&self) -> String {
        self.all().iter().map(|l| l.clone() + "\n").collect()
    }
}

//! `gatepost run -- COMMAND`: the app as a process of the gateway's, which starts it, waits for it, and
//! shares its fate both ways.
//!
//! The app is this very binary, in the role of [`the_app`].

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::config::Config;
use crate::support::gateway::{Ended, Gateway};
use crate::support::request::get;
use crate::support::{PASSWORD, closed_port, eventually};

/// Becomes the app, which listens where its only argument says.
const APP: &str = r#"LISTEN=$1 exec "$0" hosted::the_app --exact --ignored --nocapture"#;
/// The same, and SIGTERM does not end it.
const STUBBORN: &str = r#"trap '' TERM; LISTEN=$1 exec "$0" hosted::the_app --exact --ignored --nocapture"#;
/// The same in the background of a shell that writes down which signals come.
const SUPERVISED: &str = r#"
for signal in HUP INT USR1 USR2 TTIN; do trap "echo $signal >>signals" $signal; done
trap 'echo TERM >>signals; kill $app' TERM
LISTEN=$1 "$0" hosted::the_app --exact --ignored --nocapture & app=$!
while kill -0 $app 2>/dev/null; do wait $app; done
exit 7"#;
/// Where this port is in the environment.
const BY_PORT: &str = r#"LISTEN=127.0.0.1:$PORT exec "$0" hosted::the_app --exact --ignored --nocapture"#;

/// A small app. It is no test: it runs when one of them has it run.
#[test]
#[ignore = "is the app of the other tests"]
fn the_app() {
    let Ok(place) = std::env::var("LISTEN") else { return };
    println!("the app is here");
    eprintln!("and complains");
    if let Some(path) = place.strip_prefix("unix:") {
        let listener = UnixListener::bind(path).unwrap();
        listener.incoming().for_each(|stream| answer_all(stream.unwrap()));
    } else {
        let listener = TcpListener::bind(place).unwrap();
        listener.incoming().for_each(|stream| answer_all(stream.unwrap()));
    }
}

/// One request a connection.
fn answer_all(stream: impl Read + Write + Send + 'static) {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut lines = Vec::new();
        let mut line = String::new();
        while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
            lines.push(std::mem::take(&mut line));
        }
        let length = lines.iter().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
        });
        let mut asked = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut asked).unwrap();
        let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
        let body = act(&path, &lines, &serde_json::from_slice(&asked).unwrap_or_default()).to_string();
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n";
        let length = body.len();
        let _ = write!(stream.get_mut(), "{head}Content-Length: {length}\r\n\r\n{body}");
    });
}

#[expect(clippy::disallowed_methods, reason = "to end in the midst of a request is what is asked for")]
fn act(path: &str, lines: &[String], asked: &Value) -> Value {
    match path.trim_start_matches("/public/").split_once('/').unwrap_or((path, "")) {
        ("exit", code) => std::process::exit(code.parse().unwrap()),
        ("admit", _) => json!({"admit": asked["username"] == "alice"}),
        ("wait", file) => {
            fs::write("waiting", "").unwrap();
            eventually("the test says so", || Path::new(file).exists().then_some(()));
            json!("waited")
        }
        // A process whose parent ends at once.
        ("orphan", _) => {
            let made = Command::new("/bin/sh").args(["-c", "sleep 600 >&- 2>&- & echo $!"]).output().unwrap();
            json!(String::from_utf8_lossy(&made.stdout).trim().parse::<i32>().unwrap())
        }
        _ => json!({
            "environment": std::env::vars().collect::<std::collections::BTreeMap<_, _>>(),
            "pid": std::process::id(),
            "lines": lines,
        }),
    }
}

fn config() -> Config {
    Config::new().upstream("app", closed_port())
}

/// A gateway that runs this script, whose `$0` is the app's program.
fn prepare(config: &Config, script: &str, arguments: &[&str], options: &[&str]) -> Gateway {
    let mut gateway = Gateway::prepare(config);
    gateway.environment = vec![
        // What is left behind when one of them is killed goes with the test.
        ("TMPDIR".to_owned(), gateway.home().display().to_string()),
        ("PORT".to_owned(), "80".to_owned()),
        ("GATEPOST__LOG__LEVEL".to_owned(), "info".to_owned()),
    ];
    gateway.run = options.iter().map(|option| (*option).to_owned()).collect();
    gateway.run.extend(["--".to_owned(), "/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()]);
    gateway.run.push(std::env::current_exe().unwrap().display().to_string());
    gateway.run.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    gateway
}

fn start(config: &Config, script: &str, arguments: &[&str], options: &[&str]) -> Gateway {
    let mut gateway = prepare(config, script, arguments, options);
    gateway.start_again();
    gateway
}

/// On a Unix socket.
fn on_socket(script: &str, options: &[&str]) -> Gateway {
    start(&config(), script, &["{bind}"], options)
}

fn about(gateway: &Gateway) -> Value {
    gateway.ask(get("/public/about")).expect(200).json()
}

/// The process that the app is.
fn app_of(gateway: &Gateway) -> i32 {
    i32::try_from(about(gateway)["pid"].as_i64().unwrap()).unwrap()
}

/// The state of a process and who its parent is; `None` when there is none.
fn process(pid: i32) -> Option<(String, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit(") ").next()?.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Waits until it runs no more: whoever its parent is then may not care for its end.
fn ends(pid: i32) {
    eventually("the process ends", || process(pid).is_none_or(|(state, _)| state == "Z").then_some(()));
}

/// The directories of apps that are there.
fn private_directories(home: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains("gatepost-app-")).collect()
}

fn is_said(ended: &Ended, text: &str) {
    assert!(ended.stderr.contains(text), "no {text:?}: {ended:?}");
}

#[test]
fn an_app_on_a_socket_is_reached_through_the_gateway_only() {
    let mut gateway = on_socket(APP, &[]);
    let [directory] = private_directories(gateway.home()).try_into().unwrap();
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let tokens = gateway.user("alice");
    gateway.ask(get("/hello")).is_problem(401, "missing_token");
    let seen = gateway.ask(get("/hello").bearer(&tokens.access).header("X-Auth-User", "root"));
    let seen = seen.expect(200).json();
    let names: Vec<_> = seen["lines"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(names.iter().any(|line| line.eq_ignore_ascii_case("x-auth-user: alice\r\n")), "{names:?}");
    assert!(!names.iter().any(|line| line.contains("root")), "{names:?}");

    let environment = &seen["environment"];
    assert_eq!(environment["LISTEN"], format!("unix:{}/app.sock", directory.display()));
    for name in ["PORT", "GATEPOST__LOG__LEVEL"] {
        assert_eq!(environment[name], Value::Null, "{name} is the gateway's");
    }
    assert_eq!(environment["TMPDIR"], gateway.home().display().to_string());
    let app = app_of(&gateway);
    assert_eq!(process(app).unwrap().1, i32::try_from(gateway.pid()).unwrap());
    assert!(gateway.process_output().text().contains("the app is here"));
    assert!(gateway.process_output().text().contains("and complains"));

    assert_eq!(gateway.stop().code(), Some(0));
    assert_eq!(process(app), None, "and nothing of it is left");
    assert!(private_directories(gateway.home()).is_empty());
}

#[test]
fn an_app_on_a_port_finds_it_in_its_environment_or_in_its_command() {
    for (script, arguments) in [
        (BY_PORT, &[][..]),
        (APP, &["127.0.0.1:{port}"]),
        (
            r#"[ "$2" = "127.0.0.1:$PORT" ] && LISTEN=$1 exec "$0" hosted::the_app --exact --ignored"#,
            &["127.0.0.1:{port}", "{bind}"],
        ),
    ] {
        let mut gateway = start(&config(), script, arguments, &[]);
        let environment = &about(&gateway)["environment"];
        let port = environment["PORT"].as_str().unwrap();
        assert_eq!(environment["LISTEN"], format!("127.0.0.1:{port}"));
        assert_eq!(environment["GUNICORN_CMD_ARGS"], format!("--bind=127.0.0.1:{port}"));
        assert_eq!(gateway.stop().code(), Some(0));
    }
}

#[test]
fn an_app_that_ends_takes_the_gateway_along_with_its_code() {
    let mut gateway = on_socket(APP, &[]);
    let app = app_of(&gateway);
    gateway.ask(get("/public/exit/3")).is_problem(502, "upstream_invalid");
    assert_eq!(gateway.wait_for_exit().code(), Some(3));
    assert_eq!(process(app), None);
    assert!(private_directories(gateway.home()).is_empty());

    // Nobody waits for the requests of people who would get a 502.
    let mut gateway = start(&config().set("server", "drain_delay", "\"1h\""), APP, &["{bind}"], &[]);
    let output = gateway.process_output();
    kill_process(Pid::from_raw(app_of(&gateway)).unwrap(), Signal::KILL).unwrap();
    assert_eq!(gateway.wait_for_exit().code(), Some(137));
    assert!(output.text().contains("the app has ended: killed by signal 9"), "{}", output.text());
}

#[test]
fn an_app_that_does_not_come_up_is_no_start() {
    let mut gateway = prepare(&config(), "exit 3", &[], &[]);
    is_said(&gateway.does_not_start().exits(3), "ended before it answered on http://127.0.0.1:");
    // It has gone to the background.
    let mut gateway = prepare(&config(), "exit 0", &["{bind}"], &[]);
    is_said(&gateway.does_not_start().exits(1), "foreground");
    assert!(private_directories(gateway.home()).is_empty());

    let mut gateway = prepare(&config(), "echo $$ >pid; exec sleep 600", &[], &["--start-timeout", "2s"]);
    is_said(&gateway.does_not_start().exits(1), "--start-timeout");
    let pid = fs::read_to_string(gateway.home().join("pid")).unwrap();
    assert_eq!(process(pid.trim().parse().unwrap()), None, "it was ended");

    let script = gateway.home().join("moved");
    fs::write(&script, "#!/gone/venv/bin/python\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    for (program, code, said) in [
        ("no-such-program", 127, &["there is no such program in PATH", "venv/bin/no-such-program"][..]),
        ("./no/such", 127, &["./no/such: there is no such file (in "]),
        ("/etc/passwd", 126, &["/etc/passwd: it is no file that may be executed"]),
        ("./moved", 127, &["./moved: its first line wants /gone/venv/bin/python", "moved?"]),
    ] {
        gateway.run = vec!["--".to_owned(), program.to_owned()];
        let ended = gateway.does_not_start().exits(code);
        for words in said {
            is_said(&ended, words);
        }
        assert!(!ended.said().contains("foreground"), "{}", ended.said());
    }
    gateway.run = vec!["--".to_owned()];
    gateway.does_not_start().exits(2);
}

#[test]
fn a_gateway_that_does_not_start_ends_its_app() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("[\"{}\"]", taken.local_addr().unwrap());
    let script = format!("echo $$ >pid; {APP}");
    let mut gateway = prepare(&config().set("server", "listen", &listen), &script, &["{bind}"], &[]);
    gateway.does_not_start().exits(1);
    let pid = fs::read_to_string(gateway.home().join("pid")).unwrap();
    assert_eq!(process(pid.trim().parse().unwrap()), None);
    assert!(private_directories(gateway.home()).is_empty());
}

#[test]
fn a_signal_ends_an_app_that_has_not_come_up() {
    let gateway = prepare(&config(), "echo here; exec sleep 600", &[], &["--start-timeout", "1h"]);
    let mut command = gateway.command();
    command.arg("run").args(&gateway.run).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "here"));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = eventually("it ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
#[cfg(target_os = "linux")]
fn an_app_that_others_reach_is_refused() {
    const EVERYWHERE: &str = r#"LISTEN=0.0.0.0:$PORT exec "$0" hosted::the_app --exact --ignored"#;
    let mut gateway = prepare(&config(), EVERYWHERE, &[], &[]);
    let ended = gateway.does_not_start().exits(1);
    is_said(&ended, "the app listens on 0.0.0.0:");
    is_said(&ended, "--allow-exposed");
    gateway.run.insert(0, "--allow-exposed".to_owned());
    gateway.start_again();
    assert!(gateway.log_lines().wait(|line| line.contains("can be reached without the gateway")));
    gateway.ask(get("/public/x")).expect(200);
}

/// Takes a port in the app's place: a process that is none of the app's. Gives what it was sent.
fn squat(port: u16) -> std::sync::mpsc::Receiver<String> {
    let listener = eventually("the port is free", || TcpListener::bind(("127.0.0.1", port)).ok());
    let (sent, received) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while stream.read_line(&mut head).is_ok_and(|read| read > 2) {}
            let _ = sent.send(head);
            let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    received
}

#[test]
#[cfg(target_os = "linux")]
fn who_takes_the_apps_port_before_it_is_sent_nothing() {
    // The app finds its port taken, and stays all the same.
    let script = "echo $PORT >new; mv new port; exec sleep 600";
    let gateway = prepare(&config(), script, &[], &[]);
    let mut command = gateway.command();
    command.arg("run").args(&gateway.run).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let port = eventually("it is told its port", || fs::read_to_string(gateway.home().join("port")).ok());
    let received = squat(port.trim().parse().unwrap());
    let status = eventually("it ends", || child.try_wait().unwrap());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    let place = format!("whoever listens on http://127.0.0.1:{} is no process of the app", port.trim());
    assert!(said.contains(&place) && said.contains("{bind}"), "{said}");
    assert!(!said.contains("listening on"), "nobody was let in: {said}");
    let heads: Vec<String> = received.try_iter().collect();
    assert!(heads.iter().all(|head| head.contains("gatepost-health")), "{heads:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn who_takes_the_apps_port_while_it_restarts_ends_the_gateway() {
    // Its supervisor stays.
    let script =
        r#"LISTEN=127.0.0.1:$PORT "$0" hosted::the_app --exact --ignored --nocapture & wait; exec sleep 600"#;
    let config = config().set("server", "drain_delay", "\"1h\"");
    let mut gateway = start(&config, script, &[], &[]);
    let output = gateway.process_output();
    let port = about(&gateway)["environment"]["PORT"].as_str().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(app_of(&gateway)).unwrap(), Signal::KILL).unwrap();
    let received = squat(port);
    assert_eq!(gateway.wait_for_exit().code(), Some(1));
    let said = output.text();
    assert!(said.contains("is no process of the app") && said.contains("stopping"), "{said}");
    assert_eq!(received.try_iter().count(), 0, "it was sent something");
}

#[test]
#[cfg(target_os = "linux")]
fn an_app_may_listen_anew_and_in_a_process_without_a_parent() {
    // Each is an orphan, and when one ends another takes its place.
    let script = r#"
        while :; do
            (LISTEN=127.0.0.1:$PORT "$0" hosted::the_app --exact --ignored --nocapture & echo $! >pid)
            while kill -0 $(cat pid) 2>/dev/null; do sleep 0.05; done
        done"#;
    let mut gateway = start(&config(), script, &[], &[]);
    for _ in 0..2 {
        let before = app_of(&gateway);
        kill_process(Pid::from_raw(before).unwrap(), Signal::KILL).unwrap();
        eventually("the next one is there", || {
            let answer = gateway.ask(get("/public/about"));
            (answer.status == 200).then(|| assert_ne!(answer.json()["pid"], before))
        });
    }
    // It has been looked at again meanwhile.
    let looked_at = std::time::Instant::now() + std::time::Duration::from_secs(1);
    eventually("some looks later it serves", || {
        gateway.ask(get("/public/about")).expect(200);
        (std::time::Instant::now() > looked_at).then_some(())
    });
    gateway.stop();
}

#[test]
fn requests_under_way_are_answered_before_the_app_is_ended() {
    let mut gateway = on_socket(SUPERVISED, &[]);
    let home = gateway.home().to_owned();
    let mut client = gateway.connect();
    client.send(get("/public/wait/go").bytes());
    eventually("the app has it", || home.join("waiting").exists().then_some(()));
    gateway.signal(Signal::TERM);
    eventually("nobody else is let in", || std::net::TcpStream::connect(gateway.address()).err());
    assert!(!home.join("signals").exists(), "the app was told too early");
    fs::write(home.join("go"), "").unwrap();
    assert_eq!(client.response().expect(200).text(), "\"waited\"");
    assert_eq!(gateway.wait_for_exit().code(), Some(7), "the app's own code");
    assert_eq!(fs::read_to_string(home.join("signals")).unwrap(), "TERM\n");
}

#[test]
fn an_app_that_does_not_end_is_killed() {
    let mut gateway = on_socket(STUBBORN, &["--stop-timeout", "300ms"]);
    let app = app_of(&gateway);
    assert_eq!(gateway.stop().code(), Some(137));
    assert_eq!(process(app), None);

    // At once with another signal.
    let mut gateway = on_socket(STUBBORN, &["--stop-timeout", "1h"]);
    gateway.signal(Signal::TERM);
    eventually("nobody is let in", || std::net::TcpStream::connect(gateway.address()).err());
    let status = eventually("it ends", || {
        if process(i32::try_from(gateway.pid()).unwrap()).is_some_and(|(state, _)| state != "Z") {
            gateway.signal(Signal::TERM);
            return None;
        }
        Some(gateway.wait_for_exit())
    });
    assert_eq!(status.code(), Some(137));
}

#[test]
#[cfg(target_os = "linux")]
fn orphans_fall_to_the_gateway_and_leave_no_zombies() {
    let mut gateway = on_socket(APP, &[]);
    let orphan = || {
        let pid = gateway.ask(get("/public/orphan/x")).expect(200).json().as_i64().unwrap();
        i32::try_from(pid).unwrap()
    };
    let (one, other) = (orphan(), orphan());
    let ours = i32::try_from(gateway.pid()).unwrap();
    assert_eq!(process(one).unwrap().1, ours);
    kill_process(Pid::from_raw(one).unwrap(), Signal::KILL).unwrap();
    eventually("its end is taken", || process(one).is_none().then_some(()));
    // It belongs to the app's group.
    assert_eq!(gateway.stop().code(), Some(0));
    assert_eq!(process(other), None);
}

#[test]
#[cfg(target_os = "linux")]
fn an_app_does_not_outlive_a_gateway_that_is_killed() {
    let mut gateway = on_socket(APP, &[]);
    let app = app_of(&gateway);
    gateway.kill();
    ends(app);
}

#[test]
fn signals_that_only_an_app_understands_are_passed_on() {
    let mut gateway = on_socket(SUPERVISED, &[]);
    let signals = gateway.home().join("signals");
    for (signal, name) in [(Signal::USR1, "USR1"), (Signal::USR2, "USR2"), (Signal::TTIN, "TTIN")] {
        gateway.signal(signal);
        eventually("it is passed on", || {
            fs::read_to_string(&signals).ok()?.lines().any(|line| line == name).then_some(())
        });
    }
    // A reload is ours alone: it would end an app that does not know of it.
    gateway.signal(Signal::HUP);
    assert!(gateway.log_lines().wait(|line| line.contains("loaded again")));
    gateway.ask(get("/public/x")).expect(200);
    gateway.signal(Signal::INT);
    assert_eq!(gateway.wait_for_exit().code(), Some(7));
    assert_eq!(fs::read_to_string(&signals).unwrap(), "USR1\nUSR2\nTTIN\nTERM\n");
}

#[test]
fn the_upstream_is_named_where_there_are_several() {
    let config = config().upstream("other", closed_port()).no_routes();
    let config = config.route("path = \"/**\"\nupstream = \"app\"\naccess = \"public\"");
    let config = config.route("path = \"/o/**\"\nupstream = \"other\"\naccess = \"public\"");
    let mut gateway = prepare(&config, APP, &["{bind}"], &[]);
    is_said(&gateway.does_not_start().exits(2), "--upstream NAME: app, other");
    gateway.run.splice(0..0, ["--upstream".to_owned(), "no".to_owned()]);
    is_said(&gateway.does_not_start().exits(2), "no upstream \"no\"");
    gateway.run[1] = "other".to_owned();
    gateway.start_again();
    gateway.ask(get("/o/x")).expect(200);
    gateway.ask(get("/x")).is_problem(502, "upstream_unreachable");
}

#[test]
fn a_reload_leaves_the_app_where_it_is() {
    let gateway = on_socket(APP, &[]);
    let app = app_of(&gateway);
    let reload = |config: &Config, said: &str| {
        let seen = gateway.log().len();
        gateway.configure(&config.text());
        gateway.signal(Signal::HUP);
        let all = || gateway.log().split_off(seen).concat();
        eventually("it is loaded again", || all().contains(said).then_some(()));
    };
    reload(&config().route("path = \"/new/**\"\naccess = \"public\""), "loaded again");
    gateway.ask(get("/new/x")).expect(200);
    assert_eq!(app_of(&gateway), app);
    reload(&Config::new().upstream("another", closed_port()), "there is no upstream \\\"app\\\" any more");
    assert_eq!(app_of(&gateway), app, "the one before stays");
}

#[test]
fn the_app_that_runs_is_asked_where_a_url_of_its_upstream_says() {
    for (script, arguments) in [(APP, &["{bind}"][..]), (BY_PORT, &[])] {
        let port = closed_port();
        let url = format!("\"http://127.0.0.1:{port}/public/admit/x\"");
        let config = Config::new().upstream("app", port).set("auth", "admission_url", &url);
        let mut gateway = start(&config, script, arguments, &[]);
        gateway.register("mallory").expect(403);
        gateway.register("alice").expect(201);
        gateway.try_login("mallory", PASSWORD).expect(401);
        gateway.login("alice");
        assert_eq!(gateway.stop().code(), Some(0));
    }
}

#[test]
fn a_process_that_takes_over_brings_its_own_app() {
    let mut gateway = on_socket(APP, &[]);
    let before = app_of(&gateway);
    let mut old = gateway.take_over();
    let status = old.wait_for_exit();
    assert_eq!(status.code(), Some(0), "{}", old.log());
    assert_eq!(process(before), None);
    assert_ne!(app_of(&gateway), before);
    assert_eq!(private_directories(gateway.home()).len(), 1);
    assert_eq!(gateway.stop().code(), Some(0));
}

#[test]
fn health_decides_when_an_app_answers() {
    // It answers at once, and is well from the second question on.
    const SLOW: &str = r#"
        LISTEN=$1 "$0" hosted::the_app --exact --ignored --nocapture & app=$!
        trap 'kill $app' TERM
        wait $app"#;
    let health = "health = { path = \"/public/wait/healthy\", timeout = \"200ms\" }";
    let config = Config::new().upstream_with("app", closed_port(), health);
    let mut gateway = prepare(&config, SLOW, &["{bind}"], &["--start-timeout", "2s"]);
    is_said(&gateway.does_not_start().exits(1), "it takes its time");
    fs::write(gateway.home().join("healthy"), "").unwrap();
    gateway.start_again();
    gateway.ask(get("/public/x")).expect(200);
    // Its shell ends as it is asked to.
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
}

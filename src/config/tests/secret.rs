//! Secrets: where they may come from, who may read them, and that nobody gets to see them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::super::{Loaded, Problems, Sources, load};
use super::{brief, read_with};
use crate::secret::Secret;
use crate::settings::{LegacyKey, SigningAlgorithm};

const SECRET: &str = "kx0WVQ3nqRrJ5oJ2ZC1vK3C3F0s0o4Zp8t7Y2b1";

struct Installation {
    directory: tempfile::TempDir,
}

impl Installation {
    fn new(config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let this = Self { directory };
        this.write("config.toml", config, 0o600);
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        std::fs::write(self.path(name), text).expect("written");
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).expect("a mode");
    }

    fn load(&self) -> Result<Loaded, Problems> {
        load(&Sources { file: Some(self.path("config.toml")), ..Sources::default() })
    }

    /// Messages, without the directory's name.
    fn errors(&self) -> Vec<String> {
        let problems = self.load().map(drop).expect_err("problems");
        let directory = format!("{}/", self.directory.path().display());
        brief(&problems).into_iter().map(|line| line.replace(&directory, "")).collect()
    }
}

fn secret_of(loaded: &Loaded) -> &[u8] {
    match &loaded.settings.tokens.algorithm {
        SigningAlgorithm::Hs256(secret) => secret.expose(),
        SigningAlgorithm::EdDsa => &[],
    }
}

fn nothing_shows(text: &str) {
    for part in [SECRET, &SECRET[..12], &SECRET[20..]] {
        assert!(!text.contains(part), "{text}");
    }
}

#[test]
fn a_secret_comes_from_the_file_or_from_a_file_of_its_own() {
    let inline = Installation::new(&format!("[tokens]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n"));
    let loaded = inline.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(secret_of(&loaded), SECRET.as_bytes());
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);

    let named = Installation::new("[tokens]\nalgorithm = \"HS256\"\nsecret_file = \"jwt.key\"\n");
    named.write("jwt.key", &format!("{SECRET}\n"), 0o400);
    let loaded = named.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(secret_of(&loaded), SECRET.as_bytes());
    nothing_shows(&format!("{loaded:?}"));
}

#[test]
fn others_may_not_change_a_secret_and_should_not_read_it() {
    for (mode, warned) in [(0o600, false), (0o644, true), (0o640, true)] {
        let this = Installation::new("[tokens]\nalgorithm = \"HS256\"\nsecret_file = \"jwt.key\"\n");
        this.write("jwt.key", SECRET, mode);
        let warnings = this.load().unwrap_or_else(|problems| panic!("{problems}")).warnings;
        let named = warnings.iter().any(|warning| warning.message.contains("others can read the secret"));
        assert_eq!(named, warned, "{mode:o}");
    }
    let this = Installation::new("[tokens]\nalgorithm = \"HS256\"\nsecret_file = \"jwt.key\"\n");
    this.write("jwt.key", SECRET, 0o620);
    assert_eq!(
        this.errors(),
        [
            "config.toml:3:15: tokens.secret_file: others can change the secret in jwt.key (mode 0620); chmod 600 it"
        ]
    );
    let text = format!("[tokens]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n");
    let this = Installation::new(&text);
    this.write("config.toml", &text, 0o666);
    assert_eq!(
        this.errors(),
        [
            "config.toml:3:10: tokens.secret: others can change the secret in config.toml (mode 0666); chmod 600 it"
        ]
    );
}

#[test]
fn bad_secrets_are_refused() {
    for (config, key, expected) in [
        (
            "secret = \"x\"\nsecret_file = \"jwt.key\"",
            SECRET,
            "config.toml:3:10: tokens.secret and tokens.secret_file are both given",
        ),
        (
            "secret_file = \"jwt.key\"",
            "short\n",
            "config.toml:3:15: tokens.secret_file: the secret is 5 bytes long; at least 32 are needed (try `openssl rand -base64 48`)",
        ),
        (
            "secret_file = \"jwt.key\"",
            "changeme-changeme-changeme-changeme",
            "config.toml:3:15: tokens.secret_file: the secret is a well-known placeholder; make one with `openssl rand -base64 48`",
        ),
        (
            "secret = \"supersecretsupersecretsupersecret\"",
            SECRET,
            "config.toml:3:10: tokens.secret: the secret is a well-known placeholder; make one with `openssl rand -base64 48`",
        ),
        ("secret_file = \".\"", SECRET, "config.toml:3:15: tokens.secret_file: . is not a regular file"),
        (
            "secret_file = \"none\"",
            SECRET,
            "config.toml:3:15: tokens.secret_file: cannot read none: No such file or directory (os error 2)",
        ),
    ] {
        let this = Installation::new(&format!("[tokens]\nalgorithm = \"HS256\"\n{config}\n"));
        this.write("jwt.key", key, 0o600);
        assert_eq!(this.errors(), [expected], "{config}");
    }
    let this = Installation::new(&format!("[tokens]\nalgorithm = \"EdDSA\"\nsecret = \"{SECRET}\"\n"));
    assert_eq!(
        this.errors(),
        ["config.toml:3:10: tokens.secret: is for algorithm = \"HS256\"; EdDSA makes its own key"]
    );
}

#[test]
fn no_output_holds_a_secret() {
    for config in [
        format!("[tokens]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\nissuer = 1\n"),
        format!("[tokens]\nsecret = \"{SECRET}\"\n"),
        format!("[tokens]\nsecert = \"{SECRET}\"\n"),
        format!("[tokens]\njwt_secret = \"{SECRET}\"\n"),
        format!("[tokens]\nsecret = [\"{SECRET}\"]\n"),
        format!("[tokens]\nsecret = {{ value = \"{SECRET}\" }}\n"),
        format!("[tokens]\nsecret = \"{SECRET}\nissuer = 1\n"),
        format!("[tokens]\nsecret = {SECRET}\n"),
        format!("[tokens]\nsecret = \"\"\"\n{SECRET}\n"),
        format!("tokens = {{ issuer = 1, secret = \"{SECRET}\", x = 1 }}\n"),
        format!("tokens.secret = '{SECRET}' x\n"),
        format!("secret = \"{SECRET}\"\n"),
        format!("[tokens]\nsecret = \"{SECRET}\"\nsecret = \"{SECRET}\"\n"),
        format!("[tokens]\nsecret = \"{SECRET}\" \\\n"),
    ] {
        match Installation::new(&config).load() {
            Ok(loaded) => nothing_shows(&format!("{loaded:?}")),
            Err(problems) => {
                nothing_shows(&problems.to_string());
                nothing_shows(&format!("{problems:?}"));
                nothing_shows(&serde_json::to_string(&problems).expect("JSON"));
            }
        }
    }
    for (env, set) in [
        ("GATEPOST__TOKENS__SECRET", "tokens.secret"),
        ("GATEPOST__TOKENS__SECERT", "tokens.secert"),
        ("GATEPOST__SECRET", "secret"),
    ] {
        for (env, set) in [
            (vec![(env.to_owned(), SECRET.to_owned())], vec![]),
            (vec![], vec![format!("{set}={SECRET}")]),
            (vec![], vec![format!("{set}:{SECRET}")]),
            (vec![], vec![format!("{set}:{SECRET}=")]),
            (vec![], vec![format!("={SECRET}")]),
        ] {
            let result = read_with("", &Sources { file: None, set, env });
            nothing_shows(&result.err().map(|problems| problems.to_string()).unwrap_or_default());
        }
    }
}

#[test]
fn a_secret_is_shown_as_three_asterisks() {
    let env = vec![
        ("GATEPOST__TOKENS__SECRET".to_owned(), SECRET.to_owned()),
        ("GATEPOST__TOKENS__ALGORITHM".to_owned(), "HS256".to_owned()),
    ];
    let read =
        read_with("", &Sources { env, ..Sources::default() }).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        super::shown(&read, "tokens.secret"),
        Some(("\"***\"".to_owned(), "environment variable GATEPOST__TOKENS__SECRET".to_owned()))
    );
}

/// The app's old key beside whatever else is written.
fn legacy(algorithm: &str, key: &str, more: &str) -> String {
    format!("[[legacy_token]]\nalgorithm = \"{algorithm}\"\n{key}\nuntil = \"2027-03-31\"\n{more}")
}

#[test]
fn an_apps_old_secret_may_be_short_and_is_warned_of() {
    for (text, warned) in [
        ("super-secret\n", true),
        ("k7", true),
        ("changeme-changeme-changeme-changeme", true),
        (SECRET, false),
    ] {
        let this = Installation::new(&legacy("HS256", "secret_file = \"app.key\"", ""));
        this.write("app.key", text, 0o600);
        let loaded = this.load().unwrap_or_else(|problems| panic!("{problems}"));
        let key = &loaded.settings.tokens.legacy[0].key;
        assert_eq!(*key, LegacyKey::Secret(Secret::new(text.trim_end().as_bytes().to_vec())));
        let named = loaded
            .warnings
            .iter()
            .any(|warning| warning.message.contains("whoever guesses it can be anybody"));
        assert_eq!(named, warned, "{text}: {:?}", loaded.warnings);
        assert!(!format!("{loaded:?}").contains(text.trim_end()));
    }
    let this = Installation::new(&legacy("HS256", "secret_file = \"app.key\"", ""));
    this.write("app.key", "\n", 0o600);
    assert_eq!(this.errors(), ["config.toml:3:15: legacy_token[0].secret_file: the secret is empty"]);
}

const P256: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYD54V/vp+54P9DXarYqx4MPcm+HK
RIQzNasYSoRQHQ/6S6Ps8tpMcT+KvIIC8W/e9k0W7Cm72M1P9jU7SLf/vg==
-----END PUBLIC KEY-----
";

#[test]
fn a_key_file_is_for_one_kind_of_algorithm() {
    let refuses = |algorithm: &str, key: &str, text: &str, expected: &str| {
        let this = Installation::new(&legacy(algorithm, &format!("{key} = \"app.key\""), ""));
        this.write("app.key", text, 0o600);
        let errors = this.errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains(expected), "{errors:?} {expected}");
    };
    // The classic: a public key as the secret of HS256.
    for text in [P256, "  -----BEGIN RSA PUBLIC KEY-----\nAA==\n", "ssh-ed25519 AAAA", "{\"kty\":\"RSA\"}"] {
        refuses("HS256", "secret_file", text, "the secret is a key file");
    }
    refuses("ES384", "public_key_file", P256, "is no key for ES384");
    refuses("RS256", "public_key_file", P256, "is no key for RS256");
    refuses("EdDSA", "public_key_file", "k7", "has no public key");
    let private = P256.replace("PUBLIC", "PRIVATE");
    refuses("ES256", "public_key_file", &private, "holds a private key");
    refuses("ES256", "public_key_file", &format!("{P256}{P256}"), "holds more than one key");
    refuses("ES256", "public_key_file", &P256.replace("PUBLIC KEY", "CERTIFICATE"), "is a certificate");
    let this = Installation::new(&legacy("ES256", "public_key_file = \"app.key\"", ""));
    this.write("app.key", P256, 0o644);
    let loaded = this.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert!(matches!(&loaded.settings.tokens.legacy[0].key, LegacyKey::Public(_)));
    assert_eq!(loaded.warnings.len(), 1, "anybody may read it: {:?}", loaded.warnings);
    this.write("app.key", P256, 0o666);
    assert!(this.errors()[0].contains("others can change"), "{:?}", this.errors());
}

#[test]
fn one_key_has_one_meaning() {
    let twice = legacy("HS256", "secret_file = \"app.key\"", "")
        + &legacy("HS256", "secret_file = \"app.key\"", "user = \"identity\"\n");
    let this = Installation::new(&twice);
    this.write("app.key", SECRET, 0o600);
    assert_eq!(this.errors(), ["config.toml:7:15: the same key and algorithm are there twice"]);
}

#[test]
fn secrets_of_before_are_as_good_as_the_one_of_now() {
    let text =
        "[tokens]\nalgorithm = \"HS256\"\nsecret_file = \"new.key\"\nprevious_secret_files = [\"old.key\"]\n";
    let this = Installation::new(text);
    this.write("new.key", SECRET, 0o600);
    let other = SECRET.replace('k', "q");
    this.write("old.key", &other, 0o600);
    let loaded = this.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.settings.tokens.previous_secrets, [Secret::new(other.clone().into_bytes())]);
    let at = "config.toml:4:26: tokens.previous_secret_files: ";
    this.write("old.key", SECRET, 0o600);
    assert_eq!(this.errors(), [format!("{at}this is the secret that signs now")]);
    this.write("old.key", "short", 0o600);
    assert!(this.errors()[0].starts_with(&format!("{at}the secret in old.key is 5 bytes long")));
    this.write("old.key", &other, 0o622);
    assert!(this.errors()[0].contains("others can change the secret in old.key"));
    this.write("old.key", &other, 0o600);
    this.write("config.toml", "[tokens]\nprevious_secret_files = [\"old.key\"]\n", 0o600);
    assert!(this.errors()[0].contains("is for algorithm = \"HS256\""), "{:?}", this.errors());
}

fn fit_warnings(tokens: &str, rest: &str) -> Vec<String> {
    let upstream = "[[upstream]]\nname = \"app\"\nservers = [\"http://a:1\"]\n";
    let this = Installation::new(&format!("{tokens}\n{upstream}{rest}"));
    this.write("ours.key", SECRET, 0o600);
    this.write("theirs.key", &SECRET.replace('k', "q"), 0o600);
    let loaded = this.load().unwrap_or_else(|problems| panic!("{problems}"));
    loaded.warnings.into_iter().map(|warning| warning.message).collect()
}

#[test]
fn what_does_not_fit_the_app_is_warned_of() {
    let hs = "[tokens]\nalgorithm = \"HS256\"\nsecret_file = \"ours.key\"\naudience = []";
    let named = "[tokens]\nalgorithm = \"HS256\"\nsecret_file = \"ours.key\"";
    let route = "[[route]]\npath = \"/**\"\n";
    let forwards = "[[route]]\npath = \"/**\"\nforward_authorization = true\n";
    let legacy = |algorithm: &str, file: &str| legacy(algorithm, &format!("secret_file = \"{file}\""), "");
    let none: Option<&str> = None;
    for (tokens, rest, expected) in [
        ("", route.to_owned(), none),
        ("", forwards.to_owned(), None),
        (hs, forwards.to_owned(), None),
        (hs, route.to_owned(), Some("no route hands them on")),
        (named, forwards.to_owned(), Some("the audience \"app\"")),
        (hs, forwards.to_owned() + &legacy("HS256", "ours.key"), None),
        (hs, forwards.to_owned() + &legacy("HS256", "theirs.key"), Some("with another secret")),
        (hs, forwards.to_owned() + &legacy("HS512", "ours.key"), Some("one that expects HS512 refuses")),
        (
            "",
            forwards.to_owned() + &legacy("HS256", "ours.key"),
            Some("signed with EdDSA; one that verifies HS256"),
        ),
        ("", route.to_owned() + &legacy("HS256", "ours.key"), None),
        (
            "auth.registration = \"open\"\nauth.default_roles = []",
            "[[route]]\npath = \"/**\"\nroles = [\"admin\"]\n".to_owned() + &legacy("HS256", "ours.key"),
            Some("anybody can register the name"),
        ),
    ] {
        let found = fit_warnings(tokens, &rest);
        match expected {
            None => assert!(found.is_empty(), "{tokens} {rest}: {found:?}"),
            Some(part) => {
                assert_eq!(found.len(), 1, "{tokens} {rest}: {found:?}");
                assert!(found[0].contains(part), "{found:?}");
            }
        }
    }
}

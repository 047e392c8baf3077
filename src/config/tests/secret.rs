//! Secrets: where they may come from, who may read them, and that nobody gets to see them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::super::{Loaded, Problems, Sources, load};
use super::{brief, read_with};
use crate::settings::SigningAlgorithm;

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

//! Whether tokens, secrets, pages and the app behind fit together: combinations that load and then let nobody
//! in, or share a secret for nothing.

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::origin::Origin;
use super::problem::Problem;
use super::reader::Reader;
use super::sections::auth::AuthRead;
use super::sections::cors::CorsRead;
use super::sections::legacy::LegacyRead;
use super::sections::routes::RouteRead;
use super::sections::tokens::TokensRead;
use super::value::quote;
use crate::settings::{
    CredentialForm, LegacyAccount, LegacyAlgorithm, LegacyKey, Registration, SigningAlgorithm,
};

/// What has to fit.
pub(super) struct Parts<'a> {
    pub(super) reader: &'a Reader<'a>,
    pub(super) auth: &'a AuthRead,
    pub(super) tokens: &'a TokensRead,
    pub(super) legacy: &'a [LegacyRead],
    pub(super) cors: &'a CorsRead,
    pub(super) routes: &'a [RouteRead],
}

/// Warns of what does not.
pub(super) fn check(parts: &Parts<'_>) {
    if parts.reader.has_errors() {
        return;
    }
    let forwards = parts.routes.iter().any(|route| route.settings.forward_authorization);
    if forwards {
        parts.warn_of_other_keys();
        parts.warn_of_audience();
    } else if !parts.routes.is_empty() {
        parts.warn_of_shared_for_nothing();
    }
    parts.warn_of_names_for_the_taking();
    parts.warn_of_tokens_that_pages_cannot_show();
}

impl Parts<'_> {
    const fn signs_with_secret(&self) -> bool {
        matches!(self.tokens.settings.algorithm, SigningAlgorithm::Hs256(_))
    }

    /// A secret that two have is kept half as well.
    fn warn_of_shared_for_nothing(&self) {
        if self.signs_with_secret() {
            let message = "HS256 is for an app that verifies tokens by itself, and no route hands them on";
            let problem = Problem::warning(message, self.reader.place(&self.tokens.algorithm)).help(
                "forward_authorization = true lets the app see them; without that, EdDSA needs no shared secret",
            );
            self.reader.push(problem);
        }
    }

    /// An app that has verified its own tokens will verify ours in the same way.
    fn warn_of_other_keys(&self) {
        let settings = &self.tokens.settings;
        for legacy in self.legacy {
            let LegacyKey::Secret(theirs) = &legacy.settings.key else { continue };
            let name = legacy.settings.algorithm.name();
            let message = match &settings.algorithm {
                SigningAlgorithm::EdDsa => format!(
                    "the app is handed tokens signed with EdDSA; one that verifies {name} with its secret refuses them"
                ),
                SigningAlgorithm::Hs256(_) if legacy.settings.algorithm != LegacyAlgorithm::Hs256 => {
                    format!("the app is handed tokens signed with HS256; one that expects {name} refuses them")
                }
                SigningAlgorithm::Hs256(ours)
                    if ours != theirs && !settings.previous_secrets.contains(theirs) =>
                {
                    "the app is handed tokens signed with another secret than its own were: it refuses one kind"
                        .to_owned()
                }
                SigningAlgorithm::Hs256(_) => continue,
            };
            let problem = Problem::warning(message, self.reader.place(&self.tokens.algorithm))
                .note("the app's own tokens", self.reader.place(&legacy.key))
                .help("an app that looks at tokens has to take both kinds for now; or let it read X-Auth-Id instead, without forward_authorization");
            self.reader.push(problem);
        }
    }

    /// Most libraries refuse an audience that they were not told of.
    fn warn_of_audience(&self) {
        let settings = &self.tokens.settings;
        if self.signs_with_secret() && !settings.audience.is_empty() && !self.tokens.audience_given {
            let message = format!(
                "the app is handed tokens with the audience {:?}; a library that was told of none refuses them",
                settings.audience[0]
            );
            let problem = Problem::warning(message, self.reader.place(&self.tokens.algorithm)).help(
                "[tokens] audience = [] leaves it out; to keep it, write it down here and tell the app",
            );
            self.reader.push(problem);
        }
    }

    /// Who registers a name that somebody had at the app would be taken for them, or they for him.
    fn warn_of_names_for_the_taking(&self) {
        let auth = &self.auth.settings;
        let by_name = |legacy: &&LegacyRead| legacy.settings.account != LegacyAccount::Id;
        let Some(legacy) = self.legacy.iter().find(by_name) else { return };
        if auth.registration == Registration::Open {
            let message = "anybody can register the name of somebody at the app who has no account here, and \
                           tokens that the app mints for them after that speak for the new account; tokens by \
                           name without iat count for imported accounts only";
            let problem = Problem::warning(message, self.reader.place(&legacy.origin))
                .note("registration is open", self.reader.place(&self.auth.registration))
                .help(
                    "import every account first, or use account = \"id\", or close registration until then",
                );
            self.reader.push(problem);
        }
    }

    /// A browser lets a page of another origin set only the headers that it was told of, and says no to the
    /// page alone: here nothing would be seen of it.
    fn warn_of_tokens_that_pages_cannot_show(&self) {
        let cors = &self.cors.settings;
        if !cors.is_on() {
            return;
        }
        let mut missing: Vec<HeaderName> = Vec::new();
        for form in &self.tokens.settings.accept {
            let header = match form {
                CredentialForm::Bearer | CredentialForm::Jwt => AUTHORIZATION,
                CredentialForm::XAccessToken => HeaderName::from_static("x-access-token"),
            };
            if !cors.headers.contains(&header) && !missing.contains(&header) {
                missing.push(header);
            }
        }
        for header in missing {
            let message = format!(
                "pages of the origins in [cors] cannot present a token in {header}, which tokens.accept takes"
            );
            let named = cors.headers.iter().chain([&header]).map(|name| quote(name.as_str()));
            let named: Vec<String> = named.collect();
            let help = format!("[cors] headers = [{}]", named.join(", "));
            let (headers, accept) = (&self.cors.headers, &self.tokens.accept);
            // One of the two was written: by themselves they fit.
            let written = if *headers == Origin::Default { accept } else { headers };
            self.reader.push(Problem::warning(message, self.reader.place(written)).help(help));
        }
    }
}

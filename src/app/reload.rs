//! Loading the configuration again while the gateway serves, and what of it cannot change then.

use std::path::Path;
use std::sync::Arc;

use super::App;
use super::start::{Common, StartError, load_upstream_tls, loaded_well, rules_of};
use crate::config::{self, Loaded};
use crate::proxy::{Fleet, Watch};
use crate::settings::{Endpoint, Settings, SigningAlgorithm};
use crate::store::Store;
use crate::tls::Tls;

impl App {
    /// Loads the configuration again. False: it is not good and changes nothing, and the log says why.
    pub fn reload(&mut self, sources: &config::Sources) -> bool {
        let outcome = match config::load(sources) {
            Ok(loaded) => {
                let fingerprint = format!("{:016x}", loaded.fingerprint);
                self.apply(loaded).map(|()| fingerprint).map_err(|error| vec![error.to_string()])
            }
            Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
        };
        match outcome {
            // Which content it was: it may be written once more before anybody reads this.
            Ok(fingerprint) => {
                tracing::info!(fingerprint, "the configuration was loaded again");
                true
            }
            Err(problems) => {
                self.metrics.reload_success.set(0);
                for problem in problems {
                    tracing::error!(problem, "the configuration is not good");
                }
                tracing::error!("the configuration was not loaded again: the one before stays");
                false
            }
        }
    }

    /// Judges by another configuration from here on. Nothing has changed when this fails.
    fn apply(&mut self, mut loaded: Loaded) -> Result<(), StartError> {
        let old = self.current.load_full();
        if let Some(hosted) = &self.hosted {
            hosted.put(&mut loaded.settings).map_err(StartError::NoUpstream)?;
        }
        let ended = loaded.ended(old.clock.now().secs());
        let (settings, kept) = keep_fixed(&old.settings, loaded.settings);
        let settings = Arc::new(settings);
        let rules = rules_of(&settings)?;
        let upstream_tls = load_upstream_tls(&settings)?;
        if let Some(tls) = &settings.server.tls {
            // Tried before anything changes.
            drop(Tls::new(tls, Arc::clone(&self.metrics))?);
        }
        let fleet = Fleet::after(&old.fleet, &settings.upstreams).with_tls(upstream_tls);
        let fleet = Arc::new(fleet);
        let watch = Watch::start(&fleet, &settings).map_err(StartError::System)?;
        let changed = self.desk.change(&settings, self.outgoing.outside(&settings)).map_err(StartError::from);
        let changed = changed.and_then(|()| Ok(old.log.set_level(&settings.log.level)?));
        if let Err(error) = changed {
            watch.stop();
            return Err(error);
        }

        if let Some((tls, settings)) = self.tls.as_ref().zip(settings.server.tls.as_ref())
            && let Err(error) = tls.replace(settings)
        {
            tracing::error!(%error, "the certificates before stay");
        }
        for warning in loaded.warnings.iter().chain(&ended) {
            tracing::warn!("{}", warning.message);
        }
        for key in kept {
            tracing::warn!(key, "this key cannot change while the gateway runs: it keeps its value");
        }
        let common = Common { desk: &self.desk, log: old.log.clone(), clock: Arc::clone(&old.clock) };
        let labels = old.labels.followed_by(rules.label_texts(&settings));
        let shared = Arc::new(common.share(settings, rules, labels, fleet));
        // First: whatever is counted from here on can be named.
        self.current.store(Arc::clone(&shared));
        if !self.server.replace(shared) {
            tracing::warn!("a worker is slow to take up the configuration");
        }
        std::mem::replace(&mut self.watch, watch).stop();
        self.retell(&old.settings);
        loaded_well(&self.metrics);
        Ok(())
    }

    /// Tells the app by the settings that there are now, where these are not as before.
    fn retell(&mut self, old: &Settings) {
        // Without a store there is nothing to tell: it is begun when there is one again.
        if self.settings().events != old.events && self.has_store {
            self.start_telling();
        }
    }

    pub(super) fn start_telling(&mut self) {
        // The one before ends first: two would tell everything twice.
        drop(self.events.take());
        match self.outgoing.events(&self.settings(), Arc::clone(&self.store) as Arc<dyn Store>) {
            Ok(events) => self.events = events,
            Err(error) => tracing::error!(%error, "the app is not told of accounts until the next start"),
        }
    }
}

/// The new settings with the old values of what cannot change while the gateway runs, and the names of
/// those keys that would have.
fn keep_fixed(old: &Settings, mut new: Settings) -> (Settings, Vec<&'static str>) {
    let mut kept = Vec::new();
    let mut keep = |key, same: bool| {
        if !same {
            kept.push(key);
        }
    };
    keep("server.listen", are_same(&new.server.listen, &old.server.listen));
    keep("server.redirect_http", are_same(&new.server.redirect_http, &old.server.redirect_http));
    keep("server.workers", new.server.workers == old.server.workers);
    keep("server.h2c", new.server.h2c == old.server.h2c);
    keep("server.proxy_protocol", new.server.proxy_protocol == old.server.proxy_protocol);
    let acme = |settings: &Settings| settings.server.tls.as_ref().map(|tls| tls.acme.clone());
    keep("server.tls", new.server.tls.is_some() == old.server.tls.is_some());
    keep("server.tls.acme", acme(&new).unwrap_or_default() == acme(old).unwrap_or_default());
    keep("admin.listen", new.admin.listen == old.admin.listen);
    keep("admin.socket", is_same_place(&new.admin.socket, &old.admin.socket));
    keep("log.format", new.log.format == old.log.format);
    keep("store.path", is_same_place(&new.store.path, &old.store.path));
    keep("store.min_free", new.store.min_free == old.store.min_free);
    keep("auth.prefix", new.auth.prefix.as_str() == old.auth.prefix.as_str());
    let (same_algorithm, same_secret) = compare(&old.tokens.algorithm, &new.tokens.algorithm);
    keep("tokens.algorithm", same_algorithm);
    keep("tokens.secret", same_secret);
    let same_previous = new.tokens.previous_secrets == old.tokens.previous_secrets;
    keep("tokens.previous_secret_files", same_previous);

    new.server.listen.clone_from(&old.server.listen);
    new.server.redirect_http.clone_from(&old.server.redirect_http);
    new.server.workers = old.server.workers;
    new.server.h2c = old.server.h2c;
    new.server.proxy_protocol = old.server.proxy_protocol;
    new.server.tls = match (new.server.tls, &old.server.tls) {
        (Some(mut tls), Some(old)) => {
            tls.acme.clone_from(&old.acme);
            Some(tls)
        }
        (_, old) => old.clone(),
    };
    new.admin = old.admin.clone();
    new.log.format = old.log.format;
    new.store = old.store.clone();
    new.auth.prefix = old.auth.prefix.clone();
    new.tokens.algorithm = old.tokens.algorithm.clone();
    new.tokens.previous_secrets.clone_from(&old.tokens.previous_secrets);
    (new, kept)
}

fn are_same(some: &[Endpoint], others: &[Endpoint]) -> bool {
    let is_same = |pair: (&Endpoint, &Endpoint)| match pair {
        (Endpoint::Unix(one), Endpoint::Unix(other)) => is_same_place(one, other),
        (one, other) => one == other,
    };
    some.len() == others.len() && some.iter().zip(others).all(is_same)
}

/// Whether two paths are one. At the start they may be relative to the working directory; a reload reads the file by
/// its absolute path.
fn is_same_place(one: &Path, other: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute(one) == absolute(other)
}

/// Whether two are the same algorithm, and whether, where there is one, the secret is the same.
fn compare(one: &SigningAlgorithm, other: &SigningAlgorithm) -> (bool, bool) {
    match (one, other) {
        (SigningAlgorithm::EdDsa, SigningAlgorithm::EdDsa) => (true, true),
        (SigningAlgorithm::Hs256(one), SigningAlgorithm::Hs256(other)) => {
            (true, one.expose() == other.expose())
        }
        (SigningAlgorithm::EdDsa, SigningAlgorithm::Hs256(_))
        | (SigningAlgorithm::Hs256(_), SigningAlgorithm::EdDsa) => (false, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::testing::settings;

    #[test]
    fn a_path_that_is_written_otherwise_has_not_changed() {
        let here = std::env::current_dir().expect("a directory");
        let mut old = settings();
        old.store.path = "data".into();
        old.admin.socket = "./data/admin.sock".into();
        old.server.listen = vec![Endpoint::Unix("web.sock".into())];
        let mut new = old.clone();
        new.store.path = here.join("data");
        new.admin.socket = here.join("data/admin.sock");
        new.server.listen = vec![Endpoint::Unix(here.join("web.sock"))];
        let (kept, names) = keep_fixed(&old, new);
        assert_eq!((kept.store.path, names), (old.store.path.clone(), vec![]));
        let mut elsewhere = old.clone();
        elsewhere.store.path = here.join("other");
        assert_eq!(keep_fixed(&old, elsewhere).1, ["store.path"]);
    }
}

//! Which certificate a client gets: by the name it asks for (SNI, RFC 6066 section 3).

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;

/// The certificates by their names. Several may have the same name, as an ECDSA and an RSA one do.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    default: Option<Arc<CertifiedKey>>,
    exact: FxHashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcards: FxHashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl Certificates {
    /// The first one is for whoever names nobody that is known. For the names of `issued` it goes first:
    /// what is configured for them serves until there is one.
    pub(super) fn new(configured: &[Arc<Certificate>], issued: Option<&Arc<Certificate>>) -> Self {
        let mut all = Self {
            default: configured.iter().chain(issued).next().map(|certificate| Arc::clone(certificate.key())),
            ..Self::default()
        };
        for certificate in issued.into_iter().chain(configured) {
            for name in certificate.names() {
                let (table, name) = match name.strip_prefix("*.") {
                    Some(suffix) => (&mut all.wildcards, suffix),
                    None => (&mut all.exact, name.as_str()),
                };
                table.entry(name.to_owned()).or_default().push(Arc::clone(certificate.key()));
            }
        }
        all
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let named = name.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let candidates = named.as_deref().and_then(|name| {
            // A wildcard is one label, the left-most (RFC 6125 section 6.4.3).
            self.exact.get(name).or_else(|| self.wildcards.get(name.split_once('.')?.1))
        });
        let candidates = candidates.map_or(&[][..], Vec::as_slice);
        let usable = candidates.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        usable.or(candidates.first()).or(self.default.as_ref()).cloned()
    }
}

/// The choice, with certificates that can be swapped while it is made.
#[derive(Debug)]
pub(super) struct Choice(ArcSwap<Certificates>);

impl Choice {
    pub(super) fn new(certificates: Certificates) -> Self {
        Self(ArcSwap::from_pointee(certificates))
    }

    pub(super) fn set(&self, certificates: Certificates) {
        self.0.store(Arc::new(certificates));
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().choose(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::certificate;

    const ANY: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];

    #[test]
    fn names_choose_and_the_first_is_for_everybody_else() {
        let first = certificate(&["a.example.com"]);
        let second = certificate(&["B.example.com", "*.example.com", "*.b.example.com"]);
        let all = Certificates::new(&[Arc::clone(&first), Arc::clone(&second)], None);
        let cases = [
            (None, &first),
            (Some("a.example.com"), &first),
            (Some("A.EXAMPLE.COM."), &first),
            (Some("b.example.com"), &second),
            (Some("c.example.com"), &second),
            (Some("x.b.example.com"), &second),
            // More than one label is not meant by a wildcard, nor is none.
            (Some("x.y.example.com"), &first),
            (Some("example.com"), &first),
            (Some("elsewhere.org"), &first),
        ];
        for (name, expected) in cases {
            let chosen = all.choose(name, ANY).expect("a certificate");
            assert!(Arc::ptr_eq(&chosen, expected.key()), "{name:?}");
        }
    }

    #[test]
    fn an_issued_certificate_goes_first_for_its_names_only() {
        let configured = certificate(&["a.example.com", "b.example.com"]);
        let issued = certificate(&["b.example.com"]);
        let all = Certificates::new(&[Arc::clone(&configured)], Some(&issued));
        for (name, expected) in
            [(Some("a.example.com"), &configured), (Some("b.example.com"), &issued), (None, &configured)]
        {
            let chosen = all.choose(name, ANY).expect("a certificate");
            assert!(Arc::ptr_eq(&chosen, expected.key()), "{name:?}");
        }
        let alone = Certificates::new(&[], Some(&issued));
        assert!(Arc::ptr_eq(&alone.choose(None, ANY).expect("a certificate"), issued.key()));
        assert!(Certificates::default().choose(Some("a.example.com"), ANY).is_none());
    }
}

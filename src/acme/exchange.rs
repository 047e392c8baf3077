//! One order with an authority: account, order, proof, certificate. Each step is kept before the next.

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::AcmeParts;
use super::schedule;
use crate::store::{AcmeCertificate, AcmeOrder, AcmeState, Change, SecretText, StoreError};
use crate::tls::{ChallengeError, ChallengeKind};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcmeError {
    /// What the authority says, or that it cannot be asked.
    #[error("the authority: {}", causes(.0))]
    Authority(#[from] instant_acme::Error),
    /// The store; without it nothing is done that would have to be remembered.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The authority does not offer what we can answer.
    #[error("the authority offers no {kind} challenge for {domain}")]
    NoChallenge {
        /// Which was wanted.
        kind: &'static str,
        /// Whose.
        domain: String,
    },
    /// A name was not proved.
    #[error("{domain} was not proved by {kind}: {reason}")]
    NotProved {
        /// Which.
        domain: String,
        /// How.
        kind: &'static str,
        /// What the authority says of it.
        reason: String,
    },
    /// The order came to an end without a certificate.
    #[error("the order ended as {0:?}")]
    Ended(OrderStatus),
    /// A certificate for a challenge.
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
    /// A key or a request for it.
    #[error("no certificate request can be made: {0}")]
    Request(#[from] rcgen::Error),
    /// What is kept of the account cannot be read.
    #[error("the account that is kept cannot be read")]
    Account,
    /// What came is no certificate for the key.
    #[error("what was issued cannot be used")]
    Unusable,
    /// Everything together took too long.
    #[error("the authority takes too long")]
    Timeout,
}

impl AcmeError {
    /// Whether the authority wants to be left alone for a while (RFC 8555 section 6.6).
    pub(super) fn is_rate_limit(&self) -> bool {
        match self {
            Self::Authority(instant_acme::Error::Api(problem)) => {
                problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:rateLimited")
            }
            _ => false,
        }
    }
}

/// An error with everything behind it: "client error (Connect)" helps nobody.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// An attempt.
pub(super) struct Exchange<'p> {
    pub(super) parts: &'p AcmeParts,
    pub(super) attempt: u32,
}

impl Exchange<'_> {
    /// Goes on with the order that is kept, or makes one. In the end the state holds a new certificate.
    pub(super) async fn obtain(&self, state: &mut AcmeState) -> Result<(), AcmeError> {
        let account = self.account(state).await?;
        let mut order = self.resume_or_order(&account, state).await?;
        let outcome = self.complete(&mut order, state).await;
        if matches!(outcome, Err(AcmeError::NotProved { .. } | AcmeError::Ended(_))) {
            // It can come to nothing any more: the next attempt makes another one.
            state.order = None;
            self.keep(state).await?;
        }
        outcome
    }

    async fn complete(&self, order: &mut Order, state: &mut AcmeState) -> Result<(), AcmeError> {
        if order.refresh().await?.status == OrderStatus::Pending {
            self.prove(order).await?;
        }
        let key = state.order.as_ref().map(|order| order.key.clone()).ok_or(AcmeError::Unusable)?;
        if order.refresh().await?.status == OrderStatus::Ready {
            order.finalize_csr(&self.request(&key)?).await?;
        }
        let status = order.refresh().await?.status;
        if !matches!(status, OrderStatus::Processing | OrderStatus::Valid) {
            return Err(AcmeError::Ended(status));
        }
        let chain = order.poll_certificate(&RetryPolicy::default()).await?;
        let domains = self.parts.settings.domains.clone();
        state.order = None;
        state.certificate = Some(AcmeCertificate { domains, chain, key });
        self.keep(state).await
    }

    /// The account that is kept, or a new one.
    async fn account(&self, state: &mut AcmeState) -> Result<Account, AcmeError> {
        let settings = &self.parts.settings;
        let builder = match &settings.ca {
            Some(ca) => Account::builder_with_root(ca)?,
            None => Account::builder()?,
        };
        if let Some(kept) = &state.account {
            let credentials = serde_json::from_str(kept.expose()).map_err(|_| AcmeError::Account)?;
            return Ok(builder.from_credentials(credentials).await?);
        }
        let contact = settings.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        // The configuration cannot be loaded without the operator's consent.
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = builder.create(&new, settings.directory.clone(), None).await?;
        let credentials = serde_json::to_string(&credentials).map_err(|_| AcmeError::Account)?;
        state.account = Some(SecretText::from(credentials));
        self.keep(state).await?;
        Ok(account)
    }

    async fn resume_or_order(&self, account: &Account, state: &mut AcmeState) -> Result<Order, AcmeError> {
        let domains = &self.parts.settings.domains;
        if let Some(kept) = state.order.as_ref().filter(|order| order.domains == *domains) {
            // One that the authority has forgotten is no reason not to make another.
            match account.order(kept.url.clone()).await {
                Ok(mut order) => {
                    if order.state().status != OrderStatus::Invalid {
                        return Ok(order);
                    }
                }
                Err(error) => tracing::debug!(%error, "the order that is kept cannot be gone on with"),
            }
        }
        let names: Vec<Identifier> = domains.iter().cloned().map(Identifier::Dns).collect();
        let order = account.new_order(&NewOrder::new(&names)).await?;
        let key = SecretText::from(KeyPair::generate()?.serialize_pem());
        state.order = Some(AcmeOrder { url: order.url().to_owned(), domains: domains.clone(), key });
        self.keep(state).await?;
        Ok(order)
    }

    /// Shows that every name is ours.
    async fn prove(&self, order: &mut Order) -> Result<(), AcmeError> {
        let challenges = self.parts.tls.challenges();
        let kind = schedule::challenge(self.attempt, self.parts.answers_http);
        let wanted = match kind {
            ChallengeKind::File => ChallengeType::Http01,
            ChallengeKind::Handshake => ChallengeType::TlsAlpn01,
        };
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let domain = authorization.identifier().to_string();
            let Some(mut challenge) = authorization.challenge(wanted.clone()) else {
                return Err(AcmeError::NoChallenge { kind: kind.name(), domain });
            };
            let proof = challenge.key_authorization();
            match kind {
                ChallengeKind::File => challenges.open_file(&challenge.token, proof.as_str()),
                ChallengeKind::Handshake => challenges.open_handshake(&domain, proof.digest().as_ref())?,
            }
            challenge.set_ready().await?;
        }
        let outcome = order.poll_ready(&RetryPolicy::default()).await;
        match outcome {
            Ok(OrderStatus::Ready) => Ok(()),
            Err(instant_acme::Error::Timeout(_)) => Err(AcmeError::Timeout),
            outcome => match refusal(order).await {
                Some((domain, reason)) => Err(AcmeError::NotProved { domain, kind: kind.name(), reason }),
                None => Err(outcome.map_or_else(AcmeError::Authority, AcmeError::Ended)),
            },
        }
    }

    fn request(&self, key: &SecretText) -> Result<Vec<u8>, AcmeError> {
        let key = KeyPair::from_pem(key.expose())?;
        let mut params = CertificateParams::new(self.parts.settings.domains.clone())?;
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&key)?.der().to_vec())
    }

    async fn keep(&self, state: &mut AcmeState) -> Result<(), AcmeError> {
        self.parts.store.commit(vec![Change::PutAcme(Box::new(state.clone()))]).await?;
        state.version += 1;
        Ok(())
    }
}

/// Which name was not proved, and why: the authority says so of the challenge.
async fn refusal(order: &mut Order) -> Option<(String, String)> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let error = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(error) = error {
            return Some((state.identifier().to_string(), error.to_string()));
        }
    }
    None
}

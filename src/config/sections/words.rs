//! The words that stand for a choice.

use super::super::value::Word;
use crate::authz::{Access, OwnerClaim};
use crate::route::PathCase;
use crate::settings::{
    AnswerSource, ClaimSource, ClientAuth, CredentialForm, EndpointName, ErrorBodies, Ids, LegacyAccount,
    LegacyAlgorithm, LogFormat, LoginName, PreflightMode, Registration, RouteMode, TlsVersion, UpstreamHost,
    UsernameRules,
};

macro_rules! words {
    ($type:ty { $($word:literal => $value:expr),* $(,)? }) => {
        impl Word for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, $value)),*];
        }
    };
}

/// `[server] allow`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    Semicolon,
    EncodedSlash,
    NonAscii,
}

/// `[store] engine`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Sled,
}

/// `[tokens] algorithm`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    EdDsa,
    Hs256,
}

/// `[identity] preset`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preset {
    Gatepost,
    OAuth2Proxy,
    RemoteUser,
    None,
}

/// `[identity] unverified_email`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnverifiedEmail {
    Omit,
    Send,
}

words!(Allowance {
    "semicolon" => Self::Semicolon,
    "encoded_slash" => Self::EncodedSlash,
    "non_ascii" => Self::NonAscii,
});
words!(PathCase { "insensitive" => Self::Insensitive, "sensitive" => Self::Sensitive });
words!(TlsVersion { "1.2" => Self::Tls12, "1.3" => Self::Tls13 });
words!(ClientAuth { "off" => Self::Off, "optional" => Self::Optional, "required" => Self::Required });
words!(LogFormat { "auto" => Self::Auto, "text" => Self::Text, "json" => Self::Json });
words!(Engine { "sled" => Self::Sled });
words!(Registration { "open" => Self::Open, "closed" => Self::Closed });
words!(LoginName { "username" => Self::Username, "email" => Self::Email, "either" => Self::Either });
words!(UsernameRules { "ascii" => Self::Ascii, "unicode" => Self::Unicode });
words!(EndpointName {
    "login" => Self::Login,
    "register" => Self::Register,
    "refresh" => Self::Refresh,
    "logout" => Self::Logout,
    "logout-all" => Self::LogoutAll,
    "me" => Self::Me,
    "password" => Self::Password,
    "protected" => Self::Protected,
});
words!(AnswerSource {
    "access_token" => Self::AccessToken,
    "token_type" => Self::TokenType,
    "expires_in" => Self::ExpiresIn,
    "refresh_token" => Self::RefreshToken,
    "refresh_expires_in" => Self::RefreshExpiresIn,
    "id" => Self::Id,
    "username" => Self::Username,
    "email" => Self::Email,
    "name" => Self::Name,
    "roles" => Self::Roles,
});
words!(ErrorBodies {
    "problem" => Self::Problem,
    "flask-jwt-extended" => Self::FlaskJwtExtended,
    "flask-jwt" => Self::FlaskJwt,
});
words!(Algorithm { "EdDSA" => Self::EdDsa, "HS256" => Self::Hs256 });
words!(LegacyAlgorithm {
    "HS256" => Self::Hs256,
    "HS384" => Self::Hs384,
    "HS512" => Self::Hs512,
    "RS256" => Self::Rs256,
    "RS384" => Self::Rs384,
    "RS512" => Self::Rs512,
    "PS256" => Self::Ps256,
    "PS384" => Self::Ps384,
    "PS512" => Self::Ps512,
    "ES256" => Self::Es256,
    "ES384" => Self::Es384,
    "EdDSA" => Self::EdDsa,
});
words!(LegacyAccount {
    "either" => Self::Either,
    "id" => Self::Id,
    "username" => Self::Username,
    "email" => Self::Email,
});
words!(CredentialForm {
    "bearer" => Self::Bearer,
    "jwt" => Self::Jwt,
    "x-access-token" => Self::XAccessToken,
});
words!(ClaimSource {
    "sub" => Self::Sub,
    "sub_number" => Self::SubNumber,
    "username" => Self::Username,
    "email" => Self::Email,
    "name" => Self::Name,
    "roles" => Self::Roles,
    "sid" => Self::Sid,
});
words!(Preset {
    "gatepost" => Self::Gatepost,
    "oauth2-proxy" => Self::OAuth2Proxy,
    "remote-user" => Self::RemoteUser,
    "none" => Self::None,
});
words!(UnverifiedEmail { "omit" => Self::Omit, "send" => Self::Send });
words!(UpstreamHost { "preserve" => Self::Preserve, "upstream" => Self::Upstream });
words!(Access {
    "public" => Self::Public,
    "optional" => Self::Optional,
    "authenticated" => Self::Authenticated,
});
words!(RouteMode { "enforce" => Self::Enforce, "report" => Self::Report });
words!(PreflightMode { "deny" => Self::Deny, "answer" => Self::Answer, "upstream" => Self::Upstream });
words!(OwnerClaim { "sub" => Self::Sub, "username" => Self::Username });

words!(Ids {
    "uuid" => Self::Uuid,
    "sequence" => Self::Sequence,
});

//! The table of our own endpoints: method, path below the prefix, who may call.
//!
//! `gateway` puts these rows into the route table beside the operator's routes (and adds
//! `/.well-known/jwks.json`), so that they take the same steps as every request.

use http::Method;

use crate::authz::Access;

/// One of our own endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// Makes an account.
    Register,
    /// Starts a session.
    Login,
    /// Exchanges a refresh token.
    Refresh,
    /// Ends the session of the presented tokens.
    Logout,
    /// Ends all sessions of the caller.
    LogoutAll,
    /// Shows the caller's account.
    ShowMe,
    /// Changes the caller's account.
    UpdateMe,
    /// Removes the caller's account.
    DeleteMe,
    /// Greets the caller.
    Protected,
    /// Changes the caller's password.
    Password,
    /// Lists the caller's sessions.
    ListSessions,
    /// Ends one of the caller's sessions.
    EndSession,
    /// Shows the public keys.
    Jwks,
}

/// A row of [`ENDPOINTS`].
#[derive(Clone, Debug)]
pub struct EndpointSpec {
    /// Which endpoint.
    pub endpoint: Endpoint,
    /// Its method.
    pub method: Method,
    /// Its path pattern below the prefix; empty for the prefix itself.
    pub path: &'static str,
    /// Whether the gateway must have authenticated the caller. `refresh` and `logout` are public:
    /// they judge by themselves what was presented, since an expired access token is fine there.
    pub access: Access,
}

/// The name of the path parameter that holds a session id.
pub const SESSION_PARAM: &str = "sid";

/// Every endpoint, aliases too.
pub const ENDPOINTS: &[EndpointSpec] = &[
    spec(Endpoint::Register, Method::POST, "/register", Access::Public),
    spec(Endpoint::Register, Method::POST, "/signup", Access::Public),
    spec(Endpoint::Login, Method::POST, "/login", Access::Public),
    spec(Endpoint::Login, Method::POST, "", Access::Public),
    spec(Endpoint::Refresh, Method::POST, "/refresh", Access::Public),
    spec(Endpoint::Logout, Method::POST, "/logout", Access::Public),
    spec(Endpoint::LogoutAll, Method::POST, "/logout-all", Access::Authenticated),
    spec(Endpoint::ShowMe, Method::GET, "/me", Access::Authenticated),
    spec(Endpoint::UpdateMe, Method::PATCH, "/me", Access::Authenticated),
    spec(Endpoint::DeleteMe, Method::DELETE, "/me", Access::Authenticated),
    spec(Endpoint::Protected, Method::GET, "/protected", Access::Authenticated),
    spec(Endpoint::Password, Method::POST, "/password", Access::Authenticated),
    spec(Endpoint::ListSessions, Method::GET, "/sessions", Access::Authenticated),
    spec(Endpoint::EndSession, Method::DELETE, "/sessions/{sid}", Access::Authenticated),
    spec(Endpoint::Jwks, Method::GET, "/jwks.json", Access::Public),
];

const fn spec(endpoint: Endpoint, method: Method, path: &'static str, access: Access) -> EndpointSpec {
    EndpointSpec { endpoint, method, path, access }
}

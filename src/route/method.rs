//! The methods that a route takes.
//!
//! Method names are case-sensitive (RFC 9110 section 9.1): `get` is another method than `GET`, and
//! nothing here folds them.

use http::Method;

/// Why a list of names is no set of methods.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// `methods = []` would match nothing.
    #[error("methods must not be empty; leave it out for all methods")]
    Empty,
    /// `*`, `ANY`, `ALL`.
    #[error("\"{0}\" is no method; leave methods out for all of them")]
    Wildcard(String),
    /// `get`.
    #[error("method names are case-sensitive: did you mean \"{suggestion}\" instead of \"{name}\"?")]
    Case {
        /// As written.
        name: String,
        /// In upper case.
        suggestion: String,
    },
    /// Not a token (RFC 9110 section 5.6.2).
    #[error("\"{0}\" is no method name")]
    NoToken(String),
    /// `TRACE` and `CONNECT` are answered by the gateway itself.
    #[error("{0} is never forwarded")]
    NeverForwarded(String),
    /// Named twice.
    #[error("{0} is named twice")]
    Repeated(String),
}

/// The methods that a route takes. `GET` implies `HEAD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MethodSet {
    /// Every method.
    #[default]
    Any,
    /// These.
    Only(Vec<Method>),
}

impl MethodSet {
    /// The set of these names, as a configuration writes them.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, MethodError> {
        let mut methods = Vec::with_capacity(names.len());
        for name in names {
            let method = parse_name(name.as_ref())?;
            if methods.contains(&method) {
                return Err(MethodError::Repeated(method.to_string()));
            }
            methods.push(method);
        }
        if methods.is_empty() {
            return Err(MethodError::Empty);
        }
        Ok(Self::Only(methods))
    }

    /// Whether a request with `method` is for this route.
    pub fn contains(&self, method: &Method) -> bool {
        let Self::Only(methods) = self else { return true };
        methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
    }

    /// Whether one request could be for both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Only(mine), Self::Only(theirs)) => {
                mine.iter().any(|m| other.contains(m)) || theirs.iter().any(|m| self.contains(m))
            }
            (Self::Any, Self::Only(methods)) | (Self::Only(methods), Self::Any) => !methods.is_empty(),
            (Self::Any, Self::Any) => true,
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Only(mine), Self::Only(theirs)) => {
                mine.len() == theirs.len() && mine.iter().all(|method| theirs.contains(method))
            }
            (mine, theirs) => mine == theirs,
        }
    }

    /// The text of an `Allow` header; empty for [`MethodSet::Any`], which refuses nothing.
    pub fn allow(&self) -> String {
        allow_text(&[self])
    }
}

/// The `Allow` header of several sets together: each method once, `HEAD` after `GET`, then by name,
/// so that the order of routes in a file does not show.
pub(super) fn allow_text(sets: &[&MethodSet]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for set in sets {
        let MethodSet::Only(methods) = set else { continue };
        for method in methods {
            names.push(method.as_str());
            if *method == Method::GET {
                names.push("HEAD");
            }
        }
    }
    names.sort_unstable_by_key(|name| (*name != "GET", *name != "HEAD", *name));
    names.dedup();
    names.join(", ")
}

fn parse_name(name: &str) -> Result<Method, MethodError> {
    let upper = name.to_ascii_uppercase();
    if matches!(upper.as_str(), "*" | "ANY" | "ALL") {
        return Err(MethodError::Wildcard(name.to_owned()));
    }
    let method = Method::from_bytes(name.as_bytes()).map_err(|_| MethodError::NoToken(name.to_owned()))?;
    if upper == "TRACE" || upper == "CONNECT" {
        return Err(MethodError::NeverForwarded(upper));
    }
    if upper != name {
        return Err(MethodError::Case { name: name.to_owned(), suggestion: upper });
    }
    Ok(method)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> MethodSet {
        MethodSet::parse(names).unwrap()
    }

    #[test]
    fn get_implies_head_and_nothing_else_does() {
        assert!(set(&["GET"]).contains(&Method::HEAD));
        assert!(!set(&["POST"]).contains(&Method::HEAD));
        assert!(!set(&["HEAD"]).contains(&Method::GET));
        assert!(!set(&["GET"]).contains(&Method::from_bytes(b"get").unwrap()));
        assert!(MethodSet::Any.contains(&Method::from_bytes(b"PURGE").unwrap()));
    }

    #[test]
    fn sets_that_share_a_request_overlap() {
        assert!(set(&["GET"]).overlaps(&set(&["HEAD"])));
        assert!(set(&["HEAD"]).overlaps(&set(&["GET"])));
        assert!(set(&["GET"]).overlaps(&MethodSet::Any));
        assert!(MethodSet::Any.overlaps(&MethodSet::Any));
        assert!(!set(&["GET", "HEAD"]).overlaps(&set(&["POST", "PUT"])));
    }

    #[test]
    fn allow_names_each_method_once_in_a_fixed_order() {
        assert_eq!(set(&["POST", "GET"]).allow(), "GET, HEAD, POST");
        assert_eq!(set(&["HEAD", "GET"]).allow(), "GET, HEAD");
        assert_eq!(MethodSet::Any.allow(), "");
        assert_eq!(allow_text(&[&set(&["PUT"]), &set(&["DELETE"])]), "DELETE, PUT");
    }

    #[test]
    fn lists_that_cannot_work_are_refused() {
        let cases: [(&[&str], MethodError); 8] = [
            (&[], MethodError::Empty),
            (&["*"], MethodError::Wildcard("*".into())),
            (&["any"], MethodError::Wildcard("any".into())),
            (&["get"], MethodError::Case { name: "get".into(), suggestion: "GET".into() }),
            (&["GET,POST"], MethodError::NoToken("GET,POST".into())),
            (&[""], MethodError::NoToken(String::new())),
            (&["trace"], MethodError::NeverForwarded("TRACE".into())),
            (&["GET", "GET"], MethodError::Repeated("GET".into())),
        ];
        for (names, error) in cases {
            assert_eq!(MethodSet::parse(names), Err(error), "{names:?}");
        }
    }
}

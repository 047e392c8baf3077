//! URLs of apps on Unix sockets: `unix://` and the socket's path in hexadecimal digits where a host would
//! be. Nobody writes them: they stand for the app that the gateway runs.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use http::Uri;

/// What no configuration says.
const SCHEME: &str = "unix";

/// The same path and query at the socket `path`; `None` where that is too long for a URL.
#[must_use]
pub fn at(path: &Path, url: &Uri) -> Option<Uri> {
    let mut host = String::new();
    for byte in path.as_os_str().as_bytes() {
        // Into a String it cannot fail.
        let _ = write!(host, "{byte:02x}");
    }
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    Uri::builder().scheme(SCHEME).authority(host).path_and_query(target).build().ok()
}

/// The socket that a URL leads to.
pub(super) fn path_of(url: &Uri) -> Option<PathBuf> {
    let host = (url.scheme_str() == Some(SCHEME)).then(|| url.host())??;
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = host.as_bytes().chunks(2).map(byte).collect();
    Some(PathBuf::from(OsString::from_vec(bytes?)))
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use super::*;

    #[test]
    fn a_socket_stands_where_a_host_would() {
        let path = Path::new("/run/gatepost-app-0123456789abcdef/app.sock");
        for (url, target) in
            [("http://127.0.0.1:5000/hooks/x?a=b", "/hooks/x?a=b"), ("http://localhost", "/")]
        {
            let there = at(path, &url.parse().unwrap()).unwrap();
            assert_eq!(path_of(&there).as_deref(), Some(path));
            assert_eq!(there.path_and_query().map(PathAndQuery::as_str), Some(target), "{there}");
        }
        assert_eq!(path_of(&"http://2f746d70/x".parse().unwrap()), None);
    }
}

//! `multipart/form-data` (RFC 7578) of text fields: what a page's `FormData` sends. Files have no
//! business here and make it an unsupported media type.

use bytes::Bytes;
use http_body_util::{BodyDataStream, Full};
use multer::{Constraints, Multipart, SizeLimit};

/// Why a multipart body is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MultipartError {
    /// It is not multipart, or ends too early.
    Malformed,
    /// A part is a file or says that it is no text.
    NotText,
}

/// The names and texts of all parts.
pub(super) async fn read(content_type: &str, body: Bytes) -> Result<Vec<(String, String)>, MultipartError> {
    let boundary = multer::parse_boundary(content_type).map_err(|_| MultipartError::Malformed)?;
    let limit = SizeLimit::new().whole_stream(body.len() as u64);
    let constraints = Constraints::new().size_limit(limit);
    let stream = BodyDataStream::new(Full::new(body));
    let mut parts = Multipart::with_constraints(stream, boundary, constraints);
    let mut fields = Vec::new();
    while let Some(part) = parts.next_field().await.map_err(|_| MultipartError::Malformed)? {
        let is_text = part.content_type().is_none_or(|mime| mime.essence_str() == "text/plain");
        if part.file_name().is_some() || !is_text {
            return Err(MultipartError::NotText);
        }
        let name = part.name().ok_or(MultipartError::Malformed)?.to_owned();
        let bytes = part.bytes().await.map_err(|_| MultipartError::Malformed)?;
        // Not multer's `text()`: it decodes with replacement characters, and two passwords would be one.
        let text = String::from_utf8(bytes.into()).map_err(|_| MultipartError::Malformed)?;
        fields.push((name, text));
    }
    Ok(fields)
}

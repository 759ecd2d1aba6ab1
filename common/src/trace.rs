//! The trace that a job belongs to, as its header `traceparent` names it.

/// The trace id in a `traceparent`: 32 hexadecimal digits, not all of them zero. `None` where there is none.
///
/// ```
/// use segfleet_common::trace::trace_id;
///
/// let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// assert_eq!(trace_id(header), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
/// assert_eq!(trace_id("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), None);
/// ```
///
/// Source: W3C Trace Context, level 1, section 3.2 (`version-traceid-parentid-flags`).
#[must_use]
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let mut fields = traceparent.split('-');
    let (_version, trace_id) = (fields.next()?, fields.next()?);
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let valid = trace_id.len() == 32
        && trace_id.bytes().all(is_hex)
        && trace_id.bytes().any(|byte| byte != b'0');
    valid.then_some(trace_id)
}

//! The `Range` header, as far as a download serves it: one range of bytes (RFC 9110 section 14).

use crate::storage::ByteRange;

/// What to send of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    All,
    Part(ByteRange),
    /// The range lies outside the object.
    Nothing,
}

/// Reads a `Range` header for an object of `size` bytes. What is not one well-formed range of bytes is ignored, as section 14.2
/// allows.
pub fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return Wanted::All };
    let Some((first, last)) = spec.split_once('-') else { return Wanted::All };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // More digits than fit mean a position beyond every object.
        is_number.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let (start, end) = match (number(first.trim()), number(last.trim())) {
        (Some(start), Some(end)) if start <= end => (start, end),
        (Some(start), None) if last.trim().is_empty() => (start, u64::MAX),
        (None, Some(length)) if first.trim().is_empty() => {
            if length == 0 {
                return Wanted::Nothing;
            }
            (size.saturating_sub(length), u64::MAX)
        }
        _ => return Wanted::All,
    };
    if start >= size {
        return Wanted::Nothing;
    }
    Wanted::Part(ByteRange { start, length: end.min(size - 1) - start + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_of_bytes_is_understood() {
        let part = |start, length| Wanted::Part(ByteRange { start, length });
        for (header, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-4", part(2, 3)),
            ("bytes=2-", part(2, 8)),
            ("bytes=2-99", part(2, 8)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-99", part(0, 10)),
            ("bytes=0-99999999999999999999999", part(0, 10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-11", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
        ] {
            assert_eq!(wanted(Some(header), 10), expected, "{header}");
        }
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Nothing);
    }

    #[test]
    fn what_is_not_one_range_of_bytes_is_ignored() {
        for header in
            ["", "bytes", "bytes=", "bytes=-", "bytes=4-2", "bytes=0-1,3-4", "bytes=a-b", "bytes=+1-2", "items=0-1"]
        {
            assert_eq!(wanted(Some(header), 10), Wanted::All, "{header}");
        }
        assert_eq!(wanted(None, 10), Wanted::All);
    }
}

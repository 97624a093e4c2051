//! A number of bytes, written for people (`10 GiB`) and read from configuration (`"10GiB"`, `"500 MB"`, `1024`).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// As written for people where nothing is lost by it (`20 MiB`), else in bytes (`20000000 B`): it reads back as the same size.
    pub fn exact(self) -> String {
        let text = self.to_string();
        if text.parse::<Self>() == Ok(self) { text } else { format!("{} B", self.0) }
    }
}

const BINARY: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// Writes the exact size where a binary unit divides it (`10 GiB`), else one decimal (`1.5 MiB`).
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in BINARY {
            let one = 1u64 << shift;
            if self.0 >= one {
                if self.0.is_multiple_of(one) {
                    return write!(f, "{} {unit}", self.0 >> shift);
                }
                return write!(f, "{:.1} {unit}", self.0 as f64 / one as f64);
            }
        }
        f.write_str("0 B")
    }
}

/// Why a text is not a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a size: write a whole number of bytes, or a number with B, KiB, MiB, GiB, TiB, KB, MB, GB or TB")]
pub struct InvalidByteSize(String);

impl FromStr for ByteSize {
    type Err = InvalidByteSize;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidByteSize(text.chars().take(60).collect());
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            "tib" | "t" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(invalid()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Self).ok_or_else(invalid);
        }
        let fraction: f64 = number.parse().map_err(|_| invalid())?;
        let bytes = fraction * factor as f64;
        if bytes.is_finite() && bytes >= 0.0 && bytes < u64::MAX as f64 {
            Ok(Self(bytes as u64))
        } else {
            Err(invalid())
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"10 GiB\" or a whole number of bytes")
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(v))
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<ByteSize, E> {
                u64::try_from(v).map(ByteSize).map_err(|_| E::custom("a size cannot be negative"))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<ByteSize, E> {
                v.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_for_people() {
        for (text, bytes) in
            [("10 GiB", 10 << 30), ("10gib", 10 << 30), ("500 MB", 500_000_000), ("1.5 MiB", 3 << 19), ("7", 7)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        assert_eq!(ByteSize::gib(10).to_string(), "10 GiB");
        assert_eq!(ByteSize(3 << 19).to_string(), "1.5 MiB");
        assert_eq!(ByteSize(0).to_string(), "0 B");
    }

    #[test]
    fn an_exact_size_reads_back_as_the_same() {
        for (size, text) in [
            (ByteSize::mib(20), "20 MiB"),
            (ByteSize(3 << 19), "1.5 MiB"),
            (ByteSize(20_000_000), "20000000 B"),
            (ByteSize((1 << 20) + 1), "1048577 B"),
            (ByteSize(0), "0 B"),
            (ByteSize(u64::MAX), "18446744073709551615 B"),
        ] {
            assert_eq!(size.exact(), text);
            assert_eq!(text.parse::<ByteSize>(), Ok(size), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bad in ["", "ten", "-1", "1 parsec", "99999999999 TiB", "1.2.3 MB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?}");
        }
    }
}

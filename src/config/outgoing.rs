//! `[outgoing]`: where requests may go that tenants have asked for.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

super::section! {
    /// Where requests may go whose address somebody chose who does not run the platform: webhooks and Bot API servers of organisations.
    OutgoingConfig, "outgoing" {
        /// Ranges of addresses such as `10.0.0.0/8` or `fd00::/8` that such requests may reach although they are not public. Loopback,
        /// private, link-local and other special ranges are refused otherwise. Default: none.
        allow: Vec<IpRange> = Vec::new();
    }
}

/// A range of addresses: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    first: IpAddr,
    bits: u8,
}

/// Why a text is not an [`IpRange`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of addresses: write it like 10.0.0.0/8 or fd00::/8")]
pub struct InvalidIpRange(String);

impl IpRange {
    /// Whether it holds an address. IPv4 and IPv6 are apart: what is mapped is to be unmapped before.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                u64::from(first.to_bits()) >> shift == u64::from(address.to_bits()) >> shift
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                let top = |address: u128| address.checked_shr(shift).unwrap_or_default();
                top(first.to_bits()) == top(address.to_bits())
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for IpRange {
    type Err = InvalidIpRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidIpRange(text.chars().take(60).collect());
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text.trim(), None),
        };
        let first: IpAddr = address.parse().map_err(|_| invalid())?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| invalid())?;
        if bits <= most { Ok(Self { first, bits }) } else { Err(invalid()) }
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

impl Serialize for IpRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IpRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_addresses_and_no_others() {
        let holds = |range: &str, address: &str| range.parse::<IpRange>().unwrap().contains(address.parse().unwrap());
        for (range, address) in [
            ("10.0.0.0/8", "10.255.0.1"),
            ("10.1.2.3", "10.1.2.3"),
            ("0.0.0.0/0", "203.0.113.9"),
            ("fd00::/8", "fd12::1"),
            ("::/0", "2001:db8::1"),
        ] {
            assert!(holds(range, address), "{range} {address}");
        }
        for (range, address) in
            [("10.0.0.0/8", "11.0.0.1"), ("10.1.2.3", "10.1.2.4"), ("::/0", "10.0.0.1"), ("fd00::/8", "fc00::1")]
        {
            assert!(!holds(range, address), "{range} {address}");
        }
        for bad in ["", "10.0.0.0/33", "10/8", "x", "fd00::/129", "10.0.0.0/-1", "10.0.0.0/8/8"] {
            assert!(bad.parse::<IpRange>().is_err(), "{bad}");
        }
    }
}

//! Who calls: tokens are turned into a [`Caller`](crate::tenant::Caller), and passwords into yes or no. No table is known here.

mod claims;
mod jwks;
pub mod jwt;
pub mod password;
mod public_key;

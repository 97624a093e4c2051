//! Who calls: tokens are turned into a [`Caller`](crate::tenant::Caller), and into nothing else.

pub mod jwt;

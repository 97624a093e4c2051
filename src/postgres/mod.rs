//! PostgreSQL as Holdfast sees it from outside: how to reach a server, which client tools to run, what a tenant's catalog
//! says, and a private cluster of our own. Nothing here knows the control plane.

pub mod chosen;
pub mod connect;
pub mod embedded;
pub mod expression;
pub mod inspect;
pub mod locks;
pub mod ownership;
pub mod quote;
mod requirements;
pub mod rights;
pub mod tools;
pub mod value_text;

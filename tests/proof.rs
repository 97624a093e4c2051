//! Proof: taken with the dump, compared after a restore; nothing of a tenant's runs meanwhile.

mod corpora;
mod differences;
mod dumped;
mod embedded;
mod hostile;
mod large_objects;
mod levels;
mod scene;
pub mod trials;

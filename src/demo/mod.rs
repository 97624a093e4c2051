//! The sample platform of `holdfast demo` and of the tests, a comparison that needs none of the code that backs up and restores,
//! and the demonstration itself, which uses the HTTP API as a user would.

mod client;
pub mod compare;
mod run;
pub mod sample;
mod screen;
mod stage;

pub use self::run::{DemoOptions, run};

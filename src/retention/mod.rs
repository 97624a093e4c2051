//! What is kept and what goes: a plan with a reason for every backup. Pure: it knows neither the control plane nor a clock. `jobs` loads
//! what a plan needs and carries it out.
//!
//! What always holds, whatever the rules say: pinned backups stay; so do the newest good backup of a project and type and the `minimum_good`
//! newest ones, what a job reads, and everything while the last backups have failed.

mod plan;
mod reason;
mod rules;

pub use self::{
    plan::{Action, Candidate, Expiry, Floor, Policy, State, Verdict, digest, good_ones, plan},
    reason::Reason,
    rules::{RuleFault, Rules},
};

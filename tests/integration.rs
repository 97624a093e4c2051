//! Holdfast inside another program: what is stored, what is recorded, and what becomes of the one when the other fails.

mod files;
mod outages;
mod queueing;
mod records;
mod scene;
mod telegram;

use crate::support::{self, faulty_storage, telegram_stand_in};

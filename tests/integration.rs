//! Holdfast inside another program: what is stored, what is recorded, and what becomes of the one when the other fails.

#[path = "support/faulty_storage.rs"]
mod faulty_storage;
#[path = "integration/files.rs"]
mod files;
#[path = "integration/outages.rs"]
mod outages;
#[path = "integration/queueing.rs"]
mod queueing;
#[path = "integration/records.rs"]
mod records;
#[path = "integration/scene.rs"]
mod scene;
mod support;
#[path = "integration/telegram.rs"]
mod telegram;
#[path = "support/telegram_stand_in/mod.rs"]
mod telegram_stand_in;

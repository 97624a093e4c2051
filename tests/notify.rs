//! Notices: who is told what, in which words, and that it arrives — once, whatever breaks on the way.

mod chat;
mod events;
mod mail;
mod outbox;
mod program;
pub mod receiver;
pub mod smtp;
mod turns;
mod upkeep;
mod webhooks;

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use holdfast::{
    catalog::{NoticeEvent, Settings},
    clock::Clock,
    config::Config,
    db,
    history::{self, NoticeRow},
    manage::channels::{self, NewChannel},
    notice::Notice,
    notify::Senders,
    tell::{self, Postman, Round, Told},
};
use serde_json::Value;
use uuid::Uuid;

use crate::support::app::{TestApp, caller};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A Holdfast whose clock stands still, with the project `acme`.
struct Scene {
    test: TestApp,
    clock: Clock,
}

impl Scene {
    async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut test = TestApp::with(configure).await;
        let clock = Clock::fixed(at("2026-11-21T04:00:00Z"));
        test.app.clock = clock.clone();
        test.add_schema_project("acme", "tenant_acme").await;
        Self { test, clock }
    }

    /// Adds an operator's channel that hears of everything.
    async fn channel(&self, name: &str, project: Option<&str>, settings: Value) -> Uuid {
        let settings: Settings = serde_json::from_value(settings).unwrap();
        let new = NewChannel {
            name: name.to_owned(),
            project_id: project.map(str::to_owned),
            organization_id: None,
            events: Vec::new(),
            enabled: true,
            settings,
        };
        channels::add(&self.test.app, &caller(), new).await.unwrap().id
    }

    /// Tells that a backup of acme failed.
    async fn fails(&self, occurrence: &str, asked_for: Option<&str>) -> usize {
        self.tell(NoticeEvent::Failed, occurrence, asked_for, Notice::default()).await
    }

    async fn tell(&self, event: NoticeEvent, occurrence: &str, asked_for: Option<&str>, notice: Notice) -> usize {
        self.tell_of("acme", event, occurrence, asked_for, notice).await
    }

    async fn tell_of(
        &self,
        project: &str,
        event: NoticeEvent,
        occurrence: &str,
        asked_for: Option<&str>,
        notice: Notice,
    ) -> usize {
        let mut transaction = db::begin(&self.test.app.pool).await.unwrap();
        let told =
            Told { event, occurrence, project_id: Some(project), backup_id: None, job_id: None, asked_for, notice };
        let written = tell::tell(&mut transaction, &self.test.app, &told).await.unwrap();
        transaction.commit().await.unwrap();
        written
    }

    /// One round of one process.
    async fn send(&self) -> Round {
        let senders = Senders::new(&self.test.app.config).unwrap();
        let mut postman = Postman::new(&self.test.app, senders);
        let mut round = Round::default();
        loop {
            round += postman.begin(true).await.unwrap();
            match postman.ended().await {
                Some(ended) => round += ended,
                None => return round,
            }
        }
    }

    /// Every notice, oldest first.
    async fn rows(&self) -> Vec<NoticeRow> {
        let mut rows = history::notices(&self.test.app.pool, None, 1_000).await.unwrap();
        rows.reverse();
        rows
    }

    fn advance(&self, seconds: i64) {
        self.clock.advance(chrono::Duration::seconds(seconds));
    }
}

/// Asks until it is so, for at most 30 seconds.
async fn within(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn sent(count: usize) -> Round {
    Round { sent: count, ..Round::default() }
}

fn later(count: usize) -> Round {
    Round { later: count, ..Round::default() }
}

fn given_up(count: usize) -> Round {
    Round { given_up: count, ..Round::default() }
}

//! A tenant whose backups go to storages in memory, each behind what makes it fail.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use holdfast::{
    artifact::ArtifactName,
    byte_size::ByteSize,
    config::Config,
    demo::sample,
    history::{self, Backup, Copy},
    ids::JobId,
    jobs::{
        queue::{self, Job},
        request::{self, Depth, VerifyRequest},
    },
    storage::{Limits, Pace, memory::MemoryStorage},
};

use super::{
    faulty_storage::{Fault, Faulty},
    support::app::{TestApp, caller, everything, export},
};

/// One storage of a scene: in memory, behind what makes it fail.
pub struct Place {
    pub name: &'static str,
    pub memory: MemoryStorage,
    pub faulty: Faulty,
}

impl Place {
    pub fn new(name: &'static str, pace: Pace) -> Self {
        Self::with(name, Limits { part: ByteSize::kib(4), parts_in_flight: 1, artifact: None, pace })
    }

    pub fn with(name: &'static str, limits: Limits) -> Self {
        let memory = MemoryStorage::with_limits(limits);
        let faulty = Faulty::new(Arc::new(memory.clone()), Fault::None);
        Self { name, memory, faulty }
    }

    pub fn created(&self) -> usize {
        self.faulty.created.load(Ordering::SeqCst)
    }

    /// The artifact and its manifest, and nothing else.
    pub fn holds(&self, key: &ArtifactName) -> bool {
        self.memory.keys() == [key.to_string(), key.manifest().to_string()] && self.memory.uploads_open() == 0
    }
}

/// A tenant with storages of its own.
pub struct Scene {
    pub test: TestApp,
    pub places: Vec<Place>,
}

pub const QUICK: [(&str, Pace); 2] = [("a", Pace::Streamed), ("b", Pace::Streamed)];

impl Scene {
    pub async fn new(places: &[(&'static str, Pace)]) -> Self {
        Self::with(places.iter().map(|(name, pace)| Place::new(name, *pace)).collect(), |_| {}).await
    }

    pub async fn with(places: Vec<Place>, change: impl FnOnce(&mut Config)) -> Self {
        let mut test = TestApp::with(|config| {
            // A repair that is under way when its backup's worker ends goes back into the queue at once.
            config.worker.shutdown_seconds = 0;
            change(config);
        })
        .await;
        test.app.storages.clear();
        for place in &places {
            test.app.storages.insert(place.name.to_owned(), Arc::new(place.faulty.clone()));
        }
        Self::of(test, places).await
    }

    /// With whatever storages the configuration has.
    pub async fn of(test: TestApp, places: Vec<Place>) -> Self {
        let mut connection = test.tenants().await;
        sample::create_tenant(&mut connection, "tenant_acme", 1).await.unwrap();
        test.add_schema_project("acme", "tenant_acme").await;
        Self { test, places }
    }

    pub fn place(&self, name: &str) -> &Place {
        self.places.iter().find(|place| place.name == name).unwrap()
    }

    pub fn set(&self, name: &str, fault: Fault) {
        self.place(name).faulty.set(fault);
    }

    pub async fn backup(&self) -> Backup {
        let backup = self.test.backup(export("acme")).await;
        assert_eq!(backup.status, "completed");
        backup
    }

    pub async fn look(&self, backup: &Backup) -> Backup {
        history::get(&self.test.app.pool, &everything(), backup.backup_id()).await.unwrap()
    }

    pub async fn copies(&self, backup: &Backup) -> Vec<Copy> {
        history::copies(&self.test.app.pool, &[backup.id]).await.unwrap()
    }

    pub async fn copy(&self, backup: &Backup, name: &str) -> Copy {
        self.copies(backup).await.into_iter().find(|copy| copy.storage == name).unwrap()
    }

    pub async fn statuses(&self, backup: &Backup) -> Vec<(String, String)> {
        self.copies(backup).await.into_iter().map(|copy| (copy.storage, copy.status)).collect()
    }

    /// Every job that makes copies, oldest first.
    pub async fn repairs(&self) -> Vec<Job> {
        let ids: Vec<uuid::Uuid> = sqlx::query_scalar(
            "SELECT id FROM control_plane.jobs WHERE type = 'repair_copies' ORDER BY created_at, id",
        )
        .fetch_all(&self.test.app.pool)
        .await
        .unwrap();
        let mut jobs = Vec::new();
        for id in ids {
            jobs.push(queue::get(&self.test.app.pool, &everything(), JobId(id)).await.unwrap());
        }
        jobs
    }

    /// Works on the newest of them to its end.
    pub async fn repair(&self) -> Job {
        let job = self.repairs().await.pop().expect("a repair was asked for");
        self.test.run(job.job_id()).await
    }

    pub async fn events(&self, backup: &Backup) -> Vec<String> {
        let events = history::events(&self.test.app.pool, &everything(), backup.backup_id()).await.unwrap();
        events.into_iter().map(|event| event.event).collect()
    }

    pub async fn verify(&self, backup: &Backup, depth: Depth) -> Job {
        let request = VerifyRequest { backup_id: backup.backup_id(), depth };
        let job = request::verify(&self.test.app, &caller(), &request, None).await.unwrap();
        self.test.run(job.job_id()).await
    }
}

pub fn key(backup: &Backup) -> ArtifactName {
    backup.file_id.as_deref().unwrap().parse().unwrap()
}

pub fn rows(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(storage, status)| ((*storage).to_owned(), (*status).to_owned())).collect()
}

/// Waits until something is so.
pub async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !reached().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

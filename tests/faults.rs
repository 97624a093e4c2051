//! Faults at every stage of a restore in place: the worker is killed, psql or pg_restore is killed, the server crashes. Afterwards the live
//! schema is wholly old or wholly new, nothing is left of what was half-way, and the job's end says what happened.
//!
//! Trial restores, which go the same way into a scratch database, are hit in the middle of the dump.
//!
//! The stages are one list, `restore::stage::Stage`; a restore that nothing happens to shows that it comes through all of them. With the
//! feature `slow-tests` every fault comes at every stage, both ways (`make test-faults`); without it a few do.

pub mod cluster;

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use holdfast::{
    artifact::Format,
    demo::{
        compare::{self, Picture},
        sample,
    },
    history::Backup,
    ids::JobId,
    jobs::{
        queue::{self, Job},
        request::{self, Depth, Export, RestoreRequest, VerifyRequest},
    },
    restore::stage::Stage,
};
use secrecy::ExposeSecret;
use tempfile::TempDir;

use self::cluster::Cluster;
use crate::{
    support::app::{TestApp, caller, everything, export},
    swap::leftovers,
};

const DEADLINE: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// SIGKILL; another worker takes the job when the lease has lapsed.
    Worker,
    /// SIGKILL of psql.
    Psql,
    /// SIGKILL of pg_restore, where there is one.
    PgRestore,
    /// PostgreSQL ends at once and recovers: the tenant's server, which is the control plane's as well.
    Server,
}

impl Fault {
    #[cfg(feature = "slow-tests")]
    const ALL: [Self; 4] = [Self::Worker, Self::Psql, Self::PgRestore, Self::Server];

    /// Whether what it kills is there at this stage.
    fn can_hit(self, stage: Stage, format: Format) -> bool {
        match self {
            Self::Worker | Self::Server => true,
            Self::Psql => matches!(stage, Stage::Loading | Stage::Fed),
            Self::PgRestore => stage == Stage::Loading && format == Format::Custom,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Old,
    New,
    Either,
}

/// A tenant with a backup on a server of its own, and a directory by which a worker is held at a stage.
struct Scene {
    cluster: Cluster,
    test: TestApp,
    /// For the worker's temporary files: whatever is in it afterwards was left behind.
    temporary: TempDir,
    holds: TempDir,
    one_transaction: bool,
    good: Picture,
    neighbour: Picture,
}

impl Scene {
    async fn new(one_transaction: bool) -> Self {
        let cluster = Cluster::start().await;
        let mut admin = cluster.info.connect().await.unwrap();
        // A crash must not take back what was committed, or nothing could be said of it.
        for sql in [
            "ALTER SYSTEM SET synchronous_commit = on",
            "SELECT pg_reload_conf()",
            "CREATE DATABASE app TEMPLATE template0",
        ] {
            sqlx::raw_sql(sql).execute(&mut admin).await.unwrap();
        }
        let test = TestApp::over(cluster.info.with_database("app"), |_| {}).await;
        let mut c = test.tenants().await;
        for (schema, seed) in [("tenant_acme", 3), ("tenant_globex", 1)] {
            sample::create_tenant(&mut c, schema, seed).await.unwrap();
            // A crash empties an unlogged table, whoever restores.
            let logged = format!("ALTER TABLE {schema}.sessions SET LOGGED");
            sqlx::raw_sql(sqlx::AssertSqlSafe(logged)).execute(&mut c).await.unwrap();
        }
        test.add_schema_project("acme", "tenant_acme").await;
        let good = compare::snapshot(&mut c, "tenant_acme").await.unwrap();
        let neighbour = compare::snapshot(&mut c, "tenant_globex").await.unwrap();
        let (temporary, holds) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Self { cluster, test, temporary, holds, one_transaction, good, neighbour }
    }

    fn worker(&self) -> Worker {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .arg("worker")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TMPDIR", self.temporary.path())
            .env("HF_FAULTS", self.holds.path())
            .env("DATABASE_URL", self.test.app.control.to_url().expose_secret())
            .env("HOLDFAST_DATA_DIR", self.test.directory.path())
            .env("HOLDFAST_RESTORE_ONE_TRANSACTION", self.one_transaction.to_string())
            .env("HOLDFAST_WORKER_LEASE_SECONDS", "2")
            .env("HOLDFAST_WORKER_POLL_SECONDS", "1")
            .env("HOLDFAST_WORKER_BACKOFF_SECONDS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Worker(command.spawn().unwrap())
    }

    fn hold(&self, stage: Stage) -> PathBuf {
        self.holds.path().join(stage.as_str())
    }

    async fn live(&self) -> Picture {
        let mut c = self.test.tenants().await;
        compare::snapshot(&mut c, "tenant_acme").await.unwrap()
    }

    /// The job when it has ended; a server that is away for a moment is asked again.
    async fn ended(&self, id: JobId) -> Job {
        let began = Instant::now();
        loop {
            match queue::get(&self.test.app.pool, &everything(), id).await {
                Ok(job) if job.is_final() => return job,
                other => assert!(began.elapsed() < DEADLINE, "the job stands still: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every stage that was come through since the last time.
    fn visited(&self) -> Vec<&'static str> {
        let stages = Stage::ALL.iter().map(|stage| stage.as_str());
        stages.filter(|name| std::fs::remove_file(self.holds.path().join(format!("{name}.reached"))).is_ok()).collect()
    }

    async fn ask(&self, backup: &Backup) -> JobId {
        request::restore(&self.test.app, &caller(), &RestoreRequest::in_place(backup.backup_id()), None)
            .await
            .unwrap()
            .job_id()
    }

    /// One fault at one stage of one restore.
    async fn case(&self, backup: &Backup, stage: Stage, fault: Fault) {
        let case = format!("{fault:?} at {stage}, {}", if self.one_transaction { "one transaction" } else { "aside" });
        let mut c = self.test.tenants().await;
        sample::ruin(&mut c, "tenant_acme").await.unwrap();
        // Else a sequence may be some numbers ahead after a crash: they are logged in advance.
        sqlx::raw_sql("CHECKPOINT").execute(&mut c).await.unwrap();
        let ruined = self.live().await;
        let is = |picture: &Picture, expected: Expected| match expected {
            Expected::Old => compare::diff(&ruined, picture).is_empty(),
            Expected::New => compare::diff(&self.good, picture).is_empty(),
            Expected::Either => {
                compare::diff(&ruined, picture).is_empty() || compare::diff(&self.good, picture).is_empty()
            }
        };
        self.visited();
        std::fs::write(self.hold(stage), "").unwrap();
        let id = self.ask(backup).await;
        let first = self.hit(stage, fault, &case).await;
        if self.one_transaction {
            let expected =
                if matches!(stage, Stage::Finished | Stage::Recorded) { Expected::New } else { Expected::Old };
            let now = self.live().await;
            assert!(
                is(&now, expected),
                "{case}: not {expected:?} while it is held: {:?}",
                compare::diff(&ruined, &now)
            );
        }
        std::fs::remove_file(self.hold(stage)).unwrap();
        let second = self.worker();
        let job = self.ended(id).await;
        let now = self.live().await;
        assert!(is(&now, Expected::Either), "{case}: neither old nor new: {:?}", compare::diff(&self.good, &now));
        match job.status.as_str() {
            "completed" => {
                assert!(is(&now, Expected::New), "{case}: completed, and {:?}", compare::diff(&self.good, &now))
            }
            "failed" => {
                assert!(is(&now, Expected::Old), "{case}: failed, and something is there");
                assert!(
                    job.error_message.as_ref().is_some_and(|message| message.len() > 20),
                    "{case}: {:?}",
                    job.error_message
                );
            }
            other => panic!("{case}: the job is {other}"),
        }
        // Whatever was hit, there is another attempt, and it succeeds.
        assert_eq!(job.status, "completed", "{case}: {:?}", job.error_message);
        second.stop();
        first.stop();
        self.assert_tidy(&case).await;
    }

    /// A worker that is held at the stage and hit there.
    async fn hit(&self, stage: Stage, fault: Fault, case: &str) -> Worker {
        let mut worker = self.worker();
        let began = Instant::now();
        while !self.hold(stage).with_extension("reached").exists() {
            assert!(began.elapsed() < DEADLINE, "{case}: the stage is not reached: {:?}", self.visited());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        match fault {
            Fault::Worker => worker.kill(),
            Fault::Psql => kill_child(&worker, "psql"),
            Fault::PgRestore => kill_child(&worker, "pg_restore"),
            Fault::Server => self.cluster.crash().await,
        }
        worker
    }

    /// One fault in the middle of a trial restore: another attempt proves the backup, and no scratch database is left.
    async fn trial(&self, backup: &Backup, fault: Fault) {
        let case = format!("{fault:?} in a trial");
        self.visited();
        std::fs::write(self.hold(Stage::Loading), "").unwrap();
        let request = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Restore };
        let id = request::verify(&self.test.app, &caller(), &request, None).await.unwrap().job_id();
        let first = self.hit(Stage::Loading, fault, &case).await;
        std::fs::remove_file(self.hold(Stage::Loading)).unwrap();
        let second = self.worker();
        let job = self.ended(id).await;
        assert_eq!(job.status, "completed", "{case}: {:?}", job.error_message);
        assert_eq!(job.result.as_ref().unwrap()["outcome"], "verified", "{case}: {:?}", job.result);
        assert!(job.attempts > 1, "{case}: it was hit too late");
        second.stop();
        first.stop();
        self.assert_tidy(&case).await;
    }

    async fn assert_tidy(&self, case: &str) {
        let mut c = self.test.tenants().await;
        assert_eq!(leftovers(&mut c, &self.test).await, Vec::<String>::new(), "{case}");
        let running: i64 = sqlx::query_scalar("SELECT count(*) FROM control_plane.restores WHERE state = 'running'")
            .fetch_one(&mut c)
            .await
            .unwrap();
        assert_eq!(running, 0, "{case}: no restore is open");
        let databases: Vec<String> =
            sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE datname LIKE 'hf\\_%'")
                .fetch_all(&mut c)
                .await
                .unwrap();
        assert_eq!(databases, Vec::<String>::new(), "{case}");
        for directory in [self.temporary.path().to_owned(), self.test.directory.path().join("spool")] {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            let left: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            assert_eq!(left, Vec::<PathBuf>::new(), "{case}");
        }
        let neighbour = compare::snapshot(&mut c, "tenant_globex").await.unwrap();
        assert_eq!(compare::diff(&self.neighbour, &neighbour), Vec::<String>::new(), "{case}: the neighbour");
    }

    /// A restore that nothing happens to comes through every stage of the list.
    async fn comes_through_all(&self, backup: &Backup) {
        self.visited();
        let id = self.ask(backup).await;
        let worker = self.worker();
        assert_eq!(self.ended(id).await.status, "completed");
        // The last stage is after the job's end.
        let began = Instant::now();
        let mut visited = self.visited();
        while visited.len() < Stage::ALL.len() && began.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            visited.extend(self.visited());
        }
        let all: Vec<&str> = Stage::ALL.iter().map(|stage| stage.as_str()).collect();
        assert_eq!(visited, all);
        worker.stop();
        self.assert_tidy("nothing happened").await;
    }
}

/// A worker as a process of its own; killed when dropped.
struct Worker(Child);

impl Worker {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    fn stop(mut self) {
        self.kill();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills the worker's child of this name.
fn kill_child(worker: &Worker, name: &str) {
    let began = Instant::now();
    loop {
        let children = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // pid (name) state parent …; see proc_pid_stat(5).
            let (head, rest) = stat.rsplit_once(')')?;
            let (pid, command) = head.split_once(" (")?;
            let parent: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
            (command == name && parent == worker.0.id()).then(|| pid.parse::<i32>().ok()).flatten()
        });
        let found: Vec<i32> = children.collect();
        if let Some(pid) = found.into_iter().find_map(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "there is no {name}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn a_restore_that_is_hit_ends_whole_and_leaves_nothing() {
    let scene = Scene::new(true).await;
    let backup = scene.test.backup(Export { format: Some(Format::Custom), ..export("acme") }).await;
    scene.comes_through_all(&backup).await;
    for (stage, fault) in [
        (Stage::Prepared, Fault::Worker),
        (Stage::Loading, Fault::PgRestore),
        (Stage::Fed, Fault::Psql),
        (Stage::Loaded, Fault::Server),
        (Stage::Swapping, Fault::Worker),
        (Stage::Finished, Fault::Worker),
    ] {
        assert!(fault.can_hit(stage, Format::Custom));
        scene.case(&backup, stage, fault).await;
    }
    for fault in [Fault::Psql, Fault::Server] {
        scene.trial(&backup, fault).await;
    }
}

#[tokio::test]
async fn a_restore_with_the_live_schema_aside_that_is_hit_ends_whole_as_well() {
    let scene = Scene::new(false).await;
    let backup = scene.test.backup(Export { format: Some(Format::Sql), ..export("acme") }).await;
    for (stage, fault) in
        [(Stage::Prepared, Fault::Worker), (Stage::Waiting, Fault::Server), (Stage::Swapping, Fault::Worker)]
    {
        scene.case(&backup, stage, fault).await;
    }
}

/// Every fault at every stage, for both ways and both kinds of dump.
#[cfg(feature = "slow-tests")]
#[tokio::test]
async fn every_fault_at_every_stage_ends_whole_and_leaves_nothing() {
    let (began, mut cases) = (Instant::now(), 0);
    for one_transaction in [true, false] {
        let scene = Scene::new(one_transaction).await;
        for format in [Format::Custom, Format::Sql] {
            let backup = scene.test.backup(Export { format: Some(format), ..export("acme") }).await;
            scene.comes_through_all(&backup).await;
            for stage in Stage::ALL.iter().copied() {
                for fault in Fault::ALL.into_iter().filter(|fault| fault.can_hit(stage, format)) {
                    scene.case(&backup, stage, fault).await;
                    cases += 1;
                }
            }
        }
    }
    println!("{cases} faults in {} s", began.elapsed().as_secs());
}

//! The queue on a real PostgreSQL: leases, fencing, turns, cancellation, and ten thousand jobs that run exactly once.

use crate::support;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use holdfast::{
    db,
    ids::{JobId, LeaseToken},
    jobs::{
        JobType,
        queue::{self, Claimed, Ending, Enqueued, Job, JobFilter, JobStatus, Lease, NewJob, QueueError, Renewal},
    },
    tenant::Scope,
};
use sqlx::PgPool;

const LONG: Duration = Duration::from_secs(60);

fn everything() -> Scope {
    Scope::everything("a test looks at all")
}

fn new_job(project: &str) -> NewJob {
    NewJob {
        id: JobId::generate(),
        job_type: JobType::ExportBackup,
        project_id: Some(project.to_owned()),
        payload: serde_json::json!({ "request": { "project_id": project } }),
        max_attempts: 3,
        priority: 0,
        created_by: "test".to_owned(),
        idempotency_key: None,
    }
}

async fn enqueue(pool: &PgPool, new: &NewJob) -> Job {
    let mut transaction = db::begin(pool).await.unwrap();
    let Enqueued::Now(job) = queue::enqueue(&mut transaction, new).await.unwrap() else { panic!("enqueued before") };
    transaction.commit().await.unwrap();
    job
}

async fn claim(pool: &PgPool, worker: &str) -> Option<Claimed> {
    queue::claim(pool, worker, LONG).await.unwrap()
}

/// Moves the database's idea of a lease into the past: the worker has given no sign of life for that long.
async fn let_lapse(pool: &PgPool, job: JobId) {
    sqlx::query("UPDATE control_plane.jobs SET lease_expires_at = now() - interval '1 second' WHERE id = $1")
        .bind(job.0)
        .execute(pool)
        .await
        .unwrap();
}

async fn job(pool: &PgPool, id: JobId) -> Job {
    queue::get(pool, &everything(), id).await.unwrap()
}

#[tokio::test]
async fn a_lapsed_lease_is_claimed_again_and_the_first_worker_can_write_nothing_more() {
    let pool = support::app::control_plane().await;
    let id = enqueue(&pool, &new_job("acme")).await.job_id();
    let first = claim(&pool, "first").await.unwrap();
    assert_eq!((first.job.attempts, first.was_lapsed), (1, false));
    assert!(claim(&pool, "second").await.is_none(), "a live lease is not given away");

    let_lapse(&pool, id).await;
    let second = claim(&pool, "second").await.unwrap();
    assert_eq!((second.job.job_id(), second.job.attempts, second.was_lapsed), (id, 2, true));

    let late = serde_json::json!({ "by": "first" });
    assert_eq!(queue::renew(&pool, first.lease, LONG, Some(&late)).await.unwrap(), Renewal::Lost);
    assert!(
        matches!(queue::end(&pool, first.lease, &Ending::Completed(&late)).await, Err(QueueError::LeaseLost(lost)) if lost == id)
    );
    assert!(matches!(queue::set_payload(&pool, first.lease, &late).await, Err(QueueError::LeaseLost(_))));
    let mut transaction = db::begin(&pool).await.unwrap();
    assert!(matches!(queue::fence(&mut transaction, first.lease).await, Err(QueueError::LeaseLost(_))));
    drop(transaction);

    let good = serde_json::json!({ "by": "second" });
    queue::end(&pool, second.lease, &Ending::Completed(&good)).await.unwrap();
    let ended = job(&pool, id).await;
    assert_eq!((ended.status(), ended.result, ended.progress), (Some(JobStatus::Completed), Some(good), None));
    assert!(matches!(queue::end(&pool, second.lease, &Ending::Failed("twice")).await, Err(QueueError::LeaseLost(_))));
}

#[tokio::test]
async fn a_renewed_lease_does_not_lapse_and_progress_is_kept() {
    let pool = support::app::control_plane().await;
    let id = enqueue(&pool, &new_job("acme")).await.job_id();
    let claimed = claim(&pool, "w").await.unwrap();
    let_lapse(&pool, id).await;
    let progress = serde_json::json!({ "stage": "dumping", "content_bytes": 7 });
    assert_eq!(queue::renew(&pool, claimed.lease, LONG, Some(&progress)).await.unwrap(), Renewal::Kept);
    assert!(claim(&pool, "other").await.is_none());
    assert_eq!(queue::renew(&pool, claimed.lease, LONG, None).await.unwrap(), Renewal::Kept);
    assert_eq!(job(&pool, id).await.progress, Some(progress));
}

#[tokio::test]
async fn one_project_has_one_job_running_and_projects_take_turns() {
    let pool = support::app::control_plane().await;
    for _ in 0..3 {
        enqueue(&pool, &new_job("greedy")).await;
    }
    enqueue(&pool, &new_job("patient")).await;
    let first = claim(&pool, "w1").await.unwrap();
    let second = claim(&pool, "w2").await.unwrap();
    assert_eq!(first.job.project_id.as_deref(), Some("greedy"));
    assert_eq!(second.job.project_id.as_deref(), Some("patient"));
    assert!(claim(&pool, "w3").await.is_none(), "greedy waits for its own first job");
    queue::end(&pool, first.lease, &Ending::Completed(&serde_json::json!({}))).await.unwrap();
    assert_eq!(claim(&pool, "w3").await.unwrap().job.project_id.as_deref(), Some("greedy"));
}

#[tokio::test]
async fn the_urgent_go_first_and_the_unknown_are_left_alone() {
    let pool = support::app::control_plane().await;
    enqueue(&pool, &new_job("a")).await;
    let urgent = NewJob { priority: 10, ..new_job("b") };
    enqueue(&pool, &urgent).await;
    sqlx::query("INSERT INTO control_plane.jobs (type, payload, priority) VALUES ('send_newsletter', '{}', 99)")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(claim(&pool, "w").await.unwrap().job.job_id(), urgent.id);
    assert_eq!(claim(&pool, "w").await.unwrap().job.project_id.as_deref(), Some("a"));
    assert!(claim(&pool, "w").await.is_none());
}

#[tokio::test]
async fn a_retry_waits_and_a_job_handed_back_keeps_its_attempts() {
    let pool = support::app::control_plane().await;
    let id = enqueue(&pool, &new_job("acme")).await.job_id();
    let claimed = claim(&pool, "w").await.unwrap();
    queue::end(&pool, claimed.lease, &Ending::HandedBack).await.unwrap();
    let claimed = claim(&pool, "w").await.unwrap();
    assert_eq!(claimed.job.attempts, 1, "the attempt that was handed back does not count");
    queue::end(&pool, claimed.lease, &Ending::Retry { message: "server is down", after: LONG }).await.unwrap();
    let waiting = job(&pool, id).await;
    assert_eq!(
        (waiting.status(), waiting.error_message.as_deref()),
        (Some(JobStatus::Pending), Some("server is down"))
    );
    assert!(claim(&pool, "w").await.is_none(), "it waits until its time has come");
    sqlx::query("UPDATE control_plane.jobs SET run_at = now() WHERE id = $1").bind(id.0).execute(&pool).await.unwrap();
    assert_eq!(claim(&pool, "w").await.unwrap().job.attempts, 2);
}

#[tokio::test]
async fn cancelling_ends_a_waiting_job_at_once_and_tells_a_running_one() {
    let pool = support::app::control_plane().await;
    let waiting = enqueue(&pool, &new_job("a")).await.job_id();
    let mut connection = pool.acquire().await.unwrap();
    assert_eq!(
        queue::request_cancel(&mut connection, &everything(), waiting).await.unwrap().status(),
        Some(JobStatus::Cancelled)
    );
    assert!(matches!(
        queue::request_cancel(&mut connection, &everything(), waiting).await,
        Err(QueueError::AlreadyEnded { .. })
    ));

    let running = enqueue(&pool, &new_job("b")).await.job_id();
    let claimed = claim(&pool, "w").await.unwrap();
    assert_eq!(
        queue::request_cancel(&mut connection, &everything(), running).await.unwrap().status(),
        Some(JobStatus::InProgress)
    );
    assert_eq!(queue::renew(&pool, claimed.lease, LONG, None).await.unwrap(), Renewal::CancelRequested);
    queue::end(&pool, claimed.lease, &Ending::Cancelled("cancelled")).await.unwrap();
    assert_eq!(job(&pool, running).await.status(), Some(JobStatus::Cancelled));
}

#[tokio::test]
async fn a_key_used_again_gives_the_same_job_and_another_request_is_refused() {
    let pool = support::app::control_plane().await;
    let first = NewJob { idempotency_key: Some("k".to_owned()), ..new_job("acme") };
    let id = enqueue(&pool, &first).await.job_id();
    let again = NewJob { id: JobId::generate(), ..first.clone() };
    let mut connection = pool.acquire().await.unwrap();
    let Enqueued::Before(job) = queue::enqueue(&mut connection, &again).await.unwrap() else {
        panic!("enqueued twice")
    };
    assert_eq!(job.job_id(), id);
    let other = NewJob {
        payload: serde_json::json!({ "request": { "project_id": "acme", "format": "tar" } }),
        ..again.clone()
    };
    assert!(matches!(queue::enqueue(&mut connection, &other).await, Err(QueueError::KeyReused)));
    let other_caller = NewJob { created_by: "someone else".to_owned(), ..again };
    assert!(matches!(queue::enqueue(&mut connection, &other_caller).await.unwrap(), Enqueued::Now(_)));
}

#[tokio::test]
async fn a_job_of_another_tenant_is_not_found() {
    let pool = support::app::control_plane().await;
    let id = enqueue(&pool, &new_job("acme")).await.job_id();
    let mut caller = holdfast::tenant::Caller::system("test");
    caller.role = holdfast::tenant::Role::Member;
    caller.project_ids = vec!["globex".parse().unwrap()];
    assert!(matches!(queue::get(&pool, &caller.scope(), id).await, Err(QueueError::NoSuchJob(_))));
    assert!(
        queue::list(&pool, &caller.scope(), &JobFilter { limit: 10, ..JobFilter::default() }).await.unwrap().is_empty()
    );
    let mut connection = pool.acquire().await.unwrap();
    assert!(matches!(queue::request_cancel(&mut connection, &caller.scope(), id).await, Err(QueueError::NoSuchJob(_))));
    caller.project_ids.push("acme".parse().unwrap());
    assert_eq!(queue::get(&pool, &caller.scope(), id).await.unwrap().job_id(), id);
}

#[tokio::test]
async fn two_workers_that_race_for_one_project_do_not_both_win() {
    let pool = support::app::control_plane().await;
    for round in 0..20 {
        let project = format!("p{round}");
        enqueue(&pool, &new_job(&project)).await;
        enqueue(&pool, &new_job(&project)).await;
        let (a, b, c) = tokio::join!(claim(&pool, "a"), claim(&pool, "b"), claim(&pool, "c"));
        let won: Vec<Claimed> = [a, b, c].into_iter().flatten().collect();
        assert_eq!(won.len(), 1, "round {round}");
        queue::end(&pool, won[0].lease, &Ending::Completed(&serde_json::json!({}))).await.unwrap();
        let rest = claim(&pool, "d").await.unwrap();
        queue::end(&pool, rest.lease, &Ending::Completed(&serde_json::json!({}))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_jobs_and_eight_workers_make_each_job_run_exactly_once() {
    let pool = support::app::control_plane().await;
    sqlx::query(
        "INSERT INTO control_plane.jobs (type, project_id, payload)
         SELECT 'export_backup', 'p' || (n % 500), jsonb_build_object('n', n) FROM generate_series(1, 10000) n",
    )
    .execute(&pool)
    .await
    .unwrap();
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let pool = pool.clone();
        workers.spawn(async move {
            let name = format!("w{worker}");
            let mut done: Vec<(JobId, LeaseToken)> = Vec::new();
            loop {
                let Some(Claimed { job, lease, .. }) = queue::claim(&pool, &name, LONG).await.unwrap() else {
                    let waiting: i64 = sqlx::query_scalar(
                        "SELECT count(*) FROM control_plane.jobs WHERE status IN ('pending', 'in_progress')",
                    )
                    .fetch_one(&pool)
                    .await
                    .unwrap();
                    if waiting == 0 {
                        return done;
                    }
                    tokio::task::yield_now().await;
                    continue;
                };
                queue::end(&pool, lease, &Ending::Completed(&serde_json::json!({ "by": name }))).await.unwrap();
                done.push((job.job_id(), lease.token));
            }
        });
    }
    let mut seen: HashMap<JobId, usize> = HashMap::new();
    let mut tokens: HashSet<LeaseToken> = HashSet::new();
    while let Some(done) = workers.join_next().await {
        for (job, token) in done.unwrap() {
            *seen.entry(job).or_default() += 1;
            assert!(tokens.insert(token), "a lease token was used twice");
        }
    }
    assert_eq!(seen.len(), 10_000);
    assert!(seen.values().all(|times| *times == 1));
    let (completed, attempts): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE status = 'completed'), sum(attempts)::bigint FROM control_plane.jobs",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((completed, attempts), (10_000, 10_000));
}

#[tokio::test]
async fn the_lease_that_fences_is_the_newest_one() {
    let pool = support::app::control_plane().await;
    let id = enqueue(&pool, &new_job("acme")).await.job_id();
    claim(&pool, "w").await.unwrap();
    let forged = Lease { job: id, token: LeaseToken::generate() };
    assert_eq!(queue::renew(&pool, forged, LONG, None).await.unwrap(), Renewal::Lost);
}

#[tokio::test]
async fn claims_use_the_index_however_many_jobs_have_ended() {
    let pool = support::app::control_plane().await;
    sqlx::query(
        "INSERT INTO control_plane.jobs (type, status, project_id) SELECT 'export_backup', 'completed', 'p' || (n % 100) FROM generate_series(1, 20000) n",
    )
    .execute(&pool)
    .await
    .unwrap();
    sqlx::query("ANALYZE control_plane.jobs").execute(&pool).await.unwrap();
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT id FROM control_plane.jobs WHERE status = 'pending' AND run_at <= now() AND type = ANY('{export_backup}')
         ORDER BY priority DESC, run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(plan.iter().any(|line| line.contains("idx_jobs_claim")), "{plan:#?}");
}

#[tokio::test]
async fn the_index_that_keeps_one_job_per_project_knows_every_type() {
    let pool = support::app::control_plane().await;
    let definition: String =
        sqlx::query_scalar("SELECT indexdef FROM pg_indexes WHERE indexname = 'idx_jobs_one_per_project'")
            .fetch_one(&pool)
            .await
            .unwrap();
    for known in JobType::ALL {
        assert!(definition.contains(&format!("'{known}'")), "{known} is not in {definition}");
    }
}

/// The same database through sessions that the server ends when their transaction is idle for so long.
async fn impatient(pool: &PgPool, idle: &str) -> PgPool {
    let options = (*pool.connect_options()).clone().options([("idle_in_transaction_session_timeout", idle)]);
    PgPool::connect_with(options).await.unwrap()
}

#[tokio::test]
async fn work_under_a_lease_that_takes_longer_than_an_idle_transaction_may_keeps_lease_and_success() {
    let pool = impatient(&support::app::control_plane().await, "1200ms").await;
    enqueue(&pool, &new_job("acme")).await;
    let lease_for = Duration::from_secs(3);
    let claimed = queue::claim(&pool, "w", lease_for).await.unwrap().unwrap();
    let work = async {
        tokio::time::sleep(Duration::from_millis(1800)).await; // the storage's answer takes so long
        Ok::<_, QueueError>("gone")
    };
    assert_eq!(queue::while_held(&pool, claimed.lease, lease_for, work).await.unwrap(), "gone");
    let left: f64 = sqlx::query_scalar(
        "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8 FROM control_plane.jobs",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(left > 2.0, "renewed at the end, though no other could renew it meanwhile: {left}");
    assert_eq!(queue::renew(&pool, claimed.lease, lease_for, None).await.unwrap(), Renewal::Kept);
}

#[tokio::test]
async fn work_under_a_lease_is_dropped_when_the_fence_is_lost_or_it_takes_too_long() {
    let pool = support::app::control_plane().await;
    let id = enqueue(&pool, &new_job("acme")).await.job_id();
    let lease_for = Duration::from_secs(2);
    let claimed = queue::claim(&pool, "w", lease_for).await.unwrap().unwrap();
    for is_lost in [true, false] {
        let (dropped, guard) = tokio::sync::oneshot::channel::<()>();
        let work = async {
            let _held_by_the_work = dropped;
            if is_lost {
                sqlx::query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND state = 'idle in transaction'",
                )
                .execute(&pool)
                .await?;
            }
            std::future::pending::<Result<(), QueueError>>().await
        };
        let ended = queue::while_held(&pool, claimed.lease, lease_for, work).await.unwrap_err();
        match ended {
            QueueError::LeaseLost(lost) => assert!(is_lost && lost == id),
            QueueError::TooSlow(slow) => assert!(!is_lost && slow == id),
            other => panic!("{other}"),
        }
        assert!(guard.await.is_err(), "the work is gone");
    }
    assert_eq!(queue::renew(&pool, claimed.lease, lease_for, None).await.unwrap(), Renewal::Kept, "the row is free");
}

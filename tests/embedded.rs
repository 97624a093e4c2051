//! The embedded cluster, made, shared, killed and found again.

use crate::support;

use std::{net::TcpListener, os::unix::fs::PermissionsExt, path::Path};

use holdfast::postgres::embedded::{EmbeddedCluster, EmbeddedError};
use sqlx::Connection;

async fn one(cluster: &EmbeddedCluster, database: &str) -> i32 {
    let mut connection = cluster.connect_info(database).connect().await.expect("the cluster answers");
    let one = sqlx::query_scalar("SELECT 1").fetch_one(&mut connection).await.expect("a row");
    connection.close().await.expect("closed");
    one
}

fn postmaster(data: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(data.join("postgres/postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
}

#[tokio::test]
async fn a_second_start_finds_what_the_first_one_left() {
    let (data, tools) = (support::reachable_directory(), support::tools().await);
    let cluster = EmbeddedCluster::open(data.path(), &tools).await.unwrap();
    cluster.create_database_if_missing("It's \"mine\"").await.unwrap();
    cluster.create_database_if_missing("It's \"mine\"").await.unwrap();
    assert_eq!(one(&cluster, "It's \"mine\"").await, 1);
    let port = cluster.port();
    cluster.close().await.unwrap();
    assert_eq!(postmaster(data.path()), None);
    // As an `initdb` that was interrupted leaves it.
    std::fs::create_dir_all(data.path().join("postgres.new/cluster/base")).unwrap();

    let cluster = EmbeddedCluster::open(data.path(), &tools).await.unwrap();
    assert_eq!(one(&cluster, "It's \"mine\"").await, 1);
    assert_eq!(cluster.port(), port);
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn an_interrupted_initdb_is_begun_again() {
    let (data, tools) = (support::reachable_directory(), support::tools().await);
    std::fs::create_dir_all(data.path().join("postgres.new/cluster/base")).unwrap();
    let cluster = EmbeddedCluster::open(data.path(), &tools).await.unwrap();
    assert_eq!(one(&cluster, "postgres").await, 1);
    cluster.close().await.unwrap();
    assert!(!data.path().join("postgres.new").exists());
}

#[tokio::test]
async fn the_password_is_private_and_needed_everywhere() {
    let (data, tools) = (support::reachable_directory(), support::tools().await);
    let cluster = EmbeddedCluster::open(data.path(), &tools).await.unwrap();
    let mode = data.path().join("postgres.password").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut info = cluster.connect_info("postgres");
    info.password = None;
    assert!(info.connect().await.is_err());
    info.host = "127.0.0.1".to_owned();
    assert!(info.connect().await.is_err());
    info.password = cluster.connect_info("postgres").password;
    let mut connection = info.connect().await.unwrap();
    let setting = "SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_catalog.pg_settings \
                   WHERE name IN ('listen_addresses', 'password_encryption')";
    let told: String = sqlx::query_scalar(setting).fetch_one(&mut connection).await.unwrap();
    assert_eq!(told, "127.0.0.1 scram-sha-256");
    let locale = "SELECT pg_catalog.pg_encoding_to_char(encoding) || ' ' || datcollate FROM pg_catalog.pg_database \
                  WHERE datname = 'postgres'";
    assert_eq!(sqlx::query_scalar::<_, String>(locale).fetch_one(&mut connection).await.unwrap(), "UTF8 C.UTF-8");
    drop(connection);
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn the_last_one_out_stops_it() {
    let (data, tools) = (support::reachable_directory(), support::tools().await);
    let (first, second) =
        tokio::join!(EmbeddedCluster::open(data.path(), &tools), EmbeddedCluster::open(data.path(), &tools));
    let (first, second) = (first.unwrap(), second.unwrap());
    let pid = postmaster(data.path());
    assert!(pid.is_some());
    first.close().await.unwrap();
    assert_eq!(postmaster(data.path()), pid);
    assert_eq!(one(&second, "postgres").await, 1);
    second.close().await.unwrap();
    assert_eq!(postmaster(data.path()), None);
}

#[tokio::test]
async fn a_cluster_that_is_dropped_can_be_opened_while_it_shuts_down() {
    let (data, tools) = (support::reachable_directory(), support::tools().await);
    drop(EmbeddedCluster::open(data.path(), &tools).await.unwrap());
    let cluster = EmbeddedCluster::open(data.path(), &tools).await.unwrap();
    assert_eq!(one(&cluster, "postgres").await, 1);
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn it_comes_back_after_the_server_was_killed() {
    let (data, tools) = (support::reachable_directory(), support::tools().await);
    let first = EmbeddedCluster::open(data.path(), &tools).await.unwrap();
    first.create_database_if_missing("kept").await.unwrap();
    // Still connected when the server goes: its backend must be gone before another server may start.
    let _connection = first.connect_info("kept").connect().await.unwrap();
    let pid = rustix::process::Pid::from_raw(postmaster(data.path()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let second = EmbeddedCluster::open(data.path(), &tools).await.unwrap();
    assert_eq!(one(&second, "kept").await, 1);
    // The number of a stranger in the pid file: our own.
    second.close().await.unwrap();
    first.close().await.unwrap();
    let stale = format!("{}\n{}\n0\n5432\n\n\n", std::process::id(), data.path().display());
    std::fs::write(data.path().join("postgres/postmaster.pid"), stale).unwrap();
    let third = EmbeddedCluster::open(data.path(), &tools).await.unwrap();
    assert_eq!(one(&third, "kept").await, 1);
    third.close().await.unwrap();
}

#[tokio::test]
async fn another_port_is_chosen_when_somebody_has_taken_it() {
    let (data, tools) = (support::reachable_directory(), support::tools().await);
    let cluster = EmbeddedCluster::open(data.path(), &tools).await.unwrap();
    let port = cluster.port();
    cluster.close().await.unwrap();
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let cluster = EmbeddedCluster::open(data.path(), &tools).await.unwrap();
    assert_ne!(cluster.port(), port);
    assert_eq!(one(&cluster, "postgres").await, 1);
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_the_unprivileged_user_cannot_enter_is_named() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else runs the cluster then, so there is nobody to be kept out.
        return;
    }
    let (private, tools) = (tempfile::tempdir().unwrap(), support::tools().await);
    std::fs::set_permissions(private.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let error = EmbeddedCluster::open(&private.path().join("data"), &tools).await.unwrap_err();
    let private = private.path().canonicalize().unwrap();
    assert!(matches!(&error, EmbeddedError::NotTraversable { directory, .. } if *directory == private), "{error}");
    assert!(error.to_string().contains("HOLDFAST_DATA_DIR"), "{error}");
}

#[tokio::test]
async fn a_cluster_of_another_version_is_not_started() {
    let (data, tools) = (support::reachable_directory(), support::tools().await);
    std::fs::create_dir(data.path().join("postgres")).unwrap();
    std::fs::write(data.path().join("postgres/PG_VERSION"), "12\n").unwrap();
    let error = EmbeddedCluster::open(data.path(), &tools).await.unwrap_err();
    assert!(error.to_string().contains("made by PostgreSQL 12"), "{error}");
    assert!(error.to_string().contains("postgresql-12"), "{error}");
}

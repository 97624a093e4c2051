//! The control plane's database: the pool, safe transactions, migrations. SQL itself lives in `catalog/`, `history/`, `people/`,
//! `schedule/` and `jobs/queue.rs`.

mod adopt;
mod migrate;
mod public_view;

use std::time::Duration;

use sqlx::{
    PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use self::migrate::{MigrateError, migrate, pending};
use crate::{config::DatabaseConfig, postgres::connect::ConnectInfo};

/// Opens the pool. A connection is retired after 15 minutes and a statement may not hold a transaction open idle, so that one lost
/// client cannot block the queue.
pub async fn connect(info: &ConnectInfo, config: &DatabaseConfig) -> Result<PgPool, sqlx::Error> {
    pool_options(config).connect_with(options(info)).await
}

/// The same for a database that may be down: the first connection is made when it is needed, and given up sooner, because its caller has
/// other things to do.
pub fn connect_lazily(info: &ConnectInfo, config: &DatabaseConfig) -> PgPool {
    pool_options(config).acquire_timeout(Duration::from_secs(3)).connect_lazy_with(options(info))
}

/// With keepalives, the server finds out within a minute that a client's host is dead, and frees what its session had locked; by default
/// that takes hours. On a Unix socket the server ignores them.
fn options(info: &ConnectInfo) -> PgConnectOptions {
    info.options().options([
        // Filters that are not asked for are `$1 IS NULL OR …`: a plan that fits all values at once would use an index for none of them.
        ("plan_cache_mode", "force_custom_plan"),
        // Compiling a plan takes longer than any of our questions.
        ("jit", "off"),
        ("idle_in_transaction_session_timeout", "60s"),
        ("tcp_keepalives_idle", "30"),
        ("tcp_keepalives_interval", "10"),
        ("tcp_keepalives_count", "3"),
    ])
}

fn pool_options(config: &DatabaseConfig) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(Duration::from_secs(10))
        .max_lifetime(Duration::from_secs(15 * 60))
}

/// Begins a transaction on a task of its own: when the caller is cancelled meanwhile, the transaction is still rolled back before
/// its connection returns to the pool. (A cancelled `Pool::begin` hands back a connection with an open transaction: sqlx issue 4385.)
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    #[allow(clippy::disallowed_methods, reason = "this is the helper that makes it safe")]
    let task = tokio::spawn(async move { pool.begin().await });
    task.await.map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?
}

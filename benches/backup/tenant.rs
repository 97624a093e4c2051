//! The made-up tenant: the same rows each time, of the kinds that tenants have, and in the order of their keys.

use anyhow::Result;
use holdfast::byte_size::ByteSize;
use sqlx::{AssertSqlSafe, Executor};

use crate::server::Server;

pub const SCHEMA: &str = "tenant_bench";
/// The same tables, each twice.
pub const TWICE: &str = "tenant_bench_twice";

/// Makes it with about `size` bytes of table data (without indexes) and gives what it has become.
///
/// Nothing here is random. Numbers come from the row's number by multiplication with primes, what must not compress from `md5`.
pub async fn make(server: &Server, size: ByteSize) -> Result<u64> {
    // Rows for 1 MB of data, measured on PostgreSQL 15; of it 45 % orders, 40 % log, 10 % blobs, 5 % accounts.
    let megabytes = size.0 as f64 / 1e6;
    let rows = |of_one: f64| ((megabytes * of_one) as u64).max(1);
    let (accounts, orders, log, blobs) = (rows(460.0), rows(1_360.0), rows(2_700.0), rows(14.0));
    let statements = format!(
        "CREATE SCHEMA {SCHEMA};
         SET search_path = {SCHEMA};
         CREATE TYPE state AS ENUM ('open', 'paid', 'sent', 'returned');
         CREATE TABLE accounts (
             id bigint GENERATED ALWAYS AS IDENTITY, email text NOT NULL, full_name text NOT NULL, balance numeric(12, 2) NOT NULL,
             is_active boolean NOT NULL, created_at timestamptz NOT NULL
         );
         CREATE TABLE orders (
             id bigint NOT NULL, account_id bigint NOT NULL, state state NOT NULL, total numeric(12, 2) NOT NULL,
             document jsonb NOT NULL, placed_at timestamptz NOT NULL
         );
         CREATE TABLE log (id bigint NOT NULL, at timestamptz NOT NULL, level text NOT NULL, message text NOT NULL);
         CREATE TABLE blobs (id bigint NOT NULL, name text NOT NULL, content bytea NOT NULL);
         ALTER TABLE blobs ALTER content SET STORAGE EXTERNAL;
         INSERT INTO accounts (email, full_name, balance, is_active, created_at)
             SELECT 'user' || i || '@' || left(md5(i::text), 6) || '.example',
                 (ARRAY['Ada','Grace','Edsger','Barbara','Donald','Radia'])[1 + i % 6] || ' '
                     || (ARRAY['Lovelace','Hopper','Dijkstra','Liskov','Knuth','Perlman','Hamilton'])[1 + i * 5 % 7],
                 (i * 7919 % 10000000) / 100.0, i % 11 <> 0, timestamptz '2024-01-01' + i * interval '97 seconds'
             FROM generate_series(1, {accounts}::bigint) AS i;
         INSERT INTO orders
             SELECT i, 1 + i * 7919 % {accounts}, (enum_range(NULL::state))[1 + i % 4], (i * 104729 % 5000000) / 100.0,
                 jsonb_build_object(
                     'lines', jsonb_build_array(
                         jsonb_build_object('sku', 'SKU-' || i * 31 % 20011, 'quantity', 1 + i % 5, 'price', (i * 13 % 9973) / 100.0),
                         jsonb_build_object('sku', 'SKU-' || i * 37 % 20011, 'quantity', 1 + i % 3, 'price', (i * 17 % 9973) / 100.0)),
                     'note', (ARRAY['please ring twice', 'leave it with the neighbours', '', 'a present, no invoice inside'])[1 + i % 4],
                     'track', left(md5(i::text), 16)),
                 timestamptz '2024-01-01' + i * interval '53 seconds'
             FROM generate_series(1, {orders}::bigint) AS i;
         INSERT INTO log
             SELECT i, timestamptz '2024-01-01' + i * interval '11 seconds',
                 (ARRAY['info', 'info', 'info', 'warning', 'error'])[1 + i % 5],
                 format('%s /api/%s/%s answered %s in %s ms for 10.%s.%s.%s',
                     (ARRAY['GET', 'POST', 'GET', 'DELETE'])[1 + i % 4], (ARRAY['orders', 'accounts', 'files'])[1 + i % 3],
                     i * 7919 % 1000003, (ARRAY[200, 200, 201, 404, 500])[1 + i % 5], i * 31 % 1999, i % 251, i * 3 % 241, i * 7 % 239)
                     || ' request=' || left(md5(i::text), 20)
             FROM generate_series(1, {log}::bigint) AS i;
         INSERT INTO blobs
             SELECT i, 'file-' || i || '.bin',
                 (SELECT string_agg(decode(md5(i || '/' || part), 'hex'), '' ORDER BY part) FROM generate_series(1, 500) AS part)
             FROM generate_series(1, {blobs}::bigint) AS i;
         ALTER TABLE accounts ADD PRIMARY KEY (id);
         ALTER TABLE orders ADD PRIMARY KEY (id), ADD FOREIGN KEY (account_id) REFERENCES accounts;
         CREATE INDEX ON orders (account_id);
         ALTER TABLE log ADD PRIMARY KEY (id);
         ALTER TABLE blobs ADD PRIMARY KEY (id);
         CREATE VIEW open_orders AS SELECT * FROM orders WHERE state = 'open';"
    );
    let mut connection = server.connect().await?;
    connection.execute(AssertSqlSafe(format!("SET search_path = pg_catalog; {statements}"))).await?;
    settle(&mut connection, SCHEMA).await
}

/// Makes [`TWICE`].
pub async fn make_twice(server: &Server) -> Result<u64> {
    let mut connection = server.connect().await?;
    connection.execute(AssertSqlSafe(format!("CREATE SCHEMA {TWICE}"))).await?;
    for table in ["accounts", "orders", "log", "blobs"] {
        for copy in 1..=2 {
            let make = format!("CREATE TABLE {TWICE}.{table}_{copy} AS TABLE {SCHEMA}.{table}");
            connection.execute(AssertSqlSafe(make)).await?;
        }
    }
    settle(&mut connection, TWICE).await
}

pub async fn drop_twice(server: &Server) -> Result<()> {
    server.connect().await?.execute(AssertSqlSafe(format!("DROP SCHEMA {TWICE} CASCADE"))).await?;
    Ok(())
}

/// What a server in service has long done: hint bits and statistics are there, and pages are on disk.
async fn settle(connection: &mut sqlx::PgConnection, schema: &str) -> Result<u64> {
    connection.execute("VACUUM (ANALYZE)").await?;
    connection.execute("CHECKPOINT").await?;
    let bytes: i64 = sqlx::query_scalar(
        "SELECT sum(pg_catalog.pg_table_size(oid))::pg_catalog.int8 FROM pg_catalog.pg_class \
         WHERE relnamespace = ($1::pg_catalog.text)::pg_catalog.regnamespace AND relkind = 'r'",
    )
    .bind(schema)
    .fetch_one(connection)
    .await?;
    Ok(bytes.unsigned_abs())
}

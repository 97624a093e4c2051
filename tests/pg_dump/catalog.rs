//! What the catalog says beside the counts.

use holdfast::{
    manifest::{DumpScope, ExtensionRequirement},
    postgres::inspect::{self, Locks, Selection},
};

use super::database::{Database, LARGE, schema_with};

#[tokio::test]
async fn what_a_schema_needs_from_outside_is_listed() {
    let mut database = Database::new().await;
    let role = format!("role_{}", uuid::Uuid::now_v7().simple());
    let reader = format!("{role}_reader");
    database.run(format!("CREATE ROLE {role}; CREATE ROLE {reader}")).await;
    database
        .run(format!(
            "CREATE SCHEMA shared; CREATE SCHEMA extensions; CREATE SCHEMA s AUTHORIZATION {role};
             CREATE EXTENSION hstore SCHEMA extensions; CREATE EXTENSION pg_trgm SCHEMA extensions;
             CREATE EXTENSION citext SCHEMA s; CREATE EXTENSION pgcrypto SCHEMA extensions;
             CREATE TABLE shared.countries (code text PRIMARY KEY, CHECK (code <> ''));
             CREATE TYPE shared.colour AS ENUM ('red');
             CREATE DOMAIN shared.positive AS int CHECK (VALUE > 0);
             CREATE VIEW shared.codes AS SELECT code FROM shared.countries;
             CREATE FUNCTION shared.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TABLE shared.points_here (x int);
             CREATE TABLE s.things (
                 id serial PRIMARY KEY, country text REFERENCES shared.countries, tags extensions.hstore[],
                 colours shared.colour[], n shared.positive, whole shared.points_here, name s.citext, big oid);
             CREATE INDEX ON s.things USING gin (country extensions.gin_trgm_ops);
             CREATE TRIGGER touch BEFORE UPDATE ON s.things FOR EACH ROW EXECUTE FUNCTION shared.touch();
             CREATE VIEW s.codes AS SELECT c.code FROM shared.codes c JOIN pg_catalog.pg_class p ON true;
             ALTER TABLE s.things ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON s.things TO {reader} USING (true);
             ALTER TABLE s.things OWNER TO {role};
             ALTER TABLE shared.points_here ADD FOREIGN KEY (x) REFERENCES s.things;
             CREATE VIEW shared.looks_in AS SELECT id FROM s.things;
             CREATE FUNCTION s.quick() RETURNS int LANGUAGE internal AS 'int4pl';
             CREATE PUBLICATION p FOR TABLE s.things;
             SELECT lo_create(0);"
        ))
        .await;
    let scope = DumpScope::Schema { schema: "s".into() };
    let found = inspect::requirements(&mut database.connection, &scope).await.unwrap();
    let version = |extension: &ExtensionRequirement| !extension.version.is_empty();
    assert!(found.extensions.iter().all(version));
    let extensions: Vec<_> = found.extensions.iter().map(|e| (e.name.as_str(), e.schema.as_str())).collect();
    assert_eq!(
        extensions,
        [("citext", "s"), ("hstore", "extensions"), ("pg_trgm", "extensions")],
        "not pgcrypto; plpgsql only through the trigger of another schema"
    );
    let owner_of_citext = database.info.user.clone();
    assert!(found.roles.contains(&role) && found.roles.contains(&reader), "{:?}", found.roles);
    assert!(found.roles.iter().all(|r| [&role, &reader, &owner_of_citext].contains(&r)), "{:?}", found.roles);
    let objects: Vec<_> =
        found.objects.iter().map(|o| (o.kind.as_str(), o.identity.as_str(), o.name.as_deref())).collect();
    assert_eq!(
        objects,
        [
            ("function", "shared.touch()", None),
            ("table", "shared.countries", Some("countries")),
            ("table", "shared.points_here", Some("points_here")),
            ("type", "shared.colour", None),
            ("type", "shared.positive", None),
            ("view", "shared.codes", Some("codes")),
        ]
    );
    assert_eq!(
        found.not_restorable,
        [
            "function s.quick() (written in the language internal)",
            "large objects (s.things.big may refer to some)",
            "publication relation s.things in publication p",
        ]
    );
    database.run(format!("DROP SCHEMA s CASCADE; DROP ROLE {reader}; DROP ROLE {role}")).await;
    database.end().await;
}

#[tokio::test]
async fn schemas_of_tenants_are_discovered() {
    let mut database = Database::new().await;
    for schema in ["tenant_b", "tenant_A", "tenantx", "hf_before_tenant_b", "Tenant_c", "tenant_"] {
        database.run(schema_with(schema, "x")).await;
    }
    let found = inspect::schemas_like_tenant(&mut database.connection).await.unwrap();
    assert_eq!(found, ["tenant_A", "tenant_b"]);
    assert_eq!(inspect::schema_oid(&mut database.connection, "tenant_x").await.unwrap(), None);
    assert!(inspect::schema_oid(&mut database.connection, "tenant_b").await.unwrap().is_some());
    database.end().await;
}

#[tokio::test]
async fn a_size_can_be_told_of_a_locked_table_too() {
    let mut database = Database::new().await;
    database.run(LARGE).await;
    database.run("ANALYZE s.large").await;
    let scope = DumpScope::Schema { schema: "s".into() };
    let mut other = database.info.connect().await.unwrap();
    let exact = inspect::content_size(&mut other, &scope).await.unwrap();
    database.run("BEGIN; LOCK TABLE s.large IN ACCESS EXCLUSIVE MODE").await;
    let estimate = inspect::content_size(&mut other, &scope).await.unwrap();
    assert!((30_000_000..50_000_000).contains(&exact), "{exact}");
    assert!((30_000_000..=exact).contains(&estimate), "{estimate}");
    database.run("ROLLBACK").await;
    database.end().await;
}

#[tokio::test]
async fn counting_in_a_transaction_gives_its_locks_back() {
    let mut database = Database::new().await;
    database
        .run(
            "CREATE SCHEMA s; DO $$ BEGIN FOR n IN 1..60 LOOP EXECUTE format('CREATE TABLE s.t%s (id serial PRIMARY KEY, \
             x int UNIQUE)', n); END LOOP; END $$",
        )
        .await;
    let connection = &mut database.connection;
    let scope = DumpScope::Schema { schema: "s".into() };
    let selection = Selection { locks: Locks::GivenBack, ..Selection::from(&scope) };
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *connection).await.unwrap();
    let tables = inspect::tables(connection, selection).await.unwrap();
    inspect::lock(connection, &tables).await.unwrap();
    assert_eq!(inspect::table_rows(connection, selection).await.unwrap().len(), 60);
    assert_eq!(inspect::sequences(connection, selection).await.unwrap().len(), 60);
    let locked: Vec<(String, i64)> = sqlx::query_as(
        "SELECT c.relkind::text, count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
         WHERE l.pid = pg_backend_pid() AND c.relnamespace = 's'::regnamespace GROUP BY 1",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    assert_eq!(locked, [("r".to_owned(), 60)], "the tables, and no index or sequence");
    database.end().await;
}

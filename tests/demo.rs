//! The sample platform, the comparison of pictures, and the demonstration as a real process.

use crate::support;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use holdfast::demo::{compare, sample};
use sqlx::{AssertSqlSafe, PgConnection};

async fn run(c: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(c).await.unwrap();
}

#[tokio::test]
async fn the_sample_platform_is_made_once_and_mended_when_ruined() {
    let info = support::fresh_database("demo").await;
    let mut c = support::connect(&info).await;
    let tenants = sample::create(&mut c).await.unwrap();
    let mut before = Vec::new();
    for tenant in &tenants {
        before.push(compare::snapshot(&mut c, tenant.schema).await.unwrap());
    }
    assert!(before.iter().all(|picture| picture.rows() > 5_000 && picture.tables.len() > 20));
    assert_ne!(before[0].tables["products"].digest, before[1].tables["products"].digest);

    assert_eq!(sample::create(&mut c).await.unwrap(), tenants);
    assert!(!sample::create_tenant(&mut c, "tenant_acme", 9).await.unwrap());
    assert_eq!(compare::snapshot(&mut c, "tenant_acme").await.unwrap(), before[0]);

    sample::ruin(&mut c, "tenant_acme").await.unwrap();
    let ruined = compare::snapshot(&mut c, "tenant_acme").await.unwrap();
    let differences = compare::diff(&before[0], &ruined);
    for wanted in [
        "table customers: ",
        "table Order Items: ",
        "table events_2024: 0 rows",
        "table shipments: gone",
        "order_total",
    ] {
        assert!(differences.iter().any(|line| line.contains(wanted)), "{wanted} in {differences:#?}");
    }
    for (tenant, before) in tenants.iter().zip(&before).skip(1) {
        assert_eq!(compare::snapshot(&mut c, tenant.schema).await.unwrap(), *before);
    }

    // A run that was killed after the ruin: the next one finds the same data again.
    sample::create(&mut c).await.unwrap();
    assert_eq!(compare::diff(&before[0], &compare::snapshot(&mut c, "tenant_acme").await.unwrap()), [""; 0]);
}

#[tokio::test]
async fn a_tenant_may_have_any_name_and_the_same_seed_gives_the_same_data() {
    let info = support::fresh_database("demo").await;
    let mut c = support::connect(&info).await;
    let long = "ß".repeat(31);
    let mut digests = Vec::new();
    for name in
        ["MySchema", "myschema", "tenant*", "a.b", "q\"q", "-x", "--file=/x", "a|b", "$$ '; \\", "{schema}", &long]
    {
        assert!(sample::create_tenant(&mut c, name, 1).await.unwrap(), "{name}");
        let picture = compare::snapshot(&mut c, name).await.unwrap();
        digests.push(picture.tables["customers"].clone());
        assert!(picture.object_count() > 150, "{name}: {picture:?}");
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn the_comparison_notices_each_kind_of_change() {
    let info = support::fresh_database("demo").await;
    let mut c = support::connect(&info).await;
    sample::create_tenant(&mut c, "t", 1).await.unwrap();
    let before = compare::snapshot(&mut c, "t").await.unwrap();
    for (change, wanted) in [
        ("UPDATE t.products SET name = name || ' ' WHERE id = 7", "table products: 80 rows, with other content"),
        ("DELETE FROM t.notes WHERE id = 3", "table notes: "),
        ("UPDATE t.odd_values SET ratio = 'NaN' WHERE id = 2", "table odd_values"),
        ("CREATE TABLE t.more ()", "table more: new, with 0 rows"),
        ("GRANT SELECT ON t.sessions TO hf_demo_readonly", "table sessions: newly granted: SELECT to hf_demo_readonly"),
        ("REVOKE SELECT (name) ON t.customers FROM hf_demo_readonly", "column customers.name: no longer granted"),
        (
            "REVOKE ALL ON t.feature_flags FROM hf_demo_readonly, PUBLIC, CURRENT_USER",
            "table feature_flags: no longer granted",
        ),
        ("ALTER DEFAULT PRIVILEGES IN SCHEMA t REVOKE SELECT ON TABLES FROM hf_demo_readonly", "future objects"),
        ("GRANT CREATE ON SCHEMA t TO hf_demo_readonly", "schema t: newly granted: CREATE"),
        ("ALTER TABLE t.orders OWNER TO hf_demo_app", "table orders: owned by hf_demo_app"),
        ("ALTER SCHEMA t OWNER TO hf_demo_app", "schema t: owned by hf_demo_app"),
        (
            "CREATE OR REPLACE VIEW t.open_orders AS SELECT id, customer_id, status, (total).amount AS cents FROM t.orders",
            "view open_orders: defined otherwise",
        ),
        ("ALTER SEQUENCE t.invoice_numbers NO CYCLE", "sequence invoice_numbers: defined otherwise"),
        ("ALTER TABLE t.orders RENAME COLUMN note TO remark", "column orders.remark: new"),
        ("ALTER TABLE t.documents DISABLE ROW LEVEL SECURITY", "table documents: defined otherwise"),
        ("ALTER TABLE t.employees ENABLE TRIGGER asleep", "trigger asleep on employees: defined otherwise"),
        (
            "ALTER TABLE t.invoices VALIDATE CONSTRAINT paid_in_this_century",
            "constraint paid_in_this_century on t.invoices: defined otherwise",
        ),
        ("DROP POLICY own_documents ON t.documents", "policy own_documents on documents: gone"),
        ("DROP INDEX t.orders_open", "index orders_open: gone"),
        ("DROP RULE keep_the_log ON t.audit_log", "rule keep_the_log on audit_log: gone"),
        ("ALTER TYPE t.order_status ADD VALUE 'lost'", "type order_status: defined otherwise"),
        ("COMMENT ON TABLE t.customers IS 'other'", "comment table t.customers: defined otherwise"),
        (
            "CREATE OR REPLACE FUNCTION t.lower_kind() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "function lower_kind(): defined otherwise",
        ),
    ] {
        // Undone by its transaction, so that each is seen alone.
        run(&mut c, &format!("BEGIN; {change};")).await;
        let after = compare::snapshot_within(&mut c, "t").await.unwrap();
        run(&mut c, "ROLLBACK").await;
        let lines = compare::diff(&before, &after);
        assert!(lines.iter().any(|line| line.starts_with(wanted)), "{change}: {lines:#?}");
    }
    assert_eq!(compare::diff(&before, &compare::snapshot(&mut c, "t").await.unwrap()), [""; 0]);
    // These no transaction undoes.
    run(&mut c, "SELECT nextval('t.invoice_numbers'), setval('t.\"Never Used\"', -3)").await;
    let lines = compare::diff(&before, &compare::snapshot(&mut c, "t").await.unwrap());
    assert_eq!(
        lines,
        ["sequence Never Used: at -3 instead of -3 (unused)", "sequence invoice_numbers: at 5825 instead of 5820"]
    );
    run(&mut c, "DROP SCHEMA t CASCADE").await;
    assert_eq!(compare::snapshot(&mut c, "t").await.unwrap(), compare::Picture::default());
}

fn demo(data_dir: &Path) -> Command {
    // PostgreSQL's and Holdfast's own variables of whoever runs the tests stay outside.
    let kept = ["PATH", "HOME", "LANG", "TMPDIR"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command
        .args(["demo", "--exit"])
        .env_clear()
        .envs(kept)
        .env("HOLDFAST_DATA_DIR", data_dir)
        .env("HOLDFAST_LISTEN", "127.0.0.1:0")
        // Not used: the demonstration stays away from what is configured for real data.
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing");
    command
}

fn data_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    // The embedded PostgreSQL runs as another user when this one is root, and must be able to pass through.
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    directory
}

fn assert_shown(output: &Output) {
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{errors}");
    for wanted in ["✓ acme     as it was", "✓ globex   not touched", "✓ initech  not touched", "/docs", "age.key"]
    {
        assert!(out.contains(wanted), "{wanted} in {out}\n{errors}");
    }
    assert!(!out.contains("AGE-SECRET-KEY") && !errors.contains("panicked"), "{out}\n{errors}");
}

#[test]
fn the_demonstration_runs_twice_on_one_data_directory() {
    let directory = data_directory();
    for _ in 0..2 {
        assert_shown(&demo(&directory.path().join("data")).output().unwrap());
    }
}

#[test]
fn the_demonstration_puts_right_what_a_killed_one_left() {
    let directory = data_directory();
    let data_dir = directory.path().join("data");
    let mut child = demo(&data_dir).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // Acme is ruined by then, and its restore is asked for or under way.
    let killed_at = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find(|line| line.starts_with("6. Restore acme"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(killed_at.is_some());
    assert_shown(&demo(&data_dir).output().unwrap());
}

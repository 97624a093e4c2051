//! A tenant's function that runs while rows are loaded finds everything in the hands of the restore's role: also what the platform owns.

use holdfast::{
    artifact::Format,
    jobs::{
        queue::Job,
        request::{self, Export, RestoreRequest},
    },
    proof_record::ProofLevel,
};
use sqlx::AssertSqlSafe;

use crate::{
    proof::trials::rewrite,
    support::{
        self,
        app::{TestApp, caller, export},
    },
    swap::leftovers,
};

/// A platform's table and view beside a tenant's functions, in one schema.
fn mixed(platform: &str, tenant: &str) -> String {
    format!(
        "CREATE ROLE {platform}; CREATE ROLE {tenant};
         CREATE SCHEMA tenant_acme AUTHORIZATION {platform}; GRANT USAGE, CREATE ON SCHEMA tenant_acme TO {tenant};
         CREATE TABLE tenant_acme.book (id int PRIMARY KEY, note varchar DEFAULT 'none'); INSERT INTO tenant_acme.book VALUES (1);
         ALTER TABLE tenant_acme.book ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON tenant_acme.book USING (note = current_user);
         CREATE VIEW tenant_acme.looks AS SELECT b.id FROM tenant_acme.book b WHERE b.note IN ('a', 'b');
         ALTER TABLE tenant_acme.book OWNER TO {platform}; ALTER VIEW tenant_acme.looks OWNER TO {platform};
         CREATE FUNCTION tenant_acme.price(who text DEFAULT 'none') RETURNS text LANGUAGE sql AS 'SELECT who';
         ALTER FUNCTION tenant_acme.price(text) OWNER TO {platform};
         CREATE FUNCTION tenant_acme.asks() RETURNS bigint LANGUAGE sql
             BEGIN ATOMIC SELECT count(*) FROM tenant_acme.book WHERE note IN ('a', 'b'); END;
         ALTER FUNCTION tenant_acme.asks() OWNER TO {platform};
         CREATE FUNCTION tenant_acme.mine() RETURNS text LANGUAGE sql AS 'SELECT current_user::text';
         CREATE FUNCTION tenant_acme.hook() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE FUNCTION tenant_acme.late() RETURNS bool LANGUAGE sql AS 'SELECT true';
         CREATE TABLE tenant_acme.trap (n int CHECK (tenant_acme.late())); INSERT INTO tenant_acme.trap VALUES (1);
         CREATE TABLE tenant_acme.page (id int NOT NULL, note varchar DEFAULT 'none'); ALTER TABLE tenant_acme.page OWNER TO {tenant};
         ALTER TABLE tenant_acme.trap OWNER TO {tenant}; ALTER FUNCTION tenant_acme.mine() OWNER TO {tenant};
         ALTER FUNCTION tenant_acme.hook() OWNER TO {tenant}; ALTER FUNCTION tenant_acme.late() OWNER TO {tenant}"
    )
}

#[tokio::test]
async fn what_a_tenants_code_changes_of_the_platforms_while_it_is_loaded_is_not_given_back_to_the_platform() {
    let test = TestApp::new().await;
    let mut c = test.tenants().await;
    let mark = uuid::Uuid::now_v7().simple().to_string();
    let (platform, tenant) = (format!("platform_{mark}"), format!("tenant_{mark}"));
    let run = async |c: &mut sqlx::PgConnection, sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(c).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    };
    run(&mut c, mixed(&platform, &tenant)).await;
    test.add_schema_project("acme", "tenant_acme").await;
    let late = |attack: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION tenant_acme.late() RETURNS bool LANGUAGE plpgsql AS $f$
             BEGIN
                 IF current_user LIKE 'hf\\_restore\\_%' THEN {attack}; END IF;
                 RETURN true;
             END $f$"
        )
    };
    // How a restore ends while which the tenant's function does this; and whether the live schema is as before.
    let attempt = async |c: &mut sqlx::PgConnection, attack: &str| -> (Job, bool) {
        run(&mut *c, late(attack)).await;
        let before = support::schema_dump(&test.app.control, "tenant_acme").await;
        let backup = test.backup(export("acme")).await;
        let job = test.restore(&backup).await;
        assert_eq!(leftovers(c, &test).await, Vec::<String>::new(), "{attack}");
        (job, support::schema_dump(&test.app.control, "tenant_acme").await == before)
    };

    // The server writes the view and the parsed body otherwise after a restore, and they mean the same.
    let (harmless, _) = attempt(&mut c, "PERFORM 1").await;
    assert_eq!(harmless.status, "completed", "{:?}", harmless.error_message);
    assert_eq!(harmless.result.as_ref().unwrap()["outcome"], "verified", "{:?}", harmless.result);

    const VIEW: &str = "CREATE OR REPLACE VIEW tenant_acme.looks AS SELECT id + 1 AS id FROM tenant_acme.book";
    for (attack, named) in [
        (VIEW, "view tenant_acme.looks"),
        ("ALTER TABLE tenant_acme.book ALTER note SET DEFAULT tenant_acme.mine()", "column tenant_acme.book.note"),
        ("CREATE POLICY open ON tenant_acme.book USING (true)", "policy open on tenant_acme.book"),
        (
            "CREATE TRIGGER hook BEFORE INSERT ON tenant_acme.book FOR EACH ROW EXECUTE FUNCTION tenant_acme.hook()",
            "trigger hook on tenant_acme.book",
        ),
        // It runs as whoever calls the platform's function.
        (
            "CREATE OR REPLACE FUNCTION tenant_acme.price(who text DEFAULT tenant_acme.mine()) RETURNS text LANGUAGE sql AS 'SELECT who'",
            "function tenant_acme.price",
        ),
        (
            "EXECUTE 'CREATE OR REPLACE FUNCTION tenant_acme.asks() RETURNS bigint LANGUAGE sql \
             BEGIN ATOMIC SELECT count(*) FROM tenant_acme.book; END'",
            "function tenant_acme.asks",
        ),
        ("ALTER FUNCTION tenant_acme.asks() SECURITY DEFINER", "function tenant_acme.asks"),
        ("ALTER TABLE tenant_acme.book ADD CHECK (tenant_acme.mine() <> '')", "on tenant_acme.book"),
        // An UPDATE of the platform's table would fire the tenant's trigger.
        (
            "CREATE TABLE tenant_acme.kid () INHERITS (tenant_acme.book); \
             CREATE TRIGGER hook BEFORE UPDATE ON tenant_acme.kid FOR EACH ROW EXECUTE FUNCTION tenant_acme.hook()",
            "table tenant_acme.kid",
        ),
        ("ALTER TABLE tenant_acme.page INHERIT tenant_acme.book", "table tenant_acme.page"),
    ] {
        let (job, is_untouched) = attempt(&mut c, attack).await;
        assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "{attack}: {:?}", job.result);
        let message = job.error_message.unwrap();
        assert!(message.contains("changed code that is not its own") && message.contains(named), "{attack}: {message}");
        assert!(is_untouched, "{attack}");
    }

    // Also where the tenant has asked for no proof.
    run(&mut c, late(VIEW)).await;
    let unproved = test.backup(Export { proof: Some(ProofLevel::Off), ..export("acme") }).await;
    let message = test.restore(&unproved).await.error_message.unwrap_or_default();
    assert!(message.contains("view tenant_acme.looks"), "{message}");

    // What it hangs on single tables, of which nothing of the kind comes out of the dump; also where no definitions were recorded.
    const TRIGGER: &str =
        "CREATE TRIGGER late BEFORE UPDATE ON tenant_acme.book FOR EACH ROW EXECUTE FUNCTION tenant_acme.hook()";
    for (is_defined, attack, refused) in [
        (true, "PERFORM 1", None),
        (false, "PERFORM 1", None),
        (true, TRIGGER, Some("trigger late on tenant_acme.book")),
        (false, TRIGGER, Some("trigger late on tenant_acme.book")),
        (
            true,
            "ALTER TABLE tenant_acme.book ALTER note SET DEFAULT tenant_acme.mine()",
            Some("column tenant_acme.book.note"),
        ),
    ] {
        run(&mut c, late(attack)).await;
        // FORCE comes with a single table, and ENABLE does not.
        run(&mut c, "ALTER TABLE tenant_acme.book FORCE ROW LEVEL SECURITY".to_owned()).await;
        let backup = test.backup(Export { format: Some(Format::Custom), ..export("acme") }).await;
        if !is_defined {
            rewrite(&test, &backup, |content| {
                let proof = content["proof"].as_object_mut().unwrap();
                proof.retain(|fact, _| !fact.starts_with("definition"));
            })
            .await;
        }
        let tables = vec!["book".to_owned(), "trap".to_owned()];
        let request = RestoreRequest { tables, ..RestoreRequest::in_place(backup.backup_id()) };
        let job = request::restore(&test.app, &caller(), &request, None).await.unwrap();
        let job = test.run(job.job_id()).await;
        match refused {
            None => {
                let result = job.result.unwrap_or_default();
                assert_eq!(result["outcome"], "verified", "{:?} {result}", job.error_message);
                run(&mut c, format!("DROP SCHEMA {} CASCADE", result["schema"].as_str().unwrap())).await;
            }
            Some(named) => {
                let message = job.error_message.unwrap_or_default();
                assert!(message.contains("changed code that is not its own"), "{attack}: {message} {:?}", job.result);
                assert!(message.contains(named), "{attack}: {message}");
            }
        }
        assert_eq!(leftovers(&mut c, &test).await, Vec::<String>::new(), "{attack}");
    }

    // Where all is one owner's, it can do so at any time: told, not refused.
    for what in [
        "FUNCTION tenant_acme.mine()",
        "FUNCTION tenant_acme.hook()",
        "FUNCTION tenant_acme.late()",
        "TABLE tenant_acme.trap",
        "TABLE tenant_acme.page",
    ] {
        run(&mut c, format!("ALTER {what} OWNER TO {platform}")).await;
    }
    let (told, _) = attempt(&mut c, VIEW).await;
    assert_eq!(told.status, "completed", "{:?}", told.error_message);
    let differences = told.result.unwrap()["differences"].to_string();
    assert!(differences.contains("view tenant_acme.looks: definition"), "{differences}");
    run(&mut c, "DROP SCHEMA tenant_acme CASCADE".to_owned()).await;
    run(&mut c, format!("DROP OWNED BY {platform}, {tenant} CASCADE; DROP ROLE {platform}, {tenant}")).await;
}

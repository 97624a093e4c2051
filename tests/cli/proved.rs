//! How much is proved, and what a backup's own page says of it.

use sqlx::Executor;

use super::{Holdfast, support};

#[tokio::test]
async fn how_much_is_proved_is_set_for_a_project_or_a_request_and_shown_with_what_a_trial_found() {
    let (holdfast, info) = Holdfast::on_fresh_database().await;
    let tenant = "CREATE SCHEMA tenant_acme; CREATE TABLE tenant_acme.orders AS SELECT 1 AS x;
        CREATE PUBLICATION outside FOR TABLE tenant_acme.orders";
    support::connect(&info).await.execute(tenant).await.unwrap();
    holdfast.run(&["migrate"]).expect(0);
    holdfast.run(&["project", "add", "acme", "--name", "Acme"]).expect(0);
    for (code, wrong) in [
        (2, &["acme", "--proof", "some"][..]),
        (2, &["acme", "--retention-days", "0"]),
        (2, &["acme", "--storage", "tape"]),
        (2, &["acme", "--max-rate", "1 B"]),
        (2, &["acme", "--max-rate", "fast"]),
        (2, &["acme", "--status", "asleep"]),
        (3, &["nobody", "--proof", "off"]),
    ] {
        holdfast.run(&[&["project", "set"], wrong].concat()).expect(code);
    }
    holdfast.run(&["project", "set", "acme", "--max-rate", "20 MiB"]).expect(0);
    let set = ["project", "set", "acme", "--proof", "counts", "--retention-days", "90", "--name", "Acme Ltd", "--json"];
    let set = holdfast.run(&set).expect(0).json();
    assert_eq!(set["max_rate"], "20 MiB");
    assert_eq!(
        (&set["proof"], &set["retention_days"], &set["name"], &set["storages"]),
        (&"counts".into(), &90.into(), &"Acme Ltd".into(), &serde_json::json!([]))
    );
    let shown = holdfast.run(&["project", "set", "acme"]).expect(0).stdout;
    assert!(shown.contains("counts") && shown.contains("90 days") && shown.contains("as configured"), "{shown}");
    assert!(shown.contains("20 MiB a second"), "{shown}");
    let unset = holdfast.run(&["project", "set", "acme", "--max-rate", "default", "--json"]).expect(0).json();
    assert_eq!(unset["max_rate"], serde_json::Value::Null);

    let counted = holdfast.run(&["backup", "acme", "--wait", "--json"]).expect(0).json();
    assert_eq!(counted["proof"], "counts");
    let whole = holdfast.run(&["backup", "acme", "--wait", "--json", "--proof", "full"]).expect(0).json();
    assert_eq!((&whole["proof"], &whole["recovery_seconds"]), (&"full".into(), &serde_json::Value::Null));
    assert!(whole["requirements"]["not_restorable"].to_string().contains("outside"), "{whole}");
    let id = whole["id"].as_str().unwrap();
    holdfast.run(&["verify", id, "--depth", "restore"]).expect(0);
    let shown = holdfast.run(&["show", id]).expect(0).stdout;
    for told in [
        "full: digests of all rows, definitions recorded",
        "restored in ",
        "as proved, ",
        "publication relation",
        "roles ",
    ] {
        assert!(shown.contains(told), "{told}: {shown}");
    }

    // A restore that brings something else than was there says so, by name and by its exit code.
    let role = format!("gone_{}", uuid::Uuid::now_v7().simple());
    let grant = format!("CREATE ROLE {role}; GRANT SELECT ON tenant_acme.orders TO {role}");
    support::connect(&info).await.execute(sqlx::AssertSqlSafe(grant)).await.unwrap();
    let granted = holdfast.run(&["backup", "acme", "--wait", "--json"]).expect(0).json();
    let revoke = format!("DROP OWNED BY {role}; DROP ROLE {role}; DROP PUBLICATION outside");
    support::connect(&info).await.execute(sqlx::AssertSqlSafe(revoke)).await.unwrap();
    let restored = holdfast.run(&["restore", granted["id"].as_str().unwrap(), "--confirm", "--wait"]).expect(6);
    assert!(restored.stdout.contains("outcome") && restored.stdout.contains("differences"), "{restored:?}");
    for told in ["completed with 2 differences", &role, "publication"] {
        assert!(restored.stderr.contains(told), "{told}: {restored:?}");
    }
    let default = holdfast.run(&["project", "set", "acme", "--proof", "default", "--json"]).expect(0).json();
    assert_eq!((&default["proof"], &default["retention_days"]), (&serde_json::Value::Null, &90.into()));
    assert_eq!(
        holdfast.run(&["backup", "acme", "--wait", "--json"]).expect(0).json()["proof"],
        "full",
        "the configuration's"
    );

    // Where no rows were counted nothing is called proved, nor different.
    let off = holdfast.run(&["backup", "acme", "--wait", "--json", "--proof", "off"]).expect(0).json();
    let id = off["id"].as_str().unwrap();
    let verified = holdfast.run(&["verify", id, "--depth", "restore", "--json"]).expect(0).json();
    assert_eq!((&verified["good"], &verified["verified_depth"]), (&true.into(), &"read".into()), "{verified}");
    for command in [&["verify", id, "--depth", "restore"][..], &["restore", id, "--confirm", "--wait"]] {
        let said = holdfast.run(command).expect(0);
        assert!(said.stderr.contains("no rows were counted to compare"), "{said:?}");
    }
    assert!(!holdfast.run(&["show", id]).expect(0).stdout.contains("as proved"));
}

#[tokio::test]
async fn the_doctor_reports_vulnerable_clients_and_a_database_that_is_called_like_our_own() {
    let (holdfast, info) = Holdfast::on_fresh_database().await;
    holdfast.run(&["migrate"]).expect(0);
    let warns = |holdfast: &Holdfast| {
        let findings = holdfast.run(&["doctor", "--json"]).json();
        let mut findings = findings.as_array().unwrap().clone();
        let told = ["vulnerable clients", "database holdfast-control-plane"];
        findings.retain(|finding| told.iter().any(|check| finding["check"] == *check));
        findings
    };
    assert_eq!(warns(&holdfast), Vec::<serde_json::Value>::new());
    sqlx::raw_sql(
        "INSERT INTO control_plane.databases (name, url_sealed, shown_as) VALUES ('holdfast-control-plane', 'x', 'x')",
    )
    .execute(&mut support::connect(&info).await)
    .await
    .unwrap();
    let found = warns(&holdfast.with("HOLDFAST_RESTORE_ALLOW_VULNERABLE_CLIENTS", "true"));
    assert_eq!(
        (found.len(), &found[0]["status"], &found[1]["status"]),
        (2, &"warn".into(), &"warn".into()),
        "{found:?}"
    );
    assert!(found[0].to_string().contains("CVE-2026-116314"));
    assert!(found[1]["remedy"].as_str().unwrap().contains("under another name"));
}

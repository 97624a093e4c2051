//! Replaced schemas that are dropped in several transactions: each takes about what was counted, because nothing is dropped before what
//! depends on it.

use holdfast::ids::RestoreId;

use super::run;
use crate::{restore_engine::scene::Scene, support};

const KEPT: &str = "hf_before_0123456789ab";

/// What was dropped in one statement: its transaction, its tag, tables and all objects.
type Dropped = (i64, String, i64, i64);

/// Writes down what each statement drops.
const WATCH: &str = "
    CREATE SCHEMA watch; CREATE SEQUENCE watch.statements;
    CREATE TABLE watch.dropped (statement bigint, transaction bigint, tag text, type text, identity text);
    CREATE FUNCTION watch.look() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_catalog.nextval('watch.statements');
        INSERT INTO watch.dropped SELECT pg_catalog.currval('watch.statements'), pg_catalog.txid_current(), tg_tag, object_type, object_identity
            FROM pg_catalog.pg_event_trigger_dropped_objects();
    END $$;
    CREATE EVENT TRIGGER look ON sql_drop EXECUTE FUNCTION watch.look();";

/// Drops the schema and tells of every statement.
async fn dropped(made: &str) -> Vec<Dropped> {
    let info = support::fresh_database("parts").await;
    let scene = Scene::over(info, "parts".to_owned()).await;
    scene.sql(&format!("CREATE SCHEMA {KEPT}; SET search_path = {KEPT}; {made}")).await;
    scene.sql(WATCH).await;
    let mut c = scene.admin.connect().await.unwrap();
    let oid: i64 = sqlx::query_scalar("SELECT oid::int8 FROM pg_namespace WHERE nspname = $1")
        .bind(KEPT)
        .fetch_one(&mut c)
        .await
        .unwrap();
    let plan = scene.engine.plan_schema(RestoreId::generate(), "nothing").await.unwrap();
    let mut session = scene.engine.open(&plan).await.unwrap();
    let oid = u32::try_from(oid).unwrap();
    assert!(session.drop_side(KEPT, oid).await.unwrap());
    assert!(!session.drop_side(KEPT, oid).await.unwrap(), "it is gone");
    session.close().await;
    let dropped = "SELECT transaction, tag, count(*) FILTER (WHERE type IN ('table', 'view', 'materialized view')), count(*) \
                   FROM watch.dropped GROUP BY statement, transaction, tag ORDER BY statement";
    let told = sqlx::query_as(dropped).fetch_all(&mut c).await.unwrap();
    run(&mut c, "DROP EVENT TRIGGER look").await;
    told
}

/// Every statement but the last drops one relation and what is a part of it, and no transaction drops much more than it counts.
fn assert_in_parts(what: &str, dropped: &[Dropped]) {
    let (last, before) = dropped.split_last().unwrap();
    assert_eq!(last.1, "DROP SCHEMA", "{what}");
    let together: Vec<&Dropped> = before.iter().filter(|(_, _, relations, _)| *relations > 1).collect();
    assert!(together.is_empty(), "{what}: dropped with others: {together:?}");
    let mut transactions: Vec<i64> = dropped.iter().map(|(transaction, ..)| *transaction).collect();
    transactions.dedup();
    assert!(transactions.len() > 1, "{what}: {dropped:?}");
    for transaction in transactions {
        let objects: i64 = dropped.iter().filter(|(t, ..)| *t == transaction).map(|(.., objects)| objects).sum();
        assert!(objects <= 700, "{what}: {objects} objects in one transaction");
    }
}

#[tokio::test]
async fn partitions_of_every_level_are_dropped_before_what_they_are_partitions_of() {
    // Three levels, made from above, from below, and from the middle; and one whose parts are neither older nor newer than their wholes.
    let levels = |tree: &str, order: [&str; 3]| {
        let mut made: Vec<String> = Vec::new();
        for level in order {
            match level {
                "top" => made.push(format!("CREATE TABLE {tree} (a int, b int, c text, PRIMARY KEY (a, b)) PARTITION BY LIST (a)")),
                "middle" => made.extend((0..4).map(|i| {
                    format!("CREATE TABLE {tree}_{i} (a int NOT NULL, b int NOT NULL, c text, PRIMARY KEY (a, b)) PARTITION BY LIST (b)")
                })),
                _ => made.extend((0..4).flat_map(|i| (0..6).map(move |j| (i, j))).map(|(i, j)| {
                    format!("CREATE TABLE {tree}_{i}_{j} (a int NOT NULL, b int NOT NULL, c text, PRIMARY KEY (a, b))")
                })),
            }
        }
        made
    };
    let mut made = Vec::new();
    let mut attached = Vec::new();
    for (tree, order) in [
        ("down", ["top", "middle", "leaf"]),
        ("up", ["leaf", "middle", "top"]),
        ("out", ["middle", "top", "leaf"]),
        ("between", ["middle", "leaf", "top"]),
    ] {
        made.extend(levels(tree, order));
        // Leaves are attached to what is not attached yet, and in the other order.
        let leaves = (0..4).flat_map(|i| (0..6).map(move |j| (i, j)));
        let leaves: Vec<String> = leaves
            .map(|(i, j)| format!("ALTER TABLE {tree}_{i} ATTACH PARTITION {tree}_{i}_{j} FOR VALUES IN ({j})"))
            .collect();
        let middles: Vec<String> = (0..4)
            .rev()
            .map(|i| format!("ALTER TABLE {tree} ATTACH PARTITION {tree}_{i} FOR VALUES IN ({i})"))
            .collect();
        let is_up = order[0] == "leaf";
        attached.extend(if is_up { [leaves, middles].concat() } else { [middles, leaves].concat() });
    }
    assert_in_parts("partitions", &dropped(&[made, attached].concat().join(";")).await);
}

#[tokio::test]
async fn what_inherits_refers_looks_or_computes_is_dropped_before_what_it_depends_on() {
    let mut made: Vec<String> = vec![
        "CREATE TABLE people (id int PRIMARY KEY); CREATE TYPE mood AS ENUM ('good'); CREATE SEQUENCE numbers"
            .to_owned(),
    ];
    // Inherited on three levels, of two parents; the youngest is made first.
    made.extend((0..12).map(|i| format!("CREATE TABLE grandchild_{i} (a int, b int, c int)")));
    made.extend((0..4).map(|i| format!("CREATE TABLE child_{i} (a int, b int)")));
    made.push("CREATE TABLE parent (a int); CREATE TABLE other_parent (a int)".to_owned());
    made.extend(
        (0..4).map(|i| format!("ALTER TABLE child_{i} INHERIT parent; ALTER TABLE child_{i} INHERIT other_parent")),
    );
    made.extend((0..12).map(|i| format!("ALTER TABLE grandchild_{i} INHERIT child_{}", i % 4)));
    made.extend((0..60).map(|i| {
        format!(
            "CREATE TABLE work_{i} (id int PRIMARY KEY DEFAULT nextval('numbers'), who int REFERENCES people, how mood)"
        )
    }));
    made.extend((0..40).map(|i| {
        format!(
            "CREATE VIEW look_{i} AS SELECT id FROM {}",
            if i == 0 { "people".to_owned() } else { format!("look_{}", i - 1) }
        )
    }));
    made.extend(
        (0..300)
            .map(|i| format!("CREATE FUNCTION compute_{i}(INOUT mood, VARIADIC int[]) LANGUAGE sql AS 'SELECT $1'")),
    );
    made.push("CREATE PROCEDURE act(INOUT int) LANGUAGE sql AS 'SELECT 1'; CREATE AGGREGATE most(int) (SFUNC = int4larger, STYPE = int)".to_owned());
    made.extend((0..150).map(|i| {
        format!("CREATE TYPE pair_{i} AS (a mood, b int); CREATE DOMAIN small_{i} AS int CHECK (value < {i})")
    }));
    made.push("CREATE TYPE span AS RANGE (subtype = int4)".to_owned());
    let dropped = dropped(&made.join(";")).await;
    assert_in_parts("dependents", &dropped);
    let routines = dropped.iter().filter(|(_, tag, ..)| tag == "DROP ROUTINE").count();
    assert!(routines > 50, "routines go in parts too: {routines}");
}

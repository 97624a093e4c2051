//! What a restore may use outside its schema: exactly the objects that the manifest lists, looked up in the catalog.

use sqlx::PgConnection;

use super::{RestoreError, role::execute};
use crate::{
    manifest::{DatabaseContent, OutsideObject},
    postgres::quote::{ident, qualified},
};

/// Refuses a restore whose extensions are not there, or live inside the schema that is replaced.
pub(super) async fn check_extensions(
    c: &mut PgConnection,
    schema: &str,
    content: &DatabaseContent,
) -> Result<(), RestoreError> {
    let inside: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT e.extname::text FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_extension e ON e.extnamespace = n.oid \
         WHERE n.nspname = $1 \
         UNION SELECT DISTINCT e.extname::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid \
         CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i \
         WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e' AND i.schema = quote_ident($1) ORDER BY 1",
    )
    .bind(schema)
    .fetch_all(&mut *c)
    .await?;
    let recorded = content.requirements.extensions.iter().filter(|e| e.schema == schema).map(|e| e.name.clone());
    if let Some(name) = inside.into_iter().chain(recorded).next() {
        return Err(RestoreError::new(
            "restore.extension_inside",
            format!(
                "the extension {name:?} is installed in the schema {schema:?}: it cannot be replaced in place. \
                 Move the extension to another schema (ALTER EXTENSION … SET SCHEMA) and back the tenant up again"
            ),
        ));
    }
    for extension in &content.requirements.extensions {
        let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = $1)")
            .bind(&extension.name)
            .fetch_one(&mut *c)
            .await?;
        if !there {
            return Err(RestoreError::new(
                "restore.requirement_missing",
                format!("the backup needs the extension {:?}, which is not installed in this database", extension.name),
            ));
        }
    }
    Ok(())
}

/// Gives `role` what the dump needs of the outside objects, and no more than their owners' choice: a materialised view's rows may be
/// read only if a recorded owner of one of the backup's materialised views may read them now.
pub(super) async fn give(c: &mut PgConnection, role: &str, content: &DatabaseContent) -> Result<(), RestoreError> {
    let view_owners: Vec<String> =
        content.ownership.iter().filter(|o| o.kind == "materialized view").map(|o| o.owner.clone()).collect();
    for object in &content.requirements.objects {
        // pg_identify_object quotes a schema's name where that is needed.
        let schema: Option<String> = sqlx::query_scalar(
            "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE quote_ident(nspname) = $1 OR nspname::text = $1 \
             ORDER BY quote_ident(nspname) <> $1 LIMIT 1",
        )
        .bind(&object.schema)
        .fetch_optional(&mut *c)
        .await?;
        let object = &OutsideObject { schema: schema.unwrap_or_else(|| object.schema.clone()), ..object.clone() };
        let known = match object.kind.as_str() {
            "table" | "view" | "materialized view" | "foreign table" | "sequence" | "table column" => {
                relation(c, role, object, &view_owners).await?
            }
            "function" | "procedure" | "aggregate" => routine(c, role, object).await?,
            "type" => type_(c, role, object).await?,
            // What has no privileges of its own (operators, collations, …) needs its schema only.
            _ => true,
        };
        if !known {
            return Err(RestoreError::new(
                "restore.requirement_missing",
                format!("the backup needs the {} {}, which is not in this database", object.kind, object.identity),
            ));
        }
        let reachable: Option<bool> = sqlx::query_scalar(
            "SELECT has_schema_privilege($1::name, oid, 'USAGE') FROM pg_catalog.pg_namespace WHERE nspname = $2",
        )
        .bind(role)
        .bind(&object.schema)
        .fetch_optional(&mut *c)
        .await?;
        if reachable == Some(false) {
            execute(c, format!("GRANT USAGE ON SCHEMA {} TO {}", ident(&object.schema), ident(role))).await?;
        }
    }
    Ok(())
}

async fn relation(
    c: &mut PgConnection,
    role: &str,
    object: &OutsideObject,
    view_owners: &[String],
) -> Result<bool, RestoreError> {
    let Some(name) = &object.name else { return Ok(true) };
    let found: Option<(String, bool)> = sqlx::query_as(
        "SELECT c.relkind::text, EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($3::text[]) \
                                         AND c.relkind <> 'S' AND has_table_privilege(r.oid, c.oid, 'SELECT')) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
    )
    .bind(&object.schema)
    .bind(name)
    .bind(view_owners)
    .fetch_optional(&mut *c)
    .await?;
    let Some((kind, readable)) = found else { return Ok(false) };
    let target = qualified(&object.schema, name);
    let privileges = match (kind.as_str(), readable) {
        ("S", _) => format!("USAGE ON SEQUENCE {target}"),
        ("c" | "i" | "I", _) => return Ok(true),
        (_, true) => format!("REFERENCES, SELECT ON TABLE {target}"),
        (_, false) => format!("REFERENCES ON TABLE {target}"),
    };
    execute(c, format!("GRANT {privileges} TO {}", ident(role))).await?;
    Ok(true)
}

async fn routine(c: &mut PgConnection, role: &str, object: &OutsideObject) -> Result<bool, RestoreError> {
    // With their mode: without it, a procedure is known by its OUT arguments too, and another may have the same types.
    let found: Option<(String, bool)> = sqlx::query_as(
        "SELECT format('%I.%I(%s)', n.nspname, p.proname, \
                       (SELECT string_agg('IN ' || format_type(t.type, NULL), ', ' ORDER BY t.position) \
                        FROM unnest(p.proargtypes) WITH ORDINALITY AS t(type, position))), \
                has_function_privilege($3::name, p.oid, 'EXECUTE') \
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
         WHERE n.nspname = $1 AND (pg_identify_object('pg_catalog.pg_proc'::regclass, p.oid, 0)).identity = $2",
    )
    .bind(&object.schema)
    .bind(&object.identity)
    .bind(role)
    .fetch_optional(&mut *c)
    .await?;
    if let Some((reference, false)) = &found {
        execute(c, format!("GRANT EXECUTE ON ROUTINE {reference} TO {}", ident(role))).await?;
    }
    Ok(found.is_some())
}

async fn type_(c: &mut PgConnection, role: &str, object: &OutsideObject) -> Result<bool, RestoreError> {
    let found: Option<(String, bool)> = sqlx::query_as(
        "SELECT format('%I.%I', n.nspname, t.typname), t.typelem <> 0 OR has_type_privilege($3::name, t.oid, 'USAGE') \
         FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
         WHERE n.nspname = $1 AND (pg_identify_object('pg_catalog.pg_type'::regclass, t.oid, 0)).identity = $2",
    )
    .bind(&object.schema)
    .bind(&object.identity)
    .bind(role)
    .fetch_optional(&mut *c)
    .await?;
    if let Some((reference, false)) = &found {
        execute(c, format!("GRANT USAGE ON TYPE {reference} TO {}", ident(role))).await?;
    }
    Ok(found.is_some())
}
